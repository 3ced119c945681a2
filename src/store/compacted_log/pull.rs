//! Reading a compacted log: what a pull is answered with as far as messages were copied.
//!
//! RocketMQ: `CompactionLog.getMessage`; unlike there, filters hold here.

use std::ops::{ControlFlow, Range};

use bytes::Bytes;
use tracing::error;

use super::{CompactedLog, Part, Segment};
use crate::store::message_filter::MessageFilter;
use crate::store::pull::{PullLimits, PullStatus, Pulled};
use crate::types::QueueOffset;

/// Reads up to `max_messages` messages that match `filter` from `from` on. `NoMatchedMessage` with a `next` of
/// [`copied_to`](CompactedLog::copied_to) when there is none up to there.
pub fn pull_compacted(
    compacted: &CompactedLog,
    from: QueueOffset,
    max_messages: usize,
    filter: &MessageFilter,
    limits: PullLimits,
) -> Pulled {
    let max_messages = max_messages.clamp(1, limits.max_messages);
    let max_scanned = limits.max_scanned_units.max(max_messages);
    let mut found = Pulled::nothing(PullStatus::NoMatchedMessage, from);
    let mut run = Run::default();
    let (mut scanned, mut filter_bytes, mut is_through) = (0, 0, true);
    compacted.walk(from, |segment, unit| {
        let size = unit.size_bytes as usize;
        let is_full =
            found.count == max_messages || (found.count > 0 && found.bytes + size > limits.max_bytes);
        if is_full || scanned == max_scanned || filter_bytes >= limits.max_filter_bytes {
            is_through = false;
            return ControlFlow::Break(());
        }
        scanned += 1;
        found.next = unit.queue_offset.advance(1);
        let Some(record) = segment.view(&unit) else {
            let (path, at_byte) =
                (compacted.dirs.path(Part::Log, segment.base), unit.position - segment.base);
            error!(path = %path.display(), at_byte, "damaged message of a compacted log left out of a pull");
            return ControlFlow::Continue(());
        };
        let looked = filter.look_at_record(&record, unit.tags_code);
        filter_bytes += looked.bytes;
        if looked.matches {
            run.push(segment, unit.position, size, &mut found.records);
            found.count += 1;
            found.bytes += size;
        }
        ControlFlow::Continue(())
    });
    run.finish(&mut found.records);
    if is_through {
        found.next = found.next.max(compacted.copied_to());
    }
    if found.count > 0 {
        found.status = PullStatus::Found;
    }
    found
}

/// Neighbouring messages, handed out as one slice.
#[derive(Default)]
struct Run {
    of: Option<(Segment, Range<usize>)>,
}

impl Run {
    fn push(&mut self, segment: &Segment, position: u64, size: usize, records: &mut Vec<Bytes>) {
        let at = (position - segment.base) as usize;
        match &mut self.of {
            Some((of, range)) if of.base == segment.base && range.end == at => range.end += size,
            _ => {
                self.finish(records);
                self.of = Some((segment.clone(), at..at + size));
            }
        }
    }

    fn finish(&mut self, records: &mut Vec<Bytes>) {
        records.extend(self.of.take().and_then(|(segment, range)| segment.log.slice(range)));
    }
}
