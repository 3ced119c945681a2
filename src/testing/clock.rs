//! Time in tests: the runtime's clock stands still, and jumps to whatever happens next.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::{Clock, WallMs};

/// What a [`RuntimeClock`] shows first.
pub const CLOCK_BEGINS: WallMs = WallMs(1_700_000_000_000);

/// Wall time that moves with the runtime's instant: `tokio::time::pause` stops both, `advance` moves both.
#[derive(Clone, Copy, Debug)]
pub struct RuntimeClock {
    began: Instant,
}

impl RuntimeClock {
    /// As it is handed around.
    pub fn shared() -> Arc<Self> {
        Arc::new(Self::default())
    }
}

impl Default for RuntimeClock {
    fn default() -> Self {
        Self { began: Instant::now() }
    }
}

impl Clock for RuntimeClock {
    fn now(&self) -> WallMs {
        WallMs(CLOCK_BEGINS.0 + self.began.elapsed().as_millis() as i64)
    }
}

/// Lets `time` pass: everything that is due within it happens, each at its own time. With the clock of the runtime
/// stopped ([`tokio::time::pause`]) an hour takes as long as what happens in it.
///
/// ```
/// # use std::time::Duration;
/// # use telstar::clock::Clock;
/// # use telstar::testing::{RuntimeClock, pass};
/// # #[actix::main]
/// # async fn main() {
/// tokio::time::pause();
/// let clock = RuntimeClock::default();
/// let before = clock.now();
/// pass(Duration::from_secs(3600)).await;
/// assert_eq!(clock.now().since_ms(before), 3_600_000);
/// # }
/// ```
pub async fn pass(time: Duration) {
    // Timers fire at whole milliseconds; what is due at the very end has happened, too.
    tokio::time::sleep(time).await;
    settle().await;
}

/// Lets every actor of this thread do what is due.
pub async fn settle() {
    for _ in 0..32 {
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix::test]
    async fn clock_jumps_with_the_runtime() {
        tokio::time::pause();
        let clock = RuntimeClock::default();
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(clock.now().since_ms(CLOCK_BEGINS), 3_600_000);
    }
}
