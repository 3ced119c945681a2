//! Faults of the kind that one makes, planted on purpose: the [simulation](crate::simulation) has to find them. Only
//! builds for tests have them, and there each must be asked for; everywhere else [`is_planted`] is `false` for the
//! compiler, too.

/// A planted fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(any(test, feature = "testing"), derive(clap::ValueEnum))]
pub enum Planted {
    /// A send is answered when it is written, though its disk was promised.
    AnswerBeforeFlush,
    /// Of several sends that wait for one flush, the last is never answered.
    ForgottenWaiter,
    /// Nobody looks after the pulls that wait when a message comes.
    HoldNeverWoken,
    /// An offset is committed one message ahead of what was consumed.
    CommitAhead,
    /// Halves that were not saved before a crash are not read out of the log.
    HalvesForgotten,
    /// A recovery leaves units that it derives a second time, and these are taken for new ones.
    DoubleDispatch,
    /// The flusher claims what was written, without syncing it.
    FlushSkipped,
}

/// Whether this build, and this thread's world, has the fault.
#[cfg(not(any(test, feature = "testing")))]
#[inline(always)]
pub const fn is_planted(_: Planted) -> bool {
    false
}

#[cfg(any(test, feature = "testing"))]
mod planting {
    use std::cell::Cell;

    use super::Planted;

    thread_local! {
        static FAULT: Cell<Option<Planted>> = const { Cell::new(None) };
    }

    /// Whether this build, and this thread's world, has the fault.
    pub fn is_planted(fault: Planted) -> bool {
        FAULT.get() == Some(fault)
    }

    /// While it lives, this thread has the fault.
    #[derive(Debug)]
    pub struct Planting(());

    pub fn plant(fault: Option<Planted>) -> Planting {
        FAULT.set(fault);
        Planting(())
    }

    impl Drop for Planting {
        fn drop(&mut self) {
            FAULT.set(None);
        }
    }
}

#[cfg(any(test, feature = "testing"))]
pub use planting::{is_planted, plant};
