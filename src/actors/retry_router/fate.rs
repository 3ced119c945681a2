//! What becomes of a message that was not consumed: it comes again after a while, or it is dead.

use std::fmt;
use std::time::Duration;

use crate::protocol::delay_level::DelayLevels;
use crate::protocol::subscription_group_config::{GroupRetryPolicy, GroupRetryPolicyType};

/// Level of the first retry: the third, 10 s.
const FIRST_RETRY_LEVEL: i32 = 3;

/// What becomes of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Later(Wait),
    Dead(DeathCause),
}

/// How long a message waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// A delay level, from 1.
    Level(usize),
    /// A wait that is no level's.
    For(Duration),
}

/// Why a message is not tried again. The text is stored with it, and shown to people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeathCause {
    TriedTooOften {
        retries: i32,
        max: i32,
    },
    GivenUp,
    /// The group consumes in order: trying again would be out of order.
    GivenUpInOrder,
}

impl fmt::Display for DeathCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TriedTooOften { retries, max } => {
                write!(f, "not consumed after {retries} retries, the limit is {max}")
            }
            Self::GivenUp => f.write_str("the consumer gave it up"),
            Self::GivenUpInOrder => f.write_str("the consumer gave it up; its group consumes in order"),
        }
    }
}

/// A failed attempt, and what was laid down for such.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    /// Retries before this failure.
    pub retries: i32,
    /// Negative: give up; 0: as the policy says; n: that level.
    pub asked_level: i32,
    pub max_retries: i32,
    pub policy: &'a GroupRetryPolicy,
}

impl Failure<'_> {
    pub fn fate(&self, levels: &DelayLevels) -> Fate {
        let &Self { retries, asked_level, max_retries: max, policy } = self;
        if asked_level < 0 {
            return Fate::Dead(DeathCause::GivenUp);
        }
        if retries >= max {
            return Fate::Dead(DeathCause::TriedTooOften { retries, max });
        }
        let level =
            |level: i32| Wait::Level(usize::try_from(level).unwrap_or(0).clamp(1, levels.max_level().max(1)));
        Fate::Later(match asked_level {
            0 if is_ladder(policy) => level(FIRST_RETRY_LEVEL.saturating_add(retries)),
            0 => {
                let delay = policy.delay(u32::try_from(retries).unwrap_or(0));
                levels.level_of(delay).map_or(Wait::For(delay), Wait::Level)
            }
            asked => level(asked),
        })
    }
}

/// Whether the policy is that of RocketMQ's clients since ever: one delay level after the other.
fn is_ladder(policy: &GroupRetryPolicy) -> bool {
    policy.kind == GroupRetryPolicyType::Customized && policy.customized_retry_policy.is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::subscription_group_config::{CustomizedRetryPolicy, ExponentialRetryPolicy};

    fn fate(retries: i32, asked_level: i32, policy: &GroupRetryPolicy) -> Fate {
        Failure { retries, asked_level, max_retries: 16, policy }.fate(&DelayLevels::default())
    }

    fn exponential(initial: i64) -> GroupRetryPolicy {
        GroupRetryPolicy {
            kind: GroupRetryPolicyType::Exponential,
            exponential_retry_policy: Some(ExponentialRetryPolicy { initial, ..Default::default() }),
            customized_retry_policy: None,
        }
    }

    #[test]
    fn without_a_policy_the_levels_are_a_ladder() {
        let ladder = GroupRetryPolicy::default();
        for (retries, asked, level) in [(0, 0, 3), (1, 0, 4), (15, 0, 18), (3, 5, 5), (0, 99, 18)] {
            assert_eq!(fate(retries, asked, &ladder), Fate::Later(Wait::Level(level)), "{retries} {asked}");
        }
    }

    #[test]
    fn policy_of_the_group_decides_unless_a_level_is_asked_for() {
        let policy = exponential(5_000);
        assert_eq!(fate(0, 0, &policy), Fate::Later(Wait::Level(2)), "5 s are a level");
        assert_eq!(fate(3, 0, &policy), Fate::Later(Wait::For(Duration::from_secs(40))));
        assert_eq!(fate(3, 7, &policy), Fate::Later(Wait::Level(7)));
        let list = GroupRetryPolicy {
            customized_retry_policy: Some(CustomizedRetryPolicy { next: vec![1, 2, 1_500, 7_000] }),
            ..GroupRetryPolicy::default()
        };
        // Java skips the first two of the list.
        for (retries, ms) in [(0, 1_500), (1, 7_000), (9, 7_000)] {
            assert_eq!(
                fate(retries, 0, &list),
                Fate::Later(Wait::For(Duration::from_millis(ms))),
                "{retries}"
            );
        }
    }

    #[test]
    fn message_tried_too_often_or_given_up_is_dead_and_the_cause_is_said() {
        let policy = GroupRetryPolicy::default();
        let cause = |retries, asked| match fate(retries, asked, &policy) {
            Fate::Dead(cause) => cause.to_string(),
            later => panic!("{later:?}"),
        };
        assert_eq!(cause(16, 0), "not consumed after 16 retries, the limit is 16");
        assert_eq!(cause(20, 3), "not consumed after 20 retries, the limit is 16");
        assert_eq!(cause(0, -1), "the consumer gave it up");
    }

    proptest! {
        /// However a message fails, it comes again at most as often as allowed, never at once, and then it is dead.
        #[test]
        fn every_message_is_consumed_or_dies(max in 0..40i32, asked in -1..20i32, initial in 1..100_000i64, exponents in any::<bool>()) {
            let policy = if exponents { exponential(initial) } else { GroupRetryPolicy::default() };
            let mut retries = 0;
            loop {
                let failure = Failure { retries, asked_level: asked, max_retries: max, policy: &policy };
                match failure.fate(&DelayLevels::default()) {
                    Fate::Later(Wait::Level(level)) => prop_assert!((1..=18).contains(&level)),
                    Fate::Later(Wait::For(delay)) => prop_assert!(delay > Duration::ZERO),
                    Fate::Dead(_) => break,
                }
                retries += 1;
            }
            prop_assert_eq!(retries, if asked < 0 { 0 } else { max });
        }
    }
}
