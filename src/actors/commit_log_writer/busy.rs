//! Writes the commit log while there is much to write, on a thread beside that of queues and connections.
//!
//! - Owns: the write half of the log, from [`TakeOver`] to [`HandBack`].
//! - Takes: [`TakeOver`], [`Relayed`], [`HandBack`].
//! - Sends: [`BatchAppended`](super::BatchAppended), [`LogPublished`](super::LogPublished) and
//!   [`FlushWanted`](crate::actors::flusher::FlushWanted), as the writer does; [`LittleToWrite`] and [`HandedBack`] to it.
//! - Fails: as the writer does.
//! - Invariants: what is relayed is handled in its order, and all of it before the write half goes back.

use actix::prelude::*;
use serde_json::{Value, json};

use super::{
    BusyRules, CommitLogWriter, HandBack, HandedBack, LittleToWrite, Relayed, TakeOver, Turn, WriteHalf,
};
use crate::actors::context::{Context, observed};
use crate::actors::turn::{ActsAtTurnEnd, TurnEnd};

pub struct BusyWriter {
    writing: Option<Writing>,
    rules: BusyRules,
    mailbox_capacity: usize,
}

/// What it has while it writes.
struct Writing {
    half: Box<WriteHalf>,
    writer: Addr<CommitLogWriter>,
    /// Turns in a row that the writer would do as well.
    lone_turns: u32,
}

impl BusyWriter {
    pub fn new(rules: BusyRules, mailbox_capacity: usize) -> Self {
        Self { writing: None, rules, mailbox_capacity }
    }

    /// For who looks at the actors.
    fn facts(&self) -> Value {
        self.writing
            .as_ref()
            .map_or_else(|| json!({ "writes": "CommitLogWriter" }), |writing| writing.half.facts())
    }
}

impl Actor for BusyWriter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.mailbox_capacity);
        ctx.spawn(TurnEnd);
    }
}

observed!(BusyWriter, BusyWriter::facts);

impl ActsAtTurnEnd for BusyWriter {
    fn turn_end(&mut self, _: &mut Context<Self>) {
        let Some(Writing { half, writer, lone_turns }) = &mut self.writing else { return };
        match half.end_turn(None).0 {
            Turn { sends: 0, .. } => {}
            turn if turn.sends == 1 || turn.most_wait() => *lone_turns += 1,
            Turn { .. } => *lone_turns = 0,
        }
        if *lone_turns == self.rules.lone_turns {
            *lone_turns += 1; // said once
            writer.do_send(LittleToWrite);
        }
    }
}

impl Handler<TakeOver> for BusyWriter {
    type Result = ();

    fn handle(&mut self, TakeOver { half, writer }: TakeOver, _: &mut Self::Context) {
        self.writing = Some(Writing { half, writer, lone_turns: 0 });
    }
}

impl Handler<Relayed> for BusyWriter {
    type Result = ();

    fn handle(&mut self, Relayed(ask): Relayed, _: &mut Self::Context) {
        debug_assert!(self.writing.is_some(), "asked only while it has the write half");
        if let Some(writing) = &mut self.writing {
            ask.put_to(&mut writing.half);
        }
    }
}

impl Handler<HandBack> for BusyWriter {
    type Result = ();

    fn handle(&mut self, _: HandBack, _: &mut Self::Context) {
        if let Some(Writing { mut half, writer, .. }) = self.writing.take() {
            half.end_turn(None);
            writer.do_send(HandedBack(half));
        }
    }
}
