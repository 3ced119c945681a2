//! When the replies that are ready are written: now, or with those that follow at once.
//!
//! Those who make replies are woken one after the other, and a write for each, with the client woken to read it, would
//! cost more than all else. A client that has many sends on their way sends the next ones together, too, when it is
//! answered so.

use std::time::Duration;

use tokio::time::Instant;

use crate::actors::output::Output;
use crate::actors::request::ReplyTo;

/// Output that is not kept waiting for more, bytes.
const GATHERED_BYTES: usize = 64 * 1024;
/// Longest wait for the answers of other sends.
const LONGEST_WAIT: Duration = Duration::from_micros(300);
/// The same in turns of the thread, for those whose clock stands still.
const MOST_TURNS: u32 = 512;
/// Replies are written when there are so many for each send that is still to be answered.
const READY_FOR_EACH_MISSING: usize = 4;

/// What becomes of the replies that are ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Writing {
    Now,
    /// After all that are ready on this thread have had their turn.
    NextTurn,
    /// Sends are still to be answered: look again next turn, and read on meanwhile.
    WithMoreSends,
}

/// The sends of one connection that are answered and those that are not, and since when replies wait.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    sends_in_work: usize,
    /// Sends answered since the last write.
    sends_ready: usize,
    waits: Option<Wait>,
    had_a_turn: bool,
}

#[derive(Debug)]
struct Wait {
    since: Instant,
    turns: u32,
}

impl Gathering {
    pub fn request_taken(&mut self, to: ReplyTo) {
        self.sends_in_work += usize::from(to.is_send);
    }

    pub fn reply_ready(&mut self, to: ReplyTo) {
        if to.is_send {
            self.sends_in_work = self.sends_in_work.saturating_sub(1);
            self.sends_ready += 1;
        }
    }

    /// Called once a turn; `is_more_in_work`: other requests are to be answered.
    pub fn writing(&mut self, output: &Output, is_more_in_work: bool) -> Writing {
        let is_ready = output.is_empty() || !is_more_in_work || output.len_bytes() > GATHERED_BYTES;
        if !is_ready && self.waits_for_sends() {
            return Writing::WithMoreSends;
        }
        if !is_ready && self.waits.is_none() && !std::mem::replace(&mut self.had_a_turn, true) {
            return Writing::NextTurn;
        }
        *self = Self { sends_in_work: self.sends_in_work, ..Self::default() };
        Writing::Now
    }

    fn waits_for_sends(&mut self) -> bool {
        if self.sends_in_work * READY_FOR_EACH_MISSING <= self.sends_ready {
            return false;
        }
        let now = Instant::now();
        let wait = self.waits.get_or_insert(Wait { since: now, turns: 0 });
        wait.turns += 1;
        wait.turns <= MOST_TURNS && now - wait.since < LONGEST_WAIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::request::{Answer, Reply, ReplyContent};
    use crate::protocol::frame::HeaderCodec;

    fn to(is_send: bool) -> ReplyTo {
        ReplyTo { opaque: 1, codec: HeaderCodec::Json, one_way: false, cost_bytes: 256, is_send }
    }

    fn output_of(bytes: usize) -> Output {
        let mut output = Output::default();
        let content = ReplyContent::Answer(Answer::success().with_body(vec![0; bytes].into()));
        output.put_reply(Reply { to: to(true), content });
        output
    }

    fn gathering_of(sends: usize, answered: usize) -> Gathering {
        let mut gathering = Gathering::default();
        (0..sends).for_each(|_| gathering.request_taken(to(true)));
        (0..answered).for_each(|_| gathering.reply_ready(to(true)));
        gathering
    }

    #[tokio::test(start_paused = true)]
    async fn replies_to_sends_wait_until_most_of_them_are_answered() {
        let mut gathering = gathering_of(64, 51);
        let output = output_of(10);
        assert_eq!(gathering.writing(&output, true), Writing::WithMoreSends);
        gathering.reply_ready(to(true));
        assert_eq!(gathering.writing(&output, true), Writing::Now, "52 are ready, 12 are missing");
        assert_eq!(gathering.sends_in_work, 12);
        assert_eq!(gathering.writing(&output, true), Writing::WithMoreSends, "the next ones wait anew");
    }

    #[tokio::test(start_paused = true)]
    async fn replies_wait_neither_longer_than_the_limit_nor_for_a_clock_that_stands_still() {
        let output = output_of(10);
        let mut gathering = gathering_of(64, 1);
        assert_eq!(gathering.writing(&output, true), Writing::WithMoreSends);
        tokio::time::advance(LONGEST_WAIT).await;
        assert_eq!(gathering.writing(&output, true), Writing::Now);

        let turns = (0..).take_while(|_| gathering.writing(&output, true) == Writing::WithMoreSends).count();
        assert_eq!(turns, MOST_TURNS as usize);
    }

    #[tokio::test]
    async fn replies_to_other_requests_wait_for_one_turn_and_nothing_waits_for_them() {
        let mut gathering = gathering_of(1, 1);
        gathering.request_taken(to(false));
        let output = output_of(10);
        assert_eq!(gathering.writing(&output, true), Writing::NextTurn);
        assert_eq!(gathering.writing(&output, true), Writing::Now);
        assert_eq!(gathering.writing(&output, true), Writing::NextTurn);
    }

    #[tokio::test]
    async fn the_last_reply_and_large_ones_are_written_at_once() {
        assert_eq!(gathering_of(2, 1).writing(&output_of(GATHERED_BYTES), true), Writing::Now);
        assert_eq!(gathering_of(2, 1).writing(&Output::default(), true), Writing::Now);
        assert_eq!(gathering_of(2, 2).writing(&output_of(10), false), Writing::Now);
    }
}
