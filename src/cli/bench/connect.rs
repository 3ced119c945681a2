//! `telstar bench connect`.

use std::time::{Duration, Instant};

use clap::Args;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::Serialize;

use super::figures::{Latencies, Percentiles, time_text};
use super::server_process::{self, Memory};
use super::target::TargetArgs;
use crate::cli::args::parse_duration;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::client::remoting::{Call, ConnectOptions, RemotingConnection};
use crate::protocol::request_code::RequestCode;

/// How long a connection and its first answer are waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Measure how soon many connections are served that come at once, and what they cost while they are idle
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar bench connect --conns 1000
  telstar bench connect --conns 10000 --hold 60s --server-pid 4242

All connect at once, and each asks one question: latency counts from the common beginning to the answer. Then they are
silent for the time of --hold. It needs a file descriptor for each connection, and so does the server: ulimit -n.")]
pub struct ConnectBenchArgs {
    /// Connections
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60_000), default_value = "1000")]
    conns: u32,
    /// How long they stay, silent
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "0s")]
    hold: Duration,
    /// A process of the server on this machine: what its memory grows by is told
    #[arg(long, value_name = "PID")]
    server_pid: Vec<u32>,
    #[command(flatten)]
    target: TargetArgs,
    /// Write the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConnectReport {
    conns: u32,
    /// From the beginning to the last answer.
    all_served_ms: f64,
    latency_us: Percentiles,
    /// Memory of the server before they came, and at the end of their silence.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<[Memory; 2]>,
}

pub async fn run(args: ConnectBenchArgs) -> Result<(), CliError> {
    let queues = args.target.write_queues().await?;
    let addr = queues[0].addr.as_str();
    let question = Call::new(RequestCode::GET_MAX_OFFSET)
        .field("topic", queues[0].queue.topic.to_string())
        .field("queueId", queues[0].queue.queue_id.to_string());
    let options = ConnectOptions { connect_timeout: PATIENCE, ..ConnectOptions::default() };
    let before = server_process::memory(&args.server_pid);
    let begun = Instant::now();
    let mut coming: FuturesUnordered<_> = (0..args.conns)
        .map(|_| async {
            let connection = RemotingConnection::connect(addr, &options).await?;
            connection.call(question.clone(), PATIENCE).await?.success()?;
            Ok::<_, CliError>((connection, begun.elapsed()))
        })
        .collect();
    let mut latencies = Latencies::default();
    let mut connections = Vec::with_capacity(args.conns as usize);
    let mut last = Duration::ZERO;
    while let Some(served) = coming.next().await {
        let (connection, took) = served?;
        latencies.record(took);
        last = last.max(took);
        connections.push(connection);
    }
    tokio::time::sleep(args.hold).await;
    let lost = connections.iter().filter(|connection| connection.is_closed()).count();
    if lost > 0 {
        return Err(CliError::Bench(format!("the server closed {lost} of {} connections", args.conns)));
    }
    let after = server_process::memory(&args.server_pid);
    let report = ConnectReport {
        conns: args.conns,
        all_served_ms: last.as_secs_f64() * 1e3,
        latency_us: latencies.percentiles(),
        memory: before
            .zip(after)
            .filter(|_| !args.server_pid.is_empty())
            .map(|(before, after)| [before, after]),
    };
    match args.json {
        true => output::print(&output::json(&report)),
        false => output::print(&text(&report)),
    }
}

fn text(report: &ConnectReport) -> String {
    let Percentiles { p50, p99, max, .. } = report.latency_us;
    let [p50, p99, max] = [p50, p99, max].map(time_text);
    let mut facts = vec![
        ("connections", format!("{}, all served after {:.0} ms", report.conns, report.all_served_ms)),
        ("latency", format!("p50 {p50}  p99 {p99}  max {max}")),
    ];
    if let Some([before, after]) = &report.memory {
        let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
        facts.push((
            "server memory",
            format!(
                "{:.1} MiB own before, {:.1} MiB with them",
                mib(before.anonymous_bytes),
                mib(after.anonymous_bytes)
            ),
        ));
    }
    output::facts(&facts)
}
