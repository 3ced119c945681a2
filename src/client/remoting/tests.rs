use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};

use super::*;
use crate::protocol::frame::{MAX_FRAME_BYTES, NextFrame, next_frame};

const SECOND: Duration = Duration::from_secs(1);

/// The other end of the pipe: reads commands, writes what a test wants.
struct FakeServer {
    read: ReadHalf<DuplexStream>,
    write: WriteHalf<DuplexStream>,
    input: BytesMut,
}

fn connected(options: ConnectOptions) -> (RemotingConnection, FakeServer) {
    let (ours, theirs) = tokio::io::duplex(4096);
    let (read, write) = tokio::io::split(ours);
    let connection = RemotingConnection::over(read, write, "fake:9876", &options);
    let (read, write) = tokio::io::split(theirs);
    (connection, FakeServer { read, write, input: BytesMut::new() })
}

impl FakeServer {
    async fn next(&mut self) -> Command {
        loop {
            if let NextFrame::Whole(frame) = next_frame(&mut self.input, MAX_FRAME_BYTES).unwrap() {
                return Command::decode(frame).unwrap();
            }
            assert!(self.read.read_buf(&mut self.input).await.unwrap() > 0, "closed");
        }
    }

    async fn send(&mut self, head: OutgoingHead<'_>, body: &[u8]) {
        let mut bytes = BytesMut::new();
        head.write(&mut bytes, body.len());
        bytes.extend_from_slice(body);
        self.write.write_all(&bytes).await.unwrap();
    }
}

#[tokio::test]
async fn answers_find_their_calls_in_any_order() {
    for codec in [HeaderCodec::Json, HeaderCodec::Binary] {
        let (connection, mut server) = connected(ConnectOptions { codec, ..Default::default() });
        let calls = ["a", "b", "c"].map(|topic| {
            let call = Call::new(RequestCode::GET_ROUTEINFO_BY_TOPIC).field("topic", topic).body(topic);
            connection.call(call, SECOND)
        });
        let serve = async {
            let mut asked = Vec::new();
            for _ in 0..3 {
                asked.push(server.next().await);
            }
            for command in asked.into_iter().rev() {
                assert_eq!((command.head.code, command.codec), (105, codec));
                let fields = [("echo", FieldValue::Text(command.fields.get("topic").unwrap()))];
                let head = OutgoingHead::response(codec, command.head.opaque, 0);
                server.send(OutgoingHead { fields: &fields, ..head }, &command.body).await;
            }
        };
        let (answers, ()) = tokio::join!(futures::future::join_all(calls), serve);
        for (answer, topic) in answers.into_iter().zip(["a", "b", "c"]) {
            let answer = answer.unwrap().success().unwrap();
            assert_eq!((answer.fields.get("echo"), &answer.body[..]), (Some(topic), topic.as_bytes()));
        }
    }
}

#[tokio::test]
async fn refusals_and_one_way_requests() {
    let (connection, mut server) = connected(ConnectOptions::default());
    connection.one_way(Call::new(RequestCode::BROKER_HEARTBEAT)).await.unwrap();
    assert!(server.next().await.is_one_way());
    let serve = async {
        let command = server.next().await;
        let head = OutgoingHead::response(command.codec, command.head.opaque, 17);
        server.send(OutgoingHead { remark: Some("No route"), ..head }, b"").await;
    };
    let call = connection.call(Call::new(RequestCode::GET_ROUTEINFO_BY_TOPIC), SECOND);
    let (answer, ()) = tokio::join!(call, serve);
    let refused = answer.unwrap().success().unwrap_err();
    assert_eq!(refused.to_string(), "CODE: 17 DESC: No route");
}

#[tokio::test(start_paused = true)]
async fn call_times_out_and_its_late_answer_harms_nobody() {
    let (connection, mut server) = connected(ConnectOptions::default());
    let late = connection.call(Call::new(RequestCode::GET_BROKER_CLUSTER_INFO), SECOND).await;
    assert!(matches!(late, Err(ClientError::TimedOut { .. })));
    let late = server.next().await.head.opaque;
    server.send(OutgoingHead::response(HeaderCodec::Json, late, 0), b"late").await;
    let serve = async {
        let opaque = server.next().await.head.opaque;
        server.send(OutgoingHead::response(HeaderCodec::Json, opaque, 0), b"in time").await;
    };
    let call = connection.call(Call::new(RequestCode::GET_BROKER_CLUSTER_INFO), SECOND);
    let (answer, ()) = tokio::join!(call, serve);
    assert_eq!(&answer.unwrap().body[..], b"in time");
}

#[tokio::test]
async fn close_by_the_server_fails_waiting_and_later_calls() {
    let (connection, mut server) = connected(ConnectOptions::default());
    let close = async {
        server.next().await;
        drop(server);
    };
    let call = connection.call(Call::new(RequestCode::GET_BROKER_CLUSTER_INFO), SECOND);
    let (answer, ()) = tokio::join!(call, close);
    assert_eq!(answer.unwrap_err().to_string(), "the connection to fake:9876 is closed: by the server");
    assert_eq!(connection.closed().await, "by the server");
    assert!(connection.is_closed());
    let later = connection.call(Call::new(RequestCode::GET_BROKER_CLUSTER_INFO), SECOND).await;
    assert!(matches!(later, Err(ClientError::Closed { .. })));
}

#[tokio::test]
async fn requests_of_the_server_are_handed_over_and_answered() {
    let (sender, mut handed) = mpsc::unbounded_channel();
    let on_request: ServerRequestHandler = Arc::new(move |request| sender.send(request).unwrap());
    let (connection, mut server) =
        connected(ConnectOptions { on_request: Some(on_request), ..Default::default() });
    server.send(OutgoingHead::request(HeaderCodec::Json, 7, 307), b"").await;
    let request = handed.recv().await.unwrap();
    assert_eq!(request.command.head.code, 307);
    request.answer(ResponseCode::SUCCESS, None, &[], Bytes::from_static(b"{}")).await;
    let answer = server.next().await;
    assert_eq!((answer.head.opaque, answer.is_response(), &answer.body[..]), (7, true, &b"{}"[..]));
    drop(connection);
}

#[tokio::test]
async fn without_a_handler_requests_of_the_server_are_answered_not_supported() {
    let (_connection, mut server) = connected(ConnectOptions::default());
    server.send(OutgoingHead::request(HeaderCodec::Json, 1, 307), b"").await;
    let answer = server.next().await;
    assert_eq!((answer.head.opaque, answer.head.code), (1, 3));
}

#[tokio::test]
async fn dropping_the_last_handle_sends_what_is_queued_and_closes() {
    let (connection, mut server) = connected(ConnectOptions::default());
    connection.one_way(Call::new(RequestCode::UNREGISTER_BROKER)).await.unwrap();
    drop(connection);
    assert_eq!(server.next().await.head.code, 104);
    assert_eq!(server.read.read_buf(&mut server.input).await.unwrap(), 0);
}

#[tokio::test]
async fn close_from_this_side_fails_waiting_calls() {
    let (connection, mut server) = connected(ConnectOptions::default());
    let close = async {
        server.next().await;
        connection.clone().close();
        assert_eq!(connection.closed().await, "from this side");
    };
    let call = connection.call(Call::new(RequestCode::GET_BROKER_CLUSTER_INFO), SECOND);
    let (answer, ()) = tokio::join!(call, close);
    assert!(matches!(answer, Err(ClientError::Closed { .. })));
}
