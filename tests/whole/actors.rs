//! The actors of a running broker, as `telstar actors` shows them; and the table of them in ARCHITECTURE.md.

use serde_json::Value;
use telstar::client::Call;
use telstar::protocol::request_code::RequestCode;
use telstar::testing::calls::{heartbeat, members_of};

use crate::support::*;

#[tokio::test]
async fn queue_is_shown_with_what_it_has_handled() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let client = broker.client().await;
    for _ in 0..3 {
        client.send(Send::to("orders", 0, "x")).await;
    }
    let words = ["actors", "TopicQueue orders/0", "--recorder", "--json", "--broker", &broker.broker];
    let (status, output, error) = run_words(&words);
    assert_eq!((status, error.as_str()), (0, ""));
    let page: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(page["matching"], 1);
    let queue = &page["actors"][0];
    assert_eq!((&queue["name"], &queue["facts"]["next"]), (&"TopicQueue orders/0".into(), &3.into()));
    let sends = queue["kinds"].as_array().unwrap().iter().find(|kind| kind["message"] == "SendMessages");
    assert_eq!(sends.unwrap()["handled"], 3);
    let recorded: Vec<_> = queue["recorder"].as_array().unwrap().iter().map(|one| &one["message"]).collect();
    assert_eq!(recorded[..2], ["SendMessages", "BatchAppended"]);
}

#[tokio::test]
async fn everybody_is_on_the_list_of_broker_and_name_server() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &["actors.flight_recorder=0"]).await;
    for server in [&broker.broker, &broker.name_server] {
        let (status, table, error) = run_words(&["actors", "--broker", server]);
        assert_eq!((status, error.as_str()), (0, ""));
        for name in ["Root", "NameServer", "CommitLogWriter", "Topics", "  Connection 127.0.0.1:"] {
            assert!(table.lines().any(|line| line.starts_with(name)), "{name} in {table}");
        }
    }
    let (status, _, error) = run_words(&["actors", "--sort", "size", "--broker", &broker.broker]);
    assert_eq!(status, 2, "{error}");
}

#[tokio::test]
async fn span_of_a_request_names_its_client_once_that_has_said_who_it_is() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &["log.level=off,telstar::requests=trace"]).await;
    let client = broker.client().await;
    client.call(Call::new(RequestCode::GET_BROKER_RUNTIME_INFO)).await.success().unwrap();
    client.call(heartbeat("bank-1").consumes("payments", &["orders"]).into()).await.success().unwrap();
    client.call(members_of("payments")).await.success().unwrap();
    let log = broker.logs("request{code=GET_CONSUMER_LIST_BY_GROUP").await;
    let span_of = |code: &str| {
        let line = log.lines().find(|line| line.contains(&format!("request{{code={code}(")));
        line.unwrap_or_else(|| panic!("no span of {code}:\n{log}"))
    };
    assert!(span_of("GET_CONSUMER_LIST_BY_GROUP").contains(" client=\"bank-1\" peer=127.0.0.1:"));
    assert!(!span_of("GET_BROKER_RUNTIME_INFO").contains("client="), "it had not said yet");
}
