//! How single ext fields become values and values become ext fields.

use thiserror::Error;

use crate::protocol::command::FieldValue;
use crate::protocol::ext_fields::ExtFields;
use crate::types::{BrokerName, ClientId, GroupName, TopicName};

/// A header that does not hold what its request needs.
///
/// ```
/// use telstar::protocol::{ExtFields, HeaderError, QueueHeader, TypedHeader};
///
/// let fields: ExtFields = [("topic", "orders"), ("queueId", "first")].into_iter().collect();
/// let error = QueueHeader::from_fields(&fields).unwrap_err();
/// assert_eq!(error.to_string(), r#"the header field queueId is "first", which is not a whole number in range"#);
/// let error = QueueHeader::from_fields(&ExtFields::default()).unwrap_err();
/// assert_eq!(error, HeaderError::Missing { field: "topic" });
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum HeaderError {
    /// A field is not there.
    #[error("the header field {field} is missing")]
    Missing {
        /// Which one.
        field: &'static str,
    },
    /// A field cannot be read.
    #[error("the header field {field} is {value:?}, which is not {expected}")]
    NotA {
        /// Which one.
        field: &'static str,
        /// What it holds.
        value: String,
        /// What it should hold.
        expected: &'static str,
    },
}

/// A header as a type, in both directions. Those that are not here can be had by writing them.
///
/// ```
/// use telstar::client::Call;
/// use telstar::protocol::{ExtFields, FieldWriter, HeaderError, RequestCode, TypedHeader};
/// use telstar::testing::{Scenario, calls::members_of};
///
/// /// The header of GET_CONSUMER_LIST_BY_GROUP.
/// struct Members {
///     group: String,
/// }
///
/// impl TypedHeader for Members {
///     fn from_fields(fields: &ExtFields) -> Result<Self, HeaderError> {
///         let group = fields.get("consumerGroup").ok_or(HeaderError::Missing { field: "consumerGroup" })?;
///         Ok(Self { group: group.to_owned() })
///     }
///
///     fn write_fields(&self, out: &mut FieldWriter) {
///         out.put("consumerGroup", self.group.clone());
///     }
/// }
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
/// let mut bank = broker.client("bank");
/// bank.consumes("payers", &["orders"]).await;
/// let call = Call::new(RequestCode::GET_CONSUMER_LIST_BY_GROUP).header(&Members { group: "payers".into() });
/// assert_eq!(bank.succeed(call).await, bank.succeed(members_of("payers")).await);
/// # }
/// ```
pub trait TypedHeader: Sized {
    /// Unknown fields are ignored; integers may be any decimal text.
    fn from_fields(fields: &ExtFields) -> Result<Self, HeaderError>;

    /// Hands every field that is set to `out`.
    fn write_fields(&self, out: &mut FieldWriter);
}

/// Collects the fields of a [`TypedHeader`].
///
/// ```
/// use telstar::protocol::{FieldWriter, QueueHeader, TypedHeader};
///
/// let mut writer = FieldWriter::default();
/// QueueHeader { topic: "orders".into(), queue_id: 3 }.write_fields(&mut writer);
/// writer.put("colour", "blue".into());
/// assert!(format!("{writer:?}").contains(r#"("queueId", "3"), ("colour", "blue")"#));
/// ```
#[derive(Debug, Default)]
pub struct FieldWriter(Vec<(&'static str, String)>);

impl FieldWriter {
    #[doc(hidden)]
    pub fn of(header: &impl TypedHeader) -> Self {
        let mut writer = Self::default();
        header.write_fields(&mut writer);
        writer
    }

    /// Sets one field.
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
