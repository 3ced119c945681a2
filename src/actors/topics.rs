//! Topics: the settings of every topic of this broker, and the snapshot of them that everybody reads.
//!
//! - Owns: the sled tree of topics and its data version, the write half of the topic table; nobody else
//!   writes either.
//! - Takes: [`CreateTopic`], [`CreateTopics`], [`AutoCreateTopic`], [`EnsureTopic`], [`SetTopicPermission`],
//!   [`DeleteTopic`], [`DeleteUnusedFiles`], [`RegisterAnew`], [`SettingsChanged`].
//! - Sends: [`RegisterTopics`] to the link with the name servers, [`DeleteQueue`] to the queues of a deleted
//!   topic, [`TopicDeleted`] to whoever keeps something by topic.
//! - Fails: settings that cannot be saved refuse the changes they came with, and the snapshot stays as it was.
//! - Invariants: what is published was flushed before; a change is answered after it was flushed, published
//!   and registered, in that order, or `registration_wait_max` after it was published; one batch of changes is under way at a time, and what arrives
//!   meanwhile makes the next; every batch that changes something raises the data version by one.
//!
//! Flushing blocks for an fsync, so this actor lives on an arbiter that no message passes through.

mod draft;
mod loaded;
mod system_topics;
mod unknown;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures::FutureExt;
use futures::channel::oneshot;
use tracing::{error, info, warn};

pub use self::draft::{Draft, MAX_QUEUE_NUMS, TopicRules};
pub use self::loaded::LoadedTopics;
pub use self::system_topics::{default_topic, system_topics};
pub use self::unknown::{explain_unknown_topic, unknown_topic};
use super::broker_settings::SettingsChanged;
use super::context::{Context, observed};
use super::extensions::events::{BrokerEvent, EventKind};
use super::extensions::stream::EventTap;
use super::topic_queue::DeleteQueue;
use super::topic_table::{QueueStarter, TopicEntry, TopicTablePublisher};
use crate::clock::SharedClock;
use crate::error::Refusal;
use crate::protocol::data_version::DataVersion;
use crate::protocol::names::{self, DEFAULT_TOPIC};
use crate::protocol::topic_config::{Permission, TopicConfig};
use crate::store::metadata::{self, Metadata, MetadataError};
use crate::types::TopicName;

/// Creates a topic or replaces its settings; the attributes carry signs. Losing it loses the wish, no topic.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<Arc<TopicEntry>, Refusal>")]
pub struct CreateTopic {
    pub config: TopicConfig,
}

/// Creates or alters all of these topics, or none.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<TopicsCreated, Refusal>")]
pub struct CreateTopics {
    pub configs: Vec<TopicConfig>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TopicsCreated {
    pub count: usize,
}

/// Asks for the topic of a send, to be created after the example of `default_topic` if it is not there.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<Arc<TopicEntry>, Refusal>")]
pub struct AutoCreateTopic {
    pub topic: TopicName,
    pub default_topic: TopicName,
    /// How many queues the client would like; the default topic's number is the limit.
    pub client_queue_nums: i32,
    pub topic_sys_flag: i32,
}

/// Asks for a topic of the broker's own making (retry, dead letters), to be created if it is not there.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<Arc<TopicEntry>, Refusal>")]
pub struct EnsureTopic {
    pub config: TopicConfig,
}

/// Changes what may be done with a topic, and nothing else of it.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<Arc<TopicEntry>, Refusal>")]
pub struct SetTopicPermission {
    pub topic: TopicName,
    pub perm: Permission,
}

/// Deletes a topic, its queues and what groups have consumed of it.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<DeleteOutcome, Refusal>")]
pub struct DeleteTopic {
    pub topic: TopicName,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeleteOutcome {
    pub existed: bool,
}

/// Deletes the queue files of topics that do not exist: what a crash in the middle of a deletion leaves.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Result<(), Refusal>")]
pub struct DeleteUnusedFiles;

/// Tells every name server the whole table under a new version: what it says of every topic is different now, as when
/// the broker becomes read-only. Answered as a change of topics is.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Result<(), Refusal>")]
pub struct RegisterAnew;

/// Tells every name server about topics. Answered when they know, or cannot be reached: the next periodic
/// registration mends that. A deletion comes with nothing in `changed`.
#[derive(Message, Clone, PartialEq, Debug)]
#[rtype(result = "()")]
pub struct RegisterTopics {
    pub data_version: DataVersion,
    pub changed: Vec<TopicConfig>,
}

/// A topic is gone. Losing it leaves entries behind that a topic of the same name would inherit.
#[derive(Message, Clone, PartialEq, Eq, Debug)]
#[rtype(result = "()")]
pub struct TopicDeleted {
    pub topic: TopicName,
}

/// What the topics need to know of the files of queues; made by the root.
pub trait QueueFiles: Send + Sync {
    /// Deletes every queue file of a topic, none of whose queues is running.
    fn delete_topic(&self, topic: &TopicName) -> io::Result<()>;
    /// The topics that have queue files.
    fn topics(&self) -> io::Result<Vec<TopicName>>;
}

#[derive(Clone, Debug)]
pub struct TopicsConfig {
    pub rules: TopicRules,
    /// Whether sends create topics. Default true; the settings of the broker decide, also while it runs.
    pub auto_create: bool,
    /// What clients may do with any topic; name servers are told anew when it changes.
    pub permission: Permission,
    /// Queues of automatically created topics, at most. Default 8.
    pub default_queue_nums: u32,
    /// Where traces go, if this broker takes them. Default none.
    pub trace_topic: Option<TopicName>,
    /// Delay levels, from configuration; each needs a queue of the schedule topic. Default 18.
    pub delay_levels: u32,
    /// A change is answered after this time though the name servers have not confirmed it. Default 3 s, as
    /// long as a client waits for the answer.
    pub registration_wait_max: Duration,
    pub mailbox_capacity: usize,
}

/// Whom the topics talk to.
#[derive(Clone)]
pub struct TopicsPeers {
    pub starter: QueueStarter,
    pub files: Arc<dyn QueueFiles>,
    /// `None`: there is no name server.
    pub registrar: Option<Recipient<RegisterTopics>>,
    pub deletions: Vec<Recipient<TopicDeleted>>,
    /// Where extensions are told of topics.
    pub events: EventTap,
}

pub struct Topics {
    metadata: Metadata,
    table: metadata::TopicTable,
    publisher: TopicTablePublisher,
    rules: Arc<TopicRules>,
    config: TopicsConfig,
    peers: TopicsPeers,
    clock: SharedClock,
    waiting: VecDeque<Waiting>,
    committing: bool,
}

/// A change that waits for its batch.
struct Waiting {
    /// Deletions are batched apart: what is created next must find the old files gone.
    deletes: bool,
    apply: Apply,
}

/// A change, on its way into a draft.
type Apply = Box<dyn FnOnce(&mut Draft) -> Settle>;

/// Answers a change that was applied to a draft: with its outcome, or with why the draft was not saved.
type Settle = Box<dyn FnOnce(Option<Refusal>)>;

impl Actor for Topics {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.config.mailbox_capacity);
    }
}

observed!(Topics);

/// Ends a turn: what the messages of the turn want becomes one batch.
#[derive(Message)]
#[rtype(result = "()")]
struct CommitDue;

impl Handler<CommitDue> for Topics {
    type Result = ();

    fn handle(&mut self, _: CommitDue, ctx: &mut Self::Context) {
        self.commit(ctx);
    }
}

impl Handler<CreateTopic> for Topics {
    type Result = ResponseFuture<Result<Arc<TopicEntry>, Refusal>>;

    fn handle(&mut self, create: CreateTopic, ctx: &mut Self::Context) -> Self::Result {
        self.enqueue(ctx, |draft| draft.create(create.config))
    }
}

impl Handler<CreateTopics> for Topics {
    type Result = ResponseFuture<Result<TopicsCreated, Refusal>>;

    fn handle(&mut self, create: CreateTopics, ctx: &mut Self::Context) -> Self::Result {
        self.enqueue(ctx, |draft| Ok(TopicsCreated { count: draft.create_all(create.configs)? }))
    }
}

impl Handler<AutoCreateTopic> for Topics {
    type Result = ResponseFuture<Result<Arc<TopicEntry>, Refusal>>;

    fn handle(&mut self, create: AutoCreateTopic, ctx: &mut Self::Context) -> Self::Result {
        self.enqueue(ctx, |draft| draft.auto_create(create))
    }
}

impl Handler<EnsureTopic> for Topics {
    type Result = ResponseFuture<Result<Arc<TopicEntry>, Refusal>>;

    fn handle(&mut self, ensure: EnsureTopic, ctx: &mut Self::Context) -> Self::Result {
        self.enqueue(ctx, |draft| Ok(draft.ensure(ensure.config)))
    }
}

impl Handler<SetTopicPermission> for Topics {
    type Result = ResponseFuture<Result<Arc<TopicEntry>, Refusal>>;

    fn handle(&mut self, set: SetTopicPermission, ctx: &mut Self::Context) -> Self::Result {
        self.enqueue(ctx, move |draft| draft.set_permission(&set.topic, set.perm))
    }
}

impl Handler<DeleteTopic> for Topics {
    type Result = ResponseFuture<Result<DeleteOutcome, Refusal>>;

    fn handle(&mut self, delete: DeleteTopic, ctx: &mut Self::Context) -> Self::Result {
        let (apply, answer) =
            answered(move |draft: &mut Draft| Ok(DeleteOutcome { existed: draft.delete(&delete.topic)? }));
        self.wait_for_batch(ctx, Waiting { deletes: true, apply });
        answer
    }
}

impl Handler<DeleteUnusedFiles> for Topics {
    type Result = Result<(), Refusal>;

    fn handle(&mut self, _: DeleteUnusedFiles, _: &mut Self::Context) -> Self::Result {
        let known = self.publisher.load();
        let found = self.peers.files.topics();
        let found =
            found.map_err(|error| Refusal::Failed(format!("queue files cannot be listed: {error}")))?;
        let unused =
            |topic: &&TopicName| !known.topics.contains_key(*topic) && !is_system_topic(topic, &self.rules);
        for topic in found.iter().filter(unused) {
            delete_files(&*self.peers.files, topic);
        }
        Ok(())
    }
}

impl Handler<RegisterAnew> for Topics {
    type Result = ResponseFuture<Result<(), Refusal>>;

    fn handle(&mut self, _: RegisterAnew, ctx: &mut Self::Context) -> Self::Result {
        self.enqueue(ctx, |draft| {
            draft.raise_version();
            Ok(())
        })
    }
}

impl Handler<SettingsChanged> for Topics {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, changed: SettingsChanged, ctx: &mut Self::Context) -> Self::Result {
        let settings = &changed.settings;
        let config = settings.auto_create_topic.then(|| default_topic(settings.default_topic_queue_nums));
        let permission = std::mem::replace(&mut self.config.permission, settings.permission);
        let permission_changed = permission != settings.permission;
        let done = self.enqueue(ctx, move |draft| {
            draft.set_default_topic(config);
            if permission_changed {
                draft.raise_version();
            }
            Ok(())
        });
        Box::pin(done.map(|_| ()))
    }
}

/// Splits a change into what is applied to a draft and the future of its answer.
fn answered<T: 'static>(
    change: impl FnOnce(&mut Draft) -> Result<T, Refusal> + 'static,
) -> (Apply, ResponseFuture<Result<T, Refusal>>) {
    let (answer, answered) = oneshot::channel();
    let apply = move |draft: &mut Draft| -> Settle {
        let outcome = change(draft);
        Box::new(move |unsaved| {
            let outcome = outcome.and_then(|outcome| unsaved.map_or(Ok(outcome), Err));
            // Who asked may be gone; the change is made all the same.
            let _ = answer.send(outcome);
        })
    };
    let answered = async move { answered.await.unwrap_or(Err(Refusal::ShuttingDown)) };
    (Box::new(apply), Box::pin(answered))
}

impl Topics {
    fn enqueue<T: 'static>(
        &mut self,
        ctx: &mut Context<Self>,
        change: impl FnOnce(&mut Draft) -> Result<T, Refusal> + 'static,
    ) -> ResponseFuture<Result<T, Refusal>> {
        let (apply, answer) = answered(change);
        self.wait_for_batch(ctx, Waiting { deletes: false, apply });
        answer
    }

    fn wait_for_batch(&mut self, ctx: &mut Context<Self>, waiting: Waiting) {
        if self.waiting.is_empty() && !self.committing {
            // Handled after the messages that are in the mailbox now.
            ctx.notify(CommitDue);
        }
        self.waiting.push_back(waiting);
    }

    /// Takes the next batch all the way, unless one is under way.
    fn commit(&mut self, ctx: &mut Context<Self>) {
        while !self.committing && !self.waiting.is_empty() {
            let (mut draft, settles) = self.next_batch();
            if draft.is_unchanged() {
                settles.into_iter().for_each(|settle| settle(None));
                continue;
            }
            let removed = draft.take_removed();
            let registration = match self.save(draft) {
                Ok(registration) => registration,
                Err(error) => {
                    error!(%error, "topics not saved");
                    let refusal = Refusal::NotSaved { what: "the topic table", cause: error.to_string() };
                    settles.into_iter().for_each(|settle| settle(Some(refusal.clone())));
                    continue;
                }
            };
            self.committing = true;
            let wait_max = self.config.registration_wait_max;
            let rest = finish(self.peers.clone(), removed, registration, wait_max).into_actor(self);
            ctx.spawn(rest.map(move |(), topics, ctx| {
                settles.into_iter().for_each(|settle| settle(None));
                topics.committing = false;
                topics.commit(ctx);
            }));
        }
    }

    /// Applies the waiting changes up to where deletions begin or end.
    fn next_batch(&mut self) -> (Draft, Vec<Settle>) {
        let base = Arc::clone(&self.publisher.load());
        let mut draft = Draft::new(base, self.rules.clone(), self.peers.starter.clone());
        let deletes = self.waiting.front().is_some_and(|first| first.deletes);
        let end = self.waiting.iter().position(|waiting| waiting.deletes != deletes);
        let batch = self.waiting.drain(..end.unwrap_or(self.waiting.len()));
        let settles = batch.map(|waiting| (waiting.apply)(&mut draft)).collect();
        (draft, settles)
    }

    /// Stores a draft, makes it durable, publishes it.
    fn save(&mut self, draft: Draft) -> Result<RegisterTopics, MetadataError> {
        let deleted: Vec<TopicName> = draft.deleted().cloned().collect();
        let changed: Vec<TopicConfig> = draft.altered().cloned().collect();
        let map = draft.into_map(self.clock.now());
        let data_version = map.data_version;
        // The default topic follows from the settings at each start.
        let stored = changed.iter().filter(|config| &*config.topic_name != DEFAULT_TOPIC);
        self.table.put_all(&stored.cloned().collect::<Vec<_>>())?;
        for topic in &deleted {
            self.table.delete(topic)?;
        }
        self.table.put_version(data_version)?;
        if let Err(error) = self.metadata.flush() {
            self.take_back(&changed, &deleted);
            return Err(error);
        }
        let before = Arc::clone(&self.publisher.load());
        self.publisher.publish(map);
        let events = &self.peers.events;
        for config in &changed {
            if !before.topics.contains_key(&config.topic_name) {
                events.tell(EventKind::TopicCreated, || BrokerEvent::TopicCreated {
                    topic: config.topic_name.clone(),
                    queues: config.read_queue_nums.max(config.write_queue_nums),
                });
            }
            info!(topic = %config.topic_name, read_queue_nums = config.read_queue_nums,
                write_queue_nums = config.write_queue_nums, perm = config.perm.0, "topic settings changed");
        }
        for topic in &deleted {
            info!(%topic, "topic deleted");
            events.tell(EventKind::TopicDeleted, || BrokerEvent::TopicDeleted { topic: topic.clone() });
        }
        Ok(RegisterTopics { data_version, changed })
    }
}

impl Topics {
    /// Writes over a batch that could not be made durable, or a later flush would bring back what was refused.
    fn take_back(&self, changed: &[TopicConfig], deleted: &[TopicName]) {
        let before = self.publisher.load();
        let touched = changed.iter().map(|config| &config.topic_name).chain(deleted);
        let taken_back = || -> Result<(), MetadataError> {
            for topic in touched.filter(|topic| &***topic != DEFAULT_TOPIC) {
                match before.topics.get(topic) {
                    Some(entry) => self.table.put_all(std::slice::from_ref(&entry.config))?,
                    None => _ = self.table.delete(topic)?,
                }
            }
            self.table.put_version(before.data_version)
        };
        if let Err(error) = taken_back() {
            error!(%error, "refused changes of topics may be there after a restart");
        }
    }
}

/// What follows a published batch: queues of deleted topics go, and the name servers are told.
async fn finish(
    peers: TopicsPeers,
    removed: Vec<Arc<TopicEntry>>,
    registration: RegisterTopics,
    wait_max: Duration,
) {
    for entry in removed {
        let stops = entry.started_queues().map(|(_, queue)| queue.send(DeleteQueue));
        // A queue that is gone already needs no deletion.
        futures::future::join_all(stops).await;
        delete_files(&*peers.files, entry.name());
        for watcher in &peers.deletions {
            let told = watcher.send(TopicDeleted { topic: entry.name().clone() }).await;
            told.unwrap_or_else(|error| warn!(topic = %entry.name(), %error, "topic deletion not heard"));
        }
    }
    let Some(registrar) = peers.registrar else { return };
    let DataVersion { counter, .. } = registration.data_version;
    if let Err(error) = registrar.send(registration).timeout(wait_max).await {
        warn!(data_version = counter, %error, "topics not registered yet");
    }
}

/// Files that stay do no harm but for their room; [`DeleteUnusedFiles`] tries again.
fn delete_files(files: &dyn QueueFiles, topic: &TopicName) {
    if let Err(error) = files.delete_topic(topic) {
        warn!(%topic, %error, "queue files not deleted");
    }
}

/// Whether a topic belongs to the broker, by its name.
pub fn is_system_topic(topic: &str, rules: &TopicRules) -> bool {
    names::is_system_topic(topic, rules.own_names())
}

#[cfg(test)]
mod tests;
