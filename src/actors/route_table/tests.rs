use proptest::prelude::*;

use super::fixtures::{registration, topics};
use super::*;

const RW: Permission = Permission::READ_WRITE;
const READ: Permission = Permission::READ;

/// A table with one master of two topics.
fn with_master() -> RouteTable {
    let mut table = RouteTable::default();
    let first = registration("a", 0, "a0", topics(1, &[("T", RW), ("U", RW)]));
    table.register(first, false, WallMs(0)).unwrap();
    table
}

fn perm(table: &RouteTable, topic: &str, broker: &str) -> Option<Permission> {
    Some(table.topic(topic)?.queues.get(broker)?.perm)
}

fn addrs(table: &RouteTable, broker: &str) -> Vec<(i64, String)> {
    let broker = table.brokers().by_name.get(broker);
    broker.map(|broker| broker.broker_addrs.clone().into_iter().collect()).unwrap_or_default()
}

#[test]
fn first_registration_of_one_topic_is_refused_and_leaves_nothing() {
    let mut table = RouteTable::default();
    let change = |topic| registration("a", 0, "a0", topics(2, &[(topic, RW)]));
    assert_eq!(table.register(change("T"), false, WallMs(0)), Err(FullTableMissing));
    assert!(table.brokers().by_name.is_empty() && table.brokers().clusters.is_empty());
    assert_eq!(table.take_changes(), RouteChanges::default());
    let mut table = with_master();
    table.register(change("V"), false, WallMs(0)).unwrap();
    assert!(["T", "U", "V"].iter().all(|topic| table.topic(topic).is_some()));
}

#[test]
fn unchanged_data_version_adds_unknown_topics_only() {
    let mut table = with_master();
    let again = |version, known: &[(&str, Permission)]| registration("a", 0, "a0", topics(version, known));
    table.register(again(1, &[("T", READ), ("V", RW)]), false, WallMs(0)).unwrap();
    assert_eq!((perm(&table, "T", "a"), perm(&table, "V", "a")), (Some(RW), Some(RW)));
    table.register(again(2, &[("T", READ), ("V", RW)]), false, WallMs(0)).unwrap();
    assert_eq!(perm(&table, "T", "a"), Some(READ));
    assert_eq!(perm(&table, "U", "a"), Some(RW), "a topic that is not named stays");
    table.register(again(3, &[("T", READ), ("V", RW)]), true, WallMs(0)).unwrap();
    assert_eq!(perm(&table, "U", "a"), None, "unless the name server is set to drop it");
}

#[test]
fn wiped_permission_survives_until_a_changed_registration() {
    let mut table = with_master();
    assert_eq!(table.change_write_perm("a", WritePermChange::Wipe), 2);
    assert_eq!(table.change_write_perm("no-broker", WritePermChange::Wipe), 0);
    let again = |version| registration("a", 0, "a0", topics(version, &[("T", RW), ("U", RW)]));
    table.register(again(1), false, WallMs(0)).unwrap();
    assert_eq!(perm(&table, "T", "a"), Some(READ));
    table.register(again(2), false, WallMs(0)).unwrap();
    assert_eq!(perm(&table, "T", "a"), Some(RW));
    table.change_write_perm("a", WritePermChange::Wipe);
    assert_eq!(table.change_write_perm("a", WritePermChange::Add), 2);
    assert_eq!(perm(&table, "U", "a"), Some(RW));
}

#[test]
fn one_address_has_one_id_and_one_name() {
    let mut table = with_master();
    let known = [("T", RW), ("U", RW)];
    table.register(registration("a", 1, "a1", topics(1, &known)), false, WallMs(0)).unwrap();
    table.unregister("a", "a0");
    table.register(registration("a", 0, "a1", topics(1, &known)), false, WallMs(0)).unwrap();
    assert_eq!(addrs(&table, "a"), [(0, "a1".to_owned())], "the slave became master");
    table.register(registration("b", 0, "a1", topics(1, &known)), false, WallMs(0)).unwrap();
    assert!(addrs(&table, "a").is_empty(), "the broker was renamed");
    assert_eq!(perm(&table, "T", "a"), None);
    assert_eq!(perm(&table, "T", "b"), Some(RW));
}

#[test]
fn same_id_at_a_new_address_replaces_the_old_unless_that_has_a_newer_state() {
    let known = [("T", RW), ("U", RW)];
    let with_state = |addr: &str, state_version| {
        let mut registration = registration("a", 0, addr, topics(1, &known));
        registration.topics.data_version.state_version = state_version;
        registration
    };
    let mut table = RouteTable::default();
    table.register(with_state("a0", 2), false, WallMs(0)).unwrap();
    assert_eq!(table.register(with_state("b0", 1), false, WallMs(0)), Ok(RegistrationOutcome::Outdated));
    assert_eq!(addrs(&table, "a"), [(0, "a0".to_owned())]);
    table.register(with_state("b0", 2), false, WallMs(0)).unwrap();
    assert_eq!(addrs(&table, "a"), [(0, "b0".to_owned())]);
    table.expire(WallMs(DEFAULT_BROKER_TIMEOUT_MS));
    table.unregister("a", "a0");
    assert_eq!(addrs(&table, "a"), [(0, "b0".to_owned())], "the old address takes nothing along");
}

#[test]
fn slaves_are_told_their_master_and_do_not_speak_for_it() {
    let mut table = with_master();
    let slave = registration("a", 1, "a1", topics(9, &[("T", READ), ("X", RW)]));
    let master = Some(MasterAddress { addr: "a0".into(), ha_server_addr: "a0-ha".into() });
    assert_eq!(table.register(slave, false, WallMs(0)), Ok(RegistrationOutcome::Registered { master }));
    assert_eq!(perm(&table, "T", "a"), Some(RW));
    assert!(table.topic("X").is_none());
}

#[test]
fn lowest_slave_speaks_read_only_when_it_acts_for_its_master() {
    let known = [("T", RW), ("U", RW)];
    let mut table = RouteTable::default();
    let slave = |id, acting| BrokerRegistration {
        enable_acting_master: acting,
        ..registration("a", id, &format!("a{id}"), topics(1, &known))
    };
    table.register(slave(2, None), false, WallMs(0)).unwrap();
    assert!(table.topic("T").is_none(), "an old slave never speaks");
    table.register(slave(2, Some(true)), false, WallMs(0)).unwrap();
    assert!(table.topic("T").is_some(), "unknown topics are taken");
    assert_eq!(perm(&table, "T", "a"), Some(READ));
    table.register(slave(0, Some(true)), false, WallMs(0)).unwrap();
    assert_eq!(perm(&table, "T", "a"), Some(RW));
    table.unregister("a", "a0");
    assert_eq!(perm(&table, "T", "a"), Some(READ), "its master gone, nothing can be written");
}

#[test]
fn brokers_expire_after_their_own_time_or_two_minutes() {
    let known = [("T", RW), ("U", RW)];
    let mut table = with_master();
    let quick =
        BrokerRegistration { timeout_ms: Some(10_000), ..registration("b", 0, "b0", topics(1, &known)) };
    table.register(quick, false, WallMs(0)).unwrap();
    assert!(table.expire(WallMs(10_000)).is_empty());
    assert_eq!(table.expire(WallMs(10_001)), [("b0".to_owned(), Some(ConnectionId(1)))]);
    assert_eq!(table.query_data_version("a0", WallMs(100_000)).map(|known| known.counter), Some(1));
    assert!(table.expire(WallMs(220_000)).is_empty(), "a question is a sign of life");
    table.refresh("a0", WallMs(150_000));
    table.refresh("unknown", WallMs(150_000));
    assert!(table.expire(WallMs(270_000)).is_empty());
    assert_eq!(table.expire(WallMs(270_001)).len(), 1);
    assert!(table.topic("T").is_none() && table.brokers().clusters.is_empty());
}

#[test]
fn closed_connection_takes_only_the_brokers_that_registered_by_it_last() {
    let known = [("T", RW), ("U", RW)];
    let mut table = with_master();
    let back = BrokerRegistration {
        connection: Some(ConnectionId(2)),
        ..registration("a", 0, "a0", topics(1, &known))
    };
    table.register(back, false, WallMs(0)).unwrap();
    assert!(table.connection_closed(ConnectionId(1)).is_empty());
    assert!(table.topic("T").is_some());
    assert_eq!(table.connection_closed(ConnectionId(2)), ["a0"]);
    assert!(table.topic("T").is_none());
}

#[test]
fn topics_are_deleted_everywhere_or_in_a_cluster() {
    let known = [("T", RW), ("U", RW)];
    let mut table = with_master();
    let other =
        BrokerRegistration { cluster: "other".into(), ..registration("b", 0, "b0", topics(1, &known)) };
    table.register(other, false, WallMs(0)).unwrap();
    table.delete_topic("T", Some("other"));
    assert_eq!((perm(&table, "T", "a"), perm(&table, "T", "b")), (Some(RW), None));
    table.delete_topic("T", Some("no-cluster"));
    table.delete_topic("T", None);
    assert!(table.topic("T").is_none());
    table.delete_topic("T", None);
}

#[test]
fn topic_is_entered_by_hand_only_on_known_brokers() {
    let mut table = with_master();
    let queue = |broker: &str| QueueData { broker_name: broker.into(), perm: RW, ..QueueData::default() };
    assert_eq!(table.register_topic(&"N".into(), vec![queue("a"), queue("x")]), Err("x".into()));
    assert!(table.topic("N").is_none());
    table.register_topic(&"N".into(), vec![queue("a")]).unwrap();
    assert_eq!(perm(&table, "N", "a"), Some(RW));
}

/// The rules once more, over flat lists and without any index.
#[derive(Default)]
struct Model {
    /// Name, id, address, last heard of, data version.
    brokers: Vec<(String, i64, String, i64, i64)>,
    /// Topic, broker, permission.
    queues: Vec<(String, String, Permission)>,
}

impl Model {
    fn register(
        &mut self,
        name: &str,
        id: i64,
        addr: &str,
        version: i64,
        known: &[(&str, Permission)],
        now: i64,
    ) {
        let is_known = self.brokers.iter().any(|b| b.0 == name && b.1 == id);
        if !is_known && known.len() == 1 {
            return;
        }
        let version_before = self.brokers.iter().find(|b| b.2 == addr && b.0 == name).map(|b| b.4);
        let renamed_from = self.brokers.iter().find(|b| b.2 == addr && b.0 != name).map(|b| b.0.clone());
        self.brokers.retain(|b| b.2 != addr && !(b.0 == name && b.1 == id));
        self.brokers.push((name.into(), id, addr.into(), now, version));
        if let Some(former) = renamed_from {
            self.drop_queues_if_gone(&former);
        }
        let changed = !is_known || version_before != Some(version);
        if self.brokers.iter().any(|b| b.0 == name && b.1 < id) {
            return;
        }
        for (topic, perm) in known {
            let queue = self.queues.iter_mut().find(|q| q.0 == *topic && q.1 == name);
            match queue {
                Some(queue) if changed => queue.2 = *perm,
                Some(_) => {}
                None => self.queues.push(((*topic).into(), name.into(), *perm)),
            }
        }
    }

    fn remove(&mut self, is_gone: impl Fn(&(String, i64, String, i64, i64)) -> bool) {
        let gone: Vec<_> = self.brokers.iter().filter(|b| is_gone(b)).map(|b| b.0.clone()).collect();
        self.brokers.retain(|b| !is_gone(b));
        gone.iter().for_each(|name| self.drop_queues_if_gone(name));
    }

    fn drop_queues_if_gone(&mut self, name: &str) {
        if !self.brokers.iter().any(|b| b.0 == name) {
            self.queues.retain(|q| q.1 != name);
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Register { name: usize, id: i64, addr: usize, version: i64, known: Vec<(usize, bool)> },
    Unregister { name: usize, addr: usize },
    Close(usize),
    Heartbeat(usize),
    Wipe(usize),
    Delete(usize),
    Wait(i64),
}

fn op() -> impl Strategy<Value = Op> {
    let known = prop::collection::vec((0..4usize, any::<bool>()), 0..4);
    prop_oneof![
        6 => (0..3usize, 0..2i64, 0..4usize, 0..3i64, known)
            .prop_map(|(name, id, addr, version, known)| Op::Register { name, id, addr, version, known }),
        1 => (0..3usize, 0..4usize).prop_map(|(name, addr)| Op::Unregister { name, addr }),
        1 => (0..4usize).prop_map(Op::Close),
        1 => (0..4usize).prop_map(Op::Heartbeat),
        1 => (0..3usize).prop_map(Op::Wipe),
        1 => (0..4usize).prop_map(Op::Delete),
        2 => (1..90_000i64).prop_map(Op::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The table agrees with the model after every operation, and what changed is always named: a copy that
    /// follows the changes alone is the table.
    #[test]
    fn table_is_the_naive_model(ops in prop::collection::vec(op(), 1..60)) {
        const NAMES: [&str; 3] = ["a", "b", "c"];
        const ADDRS: [&str; 4] = ["1", "2", "3", "4"];
        const TOPICS: [&str; 4] = ["T", "U", "V", "W"];
        let mut table = RouteTable::default();
        let mut model = Model::default();
        let mut copy: HashMap<TopicName, TopicQueues> = HashMap::default();
        let mut copied_brokers = Brokers::default();
        let mut now = 0;
        for op in ops {
            match op {
                Op::Register { name, id, addr, version, known } => {
                    let known: BTreeMap<&str, Permission> =
                        known.into_iter().map(|(topic, writable)| (TOPICS[topic], if writable { RW } else { READ })).collect();
                    let known: Vec<_> = known.into_iter().collect();
                    let registration = BrokerRegistration {
                        connection: Some(ConnectionId(addr as u64)),
                        ..registration(NAMES[name], id, ADDRS[addr], topics(version, &known))
                    };
                    let _ = table.register(registration, false, WallMs(now));
                    model.register(NAMES[name], id, ADDRS[addr], version, &known, now);
                }
                Op::Unregister { name, addr } => {
                    table.unregister(NAMES[name], ADDRS[addr]);
                    model.remove(|b| b.0 == NAMES[name] && b.2 == ADDRS[addr]);
                }
                Op::Close(addr) => {
                    table.connection_closed(ConnectionId(addr as u64));
                    model.remove(|b| b.2 == ADDRS[addr]);
                }
                Op::Heartbeat(addr) => {
                    table.refresh(ADDRS[addr], WallMs(now));
                    model.brokers.iter_mut().filter(|b| b.2 == ADDRS[addr]).for_each(|b| b.3 = now);
                }
                Op::Wipe(name) => {
                    table.change_write_perm(NAMES[name], WritePermChange::Wipe);
                    model.queues.iter_mut().filter(|q| q.1 == NAMES[name]).for_each(|q| q.2 = READ);
                }
                Op::Delete(topic) => {
                    table.delete_topic(TOPICS[topic], None);
                    model.queues.retain(|q| q.0 != TOPICS[topic]);
                }
                Op::Wait(ms) => {
                    now += ms;
                    table.expire(WallMs(now));
                    model.remove(|b| b.3 + DEFAULT_BROKER_TIMEOUT_MS < now);
                }
            }
            let mut queues: Vec<_> = table.topics.iter().flat_map(|(topic, entry)| {
                entry.queues.values().map(move |queue| (topic.to_string(), queue.broker_name.to_string(), queue.perm))
            }).collect();
            queues.sort_by(|left, right| (&left.0, &left.1).cmp(&(&right.0, &right.1)));
            model.queues.sort_by(|left, right| (&left.0, &left.1).cmp(&(&right.0, &right.1)));
            prop_assert_eq!(queues, model.queues.clone());
            let mut known: Vec<_> = table.brokers.by_name.iter().flat_map(|(name, broker)| {
                broker.broker_addrs.iter().map(move |(id, addr)| (name.to_string(), *id, addr.clone()))
            }).collect();
            known.sort();
            let mut expected: Vec<_> = model.brokers.iter().map(|b| (b.0.clone(), b.1, b.2.clone())).collect();
            expected.sort();
            prop_assert_eq!(known, expected);
            let names: BTreeSet<_> = table.brokers.by_name.keys().cloned().collect();
            prop_assert_eq!(table.brokers.clusters.get("c").cloned().unwrap_or_default(), names);
            prop_assert_eq!(table.live.len(), model.brokers.len());

            let changes = table.take_changes();
            for topic in changes.topics {
                match table.topic(&topic) {
                    Some(entry) => copy.insert(topic, entry.clone()),
                    None => copy.remove(&topic),
                };
            }
            if changes.brokers {
                copied_brokers = table.brokers.clone();
            }
            prop_assert_eq!(&copy, &table.topics);
            prop_assert_eq!(&copied_brokers, &table.brokers);
        }
    }
}
