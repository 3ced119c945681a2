//! Settings of a name server, under the names that mqadmin shows and changes (318, 319).
//!
//! RocketMQ: `NamesrvConfig`, `NettyServerConfig`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::Refusal;
use crate::protocol::properties_text::{self, Properties};

/// Whether a setting can be changed while the name server runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// It is honoured as soon as it is changed.
    Switch,
    /// Milliseconds, honoured from the next round on.
    Millis,
    /// Shown only: Java sizes its threads by it, or it is given at the start.
    Fixed,
    /// Shown only; changing it is answered as Java does.
    Forbidden,
}

/// Every key with its default, in the order of keys.
#[rustfmt::skip]
const KEYS: &[(&str, Kind, &str)] = &[
    ("bindAddress", Kind::Fixed, "0.0.0.0"),
    ("clientRequestThreadPoolNums", Kind::Fixed, "8"),
    ("clientRequestThreadPoolQueueCapacity", Kind::Fixed, "50000"),
    ("clusterTest", Kind::Fixed, "false"),
    ("configBlackList", Kind::Forbidden, "configBlackList;configStorePath;kvConfigPath"),
    ("configStorePath", Kind::Forbidden, ""),
    ("defaultThreadPoolNums", Kind::Fixed, "16"),
    ("defaultThreadPoolQueueCapacity", Kind::Fixed, "10000"),
    ("deleteTopicWithBrokerRegistration", Kind::Switch, "false"),
    ("enableAllTopicList", Kind::Switch, "true"),
    ("enableControllerInNamesrv", Kind::Fixed, "false"),
    ("enableShutdownGracefully", Kind::Fixed, "false"),
    ("enableTopicList", Kind::Switch, "true"),
    ("kvConfigPath", Kind::Forbidden, ""),
    ("listenPort", Kind::Fixed, "9876"),
    ("needWaitForService", Kind::Fixed, "false"),
    ("notifyMinBrokerIdChanged", Kind::Fixed, "false"),
    ("orderMessageEnable", Kind::Switch, "false"),
    ("productEnvName", Kind::Fixed, "center"),
    ("returnOrderTopicConfigToBroker", Kind::Switch, "true"),
    ("rocketmqHome", Kind::Fixed, ""),
    ("scanNotActiveBrokerInterval", Kind::Millis, "5000"),
    ("serverAsyncSemaphoreValue", Kind::Fixed, "64"),
    ("serverCallbackExecutorThreads", Kind::Fixed, "0"),
    ("serverChannelMaxIdleTimeSeconds", Kind::Fixed, "120"),
    ("serverNettyWorkerGroupEnable", Kind::Fixed, "true"),
    ("serverOnewaySemaphoreValue", Kind::Fixed, "256"),
    ("serverPooledByteBufAllocatorEnable", Kind::Fixed, "true"),
    ("serverSelectorThreads", Kind::Fixed, "3"),
    ("serverSocketBacklog", Kind::Fixed, "1024"),
    ("serverSocketRcvBufSize", Kind::Fixed, "0"),
    ("serverSocketSndBufSize", Kind::Fixed, "0"),
    ("serverWorkerThreads", Kind::Fixed, "8"),
    ("shutdownWaitTimeSeconds", Kind::Fixed, "30"),
    ("supportActingMaster", Kind::Switch, "false"),
    ("unRegisterBrokerQueueCapacity", Kind::Fixed, "3000"),
    ("useEpollNativeSelector", Kind::Fixed, "false"),
    ("waitSecondsForService", Kind::Fixed, "45"),
    ("writeBufferHighWaterMark", Kind::Fixed, "0"),
    ("writeBufferLowWaterMark", Kind::Fixed, "0"),
];

/// What is known only where the name server is started; shown, never changed.
#[derive(Clone, Debug)]
pub struct NameServerPlace {
    pub bind_address: String,
    pub listen_port: u16,
    /// Directory of its files.
    pub home: String,
}

/// All settings at one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct NameServerSettings {
    values: BTreeMap<&'static str, String>,
    /// Topics that a broker no longer names are removed from it. Default off.
    pub delete_topic_with_broker_registration: bool,
    /// Answer the list of all topics (206). Default on.
    pub enable_all_topic_list: bool,
    /// Answer the lists of topics by cluster and by unit. Default on.
    pub enable_topic_list: bool,
    /// Add the order of ordered topics to their routes. Default off.
    pub order_message_enable: bool,
    /// Answer registrations with the order of ordered topics. Default on.
    pub return_order_topic_config_to_broker: bool,
    /// Show the lowest slave as master while there is none. Default off.
    pub support_acting_master: bool,
    /// How often silent brokers are looked for. Default 5 s, minimum 100 ms.
    pub scan_interval: Duration,
}

impl Default for NameServerSettings {
    fn default() -> Self {
        Self::of(KEYS.iter().map(|(key, _, default)| (*key, (*default).to_owned())).collect())
    }
}

impl NameServerSettings {
    pub fn at(place: &NameServerPlace) -> Self {
        let mut values = Self::default().values;
        values.insert("bindAddress", place.bind_address.clone());
        values.insert("listenPort", place.listen_port.to_string());
        values.insert("rocketmqHome", place.home.clone());
        values.insert("kvConfigPath", format!("{}/namesrv/kvConfig.json", place.home));
        values.insert("configStorePath", format!("{}/namesrv/namesrv.properties", place.home));
        Self::of(values)
    }

    fn of(values: BTreeMap<&'static str, String>) -> Self {
        let is_on = |key: &str| values.get(key).is_some_and(|value| value == "true");
        let millis = |key: &str| values.get(key).and_then(|value| value.parse().ok()).unwrap_or(5000);
        Self {
            delete_topic_with_broker_registration: is_on("deleteTopicWithBrokerRegistration"),
            enable_all_topic_list: is_on("enableAllTopicList"),
            enable_topic_list: is_on("enableTopicList"),
            order_message_enable: is_on("orderMessageEnable"),
            return_order_topic_config_to_broker: is_on("returnOrderTopicConfigToBroker"),
            support_acting_master: is_on("supportActingMaster"),
            scan_interval: Duration::from_millis(millis("scanNotActiveBrokerInterval")),
            values,
        }
    }

    /// These settings with `changes`; all or none of them are taken.
    pub fn altered(&self, changes: &Properties) -> Result<Self, Refusal> {
        let mut values = self.values.clone();
        for (key, value) in changes {
            let Some((key, kind, _)) = KEYS.iter().find(|(known, ..)| known == key) else {
                return Err(unknown(key));
            };
            let malformed =
                |allowed| Refusal::SettingInvalid { key: (*key).to_owned(), value: value.clone(), allowed };
            let value = value.trim();
            match kind {
                Kind::Switch if !matches!(value, "true" | "false") => return Err(malformed("true or false")),
                Kind::Millis if !value.parse().is_ok_and(|ms: u64| (100..=3_600_000).contains(&ms)) => {
                    return Err(malformed("100 to 3600000 ms"));
                }
                Kind::Switch | Kind::Millis => values.insert(key, value.to_owned()),
                Kind::Forbidden => return Err(Refusal::SettingForbidden { key: (*key).to_owned() }),
                // Tools send whole files back; what stays as it is changes nothing.
                Kind::Fixed if values.get(key).is_some_and(|now| now == value) => None,
                Kind::Fixed => {
                    return Err(Refusal::NameServerSettingFixed { key: (*key).to_owned() });
                }
            };
        }
        Ok(Self::of(values))
    }

    /// What differs from `former`, to be kept over a restart.
    pub fn changes_since(&self, former: &Self) -> Vec<(&'static str, &str)> {
        let changed = self.values.iter().filter(|(key, value)| former.values.get(*key) != Some(value));
        changed.map(|(key, value)| (*key, value.as_str())).collect()
    }

    /// All settings as properties text (319).
    pub fn text(&self) -> String {
        properties_text::write(&self.values)
    }
}

fn unknown(key: &str) -> Refusal {
    let near = KEYS.iter().map(|(known, ..)| (strsim::osa_distance(known, key), *known)).min();
    let hint = match near {
        Some((distance, near)) if distance <= 3 => format!(" Did you mean {near}?"),
        _ => " mqadmin getNamesrvConfig lists all.".to_owned(),
    };
    Refusal::NameServerSettingUnknown { key: key.to_owned(), hint }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::response_code::ResponseCode;

    fn altered(key: &str, value: &str) -> Result<NameServerSettings, Refusal> {
        NameServerSettings::default().altered(&[(key.to_owned(), value.to_owned())].into())
    }

    #[test]
    fn keys_are_those_of_java_in_order() {
        assert_eq!(KEYS.len(), 40);
        assert!(KEYS.is_sorted_by_key(|(key, ..)| *key));
        let place =
            NameServerPlace { bind_address: "0.0.0.0".into(), listen_port: 9876, home: "/data".into() };
        let text = NameServerSettings::at(&place).text();
        assert!(text.contains("kvConfigPath=/data/namesrv/kvConfig.json\nlistenPort=9876\n"), "{text}");
        assert_eq!(text.lines().count(), 40);
    }

    #[test]
    fn switches_are_changed_and_told_apart() {
        let changed = altered("orderMessageEnable", "true").unwrap();
        assert!(changed.order_message_enable);
        assert_eq!(changed.changes_since(&NameServerSettings::default()), [("orderMessageEnable", "true")]);
        assert!(altered("listenPort", "9876").is_ok(), "what stays as it is changes nothing");
    }

    #[test]
    fn refusals_name_the_key() {
        let refused = |key, value| {
            let refusal = altered(key, value).unwrap_err();
            (refusal.code(), refusal.to_string())
        };
        let (code, text) = refused("kvConfigPath", "nowhere");
        assert_eq!(code, ResponseCode::NO_PERMISSION);
        assert!(text.starts_with("Can not update config in black list."));
        let (code, text) = refused("orderMesageEnable", "true");
        assert_eq!(code, ResponseCode::INVALID_PARAMETER);
        assert!(text.contains("Did you mean orderMessageEnable?"), "{text}");
        assert!(refused("noSuchKey", "1").1.contains("noSuchKey"));
        assert!(refused("listenPort", "1").1.contains("listenPort"));
        assert!(refused("enableTopicList", "yes").1.contains("true or false"));
    }
}
