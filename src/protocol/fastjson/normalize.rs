//! From fastjson's dialect to strict JSON.

use std::borrow::Cow;
use std::ops::Range;

use super::{FastJsonError, MAX_DEPTH};

/// Rewrites fastjson's dialect as strict JSON; strict JSON comes back borrowed and untouched.
///
/// Bare keys become strings. A raw object key becomes a string that holds the object's strict JSON text.
/// Single-quoted strings, escapes that only Java knows, raw control characters in strings, `NaN` and
/// trailing commas are accepted. Only the structure is checked here; serde_json judges the rest.
pub fn normalize(text: &str) -> Result<Cow<'_, str>, FastJsonError> {
    let mut scan = Scan::new(text, 0, false);
    scan.value(0)?;
    scan.skip_blanks();
    if scan.at < text.len() {
        return Err(FastJsonError::TrailingText { at: scan.at });
    }
    Ok(match scan.out {
        None => Cow::Borrowed(text),
        Some(mut out) => {
            out.push_str(&text[scan.copied..]);
            Cow::Owned(out)
        }
    })
}

/// One pass over the text. Positions where the text is cut are always beside an ASCII byte.
struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    /// The rewritten text up to `copied`; none while nothing had to be changed.
    out: Option<String>,
    copied: usize,
    /// Escaping doubles per level of raw keys, so there is one level only.
    in_raw_key: bool,
}

impl<'a> Scan<'a> {
    fn new(text: &'a str, at: usize, in_raw_key: bool) -> Self {
        Self { text, bytes: text.as_bytes(), at, out: None, copied: at, in_raw_key }
    }

    fn value(&mut self, depth: usize) -> Result<(), FastJsonError> {
        self.skip_blanks();
        match self.peek()? {
            b'{' => self.object(depth + 1),
            b'[' => self.array(depth + 1),
            quote @ (b'"' | b'\'') => self.string(quote),
            _ => {
                let token = self.token()?;
                if matches!(&self.text[token.clone()], "NaN" | "Infinity" | "-Infinity" | "undefined") {
                    self.replace(token, "null");
                }
                Ok(())
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<(), FastJsonError> {
        self.enter(depth)?;
        let mut comma = None;
        loop {
            self.skip_blanks();
            if self.peek()? == b'}' {
                return self.leave(comma);
            }
            self.key(depth)?;
            self.skip_blanks();
            if self.peek()? != b':' {
                return Err(FastJsonError::Unexpected { at: self.at });
            }
            self.at += 1;
            self.value(depth)?;
            self.skip_blanks();
            match self.peek()? {
                b',' => comma = Some(self.at),
                b'}' => return self.leave(None),
                _ => return Err(FastJsonError::Unexpected { at: self.at }),
            }
            self.at += 1;
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), FastJsonError> {
        self.enter(depth)?;
        let mut comma = None;
        loop {
            self.skip_blanks();
            if self.peek()? == b']' {
                return self.leave(comma);
            }
            self.value(depth)?;
            self.skip_blanks();
            match self.peek()? {
                b',' => comma = Some(self.at),
                b']' => return self.leave(None),
                _ => return Err(FastJsonError::Unexpected { at: self.at }),
            }
            self.at += 1;
        }
    }

    /// Steps over the opening bracket.
    fn enter(&mut self, depth: usize) -> Result<(), FastJsonError> {
        if depth > MAX_DEPTH {
            return Err(FastJsonError::TooDeep { at: self.at });
        }
        self.at += 1;
        Ok(())
    }

    /// Steps over the closing bracket and removes the comma that stood before it.
    fn leave(&mut self, trailing_comma: Option<usize>) -> Result<(), FastJsonError> {
        if let Some(comma) = trailing_comma {
            self.replace(comma..comma + 1, "");
        }
        self.at += 1;
        Ok(())
    }

    fn key(&mut self, depth: usize) -> Result<(), FastJsonError> {
        match self.peek()? {
            quote @ (b'"' | b'\'') => self.string(quote),
            b'{' => self.raw_key(depth),
            _ => {
                let token = self.token()?;
                let quoted = quote(&self.text[token.clone()]);
                self.replace(token, &quoted);
                Ok(())
            }
        }
    }

    fn raw_key(&mut self, depth: usize) -> Result<(), FastJsonError> {
        if self.in_raw_key {
            return Err(FastJsonError::NestedKey { at: self.at });
        }
        let start = self.at;
        let mut key = Scan::new(self.text, start, true);
        key.object(depth + 1)?;
        let end = key.at;
        let quoted = match key.out {
            None => quote(&self.text[start..end]),
            Some(mut out) => {
                out.push_str(&self.text[key.copied..end]);
                quote(&out)
            }
        };
        self.replace(start..end, &quoted);
        self.at = end;
        Ok(())
    }

    fn string(&mut self, quote: u8) -> Result<(), FastJsonError> {
        if quote == b'\'' {
            self.replace(self.at..self.at + 1, "\"");
        }
        self.at += 1;
        loop {
            let byte = self.peek()?;
            match byte {
                b'\\' => self.escape()?,
                _ if byte == quote => {
                    if quote == b'\'' {
                        self.replace(self.at..self.at + 1, "\"");
                    }
                    self.at += 1;
                    return Ok(());
                }
                b'"' => {
                    self.replace(self.at..self.at + 1, "\\\"");
                    self.at += 1;
                }
                0..=0x1f => {
                    self.replace(self.at..self.at + 1, &unicode_escape(byte));
                    self.at += 1;
                }
                _ => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<(), FastJsonError> {
        let Some(&escaped) = self.bytes.get(self.at + 1) else {
            return Err(FastJsonError::UnexpectedEnd);
        };
        let range = self.at..self.at + 2;
        match escaped {
            b'\'' => self.replace(range, "'"),
            b'v' => self.replace(range, "\\u000b"),
            b'0'..=b'7' => self.replace(range, &unicode_escape(escaped - b'0')),
            b'x' => self.replace(range, "\\u00"),
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' | b'u' => {}
            _ => return Err(FastJsonError::Unexpected { at: self.at + 1 }),
        }
        self.at += 2;
        Ok(())
    }

    /// A number or bare word: everything up to the next mark of structure.
    fn token(&mut self) -> Result<Range<usize>, FastJsonError> {
        let start = self.at;
        while let Some(byte) = self.bytes.get(self.at) {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b',' | b':' | b'{' | b'}' | b'[' | b']' | b'"' | b'\'' => {
                    break;
                }
                _ => self.at += 1,
            }
        }
        if self.at == start {
            return Err(FastJsonError::Unexpected { at: start });
        }
        Ok(start..self.at)
    }

    fn skip_blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Result<u8, FastJsonError> {
        let byte = self.bytes.get(self.at).copied();
        byte.ok_or(FastJsonError::UnexpectedEnd)
    }

    /// Puts `with` in the place of `range`, which lies at or behind everything replaced before.
    fn replace(&mut self, range: Range<usize>, with: &str) {
        let out = self.out.get_or_insert_with(|| String::with_capacity(self.text.len() + 64));
        out.push_str(&self.text[self.copied..range.start]);
        out.push_str(with);
        self.copied = range.end;
    }
}

fn unicode_escape(byte: u8) -> String {
    format!("\\u{byte:04x}")
}

/// `text` as a JSON string.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn normalized(text: &str) -> String {
        normalize(text).unwrap().into_owned()
    }

    #[test]
    fn strict_json_is_borrowed() {
        for text in
            [r#"{}"#, r#" {"a" : [1, -2.5e3, true, null, {"b":"\"c\u00e9\\"}], "d":{}} "#, r#""alone""#, "17"]
        {
            assert!(matches!(normalize(text), Ok(Cow::Borrowed(same)) if same == text));
        }
    }

    #[test]
    fn bare_keys_become_strings() {
        assert_eq!(
            normalized(r#"{0:"10.0.0.1:10911", 1 :"x",-3:{name:[{2:3}]}}"#),
            r#"{"0":"10.0.0.1:10911", "1" :"x","-3":{"name":[{"2":3}]}}"#
        );
    }

    #[test]
    fn raw_object_keys_become_strings_of_strict_json() {
        let text = r#"{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"T"}:{"maxOffset":10},{brokerName:'b',"queueId":1,"topic":"T"}:{}}}"#;
        let strict: Value = serde_json::from_str(&normalized(text)).unwrap();
        let table = &strict["offsetTable"];
        assert_eq!(table[r#"{"brokerName":"b","queueId":0,"topic":"T"}"#]["maxOffset"], 10);
        assert!(table[r#"{"brokerName":"b","queueId":1,"topic":"T"}"#].is_object());
    }

    #[test]
    fn java_leniency_is_accepted() {
        let text = "{'a':'it\\'s \"so\"',\"b\":NaN,\"c\":[1,2,],\"d\":\"\\x41\\v\\1\t\",}";
        let strict: Value = serde_json::from_str(&normalized(text)).unwrap();
        assert_eq!(strict, serde_json::json!({"a":"it's \"so\"","b":null,"c":[1,2],"d":"A\u{b}\u{1}\t"}));
    }

    #[test]
    fn malformed_text_is_an_error() {
        for text in ["", "{", "[1", r#"{"a""#, r#"{"a":"#, r#""\"#, "{,}", "{} x", "}", "[1 2]", "{[1]:2}"] {
            assert!(normalize(text).is_err(), "{text}");
        }
        assert!(matches!(normalize(&"[".repeat(1_000_000)), Err(FastJsonError::TooDeep { .. })));
        assert!(matches!(normalize(&"{".repeat(1_000_000)), Err(FastJsonError::NestedKey { .. })));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..6)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn strict_json_is_never_changed(value in any_json(), pretty: bool) {
            let text = if pretty {
                serde_json::to_string_pretty(&value).unwrap()
            } else {
                value.to_string()
            };
            prop_assert!(matches!(normalize(&text), Ok(Cow::Borrowed(same)) if same == text));
        }

        #[test]
        fn any_bytes_never_panic(bytes: Vec<u8>) {
            let _ = super::super::from_slice::<Value>(&bytes);
        }

        #[test]
        fn marks_of_structure_never_panic(text in r#"[{}\[\]:,"'\\0a\t é]{0,60}"#) {
            if let Ok(strict) = normalize(&text) {
                // What was rewritten once needs no rewriting.
                prop_assert!(matches!(normalize(&strict), Ok(Cow::Borrowed(_))), "{}", strict);
            }
        }
    }
}
