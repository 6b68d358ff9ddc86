//! Destinations and hosts: what is known of them, and the one AGENDA key of each destination.

use super::edit::{Edit, first_parsed, load};
use super::engine::{Batch, Read};
use super::key;
use super::message::{DestinationRow, Incoming, Shape, is_open};
use super::park::{self, Opened};
use super::record::Record;
use super::schema::*;
use super::slot::Slot;
use super::writer::Class;
use super::{DestinationState, Store, StoreError};
use crate::mail::job::{Destination, JobId};
use crate::mail::outcome::HostOutcome;
use crate::mail::time::Timestamp;

/// Hosts looked at, and at most forgotten, by one batch.
const PURGE_SLICE: usize = 500;

impl Store {
    /// What is kept of a destination; none, too, when that cannot be read: then it is asked once more.
    ///
    /// # Errors
    /// `Unavailable`.
    pub fn destination(
        &self,
        destination: &Destination,
    ) -> Result<Option<DestinationState>, StoreError> {
        let snapshot = self.core().writer.snapshot()?;
        Ok(known(&*snapshot, destination)?.map(|row| row.state))
    }

    /// Destinations found down at their last attempt as such, in order, after `after`. Up to `limit` rows are read; with the
    /// last one read, none at the end.
    ///
    /// # Errors
    /// `Damaged`, `Unavailable`.
    pub fn in_trouble(
        &self,
        after: Option<&Destination>,
        limit: usize,
    ) -> Result<(Vec<Destination>, Option<Destination>), StoreError> {
        let snapshot = self.core().writer.snapshot()?;
        let (mut start, end) = DEST.all();
        if let Some(after) = after {
            start = key::after(DEST.key(after));
        }
        let rows = snapshot.range(&start..&end, limit, false)?;
        let (mut found, mut last) = (Vec::new(), None);
        for (key, value) in rows {
            let Ok(destination) = DEST.parse(&key) else { continue };
            last = Some(destination.clone());
            if DestinationRow::decode(&value).is_ok_and(|row| row.state.last.is_some()) {
                found.push(destination);
            }
        }
        Ok((found, last))
    }

    /// The destination could not be reached: `next` makes its new state of the present one, or none when there is nothing new. It is
    /// asked in the writer's thread, so no failure is counted twice or not at all. Durable; gives the state there is then. The row
    /// goes when no READY job is left.
    ///
    /// # Errors
    /// `Full`, `Unavailable`, `Closing`.
    pub async fn destination_failed(
        &self,
        destination: &Destination,
        mut next: impl FnMut(Option<&DestinationState>) -> Option<DestinationState> + Send + 'static,
    ) -> Result<Option<DestinationState>, StoreError> {
        let core = self.core();
        let name = destination.clone();
        let failed = move |read: &dyn Read| {
            let before = known(read, &name)?.map(|row| row.state);
            match next(before.as_ref()) {
                Some(state) => Ok((set(read, &name, Some(&state))?, Some(state))),
                None => Ok((Batch::default(), before)),
            }
        };
        let state = core.writer.apply(Class::Acknowledged, 0, failed).await?;
        if let Some(state) = &state {
            core.remember(destination, state.not_before, core.now());
        }
        Ok(state)
    }

    /// The destination was tried or found down: new state, and its one AGENDA key moves to
    /// max(`not_before`, its earliest READY job); the row goes when no READY job is left. Lazy, in the order of the calls: settle
    /// the jobs of an attempt first, else a destination whose first job is about to be deferred has no row yet.
    ///
    /// # Errors
    /// `Unavailable`, `Closing`.
    pub async fn set_destination(
        &self,
        destination: &Destination,
        state: DestinationState,
    ) -> Result<(), StoreError> {
        let core = self.core();
        core.remember(destination, state.not_before, core.now());
        let destination = destination.clone();
        let set = move |read: &dyn Read| Ok((set(read, &destination, Some(&state))?, ()));
        // Nobody waits for it: should it fail, the older state stands, and the host is asked once more.
        core.writer.begin(Class::Lazy, Slot::new().unit(0, set)).await.map(drop)
    }

    /// Moves the destination's AGENDA key to max(`not_before`, its earliest READY job), by what the row says when the
    /// batch is made: a state on its way to the disk is not undone. False when the key stands there already, and then
    /// nothing is written. Lazy.
    ///
    /// # Errors
    /// `Damaged`, `Unavailable`, `Closing`.
    pub async fn advance_agenda(&self, destination: &Destination) -> Result<bool, StoreError> {
        let core = self.core();
        if advanced(&*core.writer.snapshot()?, destination)?.is_none() {
            return Ok(false);
        }
        let destination = destination.clone();
        let advance = move |read: &dyn Read| match advanced(read, &destination)? {
            Some(state) => Ok((set(read, &destination, Some(&state))?, ())),
            None => Ok((Batch::default(), ())),
        };
        // Nobody waits for it: a key that stays early costs one look.
        core.writer.begin(Class::Lazy, Slot::new().unit(0, advance)).await.map(|_| true)
    }

    /// Host status, by the name connected to. Lazy.
    ///
    /// # Errors
    /// `Busy`, `Unavailable`, `Closing`.
    pub fn set_host(&self, outcome: HostOutcome) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        batch.puts.push((HOST.key(&outcome.host), outcome.encode()));
        self.core().writer.try_submit(Class::Lazy, batch).map(drop)
    }

    /// What is remembered of one host.
    ///
    /// # Errors
    /// `Damaged`, `Unavailable`.
    pub fn host(&self, name: &str) -> Result<Option<HostOutcome>, StoreError> {
        let key = HOST.key(name);
        let value = self.core().writer.snapshot()?.get(&key)?;
        let damaged = |error| super::record::damaged(super::edit::describe("HOST", &key), error);
        value.map(|value| HostOutcome::decode(&value).map_err(damaged)).transpose()
    }

    /// Every host status, in order of name, after `after`.
    ///
    /// # Errors
    /// `Damaged`, `Unavailable`.
    pub fn hosts(&self, after: Option<&str>, limit: usize) -> Result<Vec<HostOutcome>, StoreError> {
        let snapshot = self.core().writer.snapshot()?;
        let (mut start, end) = HOST.all();
        if let Some(after) = after {
            start = key::after(HOST.key(after));
        }
        let rows = snapshot.range(&start..&end, limit, false)?;
        let decode = |(key, value): (Vec<u8>, Vec<u8>)| {
            HostOutcome::decode(&value)
                .map_err(|error| super::record::damaged(super::edit::describe("HOST", &key), error))
        };
        rows.into_iter().map(decode).collect()
    }

    /// Forgets hosts not heard of since `before`. Durable. Gives how many.
    ///
    /// # Errors
    /// `Full`, `Damaged`, `Unavailable`, `Closing`: some slices may be done.
    pub async fn purge_hosts(&self, before: Timestamp) -> Result<u64, StoreError> {
        let mut after: Option<String> = None;
        let mut purged = 0;
        loop {
            let page = self.hosts(after.as_deref(), PURGE_SLICE)?;
            let Some(last) = page.last() else { return Ok(purged) };
            after = Some(last.host.clone());
            let old = page.into_iter().filter(|host| host.at < before);
            let old: Vec<String> = old.map(|host| host.host).collect();
            if !old.is_empty() {
                let forget = move |read: &dyn Read| forget_hosts(read, &old, before);
                purged += self.core().writer.apply(Class::Acknowledged, 0, forget).await?;
            }
        }
    }

    /// A job's destination is another one now (routing changed): re-keys it, due at once, as somebody was about to try it. A job that is
    /// gone or closed is left alone. Durable.
    ///
    /// # Errors
    /// `Full`, `Damaged`, `Unavailable`, `Closing`.
    pub async fn reroute(&self, id: JobId, to: Destination) -> Result<(), StoreError> {
        let now = self.core().now();
        let reroute = move |read: &dyn Read| {
            let batch = reroute(read, id, &to, now)?;
            let moves = !batch.puts.is_empty();
            Ok((batch, moves))
        };
        if self.core().writer.apply(Class::Acknowledged, 0, reroute).await? {
            // Whoever looks at AGENDA does not expect it to be due there.
            self.core().readied.notify_one();
        }
        Ok(())
    }
}

/// Those of `hosts` that still have not been heard of since `before` go.
fn forget_hosts(
    read: &dyn Read,
    hosts: &[String],
    before: Timestamp,
) -> Result<(Batch, u64), StoreError> {
    let mut edit = Edit::on(read);
    let mut forgotten = 0;
    for name in hosts {
        let host = load::<_, HostOutcome, _>(read, &HOST, name.as_str())?;
        if host.is_some_and(|(host, _)| host.at < before) {
            edit.delete(&HOST, name.as_str());
            forgotten += 1;
        }
    }
    Ok((edit.finish()?, forgotten))
}

/// The state of a destination whose AGENDA key does not stand where it should; none when it does, or there is no such row.
fn advanced(
    read: &dyn Read,
    destination: &Destination,
) -> Result<Option<DestinationState>, StoreError> {
    if read.get(&DEST.key(destination))?.is_none() {
        return Ok(None);
    }
    // One that cannot be read is written anew.
    let Some(row) = known(read, destination)? else {
        return Ok(Some(DestinationRow::fresh().state));
    };
    let due = first_parsed(read, &READY, READY.under(destination))?.map(|(_, due, _)| due);
    let wanted = due.map(|due| due.max(row.state.not_before));
    Ok((row.agenda != wanted).then_some(row.state))
}

/// Puts the state, or keeps the one there is, and moves the AGENDA key to where it belongs.
fn set(
    read: &dyn Read,
    destination: &Destination,
    state: Option<&DestinationState>,
) -> Result<Batch, StoreError> {
    let mut edit = Edit::on(read);
    let mut row = edit.destination(destination)?.unwrap_or_else(DestinationRow::fresh);
    if let Some(state) = state {
        row.state = state.clone();
    }
    match first_parsed(read, &READY, READY.under(destination))? {
        Some((_, due, _)) => {
            let next = due.max(row.state.not_before);
            edit.move_agenda(destination, &mut row, Some(next));
            edit.put(&DEST, destination, &row);
        }
        None => {
            edit.move_agenda(destination, &mut row, None);
            edit.delete(&DEST, destination);
        }
    }
    edit.finish()
}

/// The row of a destination; none when there is none, or it cannot be read.
fn known(read: &dyn Read, destination: &Destination) -> Result<Option<DestinationRow>, StoreError> {
    match load(read, &DEST, destination) {
        Ok(row) => Ok(row.map(|(row, _)| row)),
        Err(StoreError::Damaged { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn reroute(
    read: &dyn Read,
    id: JobId,
    to: &Destination,
    now: Timestamp,
) -> Result<Batch, StoreError> {
    let mut edit = Edit::on(read);
    let queue_id = id.queue_id;
    if let Some((mut incoming, before)) = load::<_, Incoming, _>(read, &INCOMING, queue_id)? {
        edit.check(super::engine::Check::Equals(INCOMING.key(queue_id), before));
        incoming.destination = to.clone();
        edit.put(&INCOMING, queue_id, &incoming);
        return edit.finish();
    }
    let Some(Opened { mut message, .. }) = park::open(&mut edit, queue_id, None)? else {
        return Ok(Batch::default());
    };
    let Some(mut job) = super::delivery::job_of(read, id, &message)? else {
        return Ok(Batch::default());
    };
    if is_open(&job) {
        edit.unready(id, message.term(), &job);
        job.destination = to.clone();
        job.due = job.due.min(now);
        if message.held.is_none() {
            edit.ready(id, message.term(), &job);
        }
    }
    job.destination = to.clone();
    super::jobs::put_job(&mut edit, queue_id, &mut message, job)?;
    if let Shape::Inline(_) = message.shape {
        edit.put(&MESSAGE, queue_id, &message);
    }
    edit.finish()
}
