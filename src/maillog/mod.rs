//! The operator's log: sendmail's lines, field for field, on syslog or standard error.
//!
//! [`Maillog`] is a handle to be cloned and handed down; [`events`] has one function per event. A line is written into a
//! bounded buffer that one thread empties, so an event costs its formatting and a short lock, and never waits for the
//! outside. While nobody takes the lines they pile up to [`PENDING_MAX`] octets; what comes then is counted, and the
//! count is logged when there is room again.
//!
//! What happens to a message also goes into the history, whatever the level, once there is one ([`Maillog::keep_history`]).
//!
//! Promises: one event is one line; no line has a control character or more than [`LINE_MAX`] octets, whatever a peer
//! said; a text that stands between fields has no blank, so it cannot pass for a field. Never a body, never a password.
//! A crash loses what the thread has not yet written, the last milliseconds.

pub mod events;
mod line;
mod remember;
mod sink;
#[cfg(test)]
mod tests;
pub mod verbose;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jiff::tz::TimeZone;

pub use events::{Rejection, Side};
pub use line::LINE_MAX;
pub use sink::{SYSLOG_SOCKET, Sink};

use crate::mail::history::What;
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;
use crate::store::history::History;

/// Octets of lines not yet written: some 5 000 lines, a second of a very busy daemon or minutes of an idle one.
pub const PENDING_MAX: usize = 1 << 20;
/// Longest -L tag, as in sendmail.
const TAG_MAX: usize = 32;

/// How to open the log.
pub struct Options {
    /// Where lines go.
    pub sink: Sink,
    /// Name of the program in each line: `sendmail` or what -L says.
    pub tag: String,
    /// LogLevel.
    pub level: u8,
    /// Calendar time, for the date of a line.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Its zone.
    pub zone: TimeZone,
}

/// The open log. Clones share it; when the last one goes, what is pending is written and the thread ends.
#[derive(Clone)]
pub struct Maillog {
    owner: Arc<Owner>,
}

struct Owner {
    shared: Arc<Shared>,
    history: OnceLock<History>,
}

/// What the handles and the writing thread have in common.
struct Shared {
    level: AtomicU8,
    pending: Mutex<Pending>,
    /// Something is pending for a parked thread, somebody waits for what is, or the log is closing.
    filled: Condvar,
    /// Something was written.
    emptied: Condvar,
}

/// Lines on their way: each is a severity digit, the text and a line feed.
#[derive(Default)]
struct Pending {
    lines: Vec<u8>,
    /// Lines that found no room since the last batch.
    dropped: u64,
    /// The thread is writing a batch it has taken.
    writing: bool,
    /// The thread waits for a line; else waking it would be a wasted system call.
    parked: bool,
    /// Somebody waits for all of it to be written: no gathering.
    hurried: bool,
    closing: bool,
}

/// Severities of syslog that mail uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Severity {
    Alert = 1,
    Critical = 2,
    Error = 3,
    Warning = 4,
    Notice = 5,
    Info = 6,
}

impl Maillog {
    /// Opens the log and starts its thread. A syslog that is not there yet is no error: lines wait for it.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn open(options: Options) -> io::Result<Maillog> {
        let shared = Arc::new(Shared {
            level: AtomicU8::new(options.level),
            pending: Mutex::new(Pending::default()),
            filled: Condvar::new(),
            emptied: Condvar::new(),
        });
        let tag = tag(&options.tag);
        let writer = sink::Writer::new(options.sink, tag, options.clock, options.zone);
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new().name("maillog".into()).spawn(move || writer.run(&theirs))?;
        Ok(Maillog { owner: Arc::new(Owner { shared, history: OnceLock::new() }) })
    }

    /// A log that keeps nothing: for tests and for programs without one.
    ///
    /// # Errors
    /// As [`Maillog::open`].
    pub fn discard() -> io::Result<Maillog> {
        Maillog::open(Options {
            sink: Sink::Stream(Box::new(io::sink())),
            tag: String::new(),
            level: 0,
            clock: Arc::new(|| Timestamp::ZERO),
            zone: TimeZone::UTC,
        })
    }

    /// From now on what happens to messages goes into this history too. The first one given stays.
    pub fn keep_history(&self, history: History) {
        let _ = self.owner.history.set(history);
    }

    /// Puts an event into the history, if there is one.
    fn remember(&self, id: QueueId, what: impl FnOnce() -> What) {
        if let Some(history) = self.owner.history.get() {
            history.record(id, what());
        }
    }

    /// LogLevel from now on.
    pub fn set_level(&self, level: u8) {
        self.owner.shared.level.store(level, Ordering::Relaxed);
    }

    /// Whether events of this level are logged: to save the making of what would be thrown away.
    pub fn logs(&self, level: u8) -> bool {
        self.owner.shared.level.load(Ordering::Relaxed) >= level
    }

    /// Waits until everything so far is written, at most `within`: before the process ends. False when it was not.
    pub fn flush(&self, within: Duration) -> bool {
        let shared = &self.owner.shared;
        let busy = |pending: &mut Pending| {
            pending.writing || !pending.lines.is_empty() || pending.dropped > 0
        };
        let mut pending = shared.lock();
        pending.hurried = busy(&mut pending);
        shared.filled.notify_one();
        let waited = shared.emptied.wait_timeout_while(pending, within, busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Takes one line at this level, under `id` when it is about a message.
    fn write(&self, level: u8, severity: Severity, id: Option<QueueId>, text: fmt::Arguments<'_>) {
        if !self.logs(level) {
            return;
        }
        let shared = &self.owner.shared;
        let mut pending = shared.lock();
        if pending.lines.len() + LINE_MAX + 2 > PENDING_MAX {
            pending.dropped += 1;
            return;
        }
        pending.lines.push(b'0' + severity as u8);
        let mut line = line::Line::new(&mut pending.lines);
        match id {
            Some(id) => line.put(format_args!("{id}: {text}")),
            None => line.put(text),
        }
        line.end();
        let wake = std::mem::take(&mut pending.parked);
        drop(pending);
        if wake {
            shared.filled.notify_one();
        }
    }
}

impl Shared {
    /// A panic while formatting leaves at worst half a line: the log goes on.
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.filled.notify_one();
    }
}

/// What -L gives, made fit for a line: sendmail's rule.
fn tag(text: &str) -> String {
    let fit = |c: char| if c.is_ascii_graphic() && c != '%' { c } else { '*' };
    text.chars().take(TAG_MAX).map(fit).collect()
}
