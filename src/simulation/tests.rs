use super::*;
use crate::testing::world::each_seed_on_all_cores;

#[test]
fn same_seed_gives_the_same_world() {
    let (one, other) = (run(Plan::of_seed(1)), run(Plan::of_seed(1)));
    let parted = one.transcript.lines().zip(other.transcript.lines()).find(|(one, other)| one != other);
    assert_eq!(parted, None);
    assert_eq!(one.turns, other.turns);
    assert_ne!(run(Plan::of_seed(2)).turns, one.turns);
}

#[test]
fn worlds_settle_whatever_happens() {
    each_seed_on_all_cores("SIMULATION", 8, |seed| {
        let outcome = run(Plan::of_seed(seed));
        if let Some(violation) = outcome.violation {
            panic!("{violation}\n{}", outcome.transcript.tail(60).join("\n"));
        }
        assert!(outcome.acknowledged > 50, "{} sent", outcome.acknowledged);
    });
}

/// Worlds that find nothing show nothing. Of the planted faults these are found soon; the others take tens or hundreds of
/// seeds, and `telstar-sim --plant` finds them.
#[test]
fn planted_faults_are_found() {
    let soon = [
        Planted::ForgottenWaiter,
        Planted::HoldNeverWoken,
        Planted::CommitAhead,
        Planted::DoubleDispatch,
        Planted::FlushSkipped,
    ];
    let world = |fault, seed| run(Plan { planted: Some(fault), ..Plan::of_seed(seed) });
    let is_found = |fault| (0..12).any(|seed| world(fault, seed).violation.is_some());
    let missed: Vec<_> = soon.into_iter().filter(|fault| !is_found(*fault)).collect();
    assert!(missed.is_empty(), "nothing was found of {missed:?}");
}
