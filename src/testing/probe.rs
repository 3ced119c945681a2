//! Looks at a running actor: what it has handled, and what it tells of itself.

use std::time::Duration;

use actix::prelude::*;
use serde_json::Value;

use crate::actors::actor_list::ActorList;
use crate::actors::context::{Observed, Pulse, Pulsed};

/// How long a probe waits, by the clock of the runtime.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(1);

/// Waits for an actor of the broker to have handled messages, instead of for time to pass.
///
/// ```
/// use telstar::testing::calls::{create_topic, send_to};
/// use telstar::testing::{Probe, Scenario};
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
/// let mut shop = broker.client("shop");
/// shop.succeed(send_to("orders", 0, "pay 7")).await;
/// let queue: Probe = broker.probe("TopicQueue orders/0").expect("it has had a message");
/// let handled = queue.handled().await;
/// shop.ask(send_to("orders", 0, "pay 8"));
/// queue.has_handled(handled + 1).await;
/// # }
/// ```
#[derive(Clone)]
pub struct Probe {
    name: Box<str>,
    pulse: Recipient<Pulse>,
}

impl Probe {
    /// Of the actor at an address.
    #[doc(hidden)]
    pub fn of<A: Observed>(actor: &Addr<A>) -> Self {
        Self { name: std::any::type_name::<A>().into(), pulse: actor.clone().recipient() }
    }

    /// Of the actor with this name on a list, such as `TopicQueue orders/0`.
    #[doc(hidden)]
    pub fn on(list: &ActorList, name: &str) -> Option<Self> {
        let entries = list.entries(|entry| entry.name() == name);
        let pulse = entries.first()?.pulse()?;
        Some(Self { name: name.into(), pulse })
    }

    /// Messages that the actor has handled, those that waited for it when this was asked among them.
    ///
    /// # Panics
    /// When the actor has ended.
    pub async fn handled(&self) -> u64 {
        self.ask().await.handled
    }

    /// The same of one kind, by the name of its type.
    pub async fn handled_of(&self, kind: &str) -> u64 {
        self.ask().await.kinds.iter().find(|(name, _)| *name == kind).map_or(0, |(_, count)| *count)
    }

    /// What the actor tells of itself.
    pub async fn facts(&self) -> Value {
        self.ask().await.facts
    }

    /// Waits until it has handled so many messages since it was started.
    ///
    /// # Panics
    /// When it has not within a minute by the clock of the runtime, which takes no time where that is paused.
    pub async fn has_handled(&self, messages: u64) {
        let handling = async {
            while self.handled().await < messages {
                tokio::time::sleep(PAUSE).await;
            }
        };
        if tokio::time::timeout(PATIENCE, handling).await.is_err() {
            let handled = self.handled().await;
            panic!(
                "{} has handled {handled} of {messages} messages after {} s",
                self.name,
                PATIENCE.as_secs()
            );
        }
    }

    async fn ask(&self) -> Pulsed {
        match self.pulse.send(Pulse).await {
            Ok(pulsed) => pulsed,
            Err(_) => panic!("{} has ended", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::context::{Context, observed};

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Tick;

    /// Tells itself three [`Tick`]s a minute.
    struct Ticking;

    impl Actor for Ticking {
        type Context = Context<Self>;

        fn started(&mut self, ctx: &mut Self::Context) {
            let address = ctx.address();
            ctx.run_interval(Duration::from_secs(20), move |_, _| address.do_send(Tick));
        }
    }

    impl Handler<Tick> for Ticking {
        type Result = ();

        fn handle(&mut self, _: Tick, _: &mut Self::Context) {}
    }

    observed!(Ticking);

    #[actix::test]
    async fn probe_waits_until_so_many_were_handled() {
        tokio::time::pause();
        let list = ActorList::default();
        let _ticking = list.start("slowly", Ticking);
        assert!(Probe::on(&list, "Ticking").is_none());
        let probe = Probe::on(&list, "Ticking slowly").unwrap();
        let began = tokio::time::Instant::now();
        probe.has_handled(2).await;
        assert_eq!(began.elapsed().as_secs(), 40);
        assert_eq!(
            (probe.handled().await, probe.handled_of("Tick").await, probe.handled_of("Tock").await),
            (2, 2, 0)
        );
    }

    #[actix::test]
    #[should_panic(expected = "has handled 2 of 9 messages after 60 s")]
    async fn waiting_in_vain_tells_how_far_it_is() {
        tokio::time::pause();
        Probe::of(&ActorList::default().start("", Ticking)).has_handled(9).await;
    }
}
