//! Messages in and out: what is stored, what is refused and why, who waits and how long.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes};
use telstar::client::Call;
use telstar::protocol::body::lock::{LockBatchRequestBody, LockBatchResponseBody};
use telstar::protocol::fastjson;
use telstar::protocol::frame::HeaderCodec;
use telstar::protocol::header::*;
use telstar::protocol::request_code::RequestCode;
use telstar::protocol::response_code::ResponseCode;
use telstar::types::MessageQueue;

use crate::support::*;

#[tokio::test]
async fn what_is_sent_is_pulled_byte_for_byte() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let json = broker.client().await;
    let binary = Client::connect(&broker.broker, HeaderCodec::Binary).await;
    json.create_topic("orders", 2).await;
    let bodies: Vec<Bytes> = vec![
        Bytes::from_static(b"x"),
        (0..=255u8).collect(),
        "über 消息 🚀".into(),
        Bytes::from(vec![0; 70_000]),
        Bytes::from(vec![0xFF; 1024 * 1024]),
    ];
    for (n, body) in bodies.iter().enumerate() {
        let client = if n % 2 == 0 { &json } else { &binary };
        let send = Send::to("orders", 1, body.clone()).with("KEYS", "k1 k2").with("farbe", "grün \"\\");
        let stored = client.send(send.with("UNIQ_KEY", &format!("U{n}"))).await;
        assert_eq!((stored.queue_id, stored.queue_offset), (1, n as i64));
        assert_eq!(stored.transaction_id, Some(format!("U{n}")));
    }
    for client in [&json, &binary] {
        let messages = client.pull_all("orders", 1, bodies.len()).await;
        assert_eq!(messages.iter().map(|message| message.body.clone()).collect::<Vec<_>>(), bodies);
        for (n, message) in messages.iter().enumerate() {
            assert_eq!(
                (&*message.topic, message.queue_id.0, message.queue_offset.0),
                ("orders", 1, n as u64)
            );
            assert_eq!((message.flag, message.born_at_ms), (7, 1_700_000_000_000));
            assert_eq!(property(message, "farbe"), Some("grün \"\\"));
            assert_eq!(property(message, "UNIQ_KEY"), Some(format!("U{n}").as_str()));
        }
    }
    assert!(json.pull_all("orders", 0, 0).await.is_empty());
    // By key, and by the id that the send was answered with.
    let stored = json.send(Send::to("orders", 0, "last").with("KEYS", "k3")).await;
    let view = Call::new(RequestCode::VIEW_MESSAGE_BY_ID);
    let (_, physical) = telstar::protocol::message_id::parse_offset_message_id(&stored.msg_id).unwrap();
    let record = json.call(view.header(&ViewMessage { offset: physical.0 as i64 })).await.success().unwrap();
    let found = telstar::protocol::message::StoredMessage::decode(&record.body).unwrap();
    assert_eq!((&found.body[..], found.queue_id.0), (&b"last"[..], 0));
    assert_eq!(until(|| json.find_by_key("orders", "k3"), 1).await[0].body, "last");
    assert_eq!(until(|| json.find_by_key("orders", "k1"), 5).await.len(), 5);
}

#[tokio::test]
async fn what_is_on_disk_is_seen_by_consumers_at_once() {
    let dir = temp_dir();
    // No timer flushes here, or has the dispatcher look again.
    let settings = [
        "threads.arbiters=1",
        "store.flush_mode=sync",
        "store.flush_interval_ms=60000",
        "store.check_point_interval_ms=60000",
    ];
    let broker = Broker::start(dir.path(), &settings).await;
    let client = broker.client().await;
    client.create_topic("orders", 1).await;
    for n in 0..20 {
        client.send(Send::to("orders", 0, format!("lone {n}"))).await;
    }
    assert_eq!(client.pull_all("orders", 0, 20).await.len(), 20);
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(broker.client().await);
    }
    for turn in 1..=10 {
        futures::future::join_all(others.iter().map(|other| other.send(Send::to("orders", 0, "x")))).await;
        assert_eq!(client.pull_all("orders", 0, 20 + turn * 20).await.len(), 20 + turn * 20);
    }
}

/// Asks until there are `count`: the index follows the log a moment later.
async fn until<T, F: Future<Output = Vec<T>>>(mut ask: impl FnMut() -> F, count: usize) -> Vec<T> {
    let begun = Instant::now();
    loop {
        let found = ask().await;
        if found.len() >= count || begun.elapsed() > PATIENCE {
            assert_eq!(found.len(), count);
            return found;
        }
        tokio::task::yield_now().await;
    }
}

fn batch_body(bodies: &[&str]) -> Bytes {
    let mut batch = Vec::new();
    for body in bodies {
        let properties = format!("UNIQ_KEY\u{1}{body}\u{2}");
        batch.put_i32((22 + body.len() + properties.len()) as i32);
        batch.put_i64(0);
        batch.put_i32(3);
        batch.put_i32(body.len() as i32);
        batch.put_slice(body.as_bytes());
        batch.put_i16(properties.len() as i16);
        batch.put_slice(properties.as_bytes());
    }
    batch.into()
}

#[tokio::test]
async fn messages_of_a_batch_lie_one_behind_the_other() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let client = broker.client().await;
    client.create_topic("orders", 1).await;
    client.send(Send::to("orders", 0, "before")).await;
    let batch = Send { batch: true, ..Send::to("orders", 0, batch_body(&["a", "bb", "ccc"])) };
    let stored = client.send(batch).await;
    assert_eq!((stored.queue_offset, stored.msg_id.split(',').count()), (1, 3));
    let messages = client.pull_all("orders", 0, 4).await;
    let bodies: Vec<_> = messages.iter().map(|message| &message.body[..]).collect();
    assert_eq!(bodies, [&b"before"[..], b"a", b"bb", b"ccc"]);
    assert_eq!((messages[3].flag, property(&messages[3], "UNIQ_KEY")), (3, Some("ccc")));

    // All or nothing.
    let whole = batch_body(&["a", "bb"]);
    let cut = Send { batch: true, ..Send::to("orders", 0, whole.slice(..whole.len() - 1)) };
    let (code, remark) = client.refused(cut.call()).await;
    assert_eq!(code, 13);
    assert!(remark.contains("batch entry 1"), "{remark}");
    assert_eq!(client.offset_of(RequestCode::GET_MAX_OFFSET, "orders", 0).await, 4);
}

#[tokio::test]
async fn one_way_sends_are_stored_and_not_answered() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let client = broker.client().await;
    client.create_topic("orders", 1).await;
    let mut raw = RawConnection::connect(&broker.broker).await;
    let one_way = br#"{"code":310,"flag":2,"opaque":1,"extFields":{"a":"pg","b":"orders","e":"0"}}"#;
    raw.write(&frame(0, one_way, b"one way")).await;
    // Nor is one that is refused.
    let refused = br#"{"code":310,"flag":2,"opaque":2,"extFields":{"a":"pg","b":"orders","e":"99"}}"#;
    raw.write(&frame(0, refused, b"one way")).await;
    let answer =
        raw.ask(r#"{"code":310,"opaque":3,"extFields":{"a":"pg","b":"orders","e":"0"}}"#, b"two way").await;
    assert_eq!((answer.head.opaque, answer.fields.get("queueOffset")), (3, Some("1")));
    let messages = client.pull_all("orders", 0, 2).await;
    assert_eq!(
        messages.iter().map(|message| &message.body[..]).collect::<Vec<_>>(),
        [&b"one way"[..], b"two way"]
    );
}

#[tokio::test]
async fn the_first_send_creates_its_topic() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let client = broker.client().await;
    let stored = client.send(Send::to("fresh", 3, "x")).await;
    assert_eq!((stored.queue_id, stored.queue_offset), (3, 0));
    let name_server = Client::connect(&broker.name_server, HeaderCodec::Json).await;
    let route = Call::new(RequestCode::GET_ROUTEINFO_BY_TOPIC).field("topic", "fresh");
    let route: telstar::protocol::body::route::TopicRouteData =
        name_server.call(route).await.success().expect("clients ask at once").json().unwrap();
    assert_eq!(route.queue_datas[0].write_queue_nums, 4, "what the client asked for");
}

#[tokio::test]
async fn without_auto_create_an_unknown_topic_is_refused_with_its_cause() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &["broker.auto_create_topics=false"]).await;
    let client = broker.client().await;
    for topic in ["orders", "prod%invoices"] {
        client.create_topic(topic, 1).await;
    }
    let causes = [
        ("Orders", "There is orders; case matters"),
        ("invoices", "set the namespace prod in the client"),
        ("test%orders", "There is orders without the namespace test"),
        ("ordesr", "Did you mean orders?"),
        ("payments", "autoCreateTopicEnable is off. Create it: telstar topic create"),
    ];
    for (topic, cause) in causes {
        let (code, remark) = client.refused(Send::to(topic, 0, "x").call()).await;
        assert_eq!(code, 17, "{topic}: {remark}");
        assert!(remark.contains(&format!("topic[{topic}] not exist")) && remark.contains(cause), "{remark}");
        let (code, remark) =
            client.refused(Call::new(RequestCode::PULL_MESSAGE).header(&pull_from(topic, 0, 0))).await;
        assert!(code == 17 && remark.contains(cause), "{remark}");
    }
    // A retry topic is made by what goes to it, but not by looking for it.
    let (code, remark) =
        client.refused(Call::new(RequestCode::PULL_MESSAGE).header(&pull_from("%RETRY%cg", 0, 0))).await;
    assert!(code == 17 && remark.contains("made when its group subscribes"), "{code} {remark}");
    // And the name server says why there is no route.
    let name_server = Client::connect(&broker.name_server, HeaderCodec::Json).await;
    let route = |topic: &str| Call::new(RequestCode::GET_ROUTEINFO_BY_TOPIC).field("topic", topic.to_owned());
    let (code, remark) = name_server.refused(route("ordesr")).await;
    assert_eq!(code, 17);
    assert!(remark.starts_with("No topic route info in name server for the topic: ordesr"), "{remark}");
    assert!(remark.contains("sending does not create it") && remark.contains("orders"), "{remark}");
}

#[tokio::test]
async fn limits_of_a_message_are_kept_and_told() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let client = broker.client().await;
    client.create_topic("orders", 4).await;
    let limit = 4 * 1024 * 1024;
    assert_eq!(client.send(Send::to("orders", 0, vec![b'x'; limit])).await.queue_offset, 0);
    let refusals = [
        (Send::to("orders", 0, vec![b'x'; limit + 1]), 13, "4194305 bytes, the limit is 4194304"),
        (Send::to("orders", 0, ""), 13, "the body is empty"),
        (Send::to("orders", 0, "x").with("long", &"p".repeat(32_767)), 13, "the limit is 32767"),
        (Send::to("orders", 4, "x"), 29, "topic orders has 4 queues, use 0 to 3"),
        (Send::to("orders", i32::MAX, "x"), 29, "queueId 2147483647 is illegal"),
        (Send::to("or ders", 0, "x"), 29, "or ders"),
        (Send::to("", 0, "x"), 29, "topic is blank"),
        (Send::to("SCHEDULE_TOPIC_XXXX", 0, "x"), 16, "SCHEDULE_TOPIC_XXXX"),
    ];
    for (send, expected, why) in refusals {
        let (code, remark) = client.refused(send.call()).await;
        assert_eq!(code, expected, "{remark}");
        assert!(remark.contains(why), "{why}: {remark}");
    }
    // What just fits does fit: 32,767 bytes with all that the broker adds.
    let added: usize = {
        let stored = client.send(Send::to("orders", 1, "x").with("UNIQ_KEY", "U").with("p", "p")).await;
        assert_eq!(stored.queue_offset, 0);
        let message = client.pull_all("orders", 1, 1).await.remove(0);
        message.properties.len() - 1
    };
    let fits = "p".repeat(32_767 - added);
    assert_eq!(
        client.send(Send::to("orders", 1, "x").with("UNIQ_KEY", "U").with("p", &fits)).await.queue_offset,
        1
    );
    let over = Send::to("orders", 1, "x").with("UNIQ_KEY", "U").with("p", &(fits + "p"));
    assert_eq!(client.refused(over.call()).await.0, 13);
    // A negative queue id leaves the choice to the broker.
    let queues: Vec<i32> = {
        let mut queues = Vec::new();
        for _ in 0..4 {
            queues.push(client.send(Send::to("orders", -1, "x")).await.queue_id);
        }
        queues.sort_unstable();
        queues
    };
    assert_eq!(queues, [0, 1, 2, 3]);
}

/// Entries of a batch are shorter than the records that are made of them, which lie in one file of the log.
#[tokio::test]
async fn a_batch_whose_records_do_not_fit_a_file_of_the_log_is_refused_as_a_whole() {
    let dir = temp_dir();
    let settings = ["store.commit_log_segment_bytes=131072", "message.max_body_bytes=65536"];
    let broker = Broker::start(dir.path(), &settings).await;
    let client = broker.client().await;
    client.create_topic("orders", 1).await;
    let names: Vec<String> = (0..1_500).map(|n| format!("m{n}")).collect();
    let body = batch_body(&names.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(body.len() < 65_536 && names.len() * 91 > 131_072);
    let (code, remark) = client.refused(Send { batch: true, ..Send::to("orders", 0, body) }.call()).await;
    assert_eq!(code, 13);
    assert!(remark.contains("does not fit a segment"), "{remark}");
    let body = batch_body(&names[..1_000].iter().map(String::as_str).collect::<Vec<_>>());
    let stored = client.send(Send { batch: true, ..Send::to("orders", 0, body) }).await;
    assert_eq!((stored.queue_offset, stored.msg_id.split(',').count()), (0, 1_000));
    // The largest messages lie in a file each.
    for n in 1_000..1_003 {
        assert_eq!(client.send(Send::to("orders", 0, vec![b'x'; 65_536])).await.queue_offset, n);
    }
    let messages = client.pull_all("orders", 0, 1_003).await;
    assert_eq!(
        messages[..1_000].iter().map(|message| message.body.clone()).collect::<Vec<_>>(),
        names[..1_000]
    );
    assert_eq!(messages.len(), 1_003);
}

#[tokio::test]
async fn the_first_pull_of_a_new_group_is_served() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let client = broker.client().await;
    client.create_topic("orders", 1).await;
    for n in 0..50 {
        let header =
            PullHeader { consumer_group: format!("cg{n}").as_str().into(), ..pull_from("orders", 0, 0) };
        let answer = client.call(Call::new(RequestCode::PULL_MESSAGE).header(&header)).await;
        assert_eq!(answer.code, ResponseCode::PULL_NOT_FOUND, "{:?}", answer.remark);
    }
}

#[tokio::test]
async fn a_held_pull_is_answered_by_the_next_message_or_at_its_time() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let (consumer, producer) = (broker.client().await, broker.client().await);
    producer.create_topic("orders", 2).await;
    producer.send(Send::to("orders", 1, "warm")).await;
    let held = |queue_id, offset, suspend_timeout_ms| PullHeader {
        sys_flag: PULL_SUBSCRIPTION | PULL_SUSPEND,
        suspend_timeout_ms,
        ..pull_from("orders", queue_id, offset)
    };
    let mut quickest = Duration::MAX;
    for n in 0..3 {
        let waiting = held(0, n, 15_000);
        let pull = async { (consumer.pull(&waiting).await, Instant::now()) };
        let send = async {
            // Answered behind the pull on the same connection, so that the pull is held by now.
            consumer.offset_of(RequestCode::GET_MAX_OFFSET, "orders", 0).await;
            producer.send(Send::to("orders", 0, "wake")).await;
            Instant::now()
        };
        let ((pulled, woken), sent) = tokio::join!(pull, send);
        assert_eq!((pulled.code.as_i32(), pulled.messages.len()), (0, 1));
        quickest = quickest.min(woken.saturating_duration_since(sent));
    }
    assert!(quickest < Duration::from_millis(200), "woken after {quickest:?}");

    // Messages elsewhere wake nobody; what the time brings is 19, not before it.
    let begun = Instant::now();
    let waiting = held(0, 3, 600);
    let (pulled, _) =
        tokio::join!(consumer.pull(&waiting), producer.send(Send::to("orders", 1, "elsewhere")));
    assert_eq!(pulled.code, ResponseCode::PULL_NOT_FOUND);
    assert!((0.55..3.0).contains(&begun.elapsed().as_secs_f64()), "{:?}", begun.elapsed());
    assert_eq!(pulled.header.next_begin_offset, 3);
}

#[tokio::test]
async fn a_pull_that_finds_nothing_says_where_to_go_on() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let client = broker.client().await;
    client.create_topic("orders", 2).await;
    for _ in 0..5 {
        client.send(Send::to("orders", 0, "x").with("TAGS", "a")).await;
    }
    client.pull_all("orders", 0, 5).await;
    // (queue, offset, tags) to (code, next)
    let outcomes = [
        (0, 5, "*", 19, 5),
        (0, 6, "*", 21, 5),
        (0, i64::MAX, "*", 21, 5),
        (0, -1, "*", 21, 0),
        (0, 0, "b", 20, 5),
        (0, 3, "b || c", 20, 5),
        (1, 0, "*", 19, 0),
        (1, 7, "*", 21, 0),
    ];
    for (queue_id, offset, tags, code, next) in outcomes {
        let pull = PullHeader { subscription: Some(tags.into()), ..pull_from("orders", queue_id, offset) };
        let pulled = client.pull(&pull).await;
        let found = (pulled.code.as_i32(), pulled.header.next_begin_offset);
        assert_eq!(found, (code, next), "queue {queue_id} from {offset} for {tags}");
        let ends = if queue_id == 0 { (0, 5) } else { (0, 0) };
        assert_eq!((pulled.header.min_offset, pulled.header.max_offset), ends);
    }
    let pulled = client.pull(&PullHeader { max_msg_nums: 2, ..pull_from("orders", 0, 1) }).await;
    assert_eq!((pulled.messages.len(), pulled.header.next_begin_offset), (2, 3));
    let illegal = [(2, 29), (-1, 29)];
    for (queue_id, code) in illegal {
        let pull = Call::new(RequestCode::PULL_MESSAGE).header(&pull_from("orders", queue_id, 0));
        assert_eq!(client.refused(pull).await.0, code, "queue {queue_id}");
    }
    let unknown = PullHeader { sys_flag: 0, ..pull_from("orders", 0, 0) };
    assert_eq!(client.refused(Call::new(RequestCode::PULL_MESSAGE).header(&unknown)).await.0, 24);
}

#[tokio::test]
async fn the_offset_that_a_pull_commits_is_there_for_the_next_question() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let client = broker.client().await;
    client.create_topic("orders", 1).await;
    for _ in 0..5 {
        client.send(Send::to("orders", 0, "x")).await;
    }
    client.pull_all("orders", 0, 5).await;
    let committing = |commit_offset| PullHeader {
        sys_flag: PULL_SUBSCRIPTION | PULL_COMMIT_OFFSET,
        commit_offset,
        ..pull_from("orders", 0, 5)
    };
    client.pull(&committing(3)).await;
    assert_eq!(client.consumer_offset("orders", 0).await, Some(3));
    // Without the bit the number says nothing.
    client.pull(&PullHeader { commit_offset: 4, ..pull_from("orders", 0, 5) }).await;
    assert_eq!(client.consumer_offset("orders", 0).await, Some(3));
    let update = UpdateConsumerOffset {
        consumer_group: "cg".into(),
        topic: "orders".into(),
        queue_id: Some(0),
        commit_offset: Some(5),
    };
    client.call(Call::new(RequestCode::UPDATE_CONSUMER_OFFSET).header(&update)).await.success().unwrap();
    assert_eq!(client.consumer_offset("orders", 0).await, Some(5));
}

#[tokio::test]
async fn a_queue_is_locked_for_one_client_until_it_lets_go() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let (one, two) = (broker.client().await, broker.client().await);
    one.create_topic("orders", 2).await;
    let queue = |queue_id| MessageQueue { broker_name: "broker-a".into(), queue_id, topic: "orders".into() };
    let request = |code, client_id: &str, queues: &[i32]| {
        let body = LockBatchRequestBody {
            client_id: client_id.into(),
            consumer_group: "cg".into(),
            mq_set: queues.iter().map(|id| queue(*id)).collect(),
            only_this_broker: false,
        };
        Call::new(code).body(fastjson::to_vec(&body).unwrap())
    };
    let locked = |answer: telstar::client::Response| {
        let body: LockBatchResponseBody = answer.success().unwrap().json().unwrap();
        let mut ids: Vec<i32> = body.lock_ok_mq_set.iter().map(|queue| queue.queue_id).collect();
        ids.sort_unstable();
        ids
    };
    let lock = |client_id, queues| request(RequestCode::LOCK_BATCH_MQ, client_id, queues);
    assert_eq!(locked(one.call(lock("one", &[0, 1])).await), [0, 1]);
    assert_eq!(locked(one.call(lock("one", &[0])).await), [0], "again is no conflict");
    assert_eq!(locked(two.call(lock("two", &[0, 1])).await), [0_i32; 0]);
    one.call(request(RequestCode::UNLOCK_BATCH_MQ, "one", &[1])).await.success().unwrap();
    assert_eq!(locked(two.call(lock("two", &[0, 1])).await), [1]);
    // Nobody opens the lock of another.
    two.call(request(RequestCode::UNLOCK_BATCH_MQ, "two", &[0])).await.success().unwrap();
    assert_eq!(locked(two.call(lock("two", &[0])).await), [0_i32; 0]);
}
