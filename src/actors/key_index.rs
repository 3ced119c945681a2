//! The key index: finds messages by key, by unique key, by time.
//!
//! - Owns: the index files.
//! - Takes: [`IndexEntries`] from the dispatcher, [`QueryKey`], [`FlushKeyIndex`], [`TrimKeyIndex`].
//! - Sends: nothing; every request is answered by its reply.
//! - Fails: an index that cannot be written is an error in the log once; messages are stored and consumed
//!   without it, and a rebuild finds them again.
//! - Invariants: an entry is never ahead of the dispatched position; a query looks at no more than
//!   `STEPS_PER_TURN` entries before others have their turn, so a long chain holds nobody up.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

use actix::fut::ActorFuture;
use actix::prelude::*;
use tracing::{error, warn};

use super::context::{Context, observed};
use super::dispatcher::IndexEntries;
use crate::store::key_index::{KeyIndex as IndexFiles, KeyIndexError, KeyWalk, WantedEntries, hash_of};
use crate::store::known_derived::KnownIndex;
use crate::types::{PhysicalOffset, TopicName};

/// Entries of a chain that a query looks at in one turn. Entries of new messages wait no longer than that.
const STEPS_PER_TURN: usize = 1_024;

/// Positions of messages with `key` in `topic`, newest first; equal hashes may bring others with them.
#[derive(Message, Clone, Debug)]
#[rtype(result = "KeyFound")]
pub struct QueryKey {
    pub topic: TopicName,
    pub key: String,
    /// Store time, ms, both ends included.
    pub begin_ms: i64,
    pub end_ms: i64,
    /// Only messages below this position; for a query that goes on where another ended.
    pub before: Option<PhysicalOffset>,
    pub max: usize,
}

#[derive(MessageResponse, Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyFound {
    pub positions: Vec<PhysicalOffset>,
    /// Store time and position of the newest entry.
    pub last_update: Option<(i64, PhysicalOffset)>,
}

/// Makes every entry durable, and tells what there is for the check point to keep.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Result<KnownIndex, String>")]
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

observed!(KeyIndex);

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
    type Result = ResponseActFuture<Self, KeyFound>;

    fn handle(&mut self, query: QueryKey, _: &mut Self::Context) -> Self::Result {
        let walk = KeyWalk::new(WantedEntries {
            hash: hash_of(&query.topic, &query.key),
            stored_at_ms: query.begin_ms..=query.end_ms,
            before: query.before,
            max: query.max,
        });
        Box::pin(Walking(Some(walk)))
    }
}

/// A query that goes on in every turn until it is done.
struct Walking(Option<KeyWalk>);

impl ActorFuture<KeyIndex> for Walking {
    type Output = KeyFound;

    fn poll(
        self: Pin<&mut Self>,
        index: &mut KeyIndex,
        _: &mut Context<KeyIndex>,
        task: &mut task::Context<'_>,
    ) -> Poll<KeyFound> {
        let walk = &mut self.get_mut().0;
        let done = walk.as_mut().is_none_or(|walk| index.files.walk(walk, STEPS_PER_TURN));
        if !done {
            task.waker().wake_by_ref();
            return Poll::Pending;
        }
        let positions = walk.take().map(KeyWalk::into_found).unwrap_or_default();
        Poll::Ready(KeyFound { positions, last_update: index.files.last_update() })
    }
}

impl Handler<FlushKeyIndex> for KeyIndex {
    type Result = Result<KnownIndex, String>;

    fn handle(&mut self, _: FlushKeyIndex, _: &mut Self::Context) -> Self::Result {
        self.files.flush().map_err(|error| error.to_string())?;
        Ok(self.files.known())
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

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::path::PathBuf;

    use super::*;
    use crate::actors::dispatcher::IndexEntry;
    use crate::store::file::StoreFiles;
    use crate::store::index_file::IndexFileConfig;
    use crate::store::memory_files::{FileOperation, MemoryFiles};

    /// Files of three entries.
    fn start(files: &MemoryFiles) -> Addr<KeyIndex> {
        let config = IndexFileConfig { slots: 8, entries: 4 };
        let index = IndexFiles::open(Arc::new(files.clone()), PathBuf::from("/index"), config, None);
        KeyIndex::new(index.unwrap(), 64).start()
    }

    fn entry(key: &str, position: u64) -> IndexEntry {
        let stored_at_ms = position as i64 * 10; // the files keep seconds
        IndexEntry { hash: hash_of("T", key), physical_offset: PhysicalOffset(position), stored_at_ms }
    }

    fn query(key: &str) -> QueryKey {
        QueryKey { topic: "T".into(), key: key.into(), begin_ms: 0, end_ms: i64::MAX, before: None, max: 32 }
    }

    async fn found(index: &Addr<KeyIndex>, query: QueryKey) -> Vec<u64> {
        index.send(query).await.unwrap().positions.iter().map(|at| at.0).collect()
    }

    #[actix::test]
    async fn entries_are_found_newest_first_within_time_and_number() {
        let index = start(&MemoryFiles::new());
        let entries = [("a", 100), ("b", 200), ("a", 300), ("a", 400), ("a", 500)];
        index.send(IndexEntries(entries.map(|(key, at)| entry(key, at)).to_vec())).await.unwrap();
        assert_eq!(found(&index, query("a")).await, [500, 400, 300, 100]);
        assert_eq!(found(&index, QueryKey { max: 2, ..query("a") }).await, [500, 400]);
        let within = QueryKey { begin_ms: 3_000, end_ms: 4_000, ..query("a") };
        assert_eq!(found(&index, within).await, [400, 300]);
        assert_eq!(found(&index, query("c")).await, [0; 0]);
        let newest = index.send(query("b")).await.unwrap().last_update;
        assert_eq!(newest, Some((5_000, PhysicalOffset(500))));
    }

    #[actix::test]
    async fn long_chain_lets_others_have_their_turn() {
        const ENTRIES: u64 = 128 * STEPS_PER_TURN as u64;
        let config = IndexFileConfig { slots: 1, entries: 2 * ENTRIES as u32 };
        let files = Arc::new(MemoryFiles::new());
        let index = IndexFiles::open(files, PathBuf::from("/index"), config, None).unwrap();
        let index = KeyIndex::new(index, 64).start();
        let entries = (0..ENTRIES).map(|n| entry(if n == 0 { "oldest" } else { "other" }, n)).collect();
        index.send(IndexEntries(entries)).await.unwrap();
        let mut long = std::pin::pin!(index.send(query("oldest")));
        assert!(futures::poll!(&mut long).is_pending());
        assert_eq!(found(&index, QueryKey { max: 1, ..query("other") }).await, [ENTRIES - 1]);
        assert!(futures::poll!(&mut long).is_pending(), "the long query goes on");
        assert_eq!(long.await.unwrap().positions, [PhysicalOffset(0)]);
    }

    #[actix::test]
    async fn index_that_cannot_be_written_goes_on_when_it_can() {
        let files = MemoryFiles::new();
        let index = start(&files);
        files.fail_next(FileOperation::Create, ErrorKind::StorageFull);
        index.send(IndexEntries(vec![entry("a", 100)])).await.unwrap();
        index.send(IndexEntries(vec![entry("a", 200)])).await.unwrap();
        assert_eq!(found(&index, query("a")).await, [200]);
    }

    #[actix::test]
    async fn flushed_entries_survive_a_power_failure() {
        let files = MemoryFiles::new();
        let index = start(&files);
        index.send(IndexEntries(vec![entry("a", 100)])).await.unwrap();
        files.fail_next(FileOperation::Sync, ErrorKind::Other);
        assert!(index.send(FlushKeyIndex).await.unwrap().is_err());
        let known = index.send(FlushKeyIndex).await.unwrap().unwrap();
        assert_eq!(
            known.files.iter().map(|file| (file.count, file.end_physical)).collect::<Vec<_>>(),
            [(2, 100)]
        );
        files.crash();
        assert_eq!(found(&start(&files), query("a")).await, [100]);
    }

    #[actix::test]
    async fn files_of_deleted_messages_are_deleted() {
        let files = MemoryFiles::new();
        let index = start(&files);
        let entries = (1..=7).map(|n| entry("a", n * 100)).collect();
        index.send(IndexEntries(entries)).await.unwrap();
        let before = files.list(&PathBuf::from("/index")).unwrap().len();
        index.send(TrimKeyIndex { log_min: PhysicalOffset(700) }).await.unwrap();
        assert!(files.list(&PathBuf::from("/index")).unwrap().len() < before);
        assert_eq!(found(&index, query("a")).await.first(), Some(&700));
    }
}
