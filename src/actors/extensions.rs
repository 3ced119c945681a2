//! Extensions: actors of others that take part in the broker. What they are told ([`events`]) and asked ([`decisions`]),
//! what each takes part in ([`hooks`]), who runs them ([`host`]), where those on the way of a request find them
//! ([`hook_table`]), and what they may ask of the broker ([`broker_handle`], [`door`]).

pub mod breaker;
pub mod broker_handle;
pub mod decision_gate;
pub mod decisions;
pub mod delivery_screen;
pub mod door;
pub mod event_inbox;
pub mod events;
pub mod hook_table;
pub mod hooks;
pub mod host;
pub mod http_listener;
pub mod stream;
