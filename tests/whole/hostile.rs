//! Connections that misbehave lose themselves only.

use bytes::Bytes;
use futures::future::join_all;
use tokio::net::TcpStream;

use crate::support::*;

/// Bytes that no command begins with.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let mut long = frame(0, b"{}", b"");
    long[..4].copy_from_slice(&0x0100_0001_u32.to_be_bytes());
    let mut header_beyond = frame(0, b"{}", b"");
    header_beyond[4..8].copy_from_slice(&200_u32.to_be_bytes());
    vec![
        ("text", b"GET / HTTP/1.1\r\nHost: telstar\r\n\r\n".to_vec()),
        ("zeros", vec![0; 64]),
        ("noise", (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()),
        ("a frame over the limit", long),
        ("a header longer than its frame", header_beyond),
        ("an unknown codec", frame(7, b"{}", b"")),
        ("a header that is no JSON", frame(0, b"{\"code\":", b"")),
        ("a header without a code", frame(0, b"{}", b"")),
        ("a binary header that is cut off", frame(1, &[0, 28, 0, 1], b"")),
        ("a binary header with impossible lengths", frame(1, &[0xFF; 21], b"")),
        ("a TLS handshake where there is none", vec![0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]),
    ]
}

#[tokio::test]
async fn what_is_no_command_closes_its_connection_and_no_other() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let good = broker.client().await;
    good.create_topic("orders", 1).await;
    for (n, (what, bytes)) in garbage().into_iter().enumerate() {
        let mut bad = RawConnection::connect(&broker.broker).await;
        bad.write(&bytes).await;
        assert!(bad.next().await.is_none(), "{what} is answered by a close");
        let stored = good.send(Send::to("orders", 0, "x")).await;
        assert_eq!(stored.queue_offset, n as i64, "after {what}");
    }
    // The log names cause and peer of each.
    let closed = broker.logged().matches("connection closed: not a RocketMQ command").count();
    assert!(closed >= 9, "{}", broker.logged());
}

#[tokio::test]
async fn half_a_frame_and_silence_close_the_connection_and_no_other() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &["network.half_frame_timeout_s=1"]).await;
    let good = broker.client().await;
    good.create_topic("orders", 1).await;
    let begun = std::time::Instant::now();
    let mut half = RawConnection::connect(&broker.broker).await;
    half.write(&frame(0, br#"{"code":28}"#, &[0; 100])[..40]).await;
    // Silent between frames, which is no fault.
    let mut silent = RawConnection::connect(&broker.broker).await;
    assert_eq!(silent.ask(r#"{"code":28,"opaque":1}"#, b"").await.head.code, 0);
    assert!(half.next().await.is_none());
    let closed_after = begun.elapsed().as_secs_f64();
    assert!((0.9..5.0).contains(&closed_after), "a limit of 1 s is kept in {closed_after} s");
    assert_eq!(silent.ask(r#"{"code":28,"opaque":2}"#, b"").await.head.code, 0);
    assert_eq!(good.send(Send::to("orders", 0, "x")).await.queue_offset, 0);
    assert!(broker.logged().contains("a frame did not continue"), "{}", broker.logged());
}

#[tokio::test]
async fn a_thousand_idle_connections_leave_room_for_one_that_works() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &[]).await;
    let good = broker.client().await;
    good.create_topic("orders", 1).await;
    let mut idle = Vec::new();
    for _ in 0..10 {
        let some = join_all((0..100).map(|_| TcpStream::connect(&broker.broker))).await;
        idle.extend(some.into_iter().map(|stream| stream.expect("a connection")));
        for n in 0..10 {
            good.send(Send::to("orders", 0, Bytes::from(format!("{n}")))).await;
        }
    }
    assert_eq!(good.pull_all("orders", 0, 100).await.len(), 100);
    // Those that were idle are as good as new.
    let last = idle.pop().unwrap();
    drop(idle);
    let mut woken = RawConnection::over(last);
    assert_eq!(woken.ask(r#"{"code":28,"opaque":1}"#, b"").await.head.code, 0);
}

/// A peer that asks and never reads is not answered into memory without end.
#[tokio::test]
async fn a_client_that_does_not_read_is_not_read_from() {
    let dir = temp_dir();
    let broker = Broker::start(dir.path(), &["network.max_unread_bytes=65536"]).await;
    let good = broker.client().await;
    good.create_topic("orders", 1).await;
    let mut deaf = RawConnection::connect(&broker.broker).await;
    let request = frame(0, br#"{"code":28,"opaque":1}"#, b"").repeat(1000);
    let mut written = 0;
    // Runtime information is some kilobytes an answer: the buffers of the system fill, then ours.
    while let Ok(()) = tokio::time::timeout(std::time::Duration::from_millis(500), deaf.write(&request)).await
    {
        written += request.len();
        assert!(written < 256 << 20, "it takes everything");
    }
    assert_eq!(good.send(Send::to("orders", 0, "x")).await.queue_offset, 0);
}
