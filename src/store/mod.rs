//! Files and rules about them; synchronous, no actix.

pub mod file;
pub mod mapped_file;
pub mod memory_files;
pub mod metadata;
