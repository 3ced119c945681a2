//! Who answers what at a broker: the addresses of its owners and the tables they publish. A table, not a hop.

use std::sync::Arc;

use actix::prelude::*;
use arc_swap::Guard;

use super::broker_settings::{BrokerSettings, SettingsTable};
use super::broker_stats::BrokerStats;
use super::key_index::KeyIndex;
use super::request::{Answered, Request};
use super::requests::{broker, topics as topic_requests};
use super::retry_router::{RetryRouter, SendToDeadLetterQueue};
use super::root_facts::FactsSource;
use super::topic_queue::SendRequest;
use super::topic_table::{TopicMap, TopicTable};
use super::topics::{TopicRules, Topics};
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
    pub log: CommitLogReader,
}
