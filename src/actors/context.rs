//! The context that our actors run in: actix's, and around it what it costs to find out what they do.
//!
//! A future around actix's own counts the turns of an actor and how long they took; an envelope around each message
//! counts what was taken from the mailbox and notes what is handled now. That is two looks at the clock for a turn and
//! some plain stores for a message. How much waits in a mailbox actix does not tell: who wants to know sends a
//! [`Pulse`], and when it is handled, all that was handled meanwhile had been waiting before it.

use std::any::{TypeId, type_name};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use actix::dev::{
    AsyncContextParts, ContextFut, ContextParts, Envelope, EnvelopeProxy, Mailbox, MessageResponse,
    OneshotSender, ToEnvelope,
};
use actix::prelude::{
    Actor, ActorContext, ActorFuture, ActorState, Addr, AsyncContext, Handler, Message, SpawnHandle,
};
use serde_json::Value;

use super::actor_list::{ActorEntry, ActorId, ActorList, short_name, swap_running};
use super::flight_recorder::Handled;

/// Asks an actor how it is. Losing it leaves who asked without an answer: the actor is busy, or has ended.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Pulsed")]
pub struct Pulse;

/// What an actor says of itself.
#[derive(actix::MessageResponse, Clone, Debug)]
pub struct Pulsed {
    /// Messages taken from the mailbox before the [`Pulse`].
    pub handled: u64,
    /// The same by kind, in the order in which the actor met them.
    pub kinds: Vec<(&'static str, u64)>,
    /// What the actor tells beyond that, by [`Observed::facts`].
    pub facts: Value,
}

/// An actor whose state can be looked at.
pub trait Observed: Actor<Context = Context<Self>> + Handler<Pulse> {
    /// What there is to know of this actor at this moment. Not on a message's way; null: nothing beyond its figures.
    fn facts(&self) -> Value {
        Value::Null
    }
}

/// What all our actors have: they answer a [`Pulse`], with facts by the function that may be named, and `start` runs
/// one on this thread, on a list of its own. Type parameters stand before the actor: `observed!([T: Bound] Actor<T>)`.
macro_rules! observed {
    ([$($parameters:tt)*] $actor:ty $(, $facts:path)?) => {
        impl<$($parameters)*> $crate::actors::context::Observed for $actor {
            $(fn facts(&self) -> serde_json::Value {
                $facts(self)
            })?
        }

        impl<$($parameters)*> actix::Handler<$crate::actors::context::Pulse> for $actor {
            type Result = $crate::actors::context::Pulsed;

            fn handle(
                &mut self,
                _: $crate::actors::context::Pulse,
                ctx: &mut <Self as actix::Actor>::Context,
            ) -> Self::Result {
                ctx.pulsed($crate::actors::context::Observed::facts(self))
            }
        }

        impl<$($parameters)*> $actor {
            /// Runs the actor on this thread, on a list of its own.
            #[allow(dead_code, reason = "most actors are alone only in tests")]
            pub fn start(self) -> actix::Addr<Self> {
                $crate::actors::actor_list::ActorList::default().start("", self)
            }
        }
    };
    ($actor:ty $(, $facts:path)?) => {
        $crate::actors::context::observed!([] $actor $(, $facts)?);
    };
}
pub(crate) use observed;

/// Where an actor runs: spawns its futures, knows its address, and counts what it does.
pub struct Context<A: Actor<Context = Self>> {
    parts: ContextParts<A>,
    entry: Arc<ActorEntry>,
    list: ActorList,
    met: MetKinds,
    /// When the message before was handled, or the turn began.
    idle_since: Duration,
    /// The message that is handled now is a [`Pulse`]: looking at an actor leaves no trace in what is looked at.
    is_pulsed: bool,
}

impl<A: Actor<Context = Self>> Context<A> {
    /// Runs `actor` on this thread, with a mailbox that others may have the address of already.
    pub(super) fn run(actor: A, mailbox: Mailbox<A>, entry: Arc<ActorEntry>, list: &ActorList) {
        let ctx = Self {
            parts: ContextParts::new(mailbox.sender_producer()),
            list: list.for_those_started_by(entry.id),
            entry: entry.clone(),
            met: MetKinds::default(),
            idle_since: Duration::ZERO,
            is_pulsed: false,
        };
        entry.figures.set_capacity(mailbox.capacity());
        let id = entry.id;
        let life = ContextFut::new(ctx, actor, mailbox);
        actix::spawn(Turns { life, entry: Some(entry), id, list: list.clone() });
    }

    /// Messages that may wait. Default: 16.
    pub fn set_mailbox_capacity(&mut self, capacity: usize) {
        self.entry.figures.set_capacity(capacity);
        self.parts.set_mailbox_capacity(capacity);
    }

    /// Counts that what this actor looks after has failed and was started again.
    pub fn count_restart(&mut self) {
        self.entry.figures.count_restart();
    }

    /// The list this actor is on, for those whom it starts.
    pub fn actors(&self) -> &ActorList {
        &self.list
    }

    /// The answer to a [`Pulse`], which is not counted itself.
    pub fn pulsed(&mut self, facts: Value) -> Pulsed {
        self.is_pulsed = true;
        let handled = self.entry.figures.uncount_message();
        self.met.uncount::<Pulse>();
        Pulsed { handled, kinds: self.met.counts(&self.entry), facts }
    }

    /// Counts a message that was taken from the mailbox.
    fn taken<M: 'static>(&mut self) {
        let kind = self.met.count::<M>(&self.entry);
        self.entry.figures.message_taken(kind);
    }

    /// Notes that the message taken last is handled, where that is recorded. What follows it in the turn follows at once.
    fn handled(&mut self) {
        if let Some(recorder) = &self.entry.recorder {
            let now = self.list.uptime();
            let took = now.saturating_sub(self.idle_since);
            if !std::mem::take(&mut self.is_pulsed) {
                recorder.record(Handled { ended_at: now, took, kind: self.met.last });
            }
            self.idle_since = now;
        }
    }
}

impl<A: Actor<Context = Self>> ActorContext for Context<A> {
    fn stop(&mut self) {
        self.parts.stop();
    }

    fn terminate(&mut self) {
        self.parts.terminate();
    }

    fn state(&self) -> ActorState {
        self.parts.state()
    }
}

impl<A: Actor<Context = Self>> AsyncContext<A> for Context<A> {
    fn address(&self) -> Addr<A> {
        self.parts.address()
    }

    fn spawn<F>(&mut self, future: F) -> SpawnHandle
    where
        F: ActorFuture<A, Output = ()> + 'static,
    {
        self.parts.spawn(future)
    }

    fn wait<F>(&mut self, future: F)
    where
        F: ActorFuture<A, Output = ()> + 'static,
    {
        self.parts.wait(future);
    }

    fn waiting(&self) -> bool {
        self.parts.waiting()
    }

    fn cancel_future(&mut self, handle: SpawnHandle) -> bool {
        self.parts.cancel_future(handle)
    }
}

impl<A: Actor<Context = Self>> AsyncContextParts<A> for Context<A> {
    fn parts(&mut self) -> &mut ContextParts<A> {
        &mut self.parts
    }
}

/// A message on its way to an actor of ours, with the place its answer goes to.
struct Letter<M: Message> {
    message: Option<M>,
    answer_to: Option<OneshotSender<M::Result>>,
}

impl<A, M> ToEnvelope<A, M> for Context<A>
where
    A: Actor<Context = Self> + Handler<M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn pack(message: M, answer_to: Option<OneshotSender<M::Result>>) -> Envelope<A> {
        Envelope::with_proxy(Box::new(Letter { message: Some(message), answer_to }))
    }
}

impl<A, M> EnvelopeProxy<A> for Letter<M>
where
    A: Actor<Context = Context<A>> + Handler<M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn handle(&mut self, actor: &mut A, ctx: &mut Context<A>) {
        ctx.taken::<M>();
        let answer_to = self.answer_to.take();
        if answer_to.as_ref().is_some_and(OneshotSender::is_closed) {
            return; // as actix: nobody waits for it any more
        }
        if let Some(message) = self.message.take() {
            actor.handle(message, ctx).handle(ctx, answer_to);
            ctx.handled();
        }
    }
}

/// The kinds of messages that an actor met, and how many of each. There are few, and most are as the one before.
#[derive(Default)]
struct MetKinds {
    kinds: Vec<MetKind>,
    last: usize,
}

struct MetKind {
    id: TypeId,
    handled: u64,
}

impl MetKinds {
    /// The place of `M` among the kinds of this actor.
    fn count<M: 'static>(&mut self, entry: &ActorEntry) -> usize {
        let id = TypeId::of::<M>();
        if self.kinds.get(self.last).is_none_or(|last| last.id != id) {
            let met = self.kinds.iter().position(|kind| kind.id == id);
            self.last = met.unwrap_or_else(|| {
                entry.meets(short_name(type_name::<M>()));
                self.kinds.push(MetKind { id, handled: 0 });
                self.kinds.len() - 1
            });
        }
        self.kinds[self.last].handled += 1;
        self.last
    }

    fn uncount<M: 'static>(&mut self) {
        let id = TypeId::of::<M>();
        if let Some(kind) = self.kinds.iter_mut().find(|kind| kind.id == id) {
            kind.handled = kind.handled.saturating_sub(1);
        }
    }

    fn counts(&self, entry: &ActorEntry) -> Vec<(&'static str, u64)> {
        let counts = entry.met().into_iter().zip(self.kinds.iter().map(|kind| kind.handled));
        counts.filter(|(_, handled)| *handled > 0).collect()
    }
}

/// An actor's life, turn by turn.
struct Turns<A: Actor<Context = Context<A>>> {
    life: ContextFut<A, Context<A>>,
    /// Between turns; in a turn it tells the thread whose turn it is.
    entry: Option<Arc<ActorEntry>>,
    id: ActorId,
    list: ActorList,
}

impl<A: Actor<Context = Context<A>>> Future for Turns<A> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<()> {
        let began = self.list.uptime();
        let outer = swap_running(self.entry.take());
        let ctx = self.life.ctx();
        ctx.idle_since = began;
        ctx.entry.figures.turn_begins(began);
        #[cfg(any(test, feature = "testing"))]
        let handled_before = ctx.entry.figures.handled();
        let life = Pin::new(&mut self.life).poll(task);
        let took = self.list.uptime() - began;
        let entry = &self.life.ctx().entry;
        entry.figures.turn_ends(took);
        #[cfg(any(test, feature = "testing"))]
        super::turn_watch::turn_ended(entry, entry.figures.handled() - handled_before);
        self.entry = swap_running(outer);
        life
    }
}

impl<A: Actor<Context = Context<A>>> Drop for Turns<A> {
    fn drop(&mut self) {
        self.list.leave(self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use actix::prelude::*;

    use super::Context;
    use super::*;
    use crate::actors::threads::Thread;

    #[derive(Message)]
    #[rtype(result = "u64")]
    struct Add(u64);

    /// Holds the thread until it is let go.
    #[derive(Message)]
    #[rtype(result = "()")]
    struct Hold(std::sync::mpsc::Receiver<()>);

    struct Sum(u64);

    impl Actor for Sum {
        type Context = Context<Self>;

        fn started(&mut self, ctx: &mut Self::Context) {
            ctx.set_mailbox_capacity(64);
        }
    }

    impl Handler<Add> for Sum {
        type Result = u64;

        fn handle(&mut self, Add(number): Add, _: &mut Self::Context) -> u64 {
            self.0 += number;
            self.0
        }
    }

    impl Handler<Hold> for Sum {
        type Result = ();

        fn handle(&mut self, Hold(until): Hold, _: &mut Self::Context) {
            until.recv().unwrap();
        }
    }

    fn sum_so_far(sum: &Sum) -> Value {
        serde_json::json!({ "sum": sum.0 })
    }

    observed!(Sum, sum_so_far);

    #[actix::test]
    async fn messages_are_counted_by_kind_and_pulses_are_not() {
        let list = ActorList::default();
        let sum = list.start("", Sum(0));
        for number in [1, 2, 4] {
            sum.send(Add(number)).await.unwrap();
        }
        for _ in 0..2 {
            let pulsed = sum.send(Pulse).await.unwrap();
            assert_eq!((pulsed.handled, pulsed.kinds), (3, vec![("Add", 3)]));
            assert_eq!(pulsed.facts, serde_json::json!({ "sum": 7 }));
        }
        let entries = list.entries(|_| true);
        let seen = entries[0].figures.seen(list.uptime());
        assert_eq!((seen.handled, seen.capacity), (3, 64));
        assert!(seen.turns >= 4 && seen.busy >= seen.longest_turn && seen.longest_turn > Duration::ZERO);
        assert_eq!(seen.turn, None, "it is between two turns");
    }

    #[actix::test]
    async fn message_that_nobody_waits_for_any_more_is_counted_and_not_handled() {
        let sum = ActorList::default().start("", Sum(0));
        drop(sum.send(Add(1))); // it is in the mailbox already
        let pulsed = sum.send(Pulse).await.unwrap();
        assert_eq!((pulsed.handled, pulsed.facts), (1, serde_json::json!({ "sum": 0 })));
    }

    #[actix::test]
    async fn what_an_actor_handles_now_is_seen_from_outside() {
        let list = ActorList::default();
        let thread = Arbiter::new();
        let sum = list.start_on(&Thread::Arbiter(thread.handle()), "held", || Sum(0));
        sum.send(Add(1)).await.unwrap();
        let (let_go, until) = std::sync::mpsc::channel();
        let held = sum.send(Hold(until));
        let entry = list.entries(|_| true).remove(0);
        assert_eq!(entry.name(), "Sum held");
        let mut held = Box::pin(held);
        assert!(futures::poll!(&mut held).is_pending());
        let turn = loop {
            match entry.figures.seen(list.uptime()).turn {
                Some(turn) if entry.kind_name(turn.kind) == Some("Hold") => break turn,
                _ => tokio::task::yield_now().await,
            }
        };
        let later = entry.figures.seen(list.uptime()).turn.unwrap();
        assert!(later.lasts >= turn.lasts);
        let_go.send(()).unwrap();
        held.await.unwrap();
        thread.stop();
    }

    #[actix::test]
    async fn actor_that_ends_leaves_the_list() {
        let list = ActorList::default();
        let sum = list.start("", Sum(0));
        sum.send(Add(1)).await.unwrap();
        assert_eq!(list.entries(|_| true).len(), 1);
        drop(sum);
        while !list.entries(|_| true).is_empty() {
            tokio::task::yield_now().await;
        }
    }
}
