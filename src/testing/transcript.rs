//! What a scenario heard: who sent what to whom, and when.

use std::cell::RefCell;
use std::fmt::{self, Display, Write};
use std::rc::Rc;

use tokio::time::Instant;

/// The lines of a scenario, one for each message. Clones are the same transcript.
///
/// ```text
/// 00:00:06.000 checker -> producer-2: CheckTransaction "pay 7"
/// ```
#[derive(Clone, Debug)]
pub(super) struct Transcript {
    began: Instant,
    lines: Rc<RefCell<Vec<String>>>,
}

impl Transcript {
    pub(super) fn begin() -> Self {
        Self { began: Instant::now(), lines: Rc::default() }
    }

    /// Notes what happens now.
    pub(super) fn note(&self, what: impl Display) {
        let line = format!("{} {what}", TimeOfScene(self.began.elapsed().as_millis()));
        self.lines.borrow_mut().push(line);
    }

    /// Everything that was heard by now, a line each.
    pub fn text(&self) -> String {
        self.lines.borrow().iter().fold(String::new(), |mut text, line| {
            text.push_str(line);
            text.push('\n');
            text
        })
    }

    /// Compares what was heard by now with `expected`, whose indentation and empty lines do not count.
    ///
    /// # Panics
    /// When they differ: with the first line that does, and the whole transcript, ready to be copied.
    #[track_caller]
    pub fn expect(&self, expected: &str) {
        let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let heard = self.lines.borrow();
        let common = heard.iter().zip(&expected).take_while(|(heard, expected)| heard == expected).count();
        if common == heard.len() && common == expected.len() {
            return;
        }
        let line = |line: Option<&str>| line.unwrap_or("(nothing more)").to_owned();
        let was = line(heard.get(common).map(String::as_str));
        let should = line(expected.get(common).copied());
        drop(heard);
        panic!("line {}\n  should be: {should}\n  but was:   {was}\n\n{}", common + 1, self.text());
    }
}

/// Milliseconds since the scenario began, `HH:MM:SS.mmm`.
struct TimeOfScene(u128);

impl Display for TimeOfScene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, ms) = (self.0 / 1_000, self.0 % 1_000);
        write!(f, "{:02}:{:02}:{:02}.{ms:03}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
    }
}

/// From whom to whom a message goes.
#[derive(Clone, Debug)]
pub(super) struct Way {
    from: Rc<str>,
    to: Rc<str>,
}

impl Way {
    /// # Panics
    /// Unless it is of the form `checker -> producer`.
    #[track_caller]
    pub(super) fn parse(arrow: &str) -> Self {
        match arrow.split_once(" -> ") {
            Some((from, to)) if !from.is_empty() && !to.is_empty() => Self::new(from, to),
            _ => panic!("{arrow:?} does not say who sends to whom: \"checker -> producer\""),
        }
    }

    pub(super) fn new(from: &str, to: &str) -> Self {
        Self { from: from.into(), to: to.into() }
    }

    pub(super) fn back(&self) -> Self {
        Self { from: self.to.clone(), to: self.from.clone() }
    }
}

/// One way of messages, and the transcript that hears of them.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub transcript: Transcript,
    pub way: Way,
}

impl Heard {
    pub(super) fn note(&self, what: impl Display) {
        self.transcript.note(format_args!("{} -> {}: {what}", self.way.from, self.way.to));
    }
}

/// A text on one line, in quotation marks; a long one is cut, and what is no text tells its length.
pub(super) fn quoted(bytes: &[u8]) -> String {
    /// Characters that are shown.
    const SHOWN: usize = 40;
    let Ok(text) = std::str::from_utf8(bytes) else { return format!("({} bytes)", bytes.len()) };
    let mut quoted = format!("{:?}", text.chars().take(SHOWN).collect::<String>());
    if text.chars().count() > SHOWN {
        write!(quoted, " ({} bytes)", bytes.len()).expect("a string takes text");
    }
    quoted
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[actix::test]
    async fn lines_tell_the_time_since_the_scene_began() {
        tokio::time::pause();
        let transcript = Transcript::begin();
        let heard = Heard { transcript: transcript.clone(), way: Way::parse("a -> b c") };
        heard.note("Ask");
        tokio::time::advance(Duration::from_millis(3_661_007)).await;
        Heard { way: heard.way.back(), ..heard }.note("Tell");
        transcript.expect(
            "
            00:00:00.000 a -> b c: Ask

            01:01:01.007 b c -> a: Tell
            ",
        );
    }

    #[actix::test]
    #[should_panic(expected = "line 2\n  should be: 00:00:00.000 c\n  but was:   (nothing more)")]
    async fn difference_is_shown_by_its_first_line() {
        tokio::time::pause();
        let transcript = Transcript::begin();
        transcript.note("a");
        transcript.expect("00:00:00.000 a\n00:00:00.000 c\n00:00:00.000 d");
    }

    #[test]
    #[should_panic(expected = "does not say who sends to whom")]
    fn way_without_an_arrow_is_refused() {
        Way::parse("checker to producer");
    }

    #[test]
    fn bodies_are_shown_on_one_line() {
        assert_eq!(quoted(b"pay 7\n"), r#""pay 7\n""#);
        assert_eq!(quoted(&[0xFF, 0]), "(2 bytes)");
        assert_eq!(quoted("x".repeat(50).as_bytes()), format!("{:?} (50 bytes)", "x".repeat(40)));
    }
}
