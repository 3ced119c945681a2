//! What happens when derived files are taken away while nothing runs.

use crate::support::*;

#[tokio::test]
async fn a_lost_key_index_loses_lookups_only() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let client = broker.client().await;
    client.create_topic("orders", 1).await;
    for n in 0..20 {
        let key = format!("k{n}");
        client.send(Send::to("orders", 0, key.clone()).with("KEYS", &key)).await;
    }
    assert!(broker.stop().success());
    std::fs::remove_dir_all(dir.path().join("data/index")).unwrap();

    let broker = Broker::start(dir.path(), &[]).await;
    let client = broker.client().await;
    assert_eq!(client.pull_all("orders", 0, 0).await.len(), 20);
    // What comes from now on is found.
    client.send(Send::to("orders", 0, "new").with("KEYS", "new")).await;
    let begun = std::time::Instant::now();
    while client.find_by_key("orders", "new").await.is_empty() {
        assert!(begun.elapsed() < PATIENCE);
    }
}
