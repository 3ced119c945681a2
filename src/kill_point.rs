//! Named places where a debug build does what it is told to, for tests of what ends a broker. A release build has none.
//! A [simulation](crate::simulation) is told of them, and ends a broker there.
//!
//! `KILL_POINT=log.written:17` in the environment ends the process as `kill -9` would when it comes to `log.written` for
//! the 17th time; `PANIC_POINT` makes it panic there, and `FAIL_POINT` makes the system call behind it fail.

use std::io;

/// Ends the process here, or panics, if it was told to.
#[inline(always)]
pub fn reach(name: &'static str) {
    #[cfg(debug_assertions)]
    told::reach(name);
    #[cfg(any(test, feature = "testing"))]
    simulated::reach(name);
    #[cfg(not(any(debug_assertions, feature = "testing")))]
    let _ = name;
}

/// The error of a disk, if it was told to have one here.
#[inline(always)]
pub fn fail(name: &'static str) -> io::Result<()> {
    #[cfg(debug_assertions)]
    return told::fail(name);
    #[cfg(not(debug_assertions))]
    {
        let _ = name;
        Ok(())
    }
}

/// Places of a world, all threads of which are one.
#[cfg(any(test, feature = "testing"))]
pub mod simulated {
    use std::cell::RefCell;

    type Reached = Box<dyn FnMut(&'static str)>;

    thread_local! {
        static REACHED: RefCell<Option<Reached>> = const { RefCell::new(None) };
    }

    /// While it lives, this thread tells of the places it comes to.
    #[derive(Debug)]
    pub struct Told(());

    /// `reached` is told of each place.
    pub fn tell_places(reached: impl FnMut(&'static str) + 'static) -> Told {
        REACHED.with_borrow_mut(|current| *current = Some(Box::new(reached)));
        Told(())
    }

    impl Drop for Told {
        fn drop(&mut self) {
            REACHED.with_borrow_mut(|current| *current = None);
        }
    }

    pub(super) fn reach(name: &'static str) {
        // Actors that are dropped with their thread come to places no more.
        let _ = REACHED.try_with(|reached| {
            if let Ok(mut reached) = reached.try_borrow_mut()
                && let Some(reached) = reached.as_mut()
            {
                reached(name);
            }
        });
    }
}

#[cfg(debug_assertions)]
mod told {
    use std::io;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    /// What one variable says, read once.
    struct Order(OnceLock<Option<Told>>);

    struct Told {
        name: String,
        times_left: AtomicU64,
    }

    static KILL: Order = Order(OnceLock::new());
    static PANIC: Order = Order(OnceLock::new());
    static FAIL: Order = Order(OnceLock::new());

    impl Order {
        fn is_now(&self, variable: &str, name: &str) -> bool {
            let told = self.0.get_or_init(|| Told::read(variable)).as_ref();
            told.is_some_and(|told| told.name == name && told.times_left.fetch_sub(1, Ordering::AcqRel) == 1)
        }
    }

    impl Told {
        fn read(variable: &str) -> Option<Self> {
            let text = std::env::var(variable).ok()?;
            let (name, times) = text.split_once(':')?;
            Some(Self { name: name.to_owned(), times_left: AtomicU64::new(times.parse().ok()?) })
        }
    }

    pub fn reach(name: &'static str) {
        if PANIC.is_now("PANIC_POINT", name) {
            panic!("told to at {name}");
        }
        if KILL.is_now("KILL_POINT", name) {
            eprintln!("killed at {name}");
            let _ = kill_process(getpid(), Signal::KILL);
            loop {
                std::thread::park(); // the signal is on its way
            }
        }
    }

    pub fn fail(name: &'static str) -> io::Result<()> {
        match FAIL.is_now("FAIL_POINT", name) {
            true => Err(io::Error::other(format!("told to fail at {name}"))),
            false => Ok(()),
        }
    }
}
