//! Verification of the invariants of `schema.rs`, by number, on a live store beside writes.
//!
//! What a message implies is looked up from the message; what stands in an index is looked up from the index; so both too few
//! and too many are found. Every table is walked in slices, each on a snapshot of its own: a slice and what it names are of one
//! state, and no snapshot lives long enough to keep pages from being used again. Only what is a sum over a table (I8, I9, I12)
//! is taken from one snapshot, in a pass that looks nothing else up (`check/sums.rs`). In memory are a slice, and sums.
//!
//! It says what is broken and changes nothing. A record that cannot be read is said once (I10); nothing is concluded from it.

mod sums;

use super::edit::{describe, first_parsed, incoming_pieces, load};
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

/// Keys read at a time, or rows with small values.
const SLICE: usize = 1000;
/// Records of messages and jobs read at a time: some have a mebioctet or two.
const RECORDS: usize = 16;
/// The prefixes of all tables, rising.
const TABLES: [u8; 22] = [
    META.prefix,
    INCOMING.prefix,
    INCOMING_BODY.prefix,
    MESSAGE.prefix,
    RECIPIENTS.prefix,
    STAGED.prefix,
    UNREPORTED.prefix,
    LISTS.prefix,
    PROGRESS.prefix,
    READY.prefix,
    DEST.prefix,
    AGENDA.prefix,
    DEADLINE.prefix,
    HELD.prefix,
    INFLIGHT.prefix,
    BY.prefix,
    HOST.prefix,
    LOADED.prefix,
    LOADED_AT.prefix,
    COUNT.prefix,
    STAT.prefix,
    BODYGEN.prefix,
];
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
    /// Verifies every invariant; gives what is broken, at most 1 000 of it. Reads the whole queue, but no bodies of scheduled
    /// mail. Recipients staged by messages still arriving are no trouble.
    ///
    /// # Errors
    /// `Unavailable`: could not be read.
    pub fn check(&self) -> Result<Vec<Broken>, StoreError> {
        let mut check =
            Check { store: self, read: self.core().writer.snapshot()?, broken: Vec::new() };
        check.walk()?;
        check.in_hand()?;
        check.refresh()?;
        check.ledger()?;
        check.refresh()?;
        check.totals()?;
        Ok(check.broken)
    }
}

struct Check<'a> {
    store: &'a Store,
    /// Of the slice in hand.
    read: Box<dyn Read + Send>,
    broken: Vec<Broken>,
}

impl<'a> Check<'a> {
    fn refresh(&mut self) -> Result<(), StoreError> {
        self.read = self.store.core().writer.snapshot()?;
        Ok(())
    }

    fn walk(&mut self) -> Result<(), StoreError> {
        self.rows(&META, SLICE, Check::meta)?;
        self.rows(&INCOMING, RECORDS, Check::incoming)?;
        self.keys(&INCOMING_BODY, Check::incoming_body)?;
        self.rows(&MESSAGE, RECORDS, Check::message)?;
        self.keys(&RECIPIENTS, Check::recipients)?;
        self.rows(&STAGED, RECORDS, Check::staged)?;
        self.keys(&UNREPORTED, Check::unreported)?;
        self.keys(&LISTS, Check::lists)?;
        self.rows(&PROGRESS, SLICE, Check::progress)?;
        self.keys(&READY, Check::ready)?;
        self.rows(&DEST, SLICE, Check::dest)?;
        self.keys(&AGENDA, Check::agenda)?;
        self.keys(&DEADLINE, Check::deadline)?;
        self.keys(&BY, Check::by)?;
        self.keys(&HELD, Check::held)?;
        self.rows(&HOST, SLICE, Check::host)?;
        self.rows(&COUNT, SLICE, Check::number)?;
        self.rows(&STAT, SLICE, Check::number)?;
        self.rows(&BODYGEN, SLICE, Check::number)?;
        self.strangers()
    }

    /// Keys that are of no table.
    fn strangers(&mut self) -> Result<(), StoreError> {
        let mut start = Key::new();
        for table in TABLES {
            for key in self.read.keys(&start..&[table], SLICE, false)? {
                self.say("I10", format!("{key:02x?}"), "is a key of no table");
            }
            start = vec![table + 1];
        }
        for key in self.read.keys(&start..&[u8::MAX; 2], SLICE, false)? {
            self.say("I10", format!("{key:02x?}"), "is a key of no table");
        }
        Ok(())
    }

    /// I11. A job that nobody has in hand now may have been settled since the snapshot: its row is looked for again.
    fn in_hand(&mut self) -> Result<(), StoreError> {
        let core = self.store.core();
        let is_named = self.store.interrupted().is_none_or(|interrupted| interrupted.is_named);
        self.rows(&INFLIGHT, SLICE, |check, id, value| {
            let what = format!("INFLIGHT {id:?}");
            check.record::<u64>(&what, &value);
            if !check.is_there(&META, META_OPEN)? {
                check.say("I11", &what, "META open is not there");
            }
            if is_named
                && !core.claims.has(id)
                && core.writer.snapshot()?.get(&INFLIGHT.key(id))?.is_some()
                && !core.claims.has(id)
            {
                check.say("I11", what, "nobody has the job in hand");
            }
            Ok(())
        })
    }

    fn say(&mut self, invariant: &'static str, what: impl ToString, detail: impl ToString) {
        if self.broken.len() < BROKEN_MAX {
            let (what, detail) = (what.to_string(), detail.to_string());
            self.broken.push(Broken { invariant, what, detail });
        }
    }

    /// Shows every row of a table to `look`, up to `slice` of them on a snapshot.
    fn rows<K: Decode>(
        &mut self,
        table: &Table<K>,
        slice: usize,
        mut look: impl FnMut(&mut Check<'a>, K, Value) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (mut start, end) = table.all();
        loop {
            self.refresh()?;
            let rows = self.read.range(&start..&end, slice, false)?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            start = key::after(last.clone());
            for (key, value) in rows {
                if let Some(tuple) = self.tuple(table, &key) {
                    look(self, tuple, value)?;
                }
            }
        }
    }

    /// As [`Check::rows`], the keys alone.
    fn keys<K: Decode>(
        &mut self,
        table: &Table<K>,
        mut look: impl FnMut(&mut Check<'a>, K) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (mut start, end) = table.all();
        loop {
            self.refresh()?;
            let keys = self.read.keys(&start..&end, SLICE, false)?;
            let Some(last) = keys.last() else { return Ok(()) };
            start = key::after(last.clone());
            for key in keys {
                if let Some(tuple) = self.tuple(table, &key) {
                    look(self, tuple)?;
                }
            }
        }
    }

    /// Shows rows to `look`, all of them on the snapshot in hand.
    fn range<K: Decode>(
        &mut self,
        table: &Table<K>,
        (mut start, end): KeyRange,
        slice: usize,
        mut look: impl FnMut(&mut Check<'a>, K, Value) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        loop {
            let rows = self.read.range(&start..&end, slice, false)?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            start = key::after(last.clone());
            for (key, value) in rows {
                // One that is none is said where its table is walked.
                if let Ok(tuple) = table.parse(&key) {
                    look(self, tuple, value)?;
                }
            }
        }
    }

    fn tuple<K: Decode>(&mut self, table: &Table<K>, key: &[u8]) -> Option<K> {
        let parsed = table.parse(key);
        parsed.map_err(|error| self.say("I10", describe(table.name, key), error)).ok()
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
        match load(&*self.read, table, key) {
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

    fn meta(&mut self, name: String, value: Value) -> Result<(), StoreError> {
        self.record::<u64>(&format!("META {name}"), &value);
        Ok(())
    }

    /// I1
    fn named(&mut self, id: QueueId, what: &str) -> Result<(), StoreError> {
        let ids = self.other::<_, u64, _>(&META, META_IDS)?;
        if ids.is_none_or(|ids| id.as_u64() >= ids) {
            self.say("I1", what, "its queue ID is not below META ids");
        }
        Ok(())
    }

    fn incoming(&mut self, id: QueueId, value: Value) -> Result<(), StoreError> {
        let what = format!("INCOMING {id}");
        self.named(id, &what)?;
        if self.is_there(&MESSAGE, id)? {
            self.say("I1", &what, "stands in MESSAGE too");
        }
        let Some(incoming) = self.record::<Incoming>(&what, &value) else { return Ok(()) };
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

    fn incoming_body(&mut self, (id, n): (QueueId, u32)) -> Result<(), StoreError> {
        let is_there = self.is_there(&INCOMING, id)?;
        let has = match self.other::<_, Incoming, _>(&INCOMING, id)? {
            Some(incoming) => incoming_pieces(incoming.envelope.size).count() > n as usize,
            // It cannot be read.
            None => is_there,
        };
        if !has {
            self.say("I2", format!("INCOMING_BODY {id} {n}"), "no message has it");
        }
        Ok(())
    }

    fn message(&mut self, id: QueueId, value: Value) -> Result<(), StoreError> {
        let what = format!("MESSAGE {id}");
        self.named(id, &what)?;
        let Some(message) = self.record::<Message>(&what, &value) else { return Ok(()) };
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
        let (mut open_jobs, mut unreadable, mut unreported) = (0u32, 0u32, false);
        let next = match list.sweep {
            Some(Sweep { change: Change::Due(_) | Change::Rest, next }) => next,
            Some(Sweep { change: Change::Remove, .. }) => 0,
            None => u32::MAX,
        };
        let removed = list.is_removed();
        let is_held = message.held.is_some();
        let name = what.to_owned();
        self.range(&RECIPIENTS, RECIPIENTS.under(id), RECORDS, |check, job_id, value| {
            let its = format!("RECIPIENTS {id} {}", job_id.number);
            let Some(job) = check.record::<EntryJob>(&its, &value) else {
                unreadable += 1;
                return Ok(());
            };
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
        if !(open_jobs..=open_jobs + unreadable).contains(&list.open_jobs) {
            self.say("I6", what, format!("{open_jobs} open jobs, not {}", list.open_jobs));
        }
        if unreported != list.unreported_since.is_some() && (unreported || unreadable == 0) {
            self.say("I6", what, "unreported_since does not say whether something is unreported");
        }
        if open_jobs + unreadable == 0 && !unreported && !list.unfolding {
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

    /// The list a row belongs to; said when there is none. None, too, when its record cannot be read.
    fn list_of(&mut self, id: QueueId, what: String) -> Result<Option<List>, StoreError> {
        match self.other::<_, Message, _>(&MESSAGE, id)? {
            Some(Message { shape: Shape::List(list), .. }) => return Ok(Some(list)),
            None if self.is_there(&MESSAGE, id)? => return Ok(None),
            Some(_) | None => self.say("I6", what, "belongs to no long list"),
        }
        Ok(None)
    }

    fn recipients(&mut self, id: JobId) -> Result<(), StoreError> {
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
            && !list.unfolding
            && !list.is_removed()
        {
            self.say("I6", what, "its list is unfolded");
        }
        Ok(())
    }

    fn unreported(&mut self, id: JobId) -> Result<(), StoreError> {
        let message = self.other::<_, Message, _>(&MESSAGE, id.queue_id)?;
        let is_there = match message.map(|message| message.shape) {
            Some(Shape::Inline(jobs)) => jobs.iter().any(|job| job.number == id.number),
            Some(Shape::List(_)) => self.is_there(&RECIPIENTS, id)?,
            // It cannot be read.
            None => self.is_there(&MESSAGE, id.queue_id)?,
        };
        if !is_there {
            self.say("I6", format!("UNREPORTED {id:?}"), "there is no such job");
        }
        Ok(())
    }

    fn lists(&mut self, id: QueueId) -> Result<(), StoreError> {
        self.list_of(id, format!("LISTS {id}")).map(drop)
    }

    fn progress(&mut self, id: QueueId, value: Value) -> Result<(), StoreError> {
        let what = format!("PROGRESS {id}");
        self.record::<Attempts>(&what, &value);
        match self.other::<_, Message, _>(&MESSAGE, id)? {
            Some(Message { shape: Shape::List(list), .. }) if list.is_under_work() => {}
            None if self.is_there(&MESSAGE, id)? => {}
            _ => self.say("I12", what, "belongs to no list that is unfolding"),
        }
        Ok(())
    }

    /// A job of a message; `None` in it when there is none, none at all when that cannot be told.
    fn job(
        &self,
        id: JobId,
        fits: impl FnOnce(&Message) -> bool,
    ) -> Result<Option<Option<EntryJob>>, StoreError> {
        let Some(message) = self.other::<_, Message, _>(&MESSAGE, id.queue_id)? else {
            return Ok((!self.is_there(&MESSAGE, id.queue_id)?).then_some(None));
        };
        if !fits(&message) {
            return Ok(Some(None));
        }
        match super::delivery::job_of(&*self.read, id, &message) {
            Ok(job) => Ok(Some(job)),
            Err(StoreError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn ready(
        &mut self,
        (destination, due, id): (Destination, Timestamp, JobId),
    ) -> Result<(), StoreError> {
        let what = format!("READY {destination} {due:?} {id:?}");
        let fits = |job: &EntryJob| job.destination == destination && job.due == due;
        let job = self.job(id, |_| true)?;
        if job.is_some_and(|job| !job.is_some_and(|job| is_open(&job) && fits(&job))) {
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
        let first = first_parsed(&*self.read, &READY, READY.under(&destination))?;
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

    fn agenda(&mut self, (time, destination): (Timestamp, Destination)) -> Result<(), StoreError> {
        let row = self.other::<_, DestinationRow, _>(&DEST, &destination)?;
        // One that cannot be read may name it.
        let is_unreadable = row.is_none() && self.is_there(&DEST, &destination)?;
        if row.and_then(|row| row.agenda) != Some(time) && !is_unreadable {
            self.say("I4", format!("AGENDA {time:?} {destination}"), "DEST does not name it");
        }
        Ok(())
    }

    fn deadline(
        &mut self,
        (destination, class, _, arrival, id): (Destination, TimeoutClass, bool, Timestamp, JobId),
    ) -> Result<(), StoreError> {
        let job = self.job(id, |message| {
            let term = message.term();
            (term.class, term.arrival) == (class, arrival)
        })?;
        // Whether it is in READY, and has but this row, is said where the message is walked.
        let fits = |job: &EntryJob| is_open(job) && job.destination == destination;
        if job.is_some_and(|job| !job.is_some_and(|job| fits(&job))) {
            self.say("I5", format!("DEADLINE {destination} {id:?}"), "there is no such open job");
        }
        Ok(())
    }

    fn by(
        &mut self,
        (destination, time, id): (Destination, Timestamp, JobId),
    ) -> Result<(), StoreError> {
        let job = self.job(id, |message| message.envelope.deliver_by_time() == Some(time))?;
        let fits = |job: &EntryJob| is_open(job) && job.destination == destination;
        if job.is_some_and(|job| !job.is_some_and(|job| fits(&job))) {
            self.say("I13", format!("BY {destination} {id:?}"), "there is no such open job");
        }
        Ok(())
    }

    fn held(&mut self, id: QueueId) -> Result<(), StoreError> {
        if !self.is_there(&MESSAGE, id)? {
            self.say("I5", format!("HELD {id}"), "there is no such message");
        }
        Ok(())
    }

    fn host(&mut self, host: String, value: Value) -> Result<(), StoreError> {
        self.record::<HostOutcome>(&format!("HOST {host}"), &value);
        Ok(())
    }

    /// A number that is added to: one that becomes 0 goes.
    fn number<K: std::fmt::Debug>(&mut self, key: K, value: Value) -> Result<(), StoreError> {
        let number = value.as_slice().try_into().map(i64::from_be_bytes);
        if !number.is_ok_and(|number| number > 0) {
            self.say("I10", format!("the number {key:?}"), "is not one above 0");
        }
        Ok(())
    }
}
