//! How a message is written: by a pattern, as JSON, as a row of a table, or in full.

use serde_json::{Map, Value, json};

use super::output::{self, Column};
use crate::client::calendar;
use crate::protocol::message::StoredMessage;
use crate::protocol::message_id::offset_message_id;
use crate::protocol::properties::{self, names};

/// A message with its body opened.
pub struct Printable<'a> {
    pub message: &'a StoredMessage,
    pub broker_name: &'a str,
    pub body: &'a [u8],
}

impl Printable<'_> {
    fn property(&self, name: &str) -> &str {
        self.message.text(name)
    }

    /// Where it was sent: a message on its next attempt lies in a retry topic.
    fn topic(&self) -> &str {
        match self.property(names::RETRY_TOPIC) {
            "" => &self.message.topic,
            topic => topic,
        }
    }

    fn message_id(&self) -> String {
        match self.property(names::UNIQ_KEY) {
            "" => self.offset_message_id(),
            key => key.to_owned(),
        }
    }

    fn offset_message_id(&self) -> String {
        offset_message_id(self.message.store_host, self.message.physical_offset)
    }

    /// One row for [`ROW_COLUMNS`].
    pub fn row(&self) -> Vec<String> {
        let message = self.message;
        vec![
            calendar::format_ms(message.stored_at_ms),
            self.broker_name.to_owned(),
            message.queue_id.to_string(),
            message.queue_offset.to_string(),
            self.message_id(),
            self.property(names::TAGS).to_owned(),
            self.property(names::KEYS).to_owned(),
            shortened(self.body),
        ]
    }

    /// Everything that is known of it, a line for each fact, and its body.
    pub fn full(&self) -> String {
        let message = self.message;
        let mut text = output::facts(&[
            ("topic", self.topic().to_owned()),
            ("broker", self.broker_name.to_owned()),
            ("queue", message.queue_id.to_string()),
            ("offset", message.queue_offset.to_string()),
            ("message id", self.message_id()),
            ("offset message id", self.offset_message_id()),
            ("physical offset", message.physical_offset.to_string()),
            ("created", format!("{} at {}", calendar::format_ms(message.born_at_ms), message.born_host)),
            ("stored", calendar::format_ms(message.stored_at_ms)),
            ("earlier attempts", message.reconsume_times.to_string()),
            ("body", format!("{} bytes", self.body.len())),
        ]);
        for (name, value) in properties::pairs(&message.properties) {
            text += &format!("  {name} = {value}\n");
        }
        text += "\n";
        text += &match as_text(self.body) {
            Some(body) => body.to_owned(),
            None => hex_dump(self.body),
        };
        text
    }

    /// As one JSON object.
    pub fn json(&self) -> Value {
        let message = self.message;
        let pairs = properties::pairs(&message.properties);
        let all: Map<String, Value> = pairs.map(|(name, value)| (name.to_owned(), json!(value))).collect();
        let mut object = json!({
            "topic": self.topic(),
            "brokerName": self.broker_name,
            "queueId": message.queue_id.0,
            "queueOffset": message.queue_offset.0,
            "messageId": self.message_id(),
            "offsetMessageId": self.offset_message_id(),
            "keys": self.property(names::KEYS),
            "tag": self.property(names::TAGS),
            "bornAtMs": message.born_at_ms,
            "bornHost": message.born_host.to_string(),
            "storedAtMs": message.stored_at_ms,
            "reconsumeTimes": message.reconsume_times,
            "properties": all,
        });
        match str::from_utf8(self.body) {
            Ok(text) => object["body"] = json!(text),
            Err(_) => object["bodyBase64"] = json!(base64(self.body)),
        }
        object
    }
}

/// Headings of [`Printable::row`].
pub const ROW_COLUMNS: [Column; 8] = [
    Column::Text("STORED"),
    Column::Text("BROKER"),
    Column::Number("QUEUE"),
    Column::Number("OFFSET"),
    Column::Text("MESSAGE ID"),
    Column::Text("TAG"),
    Column::Text("KEYS"),
    Column::Text("BODY"),
];
/// Characters of a body in a row.
const ROW_BODY_CHARS: usize = 60;
/// Bytes of a body that is no text, when it is written in full.
const DUMP_BYTES: usize = 256;

/// A body that can be shown to people as it is.
fn as_text(body: &[u8]) -> Option<&str> {
    let text = str::from_utf8(body).ok()?;
    let is_odd = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    (!text.contains(is_odd)).then_some(text)
}

/// The beginning of a body, on one line.
fn shortened(body: &[u8]) -> String {
    let Some(text) = as_text(body) else { return format!("({} bytes)", body.len()) };
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match line.char_indices().nth(ROW_BODY_CHARS) {
        Some((end, _)) => format!("{}… ({} bytes)", &line[..end], body.len()),
        None => line,
    }
}

/// Sixteen bytes a line, in hex and as letters.
fn hex_dump(body: &[u8]) -> String {
    let mut text = String::new();
    for (n, line) in body.chunks(16).take(DUMP_BYTES / 16).enumerate() {
        let hex: String = line.iter().map(|byte| format!("{byte:02x} ")).collect();
        let letter = |byte: &u8| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' };
        let letters: String = line.iter().map(letter).collect();
        text += &format!("{:04x}  {hex:48} {letters}\n", n * 16);
    }
    if body.len() > DUMP_BYTES {
        text += &format!("… {} bytes more; -o json has them all\n", body.len() - DUMP_BYTES);
    }
    text
}

/// A pattern as given to `--format`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MessageFormat(Vec<Piece>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Piece {
    Text(String),
    Topic,
    Broker,
    Queue,
    Offset,
    Keys,
    Tag,
    Body,
    BodyLen,
    MessageId,
    Property(String),
    Properties,
    BornAt,
    StoredAt,
    ReconsumeTimes,
}

/// For the help text.
pub const FORMAT_HELP: &str = "\
Format:
  %t topic        %q queue     %o offset    %B broker    %i message id
  %k keys         %g tag       %b body      %s body length in bytes
  %p{NAME} the property NAME   %P all properties
  %T time stored  %C time created           %r earlier attempts
  %% a per cent sign, \\n line end, \\t tab, \\0 zero byte, \\\\ backslash";

impl MessageFormat {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => plain.push(match chars.next() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    Some('0') => '\0',
                    Some('\\') => '\\',
                    Some(other) => {
                        return Err(format!("\\{other} means nothing: use \\n, \\t, \\r, \\0 or \\\\"));
                    }
                    None => return Err("the format ends in a single backslash: write \\\\".to_owned()),
                }),
                '%' => {
                    let letter = chars.next().ok_or("the format ends in a single %: write %%".to_owned())?;
                    if letter == '%' {
                        plain.push('%');
                        continue;
                    }
                    let piece = match letter {
                        'p' => Piece::Property(name_in_braces(&mut chars)?),
                        letter => piece_of(letter)
                            .ok_or_else(|| format!("%{letter} means nothing: --help lists what does"))?,
                    };
                    if !plain.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut plain)));
                    }
                    pieces.push(piece);
                }
                c => plain.push(c),
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self(pieces))
    }

    /// Writes `message` as the pattern says.
    pub fn write(&self, message: &Printable<'_>, out: &mut Vec<u8>) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Body => out.extend_from_slice(message.body),
                piece => out.extend_from_slice(text_of(piece, message).as_bytes()),
            }
        }
    }
}

fn piece_of(letter: char) -> Option<Piece> {
    Some(match letter {
        't' => Piece::Topic,
        'B' => Piece::Broker,
        'q' => Piece::Queue,
        'o' => Piece::Offset,
        'k' => Piece::Keys,
        'g' => Piece::Tag,
        'b' => Piece::Body,
        's' => Piece::BodyLen,
        'i' => Piece::MessageId,
        'P' => Piece::Properties,
        'C' => Piece::BornAt,
        'T' => Piece::StoredAt,
        'r' => Piece::ReconsumeTimes,
        _ => return None,
    })
}

fn name_in_braces(chars: &mut std::str::Chars<'_>) -> Result<String, String> {
    let rest = chars.as_str();
    let name = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map(|(name, _)| name);
    let name = name.ok_or("a property is written %p{NAME}".to_owned())?;
    *chars = rest[name.len() + 2..].chars();
    Ok(name.to_owned())
}

fn text_of(piece: &Piece, message: &Printable<'_>) -> String {
    let stored = message.message;
    match piece {
        Piece::Text(_) | Piece::Body => String::new(), // written without a detour
        Piece::Topic => message.topic().to_owned(),
        Piece::Broker => message.broker_name.to_owned(),
        Piece::Queue => stored.queue_id.to_string(),
        Piece::Offset => stored.queue_offset.to_string(),
        Piece::Keys => message.property(names::KEYS).to_owned(),
        Piece::Tag => message.property(names::TAGS).to_owned(),
        Piece::BodyLen => message.body.len().to_string(),
        Piece::MessageId => message.message_id(),
        Piece::Property(name) => message.property(name).to_owned(),
        Piece::Properties => {
            let pairs = properties::pairs(&stored.properties);
            pairs.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        }
        Piece::BornAt => calendar::format_ms(stored.born_at_ms),
        Piece::StoredAt => calendar::format_ms(stored.stored_at_ms),
        Piece::ReconsumeTimes => stored.reconsume_times.to_string(),
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for sextet in 0..4 {
            let index = (bits >> (18 - 6 * sextet)) as usize & 63;
            text.push(if sextet <= chunk.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::types::{PhysicalOffset, QueueId, QueueOffset};

    fn message() -> StoredMessage {
        StoredMessage {
            topic: "T".into(),
            queue_id: QueueId(3),
            flag: 0,
            queue_offset: QueueOffset(42),
            physical_offset: PhysicalOffset(255),
            sys_flag: 0,
            born_at_ms: 0,
            born_host: "127.0.0.1:1".parse().unwrap(),
            stored_at_ms: 1_709_164_800_000,
            store_host: "127.0.0.1:10911".parse().unwrap(),
            reconsume_times: 2,
            prepared_transaction_offset: 0,
            crc: 0,
            body: Bytes::new(),
            properties: properties::encode([("KEYS", "k1 k2"), ("TAGS", "A"), ("colour", "red")]),
        }
    }

    fn formatted(format: &str, body: &[u8]) -> String {
        let mut out = Vec::new();
        let message = message();
        let printable = Printable { message: &message, broker_name: "b-a", body };
        MessageFormat::parse(format).unwrap().write(&printable, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_piece_is_written() {
        assert_eq!(formatted(r"%t %q %o %k %b\n", b"hi"), "T 3 42 k1 k2 hi\n");
        assert_eq!(formatted("%B|%g|%s|%r|%T", b"four"), "b-a|A|4|2|2024-02-29T00:00:00.000Z");
        assert_eq!(formatted(r"%p{colour}/%p{none}/100%%\t\\\0", b""), "red//100%\t\\\0");
        assert_eq!(formatted("%P", b""), "KEYS=k1 k2 TAGS=A colour=red");
        assert_eq!(formatted("%i", b""), "7F00000100002A9F00000000000000FF");
    }

    #[test]
    fn a_pattern_that_means_nothing_is_refused() {
        for text in ["%", "%z", "\\", "\\q", "%p", "%p{open"] {
            assert!(MessageFormat::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rows_are_one_line_and_say_what_they_leave_out() {
        let message = message();
        let body_of =
            |body: &[u8]| Printable { message: &message, broker_name: "b", body }.row().pop().unwrap();
        assert_eq!(body_of(b"two\nlines"), "two lines");
        assert_eq!(body_of(&[0, 1, 2]), "(3 bytes)");
        assert_eq!(body_of("ü".repeat(61).as_bytes()), format!("{}… (122 bytes)", "ü".repeat(60)));
    }

    #[test]
    fn in_full_a_body_that_is_no_text_is_dumped() {
        let message = message();
        let full = |body| Printable { message: &message, broker_name: "b", body }.full();
        assert!(full(b"text").ends_with("  colour = red\n\ntext"), "{}", full(b"text"));
        let dump = format!("\n\n0000  {:48} .A.\n", "ff 41 00");
        assert!(full(&[0xFF, b'A', 0]).ends_with(&dump), "{}", full(&[0xFF, b'A', 0]));
        assert!(full(&[0; 300]).ends_with("… 44 bytes more; -o json has them all\n"));
    }

    #[test]
    fn json_keeps_bytes_that_are_no_text() {
        let message = message();
        let printable = |body| Printable { message: &message, broker_name: "b", body };
        assert_eq!(printable(b"text").json()["body"], "text");
        assert_eq!(printable(&[0xFF, 0x00]).json()["bodyBase64"], "/wA=");
        assert_eq!(printable(b"text").json()["properties"]["colour"], "red");
        assert_eq!(base64(b"abc"), "YWJj");
        assert_eq!(base64(b"a"), "YQ==");
        assert_eq!(base64(b""), "");
    }
}
