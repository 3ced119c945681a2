//! Time in tests: the runtime's clock stands still, and jumps to whatever happens next.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::{Clock, WallMs};

/// What a [`RuntimeClock`] shows first.
///
/// ```
/// use telstar::testing::{CLOCK_BEGINS, Scenario};
/// use std::time::Duration;
///
/// # #[actix::main]
/// # async fn main() {
/// let scene = Scenario::begin().await;
/// scene.pass(Duration::from_secs(1)).await;
/// assert_eq!(scene.clock().now().since_ms(CLOCK_BEGINS), 1_000);
/// # }
/// ```
pub const CLOCK_BEGINS: WallMs = WallMs(1_700_000_000_000);

/// Wall time that moves with the runtime's instant: `tokio::time::pause` stops both, `advance` moves both.
///
/// ```
/// use std::time::Duration;
/// use telstar::clock::Clock;
/// use telstar::testing::{RuntimeClock, stop_time};
///
/// # #[actix::main]
/// # async fn main() {
/// stop_time().await;
/// let clock = RuntimeClock::shared(); // hand it to the actor under test
/// let began = clock.now();
/// tokio::time::sleep(Duration::from_secs(86_400)).await; // takes no time
/// assert_eq!(clock.now().since_ms(began), 86_400_000);
/// # }
/// ```
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

/// Stops the clock of the runtime at a whole millisecond of its timers: from now on time passes only when everybody
/// waits, at once, and timers are exact.
///
/// ```
/// use std::time::Duration;
/// use telstar::testing::stop_time;
/// use tokio::time::{Instant, sleep};
///
/// # #[actix::main]
/// # async fn main() {
/// stop_time().await;
/// let began = Instant::now();
/// for _ in 0..60 {
///     sleep(Duration::from_secs(60)).await;
/// }
/// assert_eq!(began.elapsed(), Duration::from_secs(3_600)); // to the millisecond, and in no time
/// # }
/// ```
pub async fn stop_time() {
    tokio::time::pause();
    // Timers fire at whole milliseconds since the runtime was built, and a clock that stands between two of them is
    // late by one each time. Where it stands, it does not tell; how late a timer is, does.
    let (mut early, mut late) = (Duration::ZERO, Duration::from_millis(1));
    while late - early > Duration::from_nanos(1) {
        let between = early + (late - early) / 2;
        let began = Instant::now();
        tokio::time::sleep(between).await;
        match began.elapsed() > Duration::from_millis(1) {
            true => late = between,
            false => early = between,
        }
    }
    tokio::time::advance(early).await;
}

/// Lets `time` pass: everything that is due within it happens, each at its own time. With the clock of the runtime
/// [stopped](stop_time) an hour takes as long as what happens in it.
///
/// ```
/// # use std::time::Duration;
/// # use telstar::clock::Clock;
/// # use telstar::testing::{RuntimeClock, pass, stop_time};
/// # #[actix::main]
/// # async fn main() {
/// stop_time().await;
/// let clock = RuntimeClock::default();
/// let before = clock.now();
/// pass(Duration::from_secs(3600)).await;
/// assert_eq!(clock.now().since_ms(before), 3_600_000);
/// # }
/// ```
pub async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
    settle().await; // what is due at the very end has happened, too
}

/// Lets every actor of this thread do what is due.
///
/// ```
/// use actix::prelude::*;
/// use telstar::testing::{fake_sink, settle};
///
/// #[derive(Message)]
/// #[rtype(result = "()")]
/// struct Tell;
///
/// # #[actix::main]
/// # async fn main() {
/// let (sink, told) = fake_sink::<Tell>();
/// sink.do_send(Tell);
/// assert_eq!(told.len(), 0); // it waits in the mailbox
/// settle().await;
/// assert_eq!(told.len(), 1);
/// # }
/// ```
pub async fn settle() {
    for _ in 0..32 {
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix::test]
    async fn timers_are_exact_once_time_is_stopped() {
        stop_time().await;
        let began = Instant::now();
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
        assert_eq!(began.elapsed(), Duration::from_millis(70));
    }

    #[actix::test]
    async fn clock_jumps_with_the_runtime() {
        tokio::time::pause();
        let clock = RuntimeClock::default();
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(clock.now().since_ms(CLOCK_BEGINS), 3_600_000);
    }
}
