//! Which segments may go, and whether writes have to stop; decided from ages, the room on the disk and what groups
//! have consumed.
//!
//! ```text
//!  share of the disk   0 ……………… warn ………………… force ………………… refuse ……… 1
//!  expired segments     in their hour │ at once
//!  consumed ones                      │                │ before their time
//!  unconsumed ones                    │                │                 │ one by one
//!  writes                             │                │                 │ refused
//! ```
//!
//! A log over its size counts as `force`; a disk without room for the next segment as `force`, and as `refuse` once
//! the last segment is nearly full. RocketMQ: `DefaultMessageStore.CleanCommitLogService`, which deletes unconsumed
//! messages from `force` on.

use std::fmt;
use std::time::Duration;

use super::commit_log::SegmentInfo;
use super::file::DiskSpace;
use crate::clock::WallMs;
use crate::types::PhysicalOffset;

/// What of the last segment may be free for it to count as nearly full: one part of so many.
const NEARLY_FULL_PART: u64 = 8;

/// How long messages are kept, how much of them, and how full the disk may be. Ratios are used space by total
/// space, 0 to 1.
#[derive(Clone, PartialEq, Debug)]
pub struct RetentionRules {
    /// Age of a segment's last write beyond which it is expired.
    pub max_age: Duration,
    /// Length of the log beyond which consumed segments go before their time; `None`: any.
    pub max_log_bytes: Option<u64>,
    /// Hours of the day, local time, in which expired segments are deleted.
    pub delete_hours: Vec<u32>,
    /// Above this, expired segments go at any hour.
    pub warn_ratio: f64,
    /// Above this, the oldest segments go whatever their age, once every group has consumed them.
    pub force_ratio: f64,
    /// Above this, writes are refused, and unconsumed segments go as well.
    pub refuse_ratio: f64,
    /// Segments deleted in one round.
    pub max_segments: usize,
}

impl Default for RetentionRules {
    fn default() -> Self {
        Self {
            max_age: Duration::from_secs(72 * 3600),
            max_log_bytes: None,
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
    /// Somebody asked for it: expired segments go at any hour.
    pub asked: bool,
    pub space: DiskSpace,
    /// End of the log.
    pub published: PhysicalOffset,
}

/// What to do in this round.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RetentionDecision {
    /// Whole segments below this are expired, and go.
    pub expired_before: Option<PhysicalOffset>,
    /// Room has to be made before anything expires.
    pub early: Option<EarlyDeletion>,
    /// Why writes are refused; `None`: they are taken.
    pub refuse_writes: Option<String>,
    /// Room is getting short: worth another look soon.
    pub tight: bool,
}

/// Segments that are to go before their time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EarlyDeletion {
    pub cause: EarlyCause,
    /// Whole segments below this, as far as they are consumed.
    pub before: PhysicalOffset,
    /// End of the oldest segment.
    pub oldest_end: PhysicalOffset,
    /// The oldest goes though nobody may have consumed it.
    pub unconsumed_too: bool,
}

/// Why segments go before their time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EarlyCause {
    DiskFilling,
    NoRoomForSegment,
    LogTooLong,
}

impl fmt::Display for EarlyCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EarlyCause::DiskFilling => "the disk is nearly full",
            EarlyCause::NoRoomForSegment => "the disk has no room for the next segment",
            EarlyCause::LogTooLong => "the commit log is longer than retention.max_log_bytes",
        })
    }
}

/// What goes, once it is known how far the slowest group is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deletion {
    /// Whole segments below this.
    pub before: PhysicalOffset,
    /// Why something goes that is not expired.
    pub early: Option<EarlyCause>,
}

impl RetentionDecision {
    /// What is expired, as far as no message from `oldest_waiting` on is needed yet. Such a message is stored anew
    /// meanwhile, and the next round goes further. A full disk does not wait.
    pub fn sparing(mut self, oldest_waiting: PhysicalOffset) -> Self {
        let spared = self.expired_before.map(|before| before.min(oldest_waiting));
        // Where room has to be made, nothing expired is left unless a whole segment is.
        self.expired_before =
            spared.filter(|before| self.early.is_none_or(|early| *before >= early.oldest_end));
        self
    }

    /// `consumed_to`: every live group has consumed what lies below.
    pub fn deletion(&self, consumed_to: PhysicalOffset) -> Option<Deletion> {
        let expired = self.expired_before.map(|before| Deletion { before, early: None });
        let Some(early) = self.early else { return expired };
        let cause = Some(early.cause);
        let consumed = early.before.min(consumed_to);
        if consumed >= early.oldest_end && Some(consumed) > self.expired_before {
            return Some(Deletion { before: consumed, early: cause });
        }
        let last_resort =
            || early.unconsumed_too.then_some(Deletion { before: early.oldest_end, early: cause });
        expired.or_else(last_resort)
    }
}

/// Decides a round. The last segment never goes.
pub fn decide(rules: &RetentionRules, facts: RetentionFacts, segments: &[SegmentInfo]) -> RetentionDecision {
    let deletable = &segments[..segments.len().saturating_sub(1)];
    let end_of = |count: usize| {
        let last = deletable.get(count.checked_sub(1)?)?;
        Some(last.base.advance(last.len_bytes))
    };
    let used = facts.space.used_ratio();
    let early = early_count(rules, &facts, segments);
    let due =
        facts.asked || early.is_some() || used > rules.warn_ratio || rules.delete_hours.contains(&facts.hour);

    let max_age_ms = rules.max_age.as_millis() as i64;
    let expired = |segment: &&SegmentInfo| facts.now.since_ms(segment.modified_at) >= max_age_ms;
    let expired = if due { deletable.iter().take_while(expired).count() } else { 0 };
    let early = early.and_then(|(cause, count)| {
        let count = count.min(deletable.len()).min(rules.max_segments);
        let (before, oldest_end) = (end_of(count)?, end_of(1)?);
        let unconsumed_too =
            used > rules.refuse_ratio || (is_short(&facts, segments) && is_nearly_full(&facts, segments));
        Some(EarlyDeletion { cause, before, oldest_end, unconsumed_too })
    });
    let refuse_writes = (used > rules.refuse_ratio).then(|| {
        format!(
            "the disk is {:.1} % full, writes stop above {:.0} %; free space on it, or shorten the retention",
            used * 100.0,
            rules.refuse_ratio * 100.0
        )
    });
    let tight = used > rules.warn_ratio || is_short(&facts, segments);
    let expired_before = end_of(expired.min(rules.max_segments));
    RetentionDecision { expired_before, early, refuse_writes, tight }
}

/// How many segments are to go whatever their age, and why.
fn early_count(
    rules: &RetentionRules,
    facts: &RetentionFacts,
    segments: &[SegmentInfo],
) -> Option<(EarlyCause, usize)> {
    let segment_bytes = segments.first()?.len_bytes.max(1);
    let DiskSpace { total_bytes, available_bytes } = facts.space;
    let used_bytes = total_bytes.saturating_sub(available_bytes);
    let allowed_bytes = (total_bytes as f64 * rules.force_ratio) as u64;
    let log_bytes: u64 = segments.iter().map(|segment| segment.len_bytes).sum();
    let count = |bytes: u64| bytes.div_ceil(segment_bytes) as usize;
    if facts.space.used_ratio() > rules.force_ratio {
        return Some((EarlyCause::DiskFilling, count(used_bytes.saturating_sub(allowed_bytes)).max(1)));
    }
    if is_short(facts, segments) {
        return Some((EarlyCause::NoRoomForSegment, 1));
    }
    let excess = log_bytes.saturating_sub(rules.max_log_bytes?);
    (excess > 0).then(|| (EarlyCause::LogTooLong, count(excess)))
}

/// Whether the next segment has no room on the disk.
fn is_short(facts: &RetentionFacts, segments: &[SegmentInfo]) -> bool {
    segments.last().is_some_and(|last| facts.space.available_bytes < last.len_bytes)
}

fn is_nearly_full(facts: &RetentionFacts, segments: &[SegmentInfo]) -> bool {
    segments.last().is_some_and(|last| {
        let end = last.base.advance(last.len_bytes);
        end.0.saturating_sub(facts.published.0) < last.len_bytes / NEARLY_FULL_PART
    })
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

    /// A disk of 10,000 bytes; the last segment is half full.
    fn facts(hour: u32, used_ratio: f64, ages_h: &[i64]) -> RetentionFacts {
        let available_bytes = (10_000.0 * (1.0 - used_ratio)).round() as u64;
        RetentionFacts {
            now: WallMs(1000 * HOUR_MS),
            hour,
            asked: false,
            space: DiskSpace { total_bytes: 10_000, available_bytes },
            published: PhysicalOffset((100 * ages_h.len() as u64).saturating_sub(50)),
        }
    }

    fn decided(hour: u32, used_ratio: f64, ages_h: &[i64]) -> RetentionDecision {
        decide(&RetentionRules::default(), facts(hour, used_ratio, ages_h), &segments(ages_h))
    }

    /// What goes when groups have consumed up to `consumed_to`.
    fn goes(decision: &RetentionDecision, consumed_to: u64) -> Option<u64> {
        decision.deletion(PhysicalOffset(consumed_to)).map(|deletion| deletion.before.0)
    }

    #[test]
    fn message_that_waits_spares_its_segment_unless_the_disk_is_full() {
        let at = PhysicalOffset;
        let expired = RetentionDecision { expired_before: Some(at(300)), ..RetentionDecision::default() };
        let before = |decision: RetentionDecision| decision.deletion(at(0)).map(|deletion| deletion.before);
        assert_eq!(before(expired.clone().sparing(at(900))), Some(at(300)));
        assert_eq!(before(expired.clone().sparing(at(150))), Some(at(150)));
        let early = EarlyDeletion {
            cause: EarlyCause::DiskFilling,
            before: at(200),
            oldest_end: at(100),
            unconsumed_too: true,
        };
        let full = RetentionDecision { early: Some(early), ..expired };
        assert_eq!(before(full.clone().sparing(at(50))), Some(at(100)), "the oldest goes, whatever it holds");
        let filling = EarlyDeletion { unconsumed_too: false, ..early };
        assert_eq!(before(RetentionDecision { early: Some(filling), ..full }.sparing(at(50))), None);
    }

    #[test]
    fn expired_segments_go_in_their_hour_and_the_last_stays() {
        // Whether they are consumed or not: that is what the age means.
        assert_eq!(goes(&decided(4, 0.1, &[80, 73, 71, 1]), 0), Some(200));
        assert_eq!(goes(&decided(5, 0.1, &[80, 73, 71, 1]), 400), None);
        assert_eq!(goes(&decided(4, 0.1, &[80]), 100), None);
        assert_eq!(goes(&decided(4, 0.1, &[]), 0), None);
    }

    #[test]
    fn expired_segments_go_at_any_hour_once_the_disk_fills_or_somebody_asks() {
        assert_eq!(goes(&decided(5, 0.76, &[80, 1, 1]), 0), Some(100));
        assert_eq!(goes(&decided(5, 0.76, &[10, 1, 1]), 300), None);
        assert!(decided(5, 0.76, &[1]).tight && !decided(5, 0.74, &[1]).tight);
        let ages = [80, 1, 1];
        let asked = RetentionFacts { asked: true, ..facts(5, 0.1, &ages) };
        assert_eq!(goes(&decide(&RetentionRules::default(), asked, &segments(&ages)), 0), Some(100));
    }

    #[test]
    fn disk_that_is_nearly_full_takes_as_many_consumed_segments_as_it_needs() {
        let decision = decided(5, 0.863, &[10, 5, 4, 3, 1]);
        assert_eq!(goes(&decision, 450), Some(200), "130 bytes too many are two segments");
        assert_eq!(goes(&decision, 199), Some(199), "of which one is consumed");
        assert_eq!(goes(&decision, 99), None, "the oldest is not");
        assert_eq!(decision.refuse_writes, None);
        let early = decision.deletion(PhysicalOffset(450)).unwrap().early;
        assert_eq!(early, Some(EarlyCause::DiskFilling));
        assert_eq!(goes(&decided(5, 0.853, &[80, 80, 1]), 0), Some(200), "what is expired needs no consumer");
    }

    #[test]
    fn full_disk_refuses_writes_and_takes_unconsumed_segments_one_by_one() {
        let decision = decided(5, 0.913, &[10, 5, 1, 1]);
        let cause = decision.refuse_writes.clone().unwrap();
        assert!(cause.contains("91.3 %") && cause.contains("90 %"), "{cause}");
        assert_eq!(goes(&decision, 0), Some(100));
        assert_eq!(goes(&decision, 200), Some(200), "consumed ones go first");
        assert_eq!(goes(&decided(5, 0.913, &[1]), 0), None, "the last never goes");
    }

    #[test]
    fn log_over_its_size_gives_up_what_is_consumed_and_no_more() {
        let ages = [10, 9, 8, 7, 1];
        let rules = RetentionRules { max_log_bytes: Some(250), ..RetentionRules::default() };
        let decision = decide(&rules, facts(5, 0.1, &ages), &segments(&ages));
        assert_eq!(goes(&decision, 450), Some(300));
        assert_eq!(goes(&decision, 120), Some(120));
        assert_eq!(goes(&decision, 0), None);
        let rules = RetentionRules { max_log_bytes: Some(500), ..rules };
        assert_eq!(decide(&rules, facts(5, 0.1, &ages), &segments(&ages)).early, None);
    }

    #[test]
    fn small_disk_makes_room_for_the_next_segment() {
        let ages = [10, 5, 1];
        let space = DiskSpace { total_bytes: 500, available_bytes: 99 };
        let half_full = RetentionFacts { space, ..facts(5, 0.0, &ages) };
        let decision = decide(&RetentionRules::default(), half_full, &segments(&ages));
        assert_eq!((goes(&decision, 250), goes(&decision, 0)), (Some(100), None));
        let nearly_full = RetentionFacts { published: PhysicalOffset(290), ..half_full };
        let decision = decide(&RetentionRules::default(), nearly_full, &segments(&ages));
        assert_eq!(goes(&decision, 0), Some(100), "or no message could be stored any more");
    }

    #[test]
    fn rounds_are_bounded() {
        let rules = RetentionRules { max_segments: 2, ..RetentionRules::default() };
        let ages = [80, 80, 80, 80, 1];
        let decision = decide(&rules, facts(4, 0.95, &ages), &segments(&ages));
        assert_eq!(goes(&decision, 450), Some(200));
    }
}
