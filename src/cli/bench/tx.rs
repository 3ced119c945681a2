//! `telstar bench tx`.

use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use futures::future::try_join_all;
use uuid::Uuid;

use super::figures::{Figures, Report};
use super::run::{Goal, Moments, Progress, RunArgs, run_jobs, share, tell};
use super::target::{BrokerQueues, TargetArgs, by_broker};
use crate::cli::args::parse_size;
use crate::cli::error::CliError;
use crate::client::remoting::{Call, ConnectOptions, RemotingConnection, Response};
use crate::clock::{Clock, SystemClock};
use crate::protocol::header::{EndTransactionHeader, SendMessageV2, SendResponse};
use crate::protocol::message_id::parse_offset_message_id;
use crate::protocol::names::DEFAULT_TOPIC;
use crate::protocol::properties::{self, names};
use crate::protocol::request_code::RequestCode;
use crate::protocol::sys_flag::TransactionType;
use crate::types::GroupName;

const GROUP: &str = "telstar-bench";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// `commitOrRollback` of a commit.
const COMMIT: i32 = 8;

/// Measure how fast a server carries out transactions: half message, then commit, each awaited
#[derive(Debug, Args)]
#[command(after_help = "\
Latency is that of a whole transaction, until its commit is answered. Clients send commits one-way, but then nobody can
tell when they hold.

Examples:
  telstar bench tx
  telstar bench tx --conns 8 --window 32 --size 256 --duration 30s --server-pid 4242
  telstar bench tx --broker 127.0.0.1:10999 --count 100k --json")]
pub struct TxBenchArgs {
    /// Connections
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), default_value = "4")]
    conns: u16,
    /// Transactions under way on each connection
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096), default_value = "16")]
    window: u16,
    /// Length of each body, bytes
    #[arg(short, long, value_parser = parse_size, default_value = "1024")]
    size: usize,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    run: RunArgs,
}

pub async fn prepare(args: &TxBenchArgs) -> Result<Vec<BrokerQueues>, CliError> {
    Ok(by_broker(&args.target.write_queues().await?))
}

pub fn run(args: TxBenchArgs, brokers: Vec<BrokerQueues>) -> Result<(), CliError> {
    let moments = Moments::of(&args.run);
    let progress = Progress::default();
    let connections = usize::from(args.conns);
    let jobs = (0..connections).map(|index| {
        let job = TxJob {
            broker: brokers[index % brokers.len()].clone(),
            topic: args.target.topic.to_string(),
            body: Bytes::from(vec![b'x'; args.size]),
            window: args.window,
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

/// What one connection does.
struct TxJob {
    broker: BrokerQueues,
    topic: String,
    body: Bytes,
    window: u16,
    /// Transactions to be measured; `None`: until the moment is over.
    left: Option<u64>,
    moments: Moments,
    progress: Progress,
}

/// What the transactions of a connection share; they take turns on one thread.
struct Shared {
    job: TxJob,
    connection: RemotingConnection,
    key_prefix: u64,
    begun: Cell<u64>,
    left: Cell<Option<u64>>,
    figures: RefCell<Figures>,
}

impl TxJob {
    async fn run(self) -> Result<Figures, CliError> {
        let options = ConnectOptions::default();
        let connection = RemotingConnection::connect(&self.broker.addr, &options).await;
        let shared = Shared {
            connection: connection.map_err(|error| CliError::Bench(error.to_string()))?,
            key_prefix: Uuid::new_v4().as_u64_pair().0,
            begun: Cell::new(0),
            left: Cell::new(self.left),
            figures: RefCell::default(),
            job: self,
        };
        let start = shared.job.moments.start;
        tokio::time::sleep_until(start.into()).await;
        try_join_all((0..shared.job.window).map(|_| shared.one_after_another())).await?;
        Ok(shared.figures.into_inner())
    }
}

impl Shared {
    async fn one_after_another(&self) -> Result<(), CliError> {
        loop {
            let now = Instant::now();
            let moments = self.job.moments;
            if moments.until.is_some_and(|until| now >= until) || self.left.get() == Some(0) {
                return Ok(());
            }
            let is_measured = now >= moments.measure_from;
            if is_measured {
                self.left.set(self.left.get().map(|left| left - 1));
            }
            let ended = self.transaction().await?;
            if is_measured {
                self.note(now, ended);
            }
        }
    }

    fn note(&self, begun: Instant, ended: Result<(), Response>) {
        let mut figures = self.figures.borrow_mut();
        figures.last = Some(Instant::now());
        match ended {
            Ok(()) => {
                figures.latencies.record(begun.elapsed());
                figures.messages += 1;
                figures.bytes += self.job.body.len() as u64;
                self.job.progress.fetch_add(1, Ordering::Relaxed);
            }
            Err(refusal) => {
                figures.refuse(refusal.code.as_i32(), 1, || refusal.remark.unwrap_or_default());
            }
        }
    }

    /// The inner error is a refusal; the outer one ends the run.
    async fn transaction(&self) -> Result<Result<(), Response>, CliError> {
        let begun = self.call(self.half()).await?;
        let sent: SendResponse = match begun.code.is_success() {
            true => begun.header().map_err(|error| CliError::Bench(error.to_string()))?,
            false => return Ok(Err(begun)),
        };
        let (_, at) =
            parse_offset_message_id(&sent.msg_id).map_err(|error| CliError::Bench(error.to_string()))?;
        let ended = self.call(commit(sent.queue_offset, at.0 as i64, sent.transaction_id)).await?;
        Ok(if ended.code.is_success() { Ok(()) } else { Err(ended) })
    }

    async fn call(&self, call: Call) -> Result<Response, CliError> {
        let answer = self.connection.call(call, PATIENCE).await;
        answer.map_err(|error| CliError::Bench(format!("{}: {error}", self.job.broker.addr)))
    }

    fn half(&self) -> Call {
        let number = self.begun.replace(self.begun.get() + 1);
        let queues = &self.job.broker.queue_ids;
        let key = format!("{:016X}{number:016X}", self.key_prefix);
        let text = properties::encode([
            (names::UNIQ_KEY, key.as_str()),
            (names::TRANSACTION_PREPARED, "true"),
            (names::PRODUCER_GROUP, GROUP),
        ]);
        let header = SendMessageV2 {
            producer_group: GROUP.to_owned(),
            topic: self.job.topic.clone(),
            default_topic: DEFAULT_TOPIC.to_owned(),
            default_topic_queue_nums: 4,
            queue_id: queues[(self.key_prefix.wrapping_add(number) % queues.len() as u64) as usize],
            sys_flag: TransactionType::Prepared.set_in(0),
            born_at_ms: SystemClock.now().0,
            flag: 0,
            properties: String::from_utf8_lossy(&text).into_owned(),
            reconsume_times: 0,
            unit_mode: false,
            max_reconsume_times: None,
            batch: false,
        };
        Call::new(RequestCode::SEND_MESSAGE_V2).header(&header).body(self.job.body.clone())
    }
}

fn commit(half_offset: i64, half_at: i64, transaction_id: Option<String>) -> Call {
    Call::new(RequestCode::END_TRANSACTION).header(&EndTransactionHeader {
        producer_group: GroupName::from(GROUP),
        tran_state_table_offset: half_offset,
        commit_log_offset: half_at,
        commit_or_rollback: COMMIT,
        from_transaction_check: false,
        msg_id: transaction_id.clone(),
        transaction_id,
        topic: None,
    })
}
