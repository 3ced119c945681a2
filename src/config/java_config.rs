//! A Java broker's properties file (`mqbroker -c broker.conf`): what means something here becomes a setting, the
//! rest is told once. What would be unsafe to pass over, such as access control, is refused.
//!
//! RocketMQ: `BrokerConfig`, `MessageStoreConfig`, `NettyServerConfig`.

use std::path::Path;

use tracing::{info, warn};

use super::error::{ConfigError, Origin};
use super::layer::Layer;
use super::machine::Machine;
use super::rules::{self, Given, Typed};
use crate::protocol::properties_text::{self, Properties};

/// Every key the Java broker knows, with its default.
const KNOWN: &str = include_str!("../actors/broker_settings/java_defaults.properties");

/// Keys that the list of the running broker leaves out: paths and switches that it does not show.
const ALSO_KNOWN: &[&str] = &[
    "authConfigPath",
    "authenticationEnabled",
    "authorizationEnabled",
    "brokerConfigPath",
    "brokerSuspiciousThresholdMills",
    "enableCalcLagMetrics",
    "haMasterAddress",
    "initAuthenticationUser",
    "innerClientAuthenticationCredentials",
    "maxDelayTime",
    "messageStoreType",
    "migrateAuthFromV1Enabled",
    "namesrvAddrBak",
    "productEnvName",
    "storePathBrokerIdentity",
    "storePathDLedgerCommitLog",
    "storePathEpochFile",
];

/// Keys of which the first has the same meaning and unit as the second.
const SAME: &[(&str, &str)] = &[
    ("autoCreateSubscriptionGroup", "broker.auto_create_groups"),
    ("autoCreateTopicEnable", "broker.auto_create_topics"),
    ("brokerClusterName", "broker.cluster"),
    ("brokerIP1", "broker.advertise_ip"),
    ("brokerId", "broker.id"),
    ("brokerName", "broker.name"),
    ("brokerPermission", "broker.permission"),
    ("defaultTopicQueueNums", "broker.default_queue_nums"),
    ("enableMixedMessageType", "broker.mixed_message_types"),
    ("namesrvAddr", "broker.name_servers"),
    ("notifyConsumerIdsChangedEnable", "broker.notify_members"),
    ("useServerSideResetOffset", "broker.server_side_reset"),
    ("registerBrokerTimeoutMills", "broker.register_timeout_ms"),
    ("registerNameServerPeriod", "broker.register_interval_ms"),
    ("accessMessageInMemoryMaxRatio", "store.in_memory_percent"),
    ("flushConsumerOffsetInterval", "store.offsets_flush_interval_ms"),
    ("flushIntervalCommitLog", "store.flush_interval_ms"),
    ("syncFlushTimeout", "store.sync_flush_timeout_ms"),
    ("mappedFileSizeCommitLog", "store.commit_log_segment_bytes"),
    ("maxHashSlotNum", "store.index_slots"),
    ("maxIndexNum", "store.index_entries"),
    ("messageIndexEnable", "store.index_enabled"),
    ("storePathRootDir", "store.data_dir"),
    ("cleanResourceInterval", "retention.check_interval_ms"),
    ("deleteFileBatchMax", "retention.max_segments"),
    ("deleteWhen", "retention.delete_hours"),
    ("fileReservedTime", "retention.hours"),
    ("compactionScheduleInternal", "compaction.interval_ms"),
    ("compactionMappedFileSize", "compaction.segment_bytes"),
    ("compactionCqMappedFileSize", "compaction.index_bytes"),
    ("maxOffsetMapSize", "compaction.key_memory_bytes"),
    ("maxMessageSize", "message.max_body_bytes"),
    ("messageDelayLevel", "message.delay_levels"),
    ("storeReplyMessageEnable", "message.store_replies"),
    ("transactionTimeOut", "transaction.first_check_ms"),
    ("transactionCheckInterval", "transaction.check_interval_ms"),
    ("transactionCheckMax", "transaction.check_max"),
    ("enablePropertyFilter", "filter.sql"),
    ("filterSupportRetry", "filter.retries"),
    ("recallMessageEnable", "message.recall_enabled"),
    ("timerMaxDelaySec", "message.timer_max_delay_s"),
    ("timerWheelEnable", "message.timers_enabled"),
    ("maxTransferBytesOnMessageInMemory", "pull.max_bytes"),
    ("maxTransferCountOnMessageInMemory", "pull.max_messages"),
    ("serverChannelMaxIdleTimeSeconds", "network.idle_timeout_s"),
];

/// Keys that are translated by code of their own below.
const TRANSLATED: &[&str] = &[
    "bindAddress",
    "listenPort",
    "flushDiskType",
    "mappedFileSizeConsumeQueue",
    "diskMaxUsedSpaceRatio",
    "diskSpaceCleanForciblyRatio",
    "diskSpaceWarningLevelRatio",
    "traceTopicEnable",
    "rejectTransactionMessage",
    "msgTraceTopicName",
    "storePathCommitLog",
];

/// What must not be passed over in silence: key, value that asks for it, what to do.
const REFUSED: &[(&str, &str, &str)] = &[
    ("brokerRole", "SLAVE", "slaves come later; run a master, ASYNC_MASTER"),
    (
        "brokerRole",
        "SYNC_MASTER",
        "replication comes later, and with it the promise of SYNC_MASTER; use ASYNC_MASTER",
    ),
    (
        "aclEnable",
        "true",
        "access control comes later, and this broker would be open to everyone; set it to false if that is meant",
    ),
    (
        "authenticationEnabled",
        "true",
        "access control comes later, and this broker would be open to everyone; set it to false if that is meant",
    ),
    (
        "authorizationEnabled",
        "true",
        "access control comes later, and this broker would be open to everyone; set it to false if that is meant",
    ),
    ("storeType", "defaultRocksDB", "consume queues in RocksDB cannot be read; use default"),
    ("enableDLegerCommitLog", "true", "a DLedger commit log cannot be read; use false"),
    ("enableControllerMode", "true", "the controller comes later; use false, and a fixed brokerId"),
];

/// What belongs to parts that come later. Told of only where it differs from Java's default.
const NOT_YET_PREFIXES: &[&str] = &[
    "timer",
    "pop",
    "revive",
    "ha",
    "metrics",
    "lite",
    "coldData",
    "coldCtr",
    "enablePop",
    "enableLmq",
    "enableLite",
    "enableSlave",
    "enableCompaction",
    "enableCalcFilter",
    "controller",
    "authorization",
    "authentication",
];
const NOT_YET: &[&str] = &[
    "allAckInSyncStateSet",
    "brokerElectionPriority",
    "brokerIP2",
    "cgColdReadThreshold",
    "consumerFallbehindThreshold",
    "defaultMessageRequestMode",
    "defaultPopShareQueueNum",
    "disableConsumeIfConsumerReadSlowly",
    "enableAutoInSyncReplicas",
    "enableConsumeQueueExt",
    "enableMultiDispatch",
    "enableRemoteEscape",
    "enableRetryTopicV2",
    "enabledAppendPropCRC",
    "fetchNameSrvAddrByDnsLookup",
    "fetchNamesrvAddrByAddressServer",
    "forceVerifyPropCRC",
    "globalColdReadThreshold",
    "inSyncReplicas",
    "messageStorePlugIn",
    "minInSyncReplicas",
    "rejectPullConsumerEnable",
    "replicasPerDiskPartition",
    "slaveReadEnable",
    "totalReplicas",
];

/// Keys of a Java broker's properties that have no effect here, by the reason. Each is told once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct JavaLeftovers {
    /// They steer parts that this broker does without, such as thread pools.
    pub no_meaning: Vec<String>,
    /// They belong to what is not supported yet.
    pub not_yet: Vec<String>,
    /// The Java broker does not know them either; with what may have been meant.
    pub unknown: Vec<String>,
}

impl JavaLeftovers {
    /// Tells of them, a line for each reason.
    pub fn log(&self) {
        if !self.no_meaning.is_empty() {
            let keys = self.no_meaning.join(" ");
            info!(keys, "settings of the java broker without a meaning here");
        }
        if !self.not_yet.is_empty() {
            warn!(keys = self.not_yet.join(" "), "settings of the java broker not supported yet");
        }
        if !self.unknown.is_empty() {
            warn!(keys = self.unknown.join(" "), "settings that the java broker does not know either");
        }
    }
}

/// What a Java broker's properties come to.
#[derive(Debug, Default)]
pub(super) struct ReadProperties {
    pub layer: Layer,
    pub leftovers: JavaLeftovers,
}

/// Reads the text of the file at `path`.
pub(super) fn read(text: &str, path: &Path, machine: &Machine) -> Result<ReadProperties, ConfigError> {
    let mut properties = properties_text::parse(text).map_err(|error| ConfigError::NotProperties {
        path: path.to_owned(),
        line: error.line,
        cause: "a \\u that four hexadecimal digits do not follow".to_owned(),
    })?;
    for value in properties.values_mut() {
        *value = value.trim().to_owned();
    }
    // The Java broker keeps its data in the home directory unless it is told otherwise.
    if let (false, Some(home)) = (properties.contains_key("storePathRootDir"), &machine.home) {
        properties.insert("storePathRootDir".to_owned(), home.join("store").display().to_string());
    }
    let mut reading = Reading { properties: &properties, path, read: ReadProperties::default() };
    reading.refuse_what_is_unsafe()?;
    for (java_key, key) in SAME {
        reading.take(java_key, key, |value| Given::Text(value.to_owned()))?;
    }
    reading.translate()?;
    reading.sort_the_rest();
    Ok(reading.read)
}

struct Reading<'a> {
    properties: &'a Properties,
    path: &'a Path,
    read: ReadProperties,
}

impl Reading<'_> {
    fn value(&self, java_key: &str) -> Option<&str> {
        self.properties.get(java_key).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn origin(&self, java_key: &str) -> Origin {
        Origin::JavaConfig { path: self.path.to_owned(), key: java_key.to_owned() }
    }

    fn take(
        &mut self,
        java_key: &str,
        key: &str,
        give: impl FnOnce(&str) -> Given,
    ) -> Result<(), ConfigError> {
        match self.value(java_key) {
            Some(value) => {
                let given = give(value);
                let origin = self.origin(java_key);
                self.read.layer.set(key, &given, &origin)
            }
            None => Ok(()),
        }
    }

    fn refuse_what_is_unsafe(&self) -> Result<(), ConfigError> {
        let asked = |(key, asking, _): &&(&str, &str, &str)| {
            self.value(key).is_some_and(|value| value.eq_ignore_ascii_case(asking))
        };
        match REFUSED.iter().find(asked) {
            Some((key, _, instead)) => Err(self.not_yet(key, instead)),
            None => Ok(()),
        }
    }

    fn not_yet(&self, java_key: &str, instead: &'static str) -> ConfigError {
        ConfigError::NotYet {
            key: java_key.to_owned(),
            value: self.value(java_key).unwrap_or_default().to_owned(),
            origin: self.origin(java_key),
            instead,
        }
    }

    fn translate(&mut self) -> Result<(), ConfigError> {
        let bind_address = self.value("bindAddress").unwrap_or("0.0.0.0").to_owned();
        let host = if bind_address.contains(':') { format!("[{bind_address}]") } else { bind_address };
        match self.value("listenPort") {
            Some(_) => {
                self.take("listenPort", "broker.listen", |port| Given::Text(format!("{host}:{port}")))?;
            }
            None => {
                self.take("bindAddress", "broker.listen", |_| Given::Text(format!("{host}:10911")))?;
            }
        }
        self.take("flushDiskType", "store.flush_mode", |value| {
            Given::Text(match value.to_ascii_uppercase().as_str() {
                "ASYNC_FLUSH" => "async".to_owned(),
                "SYNC_FLUSH" => "sync".to_owned(),
                _ => value.to_owned(),
            })
        })?;
        // As Java, up to the next whole unit.
        self.take("mappedFileSizeConsumeQueue", "store.consume_queue_segment_units", |value| {
            let units = value.parse::<i64>().map(|bytes| Typed::Whole(bytes.max(0).saturating_add(19) / 20));
            units.map_or_else(|_| Given::Text(value.to_owned()), Given::Typed)
        })?;
        for (java_key, key) in [
            ("diskMaxUsedSpaceRatio", "retention.warn_ratio"),
            ("diskSpaceCleanForciblyRatio", "retention.force_ratio"),
            ("diskSpaceWarningLevelRatio", "retention.refuse_ratio"),
        ] {
            // Percent; two of them may also be written as a share.
            self.take(java_key, key, |value| match value.parse::<f64>() {
                Ok(percent) if percent >= 1.0 => Given::Typed(Typed::Float(percent / 100.0)),
                Ok(share) => Given::Typed(Typed::Float(share)),
                Err(_) => Given::Text(value.to_owned()),
            })?;
        }
        self.take("msgTraceTopicName", "broker.trace_topic", |value| Given::Text(value.to_owned()))?;
        if self.value("rejectTransactionMessage").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            self.take("rejectTransactionMessage", "transaction.enabled", |_| {
                Given::Text("false".to_owned())
            })?;
        }
        if self.value("traceTopicEnable").is_some_and(|value| value.eq_ignore_ascii_case("false")) {
            self.take("traceTopicEnable", "broker.trace_topic", |_| Given::Text("off".to_owned()))?;
        }
        self.check_commit_log_path()
    }

    /// The commit log lies in the data directory, nowhere else.
    fn check_commit_log_path(&self) -> Result<(), ConfigError> {
        let Some(log) = self.value("storePathCommitLog") else { return Ok(()) };
        let inside = self
            .value("storePathRootDir")
            .is_some_and(|root| Path::new(root).join("commitlog") == Path::new(log));
        match inside {
            true => Ok(()),
            false => Err(self.not_yet(
                "storePathCommitLog",
                "the commit log must be the directory commitlog in storePathRootDir; move it there, or put a link there",
            )),
        }
    }

    fn sort_the_rest(&mut self) {
        let defaults = properties_text::parse(KNOWN).expect("our own file has no escapes in it");
        for (key, value) in self.properties {
            let key = key.as_str();
            let is_taken = SAME.iter().any(|(java_key, _)| *java_key == key)
                || TRANSLATED.contains(&key)
                || REFUSED.iter().any(|(java_key, _, _)| *java_key == key);
            if is_taken {
                continue;
            }
            let default = defaults.get(key);
            if default.is_none() && !ALSO_KNOWN.contains(&key) {
                let known = defaults.keys().map(String::as_str);
                let near = rules::nearest_of(key, known).map(|near| format!(" (did you mean {near}?)"));
                self.read.leftovers.unknown.push(format!("{key}{}", near.unwrap_or_default()));
            } else if is_not_yet(key) {
                if default.is_none_or(|default| default != value) {
                    self.read.leftovers.not_yet.push(key.to_owned());
                }
            } else {
                self.read.leftovers.no_meaning.push(key.to_owned());
            }
        }
    }
}

/// A prefix counts only before a capital: `ha` is meant to find `haListenPort`.
fn is_not_yet(key: &str) -> bool {
    let begins =
        |prefix: &str| key.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(char::is_uppercase));
    NOT_YET.contains(&key)
        || (NOT_YET_PREFIXES.iter().any(|prefix| begins(prefix)) && !key.contains("Thread"))
}

#[cfg(test)]
mod tests;
