use std::cell::RefCell;
use std::rc::Rc;
use std::sync::mpsc;

use tokio::sync::{Semaphore, mpsc as async_mpsc};

use super::*;
use crate::actors::broker_settings::SettingValues;
use crate::actors::topic_table::{TopicMap, TopicTable};
use crate::clock::{ManualClock, WallMs};
use crate::protocol::response_code::ResponseCode;

/// Stands for the link with the name servers: records what it is told, answers when it is let.
struct FakeRegistrar {
    registrations: async_mpsc::UnboundedSender<RegisterTopics>,
    gate: Arc<Semaphore>,
}

impl Actor for FakeRegistrar {
    type Context = actix::Context<Self>;
}

impl Handler<RegisterTopics> for FakeRegistrar {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, registration: RegisterTopics, _: &mut Self::Context) -> Self::Result {
        self.registrations.send(registration).unwrap();
        let gate = self.gate.clone();
        Box::pin(async move { gate.acquire().await.unwrap().forget() })
    }
}

/// Records which deletions it hears of.
struct FakeWatcher(mpsc::Sender<String>);

impl Actor for FakeWatcher {
    type Context = actix::Context<Self>;
}

impl Handler<TopicDeleted> for FakeWatcher {
    type Result = ();

    fn handle(&mut self, deleted: TopicDeleted, _: &mut Self::Context) {
        self.0.send(format!("told of {}", deleted.topic)).unwrap();
    }
}

/// Records which files are deleted; knows those of one topic that does not exist.
struct FakeFiles(mpsc::Sender<String>);

impl QueueFiles for FakeFiles {
    fn delete_topic(&self, topic: &TopicName) -> io::Result<()> {
        self.0.send(format!("files of {topic}")).unwrap();
        Ok(())
    }

    fn topics(&self) -> io::Result<Vec<TopicName>> {
        Ok(vec!["orders".into(), "left_over".into(), "TBW102".into()])
    }
}

struct Fixture {
    topics: Addr<Topics>,
    table: TopicTable,
    metadata: Metadata,
    registrations: async_mpsc::UnboundedReceiver<RegisterTopics>,
    gate: Arc<Semaphore>,
    events: mpsc::Receiver<String>,
}

fn config() -> TopicsConfig {
    TopicsConfig {
        rules: TopicRules {
            cluster: "DefaultCluster".into(),
            broker: "broker-a".into(),
            mixed_message_type: false,
        },
        auto_create: true,
        permission: Permission::READ_WRITE,
        default_queue_nums: 8,
        trace_topic: Some(names::TRACE_TOPIC.into()),
        delay_levels: 18,
        registration_wait_max: Duration::from_secs(3),
        mailbox_capacity: 1_000,
    }
}

fn no_queues() -> QueueStarter {
    Arc::new(|topic, id| panic!("queue {id} of {} is started", topic.name()))
}

/// Topics whose registrations are answered at once.
fn start() -> Fixture {
    start_with(config(), Metadata::temporary().unwrap(), Semaphore::MAX_PERMITS)
}

fn start_with(config: TopicsConfig, metadata: Metadata, permits: usize) -> Fixture {
    let (sender, registrations) = async_mpsc::unbounded_channel();
    let (event_sender, events) = mpsc::channel();
    let gate = Arc::new(Semaphore::new(permits));
    let registrar = FakeRegistrar { registrations: sender, gate: gate.clone() }.start();
    let peers = TopicsPeers {
        events: EventTap::default(),
        starter: no_queues(),
        files: Arc::new(FakeFiles(event_sender.clone())),
        registrar: Some(registrar.recipient()),
        deletions: vec![FakeWatcher(event_sender).start().recipient()],
    };
    let clock: SharedClock = ManualClock::at(WallMs(1_000));
    let loaded = LoadedTopics::load(&metadata, &config, &peers.starter, &clock).unwrap();
    let table = loaded.table.clone();
    let topics = loaded.into_actor(metadata.clone(), config, peers, clock).start();
    Fixture { topics, table, metadata, registrations, gate, events }
}

fn create(topic: &str) -> CreateTopic {
    CreateTopic { config: TopicConfig::new(topic, 4) }
}

fn auto_create(topic: &str) -> AutoCreateTopic {
    AutoCreateTopic {
        topic: topic.into(),
        default_topic: DEFAULT_TOPIC.into(),
        client_queue_nums: 4,
        topic_sys_flag: 0,
    }
}

fn with_attribute(topic: &str, key: &str, value: &str) -> CreateTopic {
    let mut config = TopicConfig::new(topic, 4);
    config.attributes.insert(key.into(), value.into());
    CreateTopic { config }
}

#[actix::test]
async fn creation_is_stored_published_and_registered_before_it_is_answered() {
    let mut fixture = start_with(config(), Metadata::temporary().unwrap(), 0);
    let version = fixture.table.load().data_version;
    let answered = Rc::new(RefCell::new(false));
    let answer = {
        let (topics, answered) = (fixture.topics.clone(), answered.clone());
        actix::spawn(async move {
            let entry = topics.send(create("orders")).await.unwrap().unwrap();
            *answered.borrow_mut() = true;
            entry
        })
    };
    let registration = fixture.registrations.recv().await.unwrap();
    assert_eq!(registration.changed, [TopicConfig::new("orders", 4)]);
    assert_eq!(registration.data_version.counter, version.counter + 1);
    assert_eq!(fixture.table.load().data_version, registration.data_version);
    assert_eq!(fixture.metadata.topics().unwrap().version().unwrap(), registration.data_version);
    assert!(fixture.metadata.topics().unwrap().get("orders").unwrap().is_some());
    assert!(!*answered.borrow());
    fixture.gate.add_permits(1);
    assert!(Arc::ptr_eq(&answer.await.unwrap(), &fixture.table.get("orders").unwrap()));
}

#[actix::test]
async fn answer_comes_though_the_name_servers_are_silent() {
    tokio::time::pause();
    let fixture = start_with(config(), Metadata::temporary().unwrap(), 0);
    fixture.topics.send(create("orders")).await.unwrap().unwrap();
}

#[actix::test]
async fn concurrent_auto_creations_of_one_topic_create_it_once() {
    let mut fixture = start();
    let both = futures::future::join_all((0..2).map(|_| fixture.topics.send(auto_create("orders")))).await;
    let entries: Vec<_> = both.into_iter().map(|entry| entry.unwrap().unwrap()).collect();
    assert!(Arc::ptr_eq(&entries[0], &entries[1]));
    assert_eq!(entries[0].config, TopicConfig::new("orders", 4));
    let registration = fixture.registrations.try_recv().unwrap();
    assert_eq!(registration.changed.len(), 1);
    assert!(fixture.registrations.try_recv().is_err());
}

#[actix::test]
async fn changes_during_a_registration_are_registered_together() {
    let mut fixture = start_with(config(), Metadata::temporary().unwrap(), 0);
    let first = actix::spawn(fixture.topics.send(create("first")));
    fixture.registrations.recv().await.unwrap();
    let rest: Vec<_> =
        (0..99).map(|n| actix::spawn(fixture.topics.send(create(&format!("topic-{n}"))))).collect();
    tokio::task::yield_now().await;
    fixture.gate.add_permits(1);
    first.await.unwrap().unwrap().unwrap();
    assert_eq!(fixture.registrations.recv().await.unwrap().changed.len(), 99);
    fixture.gate.add_permits(1);
    for answer in rest {
        answer.await.unwrap().unwrap().unwrap();
    }
    assert!(fixture.registrations.try_recv().is_err());
}

#[actix::test]
async fn topics_and_their_version_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let version = {
        let fixture = start_with(config(), Metadata::open(dir.path()).unwrap(), Semaphore::MAX_PERMITS);
        fixture.topics.send(with_attribute("orders", "+message.type", "FIFO")).await.unwrap().unwrap();
        fixture.topics.send(create("gone")).await.unwrap().unwrap();
        fixture.topics.send(DeleteTopic { topic: "gone".into() }).await.unwrap().unwrap();
        fixture.table.load().data_version
    };
    let metadata = reopen(dir.path()).await;
    let fixture = start_with(config(), metadata, Semaphore::MAX_PERMITS);
    assert_eq!(fixture.table.get("orders").unwrap().config.message_type(), "FIFO");
    assert!(fixture.table.get("gone").is_none());
    assert_eq!(fixture.table.load().data_version.counter, version.counter + 1);
    assert_eq!(fixture.metadata.topics().unwrap().all().unwrap().len(), 1, "system topics are not stored");
}

/// The first life's actor drops its handle of the database when its arbiter gets to it.
async fn reopen(dir: &std::path::Path) -> Metadata {
    for _ in 0..10_000 {
        if let Ok(metadata) = Metadata::open(dir) {
            return metadata;
        }
        tokio::task::yield_now().await;
    }
    panic!("the database is still open");
}

#[actix::test]
async fn deletion_takes_files_and_offsets_along() {
    let mut fixture = start();
    fixture.topics.send(create("orders")).await.unwrap().unwrap();
    let retry = EnsureTopic { config: TopicConfig::new("%RETRY%billing+orders", 1) };
    fixture.topics.send(retry).await.unwrap().unwrap();
    let delete = DeleteTopic { topic: "orders".into() };
    assert!(fixture.topics.send(delete.clone()).await.unwrap().unwrap().existed);
    assert!(fixture.table.get("orders").is_none() && fixture.table.get("%RETRY%billing+orders").is_none());
    let mut events: Vec<String> = fixture.events.try_iter().collect();
    events.sort();
    assert_eq!(
        events,
        [
            "files of %RETRY%billing+orders",
            "files of orders",
            "told of %RETRY%billing+orders",
            "told of orders"
        ]
    );
    let registrations: Vec<_> = std::iter::from_fn(|| fixture.registrations.try_recv().ok()).collect();
    assert_eq!(registrations.last().unwrap().changed, []);
    assert!(!fixture.topics.send(delete).await.unwrap().unwrap().existed);
    let system = fixture.topics.send(DeleteTopic { topic: "TBW102".into() }).await.unwrap().unwrap_err();
    assert_eq!(system.to_string(), "The topic[TBW102] is conflict with system topic.");
}

#[actix::test]
async fn topic_created_after_its_deletion_finds_the_old_files_gone() {
    let fixture = start();
    fixture.topics.send(create("orders")).await.unwrap().unwrap();
    let deleted = fixture.topics.send(DeleteTopic { topic: "orders".into() });
    let created = fixture.topics.send(create("orders"));
    // Both wait in the mailbox together.
    let (deleted, created) = futures::future::join(deleted, created).await;
    assert!(deleted.unwrap().unwrap().existed);
    created.unwrap().unwrap();
    assert_eq!(fixture.events.try_iter().collect::<Vec<_>>(), ["files of orders", "told of orders"]);
    assert!(fixture.table.get("orders").is_some());
}

#[actix::test]
async fn files_of_topics_that_do_not_exist_are_deleted_on_demand() {
    let fixture = start();
    fixture.topics.send(create("orders")).await.unwrap().unwrap();
    fixture.topics.send(DeleteUnusedFiles).await.unwrap().unwrap();
    assert_eq!(fixture.events.try_iter().collect::<Vec<_>>(), ["files of left_over"]);
}

#[actix::test]
async fn list_with_one_bad_topic_creates_none() {
    let mut fixture = start();
    let configs = vec![TopicConfig::new("good", 1), TopicConfig::new("bad name!", 1)];
    let refusal = fixture.topics.send(CreateTopics { configs }).await.unwrap().unwrap_err();
    assert_eq!(refusal.code(), ResponseCode::INVALID_PARAMETER);
    assert!(fixture.table.get("good").is_none());
    let configs = vec![TopicConfig::new("one", 1), TopicConfig::new("two", 2)];
    let created = fixture.topics.send(CreateTopics { configs }).await.unwrap().unwrap();
    assert_eq!(created, TopicsCreated { count: 2 });
    assert_eq!(fixture.registrations.try_recv().unwrap().changed.len(), 2);
}

#[actix::test]
async fn settings_that_are_there_already_are_not_registered_again() {
    let mut fixture = start();
    for _ in 0..2 {
        fixture.topics.send(create("orders")).await.unwrap().unwrap();
    }
    assert!(fixture.registrations.try_recv().is_ok());
    assert!(fixture.registrations.try_recv().is_err());
}

#[actix::test]
async fn creation_is_refused_with_the_texts_of_java() {
    let fixture = start();
    let refused = async |create: CreateTopic| fixture.topics.send(create).await.unwrap().unwrap_err();
    let system = refused(create("DefaultCluster")).await;
    assert_eq!(system.to_string(), "The topic[DefaultCluster] is conflict with system topic.");
    let attribute = refused(with_attribute("orders", "+no.such.attribute", "1")).await;
    assert_eq!(attribute.to_string(), "unsupported key: no.such.attribute");
    assert_eq!(attribute.code(), ResponseCode::SYSTEM_ERROR);
    let mut twice = with_attribute("orders", "+cleanup.policy", "COMPACTION");
    twice.config.attributes.insert("+retention.ms".into(), "1000".into());
    assert_eq!(refused(twice).await.code(), ResponseCode::INVALID_PARAMETER);
    let mixed = refused(with_attribute("orders", "+message.type", "MIXED")).await;
    assert!(mixed.to_string().starts_with("MIXED message type is not supported."));
    let many = refused(CreateTopic { config: TopicConfig::new("orders", u32::MAX) }).await;
    assert_eq!(many.to_string(), "readQueueNums is 4294967295, allowed is 0 to 65536");
    let perm = TopicConfig::new("orders", 1).with_perm(Permission(64));
    assert_eq!(refused(CreateTopic { config: perm }).await.code(), ResponseCode::INVALID_PARAMETER);
    assert!(fixture.table.get("orders").is_none());
}

#[actix::test]
async fn permission_changes_alone() {
    let fixture = start();
    fixture.topics.send(with_attribute("orders", "+message.type", "FIFO")).await.unwrap().unwrap();
    let set = |topic: &str| SetTopicPermission { topic: topic.into(), perm: Permission::READ };
    let entry = fixture.topics.send(set("orders")).await.unwrap().unwrap();
    assert_eq!((entry.config.perm, entry.config.message_type()), (Permission::READ, "FIFO"));
    assert!(fixture.topics.send(set("other")).await.unwrap().is_err());
}

#[actix::test]
async fn without_auto_creation_only_retry_topics_come_by_a_send() {
    let config = TopicsConfig { auto_create: false, ..config() };
    let fixture = start_with(config, Metadata::temporary().unwrap(), Semaphore::MAX_PERMITS);
    assert!(fixture.table.get(DEFAULT_TOPIC).is_none());
    let refusal = fixture.topics.send(auto_create("orders")).await.unwrap().unwrap_err();
    assert_eq!(refusal.code(), ResponseCode::TOPIC_NOT_EXIST);
    assert!(refusal.to_string().contains("autoCreateTopicEnable is off"), "{refusal}");
    let retry = fixture.topics.send(auto_create("%RETRY%billing")).await.unwrap().unwrap();
    assert_eq!(retry.config, TopicConfig::new("%RETRY%billing", 1));
}

#[actix::test]
async fn auto_creation_is_switched_while_the_broker_runs() {
    let mut fixture = start();
    let switch = |auto_create_topic| SettingsChanged {
        settings: Arc::new(SettingValues { auto_create_topic, ..SettingValues::default() }),
    };
    fixture.topics.send(switch(false)).await.unwrap();
    assert!(fixture.topics.send(auto_create("orders")).await.unwrap().is_err());
    assert_eq!(fixture.table.get(DEFAULT_TOPIC).unwrap().config.perm, Permission::READ_WRITE);
    fixture.topics.send(switch(true)).await.unwrap();
    fixture.topics.send(auto_create("orders")).await.unwrap().unwrap();
    assert_eq!(fixture.registrations.try_recv().unwrap().changed.len(), 1);
    assert!(fixture.metadata.topics().unwrap().get(DEFAULT_TOPIC).unwrap().is_none());
}

#[test]
fn system_topics_are_those_of_java() {
    let mut found: Vec<TopicConfig> = system_topics(&config());
    found.push(default_topic(8));
    found.sort_by(|a, b| a.topic_name.cmp(&b.topic_name));
    let found: Vec<_> =
        found.iter().map(|topic| (topic.topic_name.as_str(), topic.write_queue_nums, topic.perm.0)).collect();
    assert_eq!(
        found,
        [
            ("BenchmarkTest", 1024, 6),
            ("DefaultCluster", 16, 7),
            ("DefaultCluster_REPLY_TOPIC", 1, 6),
            ("OFFSET_MOVED_EVENT", 1, 6),
            ("RMQ_SYS_ROCKSDB_TRANS_HALF_TOPIC", 1, 6),
            ("RMQ_SYS_ROCKSDB_TRANS_OP_HALF_TOPIC", 1, 6),
            ("RMQ_SYS_TRACE_TOPIC", 1, 6),
            ("RMQ_SYS_TRANS_HALF_TOPIC", 1, 6),
            ("RMQ_SYS_TRANS_OP_HALF_TOPIC", 1, 6),
            ("SCHEDULE_TOPIC_XXXX", 18, 6),
            ("SELF_TEST_TOPIC", 1, 6),
            ("TBW102", 8, 7),
            ("broker-a", 1, 7),
            ("rmq_sys_REVIVE_LOG_DefaultCluster", 8, 6),
            ("rmq_sys_SYNC_BROKER_MEMBER_broker-a", 1, 1),
            ("rmq_sys_wheel_timer", 1, 6),
        ]
    );
    for (topic, _, _) in found {
        assert!(is_system_topic(topic, &config().rules), "{topic}");
    }
}

#[test]
fn every_delay_level_has_a_queue() {
    for (delay_levels, queues) in [(3, 18), (18, 18), (30, 30)] {
        let topics = system_topics(&TopicsConfig { delay_levels, ..config() });
        let schedule = topics.iter().find(|topic| &*topic.topic_name == names::SCHEDULE_TOPIC).unwrap();
        assert_eq!((schedule.read_queue_nums, schedule.write_queue_nums), (queues, queues));
    }
}

#[test]
fn unknown_topic_is_explained_by_its_name() {
    let entry = |name: &str| {
        let entry = TopicEntry::new(TopicConfig::new(name, 1), None, no_queues());
        (TopicName::from(name), Arc::new(entry))
    };
    let topics = ["orders", "payments", "shop%invoices", "TBW102"].into_iter().map(entry).collect();
    let map = TopicMap { data_version: DataVersion::default(), topics };
    let explained = |name, auto_create| explain_unknown_topic(name, &map, auto_create);
    assert_eq!(explained("Orders", true), "There is orders; case matters in names of topics.");
    assert_eq!(explained("invoices", true), "There is shop%invoices; set the namespace shop in the client.");
    assert!(explained("shop%orders", true).starts_with("There is orders without the namespace shop;"));
    assert_eq!(explained("odrers", true), "Did you mean orders?");
    assert_eq!(explained("paymentss", false), "Did you mean payments?");
    assert!(explained("%RETRY%billing", false).starts_with("It is made when its group subscribes"));
    assert!(explained("shipments", true).contains("The first message sent to it creates it"));
    assert!(explained("shipments", false).contains("autoCreateTopicEnable is off"));
    assert!(explained("TBW101", false).contains("No topic here"));
}
