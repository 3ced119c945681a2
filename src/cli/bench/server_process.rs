//! What processes cost: processor time and memory, as Linux counts them.

use std::time::Duration;

use serde::Serialize;

/// Memory of a process, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Resident and its own: heap, stacks.
    pub anonymous_bytes: u64,
    /// Resident pages of files, such as mapped logs: the kernel can take them back.
    pub file_bytes: u64,
    /// The most that was ever resident.
    pub peak_bytes: u64,
}

/// Processor time of some processes, summed; `None` if one cannot be read.
pub fn cpu_time(pids: &[u32]) -> Option<Duration> {
    pids.iter().map(|pid| cpu_of_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).sum()
}

/// Memory of some processes, summed; `None` if one cannot be read.
pub fn memory(pids: &[u32]) -> Option<Memory> {
    let mut sum = Memory::default();
    for pid in pids {
        let memory = memory_of_status(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?);
        sum.anonymous_bytes += memory.anonymous_bytes;
        sum.file_bytes += memory.file_bytes;
        sum.peak_bytes += memory.peak_bytes;
    }
    Some(sum)
}

/// Processor time of this process.
pub fn own_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Fields 14 and 15 of `/proc/PID/stat`; the name before them may hold blanks and parentheses.
fn cpu_of_stat(stat: &str) -> Option<Duration> {
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

fn memory_of_status(status: &str) -> Memory {
    let bytes_of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    };
    Memory {
        anonymous_bytes: bytes_of("RssAnon"),
        file_bytes: bytes_of("RssFile"),
        peak_bytes: bytes_of("VmHWM"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        let stat = "77 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15";
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(cpu_of_stat(stat), Some(Duration::from_secs_f64(200.0 / ticks)));
        assert_eq!(cpu_of_stat("77 (x"), None);
        let status = "Name:\tx\nVmHWM:\t  30 kB\nRssAnon:\t  10 kB\nRssFile:\t   5 kB\n";
        let memory = Memory { anonymous_bytes: 10 * 1024, file_bytes: 5 * 1024, peak_bytes: 30 * 1024 };
        assert_eq!(memory_of_status(status), memory);
    }

    #[test]
    fn a_process_that_is_gone_has_no_figures() {
        assert_eq!(cpu_time(&[u32::MAX]), None);
        assert_eq!(memory(&[u32::MAX]), None);
    }
}
