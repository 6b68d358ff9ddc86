//! What settling is judged from and what it comes to: the two nouns between `settle` (decides) and `store` (applies).
//!
//! A [`MessageState`] is read at the moment of settling; the [`Verdict`] on it is applied in one batch or not at all. When
//! the state has changed in between, it is read and judged again, so judging must be pure.

use std::error::Error;

use super::envelope::{Envelope, Recipient, RecipientState};
use super::job::{Destination, EntryJob};
use super::outcome::ReportMessage;
use super::queue_id::QueueId;
use super::time::Timestamp;

/// The message's bytes could not be read. The verdict was not reached and nothing has changed.
#[derive(Debug, thiserror::Error)]
#[error("original message: {0}")]
pub struct OriginalError(#[source] Box<dyn Error + Send + Sync>);

impl OriginalError {
    /// Wraps whatever the reader of the bytes met.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> OriginalError {
        OriginalError(cause.into())
    }

    /// The wrapped error, for whoever knows its type.
    pub fn into_cause(self) -> Box<dyn Error + Send + Sync> {
        self.0
    }
}

/// The whole of a message as `decide` sees it at the moment of settling.
pub struct MessageState<'a> {
    /// The message.
    pub id: QueueId,
    /// Its envelope.
    pub envelope: &'a Envelope,
    /// The job being settled, all its recipients with their present states.
    pub job: &'a EntryJob,
    /// Whether any recipient of the message outside this job is still open.
    pub others_open: bool,
    /// Recipients outside this job with a failure (or success report) not yet reported, up to 1 000; job number, place, recipient.
    pub unreported: Vec<(u32, u32, Recipient)>,
    /// When the first of those failed.
    pub unreported_since: Option<Timestamp>,
    /// A delay warning went out.
    pub warned: bool,
    /// Reads up to `limit` octets of header and body of the message.
    pub original: &'a dyn Fn(usize) -> Result<Vec<u8>, OriginalError>,
}

/// What `settle` is to do: everything in one batch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// New states of recipients of the job, by their number in it. Others stay as they are.
    pub recipients: Vec<(u32, RecipientState)>,
    /// Recipients that stand in for a replaced one, with their destinations: become new jobs, due at once.
    pub replacements: Vec<(Destination, Recipient)>,
    /// When the open rest of the job is due.
    pub retry_at: Option<Timestamp>,
    /// Status to show for the job (`Deferred: ...`).
    pub status: Option<String>,
    /// The attempt counts (N, K); false when only a deadline was judged.
    pub counted: bool,
    /// Unreported recipients outside the job that the reports below cover.
    pub reported: Vec<(u32, u32)>,
    /// A delay warning is among the reports.
    pub warned: bool,
    /// Reports to accept as new messages in the same batch, each with where it goes; an `Err` destination holds it with that reason.
    pub reports: Vec<(ReportMessage, Result<Destination, String>)>,
}
