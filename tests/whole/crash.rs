//! A broker that is killed in the middle of its work. After each of several crashes, with all that came before:
//!
//! 1. Every send that was answered is there, at the queue offset and physical offset it was answered with.
//! 2. No message is there twice; queue offsets have no gap.
//! 3. The consume queues, the records at physical offsets and the key index tell the same.
//! 4. A consumer offset is one that was committed, or none; never one beyond.
//!
//! Loss of power is another matter, which the tests of the store have (`store/memory_files.rs`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use rustix::process::Signal;
use telstar::client::{Call, ClientError};
use telstar::protocol::header::*;
use telstar::protocol::message_id::parse_offset_message_id;
use telstar::protocol::request_code::RequestCode;
use telstar::types::PhysicalOffset;

use crate::support::*;

const SEED: u64 = 0x7E15_7A12;
const ROUNDS: u64 = 12;
const ROUNDS_PER_STORE: u64 = 12;
const TOPICS: [&str; 2] = ["orders", "invoices"];
const QUEUES: i32 = 3;
const SENDERS: u64 = 4;
/// Sends of one sender that are under way at once.
const WINDOW: u64 = 8;
const SETTINGS: [&str; 6] = [
    "store.commit_log_segment_bytes=131072",
    "message.max_body_bytes=65536",
    "store.consume_queue_segment_units=64",
    "store.index_slots=50",
    "store.index_entries=200",
    "store.check_point_interval_ms=100",
];

/// xorshift: small, seeded, the same everywhere.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A send that was answered.
struct Acknowledged {
    key: String,
    topic: &'static str,
    queue_id: i32,
    queue_offset: i64,
    physical: PhysicalOffset,
}

fn body_of(key: &str, len: usize) -> Bytes {
    key.bytes().chain(*b"|").cycle().take(key.len() + 1 + len).collect()
}

/// How a life ends.
#[derive(Debug)]
enum End {
    /// Killed from outside after so long.
    Killed(Duration),
    /// Stopped in mid-work for a while, then killed.
    Frozen(Duration),
    /// Ends itself at a place in the code.
    AtPoint(String),
}

const KILL_POINTS: [&str; 13] = [
    "log.gathered",
    "log.written",
    "log.published",
    "log.blank_written",
    "log.segment_installed",
    "segment.made",
    "flusher.before_flush",
    "flusher.flushed",
    "check_point.synced",
    "check_point.saved",
    "queue.units_written",
    "dispatcher.handed_over",
    "metadata.before_flush",
];

impl End {
    fn any(chance: &mut Chance, round: u64) -> Self {
        let lifetime = Duration::from_millis(200 + chance.below(600));
        match round % 3 {
            0 => Self::Killed(lifetime),
            1 if chance.below(4) == 0 => Self::Frozen(lifetime),
            _ => {
                let point = KILL_POINTS[chance.below(KILL_POINTS.len() as u64) as usize];
                // Some places are passed with every turn, some a few times in a life.
                let is_frequent =
                    ["log.g", "log.w", "log.p", "queue", "disp"].iter().any(|head| point.starts_with(head));
                let times = 1 + chance.below(if is_frequent { 400 } else { 3 });
                Self::AtPoint(format!("{point}:{times}"))
            }
        }
    }

    /// Ends `broker`, or sees it end.
    async fn of(&self, broker: Broker) {
        match self {
            Self::Killed(lifetime) => tokio::time::sleep(*lifetime).await, // the life of this broker is so long
            Self::Frozen(lifetime) => {
                tokio::time::sleep(*lifetime).await;
                broker.signal(Signal::STOP);
                tokio::time::sleep(Duration::from_millis(100)).await; // what is half done stays so
            }
            // A place that is not passed often enough in this time is not passed at all.
            Self::AtPoint(_) => broker.ended_within(Duration::from_secs(2)).await,
        }
        broker.kill();
    }
}

/// `CRASH_ROUNDS=1000 cargo test --test whole killed` kills it more often; `CRASH_SEED` chooses the ends.
#[tokio::test]
async fn what_was_acknowledged_survives_being_killed() {
    let variable = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (seed, rounds) = (variable("CRASH_SEED").unwrap_or(SEED), crash_rounds(ROUNDS));
    println!("CRASH_SEED={seed}");
    let mut chance = Chance(seed | 1);
    let (mut answered, mut left) = (0, rounds);
    while left > 0 {
        // A directory of its own for some rounds, as each checks all that the ones before it have stored.
        let rounds = left.min(ROUNDS_PER_STORE);
        let flush_mode = ["async", "sync"][(left / ROUNDS_PER_STORE % 2) as usize];
        answered += crash_one_store(&mut chance, rounds, flush_mode).await;
        left -= rounds;
    }
    println!("{answered} sends acknowledged in {rounds} lives, none lost");
}

async fn crash_one_store(chance: &mut Chance, rounds: u64, flush_mode: &str) -> usize {
    let dir = temp_dir();
    let flush_mode = format!("store.flush_mode={flush_mode}");
    let settings: Vec<&str> = SETTINGS.iter().copied().chain([&*flush_mode]).collect();
    let mut acknowledged: Vec<Acknowledged> = Vec::new();
    let committed: Arc<HashMap<(usize, i32), AtomicI64>> = Arc::new(
        (0..TOPICS.len())
            .flat_map(|topic| (0..QUEUES).map(move |queue| ((topic, queue), AtomicI64::new(-1))))
            .collect(),
    );
    for round in 0..rounds {
        let end = End::any(chance, round);
        println!("round {round}, {flush_mode}: {end:?}");
        let kill_point = match &end {
            End::AtPoint(point) => Some(&**point),
            End::Killed(_) | End::Frozen(_) => None,
        };
        let Ok(broker) = Broker::start_doomed(dir.path(), &settings, kill_point).await else {
            continue; // it has ended itself while it started
        };
        if round == 0 {
            let client = broker.client().await;
            for topic in TOPICS {
                client.create_topic(topic, QUEUES).await;
                client.pull(&pull_from(topic, 0, 0)).await; // the group is there from its first request on
            }
        } else if kill_point.is_none() {
            check(&broker, &acknowledged, &committed, round).await;
        }
        let seeds: Vec<u64> = (0..SENDERS).map(|_| chance.below(u64::MAX) | 1).collect();
        let mut senders = Vec::new();
        for (sender, seed) in seeds.into_iter().enumerate() {
            let Some(client) = broker.try_client().await else { break };
            senders.push(tokio::spawn(load(client, round, sender, Chance(seed), committed.clone())));
        }
        end.of(broker).await;
        for stored in join_all(senders).await {
            acknowledged.extend(stored.expect("the sender ran to its end"));
        }
    }
    let broker = Broker::start(dir.path(), &settings).await;
    check(&broker, &acknowledged, &committed, rounds).await;
    let files = std::fs::read_dir(dir.path().join("data/commitlog")).unwrap().count();
    println!("{} sends acknowledged, {files} files of the log", acknowledged.len());
    assert!(acknowledged.len() > 100 && files > 3, "it got something done, and the log rolled over");
    acknowledged.len()
}

#[tokio::test]
async fn awaited_commit_survives_being_killed_when_it_waits_for_the_disk() {
    let dir = temp_dir();
    let settings = ["store.offsets_flush_mode=sync", "store.offsets_flush_interval_ms=600000"];
    let broker = Broker::start(dir.path(), &settings).await;
    let client = broker.client().await;
    client.create_topic("orders", 2).await;
    client.pull(&pull_from("orders", 0, 0)).await; // the group is there from its first request on
    for queue_id in 0..2 {
        let header = UpdateConsumerOffset {
            consumer_group: "cg".into(),
            topic: "orders".into(),
            queue_id: Some(queue_id),
            commit_offset: Some(7 + i64::from(queue_id)),
        };
        client.call(Call::new(RequestCode::UPDATE_CONSUMER_OFFSET).header(&header)).await.success().unwrap();
    }
    broker.kill();
    let broker = Broker::start(dir.path(), &settings).await;
    let client = broker.client().await;
    assert_eq!(
        (client.consumer_offset("orders", 0).await, client.consumer_offset("orders", 1).await),
        (Some(7), Some(8))
    );
}

/// Sends and commits until the broker is gone; returns what was answered.
async fn load(
    client: Client,
    round: u64,
    sender: usize,
    mut chance: Chance,
    committed: Arc<HashMap<(usize, i32), AtomicI64>>,
) -> Vec<Acknowledged> {
    let mut acknowledged = Vec::new();
    for turn in 0.. {
        let plan: Vec<_> = (0..WINDOW)
            .map(|n| {
                let topic = chance.below(TOPICS.len() as u64) as usize;
                let queue_id = chance.below(QUEUES as u64) as i32;
                let len = if chance.below(20) == 0 { chance.below(20_000) } else { chance.below(1_000) };
                (format!("r{round}-s{sender}-t{turn}-n{n}"), topic, queue_id, len as usize)
            })
            .collect();
        let sends = plan.iter().map(|(key, topic, queue_id, len)| {
            let send = Send::to(TOPICS[*topic], *queue_id, body_of(key, *len)).with("KEYS", key);
            client.connection.call(send.call(), PATIENCE)
        });
        let mut gone = false;
        for ((key, topic, queue_id, _), answer) in plan.iter().zip(join_all(sends).await) {
            match answer {
                Ok(answer) => {
                    let stored: SendResponse = answer.success().expect("it is stored").header().unwrap();
                    assert_eq!(stored.queue_id, *queue_id);
                    let (_, physical) = parse_offset_message_id(&stored.msg_id).expect("an id of ours");
                    acknowledged.push(Acknowledged {
                        key: key.clone(),
                        topic: TOPICS[*topic],
                        queue_id: *queue_id,
                        queue_offset: stored.queue_offset,
                        physical,
                    });
                }
                Err(ClientError::Closed { .. }) => gone = true,
                Err(error) => panic!("{key}: {error}"),
            }
        }
        if gone {
            return acknowledged;
        }
        // One group, one member per queue: each sender commits the queues of its number.
        let queue_id = sender as i32;
        for (topic, name) in TOPICS.iter().enumerate().filter(|_| queue_id < QUEUES) {
            let last =
                acknowledged.iter().filter(|stored| stored.topic == *name && stored.queue_id == queue_id);
            let Some(offset) = last.map(|stored| stored.queue_offset + 1).max() else { continue };
            // Written down first: it may have happened even if the answer is lost.
            committed[&(topic, queue_id)].fetch_max(offset, Ordering::Relaxed);
            let update = UpdateConsumerOffset {
                consumer_group: "cg".into(),
                topic: (*name).into(),
                queue_id: Some(queue_id),
                commit_offset: Some(offset),
            };
            let call = Call::new(RequestCode::UPDATE_CONSUMER_OFFSET).header(&update);
            match client.connection.call(call, PATIENCE).await {
                Ok(answer) => drop(answer.success().expect("it is committed")),
                Err(_) => return acknowledged,
            }
        }
    }
    unreachable!("the broker is killed at some time")
}

async fn check(
    broker: &Broker,
    acknowledged: &[Acknowledged],
    committed: &HashMap<(usize, i32), AtomicI64>,
    round: u64,
) {
    let client = broker.client().await;
    let mut stored = HashMap::new();
    let mut keys = HashSet::new();
    for (topic_number, topic) in TOPICS.into_iter().enumerate() {
        for queue_id in 0..QUEUES {
            let messages = client.pull_all(topic, queue_id, 0).await;
            for (n, message) in messages.iter().enumerate() {
                assert_eq!(
                    message.queue_offset.0, n as u64,
                    "{topic} {queue_id} has a gap after round {round}"
                );
                let key = property(message, "KEYS").expect("all have keys").to_owned();
                assert_eq!(message.body, body_of(&key, message.body.len() - key.len() - 1), "{key}");
                assert!(keys.insert(key.clone()), "{key} is there twice after round {round}");
                stored.insert(key, (topic, queue_id, n as i64, message.physical_offset));
            }
            let max = client.offset_of(RequestCode::GET_MAX_OFFSET, topic, queue_id).await;
            assert_eq!(max, messages.len() as i64);
            let offset = client.consumer_offset(topic, queue_id).await;
            let limit = committed[&(topic_number, queue_id)].load(Ordering::Relaxed);
            // A young queue that nobody committed begins at 0.
            assert!(offset.unwrap_or(0) <= limit.max(0), "{topic} {queue_id}: {offset:?} > {limit}");
        }
    }
    for sent in acknowledged {
        let found = stored.get(&sent.key);
        let expected = (sent.topic, sent.queue_id, sent.queue_offset, sent.physical);
        assert_eq!(found, Some(&expected), "{} was acknowledged, after round {round}", sent.key);
    }
    // The index follows the log a moment later; a sample, and the newest, where crashes hurt.
    let newest = acknowledged.iter().max_by_key(|sent| sent.physical);
    for sent in acknowledged.iter().step_by(1 + acknowledged.len() / 60).chain(newest) {
        let found = client.find_by_key(sent.topic, &sent.key).await;
        let positions: Vec<_> = found.iter().map(|message| message.physical_offset).collect();
        assert_eq!(positions, [sent.physical], "{} by its key, after round {round}", sent.key);
    }
}
