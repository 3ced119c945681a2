use clap::ValueEnum;

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

/// A world that finds nothing shows nothing: each fault has seeds that find it.
#[test]
fn planted_faults_are_found() {
    let found = |fault| {
        (0..4).find(|seed| run(Plan { planted: Some(fault), ..Plan::of_seed(*seed) }).violation.is_some())
    };
    let missed: Vec<_> = Planted::value_variants().iter().filter(|fault| found(**fault).is_none()).collect();
    assert!(missed.is_empty(), "nothing was found of {missed:?}");
}
