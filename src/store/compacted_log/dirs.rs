//! Where the files of one compacted log lie, and how large they are made.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::store::compacted_log::unit::UNIT_BYTES;
use crate::store::file::{OpenMode, StoreFiles};
use crate::store::mapped_file::MappedFile;
use crate::types::{QueueId, TopicName};

/// Under the root of a store. RocketMQ: `CompactionStore.COMPACTION_DIR` and beside.
pub const COMPACTION_DIR: &str = "compaction";
pub const LOG_DIR: &str = "compactionLog";
pub const INDEX_DIR: &str = "compactionCq";
/// Where what replaces segments is written first; Java uses it alike, and reads nothing from it at a start.
const WORK_DIR: &str = "compacting";
const NAME_DIGITS: usize = 20;

/// Lengths of new files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompactedSizes {
    pub segment_bytes: u64,
    pub index_bytes: u64,
}

impl CompactedSizes {
    /// As a Java broker makes them of its settings: it opens no others. RocketMQ: `CompactionLog.getCompactionLogSize`.
    pub fn of_java(segment_bytes: u64, index_bytes: u64) -> Self {
        let unit = UNIT_BYTES as u64;
        let index_bytes = (index_bytes / unit * unit).max(2 * unit);
        let (whole, rest) = (segment_bytes / index_bytes, segment_bytes % index_bytes);
        let segment_bytes = match whole {
            0..5 => index_bytes * 5,
            _ if rest > 0 && rest < index_bytes / 2 => whole * index_bytes,
            _ => (whole + 1) * index_bytes,
        };
        Self { segment_bytes, index_bytes }
    }
}

impl Default for CompactedSizes {
    /// RocketMQ: `compactionMappedFileSize` and `compactionCqMappedFileSize`.
    fn default() -> Self {
        Self::of_java(100 << 20, 10 << 20)
    }
}

/// Which of the two files of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    Log,
    Index,
}

/// The directories of one compacted log.
#[derive(Clone, Debug)]
pub struct CompactedDirs {
    pub files: Arc<dyn StoreFiles>,
    /// That of the store.
    root: PathBuf,
    log: PathBuf,
    index: PathBuf,
}

impl CompactedDirs {
    /// `root`: of the store.
    pub fn of(files: Arc<dyn StoreFiles>, root: &Path, topic: &TopicName, queue_id: QueueId) -> Self {
        let dir =
            |part| root.join(COMPACTION_DIR).join(part).join(topic.as_str()).join(queue_id.0.to_string());
        Self { files, root: root.to_owned(), log: dir(LOG_DIR), index: dir(INDEX_DIR) }
    }

    pub fn dir(&self, part: Part) -> &Path {
        match part {
            Part::Log => &self.log,
            Part::Index => &self.index,
        }
    }

    pub fn work_dir(&self, part: Part) -> PathBuf {
        self.dir(part).join(WORK_DIR)
    }

    pub fn path(&self, part: Part, base: u64) -> PathBuf {
        self.dir(part).join(name_of(base))
    }

    pub fn work_path(&self, part: Part, base: u64) -> PathBuf {
        self.work_dir(part).join(name_of(base))
    }

    /// Names of the segments that have this part, in order.
    pub fn bases(&self, part: Part) -> io::Result<Vec<u64>> {
        let entries = self.files.list(self.dir(part))?;
        let named = |name: &str| (name.len() == NAME_DIGITS).then(|| name.parse().ok()).flatten();
        Ok(entries.iter().filter(|entry| !entry.stat.is_dir).filter_map(|entry| named(&entry.name)).collect())
    }

    pub fn create(&self) -> io::Result<()> {
        self.files.create_dir_all(&self.log)?;
        self.files.create_dir_all(&self.index)
    }

    /// Makes the names of segments durable, and those of the directories above them.
    pub fn sync(&self) -> io::Result<()> {
        if self.files.stat(&self.log)?.is_none() {
            return Ok(());
        }
        for dir in [&self.log, &self.index] {
            for above in dir.ancestors().take_while(|above| above.starts_with(&self.root)) {
                self.files.sync_dir(above)?;
            }
        }
        Ok(())
    }

    pub fn remove_all(&self) -> io::Result<()> {
        self.files.remove_dir_all(&self.log)?;
        self.files.remove_dir_all(&self.index)
    }
}

/// Makes a file of zeros that takes no room yet, and maps it. It is written to by its map's write half only, which
/// meets a full disk as an error.
pub fn create_sparse(files: &dyn StoreFiles, path: &Path, len_bytes: u64) -> io::Result<MappedFile> {
    let file = files.open(path, OpenMode::CreateNew)?;
    file.set_len(len_bytes)?;
    drop(file);
    files.open_map(path)
}

fn name_of(base: u64) -> String {
    format!("{base:0NAME_DIGITS$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_the_lengths_that_java_makes_of_its_settings() {
        // What a broker of 5.5.0 leaves with its defaults.
        assert_eq!(
            CompactedSizes::default(),
            CompactedSizes { segment_bytes: 104_857_460, index_bytes: 10_485_746 }
        );
        assert_eq!(
            CompactedSizes::of_java(4096, 1000),
            CompactedSizes { segment_bytes: 4830, index_bytes: 966 }
        );
        assert_eq!(CompactedSizes::of_java(9200, 920).segment_bytes, 10_120);
    }
}
