//! The last step of a start: extensions, each on a thread of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::StartError;
use crate::actors::actor_list::ActorList;
use crate::actors::broker_plan::HttpPlan;
use crate::actors::connection::Service;
use crate::actors::extensions::broker_handle::BrokerHandle;
use crate::actors::extensions::decision_gate::{Decider, DecisionCounters, DecisionGate};
use crate::actors::extensions::decisions::{Decidable, DecisionRules};
use crate::actors::extensions::door::Door;
use crate::actors::extensions::hook_table::{HookTable, Hooked, Owner};
use crate::actors::extensions::hooks::{ExtensionError, ExtensionPlan};
use crate::actors::extensions::host::{
    self, ExtensionHost, ExtensionObserved, HandOver, HostedStream, ObserveExtension, StopExtension,
    mark_thread,
};
use crate::actors::extensions::http_listener::{HttpListener, StopServing};
use crate::actors::extensions::stream::{EventStream, EventTap};
use crate::actors::group_table::GroupTable;
use crate::actors::request::ConnectionId;
use crate::actors::threads::{ExtensionThreads, Thread};
use crate::actors::topic_table::TopicTable;
use crate::clock::SharedClock;

/// How long an extension may take to end. One that takes longer keeps its thread until the process ends.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// What extensions are started with.
pub struct ExtensionGround {
    pub service: Arc<dyn Service>,
    pub topics: TopicTable,
    pub groups: GroupTable,
    pub clock: SharedClock,
    /// The thread of their doors.
    pub doors: Thread,
    /// What their messages say as their born host.
    pub peer: SocketAddr,
    pub events: EventTap,
    pub hooks: HookTable,
    /// Where their own threads are from.
    pub threads: ExtensionThreads,
    /// The thread of those who ask them, which none of them is on.
    pub gates: Thread,
    pub actors: ActorList,
    /// `None`: HTTP paths are served nowhere.
    pub http: Option<HttpPlan>,
}

/// A running extension.
struct Hosted {
    name: &'static str,
    /// `None` once somebody waits for it, and in a simulation, which ends all threads itself.
    thread: Option<Arbiter>,
    host: Addr<ExtensionHost>,
}

impl Drop for Hosted {
    /// Its thread ends by itself when the extension lets go of it.
    fn drop(&mut self) {
        if let Some(thread) = &self.thread {
            thread.stop();
        }
    }
}

/// Where HTTP is served.
struct Served {
    addr: SocketAddr,
    listener: Addr<HttpListener>,
}

/// All extensions of a broker.
#[derive(Default)]
pub struct RunningExtensions {
    hosted: Vec<Hosted>,
    http: Option<Served>,
}

impl ExtensionGround {
    /// Starts extensions one after the other; from then on they take part. One that cannot start stops the start.
    pub async fn start(self, plans: Vec<ExtensionPlan>) -> Result<RunningExtensions, StartError> {
        let (mut running, mut streams, mut hooked) =
            (RunningExtensions::default(), Vec::new(), Hooked::default());
        for plan in plans {
            let name = plan.name;
            let refused = |error| StartError::Extension { name, error };
            let (thread, arbiter) = self.threads.one_more();
            let is_own = arbiter.is_some();
            let (host, mut started, own) = self.start_one(plan, &thread, is_own).await.map_err(refused)?;
            if let Some(HostedStream { kinds, level, post }) = started.stream.take() {
                streams.push(EventStream { kinds, level, post, host: host.clone().recipient() });
            }
            self.enter(&mut hooked, (name, own), &host, started).map_err(refused)?;
            running.hosted.push(Hosted { name, thread: arbiter, host });
            info!(extension = name, "extension started");
        }
        self.events.open(streams);
        let serves = !hooked.paths.is_empty();
        self.hooks.fill(hooked);
        if let Some(plan) = self.http.filter(|_| serves) {
            running.http = Some(self.serve(plan).await?);
        }
        Ok(running)
    }

    async fn start_one(
        &self,
        plan: ExtensionPlan,
        thread: &Thread,
        is_own: bool,
    ) -> Result<(Addr<ExtensionHost>, host::Hosted, ConnectionId), ExtensionError> {
        let door = Door::new(self.service.clone(), self.peer, self.clock.clone());
        let own = door.id();
        let broker = BrokerHandle {
            extension: plan.name,
            door: self.actors.start_on(&self.doors, plan.name, move || door),
            id: own,
            topics: self.topics.clone(),
            groups: self.groups.clone(),
            clock: self.clock.clone(),
        };
        let (tell, told) = oneshot::channel();
        let actors = self.actors.clone();
        thread.run(move || {
            if is_own {
                mark_thread();
            }
            let name = plan.name;
            let started = ExtensionHost::start_extension(plan, broker);
            // Whoever starts the broker may have given up.
            let _ = tell.send(started.map(|(host, hosted)| (actors.start(name, host), hosted)));
        });
        let (host, hosted) = told.await.unwrap_or(Err(ExtensionError::Panicked))?;
        Ok((host, hosted, own))
    }

    /// Serves the HTTP paths, away from the threads of messages.
    async fn serve(&self, plan: HttpPlan) -> Result<Served, StartError> {
        let HttpPlan { listen: addr, limits } = plan;
        let failed = |source| StartError::Http { addr, source };
        let socket = std::net::TcpListener::bind(addr).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let bound = socket.local_addr().map_err(failed)?;
        let (hooks, actors) = (self.hooks.clone(), self.actors.clone());
        let (tell, told) = oneshot::channel();
        self.gates.run(move || {
            // A socket belongs to the event loop of the thread that it is served on.
            let started = TcpListener::from_std(socket);
            let _ =
                tell.send(started.map(|socket| actors.start("", HttpListener::new(socket, hooks, limits))));
        });
        let listener =
            told.await.map_err(|_| StartError::ActorEnded("the thread of HTTP"))?.map_err(failed)?;
        Ok(Served { addr: bound, listener })
    }

    /// Enters what an extension has hooked; what belongs to another already is refused.
    fn enter(
        &self,
        hooked: &mut Hooked,
        (name, own): (&'static str, ConnectionId),
        host: &Addr<ExtensionHost>,
        started: host::Hosted,
    ) -> Result<(), ExtensionError> {
        let host::Hosted { sends, deliveries, admin, codes, paths, stream: _ } = started;
        hooked.sends.extend(sends.map(|rules| self.decider(name, own, rules, host.clone().recipient())));
        let delivery = |rules| self.decider(name, own, rules, host.clone().recipient());
        hooked.deliveries.extend(deliveries.map(delivery));
        hooked.admin.extend(admin.map(|rules| self.decider(name, own, rules, host.clone().recipient())));
        for code in codes {
            let owner = Owner { extension: name, host: host.clone().recipient() };
            if let Some(other) = hooked.codes.insert(code, owner) {
                return Err(ExtensionError::Taken {
                    what: format!("request code {code}"),
                    owner: other.extension,
                });
            }
        }
        for path in paths {
            let owner = Owner { extension: name, host: host.clone().recipient() };
            if let Some(other) = hooked.paths.insert(path.clone(), owner) {
                return Err(ExtensionError::Taken {
                    what: format!("HTTP path {path}"),
                    owner: other.extension,
                });
            }
        }
        Ok(())
    }

    fn decider<Q: Decidable>(
        &self,
        extension: &'static str,
        own: ConnectionId,
        rules: DecisionRules,
        host: Recipient<HandOver<Q>>,
    ) -> Decider<Q> {
        let counters = Arc::new(DecisionCounters::default());
        let gate = {
            let counters = counters.clone();
            let gate = move || DecisionGate::new(extension, rules, host, counters);
            self.actors.start_on(&self.gates, format!("{extension} {}", Q::ON), gate)
        };
        Decider { extension, own, on_failure: rules.on_failure, gate, counters }
    }
}

impl RunningExtensions {
    /// Where HTTP paths are served, if they are.
    pub fn http(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(|served| served.addr)
    }

    /// How each of them is; those that do not answer in time are left out.
    pub async fn observe(&self) -> Vec<ExtensionObserved> {
        let asked =
            self.hosted.iter().map(|hosted| hosted.host.send(ObserveExtension).timeout(STOP_PATIENCE));
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// Ends them. One that is stuck is left to itself: nobody waits for its thread.
    pub async fn stop(self) {
        if let Some(served) = self.http {
            // One that has ended serves nobody.
            let _ = served.listener.send(StopServing).await;
        }
        for mut hosted in self.hosted {
            let extension = hosted.name;
            if hosted.host.send(StopExtension).timeout(STOP_PATIENCE).await.is_err() {
                warn!(extension, "an extension does not end, it is left to itself");
                continue;
            }
            let Some(thread) = hosted.thread.take() else { continue };
            thread.stop();
            if thread.join().is_err() {
                warn!(extension, "the thread of an extension had panicked");
            }
        }
    }
}
