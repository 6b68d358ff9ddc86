//! A message as the store works on it: what INCOMING, MESSAGE and DEST say, decoded.
//!
//! Plain data; `record.rs` turns it into bytes, `edit.rs` changes it inside a batch.

use std::sync::Arc;

use super::DestinationState;
use crate::mail::envelope::{ByMode, DeliverBy, Envelope, Recipient, RecipientState, TimeoutClass};
use crate::mail::job::{BodyRef, Destination, EntryJob, Job, JobId};
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;

/// Recipients that MESSAGE itself carries, over all jobs of the message: what RFC 5321 4.5.3.1.8 asks a server to take.
/// A message with more is a long list: its jobs are records of their own, made in the background.
pub const INLINE_RECIPIENTS_MAX: usize = 100;

/// A message not yet attempted, with one job (INCOMING). Its body stands beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Its envelope.
    pub envelope: Envelope,
    /// Where its one job goes.
    pub destination: Destination,
    /// Why it is not being tried, when it is held.
    pub held: Option<String>,
    /// All of them fresh, at most [`INLINE_RECIPIENTS_MAX`].
    pub recipients: Vec<Recipient>,
}

/// A scheduled message (MESSAGE).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its envelope.
    pub envelope: Envelope,
    /// Where its bytes are.
    pub body: Body,
    /// A delay warning went out.
    pub warned: bool,
    /// Why it is not being tried, when it is held (HELD lists those that are).
    pub held: Option<String>,
    /// Its jobs, or where they are.
    pub shape: Shape,
}

/// The place of a body in a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    /// `body-<generation>.redb`
    pub generation: u32,
    /// Key of its chunks, when it is not the message's own queue ID.
    pub key: Option<QueueId>,
}

/// What of a message decides where its jobs stand in DEADLINE and BY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Which timeouts it has.
    pub class: TimeoutClass,
    /// From when they count.
    pub arrival: Timestamp,
    /// Its sender may still be warned.
    pub warns: bool,
    /// The time of its own that it is to be delivered by, and whether it goes back then (DELIVERBY).
    pub by: Option<(Timestamp, bool)>,
}

impl Term {
    /// Whether nothing but giving up is left to judge of this job: it stays so, once it is.
    pub fn is_last(self, job: &EntryJob) -> bool {
        let wanted = |r: &Recipient| r.state.is_open() && r.notify.delay();
        !(self.warns && job.recipients.iter().any(wanted))
    }

    /// The time of its own by which this job is still to be judged (BY): a warning is no use to one who cannot be warned any more.
    pub fn judged_by(self, job: &EntryJob) -> Option<Timestamp> {
        let (time, returns) = self.by?;
        (returns || !self.is_last(job)).then_some(time)
    }
}

/// Where the jobs of a message are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// In MESSAGE itself; job n is the n-th.
    Inline(Vec<EntryJob>),
    /// In RECIPIENTS, and before that in STAGED.
    List(List),
}

/// The sums of a long list, so that a settle of one job needs to read no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List {
    /// Recipients ever.
    pub recipients: u32,
    /// Jobs made so far: the number of the next one.
    pub jobs: u32,
    /// Jobs with an open recipient.
    pub open_jobs: u32,
    /// There are still recipients in STAGED.
    pub unfolding: bool,
    /// When the first failure was met that is not yet reported.
    pub unreported_since: Option<Timestamp>,
    /// An operator's change that is being carried through its jobs.
    pub sweep: Option<Sweep>,
}

/// An operator's change to a long list, carried through its jobs in slices: those below `next` are done. Each step may be
/// repeated, so a new change may take the place of an unfinished one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// What is done to each job.
    pub change: Change,
    /// The first job to do.
    pub next: u32,
}

/// What a [`Sweep`] does to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Out of READY: the message is held.
    Rest,
    /// Into READY, due then.
    Due(Timestamp),
    /// Away: the message is removed and counts no more.
    Remove,
}

impl List {
    /// Whether the keeper has something to do for it: it stands in LISTS then.
    pub fn is_under_work(&self) -> bool {
        self.unfolding || self.sweep.is_some()
    }

    /// Whether it is being removed: nobody sees it any more.
    pub fn is_removed(&self) -> bool {
        matches!(self.sweep, Some(Sweep { change: Change::Remove, .. }))
    }
}

/// What stands in DEST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationRow {
    /// What the scheduler knows of it.
    pub state: DestinationState,
    /// The time under which it stands in AGENDA, if it does.
    pub agenda: Option<Timestamp>,
}

impl DestinationRow {
    /// A destination of which nothing is known.
    pub fn fresh() -> DestinationRow {
        let state = DestinationState { not_before: Timestamp::ZERO, failures: 0, last: None };
        DestinationRow { state, agenda: None }
    }
}

impl Body {
    /// For the outside.
    pub fn reference(self, id: QueueId) -> BodyRef {
        BodyRef::Generation { generation: self.generation, key: self.key.unwrap_or(id) }
    }
}

impl Incoming {
    /// The one job, as the queue shows it.
    pub fn entry_job(&self) -> EntryJob {
        EntryJob {
            number: 0,
            destination: self.destination.clone(),
            due: self.envelope.arrival,
            attempts: 0,
            last_attempt: None,
            status: None,
            recipients: self.recipients.clone(),
        }
    }

    /// The one job, ready to be attempted.
    pub fn job(self, id: QueueId) -> Job {
        Job {
            id: JobId { queue_id: id, number: 0 },
            destination: self.destination,
            envelope: Arc::new(self.envelope),
            recipients: (0..).zip(self.recipients).collect(),
            attempts: 0,
            last_attempt: None,
            body: BodyRef::Incoming(id),
        }
    }
}

impl Message {
    /// When its jobs are judged.
    pub fn term(&self) -> Term {
        let warns = !self.warned && self.envelope.may_warn();
        let returns = |by: DeliverBy| by.mode == ByMode::Return;
        let by = self.envelope.deliver_by_time().zip(self.envelope.deliver_by.map(returns));
        Term { class: self.envelope.timeouts, arrival: self.envelope.arrival, warns, by }
    }

    /// Whether it is being removed: nobody sees it any more.
    pub fn is_removed(&self) -> bool {
        matches!(&self.shape, Shape::List(list) if list.is_removed())
    }

    /// Recipients it ever had.
    pub fn recipients_total(&self) -> u32 {
        match &self.shape {
            Shape::Inline(jobs) => jobs.iter().map(|job| job.recipients.len() as u32).sum(),
            Shape::List(list) => list.recipients,
        }
    }
}

/// A job of a message, ready to be attempted; none when no recipient is open.
pub fn ready_job(
    id: QueueId,
    envelope: &Arc<Envelope>,
    body: &BodyRef,
    job: &EntryJob,
) -> Option<Job> {
    Some(job_with(id, envelope, body, job)).filter(|job| !job.recipients.is_empty())
}

/// A job of a message with those of its recipients that are open, if any.
pub fn job_with(id: QueueId, envelope: &Arc<Envelope>, body: &BodyRef, job: &EntryJob) -> Job {
    let open = (0..).zip(&job.recipients).filter(|(_, recipient)| recipient.state.is_open());
    Job {
        id: JobId { queue_id: id, number: job.number },
        destination: job.destination.clone(),
        envelope: Arc::clone(envelope),
        recipients: open.map(|(n, recipient)| (n, recipient.clone())).collect(),
        attempts: job.attempts,
        last_attempt: job.last_attempt,
        body: body.clone(),
    }
}

/// Whether a recipient of the job is still to be tried.
pub fn is_open(job: &EntryJob) -> bool {
    job.recipients.iter().any(|recipient| recipient.state.is_open())
}

/// When the sender should have heard of this recipient, if he has not; none when nothing is owed.
pub fn unreported(state: &RecipientState) -> Option<Timestamp> {
    match state {
        RecipientState::Done { report, reported: false, .. }
        | RecipientState::Failed { report, reported: false } => Some(report.at),
        _ => None,
    }
}

/// The first time something became owed for a recipient of the job; none when nothing is.
pub fn unreported_since(job: &EntryJob) -> Option<Timestamp> {
    job.recipients.iter().filter_map(|recipient| unreported(&recipient.state)).min()
}
