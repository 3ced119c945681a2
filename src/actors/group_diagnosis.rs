//! Why a group is where it is: from what is known of it, its members and a queue, to a sentence that people can act on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::protocol::body::group_why::{MemberDescription, QueueDescription};
use crate::protocol::names;

/// A queue with messages to consume that nobody has pulled for so long is not being consumed.
const QUIET: Duration = Duration::from_secs(30);
/// A consumer offset that has not moved for so long, with pulls going on, means a message that is not settled.
const UNSETTLED: Duration = Duration::from_secs(60);

/// What is known of a group beside its queues.
#[derive(Clone, Debug, Default)]
pub struct GroupFacts {
    pub consume_enabled: bool,
    pub broadcasting: bool,
    pub members: Vec<MemberDescription>,
}

/// What is known of a queue beside its description.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueRights {
    /// The topic and the broker may be read.
    pub readable: bool,
    /// This group was forbidden to read the topic.
    pub forbidden: bool,
    /// The group as a whole subscribes to the topic.
    pub subscribed: bool,
}

/// Why a queue is where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cause {
    pub stuck: bool,
    pub text: String,
}

fn stuck(text: String) -> Cause {
    Cause { stuck: true, text }
}

fn moving(text: String) -> Cause {
    Cause { stuck: false, text }
}

impl GroupFacts {
    /// What is wrong with the group as a whole.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.consume_enabled {
            problems.push("consuming is switched off for this group (consumeEnable); mqadmin updateSubGroup -s true turns it on".to_owned());
        }
        if self.members.is_empty() {
            problems.push("no member is online: no client sends heartbeats for this group".to_owned());
        }
        problems.extend(self.disagreements());
        problems
    }

    /// Topics that members do not subscribe to alike. The last heartbeat counts for all of them, so that messages are
    /// left out or left lying.
    fn disagreements(&self) -> Vec<String> {
        let topics: BTreeSet<_> =
            self.members.iter().flat_map(|member| member.subscriptions.keys()).collect();
        let mut problems = Vec::new();
        for topic in topics {
            let mut by_expression: BTreeMap<Option<&str>, Vec<&str>> = BTreeMap::new();
            for member in &self.members {
                let expression = member.subscriptions.get(topic).map(String::as_str);
                by_expression.entry(expression).or_default().push(&member.client_id);
            }
            if by_expression.len() < 2 {
                continue;
            }
            let parties = by_expression.iter().map(|(expression, clients)| {
                let (names, one) = (few(clients), clients.len() == 1);
                match (expression, one) {
                    (Some(expression), true) => format!("{names} subscribes to {topic} by {expression:?}"),
                    (Some(expression), false) => format!("{names} subscribe to {topic} by {expression:?}"),
                    (None, true) => format!("{names} does not subscribe to {topic}"),
                    (None, false) => format!("{names} do not subscribe to {topic}"),
                }
            });
            let parties: Vec<_> = parties.collect();
            problems.push(format!(
                "members subscribe differently: {}; all members of a group must subscribe alike, or messages are skipped or left lying",
                parties.join(", ")
            ));
        }
        problems
    }

    fn is_online(&self, client_id: &str) -> bool {
        self.members.iter().any(|member| member.client_id == client_id)
    }

    /// Why the queue is where it is.
    pub fn cause(&self, queue: &QueueDescription, rights: QueueRights) -> Cause {
        let QueueDescription { topic, lag, .. } = queue;
        if *lag == 0 {
            return moving("everything is consumed".to_owned());
        }
        if self.broadcasting {
            return moving("the group consumes as broadcast: each member keeps its own offsets, and what is kept here says nothing".to_owned());
        }
        if !self.consume_enabled {
            return stuck("consuming is switched off for the group".to_owned());
        }
        if !rights.readable {
            return stuck(format!(
                "topic {topic} or the broker cannot be read: its permission lacks read (4)"
            ));
        }
        if rights.forbidden {
            return stuck(format!("the group is forbidden to read topic {topic}; mqadmin updates that"));
        }
        if self.members.is_empty() {
            return stuck("no member of the group is online".to_owned());
        }
        if !rights.subscribed {
            return stuck(format!(
                "no member subscribes to topic {topic} now; its offsets are of an earlier time"
            ));
        }
        self.cause_in_work(queue)
    }

    /// As [`cause`](Self::cause), where somebody should be at work.
    fn cause_in_work(&self, queue: &QueueDescription) -> Cause {
        let at = standing(queue);
        if let Some(held) = &queue.held {
            let since = readable(held.for_ms);
            if !self.is_online(&held.client_id) {
                let renewed = readable(held.renewed_ago_ms);
                return stuck(format!(
                    "locked by {}, which is not connected any more; the lock was renewed {renewed} ago, and passes on 35 s to 60 s after that",
                    held.client_id
                ));
            }
            let pulled = queue.last_pull.as_ref().filter(|pull| pull.by == held.client_id);
            let quiet = pulled.is_none_or(|pull| pull.ago_ms >= QUIET.as_millis() as u64);
            if quiet {
                let pulled = pulled.map_or("has not pulled it since".to_owned(), |pull| {
                    format!("has not pulled for {}", readable(pull.ago_ms))
                });
                return stuck(format!(
                    "held in order by {} for {since}, which {pulled}: {at}",
                    held.client_id
                ));
            }
        }
        let Some(pull) = &queue.last_pull else {
            return stuck(self.unattended(queue, "since the broker started"));
        };
        if pull.ago_ms >= QUIET.as_millis() as u64 {
            if self.is_online(&pull.by) {
                return stuck(format!(
                    "{} has not pulled for {}: it holds as many messages as it takes, or hangs; {at}",
                    pull.by,
                    readable(pull.ago_ms)
                ));
            }
            return stuck(
                self.unattended(queue, &format!("since {} left, {} ago", pull.by, readable(pull.ago_ms))),
            );
        }
        let unmoved = queue.moved_ago_ms.filter(|ms| *ms >= UNSETTLED.as_millis() as u64);
        if let Some(ms) = unmoved {
            return stuck(format!(
                "{} pulls, up to offset {}, but has settled nothing for {}: {at}",
                pull.by,
                pull.offset,
                readable(ms)
            ));
        }
        moving(format!("being consumed by {}, {} messages behind", pull.by, queue.lag))
    }

    /// Why nobody pulls a queue that is subscribed to.
    fn unattended(&self, queue: &QueueDescription, since: &str) -> String {
        let topic = &queue.topic;
        if names::is_retry_topic(topic) {
            return format!(
                "nobody has pulled this retry queue {since}: members look for it within 20 s of its first message"
            );
        }
        format!(
            "nobody has pulled it {since}, though {} subscribed: the members do not share the queues alike (different client ids on each broker, or different strategies), or are still sharing them",
            match self.members.len() {
                1 => "one member is".to_owned(),
                count => format!("{count} members are"),
            }
        )
    }
}

/// Which message is next.
fn standing(queue: &QueueDescription) -> String {
    match &queue.stands_at {
        Some(at) => {
            let keys = if at.keys.is_empty() { String::new() } else { format!(", keys {}", at.keys) };
            let tries = match at.retries {
                0 => String::new(),
                retries => format!(", {retries} retries"),
            };
            format!(
                "next is offset {} (id {}{keys}{tries}), stored {} ago",
                at.offset,
                at.message_id,
                readable(at.age_ms)
            )
        }
        None => "the next message is gone".to_owned(),
    }
}

/// A few of many names.
fn few(names: &[&str]) -> String {
    match names {
        [one] => (*one).to_owned(),
        [one, two] => format!("{one} and {two}"),
        [one, two, rest @ ..] => format!("{one}, {two} and {} more", rest.len()),
        [] => String::new(),
    }
}

/// `12 s`, `4 m 10 s`, `3 h 5 m`, `2 d 1 h`.
pub fn readable(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} m {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::body::group_why::{LastPull, QueueHolder, StandsAt};

    const FREE: QueueRights = QueueRights { readable: true, forbidden: false, subscribed: true };

    fn member(client_id: &str, subscriptions: &[(&str, &str)]) -> MemberDescription {
        MemberDescription {
            client_id: client_id.into(),
            subscriptions: subscriptions.iter().map(|(t, e)| ((*t).into(), e.to_string())).collect(),
            ..MemberDescription::default()
        }
    }

    fn group() -> GroupFacts {
        let members = vec![member("c1", &[("T", "*")]), member("c2", &[("T", "*")])];
        GroupFacts { consume_enabled: true, broadcasting: false, members }
    }

    fn queue() -> QueueDescription {
        QueueDescription {
            topic: "T".into(),
            max_offset: 9,
            consumer_offset: Some(4),
            lag: 5,
            last_pull: Some(LastPull { by: "c1".into(), ago_ms: 500, offset: 9 }),
            moved_ago_ms: Some(1_000),
            stands_at: Some(StandsAt {
                offset: 4,
                message_id: "0A".into(),
                keys: "order-7".into(),
                age_ms: 250_000,
                ..StandsAt::default()
            }),
            ..QueueDescription::default()
        }
    }

    fn said(group: &GroupFacts, queue: &QueueDescription, rights: QueueRights) -> String {
        let cause = group.cause(queue, rights);
        format!("{}{}", if cause.stuck { "STUCK " } else { "" }, cause.text)
    }

    #[test]
    fn what_moves_is_not_called_stuck() {
        assert_eq!(said(&group(), &queue(), FREE), "being consumed by c1, 5 messages behind");
        let done = QueueDescription { lag: 0, ..queue() };
        assert_eq!(said(&GroupFacts::default(), &done, FREE), "everything is consumed");
        let broadcast = GroupFacts { broadcasting: true, ..group() };
        assert!(said(&broadcast, &queue(), FREE).starts_with("the group consumes as broadcast"));
    }

    #[test]
    fn what_is_not_allowed_is_said_first() {
        let off = GroupFacts { consume_enabled: false, ..group() };
        assert_eq!(said(&off, &queue(), FREE), "STUCK consuming is switched off for the group");
        let forbidden = QueueRights { forbidden: true, ..FREE };
        assert!(
            said(&group(), &queue(), forbidden).starts_with("STUCK the group is forbidden to read topic T")
        );
        let unreadable = QueueRights { readable: false, ..FREE };
        assert!(said(&group(), &queue(), unreadable).contains("lacks read (4)"));
        let nobody = GroupFacts { members: Vec::new(), ..group() };
        assert_eq!(said(&nobody, &queue(), FREE), "STUCK no member of the group is online");
        let unsubscribed = QueueRights { subscribed: false, ..FREE };
        assert!(said(&group(), &queue(), unsubscribed).starts_with("STUCK no member subscribes to topic T"));
    }

    #[test]
    fn message_that_is_not_settled_is_named() {
        let unsettled = QueueDescription { moved_ago_ms: Some(125_000), ..queue() };
        assert_eq!(
            said(&group(), &unsettled, FREE),
            "STUCK c1 pulls, up to offset 9, but has settled nothing for 2 m 5 s: next is offset 4 (id 0A, keys order-7), stored 4 m 10 s ago"
        );
        let hanging = QueueDescription {
            last_pull: Some(LastPull { by: "c1".into(), ago_ms: 65_000, offset: 9 }),
            ..queue()
        };
        assert!(
            said(&group(), &hanging, FREE)
                .starts_with("STUCK c1 has not pulled for 1 m 5 s: it holds as many")
        );
    }

    #[test]
    fn queue_that_nobody_attends_to_is_named() {
        let left = QueueDescription {
            last_pull: Some(LastPull { by: "gone".into(), ago_ms: 65_000, offset: 9 }),
            ..queue()
        };
        assert!(
            said(&group(), &left, FREE)
                .starts_with("STUCK nobody has pulled it since gone left, 1 m 5 s ago")
        );
        let never = QueueDescription { last_pull: None, ..queue() };
        assert!(said(&group(), &never, FREE).contains("though 2 members are subscribed"));
    }

    #[test]
    fn holder_of_an_ordered_queue_is_named() {
        let held = |client_id: &str| QueueDescription {
            held: Some(QueueHolder { client_id: client_id.into(), for_ms: 90_000, renewed_ago_ms: 12_000 }),
            ..queue()
        };
        assert_eq!(said(&group(), &held("c1"), FREE), "being consumed by c1, 5 messages behind");
        assert!(
            said(&group(), &held("gone"), FREE).starts_with("STUCK locked by gone, which is not connected")
        );
        let quiet = held("c2");
        assert_eq!(
            said(&group(), &quiet, FREE),
            "STUCK held in order by c2 for 1 m 30 s, which has not pulled it since: next is offset 4 (id 0A, keys order-7), stored 4 m 10 s ago"
        );
    }

    #[test]
    fn members_that_subscribe_differently_are_named() {
        let mut facts = group();
        assert!(facts.problems().is_empty());
        facts.members.push(member("c3", &[("T", "a || b"), ("U", "*")]));
        let problems = facts.problems();
        assert!(
            problems[0].contains(r#"c1 and c2 subscribe to T by "*", c3 subscribes to T by "a || b""#),
            "{problems:?}"
        );
        assert!(problems[1].contains("c1 and c2 do not subscribe to U"), "{problems:?}");
        let alone = GroupFacts { members: Vec::new(), ..facts };
        assert!(alone.problems()[0].starts_with("no member is online"));
    }

    #[test]
    fn durations_are_read_at_a_glance() {
        let said = [0, 59_999, 60_000, 3_600_000, 90_000_000].map(readable);
        assert_eq!(said, ["0 s", "59 s", "1 m 0 s", "1 h 0 m", "1 d 1 h"]);
    }
}
