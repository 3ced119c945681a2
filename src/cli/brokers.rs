//! What commands about topics and groups have in common: they go to the masters of all brokers, or of some.

use std::fmt::Write;

use clap::Args;
use serde::de::DeserializeOwned;

use super::args::ServerArgs;
use super::error::CliError;
use crate::client::Servers;
use crate::client::remoting::Call;
use crate::client::route::BrokerAt;

/// Which brokers are meant.
#[derive(Clone, Debug, Default, Args)]
pub struct OnArgs {
    /// Only on this broker, or on the brokers of this cluster
    #[arg(long, value_name = "BROKER|CLUSTER")]
    pub on: Option<String>,
}

impl OnArgs {
    /// Masters of what is meant; an error when that is nothing.
    pub async fn masters(&self, servers: &mut Servers) -> Result<Vec<BrokerAt>, CliError> {
        let masters = servers.masters(self.on.as_deref()).await?;
        match (masters.is_empty(), &self.on) {
            (false, _) => Ok(masters),
            (true, Some(name)) => Err(CliError::BrokerUnknown { name: name.clone() }),
            (true, None) => Err(CliError::NoBroker { name_servers: servers.name_servers() }),
        }
    }
}

/// Brokers, and the name servers that know them.
#[derive(Debug, Args)]
pub struct PlaceArgs {
    #[command(flatten)]
    on: OnArgs,
    #[command(flatten)]
    servers: ServerArgs,
}

impl PlaceArgs {
    /// The servers, and masters of what is meant among them.
    pub async fn masters(&self) -> Result<(Servers, Vec<BrokerAt>), CliError> {
        let mut servers = self.servers.servers();
        let masters = self.on.masters(&mut servers).await?;
        Ok((servers, masters))
    }
}

/// Masters of all brokers.
pub async fn all_masters(servers: &mut Servers) -> Result<Vec<BrokerAt>, CliError> {
    OnArgs::default().masters(servers).await
}

/// The only broker there is; which one of several is meant has to be said.
pub async fn only_broker(servers: &mut Servers) -> Result<String, CliError> {
    let masters = servers.masters(None).await?;
    match &masters[..] {
        [] => Err(CliError::NoBroker { name_servers: servers.name_servers() }),
        [only] => Ok(only.addr.clone()),
        several => Err(CliError::WhichBroker {
            addrs: several.iter().map(|broker| broker.addr.as_str()).collect::<Vec<_>>().join(", "),
        }),
    }
}

/// Asks every broker for the same thing, one after the other; the first that refuses ends it.
pub async fn call_each(servers: &mut Servers, brokers: &[BrokerAt], call: &Call) -> Result<(), CliError> {
    for broker in brokers {
        servers.call(&broker.addr, call.clone()).await?;
    }
    Ok(())
}

/// As [`call_each`], with what each answers.
pub async fn ask_each<T: DeserializeOwned>(
    servers: &mut Servers,
    brokers: &[BrokerAt],
    call: &Call,
) -> Result<Vec<T>, CliError> {
    let mut answers = Vec::with_capacity(brokers.len());
    for broker in brokers {
        answers.push(servers.call(&broker.addr, call.clone()).await?.json()?);
    }
    Ok(answers)
}

/// Their names, for people.
pub fn names(brokers: &[BrokerAt]) -> String {
    let mut text = String::new();
    for broker in brokers {
        let separator = if text.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{}", broker.broker_name);
    }
    text
}
