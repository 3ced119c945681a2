//! What clients were told and what they saw, and whether it fits together. Pure; time comes in by argument.
//!
//! 1. What was acknowledged is seen where the acknowledgement said, and what was refused is not there.
//! 2. A place of a queue holds one message for ever; places have no gap unless a power loss took what nobody had been told
//!    of; a try to send is there at most once.
//! 3. Of what one producer sends to a queue, one after the other, the later lies behind the earlier.
//! 4. A delayed message is not seen before its time.
//! 5. Of a transaction only what was committed is seen.
//! 6. Every acknowledged message, and every committed one, is consumed or dead-lettered in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::clock::WallMs;
use crate::types::MessageQueue;

/// One try to send a message: every try has a body of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Try {
    pub message: u64,
    pub number: u32,
}

impl fmt::Display for Try {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m{}.{}", self.message, self.number)
    }
}

impl Try {
    /// What is said at the beginning of a body.
    pub fn read(body: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(body).ok()?;
        let (message, rest) = text.strip_prefix('m')?.split_once('.')?;
        let number = rest.split(' ').next()?;
        Some(Self { message: message.parse().ok()?, number: number.parse().ok()? })
    }
}

/// How a message is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Plain,
    /// Through a delay level or a timer.
    Delayed,
    /// As a half; `commits` is what its producer decides.
    Half {
        commits: bool,
    },
}

/// What became of a try.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Fate {
    /// Under way.
    Open,
    /// No answer came, and nobody waits for it any more: it may be stored or not.
    Unknown,
    /// Where it is said to be; delayed messages and halves lie elsewhere first.
    Stored(Option<(MessageQueue, u64)>),
    Refused(String),
}

#[derive(Debug)]
struct Sent {
    kind: Kind,
    producer: u32,
    queue: MessageQueue,
    due: Option<WallMs>,
    fates: Vec<Fate>,
    acknowledged_at: Option<WallMs>,
    is_consumed: bool,
    is_dead: bool,
}

/// What does not fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Default)]
pub struct Ledger {
    sent: BTreeMap<u64, Sent>,
    /// What was seen where.
    seen: BTreeMap<MessageQueue, BTreeMap<u64, Try>>,
    places: BTreeMap<Try, BTreeSet<(MessageQueue, u64)>>,
    last_of: BTreeMap<(u32, MessageQueue), u64>,
    acknowledged: u64,
    power_was_lost: bool,
}

/// A message that a consumer was handed.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    pub queue: &'a MessageQueue,
    pub offset: u64,
    pub what: Try,
    pub now: WallMs,
    /// It lies in the queue it was sent to, not in one for retries.
    pub is_at_home: bool,
}

impl Ledger {
    /// A producer is about to try; the number of the try.
    pub fn trying(
        &mut self,
        message: u64,
        producer: u32,
        kind: Kind,
        queue: &MessageQueue,
        due: Option<WallMs>,
    ) -> Try {
        let sent = self.sent.entry(message).or_insert_with(|| Sent {
            kind,
            producer,
            queue: queue.clone(),
            due,
            fates: Vec::new(),
            acknowledged_at: None,
            is_consumed: false,
            is_dead: false,
        });
        sent.queue = queue.clone();
        sent.fates.push(Fate::Open);
        Try { message, number: sent.fates.len() as u32 - 1 }
    }

    /// The broker said that it is stored, at an offset of the queue it was sent to.
    pub fn acknowledged(&mut self, what: Try, offset: u64, now: WallMs) -> Result<(), Violation> {
        let Some(sent) = self.sent.get_mut(&what.message) else { return Ok(()) };
        self.acknowledged += 1;
        sent.acknowledged_at.get_or_insert(now);
        let place = (sent.kind == Kind::Plain).then(|| (sent.queue.clone(), offset));
        sent.fates[what.number as usize] = Fate::Stored(place.clone());
        let Some((queue, offset)) = place else { return Ok(()) };
        if let Some(there) = self.seen.get(&queue).and_then(|seen| seen.get(&offset))
            && *there != what
        {
            return Err(Violation(format!(
                "{what} is acknowledged at {offset} of {}, where {there} was seen",
                show(&queue)
            )));
        }
        let last = self.last_of.insert((sent.producer, queue.clone()), offset);
        match last {
            Some(last) if last >= offset => Err(Violation(format!(
                "{what} is acknowledged at {offset} of {}, behind which ({last}) its producer's last one lies",
                show(&queue)
            ))),
            _ => Ok(()),
        }
    }

    /// The broker said that it is not stored, and why.
    pub fn refused(&mut self, what: Try, cause: String) -> Result<(), Violation> {
        let Some(sent) = self.sent.get_mut(&what.message) else { return Ok(()) };
        if self.places.contains_key(&what) {
            return Err(Violation(format!("{what} was seen and is refused: {cause}")));
        }
        sent.fates[what.number as usize] = Fate::Refused(cause);
        Ok(())
    }

    /// What a producer answers when it is asked about a half: `None` while it does not know itself.
    pub fn decision(&self, what: Try) -> Option<bool> {
        let sent = self.sent.get(&what.message)?;
        match (sent.kind, &sent.fates[what.number as usize]) {
            (Kind::Half { commits }, Fate::Stored(_)) => Some(commits),
            (_, Fate::Open) => None,
            // Its producer never heard that it is there, and did nothing.
            (Kind::Half { .. }, _) => Some(false),
            _ => None,
        }
    }

    /// No answer came.
    pub fn given_up(&mut self, what: Try) {
        if let Some(sent) = self.sent.get_mut(&what.message) {
            sent.fates[what.number as usize] = Fate::Unknown;
        }
    }

    /// A consumer was handed a message.
    pub fn seen(&mut self, seen: &Seen<'_>) -> Result<(), Violation> {
        let Seen { queue, offset, what, now, .. } = seen;
        let at = format!("{offset} of {}", show(queue));
        let Some(sent) = self.sent.get(&what.message) else {
            return Err(Violation(format!("{what}, seen at {at}, was never sent")));
        };
        let there = self.seen.entry((*queue).clone()).or_default().entry(*offset).or_insert(*what);
        if there != what {
            return Err(Violation(format!("{what} is seen at {at}, where {there} was seen before")));
        }
        if let Some(due) = sent.due
            && *now < due
        {
            return Err(Violation(format!("{what}, due in {} ms, is seen at {at}", due.0 - now.0)));
        }
        let fate = sent.fates.get(what.number as usize);
        match fate {
            Some(Fate::Refused(cause)) => {
                return Err(Violation(format!("{what} was refused ({cause}) and is seen at {at}")));
            }
            Some(Fate::Stored(Some((home, told)))) if seen.is_at_home && (home, told) != (queue, offset) => {
                return Err(Violation(format!(
                    "{what} was acknowledged at {told} of {} and is seen at {at}",
                    show(home)
                )));
            }
            _ => {}
        }
        if matches!(sent.kind, Kind::Half { .. }) && self.decision(*what) != Some(true) {
            return Err(Violation(format!("{what}, a half that nobody committed, is seen at {at}")));
        }
        let may_be_twice = sent.kind == Kind::Delayed || !seen.is_at_home;
        let places = self.places.entry(*what).or_default();
        if seen.is_at_home {
            places.insert(((*queue).clone(), *offset));
        }
        match places.len() {
            2.. if !may_be_twice => {
                let places: Vec<_> =
                    places.iter().map(|(queue, offset)| format!("{offset} of {}", show(queue))).collect();
                Err(Violation(format!("{what} lies twice: {}", places.join(", "))))
            }
            _ => Ok(()),
        }
    }

    /// How long a plain message has been there that was not consumed yet.
    pub fn waited_ms(&self, what: Try, now: WallMs) -> Option<i64> {
        let sent =
            self.sent.get(&what.message).filter(|sent| sent.kind == Kind::Plain && !sent.is_consumed)?;
        Some(now.since_ms(sent.acknowledged_at?))
    }

    /// A consumer is done with it.
    pub fn consumed(&mut self, what: Try) {
        if let Some(sent) = self.sent.get_mut(&what.message) {
            sent.is_consumed = true;
        }
    }

    /// It was found among the dead letters.
    pub fn dead(&mut self, what: Try) {
        if let Some(sent) = self.sent.get_mut(&what.message) {
            sent.is_dead = true;
        }
    }

    /// Messages that have to be consumed and are not.
    pub fn owed(&self) -> impl Iterator<Item = Try> + '_ {
        self.sent.iter().filter(|(_, sent)| !sent.is_consumed && !sent.is_dead).filter_map(
            |(message, sent)| {
                let stored = sent.fates.iter().position(|fate| matches!(fate, Fate::Stored(_)))?;
                let is_owed = sent.kind != Kind::Half { commits: false };
                is_owed.then_some(Try { message: *message, number: stored as u32 })
            },
        )
    }

    /// A machine lost its power. Of what nobody had been told the disk may keep the later and lose the earlier, whose
    /// places are passed over from then on.
    pub fn power_lost(&mut self) {
        self.power_was_lost = true;
    }

    /// What can only be said when all is consumed.
    pub fn close(&self) -> Result<(), Violation> {
        if let Some(owed) = self.owed().next() {
            let (kind, count) = (self.sent[&owed.message].kind, self.owed().count());
            let queue = show(&self.sent[&owed.message].queue);
            return Err(Violation(format!(
                "{owed} ({kind:?}, sent to {queue}) was acknowledged and nobody was handed it, nor {} others",
                count - 1
            )));
        }
        for (queue, seen) in &self.seen {
            let gap = (0..).zip(seen.keys()).find(|(expected, offset)| expected != *offset);
            if let Some((missing, _)) = gap.filter(|_| !self.power_was_lost) {
                return Err(Violation(format!("nobody was handed {missing} of {}", show(queue))));
            }
        }
        Ok(())
    }

    pub fn acknowledged_count(&self) -> u64 {
        self.acknowledged
    }

    pub fn consumed_count(&self) -> usize {
        self.sent.values().filter(|sent| sent.is_consumed).count()
    }

    pub fn dead_count(&self) -> usize {
        self.sent.values().filter(|sent| sent.is_dead).count()
    }
}

fn show(queue: &MessageQueue) -> String {
    format!("{}/{}@{}", queue.topic, queue.queue_id, queue.broker_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> MessageQueue {
        MessageQueue { broker_name: "a".into(), queue_id: 0, topic: "T".into() }
    }

    fn trying(ledger: &mut Ledger, message: u64, kind: Kind) -> Try {
        ledger.trying(message, 1, kind, &queue(), (kind == Kind::Delayed).then_some(WallMs(100)))
    }

    fn seen(ledger: &mut Ledger, what: Try, offset: u64) -> Result<(), Violation> {
        ledger.seen(&Seen { queue: &queue(), offset, what, now: WallMs(99), is_at_home: true })
    }

    #[test]
    fn what_fits_is_fine() {
        let mut ledger = Ledger::default();
        let (a, b) =
            (trying(&mut ledger, 1, Kind::Plain), trying(&mut ledger, 2, Kind::Half { commits: true }));
        ledger.acknowledged(a, 0, WallMs(1)).unwrap();
        ledger.acknowledged(b, 7, WallMs(1)).unwrap();
        for _ in 0..2 {
            seen(&mut ledger, a, 0).unwrap();
        }
        seen(&mut ledger, b, 1).unwrap();
        assert_eq!(ledger.owed().collect::<Vec<_>>(), [a, b]);
        assert!(ledger.close().is_err());
        ledger.consumed(a);
        ledger.dead(b);
        assert_eq!(ledger.close(), Ok(()));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let violated = |what: &dyn Fn(&mut Ledger) -> Result<(), Violation>| {
            what(&mut Ledger::default()).unwrap_err().to_string()
        };
        let twice = violated(&|ledger| {
            let what = trying(ledger, 1, Kind::Plain);
            seen(ledger, what, 0).and_then(|()| seen(ledger, what, 1))
        });
        assert!(twice.starts_with("m1.0 lies twice"), "{twice}");
        let replaced = violated(&|ledger| {
            let (one, other) = (trying(ledger, 1, Kind::Plain), trying(ledger, 2, Kind::Plain));
            seen(ledger, one, 0).and_then(|()| seen(ledger, other, 0))
        });
        assert!(replaced.contains("where m1.0 was seen before"), "{replaced}");
        let elsewhere = violated(&|ledger| {
            let what = trying(ledger, 1, Kind::Plain);
            ledger.acknowledged(what, 0, WallMs(1)).and_then(|()| seen(ledger, what, 1))
        });
        assert!(elsewhere.contains("was acknowledged at 0"), "{elsewhere}");
        let refused = violated(&|ledger| {
            let what = trying(ledger, 1, Kind::Plain);
            ledger.refused(what, "full".into()).and_then(|()| seen(ledger, what, 0))
        });
        assert!(refused.contains("was refused (full)"), "{refused}");
        let early = violated(&|ledger| {
            let what = trying(ledger, 1, Kind::Delayed);
            seen(ledger, what, 0)
        });
        assert!(early.contains("due in 1 ms"), "{early}");
        let uncommitted = violated(&|ledger| {
            let what = trying(ledger, 1, Kind::Half { commits: false });
            ledger.acknowledged(what, 0, WallMs(1)).and_then(|()| seen(ledger, what, 0))
        });
        assert!(uncommitted.contains("nobody committed"), "{uncommitted}");
        let gap = violated(&|ledger| {
            let what = trying(ledger, 1, Kind::Plain);
            seen(ledger, what, 1)?;
            ledger.close()
        });
        assert!(gap.contains("nobody was handed 0"), "{gap}");
        let out_of_order = violated(&|ledger| {
            let (one, other) = (trying(ledger, 1, Kind::Plain), trying(ledger, 2, Kind::Plain));
            ledger.acknowledged(one, 5, WallMs(1)).and_then(|()| ledger.acknowledged(other, 4, WallMs(1)))
        });
        assert!(out_of_order.contains("its producer's last one"), "{out_of_order}");
    }
}
