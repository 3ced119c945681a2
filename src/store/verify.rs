//! Looks at a whole store that no broker uses, and changes nothing: the log record by record, the consume queues and
//! the key index against it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::compacted_log::{COMPACTION_DIR, verify_compacted};
use super::consume_queue::{ConsumeQueueUnit, UNIT_BYTES, list_queues, queue_dir};
use super::damage::SegmentBytes;
use super::file::{OpenMode, StoreFile, StoreFiles};
use super::index_file::{HEADER_BYTES, IndexFileConfig, hash_of, tag_key};
use super::mapped_file::MappedFile;
use crate::clock::WallMs;
use crate::protocol::message::{EntryHead, RecordView};
use crate::protocol::properties;
use crate::protocol::sys_flag::TransactionType;
use crate::types::{PhysicalOffset, QueueId, QueueOffset, TopicName};

/// Findings that are told one by one; the others are counted.
const MAX_FINDINGS: usize = 1000;

/// Why a store cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("cannot read {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("segments of the commit log in {} differ in length: {} bytes, not {expected_bytes}", path.display(), found_bytes)]
    SegmentLength { path: PathBuf, found_bytes: u64, expected_bytes: u64 },
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct StoreReport {
    pub log_start: u64,
    pub log_end: u64,
    pub segments: usize,
    pub records: u64,
    /// Bytes behind the last whole record that are not zero; the next start cuts them.
    pub torn_tail_bytes: u64,
    pub queues: usize,
    pub units: u64,
    pub index_files: usize,
    pub index_entries: u64,
    /// Queues of compacted topics, and what is kept of them.
    pub compacted_queues: usize,
    pub compacted_records: u64,
    pub findings: Vec<Finding>,
    /// Findings beyond those that are told.
    pub more_findings: u64,
    /// Queues that are wrong, and whether the index is: what a repair derives again.
    #[serde(skip)]
    pub wrong_queues: BTreeSet<(TopicName, QueueId)>,
    #[serde(skip)]
    pub wrong_index: bool,
}

/// Something that is wrong, and where.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// File, and position within it.
    pub place: String,
    pub problem: String,
}

impl StoreReport {
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    fn find(&mut self, place: String, problem: String) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { place, problem });
        } else {
            self.more_findings += 1;
        }
    }
}

/// The segments of a log as they lie there.
pub struct LogFiles {
    segments: Vec<(PhysicalOffset, PathBuf, MappedFile)>,
}

/// What a walk over the log meets.
pub enum Met<'a> {
    Record(RecordView<'a>),
    /// No whole entry; the bytes up to the next one.
    Damage {
        len_bytes: u64,
        cause: String,
    },
}

impl LogFiles {
    pub fn open(files: &dyn StoreFiles, root: &Path) -> Result<Self, VerifyError> {
        let dir = root.join("commitlog");
        let mut segments: Vec<(PhysicalOffset, PathBuf, MappedFile)> = Vec::new();
        for entry in files.list(&dir).map_err(|source| io_error(&dir, source))? {
            let base = entry.name.parse().ok().filter(|_| entry.name.len() == 20 && entry.stat.len_bytes > 0);
            let Some(base) = base.map(PhysicalOffset) else { continue };
            let path = dir.join(&entry.name);
            let map = files.open_map(&path).map_err(|source| io_error(&path, source))?;
            if let Some((_, _, first)) = segments.first().filter(|(_, _, first)| first.len() != map.len()) {
                let (found_bytes, expected_bytes) = (map.len() as u64, first.len() as u64);
                return Err(VerifyError::SegmentLength { path, found_bytes, expected_bytes });
            }
            segments.push((base, path, map));
        }
        Ok(Self { segments })
    }

    pub fn start(&self) -> PhysicalOffset {
        self.segments.first().map(|(base, ..)| *base).unwrap_or_default()
    }

    /// Shows `look` everything in order, and returns where the last whole entry ends, and how many bytes behind it are
    /// not zero. Ends early when `look` says so.
    pub fn walk(&self, mut look: impl FnMut(PhysicalOffset, Met<'_>) -> bool) -> (PhysicalOffset, u64) {
        let mut end = self.start();
        for (index, (base, _, map)) in self.segments.iter().enumerate() {
            let bytes = map.bytes(0..map.len());
            let whole =
                SegmentBytes { base: *base, bytes, segment_len: bytes.len(), not_before: WallMs(i64::MIN) };
            let mut at = 0;
            while at < bytes.len() {
                let offset = base.advance(at as u64);
                let problem = match EntryHead::parse(&bytes[at..]) {
                    Ok(EntryHead::Blank { len }) if at + len == bytes.len() => {
                        at += len;
                        continue;
                    }
                    Ok(EntryHead::Blank { .. }) => "blank of the wrong length".to_owned(),
                    Ok(EntryHead::Record { len }) => match RecordView::parse(&bytes[at..]) {
                        Ok(record) if record.physical_offset() != offset => {
                            format!("record says it lies at {}", record.physical_offset())
                        }
                        Ok(record) => match record.verify_crc() {
                            Ok(()) => {
                                if !look(offset, Met::Record(record)) {
                                    return (offset, 0);
                                }
                                at += len;
                                end = base.advance(at as u64);
                                continue;
                            }
                            Err(error) => error.to_string(),
                        },
                        Err(error) => error.to_string(),
                    },
                    Err(error) => error.to_string(),
                };
                let is_last = index + 1 == self.segments.len();
                let next = match whole.next_whole(at) {
                    Some(next) => next,
                    None if is_last => {
                        let rest = bytes[at..].iter().rposition(|byte| *byte != 0);
                        return (end, rest.map_or(0, |last| last as u64 + 1));
                    }
                    None => bytes.len(),
                };
                if !look(offset, Met::Damage { len_bytes: (next - at) as u64, cause: problem }) {
                    return (offset, 0);
                }
                at = next;
            }
            end = end.max(base.advance(bytes.len() as u64));
        }
        (end, 0)
    }

    /// The record that lies at `offset`.
    pub fn record(&self, offset: PhysicalOffset) -> Option<RecordView<'_>> {
        let index = self.segments.partition_point(|(base, ..)| *base <= offset).checked_sub(1)?;
        let (base, _, map) = &self.segments[index];
        let at = (offset.0 - base.0) as usize;
        let record = RecordView::parse(map.bytes(0..map.len()).get(at..)?).ok()?;
        (record.physical_offset() == offset).then_some(record)
    }

    fn place(&self, offset: PhysicalOffset) -> String {
        let index = self.segments.partition_point(|(base, ..)| *base <= offset).saturating_sub(1);
        match self.segments.get(index) {
            Some((base, path, _)) => format!("{} at byte {}", path.display(), offset.0 - base.0),
            None => format!("log at {offset}"),
        }
    }
}

/// Looks at the store in `root`.
///
/// `index` are the sizes its index files were made with.
pub fn verify_store(
    files: &Arc<dyn StoreFiles>,
    root: &Path,
    index: IndexFileConfig,
) -> Result<StoreReport, VerifyError> {
    let log = LogFiles::open(&**files, root)?;
    let mut report =
        StoreReport { log_start: log.start().0, segments: log.segments.len(), ..StoreReport::default() };
    for pair in log.segments.windows(2) {
        let expected = pair[0].0.advance(pair[0].2.len() as u64);
        if pair[1].0 != expected {
            report.find(pair[1].1.display().to_string(), format!("segment {expected} is missing before it"));
        }
    }
    let mut queues = QueueReader::open(&**files, root)?;
    let (mut keys, mut tags, mut last_stored_at) = (0, 0, i64::MIN);
    let mut trouble = None;
    let (end, torn) = log.walk(|offset, met| {
        match met {
            Met::Damage { len_bytes, cause } => {
                report.find(log.place(offset), format!("{len_bytes} bytes are damaged: {cause}"));
            }
            Met::Record(record) => {
                report.records += 1;
                if record.stored_at_ms() < last_stored_at {
                    report.find(log.place(offset), "stored before the record that lies before it".to_owned());
                }
                last_stored_at = record.stored_at_ms();
                keys += keys_of(&record).count() as u64;
                tags += u64::from(tag_of(&record).is_some());
                if let Err(error) = queues.check_record(files, &log, offset, &record, &mut report) {
                    trouble = Some(error);
                    return false;
                }
            }
        }
        true
    });
    if let Some(error) = trouble {
        return Err(error);
    }
    (report.log_end, report.torn_tail_bytes) = (end.0, torn);
    queues.check_units(files, &log, end, &mut report)?;
    check_index(&**files, root, index, &log, keys..=keys + tags, &mut report)?;
    let compacted =
        verify_compacted(files, root).map_err(|source| io_error(&root.join(COMPACTION_DIR), source))?;
    (report.compacted_queues, report.compacted_records) = (compacted.queues, compacted.records);
    for (path, problem) in compacted.problems {
        report.find(path.display().to_string(), problem);
    }
    Ok(report)
}

/// The hashes a record is indexed under.
fn keys_of<'a>(record: &RecordView<'a>) -> impl Iterator<Item = u32> + 'a {
    let is_indexed = TransactionType::of(record.sys_flag()) != TransactionType::Rollback;
    let properties = if is_indexed { record.properties() } else { Default::default() };
    let topic = record.topic();
    let unique = properties::get(properties, properties::names::UNIQ_KEY);
    let words = properties::get(properties, properties::names::KEYS).unwrap_or_default();
    let words = words.split(' ').filter(|word| !word.is_empty());
    unique.into_iter().chain(words).map(move |key| hash_of(topic, key))
}

/// The hash of its tag, which RocketMQ and older stores have no entry for.
fn tag_of(record: &RecordView<'_>) -> Option<u32> {
    let is_indexed = TransactionType::of(record.sys_flag()) != TransactionType::Rollback;
    let tag = properties::get(record.properties(), properties::names::TAGS).filter(|tag| !tag.is_empty());
    tag.filter(|_| is_indexed).map(|tag| hash_of(record.topic(), &tag_key(tag)))
}

/// Units by number, read where they lie.
struct QueueReader {
    root: PathBuf,
    /// Units of a segment, by the first file that is met.
    segment_units: u64,
    queues: BTreeMap<TopicName, BTreeMap<QueueId, ()>>,
    open: HashMap<PathBuf, Option<Arc<dyn StoreFile>>>,
}

impl QueueReader {
    fn open(files: &dyn StoreFiles, root: &Path) -> Result<Self, VerifyError> {
        let root = root.join("consumequeue");
        let listed = list_queues(files, &root).map_err(|error| io_error(&root, io::Error::other(error)))?;
        let mut segment_units = 0;
        let mut queues: BTreeMap<TopicName, BTreeMap<QueueId, ()>> = BTreeMap::new();
        for (topic, queue_ids) in listed {
            for queue_id in queue_ids {
                let dir = queue_dir(&root, &topic, queue_id);
                let segments = files.list(&dir).map_err(|source| io_error(&dir, source))?;
                let longest = segments.iter().map(|entry| entry.stat.len_bytes).max().unwrap_or(0);
                segment_units = segment_units.max(longest / UNIT_BYTES as u64);
                queues.entry(topic.clone()).or_default().insert(queue_id, ());
            }
        }
        Ok(Self { root, segment_units: segment_units.max(1), queues, open: HashMap::new() })
    }

    fn path(&self, topic: &TopicName, queue_id: QueueId, number: u64) -> PathBuf {
        let segment = number / self.segment_units * self.segment_units * UNIT_BYTES as u64;
        queue_dir(&self.root, topic, queue_id).join(format!("{segment:020}"))
    }

    fn unit(
        &mut self,
        files: &Arc<dyn StoreFiles>,
        path: PathBuf,
        number: u64,
    ) -> Result<Option<ConsumeQueueUnit>, VerifyError> {
        let file = match self.open.get(&path) {
            Some(file) => file.clone(),
            None => {
                let file = match files.open(&path, OpenMode::Existing) {
                    Ok(file) => Some(file),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                    Err(source) => return Err(io_error(&path, source)),
                };
                if self.open.len() >= 512 {
                    self.open.clear();
                }
                self.open.insert(path.clone(), file.clone());
                file
            }
        };
        let mut bytes = [0; UNIT_BYTES];
        let Some(file) = file else { return Ok(None) };
        let at = number % self.segment_units * UNIT_BYTES as u64;
        let read = file.read_at(&mut bytes, at).map_err(|source| io_error(&path, source))?;
        Ok(if read == UNIT_BYTES { ConsumeQueueUnit::decode(&bytes) } else { None })
    }

    /// A record has its unit, in a queue that exists; topics that were deleted have none.
    fn check_record(
        &mut self,
        files: &Arc<dyn StoreFiles>,
        log: &LogFiles,
        offset: PhysicalOffset,
        record: &RecordView<'_>,
        report: &mut StoreReport,
    ) -> Result<(), VerifyError> {
        let is_consumed = !matches!(
            TransactionType::of(record.sys_flag()),
            TransactionType::Prepared | TransactionType::Rollback
        );
        let Some((topic, _)) = self.queues.get_key_value(record.topic()).filter(|_| is_consumed) else {
            return Ok(());
        };
        let (topic, queue_id, number) = (topic.clone(), record.queue_id(), record.queue_offset().0);
        let path = self.path(&topic, queue_id, number);
        let unit = self.unit(files, path, number)?;
        // A later topic of the same name has other messages under these numbers.
        let is_there = unit.is_some_and(|unit| unit.physical_offset >= offset);
        if !is_there {
            report.find(
                log.place(offset),
                format!("message {number} of topic {topic}, queue {queue_id} has no unit"),
            );
            report.wrong_queues.insert((topic, queue_id));
        }
        Ok(())
    }

    /// Every unit of a message that is still there points at it.
    fn check_units(
        &mut self,
        files: &Arc<dyn StoreFiles>,
        log: &LogFiles,
        log_end: PhysicalOffset,
        report: &mut StoreReport,
    ) -> Result<(), VerifyError> {
        let queues: Vec<_> = self
            .queues
            .iter()
            .flat_map(|(topic, ids)| ids.keys().map(move |id| (topic.clone(), *id)))
            .collect();
        report.queues = queues.len();
        for (topic, queue_id) in queues {
            let dir = queue_dir(&self.root, &topic, queue_id);
            let segments = files.list(&dir).map_err(|source| io_error(&dir, source))?;
            for segment in segments.iter().filter(|entry| entry.name.len() == 20) {
                let Ok(first_byte) = segment.name.parse::<u64>() else { continue };
                let path = dir.join(&segment.name);
                let content =
                    files.read(&path).map_err(|source| io_error(&path, source))?.unwrap_or_default();
                let mut has_ended = false;
                for (n, bytes) in content.as_chunks::<UNIT_BYTES>().0.iter().enumerate() {
                    let number = first_byte / UNIT_BYTES as u64 + n as u64;
                    let Some(unit) = ConsumeQueueUnit::decode(bytes) else {
                        has_ended = true;
                        continue;
                    };
                    let place = || format!("{} at byte {}", path.display(), n * UNIT_BYTES);
                    if std::mem::take(&mut has_ended) {
                        report.find(place(), format!("units before number {number} were never written"));
                        report.wrong_queues.insert((topic.clone(), queue_id));
                    }
                    report.units += 1;
                    if unit.is_filler() || unit.is_gap() || unit.physical_offset < log.start() {
                        continue;
                    }
                    let is_right = unit.physical_offset < log_end
                        && log.record(unit.physical_offset).is_some_and(|record| {
                            record.topic() == topic.as_str()
                                && record.queue_id() == queue_id
                                && record.queue_offset() == QueueOffset(number)
                                && record.total_len() == unit.size_bytes as usize
                        });
                    if !is_right {
                        let at = unit.physical_offset;
                        report
                            .find(place(), format!("unit {number} points at {at}, where its message is not"));
                        report.wrong_queues.insert((topic.clone(), queue_id));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Every entry points at a record with a key of that hash, and there are as many as keys.
fn check_index(
    files: &dyn StoreFiles,
    root: &Path,
    sizes: IndexFileConfig,
    log: &LogFiles,
    keys: RangeInclusive<u64>,
    report: &mut StoreReport,
) -> Result<(), VerifyError> {
    let dir = root.join("index");
    let mut found = 0;
    for entry in files.list(&dir).map_err(|source| io_error(&dir, source))? {
        let path = dir.join(&entry.name);
        if entry.name.len() != 17 || entry.stat.len_bytes < HEADER_BYTES as u64 {
            continue;
        }
        report.index_files += 1;
        let map = files.open_map(&path).map_err(|source| io_error(&path, source))?;
        if map.len() as u64 != sizes.file_bytes() {
            let problem = format!("it has {} bytes, not {}", map.len(), sizes.file_bytes());
            report.find(path.display().to_string(), problem);
            report.wrong_index = true;
            continue;
        }
        let count = u64::from(map.get_u32(36)).max(1);
        let entries_at = HEADER_BYTES + sizes.slots as usize * 4;
        for number in 1..count {
            let at = entries_at + number as usize * 20;
            if at + 20 > map.len() {
                report.find(
                    path.display().to_string(),
                    format!("it says it has {count} entries, more than it holds"),
                );
                report.wrong_index = true;
                break;
            }
            let (hash, offset) = (map.get_u32(at), PhysicalOffset(map.get_u64(at + 4)));
            if offset < log.start() {
                continue;
            }
            found += 1;
            let is_right = log
                .record(offset)
                .is_some_and(|record| keys_of(&record).chain(tag_of(&record)).any(|key| key == hash));
            if !is_right {
                report.find(
                    format!("{} at byte {at}", path.display()),
                    format!("entry {number} points at {offset}, where no message with its key is"),
                );
                report.wrong_index = true;
            }
        }
    }
    report.index_entries = found;
    if report.index_files > 0 && !keys.contains(&found) {
        report.find(
            dir.display().to_string(),
            format!("it has {found} entries, and the log has {} keys", keys.end()),
        );
        report.wrong_index = true;
    }
    Ok(())
}

fn io_error(path: &Path, source: io::Error) -> VerifyError {
    VerifyError::Io { path: path.to_owned(), source }
}
