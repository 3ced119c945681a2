//! What a consumer group has processed, by unique keys that the brokers keep. Only Telstar's brokers do, for groups with
//! the attribute `consumed.window.ms`.

use super::error::ClientError;
use super::remoting::Call;
use super::route::BrokerAt;
use super::servers::Servers;
use crate::protocol::body::consumed::{ConsumedTimes, GroupKeys};
use crate::protocol::fastjson;
use crate::protocol::request_code::RequestCode;
use crate::types::{BrokerName, GroupName};

/// Asks for and marks the consumed keys of one group.
///
/// ```
/// use std::time::Duration;
/// use telstar::client::*;
/// use telstar::protocol::SubscriptionGroupConfig;
/// # use telstar::testing::calls::create_group;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = telstar::Broker::builder().name("a").start()?;
/// let name_server = broker.name_server().expect("it is one, too").to_string();
/// let mut servers = Servers::new(&name_server, ConnectOptions::default(), Duration::from_secs(20));
/// // As `telstar group create bank --attribute consumed.window.ms=3600000` does.
/// let attributes = [("+consumed.window.ms".to_owned(), "3600000".to_owned())].into();
/// let bank = SubscriptionGroupConfig { attributes, ..SubscriptionGroupConfig::new("bank") };
/// # let master = servers.masters(None).await?.remove(0);
/// # servers.call(&master.addr, create_group(&bank)).await?;
/// let mut consumed = ConsumedKeys::new(servers, "bank".into());
/// let key = ["order-7".to_owned()];
/// assert_eq!(consumed.marked_at(&key).await?, [None]); // nobody has consumed it: do what it asks for
/// assert_eq!(consumed.mark(&"a".into(), &key).await?, [None]);
/// assert!(consumed.marked_at(&key).await?[0].is_some()); // it came again: nothing is to be done
/// # broker.stop()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ConsumedKeys {
    servers: Servers,
    group: GroupName,
    /// Masters of all brokers, as the name server told last.
    masters: Vec<BrokerAt>,
}

impl ConsumedKeys {
    /// Nothing is connected yet.
    pub fn new(servers: Servers, group: GroupName) -> Self {
        Self { servers, group, masters: Vec::new() }
    }

    /// When each key was marked, ms since 1970. Every broker is asked, since a producer that tries again may choose
    /// another one; that any of them cannot be reached is an error, and no "never".
    pub async fn marked_at(&mut self, keys: &[String]) -> Result<Vec<Option<i64>>, ClientError> {
        let mut marked: Vec<Option<i64>> = vec![None; keys.len()];
        for master in self.masters().await? {
            let times = self.ask(&master, RequestCode::QUERY_CONSUMED, keys).await?;
            for (marked, told) in marked.iter_mut().zip(times) {
                *marked = match (*marked, told) {
                    (Some(earlier), Some(told)) => Some(earlier.min(told)),
                    (known, told) => known.or(told),
                };
            }
        }
        Ok(marked)
    }

    /// Marks keys with the broker that the messages came from, and returns once it has them on disk: when each had been
    /// marked there before.
    pub async fn mark(
        &mut self,
        broker: &BrokerName,
        keys: &[String],
    ) -> Result<Vec<Option<i64>>, ClientError> {
        let masters = self.masters().await?;
        let master = masters.iter().find(|master| master.broker_name == *broker);
        let Some(master) = master else {
            // It may be new.
            self.masters.clear();
            let cause = "no name server knows it".to_owned();
            return Err(ClientError::Closed { addr: broker.to_string(), cause });
        };
        self.ask(master, RequestCode::MARK_CONSUMED, keys).await
    }

    async fn masters(&mut self) -> Result<Vec<BrokerAt>, ClientError> {
        if self.masters.is_empty() {
            self.masters = self.servers.masters(None).await?;
        }
        Ok(self.masters.clone())
    }

    async fn ask(
        &mut self,
        master: &BrokerAt,
        code: RequestCode,
        keys: &[String],
    ) -> Result<Vec<Option<i64>>, ClientError> {
        let body = fastjson::to_vec(&GroupKeys { group: self.group.clone(), keys: keys.to_vec() })?;
        let answer = self.servers.call(&master.addr, Call::new(code).body(body)).await;
        if answer.is_err() {
            // Brokers come and go: the next call asks who is there.
            self.masters.clear();
        }
        Ok(answer?.json::<ConsumedTimes>()?.marked_at_ms)
    }
}
