//! Asks one extension one kind of question, in time.
//!
//! - Owns: the circuit breaker, and the figures of what was asked.
//! - Takes: [`Ask`].
//! - Sends: [`HandOver`] to the extension's host.
//! - Fails: an extension that does not answer in time, has failed, or has failed too often lately leaves the question
//!   undecided; who asked acts as the extension has chosen.
//! - Invariants: whoever asks is answered within the deadline, whatever the extension does.
//!
//! It does not live on the thread of the extension, which may be stuck.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::time::Instant;
use tracing::{info, warn};

use super::breaker::{AfterFailure, Breaker};
use super::decisions::{Decidable, DecisionRules, OnFailure, Question, Verdict};
use super::host::HandOver;
use crate::actors::context::{Context, observed};
use crate::actors::request::ConnectionId;
use crate::error::Refusal;

/// Asks the extension. Losing it leaves who asked with [`Refusal::ShuttingDown`].
pub struct Ask<Q>(pub Q);

impl<Q: Question> Message for Ask<Q> {
    type Result = Result<Q::Result, Undecided>;
}

/// Why an extension has decided nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Undecided {
    #[error("it did not answer within {deadline_ms} ms")]
    TooSlow { deadline_ms: u64 },
    #[error("it has failed and is being started again")]
    Down,
    #[error("it has failed too often in a row, and is not asked for a while")]
    BreakerOpen,
}

/// What was asked; each question is answered, or failed, or was not asked.
#[derive(Debug, Default)]
pub struct DecisionCounters {
    passed: AtomicU64,
    changed: AtomicU64,
    refused: AtomicU64,
    late: AtomicU64,
    down: AtomicU64,
    not_asked: AtomicU64,
    withheld: AtomicU64,
}

/// Figures of the questions of one kind to one extension.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DecisionFigures {
    pub passed: u64,
    /// Passed with other properties, or without the messages that were withheld.
    pub changed: u64,
    pub refused: u64,
    /// Not answered in time.
    pub late: u64,
    /// Not answered, since the extension has failed.
    pub down: u64,
    /// Not asked, since the breaker was open.
    pub not_asked: u64,
    /// Messages that consumers did not get, of deliveries.
    pub withheld: u64,
}

impl DecisionCounters {
    pub fn figures(&self) -> DecisionFigures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DecisionFigures {
            passed: read(&self.passed),
            changed: read(&self.changed),
            refused: read(&self.refused),
            late: read(&self.late),
            down: read(&self.down),
            not_asked: read(&self.not_asked),
            withheld: read(&self.withheld),
        }
    }

    fn count(&self, verdict: Result<Verdict, Undecided>) {
        let counter = match verdict {
            Ok(Verdict::Passed) => &self.passed,
            Ok(Verdict::Changed) => &self.changed,
            Ok(Verdict::Refused) => &self.refused,
            Err(Undecided::TooSlow { .. }) => &self.late,
            Err(Undecided::Down) => &self.down,
            Err(Undecided::BreakerOpen) => &self.not_asked,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Messages were kept from a consumer.
    pub fn count_withheld(&self, count: u64) {
        self.withheld.fetch_add(count, Ordering::Relaxed);
    }
}

pub struct DecisionGate<Q: Decidable> {
    extension: &'static str,
    rules: DecisionRules,
    breaker: Breaker,
    host: Recipient<HandOver<Q>>,
    counters: Arc<DecisionCounters>,
}

impl<Q: Decidable> DecisionGate<Q> {
    /// Questions that may wait to be asked.
    const MAILBOX_CAPACITY: usize = 64 * 1024;

    pub fn new(
        extension: &'static str,
        rules: DecisionRules,
        host: Recipient<HandOver<Q>>,
        counters: Arc<DecisionCounters>,
    ) -> Self {
        let breaker = Breaker::new(rules.failures_to_open, rules.open_for);
        Self { extension, rules, breaker, host, counters }
    }

    fn settle(&mut self, answer: Result<Q::Result, Undecided>) -> Result<Q::Result, Undecided> {
        let extension = self.extension;
        self.counters.count(answer.as_ref().map(Q::verdict).map_err(|why| *why));
        match &answer {
            Ok(_) => {
                if self.breaker.succeeded() {
                    info!(extension, "extension decides again");
                }
            }
            Err(why) => match self.breaker.failed(Instant::now()) {
                AfterFailure::Opened => {
                    let open_ms = self.rules.open_for.as_millis() as u64;
                    warn!(extension, %why, open_ms, on_failure = ?self.rules.on_failure, "extension does not decide, it is not asked for a while");
                }
                AfterFailure::StaysClosed => warn!(extension, %why, "extension did not decide"),
                AfterFailure::WasOpen => {}
            },
        }
        answer
    }

    /// For who looks at the actors.
    fn facts(&self) -> Value {
        let figures = self.counters.figures();
        let asked = figures.passed + figures.changed + figures.refused + figures.late + figures.down;
        let mut facts = json!({
            "asked": asked,
            "breaker": self.breaker.to_string(),
            "onFailure": self.rules.on_failure,
            "deadlineMs": self.rules.deadline.as_millis() as u64,
        });
        if let (Value::Object(facts), Ok(Value::Object(figures))) =
            (&mut facts, serde_json::to_value(figures))
        {
            facts.extend(figures);
        }
        facts
    }
}

impl<Q: Decidable> Actor for DecisionGate<Q> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(Self::MAILBOX_CAPACITY);
    }
}

observed!([Q: Decidable] DecisionGate<Q>, DecisionGate::facts);

impl<Q: Decidable> Handler<Ask<Q>> for DecisionGate<Q> {
    type Result = ResponseActFuture<Self, Result<Q::Result, Undecided>>;

    fn handle(&mut self, Ask(question): Ask<Q>, _: &mut Self::Context) -> Self::Result {
        if !self.breaker.lets_through(Instant::now()) {
            self.counters.count(Err(Undecided::BreakerOpen));
            return Box::pin(fut::ready(Err(Undecided::BreakerOpen)));
        }
        let deadline = self.rules.deadline;
        let asked = tokio::time::timeout(deadline, self.host.send(HandOver(question)));
        Box::pin(asked.into_actor(self).map(move |answer, gate, _| {
            gate.settle(match answer {
                Ok(Ok(Some(answer))) => Ok(answer),
                Ok(Ok(None) | Err(_)) => Err(Undecided::Down),
                Err(_) => Err(Undecided::TooSlow { deadline_ms: deadline.as_millis() as u64 }),
            })
        }))
    }
}

/// Whoever decides on requests of a kind, as those who ask see it.
pub struct Decider<Q: Decidable> {
    pub extension: &'static str,
    /// The extension itself is not asked about its own requests.
    pub own: ConnectionId,
    pub on_failure: OnFailure,
    pub gate: Addr<DecisionGate<Q>>,
    pub counters: Arc<DecisionCounters>,
}

impl<Q: Decidable> Decider<Q> {
    /// What it decides; `None`: it does not, and the request passes.
    pub async fn decide(&self, question: Q) -> Result<Option<Q::Result>, Refusal> {
        match self.gate.send(Ask(question)).await? {
            Ok(answer) => Ok(Some(answer)),
            Err(why) => match self.on_failure {
                OnFailure::Pass => Ok(None),
                OnFailure::Refuse => {
                    Err(Refusal::ExtensionUndecided { extension: self.extension, why: why.to_string() })
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::actors::context::Pulse;
    use crate::actors::extensions::decisions::{AdminDecision, DecideAdmin};
    use crate::protocol::request_code::RequestCode;
    use crate::testing::{Act, fake_mailbox};

    fn question() -> DecideAdmin {
        DecideAdmin {
            request: RequestCode::DELETE_TOPIC_IN_BROKER,
            client: ([10, 0, 0, 9], 50_000).into(),
            fields: Vec::new(),
            body: Default::default(),
        }
    }

    fn decider(host: Recipient<HandOver<DecideAdmin>>, on_failure: OnFailure) -> Decider<DecideAdmin> {
        let rules = DecisionRules { on_failure, failures_to_open: 2, ..DecisionRules::default() };
        let counters = Arc::new(DecisionCounters::default());
        let gate = DecisionGate::new("guard", rules, host, counters.clone()).start();
        Decider { extension: "guard", own: ConnectionId(0), on_failure, gate, counters }
    }

    #[actix::test]
    async fn decision_is_handed_to_who_asked() {
        let refuse = || AdminDecision::Refuse { reason: "not on Sundays".into() };
        let (host, _asked) = fake_mailbox().answers(move |_| Some(refuse())).start();
        let decider = decider(host, OnFailure::Pass);
        let decided = decider.decide(question()).await.unwrap();
        assert_eq!(decided, Some(refuse()));
        let facts = decider.gate.send(Pulse).await.unwrap().facts;
        assert_eq!(
            facts,
            json!({
                "asked": 1, "breaker": "closed", "onFailure": "pass", "deadlineMs": 50,
                "passed": 0, "changed": 0, "refused": 1, "late": 0, "down": 0, "notAsked": 0, "withheld": 0,
            })
        );
    }

    #[actix::test]
    async fn extension_that_is_stuck_is_by_passed_and_after_a_while_not_asked() {
        tokio::time::pause();
        let (host, _asked) = fake_mailbox().acts(|_| Act::Hang).start();
        let decider = decider(host, OnFailure::Pass);
        let begun = Instant::now();
        for _ in 0..3 {
            assert_eq!(decider.decide(question()).await.unwrap(), None);
        }
        // The runtime's timers are whole milliseconds, some later.
        assert!(begun.elapsed() < Duration::from_millis(110), "the third was not asked");
        let figures = decider.counters.figures();
        assert_eq!(figures, DecisionFigures { late: 2, not_asked: 1, ..Default::default() });
    }

    #[actix::test]
    async fn extension_that_has_failed_refuses_by_its_name_if_it_chose_to() {
        let (host, _asked) = fake_mailbox().answers(|_| None).start();
        let refusal = decider(host, OnFailure::Refuse).decide(question()).await.unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "extension guard has not decided on the request: it has failed and is being started again; nothing was done, try again in a moment"
        );
    }
}
