//! A seeded world of producers that send again: the real window over real queues, with the writer, the dispatcher, the
//! producers and the clock played. Answers are lost and sends doubled, to either queue; the writer may refuse; the process
//! ends at any time, between storing and answering too; the clock steps. At every step:
//!
//! 1. A key is stored once within its window: again only when the clock has shown, after it was stored, that its window
//!    is over.
//! 2. A send is answered with where its key was stored, or refused; never before it is stored.
//!
//! And at the end of each life that is not broken off: every send was answered.
//!
//! `DEDUP_SEEDS=10000 cargo test key_is_stored_once` runs more worlds; `DEDUP_SEED=…` the one that failed.

use std::collections::BTreeMap;

use super::*;
use crate::actors::commit_log_writer::AppendBatch;
use crate::actors::topic_queue::{Promise, QueueParts};
use crate::actors::topic_table::TopicTable;
use crate::clock::{Clock, ManualClock, WallMs};
use crate::protocol::message::PendingMessage;
use crate::protocol::properties::PropertyList;
use crate::protocol::request_code::RequestCode;
use crate::protocol::topic_config::TopicConfig;
use crate::testing::log::{message_with, settle, store_host, topic_table_of};
use crate::testing::world::{Chance, PlayedLog, each_seed, refuse};
use crate::testing::{CLOCK_BEGINS, FakeClient, Taken, fake_client, fake_sink, request};

const WINDOW_MS: i64 = 5_000;
const LIVES: u64 = 4;
const SEEDS: u64 = 100;

/// Where a key was stored last, and whether its window was seen to end since.
#[derive(Clone, Copy, Debug)]
struct StoredKey {
    queue_id: u32,
    queue_offset: u64,
    at_ms: i64,
    is_over: bool,
}

struct World {
    chance: Chance,
    played: PlayedLog,
    clock: Arc<ManualClock>,
    stored: BTreeMap<u64, StoredKey>,
    next_key: u64,
}

/// The actors of one life, and a producer.
struct Life {
    topics: TopicTable,
    dedup: Addr<DedupWindow>,
    appends: Taken<AppendBatch>,
    link: Arc<ClientLink>,
    client: FakeClient,
    sent: usize,
    answered: usize,
}

#[test]
fn key_is_stored_once_within_its_window() {
    each_seed("DEDUP", SEEDS, |seed| {
        let mut world = World {
            chance: Chance::of_seed(seed),
            played: PlayedLog::default(),
            clock: ManualClock::at(CLOCK_BEGINS),
            stored: BTreeMap::new(),
            next_key: 0,
        };
        for _ in 0..LIVES {
            // A system of its own, so that every actor of a life ends with it.
            System::new().block_on(world.live());
        }
    });
}

fn key_of(message: &PendingMessage) -> u64 {
    PropertyList::decode(&message.properties).get(property::UNIQ_KEY).unwrap().parse().unwrap()
}

impl World {
    async fn live(&mut self) {
        tokio::time::pause();
        let mut life = self.start().await;
        for _ in 0..20 + self.chance.below(80) {
            match self.chance.below(20) {
                0..=9 => self.send(&mut life).await,
                10..=13 => {
                    let refuses = self.chance.one_in(5);
                    self.write(&mut life, refuses);
                }
                14..=16 => drop(self.played.dispatch_one(&life.topics).await),
                17 | 18 => {
                    let ms = self.chance.below(1_500) as i64;
                    self.set_clock(self.clock.now().0 + ms);
                }
                _ => {
                    let step_ms = self.chance.around(1_000);
                    self.set_clock(self.clock.now().0 + step_ms);
                }
            }
            settle().await;
            self.hear(&mut life);
        }
        if self.chance.one_in(2) {
            return; // broken off
        }
        while self.write(&mut life, false) {
            settle().await;
        }
        self.hear(&mut life);
        assert_eq!(life.answered, life.sent, "every send is answered");
    }

    async fn start(&mut self) -> Life {
        let (writer, appends) = fake_sink::<AppendBatch>();
        let config = TopicConfig {
            attributes: [("dedup.window.ms".to_owned(), WINDOW_MS.to_string())].into(),
            ..TopicConfig::new("T", 2)
        };
        let topics = topic_table_of([config], &QueueParts { writer, ..self.played.log.queue_parts() });
        while self.played.dispatch_one(&topics).await.is_some() {}
        let parts = DedupWindowParts {
            log: self.played.log.reader.clone(),
            store_host: store_host(),
            clock: self.clock.clone(),
            mailbox_capacity: 64,
        };
        let dedup = DedupWindow::new(topics.get("T").unwrap(), parts).start();
        let (link, client) = fake_client();
        Life { topics, dedup, appends, link, client, sent: 0, answered: 0 }
    }

    fn set_clock(&mut self, now_ms: i64) {
        self.clock.set(WallMs(now_ms));
        for stored in self.stored.values_mut() {
            stored.is_over |= now_ms - stored.at_ms > WINDOW_MS;
        }
    }

    /// A producer sends: something new, or one of its last again.
    async fn send(&mut self, life: &mut Life) {
        let key = match self.next_key.checked_sub(1 + self.chance.below(12)) {
            Some(again) => again,
            None => {
                self.next_key += 1;
                self.next_key - 1
            }
        };
        if self.chance.one_in(3) {
            self.next_key += 1;
        }
        let queue_id = QueueId(self.chance.below(2) as u32);
        let text = key.to_string();
        let unique_key = Bytes::from(text.clone());
        let reply = SendReply::Client {
            link: life.link.clone(),
            to: request(RequestCode::SEND_MESSAGE).from(&life.link).reply_to(),
            unique_key: Some(unique_key.clone()),
            queue_id,
            recall_handle: None,
        };
        let mut message = message_with("T", "x", &[(property::UNIQ_KEY, &text)]);
        message.queue_id = queue_id;
        let topic = life.topics.get("T").unwrap();
        let once = SendOnce {
            send: SendRequest { messages: vec![message], promise: Promise::Stored, reply },
            queue_id,
            queue: topic.queue(queue_id).unwrap().clone(),
            unique_key,
            window_ms: WINDOW_MS,
        };
        life.dedup.send(once).await.unwrap();
        life.sent += 1;
    }

    /// The writer takes a batch; false when none waits.
    fn write(&mut self, life: &mut Life, refuses: bool) -> bool {
        let Ok(batch) = life.appends.try_recv() else { return false };
        if refuses {
            refuse(batch);
            return true;
        }
        let now = self.clock.now();
        for (message, unit) in self.played.store(batch, now, |_| 0) {
            let key = key_of(&message);
            let stored = StoredKey {
                queue_id: unit.queue_id.0,
                queue_offset: unit.queue_offset.0,
                at_ms: now.0,
                is_over: false,
            };
            let before = self.stored.insert(key, stored);
            assert!(
                before.is_none_or(|before| before.is_over),
                "{key} is stored again: {before:?}, {stored:?}"
            );
        }
        true
    }

    fn hear(&mut self, life: &mut Life) {
        while let Ok(reply) = life.client.replies.try_recv() {
            life.answered += 1;
            let ReplyContent::Stored(reply) = reply.content else { continue };
            let key = std::str::from_utf8(&reply.unique_key.unwrap()).unwrap().parse().unwrap();
            let told = (reply.queue_id.0, reply.queue_offset.0);
            let stored: &StoredKey = self.stored.get(&key).expect("answered before it is stored");
            assert_eq!((stored.queue_id, stored.queue_offset), told, "{key} is elsewhere than was answered");
        }
    }
}
