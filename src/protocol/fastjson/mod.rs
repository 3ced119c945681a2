//! The JSON dialect of Java's fastjson 1.2, both ways.
//!
//! Java writes numeric map keys bare (`{0:"ip:port"}`) and object map keys raw
//! (`{{"brokerName":"b","queueId":0,"topic":"T"}:{…}}`); clients in other languages send numbers as
//! strings, strings as numbers and enum ordinals. Reading goes in three steps: `normalize` makes
//! strict JSON of the text, serde_json parses it, and `tolerant` forgives types and nulls while the
//! target struct is filled. Writing is strict JSON, with [`to_vec_java`] for bodies that Java tools
//! read with raw object keys.

mod normalize;
mod queue_map;
pub mod tolerant;
mod write;

use serde::de::DeserializeOwned;

pub use normalize::normalize;
pub use queue_map::QueueMap;
pub use write::{to_vec, to_vec_java};

/// Deepest nesting of objects and arrays that is read; bodies of RocketMQ need about six.
pub const MAX_DEPTH: usize = 64;

/// Why a body is not JSON, not even fastjson's.
#[derive(Debug, thiserror::Error)]
pub enum FastJsonError {
    #[error("body is empty")]
    Empty,
    #[error("json ends in mid-value")]
    UnexpectedEnd,
    #[error("unexpected byte in json at {at}")]
    Unexpected { at: usize },
    #[error("json nested deeper than {MAX_DEPTH} at {at}")]
    TooDeep { at: usize },
    #[error("raw object key inside a raw object key at {at}")]
    NestedKey { at: usize },
    #[error("text after the json value at {at}")]
    TrailingText { at: usize },
    #[error("json does not fit its type")]
    Json {
        #[from]
        source: serde_json::Error,
    },
}

/// Reads a body in fastjson's dialect. Blanks and NULs around it are ignored, bytes that are not UTF-8
/// are replaced as Java's `new String(bytes, UTF_8)` does.
pub fn from_slice<T: DeserializeOwned>(body: &[u8]) -> Result<T, FastJsonError> {
    from_str(&String::from_utf8_lossy(body))
}

/// As [`from_slice`], with an empty body read as the default.
pub fn from_slice_or_default<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, FastJsonError> {
    match from_slice(body) {
        Err(FastJsonError::Empty) => Ok(T::default()),
        read => read,
    }
}

/// As [`from_slice`], from text.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, FastJsonError> {
    let text = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
    if text.is_empty() {
        return Err(FastJsonError::Empty);
    }
    let value = serde_json::from_str(&normalize(text)?)?;
    Ok(T::deserialize(tolerant::Tolerant(value))?)
}
