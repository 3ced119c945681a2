//! Frames: how commands are cut out of a byte stream.
//!
//! ```text
//! 0        4          8                 8+H              8+H+B
//! | length | hdr word | header, H bytes | body, B bytes  |
//! length   = 4 + H + B, it does not count itself
//! hdr word = serialize type << 24 | H        0 JSON, 1 ROCKETMQ
//! ```

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

/// Largest frame a peer may send, its length word not counted (RocketMQ: `NettyDecoder.FRAME_MAX_LENGTH`).
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

/// Bytes before the header: the length and the header word.
pub const PREFIX_BYTES: usize = 8;

/// How a header is written. A peer is answered in the kind it asked in.
///
/// ```
/// use telstar::client::ConnectOptions;
/// use telstar::protocol::HeaderCodec;
///
/// assert_eq!(ConnectOptions::default().codec, HeaderCodec::Json);
/// let short = ConnectOptions { codec: HeaderCodec::Binary, ..ConnectOptions::default() };
/// assert_ne!(short.codec, HeaderCodec::default());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HeaderCodec {
    /// As JSON. RocketMQ: `SerializeType.JSON`.
    #[default]
    Json,
    /// In fewer bytes. RocketMQ: `SerializeType.ROCKETMQ`.
    Binary,
}

impl HeaderCodec {
    pub(super) fn type_byte(self) -> u8 {
        match self {
            HeaderCodec::Json => 0,
            HeaderCodec::Binary => 1,
        }
    }
}

/// Why a stream cannot be cut into frames any further. The connection has to be closed: nothing tells
/// where the next frame begins.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum FrameError {
    #[error("frame of {len_bytes} bytes is over the limit of {max_bytes}")]
    TooLong { len_bytes: u64, max_bytes: usize },
    #[error("frame of {len_bytes} bytes is too short to hold a header")]
    TooShort { len_bytes: u64 },
    #[error("header of {header_bytes} bytes is longer than its frame of {frame_bytes}")]
    HeaderBeyondFrame { header_bytes: usize, frame_bytes: usize },
    #[error("header of unknown serialize type {0}")]
    UnknownCodec(u8),
}

/// A frame cut out of the stream; its parts share the memory the socket was read into.
#[derive(Clone, Debug)]
pub struct Frame {
    pub codec: HeaderCodec,
    pub header: Bytes,
    pub body: Bytes,
}

/// Cuts the next whole frame off the front of `input`, or says how many bytes the next frame needs.
pub fn next_frame(input: &mut BytesMut, max_bytes: usize) -> Result<NextFrame, FrameError> {
    if input.len() < PREFIX_BYTES {
        return Ok(NextFrame::NeedsBytes(PREFIX_BYTES));
    }
    let len_bytes = u32::from_be_bytes([input[0], input[1], input[2], input[3]]) as usize;
    if len_bytes > max_bytes {
        return Err(FrameError::TooLong { len_bytes: len_bytes as u64, max_bytes });
    }
    if len_bytes < 4 {
        return Err(FrameError::TooShort { len_bytes: len_bytes as u64 });
    }
    let codec = match input[4] {
        0 => HeaderCodec::Json,
        1 => HeaderCodec::Binary,
        other => return Err(FrameError::UnknownCodec(other)),
    };
    let header_bytes = u32::from_be_bytes([0, input[5], input[6], input[7]]) as usize;
    if header_bytes > len_bytes - 4 {
        return Err(FrameError::HeaderBeyondFrame { header_bytes, frame_bytes: len_bytes });
    }
    let whole = 4 + len_bytes;
    if input.len() < whole {
        return Ok(NextFrame::NeedsBytes(whole));
    }
    let mut frame = input.split_to(whole).freeze();
    frame.advance(PREFIX_BYTES);
    let header = frame.split_to(header_bytes);
    Ok(NextFrame::Whole(Frame { codec, header, body: frame }))
}

/// What [`next_frame`] found.
#[derive(Debug)]
pub enum NextFrame {
    Whole(Frame),
    /// Not whole yet; it will be once the buffer holds this many bytes.
    NeedsBytes(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(header: &[u8], body: &[u8], kind: u8) -> Vec<u8> {
        let mut bytes = ((4 + header.len() + body.len()) as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(&((header.len() as u32) | (kind as u32) << 24).to_be_bytes());
        bytes.extend_from_slice(header);
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn frames_cut_at_every_byte_come_out_whole() {
        let mut stream = raw(b"{\"code\":1}", b"body one", 0);
        stream.extend(raw(&[7; 21], b"", 1));
        for cut in 0..=stream.len() {
            let mut input = BytesMut::new();
            let mut frames = vec![];
            for part in [&stream[..cut], &stream[cut..]] {
                input.extend_from_slice(part);
                while let NextFrame::Whole(frame) = next_frame(&mut input, MAX_FRAME_BYTES).unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames.len(), 2, "cut at {cut}");
            assert_eq!(
                (&frames[0].header[..], &frames[0].body[..]),
                (&b"{\"code\":1}"[..], &b"body one"[..])
            );
            assert_eq!((frames[1].codec, frames[1].body.len()), (HeaderCodec::Binary, 0));
            assert!(input.is_empty());
        }
    }

    #[test]
    fn says_how_many_bytes_the_next_frame_needs() {
        let whole = raw(b"{}", b"12345", 0);
        let mut input = BytesMut::from(&whole[..9]);
        assert!(matches!(next_frame(&mut input, 100).unwrap(), NextFrame::NeedsBytes(n) if n == whole.len()));
    }

    #[test]
    fn refuses_what_cannot_be_a_frame() {
        let mut cases = vec![
            (raw(&[], &[], 2), FrameError::UnknownCodec(2)),
            (vec![0, 0, 0, 3, 0, 0, 0, 0], FrameError::TooShort { len_bytes: 3 }),
            (vec![0, 0, 0, 9, 0, 0, 0, 6], FrameError::HeaderBeyondFrame { header_bytes: 6, frame_bytes: 9 }),
        ];
        let get = b"GET / HTTP/1.1\r\n".to_vec();
        cases.push((get, FrameError::TooLong { len_bytes: 0x4745_5420, max_bytes: MAX_FRAME_BYTES }));
        for (bytes, error) in cases {
            assert_eq!(next_frame(&mut BytesMut::from(&bytes[..]), MAX_FRAME_BYTES).unwrap_err(), error);
        }
    }
}
