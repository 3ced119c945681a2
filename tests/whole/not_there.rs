//! What this broker does not have: each kind is refused over the wire by its name, and nothing is stored.

use bytes::Bytes;
use telstar::client::Call;
use telstar::protocol::header::*;
use telstar::protocol::request_code::RequestCode;

use crate::support::*;

fn topic(name: &str, perm: i32, attributes: &str) -> Call {
    Call::new(RequestCode::UPDATE_AND_CREATE_TOPIC).header(&CreateTopic {
        topic: name.into(),
        default_topic: "TBW102".into(),
        read_queue_nums: 1,
        write_queue_nums: 1,
        perm,
        topic_filter_type: "SINGLE_TAG".into(),
        topic_sys_flag: 0,
        order: false,
        attributes: Some(attributes.into()),
    })
}

fn body(code: RequestCode, json: &str) -> Call {
    Call::new(code).body(Bytes::copy_from_slice(json.as_bytes()))
}

fn group(key: &str, value: &str) -> Call {
    let json = format!(r#"{{"groupName":"g","attributes":{{"+{key}":"{value}"}}}}"#);
    body(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &json)
}

fn send(name: &str) -> Call {
    Send::to("orders", 0, "x").with("KEYS", "k").with(name, "1").call()
}

#[tokio::test]
async fn what_is_not_there_is_refused_by_its_name() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let client = broker.client().await;
    client.create_topic("orders", 1).await;
    let pop_mode = r#"{"consumerGroup":"TOOLS_CONSUMER","mode":"POP","popShareQueueNum":0,"topic":"orders"}"#;
    let topics = r#"{"topicConfigList":[{"topicName":"listed","attributes":{"+message.type":"LITE"}}]}"#;
    let in_batch = {
        let properties = "INNER_MULTI_DISPATCH\u{1}%LMQ%a";
        let mut entry = Vec::new();
        for number in [0u32, 0, 0, 0, 1] {
            entry.extend(number.to_be_bytes()); // length, magic, CRC, flag, length of the body
        }
        entry.push(b'x');
        entry.extend((properties.len() as u16).to_be_bytes());
        entry.extend(properties.as_bytes());
        let len = entry.len() as u32;
        entry[..4].copy_from_slice(&len.to_be_bytes());
        Send { batch: true, ..Send::to("orders", 0, entry) }.call()
    };
    let mut cases = vec![
        ("a priority topic", "priority", topic("p", 6, "+message.type=PRIORITY")),
        ("the priority bit", "priority", topic("p", 14, "")),
        ("a lite topic", "lite", topic("l", 6, "+message.type=LITE")),
        ("a lite topic that expires", "lite", topic("l", 6, "+lite.topic.expiration=10")),
        ("a lite topic among others", "lite", body(RequestCode::UPDATE_AND_CREATE_TOPIC_LIST, topics)),
        ("batch queues", "BatchCQ", topic("b", 6, "+queue.type=BatchCQ")),
        ("a light queue", "LMQ", topic("%LMQ%x", 6, "")),
        ("a light queue that is sent to", "LMQ", Send::to("%LMQ%x", 0, "x").call()),
        ("dispatch to light queues", "LMQ", send("INNER_MULTI_DISPATCH")),
        ("the same in a batch", "LMQ", in_batch),
        ("a message with a priority", "priority", send("_SYS_MSG_PRIORITY_")),
        ("a lite message", "lite", send("__LITE_TOPIC")),
        ("a group of a lite topic", "lite", group("lite.bind.topic", "orders")),
        ("its model", "lite", group("lite.sub.model", "Shared")),
        ("its quota", "lite", group("lite.sub.client.quota", "5")),
        ("a group that takes by POP", "POP", body(RequestCode::SET_MESSAGE_REQUEST_MODE, pop_mode)),
        ("a static topic", "static", body(RequestCode::UPDATE_AND_CREATE_STATIC_TOPIC, "{}")),
        ("a user", "access control", body(RequestCode::AUTH_CREATE_USER, "{}")),
        ("a slave", "replication", Call::new(RequestCode::EXCHANGE_BROKER_HA_INFO)),
        ("another store", "RocksDB", Call::new(RequestCode::EXPORT_ROCKSDB_CONFIG_TO_JSON)),
        ("a code that nobody has", "12345", Call::new(RequestCode::from_i32(12_345))),
    ];
    for code in [
        RequestCode::POP_MESSAGE,
        RequestCode::ACK_MESSAGE,
        RequestCode::BATCH_ACK_MESSAGE,
        RequestCode::PEEK_MESSAGE,
        RequestCode::CHANGE_MESSAGE_INVISIBLETIME,
        RequestCode::NOTIFICATION,
        RequestCode::POLLING_INFO,
        RequestCode::POP_ROLLBACK,
    ] {
        cases.push(("POP", "POP", Call::new(code)));
    }
    for (case, word, call) in cases {
        let (code, remark) = client.refused(call).await;
        assert_eq!(code, 3, "{case}: {remark}");
        assert!(remark.contains(word), "{case}: {remark}");
    }
    assert_eq!(client.offset_of(RequestCode::GET_MAX_OFFSET, "orders", 0).await, 0, "nothing is stored");
    for name in ["p", "l", "b", "listed", "%LMQ%x"] {
        let (code, _) = client
            .refused(Call::new(RequestCode::GET_TOPIC_CONFIG).header(&TopicHeader { topic: name.into() }))
            .await;
        assert_eq!(code, 17, "{name} is not created");
    }
}
