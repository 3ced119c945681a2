//! Whether sends are taken at all: one atomic read on the way of each, set by a drain and by the stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::broker_settings::SettingsTable;
use crate::error::Refusal;
use crate::protocol::topic_config::Permission;

const OPEN: u8 = 0;
const DRAINING: u8 = 1;
const STOPPING: u8 = 2;

/// Open, draining or stopping; from the last there is no way back. Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct SendGate(Arc<AtomicU8>);

impl SendGate {
    /// Why a send is refused now. Consumers are served while the broker drains, and so are their retries.
    pub fn refusal(&self, is_retry: bool) -> Option<Refusal> {
        match self.0.load(Ordering::Relaxed) {
            OPEN => None,
            DRAINING => (!is_retry).then_some(Refusal::Draining),
            _ => Some(Refusal::ShuttingDown),
        }
    }

    pub fn is_open(&self) -> bool {
        self.0.load(Ordering::Relaxed) == OPEN
    }

    /// Begins to drain, or stops to; returns whether that changed anything.
    pub fn drain(&self, drain: bool) -> bool {
        let (from, to) = if drain { (OPEN, DRAINING) } else { (DRAINING, OPEN) };
        self.0.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    pub fn stop(&self) {
        self.0.store(STOPPING, Ordering::Relaxed);
    }
}

/// What clients may do with any topic of this broker, as its settings and the gate have it now. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BrokerPermission {
    settings: SettingsTable,
    gate: SendGate,
}

impl BrokerPermission {
    pub fn new(settings: SettingsTable, gate: SendGate) -> Self {
        Self { settings, gate }
    }

    pub fn get(&self) -> Permission {
        let permission = self.settings.load().permission;
        if self.gate.is_open() { permission } else { permission.without(Permission::WRITE) }
    }
}

impl From<Permission> for BrokerPermission {
    /// One that nobody changes.
    fn from(permission: Permission) -> Self {
        let settings = super::broker_settings::SettingValues { permission, ..Default::default() };
        Self::new(SettingsTable::fixed(settings), SendGate::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::response_code::ResponseCode;

    #[test]
    fn drain_can_be_undone_and_a_stop_cannot() {
        let gate = SendGate::default();
        let permission = BrokerPermission::new(SettingsTable::fixed(Default::default()), gate.clone());
        assert!(gate.refusal(false).is_none() && permission.get().is_writable());
        assert!(gate.drain(true) && !gate.drain(true));
        assert!(matches!(gate.refusal(false), Some(Refusal::Draining)));
        assert!(gate.refusal(true).is_none(), "consumers go on, and so do their retries");
        assert_eq!(permission.get(), Permission::READ);
        assert!(gate.drain(false) && !gate.drain(false));
        assert!(permission.get().is_writable());
        gate.stop();
        assert!(!gate.drain(false));
        let refusal = gate.refusal(true).unwrap();
        assert_eq!(refusal.code(), ResponseCode::SERVICE_NOT_AVAILABLE);
    }
}
