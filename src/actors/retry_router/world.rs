//! A seeded world of messages that fail: the real router, the real scheduler of delay levels and real queues, with the
//! writer, the dispatcher, the consumers and the clock played. The writer may refuse, the dispatcher may be late and tell
//! twice, consumers send back what came again, the clock jumps, and the process ends at any time. At every step:
//!
//! 1. What waits in a delay level is not stored for its consumers before its time by the wall clock, unless that went back
//!    so far that the wait would be a minute longer than the level is.
//! 2. A send-back that was refused is stored nowhere; one that gives a message up or is one too many is never tried again.
//!
//! And in the end, when the writer takes everything:
//!
//! 3. Every send-back that was answered came again, with one more retry, or is in the dead letter queue, as it should be:
//!    dead ones once; the others at most once for each life that ended without saving what it had delivered.
//!
//! `RETRY_SEEDS=10000 cargo test every_send_back` runs more worlds; `RETRY_SEED=…` the one that failed.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_rt::task::JoinHandle;
use tokio::time::advance;

use super::*;
use crate::actors::commit_log_writer::AppendBatch;
use crate::actors::delay_scheduler::{DelayScheduler, DelaySchedulerParts, SaveNow, StartDelivery};
use crate::actors::dispatcher::UnitsScheduled;
use crate::actors::topic_queue::QueueParts;
use crate::clock::{Clock, ManualClock, WallMs};
use crate::store::metadata::Metadata;
use crate::testing::log::{message_with, settle, store_host, topic_table};
use crate::testing::world::{Chance, PlayedLog, StoredUnit, each_seed, refuse};
use crate::testing::{CLOCK_BEGINS, Taken, fake_mailbox, fake_sink};
use crate::types::QueueOffset;

const TOPICS: [(&str, u32); 4] = [(SCHEDULE_TOPIC, 3), ("T", 1), ("%RETRY%g", 1), ("%DLQ%g", 1)];
const LEVELS: &str = "1s 4s 10s";
/// As far as the clock may step back with nothing coming early.
const CLOCK_STEP_MS: i64 = 60_000;
const MAX_RETRIES: i32 = 3;
const LIVES: u64 = 4;
const SEEDS: u64 = 100;

/// Number of a message, and how often it was tried again before.
type Attempt = (u64, i32);

/// A send-back, by the attempt that it asks for.
#[derive(Debug)]
struct Back {
    dies: bool,
    outcome: Option<Result<(), Refusal>>,
    came: u64,
    died: u64,
}

/// What waits in a delay level.
#[derive(Debug)]
struct Waiting {
    due_ms: i64,
    delay_ms: i64,
    may_come: bool,
}

struct World {
    chance: Chance,
    played: PlayedLog,
    clock: Arc<ManualClock>,
    metadata: Metadata,
    /// The delivered offsets as the last flush left them.
    flushed: Vec<(usize, QueueOffset)>,
    next_message: u64,
    backs: BTreeMap<Attempt, Back>,
    waiting: BTreeMap<Attempt, Waiting>,
    /// Messages that consumers hold.
    consumed: Vec<(Attempt, PhysicalOffset)>,
    /// Lives that ended without saving.
    crashes: u64,
}

type Answer = JoinHandle<Result<Result<(), Refusal>, MailboxError>>;

/// The actors of one life.
struct Life {
    topics: TopicTable,
    router: Addr<RetryRouter>,
    scheduler: Addr<DelayScheduler>,
    appends: Taken<AppendBatch>,
    answers: Vec<(Attempt, Answer)>,
}

#[test]
fn every_send_back_comes_again_or_is_dead() {
    each_seed("RETRY", SEEDS, |seed| {
        let mut world = World::new(seed);
        for life in 1..=LIVES {
            // A system of its own, so that every actor of a life ends with it.
            System::new().block_on(world.live(life == LIVES));
        }
        world.check_all();
    });
}

fn attempt_of(message: &PendingMessage) -> Attempt {
    let properties = PropertyList::decode(&message.properties);
    (properties.get("KEYS").unwrap().parse().unwrap(), message.reconsume_times)
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            chance: Chance::of_seed(seed),
            played: PlayedLog::default(),
            clock: ManualClock::at(CLOCK_BEGINS),
            metadata: Metadata::temporary().unwrap(),
            flushed: Vec::new(),
            next_message: 0,
            backs: BTreeMap::new(),
            waiting: BTreeMap::new(),
            consumed: Vec::new(),
            crashes: 0,
        }
    }

    async fn live(&mut self, is_last: bool) {
        tokio::time::pause();
        let mut life = self.start().await;
        for _ in 0..20 + self.chance.below(60) {
            self.step(&mut life).await;
            settle().await;
            self.hear(&mut life).await;
        }
        if is_last {
            self.finish(&mut life).await;
        } else if self.chance.one_in(4) {
            life.scheduler.send(SaveNow).await.unwrap();
        } else {
            // What was not flushed is not there any more.
            let delivered = self.metadata.delay_offsets().unwrap();
            self.flushed.iter().for_each(|(level, next)| delivered.put(*level, *next).unwrap());
            self.crashes += 1;
        }
    }

    async fn start(&mut self) -> Life {
        let (writer, appends) = fake_sink::<AppendBatch>();
        let topics = topic_table(&TOPICS, &QueueParts { writer, ..self.played.log.queue_parts() });
        let known = topics.clone();
        let (ensure_topic, _) = fake_mailbox()
            .answers(move |ensure: &EnsureTopic| {
                Ok(known.get(&ensure.config.topic_name).expect("the world has it"))
            })
            .start();
        let delay_levels = DelayLevels::parse(LEVELS).unwrap();
        let router = RetryRouter::new(RetryRouterParts {
            events: crate::actors::extensions::stream::EventTap::default(),
            flush: FlushMode::Async,
            log: self.played.log.reader.clone(),
            topics: topics.clone(),
            ensure_topic,
            delay_levels: delay_levels.clone(),
            timer_delay_max: None,
            clock: self.clock.clone(),
            store_host: store_host(),
            mailbox_capacity: 64,
        });
        let scheduler = DelayScheduler::new(DelaySchedulerParts {
            flush: FlushMode::Async,
            log: self.played.log.reader.clone(),
            topics: topics.clone(),
            delivered: self.metadata.delay_offsets().unwrap(),
            delay_levels,
            store_host: store_host(),
            clock: self.clock.clone(),
            mailbox_capacity: 64,
            save_interval: Duration::from_secs(1),
        });
        let (router, scheduler) = (router.start(), scheduler.start());
        let life = Life { topics, router, scheduler, appends, answers: Vec::new() };
        while self.dispatch(&life).await {}
        life.scheduler.send(StartDelivery).await.unwrap();
        life
    }

    async fn step(&mut self, life: &mut Life) {
        match self.chance.below(20) {
            0..=4 => self.send_back(life),
            5..=10 => {
                let refuses = self.chance.one_in(6);
                self.write(life, refuses);
            }
            11..=14 => drop(self.dispatch(life).await),
            15..=17 => {
                let ms = self.chance.below(1_500);
                self.pass(ms).await;
            }
            18 if self.chance.one_in(3) => {
                let far = if self.chance.one_in(5) { 200_000 } else { 12_000 };
                let jump_ms = self.chance.around(far);
                self.set_clock(self.clock.now().0 + jump_ms);
            }
            _ => self.flushed = self.metadata.delay_offsets().unwrap().all().unwrap(),
        }
    }

    fn set_clock(&mut self, now_ms: i64) {
        self.clock.set(WallMs(now_ms));
        for waiting in self.waiting.values_mut() {
            waiting.may_come |=
                waiting.due_ms <= now_ms || waiting.due_ms > now_ms + waiting.delay_ms + CLOCK_STEP_MS;
        }
    }

    async fn pass(&mut self, ms: u64) {
        self.set_clock(self.clock.now().0 + ms as i64);
        advance(Duration::from_millis(ms)).await;
    }

    /// A consumer fails, over a message that is new or came again.
    fn send_back(&mut self, life: &mut Life) {
        let held = self.consumed.len() as u64;
        let (attempt, offset) = if held > 0 && self.chance.one_in(2) {
            self.consumed.swap_remove(self.chance.below(held) as usize)
        } else {
            let number = self.next_message;
            self.next_message += 1;
            let message = message_with("T", "again", &[("KEYS", &number.to_string())]);
            ((number, 0), self.played.log.append_at(message, number, self.clock.now()).start)
        };
        let (number, retries) = attempt;
        let asked = (number, retries + 1);
        if self.backs.contains_key(&asked) {
            return; // it came twice, and was sent back already
        }
        let delay_level = self.chance.below(6) as i32 - 1;
        let dies = delay_level < 0 || retries >= MAX_RETRIES;
        self.backs.insert(asked, Back { dies, outcome: None, came: 0, died: 0 });
        let back = SendBackMessage {
            group: "g".into(),
            offset,
            delay_level,
            max_reconsume_times: MAX_RETRIES,
            retry_queue_nums: 1,
            policy: GroupRetryPolicy::default(),
            client: "10.0.0.9@7".into(),
        };
        life.answers.push((asked, actix_rt::spawn(life.router.send(back))));
    }

    /// Takes the answers that are there.
    async fn hear(&mut self, life: &mut Life) {
        let answered: Vec<_> = life.answers.extract_if(.., |(_, answer)| answer.is_finished()).collect();
        for (attempt, answer) in answered {
            let outcome = answer.await.unwrap().unwrap();
            self.backs.get_mut(&attempt).unwrap().outcome = Some(outcome);
        }
    }

    /// The writer takes a batch; false when none waits.
    fn write(&mut self, life: &mut Life, refuses: bool) -> bool {
        let Ok(batch) = life.appends.try_recv() else { return false };
        if refuses {
            refuse(batch);
            return true;
        }
        let now = self.clock.now();
        let levels = DelayLevels::parse(LEVELS).unwrap();
        let due_ms = move |message: &PendingMessage| {
            now.0 + levels.delay(message.queue_id.0 as usize + 1).as_millis() as i64
        };
        for (message, stored) in self.played.store(batch, now, due_ms) {
            self.look_at(&message, &stored);
        }
        true
    }

    fn look_at(&mut self, message: &PendingMessage, stored: &StoredUnit) {
        let attempt = attempt_of(message);
        let back = self.backs.get_mut(&attempt).expect("it was sent back");
        assert!(!matches!(back.outcome, Some(Err(_))), "{attempt:?} was refused, and is stored");
        match &*message.topic {
            SCHEDULE_TOPIC => {
                assert!(!back.dies, "{attempt:?} is to be dead");
                let due_ms = stored.unit.tags_code;
                let waiting = Waiting { due_ms, delay_ms: due_ms - stored.stored_at_ms, may_come: false };
                assert!(self.waiting.insert(attempt, waiting).is_none(), "{attempt:?} waits twice");
            }
            "%RETRY%g" => {
                back.came += 1;
                assert!(self.waiting[&attempt].may_come, "{attempt:?} comes early");
                self.consumed.push((attempt, stored.unit.physical_offset));
            }
            "%DLQ%g" => {
                assert!(back.dies, "{attempt:?} is to come again");
                back.died += 1;
            }
            other => panic!("{other} is no topic of this world"),
        }
    }

    /// The dispatcher goes on by a message; false when there is none.
    async fn dispatch(&mut self, life: &Life) -> bool {
        let Some(stored) = self.played.dispatch_one(&life.topics).await else { return false };
        if &*stored.topic == SCHEDULE_TOPIC {
            for _ in 0..1 + u64::from(self.chance.one_in(4)) {
                let units = vec![stored.unit];
                let first = stored.queue_offset;
                life.scheduler
                    .send(UnitsScheduled { queue_id: stored.queue_id, first, units })
                    .await
                    .unwrap();
            }
        }
        true
    }

    /// Nothing fails any more, and all that waits becomes due.
    async fn finish(&mut self, life: &mut Life) {
        let latest_ms = self.waiting.values().map(|waiting| waiting.due_ms).max().unwrap_or(0);
        self.set_clock(latest_ms.max(self.clock.now().0));
        for _ in 0..30 {
            settle().await;
            while self.write(life, false) || self.dispatch(life).await {
                settle().await;
            }
            self.pass(1_000).await;
        }
        self.hear(life).await;
        assert!(life.answers.is_empty(), "every send-back is answered");
    }

    fn check_all(&self) {
        for (attempt, back) in &self.backs {
            let answered = u64::from(matches!(back.outcome, Some(Ok(()))));
            let refused = matches!(back.outcome, Some(Err(_)));
            let (once, never) = if back.dies { (back.died, back.came) } else { (back.came, back.died) };
            let most = match (refused, back.dies) {
                (true, _) => 0,
                (false, true) => 1,
                (false, false) => 1 + self.crashes,
            };
            assert!(
                (answered..=most).contains(&once) && never == 0,
                "{attempt:?}: {back:?}, {} crashes",
                self.crashes
            );
        }
    }
}
