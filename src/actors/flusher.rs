//! Makes the log durable, and notes how far everything is: the check point a restart begins at. On a thread of
//! its own, since it waits for the disk.
//!
//! - Owns: the flushed position, the check point file, the making of segments ahead of need.
//! - Takes: [`FlushNow`], [`CheckPointNow`], its timers.
//! - Sends: [`BeginCheckPoint`] to the dispatcher, [`TakeUnflushed`] to queues, [`FlushKeyIndex`].
//! - Fails: a flush that fails is logged and tried again; the check point stays where it was.
//! - Invariants: a check point never claims what is not on disk: log first, then what was derived, then the file.

use std::sync::Arc;
use std::time::Duration;

use actix::dev::RecipientRequest;
use actix::prelude::*;
use futures::channel::oneshot;
use futures::future::join_all;
use tracing::{debug, error};

use super::dispatcher::{BeginCheckPoint, CheckPointPlan};
use super::facts::Progress;
use super::key_index::FlushKeyIndex;
use super::topic_queue::{TakeUnflushed, TopicQueue};
use crate::store::commit_log::{CommitLogReader, LogTail, SegmentPreparer};
use crate::store::consume_queue::Unflushed;
use crate::store::file::StoreFiles;
use crate::store::store_check_point::{CheckPointFile, StoreCheckPoint};
use crate::types::PhysicalOffset;

/// Flushes what is published now; answers with the flushed position.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Result<LogFlushed, String>")]
pub struct FlushNow;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogFlushed {
    pub up_to: PhysicalOffset,
}

/// Takes a check point now; answers when it is on disk.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Result<(), String>")]
pub struct CheckPointNow;

/// What the flusher is made of.
pub struct FlusherParts {
    pub files: Arc<dyn StoreFiles>,
    pub log: CommitLogReader,
    pub preparer: SegmentPreparer,
    pub check_point_file: CheckPointFile,
    pub check_point: StoreCheckPoint,
    pub dispatcher: Recipient<BeginCheckPoint>,
    pub key_index: Option<Recipient<FlushKeyIndex>>,
    pub progress: Progress,
    pub config: FlusherConfig,
}

#[derive(Clone, Copy, Debug)]
pub struct FlusherConfig {
    /// Between two flushes of the log: at most this much is lost when the power fails.
    pub flush_interval: Duration,
    /// Between two check points: at most this much is read again after a crash.
    pub check_point_interval: Duration,
    pub mailbox_capacity: usize,
}

impl Default for FlusherConfig {
    fn default() -> Self {
        Self {
            flush_interval: Duration::from_millis(500),
            check_point_interval: Duration::from_secs(5),
            mailbox_capacity: 1024,
        }
    }
}

pub struct Flusher {
    parts: FlusherParts,
    flushed: PhysicalOffset,
    /// Taken from queues whose sync failed; synced before the next check point.
    unsynced: Vec<Unflushed>,
    /// Queues whose part is still to be taken, see [`Gathered::untaken`].
    untaken: Vec<Addr<TopicQueue>>,
    check_point_runs: bool,
    /// Those who asked for a check point while one was under way.
    waiting: Vec<oneshot::Sender<()>>,
    preparing: bool,
}

impl Flusher {
    /// `flushed`: everything below is on disk already.
    pub fn new(parts: FlusherParts, flushed: PhysicalOffset) -> Self {
        Self {
            parts,
            flushed,
            unsynced: Vec::new(),
            untaken: Vec::new(),
            check_point_runs: false,
            waiting: Vec::new(),
            preparing: true,
        }
    }

    fn flush_log(&mut self) -> Result<LogFlushed, String> {
        let published = self.parts.log.published();
        if published > self.flushed {
            self.parts.log.flush(self.flushed, published).map_err(|error| error.to_string())?;
            self.flushed = published;
            self.parts.progress.set_flushed(published);
        }
        Ok(LogFlushed { up_to: self.flushed })
    }

    fn flush_due(&mut self, _: &mut Context<Self>) {
        if let Err(error) = self.flush_log() {
            error!(error, "log cannot be flushed, trying again");
        }
        // The next segment is made once this one is in use, so that an idle store holds one.
        let used = self.parts.log.published().0 % self.parts.log.segment_bytes();
        if used > self.parts.log.segment_bytes() / 2 {
            match self.parts.preparer.prepare_next(&self.parts.log) {
                Ok(_) => self.preparing = true,
                Err(error) if std::mem::take(&mut self.preparing) => {
                    error!(%error, "next segment of the log cannot be made ahead; the disk may be full");
                }
                Err(_) => {}
            }
        }
    }

    fn check_point_due(&mut self, ctx: &mut Context<Self>) {
        if self.check_point_runs {
            return;
        }
        let taken = self.take_check_point();
        ctx.spawn(taken.map(|outcome, _, _| {
            if let Err(error) = outcome {
                error!(error, "check point cannot be taken, trying again");
            }
        }));
    }

    /// Takes a check point once none is under way: a second one would claim what the first has yet to sync.
    fn take_next_check_point(&mut self) -> ResponseActFuture<Self, Result<(), String>> {
        if !self.check_point_runs {
            return self.take_check_point();
        }
        let (waiting, ended) = oneshot::channel();
        self.waiting.push(waiting);
        // Whoever was told before may have begun the next.
        Box::pin(ended.into_actor(self).then(|_, flusher, _| flusher.take_next_check_point()))
    }

    fn take_check_point(&mut self) -> ResponseActFuture<Self, Result<(), String>> {
        self.check_point_runs = true;
        let plan = self.parts.dispatcher.send(BeginCheckPoint);
        let gathered = gather(plan, std::mem::take(&mut self.untaken), self.parts.key_index.clone());
        Box::pin(gathered.into_actor(self).map(|gathered, flusher: &mut Self, _| {
            flusher.check_point_runs = false;
            for waiting in flusher.waiting.drain(..) {
                // Whoever asked may have stopped waiting.
                let _ = waiting.send(());
            }
            flusher.unsynced.extend(gathered.taken);
            flusher.untaken = gathered.untaken;
            match gathered.outcome? {
                Some(dispatched) => flusher.save_check_point(dispatched),
                None => Ok(()),
            }
        }))
    }

    fn save_check_point(&mut self, dispatched: LogTail) -> Result<(), String> {
        if self.parts.check_point.dispatched == Some(dispatched) {
            return Ok(());
        }
        self.flush_log()?;
        while let Some(unflushed) = self.unsynced.last() {
            unflushed.sync(&*self.parts.files).map_err(|error| error.to_string())?;
            self.unsynced.pop();
        }
        let check_point = StoreCheckPoint {
            physic_at: dispatched.last_stored_at,
            logics_at: dispatched.last_stored_at,
            index_at: dispatched.last_stored_at,
            dispatched: Some(dispatched),
            ..self.parts.check_point
        };
        self.parts.check_point_file.save(&check_point).map_err(|error| error.to_string())?;
        self.parts.check_point = check_point;
        debug!(dispatched = dispatched.end.0, "check point taken");
        Ok(())
    }
}

/// What a check point stands on.
struct Gathered {
    taken: Vec<Unflushed>,
    /// Queues that could not hand over what they have; the dispatcher names them no more.
    untaken: Vec<Addr<TopicQueue>>,
    /// The position to claim; `None` while the dispatcher waits for room.
    outcome: Result<Option<LogTail>, String>,
}

/// Asks everybody for what is not on disk, whatever the others answer.
async fn gather(
    plan: RecipientRequest<BeginCheckPoint>,
    untaken: Vec<Addr<TopicQueue>>,
    key_index: Option<Recipient<FlushKeyIndex>>,
) -> Gathered {
    let mut gathered = Gathered { taken: Vec::new(), untaken, outcome: Ok(None) };
    let CheckPointPlan { dispatched, queues } = match plan.await {
        Ok(plan) => plan,
        Err(error) => return Gathered { outcome: Err(error.to_string()), ..gathered },
    };
    gathered.outcome = Ok(dispatched);
    let mut asked = std::mem::take(&mut gathered.untaken);
    asked.extend(queues);
    let answers = join_all(asked.iter().map(|queue| queue.send(TakeUnflushed))).await;
    for (queue, answer) in asked.into_iter().zip(answers) {
        match answer {
            Ok(Ok(unflushed)) => gathered.taken.push(unflushed),
            Ok(Err(error)) => {
                gathered.untaken.push(queue);
                gathered.outcome = Err(error);
            }
            Err(_) => {} // a queue that is gone was deleted, with its files
        }
    }
    if let Some(index) = key_index {
        let flushed = index.send(FlushKeyIndex).await.map_err(|error| error.to_string());
        if let Err(error) = flushed.flatten() {
            gathered.outcome = Err(error);
        }
    }
    gathered
}

impl Actor for Flusher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.parts.config.mailbox_capacity);
        ctx.run_interval(self.parts.config.flush_interval, Self::flush_due);
        ctx.run_interval(self.parts.config.check_point_interval, Self::check_point_due);
    }
}

impl Handler<FlushNow> for Flusher {
    type Result = Result<LogFlushed, String>;

    fn handle(&mut self, _: FlushNow, _: &mut Self::Context) -> Self::Result {
        self.flush_log()
    }
}

impl Handler<CheckPointNow> for Flusher {
    type Result = ResponseActFuture<Self, Result<(), String>>;

    fn handle(&mut self, _: CheckPointNow, _: &mut Self::Context) -> Self::Result {
        self.take_next_check_point()
    }
}

#[cfg(test)]
mod tests;
