//! A connection that reads and writes in large pieces and never waits inside.

use std::io;

use tokio::io::Interest;
use tokio::net::TcpStream;

use super::frame::{Glance, NoFrame, glance};

/// Room for input at first; it grows for larger frames.
const INPUT_BYTES: usize = 256 * 1024;

/// A socket with what waits to be written and what is read but not looked at.
pub struct Socket {
    stream: TcpStream,
    output: Vec<u8>,
    /// Bytes of `output` that are written.
    written: usize,
    input: Vec<u8>,
    /// `input[start..end]` is read and not looked at.
    start: usize,
    end: usize,
}

impl Socket {
    pub async fn connect(addr: &str) -> io::Result<Self> {
        Self::over(TcpStream::connect(addr).await?)
    }

    pub fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, output: Vec::new(), written: 0, input: vec![0; INPUT_BYTES], start: 0, end: 0 })
    }

    /// Where frames are appended that wait to be written.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Bytes that wait to be written.
    pub fn unwritten(&self) -> usize {
        self.output.len() - self.written
    }

    /// Writes as much as the kernel takes now.
    pub fn write(&mut self) -> io::Result<()> {
        while self.unwritten() > 0 {
            match self.stream.try_write(&self.output[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(())
    }

    /// Reads what is there, in one piece; false when there was nothing.
    pub fn read(&mut self) -> io::Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.input.len() {
            // What is left of a frame moves to the front; a frame that fills everything gets more room.
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end == self.input.len() {
                self.input.resize(2 * self.end, 0);
            }
        }
        match self.stream.try_read(&mut self.input[self.end..]) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
            Ok(bytes) => {
                self.end += bytes;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The next whole frame that is read.
    pub fn next_frame(&mut self) -> Result<Option<(Glance, &[u8])>, NoFrame> {
        let unread = &self.input[self.start..self.end];
        let Some(seen) = glance(unread)? else { return Ok(None) };
        let frame = &self.input[self.start..self.start + seen.frame_bytes];
        self.start += seen.frame_bytes;
        Ok(Some((seen, frame)))
    }

    /// Waits until there is something to read, or room to write if something waits to be written.
    pub async fn ready(&self) -> io::Result<()> {
        let interest = match self.unwritten() {
            0 => Interest::READABLE,
            _ => Interest::READABLE | Interest::WRITABLE,
        };
        self.stream.ready(interest).await.map(|_| ())
    }
}
