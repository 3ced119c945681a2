//! A seeded world drives the timers through what may happen to a broker, and checks at every step that
//! - nothing is given out before its time,
//! - nothing that the log has is lost, and nothing is given out that the log says is settled,
//! - nothing is delivered twice that is delivered in the log.
//!
//! `TIMER_SEEDS=1000 cargo test whatever_happens` runs more worlds; a failure names its seed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::store::file::{OpenMode, StoreFiles};
use crate::store::memory_files::MemoryFiles;
use crate::types::{PhysicalOffset, QueueOffset};

const RECORD_BYTES: u64 = 100;
const TOPICS: [&str; 3] = ["A", "B", "C"];

fn dir(files: &MemoryFiles) -> TimerDir {
    TimerDir { journal_steps: 16, ..TimerDir::new(Arc::new(files.clone()), PathBuf::from("/store/timer")) }
}

fn entry(due_ms: i64, queue_offset: u64, at: u64) -> TimerEntry {
    TimerEntry {
        key: TimerKey { due_ms, queue_offset: QueueOffset(queue_offset) },
        physical_offset: PhysicalOffset(at),
        name_hash: queue_offset as u32 % 7,
        topic_hash: topic_hash(TOPICS[queue_offset as usize % TOPICS.len()]),
    }
}

fn added(due_ms: i64, queue_offset: u64) -> TimerRecord {
    let at = queue_offset * RECORD_BYTES;
    TimerRecord { at: PhysicalOffset(at), settles: None, adds: Some(entry(due_ms, queue_offset, at)) }
}

fn settled(at: u64, entry: &TimerEntry) -> TimerRecord {
    let settles = Some(Settled { key: entry.key, topic_hash: entry.topic_hash });
    TimerRecord { at: PhysicalOffset(at), settles, adds: None }
}

fn fresh(files: &MemoryFiles) -> PendingTimers {
    let opened = open_timers(dir(files), PhysicalOffset(0), PhysicalOffset(u64::MAX)).unwrap();
    assert!(opened.is_missing);
    opened.pending
}

fn save(pending: &mut PendingTimers, through: u64) {
    let saved = pending.begin_save(PhysicalOffset(through)).run().unwrap();
    pending.finish_save(Some(saved));
}

fn due_times(entries: &[TimerEntry]) -> Vec<i64> {
    entries.iter().map(|entry| entry.key.due_ms).collect()
}

/// xorshift64*: small, seeded, the same everywhere.
struct Chance(u64);

impl Chance {
    fn of_seed(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// In `[min, max)`.
    fn within(&mut self, range: Range<i64>) -> i64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        range.start + (drawn % (range.end - range.start) as u64) as i64
    }

    fn count(&mut self, below: usize) -> usize {
        self.within(0..below as i64) as usize
    }

    fn percent(&mut self, percent: i64) -> bool {
        self.within(0..100) < percent
    }
}

/// What a broker has: a log, a clock, a check point, and timers.
struct World {
    chance: Chance,
    files: MemoryFiles,
    log: Vec<TimerRecord>,
    /// Records on disk, handed to the timers, covered by the check point.
    flushed: usize,
    dispatched: usize,
    check_point: usize,
    next_offset: u64,
    now_ms: i64,
    pending: PendingTimers,
    /// Given out by this life; delivered by a record of the log, some of them later.
    given_out: Vec<TimerEntry>,
}

impl World {
    fn new(seed: u64) -> Self {
        let files = MemoryFiles::new();
        let pending = fresh(&files);
        Self {
            chance: Chance::of_seed(seed),
            files,
            log: Vec::new(),
            flushed: 0,
            dispatched: 0,
            check_point: 0,
            next_offset: 0,
            now_ms: 1_000,
            pending,
            given_out: Vec::new(),
        }
    }

    fn position(&self, records: usize) -> PhysicalOffset {
        PhysicalOffset(records as u64 * RECORD_BYTES)
    }

    fn append(&mut self, settles: Option<TimerEntry>, due_ms: Option<i64>) {
        let at = self.position(self.log.len());
        let settles = settles.map(|entry| Settled { key: entry.key, topic_hash: entry.topic_hash });
        let adds = due_ms.map(|due_ms| entry(due_ms, self.next_offset, at.0));
        self.next_offset += u64::from(adds.is_some());
        self.log.push(TimerRecord { at, settles, adds });
    }

    /// What a log means, by the book.
    fn expected(&self, records: usize) -> BTreeMap<TimerKey, TimerEntry> {
        let mut expected = BTreeMap::new();
        for record in &self.log[..records] {
            if let Some(settled) = record.settles {
                expected.remove(&settled.key);
            }
            expected.extend(record.adds.map(|entry| (entry.key, entry)));
        }
        expected
    }

    fn dispatch(&mut self, records: usize) {
        let end = (self.dispatched + records).min(self.log.len());
        for record in &self.log[self.dispatched..end] {
            self.pending.take(*record);
        }
        self.dispatched = end;
    }

    fn step(&mut self) {
        match self.chance.within(0..100) {
            0..40 => {
                let due_ms = self.now_ms + self.chance.within(-50..2_000);
                self.append(None, Some(due_ms));
            }
            40..55 => {
                let records = self.chance.count(8);
                self.dispatch(records);
                if self.dispatched > 0 {
                    // The dispatcher may hand over twice.
                    let again = self.chance.count(self.dispatched);
                    assert!(!self.pending.take(self.log[again]), "known already");
                }
            }
            55..65 => self.now_ms += self.chance.within(0..400),
            65..67 => self.now_ms += self.chance.within(-3_000..3_000),
            67..80 => self.deliver(),
            80..83 => self.move_one(),
            83..90 => self.flushed = self.log.len(),
            90..97 => self.take_check_point(),
            97..99 => self.restart(self.log.len()),
            _ => self.lose_power(),
        }
    }

    fn deliver(&mut self) {
        let max = 1 + self.chance.count(5);
        let due = self.pending.pop_due(self.now_ms, max).unwrap();
        let expected = self.expected(self.dispatched);
        for entry in due {
            assert!(entry.key.due_ms <= self.now_ms, "early");
            assert_eq!(expected.get(&entry.key), Some(&entry), "settled, or never stored");
            assert!(!self.given_out.contains(&entry), "given out twice");
            match self.chance.within(0..10) {
                0 => self.pending.give_back(entry.key),
                _ => {
                    self.given_out.push(entry);
                    self.append(Some(entry), None);
                }
            }
        }
    }

    /// Recalls a message, or stores it anew as retention asks.
    fn move_one(&mut self) {
        let from = self.now_ms + self.chance.within(-100..2_000);
        let Some(entry) = self.pending.page(TimerKey::at(from), 1).unwrap().first().copied() else { return };
        if self.pending.hold(entry) {
            self.given_out.push(entry);
            let again = self.chance.percent(50).then_some(entry.key.due_ms);
            self.append(Some(entry), again);
        }
    }

    fn take_check_point(&mut self) {
        self.flushed = self.flushed.max(self.dispatched);
        // The dispatcher may be ahead of what the flusher asked it.
        let claimed = self.check_point + self.chance.count(self.dispatched - self.check_point + 1);
        let job = self.pending.begin_save(self.position(claimed));
        // The world goes on meanwhile.
        let records = self.chance.count(4);
        self.dispatch(records);
        if self.chance.percent(30) {
            self.deliver();
        }
        match self.chance.within(0..10) {
            0 => self.pending.finish_save(None),
            _ => {
                let saved = job.run().unwrap();
                self.pending.finish_save(Some(saved));
                if self.chance.percent(80) {
                    self.check_point = claimed;
                }
            }
        }
    }

    fn lose_power(&mut self) {
        self.files.crash();
        let keep = self.flushed + self.chance.count(self.log.len() - self.flushed + 1);
        self.restart(keep);
    }

    fn restart(&mut self, keep: usize) {
        self.log.truncate(keep);
        self.flushed = keep;
        self.next_offset = self.log.iter().filter_map(|record| record.adds).count() as u64;
        self.given_out.clear();
        let (from, end) = (self.position(self.check_point), self.position(keep));
        let OpenedTimers { pending, is_missing } = open_timers(dir(&self.files), from, end).unwrap();
        self.pending = pending;
        assert!(!is_missing || self.check_point == 0, "what a check point covers is there");
        self.dispatched = if is_missing { 0 } else { self.check_point };
        self.dispatch(usize::MAX / 2);
        self.check();
    }

    fn check(&self) {
        let expected = self.expected(self.dispatched);
        let page = self.pending.page(TimerKey::MIN, usize::MAX).unwrap();
        let page: BTreeMap<_, _> = page.into_iter().map(|entry| (entry.key, entry)).collect();
        let lost: Vec<_> = expected.iter().filter(|(key, _)| !page.contains_key(key)).collect();
        let wrong: Vec<_> = page.iter().filter(|(key, entry)| expected.get(key) != Some(entry)).collect();
        assert!(lost.is_empty() && wrong.is_empty(), "pending is what the log says: {lost:?} {wrong:?}");
        let mut counts = BTreeMap::new();
        for entry in expected.values() {
            *counts.entry(entry.topic_hash).or_insert(0) += 1;
        }
        assert!(
            self.pending.counts().iter().map(|(topic, count)| (*topic, *count)).collect::<BTreeMap<_, _>>()
                == counts
        );
        let oldest = expected.values().map(|entry| entry.physical_offset).min();
        assert!(self.pending.oldest().is_none_or(|known| oldest.is_none_or(|oldest| known <= oldest)));
    }

    fn end(&mut self) {
        self.dispatch(usize::MAX / 2);
        self.now_ms = i64::MAX;
        self.given_out.clear();
        let waiting: BTreeSet<_> = self.expected(self.dispatched).into_keys().collect();
        let out: BTreeSet<_> = self.pending.out.keys().copied().collect();
        let due: BTreeSet<_> =
            self.pending.pop_due(i64::MAX, usize::MAX).unwrap().iter().map(|entry| entry.key).collect();
        assert!(due.union(&out).eq(&waiting), "everything comes in the end");
    }
}

#[test]
fn whatever_happens_timers_come_once_and_never_early() {
    let seeds = std::env::var("TIMER_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(20);
    for seed in 0..seeds {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..1_000 {
                world.step();
            }
            world.check();
            world.end();
        });
        assert!(outcome.is_ok(), "seed {seed} fails");
    }
}

#[test]
fn entries_come_by_due_time_from_memory_and_runs_alike() {
    let files = MemoryFiles::new();
    let mut pending = fresh(&files);
    for n in 0..20 {
        pending.take(added(1_000 - n as i64 * 10, n));
    }
    save(&mut pending, 2_000);
    assert!(files.list(Path::new("/store/timer")).unwrap().iter().any(|file| file.name.ends_with(".run")));
    pending.take(added(895, 20));
    assert_eq!(pending.next_due_ms().unwrap(), Some(810));
    assert_eq!(due_times(&pending.pop_due(809, 9).unwrap()), [0; 0]);
    assert_eq!(due_times(&pending.pop_due(825, 9).unwrap()), [810, 820]);
    assert_eq!(due_times(&pending.pop_due(900, 100).unwrap()), [830, 840, 850, 860, 870, 880, 890, 895, 900]);
    assert_eq!(pending.count(), 21, "given out is not settled");
    let again = TimerKey { due_ms: 820, queue_offset: QueueOffset(18) };
    pending.give_back(again);
    assert_eq!(due_times(&pending.pop_due(900, 100).unwrap()), [820]);
}

#[test]
fn files_that_were_taken_away_or_damaged_are_named_missing() {
    let files = MemoryFiles::new();
    let mut pending = fresh(&files);
    for n in 0..40 {
        pending.take(added(n as i64, n));
    }
    save(&mut pending, 4_000);
    pending.take(added(7, 40));
    save(&mut pending, 4_100);
    let (from, end) = (PhysicalOffset(4_100), PhysicalOffset(9_000));
    let open = |files: &MemoryFiles, from, end| open_timers(dir(files), from, end).unwrap();
    assert_eq!(open(&files, from, end).pending.count(), 41);
    assert!(!open(&files, PhysicalOffset(0), end).is_missing, "a check point may lag");
    for name in ["manifest", "run", "journal"] {
        let files = MemoryFiles::new();
        let mut pending = fresh(&files);
        for n in 0..40 {
            pending.take(added(n as i64, n));
        }
        save(&mut pending, 4_000);
        let path = Path::new("/store/timer");
        let file = files.list(path).unwrap().into_iter().find(|file| file.name.ends_with(name)).unwrap();
        files.remove_file(&path.join(file.name)).unwrap();
        assert!(open(&files, PhysicalOffset(0), end).is_missing, "{name}");
        assert_eq!(files.list(path).unwrap().len(), 0, "what is left of it is removed");
    }
    assert!(open(&files, from, PhysicalOffset(4_000)).is_missing, "it knows more than the log");
}

#[test]
fn run_whose_bits_rot_is_derived_anew() {
    for at in [0, 20, 16 * 32 - 1] {
        let files = MemoryFiles::new();
        let mut pending = fresh(&files);
        for n in 0..16 {
            pending.take(added(n as i64, n));
        }
        save(&mut pending, 1_600);
        let open = || open_timers(dir(&files), PhysicalOffset(1_600), PhysicalOffset(1_600)).unwrap();
        assert_eq!(open().pending.count(), 16);
        let path = Path::new("/store/timer");
        let run = files.list(path).unwrap().into_iter().find(|file| file.name.ends_with(".run")).unwrap();
        let run = files.open(&path.join(run.name), OpenMode::Existing).unwrap();
        let mut byte = [0];
        run.read_exact_at(&mut byte, at).unwrap();
        run.write_all_at(&[byte[0] ^ 4], at).unwrap();
        assert!(open().is_missing, "a bit of byte {at}");
    }
}

#[test]
fn recall_finds_by_time_and_name_what_is_not_given_out() {
    let files = MemoryFiles::new();
    let mut pending = fresh(&files);
    for n in 0..28 {
        pending.take(added(1_000 + n as i64 % 2, n));
    }
    save(&mut pending, 2_800);
    for n in 28..35 {
        pending.take(added(1_000 + n as i64 % 2, n));
    }
    let offsets = |pending: &PendingTimers| -> Vec<u64> {
        let found = pending.find(1_000, 1_001, 3).unwrap();
        found.iter().map(|entry| entry.key.queue_offset.0).collect()
    };
    assert_eq!(offsets(&pending), [10, 24], "those of the hash that are due then");
    let first = pending.find(1_000, 1_001, 3).unwrap()[0];
    assert!(pending.hold(first) && !pending.hold(first));
    assert_eq!(offsets(&pending), [24]);
    pending.give_back(first.key);
    assert_eq!(offsets(&pending), [10, 24]);
    pending.take(settled(9_000, &first));
    assert_eq!(offsets(&pending), [24]);
}

#[test]
fn entries_before_a_position_are_found_wherever_they_are() {
    let files = MemoryFiles::new();
    let mut pending = fresh(&files);
    for n in 0..30 {
        pending.take(added(9_000 - n as i64, n));
    }
    save(&mut pending, 3_000);
    pending.take(added(5, 30));
    assert_eq!(pending.oldest(), Some(PhysicalOffset(0)));
    let moved = pending.before(PhysicalOffset(300), 100).unwrap();
    assert_eq!(moved.len(), 3);
    for (n, entry) in moved.iter().enumerate() {
        assert!(pending.hold(*entry));
        pending.take(TimerRecord {
            adds: added(9_000, 31 + n as u64).adds,
            ..settled(3_100 + n as u64 * 100, entry)
        });
    }
    assert_eq!(pending.before(PhysicalOffset(300), 100).unwrap(), []);
    assert_eq!(pending.oldest(), Some(PhysicalOffset(300)));
    assert_eq!(pending.count(), 31);
}
