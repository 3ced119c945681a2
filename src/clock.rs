//! The only place that asks what time it is. Everything else is handed a [`Clock`] or the time itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Wall time, milliseconds since 1970. It can jump; intervals are measured with the runtime's instants.
///
/// ```
/// use telstar::clock::WallMs;
///
/// let (sent, stored) = (WallMs(1_700_000_000_000), WallMs(1_700_000_000_007));
/// assert_eq!(stored.since_ms(sent), 7);
/// assert_eq!(sent.since_ms(stored), -7); // clocks of two machines differ
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct WallMs(pub i64);

impl WallMs {
    /// Milliseconds from `earlier` to `self`; negative when the clock went back.
    pub fn since_ms(self, earlier: WallMs) -> i64 {
        self.0 - earlier.0
    }
}

/// Tells the time.
///
/// ```
/// use telstar::clock::{Clock, ManualClock, WallMs};
///
/// /// Asks for the time once, so that a test can say what it is.
/// fn is_late(clock: &impl Clock, due: WallMs) -> bool {
///     clock.now() > due
/// }
/// let clock = ManualClock::at(WallMs(1_000));
/// assert!(!is_late(&*clock, WallMs(1_000)));
/// assert!(is_late(&*clock, WallMs(999)));
/// ```
pub trait Clock: Send + Sync {
    /// The wall time now.
    fn now(&self) -> WallMs;
}

/// A clock as it is handed around.
///
/// ```
/// use telstar::clock::{ManualClock, SharedClock, SystemClock, WallMs};
///
/// let clocks: [SharedClock; 2] = [SystemClock::shared(), ManualClock::at(WallMs(0))];
/// assert!(clocks[0].now() > clocks[1].now());
/// ```
pub type SharedClock = Arc<dyn Clock>;

/// The clock of the machine.
///
/// ```
/// use telstar::clock::{Clock, SystemClock, WallMs};
///
/// let before = SystemClock.now();
/// assert!(before > WallMs(1_700_000_000_000)); // November 2023
/// assert!(SystemClock.now().since_ms(before) < 60_000);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// As it is handed around.
    pub fn shared() -> SharedClock {
        Arc::new(SystemClock)
    }
}

impl Clock for SystemClock {
    fn now(&self) -> WallMs {
        // A clock set before 1970 reads as 1970.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        WallMs(since_epoch.as_millis() as i64)
    }
}

/// A clock that a test moves by hand.
///
/// ```
/// use telstar::clock::{Clock, ManualClock, WallMs};
///
/// let clock = ManualClock::at(WallMs(1_000));
/// clock.advance_ms(500);
/// assert_eq!(clock.now(), WallMs(1_500));
/// clock.set(WallMs(0)); // somebody sets it back
/// assert_eq!(clock.now(), WallMs(0));
/// ```
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows `now`.
    pub fn at(now: WallMs) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(now.0)))
    }

    /// Sets it, forward or back.
    pub fn set(&self, now: WallMs) {
        self.0.store(now.0, Ordering::SeqCst);
    }

    /// Moves it, back when negative.
    pub fn advance_ms(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> WallMs {
        WallMs(self.0.load(Ordering::SeqCst))
    }
}
