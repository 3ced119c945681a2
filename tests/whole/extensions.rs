//! Extensions in a whole broker: told of what happens, failing, and started again.

use actix::prelude::*;
use serde::Deserialize;
use telstar::Broker;
use telstar::extension::*;
use telstar::fatal::Fatal;
use telstar::protocol::frame::HeaderCodec;

use crate::support::*;

/// Writes down in a topic what it is told of, and panics at a topic of a certain name.
struct Diary {
    settings: DiarySettings,
    broker: BrokerHandle,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct DiarySettings {
    topic: String,
    #[serde(default)]
    fears: String,
}

impl Extension for Diary {
    const NAME: &'static str = "diary";
    type Settings = DiarySettings;

    fn start(settings: DiarySettings, hooks: &mut Hooks) -> Result<(), ExtensionError> {
        if settings.topic.is_empty() {
            return Err(ExtensionError::refused("topic is empty, write the name of a topic"));
        }
        let diary = Diary { settings, broker: hooks.broker() }.start();
        let kinds = [EventKind::TopicCreated, EventKind::MessageStored, EventKind::ConsumerJoined];
        hooks.on_events(&kinds, diary.recipient(), WhenBehind::DropAndCount, 1000);
        Ok(())
    }
}

impl Actor for Diary {
    type Context = Context<Self>;
}

impl Handler<BrokerEvents> for Diary {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, events: BrokerEvents, _: &mut Self::Context) -> Self::Result {
        let mut lines = Vec::new();
        for event in events {
            match event {
                BrokerEvent::TopicCreated { topic, .. } if *topic == *self.settings.fears => {
                    panic!("this is what it fears")
                }
                BrokerEvent::TopicCreated { topic, .. } => lines.push(format!("there is {topic}")),
                BrokerEvent::MessageStored { topic, queue_offset, .. } if *topic != *self.settings.topic => {
                    lines.push(format!("{topic} has {queue_offset}"))
                }
                _ => {}
            }
        }
        let (broker, topic) = (self.broker.clone(), self.settings.topic.clone());
        Box::pin(async move {
            for body in lines {
                let topic = topic.as_str().into();
                let line =
                    OutgoingMessage { topic, body: body.into(), properties: Vec::new(), queue_id: Some(0) };
                broker.send(line).await.expect("the topic is there");
            }
        })
    }
}

async fn client_of(broker: &Broker) -> Client {
    Client::connect(&broker.broker().expect("it is a broker").to_string(), HeaderCodec::Json).await
}

async fn lines(client: &Client, count: usize) -> Vec<String> {
    let messages = client.pull_all("diary", 0, count).await;
    messages.iter().map(|message| String::from_utf8_lossy(&message.body).into_owned()).collect()
}

#[tokio::test]
async fn extension_is_told_what_happens_and_sends_by_the_door_of_clients() {
    let broker =
        Broker::builder().extension::<Diary>().set("extensions.diary.topic", "diary").start().unwrap();
    let client = client_of(&broker).await;
    client.create_topic("diary", 1).await;
    client.create_topic("orders", 1).await;
    client.send(Send::to("orders", 0, "a")).await;
    client.send(Send::to("orders", 0, "b")).await;
    assert_eq!(
        lines(&client, 4).await,
        ["there is diary", "there is orders", "orders has 0", "orders has 1"]
    );
    broker.stop().unwrap();
}

#[tokio::test]
async fn extension_that_panics_is_started_again_and_the_broker_runs_on() {
    let broker = Broker::builder()
        .extension::<Diary>()
        .set("extensions.diary.topic", "diary")
        .set("extensions.diary.fears", "spiders")
        .start()
        .unwrap();
    let client = client_of(&broker).await;
    for topic in ["diary", "spiders", "flowers"] {
        client.create_topic(topic, 1).await;
    }
    assert_eq!(lines(&client, 2).await, ["there is diary", "there is flowers"]);
    let addr = broker.broker().expect("it is a broker").to_string();
    let (status, output, error) = run_words(&["actors", "ExtensionHost diary", "--json", "--broker", &addr]);
    assert_eq!((status, error.as_str()), (0, ""));
    let page: serde_json::Value = serde_json::from_str(&output).unwrap();
    let host = &page["actors"][0];
    assert_eq!((&host["restarts"], &host["facts"]["running"]), (&1.into(), &true.into()));
    assert_eq!(host["thread"], "extension");
    assert!(host["facts"]["eventsDropped"].as_u64().unwrap() >= 1, "the batch it failed with: {host}");
    broker.stop().unwrap();
}

#[test]
fn extension_that_cannot_start_stops_the_start_and_says_why() {
    let refusal = |builder: telstar::BrokerBuilder| builder.extension::<Diary>().start().unwrap_err();
    let refused = refusal(Broker::builder().set("extensions.diary.topic", ""));
    assert!(matches!(refused, Fatal::ExtensionRefused { name: "diary", .. }), "{refused}");
    assert!(refused.to_string().contains("write the name of a topic"), "{refused}");
    let unknown = refusal(Broker::builder().set("extensions.diary.topics", "diary"));
    assert!(unknown.to_string().contains("[extensions.diary]: unknown field `topics`"), "{unknown}");
}

#[test]
fn program_without_extensions_refuses_them_by_name() {
    let dir = temp_dir();
    let (status, _, errors) = run(&start_args(dir.path(), &["extensions.start=audit_log"]));
    assert_eq!(status, 3);
    assert!(errors.contains("there is no extension audit_log in this program: it has none"), "{errors}");
}
