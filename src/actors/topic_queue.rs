//! One message queue: numbers its messages, keeps its consume queue, answers and holds its pulls.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;

use super::request::{ClientLink, ReplyTo};
use crate::error::Refusal;
use crate::types::QueueOffset;

/// The extent of the queue: `[min, max)`.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "QueueExtent")]
pub struct QueryExtent;

#[derive(MessageResponse, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QueueExtent {
    pub min: QueueOffset,
    pub max: QueueOffset,
    /// Store time of the newest message, ms; `None` while the queue is empty.
    pub last_stored_at_ms: Option<i64>,
    /// The message at offset 0 is there and young enough to be in memory: new groups begin at 0.
    pub begins_young: bool,
}

/// The first offset stored at or after a time (LOWER), or the last at or before it (UPPER).
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Result<QueueOffset, Refusal>")]
pub struct SearchOffsetByTime {
    pub timestamp_ms: i64,
    pub upper: bool,
}

/// Store time of the message at an offset, ms; `None` when it is not there.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Option<i64>")]
pub struct QueryStoredAt {
    pub offset: QueueOffset,
}

/// The records of up to `max` messages from `offset` on, as they lie in the log.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Vec<Bytes>")]
pub struct ReadRecords {
    pub offset: QueueOffset,
    pub max: u32,
}

/// Deletes the consume queue from disk and stops the actor; held pulls are answered. The topic is gone.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct DeleteQueue;

pub struct TopicQueue;

impl Actor for TopicQueue {
    type Context = Context<Self>;
}
