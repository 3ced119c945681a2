//! An audit log: every request to change topics, groups, settings and the like becomes a message of a topic, done or
//! refused, in JSON. It misses none while it runs: its stream slows nobody, and is never cut.
//!
//! ```text
//! cargo run --example audit_log
//! ```

use actix::prelude::*;
use serde::{Deserialize, Serialize};
use telstar::Broker;
use telstar::extension::*;
use telstar::types::TopicName;

/// Writes down what people do.
pub struct AuditLog {
    topic: TopicName,
    broker: BrokerHandle,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditLogSettings {
    /// Where entries go; made if it is not there.
    #[serde(default = "default_topic")]
    topic: String,
}

fn default_topic() -> String {
    "audit".to_owned()
}

/// What a message of the topic says.
#[derive(Serialize)]
struct Entry {
    request: String,
    client: String,
    fields: Vec<(String, String)>,
    body: String,
    /// `None`: it was done.
    refused: Option<String>,
}

impl Extension for AuditLog {
    const NAME: &'static str = "audit_log";
    type Settings = AuditLogSettings;

    fn start(settings: AuditLogSettings, hooks: &mut Hooks) -> Result<(), ExtensionError> {
        if settings.topic.is_empty() {
            return Err(ExtensionError::refused("topic is empty, name the topic that takes the entries"));
        }
        let log = AuditLog { topic: settings.topic.into(), broker: hooks.broker() }.start();
        hooks.on_events(&[EventKind::AdminRequested], log.recipient(), WhenBehind::SlowSource, 10_000);
        Ok(())
    }
}

impl Actor for AuditLog {
    type Context = Context<Self>;
}

impl Handler<BrokerEvents> for AuditLog {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, events: BrokerEvents, _: &mut Self::Context) -> Self::Result {
        let (broker, topic) = (self.broker.clone(), self.topic.clone());
        Box::pin(async move {
            // Asking for it makes no entry if it is there, so this does not go round in circles.
            if broker.topic(&topic).is_none()
                && let Err(refusal) = broker.create_topic(&topic, 1).await
            {
                eprintln!("audit log: topic {topic} cannot be made: {refusal}");
            }
            for event in events {
                let BrokerEvent::AdminRequested { request, client, fields, body, refused } = event else {
                    continue;
                };
                let entry = Entry {
                    request: request.name().to_owned(),
                    client: client.to_string(),
                    fields,
                    body: String::from_utf8_lossy(&body).into_owned(),
                    refused,
                };
                // Texts and lists of texts: there is nothing that JSON does not know.
                let body = serde_json::to_vec(&entry).expect("an entry is JSON").into();
                let message = OutgoingMessage {
                    topic: topic.clone(),
                    body,
                    properties: vec![("TAGS".into(), entry.request)],
                    queue_id: Some(0),
                };
                if let Err(refusal) = broker.send(message).await {
                    eprintln!("audit log: an entry is lost: {refusal}");
                }
            }
        })
    }
}

#[allow(dead_code, reason = "tests bring the extension in without it")]
fn main() -> anyhow::Result<()> {
    let broker = Broker::builder().extension::<AuditLog>().start()?;
    let name_server = broker.name_server().expect("it is one, too");
    println!(
        "telstar topic create orders -n {name_server}\ntelstar consume audit -n {name_server} --from first"
    );
    Ok(broker.wait()?)
}
