//! SEND_REPLY_MESSAGE (324, 325): the reply to a request that a client sent as a message goes to that client, by the
//! connection it opened, and is stored beside.
//!
//! RocketMQ: `ReplyMessageProcessor`. Whether the asker has it decides the answer; storing does not.

use std::time::Duration;

use actix::Addr;
use bytes::Bytes;
use tokio::sync::oneshot;
use tracing::debug;

use super::send::{self, SendRules};
use crate::actors::producers::{FindProducer, Producers};
use crate::actors::request::{Answer, Answered, CallClient, CallFailed, Request};
use crate::actors::send_gate::SendGate;
use crate::actors::topic_queue::{SendMessages, SendReply};
use crate::actors::topic_table::TopicTable;
use crate::actors::topics::unknown_topic;
use crate::clock::SharedClock;
use crate::error::Refusal;
use crate::protocol::header::{FieldWriter, PushReply, SendHeader, SendResponse};
use crate::protocol::message_id::offset_message_id;
use crate::protocol::properties::{self, names as property};
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;
use crate::types::{ClientId, TopicName};

/// How long the asker may take; less than the 3 s after which who replies has stopped waiting.
const PUSH_TIMEOUT: Duration = Duration::from_millis(2_500);

/// Whom a reply concerns.
pub struct ReplyPeers<'a> {
    pub producers: &'a Addr<Producers>,
    pub topics: &'a TopicTable,
    pub rules: &'a SendRules,
    pub gate: &'a SendGate,
    /// Whether replies are stored.
    pub stores: bool,
    pub clock: &'a SharedClock,
}

pub async fn send_reply(request: &Request, peers: &ReplyPeers<'_>) -> Answered {
    let header = send::header_of(request)?;
    // Who was asked while messages were taken may reply while they are not.
    if let Some(refusal) = peers.gate.refusal(true) {
        return Err(refusal);
    }
    send::check_name(&header)?;
    let topic = TopicName::from(header.topic);
    let topics = peers.topics.load_full();
    let entry = topics.topics.get(&topic).cloned().ok_or_else(|| unknown_topic(&topic, &topics))?;
    let mut prepared = send::prepare(request, &header, entry, &topics, peers.rules)?;

    let pushed = push(request, &header, peers).await;
    let mut response = SendResponse {
        msg_id: "0".to_owned(),
        queue_id: prepared.queue_id.0 as i32,
        queue_offset: 0,
        transaction_id: None,
    };
    if peers.stores {
        let (waiting, stored) = oneshot::channel();
        prepared.send.reply = SendReply::Task(waiting);
        let queue = prepared.entry.queue(prepared.queue_id);
        let sent = queue.map(|queue| queue.try_send(SendMessages(vec![prepared.send])));
        let stored = match sent {
            Some(Ok(())) => stored.await.unwrap_or(Err(Refusal::ShuttingDown)),
            _ => Err(Refusal::Busy { actor: "the queue", waiting: 1 }),
        };
        match stored {
            Ok(stored) => {
                let at = stored.physical_offsets.first().copied().unwrap_or_default();
                response.msg_id = offset_message_id(peers.rules.store_host, at);
                response.queue_offset = stored.first_queue_offset.0 as i64;
            }
            Err(refusal) => debug!(%topic, %refusal, "reply not stored"),
        }
    }
    pushed?;
    let answer = Answer::header(&response);
    Ok(Some(
        answer.with_field(property::MSG_REGION, "DefaultRegion").with_field(property::TRACE_SWITCH, "true"),
    ))
}

/// Hands the reply to who asked, and waits until it has taken it.
async fn push(request: &Request, header: &SendHeader<'_>, peers: &ReplyPeers<'_>) -> Result<(), Refusal> {
    let client_id = properties::get(&header.properties, property::REPLY_TO_CLIENT);
    let client_id =
        ClientId::from(
            client_id.ok_or_else(|| Refusal::MessageIllegal {
                what: "reply message properties[REPLY_TO_CLIENT] is null: a reply copies it from its request"
                    .into(),
            })?,
        );
    let find = FindProducer { client_id: client_id.clone() };
    let asker = peers.producers.send(find).await.map_err(|_| Refusal::ShuttingDown)?;
    let asker = asker.ok_or_else(|| Refusal::AskerOffline { client_id: client_id.clone() })?;
    let now = peers.clock.now().0;
    let push = PushReply {
        producer_group: header.producer_group.to_owned(),
        topic: header.topic.to_owned(),
        default_topic: header.default_topic.to_owned(),
        default_topic_queue_nums: header.default_topic_queue_nums,
        queue_id: header.queue_id,
        sys_flag: header.sys_flag,
        born_at_ms: header.born_at_ms,
        flag: header.flag,
        properties: with_push_time(&header.properties, now),
        reconsume_times: header.reconsume_times,
        unit_mode: false,
        born_host: request.from.peer.to_string(),
        store_host: peers.rules.store_host.to_string(),
        stored_at_ms: now,
    };
    let fields = FieldWriter::of(&push).into_pairs();
    let call = CallClient {
        code: RequestCode::PUSH_REPLY_MESSAGE_TO_CLIENT.as_i32(),
        fields: fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        body: request.command.body.clone(),
        timeout: Some(PUSH_TIMEOUT),
    };
    let not_taken = |cause: String| Refusal::ReplyNotTaken { client_id: client_id.clone(), cause };
    match asker.calls.send(call).await {
        Ok(Ok(answer)) if answer.code == ResponseCode::SUCCESS.as_i32() => Ok(()),
        Ok(Ok(answer)) => {
            let remark = answer.remark.unwrap_or_default();
            Err(not_taken(format!("it answered with code {}: {remark}", answer.code)))
        }
        Ok(Err(CallFailed::TimedOut)) => {
            Err(not_taken(format!("it did not answer within {} ms", PUSH_TIMEOUT.as_millis())))
        }
        Ok(Err(CallFailed::Closed)) | Err(_) => Err(not_taken("its connection is closed".to_owned())),
    }
}

/// The properties with the time of the push behind them.
fn with_push_time(text: &Bytes, now_ms: i64) -> String {
    let pushed = [(property::PUSH_REPLY_TIME, now_ms.to_string())];
    let known = properties::pairs(text).filter(|(name, _)| *name != property::PUSH_REPLY_TIME);
    let pairs = known.chain(pushed.iter().map(|(name, value)| (*name, value.as_str())));
    let text = properties::encode(pairs);
    // Pairs are read as text.
    String::from_utf8_lossy(&text).into_owned()
}
