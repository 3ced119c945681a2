//! Typed JSON bodies, one file per family, with Java's names.
//!
//! Read them with [`fastjson::from_slice`](super::fastjson::from_slice), which forgives nulls, numbers as
//! strings and the like; missing fields take the default and unknown ones are ignored. Write them with
//! [`fastjson::to_vec`](super::fastjson::to_vec), or with [`to_vec_java`](super::fastjson::to_vec_java) where
//! the type holds a [`QueueMap`](super::fastjson::QueueMap).

pub mod actors;
pub mod assignment;
pub mod batch_ack;
pub mod connections;
pub mod consumed;
pub mod dead_letters;
pub mod drain;
pub mod group_why;
pub mod ha;
pub mod heartbeat;
mod java_enum;
pub mod lock;
pub mod offsets;
pub mod registration;
mod registration_deflated;
pub mod route;
pub mod settings;
pub mod stats;
pub mod story;
pub mod subscription;
pub mod timers;
pub mod transactions;

#[cfg(test)]
mod golden;
