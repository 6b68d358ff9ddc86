//! Delivery: what the queue and its deliveries ask of one job between its due time and its settle.

use std::sync::Arc;

use super::claims::Claim;
use super::edit::{Edit, load};
use super::engine::{Batch, Read};
use super::message::{Body, Incoming, Message, Shape, is_open, job_with};
use super::park::{self, Opened};
use super::schema::*;
use super::writer::Class;
use super::{Store, StoreError};
use crate::mail::envelope::RecipientState;
use crate::mail::job::{BodyRef, Destination, EntryJob, Job, JobId};
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;

/// Where a job was read before it is claimed.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// Of a message that was not attempted yet.
    Incoming,
    /// Among the jobs of its destination, due then.
    Ready(&'a Destination, Timestamp),
    /// Wherever: it is to be tried whenever it is due.
    Anywhere,
}

impl Store {
    /// As [`Store::claim`], if the job still stands where it was found. A settle that became durable between the reading and the claim has
    /// moved it: it was tried just now.
    ///
    /// # Errors
    /// `Unavailable`.
    pub fn claim_found(&self, id: JobId, found: Found<'_>) -> Result<Option<Claim>, StoreError> {
        let Some(claim) = self.claim(id) else { return Ok(None) };
        let key = match found {
            Found::Incoming => INCOMING.key(id.queue_id),
            Found::Ready(destination, due) => READY.key((destination, due, id)),
            Found::Anywhere => return Ok(Some(claim)),
        };
        Ok(self.core().writer.snapshot()?.get(&key)?.map(|_| claim))
    }

    /// The job in one's hands: nobody else gets it until the claim is dropped and the settle of it is durable. None when it is
    /// in flight. What was read before may be out of date: read [`Store::job`] again with the claim in hand.
    pub fn claim(&self, id: JobId) -> Option<Claim> {
        self.core().claims.claim(id)
    }

    /// The job as it is now, with its open recipients; failures of its destination are among its attempts. None when it is settled,
    /// removed, or its message held.
    ///
    /// # Errors
    /// `Damaged` when its record cannot be read: it is not offered by [`Store::ready`] any more. `Unavailable`.
    pub fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        let job = self.find_job(id).map(|job| job.filter(|job| !job.recipients.is_empty()));
        if let Err(StoreError::Damaged { .. }) = &job {
            self.core().quarantine(id);
        }
        job
    }

    /// As [`Store::job`], also a job without an open recipient: it is there because something of it is unreported.
    ///
    /// # Errors
    /// As [`Store::job`].
    pub fn job_or_owed(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.find_job(id)
    }

    /// Whether the file of this body is being checked, after a crash or an error of the disk: then reading it waits.
    pub fn is_body_in_check(&self, body: &BodyRef) -> bool {
        match body {
            BodyRef::Generation { generation, .. } => self.core().bodies.is_in_check(*generation),
            BodyRef::Incoming(_) => false,
        }
    }

    /// As if the file of this body were being checked, until that is taken back.
    #[cfg(test)]
    pub(crate) fn hold_body_check(&self, body: &BodyRef, held: bool) {
        if let BodyRef::Generation { generation, .. } = body {
            self.core().bodies.hold_check(*generation, held);
        }
    }

    fn find_job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        let snapshot = self.core().writer.snapshot()?;
        let read: &dyn Read = &*snapshot;
        let queue_id = id.queue_id;
        if let Some((incoming, _)) = load::<_, Incoming, _>(read, &INCOMING, queue_id)? {
            let is_it = id.number == 0 && incoming.held.is_none();
            return Ok(is_it.then(|| incoming.job(queue_id)));
        }
        let Some((message, _)) = load::<_, Message, _>(read, &MESSAGE, queue_id)? else {
            return Ok(None);
        };
        if message.held.is_some() || message.is_removed() {
            return Ok(None);
        }
        let Some(job) = job_of(read, id, &message)? else { return Ok(None) };
        let job = super::read::with_failures(self, read, queue_id, message.envelope.arrival, job)?;
        let body = message.body.reference(queue_id);
        Ok(Some(job_with(queue_id, &Arc::new(message.envelope), &body, &job)))
    }

    /// The octets of a message from `offset` on: the next up to 64 KiB, empty at the end. Follows a message that has left INCOMING, and
    /// a body that was moved.
    ///
    /// # Errors
    /// `Damaged` when the body is not there or cannot be read, `Unavailable`.
    pub async fn read_body(&self, body: &BodyRef, offset: u64) -> Result<Vec<u8>, StoreError> {
        let core = self.core();
        let (mut generation, key) = match body {
            BodyRef::Generation { generation, key } => (*generation, *key),
            BodyRef::Incoming(id) => {
                let snapshot = core.writer.snapshot()?;
                if let Some(bytes) = park::incoming_body(&*snapshot, *id, usize::MAX)? {
                    return Ok(slice_at(&bytes, offset));
                }
                let message = load::<_, Message, _>(&*snapshot, &MESSAGE, *id)?;
                let gone = || StoreError::Damaged {
                    what: format!("body of {id}"),
                    detail: "the message is gone".into(),
                };
                let Body { generation, key } = message.ok_or_else(gone)?.0.body;
                (generation, key.unwrap_or(*id))
            }
        };
        loop {
            match core.bodies.read(generation, key, offset).await {
                // Its file may be gone because the body was moved out of it.
                Err(error @ StoreError::Damaged { .. }) => {
                    generation = core.moved_body(generation, key)?.ok_or(error)?;
                }
                read => return read,
            }
        }
    }

    /// Makes these states of recipients durable in mid-job, before the next transaction of the same job. A job that is gone (an operator
    /// removed its message) is no error.
    ///
    /// The last open recipient of a job is closed by its settle, not here: a crash in between would leave a job that is neither
    /// attempted nor settled (I3, I7). So of states that would close the job one is left out, a failed one if there is one.
    ///
    /// # Errors
    /// `Full`, `Unavailable`, `Damaged`, `Closing`: what the peer took may be sent again after a crash.
    pub async fn checkpoint(
        &self,
        id: JobId,
        states: Vec<(u32, RecipientState)>,
    ) -> Result<(), StoreError> {
        let core = self.core();
        // Rows of INCOMING have fresh recipients only (I2): the message moves first. Then its body waits in a generation.
        let staging = core.stage_one(id.queue_id).await?;
        let body = staging.as_ref().map(park::body_of);
        let mark = match &staging {
            // INCOMING was its mark; what leaves it in mid-attempt needs one of its own.
            Some(_) if core.claims.mark(id) => Some(core.stops_before(id, true)),
            _ => None,
        };
        let freed = core
            .writer
            .apply(Class::Acknowledged, 0, move |read| checkpoint(read, id, body, &states, mark))
            .await?;
        core.give_incoming(freed);
        Ok(())
    }
}

/// Up to 64 KiB from `offset` on.
fn slice_at(bytes: &[u8], offset: u64) -> Vec<u8> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let end = bytes.len().min(start + super::body::READ_MAX);
    bytes[start..end].to_vec()
}

/// One job of a message, wherever it stands.
pub(super) fn job_of(
    read: &dyn Read,
    id: JobId,
    message: &Message,
) -> Result<Option<EntryJob>, StoreError> {
    match &message.shape {
        Shape::Inline(jobs) => Ok(jobs.iter().find(|job| job.number == id.number).cloned()),
        Shape::List(_) => Ok(load(read, &RECIPIENTS, id)?.map(|(job, _)| job)),
    }
}

/// Puts these states into the job. The verdicts of peers name recipients by their place in the job; a place that is not
/// there is a defect of ours.
pub(super) fn set_states(job: &mut EntryJob, states: &[(u32, RecipientState)]) {
    for (place, state) in states {
        let recipient = job.recipients.get_mut(*place as usize);
        recipient.expect("states are of recipients of the job").state = state.clone();
    }
}

fn checkpoint(
    read: &dyn Read,
    id: JobId,
    body: Option<Body>,
    states: &[(u32, RecipientState)],
    mark: Option<u64>,
) -> Result<(Batch, u64), StoreError> {
    let mut edit = Edit::on(read);
    let queue_id: QueueId = id.queue_id;
    let Some(Opened { mut message, moved }) = park::open(&mut edit, queue_id, body)? else {
        return Ok((Batch::default(), 0));
    };
    let Some(mut job) = job_of(read, id, &message)? else { return Ok((Batch::default(), 0)) };
    if !is_open(&job) {
        return Ok((Batch::default(), 0));
    }
    let before = job.clone();
    set_states(&mut job, states);
    if !is_open(&job) {
        keep_one_open(&mut job, &before);
    }
    if moved && message.held.is_none() {
        edit.ready(id, message.term(), &job);
    }
    super::jobs::put_job(&mut edit, queue_id, &mut message, job)?;
    if let Some(stops) = mark.filter(|_| moved) {
        edit.put(&INFLIGHT, id, &stops);
    }
    let freed = if moved { message.envelope.size } else { 0 };
    park::put(&mut edit, queue_id, &message, moved);
    Ok((edit.finish()?, freed))
}

/// Takes back the closing of one recipient that was open before.
fn keep_one_open(job: &mut EntryJob, before: &EntryJob) {
    let was_open = |place: &usize| before.recipients[*place].state.is_open();
    let has_failed =
        |place: &usize| matches!(job.recipients[*place].state, RecipientState::Failed { .. });
    let closed = || (0..before.recipients.len()).filter(was_open);
    if let Some(place) = closed().find(has_failed).or_else(|| closed().next_back()) {
        job.recipients[place].state = before.recipients[place].state.clone();
    }
}
