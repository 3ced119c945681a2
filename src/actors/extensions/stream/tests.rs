use super::*;
use crate::actors::extensions::event_inbox::{EventInbox, event_inbox};
use crate::actors::extensions::events::StoredAt;
use crate::testing::{Taken, fake_sink, settle};
use crate::types::{PhysicalOffset, QueueId, QueueOffset};

fn created(topic: &str) -> BrokerEvent {
    BrokerEvent::TopicCreated { topic: topic.into(), queues: 1 }
}

fn stored(messages: u64) -> StoredMessages {
    let at = |offset| StoredAt {
        queue_offset: QueueOffset(offset),
        physical_offset: PhysicalOffset(offset * 100),
        stored_at_ms: 0,
    };
    StoredMessages { topic: "t".into(), queue_id: QueueId(0), messages: (0..messages).map(at).collect() }
}

/// A stream, with the end of its host in the hands of the test.
struct Bench {
    level: Arc<StreamLevel>,
    inbox: EventInbox,
    woken: Taken<EventsWait>,
}

fn stream(kind: EventKind, capacity: usize, when_behind: WhenBehind) -> (EventStream, Bench) {
    let (host, woken) = fake_sink::<EventsWait>();
    let level = Arc::new(StreamLevel::new("e", capacity, when_behind));
    let (post, inbox) = event_inbox();
    let stream = EventStream { kinds: kind.bit(), level: level.clone(), post, host };
    (stream, Bench { level, inbox, woken })
}

impl Bench {
    /// What waits, counted out by nobody.
    fn waiting(&mut self) -> Vec<BrokerEvent> {
        std::iter::from_fn(|| self.inbox.take_lot()).flatten().collect()
    }

    /// How often the host was woken since this was asked last.
    async fn wakes(&mut self) -> usize {
        settle().await;
        std::iter::from_fn(|| self.woken.try_recv().ok()).count()
    }
}

#[actix::test]
async fn events_go_to_those_who_listen_to_their_kind() {
    let (of_topics, mut topics) = stream(EventKind::TopicCreated, 8, WhenBehind::DropAndCount);
    let (too, mut topics_too) = stream(EventKind::TopicCreated, 8, WhenBehind::DropAndCount);
    let (of_messages, mut messages) = stream(EventKind::MessageStored, 8, WhenBehind::DropAndCount);
    let tap = EventTap::default();
    tap.tell(EventKind::TopicCreated, || unreachable!("nobody listens yet"));
    tap.open(vec![of_topics, of_messages, too]);
    assert!(!tap.wants(EventKind::ConsumerLeft));
    tap.tell(EventKind::TopicCreated, || created("a"));
    assert_eq!(topics.waiting(), [created("a")]);
    assert_eq!(topics_too.waiting(), [created("a")]);
    assert_eq!(messages.waiting(), []);
    tap.tell_stored(stored(2));
    assert_eq!(messages.waiting().len(), 2);
    assert_eq!(topics.waiting(), []);
}

#[actix::test]
async fn full_stream_drops_what_is_new_and_counts_it() {
    let (stream, mut bench) = stream(EventKind::TopicCreated, 2, WhenBehind::DropAndCount);
    let tap = EventTap::default();
    tap.open(vec![stream]);
    for topic in ["a", "b", "c", "d"] {
        tap.tell(EventKind::TopicCreated, || created(topic));
    }
    assert_eq!(bench.waiting(), [created("a"), created("b")]);
    assert_eq!(bench.level.figures(), StreamFigures { waiting: 2, offered: 4, dropped: 2 });
    bench.level.take_out(2);
    tap.tell(EventKind::TopicCreated, || created("e"));
    assert_eq!(bench.waiting(), [created("e")]);
    assert!(!tap.holds_queues());
}

#[actix::test]
async fn messages_that_are_told_together_are_counted_and_dropped_one_by_one() {
    let (stream, mut bench) = stream(EventKind::MessageStored, 5, WhenBehind::DropAndCount);
    let tap = EventTap::default();
    tap.open(vec![stream]);
    tap.tell_stored(stored(3));
    tap.tell_stored(stored(0));
    tap.tell_stored(stored(4));
    tap.tell_stored(stored(2));
    assert_eq!(bench.level.figures(), StreamFigures { waiting: 5, offered: 9, dropped: 4 });
    let number = |event| match event {
        BrokerEvent::MessageStored { queue_offset, .. } => queue_offset.0,
        other => panic!("{other:?} was never told"),
    };
    let numbers: Vec<_> = bench.waiting().into_iter().map(number).collect();
    assert_eq!(numbers, [0, 1, 2, 0, 1], "the first of each that there was room for");
}

#[actix::test]
async fn host_at_work_is_woken_only_by_what_is_rare_and_by_half_the_room() {
    let (mut both, mut bench) = stream(EventKind::MessageStored, 8, WhenBehind::DropAndCount);
    both.kinds |= EventKind::TopicCreated.bit();
    let tap = EventTap::default();
    tap.open(vec![both]);
    tap.tell_stored(stored(1));
    assert_eq!(bench.wakes().await, 1, "it had nothing to do");
    assert_eq!(bench.inbox.take_lot().map(|lot| lot.len()), Some(1));
    bench.level.take_out(1);
    for _ in 0..3 {
        tap.tell_stored(stored(1));
    }
    assert_eq!(bench.wakes().await, 0, "it comes back by itself");
    tap.tell_stored(stored(1));
    assert_eq!(bench.wakes().await, 1, "half is full");
    tap.tell_stored(stored(1));
    assert_eq!(bench.wakes().await, 0, "it was told so");
    tap.tell(EventKind::TopicCreated, || created("a"));
    assert_eq!(bench.wakes().await, 1, "what is rare does not wait");
    assert_eq!(bench.waiting().len(), 6);
    bench.level.take_out(6);
    tap.tell_stored(stored(1));
    assert_eq!(bench.wakes().await, 1, "it had found nothing more");
}

#[actix::test]
async fn full_stream_that_may_miss_nothing_holds_the_queues() {
    let (stream, mut bench) = stream(EventKind::MessageStored, 1, WhenBehind::SlowSource);
    let tap = EventTap::default();
    tap.open(vec![stream]);
    assert!(!tap.holds_queues());
    tap.tell_stored(stored(2));
    assert!(tap.holds_queues());
    assert_eq!(bench.waiting().len(), 2);
    bench.level.take_out(2);
    assert!(!tap.holds_queues());
    assert_eq!(bench.level.figures().dropped, 0);
}

#[actix::test]
async fn extension_that_is_down_or_stuck_holds_nobody() {
    tokio::time::pause();
    let (stream, Bench { level, .. }) = stream(EventKind::MessageStored, 1, WhenBehind::SlowSource);
    let tap = EventTap::default();
    tap.open(vec![stream]);
    assert_eq!(level.take_in(1).count, 1);
    assert!(tap.holds_queues());
    level.set_down(true);
    assert!(!tap.holds_queues());
    assert_eq!(level.take_in(1).count, 0, "what is beyond the capacity is dropped then");
    level.set_down(false);
    tokio::time::advance(PATIENCE - Duration::from_millis(1)).await;
    assert!(tap.holds_queues());
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(!tap.holds_queues());
    level.take_out(1);
    assert_eq!(level.take_in(1).count, 1, "what moves again is waited for again");
    assert!(tap.holds_queues());
}
