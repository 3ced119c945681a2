//! Files of which only so many are open at once, whoever holds them.
//!
//! A broker has more queues than a process may have files open. A handle of [`OpenFiles`] is opened when it is used,
//! and closed when many others were used since: the table has a slot for each open file, and a hand that goes round
//! gives away the next slot whose file was not used since it last came by ("clock", nearly the least recently used).
//!
//! Nobody owns the table and nobody locks it: a slot is swapped as a whole, and who finds a stranger in the slot it
//! had opens its file again.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;

use super::file::{DirEntry, DiskSpace, FileStat, FileSystem, OpenMode, StoreFile, StoreFiles};
use super::mapped_file::MappedFile;

/// Files of which at most `limit` plain ones are open, but for those just in use: at most two a thread, the one it works
/// with and the one that gave way to it. Maps are not counted.
///
/// Unlike with other [`StoreFiles`], a handle is of no use once its file was removed or renamed.
#[derive(Clone, Debug)]
pub struct OpenFiles {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    files: Arc<dyn StoreFiles>,
    file_system: Arc<dyn FileSystem>,
    slots: Box<[Slot]>,
    hand: AtomicUsize,
    next_holder: AtomicU64,
}

#[derive(Debug, Default)]
struct Slot {
    open: ArcSwapOption<Open>,
    /// Whether the file was used since the hand came by.
    is_used: AtomicBool,
}

#[derive(Debug)]
struct Open {
    holder: u64,
    file: Arc<dyn StoreFile>,
}

/// A file that is open only while others leave it a slot.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    path: PathBuf,
    /// By which the file is known in the table.
    holder: u64,
    /// Where it was last.
    slot: AtomicUsize,
    /// Something was written since the last sync.
    is_unsynced: AtomicBool,
    /// The file was closed with something unsynced. If the disk refuses that, a file opened since need not be told.
    was_closed_unsynced: AtomicBool,
}

impl OpenFiles {
    /// `file_system` is the one that holds the files.
    pub fn new(files: Arc<dyn StoreFiles>, file_system: Arc<dyn FileSystem>, limit: usize) -> Self {
        let slots = (0..limit.max(1)).map(|_| Slot::default()).collect();
        let (hand, next_holder) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { shared: Arc::new(Shared { files, file_system, slots, hand, next_holder }) }
    }
}

impl Shared {
    /// Keeps `file` open, and tells where; the file that was there is closed when its user is done.
    fn keep(&self, holder: u64, file: Arc<dyn StoreFile>) -> usize {
        loop {
            let at = self.hand.fetch_add(1, Ordering::Relaxed) % self.slots.len();
            let slot = &self.slots[at];
            if !slot.is_used.swap(false, Ordering::Relaxed) {
                slot.open.store(Some(Arc::new(Open { holder, file })));
                return at;
            }
        }
    }
}

impl Handle {
    fn new(shared: &Arc<Shared>, path: &Path, file: Arc<dyn StoreFile>) -> Self {
        let holder = shared.next_holder.fetch_add(1, Ordering::Relaxed);
        Self {
            slot: AtomicUsize::new(shared.keep(holder, file)),
            shared: shared.clone(),
            path: path.to_owned(),
            holder,
            is_unsynced: AtomicBool::new(false),
            was_closed_unsynced: AtomicBool::new(false),
        }
    }

    fn kept(&self) -> Option<Arc<dyn StoreFile>> {
        let slot = &self.shared.slots[self.slot.load(Ordering::Relaxed)];
        let open = slot.open.load();
        let open = open.as_ref().filter(|open| open.holder == self.holder)?;
        slot.is_used.store(true, Ordering::Relaxed);
        Some(open.file.clone())
    }

    fn file(&self) -> io::Result<Arc<dyn StoreFile>> {
        if let Some(file) = self.kept() {
            return Ok(file);
        }
        let file = self.shared.files.open(&self.path, OpenMode::Existing)?;
        if self.is_unsynced.load(Ordering::Acquire) {
            self.was_closed_unsynced.store(true, Ordering::Release);
        }
        self.slot.store(self.shared.keep(self.holder, file.clone()), Ordering::Relaxed);
        Ok(file)
    }

    fn changing(&self) -> io::Result<Arc<dyn StoreFile>> {
        let file = self.file()?;
        self.is_unsynced.store(true, Ordering::Release);
        Ok(file)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let slot = &self.shared.slots[self.slot.load(Ordering::Relaxed)];
        let open = slot.open.load();
        if open.as_ref().is_some_and(|open| open.holder == self.holder) {
            // A stranger who came meanwhile stays.
            slot.open.compare_and_swap(&*open, None);
        }
    }
}

impl StoreFile for Handle {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file()?.read_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.changing()?.write_all_at(buf, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.file()?.len()
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.changing()?.set_len(len_bytes)
    }

    fn preallocate(&self, len_bytes: u64) -> io::Result<()> {
        self.changing()?.preallocate(len_bytes)
    }

    fn sync(&self) -> io::Result<()> {
        let was_unsynced = self.is_unsynced.swap(false, Ordering::AcqRel);
        let was_closed = self.was_closed_unsynced.swap(false, Ordering::AcqRel);
        match self.kept() {
            Some(file) if !was_closed => file.sync(),
            _ if was_unsynced || was_closed => self.shared.file_system.sync(),
            // What another handle of the file wrote.
            _ => self.file()?.sync(),
        }
    }
}

impl StoreFiles for OpenFiles {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StoreFile>> {
        let file = self.shared.files.open(path, mode)?;
        Ok(Arc::new(Handle::new(&self.shared, path, file)))
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.shared.files.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.shared.files.list(dir)
    }

    fn stat(&self, path: &Path) -> io::Result<Option<FileStat>> {
        self.shared.files.stat(path)
    }

    fn create_map(&self, path: &Path, len_bytes: u64) -> io::Result<MappedFile> {
        self.shared.files.create_map(path, len_bytes)
    }

    fn open_map(&self, path: &Path) -> io::Result<MappedFile> {
        self.shared.files.open_map(path)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.shared.files.remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.shared.files.remove_dir_all(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.shared.files.rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.shared.files.sync_dir(dir)
    }

    fn written(&self, path: &Path, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        self.shared.files.written(path, range)
    }

    fn file_system(&self, path: &Path) -> io::Result<Arc<dyn FileSystem>> {
        self.shared.files.file_system(path)
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        self.shared.files.space(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory_files::{FileOperation, MemoryFiles};

    const DIR: &str = "/d";

    /// A disk that opens no more than `limit` files and one in use.
    fn few(limit: usize) -> (MemoryFiles, OpenFiles) {
        let disk = MemoryFiles::new();
        disk.create_dir_all(Path::new(DIR)).unwrap();
        disk.limit_open_files(limit + 1);
        let file_system = disk.file_system(Path::new(DIR)).unwrap();
        (disk.clone(), OpenFiles::new(Arc::new(disk), file_system, limit))
    }

    fn path(name: usize) -> PathBuf {
        Path::new(DIR).join(name.to_string())
    }

    fn content(disk: &MemoryFiles, name: usize) -> Vec<u8> {
        disk.read(&path(name)).unwrap().unwrap()
    }

    #[test]
    fn more_files_are_written_and_read_than_may_be_open() {
        let (_, files) = few(3);
        let open = |name| files.open(&path(name), OpenMode::CreateNew).unwrap();
        let handles: Vec<_> = (0..20).map(open).collect();
        for round in 0..3u8 {
            for (name, file) in handles.iter().enumerate() {
                file.write_all_at(&[round, name as u8], 2 * u64::from(round)).unwrap();
            }
        }
        for (name, file) in handles.iter().enumerate() {
            let mut read = [0; 6];
            file.read_exact_at(&mut read, 0).unwrap();
            let name = name as u8;
            assert_eq!(read, [0, name, 1, name, 2, name]);
        }
    }

    #[test]
    fn file_that_is_used_stays_open_while_others_come_and_go() {
        let (disk, files) = few(4);
        let used = files.open(&path(0), OpenMode::CreateNew).unwrap();
        for name in 1..40 {
            used.write_all_at(b"x", 0).unwrap();
            drop(files.open(&path(name), OpenMode::CreateNew).unwrap());
        }
        disk.remove_file(&path(0)).unwrap();
        used.write_all_at(b"y", 0).expect("a file that is open needs its name no more");
    }

    #[test]
    fn dropped_handle_leaves_no_file_open() {
        let (disk, files) = few(3);
        let handles: Vec<_> =
            (0..9).map(|name| files.open(&path(name), OpenMode::CreateNew).unwrap()).collect();
        assert_eq!(disk.open_files(), 3);
        drop(handles);
        assert_eq!(disk.open_files(), 0);
    }

    #[test]
    fn what_was_closed_before_its_sync_is_synced_all_the_same() {
        let (disk, files) = few(1);
        let first = files.open(&path(1), OpenMode::CreateNew).unwrap();
        let second = files.open(&path(2), OpenMode::CreateNew).unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        first.write_all_at(b"closed", 0).unwrap();
        second.write_all_at(b"open", 0).unwrap();
        first.sync().unwrap();
        second.sync().unwrap();
        first.write_all_at(b"opened", 0).unwrap();
        second.write_all_at(b"gone", 0).unwrap();
        first.write_all_at(b" again", 6).unwrap();
        first.sync().unwrap();
        disk.crash();
        assert_eq!(content(&disk, 1), b"opened again");
        assert_eq!(content(&disk, 2), b"gone", "the disk was asked for all it had");
    }

    #[test]
    fn disk_that_did_not_keep_what_was_closed_is_told_of() {
        let (disk, files) = few(1);
        let file = files.open(&path(1), OpenMode::CreateNew).unwrap();
        file.write_all_at(b"x", 0).unwrap();
        files.open(&path(2), OpenMode::CreateNew).unwrap().write_all_at(b"y", 0).unwrap();
        disk.fail_next(FileOperation::Sync, io::ErrorKind::Other);
        assert!(file.sync().is_err());
    }

    #[test]
    fn threads_share_the_slots() {
        const THREADS: usize = 4;
        let (disk, files) = few(2);
        disk.limit_open_files(2 + 2 * THREADS);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let files = &files;
                scope.spawn(move || {
                    let mine: Vec<_> = (0..5)
                        .map(|n| files.open(&path(thread * 5 + n), OpenMode::CreateNew).unwrap())
                        .collect();
                    for round in 0..200u64 {
                        mine[round as usize % 5].write_all_at(&round.to_be_bytes(), round / 5 * 8).unwrap();
                    }
                });
            }
        });
        for name in 0..THREADS * 5 {
            let expected: Vec<u8> = (0..40).flat_map(|at| (at * 5 + name as u64 % 5).to_be_bytes()).collect();
            assert_eq!(content(&disk, name), expected);
        }
    }
}
