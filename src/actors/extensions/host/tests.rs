use std::net::SocketAddr;

use super::*;
use crate::actors::connection::Service;
use crate::actors::extensions::door::Door;
use crate::actors::extensions::events::{
    BrokerEvent, BrokerEvents, EventKind, StoredAt, StoredMessages, WhenBehind,
};
use crate::actors::extensions::stream::{EventStream, EventTap};
use crate::actors::group_table::{GroupMap, GroupTable};
use crate::actors::request::{ConnectionId, Reply, Request};
use crate::actors::topic_table::{TopicMap, TopicTable};
use crate::testing::{
    Act, MailboxScript, RuntimeClock, Taken as Heard, fake_mailbox, pass, settle, stop_time,
};
use crate::types::{PhysicalOffset, QueueId, QueueOffset};

/// A broker that is asked nothing.
struct Unasked;

impl Service for Unasked {
    fn serve(&self, _: &mut Vec<Request>, _: &mut Vec<Reply>) {
        unreachable!("these extensions ask nothing");
    }
}

struct Bench {
    tap: EventTap,
    host: Addr<ExtensionHost>,
    told: Heard<BrokerEvents>,
}

/// A host whose extension has room for `capacity` events, and does with lots as the script says.
async fn bench(
    capacity: usize,
    script: impl FnOnce(MailboxScript<BrokerEvents>) -> MailboxScript<BrokerEvents>,
) -> Bench {
    stop_time().await;
    let (listener, told) = script(fake_mailbox::<BrokerEvents>()).start();
    let kinds = [EventKind::MessageStored, EventKind::TopicDeleted];
    let start = move |hooks: &mut Hooks| {
        hooks.on_events(&kinds, listener.clone(), WhenBehind::DropAndCount, capacity);
        Ok(())
    };
    let peer = SocketAddr::from(([10, 0, 0, 1], 10_911));
    let broker = BrokerHandle {
        extension: "e",
        door: Door::new(Arc::new(Unasked), peer, RuntimeClock::shared()).start(),
        id: ConnectionId::next(),
        topics: TopicTable::new(TopicMap::default()).1,
        groups: GroupTable::new(GroupMap::default()).1,
        clock: RuntimeClock::shared(),
    };
    let plan = ExtensionPlan { name: "e", start: Arc::new(start) };
    let (host, hosted) = ExtensionHost::start_extension(plan, broker).unwrap();
    let host = host.start();
    let HostedStream { kinds, level, post } = hosted.stream.unwrap();
    let tap = EventTap::default();
    tap.open(vec![EventStream { kinds, level, post, host: host.clone().recipient() }]);
    Bench { tap, host, told }
}

impl Bench {
    fn store(&self, messages: u64) {
        let at = |offset| StoredAt {
            queue_offset: QueueOffset(offset),
            physical_offset: PhysicalOffset(0),
            stored_at_ms: 0,
        };
        let messages = (0..messages).map(at).collect();
        self.tap.tell_stored(StoredMessages { topic: "t".into(), queue_id: QueueId(0), messages });
    }

    fn delete(&self) {
        self.tap.tell(EventKind::TopicDeleted, || BrokerEvent::TopicDeleted { topic: "t".into() });
    }

    /// Sizes of the lots that were handed over since this was asked last.
    async fn lots(&mut self) -> Vec<usize> {
        settle().await;
        std::iter::from_fn(|| self.told.try_recv().ok()).map(|lot| lot.len()).collect()
    }

    async fn figures(&self) -> StreamFigures {
        self.host.send(ObserveExtension).await.unwrap().events
    }
}

#[actix::test]
async fn first_message_is_told_at_once_and_those_behind_it_gather() {
    let mut bench = bench(1_000, |listener| listener).await;
    bench.store(1);
    assert_eq!(bench.lots().await, [1]);
    for _ in 0..5 {
        bench.store(3);
        assert_eq!(bench.lots().await, [0; 0]);
    }
    pass(GATHERING).await;
    assert_eq!(bench.lots().await, [15]);
    pass(GATHERING).await;
    bench.store(1);
    assert_eq!(bench.lots().await, [1], "nothing had come for a while");
    assert_eq!(bench.figures().await, StreamFigures { waiting: 0, offered: 17, dropped: 0 });
}

#[actix::test]
async fn what_is_rare_and_half_the_room_do_not_wait_for_more() {
    let mut bench = bench(10, |listener| listener).await;
    bench.store(1);
    assert_eq!(bench.lots().await, [1]);
    bench.store(2);
    bench.delete();
    assert_eq!(bench.lots().await, [2, 1], "in their order");
    bench.store(4);
    assert_eq!(bench.lots().await, [0; 0]);
    bench.store(1);
    assert_eq!(bench.lots().await, [5]);
    assert_eq!(bench.figures().await, StreamFigures { waiting: 0, offered: 9, dropped: 0 });
}

#[actix::test]
async fn what_comes_while_the_extension_is_at_work_is_told_behind_it() {
    let busy = Duration::from_secs(5);
    let mut bench = bench(10, |listener| listener.first(Act::AnswerAfter(busy, ())).answers(|_| ())).await;
    bench.store(2);
    assert_eq!(bench.lots().await, [2]);
    bench.store(7);
    bench.store(4);
    bench.delete();
    assert_eq!(bench.lots().await, [0; 0], "one lot at a time");
    // Events are dropped, not lots: there is room for one of the last five.
    assert_eq!(bench.figures().await, StreamFigures { waiting: 10, offered: 14, dropped: 4 });
    pass(busy).await;
    assert_eq!(bench.lots().await, [8], "half the room was taken, so it waits for no more");
    assert_eq!(bench.figures().await, StreamFigures { waiting: 0, offered: 14, dropped: 4 });
}

#[actix::test]
async fn half_the_room_that_is_still_taken_after_a_lot_waits_for_no_more() {
    let busy = Duration::from_secs(5);
    let mut bench = bench(2, |listener| listener.first(Act::AnswerAfter(busy, ())).answers(|_| ())).await;
    bench.store(1);
    assert_eq!(bench.lots().await, [1]);
    bench.store(1);
    pass(busy).await;
    assert_eq!(bench.lots().await, [1]);
}

#[actix::test]
async fn events_of_a_lot_that_the_extension_fails_with_are_counted_as_dropped() {
    let mut bench = bench(10, |listener| listener.first(Act::Drop).answers(|_| ())).await;
    bench.store(3);
    assert_eq!(bench.lots().await, [3]);
    bench.store(2);
    bench.store(2);
    assert_eq!(bench.figures().await, StreamFigures { waiting: 4, offered: 7, dropped: 3 });
    assert!(!bench.host.send(ObserveExtension).await.unwrap().running);
    pass(FIRST_PAUSE).await;
    assert_eq!(bench.lots().await, [4], "what waits is kept");
    assert_eq!(bench.figures().await, StreamFigures { waiting: 0, offered: 7, dropped: 3 });
}

#[actix::test]
async fn stopped_extension_is_told_nothing_more() {
    let mut bench = bench(10, |listener| listener.first(Act::AnswerAfter(GATHERING, ()))).await;
    bench.store(1);
    assert_eq!(bench.lots().await, [1]);
    bench.store(1);
    bench.host.send(StopExtension).await.unwrap();
    bench.delete();
    pass(GATHERING * 3).await;
    assert_eq!(bench.lots().await, [0; 0]);
}
