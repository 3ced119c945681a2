//! Writes segments in the folder `compacting`, where nobody reads them yet.

use std::io;

use super::dirs::{CompactedDirs, CompactedSizes, Part};
use super::segment::{KeyedRecord, Segment, SegmentWriter};
use crate::kill_point;

/// Messages gathered for one write, bytes.
const WRITE_BYTES: usize = 1 << 20;

/// See the [module](self). What it finishes is sealed and durable, but for its names.
#[derive(Debug)]
pub struct WorkWriter {
    dirs: CompactedDirs,
    sizes: CompactedSizes,
    next_base: u64,
    /// Names end before this one.
    boundary: u64,
    current: Option<SegmentWriter>,
    gathered: Vec<KeyedRecord>,
    gathered_bytes: usize,
    done: Vec<Segment>,
}

impl WorkWriter {
    /// Segments of names in `[base, boundary)`.
    pub fn new(dirs: &CompactedDirs, sizes: CompactedSizes, base: u64, boundary: u64) -> Self {
        Self {
            dirs: dirs.clone(),
            sizes,
            next_base: base,
            boundary,
            current: None,
            gathered: Vec::new(),
            gathered_bytes: 0,
            done: Vec::new(),
        }
    }

    pub fn push(&mut self, keyed: KeyedRecord) -> io::Result<()> {
        self.gathered_bytes += keyed.record.len();
        self.gathered.push(keyed);
        if self.gathered_bytes >= WRITE_BYTES { self.write() } else { Ok(()) }
    }

    pub fn finish(mut self) -> io::Result<Vec<Segment>> {
        self.write()?;
        self.seal_current()?;
        Ok(self.done)
    }

    fn write(&mut self) -> io::Result<()> {
        let gathered = std::mem::take(&mut self.gathered);
        self.gathered_bytes = 0;
        let mut rest = &gathered[..];
        while let Some(first) = rest.first() {
            let written = match &mut self.current {
                Some(writer) => writer.append(rest)?,
                None => 0,
            };
            rest = &rest[written..];
            if written == 0 {
                self.seal_current()?;
                self.begin(first.record.len())?;
            }
            kill_point::reach("compaction.rewriting");
        }
        Ok(())
    }

    fn begin(&mut self, first_len: usize) -> io::Result<()> {
        let base = self.next_base;
        let room = self.boundary.saturating_sub(base);
        let sizes = CompactedSizes { segment_bytes: self.sizes.segment_bytes.min(room), ..self.sizes };
        let writer = SegmentWriter::create(
            &self.dirs,
            |dirs, part: Part| dirs.work_path(part, base),
            base,
            sizes,
            first_len,
        )?;
        if writer.next_base() > self.boundary {
            let what =
                "no name is left below the newest segment; segments were longer when they were written";
            return Err(io::Error::other(what));
        }
        self.next_base = writer.next_base();
        self.current = Some(writer);
        Ok(())
    }

    fn seal_current(&mut self) -> io::Result<()> {
        if let Some(writer) = self.current.take() {
            self.done.push(writer.seal()?);
        }
        Ok(())
    }
}
