//! Reads one message queue, for as long as a consumer holds it.

use std::time::Duration;

use tokio::sync::mpsc;

use super::consumer::Membership;
use super::error::ClientError;
use super::remoting::{Call, RemotingConnection, Response};
use crate::protocol::body::subscription::SubscriptionData;
use crate::protocol::header::{PULL_SUBSCRIPTION, PULL_SUSPEND, PullHeader, PullResponse};
use crate::protocol::message::StoredMessage;
use crate::protocol::properties::names;
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;
use crate::types::{GroupName, MessageQueue};

/// Most messages of one pull; the broker gives no more anyway.
const PULL_BATCH: i32 = 32;
/// How long a broker may hold a pull.
const SUSPEND: Duration = Duration::from_secs(15);
/// How long an answer is awaited: the hold, and then some.
const PULL_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a pull that failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// What a loop tells its consumer.
#[derive(Debug)]
pub(super) struct Pulled {
    pub queue: MessageQueue,
    /// Which holding of the queue this is: what was pulled before the queue went away and came back is stale.
    pub holding: u64,
    pub what: PulledWhat,
}

#[derive(Debug)]
pub(super) enum PulledWhat {
    /// Messages in order; behind them all is consumed up to `next`.
    Messages { messages: Vec<StoredMessage>, next: i64 },
    /// The offset lay outside the queue; this is the nearest one inside.
    Moved { next: i64 },
    /// Will be tried again.
    Failed(ClientError),
}

/// The state of one loop.
pub(super) struct PullLoop {
    pub connection: RemotingConnection,
    pub group: GroupName,
    pub membership: Membership,
    pub subscription: SubscriptionData,
    pub queue: MessageQueue,
    pub holding: u64,
    pub next: i64,
    pub to: mpsc::Sender<Pulled>,
}

impl PullLoop {
    /// Pulls until the consumer is gone; it is meant to be aborted.
    pub async fn run(mut self) {
        loop {
            let pulled = match self.pull().await {
                Ok(answer) => self.understand(answer),
                Err(error) => Some(PulledWhat::Failed(error)),
            };
            let failed = matches!(pulled, Some(PulledWhat::Failed(_)));
            if let Some(what) = pulled {
                let pulled = Pulled { queue: self.queue.clone(), holding: self.holding, what };
                if self.to.send(pulled).await.is_err() {
                    return;
                }
            }
            if failed {
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }

    async fn pull(&self) -> Result<Response, ClientError> {
        // The broker knows a member's subscription from its heartbeat; a reader sends its own along.
        let (sys_flag, subscription) = match self.membership {
            Membership::Member => (PULL_SUSPEND, None),
            Membership::Reader => {
                (PULL_SUSPEND | PULL_SUBSCRIPTION, Some(self.subscription.sub_string.clone()))
            }
        };
        let header = PullHeader {
            consumer_group: self.group.clone(),
            topic: self.queue.topic.clone(),
            queue_id: self.queue.queue_id,
            queue_offset: self.next,
            max_msg_nums: PULL_BATCH,
            sys_flag,
            commit_offset: 0,
            suspend_timeout_ms: SUSPEND.as_millis() as i64,
            subscription,
            sub_version: self.subscription.sub_version,
            expression_type: Some(self.subscription.expression_type.clone()),
        };
        self.connection.call(Call::new(RequestCode::PULL_MESSAGE).header(&header), PULL_TIMEOUT).await
    }

    /// What the consumer should know of an answer, if anything.
    fn understand(&mut self, answer: Response) -> Option<PulledWhat> {
        let next = match answer.header::<PullResponse>() {
            Ok(header) => header.next_begin_offset,
            // A refusal has no such header.
            Err(_) if !answer.code.is_success() => -1,
            Err(error) => return Some(PulledWhat::Failed(error)),
        };
        match answer.code {
            ResponseCode::SUCCESS => {
                self.next = next;
                let mut messages = StoredMessage::decode_all(answer.body);
                messages.retain(|message| is_wanted(message, &self.subscription));
                Some(PulledWhat::Messages { messages, next })
            }
            ResponseCode::PULL_NOT_FOUND | ResponseCode::PULL_RETRY_IMMEDIATELY => {
                let skipped = next > self.next;
                self.next = next;
                skipped.then(|| PulledWhat::Messages { messages: Vec::new(), next })
            }
            ResponseCode::PULL_OFFSET_MOVED => {
                self.next = next;
                Some(PulledWhat::Moved { next })
            }
            code => {
                let remark = answer.remark.unwrap_or_default();
                Some(PulledWhat::Failed(ClientError::Refused { code, remark }))
            }
        }
    }
}

/// Brokers compare hashes of tags; the text is compared here.
fn is_wanted(message: &StoredMessage, subscription: &SubscriptionData) -> bool {
    if !subscription.is_tag_type() || subscription.is_every_tag() {
        return true;
    }
    let tag = message.property(names::TAGS);
    tag.is_some_and(|tag| subscription.tags_set.iter().any(|wanted| wanted == tag))
}
