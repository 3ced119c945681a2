//! Sends messages: picks queues in turn, creates topics by way of `TBW102`, tries another queue when a broker
//! cannot take a message.

use bytes::Bytes;

use super::error::ClientError;
use super::remoting::{Call, Response};
use super::route::{QueueAt, write_queues};
use super::servers::Servers;
use super::unique_key::UniqueKeys;
use crate::clock::SharedClock;
use crate::collections::HashMap;
use crate::protocol::header::{SendMessageV2, SendResponse};
use crate::protocol::names::DEFAULT_TOPIC;
use crate::protocol::properties::{self, names};
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;
use crate::types::{GroupName, MessageQueue, TopicName};

/// Queues of a topic that the broker creates when the first message comes.
const AUTO_CREATED_QUEUES: u32 = 4;
/// How often a message is tried in all.
const TRIES: usize = 3;

/// A message to be sent.
///
/// ```
/// use telstar::client::OutgoingMessage;
/// use telstar::protocol::property;
///
/// let order = OutgoingMessage {
///     topic: "orders".into(),
///     body: "pay 7".into(),
///     properties: vec![(property::TAGS.into(), "paid".into()), (property::KEYS.into(), "order-7".into())],
///     queue_id: None,
/// };
/// let reminder = OutgoingMessage { body: "remind 7".into(), ..order.clone() };
/// assert_eq!(reminder.properties, order.properties);
/// ```
#[derive(Clone, Debug)]
pub struct OutgoingMessage {
    /// Where it goes.
    pub topic: TopicName,
    /// What it says.
    pub body: Bytes,
    /// Neither names nor values may hold the bytes 1 and 2.
    pub properties: Vec<(String, String)>,
    /// Only to queues with this number; `None`: in turn.
    pub queue_id: Option<i32>,
}

/// A message that is stored.
///
/// ```
/// use telstar::client::SentMessage;
///
/// /// A line for the log: by either id the message is found again.
/// fn line(sent: &SentMessage) -> String {
///     let SentMessage { message_id, queue, queue_offset, .. } = sent;
///     format!("{message_id} is in {}/{} at {queue_offset}", queue.topic, queue.queue_id)
/// }
/// # let queue = telstar::types::MessageQueue { topic: "orders".into(), broker_name: "b".into(), queue_id: 0 };
/// # let sent = SentMessage {
/// #     message_id: "7F00".into(),
/// #     offset_message_id: String::new(),
/// #     queue,
/// #     queue_offset: 3,
/// #     code: telstar::protocol::ResponseCode::SUCCESS,
/// # };
/// assert_eq!(line(&sent), "7F00 is in orders/0 at 3"); // of what `Producer::send` returns
/// ```
#[derive(Clone, Debug)]
pub struct SentMessage {
    /// The unique key.
    pub message_id: String,
    /// The id that the broker gave it: its address and place in the log.
    pub offset_message_id: String,
    /// The queue that took it.
    pub queue: MessageQueue,
    /// Its number in that queue.
    pub queue_offset: i64,
    /// Success, or that the message is stored but not as durably as configured.
    pub code: ResponseCode,
}

/// Sends for one producer group.
///
/// ```
/// use std::time::Duration;
/// use telstar::client::*;
/// use telstar::clock::SystemClock;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = telstar::Broker::builder().start()?;
/// let name_server = broker.name_server().expect("it is one, too").to_string();
/// let servers = Servers::new(&name_server, ConnectOptions::default(), Duration::from_secs(20));
/// let mut shop = Producer::new(servers, "shop".into(), SystemClock::shared());
/// let order = OutgoingMessage {
///     topic: "orders".into(), body: "pay 7".into(), properties: Vec::new(), queue_id: Some(2),
/// };
/// let sent = [shop.send(order.clone()).await?, shop.send(order.clone()).await?]; // it creates the topic
/// assert_eq!(sent.map(|sent| (sent.queue.queue_id, sent.queue_offset)), [(2, 0), (2, 1)]);
/// let nowhere = shop.send(OutgoingMessage { queue_id: Some(99), ..order }).await.unwrap_err();
/// assert!(matches!(nowhere, ClientError::NoSuchQueue { queue_id: 99, .. }));
/// # broker.stop()?;
/// # Ok(())
/// # }
/// ```
pub struct Producer {
    servers: Servers,
    group: GroupName,
    keys: UniqueKeys,
    clock: SharedClock,
    queues: HashMap<TopicName, Vec<QueueAt>>,
    turn: usize,
}

impl Producer {
    /// A producer that reaches its brokers through the name servers of `servers`.
    pub fn new(servers: Servers, group: GroupName, clock: SharedClock) -> Self {
        let process = std::process::id();
        let keys = UniqueKeys::new([127, 0, 0, 1], process as u16, process, clock.now());
        Self { servers, group, keys, clock, queues: HashMap::default(), turn: 0 }
    }

    /// Sends one message and waits until it is stored.
    pub async fn send(&mut self, message: OutgoingMessage) -> Result<SentMessage, ClientError> {
        let key = self.keys.next(self.clock.now());
        let mut failed = None;
        for _ in 0..TRIES {
            let target = self.next_queue(&message).await?;
            match self.send_to(&target, &message, &key).await {
                Ok(sent) => return Ok(sent),
                Err(error) if is_worth_another_try(&error) => {
                    // The route may have changed: look again.
                    self.queues.remove(&message.topic);
                    failed = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(failed.unwrap_or(ClientError::NoQueue { topic: message.topic, purpose: "written" }))
    }

    async fn send_to(
        &mut self,
        target: &QueueAt,
        message: &OutgoingMessage,
        key: &str,
    ) -> Result<SentMessage, ClientError> {
        let own = [(names::UNIQ_KEY, key), (names::WAIT, "true")];
        let pairs = message.properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let text = properties::encode(own.into_iter().chain(pairs));
        let header = SendMessageV2 {
            producer_group: self.group.to_string(),
            topic: message.topic.to_string(),
            default_topic: DEFAULT_TOPIC.to_owned(),
            default_topic_queue_nums: AUTO_CREATED_QUEUES as i32,
            queue_id: target.queue.queue_id,
            sys_flag: 0,
            born_at_ms: self.clock.now().0,
            flag: 0,
            properties: String::from_utf8_lossy(&text).into_owned(),
            reconsume_times: 0,
            unit_mode: false,
            max_reconsume_times: None,
            batch: false,
        };
        let call = Call::new(RequestCode::SEND_MESSAGE_V2).header(&header).body(message.body.clone());
        let answer = stored(self.servers.ask(&target.addr, call).await?)?;
        let header: SendResponse = answer.header()?;
        Ok(SentMessage {
            message_id: key.to_owned(),
            offset_message_id: header.msg_id,
            queue: MessageQueue { queue_id: header.queue_id, ..target.queue.clone() },
            queue_offset: header.queue_offset,
            code: answer.code,
        })
    }

    /// The queue whose turn it is.
    async fn next_queue(&mut self, message: &OutgoingMessage) -> Result<QueueAt, ClientError> {
        if !self.queues.contains_key(&message.topic) {
            let queues = self.find_queues(&message.topic).await?;
            self.queues.insert(message.topic.clone(), queues);
        }
        let all = &self.queues[&message.topic];
        let is_wanted = |queue: &&QueueAt| message.queue_id.is_none_or(|id| queue.queue.queue_id == id);
        let wanted: Vec<&QueueAt> = all.iter().filter(is_wanted).collect();
        self.turn = self.turn.wrapping_add(1);
        if !wanted.is_empty() {
            return Ok(wanted[self.turn % wanted.len()].clone());
        }
        let topic = message.topic.clone();
        let most = all.iter().map(|queue| queue.queue.queue_id as usize + 1).max();
        Err(match (message.queue_id, most) {
            (Some(queue_id), Some(queues)) => ClientError::NoSuchQueue { topic, queue_id, queues },
            _ => ClientError::NoQueue { topic, purpose: "written" },
        })
    }

    async fn find_queues(&mut self, topic: &TopicName) -> Result<Vec<QueueAt>, ClientError> {
        if let Some(route) = self.servers.find_route(topic).await? {
            return Ok(write_queues(topic, &route));
        }
        let Some(mut route) = self.servers.find_route(&DEFAULT_TOPIC.into()).await? else {
            return Err(ClientError::NoRoute {
                topic: topic.clone(),
                name_servers: self.servers.name_servers(),
            });
        };
        for data in &mut route.queue_datas {
            data.write_queue_nums = data.write_queue_nums.min(AUTO_CREATED_QUEUES);
        }
        Ok(write_queues(topic, &route))
    }
}

/// An answer that says the message is stored, however durably.
fn stored(answer: Response) -> Result<Response, ClientError> {
    match answer.code {
        ResponseCode::FLUSH_DISK_TIMEOUT
        | ResponseCode::SLAVE_NOT_AVAILABLE
        | ResponseCode::FLUSH_SLAVE_TIMEOUT => Ok(answer),
        _ => answer.success(),
    }
}

/// Whether another queue may take what this one did not. Not after a time-out: it may be stored already,
/// and a second copy is not what the user asked for.
fn is_worth_another_try(error: &ClientError) -> bool {
    match error {
        ClientError::Connect { .. } | ClientError::ConnectTimedOut { .. } => true,
        ClientError::Refused { code, .. } => matches!(
            *code,
            ResponseCode::TOPIC_NOT_EXIST
                | ResponseCode::SERVICE_NOT_AVAILABLE
                | ResponseCode::SYSTEM_ERROR
                | ResponseCode::SYSTEM_BUSY
                | ResponseCode::NO_PERMISSION
                | ResponseCode::GO_AWAY
        ),
        _ => false,
    }
}
