//! The threads of a process, and who shares one where cores are few.

use actix::prelude::*;
use tracing::warn;

use super::actor_list::{ActorList, name_thread};
use crate::types::FlushMode;

/// From so many workers on, those who follow the writer of the log have threads of their own.
const MANY_WORKERS: usize = 3;

/// The threads of a process: some for clients and queues, one each for those who wait for memory and disk.
pub struct Threads {
    /// Who runs on them.
    pub actors: ActorList,
    pub workers: Vec<Arbiter>,
    /// Settings: actors that wait for sled's fsyncs, away from messages.
    pub settings: Arbiter,
    /// Settings of groups: the first request of a new group waits for them, and so for no fsync of the others.
    pub groups: Arbiter,
    /// Members of groups, producers, figures, links to name servers: nothing here ever waits for a disk.
    pub members: Arbiter,
    /// Consumer offsets and consumed keys, which write to sled and leave its fsyncs to the pool.
    pub offsets: Arbiter,
    pub writer: Arbiter,
    /// `None` where cores are few and every send waits for the disk: the writer then has nothing better to do, and what
    /// arrives meanwhile makes the next flush larger.
    pub flusher: Option<Arbiter>,
    /// `None` where cores are few: the dispatcher then follows the writer on its thread, since waking another one costs
    /// more than it gains.
    pub dispatcher: Option<Arbiter>,
    /// The key index, which nobody waits for.
    pub index: Arbiter,
    /// Timers, which wait for memory and disk, and whose error is not to be that of others.
    pub timers: Arbiter,
}

impl Threads {
    pub fn start(workers: usize, flush: FlushMode) -> Self {
        let are_many = workers >= MANY_WORKERS;
        Self {
            actors: ActorList::default(),
            workers: (0..workers.max(1)).map(|_| named("worker")).collect(),
            settings: named("settings"),
            groups: named("groups"),
            members: named("members"),
            offsets: named("offsets"),
            writer: named("writer"),
            flusher: (are_many || flush == FlushMode::Async).then(|| named("flusher")),
            dispatcher: are_many.then(|| named("dispatcher")),
            index: named("index"),
            timers: named("timers"),
        }
    }

    pub fn dispatcher_handle(&self) -> ArbiterHandle {
        self.dispatcher.as_ref().unwrap_or(&self.writer).handle()
    }

    pub fn flusher_handle(&self) -> ArbiterHandle {
        self.flusher.as_ref().unwrap_or(&self.writer).handle()
    }

    pub fn worker_handles(&self) -> Vec<ArbiterHandle> {
        self.workers.iter().map(Arbiter::handle).collect()
    }

    /// Ends every thread and waits for it: whatever its actors held is free then. Blocks.
    pub fn stop(self) {
        let Self {
            actors: _,
            workers,
            settings,
            groups,
            members,
            offsets,
            writer,
            flusher,
            dispatcher,
            index,
            timers,
        } = self;
        let special = [settings, groups, members, offsets, writer, index, timers];
        let followers = flusher.into_iter().chain(dispatcher);
        let arbiters: Vec<_> = workers.into_iter().chain(special).chain(followers).collect();
        for arbiter in &arbiters {
            arbiter.stop();
        }
        for arbiter in arbiters {
            if arbiter.join().is_err() {
                warn!("a thread had panicked before it was stopped");
            }
        }
    }
}

/// A thread, named for the list of actors.
fn named(name: &'static str) -> Arbiter {
    let arbiter = Arbiter::new();
    arbiter.spawn_fn(move || name_thread(name));
    arbiter
}
