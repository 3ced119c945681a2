//! Remoting commands: requests and responses, in both header codecs.

use std::fmt::Write as _;

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::binary_header::{self, BinaryHeaderError};
use super::ext_fields::ExtFields;
use super::frame::{Frame, HeaderCodec};
use super::json_header::{self, JsonHeaderError};

/// Bit of `flag`: the command answers a request.
pub const FLAG_RESPONSE: i32 = 1;
/// Bit of `flag`: nobody waits for an answer.
pub const FLAG_ONE_WAY: i32 = 2;

/// The version this broker reports: V5_5_0 is not in the table of the released 5.3 line, V5_3_3 is its
/// newest (RocketMQ: `MQVersion.Version.V5_3_3`). Clients gate SQL filters and heartbeats on it.
pub const OWN_VERSION: i32 = 479;

/// Language of a peer, by its number in binary headers (RocketMQ: `LanguageCode`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Language(pub u8);

const LANGUAGES: [&str; 14] = [
    "JAVA", "CPP", "DOTNET", "PYTHON", "DELPHI", "ERLANG", "RUBY", "OTHER", "HTTP", "GO", "PHP", "OMS",
    "RUST", "NODE_JS",
];

impl Language {
    pub const JAVA: Language = Language(0);
    pub const CPP: Language = Language(1);
    pub const OTHER: Language = Language(7);
    pub const RUST: Language = Language(12);

    /// By its name in JSON headers; an unknown one counts as `OTHER`.
    pub fn from_name(name: &str) -> Language {
        LANGUAGES.iter().position(|known| *known == name).map_or(Language::OTHER, |code| Language(code as u8))
    }

    pub fn name(self) -> &'static str {
        LANGUAGES.get(self.0 as usize).copied().unwrap_or("OTHER")
    }
}

/// The part every header has.
#[derive(Clone, PartialEq, Debug)]
pub struct Head {
    /// Request code, or response code.
    pub code: i32,
    pub language: Language,
    pub version: i32,
    /// Pairs a response with its request; chosen by the side that asks, may be negative.
    pub opaque: i32,
    pub flag: i32,
    pub remark: Option<String>,
}

impl Default for Head {
    fn default() -> Self {
        Self { code: 0, language: Language::JAVA, version: 0, opaque: 0, flag: 0, remark: None }
    }
}

/// A command as received.
#[derive(Clone, PartialEq, Debug)]
pub struct Command {
    pub head: Head,
    pub fields: ExtFields,
    pub body: Bytes,
    pub codec: HeaderCodec,
}

/// Why a header cannot be read. The connection is closed, as Java does.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CommandError {
    #[error(transparent)]
    Json(#[from] JsonHeaderError),
    #[error(transparent)]
    Binary(#[from] BinaryHeaderError),
}

impl Command {
    pub fn decode(frame: Frame) -> Result<Command, CommandError> {
        let mut fields = ExtFields::over(frame.header);
        let head = match frame.codec {
            HeaderCodec::Json => json_header::read(&mut fields)?,
            HeaderCodec::Binary => binary_header::read(&mut fields)?,
        };
        Ok(Command { head, fields, body: frame.body, codec: frame.codec })
    }

    pub fn is_response(&self) -> bool {
        self.head.flag & FLAG_RESPONSE != 0
    }

    pub fn is_one_way(&self) -> bool {
        self.head.flag & FLAG_ONE_WAY != 0
    }
}

/// A value of an ext field on its way out.
#[derive(Clone, Copy, Debug)]
pub enum FieldValue<'a> {
    Text(&'a str),
    Int(i64),
    Bool(bool),
}

impl<'a> From<&'a str> for FieldValue<'a> {
    fn from(text: &'a str) -> Self {
        FieldValue::Text(text)
    }
}

/// What goes into the header of an outgoing command. Ext fields are always written as strings: the C++
/// client drops anything else.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingHead<'a> {
    pub codec: HeaderCodec,
    pub code: i32,
    pub opaque: i32,
    pub flag: i32,
    pub language: Language,
    pub remark: Option<&'a str>,
    /// Names are ours, and hold nothing that JSON would escape.
    pub fields: &'a [(&'a str, FieldValue<'a>)],
}

impl<'a> OutgoingHead<'a> {
    /// The answer to the request with `opaque`.
    pub fn response(codec: HeaderCodec, opaque: i32, code: i32) -> Self {
        Self { codec, code, opaque, flag: FLAG_RESPONSE, language: Language::JAVA, remark: None, fields: &[] }
    }

    /// A request of ours.
    pub fn request(codec: HeaderCodec, opaque: i32, code: i32) -> Self {
        Self { codec, code, opaque, flag: 0, language: Language::RUST, remark: None, fields: &[] }
    }

    /// Writes length, header word and header; the caller lets `body_bytes` bytes of body follow.
    pub fn write(&self, out: &mut BytesMut, body_bytes: usize) {
        let frame_at = out.len();
        out.put_u64(0); // length and header word, known once the header is written
        match self.codec {
            HeaderCodec::Json => self.write_json(out),
            HeaderCodec::Binary => binary_header::write(self, out),
        }
        let header_bytes = out.len() - frame_at - 8;
        let length = (4 + header_bytes + body_bytes) as u32;
        let header_word = (self.codec.type_byte() as u32) << 24 | header_bytes as u32;
        out[frame_at..frame_at + 4].copy_from_slice(&length.to_be_bytes());
        out[frame_at + 4..frame_at + 8].copy_from_slice(&header_word.to_be_bytes());
    }

    fn write_json(&self, out: &mut BytesMut) {
        out.extend_from_slice(b"{\"code\":");
        put_int(out, self.code as i64);
        if !self.fields.is_empty() {
            out.extend_from_slice(b",\"extFields\":{");
            for (n, (name, value)) in self.fields.iter().enumerate() {
                if n > 0 {
                    out.put_u8(b',');
                }
                out.put_u8(b'"');
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(b"\":");
                match value {
                    FieldValue::Text(text) => put_json_string(out, text),
                    FieldValue::Int(number) => {
                        out.put_u8(b'"');
                        put_int(out, *number);
                        out.put_u8(b'"');
                    }
                    FieldValue::Bool(yes) => {
                        out.extend_from_slice(if *yes { b"\"true\"" } else { b"\"false\"" });
                    }
                }
            }
            out.put_u8(b'}');
        }
        out.extend_from_slice(b",\"flag\":");
        put_int(out, self.flag as i64);
        out.extend_from_slice(b",\"language\":\"");
        out.extend_from_slice(self.language.name().as_bytes());
        out.extend_from_slice(b"\",\"opaque\":");
        put_int(out, self.opaque as i64);
        if let Some(remark) = self.remark {
            out.extend_from_slice(b",\"remark\":");
            put_json_string(out, remark);
        }
        out.extend_from_slice(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
        put_int(out, OWN_VERSION as i64);
        out.put_u8(b'}');
    }
}

/// Decimal digits without the machinery of `fmt`: every reply holds a dozen numbers.
pub(super) fn put_int(out: &mut BytesMut, number: i64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.put_u8(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

fn put_json_string(out: &mut BytesMut, text: &str) {
    let is_escaped = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1F);
    out.put_u8(b'"');
    let mut rest = text.as_bytes();
    // Without an early end the compiler looks at many bytes at a time, and nearly no text has to be escaped.
    if !rest.iter().fold(false, |found, byte| found | is_escaped(byte)) {
        out.extend_from_slice(rest);
        out.put_u8(b'"');
        return;
    }
    while let Some(at) = rest.iter().position(is_escaped) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\r' => out.extend_from_slice(b"\\r"),
            control => {
                // Writing into memory cannot fail.
                let _ = write!(out, "\\u{control:04x}");
            }
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.put_u8(b'"');
}

#[cfg(test)]
mod tests {
    use super::super::frame::{MAX_FRAME_BYTES, NextFrame, next_frame};
    use super::*;

    fn decode_json(text: &str) -> Result<Command, CommandError> {
        let header = Bytes::copy_from_slice(text.as_bytes());
        Command::decode(Frame { codec: HeaderCodec::Json, header, body: Bytes::new() })
    }

    fn written(head: &OutgoingHead<'_>) -> BytesMut {
        let mut out = BytesMut::new();
        head.write(&mut out, 0);
        out
    }

    fn read_back(mut bytes: BytesMut) -> Command {
        match next_frame(&mut bytes, MAX_FRAME_BYTES).unwrap() {
            NextFrame::Whole(frame) => Command::decode(frame).unwrap(),
            NextFrame::NeedsBytes(_) => panic!("a whole frame was written"),
        }
    }

    #[test]
    fn reads_the_header_that_java_writes() {
        let command = decode_json(
            r#"{"code":105,"extFields":{"topic":"TopicA"},"flag":0,"language":"JAVA","opaque":7,"serializeTypeCurrentRPC":"JSON","version":479}"#,
        )
        .unwrap();
        assert_eq!(command.head, Head { code: 105, opaque: 7, version: 479, ..Head::default() });
        assert_eq!(command.fields.get("topic"), Some("TopicA"));
        assert!(!command.is_response() && !command.is_one_way());
    }

    #[test]
    fn reads_the_dialects_of_other_clients() {
        let command = decode_json(
            "{ \"code\" : 310,\"extFields\":{\"e\":3,\"m\":true,\"n\":null,\"i\":\"KEYS\\u0001k\\u0002\\u6d88\",\
             \"Signature\":\"\"},\"flag\":2,\"language\":\"KLINGON\",\"opaque\":-5,\"remark\":\"\",\
             \"version\":\"63\",\"other\":{\"a\":[1,{\"b\":\"}\"}]}}\n",
        )
        .unwrap();
        let pairs: Vec<_> = command.fields.iter().collect();
        assert_eq!(pairs, [("e", "3"), ("m", "true"), ("i", "KEYS\u{1}k\u{2}消"), ("Signature", "")]);
        assert_eq!((command.head.opaque, command.head.version, command.head.remark.clone()), (-5, 63, None));
        assert_eq!(command.head.language, Language::OTHER);
        assert!(command.is_one_way());
    }

    #[test]
    fn unescapes_surrogate_pairs_and_replaces_halves() {
        let command = decode_json(r#"{"code":1,"remark":"\ud83d\ude80 \ud83d! \/ \" \\ \n"}"#).unwrap();
        assert_eq!(command.head.remark.as_deref(), Some("🚀 \u{FFFD}! / \" \\ \n"));
    }

    #[test]
    fn refuses_malformed_json_with_its_place() {
        for text in [
            "",
            "{",
            "[]",
            "{}",
            r#"{"code":}"#,
            r#"{"code":1"#,
            r#"{"code":1}x"#,
            r#"{"code":1,"remark":"\q"}"#,
        ] {
            assert!(matches!(decode_json(text), Err(CommandError::Json(_))), "{text}");
        }
        let deep = format!(r#"{{"code":1,"x":{}"#, "[".repeat(100_000));
        assert!(decode_json(&deep).is_err());
    }

    #[test]
    fn writes_what_it_reads_in_both_codecs() {
        for codec in [HeaderCodec::Json, HeaderCodec::Binary] {
            let fields = [
                ("msgId", FieldValue::Text("AC\u{1}\"\\")),
                ("queueOffset", FieldValue::Int(i64::MIN)),
                ("yes", FieldValue::Bool(true)),
            ];
            let head = OutgoingHead {
                remark: Some("not stored: «why»"),
                fields: &fields,
                ..OutgoingHead::response(codec, i32::MIN, 13)
            };
            let command = read_back(written(&head));
            assert_eq!(command.codec, codec);
            assert!(command.is_response());
            assert_eq!((command.head.code, command.head.opaque), (13, i32::MIN));
            assert_eq!(command.head.remark.as_deref(), Some("not stored: «why»"));
            let pairs: Vec<_> = command.fields.iter().collect();
            assert_eq!(
                pairs,
                [("msgId", "AC\u{1}\"\\"), ("queueOffset", "-9223372036854775808"), ("yes", "true")]
            );
        }
    }

    #[test]
    fn json_response_is_byte_for_byte_this() {
        let fields = [("offset", FieldValue::Int(42))];
        let head = OutgoingHead { fields: &fields, ..OutgoingHead::response(HeaderCodec::Json, 7, 0) };
        let text = r#"{"code":0,"extFields":{"offset":"42"},"flag":1,"language":"JAVA","opaque":7,"serializeTypeCurrentRPC":"JSON","version":479}"#;
        assert_eq!(&written(&head)[8..], text.as_bytes());
    }
}
