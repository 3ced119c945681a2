//! Maps keyed by message queue.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{Error as _, Serialize, SerializeMap, Serializer};

use super::from_str;
use crate::types::MessageQueue;

/// `Map<MessageQueue, V>` of Java. Its keys are strings holding JSON in strict JSON, and raw objects when a Java tool
/// is to read them; both forms are read.
///
/// ```
/// use telstar::protocol::QueueMap;
/// use telstar::types::MessageQueue;
///
/// let queue = MessageQueue { topic: "orders".into(), broker_name: "b".into(), queue_id: 0 };
/// let lags: QueueMap<u64> = [(queue.clone(), 7)].into_iter().collect();
/// assert_eq!(lags.get(&queue), Some(&7)); // as of a map
/// let text = serde_json::to_string(&lags)?;
/// assert_eq!(text, r#"{"{\"brokerName\":\"b\",\"queueId\":0,\"topic\":\"orders\"}":7}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueMap<V>(pub BTreeMap<MessageQueue, V>);

impl<V> Default for QueueMap<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<V> Deref for QueueMap<V> {
    type Target = BTreeMap<MessageQueue, V>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<V> DerefMut for QueueMap<V> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl<V> FromIterator<(MessageQueue, V)> for QueueMap<V> {
    fn from_iter<I: IntoIterator<Item = (MessageQueue, V)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl<V: Serialize> Serialize for QueueMap<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (queue, value) in &self.0 {
            let key = serde_json::to_string(queue).map_err(S::Error::custom)?;
            map.serialize_entry(&key, value)?;
        }
        map.end()
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for QueueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(QueueMapVisitor(PhantomData))
    }
}

struct QueueMapVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for QueueMapVisitor<V> {
    type Value = QueueMap<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map keyed by message queue")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<QueueMap<V>, A::Error> {
        let mut map = QueueMap::default();
        while let Some((key, value)) = entries.next_entry::<String, V>()? {
            let queue = from_str(&key).map_err(A::Error::custom)?;
            map.insert(queue, value);
        }
        Ok(map)
    }
}
