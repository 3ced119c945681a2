//! Work that blocks, away from the threads of the actors.

use actix_rt::task::{JoinError, spawn_blocking};

/// Runs `work`, which waits for a disk, on a thread of the runtime's pool. It begins at once.
#[cfg(not(any(test, feature = "testing")))]
pub fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, JoinError>> {
    spawn_blocking(work)
}

/// Runs `work`, which waits for a disk, on a thread of the runtime's pool, or, in a [simulation](simulated), on this one.
#[cfg(any(test, feature = "testing"))]
pub fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, JoinError>> {
    match simulated::next_pace() {
        None => futures::future::Either::Left(spawn_blocking(work)),
        Some(simulated::Pace { before, after }) => futures::future::Either::Right(async move {
            tokio::time::sleep(before).await;
            let done = work();
            tokio::time::sleep(after).await;
            Ok(done)
        }),
    }
}

/// How such work goes where all threads are one and time is the runtime's.
#[cfg(any(test, feature = "testing"))]
pub mod simulated {
    use std::cell::RefCell;
    use std::time::Duration;

    /// How long work takes, before it has its effect and after it.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Pace {
        pub before: Duration,
        pub after: Duration,
    }

    type Paces = Box<dyn FnMut() -> Pace>;

    thread_local! {
        static PACES: RefCell<Option<Paces>> = const { RefCell::new(None) };
    }

    /// While it lives, what this thread would have done aside is done by itself.
    #[derive(Debug)]
    pub struct InPlace(());

    /// `paces` tells how long each piece of work takes.
    pub fn in_place(paces: impl FnMut() -> Pace + 'static) -> InPlace {
        PACES.with_borrow_mut(|current| *current = Some(Box::new(paces)));
        InPlace(())
    }

    impl Drop for InPlace {
        fn drop(&mut self) {
            PACES.with_borrow_mut(|current| *current = None);
        }
    }

    pub(super) fn next_pace() -> Option<Pace> {
        PACES.with_borrow_mut(|paces| paces.as_mut().map(|paces| paces()))
    }
}
