//! Long lists: a message with more recipients than MESSAGE carries.
//!
//! *Staging.* While the message arrives, its recipients go in blocks to STAGED, each block under its destination: the order of the keys
//! sorts them, whatever the length of the list. The rows are of nobody until `accept`, which is one small batch for any list.
//!
//! *Unfolding.* Then the keeper turns rows into jobs, one slice after the other: each deletes some rows of STAGED and puts
//! their jobs, so progress is what is left, and a crash goes on from there. Between two slices everybody else's batches are
//! committed.
//!
//! *Damage.* A row of RECIPIENTS that cannot be read stays as it is, for an operator to see, but out of READY: its job is neither tried
//! nor in the way of the others, whatever change is carried through the list. A row of STAGED that cannot be read stays there, and the
//! list unfolding, so that it never ends without those recipients. Both are named by a check. Only a removal takes them away.
//!
//! *Sweeps.* An operator's change to a list (hold, release, reschedule, remove) is one small batch too, and is then carried through
//! the jobs by the keeper in the same way, with the place of the next job in MESSAGE.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::edit::{Edit, describe, load, parse};
use super::engine::{Batch, Check, Key, Read};
use super::keeper::Errand;
use super::key::{self, KeyRange};
use super::message::{Change, List, Message, Shape, Sweep, Term, is_open};
use super::operate::keys_elsewhere;
use super::read::Rows;
use super::record::{Record, damaged};
use super::schema::*;
use super::writer::{Class, Pending};
use super::{Core, StoreError};
use crate::mail::envelope::Recipient;
use crate::mail::job::{Destination, EntryJob, JOB_RECIPIENTS_MAX, JobId};
use crate::mail::loading::Attempts;
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;

/// Recipients of a list in memory while it arrives: a block. Some 100 KiB.
const BLOCK_RECIPIENTS: usize = 1000;
/// Recipients in one row of STAGED. A job takes whole rows, so it divides [`JOB_RECIPIENTS_MAX`].
const ROW_RECIPIENTS: usize = 250;
/// Octets of addresses in one row, and in one job four times that: with reports a job stays well below the largest record.
const ROW_OCTETS: usize = 64 << 10;
const JOB_OCTETS: usize = 4 * ROW_OCTETS;
/// Blocks of one list on their way to the disk.
const BLOCKS_WAITING: usize = 4;
/// Jobs that one slice makes or changes: some milliseconds of the writer's time.
const SLICE_JOBS: usize = 200;
/// Recipients that one slice unfolds: bounds its octets.
const SLICE_RECIPIENTS: usize = 4 * JOB_RECIPIENTS_MAX;
/// Rows of STAGED read at a time: at most 2 MiB.
const READ_ROWS: usize = 32;
/// Rows of STAGED of a message that never came, deleted at a time.
const FORGET_ROWS: usize = 1000;

/// The recipients of a long list on their way in. Dropping it forgets them.
pub(super) struct ListStaging {
    core: Arc<Core>,
    id: QueueId,
    block: BTreeMap<Destination, Vec<Recipient>>,
    /// Recipients in `block`.
    waiting: usize,
    /// Recipients in all.
    total: u32,
    /// Rows of STAGED written.
    rows: u32,
    writing: VecDeque<Pending>,
}

impl ListStaging {
    pub fn new(core: Arc<Core>, id: QueueId) -> ListStaging {
        ListStaging {
            core,
            id,
            block: BTreeMap::new(),
            waiting: 0,
            total: 0,
            rows: 0,
            writing: VecDeque::new(),
        }
    }

    /// One more recipient.
    pub async fn add(
        &mut self,
        destination: Destination,
        recipient: Recipient,
    ) -> Result<(), StoreError> {
        self.block.entry(destination).or_default().push(recipient);
        self.waiting += 1;
        self.total = self.total.checked_add(1).ok_or(StoreError::Full)?;
        if self.waiting >= BLOCK_RECIPIENTS {
            self.write_block().await?;
        }
        Ok(())
    }

    /// Writes what is left and waits for all of it; gives how many there are.
    pub async fn finish(&mut self) -> Result<u32, StoreError> {
        self.write_block().await?;
        while let Some(pending) = self.writing.pop_front() {
            pending.await?;
        }
        Ok(self.total)
    }

    /// All so far that said nothing of reports want one of success too. Rows that are written are changed in slices.
    pub async fn ask_for_receipts(&mut self) -> Result<(), StoreError> {
        self.finish().await?;
        let (id, mut next) = (self.id, Some(STAGED.under(self.id).0));
        while let Some(start) = next {
            let slice = move |read: &dyn Read| receipts_slice(read, id, &start);
            next = self.core.writer.apply(Class::Acknowledged, 0, slice).await?;
        }
        Ok(())
    }

    /// They are of a message now.
    pub fn keep(mut self) {
        self.rows = 0;
    }

    async fn write_block(&mut self) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for (destination, recipients) in std::mem::take(&mut self.block) {
            for row in rows(recipients) {
                let key = STAGED.key((self.id, &destination, self.rows));
                batch.puts.push((key, row.encode()));
                self.rows += 1;
            }
        }
        self.waiting = 0;
        while self.writing.len() >= BLOCKS_WAITING {
            if let Some(pending) = self.writing.pop_front() {
                pending.await?;
            }
        }
        // Somebody waits for the end of the list: as lazy ones they would wait for company, each time.
        self.writing.push_back(self.core.writer.begin(Class::Acknowledged, batch).await?);
        Ok(())
    }
}

impl Drop for ListStaging {
    fn drop(&mut self) {
        if self.rows > 0 {
            self.core.leave(Errand::Staged(self.id));
        }
    }
}

/// Changes some rows from `start` on; where the next slice starts.
fn receipts_slice(
    read: &dyn Read,
    id: QueueId,
    start: &[u8],
) -> Result<(Batch, Option<Key>), StoreError> {
    let (_, end) = STAGED.under(id);
    let rows = read.range(start..&end, READ_ROWS, false)?;
    let next = rows.last().map(|(key, _)| key::after(key.clone()));
    let mut edit = Edit::on(read);
    for (key, value) in rows {
        let mut recipients = Vec::<Recipient>::decode(&value)
            .map_err(|error| damaged(describe("STAGED", &key), error))?;
        for recipient in &mut recipients {
            recipient.notify = recipient.notify.or_receipt();
        }
        edit.put(&STAGED, parse(&STAGED, &key)?, &recipients);
    }
    Ok((edit.finish()?, next))
}

/// Recipients of one destination, cut into rows.
fn rows(recipients: Vec<Recipient>) -> Vec<Vec<Recipient>> {
    let mut rows: Vec<Vec<Recipient>> = Vec::new();
    let mut octets = 0;
    for recipient in recipients {
        let size = octets_of(&recipient);
        match rows.last_mut() {
            Some(row) if row.len() < ROW_RECIPIENTS && octets + size <= ROW_OCTETS => {
                row.push(recipient);
                octets += size;
            }
            _ => {
                rows.push(vec![recipient]);
                octets = size;
            }
        }
    }
    rows
}

fn octets_of(recipient: &Recipient) -> usize {
    recipient.address.as_str().len() + recipient.orcpt.as_ref().map_or(0, String::len)
}

/// Puts recipients that came late (an alias that gave many) behind those of the list `id`, to be unfolded.
pub(super) fn stage_more(
    edit: &mut Edit<'_>,
    id: QueueId,
    recipients: Vec<(Destination, Recipient)>,
) -> Result<u32, StoreError> {
    let mut by_destination: BTreeMap<Destination, Vec<Recipient>> = BTreeMap::new();
    let total = recipients.len() as u32;
    for (destination, recipient) in recipients {
        by_destination.entry(destination).or_default().push(recipient);
    }
    for (destination, recipients) in by_destination {
        // Behind the rows that are there already: block numbers need only differ within a destination.
        let (start, end) = STAGED.under((id, &destination));
        let last = edit.read().keys(&start..&end, 1, true)?;
        let next = match last.first() {
            Some(key) => parse(&STAGED, key)?.2.saturating_add(1),
            None => 0,
        };
        for (n, row) in (next..).zip(rows(recipients)) {
            edit.put(&STAGED, (id, &destination, n), &row);
        }
    }
    Ok(total)
}

impl Core {
    /// Does one slice of what is to be done for a list; whether there is more.
    pub(super) async fn work_on_list(&self, id: QueueId) -> Result<bool, StoreError> {
        let now = self.now();
        let mut strays = Strays::default();
        loop {
            let its = strays.clone();
            let work = move |read: &dyn Read| slice(read, id, &its, now);
            match self.writer.apply(Class::Acknowledged, 0, work).await? {
                Slice::Done { more, emptied } => {
                    if let Some(generation) = emptied {
                        self.leave(Errand::Generation(generation));
                    }
                    return Ok(more);
                }
                // Not in the writer's thread: where else such jobs stand is found by reading the tables as a whole.
                Slice::Unreadable(jobs) => {
                    for job in &jobs {
                        tracing::error!(
                            ?job,
                            "a job of a long list cannot be read; it is set aside"
                        );
                    }
                    let keys = keys_elsewhere(&*self.writer.snapshot()?, |job| jobs.contains(job))?;
                    strays.jobs.extend(jobs);
                    strays.keys.extend(keys);
                }
            }
        }
    }

    /// Deletes some staged rows of a message that never came; whether there are more.
    pub(super) async fn forget_staged(&self, id: QueueId) -> Result<bool, StoreError> {
        let forget = move |read: &dyn Read| {
            let mut edit = Edit::on(read);
            let message = MESSAGE.key(id);
            if read.get(&message)?.is_some() {
                return Ok((Batch::default(), false));
            }
            edit.check(Check::Absent(message));
            let (start, end) = STAGED.under(id);
            let keys = read.keys(&start..&end, FORGET_ROWS, false)?;
            let more = keys.len() == FORGET_ROWS;
            keys.into_iter().for_each(|key| edit.delete_key(key));
            Ok((edit.finish()?, more))
        };
        self.writer.apply(Class::Lazy, 0, forget).await
    }
}

/// Jobs that cannot be read, and where they stand in READY and DEADLINE. Those of one slice of a list.
#[derive(Clone, Default)]
struct Strays {
    jobs: BTreeSet<JobId>,
    keys: Vec<Key>,
}

/// What became of a slice.
enum Slice {
    /// Whether there is more to do, and the generation whose last message this took.
    Done { more: bool, emptied: Option<u32> },
    /// Nothing was done yet: first it is to be found out where these stand.
    Unreadable(BTreeSet<JobId>),
}

/// One slice: of an operator's change first, unless it is about due times, then of unfolding.
fn slice(
    read: &dyn Read,
    id: QueueId,
    strays: &Strays,
    now: Timestamp,
) -> Result<(Batch, Slice), StoreError> {
    let nothing = || Ok((Batch::default(), Slice::Done { more: false, emptied: None }));
    let Some((mut message, before)) = load::<_, Message, _>(read, &MESSAGE, id)? else {
        return nothing();
    };
    let term = message.term();
    let Shape::List(mut list) = message.shape else { return nothing() };
    let mut edit = Edit::on(read);
    edit.check(Check::Equals(MESSAGE.key(id), before));
    // A change of due times waits until the list is unfolded: what is still to be made is due then as well, and what was made before
    // waits for its sweep some moments longer.
    let unfolds_for = match list.sweep {
        Some(Sweep { change: Change::Due(due), .. }) => Some(due),
        Some(_) => None,
        None => Some(now),
    };
    let unfolded = match unfolds_for {
        Some(due) if list.unfolding => unfold_slice(&mut edit, id, &message, &mut list, due)?,
        Some(_) | None => false,
    };
    match list.sweep {
        _ if unfolded => {}
        Some(sweep) => {
            let unknown = sweep_slice(&mut edit, id, term, &mut list, sweep, strays)?;
            if !unknown.is_empty() {
                return Ok((Batch::default(), Slice::Unreadable(unknown)));
            }
        }
        None if list.unfolding => return nothing(),
        None => {}
    }
    message.shape = Shape::List(list);
    let gone = list.is_removed() && list.sweep.is_some_and(|sweep| sweep.next == u32::MAX);
    if gone {
        edit.leave(id, &message);
    } else {
        if !list.is_under_work() {
            edit.delete(&LISTS, id);
        }
        edit.put(&MESSAGE, id, &message);
    }
    let generation = message.body.generation;
    let emptied = edit.empties(generation)?.then_some(generation);
    let more = !gone && list.is_under_work();
    Ok((edit.finish()?, Slice::Done { more, emptied }))
}

/// Carries an operator's change through some jobs. A removal ends with `next` at its maximum when nothing is left. Gives those that
/// cannot be read and are no strays yet: then the edit is not to be used.
fn sweep_slice(
    edit: &mut Edit<'_>,
    id: QueueId,
    term: Term,
    list: &mut List,
    sweep: Sweep,
    strays: &Strays,
) -> Result<BTreeSet<JobId>, StoreError> {
    let first = JobId { queue_id: id, number: sweep.next };
    let range = RECIPIENTS.starting_at(first, RECIPIENTS.under(id));
    let rows = read_range(edit, &range, SLICE_JOBS)?;
    let full = rows.len() == SLICE_JOBS;
    let mut next = sweep.next;
    let mut unknown = BTreeSet::new();
    edit.delete_elsewhere(&strays.keys);
    for (key, value) in rows {
        let Ok(job_id) = RECIPIENTS.parse(&key) else {
            // It is no job: nothing else names it.
            if let Change::Remove = sweep.change {
                edit.delete_key(key);
            }
            continue;
        };
        next = job_id.number.saturating_add(1);
        let Ok(mut job) = EntryJob::decode(&value) else {
            if !strays.jobs.contains(&job_id) {
                unknown.insert(job_id);
            } else if let Change::Remove = sweep.change {
                edit.delete_key(key);
                edit.delete(&UNREPORTED, job_id);
            }
            continue;
        };
        edit.unready(job_id, term, &job);
        match sweep.change {
            Change::Rest => {}
            Change::Due(due) => {
                if is_open(&job) {
                    job.due = due;
                    edit.put(&RECIPIENTS, job_id, &job);
                    edit.ready(job_id, term, &job);
                }
            }
            Change::Remove => {
                edit.delete(&RECIPIENTS, job_id);
                edit.delete(&UNREPORTED, job_id);
            }
        }
    }
    if full {
        // Whatever the rows are, the next slice goes on behind this one.
        next = next.max(sweep.next.saturating_add(1));
    }
    let staged_left = match sweep.change {
        Change::Remove if !full => remove_staged(edit, id)?,
        Change::Remove | Change::Rest | Change::Due(_) => false,
    };
    list.sweep = match sweep.change {
        _ if full || staged_left => Some(Sweep { next, ..sweep }),
        Change::Remove => Some(Sweep { next: u32::MAX, ..sweep }),
        Change::Rest | Change::Due(_) => None,
    };
    Ok(unknown)
}

/// Deletes some staged rows; whether there may be more.
fn remove_staged(edit: &mut Edit<'_>, id: QueueId) -> Result<bool, StoreError> {
    let (start, end) = STAGED.under(id);
    let keys = edit.read().keys(&start..&end, FORGET_ROWS, false)?;
    let more = keys.len() == FORGET_ROWS;
    keys.into_iter().for_each(|key| edit.delete_key(key));
    Ok(more)
}

fn read_range(edit: &Edit<'_>, range: &KeyRange, limit: usize) -> Result<Rows, StoreError> {
    Ok(edit.read().range(&range.0..&range.1, limit, false)?)
}

/// Turns some rows of STAGED into jobs. A slice ends where a job does. False when nothing is left but what cannot be read.
fn unfold_slice(
    edit: &mut Edit<'_>,
    id: QueueId,
    message: &Message,
    list: &mut List,
    due: Timestamp,
) -> Result<bool, StoreError> {
    let mut range = STAGED.under(id);
    let progress = progress(edit.read(), id)?;
    let mut made = Made::after(list.jobs, due, progress.clone().unwrap_or_default());
    let (mut ended, mut unreadable) = (false, false);
    'rows: while !ended {
        let rows = read_range(edit, &range, READ_ROWS)?;
        ended = rows.len() < READ_ROWS;
        for (key, value) in rows {
            let Some((destination, row)) = staged(&key, &value) else {
                tracing::error!(row = describe("STAGED", &key), "cannot be read; it stays");
                unreadable = true;
                range.0 = key::after(key);
                continue;
            };
            if let Err(row) = made.join(&destination, row) {
                if made.is_full(row.len()) {
                    ended = false;
                    break 'rows;
                }
                made.begin(destination, row);
            }
            range.0 = key::after(key.clone());
            edit.delete_key(key);
        }
    }
    if made.jobs.is_empty() && unreadable {
        return Ok(false);
    }
    list.unfolding = !ended || unreadable;
    if !list.unfolding && progress.is_some() {
        edit.delete(&PROGRESS, id);
    }
    list.jobs = list.jobs.saturating_add(made.jobs.len() as u32);
    for job in made.jobs {
        let job_id = JobId { queue_id: id, number: job.number };
        edit.put(&RECIPIENTS, job_id, &job);
        if is_open(&job) {
            list.open_jobs += 1;
            if message.held.is_none() {
                edit.ready(job_id, message.term(), &job);
            }
        }
    }
    Ok(true)
}

/// Attempts made before it was loaded.
fn progress(read: &dyn Read, id: QueueId) -> Result<Option<Attempts>, StoreError> {
    match load::<_, Attempts, _>(read, &PROGRESS, id) {
        Ok(progress) => Ok(progress.map(|(progress, _)| progress)),
        // No mail hangs on it: attempts made elsewhere count for nothing then.
        Err(error @ StoreError::Damaged { .. }) => {
            tracing::error!(%error, "attempts made before it was loaded are not known");
            Ok(Some(Attempts::default()))
        }
        Err(error) => Err(error),
    }
}

/// A row of STAGED; none when it cannot be read.
fn staged(key: &[u8], value: &[u8]) -> Option<(Destination, Vec<Recipient>)> {
    let (_, destination, _) = STAGED.parse(key).ok()?;
    Some((destination, Vec::<Recipient>::decode(value).ok()?))
}

/// The jobs that the recipients still in STAGED will be in, numbered behind those there are, after `after`, up to `limit`. Where a job
/// ends does not depend on the slices, so they are these jobs at every step of unfolding, unless an alias adds to the list meanwhile.
/// Rows are read from the first on, for their numbers; one job after the other is in memory.
pub(super) fn staged_jobs(
    read: &dyn Read,
    id: QueueId,
    list: &List,
    due: Timestamp,
    after: Option<u32>,
    limit: usize,
) -> Result<Vec<EntryJob>, StoreError> {
    let mut made = Made::after(list.jobs, due, progress(read, id)?.unwrap_or_default());
    let (mut start, end) = STAGED.under(id);
    loop {
        let rows = read.range(&start..&end, READ_ROWS, false)?;
        let ended = rows.len() < READ_ROWS;
        for (key, value) in rows {
            let Some((destination, row)) = staged(&key, &value) else {
                start = key::after(key);
                continue;
            };
            if let Err(row) = made.join(&destination, row) {
                made.jobs.retain(|job| Some(job.number) > after);
                if made.jobs.len() >= limit {
                    return Ok(made.jobs);
                }
                made.begin(destination, row);
            }
            start = key::after(key);
        }
        if ended {
            made.jobs.retain(|job| Some(job.number) > after);
            return Ok(made.jobs);
        }
    }
}

/// Jobs made of rows of STAGED.
struct Made {
    /// Of the next one.
    number: u32,
    jobs: Vec<EntryJob>,
    /// Octets of addresses in the last one.
    octets: usize,
    /// Recipients in all of them.
    recipients: usize,
    due: Timestamp,
    /// Made before it was loaded.
    attempts: Attempts,
}

impl Made {
    fn after(number: u32, due: Timestamp, attempts: Attempts) -> Made {
        Made { number, jobs: Vec::new(), octets: 0, recipients: 0, due, attempts }
    }

    /// Puts a row into the last job; gives it back when that has no room or another destination.
    fn join(
        &mut self,
        destination: &Destination,
        mut row: Vec<Recipient>,
    ) -> Result<(), Vec<Recipient>> {
        let octets: usize = row.iter().map(octets_of).sum();
        match self.jobs.last_mut() {
            Some(job)
                if job.destination == *destination
                    && job.recipients.len() + row.len() <= JOB_RECIPIENTS_MAX
                    && self.octets + octets <= JOB_OCTETS =>
            {
                self.octets += octets;
                self.recipients += row.len();
                job.recipients.append(&mut row);
                Ok(())
            }
            _ => Err(row),
        }
    }

    /// Whether a slice has no room for a job that begins with so many recipients.
    fn is_full(&self, recipients: usize) -> bool {
        let too_many = self.recipients + recipients > SLICE_RECIPIENTS;
        self.jobs.len() == SLICE_JOBS || (too_many && !self.jobs.is_empty())
    }

    /// Puts a row into a new job.
    fn begin(&mut self, destination: Destination, row: Vec<Recipient>) {
        self.octets = row.iter().map(octets_of).sum();
        self.recipients += row.len();
        self.jobs.push(EntryJob {
            number: self.number,
            destination,
            due: self.due,
            attempts: self.attempts.count,
            last_attempt: self.attempts.last,
            status: self.attempts.status.clone(),
            recipients: row,
        });
        self.number += 1;
    }
}
