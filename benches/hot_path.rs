//! What each step on the way of a message costs by itself. Each bench opens with its question and its last answer;
//! `cargo bench` asks again, and `cargo test` runs every step once.
//!
//! Answers are of 2026-11-22, on two noisy cores (virtual, AMD EPYC), other programs stopped: the middle estimate.

mod frames;

use std::hint::black_box;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput};
use frames::send_frame;
use telstar::actors::extensions::stream::EventTap;
use telstar::actors::offset_table::{OffsetKey, OffsetTable};
use telstar::actors::output::Output;
use telstar::actors::request::{Kept, Reply, ReplyContent, ReplyTo, StoredReply};
use telstar::clock::WallMs;
use telstar::extension::EventKind;
use telstar::filter::{FilterRules, SqlFilter};
use telstar::protocol::command::Command;
use telstar::protocol::frame::{HeaderCodec, MAX_FRAME_BYTES, NextFrame, next_frame};
use telstar::protocol::header::SendHeader;
use telstar::protocol::message::PendingMessage;
use telstar::protocol::properties::{self, names};
use telstar::store::commit_log::CommitLog;
use telstar::store::consume_queue::{ConsumeQueue, ConsumeQueueConfig, ConsumeQueueUnit};
use telstar::store::file::DiskFiles;
use telstar::store::key_index::{IndexFileConfig, KeyIndex, KeyWalk, WantedEntries};
use telstar::store::message_filter::{MessageFilter, TagFilter};
use telstar::store::recovery::{LastStop, open_commit_log};
use telstar::store::recovery_progress::RecoveryProgress;
use telstar::store::segment::SegmentDir;
use telstar::store::store_check_point::StoreCheckPoint;
use telstar::types::{PhysicalOffset, QueueId, QueueOffset};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BODY_BYTES: usize = 1024;
const SEGMENT_BYTES: u64 = 64 << 20;
const CODECS: [(&str, HeaderCodec); 2] = [("json", HeaderCodec::Json), ("rocketmq", HeaderCodec::Binary)];

fn main() {
    // Among the tests, arguments for their harness come here too; criterion would not know these.
    if std::env::args().any(|arg| arg.starts_with("--test-threads") || arg.starts_with("--skip")) {
        return;
    }
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    decode_send(&mut criterion);
    encode_send_response(&mut criterion);
    encode_record(&mut criterion);
    append(&mut criterion);
    dispatch(&mut criterion);
    filter(&mut criterion);
    consume_queue(&mut criterion);
    key_index(&mut criterion);
    key_query(&mut criterion);
    offset_commit(&mut criterion);
    actor_hop(&mut criterion);
    events_nobody_wants(&mut criterion);
    criterion.final_summary();
}

fn host() -> SocketAddr {
    ([127, 0, 0, 1], 10911).into()
}

fn property_text() -> Bytes {
    let pairs = [
        (names::KEYS, "order-4711"),
        (names::UNIQ_KEY, "7F0000011234000000070000000F0001"),
        (names::WAIT, "true"),
        (names::TAGS, "created"),
    ];
    properties::encode(pairs)
}

/// A message whose record has 1024 bytes of body.
fn message() -> PendingMessage {
    PendingMessage {
        topic: "orders".into(),
        queue_id: QueueId(0),
        flag: 0,
        sys_flag: 0,
        born_at_ms: 1,
        born_host: host(),
        store_host: host(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: Bytes::from(vec![b'x'; BODY_BYTES]),
        properties: property_text(),
        extra_properties: Bytes::new(),
    }
}

fn new_log(dir: &Path) -> CommitLog {
    let dir = SegmentDir { files: DiskFiles::shared(), dir: dir.to_owned(), segment_bytes: SEGMENT_BYTES };
    open_commit_log(dir, &StoreCheckPoint::default(), LastStop::Clean, &RecoveryProgress::default())
        .expect("an empty log opens")
        .0
}

/// How long does a connection take to make a typed send of the bytes of a frame?
///
/// 1.46 µs with a JSON header, 0.80 µs with one of RocketMQ's own.
fn decode_send(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode send");
    for (name, codec) in CODECS {
        let frame = send_frame(codec, "orders", 16, 3, &property_text(), BODY_BYTES);
        group.bench_function(name, |bencher| {
            let decode = |mut input: BytesMut| {
                let Ok(NextFrame::Whole(frame)) = next_frame(&mut input, MAX_FRAME_BYTES) else {
                    panic!("a whole frame was written");
                };
                let command = Command::decode(frame).expect("the header was written by us");
                let header = SendHeader::from_short_names(&command.fields).expect("every field is there");
                assert_eq!(header.queue_id, 3);
                command
            };
            bencher.iter_batched(|| frame.clone(), decode, BatchSize::SmallInput);
        });
    }
}

/// How long does a connection take to write the response to a send into its output?
///
/// 0.52 µs with a JSON header, 0.48 µs with one of RocketMQ's own.
fn encode_send_response(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode send response");
    for (name, codec) in CODECS {
        let unique_key = Bytes::from_static(b"7F0000011234000000070000000F0001");
        let stored = || StoredReply {
            kept: Kept::Promised,
            queue_id: QueueId(3),
            queue_offset: QueueOffset(123_456),
            physical_offsets: vec![PhysicalOffset(9_876_543_210)],
            store_host: host(),
            unique_key: Some(unique_key.clone()),
            recall_handle: None,
        };
        let to = ReplyTo { opaque: 7, codec, one_way: false, cost_bytes: 1280, is_send: true };
        let mut output = Output::default();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                output.put_reply(Reply { to, content: ReplyContent::Stored(stored()) });
                output.advance(black_box(output.len_bytes()));
            });
        });
    }
}

/// How long does it take to make a record with 1 KB of body, its checksum included?
///
/// 76 ns.
fn encode_record(criterion: &mut Criterion) {
    let message = message();
    let mut record = vec![0; message.record_len()];
    let mut group = criterion.benchmark_group("encode record");
    group.throughput(Throughput::Bytes(record.len() as u64));
    group.bench_function("1 KB", |bencher| {
        bencher.iter(|| {
            message.encode_into(black_box(&mut record), QueueOffset(1), PhysicalOffset(2), WallMs(3));
        });
    });
}

/// How many records with 1 KB of body can be appended to the log, published 32 at a time, the making of segments
/// included?
///
/// 1,100,000 a second: 0.90 µs for a record.
fn append(criterion: &mut Criterion) {
    const BATCH: usize = 32;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let CommitLog { mut appender, .. } = new_log(dir.path());
    let messages = [message()];
    let mut next = QueueOffset(0);
    let mut group = criterion.benchmark_group("append");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("32 records", |bencher| {
        bencher.iter(|| {
            for _ in 0..BATCH {
                appender.append(&messages, next, WallMs(1)).expect("there is room");
                next = next.advance(1);
            }
            let end = appender.publish().expect("room");
            if end.0 % SEGMENT_BYTES < 40 * BODY_BYTES as u64 {
                appender.delete_before(end, usize::MAX).expect("old segments go");
            }
        });
    });
}

/// How long does the dispatcher take for a record, up to the unit it makes of it?
///
/// 0.25 µs.
fn dispatch(criterion: &mut Criterion) {
    const RECORDS: u64 = 16_384;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let CommitLog { mut appender, reader, .. } = new_log(dir.path());
    let messages = [message()];
    for offset in 0..RECORDS {
        appender.append(&messages, QueueOffset(offset), WallMs(1)).expect("there is room");
    }
    appender.publish().expect("room");
    let mut units = Vec::with_capacity(RECORDS as usize);
    let mut group = criterion.benchmark_group("dispatch");
    group.throughput(Throughput::Elements(RECORDS));
    group.bench_function("16384 records", |bencher| {
        bencher.iter(|| {
            units.clear();
            let read = reader.for_each_record(PhysicalOffset(0), u64::MAX, |at, record| {
                let tag = properties::get(record.properties(), names::TAGS);
                units.push(ConsumeQueueUnit {
                    physical_offset: at,
                    size_bytes: record.total_len() as u32,
                    tags_code: properties::tags_code(tag),
                });
            });
            read.expect("the log is whole");
            assert_eq!(units.len() as u64, RECORDS);
        });
    });
}

/// What does a message cost that a filter looks at?
///
/// 74 ns by its tag; by a condition 104 ns with one property, 217 ns with three, and 0.79 µs with a field of a JSON body.
fn filter(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut log = new_log(dir.path());
    let body = br#"{"order":"o-1","price":12.5,"items":[{"id":"x-1"},{"id":"x-2"}],"note":"nothing much"}"#;
    let body = Bytes::from_static(body);
    let appended = log
        .appender
        .append(&[PendingMessage { body, ..message() }], QueueOffset(0), WallMs(1))
        .expect("room");
    log.appender.publish().expect("memory");
    let tags_code = properties::tags_code(Some("created"));
    let unit = ConsumeQueueUnit { physical_offset: appended.start, size_bytes: 0, tags_code };
    let sql = |condition| {
        let filter = SqlFilter::compile(condition, &FilterRules::default()).expect("a condition");
        MessageFilter::Sql(Arc::new(filter))
    };
    let filters = [
        ("tag", MessageFilter::Tags(Arc::new(TagFilter::new(["created".to_owned()])))),
        ("sql, one property", sql("TAGS = 'created'")),
        (
            "sql, three properties",
            sql("TAGS IN ('created', 'paid') AND KEYS IS NOT NULL AND missing IS NULL"),
        ),
        ("sql, body", sql("body.price > 10 AND body.items[1].id = 'x-2'")),
    ];
    let mut group = criterion.benchmark_group("filter");
    for (name, filter) in filters {
        assert!(filter.look_at(&log.reader, &unit).matches, "{name}");
        group.bench_function(name, |bencher| bencher.iter(|| black_box(filter.look_at(&log.reader, &unit))));
    }
    group.finish();
}

/// How long does a queue take to append the 32 units of one dispatch, and to read 32 for a pull?
///
/// 0.76 µs to append 32, and 0.59 µs to read them. With a write for each dispatch, before units were gathered in memory, 1.76 µs to
/// append; 0.76 µs to read out of a file.
fn consume_queue(criterion: &mut Criterion) {
    const UNITS: usize = 32;
    const KEPT: u64 = 1_000_000;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = ConsumeQueueConfig::default();
    let opened = ConsumeQueue::open(DiskFiles::shared(), dir.path().join("0"), config, None);
    let mut queue = opened.expect("an empty queue opens");
    let unit_at = |offset: u64| ConsumeQueueUnit {
        physical_offset: PhysicalOffset(offset * 1200),
        size_bytes: 1200,
        tags_code: 42,
    };
    let append = |queue: &mut ConsumeQueue| {
        let first = queue.max_offset();
        let units: [_; UNITS] = std::array::from_fn(|n| unit_at(first.0 + n as u64));
        queue.append(first, &units).expect("there is room");
        if first.0 % KEPT < UNITS as u64 {
            queue.delete_before(unit_at(first.0).physical_offset).expect("old units go");
        }
    };
    append(&mut queue);
    let mut group = criterion.benchmark_group("consume queue");
    group.throughput(Throughput::Elements(UNITS as u64));
    group.bench_function("append 32 units", |bencher| bencher.iter(|| append(&mut queue)));
    let mut units = Vec::with_capacity(UNITS);
    group.bench_function("read 32 units", |bencher| {
        let from = queue.min_offset(); // in a file by now, where it was not appended a moment ago
        bencher.iter(|| {
            units.clear();
            queue.read(from, UNITS, &mut units).expect("the units are there");
            assert_eq!(units.len(), UNITS);
        });
    });
}

/// How long does the key index take for one key, in files of a tenth of the usual size?
///
/// 55 ns.
fn key_index(criterion: &mut Criterion) {
    let config = IndexFileConfig { slots: 500_000, entries: 2_000_000 };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let opened = KeyIndex::open(DiskFiles::shared(), dir.path().join("index"), config, None);
    let mut index = opened.expect("an empty index opens");
    let mut count = 0u32;
    criterion.bench_function("key index put", |bencher| {
        bencher.iter(|| {
            count += 1;
            // Spread as the hashes of real keys are.
            let hash = count.wrapping_mul(2_654_435_769) >> 1;
            let at = PhysicalOffset(u64::from(count) * 1200);
            index.put_hash(hash, at, 1_700_000_000_000).expect("there is room");
            if count.is_multiple_of(config.entries) {
                index.delete_before(at).expect("old files go");
            }
        });
    });
}

/// How long does it take to find one of a million keys in a file of a tenth of the usual size, which is as full as a
/// usual one with ten million?
///
/// 0.50 µs. A dev build on two cores, with ten million keys in one file of the usual size,
/// all of it in memory: 1.3 µs at the median, 2.5 µs for 99 of 100, 18 ms at most of a million.
fn key_query(criterion: &mut Criterion) {
    const KEYS: u32 = 1_000_000;
    let config = IndexFileConfig { slots: 500_000, entries: 2 * KEYS };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let opened = KeyIndex::open(DiskFiles::shared(), dir.path().join("index"), config, None);
    let mut index = opened.expect("an empty index opens");
    let hash_of = |n: u32| n.wrapping_mul(2_654_435_769) >> 1;
    for n in 0..KEYS {
        let at = PhysicalOffset(u64::from(n) * 1200);
        index.put_hash(hash_of(n), at, 1_700_000_000_000).expect("there is room");
    }
    let mut n = 0u32;
    criterion.bench_function("key index query", |bencher| {
        bencher.iter(|| {
            n = n.wrapping_add(7_919);
            let wanted =
                WantedEntries { hash: hash_of(n % KEYS), stored_at_ms: 0..=i64::MAX, before: None, max: 32 };
            let mut walk = KeyWalk::new(wanted);
            assert!(index.walk(&mut walk, usize::MAX));
            let found = walk.into_found();
            assert!(!found.is_empty());
            found
        });
    });
}

/// How long does a commit of a consumer offset take in the table of a group with a thousand queues, when each commit is a
/// progress that is to be saved later?
///
/// 0.15 µs.
fn offset_commit(criterion: &mut Criterion) {
    const QUEUES: u32 = 1000;
    let mut table = OffsetTable::default();
    let mut commits = 0u64;
    criterion.bench_function("offset commit", |bencher| {
        bencher.iter(|| {
            commits += 1;
            let queue_id = QueueId(commits as u32 % QUEUES);
            let key = OffsetKey { group: "shop".into(), topic: "orders".into(), queue_id };
            let offset = QueueOffset(commits / u64::from(QUEUES));
            black_box(table.commit(key, offset, WallMs(commits as i64)));
            if commits.is_multiple_of(u64::from(QUEUES)) {
                table.take_unsaved(QUEUES as usize);
            }
        });
    });
}

#[derive(Message)]
#[rtype(result = "u64")]
struct Ping(u64);

struct Counter {
    sum: u64,
}

impl Actor for Counter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(4096);
    }
}

impl Handler<Ping> for Counter {
    type Result = u64;

    fn handle(&mut self, Ping(number): Ping, _: &mut Self::Context) -> u64 {
        self.sum += number;
        self.sum
    }
}

/// What does a message to an actor on another thread cost: there and back alone, and as one of 1024 on their way
/// together, of which the last is answered?
///
/// 5.4 µs there and back, and 69 ns as one of 1024.
fn actor_hop(criterion: &mut Criterion) {
    const TOGETHER: u64 = 1024;
    let system = System::new();
    let arbiter = Arbiter::new();
    let counter = Counter::start_in_arbiter(&arbiter.handle(), |_| Counter { sum: 0 });
    let mut group = criterion.benchmark_group("actor hop");
    group.bench_function("there and back", |bencher| {
        bencher.iter_custom(|iterations| {
            system.block_on(async {
                let begun = Instant::now();
                for number in 0..iterations {
                    black_box(counter.send(Ping(number)).await.expect("the counter lives"));
                }
                begun.elapsed()
            })
        });
    });
    group.throughput(Throughput::Elements(TOGETHER));
    group.bench_function("1024 together", |bencher| {
        bencher.iter_custom(|iterations| {
            system.block_on(async {
                let begun = Instant::now();
                for _ in 0..iterations {
                    for number in 1..TOGETHER {
                        counter.try_send(Ping(number)).expect("there is room for all of them");
                    }
                    black_box(counter.send(Ping(TOGETHER)).await.expect("the counter lives"));
                }
                begun.elapsed()
            })
        });
    });
    arbiter.stop();
}

/// What does a turn of a queue pay for events of its messages while nobody listens?
///
/// 3.5 ns: less than a thousandth of what a message of 10 bytes costs, were it alone in its turn.
fn events_nobody_wants(criterion: &mut Criterion) {
    let tap = EventTap::default();
    criterion.bench_function("events nobody wants", |bencher| {
        bencher.iter(|| {
            let tap = black_box(&tap);
            black_box(tap.holds_queues() | tap.wants(EventKind::MessageStored))
        });
    });
}
