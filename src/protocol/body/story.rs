//! What EXPLAIN_MESSAGE (29002) is answered with. Ours: the Java broker has no such request.

use serde::{Deserialize, Serialize};

/// What became of a message.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MessageStory {
    /// Whether this broker has it, or had it.
    pub found: bool,
    /// The state it is in, as one sentence.
    pub verdict: String,
    /// What happened to it, oldest first.
    pub events: Vec<StoryEvent>,
    /// How the groups that consume it stand: the one that was asked for, or all.
    pub groups: Vec<GroupStory>,
}

/// One thing that happened to a message, and left a copy of it in the log.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StoryEvent {
    /// When, ms since 1970.
    pub at_ms: i64,
    /// stored, delayed, timed, prepared, abandoned, retried or dead.
    pub kind: String,
    pub text: String,
    pub topic: String,
    pub queue_id: u32,
    pub queue_offset: u64,
    pub physical_offset: u64,
}

/// How a group stands to a message.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupStory {
    pub group: String,
    pub verdict: String,
    /// What the verdict stands on.
    pub facts: Vec<String>,
}
