//! `telstar bench limits`: what the machine gives, without any broker.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::figures::{Latencies, Percentiles, time_text};
use crate::cli::args::{parse_duration, parse_size};
use crate::cli::error::CliError;
use crate::cli::output;

/// A frame of a send has so many bytes beside its body, the answer to it so many in all.
const HEADER_BYTES: usize = 300;
const ANSWER_BYTES: usize = 250;
/// What is copied through a socket at once.
const COPY_BYTES: usize = 256 * 1024;
/// The file that is flushed; its blocks are written once before, as those of a log that is in use.
const FILE_BYTES: u64 = 64 << 20;

/// Measure what the machine itself can do: the loopback, and the disk
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar bench limits
  telstar bench limits --dir /var/lib/telstar --size 16k --json

Four loops, one after the other, each of them bare: a question and its answer over one loopback connection (what one sender
with one message in flight cannot go below), a copy through a loopback connection (what consumers cannot go above),
a write with fdatasync into a file (what one sender with synchronous flush cannot go above), and a question that is answered
when it is written and flushed (what a server would reach there that does nothing else).")]
pub struct LimitsArgs {
    /// Where to write the file that is flushed; it is removed at the end
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Length of each body, bytes; of each write to the file, too
    #[arg(short, long, value_parser = parse_size, default_value = "1024")]
    size: usize,
    /// How long to run each loop
    #[arg(short, long, value_name = "DURATION", value_parser = parse_duration, default_value = "3s")]
    duration: Duration,
    /// Write the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LimitsReport {
    echoes_per_second: f64,
    echo_us: Percentiles,
    /// 10^6 bytes.
    copied_megabytes_per_second: f64,
    flushes_per_second: f64,
    flush_us: Percentiles,
    flushed_echoes_per_second: f64,
    flushed_echo_us: Percentiles,
}

pub fn run(args: LimitsArgs) -> Result<(), CliError> {
    let loopback = |error: io::Error| CliError::Bench(format!("loopback: {error}"));
    let on_disk = |error: io::Error| {
        CliError::Bench(format!("cannot write in {}: {error}; choose another with --dir", args.dir.display()))
    };
    let echo = echo(HEADER_BYTES + args.size, args.duration, || Ok(())).map_err(loopback)?;
    let copied_bytes_per_second = copy(args.duration).map_err(loopback)?;
    let flushes = flush(&args).map_err(on_disk)?;
    let flushed_echoes = flushed_echo(&args).map_err(on_disk)?;
    let report = LimitsReport {
        echoes_per_second: echo.per_second,
        echo_us: echo.latencies.percentiles(),
        copied_megabytes_per_second: copied_bytes_per_second / 1e6,
        flushes_per_second: flushes.per_second,
        flush_us: flushes.latencies.percentiles(),
        flushed_echoes_per_second: flushed_echoes.per_second,
        flushed_echo_us: flushed_echoes.latencies.percentiles(),
    };
    if args.json {
        return output::print(&output::json(&report));
    }
    let told = |rate: f64, Percentiles { p50, p99, .. }| {
        format!("{rate:.0}/s  p50 {}  p99 {}", time_text(p50), time_text(p99))
    };
    output::print(&output::facts(&[
        ("echo", told(report.echoes_per_second, report.echo_us)),
        ("copy", format!("{:.0} MB/s", report.copied_megabytes_per_second)),
        ("fdatasync", told(report.flushes_per_second, report.flush_us)),
        ("flushed echo", told(report.flushed_echoes_per_second, report.flushed_echo_us)),
    ]))
}

/// How often, and how long it took each time.
struct Loop {
    per_second: f64,
    latencies: Latencies,
}

fn repeat(duration: Duration, mut once: impl FnMut() -> io::Result<()>) -> io::Result<Loop> {
    let mut latencies = Latencies::default();
    let (begun, mut times) = (Instant::now(), 0_u64);
    loop {
        let at = Instant::now();
        if at - begun >= duration {
            return Ok(Loop { per_second: times as f64 / (at - begun).as_secs_f64(), latencies });
        }
        once()?;
        latencies.record(at.elapsed());
        times += 1;
    }
}

/// The two ends of a loopback connection.
fn connection() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let ours = TcpStream::connect(listener.local_addr()?)?;
    let (theirs, _) = listener.accept()?;
    ours.set_nodelay(true)?;
    theirs.set_nodelay(true)?;
    Ok((ours, theirs))
}

/// Questions and answers in turn; `before_answer` is done for each where it is answered.
fn echo(
    question_bytes: usize,
    duration: Duration,
    mut before_answer: impl FnMut() -> io::Result<()> + Send + 'static,
) -> io::Result<Loop> {
    let (mut ours, mut theirs) = connection()?;
    let answering = thread::spawn(move || {
        let mut question = vec![0; question_bytes];
        // Ends when the other end is closed.
        while theirs.read_exact(&mut question).is_ok() {
            before_answer()?;
            if theirs.write_all(&[1; ANSWER_BYTES]).is_err() {
                break;
            }
        }
        Ok(())
    });
    let question = vec![1; question_bytes];
    let mut answer = [0; ANSWER_BYTES];
    let echoes = repeat(duration, || {
        ours.write_all(&question)?;
        ours.read_exact(&mut answer)
    });
    drop(ours);
    // What stopped the other end says more than that it is gone.
    answering.join().map_err(|_| io::Error::other("the answering thread panicked"))?.and(echoes)
}

/// Bytes per second, as the other end has read them.
fn copy(duration: Duration) -> io::Result<f64> {
    let (mut ours, mut theirs) = connection()?;
    let reading = thread::spawn(move || {
        let (mut bytes, mut total) = (vec![0; COPY_BYTES], 0_u64);
        while let Ok(read @ 1..) = theirs.read(&mut bytes) {
            total += read as u64;
        }
        total
    });
    let begun = Instant::now();
    let bytes = vec![1; COPY_BYTES];
    let written = repeat(duration, || ours.write_all(&bytes));
    drop(ours);
    let total = reading.join().map_err(|_| io::Error::other("the reader panicked"))?;
    written.map(|_| total as f64 / begun.elapsed().as_secs_f64())
}

fn flush(args: &LimitsArgs) -> io::Result<Loop> {
    let mut file = FlushedFile::create(&args.dir, args.size)?;
    repeat(args.duration, || file.append())
}

fn flushed_echo(args: &LimitsArgs) -> io::Result<Loop> {
    let mut file = FlushedFile::create(&args.dir, args.size)?;
    echo(HEADER_BYTES + args.size, args.duration, move || file.append())
}

/// A file of blocks that were written before, each write to it flushed; begins anew at its end, and is gone with its value.
struct FlushedFile {
    file: File,
    path: PathBuf,
    record: Vec<u8>,
    at: u64,
}

impl FlushedFile {
    fn create(dir: &Path, record_bytes: usize) -> io::Result<Self> {
        let path = dir.join(format!("telstar-limits-{}", std::process::id()));
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(&path)?;
        let flushed = Self { file, path, record: vec![1; record_bytes], at: 0 };
        let zeroes = vec![0; 1 << 20];
        for at in (0..FILE_BYTES).step_by(zeroes.len()) {
            flushed.file.write_all_at(&zeroes, at)?;
        }
        flushed.file.sync_all()?;
        Ok(flushed)
    }

    fn append(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.record, self.at)?;
        let len_bytes = self.record.len() as u64;
        self.at = (self.at + len_bytes) % (FILE_BYTES - len_bytes).max(1);
        self.file.sync_data()
    }
}

impl Drop for FlushedFile {
    fn drop(&mut self) {
        // Somebody may have removed it.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_loop_runs_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let args = LimitsArgs {
            dir: dir.path().to_owned(),
            size: 1024,
            duration: Duration::from_millis(20),
            json: true,
        };
        assert!(echo(1324, args.duration, || Ok(())).unwrap().per_second > 0.0);
        assert!(copy(args.duration).unwrap() > 0.0);
        assert!(flush(&args).unwrap().per_second > 0.0);
        assert!(flushed_echo(&args).unwrap().per_second > 0.0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_stops_the_answers_is_told() {
        let stopped = echo(1324, Duration::from_secs(60), || Err(io::Error::other("disk on strike")));
        assert_eq!(stopped.err().unwrap().to_string(), "disk on strike");
    }
}
