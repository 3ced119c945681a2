//! Facts about the running broker that no single owner has: where log, dispatch and disk are now.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::requests::runtime_info::{DiskUse, RuntimeFacts, TimerFacts};
use crate::clock::{SharedClock, WallMs};
use crate::store::commit_log::CommitLogReader;
use crate::store::file::StoreFiles;
use crate::types::PhysicalOffset;

/// Positions that their owners publish for whoever wants to look; each has one writer.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Positions>);

#[derive(Debug, Default)]
struct Positions {
    flushed: AtomicU64,
    dispatched: AtomicU64,
    damaged: AtomicU64,
}

impl Progress {
    /// Everything below is on disk.
    pub fn flushed(&self) -> PhysicalOffset {
        PhysicalOffset(self.0.flushed.load(Ordering::Relaxed))
    }

    /// For [`LogFlush`](super::log_flush::LogFlush) alone, and where a log begins.
    pub fn set_flushed(&self, position: PhysicalOffset) {
        self.0.flushed.store(position.0, Ordering::Relaxed);
    }

    /// Everything below is handed to the queues.
    pub fn dispatched(&self) -> PhysicalOffset {
        PhysicalOffset(self.0.dispatched.load(Ordering::Relaxed))
    }

    /// For the dispatcher alone.
    pub fn set_dispatched(&self, position: PhysicalOffset) {
        self.0.dispatched.store(position.0, Ordering::Relaxed);
    }

    /// Damaged parts of the log that were passed over since the start.
    pub fn damaged(&self) -> u64 {
        self.0.damaged.load(Ordering::Relaxed)
    }

    /// For the dispatcher alone.
    pub fn count_damaged(&self) {
        self.0.damaged.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where the facts are read.
#[derive(Clone, Debug)]
pub struct FactsSource {
    pub progress: Progress,
    pub log: CommitLogReader,
    pub files: Arc<dyn StoreFiles>,
    pub root: PathBuf,
    pub started_at: WallMs,
    pub writer_capacity: usize,
}

/// How far the log and what follows it are, bytes from the beginning of the log.
///
/// ```
/// use telstar::LogPositions;
/// use telstar::testing::{Scenario, calls::send_to};
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
/// let before: LogPositions = broker.observe();
/// broker.client("shop").succeed(send_to("orders", 0, "pay 7")).await;
/// let after = broker.observe();
/// assert!(after.end > before.end);
/// assert_eq!((after.begin, after.damaged), (before.begin, 0));
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogPositions {
    /// The oldest byte that was not deleted yet.
    pub begin: PhysicalOffset,
    /// Behind the newest message.
    pub end: PhysicalOffset,
    /// Consumers can read what lies below.
    pub dispatched: PhysicalOffset,
    /// What lies below survives a loss of power.
    pub flushed: PhysicalOffset,
    /// Damaged parts of the log that were passed over since the start.
    pub damaged: u64,
}

impl FactsSource {
    /// How far everything is now; each position for itself.
    pub fn positions(&self) -> LogPositions {
        // Read in the order of their ways: none seems to be ahead of one that it follows.
        let dispatched = self.progress.dispatched();
        let flushed = self.progress.flushed();
        LogPositions {
            begin: self.log.min_offset(),
            end: self.log.published(),
            dispatched,
            flushed,
            damaged: self.progress.damaged(),
        }
    }

    /// The facts of now.
    pub fn gather(&self, clock: &SharedClock) -> RuntimeFacts {
        let disk = self.files.space(&self.root).map_or_else(
            |_| DiskUse::default(),
            |space| DiskUse { total_bytes: space.total_bytes, free_bytes: space.available_bytes },
        );
        let earliest = self.log.store_time_at(self.log.min_offset());
        RuntimeFacts {
            now: clock.now(),
            started_at: self.started_at,
            active: true,
            commit_log_min: self.log.min_offset(),
            commit_log_max: self.log.published(),
            flushed: self.progress.flushed(),
            dispatched: self.progress.dispatched(),
            damaged: self.progress.damaged(),
            earliest_stored_at_ms: earliest.map(|at| at.0),
            append_stalled: Duration::ZERO,
            commit_log_dir: self.root.join("commitlog").display().to_string(),
            commit_log_disk: disk,
            consume_queue_disk: disk,
            appends_waiting: 0,
            appends_waiting_max: self.writer_capacity,
            delay_levels: Vec::new(),
            timer: TimerFacts::default(),
        }
    }
}
