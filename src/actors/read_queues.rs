//! Read queues: which queues of a topic there are to consume, on all brokers, as the name servers tell.
//!
//! - Owns: what was last told of the topics that were asked for, and a connection to a name server.
//! - Takes: [`ListReadQueues`].
//! - Sends: nothing to actors; request 105 on the wire, one at a time.
//! - Fails: while no name server answers, what was told last is what holds; a topic that was never told of has none.
//! - Invariants: a topic is asked for at most once in `refresh_after`, however many ask.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::debug;

use super::context::{Context, observed};
use crate::client::{Servers, rebalance, route};
use crate::collections::HashMap;
use crate::types::{MessageQueue, TopicName};

/// Topics remembered; beyond, those that nobody asked for again are forgotten.
const KNOWN_MAX: usize = 10_000;

/// The queues of a topic on all brokers, in Java's order. Losing it leaves a client with the queues it has.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Option<Arc<[MessageQueue]>>")]
pub struct ListReadQueues {
    pub topic: TopicName,
}

#[derive(Clone, Copy, Debug)]
pub struct ReadQueuesConfig {
    /// What was told is asked for again when it is older. Default 5 s; members ask every 20 s.
    pub refresh_after: Duration,
    pub mailbox_capacity: usize,
}

impl Default for ReadQueuesConfig {
    fn default() -> Self {
        Self { refresh_after: Duration::from_secs(5), mailbox_capacity: 8_192 }
    }
}

type Queues = Option<Arc<[MessageQueue]>>;

struct Known {
    queues: Queues,
    told_at: Instant,
}

pub struct ReadQueues {
    known: HashMap<TopicName, Known>,
    /// Who waits for a topic.
    waiting: HashMap<TopicName, Vec<oneshot::Sender<Queues>>>,
    /// Topics to ask for, each once.
    unasked: VecDeque<TopicName>,
    /// `None` while a question is under way.
    servers: Option<Servers>,
    config: ReadQueuesConfig,
}

impl ReadQueues {
    pub fn new(servers: Servers, config: ReadQueuesConfig) -> Self {
        Self {
            known: HashMap::default(),
            waiting: HashMap::default(),
            unasked: VecDeque::new(),
            servers: Some(servers),
            config,
        }
    }

    /// Asks for the next topic, unless a question is under way.
    fn ask(&mut self, ctx: &mut Context<Self>) {
        let Some(mut servers) = self.servers.take() else { return };
        let Some(topic) = self.unasked.pop_front() else {
            self.servers = Some(servers);
            return;
        };
        let asked = async move {
            let route = servers.find_route(&topic).await;
            (servers, topic, route)
        };
        ctx.spawn(asked.into_actor(self).map(|(servers, topic, route), actor, ctx| {
            actor.servers = Some(servers);
            let queues = match route {
                Ok(route) => route.map(|route| {
                    let found = route::read_queues(&topic, &route);
                    rebalance::sorted(found.into_iter().map(|at| at.queue).collect()).into()
                }),
                Err(error) => {
                    debug!(%topic, %error, "queues not told, the last known ones hold");
                    actor.known.get(&topic).and_then(|known| known.queues.clone())
                }
            };
            actor.tell(topic, queues);
            actor.ask(ctx);
        }));
    }

    fn tell(&mut self, topic: TopicName, queues: Queues) {
        for waiting in self.waiting.remove(&topic).unwrap_or_default() {
            // Whoever asked may have stopped waiting.
            let _ = waiting.send(queues.clone());
        }
        let now = Instant::now();
        if self.known.len() >= KNOWN_MAX {
            let refresh_after = self.config.refresh_after;
            self.known.retain(|_, known| now.duration_since(known.told_at) < refresh_after);
        }
        self.known.insert(topic, Known { queues, told_at: now });
    }
}

impl Actor for ReadQueues {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.config.mailbox_capacity);
    }
}

observed!(ReadQueues);

impl Handler<ListReadQueues> for ReadQueues {
    type Result = ResponseFuture<Queues>;

    fn handle(&mut self, ListReadQueues { topic }: ListReadQueues, ctx: &mut Self::Context) -> Self::Result {
        let is_fresh = |known: &&Known| known.told_at.elapsed() < self.config.refresh_after;
        if let Some(known) = self.known.get(&topic).filter(is_fresh) {
            let queues = known.queues.clone();
            return Box::pin(async move { queues });
        }
        let (told, queues) = oneshot::channel();
        let waiting = self.waiting.entry(topic.clone()).or_default();
        waiting.push(told);
        if waiting.len() == 1 {
            self.unasked.push_back(topic);
            self.ask(ctx);
        }
        Box::pin(async move { queues.await.ok().flatten() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ConnectOptions;

    fn start() -> (ReadQueues, Arc<[MessageQueue]>) {
        // Nobody listens on port 1.
        let servers = Servers::new("127.0.0.1:1", ConnectOptions::default(), Duration::from_secs(1));
        let queue = MessageQueue { broker_name: "b".into(), queue_id: 0, topic: "T".into() };
        (ReadQueues::new(servers, ReadQueuesConfig::default()), Arc::from([queue]))
    }

    async fn ask(actor: &Addr<ReadQueues>, topic: &str) -> Queues {
        actor.send(ListReadQueues { topic: topic.into() }).await.unwrap()
    }

    #[actix::test]
    async fn what_was_told_last_holds_while_no_name_server_answers() {
        let (mut actor, queues) = start();
        let long_ago = Instant::now() - actor.config.refresh_after;
        actor.known.insert("T".into(), Known { queues: Some(queues.clone()), told_at: long_ago });
        let actor = actor.start();
        assert_eq!(ask(&actor, "T").await, Some(queues));
        assert_eq!(ask(&actor, "never told of").await, None);
    }

    #[actix::test]
    async fn what_is_fresh_is_not_asked_for() {
        let (mut actor, queues) = start();
        actor.known.insert("T".into(), Known { queues: Some(queues.clone()), told_at: Instant::now() });
        // As if a question were under way for ever.
        actor.servers = None;
        assert_eq!(ask(&actor.start(), "T").await, Some(queues));
    }
}
