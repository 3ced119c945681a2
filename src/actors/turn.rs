//! The end of an actor's turn.
//!
//! actix empties the mailbox first and polls an actor's futures after it. A future that never ends is so
//! called once per turn, behind the last message: the place to do once what the messages of the turn
//! only noted down. That is how every hop batches without waiting.

use std::pin::Pin;
use std::task::{Context as Task, Poll};

use actix::prelude::*;

use super::context::Context;

/// An actor that gathers during a turn and acts at its end.
pub trait ActsAtTurnEnd: Actor<Context = Context<Self>> {
    /// Called once after the messages of a turn, and whenever something else woke the actor. Timers of the actor come
    /// behind it: what they want done they do themselves.
    fn turn_end(&mut self, ctx: &mut Self::Context);
}

/// The future to spawn in `started`. It keeps the actor alive: such an actor is stopped by a message.
pub struct TurnEnd;

impl<A: ActsAtTurnEnd> ActorFuture<A> for TurnEnd {
    type Output = ();

    fn poll(self: Pin<&mut Self>, actor: &mut A, ctx: &mut A::Context, _: &mut Task<'_>) -> Poll<()> {
        actor.turn_end(ctx);
        Poll::Pending
    }
}
