//! The bytes of one client's socket: plain, TLS, or a test's.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::io::poll_read_buf;

#[cfg(any(test, feature = "testing"))]
use crate::client::remoting::ByteStream;

/// A connected socket.
#[derive(Debug)]
pub enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    #[cfg(any(test, feature = "testing"))]
    Simulated(Box<dyn ByteStream>),
}

impl Transport {
    /// Reads once into the spare room of `input`, having first made `room_bytes` of it. Plain sockets are
    /// asked whether there is anything to read before room is made: an idle connection holds no buffer.
    pub fn poll_read(
        &mut self,
        task: &mut Context<'_>,
        input: &mut BytesMut,
        room_bytes: usize,
    ) -> Poll<io::Result<usize>> {
        if let Transport::Plain(socket) = self {
            match socket.poll_read_ready(task) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        input.reserve(room_bytes);
        match self {
            Transport::Plain(socket) => poll_read_buf(Pin::new(socket), task, input),
            Transport::Tls(stream) => poll_read_buf(Pin::new(stream.as_mut()), task, input),
            #[cfg(any(test, feature = "testing"))]
            Transport::Simulated(stream) => poll_read_buf(Pin::new(stream.as_mut()), task, input),
        }
    }

    pub fn poll_write(&mut self, task: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Transport::Plain(socket) => Pin::new(socket).poll_write_vectored(task, slices),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(task, slices),
            #[cfg(any(test, feature = "testing"))]
            Transport::Simulated(stream) => Pin::new(stream.as_mut()).poll_write_vectored(task, slices),
        }
    }

    /// Pushes out what TLS still holds back; nothing for plain sockets.
    pub fn poll_flush(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Transport::Plain(_) => Poll::Ready(Ok(())),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(task),
            #[cfg(any(test, feature = "testing"))]
            Transport::Simulated(_) => Poll::Ready(Ok(())),
        }
    }
}
