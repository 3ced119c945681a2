//! What the kernel has in memory of a file on its way to the disk: begun early, and asked after without waiting.
//!
//! Two calls that no crate wraps safely. Neither waits, makes anything durable, or takes an error away from the `fdatasync`
//! that is to report it: the kernel marks an error as told only to who waits for the writing.
#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// The number of `cachestat`, the same on all machines; Linux has it since 6.5.
const CACHESTAT: libc::c_long = 451;

/// As in `linux/mman.h`; the names are those of the kernel.
#[repr(C)]
struct CachestatRange {
    off: u64,
    len: u64,
}

#[repr(C)]
#[derive(Default)]
struct Cachestat {
    nr_cache: u64,
    nr_dirty: u64,
    nr_writeback: u64,
    nr_evicted: u64,
    nr_recently_evicted: u64,
}

/// Has the disk begin with what `range` has in memory alone. It may fail; then a flush has it all to do.
pub fn begin(file: &File, range: &Range<usize>) {
    let (start, len) = (range.start as libc::off64_t, range.len() as libc::off64_t);
    // SAFETY: numbers alone; the descriptor is open as long as `file` is borrowed.
    let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), start, len, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Whether the disk is at nothing of `range`; true where the kernel does not tell.
pub fn has_ended(file: &File, range: &Range<usize>) -> bool {
    look(file, range).is_none_or(|found| found.nr_writeback == 0)
}

/// What memory holds of `range`; `None` where the kernel does not tell.
fn look(file: &File, range: &Range<usize>) -> Option<Cachestat> {
    let range = CachestatRange { off: range.start as u64, len: range.len() as u64 };
    let mut found = Cachestat::default();
    // SAFETY: both structs are laid out as the kernel has them and outlive the call, which reads the one and writes the
    // other; the descriptor is open as long as `file` is borrowed.
    let failed = unsafe {
        libc::syscall(CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut found, 0 as libc::c_uint)
    };
    (failed == 0).then_some(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn what_was_begun_ends_without_anybody_waiting_for_it() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 100_000], 0).unwrap();
        let written = 5..99_000;
        begin(&file, &written);
        let begun = Instant::now();
        while !has_ended(&file, &written) {
            assert!(begun.elapsed() < Duration::from_secs(60), "the disk is still at it");
            std::thread::yield_now();
        }
        let dirty = look(&file, &written).map_or(0, |found| found.nr_dirty);
        assert_eq!(dirty, 0, "pages that were not begun");
    }

    #[test]
    fn who_cannot_be_asked_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        assert!(has_ended(&File::open(dir.path()).unwrap(), &(0..1)), "a directory has no such pages");
    }
}
