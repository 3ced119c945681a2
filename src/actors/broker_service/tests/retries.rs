//! What consumers give back, by a whole broker.

use super::*;
use crate::protocol::body::heartbeat::{ConsumerData, HeartbeatData};
use crate::protocol::body::lock::LockBatchRequestBody;
use crate::protocol::body::subscription::{SQL92, SubscriptionData};
use crate::protocol::properties::{self, names as property};
use crate::types::MessageQueue;

/// As a client of group g sends what it could not consume, when it could not send it back.
fn own_retry(reconsume_times: i32) -> RequestBuilder {
    let text = properties::encode([(property::RETRY_TOPIC, "T"), (property::DELAY, "3")]);
    request(RequestCode::SEND_MESSAGE_V2)
        .field("a", "g")
        .field("b", "%RETRY%g")
        .field("c", "TBW102")
        .field("d", 1)
        .field("e", 0)
        .field("i", str::from_utf8(&text).unwrap())
        .field("j", reconsume_times)
        .field("l", 3)
        .body("again")
}

async fn reason(bench: &mut Bench) -> String {
    let pull = request(RequestCode::PULL_MESSAGE)
        .field("consumerGroup", "g")
        .field("topic", "%DLQ%g")
        .field("queueId", 0)
        .field("queueOffset", 0)
        .field("maxMsgNums", 1)
        .field("sysFlag", 6)
        .field("subscription", "*")
        .field("suspendTimeoutMillis", 10_000);
    let ReplyContent::Pulled(pulled) = bench.ask(vec![pull]).await.remove(0).content else {
        panic!("the pull is answered")
    };
    let message = StoredMessage::decode_all(pulled.records.concat().into()).remove(0);
    properties::get(&message.properties, property::DLQ_REASON).unwrap().to_owned()
}

#[actix::test]
async fn client_that_tried_too_often_has_its_message_buried_with_the_cause() {
    let mut bench = Bench::start_new().await;
    assert_eq!(bench.code(own_retry(3)).await, ResponseCode::SUCCESS);
    assert_eq!(bench.code(own_retry(4)).await, ResponseCode::SUCCESS);
    assert_eq!(reason(&mut bench).await, "not consumed after 3 retries, the limit is 3");
    bench.stop().await;
}

#[actix::test]
async fn group_that_holds_queue_locks_retries_nothing() {
    let mut bench = Bench::start_new().await;
    let lock = LockBatchRequestBody {
        client_id: "c".into(),
        consumer_group: "g".into(),
        mq_set: vec![MessageQueue { broker_name: "broker-a".into(), queue_id: 0, topic: "T".into() }],
        ..LockBatchRequestBody::default()
    };
    assert_eq!(bench.code(request(RequestCode::LOCK_BATCH_MQ).json(&lock)).await, ResponseCode::SUCCESS);
    assert_eq!(bench.code(own_retry(1)).await, ResponseCode::SUCCESS);
    assert_eq!(reason(&mut bench).await, "the consumer gave it up; its group consumes in order");
    bench.stop().await;
}

/// Bodies of what group g is given of its retry topic, having the condition price > 10 for topic T.
async fn retried_by_condition(filter_retries: bool) -> Vec<String> {
    let settings = SettingValues { sql_filter: true, filter_retries, ..SettingValues::default() };
    let plan = BrokerPlan { settings, ..plan() };
    let mut bench = Bench::start(plan, &MemoryFiles::new(), &Metadata::temporary().unwrap()).await;
    let subscribed =
        |topic: &str, expression: &str, kind: &str| SubscriptionData::build(topic, expression, kind).unwrap();
    let consumer = ConsumerData {
        group_name: "g".into(),
        subscription_data_set: vec![subscribed("T", "price > 10", SQL92), subscribed("%RETRY%g", "*", "TAG")],
        ..ConsumerData::default()
    };
    let beat =
        HeartbeatData { client_id: "c".into(), consumer_data_set: vec![consumer], ..Default::default() };
    assert_eq!(bench.code(request(RequestCode::HEART_BEAT).json(&beat)).await, ResponseCode::SUCCESS);
    for (origin, price) in [("T", "5"), ("T", "20"), ("U", "5")] {
        let text = properties::encode([(property::RETRY_TOPIC, origin), ("price", price)]);
        let retried = own_retry(1).field("i", str::from_utf8(&text).unwrap());
        let body = format!("{origin} {price}");
        assert_eq!(bench.code(retried.body(body)).await, ResponseCode::SUCCESS);
    }
    let mut bodies = Vec::new();
    while bodies.last().is_none_or(|last| last != "U 5") {
        bodies = bench.bodies("%RETRY%g").await;
    }
    bench.stop().await;
    bodies
}

#[actix::test]
async fn retried_messages_satisfy_the_condition_of_their_topic_again_where_that_is_asked_for() {
    assert_eq!(retried_by_condition(true).await, ["T 20", "U 5"]);
    assert_eq!(retried_by_condition(false).await, ["T 5", "T 20", "U 5"]);
}
