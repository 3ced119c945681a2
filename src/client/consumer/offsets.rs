//! Consumer offsets: where a queue is begun, and what the broker is told of progress.

use super::{ConsumeFrom, Consumer, Membership};
use crate::client::error::ClientError;
use crate::client::remoting::Call;
use crate::client::route::QueueAt;
use crate::protocol::header::{
    OffsetResponse, QueryConsumerOffset, QueueHeader, SearchOffset, UpdateConsumerOffset,
};
use crate::protocol::names;
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;
use crate::types::MessageQueue;

impl Consumer {
    /// Where the group goes on in a queue, or begins.
    pub(super) async fn first_offset(&mut self, at: &QueueAt) -> Result<i64, ClientError> {
        let QueueAt { queue, addr } = at;
        if self.options.membership == Membership::Member {
            let header = QueryConsumerOffset {
                consumer_group: self.options.group.clone(),
                topic: queue.topic.clone(),
                queue_id: queue.queue_id,
                set_zero_if_not_found: Some(false),
            };
            let call = Call::new(RequestCode::QUERY_CONSUMER_OFFSET).header(&header);
            let answer = self.servers.ask(addr, call).await?;
            if answer.code != ResponseCode::QUERY_NOT_FOUND {
                return Ok(answer.success()?.header::<OffsetResponse>()?.offset);
            }
        }
        let (topic, queue_id) = (queue.topic.clone(), queue.queue_id);
        let is_retry = names::is_retry_topic(&topic);
        let call = match self.options.from {
            ConsumeFrom::Last if !is_retry => {
                Call::new(RequestCode::GET_MAX_OFFSET).header(&QueueHeader { topic, queue_id })
            }
            ConsumeFrom::TimestampMs(timestamp) if !is_retry => {
                let header = SearchOffset { topic, queue_id, timestamp, boundary_type: None };
                Call::new(RequestCode::SEARCH_OFFSET_BY_TIMESTAMP).header(&header)
            }
            _ => Call::new(RequestCode::GET_MIN_OFFSET).header(&QueueHeader { topic, queue_id }),
        };
        Ok(self.servers.call(addr, call).await?.header::<OffsetResponse>()?.offset)
    }

    pub(super) async fn commit_offsets(&mut self) {
        for queue in self.held.keys().cloned().collect::<Vec<_>>() {
            self.commit_queue(&queue).await;
        }
    }

    /// Tells the broker of a queue how far it is consumed, if that is news. Nobody waits for an answer.
    pub(super) async fn commit_queue(&mut self, queue: &MessageQueue) {
        let Some((addr, call, next)) = self.commit_call(queue) else { return };
        let sent = match self.servers.connection(&addr).await {
            Ok(connection) => connection.one_way(call).await,
            Err(error) => Err(error),
        };
        match (sent, self.held.get_mut(queue)) {
            (Ok(()), Some(held)) => held.committed = Some(next),
            (Ok(()), None) => {}
            (Err(error), _) => self.last_failure = Some(error),
        }
    }

    pub(super) async fn commit_and_wait(&mut self) -> Result<(), ClientError> {
        for queue in self.held.keys().cloned().collect::<Vec<_>>() {
            if let Some((addr, call, _)) = self.commit_call(&queue) {
                self.servers.call(&addr, call).await?;
            }
        }
        Ok(())
    }

    /// `None` when there is no news, or nobody wants any.
    pub(super) fn commit_call(&self, queue: &MessageQueue) -> Option<(String, Call, i64)> {
        if self.options.membership == Membership::Reader {
            return None;
        }
        let held = self.held.get(queue).filter(|held| held.committed != Some(held.next))?;
        let header = UpdateConsumerOffset {
            consumer_group: self.options.group.clone(),
            topic: queue.topic.clone(),
            queue_id: Some(queue.queue_id),
            commit_offset: Some(held.next),
        };
        let call = Call::new(RequestCode::UPDATE_CONSUMER_OFFSET).header(&header);
        Some((held.addr.clone(), call, held.next))
    }
}
