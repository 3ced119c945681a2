//! Sends that are in the log and whose answer waits for the disk.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::SendReply;
use crate::actors::commit_log_writer::StoredSend;
use crate::types::PhysicalOffset;

/// Answers in the order of the log.
#[derive(Default)]
pub struct UnflushedSends {
    waiting: VecDeque<UnflushedSend>,
}

/// A stored send, and who waits for it to be on disk.
pub struct UnflushedSend {
    pub stored: StoredSend,
    pub reply: SendReply,
    /// When the sender is told that the disk is late. Most actors of ours wait for as long as it takes.
    deadline: Option<Instant>,
}

impl UnflushedSends {
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// `stored` lies behind everything parked before.
    pub fn park(&mut self, stored: StoredSend, reply: SendReply, deadline: Instant) {
        let told_late = match reply {
            SendReply::Client { .. } | SendReply::Task(_) => true,
            SendReply::Actor { told_late, .. } => told_late,
        };
        let deadline = told_late.then_some(deadline);
        debug_assert!(self.waiting.back().is_none_or(|last| last.stored.end <= stored.end));
        self.waiting.push_back(UnflushedSend { stored, reply, deadline });
    }

    /// Takes those that are on disk, everything below `flushed` being there.
    pub fn take_flushed(&mut self, flushed: PhysicalOffset) -> impl Iterator<Item = UnflushedSend> + '_ {
        let count = self.waiting.partition_point(|send| send.stored.end <= flushed);
        self.waiting.drain(..count)
    }

    /// Takes those whose deadline has passed.
    pub fn take_overdue(&mut self, now: Instant) -> Vec<UnflushedSend> {
        let mut overdue = Vec::new();
        let waiting = std::mem::take(&mut self.waiting);
        for send in waiting {
            if send.deadline.is_some_and(|deadline| deadline <= now) {
                overdue.push(send);
            } else {
                self.waiting.push_back(send);
            }
        }
        overdue
    }

    /// When [`take_overdue`](Self::take_overdue) has something to take next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.waiting.iter().find_map(|send| send.deadline)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::actors::request::ReplyTo;
    use crate::actors::topic_queue::MessageStored;
    use crate::protocol::frame::HeaderCodec;
    use crate::testing::{fake_client, fake_sink};
    use crate::types::QueueOffset;

    fn stored(end: u64) -> StoredSend {
        StoredSend {
            first_queue_offset: QueueOffset(end),
            physical_offsets: vec![PhysicalOffset(end - 1)],
            end: PhysicalOffset(end),
            stored_at_ms: 0,
        }
    }

    #[actix::test]
    async fn leave_in_the_order_of_the_log_or_at_their_deadline() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let (link, _client) = fake_client();
        let to =
            ReplyTo { opaque: 1, codec: HeaderCodec::Json, one_way: false, cost_bytes: 1, is_send: true };
        let of_client = || SendReply::Client {
            link: link.clone(),
            to,
            queue_id: crate::types::QueueId(0),
            unique_key: None,
            recall_handle: None,
        };
        let (recipient, _told) = fake_sink::<MessageStored>();
        let mut sends = UnflushedSends::default();
        sends.park(stored(10), of_client(), at(5));
        let of_actor = |told_late| SendReply::Actor { recipient: recipient.clone(), token: 7, told_late };
        sends.park(stored(20), of_actor(false), at(5));
        sends.park(stored(30), of_client(), at(6));
        sends.park(stored(40), of_actor(true), at(6));

        let ends = |sends: &[UnflushedSend]| sends.iter().map(|send| send.stored.end.0).collect::<Vec<_>>();
        assert_eq!(sends.next_deadline(), Some(at(5)));
        assert_eq!(ends(&sends.take_flushed(PhysicalOffset(19)).collect::<Vec<_>>()), [10]);
        assert_eq!(sends.next_deadline(), Some(at(6)), "an actor that waits has no deadline");
        assert_eq!(ends(&sends.take_overdue(at(7))), [30, 40]);
        assert_eq!(sends.next_deadline(), None);
        assert_eq!(ends(&sends.take_flushed(PhysicalOffset(20)).collect::<Vec<_>>()), [20]);
    }
}
