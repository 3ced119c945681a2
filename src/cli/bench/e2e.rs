//! `telstar bench e2e`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use uuid::Uuid;

use super::figures::{Figures, Report, Seconds};
use super::frame::{STAMP_BYTES, SendShape, read_stamp};
use super::pull::{PullOutcome, PullShape, Puller};
use super::run::{Goal, Moments, Progress, RunArgs, run_jobs, share, tell};
use super::schedule::Schedule;
use super::send::{Codec, SendJob};
use super::socket::Socket;
use super::target::{TargetArgs, by_broker};
use super::timer::Timer;
use super::walk::{DamagedAnswer, Records};
use crate::cli::args::{parse_rate, parse_size};
use crate::cli::error::CliError;
use crate::client::route::QueueAt;
use crate::types::GroupName;

/// Unanswered messages of each sender; at a rate a server can take there are few.
const WINDOW: u32 = 16_384;
/// Messages of each pull, at most.
const BATCH: i32 = 32;
/// How long messages may be on their way after the last was sent.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Measure how long messages take from the time they are meant to be sent until a consumer has them
#[derive(Debug, Args)]
#[command(after_help = "\
Messages are meant for fixed times and latency counts from these, however late they are really sent. Consumers
wait by long polling.

Examples:
  telstar bench e2e
  telstar bench e2e --rate 10k/s --size 256 --duration 30s
  telstar bench e2e --rate 1000/s --json --server-pid 4242")]
pub struct EndToEndArgs {
    /// Messages per second
    #[arg(short, long, value_name = "N/s", value_parser = parse_rate, default_value = "1000/s")]
    rate: f64,
    /// Length of each body, bytes; at least 16
    #[arg(short, long, value_parser = parse_size, default_value = "1024")]
    size: usize,
    /// Connections that send
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), default_value = "1")]
    conns: u16,
    /// The consumer group
    #[arg(short, long, default_value = "telstar-bench")]
    group: GroupName,
    /// How headers are written
    #[arg(long, value_enum, default_value = "json")]
    codec: Codec,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// A queue and where it ends.
pub struct QueueEnd {
    at: QueueAt,
    end: i64,
}

pub async fn prepare(args: &EndToEndArgs) -> Result<Vec<QueueEnd>, CliError> {
    let queues = args.target.write_queues().await?;
    let ranges = args.target.offsets(&queues).await?;
    let ends = queues.into_iter().zip(ranges).map(|(at, range)| QueueEnd { at, end: range.end });
    Ok(ends.collect())
}

/// What senders and receivers know of each other.
#[derive(Default)]
struct Shared {
    /// Measured messages that are stored.
    stored: Progress,
    /// Measured messages that came out.
    received: AtomicU64,
    senders_left: AtomicU64,
    /// Somebody failed: nobody need wait.
    failed: AtomicBool,
}

pub fn run(args: EndToEndArgs, queues: Vec<QueueEnd>) -> Result<(), CliError> {
    let moments = Moments::of(&args.run);
    let run = Uuid::new_v4().as_u64_pair().0;
    let size = args.size.max(STAMP_BYTES);
    let shared = Arc::new(Shared::default());
    let received = Progress::default();
    let connections = usize::from(args.conns);
    shared.senders_left.store(connections as u64, Ordering::Relaxed);

    let all: Vec<QueueAt> = queues.iter().map(|queue| queue.at.clone()).collect();
    let brokers = by_broker(&all);
    let mut jobs: Vec<EndToEndJob> = Vec::new();
    for broker in &brokers {
        let of_broker = queues.iter().filter(|queue| queue.at.addr == broker.addr);
        jobs.push(EndToEndJob::Receive(ReceiveJob {
            addr: broker.addr.clone(),
            shape: PullShape {
                long_poll: true,
                ..PullShape::new(args.codec.into(), &args.target.topic, &args.group, BATCH)
            },
            queues: of_broker.map(|queue| (queue.at.queue.queue_id, queue.end, None)).collect(),
            moments,
            run,
            shared: shared.clone(),
            received: received.clone(),
        }));
    }
    for index in 0..connections {
        let broker = &brokers[index % brokers.len()];
        let job = SendJob {
            addr: broker.addr.clone(),
            queue_ids: broker.queue_ids.clone(),
            shape: SendShape::new(args.codec.into(), &args.target.topic, size),
            window: WINDOW,
            schedule: Some(Schedule::new(moments.start, args.rate, index, connections)),
            frames: args.run.count.map(|count| share(count, index, connections)),
            moments,
            stamp: Some(run),
            progress: shared.stored.clone(),
        };
        jobs.push(EndToEndJob::Send(job, shared.clone()));
    }
    let goal = Goal::of(&args.run, moments);
    let jobs = jobs.into_iter().map(|job| move || job.run()).collect();
    let (mut figures, costs) = run_jobs(jobs, &args.run.watch, moments, goal, &received)?;
    let lost = shared.stored.load(Ordering::Relaxed).saturating_sub(figures.messages);
    figures.unanswered += lost;
    let elapsed = figures.elapsed(moments.measure_from);
    tell(&Report::new(&figures, elapsed, "latency end to end", &costs), &args.run.watch)
}

enum EndToEndJob {
    Send(SendJob, Arc<Shared>),
    Receive(ReceiveJob),
}

impl EndToEndJob {
    async fn run(self) -> Result<Figures, CliError> {
        match self {
            EndToEndJob::Send(job, shared) => {
                let sent = job.run().await;
                shared.senders_left.fetch_sub(1, Ordering::AcqRel);
                shared.failed.fetch_or(sent.is_err(), Ordering::AcqRel);
                // Only refusals are of interest: what counts is what comes out.
                let sent = sent?;
                Ok(Figures { refused: sent.refused, unanswered: sent.unanswered, ..Figures::default() })
            }
            EndToEndJob::Receive(job) => job.run().await,
        }
    }
}

/// What one connection receives.
struct ReceiveJob {
    addr: String,
    shape: PullShape,
    queues: Vec<(i32, i64, Option<i64>)>,
    moments: Moments,
    run: u64,
    shared: Arc<Shared>,
    received: Progress,
}

impl ReceiveJob {
    async fn run(self) -> Result<Figures, CliError> {
        let addr = self.addr.clone();
        let shared = self.shared.clone();
        let received = async {
            let mut socket = Socket::connect(&addr).await?;
            self.carry(&mut socket).await
        };
        let received = received.await;
        shared.failed.fetch_or(received.is_err(), Ordering::AcqRel);
        received.map_err(|error| CliError::Bench(format!("{addr}: {error}")))
    }

    async fn carry(self, socket: &mut Socket) -> std::io::Result<Figures> {
        let mut figures = Figures::default();
        let mut seconds = Seconds::new(self.moments.measure_from);
        let mut timer = Timer::new()?;
        let now = Instant::now();
        let mut puller = Puller::new(self.shape.clone(), self.queues.iter().cloned(), now);
        puller.begin(socket, now);
        let mut ask = Vec::new();
        let mut senders_done_at = None;
        let mut look_at = now;
        loop {
            socket.write()?;
            let now = Instant::now();
            if now >= look_at {
                look_at = now + LOOK_EVERY;
                if self.is_over(now, &mut senders_done_at) {
                    return Ok(Figures { worst_second: seconds.worst(), ..figures });
                }
            }
            tokio::select! {
                biased;
                ready = socket.ready() => ready?,
                rung = timer.at(look_at, now) => rung?,
            }
            if !socket.read()? {
                continue;
            }
            let now = Instant::now();
            while let Some((seen, frame)) = socket.next_frame().map_err(std::io::Error::other)? {
                let Some((index, outcome)) = puller.take(&seen, frame, now) else { continue };
                match outcome {
                    PullOutcome::Records { records, .. } => {
                        self.take_records(records, now, &mut figures, &mut seconds)
                            .map_err(std::io::Error::other)?;
                        ask.push(index);
                    }
                    PullOutcome::Nothing => ask.push(index),
                    PullOutcome::Refused { code, remark } => figures.refuse(code, 1, || remark),
                }
            }
            for index in ask.drain(..) {
                puller.ask_again(socket, index, now);
            }
        }
    }

    fn take_records(
        &self,
        records: Records<'_>,
        now: Instant,
        figures: &mut Figures,
        seconds: &mut Seconds,
    ) -> Result<(), DamagedAnswer> {
        records.for_each(|record| {
            let body = record.body()?;
            let Some(since_start) = read_stamp(body, self.run) else { return Ok(()) };
            let intended = self.moments.start + since_start;
            if intended < self.moments.measure_from {
                return Ok(());
            }
            let latency = now.saturating_duration_since(intended);
            figures.latencies.record(latency);
            seconds.record(intended, latency);
            figures.messages += 1;
            figures.bytes += body.len() as u64;
            figures.last = Some(now);
            self.received.fetch_add(1, Ordering::Relaxed);
            self.shared.received.fetch_add(1, Ordering::AcqRel);
            Ok(())
        })
    }

    /// Everything sent has come, or will not come any more.
    fn is_over(&self, now: Instant, senders_done_at: &mut Option<Instant>) -> bool {
        if self.shared.failed.load(Ordering::Acquire) {
            return true;
        }
        if self.shared.senders_left.load(Ordering::Acquire) > 0 {
            return false;
        }
        let done_at = *senders_done_at.get_or_insert(now);
        let missing =
            self.shared.stored.load(Ordering::Acquire) > self.shared.received.load(Ordering::Acquire);
        !missing || now.saturating_duration_since(done_at) > PATIENCE
    }
}
