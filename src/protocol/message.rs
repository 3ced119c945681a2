//! The stored message record, byte for byte RocketMQ's (`MessageDecoder`, `MessageExtEncoder`). The same
//! bytes lie in the commit log and travel in pull and pop replies. All numbers are big-endian.
//!
//! ```text
//!   0 │ total 4 │ magic 4 │ body crc 4 │ queue id 4 │
//!  16 │ flag 4  │ queue offset 8       │ physical offset 8 │ sys flag 4 │
//!  40 │ born at 8         │ born host: ip 4 or 16, port 4 │
//!  56 │ stored at 8       │ store host: ip 4 or 16, port 4 │                positions with IPv4 hosts
//!  72 │ reconsume times 4 │ prepared transaction offset 8  │
//!  84 │ body len 4 │ body │ topic len 1 (V1) or 2 (V2) │ topic │ properties len 2 │ properties │
//! ```

mod glance;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use bytes::{BufMut, Bytes};

pub use self::glance::RecordGlance;
use super::properties::{self, PROPERTY_SEPARATOR};
use super::sys_flag::{BORN_HOST_V6, STORE_HOST_V6};
use crate::clock::WallMs;
use crate::types::{PhysicalOffset, QueueId, QueueOffset, TopicName};

/// Magic of a record whose topic length is one byte (RocketMQ: `MESSAGE_MAGIC_CODE`).
pub const MAGIC_V1: u32 = 0xDAA3_20A7;
/// Magic of a record whose topic length is two bytes.
pub const MAGIC_V2: u32 = 0xDAA3_20AB;
/// Magic of the filler at the end of a segment (RocketMQ: `BLANK_MAGIC_CODE`).
pub const MAGIC_BLANK: u32 = 0xCBD4_3194;
/// Length of total size and magic, which every entry of the commit log begins with.
pub const HEAD_BYTES: usize = 8;
/// Longest topic of a V1 record, bytes.
pub const MAX_V1_TOPIC_BYTES: usize = 127;
/// The body CRC leaves out the sign bit.
const CRC_MASK: u32 = 0x7FFF_FFFF;

const AT_CRC: usize = 8;
const AT_QUEUE_ID: usize = 12;
const AT_FLAG: usize = 16;
const AT_QUEUE_OFFSET: usize = 20;
const AT_PHYSICAL_OFFSET: usize = 28;
const AT_SYS_FLAG: usize = 36;
const AT_BORN_AT: usize = 40;
const AT_BORN_HOST: usize = 48;
/// Positions that follow, counted from the end of the born host and of the store host.
const FROM_BORN_HOST_TO_STORE_HOST: usize = 8;
const FROM_STORE_HOST_TO_PREPARED: usize = 4;
const FROM_STORE_HOST_TO_BODY: usize = 16;
/// A record with IPv4 hosts and nothing of variable length in it.
pub const MIN_RECORD_BYTES: usize = 91;

/// A message as it waits to be appended: everything except what the append itself sets (queue offset,
/// physical offset, store time, body CRC).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PendingMessage {
    pub topic: TopicName,
    pub queue_id: QueueId,
    /// What the user set; nobody else looks at it.
    pub flag: i32,
    pub sys_flag: i32,
    pub born_at_ms: i64,
    pub born_host: SocketAddr,
    pub store_host: SocketAddr,
    pub reconsume_times: i32,
    pub prepared_transaction_offset: i64,
    pub body: Bytes,
    /// Property text as the client sent it.
    pub properties: Bytes,
    /// Property text that the broker adds behind it; may be empty.
    pub extra_properties: Bytes,
}

impl PendingMessage {
    /// Length of the record, bytes.
    pub fn record_len(&self) -> usize {
        let topic_len_bytes = if self.is_v2() { 2 } else { 1 };
        AT_BORN_HOST
            + host_len(self.born_host.ip().to_canonical().is_ipv6())
            + FROM_BORN_HOST_TO_STORE_HOST
            + host_len(self.store_host.ip().to_canonical().is_ipv6())
            + FROM_STORE_HOST_TO_BODY
            + self.body.len()
            + topic_len_bytes
            + self.topic.len()
            + 2
            + self.properties_len()
    }

    /// Length of the stored property text, bytes; it must not pass
    /// [`MAX_PROPERTIES_BYTES`](super::properties::MAX_PROPERTIES_BYTES).
    pub fn properties_len(&self) -> usize {
        self.properties.len() + usize::from(self.lacks_separator()) + self.extra_properties.len()
    }

    /// Writes the record.
    ///
    /// # Panics
    /// If `dst` is not exactly [`record_len`](Self::record_len) long.
    pub fn encode_into(
        &self,
        mut dst: &mut [u8],
        queue_offset: QueueOffset,
        physical_offset: PhysicalOffset,
        stored_at: WallMs,
    ) {
        let total_len = self.record_len();
        assert_eq!(dst.len(), total_len, "the record fills its place");
        let (born_ip, store_ip) = (self.born_host.ip().to_canonical(), self.store_host.ip().to_canonical());
        let sys_flag = self.sys_flag & !(BORN_HOST_V6 | STORE_HOST_V6)
            | if born_ip.is_ipv6() { BORN_HOST_V6 } else { 0 }
            | if store_ip.is_ipv6() { STORE_HOST_V6 } else { 0 };

        dst.put_u32(total_len as u32);
        dst.put_u32(if self.is_v2() { MAGIC_V2 } else { MAGIC_V1 });
        dst.put_u32(body_crc(&self.body));
        dst.put_u32(self.queue_id.0);
        dst.put_i32(self.flag);
        dst.put_u64(queue_offset.0);
        dst.put_u64(physical_offset.0);
        dst.put_i32(sys_flag);
        dst.put_i64(self.born_at_ms);
        put_host(&mut dst, born_ip, self.born_host.port());
        dst.put_i64(stored_at.0);
        put_host(&mut dst, store_ip, self.store_host.port());
        dst.put_i32(self.reconsume_times);
        dst.put_i64(self.prepared_transaction_offset);
        dst.put_u32(self.body.len() as u32);
        dst.put_slice(&self.body);
        if self.is_v2() {
            dst.put_u16(self.topic.len() as u16);
        } else {
            dst.put_u8(self.topic.len() as u8);
        }
        dst.put_slice(self.topic.as_bytes());
        dst.put_u16(self.properties_len() as u16);
        dst.put_slice(&self.properties);
        if self.lacks_separator() {
            dst.put_u8(PROPERTY_SEPARATOR);
        }
        dst.put_slice(&self.extra_properties);
    }

    fn is_v2(&self) -> bool {
        self.topic.len() > MAX_V1_TOPIC_BYTES
    }

    fn lacks_separator(&self) -> bool {
        !self.extra_properties.is_empty()
            && self.properties.last().is_some_and(|last| *last != PROPERTY_SEPARATOR)
    }
}

/// Why bytes are not a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    #[error("record is cut off: {found} of {needed} bytes")]
    Cut { needed: usize, found: usize },
    #[error("no record begins with magic {magic:#010x}")]
    Magic { magic: u32 },
    #[error("record says it has {total_len} bytes, its fields say otherwise")]
    Length { total_len: u32 },
    #[error("topic of the record is not UTF-8")]
    Topic,
    #[error("record says it lies at {physical_offset}")]
    Elsewhere { physical_offset: PhysicalOffset },
    #[error("body CRC of the record is {stored:#x}, of its body {computed:#x}")]
    Crc { stored: u32, computed: u32 },
}

/// What an entry of the commit log is, by its first eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryHead {
    /// A record of `len` bytes.
    Record { len: usize },
    /// Filler of `len` bytes, up to the end of the segment.
    Blank { len: usize },
}

impl EntryHead {
    pub fn parse(buf: &[u8]) -> Result<Self, RecordError> {
        let head = buf.first_chunk::<HEAD_BYTES>();
        let head = head.ok_or(RecordError::Cut { needed: HEAD_BYTES, found: buf.len() })?;
        let len = i32_at(head, 0);
        let magic = i32_at(head, 4) as u32;
        let min_len = match magic {
            MAGIC_V1 | MAGIC_V2 => MIN_RECORD_BYTES,
            MAGIC_BLANK => HEAD_BYTES,
            _ => return Err(RecordError::Magic { magic }),
        };
        match usize::try_from(len) {
            Ok(len) if len >= min_len && magic == MAGIC_BLANK => Ok(Self::Blank { len }),
            Ok(len) if len >= min_len => Ok(Self::Record { len }),
            _ => Err(RecordError::Length { total_len: len as u32 }),
        }
    }

    /// Writes the filler of the last `len` bytes of a segment.
    pub fn put_blank(mut dst: &mut [u8], len: usize) {
        dst.put_u32(len as u32);
        dst.put_u32(MAGIC_BLANK);
    }
}

/// A record where it lies: parsing checks every length once, getters only read.
#[derive(Clone, Copy)]
pub struct RecordView<'a> {
    buf: &'a [u8],
    topic: &'a str,
    at_stored_at: usize,
    at_reconsume_times: usize,
    body_end: usize,
    at_properties: usize,
}

impl<'a> RecordView<'a> {
    /// Reads the record that `buf` begins with; bytes behind it are left alone.
    pub fn parse(buf: &'a [u8]) -> Result<Self, RecordError> {
        let len = match EntryHead::parse(buf)? {
            EntryHead::Record { len } => len,
            EntryHead::Blank { .. } => return Err(RecordError::Magic { magic: MAGIC_BLANK }),
        };
        let buf = buf.get(..len).ok_or(RecordError::Cut { needed: len, found: buf.len() })?;
        Self::parse_fields(buf).ok_or(RecordError::Length { total_len: len as u32 })?
    }

    /// `None` when a length leads out of the record or the fields do not fill it.
    fn parse_fields(buf: &'a [u8]) -> Option<Result<Self, RecordError>> {
        let sys_flag = i32_at(buf, AT_SYS_FLAG);
        let at_stored_at = AT_BORN_HOST + host_len(sys_flag & BORN_HOST_V6 != 0);
        let at_store_host = at_stored_at + FROM_BORN_HOST_TO_STORE_HOST;
        let at_reconsume_times = at_store_host + host_len(sys_flag & STORE_HOST_V6 != 0);
        let at_body = at_reconsume_times + FROM_STORE_HOST_TO_BODY;
        // Java takes a negative length of body or properties for none.
        let body_len = i32::from_be_bytes(*buf.get(at_body - 4..)?.first_chunk()?).max(0) as usize;
        let body_end = at_body.checked_add(body_len)?;

        let topic_len_bytes = if i32_at(buf, 4) as u32 == MAGIC_V2 { 2 } else { 1 };
        let at_topic = body_end + topic_len_bytes;
        let topic_len =
            buf.get(body_end..at_topic)?.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
        let topic = buf.get(at_topic..at_topic + topic_len)?;
        let at_properties = at_topic + topic_len + 2;
        let properties_len = i16::from_be_bytes(*buf.get(at_properties - 2..)?.first_chunk()?).max(0);
        if at_properties + properties_len as usize != buf.len() {
            return None;
        }
        let Ok(topic) = str::from_utf8(topic) else { return Some(Err(RecordError::Topic)) };
        Some(Ok(Self { buf, topic, at_stored_at, at_reconsume_times, body_end, at_properties }))
    }

    /// The whole record.
    pub fn bytes(&self) -> &'a [u8] {
        self.buf
    }

    pub fn total_len(&self) -> usize {
        self.buf.len()
    }

    pub fn crc(&self) -> u32 {
        i32_at(self.buf, AT_CRC) as u32
    }

    pub fn queue_id(&self) -> QueueId {
        QueueId(i32_at(self.buf, AT_QUEUE_ID) as u32)
    }

    pub fn flag(&self) -> i32 {
        i32_at(self.buf, AT_FLAG)
    }

    pub fn queue_offset(&self) -> QueueOffset {
        QueueOffset(i64_at(self.buf, AT_QUEUE_OFFSET) as u64)
    }

    pub fn physical_offset(&self) -> PhysicalOffset {
        PhysicalOffset(i64_at(self.buf, AT_PHYSICAL_OFFSET) as u64)
    }

    pub fn sys_flag(&self) -> i32 {
        i32_at(self.buf, AT_SYS_FLAG)
    }

    pub fn born_at_ms(&self) -> i64 {
        i64_at(self.buf, AT_BORN_AT)
    }

    pub fn born_host(&self) -> SocketAddr {
        host_at(&self.buf[AT_BORN_HOST..self.at_stored_at])
    }

    pub fn stored_at_ms(&self) -> i64 {
        i64_at(self.buf, self.at_stored_at)
    }

    pub fn store_host(&self) -> SocketAddr {
        host_at(&self.buf[self.at_stored_at + FROM_BORN_HOST_TO_STORE_HOST..self.at_reconsume_times])
    }

    pub fn reconsume_times(&self) -> i32 {
        i32_at(self.buf, self.at_reconsume_times)
    }

    pub fn prepared_transaction_offset(&self) -> i64 {
        i64_at(self.buf, self.at_reconsume_times + FROM_STORE_HOST_TO_PREPARED)
    }

    /// Where the body lies within the record.
    pub fn body_range(&self) -> Range<usize> {
        self.at_reconsume_times + FROM_STORE_HOST_TO_BODY..self.body_end
    }

    pub fn body(&self) -> &'a [u8] {
        &self.buf[self.body_range()]
    }

    pub fn topic(&self) -> &'a str {
        self.topic
    }

    /// Where the property text lies within the record.
    pub fn properties_range(&self) -> Range<usize> {
        self.at_properties..self.buf.len()
    }

    /// The property text, to be read with [`properties::pairs`].
    pub fn properties(&self) -> &'a [u8] {
        &self.buf[self.at_properties..]
    }

    /// Compares the body with its CRC.
    pub fn verify_crc(&self) -> Result<(), RecordError> {
        let (stored, computed) = (self.crc(), body_crc(self.body()));
        // An empty body is not checked, as in Java.
        if stored == computed || self.body().is_empty() {
            Ok(())
        } else {
            Err(RecordError::Crc { stored, computed })
        }
    }
}

/// A record taken apart, sharing the memory it came in.
///
/// ```
/// use telstar::protocol::{StoredMessage, property};
/// use telstar::testing::{Scenario, calls::*};
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
/// let mut shop = broker.client("shop");
/// shop.succeed(send_to("orders", 0, "pay 7").tag("cards")).await;
/// let pulled = shop.call(pull_from("bank", "orders", 0, 0)).await;
/// let messages = StoredMessage::decode_all(pulled.body);
/// assert_eq!((&*messages[0].topic, &messages[0].body[..]), ("orders", &b"pay 7"[..]));
/// assert_eq!(messages[0].property(property::TAGS), Some("cards"));
/// assert_eq!(messages[0].text("colour"), ""); // it has none
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredMessage {
    /// Where it lies.
    pub topic: TopicName,
    /// Where it lies.
    pub queue_id: QueueId,
    /// A number of the sender's own, which means nothing to the broker.
    pub flag: i32,
    /// Its number in the queue.
    pub queue_offset: QueueOffset,
    /// Its place in the log.
    pub physical_offset: PhysicalOffset,
    /// Bits about the body, its compression among them, about addresses and transactions.
    pub sys_flag: i32,
    /// When the sender made it, by its own clock, ms since 1970.
    pub born_at_ms: i64,
    /// Who sent it.
    pub born_host: SocketAddr,
    /// When it was stored, ms since 1970.
    pub stored_at_ms: i64,
    /// The broker that stored it.
    pub store_host: SocketAddr,
    /// How often it was given back before.
    pub reconsume_times: i32,
    /// Of the message of a transaction, the place of its half message.
    pub prepared_transaction_offset: i64,
    /// Checksum of the body.
    pub crc: u32,
    /// As the sender sent it: compressed, perhaps, see `sys_flag`.
    pub body: Bytes,
    /// Property text: names and values, each ended by the byte 1 and the byte 2.
    pub properties: Bytes,
}

impl StoredMessage {
    /// The value of a property; `None` when it has none of that name.
    pub fn property(&self, name: &str) -> Option<&str> {
        properties::get(&self.properties, name)
    }

    /// As [`property`](Self::property), empty when it has none.
    pub fn text(&self, name: &str) -> &str {
        self.property(name).unwrap_or_default()
    }

    /// Reads the record that `buf` begins with.
    #[doc(hidden)]
    pub fn decode(buf: &Bytes) -> Result<Self, RecordError> {
        Ok(Self::of_view(buf, &RecordView::parse(buf)?))
    }

    /// Reads records back to back, as in the body of a pull reply, up to the first that is none.
    pub fn decode_all(mut buf: Bytes) -> Vec<Self> {
        let mut messages = Vec::new();
        while let Ok(view) = RecordView::parse(&buf) {
            let len = view.total_len();
            messages.push(Self::of_view(&buf, &view));
            buf = buf.slice(len..);
        }
        messages
    }

    fn of_view(buf: &Bytes, view: &RecordView<'_>) -> Self {
        Self {
            topic: view.topic().into(),
            queue_id: view.queue_id(),
            flag: view.flag(),
            queue_offset: view.queue_offset(),
            physical_offset: view.physical_offset(),
            sys_flag: view.sys_flag(),
            born_at_ms: view.born_at_ms(),
            born_host: view.born_host(),
            stored_at_ms: view.stored_at_ms(),
            store_host: view.store_host(),
            reconsume_times: view.reconsume_times(),
            prepared_transaction_offset: view.prepared_transaction_offset(),
            crc: view.crc(),
            body: buf.slice(view.body_range()),
            properties: buf.slice(view.properties_range()),
        }
    }
}

/// CRC-32 of a body as records hold it, without the sign bit.
pub fn body_crc(body: &[u8]) -> u32 {
    crc32fast::hash(body) & CRC_MASK
}

/// Length of an address with its port.
fn host_len(is_v6: bool) -> usize {
    if is_v6 { 20 } else { 8 }
}

fn put_host(dst: &mut &mut [u8], ip: IpAddr, port: u16) {
    match ip {
        IpAddr::V4(ip) => dst.put_slice(&ip.octets()),
        IpAddr::V6(ip) => dst.put_slice(&ip.octets()),
    }
    dst.put_u32(u32::from(port));
}

/// Reads an address of 8 or 20 bytes; of the port the low 16 bits count.
fn host_at(host: &[u8]) -> SocketAddr {
    let port = i32_at(host, host.len() - 4) as u16;
    let ip = match host.first_chunk::<16>() {
        Some(v6) => IpAddr::from(*v6),
        None => IpAddr::from((i32_at(host, 0) as u32).to_be_bytes()),
    };
    SocketAddr::new(ip, port)
}

fn i32_at(buf: &[u8], at: usize) -> i32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&buf[at..at + 4]);
    i32::from_be_bytes(bytes)
}

fn i64_at(buf: &[u8], at: usize) -> i64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&buf[at..at + 8]);
    i64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests;
