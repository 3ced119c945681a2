//! The servers a client talks to: name servers by list, brokers by the addresses that routes give.

use std::time::Duration;

use super::error::ClientError;
use super::remoting::{Call, ConnectOptions, RemotingConnection, Response};
use super::route::{self, BrokerAt};
use crate::collections::HashMap;
use crate::protocol::body::route::{ClusterInfo, TopicRouteData};
use crate::protocol::header::{GetRoute, TopicHeader};
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;
use crate::types::TopicName;

/// Port of a name server address that names none.
const NAME_SERVER_PORT: u16 = 9876;

/// Open connections by address, and the list of name servers. One owner: whoever shares a connection clones it.
///
/// ```
/// use std::time::Duration;
/// use telstar::client::{Call, ConnectOptions, Servers};
/// use telstar::protocol::{OffsetResponse, QueueHeader, RequestCode};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = telstar::Broker::builder().name("a").start()?;
/// let name_server = broker.name_server().expect("it is one, too").to_string();
/// let mut servers = Servers::new(&name_server, ConnectOptions::default(), Duration::from_secs(20));
/// let masters = servers.masters(Some("a")).await?;
/// let queue = QueueHeader { topic: "TBW102".into(), queue_id: 0 };
/// let call = Call::new(RequestCode::GET_MIN_OFFSET).header(&queue);
/// let least: OffsetResponse = servers.call(&masters[0].addr, call).await?.header()?;
/// assert_eq!(least.offset, 0);
/// assert!(servers.masters_of(&"no-such-topic".into()).await.is_err());
/// # broker.stop()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Servers {
    name_servers: Vec<String>,
    options: ConnectOptions,
    timeout: Duration,
    connections: HashMap<String, RemotingConnection>,
}

impl Servers {
    /// `name_servers` are addresses separated by semicolons or commas. Nothing is connected yet.
    pub fn new(name_servers: &str, options: ConnectOptions, timeout: Duration) -> Self {
        let with_port = |addr: &str| match addr.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => addr.to_owned(),
            _ => format!("{addr}:{NAME_SERVER_PORT}"),
        };
        let addrs = name_servers.split([';', ',']).map(str::trim).filter(|addr| !addr.is_empty());
        Self {
            name_servers: addrs.map(with_port).collect(),
            options,
            timeout,
            connections: HashMap::default(),
        }
    }

    /// The name servers, for messages to people.
    pub fn name_servers(&self) -> String {
        self.name_servers.join(";")
    }

    /// How long an answer is waited for.
    #[doc(hidden)]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The connection to `addr`, opened if it is not.
    pub async fn connection(&mut self, addr: &str) -> Result<RemotingConnection, ClientError> {
        if let Some(open) = self.connections.get(addr).filter(|connection| !connection.is_closed()) {
            return Ok(open.clone());
        }
        let connection = RemotingConnection::connect(addr, &self.options).await?;
        self.connections.insert(addr.to_owned(), connection.clone());
        Ok(connection)
    }

    /// Asks `addr`, whatever the answer is.
    pub async fn ask(&mut self, addr: &str, call: Call) -> Result<Response, ClientError> {
        let timeout = self.timeout;
        let answer = self.connection(addr).await?.call(call, timeout).await;
        if matches!(answer, Err(ClientError::TimedOut { .. })) {
            // It may be stuck for good; the next call tries a new one, as Java clients do.
            self.connections.remove(addr);
        }
        answer
    }

    /// Asks `addr` for something that has to succeed.
    pub async fn call(&mut self, addr: &str, call: Call) -> Result<Response, ClientError> {
        self.ask(addr, call).await?.success()
    }

    /// Asks the first name server that answers. The one that did is asked first the next time.
    pub async fn ask_name_server(&mut self, call: Call) -> Result<Response, ClientError> {
        let mut failed = None;
        for n in 0..self.name_servers.len() {
            let addr = self.name_servers[n].clone();
            match self.ask(&addr, call.clone()).await {
                Ok(answer) => {
                    self.name_servers.swap(0, n);
                    return Ok(answer);
                }
                Err(error) => failed = Some(error),
            }
        }
        let cause = "the list is empty".to_owned();
        let source = failed.unwrap_or(ClientError::Closed { addr: String::new(), cause });
        Err(ClientError::NoNameServer { addrs: self.name_servers(), source: Box::new(source) })
    }

    /// Tells every name server; the first failure ends it.
    #[doc(hidden)]
    pub async fn call_every_name_server(&mut self, call: Call) -> Result<(), ClientError> {
        for addr in self.name_servers.clone() {
            self.call(&addr, call.clone()).await?;
        }
        Ok(())
    }

    /// The route of a topic, `None` when no broker has registered it.
    #[doc(hidden)]
    pub async fn find_route(&mut self, topic: &TopicName) -> Result<Option<TopicRouteData>, ClientError> {
        let header = GetRoute {
            topic: topic.clone(),
            accept_standard_json_only: true,
            zone_name: None,
            zone_mode: false,
        };
        let answer =
            self.ask_name_server(Call::new(RequestCode::GET_ROUTEINFO_BY_TOPIC).header(&header)).await?;
        match answer.code {
            ResponseCode::TOPIC_NOT_EXIST => Ok(None),
            _ => Ok(Some(answer.success()?.json()?)),
        }
    }

    /// The route of a topic that should exist.
    #[doc(hidden)]
    pub async fn route(&mut self, topic: &TopicName) -> Result<TopicRouteData, ClientError> {
        let route = self.find_route(topic).await?;
        route.ok_or_else(|| ClientError::NoRoute { topic: topic.clone(), name_servers: self.name_servers() })
    }

    /// All brokers and clusters.
    #[doc(hidden)]
    pub async fn cluster_info(&mut self) -> Result<ClusterInfo, ClientError> {
        self.ask_name_server(Call::new(RequestCode::GET_BROKER_CLUSTER_INFO)).await?.success()?.json()
    }

    /// Masters of every broker, or of the clusters and brokers called `wanted`.
    pub async fn masters(&mut self, wanted: Option<&str>) -> Result<Vec<BrokerAt>, ClientError> {
        let info = self.cluster_info().await?;
        let brokers = info.broker_addr_table.values();
        let is_wanted =
            |cluster: &str, broker: &str| wanted.is_none_or(|name| name == cluster || name == broker);
        Ok(route::masters_of(brokers.filter(|broker| is_wanted(&broker.cluster, &broker.broker_name))))
    }

    /// Masters of the brokers that have a topic.
    pub async fn masters_of(&mut self, topic: &TopicName) -> Result<Vec<BrokerAt>, ClientError> {
        Ok(route::masters(&self.route(topic).await?))
    }

    /// Takes a topic off brokers and name servers.
    pub async fn delete_topic(&mut self, topic: &TopicName, brokers: &[BrokerAt]) -> Result<(), ClientError> {
        let header = TopicHeader { topic: topic.clone() };
        for broker in brokers {
            self.call(&broker.addr, Call::new(RequestCode::DELETE_TOPIC_IN_BROKER).header(&header)).await?;
        }
        self.call_every_name_server(Call::new(RequestCode::DELETE_TOPIC_IN_NAMESRV).header(&header)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_name_servers_takes_both_separators_and_the_usual_port() {
        let servers = Servers::new("a:1; b ,c:2;", ConnectOptions::default(), Duration::from_secs(1));
        assert_eq!(servers.name_servers(), "a:1;b:9876;c:2");
    }
}
