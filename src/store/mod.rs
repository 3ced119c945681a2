//! Files and rules about them; synchronous, no actix.

mod commit_log_reader;

pub mod commit_log;
pub mod compacted_log;
pub mod compaction_positions;
pub mod consume_queue;
pub mod damage;
pub mod derived_check;
pub mod file;
pub mod index_file;
pub mod java_config;
pub mod java_export;
pub mod java_import;
pub mod key_index;
pub mod known_derived;
pub mod mapped_file;
pub mod memory_files;
#[cfg(any(test, feature = "testing"))]
pub mod memory_metadata;
pub mod message_filter;
pub mod metadata;
pub mod open_files;
pub mod opening;
pub mod pull;
pub mod recovery;
pub mod recovery_progress;
pub mod retention;
pub mod retired_segments;
pub mod segment;
pub mod store_check_point;
pub mod store_lock;
pub mod timers;
pub mod verify;
#[cfg(target_os = "linux")]
mod write_back;
