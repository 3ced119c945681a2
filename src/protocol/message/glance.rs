//! A record at a glance, for who counts records and must cost little beside those who store and send them.

use super::{
    AT_BORN_HOST, AT_QUEUE_OFFSET, AT_SYS_FLAG, EntryHead, FROM_BORN_HOST_TO_STORE_HOST,
    FROM_STORE_HOST_TO_BODY, MAGIC_BLANK, RecordError, host_len, i32_at, i64_at,
};
use crate::protocol::sys_flag::{BORN_HOST_V6, STORE_HOST_V6};
use crate::types::QueueOffset;

/// A record whose length and magic are looked at, and nothing behind them until it is asked for.
#[derive(Clone, Copy)]
pub struct RecordGlance<'a> {
    buf: &'a [u8],
}

impl<'a> RecordGlance<'a> {
    /// Looks at the record that `buf` begins with; bytes behind it are left alone.
    pub fn of(buf: &'a [u8]) -> Result<Self, RecordError> {
        match EntryHead::parse(buf)? {
            EntryHead::Record { len } => match buf.get(..len) {
                Some(buf) => Ok(Self { buf }),
                None => Err(RecordError::Cut { needed: len, found: buf.len() }),
            },
            EntryHead::Blank { .. } => Err(RecordError::Magic { magic: MAGIC_BLANK }),
        }
    }

    pub fn total_len(&self) -> usize {
        self.buf.len()
    }

    pub fn queue_offset(&self) -> QueueOffset {
        QueueOffset(i64_at(self.buf, AT_QUEUE_OFFSET) as u64)
    }

    /// The body, where its length says it is; its CRC and what lies behind it are not looked at.
    pub fn body(&self) -> Result<&'a [u8], RecordError> {
        let sys_flag = i32_at(self.buf, AT_SYS_FLAG);
        let at_body = AT_BORN_HOST
            + host_len(sys_flag & BORN_HOST_V6 != 0)
            + FROM_BORN_HOST_TO_STORE_HOST
            + host_len(sys_flag & STORE_HOST_V6 != 0)
            + FROM_STORE_HOST_TO_BODY;
        let len = self.buf.get(at_body - 4..).and_then(|rest| rest.first_chunk());
        // Java takes a negative length for none.
        let len = len.map(|len| i32::from_be_bytes(*len).max(0) as usize);
        let body = len.and_then(|len| self.buf.get(at_body..at_body.checked_add(len)?));
        body.ok_or(RecordError::Length { total_len: self.buf.len() as u32 })
    }
}
