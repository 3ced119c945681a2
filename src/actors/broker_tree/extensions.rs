//! The last step of a start: extensions, each on a thread of its own.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::StartError;
use crate::actors::connection::Service;
use crate::actors::extensions::broker_handle::BrokerHandle;
use crate::actors::extensions::door::Door;
use crate::actors::extensions::hooks::{ExtensionError, ExtensionPlan};
use crate::actors::extensions::host::{
    ExtensionHost, ExtensionObserved, HostedStream, ObserveExtension, StopExtension, mark_thread,
};
use crate::actors::extensions::stream::EventTap;
use crate::actors::group_table::GroupTable;
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
    pub doors: ArbiterHandle,
    /// What their messages say as their born host.
    pub peer: std::net::SocketAddr,
    pub events: EventTap,
}

/// A running extension.
struct Hosted {
    name: &'static str,
    /// `None` once somebody waits for it.
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

/// All extensions of a broker.
#[derive(Default)]
pub struct RunningExtensions(Vec<Hosted>);

impl ExtensionGround {
    /// Starts extensions one after the other; from then on they take part. One that cannot start stops the start.
    pub async fn start(self, plans: Vec<ExtensionPlan>) -> Result<RunningExtensions, StartError> {
        let (mut running, mut streams) = (RunningExtensions::default(), Vec::new());
        for plan in plans {
            let name = plan.name;
            let thread = Arbiter::new();
            let started = self.start_one(plan, &thread).await;
            let (host, stream) = started.map_err(|error| StartError::Extension { name, error })?;
            streams.extend(stream.map(|stream| stream.into_stream(host.clone().recipient())));
            running.0.push(Hosted { name, thread: Some(thread), host });
            info!(extension = name, "extension started");
        }
        self.events.open(streams);
        Ok(running)
    }

    async fn start_one(
        &self,
        plan: ExtensionPlan,
        thread: &Arbiter,
    ) -> Result<(Addr<ExtensionHost>, Option<HostedStream>), ExtensionError> {
        let door = Door::new(self.service.clone(), self.peer, self.clock.clone());
        let id = door.id();
        let broker = BrokerHandle {
            extension: plan.name,
            door: Door::start_in_arbiter(&self.doors, move |_| door),
            id,
            topics: self.topics.clone(),
            groups: self.groups.clone(),
            clock: self.clock.clone(),
        };
        let (tell, told) = oneshot::channel();
        thread.spawn_fn(move || {
            mark_thread();
            let started = ExtensionHost::start_extension(plan, broker);
            // Whoever starts the broker may have given up.
            let _ = tell.send(started.map(|(host, stream)| (host.start(), stream)));
        });
        told.await.unwrap_or(Err(ExtensionError::Panicked))
    }
}

impl RunningExtensions {
    /// How each of them is; those that do not answer in time are left out.
    pub async fn observe(&self) -> Vec<ExtensionObserved> {
        let asked = self.0.iter().map(|hosted| hosted.host.send(ObserveExtension).timeout(STOP_PATIENCE));
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// Ends them. One that is stuck is left to itself: nobody waits for its thread.
    pub async fn stop(self) {
        for mut hosted in self.0 {
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
