//! The live list of actors: who runs, on which thread, started by whom, and the figures of each.
//!
//! There is one list for each process that is started, or broker inside a program. The figures are written by the thread
//! of the actor alone and read by whoever asks. A lock is taken when an actor starts, ends or meets a kind of message
//! for the first time, and by who looks; never on a message's way.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix::dev::Mailbox;
use actix::prelude::*;

use super::context::{Context, Observed, Pulse};
use super::flight_recorder::FlightRecorder;
use super::threads::Thread;

/// The number of an actor on its list; never given twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ActorId(pub u64);

/// See the [module](self). Cheap to clone.
#[derive(Clone)]
pub struct ActorList {
    entries: Arc<Entries>,
    /// Who is noted as having started those that are started with this handle.
    starter: Option<ActorId>,
    /// Messages that the flight recorders of those keep.
    recorded: usize,
}

struct Entries {
    began: Instant,
    next_id: AtomicU64,
    by_id: Mutex<BTreeMap<ActorId, Arc<ActorEntry>>>,
}

impl Default for ActorList {
    fn default() -> Self {
        let entries = Entries { began: Instant::now(), next_id: AtomicU64::new(1), by_id: Mutex::default() };
        Self { entries: Arc::new(entries), starter: None, recorded: 0 }
    }
}

impl ActorList {
    /// Starts an actor on this thread. `label` tells it from others of its kind, and is empty for the only one.
    pub fn start<A: Observed>(&self, label: impl Into<String>, actor: A) -> Addr<A> {
        let mailbox = Mailbox::default();
        let address = mailbox.address();
        let entry = self.enter::<A>(label.into(), &address);
        Context::run(actor, mailbox, entry, self);
        address
    }

    /// Starts what `make` makes on another thread. It may be sent to at once.
    pub fn start_on<A: Observed>(
        &self,
        thread: &Thread,
        label: impl Into<String>,
        make: impl FnOnce() -> A + Send + 'static,
    ) -> Addr<A> {
        let mailbox = Mailbox::default();
        let (address, label, list) = (mailbox.address(), label.into(), self.clone());
        let weak = address.downgrade();
        thread.run(move || {
            // Without an address left nobody could ever say anything to it, and it ends in its first turn.
            let entry = list.enter::<A>(label, &weak.upgrade().unwrap_or_else(|| mailbox.address()));
            Context::run(make(), mailbox, entry, &list);
        });
        address
    }

    /// Those on the list that are `wanted`, oldest first.
    pub fn entries(&self, wanted: impl Fn(&ActorEntry) -> bool) -> Vec<Arc<ActorEntry>> {
        self.lock().values().filter(|entry| wanted(entry)).cloned().collect()
    }

    /// Since the list began.
    pub fn uptime(&self) -> Duration {
        self.entries.began.elapsed()
    }

    pub(super) fn for_those_started_by(&self, starter: ActorId) -> Self {
        Self { entries: self.entries.clone(), starter: Some(starter), recorded: 0 }
    }

    /// For starting actors whose flight recorders keep the last `messages` messages.
    pub fn recording(&self, messages: usize) -> Self {
        Self { recorded: messages, ..self.clone() }
    }

    fn enter<A: Observed>(&self, label: String, address: &Addr<A>) -> Arc<ActorEntry> {
        let id = ActorId(self.entries.next_id.fetch_add(1, Ordering::Relaxed));
        let entry = Arc::new(ActorEntry {
            id,
            kind: short_name(std::any::type_name::<A>()),
            label: label.into(),
            thread: thread_name().into(),
            starter: self.starter,
            started_after: self.uptime(),
            figures: Figures::default(),
            met: Mutex::default(),
            recorder: FlightRecorder::of(self.recorded),
            pulse: address.downgrade().recipient(),
        });
        self.lock().insert(id, entry.clone());
        entry
    }

    pub(super) fn leave(&self, id: ActorId) {
        self.lock().remove(&id);
    }

    /// Whoever panicked had no map half changed in its hands.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ActorId, Arc<ActorEntry>>> {
        self.entries.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An actor on the list.
pub struct ActorEntry {
    pub id: ActorId,
    /// Its type.
    pub kind: &'static str,
    /// What tells it from others of its kind; empty for the only one.
    pub label: Box<str>,
    pub thread: Box<str>,
    pub starter: Option<ActorId>,
    /// On the clock of the list.
    pub started_after: Duration,
    pub figures: Figures,
    /// `None`: it has none.
    pub recorder: Option<FlightRecorder>,
    met: Mutex<Vec<&'static str>>,
    pulse: actix::WeakRecipient<Pulse>,
}

impl ActorEntry {
    /// `TopicQueue orders/0`.
    pub fn name(&self) -> String {
        match self.label.is_empty() {
            true => self.kind.to_owned(),
            false => format!("{} {}", self.kind, self.label),
        }
    }

    /// Where to ask the actor; `None` when it has ended.
    pub fn pulse(&self) -> Option<Recipient<Pulse>> {
        self.pulse.upgrade()
    }

    /// What the kind of message with this number is called.
    pub fn kind_name(&self, kind: usize) -> Option<&'static str> {
        self.met_kinds().get(kind).copied()
    }

    /// The message it is at, and those that its flight recorder has, a line each; for the log of its end.
    pub fn last_messages(&self) -> String {
        let name = |kind| self.kind_name(kind).unwrap_or("its start");
        let handled = self.recorder.iter().flat_map(FlightRecorder::seen);
        let mut text: String = handled
            .map(|handled| {
                let (ended, took) = (handled.ended_at, handled.took);
                format!("  at {ended:?} of the process it had handled {} in {took:?}\n", name(handled.kind))
            })
            .collect();
        text += &format!("{} was at {}\n", self.name(), name(self.figures.now.load(Ordering::Relaxed)));
        text
    }

    pub(super) fn meets(&self, kind: &'static str) {
        self.met_kinds().push(kind);
    }

    /// The kinds of messages the actor met, in that order.
    pub(super) fn met(&self) -> Vec<&'static str> {
        self.met_kinds().clone()
    }

    fn met_kinds(&self) -> MutexGuard<'_, Vec<&'static str>> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

thread_local! {
    static THREAD_NAME: Cell<&'static str> = const { Cell::new("") };
    /// Whose turn it is on this thread.
    static RUNNING: Cell<Option<Arc<ActorEntry>>> = const { Cell::new(None) };
}

/// Names this thread for the list, and for the system's tools: `top -H` shows it.
pub fn name_thread(name: &'static str) {
    THREAD_NAME.set(name);
    // Where the system keeps no such file the thread stays without a name there.
    let _ = std::fs::write("/proc/thread-self/comm", name);
}

fn thread_name() -> String {
    match THREAD_NAME.get() {
        "" => std::thread::current().name().unwrap_or("unnamed").to_owned(),
        name => name.to_owned(),
    }
}

/// Puts the actor whose turn begins in the place of the one whose turn goes on when this one is over.
pub(super) fn swap_running(entry: Option<Arc<ActorEntry>>) -> Option<Arc<ActorEntry>> {
    RUNNING.replace(entry)
}

/// The actor whose turn it is on this thread, with `look`.
pub fn running<T>(look: impl FnOnce(&ActorEntry) -> T) -> Option<T> {
    let entry = RUNNING.take()?;
    let seen = look(&entry);
    RUNNING.set(Some(entry));
    Some(seen)
}

/// Of a turn that is not over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    pub lasts: Duration,
    /// The last message taken from the mailbox, in this turn or before it; see [`ActorEntry::kind_name`].
    pub kind: usize,
}

/// The figures of an actor at one moment.
#[derive(Clone, Copy, Debug)]
pub struct SeenFigures {
    /// Messages taken from the mailbox.
    pub handled: u64,
    pub turns: u64,
    /// Time spent in turns that are over.
    pub busy: Duration,
    pub longest_turn: Duration,
    /// Messages that may wait.
    pub capacity: usize,
    /// How often what it looks after was started again.
    pub restarts: u64,
    pub turn: Option<Turn>,
}

/// What an actor's thread counts. Others may see one figure a message ahead of another.
#[derive(Default)]
pub struct Figures {
    handled: AtomicU64,
    turns: AtomicU64,
    busy_ns: AtomicU64,
    longest_ns: AtomicU64,
    /// On the clock of the list, one nanosecond late; 0 between turns.
    turn_began_ns: AtomicU64,
    now: AtomicUsize,
    capacity: AtomicUsize,
    restarts: AtomicU64,
}

impl Figures {
    /// `uptime` is that of the list.
    pub fn seen(&self, uptime: Duration) -> SeenFigures {
        let began = self.turn_began_ns.load(Ordering::Relaxed);
        let turn = (began > 0).then(|| Turn {
            lasts: uptime.saturating_sub(Duration::from_nanos(began - 1)),
            kind: self.now.load(Ordering::Relaxed),
        });
        SeenFigures {
            handled: self.handled.load(Ordering::Relaxed),
            turns: self.turns.load(Ordering::Relaxed),
            busy: Duration::from_nanos(self.busy_ns.load(Ordering::Relaxed)),
            longest_turn: Duration::from_nanos(self.longest_ns.load(Ordering::Relaxed)),
            capacity: self.capacity.load(Ordering::Relaxed),
            restarts: self.restarts.load(Ordering::Relaxed),
            turn,
        }
    }

    /// Messages taken from the mailbox.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn handled(&self) -> u64 {
        self.handled.load(Ordering::Relaxed)
    }

    /// Messages that may wait.
    #[cfg(any(test, feature = "testing"))]
    pub fn capacity(&self) -> usize {
        self.capacity.load(Ordering::Relaxed)
    }

    // One thread writes: what it reads here is what it wrote, and a load and a store are enough.

    pub(super) fn message_taken(&self, kind: usize) {
        self.handled.store(self.handled.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.now.store(kind, Ordering::Relaxed);
    }

    /// Takes back the last one; gives how many there were before it.
    pub(super) fn uncount_message(&self) -> u64 {
        let before = self.handled.load(Ordering::Relaxed).saturating_sub(1);
        self.handled.store(before, Ordering::Relaxed);
        before
    }

    pub(super) fn set_capacity(&self, capacity: usize) {
        self.capacity.store(capacity, Ordering::Relaxed);
    }

    pub(super) fn count_restart(&self) {
        self.restarts.store(self.restarts.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub(super) fn turn_begins(&self, uptime: Duration) {
        self.turn_began_ns.store(nanos(uptime) + 1, Ordering::Relaxed);
    }

    pub(super) fn turn_ends(&self, took: Duration) {
        let took = nanos(took);
        self.turns.store(self.turns.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.busy_ns.store(self.busy_ns.load(Ordering::Relaxed) + took, Ordering::Relaxed);
        if took > self.longest_ns.load(Ordering::Relaxed) {
            self.longest_ns.store(took, Ordering::Relaxed);
        }
        self.turn_began_ns.store(0, Ordering::Relaxed);
    }
}

/// 584 years fit.
fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

/// The name of a type without the way to it: `telstar::actors::topic_queue::TopicQueue` is a `TopicQueue`.
pub fn short_name(full: &'static str) -> &'static str {
    let plain = full.split('<').next().unwrap_or(full);
    plain.rsplit("::").next().unwrap_or(plain)
}
