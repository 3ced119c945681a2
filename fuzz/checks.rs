//! What every input must satisfy, whoever made it: no panic, and what was read can be written and read again.
//! The fuzz targets and the replay of their corpora (`tests/whole/replay.rs`) call the same functions.
#![allow(dead_code, reason = "each fuzz target is a crate that calls one of them")]

use std::borrow::Cow;
use std::fmt::Debug;
use std::io::Write as _;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use telstar::clock::WallMs;
use telstar::filter::{FilterRules, SqlFilter};
use telstar::protocol::attributes;
use telstar::protocol::batch_body::BatchEntries;
use telstar::protocol::body::batch_ack::BatchAckMessageRequestBody;
use telstar::protocol::body::heartbeat::{CheckClientRequestBody, HeartbeatData};
use telstar::protocol::body::lock::LockBatchRequestBody;
use telstar::protocol::body::offsets::{
    ConsumerOffsetSerializeWrapper, GetConsumerStatusBody, ResetOffsetBody,
};
use telstar::protocol::body::registration::{
    RegisterBrokerBody, RegistrationForm, TopicConfigSerializeWrapper,
};
use telstar::protocol::body::route::{ClusterInfo, TopicRouteData};
use telstar::protocol::body::settings::{CreateTopicListRequestBody, SubscriptionGroupWrapper};
use telstar::protocol::body::stats::{ConsumeStats, TopicStatsTable};
use telstar::protocol::body::subscription::{SQL92, SubscriptionData, TAG};
use telstar::protocol::command::{Command, FieldValue, OutgoingHead};
use telstar::protocol::delay_level::DelayLevels;
use telstar::protocol::ext_fields::ExtFields;
use telstar::protocol::fastjson;
use telstar::protocol::frame::{HeaderCodec, NextFrame, next_frame};
use telstar::protocol::header::*;
use telstar::protocol::message::{EntryHead, PendingMessage, RecordView, StoredMessage};
use telstar::protocol::message_body;
use telstar::protocol::message_id::{offset_message_id, parse_offset_message_id};
use telstar::protocol::names;
use telstar::protocol::properties::{self, MAX_PROPERTIES_BYTES, PropertyList};
use telstar::protocol::properties_text;

const MAX_FRAME_BYTES: usize = 64 * 1024;

/// Panics when the input does what none may.
pub type Check = fn(&[u8]);

/// The checks by the name of their corpus.
pub const ALL: [(&str, Check); 7] = [
    ("commands", commands),
    ("headers", headers),
    ("records", records),
    ("bodies", bodies),
    ("texts", texts),
    ("compressed", compressed),
    ("conditions", conditions),
];

/// A stream of frames. The first byte says where the stream is cut into two reads.
pub fn commands(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else { return };
    let cut = usize::from(*cut).min(stream.len());
    let at_once = frames([stream].into_iter());
    let in_two = frames([&stream[..cut], &stream[cut..]].into_iter());
    assert_eq!(at_once, in_two, "what a stream holds does not depend on how it arrives");
    for command in at_once {
        let fields: Vec<_> =
            command.fields.iter().map(|(name, value)| (name, FieldValue::Text(value))).collect();
        // Lengths of names are 16 bits in the binary codec.
        if command.codec == HeaderCodec::Binary && fields.iter().any(|(name, _)| name.len() > 0xFFFF) {
            continue;
        }
        let mut written = BytesMut::new();
        OutgoingHead {
            codec: command.codec,
            code: command.head.code,
            opaque: command.head.opaque,
            flag: command.head.flag,
            language: command.head.language,
            remark: command.head.remark.as_deref(),
            fields: &fields,
        }
        .write(&mut written, command.body.len());
        written.extend_from_slice(&command.body);
        let Ok(NextFrame::Whole(frame)) = next_frame(&mut written, usize::MAX) else {
            panic!("a frame of ours is whole");
        };
        assert!(written.is_empty());
        let read = Command::decode(frame).expect("a command of ours can be read");
        assert_eq!(read.head.code, command.head.code);
        assert_eq!((read.head.opaque, read.head.flag), (command.head.opaque, command.head.flag));
        assert_eq!(read.head.remark, command.head.remark);
        assert_eq!(read.head.language.name(), command.head.language.name());
        assert_eq!((&read.fields, &read.body), (&command.fields, &command.body));
        typed_headers(&command.fields);
    }
}

fn frames<'a>(reads: impl Iterator<Item = &'a [u8]>) -> Vec<Command> {
    let mut input = BytesMut::new();
    let mut commands = Vec::new();
    for read in reads {
        input.extend_from_slice(read);
        loop {
            match next_frame(&mut input, MAX_FRAME_BYTES) {
                Ok(NextFrame::Whole(frame)) => match Command::decode(frame) {
                    Ok(command) => commands.push(command),
                    Err(error) => {
                        assert!(!error.to_string().is_empty());
                        return commands;
                    }
                },
                Ok(NextFrame::NeedsBytes(bytes)) => {
                    assert!(bytes > input.len(), "more is needed than there is");
                    break;
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    return commands;
                }
            }
        }
    }
    commands
}

/// Ext fields, written as properties: `name 0x01 value 0x02 …`.
pub fn headers(data: &[u8]) {
    typed_headers(&properties::pairs(data).collect());
}

fn typed_headers(fields: &ExtFields) {
    let _ = SendHeader::from_long_names(fields).map_err(|error| error.to_string());
    let _ = SendHeader::from_short_names(fields).map_err(|error| error.to_string());
    macro_rules! survive {
        ($($header:ty),* $(,)?) => {$(
            match <$header>::from_fields(fields) {
                Ok(header) => {
                    let written: ExtFields = FieldWriter::of(&header).into_pairs().into_iter().collect();
                    assert_eq!(<$header>::from_fields(&written).as_ref(), Ok(&header));
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        )*};
    }
    survive!(
        PullHeader,
        PullResponse,
        SendMessageV2,
        SendResponse,
        SendBack,
        QueryConsumerOffset,
        UpdateConsumerOffset,
        SearchOffset,
        QueueHeader,
        OffsetResponse,
        ViewMessage,
        QueryMessage,
        UnregisterClient,
        ConsumerGroupHeader,
        ConsumerRunningInfoHeader,
        ResetOffset,
        CloneGroupOffset,
        ConsumeStatsHeader,
        GetRoute,
        RegisterBroker,
        BrokerIdentity,
        BrokerHeartbeat,
        CreateTopic,
        GetAllTopicConfig,
        GetAllGroupConfig,
        ViewBrokerStats,
        QueryConsumeQueue,
        PutKvConfig,
        DeleteGroup,
    );
}

/// Records, entries of the commit log, the body of a batch, properties.
pub fn records(data: &[u8]) {
    let _ = EntryHead::parse(data).map_err(|error| error.to_string());
    let bytes = Bytes::copy_from_slice(data);
    match RecordView::parse(data) {
        Ok(view) => {
            assert_eq!(view.bytes(), &data[..view.total_len()]);
            let _ = view.verify_crc();
            let message = StoredMessage::decode(&bytes).expect("the view was read");
            written_again(&message);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let total: usize =
        StoredMessage::decode_all(bytes.clone()).iter().map(|message| message.body.len()).sum();
    assert!(total <= data.len());
    for entry in BatchEntries::new(bytes).flatten() {
        read_properties(&entry.properties);
    }
    read_properties(data);
}

fn written_again(message: &StoredMessage) {
    let pending = PendingMessage {
        topic: message.topic.clone(),
        queue_id: message.queue_id,
        flag: message.flag,
        sys_flag: message.sys_flag,
        born_at_ms: message.born_at_ms,
        born_host: message.born_host,
        store_host: message.store_host,
        reconsume_times: message.reconsume_times,
        prepared_transaction_offset: message.prepared_transaction_offset,
        body: message.body.clone(),
        properties: message.properties.clone(),
        extra_properties: Bytes::new(),
    };
    assert!(pending.properties_len() <= MAX_PROPERTIES_BYTES);
    let mut record = vec![0; pending.record_len()];
    pending.encode_into(
        &mut record,
        message.queue_offset,
        message.physical_offset,
        WallMs(message.stored_at_ms),
    );
    let view = RecordView::parse(&record).expect("a record of ours can be read");
    view.verify_crc().expect("its CRC is right");
    let read = StoredMessage::decode(&Bytes::from(record.clone())).expect("it was read");
    assert_eq!(
        (&read.topic, &read.body, &read.properties),
        (&message.topic, &message.body, &message.properties)
    );
    assert_eq!((read.queue_id, read.queue_offset), (message.queue_id, message.queue_offset));
    assert_eq!((read.physical_offset, read.flag), (message.physical_offset, message.flag));
    assert_eq!(read.born_host.ip(), message.born_host.ip().to_canonical());
    assert_eq!(read.stored_at_ms, message.stored_at_ms);
}

fn read_properties(text: &[u8]) {
    let list = PropertyList::decode(text);
    let written = list.encode();
    assert_eq!(PropertyList::decode(&written), list);
    for (name, value) in list.iter() {
        assert_eq!(properties::get(text, name), Some(value), "the last one counts");
    }
    properties::tags_code(list.get("TAGS"));
}

/// JSON bodies in all their dialects.
pub fn bodies(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(strict) = fastjson::normalize(&text)
        && let Ok(value) = serde_json::from_str::<serde_json::Value>(&strict)
    {
        let again = fastjson::normalize(&strict).expect("strict JSON is in the dialect");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&again).expect("it stays strict"), value);
    }
    survives::<HeartbeatData>(data);
    survives::<CheckClientRequestBody>(data);
    survives::<LockBatchRequestBody>(data);
    survives::<TopicConfigSerializeWrapper>(data);
    survives::<CreateTopicListRequestBody>(data);
    survives::<SubscriptionGroupWrapper>(data);
    survives::<ResetOffsetBody>(data);
    survives::<ConsumerOffsetSerializeWrapper>(data);
    survives::<TopicRouteData>(data);
    survives::<ClusterInfo>(data);
    // Floating point may lose its last digit.
    let _ = fastjson::from_slice::<ConsumeStats>(data);
    let _ = fastjson::from_slice::<TopicStatsTable>(data);
    let _ = fastjson::from_slice::<GetConsumerStatusBody>(data);
    let _ = fastjson::from_slice::<BatchAckMessageRequestBody>(data);
    if let Ok(heartbeat) = fastjson::from_slice::<HeartbeatData>(data) {
        for subscription in
            heartbeat.consumer_data_set.into_iter().flat_map(|group| group.subscription_data_set)
        {
            subscription.with_codes().matches_tags_code(1);
        }
    }
    for broker_version in [36, 399, 479] {
        for compressed in [false, true] {
            let _ = RegisterBrokerBody::decode(data, RegistrationForm { broker_version, compressed });
        }
    }
}

fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) {
    let Ok(body) = fastjson::from_slice::<T>(data) else { return };
    for written in [fastjson::to_vec(&body), fastjson::to_vec_java(&body)] {
        let written = written.expect("a body that was read can be written");
        let read = fastjson::from_slice::<T>(&written);
        assert_eq!(read.as_ref().ok(), Some(&body), "{}", String::from_utf8_lossy(&written));
    }
}

/// Texts of settings, names, expressions.
pub fn texts(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match properties_text::parse(&text) {
        Ok(read) => assert_eq!(properties_text::parse(&properties_text::write(&read)), Ok(read)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let line = text.lines().next().unwrap_or_default();
    let _ = attributes::parse_change(line);
    let _ = names::check_topic(line).and_then(|()| names::check_group(line));
    let _ = (names::group_of_retry_topic(line), names::is_system_group(line));
    if let Ok((host, physical)) = parse_offset_message_id(line) {
        assert_eq!(offset_message_id(host, physical), line.to_ascii_uppercase());
    }
    if let Ok(levels) = DelayLevels::parse(line) {
        for level in 0..=levels.max_level() + 1 {
            let _ =
                (levels.delay(level), levels.deliver_at_ms(level, i64::MAX), levels.deliver_at_ms(level, 0));
        }
    }
    for kind in [TAG, SQL92, ""] {
        if let Ok(built) = SubscriptionData::build("T", line, kind) {
            assert_eq!(built.clone().with_codes(), built);
        }
    }
}

/// Compressed bodies. The first byte says how they are compressed, or that they still have to be.
pub fn compressed(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    let kind = i32::from(*kind);
    if let Ok(opened) = message_body::open(body, 1 | (kind & 3) << 8) {
        assert!(opened.len() as u64 <= message_body::MAX_OPENED_BYTES);
    }
    let body = if kind & 4 == 0 { Cow::Borrowed(body) } else { Cow::Owned(deflated(body)) };
    for broker_version in [399, 479] {
        let form = RegistrationForm { broker_version, compressed: true };
        let Ok(registration) = RegisterBrokerBody::decode(&body, form) else { continue };
        let written = registration.encode_deflated().expect("a registration that was read can be written");
        let form = RegistrationForm { broker_version: 479, compressed: true };
        let read = RegisterBrokerBody::decode(&written, form).expect("a registration of ours can be read");
        let topics = |body: &RegisterBrokerBody| body.topic_config_serialize_wrapper.topic_config_table.len();
        assert_eq!(topics(&read), topics(&registration));
    }
}

/// An SQL92 condition, and behind a zero byte the properties of a message, and behind another its body.
pub fn conditions(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (condition, properties, body) = (String::from_utf8_lossy(part()), part(), part());
    match SqlFilter::compile(&condition, &FilterRules::default()) {
        Ok(filter) => {
            let plain = filter.evaluate(properties, body, 0);
            // A body right below the limit may be beyond it with the head of zlib.
            if body.len() < FilterRules::default().max_body_bytes / 2 {
                let compressed = filter.evaluate(properties, &deflated(body), 1);
                assert_eq!(compressed, plain, "compression changes nothing");
            }
        }
        Err(error) => {
            assert!((1..=condition.chars().count() + 1).contains(&error.column), "{error}");
        }
    }
}

fn deflated(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::none());
    encoder.write_all(plain).and_then(|()| encoder.finish()).expect("memory takes everything")
}
