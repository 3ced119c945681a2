//! What an extension may ask of its broker. Every request goes through the door that clients come through, with all its
//! checks; whatever has no method here is asked by [`BrokerHandle::ask`].

use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use bytes::Bytes;

use super::door::{self, Door};
use crate::actors::group_table::GroupTable;
use crate::actors::request::{Answer, ConnectionId, PulledReply, ReplyContent, StoredReply};
use crate::actors::topic_table::TopicTable;
use crate::client::{OutgoingMessage, Response};
use crate::clock::SharedClock;
use crate::error::{Refusal, Refused};
use crate::protocol::header::{
    CreateTopic, FieldWriter, OffsetResponse, PULL_SUBSCRIPTION, PULL_SUSPEND, PullHeader,
    QueryConsumerOffset, SendBack, SendMessageV2, TopicHeader, TypedHeader, UpdateConsumerOffset,
};
use crate::protocol::message::StoredMessage;
use crate::protocol::names::DEFAULT_TOPIC;
use crate::protocol::properties;
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;
use crate::protocol::subscription_group_config::SubscriptionGroupConfig;
use crate::protocol::topic_config::TopicConfig;
use crate::types::{GroupName, PhysicalOffset, QueueId, QueueOffset, TopicName};

/// Queues of a topic that a send creates.
const AUTO_CREATED_QUEUES: i32 = 4;

/// The broker, as an extension sees it. Cheap to clone.
///
/// ```
/// use std::time::Duration;
///
/// use telstar::extension::*;
/// use telstar::types::{GroupName, QueueId, TopicName};
///
/// /// Copies what comes next in a queue to another topic, and goes on from there the next time.
/// async fn copy_next(broker: BrokerHandle, from: TopicName, to: TopicName) -> Result<(), Refused> {
///     let (group, queue_id) = (GroupName::from("copier"), QueueId(0));
///     let next = broker.committed(&group, &from, queue_id).await?.unwrap_or_default();
///     let (max_messages, wait) = (32, Duration::from_secs(15));
///     let read = ReadQueue {
///         group: group.clone(), topic: from.clone(), queue_id, from: next, max_messages, wait,
///     };
///     let Messages { messages, next } = broker.read(&read).await?;
///     for message in messages {
///         let copy = OutgoingMessage {
///             topic: to.clone(), body: message.body, properties: Vec::new(), queue_id: None,
///         };
///         let sent: Sent = broker.send(copy).await?;
///         println!("{} is copied to {}", message.queue_offset, sent.queue_offset);
///     }
///     broker.commit(&group, &from, queue_id, next).await
/// }
/// # use telstar::testing::{Scenario, calls::*};
/// # #[actix::main]
/// # async fn main() -> Result<(), Refused> {
/// # let scene = Scenario::begin().await;
/// # let (tell, told) = std::sync::mpsc::channel();
/// # let running = scene.broker("broker").topic("orders", 1);
/// # let running = running.hooks("copier", move |hooks| tell.send(hooks.broker()).unwrap()).start().await;
/// # let mut shop = running.client("shop");
/// # let broker = told.recv().unwrap();
/// shop.succeed(send_to("orders", 0, "pay 7")).await;
/// copy_next(broker.clone(), "orders".into(), "copies".into()).await?; // `hooks.broker()` has given it
/// shop.succeed(send_to("orders", 0, "pay 8")).await;
/// copy_next(broker.clone(), "orders".into(), "copies".into()).await?;
/// let queues = broker.topic("copies").expect("the first copy has created it").read_queue_nums;
/// # let mut copied = 0;
/// # for queue_id in 0..queues {
/// #     copied += shop.pull(pull_from("bank", "copies", queue_id, 0)).await.len();
/// # }
/// # assert_eq!(copied, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct BrokerHandle {
    pub(in crate::actors) extension: &'static str,
    pub(in crate::actors) door: Addr<Door>,
    pub(in crate::actors) id: ConnectionId,
    pub(in crate::actors) topics: TopicTable,
    pub(in crate::actors) groups: GroupTable,
    pub(in crate::actors) clock: SharedClock,
}

/// A message that is stored.
///
/// ```
/// use telstar::extension::{BrokerHandle, OutgoingMessage, Refused, Sent};
///
/// /// Writes a line into a topic, and says where it is.
/// async fn note(broker: &BrokerHandle, line: String) -> Result<String, Refused> {
///     let message = OutgoingMessage {
///         topic: "diary".into(), body: line.into(), properties: Vec::new(), queue_id: Some(0),
///     };
///     let Sent { queue_id, queue_offset, .. } = broker.send(message).await?;
///     Ok(format!("diary/{queue_id} at {queue_offset}"))
/// }
/// # use telstar::testing::Scenario;
/// # #[actix::main]
/// # async fn main() {
/// # let scene = Scenario::begin().await;
/// # let (tell, told) = std::sync::mpsc::channel();
/// # let broker = scene.broker("broker").hooks("diary", move |hooks| tell.send(hooks.broker()).unwrap());
/// # let _running = broker.start().await;
/// # let broker = told.recv().unwrap();
/// assert_eq!(note(&broker, "rain".into()).await.unwrap(), "diary/0 at 0");
/// assert_eq!(note(&broker, "sun".into()).await.unwrap(), "diary/0 at 1");
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent {
    /// The queue that took it.
    pub queue_id: QueueId,
    /// Its number in that queue.
    pub queue_offset: QueueOffset,
    /// Its place in the log.
    pub physical_offset: PhysicalOffset,
    /// The unique key.
    pub message_id: String,
}

/// What to read of a queue.
///
/// ```
/// use std::time::Duration;
/// use telstar::extension::ReadQueue;
/// use telstar::types::{QueueId, QueueOffset};
///
/// let from_the_first = ReadQueue {
///     group: "copier".into(),
///     topic: "orders".into(),
///     queue_id: QueueId(0),
///     from: QueueOffset(0),
///     max_messages: 32,
///     wait: Duration::ZERO,
/// };
/// let next = ReadQueue { from: QueueOffset(32), wait: Duration::from_secs(15), ..from_the_first };
/// assert_eq!(next.from, QueueOffset(0).advance(32));
/// ```
#[derive(Clone, Debug)]
pub struct ReadQueue {
    /// Whose reading it is: it counts in the figures of this group, which is created if need be.
    pub group: GroupName,
    /// What to read.
    pub topic: TopicName,
    /// What to read.
    pub queue_id: QueueId,
    /// The first message wanted.
    pub from: QueueOffset,
    /// Messages that are returned at most.
    pub max_messages: u32,
    /// How long to wait for a message when there is none; zero: not at all.
    pub wait: Duration,
}

/// What was read.
///
/// ```
/// use telstar::extension::{BrokerHandle, Messages, ReadQueue, Refused};
///
/// /// Every message of a queue by now.
/// async fn bodies(broker: &BrokerHandle, mut read: ReadQueue) -> Result<Vec<String>, Refused> {
///     let mut bodies = Vec::new();
///     loop {
///         let Messages { messages, next } = broker.read(&read).await?;
///         if messages.is_empty() && next <= read.from {
///             return Ok(bodies);
///         }
///         bodies.extend(messages.iter().map(|message| String::from_utf8_lossy(&message.body).into_owned()));
///         read.from = next;
///     }
/// }
/// # use telstar::testing::{Scenario, calls::send_to};
/// # #[actix::main]
/// # async fn main() {
/// # let scene = Scenario::begin().await;
/// # let (tell, told) = std::sync::mpsc::channel();
/// # let running = scene.broker("broker").topic("orders", 1);
/// # let running = running.hooks("reader", move |hooks| tell.send(hooks.broker()).unwrap()).start().await;
/// # let broker = told.recv().unwrap();
/// # for body in ["pay 7", "pay 8"] {
/// #     running.client("shop").succeed(send_to("orders", 0, body)).await;
/// # }
/// # let read = ReadQueue {
/// #     group: "reader".into(),
/// #     topic: "orders".into(),
/// #     queue_id: telstar::types::QueueId(0),
/// #     from: telstar::types::QueueOffset(0),
/// #     max_messages: 1,
/// #     wait: std::time::Duration::ZERO,
/// # };
/// assert_eq!(bodies(&broker, read).await.unwrap(), ["pay 7", "pay 8"]);
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Messages {
    /// In their order; none if nothing came in time.
    pub messages: Vec<StoredMessage>,
    /// Where to go on. Not behind the last message where some were deleted or passed over.
    pub next: QueueOffset,
}

impl std::fmt::Debug for BrokerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BrokerHandle").field("extension", &self.extension).finish_non_exhaustive()
    }
}

impl BrokerHandle {
    /// Name of the extension that holds it.
    pub fn extension(&self) -> &'static str {
        self.extension
    }

    /// By which the broker knows what this extension asks.
    #[doc(hidden)]
    pub fn connection_id(&self) -> ConnectionId {
        self.id
    }

    /// Sends a message, and waits until it is stored as safely as its topic promises. A topic that is not there is
    /// created where clients may do that, too.
    pub async fn send(&self, message: OutgoingMessage) -> Result<Sent, Refused> {
        let OutgoingMessage { topic, body, properties, queue_id } = message;
        let pairs = properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let header = SendMessageV2 {
            producer_group: self.extension.to_owned(),
            topic: topic.to_string(),
            default_topic: DEFAULT_TOPIC.to_owned(),
            default_topic_queue_nums: AUTO_CREATED_QUEUES,
            queue_id: queue_id.unwrap_or(-1), // the broker takes the next in turn
            sys_flag: 0,
            born_at_ms: self.clock.now().0,
            flag: 0,
            properties: String::from_utf8_lossy(&properties::encode(pairs)).into_owned(),
            reconsume_times: 0,
            unit_mode: false,
            max_reconsume_times: None,
            batch: false,
        };
        match self.request(RequestCode::SEND_MESSAGE_V2, &header, body).await? {
            ReplyContent::Stored(StoredReply {
                queue_id,
                queue_offset,
                physical_offsets,
                unique_key,
                ..
            }) => Ok(Sent {
                queue_id,
                queue_offset,
                physical_offset: physical_offsets.first().copied().unwrap_or_default(),
                message_id: String::from_utf8_lossy(&unique_key.unwrap_or_default()).into_owned(),
            }),
            other => Err(refusal_of(other).into()),
        }
    }

    /// Reads messages of a queue, whatever their tags.
    pub async fn read(&self, read: &ReadQueue) -> Result<Messages, Refused> {
        let header = PullHeader {
            consumer_group: read.group.clone(),
            topic: read.topic.clone(),
            queue_id: read.queue_id.0 as i32,
            queue_offset: read.from.0 as i64,
            max_msg_nums: read.max_messages.max(1) as i32,
            sys_flag: PULL_SUBSCRIPTION | if read.wait.is_zero() { 0 } else { PULL_SUSPEND },
            commit_offset: 0,
            suspend_timeout_ms: read.wait.as_millis() as i64,
            subscription: Some("*".to_owned()),
            sub_version: 0,
            expression_type: None,
        };
        match self.request(RequestCode::PULL_MESSAGE, &header, Bytes::new()).await? {
            ReplyContent::Pulled(PulledReply { header, records, .. }) => Ok(Messages {
                messages: records.into_iter().flat_map(StoredMessage::decode_all).collect(),
                next: QueueOffset(header.next_begin_offset.max(0) as u64),
            }),
            other => Err(refusal_of(other).into()),
        }
    }

    /// Creates a topic, or changes how many queues it has.
    pub async fn create_topic(&self, topic: &TopicName, queues: u32) -> Result<(), Refused> {
        let header = CreateTopic {
            topic: topic.clone(),
            default_topic: DEFAULT_TOPIC.to_owned(),
            read_queue_nums: queues as i32,
            write_queue_nums: queues as i32,
            perm: 6,
            topic_filter_type: "SINGLE_TAG".to_owned(),
            topic_sys_flag: 0,
            order: false,
            attributes: None,
        };
        self.ask(RequestCode::UPDATE_AND_CREATE_TOPIC, &header, Bytes::new()).await.map(|_| ())
    }

    /// Deletes a topic with its messages. One that is not there is no error.
    pub async fn delete_topic(&self, topic: &TopicName) -> Result<(), Refused> {
        let header = TopicHeader { topic: topic.clone() };
        self.ask(RequestCode::DELETE_TOPIC_IN_BROKER, &header, Bytes::new()).await.map(|_| ())
    }

    /// The settings of a topic; `None`: there is none of that name.
    pub fn topic(&self, topic: &str) -> Option<TopicConfig> {
        self.topics.get(topic).map(|entry| entry.config.clone())
    }

    /// The settings of every topic, in no order.
    pub fn topics(&self) -> Vec<TopicConfig> {
        self.topics.load().topics.values().map(|entry| entry.config.clone()).collect()
    }

    /// The settings of a consumer group; `None`: there is none of that name.
    pub fn group(&self, group: &str) -> Option<Arc<SubscriptionGroupConfig>> {
        self.groups.get(group)
    }

    /// Every consumer group, in no order.
    pub fn groups(&self) -> Vec<GroupName> {
        self.groups.load().groups.keys().cloned().collect()
    }

    /// Says that a group consumes `next` of the queue next.
    pub async fn commit(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue_id: QueueId,
        next: QueueOffset,
    ) -> Result<(), Refused> {
        let header = UpdateConsumerOffset {
            consumer_group: group.clone(),
            topic: topic.clone(),
            queue_id: Some(queue_id.0 as i32),
            commit_offset: Some(next.0 as i64),
        };
        self.ask(RequestCode::UPDATE_CONSUMER_OFFSET, &header, Bytes::new()).await.map(|_| ())
    }

    /// What a group consumes of the queue next; `None`: it has not committed anything.
    pub async fn committed(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue_id: QueueId,
    ) -> Result<Option<QueueOffset>, Refused> {
        let header = QueryConsumerOffset {
            consumer_group: group.clone(),
            topic: topic.clone(),
            queue_id: queue_id.0 as i32,
            set_zero_if_not_found: Some(false),
        };
        match self.answer(RequestCode::QUERY_CONSUMER_OFFSET, &header, Bytes::new()).await {
            Ok(answer) => {
                let fields = answer.fields.into_iter().collect();
                let header = OffsetResponse::from_fields(&fields)
                    .map_err(|error| Refusal::Header { request: "QUERY_CONSUMER_OFFSET", error })?;
                Ok(u64::try_from(header.offset).ok().map(QueueOffset))
            }
            Err(Refusal::OffsetUnknown { .. }) => Ok(None),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Gives a message back for its group: to be consumed again when `delay_level` has passed, `0` leaving that to the
    /// policy of the group, or never again, a negative one: it goes to the dead letter queue.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use telstar::extension::*;
    /// # use telstar::types::{GroupName, QueueId, QueueOffset};
    /// # use telstar::testing::{Scenario, calls::*};
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Refused> {
    /// # let scene = Scenario::begin().await;
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// # let running = scene.broker("broker").topic("orders", 1);
    /// # let running = running.hooks("copier", move |hooks| tell.send(hooks.broker()).unwrap()).start().await;
    /// # let mut shop = running.client("shop");
    /// # let broker = told.recv().unwrap();
    /// # shop.succeed(send_to("orders", 0, "pay 7")).await;
    /// let group = GroupName::from("copier");
    /// let read = ReadQueue {
    ///     group: group.clone(), topic: "orders".into(), queue_id: QueueId(0), from: QueueOffset(0), max_messages: 1,
    ///     wait: Duration::ZERO,
    /// };
    /// let failed = broker.read(&read).await?.messages.remove(0);
    /// broker.send_back(&group, &failed, -1).await?; // nothing can be done with it
    /// assert!(broker.topic("%DLQ%copier").is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send_back(
        &self,
        group: &GroupName,
        message: &StoredMessage,
        delay_level: i32,
    ) -> Result<(), Refused> {
        let header = SendBack {
            offset: message.physical_offset.0 as i64,
            group: group.clone(),
            delay_level,
            origin_msg_id: None,
            origin_topic: Some(message.topic.to_string()),
            max_reconsume_times: None,
        };
        self.ask(RequestCode::CONSUMER_SEND_MSG_BACK, &header, Bytes::new()).await.map(|_| ())
    }

    /// Asks whatever a client may ask; [`TypedHeader`] says how. An answer that is no success is an error.
    ///
    /// ```
    /// # use bytes::Bytes;
    /// use telstar::extension::Refused;
    /// use telstar::protocol::{OffsetResponse, QueueHeader, RequestCode};
    /// # use telstar::testing::{Scenario, calls::*};
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Refused> {
    /// # let scene = Scenario::begin().await;
    /// # let (tell, told) = std::sync::mpsc::channel();
    /// # let running = scene.broker("broker").topic("orders", 1);
    /// # let running = running.hooks("copier", move |hooks| tell.send(hooks.broker()).unwrap()).start().await;
    /// # let mut shop = running.client("shop");
    /// # let broker = told.recv().unwrap();
    /// shop.succeed(send_to("orders", 0, "pay 7")).await;
    /// let queue = QueueHeader { topic: "orders".into(), queue_id: 0 };
    /// let most = broker.ask(RequestCode::GET_MAX_OFFSET, &queue, Bytes::new()).await?;
    /// assert_eq!(most.header::<OffsetResponse>().unwrap().offset, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn ask(
        &self,
        code: RequestCode,
        header: &impl TypedHeader,
        body: Bytes,
    ) -> Result<Response, Refused> {
        let Answer { code, remark, fields, body } = self.answer(code, header, body).await?;
        Ok(Response { code, remark, fields: fields.into_iter().collect(), body })
    }

    async fn answer(
        &self,
        code: RequestCode,
        header: &impl TypedHeader,
        body: Bytes,
    ) -> Result<Answer, Refusal> {
        match self.request(code, header, body).await? {
            ReplyContent::Answer(answer) if answer.code == ResponseCode::SUCCESS => Ok(answer),
            ReplyContent::Silence => Ok(Answer::success()),
            other => Err(refusal_of(other)),
        }
    }

    async fn request(
        &self,
        code: RequestCode,
        header: &impl TypedHeader,
        body: Bytes,
    ) -> Result<ReplyContent, Refusal> {
        let fields = FieldWriter::of(header).into_pairs();
        door::ask(&self.door, door::command(code.as_i32(), fields, body)).await
    }
}

/// Why an answer is not what was asked for.
fn refusal_of(content: ReplyContent) -> Refusal {
    match content {
        ReplyContent::Refused(refusal) => refusal,
        ReplyContent::Answer(answer) => {
            let remark = answer.remark.unwrap_or_default();
            Refusal::Failed(format!("answered with {}: {remark}", answer.code))
        }
        ReplyContent::Stored(_) | ReplyContent::Pulled(_) | ReplyContent::Silence => {
            Refusal::Failed("the answer belongs to another request".to_owned())
        }
    }
}
