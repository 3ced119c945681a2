//! What the actors of a broker are made on: its plan, threads, files, tables and clock; and the store itself.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::StartError;
use crate::actors::aside::aside;
use crate::actors::broker_plan::BrokerPlan;
use crate::actors::extensions::stream::EventTap;
use crate::actors::threads::Threads;
use crate::clock::SharedClock;
use crate::store::file::StoreFiles;
use crate::store::known_derived::KnownDerived;
use crate::store::metadata::Metadata;
use crate::store::opening::{OpenedStore, StorePlan, open_store};
use crate::store::recovery_progress::RecoveryProgress;
use crate::store::store_lock::AbortFile;

/// See the [module](self). Each step of a start is a function of it, in the file of those whom it starts.
pub struct Ground<'a> {
    pub plan: BrokerPlan,
    pub threads: &'a Threads,
    pub files: Arc<dyn StoreFiles>,
    pub metadata: Metadata,
    pub clock: SharedClock,
    /// Where everybody tells extensions what happens.
    pub events: EventTap,
}

impl Ground<'_> {
    pub fn consume_queue_root(&self) -> PathBuf {
        self.plan.root.join("consumequeue")
    }

    /// Takes over a Java broker's settings, makes the log whole, and notes that a broker is at work.
    pub async fn open_store(
        &self,
        recovery: &RecoveryProgress,
    ) -> Result<(OpenedStore, KnownDerived), StartError> {
        let root = &self.plan.root;
        crate::store::java_import::import_once(&*self.files, root, &self.metadata)?;
        let known = KnownDerived::open(&self.metadata)?;
        let store_plan = StorePlan {
            files: self.files.clone(),
            root: root.clone(),
            segment_bytes: self.plan.commit_log_segment_bytes,
            units: self.plan.queue.units,
            key_index: self.plan.key_index,
        };
        // Away from this thread, which answers clients meanwhile.
        let opening = {
            let recovery = recovery.clone();
            aside(move || (open_store(&store_plan, &known, &recovery), known))
        };
        let (opened, known) = opening.await.map_err(|_| StartError::ActorEnded("the recovery"))?;
        let opened = opened?;
        // A start that was refused before has left the store as cleanly stopped as it was.
        let at_root = |source: io::Error| StartError::Files { root: root.clone(), source };
        AbortFile::create(&*self.files, root).map_err(at_root)?;
        Ok((opened, known))
    }
}
