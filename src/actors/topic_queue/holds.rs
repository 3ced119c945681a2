//! Pulls that wait: at the end of a queue, until a message comes that they want or their time is over; and of a backlog
//! until it is their turn.

use actix::prelude::*;
use tokio::time::Instant;

use super::replies_by_client::RepliesByClient;
use super::{PullMessages, TopicQueue, WakeHolds};
use crate::actors::context::Context;
use crate::planted::{Planted, is_planted};
use crate::store::commit_log::CommitLogReader;
use crate::store::consume_queue::ConsumeQueueUnit;
use crate::store::message_filter::MessageFilter;
use crate::types::QueueOffset;

/// A pull that waits, until its deadline at the latest.
pub(super) struct PullHold {
    pub(super) pull: PullMessages,
    pub(super) deadline: Instant,
    pub(super) held_for: HeldFor,
}

/// What a pull waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HeldFor {
    Message,
    /// Its turn among those who read a backlog while others send: its deadline.
    Turn,
}

impl TopicQueue {
    /// Answers the pulls that `fresh` units concern, the last of them right before `end`; the others go on
    /// waiting behind them.
    pub(super) fn pass_holds(&mut self, fresh: &[ConsumeQueueUnit], end: QueueOffset) {
        if is_planted(Planted::HoldNeverWoken) {
            return;
        }
        let begin = end.0 as i64 - fresh.len() as i64;
        let (log, max_bytes) = (self.parts.log.clone(), self.parts.config.pull.max_filter_bytes);
        self.answer_holds(|hold| {
            if hold.held_for == HeldFor::Turn {
                return false;
            }
            // A queue may begin elsewhere than at the offset that was waited for.
            let concerned = hold.pull.from != begin || concerns(&hold.pull.filter, fresh, &log, max_bytes);
            if !concerned {
                hold.pull.from = end.0 as i64;
            }
            concerned && !fresh.is_empty()
        });
    }

    /// Answers the held pulls that `ready` names; they are not held again.
    pub(super) fn answer_holds(&mut self, mut ready: impl FnMut(&mut PullHold) -> bool) {
        let mut outgoing = RepliesByClient::default();
        let mut n = 0;
        while n < self.holds.len() {
            if ready(&mut self.holds[n]) {
                let hold = self.holds.swap_remove(n);
                let reply = match hold.held_for {
                    HeldFor::Turn => self.backlog_reply(&hold.pull),
                    HeldFor::Message => {
                        let pulled = self.pull_now(&hold.pull);
                        self.pull_reply(&hold.pull, pulled)
                    }
                };
                outgoing.push(hold.pull.link, reply);
            } else {
                n += 1;
            }
        }
        outgoing.send();
    }

    pub(super) fn hold(&mut self, hold: PullHold, ctx: &mut Context<Self>) {
        self.holds.push(hold);
        self.set_hold_timer(ctx);
    }

    /// Makes the timer ring at the earliest deadline.
    fn set_hold_timer(&mut self, ctx: &mut Context<Self>) {
        let earliest = self.holds.iter().map(|hold| hold.deadline).min();
        match (earliest, self.hold_timer) {
            (Some(deadline), Some((rings, _))) if rings <= deadline => {}
            (Some(deadline), timer) => {
                if let Some((_, handle)) = timer {
                    ctx.cancel_future(handle);
                }
                let delay = deadline.saturating_duration_since(Instant::now());
                let handle = ctx.run_later(delay, |queue, ctx| {
                    queue.hold_timer = None;
                    let now = Instant::now();
                    queue.answer_holds(|hold| hold.deadline <= now);
                    queue.set_hold_timer(ctx);
                });
                self.hold_timer = Some((deadline, handle));
            }
            // A timer without holds rings once for nothing.
            (None, _) => {}
        }
    }
}

/// Whether a message of `units` matches, as far as can be said by going through `max_bytes`: perhaps, beyond.
fn concerns(
    filter: &MessageFilter,
    units: &[ConsumeQueueUnit],
    log: &CommitLogReader,
    max_bytes: usize,
) -> bool {
    let mut bytes = 0;
    units.iter().any(|unit| {
        let looked = filter.look_at(log, unit);
        bytes += looked.bytes;
        looked.matches || bytes >= max_bytes
    })
}

impl Handler<WakeHolds> for TopicQueue {
    type Result = ();

    fn handle(&mut self, _: WakeHolds, _: &mut Self::Context) {
        self.answer_holds(|_| true);
    }
}
