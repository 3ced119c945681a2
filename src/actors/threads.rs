//! The threads of a process, and who shares one where cores are few.

use actix::prelude::*;
#[cfg(any(test, feature = "testing"))]
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tracing::warn;

use super::actor_list::{ActorList, name_thread};
use crate::types::FlushMode;

/// From so many workers on, those who follow the writer of the log have threads of their own.
const MANY_WORKERS: usize = 3;

/// Turns of a thread after which it has nothing more to do with what it was sent: a message may bring about another, and
/// a connection keeps replies for one more.
const TURNS_TO_REST: usize = 8;

/// What a thread of a simulation runs.
#[cfg(any(test, feature = "testing"))]
pub type Job = Box<dyn FnOnce() + Send>;

/// A thread that actors are started on; clones are the same thread.
#[derive(Clone, Debug)]
pub enum Thread {
    Arbiter(ArbiterHandle),
    /// One of many that share a thread of the machine and take turns as a seed says.
    #[cfg(any(test, feature = "testing"))]
    Simulated(UnboundedSender<Job>),
}

impl Thread {
    /// Runs `job` there, which may start actors. Nothing comes of it when the thread has ended.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        match self {
            Self::Arbiter(arbiter) => {
                arbiter.spawn_fn(job);
            }
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(jobs) => {
                let _ = jobs.send(Box::new(job));
            }
        }
    }

    /// Runs a future there.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.run(|| {
            actix_rt::spawn(future);
        });
    }
}

/// The threads of a process: some for clients and queues, one each for those who wait for memory and disk.
pub struct Threads {
    /// Who runs on them.
    pub actors: ActorList,
    /// There is at least one.
    pub workers: Vec<Thread>,
    /// Settings: actors that wait for sled's fsyncs, away from messages.
    pub settings: Thread,
    /// Settings of groups: the first request of a new group waits for them, and so for no fsync of the others.
    pub groups: Thread,
    /// Members of groups, producers, figures, links to name servers: nothing here ever waits for a disk.
    pub members: Thread,
    /// Consumer offsets and consumed keys, which write to sled and leave its fsyncs to the pool.
    pub offsets: Thread,
    /// Of the writer of the log, or, with a [`lone_writer`](Self::lone_writer), of the one that writes while there is much.
    pub writer: Thread,
    /// The worker's where there is but one: a lone message then wakes no other thread.
    pub lone_writer: Option<Thread>,
    /// [`writer`](Self::writer) where cores are few and every send waits for the disk: who writes crowds then has nothing
    /// better to do, and what arrives meanwhile makes the next flush larger.
    pub flusher: Thread,
    /// [`writer`](Self::writer) where cores are few: waking one thread more for each crowd costs more than it gains.
    pub dispatcher: Thread,
    /// The key index, which nobody waits for.
    pub index: Thread,
    /// Timers, which wait for memory and disk, and whose error is not to be that of others.
    pub timers: Thread,
    /// Where extensions get their threads.
    pub extensions: ExtensionThreads,
    /// Those that end with [`stop`](Self::stop).
    started: Vec<Arbiter>,
}

impl Threads {
    pub fn start(workers: usize, flush: FlushMode) -> Self {
        let mut started = Vec::new();
        let threads = Self::of(workers, flush, |name| {
            let arbiter = named(name);
            let thread = Thread::Arbiter(arbiter.handle());
            started.push(arbiter);
            thread
        });
        Self { started, ..threads }
    }

    /// Threads of a simulation that `start` starts, given their names, and that end without being told.
    #[cfg(any(test, feature = "testing"))]
    pub fn simulated(
        workers: usize,
        flush: FlushMode,
        mut start: impl FnMut(&'static str) -> Thread,
    ) -> Self {
        let threads = Self::of(workers, flush, &mut start);
        Self { extensions: ExtensionThreads::Simulated(start("extensions")), ..threads }
    }

    fn of(workers: usize, flush: FlushMode, mut start: impl FnMut(&'static str) -> Thread) -> Self {
        let are_many = workers >= MANY_WORKERS;
        let workers: Vec<Thread> = (0..workers.max(1)).map(|_| start("worker")).collect();
        let [settings, groups, members, offsets, writer, index, timers] =
            ["settings", "groups", "members", "offsets", "writer", "index", "timers"].map(&mut start);
        Self {
            actors: ActorList::default(),
            flusher: if are_many || flush == FlushMode::Async { start("flusher") } else { writer.clone() },
            dispatcher: if are_many { start("dispatcher") } else { writer.clone() },
            lone_writer: (workers.len() == 1).then(|| workers[0].clone()),
            workers,
            settings,
            groups,
            members,
            offsets,
            writer,
            index,
            timers,
            extensions: ExtensionThreads::Own,
            started: Vec::new(),
        }
    }

    /// Ends every thread and waits for it: whatever its actors held is free then. Blocks.
    pub fn stop(self) {
        for arbiter in &self.started {
            arbiter.stop();
        }
        for arbiter in self.started {
            if arbiter.join().is_err() {
                warn!("a thread had panicked before it was stopped");
            }
        }
    }
}

/// Where extensions get their threads.
#[derive(Clone, Debug)]
pub enum ExtensionThreads {
    /// Each has one of its own.
    Own,
    /// All are on one of a simulation, which none of them may block.
    #[cfg(any(test, feature = "testing"))]
    Simulated(Thread),
}

impl ExtensionThreads {
    /// The thread of one more extension; with the arbiter that is to be ended, where it has one of its own.
    pub fn one_more(&self) -> (Thread, Option<Arbiter>) {
        match self {
            Self::Own => {
                let arbiter = named("extension");
                (Thread::Arbiter(arbiter.handle()), Some(arbiter))
            }
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(thread) => (thread.clone(), None),
        }
    }
}

/// Waits until threads have done what they were woken for, several times in turn: what was sent to connections before is
/// written to their sockets then.
pub async fn come_to_rest(threads: &[Thread]) {
    let mut resting = Vec::new();
    for thread in threads {
        let (rested, rests) = oneshot::channel();
        thread.spawn(async move {
            for _ in 0..TURNS_TO_REST {
                tokio::task::yield_now().await;
            }
            // Who waits for it may have stopped to.
            let _ = rested.send(());
        });
        resting.push(rests);
    }
    // One that has ended rests.
    futures::future::join_all(resting).await;
}

/// A thread, named for the list of actors.
fn named(name: &'static str) -> Arbiter {
    let arbiter = Arbiter::new();
    arbiter.spawn_fn(move || name_thread(name));
    arbiter
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[actix::test]
    async fn system_knows_threads_by_their_names() {
        let threads = Threads::start(1, FlushMode::Async);
        let (tell, told) = oneshot::channel();
        threads.writer.run(|| {
            let _ = tell.send(std::fs::read_to_string("/proc/thread-self/comm"));
        });
        assert_eq!(told.await.unwrap().unwrap(), "writer\n");
        threads.stop();
    }
}
