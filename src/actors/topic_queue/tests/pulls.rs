//! Pulls, and holds.

use super::*;

#[actix::test]
async fn pull_is_answered_by_where_it_begins() {
    let mut bench = start();
    assert_eq!(bench.pulled(bench.pull(0)).await, (NOT_FOUND, 0), "empty, from the beginning");
    assert_eq!(bench.pulled(bench.pull(3)).await, (MOVED, 0), "empty, from elsewhere");
    bench.dispatch(2, &["a", "b", "a"]).await;
    let pull = |from, max_messages, filter| PullMessages { max_messages, filter, ..bench.pull(from) };
    let all = MessageFilter::All;
    let cases = [
        ("all of it", pull(2, 32, all.clone()), (FOUND, 5)),
        ("the rest", pull(4, 32, all.clone()), (FOUND, 5)),
        ("as many as asked for", pull(2, 2, all.clone()), (FOUND, 4)),
        ("none asked for means one", pull(2, 0, all.clone()), (FOUND, 3)),
        ("the matching one, and what lies before the next", pull(2, 1, tagged("b")), (FOUND, 4)),
        ("nothing matches", pull(2, 32, tagged("c")), (RETRY, 5)),
        ("at the end", pull(5, 32, all.clone()), (NOT_FOUND, 5)),
        ("beyond the end", pull(6, 32, all.clone()), (MOVED, 5)),
        ("before the first", pull(1, 32, all.clone()), (MOVED, 2)),
        ("negative", pull(-1, 32, all), (MOVED, 2)),
    ];
    for (case, pull, expected) in cases {
        assert_eq!(bench.pulled(pull).await, expected, "{case}");
    }
}

#[actix::test]
async fn pull_of_deleted_messages_moves_past_them() {
    let mut bench = start();
    let large = "x".repeat(10_000);
    let mut units = Vec::new();
    for n in 0..3 {
        let appended = bench.log.append(message("T", &large), n);
        units.push(TestLog::unit(&appended, 0));
    }
    bench.queue.send(Dispatched { first: QueueOffset(0), units, last_stored_at_ms: 1 }).await.unwrap();
    let second_segment = bench.log.reader.segment_bytes();
    bench.log.appender.delete_before(PhysicalOffset(second_segment), 1).unwrap();
    let one = PullMessages { max_messages: 1, ..bench.pull(0) };
    assert_eq!(bench.pulled(one).await, (RETRY, 1), "the queue has not been trimmed yet");
    assert_eq!(bench.pulled(bench.pull(0)).await, (FOUND, 3));
    bench.queue.send(LogTrimmed { log_min: PhysicalOffset(second_segment) }).await.unwrap();
    assert_eq!(bench.pulled(bench.pull(0)).await, (MOVED, 1));
    let extent = bench.queue.send(QueryExtent).await.unwrap();
    assert_eq!((extent.min.0, extent.max.0, extent.begins_young), (1, 3, false));
}

#[actix::test]
async fn messages_too_old_for_their_topic_are_gone_from_every_answer_and_are_told_of() {
    let clock = ManualClock::at(WallMs(10_000));
    let (losses, mut lost) = fake_sink::<MessagesGone>();
    let mut bench = start_with(|parts| {
        let mut config = TopicConfig::new("T", 1);
        config.attributes.insert("retention.ms".into(), "3000".into());
        parts.expiry = MessageExpiry::new(topic_table_of([config], parts), clock.clone());
        parts.losses = Some(losses);
    });
    let mut units = Vec::new();
    for n in 0..4 {
        let at = WallMs(10_000 + 1_000 * n);
        units.push(TestLog::unit(&bench.log.append_at(message("T", "x"), n as u64, at), 0));
    }
    bench.queue.send(Dispatched { first: QueueOffset(0), units, last_stored_at_ms: 13_000 }).await.unwrap();
    clock.set(WallMs(13_000));
    assert_eq!(bench.pulled(bench.pull(0)).await, (FOUND, 4), "the first is just young enough");
    clock.set(WallMs(14_001));
    assert_eq!(bench.pulled(bench.pull(0)).await, (MOVED, 2));
    let gone = |from, to| MessagesGone {
        topic: "T".into(),
        queue_id: QueueId(0),
        from: QueueOffset(from),
        to: QueueOffset(to),
    };
    assert_eq!(lost.recv().await, Some(gone(0, 2)));
    let extent = bench.queue.send(QueryExtent).await.unwrap();
    assert_eq!((extent.min.0, extent.max.0), (2, 4));
    let found = bench.queue.send(SearchOffsetByTime { timestamp_ms: 0, upper: false }).await.unwrap();
    assert_eq!(found.unwrap(), QueueOffset(2));
    assert_eq!(bench.queue.send(QueryStoredAt { offset: QueueOffset(1) }).await.unwrap(), None);
    assert!(bench.queue.send(ReadRecords { offset: QueueOffset(0), max: 4 }).await.unwrap().is_empty());
    clock.set(WallMs(20_000));
    assert_eq!(bench.pulled(bench.pull(4)).await, (NOT_FOUND, 4), "empty, and numbered on");
    assert_eq!(lost.recv().await, Some(gone(2, 4)));
    // Opened again, it is as it was, and that is no news.
    let queue = TopicQueue::new("T".into(), QueueId(0), false, Arc::new(bench.parts.clone())).start();
    assert_eq!(queue.send(QueryExtent).await.unwrap().min, QueueOffset(4));
    assert!(lost.try_recv().is_err());
}

#[actix::test]
async fn hold_is_answered_by_a_matching_unit_and_by_no_other() {
    tokio::time::pause();
    let mut bench = start();
    bench.dispatch(0, &["a"]).await;
    bench.queue.send(PullMessages { filter: tagged("a"), ..bench.held(1, 15) }).await.unwrap();
    for n in 1..4 {
        bench.dispatch(n, &["b"]).await;
        assert!(bench.is_silent().await, "unit {n} does not match");
    }
    bench.dispatch(4, &["b", "a"]).await;
    assert_eq!(bench.pulled_reply().await, (FOUND, 6));
    bench.dispatch(6, &["a"]).await;
    assert!(bench.is_silent().await, "answered once");
}

#[actix::test]
async fn hold_with_a_condition_is_answered_by_a_message_that_satisfies_it() {
    tokio::time::pause();
    let mut bench = start();
    bench.dispatch(0, &["a"]).await;
    let filter = condition("TAGS STARTSWITH 'x' AND missing IS NULL");
    bench.queue.do_send(PullMessages { filter, ..bench.held(1, 60) });
    bench.dispatch(1, &["a", "b"]).await;
    assert!(bench.is_silent().await);
    bench.dispatch(3, &["a", "xy", "a"]).await;
    assert_eq!(bench.pulled_reply().await, (FOUND, 6));
    let filter = condition("TAGS = 'none'");
    bench.queue.do_send(PullMessages { filter, ..bench.held(6, 60) });
    bench.dispatch(6, &["a", "b"]).await;
    assert!(bench.is_silent().await);
    advance(Duration::from_secs(60)).await;
    assert_eq!(bench.pulled_reply().await, (NOT_FOUND, 8), "what did not match is passed");
}

#[actix::test]
async fn pull_by_a_condition_ends_where_it_has_gone_through_enough() {
    let mut bench = start_with(|parts| parts.config.pull.max_filter_bytes = 20);
    let mut units = Vec::new();
    for n in 0..5 {
        let appended = bench.log.append(message("T", &format!(r#"{{"n":{n}}}"#)), n);
        units.push(TestLog::unit(&appended, 0));
    }
    bench.queue.send(Dispatched { first: QueueOffset(0), units, last_stored_at_ms: 1 }).await.unwrap();
    let pull = |bench: &Bench, from| PullMessages { filter: condition("body.n >= 3"), ..bench.pull(from) };
    assert_eq!(bench.pulled(pull(&bench, 0)).await, (RETRY, 3), "three bodies of 7 bytes");
    assert_eq!(bench.pulled(pull(&bench, 3)).await, (FOUND, 5));
}

#[actix::test]
async fn hold_is_answered_at_its_deadline_and_never_held_again() {
    tokio::time::pause();
    let mut bench = start();
    bench.dispatch(0, &["a"]).await;
    bench.queue.send(bench.held(1, 15)).await.unwrap();
    bench.queue.send(bench.held(1, 5)).await.unwrap();
    bench.queue.send(PullMessages { filter: tagged("z"), ..bench.held(1, 10) }).await.unwrap();
    advance(Duration::from_millis(4_990)).await;
    assert!(bench.is_silent().await);
    advance(Duration::from_millis(20)).await;
    assert_eq!(bench.pulled_reply().await, (NOT_FOUND, 1));
    assert!(bench.is_silent().await, "the others wait on");
    bench
        .queue
        .send(Dispatched { first: QueueOffset(0), units: Vec::new(), last_stored_at_ms: 1 })
        .await
        .unwrap();
    assert!(bench.is_silent().await, "nothing has arrived");
    advance(Duration::from_millis(5_000)).await;
    assert_eq!(bench.pulled_reply().await, (NOT_FOUND, 1));
    bench.dispatch(1, &["a"]).await;
    assert_eq!(bench.pulled_reply().await, (FOUND, 2));
    advance(Duration::from_secs(60)).await;
    assert!(bench.is_silent().await);
}

#[actix::test]
async fn hold_passes_over_what_does_not_match() {
    tokio::time::pause();
    let mut bench = start();
    bench.queue.send(PullMessages { filter: tagged("a"), ..bench.held(0, 15) }).await.unwrap();
    bench.dispatch(0, &["b", "b"]).await;
    bench.dispatch(2, &["b"]).await;
    advance(Duration::from_secs(16)).await;
    assert_eq!(bench.pulled_reply().await, (NOT_FOUND, 3), "the consumer need not look at them again");
}

#[actix::test]
async fn hold_of_an_empty_queue_moves_to_where_the_queue_begins() {
    let mut bench = start();
    bench.queue.send(PullMessages { filter: tagged("a"), ..bench.held(0, 15) }).await.unwrap();
    bench.dispatch(10, &["b"]).await;
    assert_eq!(bench.pulled_reply().await, (MOVED, 10));
}

#[actix::test]
async fn only_a_pull_at_the_end_is_held() {
    let mut bench = start_with(|parts| parts.config.max_holds = 1);
    bench.dispatch(0, &["a"]).await;
    assert_eq!(bench.pulled(bench.held(0, 15)).await, (FOUND, 1));
    assert_eq!(bench.pulled(bench.held(9, 15)).await, (MOVED, 1));
    assert_eq!(bench.pulled(bench.held(1, 0)).await, (NOT_FOUND, 1), "for no time");
    bench.queue.send(bench.held(1, 15)).await.unwrap();
    assert_eq!(bench.pulled(bench.held(1, 15)).await, (NOT_FOUND, 1), "too many are held");
    bench.queue.send(WakeHolds).await.unwrap();
    assert_eq!(bench.pulled_reply().await, (NOT_FOUND, 1));
}

/// A queue with ten messages and a send on its way to the log, where a pull of a backlog stands for 100 ms.
async fn busy_with_sends() -> (Bench, AppendBatch) {
    let pace = Arc::new(BacklogPace::new(1, 1));
    pace.read_took(Duration::from_millis(1));
    let mut bench = start_with(|parts| parts.pace = pace);
    bench.dispatch(0, &["a"; 10]).await;
    bench.send(&["x"]);
    let on_its_way = bench.batches.recv().await.unwrap();
    (bench, on_its_way)
}

fn one(bench: &Bench, from: i64) -> PullMessages {
    PullMessages { max_messages: 1, ..bench.pull(from) }
}

#[actix::test]
async fn pull_of_a_backlog_waits_for_its_turn_while_others_send() {
    tokio::time::pause();
    let (mut bench, on_its_way) = busy_with_sends().await;
    assert_eq!(bench.pulled(one(&bench, 0)).await, (FOUND, 1), "its turn is now");
    bench.queue.send(one(&bench, 1)).await.unwrap();
    assert!(bench.is_silent().await);
    assert_eq!(bench.pulled(one(&bench, 9)).await, (FOUND, 10), "the newest message never waits");
    advance(Duration::from_millis(8)).await;
    bench.dispatch(10, &["a"]).await;
    assert!(bench.is_silent().await, "a new message is not what it waits for");
    advance(Duration::from_millis(3)).await;
    assert_eq!(bench.pulled_reply().await, (FOUND, 2));
    answer(on_its_way, &[]);
    assert!(bench.stored().await.is_ok());
    for from in 2..9 {
        assert_eq!(bench.pulled(one(&bench, from)).await, (FOUND, from + 1), "nobody sends");
    }
}

#[actix::test]
async fn pull_that_waits_for_its_turn_is_answered_when_the_broker_stops() {
    tokio::time::pause();
    let (mut bench, _on_its_way) = busy_with_sends().await;
    assert_eq!(bench.pulled(one(&bench, 0)).await, (FOUND, 1));
    bench.queue.send(one(&bench, 1)).await.unwrap();
    assert!(bench.is_silent().await);
    bench.queue.send(WakeHolds).await.unwrap();
    assert_eq!(bench.pulled_reply().await, (FOUND, 2));
    advance(Duration::from_secs(1)).await;
    assert!(bench.is_silent().await, "answered once");
}
