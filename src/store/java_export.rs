//! Writes topics, groups, consumer offsets and progress of delay levels as the files of a Java broker, so that one can open the directory.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::file::{OpenMode, StoreFiles};
use super::java_config::{
    ConsumerOffsetJson, JavaConfig, SubscriptionGroupJson, TopicsJson, backup_of, config_dir, path_of,
};
use super::metadata::{Metadata, MetadataError};
use crate::protocol::body::offsets::DelayOffsetSerializeWrapper;

/// Why the files could not be written. Each is the old one or the new one.
#[derive(Debug, thiserror::Error)]
pub enum JavaExportError {
    #[error("cannot write {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("cannot write {} as json", path.display())]
    Unencodable { path: PathBuf, source: serde_json::Error },
    #[error("cannot read what is to be exported")]
    Metadata {
        #[from]
        source: MetadataError,
    },
}

/// Writes the files under `root`, keeping those that were there as backups. Durable when it returns.
pub fn export(files: &dyn StoreFiles, root: &Path, metadata: &Metadata) -> Result<(), JavaExportError> {
    let dir = config_dir(root);
    files.create_dir_all(&dir).map_err(|source| JavaExportError::Io { path: dir.clone(), source })?;
    write(files, root, &topics(metadata)?)?;
    write(files, root, &subscription_groups(metadata)?)?;
    write(files, root, &consumer_offsets(metadata)?)?;
    write(files, root, &delay_offsets(metadata)?)?;
    files.sync_dir(&dir).map_err(|source| JavaExportError::Io { path: dir, source })
}

fn topics(metadata: &Metadata) -> Result<TopicsJson, MetadataError> {
    let table = metadata.topics()?;
    let named = table.all()?.into_iter().map(|config| (config.topic_name.to_string(), config));
    Ok(TopicsJson { data_version: table.version()?, topic_config_table: named.collect() })
}

fn subscription_groups(metadata: &Metadata) -> Result<SubscriptionGroupJson, MetadataError> {
    let table = metadata.subscription_groups()?;
    let mut forbidden_table: BTreeMap<String, BTreeMap<String, i32>> = BTreeMap::new();
    for forbidden in metadata.forbidden()?.all()? {
        let topics = forbidden_table.entry(forbidden.group.to_string()).or_default();
        topics.insert(forbidden.topic.to_string(), forbidden.bits);
    }
    let named = table.all()?.into_iter().map(|config| (config.group_name.to_string(), config));
    Ok(SubscriptionGroupJson {
        data_version: table.version()?,
        forbidden_table,
        subscription_group_table: named.collect(),
    })
}

fn consumer_offsets(metadata: &Metadata) -> Result<ConsumerOffsetJson, MetadataError> {
    let table = metadata.consumer_offsets()?;
    let mut offset_table: BTreeMap<String, BTreeMap<i64, i64>> = BTreeMap::new();
    for stored in table.all()? {
        let queues = offset_table.entry(format!("{}@{}", stored.topic, stored.group)).or_default();
        // Offsets count messages, so they stay far below what Java's long holds.
        queues.insert(i64::from(stored.queue_id.0), stored.offset.0 as i64);
    }
    Ok(ConsumerOffsetJson { data_version: table.version()?, offset_table })
}

fn delay_offsets(metadata: &Metadata) -> Result<DelayOffsetSerializeWrapper, MetadataError> {
    let all = metadata.delay_offsets()?.all()?.into_iter();
    let offset_table = all.map(|(level, next)| (level as i32, next.0 as i64)).collect();
    Ok(DelayOffsetSerializeWrapper { offset_table, ..DelayOffsetSerializeWrapper::default() })
}

fn write<C: JavaConfig>(files: &dyn StoreFiles, root: &Path, config: &C) -> Result<(), JavaExportError> {
    let path = path_of::<C>(root);
    // Integer keys are written in quotes: Java reads both forms, and so does everybody else.
    let json = serde_json::to_vec_pretty(config)
        .map_err(|source| JavaExportError::Unencodable { path: path.clone(), source })?;
    replace(files, &path, &json).map_err(|source| JavaExportError::Io { path, source })
}

/// At every moment the file or its backup is whole.
fn replace(files: &dyn StoreFiles, path: &Path, content: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("json.tmp");
    let file = files.open(&fresh, OpenMode::CreateMissing)?;
    file.set_len(0)?;
    file.write_all_at(content, 0)?;
    file.sync()?;
    if files.stat(path)?.is_some() {
        files.rename(path, &backup_of(path))?;
    }
    files.rename(&fresh, path)
}
