//! Bringing the log to disk: one flush at a time, and none after one that has failed.
//!
//! The [`Flusher`](super::flusher::Flusher) does it for all who wait. A writer that lives where cores are few does it itself
//! for a send that is alone ([`LoneFlush`]): waking the flusher and being woken by it took a sixth of the time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use tokio::time::Instant;

use super::facts::Progress;
use crate::kill_point;
use crate::planted::{Planted, is_planted};
use crate::store::commit_log::CommitLogReader;
use crate::types::PhysicalOffset;

/// A flush that takes longer holds up whoever else lives on the writer's thread.
const QUICK: Duration = Duration::from_millis(5);
/// What a lone send flushes at most, of others as well: a quick disk takes it in about a millisecond.
const LONE_BYTES: u64 = 1 << 20;
/// Lone sends that are left to the flusher after a flush that was not quick.
const LEFT_TO_FLUSHER: u32 = 64;

/// The disk did not keep what it was given. The kernel may forget the failed pages, so that a second flush succeeds
/// without having written anything; so there is none, and every one who asks is told of the first.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{cause}")]
pub struct FlushFailed {
    cause: String,
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
        match self.failed.try_lock() {
            Ok(failed) => Some(self.flush_holding(failed)),
            Err(TryLockError::Poisoned(failed)) => Some(self.flush_holding(failed.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn unflushed_bytes(&self) -> u64 {
        self.log.published().0.saturating_sub(self.progress.flushed().0)
    }

    /// The disk has failed elsewhere: no flush is believed any more.
    pub fn give_up(&self, cause: String) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get_or_insert(FlushFailed { cause });
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
                self.log.flush(flushed, published).map_err(|error| {
                    let causes =
                        std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
                    let cause = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
                    failed.insert(FlushFailed { cause }).clone()
                })?;
            }
            kill_point::reach("flusher.flushed");
            self.progress.set_flushed(published);
        }
        Ok(published.max(flushed))
    }
}

/// Flushes of a writer for a send that is alone. Its thread waits for the disk: nothing else is known to be there to do.
#[derive(Debug)]
pub struct LoneFlush {
    flush: LogFlush,
    /// So many are left to the flusher, since the disk was slow.
    left: u32,
}

impl LoneFlush {
    pub fn new(flush: LogFlush) -> Self {
        Self { flush, left: 0 }
    }

    /// Makes durable what is published, and returns up to where the log is; `None`: the flusher is to do it, and to say
    /// so if the disk has failed.
    pub fn try_flush(&mut self) -> Option<PhysicalOffset> {
        if self.left > 0 {
            self.left -= 1;
            return None;
        }
        if self.flush.unflushed_bytes() > LONE_BYTES {
            return None;
        }
        let begun = Instant::now();
        let flushed = self.flush.try_flush()?.ok()?;
        self.note_time(begun.elapsed());
        Some(flushed)
    }

    /// How long the disk took.
    fn note_time(&mut self, took: Duration) {
        if took > QUICK {
            self.left = LEFT_TO_FLUSHER;
        }
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
        assert!(failure.to_string().contains("/commitlog/"), "{failure}");
        assert_eq!(flush.flush(), Err(failure.clone()));
        assert_eq!(flush.try_flush(), Some(Err(failure)));
        assert_eq!(LoneFlush::new(flush).try_flush(), None);
        assert_eq!(progress.flushed(), PhysicalOffset(0));
    }

    #[test]
    fn lone_send_waits_for_no_flush_of_others() {
        let (mut log, flush, progress) = start();
        let end = log.append(message("T", "x"), 0).end;
        log.files.stall(FileOperation::Sync);
        let others = flush.clone();
        let flushing = std::thread::spawn(move || others.flush());
        while flush.failed.try_lock().is_ok() {
            std::thread::yield_now();
        }
        let mut lone = LoneFlush::new(flush);
        assert_eq!(lone.try_flush(), None);
        log.files.go_on();
        assert_eq!(flushing.join().unwrap(), Ok(end));
        assert_eq!(progress.flushed(), end);
        assert_eq!(lone.try_flush(), Some(end));
    }

    #[test]
    fn much_of_others_is_left_to_the_flusher() {
        let (mut log, flush, _) = start();
        let mut lone = LoneFlush::new(flush.clone());
        let large = "x".repeat(10_000);
        let mut end = log.append(message("T", &large), 0).end;
        assert_eq!(lone.try_flush(), Some(end));
        for n in 1..=LONE_BYTES / 10_000 + 1 {
            end = log.append(message("T", &large), n).end;
        }
        assert_eq!(lone.try_flush(), None);
        assert_eq!(flush.flush(), Ok(end));
    }

    #[test]
    fn slow_disk_is_left_to_the_flusher_for_a_while() {
        let (mut log, flush, _) = start();
        let mut lone = LoneFlush::new(flush.clone());
        let end = log.append(message("T", "x"), 0).end;
        lone.note_time(QUICK + Duration::from_micros(1));
        for _ in 0..LEFT_TO_FLUSHER {
            assert_eq!(lone.try_flush(), None);
        }
        assert_eq!(lone.try_flush(), Some(end), "perhaps it is quick again");
        let mut lone = LoneFlush::new(flush);
        lone.note_time(QUICK);
        assert_eq!(lone.try_flush(), Some(end));
    }
}
