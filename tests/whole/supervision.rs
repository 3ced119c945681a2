//! What follows when a part of the broker fails; ARCHITECTURE.md has the table.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use telstar::client::{ConnectOptions, Servers};

use crate::support::*;

/// What was acknowledged is there after the next start.
async fn kept(dir: &Path, acknowledged: i64) {
    let again = Broker::start(dir, &[]).await;
    let next = again.client().await.send(Send::to("orders", 0, "after")).await.queue_offset;
    assert!(next >= acknowledged, "{next} of {acknowledged}");
    assert!(again.stop().success());
}

/// Sends until nobody answers any more; how many were acknowledged.
async fn send_until_it_ends(broker: &Broker) -> i64 {
    let client = broker.client().await;
    let mut acknowledged = 0;
    while let Ok(answer) = client.connection.call(Send::to("orders", 0, "x").call(), PATIENCE).await {
        // A broker that fails may still say that it does.
        acknowledged += i64::from(answer.success().is_ok());
    }
    acknowledged
}

#[tokio::test]
async fn actor_that_panics_ends_the_process_and_tells_what_it_was_at() {
    let dir = temp_dir();
    let point = Some(("PANIC_POINT", "queue.units_written:4"));
    let broker = Broker::start_with(dir.path(), &["store.flush_mode=sync"], point).await.unwrap();
    let acknowledged = send_until_it_ends(&broker).await;
    let (status, log) = broker.failed();
    assert_eq!(status, Some(15), "{log}");
    let told = [
        "TopicQueue orders/0 was at Dispatched\n",
        "it had handled SendMessages in ",
        "it had handled BatchAppended in ",
    ];
    for line in told
        .iter()
        .chain(&["telstar: TopicQueue orders/0 panicked; the store is checked at the next start\n"])
    {
        assert!(log.contains(line), "{line} in {log}");
    }
    kept(dir.path(), acknowledged).await;
}

#[tokio::test]
async fn flush_that_fails_ends_the_process_and_nothing_is_promised_after_it() {
    let dir = temp_dir();
    let point = Some(("FAIL_POINT", "log.flush:3"));
    let broker = Broker::start_with(dir.path(), &["store.flush_mode=sync"], point).await.unwrap();
    let acknowledged = send_until_it_ends(&broker).await;
    let (status, log) = broker.failed();
    assert_eq!(status, Some(12), "{log}");
    assert!(log.contains("telstar: the disk failed: "), "{log}");
    assert!(log.contains("told to fail at log.flush"), "{log}");
    kept(dir.path(), acknowledged).await;
}

#[tokio::test]
async fn broker_is_known_again_to_a_name_server_that_was_away() {
    let server = telstar::Broker::builder().name_server_only();
    let away = server.clone().start().unwrap();
    let addr = away.name_server().unwrap();
    let broker = telstar::Broker::builder().name("a").broker_only(addr).start().unwrap();
    let known = async || {
        let servers = Servers::new(&addr.to_string(), ConnectOptions::default(), PATIENCE);
        let masters = { servers }.masters(None).await;
        masters.is_ok_and(|masters| masters.iter().any(|master| &*master.broker_name == "a"))
    };
    assert!(known().await);
    away.stop().unwrap();
    assert!(!known().await);

    let back = server.set("name_server.listen", addr).start().unwrap();
    let begun = Instant::now();
    while !known().await {
        assert!(begun.elapsed() < PATIENCE, "nobody has told it");
        tokio::time::sleep(Duration::from_millis(20)).await; // nobody tells when somebody registers
    }
    let served_at = broker.broker().expect("it is a broker").to_string();
    let (_, shown, error) = run_words(&["actors", "NameServerConnection", "--json", "--broker", &served_at]);
    assert_eq!(error, "");
    let page: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(page["actors"][0]["restarts"], 1, "{shown}");
    broker.stop().unwrap();
    back.stop().unwrap();
}

fn functions(dir: &Path, found: &mut String) {
    for entry in fs::read_dir(dir).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *found += &fs::read_to_string(path).unwrap();
        }
    }
}

#[test]
fn every_kind_of_failure_has_a_test_of_that_name() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = String::new();
    functions(&root.join("src"), &mut sources);
    functions(&root.join("tests/whole"), &mut sources);
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let rows = text.lines().skip_while(|line| !line.starts_with("| What fails |")).skip(2);
    let rows: Vec<_> = rows.take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 4, "the table is read");
    for row in rows {
        let tests: Vec<_> = row.rsplit(" | ").next().unwrap().split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "{row}");
        for test in tests {
            assert!(sources.contains(&format!("fn {test}()")), "there is no {test}");
        }
    }
}
