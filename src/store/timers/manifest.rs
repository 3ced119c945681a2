//! Which files of timers count, and up to where in the log.
//!
//! ```text
//!   magic 8 │ log position 8 │ number of the journal 8 │ first key not settled 16
//!   runs 4 × (number 8 │ count 8 │ last key 16 │ first physical offset 8 │ crc of the file 4 │ read from 16)
//!   settled keys 4 × 16
//!   topics 4 × (hash 4 │ pending 8)
//!   crc of all before 4
//! ```

use bytes::{Buf, BufMut};

use super::entry::TimerKey;
use super::run::RunFacts;
use crate::types::{PhysicalOffset, QueueOffset};

const MAGIC: u64 = u64::from_be_bytes(*b"TTIMERS2");

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    /// What the log tells below this position is in runs and settled keys; the rest is in the journal.
    pub through: PhysicalOffset,
    pub journal: u64,
    /// Each with the key from which on it matters.
    pub runs: Vec<(RunFacts, TimerKey)>,
    /// Settled, though a run has it where it matters.
    pub settled: Vec<TimerKey>,
    /// Pending by topic.
    pub counts: Vec<(u32, i64)>,
}

impl Manifest {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + self.runs.len() * 64 + self.settled.len() * 16);
        bytes.put_u64(MAGIC);
        bytes.put_u64(self.through.0);
        bytes.put_u64(self.journal);
        bytes.put_u32(self.runs.len() as u32);
        for (facts, from) in &self.runs {
            bytes.put_u64(facts.number);
            bytes.put_u64(facts.count);
            put_key(&mut bytes, facts.last);
            bytes.put_u64(facts.min_physical.0);
            bytes.put_u32(facts.crc);
            put_key(&mut bytes, *from);
        }
        bytes.put_u32(self.settled.len() as u32);
        self.settled.iter().for_each(|key| put_key(&mut bytes, *key));
        bytes.put_u32(self.counts.len() as u32);
        for (topic_hash, pending) in &self.counts {
            bytes.put_u32(*topic_hash);
            bytes.put_i64(*pending);
        }
        bytes.put_u32(crc32fast::hash(&bytes));
        bytes
    }

    /// `None`: not a manifest, or not a whole one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut bytes, mut crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        if crc.get_u32() != crc32fast::hash(bytes) || bytes.try_get_u64().ok()? != MAGIC {
            return None;
        }
        let bytes = &mut bytes;
        let mut manifest = Self {
            through: PhysicalOffset(bytes.try_get_u64().ok()?),
            journal: bytes.try_get_u64().ok()?,
            ..Self::default()
        };
        for _ in 0..bytes.try_get_u32().ok()? {
            let facts = RunFacts {
                number: bytes.try_get_u64().ok()?,
                count: bytes.try_get_u64().ok()?,
                last: get_key(bytes)?,
                min_physical: PhysicalOffset(bytes.try_get_u64().ok()?),
                crc: bytes.try_get_u32().ok()?,
            };
            manifest.runs.push((facts, get_key(bytes)?));
        }
        for _ in 0..bytes.try_get_u32().ok()? {
            manifest.settled.push(get_key(bytes)?);
        }
        for _ in 0..bytes.try_get_u32().ok()? {
            manifest.counts.push((bytes.try_get_u32().ok()?, bytes.try_get_i64().ok()?));
        }
        Some(manifest)
    }
}

fn put_key(bytes: &mut Vec<u8>, key: TimerKey) {
    bytes.put_i64(key.due_ms);
    bytes.put_u64(key.queue_offset.0);
}

fn get_key(bytes: &mut &[u8]) -> Option<TimerKey> {
    let due_ms = bytes.try_get_i64().ok()?;
    Some(TimerKey { due_ms, queue_offset: QueueOffset(bytes.try_get_u64().ok()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_is_read_back_whole_or_not_at_all() {
        let key = |n: u64| TimerKey { due_ms: -(n as i64), queue_offset: QueueOffset(n) };
        let facts = RunFacts { number: 5, count: 9, last: key(3), min_physical: PhysicalOffset(77), crc: 99 };
        let manifest = Manifest {
            through: PhysicalOffset(1 << 40),
            journal: 6,
            runs: vec![(facts, key(1)), (RunFacts { number: 2, ..facts }, TimerKey::MIN)],
            settled: vec![key(4), key(5)],
            counts: vec![(7, 3), (8, -1)],
        };
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes), Some(manifest));
        for cut in 0..bytes.len() {
            assert_eq!(Manifest::decode(&bytes[..cut]), None, "cut at {cut}");
        }
        let mut damaged = bytes.clone();
        damaged[30] ^= 1;
        assert_eq!(Manifest::decode(&damaged), None);
    }
}
