//! What clients and administrators ask of pending messages, and the one thing they may do: take them back.

use std::collections::BTreeMap;
use std::io;

use actix::prelude::*;

use super::TimerScheduler;
use crate::error::Refusal;
use crate::protocol::properties::names as property;
use crate::protocol::timer::{TimerProperties, due_in_slot, slot_of};
use crate::store::timers::{TimerEntry, TimerKey, TimerName, topic_hash};
use crate::types::{PhysicalOffset, TopicName};

/// Records read for one page: messages are found by reading them.
const READ_ENTRIES: usize = 4096;

/// Takes back a pending message. Answered when the log says so: it will not be delivered. Losing it leaves the message.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<TimerRecalled, Refusal>")]
pub struct RecallTimer {
    pub name: TimerName,
    /// As its handle says.
    pub due_ms: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerRecalled {
    pub key: TimerKey,
}

/// Pending messages in the order of their due times, from a place on.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<TimerPage, Refusal>")]
pub struct ListTimers {
    pub from: TimerKey,
    pub filter: TimerFilter,
    pub max: usize,
}

/// Which of them are wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimerFilter {
    /// Due before this.
    pub to_ms: i64,
    pub topic: Option<TopicName>,
    /// A business key or the unique key.
    pub key: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TimerPage {
    pub found: Vec<FoundTimer>,
    /// Where to ask on; `None` at the end.
    pub next: Option<TimerKey>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundTimer {
    pub entry: TimerEntry,
    pub topic: TopicName,
    pub unique_key: String,
    pub keys: String,
    pub stored_at_ms: i64,
    pub body_bytes: usize,
}

/// Asks how many messages are pending.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "TimerCounts")]
pub struct CountTimers;

#[derive(MessageResponse, Clone, PartialEq, Eq, Debug, Default)]
pub struct TimerCounts {
    /// Of topics that exist.
    pub by_topic: BTreeMap<TopicName, i64>,
    pub total: i64,
    /// The next one.
    pub next_due_ms: Option<i64>,
    /// Known up to here.
    pub oldest: Option<PhysicalOffset>,
}

impl TimerScheduler {
    fn page(&self, list: &ListTimers) -> io::Result<TimerPage> {
        let mut page = TimerPage::default();
        let wanted_topic = list.filter.topic.as_ref().map(|topic| topic_hash(topic));
        let entries = self.pending.page(list.from, READ_ENTRIES)?;
        let is_cut = entries.len() == READ_ENTRIES;
        for entry in entries {
            if entry.key.due_ms >= list.filter.to_ms {
                return Ok(page);
            }
            if page.found.len() == list.max {
                page.next = Some(entry.key);
                return Ok(page);
            }
            if wanted_topic.is_none_or(|wanted| wanted == entry.topic_hash) {
                page.found.extend(self.found(entry).filter(|found| list.filter.wants(found)));
            }
            page.next = is_cut.then(|| entry.key.next());
        }
        Ok(page)
    }

    fn found(&self, entry: TimerEntry) -> Option<FoundTimer> {
        let stored = self.copies.read(&entry)?;
        let said = TimerProperties::of(&stored.properties);
        Some(FoundTimer {
            entry,
            topic: said.real_topic?.into(),
            unique_key: said.unique_key.unwrap_or_default().to_owned(),
            keys: stored.text(property::KEYS).to_owned(),
            stored_at_ms: stored.stored_at_ms,
            body_bytes: stored.body.len(),
        })
    }
}

impl TimerFilter {
    fn wants(&self, found: &FoundTimer) -> bool {
        let is_key = |key: &String| found.unique_key == *key || found.keys.split(' ').any(|word| word == key);
        self.topic.as_ref().is_none_or(|topic| *topic == found.topic) && self.key.as_ref().is_none_or(is_key)
    }
}

fn unreadable(error: io::Error) -> Refusal {
    Refusal::Failed(format!("timers cannot be read: {error}"))
}

impl Handler<RecallTimer> for TimerScheduler {
    type Result = ResponseActFuture<Self, Result<TimerRecalled, Refusal>>;

    fn handle(&mut self, recall: RecallTimer, ctx: &mut Self::Context) -> Self::Result {
        let found = match self.find(&recall.name, due_in_slot(slot_of(recall.due_ms))) {
            Ok(found) => found.filter(|entry| self.pending.hold(*entry)),
            Err(error) => return Box::pin(fut::err(unreadable(error))),
        };
        let Some(entry) = found else {
            let TimerName { topic, unique_key } = recall.name;
            let due_ms = recall.due_ms;
            return Box::pin(fut::err(Refusal::NothingToRecall { topic, unique_key, due_ms }));
        };
        let message = self.copies.settling(&entry);
        let stored = self.sends.store(message, ctx.address().recipient());
        Box::pin(stored.into_actor(self).map(move |outcome, scheduler, ctx| match outcome {
            Ok(_) => Ok(TimerRecalled { key: entry.key }),
            Err(refusal) => {
                scheduler.pending.give_back(entry.key);
                scheduler.deliver(ctx);
                Err(refusal)
            }
        }))
    }
}

impl Handler<ListTimers> for TimerScheduler {
    type Result = Result<TimerPage, Refusal>;

    fn handle(&mut self, list: ListTimers, _: &mut Self::Context) -> Self::Result {
        self.page(&list).map_err(unreadable)
    }
}

impl Handler<CountTimers> for TimerScheduler {
    type Result = TimerCounts;

    fn handle(&mut self, _: CountTimers, _: &mut Self::Context) -> TimerCounts {
        let counts = self.pending.counts();
        let topics = self.copies.topics.load();
        let of_topic = |topic: &TopicName| Some((topic.clone(), *counts.get(&topic_hash(topic))?));
        TimerCounts {
            by_topic: topics.topics.keys().filter_map(of_topic).collect(),
            total: self.pending.count(),
            next_due_ms: self.pending.next_due_ms().unwrap_or(None),
            oldest: self.pending.oldest(),
        }
    }
}
