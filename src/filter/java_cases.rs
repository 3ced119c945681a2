//! Results of Java's own filter, and ours beside them. `tests/interop/sql-filter` makes the cases: a few hundred are
//! kept here, and it has any number more compared through the variable `FILTER_CASES`, a file.

use std::fs;

use super::error::{FilterError, FilterProblem};
use super::{FilterRules, SqlFilter};
use crate::protocol::properties;

const KEPT: &str = include_str!("java_cases.txt");

struct Case {
    result: String,
    condition: String,
    properties: Vec<(String, String)>,
}

impl Case {
    fn parse(line: &str) -> Self {
        let mut fields = line.split('\t').map(unescaped);
        let (result, condition) = (fields.next().unwrap(), fields.next().unwrap());
        let pair = |field: String| {
            let (name, value) = field.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        };
        Self { result, condition, properties: fields.map(pair).collect() }
    }

    /// Our result, in Java's words.
    fn ours(&self) -> String {
        self.result_of(&self.condition)
    }

    fn result_of(&self, condition: &str) -> String {
        match SqlFilter::compile(condition, &FilterRules::default()) {
            Ok(filter) => {
                let pairs = self.properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                match filter.evaluate(&properties::encode(pairs), b"", 0) {
                    Ok(Some(truth)) => truth.to_string(),
                    Ok(None) => "null".to_owned(),
                    Err(_) => "error".to_owned(),
                }
            }
            // Java leaves the rest unread; what comes before must mean the same.
            Err(FilterError { column, problem: FilterProblem::TrailingText { .. } }) => {
                self.result_of(&condition.chars().take(column - 1).collect::<String>())
            }
            Err(_) => "refused".to_owned(),
        }
    }
}

fn unescaped(text: &str) -> String {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(next) = chars.next() {
        plain.push(match next {
            '\\' => match chars.next().unwrap() {
                't' => '\t',
                'n' => '\n',
                'r' => '\r',
                'f' => '\x0C',
                other => other,
            },
            other => other,
        });
    }
    plain
}

#[test]
fn every_result_is_that_of_java() {
    let asked = std::env::var("FILTER_CASES").map(|path| fs::read_to_string(path).unwrap());
    let (mut cases, mut unlike) = (0, Vec::new());
    for line in KEPT.lines().chain(asked.as_deref().unwrap_or_default().lines()) {
        let case = Case::parse(line);
        let ours = case.ours();
        cases += 1;
        if ours != case.result {
            unlike.push(format!("{ours} instead of {line}"));
        }
    }
    assert!(cases > 500, "only {cases} cases");
    let some = &unlike[..unlike.len().min(40)];
    assert!(unlike.is_empty(), "{} of {cases} results differ:\n{}", unlike.len(), some.join("\n"));
}
