//! Where events wait for the host of their extension: sources put them in from their threads, the host takes lots out.
//!
//! Waking a thread costs more than all else that an event costs. So a source wakes the host only when it has nothing to
//! do; a host at work comes back by itself. Nobody takes a lock, and nobody waits for the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use actix::Message;

use super::events::{BrokerEvents, Told};

/// Stored messages that an extension is handed at once. It loses them together when it panics at one of them.
const LOT_EVENTS: usize = 512;

/// Events wait. Sent when the host has nothing to do, when half the room is taken, and for each event that is not a stored
/// message. Losing it leaves them waiting until the next one.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct EventsWait;

/// The end of the sources.
#[derive(Clone, Debug)]
pub struct EventPost {
    sender: mpsc::Sender<Told>,
    host_comes: Arc<AtomicBool>,
}

/// The end of the host.
#[derive(Debug)]
pub struct EventInbox {
    receiver: mpsc::Receiver<Told>,
    /// Taken from the receiver, to see what it is.
    next: Option<Told>,
    host_comes: Arc<AtomicBool>,
}

/// An inbox with nothing in it, and how to put events into it.
pub fn event_inbox() -> (EventPost, EventInbox) {
    let (sender, receiver) = mpsc::channel();
    let host_comes = Arc::new(AtomicBool::new(false));
    (EventPost { sender, host_comes: host_comes.clone() }, EventInbox { receiver, next: None, host_comes })
}

impl EventPost {
    /// Puts events in. True: the host has nothing to do, and is to be told that they wait.
    pub fn put(&self, told: Told) -> bool {
        // Events for a host that has ended are lost with it.
        let _ = self.sender.send(told);
        !self.host_comes.swap(true, Ordering::AcqRel)
    }
}

impl EventInbox {
    /// The next events, for one handing over: stored messages together, any other event alone, so that whatever an
    /// extension fails with takes little else along. When there is nothing, the host is told of what comes next.
    pub fn take_lot(&mut self) -> Option<BrokerEvents> {
        if self.is_drained() {
            // A swap: the look behind it could overtake a store.
            self.host_comes.swap(false, Ordering::AcqRel);
            // What was put in before that, by somebody who thought that the host would come.
            if self.is_drained() {
                return None;
            }
            self.host_comes.store(true, Ordering::Release);
        }
        let mut lot = Vec::new();
        let mut events = 0;
        while events < LOT_EVENTS
            && let Some(told) = self.next.take().or_else(|| self.receiver.try_recv().ok())
        {
            if matches!(told, Told::One(_)) {
                if lot.is_empty() {
                    lot.push(told);
                } else {
                    self.next = Some(told);
                }
                break;
            }
            events += told.count();
            lot.push(told);
        }
        Some(BrokerEvents(lot))
    }

    /// Whether nothing waits.
    pub fn is_drained(&mut self) -> bool {
        if self.next.is_none() {
            self.next = self.receiver.try_recv().ok();
        }
        self.next.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::extensions::events::{BrokerEvent, StoredAt, StoredMessages};
    use crate::types::{PhysicalOffset, QueueId, QueueOffset};

    fn stored(messages: usize) -> Told {
        let (queue_offset, physical_offset) = (QueueOffset(0), PhysicalOffset(0));
        let at = StoredAt { queue_offset, physical_offset, stored_at_ms: 0 };
        Told::Stored(StoredMessages { topic: "t".into(), queue_id: QueueId(0), messages: vec![at; messages] })
    }

    fn gone() -> Told {
        Told::One(BrokerEvent::TopicDeleted { topic: "t".into() })
    }

    fn lots(inbox: &mut EventInbox) -> Vec<usize> {
        std::iter::from_fn(|| inbox.take_lot()).map(|lot| lot.len()).collect()
    }

    #[test]
    fn stored_messages_are_handed_over_together_and_other_events_alone() {
        let (post, mut inbox) = event_inbox();
        for told in [stored(2), stored(3), gone(), gone(), stored(1), stored(1), gone()] {
            post.put(told);
        }
        assert_eq!(lots(&mut inbox), [5, 1, 1, 2, 1]);
    }

    #[test]
    fn lot_is_closed_when_it_is_large() {
        let (post, mut inbox) = event_inbox();
        for told in [stored(LOT_EVENTS - 1), stored(3), stored(1), stored(1)] {
            post.put(told);
        }
        assert_eq!(inbox.take_lot().map(|lot| lot.len()), Some(LOT_EVENTS + 2));
        assert!(!inbox.is_drained());
        assert_eq!(inbox.take_lot().map(|lot| lot.len()), Some(2));
        assert!(inbox.is_drained());
    }

    #[test]
    fn host_is_told_only_when_it_has_found_nothing() {
        let (post, mut inbox) = event_inbox();
        assert!(post.put(stored(1)));
        assert!(!post.clone().put(stored(1)));
        assert!(inbox.take_lot().is_some());
        assert!(!post.put(stored(1)), "it looks again before it rests");
        assert!(inbox.take_lot().is_some());
        assert!(inbox.take_lot().is_none());
        assert!(post.put(gone()));
    }

    #[test]
    fn sources_on_many_threads_lose_nothing_and_keep_their_order() {
        const SOURCES: u32 = 4;
        const EACH: u64 = 2_000;
        let (post, mut inbox) = event_inbox();
        let (wake, woken) = mpsc::channel();
        let sources: Vec<_> = (0..SOURCES)
            .map(|source| {
                let (post, wake) = (post.clone(), wake.clone());
                std::thread::spawn(move || {
                    for number in 0..EACH {
                        let queue_offset = QueueOffset(number);
                        let at =
                            StoredAt { queue_offset, physical_offset: PhysicalOffset(0), stored_at_ms: 0 };
                        let (queue_id, messages) = (QueueId(source), vec![at]);
                        let told = StoredMessages { topic: "t".into(), queue_id, messages };
                        if post.put(Told::Stored(told)) {
                            wake.send(()).unwrap();
                        }
                    }
                })
            })
            .collect();
        drop(wake);
        let mut next = [0; SOURCES as usize];
        // As the host does: it looks when it is woken, until it finds nothing. Who is not woken again has missed one.
        while woken.recv().is_ok() {
            for event in std::iter::from_fn(|| inbox.take_lot()).flatten() {
                let BrokerEvent::MessageStored { queue_id, queue_offset, .. } = event else { continue };
                let next = &mut next[queue_id.0 as usize];
                assert_eq!(queue_offset.0, *next);
                *next += 1;
            }
        }
        sources.into_iter().for_each(|source| source.join().unwrap());
        assert_eq!(next, [EACH; SOURCES as usize]);
    }
}
