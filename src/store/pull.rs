//! Reading a queue: what a pull is answered with.
//!
//! RocketMQ: `DefaultMessageStore.getMessage`. Pure but for the reads of the queue and the log.

use std::hint::black_box;
use std::ops::Range;

use bytes::Bytes;
use tracing::error;

use super::commit_log::CommitLogReader;
use super::consume_queue::{ConsumeQueue, ConsumeQueueError, ConsumeQueueUnit};
use super::message_filter::MessageFilter;
use crate::protocol::message::RecordView;
use crate::types::{PhysicalOffset, QueueOffset};

const CACHE_LINE_BYTES: usize = 64;
/// Lines of a record that are read at its beginning, and at its end, where topic and properties are.
const LINES_READ: usize = 3;

/// Limits of one answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PullLimits {
    /// Messages of an answer, whatever the client asks for.
    pub max_messages: usize,
    /// Bytes of an answer; the first message is returned whatever its size.
    pub max_bytes: usize,
    /// Units looked at when few of them match.
    pub max_scanned_units: usize,
    /// Bytes of properties and bodies gone through for a condition.
    pub max_filter_bytes: usize,
}

impl Default for PullLimits {
    fn default() -> Self {
        Self {
            max_messages: 1024,
            max_bytes: 1024 * 1024,
            max_scanned_units: 800,
            max_filter_bytes: 16 << 20,
        }
    }
}

/// How a pull ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PullStatus {
    Found,
    /// In range, but nothing matched.
    NoMatchedMessage,
    /// In range, but what matched is deleted from the log.
    MessageWasRemoving,
    /// Nothing was ever stored in the queue.
    NoMessageInQueue,
    /// At the end: a message may come any moment. The only one that is held.
    OffsetOverflowOne,
    OffsetOverflowBadly,
    OffsetTooSmall,
}

impl PullStatus {
    /// Java's name of it; clients show it.
    pub fn name(self) -> &'static str {
        match self {
            PullStatus::Found => "FOUND",
            PullStatus::NoMatchedMessage => "NO_MATCHED_MESSAGE",
            PullStatus::MessageWasRemoving => "MESSAGE_WAS_REMOVING",
            PullStatus::NoMessageInQueue => "NO_MESSAGE_IN_QUEUE",
            PullStatus::OffsetOverflowOne => "OFFSET_OVERFLOW_ONE",
            PullStatus::OffsetOverflowBadly => "OFFSET_OVERFLOW_BADLY",
            PullStatus::OffsetTooSmall => "OFFSET_TOO_SMALL",
        }
    }
}

/// What a pull found.
#[derive(Clone, PartialEq, Debug)]
pub struct Pulled {
    pub status: PullStatus,
    /// Where to pull next.
    pub next: QueueOffset,
    /// Records, slices of the log; neighbours in one slice.
    pub records: Vec<Bytes>,
    pub count: usize,
    pub bytes: usize,
}

impl Pulled {
    pub fn nothing(status: PullStatus, next: QueueOffset) -> Self {
        Self { status, next, records: Vec::new(), count: 0, bytes: 0 }
    }
}

/// Reads up to `max_messages` messages that match `filter` from `from` on; a negative `from` is before the queue.
pub fn pull(
    queue: &mut ConsumeQueue,
    log: &CommitLogReader,
    from: i64,
    max_messages: usize,
    filter: &MessageFilter,
    limits: PullLimits,
    units: &mut Vec<ConsumeQueueUnit>,
) -> Result<Pulled, ConsumeQueueError> {
    let (min, max) = (queue.min_offset(), queue.max_offset());
    if max == QueueOffset(0) {
        return Ok(Pulled::nothing(PullStatus::NoMessageInQueue, QueueOffset(0)));
    }
    let from = match u64::try_from(from) {
        Ok(from) if from >= min.0 => QueueOffset(from),
        _ => return Ok(Pulled::nothing(PullStatus::OffsetTooSmall, min)),
    };
    if from == max {
        return Ok(Pulled::nothing(PullStatus::OffsetOverflowOne, max));
    }
    if from > max {
        return Ok(Pulled::nothing(PullStatus::OffsetOverflowBadly, max));
    }

    let max_messages = max_messages.clamp(1, limits.max_messages);
    let scanned = match filter {
        MessageFilter::All => max_messages,
        MessageFilter::Tags(_) | MessageFilter::Sql(_) | MessageFilter::Retried(_) => {
            limits.max_scanned_units.max(max_messages)
        }
    };
    units.clear();
    queue.read(from, scanned, units)?;

    let mut found = Pulled::nothing(PullStatus::NoMatchedMessage, from);
    let mut runs = Runs::default();
    let log_min = log.min_offset();
    let mut filter_bytes = 0;
    for unit in units.iter() {
        let size = unit.size_bytes as usize;
        if unit.physical_offset < log_min || unit.is_filler() || unit.is_gap() {
            found.status = PullStatus::MessageWasRemoving;
            found.next = found.next.advance(1);
            continue;
        }
        let looked = filter.look_at(log, unit);
        filter_bytes += looked.bytes;
        if looked.matches {
            if found.count > 0 && (found.count == max_messages || found.bytes + size > limits.max_bytes) {
                break;
            }
            runs.push(unit, log);
            found.count += 1;
            found.bytes += size;
        }
        found.next = found.next.advance(1);
        if found.count == max_messages || filter_bytes >= limits.max_filter_bytes {
            break;
        }
    }
    let damaged = runs.take_whole(log, &mut found.records);
    found.count -= damaged;
    // What was deleted between the look at the minimum and the read is not in the answer.
    found.bytes = found.records.iter().map(Bytes::len).sum();
    if !found.records.is_empty() {
        found.status = PullStatus::Found;
    } else if found.count > 0 || damaged > 0 {
        found.status = PullStatus::MessageWasRemoving;
    }
    Ok(found)
}

/// The records of an answer.
#[derive(Default)]
struct Runs {
    runs: Vec<Run>,
    /// Lengths of all records, one behind the other.
    sizes: Vec<usize>,
}

/// Neighbouring records, read as one slice.
struct Run {
    start: PhysicalOffset,
    len: usize,
    /// Which of the sizes are those of its records.
    sizes: Range<usize>,
}

impl Runs {
    fn push(&mut self, unit: &ConsumeQueueUnit, log: &CommitLogReader) {
        let (start, len, place) = (unit.physical_offset, unit.size_bytes as usize, self.sizes.len());
        self.sizes.push(len);
        match self.runs.last_mut() {
            Some(run)
                if start == run.start.advance(run.len as u64)
                    && !start.0.is_multiple_of(log.segment_bytes()) =>
            {
                run.len += len;
                run.sizes.end = place + 1;
            }
            _ => self.runs.push(Run { start, len, sizes: place..place + 1 }),
        }
    }

    /// Adds what is whole to `records`. Returns how many are damaged and left out: a client that is handed one loses all
    /// behind it.
    fn take_whole(self, log: &CommitLogReader, records: &mut Vec<Bytes>) -> usize {
        let Self { runs, sizes } = self;
        let read = runs.into_iter().filter_map(|Run { start, len, sizes: of_run }| {
            Some((start, log.read(start, len)?, &sizes[of_run]))
        });
        let read: Vec<_> = read.collect();
        for (_, bytes, sizes) in &read {
            warm(bytes, sizes);
        }
        let mut damaged = 0;
        for (start, bytes, sizes) in read {
            let (mut begin, mut at) = (0, 0);
            for size in sizes {
                let physical_offset = start.advance(at as u64);
                let record = RecordView::parse(&bytes[at..at + size]);
                let is_own = |record: &RecordView| record.physical_offset() == physical_offset;
                if !record.is_ok_and(|record| record.total_len() == *size && is_own(&record)) {
                    let place = log.place_of(physical_offset);
                    error!(position = physical_offset.0, %place, "damaged record left out of a pull");
                    damaged += 1;
                    records.extend((begin < at).then(|| bytes.slice(begin..at)));
                    begin = at + size;
                }
                at += size;
            }
            records.extend((begin < at).then(|| bytes.slice(begin..at)));
        }
        damaged
    }
}

/// Looks at where each record begins and ends, so that memory brings all of these places at once. While a record is read,
/// one look tells where the next one goes, and each would wait for memory by itself.
fn warm(bytes: &[u8], sizes: &[usize]) {
    let (mut at, mut seen) = (0, 0);
    for size in sizes {
        let record = &bytes[at..at + size];
        let begin = record.iter().step_by(CACHE_LINE_BYTES).take(LINES_READ);
        let end = record.iter().rev().step_by(CACHE_LINE_BYTES).take(LINES_READ);
        seen ^= begin.chain(end).fold(0, |seen, byte| seen ^ byte);
        at += size;
    }
    black_box(seen);
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::clock::WallMs;
    use crate::filter::{FilterRules, SqlFilter};
    use crate::protocol::message::{PendingMessage, StoredMessage};
    use crate::protocol::properties;
    use crate::store::commit_log::tests::message;
    use crate::store::commit_log::{CommitLog, LogTail};
    use crate::store::consume_queue::ConsumeQueueConfig;
    use crate::store::file::StoreFiles;
    use crate::store::memory_files::MemoryFiles;
    use crate::store::message_filter::TagFilter;
    use crate::store::segment::SegmentDir;
    use crate::types::PhysicalOffset;

    const SEGMENT_BYTES: u64 = 1024;
    /// The first two have one hash.
    const TAGS: [Option<&str>; 4] = [Some("Aa"), Some("BB"), Some("c"), None];

    /// What is known of a message without any file.
    #[derive(Clone, Debug)]
    struct Known {
        tag: Option<&'static str>,
        size: usize,
        position: u64,
    }

    struct Store {
        log: CommitLog,
        queue: ConsumeQueue,
        known: Vec<Known>,
        /// Number of the first message.
        begin: u64,
        min: u64,
    }

    /// A queue that begins at `begin`, with messages of these tags and body lengths, after the oldest
    /// `deleted` segments of the log are gone; `trimmed`: the queue has been told.
    fn store(begin: u64, messages: &[(usize, usize)], deleted: usize, trimmed: bool) -> Store {
        let files: Arc<dyn StoreFiles> = Arc::new(MemoryFiles::new());
        let dir =
            SegmentDir { files: files.clone(), dir: PathBuf::from("/log"), segment_bytes: SEGMENT_BYTES };
        let segments = dir.load().unwrap();
        let mut log = CommitLog::start(dir, segments, LogTail::default()).unwrap();
        let config = ConsumeQueueConfig { segment_units: 4, max_unwritten_units: 3 };
        let mut queue = ConsumeQueue::open(files, PathBuf::from("/queue/T/0"), config, None).unwrap();
        let mut known = Vec::new();
        for ((tag, len), number) in messages.iter().zip(begin..) {
            let tag = TAGS[*tag];
            let text = properties::encode(tag.map(|tag| (properties::names::TAGS, tag)));
            let pending = PendingMessage { properties: text, ..message(&"x".repeat(*len)) };
            let appended = log.appender.append(&[pending], QueueOffset(number), WallMs(1)).unwrap();
            let size = appended.end.0 - appended.start.0;
            let tags_code = properties::tags_code(tag);
            let unit =
                ConsumeQueueUnit { physical_offset: appended.start, size_bytes: size as u32, tags_code };
            queue.append(QueueOffset(number), &[unit]).unwrap();
            known.push(Known { tag, size: size as usize, position: appended.start.0 });
        }
        log.appender.publish().unwrap();
        log.appender.delete_before(PhysicalOffset(u64::MAX), deleted).unwrap();
        let log_min = log.reader.min_offset();
        let mut min = if known.is_empty() { 0 } else { begin };
        if trimmed {
            queue.delete_before(log_min).unwrap();
            min += known.iter().take_while(|message| message.position < log_min.0).count() as u64;
        }
        Store { log, queue, known, begin, min }
    }

    /// What a pull is to find: status, next offset, numbers.
    fn expected(
        store: &Store,
        from: i64,
        asked: usize,
        wanted: Option<&[&str]>,
        limits: PullLimits,
    ) -> (PullStatus, u64, Vec<u64>) {
        let (min, max) = (store.min, store.begin + store.known.len() as u64);
        let nothing = |status, next| (status, next, Vec::new());
        if store.known.is_empty() {
            return nothing(PullStatus::NoMessageInQueue, 0);
        }
        match from {
            _ if from < min as i64 => return nothing(PullStatus::OffsetTooSmall, min),
            _ if from == max as i64 => return nothing(PullStatus::OffsetOverflowOne, max),
            _ if from > max as i64 => return nothing(PullStatus::OffsetOverflowBadly, max),
            _ => {}
        }
        let asked = asked.clamp(1, limits.max_messages);
        let scanned = if wanted.is_none() { asked } else { limits.max_scanned_units.max(asked) };
        let log_min = store.log.reader.min_offset().0;
        let (mut next, mut found, mut bytes, mut gone) = (from as u64, Vec::new(), 0, false);
        for number in (next..max).take(scanned) {
            let message = &store.known[(number - store.begin) as usize];
            if message.position < log_min {
                gone = true;
            } else if wanted.is_none_or(|wanted| message.tag.is_some_and(|tag| wanted.contains(&tag))) {
                if found.len() == asked || (!found.is_empty() && bytes + message.size > limits.max_bytes) {
                    break;
                }
                found.push(number);
                bytes += message.size;
            }
            next = number + 1;
            if found.len() == asked {
                break;
            }
        }
        let status = match (found.is_empty(), gone) {
            (false, _) => PullStatus::Found,
            (true, true) => PullStatus::MessageWasRemoving,
            (true, false) => PullStatus::NoMatchedMessage,
        };
        (status, next, found)
    }

    /// A filter by these tags, or by a condition that says the same.
    fn filter_of(wanted: Option<&[&str]>, sql: bool) -> MessageFilter {
        match wanted {
            None => MessageFilter::All,
            Some(tags) if sql => {
                let condition = format!("TAGS IN ('{}')", tags.join("', '"));
                let filter = SqlFilter::compile(&condition, &FilterRules::default()).unwrap();
                MessageFilter::Sql(Arc::new(filter))
            }
            Some(tags) => {
                MessageFilter::Tags(Arc::new(TagFilter::new(tags.iter().map(|tag| (*tag).to_owned()))))
            }
        }
    }

    const WANTED: [Option<&[&str]>; 5] =
        [None, Some(&["Aa"]), Some(&["c"]), Some(&["BB", "c"]), Some(&["zz"])];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn pull_finds_what_a_list_would(
            begin in 0u64..6,
            messages in prop::collection::vec((0usize..4, 0usize..300), 0..24),
            deleted in 0usize..4,
            trimmed: bool,
            pulls in prop::collection::vec(
                (-2i64..36, 0usize..12, (0usize..5, any::<bool>()), 1usize..8, 100usize..1_500, 1usize..12), 1..20,
            ),
        ) {
            let mut store = store(begin, &messages, deleted, trimmed);
            let mut units = Vec::new();
            for (from, asked, (wanted, sql), max_messages, max_bytes, max_scanned_units) in pulls {
                let wanted = WANTED[wanted];
                let limits = PullLimits { max_messages, max_bytes, max_scanned_units, ..PullLimits::default() };
                let (status, next, numbers) = expected(&store, from, asked, wanted, limits);
                let filter = filter_of(wanted, sql);
                let reader = store.log.reader.clone();
                let pulled = pull(&mut store.queue, &reader, from, asked, &filter, limits, &mut units).unwrap();
                prop_assert_eq!((pulled.status, pulled.next.0), (status, next), "from {}", from);
                let bytes = pulled.records.concat();
                prop_assert_eq!((pulled.count, pulled.bytes), (numbers.len(), bytes.len()));
                let stored = StoredMessage::decode_all(bytes.into());
                let found: Vec<_> = stored.iter().map(|message| message.queue_offset.0).collect();
                prop_assert_eq!(found, numbers);
            }
        }
    }

    #[test]
    fn neighbours_leave_as_one_slice_up_to_the_end_of_a_segment() {
        // Records of 193 bytes: five fit a segment.
        let mut store = store(0, &[(3, 101); 7], 0, false);
        let reader = store.log.reader.clone();
        let limits = PullLimits::default();
        let pulled =
            pull(&mut store.queue, &reader, 0, 32, &MessageFilter::All, limits, &mut Vec::new()).unwrap();
        assert_eq!(pulled.records.iter().map(Bytes::len).collect::<Vec<_>>(), [5 * 193, 2 * 193]);
    }

    #[test]
    fn equal_hashes_are_told_apart_by_their_text() {
        assert_eq!(properties::tags_code(Some("Aa")), properties::tags_code(Some("BB")));
        let mut store = store(0, &[(1, 1), (0, 1), (1, 1)], 0, false);
        let reader = store.log.reader.clone();
        let (filter, limits) = (filter_of(Some(&["Aa"]), false), PullLimits::default());
        let pulled = pull(&mut store.queue, &reader, 0, 32, &filter, limits, &mut Vec::new()).unwrap();
        assert_eq!((pulled.count, pulled.next.0), (1, 3));
    }
}
