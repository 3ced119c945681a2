use bytes::BufMut;

use super::*;
use crate::actors::topic_table::TopicTable;
use crate::protocol::properties::PropertyList;
use crate::protocol::response_code::ResponseCode;
use crate::protocol::topic_config::TopicConfig;
use crate::testing::log::{TestLog, store_host, topic_table_of};
use crate::testing::{FakeClient, RequestBuilder, fake_client, request};

const MAX_BODY_BYTES: usize = 1_000;

struct Bench {
    topics: TopicTable,
    rules: SendRules,
    _client: FakeClient,
    link: Arc<crate::actors::request::ClientLink>,
}

fn bench() -> Bench {
    let parts = TestLog::new().queue_parts();
    let uneven = TopicConfig { read_queue_nums: 6, write_queue_nums: 2, ..TopicConfig::new("uneven", 1) };
    let unwritable = TopicConfig { write_queue_nums: 0, ..TopicConfig::new("none", 1) };
    let topics = ["T", "%RETRY%g", names::SCHEDULE_TOPIC, names::HALF_TOPIC, names::TIMER_TOPIC]
        .map(|name| TopicConfig::new(name, 18));
    let topics = topic_table_of(topics.into_iter().chain([uneven, unwritable]), &parts);
    let rules = SendRules::new(
        MAX_BODY_BYTES,
        store_host(),
        "C1",
        DelayLevels::default(),
        TimerRules::default(),
        FlushMode::Async,
    );
    let (link, client) = fake_client();
    Bench { topics, rules, _client: client, link }
}

fn text(pairs: &[(&str, &str)]) -> String {
    String::from_utf8(properties::encode(pairs.iter().copied()).to_vec()).unwrap()
}

/// A send to queue 0 of `topic` with short names.
fn send(topic: &str) -> RequestBuilder {
    send_to(topic, 0)
}

fn send_to(topic: &str, queue_id: i32) -> RequestBuilder {
    bare(topic, queue_id).field("f", 0)
}

fn send_flagged(sys_flag: i32) -> RequestBuilder {
    bare("T", 0).field("f", sys_flag)
}

fn bare(topic: &str, queue_id: i32) -> RequestBuilder {
    request(RequestCode::SEND_MESSAGE_V2)
        .field("a", "pg")
        .field("b", topic)
        .field("e", queue_id)
        .field("g", 1_234)
        .field("h", 5)
        .body("hello")
}

fn batch_of(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (content, properties) in entries {
        body.put_i32((22 + content.len() + properties.len()) as i32);
        body.put_i64(0);
        body.put_i32(3);
        body.put_i32(content.len() as i32);
        body.put_slice(content.as_bytes());
        body.put_i16(properties.len() as i16);
        body.put_slice(properties.as_bytes());
    }
    body
}

impl Bench {
    fn prepare(&self, request: RequestBuilder) -> Result<PreparedSend, Refusal> {
        let request = request.from(&self.link);
        let header = header_of(&request)?;
        check_name(&header)?;
        let topics = self.topics.load_full();
        let entry = topics.topics.get(header.topic).expect("the topic exists").clone();
        prepare(&request, &header, entry, &topics, &self.rules)
    }

    fn messages(&self, request: RequestBuilder) -> Vec<PendingMessage> {
        self.prepare(request).unwrap().send.messages
    }

    fn code(&self, request: RequestBuilder) -> Option<ResponseCode> {
        self.prepare(request).err().map(|refusal| refusal.code())
    }

    /// When requests of the tests come.
    fn received_at_ms(&self) -> i64 {
        send("T").from(&self.link).received_at.0
    }
}

/// The properties as a consumer reads them.
fn stored_properties(message: &PendingMessage) -> PropertyList {
    let text = [&message.properties[..], &message.extra_properties[..]].concat();
    PropertyList::decode(&text)
}

#[actix::test]
async fn what_is_refused_and_with_which_code() {
    let bench = bench();
    let illegal = Some(ResponseCode::MESSAGE_ILLEGAL);
    let invalid = Some(ResponseCode::INVALID_PARAMETER);
    let with = |pairs: &[(&str, &str)]| send("T").field("i", text(pairs));
    let long = "x".repeat(40_000);
    let cases = [
        ("an ordinary one", send("T"), None),
        ("no topic", request(RequestCode::SEND_MESSAGE_V2).body("x"), Some(ResponseCode::SYSTEM_ERROR)),
        ("a blank topic", send(" "), invalid),
        ("letters that no name has", send("a/b"), invalid),
        ("a name too long", send(&"t".repeat(128)), invalid),
        ("the broker's own topic", send(names::SCHEDULE_TOPIC), Some(ResponseCode::NO_PERMISSION)),
        ("a queue that is not there", send_to("T", 18), invalid),
        ("the last queue", send_to("T", 17), None),
        ("a queue for readers alone, which old routes name", send_to("uneven", 5), None),
        ("beyond them", send_to("uneven", 6), invalid),
        ("any queue of none", send_to("none", -1), invalid),
        ("a transaction by flag alone", send_flagged(4), illegal),
        ("the end of a transaction, which is ours to store", send_flagged(8), illegal),
        ("a transaction", with(&[("TRAN_MSG", "true")]), None),
        ("a delayed transaction", with(&[("TRAN_MSG", "true"), ("DELAY", "3")]), illegal),
        ("a transaction at a time", with(&[("TRAN_MSG", "true"), ("TIMER_DELIVER_MS", "9")]), illegal),
        ("a batch of transactions", with(&[("TRAN_MSG", "true")]).field("m", true), illegal),
        ("no transaction by property", with(&[("TRAN_MSG", "false")]), None),
        ("at a time that is past", with(&[("TIMER_DELIVER_MS", "99")]), None),
        ("after some seconds", with(&[("TIMER_DELAY_SEC", "9")]), None),
        ("after a word", with(&[("TIMER_DELAY_SEC", "soon")]), illegal),
        ("in a year", with(&[("TIMER_DELAY_SEC", "31536000")]), illegal),
        (
            "a transaction after some seconds",
            with(&[("TRAN_MSG", "true"), ("TIMER_DELAY_SEC", "9")]),
            illegal,
        ),
        ("a level beside a time", with(&[("TIMER_DELAY_SEC", "9"), ("DELAY", "1")]), None),
        ("an inner batch", with(&[("INNER_NUM", "2")]), illegal),
        ("no body", send("T").body(""), illegal),
        ("the largest body", send("T").body(vec![1; MAX_BODY_BYTES]), None),
        ("a larger one", send("T").body(vec![1; MAX_BODY_BYTES + 1]), illegal),
        ("too many properties", with(&[("k", &long)]), illegal),
        ("a batch of nothing but noise", send("T").field("m", true).body("noise"), illegal),
        ("a batch to a retry topic", send("%RETRY%g").field("m", true).body(batch_of(&[("a", "")])), illegal),
        (
            "a batch that is delayed",
            with(&[("DELAY", "1")]).field("m", true).body(batch_of(&[("a", "")])),
            illegal,
        ),
    ];
    for (case, request, expected) in cases {
        assert_eq!(bench.code(request), expected, "{case}");
    }
}

#[actix::test]
async fn checks_are_made_in_the_order_of_rocketmq() {
    let bench = bench();
    let all_wrong = |queue_id| {
        let properties = text(&[("INNER_NUM", "1")]);
        request(RequestCode::SEND_MESSAGE_V2)
            .field("a", "pg")
            .field("b", "T")
            .field("e", queue_id)
            .field("f", 4)
            .field("i", properties)
    };
    assert!(matches!(bench.prepare(all_wrong(99)).err(), Some(Refusal::QueueOutOfRange { .. })));
    let refusal = bench.prepare(all_wrong(0)).err().unwrap();
    assert!(refusal.to_string().contains("sysFlag"), "{refusal}");
    let no_transaction = send("T").field("i", text(&[("INNER_NUM", "1")])).body("");
    let refusal = bench.prepare(no_transaction).err().unwrap();
    assert!(refusal.to_string().contains("INNER_NUM"), "{refusal}");
}

#[actix::test]
async fn message_is_stored_as_it_came() {
    let bench = bench();
    let request = send_to("T", 3).field("j", 2).field("i", text(&[("TAGS", "a"), ("UNIQ_KEY", "U")]));
    let message = &bench.messages(request)[0];
    let facts =
        (&*message.topic, message.queue_id, message.flag, message.born_at_ms, message.reconsume_times);
    assert_eq!(facts, ("T", QueueId(3), 5, 1_234, 2));
    assert_eq!((message.born_host, message.store_host), (bench.link.peer, store_host()));
    assert_eq!(&message.body[..], b"hello");
}

#[actix::test]
async fn broker_adds_region_tracing_and_cluster_behind_the_clients_properties() {
    let bench = bench();
    let message = &bench.messages(send("T").field("i", text(&[("UNIQ_KEY", "U"), ("TAGS", "a")])))[0];
    let stored: Vec<_> =
        stored_properties(message).iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let expected = [
        ("UNIQ_KEY", "U"),
        ("TAGS", "a"),
        ("MSG_REGION", "DefaultRegion"),
        ("TRACE_ON", "true"),
        ("CLUSTER", "C1"),
    ];
    assert_eq!(stored, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
}

#[actix::test]
async fn message_without_a_unique_key_gets_one_that_the_reply_names() {
    let bench = bench();
    let prepared = [(); 2].map(|()| bench.prepare(send("T")).unwrap().send);
    let keys = prepared.map(|send| {
        let stored = stored_properties(&send.messages[0]).get("UNIQ_KEY").unwrap().to_owned();
        let SendReply::Client { unique_key, .. } = send.reply else { panic!("a client has sent it") };
        assert_eq!(unique_key.unwrap(), stored.as_bytes());
        assert_eq!(stored.len(), 32);
        stored
    });
    assert_ne!(keys[0], keys[1]);
}

#[actix::test]
async fn receipt_of_an_earlier_delivery_is_left_out() {
    let bench = bench();
    let pairs = [("UNIQ_KEY", "U"), ("POP_CK", "0 1 2"), ("TAGS", "a")];
    let stored = stored_properties(&bench.messages(send("T").field("i", text(&pairs)))[0]);
    assert_eq!((stored.get("POP_CK"), stored.get("TAGS")), (None, Some("a")));
}

#[actix::test]
async fn both_spellings_of_the_header_mean_the_same() {
    let bench = bench();
    let long = request(RequestCode::SEND_MESSAGE)
        .field("producerGroup", "pg")
        .field("topic", "T")
        .field("queueId", 2)
        .field("sysFlag", 0)
        .field("bornTimestamp", 1_234)
        .field("flag", 5)
        .field("properties", text(&[("UNIQ_KEY", "U")]))
        .body("hello");
    let short = send_to("T", 2).field("i", text(&[("UNIQ_KEY", "U")]));
    assert_eq!(bench.messages(long), bench.messages(short));
}

#[actix::test]
async fn sends_without_a_queue_are_spread_over_those_that_take_writes() {
    let bench = bench();
    let mut seen = [0; 6];
    for _ in 0..20 {
        let prepared = bench.prepare(send_to("uneven", -1)).unwrap();
        assert_eq!(prepared.queue_id, prepared.send.messages[0].queue_id);
        seen[prepared.queue_id.0 as usize] += 1;
    }
    assert!(seen[0] > 0 && seen[1] > 0 && seen[2..] == [0; 4], "{seen:?}");
}

#[actix::test]
async fn batch_keeps_the_properties_of_each_message_and_adds_none() {
    let bench = bench();
    let first = text(&[("UNIQ_KEY", "U1"), ("TAGS", "a")]);
    let body = batch_of(&[("one", &first), ("two", "")]);
    let prepared = bench.prepare(send("T").field("m", true).body(body)).unwrap();
    let messages = &prepared.send.messages;
    assert_eq!([&messages[0].body[..], &messages[1].body[..]], [b"one", b"two"]);
    assert_eq!((&messages[0].properties[..], messages[0].flag), (first.as_bytes(), 3));
    assert!(messages[1].properties.is_empty() && messages[1].extra_properties.is_empty());
    let SendReply::Client { unique_key, .. } = prepared.send.reply else { panic!("a client has sent it") };
    assert_eq!(unique_key.as_deref(), Some(&b"U1"[..]));
}

#[actix::test]
async fn batch_is_one_by_its_field_whatever_the_code() {
    let bench = bench();
    let mut builder = request(RequestCode::SEND_BATCH_MESSAGE).body(batch_of(&[("one", ""), ("two", "")]));
    for (name, value) in [("a", "pg"), ("b", "T"), ("e", "0"), ("f", "0"), ("g", "1"), ("h", "0")] {
        builder = builder.field(name, value);
    }
    assert_eq!(bench.messages(builder.clone()).len(), 1, "not said to be a batch");
    assert_eq!(bench.messages(builder.field("m", "true")).len(), 2);
}

#[actix::test]
async fn delayed_message_goes_to_the_queue_of_its_level_and_knows_its_own() {
    let bench = bench();
    for (level, queue) in [("1", 0), ("18", 17), ("99", 17)] {
        let request = send_to("T", 4).field("i", text(&[("DELAY", level), ("UNIQ_KEY", "U")]));
        let prepared = bench.prepare(request).unwrap();
        assert_eq!(&**prepared.entry.name(), names::SCHEDULE_TOPIC);
        assert_eq!(prepared.queue_id, QueueId(queue), "level {level}");
        let message = &prepared.send.messages[0];
        assert_eq!((&*message.topic, message.queue_id), (names::SCHEDULE_TOPIC, QueueId(queue)));
        let stored = stored_properties(message);
        assert_eq!((stored.get("REAL_TOPIC"), stored.get("REAL_QID")), (Some("T"), Some("4")));
        assert_eq!(stored.get("DELAY"), Some(level));
    }
    let at_once = bench.prepare(send("T").field("i", text(&[("DELAY", "0")]))).unwrap();
    assert_eq!(&**at_once.entry.name(), "T");
}

#[actix::test]
async fn transaction_becomes_a_half_message_that_knows_where_it_belongs() {
    let bench = bench();
    let pairs = [("TRAN_MSG", "true"), ("PGROUP", "pg"), ("UNIQ_KEY", "U1")];
    let half = send_to("T", 3).field("f", 4 | 1).field("i", text(&pairs));
    let prepared = bench.prepare(half).unwrap();
    assert_eq!((&**prepared.entry.name(), prepared.queue_id), (names::HALF_TOPIC, QueueId(0)));
    let SendReply::Client { queue_id, .. } = &prepared.send.reply else { panic!("a client has sent it") };
    assert_eq!(*queue_id, QueueId(3), "the client is told its own queue");
    let message = &prepared.send.messages[0];
    assert_eq!((&*message.topic, message.sys_flag), (names::HALF_TOPIC, 1), "the transaction bits are gone");
    let stored = stored_properties(message);
    let property = |name| stored.get(name).map(str::to_owned);
    assert_eq!(property("REAL_TOPIC").as_deref(), Some("T"));
    assert_eq!(property("REAL_QID").as_deref(), Some("3"));
    assert_eq!(property("__transactionId__").as_deref(), Some("U1"));
}

#[actix::test]
async fn message_that_was_consumed_begins_no_transaction_again() {
    let bench = bench();
    let pairs = [("TRAN_MSG", "true"), ("DELAY", "3")];
    let again = send("%RETRY%g").field("f", 4).field("j", 1).field("i", text(&pairs));
    let messages = bench.messages(again);
    assert_eq!((&*messages[0].topic, messages[0].sys_flag), (names::SCHEDULE_TOPIC, 0));
}

#[actix::test]
async fn message_for_later_is_stored_under_the_timer_topic_with_its_time() {
    let bench = bench();
    let asked = [("TIMER_DELAY_MS", "5000"), ("UNIQ_KEY", "U1"), ("TIMER_SETTLES", "1:2")];
    let prepared = bench.prepare(send_to("T", 3).field("i", text(&asked))).unwrap();
    assert_eq!((&**prepared.entry.name(), prepared.queue_id), (names::TIMER_TOPIC, QueueId(0)));
    let stored = stored_properties(&prepared.send.messages[0]);
    let due_ms: i64 = stored.get("TIMER_DUE_MS").unwrap().parse().unwrap();
    assert_eq!(due_ms - bench.received_at_ms(), 5_000);
    assert_eq!(stored.get("REAL_TOPIC"), Some("T"));
    assert_eq!(stored.get("REAL_QID"), Some("3"));
    assert_eq!(stored.get("TIMER_SETTLES"), None, "only the broker says that");
    let SendReply::Client { recall_handle, .. } = prepared.send.reply else { panic!("a client has sent it") };
    let handle = crate::protocol::timer::decode_handle(&recall_handle.unwrap()).unwrap();
    assert_eq!(handle, format!("v1 T  {due_ms} U1"));
}

#[actix::test]
async fn message_whose_time_has_come_is_an_ordinary_one() {
    let bench = bench();
    for asked in [vec![("TIMER_DELIVER_MS", "99")], vec![("TIMER_DELAY_MS", "5"), ("TIMER_OUT_MS", "1000")]] {
        let prepared = bench.prepare(send("T").field("i", text(&asked))).unwrap();
        assert_eq!(&**prepared.entry.name(), "T", "{asked:?}");
        let SendReply::Client { recall_handle, .. } = prepared.send.reply else {
            panic!("a client has sent it")
        };
        assert_eq!(recall_handle, None);
    }
}
