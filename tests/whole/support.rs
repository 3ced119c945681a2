//! The harness: a broker as a process of its own on free loopback ports, and clients that talk to it.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command as Process, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rustix::process::{Pid, Signal, kill_process};
use telstar::client::{Call, ConnectOptions, RemotingConnection, Response};
use telstar::protocol::command::Command;
use telstar::protocol::frame::{HeaderCodec, MAX_FRAME_BYTES, NextFrame, next_frame};
use telstar::protocol::header::*;
use telstar::protocol::message::StoredMessage;
use telstar::protocol::properties;
use telstar::protocol::request_code::RequestCode;
use telstar::protocol::response_code::ResponseCode;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// No answer takes longer, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The program under test, without what the environment would tell it.
pub fn telstar() -> Process {
    let mut process = Process::new(env!("CARGO_BIN_EXE_telstar"));
    process.stdin(Stdio::null()).env_remove("NAMESRV_ADDR").env_remove("RUST_LOG").env("RUST_BACKTRACE", "0");
    process
}

/// A broker with a name server, running. Dropping it kills it.
pub struct Broker {
    child: Child,
    _stdout: BufReader<ChildStdout>,
    dir: PathBuf,
    pub broker: String,
    pub name_server: String,
}

/// The arguments of a broker in `dir`: free ports, small files.
pub fn start_args(dir: &Path, settings: &[&str]) -> Vec<String> {
    let dir = dir.to_str().expect("the directory is named in UTF-8");
    let mut args: Vec<String> = [
        "start",
        "--data-dir",
        dir,
        "--listen",
        "127.0.0.1:0",
        "--name-server-listen",
        "127.0.0.1:0",
        "--advertise",
        "127.0.0.1",
        "--broker-name",
        "broker-a",
    ]
    .map(str::to_owned)
    .into();
    let small = [
        "broker.fast_listen=off",
        "tls.mode=off",
        "store.commit_log_segment_bytes=16777216",
        "store.consume_queue_segment_units=500",
        "store.index_slots=1000",
        "store.index_entries=4000",
        // A machine with a full disk is no reason to refuse or delete.
        "retention.warn_ratio=0.97",
        "retention.force_ratio=0.98",
        "retention.refuse_ratio=0.99",
        "threads.arbiters=2",
    ];
    for setting in small.iter().chain(settings) {
        args.extend(["--set".to_owned(), (*setting).to_owned()]);
    }
    args
}

/// A directory that is gone after the test.
pub fn temp_dir() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

impl Broker {
    /// Starts one, and returns when it is reached.
    pub async fn start(dir: &Path, settings: &[&str]) -> Broker {
        match Self::start_doomed(dir, settings, None).await {
            Ok(broker) => broker,
            Err(status) => panic!("the broker ended with {status}:\n{}", logged(dir)),
        }
    }

    /// Starts one that ends itself at a kill point, `name:times`; an error when that was before it was reached.
    pub async fn start_doomed(
        dir: &Path,
        settings: &[&str],
        kill_point: Option<&str>,
    ) -> Result<Broker, ExitStatus> {
        Self::start_with(dir, settings, kill_point.map(|point| ("KILL_POINT", point))).await
    }

    /// Starts one with a variable of its own.
    pub async fn start_with(
        dir: &Path,
        settings: &[&str],
        variable: Option<(&str, &str)>,
    ) -> Result<Broker, ExitStatus> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("stderr.txt"));
        let mut child = telstar()
            .args(start_args(&dir.join("data"), settings))
            .envs(variable)
            .stdout(Stdio::piped())
            .stderr(log.expect("a log file"))
            .spawn()
            .expect("the program starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("it was asked for"));
        let (mut broker, mut name_server) = (None, None);
        while broker.is_none() || name_server.is_none() {
            let mut line = String::new();
            if stdout.read_line(&mut line).expect("output is text") == 0 {
                return Err(child.wait().expect("it ended"));
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["name", "server", addr] => name_server = Some(addr.to_owned()),
                ["broker", addr, ..] => broker = Some(addr.trim_end_matches(';').to_owned()),
                _ => {}
            }
        }
        let started = Broker {
            child,
            _stdout: stdout,
            dir: dir.to_owned(),
            broker: broker.expect("it was read"),
            name_server: name_server.expect("it was read"),
        };
        Ok(started)
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.broker, HeaderCodec::Json).await
    }

    /// A client, unless the broker has ended.
    pub async fn try_client(&self) -> Option<Client> {
        let connection = RemotingConnection::connect(&self.broker, &ConnectOptions::default()).await.ok()?;
        Some(Client { connection })
    }

    /// The status of a broker that ends because a part of it has failed, and what it wrote to standard error.
    pub fn failed(mut self) -> (Option<i32>, String) {
        let (status, log) = (self.wait().code(), self.logged());
        // It was about to fail; who drops it asks about that otherwise.
        std::fs::remove_file(self.dir.join("stderr.txt")).expect("the log can be removed");
        (status, log)
    }

    /// Waits until the process has ended by itself, for at most so long.
    pub async fn ended_within(&self, limit: Duration) {
        let begun = std::time::Instant::now();
        let gone = || {
            std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))
                .is_ok_and(|stat| stat.contains(") Z "))
        };
        while !gone() && begun.elapsed() < limit {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process has a number");
        kill_process(pid, signal).expect("it can be signalled");
    }

    /// Ends it as a careful person does, and waits.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Ends it as a loss of power does, as far as the process is concerned.
    pub fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ended");
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// The log, once it says this.
    pub async fn logs(&self, what: &str) -> String {
        let begun = Instant::now();
        loop {
            let log = self.logged();
            if log.contains(what) {
                return log;
            }
            assert!(begun.elapsed() < PATIENCE, "{what:?} is not logged:\n{log}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What all processes of this test wrote to standard error.
    pub fn logged(&self) -> String {
        logged(&self.dir)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Ended before, or killed now: nothing is left either way.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Whatever a test is about: no part of the broker may fail by the way.
        let log = self.logged();
        assert!(std::thread::panicking() || !log.contains("panicked"), "{log}");
    }
}

fn logged(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("stderr.txt")).unwrap_or_default()
}

/// Waits for the end of `child`; kills it and fails when it does not come.
pub fn wait(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            return status;
        }
        if begun.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("process {} does not end", child.id());
        }
        // Nobody tells of the end of a process: look again soon.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How often brokers are killed in one test: what `CRASH_ROUNDS` says, `usual` times without it.
pub fn crash_rounds(usual: u64) -> u64 {
    std::env::var("CRASH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// The stores of such a test, each used for `lives` brokers: the turn of its first, and how it is flushed.
pub fn crashed_stores(lives: u64) -> impl Iterator<Item = (u64, &'static str)> {
    let modes = ["store.flush_mode=async", "store.flush_mode=sync"];
    (0..crash_rounds(lives).div_ceil(lives))
        .zip(modes.into_iter().cycle())
        .map(move |(n, mode)| (n * lives, mode))
}

/// Where a broker ends itself in its turn, `name:times`; every fourth is killed from outside.
pub fn kill_point(points: &[&str], turn: u64) -> Option<String> {
    let point = points[turn as usize % points.len()];
    (!turn.is_multiple_of(4)).then(|| format!("{point}:{}", 1 + turn * 37 % 90))
}

/// Runs the program to its end: exit status, standard output, standard error.
pub fn run(args: &[String]) -> (i32, String, String) {
    let process = telstar().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = process.expect("the program starts");
    let output = read_aside(child.stdout.take().expect("it was asked for"));
    let error = read_aside(child.stderr.take().expect("it was asked for"));
    let status = wait(&mut child).code().expect("it ended by itself");
    (status, output.join().unwrap(), error.join().unwrap())
}

fn read_aside(mut from: impl Read + std::marker::Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        from.read_to_string(&mut text).expect("output is text");
        text
    })
}

/// [`run`] with literals.
pub fn run_words(args: &[&str]) -> (i32, String, String) {
    run(&args.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
}

/// A connection with the requests that tests make of it.
#[derive(Clone, Debug)]
pub struct Client {
    pub connection: RemotingConnection,
}

/// What to send; the rest is as clients usually have it.
pub struct Send<'a> {
    pub topic: &'a str,
    pub queue_id: i32,
    pub properties: String,
    pub body: Bytes,
    pub batch: bool,
    pub sys_flag: i32,
}

impl<'a> Send<'a> {
    pub fn to(topic: &'a str, queue_id: i32, body: impl Into<Bytes>) -> Self {
        Self { topic, queue_id, properties: String::new(), body: body.into(), batch: false, sys_flag: 0 }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.properties.push_str(&format!("{name}\u{1}{value}\u{2}"));
        self
    }

    pub fn call(self) -> Call {
        let header = SendMessageV2 {
            producer_group: "pg".into(),
            topic: self.topic.into(),
            default_topic: "TBW102".into(),
            default_topic_queue_nums: 4,
            queue_id: self.queue_id,
            sys_flag: self.sys_flag,
            born_at_ms: 1_700_000_000_000,
            flag: 7,
            properties: self.properties,
            reconsume_times: 0,
            unit_mode: false,
            max_reconsume_times: None,
            batch: self.batch,
        };
        let code = if self.batch { RequestCode::SEND_BATCH_MESSAGE } else { RequestCode::SEND_MESSAGE_V2 };
        Call::new(code).header(&header).body(self.body)
    }
}

/// What a pull brought.
pub struct Pulled {
    pub code: ResponseCode,
    pub header: PullResponse,
    pub messages: Vec<StoredMessage>,
}

impl Client {
    pub async fn connect(addr: &str, codec: HeaderCodec) -> Client {
        let options = ConnectOptions { codec, ..ConnectOptions::default() };
        let connection = RemotingConnection::connect(addr, &options).await;
        Client { connection: connection.unwrap_or_else(|error| panic!("{addr}: {error}")) }
    }

    pub async fn call(&self, call: Call) -> Response {
        self.connection.call(call, PATIENCE).await.expect("an answer")
    }

    /// The code and the sentence of a refusal.
    pub async fn refused(&self, call: Call) -> (i32, String) {
        let answer = self.call(call).await;
        (answer.code.as_i32(), answer.remark.unwrap_or_default())
    }

    pub async fn send(&self, send: Send<'_>) -> SendResponse {
        let answer = self.call(send.call()).await.success().expect("it is stored");
        answer.header().expect("the header of a stored message")
    }

    pub async fn create_topic(&self, topic: &str, queues: i32) {
        self.create_topic_with(topic, queues, None).await;
    }

    /// Creates a topic, or alters its attributes: `+key=value`, or `-key`.
    pub async fn create_topic_with(&self, topic: &str, queues: i32, attributes: Option<&str>) {
        let header = CreateTopic {
            topic: topic.into(),
            default_topic: "TBW102".into(),
            read_queue_nums: queues,
            write_queue_nums: queues,
            perm: 6,
            topic_filter_type: "SINGLE_TAG".into(),
            topic_sys_flag: 0,
            order: false,
            attributes: attributes.map(str::to_owned),
        };
        let call = Call::new(RequestCode::UPDATE_AND_CREATE_TOPIC).header(&header);
        self.call(call).await.success().expect("the topic is created");
    }

    pub async fn pull(&self, header: &PullHeader) -> Pulled {
        let answer = self.call(Call::new(RequestCode::PULL_MESSAGE).header(header)).await;
        let header = answer.header().unwrap_or_else(|error| panic!("{error}: {answer:?}"));
        Pulled { code: answer.code, header, messages: StoredMessage::decode_all(answer.body) }
    }

    /// Every message of a queue, oldest first. A message can be pulled a moment after it is acknowledged: waits
    /// until there are `count`.
    pub async fn pull_all(&self, topic: &str, queue_id: i32, count: usize) -> Vec<StoredMessage> {
        let mut messages: Vec<StoredMessage> = Vec::new();
        let mut offset = 0;
        loop {
            let mut pull = pull_from(topic, queue_id, offset);
            if messages.len() < count {
                pull.sys_flag |= PULL_SUSPEND;
                pull.suspend_timeout_ms = 10_000;
            }
            let pulled = self.pull(&pull).await;
            if pulled.messages.is_empty() {
                assert_eq!(pulled.header.next_begin_offset, pulled.header.max_offset, "everything was read");
                assert!(messages.len() >= count, "{} of {count} messages", messages.len());
                return messages;
            }
            messages.extend(pulled.messages);
            offset = pulled.header.next_begin_offset;
        }
    }

    pub async fn offset_of(&self, code: RequestCode, topic: &str, queue_id: i32) -> i64 {
        let answer = self.call(Call::new(code).header(&QueueHeader { topic: topic.into(), queue_id })).await;
        answer.success().and_then(|answer| answer.header::<OffsetResponse>()).expect("an offset").offset
    }

    /// The consumer offset of group `cg`; `None` while it has none.
    pub async fn consumer_offset(&self, topic: &str, queue_id: i32) -> Option<i64> {
        let header = QueryConsumerOffset {
            consumer_group: "cg".into(),
            topic: topic.into(),
            queue_id,
            set_zero_if_not_found: Some(false),
        };
        let answer = self.call(Call::new(RequestCode::QUERY_CONSUMER_OFFSET).header(&header)).await;
        match answer.code {
            ResponseCode::QUERY_NOT_FOUND => None,
            _ => Some(answer.success().unwrap().header::<OffsetResponse>().unwrap().offset),
        }
    }

    pub async fn find_by_key(&self, topic: &str, key: &str) -> Vec<StoredMessage> {
        let header = QueryMessage {
            topic: topic.into(),
            key: key.into(),
            max_num: 32,
            begin_timestamp: 0,
            end_timestamp: i64::MAX,
            index_type: None,
            last_key: None,
            unique_key_query: false,
        };
        let answer = self.call(Call::new(RequestCode::QUERY_MESSAGE).header(&header)).await;
        StoredMessage::decode_all(answer.body)
    }
}

/// A pull of group `cg` that takes every tag, does not wait, and commits nothing.
pub fn pull_from(topic: &str, queue_id: i32, offset: i64) -> PullHeader {
    PullHeader {
        consumer_group: "cg".into(),
        topic: topic.into(),
        queue_id,
        queue_offset: offset,
        max_msg_nums: 32,
        sys_flag: PULL_SUBSCRIPTION,
        commit_offset: 0,
        suspend_timeout_ms: 0,
        subscription: Some("*".into()),
        sub_version: 0,
        expression_type: None,
    }
}

/// The value of a property of a stored message.
pub fn property<'a>(message: &'a StoredMessage, name: &str) -> Option<&'a str> {
    properties::get(&message.properties, name)
}

/// A bare socket, for what the client cannot write.
pub struct RawConnection {
    stream: TcpStream,
    input: BytesMut,
}

/// A frame of any header.
pub fn frame(type_byte: u8, header: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&((4 + header.len() + body.len()) as u32).to_be_bytes());
    bytes.extend_from_slice(&((u32::from(type_byte) << 24) | header.len() as u32).to_be_bytes());
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(body);
    bytes
}

impl RawConnection {
    pub async fn connect(addr: &str) -> Self {
        let stream = TcpStream::connect(addr).await.expect("it listens");
        stream.set_nodelay(true).expect("a socket option");
        Self::over(stream)
    }

    pub fn over(stream: TcpStream) -> Self {
        Self { stream, input: BytesMut::new() }
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("it reads");
    }

    /// The next command; `None` once the connection is closed.
    pub async fn next(&mut self) -> Option<Command> {
        tokio::time::timeout(PATIENCE, self.read()).await.expect("an answer or an end")
    }

    async fn read(&mut self) -> Option<Command> {
        loop {
            if let NextFrame::Whole(frame) = next_frame(&mut self.input, MAX_FRAME_BYTES).expect("a frame") {
                return Some(Command::decode(frame).expect("a command"));
            }
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Asks with a JSON header as it stands, and returns the answer; what the broker asks meanwhile is passed over.
    pub async fn ask(&mut self, header: &str, body: &[u8]) -> Command {
        self.write(&frame(0, header.as_bytes(), body)).await;
        loop {
            let command = self.next().await.unwrap_or_else(|| panic!("closed after {header}"));
            if command.is_response() {
                return command;
            }
        }
    }
}
