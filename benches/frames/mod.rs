//! Frames as clients send them.

use bytes::BytesMut;
use telstar::protocol::command::OutgoingHead;
use telstar::protocol::frame::HeaderCodec;
use telstar::protocol::header::{FieldWriter, SendMessageV2};
use telstar::protocol::request_code::RequestCode;

/// SEND_MESSAGE_V2 with a body of `body_bytes`, to a topic that is made with so many queues unless it is there.
pub fn send_frame(
    codec: HeaderCodec,
    topic: &str,
    queues: i32,
    queue_id: i32,
    properties: &[u8],
    body_bytes: usize,
) -> BytesMut {
    let header = SendMessageV2 {
        producer_group: "shop".into(),
        topic: topic.into(),
        default_topic: "TBW102".into(),
        default_topic_queue_nums: queues,
        queue_id,
        sys_flag: 0,
        born_at_ms: 1_700_000_000_000,
        flag: 0,
        properties: String::from_utf8_lossy(properties).into_owned(),
        reconsume_times: 0,
        unit_mode: false,
        max_reconsume_times: None,
        batch: false,
    };
    let fields = FieldWriter::of(&header);
    let code = RequestCode::SEND_MESSAGE_V2.as_i32();
    let head = OutgoingHead { fields: &fields.as_fields(), ..OutgoingHead::request(codec, 7, code) };
    let mut frame = BytesMut::new();
    head.write(&mut frame, body_bytes);
    frame.resize(frame.len() + body_bytes, b'x');
    frame
}
