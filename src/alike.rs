//! Names that look like another: what somebody may have meant who asks for one that is not there.

/// How many slips of the pen make one name of `asked` and the other: a letter too many, one missing, a wrong one, or two
/// neighbours swapped.
pub struct Slips<'a> {
    asked: &'a str,
    letters: Letters,
    most: usize,
}

/// Which letters a name has, and how many in all. Cheap to make, and names that differ much here differ much.
#[derive(Clone, Copy)]
struct Letters {
    count: usize,
    /// One bit for each letter; letters that share theirs are taken for the same.
    set: u64,
}

impl Letters {
    fn of(name: &str) -> Self {
        let add = |Self { count, set }, letter: char| Self {
            count: count + 1,
            set: set | 1 << (letter as u32 % 64),
        };
        name.chars().fold(Self { count: 0, set: 0 }, add)
    }

    /// No fewer slips lie between names with these letters: one slip changes two of them at most.
    fn least_slips(self, other: Self) -> usize {
        let differing = (self.set ^ other.set).count_ones() as usize;
        self.count.abs_diff(other.count).max(differing.div_ceil(2))
    }
}

impl<'a> Slips<'a> {
    /// More than `most` slips are not counted.
    pub fn from(asked: &'a str, most: usize) -> Self {
        Self { asked, letters: Letters::of(asked), most }
    }

    /// Slips between the name asked for and this one; `None`: too many. Most of thousands of names are told by their letters
    /// alone, without the table that comparing them takes.
    pub fn to(&self, known: &str) -> Option<usize> {
        // Of a letter's bytes there are four at most.
        if known.len().abs_diff(self.asked.len()) > 4 * self.most {
            return None;
        }
        if self.letters.least_slips(Letters::of(known)) > self.most {
            return None;
        }
        Some(strsim::osa_distance(self.asked, known)).filter(|slips| *slips <= self.most)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn slips_are_those_of_the_full_comparison(asked in "[a-eé0-9]{0,8}", known in "[a-eé0-9]{0,8}", most in 0..4_usize) {
            let all = strsim::osa_distance(&asked, &known);
            prop_assert_eq!(Slips::from(&asked, most).to(&known), Some(all).filter(|all| *all <= most));
        }

        #[test]
        fn slip_or_two_are_found(name in "[a-z]{4,10}", at in 0..3_usize, wrong in "[a-z]") {
            let mut slipped = name.clone();
            slipped.replace_range(at..=at, &wrong);
            slipped.push('x');
            prop_assert!(Slips::from(&name, 2).to(&slipped).is_some());
        }
    }
}
