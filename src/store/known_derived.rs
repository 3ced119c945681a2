//! What the last check point knew of the files that are derived from the log: kept in the metadata, so that a start
//! can tell that some of them are missing.

use serde::{Deserialize, Serialize};

use super::consume_queue::KnownQueue;
use super::index_file::IndexFileConfig;
use super::metadata::{KeyValueTable, Metadata, MetadataError, Record, Table};
use crate::types::{QueueId, TopicName};

impl Record for KnownQueue {}

/// What is kept of one index file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KnownIndexFile {
    /// `yyyyMMddHHmmssSSS`, read as a number.
    pub name: u64,
    /// The number the next entry will have.
    pub count: u32,
    /// Where the message of the last entry lies.
    pub end_physical: u64,
}

/// The files of the key index, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KnownIndex {
    pub files: Vec<KnownIndexFile>,
}

impl Record for KnownIndex {}

const INDEX_KEY: &[u8] = b"files";
const BOOT_ID: &str = "boot id of the last start";
const QUEUE_UNITS: &str = "units of a consume queue segment";
const INDEX_SIZES: &str = "slots and entries of an index file";

/// Queues that are saved in one batch: as long as it lasts, what it replaces stays in memory.
const SAVED_TOGETHER: usize = 256;

/// One queue by name, with what is known of it.
pub type NamedQueue = (TopicName, QueueId, KnownQueue);

/// The tables. Owner: the flusher, which writes at check points; a topic that is deleted is forgotten at once.
#[derive(Debug)]
pub struct KnownDerived {
    queues: Table<KnownQueue>,
    index: Table<KnownIndex>,
    marks: KeyValueTable,
    metadata: Metadata,
}

impl KnownDerived {
    pub fn open(metadata: &Metadata) -> Result<Self, MetadataError> {
        Ok(Self {
            queues: metadata.table("known_queues")?,
            index: metadata.table("known_index")?,
            marks: metadata.marks()?,
            metadata: metadata.clone(),
        })
    }

    /// Every queue that is known.
    pub fn queues(&self) -> Result<Vec<NamedQueue>, MetadataError> {
        let named = |entry: Result<(sled::IVec, KnownQueue), MetadataError>| {
            let (key, known) = entry?;
            let (topic, queue_id) = std::str::from_utf8(&key)
                .ok()
                .and_then(|key| key.split_once('\0'))
                .and_then(|(topic, queue_id)| Some((TopicName::from(topic), QueueId(queue_id.parse().ok()?))))
                .ok_or_else(|| self.queues.malformed_key(&key))?;
            Ok((topic, queue_id, known))
        };
        self.queues.scan(&[]).map(named).collect()
    }

    pub fn index(&self) -> Result<KnownIndex, MetadataError> {
        Ok(self.index.get(INDEX_KEY)?.unwrap_or_default())
    }

    /// Replaces what is known of these queues and of the index, durably. A queue keeps where its first message lay:
    /// records before it are those of an earlier topic of that name. After a crash some may be replaced and others not:
    /// each is true by itself.
    pub fn save(&self, queues: &[NamedQueue], index: Option<&KnownIndex>) -> Result<(), MetadataError> {
        for lot in queues.chunks(SAVED_TOGETHER) {
            let mut entries = Vec::with_capacity(lot.len());
            for (topic, queue_id, known) in lot {
                let key = self.key(topic, *queue_id)?;
                let mut known = known.clone();
                if let Some(before) = self.queues.get(&key)?.filter(|before| before.last_physical > 0) {
                    known.first_physical = before.first_physical;
                }
                entries.push((key, known));
            }
            self.queues.put_all(entries)?;
        }
        if let Some(index) = index {
            self.index.put(INDEX_KEY, index)?;
        }
        self.metadata.flush()
    }

    /// Forgets queues that are no more.
    pub fn forget<'a>(
        &self,
        queues: impl IntoIterator<Item = (&'a TopicName, QueueId)>,
    ) -> Result<(), MetadataError> {
        for (topic, queue_id) in queues {
            self.queues.delete(&self.key(topic, queue_id)?)?;
        }
        self.metadata.flush()
    }

    /// Forgets every queue of a topic, durably, before its files go.
    pub fn forget_topic(&self, topic: &TopicName) -> Result<(), MetadataError> {
        let prefix = self.queues.join_key(&[topic.as_str(), ""])?;
        self.queues.delete_where(&prefix, |_| true)?;
        self.metadata.flush()
    }

    /// Makes the next start derive these queues, and the index, from the beginning of the log. Their files go after.
    pub fn want_derived(&self, queues: &[(TopicName, QueueId)], index: bool) -> Result<(), MetadataError> {
        let mut entries = Vec::with_capacity(queues.len());
        for (topic, queue_id) in queues {
            let key = self.key(topic, *queue_id)?;
            let known = self.queues.get(&key)?.unwrap_or_default();
            // At least one file is to be missed.
            let segments = known.segments.start..known.segments.end.max(known.segments.start + 1);
            entries.push((key, KnownQueue { segments, ..known }));
        }
        self.queues.put_all(entries)?;
        if index {
            let missed = KnownIndexFile { name: 0, count: 2, end_physical: u64::MAX };
            self.index.put(INDEX_KEY, &KnownIndex { files: vec![missed] })?;
        }
        self.metadata.flush()
    }

    /// The run of the kernel in which the store was last opened.
    pub fn boot_id(&self) -> Result<Option<String>, MetadataError> {
        self.marks.get(BOOT_ID)
    }

    /// Durable when it returns.
    pub fn save_boot_id(&self, boot_id: &str) -> Result<(), MetadataError> {
        if self.boot_id()?.as_deref() == Some(boot_id) {
            return Ok(());
        }
        self.marks.put(BOOT_ID, boot_id)?;
        self.metadata.flush()
    }

    /// The units of a segment that the files on disk were made with.
    pub fn queue_segment_units(&self) -> Result<Option<u64>, MetadataError> {
        Ok(self.marks.get(QUEUE_UNITS)?.and_then(|units| units.parse().ok()))
    }

    /// The sizes that the index files on disk were made with.
    pub fn index_sizes(&self) -> Result<Option<IndexFileConfig>, MetadataError> {
        let sizes = self.marks.get(INDEX_SIZES)?;
        Ok(sizes.and_then(|sizes| {
            let (slots, entries) = sizes.split_once(' ')?;
            Some(IndexFileConfig { slots: slots.parse().ok()?, entries: entries.parse().ok()? })
        }))
    }

    pub fn save_sizes(&self, units: u64, index: Option<IndexFileConfig>) -> Result<(), MetadataError> {
        self.marks.put(QUEUE_UNITS, &units.to_string())?;
        if let Some(IndexFileConfig { slots, entries }) = index {
            self.marks.put(INDEX_SIZES, &format!("{slots} {entries}"))?;
        }
        Ok(())
    }

    fn key(&self, topic: &TopicName, queue_id: QueueId) -> Result<Vec<u8>, MetadataError> {
        self.queues.join_key(&[topic.as_str(), &queue_id.to_string()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(max: u64, first_physical: u64) -> KnownQueue {
        KnownQueue { segments: 0..1, max, first_physical, last_physical: first_physical + max * 100 }
    }

    #[test]
    fn queues_keep_where_they_began_until_their_topic_is_forgotten() {
        let derived = KnownDerived::open(&Metadata::temporary().unwrap()).unwrap();
        let (a, b): (TopicName, TopicName) = ("a".into(), "ab".into());
        derived
            .save(&[(a.clone(), QueueId(3), known(1, 500)), (b.clone(), QueueId(0), known(1, 0))], None)
            .unwrap();
        derived.save(&[(a.clone(), QueueId(3), known(9, 800))], None).unwrap();
        let kept = KnownQueue { first_physical: 500, ..known(9, 800) };
        let all = [(a.clone(), QueueId(3), kept), (b.clone(), QueueId(0), known(1, 0))];
        assert_eq!(derived.queues().unwrap(), all);
        derived.forget_topic(&a).unwrap();
        assert_eq!(derived.queues().unwrap(), all[1..], "a topic whose name begins alike stays");
        derived.save(&[(a.clone(), QueueId(3), known(1, 900))], None).unwrap();
        assert_eq!(derived.queues().unwrap()[0], (a, QueueId(3), known(1, 900)));
    }
}
