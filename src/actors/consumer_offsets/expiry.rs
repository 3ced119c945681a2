//! What retention asks of consumer offsets: how far the slowest group is, and which group loses what.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use actix::prelude::*;
use tracing::warn;

use super::ConsumerOffsets;
use crate::actors::offset_table::OffsetKey;
use crate::clock::WallMs;
use crate::collections::HashMap;
use crate::types::{GroupName, QueueId, QueueOffset, TopicName};

/// The smallest offset of each queue among the groups that live: those `online`, and those that committed at or
/// after `committed_since`. When the broker started counts as a commit of every group it knew then.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Vec<SlowestOffset>")]
pub struct QuerySlowest {
    pub online: HashSet<GroupName>,
    pub committed_since: WallMs,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlowestOffset {
    pub topic: TopicName,
    pub queue_id: QueueId,
    pub offset: QueueOffset,
}

/// The queues in which any group has an offset.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Vec<(TopicName, QueueId)>")]
pub struct ListConsumedQueues;

/// Messages `[from, to)` of a queue are gone. Groups that had not consumed them are told of in the log, and have
/// it counted; losing this leaves them out of both.
#[derive(Message, Clone, PartialEq, Eq, Debug)]
#[rtype(result = "()")]
pub struct MessagesGone {
    pub topic: TopicName,
    pub queue_id: QueueId,
    pub from: QueueOffset,
    pub to: QueueOffset,
}

/// Messages that groups lost by retention since the broker started, by group and topic.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Losses")]
pub struct QueryLosses;

pub type Losses = BTreeMap<(GroupName, TopicName), u64>;

/// When groups showed last that they live, and what they lost.
#[derive(Debug)]
pub struct ExpiryRecord {
    started_at: WallMs,
    committed_at: HashMap<GroupName, WallMs>,
    losses: Losses,
}

impl ExpiryRecord {
    pub fn new(started_at: WallMs) -> Self {
        Self { started_at, committed_at: HashMap::default(), losses: Losses::new() }
    }

    pub fn committed(&mut self, group: &GroupName, now: WallMs) {
        match self.committed_at.get_mut(group) {
            Some(at) => *at = now,
            None => _ = self.committed_at.insert(group.clone(), now),
        }
    }

    pub fn forget(&mut self, group: &GroupName) {
        self.committed_at.remove(group);
    }

    fn lives(&self, group: &GroupName, query: &QuerySlowest) -> bool {
        let committed_at = self.committed_at.get(group).copied().unwrap_or(self.started_at);
        query.online.contains(group) || committed_at >= query.committed_since
    }
}

impl Handler<QuerySlowest> for ConsumerOffsets {
    type Result = MessageResult<QuerySlowest>;

    fn handle(&mut self, query: QuerySlowest, _: &mut Self::Context) -> Self::Result {
        let mut slowest: HashMap<(&TopicName, QueueId), QueueOffset> = HashMap::default();
        let mut live: HashMap<&GroupName, bool> = HashMap::default();
        for (group, topic, queue_id, offset) in self.table.iter() {
            if *live.entry(group).or_insert_with(|| self.expiry.lives(group, &query)) {
                let known = slowest.entry((topic, queue_id)).or_insert(offset);
                *known = offset.min(*known);
            }
        }
        let answer = |((topic, queue_id), offset): ((&TopicName, QueueId), QueueOffset)| SlowestOffset {
            topic: topic.clone(),
            queue_id,
            offset,
        };
        MessageResult(slowest.into_iter().map(answer).collect())
    }
}

impl Handler<ListConsumedQueues> for ConsumerOffsets {
    type Result = Vec<(TopicName, QueueId)>;

    fn handle(&mut self, _: ListConsumedQueues, _: &mut Self::Context) -> Self::Result {
        let queues: BTreeSet<_> =
            self.table.iter().map(|(_, topic, queue_id, _)| (topic, queue_id)).collect();
        queues.into_iter().map(|(topic, queue_id)| (topic.clone(), queue_id)).collect()
    }
}

impl Handler<MessagesGone> for ConsumerOffsets {
    type Result = ();

    fn handle(&mut self, gone: MessagesGone, _: &mut Self::Context) {
        let MessagesGone { topic, queue_id, from, to } = gone;
        for group in self.table.groups_of(&topic) {
            let key = OffsetKey { group, topic: topic.clone(), queue_id };
            let Some(offset) = self.table.query(&key) else { continue };
            let messages = to.0.saturating_sub(offset.max(from).0);
            if messages > 0 {
                warn!(group = %key.group, %topic, queue_id = queue_id.0, messages,
                    "messages were deleted that the group had not consumed");
                *self.expiry.losses.entry((key.group, topic.clone())).or_default() += messages;
            }
        }
    }
}

impl Handler<QueryLosses> for ConsumerOffsets {
    type Result = MessageResult<QueryLosses>;

    fn handle(&mut self, _: QueryLosses, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.expiry.losses.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::consumer_offsets::{CommitOffset, OffsetsConfig};
    use crate::clock::ManualClock;
    use crate::store::metadata::Metadata;

    async fn commit(offsets: &Addr<ConsumerOffsets>, group: &str, topic: &str, queue_id: u32, offset: u64) {
        let key = OffsetKey { group: group.into(), topic: topic.into(), queue_id: QueueId(queue_id) };
        offsets
            .send(CommitOffset { key, offset: QueueOffset(offset), awaited: false })
            .await
            .unwrap()
            .unwrap();
    }

    fn start(clock: &std::sync::Arc<ManualClock>) -> Addr<ConsumerOffsets> {
        let metadata = Metadata::temporary().unwrap();
        ConsumerOffsets::load(metadata, OffsetsConfig::default(), clock.clone()).unwrap().start()
    }

    async fn slowest(
        offsets: &Addr<ConsumerOffsets>,
        online: &[&str],
        since: i64,
    ) -> Vec<(String, u32, u64)> {
        let online = online.iter().map(|group| GroupName::from(*group)).collect();
        let query = QuerySlowest { online, committed_since: WallMs(since) };
        let found = offsets.send(query).await.unwrap();
        let mut found: Vec<_> =
            found.into_iter().map(|at| (at.topic.to_string(), at.queue_id.0, at.offset.0)).collect();
        found.sort();
        found
    }

    #[actix::test]
    async fn slowest_offset_is_that_of_a_group_that_lives() {
        let clock = ManualClock::at(WallMs(1_000));
        let offsets = start(&clock);
        commit(&offsets, "asleep", "T", 0, 3).await;
        commit(&offsets, "asleep", "T", 1, 4).await;
        clock.set(WallMs(5_000));
        commit(&offsets, "awake", "T", 0, 9).await;
        let of = |rows: &[(&str, u32, u64)]| -> Vec<_> {
            rows.iter().map(|(topic, queue, offset)| ((*topic).to_owned(), *queue, *offset)).collect()
        };
        assert_eq!(slowest(&offsets, &[], 1_000).await, of(&[("T", 0, 3), ("T", 1, 4)]));
        assert_eq!(slowest(&offsets, &[], 1_001).await, of(&[("T", 0, 9)]));
        assert_eq!(slowest(&offsets, &["asleep"], 9_000).await, of(&[("T", 0, 3), ("T", 1, 4)]));
    }

    #[actix::test]
    async fn every_group_has_counted_what_it_had_not_consumed() {
        let offsets = start(&ManualClock::at(WallMs(0)));
        commit(&offsets, "done", "T", 0, 10).await;
        commit(&offsets, "half", "T", 0, 6).await;
        commit(&offsets, "far", "T", 0, 1).await;
        commit(&offsets, "elsewhere", "U", 0, 0).await;
        let gone = |from, to| MessagesGone {
            topic: "T".into(),
            queue_id: QueueId(0),
            from: QueueOffset(from),
            to: QueueOffset(to),
        };
        offsets.send(gone(4, 10)).await.unwrap();
        offsets.send(gone(10, 12)).await.unwrap();
        let losses = offsets.send(QueryLosses).await.unwrap();
        let losses: Vec<_> = losses.iter().map(|((group, _), messages)| (&**group, *messages)).collect();
        assert_eq!(losses, [("done", 2), ("far", 8), ("half", 6)]);
    }
}
