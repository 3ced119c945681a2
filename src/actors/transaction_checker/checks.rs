//! Checks: producers are asked how their transactions ended, a bounded number in a turn.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures::future::join_all;
use tracing::{info, warn};

use super::TransactionChecker;
use crate::actors::context::Context;
use crate::actors::producers::PickProducer;
use crate::actors::request::{CallClient, ClientLink};
use crate::actors::topics::EnsureTopic;
use crate::error::Refusal;
use crate::protocol::header::{CheckTransactionState, FieldWriter};
use crate::protocol::message_id::offset_message_id;
use crate::protocol::names::{HALF_TOPIC, TRANSACTION_CHECK_MAX_TIME_TOPIC};
use crate::protocol::properties::names as property;
use crate::protocol::request_code::RequestCode;
use crate::protocol::topic_config::TopicConfig;
use crate::protocol::transaction::Decision;
use crate::types::QueueOffset;

/// Halves that are looked at in one turn, and the bytes of their messages; the first is sent whatever its size.
const CHECKS_PER_TURN: usize = 64;
const CHECK_BYTES_PER_TURN: usize = 1 << 20;
/// Between two turns while more are due.
const CHECK_PAUSE: Duration = Duration::from_millis(10);
/// Before a producer that had no room is asked again.
const BUSY_PAUSE_MS: i64 = 1_000;

impl TransactionChecker {
    pub(super) fn check_interval_ms(&self) -> i64 {
        self.parts.settings.load().transaction_check_interval.as_millis() as i64
    }

    /// Rings when the first half is due.
    pub(super) fn set_check_timer(&mut self, ctx: &mut Context<Self>) {
        if !self.checks_started || self.checking {
            return;
        }
        let Some(due_ms) = self.halves.next_due_ms() else { return };
        if let Some((rings_ms, timer)) = self.check_timer.take() {
            if rings_ms <= due_ms {
                self.check_timer = Some((rings_ms, timer)); // it may ring for nothing
                return;
            }
            ctx.cancel_future(timer);
        }
        let delay_ms = due_ms.saturating_sub(self.parts.clock.now().0).clamp(1, 3_600_000);
        let timer = ctx.run_later(Duration::from_millis(delay_ms as u64), |checker, ctx| {
            checker.check_timer = None;
            checker.check_due(ctx);
        });
        self.check_timer = Some((due_ms, timer));
    }

    /// One turn of checks.
    fn check_due(&mut self, ctx: &mut Context<Self>) {
        self.let_go_of_deleted();
        let now_ms = self.parts.clock.now().0;
        let due = self.halves.due(now_ms, CHECKS_PER_TURN);
        if due.is_empty() {
            self.set_check_timer(ctx);
            return;
        }
        if self.checking {
            return; // it looks again when it is done
        }
        let settings = self.parts.settings.load();
        let (check_max, kept_ms) =
            (settings.transaction_check_max, settings.file_reserved.as_millis() as i64);
        drop(settings);
        let mut asked = Vec::with_capacity(due.len());
        for half in due {
            let Some(open) = self.halves.get(half) else { continue };
            let is_old = now_ms.saturating_sub(open.stored_at_ms) >= kept_ms;
            if open.checks >= check_max || is_old {
                self.give_up(half, ctx);
            } else {
                asked.push((half, open.group.clone()));
            }
        }
        self.checking = true;
        let producers = self.parts.producers.clone();
        let picked = join_all(asked.into_iter().map(|(half, group)| {
            let producers = producers.clone();
            // Producers end with the broker.
            async move { (half, producers.send(PickProducer { group }).await.ok().flatten()) }
        }));
        ctx.spawn(picked.into_actor(self).map(|picked, checker, ctx| {
            checker.ask(picked);
            ctx.run_later(CHECK_PAUSE, |checker, ctx| {
                checker.checking = false;
                checker.check_due(ctx);
            });
        }));
    }

    /// Asks the producers that were found for halves.
    fn ask(&mut self, picked: Vec<(QueueOffset, Option<Arc<ClientLink>>)>) {
        let now_ms = self.parts.clock.now().0;
        let next_ms = now_ms + self.check_interval_ms();
        let joined = std::mem::take(&mut self.joined_meanwhile);
        let mut bytes = 0;
        for (half, link) in picked {
            let Some(link) = link else {
                let joined = |group| joined.contains(group);
                if !self.halves.get(half).is_some_and(|open| joined(&open.group)) {
                    self.halves.left_alone(half, next_ms);
                }
                continue;
            };
            if bytes > CHECK_BYTES_PER_TURN {
                return; // the rest is still due
            }
            let Some(open) = self.halves.get(half) else { continue };
            let Some(call) = self.check_call(half) else {
                let at = open.at.0;
                warn!(
                    half = half.0,
                    at, "half message cannot be read; its transaction is asked for again later"
                );
                self.halves.postponed(half, next_ms);
                continue;
            };
            bytes += call.body.len();
            match link.calls.try_send(call) {
                Ok(()) => {
                    self.counts.asked += 1;
                    self.halves.checked(half, next_ms);
                }
                Err(_full_or_gone) => self.halves.postponed(half, now_ms + BUSY_PAUSE_MS),
            }
        }
    }

    /// CHECK_TRANSACTION_STATE (39), one-way: the answer is an END_TRANSACTION.
    fn check_call(&self, half: QueueOffset) -> Option<CallClient> {
        let open = self.halves.get(half)?;
        let message = self.half_message(open.at)?;
        let unique_key = message.property(property::UNIQ_KEY).map(str::to_owned);
        let header = CheckTransactionState {
            topic: HALF_TOPIC.into(),
            tran_state_table_offset: half.0 as i64,
            commit_log_offset: open.at.0 as i64,
            msg_id: unique_key.clone(),
            transaction_id: unique_key,
            offset_msg_id: offset_message_id(self.parts.store_host, open.at),
            broker_name: self.parts.broker_name.clone(),
        };
        let fields = FieldWriter::of(&header).into_pairs();
        Some(CallClient {
            code: RequestCode::CHECK_TRANSACTION_STATE.as_i32(),
            fields: fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            body: message.shown_to_producer(open.checks + 1),
            timeout: None,
        })
    }

    /// Nobody could tell in time: the message goes where people look at it.
    fn give_up(&mut self, half: QueueOffset, ctx: &mut Context<Self>) {
        let Some(open) = self.halves.get(half) else { return };
        info!(half = half.0, group = %open.group, checks = open.checks, "transaction given up: nobody decided it");
        // Not due again until this is done.
        self.halves.begin(half, Decision::GiveUp);
        let config = TopicConfig::new(TRANSACTION_CHECK_MAX_TIME_TOPIC, 1);
        let ensured = self.parts.ensure_topic.send(EnsureTopic { config });
        ctx.spawn(ensured.into_actor(self).map(move |ensured, checker, ctx| {
            let stored = match ensured {
                Ok(Ok(_topic)) => checker.store_given_up(half, ctx),
                Ok(Err(refusal)) => Err(refusal),
                Err(_) => Err(Refusal::ShuttingDown),
            };
            if let Err(refusal) = stored {
                checker.ending_stored(half, Decision::GiveUp, Err(refusal));
            }
        }));
    }

    fn store_given_up(&mut self, half: QueueOffset, ctx: &mut Context<Self>) -> Result<(), Refusal> {
        let message = self.halves.get(half).and_then(|open| self.half_message(open.at));
        let message =
            message.ok_or(Refusal::TransactionUnknown { cause: format!("half message {half} is gone") })?;
        self.store_ending(half, Decision::GiveUp, &message, ctx.address().recipient())
    }

    /// A disk that ran full has taken halves that nobody decided.
    fn let_go_of_deleted(&mut self) {
        let log_min = self.parts.log.min_offset();
        if self.halves.oldest().is_some_and(|oldest| oldest < log_min) {
            let lost = self.halves.drop_before(log_min);
            self.counts.lost += lost as u64;
            warn!(lost, log_min = log_min.0, "open transactions are lost: their segments were deleted");
        }
    }
}
