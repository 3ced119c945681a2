//! One connection to a server of RocketMQ's remoting protocol.
//!
//! A handle is cheap to clone. All calls of all clones share the socket: they are told apart by their opaque
//! number, their requests leave together in one write, their answers may come in any order. One task owns
//! the socket and the table of waiting calls; it ends with the connection, or when the last handle is dropped.
//!
//! ```
//! use std::time::Duration;
//!
//! use telstar::client::{Call, ConnectOptions, RemotingConnection};
//! use telstar::protocol::header::{OffsetResponse, QueueHeader};
//! use telstar::protocol::request_code::RequestCode;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = telstar::Broker::builder().start()?;
//! # let addr = broker.broker().expect("it is a broker").to_string();
//! # let timeout = Duration::from_secs(20);
//! let connection = RemotingConnection::connect(&addr, &ConnectOptions::default()).await?;
//! let queue = QueueHeader { topic: "TBW102".into(), queue_id: 0 };
//! let call = Call::new(RequestCode::GET_MAX_OFFSET).header(&queue);
//! let answer = connection.call(call, timeout).await?.success()?; // a refusal is an error
//! assert_eq!(answer.header::<OffsetResponse>()?.offset, 0);
//!
//! let unheard_of = connection.call(Call::new(RequestCode::from_i32(39_999)), timeout).await?;
//! println!("{}: {}", unheard_of.code, unheard_of.remark.unwrap_or_default());
//! # broker.stop()?;
//! # Ok(())
//! # }
//! ```

mod socket_task;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot};

use socket_task::SocketTask;

use super::error::ClientError;
use crate::collections::HashMap;
use crate::protocol::command::{Command, FLAG_ONE_WAY, FieldValue, OutgoingHead};
use crate::protocol::ext_fields::ExtFields;
use crate::protocol::fastjson;
use crate::protocol::frame::HeaderCodec;
use crate::protocol::header::{FieldWriter, TypedHeader};
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;

/// Requests that may wait for the socket before a caller has to wait itself.
const QUEUE_CAPACITY: usize = 1024;
/// Requests taken into one write.
const BATCH_MAX: usize = 256;

/// Takes requests that the server sends of its own accord (40, 39, 307 …). It must not block.
#[doc(hidden)]
pub type ServerRequestHandler = Arc<dyn Fn(ServerRequest) + Send + Sync>;

/// Bytes both ways: a socket, or what a test has in its place.
#[doc(hidden)]
pub trait ByteStream: AsyncRead + AsyncWrite + fmt::Debug + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + fmt::Debug + Unpin + Send> ByteStream for S {}

type Dialing = BoxFuture<'static, io::Result<Box<dyn ByteStream>>>;

/// Connects to addresses, "host:port", in place of the operating system.
#[derive(Clone)]
#[doc(hidden)]
pub struct Dial(Arc<dyn Fn(&str) -> Dialing + Send + Sync>);

impl Dial {
    /// Connects by `dial`, which is given an address, `host:port`.
    pub fn new(dial: impl Fn(&str) -> Dialing + Send + Sync + 'static) -> Self {
        Self(Arc::new(dial))
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dial").finish()
    }
}

/// How to connect.
///
/// ```
/// use std::time::Duration;
/// use telstar::client::{ConnectOptions, RemotingConnection};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let hasty = ConnectOptions { connect_timeout: Duration::ZERO, ..ConnectOptions::default() };
/// let error = RemotingConnection::connect("127.0.0.1:1", &hasty).await.unwrap_err();
/// assert!(error.to_string().starts_with("cannot connect to 127.0.0.1:1"));
/// # }
/// ```
#[derive(Clone)]
pub struct ConnectOptions {
    /// Default 3 s, as Java clients.
    pub connect_timeout: Duration,
    /// How headers of requests are written. Default JSON; the binary form cannot carry the POP family.
    pub codec: HeaderCodec,
    /// Default none: then a request that wants an answer is answered "not supported".
    #[doc(hidden)]
    pub on_request: Option<ServerRequestHandler>,
    /// What connects in place of the operating system. Default none.
    #[doc(hidden)]
    pub dial: Option<Dial>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            codec: HeaderCodec::Json,
            on_request: None,
            dial: None,
        }
    }
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("connect_timeout", &self.connect_timeout)
            .field("codec", &self.codec)
            .finish_non_exhaustive()
    }
}

/// A request to be sent.
///
/// ```
/// use telstar::client::Call;
/// use telstar::protocol::{QueueHeader, RequestCode};
/// use telstar::testing::Scenario;
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
/// let mut client = broker.client("admin");
/// let queue = QueueHeader { topic: "orders".into(), queue_id: 0 };
/// let typed = Call::new(RequestCode::GET_MAX_OFFSET).header(&queue);
/// let by_field = Call::new(RequestCode::GET_MAX_OFFSET).field("topic", "orders").field("queueId", "0");
/// assert_eq!(client.succeed(typed).await, client.succeed(by_field).await);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Call {
    code: RequestCode,
    fields: Vec<(Cow<'static, str>, String)>,
    body: Bytes,
}

impl Call {
    /// A request without header and body.
    pub fn new(code: RequestCode) -> Self {
        Self { code, fields: Vec::new(), body: Bytes::new() }
    }

    /// Sets the fields of a typed header.
    pub fn header(mut self, header: &impl TypedHeader) -> Self {
        let pairs = FieldWriter::of(header).into_pairs();
        self.fields.extend(pairs.into_iter().map(|(name, value)| (Cow::Borrowed(name), value)));
        self
    }

    /// Sets one field.
    pub fn field(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    pub fn body(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// Its code, its ext fields and its body.
    #[doc(hidden)]
    pub fn into_parts(self) -> (RequestCode, Vec<(Cow<'static, str>, String)>, Bytes) {
        (self.code, self.fields, self.body)
    }
}

/// What a server answered.
///
/// ```
/// use telstar::client::{ClientError, Response};
/// use telstar::protocol::{OffsetResponse, ResponseCode};
///
/// // As from the wire.
/// let answer = Response {
///     code: ResponseCode::SUCCESS,
///     remark: None,
///     fields: [("offset", "7")].into_iter().collect(),
///     body: r#"{"orders":3}"#.into(),
/// };
/// assert_eq!(answer.header::<OffsetResponse>()?.offset, 7);
/// assert_eq!(answer.json::<std::collections::BTreeMap<String, u32>>()?["orders"], 3);
/// let refused = Response { code: ResponseCode::SYSTEM_BUSY, remark: Some("later".into()), ..answer };
/// assert!(matches!(refused.success(), Err(ClientError::Refused { remark, .. }) if remark == "later"));
/// # Ok::<(), ClientError>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Response {
    /// Whether it succeeded.
    pub code: ResponseCode,
    /// A sentence beside the code; why it was refused.
    pub remark: Option<String>,
    /// The header.
    pub fields: ExtFields,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// Itself if it is a success, the refusal as an error otherwise.
    pub fn success(self) -> Result<Response, ClientError> {
        match self.code {
            ResponseCode::SUCCESS => Ok(self),
            code => Err(ClientError::Refused { code, remark: self.remark.unwrap_or_default() }),
        }
    }

    /// The header as a type.
    pub fn header<H: TypedHeader>(&self) -> Result<H, ClientError> {
        Ok(H::from_fields(&self.fields)?)
    }

    /// The body as JSON of fastjson's dialect.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        Ok(fastjson::from_slice(&self.body)?)
    }
}

/// A request that came from the server, with the way back.
#[derive(Debug)]
#[doc(hidden)]
pub struct ServerRequest {
    /// The request.
    pub command: Command,
    connection: RemotingConnection,
}

impl ServerRequest {
    /// Answers it; nothing is sent if it was one-way or the connection is closed.
    pub async fn answer(
        &self,
        code: ResponseCode,
        remark: Option<&str>,
        fields: &[(&str, FieldValue<'_>)],
        body: Bytes,
    ) {
        if self.command.is_one_way() {
            return;
        }
        let head = OutgoingHead::response(self.command.codec, self.command.head.opaque, code.as_i32());
        let head = OutgoingHead { remark, fields, ..head };
        // A closed connection takes its requests with it.
        let _ = self.connection.outgoing.send(Outgoing::of(&head, body, None)).await;
    }
}

/// A frame on its way out, and who waits for its answer.
struct Outgoing {
    header: BytesMut,
    body: Bytes,
    waiting: Option<Waiting>,
}

struct Waiting {
    opaque: i32,
    reply: oneshot::Sender<Response>,
}

impl Outgoing {
    fn of(head: &OutgoingHead<'_>, body: Bytes, waiting: Option<Waiting>) -> Self {
        let mut header = BytesMut::with_capacity(256);
        head.write(&mut header, body.len());
        Self { header, body, waiting }
    }
}

/// A handle on an open connection.
///
/// ```
/// use std::time::Duration;
/// use telstar::client::{Call, ConnectOptions, RemotingConnection};
/// use telstar::protocol::RequestCode;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = telstar::Broker::builder().start()?;
/// let addr = broker.broker().expect("it is a broker").to_string();
/// let connection = RemotingConnection::connect(&addr, &ConnectOptions::default()).await?;
/// let (first, second) = (connection.clone(), connection.clone()); // they share the socket
/// let ask = || Call::new(RequestCode::GET_BROKER_RUNTIME_INFO);
/// let timeout = Duration::from_secs(20);
/// let answers = futures::join!(first.call(ask(), timeout), second.call(ask(), timeout));
/// assert!(answers.0?.code.is_success() && answers.1?.code.is_success());
/// first.close();
/// assert_eq!(connection.closed().await, "from this side");
/// assert!(second.call(ask(), timeout).await.is_err());
/// # broker.stop()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RemotingConnection {
    outgoing: mpsc::Sender<Outgoing>,
    shared: Arc<Shared>,
}

struct Shared {
    addr: String,
    codec: HeaderCodec,
    next_opaque: AtomicI32,
    /// Told when a handle closes the connection.
    closing: Notify,
    /// Set once, before the task ends.
    closed_because: OnceLock<String>,
}

impl fmt::Debug for RemotingConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemotingConnection")
            .field("addr", &self.shared.addr)
            .field("closed", &self.shared.closed_because.get())
            .finish_non_exhaustive()
    }
}

impl RemotingConnection {
    /// Connects to `addr`, "host:port". Must be called inside a tokio runtime; the connection lives there.
    pub async fn connect(addr: &str, options: &ConnectOptions) -> Result<Self, ClientError> {
        if let Some(dial) = &options.dial {
            let stream = in_time((dial.0)(addr), addr, options.connect_timeout).await?;
            let (read, write) = tokio::io::split(stream);
            return Ok(Self::over(read, write, addr, options));
        }
        let stream = in_time(TcpStream::connect(addr), addr, options.connect_timeout).await?;
        // Without it small requests wait for acknowledgements; a socket that refuses the option still works.
        let _ = stream.set_nodelay(true);
        let (read, write) = stream.into_split();
        Ok(Self::over(read, write, addr, options))
    }

    /// A connection over streams that are open already: TLS, or a test's pipe.
    ///
    /// ```
    /// use telstar::client::{Call, ConnectOptions, RemotingConnection};
    /// use telstar::protocol::RequestCode;
    /// use tokio::io::AsyncReadExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (mine, mut server) = tokio::io::duplex(4096);
    /// let (read, write) = tokio::io::split(mine);
    /// let connection = RemotingConnection::over(read, write, "a test", &ConnectOptions::default());
    /// connection.one_way(Call::new(RequestCode::HEART_BEAT)).await?;
    /// let mut frame = vec![0; server.read_u32().await? as usize];
    /// server.read_exact(&mut frame).await?;
    /// assert!(String::from_utf8_lossy(&frame).contains(r#""code":34"#));
    /// drop(server);
    /// assert_eq!(connection.closed().await, "by the server");
    /// # Ok(())
    /// # }
    /// ```
    pub fn over<R, W>(read: R, write: W, addr: &str, options: &ConnectOptions) -> Self
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(QUEUE_CAPACITY);
        let shared = Arc::new(Shared {
            addr: addr.to_owned(),
            codec: options.codec,
            next_opaque: AtomicI32::new(0),
            closing: Notify::new(),
            closed_because: OnceLock::new(),
        });
        let task = SocketTask {
            read,
            write,
            outgoing: receiver,
            handles: sender.downgrade(),
            waiting: HashMap::default(),
            prune_at: 2 * BATCH_MAX,
            on_request: options.on_request.clone(),
            shared: shared.clone(),
        };
        tokio::spawn(task.run());
        Self { outgoing: sender, shared }
    }

    /// The address as it was given to [`connect`](Self::connect).
    pub fn addr(&self) -> &str {
        &self.shared.addr
    }

    /// Sends a request and waits for its answer. Dropping the future gives the answer up, not the request.
    pub async fn call(&self, call: Call, timeout: Duration) -> Result<Response, ClientError> {
        let fields = field_values(&call.fields);
        self.call_fields(call.code, &fields, call.body, timeout).await
    }

    /// As [`call`](Self::call), for callers that have the fields at hand.
    #[doc(hidden)]
    pub async fn call_fields(
        &self,
        code: RequestCode,
        fields: &[(&str, FieldValue<'_>)],
        body: Bytes,
        timeout: Duration,
    ) -> Result<Response, ClientError> {
        let opaque = self.shared.next_opaque.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let head = OutgoingHead { fields, ..OutgoingHead::request(self.shared.codec, opaque, code.as_i32()) };
        let outgoing = Outgoing::of(&head, body, Some(Waiting { opaque, reply }));
        let answered = tokio::time::timeout(timeout, async {
            self.outgoing.send(outgoing).await.map_err(|_| self.closed_error())?;
            answer.await.map_err(|_| self.closed_error())
        });
        answered.await.unwrap_or_else(|_| {
            Err(ClientError::TimedOut { addr: self.shared.addr.clone(), request: code, timeout })
        })
    }

    /// Sends a request that nobody answers. `Ok` says that it is on its way, not that it arrived.
    pub async fn one_way(&self, call: Call) -> Result<(), ClientError> {
        let opaque = self.shared.next_opaque.fetch_add(1, Ordering::Relaxed);
        let fields = field_values(&call.fields);
        let head = OutgoingHead::request(self.shared.codec, opaque, call.code.as_i32());
        let head = OutgoingHead { flag: FLAG_ONE_WAY, fields: &fields, ..head };
        let outgoing = Outgoing::of(&head, call.body, None);
        self.outgoing.send(outgoing).await.map_err(|_| self.closed_error())
    }

    /// Closes it for all handles, whatever is under way.
    pub fn close(&self) {
        self.shared.closing.notify_one();
    }

    /// Whether it is closed, by either side.
    pub fn is_closed(&self) -> bool {
        self.outgoing.is_closed()
    }

    /// Waits until the connection is closed, and says why it was.
    pub async fn closed(&self) -> String {
        self.outgoing.closed().await;
        self.closed_because()
    }

    fn closed_because(&self) -> String {
        self.shared.closed_because.get().cloned().unwrap_or_else(|| "its task ended".to_owned())
    }

    fn closed_error(&self) -> ClientError {
        ClientError::Closed { addr: self.shared.addr.clone(), cause: self.closed_because() }
    }
}

async fn in_time<S>(
    connecting: impl Future<Output = io::Result<S>>,
    addr: &str,
    timeout: Duration,
) -> Result<S, ClientError> {
    match tokio::time::timeout(timeout, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(source)) => Err(ClientError::Connect { addr: addr.to_owned(), source }),
        Err(_) => Err(ClientError::ConnectTimedOut { addr: addr.to_owned(), timeout }),
    }
}

fn field_values<'a>(fields: &'a [(Cow<'static, str>, String)]) -> Vec<(&'a str, FieldValue<'a>)> {
    fields.iter().map(|(name, value)| (name.as_ref(), FieldValue::Text(value))).collect()
}

#[cfg(test)]
mod tests;
