//! What RocketMQ has, by some version, and this broker does not: each is refused by its name, with what to do instead.
//! Nothing of it is taken and then ignored.

use crate::error::Refusal;
use crate::protocol::attributes::{
    Attributes, LITE_BIND_TOPIC, LITE_TOPIC_EXPIRATION, MESSAGE_TYPE, QUEUE_TYPE,
};
use crate::protocol::names;
use crate::protocol::properties::names as property;
use crate::protocol::request_code::RequestCode;
use crate::protocol::topic_config::TopicConfig;

/// Bit of a permission. RocketMQ: `PermName.PERM_PRIORITY`, which it never grants either.
const PERM_PRIORITY: i32 = 8;

const LITE: Refusal = Refusal::NotSupported {
    what: "lite topics",
    instead: "leave out what is named lite, and use a topic, or a tag or an SQL92 condition within one",
};
const LIGHT_QUEUES: Refusal = Refusal::NotSupported {
    what: "dispatch to light queues (LMQ)",
    instead: "leave INNER_MULTI_DISPATCH out and choose other names than %LMQ%…; have the groups filter one topic by tag or SQL92",
};
const PRIORITY: Refusal = Refusal::NotSupported {
    what: "priority of messages",
    instead: "leave it out; use a topic for each priority, with groups of their own",
};
const POP: Refusal = Refusal::NotSupported {
    what: "consumption by POP",
    instead: "consume by pull or push, as clients of the remoting protocol do on their own",
};
const STATIC_TOPICS: Refusal = Refusal::NotSupported {
    what: "static topics (mapping of queues to brokers)",
    instead: "create the topic on each broker that is to have queues of it, with mqadmin updateTopic",
};
const BATCH_QUEUES: Refusal = Refusal::NotSupported {
    what: "the queue type BatchCQ",
    instead: "leave queue.type out; batches are stored in ordinary queues",
};
const REPLICATION: Refusal = Refusal::NotSupported {
    what: "replication",
    instead: "there are no slaves or controllers here; use synchronous flush (store.flush_mode)",
};
const ACCESS_CONTROL: Refusal = Refusal::NotSupported {
    what: "access control",
    instead: "there are no users or rules here; guard the ports by the network",
};
const COLD_DATA: Refusal = Refusal::NotSupported {
    what: "flow control of cold reads",
    instead: "there is nothing to set; bound the answers by [pull]",
};
const ROCKSDB: Refusal = Refusal::NotSupported {
    what: "a RocksDB store",
    instead: "queues are files, and settings are exported by telstar store export-config",
};

/// The refusal of a request that the broker does not serve.
pub fn of_request(code: i32) -> Refusal {
    use RequestCode as Code;
    match Code::from_i32(code) {
        Code::POP_MESSAGE
        | Code::ACK_MESSAGE
        | Code::BATCH_ACK_MESSAGE
        | Code::PEEK_MESSAGE
        | Code::CHANGE_MESSAGE_INVISIBLETIME
        | Code::NOTIFICATION
        | Code::POLLING_INFO
        | Code::POP_ROLLBACK => POP,
        Code::UPDATE_AND_CREATE_STATIC_TOPIC => STATIC_TOPICS,
        Code::EXCHANGE_BROKER_HA_INFO
        | Code::GET_BROKER_HA_STATUS
        | Code::RESET_MASTER_FLUSH_OFFSET
        | Code::GET_BROKER_EPOCH_CACHE
        | Code::NOTIFY_BROKER_ROLE_CHANGED
        | Code::NOTIFY_MIN_BROKER_ID_CHANGE => REPLICATION,
        Code::UPDATE_AND_CREATE_ACL_CONFIG
        | Code::DELETE_ACL_CONFIG
        | Code::GET_BROKER_CLUSTER_ACL_INFO
        | Code::UPDATE_GLOBAL_WHITE_ADDRS_CONFIG
        | Code::GET_BROKER_CLUSTER_ACL_CONFIG
        | Code::AUTH_CREATE_USER
        | Code::AUTH_UPDATE_USER
        | Code::AUTH_DELETE_USER
        | Code::AUTH_GET_USER
        | Code::AUTH_LIST_USER
        | Code::AUTH_CREATE_ACL
        | Code::AUTH_UPDATE_ACL
        | Code::AUTH_DELETE_ACL
        | Code::AUTH_GET_ACL
        | Code::AUTH_LIST_ACL => ACCESS_CONTROL,
        Code::UPDATE_COLD_DATA_FLOW_CTR_CONFIG
        | Code::REMOVE_COLD_DATA_FLOW_CTR_CONFIG
        | Code::GET_COLD_DATA_FLOW_CTR_INFO
        | Code::SET_COMMITLOG_READ_MODE => COLD_DATA,
        Code::CHECK_ROCKSDB_CQ_WRITE_PROGRESS | Code::EXPORT_ROCKSDB_CONFIG_TO_JSON => ROCKSDB,
        _ => Refusal::UnknownRequest { code },
    }
}

/// Refuses a topic that is asked for as one of a kind that is not there. Its attributes carry signs.
pub fn check_topic(asked: &TopicConfig) -> Result<(), Refusal> {
    check_topic_name(&asked.topic_name)?;
    if asked.perm.0 & PERM_PRIORITY != 0 {
        return Err(PRIORITY);
    }
    for (key, value) in set_by(&asked.attributes) {
        match (key, value) {
            (MESSAGE_TYPE, "PRIORITY") => return Err(PRIORITY),
            (MESSAGE_TYPE, "LITE") | (LITE_TOPIC_EXPIRATION, _) => return Err(LITE),
            (QUEUE_TYPE, "BatchCQ") => return Err(BATCH_QUEUES),
            _ => {}
        }
    }
    Ok(())
}

/// Refuses names that only light queues have.
pub fn check_topic_name(topic: &str) -> Result<(), Refusal> {
    if topic.starts_with(names::LMQ_PREFIX) { Err(LIGHT_QUEUES) } else { Ok(()) }
}

/// Refuses attributes of a group, with their signs, that nothing would come of. `priority.factor` passes: it weighs what
/// POP takes from topics of priorities, neither of which is there to take from.
pub fn check_group(asked: &Attributes) -> Result<(), Refusal> {
    for (key, _) in set_by(asked) {
        match key {
            LITE_BIND_TOPIC => return Err(LITE),
            key if key.starts_with("lite.") => return Err(LITE),
            _ => {}
        }
    }
    Ok(())
}

/// Refuses a message that has this property.
pub fn check_property(name: &str) -> Result<(), Refusal> {
    match name {
        property::INNER_MULTI_DISPATCH => Err(LIGHT_QUEUES),
        property::PRIORITY => Err(PRIORITY),
        property::LITE_TOPIC => Err(LITE),
        _ => Ok(()),
    }
}

/// What a change sets; what it removes does no harm.
fn set_by(signed: &Attributes) -> impl Iterator<Item = (&str, &str)> {
    signed.iter().filter_map(|(key, value)| Some((key.strip_prefix('+')?, value.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::response_code::ResponseCode;
    use crate::protocol::topic_config::Permission;

    fn refused(checked: Result<(), Refusal>, word: &str) {
        let refusal = checked.expect_err(word);
        assert_eq!(refusal.code(), ResponseCode::REQUEST_CODE_NOT_SUPPORTED, "{word}");
        assert!(refusal.to_string().contains(word), "{refusal}");
    }

    fn topic(name: &str, perm: i32, attributes: &[(&str, &str)]) -> TopicConfig {
        let attributes = attributes.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        TopicConfig { perm: Permission(perm), attributes, ..TopicConfig::new(name, 1) }
    }

    #[test]
    fn topics_of_other_kinds_are_refused_by_their_names() {
        refused(check_topic(&topic("T", 6, &[("+message.type", "PRIORITY")])), "priority");
        refused(check_topic(&topic("T", 14, &[])), "priority");
        refused(check_topic(&topic("T", 6, &[("+message.type", "LITE")])), "lite");
        refused(check_topic(&topic("T", 6, &[("+lite.topic.expiration", "9")])), "lite");
        refused(check_topic(&topic("T", 6, &[("+queue.type", "BatchCQ")])), "BatchCQ");
        refused(check_topic(&topic("%LMQ%T", 6, &[])), "LMQ");
        let fine = [("+message.type", "FIFO"), ("-lite.topic.expiration", ""), ("+queue.type", "SimpleCQ")];
        assert!(check_topic(&topic("T", 6, &fine)).is_ok());
    }

    #[test]
    fn every_attribute_of_a_group_that_is_not_there_is_refused() {
        let set = |key: &str| Attributes::from([(format!("+{key}"), "1".to_owned())]);
        let rules = crate::protocol::attributes::GROUP_ATTRIBUTES;
        for key in rules.iter().map(|rule| rule.key).filter(|key| key.starts_with("lite.")) {
            refused(check_group(&set(key)), "lite");
        }
        assert!(check_group(&set("assignment.rooms")).is_ok());
        assert!(check_group(&Attributes::from([("-lite.bind.topic".into(), String::new())])).is_ok());
    }

    #[test]
    fn properties_are_refused_by_their_names() {
        for (name, word) in
            [("INNER_MULTI_DISPATCH", "LMQ"), ("_SYS_MSG_PRIORITY_", "priority"), ("__LITE_TOPIC", "lite")]
        {
            refused(check_property(name), word);
        }
        assert!(check_property("KEYS").is_ok());
    }
}
