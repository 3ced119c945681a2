//! Segments of the commit log as files: their names, their creation, and which of them are there.
//!
//! A segment is named by the physical offset of its first byte, in 20 digits. A new one is made in the
//! folder `next`, which RocketMQ passes over, and moved to its place when the log needs it; so a half-made
//! segment never carries a name that counts.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::warn;

use super::file::StoreFiles;
use super::mapped_file::MappedFile;
use crate::kill_point;
use crate::types::PhysicalOffset;

/// Length of a segment where nothing else is said (RocketMQ: `mappedFileSizeCommitLog`).
pub const DEFAULT_SEGMENT_BYTES: u64 = 1 << 30;
const NAME_DIGITS: usize = 20;
const NEXT_DIR: &str = "next";

/// Why the segments of a directory do not make a commit log.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    #[error("cannot use segment {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("segment {} has {found_bytes} bytes, not the configured {expected_bytes}", path.display())]
    Length { path: PathBuf, expected_bytes: u64, found_bytes: u64 },
    #[error("segment {expected} is missing before segment {found}")]
    Gap { expected: PhysicalOffset, found: PhysicalOffset },
}

/// One file of the log, not yet divided into halves.
#[derive(Debug)]
pub struct Segment {
    pub base: PhysicalOffset,
    pub file: MappedFile,
}

/// Where the segments of one log live.
#[derive(Clone, Debug)]
pub struct SegmentDir {
    pub files: Arc<dyn StoreFiles>,
    pub dir: PathBuf,
    pub segment_bytes: u64,
}

impl SegmentDir {
    /// Maps every segment, in order. Sweeps what a crash left half made.
    pub fn load(&self) -> Result<Vec<Segment>, SegmentError> {
        self.at(&self.dir, self.files.create_dir_all(&self.dir))?;
        let next = self.dir.join(NEXT_DIR);
        self.at(&next, self.files.remove_dir_all(&next))?;
        self.at(&next, self.files.create_dir_all(&next))?;

        let mut found = Vec::new();
        for entry in self.at(&self.dir, self.files.list(&self.dir))? {
            match parse_name(&entry.name) {
                Some(base) => found.push((base, entry.stat.len_bytes)),
                None if entry.stat.is_dir => {}
                None => warn!(name = entry.name, "file in the commit log directory is no segment"),
            }
        }
        // RocketMQ leaves an empty file behind when it dies between creating and mapping it.
        if let Some((base, 0)) = found.last().copied() {
            self.remove(base)?;
            found.pop();
        }

        let mut segments = Vec::with_capacity(found.len());
        let mut expected = found.first().map(|(base, _)| *base).unwrap_or_default();
        for (base, found_bytes) in found {
            let (path, expected_bytes) = (self.path(base), self.segment_bytes);
            if found_bytes != expected_bytes {
                return Err(SegmentError::Length { path, expected_bytes, found_bytes });
            }
            if base != expected {
                return Err(SegmentError::Gap { expected, found: base });
            }
            segments.push(Segment { base, file: self.at(&path, self.files.open_map(&path))? });
            expected = base.advance(expected_bytes);
        }
        Ok(segments)
    }

    /// Makes a file that can become a segment by [`install`](Self::install). `maker` keeps the names of
    /// two threads apart.
    pub fn make(&self, maker: &str) -> Result<MadeSegment, SegmentError> {
        let path = self.dir.join(NEXT_DIR).join(maker);
        if self.at(&path, self.files.stat(&path))?.is_some() {
            self.at(&path, self.files.remove_file(&path))?;
        }
        let file = self.at(&path, self.files.create_map(&path, self.segment_bytes))?;
        kill_point::reach("segment.made");
        Ok(MadeSegment { path, file })
    }

    /// Gives a made file its name in the log, replacing a segment that has it.
    pub fn install(&self, made: MadeSegment, base: PhysicalOffset) -> Result<Segment, SegmentError> {
        self.at(&made.path, self.files.rename(&made.path, &self.path(base)))?;
        Ok(Segment { base, file: made.file })
    }

    /// Removes the segment's name; maps of it stay readable.
    pub fn remove(&self, base: PhysicalOffset) -> Result<(), SegmentError> {
        let path = self.path(base);
        self.at(&path, self.files.remove_file(&path))
    }

    /// Which parts of `range` of a segment were ever written.
    pub fn written(&self, base: PhysicalOffset, range: Range<u64>) -> Result<Vec<Range<u64>>, SegmentError> {
        let path = self.path(base);
        self.at(&path, self.files.written(&path, range))
    }

    /// Makes names durable.
    pub fn sync(&self) -> Result<(), SegmentError> {
        self.at(&self.dir, self.files.sync_dir(&self.dir))
    }

    pub fn path(&self, base: PhysicalOffset) -> PathBuf {
        self.dir.join(format!("{:0width$}", base.0, width = NAME_DIGITS))
    }

    fn at<T>(&self, path: &Path, result: io::Result<T>) -> Result<T, SegmentError> {
        result.map_err(|source| SegmentError::Io { path: path.to_owned(), source })
    }
}

/// A file of full length that is not part of the log yet.
#[derive(Debug)]
pub struct MadeSegment {
    path: PathBuf,
    file: MappedFile,
}

impl MadeSegment {
    pub fn file_mut(&mut self) -> &mut MappedFile {
        &mut self.file
    }
}

fn parse_name(name: &str) -> Option<PhysicalOffset> {
    let is_number = name.len() == NAME_DIGITS && name.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| name.parse().ok().map(PhysicalOffset)).flatten()
}

#[cfg(test)]
mod tests {
    use super::super::file::OpenMode;
    use super::super::memory_files::MemoryFiles;
    use super::*;

    fn dir_with(names: &[(&str, u64)]) -> SegmentDir {
        let files = MemoryFiles::new();
        let dir = PathBuf::from("/commitlog");
        files.create_dir_all(&dir).unwrap();
        for (name, len) in names {
            files.open(&dir.join(name), OpenMode::CreateNew).unwrap().set_len(*len).unwrap();
        }
        SegmentDir { files: Arc::new(files), dir, segment_bytes: 4096 }
    }

    #[test]
    fn segments_are_loaded_in_order_and_strangers_passed_over() {
        let dir = dir_with(&[
            ("00000000000000008192", 4096),
            ("00000000000000012288", 0),
            ("00000000000000004096", 4096),
            (".nfs001", 3),
        ]);
        let bases: Vec<_> = dir.load().unwrap().into_iter().map(|segment| segment.base.0).collect();
        assert_eq!(bases, [4096, 8192]);
        assert_eq!(
            dir.files.stat(&dir.path(PhysicalOffset(12288))).unwrap(),
            None,
            "empty last file is swept"
        );
    }

    #[test]
    fn wrong_length_and_gap_are_refused() {
        let dir = dir_with(&[("00000000000000000000", 4095)]);
        assert!(matches!(dir.load(), Err(SegmentError::Length { found_bytes: 4095, .. })));
        let dir = dir_with(&[("00000000000000000000", 4096), ("00000000000000008192", 4096)]);
        assert!(matches!(dir.load(), Err(SegmentError::Gap { expected: PhysicalOffset(4096), .. })));
    }

    #[test]
    fn made_segment_counts_only_when_installed() {
        let dir = dir_with(&[]);
        dir.load().unwrap();
        let made = dir.make("writer").unwrap();
        assert!(dir.load().unwrap().is_empty());
        drop(made);
        let made = dir.make("writer").unwrap();
        dir.install(made, PhysicalOffset(0)).unwrap();
        assert_eq!(dir.load().unwrap().len(), 1);
    }
}
