//! Waits for a moment to the microsecond. The runtime's own timers tick in milliseconds, which is longer than
//! a message takes.

use std::io;
use std::time::Instant;

#[cfg(target_os = "linux")]
pub use linux::Timer;
#[cfg(not(target_os = "linux"))]
pub use portable::Timer;

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::OwnedFd;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::io::unix::AsyncFd;

    use super::*;

    /// A timer of the kernel, awaited like a socket.
    pub struct Timer {
        fd: AsyncFd<OwnedFd>,
        set_to: Option<Instant>,
    }

    impl Timer {
        pub fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            // Deprecated because a type might change its descriptor meanwhile; an `OwnedFd` does not.
            #[allow(deprecated)]
            let fd = AsyncFd::new(fd)?;
            Ok(Self { fd, set_to: None })
        }

        /// Waits until `moment`, or a little less long: look at the clock.
        pub async fn at(&mut self, moment: Instant, now: Instant) -> io::Result<()> {
            if moment <= now {
                return Ok(());
            }
            if self.set_to != Some(moment) {
                let wait = moment - now;
                let it_value = Timespec {
                    tv_sec: wait.as_secs() as i64,
                    tv_nsec: i64::from(wait.subsec_nanos().max(1)) as _,
                };
                let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
                timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &Itimerspec { it_interval, it_value })?;
                self.set_to = Some(moment);
            }
            let mut ready = self.fd.readable().await?;
            self.set_to = None;
            // Not read: readiness comes anew with the next setting, and a system call is saved.
            ready.clear_ready();
            Ok(())
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod portable {
    use super::*;

    /// The runtime's timer, to the millisecond.
    pub struct Timer;

    impl Timer {
        pub fn new() -> io::Result<Self> {
            Ok(Self)
        }

        /// Waits until `moment`.
        pub async fn at(&mut self, moment: Instant, _now: Instant) -> io::Result<()> {
            tokio::time::sleep_until(moment.into()).await;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn rings_again_and_again_and_not_early() {
        let mut timer = Timer::new().unwrap();
        for wait_us in [0, 50, 200, 1_500] {
            let now = Instant::now();
            let moment = now + Duration::from_micros(wait_us);
            while Instant::now() < moment {
                timer.at(moment, Instant::now()).await.unwrap();
            }
        }
    }
}
