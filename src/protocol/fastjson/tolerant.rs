//! Fills typed structs as Java's fastjson does: a null is as good as absent, of equal keys the last
//! wins, and numbers, booleans and strings stand for each other.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, Error as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Map, Value};

/// A parsed body on its way into a type.
pub struct Tolerant(pub Value);

impl Tolerant {
    /// A number, also from a string ("17", blank is 0), a boolean or null.
    fn visit_number<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_i64(0),
            Value::Bool(set) => visitor.visit_i64(set.into()),
            Value::String(text) => match text.trim() {
                "" | "null" => visitor.visit_i64(0),
                digits => match (digits.parse::<i64>(), digits.parse::<u64>()) {
                    (Ok(number), _) => visitor.visit_i64(number),
                    (_, Ok(number)) => visitor.visit_u64(number),
                    _ => match digits.parse::<f64>() {
                        Ok(number) => visit_f64(number, visitor),
                        Err(_) => Err(Error::custom(format_args!("{text:?} is not a number"))),
                    },
                },
            },
            other => Self(other).deserialize_any(visitor),
        }
    }
}

/// Longest run of integers that an `f64` holds exactly.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A whole number as an integer, for fields that are integers.
fn visit_f64<'de, V: Visitor<'de>>(number: f64, visitor: V) -> Result<V::Value, Error> {
    if number.fract() == 0.0 && number.abs() < EXACT_MAX {
        visitor.visit_i64(number as i64)
    } else {
        visitor.visit_f64(number)
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match &self.0 {
                Value::Number(number) => match number.as_f64() {
                    Some(float) if number.is_f64() => visit_f64(float, visitor),
                    _ => self.deserialize_any(visitor),
                },
                _ => self.visit_number(visitor),
            }
        }
    )*};
}

macro_rules! texts {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.0 {
                Value::String(text) => visitor.visit_string(text),
                Value::Null => visitor.visit_str(""),
                other => visitor.visit_string(other.to_string()),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Tolerant {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(set) => visitor.visit_bool(set),
            Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(number), _, _) => visitor.visit_i64(number),
                (_, Some(number), _) => visitor.visit_u64(number),
                (_, _, Some(number)) => visitor.visit_f64(number),
                _ => Err(Error::custom("number out of range")),
            },
            Value::String(text) => visitor.visit_string(text),
            Value::Array(items) => visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(Tolerant))),
            Value::Object(entries) => visit_entries(entries, visitor),
        }
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64
    }

    texts! { deserialize_str deserialize_string deserialize_char }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_bool(false),
            Value::Number(number) => visitor.visit_bool(number.as_f64() != Some(0.0)),
            Value::String(text) => visitor.visit_bool(text.eq_ignore_ascii_case("true") || text == "1"),
            other => Self(other).deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            other => visitor.visit_some(Self(other)),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => Self(Value::Array(Vec::new())).deserialize_any(visitor),
            other => Self(other).deserialize_any(visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visit_entries(Map::new(), visitor),
            other => Self(other).deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let ordinal = self.0.as_u64().and_then(|ordinal| usize::try_from(ordinal).ok());
        match ordinal.and_then(|ordinal| variants.get(ordinal)) {
            Some(variant) => Value::from(*variant).deserialize_enum(name, variants, visitor),
            None => self.0.deserialize_enum(name, variants, visitor),
        }
    }

    forward_to_deserialize_any! { bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any }
}

impl<'de> IntoDeserializer<'de, Error> for Tolerant {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

fn visit_entries<'de, V: Visitor<'de>>(entries: Map<String, Value>, visitor: V) -> Result<V::Value, Error> {
    let present = entries.into_iter().filter(|(_, value)| !value.is_null());
    visitor.visit_map(MapDeserializer::new(
        present.map(|(key, value)| (Tolerant(Value::String(key)), Tolerant(value))),
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use crate::protocol::fastjson::{FastJsonError, from_slice, from_slice_or_default};

    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(default)]
    struct Body {
        number: i64,
        small: u8,
        rate: f64,
        flag: bool,
        text: String,
        list: Vec<i32>,
        table: BTreeMap<i64, String>,
        perhaps: Option<i32>,
    }

    impl Default for Body {
        fn default() -> Self {
            Self {
                number: 7,
                small: 0,
                rate: 0.0,
                flag: false,
                text: "none".into(),
                list: vec![],
                table: BTreeMap::new(),
                perhaps: None,
            }
        }
    }

    fn read(text: &str) -> Body {
        from_slice(text.as_bytes()).unwrap()
    }

    #[test]
    fn nulls_and_missing_fields_take_the_default() {
        assert_eq!(read("{}"), Body::default());
        assert_eq!(
            read(r#"{"number":null,"text":null,"list":null,"table":null,"perhaps":null,"new":1}"#),
            Body::default()
        );
    }

    #[test]
    fn numbers_booleans_and_strings_stand_for_each_other() {
        let body = read(
            r#"{"number":"1700000000000","small":3.0,"rate":2,"flag":"true","text":17,"list":["1",2],"table":{0:"a"},"perhaps":"4"}"#,
        );
        assert_eq!(
            body,
            Body {
                number: 1_700_000_000_000,
                small: 3,
                rate: 2.0,
                flag: true,
                text: "17".into(),
                list: vec![1, 2],
                table: BTreeMap::from([(0, "a".into())]),
                perhaps: Some(4),
            }
        );
    }

    #[test]
    fn of_equal_keys_the_last_wins() {
        assert_eq!(read(r#"{"number":1,"number":2}"#).number, 2);
    }

    #[test]
    fn number_that_does_not_fit_is_an_error() {
        for text in [r#"{"small":256}"#, r#"{"number":"x"}"#, r#"{"list":3}"#] {
            assert!(matches!(from_slice::<Body>(text.as_bytes()), Err(FastJsonError::Json { .. })));
        }
    }

    #[test]
    fn blanks_and_nuls_around_a_body_are_ignored() {
        assert_eq!(read("\n{\"number\":1}\r\n\0").number, 1);
        assert!(matches!(from_slice::<Body>(b" \0"), Err(FastJsonError::Empty)));
        assert_eq!(from_slice_or_default::<Body>(b"").unwrap(), Body::default());
    }
}
