//! Jobs and destinations: what is scheduled, attempted and settled.

use std::fmt;
use std::sync::Arc;

use super::envelope::{Envelope, Recipient};
use super::queue_id::QueueId;
use super::time::Timestamp;

/// The most recipients one job has: of a longer list, each thousand for one destination is a job of its own.
pub const JOB_RECIPIENTS_MAX: usize = 1000;

/// Which job: the message and the job's number in it.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize,
)]
pub struct JobId {
    /// The message.
    pub queue_id: QueueId,
    /// 0, 1, 2...
    pub number: u32,
}

/// A way of delivering.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize,
)]
pub enum Mailer {
    /// SMTP to where the domain's MX records say.
    Esmtp,
    /// SMTP to a relay that an administrator named.
    Relay,
    /// LMTP (RFC 2033).
    Lmtp,
    /// A mailbox of this machine.
    Local,
}

impl Mailer {
    /// `esmtp`, `relay`, `lmtp`, `local`: as in `mailer=` of the log.
    pub fn name(self) -> &'static str {
        match self {
            Mailer::Esmtp => "esmtp",
            Mailer::Relay => "relay",
            Mailer::Lmtp => "lmtp",
            Mailer::Local => "local",
        }
    }
}

/// Where a job goes: mailer and canonical next hop. Jobs with equal destinations share connections,
/// limits and host trouble.
#[derive(
    Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize,
)]
pub struct Destination {
    /// How.
    pub mailer: Mailer,
    /// `example.com` (MX), `[192.0.2.1]`, `[host]:port` (no MX), `/path` (LMTP socket), empty for local.
    /// Lower case, at most 320 octets.
    pub next_hop: String,
}

/// `esmtp:example.com`
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.mailer.name(), self.next_hop)
    }
}

/// The open recipients of one message that share a destination, ready to be attempted.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// Where the store thinks it goes; routing is asked again at each attempt.
    pub destination: Destination,
    /// The message's envelope.
    pub envelope: Arc<Envelope>,
    /// The open recipients with their numbers in the job, at least one, at most [`JOB_RECIPIENTS_MAX`].
    pub recipients: Vec<(u32, Recipient)>,
    /// Attempts so far, failures of its destination included.
    pub attempts: u32,
    /// The end of the last one.
    pub last_attempt: Option<Timestamp>,
    /// Where the bytes are.
    pub body: BodyRef,
}

/// Where a message's bytes (header, blank line, body; CRLF line ends, not dot-stuffed) are.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum BodyRef {
    /// Beside the envelope, in INCOMING.
    Incoming(QueueId),
    /// In a body generation, under this queue ID (of the message it first came with).
    Generation {
        /// `body-<generation>.redb`
        generation: u32,
        /// Key of its chunks.
        key: QueueId,
    },
}

/// What the queue shows of one message: for mailq, selections, dump and operators.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Entry {
    /// Its queue ID.
    pub id: QueueId,
    /// Its envelope.
    pub envelope: Envelope,
    /// Why it is not being tried, when it is held.
    pub held: Option<String>,
    /// A delay warning went out.
    pub warned: bool,
    /// Its bytes.
    pub body: BodyRef,
    /// Its jobs. Empty while and because the list is long (`recipients_total` says how long); those are read page by
    /// page.
    pub jobs: Vec<EntryJob>,
    /// Recipients it has in all, open and not.
    pub recipients_total: u32,
    /// Its record cannot be read (`?` in mailq): `held` says why, and nothing else is known of it.
    pub lost: bool,
    /// Being attempted at this moment (`*` in mailq). Filled in by whoever knows the claims.
    pub in_flight: bool,
}

/// One job as the queue shows it.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct EntryJob {
    /// Its number.
    pub number: u32,
    /// Where it goes.
    pub destination: Destination,
    /// When it may be tried next.
    pub due: Timestamp,
    /// Attempts so far (sendmail `N`), failures of its destination included where the queue is shown.
    pub attempts: u32,
    /// The end of the last attempt (sendmail `K`).
    pub last_attempt: Option<Timestamp>,
    /// What it or its destination met last: `Deferred: Connection refused by mx.example.`
    pub status: Option<String>,
    /// Its recipients, open or not.
    pub recipients: Vec<Recipient>,
}

impl Entry {
    /// The recipients still to be tried, job by job.
    pub fn open_recipients(&self) -> impl Iterator<Item = &Recipient> {
        self.jobs.iter().flat_map(|job| &job.recipients).filter(|r| r.state.is_open())
    }

    /// Its priority by now, after the attempts of the job that has most.
    pub fn priority(&self, retry_factor: i64) -> i64 {
        let attempts = self.jobs.iter().map(|job| job.attempts).max().unwrap_or(0);
        self.envelope.priority_after(attempts, retry_factor)
    }

    /// The status mailq prints for the message: that of its last attempted job.
    pub fn status(&self) -> Option<&str> {
        self.jobs
            .iter()
            .filter(|job| job.status.is_some())
            .max_by_key(|job| job.last_attempt)
            .and_then(|job| job.status.as_deref())
    }
}
