//! One replay: what of a dead letter queue is next, what is left out, and how a message goes on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::filter::{FilterError, FilterRules, SqlFilter};
use crate::protocol::body::dead_letters as body;
use crate::protocol::body::dead_letters::{ReplayOrder, ReplayProgress, ReplayTarget};
use crate::protocol::message::StoredMessage;
use crate::protocol::names;
use crate::protocol::properties::{PropertyList, names as property};
use crate::store::metadata::{ReplayRecord, ReplayState, ReplayedQueue};
use crate::types::{GroupName, QueueId, QueueOffset, TopicName};

/// Most messages under way at once.
const BATCH_MAX: u32 = 256;
/// Properties of a dead message that a replayed one is not to have: it begins anew.
const OF_THE_DEAD: [&str; 9] = [
    property::DELAY,
    property::REAL_TOPIC,
    property::REAL_QUEUE_ID,
    property::WAIT,
    property::DLQ_REASON,
    property::DLQ_CLIENT,
    property::DLQ_RETRIES,
    property::DLQ_ORIGIN_TOPIC,
    property::DLQ_ORIGIN_MESSAGE_ID,
];

/// A replay and its rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplayJob {
    pub record: ReplayRecord,
    /// The condition of the record, compiled.
    condition: Option<Arc<SqlFilter>>,
    /// Messages at or behind `next` that are stored already: one before them was refused.
    ahead: BTreeSet<QueueOffset>,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextBatch {
    pub queue_id: QueueId,
    pub from: QueueOffset,
    pub max: u32,
}

/// What became of one message of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replayed {
    Stored,
    PassedOver,
    Refused,
}

impl ReplayJob {
    /// Fails when the condition of the order is wrong.
    pub fn new(
        order: ReplayOrder,
        queues: Vec<ReplayedQueue>,
        now_ms: i64,
        rules: &FilterRules,
    ) -> Result<Self, FilterError> {
        let condition = compile(order.condition.as_deref(), rules)?;
        let record = ReplayRecord {
            group: order.group,
            rate: order.rate,
            filter: order.filter.into_iter().collect(),
            condition: order.condition,
            to_origin: order.target == ReplayTarget::Origin,
            state: ReplayState::Running,
            queues,
            replayed: 0,
            passed_over: 0,
            started_at_ms: now_ms,
            ended_at_ms: None,
        };
        Ok(Self { record, condition, ahead: BTreeSet::new() })
    }

    /// Goes on where a broker that ended left it, unless the rules have become too narrow for its condition.
    pub fn resumed(mut record: ReplayRecord, rules: &FilterRules) -> Self {
        let condition = compile(record.condition.as_deref(), rules).unwrap_or_else(|error| {
            if record.state == ReplayState::Running {
                let cause = format!("its condition is no longer allowed: {error}");
                record.state = ReplayState::Failed { cause };
            }
            None
        });
        Self { record, condition, ahead: BTreeSet::new() }
    }

    pub fn is_running(&self) -> bool {
        self.record.state == ReplayState::Running
    }

    pub fn end(&mut self, state: ReplayState, now_ms: i64) {
        self.record.state = state;
        self.record.ended_at_ms = Some(now_ms);
    }

    /// `None`: everything was looked at.
    pub fn next(&self) -> Option<NextBatch> {
        let queue = self.record.queues.iter().find(|queue| queue.next < queue.end)?;
        let left = queue.end.0 - queue.next.0;
        let max = (self.record.rate / 10).clamp(1, BATCH_MAX).min(u32::try_from(left).unwrap_or(u32::MAX));
        Some(NextBatch { queue_id: queue.queue_id, from: queue.next, max })
    }

    /// How long a batch of `count` messages takes at the rate that was ordered.
    pub fn pause(&self, count: usize) -> Duration {
        Duration::from_secs(1) * u32::try_from(count).unwrap_or(u32::MAX) / self.record.rate.max(1)
    }

    /// The queue begins here: what lay before is gone.
    pub fn begins_at(&mut self, queue_id: QueueId, min: QueueOffset) {
        if let Some(queue) = self.queue(queue_id) {
            let gone = min.min(queue.end).0.saturating_sub(queue.next.0);
            queue.next = queue.next.advance(gone);
            self.record.passed_over += gone;
        }
    }

    /// Whether a message was stored before one in front of it was refused.
    pub fn is_done(&self, offset: QueueOffset) -> bool {
        self.ahead.contains(&offset)
    }

    /// Takes the outcome of the messages from where the job stands. It goes on at the first that was refused.
    pub fn take(&mut self, queue_id: QueueId, outcomes: &[Replayed]) {
        let Some(queue) = self.queue(queue_id) else { return };
        let from = queue.next;
        let done = outcomes.iter().take_while(|outcome| **outcome != Replayed::Refused).count();
        queue.next = from.advance(done as u64);
        let next = queue.next;
        for (outcome, n) in outcomes.iter().zip(0..) {
            let offset = from.advance(n);
            match outcome {
                Replayed::Stored if !self.ahead.contains(&offset) => self.record.replayed += 1,
                Replayed::PassedOver if offset < next => self.record.passed_over += 1,
                _ => {}
            }
            if *outcome == Replayed::Stored && offset >= next {
                self.ahead.insert(offset);
            }
        }
        self.ahead.retain(|offset| *offset >= next);
    }

    fn queue(&mut self, queue_id: QueueId) -> Option<&mut ReplayedQueue> {
        self.record.queues.iter_mut().find(|queue| queue.queue_id == queue_id)
    }

    /// Whether filter and condition let the message pass.
    pub fn wants(&self, message: &StoredMessage) -> bool {
        let value_of = |name| message.property(name);
        let named = self.record.filter.iter().all(|(name, wanted)| match name.as_str() {
            "topic" => origin_of(message) == Some(wanted.as_str()),
            "tag" => value_of(property::TAGS) == Some(wanted.as_str()),
            "key" => value_of(property::KEYS).is_some_and(|keys| keys.split(' ').any(|key| key == wanted)),
            "client" => value_of(property::DLQ_CLIENT) == Some(wanted.as_str()),
            name => value_of(name) == Some(wanted.as_str()),
        });
        named
            && self.condition.as_ref().is_none_or(|condition| {
                let result = condition.evaluate(&message.properties, &message.body, message.sys_flag);
                result == Ok(Some(true))
            })
    }

    /// The topic that a message goes to; `None` when nobody knows where it came from.
    pub fn target_of(&self, message: &StoredMessage) -> Option<TopicName> {
        match self.record.to_origin {
            true => origin_of(message).map(TopicName::from),
            false => Some(names::retry_topic(&self.record.group)),
        }
    }

    /// The properties that a message goes on with.
    pub fn properties_of(&self, message: &StoredMessage) -> PropertyList {
        let mut list = PropertyList::decode(&message.properties);
        for name in OF_THE_DEAD {
            list.remove(name);
        }
        if self.record.to_origin {
            list.remove(property::RETRY_TOPIC);
            list.remove(property::ORIGIN_MESSAGE_ID);
        }
        list
    }

    pub fn progress(&self) -> ReplayProgress {
        let record = &self.record;
        let (state, cause) = match &record.state {
            ReplayState::Running => (body::ReplayState::Running, None),
            ReplayState::Done => (body::ReplayState::Done, None),
            ReplayState::Stopped => (body::ReplayState::Stopped, None),
            ReplayState::Failed { cause } => (body::ReplayState::Failed, Some(cause.clone())),
        };
        ReplayProgress {
            order: ReplayOrder {
                group: record.group.clone(),
                rate: record.rate,
                filter: record.filter.iter().cloned().collect(),
                condition: record.condition.clone(),
                target: if record.to_origin { ReplayTarget::Origin } else { ReplayTarget::Group },
            },
            state,
            cause,
            replayed: record.replayed,
            passed_over: record.passed_over,
            left: record.queues.iter().map(|queue| queue.end.0.saturating_sub(queue.next.0)).sum(),
            started_at_ms: record.started_at_ms,
            ended_at_ms: record.ended_at_ms,
        }
    }
}

fn compile(condition: Option<&str>, rules: &FilterRules) -> Result<Option<Arc<SqlFilter>>, FilterError> {
    condition.map(|condition| SqlFilter::compile(condition, rules).map(Arc::new)).transpose()
}

/// The topic that a dead message was sent to first.
fn origin_of(message: &StoredMessage) -> Option<&str> {
    let value_of = |name| message.property(name);
    value_of(property::DLQ_ORIGIN_TOPIC).or_else(|| value_of(property::RETRY_TOPIC))
}

/// The queue that a message of the group goes to: they are dealt out in turn.
pub fn queue_in_turn(offset: QueueOffset, queues: u32) -> QueueId {
    QueueId((offset.0 % u64::from(queues.max(1))) as u32)
}

/// Whose dead letter queue is meant.
pub fn dead_letters_of(group: &GroupName) -> TopicName {
    names::dead_letter_queue(group)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::log::{TestLog, message_with};

    fn job(rate: u32, end: u64) -> ReplayJob {
        let order = ReplayOrder { group: "g".into(), rate, ..ReplayOrder::default() };
        let queue = ReplayedQueue { queue_id: QueueId(0), next: QueueOffset(0), end: QueueOffset(end) };
        ReplayJob::new(order, vec![queue], 1, &FilterRules::default()).unwrap()
    }

    fn dead(pairs: &[(&str, &str)]) -> StoredMessage {
        let mut log = TestLog::new();
        let at = log.append(message_with("%DLQ%g", "x", pairs), 0).start;
        StoredMessage::decode(&log.reader.read_record(at).unwrap()).unwrap()
    }

    #[test]
    fn rate_decides_batches_and_pauses() {
        for (rate, batch, pause_ms) in [(1, 1, 1_000), (50, 5, 100), (1_000, 100, 100), (100_000, 256, 2)] {
            let job = job(rate, 1_000);
            let next = job.next().unwrap();
            assert_eq!(next.max, batch, "{rate}");
            assert_eq!(job.pause(next.max as usize).as_millis(), pause_ms, "{rate}");
        }
        assert_eq!(job(1_000, 3).next().unwrap().max, 3);
        assert_eq!(job(1_000, 0).next(), None);
    }

    #[test]
    fn message_begins_anew_in_the_retry_topic_or_where_it_came_from() {
        let pairs = [
            ("KEYS", "a b"),
            ("TAGS", "t"),
            ("RETRY_TOPIC", "T"),
            ("ORIGIN_MESSAGE_ID", "0A"),
            ("DELAY", "0"),
            ("REAL_TOPIC", "%RETRY%g"),
            ("DLQ_REASON", "r"),
            ("DLQ_ORIGIN_TOPIC", "T"),
        ];
        let message = dead(&pairs);
        let names = |job: &ReplayJob| {
            let list = job.properties_of(&message);
            list.iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
        };
        let mut job = job(1, 1);
        assert_eq!(job.target_of(&message).unwrap().as_str(), "%RETRY%g");
        assert_eq!(names(&job), ["KEYS", "TAGS", "RETRY_TOPIC", "ORIGIN_MESSAGE_ID"]);
        job.record.to_origin = true;
        assert_eq!(job.target_of(&message).unwrap().as_str(), "T");
        assert_eq!(names(&job), ["KEYS", "TAGS"]);
        assert_eq!(job.target_of(&dead(&[])), None);
    }

    #[test]
    fn filter_asks_for_all_that_it_names() {
        let message = dead(&[("KEYS", "a b"), ("TAGS", "t"), ("RETRY_TOPIC", "T"), ("colour", "red")]);
        let wants = |filter: &[(&str, &str)]| {
            let mut job = job(1, 1);
            job.record.filter = filter.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
            job.wants(&message)
        };
        assert!(wants(&[]));
        assert!(wants(&[("key", "b"), ("tag", "t"), ("topic", "T"), ("colour", "red")]));
        for no in [("key", "a b"), ("tag", "x"), ("topic", "U"), ("colour", "blue"), ("client", "c")] {
            assert!(!wants(&[no]), "{no:?}");
        }
    }

    #[test]
    fn condition_is_asked_of_properties_and_body_beside_the_filter() {
        let message = dead(&[("TAGS", "t"), ("price", "12"), ("RETRY_TOPIC", "T")]);
        let body = |text: &str| StoredMessage { body: text.to_owned().into(), ..message.clone() };
        let wants = |condition: &str, message: &StoredMessage| {
            let order = ReplayOrder { condition: Some(condition.into()), ..ReplayOrder::default() };
            let mut job = ReplayJob::new(order, Vec::new(), 1, &FilterRules::default()).unwrap();
            job.record.filter = vec![("tag".into(), "t".into())];
            job.wants(message)
        };
        assert!(wants("price BETWEEN 10 AND 13 AND RETRY_TOPIC = 'T'", &message));
        assert!(!wants("price > 12", &message));
        assert!(!wants("missing > 12", &message), "what is unknown is not wanted");
        assert!(wants("body.code = 7", &body(r#"{"code":7}"#)));
        assert!(!wants("body.code = 7", &body("no JSON")));
        assert!(!wants("price = 12", &dead(&[("TAGS", "u"), ("price", "12")])));
    }

    #[test]
    fn condition_that_the_rules_no_longer_allow_ends_the_replay() {
        let order = ReplayOrder { condition: Some("body.a.b = 1".into()), ..ReplayOrder::default() };
        let narrow = FilterRules { max_body_depth: 1, ..FilterRules::default() };
        assert!(ReplayJob::new(order.clone(), Vec::new(), 1, &narrow).is_err());
        let mut begun = ReplayJob::new(order, Vec::new(), 1, &FilterRules::default()).unwrap().record;
        assert!(ReplayJob::resumed(begun.clone(), &FilterRules::default()).is_running());
        let failed = ReplayJob::resumed(begun.clone(), &narrow);
        let ReplayState::Failed { cause } = failed.record.state else { panic!("it cannot go on") };
        assert!(cause.contains("filter.max_body_depth"), "{cause}");
        begun.state = ReplayState::Done;
        assert_eq!(ReplayJob::resumed(begun, &narrow).record.state, ReplayState::Done);
    }

    #[test]
    fn what_is_gone_is_passed_over() {
        let mut job = job(10, 5);
        job.begins_at(QueueId(0), QueueOffset(3));
        assert_eq!((job.next().unwrap().from, job.record.passed_over), (QueueOffset(3), 3));
        job.begins_at(QueueId(0), QueueOffset(9));
        assert_eq!((job.next(), job.record.passed_over), (None, 5));
    }

    proptest! {
        /// Whatever is refused and tried again, and wherever the broker restarts: every message is stored, none
        /// twice but those of one batch per restart, and the counts are right.
        #[test]
        fn every_message_is_replayed_once(
            count in 1..60u64,
            rate in 1..400u32,
            fates in prop::collection::vec((any::<u64>(), any::<bool>()), 200),
        ) {
            let mut job = job(rate, count);
            let mut stored = vec![0u32; count as usize];
            let (mut restarts, mut batch_max) = (0, 0);
            let mut fates = fates.into_iter();
            while let Some(next) = job.next() {
                batch_max = batch_max.max(next.max);
                // When the dice are gone all goes well.
                let (refused, restart) = fates.next().unwrap_or((0, false));
                let outcomes: Vec<_> = (0..u64::from(next.max)).map(|n| {
                    let offset = next.from.advance(n);
                    if job.is_done(offset) {
                        return Replayed::Stored;
                    }
                    if refused >> (n % 64) & 1 == 1 {
                        return Replayed::Refused;
                    }
                    stored[offset.0 as usize] += 1;
                    Replayed::Stored
                }).collect();
                let before = job.record.clone();
                job.take(next.queue_id, &outcomes);
                if restart {
                    restarts += 1;
                    job = ReplayJob::resumed(before, &FilterRules::default());
                }
            }
            prop_assert!(stored.iter().all(|times| *times >= 1));
            let extra: u32 = stored.iter().map(|times| times - 1).sum();
            prop_assert!(extra <= restarts * batch_max * 2, "{extra} again after {restarts} restarts");
            if restarts == 0 {
                prop_assert_eq!(job.record.replayed, count);
            }
        }
    }
}
