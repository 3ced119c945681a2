//! The machines of servers: what runs on them, and what their disks keep when it ends.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::chance::Chance;
use super::network::{Accepted, Host};
use super::schedule::Process;
use super::world::{FIRST_BROKER, NAME_SERVER, NATURE, World};
use crate::actors::actor_list::ActorList;
use crate::actors::broker_plan::BrokerPlan;
use crate::actors::broker_tree::BrokerTree;
use crate::actors::commit_log_writer::BusyRules;
use crate::actors::connection::{Connection, ConnectionLimits, NewConnection, Service};
use crate::actors::flusher::DiskFailed;
use crate::actors::name_server::{NameServer, NameServerConfig};
use crate::actors::name_server_service::NameServerService;
use crate::actors::name_server_settings::NameServerPlace;
use crate::actors::threads::{Thread, Threads};
use crate::actors::transport::Transport;
use crate::config::Config;
use crate::plan::broker_plan;
use crate::store::memory_files::MemoryFiles;
use crate::store::memory_metadata::MemoryMetadata;
use crate::store::metadata::Metadata;
use crate::store::recovery_progress::RecoveryProgress;
use crate::types::FlushMode;

/// Port of every broker.
const BROKER_PORT: u16 = 10_911;
/// Until somebody starts a process again that ended by itself.
const RESTART: Duration = Duration::from_secs(1);
const NAME_SERVER_PORT: u16 = 9_876;

/// How a broker ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Its process is killed; the machine keeps what was written.
    Kill,
    /// The machine loses power in mid-write.
    PowerLoss,
}

/// The end of a broker at a named place, in the middle of a turn.
struct Ambush {
    process: Process,
    place: &'static str,
    /// Times that it comes there without anything happening.
    spared: u64,
    end: End,
}

/// Ends of brokers at [named places](crate::kill_point).
#[derive(Default)]
pub struct Ambushes {
    /// Places that somebody came to.
    known: BTreeSet<&'static str>,
    laid: Option<Ambush>,
}

/// A running process, and the way to ask it to stop.
struct Running {
    process: Process,
    stop: Option<oneshot::Sender<oneshot::Sender<()>>>,
}

/// When a disk may fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskTrouble {
    Never,
    Now,
    /// It was mended then.
    Until(Instant),
}

impl DiskTrouble {
    /// The disk is mended now, if there was anything to mend.
    pub fn end(&mut self) {
        if *self == Self::Now {
            *self = Self::Until(Instant::now());
        }
    }

    /// Whether what began at `begun` and ends now may have met with it.
    fn is_met_since(self, begun: Instant) -> bool {
        match self {
            Self::Never => false,
            Self::Now => true,
            Self::Until(mended) => mended >= begun,
        }
    }
}

/// The machine of a broker.
pub struct BrokerMachine {
    number: usize,
    pub disk: MemoryFiles,
    pub metadata: MemoryMetadata,
    pub disk_trouble: DiskTrouble,
    running: Option<Running>,
    chance: Chance,
}

impl BrokerMachine {
    pub fn new(number: usize, seed: u64) -> Self {
        Self {
            number,
            disk: MemoryFiles::new(),
            metadata: MemoryMetadata::default(),
            disk_trouble: DiskTrouble::Never,
            running: None,
            chance: Chance::stream(seed, &format!("broker-{number}")),
        }
    }

    pub fn host(&self) -> Host {
        Host(FIRST_BROKER + self.number as u8)
    }

    pub fn addr(&self) -> SocketAddr {
        self.host().addr(BROKER_PORT)
    }

    /// The process of the broker, if it runs.
    pub fn process(&self) -> Option<Process> {
        self.running.as_ref().map(|running| running.process)
    }

    fn lose_state(&mut self, end: End) {
        let seed = self.chance.below(u64::MAX);
        match end {
            End::Kill => {
                self.disk = self.disk.after_kill();
                // What sled was given is in the hands of the operating system only once it was flushed.
                let kept = self.chance.below(self.metadata.unflushed() as u64 + 1) as usize;
                self.metadata = self.metadata.after_crash(kept);
            }
            End::PowerLoss => {
                self.disk = self.disk.after_power_loss(seed);
                let kept = self.chance.below(self.metadata.unflushed() as u64 + 1) as usize;
                self.metadata = self.metadata.after_crash(kept);
            }
        }
    }
}

/// The machine of the name server.
#[derive(Default)]
pub struct NameServerMachine {
    metadata: MemoryMetadata,
    process: Option<Process>,
}

pub fn name_server_addr() -> SocketAddr {
    NAME_SERVER.addr(NAME_SERVER_PORT)
}

/// Limits of brokers: the less there may be of something, the sooner it is seen what follows when there is no more.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages that may wait in the mailboxes of queues, of the writer, of tables and of connections.
    mailbox: usize,
    /// Pulls that a queue holds.
    holds: usize,
    /// Sends that wait for the append before them.
    waiting_sends: usize,
}

impl Limits {
    pub fn of(chance: &mut Chance) -> Self {
        let mut one_of = |limits: [usize; 3]| limits[chance.below(3) as usize];
        Self {
            mailbox: one_of([2, 8, 1_024]),
            holds: one_of([1, 4, 8_192]),
            waiting_sends: one_of([1, 4, 1_000_000]),
        }
    }
}

fn plan(world: &World, number: usize, addr: SocketAddr) -> BrokerPlan {
    let mut config = Config::default();
    config.broker.name = format!("broker-{number}").as_str().into();
    config.broker.cluster = "simulated".to_owned();
    config.broker.advertise_ip = addr.ip();
    config.broker.name_servers = vec![name_server_addr().to_string()];
    config.store.data_dir = "/store".into();
    config.store.commit_log_segment_bytes = 64 * 1024;
    config.store.consume_queue_segment_units = 64;
    config.store.index_slots = 64;
    config.store.index_entries = 256;
    config.store.flush_mode = world.flush;
    config.message.max_body_bytes = 4_096;
    let Limits { mailbox, holds, waiting_sends } = world.limits;
    config.mailbox.topic_queue = mailbox;
    config.mailbox.store = mailbox;
    config.mailbox.tables = mailbox;
    config.pull.max_holds = holds;
    config.send.max_waiting = waiting_sends;
    let plan = broker_plan(&config, addr, None);
    // A world has few clients: two sends are a crowd here.
    let busy_writer = BusyRules { crowd: 2, crowded_turns: 1, lone_turns: 2 };
    let dial = Some(world.network.dial_from(Host(FIRST_BROKER + number as u8)));
    BrokerPlan { busy_writer, dial, ..plan }
}

/// Where actors tell what ends their process.
struct FailureWatch(UnboundedSender<DiskFailed>);

impl Actor for FailureWatch {
    type Context = Context<Self>;
}

impl Handler<DiskFailed> for FailureWatch {
    type Result = ();

    fn handle(&mut self, failed: DiskFailed, _: &mut Self::Context) {
        let _ = self.0.send(failed);
    }
}

/// Starts a connection on a thread of `threads` for each client that comes.
struct Port {
    accepted: UnboundedReceiver<Accepted>,
    threads: Vec<Thread>,
    actors: ActorList,
    local: SocketAddr,
    service: Arc<dyn Service>,
    world: Rc<World>,
}

impl Port {
    async fn serve(mut self) {
        let mut turn = 0;
        while let Some(Accepted { stream, peer }) = self.accepted.recv().await {
            turn += 1;
            let new = NewConnection {
                transport: Transport::Simulated(Box::new(stream)),
                peer,
                local: self.local,
                service: self.service.clone(),
                limits: ConnectionLimits {
                    mailbox_capacity: self.world.limits.mailbox,
                    ..ConnectionLimits::default()
                },
                clock: self.world.clock.clone(),
            };
            let thread = &self.threads[turn % self.threads.len()];
            self.actors.start_on(thread, peer.to_string(), move || Connection::new(new));
        }
    }
}

impl World {
    pub fn start_name_server(self: &Rc<Self>) {
        let mut machine = self.name_server.borrow_mut();
        if machine.process.is_some() {
            return; // somebody else has
        }
        let process = self.schedule.new_process();
        machine.process = Some(process);
        let metadata = Metadata::in_memory(&machine.metadata);
        let (world, thread) = (self.clone(), self.schedule.start_thread(process));
        self.schedule.spawn(process, async move {
            let addr = name_server_addr();
            let place = NameServerPlace {
                bind_address: addr.ip().to_string(),
                listen_port: addr.port(),
                home: "/names".to_owned(),
            };
            let config = NameServerConfig { mailbox_capacity: 1_024, place };
            match NameServer::open(config, Some(metadata), world.clock.clone()) {
                Ok((actor, routes)) => {
                    let actors = ActorList::default();
                    let actor = actors.start_on(&thread, "", move || actor);
                    let service = Arc::new(NameServerService::new(routes, actor, actors.clone()));
                    let accepted = world.network.listen(addr);
                    world.note("name server is up");
                    Port { accepted, threads: vec![thread], actors, local: addr, service, world }
                        .serve()
                        .await;
                }
                Err(error) => world.violate(format_args!("the name server does not start: {error}")),
            }
        });
    }

    pub fn end_name_server(&self) {
        let mut machine = self.name_server.borrow_mut();
        if let Some(process) = machine.process.take() {
            machine.metadata = machine.metadata.after_crash(0);
            self.schedule.end(process);
            self.network.lose(NAME_SERVER);
            self.note("name server is killed");
        }
    }

    pub fn start_broker(self: &Rc<Self>, number: usize) {
        let process = self.schedule.new_process();
        let (stop, stopping) = oneshot::channel();
        let mut brokers = self.brokers.borrow_mut();
        let machine = &mut brokers[number];
        if machine.running.is_some() {
            return;
        }
        machine.running = Some(Running { process, stop: Some(stop) });
        let (files, addr) = (Arc::new(machine.disk.clone()), machine.addr());
        let metadata = Metadata::in_memory(&machine.metadata);
        let workers = 1 + machine.chance.below(4) as usize;
        let begun = Instant::now();
        drop(brokers);
        let world = self.clone();
        self.schedule.spawn(process, async move {
            let threads = Threads::simulated(workers, world.flush, |_| world.schedule.start_thread(process));
            let (failed, failures) = unbounded_channel();
            let failed = FailureWatch(failed).start().recipient();
            let (plan, clock) = (plan(&world, number, addr), world.clock.clone());
            let recovery = RecoveryProgress::default();
            let started = BrokerTree::start(plan, &threads, files, metadata, failed, clock, &recovery).await;
            match started {
                // It ended in the middle of this turn.
                _ if world.brokers.borrow()[number].process() != Some(process) => {}
                Ok(tree) => {
                    let accepted = world.network.listen(addr);
                    world.note(format_args!("broker-{number} is up, {workers} workers"));
                    let service = tree.service.clone();
                    let port = Port {
                        accepted,
                        threads: threads.workers.clone(),
                        actors: threads.actors.clone(),
                        local: addr,
                        service,
                        world: world.clone(),
                    };
                    serve_until_ended(number, port, tree, failures, stopping, world).await;
                }
                // Its disk may have been mended between the failure and this turn.
                Err(error) if world.brokers.borrow()[number].disk_trouble.is_met_since(begun) => {
                    world.note(format_args!("broker-{number} does not start: {error}"));
                    world.replace_broker(number);
                }
                Err(error) => world.violate(format_args!("broker-{number} does not start: {error:?}")),
            }
        });
    }

    /// Ends a broker in mid-work; what its disk keeps is there at the next start.
    pub fn end_broker(&self, number: usize, end: End) {
        let mut brokers = self.brokers.borrow_mut();
        let machine = &mut brokers[number];
        let Some(running) = machine.running.take() else { return };
        // With messages that nobody flushed, a loss of power takes what was acknowledged, and may.
        let end = if self.flush == FlushMode::Async { End::Kill } else { end };
        machine.lose_state(end);
        if end == End::PowerLoss {
            self.ledger.borrow_mut().power_lost();
        }
        self.schedule.end(running.process);
        self.network.lose(machine.host());
        self.note(format_args!("broker-{number} ends: {end:?}"));
    }

    /// Has a broker end at some place that it or another one came to before.
    pub fn ambush(&self, number: usize, end: End, chance: &mut Chance) {
        let Some(process) = self.brokers.borrow()[number].process() else { return };
        let mut ambushes = self.ambushes.borrow_mut();
        let at = chance.below(ambushes.known.len().max(1) as u64) as usize;
        let Some(place) = ambushes.known.iter().nth(at).copied() else { return };
        ambushes.laid = Some(Ambush { process, place, spared: chance.below(3), end });
    }

    /// Somebody came to a named place.
    pub fn reached(&self, place: &'static str) {
        let Some(process) = self.schedule.running() else { return };
        let mut ambushes = self.ambushes.borrow_mut();
        ambushes.known.insert(place);
        let Some(ambush) = ambushes.laid.as_mut() else { return };
        if (ambush.process, ambush.place) != (process, place) {
            return;
        }
        if ambush.spared > 0 {
            ambush.spared -= 1;
            return;
        }
        let end = ambush.end;
        ambushes.laid = None;
        drop(ambushes);
        let number = self.brokers.borrow().iter().position(|broker| broker.process() == Some(process));
        if let Some(number) = number {
            self.note(format_args!("broker-{number} comes to {place}"));
            // The rest of the turn has no effect: its disk is another one, and its connections are gone.
            self.end_broker(number, end);
        }
    }

    /// Ends a process that its disk has failed, and starts another one soon.
    fn replace_broker(self: &Rc<Self>, number: usize) {
        self.end_broker(number, End::Kill);
        let world = self.clone();
        self.schedule.spawn(NATURE, async move {
            sleep(RESTART).await;
            world.start_broker(number);
        });
    }

    /// Ends a broker in good order.
    pub async fn stop_broker(&self, number: usize) {
        let stop = self.brokers.borrow_mut()[number].running.as_mut().and_then(|running| running.stop.take());
        let Some(stop) = stop else { return };
        self.note(format_args!("broker-{number} is told to stop"));
        let (stopped, is_stopped) = oneshot::channel();
        // It may end in another way meanwhile.
        if stop.send(stopped).is_ok() && is_stopped.await.is_ok() {
            self.note(format_args!("broker-{number} has stopped"));
            self.end_broker(number, End::Kill);
        }
    }
}

async fn serve_until_ended(
    number: usize,
    port: Port,
    tree: BrokerTree,
    mut failures: UnboundedReceiver<DiskFailed>,
    stopping: oneshot::Receiver<oneshot::Sender<()>>,
    world: Rc<World>,
) {
    let stopped = {
        let serving = async {
            tree.register().await;
            std::future::pending::<()>().await
        };
        tokio::select! {
            biased;
            Some(failed) = failures.recv() => {
                world.note(format_args!("broker-{number} has a disk that failed: {}", failed.cause));
                world.replace_broker(number);
                None
            }
            Ok(stopped) = stopping => Some(stopped),
            () = port.serve() => None,
            () = serving => None,
        }
    };
    if let Some(stopped) = stopped {
        tree.stop().await;
        // Who asked may be gone.
        let _ = stopped.send(());
    }
    std::future::pending::<()>().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_start_meets_with_trouble_that_was_mended_before_its_failure_was_told() {
        let mut trouble = DiskTrouble::Now;
        let second = Duration::from_secs(1);
        let started_before = Instant::now();
        tokio::time::advance(second).await;
        assert!(trouble.is_met_since(started_before), "not mended");
        trouble.end();
        tokio::time::advance(second).await;
        let started_after = Instant::now();
        trouble.end();
        assert!(trouble.is_met_since(started_before), "mended meanwhile");
        assert!(!trouble.is_met_since(started_after), "mended before, once");

        let mut never = DiskTrouble::Never;
        never.end();
        assert!(!never.is_met_since(started_before), "nothing was mended");
    }
}
