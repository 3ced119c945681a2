//! Compacted topics: has their queues rewritten from time to time, so that of each key the latest message is left.
//!
//! - Owns: a schedule; how far each queue was compacted (`compaction/position-checkpoint`).
//! - Takes: [`CompactionDue`], [`SecureCopies`], [`StopCompacting`], [`ObserveCompactor`].
//! - Sends: [`BeginRewrite`], [`EndRewrite`] and [`TakeCopies`] to the queues of compacted topics; [`FlushNow`].
//! - Fails: a queue that cannot be rewritten is logged and stays as it is until the next round; positions that cannot
//!   be written make the next start look at more again.
//! - Invariants: what replaces messages is on disk, in the commit log too, before it does; the log is not deleted
//!   beyond what is copied and on disk; one queue is rewritten at a time, on a thread that no message passes through.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::prelude::*;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::aside::aside;
use super::context::{Context, observed};
use super::flusher::FlushNow;
use super::topic_queue::{BeginRewrite, EndRewrite, TakeCopies, TopicQueue};
use super::topic_table::TopicTable;
use crate::clock::{SharedClock, WallMs};
use crate::collections::HashMap;
use crate::store::compacted_log::Rewritten;
use crate::store::compaction_positions::CompactionPositions;
use crate::types::{PhysicalOffset, QueueId, QueueOffset, TopicName};

/// Rewrites what can be. Losing it delays that until the next one.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct CompactionDue;

/// Brings what is copied to disk, before the log goes. Losing it makes retention wait.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "CopiesSecured")]
pub struct SecureCopies;

#[derive(MessageResponse, Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopiesSecured {
    /// No message lies before that is not copied, and on disk; `None`: all are.
    pub oldest_unsecured: Option<PhysicalOffset>,
}

/// Ends what is under way, unfinished, and secures the copies: the broker is stopping.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct StopCompacting;

/// When a queue was last compacted, and how far; for administration and tests.
#[derive(Message, Clone, Debug)]
#[rtype(result = "CompactorObserved")]
pub struct ObserveCompactor {
    pub topic: TopicName,
    pub queue_id: QueueId,
}

#[derive(MessageResponse, Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompactorObserved {
    pub compacted_to: Option<QueueOffset>,
    /// Since the start of the broker.
    pub compacted_at: Option<WallMs>,
    pub is_busy: bool,
}

/// What the compactor is made of.
pub struct CompactorParts {
    pub topics: TopicTable,
    pub positions: CompactionPositions,
    pub flush: Recipient<FlushNow>,
    pub clock: SharedClock,
    pub interval: Duration,
    /// For the keys of a rewriting.
    pub memory_bytes: usize,
    pub mailbox_capacity: usize,
}

pub struct Compactor {
    parts: CompactorParts,
    compacted_at: HashMap<(TopicName, QueueId), WallMs>,
    is_busy: bool,
    /// Ends a rewriting when it is set.
    cancelled: Arc<AtomicBool>,
}

/// A queue of a compacted topic.
#[derive(Clone)]
struct CompactedQueue {
    topic: TopicName,
    queue_id: QueueId,
    addr: Addr<TopicQueue>,
}

impl Compactor {
    pub fn new(parts: CompactorParts) -> Self {
        Self { parts, compacted_at: HashMap::default(), is_busy: false, cancelled: Arc::default() }
    }

    fn queues(&self) -> Vec<CompactedQueue> {
        let topics = self.parts.topics.load_full();
        let compacted = topics.topics.values().filter(|entry| entry.is_compacted());
        let queues = compacted.flat_map(|entry| {
            let addr = |id| entry.queue(QueueId(id)).cloned().map(|addr| (QueueId(id), addr));
            let queue = |(queue_id, addr)| CompactedQueue { topic: entry.name().clone(), queue_id, addr };
            (0..entry.queue_nums()).filter_map(addr).map(queue).collect::<Vec<_>>()
        });
        queues.collect()
    }

    /// Rewrites the first of `queues`, and then the rest.
    fn compact(mut queues: Vec<CompactedQueue>, compactor: &mut Self) -> ResponseActFuture<Self, ()> {
        let Some(queue) = queues.pop().filter(|_| !compactor.cancelled.load(Ordering::Relaxed)) else {
            compactor.is_busy = false;
            return Box::pin(actix::fut::ready(()));
        };
        let begin = BeginRewrite {
            compacted_to: compactor.parts.positions.get(&queue.topic, queue.queue_id),
            memory_bytes: compactor.parts.memory_bytes,
            cancelled: compactor.cancelled.clone(),
        };
        let rewriting = rewrite(queue.clone(), begin, compactor.parts.flush.clone());
        Box::pin(rewriting.into_actor(compactor).then(move |outcome, compactor, _| {
            if let Some(outcome) = outcome {
                if outcome.has_more {
                    queues.push(queue.clone());
                }
                compactor.note(&queue, outcome);
            }
            Self::compact(queues, compactor)
        }))
    }

    fn note(&mut self, queue: &CompactedQueue, outcome: Outcome) {
        let CompactedQueue { topic, queue_id, .. } = queue;
        self.compacted_at.insert((topic.clone(), *queue_id), self.parts.clock.now());
        let Some(compacted_to) = outcome.compacted_to else { return };
        self.parts.positions.set(topic, *queue_id, compacted_to);
        let topics = self.parts.topics.load_full();
        self.parts.positions.keep_topics(|topic| topics.topics.contains_key(topic));
        if let Err(error) = self.parts.positions.save() {
            warn!(%error, "how far queues are compacted cannot be written; the next start looks at more again");
        }
    }

    fn secure(&self) -> impl Future<Output = CopiesSecured> + 'static {
        let queues = self.queues();
        async move {
            let mut oldest: Option<PhysicalOffset> = None;
            for queue in queues {
                let unsecured = secure_queue(&queue).await.unwrap_or_else(|cause| {
                    let CompactedQueue { topic, queue_id, .. } = queue;
                    warn!(%topic, queue_id = queue_id.0, cause, "copies of a compacted topic are not on disk; the log is kept");
                    Some(PhysicalOffset(0))
                });
                oldest = [oldest, unsecured].into_iter().flatten().min();
            }
            CopiesSecured { oldest_unsecured: oldest }
        }
    }
}

/// What is kept of a rewriting.
struct Outcome {
    compacted_to: Option<QueueOffset>,
    has_more: bool,
}

/// `None`: there was nothing to do, or it failed.
async fn rewrite(queue: CompactedQueue, begin: BeginRewrite, flush: Recipient<FlushNow>) -> Option<Outcome> {
    let CompactedQueue { topic, queue_id, addr } = queue;
    // A message that is to outlive others must not be lost where they are not.
    let flushed = flush.send(FlushNow).await.map_err(|error| error.to_string()).flatten();
    if let Err(error) = flushed {
        warn!(error, "nothing is compacted while the log is not on disk");
        return None;
    }
    let rewrite = match addr.send(begin).await {
        Ok(Ok(rewrite)) => rewrite?,
        Ok(Err(refusal)) => {
            warn!(%topic, queue_id = queue_id.0, %refusal, "queue cannot be compacted");
            return None;
        }
        Err(_) => return None, // it was deleted
    };
    let boundary = rewrite.boundary;
    let ran =
        aside(move || rewrite.run()).await.unwrap_or_else(|panicked| Err(std::io::Error::other(panicked)));
    let (rewritten, outcome) = match ran {
        Ok(rewritten) => {
            let Rewritten { compacted_to, records_before, records, has_more, .. } = rewritten;
            info!(%topic, queue_id = queue_id.0, records_before, records, "queue compacted");
            (Some(rewritten), Some(Outcome { compacted_to, has_more }))
        }
        Err(error) => {
            warn!(%topic, queue_id = queue_id.0, %error, "queue is not compacted, trying again later");
            (None, None)
        }
    };
    // A queue that ended meanwhile was deleted.
    addr.send(EndRewrite { boundary, rewritten }).await.ok().and(outcome)
}

/// Where the first message lies that is not copied.
async fn secure_queue(queue: &CompactedQueue) -> Result<Option<PhysicalOffset>, String> {
    let Ok(taken) = queue.addr.send(TakeCopies).await else { return Ok(None) };
    let taken = taken.map_err(|refusal| refusal.to_string())?;
    let syncing = aside(move || {
        taken.segments.iter().try_for_each(|segment| segment.sync())?;
        taken.dirs.map_or(Ok(()), |dirs| dirs.sync())
    });
    let synced = syncing.await.unwrap_or_else(|panicked| Err(std::io::Error::other(panicked)));
    synced.map_err(|error| error.to_string())?;
    Ok(taken.oldest_uncopied)
}

impl Actor for Compactor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.parts.mailbox_capacity);
        ctx.run_interval(self.parts.interval, |_, ctx| ctx.notify(CompactionDue));
    }
}

observed!(Compactor, Compactor::facts);

impl Compactor {
    /// For who looks at the actors.
    fn facts(&self) -> Value {
        let compacted = self.compacted_at.iter();
        let compacted: serde_json::Map<_, _> =
            compacted.map(|((topic, queue_id), at)| (format!("{topic}/{queue_id}"), at.0.into())).collect();
        json!({ "isBusy": self.is_busy, "compactedAtMs": compacted })
    }
}

impl Handler<CompactionDue> for Compactor {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: CompactionDue, _: &mut Self::Context) -> Self::Result {
        if std::mem::replace(&mut self.is_busy, true) {
            return Box::pin(actix::fut::ready(()));
        }
        Self::compact(self.queues(), self)
    }
}

impl Handler<SecureCopies> for Compactor {
    type Result = ResponseFuture<CopiesSecured>;

    fn handle(&mut self, _: SecureCopies, _: &mut Self::Context) -> Self::Result {
        Box::pin(self.secure())
    }
}

impl Handler<StopCompacting> for Compactor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: StopCompacting, _: &mut Self::Context) -> Self::Result {
        self.cancelled.store(true, Ordering::Relaxed);
        let securing = self.secure();
        Box::pin(async move {
            securing.await;
        })
    }
}

impl Handler<ObserveCompactor> for Compactor {
    type Result = CompactorObserved;

    fn handle(
        &mut self,
        ObserveCompactor { topic, queue_id }: ObserveCompactor,
        _: &mut Self::Context,
    ) -> CompactorObserved {
        CompactorObserved {
            compacted_to: self.parts.positions.get(&topic, queue_id),
            compacted_at: self.compacted_at.get(&(topic, queue_id)).copied(),
            is_busy: self.is_busy,
        }
    }
}

#[cfg(test)]
mod tests;
