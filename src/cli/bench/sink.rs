//! `telstar bench sink`.

use bytes::BytesMut;
use clap::Args;
use tokio::net::{TcpListener, TcpStream};

use super::frame::FIRST_OPAQUE;
use super::socket::Socket;
use crate::cli::error::CliError;
use crate::protocol::command::OutgoingHead;
use crate::protocol::frame::{HeaderCodec, PREFIX_BYTES};
use crate::protocol::header::{FieldWriter, SendResponse};

/// Answer every request at once and store nothing, to find the ceiling of the instrument itself
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telstar bench sink &
  telstar bench send --broker 127.0.0.1:10999")]
pub struct SinkArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:10999")]
    listen: String,
}

pub async fn run(args: SinkArgs) -> Result<(), CliError> {
    let failed = |error: std::io::Error| {
        CliError::Bench(format!("cannot listen at {}: {error}; choose another with --listen", args.listen))
    };
    let listener = TcpListener::bind(&args.listen).await.map_err(failed)?;
    eprintln!("telstar: swallowing messages at {}; ctrl-C ends it", args.listen);
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(()),
            accepted = listener.accept() => {
                let (stream, _) = accepted.map_err(failed)?;
                // A client that goes away ends its task, and that is all there is to it.
                tokio::spawn(async move { let _ = swallow(stream).await; });
            }
        }
    }
}

/// Answers a client until it goes away.
pub async fn swallow(stream: TcpStream) -> std::io::Result<()> {
    let mut socket = Socket::over(stream)?;
    let replies = [Reply::new(HeaderCodec::Json), Reply::new(HeaderCodec::Binary)];
    let mut opaques = Vec::new();
    loop {
        socket.ready().await?;
        socket.read()?;
        while let Some((seen, _)) = socket.next_frame().map_err(std::io::Error::other)? {
            opaques.push((seen.opaque, seen.codec));
        }
        for (opaque, codec) in opaques.drain(..) {
            replies[usize::from(codec == HeaderCodec::Binary)].append(socket.output(), opaque);
        }
        socket.write()?;
    }
}

/// The one answer there is.
struct Reply {
    codec: HeaderCodec,
    /// With an opaque number of ten digits.
    bytes: Vec<u8>,
    at_opaque: usize,
}

impl Reply {
    fn new(codec: HeaderCodec) -> Self {
        let bytes = Self::encode(codec, FIRST_OPAQUE);
        let at_opaque = match codec {
            HeaderCodec::Json => {
                let name = b"\"opaque\":";
                let at = bytes.windows(name.len()).position(|window| window == name);
                at.expect("the encoder wrote this part") + name.len()
            }
            HeaderCodec::Binary => PREFIX_BYTES + 5,
        };
        Self { codec, bytes, at_opaque }
    }

    fn encode(codec: HeaderCodec, opaque: i32) -> Vec<u8> {
        let msg_id = "7F00000100002AF70000000000000000".to_owned();
        let header = SendResponse { msg_id, queue_id: 0, queue_offset: 0, transaction_id: None };
        let writer = FieldWriter::of(&header);
        let fields = writer.as_fields();
        let mut out = BytesMut::new();
        OutgoingHead { fields: &fields, ..OutgoingHead::response(codec, opaque, 0) }.write(&mut out, 0);
        out.to_vec()
    }

    fn append(&self, out: &mut Vec<u8>, opaque: i32) {
        if self.codec == HeaderCodec::Json && opaque < FIRST_OPAQUE {
            return out.extend_from_slice(&Self::encode(self.codec, opaque));
        }
        let at = out.len() + self.at_opaque;
        out.extend_from_slice(&self.bytes);
        match self.codec {
            HeaderCodec::Json => {
                let mut rest = opaque;
                for digit in out[at..at + 10].iter_mut().rev() {
                    *digit = b'0' + (rest % 10) as u8;
                    rest /= 10;
                }
            }
            HeaderCodec::Binary => out[at..at + 4].copy_from_slice(&opaque.to_be_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_what_the_encoder_writes() {
        for codec in [HeaderCodec::Json, HeaderCodec::Binary] {
            let reply = Reply::new(codec);
            for opaque in [0, -7, 999_999_999, FIRST_OPAQUE, i32::MAX] {
                let mut out = b"before".to_vec();
                reply.append(&mut out, opaque);
                assert_eq!(out[6..], Reply::encode(codec, opaque), "{opaque}");
            }
        }
    }
}
