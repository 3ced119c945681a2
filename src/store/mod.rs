//! Files and rules about them; synchronous, no actix.

mod commit_log_reader;

pub mod commit_log;
pub mod consume_queue;
pub mod file;
pub mod index_file;
pub mod java_config;
pub mod java_export;
pub mod java_import;
pub mod key_index;
pub mod mapped_file;
pub mod memory_files;
pub mod metadata;
pub mod pull;
pub mod recovery;
pub mod retention;
pub mod retired_segments;
pub mod segment;
pub mod store_check_point;
pub mod store_lock;
