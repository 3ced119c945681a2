//! Counters that the way of a message bumps: relaxed additions, read by the sampler alone.

use std::ops::{Add, Sub};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Messages, bytes and occasions that one actor counts. Each has a cache line of its own, since its neighbour
/// may be counted on another core.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Traffic {
    messages: AtomicU64,
    bytes: AtomicU64,
    times: AtomicU64,
}

impl Traffic {
    /// Counts a batch.
    pub fn add(&self, messages: u64, bytes: u64) {
        self.messages.fetch_add(messages, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.times.fetch_add(1, Relaxed);
    }

    pub fn read(&self) -> TrafficTotals {
        TrafficTotals {
            messages: self.messages.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            times: self.times.load(Relaxed),
        }
    }
}

/// What a [`Traffic`] has counted up to a moment, or between two.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TrafficTotals {
    pub messages: u64,
    pub bytes: u64,
    /// Batches or answers, whichever was counted.
    pub times: u64,
}

impl Add for TrafficTotals {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            messages: self.messages + other.messages,
            bytes: self.bytes + other.bytes,
            times: self.times + other.times,
        }
    }
}

impl Sub for TrafficTotals {
    type Output = Self;
    /// Counters only rise, so what is missing is a read between two additions.
    fn sub(self, earlier: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(earlier.messages),
            bytes: self.bytes.saturating_sub(earlier.bytes),
            times: self.times.saturating_sub(earlier.times),
        }
    }
}

/// Upper ends of the put times that are told apart, in milliseconds, as Java prints them.
pub const PUT_TIME_ENDS_MS: [u64; 12] = [0, 10, 50, 100, 200, 500, 1_000, 2_000, 3_000, 4_000, 5_000, 10_000];
/// Four steps per power of two of microseconds: a percentile is at most a quarter too high.
const LATENCY_STEPS: usize = 128;

/// What the whole store counts.
#[derive(Debug)]
pub struct StoreCounters {
    /// Messages stored; times are batches.
    pub(super) puts: Arc<Traffic>,
    /// Messages handed out; times are pulls that found some.
    pub(super) gets: Arc<Traffic>,
    gets_missed: AtomicU64,
    get_took_max_us: AtomicU64,
    puts_failed: AtomicU64,
    put_took_max_us: AtomicU64,
    put_times: [AtomicU64; PUT_TIME_ENDS_MS.len() + 1],
    put_latency: [AtomicU64; LATENCY_STEPS],
}

impl Default for StoreCounters {
    fn default() -> Self {
        Self {
            puts: Arc::default(),
            gets: Arc::default(),
            gets_missed: AtomicU64::new(0),
            get_took_max_us: AtomicU64::new(0),
            puts_failed: AtomicU64::new(0),
            put_took_max_us: AtomicU64::new(0),
            put_times: [const { AtomicU64::new(0) }; PUT_TIME_ENDS_MS.len() + 1],
            put_latency: [const { AtomicU64::new(0) }; LATENCY_STEPS],
        }
    }
}

impl StoreCounters {
    /// A batch was stored, this long after its first message was received.
    pub fn stored(&self, messages: u64, bytes: u64, took: Duration) {
        self.puts.add(messages, bytes);
        let took_us = micros(took);
        self.put_took_max_us.fetch_max(took_us, Relaxed);
        let slot = PUT_TIME_ENDS_MS.iter().position(|end_ms| took_us / 1_000 <= *end_ms);
        self.put_times[slot.unwrap_or(PUT_TIME_ENDS_MS.len())].fetch_add(messages, Relaxed);
        self.put_latency[latency_step(took_us)].fetch_add(messages, Relaxed);
    }

    /// Messages were refused by the store.
    pub fn put_failed(&self, messages: u64) {
        self.puts_failed.fetch_add(messages, Relaxed);
    }

    /// A pull found messages.
    pub fn found(&self, messages: u64, bytes: u64, took: Duration) {
        self.gets.add(messages, bytes);
        self.get_took_max_us.fetch_max(micros(took), Relaxed);
    }

    /// A pull found nothing.
    pub fn missed(&self) {
        self.gets_missed.fetch_add(1, Relaxed);
    }

    pub fn read(&self) -> StoreTotals {
        StoreTotals {
            puts: self.puts.read(),
            gets: self.gets.read(),
            gets_missed: self.gets_missed.load(Relaxed),
        }
    }

    pub fn read_put_times(&self) -> PutTimes {
        let latency = self.put_latency.each_ref().map(|count| count.load(Relaxed));
        PutTimes {
            failed: self.puts_failed.load(Relaxed),
            took_max: Duration::from_micros(self.put_took_max_us.load(Relaxed)),
            get_took_max: Duration::from_micros(self.get_took_max_us.load(Relaxed)),
            distribution: self.put_times.each_ref().map(|count| count.load(Relaxed)),
            p99: percentile(&latency, 0.99),
            p999: percentile(&latency, 0.999),
        }
    }
}

/// What the store has counted up to a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreTotals {
    pub puts: TrafficTotals,
    pub gets: TrafficTotals,
    pub gets_missed: u64,
}

/// How long storing took since the broker started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PutTimes {
    pub failed: u64,
    pub took_max: Duration,
    pub get_took_max: Duration,
    /// Messages by time, up to each of [`PUT_TIME_ENDS_MS`] and beyond.
    pub distribution: [u64; PUT_TIME_ENDS_MS.len() + 1],
    pub p99: Duration,
    pub p999: Duration,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Times below four microseconds have a step each; above, the two bits behind the highest choose it.
fn latency_step(took_us: u64) -> usize {
    if took_us < 4 {
        return took_us as usize;
    }
    let power = took_us.ilog2() as usize;
    let quarter = (took_us >> (power - 2)) as usize & 3;
    ((power - 1) * 4 + quarter).min(LATENCY_STEPS - 1)
}

/// The first microsecond behind a step.
fn step_end_us(step: usize) -> u64 {
    if step < 4 {
        return step as u64 + 1;
    }
    let (power, quarter) = (step / 4 + 1, step as u64 % 4);
    (5 + quarter) << (power - 2)
}

fn percentile(counts: &[u64], share: f64) -> Duration {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return Duration::ZERO;
    }
    let rank = (total as f64 * share).ceil() as u64;
    let mut seen = 0;
    let step = counts.iter().position(|count| {
        seen += count;
        seen >= rank
    });
    Duration::from_micros(step_end_us(step.unwrap_or(counts.len() - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_in_its_step() {
        for us in (0..10_000).chain([1 << 20, (1 << 33) - 1]) {
            let step = latency_step(us);
            assert!(us < step_end_us(step), "{us} {step}");
            assert!(step == 0 || us >= step_end_us(step - 1), "{us} {step}");
        }
        assert_eq!(latency_step(u64::MAX), LATENCY_STEPS - 1);
    }

    #[test]
    fn percentiles_are_at_most_a_quarter_too_high() {
        let counters = StoreCounters::default();
        for ms in 1..=1_000 {
            counters.stored(1, 10, Duration::from_millis(ms));
        }
        let times = counters.read_put_times();
        let p99 = times.p99.as_secs_f64();
        assert!((0.990..=0.990 * 1.26).contains(&p99), "{p99}");
        assert!(times.p999 >= times.p99 && times.took_max == Duration::from_secs(1));
        assert_eq!(times.distribution, [0, 10, 40, 50, 100, 300, 500, 0, 0, 0, 0, 0, 0]);
        assert_eq!(counters.read().puts, TrafficTotals { messages: 1_000, bytes: 10_000, times: 1_000 });
    }

    #[test]
    fn nothing_stored_has_no_percentile() {
        assert_eq!(StoreCounters::default().read_put_times(), PutTimes::default());
    }
}
