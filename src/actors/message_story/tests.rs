use bytes::Bytes;
use std::net::SocketAddr;

use super::*;
use crate::protocol::properties::PropertyList;
use crate::types::{MessageQueue, PhysicalOffset, QueueId};

/// 2023-11-14T22:13:20Z.
const BEGAN: i64 = 1_700_000_000_000;

/// A copy in `topic`, stored so many milliseconds after the beginning.
fn copy(topic: &str, queue_id: u32, offset: u64, after_ms: i64, pairs: &[(&str, &str)]) -> StoredMessage {
    let mut properties = PropertyList::default();
    for (name, value) in pairs {
        properties.set(name, value.to_string());
    }
    let host = SocketAddr::from(([10, 0, 0, 7], 52_100));
    StoredMessage {
        topic: topic.into(),
        queue_id: QueueId(queue_id),
        flag: 0,
        queue_offset: QueueOffset(offset),
        physical_offset: PhysicalOffset(after_ms as u64),
        sys_flag: 0,
        born_at_ms: BEGAN,
        born_host: host,
        stored_at_ms: BEGAN + after_ms,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        crc: 0,
        body: Bytes::from_static(b"body"),
        properties: properties.encode(),
    }
}

fn retry(copy: StoredMessage, reconsume_times: i32) -> StoredMessage {
    StoredMessage { reconsume_times, ..copy }
}

/// A group that is online, takes everything, and has everything before it.
fn group() -> GroupEvidence {
    GroupEvidence {
        group: "g".into(),
        exists: true,
        may_consume: true,
        members: vec!["10.0.0.9@1".into()],
        broadcasting: false,
        subscription: Some("*".into()),
        matching: Matching::Matches,
        offset: Some(QueueOffset(0)),
        extent: QueueExtent { max: QueueOffset(100), ..QueueExtent::default() },
        lock: None,
    }
}

fn story(copies: Vec<StoredMessage>, groups: Vec<GroupEvidence>, after_ms: i64) -> MessageStory {
    let delay_levels = &DelayLevels::default();
    tell(&Evidence {
        now: WallMs(BEGAN + after_ms),
        copies,
        delay_levels,
        timer_is_pending: true,
        transaction: None,
        groups,
    })
    .unwrap()
}

/// What is said of a plain message at offset 7 and a group.
fn verdict(group: GroupEvidence) -> String {
    story(vec![copy("T", 3, 7, 0, &[])], vec![group], 0).verdict
}

fn texts(story: &MessageStory) -> Vec<&str> {
    story.events.iter().map(|event| event.text.as_str()).collect()
}

#[test]
fn every_cause_for_which_a_group_has_not_consumed_has_its_sentence() {
    let held = Duration::from_secs(90);
    let queue = MessageQueue { broker_name: "b".into(), queue_id: 3, topic: "T".into() };
    let lock = HeldLock { queue, owner: "c".into(), held_for: held, renewed_ago: Duration::from_secs(5) };
    let cases: Vec<(GroupEvidence, &str)> = vec![
        (
            GroupEvidence { offset: Some(QueueOffset(8)), ..group() },
            "Group g has consumed it: its offset is beyond.",
        ),
        (group(), "Group g has not consumed it yet: 7 messages come before it in its queue."),
        (
            GroupEvidence { offset: Some(QueueOffset(6)), lock: Some(lock), ..group() },
            "Group g has not consumed it yet: 1 message comes before it in its queue; the queue is consumed in order by c \
             alone, since 1 min 30 s.",
        ),
        (
            GroupEvidence { offset: Some(QueueOffset(7)), ..group() },
            "Group g has not consumed it yet: it is the next in its queue, and not acknowledged yet.",
        ),
        (
            GroupEvidence { matching: Matching::Differs, offset: Some(QueueOffset(8)), ..group() },
            "The subscription of group g passes it over: it does not match.",
        ),
        (
            GroupEvidence { matching: Matching::Differs, ..group() },
            "Group g has not consumed it yet: 7 messages come before it in its queue. And it does not match the \
             subscription: it will be passed over.",
        ),
        (
            GroupEvidence { matching: Matching::Faulty("a >".into()), ..group() },
            "Group g has not consumed it yet: its subscription cannot be evaluated: a >.",
        ),
        (
            GroupEvidence { members: Vec::new(), subscription: None, ..group() },
            "Group g has not consumed it yet: no member of it is online.",
        ),
        (
            GroupEvidence { subscription: None, ..group() },
            "Group g has not consumed it yet: its members do not subscribe to T; all members of a group must subscribe \
             alike.",
        ),
        (
            GroupEvidence { may_consume: false, ..group() },
            "Group g has not consumed it yet: it may not: consuming is switched off for the group, or it is forbidden to \
             read the topic.",
        ),
        (
            GroupEvidence { exists: false, members: Vec::new(), ..group() },
            "Group g has not consumed it yet: no consumer of that name ever came to this broker; check the name, and the \
             name server of the consumers.",
        ),
        (
            GroupEvidence { broadcasting: true, offset: None, ..group() },
            "Group g is broadcasting: each member keeps its own offset, and this broker does not know it.",
        ),
        (
            GroupEvidence {
                extent: QueueExtent { min: QueueOffset(9), max: QueueOffset(9), ..QueueExtent::default() },
                ..group()
            },
            "It has expired: the queue begins at offset 9 now, and group g had not consumed it.",
        ),
    ];
    for (group, expected) in cases {
        assert_eq!(verdict(group), expected);
    }
}

#[test]
fn attempts_of_a_group_are_told_in_order_until_it_gives_up() {
    let keyed = [("UNIQ_KEY", "U"), ("TAGS", "A"), ("KEYS", "k1")];
    let waiting = [("REAL_TOPIC", "%RETRY%g"), ("UNIQ_KEY", "U")];
    let dead = [("DLQ_REASON", "tried 1 time, which is the most"), ("DLQ_CLIENT", "10.0.0.9@1")];
    let copies = vec![
        copy("T", 3, 7, 0, &keyed),
        retry(copy("SCHEDULE_TOPIC_XXXX", 2, 40, 1_000, &waiting), 1),
        retry(copy("%RETRY%g", 0, 5, 11_000, &keyed), 1),
        retry(copy("%DLQ%g", 0, 2, 12_000, &dead), 1),
    ];
    let told = |count: usize, after_ms| story(copies[..count].to_vec(), vec![group()], after_ms);
    assert_eq!(
        texts(&told(4, 13_000)),
        [
            "stored in queue 3 of topic T at offset 7: 4 bytes from 10.0.0.7:52100, tag A, keys k1",
            "consuming failed in group g, for the 1st time; waits 10 s (delay level 3), until 2023-11-14T22:13:31.000Z",
            "handed to group g again, in queue 0 of topic %RETRY%g at offset 5: 2nd attempt",
            "given up by group g: tried 1 time, which is the most (last client 10.0.0.9@1); lies in queue 0 of topic %DLQ%g at offset 2",
        ]
    );
    let verdicts = [
        (1, 500, "Group g has not consumed it yet: 7 messages come before it in its queue."),
        (2, 4_500, "It is delayed and comes in 6.5 s, at 2023-11-14T22:13:31.000Z; nobody sees it before."),
        (
            2,
            12_000,
            "It was delayed and is due since 1 s: it is being delivered, or the broker cannot store it in %RETRY%g; see its log.",
        ),
        (3, 11_500, "Group g has not consumed it yet: 5 messages come before it in its queue."),
        (
            4,
            13_000,
            "Group g has given it up; it lies in its dead letter queue. `telstar dlq replay` sends it again.",
        ),
    ];
    for (count, after_ms, expected) in verdicts {
        assert_eq!(told(count, after_ms).groups[0].verdict, expected, "{count} copies");
    }
    let other = GroupEvidence { group: "h".into(), offset: Some(QueueOffset(8)), ..group() };
    let both = story(copies, vec![group(), other], 13_000);
    assert_eq!(both.groups[1].verdict, "Group h has consumed it: its offset is beyond.");
    assert!(
        both.verdict.starts_with("It lies in queue 3 of topic T at offset 7; 2 groups"),
        "{}",
        both.verdict
    );
}

#[test]
fn what_nobody_may_see_yet_says_so() {
    let delayed = [("REAL_TOPIC", "T"), ("TIMER_OUT_MS", "1700000060000")];
    let half = [("REAL_TOPIC", "T"), ("PGROUP", "p"), ("TRANSACTION_CHECK_TIMES", "2")];
    let cases = [
        (
            copy(SCHEDULE_TOPIC, 4, 0, 0, &delayed),
            "It is delayed and comes in 1 min 0 s, at 2023-11-14T22:14:20.000Z; ",
        ),
        (
            copy(TIMER_TOPIC, 0, 0, 0, &delayed),
            "It is delayed and comes in 1 min 1 s, at 2023-11-14T22:14:21.000Z; ",
        ),
        (copy(HALF_TOPIC, 0, 0, 0, &half), "Its transaction was rolled back: nobody sees the message."),
        (
            copy(TRANSACTION_CHECK_MAX_TIME_TOPIC, 0, 0, 0, &half),
            "Its transaction was given up: producer group p",
        ),
    ];
    for (copy, expected) in cases {
        let story = story(vec![copy], vec![group()], 0);
        assert!(story.verdict.starts_with(expected), "{}", story.verdict);
        assert_eq!(story.verdict, story.groups[0].verdict);
    }
}

#[test]
fn what_was_hidden_and_came_out_is_where_it_came_out() {
    let real = [("REAL_TOPIC", "T")];
    let delayed = vec![copy(SCHEDULE_TOPIC, 0, 0, 0, &real), copy("T", 1, 7, 1_004, &[])];
    let told = story(delayed, Vec::new(), 2_000);
    assert_eq!(texts(&told)[1], "delivered to queue 1 of topic T at offset 7, when it was due");
    assert!(told.verdict.ends_with("for every group to consume; none has yet."), "{}", told.verdict);
    let committed = vec![copy(HALF_TOPIC, 0, 0, 0, &real), copy("T", 1, 7, 4, &[])];
    assert_eq!(
        texts(&story(committed, Vec::new(), 9))[1],
        "committed, and stored in queue 1 of topic T at offset 7"
    );
    let twice = vec![copy("T", 1, 7, 0, &[]), copy("T", 2, 9, 4, &[])];
    let told = story(twice, Vec::new(), 9);
    assert_eq!(
        texts(&told)[1],
        "stored once more, in queue 2 of topic T at offset 9: its producer sent it again"
    );
}

#[test]
fn spans_are_told_in_two_units() {
    let cases = [
        (7, "7 ms"),
        (1_000, "1 s"),
        (1_250, "1.2 s"),
        (61_000, "1 min 1 s"),
        (3_720_000, "1 h 2 min"),
        (90_000_000, "1 d 1 h"),
    ];
    for (ms, expected) in cases {
        assert_eq!(span(ms), expected);
    }
    assert_eq!(
        [1, 2, 3, 4, 11, 12, 13, 21, 112].map(nth),
        ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "112th"]
    );
}

#[test]
fn open_transaction_says_whom_it_waits_for() {
    let half = copy(HALF_TOPIC, 0, 0, 0, &[("REAL_TOPIC", "T"), ("PGROUP", "p")]);
    let open = TransactionInfo {
        group: "p".into(),
        checks: 2,
        check_max: 15,
        next_check_ms: BEGAN + 66_000,
        ..TransactionInfo::default()
    };
    let told = |transaction: TransactionInfo| {
        let delay_levels = &DelayLevels::default();
        let (now, copies) = (WallMs(BEGAN + 36_000), vec![half.clone()]);
        let transaction = Some(transaction);
        tell(&Evidence {
            now,
            copies,
            delay_levels,
            timer_is_pending: false,
            transaction,
            groups: vec![group()],
        })
        .unwrap()
        .verdict
    };
    assert_eq!(
        told(open.clone()),
        "Its transaction is open since 36 s, and nobody sees the message before it is committed. Producer group p was asked \
         about it 2 of 15 times, and is next at 2023-11-14T22:14:26.000Z."
    );
    let alone = told(TransactionInfo { unattended: true, ..open });
    assert!(alone.ends_with("2 of 15 times; nobody of that group is online to be asked."), "{alone}");
}

#[test]
fn timer_that_is_pending_no_more_before_its_time_was_taken_back() {
    let timer = copy(TIMER_TOPIC, 0, 0, 0, &[("REAL_TOPIC", "T"), ("TIMER_OUT_MS", "1700000060000")]);
    let delay_levels = &DelayLevels::default();
    let evidence = |timer_is_pending| Evidence {
        now: WallMs(BEGAN),
        copies: vec![timer.clone()],
        delay_levels,
        timer_is_pending,
        transaction: None,
        groups: vec![group()],
    };
    let verdict = |timer_is_pending| tell(&evidence(timer_is_pending)).unwrap().verdict;
    assert!(verdict(true).starts_with("It is delayed and comes in 1 min"), "{}", verdict(true));
    assert_eq!(verdict(false), "It was taken back before its time: nobody gets it.");
}
