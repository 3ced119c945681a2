//! Who answers what at a broker: the addresses of its owners and the tables they publish. A table, not a hop.

use std::sync::Arc;

use actix::prelude::*;
use arc_swap::Guard;

use super::broker_settings::{BrokerSettings, SettingsTable};
use super::broker_stats::BrokerStats;
use super::consumer_groups::ConsumerDirectory;
use super::facts::FactsSource;
use super::key_index::KeyIndex;
use super::request::{Answered, Request};
use super::requests::pull::PullOwners;
use super::requests::{broker, messages, topics as topic_requests};
use super::retry_router::{RetryRouter, SendToDeadLetterQueue};
use super::producers::Producers;
use super::subscription_groups::SubscriptionGroups;
use super::topic_queue::SendRequest;
use super::topic_table::{TopicMap, TopicTable};
use super::topics::{TopicRules, Topics};
use crate::clock::SharedClock;
use crate::error::Refusal;
use crate::protocol::header::SendHeader;
use crate::protocol::request_code::RequestCode;
use crate::store::commit_log::CommitLogReader;
use crate::types::GroupName;

/// The owners of a broker, as a port asks them.
pub struct BrokerRouter {
    pub topics: TopicTable,
    pub topics_actor: Addr<Topics>,
    pub topic_rules: TopicRules,
    pub settings: SettingsTable,
    pub settings_actor: Addr<BrokerSettings>,
    pub stats: Addr<BrokerStats>,
    pub facts: FactsSource,
    pub key_index: Option<Addr<KeyIndex>>,
    pub retry_router: Addr<RetryRouter>,
    pub pulls: PullOwners,
    pub consumers: ConsumerDirectory,
    pub producers: Addr<Producers>,
    pub groups_actor: Addr<SubscriptionGroups>,
    pub log: CommitLogReader,
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
            RequestCode::CLEAN_EXPIRED_CONSUMEQUEUE | RequestCode::DELETE_EXPIRED_COMMITLOG => {
                topic_requests::nothing_to_clean(request).await
            }
            RequestCode::GET_BROKER_CONFIG => broker::broker_config(request, &self.settings_actor).await,
            RequestCode::UPDATE_BROKER_CONFIG => {
                broker::update_broker_config(request, &self.settings_actor).await
            }
            RequestCode::GET_BROKER_RUNTIME_INFO => {
                broker::runtime_info(request, &self.stats, &self.facts.gather(&self.clock)).await
            }
            RequestCode::VIEW_BROKER_STATS_DATA => broker::view_stats(request, &self.stats).await,
            RequestCode::VIEW_MESSAGE_BY_ID => messages::view_message(request, &self.log).await,
            RequestCode::QUERY_MESSAGE => messages::query_message(request, &self.log, self.key_index.as_ref()).await,
            _ => Err(Refusal::UnknownRequest { code }),
        }
    }

    /// Sends a message that was tried too often where it is kept for people to look at.
    pub async fn to_dead_letter_queue(&self, group: GroupName, send: SendRequest) -> Result<(), Refusal> {
        let dead = SendToDeadLetterQueue { group, send };
        self.retry_router.send(dead).await.map_err(|_| Refusal::ShuttingDown)?
    }
}
