//! Files and rules about them; synchronous, no actix.

pub mod metadata;
