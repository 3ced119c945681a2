//! Registrations as tests want them.

use super::BrokerRegistration;
use crate::actors::request::ConnectionId;
use crate::protocol::body::registration::TopicConfigSerializeWrapper;
use crate::protocol::data_version::DataVersion;
use crate::protocol::topic_config::{Permission, TopicConfig};

/// A broker of cluster `c` that registers by connection 1.
pub fn registration(
    broker_name: &str,
    broker_id: i64,
    broker_addr: &str,
    topics: TopicConfigSerializeWrapper,
) -> BrokerRegistration {
    BrokerRegistration {
        cluster: "c".into(),
        broker_name: broker_name.into(),
        broker_addr: broker_addr.into(),
        broker_id,
        ha_server_addr: format!("{broker_addr}-ha"),
        zone_name: None,
        timeout_ms: None,
        enable_acting_master: Some(false),
        filter_servers: Vec::new(),
        topics,
        connection: Some(ConnectionId(1)),
    }
}

/// Topics of four queues at a data version.
pub fn topics(version: i64, known: &[(&str, Permission)]) -> TopicConfigSerializeWrapper {
    let configs = known.iter().map(|(topic, perm)| TopicConfig::new(*topic, 4).with_perm(*perm));
    TopicConfigSerializeWrapper {
        data_version: DataVersion { counter: version, state_version: 0, timestamp: 0 },
        topic_config_table: configs.map(|config| (config.topic_name.clone(), config)).collect(),
        ..TopicConfigSerializeWrapper::default()
    }
}
