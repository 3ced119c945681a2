//! A webhook: pushes the messages of a topic to a URL by HTTP POST, each queue in its order. What is not taken is tried
//! again, after a pause that doubles; what was tried too often goes to the dead letter queue of the group, where
//! `telstar dlq` finds it. Events only wake it: how far it is, the offsets of its group say, so that nothing is lost.
//!
//! ```text
//! cargo run --example webhook -- http://127.0.0.1:8000/hook
//! ```

use std::time::Duration;

use actix::prelude::*;
use http_body_util::Full;
use hyper::Uri;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use telstar::Broker;
use telstar::extension::*;
use telstar::protocol::StoredMessage;
use telstar::types::{GroupName, QueueId, QueueOffset, TopicName};

/// Between two looks at the topic, in case nothing wakes it.
const LOOK: Duration = Duration::from_secs(1);
/// Messages read at once.
const AT_ONCE: u32 = 32;

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSettings {
    topic: String,
    /// `http://host:port/path`; TLS is for a proxy in between.
    url: String,
    #[serde(default = "default_group")]
    group: String,
    /// How often a message is tried before it is dead.
    #[serde(default = "default_attempts")]
    attempts: u32,
    /// Before a message is tried again; doubled each time.
    #[serde(default = "default_pause_ms")]
    first_pause_ms: u64,
    /// How long the other side may take.
    #[serde(default = "default_timeout_ms")]
    timeout_ms: u64,
}

fn default_group() -> String {
    "webhook".to_owned()
}

fn default_attempts() -> u32 {
    5
}

fn default_pause_ms() -> u64 {
    1000
}

fn default_timeout_ms() -> u64 {
    5000
}

/// What a push needs; shared by those of all queues.
#[derive(Clone)]
struct Pusher {
    broker: BrokerHandle,
    topic: TopicName,
    group: GroupName,
    url: Uri,
    authority: String,
    settings: WebhookSettings,
}

/// Wakes the pushers.
pub struct Webhook {
    pusher: Pusher,
    is_pushing: bool,
    /// Something came while they were at work.
    again: bool,
}

impl Extension for Webhook {
    const NAME: &'static str = "webhook";
    type Settings = WebhookSettings;

    fn start(settings: WebhookSettings, hooks: &mut Hooks) -> Result<(), ExtensionError> {
        let wrong = || {
            ExtensionError::refused(format!("url is {:?}, write it as http://host:port/path", settings.url))
        };
        let url: Uri = settings.url.parse().map_err(|_| wrong())?;
        let (Some("http"), Some(host)) = (url.scheme_str(), url.host()) else { return Err(wrong()) };
        let pusher = Pusher {
            broker: hooks.broker(),
            topic: settings.topic.as_str().into(),
            group: settings.group.as_str().into(),
            authority: format!("{host}:{}", url.port_u16().unwrap_or(80)),
            url,
            settings,
        };
        let webhook = Webhook { pusher, is_pushing: false, again: false }.start();
        // A wake-up that is dropped is made good by the next look.
        hooks.on_events(&[EventKind::MessageStored], webhook.recipient(), WhenBehind::DropAndCount, 1000);
        Ok(())
    }
}

impl Pusher {
    /// Pushes what there is of all queues.
    async fn push_all(&self) {
        let queues = self.broker.topic(&self.topic).map_or(0, |config| config.read_queue_nums);
        let pushed = futures::future::join_all((0..queues).map(|id| self.push_queue(QueueId(id)))).await;
        for refusal in pushed.into_iter().filter_map(Result::err) {
            eprintln!("webhook: {} cannot be pushed now: {refusal}", self.topic);
        }
    }

    async fn push_queue(&self, queue_id: QueueId) -> Result<(), Refused> {
        let (group, topic) = (&self.group, &self.topic);
        let mut next = self.broker.committed(group, topic, queue_id).await?.unwrap_or_default();
        loop {
            let read = ReadQueue {
                group: group.clone(),
                topic: topic.clone(),
                queue_id,
                from: next,
                max_messages: AT_ONCE,
                wait: Duration::ZERO,
            };
            let read = self.broker.read(&read).await?;
            if read.messages.is_empty() && read.next <= next {
                return Ok(());
            }
            for message in &read.messages {
                self.push(message).await?;
                let behind = QueueOffset(message.queue_offset.0 + 1);
                self.broker.commit(group, topic, queue_id, behind).await?;
            }
            next = read.next;
        }
    }

    /// Pushes one message, or lets it go to the dead letter queue.
    async fn push(&self, message: &StoredMessage) -> Result<(), Refused> {
        let mut pause = Duration::from_millis(self.settings.first_pause_ms);
        for attempt in 1..=self.settings.attempts {
            let posted =
                tokio::time::timeout(Duration::from_millis(self.settings.timeout_ms), self.post(message));
            let why = match posted.await {
                Ok(Ok(status)) if (200..300).contains(&status) => return Ok(()),
                Ok(Ok(status)) => format!("it answered {status}"),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it did not answer in time".to_owned(),
            };
            eprintln!("webhook: attempt {attempt} for {} {}: {why}", message.topic, message.queue_offset);
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.broker.send_back(&self.group, message, -1).await
    }

    async fn post(&self, message: &StoredMessage) -> anyhow::Result<u16> {
        let stream = tokio::net::TcpStream::connect(&self.authority).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        actix_rt::spawn(connection);
        let request = hyper::Request::post(self.url.path())
            .header("host", &self.authority)
            .header("x-topic", message.topic.as_str())
            .header("x-queue-id", message.queue_id.0)
            .header("x-queue-offset", message.queue_offset.0)
            .header("x-key", message.text("KEYS"))
            .body(Full::new(Bytes::clone(&message.body)))?;
        Ok(sender.send_request(request).await?.status().as_u16())
    }
}

impl Webhook {
    fn push(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.is_pushing, true) {
            self.again = true;
            return;
        }
        let pusher = self.pusher.clone();
        let pushed = async move { pusher.push_all().await };
        ctx.spawn(pushed.into_actor(self).map(|(), webhook, ctx| {
            webhook.is_pushing = false;
            if std::mem::take(&mut webhook.again) {
                webhook.push(ctx);
            }
        }));
    }
}

impl Actor for Webhook {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(LOOK, Self::push);
    }
}

impl Handler<BrokerEvents> for Webhook {
    type Result = ();

    fn handle(&mut self, events: BrokerEvents, ctx: &mut Self::Context) {
        let is_ours = |event: BrokerEvent| matches!(event, BrokerEvent::MessageStored { topic, .. } if topic == self.pusher.topic);
        if events.iter().any(is_ours) {
            self.push(ctx);
        }
    }
}

#[allow(dead_code, reason = "tests bring the extension in without it")]
fn main() -> anyhow::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8000/".into());
    let broker = Broker::builder()
        .extension::<Webhook>()
        .set("extensions.webhook.topic", "orders")
        .set("extensions.webhook.url", url)
        .start()?;
    let name_server = broker.name_server().expect("it is one, too");
    println!("telstar send orders hello -n {name_server}\ntelstar dlq list -n {name_server}");
    Ok(broker.wait()?)
}
