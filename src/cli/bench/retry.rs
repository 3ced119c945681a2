//! `telstar bench retry`.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Args;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::figures::{Figures, Report};
use super::run::{Goal, Moments, Progress, RunArgs, run_jobs, share, tell};
use super::target::TargetArgs;
use crate::cli::error::CliError;
use crate::client::queue_reader::AtEnd;
use crate::client::remoting::{Call, ConnectOptions, RemotingConnection};
use crate::protocol::header::SendBack;
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;
use crate::types::GroupName;

/// Messages that are sent back, again and again.
const SAMPLE: i32 = 1024;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Measure how fast a server takes back what consumers failed to consume
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar bench retry --duration 30s
  telstar bench retry --delay-level 18 --count 100k --group failing
  telstar bench retry --conns 8 --window 32 --server-pid 4242 --json

Messages that lie in the topic are sent back for the group; `telstar bench send` fills one. They pile up in the delay
level, and come again in the retry topic of the group. With a high level they stay: `telstar bench send` beside it shows
what a group with many retries costs the others.")]
pub struct RetryBenchArgs {
    /// Connections
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), default_value = "4")]
    conns: u16,
    /// Unanswered requests on each connection, at most
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000), default_value = "64")]
    window: u32,
    /// Delay level after which they come again; 0: what the group's policy says, -1: to its dead letter queue
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(-1..=18), default_value = "3", allow_negative_numbers = true)]
    delay_level: i32,
    /// The group whose consumers failed
    #[arg(short, long, default_value = "telstar-bench")]
    group: GroupName,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Where messages lie that can be sent back, all on one broker.
pub struct Sample {
    addr: String,
    offsets: Vec<i64>,
}

pub async fn prepare(args: &RetryBenchArgs) -> Result<Sample, CliError> {
    let queues = args.target.read_queues().await?;
    let ranges = args.target.offsets(&queues).await?;
    let mut servers = args.target.servers.servers();
    for (at, range) in queues.iter().zip(ranges).filter(|(_, range)| !range.is_empty()) {
        let batch = servers.queue_reader(at).await?.read(range.start, SAMPLE, AtEnd::Return).await?;
        let offsets: Vec<_> = batch.messages.iter().map(|message| message.physical_offset.0 as i64).collect();
        if !offsets.is_empty() {
            return Ok(Sample { addr: at.addr.clone(), offsets });
        }
    }
    let topic = &args.target.topic;
    Err(CliError::Bench(format!(
        "topic {topic} has no messages; fill it: telstar bench send --topic {topic}"
    )))
}

pub fn run(args: RetryBenchArgs, sample: Sample) -> Result<(), CliError> {
    let moments = Moments::of(&args.run);
    let progress = Progress::default();
    let connections = usize::from(args.conns);
    let jobs = (0..connections).map(|index| {
        let job = RetryJob {
            addr: sample.addr.clone(),
            // Each connection begins with another message.
            offsets: sample.offsets.iter().copied().cycle().skip(index).take(sample.offsets.len()).collect(),
            group: args.group.clone(),
            delay_level: args.delay_level,
            window: args.window as usize,
            left: args.run.count.map(|count| share(count, index, connections)),
            moments,
            progress: progress.clone(),
        };
        move || job.run()
    });
    let goal = Goal::of(&args.run, moments);
    let (figures, costs) = run_jobs(jobs.collect(), &args.run.watch, moments, goal, &progress)?;
    let elapsed = figures.elapsed(moments.measure_from);
    tell(&Report::new(&figures, elapsed, "latency", &costs), &args.run.watch)
}

/// What one connection sends back.
struct RetryJob {
    addr: String,
    offsets: Vec<i64>,
    group: GroupName,
    delay_level: i32,
    window: usize,
    /// Requests to measure; `None`: until the time is up.
    left: Option<u64>,
    moments: Moments,
    progress: Progress,
}

impl RetryJob {
    async fn run(mut self) -> Result<Figures, CliError> {
        let connection = RemotingConnection::connect(&self.addr, &ConnectOptions::default()).await?;
        let send_back = |offset: i64| {
            let header = SendBack {
                offset,
                group: self.group.clone(),
                delay_level: self.delay_level,
                origin_msg_id: None,
                origin_topic: None,
                // What is sent back is always the first attempt.
                max_reconsume_times: Some(16),
            };
            let call = Call::new(RequestCode::CONSUMER_SEND_MSG_BACK).header(&header);
            let (connection, begun) = (connection.clone(), Instant::now());
            async move { (begun, connection.call(call, PATIENCE).await) }
        };
        let mut offsets = self.offsets.iter().copied().cycle();
        let mut under_way = FuturesUnordered::new();
        let mut figures = Figures::default();
        loop {
            let now = Instant::now();
            let measures = now >= self.moments.measure_from;
            let more = match self.left {
                Some(left) => left > 0,
                None => self.moments.until.is_none_or(|until| now < until),
            };
            if more && under_way.len() < self.window {
                if let Some(left) = self.left.as_mut().filter(|_| measures) {
                    *left -= 1;
                }
                under_way.extend(offsets.next().map(&send_back));
                continue;
            }
            let Some((begun, answer)) = under_way.next().await else { return Ok(figures) };
            if begun < self.moments.measure_from {
                continue;
            }
            match answer {
                Ok(answer) if answer.code == ResponseCode::SUCCESS => {
                    figures.messages += 1;
                    figures.latencies.record(begun.elapsed());
                    figures.last = Some(Instant::now());
                    self.progress.fetch_add(1, Ordering::Relaxed);
                }
                Ok(answer) => figures.refuse(answer.code.as_i32(), 1, || answer.remark.unwrap_or_default()),
                Err(_) => figures.unanswered += 1,
            }
        }
    }
}
