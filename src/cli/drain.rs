//! `telstar drain`.

use clap::Args;
use serde::Serialize;

use super::args::{OutputArgs, ServerArgs};
use super::brokers::only_broker;
use super::error::CliError;
use super::output::{self, Column};
use crate::client::Servers;
use crate::client::remoting::Call;
use crate::protocol::body::drain::DrainStatus;
use crate::protocol::body::stats::ConsumeStatsList;
use crate::protocol::header::{BrokerConsumeStatsHeader, DrainBroker};
use crate::protocol::request_code::RequestCode;

/// Have a broker take no new messages and go on serving its consumers, and show what is left
///
/// Sends are refused with a code on which clients turn to another broker, the name servers are told that the broker is
/// read-only, and everything stored is brought to disk. A restart of the broker ends the drain, as --undo does.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar drain
  telstar drain --broker 10.0.0.1:10911
  telstar drain --show -o json
  telstar drain --undo")]
pub struct DrainArgs {
    /// The broker's address; not needed when only one is registered
    #[arg(short, long, value_name = "ADDR")]
    broker: Option<String>,
    /// Take new messages again
    #[arg(long, conflicts_with = "show")]
    undo: bool,
    /// Only show what is left
    #[arg(long)]
    show: bool,
    #[command(flatten)]
    servers: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Drained {
    broker: String,
    #[serde(flatten)]
    status: DrainStatus,
    /// Messages that groups have not consumed yet.
    lag: i64,
    groups: Vec<GroupLag>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupLag {
    group: String,
    topic: String,
    lag: i64,
}

pub async fn run(args: DrainArgs) -> Result<(), CliError> {
    let mut servers = args.servers.servers();
    let broker = match args.broker {
        Some(addr) => addr,
        None => only_broker(&mut servers).await?,
    };
    let action = match (args.undo, args.show) {
        (true, _) => "undo",
        (_, true) => "show",
        _ => "drain",
    };
    let header = DrainBroker { action: action.to_owned() };
    let status = servers.call(&broker, Call::new(RequestCode::DRAIN_BROKER).header(&header)).await?.json()?;
    let groups = lags(&mut servers, &broker).await?;
    let drained = Drained { broker, status, lag: groups.iter().map(|row| row.lag).sum(), groups };
    output::print_as(args.output.output, &drained, as_text)
}

/// What groups have not consumed, where that is anything.
async fn lags(servers: &mut Servers, broker: &str) -> Result<Vec<GroupLag>, CliError> {
    let header = BrokerConsumeStatsHeader { is_order: false };
    let call = Call::new(RequestCode::GET_BROKER_CONSUME_STATS).header(&header);
    let list: ConsumeStatsList = servers.call(broker, call).await?.json()?;
    let mut lags = Vec::new();
    for (group, stats) in list.consume_stats_list.into_iter().flatten() {
        for of_topic in stats {
            let rows = of_topic.offset_table.0;
            let lag = rows.values().map(|row| row.broker_offset - row.consumer_offset).sum();
            if let Some(queue) = rows.keys().next().filter(|_| lag > 0) {
                lags.push(GroupLag { group: group.to_string(), topic: queue.topic.to_string(), lag });
            }
        }
    }
    Ok(lags)
}

fn as_text(drained: &Drained) -> String {
    let status = &drained.status;
    let state = match (status.draining, &status.unsettled) {
        (false, _) => "takes messages".to_owned(),
        (true, None) => "draining; everything stored is on disk".to_owned(),
        (true, Some(cause)) => format!("draining; not everything is on disk: {cause}"),
    };
    let mut text = output::facts(&[
        ("broker", drained.broker.clone()),
        ("state", state),
        ("producers", status.producers.to_string()),
        ("consumers", status.consumers.to_string()),
        ("not consumed", drained.lag.to_string()),
    ]);
    if !drained.groups.is_empty() {
        let columns = [Column::Text("GROUP"), Column::Text("TOPIC"), Column::Number("LAG")];
        let row = |row: &GroupLag| vec![row.group.clone(), row.topic.clone(), row.lag.to_string()];
        text += "\n";
        text += &output::table(&columns, drained.groups.iter().map(row));
    }
    text
}
