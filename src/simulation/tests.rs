use super::*;
use crate::testing::world::each_seed;

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
    each_seed("SIMULATION", 8, |seed| {
        let outcome = run(Plan::of_seed(seed));
        if let Some(violation) = outcome.violation {
            panic!("{violation}\n{}", outcome.transcript.tail(60).join("\n"));
        }
        assert!(outcome.acknowledged > 50, "{} sent", outcome.acknowledged);
    });
}
