//! The flight recorder of an actor: the last messages it handled, when, and how long each took.
//!
//! A ring of pairs of numbers that one thread writes and anybody reads, also while the actor is stuck or has just
//! panicked. It is made when the first message is handled, so that actors that do nothing keep nothing. Who reads while
//! it is written may see one message with the time of another.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bits of the time that a message took, in nanoseconds: two years. Above them is its kind.
const TOOK_BITS: u32 = 56;
const TOOK_MASK: u64 = (1 << TOOK_BITS) - 1;

/// One message that was handled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handled {
    /// On the clock of the list of actors.
    pub ended_at: Duration,
    pub took: Duration,
    /// Its place among the kinds that the actor met.
    pub kind: usize,
}

#[derive(Default)]
struct Slot {
    ended_ns: AtomicU64,
    kind_and_took: AtomicU64,
}

/// See the [module](self).
pub struct FlightRecorder {
    messages: usize,
    slots: OnceLock<Box<[Slot]>>,
    written: AtomicU64,
}

impl FlightRecorder {
    /// Keeps the last `messages`; `None`: that is none.
    pub fn of(messages: usize) -> Option<Self> {
        (messages > 0).then(|| Self { messages, slots: OnceLock::new(), written: AtomicU64::new(0) })
    }

    /// Called by the thread of the actor alone.
    pub(super) fn record(&self, handled: Handled) {
        let slots = self.slots.get_or_init(|| (0..self.messages).map(|_| Slot::default()).collect());
        let written = self.written.load(Ordering::Relaxed);
        let slot = &slots[(written % slots.len() as u64) as usize];
        let took = (handled.took.as_nanos() as u64).min(TOOK_MASK);
        slot.ended_ns.store(handled.ended_at.as_nanos() as u64, Ordering::Relaxed);
        slot.kind_and_took.store((handled.kind as u64) << TOOK_BITS | took, Ordering::Relaxed);
        self.written.store(written + 1, Ordering::Release);
    }

    /// What is kept, oldest first.
    pub fn seen(&self) -> Vec<Handled> {
        let Some(slots) = self.slots.get() else { return Vec::new() };
        let (written, len) = (self.written.load(Ordering::Acquire), slots.len() as u64);
        let read = |number: u64| {
            let slot = &slots[(number % len) as usize];
            let packed = slot.kind_and_took.load(Ordering::Relaxed);
            Handled {
                ended_at: Duration::from_nanos(slot.ended_ns.load(Ordering::Relaxed)),
                took: Duration::from_nanos(packed & TOOK_MASK),
                kind: (packed >> TOOK_BITS) as usize,
            }
        };
        (written.saturating_sub(len)..written).map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn recorder_of_nothing_is_none_and_one_without_messages_is_empty() {
        assert!(FlightRecorder::of(0).is_none());
        assert_eq!(FlightRecorder::of(4).unwrap().seen(), []);
    }

    proptest! {
        #[test]
        fn the_last_messages_are_kept_in_order(len in 1..8_usize, took in prop::collection::vec(0..1_000_000_u64, 0..30)) {
            let recorder = FlightRecorder::of(len).unwrap();
            let message = |(number, took): (usize, &u64)| Handled {
                ended_at: Duration::from_micros(number as u64),
                took: Duration::from_nanos(*took),
                kind: number % 200,
            };
            let all: Vec<_> = took.iter().enumerate().map(message).collect();
            for handled in &all {
                recorder.record(*handled);
            }
            prop_assert_eq!(recorder.seen(), &all[all.len().saturating_sub(len)..]);
        }
    }
}
