//! Brings everything that was taken to where the next start finds it: what a stop and a drain have in common.

use actix::prelude::*;
use tracing::warn;

use super::aside::aside;
use super::commit_log_writer::{CommitLogWriter, QueryLogTail};
use super::consumer_offsets::{ConsumerOffsets, SaveOffsets};
use super::delay_scheduler::{DelayScheduler, SaveNow};
use super::dispatcher::{DispatchTo, Dispatcher};
use super::facts::Progress;
use super::flusher::{CheckPointNow, FlushNow, Flusher};
use super::transaction_checker::{SaveTransactions, TransactionChecker};
use crate::store::metadata::Metadata;

/// Those who hold something that is not on disk. Cheap to clone.
#[derive(Clone)]
pub struct Settling {
    pub writer: Addr<CommitLogWriter>,
    pub dispatcher: Addr<Dispatcher>,
    pub flusher: Addr<Flusher>,
    pub delays: Addr<DelayScheduler>,
    pub transactions: Addr<TransactionChecker>,
    pub offsets: Addr<ConsumerOffsets>,
    pub metadata: Metadata,
    pub progress: Progress,
}

impl Settling {
    /// Flushes and dispatches what was appended, saves offsets and settings, takes a check point. The cause tells
    /// why there is none.
    pub async fn settle(&self) -> Result<(), String> {
        // Those who ended already have nothing left to do; hence the results that are not looked at.
        if let Ok(tail) = self.writer.send(QueryLogTail).await.flatten() {
            // Consumers, and so the dispatcher, may have to wait for the disk.
            let _ = self.flusher.send(FlushNow).await;
            let _ = self.dispatcher.send(DispatchTo(tail.end)).await;
        }
        let _ = self.delays.send(SaveNow).await;
        let dispatched = self.progress.dispatched();
        let _ = self.transactions.send(SaveTransactions { dispatched }).await;
        let _ = self.offsets.send(SaveOffsets).await;
        let metadata = self.metadata.clone();
        match aside(move || metadata.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "settings and offsets are not durable"),
            Err(error) => warn!(%error, "settings and offsets are not durable"),
        }
        match self.flusher.send(CheckPointNow).await {
            Ok(taken) => taken.map_err(|error| format!("no check point could be taken: {error}")),
            Err(_) => Err("the flusher has ended".to_owned()),
        }
    }
}
