//! What a route says: which queues can be written or read, and at which address.

use crate::protocol::body::route::{BrokerData, TopicRouteData};
use crate::types::{BrokerName, MessageQueue, TopicName};

/// A message queue and the broker address that serves it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueAt {
    /// The queue.
    pub queue: MessageQueue,
    /// Where its broker is reached, `host:port`.
    pub addr: String,
}

/// A broker name and an address of it.
///
/// ```
/// use telstar::client::BrokerAt;
///
/// let brokers = [("b", "10.0.0.2:10911"), ("a", "10.0.0.1:10911")];
/// let mut brokers = brokers.map(|(name, addr)| BrokerAt { broker_name: name.into(), addr: addr.into() });
/// brokers.sort(); // by name
/// assert_eq!(brokers[0].addr, "10.0.0.1:10911");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BrokerAt {
    /// Its name.
    pub broker_name: BrokerName,
    /// Where its broker is reached, `host:port`.
    pub addr: String,
}

/// Queues a producer may send to: writable ones of brokers that have a master. Of a topic that is ordered over all brokers
/// those that its order names, whatever else there is (`mqadmin updateOrderConf`): `broker:queues;broker:queues`.
pub fn write_queues(topic: &TopicName, route: &TopicRouteData) -> Vec<QueueAt> {
    if let Some(order) = route.order_topic_conf.as_deref().filter(|order| !order.is_empty()) {
        return ordered_queues(topic, route, order);
    }
    let writable = route.queue_datas.iter().filter(|data| data.perm.is_writable());
    writable
        .filter_map(|data| Some((data, master_addr(find_broker(route, &data.broker_name)?)?)))
        .flat_map(|(data, addr)| queues_of(topic, &data.broker_name, data.write_queue_nums, addr))
        .collect()
}

/// RocketMQ: `MQClientInstance.topicRouteData2TopicPublishInfo`.
fn ordered_queues(topic: &TopicName, route: &TopicRouteData, order: &str) -> Vec<QueueAt> {
    let parts = order.split(';').filter_map(|part| part.trim().split_once(':'));
    parts
        .filter_map(|(broker, queues)| Some((find_broker(route, &broker.into())?, queues.parse().ok()?)))
        .filter_map(|(broker, queues)| Some((broker, queues, master_addr(broker)?)))
        .flat_map(|(broker, queues, addr)| queues_of(topic, &broker.broker_name, queues, addr))
        .collect()
}

/// Queues a consumer may pull from: readable ones, at the master or, without one, at the slave of lowest id.
pub fn read_queues(topic: &TopicName, route: &TopicRouteData) -> Vec<QueueAt> {
    let readable = route.queue_datas.iter().filter(|data| data.perm.is_readable());
    readable
        .filter_map(|data| Some((data, any_addr(find_broker(route, &data.broker_name)?)?)))
        .flat_map(|(data, addr)| queues_of(topic, &data.broker_name, data.read_queue_nums, addr))
        .collect()
}

/// Masters of all brokers of the route, in the order of their names.
pub fn masters(route: &TopicRouteData) -> Vec<BrokerAt> {
    masters_of(&route.broker_datas)
}

/// Masters among `brokers`, in the order of their names.
pub fn masters_of<'a>(brokers: impl IntoIterator<Item = &'a BrokerData>) -> Vec<BrokerAt> {
    let master = |broker: &BrokerData| {
        let addr = master_addr(broker)?.to_owned();
        Some(BrokerAt { broker_name: broker.broker_name.clone(), addr })
    };
    let mut masters: Vec<BrokerAt> = brokers.into_iter().filter_map(master).collect();
    masters.sort();
    masters
}

/// Every address of the route, slaves too: heartbeats go to all of them.
pub fn all_addrs(route: &TopicRouteData) -> Vec<String> {
    route.broker_datas.iter().flat_map(|broker| broker.broker_addrs.values().cloned()).collect()
}

fn find_broker<'a>(route: &'a TopicRouteData, name: &BrokerName) -> Option<&'a BrokerData> {
    route.broker_datas.iter().find(|broker| broker.broker_name == *name)
}

fn master_addr(broker: &BrokerData) -> Option<&str> {
    broker.broker_addrs.get(&0).map(String::as_str)
}

fn any_addr(broker: &BrokerData) -> Option<&str> {
    broker.broker_addrs.values().next().map(String::as_str)
}

fn queues_of(topic: &TopicName, broker: &BrokerName, queues: u32, addr: &str) -> Vec<QueueAt> {
    let queue_at = |id: u32| QueueAt {
        queue: MessageQueue { broker_name: broker.clone(), queue_id: id as i32, topic: topic.clone() },
        addr: addr.to_owned(),
    };
    (0..queues).map(queue_at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::fastjson;

    fn route() -> TopicRouteData {
        fastjson::from_str(
            r#"{"brokerDatas":[{"brokerAddrs":{1:"s:1",0:"m:1"},"brokerName":"a","cluster":"c"},
                {"brokerAddrs":{2:"s:2"},"brokerName":"b","cluster":"c"}],"filterServerTable":{},
                "queueDatas":[{"brokerName":"a","perm":6,"readQueueNums":3,"writeQueueNums":2},
                {"brokerName":"b","perm":6,"readQueueNums":1,"writeQueueNums":1},
                {"brokerName":"gone","perm":6,"readQueueNums":1,"writeQueueNums":1}]}"#,
        )
        .unwrap()
    }

    fn places(queues: &[QueueAt]) -> Vec<(i32, &str)> {
        queues.iter().map(|queue| (queue.queue.queue_id, queue.addr.as_str())).collect()
    }

    #[test]
    fn masters_are_written_and_a_slave_may_be_read() {
        let (topic, route) = (TopicName::from("T"), route());
        assert_eq!(places(&write_queues(&topic, &route)), [(0, "m:1"), (1, "m:1")]);
        assert_eq!(places(&read_queues(&topic, &route)), [(0, "m:1"), (1, "m:1"), (2, "m:1"), (0, "s:2")]);
        assert_eq!(masters(&route), [BrokerAt { broker_name: "a".into(), addr: "m:1".into() }]);
        assert_eq!(all_addrs(&route), ["m:1", "s:1", "s:2"]);
    }

    #[test]
    fn order_over_all_brokers_names_the_queues_that_are_written() {
        let (topic, mut route) = (TopicName::from("T"), route());
        route.order_topic_conf = Some("a:1;b:1;elsewhere:4".into());
        assert_eq!(places(&write_queues(&topic, &route)), [(0, "m:1")], "b has no master");
        assert_eq!(read_queues(&topic, &route).len(), 4, "all are read");
        route.order_topic_conf = Some(String::new());
        assert_eq!(write_queues(&topic, &route).len(), 2);
    }

    #[test]
    fn permission_decides() {
        let mut route = route();
        route.queue_datas[0].perm = crate::protocol::topic_config::Permission::READ;
        assert!(write_queues(&"T".into(), &route).is_empty());
        assert_eq!(read_queues(&"T".into(), &route).len(), 4);
    }
}
