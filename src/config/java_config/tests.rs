use std::path::PathBuf;

use super::*;
use crate::config::{Config, ConfigError, Sources};

/// The settings that a broker.conf with this text gives.
fn loaded(text: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broker.conf");
    std::fs::write(&path, text).unwrap();
    let machine = Machine { home: Some("/home/mq".into()), ..Machine::read() };
    Config::load_on(&Sources { java_config: Some(path), ..Sources::default() }, &machine)
}

fn refusal(text: &str) -> String {
    loaded(text).unwrap_err().to_string()
}

#[test]
fn a_usual_broker_conf_is_followed() {
    let config = loaded(
        "brokerClusterName = c1\nbrokerName=broker-x\nbrokerId=0\ndeleteWhen=04;16\nfileReservedTime=48\n\
         brokerRole=ASYNC_MASTER\nflushDiskType=SYNC_FLUSH\nsyncFlushTimeout=3000\nnamesrvAddr=a:9876;b:9876\nbrokerIP1=10.0.0.7\n\
         listenPort=20911\nstorePathRootDir=/data/mq\nstorePathCommitLog=/data/mq/commitlog\nautoCreateTopicEnable=false\n\
         mappedFileSizeConsumeQueue=6000001\ndiskMaxUsedSpaceRatio=60\nmaxMessageSize=1048576\n\
         messageDelayLevel=1s 2s\ntraceTopicEnable=false\nflushIntervalCommitLog=1000\n",
    )
    .unwrap();
    assert_eq!(config.broker.cluster, "c1");
    assert_eq!(config.broker.name.as_str(), "broker-x");
    assert_eq!(config.broker.name_servers, ["a:9876", "b:9876"]);
    assert_eq!(config.broker.listen, "0.0.0.0:20911".parse().unwrap());
    assert_eq!(config.broker.fast_listen, Some("0.0.0.0:20909".parse().unwrap()));
    assert_eq!(config.broker.advertised(config.broker.listen), "10.0.0.7:20911".parse().unwrap());
    assert!(!config.broker.auto_create_topics);
    assert_eq!(config.broker.trace_topic, None);
    assert_eq!(config.store.data_dir, PathBuf::from("/data/mq"));
    assert_eq!(config.store.consume_queue_segment_units, 300_001);
    assert_eq!(config.retention.delete_hours, [4, 16]);
    assert_eq!(config.retention.max_age.as_secs(), 48 * 3600);
    assert_eq!(config.retention.warn_ratio, 0.6);
    assert_eq!(config.message.max_body_bytes, 1 << 20);
    assert_eq!(config.message.delay_levels().max_level(), 2);
    assert_eq!(config.java_leftovers, JavaLeftovers::default());
}

#[test]
fn data_lies_where_the_java_broker_keeps_it() {
    assert_eq!(loaded("").unwrap().store.data_dir, PathBuf::from("/home/mq/store"));
}

#[test]
fn what_has_no_effect_is_sorted_by_reason() {
    let config = loaded(
        "sendMessageThreadPoolNums=16\nuseReentrantLockWhenPutMessage=true\nenableMultiDispatch=true\n\
         timerWheelEnable=true\ntimerPrecisionMs=60\nhaListenPort=10912\nbrokerNmae=x\n",
    )
    .unwrap();
    let left = &config.java_leftovers;
    assert_eq!(left.no_meaning, ["sendMessageThreadPoolNums", "useReentrantLockWhenPutMessage"]);
    // Those with Java's own default ask for nothing.
    assert_eq!(left.not_yet, ["enableMultiDispatch", "timerPrecisionMs"]);
    assert_eq!(left.unknown, ["brokerNmae (did you mean brokerName?)"]);
}

#[test]
fn what_would_break_a_promise_is_refused() {
    let refused = [
        ("brokerId=1", "broker.id cannot be \"1\" yet (brokerId in "),
        ("brokerRole=SLAVE", "brokerRole cannot be SLAVE yet"),
        ("brokerRole=SYNC_MASTER", "brokerRole cannot be SYNC_MASTER yet"),
        ("aclEnable=true", "aclEnable cannot be true yet"),
        ("authorizationEnabled=true", "authorizationEnabled cannot be true yet"),
        ("storeType=defaultRocksDB", "storeType cannot be defaultRocksDB yet"),
        (
            "storePathRootDir=/a\nstorePathCommitLog=/b/commitlog",
            "storePathCommitLog cannot be /b/commitlog yet",
        ),
        ("listenPort=x", "broker.listen cannot be \"0.0.0.0:x\" (listenPort in "),
        ("fileReservedTime=0", "retention.hours cannot be \"0\" (fileReservedTime in "),
        ("a=\\u12", " line 1 is not a Java property: "),
    ];
    for (text, expected) in refused {
        let refusal = refusal(text);
        assert!(refusal.contains(expected), "{text}: {refusal}");
    }
}

#[test]
fn every_translated_key_is_one_that_java_knows() {
    let known = properties_text::parse(KNOWN).unwrap();
    let ours = SAME.iter().map(|(java_key, _)| *java_key).chain(TRANSLATED.iter().copied());
    for key in ours.chain(NOT_YET.iter().copied()) {
        assert!(known.contains_key(key), "{key}");
    }
    for (java_key, key) in SAME {
        assert!(rules::find(key).is_some(), "{java_key} leads to {key}");
    }
}
