//! Tests of the whole broker: the built program as a process of its own, spoken to over its ports.

mod actor_table;
mod actors;
mod commands;
mod compaction;
mod consumed;
mod crash;
mod derived;
mod embedded;
mod extensions;
mod filters;
mod hostile;
mod layers;
mod lifecycle;
mod messages;
mod not_there;
mod ordered;
mod replay;
mod retention;
mod retries;
mod rot;
mod story;
mod supervision;
mod support;
mod timers;
mod tolerance;
mod transactions;
