//! Telstar: a message broker built of actors that speaks Apache RocketMQ's protocols.
//!
//! A whole broker runs inside a program, or a test of one:
//!
//! ```
//! # fn main() -> Result<(), telstar::fatal::Fatal> {
//! let broker = telstar::Broker::builder().start()?; // a free port, a directory that goes with it
//! println!("clients find it by {}", broker.name_server().expect("it is one, too"));
//! broker.stop()?;
//! # Ok(())
//! # }
//! ```
//!
//! Folders are layers, and imports point downward only: `protocol` (bytes to types and back),
//! `filter` (conditions over messages), `store` (files and rules about them), `actors` (owners of everything mutable), and above them
//! the `client`, the [`Broker`], its [extensions](extension) and the command line.
//!
//! What is shown here is what a program is written with. The inside (actors, files, most of the protocol) is hidden: its
//! parts are `pub` for the programs and tests of this repository and change without notice.
//! `cargo doc --document-private-items` shows it, `ARCHITECTURE.md` goes through it.

#![warn(missing_docs)]

// Hidden is the inside: what actors, headers and files are made of. Their names say what they are; fields and variants
// have no line of their own each.
#[doc(hidden)]
pub mod actors;
mod alike;
mod broker;
pub mod cli;
pub mod client;
pub mod clock;
mod collections;
#[doc(hidden)]
pub mod config;
#[doc(hidden)]
pub mod error;
pub mod extension;
pub mod fatal;
#[doc(hidden)]
pub mod filter;
mod kill_point;
mod plan;
#[doc(hidden)]
pub mod planted;
pub mod protocol;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod simulation;
#[doc(hidden)]
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod types;

pub use actors::facts::LogPositions;
pub use broker::{Broker, BrokerBuilder};
/// The allocator of the program `telstar`. A program with extensions that uses the system's stores an eighth less.
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: telstar::Allocator = telstar::Allocator;
/// ```
#[doc(inline)]
pub use mimalloc::MiMalloc as Allocator;
