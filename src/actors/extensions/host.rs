//! Runs one extension: hands it what it takes part in, and starts it anew when it fails.
//!
//! - Owns: what the running extension has hooked, the inbox of events that wait for it, when it is started again.
//! - Takes: [`EventsWait`] from their sources; [`HandOver`] with what the extension is asked; [`StopExtension`], [`ObserveExtension`]; its timers.
//! - Sends: [`BrokerEvents`](super::events::BrokerEvents) to the extension, one lot at a time, and the questions.
//! - Fails: it does not; what fails is the extension. One that panics, or whose actors end, is started again after a
//!   while that grows with each failure; the lot it failed with is counted as dropped, and what waits is kept.
//! - Invariants: the extension has one lot at a time; every event that was counted in is counted out.
//!
//! It lives on the thread of its extension, which nobody else is on: one that blocks holds up itself.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::time::Instant;
use tracing::{info, warn};

use super::broker_handle::BrokerHandle;
use super::decisions::{DecisionRules, Question};
use super::event_inbox::{EventInbox, EventPost, EventsWait, event_inbox};
use super::hooks::{ExtensionError, ExtensionPlan, Hooks, Listening, Taken};
use super::stream::{StreamFigures, StreamLevel};
use crate::actors::context::{Context, observed};

/// Pause before an extension that failed is started again; doubled with each failure that follows, up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// An extension that lived so long failed for another reason than before.
const STEADY: Duration = Duration::from_secs(60);
/// After it has handed over all there was, the host waits so long for more: stored messages come one by one, and each
/// would wake its thread.
const GATHERING: Duration = Duration::from_millis(1);
/// Between two looks whether the extension lives.
const LOOK: Duration = Duration::from_secs(1);

thread_local! {
    /// Whether this thread belongs to an extension.
    static OF_EXTENSION: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread as one of an extension, whose panics do not end the process.
pub fn mark_thread() {
    OF_EXTENSION.set(true);
}

/// Whether the thread belongs to an extension: what panics there is started again, and the broker runs on.
///
/// ```
/// use telstar::extension::is_extension_thread;
///
/// // A program that ends when something of it panics lets extensions be.
/// let told = std::panic::take_hook();
/// std::panic::set_hook(Box::new(move |panic| {
///     told(panic);
///     if !is_extension_thread() {
///         std::process::abort();
///     }
/// }));
/// assert!(!is_extension_thread());
/// # let _ = std::panic::take_hook(); // the other examples are in this process
/// ```
pub fn is_extension_thread() -> bool {
    OF_EXTENSION.get()
}

/// Ends the extension: its actors lose their addresses. What waits for it is dropped.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct StopExtension;

/// Asks how the extension is.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "ExtensionObserved")]
pub struct ObserveExtension;

/// How an extension is.
///
/// ```
/// use telstar::extension::{ExtensionObserved, HttpRequest};
/// use telstar::testing::{Scenario, fake_mailbox};
///
/// # #[actix::main]
/// # async fn main() {
/// let scene = Scenario::begin().await;
/// let (page, mut asked) = fake_mailbox::<HttpRequest>().start();
/// let broker = scene.broker("broker").hooks("page", move |hooks| hooks.serves_http("/", page.clone()));
/// let broker = broker.start().await;
/// let observed: Vec<ExtensionObserved> = broker.extensions().await;
/// assert_eq!((observed[0].name, observed[0].running, observed[0].restarts), ("page", true, 0));
/// asked.fail().await; // its actor ends
/// scene.pass(std::time::Duration::from_secs(1)).await;
/// assert_eq!(broker.extensions().await[0].running, false);
/// # }
/// ```
#[derive(MessageResponse, Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtensionObserved {
    /// Its name.
    pub name: &'static str,
    /// Otherwise it waits to be started again.
    pub running: bool,
    /// How often it was started again.
    pub restarts: u64,
    /// How far it is with the events that it listens to.
    pub events: StreamFigures,
}

/// Hands a question over to the extension; `None`: it has failed, and cannot be asked. Losing it is as that.
pub struct HandOver<Q>(pub Q);

impl<Q: Question> Message for HandOver<Q> {
    type Result = Option<Q::Result>;
}

/// Time to start the extension again.
#[derive(Message)]
#[rtype(result = "()")]
struct RestartDue;

/// Time to look whether it lives.
#[derive(Message)]
#[rtype(result = "()")]
struct LookDue;

/// What a running extension has hooked, for those who are to find it.
pub struct Hosted {
    pub stream: Option<HostedStream>,
    pub sends: Option<DecisionRules>,
    pub deliveries: Option<DecisionRules>,
    pub admin: Option<DecisionRules>,
    pub codes: Vec<i32>,
    pub paths: Vec<String>,
}

/// A stream of events whose host is about to be started.
pub struct HostedStream {
    pub kinds: u32,
    pub level: Arc<StreamLevel>,
    pub post: EventPost,
}

/// What of its stream a host has.
struct Incoming {
    level: Arc<StreamLevel>,
    inbox: EventInbox,
    in_delivery: bool,
    /// The host was told in a delivery that events wait, so they are not to wait for more.
    presses: bool,
    /// All there was is handed over; until this is due, more may gather.
    gathering: Option<SpawnHandle>,
}

pub struct ExtensionHost {
    plan: ExtensionPlan,
    broker: BrokerHandle,
    /// `None`: it failed, and is not started again yet.
    running: Option<Taken>,
    started_at: Instant,
    failures: u32,
    restarts: u64,
    stopped: bool,
    /// `None`: it listens to nothing.
    incoming: Option<Incoming>,
}

impl ExtensionHost {
    /// Starts the extension, on this thread. The host is started when it lives.
    pub fn start_extension(
        plan: ExtensionPlan,
        broker: BrokerHandle,
    ) -> Result<(Self, Hosted), ExtensionError> {
        let taken = start(&plan, &broker)?;
        let (stream, incoming) =
            taken.listening.as_ref().map(|listening| open_stream(plan.name, listening)).unzip();
        let hosted = Hosted {
            stream,
            sends: taken.sends.as_ref().map(|deciding| deciding.rules),
            deliveries: taken.deliveries.as_ref().map(|deciding| deciding.rules),
            admin: taken.admin.as_ref().map(|deciding| deciding.rules),
            codes: taken.codes.iter().map(|(code, _)| *code).collect(),
            paths: taken.paths.iter().map(|(path, _)| path.clone()).collect(),
        };
        let host = Self {
            plan,
            broker,
            running: Some(taken),
            started_at: Instant::now(),
            failures: 0,
            restarts: 0,
            stopped: false,
            incoming,
        };
        Ok((host, hosted))
    }

    fn observe(&self) -> ExtensionObserved {
        ExtensionObserved {
            name: self.plan.name,
            running: self.running.is_some(),
            restarts: self.restarts,
            events: self.incoming.as_ref().map(|incoming| incoming.level.figures()).unwrap_or_default(),
        }
    }

    fn facts(&self) -> serde_json::Value {
        let ExtensionObserved { running, events, .. } = self.observe();
        serde_json::json!({
            "running": running,
            "eventsWaiting": events.waiting,
            "eventsOffered": events.offered,
            "eventsDropped": events.dropped,
        })
    }

    /// Hands over the next lot, unless the extension has one, or more is to gather first.
    fn deliver(&mut self, ctx: &mut Context<Self>) {
        let Self {
            running: Some(Taken { listening: Some(listening), .. }), incoming: Some(incoming), ..
        } = self
        else {
            return;
        };
        if incoming.in_delivery || incoming.gathering.is_some() {
            return;
        }
        let Some(events) = incoming.inbox.take_lot() else { return };
        // What comes while the extension is at work is left to gather: it would never be done otherwise.
        let was_all = incoming.inbox.is_drained();
        let count = events.len();
        (incoming.in_delivery, incoming.presses) = (true, false);
        let delivered = listening.recipient.send(events).into_actor(self);
        ctx.spawn(delivered.map(move |handled, host, ctx| {
            let mut presses = false;
            if let Some(incoming) = &mut host.incoming {
                incoming.in_delivery = false;
                incoming.level.take_out(count);
                presses = incoming.presses || incoming.level.is_half_full();
                if handled.is_err() {
                    incoming.level.count_dropped(count);
                }
            }
            match handled {
                Ok(()) if was_all && !presses => host.gather(ctx),
                Ok(()) => host.deliver(ctx),
                Err(_) => host.fail("an actor of it ended while it handled events", ctx),
            }
        }));
    }

    /// Lets events gather for a moment before the next lot.
    fn gather(&mut self, ctx: &mut Context<Self>) {
        let due = ctx.run_later(GATHERING, |host, ctx| {
            if let Some(incoming) = &mut host.incoming {
                incoming.gathering = None;
            }
            host.deliver(ctx);
        });
        if let Some(incoming) = &mut self.incoming {
            incoming.gathering = Some(due);
        }
    }

    fn fail(&mut self, how: &str, ctx: &mut Context<Self>) {
        if self.stopped || self.running.take().is_none() {
            return;
        }
        if let Some(incoming) = &self.incoming {
            incoming.level.set_down(true);
        }
        if self.started_at.elapsed() >= STEADY {
            self.failures = 0;
        }
        self.restart_later(how, ctx);
    }

    fn restart_later(&mut self, how: &str, ctx: &mut Context<Self>) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(MAX_PAUSE);
        self.failures += 1;
        let (extension, pause_ms) = (self.plan.name, pause.as_millis() as u64);
        warn!(extension, how, pause_ms, failures = self.failures, "extension failed, starting it again");
        ctx.notify_later(RestartDue, pause);
    }
}

fn open_stream(extension: &'static str, listening: &Listening) -> (HostedStream, Incoming) {
    let kinds = listening.kinds.iter().fold(0, |kinds, kind| kinds | kind.bit());
    let level = Arc::new(StreamLevel::new(extension, listening.capacity, listening.when_behind));
    let (post, inbox) = event_inbox();
    let incoming =
        Incoming { level: level.clone(), inbox, in_delivery: false, presses: false, gathering: None };
    (HostedStream { kinds, level, post }, incoming)
}

fn start(plan: &ExtensionPlan, broker: &BrokerHandle) -> Result<Taken, ExtensionError> {
    let mut hooks = Hooks::new(broker.clone());
    // What it left behind in its own actors is dropped with them.
    let started = catch_unwind(AssertUnwindSafe(|| (plan.start)(&mut hooks)));
    started.map_err(|_| ExtensionError::Panicked)??;
    hooks.take()
}

impl Actor for ExtensionHost {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.notify_later(LookDue, LOOK);
    }
}

observed!(ExtensionHost, ExtensionHost::facts);

impl Handler<EventsWait> for ExtensionHost {
    type Result = ();

    fn handle(&mut self, _: EventsWait, ctx: &mut Self::Context) {
        if let Some(incoming) = &mut self.incoming {
            incoming.presses = true;
            if let Some(due) = incoming.gathering.take() {
                ctx.cancel_future(due);
            }
        }
        self.deliver(ctx);
    }
}

impl Handler<LookDue> for ExtensionHost {
    type Result = ();

    fn handle(&mut self, _: LookDue, ctx: &mut Self::Context) {
        ctx.notify_later(LookDue, LOOK);
        if self.running.as_ref().is_some_and(|taken| !taken.is_alive()) {
            self.fail("an actor of it has ended", ctx);
        }
    }
}

impl Handler<RestartDue> for ExtensionHost {
    type Result = ();

    fn handle(&mut self, _: RestartDue, ctx: &mut Self::Context) {
        if self.stopped {
            return;
        }
        match start(&self.plan, &self.broker) {
            Ok(taken) => {
                self.restarts += 1;
                ctx.count_restart();
                self.started_at = Instant::now();
                self.running = Some(taken);
                if let Some(incoming) = &self.incoming {
                    incoming.level.set_down(false);
                }
                info!(extension = self.plan.name, restarts = self.restarts, "extension runs again");
                self.deliver(ctx);
            }
            Err(error) => self.restart_later(&error.to_string(), ctx),
        }
    }
}

impl<Q: Question> Handler<HandOver<Q>> for ExtensionHost {
    type Result = ResponseActFuture<Self, Option<Q::Result>>;

    fn handle(&mut self, HandOver(question): HandOver<Q>, _: &mut Self::Context) -> Self::Result {
        let asked = self.running.as_ref().and_then(|taken| question.asked(taken));
        let Some(asked) = asked.cloned() else { return Box::pin(fut::ready(None)) };
        let answer = asked.send(question).into_actor(self);
        Box::pin(answer.map(|answer, host, ctx| {
            if answer.is_err() {
                host.fail("an actor of it ended while it was asked", ctx);
            }
            answer.ok()
        }))
    }
}

impl Handler<StopExtension> for ExtensionHost {
    type Result = ();

    fn handle(&mut self, _: StopExtension, _: &mut Self::Context) {
        self.stopped = true;
        self.running = None;
        self.incoming = None;
    }
}

impl Handler<ObserveExtension> for ExtensionHost {
    type Result = ExtensionObserved;

    fn handle(&mut self, _: ObserveExtension, _: &mut Self::Context) -> Self::Result {
        self.observe()
    }
}

#[cfg(test)]
mod tests;
