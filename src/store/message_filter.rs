//! Which messages of a queue a consumer wants, asked of units and records.

use std::collections::HashMap;
use std::sync::Arc;

use super::commit_log::CommitLogReader;
use super::consume_queue::ConsumeQueueUnit;
use crate::filter::{Looked, SqlFilter};
use crate::protocol::message::RecordView;
use crate::protocol::properties;
use crate::types::TopicName;

/// Which messages a consumer wants.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum MessageFilter {
    #[default]
    All,
    Tags(Arc<TagFilter>),
    Sql(Arc<SqlFilter>),
    /// Of a retry topic.
    Retried(Arc<RetryFilter>),
}

/// A set of tags; matched by hash in the queue and by text in the record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TagFilter {
    tags: Vec<(i64, String)>,
}

const MATCHING: Looked = Looked { matches: true, bytes: 0 };
const OTHER: Looked = Looked { matches: false, bytes: 0 };

impl TagFilter {
    /// `codes` are sign-extended Java hashes of the tags.
    pub fn new(tags: impl IntoIterator<Item = String>) -> Self {
        let with_code = |tag: String| (properties::tags_code(Some(&tag)), tag);
        Self { tags: tags.into_iter().map(with_code).collect() }
    }

    fn has_code(&self, tags_code: i64) -> bool {
        self.tags.iter().any(|(code, _)| *code == tags_code)
    }

    fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|(_, wanted)| wanted == tag)
    }
}

/// The conditions of a group, for messages that wait in its retry topic: each goes by that of the topic it came from.
/// RocketMQ: `ExpressionForRetryMessageFilter`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RetryFilter {
    by_topic: HashMap<TopicName, Arc<SqlFilter>>,
}

impl RetryFilter {
    /// `None`: the group has no conditions.
    pub fn new(conditions: impl IntoIterator<Item = (TopicName, Arc<SqlFilter>)>) -> Option<Self> {
        let by_topic: HashMap<_, _> = conditions.into_iter().collect();
        (!by_topic.is_empty()).then_some(Self { by_topic })
    }

    fn look_at(&self, record: &RecordView<'_>) -> Looked {
        let properties = record.properties();
        let origin = properties::get(properties, properties::names::RETRY_TOPIC);
        match origin.and_then(|topic| self.by_topic.get(topic)) {
            Some(filter) => filter.look_at(record),
            // The group takes all of that topic, or nobody knows where the message came from.
            None => Looked { matches: true, bytes: properties.len() },
        }
    }
}

impl MessageFilter {
    /// Whether the message of a unit matches. Tags are compared by their hash first, and then by their text.
    pub fn look_at(&self, log: &CommitLogReader, unit: &ConsumeQueueUnit) -> Looked {
        let looked = match self {
            MessageFilter::All => return MATCHING,
            MessageFilter::Tags(filter) if !filter.has_code(unit.tags_code) => return OTHER,
            MessageFilter::Tags(_) | MessageFilter::Sql(_) | MessageFilter::Retried(_) => {
                log.with_record(unit.physical_offset, |record| self.look_at_record(&record, unit.tags_code))
            }
        };
        // A record that is gone is skipped where it is read.
        looked.unwrap_or(MATCHING)
    }

    /// As [`look_at`](Self::look_at), for who has the record.
    pub fn look_at_record(&self, record: &RecordView<'_>, tags_code: i64) -> Looked {
        match self {
            MessageFilter::All => MATCHING,
            MessageFilter::Tags(filter) if !filter.has_code(tags_code) => OTHER,
            MessageFilter::Tags(filter) => {
                let tag = properties::get(record.properties(), properties::names::TAGS);
                if tag.is_some_and(|tag| filter.has_tag(tag)) { MATCHING } else { OTHER }
            }
            MessageFilter::Sql(filter) => filter.look_at(record),
            MessageFilter::Retried(filter) => filter.look_at(record),
        }
    }
}
