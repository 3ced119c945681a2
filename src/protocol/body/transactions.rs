//! What requests about open transactions are answered with. Ours: the Java broker has no such requests.

use serde::{Deserialize, Serialize};

use crate::types::{GroupName, TopicName};

/// One transaction that nobody has decided.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TransactionInfo {
    /// Queue offset of the half message: what it is called by.
    pub half_offset: u64,
    pub physical_offset: u64,
    /// Unique key of the message.
    pub transaction_id: String,
    /// Of its producers.
    pub group: GroupName,
    /// Where it goes when it is committed.
    pub topic: TopicName,
    pub queue_id: u32,
    pub keys: String,
    pub body_bytes: usize,
    pub stored_at_ms: i64,
    pub age_ms: i64,
    /// How often a producer was asked, of how often at most.
    pub checks: u32,
    pub check_max: u32,
    /// When a producer is asked next, ms.
    pub next_check_ms: i64,
    /// Nobody produced for its group when it was last due.
    pub unattended: bool,
}

/// The answer to LIST_TRANSACTIONS (29101).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TransactionList {
    pub transactions: Vec<TransactionInfo>,
    /// Where the next page begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// All that have not ended, whatever was asked for.
    pub open: usize,
}
