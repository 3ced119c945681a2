//! Keeping what is open for the next start. What is kept must not say more than what is on disk of the log, so it waits
//! for the flusher; what the log says beyond is read again.

use std::time::Duration;

use actix::prelude::*;
use tracing::error;

use super::{SaveTransactions, TransactionChecker};
use crate::actors::context::Context;
use crate::actors::open_halves::Change;
use crate::kill_point;
use crate::store::metadata::{MetadataError, OpenHalfTable};
use crate::types::PhysicalOffset;

/// Changes written in one turn.
const WRITTEN_PER_TURN: usize = 512;
/// Between two turns, between two looks at the flusher, and after a failure.
const TURN_PAUSE: Duration = Duration::from_millis(2);
const FLUSH_PAUSE: Duration = Duration::from_millis(200);
const FAILURE_PAUSE: Duration = Duration::from_secs(5);

/// Everything that was dispatched before `0` is in the mailbox before this.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
struct PassedTo(PhysicalOffset);

/// What is being written.
pub(super) struct Saving {
    changes: std::vec::IntoIter<Change>,
    /// All of it is true there.
    read_to: PhysicalOffset,
    /// It tells of nothing beyond.
    needs_flushed: PhysicalOffset,
}

impl Saving {
    /// Writes up to `max` changes, and the position behind the last. True: done.
    fn write(&mut self, kept: &OpenHalfTable, max: usize) -> Result<bool, MetadataError> {
        let turn: Vec<_> = self.changes.as_slice().iter().take(max).cloned().collect();
        let mut halves = Vec::new();
        for change in &turn {
            match change {
                Change::Keep(half) => halves.push(half.clone()),
                Change::Forget(offset) => kept.forget(*offset)?,
            }
        }
        kept.keep(&halves)?;
        kill_point::reach("transactions.kept");
        // Only what is written is taken; a second time does no harm.
        self.changes.by_ref().take(turn.len()).for_each(drop);
        let done = self.changes.len() == 0;
        if done {
            kept.set_read_to(self.read_to)?;
        }
        Ok(done)
    }
}

impl TransactionChecker {
    /// Begins to keep what is true when everything dispatched until now has been looked at.
    pub(super) fn begin_saving(&mut self, ctx: &mut Context<Self>) {
        if self.saving.is_none() {
            let passed = PassedTo(self.parts.progress.dispatched());
            // By way of the mailbox: behind what was dispatched. Without room the next interval does.
            let _ = ctx.address().try_send(passed);
        }
    }

    fn freeze(&mut self, dispatched: PhysicalOffset) -> Saving {
        self.halves.pass_to(dispatched);
        let read_to = self.halves.read_to();
        Saving {
            changes: self.halves.take_changes().into_iter(),
            read_to,
            needs_flushed: read_to.max(self.stored_to),
        }
    }

    fn go_on_saving(&mut self, ctx: &mut Context<Self>) {
        let Some(mut saving) = self.saving.take() else { return };
        let pause = if self.parts.progress.flushed() < saving.needs_flushed {
            FLUSH_PAUSE
        } else {
            match saving.write(&self.parts.kept, WRITTEN_PER_TURN) {
                Ok(true) => return,
                Ok(false) => TURN_PAUSE,
                Err(error) => {
                    error!(%error, "open transactions cannot be kept, trying again");
                    FAILURE_PAUSE
                }
            }
        };
        self.saving = Some(saving);
        ctx.run_later(pause, Self::go_on_saving);
    }
}

impl Handler<PassedTo> for TransactionChecker {
    type Result = ();

    fn handle(&mut self, PassedTo(dispatched): PassedTo, ctx: &mut Self::Context) {
        if self.saving.is_none() {
            self.saving = Some(self.freeze(dispatched));
            self.go_on_saving(ctx);
        }
    }
}

impl Handler<SaveTransactions> for TransactionChecker {
    type Result = ();

    fn handle(&mut self, SaveTransactions { dispatched }: SaveTransactions, _: &mut Self::Context) {
        let fresh = self.freeze(dispatched);
        let flushed = self.parts.progress.flushed();
        for mut saving in self.saving.take().into_iter().chain([fresh]) {
            if saving.needs_flushed > flushed {
                return; // the next start reads the log from where it was
            }
            if let Err(error) = saving.write(&self.parts.kept, usize::MAX) {
                error!(%error, "open transactions cannot be kept; the next start reads more of the log");
                return;
            }
        }
    }
}
