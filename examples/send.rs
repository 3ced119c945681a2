//! Sends ten orders and prints where each was stored.
//!
//! With a server running (`telstar start`; elsewhere than on this machine: set `NAMESRV_ADDR`):
//!
//! ```text
//! cargo run --example send
//! cargo run --example send -- payments
//! ```

use std::time::Duration;

use telstar::client::{ConnectOptions, OutgoingMessage, Producer, Servers};
use telstar::clock::SystemClock;
use telstar::protocol::property;
use telstar::types::TopicName;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let name_servers = std::env::var("NAMESRV_ADDR").unwrap_or_else(|_| "127.0.0.1:9876".into());
    let topic: TopicName = std::env::args().nth(1).unwrap_or_else(|| "orders".into()).into();

    let servers = Servers::new(&name_servers, ConnectOptions::default(), Duration::from_secs(5));
    let mut producer = Producer::new(servers, "example-shop".into(), SystemClock::shared());
    for number in 1..=10 {
        // `send` tries another queue when a broker cannot take it, and returns once it is stored.
        let sent = producer
            .send(OutgoingMessage {
                topic: topic.clone(),
                body: format!("order {number}").into(),
                properties: vec![
                    (property::TAGS.into(), "created".into()),
                    (property::KEYS.into(), format!("order-{number}")),
                ],
                queue_id: None,
            })
            .await?;
        println!("{}  queue {}  offset {}", sent.message_id, sent.queue.queue_id, sent.queue_offset);
    }
    Ok(())
}
