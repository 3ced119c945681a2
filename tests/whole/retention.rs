//! How messages go: by age, by size of the log, by the retention of their topic.

use telstar::client::Call;
use telstar::protocol::header::*;
use telstar::protocol::request_code::RequestCode;

use crate::support::*;

async fn set_retention(client: &Client, topic: &str, change: &str) {
    client.create_topic_with(topic, 1, Some(change)).await;
}

#[tokio::test]
async fn messages_older_than_the_retention_of_their_topic_are_shown_by_nobody() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &["retention.check_interval_ms=100"]).await;
    let client = broker.client().await;
    set_retention(&client, "orders", "+retention.ms=86400000").await;
    let stored = client.send(Send::to("orders", 0, "old").with("KEYS", "k")).await;
    client.send(Send::to("other", 0, "old").with("KEYS", "k")).await;
    assert_eq!(client.pull_all("orders", 0, 1).await.len(), 1);
    assert_eq!(client.pull_all("other", 0, 1).await.len(), 1);
    // The key index follows the log a moment later.
    while client.find_by_key("other", "k").await.is_empty() {}
    let commit = UpdateConsumerOffset {
        consumer_group: "cg".into(),
        topic: "orders".into(),
        queue_id: Some(0),
        commit_offset: Some(0),
    };
    client.call(Call::new(RequestCode::UPDATE_CONSUMER_OFFSET).header(&commit)).await.success().unwrap();

    // A millisecond: it is over before the answer is read.
    set_retention(&client, "orders", "+retention.ms=1").await;
    while client.offset_of(RequestCode::GET_MIN_OFFSET, "orders", 0).await == 0 {}
    assert_eq!(client.offset_of(RequestCode::GET_MIN_OFFSET, "orders", 0).await, 1);
    assert_eq!(client.offset_of(RequestCode::GET_MAX_OFFSET, "orders", 0).await, 1, "the numbering goes on");
    let pulled = client.pull(&pull_from("orders", 0, 0)).await;
    assert_eq!((pulled.messages.len(), pulled.header.next_begin_offset), (0, 1));
    assert!(client.find_by_key("orders", "k").await.is_empty());
    assert_eq!(client.find_by_key("other", "k").await.len(), 1);
    let id = stored.msg_id.to_string();
    let offset = i64::from_str_radix(&id[id.len() - 16..], 16).expect("an id ends in a position");
    let view = Call::new(RequestCode::VIEW_MESSAGE_BY_ID).header(&ViewMessage { offset });
    assert_eq!(client.refused(view).await.0, 1);
    broker.logs("messages were deleted that the group had not consumed").await;
    let (status, shown, error) = run_words(&["group", "show", "cg", "-n", &broker.name_server]);
    assert_eq!((status, error.as_str()), (0, ""));
    let row = shown.lines().find(|line| line.starts_with("deleted unconsumed")).unwrap_or_default();
    assert_eq!(row.split_whitespace().last(), Some("1"), "{shown}");

    let (code, remark) = client
        .refused(Call::new(RequestCode::UPDATE_AND_CREATE_TOPIC).header(&CreateTopic {
            topic: "orders".into(),
            default_topic: "TBW102".into(),
            read_queue_nums: 1,
            write_queue_nums: 1,
            perm: 6,
            topic_filter_type: "SINGLE_TAG".into(),
            topic_sys_flag: 0,
            order: false,
            attributes: Some("+retention.ms=0".into()),
        }))
        .await;
    assert!(code == 1 && remark.contains("range"), "{code} {remark}");
}

#[tokio::test]
async fn a_log_over_its_size_loses_what_is_consumed_and_keeps_the_rest() {
    let dir = temp_dir();
    let small = [
        "store.commit_log_segment_bytes=1048576",
        "message.max_body_bytes=500000",
        "retention.max_log_bytes=2097152",
        "retention.check_interval_ms=100",
    ];
    let broker = Broker::start(dir.path(), &small).await;
    let client = broker.client().await;
    client.create_topic("orders", 1).await;
    client.pull(&pull_from("orders", 0, 0)).await; // the group is there from its first request on
    let commit = |offset| {
        Call::new(RequestCode::UPDATE_CONSUMER_OFFSET).header(&UpdateConsumerOffset {
            consumer_group: "cg".into(),
            topic: "orders".into(),
            queue_id: Some(0),
            commit_offset: Some(offset),
        })
    };
    client.call(commit(0)).await.success().unwrap(); // from now on it holds what it has not consumed
    let body = "x".repeat(400_000);
    for _ in 0..9 {
        client.send(Send::to("orders", 0, body.clone())).await;
    }
    assert_eq!(client.pull_all("orders", 0, 9).await.len(), 9);
    // Two messages in each file; the group has done with the first file and half of the second.
    client.call(commit(3)).await.success().unwrap();
    while client.offset_of(RequestCode::GET_MIN_OFFSET, "orders", 0).await < 2 {}
    // A round that finds nothing more to delete is over when this one has been answered.
    client.call(Call::new(RequestCode::DELETE_EXPIRED_COMMITLOG)).await.success().unwrap();
    assert_eq!(client.offset_of(RequestCode::GET_MIN_OFFSET, "orders", 0).await, 2);
    client.call(commit(9)).await.success().unwrap();
    while client.offset_of(RequestCode::GET_MIN_OFFSET, "orders", 0).await < 6 {}
    let pulled = client.pull(&pull_from("orders", 0, 0)).await;
    assert_eq!((pulled.messages.len(), pulled.header.next_begin_offset), (0, 6));
    let trimmed = client.call(Call::new(RequestCode::CLEAN_EXPIRED_CONSUMEQUEUE)).await.success().unwrap();
    assert!(trimmed.remark.unwrap_or_default().contains("queues were looked through"));
    let log = broker.logged();
    assert!(!log.contains("had not consumed"), "{log}");
}
