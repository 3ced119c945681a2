//! How far each consumer group has consumed each message queue, and which of these numbers wait to be saved.
//!
//! A consumer offset is what the group says: no number is refused, a smaller one overwrites. A reset is a number
//! that an administrator set; until the group has taken it over with its next pull, what the group says is
//! ignored.

use std::collections::BTreeMap;

use crate::clock::WallMs;
use crate::collections::HashMap;
use crate::types::{GroupName, QueueId, QueueOffset, TopicName};

/// Offsets by queue, in the order of the queues.
pub type QueueOffsets = BTreeMap<QueueId, QueueOffset>;

/// One message queue as one group consumes it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct OffsetKey {
    pub group: GroupName,
    pub topic: TopicName,
    pub queue_id: QueueId,
}

/// What became of a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Committed {
    Stored,
    /// A reset is pending; the commit counts for nothing.
    IgnoredForReset,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: QueueOffset,
    unsaved: bool,
    /// When the group committed another offset last; unknown since the start of the broker.
    moved_at: Option<WallMs>,
}

type TopicsOfGroup = HashMap<TopicName, BTreeMap<QueueId, Entry>>;

/// All consumer offsets of a broker.
#[derive(Debug, Default)]
pub struct OffsetTable {
    groups: HashMap<GroupName, TopicsOfGroup>,
    /// Every entry that is unsaved is named here; an entry named here may be gone, or saved.
    unsaved: Vec<OffsetKey>,
    resets: HashMap<OffsetKey, QueueOffset>,
}

impl OffsetTable {
    /// Takes an offset over from the store.
    pub fn load(&mut self, key: OffsetKey, offset: QueueOffset) {
        let queues = self.groups.entry(key.group).or_default().entry(key.topic).or_default();
        queues.insert(key.queue_id, Entry { offset, unsaved: false, moved_at: None });
    }

    pub fn commit(&mut self, key: OffsetKey, offset: QueueOffset, now: WallMs) -> Committed {
        if !self.resets.is_empty() && self.resets.contains_key(&key) {
            return Committed::IgnoredForReset;
        }
        self.put(key, offset, Some(now));
        Committed::Stored
    }

    fn put(&mut self, key: OffsetKey, offset: QueueOffset, moved_at: Option<WallMs>) {
        let queues = self.groups.get_mut(&key.group).and_then(|topics| topics.get_mut(&key.topic));
        match queues.and_then(|queues| queues.get_mut(&key.queue_id)) {
            Some(entry) if entry.offset == offset => {}
            Some(entry) => {
                entry.offset = offset;
                entry.moved_at = moved_at.or(entry.moved_at);
                if !std::mem::replace(&mut entry.unsaved, true) {
                    self.unsaved.push(key);
                }
            }
            None => {
                self.unsaved.push(key.clone());
                let queues = self.groups.entry(key.group).or_default().entry(key.topic).or_default();
                queues.insert(key.queue_id, Entry { offset, unsaved: true, moved_at });
            }
        }
    }

    /// The next offset of a queue: a pending reset, or what was committed last.
    pub fn query(&self, key: &OffsetKey) -> Option<QueueOffset> {
        let pending = self.resets.get(key).copied();
        pending.or_else(|| Some(self.queues(&key.group, &key.topic)?.get(&key.queue_id)?.offset))
    }

    /// Sets the offset of a queue, and holds the group to it until it is taken.
    pub fn reset(&mut self, key: OffsetKey, offset: QueueOffset) {
        self.put(key.clone(), offset, None);
        self.resets.insert(key, offset);
    }

    /// Hands out a pending reset, which is over then.
    pub fn take_reset(&mut self, key: &OffsetKey) -> Option<QueueOffset> {
        self.resets.remove(key)
    }

    pub fn pending_resets(&self) -> usize {
        self.resets.len()
    }

    /// Offsets of a group in one topic.
    pub fn of_topic(&self, group: &GroupName, topic: &TopicName) -> QueueOffsets {
        let queues = self.queues(group, topic).into_iter().flatten();
        queues.map(|(queue_id, entry)| (*queue_id, entry.offset)).collect()
    }

    /// When a group committed other offsets last, in the queues of a topic where that is known.
    pub fn moves(&self, group: &GroupName, topic: &TopicName) -> BTreeMap<QueueId, WallMs> {
        let queues = self.queues(group, topic).into_iter().flatten();
        queues.filter_map(|(queue_id, entry)| Some((*queue_id, entry.moved_at?))).collect()
    }

    /// Every offset of every group, in no order.
    pub fn all(&self) -> Vec<(OffsetKey, QueueOffset)> {
        let mut all = Vec::new();
        for (group, topics) in &self.groups {
            for (topic, queues) in topics {
                let key = |queue_id| OffsetKey { group: group.clone(), topic: topic.clone(), queue_id };
                all.extend(queues.iter().map(|(queue_id, entry)| (key(*queue_id), entry.offset)));
            }
        }
        all
    }

    /// The topics that a group has offsets in, sorted.
    pub fn topics_of(&self, group: &GroupName) -> Vec<TopicName> {
        let mut topics: Vec<_> =
            self.groups.get(group).into_iter().flat_map(|topics| topics.keys()).cloned().collect();
        topics.sort();
        topics
    }

    /// The groups that have offsets in a topic, sorted. Looks at every group.
    pub fn groups_of(&self, topic: &TopicName) -> Vec<GroupName> {
        let has_topic =
            |(group, topics): (&GroupName, &TopicsOfGroup)| topics.contains_key(topic).then(|| group.clone());
        let mut groups: Vec<_> = self.groups.iter().filter_map(has_topic).collect();
        groups.sort();
        groups
    }

    /// Copies every offset that `from` has in a topic, over those that `to` may have; returns how many.
    pub fn copy(&mut self, from: &GroupName, to: &GroupName, topic: &TopicName) -> usize {
        let offsets = self.of_topic(from, topic);
        let count = offsets.len();
        for (queue_id, offset) in offsets {
            self.put(OffsetKey { group: to.clone(), topic: topic.clone(), queue_id }, offset, None);
        }
        count
    }

    /// Forgets a group, its resets too.
    pub fn delete_group(&mut self, group: &GroupName) {
        self.groups.remove(group);
        self.resets.retain(|key, _| key.group != *group);
    }

    /// Forgets a topic in every group, its resets too.
    pub fn delete_topic(&mut self, topic: &TopicName) {
        self.groups.retain(|_, topics| {
            topics.remove(topic);
            !topics.is_empty()
        });
        self.resets.retain(|key, _| key.topic != *topic);
    }

    /// Takes up to `max` of the offsets that are not saved; they count as saved from now on.
    pub fn take_unsaved(&mut self, max: usize) -> Vec<(OffsetKey, QueueOffset)> {
        let mut taken = Vec::with_capacity(self.unsaved.len().min(max));
        while taken.len() < max
            && let Some(key) = self.unsaved.pop()
        {
            let queues = self.groups.get_mut(&key.group).and_then(|topics| topics.get_mut(&key.topic));
            let Some(entry) = queues.and_then(|queues| queues.get_mut(&key.queue_id)) else { continue };
            if std::mem::replace(&mut entry.unsaved, false) {
                taken.push((key, entry.offset));
            }
        }
        taken
    }

    /// What was taken could not be saved.
    pub fn give_back(&mut self, taken: Vec<(OffsetKey, QueueOffset)>) {
        for (key, _) in taken {
            let queues = self.groups.get_mut(&key.group).and_then(|topics| topics.get_mut(&key.topic));
            if let Some(entry) = queues.and_then(|queues| queues.get_mut(&key.queue_id))
                && !std::mem::replace(&mut entry.unsaved, true)
            {
                self.unsaved.push(key);
            }
        }
    }

    pub fn has_unsaved(&self) -> bool {
        !self.unsaved.is_empty()
    }

    /// Every offset, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&GroupName, &TopicName, QueueId, QueueOffset)> {
        self.groups.iter().flat_map(|(group, topics)| {
            topics.iter().flat_map(move |(topic, queues)| {
                queues.iter().map(move |(queue_id, entry)| (group, topic, *queue_id, entry.offset))
            })
        })
    }

    /// Offsets of all groups.
    pub fn len(&self) -> usize {
        self.groups.values().flat_map(|topics| topics.values()).map(BTreeMap::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    fn queues(&self, group: &GroupName, topic: &TopicName) -> Option<&BTreeMap<QueueId, Entry>> {
        self.groups.get(group)?.get(topic)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(group: &str, topic: &str, queue_id: u32) -> OffsetKey {
        OffsetKey { group: group.into(), topic: topic.into(), queue_id: QueueId(queue_id) }
    }

    #[test]
    fn smaller_offset_overwrites() {
        let mut table = OffsetTable::default();
        assert_eq!(table.query(&key("g", "T", 0)), None);
        table.commit(key("g", "T", 0), QueueOffset(9), WallMs(1));
        table.commit(key("g", "T", 0), QueueOffset(4), WallMs(1));
        assert_eq!(table.query(&key("g", "T", 0)), Some(QueueOffset(4)));
    }

    #[test]
    fn offset_that_is_committed_again_has_not_moved() {
        let mut table = OffsetTable::default();
        table.load(key("g", "T", 1), QueueOffset(9));
        table.commit(key("g", "T", 0), QueueOffset(9), WallMs(5));
        table.commit(key("g", "T", 0), QueueOffset(9), WallMs(7));
        table.reset(key("g", "T", 0), QueueOffset(2));
        let moves = table.moves(&"g".into(), &"T".into());
        assert_eq!(moves, [(QueueId(0), WallMs(5))].into(), "nobody knows of queue 1");
    }

    #[test]
    fn commits_are_ignored_until_the_reset_is_taken() {
        let mut table = OffsetTable::default();
        table.commit(key("g", "T", 0), QueueOffset(9), WallMs(1));
        table.reset(key("g", "T", 0), QueueOffset(2));
        assert_eq!(table.commit(key("g", "T", 0), QueueOffset(10), WallMs(1)), Committed::IgnoredForReset);
        assert_eq!(table.commit(key("g", "T", 1), QueueOffset(10), WallMs(1)), Committed::Stored);
        assert_eq!(table.query(&key("g", "T", 0)), Some(QueueOffset(2)));
        assert_eq!(table.take_reset(&key("g", "T", 0)), Some(QueueOffset(2)));
        assert_eq!(table.take_reset(&key("g", "T", 0)), None);
        assert_eq!(table.query(&key("g", "T", 0)), Some(QueueOffset(2)));
        assert_eq!(table.commit(key("g", "T", 0), QueueOffset(10), WallMs(1)), Committed::Stored);
    }

    #[test]
    fn offset_is_unsaved_once_until_it_changes_again() {
        let mut table = OffsetTable::default();
        table.load(key("g", "T", 0), QueueOffset(1));
        assert!(!table.has_unsaved());
        table.commit(key("g", "T", 0), QueueOffset(1), WallMs(1));
        assert!(!table.has_unsaved());
        table.commit(key("g", "T", 0), QueueOffset(2), WallMs(1));
        table.commit(key("g", "T", 0), QueueOffset(3), WallMs(1));
        let taken = table.take_unsaved(100);
        assert_eq!(taken, [(key("g", "T", 0), QueueOffset(3))]);
        table.commit(key("g", "T", 0), QueueOffset(4), WallMs(1));
        table.give_back(taken);
        assert_eq!(table.take_unsaved(100), [(key("g", "T", 0), QueueOffset(4))]);
        assert!(table.take_unsaved(100).is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Commit(OffsetKey, u64),
        Reset(OffsetKey, u64),
        TakeReset(OffsetKey),
        Copy(GroupName, GroupName, TopicName),
        DeleteGroup(GroupName),
        DeleteTopic(TopicName),
        Save { max: usize, succeeds: bool },
        Reopen,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let group = || prop::sample::select(vec!["g", "h"]).prop_map(GroupName::from);
        let topic = || prop::sample::select(vec!["T", "U"]).prop_map(TopicName::from);
        let key = move || {
            (group(), topic(), 0..2u32).prop_map(|(group, topic, id)| OffsetKey {
                group,
                topic,
                queue_id: QueueId(id),
            })
        };
        let step = prop_oneof![
            6 => (key(), 0..5u64).prop_map(|(key, offset)| Step::Commit(key, offset)),
            2 => (key(), 0..5u64).prop_map(|(key, offset)| Step::Reset(key, offset)),
            2 => key().prop_map(Step::TakeReset),
            1 => (group(), group(), topic()).prop_map(|(from, to, topic)| Step::Copy(from, to, topic)),
            1 => group().prop_map(Step::DeleteGroup),
            1 => topic().prop_map(Step::DeleteTopic),
            3 => (0..4usize, any::<bool>()).prop_map(|(max, succeeds)| Step::Save { max, succeeds }),
            1 => Just(Step::Reopen),
        ];
        prop::collection::vec(step, 1..60)
    }

    type Model = BTreeMap<OffsetKey, u64>;

    proptest! {
        /// Against plain maps: what is committed, what is pending, what the store holds. Whatever is in memory
        /// and not in the store is still to be saved.
        #[test]
        fn behaves_like_plain_maps(steps in steps()) {
            let mut table = OffsetTable::default();
            let (mut committed, mut pending, mut stored) = (Model::new(), Model::new(), Model::new());
            for step in steps {
                match step {
                    Step::Commit(key, offset) => {
                        let ignored = pending.contains_key(&key);
                        if !ignored {
                            committed.insert(key.clone(), offset);
                        }
                        let outcome = table.commit(key, QueueOffset(offset), WallMs(1));
                        prop_assert_eq!(outcome == Committed::IgnoredForReset, ignored);
                    }
                    Step::Reset(key, offset) => {
                        committed.insert(key.clone(), offset);
                        pending.insert(key.clone(), offset);
                        table.reset(key, QueueOffset(offset));
                    }
                    Step::TakeReset(key) => {
                        prop_assert_eq!(table.take_reset(&key), pending.remove(&key).map(QueueOffset));
                    }
                    Step::Copy(from, to, topic) => {
                        let of_from = committed.clone().into_iter().filter(|(key, _)| key.group == from && key.topic == topic);
                        committed.extend(of_from.map(|(key, offset)| (OffsetKey { group: to.clone(), ..key }, offset)));
                        table.copy(&from, &to, &topic);
                    }
                    Step::DeleteGroup(group) => {
                        for map in [&mut committed, &mut pending, &mut stored] {
                            map.retain(|key, _| key.group != group);
                        }
                        table.delete_group(&group);
                    }
                    Step::DeleteTopic(topic) => {
                        for map in [&mut committed, &mut pending, &mut stored] {
                            map.retain(|key, _| key.topic != topic);
                        }
                        table.delete_topic(&topic);
                    }
                    Step::Save { max, succeeds } => {
                        let taken = table.take_unsaved(max);
                        prop_assert!(taken.len() <= max);
                        if succeeds {
                            stored.extend(taken.into_iter().map(|(key, offset)| (key, offset.0)));
                        } else {
                            table.give_back(taken);
                        }
                    }
                    Step::Reopen => {
                        let rest = table.take_unsaved(usize::MAX);
                        stored.extend(rest.into_iter().map(|(key, offset)| (key, offset.0)));
                        prop_assert_eq!(&stored, &committed);
                        pending.clear();
                        table = OffsetTable::default();
                        for (key, offset) in &stored {
                            table.load(key.clone(), QueueOffset(*offset));
                        }
                    }
                }
                prop_assert_eq!(table.pending_resets(), pending.len());
                prop_assert_eq!(table.len(), committed.len());
                for (key, offset) in &committed {
                    let expected = pending.get(key).unwrap_or(offset);
                    prop_assert_eq!(table.query(key), Some(QueueOffset(*expected)));
                    prop_assert!(table.topics_of(&key.group).contains(&key.topic));
                    prop_assert!(table.groups_of(&key.topic).contains(&key.group));
                }
            }
        }
    }
}
