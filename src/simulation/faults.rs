//! What happens to a world: one misfortune after the other, as a seed says.

use std::io::ErrorKind;
use std::rc::Rc;

use super::chance::Chance;
use super::consumers;
use super::machine::{DiskTrouble, End};
use super::network::Host;
use super::schedule::Process;
use super::world::{BROKERS, NAME_SERVER, NATURE, World};
use crate::store::memory_files::FileOperation;

pub const CONSUMERS: u32 = 2;

/// Nature, and what it remembers of what it did.
pub struct Faults {
    world: Rc<World>,
    chance: Chance,
    /// The members of the group, and how often each was replaced.
    members: Vec<(Process, u32)>,
}

impl Faults {
    pub fn new(world: &Rc<World>) -> Self {
        let members = (0..CONSUMERS).map(|number| (consumers::start(world, number, 0), 0)).collect();
        Self { world: world.clone(), chance: Chance::stream(world.seed, "faults"), members }
    }

    /// Does one thing, and undoes it after a while; others may happen meanwhile.
    pub fn strike(&mut self) {
        let broker = self.chance.below(BROKERS as u64) as usize;
        let mut chance = Chance::of_seed(self.chance.below(u64::MAX));
        let world = self.world.clone();
        match self.chance.below(11) {
            0 => self.later(async move { crash(&world, &mut chance, broker, End::Kill).await }),
            1 | 2 => self.later(async move { crash(&world, &mut chance, broker, End::PowerLoss).await }),
            3 => self.later(async move {
                world.stop_broker(broker).await;
                world.pause(&mut chance, 1, 3_000).await;
                world.start_broker(broker);
            }),
            4 => {
                let reset = world.network.reset_some(3);
                world.note(format_args!("{reset} connections are reset"));
            }
            5 => self.later(async move {
                let host = world.brokers.borrow()[broker].host();
                let other = Host([NAME_SERVER.0, 100, 101, 150, 151][chance.below(5) as usize]);
                world.note(format_args!("broker-{broker} is cut off from {other:?}"));
                world.network.cut(host, other);
                world.pause(&mut chance, 200, 8_000).await;
                world.note("all can reach each other");
                world.network.mend();
            }),
            6 => self.later(async move {
                world.note("the network is slow");
                world.network.set_latency_ms(400);
                world.pause(&mut chance, 500, 5_000).await;
                world.network.set_latency_ms(4);
            }),
            7 => self.later(async move {
                let Some(process) = world.brokers.borrow()[broker].process() else { return };
                world.note(format_args!("a thread of broker-{broker} stalls"));
                world.schedule.stall_one(process);
                world.pause(&mut chance, 50, 4_000).await;
                world.schedule.go_on(process);
            }),
            8 => self.later(async move { trouble_disk(&world, &mut chance, broker).await }),
            9 => self.replace_member(),
            _ => self.later(async move {
                world.end_name_server();
                world.pause(&mut chance, 100, 4_000).await;
                world.start_name_server();
            }),
        }
    }

    fn later(&self, work: impl Future<Output = ()> + 'static) {
        self.world.schedule.spawn(NATURE, work);
    }

    /// A member is lost in mid-work, and another one comes.
    fn replace_member(&mut self) {
        let number = self.chance.below(u64::from(CONSUMERS)) as u32;
        let (process, life) = self.members[number as usize];
        self.world.note(format_args!("consumer-{number}.{life} is lost"));
        self.world.schedule.end(process);
        self.members[number as usize] = (consumers::start(&self.world, number, life + 1), life + 1);
    }
}

async fn crash(world: &Rc<World>, chance: &mut Chance, broker: usize, end: End) {
    // Some of what was under way is so when one who was to finish it has not had a turn for a while.
    if chance.one_in(2)
        && let Some(process) = world.brokers.borrow()[broker].process()
    {
        world.note(format_args!("a thread of broker-{broker} stalls, and goes on no more"));
        world.schedule.stall_one(process);
    }
    let process = world.brokers.borrow()[broker].process();
    if chance.one_in(2) {
        world.ambush(broker, end, chance);
        world.pause(chance, 1, 6_000).await;
    } else {
        world.pause(chance, 1, 300).await;
    }
    if world.brokers.borrow()[broker].process() == process {
        world.end_broker(broker, end);
    }
    world.pause(chance, 1, 5_000).await;
    world.start_broker(broker);
}

/// A disk that is full, or fails once.
async fn trouble_disk(world: &Rc<World>, chance: &mut Chance, broker: usize) {
    let (disk, metadata) = {
        let mut brokers = world.brokers.borrow_mut();
        brokers[broker].disk_trouble = DiskTrouble::Now;
        (brokers[broker].disk.clone(), brokers[broker].metadata.clone())
    };
    match chance.below(4) {
        0 => {
            world.note(format_args!("the disk of broker-{broker} is full"));
            // Not by its capacity: then old messages would be given up, consumed or not, as they may be.
            disk.fail_always(FileOperation::Write, ErrorKind::StorageFull);
            disk.fail_always(FileOperation::Create, ErrorKind::StorageFull);
        }
        1 => {
            world.note(format_args!("a write of broker-{broker} fails"));
            disk.fail_after(FileOperation::Write, chance.below(4) as usize, ErrorKind::StorageFull);
        }
        2 => {
            world.note(format_args!("a sync of broker-{broker} fails"));
            disk.fail_after(FileOperation::Sync, chance.below(4) as usize, ErrorKind::Other);
        }
        _ => {
            world.note(format_args!("the metadata of broker-{broker} cannot be flushed"));
            metadata.fail_flushes(true);
        }
    }
    world.pause(chance, 500, 6_000).await;
    mend_disks(world);
}

/// Every disk is as disks should be.
pub fn mend_disks(world: &World) {
    world.note("every disk is mended");
    for broker in world.brokers.borrow_mut().iter_mut() {
        broker.disk_trouble.end();
        broker.disk.fail_nothing();
        broker.metadata.fail_flushes(false);
    }
}
