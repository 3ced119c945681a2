//! Which segments may go, and whether writes have to stop; decided from ages and the room on the disk.
//!
//! RocketMQ: `DefaultMessageStore.CleanCommitLogService`.

use std::time::Duration;

use super::commit_log::SegmentInfo;
use crate::clock::WallMs;
use crate::types::PhysicalOffset;

/// How long messages are kept, and how full the disk may be. Ratios are used space by total space, 0 to 1.
#[derive(Clone, PartialEq, Debug)]
pub struct RetentionRules {
    /// Age of a segment's last write beyond which it is expired.
    pub max_age: Duration,
    /// Hours of the day, local time, in which expired segments are deleted.
    pub delete_hours: Vec<u32>,
    /// Above this, expired segments go at any hour.
    pub warn_ratio: f64,
    /// Above this, the oldest segments go whatever their age.
    pub force_ratio: f64,
    /// Above this, writes are refused as well.
    pub refuse_ratio: f64,
    /// Segments deleted in one round.
    pub max_segments: usize,
}

impl Default for RetentionRules {
    fn default() -> Self {
        Self {
            max_age: Duration::from_secs(72 * 3600),
            delete_hours: vec![4],
            warn_ratio: 0.75,
            force_ratio: 0.85,
            refuse_ratio: 0.90,
            max_segments: 10,
        }
    }
}

/// What is known when a round is decided.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RetentionFacts {
    pub now: WallMs,
    /// Hour of the day, local time, 0 to 23.
    pub hour: u32,
    /// Used space by total space of the disk.
    pub used_ratio: f64,
}

/// What to do in this round.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RetentionDecision {
    /// Delete whole segments below this.
    pub delete_before: Option<PhysicalOffset>,
    /// Why segments go before their time.
    pub forced: bool,
    /// Why writes are refused; `None`: they are taken.
    pub refuse_writes: Option<String>,
}

/// Decides a round. The last segment never goes.
pub fn decide(rules: &RetentionRules, facts: RetentionFacts, segments: &[SegmentInfo]) -> RetentionDecision {
    let forced = facts.used_ratio > rules.force_ratio;
    let in_time = rules.delete_hours.contains(&facts.hour) || facts.used_ratio > rules.warn_ratio;
    let max_age_ms = rules.max_age.as_millis() as i64;
    let expired = |segment: &&SegmentInfo| facts.now.since_ms(segment.modified_at) >= max_age_ms;
    let deletable = &segments[..segments.len().saturating_sub(1)];
    let going = match (forced, in_time) {
        // One segment at a time: deleting helps at once, and unread messages go last.
        (true, _) => deletable.iter().take_while(expired).count().max(1).min(deletable.len()),
        (false, true) => deletable.iter().take_while(expired).count(),
        (false, false) => 0,
    };
    let going = going.min(rules.max_segments);
    let delete_before = going.checked_sub(1).map(|last| {
        let last = &deletable[last];
        last.base.advance(last.len_bytes)
    });
    let refuse_writes = (facts.used_ratio > rules.refuse_ratio).then(|| {
        format!(
            "the disk is {:.1} % full, writes stop above {:.0} %; free space on it, or shorten the retention",
            facts.used_ratio * 100.0,
            rules.refuse_ratio * 100.0
        )
    });
    let forced = forced
        && delete_before.is_some_and(|_| !deletable.iter().take(going).all(|segment| expired(&segment)));
    RetentionDecision { delete_before, forced, refuse_writes }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    /// Segments of 100 bytes, last written so many hours before `now`.
    fn segments(ages_h: &[i64]) -> Vec<SegmentInfo> {
        let segment = |(n, age): (usize, &i64)| SegmentInfo {
            base: PhysicalOffset(100 * n as u64),
            len_bytes: 100,
            modified_at: WallMs(1000 * HOUR_MS - age * HOUR_MS),
            path: Default::default(),
        };
        ages_h.iter().enumerate().map(segment).collect()
    }

    fn decided(hour: u32, used_ratio: f64, ages_h: &[i64]) -> RetentionDecision {
        let facts = RetentionFacts { now: WallMs(1000 * HOUR_MS), hour, used_ratio };
        decide(&RetentionRules::default(), facts, &segments(ages_h))
    }

    #[test]
    fn expired_segments_go_in_their_hour_and_the_last_stays() {
        assert_eq!(decided(4, 0.1, &[80, 73, 71, 1]).delete_before, Some(PhysicalOffset(200)));
        assert_eq!(decided(5, 0.1, &[80, 73, 71, 1]).delete_before, None);
        assert_eq!(decided(4, 0.1, &[80]).delete_before, None);
        assert_eq!(decided(4, 0.1, &[]).delete_before, None);
    }

    #[test]
    fn expired_segments_go_at_any_hour_once_the_disk_fills() {
        assert_eq!(decided(5, 0.76, &[80, 1, 1]).delete_before, Some(PhysicalOffset(100)));
        assert_eq!(decided(5, 0.76, &[10, 1, 1]).delete_before, None);
    }

    #[test]
    fn young_segments_go_one_by_one_when_the_disk_is_nearly_full() {
        let decision = decided(5, 0.86, &[10, 5, 1]);
        assert_eq!((decision.delete_before, decision.forced), (Some(PhysicalOffset(100)), true));
        assert_eq!(decision.refuse_writes, None);
        assert_eq!(decided(5, 0.86, &[80, 80, 1]).delete_before, Some(PhysicalOffset(200)));
    }

    #[test]
    fn writes_are_refused_with_the_figures() {
        let cause = decided(5, 0.913, &[1]).refuse_writes.unwrap();
        assert!(cause.contains("91.3 %") && cause.contains("90 %"), "{cause}");
    }
}
