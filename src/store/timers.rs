//! Messages that wait for a time of their own: which are pending, in the order of their due times.
//!
//! Derived from the commit log, like consume queues: a record of the timer topic adds an entry, a record with the
//! property [`TIMER_SETTLES`](crate::protocol::properties::names::TIMER_SETTLES) takes one away. Entries that came
//! lately are in memory ([`PendingTimers`]) and in a journal; 64 Ki of them at a time become a `run`, a file sorted
//! by due time of which only the part that is due next is in memory. Runs of a size are merged, without what was
//! settled meanwhile.
//!
//! ```text
//!   timer/manifest              which runs and which journal count, and up to where in the log
//!   timer/00000000000000000007.journal   what came since the manifest
//!   timer/00000000000000000005.run       entries by due time
//! ```
//!
//! Nothing here is needed that the log does not tell: a directory that is missing or damaged is derived anew.

mod entry;
mod journal;
mod manifest;
mod merge;
mod news;
mod opening;
mod pending;
mod run;
mod save;

pub use entry::{Settled, TimerEntry, TimerKey, TimerRecord, topic_hash};
pub use news::{TimerName, TimerNews};
pub use opening::{OpenedTimers, open_timers};
pub use pending::PendingTimers;
pub use save::{SaveJob, Saved, TimerDir};

#[cfg(test)]
mod tests;
