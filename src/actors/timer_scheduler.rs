//! Messages that wait for a time of their own, and come to their real topics when they are due.
//!
//! - Owns: what is pending ([`PendingTimers`]), and what of it is being delivered.
//! - Takes: [`TimersDispatched`] from the dispatcher, [`StartDelivery`], [`MessageStored`] for its own sends,
//!   [`SaveTimers`], [`MoveTimers`]; questions: [`RecallTimer`], [`ListTimers`], [`CountTimers`].
//! - Sends: [`SendMessages`](super::topic_queue::SendMessages) to real topics, and to the timer topic what takes a
//!   message back or stores it anew.
//! - Fails: a delivery that is refused is tried again after a pause; a message that is gone from the log, or whose
//!   topic is, is settled with a line in the log; a save that fails holds back the check point.
//! - Invariants: nothing is delivered before its time by the wall clock, and nothing that the log says is settled. A
//!   message is settled by the record that delivers it, which names it: a crash repeats no delivery that the log has.

mod copies;
mod questions;

use std::time::Duration;

use actix::prelude::*;
pub use questions::{
    CountTimers, FoundTimer, ListTimers, RecallTimer, TimerCounts, TimerFilter, TimerPage, TimerRecalled,
};
use serde_json::{Value, json};
use tracing::{error, warn};

use self::copies::Copies;
use super::aside::aside;
use super::context::{Context, observed};
use super::delay_scheduler::StartDelivery;
use super::dispatcher::TimersDispatched;
use super::facts::Progress;
use super::own_sends::OwnSends;
use super::topic_queue::MessageStored;
use super::topic_table::TopicTable;
use crate::clock::SharedClock;
use crate::error::Refusal;
use crate::kill_point;
use crate::protocol::message::PendingMessage;
use crate::protocol::timer;
use crate::store::commit_log::CommitLogReader;
use crate::store::java_import::JavaTimers;
use crate::store::timers::{PendingTimers, Settled, TimerEntry, TimerName, TimerNews, TimerRecord};
use crate::types::{FlushMode, PhysicalOffset};

/// Deliveries under way.
const IN_FLIGHT: usize = 1024;
/// Messages stored anew at once, beside deliveries.
const MOVING: usize = 256;
/// Pause before a refused delivery is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Longest sleep: a clock that was set forward is noticed after that.
const LONGEST_SLEEP_MS: i64 = 250;
/// What may come between two saves; more is saved without being asked.
const MAX_UNSAVED: usize = 256 * 1024;

/// Makes what the log tells below `through` durable; the log is on disk up to there. Losing it holds back a check point.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Result<(), String>")]
pub struct SaveTimers {
    pub through: PhysicalOffset,
}

/// Stores pending messages anew whose records lie before a position: their part of the log is to be deleted. Answers
/// at once, with how far the log may be deleted now. Losing it delays deletion.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "TimersMoved")]
pub struct MoveTimers {
    pub before: PhysicalOffset,
}

#[derive(MessageResponse, Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimersMoved {
    /// No pending message lies before; `None` when nothing is pending.
    pub oldest: Option<PhysicalOffset>,
}

/// What the scheduler is made of.
pub struct TimerSchedulerParts {
    pub pending: PendingTimers,
    pub log: CommitLogReader,
    pub topics: TopicTable,
    pub progress: Progress,
    /// What a Java broker had delivered before this one took its store over.
    pub java: Option<JavaTimers>,
    pub flush: FlushMode,
    pub store_host: std::net::SocketAddr,
    pub clock: SharedClock,
    pub mailbox_capacity: usize,
}

pub struct TimerScheduler {
    pending: PendingTimers,
    copies: Copies,
    progress: Progress,
    java: Option<JavaTimers>,
    clock: SharedClock,
    mailbox_capacity: usize,
    sends: OwnSends,
    /// Everything stored is dispatched.
    started: bool,
    /// A refusal has stopped deliveries for a moment.
    paused: bool,
    in_flight: usize,
    moving: usize,
    /// What lies before is to be stored anew.
    move_before: PhysicalOffset,
    saving: bool,
    alarm: Option<SpawnHandle>,
}

impl TimerScheduler {
    pub fn new(parts: TimerSchedulerParts) -> Self {
        Self {
            pending: parts.pending,
            copies: Copies { log: parts.log, topics: parts.topics.clone(), store_host: parts.store_host },
            progress: parts.progress,
            java: parts.java,
            clock: parts.clock,
            mailbox_capacity: parts.mailbox_capacity,
            sends: OwnSends::new(parts.topics, parts.flush),
            started: false,
            paused: false,
            in_flight: 0,
            moving: 0,
            move_before: PhysicalOffset(0),
            saving: false,
            alarm: None,
        }
    }

    /// Takes what a record says, once what it cancels is found.
    fn take(&mut self, news: TimerNews) {
        let mut adds = news.adds;
        if let (Some(entry), Some(java)) = (adds, self.java)
            && java.has_delivered(entry.key.queue_offset, news.slot_ms)
        {
            adds = None;
        }
        let settles = news.settles.or_else(|| {
            let cancelled = self.find(&news.cancels?, timer::due_in_slot(news.slot_ms));
            let entry = cancelled.inspect_err(|error| warn!(%error, "timers cannot be read")).ok()??;
            Some(Settled { key: entry.key, topic_hash: entry.topic_hash })
        });
        self.pending.take(TimerRecord { at: news.at, settles, adds });
    }

    /// The first pending message of that name that is due in `[from, to)`.
    fn find(&self, name: &TimerName, (from, to): (i64, i64)) -> std::io::Result<Option<TimerEntry>> {
        let found = self.pending.find(from, to, name.hash())?;
        Ok(found.into_iter().find(|entry| self.copies.is_named(entry, name)))
    }

    /// Delivers what is due, as far as there is room.
    fn deliver(&mut self, ctx: &mut Context<Self>) {
        if !self.started || self.paused {
            return;
        }
        let now_ms = self.clock.now().0;
        match self.pending.pop_due(now_ms, IN_FLIGHT.saturating_sub(self.in_flight)) {
            Ok(due) => {
                for entry in due {
                    self.in_flight += 1;
                    match self.copies.delivered(&entry, now_ms) {
                        Some(message) => self.send(entry, message, Purpose::Deliver, ctx),
                        None => self.give_up(entry, "its record is gone, or names no topic", ctx),
                    }
                }
                self.set_alarm(ctx);
            }
            Err(error) => {
                error!(%error, "timers cannot be read, trying again");
                self.pause(ctx);
            }
        }
    }

    /// Settles a message that has nowhere to go.
    fn give_up(&mut self, entry: TimerEntry, why: &str, ctx: &mut Context<Self>) {
        warn!(position = entry.physical_offset.0, why, "timer message dropped");
        let message = self.copies.settling(&entry);
        self.send(entry, message, Purpose::Settle, ctx);
    }

    fn send(
        &mut self,
        entry: TimerEntry,
        message: PendingMessage,
        purpose: Purpose,
        ctx: &mut Context<Self>,
    ) {
        let stored = self.sends.store(message, ctx.address().recipient());
        ctx.spawn(stored.into_actor(self).map(move |outcome, scheduler, ctx| {
            let refusal = outcome.err();
            match (&refusal, purpose) {
                // The dispatcher tells when it is settled.
                (None, _) => {}
                (Some(Refusal::TopicUnknown { .. }), Purpose::Deliver) => {
                    return scheduler.give_up(entry, "its topic is gone", ctx);
                }
                (Some(refusal), _) => {
                    warn!(%refusal, "timer message cannot be stored, trying again");
                    scheduler.pending.give_back(entry.key);
                    scheduler.pause(ctx);
                }
            }
            if purpose == Purpose::Move {
                scheduler.moving -= 1;
                scheduler.move_on(ctx);
            } else {
                scheduler.in_flight -= 1;
                if scheduler.in_flight <= IN_FLIGHT / 2 {
                    scheduler.deliver(ctx);
                }
            }
        }));
    }

    fn pause(&mut self, ctx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.paused, true) {
            ctx.run_later(RETRY_PAUSE, |scheduler, ctx| {
                scheduler.paused = false;
                scheduler.deliver(ctx);
                scheduler.move_on(ctx);
            });
        }
    }

    /// Wakes when the next message is due.
    fn set_alarm(&mut self, ctx: &mut Context<Self>) {
        if let Some(alarm) = self.alarm.take() {
            ctx.cancel_future(alarm);
        }
        if self.in_flight >= IN_FLIGHT {
            return; // what comes back wakes us
        }
        // What cannot be read is told by the delivery.
        let Some(due_ms) = self.pending.next_due_ms().unwrap_or(Some(0)) else { return };
        let sleep_ms = due_ms.saturating_sub(self.clock.now().0).clamp(1, LONGEST_SLEEP_MS);
        let alarm = ctx.run_later(Duration::from_millis(sleep_ms as u64), |scheduler, ctx| {
            scheduler.alarm = None;
            scheduler.deliver(ctx);
        });
        self.alarm = Some(alarm);
    }

    /// Stores messages anew, a few at a time, until none lies before the position asked for.
    fn move_on(&mut self, ctx: &mut Context<Self>) {
        if !self.started || self.paused || self.moving > 0 {
            return;
        }
        let found = match self.pending.before(self.move_before, MOVING) {
            Ok(found) => found,
            Err(error) => return error!(%error, "timers cannot be read, and their part of the log stays"),
        };
        for entry in found.into_iter().take(MOVING) {
            if !self.pending.hold(entry) {
                continue;
            }
            self.moving += 1;
            match self.copies.stored_anew(&entry) {
                Some(message) => self.send(entry, message, Purpose::Move, ctx),
                None => {
                    let message = self.copies.settling(&entry);
                    self.send(entry, message, Purpose::Move, ctx);
                }
            }
        }
    }

    fn save(
        &mut self,
        through: PhysicalOffset,
    ) -> impl ActorFuture<Self, Output = Result<(), String>> + 'static {
        let job = match std::mem::replace(&mut self.saving, true) {
            false => Ok(self.pending.begin_save(through)),
            true => Err("timers are being saved already".to_owned()),
        };
        let begun = job.is_ok();
        let saved = async move {
            let saved = aside(move || job.map(|job| job.run())).await;
            saved.map_err(|error| error.to_string())??.map_err(|error| error.to_string())
        };
        saved.into_actor(self).map(move |saved, scheduler, ctx| {
            if begun {
                kill_point::reach("timers.saved");
                scheduler.saving = false;
                let (saved, outcome) = match saved {
                    Ok(saved) => (Some(saved), Ok(())),
                    Err(error) => (None, Err(format!("timers cannot be saved: {error}"))),
                };
                scheduler.pending.finish_save(saved);
                scheduler.set_alarm(ctx);
                return outcome;
            }
            saved.map(|_| ())
        })
    }

    /// Saves when much has come and nobody asks, as while a store is derived anew.
    fn save_much(&mut self, ctx: &mut Context<Self>) {
        if self.pending.unsaved() > MAX_UNSAVED && !self.saving {
            let saved = self.save(self.progress.flushed());
            ctx.spawn(saved.map(|saved, _, _| {
                if let Err(error) = saved {
                    error!(error, "trying again");
                }
            }));
        }
    }
}

/// What a send of ours is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    Deliver,
    Settle,
    Move,
}

impl Actor for TimerScheduler {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.mailbox_capacity);
    }
}

observed!(TimerScheduler, TimerScheduler::facts);

impl TimerScheduler {
    /// For who looks at the actors.
    fn facts(&self) -> Value {
        json!({
            "pending": self.pending.count(),
            "unsaved": self.pending.unsaved(),
            "deliveries": self.in_flight,
            "movedNow": self.moving,
        })
    }
}

impl Handler<TimersDispatched> for TimerScheduler {
    type Result = ();

    fn handle(&mut self, TimersDispatched(news): TimersDispatched, ctx: &mut Self::Context) {
        news.into_iter().for_each(|news| self.take(news));
        self.deliver(ctx);
        self.save_much(ctx);
    }
}

impl Handler<StartDelivery> for TimerScheduler {
    type Result = ();

    fn handle(&mut self, _: StartDelivery, ctx: &mut Self::Context) {
        self.started = true;
        self.deliver(ctx);
    }
}

impl Handler<MessageStored> for TimerScheduler {
    type Result = ();

    fn handle(&mut self, stored: MessageStored, _: &mut Self::Context) {
        kill_point::reach("timers.delivery_stored");
        self.sends.settle(stored);
    }
}

impl Handler<SaveTimers> for TimerScheduler {
    type Result = ResponseActFuture<Self, Result<(), String>>;

    fn handle(&mut self, SaveTimers { through }: SaveTimers, _: &mut Self::Context) -> Self::Result {
        Box::pin(self.save(through))
    }
}

impl Handler<MoveTimers> for TimerScheduler {
    type Result = TimersMoved;

    fn handle(&mut self, MoveTimers { before }: MoveTimers, ctx: &mut Self::Context) -> TimersMoved {
        self.move_before = self.move_before.max(before);
        self.move_on(ctx);
        TimersMoved { oldest: self.pending.oldest() }
    }
}

#[cfg(test)]
mod tests;
