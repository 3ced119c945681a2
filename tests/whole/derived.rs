//! What happens when derived files are taken away, or cut, while nothing runs: the next start derives them again
//! before it serves. After each, all messages are there under their numbers, keys are found, and numbers go on.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use telstar::client::Call;
use telstar::protocol::header::{PULL_SUSPEND, TopicHeader};
use telstar::protocol::request_code::RequestCode;
use tokio::time::timeout;

use crate::support::*;

/// Enough for three files of each queue and of the index.
const SETTINGS: [&str; 5] = [
    "store.commit_log_segment_bytes=131072",
    "message.max_body_bytes=65536",
    "store.consume_queue_segment_units=64",
    "store.index_slots=50",
    "store.index_entries=200",
];
const TOPICS: [&str; 2] = ["orders", "invoices"];
const QUEUES: i32 = 2;
const MESSAGES: usize = 150;

fn key_of(topic: &str, queue_id: i32, n: usize) -> String {
    format!("{topic}-{queue_id}-{n}")
}

async fn fill(client: &Client) {
    for topic in TOPICS {
        client.create_topic(topic, QUEUES).await;
        for queue_id in 0..QUEUES {
            for n in 0..MESSAGES {
                let key = key_of(topic, queue_id, n);
                client.send(Send::to(topic, queue_id, key.clone()).with("KEYS", &key)).await;
            }
        }
    }
}

async fn check_all(broker: &Broker, case: &str) {
    let client = broker.client().await;
    for topic in TOPICS {
        for queue_id in 0..QUEUES {
            let messages = client.pull_all(topic, queue_id, 0).await;
            assert_eq!(messages.len(), MESSAGES, "{case}: {topic} {queue_id}");
            for (n, message) in messages.iter().enumerate() {
                assert_eq!(message.queue_offset.0, n as u64, "{case}: {topic} {queue_id}");
                assert_eq!(message.body, key_of(topic, queue_id, n), "{case}");
            }
            for n in (0..MESSAGES).step_by(37) {
                let found = client.find_by_key(topic, &key_of(topic, queue_id, n)).await;
                let positions: Vec<_> = found.iter().map(|message| message.physical_offset).collect();
                assert_eq!(positions, [messages[n].physical_offset], "{case}: key {n} of {topic} {queue_id}");
            }
        }
    }
}

/// A store with every message stored, not running. After a kill its queues have all their files, which the check point
/// has them write, and nothing else is sure.
async fn filled(clean: bool) -> tempfile::TempDir {
    let dir = temp_dir();
    let settings = [&SETTINGS[..], &["store.check_point_interval_ms=100"]].concat();
    let broker = Broker::start(dir.path(), if clean { &SETTINGS } else { &settings }).await;
    fill(&broker.client().await).await;
    if clean {
        assert!(broker.stop().success());
    } else {
        timeout(PATIENCE, files_written(&dir.path().join("data"))).await.expect("a check point is taken");
        broker.kill();
    }
    dir
}

/// Waits for three files of each queue.
async fn files_written(data: &Path) {
    let queues = TOPICS.into_iter().flat_map(|topic| (0..QUEUES).map(move |id| format!("{topic}/{id}")));
    let dirs: Vec<_> = queues.map(|queue| data.join("consumequeue").join(queue)).collect();
    while !dirs.iter().all(|dir| dir.exists() && files_in(dir).len() == 3) {
        // Nobody tells of it: look again soon.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn cut(file: &Path, len: u64) {
    OpenOptions::new().write(true).open(file).unwrap().set_len(len).unwrap();
}

/// Zeros of the same length.
fn blank(file: &Path) {
    let len = fs::metadata(file).unwrap().len();
    cut(file, 0);
    cut(file, len);
}

type Harm = fn(&Path);

/// What a hand may do to the files in the data directory.
const HARMS: [(&str, Harm); 12] = [
    ("all consume queues", |data| fs::remove_dir_all(data.join("consumequeue")).unwrap()),
    ("one topic", |data| fs::remove_dir_all(data.join("consumequeue/orders")).unwrap()),
    ("one queue", |data| fs::remove_dir_all(data.join("consumequeue/orders/1")).unwrap()),
    ("a first segment", |data| fs::remove_file(&files_in(&data.join("consumequeue/orders/0"))[0]).unwrap()),
    ("a middle segment", |data| fs::remove_file(&files_in(&data.join("consumequeue/orders/0"))[1]).unwrap()),
    ("a last segment", |data| fs::remove_file(&files_in(&data.join("consumequeue/orders/0"))[2]).unwrap()),
    ("a last segment cut", |data| cut(&files_in(&data.join("consumequeue/invoices/0"))[2], 105)),
    ("a last segment zeroed", |data| blank(&files_in(&data.join("consumequeue/invoices/0"))[2])),
    ("all of the index", |data| fs::remove_dir_all(data.join("index")).unwrap()),
    ("a middle file of the index", |data| fs::remove_file(&files_in(&data.join("index"))[1]).unwrap()),
    ("a last file of the index zeroed", |data| blank(files_in(&data.join("index")).last().unwrap())),
    ("all that is derived", |data| {
        fs::remove_dir_all(data.join("consumequeue")).unwrap();
        fs::remove_dir_all(data.join("index")).unwrap();
    }),
];

#[tokio::test]
async fn derived_files_that_are_gone_after_a_clean_stop_are_derived_again() {
    let dir = filled(true).await;
    let data = dir.path().join("data");
    for (case, harm) in HARMS {
        harm(&data);
        let broker = Broker::start(dir.path(), &SETTINGS).await;
        check_all(&broker, case).await;
        assert!(broker.stop().success(), "{case}");
    }
    let before = fs::read_to_string(dir.path().join("stderr.txt")).unwrap();
    let broker = Broker::start(dir.path(), &SETTINGS).await;
    let logged = broker.logged();
    assert!(
        !logged[before.len()..].contains("derived from the log"),
        "a whole store is left alone: {logged}"
    );
    let client = broker.client().await;
    let sent = client.send(Send::to("orders", 1, "next")).await;
    assert_eq!(sent.queue_offset, MESSAGES as i64);
}

#[tokio::test]
async fn derived_files_that_are_gone_after_a_kill_are_derived_again() {
    for (case, harm) in HARMS.into_iter().step_by(3) {
        let dir = filled(false).await;
        harm(&dir.path().join("data"));
        let broker = Broker::start(dir.path(), &SETTINGS).await;
        check_all(&broker, case).await;
        let sent = broker.client().await.send(Send::to("orders", 1, "next")).await;
        assert_eq!(sent.queue_offset, MESSAGES as i64, "{case}");
    }
}

#[tokio::test]
async fn messages_of_a_topic_that_was_deleted_do_not_come_back_with_its_name() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &SETTINGS).await;
    let client = broker.client().await;
    client.create_topic("orders", 1).await;
    for n in 0..20 {
        client.send(Send::to("orders", 0, format!("old {n}"))).await;
    }
    assert_eq!(client.pull_all("orders", 0, 0).await.len(), 20);
    let delete = TopicHeader { topic: "orders".into() };
    let deleted = client.call(Call::new(RequestCode::DELETE_TOPIC_IN_BROKER).header(&delete)).await;
    deleted.success().expect("the topic is deleted");
    client.create_topic("orders", 1).await;
    for n in 0..5 {
        client.send(Send::to("orders", 0, format!("new {n}"))).await;
    }
    assert!(broker.stop().success());
    fs::remove_dir_all(dir.path().join("data/consumequeue")).unwrap();

    let broker = Broker::start(dir.path(), &SETTINGS).await;
    let messages = broker.client().await.pull_all("orders", 0, 0).await;
    let bodies: Vec<_> = messages.iter().map(|message| message.body.clone()).collect();
    assert_eq!(bodies, ["new 0", "new 1", "new 2", "new 3", "new 4"]);
}

#[tokio::test]
async fn queue_whose_messages_are_all_gone_keeps_its_numbers() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &SETTINGS).await;
    let client = broker.client().await;
    client.create_topic("old", 1).await;
    client.create_topic("new", 1).await;
    for n in 0..9 {
        client.send(Send::to("old", 0, format!("{n}"))).await;
    }
    for n in 0..40 {
        client.send(Send::to("new", 0, vec![b'x'; 8_000 + n])).await;
    }
    assert!(broker.stop().success());
    // As retention would have it: the first segment has expired. And a hand takes the queue.
    fs::remove_file(&files_in(&dir.path().join("data/commitlog"))[0]).unwrap();
    fs::remove_dir_all(dir.path().join("data/consumequeue/old")).unwrap();
    for start in 0..3 {
        let broker = Broker::start(dir.path(), &SETTINGS).await;
        if start == 2 {
            let client = broker.client().await;
            assert_eq!(client.send(Send::to("old", 0, "on")).await.queue_offset, 9);
            let mut pull = pull_from("old", 0, 9);
            pull.sys_flag |= PULL_SUSPEND;
            pull.suspend_timeout_ms = 10_000;
            assert_eq!(client.pull(&pull).await.messages[0].body, "on");
        }
        assert!(broker.stop().success());
    }
}

#[tokio::test]
async fn sizes_that_do_not_fit_the_files_are_refused_by_name_and_nothing_is_lost() {
    let dir = filled(false).await;
    for (setting, key, found) in [
        ("store.consume_queue_segment_units=500", "store.consume_queue_segment_units", "64 units"),
        ("store.index_entries=300", "store.index_slots and store.index_entries", "50 slots and 200 entries"),
    ] {
        let mut settings = SETTINGS.to_vec();
        settings.push(setting);
        let (status, _, error) = run(&start_args(&dir.path().join("data"), &settings));
        assert_eq!(status, 10, "{error}");
        assert!(error.contains(key) && error.contains(found), "{error}");
    }
    let broker = Broker::start(dir.path(), &SETTINGS).await;
    check_all(&broker, "after refusals").await;
    assert!(broker.stop().success());
    // Without the files the size may be chosen anew.
    fs::remove_dir_all(dir.path().join("data/consumequeue")).unwrap();
    let mut settings = SETTINGS.to_vec();
    settings.push("store.consume_queue_segment_units=100");
    check_all(&Broker::start(dir.path(), &settings).await, "other segments").await;
}
