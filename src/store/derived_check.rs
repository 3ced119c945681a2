//! Are the files that are derived from the log all there? Asked at each start, so it is cheap: names and lengths
//! are compared with what the last check point knew, and content is looked at only where a file was written since.
//!
//! Whatever is missing is removed altogether, and the dispatcher derives it again from the first record of the log.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{info, warn};

use super::consume_queue::{
    ConsumeQueue, ConsumeQueueConfig, ConsumeQueueError, ConsumeQueueUnit, KnownQueue, UNIT_BYTES,
    list_queues, queue_dir,
};
use super::file::{OpenMode, StoreFiles};
use super::index_file::{IndexFile, IndexFileConfig};
use super::known_derived::{KnownDerived, KnownIndex, NamedQueue};
use super::metadata::MetadataError;
use crate::clock::WallMs;
use crate::types::{PhysicalOffset, QueueId, QueueOffset, TopicName};

/// Why a start cannot go on from the derived files.
#[derive(Debug, thiserror::Error)]
pub enum DerivedError {
    #[error("cannot look at {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error(transparent)]
    Queue(#[from] ConsumeQueueError),
    #[error("consume queue files in {} have {found} units a segment, not {configured}; a value of {found} reads them, and without that directory they are derived again", path.display())]
    QueueUnits { path: PathBuf, found: u64, configured: u64 },
    #[error("index files in {} have {} slots and {} entries; these values read them, and without that directory they are derived again", path.display(), found.slots, found.entries)]
    IndexSizes { path: PathBuf, found: IndexFileConfig },
    #[error("index file {} has {len_bytes} bytes, and slots and entries make {expected_bytes}; other values may read it, and without the directory it is derived again", path.display())]
    IndexLength { path: PathBuf, len_bytes: u64, expected_bytes: u64 },
}

/// What is looked at, and what is known about it.
pub struct DerivedCheck<'a> {
    pub files: &'a Arc<dyn StoreFiles>,
    pub root: &'a Path,
    pub known: &'a KnownDerived,
    pub units: ConsumeQueueConfig,
    pub index: Option<IndexFileConfig>,
    pub log_start: PhysicalOffset,
    pub log_end: PhysicalOffset,
    /// What lies beyond is derived again in any case.
    pub dispatch_from: PhysicalOffset,
    /// When the last check point was written, by the clock of the file system; files as old are as they were.
    pub checked_at: Option<WallMs>,
    /// The last check point was not Telstar's: RocketMQ may have been here.
    pub is_foreign: bool,
}

/// What has to be derived again from the beginning of the log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Missing {
    pub queues: MissingQueues,
    /// The index lacks entries of messages from here on.
    pub index_from: Option<PhysicalOffset>,
    /// Nothing is known of timers that were stored from here on.
    pub timers_from: Option<PhysicalOffset>,
    /// The number the next message of a queue has, where its files may not tell.
    pub numbers: Vec<(TopicName, QueueId, QueueOffset)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MissingQueues {
    /// Each with its first message; records before it are those of an earlier topic of that name.
    Some(HashMap<(TopicName, QueueId), PhysicalOffset>),
    /// Nothing is known of any queue, and none is there.
    All,
}

impl Default for MissingQueues {
    fn default() -> Self {
        Self::Some(HashMap::new())
    }
}

impl Missing {
    pub fn is_nothing(&self) -> bool {
        self.index_from.is_none()
            && self.timers_from.is_none()
            && matches!(&self.queues, MissingQueues::Some(queues) if queues.is_empty())
    }

    /// Whether queues of a topic are derived anew.
    pub fn may_lack(&self, topic: &str) -> bool {
        match &self.queues {
            MissingQueues::All => true,
            MissingQueues::Some(queues) => queues.keys().any(|(known, _)| **known == *topic),
        }
    }

    /// Where in the log deriving begins; `dispatch_from` when nothing is missing.
    pub fn begin(&self, log_start: PhysicalOffset, dispatch_from: PhysicalOffset) -> PhysicalOffset {
        let queues = match &self.queues {
            MissingQueues::All => Some(log_start),
            MissingQueues::Some(queues) => queues.values().copied().min(),
        };
        let earliest = queues.into_iter().chain(self.index_from).chain(self.timers_from).min();
        earliest.map_or(dispatch_from, |at| at.max(log_start).min(dispatch_from))
    }
}

impl DerivedCheck<'_> {
    /// Finds what is missing and removes what is left of it. Queues of which nothing is known are noted.
    pub fn run(&self) -> Result<Missing, DerivedError> {
        self.check_sizes()?;
        let known = self.known.queues()?;
        let queues = self.missing_queues(&known)?;
        let index_from = match self.index {
            Some(config) => self.missing_index(config, &self.known.index()?)?,
            None => None,
        };
        self.known.save_sizes(self.units.segment_units, self.index)?;
        if known.is_empty() || self.is_foreign {
            self.adopt(&known)?;
        }
        let mut numbers = Vec::new();
        for (topic, queue_id, known) in &known {
            let is_lost = matches!(&queues, MissingQueues::Some(lost) if lost.contains_key(&(topic.clone(), *queue_id)));
            if is_lost || (known.segments.is_empty() && known.max > 0) {
                numbers.push((topic.clone(), *queue_id, QueueOffset(known.max)));
            }
        }
        Ok(Missing { queues, index_from, timers_from: None, numbers })
    }

    fn consume_queue_root(&self) -> PathBuf {
        self.root.join("consumequeue")
    }

    fn index_dir(&self) -> PathBuf {
        self.root.join("index")
    }

    /// Files of other sizes cannot be read. Without files the sizes may be chosen anew.
    fn check_sizes(&self) -> Result<(), DerivedError> {
        let path = self.consume_queue_root();
        let configured = self.units.segment_units;
        let found = match self.known.queue_segment_units()? {
            Some(found) if found == configured => None,
            Some(found) => self.any_queue_file()?.map(|_| found),
            // A store that another broker filled: what its files are is what they were made with.
            None => self.any_queue_file()?.map(|len_bytes| len_bytes / UNIT_BYTES as u64),
        };
        if let Some(found) = found.filter(|found| *found != configured) {
            return Err(DerivedError::QueueUnits { path, found, configured });
        }
        let Some(configured) = self.index else { return Ok(()) };
        let files = self.index_files()?;
        match self.known.index_sizes()? {
            Some(found) if found != configured && !files.is_empty() => {
                Err(DerivedError::IndexSizes { path: self.index_dir(), found })
            }
            Some(_) => Ok(()),
            None => match files
                .iter()
                .find(|(_, len_bytes)| *len_bytes != 0 && *len_bytes != configured.file_bytes())
            {
                Some((name, len_bytes)) => Err(DerivedError::IndexLength {
                    path: self.index_path(*name),
                    len_bytes: *len_bytes,
                    expected_bytes: configured.file_bytes(),
                }),
                None => Ok(()),
            },
        }
    }

    /// The length of some segment of some queue.
    fn any_queue_file(&self) -> Result<Option<u64>, DerivedError> {
        for (topic, queue_ids) in list_queues(&**self.files, &self.consume_queue_root())? {
            for queue_id in queue_ids {
                let dir = queue_dir(&self.consume_queue_root(), &topic, queue_id);
                let listed = self.files.list(&dir).map_err(|source| io_error(&dir, source))?;
                let segment = listed.iter().find(|entry| entry.name.len() == 20 && entry.stat.len_bytes > 0);
                if let Some(segment) = segment {
                    return Ok(Some(segment.stat.len_bytes));
                }
            }
        }
        Ok(None)
    }

    fn missing_queues(&self, known: &[NamedQueue]) -> Result<MissingQueues, DerivedError> {
        let root = self.consume_queue_root();
        if known.is_empty() {
            let nothing =
                self.log_start < self.dispatch_from && list_queues(&**self.files, &root)?.is_empty();
            if nothing {
                warn!(dir = %root.display(), "all consume queues are missing; they are derived from the log");
                return Ok(MissingQueues::All);
            }
            return Ok(MissingQueues::default());
        }
        let mut missing = HashMap::new();
        for (topic, queue_id, known) in known {
            let dir = queue_dir(&root, topic, *queue_id);
            if self.is_whole(&dir, known)? {
                continue;
            }
            warn!(%topic, queue_id = queue_id.0, "files of a consume queue are missing or cut; it is derived from the log");
            self.files.remove_dir_all(&dir).map_err(|source| io_error(&dir, source))?;
            missing.insert((topic.clone(), *queue_id), PhysicalOffset(known.first_physical));
        }
        Ok(MissingQueues::Some(missing))
    }

    fn is_whole(&self, dir: &Path, known: &KnownQueue) -> Result<bool, DerivedError> {
        let segment_bytes = self.units.segment_units * UNIT_BYTES as u64;
        let path_of = |number: u64| dir.join(format!("{:020}", number * segment_bytes));
        let mut first = None;
        let mut written_at = None;
        for number in known.segments.clone() {
            let path = path_of(number);
            match self.files.stat(&path).map_err(|source| io_error(&path, source))? {
                Some(stat) if stat.len_bytes == segment_bytes => {
                    first.get_or_insert(number);
                    written_at = Some(stat.modified_at);
                }
                // Retention deletes from the front, and the check point may be older than that.
                None if first.is_none() && number + 1 < known.segments.end => {}
                _ => return Ok(false),
            }
        }
        let (Some(first), Some(written_at)) = (first, written_at) else {
            return Ok(known.segments.is_empty());
        };
        if first > known.segments.start {
            let unit = self.read_unit(&path_of(first), 0)?;
            if unit.is_none_or(|unit| unit.physical_offset > self.log_start) {
                return Ok(false);
            }
        }
        let was_written = self.checked_at.is_none_or(|checked_at| written_at >= checked_at);
        if !was_written || known.last_physical >= self.dispatch_from.0 || known.max == 0 {
            return Ok(true);
        }
        let last = known.max - 1;
        let number = last / self.units.segment_units;
        if !known.segments.contains(&number) {
            return Ok(true);
        }
        let unit = self.read_unit(&path_of(number), last % self.units.segment_units)?;
        Ok(unit.is_some_and(|unit| unit.physical_offset.0 == known.last_physical))
    }

    fn read_unit(&self, path: &Path, index: u64) -> Result<Option<ConsumeQueueUnit>, DerivedError> {
        let mut bytes = [0; UNIT_BYTES];
        let file = self.files.open(path, OpenMode::Existing).map_err(|source| io_error(path, source))?;
        file.read_exact_at(&mut bytes, index * UNIT_BYTES as u64).map_err(|source| io_error(path, source))?;
        Ok(ConsumeQueueUnit::decode(&bytes))
    }

    /// Removes index files from the first one on that is missing or holds less than it did.
    fn missing_index(
        &self,
        config: IndexFileConfig,
        known: &KnownIndex,
    ) -> Result<Option<PhysicalOffset>, DerivedError> {
        let found = self.index_files()?;
        let mut kept_end = PhysicalOffset(0);
        for file in &known.files {
            // Retention deletes files of deleted messages, and the check point may be older than that.
            let is_expired = file.end_physical < self.log_start.0;
            let is_whole = match found.iter().find(|(name, _)| *name == file.name) {
                None => is_expired,
                Some((_, len_bytes)) => {
                    let is_derived_anyway = file.end_physical >= self.dispatch_from.0;
                    *len_bytes == config.file_bytes()
                        && (is_derived_anyway || self.index_count(file.name, config)? >= file.count)
                }
            };
            if !is_whole {
                warn!(
                    name = file.name,
                    "index file is missing or cut; the index is derived from the log from there on"
                );
                for (name, _) in found.iter().filter(|(name, _)| *name >= file.name) {
                    let path = self.index_path(*name);
                    self.files.remove_file(&path).map_err(|source| io_error(&path, source))?;
                }
                return Ok(Some(kept_end));
            }
            kept_end = PhysicalOffset(file.end_physical);
        }
        // Nothing was ever known: a store whose index was taken away before Telstar came.
        let nothing = known.files.is_empty() && found.is_empty() && self.log_start < self.dispatch_from;
        Ok((nothing && self.known.queues()?.is_empty()).then_some(self.log_start))
    }

    fn index_count(&self, name: u64, config: IndexFileConfig) -> Result<u32, DerivedError> {
        let path = self.index_path(name);
        let map = self.files.open_map(&path).map_err(|source| io_error(&path, source))?;
        Ok(IndexFile::new(map, config).header().count)
    }

    /// Names and lengths, oldest first.
    fn index_files(&self) -> Result<Vec<(u64, u64)>, DerivedError> {
        let dir = self.index_dir();
        let listed = self.files.list(&dir).map_err(|source| io_error(&dir, source))?;
        let segments = listed.iter().filter(|entry| !entry.stat.is_dir && entry.name.len() == 17);
        Ok(segments.filter_map(|entry| Some((entry.name.parse().ok()?, entry.stat.len_bytes))).collect())
    }

    fn index_path(&self, name: u64) -> PathBuf {
        self.index_dir().join(format!("{name:017}"))
    }

    /// Notes queues that are there and were not known: those of an older Telstar, or of RocketMQ.
    fn adopt(&self, known: &[NamedQueue]) -> Result<(), DerivedError> {
        let is_known: HashSet<_> = known.iter().map(|(topic, queue_id, _)| (topic, *queue_id)).collect();
        let mut adopted = Vec::new();
        for (topic, queue_ids) in list_queues(&**self.files, &self.consume_queue_root())? {
            for queue_id in queue_ids {
                if is_known.contains(&(&topic, queue_id)) && !self.is_foreign {
                    continue;
                }
                let dir = queue_dir(&self.consume_queue_root(), &topic, queue_id);
                // As it will be opened: without what is derived again.
                let truncate_at = (self.dispatch_from < self.log_end).then_some(self.dispatch_from);
                match ConsumeQueue::open(self.files.clone(), dir, self.units, truncate_at) {
                    Ok(mut queue) => adopted.push((topic.clone(), queue_id, queue.known()?)),
                    // It is refused, and named, when it is used.
                    Err(error) => {
                        warn!(%topic, queue_id = queue_id.0, %error, "consume queue cannot be opened")
                    }
                }
            }
        }
        if !adopted.is_empty() {
            info!(queues = adopted.len(), "consume queues noted that were not known");
            self.known.save(&adopted, None)?;
        }
        Ok(())
    }
}

fn io_error(path: &Path, source: io::Error) -> DerivedError {
    DerivedError::Io { path: path.to_owned(), source }
}
