//! One file of the key index: a hash table on disk, filled once and in order.
//!
//! ```text
//! 0        8        16         24         32        36       40                  40 + slots×4
//! │ begin  │ end    │ begin    │ end      │ used    │ count  │ slot 0 │ slot 1 …  │ entry 0 │ entry 1 …
//! │ stored │ stored │ physical │ physical │ slots   │        │ 4 bytes each       │ 20 bytes each
//!
//! entry │ key hash (4) │ physical offset (8) │ seconds since begin stored (4) │ older entry of the slot (4) │
//! ```
//!
//! All numbers are big-endian. A slot holds the number of its newest entry; entry 0 is never used, so 0 means
//! none and `count`, the number the next entry will have, starts at 1. RocketMQ: `IndexFile`, `IndexHeader`.
//!
//! Entries are in the order of the commit log, and never change. After a crash only the slots are in doubt,
//! and they follow from the entries: [`IndexFile::cut`] makes them anew.

use std::io;
use std::ops::RangeInclusive;

use super::mapped_file::MappedFile;
use crate::protocol::java_hash::continue_java_hash;
use crate::types::PhysicalOffset;

pub const HEADER_BYTES: usize = 40;
const SLOT_BYTES: usize = 4;
const ENTRY_BYTES: usize = 20;

/// Sizes of an index file. RocketMQ: `maxHashSlotNum`, `maxIndexNum`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexFileConfig {
    pub slots: u32,
    /// Entries the file has room for; the first is never used.
    pub entries: u32,
}

impl Default for IndexFileConfig {
    fn default() -> Self {
        Self { slots: 5_000_000, entries: 20_000_000 }
    }
}

impl IndexFileConfig {
    pub fn file_bytes(&self) -> u64 {
        HEADER_BYTES as u64
            + u64::from(self.slots) * SLOT_BYTES as u64
            + u64::from(self.entries) * ENTRY_BYTES as u64
    }
}

/// What stands in the first 40 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexHeader {
    /// Milliseconds; store times of the first and the last entry.
    pub begin_stored_at_ms: i64,
    pub end_stored_at_ms: i64,
    pub begin_physical: PhysicalOffset,
    pub end_physical: PhysicalOffset,
    pub used_slots: u32,
    /// The number the next entry will have.
    pub count: u32,
}

/// One key of one message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    hash: u32,
    physical_offset: PhysicalOffset,
    seconds: u32,
    older: u32,
}

/// What a query looks for.
#[derive(Clone, Debug)]
pub struct WantedEntries {
    /// Of topic and key, see [`hash_of`].
    pub hash: u32,
    /// Store times in milliseconds. Entries know their time to the second, rounded down, as in Java.
    pub stored_at_ms: RangeInclusive<i64>,
    /// Only messages below this position; for a query that goes on where another ended.
    pub before: Option<PhysicalOffset>,
    pub max: usize,
}

/// A mapped index file. One owner reads and writes.
pub struct IndexFile {
    map: MappedFile,
    config: IndexFileConfig,
    header: IndexHeader,
    unflushed: bool,
}

impl IndexFile {
    /// Wraps a file of [`IndexFileConfig::file_bytes`] bytes, new (all zeros) or filled before.
    pub fn new(map: MappedFile, config: IndexFileConfig) -> Self {
        assert_eq!(map.len() as u64, config.file_bytes(), "the file has the length of its sizes");
        let header = IndexHeader {
            begin_stored_at_ms: map.get_u64(0) as i64,
            end_stored_at_ms: map.get_u64(8) as i64,
            begin_physical: PhysicalOffset(map.get_u64(16)),
            end_physical: PhysicalOffset(map.get_u64(24)),
            used_slots: map.get_u32(32),
            count: map.get_u32(36).clamp(1, config.entries.max(1)),
        };
        Self { map, config, header, unflushed: false }
    }

    pub fn header(&self) -> IndexHeader {
        self.header
    }

    pub fn is_empty(&self) -> bool {
        self.header.count <= 1
    }

    pub fn is_full(&self) -> bool {
        self.header.count >= self.config.entries
    }

    /// Adds an entry for `key` (see [`hash_of`]); returns `false` when the file is full.
    pub fn put(&mut self, hash: u32, physical_offset: PhysicalOffset, stored_at_ms: i64) -> bool {
        if self.is_full() {
            return false;
        }
        let header = &mut self.header;
        let number = header.count;
        if number == 1 {
            header.begin_stored_at_ms = stored_at_ms;
            header.begin_physical = physical_offset;
        }
        let seconds = (stored_at_ms - header.begin_stored_at_ms) / 1000;
        let slot = self.config.slot_at(hash);
        let newest = self.map.get_u32(slot);
        let older = if newest < number { newest } else { 0 };
        header.used_slots += u32::from(older == 0);
        header.count = number + 1;
        header.end_stored_at_ms = stored_at_ms;
        header.end_physical = physical_offset;
        self.write_entry(
            number,
            Entry { hash, physical_offset, seconds: seconds.clamp(0, i64::from(i32::MAX)) as u32, older },
        );
        self.map.put_u32(slot, number);
        self.write_header();
        true
    }

    /// Walks the chain of a hash from its newest entry, or on from `at`, and adds what fits to `found`, newest first,
    /// until that holds `wanted.max` positions or `steps` entries were looked at. Returns where to go on; `None`: the
    /// file has no more.
    pub fn walk(
        &self,
        wanted: &WantedEntries,
        at: Option<u32>,
        steps: &mut usize,
        found: &mut Vec<PhysicalOffset>,
    ) -> Option<u32> {
        let mut number = at.unwrap_or_else(|| self.map.get_u32(self.config.slot_at(wanted.hash)));
        // Numbers fall along a chain; a damaged one that does not is left, so that the walk ends.
        let mut limit = self.header.count;
        while number > 0 && number < limit {
            if *steps == 0 || found.len() >= wanted.max {
                return Some(number);
            }
            *steps -= 1;
            let entry = self.entry(number);
            let stored_at_ms = self.header.begin_stored_at_ms + i64::from(entry.seconds) * 1000;
            if stored_at_ms < *wanted.stored_at_ms.start() {
                return None;
            }
            let is_before = wanted.before.is_none_or(|before| entry.physical_offset < before);
            if entry.hash == wanted.hash && stored_at_ms <= *wanted.stored_at_ms.end() && is_before {
                found.push(entry.physical_offset);
            }
            limit = number;
            number = entry.older;
        }
        None
    }

    /// Whether some entry may be of that time.
    pub fn may_hold(&self, stored_at_ms: &RangeInclusive<i64>) -> bool {
        !self.is_empty()
            && self.header.begin_stored_at_ms <= *stored_at_ms.end()
            && self.header.end_stored_at_ms >= *stored_at_ms.start()
    }

    /// Drops entries at or beyond `at`, and what a crash left half written. Every entry before `at` must have
    /// been flushed. Reads all entries that stay.
    pub fn cut(&mut self, at: PhysicalOffset) {
        self.map.bytes_mut(HEADER_BYTES..self.config.entry_at(0)).fill(0);
        let (mut number, mut used_slots) = (1, 0);
        let mut last: Option<Entry> = None;
        while number < self.header.count {
            let entry = self.entry(number);
            let goes_back = last.is_some_and(|last| entry.physical_offset < last.physical_offset);
            if entry.physical_offset >= at || goes_back || entry.is_unwritten() {
                break;
            }
            let slot = self.config.slot_at(entry.hash);
            used_slots += u32::from(self.map.get_u32(slot) == 0);
            self.map.put_u32(slot, number);
            last = Some(entry);
            number += 1;
        }
        // What lies beyond is written again; until then it must not look like entries to a later cut.
        let rest = self.config.entry_at(number)..self.config.entry_at(self.header.count);
        self.map.bytes_mut(rest).fill(0);
        self.header.count = number;
        self.header.used_slots = used_slots;
        if let Some(last) = last {
            self.header.end_physical = last.physical_offset;
            self.header.end_stored_at_ms = self
                .header
                .end_stored_at_ms
                .min(self.header.begin_stored_at_ms + i64::from(last.seconds) * 1000 + 999);
        }
        self.write_header();
    }

    /// Makes every entry durable.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.unflushed {
            self.map.flush(0..self.config.entry_at(self.header.count))?;
            self.unflushed = false;
        }
        Ok(())
    }

    fn entry(&self, number: u32) -> Entry {
        let at = self.config.entry_at(number);
        Entry {
            hash: self.map.get_u32(at),
            physical_offset: PhysicalOffset(self.map.get_u64(at + 4)),
            seconds: self.map.get_u32(at + 12),
            older: self.map.get_u32(at + 16),
        }
    }

    fn write_entry(&mut self, number: u32, entry: Entry) {
        let at = self.config.entry_at(number);
        self.map.put_u32(at, entry.hash);
        self.map.put_u64(at + 4, entry.physical_offset.0);
        self.map.put_u32(at + 12, entry.seconds);
        self.map.put_u32(at + 16, entry.older);
    }

    fn write_header(&mut self) {
        let header = self.header;
        self.map.put_u64(0, header.begin_stored_at_ms as u64);
        self.map.put_u64(8, header.end_stored_at_ms as u64);
        self.map.put_u64(16, header.begin_physical.0);
        self.map.put_u64(24, header.end_physical.0);
        self.map.put_u32(32, header.used_slots);
        self.map.put_u32(36, header.count);
        self.unflushed = true;
    }
}

impl IndexFileConfig {
    fn slot_at(&self, hash: u32) -> usize {
        HEADER_BYTES + (hash % self.slots) as usize * SLOT_BYTES
    }

    fn entry_at(&self, number: u32) -> usize {
        HEADER_BYTES + self.slots as usize * SLOT_BYTES + number as usize * ENTRY_BYTES
    }
}

impl Entry {
    fn is_unwritten(&self) -> bool {
        *self == Entry { hash: 0, physical_offset: PhysicalOffset(0), seconds: 0, older: 0 }
    }
}

/// The hash a key is filed under. RocketMQ: `IndexFile.indexKeyHashMethod` of `topic#key`. A tag is filed as the key
/// [`tag_key`] makes of it.
pub fn hash_of(topic: &str, key: &str) -> u32 {
    let hash = [topic, "#", key].into_iter().fold(0, continue_java_hash);
    match hash {
        i32::MIN => 0,
        hash => hash.unsigned_abs(),
    }
}

/// The key that stands for a tag. RocketMQ 5.5: `IndexService.buildKey` with the index type `T`.
pub fn tag_key(tag: &str) -> String {
    format!("T#{tag}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::protocol::java_hash::java_string_hash;
    use crate::store::file::StoreFiles;
    use crate::store::memory_files::MemoryFiles;

    const CONFIG: IndexFileConfig = IndexFileConfig { slots: 2, entries: 4 };

    fn file() -> IndexFile {
        let files = MemoryFiles::new();
        files.create_dir_all(Path::new("/index")).unwrap();
        let map = files.create_map(Path::new("/index/20240101000000000"), CONFIG.file_bytes()).unwrap();
        IndexFile::new(map, CONFIG)
    }

    fn select(file: &IndexFile, key: &str, stored_at_ms: RangeInclusive<i64>) -> Vec<u64> {
        let mut found = Vec::new();
        let wanted = WantedEntries { hash: hash_of("T", key), stored_at_ms, before: None, max: 9 };
        assert_eq!(file.walk(&wanted, None, &mut 99, &mut found), None);
        found.into_iter().map(|at| at.0).collect()
    }

    #[test]
    fn default_file_has_the_length_of_java() {
        assert_eq!(IndexFileConfig::default().file_bytes(), 420_000_040);
    }

    #[test]
    fn bytes_are_those_of_java() {
        let mut file = file();
        // "T#k" hashes to 81_916, an even number: slot 0.
        assert_eq!(hash_of("T", "k"), 81_916);
        assert!(file.put(hash_of("T", "k"), PhysicalOffset(0x11), 5_000));
        assert!(file.put(hash_of("T", "k"), PhysicalOffset(0x22), 7_999));
        let header = [
            0, 0, 0, 0, 0, 0, 0x13, 0x88, 0, 0, 0, 0, 0, 0, 0x1F, 0x3F, 0, 0, 0, 0, 0, 0, 0, 0x11, 0, 0, 0,
            0, 0, 0, 0, 0x22, 0, 0, 0, 1, 0, 0, 0, 3,
        ];
        assert_eq!(file.map.bytes(0..40), header);
        assert_eq!(file.map.bytes(40..48), [0, 0, 0, 2, 0, 0, 0, 0]);
        assert_eq!(file.map.bytes(48..68), [0; 20]);
        assert_eq!(
            file.map.bytes(68..108),
            [
                0, 1, 0x3F, 0xFC, 0, 0, 0, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0, 0, 0, 0, // entry 1
                0, 1, 0x3F, 0xFC, 0, 0, 0, 0, 0, 0, 0, 0x22, 0, 0, 0, 2, 0, 0, 0, 1, // entry 2
            ]
        );
    }

    #[test]
    fn file_is_full_when_only_the_unused_entry_would_be_left() {
        let mut file = file();
        for n in 0..3 {
            assert!(file.put(n, PhysicalOffset(u64::from(n)), 0));
        }
        assert!(file.is_full());
        assert!(!file.put(9, PhysicalOffset(9), 0));
    }

    #[test]
    fn walk_ends_on_damaged_chains() {
        let mut file = file();
        for at in [10, 20, 30] {
            file.put(hash_of("T", "k"), PhysicalOffset(at), 0);
        }
        assert_eq!(select(&file, "k", 0..=i64::MAX), [30, 20, 10]);
        let older_of_2 = CONFIG.entry_at(2) + 16;
        for older in [2, 3, 4, u32::MAX] {
            file.map.put_u32(older_of_2, older);
            assert_eq!(select(&file, "k", 0..=i64::MAX), [30, 20]);
        }
    }

    #[test]
    fn walk_goes_on_where_it_was_interrupted() {
        let mut file = file();
        for at in [10, 20, 30] {
            file.put(hash_of("T", "k"), PhysicalOffset(at), 0);
        }
        let wanted = |before: Option<u64>, max| WantedEntries {
            hash: hash_of("T", "k"),
            stored_at_ms: 0..=i64::MAX,
            before: before.map(PhysicalOffset),
            max,
        };
        let mut found = Vec::new();
        let at = file.walk(&wanted(None, 9), None, &mut 1, &mut found);
        assert_eq!((at, found.len()), (Some(2), 1));
        assert_eq!(file.walk(&wanted(None, 9), at, &mut 9, &mut found), None);
        assert_eq!(found, [30, 20, 10].map(PhysicalOffset));
        found.clear();
        assert_eq!(file.walk(&wanted(Some(30), 1), None, &mut 9, &mut found), Some(1));
        assert_eq!(found, [20].map(PhysicalOffset));
    }

    #[test]
    fn hash_of_the_smallest_number_is_zero() {
        // "polygenelubricants" hashes to the number that has no positive counterpart.
        assert_eq!(java_string_hash("polygenelubricants"), i32::MIN);
        assert_eq!(hash_of("T", ""), java_string_hash("T#").unsigned_abs());
    }
}
