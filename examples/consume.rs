//! Consumes a topic as a member of a group, until ctrl-C. Start it twice, and the two share the queues.
//!
//! With a server running (`telstar start`; elsewhere than on this machine: set `NAMESRV_ADDR`) and something in the
//! topic (`cargo run --example send`):
//!
//! ```text
//! cargo run --example consume
//! cargo run --example consume -- payments
//! ```

use std::time::Duration;

use telstar::client::{ConsumeFrom, Consumer, ConsumerOptions, Membership};
use telstar::clock::{Clock, SystemClock};
use telstar::protocol::{SubscriptionData, TAG};
use telstar::types::{ClientId, TopicName};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let name_servers = std::env::var("NAMESRV_ADDR").unwrap_or_else(|_| "127.0.0.1:9876".into());
    let topic: TopicName = std::env::args().nth(1).unwrap_or_else(|| "orders".into()).into();

    let now = SystemClock.now();
    let options = ConsumerOptions {
        group: "example-billing".into(),
        membership: Membership::Member,
        // Tells the members of a group apart.
        client_id: ClientId::from(format!("127.0.0.1@{}#{}", std::process::id(), now.0)),
        subscription: SubscriptionData {
            sub_version: now.0,
            ..SubscriptionData::build(topic, "created || paid", TAG)?
        },
        // Where the group begins the first time; later it goes on where it was.
        from: ConsumeFrom::First,
    };
    let mut consumer = Consumer::join(&name_servers, options, Duration::from_secs(5)).await?;
    println!("holding {} queues", consumer.held_queues());

    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let received = tokio::select! {
            biased;
            _ = &mut stop => break,
            received = consumer.next() => received,
        };
        match received {
            // Asking for the next message says that this one is consumed; it is then committed.
            Some(received) => {
                let body = String::from_utf8_lossy(&received.message.body);
                println!(
                    "queue {}  offset {}  {body}",
                    received.queue.queue_id, received.message.queue_offset
                );
            }
            // The consumer goes on trying.
            None => consumer.take_failure().into_iter().for_each(|failure| eprintln!("{failure}")),
        }
    }
    consumer.settle();
    Ok(consumer.leave().await?)
}
