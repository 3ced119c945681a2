//! Which queues of a topic a member of a consumer group gets. Every member computes it alone and comes to the
//! same result, because all see the same lists.

use crate::types::{ClientId, MessageQueue};

/// The share of `member` when queues are cut into even runs (RocketMQ: `AllocateMessageQueueAveragely`).
/// A member that is not in the list gets nothing. Neither list needs to be sorted.
pub fn average(
    mut queues: Vec<MessageQueue>,
    mut members: Vec<ClientId>,
    member: &ClientId,
) -> Vec<MessageQueue> {
    queues
        .sort_by(|a, b| (&a.topic, &a.broker_name, a.queue_id).cmp(&(&b.topic, &b.broker_name, b.queue_id)));
    members.sort();
    members.dedup();
    let Some(index) = members.iter().position(|id| id == member) else { return Vec::new() };
    let (start, size) = average_run(queues.len(), members.len(), index);
    queues.into_iter().skip(start).take(size).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(queues: i32, members: usize) -> Vec<Vec<i32>> {
        let queue = |queue_id| MessageQueue { broker_name: "b".into(), queue_id, topic: "T".into() };
        // Handed over in the wrong order on purpose.
        let queues: Vec<_> = (0..queues).rev().map(queue).collect();
        let members: Vec<ClientId> = (0..members).rev().map(|n| ClientId::from(format!("c{n}"))).collect();
        (0..members.len())
            .map(|n| {
                let member = ClientId::from(format!("c{n}"));
                average(queues.clone(), members.clone(), &member).iter().map(|queue| queue.queue_id).collect()
            })
            .collect()
    }

    #[test]
    fn shares_are_those_of_java() {
        assert_eq!(shares(8, 3), [vec![0, 1, 2], vec![3, 4, 5], vec![6, 7]]);
        assert_eq!(shares(3, 5), [vec![0], vec![1], vec![2], vec![], vec![]]);
        assert_eq!(shares(4, 4), [vec![0], vec![1], vec![2], vec![3]]);
        assert_eq!(shares(5, 1), [vec![0, 1, 2, 3, 4]]);
    }

    #[test]
    fn every_queue_has_one_member() {
        for queues in 0..20 {
            for members in 1..9 {
                let mut all: Vec<i32> = shares(queues, members).concat();
                all.sort();
                assert_eq!(all, (0..queues).collect::<Vec<_>>(), "{queues} queues, {members} members");
            }
        }
    }

    #[test]
    fn a_stranger_gets_nothing() {
        let queue = MessageQueue { broker_name: "b".into(), queue_id: 0, topic: "T".into() };
        assert!(average(vec![queue.clone()], vec!["c0".into()], &"c1".into()).is_empty());
        assert!(average(vec![queue], vec![], &"c1".into()).is_empty());
    }
}
