//! Fields of JSON bodies: paths to them, and one pass over a body that finds all that a condition asks for.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::EvaluationError;
use super::value::Value;
use crate::protocol::message_body::{self, BodyError};

/// A way into a JSON value, from its top.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BodyPath(Box<[BodyStep]>);

/// One step of a [`BodyPath`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BodyStep {
    /// To the value of this name in an object.
    Name(Box<str>),
    /// To this element of an array, from 0.
    Index(usize),
}

impl BodyPath {
    pub fn new(steps: Vec<BodyStep>) -> Self {
        Self(steps.into())
    }

    pub fn steps(&self) -> usize {
        self.0.len()
    }
}

/// A body as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct StoredBody<'a> {
    pub bytes: &'a [u8],
    /// Says whether and how it is compressed.
    pub sys_flag: i32,
}

impl<'a> StoredBody<'a> {
    /// The body as it was before compression, if that is at most `max_bytes` long.
    pub fn open(self, max_bytes: usize) -> Result<Cow<'a, [u8]>, EvaluationError> {
        if self.bytes.len() > max_bytes {
            return Err(EvaluationError::BodyTooLarge);
        }
        message_body::open_within(self.bytes, self.sys_flag, max_bytes as u64).map_err(|error| match error {
            BodyError::TooLarge { .. } => EvaluationError::BodyTooLarge,
            BodyError::Corrupt { .. } | BodyError::UnknownType(_) => EvaluationError::BodyCorrupt,
        })
    }
}

/// The values at `paths` in a body, in their order; null where there is nothing.
pub fn read_fields<'a>(body: &'a [u8], paths: &[BodyPath]) -> Result<Vec<Value<'a>>, EvaluationError> {
    let mut found = vec![Value::Null; paths.len()];
    let wanted = paths.iter().enumerate().map(|(number, path)| Wanted { number, steps: &path.0 }).collect();
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let fields = Fields { wanted, found: &mut found };
    let read = fields.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    read.map_err(|_| EvaluationError::BodyNotJson)?;
    Ok(found)
}

/// A path of which the steps so far were taken.
#[derive(Clone, Copy)]
struct Wanted<'p> {
    number: usize,
    steps: &'p [BodyStep],
}

/// Reads one JSON value, at which the wanted paths go on or end.
struct Fields<'p, 'f, 'a> {
    wanted: Vec<Wanted<'p>>,
    found: &'f mut [Value<'a>],
}

impl<'p, 'a> Fields<'p, '_, 'a> {
    fn set_ends(&mut self, value: &Value<'a>) {
        for wanted in self.wanted.iter().filter(|wanted| wanted.steps.is_empty()) {
            self.found[wanted.number] = value.clone();
        }
    }

    /// The paths that go on by `step`, which is taken.
    fn that_take(&mut self, takes: impl Fn(&BodyStep) -> bool) -> Vec<Wanted<'p>> {
        let mut taken = Vec::new();
        for wanted in &self.wanted {
            if let Some((first, steps)) = wanted.steps.split_first()
                && takes(first)
            {
                // Of several fields of one name the last counts.
                self.found[wanted.number] = Value::Null;
                taken.push(Wanted { number: wanted.number, steps });
            }
        }
        taken
    }
}

impl<'a> DeserializeSeed<'a> for Fields<'_, '_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Fields<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(mut self, flag: bool) -> Result<(), E> {
        self.set_ends(&Value::Flag(flag));
        Ok(())
    }

    fn visit_i64<E>(mut self, number: i64) -> Result<(), E> {
        self.set_ends(&Value::whole(number));
        Ok(())
    }

    fn visit_u64<E>(mut self, number: u64) -> Result<(), E> {
        self.set_ends(&i64::try_from(number).map_or(Value::Double(number as f64), Value::whole));
        Ok(())
    }

    fn visit_f64<E>(mut self, number: f64) -> Result<(), E> {
        self.set_ends(&Value::Double(number));
        Ok(())
    }

    fn visit_borrowed_str<E>(mut self, text: &'a str) -> Result<(), E> {
        self.set_ends(&Value::Text(Cow::Borrowed(text)));
        Ok(())
    }

    // A text with escapes in it.
    fn visit_str<E>(mut self, text: &str) -> Result<(), E> {
        self.set_ends(&Value::Text(Cow::Owned(text.to_owned())));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut elements: A) -> Result<(), A::Error> {
        self.set_ends(&Value::Composite);
        for index in 0.. {
            let wanted = self.that_take(|step| matches!(step, BodyStep::Index(at) if *at == index));
            let more = match wanted.is_empty() {
                true => elements.next_element::<IgnoredAny>()?.is_some(),
                false => elements.next_element_seed(Fields { wanted, found: self.found })?.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut fields: A) -> Result<(), A::Error> {
        self.set_ends(&Value::Composite);
        while let Some(Key(key)) = fields.next_key()? {
            let wanted = self.that_take(|step| matches!(step, BodyStep::Name(name) if **name == *key));
            match wanted.is_empty() {
                true => drop(fields.next_value::<IgnoredAny>()?),
                false => fields.next_value_seed(Fields { wanted, found: self.found })?,
            }
        }
        Ok(())
    }
}

/// The name of a field, copied only where it has escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> BodyStep {
        BodyStep::Name(name.into())
    }

    fn find<'a>(body: &'a str, paths: &[&[BodyStep]]) -> Result<Vec<Value<'a>>, EvaluationError> {
        let paths: Vec<_> = paths.iter().map(|steps| BodyPath::new(steps.to_vec())).collect();
        read_fields(body.as_bytes(), &paths)
    }

    #[test]
    fn one_pass_finds_every_field_with_its_kind() {
        let body =
            r#"{"a":{"b":[1,{"c":"x\ny"},3.5,true]},"a-b":3000000000,"n":null,"big":18446744073709551615}"#;
        let found = find(
            body,
            &[
                &[name("a"), name("b"), BodyStep::Index(0)],
                &[name("a"), name("b"), BodyStep::Index(1), name("c")],
                &[name("a"), name("b"), BodyStep::Index(2)],
                &[name("a"), name("b"), BodyStep::Index(3)],
                &[name("a"), name("b"), BodyStep::Index(4)],
                &[name("a"), name("b")],
                &[name("a-b")],
                &[name("n")],
                &[name("n"), name("deeper")],
                &[name("big")],
            ],
        );
        let expected = vec![
            Value::Int(1),
            Value::Text("x\ny".into()),
            Value::Double(3.5),
            Value::Flag(true),
            Value::Null,
            Value::Composite,
            Value::Long(3_000_000_000),
            Value::Null,
            Value::Null,
            Value::Double(18_446_744_073_709_551_615.0),
        ];
        assert_eq!(found.unwrap(), expected);
    }

    #[test]
    fn of_two_fields_with_one_name_the_last_counts() {
        let paths: [&[BodyStep]; 2] = [&[name("a"), name("b")], &[name("a")]];
        assert_eq!(find(r#"{"a":{"b":1},"a":2}"#, &paths).unwrap(), [Value::Null, Value::Int(2)]);
    }

    #[test]
    fn what_is_no_json_from_end_to_end_is_an_error() {
        let path: [&[BodyStep]; 1] = [&[name("a")]];
        for body in ["", "x", r#"{"a":1"#, r#"{"a":1} {"a":2}"#, r#"{"a":1,"b":}"#, "\u{feff}{}"] {
            assert_eq!(find(body, &path), Err(EvaluationError::BodyNotJson), "{body:?}");
        }
        assert_eq!(find("[]", &path).unwrap(), [Value::Null]);
    }

    #[test]
    fn depth_beside_the_path_costs_no_stack() {
        let deep = format!(r#"{{"x":{}1{},"a":7}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(find(&deep, &[&[name("a")]]).unwrap(), [Value::Int(7)]);
    }
}
