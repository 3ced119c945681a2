//! Small durable tables in sled: settings, progress, versions. Messages never pass through here.
//!
//! Every table has one owner, who takes its handle once: [`Metadata::topics`] for the topics, and so on.
//! Opening a table costs a page; nothing is opened before it is asked for. Writes are in memory until
//! [`Metadata::flush`] returns: whoever promises something calls it first. A crash keeps a prefix of the writes.
//!
//! ```text
//! value │ schema version (1 byte) │ bincode 2, standard configuration │
//! ```

mod consumed_keys;
mod consumer_offsets;
mod database;
mod delay_offsets;
mod key_values;
mod open_halves;
mod records;
mod replays;
mod request_modes;
mod settings;
mod table;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

pub use consumed_keys::{ConsumedKey, ConsumedKeyTable};
pub use consumer_offsets::{ConsumerOffset, ConsumerOffsetTable};
use database::Database;
pub use delay_offsets::DelayOffsetTable;
pub use key_values::{KeyValueTable, KvConfig, KvConfigTable};
pub use open_halves::{KeptHalf, OpenHalfTable};
pub use replays::{ReplayRecord, ReplayState, ReplayTable, ReplayedQueue};
pub use request_modes::RequestModeTable;
pub use settings::{
    DataVersionTable, Forbidden, ForbiddenTable, SubscriptionGroupTable, TopicTable, VersionedTable,
};
pub use table::{Record, Table};

/// sled's cache. The tables are small and mostly written, so little is enough.
const CACHE_BYTES: u64 = 8 << 20;

/// Why a table cannot be read or written. A failing database is fatal; a value of a later version asks for
/// the program that wrote it.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    #[error("cannot open metadata in {}", dir.display())]
    Open { dir: PathBuf, source: sled::Error },
    #[error("cannot flush metadata")]
    Flush { source: sled::Error },
    #[error("metadata table {tree} cannot be read or written")]
    Database { tree: String, source: sled::Error },
    #[error("value of {key} in metadata table {tree} has unknown version {version}")]
    UnknownVersion { tree: String, key: String, version: u8 },
    #[error("value of {key} in metadata table {tree} cannot be decoded")]
    UndecodableValue { tree: String, key: String, source: bincode::error::DecodeError },
    #[error("value for metadata table {tree} cannot be encoded")]
    UnencodableValue { tree: String, source: bincode::error::EncodeError },
    #[error("value of {key} in metadata table {tree} is empty")]
    EmptyValue { tree: String, key: String },
    #[error("key {key} in metadata table {tree} has not the form of that table")]
    MalformedKey { tree: String, key: String },
}

/// The database. Cheap to clone; the clones are the same database.
#[derive(Clone, Debug)]
pub struct Metadata {
    db: Database,
    /// Whether flushes fail, for tests: sled has no seam below it.
    #[cfg(test)]
    failing: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

/// How long an earlier handle of this process may take to let go.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(3);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

impl Metadata {
    /// Opens the database in `dir`, creating it when there is none. Nobody else may have it open.
    pub fn open(dir: &Path) -> Result<Self, MetadataError> {
        Self::open_with(sled::Config::new().path(dir), dir)
    }

    /// A database that disappears with its last handle.
    pub fn temporary() -> Result<Self, MetadataError> {
        Self::open_with(sled::Config::new().temporary(true), Path::new("(temporary)"))
    }

    fn open_with(config: sled::Config, dir: &Path) -> Result<Self, MetadataError> {
        // No flushing in the background: owners flush where they promise.
        let config = config.cache_capacity(CACHE_BYTES).flush_every_ms(None);
        // sled gives its lock up a moment after the last handle is gone, on a thread of its own. Who may have the
        // directory at all is settled before by the lock of the store.
        let begun = Instant::now();
        loop {
            match config.open() {
                Ok(db) => {
                    return Ok(Self::over(Database::Sled(db)));
                }
                Err(sled::Error::Io(_)) if begun.elapsed() < LOCK_WAIT_MAX && database::is_there(dir) => {
                    thread::sleep(LOCK_PAUSE);
                }
                Err(source) => return Err(MetadataError::Open { dir: dir.to_owned(), source }),
            }
        }
    }

    /// Tables in memory, which end as a test likes.
    #[cfg(any(test, feature = "testing"))]
    pub fn in_memory(memory: &crate::store::memory_metadata::MemoryMetadata) -> Self {
        Self::over(Database::Memory(memory.clone()))
    }

    fn over(db: Database) -> Self {
        Self {
            db,
            #[cfg(test)]
            failing: Default::default(),
        }
    }

    /// Makes everything written so far durable. Blocks for an fsync.
    pub fn flush(&self) -> Result<(), MetadataError> {
        crate::kill_point::reach("metadata.before_flush");
        #[cfg(test)]
        if self.failing.load(std::sync::atomic::Ordering::SeqCst) {
            let source = std::io::Error::from(std::io::ErrorKind::StorageFull).into();
            return Err(MetadataError::Flush { source });
        }
        self.db.flush().map_err(|source| MetadataError::Flush { source })
    }

    /// Makes every flush fail as on a full disk, or no more.
    #[cfg(test)]
    pub fn fail_flushes(&self, fail: bool) {
        self.failing.store(fail, std::sync::atomic::Ordering::SeqCst);
    }

    /// A table of records of one kind, for owners that need one of their own.
    pub fn table<V: Record>(&self, tree: &str) -> Result<Table<V>, MetadataError> {
        Table::open(&self.db, tree)
    }

    pub fn topics(&self) -> Result<TopicTable, MetadataError> {
        Ok(VersionedTable::new(self.table("topics")?, self.table("data_versions")?, "topics"))
    }

    pub fn subscription_groups(&self) -> Result<SubscriptionGroupTable, MetadataError> {
        Ok(VersionedTable::new(
            self.table("subscription_groups")?,
            self.table("data_versions")?,
            "subscription_groups",
        ))
    }

    pub fn forbidden(&self) -> Result<ForbiddenTable, MetadataError> {
        Ok(ForbiddenTable::new(self.table("forbidden")?))
    }

    /// How far the replays of dead letter queues are.
    pub fn replays(&self) -> Result<ReplayTable, MetadataError> {
        Ok(ReplayTable::new(self.table("replays")?))
    }

    /// How groups take topics, where it was set.
    pub fn request_modes(&self) -> Result<RequestModeTable, MetadataError> {
        Ok(RequestModeTable::new(self.table("request_modes")?))
    }

    pub fn consumer_offsets(&self) -> Result<ConsumerOffsetTable, MetadataError> {
        Ok(ConsumerOffsetTable::new(self.table("consumer_offsets")?, self.table("data_versions")?))
    }

    /// What groups have marked as consumed.
    pub fn consumed_keys(&self) -> Result<ConsumedKeyTable, MetadataError> {
        Ok(ConsumedKeyTable::new(self.table("consumed_keys")?))
    }

    /// Settings that the name server keeps for others.
    pub fn kv_configs(&self) -> Result<KvConfigTable, MetadataError> {
        Ok(KvConfigTable::new(self.table("kv_configs")?))
    }

    /// Settings of the name server changed at run time.
    pub fn name_server_settings(&self) -> Result<KeyValueTable, MetadataError> {
        Ok(KeyValueTable::new(self.table("name_server_settings")?))
    }

    /// Broker settings changed at run time, which win over those of the configuration file.
    pub fn broker_settings(&self) -> Result<KeyValueTable, MetadataError> {
        Ok(KeyValueTable::new(self.table("broker_settings")?))
    }

    /// How far each delay level is delivered.
    pub fn delay_offsets(&self) -> Result<DelayOffsetTable, MetadataError> {
        Ok(DelayOffsetTable::new(self.marks()?))
    }

    /// Transactions that are not settled.
    pub fn open_halves(&self) -> Result<OpenHalfTable, MetadataError> {
        Ok(OpenHalfTable::new(self.table("open_halves")?, self.marks()?))
    }

    /// What was done once and must not be done again.
    pub fn marks(&self) -> Result<KeyValueTable, MetadataError> {
        Ok(KeyValueTable::new(self.table("marks")?))
    }
}

#[cfg(test)]
mod tests;
