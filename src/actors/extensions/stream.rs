//! The ways of events: from those whom they happen to, the sources, to each extension that listens.
//!
//! A stream has room for so many events. Sources count in, the extension's host counts out; nobody takes a lock. While
//! nobody listens, a source looks at one number.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use actix::Recipient;
use tokio::time::{Duration, Instant};
use tracing::warn;

use super::event_inbox::{EventPost, EventsWait};
use super::events::{BrokerEvent, EventKind, StoredMessages, Told, WhenBehind};

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

/// Figures of a stream of events.
///
/// ```
/// use telstar::extension::{BrokerEvents, EventKind, StreamFigures, WhenBehind};
/// use telstar::testing::{Scenario, calls::create_topic, fake_sink, settle};
///
/// # #[actix::main]
/// # async fn main() {
/// let scene = Scenario::begin().await;
/// let (listener, _) = fake_sink::<BrokerEvents>();
/// let broker = scene.broker("broker").hooks("herald", move |hooks| {
///     hooks.on_events(&[EventKind::TopicCreated], listener.clone(), WhenBehind::DropAndCount, 10);
/// });
/// let broker = broker.start().await;
/// broker.client("admin").succeed(create_topic("orders", 1)).await;
/// settle().await;
/// let figures: StreamFigures = broker.extensions().await[0].events;
/// assert_eq!((figures.offered, figures.waiting, figures.dropped), (1, 0, 0));
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StreamFigures {
    /// Events that wait, those that are being handled among them.
    pub waiting: usize,
    /// Events since the start, dropped ones among them.
    pub offered: u64,
    /// Events that there was no room for, or that the extension failed with.
    pub dropped: u64,
}

/// What a stream has room for, of what it was offered.
struct TakenIn {
    count: usize,
    /// Half the room is taken now, and was not before.
    fills_half: bool,
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

    /// Counts events in as far as there is room. The others are dropped.
    fn take_in(&self, count: usize) -> TakenIn {
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
        TakenIn { count: taken, fills_half: before < self.half() && before + taken >= self.half() }
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

    /// Whether half the room is taken: then nobody waits for more to gather.
    pub fn is_half_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= self.half()
    }

    fn half(&self) -> usize {
        (self.capacity / 2).max(1)
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
    /// The level bounds what is in it.
    pub post: EventPost,
    pub host: Recipient<EventsWait>,
}

impl EventStream {
    fn wants(&self, kind: EventKind) -> bool {
        self.kinds & kind.bit() != 0
    }

    fn offer(&self, told: Told) {
        let taken = self.level.take_in(told.count());
        let Some(told) = told.truncated(taken.count) else { return };
        // Stored messages are many, and the host comes for them by itself; it is woken for what is rare, or presses.
        let presses = taken.fills_half || matches!(told, Told::One(_));
        if self.post.put(told) || presses {
            self.host.do_send(EventsWait);
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
            let event = event();
            debug_assert_eq!(event.kind(), kind, "of the kind that was asked for");
            self.tell_listeners(Told::One(event));
        }
    }

    /// Tells what a queue has stored.
    pub fn tell_stored(&self, stored: StoredMessages) {
        self.tell_listeners(Told::Stored(stored));
    }

    fn tell_listeners(&self, told: Told) {
        let kind = told.kind();
        let mut listeners = self.streams().iter().filter(|stream| stream.wants(kind)).peekable();
        let mut told = Some(told);
        while let Some(listener) = listeners.next() {
            // The last one gets it as it is.
            let theirs = if listeners.peek().is_some() { told.clone() } else { told.take() };
            theirs.into_iter().for_each(|told| listener.offer(told));
        }
    }

    fn streams(&self) -> &[EventStream] {
        self.0.streams.get().map(Vec::as_slice).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
