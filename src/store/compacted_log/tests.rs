//! A compacted log against a list: whatever happens to it, of each key the latest message is there, and once it was
//! rewritten none that is not.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::clock::WallMs;
use crate::protocol::message::{PendingMessage, RecordView};
use crate::protocol::properties::{self, names as property};
use crate::store::commit_log::tests::message;
use crate::store::file::StoreFiles;
use crate::store::memory_files::{FileOperation, MemoryFiles};
use crate::store::message_filter::{MessageFilter, TagFilter};
use crate::store::pull::{PullLimits, PullStatus};
use crate::types::{PhysicalOffset, QueueId};

const SIZES: CompactedSizes = CompactedSizes { segment_bytes: 1200, index_bytes: 6 * 46 };
const KEYS: [&str; 4] = ["a", "b", "c d", "é"];

/// A message as it lies in the commit log: key, tag, length of its body.
fn keyed(offset: u64, key: &str, tag: Option<&str>, body_len: usize) -> KeyedRecord {
    let pairs = [(property::KEYS, key)].into_iter().chain(tag.map(|tag| (property::TAGS, tag)));
    let pending = PendingMessage { properties: properties::encode(pairs), ..message(&"x".repeat(body_len)) };
    let mut record = BytesMut::zeroed(pending.record_len());
    let stored_at_ms = 1_000 + offset as i64 * 10;
    pending.encode_into(
        &mut record,
        QueueOffset(offset),
        PhysicalOffset(offset * 1000),
        WallMs(stored_at_ms),
    );
    let tags_code = properties::tags_code(tag);
    KeyedRecord { record: record.freeze(), queue_offset: QueueOffset(offset), tags_code, stored_at_ms }
}

/// What is known without any file.
#[derive(Clone, Debug)]
struct Known {
    offset: u64,
    key: &'static str,
    has_body: bool,
}

/// One life after another over one disk. The commit log is a list.
struct World {
    files: MemoryFiles,
    compacted: CompactedLog,
    /// Everything that was ever in the queue.
    log: Vec<(Known, KeyedRecord)>,
    /// What is to be there.
    left: Vec<Known>,
    compacted_to: Option<QueueOffset>,
    /// The commit log begins here; what lies before is in no place but the compacted log.
    log_from: u64,
}

fn dirs(files: &MemoryFiles) -> CompactedDirs {
    CompactedDirs::of(Arc::new(files.clone()), Path::new("/store"), &"T".into(), QueueId(0))
}

fn open(files: &MemoryFiles, check: SegmentCheck, queue: QueueBounds) -> CompactedLog {
    CompactedLog::open(dirs(files), SIZES, check, queue).unwrap()
}

impl World {
    fn new() -> Self {
        let files = MemoryFiles::new();
        files.create_dir_all(Path::new("/store")).unwrap();
        let compacted = open(&files, SegmentCheck::Tail, QueueBounds::default());
        Self { files, compacted, log: Vec::new(), left: Vec::new(), compacted_to: None, log_from: 0 }
    }

    fn end(&self) -> u64 {
        self.log.len() as u64
    }

    fn append(&mut self, key: &'static str, body_len: usize) {
        let known = Known { offset: self.end(), key, has_body: body_len > 0 };
        let record = keyed(known.offset, key, None, body_len);
        self.log.push((known.clone(), record));
        self.left.push(known);
        self.copy();
    }

    /// Copies from the log what is not copied.
    fn copy(&mut self) {
        let from = self.compacted.copied_to().0.max(self.log_from) as usize;
        let records: Vec<KeyedRecord> =
            self.log[from.min(self.log.len())..].iter().map(|(_, record)| record.clone()).collect();
        // A disk that refuses is asked again later.
        let _ = self.compacted.append(&records);
    }

    fn reopen(&mut self, check: SegmentCheck) {
        let queue = QueueBounds { log_from: QueueOffset(self.log_from), end: Some(QueueOffset(self.end())) };
        self.compacted = open(&self.files, check, queue);
        self.compacted_to =
            self.compacted_to.filter(|position| self.compacted.can_be_compacted_to(*position));
        self.copy();
    }

    /// Brings everything to disk, and lets the log begin behind it.
    fn secure(&mut self) {
        for segment in self.compacted.segments() {
            if !segment.is_sealed() {
                segment.sync().unwrap();
            }
        }
        self.compacted.dirs().sync().unwrap();
        self.log_from = self.compacted.copied_to().0;
    }

    /// Returns whether the rewriting came to its end.
    fn rewrite(&mut self, memory_bytes: usize) -> bool {
        let (closed, boundary) = self.compacted.closed();
        let (dirs, sizes) = (self.compacted.dirs().clone(), self.compacted.sizes());
        let rewrite = Rewrite {
            dirs,
            sizes,
            closed,
            boundary,
            compacted_to: self.compacted_to,
            memory_bytes,
            cancelled: Arc::new(AtomicBool::new(false)),
        };
        match rewrite.run() {
            Ok(rewritten) => {
                self.compacted_to = rewritten.compacted_to;
                self.compacted.replace(rewritten.segments, boundary);
                true
            }
            Err(_) => false,
        }
    }

    /// Forgets what a rewriting through `through` takes away.
    fn compact_known(&mut self, through: Option<QueueOffset>) {
        let Some(QueueOffset(through)) = through else { return };
        let latest = |known: &Known, left: &[Known]| {
            let newer = |other: &&Known| other.key == known.key && other.offset > known.offset;
            !left.iter().filter(|other| other.offset <= through).any(|other| newer(&other))
        };
        let all = self.left.clone();
        self.left.retain(|known| known.offset > through || known.has_body && latest(known, &all));
    }

    fn offsets(&self) -> Vec<u64> {
        let mut offsets = Vec::new();
        self.compacted.walk(QueueOffset(0), |segment, unit| {
            let record = segment.record(&unit).unwrap();
            let view = RecordView::parse(&record).unwrap();
            assert_eq!(view.queue_offset(), unit.queue_offset);
            assert_eq!(record, self.log[unit.queue_offset.0 as usize].1.record, "byte for byte");
            offsets.push(unit.queue_offset.0);
            ControlFlow::Continue(())
        });
        offsets
    }

    fn expected(&self) -> Vec<u64> {
        self.left.iter().map(|known| known.offset).collect()
    }

    /// The latest message of each key, but for keys that were taken away.
    fn table(offsets: &[u64], log: &[(Known, KeyedRecord)]) -> Vec<(&'static str, u64)> {
        let mut table: Vec<(&'static str, u64)> = Vec::new();
        for key in KEYS {
            let latest =
                offsets.iter().rev().map(|offset| &log[*offset as usize].0).find(|known| known.key == key);
            table.extend(latest.filter(|latest| latest.has_body).map(|latest| (key, latest.offset)));
        }
        table
    }

    /// What a reader makes of the log is what it would make of all messages ever sent.
    fn check_table(&self) {
        let all: Vec<u64> = (0..self.end()).collect();
        assert_eq!(Self::table(&self.offsets(), &self.log), Self::table(&all, &self.log));
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Append {
        key: usize,
        body_len: usize,
    },
    Reopen,
    Rewrite,
    Secure,
    /// The power fails; of what was not synced any part may be there.
    LosePower {
        seed: u64,
    },
    /// A rewriting ends with an error of the disk, and the process goes on.
    FailRewrite {
        operation: FileOperation,
        after: usize,
    },
    /// As before, and then the power fails.
    LosePowerInRewrite {
        operation: FileOperation,
        after: usize,
        seed: u64,
    },
}

fn operation() -> impl Strategy<Value = Operation> {
    let disk = || {
        let failing =
            [FileOperation::Write, FileOperation::Sync, FileOperation::Create, FileOperation::Remove];
        (prop::sample::select(failing.to_vec()), 0..24_usize)
    };
    prop_oneof![
        12 => (0..KEYS.len(), prop_oneof![Just(0), 1..300_usize]).prop_map(|(key, body_len)| Operation::Append { key, body_len }),
        2 => Just(Operation::Reopen),
        3 => Just(Operation::Rewrite),
        1 => Just(Operation::Secure),
        2 => any::<u64>().prop_map(|seed| Operation::LosePower { seed }),
        1 => disk().prop_map(|(operation, after)| Operation::FailRewrite { operation, after }),
        1 => (disk(), any::<u64>()).prop_map(|((operation, after), seed)| Operation::LosePowerInRewrite { operation, after, seed }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn latest_message_of_every_key_is_there_whatever_happens(operations in prop::collection::vec(operation(), 1..60)) {
        let mut world = World::new();
        for operation in operations {
            match operation {
                Operation::Append { key, body_len } => world.append(KEYS[key], body_len),
                Operation::Reopen => world.reopen(SegmentCheck::Tail),
                Operation::Rewrite => {
                    // What was copied again after a loss may have been gone before.
                    let there = world.offsets();
                    world.left = there.into_iter().map(|offset| world.log[offset as usize].0.clone()).collect();
                    prop_assert!(world.rewrite(1 << 20));
                    world.compact_known(world.compacted_to);
                    prop_assert_eq!(world.offsets(), world.expected());
                }
                Operation::Secure => world.secure(),
                Operation::LosePower { seed } => {
                    world.files.crash_torn(seed);
                    world.reopen(SegmentCheck::Whole);
                }
                Operation::FailRewrite { operation, after } => {
                    world.files.fail_after(operation, after, io::ErrorKind::Other);
                    if !world.rewrite(1 << 20) {
                        world.files.fail_nothing();
                        world.reopen(SegmentCheck::Tail);
                    }
                    world.files.fail_nothing();
                }
                Operation::LosePowerInRewrite { operation, after, seed } => {
                    world.files.fail_after(operation, after, io::ErrorKind::Other);
                    world.rewrite(1 << 20);
                    world.files.fail_nothing();
                    world.files.crash_torn(seed);
                    world.reopen(SegmentCheck::Whole);
                }
            }
            world.check_table();
        }
    }

    #[test]
    fn rewritten_log_has_exactly_the_latest_messages(
        messages in prop::collection::vec((0..KEYS.len(), prop_oneof![Just(0), 1..300_usize]), 1..60),
        rewrites in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let mut world = World::new();
        let mut at: Vec<usize> = rewrites.iter().map(|index| index.index(messages.len())).collect();
        at.push(messages.len() - 1);
        for (n, (key, body_len)) in messages.iter().enumerate() {
            world.append(KEYS[*key], *body_len);
            if at.contains(&n) {
                prop_assert!(world.rewrite(1 << 20));
                world.compact_known(world.compacted_to);
                prop_assert_eq!(world.offsets(), world.expected());
                world.reopen(SegmentCheck::Tail);
                prop_assert_eq!(world.offsets(), world.expected());
            }
        }
    }
}

/// A log of messages with these keys, and a body each but for those of length 0.
fn world_of(messages: &[(&'static str, usize)]) -> World {
    let mut world = World::new();
    for (key, body_len) in messages {
        world.append(key, *body_len);
    }
    world
}

#[test]
fn messages_beyond_the_queue_go_when_it_is_opened() {
    let mut world = world_of(&[("a", 200); 12]);
    let queue = QueueBounds { log_from: QueueOffset(0), end: Some(QueueOffset(7)) };
    world.compacted = open(&world.files, SegmentCheck::Tail, queue);
    assert_eq!(world.offsets(), (0..7).collect::<Vec<_>>());
    assert_eq!(world.compacted.copied_to(), QueueOffset(7));
    world.compacted.append(&[keyed(7, "b", None, 1)]).unwrap();
    let offsets: Vec<u64> = world
        .compacted
        .read(QueueOffset(0), 99)
        .iter()
        .map(|record| RecordView::parse(record).unwrap().queue_offset().0)
        .collect();
    assert_eq!(offsets, (0..8).collect::<Vec<_>>());
}

#[test]
fn files_are_named_as_java_names_them_and_end_with_a_blank() {
    let mut world = world_of(&[("a", 200); 12]);
    assert!(world.rewrite(1 << 20));
    let bases = dirs(&world.files).bases(Part::Log).unwrap();
    assert_eq!(bases, dirs(&world.files).bases(Part::Index).unwrap());
    assert!(
        bases[0] == 0 && bases[1] > SIZES.segment_bytes && bases[1].is_multiple_of(SIZES.segment_bytes),
        "{bases:?}"
    );
    let first = world.files.read(&dirs(&world.files).path(Part::Log, 0)).unwrap().unwrap();
    let len = keyed(0, "a", None, 200).record.len();
    let blank = &first[len..len + 8];
    assert_eq!(blank[..4], (first.len() as u32 - len as u32).to_be_bytes());
    assert_eq!(blank[4..], 0xCBD4_3194_u32.to_be_bytes());
    let index = world.files.read(&dirs(&world.files).path(Part::Index, 0)).unwrap().unwrap();
    assert_eq!(index[46..54], [255; 8], "end mark");
}

#[test]
fn table_without_room_for_all_keys_takes_several_goes() {
    let keys: Vec<&'static str> = (0..150).map(|n| &*String::leak(format!("key{n}"))).collect();
    let mut world = World::new();
    for key in keys.iter().chain(&keys) {
        world.append(key, 1);
    }
    assert!(world.rewrite(0));
    let first = world.compacted.records();
    let mut goes = 1;
    while world.compacted_to
        < world.compacted.closed().0.last().and_then(Segment::last).map(|unit| unit.queue_offset)
    {
        assert!(world.rewrite(0));
        goes += 1;
    }
    world.compact_known(world.compacted_to);
    assert_eq!(world.offsets(), world.expected());
    assert!(goes > 1 && world.compacted.records() < first, "{goes} goes");
}

#[test]
fn pull_passes_gaps_and_keeps_to_limits_and_filters() {
    let mut world = World::new();
    for n in 0..12 {
        let record = keyed(n, KEYS[n as usize % 4], Some(["x", "y"][n as usize % 2]), 200);
        world.log.push((Known { offset: n, key: KEYS[n as usize % 4], has_body: true }, record));
    }
    world.copy();
    assert!(world.rewrite(1 << 20));
    let there = world.offsets();
    assert!(there[0] > 0, "{there:?}");
    let pull = |from, max, filter: &MessageFilter, limits| {
        let pulled = pull_compacted(&world.compacted, QueueOffset(from), max, filter, limits);
        let records: Vec<u8> = pulled.records.concat();
        let (mut offsets, mut at) = (Vec::new(), 0);
        while let Ok(record) = RecordView::parse(&records[at..]) {
            offsets.push(record.queue_offset().0);
            at += record.total_len();
        }
        assert_eq!((at, pulled.count), (records.len(), offsets.len()));
        (pulled.status, pulled.next.0, offsets)
    };
    let limits = PullLimits::default();
    assert_eq!(pull(0, 32, &MessageFilter::All, limits), (PullStatus::Found, 12, there.clone()));
    assert_eq!(
        pull(0, 2, &MessageFilter::All, limits),
        (PullStatus::Found, there[1] + 1, there[..2].to_vec())
    );
    let small = PullLimits { max_bytes: 1, ..limits };
    assert_eq!(pull(there[0] + 1, 32, &MessageFilter::All, small).2, there[1..2].to_vec(), "one at least");
    let tags = |tag: &str| MessageFilter::Tags(Arc::new(TagFilter::new([tag.to_owned()])));
    let odd: Vec<u64> = there.iter().copied().filter(|offset| offset % 2 == 1).collect();
    assert_eq!(pull(0, 32, &tags("y"), limits), (PullStatus::Found, 12, odd));
    assert_eq!(pull(0, 32, &tags("z"), limits), (PullStatus::NoMatchedMessage, 12, vec![]));
    let few = PullLimits { max_scanned_units: 1, ..limits };
    assert_eq!(pull(0, 1, &tags("z"), few), (PullStatus::NoMatchedMessage, there[0] + 1, vec![]));
}

#[test]
fn verifying_finds_what_is_wrong_and_nothing_else() {
    let mut world = world_of(&[("a", 200); 12]);
    let files: Arc<dyn StoreFiles> = Arc::new(world.files.clone());
    assert!(world.rewrite(1 << 20));
    let report = verify_compacted(&files, Path::new("/store")).unwrap();
    assert_eq!((report.queues, report.records, report.problems), (1, world.offsets().len() as u64, vec![]));
    let at = |base, part| world.compacted.dirs().path(part, base);
    let newest = world.compacted.segments().last().unwrap().base;
    for (path, position) in [(at(0, Part::Log), 150), (at(newest, Part::Index), 3)] {
        let mut map = world.files.open_map(&path).unwrap();
        map.bytes_mut(position..position + 2).copy_from_slice(b"!!");
        drop(map);
        let report = verify_compacted(&files, Path::new("/store")).unwrap();
        assert!(report.problems.iter().any(|(found, _)| *found == path), "{:?}", report.problems);
    }
}

#[test]
fn times_find_the_messages_that_are_left() {
    let mut world = world_of(&[("a", 200), ("b", 200), ("a", 200), ("a", 200), ("b", 200), ("a", 200)]);
    assert!(world.rewrite(1 << 20));
    let there = world.offsets();
    let stored_at = |offset: u64| 1_000 + offset as i64 * 10;
    let by = |at, boundary| world.compacted.offset_by_time(at, boundary).map(|offset| offset.0);
    let (first, last) = (there[0], there[there.len() - 1]);
    assert_eq!(by(0, TimeBoundary::Lower), Some(first));
    assert_eq!(by(0, TimeBoundary::Upper), None);
    assert_eq!(by(stored_at(first) + 1, TimeBoundary::Lower), Some(there[1]));
    assert_eq!(by(stored_at(there[1]) - 1, TimeBoundary::Upper), Some(first));
    assert_eq!(by(stored_at(last), TimeBoundary::Upper), Some(last));
    assert_eq!(by(stored_at(last) + 1, TimeBoundary::Lower), None);
}

#[test]
fn rewriting_that_is_cancelled_changes_nothing() {
    let mut world = world_of(&[("a", 200); 12]);
    let before = world.offsets();
    let (closed, boundary) = world.compacted.closed();
    let rewrite = Rewrite {
        dirs: dirs(&world.files),
        sizes: SIZES,
        closed,
        boundary,
        compacted_to: None,
        memory_bytes: 1 << 20,
        cancelled: Arc::new(AtomicBool::new(true)),
    };
    assert_eq!(rewrite.run().unwrap_err().kind(), io::ErrorKind::Interrupted);
    world.reopen(SegmentCheck::Tail);
    assert_eq!(world.offsets(), before);
}

#[test]
fn swap_that_was_told_is_finished_by_the_next_owner() {
    for after in 0..40 {
        let mut world = world_of(&[("a", 200); 12]);
        let before = world.offsets();
        world.files.fail_after(FileOperation::Sync, after, io::ErrorKind::Other);
        if world.rewrite(1 << 20) {
            assert!(after > 5, "the steps are tried one by one");
            return;
        }
        world.files.fail_nothing();
        world.reopen(SegmentCheck::Tail);
        let now = world.offsets();
        let last_two = before[before.len() - 2..].to_vec();
        assert!(
            now == before || now.len() < before.len() && now.ends_with(&last_two[1..]),
            "{after}: {now:?}"
        );
    }
    panic!("the rewriting never came to its end");
}
