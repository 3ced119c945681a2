//! The words of the broker as types. A number with a meaning is never a bare integer.
//!
//! Ranges of offsets are half-open: `[min, max)`. Java's `-1` for "none" becomes `Option` at the edge of the wire.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// When a send, or a commit of a consumer offset, is answered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[doc(hidden)]
pub enum FlushMode {
    /// Before it is on disk.
    #[default]
    Async,
    /// When it is on disk; consumers see a message no earlier.
    Sync,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps a name as it came; nothing is checked here.
            pub fn new(name: impl Into<Arc<str>>) -> Self {
                Self(name.into())
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.into())
            }
        }

        impl From<String> for $name {
            fn from(name: String) -> Self {
                Self(name.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name! {
    /// Name of a topic: 1 to 127 characters of `[%|a-zA-Z0-9_-]`; retry and dead letter topics up to 255.
    ///
    /// The default is empty: a name that was not given.
    ///
    /// ```
    /// use telstar::types::TopicName;
    ///
    /// let topic = TopicName::from("orders");
    /// assert_eq!(topic, TopicName::new(format!("order{}", 's')));
    /// assert!(topic.starts_with("ord")); // as of any text
    /// ```
    TopicName
}
name! {
    /// Name of a producer or consumer group: 1 to 120 characters.
    ///
    /// The default is empty: a name that was not given.
    ///
    /// ```
    /// use telstar::types::{GroupName, TopicName};
    ///
    /// /// Where messages of a group wait that were given back.
    /// fn retry_topic(group: &GroupName) -> TopicName {
    ///     format!("%RETRY%{group}").into()
    /// }
    /// assert_eq!(retry_topic(&"bank".into()).as_str(), "%RETRY%bank");
    /// ```
    GroupName
}
name! {
    /// What a client calls itself: `ip@instance`, unique among running clients.
    ///
    /// The default is empty: a name that was not given.
    ///
    /// ```
    /// use telstar::types::ClientId;
    ///
    /// let id = ClientId::from(format!("127.0.0.1@{}", std::process::id()));
    /// assert!(id.contains('@'));
    /// let clients = std::collections::BTreeSet::from([id.clone()]);
    /// assert!(clients.contains(id.as_str())); // found by its text
    /// ```
    ClientId
}
name! {
    /// Name of a broker; a master and its slaves share it.
    ///
    /// The default is empty: a name that was not given.
    ///
    /// ```
    /// use telstar::types::{BrokerName, MessageQueue};
    ///
    /// let broker = BrokerName::from("broker-a");
    /// let queue = MessageQueue { topic: "orders".into(), broker_name: broker.clone(), queue_id: 3 };
    /// assert_eq!(queue.broker_name.to_string(), "broker-a");
    /// assert_eq!(BrokerName::default().as_str(), ""); // none is known
    /// ```
    BrokerName
}

/// Number of a message queue within its topic on one broker, from 0.
///
/// ```
/// use telstar::types::QueueId;
///
/// let queues: Vec<QueueId> = (0..8).map(QueueId).collect();
/// // Orders of a customer go to one queue, and keep their order.
/// let queue_of = |customer: usize| queues[customer % queues.len()];
/// assert_eq!(queue_of(3), queue_of(11));
/// assert_eq!(format!("orders/{}", queue_of(3)), "orders/3");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct QueueId(pub u32);

/// Number of a unit in a consume queue: the n-th message ever stored in that queue, from 0.
///
/// ```
/// use telstar::types::QueueOffset;
///
/// let (consumed, end) = (QueueOffset(7), QueueOffset(10));
/// assert_eq!(end.0 - consumed.0, 3); // messages that wait
/// assert_eq!(consumed.advance(3), end);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct QueueOffset(pub u64);

/// Byte position in the commit log, from 0 over all segments.
///
/// ```
/// use telstar::types::PhysicalOffset;
///
/// let (begin, end) = (PhysicalOffset(4096), PhysicalOffset(4096).advance(120));
/// assert!(begin < end);
/// assert_eq!(end.to_string(), "4216");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PhysicalOffset(pub u64);

macro_rules! display_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}
display_number!(QueueId, QueueOffset, PhysicalOffset);

impl QueueOffset {
    /// The offset `count` units further on.
    pub fn advance(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

impl PhysicalOffset {
    /// The position `len_bytes` further on.
    pub fn advance(self, len_bytes: u64) -> Self {
        Self(self.0 + len_bytes)
    }
}

/// One ordered part of a topic, as clients address it.
///
/// ```
/// use telstar::types::MessageQueue;
///
/// let queue = MessageQueue { topic: "orders".into(), broker_name: "a".into(), queue_id: 0 };
/// let next = MessageQueue { queue_id: 1, ..queue.clone() };
/// assert!(queue < next); // by broker, and by number in it
/// let text = serde_json::to_string(&next)?; // as Java writes it
/// assert_eq!(text, r#"{"brokerName":"a","queueId":1,"topic":"orders"}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageQueue {
    /// The broker that has it.
    pub broker_name: BrokerName,
    /// Its number in the topic.
    pub queue_id: i32,
    /// The topic.
    pub topic: TopicName,
}
