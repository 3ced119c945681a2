//! Named places where a debug build ends itself as `kill -9` would, for tests of crashes. A release build has none.
//!
//! `KILL_POINT=log.written:17` in the environment ends the process when it comes to `log.written` for the 17th time.

/// Ends the process here if it was told to.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn reach(_name: &'static str) {}

/// Ends the process here if it was told to.
#[cfg(debug_assertions)]
pub fn reach(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    struct Told {
        name: String,
        times_left: AtomicU64,
    }
    static TOLD: OnceLock<Option<Told>> = OnceLock::new();

    let told = TOLD.get_or_init(|| {
        let text = std::env::var("KILL_POINT").ok()?;
        let (name, times) = text.split_once(':')?;
        Some(Told { name: name.to_owned(), times_left: AtomicU64::new(times.parse().ok()?) })
    });
    if let Some(told) = told
        && told.name == name
        && told.times_left.fetch_sub(1, Ordering::AcqRel) == 1
    {
        eprintln!("killed at {name}");
        let _ = kill_process(getpid(), Signal::KILL);
        loop {
            std::thread::park(); // the signal is on its way
        }
    }
}
