//! Replaces segments by others, all of them or none, whenever the power fails.
//!
//! What comes is written to the folder `compacting` first, and synced. Then the file `swap` there tells which names go
//! and which come: from that moment on the swap has happened, and whoever opens the log finishes it. Without that file
//! it has not, and what lies in the folder is swept.
//!
//! ```text
//! go 00000000000000000000
//! come 00000000000000000000
//! end 1f2e3d4c                 CRC-32 of the lines above
//! ```

use std::io;
use std::path::PathBuf;

use super::dirs::{CompactedDirs, Part};
use crate::kill_point;
use crate::store::file::OpenMode;

const PARTS: [Part; 2] = [Part::Log, Part::Index];

/// Names of segments that are replaced, and of those that replace them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Swap {
    pub go: Vec<u64>,
    pub come: Vec<u64>,
}

/// Begins with an empty folder for what is to come.
pub fn prepare(dirs: &CompactedDirs) -> io::Result<()> {
    sweep(dirs)?;
    PARTS.iter().try_for_each(|part| dirs.files.create_dir_all(&dirs.work_dir(*part)))
}

/// Removes what a rewriting has left behind that did not come to its end.
pub fn sweep(dirs: &CompactedDirs) -> io::Result<()> {
    PARTS.iter().try_for_each(|part| dirs.files.remove_dir_all(&dirs.work_dir(*part)))
}

/// Replaces; the files that come are in the folder, and durable.
pub fn commit(dirs: &CompactedDirs, swap: &Swap) -> io::Result<()> {
    for part in PARTS {
        dirs.files.sync_dir(&dirs.work_dir(part))?;
        // Of the folder itself, which is new.
        dirs.files.sync_dir(dirs.dir(part))?;
    }
    let (told, telling) = (told_at(dirs), dirs.work_dir(Part::Log).join("swap.new"));
    let file = dirs.files.open(&telling, OpenMode::CreateNew)?;
    file.write_all_at(swap.to_text().as_bytes(), 0)?;
    file.sync()?;
    kill_point::reach("compaction.swap_written");
    dirs.files.rename(&telling, &told)?;
    dirs.files.sync_dir(&dirs.work_dir(Part::Log))?;
    kill_point::reach("compaction.swap_told");
    apply(dirs, swap)
}

/// Finishes a swap that was told, or sweeps one that was not.
pub fn finish(dirs: &CompactedDirs) -> io::Result<()> {
    if let Some(text) = dirs.files.read(&told_at(dirs))? {
        let swap = Swap::of_text(&text).ok_or_else(|| {
            let what = format!("{} cannot be understood", told_at(dirs).display());
            io::Error::new(io::ErrorKind::InvalidData, what)
        })?;
        apply(dirs, &swap)?;
    }
    sweep(dirs)
}

fn told_at(dirs: &CompactedDirs) -> PathBuf {
    dirs.work_dir(Part::Log).join("swap")
}

/// Each step may have been taken before.
fn apply(dirs: &CompactedDirs, swap: &Swap) -> io::Result<()> {
    let files = &dirs.files;
    for part in PARTS {
        for base in &swap.come {
            let come = dirs.work_path(part, *base);
            if files.stat(&come)?.is_some() {
                files.rename(&come, &dirs.path(part, *base))?;
            }
            kill_point::reach("compaction.segment_came");
        }
        for base in swap.go.iter().filter(|base| !swap.come.contains(base)) {
            match files.remove_file(&dirs.path(part, *base)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        files.sync_dir(dirs.dir(part))?;
    }
    kill_point::reach("compaction.swapped");
    files.remove_file(&told_at(dirs))?;
    files.sync_dir(&dirs.work_dir(Part::Log))
}

impl Swap {
    fn to_text(&self) -> String {
        let line = |verb: &'static str| move |base: &u64| format!("{verb} {base:020}\n");
        let lines: String =
            self.go.iter().map(line("go")).chain(self.come.iter().map(line("come"))).collect();
        let crc = crc32fast::hash(lines.as_bytes());
        format!("{lines}end {crc:08x}\n")
    }

    fn of_text(text: &[u8]) -> Option<Self> {
        let text = str::from_utf8(text).ok()?;
        let (lines, crc) = text.strip_suffix('\n')?.rsplit_once("end ")?;
        if u32::from_str_radix(crc, 16).ok()? != crc32fast::hash(lines.as_bytes()) {
            return None;
        }
        let mut swap = Self::default();
        for line in lines.lines() {
            match line.split_once(' ')? {
                ("go", base) => swap.go.push(base.parse().ok()?),
                ("come", base) => swap.come.push(base.parse().ok()?),
                _ => return None,
            }
        }
        Some(swap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_as_it_was_written_and_not_when_it_is_torn() {
        let swap = Swap { go: vec![0, 104_857_460], come: vec![0] };
        let text = swap.to_text();
        assert_eq!(Swap::of_text(text.as_bytes()), Some(swap));
        assert_eq!(Swap::of_text(Swap::default().to_text().as_bytes()), Some(Swap::default()));
        for cut in 0..text.len() {
            assert_eq!(Swap::of_text(&text.as_bytes()[..cut]), None, "{cut}");
        }
        assert_eq!(Swap::of_text(text.replace("104857460", "104857461").as_bytes()), None);
    }
}
