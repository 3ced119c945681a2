//! The examples of extensions, each in a whole broker, from end to end.

use std::time::Duration;

use telstar::Broker;
use telstar::protocol::frame::HeaderCodec;
use telstar::protocol::header::TopicHeader;
use telstar::protocol::message::StoredMessage;
use telstar::protocol::request_code::RequestCode;
use telstar::types::GroupName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::*;

#[path = "../../examples/audit_log.rs"]
mod audit_log;
#[path = "../../examples/cron.rs"]
mod cron;
#[path = "../../examples/rate_limiter.rs"]
mod rate_limiter;
#[path = "../../examples/schema_checker.rs"]
mod schema_checker;
#[path = "../../examples/webhook.rs"]
mod webhook;

async fn client_of(broker: &Broker) -> Client {
    Client::connect(&broker.broker().expect("it is a broker").to_string(), HeaderCodec::Json).await
}

fn text(message: &StoredMessage) -> String {
    String::from_utf8_lossy(&message.body).into_owned()
}

#[tokio::test]
async fn audit_log_has_what_was_done_and_what_was_refused() {
    let broker = Broker::builder().extension::<audit_log::AuditLog>().start().unwrap();
    let client = client_of(&broker).await;
    client.create_topic("orders", 1).await;
    let call = |topic: &str| {
        let header = TopicHeader { topic: topic.into() };
        telstar::client::Call::new(RequestCode::DELETE_TOPIC_IN_BROKER).header(&header)
    };
    client.call(call("orders")).await;
    client.refused(call("TBW102")).await;
    let entries = client.pull_all("audit", 0, 4).await;
    let entries: Vec<serde_json::Value> =
        entries.iter().map(|entry| serde_json::from_slice(&entry.body).unwrap()).collect();
    let of_people: Vec<_> = entries
        .iter()
        // The log's own request to make its topic is an entry, too.
        .filter(|entry| !entry["fields"].to_string().contains("\"audit\""))
        .map(|entry| (entry["request"].as_str().unwrap(), entry["refused"].is_null()))
        .collect();
    assert_eq!(
        of_people,
        [
            ("UPDATE_AND_CREATE_TOPIC", true),
            ("DELETE_TOPIC_IN_BROKER", true),
            ("DELETE_TOPIC_IN_BROKER", false)
        ]
    );
    broker.stop().unwrap();
}

#[tokio::test]
async fn schema_checker_refuses_at_the_door_and_says_what_does_not_fit() {
    let schemas = temp_dir();
    let schema =
        r#"{ "type": "object", "required": ["price"], "properties": { "price": { "type": "number" } } }"#;
    std::fs::write(schemas.path().join("orders.json"), schema).unwrap();
    let builder = || Broker::builder().extension::<schema_checker::SchemaChecker>();
    let directory = "extensions.schema_checker.directory";
    let broker = builder().set(directory, schemas.path().display()).start().unwrap();
    let client = client_of(&broker).await;
    client.send(Send::to("orders", 0, r#"{ "price": 5 }"#)).await;
    client.send(Send::to("others", 0, "anything")).await;
    let refused = async |body: &'static str| client.refused(Send::to("orders", 0, body).call()).await;
    let (code, reason) = refused(r#"{ "price": "five" }"#).await;
    assert!(code == 13 && reason.contains("does not fit its schema: /price:"), "{code} {reason}");
    assert!(refused("{}").await.1.contains("\"price\" is a required property"));
    assert!(refused("five").await.1.contains("the body is no JSON"));
    assert_eq!(client.offset_of(RequestCode::GET_MAX_OFFSET, "orders", 0).await, 1);
    broker.stop().unwrap();

    std::fs::write(schemas.path().join("orders.json"), "{").unwrap();
    let refused = builder().set(directory, schemas.path().display()).start().unwrap_err();
    assert!(refused.to_string().contains("orders.json is no JSON Schema"), "{refused}");
}

#[tokio::test]
async fn scheduler_sends_when_it_is_time() {
    let builder = || Broker::builder().extension::<cron::Cron>();
    let jobs = "[{ at = '* * * * * *', topic = 'ticks', body = 'tick' }]";
    let broker =
        builder().set("broker.default_queue_nums", 1).set("extensions.cron.jobs", jobs).start().unwrap();
    let client = client_of(&broker).await;
    client.create_topic("ticks", 1).await;
    let ticks = client.pull_all("ticks", 0, 2).await;
    assert_eq!(text(&ticks[1]), "tick");
    assert!(ticks[1].stored_at_ms / 1000 > ticks[0].stored_at_ms / 1000, "one each second");
    broker.stop().unwrap();
    let never = builder().set("extensions.cron.jobs", "[{ at = 'soon', topic = 'T', body = '' }]");
    let refused = never.start().unwrap_err();
    assert!(refused.to_string().contains("\"soon\" is no time"), "{refused}");
}

#[tokio::test]
async fn rate_limiter_refuses_what_is_beyond_as_busy() {
    let broker = Broker::builder()
        .extension::<rate_limiter::RateLimiter>()
        // So slow that no machine is slow enough for another one.
        .set("extensions.rate_limiter.rate", 0.0001)
        .set("extensions.rate_limiter.burst", 2)
        .set("extensions.rate_limiter.topics", "['orders']")
        .start()
        .unwrap();
    let client = client_of(&broker).await;
    for _ in 0..2 {
        client.send(Send::to("orders", 0, "order")).await;
    }
    let (code, reason) = client.refused(Send::to("orders", 0, "order").call()).await;
    assert!(code == 2 && reason.contains("127.0.0.1 sends more than 0.0001"), "{code} {reason}");
    client.send(Send::to("others", 0, "something else")).await;
    broker.stop().unwrap();
}

#[test]
fn tokens_come_back_at_their_rate() {
    let begun = std::time::Instant::now();
    let at = |ms| begun + Duration::from_millis(ms);
    let mut bucket = rate_limiter::Bucket::full(2.0, begun);
    assert_eq!(bucket.take(1.0, 10.0, 2.0, at(0)), Ok(()));
    assert_eq!(bucket.take(1.0, 10.0, 2.0, at(0)), Ok(()));
    assert_eq!(bucket.take(1.0, 10.0, 2.0, at(0)), Err(Duration::from_millis(100)));
    assert_eq!(bucket.take(1.0, 10.0, 2.0, at(100)), Ok(()));
    assert_eq!(
        bucket.take(5.0, 10.0, 2.0, at(1000)),
        Ok(()),
        "a batch that never fits is taken from a full one"
    );
    assert!(bucket.take(1.0, 10.0, 2.0, at(1100)).is_err(), "and owed");
}

/// Takes HTTP requests, answers each with the next status, and the last one for ever; tells their bodies.
async fn hook(statuses: &'static [u16]) -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        for number in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = Vec::new();
            let body = loop {
                stream.read_buf(&mut read).await.unwrap();
                let request = String::from_utf8_lossy(&read);
                let Some((head, body)) = request.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                    break body.to_owned();
                }
            };
            let status = statuses.get(number).or(statuses.last()).unwrap();
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
            if tell.send(body).is_err() {
                break;
            }
        }
    });
    (url, told)
}

fn pushing_to(url: &str) -> telstar::BrokerBuilder {
    Broker::builder()
        .extension::<webhook::Webhook>()
        .set("extensions.webhook.topic", "orders")
        .set("extensions.webhook.url", url)
        .set("extensions.webhook.attempts", 2)
        .set("extensions.webhook.first_pause_ms", 1)
}

#[tokio::test]
async fn webhook_pushes_in_order_tries_again_and_gives_up_into_the_dead_letter_queue() {
    // The first message is taken at the second attempt, the second one never, the third one at once.
    let (url, mut told) = hook(&[500, 200, 500, 500, 200]).await;
    let broker = pushing_to(&url).start().unwrap();
    let client = client_of(&broker).await;
    client.create_topic("orders", 1).await;
    for body in ["a", "b", "c"] {
        client.send(Send::to("orders", 0, body)).await;
    }
    for expected in ["a", "a", "b", "b", "c"] {
        assert_eq!(told.recv().await.unwrap(), expected);
    }
    let dead = telstar::protocol::names::dead_letter_queue(&GroupName::from("webhook"));
    assert_eq!(text(&client.pull_all(&dead, 0, 1).await[0]), "b");
    broker.stop().unwrap();
}

#[tokio::test]
async fn webhook_goes_on_where_it_was_after_a_crash() {
    let dir = temp_dir();
    let (url, mut told) = hook(&[200]).await;
    let builder = pushing_to(&url).data_dir(dir.path()).set("store.offsets_flush_mode", "sync");
    let broker = builder.clone().start().unwrap();
    let client = client_of(&broker).await;
    client.create_topic("orders", 1).await;
    client.send(Send::to("orders", 0, "before")).await;
    assert_eq!(told.recv().await.unwrap(), "before");
    broker.kill().unwrap();
    let broker = builder.start().unwrap();
    client_of(&broker).await.send(Send::to("orders", 0, "after")).await;
    // The crash may have come before its offset was kept.
    let next = told.recv().await.unwrap();
    let next = if next == "before" { told.recv().await.unwrap() } else { next };
    assert_eq!(next, "after");
    broker.stop().unwrap();
}

#[test]
fn page_on_extending_shows_the_crate_that_is_kept() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let (page, source) = (read("docs/extending.md"), read("examples/first_extension/src/main.rs"));
    let shown = page.split_once("   ```rust\n").unwrap().1.split_once("   ```").unwrap().0;
    let shown: String =
        shown.lines().map(|line| format!("{}\n", line.strip_prefix("   ").unwrap_or(line))).collect();
    assert_eq!(shown, source);
    assert!(source.lines().count() < 60);
    let manifest = read("examples/first_extension/Cargo.toml");
    for dependency in page
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("actix = ") || line.starts_with("telstar = "))
    {
        assert!(manifest.contains(dependency), "{dependency}");
    }
}
