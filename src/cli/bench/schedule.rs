//! When messages are meant to be sent.
//!
//! At a fixed rate, message `n` has its time whether or not earlier ones are answered, and its latency counts
//! from that time. Otherwise a server that stops for a second would hide it: nothing is sent meanwhile, so
//! nothing is late ("coordinated omission").

use std::time::{Duration, Instant};

/// Times of the messages of one connection, evenly interleaved with those of the others.
#[derive(Clone, Debug)]
pub struct Schedule {
    start: Instant,
    rate_per_s: f64,
    /// Number of the next message over all connections.
    next: u64,
    step: u64,
}

impl Schedule {
    /// For connection number `index` of `connections` that share `rate_per_s`.
    pub fn new(start: Instant, rate_per_s: f64, index: usize, connections: usize) -> Self {
        Self { start, rate_per_s, next: index as u64, step: connections as u64 }
    }

    /// When the next message is due.
    pub fn due(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.next as f64 / self.rate_per_s)
    }

    /// The time of the next message, if it has come; then the one after is next.
    pub fn take(&mut self, now: Instant) -> Option<Instant> {
        let due = self.due();
        if due > now {
            return None;
        }
        self.next += self.step;
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_do_not_depend_on_when_they_are_taken() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, 1_000.0, 0, 1);
        // Nobody takes any for ten milliseconds: all are still there, with their own times.
        let late = start + Duration::from_millis(10);
        let times: Vec<_> = std::iter::from_fn(|| schedule.take(late)).collect();
        assert_eq!(times.len(), 11);
        assert_eq!(times[3], start + Duration::from_millis(3));
        assert_eq!(schedule.due(), start + Duration::from_millis(11));
    }

    #[test]
    fn connections_take_turns() {
        let start = Instant::now();
        let end = start + Duration::from_secs(1);
        let take_all = |index| {
            let mut schedule = Schedule::new(start, 100.0, index, 4);
            std::iter::from_fn(move || schedule.take(end)).collect::<Vec<_>>()
        };
        let mut all: Vec<Instant> = (0..4).flat_map(take_all).collect();
        all.sort();
        assert_eq!(all.len(), 101);
        assert!(all.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_micros(9_999)));
    }

    #[test]
    fn a_schedule_does_not_drift() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, 3.0, 0, 1);
        let hour = start + Duration::from_secs(3_600);
        while schedule.take(hour).is_some() {}
        let off = schedule.due() - hour;
        assert!(off.abs_diff(Duration::from_secs_f64(1.0 / 3.0)) < Duration::from_millis(1));
    }
}
