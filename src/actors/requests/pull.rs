//! PULL_MESSAGE (11), LITE_PULL_MESSAGE (361): checks, the filter, and the queue that answers.
//!
//! The checks and their order are RocketMQ's (`PullMessageProcessor`).

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use crate::actors::broker_settings::{SettingValues, SettingsTable};
use crate::actors::consumer_groups::ConsumerGroupTable;
use crate::actors::consumer_offsets::{CommitOffset, ConsumerOffsets, PendingResets, TakeReset};
use crate::actors::extensions::delivery_screen::ScreenPull;
use crate::actors::extensions::hook_table::HookTable;
use crate::actors::membership::{FilterFault, GroupSubscription};
use crate::actors::offset_table::OffsetKey;
use crate::actors::request::{PulledReply, Reply, ReplyContent, Request};
use crate::actors::subscription_groups::GroupSettings;
use crate::actors::topic_queue::{PullMessages, QueryExtent, TopicQueue};
use crate::actors::topic_table::{TopicEntry, TopicMap};
use crate::actors::topics::unknown_topic;
use crate::error::Refusal;
use crate::filter::FilterRules;
use crate::protocol::body::subscription::{SubscriptionData, TAG};
use crate::protocol::header::{
    PULL_COMMIT_OFFSET, PULL_SUBSCRIPTION, PULL_SUSPEND, PullHeader, PullResponse,
};
use crate::protocol::names;
use crate::protocol::response_code::ResponseCode;
use crate::protocol::subscription_group_config::SubscriptionGroupConfig;
use crate::store::message_filter::{MessageFilter, RetryFilter};
use crate::types::{QueueId, QueueOffset, TopicName};

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
    pub filter_rules: FilterRules,
    /// Extensions that may decide on what is pulled, and who asks them.
    pub hooks: HookTable,
    pub screen: Recipient<ScreenPull>,
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
        // A group that is made now is in the published table only a moment later.
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

    fn prepare<'a>(
        &self,
        request: &Request,
        header: PullHeader,
        config: &SubscriptionGroupConfig,
        topics: &'a TopicMap,
    ) -> Result<PreparedPull<'a>, Refusal> {
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
        let filter = self.filter_of_retries(&header, self.filter_of(&header, config)?);
        check_filter(&filter, entry, &self.settings.load())?;
        if header.sys_flag & PULL_COMMIT_OFFSET != 0 && header.commit_offset >= 0 {
            let key = OffsetKey {
                group: group.clone(),
                topic: header.topic.clone(),
                queue_id: QueueId(header.queue_id as u32),
            };
            // A commit that finds no room is made good by the next pull's.
            let offset = QueueOffset(header.commit_offset as u64);
            let _ = self.offsets.try_send(CommitOffset { key, offset, awaited: false });
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
        let screen = self.hooks.decides_deliveries().then(|| Screen {
            recipient: self.screen.clone(),
            topic: header.topic,
            queue_id: QueueId(header.queue_id as u32),
        });
        Ok(PreparedPull { queue, message, screen })
    }

    /// The filter of a retry topic, where retried messages are to satisfy the conditions that the group has by now.
    fn filter_of_retries(&self, header: &PullHeader, filter: MessageFilter) -> MessageFilter {
        let is_asked = filter == MessageFilter::All
            && self.settings.load().filter_retries
            && names::retry_topic(&header.consumer_group) == header.topic;
        let view = is_asked.then(|| self.consumers.view(&header.consumer_group)).flatten();
        let conditions = view.and_then(|view| {
            RetryFilter::new(view.subscriptions.iter().filter_map(|(topic, subscription)| {
                match &subscription.filter {
                    Ok(MessageFilter::Sql(condition)) => Some((topic.clone(), condition.clone())),
                    _ => None,
                }
            }))
        });
        conditions.map_or(filter, |conditions| MessageFilter::Retried(Arc::new(conditions)))
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
            // Consumers that send it along have it in their heartbeats too, as a rule.
            let view = self.consumers.view(group);
            let known = view.as_ref().and_then(|view| view.subscription(topic)).map(Arc::as_ref);
            let subscription = GroupSubscription::new(data, known, &self.filter_rules);
            return subscription.filter.map_err(|fault| no_filter(&fault));
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
        subscription.filter.clone().map_err(|fault| match fault {
            FilterFault::Malformed(error) => Refusal::FilterMissing {
                group: group.clone(),
                topic: topic.clone(),
                error: error.to_string(),
            },
            fault => no_filter(&fault),
        })
    }
}

/// Why there is no filter of an expression, to the client that sent it.
pub fn no_filter(fault: &FilterFault) -> Refusal {
    let error = fault.to_string();
    match fault {
        FilterFault::Malformed(_) => Refusal::SubscriptionMalformed { error },
        FilterFault::Class => Refusal::NotSupported {
            what: "filtering by a class on a filter server",
            instead: "filter by properties with an SQL92 condition, and by fields of JSON bodies with body. in it, as body.price > 10",
        },
        FilterFault::UnknownKind { .. } => Refusal::NotSupported {
            what: "filtering by an expression that is neither TAG nor SQL92",
            instead: "use tags, as A || B, or an SQL92 condition",
        },
    }
}

/// Whether the broker takes filters of this kind.
pub fn check_switched_on(filter: &MessageFilter, settings: &SettingValues) -> Result<(), Refusal> {
    let is_sql = matches!(filter, MessageFilter::Sql(_));
    if is_sql && !settings.sql_filter { Err(Refusal::FilterOff) } else { Ok(()) }
}

/// Whether broker and topic allow a filter.
pub fn check_filter(
    filter: &MessageFilter,
    topic: &TopicEntry,
    settings: &SettingValues,
) -> Result<(), Refusal> {
    check_switched_on(filter, settings)?;
    if let MessageFilter::Sql(filter) = filter
        && filter.reads_body()
        && !topic.body_filter
    {
        return Err(Refusal::NoPermission {
            what: format!("looking into the bodies of topic {} (body. in a condition)", topic.name()),
            remedy: "its attribute body.filter is not JSON; set it: telstar topic create -a body.filter=JSON, mqadmin updateTopic -a +body.filter=JSON",
        });
    }
    Ok(())
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
struct PreparedPull<'a> {
    /// Borrowed: a clone of an address has a slot of its own in the mailbox, and would never find it full.
    queue: &'a Addr<TopicQueue>,
    message: PullMessages,
    /// By which it goes, where extensions decide on deliveries.
    screen: Option<Screen>,
}

/// Who has extensions asked about what a pull brings.
struct Screen {
    recipient: Recipient<ScreenPull>,
    topic: TopicName,
    queue_id: QueueId,
}

impl PreparedPull<'_> {
    fn hand_over(self, request: Request) -> Result<(), Refusal> {
        if let Some(Screen { recipient, topic, queue_id }) = self.screen {
            let screened = ScreenPull { queue: self.queue.clone(), topic, queue_id, pull: self.message };
            return recipient.try_send(screened).map_err(|error| match error {
                SendError::Full(_) => Refusal::Busy { actor: "the screen of deliveries", waiting: 0 },
                SendError::Closed(_) => Refusal::ShuttingDown,
            });
        }
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
            backlog: None,
        };
        request.from.reply(Reply { to: request.reply_to(), content: ReplyContent::Pulled(pulled) });
        Ok(())
    }
}

fn unknown_or_gone(request: &Request) -> Refusal {
    let topic = request.command.fields.get("topic").unwrap_or_default();
    Refusal::TopicUnknown { topic: topic.into(), hint: "it was deleted this moment".into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::consumer_offsets::ResetOffsets;
    use crate::actors::request::ClientLink;
    use crate::actors::requests::testing::TestStore;
    use crate::actors::subscription_groups::AlterGroups;
    use crate::protocol::request_code::RequestCode;
    use crate::testing::{FakeClient, RequestBuilder, fake_client, fake_sink, request};
    use crate::types::GroupName;

    struct Bench {
        store: TestStore,
        owners: PullOwners,
        link: Arc<ClientLink>,
        client: FakeClient,
    }

    /// A client that subscribes to everything in T, whose queue 0 holds nothing.
    async fn start() -> Bench {
        let store = TestStore::start(&[("T", 2), ("other", 1)]).await;
        let (link, client) = fake_client();
        store.subscribe("g", &link, &["T"]).await;
        let owners = PullOwners {
            settings: store.settings.clone(),
            groups: store.groups.clone(),
            consumers: store.consumers.clone(),
            offsets: store.offsets.clone(),
            resets: store.resets.clone(),
            hooks: HookTable::default(),
            screen: fake_sink().0,
            filter_rules: FilterRules::default(),
        };
        Bench { store, owners, link, client }
    }

    fn pull(topic: &str, queue_id: i32) -> RequestBuilder {
        request(RequestCode::PULL_MESSAGE)
            .field("consumerGroup", "g")
            .field("topic", topic)
            .field("queueId", queue_id)
            .field("queueOffset", 0)
            .field("maxMsgNums", 32)
    }

    impl Bench {
        /// Pulls as the service does, and returns the code the client sees.
        async fn code(&mut self, builder: RequestBuilder) -> ResponseCode {
            let topics = self.store.topics.load_full();
            let taken = match self.owners.pull(builder.from(&self.link), &topics) {
                Ok(PullTaken::NeedsCare(request)) => self.owners.pull_carefully(request, &topics).await,
                Ok(PullTaken::HandedOver) => Ok(()),
                Err(refusal) => Err(refusal),
            };
            match taken {
                Err(refusal) => refusal.code(),
                Ok(()) => match self.client.replies.recv().await.unwrap().content {
                    ReplyContent::Pulled(pulled) => pulled.code,
                    other => panic!("no answer to a pull: {other:?}"),
                },
            }
        }

        async fn alter_group(&self, alter: impl FnOnce(&mut SubscriptionGroupConfig)) {
            let mut config = (*self.owners.groups.find_or_create(&"g".into()).await.unwrap()).clone();
            alter(&mut config);
            let alter = AlterGroups { configs: vec![config] };
            self.store.groups_actor.send(alter).await.unwrap().unwrap();
        }
    }

    #[actix::test]
    async fn what_is_refused_and_with_which_code() {
        let mut bench = start().await;
        let unsubscribed = pull("T", 0).field("consumerGroup", "g");
        let own = |expression: &str| {
            pull("other", 0).field("sysFlag", PULL_SUBSCRIPTION).field("subscription", expression)
        };
        let cases = [
            ("what was subscribed to", pull("T", 0), ResponseCode::PULL_NOT_FOUND),
            ("no topic in the header", request(RequestCode::PULL_MESSAGE), ResponseCode::SYSTEM_ERROR),
            ("a topic nobody knows", pull("none", 0), ResponseCode::TOPIC_NOT_EXIST),
            ("a queue beyond", pull("T", 2), ResponseCode::INVALID_PARAMETER),
            ("a negative queue", pull("T", -1), ResponseCode::INVALID_PARAMETER),
            ("a topic outside the subscription", pull("other", 0), ResponseCode::SUBSCRIPTION_NOT_EXIST),
            ("it, with a subscription of its own", own("a || b"), ResponseCode::PULL_NOT_FOUND),
            (
                "it, by an SQL condition",
                own("a > 1").field("expressionType", "SQL92"),
                ResponseCode::PULL_NOT_FOUND,
            ),
            (
                "it, by a condition that is wrong",
                own("a >").field("expressionType", "SQL92"),
                ResponseCode::SUBSCRIPTION_PARSE_FAILED,
            ),
            (
                "it, by a condition over bodies that the topic does not show",
                own("body.a > 1").field("expressionType", "SQL92"),
                ResponseCode::NO_PERMISSION,
            ),
            (
                "it, by an expression of another kind",
                own("a > 1").field("expressionType", "XPATH"),
                ResponseCode::REQUEST_CODE_NOT_SUPPORTED,
            ),
            (
                "a newer subscription than is known",
                unsubscribed.field("subVersion", i64::MAX),
                ResponseCode::SUBSCRIPTION_NOT_LATEST,
            ),
        ];
        for (case, builder, expected) in cases {
            assert_eq!(bench.code(builder).await, expected, "{case}");
        }
    }

    #[actix::test]
    async fn group_without_members_is_made_and_has_no_subscription() {
        let mut bench = start().await;
        let new = request(RequestCode::PULL_MESSAGE)
            .field("consumerGroup", "new")
            .field("topic", "T")
            .field("queueId", 0)
            .field("queueOffset", 0)
            .field("maxMsgNums", 1);
        assert_eq!(bench.code(new.clone()).await, ResponseCode::SUBSCRIPTION_NOT_EXIST);
        assert!(bench.owners.groups.find(&GroupName::from("new")).is_some());
        let own = new.field("sysFlag", PULL_SUBSCRIPTION).field("subscription", "*");
        assert_eq!(bench.code(own).await, ResponseCode::PULL_NOT_FOUND);
    }

    #[actix::test]
    async fn group_that_may_not_consume_is_refused_before_its_topic_is_looked_at() {
        let mut bench = start().await;
        bench.alter_group(|config| config.consume_enable = false).await;
        assert_eq!(bench.code(pull("none", 0)).await, ResponseCode::NO_PERMISSION);
        bench.alter_group(|config| config.consume_enable = true).await;
        assert_eq!(bench.code(pull("none", 0)).await, ResponseCode::TOPIC_NOT_EXIST);
    }

    #[actix::test]
    async fn offset_that_comes_with_a_pull_is_kept_if_it_is_said_to_be_one() {
        let mut bench = start().await;
        let commits =
            |flag: i32, offset: i64| pull("T", 1).field("sysFlag", flag).field("commitOffset", offset);
        bench.code(commits(0, 7)).await;
        bench.code(commits(PULL_COMMIT_OFFSET, -1)).await;
        assert_eq!(bench.store.offset("g", "T", 1).await, None);
        bench.code(commits(PULL_COMMIT_OFFSET, 7)).await;
        assert_eq!(bench.store.offset("g", "T", 1).await, Some(7));
    }

    #[actix::test]
    async fn offset_that_was_reset_is_told_once() {
        let mut bench = start().await;
        let offsets = [(QueueId(0), QueueOffset(40))].into();
        let reset = ResetOffsets { group: "g".into(), topic: "T".into(), offsets };
        bench.store.offsets.send(reset).await.unwrap().unwrap();
        let topics = bench.store.topics.load_full();
        let Ok(PullTaken::NeedsCare(request)) = bench.owners.pull(pull("T", 0).from(&bench.link), &topics)
        else {
            panic!("somebody has reset offsets")
        };
        bench.owners.pull_carefully(request, &topics).await.unwrap();
        let ReplyContent::Pulled(pulled) = bench.client.replies.recv().await.unwrap().content else {
            panic!("no answer to a pull")
        };
        assert_eq!((pulled.code, pulled.header.next_begin_offset), (ResponseCode::PULL_OFFSET_MOVED, 40));
        assert_eq!(bench.code(pull("T", 0)).await, ResponseCode::PULL_NOT_FOUND, "told once");
    }

    #[actix::test]
    async fn pull_at_the_end_is_held_as_long_as_it_asks() {
        tokio::time::pause();
        let mut bench = start().await;
        let held = pull("T", 0).field("sysFlag", PULL_SUSPEND).field("suspendTimeoutMillis", 500_000);
        let begun = tokio::time::Instant::now();
        assert_eq!(bench.code(held).await, ResponseCode::PULL_NOT_FOUND);
        let waited = begun.elapsed();
        assert!(waited >= MAX_HOLD && waited < MAX_HOLD + Duration::from_secs(1), "{waited:?}");
        let not_held = pull("T", 0).field("suspendTimeoutMillis", 15_000);
        let begun = tokio::time::Instant::now();
        bench.code(not_held).await;
        assert!(begun.elapsed() < Duration::from_secs(1));
    }

    #[actix::test]
    async fn full_queue_refuses_pulls_as_busy() {
        let mut bench = start().await;
        let topics = bench.store.topics.load_full();
        bench.code(pull("T", 0)).await; // group and queue are there
        let held = pull("T", 0).field("sysFlag", PULL_SUSPEND).field("suspendTimeoutMillis", 10);
        let refused =
            (0..10_000).find_map(|_| match bench.owners.pull(held.clone().from(&bench.link), &topics) {
                Ok(_) => None,
                Err(refusal) => Some(refusal.code()),
            });
        assert_eq!(refused, Some(ResponseCode::SYSTEM_BUSY), "the mailbox has its bounds");
    }
}
