//! The body of a batch send (request 320): entries back to back, without a count.
//!
//! ```text
//! │ total 4 │ magic 4 │ crc 4 │ flag 4 │ body len 4 │ body │ properties len 2 │ properties │
//! ```
//!
//! Total, magic and CRC are not looked at, as in RocketMQ (`MessageExtBatchEncoder`).

use bytes::{Buf, Bytes};

/// Bytes of an entry before its body.
const HEAD_BYTES: usize = 20;

/// One message of a batch; both parts share the memory of the request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchEntry {
    pub flag: i32,
    pub body: Bytes,
    pub properties: Bytes,
}

/// An entry is cut off or names impossible lengths.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("batch entry {entry} does not fit the request body")]
pub struct BatchError {
    /// Number of the entry, from 0.
    pub entry: usize,
}

/// Entries of a batch body; ends after the first error.
#[derive(Clone, Debug)]
pub struct BatchEntries {
    rest: Bytes,
    entry: usize,
}

impl BatchEntries {
    pub fn new(body: Bytes) -> Self {
        Self { rest: body, entry: 0 }
    }

    fn take(&mut self) -> Option<BatchEntry> {
        let mut head = take_bytes(&mut self.rest, HEAD_BYTES)?;
        head.advance(12);
        let flag = head.get_i32();
        let body = take_bytes(&mut self.rest, usize::try_from(head.get_i32()).ok()?)?;
        let properties_len = take_bytes(&mut self.rest, 2)?.get_i16();
        let properties = take_bytes(&mut self.rest, usize::try_from(properties_len).ok()?)?;
        Some(BatchEntry { flag, body, properties })
    }
}

impl Iterator for BatchEntries {
    type Item = Result<BatchEntry, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let entry = self.take().ok_or(BatchError { entry: self.entry });
        self.entry += 1;
        if entry.is_err() {
            self.rest.clear();
        }
        Some(entry)
    }
}

fn take_bytes(rest: &mut Bytes, len: usize) -> Option<Bytes> {
    (len <= rest.len()).then(|| rest.split_to(len))
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use proptest::prelude::*;

    use super::*;

    fn encode(entries: &[(i32, &[u8], &[u8])]) -> Bytes {
        let mut body = Vec::new();
        for (flag, content, properties) in entries {
            body.put_i32((22 + content.len() + properties.len()) as i32);
            body.put_i64(0);
            body.put_i32(*flag);
            body.put_i32(content.len() as i32);
            body.put_slice(content);
            body.put_i16(properties.len() as i16);
            body.put_slice(properties);
        }
        body.into()
    }

    #[test]
    fn entries_come_out_in_order() {
        let body = encode(&[(7, b"one", b"TAGS\x01a\x02"), (0, b"", b"")]);
        let entries: Vec<_> = BatchEntries::new(body).map(Result::unwrap).collect();
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].flag, &entries[0].body[..]), (7, &b"one"[..]));
        assert_eq!(entries[0].properties, &b"TAGS\x01a\x02"[..]);
        assert!(entries[1].body.is_empty());
    }

    #[test]
    fn batch_cut_at_any_byte_ends_with_an_error() {
        let body = encode(&[(7, b"one", b"p\x01v\x02"), (8, b"two", b"")]);
        let first = 22 + 3 + 4;
        for len in 0..body.len() {
            let found: Vec<_> = BatchEntries::new(body.slice(..len)).collect();
            let whole = if len < first { 0 } else { 1 };
            assert_eq!(found.iter().filter(|entry| entry.is_ok()).count(), whole);
            let cut = len != 0 && len != first;
            assert_eq!(found.last().is_some_and(|last| *last == Err(BatchError { entry: whole })), cut);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_readable(body: Vec<u8>) {
            prop_assert!(BatchEntries::new(body.into()).count() < 1000);
        }
    }
}
