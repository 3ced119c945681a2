//! `telstar bench consume`.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Args;

use super::figures::{Figures, Report};
use super::pull::{PullOutcome, PullShape, Puller};
use super::run::{Goal, Moments, Progress, WatchArgs, run_jobs, tell};
use super::send::Codec;
use super::socket::Socket;
use super::target::TargetArgs;
use crate::cli::args::parse_count;
use crate::cli::error::CliError;
use crate::client::route::QueueAt;
use crate::protocol::response_code::ResponseCode;
use crate::types::GroupName;

/// Silence after which the missing answers are given up.
const PATIENCE: Duration = Duration::from_secs(10);
pub const LATENCY_OF_PULLS: &str = "latency of pulls";

/// Measure how fast a server gives messages back: read everything a topic holds
#[derive(Debug, Args)]
#[command(after_help = "\
Every queue is read from its first message to the last one it had at the beginning, with one pull of each
queue under way at any time. Latency is that of a pull, from request to answer. Run `telstar bench send` before.

Examples:
  telstar bench consume
  telstar bench consume --conns 8 --batch 32 --count 1m --server-pid 4242
  telstar bench consume --topic orders --json")]
pub struct ConsumeBenchArgs {
    /// Connections
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), default_value = "4")]
    conns: u16,
    /// Messages of each pull, at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=10_000), default_value = "32")]
    batch: i32,
    /// The consumer group
    #[arg(short, long, default_value = "telstar-bench")]
    group: GroupName,
    /// Read no more than so many messages, an equal share of each queue
    #[arg(short, long, value_name = "N", value_parser = parse_count)]
    count: Option<u64>,
    /// How headers are written
    #[arg(long, value_enum, default_value = "json")]
    codec: Codec,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    watch: WatchArgs,
}

/// A queue and what of it is to be read.
pub struct QueuePart {
    at: QueueAt,
    pub from: i64,
    pub to: i64,
}

pub async fn prepare(args: &ConsumeBenchArgs) -> Result<Vec<QueuePart>, CliError> {
    let parts = all_of(&args.target, args.count).await?;
    match parts.is_empty() {
        true => Err(CliError::Bench(format!(
            "topic {} holds no message: fill it with `telstar bench send`",
            args.target.topic
        ))),
        false => Ok(parts),
    }
}

/// What the queues of a topic hold, up to an equal share of `count` each.
pub async fn all_of(target: &TargetArgs, count: Option<u64>) -> Result<Vec<QueuePart>, CliError> {
    let queues = target.read_queues().await?;
    let ranges = target.offsets(&queues).await?;
    let share = count.map(|count| count.div_ceil(queues.len().max(1) as u64) as i64);
    let parts = queues.into_iter().zip(ranges).map(|(at, range)| QueuePart {
        at,
        from: range.start,
        to: share.map_or(range.end, |share| range.end.min(range.start + share)),
    });
    Ok(parts.filter(|part| part.from < part.to).collect())
}

pub fn run(args: ConsumeBenchArgs, parts: Vec<QueuePart>) -> Result<(), CliError> {
    let shape = PullShape::new(args.codec.into(), &args.target.topic, &args.group, args.batch);
    let report = read(parts, shape, args.conns, &args.watch)?;
    tell(&report, &args.watch)
}

/// Reads `parts` to their ends, as fast as answers come.
pub fn read(
    parts: Vec<QueuePart>,
    shape: PullShape,
    conns: u16,
    watch: &WatchArgs,
) -> Result<Report, CliError> {
    let moments = Moments::at_once();
    let progress = Progress::default();
    let total = count_of(&parts);
    let jobs = pull_jobs(parts, &shape, conns, moments, &progress);
    let jobs = jobs.into_iter().map(|job| move || job.run()).collect();
    let (figures, costs) = run_jobs(jobs, watch, moments, Goal::Messages(total), &progress)?;
    let elapsed = figures.elapsed(moments.start);
    Ok(Report::new(&figures, elapsed, LATENCY_OF_PULLS, &costs))
}

/// How many messages `parts` hold.
pub fn count_of(parts: &[QueuePart]) -> u64 {
    parts.iter().map(|part| (part.to - part.from) as u64).sum()
}

/// `parts` shared out to `conns` connections, and at least one for each broker.
pub fn pull_jobs(
    parts: Vec<QueuePart>,
    shape: &PullShape,
    conns: u16,
    moments: Moments,
    progress: &Progress,
) -> Vec<PullJob> {
    // One connection serves queues of one broker.
    let mut by_addr: Vec<(String, Vec<QueuePart>)> = Vec::new();
    for part in parts {
        match by_addr.iter_mut().find(|(addr, _)| *addr == part.at.addr) {
            Some((_, of_addr)) => of_addr.push(part),
            None => by_addr.push((part.at.addr.clone(), vec![part])),
        }
    }
    let per_addr = usize::from(conns).div_ceil(by_addr.len());
    let mut jobs = Vec::new();
    for (addr, parts) in by_addr {
        let mut shares: Vec<Vec<(i32, i64, Option<i64>)>> = vec![Vec::new(); per_addr.min(parts.len())];
        let connections = shares.len();
        for (index, part) in parts.into_iter().enumerate() {
            shares[index % connections].push((part.at.queue.queue_id, part.from, Some(part.to)));
        }
        for queues in shares {
            jobs.push(PullJob {
                addr: addr.clone(),
                shape: shape.clone(),
                queues,
                moments,
                progress: progress.clone(),
            });
        }
    }
    jobs
}

/// What one connection reads: its queues to their ends, or until the moment is over.
pub struct PullJob {
    addr: String,
    shape: PullShape,
    queues: Vec<(i32, i64, Option<i64>)>,
    moments: Moments,
    progress: Progress,
}

impl PullJob {
    pub async fn run(self) -> Result<Figures, CliError> {
        let addr = self.addr.clone();
        let failed = |error: std::io::Error| CliError::Bench(format!("{addr}: {error}"));
        let mut socket = Socket::connect(&addr).await.map_err(failed)?;
        tokio::time::sleep_until(self.moments.start.into()).await;
        self.carry(&mut socket).await.map_err(failed)
    }

    async fn carry(self, socket: &mut Socket) -> std::io::Result<Figures> {
        let mut figures = Figures::default();
        let now = Instant::now();
        let mut puller = Puller::new(self.shape, self.queues.iter().copied(), now);
        puller.begin(socket, now);
        // Beside frames that answer, the queues to be asked again: the frames are borrowed from the socket.
        let mut ask = Vec::new();
        let is_over = |now| self.moments.until.is_some_and(|until| now >= until);
        while !puller.is_idle() && !is_over(Instant::now()) {
            socket.write()?;
            if tokio::time::timeout(PATIENCE, socket.ready()).await.is_err() {
                figures.unanswered += 1;
                return Ok(figures);
            }
            if !socket.read()? {
                continue;
            }
            let now = Instant::now();
            while let Some((seen, frame)) = socket.next_frame().map_err(std::io::Error::other)? {
                let Some((index, outcome)) = puller.take(&seen, frame, now) else { continue };
                match outcome {
                    PullOutcome::Records { records, took } => {
                        let bytes = records.bytes.len() as u64;
                        let count = records.count().map_err(std::io::Error::other)?;
                        figures.latencies.record(took);
                        figures.messages += count;
                        figures.bytes += bytes;
                        figures.last = Some(now);
                        self.progress.fetch_add(count, Ordering::Relaxed);
                        ask.push(index);
                    }
                    PullOutcome::Nothing => {
                        figures.last = Some(now);
                        ask.push(index);
                    }
                    PullOutcome::Refused { code, remark } => {
                        figures.refuse(code, 1, || remark);
                        // Any other queue is left alone: its refusal would only be repeated.
                        if ResponseCode::from_i32(code) == ResponseCode::SYSTEM_BUSY {
                            ask.push(index);
                        }
                    }
                }
            }
            for index in ask.drain(..) {
                puller.ask_again(socket, index, now);
            }
        }
        figures.passed = puller.passed(&self.queues);
        Ok(figures)
    }
}
