//! Many threads on one: whose turn it is, a seed says.
//!
//! Each simulated thread is a `LocalSet` with its own waker. Between two turns nothing runs, so a seed repeats every
//! interleaving of turns; inside one thread tasks take turns in the order in which they were woken, as on a real one.
//! A process is some threads that end together, in mid-work.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};

use futures::task::AtomicWaker;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::LocalSet;

use super::chance::Chance;
use crate::actors::threads::{Job, Thread};

/// Turns after which the runtime has one: sockets of clients are its tasks.
const TURNS: usize = 4;

/// Threads that end together; every life of a broker is another process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Process(pub u32);

/// Tells the scheduler that a thread has something to do.
struct Woken {
    is_woken: AtomicBool,
    scheduler: Arc<AtomicWaker>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.is_woken.store(true, Ordering::Relaxed);
        self.scheduler.wake();
    }
}

struct Slot {
    process: Process,
    tasks: LocalSet,
    woken: Arc<Woken>,
    /// A thread that waits for its disk.
    is_stalled: bool,
}

struct State {
    /// The place of a thread that ended, or has its turn, is empty.
    slots: Vec<Option<Slot>>,
    ready: Vec<usize>,
    next_process: u32,
    ending: Vec<Process>,
    /// Whose turn it is.
    running: Option<Process>,
    chance: Chance,
    turns: u64,
}

/// The scheduler; clones are the same one.
#[derive(Clone)]
pub struct Schedule {
    state: Rc<RefCell<State>>,
    waker: Arc<AtomicWaker>,
}

impl Schedule {
    pub fn new(chance: Chance) -> Self {
        let state = State {
            slots: Vec::new(),
            ready: Vec::new(),
            next_process: 0,
            ending: Vec::new(),
            running: None,
            chance,
            turns: 0,
        };
        Self { state: Rc::new(RefCell::new(state)), waker: Arc::default() }
    }

    pub fn new_process(&self) -> Process {
        let mut state = self.state.borrow_mut();
        state.next_process += 1;
        Process(state.next_process)
    }

    /// Starts a thread of `process`, which runs what it is given.
    pub fn start_thread(&self, process: Process) -> Thread {
        let (jobs, mut given) = unbounded_channel::<Job>();
        self.spawn(process, async move {
            while let Some(job) = given.recv().await {
                job();
            }
        });
        Thread::Simulated(jobs)
    }

    /// Runs a future on a thread of its own.
    pub fn spawn(&self, process: Process, future: impl Future<Output = ()> + 'static) {
        let tasks = LocalSet::new();
        tasks.spawn_local(future);
        let woken = Arc::new(Woken { is_woken: AtomicBool::new(true), scheduler: self.waker.clone() });
        self.state.borrow_mut().slots.push(Some(Slot { process, tasks, woken, is_stalled: false }));
        self.waker.wake();
    }

    /// Ends a process where it stands. Its actors are dropped before anybody has another turn.
    pub fn end(&self, process: Process) {
        self.state.borrow_mut().ending.push(process);
        self.waker.wake();
    }

    /// Holds up one thread of a process, or lets all of them go on.
    pub fn stall_one(&self, process: Process) {
        let mut state = self.state.borrow_mut();
        let State { slots, chance, .. } = &mut *state;
        let of_process = slots.iter_mut().flatten().filter(|slot| slot.process == process);
        let mut of_process: Vec<&mut Slot> = of_process.collect();
        if !of_process.is_empty() {
            let at = chance.below(of_process.len() as u64) as usize;
            of_process[at].is_stalled = true;
        }
    }

    pub fn go_on(&self, process: Process) {
        let mut state = self.state.borrow_mut();
        for slot in state.slots.iter_mut().flatten().filter(|slot| slot.process == process) {
            slot.is_stalled = false;
        }
        drop(state);
        self.waker.wake();
    }

    /// The process whose turn it is.
    pub fn running(&self) -> Option<Process> {
        self.state.borrow().running
    }

    /// Turns that were taken: two runs of one seed have the same.
    pub fn turns(&self) -> u64 {
        self.state.borrow().turns
    }

    /// Gives turns until `end` is there.
    pub async fn run_until<T>(&self, end: impl Future<Output = T>) -> T {
        let mut end = pin!(end);
        poll_fn(|task| {
            self.waker.register(task.waker());
            if let Poll::Ready(outcome) = end.as_mut().poll(task) {
                return Poll::Ready(outcome);
            }
            for _ in 0..TURNS {
                self.drop_ended();
                if !self.give_a_turn() {
                    return Poll::Pending;
                }
            }
            task.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    /// Ends everything.
    pub fn end_all(&self) {
        let slots = std::mem::take(&mut self.state.borrow_mut().slots);
        drop(slots);
    }

    fn drop_ended(&self) {
        let mut state = self.state.borrow_mut();
        let ending = std::mem::take(&mut state.ending);
        if ending.is_empty() {
            return;
        }
        let mut ended = Vec::new();
        for place in &mut state.slots {
            ended.extend(place.take_if(|slot| ending.contains(&slot.process)));
        }
        // Actors that end send messages, which wakes others: the state must be free then.
        drop(state);
        drop(ended);
    }

    /// Whether there was anybody to give it to.
    fn give_a_turn(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let State { slots, ready, chance, turns, running, .. } = &mut *state;
        ready.clear();
        for (at, slot) in slots.iter().enumerate() {
            if slot
                .as_ref()
                .is_some_and(|slot| !slot.is_stalled && slot.woken.is_woken.load(Ordering::Relaxed))
            {
                ready.push(at);
            }
        }
        if ready.is_empty() {
            return false;
        }
        let at = ready[chance.below(ready.len() as u64) as usize];
        let Some(mut slot) = slots[at].take() else { return false };
        *turns += 1;
        *running = Some(slot.process);
        drop(state);
        slot.woken.is_woken.store(false, Ordering::Relaxed);
        let waker = slot.woken.clone().into();
        let ended = Pin::new(&mut slot.tasks).poll(&mut Context::from_waker(&waker)).is_ready();
        let mut state = self.state.borrow_mut();
        state.running = None;
        if !ended {
            state.slots[at] = Some(slot);
        }
        true
    }
}
