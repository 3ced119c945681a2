//! Which consumer of a group may consume a message queue in order.
//!
//! A lock belongs to a client id, not to a connection: a client that comes back finds its locks. It ends 60 s
//! after it was last renewed; clients renew every 20 s and think it lost after 30 s, so that nobody believes to
//! hold what another was given. RocketMQ: `RebalanceLockManager`.
//!
//! A client that says that it leaves has settled what it held, and gives its locks up at once. One whose connection
//! broke may still be at work on a message: its locks end when it must think them lost itself, which is earlier than
//! they would otherwise.

use std::time::Duration;

use tokio::time::Instant;

use crate::collections::HashMap;
use crate::types::{ClientId, MessageQueue};

/// RocketMQ: `RebalanceLockManager.REBALANCE_LOCK_MAX_LIVE_TIME`.
pub const LOCK_LIFETIME: Duration = Duration::from_secs(60);

/// How long a client itself believes in a lock, and a margin: it counts from when it got the answer. RocketMQ:
/// `ProcessQueue.REBALANCE_LOCK_MAX_LIVE_TIME`.
pub const LOCK_BELIEVED: Duration = Duration::from_secs(35);

#[derive(Debug)]
struct Lock {
    owner: ClientId,
    since: Instant,
    renewed_at: Instant,
    /// The connection of its owner broke after it was renewed.
    orphaned: bool,
}

impl Lock {
    fn is_over(&self, now: Instant) -> bool {
        let lifetime = if self.orphaned { LOCK_BELIEVED } else { LOCK_LIFETIME };
        now.duration_since(self.renewed_at) > lifetime
    }
}

/// A lock in force, for people to look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldLock {
    pub queue: MessageQueue,
    pub owner: ClientId,
    pub held_for: Duration,
    pub renewed_ago: Duration,
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
                lock.orphaned = false;
                true
            }
            Some(_) => false,
            None => {
                let lock = Lock { owner: client.clone(), since: now, renewed_at: now, orphaned: false };
                self.locks.insert(queue.clone(), lock);
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

    /// Gives up all that `client` holds: it has left.
    pub fn release(&mut self, client: &ClientId) {
        self.locks.retain(|_, lock| lock.owner != *client);
    }

    /// The connection of `client` broke.
    pub fn orphan(&mut self, client: &ClientId) {
        for lock in self.locks.values_mut().filter(|lock| lock.owner == *client) {
            lock.orphaned = true;
        }
    }

    /// The locks in force, sorted by queue.
    pub fn list(&self, now: Instant) -> Vec<HeldLock> {
        let in_force = self.locks.iter().filter(|(_, lock)| !lock.is_over(now));
        let mut held: Vec<_> = in_force
            .map(|(queue, lock)| HeldLock {
                queue: queue.clone(),
                owner: lock.owner.clone(),
                held_for: now.duration_since(lock.since),
                renewed_ago: now.duration_since(lock.renewed_at),
            })
            .collect();
        held.sort_by(|a, b| a.queue.cmp(&b.queue));
        held
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
    fn lock_ends_at_once_with_a_client_that_leaves_and_soon_with_one_that_is_cut_off() {
        let mut locks = QueueLocks::default();
        let began = Instant::now();
        let (a, b) = (ClientId::from("a"), ClientId::from("b"));
        locks.lock(&a, vec![queue(0), queue(1)], began);
        locks.release(&b);
        assert_eq!(locks.held(began), 2);
        locks.orphan(&a);
        assert!(locks.lock(&b, vec![queue(0)], began + LOCK_BELIEVED).is_empty(), "a may be at work still");
        let believed_no_more = began + LOCK_BELIEVED + Duration::from_millis(1);
        assert_eq!(locks.lock(&b, vec![queue(0)], believed_no_more), [queue(0)]);
        // Whoever is back in time keeps what it has.
        locks.orphan(&b);
        locks.lock(&b, vec![queue(0)], believed_no_more + Duration::from_secs(10));
        let at_60 = believed_no_more + Duration::from_secs(10) + LOCK_LIFETIME;
        assert_eq!(locks.list(at_60).len(), 1);
        assert_eq!(locks.list(at_60)[0].held_for, Duration::from_secs(70));
        locks.release(&b);
        assert_eq!(locks.lock(&a, vec![queue(0)], at_60), [queue(0)]);
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

#[cfg(test)]
mod world;
