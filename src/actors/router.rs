//! Who answers what at a broker: the addresses of its owners and the tables they publish. A table, not a hop.

use std::sync::Arc;

use actix::prelude::*;
use arc_swap::Guard;

use super::actor_list::ActorList;
use super::broker_settings::{BrokerSettings, SettingsTable};
use super::broker_stats::BrokerStats;
use super::consumed_keys::ConsumedKeys;
use super::consumer_group::ListLocks;
use super::consumer_groups::ConsumerDirectory;
use super::dead_letter_replay::DeadLetterReplay;
use super::dedup_window::DedupStarter;
use super::extensions::events::{BrokerEvent, EventKind};
use super::extensions::hook_table::{HookTable, fields_of};
use super::extensions::stream::EventTap;
use super::facts::FactsSource;
use super::key_index::KeyIndex;
use super::membership::FilterFault;
use super::message_expiry::MessageExpiry;
use super::not_there;
use super::producers::Producers;
use super::read_queues::ListReadQueues;
use super::request::{Answered, Request};
use super::requests::assignment::AssignmentPeers;
use super::requests::drain::DrainPeers;
use super::requests::group_why::GroupWitnesses;
use super::requests::membership::HeartbeatPeers;
use super::requests::progress::ProgressSources;
use super::requests::pull::{self, PullOwners};
use super::requests::relays::DirectSources;
use super::requests::send::PreparedSend;
use super::requests::timers::TimerOwners;
use super::requests::transactions::TransactionSources;
use super::requests::why::StorySources;
use super::requests::{
    actors, assignment, broker, consumed, dead_letters, drain, group_why, groups, membership, messages,
    offsets, progress, relays, resets, timers, topics as topic_requests, transactions, why,
};
use super::retention::Retention;
use super::retry_router::{DeathCause, RetryRouter, SendToDeadLetterQueue};
use super::send_gate::SendGate;
use super::settling::Settling;
use super::subscription_groups::SubscriptionGroups;
use super::topic_table::{TopicMap, TopicTable};
use super::topics::{EnsureTopic, TopicRules, Topics};
use super::transaction_checker::TransactionChecker;
use crate::clock::SharedClock;
use crate::error::Refusal;
use crate::protocol::delay_level::DelayLevels;
use crate::protocol::header::{SendBack, SendHeader};
use crate::protocol::names;
use crate::protocol::request_code::RequestCode;
use crate::store::commit_log::CommitLogReader;
use crate::types::GroupName;

/// The owners of a broker, as a port asks them.
pub struct BrokerRouter {
    /// Who runs in this process.
    pub actors: ActorList,
    pub topics: TopicTable,
    pub topics_actor: Addr<Topics>,
    pub ensure_topic: Recipient<EnsureTopic>,
    /// Where clients reach this broker, `host:port`.
    pub broker_addr: String,
    pub topic_rules: TopicRules,
    pub settings: SettingsTable,
    pub settings_actor: Addr<BrokerSettings>,
    pub stats: Addr<BrokerStats>,
    pub transactions: Addr<TransactionChecker>,
    pub facts: FactsSource,
    pub key_index: Option<Addr<KeyIndex>>,
    pub retention: Addr<Retention>,
    pub expiry: MessageExpiry,
    pub retry_router: Addr<RetryRouter>,
    pub timers: TimerOwners,
    pub dedup: DedupStarter,
    pub replays: Addr<DeadLetterReplay>,
    pub consumed_keys: Addr<ConsumedKeys>,
    pub pulls: PullOwners,
    pub consumers: ConsumerDirectory,
    pub read_queues: Recipient<ListReadQueues>,
    pub producers: Addr<Producers>,
    pub groups_actor: Addr<SubscriptionGroups>,
    pub gate: SendGate,
    pub settling: Settling,
    /// Extensions that take part in requests.
    pub hooks: HookTable,
    pub events: EventTap,
    pub log: CommitLogReader,
    pub delay_levels: DelayLevels,
    pub clock: SharedClock,
}

impl BrokerRouter {
    /// A broker without the write bit refuses sends to ordered topics; others pass, as clients with an old
    /// route rely on.
    pub fn check_broker_writable(
        &self,
        header: &SendHeader<'_>,
        topics: &Guard<Arc<TopicMap>>,
    ) -> Result<(), Refusal> {
        if self.settings.load().permission.is_writable() {
            return Ok(());
        }
        match topics.topics.get(header.topic) {
            Some(entry) if entry.config.order => Err(Refusal::NoPermission {
                what: format!("sending to ordered topic {} on this broker", header.topic),
                remedy: "the broker is read-only; set brokerPermission to 6, or send to another broker",
            }),
            _ => Ok(()),
        }
    }

    /// Answers everything that is neither a send nor a pull: what extensions own is theirs, and what changes something
    /// they are asked about before and told of after.
    pub async fn answer_with_extensions(&self, request: &Request) -> Answered {
        let code = RequestCode::from_i32(request.command.head.code);
        if let Some(answered) = self.hooks.own_request(request).await {
            return answered;
        }
        if !code.is_administration() {
            return self.answer(request).await;
        }
        let answered = match self.hooks.decide_admin(request).await {
            Ok(()) => self.answer(request).await,
            Err(refusal) => Err(refusal),
        };
        self.events.tell(EventKind::AdminRequested, || BrokerEvent::AdminRequested {
            request: code,
            client: request.from.peer,
            fields: fields_of(request),
            body: request.command.body.clone(),
            refused: answered.as_ref().err().map(Refusal::to_string),
        });
        answered
    }

    /// Answers everything that is neither a send nor a pull.
    pub async fn answer(&self, request: &Request) -> Answered {
        let code = request.command.head.code;
        match RequestCode::from_i32(code) {
            RequestCode::UPDATE_AND_CREATE_TOPIC => {
                topic_requests::create_topic(request, &self.topics_actor).await
            }
            RequestCode::UPDATE_AND_CREATE_TOPIC_LIST => {
                topic_requests::create_topics(request, &self.topics_actor).await
            }
            RequestCode::DELETE_TOPIC_IN_BROKER => {
                topic_requests::delete_topic(request, &self.topics_actor).await
            }
            RequestCode::GET_ALL_TOPIC_CONFIG => {
                topic_requests::all_topic_configs(request, &self.topics).await
            }
            RequestCode::GET_TOPIC_CONFIG => topic_requests::topic_config(request, &self.topics).await,
            RequestCode::GET_TOPIC_STATS_INFO => {
                topic_requests::topic_stats(request, &self.topics, &self.stats, &self.topic_rules.broker)
                    .await
            }
            RequestCode::GET_SYSTEM_TOPIC_LIST_FROM_BROKER => {
                topic_requests::system_topic_list(request, &self.topics, &self.topic_rules).await
            }
            RequestCode::CLEAN_UNUSED_TOPIC => {
                topic_requests::clean_unused_topics(request, &self.topics_actor).await
            }
            RequestCode::LIST_ACTORS => actors::list_actors(request, &self.actors).await,
            RequestCode::DRAIN_BROKER => {
                let peers = DrainPeers {
                    gate: &self.gate,
                    topics: &self.topics_actor,
                    settling: &self.settling,
                    producers: &self.producers,
                    consumers: self.consumers.table(),
                };
                drain::drain_broker(request, &peers).await
            }
            RequestCode::RECALL_MESSAGE => {
                timers::recall(request, &self.timers, &self.topics, &self.gate, &self.clock).await
            }
            RequestCode::LIST_TIMERS => timers::list(request, &self.timers).await,
            RequestCode::CANCEL_TIMER => timers::cancel(request, &self.timers).await,
            RequestCode::GET_TIMER_METRICS => timers::metrics(&self.timers, &self.clock).await,
            RequestCode::GET_TIMER_CHECK_POINT => {
                timers::check_point(&self.timers, &self.topics, &self.clock).await
            }
            RequestCode::CLEAN_EXPIRED_CONSUMEQUEUE => broker::clean_queues(request, &self.retention).await,
            RequestCode::DELETE_EXPIRED_COMMITLOG => broker::delete_expired(request, &self.retention).await,
            RequestCode::GET_BROKER_CONFIG => broker::broker_config(request, &self.settings_actor).await,
            RequestCode::UPDATE_BROKER_CONFIG => {
                broker::update_broker_config(request, &self.settings_actor).await
            }
            RequestCode::GET_BROKER_RUNTIME_INFO => {
                broker::runtime_info(
                    request,
                    &self.stats,
                    &self.pulls.offsets,
                    &self.facts.gather(&self.clock),
                )
                .await
            }
            RequestCode::VIEW_BROKER_STATS_DATA => broker::view_stats(request, &self.stats).await,
            RequestCode::QUERY_CONSUMER_OFFSET => {
                offsets::query_consumer_offset(request, &self.pulls.offsets, &self.topics).await
            }
            RequestCode::UPDATE_CONSUMER_OFFSET => {
                let groups = self.pulls.groups.table();
                offsets::update_consumer_offset(request, &self.pulls.offsets, groups, &self.topics).await
            }
            RequestCode::SEARCH_OFFSET_BY_TIMESTAMP => offsets::search_offset(request, &self.topics).await,
            RequestCode::GET_MAX_OFFSET => offsets::max_offset(request, &self.topics).await,
            RequestCode::GET_MIN_OFFSET => offsets::min_offset(request, &self.topics).await,
            RequestCode::GET_EARLIEST_MSG_STORETIME => {
                offsets::earliest_store_time(request, &self.topics).await
            }
            RequestCode::HEART_BEAT => {
                let peers = HeartbeatPeers {
                    settings: &self.settings,
                    groups: &self.pulls.groups,
                    consumers: &self.consumers,
                    producers: &self.producers,
                    topics: &self.topics,
                    ensure_topic: &self.ensure_topic,
                };
                membership::heartbeat(request, &peers).await
            }
            RequestCode::UNREGISTER_CLIENT => {
                membership::unregister_client(request, self.consumers.table(), &self.producers).await
            }
            RequestCode::GET_CONSUMER_LIST_BY_GROUP => {
                membership::consumer_list(request, self.consumers.table()).await
            }
            RequestCode::GET_CONSUMER_CONNECTION_LIST => {
                membership::consumer_connections(request, self.consumers.table()).await
            }
            RequestCode::GET_PRODUCER_CONNECTION_LIST => {
                membership::producer_connections(request, &self.producers).await
            }
            RequestCode::GET_ALL_PRODUCER_INFO => membership::all_producers(request, &self.producers).await,
            RequestCode::LOCK_BATCH_MQ => membership::lock_queues(request, &self.consumers).await,
            RequestCode::UNLOCK_BATCH_MQ => membership::unlock_queues(request, self.consumers.table()).await,
            RequestCode::QUERY_ASSIGNMENT => {
                let peers = AssignmentPeers {
                    groups: self.pulls.groups.table(),
                    consumers: self.consumers.table(),
                    queues: &self.read_queues,
                };
                assignment::query_assignment(request, &peers).await
            }
            RequestCode::SET_MESSAGE_REQUEST_MODE => {
                let table = self.pulls.groups.table();
                assignment::set_request_mode(request, &self.topics, table, &self.groups_actor).await
            }
            RequestCode::GET_ALL_MESSAGE_REQUEST_MODE => {
                assignment::all_request_modes(request, self.pulls.groups.table()).await
            }
            RequestCode::CHECK_CLIENT_CONFIG => {
                let rules = &self.pulls.filter_rules;
                membership::check_client_config(request, &self.settings, &self.topics, rules).await
            }
            RequestCode::REGISTER_FILTER_SERVER | RequestCode::REGISTER_MESSAGE_FILTER_CLASS => {
                Err(pull::no_filter(&FilterFault::Class))
            }
            RequestCode::GET_CONSUMER_RUNNING_INFO => {
                relays::consumer_running_info(request, self.consumers.table()).await
            }
            RequestCode::CONSUME_MESSAGE_DIRECTLY => {
                let sources = DirectSources {
                    log: &self.log,
                    topics: &self.topics,
                    groups: self.pulls.groups.table(),
                    consumers: self.consumers.table(),
                    broker_name: &self.topic_rules.broker,
                };
                relays::consume_directly(request, &sources).await
            }
            RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP => {
                groups::alter_group(request, &self.groups_actor).await
            }
            RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST => {
                groups::alter_groups(request, &self.groups_actor).await
            }
            RequestCode::GET_ALL_SUBSCRIPTIONGROUP_CONFIG => {
                groups::all_group_configs(request, self.pulls.groups.table()).await
            }
            RequestCode::DELETE_SUBSCRIPTIONGROUP => {
                groups::delete_group(request, &self.groups_actor, &self.pulls.offsets).await
            }
            RequestCode::GET_SUBSCRIPTIONGROUP_CONFIG => {
                groups::group_config(request, &self.pulls.groups).await
            }
            RequestCode::QUERY_TOPICS_BY_CONSUMER => {
                groups::topics_of_group(request, &self.pulls.offsets, &self.broker_addr).await
            }
            RequestCode::QUERY_TOPIC_CONSUME_BY_WHO => {
                groups::groups_of_topic(request, &self.pulls.offsets, self.consumers.table()).await
            }
            RequestCode::QUERY_SUBSCRIPTION_BY_CONSUMER => {
                groups::subscription_of_group(request, self.consumers.table()).await
            }
            RequestCode::GET_CONSUME_STATS => {
                progress::consume_stats(request, &self.progress_sources()).await
            }
            RequestCode::GET_BROKER_CONSUME_STATS => {
                progress::broker_consume_stats(request, &self.progress_sources(), &self.broker_addr).await
            }
            RequestCode::INVOKE_BROKER_TO_RESET_OFFSET => {
                resets::reset_offset(request, &self.progress_sources()).await
            }
            RequestCode::INVOKE_BROKER_TO_GET_CONSUMER_STATUS => {
                relays::consumer_status(request, self.consumers.table()).await
            }
            RequestCode::QUERY_CONSUME_TIME_SPAN => {
                progress::consume_time_span(request, &self.progress_sources()).await
            }
            RequestCode::QUERY_CORRECTION_OFFSET => {
                progress::correction_offset(request, &self.progress_sources()).await
            }
            RequestCode::GET_ALL_CONSUMER_OFFSET => {
                progress::all_consumer_offsets(request, &self.pulls.offsets).await
            }
            RequestCode::UPDATE_AND_GET_GROUP_FORBIDDEN => {
                groups::group_forbidden(request, &self.groups_actor, &self.topics).await
            }
            RequestCode::CLONE_GROUP_OFFSET => {
                progress::clone_group_offset(request, &self.progress_sources()).await
            }
            RequestCode::CONSUMER_SEND_MSG_BACK => {
                let back: SendBack = request.header("CONSUMER_SEND_MSG_BACK")?;
                let group = self.pulls.groups.find_or_create(&back.group).await?;
                messages::send_back(request, &group, self.consumers.table(), &self.retry_router).await
            }
            RequestCode::END_TRANSACTION => {
                transactions::end_transaction(request, &self.transaction_sources()).await
            }
            RequestCode::RESUME_CHECK_HALF_MESSAGE => {
                transactions::resume_check(request, &self.transactions).await
            }
            RequestCode::LIST_TRANSACTIONS => {
                transactions::list_transactions(request, &self.transactions).await
            }
            RequestCode::DECIDE_TRANSACTION => {
                transactions::decide_transaction(request, &self.transactions).await
            }
            RequestCode::DESCRIBE_GROUP => {
                let (progress, log) = (self.progress_sources(), &self.log);
                let witnesses = GroupWitnesses { progress, log, now: self.clock.now() };
                group_why::describe_group(request, &witnesses).await
            }
            RequestCode::START_REPLAY => {
                dead_letters::start_replay(request, self.pulls.groups.table(), &self.settings, &self.replays)
                    .await
            }
            RequestCode::LIST_REPLAYS => dead_letters::list_replays(request, &self.replays).await,
            RequestCode::STOP_REPLAY => dead_letters::stop_replay(request, &self.replays).await,
            RequestCode::VIEW_MESSAGE_BY_ID => messages::view_message(request, &self.log, &self.expiry).await,
            RequestCode::QUERY_MESSAGE => {
                messages::query_message(request, &self.log, &self.expiry, self.key_index.as_ref()).await
            }
            RequestCode::EXPLAIN_MESSAGE => {
                let sources = StorySources {
                    log: &self.log,
                    expiry: &self.expiry,
                    key_index: self.key_index.as_ref(),
                    topics: &self.topics,
                    groups: self.pulls.groups.table(),
                    consumers: self.consumers.table(),
                    offsets: &self.pulls.offsets,
                    timers: &self.timers.scheduler,
                    transactions: &self.transactions,
                    delay_levels: &self.delay_levels,
                    clock: &self.clock,
                };
                why::explain_message(request, &sources).await
            }
            RequestCode::MARK_CONSUMED => consumed::mark_consumed(request, &self.consumed_keys).await,
            RequestCode::QUERY_CONSUMED => consumed::query_consumed(request, &self.consumed_keys).await,
            RequestCode::QUERY_CONSUME_QUEUE => {
                messages::query_consume_queue(request, &self.topics, self.consumers.table()).await
            }
            _ => Err(not_there::of_request(code)),
        }
    }

    fn transaction_sources(&self) -> TransactionSources<'_> {
        TransactionSources { checker: &self.transactions, log: &self.log, key_index: self.key_index.as_ref() }
    }

    /// Transactions may be switched off while the broker runs.
    pub fn check_transactions_taken(&self, prepared: &PreparedSend) -> Result<(), Refusal> {
        if **prepared.entry.name() == *names::HALF_TOPIC && self.settings.load().reject_transactions {
            return Err(Refusal::NoPermission {
                what: "sending a transactional message to this broker".into(),
                remedy: "the broker has rejectTransactionMessage=true; set it to false, or send to another broker",
            });
        }
        Ok(())
    }

    fn progress_sources(&self) -> ProgressSources<'_> {
        ProgressSources {
            offsets: &self.pulls.offsets,
            topics: &self.topics,
            groups: self.pulls.groups.table(),
            consumers: self.consumers.table(),
            stats: &self.stats,
            settings: &self.settings,
            broker_name: &self.topic_rules.broker,
        }
    }

    /// Sends a message that was tried too often where it is kept for people to look at.
    pub async fn to_dead_letter_queue(&self, dead: SendToDeadLetterQueue) -> Result<(), Refusal> {
        self.retry_router.send(dead).await.map_err(|_| Refusal::ShuttingDown)?
    }

    /// Why a message that a client sends to the retry topic of its group itself must not be tried again. A group that
    /// holds queue locks consumes in order: it sends only what it gave up.
    pub async fn cause_of_death(
        &self,
        group: &GroupName,
        header: &SendHeader<'_>,
    ) -> Result<Option<DeathCause>, Refusal> {
        let config = self.pulls.groups.find_or_create(group).await?;
        let (retries, max) =
            (header.reconsume_times, header.max_reconsume_times.unwrap_or(config.retry_max_times));
        if retries > max {
            // The client counts the attempt that failed last.
            return Ok(Some(DeathCause::TriedTooOften { retries: retries - 1, max }));
        }
        let Some(handle) = self.consumers.table().get(group) else { return Ok(None) };
        let in_order = !handle.address.send(ListLocks).await?.is_empty();
        Ok(in_order.then_some(DeathCause::GivenUpInOrder))
    }
}
