//! What is in flight, durably: so that after an unclean stop what may arrive twice can be named, and what stops us can be found.
//!
//! Fresh mail pays nothing for it: a row of INCOMING *is* the mark of its attempt. A scheduled job, and a message that was in
//! INCOMING at an unclean stop already, gets a row in INFLIGHT before its attempt ([`Store::begin`]); the settle's batch deletes it,
//! and the keeper does when the job is let go otherwise. The row holds at how many unclean stops the job was in
//! flight before. A clean close deletes all rows; an unclean stop leaves those of the attempts under way, and META `open`.
//!
//! A job that was in flight at [`ALONE`] unclean stops is attempted while no other such job is, so that what really stops us does not
//! take innocent neighbours with it to the third.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::edit::{load, parsed};
use super::engine::{Batch, Read};
use super::keeper::Errand;
use super::key;
use super::record::Record;
use super::schema::*;
use super::writer::Class;
use super::{Core, Store, StoreError};
use crate::mail::job::{BodyRef, Job, JobId};
use crate::mail::queue_id::QueueId;

/// Unclean stops after which a job is attempted alone.
const ALONE: u64 = 2;
/// Rows read at a time.
const SLICE: usize = 1000;

/// What the process before this one had in flight when it ended without closing the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupted {
    /// Messages of INCOMING below it were there then, and an attempt at each may have been under way.
    pub before: QueueId,
    /// Scheduled jobs in flight, with the unclean stops each was in flight at, this one included.
    pub jobs: Vec<(JobId, u64)>,
    /// [`Store::forget_interrupted`] was called.
    pub is_named: bool,
}

/// An attempt that may send now. Dropping it lets the next of those begin that are attempted alone.
pub struct Begun {
    _alone: Option<OwnedMutexGuard<()>>,
}

/// What is known of the process before, and of the jobs it had in flight.
pub(super) struct InterruptedState {
    /// None after a clean close.
    before: Option<QueueId>,
    stops: BTreeMap<JobId, u64>,
    is_named: bool,
    alone: Arc<Mutex<()>>,
}

impl InterruptedState {
    /// Reads it; `before` is above every queue ID of that process, none when it closed the store.
    pub fn read(read: &dyn Read, before: Option<QueueId>) -> Result<InterruptedState, StoreError> {
        let mut stops = BTreeMap::new();
        let (mut start, end) = INFLIGHT.all();
        loop {
            let keys = read.keys(&start..&end, SLICE, false)?;
            let Some(last) = keys.last() else { break };
            start = key::after(last.clone());
            for id in parsed(&INFLIGHT, keys) {
                // A number that cannot be read is no reason not to start.
                let before = load::<_, u64, _>(read, &INFLIGHT, id).ok().flatten();
                stops.insert(id, before.map_or(0, |(before, _)| before).saturating_add(1));
            }
        }
        Ok(InterruptedState { is_named: before.is_none(), before, stops, alone: Arc::default() })
    }
}

/// How a job that was let go without a settle loses its mark.
pub(super) fn unmark_later(errands: &UnboundedSender<Errand>) -> Box<dyn Fn(JobId) + Send + Sync> {
    let errands = errands.clone();
    Box::new(move |id| {
        // Without a keeper the store is closing, and that deletes all marks.
        let _ = errands.send(Errand::Unmark(id));
    })
}

impl Store {
    /// What the process before had in flight; none when it closed the store.
    pub fn interrupted(&self) -> Option<Interrupted> {
        let state = self.core().interrupted();
        let jobs = state.stops.iter().map(|(id, stops)| (*id, *stops)).collect();
        state.before.map(|before| Interrupted { before, jobs, is_named: state.is_named })
    }

    /// What was in flight is named in the log: its marks are deleted. Durable. Before the first attempt of a process.
    ///
    /// # Errors
    /// `Full`, `Unavailable`, `Closing`: it is named once more at the next start.
    pub async fn forget_interrupted(&self) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        batch.delete_ranges.push(INFLIGHT.all());
        self.core().writer.submit(Class::Acknowledged, batch).await?;
        self.core().interrupted().is_named = true;
        Ok(())
    }

    /// An attempt at this claimed job begins: that is durable on return, and only then may anything be sent.
    ///
    /// # Errors
    /// `Full`, `Unavailable`, `Closing`: it must not begin.
    pub async fn begin(&self, job: &Job) -> Result<Begun, StoreError> {
        let core = self.core();
        let is_incoming = matches!(job.body, BodyRef::Incoming(_));
        let stops = core.stops_before(job.id, is_incoming);
        if is_incoming && stops == 0 {
            return Ok(Begun { _alone: None });
        }
        let alone = Arc::clone(&core.interrupted().alone);
        let alone = if stops >= ALONE { Some(alone.lock_owned().await) } else { None };
        core.claims.mark(job.id);
        let mut batch = Batch::default();
        batch.puts.push((INFLIGHT.key(job.id), stops.encode()));
        core.writer.submit(Class::Acknowledged, batch).await?;
        Ok(Begun { _alone: alone })
    }
}

impl Core {
    /// At how many unclean stops the job was in flight.
    pub(super) fn stops_before(&self, id: JobId, is_incoming: bool) -> u64 {
        let state = self.interrupted();
        let was_incoming = is_incoming && state.before.is_some_and(|before| id.queue_id < before);
        state.stops.get(&id).copied().unwrap_or(u64::from(was_incoming))
    }

    /// The job's mark is durably gone: its attempt has ended in order.
    pub(super) fn attempt_ended(&self, id: JobId) {
        if self.claims.is_marked(id) {
            self.interrupted().stops.remove(&id);
            self.claims.unmarked(id);
        }
    }

    /// Deletes the mark of a job that was let go without a settle, and lets others have the job.
    pub(super) async fn unmark(&self, id: JobId) {
        let mut batch = Batch::default();
        batch.deletes.push(INFLIGHT.key(id));
        match self.writer.begin(Class::Lazy, batch).await {
            // Later batches come behind this one, so nobody's new mark is deleted by it.
            Ok(_) => self.attempt_ended(id),
            // The job stays where it is until the next start, which names it.
            Err(error) => tracing::warn!(%error, job = ?id, "a mark stays"),
        }
    }

    /// Makes the last batch of a process that of a clean close: unless the log does not yet name what was in flight before.
    pub(super) fn close_cleanly(&self, batch: &mut Batch) {
        if self.interrupted().is_named {
            batch.deletes.push(META.key(META_OPEN));
            batch.delete_ranges.push(INFLIGHT.all());
        }
    }

    fn interrupted(&self) -> MutexGuard<'_, InterruptedState> {
        // Each change leaves it consistent.
        self.interrupted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
