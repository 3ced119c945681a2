//! Seeded simulation of the store's actors over a disk that forgets: what was promised is there after every end.
//!
//! A world is one disk and a few lives. In each life the real writer, flusher, dispatcher and queues start on what
//! recovery finds, messages are sent, things fail, and the life ends: by a stop, by a kill (what was written is
//! there), or by a loss of power (of what was not flushed, any 512 bytes may be there or not). After each start:
//!
//! 1. Queue offsets have no gap, every unit names the record of its queue, number and place, whose body is whole.
//! 2. A message is there at most once, in the order of its queue; one that was refused is not there.
//! 3. Every message whose answer promised the disk is there, where the answer said; after a stop or a kill every
//!    message that was answered.
//! 4. What a consumer of a safe topic has seen is there.
//! 5. What is left of a life is the beginning of what it stored, and stays for all lives to come.
//!
//! `POWER_LOSS_SEEDS=10000 cargo test power_loss` runs more worlds; a failure names its seed, and
//! `POWER_LOSS_SEED=…` runs that one again.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::commit_log_writer::{
    AppendBatch, BusyRules, BusyWriter, CommitLogWriter, FlushAtRest, Helpers, PublishedSignal, QueryLogTail,
    StoredSend, WriteHalf,
};
use super::dispatcher::{Damaged, DispatchTo, Dispatcher, DispatcherParts};
use super::extensions::stream::EventTap;
use super::facts::Progress;
use super::flusher::{CheckPointNow, DiskFailed, FlushNow, Flusher, FlusherConfig, FlusherParts};
use super::log_flush::LogFlush;
use super::message_expiry::MessageExpiry;
use super::topic_queue::{
    MessageStored, Promise, QueueParts, ReadUnits, SendMessages, SendReply, SendRequest, TopicQueueConfig,
};
use super::topic_table::TopicTable;
use crate::actors::broker_stats::{CountTraffic, StoreCounters};
use crate::error::Refusal;
use crate::protocol::attributes::FLUSH_DISK_TYPE;
use crate::protocol::delay_level::DelayLevels;
use crate::protocol::message::RecordView;
use crate::protocol::topic_config::TopicConfig;
use crate::store::commit_log::{CommitLogReader, LogTail};
use crate::store::consume_queue::{ConsumeQueueConfig, truncate_queues};
use crate::store::known_derived::KnownDerived;
use crate::store::memory_files::{FileOperation, MemoryFiles};
use crate::store::metadata::Metadata;
use crate::store::open_files::OpenFiles;
use crate::store::recovery::{LastStop, open_commit_log};
use crate::store::recovery_progress::RecoveryProgress;
use crate::store::segment::SegmentDir;
use crate::store::store_check_point::CheckPointFile;
use crate::testing::log::{SEGMENT_BYTES, message, queue_of, store_host, topic_table_of};
use crate::testing::world::{Chance, each_seed};
use crate::testing::{RuntimeClock, Taken, fake_sink};
use crate::types::{FlushMode, PhysicalOffset, QueueId, QueueOffset};

const ROOT: &str = "/store";
/// Topic and number of each queue. Consumers of `safe` see only what is on disk.
const QUEUES: [(&str, u32); 3] = [("plain", 0), ("plain", 1), ("safe", 0)];
const LIVES: u64 = 4;
const SEEDS: u64 = 200;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    Stop,
    Kill,
    PowerLoss,
}

/// A message that was sent in the present life.
struct Sent {
    queue: usize,
    promise: Promise,
    outcome: Option<Result<StoredSend, Refusal>>,
}

struct World {
    files: MemoryFiles,
    chance: Chance,
    next_id: u64,
    /// By queue, what earlier lives have left for good.
    settled: Vec<Vec<u64>>,
    sent: HashMap<u64, Sent>,
    /// By queue, how many messages a consumer has seen.
    seen: Vec<usize>,
}

#[test]
fn what_was_promised_survives_every_end() {
    each_seed("POWER_LOSS", SEEDS, run_world);
}

fn run_world(seed: u64) {
    let mut world = World {
        files: MemoryFiles::new(),
        chance: Chance::of_seed(seed),
        next_id: 0,
        settled: vec![Vec::new(); QUEUES.len()],
        sent: HashMap::new(),
        seen: vec![0; QUEUES.len()],
    };
    let mut last = Ending::Stop;
    for _ in 0..LIVES {
        // A system of its own, so that every actor of a life ends with it.
        last = System::new().block_on(live(&mut world, last));
        if last == Ending::PowerLoss {
            let seed = world.chance.below(u64::MAX);
            world.files.crash_torn(seed);
        }
    }
    System::new().block_on(async {
        let life = Life::start(&world.files, last).await;
        world.check(&life, last).await;
    });
}

/// One life: checks what the last one left, then sends and fails until it ends.
async fn live(world: &mut World, last: Ending) -> Ending {
    tokio::time::pause();
    let mut life = Life::start(&world.files, last).await;
    world.files.write_takes(world.chance.below(5) as usize);
    world.check(&life, last).await;
    for _ in 0..10 + world.chance.below(60) {
        match world.chance.below(20) {
            0..=9 => world.send(&life),
            10..=12 => life.pause(world.chance.below(12)).await,
            13 => tokio::time::advance(Duration::from_millis(world.chance.below(700))).await,
            14 => drop(life.flusher.send(FlushNow).await),
            15 => drop(life.flusher.send(CheckPointNow).await),
            16 => world.look(&life).await,
            17 if world.chance.one_in(4) => world.break_something(),
            17 => world.files.set_capacity(None),
            _ => life.pause(1).await,
        }
        world.take_outcomes(&mut life);
        if life.failures.try_recv().is_ok() {
            break; // the process ends at once
        }
    }
    if world.chance.one_in(2) {
        world.look(&life).await; // also after the disk has failed: consumers are there to the end
    }
    world.files.set_capacity(None);
    let ending = match world.chance.below(4) {
        0 => Ending::Kill,
        1 if life.stop(&world.files).await => Ending::Stop,
        _ => Ending::PowerLoss,
    };
    world.take_outcomes(&mut life);
    ending
}

/// The actors of the store, on what recovery found.
struct Life {
    log: CommitLogReader,
    topics: TopicTable,
    writer: Addr<CommitLogWriter>,
    flusher: Addr<Flusher>,
    dispatcher: Addr<Dispatcher>,
    stored: Recipient<MessageStored>,
    outcomes: Taken<MessageStored>,
    failures: Taken<DiskFailed>,
}

impl Life {
    async fn start(files: &MemoryFiles, last: Ending) -> Self {
        files.fail_nothing();
        let shared: Arc<dyn crate::store::file::StoreFiles> = Arc::new(files.clone());
        shared.create_dir_all(Path::new(ROOT)).unwrap();
        let (check_point_file, check_point) = CheckPointFile::open(files, Path::new(ROOT)).unwrap();
        let dir = SegmentDir {
            files: shared.clone(),
            dir: PathBuf::from(ROOT).join("commitlog"),
            segment_bytes: SEGMENT_BYTES,
        };
        let last_stop = if last == Ending::Stop { LastStop::Clean } else { LastStop::Unclean };
        let (log, recovered) =
            open_commit_log(dir, &check_point, last_stop, &RecoveryProgress::default()).unwrap();
        let unclean = last_stop == LastStop::Unclean;
        let truncate_at =
            (recovered.dispatch_from < recovered.log_end || unclean).then_some(recovered.dispatch_from);
        let reader = log.reader.clone();
        let consume_queue_root = PathBuf::from(ROOT).join("consumequeue");
        let units = ConsumeQueueConfig { segment_units: 8, max_unwritten_units: 3 };
        if let Some(at) = truncate_at {
            truncate_queues(&shared, files, &consume_queue_root, units, at).unwrap();
        }

        // The queues know the writer and the writer the dispatcher, which knows the queues; the mailbox between is
        // as the one of the running broker: a table of topics that starts queues on demand.
        let (to_writer, mut batches) = fake_sink::<AppendBatch>();
        // Less than there are queues.
        let open_files = OpenFiles::new(shared.clone(), Arc::new(files.clone()), 2);
        let parts = QueueParts {
            files: Arc::new(open_files),
            consume_queue_root,
            log: reader.clone(),
            writer: to_writer,
            store_host: store_host(),
            config: TopicQueueConfig { units, ..TopicQueueConfig::default() },
            counters: Arc::new(StoreCounters::default()),
            stats: fake_sink::<CountTraffic>().0,
            expiry: MessageExpiry::default(),
            losses: None,
            events: EventTap::default(),
            compaction: None,
            pace: Arc::default(),
        };
        let mut safe = TopicConfig::new("safe", 1);
        safe.attributes.insert(FLUSH_DISK_TYPE.into(), "SYNC_FLUSH".into());
        let topics = topic_table_of([TopicConfig::new("plain", 2), safe], &parts);

        let progress = Progress::default();
        progress.set_flushed(recovered.log_end);
        let signal = PublishedSignal::default();
        let mut from = log.appender.tail();
        if recovered.dispatch_from < from.end {
            from = LogTail { end: recovered.dispatch_from, ..check_point.dispatched.unwrap_or_default() };
        }
        let dispatcher = Dispatcher::new(
            DispatcherParts {
                log: reader.clone(),
                signal: signal.clone(),
                topics: topics.clone(),
                key_index: None,
                scheduled: None,
                transactions: None,
                timers: None,
                delay_levels: DelayLevels::default(),
                flush: FlushMode::Async,
                progress: progress.clone(),
                catch_up: None,
                damaged: Damaged::new(),
                mailbox_capacity: 64,
            },
            from,
        )
        .start();
        let (failed, failures) = fake_sink::<DiskFailed>();
        let flush = LogFlush::new(reader.clone(), progress.clone());
        let flusher = Flusher::new(FlusherParts {
            file_system: shared.file_system(Path::new(ROOT)).unwrap(),
            files: shared,
            log: reader.clone(),
            flush: flush.clone(),
            preparer: log.preparer,
            check_point_file,
            check_point,
            known: KnownDerived::open(&Metadata::temporary().unwrap()).unwrap(),
            dispatcher: dispatcher.clone().recipient(),
            dispatch: dispatcher.clone().recipient(),
            failed,
            key_index: None,
            timers: None,
            progress,
            config: FlusherConfig::default(),
        })
        .start();
        let dispatch = dispatcher.clone().recipient();
        let at_rest = FlushAtRest::new(flush, flusher.clone().recipient(), dispatch, signal.clone());
        let half = WriteHalf::new(
            log.appender,
            dispatcher.clone().recipient(),
            flusher.clone().recipient(),
            signal,
            RuntimeClock::shared(),
        );
        let rules = BusyRules { crowd: 2, crowded_turns: 1, lone_turns: 1 }; // there and back all the time
        let helpers = Helpers { busy: BusyWriter::new(rules, 64).start(), at_rest };
        let writer = CommitLogWriter::new(half, Some(helpers), rules, 64).start();
        let passing = writer.clone();
        actix::spawn(async move {
            while let Some(batch) = batches.recv().await {
                passing.do_send(batch);
            }
        });
        dispatcher.send(DispatchTo(recovered.log_end)).await.unwrap();
        let (stored, outcomes) = fake_sink::<MessageStored>();
        Self { log: reader, topics, writer, flusher, dispatcher, stored, outcomes, failures }
    }

    /// Lets the actors have some turns.
    async fn pause(&self, turns: u64) {
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }

    /// Ends in order, as the broker does; false when something stands in the way.
    async fn stop(&mut self, files: &MemoryFiles) -> bool {
        files.fail_nothing();
        self.pause(100).await;
        let tail = self.writer.send(QueryLogTail).await.flatten().unwrap();
        if self.flusher.send(FlushNow).await.unwrap().is_err() {
            return false;
        }
        self.dispatcher.send(DispatchTo(tail.end)).await.unwrap();
        // A queue that waits for the disk tries again each second.
        for _ in 0..5 {
            if self.flusher.send(CheckPointNow).await.unwrap().is_ok() {
                return true;
            }
            tokio::time::advance(Duration::from_millis(1_100)).await;
            self.pause(20).await;
        }
        false
    }

    /// The messages of a queue, each checked against the record it names.
    async fn messages(&self, queue: usize) -> Vec<u64> {
        let (topic, queue_id) = QUEUES[queue];
        let ask = ReadUnits { offset: QueueOffset(0), max: 10_000 };
        let units = queue_of(&self.topics, topic, queue_id).send(ask).await.unwrap();
        let id_of = |number: usize, record: RecordView<'_>| {
            assert_eq!((record.topic(), record.queue_id().0), (topic, queue_id), "the unit names a stranger");
            assert_eq!(record.queue_offset().0, number as u64, "{topic} {queue_id} has a gap");
            record.verify_crc().expect("a whole body");
            let body = std::str::from_utf8(record.body()).unwrap();
            body.split(' ').next().unwrap().parse().unwrap()
        };
        units
            .iter()
            .enumerate()
            .map(|(number, unit)| {
                let id = self.log.with_record(unit.physical_offset, |record| id_of(number, record));
                id.unwrap_or_else(|| panic!("unit {number} of {topic} {queue_id} names no record"))
            })
            .collect()
    }
}

impl World {
    fn send(&mut self, life: &Life) {
        let queue = self.chance.below(QUEUES.len() as u64) as usize;
        let (topic, queue_id) = QUEUES[queue];
        let sends = (0..1 + self.chance.below(4)).map(|_| {
            let id = self.next_id;
            self.next_id += 1;
            let promise = match (topic, self.chance.below(3)) {
                ("safe", 0) => Promise::StoredAndFlushing,
                ("safe", _) | (_, 0) => Promise::OnDisk,
                _ => Promise::Stored,
            };
            self.sent.insert(id, Sent { queue, promise, outcome: None });
            let len = if self.chance.one_in(6) { 6_000 } else { self.chance.below(400) } as usize;
            let body = format!("{id} {}", "x".repeat(len));
            let mut message = message(topic, &body);
            message.queue_id = QueueId(queue_id);
            let reply = SendReply::Actor { recipient: life.stored.clone(), token: id, told_late: false };
            SendRequest { messages: vec![message], promise, reply }
        });
        let sends: Vec<_> = sends.collect();
        queue_of(&life.topics, topic, queue_id).do_send(SendMessages(sends));
    }

    fn take_outcomes(&mut self, life: &mut Life) {
        while let Ok(MessageStored { token, outcome, .. }) = life.outcomes.try_recv() {
            let sent = self.sent.get_mut(&token).expect("it was sent in this life");
            assert!(sent.outcome.replace(outcome).is_none(), "message {token} was answered twice");
        }
    }

    /// A consumer reads the safe queue.
    async fn look(&mut self, life: &Life) {
        let safe = QUEUES.len() - 1;
        self.seen[safe] = self.seen[safe].max(life.messages(safe).await.len());
    }

    fn break_something(&mut self) {
        let kind = if self.chance.one_in(2) { ErrorKind::StorageFull } else { ErrorKind::Other };
        let after = self.chance.below(6) as usize;
        match self.chance.below(6) {
            0 => self.files.fail_after(FileOperation::Sync, after, ErrorKind::Other),
            5 => self.files.fail_after(FileOperation::BeginWrite, after, ErrorKind::Other),
            1 => self.files.fail_after(FileOperation::Create, after, kind),
            2 => self.files.set_capacity(Some(self.files.used_bytes() + self.chance.below(20_000))),
            _ => self.files.fail_after(FileOperation::Write, after, kind),
        }
    }

    async fn check(&mut self, life: &Life, last: Ending) {
        let mut found = Vec::new();
        for queue in 0..QUEUES.len() {
            let messages = life.messages(queue).await;
            let settled = &self.settled[queue];
            assert!(messages.starts_with(settled), "queue {queue} lost what was settled");
            assert!(messages.len() >= self.seen[queue], "queue {queue} lost what a consumer has seen");
            for id in &messages[settled.len()..] {
                let sent = self.sent.get(id).unwrap_or_else(|| panic!("message {id} is there twice"));
                assert_eq!(sent.queue, queue);
                assert!(!matches!(sent.outcome, Some(Err(_))), "message {id} was refused, and is there");
            }
            found.push(messages);
        }
        let ids: HashSet<u64> = found.iter().flatten().copied().collect();
        assert_eq!(ids.len(), found.iter().map(Vec::len).sum::<usize>(), "a message is there twice");
        let mut last_there = PhysicalOffset(0);
        let mut first_missing = None;
        for (id, sent) in &self.sent {
            let Some(Ok(stored)) = &sent.outcome else { continue };
            let offset = stored.first_queue_offset.0 as usize;
            let there = found[sent.queue].get(offset) == Some(id);
            assert_eq!(there, ids.contains(id), "message {id} is elsewhere than its answer said");
            let promised = last != Ending::PowerLoss || sent.promise == Promise::OnDisk;
            assert!(there || !promised, "message {id}, {:?}, is lost by {last:?}", sent.promise);
            if there {
                last_there = last_there.max(stored.end);
            } else if first_missing.is_none_or(|end| end > stored.end) {
                first_missing = Some(stored.end);
            }
        }
        assert!(first_missing.is_none_or(|missing| missing > last_there), "a hole in what is left");
        self.sent.clear();
        self.seen = found.iter().map(Vec::len).collect();
        self.settled = found;
    }
}
