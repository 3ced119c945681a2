//! How single ext fields become values and values become ext fields.

use thiserror::Error;

use crate::protocol::command::FieldValue;
use crate::protocol::ext_fields::ExtFields;
use crate::types::{BrokerName, ClientId, GroupName, TopicName};

/// A header that does not hold what its request needs.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum HeaderError {
    #[error("the header field {field} is missing")]
    Missing { field: &'static str },
    #[error("the header field {field} is {value:?}, which is not {expected}")]
    NotA { field: &'static str, value: String, expected: &'static str },
}

/// A header as a type, in both directions.
pub trait TypedHeader: Sized {
    /// Unknown fields are ignored; integers may be any decimal text.
    fn from_fields(fields: &ExtFields) -> Result<Self, HeaderError>;

    /// Hands every field that is set to `out`.
    fn write_fields(&self, out: &mut FieldWriter);
}

/// Collects the ext fields of a request of ours.
#[derive(Debug, Default)]
pub struct FieldWriter(Vec<(&'static str, String)>);

impl FieldWriter {
    #[doc(hidden)]
    pub fn of(header: &impl TypedHeader) -> Self {
        let mut writer = Self::default();
        header.write_fields(&mut writer);
        writer
    }

    pub fn put(&mut self, name: &'static str, value: String) {
        self.0.push((name, value));
    }

    /// As [`super::super::command::OutgoingHead`] takes them.
    #[doc(hidden)]
    pub fn as_fields(&self) -> Vec<(&str, FieldValue<'_>)> {
        self.0.iter().map(|(name, value)| (*name, FieldValue::Text(value))).collect()
    }

    #[doc(hidden)]
    pub fn into_pairs(self) -> Vec<(&'static str, String)> {
        self.0
    }
}

/// A type that stands in a header as one ext field.
pub trait HeaderField: Sized {
    fn read(field: &'static str, value: Option<&str>) -> Result<Self, HeaderError>;
    /// `None` leaves the field out, as Java does with null.
    fn write(&self) -> Option<String>;
}

impl HeaderField for String {
    fn read(field: &'static str, value: Option<&str>) -> Result<Self, HeaderError> {
        value.map(str::to_owned).ok_or(HeaderError::Missing { field })
    }
    fn write(&self) -> Option<String> {
        Some(self.clone())
    }
}

macro_rules! text_fields {
    ($($name:ident),*) => {$(
        impl HeaderField for $name {
            fn read(field: &'static str, value: Option<&str>) -> Result<Self, HeaderError> {
                value.map($name::from).ok_or(HeaderError::Missing { field })
            }
            fn write(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )*};
}
text_fields!(TopicName, GroupName, ClientId, BrokerName);

macro_rules! int_fields {
    ($($int:ty),*) => {$(
        impl HeaderField for $int {
            fn read(field: &'static str, value: Option<&str>) -> Result<Self, HeaderError> {
                let value = value.ok_or(HeaderError::Missing { field })?;
                value.trim().parse().map_err(|_| HeaderError::NotA {
                    field,
                    value: value.to_owned(),
                    expected: "a whole number in range",
                })
            }
            fn write(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )*};
}
int_fields!(i32, i64, u32, u64);

impl HeaderField for bool {
    /// Java's `parseBoolean`, and the "1" of the C++ client.
    fn read(field: &'static str, value: Option<&str>) -> Result<Self, HeaderError> {
        let value = value.ok_or(HeaderError::Missing { field })?;
        Ok(value.eq_ignore_ascii_case("true") || value == "1")
    }
    fn write(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl<T: HeaderField> HeaderField for Option<T> {
    /// An empty text counts as absent where the type is not a text.
    fn read(field: &'static str, value: Option<&str>) -> Result<Self, HeaderError> {
        match value {
            None => Ok(None),
            Some("") => Ok(T::read(field, Some("")).ok()),
            some => T::read(field, some).map(Some),
        }
    }
    fn write(&self) -> Option<String> {
        self.as_ref().and_then(T::write)
    }
}

/// Declares a header: `pub name: Type => "wireName"`, with `or default` where the field may be absent.
macro_rules! header {
    ($(
        $(#[$doc:meta])*
        pub struct $name:ident {
            $( $(#[$field_doc:meta])* pub $field:ident: $kind:ty => $wire:literal $(or $default:expr)?, )*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Debug)]
        pub struct $name { $( $(#[$field_doc])* pub $field: $kind, )* }

        impl $crate::protocol::header::TypedHeader for $name {
            #[allow(unused_variables)]
            fn from_fields(
                fields: &$crate::protocol::ext_fields::ExtFields,
            ) -> Result<Self, $crate::protocol::header::HeaderError> {
                Ok(Self { $( $field: header!(@read $kind, fields, $wire $(, $default)?), )* })
            }

            #[allow(unused_variables)]
            fn write_fields(&self, out: &mut $crate::protocol::header::FieldWriter) {
                $( if let Some(value) = $crate::protocol::header::HeaderField::write(&self.$field) {
                    out.put($wire, value);
                } )*
            }
        }
    )*};
    (@read $kind:ty, $fields:ident, $wire:literal) => {
        <$kind as $crate::protocol::header::HeaderField>::read($wire, $fields.get($wire))?
    };
    (@read $kind:ty, $fields:ident, $wire:literal, $default:expr) => {
        match $fields.get($wire) {
            None | Some("") => $default,
            some => <$kind as $crate::protocol::header::HeaderField>::read($wire, some)?,
        }
    };
}
pub(super) use header;
