//! Transactions over the wire, and in a broker that is killed in the middle of them. After every crash:
//!
//! 1. A transaction whose commit was answered is there once, and one whose rollback was answered never.
//! 2. One that nobody decided is open: its producer is asked, and its answer settles it.
//! 3. One whose decision was not answered is settled as was decided, or open; never twice, never forgotten.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use telstar::client::{Call, ConnectOptions, RemotingConnection};
use telstar::protocol::body::heartbeat::{HeartbeatData, ProducerData};
use telstar::protocol::body::transactions::TransactionList;
use telstar::protocol::ext_fields::ExtFields;
use telstar::protocol::header::*;
use telstar::protocol::message_id::parse_offset_message_id;
use telstar::protocol::request_code::RequestCode;
use telstar::protocol::transaction::Decision;
use telstar::testing::Scenario;
use telstar::testing::calls::{end_transaction, send_to};

use crate::support::*;

const TOPIC: &str = "payments";
const COMMIT: i32 = 8;
const ROLLBACK: i32 = 12;
const ROUNDS: u64 = 8;
const WORKERS: u64 = 4;
const SETTINGS: [&str; 7] = [
    "store.commit_log_segment_bytes=131072",
    "message.max_body_bytes=65536",
    "store.check_point_interval_ms=100",
    "store.offsets_flush_interval_ms=50",
    "transaction.first_check_ms=200",
    "transaction.check_interval_ms=300",
    "transaction.check_max=1000000",
];
const KILL_POINTS: [&str; 7] = [
    "log.written",
    "log.published",
    "dispatcher.handed_over",
    "transactions.ending_stored",
    "transactions.op_stored",
    "transactions.kept",
    "check_point.saved",
];

fn half(key: &str) -> Send<'_> {
    Send::to(TOPIC, 0, format!("body of {key}"))
        .with("UNIQ_KEY", key)
        .with("TRAN_MSG", "true")
        .with("PGROUP", "pg")
}

fn end(half: &SendResponse, how: i32) -> Call {
    let (_, physical) = parse_offset_message_id(&half.msg_id).expect("an id of ours");
    end_at(half.queue_offset, physical.0 as i64, how, false)
}

fn end_at(half: i64, physical: i64, how: i32, from_check: bool) -> Call {
    let header = EndTransactionHeader {
        producer_group: "pg".into(),
        tran_state_table_offset: half,
        commit_log_offset: physical,
        commit_or_rollback: how,
        from_transaction_check: from_check,
        msg_id: None,
        transaction_id: None,
        topic: None,
    };
    Call::new(RequestCode::END_TRANSACTION).header(&header)
}

async fn open_transactions(client: &Client) -> TransactionList {
    let header = ListTransactionsHeader {
        from: 0,
        group: None,
        topic: None,
        transaction_id: None,
        min_age_ms: 0,
        max: 1000,
    };
    client.call(Call::new(RequestCode::LIST_TRANSACTIONS).header(&header)).await.json().unwrap()
}

/// A producer of group `pg` that decides when it is asked.
async fn producer(broker: &Broker) -> Client {
    let (asked, mut questions) = tokio::sync::mpsc::unbounded_channel::<ExtFields>();
    let on_request = move |request: telstar::client::ServerRequest| {
        if request.command.head.code == RequestCode::CHECK_TRANSACTION_STATE.as_i32() {
            let _ = asked.send(request.command.fields);
        }
    };
    let options = ConnectOptions { on_request: Some(Arc::new(on_request)), ..ConnectOptions::default() };
    let connection = RemotingConnection::connect(&broker.broker, &options).await.unwrap();
    let client = Client { connection };
    let beat = HeartbeatData {
        client_id: "c".into(),
        producer_data_set: vec![ProducerData { group_name: "pg".into() }],
        ..HeartbeatData::default()
    };
    client.call(Call::new(RequestCode::HEART_BEAT).body(serde_json::to_vec(&beat).unwrap())).await;
    let answers = client.clone();
    tokio::spawn(async move {
        while let Some(question) = questions.recv().await {
            let number = |name| question.get(name).and_then(|text| text.parse().ok()).expect("a number");
            let how = decision(question.get("transactionId").expect("a unique key"));
            let (half, physical) = (number("tranStateTableOffset"), number("commitLogOffset"));
            // What is lost is asked for again.
            let _ = answers.connection.one_way(end_at(half, physical, how, true)).await;
        }
    });
    client
}

#[tokio::test]
async fn consumers_see_what_is_committed_and_nothing_else() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let client = broker.client().await;
    client.create_topic(TOPIC, 2).await;
    let (committed, rolled_back) = (client.send(half("C")).await, client.send(half("R")).await);
    let left_open = client.send(half("O")).await;
    assert_eq!((committed.queue_id, committed.queue_offset, left_open.queue_offset), (0, 0, 2));
    assert_eq!(committed.transaction_id.as_deref(), Some("C"));
    for (sent, how) in [(&committed, COMMIT), (&rolled_back, ROLLBACK), (&left_open, 0), (&committed, COMMIT)]
    {
        client.call(end(sent, how)).await.success().unwrap();
    }
    let (code, remark) = client.refused(end(&committed, ROLLBACK)).await;
    assert_eq!(code, 604, "{remark}");
    let messages = client.pull_all(TOPIC, 0, 1).await;
    assert_eq!(messages[0].body, "body of C");
    // As Apache RocketMQ 5.5 shows it to mqadmin; older brokers kept where it was to go.
    assert_eq!(property(&messages[0], "REAL_TOPIC"), None);

    let at = ["--name-server", &broker.name_server];
    let listed = run_words(&["tx", "list", "-o", "json", at[0], at[1]]);
    let listed: serde_json::Value = serde_json::from_str(&listed.1).unwrap();
    assert_eq!(listed[0]["transactionId"], "O");
    let (status, shown, _) = run_words(&["tx", "show", "O", at[0], at[1]]);
    assert!(status == 0 && shown.contains("waits for"), "{shown}");
    let (status, _, refused) = run_words(&["tx", "commit", "R", at[0], at[1]]);
    assert!(status == 1 && refused.contains("no open transaction R"), "{refused}");
    let (status, done, refused) = run_words(&["tx", "commit", "2", at[0], at[1]]);
    assert!(status == 0 && done.contains("committed"), "{done}{refused}");
    assert_eq!(client.pull_all(TOPIC, 0, 2).await[1].body, "body of O");
    assert_eq!(open_transactions(&client).await.open, 0);

    // Nobody remembers after a restart, and the log tells.
    assert!(broker.stop().success());
    let broker = Broker::start(dir.path(), &[]).await;
    let client = broker.client().await;
    for (sent, first, other) in [(&committed, COMMIT, ROLLBACK), (&rolled_back, ROLLBACK, COMMIT)] {
        client.call(end(sent, first)).await.success().unwrap();
        let (code, remark) = client.refused(end(sent, other)).await;
        assert_eq!(code, 604, "{remark}");
    }
    assert_eq!(client.pull_all(TOPIC, 0, 2).await.len(), 2);
}

/// What the test knows of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// The half may not be stored at all.
    Begun,
    Open,
    /// The decision was answered.
    Decided,
}

type Fates = Arc<Mutex<HashMap<String, Fate>>>;

/// Begins and ends transactions until the broker is gone. Every third is left to the check.
async fn load(client: Client, round: u64, worker: u64, fates: Fates) {
    let note = |key: &str, fate| {
        fates.lock().unwrap().insert(key.to_owned(), fate);
    };
    for n in 0.. {
        let key = format!("r{round}-w{worker}-n{n}");
        note(&key, Fate::Begun);
        let Ok(answer) = client.connection.call(half(&key).call(), PATIENCE).await else { return };
        let stored: SendResponse = answer.success().expect("it is stored").header().unwrap();
        note(&key, Fate::Open);
        if n % 3 == 0 {
            continue;
        }
        let Ok(answer) = client.connection.call(end(&stored, decision(&key)), PATIENCE).await else { return };
        answer.success().expect("it is decided once and for all");
        note(&key, Fate::Decided);
    }
}

/// How the transaction of a key ends, whoever is asked and whenever.
fn decision(key: &str) -> i32 {
    let number: u64 = key.rsplit('n').next().and_then(|text| text.parse().ok()).expect("it ends so");
    if number.is_multiple_of(2) { COMMIT } else { ROLLBACK }
}

/// `CRASH_ROUNDS=1000 cargo test --test whole killed` kills it more often.
#[tokio::test]
async fn every_transaction_settles_once_in_a_broker_that_is_killed() {
    for (first, flush_mode) in crashed_stores(ROUNDS) {
        settle_one_store(first, flush_mode).await;
    }
}

async fn settle_one_store(first: u64, flush_mode: &str) {
    let dir = temp_dir();
    let settings = [&SETTINGS[..], &[flush_mode]].concat();
    let fates = Fates::default();
    for round in 0..ROUNDS {
        let kill_point = kill_point(&KILL_POINTS, first + round);
        let kill_point = kill_point.as_deref();
        println!("round {round}, {flush_mode}, {kill_point:?}");
        let Ok(broker) = Broker::start_doomed(dir.path(), &settings, kill_point).await else { continue };
        let Some(client) = broker.try_client().await else { continue };
        if round == 0 {
            client.create_topic(TOPIC, 1).await;
        }
        let workers = (0..WORKERS).map(|worker| {
            let load = load(client.clone(), round, worker, fates.clone());
            tokio::spawn(load)
        });
        let workers: Vec<_> = workers.collect();
        // In every fourth life questions are answered meanwhile.
        let _producer = match kill_point {
            Some(_) => None,
            None => Some(producer(&broker).await),
        };
        match kill_point {
            Some(_) => broker.ended_within(Duration::from_secs(2)).await,
            None => tokio::time::sleep(Duration::from_millis(700)).await, // its life is so long
        }
        broker.kill();
        join_all(workers).await;
    }

    let broker = Broker::start(dir.path(), &settings).await;
    let client = producer(&broker).await;
    let settled = async {
        while open_transactions(&client).await.open > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, settled).await.expect("producers are asked, and their answers settle all");

    // What lies before it in the log is to be seen when it is.
    let last = client.send(Send::to(TOPIC, 0, "last").with("UNIQ_KEY", "last")).await;
    let messages = client.pull_all(TOPIC, 0, last.queue_offset as usize + 1).await;
    let mut seen = HashSet::new();
    for message in &messages {
        let key = property(message, "UNIQ_KEY").expect("all have one").to_owned();
        assert!(seen.insert(key.clone()), "{key} is there twice");
    }
    let fates = fates.lock().unwrap();
    for (key, fate) in fates.iter() {
        let is_there = seen.contains(key);
        match fate {
            Fate::Begun => assert!(!is_there || decision(key) == COMMIT, "{key}"),
            Fate::Open | Fate::Decided => assert_eq!(is_there, decision(key) == COMMIT, "{key}: {fate:?}"),
        }
    }
    let answered = fates.values().filter(|fate| **fate == Fate::Decided).count();
    println!("{} transactions, {answered} decided by their producers in time", fates.len());
    assert!(answered > 50, "it got something done");
}

#[actix::test]
async fn half_is_asked_for_in_time_when_the_one_before_it_has_ended() {
    let scene = Scenario::begin().await;
    let broker = scene.apart().broker("broker").topic("orders", 1).start().await;
    let mut shop = broker.client("shop");
    shop.produces("shops").await;
    let first = shop.succeed(send_to("orders", 0, "pay 7").half("shops")).await;
    scene.pass(Duration::from_secs(1)).await;
    shop.succeed(send_to("orders", 0, "pay 8").half("shops")).await;
    scene.pass(Duration::from_secs(1)).await;
    shop.succeed(end_transaction("shops", &first, Decision::Commit)).await;
    for _ in 0..2 {
        assert_eq!(shop.asked().await.code, RequestCode::CHECK_TRANSACTION_STATE);
        scene.note("asked");
    }
    scene.expect(
        "00:00:07.000 -- asked
         00:00:37.000 -- asked",
    );
}
