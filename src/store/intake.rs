//! Intake: a message on its way in, and the one batch that makes it ours.
//!
//! Octets are kept in memory up to [`INCOMING_BODY_MAX`]; beyond, they are staged in a body generation. Recipients are kept in memory up
//! to one block; beyond, they are staged in STAGED. `accept` makes it durable: after its `Ok` the message is ours for
//! ever (the 250 follows it), after its `Err` it is not there. Which form it takes stands in `schema.rs`.
//!
//! Dropping an [`Intake`] forgets everything staged; a crash does the same, at the next start.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::body::Staging;
use super::edit::{Edit, incoming_pieces};
use super::engine::{Applied, Batch, Check, Read};
use super::keeper::Errand;
use super::list::ListStaging;
use super::message::{
    Body, Change, INLINE_RECIPIENTS_MAX, Incoming, List, Message, Shape, Sweep, ready_job,
};
use super::record::Record;
use super::schema::*;
use super::statistics;
use super::writer::Class;
use super::{Accepted, Core, Store, StoreError};
use crate::mail::envelope::{Envelope, Recipient};
use crate::mail::job::{Destination, EntryJob, Job, JobId};
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;

/// Octets of a message that are kept in memory and may go to INCOMING: two pieces at most, and with the bound on intakes a bound on
/// memory. Most mail is smaller.
pub const INCOMING_BODY_MAX: usize = 96 << 10;

/// A message on its way in. Dropping it forgets everything staged.
pub struct Intake {
    pub(super) core: Arc<Core>,
    pub(super) id: QueueId,
    pub(super) content: Content,
    pub(super) recipients: Recipients,
    /// Nobody is to try it before.
    pub(super) due: Option<Timestamp>,
}

pub(super) enum Content {
    Memory(Vec<u8>),
    Staged { staging: Box<Staging>, written: u64 },
}

pub(super) enum Recipients {
    /// In order of arrival, at most [`INLINE_RECIPIENTS_MAX`].
    Few(Vec<(Destination, Recipient)>),
    Many(ListStaging),
}

impl Store {
    /// Starts taking a message. It has its queue ID from now on.
    ///
    /// # Errors
    /// `Full` (free space below MinFreeBlocks, or the disk refused), `Busy`, `Unavailable`, `Closing`.
    pub fn intake(&self) -> Result<Intake, StoreError> {
        let core = self.core();
        if core.writer.is_full() || core.is_short_of_space()? {
            return Err(StoreError::Full);
        }
        let id = core.ids.next(&core.writer, core.now())?;
        Ok(Intake {
            core: Arc::clone(core),
            id,
            content: Content::Memory(Vec::new()),
            recipients: Recipients::Few(Vec::new()),
            due: None,
        })
    }
}

impl Core {
    fn is_short_of_space(&self) -> Result<bool, StoreError> {
        if self.options.min_free == 0 {
            return Ok(false);
        }
        let space = rustix::fs::statvfs(&self.options.directory).map_err(|error| {
            StoreError::Unavailable(format!(
                "free space of {}: {error}",
                self.options.directory.display()
            ))
        })?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize) < self.options.min_free)
    }
}

impl Core {
    /// A body that is durable in a generation, which is kept while the staging is.
    pub(super) async fn stage_body(
        &self,
        id: QueueId,
        bytes: &[u8],
    ) -> Result<Staging, StoreError> {
        let mut staging = self.bodies.begin(id)?;
        staging.write(bytes).await?;
        staging.seal().await?;
        Ok(staging)
    }
}

impl Intake {
    /// Its name from now on.
    pub fn queue_id(&self) -> QueueId {
        self.id
    }

    /// The next octets of header and body (CRLF line ends, no dot-stuffing). Waits while too much is unwritten.
    ///
    /// # Errors
    /// `Full`, `Unavailable`, `Closing`: the message cannot be taken.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if let Content::Memory(kept) = &mut self.content {
            if kept.len() + bytes.len() <= INCOMING_BODY_MAX {
                kept.extend_from_slice(bytes);
                return Ok(());
            }
            let kept = std::mem::take(kept);
            let mut staging = Box::new(self.core.bodies.begin(self.id)?);
            staging.write(&kept).await?;
            self.content = Content::Staged { staging, written: kept.len() as u64 };
        }
        if let Content::Staged { staging, written } = &mut self.content {
            staging.write(bytes).await?;
            *written += bytes.len() as u64;
        }
        Ok(())
    }

    /// One more recipient and where it goes; long lists are staged, not kept in memory.
    ///
    /// # Errors
    /// `Full`, `Unavailable`, `Closing`: the message cannot be taken.
    pub async fn recipient(
        &mut self,
        destination: Destination,
        recipient: Recipient,
    ) -> Result<(), StoreError> {
        if let Recipients::Few(few) = &mut self.recipients {
            if few.len() < INLINE_RECIPIENTS_MAX {
                few.push((destination, recipient));
                return Ok(());
            }
            let few = std::mem::take(few);
            let mut list = ListStaging::new(Arc::clone(&self.core), self.id);
            for (destination, recipient) in few {
                list.add(destination, recipient).await?;
            }
            self.recipients = Recipients::Many(list);
        }
        if let Recipients::Many(list) = &mut self.recipients {
            list.add(destination, recipient).await?;
        }
        Ok(())
    }

    /// All recipients so far that said nothing of reports want one of success too (sendmail RrtImpliesDsn).
    ///
    /// # Errors
    /// `Full`, `Unavailable`, `Closing`: the message cannot be taken.
    pub async fn ask_for_receipts(&mut self) -> Result<(), StoreError> {
        match &mut self.recipients {
            Recipients::Few(few) => {
                for (_, recipient) in few {
                    recipient.notify = recipient.notify.or_receipt();
                }
                Ok(())
            }
            Recipients::Many(list) => list.ask_for_receipts().await,
        }
    }

    /// Nobody tries it before `due`, but for explicit runs (DeliveryMode q): it stands in the schedule from the start, and is not given to
    /// whoever waits for new mail.
    pub fn postpone(&mut self, due: Timestamp) {
        self.due = Some(due);
    }

    /// Makes it durable. `envelope.size` and `header_len` are those of the octets written. On `Ok` the message is ours for
    /// ever; on `Err` it is not there.
    ///
    /// # Errors
    /// `Full`, `Unavailable`, `Closing`.
    ///
    /// # Panics
    /// When `envelope.size` is not the number of octets written, or nothing was, or there is no recipient: defects of the caller.
    pub async fn accept(
        self,
        envelope: Envelope,
        held: Option<String>,
    ) -> Result<Accepted, StoreError> {
        let Intake { core, id, content, recipients, due } = self;
        assert_eq!(envelope.size, content.written(), "the envelope says how much was written");
        assert!(envelope.size > 0, "a message has a header");
        let few = match recipients {
            Recipients::Few(few) => few,
            Recipients::Many(list) => {
                return accept_list(&core, id, content, list, envelope, held, due).await;
            }
        };
        assert!(!few.is_empty(), "a message has recipients");
        let now = core.now();
        let mut jobs = into_jobs(few, due.unwrap_or(now));
        match content {
            Content::Memory(bytes)
                if held.is_none()
                    && due.is_none()
                    && jobs.len() == 1
                    && !core.is_down(&jobs[0].destination, now)
                    && core.take_incoming(envelope.size) =>
            {
                let EntryJob { destination, recipients, .. } = jobs.swap_remove(0);
                let incoming = Incoming { envelope, destination, held: None, recipients };
                accept_incoming(&core, id, incoming, bytes).await
            }
            content => {
                let (staging, bytes) = content.seal(&core, id).await?;
                let shape = Shape::Inline(jobs);
                let body = Body { generation: staging.generation(), key: None };
                let message = Message { envelope, body, warned: false, held, shape };
                let waits = message.held.is_some() || due.is_some();
                let jobs = if waits { Vec::new() } else { jobs_of(id, &message) };
                let jobs = core.claims.claim_new(jobs);
                accept_message(&core, id, &message).await?;
                // Until now it kept the file of the body from being removed.
                drop(staging);
                Ok(Accepted { id, jobs, bytes })
            }
        }
    }
}

impl Content {
    pub(super) fn written(&self) -> u64 {
        match self {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::Staged { written, .. } => *written,
        }
    }

    /// The body durable in a generation; and in memory, when it is.
    pub(super) async fn seal(
        self,
        core: &Core,
        id: QueueId,
    ) -> Result<(Staging, Option<Arc<[u8]>>), StoreError> {
        match self {
            Content::Memory(bytes) => Ok((core.stage_body(id, &bytes).await?, Some(bytes.into()))),
            Content::Staged { mut staging, .. } => {
                staging.seal().await?;
                Ok((*staging, None))
            }
        }
    }
}

/// The fast path: envelope and body side by side in INCOMING, room for it taken.
async fn accept_incoming(
    core: &Core,
    id: QueueId,
    incoming: Incoming,
    bytes: Vec<u8>,
) -> Result<Accepted, StoreError> {
    let size = incoming.envelope.size;
    let batch = incoming_batch(id, &incoming, &bytes);
    let jobs = core.claims.claim_new(vec![incoming.job(id)]);
    let accepted = core.writer.submit(Class::Acknowledged, batch);
    let accepted = match accepted.await {
        Ok(Applied::Committed) => Ok(()),
        Ok(Applied::Conflict(_)) => Err(taken(id)),
        Err(error) => Err(error),
    };
    if let Err(error) = accepted {
        core.give_incoming(size);
        return Err(error);
    }
    Ok(Accepted { id, jobs, bytes: Some(bytes.into()) })
}

fn incoming_batch(id: QueueId, incoming: &Incoming, bytes: &[u8]) -> Batch {
    let key = INCOMING.key(id);
    let mut batch = Batch { checks: vec![Check::Absent(key.clone())], ..Batch::default() };
    batch.puts.push((key, incoming.encode()));
    let mut rest = bytes;
    for (n, length) in incoming_pieces(bytes.len() as u64) {
        let (piece, behind) = rest.split_at(length);
        batch.puts.push((INCOMING_BODY.key((id, n)), piece.to_vec()));
        rest = behind;
    }
    batch.adds.push((COUNT.key(COUNT_INCOMING), 1));
    batch.adds.push((COUNT.key(COUNT_INCOMING_OCTETS), bytes.len() as i64));
    batch.adds.extend(statistics::accepted(&incoming.envelope, false));
    batch
}

/// Everything but the body in one batch; the body is sealed.
async fn accept_message(core: &Core, id: QueueId, message: &Message) -> Result<(), StoreError> {
    let message = message.clone();
    let put = move |read: &dyn Read| {
        let mut edit = Edit::on(read);
        edit.check(Check::Absent(MESSAGE.key(id)));
        edit.enter(id, &message);
        edit.count_all(statistics::accepted(&message.envelope, message.held.is_some()));
        if let (Shape::Inline(jobs), None) = (&message.shape, &message.held) {
            for job in jobs {
                edit.ready(JobId { queue_id: id, number: job.number }, message.term(), job);
            }
        }
        Ok((edit.finish()?, ()))
    };
    core.writer.apply(Class::Acknowledged, 0, put).await
}

async fn accept_list(
    core: &Core,
    id: QueueId,
    content: Content,
    mut staging: ListStaging,
    envelope: Envelope,
    held: Option<String>,
    due: Option<Timestamp>,
) -> Result<Accepted, StoreError> {
    // Two files: neither waits for the other.
    let (recipients, sealed) = tokio::join!(staging.finish(), content.seal(core, id));
    let (recipients, (body_staging, bytes)) = (recipients?, sealed?);
    let list = List {
        recipients,
        jobs: 0,
        open_jobs: 0,
        unfolding: true,
        unreported_since: None,
        // What is made of it is made due then; there is no job before that to be changed.
        sweep: due.map(|due| Sweep { change: Change::Due(due), next: u32::MAX }),
    };
    let body = Body { generation: body_staging.generation(), key: None };
    let message = Message { envelope, body, warned: false, held, shape: Shape::List(list) };
    accept_message(core, id, &message).await?;
    drop(body_staging);
    staging.keep();
    core.leave(Errand::List(id));
    Ok(Accepted { id, jobs: Vec::new(), bytes })
}

/// The jobs of a message: recipients in their order, by destination.
pub(super) fn into_jobs(
    recipients: Vec<(Destination, Recipient)>,
    due: Timestamp,
) -> Vec<EntryJob> {
    let mut by_destination: BTreeMap<Destination, Vec<Recipient>> = BTreeMap::new();
    for (destination, recipient) in recipients {
        by_destination.entry(destination).or_default().push(recipient);
    }
    let fresh = |(number, (destination, recipients))| EntryJob {
        number,
        destination,
        due,
        attempts: 0,
        last_attempt: None,
        status: None,
        recipients,
    };
    (0..).zip(by_destination).map(fresh).collect()
}

fn jobs_of(id: QueueId, message: &Message) -> Vec<Job> {
    let Shape::Inline(jobs) = &message.shape else { return Vec::new() };
    let body = message.body.reference(id);
    let envelope = Arc::new(message.envelope.clone());
    jobs.iter().filter_map(|job| ready_job(id, &envelope, &body, job)).collect()
}

/// I1 would break: an ID is given out once, so this is a defect or a foreign hand in the files.
fn taken(id: QueueId) -> StoreError {
    StoreError::Damaged { what: format!("INCOMING {id}"), detail: "the queue ID is taken".into() }
}
