//! A filter as subscriptions hold it: compiled once, asked about every record.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell};

use super::body::{BodyPath, StoredBody, read_fields};
use super::condition::{Condition, Fields};
use super::error::{EvaluationError, FilterError, FilterProblem};
use super::parser;
use super::value::Value;
use crate::protocol::message::RecordView;
use crate::protocol::properties;

/// Limits of what a condition may cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FilterRules {
    /// Longest condition.
    pub max_expression_bytes: usize,
    /// Steps into a body.
    pub max_body_depth: usize,
    /// Largest body that is looked into, as stored and as decompressed.
    pub max_body_bytes: usize,
}

impl Default for FilterRules {
    fn default() -> Self {
        Self { max_expression_bytes: 16 * 1024, max_body_depth: 16, max_body_bytes: 64 * 1024 }
    }
}

/// See the [module](super). Two are equal when their texts are.
#[derive(Debug)]
pub struct SqlFilter {
    source: Box<str>,
    condition: Condition,
    body_paths: Box<[BodyPath]>,
    max_body_bytes: usize,
}

impl PartialEq for SqlFilter {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for SqlFilter {}

/// What came of a look at a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Looked {
    pub matches: bool,
    /// Bytes of its properties, for each that was asked for, and of its body that were gone through.
    pub bytes: usize,
}

impl SqlFilter {
    pub fn compile(source: &str, rules: &FilterRules) -> Result<Self, FilterError> {
        let (len_bytes, max_bytes) = (source.len(), rules.max_expression_bytes);
        if len_bytes > max_bytes {
            return Err(FilterError { column: 1, problem: FilterProblem::TooLong { len_bytes, max_bytes } });
        }
        let parsed = parser::parse(source, rules.max_body_depth)?;
        Ok(Self {
            source: source.into(),
            condition: parsed.condition,
            body_paths: parsed.body_paths.into(),
            max_body_bytes: rules.max_body_bytes,
        })
    }

    /// The text it was compiled from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it looks into bodies.
    pub fn reads_body(&self) -> bool {
        !self.body_paths.is_empty()
    }

    /// Whether a stored record matches: only if the condition is true, not if it is unknown or has no result.
    pub fn look_at(&self, record: &RecordView<'_>) -> Looked {
        let body = StoredBody { bytes: record.body(), sys_flag: record.sys_flag() };
        self.with_message(record.properties(), body, |message| Looked {
            matches: self.condition.evaluate(message) == Ok(Some(true)),
            bytes: message.bytes(),
        })
    }

    /// What the condition is for a message: true, false, unknown, or nothing at all.
    pub fn evaluate(
        &self,
        properties: &[u8],
        body: &[u8],
        sys_flag: i32,
    ) -> Result<Option<bool>, EvaluationError> {
        let body = StoredBody { bytes: body, sys_flag };
        self.with_message(properties, body, |message| self.condition.evaluate(message))
    }

    fn with_message<T>(
        &self,
        properties: &[u8],
        body: StoredBody<'_>,
        ask: impl FnOnce(&Message<'_>) -> T,
    ) -> T {
        // Lives longer than the fields that are slices of it.
        let opened = OnceCell::new();
        ask(&Message {
            filter: self,
            properties,
            body,
            opened: &opened,
            fields: OnceCell::new(),
            property_bytes: Cell::new(0),
        })
    }
}

/// A message while it is asked about. Its body is opened when the first question about it comes.
struct Message<'a> {
    filter: &'a SqlFilter,
    properties: &'a [u8],
    body: StoredBody<'a>,
    opened: &'a OnceCell<Result<Cow<'a, [u8]>, EvaluationError>>,
    fields: OnceCell<Result<Vec<Value<'a>>, EvaluationError>>,
    property_bytes: Cell<usize>,
}

impl Message<'_> {
    fn bytes(&self) -> usize {
        self.property_bytes.get() + self.body_bytes()
    }

    fn body_bytes(&self) -> usize {
        match self.opened.get() {
            None => 0,
            Some(Ok(opened)) => self.body.bytes.len().max(opened.len()),
            // It was decompressed up to the limit at most.
            Some(Err(_)) => self.body.bytes.len().min(self.filter.max_body_bytes),
        }
    }
}

impl Fields for Message<'_> {
    fn property(&self, name: &str) -> Option<&str> {
        self.property_bytes.set(self.property_bytes.get() + self.properties.len());
        properties::get(self.properties, name)
    }

    fn body(&self, path: usize) -> Result<&Value<'_>, EvaluationError> {
        let fields = self.fields.get_or_init(|| {
            let opened = self.opened.get_or_init(|| self.body.open(self.filter.max_body_bytes));
            let opened = opened.as_ref().map_err(|error| *error)?;
            read_fields(opened, &self.filter.body_paths)
        });
        fields.as_ref().map(|fields| &fields[path]).map_err(|error| *error)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    const JSON: &[u8] =
        br#"{"price":12.5,"paid":true,"buyer":{"name":"Ann"},"items":[{"id":"x-1"},{"id":"x-2"}]}"#;

    fn compile(source: &str) -> Result<SqlFilter, FilterError> {
        SqlFilter::compile(source, &FilterRules::default())
    }

    fn over_body(source: &str, body: &[u8], sys_flag: i32) -> Result<Option<bool>, EvaluationError> {
        compile(source).unwrap().evaluate(b"", body, sys_flag)
    }

    #[test]
    fn fields_of_a_body_have_their_kinds() {
        for (source, expected) in [
            ("body.price > 10 AND body.price < 13", Some(true)),
            ("body.paid", Some(true)),
            ("body.paid = TRUE", Some(true)),
            ("body.buyer.name IN ('Ann', 'Bob')", Some(true)),
            ("body.items[1].id STARTSWITH 'x-'", Some(true)),
            ("body.items[2].id = 'x-3'", None),
            ("body.items[2] IS NULL AND body.buyer IS NOT NULL", Some(true)),
            ("-body.price < 0", Some(true)),
            ("NOT body.paid", Some(false)),
            ("body.price = '12.5'", Some(true)),
        ] {
            assert_eq!(over_body(source, JSON, 0), Ok(expected), "{source}");
        }
        assert_eq!(over_body("body.buyer = 'Ann'", JSON, 0), Err(EvaluationError::Composite));
    }

    #[test]
    fn compressed_bodies_are_opened_within_the_limit() {
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(5));
        zlib.write_all(JSON).unwrap();
        let body = zlib.finish().unwrap();
        assert_eq!(over_body("body.paid", &body, 0x301), Ok(Some(true)));
        assert_eq!(over_body("body.paid", JSON, 0x301), Err(EvaluationError::BodyCorrupt));
        let rules = FilterRules { max_body_bytes: JSON.len() - 1, ..FilterRules::default() };
        let filter = SqlFilter::compile("body.paid", &rules).unwrap();
        assert!(body.len() < JSON.len());
        for (body, sys_flag) in [(&body[..], 0x301), (JSON, 0)] {
            assert_eq!(filter.evaluate(b"", body, sys_flag), Err(EvaluationError::BodyTooLarge));
        }
    }

    #[test]
    fn a_body_is_opened_only_when_it_is_asked_about() {
        assert_eq!(over_body("FALSE AND body.paid", b"no JSON", 0), Ok(Some(false)));
        assert_eq!(over_body("body.paid", b"no JSON", 0), Err(EvaluationError::BodyNotJson));
    }

    #[test]
    fn limits_are_refused_by_their_names() {
        let problem = |source: &str| compile(source).unwrap_err().to_string();
        assert!(problem(&"a".repeat(20_000)).contains("filter.max_expression_bytes"));
        assert!(problem(&format!("body{} = 1", ".a".repeat(17))).contains("filter.max_body_depth"));
        for deep in
            ["(".repeat(2_000) + "a", "NOT ".repeat(2_000) + "a", "a".to_owned() + &" = a".repeat(2_000)]
        {
            assert!(problem(&deep).contains("more than 100 deep"), "{deep}");
        }
        let fields: Vec<_> = (0..40).map(|n| format!("body.f{n} = 1")).collect();
        assert!(problem(&fields.join(" OR ")).contains("32 fields of the body"));
        // Conditions side by side lie in nothing.
        compile(&format!("a = 0{}", " OR a = 1".repeat(1_000))).unwrap();
    }

    #[test]
    fn what_is_wrong_is_said_with_its_column() {
        for (source, expected) in [
            ("", "column 1: expected a property, a number, a text in single quotes, or (, found the end"),
            (
                "price >",
                "column 8: expected a property, a number, a text in single quotes, or (, found the end",
            ),
            (
                "name LIKE 'a%'",
                "column 6: expected AND, OR or the end, found \"LIKE\"; use CONTAINS, STARTSWITH or ENDSWITH",
            ),
            (
                "a == 1",
                "column 4: expected a property, a number, a text in single quotes, or (, found \"=\"; equal is written with one =",
            ),
            ("a != 1", "column 3: '!' begins nothing; unlike is written <>"),
            ("a > 'x'", "column 5: a text cannot be compared with >"),
            ("a = NULL", "column 5: NULL cannot be compared with ="),
            ("a BETWEEN 5 AND 1", "column 11: the bounds of BETWEEN are reversed: 5 is more than 1"),
            ("a IN (1)", "column 7: expected a text in single quotes, found \"1\""),
            (
                "a NOT 5",
                "column 7: expected BETWEEN, IN, CONTAINS, STARTSWITH or ENDSWITH behind NOT, found \"5\"",
            ),
            ("5", "column 1: a number is neither true nor false: compare it with something"),
            ("(a = 1", "column 7: expected AND, OR or ), found the end"),
        ] {
            assert_eq!(compile(source).unwrap_err().to_string(), expected, "{source}");
        }
    }

    /// Pieces of which conditions are made, right and wrong.
    fn pieces() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "a",
            "b",
            "NOT",
            "AND",
            "OR",
            "IS",
            "NULL",
            "IN",
            "BETWEEN",
            "CONTAINS",
            "(",
            ")",
            ",",
            "=",
            "<>",
            ">",
            "<=",
            "1",
            "2.5",
            "9223372036854775808",
            "'x'",
            "'",
            "-",
            "+",
            "--",
            "/*",
            "TRUE",
            "body.a",
            "body.a[0]",
            "body[",
            "é",
            "\n",
            ".",
            "1e",
        ]);
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.join(" "))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn nothing_panics(source in prop_oneof![pieces(), any::<String>()], properties: Vec<u8>, body: Vec<u8>, sys_flag: i32) {
            match compile(&source) {
                Ok(filter) => {
                    let _ = filter.evaluate(&properties, &body, sys_flag);
                }
                Err(error) => {
                    prop_assert!((1..=source.chars().count() + 1).contains(&error.column));
                    prop_assert!(!error.to_string().is_empty());
                }
            }
        }
    }
}
