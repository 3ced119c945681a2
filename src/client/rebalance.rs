//! Which queues of a topic a member of a consumer group gets. Whoever computes it, a member or the broker, comes to the
//! same result, because all see the same lists.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use md5::{Digest, Md5};

use crate::types::{ClientId, MessageQueue};

/// Places of one member on the ring. RocketMQ: `AllocateMessageQueueConsistentHash`, `virtualNodeCnt`.
const RING_PLACES: usize = 10;
/// Between strategy and strategy in the name of [`AssignmentStrategy::Nearby`].
const NEARBY_PREFIX: &str = "MACHINE_ROOM_NEARBY-";

/// How queues are shared, with Java's results to the queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AssignmentStrategy {
    /// Even runs, one behind the other. RocketMQ: `AllocateMessageQueueAveragely`.
    Average,
    /// Dealt out in turn. RocketMQ: `AllocateMessageQueueAveragelyByCircle`.
    Circle,
    /// By a hash of the queue, so that a member that comes or goes moves few queues. RocketMQ:
    /// `AllocateMessageQueueConsistentHash`.
    ConsistentHash,
    /// Only brokers in these rooms. RocketMQ: `AllocateMessageQueueByMachineRoom`.
    MachineRoom {
        /// Whose queues are taken.
        rooms: BTreeSet<String>,
    },
    /// By the strategy inside, and among members in the broker's room as long as there are any. RocketMQ:
    /// `AllocateMachineRoomNearby`.
    Nearby(Box<AssignmentStrategy>),
}

impl AssignmentStrategy {
    /// The strategy that clients call by this name; `rooms` is for those that ask for it. `None`: clients alone know how
    /// (`CONFIG`), or nobody.
    pub fn named(name: &str, rooms: &BTreeSet<String>) -> Option<Self> {
        match name {
            "AVG" => Some(Self::Average),
            "AVG_BY_CIRCLE" => Some(Self::Circle),
            "CONSISTENT_HASH" => Some(Self::ConsistentHash),
            "MACHINE_ROOM" => Some(Self::MachineRoom { rooms: rooms.clone() }),
            _ => {
                let inner =
                    name.strip_prefix(NEARBY_PREFIX).filter(|inner| !inner.starts_with(NEARBY_PREFIX));
                Some(Self::Nearby(Box::new(Self::named(inner?, rooms)?)))
            }
        }
    }

    /// The share of `member`, who gets nothing if it is not in the list. Neither list needs to be sorted.
    pub fn share(
        &self,
        queues: Vec<MessageQueue>,
        mut members: Vec<ClientId>,
        member: &ClientId,
    ) -> Vec<MessageQueue> {
        members.sort();
        members.dedup();
        self.share_sorted(sorted(queues), &members, member)
    }

    /// As [`share`](Self::share), of lists that are sorted and hold everything once.
    pub fn share_sorted(
        &self,
        queues: Vec<MessageQueue>,
        members: &[ClientId],
        member: &ClientId,
    ) -> Vec<MessageQueue> {
        let Ok(index) = members.binary_search(member) else { return Vec::new() };
        match self {
            Self::Average => {
                let (start, size) = average_run(queues.len(), members.len(), index);
                queues.into_iter().skip(start).take(size).collect()
            }
            Self::Circle => queues.into_iter().skip(index).step_by(members.len()).collect(),
            Self::ConsistentHash => {
                let ring = Ring::of(members);
                let is_own = |queue: &MessageQueue| ring.owner(queue) == index;
                queues.into_iter().filter(is_own).collect()
            }
            Self::MachineRoom { rooms } => {
                let is_inside =
                    |queue: &MessageQueue| broker_room(queue).is_some_and(|room| rooms.contains(room));
                let kept: Vec<_> = queues.into_iter().filter(is_inside).collect();
                let (each, rest) = (kept.len() / members.len(), kept.len() % members.len());
                let own = |place: usize| {
                    (place / each.max(1) == index && place < each * members.len())
                        || (index < rest && place == index + each * members.len())
                };
                kept.into_iter()
                    .enumerate()
                    .filter(|(place, _)| own(*place))
                    .map(|(_, queue)| queue)
                    .collect()
            }
            Self::Nearby(inner) => share_nearby(inner, queues, members, member),
        }
    }
}

impl fmt::Display for AssignmentStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Average => f.write_str("AVG"),
            Self::Circle => f.write_str("AVG_BY_CIRCLE"),
            Self::ConsistentHash => f.write_str("CONSISTENT_HASH"),
            Self::MachineRoom { .. } => f.write_str("MACHINE_ROOM"),
            Self::Nearby(inner) => write!(f, "{NEARBY_PREFIX}{inner}"),
        }
    }
}

/// The share of `member` when queues are cut into even runs.
pub fn average(queues: Vec<MessageQueue>, members: Vec<ClientId>, member: &ClientId) -> Vec<MessageQueue> {
    AssignmentStrategy::Average.share(queues, members, member)
}

/// The queues in the order that every strategy starts from.
pub fn sorted(mut queues: Vec<MessageQueue>) -> Vec<MessageQueue> {
    queues.sort_by(|a, b| order_of(a).cmp(&order_of(b)));
    queues
}

/// The order in which Java sorts queues.
fn order_of(queue: &MessageQueue) -> (&str, &str, i32) {
    (&queue.topic, &queue.broker_name, queue.queue_id)
}

/// Start and length of the run of the member at `index`.
fn average_run(queues: usize, members: usize, index: usize) -> (usize, usize) {
    let rest = queues % members;
    let size = match queues <= members {
        true => 1,
        false => queues / members + usize::from(index < rest),
    };
    let start = if index < rest { index * size } else { index * size + rest };
    (start, size.min(queues.saturating_sub(start)))
}

/// The room in which a broker stands: what precedes `@` in its name.
fn broker_room(queue: &MessageQueue) -> Option<&str> {
    let (room, name) = queue.broker_name.split_once('@')?;
    // RocketMQ takes a name with a second @ for none of its own.
    (!name.contains('@')).then_some(room)
}

/// The room of a client: its unit name, the third part of `ip@instance@unit`.
fn client_room(client: &ClientId) -> Option<&str> {
    client.split('@').nth(2)
}

/// Queues go to members in their room; those of rooms without members are shared by all.
fn share_nearby(
    inner: &AssignmentStrategy,
    queues: Vec<MessageQueue>,
    members: &[ClientId],
    member: &ClientId,
) -> Vec<MessageQueue> {
    let mut members_of: BTreeMap<Option<&str>, Vec<ClientId>> = BTreeMap::new();
    for client in members {
        members_of.entry(client_room(client)).or_default().push(client.clone());
    }
    let mut queues_of: BTreeMap<Option<String>, Vec<MessageQueue>> = BTreeMap::new();
    for queue in queues {
        queues_of.entry(broker_room(&queue).map(str::to_owned)).or_default().push(queue);
    }
    let own_room = client_room(member);
    let mut share = match queues_of.remove(&own_room.map(str::to_owned)) {
        Some(nearby) => inner.share_sorted(nearby, &members_of[&own_room], member),
        None => Vec::new(),
    };
    for (room, orphaned) in queues_of {
        if !members_of.contains_key(&room.as_deref()) {
            share.extend(inner.share_sorted(orphaned, members, member));
        }
    }
    share
}

/// Places of members on a circle of 32 bits; a queue belongs to the next place from its own on.
struct Ring {
    /// Place and index of the member.
    places: BTreeMap<u32, usize>,
}

impl Ring {
    fn of(members: &[ClientId]) -> Self {
        let mut places = BTreeMap::new();
        for (index, member) in members.iter().enumerate() {
            for n in 0..RING_PLACES {
                places.insert(place_of(&format!("{member}-{n}")), index);
            }
        }
        Self { places }
    }

    fn owner(&self, queue: &MessageQueue) -> usize {
        let MessageQueue { topic, broker_name, queue_id } = queue;
        let at =
            place_of(&format!("MessageQueue [topic={topic}, brokerName={broker_name}, queueId={queue_id}]"));
        let next = self.places.range(at..).next().or_else(|| self.places.iter().next());
        next.map_or(0, |(_, index)| *index)
    }
}

/// The first four bytes of the MD5 of the text.
fn place_of(text: &str) -> u32 {
    let digest: [u8; 16] = Md5::digest(text).into();
    let [a, b, c, d, ..] = digest;
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue(broker: &str, queue_id: i32) -> MessageQueue {
        MessageQueue { broker_name: broker.into(), queue_id, topic: "T".into() }
    }

    fn clients(ids: &[&str]) -> Vec<ClientId> {
        ids.iter().map(|id| ClientId::from(*id)).collect()
    }

    /// Queue ids by member, of queues that all stand on one broker, handed over in the wrong order on purpose.
    fn shares(strategy: &AssignmentStrategy, broker: &str, queues: i32, members: usize) -> Vec<Vec<i32>> {
        let queues: Vec<_> = (0..queues).rev().map(|id| queue(broker, id)).collect();
        let members: Vec<ClientId> = (0..members).rev().map(|n| ClientId::from(format!("c{n}"))).collect();
        (0..members.len())
            .map(|n| {
                let member = ClientId::from(format!("c{n}"));
                let share = strategy.share(queues.clone(), members.clone(), &member);
                share.iter().map(|queue| queue.queue_id).collect()
            })
            .collect()
    }

    fn rooms(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn shares_are_those_of_java() {
        let average = |queues, members| shares(&AssignmentStrategy::Average, "b", queues, members);
        assert_eq!(average(8, 3), [vec![0, 1, 2], vec![3, 4, 5], vec![6, 7]]);
        assert_eq!(average(3, 5), [vec![0], vec![1], vec![2], vec![], vec![]]);
        assert_eq!(average(4, 4), [vec![0], vec![1], vec![2], vec![3]]);
        assert_eq!(average(5, 1), [vec![0, 1, 2, 3, 4]]);
        let circle = shares(&AssignmentStrategy::Circle, "b", 8, 3);
        assert_eq!(circle, [vec![0, 3, 6], vec![1, 4, 7], vec![2, 5]]);
        let hash = shares(&AssignmentStrategy::ConsistentHash, "broker-a", 8, 3);
        assert_eq!(hash, [vec![0, 1, 5, 6], vec![3, 4], vec![2, 7]]);
        let room = shares(&AssignmentStrategy::MachineRoom { rooms: rooms(&["r"]) }, "r@b", 8, 3);
        assert_eq!(room, [vec![0, 1, 6], vec![2, 3, 7], vec![4, 5]]);
    }

    #[test]
    fn places_on_the_ring_are_those_of_java() {
        assert_eq!(place_of("c0-0"), 0x8A18_B93E);
        assert_eq!(place_of("MessageQueue [topic=T, brokerName=broker-a, queueId=0]"), 0x612F_4674);
    }

    #[test]
    fn brokers_outside_the_rooms_are_left_out() {
        let strategy = AssignmentStrategy::MachineRoom { rooms: rooms(&["r1"]) };
        let queues = vec![queue("r1@a", 0), queue("r2@b", 0), queue("plain", 0), queue("r1@x@y", 0)];
        assert_eq!(strategy.share(queues, clients(&["c"]), &"c".into()), [queue("r1@a", 0)]);
        let nowhere = AssignmentStrategy::MachineRoom { rooms: BTreeSet::new() };
        assert!(nowhere.share(vec![queue("r1@a", 0)], clients(&["c"]), &"c".into()).is_empty());
    }

    #[test]
    fn nearby_members_come_first_and_empty_rooms_are_shared_by_all() {
        let strategy = AssignmentStrategy::Nearby(Box::new(AssignmentStrategy::Average));
        let queues: Vec<_> =
            ["r1@a", "r2@b", "r3@c"].iter().flat_map(|broker| (0..2).map(|id| queue(broker, id))).collect();
        let members = clients(&["1@x@r1", "2@x@r1", "3@x@r2"]);
        let share = |n: usize| strategy.share(queues.clone(), members.clone(), &members[n]);
        assert_eq!(share(0), [queue("r1@a", 0), queue("r3@c", 0)]);
        assert_eq!(share(1), [queue("r1@a", 1), queue("r3@c", 1)]);
        assert_eq!(share(2), [queue("r2@b", 0), queue("r2@b", 1)]);
    }

    #[test]
    fn names_are_those_of_java_and_what_only_clients_know_is_none() {
        for name in ["AVG", "AVG_BY_CIRCLE", "CONSISTENT_HASH", "MACHINE_ROOM", "MACHINE_ROOM_NEARBY-AVG"] {
            assert_eq!(AssignmentStrategy::named(name, &rooms(&[])).unwrap().to_string(), name);
        }
        for name in
            ["CONFIG", "", "avg", "MACHINE_ROOM_NEARBY-", "MACHINE_ROOM_NEARBY-MACHINE_ROOM_NEARBY-AVG"]
        {
            assert_eq!(AssignmentStrategy::named(name, &rooms(&[])), None, "{name:?}");
        }
    }

    #[test]
    fn a_stranger_gets_nothing() {
        assert!(average(vec![queue("b", 0)], clients(&["c0"]), &"c1".into()).is_empty());
        assert!(average(vec![queue("b", 0)], vec![], &"c1".into()).is_empty());
    }

    proptest! {
        /// Whatever the strategy, every queue has exactly one member.
        #[test]
        fn every_queue_has_one_member(
            queues in prop::collection::btree_set((0..3usize, 0..12i32), 0..30),
            members in prop::collection::btree_set((0..40u8, 0..3u8), 1..12),
            strategy in 0..5usize,
        ) {
            let all_rooms = rooms(&["r0", "r1", "r2"]);
            let names =
                ["AVG", "AVG_BY_CIRCLE", "CONSISTENT_HASH", "MACHINE_ROOM", "MACHINE_ROOM_NEARBY-AVG_BY_CIRCLE"];
            let strategy = AssignmentStrategy::named(names[strategy], &all_rooms).unwrap();
            let queues: Vec<_> = queues.into_iter().map(|(room, id)| queue(&format!("r{room}@b"), id)).collect();
            let members: Vec<_> =
                members.into_iter().map(|(n, room)| ClientId::from(format!("{n}@x@r{room}"))).collect();
            let shares = members.iter().map(|member| strategy.share(queues.clone(), members.clone(), member));
            let mut shared: Vec<_> = shares.flatten().collect();
            shared.sort_by(|a, b| order_of(a).cmp(&order_of(b)));
            prop_assert_eq!(shared, queues);
        }
    }
}
