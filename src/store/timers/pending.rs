//! The timer messages that are pending: taken in by the order of the log, given out by the order of due times.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;

use super::entry::{Settled, TimerEntry, TimerKey, TimerRecord};
use super::run::TimerRun;
use super::save::{Journal, TimerDir};
use crate::types::PhysicalOffset;

/// What is pending. An entry is in `recent`, in a run, or both in `out` and where it came from; it is gone once the
/// log says that it is settled, never before.
#[derive(Debug)]
pub struct PendingTimers {
    pub(super) dir: TimerDir,
    /// In no run yet.
    pub(super) recent: BTreeMap<TimerKey, TimerEntry>,
    pub(super) runs: Vec<TimerRun>,
    /// Given out, and not settled yet.
    pub(super) out: BTreeMap<TimerKey, GivenOut>,
    /// Given out before, and to be given out again.
    pub(super) again: BTreeSet<TimerKey>,
    /// Settled, though a run may still have it before it.
    pub(super) settled: BTreeSet<TimerKey>,
    /// Pending by topic.
    pub(super) counts: HashMap<u32, i64>,
    /// What came since the last save, in the order of the log.
    pub(super) unsaved: VecDeque<Unsaved>,
    /// Records below are known.
    pub(super) through: PhysicalOffset,
    /// Records below are saved, or a save of them was begun.
    pub(super) save_through: PhysicalOffset,
    /// `None`: the next save makes all files anew.
    pub(super) journal: Option<Journal>,
    pub(super) next_number: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct GivenOut {
    pub entry: TimerEntry,
    pub in_run: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Unsaved {
    pub at: PhysicalOffset,
    pub adds: Option<TimerEntry>,
    pub settles: Option<Settled>,
    /// What was settled, if no run has it.
    pub removed: Option<TimerEntry>,
}

impl PendingTimers {
    pub(super) fn new(dir: TimerDir, through: PhysicalOffset) -> Self {
        Self {
            dir,
            recent: BTreeMap::new(),
            runs: Vec::new(),
            out: BTreeMap::new(),
            again: BTreeSet::new(),
            settled: BTreeSet::new(),
            counts: HashMap::new(),
            unsaved: VecDeque::new(),
            through,
            save_through: through,
            journal: None,
            next_number: 1,
        }
    }

    /// Takes what a record of the log means. Records that are known already are passed over; true if it was not.
    pub fn take(&mut self, record: TimerRecord) -> bool {
        if record.at < self.through {
            return false;
        }
        self.through = record.at.advance(1);
        let settled = record.settles.and_then(|settled| Some((settled, self.settle(settled)?)));
        if let Some(entry) = record.adds {
            self.add(entry);
        }
        if record.adds.is_some() || settled.is_some() {
            self.unsaved.push_back(Unsaved {
                at: record.at,
                adds: record.adds,
                settles: settled.map(|(settled, _)| settled),
                removed: settled.and_then(|(_, removed)| removed),
            });
        }
        true
    }

    pub(super) fn add(&mut self, entry: TimerEntry) {
        *self.counts.entry(entry.topic_hash).or_default() += 1;
        self.recent.insert(entry.key, entry);
    }

    /// `None`: nothing of that key is pending. Otherwise with the entry, if no run has it.
    pub(super) fn settle(&mut self, Settled { key, topic_hash }: Settled) -> Option<Option<TimerEntry>> {
        self.again.remove(&key);
        let removed = match self.out.remove(&key) {
            Some(GivenOut { entry, in_run: false }) => Some(entry),
            Some(GivenOut { in_run: true, .. }) => {
                self.settled.insert(key);
                None
            }
            None => match self.recent.remove(&key) {
                Some(entry) => Some(entry),
                None if self.may_be_in_a_run(key) && self.settled.insert(key) => None,
                None => return None,
            },
        };
        let count = self.counts.entry(topic_hash).or_default();
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&topic_hash);
        }
        Some(removed)
    }

    fn may_be_in_a_run(&mut self, key: TimerKey) -> bool {
        self.runs.iter_mut().any(|run| {
            // A file that cannot be read may hold it.
            key <= run.facts.last && run.head().map_or(true, |head| head.is_some_and(|head| head.key <= key))
        })
    }

    /// Gives out up to `max` entries that are due, the earliest first.
    pub fn pop_due(&mut self, now_ms: i64, max: usize) -> io::Result<Vec<TimerEntry>> {
        let mut due = Vec::new();
        while due.len() < max {
            let Some(first) = self.first()? else { break };
            if first.key().due_ms > now_ms {
                break;
            }
            due.push(self.give_out(first));
        }
        Ok(due)
    }

    /// When the next entry is due.
    pub fn next_due_ms(&mut self) -> io::Result<Option<i64>> {
        Ok(self.first()?.map(|first| first.key().due_ms))
    }

    fn first(&mut self) -> io::Result<Option<First>> {
        let again = self.again.first().copied().map(First::Again);
        let recent = self.recent.first_key_value().map(|(key, _)| First::Recent(*key));
        let mut first = again.into_iter().chain(recent).min_by_key(First::key);
        for (number, run) in self.runs.iter_mut().enumerate() {
            while let Some(head) = run.head()? {
                if self.settled.contains(&head.key) || self.out.contains_key(&head.key) {
                    run.pass_head();
                    continue;
                }
                if first.as_ref().is_none_or(|first| head.key < first.key()) {
                    first = Some(First::Run(number, head));
                }
                break;
            }
        }
        Ok(first)
    }

    fn give_out(&mut self, first: First) -> TimerEntry {
        match first {
            First::Again(key) => {
                self.again.remove(&key);
                self.out[&key].entry
            }
            First::Recent(key) => {
                let (_, entry) = self.recent.pop_first().expect("the key was seen there");
                self.out.insert(key, GivenOut { entry, in_run: false });
                entry
            }
            First::Run(number, entry) => {
                self.runs[number].pass_head();
                self.out.insert(entry.key, GivenOut { entry, in_run: true });
                entry
            }
        }
    }

    /// Takes an entry out of the order of due times, wherever it is; false when it is given out.
    pub fn hold(&mut self, entry: TimerEntry) -> bool {
        if self.out.contains_key(&entry.key) {
            return self.again.remove(&entry.key);
        }
        let in_run = self.recent.remove(&entry.key).is_none();
        self.out.insert(entry.key, GivenOut { entry, in_run });
        true
    }

    /// An entry that was given out or held comes again.
    pub fn give_back(&mut self, key: TimerKey) {
        if self.out.contains_key(&key) {
            self.again.insert(key);
        }
    }

    /// Pending entries due in `[from_ms, to_ms)` with that hash of topic and unique key, but for those given out.
    pub fn find(&self, from_ms: i64, to_ms: i64, name_hash: u32) -> io::Result<Vec<TimerEntry>> {
        let (from, to) = (TimerKey::at(from_ms), TimerKey::at(to_ms));
        let is_meant = |entry: &TimerEntry| entry.name_hash == name_hash;
        let mut found: Vec<_> =
            self.recent.range(from..to).map(|(_, entry)| *entry).filter(is_meant).collect();
        let waiting = self.again.range(from..to).map(|key| self.out[key].entry);
        found.extend(waiting.filter(is_meant));
        for run in &self.runs {
            run.walk(from, |entry| {
                let is_there = !self.settled.contains(&entry.key) && !self.out.contains_key(&entry.key);
                if entry.key < to && is_meant(entry) && is_there {
                    found.push(*entry);
                }
                entry.key < to
            })?;
        }
        found.sort_by_key(|entry| entry.key);
        Ok(found)
    }

    /// Up to `max` pending entries from `from` on, in order, with those given out.
    pub fn page(&self, from: TimerKey, max: usize) -> io::Result<Vec<TimerEntry>> {
        let mut page: Vec<_> = self.recent.range(from..).take(max).map(|(_, entry)| *entry).collect();
        page.extend(self.out.range(from..).take(max).map(|(_, out)| out.entry));
        for run in &self.runs {
            let mut room = max;
            run.walk(from, |entry| {
                if !self.settled.contains(&entry.key) && !self.out.contains_key(&entry.key) && room > 0 {
                    page.push(*entry);
                    room -= 1;
                }
                room > 0
            })?;
        }
        page.sort_by_key(|entry| entry.key);
        page.truncate(max);
        Ok(page)
    }

    /// Up to `max` entries whose records lie before `position`, but for those given out.
    pub fn before(&mut self, position: PhysicalOffset, max: usize) -> io::Result<Vec<TimerEntry>> {
        let lies_before = |entry: &&TimerEntry| entry.physical_offset < position;
        let again = self.again.iter().map(|key| &self.out[key].entry);
        let in_memory = self.recent.values().chain(again);
        let mut found: Vec<_> = in_memory.filter(lies_before).take(max).copied().collect();
        for run in self.runs.iter_mut().filter(|run| run.facts.min_physical < position) {
            let (settled, out) = (&self.settled, &self.out);
            let mut held = out.values().any(|out| out.entry.physical_offset < position);
            let full = found.len() >= max;
            run.walk(TimerKey::MIN, |entry| {
                if entry.physical_offset < position && !settled.contains(&entry.key) {
                    match out.contains_key(&entry.key) {
                        true => held = true,
                        false => found.push(*entry),
                    }
                }
                found.len() < max
            })?;
            if found.is_empty() && !held && !full {
                run.facts.min_physical = position;
            }
        }
        Ok(found)
    }

    /// No pending entry lies before this in the log; `None` when nothing is pending.
    pub fn oldest(&self) -> Option<PhysicalOffset> {
        let in_memory = self.recent.values().chain(self.out.values().map(|out| &out.entry));
        let in_runs = self.runs.iter().map(|run| run.facts.min_physical);
        in_memory.map(|entry| entry.physical_offset).chain(in_runs).min()
    }

    /// Pending messages by the hash of their topic.
    pub fn counts(&self) -> &HashMap<u32, i64> {
        &self.counts
    }

    pub fn count(&self) -> i64 {
        self.counts.values().sum()
    }

    /// What came since the last save began.
    pub fn unsaved(&self) -> usize {
        self.unsaved.len()
    }
}

/// The entry that is due first, and where it is.
enum First {
    Again(TimerKey),
    Recent(TimerKey),
    Run(usize, TimerEntry),
}

impl First {
    fn key(&self) -> TimerKey {
        match self {
            Self::Again(key) | Self::Recent(key) => *key,
            Self::Run(_, entry) => entry.key,
        }
    }
}
