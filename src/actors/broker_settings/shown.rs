//! How the settings look to tools of the Java broker.

use std::collections::BTreeMap;

use strsim::osa_distance;

use super::SettingValues;
use crate::error::Refusal;
use crate::protocol::properties_text::{self, Properties};

/// Java's settings with their defaults, one `key=value` a line.
const JAVA_DEFAULTS: &str = include_str!("java_defaults.properties");

/// Settings that tools act on and only the root knows: it gives them to the owner of the settings.
pub const SET_BY_ROOT: [&str; 20] = [
    "brokerClusterName",
    "brokerIP1",
    "brokerIP2",
    "brokerId",
    "brokerName",
    "brokerRole",
    "flushDiskType",
    "haListenPort",
    "listenPort",
    "mappedFileSizeCommitLog",
    "maxMessageSize",
    "messageDelayLevel",
    "msgTraceTopicName",
    "namesrvAddr",
    "rocketmqHome",
    "slaveReadEnable",
    "storePathCommitLog",
    "storePathRootDir",
    "traceTopicEnable",
    "useTLS",
];

/// Nobody may set these: they decide what may be set, and where.
const BLACK_LIST: [&str; 2] = ["configBlackList", "brokerConfigPath"];

/// Java's defaults. The sizes of thread pools depend on the machine; there are none here.
pub fn java_defaults(processors: usize) -> Properties {
    let mut defaults = properties_text::parse(JAVA_DEFAULTS).expect("our own file has no escapes in it");
    let pools = [
        ("clientCallbackExecutorThreads", processors),
        ("endTransactionThreadPoolNums", 8 + 2 * processors),
        ("heartbeatThreadPoolNums", processors.min(32)),
        ("litePullMessageThreadPoolNums", 16 + 2 * processors),
        ("processReplyMessageThreadPoolNums", 16 + 2 * processors),
        ("pullMessageThreadPoolNums", 16 + 2 * processors),
        ("putMessageFutureThreadPoolNums", processors.min(4)),
        ("queryMessageThreadPoolNums", 8 + processors),
        ("sendMessageThreadPoolNums", processors.min(4)),
    ];
    defaults.extend(pools.map(|(key, threads)| (key.to_owned(), threads.to_string())));
    defaults
}

/// Everything: Java's defaults, over them what the root set, over that what may change.
pub fn shown(settings: &SettingValues, fixed: &BTreeMap<&'static str, String>) -> Properties {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut shown = java_defaults(processors);
    shown.extend(fixed.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    shown.extend(settings.to_text().into_iter().map(|(key, value)| (key.to_owned(), value)));
    shown
}

pub fn check_not_black_listed(key: &str) -> Result<(), Refusal> {
    match BLACK_LIST.contains(&key) {
        true => Err(Refusal::SettingForbidden { key: key.to_owned() }),
        false => Ok(()),
    }
}

/// Why a key that is none of [`SettingValues`] cannot be set.
pub fn not_changeable(key: &str, fixed: &BTreeMap<&'static str, String>) -> Refusal {
    let key = key.to_owned();
    if fixed.contains_key(key.as_str()) {
        return Refusal::SettingFixed { key, remedy: "set it in config/telstar.toml and start again" };
    }
    let known = java_defaults(1);
    if known.contains_key(&key) {
        let remedy = "it belongs to a part of the Java broker that Telstar does without";
        return Refusal::SettingFixed { key, remedy };
    }
    let near = known.keys().map(|known| (osa_distance(&key, known), known)).min();
    let hint = match near.filter(|(slips, _)| *slips <= 3) {
        Some((_, near)) => format!("; did you mean {near}?"),
        None => format!("; those that can be set are {}", SettingValues::KEYS.join(", ")),
    };
    Refusal::SettingUnknown { key, hint }
}
