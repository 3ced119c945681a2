use std::path::Path;

use super::*;
use crate::protocol::data_version::DataVersion;
use crate::protocol::subscription_group_config::SubscriptionGroupConfig;
use crate::protocol::topic_config::TopicConfig;
use crate::store::file::OpenMode;
use crate::store::java_export::export;
use crate::store::memory_files::MemoryFiles;

const DELAYS: &str = r#"{"dataVersion":{"counter":9,"timestamp":6},"offsetTable":{3:100,18:0,4:-1}}"#;

const ROOT: &str = "/store";

const TOPICS: &str = r#"{
	"dataVersion":{"counter":3,"stateVersion":0,"timestamp":1700000000000},
	"topicConfigTable":{
		"orders":{"attributes":{},"multi":false,"order":false,"perm":6,"readQueueNums":8,
			"topicFilterType":"SINGLE_TAG","topicName":"orders","topicSysFlag":0,"writeQueueNums":4},
		"%RETRY%billing":{"perm":6,"readQueueNums":1,"writeQueueNums":1}
	}
}"#;
const GROUPS: &str = r#"{
	"dataVersion":{"counter":1,"timestamp":5},
	"forbiddenTable":{"billing":{"orders":4}},
	"subscriptionGroupTable":{"billing":{"groupName":"billing","retryMaxTimes":3,"unknown":{"a":[1]}}}
}"#;
const OFFSETS: &str = r#"{
	"dataVersion":{"counter":2,"stateVersion":0,"timestamp":6},
	"groupTopicMap":{"billing":["orders"]},
	"offsetTable":{"orders@billing":{0:12,1:7,2:-1},"%RETRY%billing@billing":{0:0},"broken":{0:1}}
}"#;

fn put(files: &MemoryFiles, name: &str, content: &str) {
    let path = Path::new(ROOT).join(name);
    files.create_dir_all(path.parent().unwrap()).unwrap();
    files.open(&path, OpenMode::CreateMissing).unwrap().write_all_at(content.as_bytes(), 0).unwrap();
}

fn java_directory() -> MemoryFiles {
    let files = MemoryFiles::new();
    put(&files, "config/topics.json", TOPICS);
    put(&files, "config/subscriptionGroup.json", GROUPS);
    put(&files, "config/consumerOffset.json", OFFSETS);
    put(&files, "config/delayOffset.json", DELAYS);
    files
}

#[test]
fn settings_of_java_are_imported_once() {
    let files = java_directory();
    put(&files, "config/consumerFilter.json", "");
    put(&files, "config/consumerOrderInfo.json", "{}");
    let metadata = Metadata::temporary().unwrap();
    let outcome = import_once(&files, Path::new(ROOT), &metadata).unwrap();
    assert_eq!(
        outcome,
        ImportOutcome::Imported(Imported {
            topics: 2,
            groups: 1,
            consumer_offsets: 3,
            delay_levels: 2,
            skipped: 3,
            left_out: vec!["/store/config/consumerOrderInfo.json".into()],
        })
    );

    let orders = TopicConfig { write_queue_nums: 4, ..TopicConfig::new("orders", 8) };
    let topics = metadata.topics().unwrap();
    assert_eq!(topics.all().unwrap(), [TopicConfig::new("%RETRY%billing", 1), orders]);
    let version = DataVersion { counter: 3, state_version: 0, timestamp: 1_700_000_000_000 };
    assert_eq!(topics.version().unwrap(), version);
    let delays = metadata.delay_offsets().unwrap();
    let delays = [3, 18, 4].map(|level| delays.get(level).unwrap());
    assert_eq!(delays, [Some(QueueOffset(100)), Some(QueueOffset(0)), None]);
    let billing = SubscriptionGroupConfig { retry_max_times: 3, ..SubscriptionGroupConfig::new("billing") };
    assert_eq!(metadata.subscription_groups().unwrap().all().unwrap(), [billing]);
    assert_eq!(metadata.forbidden().unwrap().get(&"billing".into(), &"orders".into()).unwrap(), 4);
    let offsets = metadata.consumer_offsets().unwrap();
    assert_eq!(offsets.all().unwrap().len(), 3);
    assert_eq!(offsets.get(&"billing".into(), &"orders".into(), QueueId(1)).unwrap(), Some(QueueOffset(7)));

    topics.delete("orders").unwrap();
    assert_eq!(import_once(&files, Path::new(ROOT), &metadata).unwrap(), ImportOutcome::AlreadyDone);
    assert_eq!(topics.get("orders").unwrap(), None);
}

#[test]
fn empty_and_damaged_files_give_way_to_their_backups() {
    let files = java_directory();
    put(&files, "config/topics.json.bak", TOPICS);
    put(&files, "config/consumerOffset.json.bak", OFFSETS);
    let truncate = |name: &str, len| {
        let path = Path::new(ROOT).join(name);
        files.open(&path, OpenMode::Existing).unwrap().set_len(len).unwrap();
    };
    truncate("config/topics.json", 0);
    truncate("config/consumerOffset.json", 60);
    let metadata = Metadata::temporary().unwrap();
    import_once(&files, Path::new(ROOT), &metadata).unwrap();
    assert_eq!(metadata.topics().unwrap().all().unwrap().len(), 2);
    assert_eq!(metadata.consumer_offsets().unwrap().all().unwrap().len(), 3);

    truncate("config/consumerOffset.json.bak", 60);
    let error = import(&files, Path::new(ROOT), &metadata).unwrap_err();
    assert!(matches!(error, JavaImportError::Malformed { .. }), "{error}");
}

#[test]
fn directory_without_settings_is_marked_too() {
    let files = MemoryFiles::new();
    let metadata = Metadata::temporary().unwrap();
    let first = import_once(&files, Path::new(ROOT), &metadata).unwrap();
    let second = import_once(&files, Path::new(ROOT), &metadata).unwrap();
    assert_eq!((first, second), (ImportOutcome::NothingFound, ImportOutcome::AlreadyDone));
}

#[test]
fn formats_that_are_not_read_are_named() {
    let refusal = |name: &str| {
        let files = java_directory();
        put(&files, name, "x");
        import_once(&files, Path::new(ROOT), &Metadata::temporary().unwrap()).unwrap_err()
    };
    assert!(matches!(refusal("consumequeue/CURRENT"), JavaImportError::RocksDbQueues { .. }));
    assert!(matches!(refusal("config/topics/CURRENT"), JavaImportError::RocksDbSettings { .. }));
    assert!(matches!(refusal("dledger-n0/data/0"), JavaImportError::DLedgerLog { .. }));
    assert!(matches!(refusal("batchconsumequeue/T/0/0"), JavaImportError::BatchQueues { .. }));
    assert!(refusal("dledger-n0/data/0").to_string().contains("/store/dledger-n0"));
}

#[test]
fn directory_that_every_java_broker_makes_is_no_reason_to_refuse() {
    let files = java_directory();
    put(&files, "rocksdbstore/CURRENT", "MANIFEST-000005");
    check_readable(&files, Path::new(ROOT)).unwrap();
}

#[test]
fn export_is_read_back_and_keeps_what_was_there() {
    let files = java_directory();
    let metadata = Metadata::temporary().unwrap();
    import(&files, Path::new(ROOT), &metadata).unwrap();
    metadata.topics().unwrap().put(&TopicConfig::new("new", 2)).unwrap();
    export(&files, Path::new(ROOT), &metadata).unwrap();
    let backup = files.read(Path::new("/store/config/topics.json.bak")).unwrap().unwrap();
    assert_eq!(backup, TOPICS.as_bytes());
    assert_eq!(files.stat(Path::new("/store/config/topics.json.tmp")).unwrap(), None);

    let other = Metadata::temporary().unwrap();
    import(&files, Path::new(ROOT), &other).unwrap();
    let (read, written) = (other.topics().unwrap(), metadata.topics().unwrap());
    assert_eq!(read.all().unwrap(), written.all().unwrap());
    assert_eq!(read.version().unwrap(), written.version().unwrap());
    let (read, written) = (other.subscription_groups().unwrap(), metadata.subscription_groups().unwrap());
    assert_eq!(read.all().unwrap(), written.all().unwrap());
    let (read, written) = (other.forbidden().unwrap(), metadata.forbidden().unwrap());
    assert_eq!(read.all().unwrap(), written.all().unwrap());
    let (read, written) = (other.delay_offsets().unwrap(), metadata.delay_offsets().unwrap());
    assert_eq!(read.all().unwrap(), written.all().unwrap());
    let (read, written) = (other.consumer_offsets().unwrap(), metadata.consumer_offsets().unwrap());
    assert_eq!(read.all().unwrap(), written.all().unwrap());
}
