//! The key index: finds messages by key, by unique key, by time.
//!
//! - Owns: the index files.
//! - Takes: [`IndexEntries`] from the dispatcher, [`QueryKey`], [`FlushKeyIndex`], [`TrimKeyIndex`].
//! - Sends: nothing; every request is answered by its reply.
//! - Fails: an index that cannot be written is an error in the log once; messages are stored and consumed
//!   without it, and a rebuild finds them again.
//! - Invariants: an entry is never ahead of the dispatched position.

use std::sync::Arc;

use actix::prelude::*;
use tracing::{error, warn};

use super::dispatcher::IndexEntries;
use crate::store::key_index::{KeyIndex as IndexFiles, KeyIndexError, KeyQuery};
use crate::types::{PhysicalOffset, TopicName};

/// Positions of messages with `key` in `topic`, newest first; equal hashes may bring others with them.
#[derive(Message, Clone, Debug)]
#[rtype(result = "KeyFound")]
pub struct QueryKey {
    pub topic: TopicName,
    pub key: String,
    /// Store time, ms, both ends included.
    pub begin_ms: i64,
    pub end_ms: i64,
    pub max: usize,
}

#[derive(MessageResponse, Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyFound {
    pub positions: Vec<PhysicalOffset>,
    /// Store time and position of the newest entry.
    pub last_update: Option<(i64, PhysicalOffset)>,
}

/// Makes every entry durable.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Result<(), String>")]
pub struct FlushKeyIndex;

/// Deletes files whose messages are all before `log_min`.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct TrimKeyIndex {
    pub log_min: PhysicalOffset,
}

pub struct KeyIndex {
    files: IndexFiles,
    mailbox_capacity: usize,
    failed: Option<Arc<str>>,
}

impl KeyIndex {
    pub fn new(files: IndexFiles, mailbox_capacity: usize) -> Self {
        Self { files, mailbox_capacity, failed: None }
    }
}

impl Actor for KeyIndex {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.mailbox_capacity);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        if let Err(error) = self.files.flush() {
            warn!(%error, "key index is not durable; it is rebuilt after a power failure");
        }
    }
}

impl Handler<IndexEntries> for KeyIndex {
    type Result = ();

    fn handle(&mut self, IndexEntries(entries): IndexEntries, _: &mut Self::Context) {
        let put_all = || -> Result<(), KeyIndexError> {
            for entry in entries {
                self.files.put_hash(entry.hash, entry.physical_offset, entry.stored_at_ms)?;
            }
            Ok(())
        };
        if let Err(error) = put_all() {
            let cause: Arc<str> = error.to_string().into();
            if self.failed.as_ref() != Some(&cause) {
                error!(%error, "messages cannot be indexed; they are not found by key until the index is rebuilt");
                self.failed = Some(cause);
            }
        }
    }
}

impl Handler<QueryKey> for KeyIndex {
    type Result = KeyFound;

    fn handle(&mut self, query: QueryKey, _: &mut Self::Context) -> KeyFound {
        let positions = self.files.query(&KeyQuery {
            topic: &query.topic,
            key: &query.key,
            stored_at_ms: query.begin_ms..=query.end_ms,
            max: query.max,
        });
        KeyFound { positions, last_update: self.files.last_update() }
    }
}

impl Handler<FlushKeyIndex> for KeyIndex {
    type Result = Result<(), String>;

    fn handle(&mut self, _: FlushKeyIndex, _: &mut Self::Context) -> Self::Result {
        self.files.flush().map_err(|error| error.to_string())
    }
}

impl Handler<TrimKeyIndex> for KeyIndex {
    type Result = ();

    fn handle(&mut self, trim: TrimKeyIndex, _: &mut Self::Context) {
        if let Err(error) = self.files.delete_before(trim.log_min) {
            warn!(%error, "index files of deleted messages remain");
        }
    }
}
