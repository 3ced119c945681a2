//! Writing bodies.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, Serializer};

use super::FastJsonError;

/// Strict JSON. Integer keys are quoted (`{"0":…}`), which every client reads.
pub fn to_vec<T: Serialize + ?Sized>(body: &T) -> Result<Vec<u8>, FastJsonError> {
    Ok(serde_json::to_vec(body)?)
}

/// As [`to_vec`], with the keys of every [`QueueMap`](super::QueueMap) as raw objects, the only form
/// that fastjson before 1.2.83 reads.
pub fn to_vec_java<T: Serialize + ?Sized>(body: &T) -> Result<Vec<u8>, FastJsonError> {
    let mut bytes = Vec::with_capacity(256);
    body.serialize(&mut Serializer::with_formatter(&mut bytes, RawQueueKeys::default()))?;
    Ok(bytes)
}

/// How the text of a message queue begins: what tells a [`QueueMap`](super::QueueMap) key from every
/// other one. No topic, group, client or broker is named like this.
const QUEUE_KEY_PREFIX: &[u8] = br#"{"brokerName":"#;

/// Collects each key unescaped, and decides when it is whole.
#[derive(Default)]
struct RawQueueKeys {
    in_key: bool,
    key: Vec<u8>,
}

/// Scalars may be keys too.
macro_rules! scalars {
    ($($method:ident($type:ty))*) => {$(
        fn $method<W: ?Sized + Write>(&mut self, out: &mut W, value: $type) -> io::Result<()> {
            if self.in_key {
                return CompactFormatter.$method(&mut self.key, value);
            }
            CompactFormatter.$method(out, value)
        }
    )*};
}

impl Formatter for RawQueueKeys {
    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.in_key = true;
        self.key.clear();
        CompactFormatter.begin_object_key(out, first)
    }

    fn end_object_key<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.in_key = false;
        if self.key.starts_with(QUEUE_KEY_PREFIX) {
            return out.write_all(&self.key);
        }
        let key = String::from_utf8_lossy(&self.key);
        serde_json::to_writer(out, &key).map_err(io::Error::from)
    }

    // The quotes around a key come through these two as well, also for scalar keys.
    fn begin_string<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        if self.in_key {
            return Ok(());
        }
        out.write_all(b"\"")
    }

    fn end_string<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        if self.in_key {
            return Ok(());
        }
        out.write_all(b"\"")
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        if self.in_key {
            self.key.extend_from_slice(fragment.as_bytes());
            return Ok(());
        }
        out.write_all(fragment.as_bytes())
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, out: &mut W, escape: CharEscape) -> io::Result<()> {
        if !self.in_key {
            return CompactFormatter.write_char_escape(out, escape);
        }
        self.key.push(match escape {
            CharEscape::Quote => b'"',
            CharEscape::ReverseSolidus => b'\\',
            CharEscape::Solidus => b'/',
            CharEscape::Backspace => 0x08,
            CharEscape::FormFeed => 0x0c,
            CharEscape::LineFeed => b'\n',
            CharEscape::CarriageReturn => b'\r',
            CharEscape::Tab => b'\t',
            CharEscape::AsciiControl(byte) => byte,
        });
        Ok(())
    }

    scalars! {
        write_bool(bool) write_i8(i8) write_i16(i16) write_i32(i32) write_i64(i64) write_i128(i128)
        write_u8(u8) write_u16(u16) write_u32(u32) write_u64(u64) write_u128(u128)
        write_f32(f32) write_f64(f64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::protocol::fastjson::{QueueMap, from_slice};
    use crate::types::MessageQueue;

    fn queue(broker: &str, queue_id: i32, topic: &str) -> MessageQueue {
        MessageQueue { broker_name: broker.into(), queue_id, topic: topic.into() }
    }

    #[test]
    fn queue_keys_are_raw_for_java_and_strings_in_strict_json() {
        let map: QueueMap<i32> = [(queue("b", 0, "T"), 5)].into_iter().collect();
        assert_eq!(to_vec_java(&map).unwrap(), br#"{{"brokerName":"b","queueId":0,"topic":"T"}:5}"#);
        assert_eq!(to_vec(&map).unwrap(), br#"{"{\"brokerName\":\"b\",\"queueId\":0,\"topic\":\"T\"}":5}"#);
    }

    #[test]
    fn other_keys_are_quoted_in_both_forms() {
        let map = BTreeMap::from([(0i8, "a\"b"), (-1, "\n")]);
        let expected = br#"{"-1":"\n","0":"a\"b"}"#;
        assert_eq!(to_vec(&map).unwrap(), expected);
        assert_eq!(to_vec_java(&map).unwrap(), expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn both_forms_read_back(entries in prop::collection::vec(any::<(String, i32, String, i64)>(), 0..8), keys: BTreeMap<String, u32>) {
            let map: QueueMap<i64> = entries
                .into_iter()
                .map(|(broker, id, topic, offset)| (queue(&broker, id, &topic), offset))
                .collect();
            prop_assert_eq!(&from_slice::<QueueMap<i64>>(&to_vec(&map).unwrap()).unwrap(), &map);
            prop_assert_eq!(&from_slice::<QueueMap<i64>>(&to_vec_java(&map).unwrap()).unwrap(), &map);
            prop_assert_eq!(to_vec_java(&keys).unwrap(), to_vec(&keys).unwrap());
        }
    }
}
