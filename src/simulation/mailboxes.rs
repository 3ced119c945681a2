//! How full mailboxes were, and that none held more than it may.
//!
//! A turn of an actor empties its mailbox, and a world is one thread: what a turn took had been waiting. Beyond its
//! capacity a mailbox takes what is bounded by something else: one message of each address that did not know it to be
//! full, and what is sent by `do_send` (see ARCHITECTURE.md for both).

use std::collections::BTreeMap;
use std::fmt;

use super::PRODUCERS;
use super::ledger::Violation;
use super::producers::UNDER_WAY_MAX;

/// Messages beyond the capacity that a mailbox may hold: as many as there are sends under way when all producers send many
/// at once. What is sent by `do_send` follows from one of those.
const BEYOND: u64 = PRODUCERS as u64 * UNDER_WAY_MAX;

/// How full the mailboxes of a kind were at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fill {
    pub waiting: u64,
    pub capacity: u64,
}

/// How full mailboxes were, by kind of actor.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mailboxes {
    fullest: BTreeMap<&'static str, Fill>,
}

impl Mailboxes {
    /// An actor of `kind` had its mailbox as full as `fill`, and took it all.
    pub fn taken(&mut self, kind: &'static str, fill: Fill) -> Result<(), Violation> {
        self.note(kind, fill);
        let Fill { waiting, capacity } = fill;
        if waiting > capacity + BEYOND {
            return Err(Violation(format!(
                "{waiting} messages waited for a {kind}, whose mailbox is for {capacity}"
            )));
        }
        Ok(())
    }

    /// Takes what was seen in another world, too.
    pub fn merge(&mut self, other: &Self) {
        other.fullest.iter().for_each(|(kind, fill)| self.note(kind, *fill));
    }

    fn note(&mut self, kind: &'static str, fill: Fill) {
        let most = self.fullest.entry(kind).or_insert(fill);
        if fill.waiting * most.capacity > most.waiting * fill.capacity {
            *most = fill;
        }
    }
}

impl fmt::Display for Mailboxes {
    /// Each kind whose mailboxes were ever half full, with what waited and what may.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let half_full = self.fullest.iter().filter(|(_, fill)| 2 * fill.waiting >= fill.capacity);
        for (at, (kind, Fill { waiting, capacity })) in half_full.enumerate() {
            let before = if at == 0 { "" } else { ", " };
            write!(f, "{before}{kind} {waiting}/{capacity}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fullest_of_each_kind_is_kept_and_what_is_too_full_is_named() {
        let mut mailboxes = Mailboxes::default();
        for (waiting, capacity) in [(3, 8), (2, 2), (3, 1_024)] {
            mailboxes.taken("Writer", Fill { waiting, capacity }).unwrap();
        }
        mailboxes.taken("Table", Fill { waiting: 1, capacity: 8 }).unwrap();
        let mut all = Mailboxes::default();
        all.merge(&mailboxes);
        assert_eq!(all.to_string(), "Writer 2/2", "the table's was never half full");
        let waiting = 2 + BEYOND;
        assert!(all.taken("Writer", Fill { waiting, capacity: 2 }).is_ok());
        let violated = all.taken("Writer", Fill { waiting, capacity: 1 }).unwrap_err();
        assert_eq!(
            violated.to_string(),
            format!("{waiting} messages waited for a Writer, whose mailbox is for 1")
        );
    }
}
