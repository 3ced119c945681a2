//! Op messages: what says, for Java and for the next start, which halves are settled. A rollback is nothing else.

use std::time::Duration;

use actix::prelude::*;
use tracing::warn;

use super::{TransactionChecker, UnderWay};
use crate::actors::context::Context;
use crate::error::Refusal;
use crate::kill_point;
use crate::protocol::transaction::{Decision, op_message};
use crate::types::QueueOffset;

/// Halves of one op message: their offsets, of up to 15 digits, fill
/// [`OP_BODY_MAX_BYTES`](crate::protocol::transaction::OP_BODY_MAX_BYTES).
const OP_HALVES: usize = 256;
/// How long committed halves are gathered; nobody waits for their op message.
const OP_PAUSE: Duration = Duration::from_millis(100);
/// Pause before an op message that was refused is tried again.
const OP_RETRY_PAUSE: Duration = Duration::from_secs(1);

impl TransactionChecker {
    /// Writes what is to be written now; one op message at a time, so that those that come meanwhile share the next.
    pub(super) fn write_ops(&mut self, ctx: &mut Context<Self>) {
        if !self.rollbacks.is_empty() || self.halves.wants_op() >= OP_HALVES {
            self.write_op(ctx);
        } else if self.halves.wants_op() > 0 && !self.op_in_work {
            self.write_op_later(OP_PAUSE, ctx);
        }
    }

    fn write_op_later(&mut self, pause: Duration, ctx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.op_timer_set, true) {
            ctx.run_later(pause, |checker, ctx| {
                checker.op_timer_set = false;
                checker.write_op(ctx);
            });
        }
    }

    fn write_op(&mut self, ctx: &mut Context<Self>) {
        if self.op_in_work {
            return;
        }
        let rollbacks: Vec<_> = self.rollbacks.drain(..self.rollbacks.len().min(OP_HALVES)).collect();
        let ended = self.halves.take_ops(OP_HALVES - rollbacks.len());
        let named: Vec<_> = rollbacks.iter().chain(&ended).copied().collect();
        if named.is_empty() {
            return;
        }
        let message = op_message(&named, self.parts.store_host, self.parts.clock.now());
        self.op_in_work = true;
        match self.sends.begin(message, ctx.address().recipient()) {
            Ok(token) => {
                self.under_way.insert(token, UnderWay::Op { rollbacks, ended });
            }
            Err(refusal) => self.op_stored(rollbacks, ended, Err(refusal), ctx),
        }
    }

    pub(super) fn op_stored(
        &mut self,
        rollbacks: Vec<QueueOffset>,
        ended: Vec<QueueOffset>,
        outcome: Result<(), Refusal>,
        ctx: &mut Context<Self>,
    ) {
        self.op_in_work = false;
        kill_point::reach("transactions.op_stored");
        for half in rollbacks {
            match &outcome {
                Ok(()) => {
                    self.halves.op_stored(half);
                    self.settled(half, Decision::Rollback);
                }
                Err(_) => self.halves.abandon(half),
            }
            self.answer(half, &outcome);
        }
        if let Err(refusal) = outcome {
            warn!(%refusal, "settled transactions cannot be noted in the log, trying again");
            self.halves.return_ops(&ended);
            self.write_op_later(OP_RETRY_PAUSE, ctx);
        }
    }
}
