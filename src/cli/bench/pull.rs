//! Pulls many queues over one connection, one pull of each queue under way at any time.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::frame::{FIRST_OPAQUE, Glance, decode, remark_of};
use super::socket::Socket;
use super::walk::Records;
use crate::protocol::body::subscription::SQL92;
use crate::protocol::command::OutgoingHead;
use crate::protocol::frame::HeaderCodec;
use crate::protocol::header::{
    FieldWriter, PULL_SUBSCRIPTION, PULL_SUSPEND, PullHeader, PullResponse, TypedHeader,
};
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;
use crate::types::{GroupName, TopicName};

/// How long a server may hold a pull.
pub const SUSPEND: Duration = Duration::from_secs(15);

/// How to pull.
#[derive(Clone, Debug)]
pub struct PullShape {
    pub codec: HeaderCodec,
    pub topic: TopicName,
    pub group: GroupName,
    /// Most messages of one pull.
    pub batch: i32,
    /// Whether pulls are held until messages come.
    pub long_poll: bool,
    /// An SQL92 condition; `None`: every message.
    pub condition: Option<String>,
}

impl PullShape {
    /// Pulls of every message, answered at once.
    pub fn new(codec: HeaderCodec, topic: &TopicName, group: &GroupName, batch: i32) -> Self {
        Self { codec, topic: topic.clone(), group: group.clone(), batch, long_poll: false, condition: None }
    }
}

/// A queue that is pulled.
#[derive(Clone, Debug)]
pub struct PulledQueue {
    pub queue_id: i32,
    pub next: i64,
    /// Stop here; `None`: go on for ever.
    pub end: Option<i64>,
    asked_at: Instant,
}

/// What an answer to a pull came to.
pub enum PullOutcome<'a> {
    /// Records, and how long the pull took.
    Records {
        records: Records<'a>,
        took: Duration,
    },
    Nothing,
    Refused {
        code: i32,
        remark: String,
    },
}

/// The queues of one connection; each one's place is its opaque number.
pub struct Puller {
    shape: PullShape,
    queues: Vec<PulledQueue>,
    under_way: usize,
    scratch: BytesMut,
}

impl Puller {
    /// `queues` are queue ids with `[next, end)`.
    pub fn new(
        shape: PullShape,
        queues: impl IntoIterator<Item = (i32, i64, Option<i64>)>,
        now: Instant,
    ) -> Self {
        let queue = |(queue_id, next, end)| PulledQueue { queue_id, next, end, asked_at: now };
        let queues = queues.into_iter().map(queue).collect();
        Self { shape, queues, under_way: 0, scratch: BytesMut::new() }
    }

    /// How many messages lie before where the queues are now, those that did not match among them.
    pub fn passed(&self, begins: &[(i32, i64, Option<i64>)]) -> u64 {
        self.queues.iter().zip(begins).map(|(queue, (_, from, _))| (queue.next - from).max(0) as u64).sum()
    }

    pub fn is_idle(&self) -> bool {
        self.under_way == 0
    }

    /// Asks for the first messages of every queue.
    pub fn begin(&mut self, socket: &mut Socket, now: Instant) {
        for index in 0..self.queues.len() {
            self.ask(socket, index, now);
        }
    }

    /// Asks on, unless the queue is at its end.
    fn ask(&mut self, socket: &mut Socket, index: usize, now: Instant) {
        let queue = &mut self.queues[index];
        if queue.end.is_some_and(|end| queue.next >= end) {
            return;
        }
        queue.asked_at = now;
        let header = PullHeader {
            consumer_group: self.shape.group.clone(),
            topic: self.shape.topic.clone(),
            queue_id: queue.queue_id,
            queue_offset: queue.next,
            max_msg_nums: self.shape.batch,
            sys_flag: PULL_SUBSCRIPTION | if self.shape.long_poll { PULL_SUSPEND } else { 0 },
            commit_offset: 0,
            suspend_timeout_ms: SUSPEND.as_millis() as i64,
            subscription: Some(self.shape.condition.clone().unwrap_or_else(|| "*".to_owned())),
            sub_version: 0,
            expression_type: self.shape.condition.as_ref().map(|_| SQL92.to_owned()),
        };
        let writer = FieldWriter::of(&header);
        let fields = writer.as_fields();
        let opaque = FIRST_OPAQUE + index as i32;
        let code = RequestCode::PULL_MESSAGE.as_i32();
        self.scratch.clear();
        OutgoingHead { fields: &fields, ..OutgoingHead::request(self.shape.codec, opaque, code) }
            .write(&mut self.scratch, 0);
        socket.output().extend_from_slice(&self.scratch);
        self.under_way += 1;
    }

    /// Looks at an answer and moves its queue on; [`ask_again`](Self::ask_again) goes on pulling. `None` for a
    /// frame that answers none of ours.
    pub fn take<'a>(
        &mut self,
        seen: &Glance,
        frame: &'a [u8],
        now: Instant,
    ) -> Option<(usize, PullOutcome<'a>)> {
        let index = seen.opaque.wrapping_sub(FIRST_OPAQUE) as usize;
        let queue = self.queues.get_mut(index)?;
        self.under_way -= 1;
        let code = ResponseCode::from_i32(seen.code);
        let header = decode(seen, frame).and_then(|command| PullResponse::from_fields(&command.fields).ok());
        let outcome = match (code, header) {
            (ResponseCode::SUCCESS, Some(header)) => {
                let asked = std::mem::replace(&mut queue.next, header.next_begin_offset);
                let records =
                    Records { queue_id: queue.queue_id, bytes: seen.body(frame), offsets: asked..queue.next };
                PullOutcome::Records { records, took: now - queue.asked_at }
            }
            (
                ResponseCode::PULL_NOT_FOUND
                | ResponseCode::PULL_RETRY_IMMEDIATELY
                | ResponseCode::PULL_OFFSET_MOVED,
                Some(header),
            ) => {
                queue.next = header.next_begin_offset;
                PullOutcome::Nothing
            }
            _ => PullOutcome::Refused { code: seen.code, remark: remark_of(seen, frame) },
        };
        Some((index, outcome))
    }

    /// Pulls the queue at `index` again.
    pub fn ask_again(&mut self, socket: &mut Socket, index: usize, now: Instant) {
        self.ask(socket, index, now);
    }
}
