//! Stores what a producer sends again only once, for a topic that asks for it by `dedup.window.ms`.
//!
//! - Owns: the unique keys that were stored in the topic within its window, and the sends under way.
//! - Takes: [`SendOnce`], [`MessageStored`] for these.
//! - Sends: [`SendMessages`] to the queues of the topic, [`Replies`] to connections; [`SearchOffsetByTime`],
//!   [`QueryExtent`] and [`ReadUnits`] to the queues when it starts.
//! - Fails: a queue that is full refuses as busy; the send is new again then.
//! - Invariants: of sends with one key, to whichever queues, one is stored within the window as long as no more than
//!   [`KEYS_MAX`] are stored in it; the others are answered as the first was, and no earlier.
//!
//! The window is derived: a start reads it from the queues of the topic, and until then nothing is taken. Sends that are
//! delayed or part of a transaction lie elsewhere, and do not pass here.

mod window;

use std::sync::Arc;

use actix::prelude::*;
use bytes::Bytes;
use tracing::info;
use window::{Admission, KeyDigest, KnownSend, Window};

use super::actor_list::ActorList;
use super::commit_log_writer::StoredSend;
use super::context::{Context, observed};
use super::request::{ClientLink, Kept, Replies, Reply, ReplyContent, ReplyTo, StoredReply};
use super::threads::Thread;
use super::topic_queue::{
    MessageStored, QueryExtent, ReadUnits, SearchOffsetByTime, SendMessages, SendReply, SendRequest,
    TopicQueue,
};
use super::topic_table::TopicEntry;
use crate::clock::SharedClock;
use crate::collections::HashMap;
use crate::error::Refusal;
use crate::protocol::message::RecordView;
use crate::protocol::properties::{self, names as property};
use crate::store::commit_log::CommitLogReader;
use crate::types::{QueueId, QueueOffset};

/// Sends remembered of a topic: about 100 MB.
pub const KEYS_MAX: usize = 500_000;
/// Units read in one turn at the start.
const UNITS_PER_READ: u32 = 1_024;

/// Stores a send unless the same was stored within the window. Losing it leaves the sender to its time-out, with
/// nothing stored.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SendOnce {
    pub send: SendRequest,
    pub queue_id: QueueId,
    pub queue: Addr<TopicQueue>,
    /// Of the first message.
    pub unique_key: Bytes,
    pub window_ms: i64,
}

/// What a window is made of; the same for all of a broker but the topic.
#[derive(Clone)]
pub struct DedupWindowParts {
    pub log: CommitLogReader,
    pub store_host: std::net::SocketAddr,
    pub clock: SharedClock,
    pub mailbox_capacity: usize,
}

/// Starts windows where they are first needed. Cheap to clone.
#[derive(Clone)]
pub struct DedupStarter {
    pub parts: DedupWindowParts,
    pub thread: Thread,
    pub actors: ActorList,
}

impl DedupStarter {
    /// Hands a send to the window of its topic.
    pub fn send_once(&self, topic: &Arc<TopicEntry>, once: SendOnce) -> Result<(), Refusal> {
        let start = || {
            let (topic, parts) = (topic.clone(), self.parts.clone());
            let label = topic.name().as_str().to_owned();
            self.actors.start_on(&self.thread, label, move || DedupWindow::new(topic, parts))
        };
        topic.dedup_window.get_or_init(start).try_send(once).map_err(|refused| match refused {
            SendError::Full(_) => Refusal::Busy { actor: "the window of sends", waiting: 1 },
            SendError::Closed(_) => Refusal::ShuttingDown,
        })
    }
}

/// Who waits for the fate of a send.
struct Sender {
    link: Arc<ClientLink>,
    to: ReplyTo,
    unique_key: Option<Bytes>,
}

struct UnderWay {
    key: KeyDigest,
    queue_id: QueueId,
}

pub struct DedupWindow {
    parts: DedupWindowParts,
    /// The topic as it is when the window starts, to be read once.
    topic: Option<Arc<TopicEntry>>,
    window: Window,
    under_way: HashMap<u64, UnderWay>,
    waiting: HashMap<KeyDigest, Vec<Sender>>,
    next_token: u64,
}

impl DedupWindow {
    pub fn new(topic: Arc<TopicEntry>, parts: DedupWindowParts) -> Self {
        Self {
            parts,
            topic: Some(topic),
            window: Window::new(KEYS_MAX),
            under_way: HashMap::default(),
            waiting: HashMap::default(),
            next_token: 0,
        }
    }

    fn tell(&self, senders: Vec<Sender>, fate: &Result<KnownSend, Refusal>) {
        for Sender { link, to, unique_key } in senders {
            let content = match fate {
                Ok(known) => ReplyContent::Stored(StoredReply {
                    kept: known.kept,
                    queue_id: known.queue_id,
                    queue_offset: known.queue_offset,
                    physical_offsets: known.physical_offsets.clone(),
                    store_host: self.parts.store_host,
                    unique_key,
                    // Timer messages do not pass here.
                    recall_handle: None,
                }),
                Err(refusal) => ReplyContent::Refused(refusal.clone()),
            };
            link.replies.do_send(Replies(vec![Reply { to, content }]));
        }
    }

    fn settle(&mut self, key: KeyDigest, fate: Result<KnownSend, Refusal>) {
        match &fate {
            Ok(known) => self.window.stored(key, known.clone()),
            Err(_) => self.window.refused(key),
        }
        let senders = self.waiting.remove(&key).unwrap_or_default();
        self.tell(senders, &fate);
    }
}

/// What was stored in a topic within its window, as far as there is room for it.
async fn stored_in(topic: Arc<TopicEntry>, parts: DedupWindowParts) -> Vec<(KeyDigest, KnownSend)> {
    let begins_at_ms = parts.clock.now().0.saturating_sub(topic.dedup_window_ms().unwrap_or(0));
    let room = KEYS_MAX as u64 / u64::from(topic.queue_nums().max(1));
    let mut found = Vec::new();
    for queue_id in (0..topic.queue_nums()).map(QueueId) {
        let Some(queue) = topic.queue(queue_id) else { continue };
        let search = SearchOffsetByTime { timestamp_ms: begins_at_ms, upper: false };
        // A queue that cannot be read now has nothing to compare with.
        let Ok(Ok(begin)) = queue.send(search).await else { continue };
        let extent = queue.send(QueryExtent).await.unwrap_or_default();
        let mut next = begin.max(QueueOffset(extent.max.0.saturating_sub(room)));
        loop {
            let units = queue.send(ReadUnits { offset: next, max: UNITS_PER_READ }).await.unwrap_or_default();
            for (unit, n) in units.iter().zip(0..) {
                let record = parts.log.read(unit.physical_offset, unit.size_bytes as usize);
                let Some(view) = record.as_ref().and_then(|record| RecordView::parse(record).ok()) else {
                    continue;
                };
                let Some(key) = properties::get(view.properties(), property::UNIQ_KEY) else { continue };
                let known = KnownSend {
                    queue_id,
                    queue_offset: next.advance(n),
                    physical_offsets: vec![unit.physical_offset],
                    stored_at_ms: view.stored_at_ms(),
                    kept: Kept::Promised,
                };
                found.push((KeyDigest::of(key.as_bytes()), known));
            }
            next = next.advance(units.len() as u64);
            if units.len() < UNITS_PER_READ as usize {
                break;
            }
        }
    }
    found.sort_by_key(|(_, known)| known.stored_at_ms);
    found
}

impl Actor for DedupWindow {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.parts.mailbox_capacity);
        let Some(topic) = self.topic.take() else { return };
        let name = topic.name().clone();
        let read = stored_in(topic, self.parts.clone()).into_actor(self);
        // Nothing is taken before it is known what was.
        ctx.wait(read.map(move |found, dedup, _| {
            for (key, known) in found {
                dedup.window.stored(key, known);
            }
            info!(topic = %name, keys = dedup.window.len(), "sends of the window are known");
        }));
    }
}

observed!(DedupWindow);

impl Handler<SendOnce> for DedupWindow {
    type Result = ();

    fn handle(&mut self, once: SendOnce, ctx: &mut Self::Context) {
        let SendOnce { send, queue_id, queue, unique_key, window_ms } = once;
        let SendRequest { messages, promise, reply } = send;
        let SendReply::Client { link, to, unique_key: first_key, .. } = reply else { return };
        let key = KeyDigest::of(&unique_key);
        let sender = Sender { link, to, unique_key: first_key };
        match self.window.admit(key, self.parts.clock.now().0, window_ms) {
            Admission::Known(known) => self.tell(vec![sender], &Ok(known)),
            Admission::UnderWay => self.waiting.entry(key).or_default().push(sender),
            Admission::New => {
                let token = self.next_token;
                self.next_token += 1;
                self.waiting.entry(key).or_default().push(sender);
                self.under_way.insert(token, UnderWay { key, queue_id });
                let recipient = ctx.address().recipient();
                let reply = SendReply::Actor { recipient, token, told_late: true };
                let sent = queue.try_send(SendMessages(vec![SendRequest { messages, promise, reply }]));
                if let Err(refused) = sent {
                    self.under_way.remove(&token);
                    let refusal = match refused {
                        SendError::Full(_) => Refusal::Busy { actor: "the queue", waiting: 1 },
                        SendError::Closed(_) => Refusal::ShuttingDown,
                    };
                    self.settle(key, Err(refusal));
                }
            }
        }
    }
}

impl Handler<MessageStored> for DedupWindow {
    type Result = ();

    fn handle(&mut self, stored: MessageStored, _: &mut Self::Context) {
        let MessageStored { token, outcome, kept } = stored;
        let Some(UnderWay { key, queue_id }) = self.under_way.remove(&token) else { return };
        let known = |stored: StoredSend| KnownSend {
            queue_id,
            queue_offset: stored.first_queue_offset,
            physical_offsets: stored.physical_offsets,
            stored_at_ms: stored.stored_at_ms,
            kept,
        };
        self.settle(key, outcome.map(known));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::actors::commit_log_writer::AppendBatch;
    use crate::actors::request::ReplyContent;
    use crate::actors::topic_queue::{Dispatched, Promise, QueueParts};
    use crate::protocol::topic_config::TopicConfig;
    use crate::testing::log::{TestLog, answer, message_with, settle, store_host, topic_entry};
    use crate::testing::{CLOCK_BEGINS, FakeClient, RuntimeClock, Taken, fake_client, fake_sink};

    struct Bench {
        log: TestLog,
        topic: Arc<TopicEntry>,
        appends: Taken<AppendBatch>,
        link: Arc<ClientLink>,
        client: FakeClient,
    }

    impl Bench {
        fn new() -> Self {
            let log = TestLog::new();
            let (writer, appends) = fake_sink::<AppendBatch>();
            let config = TopicConfig {
                attributes: [("dedup.window.ms".to_owned(), "60000".to_owned())].into(),
                ..TopicConfig::new("T", 2)
            };
            let topic = Arc::new(topic_entry(config, &QueueParts { writer, ..log.queue_parts() }));
            let (link, client) = fake_client();
            Self { log, topic, appends, link, client }
        }

        fn start(&self) -> Addr<DedupWindow> {
            let parts = DedupWindowParts {
                log: self.log.reader.clone(),
                store_host: store_host(),
                clock: RuntimeClock::shared(),
                mailbox_capacity: 64,
            };
            DedupWindow::new(self.topic.clone(), parts).start()
        }

        fn send(&self, key: &'static str, queue_id: u32) -> SendOnce {
            let to = crate::testing::request(crate::protocol::request_code::RequestCode::SEND_MESSAGE)
                .from(&self.link)
                .reply_to();
            let unique_key = Bytes::from_static(key.as_bytes());
            let reply = SendReply::Client {
                link: self.link.clone(),
                to,
                unique_key: Some(unique_key.clone()),
                queue_id: QueueId(queue_id),
                recall_handle: None,
            };
            SendOnce {
                send: SendRequest {
                    messages: vec![message_with("T", "x", &[("UNIQ_KEY", key)])],
                    promise: Promise::Stored,
                    reply,
                },
                queue_id: QueueId(queue_id),
                queue: self.topic.queue(QueueId(queue_id)).unwrap().clone(),
                unique_key,
                window_ms: self.topic.dedup_window_ms().unwrap(),
            }
        }

        /// Queue and offset of the next answer, or the refusal.
        async fn answered(&mut self) -> Result<(u32, u64), String> {
            match self.client.replies.recv().await.unwrap().content {
                ReplyContent::Stored(stored) => Ok((stored.queue_id.0, stored.queue_offset.0)),
                ReplyContent::Refused(refusal) => Err(refusal.to_string()),
                other => panic!("no answer to a send: {other:?}"),
            }
        }
    }

    #[actix::test]
    async fn repeated_send_is_stored_once_and_answered_as_the_first() {
        let mut bench = Bench::new();
        let dedup = bench.start();
        dedup.send(bench.send("k", 0)).await.unwrap();
        // Another queue, as clients do when they try again.
        dedup.send(bench.send("k", 1)).await.unwrap();
        dedup.send(bench.send("other", 1)).await.unwrap();
        assert!(bench.client.replies.try_recv().is_err(), "nothing is promised yet");
        answer(bench.appends.next().await, Ok(()));
        assert_eq!(bench.answered().await, Ok((0, 0)));
        assert_eq!(bench.answered().await, Ok((0, 0)));
        answer(bench.appends.next().await, Ok(()));
        assert_eq!(bench.answered().await, Ok((1, 0)));
        // The writer of the test lives in 1970.
        let ever = SendOnce { window_ms: i64::MAX, ..bench.send("k", 1) };
        dedup.send(ever).await.unwrap();
        assert_eq!(bench.answered().await, Ok((0, 0)));
        settle().await;
        assert!(bench.appends.try_recv().is_err(), "nothing more is stored");
    }

    #[actix::test]
    async fn refused_send_refuses_those_that_waited_and_is_new_again() {
        let mut bench = Bench::new();
        let dedup = bench.start();
        dedup.send(bench.send("k", 0)).await.unwrap();
        dedup.send(bench.send("k", 0)).await.unwrap();
        let full = || Refusal::NotWritable { cause: "full".into() };
        answer(bench.appends.next().await, Err(full()));
        assert!(bench.answered().await.is_err() && bench.answered().await.is_err());
        dedup.send(bench.send("k", 0)).await.unwrap();
        answer(bench.appends.next().await, Ok(()));
        assert_eq!(bench.answered().await, Ok((0, 0)));
    }

    #[actix::test]
    async fn late_disk_is_told_to_who_sent_and_to_who_sends_again() {
        tokio::time::pause();
        let mut bench = Bench::new();
        let dedup = bench.start();
        for queue_id in [0, 1] {
            let mut once = bench.send("k", queue_id);
            once.send.promise = Promise::OnDisk;
            dedup.send(once).await.unwrap();
        }
        answer(bench.appends.next().await, Ok(()));
        for _ in 0..2 {
            // Nobody says that it is on disk: the clock of the test goes on to the deadline.
            let content = bench.client.replies.recv().await.unwrap().content;
            let ReplyContent::Stored(stored) = content else { panic!("{content:?}") };
            assert_eq!((stored.queue_id, stored.kept), (QueueId(0), Kept::InMemory));
        }
    }

    #[actix::test]
    async fn window_is_read_from_the_queues_at_the_start_and_ends() {
        tokio::time::pause();
        let mut bench = Bench::new();
        let at = bench.log.append_at(message_with("T", "x", &[("UNIQ_KEY", "k")]), 0, CLOCK_BEGINS);
        let dispatched = Dispatched {
            first: QueueOffset(0),
            units: vec![TestLog::unit(&at, 0)],
            last_stored_at_ms: CLOCK_BEGINS.0,
        };
        bench.topic.queue(QueueId(1)).unwrap().send(dispatched).await.unwrap();
        let dedup = bench.start();
        dedup.send(bench.send("k", 0)).await.unwrap();
        assert_eq!(bench.answered().await, Ok((1, 0)));
        tokio::time::advance(Duration::from_millis(60_001)).await;
        dedup.send(bench.send("k", 0)).await.unwrap();
        answer(bench.appends.next().await, Ok(()));
        assert_eq!(bench.answered().await, Ok((0, 0)));
    }
}

#[cfg(test)]
mod world;
