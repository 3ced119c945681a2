//! Messages that the broker sends itself: to their queue, and who waits for each of them.

use std::net::SocketAddr;

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::commit_log_writer::StoredSend;
use super::topic_queue::{MessageStored, Promise, SendMessages, SendReply, SendRequest};
use super::topic_table::TopicTable;
use crate::collections::HashMap;
use crate::error::Refusal;
use crate::protocol::message::{PendingMessage, StoredMessage};
use crate::types::{FlushMode, QueueId, TopicName};

/// The sends of one actor that are under way. The actor takes [`MessageStored`] and hands it to [`OwnSends::settle`].
pub struct OwnSends {
    topics: TopicTable,
    flush: FlushMode,
    waiting: HashMap<u64, oneshot::Sender<Result<StoredSend, Refusal>>>,
    next_token: u64,
}

impl OwnSends {
    pub fn new(topics: TopicTable, flush: FlushMode) -> Self {
        Self { topics, flush, waiting: HashMap::default(), next_token: 0 }
    }

    /// Sends a message to its queue; resolves when it is stored or refused. `owner` is told first.
    pub fn store(
        &mut self,
        message: PendingMessage,
        owner: Recipient<MessageStored>,
    ) -> impl Future<Output = Result<StoredSend, Refusal>> + use<> {
        let token = self.next_token;
        self.next_token += 1;
        let sent = self.send(message, SendReply::Actor { recipient: owner, token, told_late: false });
        let stored = sent.map(|()| {
            let (waiting, stored) = oneshot::channel();
            self.waiting.insert(token, waiting);
            stored
        });
        async move { stored?.await.unwrap_or(Err(Refusal::ShuttingDown)) }
    }

    /// Sends a message to its queue. The owner is told with the token, and nobody else.
    pub fn begin(
        &mut self,
        message: PendingMessage,
        owner: Recipient<MessageStored>,
    ) -> Result<u64, Refusal> {
        let token = self.next_token;
        self.next_token += 1;
        self.send(message, SendReply::Actor { recipient: owner, token, told_late: false }).map(|()| token)
    }

    fn send(&self, message: PendingMessage, reply: SendReply) -> Result<(), Refusal> {
        let entry = self.topics.get(&message.topic);
        let found = entry.as_ref().and_then(|entry| Some((entry, entry.queue(message.queue_id)?)));
        let Some((entry, queue)) = found else {
            let topic = message.topic.clone();
            return Err(Refusal::TopicUnknown { topic, hint: "it was deleted meanwhile".into() });
        };
        let promise = Promise::of(self.flush, entry, true);
        let send = SendRequest { messages: vec![message], promise, reply };
        queue.try_send(SendMessages(vec![send])).map_err(|error| match error {
            SendError::Full(_) => Refusal::Busy { actor: "the queue", waiting: 0 },
            SendError::Closed(_) => Refusal::ShuttingDown,
        })
    }

    /// Tells whoever waits how it ended.
    pub fn settle(&mut self, stored: MessageStored) {
        if let Some(waiting) = self.waiting.remove(&stored.token) {
            // Whoever asked may have stopped waiting.
            let _ = waiting.send(stored.outcome);
        }
    }
}

/// A message like `stored`, for another queue and without its properties.
pub fn copy_of(
    stored: &StoredMessage,
    topic: TopicName,
    queue_id: QueueId,
    store_host: SocketAddr,
) -> PendingMessage {
    PendingMessage {
        topic,
        queue_id,
        flag: stored.flag,
        sys_flag: stored.sys_flag,
        born_at_ms: stored.born_at_ms,
        born_host: stored.born_host,
        store_host,
        reconsume_times: stored.reconsume_times,
        prepared_transaction_offset: 0,
        body: stored.body.clone(),
        properties: Bytes::new(),
        extra_properties: Bytes::new(),
    }
}
