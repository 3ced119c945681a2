//! Which sends of a topic were stored a short while ago, by the unique key that their client gave them.

use std::collections::VecDeque;

use crate::actors::request::Kept;
use crate::collections::HashMap;
pub use crate::protocol::key_digest::KeyDigest;
use crate::types::{PhysicalOffset, QueueId, QueueOffset};

/// Where the messages of a send lie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownSend {
    pub queue_id: QueueId,
    pub queue_offset: QueueOffset,
    pub physical_offsets: Vec<PhysicalOffset>,
    pub stored_at_ms: i64,
    pub kept: Kept,
}

/// What to do with a send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Store it; its fate is to be told.
    New,
    /// The same is being stored this moment.
    UnderWay,
    Known(KnownSend),
}

/// The sends of one topic: under way, and stored within the window.
#[derive(Debug)]
pub struct Window {
    sends: HashMap<KeyDigest, Option<KnownSend>>,
    /// What is stored, oldest first.
    order: VecDeque<(i64, KeyDigest)>,
    /// Most sends remembered; beyond, the oldest are forgotten before their time.
    max: usize,
}

impl Window {
    pub fn new(max: usize) -> Self {
        Self { sends: HashMap::default(), order: VecDeque::new(), max }
    }

    /// Takes a send that is to be stored; a new one counts as under way from now on.
    pub fn admit(&mut self, key: KeyDigest, now_ms: i64, window_ms: i64) -> Admission {
        self.forget_before(now_ms.saturating_sub(window_ms));
        match self.sends.get(&key) {
            Some(Some(known)) => Admission::Known(known.clone()),
            Some(None) => Admission::UnderWay,
            None => {
                self.sends.insert(key, None);
                Admission::New
            }
        }
    }

    /// A send is stored: under way before, or found in the log.
    pub fn stored(&mut self, key: KeyDigest, known: KnownSend) {
        self.order.push_back((known.stored_at_ms, key));
        self.sends.insert(key, Some(known));
        while self.order.len() > self.max {
            self.forget_oldest();
        }
    }

    /// A send that was under way is not stored: the next with its key is new.
    pub fn refused(&mut self, key: KeyDigest) {
        if self.sends.get(&key) == Some(&None) {
            self.sends.remove(&key);
        }
    }

    /// How many stored sends are remembered.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Forgets what was stored before a time. Found in the log queue by queue, sends may not lie in the order of time:
    /// some are then remembered for longer.
    fn forget_before(&mut self, begins_at_ms: i64) {
        while self.order.front().is_some_and(|(at_ms, _)| *at_ms < begins_at_ms) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((at_ms, key)) = self.order.pop_front() else { return };
        let is_it =
            |known: &Option<KnownSend>| known.as_ref().is_some_and(|known| known.stored_at_ms == at_ms);
        if self.sends.get(&key).is_some_and(is_it) {
            self.sends.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(n: u8) -> KeyDigest {
        KeyDigest::of(&[n])
    }

    fn known(offset: u64, stored_at_ms: i64) -> KnownSend {
        KnownSend {
            queue_id: QueueId(1),
            queue_offset: QueueOffset(offset),
            physical_offsets: vec![PhysicalOffset(offset * 100)],
            stored_at_ms,
            kept: Kept::Promised,
        }
    }

    #[test]
    fn send_is_known_for_as_long_as_the_window() {
        let mut window = Window::new(10);
        assert_eq!(window.admit(key(1), 1_000, 500), Admission::New);
        assert_eq!(window.admit(key(1), 1_001, 500), Admission::UnderWay);
        window.stored(key(1), known(7, 1_002));
        assert_eq!(window.admit(key(1), 1_502, 500), Admission::Known(known(7, 1_002)));
        assert_eq!(window.admit(key(1), 1_503, 500), Admission::New);
    }

    #[test]
    fn refused_send_may_be_sent_again() {
        let mut window = Window::new(10);
        window.admit(key(1), 0, 500);
        window.refused(key(1));
        assert_eq!(window.admit(key(1), 0, 500), Admission::New);
        window.stored(key(1), known(0, 0));
        window.refused(key(1));
        assert_eq!(window.admit(key(1), 0, 500), Admission::Known(known(0, 0)), "what is stored stays so");
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let mut window = Window::new(2);
        for n in 0..4 {
            window.admit(key(n), 0, 500);
            window.stored(key(n), known(n.into(), 0));
        }
        assert_eq!(window.len(), 2);
        assert_eq!(window.admit(key(1), 0, 500), Admission::New);
        assert_eq!(window.admit(key(3), 0, 500), Admission::Known(known(3, 0)));
    }

    proptest! {
        /// Against a list of (key, stored at): a key is stored at most once in any window.
        #[test]
        fn nothing_is_stored_twice_within_the_window(steps in prop::collection::vec((0..5u8, 0..300i64, any::<bool>()), 1..80)) {
            let mut window = Window::new(1_000);
            let (mut now_ms, mut stored) = (0, Vec::<(u8, i64)>::new());
            for (n, wait, refuse) in steps {
                now_ms += wait;
                let last = stored.iter().rev().find(|(key, _)| *key == n).map(|(_, at)| *at);
                match window.admit(key(n), now_ms, 500) {
                    Admission::Known(known) => prop_assert_eq!(Some(known.stored_at_ms), last),
                    Admission::New if refuse => window.refused(key(n)),
                    Admission::New => {
                        prop_assert!(last.is_none_or(|at| now_ms - at > 500));
                        stored.push((n, now_ms));
                        window.stored(key(n), known(0, now_ms));
                    }
                    Admission::UnderWay => prop_assert!(false, "nothing is left under way"),
                }
            }
        }
    }
}
