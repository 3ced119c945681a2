//! Totals at regular moments, so that what happened in between is a subtraction.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::counters::TrafficTotals;
use crate::protocol::body::stats::{BrokerStatsData, BrokerStatsItem};

/// The sampler's step.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(10);

/// The newest samples, oldest first; never empty.
#[derive(Clone, Debug)]
pub struct History<T> {
    samples: VecDeque<(Instant, T)>,
    keep: usize,
}

impl<T: Copy> History<T> {
    pub fn new(keep: usize, now: Instant, totals: T) -> Self {
        Self { samples: VecDeque::from([(now, totals)]), keep }
    }

    pub fn push(&mut self, now: Instant, totals: T) {
        if self.samples.len() >= self.keep {
            self.samples.pop_front();
        }
        self.samples.push_back((now, totals));
    }

    /// The sample `steps` before the newest, or the oldest there is.
    pub fn back(&self, steps: usize) -> (Instant, T) {
        self.samples[(self.samples.len() - 1).saturating_sub(steps)]
    }

    pub fn oldest(&self) -> (Instant, T) {
        self.samples[0]
    }

    pub fn is_full(&self) -> bool {
        self.samples.len() == self.keep
    }
}

/// Per second, over the time since `then`; a moment counts as a second.
pub fn per_second(count: u64, then: Instant, now: Instant) -> f64 {
    count as f64 / now.saturating_duration_since(then).as_secs_f64().max(1.0)
}

/// One kind of traffic over the last minute, hour and day. RocketMQ: `StatsItem`.
#[derive(Clone, Debug)]
pub struct TrafficHistory {
    /// Every 10 seconds.
    minute: History<TrafficTotals>,
    /// Every 10 minutes.
    hour: History<TrafficTotals>,
    /// Every hour.
    day: History<TrafficTotals>,
    ticks: u32,
}

/// What of the traffic is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Measure {
    Messages,
    Bytes,
}

impl Measure {
    fn of(self, totals: TrafficTotals) -> u64 {
        match self {
            Measure::Messages => totals.messages,
            Measure::Bytes => totals.bytes,
        }
    }
}

impl TrafficHistory {
    pub fn new(now: Instant) -> Self {
        let none = TrafficTotals::default();
        Self {
            minute: History::new(7, now, none),
            hour: History::new(7, now, none),
            day: History::new(25, now, none),
            ticks: 0,
        }
    }

    /// Called once per [`SAMPLE_EVERY`].
    pub fn sample(&mut self, now: Instant, totals: TrafficTotals) {
        self.ticks += 1;
        self.minute.push(now, totals);
        if self.ticks.is_multiple_of(60) {
            self.hour.push(now, totals);
        }
        if self.ticks.is_multiple_of(360) {
            self.day.push(now, totals);
            self.ticks = 0;
        }
    }

    /// Whether nothing was counted for a day.
    pub fn is_idle(&self, totals: TrafficTotals) -> bool {
        self.day.is_full() && self.day.oldest().1 == totals
    }

    pub fn view(&self, measure: Measure, now: Instant, totals: TrafficTotals) -> BrokerStatsData {
        let item = |history: &History<TrafficTotals>| {
            let (then, earlier) = history.oldest();
            let difference = totals - earlier;
            let sum = measure.of(difference);
            BrokerStatsItem {
                avgpt: if difference.times == 0 { 0.0 } else { sum as f64 / difference.times as f64 },
                sum: sum as i64,
                tps: per_second(sum, then, now),
            }
        };
        BrokerStatsData {
            stats_day: item(&self.day),
            stats_hour: item(&self.hour),
            stats_minute: item(&self.minute),
        }
    }
}

/// What had been counted at the last two midnights and is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DayTotals {
    pub yesterday_morning: u64,
    pub today_morning: u64,
    pub now: u64,
}

impl DayTotals {
    /// A midnight has passed.
    pub fn turn(&mut self, now: u64) {
        self.yesterday_morning = self.today_morning;
        self.today_morning = now;
    }

    pub fn at(self, now: u64) -> Self {
        Self { now, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(messages: u64) -> TrafficTotals {
        TrafficTotals { messages, bytes: messages * 100, times: messages / 2 }
    }

    #[test]
    fn windows_forget_what_is_older_than_they_are() {
        let start = Instant::now();
        let mut history = TrafficHistory::new(start);
        let mut now = start;
        // 1 message a second for 25 hours.
        let steps = 25 * 360;
        for step in 1..=steps {
            now = start + SAMPLE_EVERY * step;
            history.sample(now, totals(u64::from(step) * 10));
        }
        let view = history.view(Measure::Messages, now, totals(u64::from(steps) * 10));
        assert_eq!((view.stats_minute.sum, view.stats_hour.sum, view.stats_day.sum), (60, 3_600, 86_400));
        for item in [view.stats_minute, view.stats_hour, view.stats_day] {
            assert_eq!((item.tps, item.avgpt), (1.0, 2.0));
        }
        assert!(!history.is_idle(totals(u64::from(steps) * 10)));
        let bytes = history.view(Measure::Bytes, now, totals(u64::from(steps) * 10));
        assert_eq!((bytes.stats_minute.sum, bytes.stats_minute.avgpt), (6_000, 200.0));
    }

    #[test]
    fn young_traffic_is_seen_at_once() {
        let start = Instant::now();
        let history = TrafficHistory::new(start);
        let view = history.view(Measure::Messages, start + Duration::from_secs(2), totals(10));
        assert_eq!((view.stats_minute.sum, view.stats_minute.tps, view.stats_day.sum), (10, 5.0, 10));
    }

    #[test]
    fn midnight_moves_the_totals_back() {
        let mut day = DayTotals::default();
        day.turn(10);
        day.turn(25);
        assert_eq!(day.at(30), DayTotals { yesterday_morning: 10, today_morning: 25, now: 30 });
    }
}
