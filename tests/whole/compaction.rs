//! Topics of which only the latest message of each key is kept.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use telstar::protocol::request_code::RequestCode;
use telstar::protocol::response_code::ResponseCode;

use crate::support::*;

/// Files of ten messages.
const SMALL: [&str; 2] = ["compaction.segment_bytes=4096", "compaction.index_bytes=644"];
const OFTEN: &str = "compaction.interval_ms=100";
const NEVER: &str = "compaction.interval_ms=86400000";
const KEYS: usize = 10;

async fn start(dir: &Path, more: &[&str]) -> Broker {
    Broker::start(dir, &[&SMALL[..], more].concat()).await
}

async fn create(client: &Client, topic: &str) {
    client.create_topic_with(topic, 1, Some("+cleanup.policy=COMPACTION")).await;
}

/// Sends a message of each key for each of `rounds`.
async fn send_rounds(client: &Client, topic: &str, rounds: std::ops::Range<usize>) {
    for round in rounds {
        for key in 0..KEYS {
            let body = format!("{round} {}", "x".repeat(200));
            client.send(Send::to(topic, 0, body).with("KEYS", &format!("k{key}"))).await;
        }
    }
}

/// Every message that is shown: the body's first word by key, and how many messages there were.
async fn table(client: &Client, topic: &str) -> (BTreeMap<String, String>, usize) {
    let (mut table, mut count, mut offset) = (BTreeMap::new(), 0, 0);
    loop {
        let pulled = client.pull(&pull_from(topic, 0, offset)).await;
        if pulled.header.next_begin_offset == pulled.header.max_offset && pulled.messages.is_empty() {
            return (table, count);
        }
        for message in &pulled.messages {
            assert!(message.queue_offset.0 as i64 >= offset, "messages come in their order");
            let key = property(message, "KEYS").unwrap().to_owned();
            match std::str::from_utf8(&message.body).unwrap().split_whitespace().next() {
                Some(word) => table.insert(key, word.to_owned()),
                None => table.remove(&key),
            };
        }
        count += pulled.messages.len();
        offset = pulled.header.next_begin_offset;
    }
}

fn all_say(round: usize) -> BTreeMap<String, String> {
    (0..KEYS).map(|key| (format!("k{key}"), round.to_string())).collect()
}

/// Waits until the queue begins behind its first messages: it was rewritten.
async fn await_begin(client: &Client, topic: &str, behind: i64) {
    while client.offset_of(RequestCode::GET_MIN_OFFSET, topic, 0).await <= behind {}
}

#[tokio::test]
async fn compacted_topic_keeps_the_latest_message_of_each_key() {
    let dir = temp_dir();
    let log = [
        OFTEN,
        "store.commit_log_segment_bytes=1048576",
        "message.max_body_bytes=500000",
        "retention.max_log_bytes=2097152",
        "retention.check_interval_ms=100",
    ];
    let broker = start(dir.path(), &log).await;
    let client = broker.client().await;
    create(&client, "state").await;
    send_rounds(&client, "state", 0..20).await;
    await_begin(&client, "state", 170).await;
    let (latest, count) = table(&client, "state").await;
    assert_eq!(latest, all_say(19));
    assert!(count < 40, "{count} of 200 messages are left");
    assert_eq!(client.offset_of(RequestCode::GET_MAX_OFFSET, "state", 0).await, 200, "numbers stay");
    let early = client.pull(&pull_from("state", 0, 3)).await;
    assert_eq!(early.code, ResponseCode::SUCCESS, "what was before is passed");
    let beyond = client.pull(&pull_from("state", 0, 500)).await;
    assert_eq!((beyond.code, beyond.header.next_begin_offset), (ResponseCode::PULL_OFFSET_MOVED, 200));

    // A message without a body takes its key away.
    client.send(Send::to("state", 0, Bytes::new()).with("KEYS", "k3")).await;
    let mut left = all_say(19);
    left.remove("k3");
    client.pull_all("state", 0, 1).await;
    assert_eq!(table(&client, "state").await.0, left);

    // The log goes, and what is kept by key stays.
    let body = "x".repeat(400_000);
    for _ in 0..12 {
        client.send(Send::to("other", 0, body.clone())).await;
    }
    await_begin(&client, "other", 3).await;
    assert_eq!(table(&client, "state").await.0, left);
    assert!(broker.stop().success());

    let broker = start(dir.path(), &log).await;
    let client = broker.client().await;
    assert_eq!(table(&client, "state").await.0, left);
    send_rounds(&client, "state", 20..30).await;
    await_begin(&client, "state", 250).await;
    assert_eq!(table(&client, "state").await.0, all_say(29));
    broker.kill();
    let broker = start(dir.path(), &log).await;
    assert_eq!(table(&broker.client().await, "state").await.0, all_say(29));
}

#[tokio::test]
async fn message_without_a_key_is_refused_with_the_cause() {
    let dir = temp_dir();
    let broker = start(dir.path(), &[]).await;
    let client = broker.client().await;
    create(&client, "state").await;
    for send in [Send::to("state", 0, "x"), Send::to("state", 0, "x").with("KEYS", " ").with("DELAY", "1")] {
        let (code, remark) = client.refused(send.call()).await;
        assert!(code == 13 && remark.contains("set the property KEYS"), "{code} {remark}");
    }
    assert_eq!(client.offset_of(RequestCode::GET_MAX_OFFSET, "state", 0).await, 0, "nothing is stored");
    let (code, remark) = client.refused(Send::to("plain", 0, Bytes::new()).with("KEYS", "k").call()).await;
    assert!(code == 13 && remark.contains("body is empty"), "only compacted topics take such: {remark}");
}

#[tokio::test]
async fn rewriting_that_is_killed_at_any_step_leaves_the_old_or_the_new() {
    let points = [
        "compaction.rewriting:1",
        "compaction.swap_written:1",
        "compaction.swap_told:1",
        "compaction.segment_came:1",
        "compaction.segment_came:2",
        "compaction.swapped:1",
    ];
    for point in points {
        let dir = temp_dir();
        let broker = start(dir.path(), &[NEVER]).await;
        let client = broker.client().await;
        create(&client, "state").await;
        send_rounds(&client, "state", 0..12).await;
        assert!(broker.stop().success());
        let doomed = Broker::start_doomed(dir.path(), &[&SMALL[..], &[OFTEN]].concat(), Some(point)).await;
        if let Ok(mut doomed) = doomed {
            assert!(!doomed.wait().success(), "{point}: {}", doomed.logged());
            assert!(doomed.logged().contains(&format!("killed at {}", point.split(':').next().unwrap())));
        }
        let broker = start(dir.path(), &[NEVER]).await;
        let client = broker.client().await;
        assert_eq!(table(&client, "state").await.0, all_say(11), "{point}");
        send_rounds(&client, "state", 12..14).await;
        assert!(broker.stop().success());
        let broker = start(dir.path(), &[OFTEN]).await;
        let client = broker.client().await;
        await_begin(&client, "state", 0).await;
        assert_eq!(table(&client, "state").await.0, all_say(13), "{point}");
    }
}
