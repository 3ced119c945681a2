//! The compressed form of a registration. RocketMQ: `RegisterBrokerBody.encode`, `TopicConfig.encode`.
//!
//! ```text
//! zlib of:  | data version JSON | topic count: i32 | topic … | filter servers JSON | mapping count: i32 | mapping JSON … |
//! topic:    name readQueueNums writeQueueNums perm filterType {attributes JSON}
//! ```
//!
//! Every text is `len: i32` and that many bytes of UTF-8; integers are big-endian. Mappings are absent before
//! 5.0.0, attributes before 5.0.0 or when there are none. `order` and `topicSysFlag` do not travel.

use std::io::{self, Read as _, Write as _};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde_json::Value;

use super::registration::RegisterBrokerBody;
use crate::protocol::fastjson::{self, FastJsonError};
use crate::protocol::topic_config::{Permission, TopicConfig, TopicFilterType};

/// Most that is inflated: some hundred bytes for each of a million topics.
const INFLATED_MAX_BYTES: u64 = 256 << 20;

/// Why a compressed registration cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DeflatedError {
    #[error("cannot inflate")]
    Inflate { source: io::Error },
    #[error("inflates to more than {INFLATED_MAX_BYTES} bytes")]
    TooLong,
    #[error("cannot deflate")]
    Deflate { source: io::Error },
    #[error("ends early, {at} bytes in")]
    Truncated { at: usize },
    #[error("topic line {line:?} is malformed")]
    TopicLine { line: String },
    #[error("json inside is malformed")]
    Json {
        #[from]
        source: FastJsonError,
    },
    #[error("text of {len_bytes} bytes is too long for its length field")]
    TextTooLong { len_bytes: usize },
}

/// Reads the form; `has_mapping` for brokers from 5.0.0.
pub fn decode(body: &[u8], has_mapping: bool) -> Result<RegisterBrokerBody, DeflatedError> {
    let mut inflated = Vec::new();
    ZlibDecoder::new(body)
        .take(INFLATED_MAX_BYTES + 1)
        .read_to_end(&mut inflated)
        .map_err(|source| DeflatedError::Inflate { source })?;
    if inflated.len() as u64 > INFLATED_MAX_BYTES {
        return Err(DeflatedError::TooLong);
    }
    let mut reader = Reader { bytes: &inflated, at: 0 };
    let mut read = RegisterBrokerBody::default();
    let wrapper = &mut read.topic_config_serialize_wrapper;
    wrapper.data_version = fastjson::from_slice_or_default(reader.text()?)?;
    for _ in 0..reader.count()? {
        let topic = topic_from_line(&String::from_utf8_lossy(reader.text()?))?;
        wrapper.topic_config_table.insert(topic.topic_name.clone(), topic);
    }
    read.filter_server_list = fastjson::from_slice_or_default(reader.text()?)?;
    if has_mapping {
        for _ in 0..reader.count()? {
            let info: Value = fastjson::from_slice(reader.text()?)?;
            let topic = info.get("topic").and_then(Value::as_str).unwrap_or_default().to_owned();
            wrapper.topic_queue_mapping_info_map.insert(topic, info);
        }
    }
    Ok(read)
}

/// Writes the form of 5.x.
pub fn encode(body: &RegisterBrokerBody) -> Result<Vec<u8>, DeflatedError> {
    let wrapper = &body.topic_config_serialize_wrapper;
    let mut plain = Vec::new();
    push_text(&mut plain, &fastjson::to_vec(&wrapper.data_version)?)?;
    push_len(&mut plain, wrapper.topic_config_table.len())?;
    for topic in wrapper.topic_config_table.values() {
        push_text(&mut plain, topic_to_line(topic)?.as_bytes())?;
    }
    push_text(&mut plain, &fastjson::to_vec(&body.filter_server_list)?)?;
    push_len(&mut plain, wrapper.topic_queue_mapping_info_map.len())?;
    for info in wrapper.topic_queue_mapping_info_map.values() {
        push_text(&mut plain, &fastjson::to_vec(info)?)?;
    }
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    let deflated = encoder.write_all(&plain).and_then(|()| encoder.finish());
    deflated.map_err(|source| DeflatedError::Deflate { source })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len_bytes: usize) -> Result<&'a [u8], DeflatedError> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..len_bytes).ok_or(DeflatedError::Truncated { at: self.bytes.len() })?;
        self.at += len_bytes;
        Ok(taken)
    }

    /// A count or length; a negative one is as good as an end.
    fn count(&mut self) -> Result<usize, DeflatedError> {
        let at = self.at;
        let mut number = [0; 4];
        number.copy_from_slice(self.take(4)?);
        usize::try_from(i32::from_be_bytes(number)).map_err(|_| DeflatedError::Truncated { at })
    }

    fn text(&mut self) -> Result<&'a [u8], DeflatedError> {
        let len_bytes = self.count()?;
        self.take(len_bytes)
    }
}

fn push_len(out: &mut Vec<u8>, len: usize) -> Result<(), DeflatedError> {
    let len = i32::try_from(len).map_err(|_| DeflatedError::TextTooLong { len_bytes: len })?;
    out.extend_from_slice(&len.to_be_bytes());
    Ok(())
}

fn push_text(out: &mut Vec<u8>, text: &[u8]) -> Result<(), DeflatedError> {
    push_len(out, text.len())?;
    out.extend_from_slice(text);
    Ok(())
}

fn topic_to_line(topic: &TopicConfig) -> Result<String, DeflatedError> {
    let filter_type = match topic.topic_filter_type {
        TopicFilterType::SingleTag => "SINGLE_TAG",
        TopicFilterType::MultiTag => "MULTI_TAG",
    };
    let attributes = fastjson::to_vec(&topic.attributes)?;
    Ok(format!(
        "{} {} {} {} {} {}",
        topic.topic_name,
        topic.read_queue_nums,
        topic.write_queue_nums,
        topic.perm.0,
        filter_type,
        String::from_utf8_lossy(&attributes),
    ))
}

fn topic_from_line(line: &str) -> Result<TopicConfig, DeflatedError> {
    let malformed = || DeflatedError::TopicLine { line: line.into() };
    let mut fields = line.splitn(6, ' ');
    let mut next = || fields.next().ok_or_else(malformed);
    let mut topic = TopicConfig::new(next()?, 0);
    topic.read_queue_nums = next()?.parse().map_err(|_| malformed())?;
    topic.write_queue_nums = next()?.parse().map_err(|_| malformed())?;
    topic.perm = Permission(next()?.parse().map_err(|_| malformed())?);
    topic.topic_filter_type = match next()? {
        "MULTI_TAG" => TopicFilterType::MultiTag,
        _ => TopicFilterType::SingleTag,
    };
    if let Some(attributes) = fields.next() {
        topic.attributes = fastjson::from_slice_or_default(attributes.as_bytes())?;
    }
    Ok(topic)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn deflated(plain: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    /// As a broker of 4.x writes it: no attributes, no mappings.
    fn plain_4x() -> Vec<u8> {
        let mut plain = Vec::new();
        push_text(&mut plain, br#"{"counter":3,"timestamp":5}"#).unwrap();
        push_len(&mut plain, 1).unwrap();
        push_text(&mut plain, b"TopicA 8 4 6 SINGLE_TAG").unwrap();
        push_text(&mut plain, b"[]").unwrap();
        plain
    }

    #[test]
    fn form_of_4x() {
        let read = decode(&deflated(&plain_4x()), false).unwrap();
        let wrapper = read.topic_config_serialize_wrapper;
        assert_eq!((wrapper.data_version.counter, wrapper.data_version.timestamp), (3, 5));
        let topic = &wrapper.topic_config_table["TopicA"];
        assert_eq!((topic.read_queue_nums, topic.write_queue_nums, topic.perm.0), (8, 4, 6));
        assert!(topic.attributes.is_empty());
    }

    #[test]
    fn form_cut_at_every_byte_is_an_error() {
        let plain = plain_4x();
        for len in 0..plain.len() {
            assert!(decode(&deflated(&plain[..len]), false).is_err(), "{len}");
        }
        let whole = deflated(&plain);
        for len in 0..whole.len() {
            let _ = decode(&whole[..len], false);
        }
    }

    #[test]
    fn malformed_topic_line_is_named() {
        for line in ["", "T", "T 1 1 6", "T x 1 6 SINGLE_TAG", "T -1 1 6 SINGLE_TAG"] {
            assert!(matches!(topic_from_line(line), Err(DeflatedError::TopicLine { .. })), "{line}");
        }
        let topic = topic_from_line(r#"T 1 1 6 MULTI_TAG {"a":"b c"}"#).unwrap();
        assert_eq!(topic.attributes["a"], "b c");
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes, true);
            let _ = decode(&deflated(&bytes), true);
        }
    }
}
