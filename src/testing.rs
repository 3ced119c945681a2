//! The test kit: simulates the mailboxes around an actor, the time, the disk and the clients.
//!
//! It is what the tests of this crate use. Other crates get it by the feature `testing`. `docs/testing.md` goes through it
//! by example: [`fake_mailbox`] stands for an actor beside the one under test, [`Scenario`] writes down who says what to
//! whom, [`Scenario::broker`] puts a whole broker into the scene, with [clients](SceneBroker::client) and
//! [extensions](SceneBrokerBuilder::extension), [`Probe`] waits for an actor, and [`world`] runs seeds.

mod broker;
pub mod calls;
mod client;
mod clock;
#[doc(hidden)]
pub mod log;
mod mailbox;
mod probe;
mod remote_client;
mod scenario;
mod transcript;
mod wording;
pub mod world;

pub use crate::store::memory_files::{FileOperation, MemoryFiles};
pub use broker::{SceneBroker, SceneBrokerBuilder};
#[doc(hidden)]
pub use client::{FakeClient, RequestBuilder, fake_client, request};
pub use clock::{CLOCK_BEGINS, RuntimeClock, pass, settle, stop_time};
pub use mailbox::{Act, MailboxScript, Taken, fake_mailbox, fake_sink, full_mailbox};
pub use probe::Probe;
pub use remote_client::{Asked, BrokerCall, SceneClient};
pub use scenario::{Scenario, Wire};
