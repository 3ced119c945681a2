//! How often a table of settings has changed, so that whoever keeps a copy notices that it is old.

use serde::{Deserialize, Serialize};

use crate::clock::WallMs;

/// Version of the topics, groups or offsets of one broker. RocketMQ: `DataVersion`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataVersion {
    pub counter: i64,
    /// Epoch of the master that made the change; 0 without automatic failover.
    pub state_version: i64,
    /// Milliseconds since 1970 of the last change.
    pub timestamp: i64,
}

impl DataVersion {
    /// The version after one more change.
    pub fn next(self, state_version: i64, now: WallMs) -> Self {
        Self { counter: self.counter + 1, state_version, timestamp: now.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_names_of_java() {
        let version = DataVersion { counter: 6, state_version: 0, timestamp: 5 }.next(2, WallMs(9));
        let json = r#"{"counter":7,"stateVersion":2,"timestamp":9}"#;
        assert_eq!(serde_json::to_string(&version).unwrap(), json);
        assert_eq!(serde_json::from_str::<DataVersion>(json).unwrap(), version);
    }
}
