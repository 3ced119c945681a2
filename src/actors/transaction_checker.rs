//! Transactions: who decides how each ends, and asks its producers where nobody has decided.
//!
//! - Owns: the half messages that are not settled, what of them is kept for the next start, and the op messages.
//! - Takes: [`TransactionFacts`] from the dispatcher, [`StartChecks`], [`EndTransaction`], [`EndByHand`], [`ResumeHalf`],
//!   [`ProducerJoined`], [`MessageStored`] for its own sends, [`SaveTransactions`]; the questions [`ListTransactions`] and [`Observe`].
//! - Sends: [`SendMessages`](super::topic_queue::SendMessages) to the real queues of what is committed and to that of
//!   the op messages, [`WatchProducers`], [`PickProducer`], [`CallClient`](super::request::CallClient) to the producer that is asked; [`EnsureTopic`] for the topic of
//!   what is given up.
//! - Fails: an ending that is refused leaves its half open, and its producer is asked later; a half that is gone from
//!   the log is let go with a line in the log.
//! - Invariants: the first final decision of a half wins; a half ends by one record, which is the message itself and
//!   says what it ends, so no crash commits it twice; what is kept is never ahead of what is on disk.

mod checks;
mod ops;
mod questions;
mod restore;
mod saving;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::prelude::*;
pub use questions::{ListTransactions, Observe, TransactionCheckerState, TransactionPage};
pub use restore::{HalvesPlan, restore};
use saving::Saving;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::broker_settings::SettingsTable;
use super::context::{Context, observed};
use super::dispatcher::TransactionFacts;
use super::extensions::events::{BrokerEvent, EventKind};
use super::extensions::stream::EventTap;
use super::facts::Progress;
use super::open_halves::{OpenHalves, Standing};
use super::own_sends::OwnSends;
use super::producers::{PickProducer, ProducerJoined, WatchProducers};
use super::topic_queue::MessageStored;
use super::topic_table::TopicTable;
use super::topics::EnsureTopic;
use super::turn::{ActsAtTurnEnd, TurnEnd};
use crate::clock::SharedClock;
use crate::collections::HashMap;
use crate::error::Refusal;
use crate::kill_point;
use crate::protocol::message::PendingMessage;
use crate::protocol::properties::names as property;
use crate::protocol::transaction::{Decision, HalfMessage, half_again};
use crate::store::commit_log::CommitLogReader;
use crate::store::metadata::OpenHalfTable;
use crate::types::{BrokerName, FlushMode, GroupName, PhysicalOffset, QueueOffset};

/// A producer says how its transaction ended: request 37. Losing it leaves the half to be checked.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<TransactionEnded, Refusal>")]
pub struct EndTransaction {
    /// Queue offset of the half.
    pub half: QueueOffset,
    pub half_at: PhysicalOffset,
    pub group: GroupName,
    pub decision: Decision,
    /// It was asked for: the answer to a check.
    pub is_asked: bool,
}

/// An operator decides what no producer did. Losing it changes nothing.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Result<TransactionEnded, Refusal>")]
pub struct EndByHand {
    pub half: QueueOffset,
    pub decision: Decision,
}

/// A message that was given up becomes a half again: request 323. Losing it changes nothing.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Result<(), Refusal>")]
pub struct ResumeHalf {
    /// Where it lies.
    pub at: PhysicalOffset,
}

/// How a decision was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TransactionEnded {
    /// It holds: now, or since it was made first.
    AsAsked,
    /// The half was settled so long ago that only the log can tell how.
    Forgotten,
}

/// Everything stored is dispatched: producers may be asked.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct StartChecks;

/// Keeps what is open now; answers when it is in the metadata, as far as the log is on disk.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct SaveTransactions {
    /// What the log says below this was in the mailbox before. A position read later would claim what comes behind.
    pub dispatched: PhysicalOffset,
}

/// Where the oldest half lies that is not settled, for whoever deletes what lies before. One actor writes it.
#[derive(Clone, Debug)]
pub struct OldestHalf(Arc<AtomicU64>);

impl Default for OldestHalf {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }
}

impl OldestHalf {
    /// `None`: every transaction is settled.
    pub fn get(&self) -> Option<PhysicalOffset> {
        Some(self.0.load(Ordering::Relaxed)).filter(|at| *at != u64::MAX).map(PhysicalOffset)
    }

    fn set(&self, oldest: Option<PhysicalOffset>) {
        self.0.store(oldest.map_or(u64::MAX, |at| at.0), Ordering::Relaxed);
    }
}

/// What the checker is made of.
pub struct TransactionCheckerParts {
    pub oldest: OldestHalf,
    pub log: CommitLogReader,
    pub topics: TopicTable,
    pub ensure_topic: Recipient<EnsureTopic>,
    pub producers: Recipient<PickProducer>,
    pub producer_joins: Recipient<WatchProducers>,
    pub settings: SettingsTable,
    pub kept: OpenHalfTable,
    pub progress: Progress,
    pub flush: FlushMode,
    pub broker_name: BrokerName,
    pub store_host: SocketAddr,
    pub clock: SharedClock,
    /// Where extensions are told how transactions end.
    pub events: EventTap,
    pub mailbox_capacity: usize,
    /// Between two savings of what is open.
    pub save_interval: Duration,
}

/// Halves that are due at once when a producer joins; the others of its group wait for their round.
const ATTENDED_MAX: usize = 16_384;

type Answer = oneshot::Sender<Result<TransactionEnded, Refusal>>;

pub struct TransactionChecker {
    halves: OpenHalves,
    parts: TransactionCheckerParts,
    sends: OwnSends,
    under_way: HashMap<u64, UnderWay>,
    /// Who waits for an ending.
    waiting: HashMap<QueueOffset, Vec<Answer>>,
    /// Rollbacks that no op message names yet.
    rollbacks: Vec<QueueOffset>,
    op_in_work: bool,
    op_timer_set: bool,
    /// Behind everything that we know to be stored.
    stored_to: PhysicalOffset,
    saving: Option<Saving>,
    checks_started: bool,
    checking: bool,
    /// Groups that got a producer while one was looked for.
    joined_meanwhile: BTreeSet<GroupName>,
    /// When the timer of checks rings, ms.
    check_timer: Option<(i64, SpawnHandle)>,
    counts: Counts,
}

/// A send of ours that is not answered.
enum UnderWay {
    Ending { half: QueueOffset, decision: Decision },
    Op { rollbacks: Vec<QueueOffset>, ended: Vec<QueueOffset> },
    Resumed(oneshot::Sender<Result<(), Refusal>>),
}

/// What happened since the start.
#[derive(Clone, Copy, Default, Debug)]
struct Counts {
    committed: u64,
    rolled_back: u64,
    given_up: u64,
    asked: u64,
    lost: u64,
}

impl TransactionChecker {
    pub fn new(halves: OpenHalves, parts: TransactionCheckerParts) -> Self {
        parts.oldest.set(halves.oldest());
        Self {
            sends: OwnSends::new(parts.topics.clone(), parts.flush),
            stored_to: halves.read_to(),
            halves,
            parts,
            under_way: HashMap::default(),
            waiting: HashMap::default(),
            rollbacks: Vec::new(),
            op_in_work: false,
            op_timer_set: false,
            saving: None,
            checks_started: false,
            checking: false,
            joined_meanwhile: BTreeSet::new(),
            check_timer: None,
            counts: Counts::default(),
        }
    }

    /// How old a half is when it is first checked.
    fn timeout(&self) -> Duration {
        self.parts.settings.load().transaction_timeout
    }

    fn half_message(&self, at: PhysicalOffset) -> Option<HalfMessage> {
        HalfMessage::decode(&self.parts.log.read_record(at)?)
    }

    /// Checks a decision against what is known, and begins to carry it out. `None`: the answer comes when it is stored.
    fn decide(
        &mut self,
        end: &EndTransaction,
        own: Recipient<MessageStored>,
    ) -> Result<Option<TransactionEnded>, Refusal> {
        let EndTransaction { half, half_at, decision, .. } = *end;
        let unknown = |cause: String| Refusal::TransactionUnknown { cause };
        let Some(message) = self.half_message(half_at) else {
            return Err(unknown(format!(
                "Find prepared transaction message failed: no half message lies at {half_at}, or it has expired"
            )));
        };
        let found = message.offset();
        if found != half {
            return Err(unknown(format!(
                "The transaction state table offset wrong: the half message at {half_at} has queue offset {found}, not {half}"
            )));
        }
        let group = message.property(property::PRODUCER_GROUP).unwrap_or_default();
        if *group != *end.group {
            return Err(unknown(format!(
                "The producer group wrong: half message {half} is of group {group}, not {}",
                end.group
            )));
        }
        if self.halves.standing(half, half_at) == Standing::Ahead {
            // Its producer was faster than the dispatcher.
            let timeout = self.timeout();
            self.halves.begun(half_at, message.record(), timeout);
        }
        let decided = |done: Decision| match done == decision {
            true => Ok(Some(TransactionEnded::AsAsked)),
            false => Err(Refusal::TransactionDecided { half, done: done.done(), asked: decision.done() }),
        };
        match self.halves.standing(half, half_at) {
            Standing::Settled(Some(done)) => return decided(done),
            Standing::Ending(done) if done != decision => return decided(done),
            Standing::Ending(_) => return Ok(None),
            Standing::Settled(None) => return Ok(Some(TransactionEnded::Forgotten)),
            Standing::Open | Standing::Ahead => {}
        }
        self.check_immunity(end, &message)?;
        match decision {
            Decision::Commit | Decision::GiveUp => self.store_ending(half, decision, &message, own)?,
            Decision::Rollback => {
                self.halves.begin(half, decision);
                self.rollbacks.push(half);
            }
        }
        Ok(None)
    }

    /// Whoever asked for a time of its own has let it pass: the check decides (RocketMQ: `rejectCommitOrRollback`).
    fn check_immunity(&self, end: &EndTransaction, message: &HalfMessage) -> Result<(), Refusal> {
        let asked_for = message.record().immunity.filter(|_| !end.is_asked);
        let age_ms = self.parts.clock.now().0.saturating_sub(message.stored_at_ms());
        match asked_for.map(|immunity| immunity.max(self.timeout())) {
            Some(limit) if age_ms > limit.as_millis() as i64 => {
                Err(Refusal::TransactionLate { half: end.half, age_ms, limit_ms: limit.as_millis() as i64 })
            }
            _ => Ok(()),
        }
    }

    /// Stores the record that ends a half.
    fn store_ending(
        &mut self,
        half: QueueOffset,
        decision: Decision,
        message: &HalfMessage,
        own: Recipient<MessageStored>,
    ) -> Result<(), Refusal> {
        let ending = match decision {
            Decision::GiveUp => message.given_up(),
            Decision::Commit | Decision::Rollback => message.committed(),
        };
        let ending = PendingMessage { store_host: self.parts.store_host, ..ending };
        let token = self.sends.begin(ending, own)?;
        self.halves.begin(half, decision);
        self.under_way.insert(token, UnderWay::Ending { half, decision });
        Ok(())
    }

    fn ending_stored(&mut self, half: QueueOffset, decision: Decision, outcome: Result<(), Refusal>) {
        kill_point::reach("transactions.ending_stored");
        match &outcome {
            Ok(()) => {
                self.halves.ended(half, decision);
                self.settled(half, decision);
            }
            Err(refusal) => {
                debug!(half = half.0, %refusal, "transaction stays open");
                self.halves.abandon(half);
                if decision == Decision::GiveUp {
                    let next = self.parts.clock.now().0 + self.check_interval_ms();
                    self.halves.postponed(half, next);
                }
            }
        }
        self.answer(half, &outcome);
    }

    fn answer(&mut self, half: QueueOffset, outcome: &Result<(), Refusal>) {
        for waiting in self.waiting.remove(&half).into_iter().flatten() {
            // Whoever asked may have stopped waiting.
            let _ = waiting.send(outcome.clone().map(|()| TransactionEnded::AsAsked));
        }
    }

    /// Counts and tells a transaction whose end is in the log.
    fn settled(&mut self, half: QueueOffset, decision: Decision) {
        let counter = match decision {
            Decision::Commit => &mut self.counts.committed,
            Decision::Rollback => &mut self.counts.rolled_back,
            Decision::GiveUp => &mut self.counts.given_up,
        };
        *counter += 1;
        self.parts.events.tell(EventKind::TransactionSettled, || BrokerEvent::TransactionSettled {
            half,
            committed: decision == Decision::Commit,
        });
    }

    fn take(&mut self, end: EndTransaction, own: Recipient<MessageStored>, answer: Answer) {
        match self.decide(&end, own) {
            Ok(None) => self.waiting.entry(end.half).or_default().push(answer),
            Ok(Some(ended)) => drop(answer.send(Ok(ended))),
            Err(refusal) => drop(answer.send(Err(refusal))),
        }
    }
}

impl Actor for TransactionChecker {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.parts.mailbox_capacity);
        ctx.run_interval(self.parts.save_interval, |checker, ctx| checker.begin_saving(ctx));
        ctx.spawn(TurnEnd);
    }
}

observed!(TransactionChecker, TransactionChecker::facts);

impl TransactionChecker {
    /// For who looks at the actors.
    fn facts(&self) -> Value {
        json!({
            "open": self.halves.len(),
            "notEnded": self.halves.not_ended(),
            "endingsUnderWay": self.under_way.len(),
            "checksStarted": self.checks_started,
        })
    }
}

impl ActsAtTurnEnd for TransactionChecker {
    fn turn_end(&mut self, ctx: &mut Self::Context) {
        self.write_ops(ctx);
        self.set_check_timer(ctx);
        self.parts.oldest.set(self.halves.oldest());
    }
}

impl Handler<TransactionFacts> for TransactionChecker {
    type Result = ();

    fn handle(&mut self, TransactionFacts(facts): TransactionFacts, _: &mut Self::Context) {
        let timeout = self.timeout();
        for fact in &facts {
            self.halves.apply(fact, timeout);
        }
    }
}

impl Handler<StartChecks> for TransactionChecker {
    type Result = ();

    fn handle(&mut self, _: StartChecks, ctx: &mut Self::Context) {
        self.checks_started = true;
        // Producers end with the broker.
        self.parts.producer_joins.do_send(WatchProducers { watcher: ctx.address().recipient() });
    }
}

impl Handler<ProducerJoined> for TransactionChecker {
    type Result = ();

    fn handle(&mut self, ProducerJoined { group }: ProducerJoined, _: &mut Self::Context) {
        self.halves.attend(&group, self.parts.clock.now().0, ATTENDED_MAX);
        if self.checking {
            self.joined_meanwhile.insert(group);
        }
    }
}

impl Handler<EndTransaction> for TransactionChecker {
    type Result = ResponseFuture<Result<TransactionEnded, Refusal>>;

    fn handle(&mut self, end: EndTransaction, ctx: &mut Self::Context) -> Self::Result {
        let (answer, ended) = oneshot::channel();
        self.take(end, ctx.address().recipient(), answer);
        Box::pin(async move { ended.await.unwrap_or(Err(Refusal::ShuttingDown)) })
    }
}

impl Handler<EndByHand> for TransactionChecker {
    type Result = ResponseFuture<Result<TransactionEnded, Refusal>>;

    fn handle(&mut self, EndByHand { half, decision }: EndByHand, ctx: &mut Self::Context) -> Self::Result {
        let (answer, ended) = oneshot::channel();
        match self.halves.get(half) {
            Some(open) => {
                let (half_at, group) = (open.at, open.group.clone());
                warn!(half = half.0, %group, decision = decision.done(), "transaction decided by hand");
                let end = EndTransaction { half, half_at, group, decision, is_asked: true };
                self.take(end, ctx.address().recipient(), answer);
            }
            None => {
                let cause = format!("half message {half} is not open: it is settled, or there never was one");
                // Both ends are ours.
                drop(answer.send(Err(Refusal::TransactionUnknown { cause })));
            }
        }
        Box::pin(async move { ended.await.unwrap_or(Err(Refusal::ShuttingDown)) })
    }
}

impl Handler<MessageStored> for TransactionChecker {
    type Result = ();

    fn handle(&mut self, MessageStored { token, outcome, .. }: MessageStored, ctx: &mut Self::Context) {
        if let Ok(stored) = &outcome {
            self.stored_to = self.stored_to.max(stored.end);
        }
        let outcome = outcome.map(|_stored| ());
        match self.under_way.remove(&token) {
            Some(UnderWay::Ending { half, decision }) => self.ending_stored(half, decision, outcome),
            Some(UnderWay::Op { rollbacks, ended }) => self.op_stored(rollbacks, ended, outcome, ctx),
            // Whoever asked may have stopped waiting.
            Some(UnderWay::Resumed(answer)) => drop(answer.send(outcome)),
            None => {}
        }
    }
}

impl Handler<ResumeHalf> for TransactionChecker {
    type Result = ResponseFuture<Result<(), Refusal>>;

    fn handle(&mut self, ResumeHalf { at }: ResumeHalf, ctx: &mut Self::Context) -> Self::Result {
        let message = self.parts.log.read_record(at).and_then(|record| half_again(&record));
        let cause = format!("no message that was given up lies at {at}, or it has expired");
        let sent = message.ok_or(Refusal::TransactionUnknown { cause }).and_then(|message| {
            let message = PendingMessage { store_host: self.parts.store_host, ..message };
            self.sends.begin(message, ctx.address().recipient())
        });
        let (answer, stored) = oneshot::channel();
        match sent {
            Ok(token) => drop(self.under_way.insert(token, UnderWay::Resumed(answer))),
            Err(refusal) => drop(answer.send(Err(refusal))),
        }
        Box::pin(async move { stored.await.unwrap_or(Err(Refusal::ShuttingDown)) })
    }
}

#[cfg(test)]
mod tests;
