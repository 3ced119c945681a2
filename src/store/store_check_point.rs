//! The file `checkpoint`: how far the store had come when it was last sure.
//!
//! ```text
//!   0 │ physic time 8 │ logics time 8 │ index time 8 │ master flushed 8 │ confirm 8 │   RocketMQ's
//!  40 │ magic 8 │ dispatched 8 │ end 8 │ last record 8 │ crc 4 │                       Telstar's
//!  76 │ zeros up to 4096
//! ```
//!
//! RocketMQ neither reads nor writes beyond byte 40, so Telstar's part survives it and may be stale: its
//! positions are where to begin to look, and are verified against the log. The CRC covers bytes 40 to 72.

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
const JAVA_BYTES: usize = 40;
const CRC_AT: usize = 72;
const USED_BYTES: usize = 76;
const MAGIC: u64 = u64::from_be_bytes(*b"TELSTAR1");
/// "None" on disk; no log grows so long.
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
    /// `None` in a file that Telstar never wrote.
    pub own: Option<OwnPosition>,
}

/// What Telstar adds to RocketMQ's times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnPosition {
    /// Everything derived from the log below this is on disk.
    pub dispatched: PhysicalOffset,
    /// The end of the log, written by a clean stop only. The store time of the tail is not kept.
    pub stopped_at: Option<LogTail>,
}

impl StoreCheckPoint {
    /// Messages stored before this are flushed and dispatched for certain (RocketMQ: `minTimestamp`).
    pub fn min_time(&self) -> WallMs {
        WallMs((self.physic_at.min(self.logics_at).0 - TIME_MARGIN_MS).max(0))
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FILE_BYTES);
        bytes.put_i64(self.physic_at.0);
        bytes.put_i64(self.logics_at.0);
        bytes.put_i64(self.index_at.0);
        bytes.put_i64(self.master_flushed);
        bytes.put_i64(self.confirm);
        if let Some(own) = self.own {
            let last_record = own.stopped_at.and_then(|tail| tail.last_record);
            bytes.put_u64(MAGIC);
            bytes.put_u64(own.dispatched.0);
            bytes.put_u64(own.stopped_at.map_or(NONE, |tail| tail.end.0));
            bytes.put_u64(last_record.map_or(NONE, |at| at.0));
            bytes.put_u32(crc32fast::hash(&bytes[JAVA_BYTES..CRC_AT]));
        }
        bytes
    }

    /// A short file is read as if zeros followed.
    fn decode(mut content: Vec<u8>) -> Self {
        content.resize(content.len().max(USED_BYTES), 0);
        let own_crc = crc32fast::hash(&content[JAVA_BYTES..CRC_AT]);
        let mut bytes = &content[..];
        let mut check_point = Self {
            physic_at: WallMs(bytes.get_i64()),
            logics_at: WallMs(bytes.get_i64()),
            index_at: WallMs(bytes.get_i64()),
            master_flushed: bytes.get_i64(),
            confirm: bytes.get_i64(),
            own: None,
        };
        let magic = bytes.get_u64();
        let dispatched = PhysicalOffset(bytes.get_u64());
        let [end, last_record] =
            [bytes.get_u64(), bytes.get_u64()].map(|at| (at != NONE).then_some(PhysicalOffset(at)));
        if magic == MAGIC && bytes.get_u32() == own_crc {
            let stopped_at = end.map(|end| LogTail { end, last_record, last_stored_at: WallMs(0) });
            check_point.own = Some(OwnPosition { dispatched, stopped_at });
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
        StoreCheckPoint {
            physic_at: WallMs(10_000),
            logics_at: WallMs(9_000),
            index_at: WallMs(3),
            master_flushed: -1,
            confirm: 5,
            own: Some(OwnPosition { dispatched: PhysicalOffset(77), stopped_at: None }),
        }
    }

    #[test]
    fn check_point_survives_a_crash_once_saved() {
        let (files, root) = (MemoryFiles::new(), Path::new("/store"));
        let (mut file, found) = CheckPointFile::open(&files, root).unwrap();
        assert_eq!(found, StoreCheckPoint::default());
        assert_eq!(found.min_time(), WallMs(0));
        file.save(&check_point()).unwrap();
        let stopped_at = Some(LogTail {
            end: PhysicalOffset(99),
            last_record: Some(PhysicalOffset(7)),
            ..LogTail::default()
        });
        let own = Some(OwnPosition { dispatched: PhysicalOffset(99), stopped_at });
        let stopped = StoreCheckPoint { own, ..check_point() };
        file.save(&stopped).unwrap();
        drop(file);
        files.crash();
        assert_eq!(CheckPointFile::open(&files, root).unwrap().1, stopped);
        assert_eq!(stopped.min_time(), WallMs(6_000));
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
    fn file_of_rocketmq_has_no_own_position() {
        let mut java = check_point().encode();
        java.truncate(JAVA_BYTES);
        java.resize(FILE_BYTES, 0);
        assert_eq!(StoreCheckPoint::decode(java), StoreCheckPoint { own: None, ..check_point() });
        let mut damaged = check_point().encode();
        damaged[55] ^= 1;
        assert_eq!(StoreCheckPoint::decode(damaged).own, None);
        assert_eq!(StoreCheckPoint::decode(vec![0; 11]), StoreCheckPoint::default());
    }
}
