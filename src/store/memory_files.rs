//! The in-memory twin of the disk, for tests: it forgets what was not flushed, tears what was half
//! written, runs full, and fails on demand.
//!
//! Names become durable by `sync_dir`, plain content by `sync`, mapped content by `flush` of its range.
//! Directories themselves are durable at once.

mod open_file;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use open_file::{MappedMemoryFile, MemoryFile};

use super::file::{DirEntry, DiskSpace, FileStat, FileSystem, OpenMode, StoreFile, StoreFiles};
use super::mapped_file::{MapMemory, MappedFile};
use crate::clock::WallMs;

/// Unit in which a crash keeps or loses what was not flushed.
const TEAR_BYTES: usize = 512;
/// Size of the disk when no limit is set.
const UNLIMITED_BYTES: u64 = 1 << 50;

/// What a planned failure hits.
///
/// ```
/// use std::io::ErrorKind;
/// use telstar::testing::calls::send_to;
/// use telstar::testing::{FileOperation, Scenario};
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).set("store.flush_mode", "sync");
/// let broker = broker.start().await;
/// broker.disk().fail_next(FileOperation::Sync, ErrorKind::Other);
/// // What is on disk is not known any more: nobody is told that it is stored.
/// let answer = broker.client("shop").call(send_to("orders", 0, "pay 7")).await;
/// assert!(answer.success().is_err());
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileOperation {
    /// Writing or lengthening a file; of a mapped one, half of what was to be written is there all the same.
    Write,
    /// Syncing a plain file, a map or a directory.
    Sync,
    /// Beginning to write what a map has in memory alone, before it is synced.
    BeginWrite,
    /// Creating a plain or mapped file.
    Create,
    /// Reading a plain file.
    Read,
    /// Removing a file.
    Remove,
}

/// A disk in memory; clones are the same disk. A broker of a scene has [one](crate::testing::SceneBroker::disk).
///
/// ```
/// use telstar::testing::calls::send_to;
/// use telstar::testing::{MemoryFiles, Scenario};
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
/// let disk: &MemoryFiles = broker.disk();
/// disk.set_capacity(Some(disk.used_bytes())); // it is full
/// let mut shop = broker.client("shop");
/// let mut answers = Vec::new();
/// for _ in 0..40 {
///     answers.push(shop.call(send_to("orders", 0, vec![b'x'; 60_000])).await);
/// }
/// assert!(answers[0].code.is_success()); // there is room in the file that it writes
/// let refused = answers.pop().unwrap().remark.unwrap();
/// assert!(refused.starts_with("not stored"), "{refused}");
/// # }
/// ```
#[derive(Clone, Default)]
pub struct MemoryFiles {
    disk: Arc<Mutex<Disk>>,
    stall: Arc<Stall>,
}

/// What waits until the disk goes on.
#[derive(Default)]
struct Stall {
    stalled: Mutex<Option<FileOperation>>,
    goes_on: Condvar,
}

#[derive(Default)]
struct Disk {
    dirs: BTreeSet<PathBuf>,
    live: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    now: WallMs,
    capacity_bytes: Option<u64>,
    open_files: usize,
    max_open_files: Option<usize>,
    looks_until_written: usize,
    failures: Vec<PlannedFailure>,
}

struct PlannedFailure {
    operation: FileOperation,
    /// Operations of the kind that succeed before.
    after: usize,
    kind: io::ErrorKind,
    /// Fails again and again.
    stays: bool,
}

/// A file, whatever its name; the map or handle of a removed file still holds it.
type Node = Arc<Mutex<Content>>;

struct Content {
    live: Live,
    durable: Vec<u8>,
    modified_at: WallMs,
}

enum Live {
    Plain(Vec<u8>),
    Mapped { memory: Arc<MapMemory>, len: usize },
}

impl Live {
    fn len(&self) -> usize {
        match self {
            Live::Plain(bytes) => bytes.len(),
            Live::Mapped { len, .. } => *len,
        }
    }

    fn to_vec(&self) -> Vec<u8> {
        match self {
            Live::Plain(bytes) => bytes.clone(),
            Live::Mapped { memory, len } => memory.copy_out(0..*len),
        }
    }
}

impl MemoryFiles {
    #[doc(hidden)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses power: everything not flushed is forgotten. Whoever used the disk must be done with it.
    #[doc(hidden)]
    pub fn crash(&self) {
        self.lose_power(|| false);
    }

    /// Loses power in mid-write: of what was not flushed, an arbitrary part reached the disk.
    #[doc(hidden)]
    pub fn crash_torn(&self, seed: u64) {
        let mut state = seed | 1;
        self.lose_power(move || {
            // xorshift64: chance that a failing test can repeat.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state & 0x100 != 0
        });
    }

    /// The disk as it is found when its machine has lost power in mid-write: of what was not flushed, an arbitrary part is
    /// there. Who still holds this one does not change that one any more.
    #[doc(hidden)]
    pub fn after_power_loss(&self, seed: u64) -> Self {
        let disk = self.after_kill();
        disk.crash_torn(seed);
        disk
    }

    /// The disk as it is found when a process has ended and its machine has not: all that was written is there. Who still
    /// holds this one does not change that one any more. What was planned to fail is not planned there.
    #[doc(hidden)]
    pub fn after_kill(&self) -> Self {
        let disk = self.disk();
        let mut copies: BTreeMap<*const Mutex<Content>, Node> = BTreeMap::new();
        let mut copy = |node: &Node| {
            let copy_content = || {
                let content = lock(node);
                let live = Live::Plain(content.live.to_vec());
                let copied =
                    Content { live, durable: content.durable.clone(), modified_at: content.modified_at };
                Arc::new(Mutex::new(copied))
            };
            copies.entry(Arc::as_ptr(node)).or_insert_with(copy_content).clone()
        };
        let mut copy_all = |nodes: &BTreeMap<PathBuf, Node>| -> BTreeMap<PathBuf, Node> {
            nodes.iter().map(|(path, node)| (path.clone(), copy(node))).collect()
        };
        let found = Disk {
            dirs: disk.dirs.clone(),
            live: copy_all(&disk.live),
            durable: copy_all(&disk.durable),
            now: disk.now,
            capacity_bytes: disk.capacity_bytes,
            open_files: 0,
            max_open_files: disk.max_open_files,
            looks_until_written: disk.looks_until_written,
            failures: Vec::new(),
        };
        Self { disk: Arc::new(Mutex::new(found)), stall: Arc::default() }
    }

    /// Limits the sum of all file lengths; beyond it creating and lengthening fail with `StorageFull`.
    pub fn set_capacity(&self, capacity_bytes: Option<u64>) {
        self.disk().capacity_bytes = capacity_bytes;
    }

    /// Plain files that are open.
    pub fn open_files(&self) -> usize {
        self.disk().open_files
    }

    /// Opening one more than `limit` plain files fails, as it does for a process.
    pub fn limit_open_files(&self, limit: usize) {
        self.disk().max_open_files = Some(limit);
    }

    /// What a map is begun to be written from now on is found written after so many looks that find it is not.
    pub fn write_takes(&self, looks: usize) {
        self.disk().looks_until_written = looks;
    }

    /// Makes the next `operation` fail with `kind`, once.
    pub fn fail_next(&self, operation: FileOperation, kind: io::ErrorKind) {
        self.fail_after(operation, 0, kind);
    }

    /// Makes an `operation` fail with `kind`, once, after `successes` that do not.
    pub fn fail_after(&self, operation: FileOperation, successes: usize, kind: io::ErrorKind) {
        self.disk().failures.push(PlannedFailure { operation, after: successes, kind, stays: false });
    }

    /// Makes every `operation` fail with `kind`, until [`fail_nothing`](Self::fail_nothing).
    pub fn fail_always(&self, operation: FileOperation, kind: io::ErrorKind) {
        self.disk().failures.push(PlannedFailure { operation, after: 0, kind, stays: true });
    }

    /// Makes every `operation` wait, on the thread that asks for it, until [`go_on`](Self::go_on).
    pub fn stall(&self, operation: FileOperation) {
        *lock(&self.stall.stalled) = Some(operation);
    }

    /// Ends a stall.
    pub fn go_on(&self) {
        *lock(&self.stall.stalled) = None;
        self.stall.goes_on.notify_all();
    }

    fn wait_while_stalled(&self, operation: FileOperation) {
        let stalled = lock(&self.stall.stalled);
        let went_on = self.stall.goes_on.wait_while(stalled, |stalled| *stalled == Some(operation));
        drop(went_on);
    }

    /// Takes back every planned failure.
    pub fn fail_nothing(&self) {
        self.disk().failures.clear();
    }

    /// Sum of all file lengths.
    pub fn used_bytes(&self) -> u64 {
        self.disk().used_bytes()
    }

    /// The modification time that files written from now on get.
    #[doc(hidden)]
    pub fn set_now(&self, now: WallMs) {
        self.disk().now = now;
    }

    fn lose_power(&self, mut survives: impl FnMut() -> bool) {
        let mut disk = self.disk();
        disk.live = disk.durable.clone();
        for node in disk.durable.values() {
            let mut content = lock(node);
            let live = content.live.to_vec();
            let mut kept = content.durable.clone();
            for at in (0..kept.len().min(live.len())).step_by(TEAR_BYTES) {
                let range = at..(at + TEAR_BYTES).min(kept.len()).min(live.len());
                if live[range.clone()] != kept[range.clone()] && survives() {
                    kept[range.clone()].copy_from_slice(&live[range]);
                }
            }
            content.durable.clone_from(&kept);
            content.live = Live::Plain(kept);
        }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        lock(&self.disk)
    }
}

impl Disk {
    fn fail_if_planned(&mut self, operation: FileOperation) -> io::Result<()> {
        let Some(at) = self.failures.iter().position(|planned| planned.operation == operation) else {
            return Ok(());
        };
        match self.failures[at].after.checked_sub(1) {
            Some(left) => {
                self.failures[at].after = left;
                Ok(())
            }
            None if self.failures[at].stays => Err(self.failures[at].kind.into()),
            None => Err(self.failures.remove(at).kind.into()),
        }
    }

    fn used_bytes(&self) -> u64 {
        self.live.values().map(|node| lock(node).live.len() as u64).sum()
    }

    fn reserve(&self, more_bytes: u64) -> io::Result<()> {
        match self.capacity_bytes {
            Some(capacity) if self.used_bytes() + more_bytes > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    fn node(&self, path: &Path) -> io::Result<Node> {
        self.live.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create(&mut self, path: &Path, content: Content) -> io::Result<Node> {
        self.fail_if_planned(FileOperation::Create)?;
        if self.live.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !path.parent().is_some_and(|dir| self.dirs.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.reserve(content.live.len() as u64)?;
        let node = Arc::new(Mutex::new(content));
        self.live.insert(path.to_owned(), Arc::clone(&node));
        Ok(node)
    }
}

impl StoreFiles for MemoryFiles {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk().dirs.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let disk = self.disk();
        let files = disk.live.iter().map(|(path, node)| (path, stat_of(&lock(node))));
        let now = disk.now;
        let dirs =
            disk.dirs.iter().map(|path| (path, FileStat { is_dir: true, len_bytes: 0, modified_at: now }));
        let mut entries: Vec<_> = files
            .chain(dirs)
            .filter(|(path, _)| path.parent() == Some(dir))
            .filter_map(|(path, stat)| Some(DirEntry { name: path.file_name()?.to_str()?.to_owned(), stat }))
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn stat(&self, path: &Path) -> io::Result<Option<FileStat>> {
        let disk = self.disk();
        if disk.dirs.contains(path) {
            return Ok(Some(FileStat { is_dir: true, len_bytes: 0, modified_at: disk.now }));
        }
        Ok(disk.live.get(path).map(|node| stat_of(&lock(node))))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StoreFile>> {
        let mut disk = self.disk();
        if disk.max_open_files.is_some_and(|limit| disk.open_files >= limit) {
            return Err(io::Error::other("too many open files"));
        }
        let node = match (mode, disk.node(path)) {
            (OpenMode::Existing, found) => found?,
            (OpenMode::CreateMissing, Ok(node)) => node,
            (OpenMode::CreateMissing | OpenMode::CreateNew, _) => {
                let modified_at = disk.now;
                let live = Live::Plain(Vec::new());
                disk.create(path, Content { live, durable: Vec::new(), modified_at })?
            }
        };
        disk.open_files += 1;
        Ok(Arc::new(MemoryFile { files: self.clone(), node }))
    }

    fn create_map(&self, path: &Path, len_bytes: u64) -> io::Result<MappedFile> {
        let zeros = vec![0; len_bytes as usize];
        let mut disk = self.disk();
        let modified_at = disk.now;
        let live = Live::Plain(zeros.clone());
        let node = disk.create(path, Content { live, durable: zeros, modified_at })?;
        drop(disk);
        self.map(&node)
    }

    fn open_map(&self, path: &Path) -> io::Result<MappedFile> {
        let node = self.disk().node(path)?;
        self.map(&node)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.fail_if_planned(FileOperation::Remove)?;
        match disk.live.remove(path) {
            Some(_) => Ok(()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.live.retain(|path, _| !path.starts_with(dir));
        disk.durable.retain(|path, _| !path.starts_with(dir));
        disk.dirs.retain(|path| !path.starts_with(dir));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let node = disk.node(from)?;
        disk.live.remove(from);
        disk.live.insert(to.to_owned(), node);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.fail_if_planned(FileOperation::Sync)?;
        if !disk.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.durable.retain(|path, _| path.parent() != Some(dir));
        let named: Vec<_> = disk
            .live
            .iter()
            .filter(|(path, _)| path.parent() == Some(dir))
            .map(|(path, node)| (path.clone(), Arc::clone(node)))
            .collect();
        disk.durable.extend(named);
        Ok(())
    }

    fn written(&self, _path: &Path, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        Ok(Vec::from_iter((!range.is_empty()).then_some(range)))
    }

    fn file_system(&self, _path: &Path) -> io::Result<Arc<dyn FileSystem>> {
        Ok(Arc::new(self.clone()))
    }

    fn space(&self, _path: &Path) -> io::Result<DiskSpace> {
        let disk = self.disk();
        let total_bytes = disk.capacity_bytes.unwrap_or(UNLIMITED_BYTES);
        Ok(DiskSpace { total_bytes, available_bytes: total_bytes.saturating_sub(disk.used_bytes()) })
    }
}

impl FileSystem for MemoryFiles {
    fn sync(&self) -> io::Result<()> {
        self.wait_while_stalled(FileOperation::Sync);
        let mut disk = self.disk();
        disk.fail_if_planned(FileOperation::Sync)?;
        for node in disk.live.values() {
            let mut content = lock(node);
            content.durable = content.live.to_vec();
        }
        disk.durable = disk.live.clone();
        Ok(())
    }
}

impl MemoryFiles {
    /// Every map is fresh memory, so a forgotten owner of an older map of the file does no harm.
    fn map(&self, node: &Node) -> io::Result<MappedFile> {
        let mut content = lock(node);
        let bytes = content.live.to_vec();
        let memory = Arc::new(MapMemory::anonymous(&bytes)?);
        content.live = Live::Mapped { memory: Arc::clone(&memory), len: bytes.len() };
        let backing =
            MappedMemoryFile { files: self.clone(), node: Arc::clone(node), looks: AtomicUsize::new(0) };
        Ok(MappedFile::new(memory, bytes.len(), Box::new(backing)))
    }
}

fn stat_of(content: &Content) -> FileStat {
    FileStat { is_dir: false, len_bytes: content.live.len() as u64, modified_at: content.modified_at }
}

/// A panic of another test thread leaves the disk as it is; that is what a crash does too.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for MemoryFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryFiles").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
