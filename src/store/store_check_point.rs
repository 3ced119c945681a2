//! The file `checkpoint`: how far the store had come when it was last sure.
//!
//! ```text
//!   0 │ physic time 8 │ logics time 8 │ index time 8 │ master flushed 8 │ confirm 8 │   RocketMQ's
//!  40 │ magic 8 │ dispatched 8 │ last record 8 │ its store time 8 │ crc 4 │             Telstar's
//!  76 │ zeros up to 4096
//! ```
//!
//! RocketMQ neither reads nor writes beyond byte 40. The CRC covers all bytes before it, so that Telstar's
//! part no longer counts once RocketMQ has written the file. Even so recovery verifies it against the log.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, BufMut};

use super::commit_log::LogTail;
use super::file::{OpenMode, StoreFile, StoreFiles};
use crate::clock::WallMs;
use crate::types::PhysicalOffset;

/// Length of the file (RocketMQ: `MappedFile.OS_PAGE_SIZE`).
const FILE_BYTES: usize = 4096;
const CRC_AT: usize = 72;
const USED_BYTES: usize = 76;
const MAGIC: u64 = u64::from_be_bytes(*b"TELSTAR1");
/// "No record" on disk; no log grows so long.
const NONE: u64 = u64::MAX;
/// How far the times are taken back, as writes of that age may be unfinished (RocketMQ: `minTimestamp`).
const TIME_MARGIN_MS: i64 = 3000;

/// The content of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreCheckPoint {
    /// Store time of the last flushed message.
    pub physic_at: WallMs,
    /// Store time of the last message in flushed consume queues.
    pub logics_at: WallMs,
    /// Store time of the last message in flushed index files.
    pub index_at: WallMs,
    pub master_flushed: i64,
    pub confirm: i64,
    /// Everything derived from the log below `end` is on disk; with the record that ends there. `None` in a
    /// file that RocketMQ wrote.
    pub dispatched: Option<LogTail>,
}

impl StoreCheckPoint {
    /// Messages stored before this are flushed and dispatched for certain (RocketMQ: `minTimestamp`).
    pub fn min_time(&self) -> WallMs {
        WallMs(self.physic_at.min(self.logics_at).0.saturating_sub(TIME_MARGIN_MS).max(0))
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FILE_BYTES);
        bytes.put_i64(self.physic_at.0);
        bytes.put_i64(self.logics_at.0);
        bytes.put_i64(self.index_at.0);
        bytes.put_i64(self.master_flushed);
        bytes.put_i64(self.confirm);
        if let Some(tail) = self.dispatched {
            bytes.put_u64(MAGIC);
            bytes.put_u64(tail.end.0);
            bytes.put_u64(tail.last_record.map_or(NONE, |at| at.0));
            bytes.put_i64(tail.last_stored_at.0);
            bytes.put_u32(crc32fast::hash(&bytes));
        }
        // Without a position, an older one must not stay behind.
        bytes.resize(USED_BYTES, 0);
        bytes
    }

    /// A short file is read as if zeros followed.
    fn decode(mut content: Vec<u8>) -> Self {
        content.resize(content.len().max(USED_BYTES), 0);
        let crc = crc32fast::hash(&content[..CRC_AT]);
        let mut bytes = &content[..];
        let mut check_point = Self {
            physic_at: WallMs(bytes.get_i64()),
            logics_at: WallMs(bytes.get_i64()),
            index_at: WallMs(bytes.get_i64()),
            master_flushed: bytes.get_i64(),
            confirm: bytes.get_i64(),
            dispatched: None,
        };
        let magic = bytes.get_u64();
        let end = PhysicalOffset(bytes.get_u64());
        let last_record = Some(PhysicalOffset(bytes.get_u64())).filter(|at| at.0 != NONE);
        let last_stored_at = WallMs(bytes.get_i64());
        if magic == MAGIC && bytes.get_u32() == crc {
            check_point.dispatched = Some(LogTail { end, last_record, last_stored_at });
        }
        check_point
    }
}

/// The open file; one owner writes it.
#[derive(Debug)]
pub struct CheckPointFile {
    file: Arc<dyn StoreFile>,
}

impl CheckPointFile {
    /// Opens or creates the file in `root` and reads it; a new one reads as all zeros.
    pub fn open(files: &dyn StoreFiles, root: &Path) -> io::Result<(Self, StoreCheckPoint)> {
        files.create_dir_all(root)?;
        let file = files.open(&root.join("checkpoint"), OpenMode::CreateMissing)?;
        let mut content = vec![0; (file.len()? as usize).min(FILE_BYTES)];
        file.read_exact_at(&mut content, 0)?;
        if content.len() < FILE_BYTES {
            file.preallocate(FILE_BYTES as u64)?;
            files.sync_dir(root)?;
        }
        Ok((Self { file }, StoreCheckPoint::decode(content)))
    }

    /// Writes and makes durable. All of it lies in one disk sector, so it is never half new.
    pub fn save(&mut self, check_point: &StoreCheckPoint) -> io::Result<()> {
        self.file.write_all_at(&check_point.encode(), 0)?;
        self.file.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory_files::MemoryFiles;
    use super::*;

    fn check_point() -> StoreCheckPoint {
        let end = PhysicalOffset(77);
        StoreCheckPoint {
            physic_at: WallMs(10_000),
            logics_at: WallMs(9_000),
            index_at: WallMs(3),
            master_flushed: -1,
            confirm: 5,
            dispatched: Some(LogTail { end, last_record: None, last_stored_at: WallMs(8_000) }),
        }
    }

    #[test]
    fn check_point_survives_a_crash_once_saved() {
        let (files, root) = (MemoryFiles::new(), Path::new("/store"));
        let (mut file, found) = CheckPointFile::open(&files, root).unwrap();
        assert_eq!(found, StoreCheckPoint::default());
        assert_eq!(found.min_time(), WallMs(0));
        file.save(&check_point()).unwrap();
        drop(file);
        files.crash();
        let (mut file, found) = CheckPointFile::open(&files, root).unwrap();
        assert_eq!(found, check_point());
        assert_eq!(found.min_time(), WallMs(6_000));
        file.save(&StoreCheckPoint { dispatched: None, ..check_point() }).unwrap();
        assert_eq!(CheckPointFile::open(&files, root).unwrap().1.dispatched, None);
        assert_eq!(files.read(&root.join("checkpoint")).unwrap().unwrap().len(), FILE_BYTES);
    }

    #[test]
    fn bytes_are_those_of_rocketmq_and_magic_behind_them() {
        let bytes = check_point().encode();
        assert_eq!(bytes[..16], [0, 0, 0, 0, 0, 0, 0x27, 0x10, 0, 0, 0, 0, 0, 0, 0x23, 0x28]);
        assert_eq!(bytes[24..40], [255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(&bytes[40..48], b"TELSTAR1");
        assert_eq!(bytes[48..56], [0, 0, 0, 0, 0, 0, 0, 77]);
        assert_eq!(bytes.len(), USED_BYTES);
    }

    #[test]
    fn position_does_not_count_when_another_wrote_the_file() {
        let mut java = check_point().encode();
        java[7] ^= 1;
        assert_eq!(StoreCheckPoint::decode(java).dispatched, None);
        let mut damaged = check_point().encode();
        damaged[55] ^= 1;
        assert_eq!(StoreCheckPoint::decode(damaged).dispatched, None);
        assert_eq!(StoreCheckPoint::decode(vec![0; 11]), StoreCheckPoint::default());
    }
}
