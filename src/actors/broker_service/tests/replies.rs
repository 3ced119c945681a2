//! Request–reply, and what else needs a client that is asked.

use super::*;
use crate::actors::request::{CallFailed, ClientAnswer};
use crate::protocol::body::heartbeat::{HeartbeatData, ProducerData};
use crate::protocol::ext_fields::ExtFields;
use crate::protocol::properties::{self, names as property};

const REPLY_TOPIC: &str = "C1_REPLY_TOPIC";

/// A reply to what client `asker` asked.
fn reply(body: &str, asker: &str) -> RequestBuilder {
    let pairs = [(property::REPLY_TO_CLIENT, asker), (property::CORRELATION_ID, "7"), ("MSG_TYPE", "reply")];
    let properties = String::from_utf8(properties::encode(pairs).to_vec()).unwrap();
    request(RequestCode::SEND_REPLY_MESSAGE_V2)
        .field("a", "pg")
        .field("b", REPLY_TOPIC)
        .field("e", 0)
        .field("i", properties)
        .body(body.to_owned())
}

impl Bench {
    /// Makes the client of the bench a producer that calls itself `asker`.
    async fn beat(&mut self) {
        let beat = HeartbeatData {
            client_id: "asker".into(),
            producer_data_set: vec![ProducerData { group_name: "pg".into() }],
            ..HeartbeatData::default()
        };
        assert_eq!(self.code(request(RequestCode::HEART_BEAT).json(&beat)).await, ResponseCode::SUCCESS);
    }

    async fn answered(&mut self, request: RequestBuilder) -> Result<Vec<(&'static str, String)>, Refusal> {
        match self.ask(vec![request]).await.remove(0).content {
            ReplyContent::Answer(answer) => Ok(answer.fields),
            ReplyContent::Refused(refusal) => Err(refusal),
            other => panic!("a reply is answered: {other:?}"),
        }
    }
}

fn taken(code: i32) -> Result<ClientAnswer, CallFailed> {
    let remark = (code != 0).then(|| "no such request".to_owned());
    Ok(ClientAnswer { code, remark, fields: ExtFields::default(), body: Default::default() })
}

#[actix::test]
async fn reply_reaches_who_asked_and_is_stored_beside() {
    let mut bench = Bench::start_new().await;
    bench.beat().await;
    bench.client.answer_calls(taken(0)).await;
    let fields = bench.answered(reply("four", "asker")).await.unwrap();
    let call = bench.client.calls.try_recv().unwrap();
    assert_eq!((call.code, &call.body[..]), (326, &b"four"[..]));
    let field = |name: &str| call.fields.iter().find(|(found, _)| found == name).unwrap().1.clone();
    assert_eq!(field("bornHost"), bench.link.peer.to_string());
    let pushed = field("properties");
    assert_eq!(properties::get(pushed.as_bytes(), property::CORRELATION_ID), Some("7"));
    assert!(properties::get(pushed.as_bytes(), property::PUSH_REPLY_TIME).is_some());
    assert!(fields.iter().any(|(name, value)| *name == "msgId" && value.len() == 32), "{fields:?}");
    assert_eq!(bench.bodies(REPLY_TOPIC).await, ["four"]);
    bench.stop().await;
}

#[actix::test]
async fn asker_that_is_gone_silent_or_refuses_is_named_and_the_reply_is_stored() {
    let mut bench = Bench::start_new().await;
    bench.beat().await;
    let refusal = bench.answered(reply("a", "nobody")).await.unwrap_err();
    assert!(matches!(&refusal, Refusal::AskerOffline { client_id } if &**client_id == "nobody"), "{refusal}");
    for (answer, told) in [
        (Err(CallFailed::TimedOut), "did not answer within 2500 ms"),
        (Err(CallFailed::Closed), "closed"),
        (taken(1), "code 1: no such request"),
    ] {
        bench.client.answer_calls(answer).await;
        let refusal = bench.answered(reply("b", "asker")).await.unwrap_err();
        assert_eq!(refusal.code(), ResponseCode::SYSTEM_ERROR);
        assert!(refusal.to_string().contains(told), "{refusal}");
    }
    let mut stored = Vec::new();
    while stored.len() < 4 {
        stored = bench.bodies(REPLY_TOPIC).await; // dispatch may be a message behind
    }
    assert_eq!(stored, ["a", "b", "b", "b"]);
    bench.stop().await;
}

#[actix::test]
async fn replies_are_stored_only_if_they_are_to_be() {
    let settings = SettingValues { store_replies: false, ..SettingValues::default() };
    let plan = BrokerPlan { settings, ..plan() };
    let mut bench = Bench::start(plan, &MemoryFiles::new(), &Metadata::temporary().unwrap()).await;
    bench.beat().await;
    bench.client.answer_calls(taken(0)).await;
    let fields = bench.answered(reply("four", "asker")).await.unwrap();
    assert!(fields.contains(&("msgId", "0".to_owned())), "{fields:?}");
    let queue = bench.tree.topics.get(REPLY_TOPIC).unwrap().queue(QueueId(0)).unwrap().clone();
    assert_eq!(queue.send(QueryExtent).await.unwrap().max.0, 0);
    bench.stop().await;
}

#[actix::test]
async fn transactions_are_refused_while_they_are_switched_off() {
    let settings = SettingValues { reject_transactions: true, ..SettingValues::default() };
    let plan = BrokerPlan { settings, ..plan() };
    let mut bench = Bench::start(plan, &MemoryFiles::new(), &Metadata::temporary().unwrap()).await;
    let half = |topic| send(topic, "x").field("i", "TRAN_MSG\u{1}true\u{2}PGROUP\u{1}pg\u{2}");
    assert_eq!(bench.code(half("new")).await, ResponseCode::NO_PERMISSION, "by way of its creation");
    assert_eq!(bench.code(half("new")).await, ResponseCode::NO_PERMISSION);
    assert_eq!(bench.code(send("new", "x")).await, ResponseCode::SUCCESS);
    bench.stop().await;
}
