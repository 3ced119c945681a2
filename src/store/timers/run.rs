//! A file of entries sorted by key, of which the part that is due next is in memory.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::entry::{ENTRY_BYTES, TimerEntry, TimerKey};
use crate::store::file::StoreFile;
use crate::types::PhysicalOffset;

/// Entries read at once: 16 KiB.
const READ_ENTRIES: u64 = 512;
/// Bytes read at once where all are read.
const CHECK_BYTES: usize = 256 * 1024;

/// What a manifest knows of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunFacts {
    /// Number in the name of the file.
    pub number: u64,
    pub count: u64,
    pub last: TimerKey,
    /// No entry that is still pending lies before this in the log.
    pub min_physical: PhysicalOffset,
    /// Of the whole file.
    pub crc: u32,
}

/// An open run with a place to read on.
#[derive(Debug)]
pub struct TimerRun {
    pub facts: RunFacts,
    pub file: Arc<dyn StoreFile>,
    /// What lies before is settled, and will not be asked again. It only grows.
    pub from: TimerKey,
    /// Index of the first entry in `ahead`.
    next: u64,
    ahead: VecDeque<TimerEntry>,
}

impl TimerRun {
    pub fn new(facts: RunFacts, file: Arc<dyn StoreFile>) -> Self {
        Self { facts, file, from: TimerKey::MIN, next: 0, ahead: VecDeque::new() }
    }

    /// Whether the file holds what was written to it.
    pub fn is_sound(&self) -> io::Result<bool> {
        let mut hasher = crc32fast::Hasher::new();
        let mut bytes = vec![0; CHECK_BYTES];
        let (mut at, end) = (0, self.facts.count * ENTRY_BYTES as u64);
        while at < end {
            let part = &mut bytes[..(end - at).min(CHECK_BYTES as u64) as usize];
            self.file.read_exact_at(part, at)?;
            hasher.update(part);
            at += part.len() as u64;
        }
        Ok(hasher.finalize() == self.facts.crc)
    }

    /// The entry to read next.
    pub fn head(&mut self) -> io::Result<Option<TimerEntry>> {
        if self.ahead.is_empty() {
            let end = (self.next + READ_ENTRIES).min(self.facts.count);
            self.ahead = read_entries(&*self.file, self.next, end)?.into();
        }
        Ok(self.ahead.front().copied())
    }

    pub fn pass_head(&mut self) {
        if self.ahead.pop_front().is_some() {
            self.next += 1;
        }
    }

    /// The run without what lies before `from`.
    pub fn starting_at(mut self, from: TimerKey) -> io::Result<Self> {
        self.next = self.lower_bound(from)?;
        self.from = from;
        Ok(self)
    }

    /// Index of the first entry from `key` on.
    pub fn lower_bound(&self, key: TimerKey) -> io::Result<u64> {
        let (mut low, mut high) = (0, self.facts.count);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = read_entries(&*self.file, middle, middle + 1)?;
            if entry.first().is_some_and(|entry| entry.key < key) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Shows entries that were not passed yet, from `from` on, in order, until `see` has seen enough.
    pub fn walk(&self, from: TimerKey, mut see: impl FnMut(&TimerEntry) -> bool) -> io::Result<()> {
        let mut at = self.lower_bound(from)?.max(self.next);
        while at < self.facts.count {
            let end = (at + READ_ENTRIES).min(self.facts.count);
            for entry in read_entries(&*self.file, at, end)? {
                if !see(&entry) {
                    return Ok(());
                }
            }
            at = end;
        }
        Ok(())
    }
}

/// Entries `[from, to)` of a run.
pub fn read_entries(file: &dyn StoreFile, from: u64, to: u64) -> io::Result<Vec<TimerEntry>> {
    let mut bytes = vec![0; to.saturating_sub(from) as usize * ENTRY_BYTES];
    file.read_exact_at(&mut bytes, from * ENTRY_BYTES as u64)?;
    Ok(bytes.chunks_exact(ENTRY_BYTES).map(TimerEntry::get).collect())
}
