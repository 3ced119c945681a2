//! Where topics and brokers are, as name servers tell it (codes 105, 106, 206 and their like).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::protocol::topic_config::Permission;
use crate::types::{BrokerName, TopicName};

/// Addresses of a broker by broker id; 0 is the master. Java writes the ids bare; quoted ones are read by all.
pub type BrokerAddrs = BTreeMap<i64, String>;

/// The brokers of one topic, and their queues. RocketMQ: `TopicRouteData`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicRouteData {
    pub broker_datas: Vec<BrokerData>,
    /// Broker address to filter servers; always written, always empty nowadays.
    pub filter_server_table: BTreeMap<String, Vec<String>>,
    /// `broker:queues;…` of an ordered topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_topic_conf: Option<String>,
    pub queue_datas: Vec<QueueData>,
    /// Static topics: broker name to its part of the mapping, kept as it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_queue_mapping_by_broker: Option<BTreeMap<String, Value>>,
}

/// Queues of the topic on one broker. RocketMQ: `QueueData`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueData {
    pub broker_name: BrokerName,
    pub perm: Permission,
    pub read_queue_nums: u32,
    pub topic_sys_flag: i32,
    pub write_queue_nums: u32,
}

impl Default for QueueData {
    fn default() -> Self {
        Self {
            broker_name: "".into(),
            perm: Permission(0),
            read_queue_nums: 0,
            topic_sys_flag: 0,
            write_queue_nums: 0,
        }
    }
}

/// A master and its slaves. RocketMQ: `BrokerData`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerData {
    pub broker_addrs: BrokerAddrs,
    pub broker_name: BrokerName,
    pub cluster: String,
    pub enable_acting_master: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone_name: Option<String>,
}

/// All brokers and clusters (106). RocketMQ: `ClusterInfo`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterInfo {
    pub broker_addr_table: BTreeMap<String, BrokerData>,
    /// Cluster to broker names.
    pub cluster_addr_table: BTreeMap<String, Vec<BrokerName>>,
}

/// RocketMQ: `TopicList`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicList {
    /// Where to ask on (304), or who answered (343).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker_addr: Option<String>,
    pub topic_list: Vec<TopicName>,
}

/// Settings or figures by name, all values text (28, 219). RocketMQ: `KVTable`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KVTable {
    pub table: BTreeMap<String, String>,
}

/// RocketMQ: `BrokerMemberGroup`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerMemberGroup {
    pub broker_addrs: BrokerAddrs,
    pub broker_name: BrokerName,
    pub cluster: String,
}

/// The answer to 901. RocketMQ: `GetBrokerMemberGroupResponseBody`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GetBrokerMemberGroupResponseBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker_member_group: Option<BrokerMemberGroup>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::body::golden::assert_golden;
    use crate::protocol::fastjson::from_slice;

    fn broker(addrs: &[(i64, &str)]) -> BrokerData {
        BrokerData {
            broker_addrs: addrs.iter().map(|(id, addr)| (*id, (*addr).to_owned())).collect(),
            broker_name: "broker-a".into(),
            cluster: "DefaultCluster".into(),
            ..BrokerData::default()
        }
    }

    #[test]
    fn topic_route() {
        let route = TopicRouteData {
            broker_datas: vec![broker(&[(0, "10.0.0.1:10911"), (1, "10.0.0.2:10911")])],
            order_topic_conf: Some("broker-a:8".into()),
            queue_datas: vec![QueueData {
                broker_name: "broker-a".into(),
                perm: Permission::READ_WRITE,
                read_queue_nums: 8,
                topic_sys_flag: 0,
                write_queue_nums: 8,
            }],
            ..TopicRouteData::default()
        };
        let text = r#"{"brokerDatas":[{"brokerAddrs":{"0":"10.0.0.1:10911","1":"10.0.0.2:10911"},"brokerName":"broker-a","cluster":"DefaultCluster","enableActingMaster":false}],"filterServerTable":{},"orderTopicConf":"broker-a:8","queueDatas":[{"brokerName":"broker-a","perm":6,"readQueueNums":8,"topicSysFlag":0,"writeQueueNums":8}]}"#;
        assert_golden(&route, text);
        let bare = text.replace(r#""0":"#, "0:").replace(r#""1":"#, "1:");
        assert_eq!(from_slice::<TopicRouteData>(bare.as_bytes()).unwrap(), route);
    }

    #[test]
    fn cluster_info() {
        let info = ClusterInfo {
            broker_addr_table: [("broker-a".to_owned(), broker(&[(0, "10.0.0.1:10911")]))].into(),
            cluster_addr_table: [("DefaultCluster".to_owned(), vec!["broker-a".into()])].into(),
        };
        let text = r#"{"brokerAddrTable":{"broker-a":{"brokerAddrs":{"0":"10.0.0.1:10911"},"brokerName":"broker-a","cluster":"DefaultCluster","enableActingMaster":false}},"clusterAddrTable":{"DefaultCluster":["broker-a"]}}"#;
        assert_golden(&info, text);
        let bare = text.replace(r#""0":"#, "0:");
        assert_eq!(from_slice::<ClusterInfo>(bare.as_bytes()).unwrap(), info);
    }

    #[test]
    fn topic_list_and_tables() {
        assert_golden(
            &TopicList {
                broker_addr: Some("10.0.0.1:10911".into()),
                topic_list: vec!["TopicA".into(), "%RETRY%cg1".into()],
            },
            r#"{"brokerAddr":"10.0.0.1:10911","topicList":["TopicA","%RETRY%cg1"]}"#,
        );
        assert_golden(&TopicList::default(), r#"{"topicList":[]}"#);
        let table = KVTable { table: [("k".to_owned(), "v".to_owned())].into() };
        assert_golden(&table, r#"{"table":{"k":"v"}}"#);
    }

    #[test]
    fn broker_member_group() {
        let group = BrokerMemberGroup {
            broker_addrs: [(0, "10.0.0.1:10911".to_owned())].into(),
            broker_name: "broker-a".into(),
            cluster: "c".into(),
        };
        assert_golden(
            &GetBrokerMemberGroupResponseBody { broker_member_group: Some(group) },
            r#"{"brokerMemberGroup":{"brokerAddrs":{"0":"10.0.0.1:10911"},"brokerName":"broker-a","cluster":"c"}}"#,
        );
    }
}
