//! The test kit: simulates the mailboxes around an actor, the time, the disk and the clients.
//!
//! It is what the tests of this crate use. Other crates get it by the feature `testing`.

mod client;
mod clock;
pub mod log;
mod mailbox;
pub mod world;

pub use client::{FakeClient, RequestBuilder, fake_client, request};
pub use clock::{CLOCK_BEGINS, RuntimeClock, pass, settle};
pub use mailbox::{Act, MailboxScript, Taken, fake_mailbox, fake_sink, full_mailbox};
