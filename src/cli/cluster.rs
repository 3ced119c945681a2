//! `telstar cluster`.

use clap::Args;
use serde::Serialize;

use super::args::{OutputArgs, ServerArgs};
use super::error::CliError;
use super::output::{self, Column};
use crate::client::remoting::Call;
use crate::protocol::body::route::KVTable;
use crate::protocol::request_code::RequestCode;

/// List the brokers that are registered, and what they do at the moment
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar cluster
  telstar cluster --name-server 10.0.0.1:9876 -o json")]
pub struct ClusterArgs {
    #[command(flatten)]
    servers: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Broker {
    cluster: String,
    broker_name: String,
    /// 0 is the master.
    broker_id: i64,
    addr: String,
    version: String,
    /// Messages per second, as the broker counts them.
    put_tps: f64,
    get_tps: f64,
    /// How full the disk of the commit log is.
    disk_percent: f64,
    /// Why the broker could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

pub async fn run(args: ClusterArgs) -> Result<(), CliError> {
    let mut servers = args.servers.servers();
    let info = servers.cluster_info().await?;
    let mut brokers = Vec::new();
    for data in info.broker_addr_table.into_values() {
        for (broker_id, addr) in data.broker_addrs {
            let asked = servers.call(&addr, Call::new(RequestCode::GET_BROKER_RUNTIME_INFO)).await;
            let (table, trouble) = match asked.and_then(|answer| answer.json::<KVTable>()) {
                Ok(figures) => (figures.table, None),
                // The others are worth showing all the same.
                Err(error) => (Default::default(), Some(error.to_string())),
            };
            let text = |name: &str| table.get(name).map(String::as_str).unwrap_or_default();
            brokers.push(Broker {
                cluster: data.cluster.clone(),
                broker_name: data.broker_name.to_string(),
                broker_id,
                addr,
                version: text("brokerVersionDesc").to_owned(),
                put_tps: first_number(text("putTps")),
                get_tps: first_number(text("getTransferredTps")),
                disk_percent: first_number(text("commitLogDiskRatio")) * 100.0,
                trouble,
            });
        }
    }
    if brokers.is_empty() {
        return Err(CliError::NoBroker { name_servers: servers.name_servers() });
    }
    output::print_as(args.output.output, &brokers, |brokers| {
        let columns = [
            Column::Text("CLUSTER"),
            Column::Text("BROKER"),
            Column::Number("ID"),
            Column::Text("ADDRESS"),
            Column::Text("VERSION"),
            Column::Number("IN/S"),
            Column::Number("OUT/S"),
            Column::Number("DISK"),
        ];
        let row = |broker: &Broker| {
            vec![
                broker.cluster.clone(),
                broker.broker_name.clone(),
                broker.broker_id.to_string(),
                broker.addr.clone(),
                broker.trouble.clone().unwrap_or_else(|| broker.version.clone()),
                format!("{:.1}", broker.put_tps),
                format!("{:.1}", broker.get_tps),
                format!("{:.0}%", broker.disk_percent),
            ]
        };
        output::table(&columns, brokers.iter().map(row))
    })
}

/// Rates come as three numbers: over 10, 60 and 600 seconds.
fn first_number(text: &str) -> f64 {
    let number = text.split_whitespace().next().and_then(|number| number.parse().ok());
    number.filter(|number: &f64| number.is_finite()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_nonsense_are_read() {
        assert_eq!(first_number("1.5 2.0 3.0"), 1.5);
        assert_eq!(first_number(""), 0.0);
        assert_eq!(first_number("NaN"), 0.0);
    }
}
