//! Where messages with a key lie: index files from old to new, the last of which is filled.
//!
//! Derived from the commit log; a file that is in doubt is cut and filled again. RocketMQ: `IndexService`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::{OpenMode, StoreFiles};
use super::index_file::{HEADER_BYTES, IndexFile};
pub use super::index_file::{IndexFileConfig, WantedEntries, hash_of, tag_key};
use super::known_derived::{KnownIndex, KnownIndexFile};
use crate::types::PhysicalOffset;

/// Why the index cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyIndexError {
    #[error("cannot access index file {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// Written with other sizes, or damaged.
    #[error("index file {} has {len_bytes} bytes instead of {expected_bytes}", path.display())]
    UnexpectedLength { path: PathBuf, len_bytes: u64, expected_bytes: u64 },
}

/// Finds messages by topic and key. One owner reads and writes, and flushes before it lets go.
pub struct KeyIndex {
    files: Arc<dyn StoreFiles>,
    dir: PathBuf,
    config: IndexFileConfig,
    /// Sorted by name, which is by age.
    members: Vec<Member>,
    names_unflushed: bool,
}

struct Member {
    /// `yyyyMMddHHmmssSSS`, read as a number.
    name: u64,
    file: IndexFile,
}

/// A query under way: it can be left and gone on with, whatever was added or deleted meanwhile.
#[derive(Debug)]
pub struct KeyWalk {
    wanted: WantedEntries,
    /// The file that is walked, by name; the next one is the newest below it.
    name: u64,
    /// The entry to look at next, unless the file is begun.
    at: Option<u32>,
    found: Vec<PhysicalOffset>,
}

impl KeyWalk {
    pub fn new(wanted: WantedEntries) -> Self {
        Self { wanted, name: u64::MAX, at: None, found: Vec::new() }
    }

    /// Positions of messages that may have the key, newest first. Other keys may share the hash, so whoever
    /// asks compares the messages themselves.
    pub fn into_found(self) -> Vec<PhysicalOffset> {
        self.found
    }
}

impl KeyIndex {
    /// Opens the index in `dir`; no file is made before the first key.
    ///
    /// `truncate_at` is for a start after a crash: entries at or beyond it are dropped. It must not be above the
    /// position whose entries had been flushed.
    pub fn open(
        files: Arc<dyn StoreFiles>,
        dir: PathBuf,
        config: IndexFileConfig,
        truncate_at: Option<PhysicalOffset>,
    ) -> Result<Self, KeyIndexError> {
        let mut index = Self { files, dir, config, members: Vec::new(), names_unflushed: false };
        let listed = index.files.list(&index.dir).map_err(|source| io_error(&index.dir, source))?;
        let mut names: Vec<_> = listed
            .iter()
            .filter(|entry| !entry.stat.is_dir && entry.name.len() == 17)
            .filter_map(|entry| Some((entry.name.parse().ok()?, entry.stat.len_bytes)))
            .collect();
        names.sort_unstable();
        for (name, len_bytes) in names {
            let (path, expected_bytes) = (index.path(name), config.file_bytes());
            if len_bytes == expected_bytes {
                let map = index.files.open_map(&path).map_err(|source| io_error(&path, source))?;
                index.members.push(Member { name, file: IndexFile::new(map, config) });
            } else if index.holds_nothing(name)? {
                // A crash came while the file was being made.
                index.remove(name)?;
            } else {
                return Err(KeyIndexError::UnexpectedLength { path, len_bytes, expected_bytes });
            }
        }
        if let Some(at) = truncate_at {
            index.truncate(at)?;
        }
        Ok(index)
    }

    /// The last position that was indexed: a dispatcher passes over messages up to there.
    pub fn max_physical(&self) -> Option<PhysicalOffset> {
        let member = self.members.iter().rev().find(|member| !member.file.is_empty())?;
        Some(member.file.header().end_physical)
    }

    /// Records that the message at `physical_offset`, stored at `stored_at_ms`, has `key`. Positions never fall.
    pub fn put(
        &mut self,
        topic: &str,
        key: &str,
        physical_offset: PhysicalOffset,
        stored_at_ms: i64,
    ) -> Result<(), KeyIndexError> {
        self.put_hash(hash_of(topic, key), physical_offset, stored_at_ms)
    }

    /// As [`put`](Self::put), with the hash of topic and key.
    pub fn put_hash(
        &mut self,
        hash: u32,
        physical_offset: PhysicalOffset,
        stored_at_ms: i64,
    ) -> Result<(), KeyIndexError> {
        loop {
            if let Some(last) = self.members.last_mut()
                && last.file.put(hash, physical_offset, stored_at_ms)
            {
                return Ok(());
            }
            self.roll(stored_at_ms)?;
        }
    }

    /// Goes on with a query, looking at no more than `steps` entries; true when it is done.
    pub fn walk(&self, walk: &mut KeyWalk, mut steps: usize) -> bool {
        let begun = walk.name;
        for member in self.members.iter().rev().skip_while(|member| member.name > begun) {
            if walk.found.len() >= walk.wanted.max {
                return true;
            }
            let at = walk.at.take().filter(|_| member.name == walk.name);
            walk.name = member.name;
            if !member.file.may_hold(&walk.wanted.stored_at_ms) {
                continue;
            }
            let Some(next) = member.file.walk(&walk.wanted, at, &mut steps, &mut walk.found) else {
                continue;
            };
            walk.at = Some(next);
            return walk.found.len() >= walk.wanted.max;
        }
        true
    }

    /// Store time and position of the newest entry, as Java reports them with a query's result.
    pub fn last_update(&self) -> Option<(i64, PhysicalOffset)> {
        let header = self.members.last()?.file.header();
        Some((header.end_stored_at_ms, header.end_physical))
    }

    /// Makes every entry durable.
    pub fn flush(&mut self) -> Result<(), KeyIndexError> {
        for n in 0..self.members.len() {
            let done = self.members[n].file.flush();
            done.map_err(|source| io_error(&self.path(self.members[n].name), source))?;
        }
        if self.names_unflushed {
            for dir in self.dir.ancestors().take(2).filter(|dir| !dir.as_os_str().is_empty()) {
                self.files.sync_dir(dir).map_err(|source| io_error(dir, source))?;
            }
            self.names_unflushed = false;
        }
        Ok(())
    }

    /// Deletes files whose messages all lie before `log_min`, never the last. Returns how many were deleted.
    pub fn delete_before(&mut self, log_min: PhysicalOffset) -> Result<usize, KeyIndexError> {
        let mut deleted = 0;
        while self.members.len() > 1 && self.members[0].file.header().end_physical < log_min {
            self.remove(self.members[0].name)?;
            self.members.remove(0);
            deleted += 1;
        }
        Ok(deleted)
    }

    /// Drops entries at or beyond `at`, for a log that was cut.
    pub fn truncate(&mut self, at: PhysicalOffset) -> Result<(), KeyIndexError> {
        while let Some(last) = self.members.last_mut() {
            last.file.cut(at);
            if !last.file.is_empty() {
                break;
            }
            let name = last.name;
            self.remove(name)?;
            self.members.pop();
        }
        Ok(())
    }

    fn roll(&mut self, stored_at_ms: i64) -> Result<(), KeyIndexError> {
        let newest = self.members.last().map_or(0, |member| member.name);
        let name = name_of(stored_at_ms).max(newest + 1);
        let path = self.path(name);
        self.files.create_dir_all(&self.dir).map_err(|source| io_error(&self.dir, source))?;
        let map = self
            .files
            .create_map(&path, self.config.file_bytes())
            .map_err(|source| io_error(&path, source))?;
        self.names_unflushed = true;
        self.members.push(Member { name, file: IndexFile::new(map, self.config) });
        Ok(())
    }

    /// Whether the file has no entry yet; its header comes with the first.
    fn holds_nothing(&self, name: u64) -> Result<bool, KeyIndexError> {
        let path = self.path(name);
        let mut header = [0; HEADER_BYTES];
        let opened = self.files.open(&path, OpenMode::Existing);
        let read = opened.and_then(|file| file.read_at(&mut header, 0));
        read.map_err(|source| io_error(&path, source))?;
        Ok(header.iter().all(|byte| *byte == 0))
    }

    /// What a check point keeps of the files.
    pub fn known(&self) -> KnownIndex {
        let files = self.members.iter().map(|Member { name, file }| {
            let header = file.header();
            KnownIndexFile { name: *name, count: header.count, end_physical: header.end_physical.0 }
        });
        KnownIndex { files: files.collect() }
    }

    fn remove(&mut self, name: u64) -> Result<(), KeyIndexError> {
        let path = self.path(name);
        self.names_unflushed = true;
        self.files.remove_file(&path).map_err(|source| io_error(&path, source))
    }

    fn path(&self, name: u64) -> PathBuf {
        self.dir.join(format!("{name:017}"))
    }
}

/// `yyyyMMddHHmmssSSS` as a number. Java writes local time, which cannot be asked for without a dependency; as
/// names only order the files, and a new one is always above the last, UTC serves.
fn name_of(at_ms: i64) -> u64 {
    let ms = at_ms.max(0) as u64;
    let (days, in_day) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = date_of(days);
    let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (second, milli) = (in_day / 1_000 % 60, in_day % 1_000);
    [(month, 100), (day, 100), (hour, 100), (minute, 100), (second, 100), (milli, 1_000)]
        .into_iter()
        .fold(year, |name, (part, base)| name * base + part)
}

/// Year, month and day of a day counted from 1970-01-01.
fn date_of(days: u64) -> (u64, u64, u64) {
    // Years begin in March here, so that the leap day is the last of its year.
    let since_0000_03_01 = days + 719_468;
    let (era, day_of_era) = (since_0000_03_01 / 146_097, since_0000_03_01 % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

fn io_error(path: &Path, source: io::Error) -> KeyIndexError {
    KeyIndexError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
