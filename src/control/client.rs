//! The asking end: connects to whoever holds the store, sends one request, reads the answers.
//!
//! Blocking, on a plain Unix socket: the sendmail command starts in a millisecond and needs no runtime for one
//! exchange.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::proto::{self, Answer, CHUNK, Chunk, FRAME_MAX, LoadPart, Request};

/// Name of the socket in QueueDirectory.
pub const SOCKET: &str = "control";
/// How long a restarting daemon is waited for.
pub const WAIT_MAX: Duration = Duration::from_secs(10);
/// How long whoever holds the store may take to greet us. It is at once, unless hundreds of others are being served.
const GREETING_WAIT: Duration = Duration::from_secs(60);

/// A connection that has sent its request.
pub struct Asked {
    stream: BufReader<UnixStream>,
}

/// Connects once, and waits to be greeted: from then on whoever holds the store answers our request before it lets go of it.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when nobody answers there, `TimedOut` when it does not greet us, `InvalidData` when it is of
/// another version.
pub fn connect(directory: &Path) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(directory.join(SOCKET))?;
    stream.set_read_timeout(Some(GREETING_WAIT))?;
    let mut version = [0];
    match stream.read_exact(&mut version) {
        Ok(()) => {}
        // We stood in line when it ended: nothing was asked, so it is as if it had not been there.
        Err(error) if is_end(&error) => return Err(io::ErrorKind::ConnectionRefused.into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not greet us"));
        }
        Err(error) => return Err(error),
    }
    if version != [proto::VERSION] {
        let text = "it is of another version than this program; restart the daemon";
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    stream.set_read_timeout(None)?;
    Ok(stream)
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// What `connect` says when the other end does this.
    fn met(by: impl FnOnce(UnixListener) + Send) -> io::Error {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join(SOCKET)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| by(listener));
            connect(directory.path()).unwrap_err()
        })
    }

    #[test]
    fn whoever_was_not_greeted_has_asked_nothing() {
        let closed = met(|listener| drop(listener.accept().unwrap()));
        assert!(is_absence(&closed), "{closed:?}");
        // In line when the socket goes: the first is accepted, the one behind it by nobody.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(SOCKET);
        let listener = UnixListener::bind(&path).unwrap();
        let mut behind = UnixStream::connect(&path).unwrap();
        drop(listener);
        let error = behind.read_exact(&mut [0]).unwrap_err();
        assert!(is_end(&error), "{error:?}");
    }

    #[test]
    fn another_version_is_said() {
        let other = met(|listener| {
            listener.accept().unwrap().0.write_all(&[proto::VERSION + 1]).unwrap();
        });
        assert!(other.to_string().contains("restart the daemon"), "{other}");
    }
}
