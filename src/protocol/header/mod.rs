//! Typed headers: one struct per request, parsed once at the edge. Inside the broker nobody reads an ext
//! field by its name.

mod broker_admin;
mod client;
mod field;
mod group_admin;
mod name_server;
mod pull;
mod send;
mod timer;
mod topic_admin;

pub use broker_admin::*;
pub use client::*;
pub use field::{FieldWriter, HeaderError, HeaderField, TypedHeader};
pub use group_admin::*;
pub use name_server::*;
pub use pull::*;
pub use send::*;
pub use timer::*;
pub use topic_admin::*;
