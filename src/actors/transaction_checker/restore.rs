//! What was open when the broker stopped: as it was kept, and as the log goes on from there.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use crate::actors::open_halves::OpenHalves;
use crate::planted::{Planted, is_planted};
use crate::protocol::names::{HALF_TOPIC, TRANSACTION_GROUP};
use crate::protocol::transaction::TransactionFact;
use crate::store::commit_log::CommitLogReader;
use crate::store::consume_queue::{ConsumeQueueConfig, QueueGlance, queue_dir};
use crate::store::file::StoreFiles;
use crate::store::metadata::{Metadata, MetadataError};
use crate::types::{PhysicalOffset, QueueId};

/// Log read at once, bytes.
const READ_BYTES: u64 = 4 << 20;

/// What a restart reads.
pub struct HalvesPlan {
    pub files: Arc<dyn StoreFiles>,
    pub consume_queue_root: PathBuf,
    pub units: ConsumeQueueConfig,
    pub metadata: Metadata,
    pub log: CommitLogReader,
    /// From there on the dispatcher tells.
    pub until: PhysicalOffset,
    /// How old a half is when it is first checked.
    pub timeout: Duration,
}

/// The open halves as of `until`. Blocks.
pub fn restore(plan: &HalvesPlan) -> Result<OpenHalves, MetadataError> {
    let kept = plan.metadata.open_halves()?;
    let from = match kept.read_to()? {
        Some(read_to) => read_to,
        None => left_by_java(plan)?,
    };
    let mut halves = OpenHalves::restore(kept.all()?, from);
    let mut at = if is_planted(Planted::HalvesForgotten) { plan.until } else { from };
    while at < plan.until {
        let read = plan.log.walk_records(at, READ_BYTES, |position, record| {
            if position >= plan.until {
                return ControlFlow::Break(());
            }
            if let Some(fact) = TransactionFact::of(position, &record) {
                halves.apply(&fact, plan.timeout);
            }
            ControlFlow::Continue(())
        });
        // Damage was told of by the recovery.
        let next = read.unwrap_or_else(|damage| plan.log.pass_damage(damage).next);
        if next == at {
            break;
        }
        at = next;
    }
    halves.pass_to(plan.until);
    if !halves.is_empty() || at.0.saturating_sub(from.0) > READ_BYTES {
        let (open, read_bytes) = (halves.len(), at.0.saturating_sub(from.0));
        info!(open, read_bytes, "open transactions are known again");
    }
    Ok(halves)
}

/// Where the oldest half lies that a Java broker had not settled, by the offset of its own consumer of halves.
fn left_by_java(plan: &HalvesPlan) -> Result<PhysicalOffset, MetadataError> {
    let queue = QueueId(0);
    let offset =
        plan.metadata.consumer_offsets()?.get(&TRANSACTION_GROUP.into(), &HALF_TOPIC.into(), queue)?;
    let dir = queue_dir(&plan.consume_queue_root, &HALF_TOPIC.into(), queue);
    let glance = QueueGlance::at(plan.files.clone(), dir, plan.units);
    let located = glance.and_then(|mut queue| queue.locate(offset.unwrap_or_default()));
    // What the queue does not show is not dispatched yet, and so lies behind.
    Ok(match located {
        Ok(at) => at.map_or(plan.until, |at| at.min(plan.until)),
        Err(error) => {
            warn!(%error, "the queue of half messages cannot be read; the whole log is");
            PhysicalOffset(0)
        }
    })
}
