//! Consumes a topic, and processes a message only once though it comes again: it asks the brokers whether a message was
//! processed, and tells them when it is.
//!
//! With a server running (`telstar start`; elsewhere than on this machine: set `NAMESRV_ADDR`), something in the topic
//! (`cargo run --example send`), and the group made to keep what it has consumed for a day:
//!
//! ```text
//! telstar group create example-once --attribute consumed.window.ms=86400000
//! cargo run --example consume_once
//! telstar group reset example-once --topic orders --to-earliest    # all of it comes again, and is passed over
//! cargo run --example consume_once
//! ```

use std::time::Duration;

use telstar::client::{
    ConnectOptions, ConsumeFrom, ConsumedKeys, Consumer, ConsumerOptions, Membership, Servers,
};
use telstar::clock::{Clock, SystemClock};
use telstar::protocol::property::UNIQ_KEY;
use telstar::protocol::{SubscriptionData, TAG};
use telstar::types::{ClientId, GroupName, TopicName};

const TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let name_servers = std::env::var("NAMESRV_ADDR").unwrap_or_else(|_| "127.0.0.1:9876".into());
    let topic: TopicName = std::env::args().nth(1).unwrap_or_else(|| "orders".into()).into();
    let group = GroupName::from("example-once");

    let now = SystemClock.now();
    let options = ConsumerOptions {
        group: group.clone(),
        membership: Membership::Member,
        client_id: ClientId::from(format!("127.0.0.1@{}#{}", std::process::id(), now.0)),
        subscription: SubscriptionData { sub_version: now.0, ..SubscriptionData::build(topic, "*", TAG)? },
        from: ConsumeFrom::First,
    };
    let servers = Servers::new(&name_servers, ConnectOptions::default(), TIMEOUT);
    let mut consumed = ConsumedKeys::new(servers, group);
    let mut consumer = Consumer::join(&name_servers, options, TIMEOUT).await?;

    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let received = tokio::select! {
            biased;
            _ = &mut stop => break,
            received = consumer.next() => received,
        };
        let Some(received) = received else {
            consumer.take_failure().into_iter().for_each(|failure| eprintln!("{failure}"));
            continue;
        };
        // What sends without a unique key gets one from the broker.
        let key = [received.message.text(UNIQ_KEY).to_owned()];
        if consumed.marked_at(&key).await?[0].is_some() {
            println!("{}  was processed before", key[0]);
            continue;
        }
        println!("{}  {}", key[0], String::from_utf8_lossy(&received.message.body));
        // Behind the work: a crash between the two has the message processed again, and never lost.
        consumed.mark(&received.queue.broker_name, &key).await?;
    }
    consumer.settle();
    Ok(consumer.leave().await?)
}
