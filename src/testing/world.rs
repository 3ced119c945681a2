//! What seeded worlds share: chance, the run of many seeds, and a log whose writer and dispatcher are played by the test.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{Mutex, PoisonError};

use super::log::{TestLog, queue_of};
use crate::actors::commit_log_writer::{AppendBatch, BatchAppended, StoredSend};
use crate::actors::topic_queue::Dispatched;
use crate::actors::topic_table::TopicTable;
use crate::clock::WallMs;
use crate::error::Refusal;
use crate::protocol::message::PendingMessage;
use crate::store::consume_queue::ConsumeQueueUnit;
use crate::types::{QueueId, QueueOffset, TopicName};

/// xorshift64*: small, seeded, the same everywhere.
///
/// ```
/// use telstar::testing::world::Chance;
///
/// let mut chance = Chance::of_seed(17);
/// let rolls: Vec<u64> = (0..100).map(|_| chance.below(6)).collect();
/// assert!(rolls.iter().all(|roll| *roll < 6));
/// let mut again = Chance::of_seed(17);
/// assert!(rolls.iter().all(|roll| again.below(6) == *roll));
/// ```
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Default for Chance {
    fn default() -> Self {
        Self::of_seed(0)
    }
}

impl Chance {
    /// The same seed, the same chance.
    pub fn of_seed(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// In `[0, bound)`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }

    /// True once in `bound` times.
    pub fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    /// In `[-bound, bound)`.
    pub fn around(&mut self, bound: i64) -> i64 {
        self.below(2 * bound as u64) as i64 - bound
    }
}

/// Runs a world for each seed: as many as the variable `NAME_SEEDS` says, or the one of `NAME_SEED`. A failure names
/// its seed.
///
/// ```
/// use telstar::testing::world::{Chance, each_seed};
///
/// each_seed("SHOP", 20, |seed| {
///     let mut chance = Chance::of_seed(seed);
///     let mut stock = 100;
///     while stock > 0 {
///         stock -= chance.below(10).min(stock); // somebody buys something
///         if chance.one_in(5) {
///             stock = stock.saturating_sub(1); // and at times something breaks
///         }
///     }
///     assert_eq!(stock, 0);
/// });
/// ```
pub fn each_seed(name: &str, seeds: u64, world: impl Fn(u64) + UnwindSafe + RefUnwindSafe) {
    for seed in chosen(name, seeds) {
        run_seed(name, seed, &world);
    }
}

/// As [`each_seed`], on all cores: for worlds that have nothing in common.
///
/// ```
/// use telstar::testing::world::{Chance, each_seed_on_all_cores};
///
/// each_seed_on_all_cores("SORT", 50, |seed| {
///     let mut chance = Chance::of_seed(seed);
///     let mut numbers: Vec<i64> = (0..chance.below(20)).map(|_| chance.around(100)).collect();
///     numbers.sort_unstable();
///     assert!(numbers.is_sorted());
/// });
/// ```
pub fn each_seed_on_all_cores(name: &str, seeds: u64, world: impl Fn(u64) + Sync + RefUnwindSafe) {
    let seeds = Mutex::new(chosen(name, seeds));
    let next = || seeds.lock().unwrap_or_else(PoisonError::into_inner).next();
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(seed) = next() {
                    run_seed(name, seed, &world);
                }
            });
        }
    });
}

fn chosen(name: &str, seeds: u64) -> Range<u64> {
    let variable = |name: String| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match variable(format!("{name}_SEED")) {
        Some(seed) => seed..seed + 1,
        None => 0..variable(format!("{name}_SEEDS")).unwrap_or(seeds),
    }
}

fn run_seed(name: &str, seed: u64, world: &(impl Fn(u64) + RefUnwindSafe)) {
    let outcome = std::panic::catch_unwind(|| world(seed));
    assert!(outcome.is_ok(), "the world of {name}_SEED={seed} failed, see above");
}

/// A message that was stored, as the dispatcher finds it.
#[derive(Clone, Debug)]
#[doc(hidden)]
pub struct StoredUnit {
    /// Where it lies.
    pub topic: TopicName,
    /// Where it lies.
    pub queue_id: QueueId,
    /// Its number.
    pub queue_offset: QueueOffset,
    /// What its consume queue has of it.
    pub unit: ConsumeQueueUnit,
    /// When it was stored.
    pub stored_at_ms: i64,
}

/// A log in memory that outlives the actors over it. What the writer and the dispatcher do, the test does when it likes.
#[derive(Default)]
#[doc(hidden)]
pub struct PlayedLog {
    /// The log.
    pub log: TestLog,
    undispatched: VecDeque<StoredUnit>,
}

impl PlayedLog {
    /// Stores a batch and answers its queue; returns what was stored. `tags_code` is that of the unit.
    pub fn store(
        &mut self,
        batch: AppendBatch,
        at: WallMs,
        tags_code: impl Fn(&PendingMessage) -> i64,
    ) -> Vec<(PendingMessage, StoredUnit)> {
        let mut next = batch.first_queue_offset;
        let (mut outcomes, mut stored) = (Vec::new(), Vec::new());
        for send in batch.sends {
            let first_queue_offset = next;
            let mut physical_offsets = Vec::new();
            let mut end = None;
            for message in send {
                let appended = self.log.append_at(message.clone(), next.0, at);
                let unit = StoredUnit {
                    topic: message.topic.clone(),
                    queue_id: message.queue_id,
                    queue_offset: next,
                    unit: TestLog::unit(&appended, tags_code(&message)),
                    stored_at_ms: at.0,
                };
                next = next.advance(1);
                physical_offsets.push(appended.start);
                end = Some(appended.end);
                self.undispatched.push_back(unit.clone());
                stored.push((message, unit));
            }
            outcomes.push(Ok(StoredSend {
                first_queue_offset,
                physical_offsets,
                end: end.expect("a send has messages"),
                stored_at_ms: at.0,
            }));
        }
        batch.reply_to.do_send(BatchAppended { outcomes, next_queue_offset: next, stored_bytes: 1 });
        stored
    }

    /// Hands the oldest stored message to its queue; returns it.
    pub async fn dispatch_one(&mut self, topics: &TopicTable) -> Option<StoredUnit> {
        let stored = self.undispatched.pop_front()?;
        let dispatched = Dispatched {
            first: stored.queue_offset,
            units: vec![stored.unit],
            last_stored_at_ms: stored.stored_at_ms,
        };
        let queue = queue_of(topics, &stored.topic, stored.queue_id.0);
        queue.send(dispatched).await.expect("the queue lives");
        Some(stored)
    }
}

/// Refuses a batch as a writer whose disk is full does: nothing of it is stored.
#[doc(hidden)]
pub fn refuse(batch: AppendBatch) {
    let full = || Err(Refusal::NotWritable { cause: "full".into() });
    batch.reply_to.do_send(BatchAppended {
        outcomes: batch.sends.iter().map(|_| full()).collect(),
        next_queue_offset: batch.first_queue_offset,
        stored_bytes: 0,
    });
}
