//! Requests of clients, typed. What is not said is as clients usually have it.

use std::time::Duration;

use bytes::Bytes;

use super::CLOCK_BEGINS;
use super::remote_client::BrokerCall;
use crate::client::{Call, Response};
use crate::protocol::body::heartbeat::{ConsumeFromWhere, ConsumerData, HeartbeatData, ProducerData};
use crate::protocol::body::subscription::SubscriptionData;
use crate::protocol::fastjson;
use crate::protocol::header::{
    CheckTransactionState, ConsumerGroupHeader, CreateTopic, EndTransactionHeader, PULL_SUBSCRIPTION,
    PULL_SUSPEND, PullHeader, QueryConsumerOffset, SendBack, SendMessageV2, SendResponse, TopicHeader,
    TypedHeader, UnregisterClient, UpdateConsumerOffset,
};
use crate::protocol::message::StoredMessage;
use crate::protocol::message_id::parse_offset_message_id;
use crate::protocol::properties::names as property;
use crate::protocol::request_code::RequestCode;
use crate::protocol::subscription_group_config::SubscriptionGroupConfig;
use crate::protocol::sys_flag::TransactionType;
use crate::protocol::transaction::Decision;

/// A message to be sent; see [`send_to`].
///
/// ```
/// use telstar::testing::Scenario;
/// use telstar::testing::calls::{SendCall, pull_from, send_to};
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
/// let order: SendCall = send_to("orders", 0, "pay 7").tag("cards").property("colour", "blue");
/// let mut shop = broker.client("shop");
/// shop.succeed(order).await;
/// let stored = shop.pull(pull_from("bank", "orders", 0, 0)).await;
/// assert_eq!((stored[0].text("TAGS"), stored[0].text("colour")), ("cards", "blue"));
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "it is sent by a client"]
pub struct SendCall {
    header: SendMessageV2,
    body: Bytes,
}

/// SEND_MESSAGE_V2 (310) to one queue of a topic.
///
/// ```
/// use telstar::testing::calls::send_to;
///
/// let tagged = send_to("orders", 0, "pay 7").tag("cards").key("order-7");
/// let later = send_to("orders", 0, "remind").delay_level(3);
/// let half = send_to("orders", 0, "pay 8").half("shop");
/// # let _ = (tagged, later, half);
/// ```
pub fn send_to(topic: &str, queue_id: u32, body: impl Into<Bytes>) -> SendCall {
    let header = SendMessageV2 {
        producer_group: "producers".into(),
        topic: topic.into(),
        default_topic: "TBW102".into(),
        default_topic_queue_nums: 4,
        queue_id: queue_id as i32,
        sys_flag: 0,
        born_at_ms: CLOCK_BEGINS.0,
        flag: 0,
        properties: String::new(),
        reconsume_times: 0,
        unit_mode: false,
        max_reconsume_times: None,
        batch: false,
    };
    SendCall { header, body: body.into() }
}

impl SendCall {
    /// The group of the producer.
    pub fn group(mut self, group: &str) -> Self {
        self.header.producer_group = group.into();
        self
    }

    /// What consumers may choose it by.
    pub fn tag(self, tag: &str) -> Self {
        self.property(property::TAGS, tag)
    }

    /// Business keys, with blanks between them.
    pub fn key(self, keys: &str) -> Self {
        self.property(property::KEYS, keys)
    }

    /// The id that the client gives its message.
    pub fn unique_key(self, key: &str) -> Self {
        self.property(property::UNIQ_KEY, key)
    }

    /// Delivered later, by a level from 1 (1 s) on.
    pub fn delay_level(self, level: u32) -> Self {
        self.property(property::DELAY, &level.to_string())
    }

    /// Prepared as the half of a transaction of this group.
    pub fn half(mut self, group: &str) -> Self {
        self.header.sys_flag = TransactionType::Prepared.set_in(self.header.sys_flag);
        self.group(group)
            .property(property::TRANSACTION_PREPARED, "true")
            .property(property::PRODUCER_GROUP, group)
    }

    /// Any property.
    pub fn property(mut self, name: &str, value: &str) -> Self {
        self.header.properties.push_str(&format!("{name}\u{1}{value}\u{2}"));
        self
    }
}

impl From<SendCall> for Call {
    fn from(send: SendCall) -> Self {
        Call::new(RequestCode::SEND_MESSAGE_V2).header(&send.header).body(send.body)
    }
}

/// A pull; see [`pull_from`].
///
/// ```
/// use std::time::Duration;
/// use telstar::testing::Scenario;
/// use telstar::testing::calls::{PullCall, pull_from, send_to};
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
/// let (mut bank, mut shop) = (broker.client("bank"), broker.client("shop"));
/// let held: PullCall = pull_from("payers", "orders", 0, 0).tags("cards || cash").held(Duration::from_secs(15));
/// let asked = bank.ask(held.clone());
/// assert!(!bank.is_answered(asked)); // there is nothing yet
/// shop.succeed(send_to("orders", 0, "pay 7").tag("cards")).await;
/// shop.succeed(send_to("orders", 0, "ship 7").tag("boxes")).await;
/// assert!(bank.answer(asked).await.code.is_success());
/// assert_eq!(bank.pull(held).await.len(), 1); // one of the two
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "it is asked by a client"]
pub struct PullCall(PullHeader);

/// PULL_MESSAGE (11) for a group: up to 32 messages of any tag, from a queue offset on, and no waiting.
///
/// ```
/// use telstar::testing::Scenario;
/// use telstar::testing::calls::{pull_from, send_to};
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
/// let mut bank = broker.client("bank");
/// for body in ["pay 7", "pay 8", "pay 9"] {
///     bank.succeed(send_to("orders", 0, body)).await;
/// }
/// let found = bank.pull(pull_from("payers", "orders", 0, 1).at_most(1)).await;
/// assert_eq!((found.len(), &found[0].body[..]), (1, &b"pay 8"[..]));
/// # }
/// ```
pub fn pull_from(group: &str, topic: &str, queue_id: u32, offset: u64) -> PullCall {
    PullCall(PullHeader {
        consumer_group: group.into(),
        topic: topic.into(),
        queue_id: queue_id as i32,
        queue_offset: offset as i64,
        max_msg_nums: 32,
        sys_flag: PULL_SUBSCRIPTION,
        commit_offset: 0,
        suspend_timeout_ms: 0,
        subscription: Some("*".into()),
        sub_version: 0,
        expression_type: None,
    })
}

impl PullCall {
    /// Held for so long when there is nothing.
    pub fn held(mut self, longest: Duration) -> Self {
        self.0.sys_flag |= PULL_SUSPEND;
        self.0.suspend_timeout_ms = longest.as_millis() as i64;
        self
    }

    /// Only these tags, `"a || b"`.
    pub fn tags(mut self, tags: &str) -> Self {
        self.0.subscription = Some(tags.into());
        self
    }

    /// As many messages as most.
    pub fn at_most(mut self, messages: u32) -> Self {
        self.0.max_msg_nums = messages as i32;
        self
    }
}

impl From<PullCall> for Call {
    fn from(PullCall(header): PullCall) -> Self {
        Call::new(RequestCode::PULL_MESSAGE).header(&header)
    }
}

/// A heartbeat; see [`heartbeat`].
///
/// ```
/// use telstar::testing::Scenario;
/// use telstar::testing::calls::{HeartbeatCall, heartbeat, members_of};
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
/// let mut bank = broker.client("bank");
/// let beat: HeartbeatCall = heartbeat("bank").consumes("payers", &["orders"]).consumes("savers", &["orders"]);
/// bank.succeed(beat).await;
/// for group in ["payers", "savers"] {
///     assert_eq!(bank.succeed(members_of(group)).await.body, r#"{"consumerIdList":["bank"]}"#);
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "it is sent by a client"]
pub struct HeartbeatCall(HeartbeatData);

/// HEART_BEAT (34) of a client that does nothing yet.
///
/// ```
/// use std::time::Duration;
/// use telstar::testing::Scenario;
/// use telstar::testing::calls::{heartbeat, members_of};
///
/// # #[actix::main]
/// # async fn main() {
/// let scene = Scenario::begin().await;
/// let broker = scene.broker("broker").topic("orders", 1).start().await;
/// let (mut bank, mut admin) = (broker.client("bank"), broker.client("admin"));
/// bank.succeed(heartbeat("bank").consumes("payers", &["orders"])).await;
/// assert!(admin.call(members_of("payers")).await.code.is_success());
/// scene.pass(Duration::from_secs(180)).await; // it says nothing more
/// assert!(!admin.call(members_of("payers")).await.code.is_success());
/// # }
/// ```
pub fn heartbeat(client_id: &str) -> HeartbeatCall {
    HeartbeatCall(HeartbeatData { client_id: client_id.into(), ..HeartbeatData::default() })
}

impl HeartbeatCall {
    /// Produces for a group.
    pub fn produces(mut self, group: &str) -> Self {
        self.0.producer_data_set.push(ProducerData { group_name: group.into() });
        self
    }

    /// Consumes every message of these topics, sharing them with the other members of the group, from the first on.
    pub fn consumes(mut self, group: &str, topics: &[&str]) -> Self {
        let subscription = |topic: &&str| SubscriptionData::parse(*topic, "*").expect("* takes every tag");
        self.0.consumer_data_set.push(ConsumerData {
            group_name: group.into(),
            consume_from_where: ConsumeFromWhere::FirstOffset,
            subscription_data_set: topics.iter().map(subscription).collect(),
            ..ConsumerData::default()
        });
        self
    }
}

impl From<HeartbeatCall> for Call {
    fn from(HeartbeatCall(data): HeartbeatCall) -> Self {
        let body = fastjson::to_vec(&data).expect("a heartbeat has a JSON form");
        Call::new(RequestCode::HEART_BEAT).body(body)
    }
}

/// UPDATE_AND_CREATE_TOPIC (17).
///
/// ```
/// use telstar::testing::Scenario;
/// use telstar::testing::calls::{create_topic, send_to};
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").start().await;
/// let mut admin = broker.client("admin");
/// admin.succeed(create_topic("orders", 2)).await;
/// admin.succeed(send_to("orders", 1, "pay 7")).await;
/// let refused = admin.call(create_topic("no blanks", 1)).await;
/// assert!(refused.success().is_err());
/// # }
/// ```
pub fn create_topic(topic: &str, queues: u32) -> Call {
    let header = CreateTopic {
        topic: topic.into(),
        default_topic: "TBW102".into(),
        read_queue_nums: queues as i32,
        write_queue_nums: queues as i32,
        perm: 6,
        topic_filter_type: "SINGLE_TAG".into(),
        topic_sys_flag: 0,
        order: false,
        attributes: None,
    };
    Call::new(RequestCode::UPDATE_AND_CREATE_TOPIC).header(&header)
}

/// DELETE_TOPIC_IN_BROKER (215).
///
/// ```
/// use telstar::protocol::ResponseCode;
/// use telstar::testing::Scenario;
/// use telstar::testing::calls::{delete_topic, pull_from};
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
/// let mut admin = broker.client("admin");
/// admin.succeed(delete_topic("orders")).await;
/// let gone = admin.call(pull_from("bank", "orders", 0, 0)).await;
/// assert_eq!(gone.code, ResponseCode::TOPIC_NOT_EXIST);
/// # }
/// ```
pub fn delete_topic(topic: &str) -> Call {
    Call::new(RequestCode::DELETE_TOPIC_IN_BROKER).header(&TopicHeader { topic: topic.into() })
}

/// UPDATE_AND_CREATE_SUBSCRIPTIONGROUP (200).
///
/// ```
/// use telstar::protocol::{ResponseCode, SubscriptionGroupConfig};
/// use telstar::testing::Scenario;
/// use telstar::testing::calls::{create_group, pull_from};
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
/// let mut admin = broker.client("admin");
/// let stopped = SubscriptionGroupConfig { consume_enable: false, ..SubscriptionGroupConfig::new("payers") };
/// admin.succeed(create_group(&stopped)).await;
/// let refused = admin.call(pull_from("payers", "orders", 0, 0)).await;
/// assert_eq!(refused.code, ResponseCode::NO_PERMISSION);
/// # }
/// ```
pub fn create_group(config: &SubscriptionGroupConfig) -> Call {
    let body = fastjson::to_vec(config).expect("settings of a group have a JSON form");
    Call::new(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP).body(body)
}

/// UNREGISTER_CLIENT (35): a consumer leaves its group, as when it is shut down in order.
///
/// ```
/// use telstar::testing::Scenario;
/// use telstar::testing::calls::{leave_group, members_of};
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
/// let (mut one, mut two) = (broker.client("one"), broker.client("two"));
/// one.consumes("payers", &["orders"]).await;
/// two.consumes("payers", &["orders"]).await;
/// one.succeed(leave_group("one", "payers")).await;
/// assert_eq!(two.succeed(members_of("payers")).await.body, r#"{"consumerIdList":["two"]}"#);
/// # }
/// ```
pub fn leave_group(client_id: &str, group: &str) -> Call {
    let header = UnregisterClient {
        client_id: client_id.into(),
        producer_group: None,
        consumer_group: Some(group.to_owned()),
    };
    Call::new(RequestCode::UNREGISTER_CLIENT).header(&header)
}

/// UPDATE_CONSUMER_OFFSET (15): the group will next consume `offset`.
///
/// ```
/// use telstar::testing::Scenario;
/// use telstar::testing::calls::{commit_offset, query_offset, send_to};
///
/// # #[actix::main]
/// # async fn main() {
/// let mut broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
/// let mut bank = broker.client("bank");
/// bank.consumes("payers", &["orders"]).await;
/// bank.succeed(send_to("orders", 0, "pay 7")).await;
/// bank.succeed(commit_offset("payers", "orders", 0, 1)).await;
/// broker.stop().await;
/// broker.start_again().await; // it is kept
/// let committed = broker.client("bank").succeed(query_offset("payers", "orders", 0)).await;
/// assert_eq!(committed.fields.get("offset"), Some("1"));
/// # }
/// ```
pub fn commit_offset(group: &str, topic: &str, queue_id: u32, offset: u64) -> Call {
    let header = UpdateConsumerOffset {
        consumer_group: group.into(),
        topic: topic.into(),
        queue_id: Some(queue_id as i32),
        commit_offset: Some(offset as i64),
    };
    Call::new(RequestCode::UPDATE_CONSUMER_OFFSET).header(&header)
}

/// QUERY_CONSUMER_OFFSET (14): where a group goes on.
///
/// ```
/// use telstar::protocol::ResponseCode;
/// use telstar::testing::Scenario;
/// use telstar::testing::calls::{commit_offset, query_offset, send_to};
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").topic("orders", 2).start().await;
/// let mut bank = broker.client("bank");
/// bank.consumes("payers", &["orders"]).await;
/// for queue_id in 0..2 {
///     bank.succeed(send_to("orders", queue_id, "pay 7")).await;
/// }
/// bank.succeed(commit_offset("payers", "orders", 1, 1)).await;
/// let answer = bank.succeed(query_offset("payers", "orders", 1)).await;
/// assert_eq!(answer.fields.get("offset"), Some("1"));
/// # }
/// ```
pub fn query_offset(group: &str, topic: &str, queue_id: u32) -> Call {
    let header = QueryConsumerOffset {
        consumer_group: group.into(),
        topic: topic.into(),
        queue_id: queue_id as i32,
        set_zero_if_not_found: None,
    };
    Call::new(RequestCode::QUERY_CONSUMER_OFFSET).header(&header)
}

/// GET_CONSUMER_LIST_BY_GROUP (38): who shares the queues of a group.
///
/// ```
/// use telstar::testing::Scenario;
/// use telstar::testing::calls::members_of;
///
/// # #[actix::main]
/// # async fn main() {
/// let scene = Scenario::begin().await;
/// let broker = scene.broker("broker").topic("orders", 1).start().await;
/// let (mut one, mut two) = (broker.client("one"), broker.client("two"));
/// one.consumes("payers", &["orders"]).await;
/// two.consumes("payers", &["orders"]).await;
/// two.die().await;
/// one.succeed(members_of("payers")).await;
/// assert!(scene.transcript().ends_with("broker -> one: SUCCESS, one\n"));
/// # }
/// ```
pub fn members_of(group: &str) -> Call {
    let header = ConsumerGroupHeader { consumer_group: group.into() };
    Call::new(RequestCode::GET_CONSUMER_LIST_BY_GROUP).header(&header)
}

/// CONSUMER_SEND_MSG_BACK (36): consuming it failed; level 0 leaves the delay to the broker, -1 gives it up.
///
/// ```
/// use std::time::Duration;
/// use telstar::testing::Scenario;
/// use telstar::testing::calls::{pull_from, send_back, send_to};
///
/// # #[actix::main]
/// # async fn main() {
/// let scene = Scenario::begin().await;
/// let broker = scene.broker("broker").topic("orders", 1).start().await;
/// let mut bank = broker.client("bank");
/// bank.consumes("payers", &["orders"]).await;
/// bank.succeed(send_to("orders", 0, "pay 7")).await;
/// let failed = bank.pull(pull_from("payers", "orders", 0, 0)).await.remove(0);
/// bank.succeed(send_back("payers", &failed, 2)).await;
/// scene.pass(Duration::from_secs(6)).await;
/// let again = bank.pull(pull_from("payers", "%RETRY%payers", 0, 0)).await;
/// assert_eq!((&again[0].body[..], again[0].reconsume_times), (&b"pay 7"[..], 1));
/// # }
/// ```
pub fn send_back(group: &str, message: &StoredMessage, delay_level: i32) -> Call {
    let header = SendBack {
        offset: message.physical_offset.0 as i64,
        group: group.into(),
        delay_level,
        origin_msg_id: None,
        origin_topic: Some(message.topic.to_string()),
        max_reconsume_times: None,
    };
    Call::new(RequestCode::CONSUMER_SEND_MSG_BACK).header(&header)
}

/// END_TRANSACTION (37) of a half message, by the answer to its send.
///
/// ```
/// use telstar::protocol::Decision;
/// use telstar::testing::Scenario;
/// use telstar::testing::calls::{end_transaction, pull_from, send_to};
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
/// let mut shop = broker.client("shop");
/// let sent = shop.succeed(send_to("orders", 0, "pay 7").half("shop")).await;
/// assert!(shop.pull(pull_from("bank", "orders", 0, 0)).await.is_empty());
/// shop.succeed(end_transaction("shop", &sent, Decision::Commit)).await;
/// assert_eq!(shop.pull(pull_from("bank", "orders", 0, 0)).await.len(), 1);
/// # }
/// ```
///
/// # Panics
/// When `sent` is no answer to a send that was stored.
pub fn end_transaction(group: &str, sent: &Response, decision: Decision) -> Call {
    let sent: SendResponse = sent.header().expect("the answer to a send");
    let (_, at) = parse_offset_message_id(&sent.msg_id).expect("the id of a stored message");
    end(group, sent.queue_offset, at.0 as i64, decision, false)
}

/// END_TRANSACTION (37), as the answer to a check.
///
/// ```
/// use telstar::protocol::{Decision, RequestCode};
/// use telstar::testing::Scenario;
/// use telstar::testing::calls::{answer_check, pull_from, send_to};
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
/// let mut shop = broker.client("shop");
/// shop.produces("shop").await;
/// shop.succeed(send_to("orders", 0, "pay 7").half("shop")).await; // and forgets how it ended
/// let check = shop.asked().await; // some seconds later, by the clock of the scene
/// assert_eq!(check.code, RequestCode::CHECK_TRANSACTION_STATE);
/// shop.succeed(answer_check("shop", &check, Decision::Commit)).await;
/// assert_eq!(shop.pull(pull_from("bank", "orders", 0, 0)).await.len(), 1);
/// # }
/// ```
///
/// # Panics
/// When `check` is no CHECK_TRANSACTION_STATE.
pub fn answer_check(group: &str, check: &BrokerCall, decision: Decision) -> Call {
    let check = CheckTransactionState::from_fields(&check.fields).expect("the header of a check");
    end(group, check.tran_state_table_offset, check.commit_log_offset, decision, true)
}

fn end(group: &str, half: i64, half_at: i64, decision: Decision, is_asked: bool) -> Call {
    let header = EndTransactionHeader {
        producer_group: group.into(),
        tran_state_table_offset: half,
        commit_log_offset: half_at,
        commit_or_rollback: match decision {
            Decision::Commit => TransactionType::Commit.set_in(0),
            Decision::Rollback => TransactionType::Rollback.set_in(0),
            Decision::GiveUp => 0,
        },
        from_transaction_check: is_asked,
        msg_id: None,
        transaction_id: None,
        topic: None,
    };
    Call::new(RequestCode::END_TRANSACTION).header(&header)
}
