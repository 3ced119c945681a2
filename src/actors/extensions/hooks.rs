//! What an extension takes part in, as it says when it is started.

use std::sync::Arc;

use actix::prelude::*;
use thiserror::Error;

use super::broker_handle::BrokerHandle;
use super::events::{BrokerEvents, EventKind, WhenBehind};

/// Why an extension is not started.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ExtensionError {
    /// What it says itself.
    #[error("{0}")]
    Refused(String),
    /// It panicked, and said why on standard error.
    #[error("it panicked")]
    Panicked,
    /// It wants to be told the same twice.
    #[error("it hooks {what} twice; do it once, and tell its other actors from there")]
    Twice { what: &'static str },
}

impl ExtensionError {
    /// Says why the extension cannot start: what is wrong, and what to do.
    pub fn refused(why: impl std::fmt::Display) -> Self {
        Self::Refused(why.to_string())
    }
}

/// An extension that is to be started.
#[derive(Clone)]
pub struct ExtensionPlan {
    pub name: &'static str,
    /// Called on the thread of the extension, at the start and for each restart.
    pub start: StartExtension,
}

/// Starts the actors of an extension, and says what they take part in.
pub type StartExtension = Arc<dyn Fn(&mut Hooks) -> Result<(), ExtensionError> + Send + Sync>;

impl std::fmt::Debug for ExtensionPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExtensionPlan").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How an extension listens.
#[derive(Clone, Debug)]
pub struct Listening {
    pub kinds: Vec<EventKind>,
    pub recipient: Recipient<BrokerEvents>,
    pub when_behind: WhenBehind,
    pub capacity: usize,
}

/// What an extension takes part in. It is given one when it starts, and fills it.
#[derive(Debug)]
pub struct Hooks {
    broker: BrokerHandle,
    taken: Taken,
    twice: Option<&'static str>,
}

/// What was filled in.
#[derive(Default)]
pub struct Taken {
    pub listening: Option<Listening>,
    /// Whether each of its actors that are known lives.
    pub lives: Vec<Box<dyn Fn() -> bool + Send>>,
}

impl std::fmt::Debug for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Taken").field("listening", &self.listening).finish_non_exhaustive()
    }
}

impl Taken {
    /// Whether every actor of the extension that is known lives.
    pub fn is_alive(&self) -> bool {
        self.lives.iter().all(|lives| lives())
    }
}

impl Hooks {
    pub(super) fn new(broker: BrokerHandle) -> Self {
        Self { broker, taken: Taken::default(), twice: None }
    }

    /// What it may ask of the broker.
    pub fn broker(&self) -> BrokerHandle {
        self.broker.clone()
    }

    /// Has `recipient` told what happens, in batches: the next one comes when the one before is handled. At most
    /// `capacity` events wait for it; `when_behind` says what becomes of more.
    pub fn on_events(
        &mut self,
        kinds: &[EventKind],
        recipient: Recipient<BrokerEvents>,
        when_behind: WhenBehind,
        capacity: usize,
    ) {
        self.watch_recipient(&recipient);
        let listening = Listening { kinds: kinds.to_vec(), recipient, when_behind, capacity };
        if self.taken.listening.replace(listening).is_some() {
            self.twice = Some("events");
        }
    }

    /// Has the extension started anew when this actor ends. An actor that is hooked otherwise is watched already.
    pub fn watch<A: Actor<Context = Context<A>>>(&mut self, actor: &Addr<A>) {
        let actor = actor.clone();
        self.taken.lives.push(Box::new(move || actor.connected()));
    }

    fn watch_recipient<M>(&mut self, recipient: &Recipient<M>)
    where
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let recipient = recipient.clone();
        self.taken.lives.push(Box::new(move || recipient.connected()));
    }

    pub(super) fn take(self) -> Result<Taken, ExtensionError> {
        match self.twice {
            Some(what) => Err(ExtensionError::Twice { what }),
            None => Ok(self.taken),
        }
    }
}
