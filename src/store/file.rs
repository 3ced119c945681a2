//! The seam between the store and the disk: directories, plain files and mapped files behind one trait.
//!
//! [`DiskFiles`] is the real one; [`MemoryFiles`](super::memory_files::MemoryFiles) is its twin for tests,
//! which forgets what was not flushed and fails on demand.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::mapped_file::{MapBacking, MapMemory, MappedFile};
#[cfg(target_os = "linux")]
use super::write_back;
use crate::clock::WallMs;

/// Directories and files. Paths are used as given; nothing is relative to a hidden root.
pub trait StoreFiles: Send + Sync + Debug {
    /// Creates `dir` and its parents; it is no error when they exist.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// What lies directly in `dir`, sorted by name. A missing directory is empty.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// What is known of `path`, or `None` when there is no such file or directory.
    fn stat(&self, path: &Path) -> io::Result<Option<FileStat>>;
    /// Opens a plain file for reading and writing.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StoreFile>>;
    /// Creates a file of `len_bytes` zeros, all of it allocated on disk, and maps it. The name must be new.
    /// On an error no file is left behind. The caller syncs the directory.
    fn create_map(&self, path: &Path, len_bytes: u64) -> io::Result<MappedFile>;
    /// Maps an existing file in its full length.
    fn open_map(&self, path: &Path) -> io::Result<MappedFile>;
    /// Removes a file; maps and handles of it stay usable.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with everything in it; it is no error when it does not exist.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Renames a file, replacing what had the name. The caller syncs the directory.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes names created, renamed and removed in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Which parts of `range` may hold bytes that are not zero; the others were never written. In order.
    fn written(&self, path: &Path, range: Range<u64>) -> io::Result<Vec<Range<u64>>>;
    /// The file system that holds `path`, which must exist.
    fn file_system(&self, path: &Path) -> io::Result<Arc<dyn FileSystem>>;
    /// Room on the file system that holds `path`.
    fn space(&self, path: &Path) -> io::Result<DiskSpace>;

    /// The whole content of a small file, or `None` when it does not exist.
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        let file = match self.open(path, OpenMode::Existing) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut content = vec![0; file.len()? as usize];
        file.read_exact_at(&mut content, 0)?;
        Ok(Some(content))
    }
}

/// A plain file. Positions are explicit, so one handle serves several threads.
#[allow(clippy::len_without_is_empty)] // a question to the file system, not to a collection
pub trait StoreFile: Send + Sync + Debug {
    /// Reads up to `buf.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `buf`, making the file longer where needed.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    /// Cuts the file, or makes it longer with zeros that need no room yet.
    fn set_len(&self, len_bytes: u64) -> io::Result<()>;
    /// Makes the file at least `len_bytes` long, with room on disk for all of it.
    fn preallocate(&self, len_bytes: u64) -> io::Result<()>;
    /// Makes content and length durable.
    fn sync(&self) -> io::Result<()>;

    /// Fills `buf`, or fails with `UnexpectedEof`.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.read_at(buf, offset)? == buf.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

/// A file system as a whole.
pub trait FileSystem: Send + Sync + Debug {
    /// Makes everything on it durable, whoever wrote it, names as well. Fails when the disk has refused anything since
    /// the one before, of files that were closed meanwhile, too.
    fn sync(&self) -> io::Result<()>;
}

/// What [`StoreFiles::open`] does about the name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// The file must exist.
    Existing,
    /// An empty file is created when there is none.
    CreateMissing,
    /// The file must not exist.
    CreateNew,
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    pub name: String,
    pub stat: FileStat,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileStat {
    pub is_dir: bool,
    /// 0 for a directory.
    pub len_bytes: u64,
    pub modified_at: WallMs,
}

/// Room on a file system, as far as it is ours: what is kept for root, or beyond a quota, is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskSpace {
    pub total_bytes: u64,
    pub available_bytes: u64,
}

impl DiskSpace {
    /// What `df` makes of the same numbers: whatever is neither used nor available is left out.
    fn of_blocks(blocks: u64, free: u64, available: u64, block_bytes: u64) -> Self {
        let total_bytes = (blocks.saturating_sub(free) + available) * block_bytes;
        Self { total_bytes, available_bytes: available * block_bytes }
    }

    /// Used part of the file system, 0.0 to 1.0.
    pub fn used_ratio(&self) -> f64 {
        if self.total_bytes == 0 {
            return 0.0;
        }
        1.0 - self.available_bytes as f64 / self.total_bytes as f64
    }
}

/// The files of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFiles;

impl DiskFiles {
    pub fn shared() -> Arc<dyn StoreFiles> {
        Arc::new(DiskFiles)
    }
}

impl StoreFiles for DiskFiles {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let names = match fs::read_dir(dir) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut entries = Vec::new();
        for name in names {
            let name = name?;
            let stat = stat_of(&name.metadata()?);
            // A name that is not UTF-8 is not ours.
            if let Ok(name) = name.file_name().into_string() {
                entries.push(DirEntry { name, stat });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn stat(&self, path: &Path) -> io::Result<Option<FileStat>> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(Some(stat_of(&metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StoreFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        match mode {
            OpenMode::Existing => {}
            OpenMode::CreateMissing => _ = options.create(true),
            OpenMode::CreateNew => _ = options.create_new(true),
        }
        Ok(Arc::new(DiskFile(options.open(path)?)))
    }

    fn create_map(&self, path: &Path, len_bytes: u64) -> io::Result<MappedFile> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        let made = allocate(&file, len_bytes).and_then(|()| file.sync_all()).and_then(|()| map(file));
        if made.is_err() {
            // The first error is the one to report; a name that stays behind is swept at the next start.
            let _ = fs::remove_file(path);
        }
        made
    }

    fn open_map(&self, path: &Path) -> io::Result<MappedFile> {
        map(OpenOptions::new().read(true).write(true).open(path)?)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn written(&self, path: &Path, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        let file = File::open(path)?;
        let mut ranges = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let begin = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
                Ok(begin) => begin.max(at),
                Err(Errno::NXIO) => break, // nothing but holes up to the end
                Err(Errno::INVAL) => at,   // the file system does not tell
                Err(error) => return Err(error.into()),
            };
            let end = rustix::fs::seek(&file, SeekFrom::Hole(begin)).unwrap_or(range.end).min(range.end);
            if begin >= end {
                break;
            }
            ranges.push(begin..end);
            at = end;
        }
        Ok(ranges)
    }

    fn file_system(&self, path: &Path) -> io::Result<Arc<dyn FileSystem>> {
        Ok(Arc::new(DiskFileSystem(File::open(path)?)))
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(DiskSpace::of_blocks(stat.f_blocks, stat.f_bfree, stat.f_bavail, stat.f_frsize))
    }
}

/// Some file of it, held open: the kernel tells each opening what failed since.
#[derive(Debug)]
struct DiskFileSystem(File);

impl FileSystem for DiskFileSystem {
    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }
}

#[derive(Debug)]
struct DiskFile(File);

impl StoreFile for DiskFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.0.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.0.set_len(len_bytes)
    }

    fn preallocate(&self, len_bytes: u64) -> io::Result<()> {
        allocate(&self.0, len_bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// The file that a map shows.
struct MappedDiskFile(File);

impl MapBacking for MappedDiskFile {
    fn write(&self, _: &MapMemory, at: usize, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, at as u64)
    }

    /// All of the file: the rest of it is on disk already, or is to be.
    fn sync(&self, _: &MapMemory, _: Range<usize>) -> io::Result<()> {
        self.0.sync_data()
    }

    #[cfg(target_os = "linux")]
    fn begin_write(&self, range: Range<usize>) -> io::Result<()> {
        write_back::begin(&self.0, &range)
    }

    #[cfg(target_os = "linux")]
    fn is_written(&self, range: Range<usize>) -> bool {
        write_back::has_ended(&self.0, &range)
    }
}

fn map(file: File) -> io::Result<MappedFile> {
    let len = file.metadata()?.len() as usize;
    let memory = Arc::new(MapMemory::of_file(&file)?);
    Ok(MappedFile::new(memory, len, Box::new(MappedDiskFile(file))))
}

/// Reserves room up to `len_bytes`, with `fallocate` or, where the file system has none, by writing zeros
/// behind the present end.
fn allocate(file: &File, len_bytes: u64) -> io::Result<()> {
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len_bytes) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let zeros = vec![0; 1 << 20];
    let mut at = file.metadata()?.len();
    while at < len_bytes {
        let step = zeros.len().min((len_bytes - at) as usize);
        file.write_all_at(&zeros[..step], at)?;
        at += step as u64;
    }
    Ok(())
}

fn stat_of(metadata: &fs::Metadata) -> FileStat {
    let modified = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    FileStat {
        is_dir: metadata.is_dir(),
        len_bytes: if metadata.is_dir() { 0 } else { metadata.len() },
        modified_at: WallMs(modified.unwrap_or_default().as_millis() as i64),
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory_files::MemoryFiles;
    use super::*;

    #[test]
    fn room_that_is_kept_for_root_is_neither_used_nor_available() {
        let space = DiskSpace::of_blocks(252, 180, 20, 4096);
        assert_eq!((space.total_bytes, space.available_bytes), (92 * 4096, 20 * 4096));
        assert_eq!((space.used_ratio() * 100.0).round(), 78.0, "72 of 92, and not 232 of 252");
    }

    /// What the store relies on; held by the real files and by their twin.
    fn keeps_the_contract(files: &dyn StoreFiles, root: &Path) {
        let dir = root.join("a/b");
        assert!(files.list(&dir).unwrap().is_empty());
        files.create_dir_all(&dir).unwrap();
        files.create_dir_all(&dir).unwrap();

        let path = dir.join("plain");
        let missing = files.open(&path, OpenMode::Existing).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert_eq!(files.read(&path).unwrap(), None);
        let file = files.open(&path, OpenMode::CreateNew).unwrap();
        let twice = files.open(&path, OpenMode::CreateNew).unwrap_err();
        assert_eq!(twice.kind(), io::ErrorKind::AlreadyExists);
        file.write_all_at(b"abc", 2).unwrap();
        assert_eq!(files.read(&path).unwrap().unwrap(), b"\0\0abc");
        let mut buf = [0; 8];
        assert_eq!(file.read_at(&mut buf, 3).unwrap(), 2);
        assert_eq!(file.read_at(&mut buf, 9).unwrap(), 0);
        file.set_len(3).unwrap();
        file.preallocate(10).unwrap();
        file.sync().unwrap();
        assert_eq!(files.read(&path).unwrap().unwrap(), b"\0\0a\0\0\0\0\0\0\0");

        let mapped = dir.join("mapped");
        let mut map = files.create_map(&mapped, 4096).unwrap();
        assert_eq!(files.create_map(&mapped, 1).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        map.put_u64(8, 42);
        map.flush(0..16).unwrap();
        let written = files.written(&mapped, 8..4000).unwrap();
        assert!(
            written.iter().any(|range| range.contains(&12)) && written.iter().all(|range| range.end <= 4000)
        );
        drop(map);
        files.rename(&mapped, &dir.join("moved")).unwrap();
        files.sync_dir(&dir).unwrap();
        let map = files.open_map(&dir.join("moved")).unwrap();
        assert_eq!((map.len(), map.get_u64(8)), (4096, 42));

        let names: Vec<_> = files.list(&dir).unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["moved", "plain"]);
        assert_eq!(files.stat(&dir.join("moved")).unwrap().unwrap().len_bytes, 4096);
        assert!(files.stat(&dir).unwrap().unwrap().is_dir);
        files.remove_file(&dir.join("moved")).unwrap();
        assert_eq!(map.get_u64(8), 42, "a map outlives its name");
        assert_eq!(files.stat(&dir.join("moved")).unwrap(), None);
        let above: Vec<_> = files.list(&root.join("a")).unwrap();
        assert!(above.len() == 1 && above[0].name == "b" && above[0].stat.is_dir);
        files.remove_dir_all(&root.join("a")).unwrap();
        files.remove_dir_all(&root.join("a")).unwrap();
        assert_eq!(files.stat(&path).unwrap(), None);
        assert!(files.space(root).unwrap().total_bytes > 0);
        files.file_system(root).unwrap().sync().unwrap();
    }

    #[test]
    fn disk_files_keep_the_contract() {
        let root = tempfile::tempdir().unwrap();
        keeps_the_contract(&DiskFiles, root.path());
    }

    #[test]
    fn memory_files_keep_the_contract() {
        keeps_the_contract(&MemoryFiles::new(), Path::new("/root"));
    }
}
