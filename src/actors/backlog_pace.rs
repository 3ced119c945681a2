//! How fast a backlog is read while others send.
//!
//! A consumer that is far behind asks again as soon as it is answered, and what it is given costs little each time: it
//! would have most of a worker's turns, and those who send would wait between them. So while sends are on their way to
//! the log, pulls of a backlog get no more than a share of the workers' time; what is left of it is the senders'. When
//! nobody sends, nothing is held back, and what is new in a queue is never.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// What pulls may have ahead of their share before they wait; timers are no finer.
const AHEAD: Duration = Duration::from_millis(1);
/// Longest wait, however many pulls there are: none is to starve.
const LONGEST_WAIT: Duration = Duration::from_millis(10);
/// What a pull counts for at most: if one took longer, machine or disk stood still, and the next need not.
const LONGEST_COUNTED: Duration = Duration::from_millis(1);

/// The turns of pulls of backlogs; all queues of a broker share it. Figures only: nothing else depends on them.
#[derive(Debug)]
pub struct BacklogPace {
    begun: Instant,
    /// Time that a pull stands for, by the time that it takes; `None`: no pull ever waits.
    stretch: Option<f64>,
    /// Batches of sends on their way to the log.
    sends: AtomicUsize,
    /// Up to when turns are given away, ns since `begun`.
    given_until: AtomicU64,
    /// What a pull of a backlog took lately.
    read: Lately,
    /// What it took lately to write the answer to one.
    written: Lately,
}

/// A mean time that follows what comes.
#[derive(Debug, Default)]
struct Lately(AtomicU64);

impl Lately {
    fn ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn note(&self, time: Duration) {
        let (before, time) = (self.ns(), time.min(LONGEST_COUNTED).as_nanos() as u64);
        let lately = if before == 0 { time } else { (before * 7 + time) / 8 };
        self.0.store(lately, Ordering::Relaxed);
    }
}

impl Default for BacklogPace {
    /// No pull ever waits.
    fn default() -> Self {
        Self::new(100, 1)
    }
}

/// Sends on their way to the log, for as long as it lives.
#[derive(Debug)]
pub struct SendsUnderWay(Arc<BacklogPace>);

impl Drop for SendsUnderWay {
    fn drop(&mut self) {
        self.0.sends.fetch_sub(1, Ordering::Relaxed);
    }
}

impl BacklogPace {
    /// Pulls get `percent` of the time of `workers` threads, from 1 on; with 100 no pull waits.
    pub fn new(percent: u32, workers: usize) -> Self {
        let is_limited = percent < 100;
        Self {
            begun: Instant::now(),
            stretch: is_limited.then(|| 100.0 / (f64::from(percent.max(1)) * workers.max(1) as f64)),
            sends: AtomicUsize::new(0),
            given_until: AtomicU64::new(0),
            read: Lately::default(),
            written: Lately::default(),
        }
    }

    /// A batch goes to the writer of the log.
    pub fn sends_begin(self: &Arc<Self>) -> SendsUnderWay {
        self.sends.fetch_add(1, Ordering::Relaxed);
        SendsUnderWay(self.clone())
    }

    /// Gives a pull of a backlog that came `now` its turn: how long it is to wait for it.
    pub fn turn_in(&self, now: Instant) -> Duration {
        let Some(stretch) = self.stretch.filter(|_| self.sends.load(Ordering::Relaxed) > 0) else {
            return Duration::ZERO;
        };
        let now = now.duration_since(self.begun);
        let given_until = Duration::from_nanos(self.given_until.load(Ordering::Relaxed));
        let begin = given_until.clamp(now, now + AHEAD + LONGEST_WAIT);
        let pull = Duration::from_nanos(self.read.ns() + self.written.ns());
        self.given_until.store((begin + pull.mul_f64(stretch)).as_nanos() as u64, Ordering::Relaxed);
        (begin - now).saturating_sub(AHEAD)
    }

    /// To find what a pull of a backlog asked for took so long.
    pub fn read_took(&self, time: Duration) {
        self.read.note(time);
    }

    /// To write the answer to one took so long.
    pub fn write_took(&self, time: Duration) {
        self.written.note(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PULL: Duration = Duration::from_micros(100);

    /// Waits of `count` pulls that come `apart`, with sends on their way, the first of them right now.
    fn waits(pace: &Arc<BacklogPace>, count: u32, apart: Duration) -> Vec<Duration> {
        let _sends = pace.sends_begin();
        let now = Instant::now();
        (0..count).map(|n| pace.turn_in(now + apart * n)).collect()
    }

    fn pace(percent: u32, workers: usize) -> Arc<BacklogPace> {
        let pace = Arc::new(BacklogPace::new(percent, workers));
        pace.read_took(PULL / 4);
        pace.write_took(PULL * 3 / 4);
        pace
    }

    #[test]
    fn pulls_within_their_share_never_wait() {
        let waits = waits(&pace(25, 1), 1_000, PULL * 4);
        assert_eq!(waits, [Duration::ZERO; 1_000]);
    }

    #[test]
    fn pulls_beyond_their_share_come_at_the_rate_of_it() {
        let waits = waits(&pace(25, 1), 26, Duration::ZERO);
        let expected = (0..26).map(|n| (PULL * 4 * n).saturating_sub(AHEAD));
        assert!(waits.into_iter().eq(expected));
    }

    #[test]
    fn share_is_of_all_workers() {
        let waits = waits(&pace(25, 2), 26, Duration::ZERO);
        let expected = (0..26).map(|n| (PULL * 2 * n).saturating_sub(AHEAD));
        assert!(waits.into_iter().eq(expected));
    }

    #[test]
    fn no_pull_waits_for_long() {
        let waits = waits(&pace(1, 1), 10_000, Duration::ZERO);
        assert_eq!(waits.into_iter().max(), Some(LONGEST_WAIT));
    }

    #[test]
    fn nothing_waits_where_nobody_sends_and_none_is_limited() {
        let unlimited = pace(100, 1);
        assert_eq!(waits(&unlimited, 1_000, Duration::ZERO), [Duration::ZERO; 1_000]);
        let pace = pace(1, 1);
        drop(pace.sends_begin());
        let now = Instant::now();
        assert!((0..1_000).all(|_| pace.turn_in(now).is_zero()));
    }

    #[test]
    fn stop_of_the_machine_is_soon_forgotten() {
        let pace = pace(25, 1);
        pace.read_took(Duration::from_secs(1));
        for _ in 0..12 {
            pace.read_took(PULL / 4);
        }
        let stands_for = waits(&pace, 100, Duration::ZERO)[10] / 10;
        assert!(stands_for < PULL * 5, "{stands_for:?}");
    }

    #[test]
    fn share_is_of_what_pulls_take_by_now() {
        let pace = pace(25, 1);
        for _ in 0..100 {
            pace.read_took(PULL * 4);
            pace.write_took(PULL);
        }
        let second = waits(&pace, 2, Duration::ZERO)[1];
        assert!(second > PULL * 19 - AHEAD && second <= PULL * 20 - AHEAD, "{second:?}");
    }
}
