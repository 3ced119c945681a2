//! The story of one message, told from the copies of it that the log holds and from how its groups stand.
//!
//! Whatever happens to a message leaves a copy of it with the same unique key: under a delay level while it waits, in
//! the half topic while its transaction is open, in a retry topic when it comes again, in a dead letter queue when it
//! does not. The last copy in the log is where the message is now. Pure: the evidence is gathered elsewhere.

use std::time::Duration;

use super::queue_locks::HeldLock;
use super::topic_queue::QueueExtent;
use crate::client::calendar;
use crate::clock::WallMs;
use crate::protocol::body::story::{GroupStory, MessageStory, StoryEvent};
use crate::protocol::body::transactions::TransactionInfo;
use crate::protocol::delay_level::DelayLevels;
use crate::protocol::message::StoredMessage;
use crate::protocol::names::{
    DEAD_LETTER_PREFIX, HALF_TOPIC, RETRY_PREFIX, SCHEDULE_TOPIC, TIMER_TOPIC,
    TRANSACTION_CHECK_MAX_TIME_TOPIC,
};
use crate::protocol::properties::names as property;
use crate::protocol::timer::TimerProperties;
use crate::types::{ClientId, GroupName, QueueOffset};

/// What is known of a message.
pub struct Evidence<'a> {
    pub now: WallMs,
    /// In the order of the log.
    pub copies: Vec<StoredMessage>,
    pub delay_levels: &'a DelayLevels,
    /// A time of its own is still to come.
    pub timer_is_pending: bool,
    /// Its transaction, while nobody has decided it.
    pub transaction: Option<TransactionInfo>,
    pub groups: Vec<GroupEvidence>,
}

/// How a group stands to the queue in which it would find the message.
#[derive(Clone, Debug)]
pub struct GroupEvidence {
    pub group: GroupName,
    /// Somebody created it, or a member came.
    pub exists: bool,
    pub may_consume: bool,
    /// `consumeEnable`, or what an administrator forbade, is why it may not.
    pub members: Vec<ClientId>,
    pub broadcasting: bool,
    /// What it asks of the topic, as its members wrote it; `None`: it does not subscribe to it, or is offline.
    pub subscription: Option<String>,
    pub matching: Matching,
    /// What it committed.
    pub offset: Option<QueueOffset>,
    pub extent: QueueExtent,
    pub lock: Option<HeldLock>,
}

/// Whether a subscription lets a message through.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Matching {
    /// Nobody is there to ask.
    Unknown,
    Matches,
    Differs,
    /// The subscription is none that can be evaluated, with the cause.
    Faulty(String),
}

/// What a copy of a message stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    /// In its topic, for everybody to consume.
    Topic,
    DelayLevel {
        level: usize,
    },
    Timer,
    HalfTopic,
    /// No producer decided about its transaction.
    CheckedInVain,
    Retry(GroupName),
    DeadLetterQueue(GroupName),
}

impl Place {
    fn of(copy: &StoredMessage) -> Self {
        match &*copy.topic {
            SCHEDULE_TOPIC => Self::DelayLevel { level: copy.queue_id.0 as usize + 1 },
            TIMER_TOPIC => Self::Timer,
            HALF_TOPIC => Self::HalfTopic,
            TRANSACTION_CHECK_MAX_TIME_TOPIC => Self::CheckedInVain,
            topic => match (topic.strip_prefix(RETRY_PREFIX), topic.strip_prefix(DEAD_LETTER_PREFIX)) {
                (Some(group), _) => Self::Retry(group.into()),
                (_, Some(group)) => Self::DeadLetterQueue(group.into()),
                _ => Self::Topic,
            },
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Topic => "stored",
            Self::DelayLevel { .. } => "delayed",
            Self::Timer => "timed",
            Self::HalfTopic => "prepared",
            Self::CheckedInVain => "abandoned",
            Self::Retry(_) => "retried",
            Self::DeadLetterQueue(_) => "dead",
        }
    }
}

/// The group that alone is concerned by a copy.
fn owner(copy: &StoredMessage) -> Option<GroupName> {
    match Place::of(copy) {
        Place::Retry(group) | Place::DeadLetterQueue(group) => Some(group),
        Place::DelayLevel { .. } | Place::Timer => {
            copy.text(property::REAL_TOPIC).strip_prefix(RETRY_PREFIX).map(GroupName::from)
        }
        Place::Topic | Place::HalfTopic | Place::CheckedInVain => None,
    }
}

/// The copy that says where the message is now, as far as `group` is concerned.
pub fn current<'a>(copies: &'a [StoredMessage], group: Option<&GroupName>) -> Option<&'a StoredMessage> {
    copies.iter().rev().find(|copy| match (owner(copy), group) {
        (None, _) => true,
        (Some(owner), Some(group)) => owner == *group,
        (Some(_), None) => false,
    })
}

/// Tells the story; `None` when there is nothing to tell it from.
pub fn tell(evidence: &Evidence<'_>) -> Option<MessageStory> {
    let current = current(&evidence.copies, None).or(evidence.copies.last())?;
    let tell_event = |n: usize| event(evidence, n);
    let groups: Vec<_> = evidence.groups.iter().map(|group| tell_group(evidence, group)).collect();
    let verdict = match (&groups[..], waiting(evidence, current)) {
        (_, Some(waiting)) => waiting,
        ([only], None) => only.verdict.clone(),
        ([], None) => format!(
            "It lies in queue {} of topic {} at offset {}, for every group to consume; none has yet.",
            current.queue_id, current.topic, current.queue_offset
        ),
        (several, None) => format!(
            "It lies in queue {} of topic {} at offset {}; {} groups consume the topic, see each.",
            current.queue_id,
            current.topic,
            current.queue_offset,
            several.len()
        ),
    };
    Some(MessageStory {
        found: true,
        verdict,
        events: (0..evidence.copies.len()).map(tell_event).collect(),
        groups,
    })
}

/// When a copy that waits is due, ms.
fn due_at_ms(evidence: &Evidence<'_>, copy: &StoredMessage) -> Option<i64> {
    match Place::of(copy) {
        Place::DelayLevel { level } => Some(evidence.delay_levels.deliver_at_ms(level, copy.stored_at_ms)),
        Place::Timer => TimerProperties::of(&copy.properties).due_ms(),
        _ => None,
    }
}

/// Why nobody can see the message yet, or ever, if that is so.
fn waiting(evidence: &Evidence<'_>, copy: &StoredMessage) -> Option<String> {
    let now = evidence.now.0;
    match Place::of(copy) {
        Place::DelayLevel { .. } | Place::Timer => Some(match due_at_ms(evidence, copy) {
            Some(due) if due > now && Place::of(copy) == Place::Timer && !evidence.timer_is_pending => {
                "It was taken back before its time: nobody gets it.".to_owned()
            }
            Some(due) if due > now => format!(
                "It is delayed and comes in {}, at {}; nobody sees it before.",
                span(due - now),
                calendar::format_ms(due)
            ),
            Some(due) => format!(
                "It was delayed and is due since {}: it is being delivered, or the broker cannot store it in {}; \
                 see its log.",
                span(now - due),
                copy.text(property::REAL_TOPIC)
            ),
            None => "It is delayed, and does not say until when.".to_owned(),
        }),
        Place::HalfTopic => Some(match &evidence.transaction {
            Some(open) => format!(
                "Its transaction is open since {}, and nobody sees the message before it is committed. Producer group {} \
                 was asked about it {} of {} times{}.",
                span(now - copy.stored_at_ms),
                open.group,
                open.checks,
                open.check_max,
                match open.unattended {
                    true => "; nobody of that group is online to be asked".to_owned(),
                    false => format!(", and is next at {}", calendar::format_ms(open.next_check_ms)),
                }
            ),
            None => "Its transaction was rolled back: nobody sees the message.".to_owned(),
        }),
        Place::CheckedInVain => Some(format!(
            "Its transaction was given up: producer group {} was asked about it and never decided. Nobody sees it; a copy \
             lies in {TRANSACTION_CHECK_MAX_TIME_TOPIC}.",
            copy.text(property::PRODUCER_GROUP)
        )),
        Place::Topic | Place::Retry(_) | Place::DeadLetterQueue(_) => None,
    }
}

fn times_checked(copy: &StoredMessage) -> String {
    match copy.text(property::TRANSACTION_CHECK_TIMES) {
        "" => String::new(),
        times => format!(", after {times} checks"),
    }
}

/// What one copy says, in the light of those before it.
fn event(evidence: &Evidence<'_>, n: usize) -> StoryEvent {
    let copy = &evidence.copies[n];
    let before = &evidence.copies[..n];
    let at = format!("queue {} of topic {} at offset {}", copy.queue_id, copy.topic, copy.queue_offset);
    let due = due_at_ms(evidence, copy).map_or("a time unknown".to_owned(), calendar::format_ms);
    let real_topic = copy.text(property::REAL_TOPIC);
    let place = Place::of(copy);
    let text = match &place {
        Place::Topic => match before.iter().rev().find(|copy| owner(copy).is_none()).map(Place::of) {
            None => format!("stored in {at}{}", description(copy)),
            Some(Place::HalfTopic | Place::CheckedInVain) => format!("committed, and stored in {at}"),
            Some(Place::DelayLevel { .. } | Place::Timer) => {
                format!("delivered to {at}{}", lateness(evidence, copy, before))
            }
            Some(_) => format!("stored once more, in {at}: its producer sent it again"),
        },
        Place::DelayLevel { level } => {
            let delay = span(evidence.delay_levels.delay(*level).as_millis() as i64);
            match owner(copy) {
                Some(group) => format!(
                    "consuming failed in group {group}, for the {}; waits {delay} (delay level {level}), until {due}",
                    time_of(copy.reconsume_times)
                ),
                None => format!(
                    "delayed for {delay} (delay level {level}) until {due}, then for topic {real_topic}{}",
                    description(copy)
                ),
            }
        }
        Place::Timer => match owner(copy) {
            Some(group) => format!(
                "consuming failed in group {group}, for the {}; waits until {due}",
                time_of(copy.reconsume_times)
            ),
            None => format!("delayed until {due}, then for topic {real_topic}{}", description(copy)),
        },
        Place::HalfTopic if before.iter().any(|copy| Place::of(copy) == Place::HalfTopic) => {
            format!(
                "asked producer group {} about it{}",
                copy.text(property::PRODUCER_GROUP),
                times_checked(copy)
            )
        }
        Place::HalfTopic => format!(
            "prepared for topic {real_topic} in a transaction of producer group {}{}",
            copy.text(property::PRODUCER_GROUP),
            description(copy)
        ),
        Place::CheckedInVain => format!("transaction given up{}", times_checked(copy)),
        Place::Retry(group) => format!(
            "handed to group {group} again, in {at}{}",
            match copy.reconsume_times {
                0 => String::new(),
                times => format!(": {} attempt", nth(times + 1)),
            }
        ),
        Place::DeadLetterQueue(group) => {
            let reason = match copy.text(property::DLQ_REASON) {
                "" => format!("after {} retries", copy.reconsume_times),
                reason => reason.to_owned(),
            };
            let client = match copy.text(property::DLQ_CLIENT) {
                "" => String::new(),
                client => format!(" (last client {client})"),
            };
            format!("given up by group {group}: {reason}{client}; lies in {at}")
        }
    };
    StoryEvent {
        at_ms: copy.stored_at_ms,
        kind: place.kind().to_owned(),
        text,
        topic: copy.topic.to_string(),
        queue_id: copy.queue_id.0,
        queue_offset: copy.queue_offset.0,
        physical_offset: copy.physical_offset.0,
    }
}

/// Who made a message, and what distinguishes it.
fn description(copy: &StoredMessage) -> String {
    let mut description = format!(": {} bytes from {}", copy.body.len(), copy.born_host);
    if let Some(took) = u64::try_from(copy.stored_at_ms - copy.born_at_ms).ok().filter(|took| *took > 1_000) {
        description += &format!(", made {} before", span(took as i64));
    }
    for (name, what) in
        [(property::TAGS, "tag"), (property::KEYS, "keys"), (property::SHARDING_KEY, "sharding key")]
    {
        match copy.text(name) {
            "" => {}
            value => description += &format!(", {what} {value}"),
        }
    }
    description
}

/// How long after its time a delayed message was delivered.
fn lateness(evidence: &Evidence<'_>, copy: &StoredMessage, before: &[StoredMessage]) -> String {
    let due = before.iter().rev().find_map(|copy| due_at_ms(evidence, copy));
    match due.map(|due| copy.stored_at_ms - due) {
        Some(late) if late >= 1_000 => format!(", {} after its time", span(late)),
        Some(late) if late < 0 => format!(", {} before its time", span(-late)),
        _ => ", when it was due".to_owned(),
    }
}

fn tell_group(evidence: &Evidence<'_>, group: &GroupEvidence) -> GroupStory {
    let mut facts = Vec::new();
    let verdict = match current(&evidence.copies, Some(&group.group)) {
        Some(copy) => {
            facts = standing(copy, group);
            waiting(evidence, copy).unwrap_or_else(|| judge(copy, group))
        }
        None => "Nothing of the message concerns this group.".to_owned(),
    };
    GroupStory { group: group.group.to_string(), verdict, facts }
}

/// What there is to know of a group that may matter.
fn standing(copy: &StoredMessage, group: &GroupEvidence) -> Vec<String> {
    let mut facts = Vec::new();
    facts.push(match (&group.members[..], group.exists) {
        ([], true) => "no member is online".to_owned(),
        ([], false) => "the group is not known here".to_owned(),
        (members, _) => format!(
            "{} online, {}: {}",
            counted(members.len(), "member"),
            if group.broadcasting { "broadcasting" } else { "sharing the queues" },
            members.iter().map(|id| id.to_string()).collect::<Vec<_>>().join(", ")
        ),
    });
    if let Some(subscription) = &group.subscription {
        facts.push(match &group.matching {
            Matching::Matches => format!("subscribes to {subscription}, which it matches"),
            Matching::Differs => format!("subscribes to {subscription}, which it does not match"),
            Matching::Faulty(cause) => {
                format!("subscribes to {subscription}, which cannot be evaluated: {cause}")
            }
            Matching::Unknown => format!("subscribes to {subscription}"),
        });
    }
    let (min, max) = (group.extent.min, group.extent.max);
    facts.push(match group.offset {
        Some(offset) => format!(
            "has committed offset {offset} of queue {} of {}, which holds [{min}, {max}); the message is at {}",
            copy.queue_id, copy.topic, copy.queue_offset
        ),
        None => format!(
            "has committed nothing for queue {} of {}, which holds [{min}, {max}); the message is at {}",
            copy.queue_id, copy.topic, copy.queue_offset
        ),
    });
    if let Some(lock) = &group.lock {
        facts.push(format!(
            "the queue is locked by {} since {}, renewed {} ago",
            lock.owner,
            span(lock.held_for.as_millis() as i64),
            span(lock.renewed_ago.as_millis() as i64)
        ));
    }
    facts
}

/// Why the group has consumed a message that is there to be consumed, or why not.
fn judge(copy: &StoredMessage, group: &GroupEvidence) -> String {
    let name = &group.group;
    if let Place::DeadLetterQueue(_) = Place::of(copy) {
        return format!(
            "Group {name} has given it up; it lies in its dead letter queue. `telstar dlq replay` sends it again."
        );
    }
    let at = copy.queue_offset;
    if group.matching == Matching::Differs && group.offset.is_none_or(|offset| offset > at) {
        return format!("The subscription of group {name} passes it over: it does not match.");
    }
    if group.offset.is_some_and(|offset| offset > at) {
        return match copy.reconsume_times {
            0 => format!("Group {name} has consumed it: its offset is beyond."),
            times => format!(
                "Group {name} has consumed it, at the {} attempt: its offset is beyond.",
                nth(times + 1)
            ),
        };
    }
    if at < group.extent.min {
        return format!(
            "It has expired: the queue begins at offset {} now, and group {name} had not consumed it.",
            group.extent.min
        );
    }
    let cause = match group {
        GroupEvidence { exists: false, .. } => {
            "no consumer of that name ever came to this broker; check the name, and the name server of the consumers"
                .to_owned()
        }
        GroupEvidence { may_consume: false, .. } => {
            "it may not: consuming is switched off for the group, or it is forbidden to read the topic".to_owned()
        }
        GroupEvidence { members, .. } if members.is_empty() => "no member of it is online".to_owned(),
        GroupEvidence { subscription: None, .. } => {
            format!("its members do not subscribe to {}; all members of a group must subscribe alike", copy.topic)
        }
        GroupEvidence { matching: Matching::Faulty(cause), .. } => {
            format!("its subscription cannot be evaluated: {cause}")
        }
        GroupEvidence { broadcasting: true, .. } => {
            return format!(
                "Group {name} is broadcasting: each member keeps its own offset, and this broker does not know it."
            );
        }
        GroupEvidence { offset, lock, extent, .. } => {
            let from = offset.unwrap_or(extent.min).max(extent.min);
            let behind = at.0.saturating_sub(from.0);
            let lock = lock.as_ref().map_or(String::new(), |lock| {
                format!("; the queue is consumed in order by {} alone, since {}", lock.owner, span(lock.held_for.as_millis() as i64))
            });
            match behind {
                0 => format!("it is the next in its queue, and not acknowledged yet{lock}"),
                1 => format!("1 message comes before it in its queue{lock}"),
                _ => format!("{behind} messages come before it in its queue{lock}"),
            }
        }
    };
    let matching = match group.matching {
        Matching::Differs => " And it does not match the subscription: it will be passed over.",
        _ => "",
    };
    format!("Group {name} has not consumed it yet: {cause}.{matching}")
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn nth(n: i32) -> String {
    let suffix = match (n % 10, n % 100) {
        (1, rest) if rest != 11 => "st",
        (2, rest) if rest != 12 => "nd",
        (3, rest) if rest != 13 => "rd",
        _ => "th",
    };
    format!("{n}{suffix}")
}

fn time_of(times: i32) -> String {
    format!("{} time", nth(times.max(1)))
}

/// A span of time as people say it, in its two largest units.
fn span(ms: i64) -> String {
    let duration = Duration::from_millis(ms.unsigned_abs());
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    match seconds {
        0 => format!("{millis} ms"),
        1..60 if millis == 0 => format!("{seconds} s"),
        1..60 => format!("{seconds}.{} s", millis / 100),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests;
