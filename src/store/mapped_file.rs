//! Memory-mapped files: with the two calls of `write_back.rs` the only unsafe code of the program.
//!
//! Invariants, named by the `SAFETY` comments below:
//!
//! 1. A file is preallocated to its full length before it is mapped, so a full disk is an error at
//!    creation and not a fault in the middle of a copy. Files of compacted logs are sparse instead: they are
//!    only ever written by [`MapWriter::write`], which is no copy into the map, and reading a hole needs no room.
//! 2. A file is never shortened while a map of it lives; removing or renaming it leaves the map whole.
//! 3. A map has one owner that writes: [`MappedFile`], or after [`MappedFile::into_halves`] its one
//!    [`MapWriter`]. Neither is `Clone`, and every write takes `&mut self`.
//! 4. No reference that a [`MapReader`] makes reaches beyond the published position, no reference that
//!    the writer makes begins below it, and the published position never goes back while the map lives.
//! 5. Every reference and every [`Bytes`] keeps its map alive.
//! 6. A lock file keeps other processes (and other brokers of this process) out of the directory.
//! 7. Every range is checked against the length of the map before a pointer is made from it.
//!
//! Published bytes are written before the position (release) and read after it (acquire).
//!
//! The write half of a file on disk writes with `pwrite` and not through the map: a fresh page costs no fault
//! and no zeroing, a full or failing disk is an error and not a signal, and Linux keeps one page cache for both
//! ways, so readers see through the map what was written.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
pub use memmap2::Advice;
use memmap2::{MmapMut, MmapOptions, MmapRaw};

/// Mapped memory without any rule about who touches which part; the types below add the rules.
pub struct MapMemory {
    raw: MmapRaw,
}

impl MapMemory {
    /// Maps all of `file`, shared and writable.
    pub fn of_file(file: &File) -> io::Result<Self> {
        Ok(Self { raw: MmapOptions::new().map_raw(file)? })
    }

    /// Zeroed memory without a file, for the in-memory twin.
    pub fn anonymous(content: &[u8]) -> io::Result<Self> {
        let mut map = MmapMut::map_anon(content.len().max(1))?;
        map[..content.len()].copy_from_slice(content);
        Ok(Self { raw: map.into() })
    }

    /// Copies `range` out, for the in-memory twin; the range must not be written meanwhile.
    pub(super) fn copy_out(&self, range: Range<usize>) -> Vec<u8> {
        check_range(&range, self.raw.len());
        // SAFETY: (7) checked above; the twin copies only ranges that its caller has finished writing,
        // which is what (3) and (4) give for flushed ranges.
        unsafe { slice::from_raw_parts(self.raw.as_ptr().add(range.start), range.len()).to_vec() }
    }

    /// Copies `bytes` in, for the in-memory twin; called from [`MapBacking::write`] alone.
    pub(super) fn copy_in(&self, at: usize, bytes: &[u8]) {
        check_range(&(at..at + bytes.len()), self.raw.len());
        // SAFETY: (7) checked above; (3) and (4): one write half calls, with a range that no reader looks at.
        unsafe { slice::from_raw_parts_mut(self.raw.as_mut_ptr().add(at), bytes.len()) }
            .copy_from_slice(bytes);
    }
}

/// The file behind a map: how bytes get into it other than through the map, and how they become durable.
pub trait MapBacking: Send + Sync {
    /// Puts `bytes` at `at`; the map shows them afterwards. After an error any part of them may be there.
    fn write(&self, memory: &MapMemory, at: usize, bytes: &[u8]) -> io::Result<()>;
    /// Returns when `range` of `memory` would survive a loss of power.
    fn sync(&self, memory: &MapMemory, range: Range<usize>) -> io::Result<()>;
    /// Has the disk begin with `range`, so that a [`sync`](Self::sync) has less to wait for. Promises nothing. An error is
    /// as one of a `sync`: no later one need tell of it.
    fn begin_write(&self, _range: Range<usize>) -> io::Result<()> {
        Ok(())
    }
    /// Whether a `sync` would find the disk at `range` no more. True where nobody can tell.
    fn is_written(&self, _range: Range<usize>) -> bool {
        true
    }
}

/// What a map consists of; shared by everyone who reads it.
struct Region {
    memory: Arc<MapMemory>,
    len: usize,
    backing: Box<dyn MapBacking>,
    /// Below this readers may look, and nobody writes.
    published: AtomicUsize,
}

impl Region {
    fn flush(&self, range: Range<usize>) -> io::Result<()> {
        check_range(&range, self.len);
        if range.is_empty() { Ok(()) } else { self.backing.sync(&self.memory, range) }
    }

    fn begin_write(&self, range: Range<usize>) -> io::Result<()> {
        check_range(&range, self.len);
        if range.is_empty() { Ok(()) } else { self.backing.begin_write(range) }
    }
}

/// A mapped file with one owner that reads and writes anywhere in it.
pub struct MappedFile {
    region: Region,
}

impl MappedFile {
    /// Joins memory of `len` bytes with the file behind it. Called by implementors of
    /// [`StoreFiles`](super::file::StoreFiles), who promise (1), (2) and that `memory` has no other owner.
    pub fn new(memory: Arc<MapMemory>, len: usize, backing: Box<dyn MapBacking>) -> Self {
        assert!(len <= memory.raw.len(), "a map is at least as long as its file");
        Self { region: Region { memory, len, backing, published: AtomicUsize::new(0) } }
    }

    pub fn len(&self) -> usize {
        self.region.len
    }

    pub fn is_empty(&self) -> bool {
        self.region.len == 0
    }

    /// The bytes of `range`.
    ///
    /// # Panics
    /// If the range does not lie within the file; so do all accessors of this type.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        check_range(&range, self.region.len);
        // SAFETY: (3) this is the only owner, and `&self` excludes its writes; (5) the lifetime is ours; (7).
        unsafe { slice::from_raw_parts(self.region.memory.raw.as_ptr().add(range.start), range.len()) }
    }

    /// The bytes of `range`, to be changed.
    pub fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        check_range(&range, self.region.len);
        // SAFETY: (3) this is the only owner, and `&mut self` excludes every other reference; (5); (7).
        unsafe {
            slice::from_raw_parts_mut(self.region.memory.raw.as_mut_ptr().add(range.start), range.len())
        }
    }

    /// The big-endian number at `at`.
    pub fn get_u32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    /// The big-endian number at `at`.
    pub fn get_u64(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }

    pub fn put_u32(&mut self, at: usize, value: u32) {
        self.bytes_mut(at..at + 4).copy_from_slice(&value.to_be_bytes());
    }

    pub fn put_u64(&mut self, at: usize, value: u64) {
        self.bytes_mut(at..at + 8).copy_from_slice(&value.to_be_bytes());
    }

    /// Makes `range` durable.
    pub fn flush(&self, range: Range<usize>) -> io::Result<()> {
        self.region.flush(range)
    }

    /// Tells the kernel how the map will be used; only a hint, so its failure does not matter.
    pub fn advise(&self, advice: Advice) {
        let _ = self.region.memory.raw.advise(advice);
    }

    /// Gives up random access: from here one half writes at or above `published`, the other reads below.
    pub fn into_halves(self, published: usize) -> (MapWriter, MapReader) {
        assert!(published <= self.region.len, "published position lies within the file");
        let mut region = self.region;
        region.published = AtomicUsize::new(published);
        let region = Arc::new(region);
        (MapWriter { region: Arc::clone(&region) }, MapReader { region })
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(at..at + N));
        array
    }
}

/// The write half of a map: one per map, writes only what is not yet published.
pub struct MapWriter {
    region: Arc<Region>,
}

impl MapWriter {
    pub fn len(&self) -> usize {
        self.region.len
    }

    pub fn is_empty(&self) -> bool {
        self.region.len == 0
    }

    pub fn published(&self) -> usize {
        self.region.published.load(Ordering::Relaxed) // written by this half alone
    }

    /// Writes `bytes` at `at`. After an error any part of them may be there; they can be written again.
    ///
    /// # Panics
    /// If `at` lies below the published position or the bytes reach beyond the file.
    pub fn write(&mut self, at: usize, bytes: &[u8]) -> io::Result<()> {
        check_range(&(at..at + bytes.len()), self.region.len);
        assert!(at >= self.published(), "published bytes are never written again");
        self.region.backing.write(&self.region.memory, at, bytes)
    }

    /// Has the disk begin with `range`, and promises nothing. After an error any part of it may be lost.
    pub fn begin_write(&self, range: Range<usize>) -> io::Result<()> {
        self.region.begin_write(range)
    }

    /// Shows readers everything below `position`; it cannot be taken back.
    pub fn publish(&mut self, position: usize) {
        assert!(position >= self.published(), "the published position never goes back");
        assert!(position <= self.region.len, "published position lies within the file");
        self.region.published.store(position, Ordering::Release);
    }

    pub fn reader(&self) -> MapReader {
        MapReader { region: Arc::clone(&self.region) }
    }
}

/// The read half of a map: cheap to clone, sees `[0, published)`.
#[derive(Clone)]
pub struct MapReader {
    region: Arc<Region>,
}

impl MapReader {
    /// Length of the file.
    pub fn len(&self) -> usize {
        self.region.len
    }

    pub fn is_empty(&self) -> bool {
        self.region.len == 0
    }

    pub fn published(&self) -> usize {
        self.region.published.load(Ordering::Acquire)
    }

    /// The bytes of `range` in place, or `None` when they are not all published.
    pub fn bytes(&self, range: Range<usize>) -> Option<&[u8]> {
        self.is_readable(&range).then(|| self.published_bytes(range))
    }

    /// A handle to the bytes of `range` that keeps the map alive, or `None` when they are not all published.
    pub fn slice(&self, range: Range<usize>) -> Option<Bytes> {
        self.is_readable(&range).then(|| Bytes::from_owner(MapSlice { reader: self.clone(), range }))
    }

    /// Makes `range` durable; everything in it must be published.
    pub fn flush(&self, range: Range<usize>) -> io::Result<()> {
        assert!(range.end <= self.published(), "only published bytes are flushed");
        self.region.flush(range)
    }

    /// Has the disk begin with `range`, and promises nothing. After an error no flush of it is to be believed.
    pub fn begin_write(&self, range: Range<usize>) -> io::Result<()> {
        self.region.begin_write(range)
    }

    /// Whether the disk has done what was begun of `range`; true where nobody can tell.
    pub fn is_written(&self, range: Range<usize>) -> bool {
        check_range(&range, self.region.len);
        self.region.backing.is_written(range)
    }

    /// Tells the kernel how the map will be used; only a hint, so its failure does not matter.
    pub fn advise(&self, advice: Advice) {
        let _ = self.region.memory.raw.advise(advice);
    }

    fn is_readable(&self, range: &Range<usize>) -> bool {
        range.start <= range.end && range.end <= self.published()
    }

    /// `range` must have been found readable; it stays so, since the published position never goes back.
    fn published_bytes(&self, range: Range<usize>) -> &[u8] {
        debug_assert!(self.is_readable(&range));
        // SAFETY: (4) every caller has checked the range against the published position, read with
        // acquire, and nobody writes below it any more; (5) the lifetime is ours; (7) as published ≤ len.
        unsafe { slice::from_raw_parts(self.region.memory.raw.as_ptr().add(range.start), range.len()) }
    }
}

/// A readable range and the map it lies in.
struct MapSlice {
    reader: MapReader,
    range: Range<usize>,
}

impl AsRef<[u8]> for MapSlice {
    fn as_ref(&self) -> &[u8] {
        self.reader.published_bytes(self.range.clone())
    }
}

fn check_range(range: &Range<usize>, len: usize) {
    assert!(
        range.start <= range.end && range.end <= len,
        "range {}..{} lies within a file of {len} bytes",
        range.start,
        range.end,
    );
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedFile").field("len", &self.region.len).finish()
    }
}

impl fmt::Debug for MapWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapWriter").field("len", &self.len()).field("published", &self.published()).finish()
    }
}

impl fmt::Debug for MapReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapReader").field("len", &self.len()).field("published", &self.published()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::thread;

    use super::*;
    use crate::store::file::StoreFiles;
    use crate::store::memory_files::MemoryFiles;

    fn map(len: u64) -> MappedFile {
        let files = MemoryFiles::new();
        files.create_dir_all(Path::new("d")).unwrap();
        files.create_map(Path::new("d/f"), len).unwrap()
    }

    #[test]
    fn numbers_are_big_endian() {
        let mut map = map(64);
        map.put_u32(1, 0x0102_0304);
        map.put_u64(8, 7);
        assert_eq!(map.bytes(0..6), [0, 1, 2, 3, 4, 0]);
        assert_eq!((map.get_u32(1), map.get_u64(8)), (0x0102_0304, 7));
    }

    #[test]
    fn readers_see_only_what_is_published() {
        let (mut writer, reader) = map(16).into_halves(0);
        writer.write(0, &[9; 4]).unwrap();
        assert_eq!(reader.bytes(0..4), None);
        writer.publish(4);
        assert_eq!(reader.bytes(0..4), Some(&[9u8; 4][..]));
        assert_eq!(reader.bytes(0..5), None);
        #[allow(clippy::reversed_empty_ranges)]
        let reversed = 3..2;
        assert_eq!(reader.bytes(reversed), None);
    }

    #[test]
    fn slice_outlives_both_halves() {
        let (mut writer, reader) = map(16).into_halves(0);
        writer.write(2, b"body").unwrap();
        writer.publish(6);
        let slice = reader.slice(2..6).unwrap();
        drop((writer, reader));
        assert_eq!(slice, "body");
    }

    #[test]
    #[should_panic(expected = "never written again")]
    fn published_bytes_are_not_written_again() {
        let (mut writer, _reader) = map(16).into_halves(8);
        let _ = writer.write(7, &[0; 2]);
    }

    #[test]
    #[should_panic(expected = "lies within a file")]
    fn write_beyond_the_file_is_refused() {
        let (mut writer, _reader) = map(16).into_halves(8);
        let _ = writer.write(10, &[0; 7]);
    }

    #[test]
    fn readers_on_other_threads_see_whole_writes() {
        const STEP: usize = 64;
        let (mut writer, reader) = map(64 * 1024).into_halves(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                let reader = reader.clone();
                scope.spawn(move || {
                    loop {
                        let published = reader.published();
                        for at in (0..published).step_by(STEP) {
                            let bytes = reader.bytes(at..at + STEP).unwrap();
                            assert!(bytes.iter().all(|byte| *byte == (at / STEP) as u8 | 1));
                        }
                        if published == reader.len() {
                            break;
                        }
                    }
                });
            }
            for at in (0..writer.len()).step_by(STEP) {
                writer.write(at, &[(at / STEP) as u8 | 1; STEP]).unwrap();
                writer.publish(at + STEP);
            }
        });
    }
}
