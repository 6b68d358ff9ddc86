//! Verification of the invariants of `schema.rs`, by number, on one snapshot of a live store.
//!
//! It walks every table in slices, keeping sums and one slice in memory, and says what is broken: it changes nothing. What a
//! message implies is looked up from the message; what stands in an index is looked up from the index; so both too few
//! and too many are found.

use std::collections::BTreeMap;

use super::edit::{counter, describe, incoming_pieces, load};
use super::engine::{Key, Read, Value};
use super::key::{self, Decode, KeyRange, Table};
use super::message::{
    Change, DestinationRow, Incoming, List, Message, Shape, Sweep, is_open, unreported_since,
};
use super::record::Record;
use super::schema::*;
use super::{Store, StoreError};
use crate::mail::envelope::{Recipient, TimeoutClass};
use crate::mail::job::{Destination, EntryJob, JobId};
use crate::mail::loading::Attempts;
use crate::mail::outcome::HostOutcome;
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;

/// Rows read at a time.
const SLICE: usize = 1000;
/// What is broken beyond this is not listed: enough to see what kind of trouble it is.
const BROKEN_MAX: usize = 1000;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// `I3`
    pub invariant: &'static str,
    /// Of what: a message, a key.
    pub what: String,
    /// How.
    pub detail: String,
}

/// `I3: 6AM6KPaP020579: no READY row`
impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {}", self.invariant, self.what, self.detail)
    }
}

impl Store {
    /// Verifies every invariant on one snapshot; gives what is broken, at most 1 000 of it. Reads the whole queue,
    /// but no bodies of scheduled
    /// mail. Recipients staged by messages still arriving are no trouble.
    ///
    /// # Errors
    /// `Unavailable`: could not be read.
    pub fn check(&self) -> Result<Vec<Broken>, StoreError> {
        let snapshot = self.core().writer.snapshot()?;
        let mut check = Check::on(&*snapshot);
        check.walk()?;
        let marked = check.marked()?;
        check.in_hand(self, marked)?;
        let files: Vec<u32> =
            self.core().bodies.usage().iter().map(|usage| usage.generation).collect();
        for (generation, _) in check.bodies.iter().filter(|(g, _)| !files.contains(g)) {
            check.broken.push(Broken {
                invariant: "I9",
                what: format!("generation {generation}"),
                detail: "messages name it and its file is not there".into(),
            });
        }
        Ok(check.broken)
    }
}

struct Check<'a> {
    read: &'a dyn Read,
    broken: Vec<Broken>,
    /// Above every queue ID.
    ids: u64,
    incoming: Sums,
    scheduled: Sums,
    /// Messages and octets by generation.
    bodies: BTreeMap<u32, (i64, i64)>,
}

#[derive(Default)]
struct Sums {
    messages: i64,
    octets: i64,
    held: i64,
}

impl<'a> Check<'a> {
    fn on(read: &'a dyn Read) -> Check<'a> {
        Check {
            read,
            broken: Vec::new(),
            ids: 0,
            incoming: Sums::default(),
            scheduled: Sums::default(),
            bodies: BTreeMap::new(),
        }
    }

    fn walk(&mut self) -> Result<(), StoreError> {
        self.ids = self.meta()?;
        self.rows(&INCOMING, Check::incoming)?;
        self.rows(&INCOMING_BODY, Check::incoming_body)?;
        self.rows(&MESSAGE, Check::message)?;
        self.rows(&RECIPIENTS, Check::recipients)?;
        self.rows(&STAGED, Check::staged)?;
        self.rows(&UNREPORTED, Check::unreported)?;
        self.rows(&LISTS, Check::lists)?;
        self.rows(&PROGRESS, Check::progress)?;
        self.rows(&READY, Check::ready)?;
        self.rows(&DEST, Check::dest)?;
        self.rows(&AGENDA, Check::agenda)?;
        self.rows(&DEADLINE, Check::deadline)?;
        self.rows(&BY, Check::by)?;
        self.rows(&HELD, Check::held)?;
        self.rows(&HOST, Check::host)?;
        self.ledger()?;
        self.rows(&STAT, Check::stat)?;
        self.sums()
    }

    fn marked(&mut self) -> Result<Vec<JobId>, StoreError> {
        let mut marked = Vec::new();
        self.range(&INFLIGHT, INFLIGHT.all(), |check, id, value| {
            check.record::<u64>(&format!("INFLIGHT {id:?}"), &value);
            marked.push(id);
            Ok(())
        })?;
        Ok(marked)
    }

    /// I11. A job that nobody has in hand now may have been settled since the snapshot: its row is looked for again.
    fn in_hand(&mut self, store: &Store, marked: Vec<JobId>) -> Result<(), StoreError> {
        let core = store.core();
        if store.interrupted().is_some_and(|interrupted| !interrupted.is_named) {
            return Ok(());
        }
        for id in marked.into_iter().filter(|id| !core.claims.has(*id)).collect::<Vec<_>>() {
            if core.writer.snapshot()?.get(&INFLIGHT.key(id))?.is_some() && !core.claims.has(id) {
                self.say("I11", format!("INFLIGHT {id:?}"), "nobody has the job in hand");
            }
        }
        Ok(())
    }

    fn say(&mut self, invariant: &'static str, what: impl ToString, detail: impl ToString) {
        if self.broken.len() < BROKEN_MAX {
            let (what, detail) = (what.to_string(), detail.to_string());
            self.broken.push(Broken { invariant, what, detail });
        }
    }

    /// Shows every row of a table to `look`.
    fn rows<K: Decode>(
        &mut self,
        table: &Table<K>,
        look: fn(&mut Check<'a>, K, Value) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.range(table, table.all(), look)
    }

    fn range<K: Decode>(
        &mut self,
        table: &Table<K>,
        range: KeyRange,
        mut look: impl FnMut(&mut Check<'a>, K, Value) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (mut start, end) = range;
        loop {
            let rows: Vec<(Key, Value)> = self.read.range(&start..&end, SLICE, false)?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            start = key::after(last.clone());
            for (key, value) in rows {
                match table.parse(&key) {
                    Ok(tuple) => look(self, tuple, value)?,
                    Err(error) => self.say("I10", describe(table.name, &key), error),
                }
            }
        }
    }

    /// The record of a row; an unreadable one is said, and none.
    fn record<R: Record>(&mut self, what: &str, value: &[u8]) -> Option<R> {
        R::decode(value).map_err(|error| self.say("I10", what, error)).ok()
    }

    /// A record elsewhere; an unreadable one is said where its own table is walked.
    fn other<K, R: Record, E: key::Encode<Of = K>>(
        &self,
        table: &Table<K>,
        key: E,
    ) -> Result<Option<R>, StoreError> {
        match load(self.read, table, key) {
            Ok(row) => Ok(row.map(|(record, _)| record)),
            Err(StoreError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn is_there<K, E: key::Encode<Of = K>>(
        &self,
        table: &Table<K>,
        key: E,
    ) -> Result<bool, StoreError> {
        Ok(self.read.get(&table.key(key))?.is_some())
    }

    fn meta(&mut self) -> Result<u64, StoreError> {
        Ok(self.other::<_, u64, _>(&META, META_IDS)?.unwrap_or(0))
    }

    fn incoming(&mut self, id: QueueId, value: Value) -> Result<(), StoreError> {
        let what = format!("INCOMING {id}");
        if id.as_u64() >= self.ids {
            self.say("I1", &what, "its queue ID is not below META ids");
        }
        if self.is_there(&MESSAGE, id)? {
            self.say("I1", &what, "stands in MESSAGE too");
        }
        self.incoming.messages += 1;
        let Some(incoming) = self.record::<Incoming>(&what, &value) else { return Ok(()) };
        self.incoming.octets += incoming.envelope.size as i64;
        self.incoming.held += i64::from(incoming.held.is_some());
        let fresh =
            |r: &Recipient| matches!(r.state, crate::mail::envelope::RecipientState::Open(None));
        if incoming.recipients.is_empty() || !incoming.recipients.iter().all(fresh) {
            self.say("I2", &what, "has no recipient, or one that is not fresh");
        }
        for (n, length) in incoming_pieces(incoming.envelope.size) {
            let piece = self.read.get(&INCOMING_BODY.key((id, n)))?;
            if piece.map(|piece| piece.len()) != Some(length) {
                self.say("I2", &what, format!("piece {n} of its body is not {length} octets"));
            }
        }
        Ok(())
    }

    fn incoming_body(&mut self, (id, n): (QueueId, u32), _: Value) -> Result<(), StoreError> {
        let incoming = self.other::<_, Incoming, _>(&INCOMING, id)?;
        let pieces = incoming.map_or(0, |i| incoming_pieces(i.envelope.size).count());
        if n as usize >= pieces && !self.is_there(&INCOMING, id)? {
            self.say("I2", format!("INCOMING_BODY {id} {n}"), "no message has it");
        }
        Ok(())
    }

    fn message(&mut self, id: QueueId, value: Value) -> Result<(), StoreError> {
        let what = format!("MESSAGE {id}");
        if id.as_u64() >= self.ids {
            self.say("I1", &what, "its queue ID is not below META ids");
        }
        let Some(message) = self.record::<Message>(&what, &value) else {
            self.scheduled.messages += 1;
            return Ok(());
        };
        let octets = message.envelope.size as i64;
        let body = self.bodies.entry(message.body.generation).or_default();
        *body = (body.0 + 1, body.1 + octets);
        if !message.is_removed() {
            self.scheduled.messages += 1;
            self.scheduled.octets += octets;
            self.scheduled.held += i64::from(message.held.is_some());
        }
        self.message_schedule(id, &what, &message)?;
        match &message.shape {
            Shape::Inline(jobs) => self.inline(id, &what, &message, jobs),
            Shape::List(list) => self.list(id, &what, &message, list),
        }
    }

    fn message_schedule(
        &mut self,
        id: QueueId,
        what: &str,
        message: &Message,
    ) -> Result<(), StoreError> {
        let in_held = self.is_there(&HELD, id)?;
        let rests = message.held.is_some();
        if in_held != (rests && !message.is_removed()) {
            self.say("I5", what, format!("held {rests}, in HELD {in_held}"));
        }
        Ok(())
    }

    /// DEADLINE has one row for a job in READY and none for another, and it is not that of one who needs no warning when he does.
    fn judged(
        &mut self,
        what: &str,
        id: JobId,
        message: &Message,
        job: &EntryJob,
        in_ready: bool,
    ) -> Result<(), StoreError> {
        let term = message.term();
        let row = |last| (&job.destination, term.class, last, term.arrival, id);
        let first = self.is_there(&DEADLINE, row(false))?;
        let last = self.is_there(&DEADLINE, row(true))?;
        if u8::from(first) + u8::from(last) != u8::from(in_ready) || (last && !term.is_last(job)) {
            let detail =
                format!("job {} in DEADLINE: {first}, {last}; in READY: {in_ready}", job.number);
            self.say("I5", what, detail);
        }
        let there = match term.by {
            Some((time, _)) => self.is_there(&BY, (&job.destination, time, id))?,
            None => false,
        };
        if (there && !in_ready) || (in_ready && !there && term.judged_by(job).is_some()) {
            let detail = format!("job {} in BY: {there}; in READY: {in_ready}", job.number);
            self.say("I13", what, detail);
        }
        Ok(())
    }

    fn inline(
        &mut self,
        id: QueueId,
        what: &str,
        message: &Message,
        jobs: &[EntryJob],
    ) -> Result<(), StoreError> {
        for (n, job) in (0..).zip(jobs) {
            if job.number != n {
                self.say("I10", what, format!("job {n} has the number {}", job.number));
            }
            let job_id = JobId { queue_id: id, number: job.number };
            let in_ready = self.is_there(&READY, (&job.destination, job.due, job_id))?;
            if in_ready != (is_open(job) && message.held.is_none()) {
                self.say("I3", what, format!("job {n} in READY: {in_ready}"));
            }
            self.judged(what, job_id, message, job, in_ready)?;
            let owes = unreported_since(job).is_some();
            if owes != self.is_there(&UNREPORTED, job_id)? {
                self.say("I6", what, format!("job {n} in UNREPORTED: {}", !owes));
            }
        }
        if !jobs.iter().any(|job| is_open(job) || unreported_since(job).is_some()) {
            self.say("I7", what, "is finished");
        }
        Ok(())
    }

    fn list(
        &mut self,
        id: QueueId,
        what: &str,
        message: &Message,
        list: &List,
    ) -> Result<(), StoreError> {
        let (mut open_jobs, mut unreported) = (0u32, false);
        let next = match list.sweep {
            Some(Sweep { change: Change::Due(_) | Change::Rest, next }) => next,
            Some(Sweep { change: Change::Remove, .. }) => 0,
            None => u32::MAX,
        };
        let removed = list.is_removed();
        let is_held = message.held.is_some();
        let name = what.to_owned();
        self.range(&RECIPIENTS, RECIPIENTS.under(id), |check, job_id, value| {
            let Some(job) = check.record::<EntryJob>(&name, &value) else { return Ok(()) };
            let owes = unreported_since(&job).is_some();
            open_jobs += u32::from(is_open(&job));
            unreported |= owes;
            if job_id.number >= list.jobs || job.number != job_id.number {
                check.say("I6", &name, format!("job {} is not one of its jobs", job_id.number));
            }
            if owes != check.is_there(&UNREPORTED, job_id)? && !removed {
                check.say("I6", &name, format!("job {} in UNREPORTED: {}", job.number, !owes));
            }
            let in_ready = check.is_there(&READY, (&job.destination, job.due, job_id))?;
            if job_id.number < next && in_ready != (is_open(&job) && !is_held) {
                check.say("I3", &name, format!("job {} in READY: {in_ready}", job.number));
            }
            check.judged(&name, job_id, message, &job, in_ready)?;
            Ok(())
        })?;
        if removed {
            return self.worked_on(id, what, list);
        }
        if open_jobs != list.open_jobs {
            self.say("I6", what, format!("{open_jobs} open jobs, not {}", list.open_jobs));
        }
        if unreported != list.unreported_since.is_some() {
            self.say("I6", what, "unreported_since does not say whether something is unreported");
        }
        if open_jobs == 0 && !unreported && !list.unfolding {
            self.say("I7", what, "is finished");
        }
        self.worked_on(id, what, list)
    }

    fn worked_on(&mut self, id: QueueId, what: &str, list: &List) -> Result<(), StoreError> {
        if self.is_there(&LISTS, id)? != list.is_under_work() {
            self.say("I6", what, "LISTS does not say whether there is work for it");
        }
        Ok(())
    }

    /// The list a row belongs to; said when there is none.
    fn list_of(&mut self, id: QueueId, what: String) -> Result<Option<List>, StoreError> {
        if let Some(Message { shape: Shape::List(list), .. }) =
            self.other::<_, Message, _>(&MESSAGE, id)?
        {
            return Ok(Some(list));
        }
        self.say("I6", what, "belongs to no long list");
        Ok(None)
    }

    fn recipients(&mut self, id: JobId, _: Value) -> Result<(), StoreError> {
        self.list_of(id.queue_id, format!("RECIPIENTS {id:?}")).map(drop)
    }

    fn staged(
        &mut self,
        (id, destination, block): (QueueId, Destination, u32),
        value: Value,
    ) -> Result<(), StoreError> {
        let what = format!("STAGED {id} {destination} {block}");
        self.record::<Vec<Recipient>>(&what, &value);
        // Without a message it is one that is still arriving.
        if self.is_there(&MESSAGE, id)?
            && let Some(list) = self.list_of(id, what.clone())?
            && !list.is_under_work()
        {
            self.say("I6", what, "its list is unfolded");
        }
        Ok(())
    }

    fn unreported(&mut self, id: JobId, _: Value) -> Result<(), StoreError> {
        let message = self.other::<_, Message, _>(&MESSAGE, id.queue_id)?;
        let is_there = match message.map(|message| message.shape) {
            Some(Shape::Inline(jobs)) => jobs.iter().any(|job| job.number == id.number),
            Some(Shape::List(_)) | None => self.is_there(&RECIPIENTS, id)?,
        };
        if !is_there {
            self.say("I6", format!("UNREPORTED {id:?}"), "there is no such job");
        }
        Ok(())
    }

    fn lists(&mut self, id: QueueId, _: Value) -> Result<(), StoreError> {
        self.list_of(id, format!("LISTS {id}")).map(drop)
    }

    fn progress(&mut self, id: QueueId, value: Value) -> Result<(), StoreError> {
        let what = format!("PROGRESS {id}");
        self.record::<Attempts>(&what, &value);
        match self.other::<_, Message, _>(&MESSAGE, id)? {
            Some(Message { shape: Shape::List(list), .. }) if list.is_under_work() => {}
            _ => self.say("I12", what, "belongs to no list that is unfolding"),
        }
        Ok(())
    }

    fn ledger(&mut self) -> Result<(), StoreError> {
        let mut difference = 0i64;
        self.range(&LOADED, LOADED.all(), |check, origin, value| {
            difference += 1;
            check.record::<u64>(&format!("LOADED {origin}"), &value);
            Ok(())
        })?;
        self.range(&LOADED_AT, LOADED_AT.all(), |check, (_, origin), _| {
            difference -= 1;
            if !check.is_there(&LOADED, &origin)? {
                check.say("I12", format!("LOADED_AT {origin}"), "LOADED does not have it");
            }
            Ok(())
        })?;
        if difference != 0 {
            self.say("I12", "LOADED", format!("{difference} more than LOADED_AT has"));
        }
        Ok(())
    }

    fn ready(
        &mut self,
        (destination, due, id): (Destination, Timestamp, JobId),
        _: Value,
    ) -> Result<(), StoreError> {
        let what = format!("READY {destination} {due:?} {id:?}");
        let message = self.other::<_, Message, _>(&MESSAGE, id.queue_id)?;
        let job = match message {
            None => None,
            Some(message) => super::delivery::job_of(self.read, id, &message)?,
        };
        let fits = |job: &EntryJob| job.destination == destination && job.due == due;
        if !job.is_some_and(|job| is_open(&job) && fits(&job)) {
            self.say("I3", &what, "there is no such open job");
        }
        if !self.is_there(&DEST, &destination)? {
            self.say("I4", what, "its destination has no row in DEST");
        }
        Ok(())
    }

    fn dest(&mut self, destination: Destination, value: Value) -> Result<(), StoreError> {
        let what = format!("DEST {destination}");
        let Some(row) = self.record::<DestinationRow>(&what, &value) else { return Ok(()) };
        let (start, end) = READY.under(&destination);
        let first = self.read.keys(&start..&end, 1, false)?;
        let first = first.first().and_then(|key| READY.parse(key).ok());
        let Some((_, due, _)) = first else {
            self.say("I4", what, "has no job in READY");
            return Ok(());
        };
        match row.agenda {
            None => self.say("I4", what, "does not stand in AGENDA"),
            Some(time) => {
                if time > due.max(row.state.not_before) {
                    let detail = format!("AGENDA says {time:?}, its first job is due at {due:?}");
                    self.say("I4", &what, detail);
                }
                if !self.is_there(&AGENDA, (time, &destination))? {
                    self.say("I4", what, "AGENDA does not have its time");
                }
            }
        }
        Ok(())
    }

    fn agenda(
        &mut self,
        (time, destination): (Timestamp, Destination),
        _: Value,
    ) -> Result<(), StoreError> {
        let row = self.other::<_, DestinationRow, _>(&DEST, &destination)?;
        if row.and_then(|row| row.agenda) != Some(time) {
            self.say("I4", format!("AGENDA {time:?} {destination}"), "DEST does not name it");
        }
        Ok(())
    }

    fn deadline(
        &mut self,
        (destination, class, _, arrival, id): (Destination, TimeoutClass, bool, Timestamp, JobId),
        _: Value,
    ) -> Result<(), StoreError> {
        let message = self.other::<_, Message, _>(&MESSAGE, id.queue_id)?;
        let message = message.filter(|message| {
            let term = message.term();
            (term.class, term.arrival) == (class, arrival)
        });
        let job = match message {
            None => None,
            Some(message) => super::delivery::job_of(self.read, id, &message)?,
        };
        // Whether it is in READY, and has but this row, is said where the message is walked.
        if !job.is_some_and(|job| is_open(&job) && job.destination == destination) {
            self.say("I5", format!("DEADLINE {destination} {id:?}"), "there is no such open job");
        }
        Ok(())
    }

    fn by(
        &mut self,
        (destination, time, id): (Destination, Timestamp, JobId),
        _: Value,
    ) -> Result<(), StoreError> {
        let message = self.other::<_, Message, _>(&MESSAGE, id.queue_id)?;
        let message = message.filter(|message| message.envelope.deliver_by_time() == Some(time));
        let job = match message {
            None => None,
            Some(message) => super::delivery::job_of(self.read, id, &message)?,
        };
        if !job.is_some_and(|job| is_open(&job) && job.destination == destination) {
            self.say("I13", format!("BY {destination} {id:?}"), "there is no such open job");
        }
        Ok(())
    }

    fn held(&mut self, id: QueueId, _: Value) -> Result<(), StoreError> {
        if !self.is_there(&MESSAGE, id)? {
            self.say("I5", format!("HELD {id}"), "there is no such message");
        }
        Ok(())
    }

    fn host(&mut self, host: String, value: Value) -> Result<(), StoreError> {
        self.record::<HostOutcome>(&format!("HOST {host}"), &value);
        Ok(())
    }

    fn stat(&mut self, key: (u8, u8), value: Value) -> Result<(), StoreError> {
        let number = value.as_slice().try_into().map(i64::from_be_bytes);
        if !number.is_ok_and(|number| number > 0) {
            self.say("I10", format!("STAT {key:?}"), "is not a number above 0");
        }
        Ok(())
    }

    fn sums(&mut self) -> Result<(), StoreError> {
        for (name, sum) in [
            (COUNT_INCOMING, self.incoming.messages),
            (COUNT_INCOMING_OCTETS, self.incoming.octets),
            (COUNT_INCOMING_HELD, self.incoming.held),
            (COUNT_MESSAGE, self.scheduled.messages),
            (COUNT_MESSAGE_OCTETS, self.scheduled.octets),
            (COUNT_HELD, self.scheduled.held),
        ] {
            let kept = counter(self.read, &COUNT.key(name))?;
            if kept != sum {
                self.say("I8", format!("COUNT {name}"), format!("{kept}, and there are {sum}"));
            }
        }
        for (generation, (messages, octets)) in self.bodies.clone() {
            for (which, sum) in [(BODY_MESSAGES, messages), (BODY_OCTETS, octets)] {
                let kept = counter(self.read, &BODYGEN.key((generation, which)))?;
                if kept != sum {
                    let what = format!("BODYGEN {generation} {which}");
                    self.say("I9", what, format!("{kept}, and there are {sum}"));
                }
            }
        }
        self.rows(&BODYGEN, |check, (generation, which), _| {
            if !check.bodies.contains_key(&generation) {
                let what = format!("BODYGEN {generation} {which}");
                check.say("I9", what, "no message has its body there");
            }
            Ok(())
        })
    }
}
