//! Requests that only a client can answer: they are sent on to it, and its answer comes back unread.

use std::time::Duration;

use bytes::Bytes;
use futures::future;

use crate::actors::consumer_group::ViewMember;
use crate::actors::consumer_groups::ConsumerGroupTable;
use crate::actors::group_table::GroupTable;
use crate::actors::request::{Answer, Answered, CallClient, CallFailed, ClientAnswer, Request};
use crate::actors::topic_table::TopicTable;
use crate::error::Refusal;
use crate::protocol::body::offsets::GetConsumerStatusBody;
use crate::protocol::fastjson;
use crate::protocol::header::{
    ClientStatusHeader, ConsumeDirectly, ConsumerRunningInfoHeader, ConsumerStatusHeader, FieldWriter,
};
use crate::protocol::message_id::parse_offset_message_id;
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;
use crate::store::commit_log::CommitLogReader;
use crate::types::{BrokerName, ClientId, GroupName};

/// How long a client may take to answer what is relayed to it. RocketMQ: `AdminBrokerProcessor.callConsumer`.
const RELAY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to tell its offsets. RocketMQ: `Broker2Client.getConsumeStatus`.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

type Fields = Vec<(String, String)>;

/// GET_CONSUMER_RUNNING_INFO (307).
pub async fn consumer_running_info(request: &Request, consumers: &ConsumerGroupTable) -> Answered {
    let asked: ConsumerRunningInfoHeader = request.header("GET_CONSUMER_RUNNING_INFO")?;
    let body = request.command.body.clone();
    relay(request, consumers, asked.consumer_group, asked.client_id, fields_of(request), body).await
}

/// What the broker adds to CONSUME_MESSAGE_DIRECTLY.
pub struct DirectSources<'a> {
    pub log: &'a CommitLogReader,
    pub topics: &'a TopicTable,
    pub groups: &'a GroupTable,
    pub consumers: &'a ConsumerGroupTable,
    pub broker_name: &'a BrokerName,
}

/// CONSUME_MESSAGE_DIRECTLY (309): the client is given the message and tells what its listener made of it. Offsets
/// stay as they are.
pub async fn consume_directly(request: &Request, sources: &DirectSources<'_>) -> Answered {
    let asked: ConsumeDirectly = request.header("CONSUME_MESSAGE_DIRECTLY")?;
    let group = asked.consumer_group;
    let client_id = asked.client_id.unwrap_or_default();
    if sources.consumers.view(&group).is_none_or(|view| view.find(&client_id).is_none()) {
        return Err(Refusal::ClientOffline { group, client_id });
    }
    let id = asked.msg_id.unwrap_or_default();
    let (_, at) = parse_offset_message_id(&id).map_err(|error| Refusal::Failed(error.to_string()))?;
    let record = sources.log.read_record(at).ok_or_else(|| {
        Refusal::Failed(format!(
            "can not find message by the offset, {at}: none begins there, or it has expired; nothing was sent to {client_id}"
        ))
    })?;
    let mut fields = fields_of(request);
    let mut set = |name: &str, value: String| {
        fields.retain(|(known, _)| known != name);
        fields.push((name.to_owned(), value));
    };
    set("brokerName", sources.broker_name.to_string());
    if let Some(entry) = asked.topic.and_then(|topic| sources.topics.get(&topic)) {
        set("topicSysFlag", entry.config.topic_sys_flag.to_string());
    }
    if let Some(config) = sources.groups.get(&group) {
        set("groupSysFlag", config.group_sys_flag.to_string());
    }
    relay(request, sources.consumers, group, client_id, fields, record).await
}

/// INVOKE_BROKER_TO_GET_CONSUMER_STATUS (223): the offsets that each member, or one of them, holds by itself. A
/// member that does not answer is left out.
pub async fn consumer_status(request: &Request, consumers: &ConsumerGroupTable) -> Answered {
    let asked: ConsumerStatusHeader = request.header("INVOKE_BROKER_TO_GET_CONSUMER_STATUS")?;
    let ConsumerStatusHeader { topic, group, client_addr } = asked;
    let only = client_addr.filter(|client_id| !client_id.trim().is_empty());
    let view = consumers.view(&group).ok_or_else(|| Refusal::NoConsumer { group: group.clone() })?;
    let members: Vec<&ViewMember> = match only {
        None => view.members.iter().collect(),
        Some(client_id) => {
            let member = view.find(&client_id);
            vec![member.ok_or_else(|| Refusal::ClientOffline { group: group.clone(), client_id })?]
        }
    };
    let header = FieldWriter::of(&ClientStatusHeader { topic, group }).into_pairs();
    let fields: Fields = header.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let asked_all = members.into_iter().map(|known| async {
        let call = CallClient {
            code: RequestCode::GET_CONSUMER_STATUS_FROM_CLIENT.as_i32(),
            fields: fields.clone(),
            body: Bytes::new(),
            timeout: Some(STATUS_TIMEOUT),
        };
        let answer = call_client(known, call).await.ok()?;
        if answer.code != ResponseCode::SUCCESS.as_i32() || answer.body.is_empty() {
            return None;
        }
        let told: GetConsumerStatusBody = fastjson::from_slice(&answer.body).ok()?;
        Some((known.member.client_id.clone(), told.message_queue_table))
    });
    let told = future::join_all(asked_all).await.into_iter().flatten().collect();
    super::progress::with_raw_keys(&GetConsumerStatusBody {
        consumer_table: told,
        ..GetConsumerStatusBody::default()
    })
}

async fn relay(
    request: &Request,
    consumers: &ConsumerGroupTable,
    group: GroupName,
    client_id: ClientId,
    fields: Fields,
    body: Bytes,
) -> Answered {
    let view = consumers.view(&group);
    let Some(member) = view.as_ref().and_then(|view| view.find(&client_id)) else {
        return Err(Refusal::ClientOffline { group, client_id });
    };
    let code = request.command.head.code;
    let call = CallClient { code, fields, body, timeout: Some(RELAY_TIMEOUT) };
    match call_client(member, call).await {
        Ok(answer) => Ok(Some(Answer {
            code: ResponseCode::from_i32(answer.code),
            remark: answer.remark,
            ..Answer::success().with_body(answer.body)
        })),
        Err(CallFailed::TimedOut) => Err(Refusal::ClientSilent { group, client_id, timeout: RELAY_TIMEOUT }),
        Err(CallFailed::Closed) => Err(Refusal::ClientOffline { group, client_id }),
    }
}

/// A connection that has ended is a closed one.
async fn call_client(member: &ViewMember, call: CallClient) -> Result<ClientAnswer, CallFailed> {
    member.link.calls.send(call).await.unwrap_or(Err(CallFailed::Closed))
}

fn fields_of(request: &Request) -> Fields {
    request.command.fields.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::requests::testing::{TestStore, body, refusal};
    use crate::protocol::ext_fields::ExtFields;
    use crate::protocol::message::StoredMessage;
    use crate::protocol::message_id::offset_message_id;
    use crate::testing::log::{TestLog, message, store_host};
    use crate::testing::{FakeClient, RequestBuilder, fake_client, request};
    use crate::types::MessageQueue;

    fn answer(code: i32, body: &'static str) -> Result<ClientAnswer, CallFailed> {
        let (fields, body) = (ExtFields::default(), Bytes::from_static(body.as_bytes()));
        Ok(ClientAnswer { code, remark: Some("why".into()), fields, body })
    }

    fn calls(client: &mut FakeClient, code: RequestCode) -> Vec<CallClient> {
        let all = std::iter::from_fn(|| client.calls.try_recv().ok());
        all.filter(|call| call.code == code.as_i32()).collect()
    }

    #[actix::test]
    async fn running_info_is_the_clients_own_answer() {
        let store = TestStore::start(&[]).await;
        let (link, mut client) = fake_client();
        store.subscribe("cg", &link, &[]).await;
        let (admin, _admin_client) = fake_client();
        let ask = async |client_id: &str| {
            let asked = request(RequestCode::GET_CONSUMER_RUNNING_INFO)
                .field("consumerGroup", "cg")
                .field("clientId", client_id)
                .field("jstackEnable", "true")
                .from(&admin);
            consumer_running_info(&asked, &store.consumers).await
        };
        assert_eq!(refusal(ask("c2").await).to_string(), "The Consumer <cg> <c2> not online");
        assert_eq!(refusal(ask("c").await).code(), ResponseCode::CONSUME_MSG_TIMEOUT);
        client.answer_calls(answer(1, "{\"dropped\":1}")).await;
        let answer = ask("c").await.unwrap().unwrap();
        assert_eq!((answer.code.as_i32(), answer.remark.as_deref()), (1, Some("why")));
        assert_eq!(answer.body, "{\"dropped\":1}");
        let calls = calls(&mut client, RequestCode::GET_CONSUMER_RUNNING_INFO);
        assert_eq!(calls.len(), 2);
        assert!(calls[1].fields.contains(&("jstackEnable".to_owned(), "true".to_owned())));
    }

    #[actix::test]
    async fn message_is_handed_to_the_client_with_what_the_broker_knows() {
        let store = TestStore::start(&[("T", 1)]).await;
        store.groups.find_or_create(&"g".into()).await.unwrap();
        let mut log = TestLog::new();
        let at = log.append(message("T", "hello"), 0).start;
        let (link, mut client) = fake_client();
        store.subscribe("g", &link, &["T"]).await;
        client.answer_calls(answer(0, "{}")).await;
        let (admin, _admin_client) = fake_client();
        let broker_name = "broker-a".into();
        let sources = DirectSources {
            log: &log.reader,
            topics: &store.topics,
            groups: store.groups.table(),
            consumers: &store.consumers,
            broker_name: &broker_name,
        };
        let asked = |client: &str, id: &str| {
            request(RequestCode::CONSUME_MESSAGE_DIRECTLY)
                .field("consumerGroup", "g")
                .field("clientId", client)
                .field("topic", "T")
                .field("brokerName", "a name of the tool's")
                .field("msgId", id)
                .from(&admin)
        };
        let id = offset_message_id(store_host(), at);
        let answered = consume_directly(&asked("c", &id), &sources).await.unwrap().unwrap();
        assert_eq!((answered.code, answered.body), (ResponseCode::SUCCESS, Bytes::from_static(b"{}")));
        let calls = calls(&mut client, RequestCode::CONSUME_MESSAGE_DIRECTLY);
        assert_eq!(StoredMessage::decode(&calls[0].body).unwrap().body, "hello");
        let field = |name: &str| {
            let values = calls[0].fields.iter().filter(|(known, _)| known == name);
            values.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
        };
        assert_eq!((field("brokerName"), field("msgId")), (vec!["broker-a"], vec![&*id]));
        assert_eq!((field("topicSysFlag"), field("groupSysFlag")), (vec!["0"], vec!["0"]));

        let offline = refusal(consume_directly(&asked("c2", &id), &sources).await);
        assert_eq!(offline.to_string(), "The Consumer <g> <c2> not online");
        for (id, why) in [
            ("nonsense", "not an offset message id"),
            (&*offset_message_id(store_host(), at.advance(1)), "none begins there"),
        ] {
            let refused = refusal(consume_directly(&asked("c", id), &sources).await).to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[actix::test]
    async fn status_is_what_the_members_that_answer_hold() {
        let store = TestStore::start(&[("T", 1)]).await;
        let (link, mut client) = fake_client();
        let ask = async |asked: RequestBuilder| consumer_status(&asked.from(&link), &store.consumers).await;
        let asked = || {
            request(RequestCode::INVOKE_BROKER_TO_GET_CONSUMER_STATUS).field("topic", "T").field("group", "g")
        };
        assert_eq!(refusal(ask(asked()).await).code(), ResponseCode::SYSTEM_ERROR);
        store.subscribe("g", &link, &["T"]).await;
        let silent: GetConsumerStatusBody = body(ask(asked()).await);
        assert!(silent.consumer_table.is_empty());

        let told = r#"{"messageQueueTable":{{"brokerName":"b","queueId":0,"topic":"T"}:7}}"#;
        client.answer_calls(answer(0, told)).await;
        let status: GetConsumerStatusBody = body(ask(asked().field("clientAddr", "c")).await);
        let queue = MessageQueue { broker_name: "b".into(), queue_id: 0, topic: "T".into() };
        assert_eq!(status.consumer_table[&ClientId::from("c")].0, [(queue, 7)].into());
        let calls = calls(&mut client, RequestCode::GET_CONSUMER_STATUS_FROM_CLIENT);
        assert_eq!(
            calls[0].fields,
            [("topic", "T"), ("group", "g")].map(|(n, v)| (n.to_owned(), v.to_owned()))
        );
        let refused = refusal(ask(asked().field("clientAddr", "c2")).await);
        assert_eq!(refused.to_string(), "The Consumer <g> <c2> not online");
    }
}
