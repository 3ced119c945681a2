//! Starting, stopping, and what stands in the way of either.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use telstar::client::{Call, ConnectOptions, Servers};
use telstar::protocol::header::*;
use telstar::protocol::request_code::RequestCode;

use crate::support::*;

#[tokio::test]
async fn a_second_process_on_the_same_directory_is_told_who_has_it() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let data = dir.path().join("data");
    let (status, _, error) = run(&start_args(&data, &[]));
    assert_eq!(status, 5, "{error}");
    let sentence = format!(
        "telstar: data directory {} is in use by process {}; stop it, or choose another with --data-dir\n",
        data.display(),
        broker.pid()
    );
    assert_eq!(error.lines().last().map(|line| format!("{line}\n")), Some(sentence));
    // The first has not noticed, and a third elsewhere is nobody's business.
    let elsewhere = temp_dir();
    let other = Broker::start(elsewhere.path(), &[]).await;
    assert_eq!(broker.client().await.send(Send::to("orders", 0, "x")).await.queue_offset, 0);
    assert_eq!(other.client().await.send(Send::to("orders", 0, "x")).await.queue_offset, 0);
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let dir = temp_dir();
    for (flag, option) in [("broker.listen", "--listen"), ("name_server.listen", "--name-server-listen")] {
        let mut args = start_args(&dir.path().join("data"), &[]);
        let at = args.iter().position(|word| word == option).expect("the harness sets it");
        args[at + 1] = addr.to_string();
        let (status, _, error) = run(&args);
        assert_eq!(status, 4, "{flag}: {error}");
        let sentence = error.lines().last().unwrap_or_default();
        assert_eq!(
            sentence,
            format!(
                "telstar: port {} is in use by another process; stop it, or choose another with {option}",
                addr.port()
            )
        );
    }
    assert!(!dir.path().join("data").exists(), "no file is touched before the ports are had");
}

#[test]
fn settings_that_make_no_sense_are_refused_by_name() {
    let dir = temp_dir();
    let data = dir.path().join("data");
    let file = dir.path().join("telstar.toml");
    std::fs::write(&file, "[broker]\nnmae = \"x\"\n").unwrap();
    let config = ["start".to_owned(), "--config".to_owned(), file.to_str().unwrap().to_owned()];
    let cases = [
        (start_args(&data, &["tls.mode=required"]), "tls.mode"),
        (start_args(&data, &["store.commit_log_segment_bytes=1"]), "store.commit_log_segment_bytes"),
        (start_args(&data, &["broker.no_such_key=1"]), "no_such_key"),
        (start_args(&data, &["broker.listen"]), "broker.listen"),
        (config.to_vec(), "nmae"),
    ];
    for (args, named) in cases {
        let (status, _, error) = run(&args);
        assert_eq!(status, 3, "{error}");
        assert!(
            error.lines().count() == 1 && error.starts_with("telstar: ") && error.contains(named),
            "{error}"
        );
    }
    assert!(!data.exists(), "no file is touched");
}

#[tokio::test]
async fn files_written_with_another_size_are_not_opened() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    broker.client().await.send(Send::to("orders", 0, "x").with("KEYS", "k")).await;
    assert!(broker.stop().success());
    let data = dir.path().join("data");
    let others = [
        ("store.commit_log_segment_bytes", "8388608"),
        ("store.index_slots", "1001"),
        ("store.index_entries", "4001"),
    ];
    for (key, other) in others {
        println!("{key}");
        let (status, _, error) = run(&start_args(&data, &[&format!("{key}={other}")]));
        assert_eq!(status, 10, "{key}: {error}");
        let sentence = error.lines().last().unwrap_or_default();
        assert!(sentence.contains(key) && sentence.contains("set "), "{sentence}");
    }
    // And none of that did any harm.
    let broker = Broker::start(dir.path(), &[]).await;
    assert_eq!(broker.client().await.pull_all("orders", 0, 0).await.len(), 1);
}

#[tokio::test]
async fn what_was_there_before_a_stop_is_there_after_it() {
    let dir = temp_dir();
    let mut broker = Broker::start(dir.path(), &[]).await;
    for round in 0..3 {
        let client = broker.client().await;
        if round == 0 {
            client.create_topic("orders", 2).await;
        }
        for queue_id in 0..2 {
            for n in 0..300 {
                let key = format!("k{round}-{queue_id}-{n}");
                let stored = client.send(Send::to("orders", queue_id, key.clone()).with("KEYS", &key)).await;
                assert_eq!(stored.queue_offset, round * 300 + n);
            }
            client.pull(&pull_from("orders", queue_id, 0)).await; // the group is there from its first request on
            let update = UpdateConsumerOffset {
                consumer_group: "cg".into(),
                topic: "orders".into(),
                queue_id: Some(queue_id),
                commit_offset: Some(round * 300 + 7),
            };
            client
                .call(Call::new(RequestCode::UPDATE_CONSUMER_OFFSET).header(&update))
                .await
                .success()
                .unwrap();
        }
        let status = broker.stop();
        assert_eq!(status.code(), Some(0), "a stop is no failure");

        broker = Broker::start(dir.path(), &[]).await;
        let client = broker.client().await;
        for queue_id in 0..2 {
            let messages = client.pull_all("orders", queue_id, 0).await;
            assert_eq!(messages.len() as i64, (round + 1) * 300);
            for (n, message) in messages.iter().enumerate() {
                let expected = format!("k{}-{queue_id}-{}", n / 300, n % 300);
                assert_eq!((message.queue_offset.0, &message.body[..]), (n as u64, expected.as_bytes()));
            }
            assert_eq!(client.consumer_offset("orders", queue_id).await, Some(round * 300 + 7));
            let key = format!("k{round}-{queue_id}-299");
            assert_eq!(client.find_by_key("orders", &key).await.len(), 1, "{key}");
        }
    }
    let log = broker.logged();
    assert!(!log.contains(" ERROR "), "{log}");
}

#[tokio::test]
async fn a_stop_answers_those_who_wait() {
    let dir = temp_dir();
    let mut broker = Broker::start(dir.path(), &[]).await;
    let client = broker.client().await;
    client.create_topic("orders", 1).await;
    let held = PullHeader {
        sys_flag: PULL_SUBSCRIPTION | PULL_SUSPEND,
        suspend_timeout_ms: 15_000,
        ..pull_from("orders", 0, 0)
    };
    let pull = client.connection.call(Call::new(RequestCode::PULL_MESSAGE).header(&held), PATIENCE);
    let stop = async {
        client.offset_of(RequestCode::GET_MAX_OFFSET, "orders", 0).await;
        let begun = Instant::now();
        broker.signal(Signal::TERM);
        begun
    };
    let (pulled, begun) = tokio::join!(pull, stop);
    assert!(begun.elapsed() < Duration::from_secs(5), "{pulled:?}");
    assert!(pulled.is_err() || pulled.is_ok_and(|answer| answer.code.as_i32() != 0));
    assert_eq!(broker.wait().code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let dir = temp_dir();
    let mut broker = Broker::start(dir.path(), &[]).await;
    broker.client().await.send(Send::to("orders", 0, "x")).await;
    let begun = Instant::now();
    broker.signal(Signal::TERM);
    broker.signal(Signal::INT);
    let status = broker.wait();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(status.code(), Some(0), "{}", broker.logged());
    assert!(broker.logged().contains("second signal"), "{}", broker.logged());
    // The next start finds everything.
    let broker = Broker::start(dir.path(), &[]).await;
    assert_eq!(broker.client().await.pull_all("orders", 0, 0).await.len(), 1);
}

#[tokio::test]
async fn delayed_messages_are_delivered_once_across_a_stop() {
    let dir = temp_dir();
    let settings = ["message.delay_levels=1s 2s"];
    let broker = Broker::start(dir.path(), &settings).await;
    let client = broker.client().await;
    client.create_topic("orders", 1).await;
    client.send(Send::to("orders", 0, "before").with("DELAY", "1")).await;
    assert_eq!(client.pull_all("orders", 0, 1).await[0].body, "before");
    for level in ["1", "2"] {
        client.send(Send::to("orders", 0, format!("after {level}")).with("DELAY", level)).await;
    }
    assert_eq!(broker.stop().code(), Some(0));

    let broker = Broker::start(dir.path(), &settings).await;
    let client = broker.client().await;
    client.send(Send::to("orders", 0, "new").with("DELAY", "2")).await;
    let delivered = client.pull_all("orders", 0, 4).await;
    let bodies: Vec<_> = delivered.iter().map(|message| &message.body[..]).collect();
    assert_eq!(bodies, [&b"before"[..], b"after 1", b"after 2", b"new"]);
}

/// The permission that name servers tell clients of.
async fn routed_permission(broker: &Broker, topic: &str) -> i32 {
    let mut servers = Servers::new(&broker.name_server, ConnectOptions::default(), PATIENCE);
    let route = servers.route(&topic.into()).await.expect("the topic has a route");
    route.queue_datas[0].perm.0
}

#[tokio::test]
async fn a_drained_broker_sends_producers_elsewhere_and_serves_consumers() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let client = broker.client().await;
    client.create_topic("orders", 1).await;
    for n in 0..5 {
        client.send(Send::to("orders", 0, n.to_string())).await;
    }
    assert_eq!(client.pull_all("orders", 0, 5).await.len(), 5);
    let commit = |offset| {
        Call::new(RequestCode::UPDATE_CONSUMER_OFFSET).header(&UpdateConsumerOffset {
            consumer_group: "cg".into(),
            topic: "orders".into(),
            queue_id: Some(0),
            commit_offset: Some(offset),
        })
    };
    client.call(commit(2)).await.success().unwrap();
    let drain = |more: &[&str]| {
        let (status, output, error) = run_words(&[&["drain", "-n", &broker.name_server], more].concat());
        assert_eq!((status, error.as_str()), (0, ""), "{output}");
        output
    };

    let shown = drain(&["--show"]);
    assert!(shown.contains("takes messages"), "{shown}");
    let drained = drain(&[]);
    assert!(drained.contains("draining; everything stored is on disk"), "{drained}");
    let row: Vec<&str> = drained.lines().last().unwrap_or_default().split_whitespace().collect();
    assert_eq!(row, ["cg", "orders", "3"], "{drained}");
    assert_eq!(routed_permission(&broker, "orders").await, 4, "read only");
    let (code, remark) = client.refused(Send::to("orders", 0, "x").call()).await;
    assert_eq!(code, 14, "a code on which clients try another broker");
    assert!(remark.contains("the broker is draining"), "{remark}");
    assert_eq!(client.pull_all("orders", 0, 5).await.len(), 5);
    client.call(commit(5)).await.success().unwrap();
    // Whose retries the client sends itself is a consumer as well.
    client.send(Send::to("%RETRY%cg", 0, "again")).await;
    let drained = drain(&["--broker", &broker.broker]);
    assert!(!drained.contains("orders"), "everything is consumed: {drained}");

    assert!(drain(&["--undo"]).contains("takes messages"));
    assert_eq!(routed_permission(&broker, "orders").await, 6);
    assert_eq!(client.send(Send::to("orders", 0, "x")).await.queue_offset, 5, "no number was burnt");
    let (code, remark) = client
        .refused(Call::new(RequestCode::DRAIN_BROKER).header(&DrainBroker { action: "x".into() }))
        .await;
    assert_eq!(code, 29);
    assert!(remark.contains("drain, undo or show"), "{remark}");
}

#[tokio::test]
async fn a_stop_under_load_keeps_what_was_acknowledged_and_leaves_nothing_to_check() {
    let dir = temp_dir();
    let mut broker = Broker::start(dir.path(), &[]).await;
    broker.client().await.create_topic("orders", 2).await;
    let senders: Vec<_> = (0..2)
        .map(|queue_id| {
            let addr = broker.broker.clone();
            tokio::spawn(async move {
                let client = Client::connect(&addr, telstar::protocol::frame::HeaderCodec::Json).await;
                let mut acknowledged = 0;
                loop {
                    let send = Send::to("orders", queue_id, format!("body {acknowledged}")).call();
                    match client.connection.call(send, PATIENCE).await {
                        Ok(answer) if answer.code.as_i32() == 0 => acknowledged += 1,
                        Ok(answer) => {
                            assert_eq!(answer.code.as_i32(), 14, "{:?}", answer.remark);
                            return acknowledged;
                        }
                        Err(_) => return acknowledged,
                    }
                }
            })
        })
        .collect();
    let client = broker.client().await;
    while client.offset_of(RequestCode::GET_MAX_OFFSET, "orders", 1).await < 200 {}
    broker.signal(Signal::TERM);
    let mut acknowledged = Vec::new();
    for sender in senders {
        acknowledged.push(sender.await.unwrap());
    }
    assert_eq!(broker.wait().code(), Some(0), "{}", broker.logged());
    assert!(!dir.path().join("data/abort").exists(), "the mark of a run that did not stop cleanly");

    let broker = Broker::start(dir.path(), &[]).await;
    let client = broker.client().await;
    for (queue_id, acknowledged) in (0..).zip(acknowledged) {
        let messages = client.pull_all("orders", queue_id, acknowledged).await;
        for (n, message) in messages.iter().enumerate() {
            assert_eq!(message.body, format!("body {n}"));
        }
        // Stored just before the connection went, at most one is there that nobody heard of.
        assert!(
            (acknowledged..=acknowledged + 1).contains(&messages.len()),
            "{acknowledged} {}",
            messages.len()
        );
    }
    assert!(!broker.logged().contains("the log was checked"), "{}", broker.logged());
}
