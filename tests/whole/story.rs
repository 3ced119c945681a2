//! What became of a message, as the broker tells it and as `telstar why` prints it.

use std::time::Instant;

use telstar::client::Call;
use telstar::protocol::body::story::MessageStory;
use telstar::protocol::fastjson;
use telstar::protocol::header::*;
use telstar::protocol::message_id::parse_offset_message_id;
use telstar::protocol::request_code::RequestCode;

use crate::support::*;

const UNIQUE_KEY: &str = "7F00000118B44AA42C1E6A5C7F0B0000";

async fn story(client: &Client, message_id: &str, group: Option<&str>) -> MessageStory {
    let consumer_group = group.map(Into::into);
    let header = ExplainMessage { message_id: message_id.to_owned(), topic: None, consumer_group };
    let answer = client.call(Call::new(RequestCode::EXPLAIN_MESSAGE).header(&header)).await;
    fastjson::from_slice(&answer.success().unwrap().body).unwrap()
}

/// Asks until so many things have happened: retries and the key index follow a moment later.
async fn story_of(client: &Client, events: usize) -> MessageStory {
    let begun = Instant::now();
    loop {
        let story = story(client, UNIQUE_KEY, Some("cg")).await;
        if story.events.len() >= events || begun.elapsed() > PATIENCE {
            return story;
        }
        tokio::task::yield_now().await;
    }
}

fn kinds(story: &MessageStory) -> Vec<&str> {
    story.events.iter().map(|event| event.kind.as_str()).collect()
}

#[tokio::test]
async fn failures_of_a_group_are_told_from_the_first_to_the_dead_letter_queue() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let client = broker.client().await;
    client.create_topic("orders", 1).await;
    client.send(Send::to("orders", 0, "an order before")).await;
    let stored = client.send(Send::to("orders", 0, "an order").with("UNIQ_KEY", UNIQUE_KEY)).await;
    let stored_story = story_of(&client, 1).await;
    assert_eq!(kinds(&stored_story), ["stored"]);
    assert!(stored_story.verdict.contains("no consumer of that name ever came"), "{}", stored_story.verdict);

    // Consumed once in vain, then given up.
    let (_, physical) = parse_offset_message_id(&stored.msg_id).unwrap();
    let send_back = async |delay_level| {
        let header = SendBack {
            offset: physical.0 as i64,
            group: "cg".into(),
            delay_level,
            origin_msg_id: None,
            origin_topic: None,
            max_reconsume_times: Some(16),
        };
        client.call(Call::new(RequestCode::CONSUMER_SEND_MSG_BACK).header(&header)).await.success().unwrap();
    };
    send_back(1).await;
    let retried = story_of(&client, 3).await;
    assert_eq!(kinds(&retried), ["stored", "delayed", "retried"]);
    let due = retried.events[1].at_ms + 1_000;
    assert!(retried.events[2].at_ms >= due, "not before its time");
    assert_eq!(retried.events[2].topic, "%RETRY%cg");
    assert!(retried.verdict.contains("no member of it is online"), "{}", retried.verdict);
    send_back(-1).await;
    let dead = story_of(&client, 4).await;
    assert_eq!(kinds(&dead), ["stored", "delayed", "retried", "dead"]);
    assert!(dead.verdict.contains("lies in its dead letter queue"), "{}", dead.verdict);

    // By the id of its place, and as a person reads it.
    assert_eq!(story(&client, &stored.msg_id, Some("cg")).await, dead);
    let why = |words: &[&str]| run_words(&[&["why", "-n", &broker.name_server][..], words].concat());
    let (status, told, error) = why(&[UNIQUE_KEY, "--topic", "orders", "--group", "cg"]);
    assert_eq!((status, error.as_str()), (0, ""));
    assert!(told.trim_end().ends_with(&dead.verdict), "{told}");
    assert!(dead.events.iter().all(|event| told.contains(&event.text)), "{told}");
    let (status, _, error) = why(&["7F00000118B44AA42C1E6A5C7F0BFFFF"]);
    assert_eq!(status, 1);
    assert!(error.contains("it was never stored here, or has expired"), "{error}");
}
