//! `telstar bench query`.

use std::collections::BTreeSet;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::figures::{Latencies, Percentiles, time_text};
use super::target::TargetArgs;
use crate::cli::args::parse_count;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::client::queue_reader::{AtEnd, KeyKind, KeySearch};
use crate::client::route::{BrokerAt, QueueAt};
use crate::protocol::properties::names;

/// Measure how long it takes to find a message by its unique key, one question at a time
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar bench query --count 5000
  telstar bench query --topic orders --sample 100000 --json

The keys are those of messages that lie in the topic, evenly spread over its queues. `telstar bench send` fills one.")]
pub struct QueryBenchArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Questions
    #[arg(short, long, value_name = "N", value_parser = parse_count, default_value = "10000")]
    count: u64,
    /// Different keys to ask for
    #[arg(long, value_name = "N", value_parser = parse_count, default_value = "1000")]
    sample: u64,
    /// Write the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct QueryReport {
    /// Messages of the topic.
    messages: i64,
    keys: usize,
    queries: u64,
    /// Answers that held no message; none should.
    not_found: u64,
    latency_us: Percentiles,
}

pub async fn run(args: QueryBenchArgs) -> Result<(), CliError> {
    let queues = args.target.read_queues().await?;
    let offsets = args.target.offsets(&queues).await?;
    let messages = offsets.iter().map(|range| range.end - range.start).sum::<i64>();
    let keys = sample_keys(&args, &queues, &offsets).await?;
    if keys.is_empty() {
        let topic = &args.target.topic;
        return Err(CliError::Bench(format!(
            "topic {topic} has no messages with unique keys; fill it: telstar bench send --topic {topic}"
        )));
    }
    let mut servers = args.target.servers.servers();
    let brokers: BTreeSet<BrokerAt> = queues
        .iter()
        .map(|at| BrokerAt { broker_name: at.queue.broker_name.clone(), addr: at.addr.clone() })
        .collect();
    let brokers = Vec::from_iter(brokers);
    let mut latencies = Latencies::default();
    let mut not_found = 0;
    for key in keys.iter().cycle().take(usize::try_from(args.count).unwrap_or(usize::MAX)) {
        let search = KeySearch {
            topic: args.target.topic.clone(),
            key: key.clone(),
            kind: KeyKind::UniqueKey,
            from_ms: 0,
            to_ms: i64::MAX,
            max: 32,
        };
        let begun = Instant::now();
        let found = servers.find_by_key_on(&brokers, &search).await?;
        latencies.record(begun.elapsed());
        not_found += u64::from(found.is_empty());
    }
    let report = QueryReport {
        messages,
        keys: keys.len(),
        queries: args.count,
        not_found,
        latency_us: latencies.percentiles(),
    };
    match args.json {
        true => output::print(&output::json(&report))?,
        false => output::print(&text(&report))?,
    }
    match not_found {
        0 => Ok(()),
        missing => {
            Err(CliError::Bench(format!("{missing} keys were not found: has what they name expired?")))
        }
    }
}

/// Keys of messages at even distances in each queue, those of one queue after those of another.
async fn sample_keys(
    args: &QueryBenchArgs,
    queues: &[QueueAt],
    offsets: &[std::ops::Range<i64>],
) -> Result<Vec<String>, CliError> {
    let mut servers = args.target.servers.servers();
    let of_each = (args.sample / queues.len().max(1) as u64).max(1) as i64;
    let mut keys = Vec::new();
    for (at, range) in queues.iter().zip(offsets) {
        let reader = servers.queue_reader(at).await?;
        let step = ((range.end - range.start) / of_each).max(1);
        let mut offset = range.start;
        while offset < range.end {
            let batch = reader.read(offset, 1, AtEnd::Return).await?;
            let key = batch
                .messages
                .first()
                .and_then(|message| message.property(names::UNIQ_KEY).map(str::to_owned));
            keys.extend(key);
            offset += step;
        }
    }
    Ok(keys)
}

fn text(report: &QueryReport) -> String {
    let Percentiles { p50, p90, p99, p999, max } = report.latency_us;
    let [p50, p90, p99, p999, max] = [p50, p90, p99, p999, max].map(time_text);
    output::facts(&[
        ("messages", report.messages.to_string()),
        ("queries", format!("{} for {} keys", report.queries, report.keys)),
        ("latency", format!("p50 {p50}  p90 {p90}  p99 {p99}  p99.9 {p999}  max {max}")),
    ])
}
