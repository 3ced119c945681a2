use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::protocol::data_version::DataVersion;
use crate::protocol::subscription_group_config::{
    ExponentialRetryPolicy, SimpleSubscriptionData, SubscriptionGroupConfig,
};
use crate::protocol::topic_config::{Permission, TopicConfig};
use crate::types::{GroupName, QueueId, QueueOffset, TopicName};

fn offset(group: &str, topic: &str, queue_id: u32, offset: u64) -> ConsumerOffset {
    ConsumerOffset {
        group: group.into(),
        topic: topic.into(),
        queue_id: QueueId(queue_id),
        offset: QueueOffset(offset),
    }
}

#[test]
fn everything_is_read_back_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let topic = TopicConfig {
        attributes: [("message.type".to_owned(), "FIFO".to_owned())].into(),
        order: true,
        ..TopicConfig::new("orders", 4).with_perm(Permission::READ)
    };
    let mut group = SubscriptionGroupConfig::new("billing");
    group.subscription_data_set = Some(vec![SimpleSubscriptionData::default()]);
    group.group_retry_policy.exponential_retry_policy = Some(ExponentialRetryPolicy::default());
    let version = DataVersion { counter: 3, state_version: 1, timestamp: 99 };
    let forbidden = Forbidden { group: "billing".into(), topic: "orders".into(), bits: 4 };
    let kv = KvConfig { namespace: "ORDER".into(), key: "orders".into(), value: "a:8".into() };
    {
        let metadata = Metadata::open(dir.path()).unwrap();
        metadata.topics().unwrap().put(&topic).unwrap();
        metadata.topics().unwrap().put_version(version).unwrap();
        metadata.subscription_groups().unwrap().put_all(std::slice::from_ref(&group)).unwrap();
        metadata.forbidden().unwrap().put(&forbidden).unwrap();
        metadata.consumer_offsets().unwrap().put_all(&[offset("billing", "orders", 0, 7)]).unwrap();
        metadata.kv_configs().unwrap().put(&kv).unwrap();
        metadata.broker_settings().unwrap().put("flushDiskType", "SYNC_FLUSH").unwrap();
        metadata.flush().unwrap();
    }
    let metadata = Metadata::open(dir.path()).unwrap();
    assert_eq!(metadata.topics().unwrap().all().unwrap(), [topic]);
    assert_eq!(metadata.topics().unwrap().version().unwrap(), version);
    assert_eq!(metadata.subscription_groups().unwrap().get("billing").unwrap(), Some(group));
    assert_eq!(metadata.subscription_groups().unwrap().version().unwrap(), DataVersion::default());
    assert_eq!(metadata.forbidden().unwrap().all().unwrap(), [forbidden]);
    assert_eq!(metadata.consumer_offsets().unwrap().all().unwrap(), [offset("billing", "orders", 0, 7)]);
    assert_eq!(metadata.kv_configs().unwrap().of_namespace("ORDER").unwrap(), [kv]);
    assert_eq!(metadata.kv_configs().unwrap().of_namespace("ORD").unwrap(), []);
    assert_eq!(
        metadata.broker_settings().unwrap().all().unwrap(),
        [("flushDiskType".to_owned(), "SYNC_FLUSH".to_owned())]
    );
}

#[test]
fn value_of_unknown_version_is_refused_by_tree_and_key() {
    let metadata = Metadata::temporary().unwrap();
    let table = metadata.table::<String>("broker_settings").unwrap();
    table.raw().insert(b"name", b"\x09abc".to_vec()).unwrap();
    let error = metadata.broker_settings().unwrap().get("name").unwrap_err();
    assert!(matches!(
        error,
        MetadataError::UnknownVersion { ref tree, ref key, version: 9 }
            if tree == "broker_settings" && key == "name"
    ));
    table.raw().insert(b"name", b"".to_vec()).unwrap();
    let error = metadata.broker_settings().unwrap().all().unwrap_err();
    assert!(matches!(error, MetadataError::EmptyValue { .. }));
    table.raw().insert(b"name", b"\x01\xfe".to_vec()).unwrap();
    let error = metadata.broker_settings().unwrap().all().unwrap_err();
    assert!(matches!(error, MetadataError::UndecodableValue { .. }));
}

#[test]
fn stored_bytes_are_a_version_and_bincode() {
    let metadata = Metadata::temporary().unwrap();
    metadata.consumer_offsets().unwrap().put_all(&[offset("g", "t", 258, 300)]).unwrap();
    let table = metadata.table::<QueueOffset>("consumer_offsets").unwrap();
    let (key, value) = table.raw().scan_prefix(b"").next().unwrap().unwrap();
    assert_eq!(&*key, b"g\0t\0\0\0\x01\x02");
    assert_eq!(&*value, b"\x01\xfb\x2c\x01");
}

#[test]
fn zero_byte_in_a_name_is_refused() {
    let metadata = Metadata::temporary().unwrap();
    let error = metadata.consumer_offsets().unwrap().put_all(&[offset("g\0", "t", 0, 0)]).unwrap_err();
    assert!(matches!(error, MetadataError::MalformedKey { .. }));
}

#[test]
fn forbidding_nothing_deletes_the_entry() {
    let metadata = Metadata::temporary().unwrap();
    let table = metadata.forbidden().unwrap();
    let entry = |bits| Forbidden { group: "g".into(), topic: "t".into(), bits };
    table.put(&entry(4)).unwrap();
    assert_eq!(table.get(&"g".into(), &"t".into()).unwrap(), 4);
    table.put(&entry(0)).unwrap();
    assert_eq!(table.all().unwrap(), []);
    table.put(&entry(2)).unwrap();
    assert_eq!(table.delete_group(&"g".into()).unwrap(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<ConsumerOffset>),
    DeleteGroup(GroupName),
    DeleteTopic(TopicName),
    DeleteGroupTopic(GroupName, TopicName),
}

fn steps() -> impl Strategy<Value = Step> {
    let group = || prop::sample::select(vec!["g", "g1", "h"]).prop_map(GroupName::from);
    let topic = || prop::sample::select(vec!["t", "t1", "%RETRY%g"]).prop_map(TopicName::from);
    // Queue ids whose bytes are zeros and separators must not be taken for a name's end.
    let queue_id = prop::sample::select(vec![0, 1, 256, 0x7400_0000]);
    let put = (group(), topic(), queue_id, any::<u64>())
        .prop_map(|(group, topic, queue_id, at)| offset(&group, &topic, queue_id, at));
    prop_oneof![
        3 => prop::collection::vec(put, 1..5).prop_map(Step::Put),
        1 => group().prop_map(Step::DeleteGroup),
        1 => topic().prop_map(Step::DeleteTopic),
        1 => (group(), topic()).prop_map(|(group, topic)| Step::DeleteGroupTopic(group, topic)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn consumer_offsets_behave_like_a_map(steps in prop::collection::vec(steps(), 1..30)) {
        let metadata = Metadata::temporary().unwrap();
        let table = metadata.consumer_offsets().unwrap();
        let mut model = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(offsets) => {
                    table.put_all(&offsets).unwrap();
                    for put in offsets {
                        model.insert((put.group, put.topic, put.queue_id), put.offset);
                    }
                }
                Step::DeleteGroup(group) => {
                    table.delete_group(&group).unwrap();
                    model.retain(|(g, _, _), _| *g != group);
                }
                Step::DeleteTopic(topic) => {
                    table.delete_topic(&topic).unwrap();
                    model.retain(|(_, t, _), _| *t != topic);
                }
                Step::DeleteGroupTopic(group, topic) => {
                    table.delete_group_topic(&group, &topic).unwrap();
                    model.retain(|(g, t, _), _| *g != group || *t != topic);
                }
            }
            let expected: Vec<_> = model
                .iter()
                .map(|((g, t, q), at)| ConsumerOffset {
                    group: g.clone(), topic: t.clone(), queue_id: *q, offset: *at,
                })
                .collect();
            let mut found = table.all().unwrap();
            found.sort();
            prop_assert_eq!(&found, &expected);
            let of_group: Vec<_> =
                expected.into_iter().filter(|offset| offset.group.as_str() == "g").collect();
            let mut found = table.of_group(&"g".into()).unwrap();
            found.sort();
            prop_assert_eq!(found, of_group);
        }
    }
}

/// Prints what opening costs; the limit is generous, for machines that do other things too.
#[test]
fn opening_takes_a_moment() {
    let dir = tempfile::tempdir().unwrap();
    {
        let metadata = Metadata::open(dir.path()).unwrap();
        let topics: Vec<_> = (0..1_000).map(|n| TopicConfig::new(format!("topic-{n}"), 8)).collect();
        metadata.topics().unwrap().put_all(&topics).unwrap();
        metadata.flush().unwrap();
    }
    let began = std::time::Instant::now();
    let metadata = Metadata::open(dir.path()).unwrap();
    let opened = began.elapsed();
    assert_eq!(metadata.topics().unwrap().all().unwrap().len(), 1_000);
    println!("opened after {opened:?}, a thousand topics read after {:?}", began.elapsed());
    assert!(opened.as_secs() < 5, "{opened:?}");
}
