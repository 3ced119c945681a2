//! `telstar bench mixed`.

use std::sync::mpsc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::consume::{LATENCY_OF_PULLS, PullJob, QueuePart, all_of, pull_jobs};
use super::figures::{Figures, Report};
use super::pull::PullShape;
use super::run::{Goal, Moments, Progress, RunArgs, WatchArgs, run_jobs, write_page};
use super::send::{SendJob, SenderArgs};
use super::target::{BrokerQueues, TargetArgs, by_broker};
use crate::cli::args::parse_duration;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::types::GroupName;

/// Measure what reading a backlog from its oldest message on does to those who send
#[derive(Debug, Args)]
#[command(after_help = "\
Messages are sent alone first, and then again for as long while the topic is read from its first message to the last one
it had. Fill the topic before, with more than is read in that time.

Examples:
  telstar bench send --size 100 --batch 100 --count 100m --topic Backlog
  telstar bench mixed --topic Backlog --size 100 --duration 30s --server-pid 4242
  telstar bench mixed --topic Backlog --rate 20k/s --json")]
pub struct MixedBenchArgs {
    #[command(flatten)]
    senders: SenderArgs,
    /// Connections that read
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), default_value = "1")]
    readers: u16,
    /// Messages of each pull, at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=10_000), default_value = "32")]
    batch: i32,
    /// The consumer group
    #[arg(short, long, default_value = "telstar-bench")]
    group: GroupName,
    #[command(flatten)]
    target: TargetArgs,
    /// How long to measure, each time
    #[arg(short, long, value_name = "DURATION", value_parser = parse_duration, default_value = "10s")]
    duration: Duration,
    /// Run so long before measuring, each time
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "2s")]
    warm_up: Duration,
    #[command(flatten)]
    watch: WatchArgs,
}

/// Where to send, and what there is to be read.
pub struct Prepared {
    brokers: Vec<BrokerQueues>,
    backlog: Vec<QueuePart>,
}

pub async fn prepare(args: &MixedBenchArgs) -> Result<Prepared, CliError> {
    let brokers = by_broker(&args.target.write_queues().await?);
    let backlog = all_of(&args.target, None).await?;
    if backlog.is_empty() {
        let topic = &args.target.topic;
        let what = format!("topic {topic} holds nothing to read: fill it with `telstar bench send` before");
        return Err(CliError::Bench(what));
    }
    Ok(Prepared { brokers, backlog })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MixedReport {
    /// Sends without anybody who reads.
    alone: Report,
    /// Sends while the backlog is read.
    beside_readers: Report,
    read: Report,
    /// The backlog came to its end before the time was over.
    all_read: bool,
}

enum MixedJob {
    Send(SendJob),
    /// Reads, and leaves the figures apart from those of the sends.
    Read(PullJob, mpsc::Sender<Figures>),
}

impl MixedJob {
    async fn run(self) -> Result<Figures, CliError> {
        match self {
            Self::Send(job) => job.run().await,
            Self::Read(job, read) => {
                // Nobody listens any more when another one has failed.
                let _ = read.send(job.run().await?);
                Ok(Figures::default())
            }
        }
    }
}

pub fn run(args: MixedBenchArgs, Prepared { brokers, backlog }: Prepared) -> Result<(), CliError> {
    let backlog_len = super::consume::count_of(&backlog);
    let (alone, _) = measure(&args, &brokers, Vec::new())?;
    let (beside_readers, read) = measure(&args, &brokers, backlog)?;
    let all_read = read.messages >= backlog_len;
    let report = MixedReport { alone, beside_readers, read, all_read };
    write_page(&report.beside_readers, &args.watch)?;
    if args.watch.json {
        return output::print(&output::json(&report));
    }
    let ratio = report.beside_readers.messages_per_second / report.alone.messages_per_second.max(1e-9);
    let all_read = if all_read { ", the whole backlog" } else { "" };
    output::print(&format!(
        "sends alone\n{}\n\nsends beside readers: {:.0} % of that\n{}\n\nread{all_read}\n{}",
        report.alone.text(),
        ratio * 100.0,
        report.beside_readers.text(),
        report.read.text()
    ))
}

/// What the sends came to, and the reads of `backlog` meanwhile.
fn measure(
    args: &MixedBenchArgs,
    brokers: &[BrokerQueues],
    backlog: Vec<QueuePart>,
) -> Result<(Report, Report), CliError> {
    let run =
        RunArgs { duration: args.duration, count: None, warm_up: args.warm_up, watch: args.watch.clone() };
    let moments = Moments::of(&run);
    let progress = Progress::default();
    let sends = (0..args.senders.connections()).map(|index| {
        let broker = &brokers[index % brokers.len()];
        MixedJob::Send(SendJob {
            addr: broker.addr.clone(),
            queue_ids: broker.queue_ids.clone(),
            shape: args.senders.shape(&args.target.topic),
            window: args.senders.window,
            schedule: args.senders.schedule(moments.start, 1, index),
            frames: None,
            moments,
            stamp: None,
            progress: progress.clone(),
        })
    });
    let mut jobs: Vec<MixedJob> = sends.collect();
    let (reader, figures_read) = mpsc::channel();
    if !backlog.is_empty() {
        let shape = PullShape::new(args.senders.codec.into(), &args.target.topic, &args.group, args.batch);
        let pulls = pull_jobs(backlog, &shape, args.readers, moments, &Progress::default());
        jobs.extend(pulls.into_iter().map(|job| MixedJob::Read(job, reader.clone())));
    }
    let goal = Goal::of(&run, moments);
    let jobs = jobs.into_iter().map(|job| move || job.run()).collect();
    let (sent, costs) = run_jobs(jobs, &args.watch, moments, goal, &progress)?;
    let elapsed = sent.elapsed(moments.measure_from);
    let sent = Report::new(&sent, elapsed, args.senders.latency_of(), &costs);
    let mut read = Figures::default();
    figures_read.try_iter().for_each(|figures| read.add(&figures));
    // The processor time of a server that does both cannot be told apart.
    let elapsed = read.elapsed(moments.start);
    Ok((sent, Report::new(&read, elapsed, LATENCY_OF_PULLS, &Default::default())))
}
