//! How a transcript words requests and answers: short, and the same in every run.

use std::fmt::Write;

use super::transcript::quoted;
use crate::actors::request::{Answer, ReplyContent};
use crate::protocol::body::connections::ConsumerIdList;
use crate::protocol::body::heartbeat::HeartbeatData;
use crate::protocol::fastjson;
use crate::protocol::message::{RecordView, StoredMessage};
use crate::protocol::properties::{self, names as property};
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;

/// A request: its name, whom it concerns, and what is in it. `field` yields the ext fields.
pub(super) fn of_request<'a>(
    code: RequestCode,
    field: impl Fn(&str) -> Option<&'a str>,
    body: &[u8],
) -> String {
    let mut line = code.name().to_owned();
    let mut say = |what: &str| {
        line.push(' ');
        line.push_str(what);
    };
    let queue = |topic: &str, queue: &str| Some(format!("{}/{}", field(topic)?, field(queue)?));
    match code {
        RequestCode::SEND_MESSAGE_V2 | RequestCode::SEND_MESSAGE => {
            say(&queue("b", "e").or(queue("topic", "queueId")).unwrap_or_default());
            say(&quoted(body));
            let properties = field("i").or(field("properties")).unwrap_or_default().as_bytes();
            if let Some(level) = properties::get(properties, property::DELAY) {
                say(&format!("at delay level {level}"));
            }
            if properties::get(properties, property::TRANSACTION_PREPARED).is_some() {
                say("as a half");
            }
        }
        RequestCode::PULL_MESSAGE | RequestCode::LITE_PULL_MESSAGE => {
            say(&queue("topic", "queueId").unwrap_or_default());
            say(&format!("from {}", field("queueOffset").unwrap_or("?")));
        }
        RequestCode::HEART_BEAT => say(&of_heartbeat(body)),
        RequestCode::END_TRANSACTION => say(match field("commitOrRollback") {
            Some("8") => "commit",
            Some("12") => "rollback",
            _ => "unknown",
        }),
        RequestCode::CHECK_TRANSACTION_STATE => {
            say(&RecordView::parse(body).map(|half| quoted(half.body())).unwrap_or_default());
        }
        RequestCode::UPDATE_CONSUMER_OFFSET => {
            say(&queue("topic", "queueId").unwrap_or_default());
            say(&format!("to {}", field("commitOffset").unwrap_or("?")));
        }
        RequestCode::CONSUMER_SEND_MSG_BACK => {
            say(field("originTopic").unwrap_or_default());
            say(&format!("at delay level {}", field("delayLevel").unwrap_or("0")));
        }
        _ => {
            let of_what = queue("topic", "queueId").or(field("topic").map(str::to_owned));
            for what in of_what.as_deref().into_iter().chain(field("consumerGroup")) {
                say(what);
            }
        }
    }
    line
}

fn of_heartbeat(body: &[u8]) -> String {
    let Ok(data) = fastjson::from_slice::<HeartbeatData>(body) else { return String::new() };
    let produces =
        data.producer_data_set.iter().map(|producer| format!("produces for {}", producer.group_name));
    let consumes = data.consumer_data_set.iter().map(|consumer| {
        let topics: Vec<_> = consumer.subscription_data_set.iter().map(|of| of.topic.to_string()).collect();
        format!("consumes {} for {}", topics.join(", "), consumer.group_name)
    });
    produces.chain(consumes).collect::<Vec<_>>().join(", ")
}

/// An answer; `None` for one that says nothing but that all went well.
pub(super) fn of_answer(content: &ReplyContent) -> Option<String> {
    match content {
        ReplyContent::Stored(stored) => {
            Some(format!("SUCCESS, stored in queue {} at {}", stored.queue_id.0, stored.queue_offset.0))
        }
        ReplyContent::Pulled(pulled) => {
            let mut line = pulled.status.to_owned();
            for record in &pulled.records {
                for message in StoredMessage::decode_all(record.clone()) {
                    write!(line, " {}", quoted(&message.body)).expect("a string takes text");
                }
            }
            write!(line, ", next is {}", pulled.header.next_begin_offset).expect("a string takes text");
            Some(line)
        }
        ReplyContent::Answer(answer) => of_plain(answer),
        ReplyContent::Refused(refusal) => Some(refusal.code().name().to_owned()),
        ReplyContent::Silence => None,
    }
}

fn of_plain(answer: &Answer) -> Option<String> {
    let offset = answer.fields.iter().find(|(name, _)| *name == "offset");
    if answer.code != ResponseCode::SUCCESS {
        return Some(answer.code.name().to_owned());
    }
    if let Some((_, offset)) = offset {
        return Some(format!("SUCCESS, {offset}"));
    }
    let members = fastjson::from_slice::<ConsumerIdList>(&answer.body).ok()?;
    let members: Vec<_> = members.consumer_id_list.iter().map(ToString::to_string).collect();
    (!members.is_empty()).then(|| format!("SUCCESS, {}", members.join(", ")))
}
