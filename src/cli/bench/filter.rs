//! `telstar bench filter`.

use clap::Args;

use super::consume;
use super::frame::{DIGIT, SendShape};
use super::pull::PullShape;
use super::run::{Goal, Moments, Progress, WatchArgs, run_jobs, tell};
use super::send::{Codec, SendJob};
use super::target::{BrokerQueues, TargetArgs, by_broker};
use crate::cli::args::{parse_count, parse_size};
use crate::cli::error::CliError;
use crate::cli::on_runtime;
use crate::types::GroupName;

/// Frames on the way while the topic is filled.
const WINDOW: u32 = 64;

/// Measure how fast a server goes through messages of which an SQL92 condition wants one in ten
#[derive(Debug, Args)]
#[command(after_help = "\
The topic is filled first, if it holds fewer messages than --count; every message has a property that is 0 to 9 in
turn. Then every queue is read from its first message to its last, with the condition in each pull. A Java broker
needs enablePropertyFilter=true.

Examples:
  telstar bench filter --topic TelstarFilter
  telstar bench filter --topic TelstarFilter --count 1m --server-pid 4242
  telstar bench filter --topic TelstarFilter --condition \"digit IN ('1', '2', '3')\" --json")]
pub struct FilterBenchArgs {
    /// Connections
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), default_value = "4")]
    conns: u16,
    /// Messages of each pull, at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=10_000), default_value = "32")]
    batch: i32,
    /// Messages that the topic is filled up to
    #[arg(short, long, value_name = "N", value_parser = parse_count, default_value = "200k")]
    count: u64,
    /// Length of each body, bytes
    #[arg(short, long, value_parser = parse_size, default_value = "256")]
    size: usize,
    /// What to filter by; true for one message in ten as it stands
    #[arg(long, value_name = "EXPR", default_value_t = format!("{DIGIT} = 7"))]
    condition: String,
    /// The consumer group
    #[arg(short, long, default_value = "telstar-bench")]
    group: GroupName,
    /// How headers are written
    #[arg(long, value_enum, default_value = "json")]
    codec: Codec,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    watch: WatchArgs,
}

pub fn run(args: FilterBenchArgs) -> Result<(), CliError> {
    let queues = on_runtime(args.target.write_queues())?;
    let mut parts = on_runtime(consume::all_of(&args.target, None))?;
    let held = consume::count_of(&parts);
    if held < args.count {
        fill(&args, args.count - held, by_broker(&queues))?;
        parts = on_runtime(consume::all_of(&args.target, None))?;
    }
    let shape = PullShape {
        condition: Some(args.condition),
        ..PullShape::new(args.codec.into(), &args.target.topic, &args.group, args.batch)
    };
    tell(&consume::read(parts, shape, args.conns, &args.watch)?, &args.watch)
}

/// Sends `count` messages, an equal share to each broker.
fn fill(args: &FilterBenchArgs, count: u64, brokers: Vec<BrokerQueues>) -> Result<(), CliError> {
    let moments = Moments::at_once();
    let progress = Progress::default();
    let share = count.div_ceil(brokers.len().max(1) as u64);
    let jobs = brokers.into_iter().map(|broker| {
        let job = SendJob {
            addr: broker.addr,
            queue_ids: broker.queue_ids,
            shape: SendShape {
                digit: true,
                ..SendShape::new(args.codec.into(), &args.target.topic, args.size)
            },
            window: WINDOW,
            schedule: None,
            frames: Some(share),
            moments,
            stamp: None,
            progress: progress.clone(),
        };
        move || job.run()
    });
    let goal = Goal::Messages(count);
    let (figures, _) = run_jobs(jobs.collect(), &args.watch, moments, goal, &progress)?;
    match figures.messages >= count {
        true => Ok(()),
        false => Err(CliError::Bench(format!(
            "topic {} was filled with {} of {count} messages; start it again",
            args.target.topic, figures.messages
        ))),
    }
}
