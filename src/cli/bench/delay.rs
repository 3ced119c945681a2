//! `telstar bench delay`.

use std::collections::HashSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::figures::{Latencies, Percentiles, Report, time_text};
use super::frame::{DueTimes, SendShape};
use super::run::{Goal, Moments, Progress, WatchArgs, run_jobs, share};
use super::send::{Codec, SendJob};
use super::target::{BrokerQueues, TargetArgs, by_broker};
use crate::cli::args::{parse_count, parse_duration, parse_size};
use crate::cli::error::CliError;
use crate::cli::{on_runtime, output};
use crate::client::queue_reader::AtEnd;
use crate::client::route::QueueAt;
use crate::protocol::properties::names;

/// Unanswered frames on each connection.
const WINDOW: u32 = 64;
/// How long after the last due time the rest is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Messages of one read.
const READ: i32 = 1024;

/// Measure how fast a server takes messages that are to be delivered later, and how exactly it delivers them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar bench delay --count 100k
  telstar bench delay --count 1m --after 60s --spread 30s --server-pid 4242
  telstar bench delay --count 10k --after 5s --spread 2s --json

Every message has a time of its own, spread evenly. What is told of delivery is the difference between that time and the
moment at which the server stored the message for its consumers, both by the clocks of one machine. The topic must be
used by nobody else meanwhile.")]
pub struct DelayBenchArgs {
    /// Connections
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), default_value = "4")]
    conns: u16,
    /// Messages
    #[arg(short, long, value_name = "N", value_parser = parse_count, default_value = "100000")]
    count: u64,
    /// Length of each body, bytes
    #[arg(short, long, value_parser = parse_size, default_value = "1024")]
    size: usize,
    /// The earliest time to deliver at, counted from the sending of each message
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "20s")]
    after: Duration,
    /// Times to deliver at are spread over this
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "10s")]
    spread: Duration,
    /// How headers are written; clients use JSON unless told otherwise
    #[arg(long, value_enum, default_value = "json")]
    codec: Codec,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DelayReport {
    /// Of sending.
    enqueue: Report,
    delivered: u64,
    /// Not there when the patience was over.
    missing: u64,
    /// More than once.
    repeated: u64,
    /// Before their time.
    early: u64,
    /// Behind their time; messages that came early count as 0.
    late_us: Percentiles,
}

pub fn run(args: DelayBenchArgs) -> Result<(), CliError> {
    let queues = on_runtime(args.target.write_queues())?;
    let before = on_runtime(args.target.offsets(&queues))?;
    let enqueue = send(&args, by_broker(&queues))?;
    let sent = enqueue.messages;
    let deadline = Instant::now() + args.after + args.spread + PATIENCE;
    let ends = on_runtime(await_delivery(&args, &queues, &before, sent, deadline))?;
    let mut report = on_runtime(read(&args, &queues, &ends, enqueue))?;
    report.missing = sent.saturating_sub(report.delivered);
    match args.watch.json {
        true => output::print(&output::json(&report))?,
        false => output::print(&text(&report))?,
    }
    match report.missing + report.repeated + report.early {
        0 => Ok(()),
        _ => Err(CliError::Bench(format!(
            "{} messages missing, {} repeated, {} early",
            report.missing, report.repeated, report.early
        ))),
    }
}

fn send(args: &DelayBenchArgs, brokers: Vec<BrokerQueues>) -> Result<Report, CliError> {
    let moments = Moments::at_once();
    let progress = Progress::default();
    let connections = usize::from(args.conns);
    let jobs = (0..connections).map(|index| {
        let broker = &brokers[index % brokers.len()];
        let job = SendJob {
            addr: broker.addr.clone(),
            queue_ids: broker.queue_ids.clone(),
            shape: SendShape {
                due: Some(DueTimes {
                    after_ms: args.after.as_millis() as i64,
                    spread_ms: (args.spread.as_millis() as i64).max(1),
                }),
                ..SendShape::new(args.codec.into(), &args.target.topic, args.size)
            },
            window: WINDOW,
            schedule: None,
            frames: Some(share(args.count, index, connections)),
            moments,
            stamp: None,
            progress: progress.clone(),
        };
        move || job.run()
    });
    let goal = Goal::Messages(args.count);
    let (figures, costs) = run_jobs(jobs.collect(), &args.watch, moments, goal, &progress)?;
    let elapsed = figures.elapsed(moments.measure_from);
    Ok(Report::new(&figures, elapsed, "latency of sending", &costs))
}

/// Waits until as many messages have come as were sent, or the deadline passes; returns what has come of each queue.
async fn await_delivery(
    args: &DelayBenchArgs,
    queues: &[QueueAt],
    before: &[Range<i64>],
    sent: u64,
    deadline: Instant,
) -> Result<Vec<Range<i64>>, CliError> {
    loop {
        let now = args.target.offsets(queues).await?;
        let come: Vec<_> = before.iter().zip(&now).map(|(before, now)| before.end..now.end).collect();
        let count = come.iter().map(|range| range.end - range.start).sum::<i64>();
        if count as u64 >= sent || Instant::now() > deadline {
            return Ok(come);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Reads what was delivered, and compares the times.
async fn read(
    args: &DelayBenchArgs,
    queues: &[QueueAt],
    ranges: &[Range<i64>],
    enqueue: Report,
) -> Result<DelayReport, CliError> {
    let mut servers = args.target.servers.servers();
    let mut late = Latencies::default();
    let mut keys = HashSet::new();
    let (mut repeated, mut early) = (0, 0);
    for (at, range) in queues.iter().zip(ranges) {
        let reader = servers.queue_reader(at).await?;
        let mut next = range.start;
        while next < range.end {
            let batch = reader.read(next, READ, AtEnd::Return).await?;
            if batch.next <= next {
                break;
            }
            next = batch.next;
            for message in &batch.messages {
                let property = |name| message.property(name);
                let due = property(names::TIMER_DELIVER_MS).and_then(|due| due.parse::<i64>().ok());
                let (Some(due_ms), Some(key)) = (due, property(names::UNIQ_KEY)) else { continue };
                repeated += u64::from(!keys.insert(key.to_owned()));
                early += u64::from(message.stored_at_ms < due_ms);
                late.record(Duration::from_millis((message.stored_at_ms - due_ms).max(0) as u64));
            }
        }
    }
    let late_us = late.percentiles();
    Ok(DelayReport { enqueue, delivered: keys.len() as u64, missing: 0, repeated, early, late_us })
}

fn text(report: &DelayReport) -> String {
    let Percentiles { p50, p90, p99, p999, max } = report.late_us;
    let [p50, p90, p99, p999, max] = [p50, p90, p99, p999, max].map(time_text);
    report.enqueue.text()
        + &output::facts(&[
            (
                "delivered",
                format!(
                    "{}, {} missing, {} repeated, {} early",
                    report.delivered, report.missing, report.repeated, report.early
                ),
            ),
            ("late", format!("p50 {p50}  p90 {p90}  p99 {p99}  p99.9 {p999}  max {max}")),
        ])
}
