//! Which keys one group has marked as consumed within its window: pure state, told of time.

use crate::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;

/// The keys of a group.
#[derive(Debug, Default)]
pub struct KeyWindow {
    marked: HashMap<Arc<str>, i64>,
    /// Oldest first. An entry whose time is not that in `marked` is void: its key was marked again.
    order: VecDeque<(i64, Arc<str>)>,
}

impl KeyWindow {
    /// When the key was marked, if that was at `begins_at_ms` or later.
    pub fn marked_at(&self, key: &str, begins_at_ms: i64) -> Option<i64> {
        self.marked.get(key).copied().filter(|at| *at >= begins_at_ms)
    }

    /// Marks a key, unless it is marked already: then it says when, and nothing changes.
    pub fn mark(&mut self, key: &str, now_ms: i64, begins_at_ms: i64) -> Option<i64> {
        let before = self.marked_at(key, begins_at_ms);
        if before.is_none() {
            let key: Arc<str> = key.into();
            self.order.push_back((now_ms, key.clone()));
            self.marked.insert(key, now_ms);
        }
        before
    }

    /// Undoes a mark that could not be stored.
    pub fn unmark(&mut self, key: &str) {
        self.marked.remove(key);
    }

    /// Forgets what was marked before `begins_at_ms`, and the oldest of more than `max`; returns them, `at_most` of them.
    pub fn forget(&mut self, begins_at_ms: i64, max: usize, at_most: usize) -> Vec<Arc<str>> {
        let mut forgotten = Vec::new();
        while forgotten.len() < at_most
            && let Some((at_ms, _)) = self.order.front()
            && (*at_ms < begins_at_ms || self.marked.len() > max)
            && let Some((at_ms, key)) = self.order.pop_front()
        {
            if self.marked.get(&key) == Some(&at_ms) {
                self.marked.remove(&key);
                forgotten.push(key);
            }
        }
        forgotten
    }

    pub fn len(&self) -> usize {
        self.marked.len()
    }

    pub fn is_empty(&self) -> bool {
        self.marked.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn key_is_marked_once_within_its_window() {
        let mut window = KeyWindow::default();
        assert_eq!(window.mark("a", 10, 0), None);
        assert_eq!(window.mark("a", 20, 5), Some(10), "the first mark counts");
        assert_eq!((window.marked_at("a", 10), window.marked_at("a", 11)), (Some(10), None));
        assert_eq!(window.mark("a", 30, 11), None, "it had left the window");
        assert_eq!(window.forget(25, 9, 9), Vec::<Arc<str>>::new(), "and is marked anew");
        assert_eq!(window.forget(31, 9, 9), ["a".into()]);
        assert!(window.is_empty());
    }

    #[test]
    fn oldest_are_forgotten_where_there_are_too_many() {
        let mut window = KeyWindow::default();
        for (n, key) in ["a", "b", "c", "d"].into_iter().enumerate() {
            window.mark(key, n as i64, 0);
        }
        assert_eq!(window.forget(0, 1, 2), ["a".into(), "b".into()], "no more than are asked for");
        assert_eq!(window.forget(0, 1, 9), ["c".into()]);
        assert_eq!(window.len(), 1);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Mark(u8),
        Unmark(u8),
        Forget(i64, usize),
        Pass(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..8u8).prop_map(Step::Mark),
            1 => (0..8u8).prop_map(Step::Unmark),
            1 => (0..30i64, 0..9usize).prop_map(|(age, max)| Step::Forget(age, max)),
            2 => (1..10i64).prop_map(Step::Pass),
        ]
    }

    proptest! {
        /// Behaves like a map from keys to times.
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec(step(), 1..80), width in 1..30i64) {
            let (mut window, mut model) = (KeyWindow::default(), BTreeMap::<String, i64>::new());
            let mut now = 100;
            for step in steps {
                match step {
                    Step::Mark(key) => {
                        let key = key.to_string();
                        let known = model.get(&key).copied().filter(|at| *at >= now - width);
                        prop_assert_eq!(window.mark(&key, now, now - width), known);
                        if known.is_none() {
                            model.insert(key, now);
                        }
                    }
                    Step::Unmark(key) => {
                        window.unmark(&key.to_string());
                        model.remove(&key.to_string());
                    }
                    Step::Forget(age, max) => {
                        for key in window.forget(now - age, max, usize::MAX) {
                            model.remove(&*key);
                        }
                        prop_assert!(model.values().all(|at| *at >= now - age));
                        prop_assert!(window.len() <= max);
                    }
                    Step::Pass(ms) => now += ms,
                }
                prop_assert_eq!(window.len(), model.len());
                for key in 0..8u8 {
                    let key = key.to_string();
                    prop_assert_eq!(window.marked_at(&key, 0), model.get(&key).copied());
                }
            }
        }
    }
}
