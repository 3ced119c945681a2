//! Why a condition does not compile, and why one that does has no result.

use super::parser::{MAX_DEPTH, MAX_FIELDS};

/// What is wrong with a condition, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("column {column}: {problem}")]
pub struct FilterError {
    /// In characters, from 1.
    pub column: usize,
    pub problem: FilterProblem,
}

/// See [`FilterError`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FilterProblem {
    #[error("{found:?} begins nothing{}", hint(found))]
    UnknownCharacter { found: char },
    #[error("the text that begins here is not closed with a single quote")]
    OpenText,
    #[error("the comment that begins here is not closed with */")]
    OpenComment,
    #[error("expected {expected}, found {found}{}", word_hint(found))]
    Unexpected { expected: &'static str, found: String },
    #[error("expected AND, OR or the end, found {found}{}", word_hint(found))]
    TrailingText { found: String },
    #[error("the number {number} is beyond {limit}")]
    NumberTooLarge { number: String, limit: &'static str },
    #[error("{operand} cannot be compared with {operator}")]
    NotComparable { operand: &'static str, operator: &'static str },
    #[error("{operand} is neither true nor false: compare it with something")]
    NotACondition { operand: &'static str },
    #[error("the bounds of BETWEEN are reversed: {low} is more than {high}")]
    ReversedBounds { low: String, high: String },
    #[error("IN is asked of a property, not of {operand}")]
    InOfNoProperty { operand: &'static str },
    #[error(
        "the condition is {len_bytes} bytes long, the limit is {max_bytes} (filter.max_expression_bytes)"
    )]
    TooLong { len_bytes: usize, max_bytes: usize },
    #[error("parts of the condition lie in each other more than {MAX_DEPTH} deep, the limit")]
    TooDeep,
    #[error("more than {MAX_FIELDS} fields of the body are asked for, the limit")]
    TooManyFields,
    #[error("expected a name, or an index as [0] or ['name'], behind body")]
    BodyStep,
    #[error("the body is looked into {steps} deep, the limit is {max_steps} (filter.max_body_depth)")]
    BodyTooDeep { steps: usize, max_steps: usize },
}

/// Why a condition has no result for a message. The message does not match then.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EvaluationError {
    #[error("a text is compared with a number and is none")]
    NotANumber,
    #[error("true or false is compared with a text")]
    FlagWithText,
    #[error("an object or array of the body is compared")]
    Composite,
    #[error("the body is larger than the limit (filter.max_body_bytes)")]
    BodyTooLarge,
    #[error("the body cannot be decompressed")]
    BodyCorrupt,
    #[error("the body is not JSON")]
    BodyNotJson,
}

/// Advice for characters of other dialects.
fn hint(found: &char) -> &'static str {
    match found {
        '"' => "; texts stand in single quotes, names in none",
        '!' => "; unlike is written <>",
        '&' => "; and is written AND",
        '|' => "; or is written OR",
        '%' | '*' | '/' => "; there is no arithmetic",
        '.' => "; only a path that begins with body. has dots",
        '[' => "; only a path that begins with body. has brackets",
        _ => "",
    }
}

/// Advice for words of other dialects.
fn word_hint(found: &str) -> &'static str {
    match found.trim_matches('"').to_ascii_uppercase().as_str() {
        "LIKE" => "; use CONTAINS, STARTSWITH or ENDSWITH",
        "=" => "; equal is written with one =",
        "+" | "-" => "; there is no arithmetic",
        _ => "",
    }
}
