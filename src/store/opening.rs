//! Opens the files of a store in order: the log is made whole, what is derived from it is looked at.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::commit_log::{CommitLog, LogTail};
use super::compacted_log::SegmentCheck;
use super::consume_queue::{ConsumeQueueConfig, ConsumeQueueError, queue_dir, truncate_queues};
use super::derived_check::{DerivedCheck, DerivedError, Missing};
use super::file::{FileSystem, StoreFiles};
use super::key_index::{IndexFileConfig, KeyIndex, KeyIndexError};
use super::known_derived::KnownDerived;
use super::recovery::{LastStop, Recovered, open_commit_log};
use super::recovery_progress::RecoveryProgress;
use super::segment::{SegmentDir, SegmentError};
use super::store_check_point::{CheckPointFile, StoreCheckPoint};
use super::store_lock::AbortFile;
use super::timers::{PendingTimers, TimerDir, open_timers};
use crate::planted::{Planted, is_planted};
use crate::protocol::names::TIMER_TOPIC;
use crate::types::QueueId;

/// Tells one run of the kernel from another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Where a store lies, and the sizes of its files.
#[derive(Clone, Debug)]
pub struct StorePlan {
    pub files: Arc<dyn StoreFiles>,
    pub root: PathBuf,
    pub segment_bytes: u64,
    pub units: ConsumeQueueConfig,
    /// `None`: messages are not indexed by key.
    pub key_index: Option<IndexFileConfig>,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot use the store in {}", root.display())]
    Files { root: PathBuf, source: io::Error },
    #[error(transparent)]
    Log(#[from] SegmentError),
    #[error(transparent)]
    ConsumeQueue(#[from] ConsumeQueueError),
    #[error(transparent)]
    KeyIndex(#[from] KeyIndexError),
    #[error(transparent)]
    Derived(#[from] DerivedError),
    #[error("cannot open the files of timers")]
    Timers { source: io::Error },
}

/// An open store, before anything is derived again.
pub struct OpenedStore {
    pub log: CommitLog,
    /// That of the consume queues.
    pub file_system: Arc<dyn FileSystem>,
    pub recovered: Recovered,
    pub check_point_file: CheckPointFile,
    pub check_point: StoreCheckPoint,
    pub key_index: Option<KeyIndex>,
    pub timers: PendingTimers,
    /// How much of compacted logs is believed.
    pub compacted: SegmentCheck,
    pub missing: Missing,
    /// Where deriving goes on.
    pub derive_from: LogTail,
}

/// Opens the store of `plan`; blocks for as long as there is something to verify.
pub fn open_store(
    plan: &StorePlan,
    known: &KnownDerived,
    progress: &RecoveryProgress,
) -> Result<OpenedStore, OpenError> {
    let StorePlan { files, root, segment_bytes, units, key_index } = plan;
    let at_root = |source| OpenError::Files { root: root.clone(), source };
    let unclean = AbortFile::exists(&**files, root).map_err(at_root)?;
    let booted = std::fs::read_to_string(BOOT_ID).ok();
    let last_stop = match unclean {
        false => LastStop::Clean,
        // The same kernel still has what the last run wrote.
        true if booted.is_some() && known.boot_id().map_err(DerivedError::from)? == booted => {
            LastStop::Killed
        }
        true => LastStop::Unclean,
    };
    if let Some(booted) = &booted {
        known.save_boot_id(booted).map_err(DerivedError::from)?;
    }
    let checked_at = files.stat(&root.join("checkpoint")).map_err(at_root)?.map(|stat| stat.modified_at);
    let (check_point_file, check_point) = CheckPointFile::open(&**files, root).map_err(at_root)?;
    let dir = SegmentDir { files: files.clone(), dir: root.join("commitlog"), segment_bytes: *segment_bytes };
    let (log, recovered) = open_commit_log(dir, &check_point, last_stop, progress)?;
    let check = DerivedCheck {
        files,
        root,
        known,
        units: *units,
        index: *key_index,
        log_start: recovered.log_start,
        log_end: recovered.log_end,
        dispatch_from: recovered.dispatch_from,
        checked_at,
        is_foreign: check_point.dispatched.is_none(),
    };
    let mut missing = check.run()?;
    let timers = {
        let dir = TimerDir::new(files.clone(), root.join("timer"));
        let mut opened = open_timers(dir, recovered.dispatch_from, recovered.log_end)
            .map_err(|source| OpenError::Timers { source })?;
        if opened.is_missing {
            let queue = queue_dir(&root.join("consumequeue"), &TIMER_TOPIC.into(), QueueId(0));
            // Without a queue, on disk or derived anew, nobody has ever sent one.
            let were_there =
                missing.may_lack(TIMER_TOPIC) || !files.list(&queue).map_err(at_root)?.is_empty();
            if were_there && recovered.log_start < recovered.dispatch_from {
                missing.timers_from = Some(recovered.log_start);
            } else {
                opened.pending.begin_at(recovered.dispatch_from);
            }
        }
        opened.pending
    };
    // What was derived beyond the check point is derived again; its files may lack what they seem to have.
    let truncate_at =
        (recovered.dispatch_from < recovered.log_end || unclean).then_some(recovered.dispatch_from);
    let queues_dir = root.join("consumequeue");
    files.create_dir_all(&queues_dir).map_err(at_root)?;
    let file_system = files.file_system(&queues_dir).map_err(at_root)?;
    if let Some(at) = truncate_at.filter(|_| !is_planted(Planted::DoubleDispatch)) {
        truncate_queues(files, &*file_system, &queues_dir, *units, at)?;
    }
    let mut index = match key_index {
        Some(config) => Some(KeyIndex::open(files.clone(), root.join("index"), *config, truncate_at)?),
        None => None,
    };
    if let (Some(index), Some(from)) = (&mut index, missing.index_from) {
        index.truncate(from)?;
    }
    let tail = log.appender.tail();
    let begin = missing.begin(recovered.log_start, recovered.dispatch_from);
    let derive_from = match begin {
        _ if begin == tail.end => tail,
        _ if begin == recovered.dispatch_from => {
            LogTail { end: begin, ..check_point.dispatched.unwrap_or_default() }
        }
        _ => LogTail { end: begin, ..LogTail::default() },
    };
    let compacted = if last_stop == LastStop::Unclean { SegmentCheck::Whole } else { SegmentCheck::Tail };
    progress.begin_deriving(tail.end.0 - begin.0);
    Ok(OpenedStore {
        log,
        file_system,
        recovered,
        check_point_file,
        check_point,
        key_index: index,
        timers,
        compacted,
        missing,
        derive_from,
    })
}
