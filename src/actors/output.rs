//! What waits to be written to one client: headers in one growing buffer, bodies as handles between them.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use super::request::{Answer, Kept, PulledReply, Reply, ReplyContent, ReplyTo, StoredReply};
use crate::error::Refusal;
use crate::protocol::command::{FLAG_ONE_WAY, FieldValue, Language, OutgoingHead};
use crate::protocol::frame::HeaderCodec;
use crate::protocol::message_id::push_offset_message_id;
use crate::protocol::response_code::ResponseCode;

/// Bodies up to this size are copied behind their header: cheaper than a slice of their own.
const COPY_BELOW_BYTES: usize = 256;
/// Slices handed to one write.
pub const MAX_SLICES: usize = 64;

/// Region and tracing switch that clients read from every send response.
const SEND_CONSTANTS: [(&str, FieldValue<'static>); 2] =
    [("MSG_REGION", FieldValue::Text("DefaultRegion")), ("TRACE_ON", FieldValue::Text("true"))];

/// What a client is told whose message is stored and not known to be on disk.
const LATE_DISK: &str = "stored, but the disk has not confirmed it in time (store.sync_flush_timeout_ms): it is lost only if the power fails before it does; sending it again may store it twice";

/// Bytes on their way out, in order.
#[derive(Debug, Default)]
pub struct Output {
    ready: VecDeque<Bytes>,
    tail: BytesMut,
    len_bytes: usize,
}

impl Output {
    /// Bytes that wait.
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    pub fn is_empty(&self) -> bool {
        self.len_bytes == 0
    }

    /// The front of what waits, as slices for one vectored write.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; MAX_SLICES]) -> usize {
        let mut count = 0;
        for bytes in self.ready.iter().take(MAX_SLICES - 1) {
            slices[count] = IoSlice::new(bytes);
            count += 1;
        }
        if count == self.ready.len() && !self.tail.is_empty() {
            slices[count] = IoSlice::new(&self.tail);
            count += 1;
        }
        count
    }

    /// Forgets the first `written` bytes.
    pub fn advance(&mut self, mut written: usize) {
        self.len_bytes -= written;
        while written > 0 {
            let Some(front) = self.ready.front_mut() else {
                self.tail.advance(written);
                break;
            };
            if front.len() > written {
                front.advance(written);
                break;
            }
            written -= front.len();
            self.ready.pop_front();
        }
        if self.len_bytes == 0 && self.tail.capacity() > 16 * 1024 {
            self.tail = BytesMut::new(); // an idle connection keeps no large buffer
        }
    }

    fn put_head(&mut self, head: &OutgoingHead<'_>, body_bytes: usize) {
        let before = self.tail.len();
        head.write(&mut self.tail, body_bytes);
        self.len_bytes += self.tail.len() - before;
    }

    fn put_body(&mut self, body: Bytes) {
        self.len_bytes += body.len();
        if body.len() <= COPY_BELOW_BYTES {
            self.tail.extend_from_slice(&body);
            return;
        }
        if !self.tail.is_empty() {
            self.ready.push_back(self.tail.split().freeze());
        }
        self.ready.push_back(body);
    }

    /// A request of ours to the client.
    pub fn put_request(
        &mut self,
        code: i32,
        opaque: i32,
        one_way: bool,
        fields: &[(String, String)],
        body: Bytes,
    ) {
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| (name.as_str(), FieldValue::Text(value))).collect();
        let head = OutgoingHead {
            flag: if one_way { FLAG_ONE_WAY } else { 0 },
            // Old clients look the name of the language up; JAVA is one they all know.
            language: Language::JAVA,
            fields: &fields,
            ..OutgoingHead::request(HeaderCodec::Json, opaque, code)
        };
        self.put_head(&head, body.len());
        self.put_body(body);
    }

    /// The answer to a request of the client; nothing for one that wants none.
    pub fn put_reply(&mut self, reply: Reply) {
        if reply.to.one_way {
            return;
        }
        match reply.content {
            ReplyContent::Stored(stored) => self.put_stored(reply.to, &stored),
            ReplyContent::Pulled(pulled) => self.put_pulled(reply.to, pulled),
            ReplyContent::Answer(answer) => self.put_answer(reply.to, answer),
            ReplyContent::Refused(refusal) => self.put_refusal(reply.to, &refusal),
            ReplyContent::Silence => {}
        }
    }

    fn put_stored(&mut self, to: ReplyTo, stored: &StoredReply) {
        let mut ids = String::with_capacity(33 * stored.physical_offsets.len());
        for physical_offset in &stored.physical_offsets {
            if !ids.is_empty() {
                ids.push(',');
            }
            push_offset_message_id(&mut ids, stored.store_host, *physical_offset);
        }
        let unique_key = stored.unique_key.as_deref().map(|key| std::str::from_utf8(key).unwrap_or_default());
        let mut fields = [("", FieldValue::Int(0)); 7];
        fields[..2].copy_from_slice(&SEND_CONSTANTS);
        fields[2] = ("msgId", FieldValue::Text(&ids));
        fields[3] = ("queueId", FieldValue::Int(stored.queue_id.0 as i64));
        fields[4] = ("queueOffset", FieldValue::Int(stored.queue_offset.0 as i64));
        let mut used = 5;
        let named = [("transactionId", unique_key), ("recallHandle", stored.recall_handle.as_deref())];
        for (name, value) in named {
            if let Some(value) = value {
                fields[used] = (name, FieldValue::Text(value));
                used += 1;
            }
        }
        let (code, remark) = match stored.kept {
            Kept::Promised => (ResponseCode::SUCCESS, None),
            Kept::InMemory => (ResponseCode::FLUSH_DISK_TIMEOUT, Some(LATE_DISK)),
        };
        let head = OutgoingHead {
            remark,
            fields: &fields[..used],
            ..OutgoingHead::response(to.codec, to.opaque, code.as_i32())
        };
        self.put_head(&head, 0);
    }

    fn put_pulled(&mut self, to: ReplyTo, pulled: PulledReply) {
        let fields = [
            ("maxOffset", FieldValue::Int(pulled.header.max_offset)),
            ("minOffset", FieldValue::Int(pulled.header.min_offset)),
            ("nextBeginOffset", FieldValue::Int(pulled.header.next_begin_offset)),
            ("suggestWhichBrokerId", FieldValue::Int(pulled.header.suggest_which_broker_id)),
        ];
        let head = OutgoingHead {
            remark: Some(pulled.status),
            fields: &fields,
            ..OutgoingHead::response(to.codec, to.opaque, pulled.code.as_i32())
        };
        self.put_head(&head, pulled.records.iter().map(Bytes::len).sum());
        for record in pulled.records {
            self.put_body(record);
        }
    }

    fn put_answer(&mut self, to: ReplyTo, answer: Answer) {
        let fields: Vec<_> =
            answer.fields.iter().map(|(name, value)| (*name, FieldValue::Text(value))).collect();
        let head = OutgoingHead {
            remark: answer.remark.as_deref(),
            fields: &fields,
            ..OutgoingHead::response(to.codec, to.opaque, answer.code.as_i32())
        };
        self.put_head(&head, answer.body.len());
        self.put_body(answer.body);
    }

    fn put_refusal(&mut self, to: ReplyTo, refusal: &Refusal) {
        let remark = refusal.to_string();
        let head = OutgoingHead {
            remark: Some(&remark),
            ..OutgoingHead::response(to.codec, to.opaque, refusal.code().as_i32())
        };
        self.put_head(&head, 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::command::Command;
    use crate::protocol::frame::{NextFrame, next_frame};
    use crate::protocol::header::PullResponse;
    use crate::types::{PhysicalOffset, QueueId, QueueOffset};

    const TO: ReplyTo =
        ReplyTo { opaque: 7, codec: HeaderCodec::Json, one_way: false, cost_bytes: 256, is_send: true };

    fn answer_of(body: Bytes) -> Reply {
        Reply { to: TO, content: ReplyContent::Answer(Answer::success().with_body(body)) }
    }

    /// Writes everything, at most `step` bytes at a time.
    fn drain(output: &mut Output, step: usize) -> BytesMut {
        let mut written = BytesMut::new();
        while !output.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = output.slices(&mut slices);
            let gathered: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
            let taken = gathered.len().min(step);
            written.extend_from_slice(&gathered[..taken]);
            output.advance(taken);
        }
        written
    }

    fn read_back(mut bytes: BytesMut) -> Vec<Command> {
        let mut commands = Vec::new();
        while !bytes.is_empty() {
            match next_frame(&mut bytes, 1 << 24).unwrap() {
                NextFrame::Whole(frame) => commands.push(Command::decode(frame).unwrap()),
                NextFrame::NeedsBytes(wanted) => panic!("a frame ends early: {wanted}"),
            }
        }
        commands
    }

    fn written(content: ReplyContent) -> Command {
        let mut output = Output::default();
        output.put_reply(Reply { to: TO, content });
        read_back(drain(&mut output, usize::MAX)).remove(0)
    }

    #[test]
    fn replies_leave_in_one_write_and_large_bodies_are_not_copied() {
        let mut output = Output::default();
        let large = Bytes::from(vec![1; 1_000]);
        for body in [Bytes::from("small"), large.clone(), Bytes::from("small")] {
            output.put_reply(answer_of(body));
        }
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let count = output.slices(&mut slices);
        assert_eq!(count, 3, "heads and small bodies, the large body, the rest");
        assert_eq!(slices[1].as_ptr(), large.as_ptr());
        assert_eq!(slices[..count].iter().map(|slice| slice.len()).sum::<usize>(), output.len_bytes());
    }

    #[test]
    fn stored_messages_are_answered_with_their_ids() {
        let stored = |unique_key| StoredReply {
            kept: Kept::Promised,
            queue_id: QueueId(3),
            queue_offset: QueueOffset(40),
            physical_offsets: vec![PhysicalOffset(1), PhysicalOffset(256)],
            store_host: std::net::SocketAddr::from(([10, 0, 0, 1], 10_911)),
            unique_key,
            recall_handle: None,
        };
        let reply = written(ReplyContent::Stored(stored(Some("U".into()))));
        let ids = "0A00000100002A9F0000000000000001,0A00000100002A9F0000000000000100";
        let expected = [
            ("msgId", ids),
            ("queueId", "3"),
            ("queueOffset", "40"),
            ("transactionId", "U"),
            ("MSG_REGION", "DefaultRegion"),
            ("TRACE_ON", "true"),
        ];
        for (name, value) in expected {
            assert_eq!(reply.fields.get(name), Some(value));
        }
        assert_eq!((reply.head.code, reply.head.opaque, reply.is_response()), (0, 7, true));
        let without_key = written(ReplyContent::Stored(stored(None)));
        assert_eq!(without_key.fields.get("transactionId"), None);
    }

    #[test]
    fn pulled_messages_carry_offsets_status_and_records() {
        let pulled = PulledReply {
            code: ResponseCode::PULL_OFFSET_MOVED,
            status: "OFFSET_TOO_SMALL",
            header: PullResponse {
                suggest_which_broker_id: 0,
                next_begin_offset: 5,
                min_offset: 5,
                max_offset: 9,
            },
            records: vec![Bytes::from("one"), Bytes::from(vec![b'x'; 300])],
            backlog: None,
        };
        let reply = written(ReplyContent::Pulled(pulled));
        let names = ["suggestWhichBrokerId", "nextBeginOffset", "minOffset", "maxOffset"];
        assert_eq!(names.map(|name| reply.fields.get(name).unwrap()), ["0", "5", "5", "9"]);
        assert_eq!((reply.head.code, reply.head.remark.as_deref()), (21, Some("OFFSET_TOO_SMALL")));
        assert_eq!((reply.body.len(), &reply.body[..3]), (303, &b"one"[..]));
    }

    #[test]
    fn refusal_is_its_code_and_its_sentence() {
        let refusal = Refusal::Busy { actor: "the queue", waiting: 9 };
        let reply = written(ReplyContent::Refused(refusal.clone()));
        assert_eq!((reply.head.code, reply.head.remark), (2, Some(refusal.to_string())));
    }

    #[test]
    fn nothing_is_written_to_those_who_do_not_wait() {
        let mut output = Output::default();
        let to = ReplyTo { one_way: true, ..TO };
        output.put_reply(Reply { to, ..answer_of("x".into()) });
        output.put_reply(Reply { to: TO, content: ReplyContent::Silence });
        assert!(output.is_empty());
    }

    proptest! {
        #[test]
        fn commands_come_out_whole_and_in_order_however_the_socket_takes_them(
            lens in prop::collection::vec(0usize..2_000, 1..80),
            step in 1usize..5_000,
            pause_at in 0usize..80,
        ) {
            let mut output = Output::default();
            let mut bytes = BytesMut::new();
            for (n, len) in lens.iter().enumerate() {
                if n == pause_at {
                    bytes.unsplit(drain(&mut output, step));
                    prop_assert_eq!(output.len_bytes(), 0);
                }
                output.put_reply(answer_of(vec![n as u8; *len].into()));
                output.put_request(n as i32, 1, true, &[("k".into(), "v".into())], Bytes::new());
            }
            bytes.unsplit(drain(&mut output, step));
            let commands = read_back(bytes);
            prop_assert_eq!(commands.len(), lens.len() * 2);
            for (n, pair) in commands.chunks(2).enumerate() {
                prop_assert!(pair[0].body == vec![n as u8; lens[n]]);
                prop_assert_eq!(pair[1].head.code, n as i32);
            }
        }
    }
}
