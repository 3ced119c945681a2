//! Requests to a name server.

use super::field::header;
use crate::types::{BrokerName, TopicName};

header! {
    /// GET_ROUTEINFO_BY_TOPIC (105).
    pub struct GetRoute {
        pub topic: TopicName => "topic",
        pub accept_standard_json_only: bool => "acceptStandardJsonOnly" or false,
        pub zone_name: Option<String> => "__ZONE_NAME",
        pub zone_mode: bool => "__ZONE_MODE" or false,
    }

    /// REGISTER_BROKER (103).
    pub struct RegisterBroker {
        pub broker_name: BrokerName => "brokerName",
        pub broker_addr: String => "brokerAddr",
        pub cluster_name: String => "clusterName",
        pub ha_server_addr: String => "haServerAddr" or String::new(),
        /// 0 is the master.
        pub broker_id: i64 => "brokerId" or 0,
        /// Silence after which the broker is dropped, ms; absent: 120 s.
        pub heartbeat_timeout_ms: Option<i64> => "heartbeatTimeoutMillis",
        pub enable_acting_master: Option<bool> => "enableActingMaster",
        pub compressed: bool => "compressed" or false,
        /// CRC-32 of the body, masked to 31 bits; 0: not checked.
        pub body_crc32: i32 => "bodyCrc32" or 0,
        pub zone_name: Option<String> => "__ZONE_NAME",
    }

    /// The answer to 103.
    pub struct RegisterBrokerResponse {
        pub ha_server_addr: Option<String> => "haServerAddr",
        pub master_addr: Option<String> => "masterAddr",
    }

    /// UNREGISTER_BROKER (104) and, with a DataVersion as body, QUERY_DATA_VERSION (322).
    pub struct BrokerIdentity {
        pub broker_name: BrokerName => "brokerName",
        pub broker_addr: String => "brokerAddr",
        pub cluster_name: String => "clusterName",
        pub broker_id: i64 => "brokerId" or 0,
    }

    /// The answer to 322.
    pub struct QueryDataVersionResponse {
        pub changed: bool => "changed",
    }

    /// BROKER_HEARTBEAT (904).
    pub struct BrokerHeartbeat {
        pub cluster_name: String => "clusterName",
        pub broker_addr: String => "brokerAddr",
        pub broker_name: BrokerName => "brokerName",
        pub broker_id: Option<i64> => "brokerId",
        pub heartbeat_timeout_ms: Option<i64> => "heartbeatTimeoutMills",
    }

    /// GET_BROKER_MEMBER_GROUP (901).
    pub struct BrokerMemberGroupHeader {
        pub cluster_name: String => "clusterName",
        pub broker_name: BrokerName => "brokerName",
    }

    /// PUT_KV_CONFIG (100).
    pub struct PutKvConfig {
        pub namespace: String => "namespace",
        pub key: String => "key",
        pub value: String => "value",
    }

    /// GET_KV_CONFIG (101), DELETE_KV_CONFIG (102).
    pub struct KvConfigKey {
        pub namespace: String => "namespace",
        pub key: String => "key",
    }

    /// The answer to 101.
    pub struct KvConfigResponse {
        pub value: String => "value",
    }

    /// GET_KVLIST_BY_NAMESPACE (219).
    pub struct KvNamespace {
        pub namespace: String => "namespace",
    }

    /// WIPE_WRITE_PERM_OF_BROKER (205), ADD_WRITE_PERM_OF_BROKER (327).
    pub struct BrokerNameHeader {
        pub broker_name: BrokerName => "brokerName",
    }

    pub struct WipeWritePermResponse {
        pub wipe_topic_count: i32 => "wipeTopicCount",
    }

    pub struct AddWritePermResponse {
        pub add_topic_count: i32 => "addTopicCount",
    }

    /// DELETE_TOPIC_IN_NAMESRV (216), REGISTER_TOPIC_IN_NAMESRV (217).
    pub struct NameServerTopic {
        pub topic: TopicName => "topic",
        pub cluster_name: Option<String> => "clusterName",
    }

    /// GET_TOPICS_BY_CLUSTER (224).
    pub struct ClusterHeader {
        pub cluster: String => "cluster",
    }
}
