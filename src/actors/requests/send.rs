//! SEND_MESSAGE (10), SEND_MESSAGE_V2 (310), SEND_BATCH_MESSAGE (320): checks, and what is stored.
//!
//! The checks and their order are RocketMQ's (`AbstractSendMessageProcessor`, `HookUtils`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::actors::not_there;
use crate::actors::request::Request;
use crate::actors::topic_queue::{Promise, SendReply, SendRequest};
use crate::actors::topic_table::{TopicEntry, TopicMap};
use crate::error::Refusal;
use crate::protocol::batch_body::BatchEntries;
use crate::protocol::delay_level::DelayLevels;
use crate::protocol::header::SendHeader;
use crate::protocol::message::PendingMessage;
use crate::protocol::names::{self, DERIVED_TOPIC_MAX_LEN, TOPIC_MAX_LEN};
use crate::protocol::properties::{self, MAX_PROPERTIES_BYTES, names as property};
use crate::protocol::request_code::RequestCode;
use crate::protocol::sys_flag::TransactionType;
use crate::protocol::timer::{RecallHandle, TimerProperties};
use crate::protocol::transaction::half_properties;
use crate::types::{BrokerName, FlushMode, QueueId, TopicName};

/// What a send is checked against, and what the broker adds to it.
#[derive(Clone, Debug)]
pub struct SendRules {
    /// Largest body, bytes.
    pub max_body_bytes: usize,
    /// Address under which clients reach this broker; stored in every record.
    pub store_host: SocketAddr,
    /// Properties added to every message: region, tracing switch, cluster.
    pub added_properties: Bytes,
    pub delay_levels: DelayLevels,
    pub timers: TimerRules,
    pub flush: FlushMode,
}

/// What may be asked of delivery at a time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimerRules {
    pub enabled: bool,
    pub max_delay: Duration,
    /// Stands in the handles by which messages are recalled.
    pub broker_name: BrokerName,
    pub recall_enabled: bool,
}

impl TimerRules {
    pub fn max_delay_ms(&self) -> i64 {
        self.max_delay.as_millis() as i64
    }
}

impl Default for TimerRules {
    /// 40 days.
    fn default() -> Self {
        let max_delay = Duration::from_secs(40 * 24 * 3600);
        Self { enabled: true, max_delay, broker_name: BrokerName::default(), recall_enabled: true }
    }
}

impl SendRules {
    pub fn new(
        max_body_bytes: usize,
        store_host: SocketAddr,
        cluster: &str,
        delay_levels: DelayLevels,
        timers: TimerRules,
        flush: FlushMode,
    ) -> Self {
        let added_properties = properties::encode([
            (property::MSG_REGION, "DefaultRegion"),
            (property::TRACE_SWITCH, "true"),
            (property::CLUSTER, cluster),
        ]);
        Self { max_body_bytes, store_host, added_properties, delay_levels, timers, flush }
    }
}

/// A send that passed the checks, with the queue it goes to.
pub struct PreparedSend {
    pub entry: Arc<TopicEntry>,
    pub queue_id: QueueId,
    pub send: SendRequest,
}

/// Reads the header in the names its code stands for.
pub fn header_of(request: &Request) -> Result<SendHeader<'_>, Refusal> {
    let fields = &request.command.fields;
    let (name, header) = match RequestCode::from_i32(request.command.head.code) {
        RequestCode::SEND_MESSAGE => ("SEND_MESSAGE", SendHeader::from_long_names(fields)),
        RequestCode::SEND_REPLY_MESSAGE => ("SEND_REPLY_MESSAGE", SendHeader::from_long_names(fields)),
        RequestCode::SEND_REPLY_MESSAGE_V2 => ("SEND_REPLY_MESSAGE_V2", SendHeader::from_short_names(fields)),
        _ => ("SEND_MESSAGE_V2", SendHeader::from_short_names(fields)),
    };
    header.map_err(|error| Refusal::Header { request: name, error })
}

/// Checks what can be checked without knowing the topic.
pub fn check_name(header: &SendHeader<'_>) -> Result<(), Refusal> {
    names::check_topic(header.topic)?;
    names::check_send_allowed(header.topic)?;
    Ok(())
}

/// Checks the rest and makes the messages. `topics` is where the topic of delayed messages is found.
pub fn prepare(
    request: &Request,
    header: &SendHeader<'_>,
    entry: Arc<TopicEntry>,
    topics: &TopicMap,
    rules: &SendRules,
) -> Result<PreparedSend, Refusal> {
    let queue_id = queue_of(header, &entry)?;
    let facts = Facts::of(&header.properties);
    // What a Java broker took is retried all the same.
    if let Some(name) = facts.not_there.filter(|_| !names::is_retry_topic(header.topic)) {
        not_there::check_property(name)?;
    }
    let is_half = check_transaction(header, &facts)?;
    if facts.inner_batch {
        let what =
            "INNER_NUM is set without the inner batch flag; leave it out, the broker sets it".to_owned();
        return Err(Refusal::MessageIllegal { what });
    }
    let body_bytes = request.command.body.len();
    // Without a body, a message takes its key out of a compacted topic.
    if body_bytes == 0 && (header.batch || !entry.is_compacted()) {
        return Err(Refusal::MessageIllegal { what: "the body is empty".into() });
    }
    if body_bytes > rules.max_body_bytes {
        return Err(Refusal::BodyTooLarge { len_bytes: body_bytes, max_bytes: rules.max_body_bytes });
    }
    let promise = Promise::of(rules.flush, &entry, facts.awaits_store);
    let is_compacted = entry.is_compacted();

    let mut prepared = if header.batch {
        check_batch(header, &facts)?;
        let messages = batch_messages(request, header, entry.name(), queue_id, rules)?;
        let unique_key = messages.first().and_then(|message| unique_key_of(&message.properties));
        PreparedSend { send: send_request(request, messages, promise, queue_id, unique_key), entry, queue_id }
    } else {
        let (properties, unique_key, extra) = with_additions(header.properties.clone(), &facts, rules);
        let message = PendingMessage {
            extra_properties: extra,
            ..message_of(
                request,
                header,
                entry.name(),
                queue_id,
                request.command.body.clone(),
                properties,
                rules,
            )
        };
        let send = send_request(request, vec![message], promise, queue_id, Some(unique_key.clone()));
        let mut prepared = PreparedSend { send, entry, queue_id };
        if is_half {
            begin_transaction(&mut prepared, &unique_key, topics)?;
        }
        prepared
    };
    if is_compacted {
        check_keys(&prepared)?;
    }
    if facts.delay_level > 0 {
        delay(&mut prepared, facts.delay_level, topics, rules)?;
    } else if facts.timer {
        wait_for_time(&mut prepared, request.received_at.0, topics, rules)?;
    }
    check_properties(&prepared.send)?;
    Ok(prepared)
}

fn send_request(
    request: &Request,
    messages: Vec<PendingMessage>,
    promise: Promise,
    queue_id: QueueId,
    unique_key: Option<Bytes>,
) -> SendRequest {
    let (link, to) = (request.from.clone(), request.reply_to());
    let reply = SendReply::Client { link, to, queue_id, unique_key, recall_handle: None };
    SendRequest { messages, promise, reply }
}

/// Spreads sends that name no queue.
static NEXT_QUEUE: AtomicU32 = AtomicU32::new(0);

fn queue_of(header: &SendHeader<'_>, entry: &TopicEntry) -> Result<QueueId, Refusal> {
    let queues = entry.queue_nums();
    let illegal = |queue_id| Refusal::QueueOutOfRange { topic: entry.name().clone(), queue_id, queues };
    match u32::try_from(header.queue_id) {
        Ok(id) if id < queues => Ok(QueueId(id)),
        Ok(_) => Err(illegal(header.queue_id)),
        Err(_) => match NEXT_QUEUE.fetch_add(1, Ordering::Relaxed).checked_rem(entry.config.write_queue_nums)
        {
            Some(id) => Ok(QueueId(id)),
            None => Err(illegal(header.queue_id)),
        },
    }
}

/// Whether the message begins a transaction. One that was consumed and is sent again has TRAN_MSG from then, and
/// begins none.
fn check_transaction(header: &SendHeader<'_>, facts: &Facts<'_>) -> Result<bool, Refusal> {
    let is_half = facts.transaction && !(header.reconsume_times > 0 && facts.delay_level > 0);
    let what = match TransactionType::of(header.sys_flag) {
        TransactionType::Commit | TransactionType::Rollback => {
            "its sysFlag says that a transaction has ended; only the broker stores such messages"
        }
        TransactionType::Prepared if !facts.transaction => {
            "its sysFlag says that it begins a transaction, its properties do not; set TRAN_MSG=true, or leave bit 4 out"
        }
        _ if is_half && header.batch => "a batch cannot be transactional; send its messages one by one",
        _ if is_half && (facts.delay_level > 0 || facts.timer) => {
            "a transactional message cannot be delayed; leave the delay out, or send it as an ordinary message"
        }
        _ => return Ok(is_half),
    };
    Err(Refusal::MessageIllegal { what: what.to_owned() })
}

fn check_batch(header: &SendHeader<'_>, facts: &Facts<'_>) -> Result<(), Refusal> {
    let what = if names::is_retry_topic(header.topic) {
        "a batch cannot go to a retry topic; send its messages one by one"
    } else if header.topic.len() > TOPIC_MAX_LEN {
        "a batch cannot go to a topic with a name over 127 characters"
    } else if facts.delay_level > 0 || facts.timer {
        "a batch cannot be delayed; send its messages one by one"
    } else {
        return Ok(());
    };
    Err(Refusal::MessageIllegal { what: what.to_owned() })
}

/// A compacted topic keeps the latest message of each key. RocketMQ refuses single messages alike; what a batch has
/// without a key it takes, and never shows.
fn check_keys(prepared: &PreparedSend) -> Result<(), Refusal> {
    let lacks_key = |message: &PendingMessage| {
        properties::get(&message.properties, property::KEYS).is_none_or(|key| key.trim().is_empty())
    };
    match prepared.send.messages.iter().position(lacks_key) {
        None => Ok(()),
        Some(number) => {
            let which = if prepared.send.messages.len() == 1 {
                "it".to_owned()
            } else {
                format!("message {number} of the batch, counted from 0,")
            };
            let what = format!(
                "{which} has no key, and of each key the topic keeps the latest message (cleanup.policy=COMPACTION); set the property KEYS"
            );
            Err(Refusal::MessageIllegal { what })
        }
    }
}

/// Refuses properties that do not fit into a record.
pub fn check_properties(send: &SendRequest) -> Result<(), Refusal> {
    for message in &send.messages {
        let len_bytes = message.properties_len();
        if len_bytes > MAX_PROPERTIES_BYTES {
            return Err(Refusal::PropertiesTooLarge { len_bytes, max_bytes: MAX_PROPERTIES_BYTES });
        }
        debug_assert!(message.topic.len() <= DERIVED_TOPIC_MAX_LEN, "the name was checked");
    }
    Ok(())
}

/// What the properties of a message ask of the broker.
struct Facts<'a> {
    unique_key: Option<&'a str>,
    delay_level: i64,
    timer: bool,
    transaction: bool,
    inner_batch: bool,
    pop_receipt: bool,
    /// Says what timer message it settles, which is for the broker to say.
    settles_timer: bool,
    /// A property that asks for something this broker does not have.
    not_there: Option<&'a str>,
    /// False: the sender does not wait for disk or replicas.
    awaits_store: bool,
}

impl<'a> Facts<'a> {
    fn of(text: &'a [u8]) -> Self {
        let mut facts = Self {
            unique_key: None,
            delay_level: 0,
            timer: false,
            transaction: false,
            inner_batch: false,
            pop_receipt: false,
            settles_timer: false,
            not_there: None,
            awaits_store: true,
        };
        for (name, value) in properties::pairs(text) {
            match name {
                property::UNIQ_KEY => facts.unique_key = Some(value),
                property::DELAY => facts.delay_level = value.parse().unwrap_or(0),
                property::TIMER_DELAY_SEC | property::TIMER_DELAY_MS | property::TIMER_DELIVER_MS => {
                    facts.timer = true
                }
                property::TRANSACTION_PREPARED => facts.transaction = value.eq_ignore_ascii_case("true"),
                property::INNER_NUM => facts.inner_batch = true,
                property::WAIT => facts.awaits_store = !value.eq_ignore_ascii_case("false"),
                property::POP_CK => facts.pop_receipt = true,
                property::TIMER_SETTLES | property::TIMER_DUE_MS => facts.settles_timer = true,
                property::INNER_MULTI_DISPATCH | property::PRIORITY | property::LITE_TOPIC => {
                    facts.not_there = Some(name)
                }
                _ => {}
            }
        }
        // A level wins over a time, and what has waited waits no more.
        facts.timer =
            facts.timer && facts.delay_level <= 0 && properties::get(text, property::TIMER_OUT_MS).is_none();
        facts
    }
}

/// The stored properties: the client's, its unique key, and those behind them.
fn with_additions(text: Bytes, facts: &Facts<'_>, rules: &SendRules) -> (Bytes, Bytes, Bytes) {
    let (unique_key, extra) = match facts.unique_key {
        Some(key) => (bytes_within(&text, key), rules.added_properties.clone()),
        None => {
            let key = uuid::Uuid::new_v4().simple().to_string().to_uppercase();
            let mut extra = Vec::with_capacity(48 + rules.added_properties.len());
            properties::push(&mut extra, property::UNIQ_KEY, &key);
            extra.extend_from_slice(&rules.added_properties);
            (Bytes::from(key), Bytes::from(extra))
        }
    };
    // What earlier deliveries said is not the message's own.
    let is_foreign = facts.pop_receipt || facts.settles_timer;
    let text = if is_foreign { without(&text, &OF_DELIVERIES) } else { text };
    (text, unique_key, extra)
}

/// Properties that the broker sets, for itself.
const OF_DELIVERIES: [&str; 3] = [property::POP_CK, property::TIMER_SETTLES, property::TIMER_DUE_MS];

fn without(text: &[u8], names: &[&str]) -> Bytes {
    properties::encode(properties::pairs(text).filter(|(known, _)| !names.contains(known)))
}

/// A handle on a part of `text`.
fn bytes_within(text: &Bytes, part: &str) -> Bytes {
    text.slice_ref(part.as_bytes())
}

fn unique_key_of(text: &Bytes) -> Option<Bytes> {
    properties::get(text, property::UNIQ_KEY).map(|key| bytes_within(text, key))
}

fn message_of(
    request: &Request,
    header: &SendHeader<'_>,
    topic: &TopicName,
    queue_id: QueueId,
    body: Bytes,
    properties: Bytes,
    rules: &SendRules,
) -> PendingMessage {
    PendingMessage {
        topic: topic.clone(),
        queue_id,
        flag: header.flag,
        // Bits of transactions are ours to set.
        sys_flag: TransactionType::None.set_in(header.sys_flag),
        born_at_ms: header.born_at_ms,
        born_host: request.from.peer,
        store_host: rules.store_host,
        reconsume_times: header.reconsume_times,
        prepared_transaction_offset: 0,
        body,
        properties,
        extra_properties: Bytes::new(),
    }
}

/// The messages of a client's batch; each has properties of its own, and nothing is added to them.
fn batch_messages(
    request: &Request,
    header: &SendHeader<'_>,
    topic: &TopicName,
    queue_id: QueueId,
    rules: &SendRules,
) -> Result<Vec<PendingMessage>, Refusal> {
    let mut messages = Vec::new();
    for entry in BatchEntries::new(request.command.body.clone()) {
        let entry = entry.map_err(|error| Refusal::MessageIllegal { what: error.to_string() })?;
        let mut settles_timer = false;
        for (name, _) in properties::pairs(&entry.properties) {
            not_there::check_property(name)?;
            settles_timer |= name == property::TIMER_SETTLES;
        }
        let properties =
            if settles_timer { without(&entry.properties, &OF_DELIVERIES) } else { entry.properties };
        messages.push(PendingMessage {
            flag: entry.flag,
            ..message_of(request, header, topic, queue_id, entry.body, properties, rules)
        });
    }
    if messages.is_empty() {
        return Err(Refusal::MessageIllegal { what: "the batch holds no message".into() });
    }
    Ok(messages)
}

/// Turns the send into that of a half message, which remembers where the message belongs.
fn begin_transaction(
    prepared: &mut PreparedSend,
    unique_key: &[u8],
    topics: &TopicMap,
) -> Result<(), Refusal> {
    let halves = topics.topics.get(names::HALF_TOPIC).ok_or_else(|| Refusal::TopicUnknown {
        topic: TopicName::from(names::HALF_TOPIC),
        hint: "the broker's own topic of half messages is missing".into(),
    })?;
    // A key is part of a property text that was read as UTF-8.
    let unique_key = str::from_utf8(unique_key).unwrap_or_default();
    for message in &mut prepared.send.messages {
        let mut extra = half_properties(unique_key, &message.topic, message.queue_id);
        extra.extend_from_slice(&message.extra_properties);
        message.extra_properties = extra.into();
        message.topic = halves.name().clone();
        message.queue_id = QueueId(0);
    }
    prepared.queue_id = QueueId(0);
    prepared.entry = halves.clone();
    Ok(())
}

/// Turns the send into one of the schedule topic, which remembers where the message belongs.
fn delay(
    prepared: &mut PreparedSend,
    level: i64,
    topics: &TopicMap,
    rules: &SendRules,
) -> Result<(), Refusal> {
    let level = usize::try_from(level).unwrap_or(usize::MAX).min(rules.delay_levels.max_level());
    let schedule = topics.topics.get(names::SCHEDULE_TOPIC).ok_or_else(|| Refusal::TopicUnknown {
        topic: TopicName::from(names::SCHEDULE_TOPIC),
        hint: "the broker's own topic of delayed messages is missing".into(),
    })?;
    for message in &mut prepared.send.messages {
        let mut extra = Vec::with_capacity(message.extra_properties.len() + 64 + message.topic.len());
        extra.extend_from_slice(&message.extra_properties);
        properties::push(&mut extra, property::REAL_TOPIC, &message.topic);
        properties::push(&mut extra, property::REAL_QUEUE_ID, &message.queue_id.to_string());
        message.extra_properties = extra.into();
        message.topic = schedule.name().clone();
        message.queue_id = QueueId(level.saturating_sub(1) as u32);
    }
    prepared.queue_id = QueueId(level.saturating_sub(1) as u32);
    prepared.entry = schedule.clone();
    Ok(())
}

/// Turns the send into one of the timer topic, unless its time has come: then it is an ordinary one.
fn wait_for_time(
    prepared: &mut PreparedSend,
    now_ms: i64,
    topics: &TopicMap,
    rules: &SendRules,
) -> Result<(), Refusal> {
    let [message] = &mut prepared.send.messages[..] else { return Ok(()) };
    let asked = TimerProperties::of(&message.properties);
    let illegal = |what: String| Refusal::MessageIllegal { what };
    if !rules.timers.enabled {
        return Err(Refusal::NoPermission {
            what: "delivery at a time of its own".into(),
            remedy: "set message.timers_enabled (timerWheelEnable), or use a delay level",
        });
    }
    let due_ms =
        asked.asked_due_ms(now_ms, rules.timers.max_delay).map_err(|error| illegal(error.to_string()))?;
    let Some(due_ms) = due_ms else {
        return match asked.delete_key {
            None => Ok(()),
            Some(_) => Err(illegal("what it takes back was due before now".into())),
        };
    };
    let timers = topics.topics.get(names::TIMER_TOPIC).ok_or_else(|| Refusal::TopicUnknown {
        topic: TopicName::from(names::TIMER_TOPIC),
        hint: "the broker's own topic of timer messages is missing".into(),
    })?;
    if let SendReply::Client { unique_key: Some(unique_key), recall_handle, .. } = &mut prepared.send.reply {
        let handle = RecallHandle {
            topic: &message.topic,
            broker_name: &rules.timers.broker_name,
            due_ms,
            unique_key: std::str::from_utf8(unique_key).unwrap_or_default(),
        };
        *recall_handle = Some(handle.encode().into());
    }
    let mut extra = Vec::with_capacity(message.extra_properties.len() + 128 + message.topic.len());
    extra.extend_from_slice(&message.extra_properties);
    for (name, value) in asked.stamp(due_ms) {
        properties::push(&mut extra, name, &value);
    }
    properties::push(&mut extra, property::REAL_TOPIC, &message.topic);
    properties::push(&mut extra, property::REAL_QUEUE_ID, &message.queue_id.to_string());
    message.extra_properties = extra.into();
    message.topic = timers.name().clone();
    message.queue_id = QueueId(0);
    prepared.queue_id = QueueId(0);
    prepared.entry = timers.clone();
    Ok(())
}

#[cfg(test)]
mod tests;
