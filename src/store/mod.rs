//! Files and rules about them; synchronous, no actix.

pub mod metadata;
pub mod file;
pub mod mapped_file;
pub mod memory_files;
