//! `telstar bench`: the instrument that speed is measured with, on Java's servers and on ours alike.
//!
//! It speaks the protocol with frames of its own making, because a client that costs more than the server
//! measures itself. `bench sink` shows where its own ceiling is.

mod connect;
mod consume;
mod delay;
mod e2e;
mod figures;
mod filter;
mod frame;
mod hold;
mod html;
mod limits;
mod mixed;
mod pull;
mod query;
mod rebalance;
mod retry;
mod run;
mod schedule;
mod send;
mod server_process;
mod sink;
mod socket;
mod target;
mod timer;
mod tx;
mod walk;

use clap::Subcommand;

use super::error::CliError;
use super::on_runtime;

/// Measure servers
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    Send(send::SendBenchArgs),
    Consume(consume::ConsumeBenchArgs),
    E2e(e2e::EndToEndArgs),
    Mixed(mixed::MixedBenchArgs),
    Filter(filter::FilterBenchArgs),
    Delay(delay::DelayBenchArgs),
    Query(query::QueryBenchArgs),
    Connect(connect::ConnectBenchArgs),
    Hold(hold::HoldBenchArgs),
    Rebalance(rebalance::RebalanceArgs),
    Retry(retry::RetryBenchArgs),
    Tx(tx::TxBenchArgs),
    Sink(sink::SinkArgs),
    Limits(limits::LimitsArgs),
}

pub fn run(command: BenchCommand) -> Result<(), CliError> {
    match command {
        BenchCommand::Send(args) => {
            let brokers = on_runtime(send::prepare(&args))?;
            send::run(args, brokers)
        }
        BenchCommand::Consume(args) => {
            let parts = on_runtime(consume::prepare(&args))?;
            consume::run(args, parts)
        }
        BenchCommand::E2e(args) => {
            let queues = on_runtime(e2e::prepare(&args))?;
            e2e::run(args, queues)
        }
        BenchCommand::Mixed(args) => {
            let prepared = on_runtime(mixed::prepare(&args))?;
            mixed::run(args, prepared)
        }
        BenchCommand::Retry(args) => {
            let sample = on_runtime(retry::prepare(&args))?;
            retry::run(args, sample)
        }
        BenchCommand::Filter(args) => filter::run(args),
        BenchCommand::Tx(args) => {
            let brokers = on_runtime(tx::prepare(&args))?;
            tx::run(args, brokers)
        }
        BenchCommand::Delay(args) => delay::run(args),
        BenchCommand::Query(args) => on_runtime(query::run(args)),
        BenchCommand::Connect(args) => on_runtime(connect::run(args)),
        BenchCommand::Hold(args) => on_runtime(hold::run(args)),
        BenchCommand::Rebalance(args) => on_runtime(rebalance::run(args)),
        BenchCommand::Sink(args) => on_runtime(sink::run(args)),
        BenchCommand::Limits(args) => limits::run(args),
    }
}
