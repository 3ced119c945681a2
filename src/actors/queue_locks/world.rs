//! A seeded world of clients that consume queues in order: the real locks, with the clients, their connections and the
//! progress of the group played as RocketMQ's clients do it. Requests and answers are late or lost with their connection,
//! which breaks at any time; queues are given to other clients; commits are lost; the broker restarts and knows no lock any
//! more. At every step:
//!
//! 1. No two clients are at work on one queue at once, but in the first 35 s of a broker, when one may believe in a lock
//!    that its predecessor gave.
//! 2. A message is shown only when every earlier one of its queue was settled, whoever shows it.
//! 3. A client that renews its locks in time keeps them.
//!
//! And when nothing fails any more, every message is settled.
//!
//! `LOCK_SEEDS=10000 cargo test ordered_queue` runs more worlds; `LOCK_SEED=…` the one that failed.

use std::collections::{BTreeMap, VecDeque};

use super::*;
use crate::testing::world::{Chance, each_seed};

const QUEUES: usize = 3;
const CLIENTS: usize = 3;
const MESSAGES: u64 = 400;
const STEPS: u64 = 1_500;
const SEEDS: u64 = 300;
/// Java: `ProcessQueue.REBALANCE_LOCK_MAX_LIVE_TIME`, counted from the answer.
const CLIENT_BELIEVES: Duration = Duration::from_secs(30);
/// Java: `ProcessQueue.REBALANCE_LOCK_INTERVAL`.
const RENEWS_EVERY: Duration = Duration::from_secs(20);
/// A client waits no longer for an answer, and is at work on a message no longer than `WORK_MS`. Together they are less than
/// the margin between what a client and what the broker believes.
const ANSWER_MS: u64 = 1_000;
const WORK_MS: u64 = 3_000;

#[derive(Clone, Debug)]
enum Ask {
    Lock { asked_at: Instant },
    Unlock(usize),
    Commit { queue: usize, next: u64 },
    Leave,
}

/// A client's work on one queue.
#[derive(Clone, Default, Debug)]
struct Work {
    locked_until: Option<Instant>,
    /// The next message to show; known once the offset was asked for under the lock.
    next: Option<u64>,
    busy_until: Option<Instant>,
}

#[derive(Debug, Default)]
struct Player {
    connected: bool,
    /// What is on its way to the broker, in order, and when it arrives.
    requests: VecDeque<(Instant, Ask)>,
    answers: VecDeque<(Instant, Vec<usize>)>,
    works: [Work; QUEUES],
    renews_at: Option<Instant>,
}

struct World {
    chance: Chance,
    now: Instant,
    locks: QueueLocks,
    broker_began: Instant,
    players: [Player; CLIENTS],
    /// Which client each queue is given to.
    owners: [usize; QUEUES],
    /// The offset that the broker has for the group.
    committed: [u64; QUEUES],
    /// Messages below are settled.
    settled: [u64; QUEUES],
    /// When each client was last given each queue, on this connection and by this broker.
    granted: BTreeMap<(usize, usize), Instant>,
    calm: bool,
}

#[test]
fn ordered_queue_is_worked_on_by_one_client_and_never_shown_ahead() {
    each_seed("LOCK", SEEDS, |seed| {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.calm = true;
        for _ in 0..20_000 {
            if world.settled.iter().all(|settled| *settled == MESSAGES) {
                return;
            }
            world.step();
        }
        panic!("never settled: {:?}", world.settled);
    });
}

fn id(client: usize) -> ClientId {
    ["a", "b", "c"][client].into()
}

fn message_queue(queue: usize) -> MessageQueue {
    MessageQueue { broker_name: "b".into(), queue_id: queue as i32, topic: "T".into() }
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        Self {
            chance: Chance::of_seed(seed),
            now,
            locks: QueueLocks::default(),
            broker_began: now - LOCK_BELIEVED, // the first has no predecessor
            players: std::array::from_fn(|_| Player::default()),
            owners: std::array::from_fn(|queue| queue % CLIENTS),
            committed: [0; QUEUES],
            settled: [0; QUEUES],
            granted: BTreeMap::new(),
            calm: false,
        }
    }

    fn later(&mut self, max_ms: u64) -> Instant {
        self.now + Duration::from_millis(1 + self.chance.below(max_ms))
    }

    fn ask(&mut self, client: usize, ask: Ask) {
        let arrives = self.later(ANSWER_MS / 2);
        let player = &mut self.players[client];
        // One connection keeps its order.
        let arrives = player.requests.back().map_or(arrives, |(before, _)| arrives.max(*before));
        player.requests.push_back((arrives, ask));
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(self.chance.below(700));
        if !self.calm {
            match self.chance.below(120) {
                0 => {
                    let queue = self.chance.below(QUEUES as u64) as usize;
                    self.give(queue);
                }
                1 => self.break_connection(),
                2 if self.chance.one_in(6) => self.restart(),
                _ => {}
            }
        }
        for client in 0..CLIENTS {
            self.hear(client);
            self.act(client);
        }
        self.take_requests();
        self.check();
    }

    fn give(&mut self, queue: usize) {
        self.owners[queue] = self.chance.below(CLIENTS as u64) as usize;
    }

    fn break_connection(&mut self) {
        let client = self.chance.below(CLIENTS as u64) as usize;
        // The others share its queues, but for a client that is back soon.
        if self.chance.one_in(2) {
            for queue in 0..QUEUES {
                if self.owners[queue] == client {
                    self.give(queue);
                }
            }
        }
        let player = &mut self.players[client];
        if std::mem::take(&mut player.connected) {
            player.requests.clear();
            player.answers.clear();
            self.locks.orphan(&id(client));
            self.granted.retain(|(who, _), _| *who != client);
        }
    }

    fn restart(&mut self) {
        self.locks = QueueLocks::default();
        self.broker_began = self.now;
        self.granted.clear();
        for player in &mut self.players {
            player.connected = false;
            player.requests.clear();
            player.answers.clear();
        }
        // What was committed last may not have been on disk.
        for committed in &mut self.committed {
            *committed -= self.chance.below(1 + (*committed).min(5));
        }
    }

    /// A client takes the answers that came.
    fn hear(&mut self, client: usize) {
        let (now, player) = (self.now, &mut self.players[client]);
        while player.answers.front().is_some_and(|(at, _)| *at <= now) {
            let (_, held) = player.answers.pop_front().expect("there is one");
            for (queue, work) in player.works.iter_mut().enumerate() {
                match held.contains(&queue) {
                    true => work.locked_until = Some(now + CLIENT_BELIEVES),
                    false => *work = Work { busy_until: work.busy_until, ..Work::default() },
                }
            }
        }
    }

    /// A client goes on with its queues.
    fn act(&mut self, client: usize) {
        if !self.players[client].connected {
            self.players[client].connected = self.calm || self.chance.one_in(100);
            self.players[client].renews_at = None;
        }
        let connected = self.players[client].connected;
        if connected && self.players[client].renews_at.is_none_or(|at| at <= self.now) {
            let player = &self.players[client];
            let holds_all = (0..QUEUES)
                .all(|queue| self.owners[queue] != client || player.works[queue].locked_until.is_some());
            // For a queue that another holds it asks again soon, as members do that were told to share anew.
            let pause = if holds_all { RENEWS_EVERY } else { Duration::from_secs(2) };
            self.players[client].renews_at = Some(self.now + pause);
            self.ask(client, Ask::Lock { asked_at: self.now });
        }
        for queue in 0..QUEUES {
            self.work(client, queue);
        }
        let idle = self.players[client].works.iter().all(|work| work.busy_until.is_none());
        if connected && idle && !self.calm && self.chance.one_in(300) {
            // It stops, and starts anew: it has settled what it held.
            self.players[client].works = Default::default();
            self.ask(client, Ask::Leave);
            self.players[client].renews_at = Some(self.now + Duration::from_secs(2));
        }
    }

    fn work(&mut self, client: usize, queue: usize) {
        let (now, owner) = (self.now, self.owners[queue]);
        let work = &mut self.players[client].works[queue];
        if let Some(until) = work.busy_until {
            if until > now {
                return;
            }
            work.busy_until = None;
            // One that was told meanwhile that it has no lock forgets what it was at.
            if let Some(at) = work.next.as_mut() {
                self.settled[queue] = self.settled[queue].max(*at + 1);
                *at += 1;
                let next = *at;
                if self.players[client].connected && self.chance.one_in(3) {
                    self.ask(client, Ask::Commit { queue, next });
                }
            }
        }
        let work = &mut self.players[client].works[queue];
        if owner != client && work.locked_until.is_some() {
            // The queue is another's now: its progress is told, then it is given up.
            let next = work.next;
            *work = Work::default();
            if self.players[client].connected {
                if let Some(next) = next {
                    self.ask(client, Ask::Commit { queue, next });
                }
                self.ask(client, Ask::Unlock(queue));
            }
            return;
        }
        if work.locked_until.is_none_or(|until| until < now) {
            return;
        }
        // Asked for under the lock, over the connection.
        if work.next.is_none() && self.players[client].connected {
            self.players[client].works[queue].next = Some(self.committed[queue]);
        }
        let work = &mut self.players[client].works[queue];
        if let Some(message) = work.next.filter(|next| *next < MESSAGES) {
            assert!(message <= self.settled[queue], "{message} of queue {queue} is shown ahead");
            work.busy_until = Some(now + Duration::from_millis(1 + self.chance.below(WORK_MS)));
        }
    }

    /// The broker takes what arrived.
    fn take_requests(&mut self) {
        for client in 0..CLIENTS {
            while self.players[client].requests.front().is_some_and(|(at, _)| *at <= self.now) {
                let (_, ask) = self.players[client].requests.pop_front().expect("there is one");
                match ask {
                    Ask::Lock { asked_at } => self.lock(client, asked_at),
                    Ask::Unlock(queue) => {
                        self.locks.unlock(&id(client), &[message_queue(queue)]);
                        self.granted.remove(&(client, queue));
                    }
                    Ask::Commit { queue, next } => self.committed[queue] = next,
                    Ask::Leave => {
                        self.locks.release(&id(client));
                        self.granted.retain(|(who, _), _| *who != client);
                    }
                }
            }
        }
    }

    fn lock(&mut self, client: usize, asked_at: Instant) {
        let mine = |owners: [usize; QUEUES]| (0..QUEUES).filter(move |queue| owners[*queue] == client);
        let wanted: Vec<_> = mine(self.owners).map(message_queue).collect();
        let held: Vec<_> = self
            .locks
            .lock(&id(client), wanted, self.now)
            .iter()
            .map(|held| held.queue_id as usize)
            .collect();
        for queue in mine(self.owners) {
            let kept = self.granted.get(&(client, queue)).is_some_and(|at| self.now - *at <= LOCK_LIFETIME);
            assert!(!kept || held.contains(&queue), "{client} renews queue {queue} in time, and loses it");
        }
        for queue in &held {
            self.granted.insert((client, *queue), self.now);
        }
        let arrives = self.later(ANSWER_MS / 2);
        if arrives - asked_at <= Duration::from_millis(ANSWER_MS) {
            self.players[client].answers.push_back((arrives, held));
        }
    }

    fn check(&self) {
        if self.now - self.broker_began <= LOCK_BELIEVED {
            return;
        }
        for queue in 0..QUEUES {
            let at_work = (0..CLIENTS)
                .filter(|client| {
                    self.players[*client].works[queue].busy_until.is_some_and(|until| until > self.now)
                })
                .count();
            assert!(at_work <= 1, "{at_work} clients are at work on queue {queue}");
        }
    }
}
