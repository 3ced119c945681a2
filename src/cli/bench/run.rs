//! How a benchmark runs: threads of its own with a runtime each, a warm-up, a progress bar, costs.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use indicatif::{ProgressBar, ProgressStyle};

use super::figures::{Costs, Figures, Report};
use super::html;
use super::server_process;
use crate::cli::args::{parse_count, parse_duration};
use crate::cli::error::CliError;
use crate::cli::output;

/// Time for connecting, before the warm-up begins.
const CONNECTING: Duration = Duration::from_millis(200);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long, and what else to watch.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// How long to measure
    #[arg(short, long, value_name = "DURATION", value_parser = parse_duration, default_value = "10s")]
    pub duration: Duration,
    /// Measure so many messages, however long it takes
    #[arg(short, long, value_name = "N", value_parser = parse_count, conflicts_with = "duration")]
    pub count: Option<u64>,
    /// Run so long before measuring
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "2s")]
    pub warm_up: Duration,
    #[command(flatten)]
    pub watch: WatchArgs,
}

/// What to watch, and how to tell it.
#[derive(Clone, Debug, Args)]
pub struct WatchArgs {
    /// A process of the server on this machine: its processor time per message and its memory are told.
    /// May be repeated; the sum is told
    #[arg(long, value_name = "PID")]
    pub server_pid: Vec<u32>,
    /// Threads that share the connections
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256), default_value = "1")]
    pub threads: u16,
    /// Write the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Write it as a page with the histogram of latencies, too
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// The moments of a run.
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    pub start: Instant,
    pub measure_from: Instant,
    /// `None`: the run ends by count.
    pub until: Option<Instant>,
}

impl Moments {
    pub fn of(args: &RunArgs) -> Self {
        let start = Instant::now() + CONNECTING;
        let measure_from = start + args.warm_up;
        let until = args.count.is_none().then(|| measure_from + args.duration);
        Self { start, measure_from, until }
    }

    /// A run that measures from its first message on.
    pub fn at_once() -> Self {
        let start = Instant::now() + CONNECTING;
        Self { start, measure_from: start, until: None }
    }
}

/// What a run should come to, for the progress bar.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    Messages(u64),
    Until(Instant),
}

impl Goal {
    pub fn of(args: &RunArgs, moments: Moments) -> Self {
        match args.count {
            Some(count) => Self::Messages(count),
            None => Self::Until(moments.until.unwrap_or(moments.measure_from)),
        }
    }
}

/// How many of `count` the connection `index` of `connections` takes; shares differ by one at most.
pub fn share(count: u64, index: usize, connections: usize) -> u64 {
    count / connections as u64 + u64::from((index as u64) < count % connections as u64)
}

/// Messages so far, counted by all connections.
pub type Progress = Arc<AtomicU64>;

/// Runs one job per connection, spread over threads; adds up what they measured.
pub fn run_jobs<J, F>(
    jobs: Vec<J>,
    watch: &WatchArgs,
    moments: Moments,
    goal: Goal,
    progress: &Progress,
) -> Result<(Figures, Costs), CliError>
where
    J: FnOnce() -> F + Send + 'static,
    F: Future<Output = Result<Figures, CliError>>,
{
    let mut shares: Vec<Vec<J>> = Vec::new();
    shares.resize_with(usize::from(watch.threads).min(jobs.len()).max(1), Vec::new);
    let threads = shares.len();
    for (index, job) in jobs.into_iter().enumerate() {
        shares[index % threads].push(job);
    }
    let workers: Vec<_> =
        shares.into_iter().map(|share| std::thread::spawn(move || run_share(share))).collect();

    wait_until(moments.measure_from, || workers.iter().all(|worker| worker.is_finished()));
    let own_before = server_process::own_cpu_time();
    let server_before = server_cpu(watch)?;
    let memory = || server_process::memory(&watch.server_pid).filter(|_| !watch.server_pid.is_empty());
    let memory_before = memory();
    let bar = progress_bar(goal, moments);
    while !workers.iter().all(|worker| worker.is_finished()) {
        std::thread::sleep(LOOK_EVERY.min(Duration::from_millis(20)));
        show(&bar, goal, moments, progress.load(Ordering::Relaxed));
    }
    bar.finish_and_clear();
    let costs = Costs {
        own_cpu: server_process::own_cpu_time() - own_before,
        server_cpu: server_cpu(watch)?.zip(server_before).map(|(after, before)| after.saturating_sub(before)),
        server_memory: memory_before.zip(memory()).map(<[_; 2]>::from),
    };
    let mut all = Figures::default();
    for worker in workers {
        let figures = worker.join().map_err(|_| CliError::Bench("a thread of it panicked".to_owned()))?;
        all.add(&figures?);
    }
    Ok((all, costs))
}

fn run_share<J, F>(jobs: Vec<J>) -> Result<Figures, CliError>
where
    J: FnOnce() -> F,
    F: Future<Output = Result<Figures, CliError>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(CliError::Runtime)?.block_on(async {
        // Polls only those that were woken, unlike joining them.
        let mut running: FuturesUnordered<F> = jobs.into_iter().map(|job| job()).collect();
        let mut all = Figures::default();
        while let Some(figures) = running.next().await {
            all.add(&figures?);
        }
        Ok(all)
    })
}

fn wait_until(moment: Instant, stop: impl Fn() -> bool) {
    loop {
        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() || stop() {
            return;
        }
        std::thread::sleep(left.min(LOOK_EVERY));
    }
}

/// An error when the user named a process that cannot be read.
fn server_cpu(watch: &WatchArgs) -> Result<Option<Duration>, CliError> {
    if watch.server_pid.is_empty() {
        return Ok(None);
    }
    let cpu = server_process::cpu_time(&watch.server_pid);
    cpu.map(Some).ok_or_else(|| {
        CliError::Bench(format!(
            "no process {:?} can be read in /proc: give the server's --server-pid",
            watch.server_pid
        ))
    })
}

fn progress_bar(goal: Goal, moments: Moments) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let len = match goal {
        Goal::Messages(count) => count,
        Goal::Until(until) => until.saturating_duration_since(moments.measure_from).as_millis() as u64,
    };
    let style = ProgressStyle::with_template("{elapsed_precise} [{bar:40}] {percent}% {msg}");
    ProgressBar::new(len)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "))
}

fn show(bar: &ProgressBar, goal: Goal, moments: Moments, messages: u64) {
    let passed = moments.measure_from.elapsed();
    bar.set_position(match goal {
        Goal::Messages(_) => messages,
        Goal::Until(_) => passed.as_millis() as u64,
    });
    bar.set_message(format!("{:.0} messages/s", messages as f64 / passed.as_secs_f64().max(0.001)));
}

/// Writes the page that was asked for.
pub fn write_page(report: &Report, watch: &WatchArgs) -> Result<(), CliError> {
    let Some(file) = &watch.html else { return Ok(()) };
    let command: Vec<String> = std::env::args().collect();
    let page = html::page(report, &command.join(" "));
    std::fs::write(file, page)
        .map_err(|error| CliError::Bench(format!("cannot write {}: {error}", file.display())))
}

/// Tells the result. Messages that were refused or lost are a failure.
pub fn tell(report: &Report, watch: &WatchArgs) -> Result<(), CliError> {
    write_page(report, watch)?;
    match watch.json {
        true => output::print(&output::json(report))?,
        false => output::print(&report.text())?,
    }
    if report.messages == 0 {
        return Err(CliError::Bench("not one message arrived".to_owned()));
    }
    Ok(())
}
