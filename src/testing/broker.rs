//! A whole broker in a scene: every actor of it on this thread, its disk in memory, its time that of the scene.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use actix_rt::task::JoinHandle;
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use super::calls::create_topic;
use super::remote_client::SceneClient;
use super::transcript::{Heard, Transcript, Way};
use super::{Probe, Scenario, fake_sink, settle};
use crate::actors::actor_list::ActorList;
use crate::actors::aside::simulated::{InPlace, Pace, in_place};
use crate::actors::broker_plan::BrokerPlan;
use crate::actors::broker_tree::{BrokerTree, StartError};
use crate::actors::extensions::hooks::{ExtensionPlan, Hooks};
use crate::actors::facts::LogPositions;
use crate::actors::flusher::DiskFailed;
use crate::actors::threads::{Job, Thread, Threads};
use crate::clock::SharedClock;
use crate::config::{Config, Sources};
use crate::extension::{Extension, ExtensionObserved, Extensions};
use crate::plan::broker_plan;
use crate::store::memory_files::MemoryFiles;
use crate::store::memory_metadata::MemoryMetadata;
use crate::store::metadata::Metadata;
use crate::store::recovery_progress::RecoveryProgress;

/// Where clients would reach it.
const ADDRESS: ([u8; 4], u16) = ([10, 0, 0, 1], 10_911);

/// What differs from the defaults of `telstar start`: files that are small enough for memory. All can be set otherwise.
const SMALL: [&str; 8] = [
    "store.data_dir=/store",
    "store.commit_log_segment_bytes=1048576",
    "store.consume_queue_segment_units=512",
    "store.index_slots=64",
    "store.index_entries=256",
    "message.max_body_bytes=65536",
    "broker.advertise_ip=10.0.0.1",
    "threads.arbiters=1",
];

/// What a broker of a scene is to be; see [`Scenario::broker`].
///
/// ```
/// use telstar::testing::calls::send_to;
/// use telstar::testing::{Scenario, SceneBrokerBuilder};
///
/// # #[actix::main]
/// # async fn main() {
/// let scene = Scenario::begin().await;
/// let builder: SceneBrokerBuilder = scene.broker("broker").topic("orders", 8).set("message.max_body_bytes", 4096);
/// let broker = builder.start().await;
/// let refused = broker.client("shop").call(send_to("orders", 7, vec![b'x'; 5000])).await;
/// assert!(refused.remark.unwrap().starts_with("the message body is 5000 bytes, the limit is 4096"));
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "it is started by `start`"]
pub struct SceneBrokerBuilder {
    scene: Scenario,
    name: Box<str>,
    settings: Vec<String>,
    topics: Vec<(String, u32)>,
    extensions: Extensions,
    /// Names of the extensions above: all of them run.
    started: Vec<&'static str>,
    hooked: Vec<ExtensionPlan>,
}

impl SceneBrokerBuilder {
    /// Gives a setting a value, as `telstar start --set KEY=VALUE` does.
    pub fn set(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.settings.push(format!("{key}={value}"));
        self
    }

    /// Has it begin with a topic.
    pub fn topic(mut self, name: &str, queues: u32) -> Self {
        self.topics.push((name.to_owned(), queues));
        self
    }

    /// Adds an extension, which runs from the start; its settings are those of `extensions.NAME`. It is on the thread of
    /// the scene, and must not block it.
    pub fn extension<E: Extension>(mut self) -> Self {
        self.extensions = self.extensions.with::<E>();
        self.started.push(E::NAME);
        self
    }

    /// Adds an extension whose actors the test has made: fakes, say. `hook` says what they take part in, at the start
    /// and whenever the extension is started again.
    ///
    /// ```
    /// use telstar::extension::{BrokerEvents, EventKind, WhenBehind};
    /// use telstar::testing::Scenario;
    /// use telstar::testing::calls::create_topic;
    ///
    /// # #[actix::main]
    /// # async fn main() {
    /// let scene = Scenario::begin().await;
    /// let (herald, _) = scene.fake::<BrokerEvents>("broker -> herald").start();
    /// let broker = scene.broker("broker").hooks("herald", move |hooks| {
    ///     hooks.on_events(&[EventKind::TopicCreated], herald.clone(), WhenBehind::DropAndCount, 10);
    /// });
    /// broker.start().await.client("admin").succeed(create_topic("orders", 1)).await;
    /// scene.expect(
    ///     "00:00:00.000 admin -> broker: UPDATE_AND_CREATE_TOPIC orders
    ///      00:00:00.000 broker -> herald: BrokerEvents",
    /// );
    /// # }
    /// ```
    pub fn hooks(mut self, name: &'static str, hook: impl Fn(&mut Hooks) + Send + Sync + 'static) -> Self {
        let start = move |hooks: &mut Hooks| {
            hook(hooks);
            Ok(())
        };
        self.hooked.push(ExtensionPlan { name, start: Arc::new(start) });
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// With what is wrong, when a setting is, or an extension does not start.
    pub async fn start(self) -> SceneBroker {
        let mut assignments: Vec<_> = SMALL.map(str::to_owned).into_iter().chain(self.settings).collect();
        if !self.started.is_empty() {
            assignments.push(format!("extensions.start={}", self.started.join(",")));
        }
        let config = match Config::load(&Sources { assignments, ..Sources::default() }) {
            Ok(config) => config,
            Err(error) => panic!("{}: {error}", self.name),
        };
        let mut extensions = match self.extensions.plans(&config.extensions) {
            Ok(extensions) => extensions,
            Err(error) => panic!("{}: {error}", self.name),
        };
        extensions.extend(self.hooked);
        let mut broker = SceneBroker {
            scene: self.scene,
            name: self.name,
            config,
            extensions,
            disk: MemoryFiles::new(),
            metadata: MemoryMetadata::default(),
            running: None,
            _aside: in_place(Pace::default),
        };
        broker.begin().await;
        // Nobody in the scene does this: it is not written down.
        let unheard = Heard { transcript: Transcript::begin(), way: Way::new("", "") };
        let mut client = broker.client_heard("", unheard);
        for (topic, queues) in &self.topics {
            client.succeed(create_topic(topic, *queues)).await;
        }
        broker
    }
}

impl Scenario {
    /// A whole broker, with all its actors: its disk is memory, and its time that of the scene. Clients of it need no
    /// sockets.
    ///
    /// ```
    /// use telstar::testing::Scenario;
    /// use telstar::testing::calls::{pull_from, send_to};
    ///
    /// # #[actix::main]
    /// # async fn main() {
    /// let scene = Scenario::begin().await;
    /// let broker = scene.broker("broker").topic("orders", 1).start().await;
    /// let mut shop = broker.client("shop");
    /// shop.succeed(send_to("orders", 0, "pay 7").delay_level(2)).await;
    /// let mut bank = broker.client("bank");
    /// let found = bank.pull(pull_from("payments", "orders", 0, 0).held(std::time::Duration::from_secs(15))).await;
    /// assert_eq!(found[0].body, "pay 7");
    /// scene.expect(
    ///     r#"00:00:00.000 shop -> broker: SEND_MESSAGE_V2 orders/0 "pay 7" at delay level 2
    ///        00:00:00.000 broker -> shop: SUCCESS, stored in queue 0 at 0
    ///        00:00:00.000 bank -> broker: PULL_MESSAGE orders/0 from 0
    ///        00:00:05.000 broker -> bank: FOUND "pay 7", next is 1"#,
    /// );
    /// # }
    /// ```
    pub fn broker(&self, name: &str) -> SceneBrokerBuilder {
        SceneBrokerBuilder {
            scene: self.clone(),
            name: name.into(),
            settings: Vec::new(),
            topics: Vec::new(),
            extensions: Extensions::none(),
            started: Vec::new(),
            hooked: Vec::new(),
        }
    }
}

/// A broker of a scene; see [`Scenario::broker`]. Dropped, it ends where it stands.
///
/// ```
/// use telstar::testing::calls::{pull_from, send_to};
/// use telstar::testing::Scenario;
///
/// # #[actix::main]
/// # async fn main() {
/// let scene = Scenario::begin().await;
/// let mut broker = scene.broker("broker").topic("orders", 1).set("store.flush_mode", "sync").start().await;
/// broker.client("shop").succeed(send_to("orders", 0, "pay 7")).await;
/// broker.lose_power(1).await;
/// broker.start_again().await;
/// let found = broker.client("bank").pull(pull_from("payers", "orders", 0, 0)).await;
/// assert_eq!(found[0].body, "pay 7"); // it was on disk before the shop was answered
/// # }
/// ```
pub struct SceneBroker {
    scene: Scenario,
    name: Box<str>,
    config: Config,
    extensions: Vec<ExtensionPlan>,
    disk: MemoryFiles,
    metadata: MemoryMetadata,
    running: Option<Running>,
    _aside: InPlace,
}

impl fmt::Debug for SceneBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SceneBroker").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A broker that runs.
struct Running {
    tree: BrokerTree,
    actors: ActorList,
    tasks: Tasks,
}

/// The tasks that a broker's actors are. Dropped, they end in mid-work.
struct Tasks(JoinHandle<()>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a broker is started with, on its own tasks.
struct Opening {
    plan: BrokerPlan,
    thread: Thread,
    disk: MemoryFiles,
    metadata: Metadata,
    clock: SharedClock,
}

impl Opening {
    async fn open(self) -> Result<(BrokerTree, ActorList), StartError> {
        let Self { plan, thread, disk, metadata, clock } = self;
        let threads = Threads::simulated(1, plan.flush, |_| thread.clone());
        // A disk that fails is known to the test that made it fail.
        let (failed, _) = fake_sink::<DiskFailed>();
        let recovery = RecoveryProgress::default();
        let files = Arc::new(disk);
        let tree = BrokerTree::start(plan, &threads, files, metadata, failed, clock, &recovery).await?;
        Ok((tree, threads.actors.clone()))
    }
}

impl SceneBroker {
    /// A client of the broker as it runs now; one that was made before it was started again is cut off.
    ///
    /// # Panics
    /// When the broker does not run.
    pub fn client(&self, name: &str) -> SceneClient {
        self.client_heard(name, self.scene.heard(Way::new(name, &self.name)))
    }

    fn client_heard(&self, name: &str, heard: Heard) -> SceneClient {
        SceneClient::new(name, self.tree().service.clone(), heard, self.scene.clock())
    }

    fn running(&self) -> &Running {
        let Some(running) = &self.running else { panic!("{} does not run", self.name) };
        running
    }

    fn tree(&self) -> &BrokerTree {
        &self.running().tree
    }

    /// Looks at one of its actors, by the name that `telstar actors` shows: `TopicQueue orders/0`. `None`: it has none of
    /// that name.
    ///
    /// # Panics
    /// When the broker does not run.
    pub fn probe(&self, actor: &str) -> Option<Probe> {
        Probe::on(&self.running().actors, actor)
    }

    /// Its disk, to be stalled, filled, or made to fail; see [`MemoryFiles`].
    pub fn disk(&self) -> &MemoryFiles {
        &self.disk
    }

    /// How far its log is, and what follows it.
    pub fn observe(&self) -> LogPositions {
        self.tree().facts.positions()
    }

    /// How each of its extensions is.
    pub async fn extensions(&self) -> Vec<ExtensionObserved> {
        self.tree().extensions.observe().await
    }

    /// Ends it in good order.
    pub async fn stop(&mut self) {
        let Some(Running { tree, tasks, .. }) = self.running.take() else { return };
        self.scene.note(&format!("{} stops", self.name));
        tree.stop().await;
        drop(tasks);
        settle().await;
    }

    /// Ends it where it stands, as `kill -9` does: its disk has all that was written.
    pub async fn kill(&mut self) {
        self.scene.note(&format!("{} is killed", self.name));
        self.end().await;
        self.disk = self.disk.after_kill();
        self.metadata = self.metadata.after_crash(0);
    }

    /// Ends it with its machine: of what was not flushed its disk has an arbitrary part, as `seed` decides.
    pub async fn lose_power(&mut self, seed: u64) {
        self.scene.note(&format!("{} loses power", self.name));
        self.end().await;
        self.disk = self.disk.after_power_loss(seed);
        self.metadata = self.metadata.after_crash(0);
    }

    /// Starts it again, over what its disk has.
    ///
    /// # Panics
    /// With the cause, when it does not start.
    pub async fn start_again(&mut self) {
        self.end().await;
        self.scene.note(&format!("{} starts", self.name));
        self.begin().await;
    }

    /// Drops every actor where it stands.
    async fn end(&mut self) {
        self.running = None;
        settle().await;
    }

    async fn begin(&mut self) {
        let tasks = LocalSet::new();
        let (jobs, mut given) = unbounded_channel::<Job>();
        tasks.spawn_local(async move {
            while let Some(job) = given.recv().await {
                job();
            }
        });
        let (tell, told) = oneshot::channel();
        let opening = Opening {
            plan: BrokerPlan {
                extensions: self.extensions.clone(),
                ..broker_plan(&self.config, SocketAddr::from(ADDRESS), None)
            },
            thread: Thread::Simulated(jobs),
            disk: self.disk.clone(),
            metadata: Metadata::in_memory(&self.metadata),
            clock: self.scene.clock(),
        };
        tasks.spawn_local(async move {
            // Who waits for it may have given up.
            let _ = tell.send(opening.open().await);
        });
        let tasks = Tasks(actix_rt::spawn(tasks));
        match told.await {
            Ok(Ok((tree, actors))) => self.running = Some(Running { tree, actors, tasks }),
            Ok(Err(error)) => panic!("{} does not start: {error}", self.name),
            Err(_) => panic!("{} panicked while it started", self.name),
        }
    }
}
