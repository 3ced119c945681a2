//! What DRAIN_BROKER (29001) is answered with. Ours: the Java broker has no such request.

use serde::{Deserialize, Serialize};

/// The state of a drain.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DrainStatus {
    /// Whether sends are refused for it.
    pub draining: bool,
    /// Everything stored before the answer is on disk, under a check point.
    pub settled: bool,
    /// Why it is not, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsettled: Option<String>,
    /// Clients whose last heartbeat was that of a producer; they leave when their routes are renewed.
    pub producers: usize,
    pub consumers: usize,
}
