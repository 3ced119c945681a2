//! Messages that wait for a time of their own, in a broker that is killed. After each of several crashes:
//!
//! 1. None comes before its time, whatever life it was sent in.
//! 2. Every message whose send was answered comes, once.
//! 3. What was recalled does not come.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures::future::join_all;
use telstar::client::Call;
use telstar::clock::{Clock, SystemClock};
use telstar::protocol::header::*;
use telstar::protocol::request_code::RequestCode;

use crate::support::*;

const LIVES: u64 = 4;
const LIVES_PER_STORE: u64 = 10;
const OF_LIFE: u64 = 120;
const SETTINGS: [&str; 3] = [
    "store.commit_log_segment_bytes=131072",
    "message.max_body_bytes=65536",
    "store.check_point_interval_ms=100",
];

struct Sent {
    body: String,
    due_ms: i64,
    /// None where a slow machine took it only when it was due.
    handle: Option<String>,
}

/// `CRASH_ROUNDS=1000 cargo test --test whole killed` kills it more often.
#[tokio::test]
async fn pending_timers_survive_being_killed_and_come_once() {
    let mut left = crash_rounds(LIVES);
    while left > 0 {
        let lives = left.min(LIVES_PER_STORE);
        crash_one_store(lives).await;
        left -= lives;
    }
}

async fn crash_one_store(lives: u64) {
    let dir = temp_dir();
    let mut sent = Vec::new();
    let mut recalled = HashSet::new();
    for life in 0..lives {
        let broker = Broker::start(dir.path(), &SETTINGS).await;
        let client = broker.client().await;
        if life == 0 {
            client.create_topic("later", 1).await;
        }
        let now_ms = SystemClock.now().0;
        let sends = (0..OF_LIFE).map(|n| {
            // Some are due in this life, some in later ones.
            let due_ms = now_ms + 50 + (n * 37 % 2_400) as i64;
            let body = format!("{life}-{n}");
            let client = &client;
            async move {
                let send = Send::to("later", 0, body.clone())
                    .with("UNIQ_KEY", &body)
                    .with("TIMER_DELIVER_MS", &due_ms.to_string());
                let answer = client.call(send.call()).await.success().expect("it is stored");
                let handle = answer.fields.get("recallHandle").map(str::to_owned);
                Sent { body, due_ms, handle }
            }
        });
        let of_life = join_all(sends).await;
        for taken_back in of_life.iter().filter(|sent| sent.due_ms > now_ms + 2_000).step_by(3) {
            let Some(recall_handle) = taken_back.handle.clone() else { continue };
            let recall = RecallMessage { producer_group: None, topic: "later".into(), recall_handle };
            let answer = client.call(Call::new(RequestCode::RECALL_MESSAGE).header(&recall)).await;
            // A slow machine may have been too late, and is told so.
            if answer.success().is_ok() {
                recalled.insert(taken_back.body.clone());
            }
        }
        sent.extend(of_life);
        tokio::time::sleep(Duration::from_millis(300 + life % 4 * 150)).await; // the life of this broker is so long
        broker.kill();
    }
    let broker = Broker::start(dir.path(), &SETTINGS).await;
    let client = broker.client().await;
    let expected = sent.len() - recalled.len();
    let delivered = client.pull_all("later", 0, expected).await;
    let due: HashMap<&str, i64> = sent.iter().map(|sent| (sent.body.as_str(), sent.due_ms)).collect();
    let mut seen = HashSet::new();
    for message in &delivered {
        let body = std::str::from_utf8(&message.body).unwrap();
        assert!(message.stored_at_ms >= due[body], "{body} came early");
        assert!(seen.insert(body.to_owned()), "{body} came twice");
        assert!(!recalled.contains(body), "{body} was recalled");
    }
    assert_eq!(seen.len(), expected, "all came");
    assert!(!recalled.is_empty(), "some were recalled");
    broker.stop();
}

#[tokio::test]
async fn timers_are_derived_again_when_their_files_are_taken_away() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &SETTINGS).await;
    let client = broker.client().await;
    client.create_topic("later", 1).await;
    for (body, delay_ms) in [("soon", "1"), ("much later", "600000"), ("later", "600000")] {
        let send = Send::to("later", 0, body).with("UNIQ_KEY", body).with("TIMER_DELAY_MS", delay_ms);
        client.send(send).await;
    }
    assert_eq!(client.pull_all("later", 0, 1).await[0].body, "soon");
    assert!(broker.stop().success());
    std::fs::remove_dir_all(dir.path().join("data/timer")).unwrap();
    let broker = Broker::start(dir.path(), &SETTINGS).await;
    let client = broker.client().await;
    let list = ListTimersHeader {
        from_ms: 0,
        to_ms: i64::MAX,
        from_offset: 0,
        topic: Some("later".into()),
        key: None,
        max: 10,
    };
    let call = Call::new(RequestCode::LIST_TIMERS).header(&list);
    let listed: telstar::protocol::body::timers::TimerList = client.call(call).await.json().unwrap();
    let keys: Vec<_> = listed.timers.iter().map(|timer| timer.unique_key.as_str()).collect();
    assert_eq!(keys, ["much later", "later"], "the delivered one is not among them");
    broker.stop();
}
