//! Extensions: actors of others that take part in the broker. What they may be told and asked ([`events`]), what each
//! takes part in ([`hooks`]), who runs them ([`host`]), and what they may ask of the broker ([`door`]).

pub mod broker_handle;
pub mod door;
pub mod events;
pub mod hooks;
pub mod host;
pub mod stream;
