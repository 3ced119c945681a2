//! Brokers inside this program: several at once, killed and started again.

use telstar::client::{ConnectOptions, OutgoingMessage, Producer, Servers};
use telstar::clock::SystemClock;
use telstar::protocol::frame::HeaderCodec;
use telstar::{Broker, BrokerBuilder};

use crate::support::*;

fn small() -> BrokerBuilder {
    Broker::builder()
        .set("broker.default_queue_nums", 1)
        .set("store.commit_log_segment_bytes", 16 * 1024 * 1024)
        // A machine with a full disk is no reason to refuse or delete.
        .set("retention.warn_ratio", 0.97)
        .set("retention.force_ratio", 0.98)
        .set("retention.refuse_ratio", 0.99)
}

async fn client_of(broker: &Broker) -> Client {
    Client::connect(&broker.broker().expect("it is a broker").to_string(), HeaderCodec::Json).await
}

#[tokio::test]
async fn two_brokers_of_one_program_form_a_cluster() {
    let first = small().name("a").start().unwrap();
    let name_server = first.name_server().unwrap();
    let second = small().name("b").broker_only(name_server).start().unwrap();

    let servers = Servers::new(&name_server.to_string(), ConnectOptions::default(), PATIENCE);
    for broker in [&first, &second] {
        client_of(broker).await.send(Send::to("orders", 0, "made")).await;
    }
    let mut producer = Producer::new(servers, "shop".into(), SystemClock::shared());
    let mut brokers = std::collections::BTreeSet::new();
    for number in 0..4 {
        let body = format!("{number}").into();
        let message =
            OutgoingMessage { topic: "orders".into(), body, properties: Vec::new(), queue_id: None };
        brokers.insert(producer.send(message).await.unwrap().queue.broker_name.to_string());
    }
    assert_eq!(brokers.into_iter().collect::<Vec<_>>(), ["a", "b"]);
    second.stop().unwrap();
    first.stop().unwrap();
}

#[tokio::test]
async fn what_a_killed_broker_acknowledged_is_there_when_it_is_started_again() {
    let dir = temp_dir();
    let builder = small().data_dir(dir.path());
    let broker = builder.clone().start().unwrap();
    let client = client_of(&broker).await;
    for number in 0..3 {
        assert_eq!(client.send(Send::to("orders", 0, format!("{number}"))).await.queue_offset, number);
    }
    let end = broker.observe().unwrap().end;
    broker.kill().unwrap();

    let again = builder.start().unwrap();
    assert_eq!(again.observe().unwrap().end, end);
    assert_eq!(client_of(&again).await.send(Send::to("orders", 0, "next")).await.queue_offset, 3);
}
