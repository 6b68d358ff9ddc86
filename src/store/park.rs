//! From INCOMING to the schedule: the body into a generation first, then everything else in one batch.
//!
//! It happens at the first deferral (`settle.rs`), before a checkpoint or an operator's change, and here: for jobs whose destination is
//! known to be down, without an attempt, in groups. A crash before the batch leaves the message in INCOMING, as it was.
//!
//! The batch is lazy: it waits for company. Whoever has something to commit himself that builds on it does not wait twice: he begins
//! ([`Store::begin_park`]), asks for his own, which takes the batch along, and then waits ([`Parking::durable`]).

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use super::body::Staging;
use super::edit::{Edit, load, parse};
use super::engine::{Batch, Check, Read};
use super::message::{Body, Incoming, Message, Shape};
use super::schema::*;
use super::slot::Slot;
use super::writer::{Class, Pending};
use super::{Core, Store, StoreError};
use crate::mail::job::JobId;
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;

/// Messages moved by one batch: their bodies are in memory meanwhile, at most 6 MiB, and share the commits of both files.
const GROUP: usize = 64;

/// A message in MESSAGE, or on its way there in this edit.
pub(super) struct Opened {
    /// As it is before the change.
    pub message: Message,
    /// It stood in INCOMING: its rows there are deleted, those of MESSAGE are still to be put ([`Opened::put`]).
    pub moved: bool,
}

/// The message for a change: in MESSAGE, or moved there out of INCOMING, with its body in `body`. None when it is gone (or in INCOMING
/// and no body given).
pub(super) fn open(
    edit: &mut Edit<'_>,
    id: QueueId,
    body: Option<Body>,
) -> Result<Option<Opened>, StoreError> {
    if let Some((message, before)) = load::<_, Message, _>(edit.read(), &MESSAGE, id)? {
        if message.is_removed() {
            return Ok(None);
        }
        edit.check(Check::Equals(MESSAGE.key(id), before));
        return Ok(Some(Opened { message, moved: false }));
    }
    let Some(body) = body else { return Ok(None) };
    let Some((incoming, before)) = load::<_, Incoming, _>(edit.read(), &INCOMING, id)? else {
        return Ok(None);
    };
    edit.check(Check::Equals(INCOMING.key(id), before));
    edit.delete_incoming(id, &incoming.envelope, incoming.held.is_some());
    let job = incoming.entry_job();
    let Incoming { envelope, held, .. } = incoming;
    let message = Message { envelope, body, warned: false, held, shape: Shape::Inline(vec![job]) };
    Ok(Some(Opened { message, moved: true }))
}

/// Puts a changed message; `enter` when its rows are not there yet.
pub(super) fn put(edit: &mut Edit<'_>, id: QueueId, message: &Message, enter: bool) {
    if enter {
        edit.enter(id, message);
        return;
    }
    edit.put(&MESSAGE, id, message);
    if let Shape::List(list) = &message.shape
        && list.is_under_work()
    {
        edit.mark(&LISTS, id);
    }
}

/// The body of an INCOMING message, up to `limit` octets; none when it is not in INCOMING.
pub(super) fn incoming_body(
    read: &dyn Read,
    id: QueueId,
    limit: usize,
) -> Result<Option<Vec<u8>>, StoreError> {
    let (start, end) = INCOMING_BODY.under(id);
    let mut body = Vec::new();
    for (n, (key, piece)) in (0u32..).zip(read.range(&start..&end, usize::MAX, false)?) {
        if parse(&INCOMING_BODY, &key)?.1 != n {
            return Err(missing_piece(id, n));
        }
        body.extend_from_slice(&piece);
        if body.len() >= limit {
            body.truncate(limit);
            return Ok(Some(body));
        }
    }
    Ok(if body.is_empty() { None } else { Some(body) })
}

fn missing_piece(id: QueueId, n: u32) -> StoreError {
    StoreError::Damaged {
        what: format!("INCOMING_BODY {id}"),
        detail: format!("piece {n} is missing"),
    }
}

/// Messages on their way to the schedule: what is asked of the store from now on finds them there, unless their batch fails.
#[must_use = "they may be moved or not until it is durable"]
pub struct Parking {
    core: Arc<Core>,
    groups: Vec<Moving>,
}

struct Moving {
    /// Octets freed in INCOMING.
    slot: Slot<u64>,
    pending: Pending,
    /// Keep the files of the bodies until the messages name them.
    _staged: Vec<(QueueId, Staging)>,
}

impl Parking {
    /// Returns when all of them have moved, durably; those not in INCOMING any more were left alone.
    ///
    /// # Errors
    /// `Full`, `Unavailable`, `Closing`: some groups may have moved.
    pub async fn durable(self) -> Result<(), StoreError> {
        for Moving { slot, pending, _staged } in self.groups {
            self.core.give_incoming(slot.take(pending.await)?);
        }
        Ok(())
    }
}

impl Store {
    /// As [`Store::park`], without waiting until it is durable.
    ///
    /// # Errors
    /// As [`Store::park`].
    pub async fn begin_park(&self, jobs: Vec<JobId>) -> Result<Parking, StoreError> {
        let ids: Vec<QueueId> = jobs.into_iter().map(|job| job.queue_id).collect();
        self.core().begin_parking(&ids).await
    }

    /// Moves INCOMING jobs whose destination is known to be down to the scheduled form without an attempt. In groups; what is not in
    /// INCOMING any more is left alone. Returns when it is durable; a crash before leaves them in INCOMING.
    ///
    /// # Errors
    /// `Full`, `Unavailable`, `Closing`: some groups may have moved.
    pub async fn park(&self, jobs: Vec<JobId>) -> Result<(), StoreError> {
        let ids: Vec<QueueId> = jobs.into_iter().map(|job| job.queue_id).collect();
        self.core().park_all(&ids).await
    }
}

impl Core {
    /// Moves those of the messages that are in INCOMING to the schedule, due now; held ones stay held.
    pub(super) async fn park_all(self: &Arc<Self>, ids: &[QueueId]) -> Result<(), StoreError> {
        for ids in ids.chunks(GROUP) {
            self.begin_parking(ids).await?.durable().await?;
        }
        Ok(())
    }

    /// As [`Core::park_all`]; the batches are queued, in order.
    pub(super) async fn begin_parking(
        self: &Arc<Self>,
        ids: &[QueueId],
    ) -> Result<Parking, StoreError> {
        let mut groups = Vec::new();
        for ids in ids.chunks(GROUP) {
            let staged = self.stage_incoming(ids).await?;
            if staged.is_empty() {
                continue;
            }
            let bodies: Vec<(QueueId, Body)> =
                staged.iter().map(|(id, staging)| (*id, body_of(staging))).collect();
            let now = self.now();
            let slot = Slot::new();
            let unit = slot.unit(0, move |read: &dyn Read| move_group(read, &bodies, now));
            let pending = self.writer.begin(Class::Lazy, unit).await?;
            groups.push(Moving { slot, pending, _staged: staged });
        }
        Ok(Parking { core: Arc::clone(self), groups })
    }

    /// The bodies of those that are in INCOMING, durable in a generation.
    async fn stage_incoming(&self, ids: &[QueueId]) -> Result<Vec<(QueueId, Staging)>, StoreError> {
        let mut bodies = Vec::new();
        {
            let snapshot = self.writer.snapshot()?;
            for id in ids {
                if let Some(body) = incoming_body(&*snapshot, *id, usize::MAX)? {
                    bodies.push((*id, body));
                }
            }
        }
        let stage = |(id, body): (QueueId, Vec<u8>)| async move {
            self.stage_body(id, &body).await.map(|staging| (id, staging))
        };
        join(bodies.into_iter().map(stage)).await.into_iter().collect()
    }

    /// The body of one message of INCOMING, durable in a generation; none when it is not there any more.
    pub(super) async fn stage_one(&self, id: QueueId) -> Result<Option<Staging>, StoreError> {
        Ok(self.stage_incoming(&[id]).await?.pop().map(|(_, staging)| staging))
    }
}

pub(super) fn body_of(staging: &Staging) -> Body {
    Body { generation: staging.generation(), key: None }
}

/// Moves those that are still in INCOMING; gives the octets this frees there.
fn move_group(
    read: &dyn Read,
    bodies: &[(QueueId, Body)],
    now: Timestamp,
) -> Result<(Batch, u64), StoreError> {
    let mut edit = Edit::on(read);
    let mut octets = 0;
    for (id, body) in bodies {
        let Some(Opened { mut message, moved: true }) = open(&mut edit, *id, Some(*body))? else {
            continue;
        };
        octets += message.envelope.size;
        let (is_held, term) = (message.held.is_some(), message.term());
        if let Shape::Inline(jobs) = &mut message.shape {
            for job in jobs {
                job.due = now;
                if !is_held {
                    edit.ready(JobId { queue_id: *id, number: job.number }, term, job);
                }
            }
        }
        edit.enter(*id, &message);
    }
    Ok((edit.finish()?, octets))
}

/// Drives all of them together, so that they share commits.
pub(super) async fn join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(|future| (Some(Box::pin(future)), None)).collect();
    std::future::poll_fn(|context| {
        let mut pending = false;
        for (future, output) in &mut futures {
            let Some(running) = future else { continue };
            match Pin::new(running).poll(context) {
                Poll::Ready(value) => {
                    *output = Some(value);
                    *future = None;
                }
                Poll::Pending => pending = true,
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    futures.into_iter().filter_map(|(_, output)| output).collect()
}
