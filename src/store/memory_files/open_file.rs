//! Files of the disk in memory that are open: handles, and what is behind maps.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{FileOperation, Live, MemoryFiles, Node, lock};
use crate::store::file::StoreFile;
use crate::store::mapped_file::{MapBacking, MapMemory};

/// A handle on a file.
pub(super) struct MemoryFile {
    pub(super) files: MemoryFiles,
    pub(super) node: Node,
}

impl MemoryFile {
    /// Runs `change` on the content as a vector that becomes the new content.
    fn change(&self, new_len: usize, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        self.files.wait_while_stalled(FileOperation::Write);
        let mut disk = self.files.disk();
        disk.fail_if_planned(FileOperation::Write)?;
        let old_len = lock(&self.node).live.len();
        disk.reserve(new_len.saturating_sub(old_len) as u64)?;
        let mut content = lock(&self.node);
        content.modified_at = disk.now;
        match &mut content.live {
            Live::Plain(bytes) => change(bytes),
            Live::Mapped { .. } => return Err(io::ErrorKind::ResourceBusy.into()),
        }
        Ok(())
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        self.files.disk().open_files -= 1;
    }
}

impl StoreFile for MemoryFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.files.disk().fail_if_planned(FileOperation::Read)?;
        let content = lock(&self.node);
        let start = (offset as usize).min(content.live.len());
        let end = (start + buf.len()).min(content.live.len());
        match &content.live {
            Live::Plain(bytes) => buf[..end - start].copy_from_slice(&bytes[start..end]),
            Live::Mapped { memory, .. } => buf[..end - start].copy_from_slice(&memory.copy_out(start..end)),
        }
        Ok(end - start)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let start = offset as usize;
        let end = start + buf.len();
        self.change(end, |bytes| {
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(buf);
        })
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.node).live.len() as u64)
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.change(len_bytes as usize, |bytes| bytes.resize(len_bytes as usize, 0))
    }

    fn preallocate(&self, len_bytes: u64) -> io::Result<()> {
        self.change(len_bytes as usize, |bytes| {
            let len = bytes.len().max(len_bytes as usize);
            bytes.resize(len, 0);
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.files.wait_while_stalled(FileOperation::Sync);
        self.files.disk().fail_if_planned(FileOperation::Sync)?;
        let mut content = lock(&self.node);
        content.durable = content.live.to_vec();
        Ok(())
    }
}

/// What is behind the map of a file.
pub(super) struct MappedMemoryFile {
    pub(super) files: MemoryFiles,
    pub(super) node: Node,
    /// So many will find it being written.
    pub(super) looks: AtomicUsize,
}

impl MapBacking for MappedMemoryFile {
    fn write(&self, memory: &MapMemory, at: usize, bytes: &[u8]) -> io::Result<()> {
        self.files.wait_while_stalled(FileOperation::Write);
        let mut disk = self.files.disk();
        let planned = disk.fail_if_planned(FileOperation::Write);
        let written = if planned.is_err() { &bytes[..bytes.len() / 2] } else { bytes };
        memory.copy_in(at, written);
        planned
    }

    fn sync(&self, memory: &MapMemory, range: Range<usize>) -> io::Result<()> {
        self.files.wait_while_stalled(FileOperation::Sync);
        let mut disk = self.files.disk();
        disk.fail_if_planned(FileOperation::Sync)?;
        let mut content = lock(&self.node);
        content.modified_at = disk.now;
        // The length is durable with the first of the content.
        let len = content.live.len().max(content.durable.len());
        content.durable.resize(len, 0);
        content.durable[range.clone()].copy_from_slice(&memory.copy_out(range));
        Ok(())
    }

    fn begin_write(&self, _: Range<usize>) -> io::Result<()> {
        let mut disk = self.files.disk();
        disk.fail_if_planned(FileOperation::BeginWrite)?;
        self.looks.store(disk.looks_until_written, Ordering::Relaxed);
        Ok(())
    }

    fn is_written(&self, _: Range<usize>) -> bool {
        let one_less = |looks: usize| looks.checked_sub(1);
        self.looks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err()
    }
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryFile").finish_non_exhaustive()
    }
}
