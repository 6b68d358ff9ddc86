//! Where lines go: the system's log (RFC 3164 over /dev/log, facility mail) or a stream.
//!
//! One thread writes. A syslog that is away or does not read is tried again each [`RETRY`], with the same line, so a
//! restart of it loses nothing while [`super::PENDING_MAX`] lasts. A stream that fails loses the batch.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::tz::TimeZone;

use super::{Pending, Severity, Shared};
use crate::mail::time::Timestamp;

/// Where the system's log listens.
pub const SYSLOG_SOCKET: &str = "/dev/log";
/// Between two attempts to reach a syslog that is away.
const RETRY: Duration = Duration::from_secs(1);
/// How long lines gather after a batch: a busy server's log costs it few writes and few switches of threads, and nobody sees the delay.
const GATHER: Duration = Duration::from_millis(5);
/// How long one line may wait for a syslog that does not read before it counts as away.
const SEND_MAX: Duration = Duration::from_millis(500);
/// LOG_MAIL of syslog(3), shifted as in a priority.
const FACILITY_MAIL: u8 = 2 << 3;

/// Where lines go.
pub enum Sink {
    /// The system's log, by its socket: [`SYSLOG_SOCKET`].
    Syslog(PathBuf),
    /// A stream, as standard error: `Nov 22 06:21:19 sendmail[123]: text`.
    Stream(Box<dyn Write + Send>),
}

/// The thread's own: the sink and what stands before each line.
pub(super) struct Writer {
    sink: Sink,
    socket: Option<UnixDatagram>,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    zone: TimeZone,
    /// `sendmail[123]: `
    name: String,
    /// `Nov 22 06:21:19 `, and the second it says.
    date: (u64, String),
    packet: Vec<u8>,
}

impl Writer {
    pub(super) fn new(
        sink: Sink,
        tag: String,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
        zone: TimeZone,
    ) -> Writer {
        let name = format!("{tag}[{}]: ", std::process::id());
        let date = (u64::MAX, String::new());
        Writer { sink, socket: None, clock, zone, name, date, packet: Vec::new() }
    }

    /// Writes batch after batch until the last handle is gone and nothing is left. A line after a pause goes out at once, those
    /// behind it gather.
    pub(super) fn run(mut self, shared: &Shared) {
        let mut batch = Vec::new();
        loop {
            let mut pending = shared.lock();
            pending.writing = false;
            shared.emptied.notify_all();
            if !batch.is_empty() {
                let unhurried = |pending: &mut Pending| !pending.hurried && !pending.closing;
                let gathered = shared.filled.wait_timeout_while(pending, GATHER, unhurried);
                pending = gathered.unwrap_or_else(PoisonError::into_inner).0;
            }
            while pending.lines.is_empty() && pending.dropped == 0 {
                if pending.closing {
                    return;
                }
                pending.parked = true;
                pending = shared.filled.wait(pending).unwrap_or_else(PoisonError::into_inner);
                pending.parked = false;
            }
            pending.hurried = false;
            batch.clear();
            std::mem::swap(&mut batch, &mut pending.lines);
            let dropped = std::mem::take(&mut pending.dropped);
            pending.writing = true;
            drop(pending);
            if dropped > 0 {
                let severity = Severity::Warning as u8;
                let text = format!("{severity}log: {dropped} lines dropped: nobody took them\n");
                batch.extend_from_slice(text.as_bytes());
            }
            self.set_date();
            match &self.sink {
                Sink::Syslog(_) => self.send_all(shared, &batch),
                Sink::Stream(_) => self.print_all(&batch),
            }
        }
    }

    fn set_date(&mut self) {
        let now = (self.clock)();
        if self.date.0 != now.as_secs() {
            self.date = (now.as_secs(), now.strftime("%b %e %H:%M:%S ", &self.zone));
        }
    }

    /// One write for the whole batch. There is nowhere to complain of standard error, so its errors end here.
    fn print_all(&mut self, batch: &[u8]) {
        self.packet.clear();
        for line in lines(batch) {
            self.packet.extend_from_slice(self.date.1.as_bytes());
            self.packet.extend_from_slice(self.name.as_bytes());
            self.packet.extend_from_slice(line.get(1..).unwrap_or_default());
            self.packet.push(b'\n');
        }
        if let Sink::Stream(stream) = &mut self.sink {
            let _ = stream.write_all(&self.packet).and_then(|()| stream.flush());
        }
    }

    fn send_all(&mut self, shared: &Shared, batch: &[u8]) {
        for line in lines(batch) {
            let Some((severity, text)) = line.split_first() else { continue };
            let priority = FACILITY_MAIL | (severity - b'0');
            self.packet.clear();
            self.packet.extend_from_slice(format!("<{priority}>").as_bytes());
            self.packet.extend_from_slice(self.date.1.as_bytes());
            self.packet.extend_from_slice(self.name.as_bytes());
            self.packet.extend_from_slice(text);
            while let Err(error) = self.send() {
                if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) {
                    break;
                }
                if !wait_for_retry(shared) {
                    return;
                }
            }
        }
    }

    fn send(&mut self) -> io::Result<()> {
        let Sink::Syslog(path) = &self.sink else { return Ok(()) };
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                let socket = UnixDatagram::unbound()?;
                socket.set_write_timeout(Some(SEND_MAX))?;
                socket.connect(path)?;
                socket
            }
        };
        // On an error the socket is gone and the next attempt connects anew.
        socket.send(&self.packet)?;
        self.socket = Some(socket);
        Ok(())
    }
}

fn lines(batch: &[u8]) -> impl Iterator<Item = &[u8]> {
    batch.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// Waits [`RETRY`]; false when the log is closing, because then nobody waits for a syslog to come back.
fn wait_for_retry(shared: &Shared) -> bool {
    let pending = shared.lock();
    let (pending, _) = shared
        .filled
        .wait_timeout_while(pending, RETRY, |pending| !pending.closing)
        .unwrap_or_else(PoisonError::into_inner);
    !pending.closing
}
