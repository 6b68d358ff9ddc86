//! The asking end: connects to whoever holds the store, sends one request, reads the answers.
//!
//! Blocking, on a plain Unix socket: the sendmail command starts in a millisecond and needs no runtime for one
//! exchange.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::proto::{self, Answer, CHUNK, Chunk, FRAME_MAX, LoadPart, Request};

/// Name of the socket in QueueDirectory.
pub const SOCKET: &str = "control";
/// How long a restarting daemon is waited for.
pub const WAIT_MAX: Duration = Duration::from_secs(10);
/// Between two tries to connect.
const RETRY: Duration = Duration::from_millis(50);

/// A connection that has sent its request.
pub struct Asked {
    stream: BufReader<UnixStream>,
}

/// Connects once.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when nobody answers there.
pub fn connect(directory: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(directory.join(SOCKET))
}

/// Connects; while nobody answers, tries again until `patience` is over or `give_up` says so.
pub fn connect_patiently(
    directory: &Path,
    patience: Duration,
    mut give_up: impl FnMut() -> bool,
) -> io::Result<UnixStream> {
    let end = Instant::now() + patience;
    loop {
        match connect(directory) {
            Err(error) if is_absence(&error) && Instant::now() < end && !give_up() => {
                std::thread::sleep(RETRY);
            }
            other => return other,
        }
    }
}

/// Whether the error says that nobody holds the store, rather than that we may not ask.
pub fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Sends a request.
pub fn ask(mut stream: UnixStream, request: &Request) -> io::Result<Asked> {
    stream.write_all(&[proto::VERSION])?;
    stream.write_all(&proto::frame(request)?)?;
    Ok(Asked { stream: BufReader::with_capacity(CHUNK, stream) })
}

impl Asked {
    /// Sends another request, after the last answer to the one before.
    pub fn ask(&mut self, request: &Request) -> io::Result<()> {
        self.stream.get_mut().write_all(&proto::frame(request)?)
    }

    /// Sends the bytes of a message after [`Request::Submit`], and its end.
    pub fn send_message(&mut self, message: &mut dyn Read) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let length = match message.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            let chunk = Chunk(buffer[..length].to_vec());
            self.stream.get_mut().write_all(&proto::frame(&chunk)?)?;
            if length == 0 {
                return Ok(());
            }
        }
    }

    /// Sends a part of a message after [`Request::Load`].
    pub fn send_part(&mut self, part: &LoadPart) -> io::Result<()> {
        self.stream.get_mut().write_all(&proto::frame(part)?)
    }

    /// The next answer.
    ///
    /// # Errors
    /// `UnexpectedEof` when the other end went away: a request that changes something may have been done or not.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > FRAME_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "control socket: frame too long",
            ));
        }
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        proto::decode(&bytes)
    }

    /// The stream itself, after [`Request::Smtp`].
    pub fn into_stream(self) -> UnixStream {
        self.stream.into_inner()
    }
}
