//! Reads: what is due, what is there, how much. Each answer comes from one snapshot of the last committed state.
//!
//! A slice is read at a time and the snapshot let go, so a slow reader holds no pages back; the next slice comes from a
//! newer state, in the same order. Counts are kept, not counted.
//!
//! What cannot be read hides nothing behind it: a message, or a job of a long list, shows with the reason; a row of an index that is no key
//! of ours is passed over (a check names it).

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use super::edit::{counter, first_parsed, load, parsed, some_parsed};
use super::engine::{Key, Read, Value};
use super::key;
use super::list;
use super::message::{DestinationRow, Incoming, Message, Shape, is_open, unreported_since};
use super::record::{Record, RecordError};
use super::schema::*;
use super::{Counts, DestinationState, Store, StoreError};
use crate::mail::address::ReversePath;
use crate::mail::envelope::{BodyType, Envelope, TimeoutClass};
use crate::mail::job::{BodyRef, Destination, Entry, EntryJob, Job, JobId, Mailer};
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;

/// No stored time further ahead is believed: a clock that was wrong must not put mail to sleep. Longer than any wait a queue is
/// configured for, a week (`-q1w`) included.
pub const FARTHEST: Duration = Duration::from_secs(8 * 86_400);

/// The longest that the wait of a destination is stretched to, of its length.
const STRETCHED_PERCENT: u128 = 110;

/// Rows of a table.
pub(super) type Rows = Vec<(Key, Value)>;
/// What is due with its time, oldest first; and the time of the next one that is not yet.
pub type Due<T> = (Vec<(Timestamp, T)>, Option<Timestamp>);

/// Messages with something unreported and since when; and the last message looked at, none at the end.
pub type Unreported = (Vec<(QueueId, Timestamp)>, Option<QueueId>);

/// What a time further ahead than [`FARTHEST`] means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Far {
    /// A clock was wrong, or a queue without an interval wrote "never by itself": tried now.
    Due,
    /// "Never by itself", to a queue without an interval: left to explicit runs.
    Never,
}

impl Store {
    /// Destinations that may be tried at `now`, oldest agenda time first, up to `limit`; and the time of the next one after.
    /// Those whose time is absurdly far ahead ([`FARTHEST`]) come last and count as due, or are left out, as `far` says.
    ///
    /// # Errors
    /// `Damaged`, `Unavailable`.
    pub fn agenda(
        &self,
        now: Timestamp,
        far: Far,
        limit: usize,
    ) -> Result<Due<Destination>, StoreError> {
        let snapshot = self.core().writer.snapshot()?;
        let (start, end) = AGENDA.all();
        let (_, due_end) = AGENDA.under(now);
        let believed = AGENDA.under(now.after(FARTHEST)).1;
        let mut due = snapshot.keys(&start..&due_end, limit, false)?;
        if far == Far::Due {
            due.extend(snapshot.keys(&believed..&end, limit - due.len().min(limit), false)?);
        }
        let next = first_parsed(&*snapshot, &AGENDA, (due_end, believed))?;
        Ok((parsed(&AGENDA, due).collect(), next.map(|(time, _)| time)))
    }

    /// READY jobs of a destination due at `now`, in order, after `after`, up to `limit`; and the due time of the next one.
    /// A time absurdly far ahead ([`FARTHEST`]) counts as due, or does not, as `far` says. Jobs whose records turned out to be damaged
    /// are left out.
    ///
    /// # Errors
    /// `Damaged`, `Unavailable`.
    pub fn ready(
        &self,
        destination: &Destination,
        now: Timestamp,
        far: Far,
        after: Option<(Timestamp, JobId)>,
        limit: usize,
    ) -> Result<Due<JobId>, StoreError> {
        let snapshot = self.core().writer.snapshot()?;
        let (mut start, end) = READY.under(destination);
        let (_, due_end) = READY.under((destination, now));
        let mut believed = READY.under((destination, now.after(FARTHEST))).1;
        if let Some((due, job)) = after {
            start = key::after(READY.key((destination, due, job)));
        }
        let mut jobs = Vec::new();
        let next = first_parsed(&*snapshot, &READY, (due_end.clone(), believed.clone()))?;
        self.not_quarantined(&*snapshot, (start.clone(), due_end), limit, &mut jobs)?;
        if far == Far::Due {
            believed = believed.max(start);
            self.not_quarantined(&*snapshot, (believed, end), limit, &mut jobs)?;
        }
        Ok((jobs, next.map(|(_, due, _)| due)))
    }

    /// Reads on in READY until there are `limit` jobs: fewer mean that there are no more. Those set aside are passed over, however
    /// many there are, so that they never hide what is behind them.
    fn not_quarantined(
        &self,
        read: &dyn Read,
        (mut start, end): key::KeyRange,
        limit: usize,
        jobs: &mut Vec<(Timestamp, JobId)>,
    ) -> Result<(), StoreError> {
        while start < end && jobs.len() < limit {
            let wanted = limit - jobs.len();
            let keys = read.keys(&start..&end, wanted, false)?;
            let Some(last) = keys.last() else { break };
            start = key::after(last.clone());
            let quarantined = self.core().quarantine.lock().unwrap_or_else(PoisonError::into_inner);
            let ready = parsed(&READY, keys).filter(|(_, _, job)| !quarantined.contains(job));
            jobs.extend(ready.map(|(_, due, job)| (due, job)));
        }
        Ok(())
    }

    /// INCOMING jobs in order of arrival after `after`, without held ones and those that cannot be read (those [`Store::list`] shows).
    /// Up to `limit` rows are read; fewer jobs than that may come even if there are more: go on after the last, until none comes.
    ///
    /// # Errors
    /// `Unavailable`.
    pub fn incoming(&self, after: Option<QueueId>, limit: usize) -> Result<Vec<Job>, StoreError> {
        let snapshot = self.core().writer.snapshot()?;
        let (mut start, end) = start_after(&INCOMING, after);
        let mut jobs = Vec::new();
        // As long as a slice gives none, though there are rows: an empty answer means the end.
        loop {
            let rows = snapshot.range(&start..&end, limit, false)?;
            let Some((last, _)) = rows.last() else { return Ok(jobs) };
            start = key::after(last.clone());
            for (key, value) in &rows {
                match Incoming::decode(value) {
                    Ok(incoming) if incoming.held.is_none() => {
                        jobs.extend(INCOMING.parse(key).ok().map(|id| incoming.job(id)));
                    }
                    Ok(_) | Err(_) => {}
                }
            }
            if !jobs.is_empty() {
                return Ok(jobs);
            }
        }
    }

    /// Jobs of a destination whose messages are of this class and arrived at or before `before`, oldest first, after `after`. With
    /// `warned`, those of whom nothing but giving up is left to judge; else those whose senders may still be warned. Jobs of held
    /// messages are not among them.
    ///
    /// # Errors
    /// `Damaged`, `Unavailable`.
    pub fn overdue(
        &self,
        destination: &Destination,
        class: TimeoutClass,
        warned: bool,
        before: Timestamp,
        after: Option<(Timestamp, JobId)>,
        limit: usize,
    ) -> Result<Vec<(Timestamp, JobId)>, StoreError> {
        let snapshot = self.core().writer.snapshot()?;
        let (mut start, _) = DEADLINE.under((destination, class, warned));
        let (_, end) = DEADLINE.under((destination, class, warned, before));
        if let Some((arrival, job)) = after {
            start = key::after(DEADLINE.key((destination, class, warned, arrival, job)));
        }
        if start >= end {
            return Ok(Vec::new());
        }
        let keys = some_parsed(&*snapshot, &DEADLINE, (start, end), limit)?;
        Ok(keys.into_iter().map(|(_, _, _, arrival, job)| (arrival, job)).collect())
    }

    /// The jobs of a destination whose message was to be delivered by a time up to `until` (DELIVERBY), in order of that time, after
    /// `after`.
    ///
    /// # Errors
    /// `Damaged`, `Unavailable`.
    pub fn overdue_by(
        &self,
        destination: &Destination,
        until: Timestamp,
        after: Option<(Timestamp, JobId)>,
        limit: usize,
    ) -> Result<Vec<(Timestamp, JobId)>, StoreError> {
        let snapshot = self.core().writer.snapshot()?;
        let (mut start, _) = BY.under(destination);
        let (_, end) = BY.under((destination, until));
        if let Some((time, job)) = after {
            start = key::after(BY.key((destination, time, job)));
        }
        if start >= end {
            return Ok(Vec::new());
        }
        let keys = snapshot.keys(&start..&end, limit, false)?;
        Ok(parsed(&BY, keys).map(|(_, time, job)| (time, job)).collect())
    }

    /// Messages with something unreported, in queue-ID order after `after`, and since when. Up to `limit` are looked at; with the last
    /// one, none at the end. Held ones are not among them.
    ///
    /// # Errors
    /// `Damaged`, `Unavailable`.
    pub fn unreported(
        &self,
        after: Option<QueueId>,
        limit: usize,
    ) -> Result<Unreported, StoreError> {
        let snapshot = self.core().writer.snapshot()?;
        let (mut start, end) = UNREPORTED.all();
        let mut last = after;
        let mut found = Vec::new();
        for _ in 0..limit {
            if let Some(id) = last {
                start = UNREPORTED.under(id).1;
            }
            let Some(job) = first_parsed(&*snapshot, &UNREPORTED, (start.clone(), end.clone()))?
            else {
                return Ok((found, None));
            };
            let id = job.queue_id;
            last = Some(id);
            let message = match load::<_, Message, _>(&*snapshot, &MESSAGE, id) {
                Ok(Some((message, _))) if message.held.is_none() => message,
                // One that cannot be read shows as held.
                Ok(_) | Err(StoreError::Damaged { .. }) => continue,
                Err(error) => return Err(error),
            };
            let since = match message.shape {
                Shape::Inline(jobs) => jobs.iter().filter_map(unreported_since).min(),
                Shape::List(list) => list.unreported_since,
            };
            found.extend(since.map(|since| (id, since)));
        }
        Ok((found, last))
    }

    /// Messages in queue-ID order after `after`, INCOMING and scheduled through one iterator. A record that cannot be read shows as
    /// a held message with the reason.
    ///
    /// # Errors
    /// `Unavailable`.
    pub fn list(&self, after: Option<QueueId>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let snapshot = self.core().writer.snapshot()?;
        let read: &dyn Read = &*snapshot;
        let mut entries = Vec::with_capacity(limit.min(1000));
        let mut shown = Shown::of(self, read);
        let mut after = after;
        while entries.len() < limit {
            let wanted = limit - entries.len();
            let (rows, last) = merged(read, after, wanted)?;
            for row in rows {
                entries.extend(shown.entry(row)?);
            }
            let Some(last) = last else { break };
            after = Some(last);
        }
        Ok(entries)
    }

    /// The highest queue ID in the queue; none when it is empty.
    ///
    /// # Errors
    /// `Damaged`, `Unavailable`.
    pub fn newest(&self) -> Result<Option<QueueId>, StoreError> {
        let snapshot = self.core().writer.snapshot()?;
        let last = |table: &key::Table<QueueId>| -> Result<Option<QueueId>, StoreError> {
            let (start, mut end) = table.all();
            while let Some(key) = snapshot.keys(&start..&end, 1, true)?.pop() {
                match table.parse(&key) {
                    Ok(id) => return Ok(Some(id)),
                    Err(_) => end = key,
                }
            }
            Ok(None)
        };
        Ok(last(&INCOMING)?.max(last(&MESSAGE)?))
    }

    /// The held messages in queue-ID order after `after`: without looking at any other. Those of INCOMING are not among them.
    ///
    /// # Errors
    /// `Damaged`, `Unavailable`.
    pub fn held(&self, after: Option<QueueId>, limit: usize) -> Result<Vec<QueueId>, StoreError> {
        let snapshot = self.core().writer.snapshot()?;
        some_parsed(&*snapshot, &HELD, start_after(&HELD, after), limit)
    }

    /// One message.
    ///
    /// # Errors
    /// `Unavailable`.
    pub fn entry(&self, id: QueueId) -> Result<Option<Entry>, StoreError> {
        let snapshot = self.core().writer.snapshot()?;
        let read: &dyn Read = &*snapshot;
        let incoming = read.get(&INCOMING.key(id))?.map(|value| Row::Incoming(id, value));
        let row = match incoming {
            Some(row) => Some(row),
            None => read.get(&MESSAGE.key(id))?.map(|value| Row::Message(id, value)),
        };
        let Some(row) = row else { return Ok(None) };
        Shown::of(self, read).entry(row)
    }

    /// The jobs of a message in order of their numbers after `after`; of a long list those that are unfolded and have something left
    /// to do or to say. A job of a list whose record cannot be read has the reason for its status, and no recipients.
    ///
    /// # Errors
    /// `Damaged`, `Unavailable`.
    pub fn jobs(
        &self,
        id: QueueId,
        after: Option<u32>,
        limit: usize,
    ) -> Result<Vec<EntryJob>, StoreError> {
        self.some_jobs(id, after, limit, false)
    }

    /// As [`Store::jobs`], and of a list that is still unfolding also the jobs to come, under the numbers they will have: read page by
    /// page they name each recipient once, however far unfolding gets between two pages. For whoever reads; there is nothing to
    /// claim or to change of a job to come.
    ///
    /// # Errors
    /// `Damaged`, `Unavailable`.
    pub fn all_jobs(
        &self,
        id: QueueId,
        after: Option<u32>,
        limit: usize,
    ) -> Result<Vec<EntryJob>, StoreError> {
        self.some_jobs(id, after, limit, true)
    }

    fn some_jobs(
        &self,
        id: QueueId,
        after: Option<u32>,
        limit: usize,
        to_come: bool,
    ) -> Result<Vec<EntryJob>, StoreError> {
        let snapshot = self.core().writer.snapshot()?;
        let read: &dyn Read = &*snapshot;
        let is_after = |job: &EntryJob| after.is_none_or(|after| job.number > after);
        if let Some((incoming, _)) = load::<_, Incoming, _>(read, &INCOMING, id)? {
            let job = Some(incoming.entry_job());
            return Ok(job.into_iter().filter(is_after).take(limit).collect());
        }
        let message = load::<_, Message, _>(read, &MESSAGE, id)?.map(|(message, _)| message);
        let Some(message) = message.filter(|message| !message.is_removed()) else {
            return Ok(Vec::new());
        };
        let mut jobs: Vec<EntryJob> = match &message.shape {
            Shape::Inline(jobs) => {
                jobs.iter().filter(|job| is_after(job)).take(limit).cloned().collect()
            }
            Shape::List(_) => list_jobs(read, id, after, limit)?,
        };
        if let Shape::List(list) = &message.shape
            && to_come
            && list.unfolding
            && jobs.len() < limit
        {
            let (due, room) = (self.core().now(), limit - jobs.len());
            jobs.extend(list::staged_jobs(read, id, list, due, after, room)?);
        }
        let mut shown = Shown::of(self, read);
        for job in &mut jobs {
            shown.fill(id, message.envelope.arrival, job)?;
        }
        Ok(jobs)
    }

    /// Whether jobs are still being made of the message's list.
    ///
    /// # Errors
    /// `Damaged`, `Unavailable`.
    pub fn unfolds(&self, id: QueueId) -> Result<bool, StoreError> {
        let snapshot = self.core().writer.snapshot()?;
        let message = load::<_, Message, _>(&*snapshot, &MESSAGE, id)?;
        let is_unfolding = |message: &Message| match &message.shape {
            Shape::List(list) => list.unfolding,
            Shape::Inline(_) => false,
        };
        Ok(message.is_some_and(|(message, _)| is_unfolding(&message)))
    }

    /// Exact totals, at once.
    ///
    /// # Errors
    /// `Damaged`, `Unavailable`.
    pub fn counts(&self) -> Result<Counts, StoreError> {
        let snapshot = self.core().writer.snapshot()?;
        let number = |name: &str| -> Result<u64, StoreError> {
            Ok(u64::try_from(counter(&*snapshot, &COUNT.key(name))?).unwrap_or(0))
        };
        let incoming = number(COUNT_INCOMING)?;
        Ok(Counts {
            messages: incoming + number(COUNT_MESSAGE)?,
            incoming,
            held: number(COUNT_HELD)? + number(COUNT_INCOMING_HELD)?,
            octets: number(COUNT_INCOMING_OCTETS)? + number(COUNT_MESSAGE_OCTETS)?,
        })
    }
}

fn list_jobs(
    read: &dyn Read,
    id: QueueId,
    after: Option<u32>,
    limit: usize,
) -> Result<Vec<EntryJob>, StoreError> {
    let (mut start, end) = RECIPIENTS.under(id);
    if let Some(number) = after {
        start = key::after(RECIPIENTS.key(JobId { queue_id: id, number }));
    }
    let job = |(key, value): (Key, Value)| {
        let number = RECIPIENTS.parse(&key).ok()?.number;
        Some(EntryJob::decode(&value).unwrap_or_else(|error| unreadable_job(number, &error)))
    };
    // As long as a slice gives none, though there are rows: an empty answer means the end.
    loop {
        let rows = read.range(&start..&end, limit, false)?;
        let Some((last, _)) = rows.last() else { return Ok(Vec::new()) };
        start = key::after(last.clone());
        let jobs: Vec<EntryJob> = rows.into_iter().filter_map(job).collect();
        if !jobs.is_empty() {
            return Ok(jobs);
        }
    }
}

/// What stands for a job whose record cannot be read, so that people see that there is one.
fn unreadable_job(number: u32, error: &RecordError) -> EntryJob {
    EntryJob {
        number,
        destination: Destination { mailer: Mailer::Esmtp, next_hop: String::new() },
        due: Timestamp::MAX,
        attempts: 0,
        last_attempt: None,
        status: Some(format!("damaged record: {error}")),
        recipients: Vec::new(),
    }
}

fn start_after(table: &key::Table<QueueId>, after: Option<QueueId>) -> key::KeyRange {
    let (start, end) = table.all();
    (after.map_or(start, |id| key::after(table.key(id))), end)
}

/// A row of one of the two tables of messages.
enum Row {
    Incoming(QueueId, Value),
    Message(QueueId, Value),
}

impl Row {
    fn id(&self) -> QueueId {
        match self {
            Row::Incoming(id, _) | Row::Message(id, _) => *id,
        }
    }
}

/// Rows of both tables in queue-ID order after `after`, up to `limit`; and the last ID looked at, unless both are at their ends.
fn merged(
    read: &dyn Read,
    after: Option<QueueId>,
    limit: usize,
) -> Result<(Vec<Row>, Option<QueueId>), StoreError> {
    let rows = |table: &key::Table<QueueId>| -> Result<Vec<(QueueId, Value)>, StoreError> {
        let (mut start, end) = start_after(table, after);
        let mut found = Vec::new();
        loop {
            let wanted = limit - found.len();
            let rows = read.range(&start..&end, wanted, false)?;
            let is_last = rows.len() < wanted;
            if let Some((last, _)) = rows.last() {
                start = key::after(last.clone());
            }
            let named = |(key, value): (Key, Value)| Some((table.parse(&key).ok()?, value));
            found.extend(rows.into_iter().filter_map(named));
            if is_last || found.len() == limit {
                return Ok(found);
            }
        }
    };
    let (incoming, scheduled) = (rows(&INCOMING)?, rows(&MESSAGE)?);
    let mut merged = Vec::with_capacity(limit.min(incoming.len() + scheduled.len()));
    let mut incoming = incoming.into_iter().peekable();
    let mut scheduled = scheduled.into_iter().peekable();
    while merged.len() < limit {
        let incoming_first = match (incoming.peek(), scheduled.peek()) {
            (Some((a, _)), Some((b, _))) => a < b,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => break,
        };
        merged.extend(match incoming_first {
            true => incoming.next().map(|(id, value)| Row::Incoming(id, value)),
            false => scheduled.next().map(|(id, value)| Row::Message(id, value)),
        });
    }
    let full = merged.len() == limit;
    let last = merged.last().map(Row::id).filter(|_| full);
    Ok((merged, last))
}

/// The job as it is shown, and tried: with the failures of its destination.
pub(super) fn with_failures(
    store: &Store,
    read: &dyn Read,
    id: QueueId,
    arrival: Timestamp,
    mut job: EntryJob,
) -> Result<EntryJob, StoreError> {
    Shown::of(store, read).fill(id, arrival, &mut job)?;
    Ok(job)
}

/// Makes entries of rows, with what stands elsewhere: the status of destinations, and claims.
struct Shown<'a> {
    store: &'a Store,
    read: &'a dyn Read,
    /// Of this slice: what is kept of destinations found down.
    troubles: HashMap<Destination, Option<DestinationState>>,
    any_claims: bool,
}

impl<'a> Shown<'a> {
    fn of(store: &'a Store, read: &'a dyn Read) -> Shown<'a> {
        let any_claims = store.core().claims.any();
        Shown { store, read, troubles: HashMap::new(), any_claims }
    }

    /// The entry of a row; none for a list that is being removed.
    fn entry(&mut self, row: Row) -> Result<Option<Entry>, StoreError> {
        let id = row.id();
        let in_flight = self.any_claims && self.store.core().claims.in_flight(id);
        let entry = match row {
            Row::Incoming(id, value) => match Incoming::decode(&value) {
                Ok(incoming) => {
                    let jobs = vec![incoming.entry_job()];
                    let Incoming { envelope, held, .. } = incoming;
                    Entry {
                        id,
                        envelope,
                        held,
                        warned: false,
                        body: BodyRef::Incoming(id),
                        recipients_total: jobs[0].recipients.len() as u32,
                        jobs,
                        lost: false,
                        in_flight,
                    }
                }
                Err(error) => unreadable(id, BodyRef::Incoming(id), &error),
            },
            Row::Message(id, value) => match Message::decode(&value) {
                Ok(message) if message.is_removed() => return Ok(None),
                Ok(message) => self.scheduled(id, message, in_flight)?,
                Err(error) => {
                    let body = BodyRef::Generation { generation: 0, key: id };
                    unreadable(id, body, &error)
                }
            },
        };
        Ok(Some(entry))
    }

    fn scheduled(
        &mut self,
        id: QueueId,
        message: Message,
        in_flight: bool,
    ) -> Result<Entry, StoreError> {
        let recipients_total = message.recipients_total();
        let body = message.body.reference(id);
        let Message { envelope, warned, held, shape, .. } = message;
        let mut jobs = match shape {
            Shape::Inline(jobs) => jobs,
            Shape::List(_) => Vec::new(),
        };
        for job in &mut jobs {
            self.fill(id, envelope.arrival, job)?;
        }
        let lost = false;
        Ok(Entry { id, envelope, held, warned, body, jobs, recipients_total, lost, in_flight })
    }

    /// What its destination as such met stands in one row for all its jobs. So a job without a status of its own shows its
    /// destination's, and the failures of that since the job last met something of its own are attempts of the job.
    fn fill(
        &mut self,
        id: QueueId,
        arrival: Timestamp,
        job: &mut EntryJob,
    ) -> Result<(), StoreError> {
        if !is_open(job) {
            return Ok(());
        }
        if !self.troubles.contains_key(&job.destination) {
            let row = match load::<_, DestinationRow, _>(self.read, &DEST, &job.destination) {
                Ok(row) => row,
                // This is for people; the damage shows where the row is needed.
                Err(StoreError::Damaged { .. }) => None,
                Err(error) => return Err(error),
            };
            let state = row.map(|(row, _)| row.state).filter(|state| state.last.is_some());
            self.troubles.insert(job.destination.clone(), state);
        }
        let Some(Some(state)) = self.troubles.get(&job.destination) else { return Ok(()) };
        let Some(last) = &state.last else { return Ok(()) };
        job.status.get_or_insert_with(|| format!("Deferred: {}", last.text));
        // A job that was never attempted was there when its destination failed with the clock of its arrival. A loaded message is
        // older than its name, and what it met before that it brought with it.
        let here = arrival.max(id.time()).before(Duration::from_millis(1));
        let since = job.last_attempt.map_or(here, |last| last.max(here));
        let failures = failures_since(state, last.at, since);
        if failures > 0 {
            job.attempts = job.attempts.saturating_add(failures);
            job.last_attempt = Some(last.at);
        }
        Ok(())
    }
}

/// How often the destination failed after `since`: all its failures in a row, or of those as many as its present wait goes into the time.
/// An estimate for what arrived between two of them: waits grow (MaxQueueAge), explicit runs do not wait.
fn failures_since(state: &DestinationState, last: Timestamp, since: Timestamp) -> u32 {
    if last <= since {
        return 0;
    }
    // Each wait is stretched a little, so that not all come back together.
    let wait = (state.not_before.since(last).as_millis() * 100 / STRETCHED_PERCENT).max(1);
    let before = last.since(since).as_millis() / wait;
    u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1).min(state.failures)
}

/// What stands for a message whose record cannot be read, so that people see it and can remove it.
fn unreadable(id: QueueId, body: BodyRef, error: &RecordError) -> Entry {
    let envelope = Envelope {
        reverse_path: ReversePath::Null,
        arrival: id.time(),
        relay: String::new(),
        protocol: String::new(),
        body_type: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        timeouts: TimeoutClass::Normal,
        precedence: 0,
        priority: 0,
        message_id: String::new(),
        header_len: 0,
        size: 0,
        body_lines: 0,
        relay_override: None,
        deliver_by: None,
    };
    Entry {
        id,
        envelope,
        held: Some(format!("damaged record: {error}")),
        warned: false,
        body,
        jobs: Vec::new(),
        recipients_total: 0,
        lost: true,
        in_flight: false,
    }
}
