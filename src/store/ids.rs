//! Queue IDs: each later than every one before, over restarts and whatever the clock does.
//!
//! An ID is max(last + 1, the first of this instant), and below the limit in `META ids` (I1), which is raised
//! [`AHEAD`] at a time and before use: the batch that raises it is queued before any batch that uses an ID below the new limit,
//! and the writer keeps the order. So nobody waits for it. A crash wastes the IDs up to the limit: those given out next lie
//! at most [`AHEAD`] in the future. A clean close leaves the limit directly behind the last ID.

use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::StoreError;
use super::edit::{Edit, load};
use super::engine::EngineError;
use super::schema::{META, META_IDS};
use super::writer::{Class, Pending, Unit, Writer};
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;

/// How far the limit is raised: one small batch in ten seconds, and after a crash IDs at most so far ahead of the clock.
const AHEAD: Duration = Duration::from_secs(10);

/// The source of queue IDs of one open store.
pub struct Ids {
    state: Mutex<State>,
}

struct State {
    last: QueueId,
    /// IDs below it may be used.
    limit: QueueId,
    /// The batch that raises it, while it is not durable.
    raising: Option<Pending>,
}

impl Ids {
    /// Goes on from `limit`, as `META ids` has it: every ID given out so far is below it.
    pub fn new(limit: QueueId) -> Ids {
        // One below: the next is at least `limit`.
        let last = QueueId::from_u64(limit.as_u64().saturating_sub(1));
        Ids { state: Mutex::new(State { last, limit, raising: None }) }
    }

    /// The next ID at `now`.
    ///
    /// # Errors
    /// `Busy`, `Unavailable`, `Closing` of the writer, when the limit has to be raised.
    pub fn next(&self, writer: &Writer, now: Timestamp) -> Result<QueueId, StoreError> {
        let mut state = self.state();
        state.drop_failed_raise();
        let id = state.candidate(now);
        if id >= state.limit {
            let limit = ahead(id);
            state.raising = Some(writer.try_submit(Class::Lazy, raise(limit))?);
            state.limit = limit;
        }
        state.last = id;
        Ok(id)
    }

    /// The next ID at `now`, for a batch in the making: it raises the limit itself.
    ///
    /// # Errors
    /// Of reading the state.
    pub fn next_in(&self, edit: &mut Edit<'_>, now: Timestamp) -> Result<QueueId, StoreError> {
        let mut state = self.state();
        let id = state.candidate(now);
        if id >= state.limit {
            state.limit = ahead(id);
            put_limit(edit, state.limit)?;
        }
        state.last = id;
        Ok(id)
    }

    /// The batch that brings the limit back to the last ID, for a clean close; none when nothing was given out.
    pub fn last_word(&self) -> super::engine::Batch {
        let next = self.state().last.next();
        let mut batch = super::engine::Batch::default();
        batch.puts.push((META.key(META_IDS), super::record::Record::encode(&next.as_u64())));
        batch
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each assignment leaves it consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn candidate(&self, now: Timestamp) -> QueueId {
        self.last.next().max(QueueId::at(now))
    }

    /// A limit that could not be raised is none.
    fn drop_failed_raise(&mut self) {
        let Some(pending) = &mut self.raising else { return };
        match Pin::new(pending).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => {}
            Poll::Ready(Ok(_)) => self.raising = None,
            Poll::Ready(Err(_)) => {
                self.raising = None;
                self.limit = self.last;
            }
        }
    }
}

fn ahead(id: QueueId) -> QueueId {
    QueueId::from_u64(id.as_u64().saturating_add(AHEAD.as_secs() << 32))
}

fn raise(limit: QueueId) -> Unit {
    let late = move |read: &dyn super::engine::Read| {
        let mut edit = Edit::on(read);
        put_limit(&mut edit, limit).map_err(|error| EngineError::Refused(error.to_string()))?;
        edit.finish().map_err(|error| EngineError::Refused(error.to_string()))
    };
    Unit::late(0, Box::new(late))
}

/// Never lower than it stands: a batch that raises it from inside the writer may overtake one that is queued.
fn put_limit(edit: &mut Edit<'_>, limit: QueueId) -> Result<(), StoreError> {
    let stored = load::<_, u64, _>(edit.read(), &META, META_IDS)?.map_or(0, |(stored, _)| stored);
    edit.put(&META, META_IDS, &stored.max(limit.as_u64()));
    Ok(())
}
