//! How typed settings are written: durations in the unit their name says, absence as the word that stands for it.

use std::net::{AddrParseError, SocketAddr};
use std::path::PathBuf;

use crate::types::TopicName;

/// Durations as whole numbers of a unit.
macro_rules! duration_unit {
    ($(#[$doc:meta])* $module:ident, $per_unit_ms:literal) => {
        $(#[$doc])*
        pub mod $module {
            use std::time::Duration;

            use serde::{Deserialize, Deserializer, Serializer};

            pub fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_u64(time.as_millis() as u64 / $per_unit_ms)
            }

            pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
                u64::deserialize(deserializer).map(|count| Duration::from_millis(count * $per_unit_ms))
            }
        }
    };
}

duration_unit!(
    /// Milliseconds.
    millis, 1
);
duration_unit!(
    /// Seconds.
    seconds, 1000
);
duration_unit!(
    /// Hours.
    hours, 3_600_000
);

/// A setting that is text, and may be absent.
pub trait Textual: Sized {
    fn from_text(text: &str) -> Result<Self, String>;
    fn to_text(&self) -> String;
}

impl Textual for SocketAddr {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: AddrParseError| error.to_string())
    }

    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl Textual for TopicName {
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(Self::new(text))
    }

    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl Textual for PathBuf {
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(Self::from(text))
    }

    fn to_text(&self) -> String {
        self.display().to_string()
    }
}

/// `None` written as a word.
macro_rules! absent_as {
    ($(#[$doc:meta])* $module:ident, $word:literal) => {
        $(#[$doc])*
        pub mod $module {
            use serde::de::Error;
            use serde::{Deserialize, Deserializer, Serialize, Serializer};

            use super::Textual;

            pub fn serialize<T: Textual, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
                value.as_ref().map_or_else(|| $word.to_owned(), Textual::to_text).serialize(serializer)
            }

            pub fn deserialize<'de, T: Textual, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
                match String::deserialize(deserializer)?.as_str() {
                    $word => Ok(None),
                    text => T::from_text(text).map(Some).map_err(D::Error::custom),
                }
            }
        }
    };
}

absent_as!(
    /// Switched off.
    or_off, "off"
);
absent_as!(
    /// Left empty.
    or_empty, ""
);
