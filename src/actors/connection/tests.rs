use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::*;
use crate::actors::request::{Answer, ReplyContent};
use crate::protocol::command::{FLAG_ONE_WAY, FLAG_RESPONSE, FieldValue, OutgoingHead};
use crate::protocol::frame::HeaderCodec;
use crate::protocol::header::PullResponse;
use crate::protocol::response_code::ResponseCode;
use crate::testing::{RuntimeClock, fake_sink};

/// Answered at once by the service; every other code is given to the test.
const ECHO: i32 = 1;
/// Answered at once with as many bytes as the field `n` says.
const LARGE: i32 = 2;
const ASK: i32 = 3;

struct TestService {
    reads: UnboundedSender<Vec<Request>>,
}

impl Service for TestService {
    fn serve(&self, requests: &mut Vec<Request>, replies: &mut Vec<Reply>) {
        let mut passed_on = Vec::new();
        for request in requests.drain(..) {
            match request.command.head.code {
                ECHO => replies.push(answer(&request, request.command.body.clone())),
                LARGE => {
                    let len = request.command.fields.get("n").unwrap().parse().unwrap();
                    replies.push(answer(&request, vec![7; len].into()));
                }
                _ => passed_on.push(request),
            }
        }
        if !passed_on.is_empty() {
            self.reads.send(passed_on).unwrap();
        }
    }
}

fn answer(request: &Request, body: bytes::Bytes) -> Reply {
    Reply { to: request.reply_to(), content: ReplyContent::Answer(Answer::success().with_body(body)) }
}

struct Port {
    socket: TcpListener,
    service: Arc<TestService>,
    /// The requests of one read together.
    reads: UnboundedReceiver<Vec<Request>>,
    limits: ConnectionLimits,
}

impl Port {
    async fn open(limits: ConnectionLimits) -> Self {
        let (taken, reads) = unbounded_channel();
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { socket, service: Arc::new(TestService { reads: taken }), reads, limits }
    }

    async fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.socket.local_addr().unwrap()).await.unwrap();
        let (accepted, peer) = self.socket.accept().await.unwrap();
        let connection = Connection::new(NewConnection {
            transport: Transport::Plain(accepted),
            peer,
            local: self.socket.local_addr().unwrap(),
            service: self.service.clone(),
            limits: self.limits.clone(),
            clock: RuntimeClock::shared(),
        });
        Client { stream, input: BytesMut::new(), connection: connection.start() }
    }

    async fn requests(&mut self, count: usize) -> Vec<Request> {
        let mut requests = Vec::new();
        while requests.len() < count {
            requests.extend(self.reads.recv().await.unwrap());
        }
        requests
    }

    /// Whatever clients have written by now is read by now, if it is read at all.
    async fn barrier(&self) {
        let mut other = self.connect().await;
        for _ in 0..3 {
            other.send(&frame(ECHO, 1, &[], b"")).await;
            other.receive().await;
        }
    }
}

struct Client {
    stream: TcpStream,
    input: BytesMut,
    connection: Addr<Connection>,
}

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn receive(&mut self) -> Command {
        loop {
            if let NextFrame::Whole(frame) = next_frame(&mut self.input, 1 << 25).unwrap() {
                return Command::decode(frame).unwrap();
            }
            assert_ne!(self.stream.read_buf(&mut self.input).await.unwrap(), 0, "the connection is open");
        }
    }

    /// Waits until the broker closes the connection.
    async fn is_closed(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.input).await, Ok(0) | Err(_))
    }
}

fn frame(code: i32, opaque: i32, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    frame_flagged(code, opaque, 0, fields, body)
}

fn frame_flagged(code: i32, opaque: i32, flag: i32, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, FieldValue::Text(value))).collect();
    let mut bytes = BytesMut::new();
    let head =
        OutgoingHead { flag, fields: &fields, ..OutgoingHead::request(HeaderCodec::Json, opaque, code) };
    head.write(&mut bytes, body.len());
    bytes.extend_from_slice(body);
    bytes.to_vec()
}

fn call(timeout: Option<Duration>) -> CallClient {
    CallClient { code: 220, fields: vec![("topic".into(), "T".into())], body: "b".into(), timeout }
}

#[actix::test]
async fn requests_of_one_read_are_served_together_and_answered_by_opaque() {
    let mut port = Port::open(ConnectionLimits::default()).await;
    let mut client = port.connect().await;
    client.send(&[frame(ASK, 5, &[], b"a"), frame(ASK, 6, &[("k", "v")], b"b")].concat()).await;
    let read = port.reads.recv().await.unwrap();
    assert_eq!(read.len(), 2);
    assert_eq!(read[1].command.fields.get("k"), Some("v"));
    for request in read.iter().rev() {
        request.from.reply(answer(request, request.command.body.clone()));
    }
    for (opaque, body) in [(6, "b"), (5, "a")] {
        let reply = client.receive().await;
        assert_eq!(
            (reply.head.opaque, reply.head.flag, &reply.body[..]),
            (opaque, FLAG_RESPONSE, body.as_bytes())
        );
    }
}

#[actix::test]
async fn frame_may_come_byte_by_byte() {
    let port = Port::open(ConnectionLimits::default()).await;
    let mut client = port.connect().await;
    client.stream.set_nodelay(true).unwrap();
    for byte in frame(ECHO, 9, &[], b"whole") {
        client.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(&client.receive().await.body[..], b"whole");
}

#[actix::test]
async fn large_bodies_pass_both_ways() {
    let port = Port::open(ConnectionLimits::default()).await;
    let mut client = port.connect().await;
    let body: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    client.send(&frame(ECHO, 1, &[], &body)).await;
    assert!(client.receive().await.body == body);
}

#[actix::test]
async fn half_frame_that_does_not_continue_closes_the_connection() {
    let mut port = Port::open(ConnectionLimits::default()).await;
    let mut client = port.connect().await;
    let half = &frame(ASK, 2, &[], b"never whole")[..20];
    client.send(&[&frame(ASK, 1, &[], b""), half].concat()).await;
    port.requests(1).await;
    tokio::time::pause();
    let begun = Instant::now();
    assert!(client.is_closed().await);
    let silent = begun.elapsed();
    assert!((Duration::from_secs(29)..Duration::from_secs(41)).contains(&silent), "{silent:?}");
}

#[actix::test]
async fn silent_client_is_closed_only_after_the_idle_time() {
    let port = Port::open(ConnectionLimits::default()).await;
    let mut client = port.connect().await;
    client.send(&frame(ECHO, 1, &[], b"")).await;
    client.receive().await;
    tokio::time::pause();
    let begun = Instant::now();
    assert!(client.is_closed().await);
    let silent = begun.elapsed();
    assert!((Duration::from_secs(119)..Duration::from_secs(131)).contains(&silent), "{silent:?}");
}

#[actix::test]
async fn client_whose_requests_keep_us_busy_is_not_silent() {
    let limits = ConnectionLimits { max_in_work_bytes: 300, ..ConnectionLimits::default() };
    let mut port = Port::open(limits).await;
    let mut client = port.connect().await;
    let half = &frame(ASK, 3, &[], b"waits for us")[..20];
    client.send(&[&frame(ASK, 1, &[], b""), &frame(ASK, 2, &[], b"")[..], half].concat()).await;
    let requests = port.requests(2).await;
    tokio::time::pause();
    let closed = tokio::time::timeout(Duration::from_secs(300), client.is_closed()).await;
    assert!(closed.is_err(), "nothing was read, so nothing can have been missed");
    tokio::time::resume();
    for request in &requests {
        request.from.reply(answer(request, "late".into()));
    }
    assert_eq!(&client.receive().await.body[..], b"late");
}

#[actix::test]
async fn garbage_closes_its_connection_and_no_other() {
    let port = Port::open(ConnectionLimits::default()).await;
    let mut other = port.connect().await;
    let mut too_long = frame(ECHO, 1, &[], b"");
    too_long[0] = 0x7F;
    let mut no_json = frame(ECHO, 1, &[], b"");
    no_json[8] = b'[';
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &too_long, &no_json, &[0, 0, 0, 1, 0, 0, 0, 0]] {
        let mut client = port.connect().await;
        client.send(garbage).await;
        assert!(client.is_closed().await, "{garbage:?}");
    }
    other.send(&frame(ECHO, 4, &[], b"fine")).await;
    assert_eq!(&other.receive().await.body[..], b"fine");
}

#[actix::test]
async fn reading_stops_at_the_limit_of_work_and_resumes_with_the_replies() {
    let limits = ConnectionLimits { max_in_work_bytes: 600, ..ConnectionLimits::default() };
    let mut port = Port::open(limits).await;
    let mut client = port.connect().await;
    client.send(&(0..3).flat_map(|n| frame(ASK, n, &[], b"")).collect::<Vec<_>>()).await;
    let requests = port.requests(3).await;
    client.send(&frame(ASK, 3, &[], b"")).await;
    port.barrier().await;
    assert!(port.reads.try_recv().is_err(), "768 bytes are in work");
    requests[0].from.reply(answer(&requests[0], "done".into()));
    assert_eq!(port.requests(1).await[0].command.head.opaque, 3);
}

#[actix::test]
async fn one_way_request_gets_no_reply_and_frees_its_bytes() {
    let limits = ConnectionLimits { max_in_work_bytes: 300, ..ConnectionLimits::default() };
    let mut port = Port::open(limits).await;
    let mut client = port.connect().await;
    for n in 0..5 {
        client.send(&frame_flagged(ASK, n, FLAG_ONE_WAY, &[], b"")).await;
        client.send(&frame_flagged(ECHO, 100 + n, FLAG_ONE_WAY, &[], b"")).await;
        let requests = port.requests(1).await;
        requests[0].from.reply(answer(&requests[0], "unwanted".into()));
    }
    client.send(&frame(ASK, 50, &[], b"")).await;
    let request = port.requests(1).await.remove(0);
    request.from.reply(Reply { to: request.reply_to(), content: ReplyContent::Silence });
    client.send(&frame(ECHO, 51, &[], b"")).await;
    assert_eq!(client.receive().await.head.opaque, 51, "the only one that is answered");
}

#[actix::test]
async fn client_that_does_not_read_is_not_read_either() {
    let limits = ConnectionLimits { max_unread_bytes: 100_000, ..ConnectionLimits::default() };
    let mut port = Port::open(limits).await;
    let mut client = port.connect().await;
    client.send(&frame(LARGE, 1, &[("n", "16000000")], b"")).await;
    port.barrier().await;
    client.send(&frame(ASK, 2, &[], b"")).await;
    port.barrier().await;
    assert!(port.reads.try_recv().is_err(), "its reply waits");
    assert_eq!(client.receive().await.body.len(), 16_000_000);
    port.requests(1).await;
}

#[actix::test]
async fn answers_of_the_client_find_who_asked() {
    let port = Port::open(ConnectionLimits::default()).await;
    let mut client = port.connect().await;
    let calls = [0, 1].map(|_| actix_rt::spawn(client.connection.send(call(Some(Duration::from_secs(5))))));
    let asked = [client.receive().await, client.receive().await];
    assert_eq!(
        (asked[0].head.code, asked[0].fields.get("topic"), &asked[0].body[..]),
        (220, Some("T"), &b"b"[..])
    );
    client.send(&frame_flagged(0, 4_711, FLAG_RESPONSE, &[], b"nobody asked")).await;
    for command in asked.iter().rev() {
        let opaque = command.head.opaque;
        client.send(&frame_flagged(7, opaque, FLAG_RESPONSE, &[("of", &opaque.to_string())], b"")).await;
    }
    for (call, command) in calls.into_iter().zip(asked) {
        let answer = call.await.unwrap().unwrap().unwrap();
        assert_eq!(answer.code, 7);
        assert_eq!(answer.fields.get("of"), Some(&*command.head.opaque.to_string()));
    }
}

#[actix::test]
async fn call_ends_when_the_client_is_silent_or_leaves() {
    let port = Port::open(ConnectionLimits::default()).await;
    let mut client = port.connect().await;
    tokio::time::pause();
    let silent = client.connection.send(call(Some(Duration::from_secs(3)))).await.unwrap();
    assert_eq!(silent, Err(CallFailed::TimedOut));
    let late = client.receive().await.head.opaque;
    client.send(&frame_flagged(0, late, FLAG_RESPONSE, &[], b"")).await;
    let one_way = client.connection.send(call(None)).await.unwrap();
    assert_eq!(one_way, Err(CallFailed::TimedOut), "nobody answers");
    assert!(client.receive().await.is_one_way());
    tokio::time::resume();
    let connection = client.connection.clone();
    let left = actix_rt::spawn(connection.send(call(Some(Duration::from_secs(30)))));
    client.receive().await;
    drop(client);
    assert!(matches!(left.await.unwrap(), Ok(Err(CallFailed::Closed)) | Err(_)));
}

#[actix::test]
async fn watchers_are_told_when_the_connection_closes() {
    let mut port = Port::open(ConnectionLimits::default()).await;
    for asked in [false, true] {
        let mut client = port.connect().await;
        let (watcher, mut told) = fake_sink::<ConnectionClosed>();
        client.connection.send(WatchConnection { watcher }).await.unwrap();
        client.send(&frame(ASK, 1, &[], b"")).await;
        let link = port.requests(1).await.remove(0).from;
        assert!(told.try_recv().is_err());
        if asked {
            link.closes.send(CloseConnection { cause: "a test" }).await.unwrap();
            assert!(client.is_closed().await);
        } else {
            drop(client);
        }
        assert_eq!(told.recv().await, Some(ConnectionClosed { id: link.id }), "asked to close: {asked}");
    }
}

#[actix::test]
async fn replies_to_a_client_that_left_are_dropped() {
    let mut port = Port::open(ConnectionLimits::default()).await;
    let mut client = port.connect().await;
    client.send(&frame(ASK, 1, &[], b"")).await;
    let request = port.requests(1).await.remove(0);
    let (watcher, mut told) = fake_sink::<ConnectionClosed>();
    client.connection.send(WatchConnection { watcher }).await.unwrap();
    drop(client);
    told.next().await;
    request.from.reply(answer(&request, "late".into()));
    port.barrier().await;
}

#[actix::test]
async fn what_an_answer_of_a_backlog_takes_to_write_counts_for_those_that_follow() {
    let mut port = Port::open(ConnectionLimits::default()).await;
    let mut client = port.connect().await;
    client.send(&frame(ASK, 1, &[], b"")).await;
    let request = port.requests(1).await.remove(0);
    let pace = Arc::new(BacklogPace::new(1, 1));
    let _sends = pace.sends_begin();
    let now = Instant::now();
    let anyone_waits = || (0..10_000).any(|_| !pace.turn_in(now).is_zero());
    assert!(!anyone_waits(), "nothing is known of what it takes");
    let pulled = PulledReply {
        code: ResponseCode::SUCCESS,
        status: "FOUND",
        header: PullResponse {
            suggest_which_broker_id: 0,
            next_begin_offset: 1,
            min_offset: 0,
            max_offset: 9,
        },
        records: vec![vec![7; 1 << 20].into()],
        backlog: Some(pace.clone()),
    };
    request.from.reply(Reply { to: request.reply_to(), content: ReplyContent::Pulled(pulled) });
    assert_eq!(client.receive().await.body.len(), 1 << 20);
    assert!(anyone_waits());
}
