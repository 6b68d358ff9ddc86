//! A queue that is read from end to end, and why that may come to no end.

use std::io;
use std::path::PathBuf;

use kvmta::control::client::Asked;
use kvmta::control::proto::{Answer, Request};
use kvmta::mail::job::{BodyRef, Entry, EntryJob};
use kvmta::mail::queue_id::QueueId;
use kvmta::store::StoreError;

/// Messages listed at a time: a snapshot is held no longer than it takes to copy them.
const PAGE: usize = 500;
/// Jobs of a long list read at a time, each of up to a thousand recipients.
const JOBS_PAGE: usize = 8;

/// Why a dump or a check came to no end. Each is a line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The queue could not be read.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// Nobody answers for the queue.
    #[error("{text}")]
    Unanswered {
        /// What, and what next.
        text: String,
        /// Of sysexits(3).
        exit: u8,
    },
    /// A file could not be written.
    #[error(
        "cannot write {path}: {source}{}; what was written before it is complete",
        hint(source)
    )]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No runtime or thread.
    #[error("cannot start: {0}")]
    Start(io::Error),
}

impl DumpError {
    /// Of sysexits(3).
    pub fn exit_code(&self) -> u8 {
        match self {
            DumpError::Store(StoreError::Missing(_)) => 66,
            DumpError::Store(StoreError::OtherFormat { .. } | StoreError::Damaged { .. }) => 65,
            DumpError::Store(_) => 75,
            DumpError::Unanswered { exit, .. } => *exit,
            DumpError::Write { .. } => 73,
            DumpError::Start(_) => 71,
        }
    }
}

/// What to do about it.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AlreadyExists => {
            " and is not replaced: name an empty directory or a new file"
        }
        io::ErrorKind::NotFound => ": make the directory first (mkdir -m 700)",
        io::ErrorKind::StorageFull => ": make room, empty the directory and dump again",
        _ => "",
    }
}

/// A queue that can be read from end to end: a store nobody has open, or a running daemon's.
pub trait Queue {
    /// Up to `limit` messages in order after `after`.
    fn list(&mut self, after: Option<QueueId>, limit: usize) -> Result<Vec<Entry>, StoreError>;
    /// Jobs of a message with a long list, up to `limit` after `after`.
    fn jobs(
        &mut self,
        id: QueueId,
        after: Option<u32>,
        limit: usize,
    ) -> Result<Vec<EntryJob>, StoreError>;
    /// The next octets of a message from `offset`; empty at its end.
    fn bytes(&mut self, entry: &Entry, offset: u64) -> Result<Vec<u8>, StoreError>;
    /// Messages, messages held and octets, as counted by the store itself.
    fn counts(&mut self) -> Result<(u64, u64, u64), StoreError>;
}

/// Whoever holds the queue: the daemon, or this program for as long as it reads.
pub struct Holder {
    /// The connection.
    pub asked: Asked,
}

impl Holder {
    /// Reads the rest of the answers to a request.
    pub fn rest(&mut self) -> Result<(), StoreError> {
        loop {
            match self.asked.answer() {
                Ok(Answer::Failed { text, .. }) => return Err(StoreError::Unavailable(text)),
                Ok(answer) if answer.is_last() => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(StoreError::Unavailable(error.to_string())),
            }
        }
    }

    /// The next octets of a body from `offset` on; empty at its end. `Damaged` when they cannot be read: other messages can.
    pub fn octets(&mut self, body: &BodyRef, offset: u64) -> Result<Vec<u8>, StoreError> {
        let lost = |error: io::Error| StoreError::Unavailable(error.to_string());
        self.asked.ask(&Request::Bytes { body: body.clone(), offset }).map_err(lost)?;
        let given = match self.asked.answer().map_err(lost)? {
            Answer::Bytes(bytes) => bytes,
            Answer::Failed { text, .. } => {
                return Err(StoreError::Damaged { what: "its body".into(), detail: text });
            }
            other => return unexpected(&other),
        };
        self.rest()?;
        Ok(given)
    }

    /// One request with one answer.
    fn ask(&mut self, request: &Request) -> Result<Answer, StoreError> {
        let lost = |error: io::Error| StoreError::Unavailable(error.to_string());
        self.asked.ask(request).map_err(lost)?;
        let mut given = None;
        loop {
            match self.asked.answer().map_err(lost)? {
                Answer::Done { .. } => {
                    let nothing = || StoreError::Unavailable("no answer".into());
                    return given.ok_or_else(nothing);
                }
                Answer::Failed { text, .. } => return Err(StoreError::Unavailable(text)),
                answer => given = Some(answer),
            }
        }
    }
}

pub fn unexpected<T>(answer: &Answer) -> Result<T, StoreError> {
    Err(StoreError::Unavailable(format!("unexpected answer {answer:?}")))
}

impl Queue for Holder {
    fn list(&mut self, after: Option<QueueId>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        match self.ask(&Request::Page { after, limit: limit as u32 })? {
            Answer::Entries(entries) => Ok(entries),
            other => unexpected(&other),
        }
    }

    fn jobs(
        &mut self,
        id: QueueId,
        after: Option<u32>,
        limit: usize,
    ) -> Result<Vec<EntryJob>, StoreError> {
        match self.ask(&Request::Jobs { id, after, limit: limit as u32 })? {
            Answer::Jobs(jobs) => Ok(jobs),
            other => unexpected(&other),
        }
    }

    fn bytes(&mut self, entry: &Entry, offset: u64) -> Result<Vec<u8>, StoreError> {
        self.octets(&entry.body, offset)
    }

    fn counts(&mut self) -> Result<(u64, u64, u64), StoreError> {
        match self.ask(&Request::Count)? {
            Answer::Counts(counts) => Ok((counts.messages, counts.held, counts.octets)),
            other => unexpected(&other),
        }
    }
}

/// Whether the message is still in the queue.
///
/// # Errors
/// Of the queue.
pub fn is_there(queue: &mut dyn Queue, id: QueueId) -> Result<bool, StoreError> {
    let before = id.as_u64().checked_sub(1).map(QueueId::from_u64);
    Ok(queue.list(before, 1)?.first().is_some_and(|entry| entry.id == id))
}

/// Calls `visit` with every message in order.
pub fn for_each<E: From<StoreError>>(
    queue: &mut impl Queue,
    mut visit: impl FnMut(&mut dyn Queue, &Entry) -> Result<(), E>,
) -> Result<u64, E> {
    let (mut after, mut count) = (None, 0);
    loop {
        let page = queue.list(after, PAGE)?;
        let Some(last) = page.last() else {
            return Ok(count);
        };
        after = Some(last.id);
        for entry in &page {
            visit(queue, entry)?;
            count += 1;
        }
    }
}

/// Calls `visit` with every job of a message, those of a long list page by page. One that cannot be read has no recipients, and is named
/// on standard error: nobody is to take what is left for all there was.
pub fn for_each_job<E: From<StoreError>>(
    queue: &mut dyn Queue,
    entry: &Entry,
    mut visit: impl FnMut(&EntryJob) -> Result<(), E>,
) -> Result<(), E> {
    if !entry.jobs.is_empty() {
        return entry.jobs.iter().try_for_each(visit);
    }
    let mut after = None;
    loop {
        let page = queue.jobs(entry.id, after, JOBS_PAGE)?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(last.number);
        for job in page.iter().filter(|job| job.recipients.is_empty()) {
            let reason = job.status.as_deref().unwrap_or_default();
            eprintln!("kvmta-dump: {} job {}: {reason}; left out", entry.id, job.number);
        }
        page.iter().try_for_each(&mut visit)?;
    }
}
