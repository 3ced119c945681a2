//! How far each queue was compacted: `compaction/position-checkpoint`, in Java's form.
//!
//! A hint: without it, or with an old one, more is looked at again, and the outcome is the same.
//! RocketMQ: `CompactionPositionMgr`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::compacted_log::COMPACTION_DIR;
use super::file::{OpenMode, StoreFiles};
use crate::types::{QueueId, QueueOffset, TopicName};

const FILE: &str = "position-checkpoint";

#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Content {
    /// By `TOPIC_QUEUE`; -1 for none.
    queue_offset_map: BTreeMap<String, i64>,
}

/// See the [module](self).
pub struct CompactionPositions {
    files: Arc<dyn StoreFiles>,
    dir: PathBuf,
    content: Content,
}

impl CompactionPositions {
    /// Reads them; a file that cannot be understood counts as none.
    pub fn open(files: Arc<dyn StoreFiles>, root: &Path) -> io::Result<Self> {
        let dir = root.join(COMPACTION_DIR);
        let text = files.read(&dir.join(FILE))?.unwrap_or_default();
        let content = serde_json::from_slice(&text).unwrap_or_default();
        Ok(Self { files, dir, content })
    }

    /// Of the messages up to this one, the latest of each key are left.
    pub fn get(&self, topic: &TopicName, queue_id: QueueId) -> Option<QueueOffset> {
        let position = self.content.queue_offset_map.get(&name_of(topic, queue_id))?;
        u64::try_from(*position).ok().map(QueueOffset)
    }

    pub fn set(&mut self, topic: &TopicName, queue_id: QueueId, position: QueueOffset) {
        self.content.queue_offset_map.insert(name_of(topic, queue_id), position.0 as i64);
    }

    /// Forgets the other topics.
    pub fn keep_topics(&mut self, is_there: impl Fn(&str) -> bool) {
        let topic_of = |name: &str| name.rsplit_once('_').is_some_and(|(topic, _)| is_there(topic));
        self.content.queue_offset_map.retain(|name, _| topic_of(name));
    }

    /// Replaces the file by what is known now.
    pub fn save(&self) -> io::Result<()> {
        let text = serde_json::to_vec(&self.content).map_err(io::Error::other)?;
        self.files.create_dir_all(&self.dir)?;
        let made = self.dir.join(format!("{FILE}.tmp"));
        let file = self.files.open(&made, OpenMode::CreateMissing)?;
        file.set_len(0)?;
        file.write_all_at(&text, 0)?;
        file.sync()?;
        self.files.rename(&made, &self.dir.join(FILE))?;
        self.files.sync_dir(&self.dir)
    }
}

fn name_of(topic: &TopicName, queue_id: QueueId) -> String {
    format!("{topic}_{queue_id}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory_files::MemoryFiles;

    #[test]
    fn positions_are_kept_in_the_form_of_java() {
        let files: Arc<dyn StoreFiles> = Arc::new(MemoryFiles::new());
        let open = || CompactionPositions::open(files.clone(), Path::new("/store")).unwrap();
        let mut positions = open();
        positions.set(&"a_b".into(), QueueId(1), QueueOffset(7));
        positions.set(&"a".into(), QueueId(0), QueueOffset(3));
        positions.save().unwrap();
        let text = files.read(Path::new("/store/compaction/position-checkpoint")).unwrap().unwrap();
        assert_eq!(text, br#"{"queueOffsetMap":{"a_0":3,"a_b_1":7}}"#);
        let mut positions = open();
        assert_eq!(positions.get(&"a_b".into(), QueueId(1)), Some(QueueOffset(7)));
        positions.keep_topics(|topic| topic == "a_b");
        positions.save().unwrap();
        assert_eq!(open().get(&"a".into(), QueueId(0)), None);
        assert_eq!(open().get(&"a_b".into(), QueueId(1)), Some(QueueOffset(7)));
    }

    #[test]
    fn file_that_cannot_be_understood_counts_as_none() {
        let files: Arc<dyn StoreFiles> = Arc::new(MemoryFiles::new());
        let dir = Path::new("/store/compaction");
        files.create_dir_all(dir).unwrap();
        let file = files.open(&dir.join(FILE), OpenMode::CreateNew).unwrap();
        file.write_all_at(br#"{"queueOffsetMap":{"T_0":-1,"T_1""#, 0).unwrap();
        let positions = CompactionPositions::open(files, Path::new("/store")).unwrap();
        assert_eq!(positions.get(&"T".into(), QueueId(0)), None);
    }
}
