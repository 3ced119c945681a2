//! What the kernel has in memory of a file on its way to the disk: begun early, and asked after without waiting.
//!
//! Two calls that no crate wraps safely. Neither waits for the disk, unless it has more requests than it takes, or makes
//! anything durable. What fails on the disk is left to the `fdatasync` behind it: the kernel marks an error as told only to
//! who waits for the writing. What fails before the disk has it is told here alone.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
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

/// Has the disk begin with what `range` has in memory alone. Where that cannot be had, or not now, a flush has it all to do.
///
/// # Errors
/// What `range` has may be lost, and no flush need tell of it: the kernel may drop what it finds no place for.
pub fn begin(file: &File, range: &Range<usize>) -> io::Result<()> {
    let (start, len) = (range.start as libc::off64_t, range.len() as libc::off64_t);
    // SAFETY: numbers alone; the descriptor is open as long as `file` is borrowed.
    let failed = unsafe { libc::sync_file_range(file.as_raw_fd(), start, len, libc::SYNC_FILE_RANGE_WRITE) };
    if failed == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error().is_some_and(leaves_all_in_memory) { Ok(()) } else { Err(error) }
}

/// The call is not there or not allowed, or the kernel puts it off: what is in memory stays there.
fn leaves_all_in_memory(errno: i32) -> bool {
    use libc::{EAGAIN, EINTR, EINVAL, ENOMEM, ENOSYS, EOPNOTSUPP, EPERM, ESPIPE};
    [EAGAIN, EINTR, EINVAL, ENOMEM, ENOSYS, EOPNOTSUPP, EPERM, ESPIPE].contains(&errno)
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
        begin(&file, &written).unwrap();
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

    #[test]
    fn only_what_may_have_lost_something_is_an_error() {
        let (pipe, _other_end) = std::io::pipe().unwrap();
        let pipe = File::from(std::os::fd::OwnedFd::from(pipe));
        assert!(begin(&pipe, &(0..1)).is_ok(), "a pipe has nothing to write");
        assert!(leaves_all_in_memory(libc::ENOSYS));
        assert!(![libc::EIO, libc::ENOSPC].into_iter().any(leaves_all_in_memory));
    }
}
