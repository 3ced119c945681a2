//! Values, and how Java compares those of unlike kinds. RocketMQ: `ComparisonExpression.__compare`.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::error::EvaluationError;
use super::java_number;

/// What an operand is worth. A property is always a [`Text`](Self::Text); a field of a body keeps its kind.
#[derive(Clone, PartialEq, Debug)]
pub enum Value<'a> {
    Null,
    Flag(bool),
    Int(i32),
    Long(i64),
    Double(f64),
    Text(Cow<'a, str>),
    /// An object or array of a body: there, and not to be compared.
    Composite,
}

impl Value<'_> {
    /// A whole number, in the smaller type if it fits.
    pub fn whole(number: i64) -> Self {
        i32::try_from(number).map_or(Value::Long(number), Value::Int)
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// Unary minus; `None`: not a number.
    pub fn negated(&self) -> Option<Self> {
        match self {
            Value::Int(number) => Some(Value::Int(number.wrapping_neg())),
            Value::Long(number) => Some(Value::Long(number.wrapping_neg())),
            Value::Double(number) => Some(Value::Double(-number)),
            _ => None,
        }
    }

    /// Compares values that are not null. A text is read as a number of the other's type; kinds that have nothing
    /// to do with each other count as less, whichever way round, as in Java.
    pub fn compare(&self, other: &Value<'_>) -> Result<Ordering, EvaluationError> {
        use Value::*;
        Ok(match (self, other) {
            (Composite, _) | (_, Composite) => return Err(EvaluationError::Composite),
            (Flag(one), Flag(other)) => one.cmp(other),
            (Text(one), Text(other)) => one.cmp(other),
            // Java casts the wrong one of the two, which fails.
            (Flag(_), Text(_)) => return Err(EvaluationError::FlagWithText),
            (Text(text), Flag(flag)) => text.eq_ignore_ascii_case("true").cmp(flag),
            (Int(one), Int(other)) => one.cmp(other),
            (Int(one), Long(other)) => i64::from(*one).cmp(other),
            (Long(one), Int(other)) => one.cmp(&i64::from(*other)),
            (Long(one), Long(other)) => one.cmp(other),
            (Int(one), Double(other)) => compare_doubles(f64::from(*one), *other),
            (Double(one), Int(other)) => compare_doubles(*one, f64::from(*other)),
            (Long(one), Double(other)) => compare_doubles(*one as f64, *other),
            (Double(one), Long(other)) => compare_doubles(*one, *other as f64),
            (Double(one), Double(other)) => compare_doubles(*one, *other),
            (Text(text), Int(number)) => parsed::<i32>(text)?.cmp(number),
            (Int(number), Text(text)) => number.cmp(&parsed(text)?),
            (Text(text), Long(number)) => parsed::<i64>(text)?.cmp(number),
            (Long(number), Text(text)) => number.cmp(&parsed(text)?),
            (Text(text), Double(number)) => compare_doubles(parsed_double(text)?, *number),
            (Double(number), Text(text)) => compare_doubles(*number, parsed_double(text)?),
            (Flag(_), _) | (_, Flag(_)) | (Null, _) | (_, Null) => Ordering::Less,
        })
    }

    /// As [`compare`](Self::compare), for `>`, `<` and their kin: two texts are compared as numbers.
    pub fn compare_sizes(&self, other: &Value<'_>) -> Result<Ordering, EvaluationError> {
        match (self, other) {
            (Value::Text(one), Value::Text(other)) => {
                Ok(compare_doubles(parsed_double(one)?, parsed_double(other)?))
            }
            _ => self.compare(other),
        }
    }

    /// `=`: texts by their text. Neither may be null.
    pub fn equals(&self, other: &Value<'_>) -> Result<bool, EvaluationError> {
        Ok(self.compare(other)? == Ordering::Equal)
    }
}

fn parsed<Number: std::str::FromStr>(text: &str) -> Result<Number, EvaluationError> {
    text.parse().map_err(|_| EvaluationError::NotANumber)
}

fn parsed_double(text: &str) -> Result<f64, EvaluationError> {
    java_number::double(text).ok_or(EvaluationError::NotANumber)
}

/// `Double.compare`: -0.0 is below 0.0; NaN, of which there is one, above all.
fn compare_doubles(one: f64, other: f64) -> Ordering {
    one.total_cmp(&other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value<'_> {
        Value::Text(text.into())
    }

    #[test]
    fn texts_are_read_as_the_type_of_the_number() {
        assert!(text("5").equals(&Value::Int(5)).unwrap());
        assert!(text("+5").equals(&Value::Int(5)).unwrap());
        assert_eq!(text("3000000000").compare(&Value::Int(5)), Err(EvaluationError::NotANumber));
        assert_eq!(text("3000000000").compare(&Value::Long(5)), Ok(Ordering::Greater));
        assert_eq!(text("5.0").compare(&Value::Int(5)), Err(EvaluationError::NotANumber));
        assert!(Value::Double(5.0).equals(&text("5")).unwrap());
    }

    #[test]
    fn numbers_of_unlike_types_meet_in_the_wider() {
        assert!(Value::Int(5).equals(&Value::Long(5)).unwrap());
        assert!(Value::Long(1 << 53 | 1).equals(&Value::Double((1u64 << 53) as f64)).unwrap());
        assert!(!Value::Double(-0.0).equals(&Value::Int(0)).unwrap());
    }

    #[test]
    fn sizes_of_two_texts_are_those_of_their_numbers() {
        assert_eq!(text("9").compare_sizes(&text("10")), Ok(Ordering::Less));
        assert!(!text("9").equals(&text("9.0")).unwrap());
        assert_eq!(text("9").compare_sizes(&text("x")), Err(EvaluationError::NotANumber));
    }

    #[test]
    fn a_flag_is_equal_to_the_word_on_one_side_only() {
        assert!(text("TRUE").equals(&Value::Flag(true)).unwrap());
        assert!(text("yes").equals(&Value::Flag(false)).unwrap());
        assert_eq!(Value::Flag(true).equals(&text("true")), Err(EvaluationError::FlagWithText));
        assert!(!Value::Flag(true).equals(&Value::Int(1)).unwrap());
    }
}
