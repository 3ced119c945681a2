use super::*;
use crate::actors::actor_list::ActorList;
use crate::actors::threads::Thread;
use crate::testing::RuntimeClock;
use crate::types::QueueId;

fn key(group: &str, topic: &str, queue_id: u32) -> OffsetKey {
    OffsetKey { group: group.into(), topic: topic.into(), queue_id: QueueId(queue_id) }
}

fn commit(group: &str, topic: &str, queue_id: u32, offset: u64) -> CommitOffset {
    CommitOffset { key: key(group, topic, queue_id), offset: QueueOffset(offset), awaited: true }
}

fn load(metadata: &Metadata) -> ConsumerOffsets {
    ConsumerOffsets::load(metadata.clone(), OffsetsConfig::default(), RuntimeClock::shared()).unwrap()
}

/// What a later start would read.
fn saved(metadata: &Metadata) -> Vec<(OffsetKey, u64)> {
    let all = metadata.consumer_offsets().unwrap().all().unwrap();
    all.into_iter()
        .map(|saved| {
            let ConsumerOffset { group, topic, queue_id, offset } = saved;
            (OffsetKey { group, topic, queue_id }, offset.0)
        })
        .collect()
}

#[actix::test]
async fn commits_are_saved_after_the_flush_interval() {
    tokio::time::pause();
    let metadata = Metadata::temporary().unwrap();
    let offsets = load(&metadata).start();
    offsets.send(commit("g", "T", 0, 7)).await.unwrap().unwrap();
    offsets.try_send(commit("g", "T", 0, 6)).unwrap();
    assert_eq!(offsets.send(QueryOffset { key: key("g", "T", 0) }).await.unwrap(), Some(QueueOffset(6)));
    tokio::time::advance(Duration::from_millis(4_999)).await;
    assert!(offsets.send(ObserveOffsets).await.unwrap().has_unsaved);
    assert_eq!(saved(&metadata), []);
    tokio::time::advance(Duration::from_millis(2)).await;
    // A mailbox is looked at before timers are.
    offsets.send(ObserveOffsets).await.unwrap();
    assert!(!offsets.send(ObserveOffsets).await.unwrap().has_unsaved);
    assert_eq!(saved(&metadata), [(key("g", "T", 0), 6)]);
    assert_eq!(metadata.consumer_offsets().unwrap().version().unwrap().counter, 1);
}

#[actix::test]
async fn stop_saves_everything() {
    let metadata = Metadata::temporary().unwrap();
    let mut offsets = load(&metadata);
    for queue_id in 0..3 {
        offsets.table.commit(key("g", "T", queue_id), QueueOffset(1), WallMs(1));
    }
    let thread = Arbiter::new();
    let offsets = ActorList::default().start_on(&Thread::Arbiter(thread.handle()), "", move || offsets);
    assert!(offsets.send(ObserveOffsets).await.unwrap().has_unsaved);
    thread.stop();
    thread.join().unwrap();
    assert_eq!(saved(&metadata).len(), 3);
    assert_eq!(load(&metadata).table.len(), 3);
}

#[actix::test]
async fn reset_is_seen_by_one_read_until_it_is_taken() {
    let metadata = Metadata::temporary().unwrap();
    let loaded = load(&metadata);
    let resets = loaded.pending_resets();
    let offsets = loaded.start();
    assert!(!resets.any());
    let targets = [(QueueId(0), QueueOffset(3)), (QueueId(1), QueueOffset(4))].into();
    offsets
        .send(ResetOffsets { group: "g".into(), topic: "T".into(), offsets: targets })
        .await
        .unwrap()
        .unwrap();
    assert!(resets.any());
    let committed = offsets.send(commit("g", "T", 0, 9)).await.unwrap().unwrap();
    assert_eq!(committed.outcome, Committed::IgnoredForReset);
    for (queue_id, expected) in [(0, 3), (1, 4)] {
        let taken = offsets.send(TakeReset { key: key("g", "T", queue_id) }).await.unwrap();
        assert_eq!(taken, Some(QueueOffset(expected)));
    }
    assert!(!resets.any());
    let committed = offsets.send(commit("g", "T", 0, 9)).await.unwrap().unwrap();
    assert_eq!(committed.outcome, Committed::Stored);
}

#[actix::test]
async fn deleted_groups_and_topics_leave_nothing_behind() {
    let metadata = Metadata::temporary().unwrap();
    let offsets = load(&metadata).start();
    for (group, topic) in [("g", "T"), ("g", "U"), ("h", "T"), ("h", "U")] {
        offsets.send(commit(group, topic, 0, 5)).await.unwrap().unwrap();
    }
    offsets.send(FlushDue).await.unwrap();
    assert_eq!(
        offsets.send(ListGroupsOfTopic { topic: "T".into() }).await.unwrap(),
        ["g".into(), "h".into()]
    );
    offsets.send(DeleteGroupOffsets { group: "g".into() }).await.unwrap().unwrap();
    offsets.send(TopicDeleted { topic: "U".into() }).await.unwrap();
    assert_eq!(saved(&metadata), [(key("h", "T", 0), 5)]);
    assert_eq!(offsets.send(ListTopicsOfGroup { group: "h".into() }).await.unwrap(), ["T".into()]);
    assert_eq!(offsets.send(ListTopicsOfGroup { group: "g".into() }).await.unwrap(), []);
}

#[actix::test]
async fn cloned_offsets_overwrite() {
    let offsets = load(&Metadata::temporary().unwrap()).start();
    offsets.send(commit("g", "T", 0, 5)).await.unwrap().unwrap();
    offsets.send(commit("g", "T", 1, 6)).await.unwrap().unwrap();
    offsets.send(commit("h", "T", 0, 50)).await.unwrap().unwrap();
    let clone = CloneOffsets { from: "g".into(), to: "h".into(), topic: "T".into() };
    assert_eq!(offsets.send(clone).await.unwrap().unwrap().count, 2);
    let query = QueryTopicOffsets { group: "h".into(), topic: "T".into() };
    let expected = [(QueueId(0), QueueOffset(5)), (QueueId(1), QueueOffset(6))];
    assert_eq!(offsets.send(query).await.unwrap(), expected.into());
}

/// Offsets whose commits are answered once durable, and the other end of their flushes: each begins when it is
/// told how to end.
fn load_strict(metadata: &Metadata) -> (ConsumerOffsets, std::sync::mpsc::Sender<bool>, Arc<AtomicUsize>) {
    let mut offsets = load(metadata);
    offsets.config.flush_mode = FlushMode::Sync;
    let (end, ends) = std::sync::mpsc::channel();
    let (ends, count) = (std::sync::Mutex::new(ends), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    offsets.flush = SharedFlush::new(Arc::new(move || {
        // After the test the stop flushes, which nobody controls.
        let ends_well = ends.lock().unwrap().recv().unwrap_or(true);
        counted.fetch_add(1, Ordering::SeqCst);
        match ends_well {
            true => Ok(()),
            false => Err(MetadataError::Flush { source: sled::Error::Unsupported("no disk".into()) }),
        }
    }));
    (offsets, end, count)
}

#[actix::test]
async fn commits_are_answered_once_durable_and_share_a_flush() {
    let metadata = Metadata::temporary().unwrap();
    let (offsets, end, flushes) = load_strict(&metadata);
    let offsets = offsets.start();
    let mut first = std::pin::pin!(offsets.send(commit("g", "T", 0, 7)));
    assert!(futures::poll!(&mut first).is_pending());
    // Nothing of what follows waits for the disk.
    offsets.send(ObserveOffsets).await.unwrap();
    let unanswered = CommitOffset { awaited: false, ..commit("g", "T", 9, 1) };
    offsets.send(unanswered).await.unwrap().unwrap();
    let others: Vec<_> = (1..5).map(|queue_id| offsets.send(commit("g", "T", queue_id, 7))).collect();
    let mut others = std::pin::pin!(futures::future::join_all(others));
    assert!(futures::poll!(&mut others).is_pending());
    offsets.send(ObserveOffsets).await.unwrap();
    assert!(futures::poll!(&mut first).is_pending(), "its flush has not ended");

    end.send(true).unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(flushes.load(Ordering::SeqCst), 1);
    assert!(futures::poll!(&mut others).is_pending(), "they came after it began");
    end.send(true).unwrap();
    for answer in others.await {
        answer.unwrap().unwrap();
    }
    assert_eq!(flushes.load(Ordering::SeqCst), 2, "one for all of them");
    assert_eq!(saved(&metadata).len(), 6);
}

#[actix::test]
async fn commit_that_cannot_be_made_durable_is_told_so() {
    let metadata = Metadata::temporary().unwrap();
    let (offsets, end, _flushes) = load_strict(&metadata);
    let offsets = offsets.start();
    end.send(false).unwrap();
    let refused = offsets.send(commit("g", "T", 0, 7)).await.unwrap().unwrap_err();
    assert!(matches!(&refused, Refusal::NotDurable { cause, .. } if cause.contains("flush")), "{refused}");
    end.send(true).unwrap();
    offsets.send(commit("g", "T", 0, 8)).await.unwrap().unwrap();
}
