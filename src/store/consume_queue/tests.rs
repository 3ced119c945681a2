use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::store::file::{DiskFiles, OpenMode};
use crate::store::memory_files::{FileOperation, MemoryFiles};
use crate::store::open_files::OpenFiles;

const SEGMENT_UNITS: u64 = 4;
/// Every unit is in its file at once.
const CONFIG: ConsumeQueueConfig =
    ConsumeQueueConfig { segment_units: SEGMENT_UNITS, max_unwritten_units: 0 };

fn dir() -> PathBuf {
    PathBuf::from("/store/consumequeue/T/0")
}

/// The message at `physical` is 100 bytes long; three neighbours share a store time.
fn unit(physical: u64) -> ConsumeQueueUnit {
    ConsumeQueueUnit { physical_offset: PhysicalOffset(physical), size_bytes: 100, tags_code: -7 }
}

fn units(physicals: impl IntoIterator<Item = u64>) -> Vec<ConsumeQueueUnit> {
    physicals.into_iter().map(unit).collect()
}

fn open(files: &Arc<MemoryFiles>, truncate_at: Option<u64>) -> ConsumeQueue {
    let files: Arc<dyn StoreFiles> = Arc::clone(files) as _;
    ConsumeQueue::open(files, dir(), CONFIG, truncate_at.map(PhysicalOffset)).unwrap()
}

fn read_all(queue: &mut ConsumeQueue) -> Vec<ConsumeQueueUnit> {
    let mut read = Vec::new();
    queue.read(queue.min_offset(), usize::MAX, &mut read).unwrap();
    read
}

fn names(files: &MemoryFiles) -> Vec<String> {
    files.list(&dir()).unwrap().into_iter().map(|entry| entry.name).collect()
}

#[test]
fn empty_queue_has_no_files() {
    let files = Arc::new(MemoryFiles::new());
    let mut queue = open(&files, None);
    assert_eq!((queue.min_offset().0, queue.max_offset().0), (0, 0));
    assert_eq!(queue.last_unit().unwrap(), None);
    assert_eq!(queue.max_physical().unwrap(), None);
    assert_eq!(queue.offset_by_time(5, TimeBoundary::Upper, |_, _| None).unwrap().0, 0);
    queue.set_min_by(PhysicalOffset(9)).unwrap();
    assert_eq!(queue.delete_before(PhysicalOffset(9)).unwrap(), 0);
    queue.flush().unwrap();
    assert!(names(&files).is_empty());
}

#[test]
fn segments_are_named_by_byte_and_have_full_length() {
    let files = Arc::new(MemoryFiles::new());
    let mut queue = open(&files, None);
    queue.append(QueueOffset(0), &units([0, 100, 200, 300, 400])).unwrap();
    assert_eq!(names(&files), ["00000000000000000000", "00000000000000000080"]);
    let last = files.read(&dir().join("00000000000000000080")).unwrap().unwrap();
    assert_eq!(last[..20], unit(400).encode());
    assert_eq!(last[20..], [0; 60]);
    assert_eq!(queue.max_physical().unwrap(), Some(PhysicalOffset(500)));
}

#[test]
fn first_append_elsewhere_is_preceded_by_fillers() {
    let files = Arc::new(MemoryFiles::new());
    let mut queue = open(&files, None);
    queue.append(QueueOffset(10), &units([700])).unwrap();
    assert_eq!((queue.min_offset().0, queue.max_offset().0), (10, 11));
    let file = files.read(&dir().join("00000000000000000160")).unwrap().unwrap();
    assert_eq!(file[20..40], ConsumeQueueUnit::FILLER.encode());
    assert_eq!(file[40..60], unit(700).encode());

    let mut queue = open(&files, None);
    assert_eq!((queue.min_offset().0, queue.max_offset().0), (10, 11));
    queue.set_min_by(PhysicalOffset(0)).unwrap();
    assert_eq!(queue.min_offset().0, 10);
    assert_eq!(read_all(&mut queue), units([700]));
}

#[test]
fn numbers_the_log_has_no_room_for_are_refused_and_duplicates_are_skipped() {
    let files = Arc::new(MemoryFiles::new());
    let mut queue = open(&files, None);
    queue.append(QueueOffset(0), &units([0, 100])).unwrap();
    // Behind the last message, at 200, there is room for one of at least 91 bytes.
    let error = queue.append(QueueOffset(4), &units([300])).unwrap_err();
    assert!(matches!(error, ConsumeQueueError::Gap { end: QueueOffset(2), first: QueueOffset(4), .. }));
    let outcome = queue.append(QueueOffset(1), &units([100, 200])).unwrap();
    assert_eq!(outcome, AppendOutcome { appended: 1, duplicates: 1, lost: 0, end: QueueOffset(3) });
    assert_eq!(read_all(&mut queue), units([0, 100, 200]));
}

#[test]
fn numbers_that_were_lost_become_gaps() {
    let files = Arc::new(MemoryFiles::new());
    let mut queue = open(&files, None);
    queue.append(QueueOffset(0), &units([0, 100, 200])).unwrap();
    let outcome = queue.append(QueueOffset(5), &units([600])).unwrap();
    assert_eq!(outcome, AppendOutcome { appended: 1, duplicates: 0, lost: 2, end: QueueOffset(6) });
    let read = read_all(&mut open(&files, None));
    let gaps: Vec<bool> = read.iter().map(ConsumeQueueUnit::is_gap).collect();
    assert_eq!(gaps, [false, false, false, true, true, false]);
    assert_eq!(read[5], unit(600));
}

#[test]
fn queue_goes_on_with_its_numbers_when_all_its_messages_are_gone() {
    let files = Arc::new(MemoryFiles::new());
    let mut queue = open(&files, None);
    queue.continue_at(QueueOffset(7)).unwrap();
    assert_eq!((queue.min_offset().0, queue.max_offset().0), (7, 7));
    assert_eq!(queue.known().unwrap(), KnownQueue { max: 7, ..KnownQueue::default() });
    assert_eq!(queue.append(QueueOffset(6), &units([5])).unwrap().appended, 0, "the number is taken");
    queue.append(QueueOffset(7), &units([700])).unwrap();
    assert_eq!((queue.min_offset().0, queue.max_offset().0), (7, 8));
    let known = KnownQueue { segments: 1..2, max: 8, first_physical: 700, last_physical: 700 };
    assert_eq!(queue.known().unwrap(), known);
    queue.continue_at(QueueOffset(3)).unwrap();
    queue.continue_at(QueueOffset(9)).unwrap();
    assert_eq!(
        read_all(&mut open(&files, None)).iter().map(ConsumeQueueUnit::is_gap).collect::<Vec<_>>(),
        [false, true]
    );
}

#[test]
fn failed_append_leaves_no_trace() {
    let files = Arc::new(MemoryFiles::new());
    let mut queue = open(&files, None);
    files.fail_next(FileOperation::Write, std::io::ErrorKind::StorageFull);
    queue.append(QueueOffset(9), &units([900])).unwrap_err();
    assert_eq!((queue.min_offset(), queue.max_offset()), (QueueOffset(0), QueueOffset(0)));
    queue.append(QueueOffset(5), &units([500])).unwrap();
    assert_eq!((queue.min_offset().0, queue.max_offset().0), (5, 6));
    assert_eq!(names(&files), ["00000000000000000080"]);

    queue.append(QueueOffset(6), &units([600, 700])).unwrap();
    files.fail_next(FileOperation::Write, std::io::ErrorKind::StorageFull);
    queue.append(QueueOffset(8), &units([800])).unwrap_err();
    let mut queue = open(&files, None);
    assert_eq!(queue.max_offset().0, 8);
    queue.append(QueueOffset(8), &units([800])).unwrap();
    assert_eq!(read_all(&mut queue), units([500, 600, 700, 800]));
}

#[test]
fn cut_units_do_not_come_back() {
    let files = Arc::new(MemoryFiles::new());
    let mut queue = open(&files, None);
    queue.append(QueueOffset(0), &units([0, 100, 200])).unwrap();
    queue.truncate(PhysicalOffset(100)).unwrap();
    assert_eq!(queue.max_offset().0, 1);
    queue.append(QueueOffset(1), &units([150])).unwrap();
    assert_eq!(read_all(&mut open(&files, None)), units([0, 150]));
    assert_eq!(read_all(&mut open(&files, Some(0))), units([]));
    assert!(names(&files).is_empty());
}

#[test]
fn directory_of_another_segment_size_is_refused() {
    let files = Arc::new(MemoryFiles::new());
    let mut queue = open(&files, None);
    queue.append(QueueOffset(0), &units([0, 100, 200, 300, 400])).unwrap();
    let other = ConsumeQueueConfig { segment_units: 3, ..CONFIG };
    let error = ConsumeQueue::open(Arc::clone(&files) as _, dir(), other, None).unwrap_err();
    assert!(matches!(error, ConsumeQueueError::UnexpectedLength { len_bytes: 80, expected_bytes: 60, .. }));

    files.remove_file(&dir().join("00000000000000000080")).unwrap();
    let third = files.open(&dir().join("00000000000000000160"), OpenMode::CreateNew).unwrap();
    third.set_len(80).unwrap();
    let error = ConsumeQueue::open(Arc::clone(&files) as _, dir(), CONFIG, None).unwrap_err();
    assert!(matches!(error, ConsumeQueueError::MissingSegment { .. }));
}

#[test]
fn empty_last_file_is_deleted_and_short_one_completed() {
    let files = Arc::new(MemoryFiles::new());
    open(&files, None).append(QueueOffset(0), &units([0, 100, 200])).unwrap();
    let last = files.open(&dir().join("00000000000000000000"), OpenMode::Existing).unwrap();
    last.set_len(45).unwrap();
    files.open(&dir().join("00000000000000000080"), OpenMode::CreateNew).unwrap();
    assert_eq!(read_all(&mut open(&files, None)), units([0, 100]));
    assert_eq!(last.len().unwrap(), 80);
    assert_eq!(names(&files), ["00000000000000000000"]);
}

#[test]
fn times_between_equal_and_outside_messages_are_found() {
    let files = Arc::new(MemoryFiles::new());
    let mut queue = open(&files, None);
    queue.append(QueueOffset(0), &units([0, 100, 200, 300, 400, 500])).unwrap();
    let times = [10, 20, 20, 20, 40, 50];
    let mut at = |time, boundary| {
        let found = queue.offset_by_time(time, boundary, |at, _| Some(times[at.0 as usize / 100]));
        found.unwrap().0
    };
    let found = |time| (time, TimeBoundary::Lower, TimeBoundary::Upper);
    let expected = [(5, 0, 0), (10, 0, 0), (20, 1, 3), (30, 4, 3), (50, 5, 5), (51, 6, 5)];
    for (time, lower, upper) in expected {
        let (_, low, up) = found(time);
        assert_eq!((at(time, low), at(time, up)), (lower, upper), "{time}");
    }
}

#[test]
fn queues_are_listed_by_topic() {
    let root = tempfile::tempdir().unwrap();
    let files = DiskFiles::shared();
    for (topic, queue_id) in [("a", 10), ("a", 2), ("%RETRY%g", 0)] {
        let dir = queue_dir(root.path(), &topic.into(), QueueId(queue_id));
        let mut queue = ConsumeQueue::open(Arc::clone(&files), dir, CONFIG, None).unwrap();
        queue.append(QueueOffset(0), &units([0])).unwrap();
        queue.flush().unwrap();
    }
    std::fs::create_dir_all(root.path().join("a/not-a-queue")).unwrap();
    std::fs::create_dir_all(root.path().join("without-queues")).unwrap();
    let listed: Vec<_> = list_queues(&*files, root.path()).unwrap().into_iter().collect();
    let expected: [(TopicName, Vec<QueueId>); 2] =
        [("%RETRY%g".into(), vec![QueueId(0)]), ("a".into(), vec![QueueId(2), QueueId(10)])];
    assert_eq!(listed, expected);
    assert!(list_queues(&*files, &root.path().join("missing")).unwrap().is_empty());
}

#[test]
fn destroyed_queue_leaves_no_directory() {
    let files = Arc::new(MemoryFiles::new());
    let mut queue = open(&files, None);
    queue.append(QueueOffset(0), &units([0])).unwrap();
    queue.destroy().unwrap();
    assert_eq!(files.stat(Path::new(&dir())).unwrap(), None);
}

#[test]
fn few_units_wait_in_memory_until_there_are_more_or_a_check_point_comes() {
    let files = Arc::new(MemoryFiles::new());
    let config = ConsumeQueueConfig { max_unwritten_units: 2, ..CONFIG };
    let mut queue = ConsumeQueue::open(files.clone(), dir(), config, None).unwrap();
    queue.append(QueueOffset(9), &units([900, 1000])).unwrap();
    assert!(names(&files).is_empty());
    assert_eq!(read_all(&mut queue), units([900, 1000]));
    assert_eq!(queue.last_unit().unwrap(), Some(unit(1000)));
    queue.append(QueueOffset(11), &units([1100])).unwrap();
    assert_eq!(read_all(&mut open(&files, None)), units([900, 1000, 1100]));

    queue.append(QueueOffset(12), &units([1200])).unwrap();
    assert_eq!(names(&files), ["00000000000000000160"], "the next file comes with its first unit");
    let mut across = Vec::new();
    queue.read(QueueOffset(10), 3, &mut across).unwrap();
    assert_eq!(across, units([1000, 1100, 1200]), "from the file, and from memory");
    let known = queue.known().unwrap();
    assert_eq!((known.segments, known.max), (2..4, 13));
    assert_eq!(queue.take_unflushed().unwrap().files.len(), 2);
    assert_eq!(read_all(&mut open(&files, None)), units([900, 1000, 1100, 1200]));
}

#[test]
fn units_in_memory_outlast_a_disk_that_does_not_take_them() {
    let files = Arc::new(MemoryFiles::new());
    let config = ConsumeQueueConfig { max_unwritten_units: 2, ..CONFIG };
    let mut queue = ConsumeQueue::open(files.clone(), dir(), config, None).unwrap();
    queue.append(QueueOffset(5), &units([500, 600])).unwrap();
    files.fail_always(FileOperation::Write, std::io::ErrorKind::StorageFull);
    queue.append(QueueOffset(7), &units([700])).unwrap_err();
    queue.take_unflushed().unwrap_err();
    assert_eq!(
        read_all(&mut queue),
        units([500, 600]),
        "what was appended stays, what was refused is not there"
    );
    files.fail_nothing();
    queue.append(QueueOffset(7), &units([700])).unwrap();
    assert_eq!(read_all(&mut open(&files, None)), units([500, 600, 700]));
}

#[derive(Clone, Debug)]
enum Step {
    /// Some units, beginning some units before the end.
    Append {
        count: usize,
        overlap: u64,
    },
    /// Damage in the log takes messages away before they are dispatched.
    Lose {
        count: u64,
    },
    Flush,
    Reopen,
    Crash {
        seed: u64,
    },
    /// The process ends, the machine goes on.
    Kill,
    Truncate {
        back: u64,
    },
    /// The log minimum moves.
    Expire {
        forth: u64,
        delete: bool,
    },
    /// Other queues need files.
    UseOthers,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..10usize, 0..4u64).prop_map(|(count, overlap)| Step::Append { count, overlap }),
        1 => (1..4u64).prop_map(|count| Step::Lose { count }),
        2 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        2 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
        1 => Just(Step::Kill),
        1 => (0..1_500u64).prop_map(|back| Step::Truncate { back }),
        2 => (0..900u64, any::<bool>()).prop_map(|(forth, delete)| Step::Expire { forth, delete }),
        2 => Just(Step::UseOthers),
    ]
}

/// Every unit in the files, fillers included, from number `start` on.
#[derive(Default)]
struct Model {
    start: u64,
    stored: Vec<ConsumeQueueUnit>,
    min: u64,
    log_min: u64,
    /// Next free position of the log; steps leave gaps for messages of other queues.
    log_max: u64,
    flushed: u64,
    /// The newest units that are in no file.
    unwritten: u64,
    max_unwritten: u64,
    /// Number of the next message of this queue, which survives a queue without files.
    next: u64,
}

impl Model {
    fn max(&self) -> u64 {
        self.start + self.stored.len() as u64
    }

    fn append(&mut self, first: u64, fresh: &[ConsumeQueueUnit]) {
        if self.stored.is_empty() && !fresh.is_empty() {
            self.start = first / SEGMENT_UNITS * SEGMENT_UNITS;
            self.stored = vec![ConsumeQueueUnit::FILLER; (first - self.start) as usize];
            self.min = first;
        }
        let before = self.max();
        if let Some(next) = fresh.first() {
            let gap = ConsumeQueueUnit { tags_code: ConsumeQueueUnit::GAP_TAGS, ..*next };
            self.stored.resize((first - self.start) as usize, gap);
        }
        self.stored.extend_from_slice(fresh);
        self.unwritten += self.max() - before;
        if self.unwritten > self.max_unwritten {
            self.unwritten = 0;
        }
    }

    fn truncate(&mut self, at: u64) {
        let before = self.max();
        self.stored.retain(|unit| unit.physical_offset.0 < at);
        self.unwritten = self.unwritten.saturating_sub(before - self.max());
        if self.stored.iter().all(|unit| unit.is_filler()) {
            self.stored.clear();
            (self.start, self.min) = (0, 0);
        } else {
            self.next = self.max();
        }
        self.min = self.min.min(self.max());
        self.flushed = self.flushed.min(at);
        self.log_max = self.log_max.min(at).max(self.log_min);
    }

    fn flush(&mut self) {
        (self.flushed, self.unwritten) = (self.log_max, 0);
    }

    /// What a new owner finds: it corrects the minimum first.
    fn reopened(&mut self) {
        self.min = self.start;
        self.correct_min();
    }

    fn correct_min(&mut self) {
        let gone = |unit: &ConsumeQueueUnit| unit.is_filler() || unit.physical_offset.0 < self.log_min;
        while self.min < self.max() && gone(&self.stored[(self.min - self.start) as usize]) {
            self.min += 1;
        }
    }

    fn delete(&mut self) {
        // The last file stays, whatever is to follow it.
        while self.max() - self.unwritten - self.start > SEGMENT_UNITS {
            let last = &self.stored[SEGMENT_UNITS as usize - 1];
            if !last.is_filler() && last.physical_offset.0 >= self.log_min {
                break;
            }
            self.stored.drain(..SEGMENT_UNITS as usize);
            self.start += SEGMENT_UNITS;
        }
        self.min = self.min.max(self.start);
    }

    fn readable(&self) -> &[ConsumeQueueUnit] {
        &self.stored[(self.min - self.start) as usize..]
    }

    fn time(&self, physical: u64) -> i64 {
        (physical / 300) as i64 * 10
    }
}

proptest! {
    /// Invariants: the queue holds what a list would, whether in memory, in files that are open, or in others; nothing flushed is lost; nothing cut comes back;
    /// a search by time agrees with looking at every message.
    #[test]
    fn consume_queue_behaves_like_a_list(
        first in 0..9u64,
        max_unwritten in 0..7u64,
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let disk = MemoryFiles::new();
        // The queue and another one share a single file that may be open.
        let files: Arc<dyn StoreFiles> = Arc::new(OpenFiles::new(Arc::new(disk.clone()), Arc::new(disk.clone()), 1));
        let config = ConsumeQueueConfig { max_unwritten_units: max_unwritten as usize, ..CONFIG };
        let open = |truncate_at: Option<u64>| {
            ConsumeQueue::open(files.clone(), dir(), config, truncate_at.map(PhysicalOffset)).unwrap()
        };
        let mut other = ConsumeQueue::open(files.clone(), "/store/consumequeue/T/1".into(), CONFIG, None).unwrap();
        let mut queue = open(None);
        let mut model = Model { next: first, max_unwritten, ..Model::default() };
        for step in steps {
            match step {
                Step::Append { count, overlap } => {
                    let lost = if model.stored.is_empty() { 0 } else { model.next - model.max() };
                    let overlap = if lost > 0 { 0 } else { overlap.min(model.readable().len() as u64) };
                    let fresh = units((0..count as u64).map(|n| model.log_max + 50 + n * 110));
                    let old = &model.stored[model.stored.len() - overlap as usize..];
                    let sent: Vec<_> = old.iter().copied().chain(fresh.iter().copied()).collect();
                    let outcome = queue.append(QueueOffset(model.next - overlap), &sent).unwrap();
                    prop_assert_eq!(outcome.duplicates as u64, overlap);
                    prop_assert_eq!(outcome.appended, count);
                    prop_assert_eq!(outcome.lost, if count > 0 { lost } else { 0 });
                    model.append(model.next, &fresh);
                    model.next += count as u64;
                    model.log_max += 50 + count as u64 * 110;
                }
                Step::Lose { count } => {
                    model.next += count;
                    model.log_max += 100 + count * 110;
                }
                Step::Flush => {
                    queue.flush().unwrap();
                    model.flush();
                }
                Step::Reopen => {
                    queue.flush().unwrap();
                    model.flush();
                    queue = open(None);
                    queue.set_min_by(PhysicalOffset(model.log_min)).unwrap();
                    model.reopened();
                }
                Step::Crash { seed } => {
                    drop(queue);
                    other.flush().unwrap();
                    disk.crash_torn(seed);
                    queue = open(Some(model.flushed));
                    queue.set_min_by(PhysicalOffset(model.log_min)).unwrap();
                    queue.flush().unwrap();
                    model.truncate(model.flushed);
                    model.reopened();
                }
                Step::Kill => {
                    drop(queue);
                    queue = open(Some(model.flushed));
                    queue.set_min_by(PhysicalOffset(model.log_min)).unwrap();
                    model.truncate(model.flushed);
                    model.reopened();
                }
                Step::Truncate { back } => {
                    let at = model.log_max.saturating_sub(back).max(model.log_min);
                    queue.truncate(PhysicalOffset(at)).unwrap();
                    queue.flush().unwrap();
                    model.truncate(at);
                    model.unwritten = 0;
                }
                Step::Expire { forth, delete } => {
                    model.log_min = (model.log_min + forth).min(model.log_max);
                    if delete {
                        queue.delete_before(PhysicalOffset(model.log_min)).unwrap();
                        queue.flush().unwrap();
                        model.delete();
                        model.flush();
                    } else {
                        queue.set_min_by(PhysicalOffset(model.log_min)).unwrap();
                    }
                    model.correct_min();
                }
                Step::UseOthers => {
                    let end = other.max_offset();
                    other.append(end, &units([end.0 * 100])).unwrap();
                    prop_assert_eq!(other.last_unit().unwrap(), Some(unit(end.0 * 100)));
                }
            }
            prop_assert_eq!(queue.min_offset().0, model.min);
            prop_assert_eq!(queue.max_offset().0, model.max());
            let readable = read_all(&mut queue);
            prop_assert_eq!(&readable[..], model.readable());
            let last = model.stored.last().filter(|unit| !unit.is_filler()).copied();
            prop_assert_eq!(queue.last_unit().unwrap(), last);
            for time in [0, 5, 10, 40, i64::MAX] {
                let before = readable.iter().filter(|unit| model.time(unit.physical_offset.0) < time).count();
                let until = readable.iter().filter(|unit| model.time(unit.physical_offset.0) <= time).count();
                let stored_at = |at: PhysicalOffset, _len| Some(model.time(at.0));
                let lower = queue.offset_by_time(time, TimeBoundary::Lower, stored_at).unwrap();
                let upper = queue.offset_by_time(time, TimeBoundary::Upper, stored_at).unwrap();
                prop_assert_eq!(lower.0, model.min + before as u64);
                prop_assert_eq!(upper.0, model.min + until.saturating_sub(1) as u64);
            }
        }
    }
}
