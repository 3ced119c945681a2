//! SQL92 conditions over the properties of messages, and over the fields of JSON bodies. RocketMQ:
//! `rocketmq-filter` (`SelectorParser.jj` and its expressions), whose results are followed in everything that it
//! accepts, odd as they may be; `tests/interop/java-filter` compares the two.
//!
//! A condition is compiled once for a subscription and evaluated over the bytes of stored records, without copying
//! any of them. Pure: no I/O, no clock.
//!
//! Departures from Java, all of them loud:
//! - Text behind the end of a condition is refused; Java leaves it unread (`a = 1 b = 2` is `a = 1` there).
//! - Length and depth have limits that are refused by name; Java's is its stack.
//! - `body.price` and `body.items[0]['order-id']` read a JSON body; Java takes no `.` behind a name.

mod body;
mod condition;
mod error;
#[cfg(test)]
mod java_cases;
mod java_number;
mod lexer;
mod parser;
mod sql_filter;
mod value;

pub use self::body::{BodyPath, BodyStep};
pub use self::error::{EvaluationError, FilterError, FilterProblem};
pub use self::sql_filter::{FilterRules, Looked, SqlFilter};
