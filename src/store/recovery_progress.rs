//! How far a start has come that has to look at the log: for the log of the process and for clients that ask
//! meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::info;

/// Between two lines in the log.
const LINE_PAUSE_MS: u64 = 1_000;

/// Bytes to look at and bytes looked at, in two passes: the log is verified, then what is derived from it is derived
/// again. Cheap to clone; the clones are the same progress.
#[derive(Clone, Debug)]
pub struct RecoveryProgress(Arc<State>);

#[derive(Debug)]
struct State {
    begun: Instant,
    to_verify: AtomicU64,
    verified: AtomicU64,
    to_derive: AtomicU64,
    derived: AtomicU64,
    /// A percentage that was shown is never taken back.
    shown: AtomicU64,
    last_line_ms: AtomicU64,
}

impl Default for RecoveryProgress {
    fn default() -> Self {
        Self(Arc::new(State {
            begun: Instant::now(),
            to_verify: AtomicU64::new(0),
            verified: AtomicU64::new(0),
            to_derive: AtomicU64::new(0),
            derived: AtomicU64::new(0),
            shown: AtomicU64::new(0),
            last_line_ms: AtomicU64::new(0),
        }))
    }
}

impl RecoveryProgress {
    /// At most so many bytes are to be verified; as many will be derived again, as far as is known now.
    pub fn begin(&self, to_verify: u64) {
        self.0.to_verify.store(to_verify, Ordering::Relaxed);
        self.0.to_derive.store(to_verify, Ordering::Relaxed);
    }

    pub fn verified(&self, bytes: u64) {
        self.0.verified.store(bytes, Ordering::Relaxed);
        self.tell("verifying the log");
    }

    /// The log is verified; `to_derive` bytes of it are dispatched again.
    pub fn begin_deriving(&self, to_derive: u64) {
        self.0.verified.store(self.0.to_verify.load(Ordering::Relaxed), Ordering::Relaxed);
        self.0.to_derive.store(to_derive, Ordering::Relaxed);
    }

    pub fn derived(&self, bytes: u64) {
        self.0.derived.store(bytes, Ordering::Relaxed);
        self.tell("deriving queues and index from the log");
    }

    /// 0 to 99: what is done is not asked for any more.
    pub fn percent(&self) -> u64 {
        let of = |bytes: &AtomicU64| bytes.load(Ordering::Relaxed);
        let whole = of(&self.0.to_verify) + of(&self.0.to_derive);
        let done = of(&self.0.verified) + of(&self.0.derived);
        let percent = (done.min(whole) * 100).checked_div(whole).unwrap_or(0).min(99);
        self.0.shown.fetch_max(percent, Ordering::Relaxed).max(percent)
    }

    /// A line in the log, at most one a second and none in the first.
    fn tell(&self, doing: &'static str) {
        let now_ms = self.0.begun.elapsed().as_millis() as u64;
        let last_ms = self.0.last_line_ms.load(Ordering::Relaxed);
        if now_ms < last_ms + LINE_PAUSE_MS {
            return;
        }
        let claim =
            self.0.last_line_ms.compare_exchange(last_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed);
        if claim.is_ok() {
            let elapsed = Duration::from_millis(now_ms);
            info!(percent = self.percent(), elapsed_s = elapsed.as_secs(), doing, "recovering");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_passes_count_and_what_was_shown_is_not_taken_back() {
        let progress = RecoveryProgress::default();
        assert_eq!(progress.percent(), 0);
        progress.begin(100);
        progress.verified(60);
        assert_eq!(progress.percent(), 30);
        progress.begin_deriving(900);
        assert_eq!(progress.percent(), 30, "10 of 100 would be less than was shown");
        progress.derived(700);
        assert_eq!(progress.percent(), 80);
        progress.derived(900);
        assert_eq!(progress.percent(), 99);
    }
}
