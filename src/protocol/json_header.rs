//! Reading the JSON header of a command, with the tolerances that real clients need: unknown keys,
//! a missing `serializeTypeCurrentRPC`, ext field values that are numbers or booleans, numbers that are
//! strings, white space and newlines around the object.
//!
//! Written by hand because it is on the way of every message: texts stay where they were received.

use thiserror::Error;

use super::command::{Head, Language};
use super::ext_fields::{ExtFields, Span};

/// What is wrong with a JSON header, and where.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("JSON header is malformed at byte {at}: {what}")]
pub struct JsonHeaderError {
    pub at: usize,
    pub what: &'static str,
}

/// A string up to this length is looked at byte by byte.
const SHORT_BYTES: usize = 12;
/// Deepest nesting that is skipped in values nobody asked for.
const MAX_DEPTH: u32 = 32;

/// Reads the header that `fields` was made over into the fixed part and `fields`.
pub(super) fn read(fields: &mut ExtFields) -> Result<Head, JsonHeaderError> {
    let header = fields.header().clone();
    if std::str::from_utf8(&header).is_err() {
        return Err(JsonHeaderError { at: 0, what: "not UTF-8" });
    }
    let mut cursor = Cursor { text: &header, at: 0 };
    let mut head = Head::default();
    let mut has_code = false;
    cursor.object(|cursor| {
        let key = cursor.string(fields)?;
        cursor.expect(b':')?;
        match fields.raw(key) {
            b"code" => {
                head.code = cursor.int()?;
                has_code = true;
            }
            b"opaque" => head.opaque = cursor.int()?,
            b"flag" => head.flag = cursor.int()?,
            b"version" => head.version = cursor.int()?,
            b"language" => {
                if let Some(span) = cursor.scalar(fields)? {
                    head.language = Language::from_name(fields.text(span));
                }
            }
            b"remark" => {
                let span = cursor.scalar(fields)?;
                head.remark = span.map(|span| fields.text(span).to_owned()).filter(|text| !text.is_empty());
            }
            b"extFields" => {
                if cursor.peek() == Some(b'{') {
                    cursor.object(|cursor| {
                        let name = cursor.string(fields)?;
                        cursor.expect(b':')?;
                        if let Some(value) = cursor.scalar(fields)? {
                            fields.push(name, value);
                        }
                        Ok(())
                    })?;
                } else {
                    cursor.skip_value(0)?;
                }
            }
            _ => cursor.skip_value(0)?,
        }
        Ok(())
    })?;
    cursor.skip_blank();
    if cursor.text[cursor.at..].iter().any(|byte| !matches!(byte, b'\n' | b'\r' | b' ' | b'\t' | 0)) {
        return Err(cursor.error("text after the object"));
    }
    if !has_code {
        return Err(cursor.error("no code"));
    }
    Ok(head)
}

struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn error(&self, what: &'static str) -> JsonHeaderError {
        JsonHeaderError { at: self.at, what }
    }

    fn skip_blank(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.text.get(self.at) {
            self.at += 1;
        }
    }

    fn peek(&mut self) -> Option<u8> {
        self.skip_blank();
        self.text.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Result<(), JsonHeaderError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        Err(self.error(match byte {
            b':' => "a colon was expected",
            b'{' => "an object was expected",
            _ => "a quote was expected",
        }))
    }

    /// Walks `{ entry, entry … }`; `entry` reads one key and value.
    fn object(
        &mut self,
        mut entry: impl FnMut(&mut Self) -> Result<(), JsonHeaderError>,
    ) -> Result<(), JsonHeaderError> {
        self.expect(b'{')?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            entry(self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.error("a comma or the end of the object was expected")),
            }
        }
    }

    /// A string, left in place unless it holds escapes.
    fn string(&mut self, fields: &mut ExtFields) -> Result<Span, JsonHeaderError> {
        self.expect(b'"')?;
        let start = self.at;
        if self.find_quote_or_escape()? == b'"' {
            self.at += 1;
            return Ok(ExtFields::plain(start, self.at - 1));
        }
        fields.unescape(|out| {
            out.extend_from_slice(&self.text[start..self.at]);
            self.escaped_rest(out)
        })
    }

    /// Goes to the next quote or backslash, and says which it is.
    fn find_quote_or_escape(&mut self) -> Result<u8, JsonHeaderError> {
        // Most names and values are shorter than a search of many bytes at a time takes to begin.
        let near = self.text.len().min(self.at + SHORT_BYTES);
        while self.at < near {
            match self.text[self.at] {
                found @ (b'"' | b'\\') => return Ok(found),
                _ => self.at += 1,
            }
        }
        match memchr::memchr2(b'"', b'\\', &self.text[self.at..]) {
            Some(distance) => {
                self.at += distance;
                Ok(self.text[self.at])
            }
            None => {
                self.at = self.text.len();
                Err(self.error("a string does not end"))
            }
        }
    }

    fn escaped_rest(&mut self, out: &mut Vec<u8>) -> Result<(), JsonHeaderError> {
        loop {
            let run = self.at;
            let found = self.find_quote_or_escape()?;
            out.extend_from_slice(&self.text[run..self.at]);
            self.at += 1;
            if found == b'"' {
                return Ok(());
            }
            self.escape(out)?;
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), JsonHeaderError> {
        let byte = match self.text.get(self.at) {
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'r') => b'\r',
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'u') => {
                self.at += 1;
                return self.unicode_escape(out);
            }
            Some(&byte @ (b'"' | b'\\' | b'/' | b'\'')) => byte,
            _ => return Err(self.error("an unknown escape")),
        };
        out.push(byte);
        self.at += 1;
        Ok(())
    }

    fn unicode_escape(&mut self, out: &mut Vec<u8>) -> Result<(), JsonHeaderError> {
        let unit = self.hex4()?;
        let mut code = unit;
        if (0xD800..0xDC00).contains(&unit) && self.text[self.at..].starts_with(b"\\u") {
            let before = self.at;
            self.at += 2;
            let low = self.hex4()?;
            if (0xDC00..0xE000).contains(&low) {
                code = 0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
            } else {
                self.at = before;
            }
        }
        // Half a surrogate pair is no character; Java would keep it, UTF-8 cannot.
        let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    fn hex4(&mut self) -> Result<u32, JsonHeaderError> {
        let digits = self.text.get(self.at..self.at + 4).ok_or_else(|| self.error("a cut escape"))?;
        let mut code = 0;
        for digit in digits {
            let value =
                (*digit as char).to_digit(16).ok_or_else(|| self.error("an escape that is not hex"))?;
            code = code * 16 + value;
        }
        self.at += 4;
        Ok(code)
    }

    /// A string, number or boolean as text; `None` for null. Objects and arrays are refused.
    fn scalar(&mut self, fields: &mut ExtFields) -> Result<Option<Span>, JsonHeaderError> {
        match self.peek() {
            Some(b'"') => self.string(fields).map(Some),
            Some(b'{' | b'[') | None => Err(self.error("a text, number or boolean was expected")),
            Some(_) => {
                let start = self.at;
                self.bare_word()?;
                let word = &self.text[start..self.at];
                Ok((word != b"null").then(|| ExtFields::plain(start, self.at)))
            }
        }
    }

    fn bare_word(&mut self) -> Result<(), JsonHeaderError> {
        let start = self.at;
        while let Some(byte) = self.text.get(self.at) {
            if !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.' | b'_')) {
                break;
            }
            self.at += 1;
        }
        if self.at == start { Err(self.error("a value was expected")) } else { Ok(()) }
    }

    /// A whole number, quoted or not, wrapped to 32 bits as Java's parser does. Null counts as 0.
    fn int(&mut self) -> Result<i32, JsonHeaderError> {
        let quoted = self.peek() == Some(b'"');
        self.at += quoted as usize;
        let negative = self.text.get(self.at) == Some(&b'-');
        self.at += negative as usize;
        let start = self.at;
        let mut value: i64 = 0;
        while let Some(digit @ b'0'..=b'9') = self.text.get(self.at) {
            value = value.wrapping_mul(10).wrapping_add((digit - b'0') as i64);
            self.at += 1;
        }
        if self.at == start {
            if !quoted && self.text[self.at..].starts_with(b"null") {
                self.at += 4;
                return Ok(0);
            }
            return Err(self.error("a whole number was expected"));
        }
        if quoted {
            self.expect(b'"')?;
        }
        Ok(if negative { value.wrapping_neg() as i32 } else { value as i32 })
    }

    fn skip_value(&mut self, depth: u32) -> Result<(), JsonHeaderError> {
        if depth > MAX_DEPTH {
            return Err(self.error("nested too deeply"));
        }
        match self.peek() {
            Some(b'"') => self.skip_string(),
            Some(b'{') => self.object(|cursor| {
                cursor.peek();
                cursor.skip_string()?;
                cursor.expect(b':')?;
                cursor.skip_value(depth + 1)
            }),
            Some(b'[') => {
                self.at += 1;
                loop {
                    match self.peek() {
                        Some(b']') => break,
                        Some(b',') => self.at += 1,
                        Some(_) => self.skip_value(depth + 1)?,
                        None => return Err(self.error("an array does not end")),
                    }
                }
                self.at += 1;
                Ok(())
            }
            _ => self.bare_word(),
        }
    }

    fn skip_string(&mut self) -> Result<(), JsonHeaderError> {
        self.expect(b'"')?;
        while let Some(byte) = self.text.get(self.at) {
            self.at += 1;
            match byte {
                b'"' => return Ok(()),
                b'\\' => self.at += 1,
                _ => {}
            }
        }
        Err(self.error("a string does not end"))
    }
}
