//! What MARK_CONSUMED (29020) and QUERY_CONSUMED (29021) carry. Ours: the Java broker has no such requests.

use serde::{Deserialize, Serialize};

use crate::types::GroupName;

/// Unique keys of messages, and the group that has processed them, or is asked about.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupKeys {
    pub group: GroupName,
    pub keys: Vec<String>,
}

/// The answer to both: when each key was marked, ms since 1970, in the order they were asked for; none if it was not. To
/// who marks: before that.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumedTimes {
    pub marked_at_ms: Vec<Option<i64>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::body::golden::assert_golden;

    #[test]
    fn keys_and_times() {
        let keys = GroupKeys { group: "g".into(), keys: vec!["a".into(), "b".into()] };
        assert_golden(&keys, r#"{"group":"g","keys":["a","b"]}"#);
        let times = ConsumedTimes { marked_at_ms: vec![Some(7), None] };
        assert_golden(&times, r#"{"markedAtMs":[7,null]}"#);
    }
}
