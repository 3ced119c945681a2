//! The files of one consume queue: which exist, which are open, which are not yet flushed.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::unit::{ConsumeQueueUnit, UNIT_BYTES};
use super::{ConsumeQueueError, QueueOffset};
use crate::store::file::{OpenMode, StoreFile, StoreFiles};
use crate::types::PhysicalOffset;

/// Files and directories that hold what is not durable yet.
#[derive(Debug, Default)]
pub struct Unflushed {
    pub files: Vec<Arc<dyn StoreFile>>,
    pub dirs: Vec<PathBuf>,
}

impl Unflushed {
    /// Makes it durable; waits for the disk.
    pub fn sync(&self, files: &dyn StoreFiles) -> std::io::Result<()> {
        self.files.iter().try_for_each(|file| file.sync())?;
        self.dirs.iter().try_for_each(|dir| files.sync_dir(dir))
    }
}

/// Segments `[first, end)`, counted from the one that holds unit 0.
#[derive(Debug)]
pub struct Segments {
    files: Arc<dyn StoreFiles>,
    dir: PathBuf,
    units_per_segment: u64,
    first: u64,
    end: u64,
    /// The file last written, and the one last read when it is another.
    appending: Option<OpenSegment>,
    reading: Option<OpenSegment>,
    /// First segment with bytes that are not flushed; those after it may have some too.
    unflushed_from: Option<u64>,
    /// Whether names in the directory, and that of the directory itself, are not flushed.
    names_unflushed: bool,
}

#[derive(Debug)]
struct OpenSegment {
    number: u64,
    file: Arc<dyn StoreFile>,
}

impl Segments {
    /// Looks at what is there. An empty last file, left by a crash, is deleted; a short one is completed.
    pub fn open(
        files: Arc<dyn StoreFiles>,
        dir: PathBuf,
        units_per_segment: u64,
    ) -> Result<Self, ConsumeQueueError> {
        let mut segments = Self {
            files,
            dir,
            units_per_segment,
            first: 0,
            end: 0,
            appending: None,
            reading: None,
            unflushed_from: None,
            names_unflushed: false,
        };
        segments.find_files()?;
        Ok(segments)
    }

    /// As [`open`](Self::open), changing nothing: what is not a whole segment is left out.
    pub fn look(
        files: Arc<dyn StoreFiles>,
        dir: PathBuf,
        units_per_segment: u64,
    ) -> Result<Self, ConsumeQueueError> {
        let found = files.list(&dir).map_err(|source| io_error(&dir, source))?;
        let segment_bytes = units_per_segment * UNIT_BYTES as u64;
        let whole = found.iter().filter(|entry| entry.stat.len_bytes == segment_bytes);
        let mut numbers = whole.filter_map(|entry| Some(position_in(&entry.name)? / segment_bytes));
        let first = numbers.next();
        let followers = numbers.zip(first.unwrap_or(0) + 1..).take_while(|(number, next)| number == next);
        let end = first.map_or(0, |first| first + 1 + followers.count() as u64);
        Ok(Self {
            files,
            dir,
            units_per_segment,
            first: first.unwrap_or(0),
            end,
            appending: None,
            reading: None,
            unflushed_from: None,
            names_unflushed: false,
        })
    }

    fn find_files(&mut self) -> Result<(), ConsumeQueueError> {
        let mut found = self.files.list(&self.dir).map_err(|source| io_error(&self.dir, source))?;
        found.retain(|entry| !entry.stat.is_dir && position_in(&entry.name).is_some());
        if found.last().is_some_and(|last| last.stat.len_bytes == 0)
            && let Some(last) = found.pop()
        {
            let path = self.dir.join(&last.name);
            self.files.remove_file(&path).map_err(|source| io_error(&path, source))?;
            self.names_unflushed = true;
        }
        let count = found.len();
        for (n, entry) in found.iter().enumerate() {
            let position = position_in(&entry.name).unwrap_or_default();
            if n == 0 {
                self.first = position / self.segment_bytes();
                self.end = self.first;
            }
            let path = self.path(self.end);
            if position != self.end * self.segment_bytes() {
                return Err(ConsumeQueueError::MissingSegment { path });
            }
            let (len_bytes, expected_bytes) = (entry.stat.len_bytes, self.segment_bytes());
            let is_short_last = n + 1 == count && len_bytes < expected_bytes;
            if len_bytes != expected_bytes && !is_short_last {
                return Err(ConsumeQueueError::UnexpectedLength { path, len_bytes, expected_bytes });
            }
            self.end += 1;
            if is_short_last {
                self.resize_last(len_bytes - len_bytes % UNIT_BYTES as u64)?;
            }
        }
        Ok(())
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn is_empty(&self) -> bool {
        self.first == self.end
    }

    /// Numbers that the existing segments have room for.
    pub fn units(&self) -> Range<QueueOffset> {
        QueueOffset(self.first * self.units_per_segment)..QueueOffset(self.end * self.units_per_segment)
    }

    /// Segments that exist, counted from the one that holds unit 0.
    pub fn numbers(&self) -> Range<u64> {
        self.first..self.end
    }

    /// The last unit of the first segment, when that segment is not the last.
    pub fn last_of_first_segment(&self) -> Option<QueueOffset> {
        (self.end - self.first > 1).then(|| QueueOffset((self.first + 1) * self.units_per_segment - 1))
    }

    /// The end of the units of the last segment that were written and are `wanted`; before the end none may be
    /// missing, after it none may be present.
    pub fn find_end(
        &mut self,
        wanted: impl Fn(&ConsumeQueueUnit) -> bool,
    ) -> Result<QueueOffset, ConsumeQueueError> {
        if self.is_empty() {
            return Ok(self.units().start);
        }
        let mut low = (self.end - 1) * self.units_per_segment;
        let mut high = self.end * self.units_per_segment;
        while low < high {
            let middle = low + (high - low) / 2;
            if self.read_written(QueueOffset(middle))?.is_some_and(|unit| wanted(&unit)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(QueueOffset(low))
    }

    /// Drops units whose messages lie at or beyond `at`, with segments that hold no others. Returns the new end.
    pub fn truncate(&mut self, at: PhysicalOffset) -> Result<QueueOffset, ConsumeQueueError> {
        let kept = |unit: &ConsumeQueueUnit| unit.physical_offset < at;
        while !self.is_empty() {
            let first = QueueOffset((self.end - 1) * self.units_per_segment);
            if self.read_written(first)?.is_some_and(|unit| kept(&unit)) {
                break;
            }
            self.remove_last()?;
        }
        let mut end = self.find_end(kept)?;
        if end > self.units().start && self.read_one(QueueOffset(end.0 - 1))?.is_filler() {
            // Fillers alone say nothing: the next append lays down where the queue begins.
            self.remove_all()?;
            end = QueueOffset(0);
        }
        let at_bytes = end.0 * UNIT_BYTES as u64 - self.end.saturating_sub(1) * self.segment_bytes();
        if !self.is_empty() && at_bytes < self.segment_bytes() {
            // What was cut must read as never written, or a later search for the end would find it.
            self.resize_last(at_bytes)?;
        }
        Ok(end)
    }

    /// Writes `units` from number `at` on, making segments as needed. A first segment is filled up to `at`.
    pub fn write(&mut self, at: QueueOffset, units: &[ConsumeQueueUnit]) -> Result<(), ConsumeQueueError> {
        let mut bytes = Vec::with_capacity(units.len() * UNIT_BYTES);
        let mut position = at.0;
        if self.is_empty() {
            self.first = at.0 / self.units_per_segment;
            self.end = self.first;
            position = self.first * self.units_per_segment;
            for _ in position..at.0 {
                bytes.extend_from_slice(&ConsumeQueueUnit::FILLER.encode());
            }
        }
        for unit in units {
            bytes.extend_from_slice(&unit.encode());
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let number = position / self.units_per_segment;
            let within = position % self.units_per_segment;
            let room = (self.units_per_segment - within) as usize * UNIT_BYTES;
            let (now, later) = rest.split_at(room.min(rest.len()));
            let file = self.appending(number)?;
            file.write_all_at(now, within * UNIT_BYTES as u64)
                .map_err(|source| self.failed(number, source))?;
            self.unflushed_from = Some(self.unflushed_from.map_or(number, |from| from.min(number)));
            position += (now.len() / UNIT_BYTES) as u64;
            rest = later;
        }
        Ok(())
    }

    /// Adds the units of `range`, all of which must have been written, to `units`: one read per segment.
    pub fn read(
        &mut self,
        range: Range<QueueOffset>,
        units: &mut Vec<ConsumeQueueUnit>,
    ) -> Result<(), ConsumeQueueError> {
        let mut at = range.start.0;
        while at < range.end.0 {
            let number = at / self.units_per_segment;
            let within = at % self.units_per_segment;
            let count = (range.end.0 - at).min(self.units_per_segment - within);
            let mut bytes = vec![0; count as usize * UNIT_BYTES];
            let file = self.reading(number)?;
            file.read_exact_at(&mut bytes, within * UNIT_BYTES as u64)
                .map_err(|source| self.failed(number, source))?;
            units.reserve(count as usize);
            for (n, unit) in bytes.as_chunks::<UNIT_BYTES>().0.iter().enumerate() {
                let offset = QueueOffset(at + n as u64);
                units.push(ConsumeQueueUnit::decode(unit).ok_or_else(|| self.empty_unit(offset))?);
            }
            at += count;
        }
        Ok(())
    }

    /// The unit with number `at`, which must have been written.
    pub fn read_one(&mut self, at: QueueOffset) -> Result<ConsumeQueueUnit, ConsumeQueueError> {
        self.read_written(at)?.ok_or_else(|| self.empty_unit(at))
    }

    fn read_written(&mut self, at: QueueOffset) -> Result<Option<ConsumeQueueUnit>, ConsumeQueueError> {
        let number = at.0 / self.units_per_segment;
        let mut bytes = [0; UNIT_BYTES];
        let file = self.reading(number)?;
        file.read_exact_at(&mut bytes, at.0 % self.units_per_segment * UNIT_BYTES as u64)
            .map_err(|source| self.failed(number, source))?;
        Ok(ConsumeQueueUnit::decode(&bytes))
    }

    pub fn remove_first(&mut self) -> Result<(), ConsumeQueueError> {
        self.remove(self.first)?;
        self.first += 1;
        Ok(())
    }

    pub fn remove_all(&mut self) -> Result<(), ConsumeQueueError> {
        while !self.is_empty() {
            self.remove_last()?;
        }
        Ok(())
    }

    fn remove_last(&mut self) -> Result<(), ConsumeQueueError> {
        self.remove(self.end - 1)?;
        self.end -= 1;
        if self.is_empty() {
            (self.first, self.end) = (0, 0);
        }
        Ok(())
    }

    fn remove(&mut self, number: u64) -> Result<(), ConsumeQueueError> {
        self.close_files();
        let path = self.path(number);
        self.names_unflushed = true;
        self.files.remove_file(&path).map_err(|source| io_error(&path, source))
    }

    /// Keeps `len_bytes` of the last segment; the rest becomes zeros that take no room.
    fn resize_last(&mut self, len_bytes: u64) -> Result<(), ConsumeQueueError> {
        let number = self.end - 1;
        let file = self.appending(number)?;
        file.set_len(len_bytes)
            .and_then(|()| file.set_len(self.segment_bytes()))
            .map_err(|source| self.failed(number, source))?;
        self.unflushed_from = Some(self.unflushed_from.map_or(number, |from| from.min(number)));
        Ok(())
    }

    /// Makes names and content durable.
    pub fn sync(&mut self) -> Result<(), ConsumeQueueError> {
        if let Some(from) = self.unflushed_from {
            for number in from.max(self.first)..self.end {
                let file = self.reading(number)?;
                file.sync().map_err(|source| self.failed(number, source))?;
            }
            self.unflushed_from = None;
        }
        if self.names_unflushed {
            // The directories of the queue and of its topic may be new as well.
            for dir in self.dir.ancestors().take(3).filter(|dir| !dir.as_os_str().is_empty()) {
                self.files.sync_dir(dir).map_err(|source| io_error(dir, source))?;
            }
            self.names_unflushed = false;
        }
        Ok(())
    }

    /// What has to be synced to make names and content durable; whoever takes it does so, on a thread that
    /// may wait, and begins no check point beyond it until then.
    pub fn take_unflushed(&mut self) -> Result<Unflushed, ConsumeQueueError> {
        let mut unflushed = Unflushed::default();
        if let Some(from) = self.unflushed_from {
            for number in from.max(self.first)..self.end {
                unflushed.files.push(self.reading(number)?);
            }
            self.unflushed_from = None; // not before every file is at hand
        }
        if std::mem::take(&mut self.names_unflushed) {
            let dirs = self.dir.ancestors().take(3).filter(|dir| !dir.as_os_str().is_empty());
            unflushed.dirs.extend(dirs.map(Path::to_owned));
        }
        Ok(unflushed)
    }

    pub fn close_files(&mut self) {
        self.appending = None;
        self.reading = None;
    }

    pub fn destroy(mut self) -> Result<(), ConsumeQueueError> {
        self.close_files();
        self.files.remove_dir_all(&self.dir).map_err(|source| io_error(&self.dir, source))
    }

    /// The file to write to; a segment right after the last is created.
    fn appending(&mut self, number: u64) -> Result<Arc<dyn StoreFile>, ConsumeQueueError> {
        if let Some(open) = self.appending.as_ref().filter(|open| open.number == number) {
            return Ok(Arc::clone(&open.file));
        }
        let path = self.path(number);
        let file = if number < self.end { self.open_file(&path) } else { self.create_file(&path) }
            .map_err(|source| io_error(&path, source))?;
        self.end = self.end.max(number + 1);
        self.appending = Some(OpenSegment { number, file: Arc::clone(&file) });
        Ok(file)
    }

    fn reading(&mut self, number: u64) -> Result<Arc<dyn StoreFile>, ConsumeQueueError> {
        let mut open = self.appending.iter().chain(&self.reading);
        if let Some(open) = open.find(|open| open.number == number) {
            return Ok(Arc::clone(&open.file));
        }
        let path = self.path(number);
        let file = self.open_file(&path).map_err(|source| io_error(&path, source))?;
        self.reading = Some(OpenSegment { number, file: Arc::clone(&file) });
        Ok(file)
    }

    fn open_file(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>> {
        self.files.open(path, OpenMode::Existing)
    }

    fn create_file(&mut self, path: &Path) -> io::Result<Arc<dyn StoreFile>> {
        self.files.create_dir_all(&self.dir)?;
        self.names_unflushed = true;
        // A file of that name can only be what an attempt that failed left behind.
        let file = self.files.open(path, OpenMode::CreateMissing)?;
        if let Err(error) = file.set_len(self.segment_bytes()) {
            // The first error is the one to report; an empty file is swept at the next opening.
            let _ = self.files.remove_file(path);
            return Err(error);
        }
        Ok(file)
    }

    fn segment_bytes(&self) -> u64 {
        self.units_per_segment * UNIT_BYTES as u64
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{:020}", number * self.segment_bytes()))
    }

    fn failed(&self, number: u64, source: io::Error) -> ConsumeQueueError {
        io_error(&self.path(number), source)
    }

    fn empty_unit(&self, offset: QueueOffset) -> ConsumeQueueError {
        ConsumeQueueError::EmptyUnit { dir: self.dir.clone(), offset }
    }
}

/// The byte position a segment is named by.
fn position_in(name: &str) -> Option<u64> {
    if name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit()) { name.parse().ok() } else { None }
}

fn io_error(path: &Path, source: io::Error) -> ConsumeQueueError {
    ConsumeQueueError::Io { path: path.to_owned(), source }
}
