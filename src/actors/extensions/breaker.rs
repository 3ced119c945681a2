//! A circuit breaker: whoever fails too often in a row is not asked for a while. Pure; time comes in.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Breaker {
    failures_to_open: u32,
    open_for: Duration,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
    },
    /// One question is under way, and decides.
    Trying,
}

impl fmt::Display for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::Closed { .. } => "closed",
            State::Open { .. } => "open",
            State::Trying => "trying",
        })
    }
}

/// What a failure has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterFailure {
    StaysClosed,
    /// Nobody is asked for a while.
    Opened,
    /// It was open already: the question was asked before.
    WasOpen,
}

impl Breaker {
    pub fn new(failures_to_open: u32, open_for: Duration) -> Self {
        Self { failures_to_open: failures_to_open.max(1), open_for, state: State::Closed { failures: 0 } }
    }

    /// Whether a question may be asked now. After a pause it lets one through, and then none until that is answered.
    pub fn lets_through(&mut self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until } if until <= now => {
                self.state = State::Trying;
                true
            }
            State::Open { .. } | State::Trying => false,
        }
    }

    /// A question was answered. Says whether that closed it.
    pub fn succeeded(&mut self) -> bool {
        let was = std::mem::replace(&mut self.state, State::Closed { failures: 0 });
        was == State::Trying || matches!(was, State::Open { .. })
    }

    /// A question was not answered.
    pub fn failed(&mut self, now: Instant) -> AfterFailure {
        let failures = match self.state {
            State::Closed { failures } => failures + 1,
            State::Trying => self.failures_to_open,
            State::Open { .. } => return AfterFailure::WasOpen,
        };
        if failures < self.failures_to_open {
            self.state = State::Closed { failures };
            return AfterFailure::StaysClosed;
        }
        self.state = State::Open { until: now + self.open_for };
        AfterFailure::Opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_failures_in_a_row_and_closes_when_one_succeeds() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut breaker = Breaker::new(3, Duration::from_secs(10));
        assert_eq!(breaker.failed(at(0)), AfterFailure::StaysClosed);
        assert_eq!(breaker.failed(at(0)), AfterFailure::StaysClosed);
        assert!(!breaker.succeeded(), "it was closed");
        for _ in 0..2 {
            assert_eq!(breaker.failed(at(0)), AfterFailure::StaysClosed);
        }
        assert!(breaker.lets_through(at(0)));
        assert_eq!(breaker.failed(at(0)), AfterFailure::Opened);
        assert_eq!(breaker.failed(at(1)), AfterFailure::WasOpen);
        assert!(!breaker.lets_through(at(9)));
        assert_eq!(breaker.to_string(), "open");

        assert!(breaker.lets_through(at(10)), "one tries");
        assert_eq!(breaker.to_string(), "trying");
        assert!(!breaker.lets_through(at(10)), "and only one");
        assert_eq!(breaker.failed(at(11)), AfterFailure::Opened);
        assert!(!breaker.lets_through(at(20)));
        assert!(breaker.lets_through(at(21)));
        assert!(breaker.succeeded());
        assert_eq!(breaker.to_string(), "closed");
        assert!(breaker.lets_through(at(21)) && breaker.lets_through(at(21)));
    }
}
