//! PULL_MESSAGE (11), LITE_PULL_MESSAGE (361): checks, the filter, and the queue that answers.
//!
//! The checks and their order are RocketMQ's (`PullMessageProcessor`).

use std::time::Duration;

use actix::prelude::*;

use crate::actors::broker_settings::SettingsTable;
use crate::actors::consumer_groups::ConsumerGroupTable;
use crate::actors::consumer_offsets::{CommitOffset, ConsumerOffsets, PendingResets, TakeReset};
use crate::actors::membership::GroupSubscription;
use crate::actors::offset_table::OffsetKey;
use crate::actors::request::{PulledReply, Reply, ReplyContent, Request};
use crate::actors::subscription_groups::GroupSettings;
use crate::actors::topic_queue::{PullMessages, QueryExtent, TopicQueue};
use crate::actors::topic_table::{TopicEntry, TopicMap};
use crate::actors::topics::unknown_topic;
use crate::error::Refusal;
use crate::protocol::body::subscription::{SubscriptionData, TAG};
use crate::protocol::header::{
    PULL_COMMIT_OFFSET, PULL_SUBSCRIPTION, PULL_SUSPEND, PullHeader, PullResponse,
};
use crate::protocol::response_code::ResponseCode;
use crate::protocol::subscription_group_config::SubscriptionGroupConfig;
use crate::store::pull::MessageFilter;
use crate::types::{QueueId, QueueOffset};

/// Longest time a pull is held, whatever it asks for.
const MAX_HOLD: Duration = Duration::from_secs(120);

/// Whom a pull asks.
#[derive(Clone)]
pub struct PullOwners {
    pub settings: SettingsTable,
    pub groups: GroupSettings,
    pub consumers: ConsumerGroupTable,
    pub offsets: Addr<ConsumerOffsets>,
    pub resets: PendingResets,
}

/// What becomes of a pull at the door.
pub enum PullTaken {
    /// Its queue has it.
    HandedOver,
    /// Its group is new, or somebody reset offsets: see [`PullOwners::pull_carefully`].
    NeedsCare(Request),
}

impl PullOwners {
    /// Hands a pull to its queue, if all that it needs is known already.
    pub fn pull(&self, request: Request, topics: &TopicMap) -> Result<PullTaken, Refusal> {
        let header: PullHeader = request.header("PULL_MESSAGE")?;
        let config = match self.groups.find(&header.consumer_group) {
            Some(config) if !self.resets.any() => config,
            _ => return Ok(PullTaken::NeedsCare(request)),
        };
        let prepared = self.prepare(&request, header, &config, topics)?;
        prepared.hand_over(request)?;
        Ok(PullTaken::HandedOver)
    }

    /// As [`pull`](Self::pull), asking the owners of groups and offsets first.
    pub async fn pull_carefully(&self, request: Request, topics: &TopicMap) -> Result<(), Refusal> {
        let header: PullHeader = request.header("PULL_MESSAGE")?;
        // A new group is told before it is published: the table may not have it yet.
        let config = self.groups.find_or_create(&header.consumer_group).await?;
        let key = OffsetKey {
            group: header.consumer_group.clone(),
            topic: header.topic.clone(),
            queue_id: QueueId(header.queue_id.max(0) as u32),
        };
        let prepared = self.prepare(&request, header, &config, topics)?;
        if self.resets.any()
            && let Ok(Some(offset)) = self.offsets.send(TakeReset { key }).await
        {
            return prepared.answer_moved(request, offset).await;
        }
        prepared.hand_over(request)
    }

    fn prepare(
        &self,
        request: &Request,
        header: PullHeader,
        config: &SubscriptionGroupConfig,
        topics: &TopicMap,
    ) -> Result<PreparedPull, Refusal> {
        if !self.settings.load().permission.is_readable() {
            return Err(Refusal::NoPermission {
                what: "pulling from this broker".into(),
                remedy: "the broker is write-only; set brokerPermission to 6",
            });
        }
        let group = &header.consumer_group;
        if !config.consume_enable {
            return Err(Refusal::NoPermission {
                what: format!("subscription group {group}"),
                remedy: "its setting consumeEnable is off; turn it on with mqadmin updateSubGroup -s true",
            });
        }
        let entry = topics.topics.get(&header.topic).ok_or_else(|| unknown_topic(&header.topic, topics))?;
        if !entry.config.perm.is_readable() {
            return Err(Refusal::NoPermission {
                what: format!("reading topic {}", header.topic),
                remedy: "its permission lacks read (4); change it with mqadmin updateTopicPerm",
            });
        }
        let queue = queue_of(entry, header.queue_id)?;
        let filter = self.filter_of(&header, config)?;
        if header.sys_flag & PULL_COMMIT_OFFSET != 0 && header.commit_offset >= 0 {
            let key = OffsetKey {
                group: group.clone(),
                topic: header.topic.clone(),
                queue_id: QueueId(header.queue_id as u32),
            };
            // A commit that finds no room is made good by the next pull's.
            let _ =
                self.offsets.try_send(CommitOffset { key, offset: QueueOffset(header.commit_offset as u64) });
        }
        let hold = (header.sys_flag & PULL_SUSPEND != 0)
            .then(|| Duration::from_millis(header.suspend_timeout_ms.max(0) as u64).min(MAX_HOLD));
        let message = PullMessages {
            link: request.from.clone(),
            to: request.reply_to(),
            from: header.queue_offset,
            max_messages: usize::try_from(header.max_msg_nums).unwrap_or(1),
            filter,
            hold,
            suggested_broker_id: 0,
            group: header.consumer_group,
        };
        Ok(PreparedPull { queue: queue.clone(), message })
    }

    /// The filter of the request itself, or the one the group registered.
    fn filter_of(
        &self,
        header: &PullHeader,
        config: &SubscriptionGroupConfig,
    ) -> Result<MessageFilter, Refusal> {
        let (group, topic) = (&header.consumer_group, &header.topic);
        if header.sys_flag & PULL_SUBSCRIPTION != 0 {
            let expression = header.subscription.as_deref().unwrap_or_default();
            let kind = header.expression_type.as_deref().unwrap_or(TAG);
            let data = SubscriptionData::build(topic.clone(), expression, kind)
                .map_err(|error| Refusal::SubscriptionMalformed { error: error.to_string() })?;
            return evaluated(&GroupSubscription::new(data));
        }
        let view = self.consumers.view(group).ok_or_else(|| Refusal::SubscriptionUnknown {
            problem: format!("of group {group} is not known here: no member of it has sent a heartbeat"),
        })?;
        if view.is_broadcasting() && !config.consume_broadcast_enable {
            return Err(Refusal::NoPermission {
                what: format!("consuming as broadcast with group {group}"),
                remedy: "its setting consumeBroadcastEnable is off; turn it on with mqadmin updateSubGroup -d true",
            });
        }
        if self.groups.table().load().is_read_forbidden(group, topic) {
            return Err(Refusal::NoPermission {
                what: format!("reading topic {topic} with group {group}"),
                remedy: "it was forbidden for this group; allow it again with mqadmin",
            });
        }
        let subscription = view.subscription(topic).ok_or_else(|| Refusal::SubscriptionUnknown {
            problem: format!("of group {group} has no topic {topic}: all members of a group must subscribe to the same topics"),
        })?;
        if subscription.data.sub_version < header.sub_version {
            return Err(Refusal::SubscriptionOutdated {
                known: subscription.data.sub_version,
                asked: header.sub_version,
            });
        }
        evaluated(subscription)
    }
}

fn evaluated(subscription: &GroupSubscription) -> Result<MessageFilter, Refusal> {
    subscription.filter.clone().ok_or(Refusal::NotSupported {
        what: "filtering by an SQL92 expression",
        instead: "filter by tags (\"A || B\") until it is",
    })
}

fn queue_of(entry: &TopicEntry, queue_id: i32) -> Result<&Addr<TopicQueue>, Refusal> {
    let queues = entry.config.read_queue_nums;
    let id = u32::try_from(queue_id).ok().filter(|id| *id < queues);
    id.and_then(|id| entry.queue(QueueId(id))).ok_or_else(|| Refusal::QueueOutOfRange {
        topic: entry.name().clone(),
        queue_id,
        queues,
    })
}

/// A pull that passed the checks.
struct PreparedPull {
    queue: Addr<TopicQueue>,
    message: PullMessages,
}

impl PreparedPull {
    fn hand_over(self, request: Request) -> Result<(), Refusal> {
        self.queue.try_send(self.message).map_err(|error| match error {
            SendError::Full(_) => Refusal::Busy { actor: "the queue", waiting: 0 },
            SendError::Closed(_) => unknown_or_gone(&request),
        })
    }

    /// Sends the consumer where its offset was reset to.
    async fn answer_moved(self, request: Request, offset: QueueOffset) -> Result<(), Refusal> {
        let extent = self.queue.send(QueryExtent).await.map_err(|_| unknown_or_gone(&request))?;
        let pulled = PulledReply {
            code: ResponseCode::PULL_OFFSET_MOVED,
            status: "OFFSET_RESET",
            header: PullResponse {
                suggest_which_broker_id: self.message.suggested_broker_id,
                next_begin_offset: offset.0 as i64,
                min_offset: extent.min.0 as i64,
                max_offset: extent.max.0 as i64,
            },
            records: Vec::new(),
        };
        request.from.reply(Reply { to: request.reply_to(), content: ReplyContent::Pulled(pulled) });
        Ok(())
    }
}

fn unknown_or_gone(request: &Request) -> Refusal {
    let topic = request.command.fields.get("topic").unwrap_or_default();
    Refusal::TopicUnknown { topic: topic.into(), hint: "it was deleted this moment".into() }
}
