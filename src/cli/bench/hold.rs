//! `telstar bench hold`.

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::figures::{Latencies, Percentiles, time_text};
use super::frame::{FIRST_OPAQUE, SendFrames, SendShape};
use super::pull::{PullOutcome, PullShape, Puller};
use super::socket::Socket;
use super::target::{BrokerQueues, TargetArgs, by_broker};
use crate::cli::args::parse_size;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::clock::{Clock, SystemClock};
use crate::protocol::frame::HeaderCodec;
use crate::types::GroupName;

/// Time for the pulls to be held before messages are sent.
const SETTLING: Duration = Duration::from_secs(1);
/// Messages of each pull, at most.
const BATCH: i32 = 32;
/// How long the last answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Measure how soon held pulls are answered when a message comes for each of them at once
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar bench hold --queues 1000
  telstar bench hold --queues 10000 --rounds 20 --json

One pull is held on each queue of the topic, all over one connection; then one message goes to each queue, all in one
write of another. Latency counts from that write. The first broker of the topic is used.")]
pub struct HoldBenchArgs {
    /// How often
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000), default_value = "10")]
    rounds: u32,
    /// Length of each body, bytes
    #[arg(short, long, value_parser = parse_size, default_value = "1024")]
    size: usize,
    /// The consumer group
    #[arg(short, long, default_value = "telstar-bench")]
    group: GroupName,
    #[command(flatten)]
    target: TargetArgs,
    /// Write the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HoldReport {
    queues: usize,
    rounds: u32,
    /// From the write of the messages to the last answer, of the rounds: the middle one and the worst.
    last_ms: f64,
    worst_ms: f64,
    /// Of single pulls, over all rounds.
    latency_us: Percentiles,
}

pub async fn run(args: HoldBenchArgs) -> Result<(), CliError> {
    let queues = args.target.write_queues().await?;
    let broker = by_broker(&queues).swap_remove(0);
    let of_broker: Vec<_> = queues.into_iter().filter(|at| at.addr == broker.addr).collect();
    let ends = args.target.offsets(&of_broker).await?;
    let begins: Vec<_> =
        of_broker.iter().zip(ends).map(|(at, range)| (at.queue.queue_id, range.end, None)).collect();
    let failed = |error: std::io::Error| CliError::Bench(format!("{}: {error}", broker.addr));
    let measured = measure(&args, &broker, begins).await.map_err(failed)?;
    let mut last = measured.last;
    last.sort_unstable();
    let ms = |took: Duration| took.as_secs_f64() * 1e3;
    let report = HoldReport {
        queues: broker.queue_ids.len(),
        rounds: args.rounds,
        last_ms: ms(last[last.len() / 2]),
        worst_ms: ms(last[last.len() - 1]),
        latency_us: measured.latencies.percentiles(),
    };
    if args.json {
        return output::print(&output::json(&report));
    }
    let Percentiles { p50, p99, max, .. } = report.latency_us;
    let [p50, p99, max] = [p50, p99, max].map(time_text);
    output::print(&output::facts(&[
        ("held pulls", format!("{} on as many queues, {} rounds", report.queues, report.rounds)),
        ("last answer", format!("{:.1} ms, at worst {:.1} ms", report.last_ms, report.worst_ms)),
        ("latency", format!("p50 {p50}  p99 {p99}  max {max}")),
    ]))
}

struct Measured {
    latencies: Latencies,
    /// The last answer of each round.
    last: Vec<Duration>,
}

async fn measure(
    args: &HoldBenchArgs,
    broker: &BrokerQueues,
    begins: Vec<(i32, i64, Option<i64>)>,
) -> std::io::Result<Measured> {
    let mut pulls = Socket::connect(&broker.addr).await?;
    let mut sends = Socket::connect(&broker.addr).await?;
    let shape = PullShape {
        long_poll: true,
        ..PullShape::new(HeaderCodec::Json, &args.target.topic, &args.group, BATCH)
    };
    let queues = begins.len();
    let mut puller = Puller::new(shape, begins, Instant::now());
    let shape = SendShape::new(HeaderCodec::Json, &args.target.topic, args.size);
    let mut frames = SendFrames::new(&shape, &broker.queue_ids);
    let mut measured = Measured { latencies: Latencies::default(), last: Vec::new() };
    puller.begin(&mut pulls, Instant::now());
    for _ in 0..args.rounds {
        // Answers of this time are of pulls that ran into their limit, or of messages of others.
        exchange(&mut pulls, &mut puller, Instant::now() + SETTLING, |_| false).await?;
        frames.set_born_at(SystemClock.now().0);
        for queue in 0..queues {
            frames.append(sends.output(), queue, FIRST_OPAQUE + queue as i32, None);
        }
        let begun = Instant::now();
        let mut answered = vec![false; queues];
        let mut left = queues;
        let receiving = exchange(&mut pulls, &mut puller, begun + PATIENCE, |index| {
            if !std::mem::replace(&mut answered[index], true) {
                measured.latencies.record(begun.elapsed());
                left -= 1;
            }
            left == 0
        });
        // The answers to the sends are read and forgotten.
        let sending = async {
            loop {
                sends.write()?;
                sends.ready().await?;
                sends.read()?;
                while sends.next_frame().map_err(std::io::Error::other)?.is_some() {}
            }
        };
        let ended: std::io::Result<()> = tokio::select! {
            received = receiving => received,
            failed = sending => failed,
        };
        ended?;
        if left > 0 {
            return Err(std::io::Error::other(format!("{left} of {queues} held pulls were not answered")));
        }
        measured.last.push(begun.elapsed());
    }
    Ok(measured)
}

/// Takes answers and asks again, until `is_done` says so of a queue that got records, or until the deadline.
async fn exchange(
    socket: &mut Socket,
    puller: &mut Puller,
    deadline: Instant,
    mut is_done: impl FnMut(usize) -> bool,
) -> std::io::Result<()> {
    let mut again = Vec::new();
    let mut done = false;
    while !done {
        socket.write()?;
        match tokio::time::timeout_at(deadline.into(), socket.ready()).await {
            Ok(ready) => ready?,
            Err(_) => return Ok(()),
        }
        socket.read()?;
        let now = Instant::now();
        while let Some((seen, frame)) = socket.next_frame().map_err(std::io::Error::other)? {
            let Some((index, outcome)) = puller.take(&seen, frame, now) else { continue };
            match outcome {
                PullOutcome::Records { .. } => done |= is_done(index),
                PullOutcome::Nothing => {}
                PullOutcome::Refused { code, remark } => {
                    return Err(std::io::Error::other(format!("a pull was refused: {code} {remark}")));
                }
            }
            again.push(index);
        }
        for index in again.drain(..) {
            puller.ask_again(socket, index, now);
        }
    }
    Ok(())
}
