//! Who looks at the turns of a thread's actors, in builds for tests: a simulation that bounds what waits in a mailbox.

use std::cell::RefCell;

use super::actor_list::ActorEntry;

type Watcher = Box<dyn FnMut(&ActorEntry, u64)>;

thread_local! {
    static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
}

/// While it lives, turns of this thread are told.
#[derive(Debug)]
pub struct Watched(());

/// `watcher` is told of each turn that has ended whose it was, and how many messages it took from the mailbox. A turn
/// empties the mailbox: where nobody else runs meanwhile, so many had been waiting.
pub fn watch_turns(watcher: impl FnMut(&ActorEntry, u64) + 'static) -> Watched {
    WATCHER.with_borrow_mut(|current| *current = Some(Box::new(watcher)));
    Watched(())
}

impl Drop for Watched {
    fn drop(&mut self) {
        WATCHER.with_borrow_mut(|current| *current = None);
    }
}

pub(super) fn turn_ended(entry: &ActorEntry, taken: u64) {
    // Actors that are dropped with their thread have turns no more.
    let _ = WATCHER.try_with(|watcher| {
        if let Ok(mut watcher) = watcher.try_borrow_mut()
            && let Some(watcher) = watcher.as_mut()
        {
            watcher(entry, taken);
        }
    });
}
