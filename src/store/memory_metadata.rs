//! The in-memory twin of the metadata's database, for tests: a crash keeps a beginning of what was written since the last
//! flush, as sled does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Writes of one call, kept or lost together: a key and its value, `None` when it is removed.
type Writes = Vec<(Vec<u8>, Option<Vec<u8>>)>;
type Trees = BTreeMap<Box<str>, BTreeMap<Vec<u8>, Vec<u8>>>;

/// A database in memory; clones are the same database.
#[derive(Clone, Debug, Default)]
pub struct MemoryMetadata {
    content: Arc<Mutex<Content>>,
}

#[derive(Debug, Default)]
struct Content {
    live: Trees,
    durable: Trees,
    /// What `live` has and `durable` has not, in order.
    unflushed: Vec<(Box<str>, Writes)>,
    failing: bool,
}

impl MemoryMetadata {
    /// Makes every flush fail, or no more.
    pub fn fail_flushes(&self, fail: bool) {
        self.content().failing = fail;
    }

    /// How many writes a loss of power may take.
    pub fn unflushed(&self) -> usize {
        self.content().unflushed.len()
    }

    /// The database as it is found after the process has ended, with the first `kept` of the writes that were not
    /// flushed. Who still holds this one does not change that one any more.
    pub fn after_crash(&self, kept: usize) -> Self {
        let content = self.content();
        let mut live = content.durable.clone();
        for (tree, writes) in content.unflushed.iter().take(kept) {
            apply(&mut live, tree, writes.clone());
        }
        let content = Content { durable: live.clone(), live, ..Content::default() };
        Self { content: Arc::new(Mutex::new(content)) }
    }

    pub(super) fn flush(&self) -> sled::Result<()> {
        let mut content = self.content();
        if content.failing {
            return Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into());
        }
        for (tree, writes) in std::mem::take(&mut content.unflushed) {
            apply(&mut content.durable, &tree, writes);
        }
        Ok(())
    }

    pub(super) fn tree(&self, name: &str) -> MemoryTree {
        MemoryTree { database: self.clone(), name: name.into() }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        // A panic of another test thread leaves it as it is; that is what a crash does too.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn apply(trees: &mut Trees, tree: &str, writes: Writes) {
    let tree = trees.entry(tree.into()).or_default();
    for (key, value) in writes {
        match value {
            Some(value) => tree.insert(key, value),
            None => tree.remove(&key),
        };
    }
}

/// One tree of it.
#[derive(Clone, Debug)]
pub struct MemoryTree {
    database: MemoryMetadata,
    name: Box<str>,
}

impl MemoryTree {
    pub(super) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.database.content().live.get(&self.name)?.get(key).cloned()
    }

    pub(super) fn apply(&self, writes: Writes) -> sled::Result<()> {
        let mut content = self.database.content();
        apply(&mut content.live, &self.name, writes.clone());
        content.unflushed.push((self.name.clone(), writes));
        Ok(())
    }

    pub(super) fn scan_prefix(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let content = self.database.content();
        let Some(tree) = content.live.get(&self.name) else { return Vec::new() };
        let from = tree.range(prefix.to_vec()..);
        let found = from.take_while(|(key, _)| key.starts_with(prefix));
        found.map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::metadata::Metadata;

    #[test]
    fn crash_keeps_what_was_flushed_and_a_beginning_of_the_rest() {
        let memory = MemoryMetadata::default();
        let table = Metadata::in_memory(&memory).table::<u64>("t").unwrap();
        table.put(b"a", &1).unwrap();
        memory.flush().unwrap();
        table.put_all([(b"b".to_vec(), 2), (b"c".to_vec(), 3)]).unwrap();
        assert!(table.delete(b"a").unwrap());
        let keys = |memory: &MemoryMetadata| {
            let table = Metadata::in_memory(memory).table::<u64>("t").unwrap();
            let keys: Vec<_> = table.scan(b"").map(|entry| entry.unwrap().0[0]).collect();
            keys
        };
        assert_eq!(memory.unflushed(), 2);
        assert_eq!(keys(&memory.after_crash(0)), b"a");
        assert_eq!(keys(&memory.after_crash(1)), b"abc");
        assert_eq!(keys(&memory.after_crash(2)), b"bc");
        let crashed = memory.after_crash(0);
        table.put(b"late", &4).unwrap();
        assert_eq!(keys(&crashed), b"a", "whoever still holds the old one changes nothing");
    }
}
