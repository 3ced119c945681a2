//! A disk that loses bits in the middle of the log: what is damaged is named, everything else is read, numbers stay.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use telstar::protocol::message::StoredMessage;

use crate::support::*;

/// Nothing is flushed by a check point before the kill, so all is verified after it.
const SETTINGS: [&str; 2] = ["store.commit_log_segment_bytes=131072", "message.max_body_bytes=65536"];
const UNCHECKED: [&str; 3] = [SETTINGS[0], SETTINGS[1], "store.check_point_interval_ms=600000"];

async fn fill(broker: &Broker) -> Vec<StoredMessage> {
    let client = broker.client().await;
    client.create_topic("orders", 1).await;
    for n in 0..60 {
        client.send(Send::to("orders", 0, format!("{n:05000}")).with("KEYS", &format!("k{n}"))).await;
    }
    client.pull_all("orders", 0, 60).await
}

fn segment(dir: &Path, position: u64) -> (PathBuf, u64) {
    let base = position / 131_072 * 131_072;
    (dir.join(format!("data/commitlog/{base:020}")), position - base)
}

/// Writes over `len` bytes of the log.
fn rot(dir: &Path, position: u64, len: usize) {
    let (path, at) = segment(dir, position);
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(&vec![0x5A; len], at).unwrap();
}

/// All that can be pulled, from number 0 on, however many answers that takes.
async fn pull_on(client: &Client, end: i64) -> Vec<StoredMessage> {
    let (mut messages, mut offset) = (Vec::new(), 0);
    while offset < end {
        let pulled = client.pull(&pull_from("orders", 0, offset)).await;
        assert!(pulled.header.next_begin_offset > offset, "the queue goes on behind {offset}");
        offset = pulled.header.next_begin_offset;
        messages.extend(pulled.messages);
    }
    messages
}

fn numbers(messages: &[StoredMessage]) -> Vec<u64> {
    messages.iter().map(|message| message.queue_offset.0).collect()
}

#[tokio::test]
async fn damage_found_by_recovery_is_named_and_costs_the_damaged_messages_only() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &UNCHECKED).await;
    let stored = fill(&broker).await;
    broker.kill();
    // A body, a head with its length, and two records in one.
    let at = |n: usize| stored[n].physical_offset.0;
    rot(dir.path(), at(7) + 200, 10);
    rot(dir.path(), at(20), 60);
    rot(dir.path(), at(41) - 400, 450);
    let lost = [7, 20, 40, 41];
    for _ in 0..2 {
        let broker = Broker::start(dir.path(), &UNCHECKED).await;
        let client = broker.client().await;
        let expected: Vec<u64> = (0..60).filter(|n| !lost.contains(n)).collect();
        assert_eq!(numbers(&pull_on(&client, 60).await), expected);
        assert_eq!(client.find_by_key("orders", "k50").await.len(), 1);
        let logged = broker.logged();
        for n in [7, 20, 40] {
            let (path, byte) = segment(dir.path(), at(n));
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(logged.contains(&format!("{name} at byte {byte}")), "{n} in {logged}");
        }
        broker.kill();
    }
    let broker = Broker::start(dir.path(), &UNCHECKED).await;
    assert_eq!(broker.client().await.send(Send::to("orders", 0, "next")).await.queue_offset, 60);
}

#[tokio::test]
async fn pull_steps_over_what_was_damaged_later() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &SETTINGS).await;
    let stored = fill(&broker).await;
    assert!(broker.stop().success());
    rot(dir.path(), stored[9].physical_offset.0, 40);
    let broker = Broker::start(dir.path(), &SETTINGS).await;
    let messages = pull_on(&broker.client().await, 60).await;
    assert_eq!(numbers(&messages), (0..60).filter(|n| *n != 9).collect::<Vec<_>>());
    assert!(broker.logged().contains("damaged record left out of a pull"));
}

#[tokio::test]
async fn offline_tools_find_what_is_wrong_and_the_next_start_mends_what_is_derived() {
    let dir = temp_dir();
    let data = dir.path().join("data");
    let data_arg = data.to_str().unwrap();
    let broker = Broker::start(dir.path(), &SETTINGS).await;
    let stored = fill(&broker).await;
    let (status, _, error) = run_words(&["store", "verify", data_arg]);
    assert!(status == 1 && error.contains("is in use"), "{error}");
    assert!(broker.stop().success());
    let (status, output, error) = run_words(&["store", "verify", data_arg]);
    assert_eq!((status, error.as_str()), (0, ""), "{output}");
    assert!(output.contains("records    60\n") && output.contains("problems   0\n"), "{output}");

    let (status, output, _) = run_words(&["store", "dump", data_arg, "--topic", "orders", "--limit", "2"]);
    assert_eq!((status, output.lines().count()), (0, 2), "{output}");
    assert!(output.contains(r#""queueOffset":1"#) && !output.contains(r#""body""#), "{output}");

    // A unit that points elsewhere, and a record that is none.
    let queue = data.join("consumequeue/orders/0/00000000000000000000");
    OpenOptions::new().write(true).open(&queue).unwrap().write_all_at(&[0, 0, 0, 1], 25 * 20 + 4).unwrap();
    rot(dir.path(), stored[3].physical_offset.0 + 4, 4);
    let (status, output, _) = run_words(&["store", "verify", data_arg, "-o", "json"]);
    assert_eq!(status, 1);
    let report: serde_json::Value = serde_json::from_str(&output).unwrap();
    let findings = report["findings"].to_string();
    assert!(findings.contains("unit 25 points at") && findings.contains("bytes are damaged"), "{findings}");

    let (_, output, _) = run_words(&["store", "repair", data_arg, "--dry-run"]);
    assert!(output.contains("derive topic orders, queue 0 again") && queue.exists(), "{output}");
    let (status, ..) = run_words(&["store", "repair", data_arg, "--yes"]);
    assert!(status == 0 && !queue.exists());
    let broker = Broker::start(dir.path(), &SETTINGS).await;
    let client = broker.client().await;
    let messages = pull_on(&client, 60).await;
    assert_eq!(numbers(&messages), (0..60).filter(|n| *n != 3).collect::<Vec<_>>());
    assert_eq!(client.find_by_key("orders", "k25").await.len(), 1);
    assert!(broker.stop().success());

    // Everything that is derived, whether something is wrong with it or not.
    let index = data.join("index");
    let (status, output, _) = run_words(&["store", "repair", data_arg, "--all", "--yes"]);
    assert!(status == 0 && !queue.exists(), "{output}");
    assert!(std::fs::read_dir(&index).map_or(true, |mut files| files.next().is_none()), "{output}");
    let broker = Broker::start(dir.path(), &SETTINGS).await;
    let client = broker.client().await;
    assert_eq!(numbers(&pull_on(&client, 60).await), (0..60).filter(|n| *n != 3).collect::<Vec<_>>());
    assert_eq!(client.find_by_key("orders", "k25").await.len(), 1);
}
