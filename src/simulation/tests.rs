use std::time::Duration;

use super::*;

fn short(seed: u64) -> Plan {
    Plan { seed, length: Duration::from_secs(60) }
}

#[test]
fn same_seed_gives_the_same_world() {
    let (one, other) = (run(short(1)), run(short(1)));
    assert_eq!(one.transcript.to_string(), other.transcript.to_string());
    assert_eq!(one.turns, other.turns);
    assert_ne!(run(short(2)).turns, one.turns);
}

#[test]
fn worlds_settle_whatever_happens() {
    crate::testing::world::each_seed("SIMULATION", 8, |seed| {
        let outcome = run(short(seed));
        if let Some(violation) = outcome.violation {
            panic!("seed {seed}: {violation}\n{}", outcome.transcript);
        }
        assert!(outcome.acknowledged > 50, "{} sent", outcome.acknowledged);
    });
}
