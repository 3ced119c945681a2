use proptest::prelude::*;

use super::*;
use crate::protocol::properties;

fn message() -> PendingMessage {
    PendingMessage {
        topic: "TopicTest".into(),
        queue_id: QueueId(3),
        flag: 7,
        sys_flag: BORN_HOST_V6 | STORE_HOST_V6 | 1,
        born_at_ms: 0x0102_0304_0506,
        born_host: "10.0.0.9:50000".parse().unwrap(),
        store_host: "10.0.0.1:10911".parse().unwrap(),
        reconsume_times: 2,
        prepared_transaction_offset: 5,
        body: Bytes::from_static(b"hello"),
        properties: Bytes::from_static(b"TAGS\x01a"),
        extra_properties: Bytes::from_static(b"CLUSTER\x01c\x02"),
    }
}

fn encode(message: &PendingMessage) -> Vec<u8> {
    let mut record = vec![0xEE; message.record_len()];
    message.encode_into(&mut record, QueueOffset(0x11), PhysicalOffset(0x2222), WallMs(0x0A0B));
    record
}

#[rustfmt::skip]
const GOLDEN: &[u8] = &[
    0, 0, 0, 122,  0xDA, 0xA3, 0x20, 0xA7,  0x36, 0x10, 0xA6, 0x86,  0, 0, 0, 3,
    0, 0, 0, 7,  0, 0, 0, 0, 0, 0, 0, 0x11,  0, 0, 0, 0, 0, 0, 0x22, 0x22,  0, 0, 0, 1,
    0, 0, 1, 2, 3, 4, 5, 6,  10, 0, 0, 9,  0, 0, 0xC3, 0x50,
    0, 0, 0, 0, 0, 0, 0x0A, 0x0B,  10, 0, 0, 1,  0, 0, 0x2A, 0x9F,
    0, 0, 0, 2,  0, 0, 0, 0, 0, 0, 0, 5,
    0, 0, 0, 5,  b'h', b'e', b'l', b'l', b'o',
    9, b'T', b'o', b'p', b'i', b'c', b'T', b'e', b's', b't',
    0, 17, b'T', b'A', b'G', b'S', 1, b'a', 2, b'C', b'L', b'U', b'S', b'T', b'E', b'R', 1, b'c', 2,
];

#[test]
fn record_has_the_bytes_of_rocketmq() {
    assert_eq!(encode(&message()), GOLDEN);
}

#[test]
fn smallest_record_has_91_bytes() {
    let empty = Bytes::new();
    let smallest = PendingMessage {
        topic: "".into(),
        body: empty.clone(),
        properties: empty.clone(),
        extra_properties: empty,
        ..message()
    };
    assert_eq!(smallest.record_len(), MIN_RECORD_BYTES);
    assert!(RecordView::parse(&encode(&smallest)).unwrap().verify_crc().is_ok());
}

#[test]
fn ipv6_hosts_set_their_bits_and_take_twelve_bytes_more() {
    let v6 = PendingMessage { born_host: "[2001:db8::7]:50000".parse().unwrap(), ..message() };
    let record = encode(&v6);
    assert_eq!(record.len(), GOLDEN.len() + 12);
    let view = RecordView::parse(&record).unwrap();
    assert_eq!(view.sys_flag(), BORN_HOST_V6 | 1);
    assert_eq!((view.born_host(), view.store_host()), (v6.born_host, v6.store_host));
    let mapped = PendingMessage { born_host: "[::ffff:10.0.0.9]:50000".parse().unwrap(), ..message() };
    assert_eq!(encode(&mapped), GOLDEN, "an IPv4 address in IPv6 clothes is IPv4");
}

#[test]
fn topic_above_127_bytes_makes_a_v2_record() {
    for (len, magic) in [(127, MAGIC_V1), (128, MAGIC_V2), (255, MAGIC_V2)] {
        let record = encode(&PendingMessage { topic: "t".repeat(len).into(), ..message() });
        assert_eq!(record[4..8], magic.to_be_bytes());
        assert_eq!(RecordView::parse(&record).unwrap().topic().len(), len);
    }
}

#[test]
fn separator_is_inserted_only_between_two_texts() {
    let cases: [(&[u8], &[u8], &[u8]); 5] = [
        (b"", b"", b""),
        (b"a\x01b", b"", b"a\x01b"),
        (b"", b"c\x01d\x02", b"c\x01d\x02"),
        (b"a\x01b\x02", b"c\x01d\x02", b"a\x01b\x02c\x01d\x02"),
        (b"a\x01b", b"c\x01d\x02", b"a\x01b\x02c\x01d\x02"),
    ];
    for (properties, extra_properties, stored) in cases {
        let record = encode(&PendingMessage {
            properties: Bytes::from_static(properties),
            extra_properties: Bytes::from_static(extra_properties),
            ..message()
        });
        assert_eq!(RecordView::parse(&record).unwrap().properties(), stored);
    }
}

#[test]
fn damaged_body_fails_its_crc() {
    let mut record = GOLDEN.to_vec();
    record[90] ^= 1;
    let error = RecordView::parse(&record).unwrap().verify_crc().unwrap_err();
    assert!(matches!(error, RecordError::Crc { stored: 0x3610_A686, .. }));
}

#[test]
fn record_cut_anywhere_is_an_error() {
    for len in 0..GOLDEN.len() {
        let error = RecordView::parse(&GOLDEN[..len]).err();
        assert!(matches!(error, Some(RecordError::Cut { .. })), "{len}: {error:?}");
    }
    let mut twice = GOLDEN.repeat(2);
    assert_eq!(RecordView::parse(&twice).unwrap().bytes(), GOLDEN);
    assert_eq!(StoredMessage::decode_all(Bytes::from(twice.clone())).len(), 2);
    twice.pop();
    assert_eq!(StoredMessage::decode_all(Bytes::from(twice)).len(), 1);
}

#[test]
fn blank_is_not_a_record() {
    let mut blank = [0; 8];
    EntryHead::put_blank(&mut blank, 100);
    assert_eq!(EntryHead::parse(&blank), Ok(EntryHead::Blank { len: 100 }));
    assert!(RecordView::parse(&blank).is_err());
    assert_eq!(EntryHead::parse(&[0; 8]), Err(RecordError::Magic { magic: 0 }));
}

fn any_message() -> impl Strategy<Value = PendingMessage> {
    let host = any::<std::net::SocketAddr>().prop_map(|host| SocketAddr::new(host.ip(), host.port()));
    let text = prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    let numbers = (any::<u32>(), any::<i32>(), any::<i32>(), any::<i64>(), any::<i32>(), any::<i64>());
    ("\\PC{0,60}", numbers, (host.clone(), host), (text.clone(), text.clone(), text)).prop_map(
        |(topic, numbers, (born_host, store_host), (body, properties, extra_properties))| PendingMessage {
            topic: topic.into(),
            queue_id: QueueId(numbers.0),
            flag: numbers.1,
            sys_flag: numbers.2,
            born_at_ms: numbers.3,
            born_host,
            store_host,
            reconsume_times: numbers.4,
            prepared_transaction_offset: numbers.5,
            body,
            properties,
            extra_properties,
        },
    )
}

fn read_everything(view: RecordView<'_>) {
    let _ = (view.born_host(), view.store_host(), view.stored_at_ms(), view.reconsume_times());
    let _ = (view.prepared_transaction_offset(), view.verify_crc(), view.topic(), view.queue_id());
    let _ = properties::pairs(view.properties()).count();
}

proptest! {
    #[test]
    fn encoded_record_is_read_back(message in any_message(), queue_offset: u64, physical: u64, now: i64) {
        let mut record = vec![0; message.record_len()];
        message.encode_into(&mut record, QueueOffset(queue_offset), PhysicalOffset(physical), WallMs(now));
        let stored = StoredMessage::decode(&Bytes::from(record.clone())).unwrap();
        let canonical = |host: SocketAddr| SocketAddr::new(host.ip().to_canonical(), host.port());
        prop_assert_eq!(&stored.topic, &message.topic);
        prop_assert_eq!((stored.queue_id, stored.flag), (message.queue_id, message.flag));
        prop_assert_eq!((stored.queue_offset.0, stored.physical_offset.0), (queue_offset, physical));
        prop_assert_eq!(stored.sys_flag & !0x30, message.sys_flag & !0x30);
        prop_assert_eq!((stored.born_at_ms, stored.stored_at_ms), (message.born_at_ms, now));
        prop_assert_eq!(stored.born_host, canonical(message.born_host));
        prop_assert_eq!(stored.store_host, canonical(message.store_host));
        prop_assert_eq!(stored.reconsume_times, message.reconsume_times);
        prop_assert_eq!(stored.prepared_transaction_offset, message.prepared_transaction_offset);
        prop_assert_eq!(&stored.body, &message.body);
        prop_assert!(stored.properties.starts_with(&message.properties));
        prop_assert!(stored.properties.ends_with(&message.extra_properties));
        prop_assert!(RecordView::parse(&record).unwrap().verify_crc().is_ok());
    }

    #[test]
    fn any_bytes_parse_without_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), head: bool, v2: bool) {
        if head && bytes.len() >= 8 {
            let len = bytes.len() as u32;
            bytes[..4].copy_from_slice(&len.to_be_bytes());
            bytes[4..8].copy_from_slice(&if v2 { MAGIC_V2 } else { MAGIC_V1 }.to_be_bytes());
        }
        if let Ok(view) = RecordView::parse(&bytes) {
            read_everything(view);
        }
    }

    #[test]
    fn changed_record_parses_without_panic(at in 0..GOLDEN.len(), value: u8, at_2 in 0..GOLDEN.len(), value_2: u8) {
        let mut record = GOLDEN.to_vec();
        record[at] = value;
        record[at_2] = value_2;
        if let Ok(view) = RecordView::parse(&record) {
            read_everything(view);
        }
    }
}

#[test]
fn glance_sees_what_parsing_sees() {
    let v6: SocketAddr = "[2001:db8::7]:50000".parse().unwrap();
    let of_kind = |born_host, store_host, topic: &str| {
        encode(&PendingMessage { born_host, store_host, topic: topic.into(), ..message() })
    };
    let v4 = message().born_host;
    for mut record in
        [of_kind(v4, v4, "t"), of_kind(v6, v4, "t"), of_kind(v4, v6, "t"), of_kind(v6, v6, &"t".repeat(200))]
    {
        let len = record.len();
        record.extend_from_slice(b"what lies behind");
        let (seen, parsed) = (RecordGlance::of(&record).unwrap(), RecordView::parse(&record).unwrap());
        assert_eq!(seen.total_len(), len);
        assert_eq!(seen.queue_offset(), parsed.queue_offset());
        assert_eq!(seen.body(), Ok(parsed.body()));
    }
}

#[test]
fn glance_at_a_record_cut_anywhere_is_an_error() {
    for len in 0..GOLDEN.len() {
        let error = RecordGlance::of(&GOLDEN[..len]).err();
        assert!(matches!(error, Some(RecordError::Cut { .. })), "{len}: {error:?}");
    }
}

#[test]
fn body_that_leads_out_of_its_record_is_an_error() {
    let mut record = GOLDEN.to_vec();
    for len in [GOLDEN.len() as i32, i32::MAX] {
        record[84..88].copy_from_slice(&len.to_be_bytes());
        let seen = RecordGlance::of(&record).unwrap();
        assert_eq!(seen.body(), Err(RecordError::Length { total_len: GOLDEN.len() as u32 }));
    }
    // A smallest record that says its hosts are longer than it has room for.
    let mut smallest = vec![0; MIN_RECORD_BYTES];
    smallest[..4].copy_from_slice(&(MIN_RECORD_BYTES as u32).to_be_bytes());
    smallest[4..8].copy_from_slice(&MAGIC_V1.to_be_bytes());
    smallest[36..40].copy_from_slice(&(BORN_HOST_V6 | STORE_HOST_V6).to_be_bytes());
    let seen = RecordGlance::of(&smallest).unwrap();
    assert_eq!(seen.body(), Err(RecordError::Length { total_len: MIN_RECORD_BYTES as u32 }));
}

proptest! {
    #[test]
    fn glance_at_any_bytes_is_a_record_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(head) = bytes.first_chunk_mut::<8>() {
            head[..4].copy_from_slice(&150u32.to_be_bytes());
            head[4..].copy_from_slice(&MAGIC_V1.to_be_bytes());
        }
        if let Ok(seen) = RecordGlance::of(&bytes) {
            prop_assert_eq!(seen.total_len(), 150);
            prop_assert!(seen.body().is_err() || seen.body().unwrap().len() < 150);
        }
    }
}
