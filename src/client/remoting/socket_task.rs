//! The task that owns the socket of a connection and the table of waiting calls.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use super::{
    BATCH_MAX, Outgoing, RemotingConnection, Response, ServerRequest, ServerRequestHandler, Shared, Waiting,
};
use crate::collections::HashMap;
use crate::protocol::command::{Command, OutgoingHead};
use crate::protocol::frame::{MAX_FRAME_BYTES, NextFrame, next_frame};
use crate::protocol::response_code::ResponseCode;

/// A write is not grown beyond this before it goes out.
const WRITE_BYTES_MAX: usize = 256 * 1024;
/// Room made for each read.
const READ_BYTES: usize = 64 * 1024;

/// See the [module](self).
pub(super) struct SocketTask<R, W> {
    pub(super) read: R,
    pub(super) write: W,
    pub(super) outgoing: mpsc::Receiver<Outgoing>,
    /// To hand out with requests of the server. Weak: the task does not keep the connection open.
    pub(super) handles: mpsc::WeakSender<Outgoing>,
    pub(super) waiting: HashMap<i32, oneshot::Sender<Response>>,
    /// Number of waiting calls at which those that gave up are swept out.
    pub(super) prune_at: usize,
    pub(super) on_request: Option<ServerRequestHandler>,
    pub(super) shared: Arc<Shared>,
}

impl<R, W> SocketTask<R, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    pub(super) async fn run(mut self) {
        let cause = self.carry().await;
        // Set before the queue is dropped, which is what wakes the callers.
        let _ = self.shared.closed_because.set(cause);
        self.outgoing.close();
        let _ = self.write.shutdown().await;
    }

    /// Moves frames both ways until the connection ends; gives back why it did.
    async fn carry(&mut self) -> String {
        let mut input = BytesMut::new();
        let mut output = BytesMut::new();
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut open = true;
        let shared = self.shared.clone();
        let closing = shared.closing.notified();
        tokio::pin!(closing);
        loop {
            if !open && output.is_empty() {
                return "nobody uses it any more".to_owned();
            }
            input.reserve(READ_BYTES);
            tokio::select! {
                biased; // answers first: they make room for requests
                () = &mut closing => return "from this side".to_owned(),
                read = self.read.read_buf(&mut input) => match read {
                    Ok(0) => return "by the server".to_owned(),
                    Ok(_) => if let Err(cause) = self.take_frames(&mut input, &mut output) {
                        return cause;
                    },
                    Err(error) => return error.to_string(),
                },
                taken = self.outgoing.recv_many(&mut batch, BATCH_MAX), if open && output.len() < WRITE_BYTES_MAX => {
                    open = taken > 0;
                    for outgoing in batch.drain(..) {
                        self.put(outgoing, &mut output);
                    }
                }
                written = self.write.write_buf(&mut output), if !output.is_empty() => {
                    if let Err(error) = written {
                        return error.to_string();
                    }
                }
            }
        }
    }

    fn put(&mut self, outgoing: Outgoing, output: &mut BytesMut) {
        output.extend_from_slice(&outgoing.header);
        // A copy: one contiguous write of many small requests beats a write of many parts.
        output.extend_from_slice(&outgoing.body);
        if let Some(Waiting { opaque, reply }) = outgoing.waiting {
            self.waiting.insert(opaque, reply);
            if self.waiting.len() >= self.prune_at {
                self.waiting.retain(|_, reply| !reply.is_closed());
                self.prune_at = 2 * self.waiting.len().max(BATCH_MAX);
            }
        }
    }

    fn take_frames(&mut self, input: &mut BytesMut, output: &mut BytesMut) -> Result<(), String> {
        loop {
            let frame = match next_frame(input, MAX_FRAME_BYTES) {
                Ok(NextFrame::Whole(frame)) => frame,
                Ok(NextFrame::NeedsBytes(bytes)) => {
                    input.reserve(bytes.saturating_sub(input.len()));
                    return Ok(());
                }
                Err(error) => return Err(format!("the server sent no frame: {error}")),
            };
            let command =
                Command::decode(frame).map_err(|error| format!("the server sent no header: {error}"))?;
            if command.is_response() {
                self.hand_over(command);
            } else {
                self.take_request(command, output);
            }
        }
    }

    /// An answer to its caller; late ones go nowhere.
    fn hand_over(&mut self, command: Command) {
        if let Some(reply) = self.waiting.remove(&command.head.opaque) {
            let _ = reply.send(Response {
                code: ResponseCode::from_i32(command.head.code),
                remark: command.head.remark,
                fields: command.fields,
                body: command.body,
            });
        }
    }

    fn take_request(&mut self, command: Command, output: &mut BytesMut) {
        match (&self.on_request, self.handles.upgrade()) {
            (Some(handler), Some(outgoing)) => {
                let connection = RemotingConnection { outgoing, shared: self.shared.clone() };
                handler(ServerRequest { command, connection });
            }
            _ if command.is_one_way() => {}
            _ => {
                let code = ResponseCode::REQUEST_CODE_NOT_SUPPORTED.as_i32();
                let head = OutgoingHead::response(command.codec, command.head.opaque, code);
                let remark = format!(" request type {} not supported", command.head.code);
                OutgoingHead { remark: Some(&remark), ..head }.write(output, 0);
            }
        }
    }
}
