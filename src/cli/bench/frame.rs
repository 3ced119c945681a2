//! Frames made once and patched for each message, and replies read by a glance: the instrument must cost little
//! beside what it measures.
//!
//! Patched in place: the opaque number (in JSON always ten digits), the time of birth and that of delivery (thirteen), the
//! last twelve hex digits of each unique key, and the property [`DIGIT`]. A test holds the result against the encoder everybody else uses.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use crate::protocol::command::{Command, FieldValue, OutgoingHead};
use crate::protocol::frame::{Frame, HeaderCodec, MAX_FRAME_BYTES, PREFIX_BYTES};
use crate::protocol::header::{FieldWriter, SendMessageV2};
use crate::protocol::names::DEFAULT_TOPIC;
use crate::protocol::properties::{self, names};
use crate::protocol::request_code::RequestCode;
use crate::types::TopicName;

/// Opaque numbers begin here, so that they always have ten digits.
pub const FIRST_OPAQUE: i32 = 1_000_000_000;
/// Stands for the time of birth until it is patched.
const BORN_AT_MARK: i64 = 1_000_000_000_000;
/// Stands for the time to deliver at.
const DUE_MARK: i64 = 1_000_000_000_001;
/// Hex digits of a unique key that are patched.
const KEY_DIGITS: usize = 12;
/// Bytes at the head of the body that tell runs and messages apart: run, then nanoseconds since its start.
pub const STAMP_BYTES: usize = 16;

/// A property that is 0 to 9 in turn, for filters.
pub const DIGIT: &str = "digit";

/// What all messages of a connection have in common.
#[derive(Clone, Debug)]
pub struct SendShape {
    pub codec: HeaderCodec,
    /// Each has the same queues, and gets as many messages.
    pub topics: Vec<String>,
    pub group: String,
    /// Length of each body.
    pub body_bytes: usize,
    /// Messages of each frame; more than one makes it a batch.
    pub batch: usize,
    /// First half of every unique key.
    pub key_prefix: u64,
    /// Whether messages that are sent one by one have the property [`DIGIT`].
    pub digit: bool,
    /// When messages that are sent one by one are to be delivered; `None`: at once.
    pub due: Option<DueTimes>,
}

impl SendShape {
    /// Messages one by one, without properties of their own, to be delivered at once; their keys are new.
    pub fn new(codec: HeaderCodec, topic: &TopicName, body_bytes: usize) -> Self {
        Self {
            codec,
            topics: vec![topic.to_string()],
            group: "telstar-bench".to_owned(),
            body_bytes,
            batch: 1,
            key_prefix: Uuid::new_v4().as_u64_pair().0,
            digit: false,
            due: None,
        }
    }
}

/// Times to deliver at, scattered evenly over `[born + after, born + after + spread)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DueTimes {
    pub after_ms: i64,
    /// At least 1.
    pub spread_ms: i64,
}

impl DueTimes {
    /// When the `n`th message is due.
    fn due_ms(&self, born_at_ms: i64, n: u64) -> i64 {
        // A prime step scatters neighbours.
        born_at_ms + self.after_ms + (n.wrapping_mul(7_919) % self.spread_ms as u64) as i64
    }
}

/// Makes the frames of one connection.
pub struct SendFrames {
    codec: HeaderCodec,
    batch: usize,
    /// One per queue of each topic: names and queue ids have no fixed width.
    heads: Vec<Head>,
    due: Option<DueTimes>,
    /// The body, or the entries of the batch.
    body: Vec<u8>,
    at_body_keys: Vec<usize>,
    keys_made: u64,
    born_at_ms: i64,
    born_at_digits: [u8; 13],
}

struct Head {
    bytes: Vec<u8>,
    at_opaque: usize,
    at_born_at: usize,
    at_key: Option<usize>,
    at_digit: Option<usize>,
    at_due: Option<usize>,
}

impl SendFrames {
    pub fn new(shape: &SendShape, queue_ids: &[i32]) -> Self {
        let (body, at_body_keys) = body_of(shape);
        let of_queue = |id: &i32| {
            let (id, len) = (*id, body.len());
            shape.topics.iter().map(move |topic| Head::new(shape, topic, id, len))
        };
        let heads = queue_ids.iter().flat_map(of_queue).collect();
        Self {
            codec: shape.codec,
            batch: shape.batch,
            heads,
            due: shape.due,
            body,
            at_body_keys,
            keys_made: 0,
            born_at_ms: 0,
            born_at_digits: *b"0000000000000",
        }
    }

    /// Messages in each frame.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Number of queues, of all topics together.
    pub fn queues(&self) -> usize {
        self.heads.len()
    }

    /// Sets the time of birth of the frames that follow.
    pub fn set_born_at(&mut self, now_ms: i64) {
        if now_ms == self.born_at_ms {
            return;
        }
        self.born_at_ms = now_ms;
        put_digits(&mut self.born_at_digits, now_ms as u64);
    }

    /// Appends the next frame for the queue at `queue_index`. `stamp` goes into the head of the body.
    pub fn append(
        &mut self,
        out: &mut Vec<u8>,
        queue_index: usize,
        opaque: i32,
        stamp: Option<[u8; STAMP_BYTES]>,
    ) {
        let head = &self.heads[queue_index];
        let at = out.len();
        out.extend_from_slice(&head.bytes);
        let patched = &mut out[at..];
        match self.codec {
            HeaderCodec::Json => put_digits(&mut patched[head.at_opaque..head.at_opaque + 10], opaque as u64),
            HeaderCodec::Binary => {
                patched[head.at_opaque..head.at_opaque + 4].copy_from_slice(&opaque.to_be_bytes())
            }
        }
        patched[head.at_born_at..head.at_born_at + 13].copy_from_slice(&self.born_at_digits);
        if let Some(at_key) = head.at_key {
            put_hex(&mut patched[at_key..at_key + KEY_DIGITS], self.keys_made);
            if let Some(at_digit) = head.at_digit {
                // Every queue gets every digit.
                patched[at_digit] = b'0' + (self.keys_made / self.heads.len() as u64 % 10) as u8;
            }
            if let (Some(at_due), Some(due)) = (head.at_due, self.due) {
                let due_ms = due.due_ms(self.born_at_ms, self.keys_made);
                put_digits(&mut patched[at_due..at_due + 13], due_ms as u64);
            }
            self.keys_made += 1;
        }
        let at_body = out.len();
        out.extend_from_slice(&self.body);
        for at_key in &self.at_body_keys {
            put_hex(&mut out[at_body + at_key..at_body + at_key + KEY_DIGITS], self.keys_made);
            self.keys_made += 1;
        }
        if let Some(stamp) = stamp {
            out[at_body..at_body + STAMP_BYTES].copy_from_slice(&stamp);
        }
    }
}

impl Head {
    fn new(shape: &SendShape, topic: &str, queue_id: i32, body_bytes: usize) -> Self {
        let key = format!("{:016X}{:016X}", shape.key_prefix, 0);
        let is_batch = shape.batch > 1;
        let has_digit = shape.digit && !is_batch;
        let mut text = if is_batch { Default::default() } else { properties_of(&key) };
        if has_digit {
            properties::push(&mut text, DIGIT, "0");
        }
        let has_due = shape.due.is_some() && !is_batch;
        if has_due {
            properties::push(&mut text, names::TIMER_DELIVER_MS, &DUE_MARK.to_string());
        }
        let bytes = encode(shape, topic, queue_id, FIRST_OPAQUE, BORN_AT_MARK, &text, body_bytes);
        let at_opaque = match shape.codec {
            HeaderCodec::Json => position(&bytes, b"\"opaque\":") + b"\"opaque\":".len(),
            HeaderCodec::Binary => PREFIX_BYTES + 5,
        };
        Self {
            at_opaque,
            at_born_at: position(&bytes, BORN_AT_MARK.to_string().as_bytes()),
            at_key: (!is_batch).then(|| position(&bytes, key.as_bytes()) + key.len() - KEY_DIGITS),
            // Behind the name comes a separator, which JSON writes as an escape of six bytes.
            at_digit: has_digit.then(|| {
                let separator_bytes = if shape.codec == HeaderCodec::Json { r"\u0001".len() } else { 1 };
                position(&bytes, DIGIT.as_bytes()) + DIGIT.len() + separator_bytes
            }),
            at_due: has_due.then(|| position(&bytes, DUE_MARK.to_string().as_bytes())),
            bytes,
        }
    }
}

/// The frame up to its body, by the encoder everybody uses.
fn encode(
    shape: &SendShape,
    topic: &str,
    queue_id: i32,
    opaque: i32,
    born_at_ms: i64,
    properties: &[u8],
    body_bytes: usize,
) -> Vec<u8> {
    let is_batch = shape.batch > 1;
    let header = SendMessageV2 {
        producer_group: shape.group.clone(),
        topic: topic.to_owned(),
        default_topic: DEFAULT_TOPIC.to_owned(),
        default_topic_queue_nums: 4,
        queue_id,
        sys_flag: 0,
        born_at_ms,
        flag: 0,
        properties: String::from_utf8_lossy(properties).into_owned(),
        reconsume_times: 0,
        unit_mode: false,
        max_reconsume_times: None,
        batch: is_batch,
    };
    let code = if is_batch { RequestCode::SEND_BATCH_MESSAGE } else { RequestCode::SEND_MESSAGE_V2 };
    let writer = FieldWriter::of(&header);
    let fields: Vec<(&str, FieldValue<'_>)> = writer.as_fields();
    let mut out = BytesMut::new();
    let head = OutgoingHead { fields: &fields, ..OutgoingHead::request(shape.codec, opaque, code.as_i32()) };
    head.write(&mut out, body_bytes);
    out.to_vec()
}

/// What clients put beside every message.
fn properties_of(key: &str) -> Vec<u8> {
    properties::encode([(names::UNIQ_KEY, key), (names::WAIT, "true")]).to_vec()
}

/// The body of a frame, and where in it unique keys are patched.
fn body_of(shape: &SendShape) -> (Vec<u8>, Vec<usize>) {
    let text: Vec<u8> = (0..shape.body_bytes).map(|n| b'a' + (n * 7 % 26) as u8).collect();
    if shape.batch <= 1 {
        return (text, Vec::new());
    }
    let key = format!("{:016X}{:016X}", shape.key_prefix, 0);
    let properties = properties_of(&key);
    let (mut body, mut keys) = (Vec::new(), Vec::new());
    for _ in 0..shape.batch {
        let entry_bytes = 22 + text.len() + properties.len();
        body.extend_from_slice(&(entry_bytes as u32).to_be_bytes());
        body.extend_from_slice(&[0; 12]); // magic, CRC, flag
        body.extend_from_slice(&(text.len() as u32).to_be_bytes());
        body.extend_from_slice(&text);
        body.extend_from_slice(&(properties.len() as u16).to_be_bytes());
        keys.push(body.len() + position(&properties, key.as_bytes()) + key.len() - KEY_DIGITS);
        body.extend_from_slice(&properties);
    }
    (body, keys)
}

fn position(bytes: &[u8], part: &[u8]) -> usize {
    bytes.windows(part.len()).position(|window| window == part).expect("the encoder wrote this part")
}

fn put_digits(out: &mut [u8], mut number: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

fn put_hex(out: &mut [u8], mut number: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789ABCDEF"[(number & 15) as usize];
        number >>= 4;
    }
}

/// A frame seen at a glance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Glance {
    /// Bytes of the whole frame.
    pub frame_bytes: usize,
    pub header_bytes: usize,
    pub codec: HeaderCodec,
    pub code: i32,
    pub opaque: i32,
}

impl Glance {
    /// The header within the frame.
    pub fn header<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        &frame[PREFIX_BYTES..PREFIX_BYTES + self.header_bytes]
    }

    /// The body within the frame.
    pub fn body<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        &frame[PREFIX_BYTES + self.header_bytes..self.frame_bytes]
    }
}

/// The whole header of a frame. Allocates: for answers that are few, or out of the ordinary.
pub fn decode(seen: &Glance, frame: &[u8]) -> Option<Command> {
    let header = Bytes::copy_from_slice(seen.header(frame));
    Command::decode(Frame { codec: seen.codec, header, body: Bytes::new() }).ok()
}

/// What a server said beside its code.
pub fn remark_of(seen: &Glance, frame: &[u8]) -> String {
    decode(seen, frame).and_then(|command| command.head.remark).unwrap_or_default()
}

/// What is written at the head of a body: the run, and the time since its start that the message is meant for.
pub fn stamp_of(run: u64, since_start: Duration) -> [u8; STAMP_BYTES] {
    let mut stamp = [0; STAMP_BYTES];
    stamp[..8].copy_from_slice(&run.to_be_bytes());
    stamp[8..].copy_from_slice(&(since_start.as_nanos() as u64).to_be_bytes());
    stamp
}

/// The time in the stamp of a body, if it is of this run.
pub fn read_stamp(body: &[u8], run: u64) -> Option<Duration> {
    let (stamped_run, nanos) = body.first_chunk::<STAMP_BYTES>()?.split_first_chunk::<8>()?;
    let nanos = u64::from_be_bytes(*nanos.first_chunk()?);
    (u64::from_be_bytes(*stamped_run) == run).then(|| Duration::from_nanos(nanos))
}

/// Bytes that cannot be a frame; the connection is of no more use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the server sent something that is no frame")]
pub struct NoFrame;

/// Looks at the frame that `input` begins with; `None` while it is not whole.
pub fn glance(input: &[u8]) -> Result<Option<Glance>, NoFrame> {
    let Some(prefix) = input.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    let len_bytes = u32::from_be_bytes([prefix[0], prefix[1], prefix[2], prefix[3]]) as usize;
    let header_bytes = u32::from_be_bytes([0, prefix[5], prefix[6], prefix[7]]) as usize;
    if len_bytes > MAX_FRAME_BYTES || header_bytes + 4 > len_bytes {
        return Err(NoFrame);
    }
    let frame_bytes = 4 + len_bytes;
    if input.len() < frame_bytes {
        return Ok(None);
    }
    let header = &input[PREFIX_BYTES..PREFIX_BYTES + header_bytes];
    let (codec, code, opaque) = match prefix[4] {
        0 => {
            (HeaderCodec::Json, number_after(header, b"\"code\":"), last_number_after(header, b"\"opaque\":"))
        }
        1 => {
            let code = header.first_chunk().map(|code| i32::from(i16::from_be_bytes(*code)));
            let opaque =
                header.get(5..).and_then(|rest| rest.first_chunk()).map(|opaque| i32::from_be_bytes(*opaque));
            (HeaderCodec::Binary, code, opaque)
        }
        _ => return Err(NoFrame),
    };
    let (code, opaque) = (code.ok_or(NoFrame)?, opaque.ok_or(NoFrame)?);
    Ok(Some(Glance { frame_bytes, header_bytes, codec, code, opaque }))
}

/// The number behind the first `name`; servers write the code first. Inside a string the name's quotes would
/// be escaped, so it cannot be mistaken.
fn number_after(header: &[u8], name: &[u8]) -> Option<i32> {
    let at = header.windows(name.len()).position(|window| window == name)?;
    number_at(&header[at + name.len()..])
}

/// The number behind the last `name`; servers write the opaque near the end.
fn last_number_after(header: &[u8], name: &[u8]) -> Option<i32> {
    let mut end = header.len().checked_sub(name.len())?;
    loop {
        // The second byte is rarer than the quote.
        if header[end + 1] == name[1] && &header[end..end + name.len()] == name {
            return number_at(&header[end + name.len()..]);
        }
        end = end.checked_sub(1)?;
    }
}

fn number_at(text: &[u8]) -> Option<i32> {
    let text = text.trim_ascii_start();
    let (negative, digits) = match text.first()? {
        b'-' => (true, &text[1..]),
        _ => (false, text),
    };
    let len = digits.iter().take(11).take_while(|digit| digit.is_ascii_digit()).count();
    let number = digits[..len].iter().fold(0i64, |number, digit| number * 10 + i64::from(digit - b'0'));
    let number = if negative { -number } else { number };
    if len == 0 { None } else { i32::try_from(number).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::batch_body::BatchEntries;

    const NOW: i64 = 1_709_164_800_123;

    fn shape(codec: HeaderCodec, batch: usize) -> SendShape {
        SendShape {
            codec,
            topics: vec!["Bench-0".to_owned(), "Bench-1".to_owned()],
            group: "g\"1\\".to_owned(),
            body_bytes: 100,
            batch,
            key_prefix: 0xABCD_0000_0000_0001,
            digit: false,
            due: None,
        }
    }

    #[test]
    fn patched_frames_are_what_the_encoder_writes() {
        for codec in [HeaderCodec::Json, HeaderCodec::Binary] {
            let shape = shape(codec, 1);
            let mut frames = SendFrames::new(&shape, &[0, 7, 12]);
            frames.set_born_at(NOW);
            let mut out = Vec::new();
            for (n, (index, topic, queue_id)) in
                [(0, 0, 0), (5, 1, 12), (2, 0, 7), (4, 0, 12)].into_iter().enumerate()
            {
                out.clear();
                let opaque = FIRST_OPAQUE + 1_234 + n as i32;
                frames.append(&mut out, index, opaque, None);
                let key = format!("ABCD000000000001{n:016X}");
                let topic = &shape.topics[topic];
                let mut wanted = encode(&shape, topic, queue_id, opaque, NOW, &properties_of(&key), 100);
                wanted.extend_from_slice(&body_of(&shape).0);
                assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&wanted));
                let seen = glance(&out).unwrap().unwrap();
                assert_eq!((seen.code, seen.opaque, seen.frame_bytes), (310, opaque, out.len()));
                assert_eq!(seen.body(&out).len(), 100);
            }
        }
    }

    #[test]
    fn every_message_has_a_time_of_its_own_within_the_spread() {
        let due = DueTimes { after_ms: 5_000, spread_ms: 1_000 };
        let shape = SendShape { due: Some(due), ..shape(HeaderCodec::Json, 1) };
        let mut frames = SendFrames::new(&shape, &[0]);
        frames.set_born_at(NOW);
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..100 {
            let mut out = Vec::new();
            frames.append(&mut out, 0, FIRST_OPAQUE, None);
            let due_ms = due.due_ms(NOW, n);
            assert!((NOW + 5_000..NOW + 6_000).contains(&due_ms));
            seen.insert(due_ms);
            let mut text = properties_of(&format!("ABCD000000000001{n:016X}"));
            properties::push(&mut text, names::TIMER_DELIVER_MS, &due_ms.to_string());
            let mut wanted = encode(&shape, &shape.topics[0], 0, FIRST_OPAQUE, NOW, &text, 100);
            wanted.extend_from_slice(&body_of(&shape).0);
            assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&wanted));
        }
        assert_eq!(seen.len(), 100);
    }

    #[test]
    fn digits_go_round_in_every_queue() {
        for codec in [HeaderCodec::Json, HeaderCodec::Binary] {
            let shape = SendShape { digit: true, ..shape(codec, 1) };
            let mut frames = SendFrames::new(&shape, &[0]);
            frames.set_born_at(NOW);
            for n in 0..40 {
                let mut out = Vec::new();
                frames.append(&mut out, n % 2, FIRST_OPAQUE, None);
                let mut text = properties_of(&format!("ABCD000000000001{n:016X}"));
                properties::push(&mut text, DIGIT, &(n / 2 % 10).to_string());
                let mut wanted = encode(&shape, &shape.topics[n % 2], 0, FIRST_OPAQUE, NOW, &text, 100);
                wanted.extend_from_slice(&body_of(&shape).0);
                assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&wanted));
            }
        }
    }

    #[test]
    fn batches_have_a_key_for_each_entry() {
        let mut frames = SendFrames::new(&shape(HeaderCodec::Json, 3), &[1]);
        let mut out = Vec::new();
        frames.append(&mut out, 0, FIRST_OPAQUE, None);
        out.clear();
        frames.append(&mut out, 0, FIRST_OPAQUE, None);
        let seen = glance(&out).unwrap().unwrap();
        assert_eq!(seen.code, 320);
        let body = bytes::Bytes::copy_from_slice(seen.body(&out));
        let entries: Vec<_> = BatchEntries::new(body).map(Result::unwrap).collect();
        let keys: Vec<_> = entries
            .iter()
            .map(|entry| properties::get(&entry.properties, names::UNIQ_KEY).unwrap())
            .collect();
        assert_eq!(keys, [3, 4, 5].map(|n| format!("ABCD000000000001{n:016X}")));
        assert!(entries.iter().all(|entry| entry.body.len() == 100));
    }

    #[test]
    fn a_stamp_lies_at_the_head_of_the_body() {
        let mut frames = SendFrames::new(&shape(HeaderCodec::Binary, 1), &[1]);
        let mut out = Vec::new();
        let time = Duration::from_micros(77);
        frames.append(&mut out, 0, FIRST_OPAQUE, Some(stamp_of(5, time)));
        let seen = glance(&out).unwrap().unwrap();
        assert_eq!(read_stamp(seen.body(&out), 5), Some(time));
        assert_eq!(read_stamp(seen.body(&out), 6), None);
    }

    #[test]
    fn replies_are_understood_in_every_dialect() {
        let read = |header: &str| {
            let mut frame = ((4 + header.len()) as u32).to_be_bytes().to_vec();
            frame.extend((header.len() as u32).to_be_bytes());
            frame.extend(header.as_bytes());
            glance(&frame).map(|seen| seen.map(|seen| (seen.code, seen.opaque)))
        };
        assert_eq!(
            read(r#"{"code":0,"flag":1,"opaque":1000000063,"version":479}"#),
            Ok(Some((0, 1_000_000_063)))
        );
        assert_eq!(read(r#"{ "opaque": -5, "code" : 2, "code": 2 }"#), Ok(Some((2, -5))));
        assert_eq!(
            read(r#"{"code":1,"opaque":7,"remark":"said \"opaque\":9, \"code\":8"}"#),
            Ok(Some((1, 7))),
            "quotes inside a text are escaped"
        );
        assert_eq!(read("{}"), Err(NoFrame));
        assert_eq!(glance(&[0, 0, 1]), Ok(None));
        assert_eq!(glance(b"HTTP/1.1 400"), Err(NoFrame));
    }
}
