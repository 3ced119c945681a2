//! Files and rules about them; synchronous, no actix.

pub mod consume_queue;
pub mod file;
pub mod index_file;
pub mod key_index;
pub mod mapped_file;
pub mod memory_files;
pub mod metadata;
