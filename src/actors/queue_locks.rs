//! Which consumer of a group may consume a message queue in order.
//!
//! A lock belongs to a client id, not to a connection: a client that comes back finds its locks. It ends 60 s
//! after it was last renewed; clients renew every 20 s and think it lost after 30 s, so that nobody believes to
//! hold what another was given. RocketMQ: `RebalanceLockManager`.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::types::{ClientId, MessageQueue};

/// RocketMQ: `RebalanceLockManager.REBALANCE_LOCK_MAX_LIVE_TIME`.
pub const LOCK_LIFETIME: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Lock {
    owner: ClientId,
    renewed_at: Instant,
}

impl Lock {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.renewed_at) > LOCK_LIFETIME
    }
}

/// The locks of one group.
#[derive(Debug, Default)]
pub struct QueueLocks {
    locks: HashMap<MessageQueue, Lock>,
}

impl QueueLocks {
    /// Gives `client` every queue that nobody else holds, and renews those it holds; returns them in the order
    /// they were asked for.
    pub fn lock(&mut self, client: &ClientId, queues: Vec<MessageQueue>, now: Instant) -> Vec<MessageQueue> {
        self.locks.retain(|_, lock| !lock.is_over(now));
        let mut held = queues;
        held.retain(|queue| match self.locks.get_mut(queue) {
            Some(lock) if lock.owner == *client => {
                lock.renewed_at = now;
                true
            }
            Some(_) => false,
            None => {
                self.locks.insert(queue.clone(), Lock { owner: client.clone(), renewed_at: now });
                true
            }
        });
        held
    }

    /// Gives up the locks that `client` holds; those of others stay.
    pub fn unlock(&mut self, client: &ClientId, queues: &[MessageQueue]) {
        for queue in queues {
            if self.locks.get(queue).is_some_and(|lock| lock.owner == *client) {
                self.locks.remove(queue);
            }
        }
    }

    /// How many locks are in force.
    pub fn held(&self, now: Instant) -> usize {
        self.locks.values().filter(|lock| !lock.is_over(now)).count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue(queue_id: i32) -> MessageQueue {
        MessageQueue { broker_name: "b".into(), queue_id, topic: "T".into() }
    }

    #[test]
    fn lock_is_its_owners_until_it_ends() {
        let mut locks = QueueLocks::default();
        let began = Instant::now();
        let (a, b) = (ClientId::from("a"), ClientId::from("b"));
        assert_eq!(locks.lock(&a, vec![queue(0), queue(1)], began), [queue(0), queue(1)]);
        assert_eq!(locks.lock(&b, vec![queue(1), queue(2)], began), [queue(2)]);
        locks.unlock(&b, &[queue(0)]);
        assert_eq!(locks.lock(&a, vec![queue(0)], began + Duration::from_secs(40)), [queue(0)]);
        let after_first = began + LOCK_LIFETIME + Duration::from_millis(1);
        assert_eq!(locks.lock(&b, vec![queue(0), queue(1)], after_first), [queue(1)]);
        locks.unlock(&a, &[queue(0)]);
        assert_eq!(locks.held(after_first), 1);
    }

    #[test]
    fn lock_renewed_to_the_millisecond_is_kept() {
        let mut locks = QueueLocks::default();
        let began = Instant::now();
        locks.lock(&"a".into(), vec![queue(0)], began);
        assert!(locks.lock(&"b".into(), vec![queue(0)], began + LOCK_LIFETIME).is_empty());
    }

    proptest! {
        /// Against a list of (queue, owner, renewed at second): never two owners, never a lock beyond its time.
        #[test]
        fn behaves_like_a_list(steps in prop::collection::vec((0..3u8, 0..3i32, 0..3usize, 0..50u64), 1..60)) {
            let clients = ["a", "b", "c"].map(ClientId::from);
            let mut locks = QueueLocks::default();
            let mut model: Vec<(i32, usize, u64)> = Vec::new();
            let (began, mut second) = (Instant::now(), 0);
            for (kind, queue_id, client, wait) in steps {
                second += wait;
                let now = began + Duration::from_secs(second);
                let holder = model.iter().find(|(id, _, at)| *id == queue_id && second - at <= 60).map(|(_, owner, _)| *owner);
                if kind == 0 {
                    locks.unlock(&clients[client], &[queue(queue_id)]);
                    model.retain(|(id, owner, _)| *id != queue_id || *owner != client);
                } else {
                    let granted = !locks.lock(&clients[client], vec![queue(queue_id)], now).is_empty();
                    prop_assert_eq!(granted, holder.is_none_or(|owner| owner == client));
                    if granted {
                        model.retain(|(id, _, _)| *id != queue_id);
                        model.push((queue_id, client, second));
                    }
                }
                prop_assert_eq!(locks.held(now), model.iter().filter(|(_, _, at)| second - at <= 60).count());
            }
        }
    }
}
