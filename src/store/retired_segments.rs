//! Segments that the commit log has let go of, and whose files are still to be removed.
//!
//! Removing a file of a gigabyte, and giving back the blocks of its map, can take the disk a while; whoever holds
//! this does it away from the threads that messages pass through. What is dropped instead of removed is part of
//! the log again at the next start.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::commit_log_reader::SharedLog;
use super::mapped_file::MapReader;
use super::segment::SegmentError;
use crate::types::PhysicalOffset;

/// See the [module](self). Oldest first.
#[derive(Debug, Default)]
pub struct RetiredSegments {
    shared: Option<Arc<SharedLog>>,
    segments: VecDeque<(PhysicalOffset, MapReader)>,
}

impl RetiredSegments {
    pub(super) fn new(
        shared: Arc<SharedLog>,
        segments: impl IntoIterator<Item = (PhysicalOffset, MapReader)>,
    ) -> Self {
        Self { shared: Some(shared), segments: segments.into_iter().collect() }
    }

    pub fn len(&self) -> usize {
        self.segments.len()
    }

    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Takes over segments that lie behind these.
    pub fn append(&mut self, mut later: Self) {
        self.shared = later.shared.take().or(self.shared.take());
        self.segments.append(&mut later.segments);
    }

    /// Removes the oldest file and lets go of its map; waits for the disk. Returns whether there was one. After an
    /// error it is the oldest still: a log that lacks a file in its middle could not be opened again.
    pub fn remove_oldest(&mut self) -> Result<bool, SegmentError> {
        let (Some(shared), Some((base, _))) = (&self.shared, self.segments.front()) else { return Ok(false) };
        match shared.dir.remove(*base) {
            Ok(()) => {}
            // Somebody was here before; that is what was wanted.
            Err(SegmentError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        shared.names_unsynced.store(true, Ordering::Release);
        self.segments.pop_front();
        Ok(true)
    }
}
