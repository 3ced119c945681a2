//! What follows when a part of the broker fails; ARCHITECTURE.md has the table.

use crate::support::*;

/// What was acknowledged is there after the next start.
async fn kept(dir: &std::path::Path, acknowledged: i64) {
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
