//! Java properties text: the bodies of codes 25, 26, 318, 319, and `broker.conf` files.
//!
//! RocketMQ: `MixAll.string2Properties`, `MixAll.properties2String` over `java.util.Properties`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Keys and values; of equal keys the last wins. Sorted, so that text written from it is stable.
pub type Properties = BTreeMap<String, String>;

/// A `\u` that four hexadecimal digits do not follow.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed unicode escape in properties at line {line}")]
pub struct PropertiesError {
    /// From 1; of the line the entry begins at.
    pub line: usize,
}

/// Reads `key=value` lines as Java does: `#` and `!` begin a comment, `=`, `:` or a blank ends the key, a
/// backslash escapes, and at the end of a line continues it.
pub fn parse(text: &str) -> Result<Properties, PropertiesError> {
    let mut properties = Properties::new();
    let mut lines = natural_lines(text).enumerate();
    while let Some((index, line)) = lines.next() {
        let start = line.trim_start_matches(is_blank);
        if start.is_empty() || start.starts_with(['#', '!']) {
            continue;
        }
        let mut entry = start.to_owned();
        while ends_in_continuation(&entry) {
            entry.pop();
            match lines.next() {
                Some((_, next)) => entry.push_str(next.trim_start_matches(is_blank)),
                None => break,
            }
        }
        let line = index + 1;
        let (key, value) = split_entry(&entry);
        properties.insert(unescape(key, line)?, unescape(value, line)?);
    }
    Ok(properties)
}

/// Writes `key=value` lines in the order of keys. Only what would read back differently is escaped, so that
/// the text of ordinary settings is plain, as RocketMQ writes it.
pub fn write<K: AsRef<str>, V: AsRef<str>>(properties: &BTreeMap<K, V>) -> String {
    let mut text = String::new();
    for (key, value) in properties {
        escape(key.as_ref(), Part::Key, &mut text);
        text.push('=');
        escape(value.as_ref(), Part::Value, &mut text);
        text.push('\n');
    }
    text
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{c}')
}

/// Lines ended by `\n`, `\r` or `\r\n`; the empty line that splitting `\r\n` leaves behind is harmless
/// except after a continuation, so the pair is one end here.
fn natural_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').flat_map(|line| {
        let line = line.strip_suffix('\r').unwrap_or(line);
        line.split('\r')
    })
}

/// Whether an odd number of backslashes stands at the end.
fn ends_in_continuation(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

fn split_entry(entry: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = entry.find(|c: char| {
        let ends = !escaped && (is_blank(c) || c == '=' || c == ':');
        escaped = !escaped && c == '\\';
        ends
    });
    let (key, rest) = entry.split_at(end.unwrap_or(entry.len()));
    let rest = rest.trim_start_matches(is_blank);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (key, rest.trim_start_matches(is_blank))
}

fn unescape(text: &str, line: usize) -> Result<String, PropertiesError> {
    if !text.contains('\\') {
        return Ok(text.to_owned());
    }
    // UTF-16, because two escapes may make one character.
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let plain = match c {
            '\\' => match chars.next() {
                Some('u') => {
                    let digits = chars.as_str().get(..4).ok_or(PropertiesError { line })?;
                    let hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                    let unit = u16::from_str_radix(digits, 16).ok().filter(|_| hex);
                    units.push(unit.ok_or(PropertiesError { line })?);
                    chars = chars.as_str()[4..].chars();
                    continue;
                }
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\u{c}',
                Some(other) => other,
                None => break,
            },
            other => other,
        };
        units.extend_from_slice(plain.encode_utf16(&mut [0; 2]));
    }
    Ok(String::from_utf16_lossy(&units))
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Key,
    Value,
}

fn escape(text: &str, part: Part, out: &mut String) {
    for (index, c) in text.chars().enumerate() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{c}' => out.push_str("\\f"),
            ' ' if part == Part::Key || index == 0 => out.push_str("\\ "),
            '=' | ':' if part == Part::Key => {
                out.push('\\');
                out.push(c);
            }
            '#' | '!' if part == Part::Key && index == 0 => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn properties(entries: &[(&str, &str)]) -> Properties {
        let owned = entries.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        owned.collect()
    }

    #[test]
    fn broker_conf_reads() {
        let text = "# a broker\r\n! too\n\nbrokerName = broker-a\r\nbrokerId:0\n  flushDiskType   ASYNC_FLUSH\nempty=\nbare\nnamesrvAddr=a:9876;\\\n    b:9876\nstorePathRootDir=C:\\\\store\nk\\ e\\=y=\\u00e9\\t!\n";
        assert_eq!(
            parse(text).unwrap(),
            properties(&[
                ("bare", ""),
                ("brokerId", "0"),
                ("brokerName", "broker-a"),
                ("empty", ""),
                ("flushDiskType", "ASYNC_FLUSH"),
                ("k e=y", "é\t!"),
                ("namesrvAddr", "a:9876;b:9876"),
                ("storePathRootDir", "C:\\store"),
            ])
        );
    }

    #[test]
    fn values_keep_inner_separators_and_trailing_blanks() {
        assert_eq!(
            parse("messageDelayLevel=1s 5s 10s \na=b=c:d\na=last").unwrap(),
            properties(&[("a", "last"), ("messageDelayLevel", "1s 5s 10s ")])
        );
    }

    #[test]
    fn written_text_is_sorted_and_plain() {
        let text = write(&properties(&[("b", "1s 5s"), ("a", "x:1=2"), ("#c d", " é\n")]));
        assert_eq!(text, "\\#c\\ d=\\ é\\n\na=x:1=2\nb=1s 5s\n");
    }

    #[test]
    fn malformed_unicode_escape_names_its_line() {
        for text in ["a=1\n\nb=\\u12", "a=1\n\nb=\\u+123", "a=1\n\nb=\\u12é4"] {
            assert_eq!(parse(text), Err(PropertiesError { line: 3 }));
        }
    }

    proptest! {
        #[test]
        fn written_properties_read_back(properties: BTreeMap<String, String>) {
            prop_assert_eq!(parse(&write(&properties)), Ok(properties));
        }

        #[test]
        fn any_text_never_panics(text: String, marks in "[\\\\u0-9a-f=:#! \r\né]{0,40}") {
            let _ = parse(&text);
            let _ = parse(&marks);
        }
    }
}
