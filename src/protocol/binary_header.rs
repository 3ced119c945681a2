//! The ROCKETMQ header codec (RocketMQ: `RocketMQSerializable`).
//!
//! ```text
//! 0      2          3         5        9      13          17       17+R      21+R
//! | code | language | version | opaque | flag | remarkLen | remark | extLen  | name len (2), name, value len (4), value …
//! ```
//! The code is cut to 16 bits: requests of the POP family cannot be asked in this codec.

use bytes::{BufMut, BytesMut};
use thiserror::Error;

use super::command::{FieldValue, Head, Language, OWN_VERSION, OutgoingHead, put_int};
use super::ext_fields::ExtFields;

const FIXED_BYTES: usize = 21;

/// What is wrong with a binary header.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum BinaryHeaderError {
    #[error("binary header ends within {part}, at byte {at}")]
    Cut { part: &'static str, at: usize },
    #[error("binary header holds text that is not UTF-8, in {part}")]
    NotUtf8 { part: &'static str },
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn take(&mut self, len: usize, part: &'static str) -> Result<(usize, usize), BinaryHeaderError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(BinaryHeaderError::Cut { part, at: self.at })?;
        let start = std::mem::replace(&mut self.at, end);
        Ok((start, end))
    }

    fn array<const N: usize>(&mut self, part: &'static str) -> Result<[u8; N], BinaryHeaderError> {
        let (start, end) = self.take(N, part)?;
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes[start..end]);
        Ok(array)
    }

    fn int(&mut self, part: &'static str) -> Result<i32, BinaryHeaderError> {
        Ok(i32::from_be_bytes(self.array(part)?))
    }

    fn text(&mut self, len: i64, part: &'static str) -> Result<(usize, usize), BinaryHeaderError> {
        let len = usize::try_from(len).map_err(|_| BinaryHeaderError::Cut { part, at: self.at })?;
        let (start, end) = self.take(len, part)?;
        match std::str::from_utf8(&self.bytes[start..end]) {
            Ok(_) => Ok((start, end)),
            Err(_) => Err(BinaryHeaderError::NotUtf8 { part }),
        }
    }
}

/// Reads the header that `fields` was made over into the fixed part and `fields`.
pub(super) fn read(fields: &mut ExtFields) -> Result<Head, BinaryHeaderError> {
    let header = fields.header().clone();
    let mut cursor = Cursor { bytes: &header, at: 0 };
    let code = i16::from_be_bytes(cursor.array("the code")?) as i32;
    let language = Language(cursor.array::<1>("the language")?[0]);
    let version = i16::from_be_bytes(cursor.array("the version")?) as i32;
    let opaque = cursor.int("the opaque")?;
    let flag = cursor.int("the flag")?;
    let remark_len = cursor.int("the remark")?;
    let (start, end) = cursor.text(remark_len as i64, "the remark")?;
    let remark = (end > start).then(|| String::from_utf8_lossy(&header[start..end]).into_owned());
    let ext_len = cursor.int("the ext fields")?;
    let (ext_start, ext_end) =
        cursor.take(usize::try_from(ext_len).unwrap_or(usize::MAX), "the ext fields")?;
    let mut cursor = Cursor { bytes: &header[..ext_end], at: ext_start };
    while cursor.at < ext_end {
        let name_len = u16::from_be_bytes(cursor.array("a field name")?);
        let name = cursor.text(name_len as i64, "a field name")?;
        let value_len = cursor.int("a field value")?;
        let value = cursor.text(value_len as i64, "a field value")?;
        fields.push(ExtFields::plain(name.0, name.1), ExtFields::plain(value.0, value.1));
    }
    Ok(Head { code, language, version, opaque, flag, remark })
}

pub(super) fn write(head: &OutgoingHead<'_>, out: &mut BytesMut) {
    out.reserve(FIXED_BYTES + 32 * head.fields.len());
    out.put_i16(head.code as i16);
    out.put_u8(head.language.0);
    out.put_i16(OWN_VERSION as i16);
    out.put_i32(head.opaque);
    out.put_i32(head.flag);
    let remark = head.remark.unwrap_or_default();
    out.put_i32(remark.len() as i32);
    out.extend_from_slice(remark.as_bytes());
    let len_at = out.len();
    out.put_i32(0);
    for (name, value) in head.fields {
        out.put_u16(name.len() as u16);
        out.extend_from_slice(name.as_bytes());
        let value_at = out.len();
        out.put_i32(0);
        match value {
            FieldValue::Text(text) => out.extend_from_slice(text.as_bytes()),
            FieldValue::Int(number) => put_int(out, *number),
            FieldValue::Bool(yes) => out.extend_from_slice(if *yes { b"true" } else { b"false" }),
        }
        let value_len = (out.len() - value_at - 4) as i32;
        out[value_at..value_at + 4].copy_from_slice(&value_len.to_be_bytes());
    }
    let ext_len = (out.len() - len_at - 4) as i32;
    out[len_at..len_at + 4].copy_from_slice(&ext_len.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// Code 11, GO, version 317, opaque 9, flag 0, no remark, one field `a` = `bc`.
    const GOLDEN: &[u8] = &[
        0, 11, 9, 1, 61, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, b'a', 0, 0, 0, 2, b'b', b'c',
    ];

    #[test]
    fn reads_golden_bytes_and_refuses_every_cut() {
        let mut fields = ExtFields::over(Bytes::from_static(GOLDEN));
        let head = read(&mut fields).unwrap();
        assert_eq!(
            head,
            Head { code: 11, language: Language(9), version: 317, opaque: 9, flag: 0, remark: None }
        );
        assert_eq!(fields.iter().collect::<Vec<_>>(), [("a", "bc")]);
        for cut in 0..GOLDEN.len() {
            assert!(read(&mut ExtFields::over(Bytes::from_static(&GOLDEN[..cut]))).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn writes_golden_bytes() {
        let fields = [("a", FieldValue::Text("bc"))];
        let head = OutgoingHead {
            language: Language(9),
            fields: &fields,
            ..OutgoingHead::request(super::super::frame::HeaderCodec::Binary, 9, 11)
        };
        let mut out = BytesMut::new();
        write(&head, &mut out);
        out[3..5].copy_from_slice(&317i16.to_be_bytes()); // our own version is another
        assert_eq!(&out[..], GOLDEN);
    }

    #[test]
    fn negative_lengths_are_refused() {
        let mut bytes = GOLDEN.to_vec();
        bytes[13..17].copy_from_slice(&(-1i32).to_be_bytes());
        assert!(read(&mut ExtFields::over(bytes.into())).is_err());
    }
}
