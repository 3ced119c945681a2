//! What START_REPLAY (29201), LIST_REPLAYS (29202) and STOP_REPLAY (29203) carry. Ours: the Java broker has no such
//! requests.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::java_enum::java_enum;
use crate::types::GroupName;

java_enum! {
    /// Where the messages of a dead letter queue go.
    ReplayTarget {
        /// The retry topic of the group: nobody else sees them.
        #[default]
        Group = "GROUP",
        /// The topics they were sent to first: every group consumes them again.
        Origin = "ORIGIN",
    }
}

java_enum! {
    ReplayState {
        #[default]
        Running = "RUNNING",
        Done = "DONE",
        Stopped = "STOPPED",
        Failed = "FAILED",
    }
}

/// Asks for what is in the dead letter queue of a group now to be consumed again.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplayOrder {
    pub group: GroupName,
    /// Messages a second.
    pub rate: u32,
    /// Only messages with all of these: `topic`, `tag`, `key`, `client`, or a property by its name.
    pub filter: BTreeMap<String, String>,
    /// And of those only the ones that satisfy this SQL92 condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    pub target: ReplayTarget,
}

/// A replay, as far as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplayProgress {
    #[serde(flatten)]
    pub order: ReplayOrder,
    pub state: ReplayState,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    pub replayed: u64,
    /// Messages that the filter left out, or that are gone.
    pub passed_over: u64,
    /// Messages not looked at yet.
    pub left: u64,
    pub started_at_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at_ms: Option<i64>,
}

/// The last replay of each group.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplayList {
    pub replays: Vec<ReplayProgress>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::body::golden::assert_golden;

    #[test]
    fn order_and_progress() {
        let order = ReplayOrder {
            group: "g".into(),
            rate: 50,
            filter: [("tag".to_owned(), "a".to_owned())].into(),
            condition: None,
            target: ReplayTarget::Origin,
        };
        assert_golden(&order, r#"{"group":"g","rate":50,"filter":{"tag":"a"},"target":"ORIGIN"}"#);
        assert_golden(
            &ReplayOrder { condition: Some("price > 10".into()), ..order.clone() },
            r#"{"group":"g","rate":50,"filter":{"tag":"a"},"condition":"price > 10","target":"ORIGIN"}"#,
        );
        let progress = ReplayProgress {
            order,
            state: ReplayState::Failed,
            cause: Some("x".into()),
            replayed: 7,
            passed_over: 2,
            left: 1,
            started_at_ms: 5,
            ended_at_ms: Some(6),
        };
        assert_golden(
            &progress,
            r#"{"group":"g","rate":50,"filter":{"tag":"a"},"target":"ORIGIN","state":"FAILED","cause":"x","replayed":7,"passedOver":2,"left":1,"startedAtMs":5,"endedAtMs":6}"#,
        );
    }
}
