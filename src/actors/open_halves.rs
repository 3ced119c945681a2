//! The transactions that are not settled yet: pure state and rules, told of time and of what the log says.
//!
//! ```text
//!            begin            ended (stored), or the ending is read from the log
//!   open ───────────► ending ───────────► ended ──── op message read ───► gone
//!    ▲                  │ refused           ▲
//!    └──────────────────┘                   └── a rollback needs no ending: its op message settles it
//! ```
//!
//! The first final decision wins: it is made when an ending begins, and undone only when nothing was stored.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::time::Duration;

use crate::collections::HashMap;
use crate::protocol::transaction::{Decision, HalfRecord, Told, TransactionFact, TransactionKey};
use crate::store::metadata::KeptHalf;
use crate::types::{GroupName, PhysicalOffset, QueueOffset};

/// Settled halves whose decision is remembered, so that who repeats it is told the same.
const REMEMBERED: usize = 65_536;

/// A transaction that is not settled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenHalf {
    pub at: PhysicalOffset,
    pub key: TransactionKey,
    pub group: GroupName,
    pub stored_at_ms: i64,
    /// When its producer is asked next.
    pub due_ms: i64,
    /// How often a producer was asked.
    pub checks: u32,
    /// When it was last due, nobody produced for its group.
    pub unattended: bool,
    pub state: HalfState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HalfState {
    Open,
    /// What ends it is on its way to the log.
    Ending(Decision),
    /// What ends it is in the log; the op message is not.
    Ended(Decision),
}

/// What a decision meets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    Open,
    Ending(Decision),
    /// `None`: settled so long ago that nobody remembers how.
    Settled(Option<Decision>),
    /// The log has not been read so far yet.
    Ahead,
}

/// One change to what is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    Keep(KeptHalf),
    Forget(QueueOffset),
}

#[derive(Debug)]
pub struct OpenHalves {
    halves: BTreeMap<QueueOffset, OpenHalf>,
    by_position: HashMap<PhysicalOffset, QueueOffset>,
    /// The newest half of each transaction.
    by_key: HashMap<TransactionKey, QueueOffset>,
    /// When open ones are due.
    due: BTreeSet<(i64, QueueOffset)>,
    /// Those that nobody was there to be asked about, by group.
    unattended: HashMap<GroupName, BTreeSet<QueueOffset>>,
    /// How many are ending.
    ending: usize,
    /// Ended ones whose op message is to be written.
    without_op: BTreeSet<QueueOffset>,
    settled: HashMap<QueueOffset, Decision>,
    settled_order: VecDeque<QueueOffset>,
    /// Every record below was looked at.
    read_to: PhysicalOffset,
    changed: BTreeSet<QueueOffset>,
    kept: HashSet<QueueOffset>,
}

impl OpenHalves {
    /// Goes on where `kept` was true: at `read_to`.
    pub fn restore(kept: Vec<KeptHalf>, read_to: PhysicalOffset) -> Self {
        let mut this = Self {
            halves: BTreeMap::new(),
            by_position: HashMap::default(),
            by_key: HashMap::default(),
            due: BTreeSet::new(),
            unattended: HashMap::default(),
            ending: 0,
            without_op: BTreeSet::new(),
            settled: HashMap::default(),
            settled_order: VecDeque::new(),
            read_to,
            changed: BTreeSet::new(),
            kept: kept.iter().map(|half| half.offset).collect(),
        };
        for half in kept {
            // What lies beyond is read from the log again, if it is still there.
            if half.at >= read_to {
                this.changed.insert(half.offset);
                continue;
            }
            let state = half.ended.map_or(HalfState::Open, HalfState::Ended);
            let open = OpenHalf {
                at: half.at,
                key: half.key,
                group: half.group,
                stored_at_ms: half.stored_at_ms,
                due_ms: half.due_ms,
                checks: half.checks,
                unattended: false,
                state,
            };
            this.insert(half.offset, open);
        }
        this
    }

    /// Takes what the log says; what was taken before changes nothing. `timeout`: how old a half is when it is first
    /// checked.
    pub fn apply(&mut self, fact: &TransactionFact, timeout: Duration) {
        if fact.at < self.read_to {
            return;
        }
        self.read_to = fact.at.advance(1);
        match &fact.what {
            Told::Begun(record) => self.begun(fact.at, record, timeout),
            Told::Ended { half_at, key, decision } => {
                let offset = self.by_position.get(half_at).copied();
                if let Some(offset) = offset.filter(|offset| self.halves[offset].key == *key) {
                    self.ended(offset, *decision);
                }
            }
            Told::Settled(offsets) => {
                for offset in offsets {
                    let decision = match self.halves.get(offset).map(|half| half.state) {
                        Some(HalfState::Ended(decision) | HalfState::Ending(decision)) => decision,
                        Some(HalfState::Open) => Decision::Rollback,
                        None => continue,
                    };
                    self.remove(*offset);
                    self.remember(*offset, decision);
                }
            }
        }
    }

    /// Notes a half that begins at `at`, unless it is known. Its producer may be faster than the dispatcher.
    pub fn begun(&mut self, at: PhysicalOffset, record: &HalfRecord, timeout: Duration) {
        if self.halves.contains_key(&record.offset) {
            return;
        }
        // A Java broker stores a half again with each check; the copy takes the place of the one before.
        if let Some(earlier) = self.by_key.get(&record.key).copied().filter(|_| record.checks > 0) {
            self.ended(earlier, Decision::Rollback);
        }
        let wait = record.immunity.map_or(timeout, |immunity| immunity.max(timeout));
        let half = OpenHalf {
            at,
            key: record.key,
            group: record.group.clone(),
            stored_at_ms: record.stored_at_ms,
            due_ms: record.stored_at_ms.saturating_add(wait.as_millis() as i64),
            checks: record.checks,
            unattended: false,
            state: HalfState::Open,
        };
        self.insert(record.offset, half);
        self.changed.insert(record.offset);
    }

    /// How the transaction stands whose half has this offset and lies at `at`.
    pub fn standing(&self, offset: QueueOffset, at: PhysicalOffset) -> Standing {
        match self.halves.get(&offset).map(|half| half.state) {
            Some(HalfState::Open) => Standing::Open,
            Some(HalfState::Ending(decision)) => Standing::Ending(decision),
            Some(HalfState::Ended(decision)) => Standing::Settled(Some(decision)),
            None if at >= self.read_to => Standing::Ahead,
            None => Standing::Settled(self.settled.get(&offset).copied()),
        }
    }

    pub fn get(&self, offset: QueueOffset) -> Option<&OpenHalf> {
        self.halves.get(&offset)
    }

    /// From `from` on, in the order they began.
    pub fn iter_from(&self, from: QueueOffset) -> impl Iterator<Item = (QueueOffset, &OpenHalf)> {
        self.halves.range(from..).map(|(offset, half)| (*offset, half))
    }

    /// Halves that are not settled, those included whose op message is not written.
    pub fn len(&self) -> usize {
        self.halves.len()
    }

    pub fn is_empty(&self) -> bool {
        self.halves.is_empty()
    }

    /// How many have not ended: those on their way to it may come back.
    pub fn not_ended(&self) -> usize {
        self.due.len() + self.ending
    }

    /// Where the oldest half lies that is not settled: the log is needed from there on.
    pub fn oldest(&self) -> Option<PhysicalOffset> {
        self.halves.values().next().map(|half| half.at)
    }

    /// An ending is on its way. Call when it stands open.
    pub fn begin(&mut self, offset: QueueOffset, decision: Decision) {
        self.set_state(offset, HalfState::Ending(decision));
    }

    /// The ending was refused, and nothing is stored of it.
    pub fn abandon(&mut self, offset: QueueOffset) {
        if matches!(self.halves.get(&offset).map(|half| half.state), Some(HalfState::Ending(_))) {
            self.set_state(offset, HalfState::Open);
        }
    }

    /// The ending is in the log.
    pub fn ended(&mut self, offset: QueueOffset, decision: Decision) {
        self.set_state(offset, HalfState::Ended(decision));
        self.changed.insert(offset);
    }

    /// The op message that settles it is stored; it is gone once that is read from the log.
    pub fn op_stored(&mut self, offset: QueueOffset) {
        if let Some(HalfState::Ending(decision)) = self.halves.get(&offset).map(|half| half.state) {
            self.ended(offset, decision);
            self.without_op.remove(&offset);
        }
    }

    /// Ended halves that no op message names yet, at most `max`. They are handed out again by
    /// [`return_ops`](Self::return_ops) alone.
    pub fn take_ops(&mut self, max: usize) -> Vec<QueueOffset> {
        let taken: Vec<_> = self.without_op.iter().take(max).copied().collect();
        taken.iter().for_each(|offset| {
            self.without_op.remove(offset);
        });
        taken
    }

    /// No op message could be written for these.
    pub fn return_ops(&mut self, offsets: &[QueueOffset]) {
        let ended = |offset: &&QueueOffset| {
            matches!(self.halves.get(offset).map(|half| half.state), Some(HalfState::Ended(_)))
        };
        self.without_op.extend(offsets.iter().filter(ended));
    }

    pub fn wants_op(&self) -> usize {
        self.without_op.len()
    }

    /// Open halves whose producers are to be asked now, the longest due first.
    pub fn due(&self, now_ms: i64, max: usize) -> Vec<QueueOffset> {
        let due = self.due.iter().take_while(|(due_ms, _)| *due_ms <= now_ms);
        due.take(max).map(|(_, offset)| *offset).collect()
    }

    pub fn next_due_ms(&self) -> Option<i64> {
        self.due.first().map(|(due_ms, _)| *due_ms)
    }

    /// Its producer was asked, and is asked again at `next_ms`.
    pub fn checked(&mut self, offset: QueueOffset, next_ms: i64) {
        self.note_attended(offset);
        self.reschedule(offset, next_ms, |half| half.checks += 1);
        self.changed.insert(offset);
    }

    /// Nobody was asked, and it counts for nothing.
    pub fn postponed(&mut self, offset: QueueOffset, next_ms: i64) {
        self.note_attended(offset);
        self.reschedule(offset, next_ms, |_| {});
    }

    /// Nobody was asked, since nobody produces for its group; it counts for nothing.
    pub fn left_alone(&mut self, offset: QueueOffset, next_ms: i64) {
        self.reschedule(offset, next_ms, |half| half.unattended = true);
        if let Some(half) = self.halves.get(&offset).filter(|half| half.unattended) {
            self.unattended.entry(half.group.clone()).or_default().insert(offset);
        }
    }

    /// Somebody produces for `group` again: the first `max` of the halves that were left alone are due at `now_ms`.
    pub fn attend(&mut self, group: &GroupName, now_ms: i64, max: usize) {
        let left_alone = self.unattended.get(group).into_iter().flatten();
        let attended: Vec<_> = left_alone.take(max).copied().collect();
        for offset in attended {
            self.postponed(offset, now_ms);
        }
    }

    fn note_attended(&mut self, offset: QueueOffset) {
        let Some(half) = self.halves.get_mut(&offset).filter(|half| half.unattended) else { return };
        half.unattended = false;
        if let Some(offsets) = self.unattended.get_mut(&half.group) {
            offsets.remove(&offset);
            if offsets.is_empty() {
                self.unattended.remove(&half.group);
            }
        }
    }

    /// Lets go of halves that are no longer in the log; returns how many of them nobody had decided.
    pub fn drop_before(&mut self, log_min: PhysicalOffset) -> usize {
        let gone: Vec<_> =
            self.halves.iter().take_while(|(_, half)| half.at < log_min).map(|(offset, _)| *offset).collect();
        let undecided = gone.iter().filter(|offset| self.halves[offset].state == HalfState::Open).count();
        gone.into_iter().for_each(|offset| self.remove(offset));
        undecided
    }

    /// Everything below is accounted for.
    pub fn read_to(&self) -> PhysicalOffset {
        self.read_to
    }

    /// Says that there was nothing of ours up to `position`.
    pub fn pass_to(&mut self, position: PhysicalOffset) {
        self.read_to = self.read_to.max(position);
    }

    /// What has changed since the last call, as it is to be kept. True as of [`read_to`](Self::read_to).
    pub fn take_changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::with_capacity(self.changed.len());
        for offset in std::mem::take(&mut self.changed) {
            match self.halves.get(&offset) {
                Some(half) => {
                    self.kept.insert(offset);
                    let ended = match half.state {
                        HalfState::Ended(decision) => Some(decision),
                        HalfState::Open | HalfState::Ending(_) => None,
                    };
                    changes.push(Change::Keep(KeptHalf {
                        offset,
                        at: half.at,
                        key: half.key,
                        group: half.group.clone(),
                        stored_at_ms: half.stored_at_ms,
                        due_ms: half.due_ms,
                        checks: half.checks,
                        ended,
                    }));
                }
                None if self.kept.remove(&offset) => changes.push(Change::Forget(offset)),
                // It came and went between two calls, as nearly all do.
                None => {}
            }
        }
        changes
    }

    fn insert(&mut self, offset: QueueOffset, half: OpenHalf) {
        self.by_position.insert(half.at, offset);
        self.by_key.insert(half.key, offset);
        match half.state {
            HalfState::Open => {
                self.due.insert((half.due_ms, offset));
            }
            HalfState::Ended(_) => {
                self.without_op.insert(offset);
            }
            HalfState::Ending(_) => self.ending += 1,
        }
        self.halves.insert(offset, half);
    }

    fn remove(&mut self, offset: QueueOffset) {
        self.note_attended(offset);
        if let Some(half) = self.halves.remove(&offset) {
            self.by_position.remove(&half.at);
            if self.by_key.get(&half.key) == Some(&offset) {
                self.by_key.remove(&half.key);
            }
            self.ending -= usize::from(matches!(half.state, HalfState::Ending(_)));
            self.due.remove(&(half.due_ms, offset));
            self.without_op.remove(&offset);
            self.changed.insert(offset);
        }
    }

    fn set_state(&mut self, offset: QueueOffset, state: HalfState) {
        let Some(half) = self.halves.get_mut(&offset) else { return };
        let was_ended = matches!(half.state, HalfState::Ended(_));
        self.ending -= usize::from(matches!(half.state, HalfState::Ending(_)));
        self.ending += usize::from(matches!(state, HalfState::Ending(_)));
        half.state = state;
        let due = (half.due_ms, offset);
        match state {
            HalfState::Open => {
                self.due.insert(due);
            }
            HalfState::Ending(_) => {
                self.due.remove(&due);
            }
            HalfState::Ended(_) => {
                self.due.remove(&due);
                // One that had ended is named by an op message on its way, or waits for one.
                if !was_ended {
                    self.without_op.insert(offset);
                }
            }
        }
    }

    fn reschedule(&mut self, offset: QueueOffset, next_ms: i64, change: impl FnOnce(&mut OpenHalf)) {
        let Some(half) = self.halves.get_mut(&offset).filter(|half| half.state == HalfState::Open) else {
            return;
        };
        self.due.remove(&(half.due_ms, offset));
        half.due_ms = next_ms;
        change(half);
        self.due.insert((next_ms, offset));
    }

    fn remember(&mut self, offset: QueueOffset, decision: Decision) {
        if self.settled.insert(offset, decision).is_none() {
            self.settled_order.push_back(offset);
        }
        if self.settled_order.len() > REMEMBERED
            && let Some(oldest) = self.settled_order.pop_front()
        {
            self.settled.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests;
