//! Takes over the settings of a Java broker: topics, groups, consumer offsets and progress of delay levels, once.
//!
//! The commit log, consume queues and index need no import: they are read as they are.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Buf;

use super::file::StoreFiles;
use super::java_config::{
    ConsumerOffsetJson, JavaConfig, SubscriptionGroupJson, TopicsJson, backup_of, config_dir, path_of,
};
use super::metadata::{ConsumerOffset, Forbidden, Metadata, MetadataError};
use crate::protocol::body::offsets::DelayOffsetSerializeWrapper;
use crate::protocol::fastjson::{self, FastJsonError};
use crate::types::{QueueId, QueueOffset};

/// Why a Java data directory cannot be taken over. Nothing has been marked as imported.
#[derive(Debug, thiserror::Error)]
pub enum JavaImportError {
    #[error("consume queues in {} are kept in rocksdb (storeType=defaultRocksDB), which cannot be read", path.display())]
    RocksDbQueues { path: PathBuf },
    #[error("settings in {} are kept in rocksdb, which cannot be read; export them to json with java's tool", path.display())]
    RocksDbSettings { path: PathBuf },
    #[error("commit log in {} is that of dledger (enableDLegerCommitLog), which cannot be read", path.display())]
    DLedgerLog { path: PathBuf },
    #[error("{} holds filter data of consume queues (enableConsumeQueueExt), which cannot be read; stop java with it off and take the directory away to consume without", path.display())]
    QueueExtensions { path: PathBuf },
    #[error("{} holds batch consume queues (queue.type=BatchCQ), which cannot be read", path.display())]
    BatchQueues { path: PathBuf },
    #[error("cannot read {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// Neither the file nor its backup can be understood.
    #[error("cannot understand {} nor its backup", path.display())]
    Malformed { path: PathBuf, source: FastJsonError },
    #[error("cannot store what was imported")]
    Metadata {
        #[from]
        source: MetadataError,
    },
}

/// What an import did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ImportOutcome {
    /// An earlier start has imported, or found nothing to import.
    AlreadyDone,
    /// There are no settings of a Java broker.
    NothingFound,
    Imported(Imported),
}

/// How much was imported, and what was not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Imported {
    pub topics: usize,
    pub groups: usize,
    pub consumer_offsets: usize,
    pub delay_levels: usize,
    /// Entries that mean nothing here, such as negative offsets.
    pub skipped: usize,
    /// Files of Java's that hold something but have no importer; worth a warning each.
    pub left_out: Vec<PathBuf>,
}

/// In the table of marks: set by the first start, so that an exported directory is not read back by accident.
const MARK: &str = "java_import";

/// Settings that Java keeps and this import does not know.
const UNKNOWN_SETTINGS: [&str; 7] = [
    "consumerFilter.json",
    "consumerOrderInfo.json",
    "lmqConsumerOffset.json",
    "topicQueueMapping.json",
    "messageRequestMode.json",
    "users",
    "acls",
];

/// In the table of marks: [`JavaTimers`].
const TIMERS_MARK: &str = "java_timers";

/// How far a Java broker had delivered timer messages when its store was taken over. Its deliveries do not say what
/// they deliver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JavaTimers {
    /// Slots of its wheel before this time are delivered, ...
    pub read_ms: i64,
    /// ... of the messages before this one in the queue of timers.
    pub queue_offset: QueueOffset,
}

impl JavaTimers {
    /// What an import has found, if any.
    pub fn imported(metadata: &Metadata) -> Result<Option<Self>, MetadataError> {
        let mark = metadata.marks()?.get(TIMERS_MARK)?;
        Ok(mark.and_then(|mark| {
            let (read_ms, offset) = mark.split_once(' ')?;
            Some(Self { read_ms: read_ms.parse().ok()?, queue_offset: QueueOffset(offset.parse().ok()?) })
        }))
    }

    pub fn has_delivered(&self, queue_offset: QueueOffset, slot_ms: i64) -> bool {
        queue_offset < self.queue_offset && slot_ms < self.read_ms
    }
}

/// Imports unless a start before this one did. Flushed when it returns.
pub fn import_once(
    files: &dyn StoreFiles,
    root: &Path,
    metadata: &Metadata,
) -> Result<ImportOutcome, JavaImportError> {
    let marks = metadata.marks()?;
    if marks.get(MARK)?.is_some() {
        return Ok(ImportOutcome::AlreadyDone);
    }
    let outcome = import(files, root, metadata)?;
    // Only now, and flushed apart: a crash in between imports the same once more.
    marks.put(MARK, "done")?;
    metadata.flush()?;
    Ok(outcome)
}

/// Imports, replacing settings of the same names and keeping all others. Flushed when it returns.
pub fn import(
    files: &dyn StoreFiles,
    root: &Path,
    metadata: &Metadata,
) -> Result<ImportOutcome, JavaImportError> {
    check_readable(files, root)?;
    let topics = read::<TopicsJson>(files, root)?;
    let groups = read::<SubscriptionGroupJson>(files, root)?;
    let offsets = read::<ConsumerOffsetJson>(files, root)?;
    let delays = read::<DelayOffsetSerializeWrapper>(files, root)?;
    if topics.is_none() && groups.is_none() && offsets.is_none() {
        return Ok(ImportOutcome::NothingFound);
    }
    let mut imported = Imported { left_out: left_out(files, root)?, ..Imported::default() };
    import_topics(topics.unwrap_or_default(), metadata, &mut imported)?;
    import_groups(groups.unwrap_or_default(), metadata, &mut imported)?;
    import_offsets(offsets.unwrap_or_default(), metadata, &mut imported)?;
    import_delays(delays.unwrap_or_default(), metadata, &mut imported)?;
    import_timers(files, root, metadata)?;
    metadata.flush()?;
    Ok(ImportOutcome::Imported(imported))
}

/// Refuses directories whose messages or settings lie in formats that are not read.
pub fn check_readable(files: &dyn StoreFiles, root: &Path) -> Result<(), JavaImportError> {
    for entry in list(files, root)?.into_iter().filter(|entry| entry.is_dir) {
        if entry.name.starts_with("dledger-") {
            return Err(JavaImportError::DLedgerLog { path: root.join(entry.name) });
        }
        // Java 5.5 makes `rocksdbstore` whatever it keeps in it; queues are not among that.
        let is_queues = entry.name.starts_with("consumequeue");
        let path = root.join(entry.name);
        if is_queues && is_rocksdb(files, &path)? {
            return Err(JavaImportError::RocksDbQueues { path });
        }
    }
    let path = root.join("consumequeue_ext");
    if !list(files, &path)?.is_empty() {
        return Err(JavaImportError::QueueExtensions { path });
    }
    let path = root.join("batchconsumequeue");
    if !list(files, &path)?.is_empty() {
        return Err(JavaImportError::BatchQueues { path });
    }
    for name in ["topics", "subscriptionGroups", "consumerOffsets", "rdb"] {
        let path = config_dir(root).join(name);
        if is_rocksdb(files, &path)? {
            return Err(JavaImportError::RocksDbSettings { path });
        }
    }
    Ok(())
}

/// `config/timercheck`: read time 8 │ timer log position 8 │ next offset in the queue of timers 8 │ …
fn import_timers(files: &dyn StoreFiles, root: &Path, metadata: &Metadata) -> Result<(), JavaImportError> {
    let path = config_dir(root).join("timercheck");
    let content = files.read(&path).map_err(|source| JavaImportError::Io { path, source })?;
    let Some(mut fields) = content.as_deref().and_then(|content| content.get(..24)) else { return Ok(()) };
    let (read_ms, _, queue_offset) = (fields.get_i64(), fields.get_i64(), fields.get_i64());
    metadata.marks()?.put(TIMERS_MARK, &format!("{read_ms} {}", queue_offset.max(0)))?;
    Ok(())
}

fn import_topics(
    json: TopicsJson,
    metadata: &Metadata,
    imported: &mut Imported,
) -> Result<(), JavaImportError> {
    let mut configs = Vec::with_capacity(json.topic_config_table.len());
    for (name, mut config) in json.topic_config_table {
        // The key is what Java looks up; the name within may be missing in files of old brokers.
        config.topic_name = name.into();
        configs.push(config);
    }
    let table = metadata.topics()?;
    table.put_all(&configs)?;
    table.put_version(json.data_version)?;
    imported.topics = configs.len();
    Ok(())
}

fn import_groups(
    json: SubscriptionGroupJson,
    metadata: &Metadata,
    imported: &mut Imported,
) -> Result<(), JavaImportError> {
    let mut configs = Vec::with_capacity(json.subscription_group_table.len());
    for (name, mut config) in json.subscription_group_table {
        config.group_name = name.into();
        configs.push(config);
    }
    let table = metadata.subscription_groups()?;
    table.put_all(&configs)?;
    table.put_version(json.data_version)?;
    imported.groups = configs.len();

    let forbidden = metadata.forbidden()?;
    for (group, topics) in json.forbidden_table {
        for (topic, bits) in topics {
            forbidden.put(&Forbidden { group: group.as_str().into(), topic: topic.into(), bits })?;
        }
    }
    Ok(())
}

fn import_offsets(
    json: ConsumerOffsetJson,
    metadata: &Metadata,
    imported: &mut Imported,
) -> Result<(), JavaImportError> {
    let mut offsets = Vec::new();
    for (key, queues) in json.offset_table {
        let Some((topic, group)) = key.split_once('@') else {
            imported.skipped += queues.len();
            continue;
        };
        for (queue_id, offset) in queues {
            match (u32::try_from(queue_id), u64::try_from(offset)) {
                (Ok(queue_id), Ok(offset)) => offsets.push(ConsumerOffset {
                    group: group.into(),
                    topic: topic.into(),
                    queue_id: QueueId(queue_id),
                    offset: QueueOffset(offset),
                }),
                _ => imported.skipped += 1,
            }
        }
    }
    let table = metadata.consumer_offsets()?;
    table.put_all(&offsets)?;
    table.put_version(json.data_version)?;
    imported.consumer_offsets = offsets.len();
    Ok(())
}

/// Without these every delayed and retried message that is still stored would come again.
fn import_delays(
    json: DelayOffsetSerializeWrapper,
    metadata: &Metadata,
    imported: &mut Imported,
) -> Result<(), JavaImportError> {
    let table = metadata.delay_offsets()?;
    for (level, offset) in json.offset_table {
        match (usize::try_from(level), u64::try_from(offset)) {
            (Ok(level), Ok(offset)) if level > 0 => {
                table.put(level, QueueOffset(offset))?;
                imported.delay_levels += 1;
            }
            _ => imported.skipped += 1,
        }
    }
    Ok(())
}

/// The content of the file, or of its backup when it is missing, empty or cannot be understood.
fn read<C: JavaConfig>(files: &dyn StoreFiles, root: &Path) -> Result<Option<C>, JavaImportError> {
    let path = path_of::<C>(root);
    let mut first_error = None;
    for candidate in [path.clone(), backup_of(&path)] {
        let content = files
            .read(&candidate)
            .map_err(|source| JavaImportError::Io { path: candidate.clone(), source })?;
        match content.as_deref().map(fastjson::from_slice::<C>) {
            Some(Ok(config)) => return Ok(Some(config)),
            None | Some(Err(FastJsonError::Empty)) => {}
            Some(Err(error)) => first_error = first_error.or(Some(error)),
        }
    }
    match first_error {
        Some(source) => Err(JavaImportError::Malformed { path, source }),
        None => Ok(None),
    }
}

fn left_out(files: &dyn StoreFiles, root: &Path) -> Result<Vec<PathBuf>, JavaImportError> {
    let dir = config_dir(root);
    let mut found = list(files, &dir)?;
    found.retain(|entry| UNKNOWN_SETTINGS.contains(&&*entry.name) && (entry.is_dir || !entry.is_empty));
    Ok(found.into_iter().map(|entry| dir.join(entry.name)).collect())
}

/// Every RocksDB directory has a file that names its current manifest.
fn is_rocksdb(files: &dyn StoreFiles, dir: &Path) -> Result<bool, JavaImportError> {
    Ok(list(files, dir)?.iter().any(|entry| !entry.is_dir && entry.name == "CURRENT"))
}

struct Listed {
    name: String,
    is_dir: bool,
    is_empty: bool,
}

fn list(files: &dyn StoreFiles, dir: &Path) -> Result<Vec<Listed>, JavaImportError> {
    let entries = files.list(dir).map_err(|source| JavaImportError::Io { path: dir.to_owned(), source })?;
    let listed = |entry: super::file::DirEntry| Listed {
        is_dir: entry.stat.is_dir,
        is_empty: entry.stat.len_bytes == 0,
        name: entry.name,
    };
    Ok(entries.into_iter().map(listed).collect())
}

#[cfg(test)]
mod tests;
