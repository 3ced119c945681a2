//! What LIST_ACTORS (29003) is answered with. Ours: the Java broker has no such request.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Actors of a process, as far as they were asked for.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ActorPage {
    /// All that run.
    pub running: usize,
    /// Those that the name fits.
    pub matching: usize,
    pub actors: Vec<ActorState>,
}

/// An actor, and what it has done since it was started. Times are in microseconds.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ActorState {
    pub id: u64,
    /// `TopicQueue orders/0`.
    pub name: String,
    /// `TopicQueue`.
    pub kind: String,
    pub thread: String,
    /// The actor that started it; none: the process did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_by: Option<u64>,
    pub age_us: u64,
    /// Messages in its mailbox; none: it did not answer in time.
    pub depth: Option<u64>,
    /// Messages that may wait there.
    pub capacity: usize,
    /// Messages taken from there.
    pub handled: u64,
    pub turns: u64,
    /// How often what it looks after (an extension, a connection to a name server) was started again. Nothing restarts
    /// the other actors: when one of them fails the process ends.
    pub restarts: u64,
    pub busy_us: u64,
    /// Of its age, 0 to 1.
    pub busy_share: f64,
    pub longest_turn_us: u64,
    /// What it is at now; none: it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnState>,
    /// Handled messages by kind; with facts only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<KindCount>,
    /// What it tells of itself, where that was asked for.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub facts: Value,
    /// The last messages it handled, oldest first, where that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recorder: Vec<RecordedMessage>,
}

/// A turn that is not over.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TurnState {
    /// The kind of the message that was taken last.
    pub message: String,
    pub lasts_us: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KindCount {
    pub message: String,
    pub handled: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RecordedMessage {
    pub message: String,
    /// Before the answer was made.
    pub ended_us_ago: u64,
    pub took_us: u64,
}
