//! Makes the log durable, and notes how far everything is: the check point a restart begins at. On a thread of
//! its own, since it waits for the disk.
//!
//! - Owns: the check point file, what is known of derived files, the making of segments ahead of need.
//! - Takes: [`FlushWanted`], [`FlushNow`], [`CheckPointNow`], its timers.
//! - Sends: [`LogFlushed`] to those who wait for the disk; [`LogPublished`] to the dispatcher, which may wait for it
//!   too; [`BeginCheckPoint`] to the dispatcher, [`TakeUnflushed`] to queues, [`FlushKeyIndex`], [`SaveTimers`];
//!   [`DiskFailed`].
//! - Fails: after a sync that fails nobody knows what is on disk, and a second one may succeed without having
//!   written anything (the kernel forgets the failed pages). So nothing is claimed any more, and [`DiskFailed`] ends
//!   the process; the next start looks at what is there. A check point file that cannot be written stays the old
//!   one, and is tried again.
//! - Invariants: a check point never claims what is not on disk: log first, then what was derived, what is known of
//!   it, then the file.
//!
//! All who wait when a flush begins share it; those who come meanwhile share the next.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use actix::dev::RecipientRequest;
use actix::prelude::*;
use futures::channel::oneshot;
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{debug, error};

use super::aside::aside;
use super::commit_log_writer::LogPublished;
use super::context::{Context, observed};
use super::dispatcher::{BeginCheckPoint, CheckPointPlan};
use super::facts::Progress;
use super::key_index::FlushKeyIndex;
use super::log_flush::LogFlush;
use super::timer_scheduler::SaveTimers;
use super::topic_queue::{TakeUnflushed, TakenQueue, TopicQueue};
use super::turn::{ActsAtTurnEnd, TurnEnd};
use crate::kill_point;
use crate::store::commit_log::{CommitLogReader, LogTail, SegmentPreparer};
use crate::store::consume_queue::Unflushed;
use crate::store::file::{FileSystem, StoreFiles};
use crate::store::known_derived::{KnownDerived, KnownIndex, NamedQueue};
use crate::store::store_check_point::{CheckPointFile, StoreCheckPoint};
use crate::types::PhysicalOffset;

/// Files that are synced one by one for a check point; when there are more, their file system is, as a whole.
const FILES_SYNCED_SINGLY: usize = 64;
/// Queues that are asked for a check point at once. Each writes what it has in memory, and messages go on in between.
const QUEUES_ASKED_AT_ONCE: usize = 32;

/// Part of the time that check points may take: after one that took long the next waits, though never for more than
/// [`LATEST_CHECK_POINT`] intervals.
const CHECK_POINT_SHARE: u32 = 10;
const LATEST_CHECK_POINT: u32 = 4;

/// Flushes what is published, at the end of this turn, and tells those who wait. Losing it would leave them waiting.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FlushWanted {
    pub tell: Vec<Arc<Recipient<LogFlushed>>>,
}

/// The disk has refused to keep what it was given. Losing it would let the process go on; it is sent once.
#[derive(Message, Clone, PartialEq, Eq, Debug)]
#[rtype(result = "()")]
pub struct DiskFailed {
    pub cause: String,
}

/// Flushes what is published now; answers with the flushed position.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Result<LogFlushed, String>")]
pub struct FlushNow;

/// Everything below is on disk. Losing it would leave senders to their time-out, so it bypasses capacities; there is
/// one for each queue and flush.
#[derive(Message, Clone, Copy, PartialEq, Eq, Debug)]
#[rtype(result = "()")]
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
    /// That of the consume queues.
    pub file_system: Arc<dyn FileSystem>,
    pub log: CommitLogReader,
    pub flush: LogFlush,
    pub preparer: SegmentPreparer,
    pub check_point_file: CheckPointFile,
    pub check_point: StoreCheckPoint,
    pub known: KnownDerived,
    pub dispatcher: Recipient<BeginCheckPoint>,
    /// The dispatcher again, which shows nothing to consumers that must be on disk first.
    pub dispatch: Recipient<LogPublished>,
    pub failed: Recipient<DiskFailed>,
    pub key_index: Option<Recipient<FlushKeyIndex>>,
    pub timers: Option<Recipient<SaveTimers>>,
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
    /// Taken from queues for a check point that could not be claimed; synced before the next.
    unsynced: Vec<Unflushed>,
    /// What is known of the queues taken, to be kept with the next check point.
    unsaved: Vec<(Addr<TopicQueue>, NamedQueue)>,
    unsaved_index: Option<KnownIndex>,
    /// Queues whose part is still to be taken, see [`Gathered::untaken`].
    untaken: Vec<Addr<TopicQueue>>,
    check_point_runs: bool,
    /// No check point is begun before, unless somebody asks for one.
    next_check_point: Instant,
    /// Those who asked for a check point while one was under way.
    waiting: Vec<oneshot::Sender<()>>,
    preparing: bool,
    /// Told after the next flush.
    wait_for_disk: HashSet<Arc<Recipient<LogFlushed>>>,
    /// The disk has failed: nothing is claimed any more.
    failed: Option<String>,
}

impl Flusher {
    pub fn new(parts: FlusherParts) -> Self {
        Self {
            parts,
            unsynced: Vec::new(),
            unsaved: Vec::new(),
            unsaved_index: None,
            untaken: Vec::new(),
            check_point_runs: false,
            next_check_point: Instant::now(),
            waiting: Vec::new(),
            preparing: true,
            wait_for_disk: HashSet::new(),
            failed: None,
        }
    }

    fn flush_log(&mut self) -> Result<LogFlushed, String> {
        if let Some(cause) = &self.failed {
            return Err(cause.clone());
        }
        let up_to = self.parts.flush.flush().map_err(|error| self.fail(&error))?;
        if self.parts.progress.dispatched() < up_to {
            // A dispatcher with a full mailbox is on its way already.
            let _ = self.parts.dispatch.try_send(LogPublished);
        }
        Ok(LogFlushed { up_to })
    }

    /// A sync has failed: from here on nothing is believed.
    fn fail(&mut self, error: &dyn std::fmt::Display) -> String {
        let cause = error.to_string();
        error!(cause, "the disk has failed; ending, so that nothing is promised that it does not keep");
        self.parts.flush.give_up(cause.clone());
        self.failed = Some(cause.clone());
        self.parts.failed.do_send(DiskFailed { cause: cause.clone() });
        cause
    }

    fn flush_due(&mut self, _: &mut Context<Self>) {
        if self.flush_log().is_err() {
            return; // told once, by `fail`
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
        let begun = Instant::now();
        if self.check_point_runs || self.failed.is_some() || begun < self.next_check_point {
            return;
        }
        let taken = self.take_check_point();
        ctx.spawn(taken.map(move |outcome, flusher, _| {
            let latest = begun + flusher.parts.config.check_point_interval * LATEST_CHECK_POINT;
            flusher.next_check_point = latest.min(begun + begun.elapsed() * CHECK_POINT_SHARE);
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
        let claimed = gathered.into_actor(self).then(|gathered, flusher: &mut Self, _| {
            for (queue, TakenQueue { unflushed, known }) in gathered.taken {
                flusher.unsynced.push(unflushed);
                flusher.unsaved.extend(known.map(|known| (queue, known)));
            }
            flusher.unsaved_index = gathered.index.or(flusher.unsaved_index.take());
            flusher.untaken = gathered.untaken;
            let claim = match gathered.outcome {
                Ok(Some(dispatched)) if flusher.parts.check_point.dispatched != Some(dispatched) => {
                    flusher.flush_log().map(|_| Some(dispatched))
                }
                Ok(_) => Ok(None),
                Err(error) => Err(error),
            };
            let unsynced = match &claim {
                Ok(Some(_)) => std::mem::take(&mut flusher.unsynced),
                _ => Vec::new(),
            };
            let (files, file_system) = (flusher.parts.files.clone(), flusher.parts.file_system.clone());
            let syncing = sync_aside(unsynced, files, file_system);
            let through = claim.as_ref().ok().and_then(|claim| Some(claim.as_ref()?.end));
            let timers = flusher.parts.timers.clone().zip(through);
            let syncing = async move { (syncing.await, save_timers(timers).await) };
            syncing.into_actor(flusher).map(move |(synced, saved), flusher, _| match (claim?, synced) {
                (None, _) => Ok(()),
                (Some(dispatched), Ok(())) => saved.and_then(|()| flusher.save_check_point(dispatched)),
                (Some(_), Err(error)) => Err(flusher.fail(&error)),
            })
        });
        Box::pin(claimed.map(|outcome, flusher: &mut Self, _| {
            flusher.check_point_runs = false;
            for waiting in flusher.waiting.drain(..) {
                // Whoever asked may have stopped waiting.
                let _ = waiting.send(());
            }
            outcome
        }))
    }

    /// Everything below `dispatched`, and what was derived from it, is on disk.
    fn save_check_point(&mut self, dispatched: LogTail) -> Result<(), String> {
        kill_point::reach("check_point.synced");
        // A queue that was deleted meanwhile is forgotten already.
        self.unsaved.retain(|(queue, _)| queue.connected());
        let queues: Vec<NamedQueue> = self.unsaved.iter().map(|(_, known)| known.clone()).collect();
        self.parts.known.save(&queues, self.unsaved_index.as_ref()).map_err(|error| error.to_string())?;
        self.unsaved.clear();
        self.unsaved_index = None;
        let check_point = StoreCheckPoint {
            physic_at: dispatched.last_stored_at,
            logics_at: dispatched.last_stored_at,
            index_at: dispatched.last_stored_at,
            dispatched: Some(dispatched),
            ..self.parts.check_point
        };
        self.parts.check_point_file.save(&check_point).map_err(|error| error.to_string())?;
        kill_point::reach("check_point.saved");
        self.parts.check_point = check_point;
        debug!(dispatched = dispatched.end.0, queues = queues.len(), "check point taken");
        Ok(())
    }
}

/// Syncs on another thread: the disk takes a while, and nobody else is to wait for it.
async fn sync_aside(
    unsynced: Vec<Unflushed>,
    files: Arc<dyn StoreFiles>,
    file_system: Arc<dyn FileSystem>,
) -> io::Result<()> {
    if unsynced.is_empty() {
        return Ok(());
    }
    let count = unsynced.iter().map(|unflushed| unflushed.files.len() + unflushed.dirs.len()).sum::<usize>();
    let syncing = aside(move || match count > FILES_SYNCED_SINGLY {
        true => file_system.sync(),
        false => unsynced.iter().try_for_each(|unflushed| unflushed.sync(&*files)),
    });
    syncing.await.unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
}

/// What a check point stands on.
struct Gathered {
    taken: Vec<(Addr<TopicQueue>, TakenQueue)>,
    index: Option<KnownIndex>,
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
    let mut gathered = Gathered { taken: Vec::new(), index: None, untaken, outcome: Ok(None) };
    let CheckPointPlan { dispatched, queues } = match plan.await {
        Ok(plan) => plan,
        Err(error) => return Gathered { outcome: Err(error.to_string()), ..gathered },
    };
    gathered.outcome = Ok(dispatched);
    let mut asked = std::mem::take(&mut gathered.untaken);
    asked.extend(queues);
    for asked in asked.chunks(QUEUES_ASKED_AT_ONCE) {
        let answers = join_all(asked.iter().map(|queue| queue.send(TakeUnflushed))).await;
        for (queue, answer) in asked.iter().zip(answers) {
            match answer {
                Ok(Ok(taken)) => gathered.taken.push((queue.clone(), taken)),
                Ok(Err(error)) => {
                    gathered.untaken.push(queue.clone());
                    gathered.outcome = Err(error);
                }
                Err(_) => {} // a queue that is gone was deleted, with its files
            }
        }
    }
    if let Some(index) = key_index {
        let flushed = index.send(FlushKeyIndex).await.map_err(|error| error.to_string());
        match flushed.flatten() {
            Ok(known) => gathered.index = Some(known),
            Err(error) => gathered.outcome = Err(error),
        }
    }
    gathered
}

/// Has the timers saved that the log tells of below a position; the log is on disk up to there.
async fn save_timers(timers: Option<(Recipient<SaveTimers>, PhysicalOffset)>) -> Result<(), String> {
    let Some((timers, through)) = timers else { return Ok(()) };
    timers.send(SaveTimers { through }).await.map_err(|error| error.to_string())?
}

impl Actor for Flusher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.parts.config.mailbox_capacity);
        ctx.spawn(TurnEnd);
        ctx.run_interval(self.parts.config.flush_interval, Self::flush_due);
        ctx.run_interval(self.parts.config.check_point_interval, Self::check_point_due);
    }
}

observed!(Flusher, Flusher::facts);

impl Flusher {
    /// For who looks at the actors.
    fn facts(&self) -> Value {
        json!({
            "flushedTo": self.parts.progress.flushed().0,
            "checkPointRuns": self.check_point_runs,
            "waitForDisk": self.wait_for_disk.len(),
            "failed": self.failed,
        })
    }
}

impl ActsAtTurnEnd for Flusher {
    fn turn_end(&mut self, _: &mut Context<Self>) {
        if self.wait_for_disk.is_empty() {
            return;
        }
        // When the disk has failed they are told nothing: what is not known is not said.
        if let Ok(flushed) = self.flush_log() {
            for waiting in self.wait_for_disk.drain() {
                waiting.do_send(flushed);
            }
        }
    }
}

impl Handler<FlushWanted> for Flusher {
    type Result = ();

    fn handle(&mut self, wanted: FlushWanted, _: &mut Self::Context) {
        self.wait_for_disk.extend(wanted.tell);
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
