use super::*;
use crate::testing::world::each_seed;

const TIMEOUT: Duration = Duration::from_secs(6);

fn record(offset: u64) -> HalfRecord {
    HalfRecord {
        offset: QueueOffset(offset),
        key: TransactionKey(offset),
        group: "pg".into(),
        stored_at_ms: 1_000,
        immunity: None,
        checks: 0,
    }
}

fn begun(at: u64, offset: u64) -> TransactionFact {
    TransactionFact { at: PhysicalOffset(at), what: Told::Begun(record(offset)) }
}

fn ended(at: u64, half_at: u64, key: u64) -> TransactionFact {
    let what = Told::Ended {
        half_at: PhysicalOffset(half_at),
        key: TransactionKey(key),
        decision: Decision::Commit,
    };
    TransactionFact { at: PhysicalOffset(at), what }
}

fn settled(at: u64, offsets: &[u64]) -> TransactionFact {
    let offsets = offsets.iter().copied().map(QueueOffset).collect();
    TransactionFact { at: PhysicalOffset(at), what: Told::Settled(offsets) }
}

fn empty() -> OpenHalves {
    OpenHalves::restore(Vec::new(), PhysicalOffset(0))
}

fn after(facts: &[TransactionFact]) -> OpenHalves {
    let mut halves = empty();
    facts.iter().for_each(|fact| halves.apply(fact, TIMEOUT));
    halves
}

fn standing(halves: &OpenHalves, offset: u64, at: u64) -> Standing {
    halves.standing(QueueOffset(offset), PhysicalOffset(at))
}

#[test]
fn half_is_due_after_the_time_out_or_its_own_longer_one() {
    let mut halves = empty();
    for (offset, immunity, due_ms) in [(0, None, 7_000), (1, Some(60), 61_000), (2, Some(1), 7_000)] {
        let record = HalfRecord { immunity: immunity.map(Duration::from_secs), ..record(offset) };
        halves.begun(PhysicalOffset(offset), &record, TIMEOUT);
        assert_eq!(halves.get(QueueOffset(offset)).unwrap().due_ms, due_ms);
    }
    assert_eq!(halves.due(6_999, 9), []);
    assert_eq!(halves.due(7_000, 9), [QueueOffset(0), QueueOffset(2)]);
    assert_eq!(halves.due(7_000, 1), [QueueOffset(0)], "as many as are wanted");
    halves.checked(QueueOffset(0), 37_000);
    halves.left_alone(QueueOffset(2), 38_000);
    assert_eq!(halves.next_due_ms(), Some(37_000));
    let checks = |offset| halves.get(QueueOffset(offset)).map(|half| (half.checks, half.unattended));
    assert_eq!((checks(0), checks(2)), (Some((1, false)), Some((0, true))));
}

#[test]
fn halves_that_were_left_alone_are_due_when_somebody_attends_to_their_group() {
    let of_group = |offset: u64, group: &str| HalfRecord { group: group.into(), ..record(offset) };
    let mut halves = empty();
    for (offset, group) in [(0, "a"), (1, "a"), (2, "a"), (3, "a"), (4, "b")] {
        halves.begun(PhysicalOffset(offset), &of_group(offset, group), TIMEOUT);
        halves.left_alone(QueueOffset(offset), 90_000);
    }
    // These are no longer alone, or no longer open.
    halves.checked(QueueOffset(0), 95_000);
    halves.begin(QueueOffset(1), Decision::Commit);
    halves.attend(&"a".into(), 50_000, 9);
    assert_eq!(halves.due(50_000, 9), [QueueOffset(2), QueueOffset(3)]);
    assert!(!halves.get(QueueOffset(2)).unwrap().unattended);
    halves.attend(&"a".into(), 40_000, 9);
    assert_eq!(halves.due(40_000, 9), [], "once");
    halves.left_alone(QueueOffset(2), 90_000);
    halves.left_alone(QueueOffset(3), 90_000);
    halves.attend(&"a".into(), 60_000, 1);
    assert_eq!(halves.due(60_000, 9), [QueueOffset(2)], "as many as are wanted");
    halves.drop_before(PhysicalOffset(5));
    halves.attend(&"b".into(), 70_000, 9);
    assert_eq!(halves.due(i64::MAX, 9), []);
}

#[test]
fn ending_that_is_refused_leaves_the_half_open() {
    let mut halves = after(&[begun(100, 0)]);
    halves.begin(QueueOffset(0), Decision::Commit);
    assert_eq!(standing(&halves, 0, 100), Standing::Ending(Decision::Commit));
    assert_eq!(halves.due(i64::MAX, 9), [], "nobody is asked meanwhile");
    halves.abandon(QueueOffset(0));
    assert_eq!(standing(&halves, 0, 100), Standing::Open);
    assert_eq!(halves.due(i64::MAX, 9), [QueueOffset(0)]);
}

#[test]
fn settled_half_is_remembered_with_its_decision() {
    let mut halves = after(&[begun(100, 0), begun(200, 1), ended(300, 100, 0)]);
    assert_eq!(standing(&halves, 0, 100), Standing::Settled(Some(Decision::Commit)));
    assert_eq!(halves.take_ops(9), [QueueOffset(0)], "it ended before a crash; the op message was lost");
    halves.apply(&settled(400, &[0, 1]), TIMEOUT);
    assert!(halves.is_empty());
    assert_eq!(standing(&halves, 0, 100), Standing::Settled(Some(Decision::Commit)));
    assert_eq!(standing(&halves, 1, 200), Standing::Settled(Some(Decision::Rollback)));
    assert_eq!(standing(&halves, 7, 50), Standing::Settled(None), "before anybody can remember");
    assert_eq!(standing(&halves, 8, 500), Standing::Ahead);
}

#[test]
fn copy_of_a_committed_message_ends_no_half_at_0() {
    let halves = after(&[begun(0, 0), ended(300, 0, 99)]);
    assert_eq!(standing(&halves, 0, 0), Standing::Open);
}

#[test]
fn copy_that_a_java_broker_made_for_a_check_takes_the_place_of_the_one_before() {
    let mut halves = after(&[begun(100, 0), begun(200, 1)]);
    let copy = HalfRecord { offset: QueueOffset(2), checks: 1, ..record(0) };
    halves.apply(&TransactionFact { at: PhysicalOffset(300), what: Told::Begun(copy) }, TIMEOUT);
    assert_eq!(halves.due(i64::MAX, 9), [QueueOffset(1), QueueOffset(2)], "asked for once");
    assert_eq!(halves.take_ops(9), [QueueOffset(0)], "which Java is told too");
    let again = HalfRecord { offset: QueueOffset(3), ..record(1) };
    halves.apply(&TransactionFact { at: PhysicalOffset(400), what: Told::Begun(again) }, TIMEOUT);
    assert_eq!(halves.not_ended(), 3, "another message with the same key is no copy");
}

#[test]
fn what_was_read_before_changes_nothing() {
    let mut halves = after(&[begun(100, 0), settled(200, &[0])]);
    halves.apply(&begun(100, 0), TIMEOUT);
    assert!(halves.is_empty());
}

#[test]
fn op_message_is_written_once_unless_it_is_refused() {
    let mut halves = after(&[begun(100, 0), begun(200, 1)]);
    for offset in [0, 1] {
        halves.begin(QueueOffset(offset), Decision::Commit);
        halves.ended(QueueOffset(offset), Decision::Commit);
    }
    let taken = halves.take_ops(1);
    assert_eq!(taken, [QueueOffset(0)]);
    halves.apply(&ended(300, 100, 0), TIMEOUT); // our own ending comes by
    assert_eq!(halves.take_ops(9), [QueueOffset(1)]);
    halves.return_ops(&taken);
    assert_eq!(halves.take_ops(9), taken);
}

#[test]
fn what_came_and_went_between_two_savings_is_never_kept() {
    let mut halves = after(&[begun(100, 0), begun(200, 1), settled(300, &[0])]);
    let changes = halves.take_changes();
    assert!(matches!(&changes[..], [Change::Keep(half)] if half.offset == QueueOffset(1)), "{changes:?}");
    assert_eq!(halves.take_changes(), []);
    halves.apply(&settled(400, &[1]), TIMEOUT);
    assert_eq!(halves.take_changes(), [Change::Forget(QueueOffset(1))]);
}

#[test]
fn halves_whose_segments_were_deleted_are_let_go() {
    let mut halves = after(&[begun(100, 0), begun(200, 1), begun(300, 2)]);
    halves.begin(QueueOffset(0), Decision::Commit);
    assert_eq!(halves.drop_before(PhysicalOffset(300)), 1, "one was decided");
    assert_eq!((halves.len(), halves.oldest()), (1, Some(PhysicalOffset(300))));
}

/// xorshift: small, seeded, the same everywhere.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// A log, a disk and producers around the table. Facts lie 10 bytes apart.
///
/// After every step and every crash, which may take what was not flushed:
/// 1. no half has two endings, or an ending and a rollback;
/// 2. a half that has neither in the log is known, and one that has is not open.
///
/// And when producers can be reached at last, every half settles.
struct World {
    chance: Chance,
    log: Vec<TransactionFact>,
    flushed: usize,
    dispatched: usize,
    halves: OpenHalves,
    kept: HashMap<QueueOffset, KeptHalf>,
    kept_read_to: PhysicalOffset,
    /// Written when that much is flushed.
    saving: Option<(Vec<Change>, PhysicalOffset, usize)>,
    next_half: u64,
    /// Decisions on their way; any may be doubled or lost.
    answers: Vec<(QueueOffset, PhysicalOffset, Decision)>,
    now_ms: i64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            chance: Chance(seed | 1),
            log: Vec::new(),
            flushed: 0,
            dispatched: 0,
            halves: empty(),
            kept: HashMap::default(),
            kept_read_to: PhysicalOffset(0),
            saving: None,
            next_half: 0,
            answers: Vec::new(),
            now_ms: 0,
        }
    }

    fn append(&mut self, what: Told) -> PhysicalOffset {
        let at = PhysicalOffset(10 * (1 + self.log.len() as u64));
        self.log.push(TransactionFact { at, what });
        at
    }

    /// What its producer says; it says the same every time, but for the one that is confused.
    fn decision_of(&mut self, half: QueueOffset) -> Decision {
        let confused = self.chance.once_in(8);
        if half.0.is_multiple_of(3) != confused { Decision::Rollback } else { Decision::Commit }
    }

    fn step(&mut self) {
        match self.chance.below(10) {
            0 | 1 => {
                let half = QueueOffset(self.next_half);
                self.next_half += 1;
                let begun = HalfRecord { stored_at_ms: self.now_ms, ..record(half.0) };
                let at = self.append(Told::Begun(begun));
                let decision = self.decision_of(half);
                self.answers.push((half, at, decision));
            }
            2 | 3 => self.hear(),
            4 => self.dispatch(1 + self.chance.0 as usize % 4),
            5 => self.flushed = self.log.len(),
            6 => self.write_ops(),
            7 => self.ask(),
            8 => self.save(),
            _ => self.now_ms += 5_000,
        }
    }

    fn hear(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        let at = self.chance.below(self.answers.len() as u64) as usize;
        let answer = match self.chance.below(4) {
            0 => self.answers[at], // it will come again
            _ => self.answers.swap_remove(at),
        };
        if self.chance.once_in(5) {
            return; // lost on the way
        }
        let (half, half_at, decision) = answer;
        if self.halves.standing(half, half_at) == Standing::Ahead {
            let begun = HalfRecord { stored_at_ms: self.now_ms, ..record(half.0) };
            self.halves.begun(half_at, &begun, TIMEOUT);
        }
        if self.halves.standing(half, half_at) != Standing::Open {
            return;
        }
        self.halves.begin(half, decision);
        if self.chance.once_in(6) {
            self.halves.abandon(half); // the disk was full
        } else if decision == Decision::Commit {
            self.append(Told::Ended { half_at, key: TransactionKey(half.0), decision });
            self.halves.ended(half, decision);
        } else {
            self.append(Told::Settled(vec![half]));
            self.halves.op_stored(half);
        }
    }

    fn dispatch(&mut self, count: usize) {
        let end = (self.dispatched + count).min(self.log.len());
        for fact in &self.log[self.dispatched..end] {
            self.halves.apply(fact, TIMEOUT);
        }
        self.dispatched = end;
    }

    fn write_ops(&mut self) {
        let ops = self.halves.take_ops(4);
        if ops.is_empty() {
            return;
        }
        if self.chance.once_in(4) {
            self.halves.return_ops(&ops);
        } else {
            self.append(Told::Settled(ops));
        }
    }

    fn ask(&mut self) {
        for half in self.halves.due(self.now_ms, 4) {
            let at = self.halves.get(half).unwrap().at;
            let decision = self.decision_of(half);
            self.answers.push((half, at, decision));
            self.halves.checked(half, self.now_ms + 30_000);
        }
    }

    fn save(&mut self) {
        if self.saving.is_none() {
            let dispatched = self.log[..self.dispatched].last().map_or(0, |fact| fact.at.0 + 1);
            self.halves.pass_to(PhysicalOffset(dispatched));
            let changes = self.halves.take_changes();
            self.saving = Some((changes, self.halves.read_to(), self.log.len()));
        }
        if self.saving.as_ref().is_some_and(|(_, _, needs)| *needs <= self.flushed) {
            let (changes, read_to, _) = self.saving.take().unwrap();
            let torn = self.chance.once_in(4).then(|| self.chance.below(1 + changes.len() as u64) as usize);
            for change in changes.iter().take(torn.unwrap_or(usize::MAX)) {
                match change {
                    Change::Keep(half) => drop(self.kept.insert(half.offset, half.clone())),
                    Change::Forget(offset) => drop(self.kept.remove(offset)),
                }
            }
            match torn {
                None => self.kept_read_to = read_to,
                Some(_) => self.crash(),
            }
        }
    }

    /// The process ends; with the power goes what was not flushed.
    fn crash(&mut self) {
        if self.chance.once_in(2) {
            let survives =
                self.flushed as u64 + self.chance.below(1 + (self.log.len() - self.flushed) as u64);
            self.log.truncate(survives as usize);
            let end = PhysicalOffset(10 * (1 + survives));
            self.answers.retain(|(_, at, _)| *at < end);
            self.next_half = 0;
            for fact in &self.log {
                if let Told::Begun(half) = &fact.what {
                    self.next_half = half.offset.0 + 1;
                }
            }
        }
        self.flushed = self.log.len();
        self.saving = None;
        self.halves = OpenHalves::restore(self.kept.values().cloned().collect(), self.kept_read_to);
        self.dispatched = 0; // the rest is known already
        self.dispatch(usize::MAX >> 1);
        self.check();
    }

    fn check(&self) {
        let mut ends: HashMap<QueueOffset, Vec<&'static str>> = HashMap::default();
        let mut begun = HashMap::default();
        for fact in &self.log {
            match &fact.what {
                Told::Begun(half) => drop(begun.insert(half.offset, fact.at)),
                Told::Ended { key, .. } => ends.entry(QueueOffset(key.0)).or_default().push("committed"),
                Told::Settled(halves) => {
                    for half in halves {
                        let ended = ends.entry(*half).or_default();
                        if ended.is_empty() {
                            ended.push("rolled back");
                        }
                    }
                }
            }
        }
        for (half, at) in begun {
            let ended = ends.get(&half).map_or(0, Vec::len);
            assert!(ended <= 1, "half {half} ended {:?}", ends[&half]);
            match self.halves.standing(half, at) {
                Standing::Open | Standing::Ahead => assert_eq!(ended, 0, "half {half} is not open"),
                Standing::Ending(_) => {}
                Standing::Settled(_) => assert_eq!(ended, 1, "half {half} is forgotten"),
            }
        }
    }
}

#[test]
fn every_half_settles_once_whatever_is_lost_doubled_or_crashes() {
    each_seed("TRANSACTION", 80, |seed| {
        let mut world = World::new((seed + 1) * 0x9E37_79B9);
        for _ in 0..400 {
            world.step();
            if world.chance.once_in(60) {
                world.crash();
            }
            world.check();
        }
        // No new ones; producers answer at last.
        for _ in 0..5_000 {
            if world.halves.is_empty() && world.dispatched == world.log.len() {
                break;
            }
            world.now_ms += 5_000;
            world.ask();
            world.hear();
            world.write_ops();
            world.dispatch(8);
        }
        world.check();
        assert!(world.halves.is_empty(), "{} halves never settle", world.halves.len());
    });
}
