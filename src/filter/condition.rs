//! A compiled condition and its evaluation, in three values: true, false, and null for unknown.
//!
//! RocketMQ: the expression classes. What Java throws is an [`EvaluationError`] here; operands are evaluated in
//! Java's order, since it decides whether an error is met.

use std::cmp::Ordering;

use super::error::EvaluationError;
use super::value::Value;

/// What a condition is asked about.
pub trait Fields {
    /// The value of a property.
    fn property(&self, name: &str) -> Option<&str>;
    /// The value at the n-th path of the condition.
    fn body(&self, path: usize) -> Result<&Value<'_>, EvaluationError>;
}

/// Something that has a value.
#[derive(Clone, PartialEq, Debug)]
pub enum Operand {
    Constant(Value<'static>),
    Property(Box<str>),
    /// By its place in the list of the condition's paths.
    Body(usize),
    Negated(Box<Operand>),
    Condition(Box<Condition>),
}

/// Something that is true, false or null.
#[derive(Clone, PartialEq, Debug)]
pub enum Condition {
    Literal(Option<bool>),
    /// A property that stands alone: true only if its value is, which that of a property never is.
    Alone(Operand),
    Not(Box<Condition>),
    All(Vec<Condition>),
    Any(Vec<Condition>),
    IsNull(Operand),
    Equal(Operand, Operand),
    Size(Operand, Comparison, Operand),
    Between {
        operand: Operand,
        negated: bool,
        low: Operand,
        high: Operand,
    },
    In {
        operand: Operand,
        negated: bool,
        texts: Box<[Box<str>]>,
    },
    Part {
        operand: Operand,
        negated: bool,
        place: Place,
        part: Box<str>,
    },
}

/// Which sizes satisfy a comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    Greater,
    AtLeast,
    Less,
    AtMost,
}

impl Comparison {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Comparison::Greater => order.is_gt(),
            Comparison::AtLeast => order.is_ge(),
            Comparison::Less => order.is_lt(),
            Comparison::AtMost => order.is_le(),
        }
    }
}

/// Where in a text a part is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Anywhere,
    Start,
    End,
}

impl Operand {
    fn evaluate<'a>(&'a self, fields: &'a impl Fields) -> Result<Value<'a>, EvaluationError> {
        Ok(match self {
            Operand::Constant(value) => value.clone(),
            Operand::Property(name) => {
                fields.property(name).map_or(Value::Null, |text| Value::Text(text.into()))
            }
            Operand::Body(path) => fields.body(*path)?.clone(),
            Operand::Negated(operand) => operand.evaluate(fields)?.negated().unwrap_or(Value::Null),
            Operand::Condition(condition) => condition.evaluate(fields)?.map_or(Value::Null, Value::Flag),
        })
    }
}

type Truth = Result<Option<bool>, EvaluationError>;

impl Condition {
    pub fn evaluate(&self, fields: &impl Fields) -> Truth {
        match self {
            Condition::Literal(truth) => Ok(*truth),
            Condition::Alone(operand) => Ok(match operand.evaluate(fields)? {
                Value::Null => None,
                value => Some(value == Value::Flag(true)),
            }),
            Condition::Not(condition) => Ok(condition.evaluate(fields)?.map(|truth| !truth)),
            Condition::All(conditions) => first_or_unknown(conditions, false, fields),
            Condition::Any(conditions) => first_or_unknown(conditions, true, fields),
            Condition::IsNull(operand) => Ok(Some(operand.evaluate(fields)?.is_null())),
            Condition::Equal(left, right) => {
                let (left, right) = (left.evaluate(fields)?, right.evaluate(fields)?);
                match (left.is_null(), right.is_null()) {
                    // Two that are missing are the same, as in Java and not as in SQL.
                    (true, true) => Ok(Some(true)),
                    (true, false) => Ok(None),
                    (false, true) => Ok(Some(false)),
                    (false, false) => left.equals(&right).map(Some),
                }
            }
            Condition::Size(left, comparison, right) => {
                holds(&left.evaluate(fields)?, *comparison, right, fields)
            }
            Condition::Between { operand, negated, low, high } => {
                let value = operand.evaluate(fields)?;
                let (at_low, at_high) = match negated {
                    false => (Comparison::AtLeast, Comparison::AtMost),
                    true => (Comparison::Less, Comparison::Greater),
                };
                // Either is enough outside, both are needed inside.
                let decisive = Some(*negated);
                let above = holds(&value, at_low, low, fields)?;
                if above == decisive {
                    return Ok(above);
                }
                let below = holds(&value, at_high, high, fields)?;
                Ok(if below == decisive { below } else { above.and(below) })
            }
            Condition::In { operand, negated, texts } => Ok(match operand.evaluate(fields)? {
                Value::Text(text) => Some(texts.iter().any(|listed| **listed == *text) != *negated),
                _ => None,
            }),
            Condition::Part { operand, negated, place, part } => {
                if part.is_empty() {
                    return Ok(Some(false));
                }
                let Value::Text(text) = operand.evaluate(fields)? else { return Ok(Some(false)) };
                let found = match place {
                    Place::Anywhere => text.contains(&**part),
                    Place::Start => text.starts_with(&**part),
                    Place::End => text.ends_with(&**part),
                };
                Ok(Some(found != *negated))
            }
        }
    }
}

/// The first `decisive` one decides; otherwise one that is unknown makes all unknown.
fn first_or_unknown(conditions: &[Condition], decisive: bool, fields: &impl Fields) -> Truth {
    let mut all_known = true;
    for condition in conditions {
        match condition.evaluate(fields)? {
            Some(truth) if truth == decisive => return Ok(Some(decisive)),
            Some(_) => {}
            None => all_known = false,
        }
    }
    Ok(all_known.then_some(!decisive))
}

/// `right` is not evaluated, and cannot fail, where `left` is null.
fn holds(left: &Value<'_>, comparison: Comparison, right: &Operand, fields: &impl Fields) -> Truth {
    if left.is_null() {
        return Ok(None);
    }
    let right = right.evaluate(fields)?;
    if right.is_null() {
        return Ok(None);
    }
    Ok(Some(comparison.holds(left.compare_sizes(&right)?)))
}
