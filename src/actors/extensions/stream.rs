//! The ways of events: from those whom they happen to, the sources, to each extension that listens.
//!
//! A stream has room for so many events. Sources count in, the extension's host counts out; nobody takes a lock. While
//! nobody listens, a source looks at one number.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use actix::Recipient;
use tokio::time::{Duration, Instant};
use tracing::warn;

use super::events::{BrokerEvent, BrokerEvents, EventKind, WhenBehind};

/// How full a stream is; its sources and its host share it.
#[derive(Debug)]
pub struct StreamLevel {
    extension: &'static str,
    capacity: usize,
    when_behind: WhenBehind,
    waiting: AtomicUsize,
    offered: AtomicU64,
    dropped: AtomicU64,
    /// The extension has failed, and is not started again yet.
    is_down: AtomicBool,
    began: Instant,
    /// When events were handled last, or began to wait, ms since it began.
    moved_at_ms: AtomicU64,
}

/// An extension that handles nothing for so long slows nobody any more.
const PATIENCE: Duration = Duration::from_secs(10);

/// Figures of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StreamFigures {
    /// Events that wait, those that are being handled among them.
    pub waiting: usize,
    /// Events since the start, dropped ones among them.
    pub offered: u64,
    /// Events that there was no room for, or that the extension failed with.
    pub dropped: u64,
}

impl StreamLevel {
    pub fn new(extension: &'static str, capacity: usize, when_behind: WhenBehind) -> Self {
        Self {
            extension,
            capacity: capacity.max(1),
            when_behind,
            waiting: AtomicUsize::new(0),
            offered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            is_down: AtomicBool::new(false),
            began: Instant::now(),
            moved_at_ms: AtomicU64::new(0),
        }
    }

    /// Of `count` events, how many may come now. The others are dropped.
    fn take_in(&self, count: usize) -> usize {
        self.offered.fetch_add(count as u64, Ordering::Relaxed);
        let before = self.waiting.fetch_add(count, Ordering::Relaxed);
        if before == 0 {
            self.note_move();
        }
        let taken = match self.when_behind {
            WhenBehind::SlowSource if !self.is_stuck() => count,
            // Two sources at once may both find it full: then less is taken than there is room for.
            _ => self.capacity.saturating_sub(before).min(count),
        };
        let dropped = count - taken;
        if dropped > 0 {
            self.waiting.fetch_sub(dropped, Ordering::Relaxed);
            self.count_dropped(dropped);
        }
        taken
    }

    /// `count` events are handled.
    pub fn take_out(&self, count: usize) {
        self.waiting.fetch_sub(count, Ordering::Relaxed);
        self.note_move();
    }

    /// Whether the extension has failed: while it has, it slows nobody.
    pub fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::Relaxed);
    }

    fn note_move(&self) {
        self.moved_at_ms.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Nothing is handled that others should wait for.
    fn is_stuck(&self) -> bool {
        let moved_at = Duration::from_millis(self.moved_at_ms.load(Ordering::Relaxed));
        self.is_down.load(Ordering::Relaxed)
            || (self.is_full() && self.began.elapsed().saturating_sub(moved_at) >= PATIENCE)
    }

    /// Counts events that never reached the extension, or that it failed with.
    pub fn count_dropped(&self, count: usize) {
        let before = self.dropped.fetch_add(count as u64, Ordering::Relaxed);
        let after = before + count as u64;
        // Once for each power of two: who drops has no time for more.
        if before == 0 || before.ilog2() != after.ilog2() {
            warn!(extension = self.extension, dropped = after, "an extension is behind: events are dropped");
        }
    }

    /// Whether sources should wait for room.
    fn holds(&self) -> bool {
        self.when_behind == WhenBehind::SlowSource && self.is_full() && !self.is_stuck()
    }

    fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= self.capacity
    }

    pub fn figures(&self) -> StreamFigures {
        StreamFigures {
            waiting: self.waiting.load(Ordering::Relaxed),
            offered: self.offered.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }
}

/// The stream of one extension, as sources see it.
#[derive(Debug)]
pub struct EventStream {
    pub kinds: u32,
    pub level: Arc<StreamLevel>,
    /// It bypasses the capacity of the mailbox: the level bounds what is in it.
    pub host: Recipient<BrokerEvents>,
}

impl EventStream {
    fn wants(&self, kind: EventKind) -> bool {
        self.kinds & kind.bit() != 0
    }

    fn offer(&self, mut events: Vec<BrokerEvent>) {
        events.truncate(self.level.take_in(events.len()));
        if !events.is_empty() {
            self.host.do_send(BrokerEvents(events));
        }
    }
}

/// Where sources tell what happened. Cheap to clone; there is one for all of a broker.
#[derive(Clone, Debug, Default)]
pub struct EventTap(Arc<Tap>);

#[derive(Debug, Default)]
struct Tap {
    /// Kinds that somebody listens to. Beside [`SLOWS_QUEUES`].
    wanted: AtomicU32,
    /// Set once, when extensions have said what they listen to.
    streams: OnceLock<Vec<EventStream>>,
}

/// Somebody who listens to stored messages would rather slow the queues than miss one.
const SLOWS_QUEUES: u32 = 1 << 31;

impl EventTap {
    /// From now on these are told. Called once.
    pub fn open(&self, streams: Vec<EventStream>) {
        let mut wanted = streams.iter().fold(0, |kinds, stream| kinds | stream.kinds);
        let slows = |stream: &EventStream| {
            stream.level.when_behind == WhenBehind::SlowSource && stream.wants(EventKind::MessageStored)
        };
        if streams.iter().any(slows) {
            wanted |= SLOWS_QUEUES;
        }
        let set = self.0.streams.set(streams);
        debug_assert!(set.is_ok(), "opened once");
        // Behind the streams: who finds a kind wanted finds them.
        self.0.wanted.store(wanted, Ordering::Release);
    }

    /// Whether anybody listens to events of this kind. The only thing that a source pays while nobody does.
    pub fn wants(&self, kind: EventKind) -> bool {
        self.0.wanted.load(Ordering::Relaxed) & kind.bit() != 0
    }

    /// Whether a queue has to wait before it stores more.
    pub fn holds_queues(&self) -> bool {
        self.0.wanted.load(Ordering::Relaxed) & SLOWS_QUEUES != 0
            && self
                .streams()
                .iter()
                .any(|stream| stream.wants(EventKind::MessageStored) && stream.level.holds())
    }

    /// Tells one event; `event` is called when somebody listens.
    pub fn tell(&self, kind: EventKind, event: impl FnOnce() -> BrokerEvent) {
        if self.wants(kind) {
            self.tell_all(kind, vec![event()]);
        }
    }

    /// Tells events of one kind, of one turn of their source.
    pub fn tell_all(&self, kind: EventKind, events: Vec<BrokerEvent>) {
        debug_assert!(events.iter().all(|event| event.kind() == kind), "events of one kind");
        if events.is_empty() {
            return;
        }
        let mut listeners = self.streams().iter().filter(|stream| stream.wants(kind)).peekable();
        let mut events = Some(events);
        while let Some(listener) = listeners.next() {
            // The last one gets them as they are.
            let told = if listeners.peek().is_some() { events.clone() } else { events.take() };
            listener.offer(told.unwrap_or_default());
        }
    }

    fn streams(&self) -> &[EventStream] {
        self.0.streams.get().map(Vec::as_slice).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fake_sink;

    fn created(topic: &str) -> BrokerEvent {
        BrokerEvent::TopicCreated { topic: topic.into(), queues: 1 }
    }

    fn stream(
        kind: EventKind,
        capacity: usize,
        when_behind: WhenBehind,
    ) -> (EventStream, Arc<StreamLevel>, crate::testing::Taken<BrokerEvents>) {
        let (host, told) = fake_sink::<BrokerEvents>();
        let level = Arc::new(StreamLevel::new("e", capacity, when_behind));
        (EventStream { kinds: kind.bit(), level: level.clone(), host }, level, told)
    }

    #[actix::test]
    async fn events_go_to_those_who_listen_to_their_kind() {
        let (of_topics, _, mut topics) = stream(EventKind::TopicCreated, 8, WhenBehind::DropAndCount);
        let (too, _, mut topics_too) = stream(EventKind::TopicCreated, 8, WhenBehind::DropAndCount);
        let (of_members, _, mut members) = stream(EventKind::ConsumerLeft, 8, WhenBehind::DropAndCount);
        let tap = EventTap::default();
        tap.tell(EventKind::TopicCreated, || unreachable!("nobody listens yet"));
        tap.open(vec![of_topics, of_members, too]);
        assert!(!tap.wants(EventKind::MessageStored));
        tap.tell(EventKind::TopicCreated, || created("a"));
        let told = BrokerEvents(vec![created("a")]);
        assert_eq!(topics.recv().await, Some(told.clone()));
        assert_eq!(topics_too.recv().await, Some(told));
        assert!(members.try_recv().is_err());
    }

    #[actix::test]
    async fn full_stream_drops_what_is_new_and_counts_it() {
        let (stream, level, mut told) = stream(EventKind::TopicCreated, 2, WhenBehind::DropAndCount);
        let tap = EventTap::default();
        tap.open(vec![stream]);
        tap.tell_all(EventKind::TopicCreated, vec![created("a"), created("b"), created("c")]);
        tap.tell(EventKind::TopicCreated, || created("d"));
        assert_eq!(told.recv().await, Some(BrokerEvents(vec![created("a"), created("b")])));
        assert_eq!(level.figures(), StreamFigures { waiting: 2, offered: 4, dropped: 2 });
        level.take_out(2);
        tap.tell(EventKind::TopicCreated, || created("e"));
        assert_eq!(told.recv().await, Some(BrokerEvents(vec![created("e")])));
        assert!(!tap.holds_queues());
    }

    #[actix::test]
    async fn full_stream_that_may_miss_nothing_holds_the_queues() {
        let (stream, level, mut told) = stream(EventKind::MessageStored, 1, WhenBehind::SlowSource);
        let tap = EventTap::default();
        tap.open(vec![stream]);
        assert!(!tap.holds_queues());
        let stored = BrokerEvent::MessageStored {
            topic: "t".into(),
            queue_id: crate::types::QueueId(0),
            queue_offset: Default::default(),
            physical_offset: Default::default(),
            stored_at_ms: 0,
        };
        tap.tell_all(EventKind::MessageStored, vec![stored.clone(), stored.clone()]);
        assert!(tap.holds_queues());
        assert_eq!(told.recv().await, Some(BrokerEvents(vec![stored.clone(), stored])));
        level.take_out(2);
        assert!(!tap.holds_queues());
        assert_eq!(level.figures().dropped, 0);
    }

    #[actix::test]
    async fn extension_that_is_down_or_stuck_holds_nobody() {
        tokio::time::pause();
        let (stream, level, _told) = stream(EventKind::MessageStored, 1, WhenBehind::SlowSource);
        let tap = EventTap::default();
        tap.open(vec![stream]);
        assert_eq!(level.take_in(1), 1);
        assert!(tap.holds_queues());
        level.set_down(true);
        assert!(!tap.holds_queues());
        assert_eq!(level.take_in(1), 0, "what is beyond the capacity is dropped then");
        level.set_down(false);
        tokio::time::advance(PATIENCE - Duration::from_millis(1)).await;
        assert!(tap.holds_queues());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!tap.holds_queues());
        level.take_out(1);
        assert_eq!(level.take_in(1), 1, "what moves again is waited for again");
        assert!(tap.holds_queues());
    }
}
