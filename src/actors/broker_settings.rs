//! Broker settings: what may be changed while the broker runs, and how all settings look under Java's names.
//!
//! - Owns: the sled tree of settings changed at run time, the snapshot [`SettingValues`].
//! - Takes: [`ChangeSettings`], [`ShowSettings`].
//! - Sends: [`SettingsChanged`] to the actors that act on a change; all others read the snapshot when they
//!   need a setting.
//! - Fails: settings that cannot be saved are refused and the snapshot stays as it was.
//! - Invariants: of the settings in one request all change or none; a change was flushed before it is
//!   published, and is answered when everyone who asked to be told has been.

mod shown;
mod values;

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::prelude::*;
use arc_swap::{ArcSwap, Guard};
use tracing::{error, info, warn};

pub use self::shown::{SET_BY_ROOT, java_defaults};
pub use self::values::SettingValues;
use super::context::{Context, observed};
use crate::clock::SharedClock;
use crate::error::Refusal;
use crate::protocol::data_version::DataVersion;
use crate::protocol::properties_text::Properties;
use crate::store::metadata::{DataVersionTable, KeyValueTable, Metadata, MetadataError};

/// Where the version of the settings stands among those of the other tables.
const VERSION_KEY: &[u8] = b"broker_settings";

/// Changes settings by their Java names, all of them or none. Losing it loses the wish.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<(), Refusal>")]
pub struct ChangeSettings {
    pub changes: Properties,
}

/// Asks for every setting under Java's name.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "ShownSettings")]
pub struct ShowSettings;

#[derive(MessageResponse, Clone, PartialEq, Eq, Debug)]
pub struct ShownSettings {
    pub data_version: DataVersion,
    pub properties: Properties,
}

/// Settings are now these. Losing it leaves the receiver with the old ones until the next change.
#[derive(Message, Clone, Debug)]
#[rtype(result = "()")]
pub struct SettingsChanged {
    pub settings: Arc<SettingValues>,
}

/// The read half. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SettingsTable(Arc<ArcSwap<SettingValues>>);

impl SettingsTable {
    /// The settings of now.
    pub fn load(&self) -> Guard<Arc<SettingValues>> {
        self.0.load()
    }

    /// Settings that nobody changes, for tests and tools.
    pub fn fixed(settings: SettingValues) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(settings)))
    }
}

/// How the owner of the settings is set up.
#[derive(Clone, Debug)]
pub struct BrokerSettingsConfig {
    /// What the configuration says; settings changed at run time win over it.
    pub initial: SettingValues,
    /// What cannot change while the broker runs, under Java's names: see [`SET_BY_ROOT`].
    pub fixed: BTreeMap<&'static str, String>,
    pub mailbox_capacity: usize,
}

pub struct BrokerSettings {
    metadata: Metadata,
    stored: KeyValueTable,
    versions: DataVersionTable,
    data_version: DataVersion,
    table: Arc<ArcSwap<SettingValues>>,
    config: BrokerSettingsConfig,
    listeners: Vec<Recipient<SettingsChanged>>,
    clock: SharedClock,
}

impl BrokerSettings {
    /// Reads what was changed at run time. Others need the table before there are listeners to tell.
    pub fn load(
        metadata: Metadata,
        config: BrokerSettingsConfig,
        clock: SharedClock,
    ) -> Result<(Self, SettingsTable), MetadataError> {
        let stored = metadata.broker_settings()?;
        let versions: DataVersionTable = metadata.table("data_versions")?;
        let mut settings = config.initial.clone();
        for (key, value) in stored.all()? {
            match settings.set(&key, &value) {
                Some(Ok(())) => info!(key, value, "setting changed at run time applied"),
                Some(Err(_)) | None => {
                    warn!(key, value, "setting changed at run time has no meaning any more")
                }
            }
        }
        let data_version = versions.get(VERSION_KEY)?.unwrap_or_default();
        let table = Arc::new(ArcSwap::from_pointee(settings));
        let reader = SettingsTable(table.clone());
        let listeners = Vec::new();
        Ok((Self { metadata, stored, versions, data_version, table, config, listeners, clock }, reader))
    }

    /// Adds one who is told of changes.
    pub fn tell(mut self, listener: Recipient<SettingsChanged>) -> Self {
        self.listeners.push(listener);
        self
    }

    /// The settings after all changes, and those that differ from the ones of now.
    fn altered(&self, changes: &Properties) -> Result<(SettingValues, Properties), Refusal> {
        let mut settings = SettingValues::clone(&self.table.load());
        let shown = shown::shown(&settings, &self.config.fixed);
        let mut different = Properties::new();
        for (key, value) in changes {
            shown::check_not_black_listed(key)?;
            // Tools write back what they read; that is no change.
            if shown.get(key).is_some_and(|current| current == value.trim()) {
                continue;
            }
            settings
                .set(key, value)
                .unwrap_or_else(|| Err(shown::not_changeable(key, &self.config.fixed)))?;
            different.insert(key.clone(), value.trim().to_owned());
        }
        Ok((settings, different))
    }

    fn save(&mut self, different: &Properties) -> Result<(), MetadataError> {
        let version = self.data_version.next(self.data_version.state_version, self.clock.now());
        for (key, value) in different {
            self.stored.put(key, value)?;
        }
        self.versions.put(VERSION_KEY, &version)?;
        self.metadata.flush()?;
        self.data_version = version;
        Ok(())
    }
}

impl Actor for BrokerSettings {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.config.mailbox_capacity);
    }
}

observed!(BrokerSettings);

impl Handler<ChangeSettings> for BrokerSettings {
    type Result = ResponseFuture<Result<(), Refusal>>;

    fn handle(&mut self, change: ChangeSettings, _ctx: &mut Self::Context) -> Self::Result {
        let (settings, different) = match self.altered(&change.changes) {
            Ok(altered) => altered,
            Err(refusal) => return Box::pin(async { Err(refusal) }),
        };
        if different.is_empty() {
            return Box::pin(async { Ok(()) });
        }
        if let Err(error) = self.save(&different) {
            error!(%error, "settings not saved");
            let refusal = Refusal::NotSaved { what: "the broker's settings", cause: error.to_string() };
            return Box::pin(async { Err(refusal) });
        }
        for (key, value) in &different {
            info!(key, value, "setting changed");
        }
        let settings = Arc::new(settings);
        self.table.store(settings.clone());
        let told = self
            .listeners
            .iter()
            .map(|listener| listener.send(SettingsChanged { settings: settings.clone() }));
        let told = futures::future::join_all(told);
        Box::pin(async move {
            for error in told.await.into_iter().filter_map(Result::err) {
                warn!(%error, "change of settings not heard");
            }
            Ok(())
        })
    }
}

impl Handler<ShowSettings> for BrokerSettings {
    type Result = ShownSettings;

    fn handle(&mut self, _: ShowSettings, _ctx: &mut Self::Context) -> Self::Result {
        let properties = shown::shown(&self.table.load(), &self.config.fixed);
        ShownSettings { data_version: self.data_version, properties }
    }
}

#[cfg(test)]
mod tests;
