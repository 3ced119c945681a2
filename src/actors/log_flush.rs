//! Bringing the log to disk: one flush at a time, and none after one that has failed.
//!
//! The [`Flusher`](super::flusher::Flusher) does it for all who wait. A writer that lives where cores are few does it itself
//! ([`FlushAtRest`](super::commit_log_writer::FlushAtRest)).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use super::facts::Progress;
use crate::kill_point;
use crate::planted::{Planted, is_planted};
use crate::store::commit_log::CommitLogReader;
use crate::types::PhysicalOffset;

/// The disk did not keep what it was given. The kernel may forget the failed pages, so that a second flush succeeds
/// without having written anything; so there is none, and every one who asks is told of the first.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{cause}")]
pub struct FlushFailed {
    cause: String,
}

impl FlushFailed {
    fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let causes = std::iter::successors(Some(error), |error| error.source());
        Self { cause: causes.map(ToString::to_string).collect::<Vec<_>>().join(": ") }
    }
}

/// A part of the log that the disk was told to begin with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BegunWrite {
    from: PhysicalOffset,
    to: PhysicalOffset,
}

/// Brings the log to disk, whoever asks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogFlush {
    log: CommitLogReader,
    progress: Progress,
    /// Held while the disk works. Two flushes of one file at once could hide a failure from one of them: the kernel tells it
    /// once. What the first failure was.
    failed: Arc<Mutex<Option<FlushFailed>>>,
}

impl LogFlush {
    pub fn new(log: CommitLogReader, progress: Progress) -> Self {
        Self { log, progress, failed: Arc::default() }
    }

    /// Makes durable what is published now, after a flush that is under way; returns up to where the log is.
    pub fn flush(&self) -> Result<PhysicalOffset, FlushFailed> {
        // Whoever panicked has left no half change.
        self.flush_holding(self.failed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The same; `None` while another flush is under way.
    pub fn try_flush(&self) -> Option<Result<PhysicalOffset, FlushFailed>> {
        Some(self.flush_holding(self.try_hold()?))
    }

    pub fn unflushed_bytes(&self) -> u64 {
        self.log.published().0.saturating_sub(self.progress.flushed().0)
    }

    /// Has the disk begin with what is published and not yet durable, without waiting; returns what that is. Promises
    /// nothing; but after a failure no flush is believed any more. `None` while a flush is under way: it would not be told
    /// of what the beginning loses.
    pub fn begin_write(&self) -> Option<Result<BegunWrite, FlushFailed>> {
        let mut failed = self.try_hold()?;
        if let Some(first) = &*failed {
            return Some(Err(first.clone()));
        }
        let begun = BegunWrite { from: self.progress.flushed(), to: self.log.published() };
        let written = self.log.begin_write(begun.from, begun.to);
        Some(written.map(|()| begun).map_err(|error| failed.insert(FlushFailed::of(&error)).clone()))
    }

    /// Whether the disk is done with it, as far as anybody can tell.
    pub fn is_written(&self, begun: &BegunWrite) -> bool {
        self.log.is_written(begun.from, begun.to)
    }

    /// Whether it is all that is published.
    pub fn is_all(&self, begun: &BegunWrite) -> bool {
        begun.to == self.log.published()
    }

    /// The disk has failed elsewhere: no flush is believed any more.
    pub fn give_up(&self, cause: String) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get_or_insert(FlushFailed { cause });
    }

    /// `None` while somebody else has the disk work.
    fn try_hold(&self) -> Option<MutexGuard<'_, Option<FlushFailed>>> {
        match self.failed.try_lock() {
            Ok(failed) => Some(failed),
            Err(TryLockError::Poisoned(failed)) => Some(failed.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn flush_holding(
        &self,
        mut failed: MutexGuard<'_, Option<FlushFailed>>,
    ) -> Result<PhysicalOffset, FlushFailed> {
        if let Some(first) = &*failed {
            return Err(first.clone());
        }
        let (flushed, published) = (self.progress.flushed(), self.log.published());
        if published > flushed {
            kill_point::reach("flusher.before_flush");
            if !is_planted(Planted::FlushSkipped) {
                self.log
                    .flush(flushed, published)
                    .map_err(|error| failed.insert(FlushFailed::of(&error)).clone())?;
            }
            kill_point::reach("flusher.flushed");
            self.progress.set_flushed(published);
        }
        Ok(published.max(flushed))
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::store::memory_files::FileOperation;
    use crate::testing::log::{TestLog, message};

    fn start() -> (TestLog, LogFlush, Progress) {
        let log = TestLog::new();
        let progress = Progress::default();
        let flush = LogFlush::new(log.reader.clone(), progress.clone());
        (log, flush, progress)
    }

    #[test]
    fn everything_published_is_on_disk_behind_a_flush() {
        let (mut log, flush, progress) = start();
        let end = log.append(message("T", "x"), 0).end;
        assert_eq!(flush.flush(), Ok(end));
        assert_eq!(progress.flushed(), end);
        assert_eq!(flush.try_flush(), Some(Ok(end)), "there is nothing to do");
    }

    #[test]
    fn after_a_failure_nothing_is_claimed_though_the_disk_would() {
        let (mut log, flush, progress) = start();
        log.append(message("T", "x"), 0);
        log.files.fail_next(FileOperation::Sync, ErrorKind::Other);
        let failure = flush.flush().unwrap_err();
        assert_nothing_is_claimed(&flush, &progress, failure);
    }

    fn assert_nothing_is_claimed(flush: &LogFlush, progress: &Progress, failure: FlushFailed) {
        assert!(failure.to_string().contains("/commitlog/"), "{failure}");
        assert_eq!(flush.flush(), Err(failure.clone()));
        assert_eq!(flush.try_flush(), Some(Err(failure.clone())));
        assert_eq!(flush.begin_write(), Some(Err(failure)));
        assert_eq!(progress.flushed(), PhysicalOffset(0));
    }

    #[test]
    fn who_only_tries_waits_for_no_flush_of_others() {
        let (mut log, flush, progress) = start();
        let end = log.append(message("T", "x"), 0).end;
        log.files.stall(FileOperation::Sync);
        let others = flush.clone();
        let flushing = std::thread::spawn(move || others.flush());
        while flush.failed.try_lock().is_ok() {
            std::thread::yield_now();
        }
        assert_eq!(flush.try_flush(), None);
        assert_eq!(flush.begin_write(), None);
        log.files.go_on();
        assert_eq!(flushing.join().unwrap(), Ok(end));
        assert_eq!(progress.flushed(), end);
        assert_eq!(flush.try_flush(), Some(Ok(end)));
    }

    #[test]
    fn write_that_was_begun_promises_nothing() {
        let (mut log, flush, progress) = start();
        log.append(message("T", "x"), 0);
        log.files.write_takes(2);
        let begun = flush.begin_write().unwrap().unwrap();
        assert_eq!([(); 3].map(|()| flush.is_written(&begun)), [false, false, true]);
        assert!(flush.is_all(&begun));
        assert_eq!(
            (progress.flushed(), flush.unflushed_bytes()),
            (PhysicalOffset(0), log.reader.published().0)
        );
        log.append(message("T", "x"), 1);
        assert!(!flush.is_all(&begun));
    }

    #[test]
    fn write_that_cannot_begin_may_have_lost_what_no_flush_tells_of() {
        let (mut log, flush, progress) = start();
        log.append(message("T", "x"), 0);
        log.files.fail_next(FileOperation::BeginWrite, ErrorKind::Other);
        let failure = flush.begin_write().unwrap().unwrap_err();
        assert_nothing_is_claimed(&flush, &progress, failure);
    }
}
