//! Bodies as the sender meant them: the sending client compresses large ones, the consuming client opens them.

use std::borrow::Cow;
use std::io::{self, Read};

use super::sys_flag::{COMPRESSED, COMPRESSION_TYPE_MASK, COMPRESSION_TYPE_SHIFT};

/// Largest body that is opened, bytes: a few bytes of a bad sender must not fill the memory.
pub const MAX_OPENED_BYTES: u64 = 64 * 1024 * 1024;

/// A body whose compression cannot be undone.
///
/// ```
/// use telstar::extension::OfferedMessage;
/// use telstar::protocol::BodyError;
///
/// const COMPRESSED: i32 = 1;
/// let broken = OfferedMessage { body: "no zlib".into(), sys_flag: COMPRESSED, properties: Default::default() };
/// let error = broken.plain_body().unwrap_err();
/// assert!(matches!(error, BodyError::Corrupt { kind: "zlib", .. }), "{error}");
/// ```
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It is not what it says to be.
    #[error("body is not {kind}: {source}")]
    Corrupt {
        /// How it says to be compressed.
        kind: &'static str,
        /// What is wrong with it.
        source: io::Error,
    },
    /// Nobody knows how to open it; here is its number.
    #[error("body has the unknown compression type {0}")]
    UnknownType(i32),
    /// It would fill the memory.
    #[error("body is larger than {max_bytes} bytes when decompressed")]
    TooLarge {
        /// The limit.
        max_bytes: u64,
    },
}

/// The body as it was before compression; itself when it was not compressed.
pub fn open(body: &[u8], sys_flag: i32) -> Result<Cow<'_, [u8]>, BodyError> {
    open_within(body, sys_flag, MAX_OPENED_BYTES)
}

/// As [`open`], as long as decompressing does not make it longer than `max_bytes`.
pub fn open_within(body: &[u8], sys_flag: i32, max_bytes: u64) -> Result<Cow<'_, [u8]>, BodyError> {
    if sys_flag & COMPRESSED == 0 {
        return Ok(Cow::Borrowed(body));
    }
    let opened = match (sys_flag & COMPRESSION_TYPE_MASK) >> COMPRESSION_TYPE_SHIFT {
        0 | 3 => read_all("zlib", flate2::read::ZlibDecoder::new(body), max_bytes),
        1 => read_all("lz4", lz4_flex::frame::FrameDecoder::new(body), max_bytes),
        2 => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(body);
            let corrupt = |error| BodyError::Corrupt { kind: "zstd", source: io::Error::other(error) };
            read_all("zstd", decoder.map_err(corrupt)?, max_bytes)
        }
        other => Err(BodyError::UnknownType(other)),
    };
    opened.map(Cow::Owned)
}

fn read_all(kind: &'static str, from: impl Read, max_bytes: u64) -> Result<Vec<u8>, BodyError> {
    let mut opened = Vec::new();
    let read = from.take(max_bytes + 1).read_to_end(&mut opened);
    read.map_err(|source| BodyError::Corrupt { kind, source })?;
    if opened.len() as u64 > max_bytes { Err(BodyError::TooLarge { max_bytes }) } else { Ok(opened) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const TEXT: &[u8] = b"over and over and over and over and over again";

    #[test]
    fn every_compression_is_opened() {
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(5));
        zlib.write_all(TEXT).unwrap();
        let zlib = zlib.finish().unwrap();
        let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
        lz4.write_all(TEXT).unwrap();
        let lz4 = lz4.finish().unwrap();
        let zstd = ruzstd::encoding::compress_to_vec(TEXT, ruzstd::encoding::CompressionLevel::Fastest);
        for (body, sys_flag) in [(&zlib, 0x1), (&zlib, 0x301), (&lz4, 0x101), (&zstd, 0x201)] {
            assert_eq!(&*open(body, sys_flag).unwrap(), TEXT, "{sys_flag:#x}");
            let (len, within) = (TEXT.len() as u64, |max| open_within(body, sys_flag, max));
            assert!(within(len).is_ok() && matches!(within(len - 1), Err(BodyError::TooLarge { .. })));
        }
        assert_eq!(&*open(TEXT, 0x300).unwrap(), TEXT, "only the lowest bit says compressed");
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        for sys_flag in [0x1, 0x101, 0x201] {
            assert!(matches!(open(TEXT, sys_flag), Err(BodyError::Corrupt { .. })), "{sys_flag:#x}");
        }
        assert!(matches!(open(TEXT, 0x701), Err(BodyError::UnknownType(7))));
    }
}
