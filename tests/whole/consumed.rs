//! Consumed keys: what a group has marked outlives the broker, and is asked for by every client.

use std::time::Duration;

use telstar::client::{ConnectOptions, ConsumedKeys, Servers};

use crate::support::*;

fn keys_of(broker: &Broker, group: &str) -> ConsumedKeys {
    let servers = Servers::new(&broker.name_server, ConnectOptions::default(), Duration::from_secs(10));
    ConsumedKeys::new(servers, group.into())
}

fn words(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

#[tokio::test]
async fn what_is_marked_is_known_after_a_kill() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &["broker.name=broker-a"]).await;
    let create = ["group", "create", "g", "-a", "consumed.window.ms=3600000", "-n", &broker.name_server]
        .map(str::to_owned);
    let (status, out, err) = run_words(&create.each_ref().map(String::as_str));
    assert_eq!(status, 0, "{out}{err}");
    let marked = keys_of(&broker, "g").mark(&"broker-a".into(), &words(&["a", "b"])).await.unwrap();
    assert_eq!(marked, [None, None]);
    broker.kill();

    let broker = Broker::start(dir.path(), &["broker.name=broker-a"]).await;
    let mut keys = keys_of(&broker, "g");
    let again = keys.mark(&"broker-a".into(), &words(&["b", "c"])).await.unwrap();
    assert_eq!(again.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false]);
    let known = keys.marked_at(&words(&["a", "b", "c", "d"])).await.unwrap();
    assert_eq!(known.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, true, false]);

    let (status, out, _) =
        run_words(&["group", "consumed", "g", "a", "d", "-o", "json", "-n", &broker.name_server]);
    assert_eq!(status, 0);
    let shown: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(shown[0]["markedAtMs"].as_i64(), known[0]);
    assert!(shown[1].get("markedAtMs").is_none(), "{shown}");
    let (status, _, err) = run_words(&["group", "consumed", "nobody", "a", "-n", &broker.name_server]);
    assert_eq!((status, err.contains("nobody")), (1, true), "{err}");
}
