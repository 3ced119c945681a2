//! One delay level: what of its queue is delivered, and what is known of the rest.

use std::collections::VecDeque;
use std::time::Duration;

use crate::actors::topic_queue::QueueExtent;
use crate::store::consume_queue::ConsumeQueueUnit;
use crate::types::QueueOffset;

/// Units of one level kept in memory; the rest is read when these are delivered.
pub const KNOWN_UNITS: usize = 4096;
/// Deliveries of one level under way.
pub const IN_FLIGHT: usize = 256;

/// How much further away than its level is long a message may be due, before the clock is taken to have gone back for good.
/// A clock that is put right steps by less, and makes nothing come early. Java has none of it.
pub const CLOCK_STEP: Duration = Duration::from_secs(60);

/// One delay level: a queue of the schedule topic, read in its order.
#[derive(Debug, Default)]
pub struct Level {
    /// It is known where the level was left.
    pub begun: bool,
    /// Next offset to deliver.
    pub next: QueueOffset,
    pub saved: QueueOffset,
    /// Units from `next` on, as far as they are in memory.
    pub known: VecDeque<ConsumeQueueUnit>,
    /// There may be units beyond the known ones.
    pub more: bool,
    pub reading: bool,
    pub delivering: bool,
}

impl Level {
    /// Goes on where the level was left.
    pub fn begin(&mut self, saved: Option<QueueOffset>, extent: QueueExtent) {
        self.begun = true;
        self.next = saved.unwrap_or(extent.min).clamp(extent.min, extent.max);
        self.saved = self.next;
        // Units that came before may be newer than the extent.
        self.more |= self.next < extent.max;
    }

    /// Takes units that begin at `first`; those that do not follow on are read later.
    pub fn take(&mut self, first: QueueOffset, units: &[ConsumeQueueUnit]) {
        if !self.begun {
            self.more = true;
            return;
        }
        let end = self.next.advance(self.known.len() as u64);
        let Some(skip) = end.0.checked_sub(first.0).filter(|skip| *skip <= units.len() as u64) else {
            self.more |= first > end;
            return;
        };
        if self.more && first > self.next {
            return; // the gap before is read first
        }
        let room = KNOWN_UNITS.saturating_sub(self.known.len());
        let fresh = &units[skip as usize..];
        self.known.extend(fresh.iter().take(room));
        self.more |= fresh.len() > room;
    }

    /// Delivered units at the front.
    pub fn advance(&mut self, count: usize) {
        self.known.drain(..count.min(self.known.len()));
        self.next = self.next.advance(count as u64);
    }

    /// How many units at the front are due.
    pub fn due(&self, now_ms: i64, longest: Duration) -> usize {
        let is_due = |unit: &&ConsumeQueueUnit| {
            let far_ms = now_ms.saturating_add((longest + CLOCK_STEP).as_millis() as i64);
            unit.tags_code <= now_ms || unit.tags_code > far_ms
        };
        self.known.iter().take(IN_FLIGHT).take_while(is_due).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PhysicalOffset;

    #[test]
    fn units_that_come_before_the_level_has_begun_are_read_later() {
        let unit = ConsumeQueueUnit { physical_offset: PhysicalOffset(1), size_bytes: 1, tags_code: 0 };
        let extent = QueueExtent { min: QueueOffset(50), max: QueueOffset(101), ..QueueExtent::default() };
        let mut level = Level::default();
        level.take(QueueOffset(101), &[unit]);
        level.begin(Some(QueueOffset(101)), extent);
        assert!(level.more, "the extent was told before the unit was dispatched");
        for (saved, next, more) in
            [(None, 50, true), (Some(60), 60, true), (Some(999), 101, false), (Some(1), 50, true)]
        {
            let mut level = Level::default();
            level.begin(saved.map(QueueOffset), extent);
            assert_eq!((level.next.0, level.saved.0, level.more), (next, next, more), "{saved:?}");
        }
    }

    #[test]
    fn level_takes_units_that_follow_on_and_reads_the_others_later() {
        let unit = |n: u64| ConsumeQueueUnit {
            physical_offset: PhysicalOffset(n),
            size_bytes: 1,
            tags_code: n as i64,
        };
        let units = |range: std::ops::Range<u64>| range.map(unit).collect::<Vec<_>>();
        let mut level = Level { begun: true, next: QueueOffset(5), ..Level::default() };
        level.take(QueueOffset(3), &units(3..7));
        assert_eq!(level.known, units(5..7), "those before are delivered");
        level.take(QueueOffset(7), &units(7..8));
        level.take(QueueOffset(6), &units(6..8));
        assert_eq!((level.known.len(), level.more), (3, false));
        level.take(QueueOffset(10), &units(10..11));
        assert_eq!((level.known.len(), level.more), (3, true), "a gap");
        assert_eq!(level.due(6, Duration::from_secs(1)), 2);
        level.advance(2);
        assert_eq!((level.next, level.known.len()), (QueueOffset(7), 1));
        let mut level = Level { begun: true, ..Level::default() };
        level.take(QueueOffset(0), &units(0..KNOWN_UNITS as u64 + 10));
        assert_eq!((level.known.len(), level.more), (KNOWN_UNITS, true));
        assert_eq!(level.due(i64::MAX, Duration::ZERO), IN_FLIGHT, "a round has its bounds");
    }
}
