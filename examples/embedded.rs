//! A broker inside a program: starts one, sends to it, receives, and stops it. No server has to run.
//!
//! ```text
//! cargo run --example embedded
//! ```

use std::time::{Duration, Instant};

use telstar::Broker;
use telstar::client::{
    ConnectOptions, ConsumeFrom, Consumer, ConsumerOptions, Membership, OutgoingMessage, Producer, Servers,
};
use telstar::clock::{Clock, SystemClock};
use telstar::protocol::{SubscriptionData, TAG};
use telstar::types::{ClientId, TopicName};

fn main() -> anyhow::Result<()> {
    let begun = Instant::now();
    let broker = Broker::builder().set("broker.default_queue_nums", 1).start()?;
    println!("ready after {:?}, in {}", begun.elapsed(), broker.data_dir().display());

    let name_server = broker.name_server().expect("it is one, too").to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(send_and_receive(&name_server))?;
    println!("the log has {} bytes", broker.observe().expect("it is a broker").end.0);

    broker.stop()?;
    println!("stopped after {:?}", begun.elapsed());
    Ok(())
}

async fn send_and_receive(name_server: &str) -> anyhow::Result<()> {
    let timeout = Duration::from_secs(5);
    let topic: TopicName = "greetings".into();
    let servers = Servers::new(name_server, ConnectOptions::default(), timeout);
    let mut producer = Producer::new(servers, "example".into(), SystemClock::shared());
    let hello = OutgoingMessage {
        topic: topic.clone(),
        body: "hello".into(),
        properties: Vec::new(),
        queue_id: None,
    };
    let sent = producer.send(hello).await?;
    println!("sent      {}", sent.message_id);

    let options = ConsumerOptions {
        group: "example".into(),
        membership: Membership::Member,
        client_id: ClientId::from(format!("127.0.0.1@{}", std::process::id())),
        subscription: SubscriptionData {
            sub_version: SystemClock.now().0,
            ..SubscriptionData::build(topic, "*", TAG)?
        },
        from: ConsumeFrom::First,
    };
    let mut consumer = Consumer::join(name_server, options, timeout).await?;
    if let Some(received) = consumer.next().await {
        println!("received  {}", String::from_utf8_lossy(&received.message.body));
    }
    consumer.settle();
    Ok(consumer.leave().await?)
}
