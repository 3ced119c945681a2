//! Talks to servers: to name servers and brokers, Java's or ours. Imports `protocol` only, so that actors and
//! the command line use it alike.
//!
//! ```
//! use std::time::Duration;
//!
//! use telstar::client::*;
//! use telstar::clock::{Clock, SystemClock};
//! use telstar::protocol::{SubscriptionData, TAG};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = telstar::Broker::builder().start()?; // any cluster will do, a Java one as well
//! let name_servers = broker.name_server().expect("it is one, too").to_string();
//! let timeout = Duration::from_secs(20);
//!
//! let servers = Servers::new(&name_servers, ConnectOptions::default(), timeout);
//! let mut producer = Producer::new(servers, "shop".into(), SystemClock::shared());
//! let order = OutgoingMessage {
//!     topic: "orders".into(),
//!     body: "pay 7".into(),
//!     properties: vec![("TAGS".into(), "paid".into())],
//!     queue_id: None,
//! };
//! let sent = producer.send(order).await?;
//! assert_eq!(sent.queue_offset, 0);
//!
//! let options = ConsumerOptions {
//!     group: "bank".into(),
//!     membership: Membership::Member,
//!     client_id: "bank-1".into(),
//!     subscription: SubscriptionData {
//!         sub_version: SystemClock.now().0,
//!         ..SubscriptionData::build("orders", "paid || refunded", TAG)?
//!     },
//!     from: ConsumeFrom::First,
//! };
//! let mut consumer = Consumer::join(&name_servers, options, timeout).await?;
//! let received = loop {
//!     match consumer.next().await {
//!         Some(received) => break received,
//!         None => eprintln!("{:?}", consumer.take_failure()), // it goes on trying
//!     }
//! };
//! assert_eq!(received.message.body, "pay 7");
//! consumer.settle(); // it is consumed
//! consumer.leave().await?;
//! # broker.stop()?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Servers`] looks things up, [`RemotingConnection`] asks for whatever has no method, and `examples/consume_once.rs` uses
//! [`ConsumedKeys`].

#[doc(hidden)]
pub mod calendar;
#[doc(hidden)]
pub mod consumed;
#[doc(hidden)]
pub mod consumer;
#[doc(hidden)]
pub mod error;
#[doc(hidden)]
pub mod producer;
mod pull_loop;
#[doc(hidden)]
pub mod queue_reader;
#[doc(hidden)]
pub mod rebalance;
#[doc(hidden)]
pub mod remoting;
#[doc(hidden)]
pub mod route;
#[doc(hidden)]
pub mod servers;
#[doc(hidden)]
pub mod unique_key;

pub use consumed::ConsumedKeys;
pub use consumer::{ConsumeFrom, Consumer, ConsumerOptions, Membership, ReceivedMessage};
pub use error::ClientError;
pub use producer::{OutgoingMessage, Producer, SentMessage};
#[doc(hidden)]
pub use remoting::ServerRequest;
pub use remoting::{Call, ConnectOptions, RemotingConnection, Response};
pub use route::BrokerAt;
pub use servers::Servers;
