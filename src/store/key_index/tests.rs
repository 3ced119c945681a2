use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::store::memory_files::{FileOperation, MemoryFiles};

const CONFIG: IndexFileConfig = IndexFileConfig { slots: 3, entries: 6 };
const DIR: &str = "/store/index";

fn open(files: &Arc<MemoryFiles>, truncate_at: Option<u64>) -> KeyIndex {
    KeyIndex::open(Arc::clone(files) as _, DIR.into(), CONFIG, truncate_at.map(PhysicalOffset)).unwrap()
}

fn names(files: &MemoryFiles) -> Vec<String> {
    files.list(Path::new(DIR)).unwrap().into_iter().map(|entry| entry.name).collect()
}

fn query(index: &KeyIndex, key: &str) -> Vec<u64> {
    found(index, wanted(key, usize::MAX)).into_iter().map(|at| at.0).collect()
}

fn wanted(key: &str, max: usize) -> WantedEntries {
    WantedEntries { hash: hash_of("T", key), stored_at_ms: 0..=i64::MAX, before: None, max }
}

/// Two entries at a time.
fn found(index: &KeyIndex, wanted: WantedEntries) -> Vec<PhysicalOffset> {
    let mut walk = KeyWalk::new(wanted);
    while !index.walk(&mut walk, 2) {}
    walk.into_found()
}

#[test]
fn file_is_made_with_the_first_key_and_named_by_its_time() {
    let files = Arc::new(MemoryFiles::new());
    let mut index = open(&files, None);
    assert!(names(&files).is_empty());
    assert_eq!(index.max_physical(), None);
    // 2024-02-29 12:34:56.789 UTC
    index.put("T", "k", PhysicalOffset(7), 1_709_210_096_789).unwrap();
    assert_eq!(names(&files), ["20240229123456789"]);
    assert_eq!(index.max_physical(), Some(PhysicalOffset(7)));
    assert_eq!(index.last_update(), Some((1_709_210_096_789, PhysicalOffset(7))));
}

#[test]
fn names_are_dates() {
    for (at_ms, name) in [
        (0, 19700101000000000),
        (951_782_400_000, 20000229000000000),
        (1_704_067_199_999, 20231231235959999),
        (4_107_542_400_000, 21000301000000000),
    ] {
        assert_eq!(name_of(at_ms), name);
    }
}

#[test]
fn full_file_is_followed_by_one_of_a_later_name() {
    let files = Arc::new(MemoryFiles::new());
    let mut index = open(&files, None);
    for at in 0..6 {
        index.put("T", "k", PhysicalOffset(at), 0).unwrap();
    }
    assert_eq!(names(&files), ["19700101000000000", "19700101000000001"]);
    assert_eq!(query(&index, "k"), [5, 4, 3, 2, 1, 0]);
    let newest_two = WantedEntries { stored_at_ms: 0..=0, ..wanted("k", 2) };
    assert_eq!(found(&index, newest_two), [PhysicalOffset(5), PhysicalOffset(4)]);
    let before = WantedEntries { before: Some(PhysicalOffset(4)), ..wanted("k", 2) };
    assert_eq!(found(&index, before), [PhysicalOffset(3), PhysicalOffset(2)]);
    assert_eq!(index.delete_before(PhysicalOffset(5)).unwrap(), 1);
    assert_eq!(query(&index, "k"), [5]);
    assert_eq!(index.delete_before(PhysicalOffset(9)).unwrap(), 0);
}

#[test]
fn full_disk_is_an_error_and_the_next_put_succeeds() {
    let files = Arc::new(MemoryFiles::new());
    let mut index = open(&files, None);
    files.fail_next(FileOperation::Create, io::ErrorKind::StorageFull);
    index.put("T", "k", PhysicalOffset(1), 0).unwrap_err();
    assert!(names(&files).is_empty());
    index.put("T", "k", PhysicalOffset(1), 0).unwrap();
}

#[test]
fn file_of_another_size_is_refused() {
    let files = Arc::new(MemoryFiles::new());
    open(&files, None).put("T", "k", PhysicalOffset(1), 0).unwrap();
    let other = IndexFileConfig { slots: 4, entries: 6 };
    let error = KeyIndex::open(Arc::clone(&files) as _, DIR.into(), other, None).err().unwrap();
    assert!(matches!(error, KeyIndexError::UnexpectedLength { .. }));
}

#[derive(Clone, Debug)]
enum Step {
    Put { key: u8, forth_ms: i64 },
    Flush,
    Reopen,
    Crash { seed: u64 },
    Truncate { back: u64 },
    Expire { forth: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..4u8, -500..4_000i64).prop_map(|(key, forth_ms)| Step::Put { key, forth_ms }),
        2 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        1 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
        1 => (0..6u64).prop_map(|back| Step::Truncate { back }),
        1 => (0..6u64).prop_map(|forth| Step::Expire { forth }),
    ]
}

/// Keys by position, grouped as the files group them.
#[derive(Default)]
struct Model {
    files: Vec<Vec<(String, u64)>>,
    next: u64,
    log_min: u64,
    flushed: u64,
}

impl Model {
    fn truncate(&mut self, at: u64) {
        for file in &mut self.files {
            file.retain(|(_key, position)| *position < at);
        }
        self.files.retain(|file| !file.is_empty());
        self.flushed = self.flushed.min(at);
        self.next = at;
    }

    fn positions(&self, key: &str) -> Vec<u64> {
        let entries = self.files.iter().flatten().rev();
        entries.filter(|(name, _position)| name == key).map(|(_name, position)| *position).collect()
    }
}

proptest! {
    /// Invariants: every key put and not cut is found, newest first, and nothing else is; nothing flushed is lost.
    #[test]
    fn key_index_behaves_like_a_list(steps in prop::collection::vec(step(), 1..60)) {
        let files = Arc::new(MemoryFiles::new());
        let mut index = open(&files, None);
        let mut model = Model::default();
        let mut now_ms = 10_000;
        for step in steps {
            match step {
                Step::Put { key, forth_ms } => {
                    now_ms += forth_ms;
                    let key = format!("key-{key}");
                    index.put("T", &key, PhysicalOffset(model.next), now_ms).unwrap();
                    if model.files.last().is_none_or(|file| file.len() == CONFIG.entries as usize - 1) {
                        model.files.push(Vec::new());
                    }
                    model.files.last_mut().unwrap().push((key, model.next));
                    model.next += 1;
                }
                Step::Flush => {
                    index.flush().unwrap();
                    model.flushed = model.next;
                }
                Step::Reopen => {
                    index.flush().unwrap();
                    model.flushed = model.next;
                    index = open(&files, None);
                }
                Step::Crash { seed } => {
                    drop(index);
                    files.crash_torn(seed);
                    index = open(&files, Some(model.flushed));
                    index.flush().unwrap();
                    model.truncate(model.flushed);
                }
                Step::Truncate { back } => {
                    let at = model.next.saturating_sub(back);
                    index.truncate(PhysicalOffset(at)).unwrap();
                    index.flush().unwrap();
                    model.truncate(at);
                }
                Step::Expire { forth } => {
                    model.log_min += forth;
                    index.delete_before(PhysicalOffset(model.log_min)).unwrap();
                    index.flush().unwrap();
                    model.flushed = model.next;
                    while model.files.len() > 1 && model.files[0].last().unwrap().1 < model.log_min {
                        model.files.remove(0);
                    }
                }
            }
            for key in ["key-0", "key-1", "key-2", "key-3"] {
                prop_assert_eq!(query(&index, key), model.positions(key), "{}", key);
            }
            let last = model.files.iter().flatten().last().map(|(_key, position)| *position);
            prop_assert_eq!(index.max_physical().map(|at| at.0), last);
        }
    }
}
