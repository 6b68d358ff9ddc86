//! An edit: one batch in the making, on the state it will be applied to.
//!
//! Operations say what they mean (this job is ready, that message is scheduled), the edit keeps the tables behind it in
//! step: HELD, COUNT and BODYGEN with the message, DEADLINE, BY, DEST and AGENDA with READY (I3, I4, I5, I8, I9, I13). The last word on a
//! key counts, so an operation may take back what it did before. Nothing is written until the batch of
//! [`Edit::finish`] is committed.

use std::collections::{BTreeMap, BTreeSet};

use super::StoreError;
use super::engine::{Batch, Check, Key, Read, Value};
use super::key::{Decode, Encode, KeyRange, Table};
use super::message::{Body, DestinationRow, Incoming, Message, Shape, Term, unreported_since};
use super::record::{Record, damaged};
use super::schema::*;
use crate::mail::envelope::Envelope;
use crate::mail::job::{Destination, EntryJob, JobId};
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;

/// Keys of AGENDA read at a time in the search for a lost one.
const AGENDA_SLICE: usize = 1000;

/// One batch in the making.
pub struct Edit<'a> {
    read: &'a dyn Read,
    checks: Vec<Check>,
    changes: BTreeMap<Key, Option<Value>>,
    adds: BTreeMap<Key, i64>,
    /// Destinations whose READY rows change.
    touched: BTreeSet<Destination>,
}

/// The record under a key, with its bytes for [`Check::Equals`]; none when there is no such key.
pub fn load<K, R: Record, E: Encode<Of = K>>(
    read: &dyn Read,
    table: &Table<K>,
    key: E,
) -> Result<Option<(R, Value)>, StoreError> {
    let key = table.key(key);
    let Some(value) = read.get(&key)? else { return Ok(None) };
    let record = R::decode(&value).map_err(|error| damaged(describe(table.name, &key), error))?;
    Ok(Some((record, value)))
}

/// The tuple of a key of `table`; a key that is none is damage.
pub fn parse<K: Decode>(table: &Table<K>, key: &[u8]) -> Result<K, StoreError> {
    table.parse(key).map_err(|error| StoreError::Damaged {
        what: describe(table.name, key),
        detail: error.to_string(),
    })
}

/// The tuples of keys of `table`; one that is none is passed over, with a word: nobody behind it is to wait for it, and a check names it.
pub fn parsed<'a, K: Decode>(
    table: &'a Table<K>,
    keys: impl IntoIterator<Item = Key> + 'a,
) -> impl Iterator<Item = K> + 'a {
    keys.into_iter().filter_map(|key| match parse(table, &key) {
        Ok(tuple) => Some(tuple),
        Err(error) => {
            tracing::error!(%error, "passed over");
            None
        }
    })
}

/// The first key of the range that is one of the table.
pub fn first_parsed<K: Decode>(
    read: &dyn Read,
    table: &Table<K>,
    range: KeyRange,
) -> Result<Option<K>, StoreError> {
    Ok(some_parsed(read, table, range, 1)?.pop())
}

/// Up to `limit` keys of the range that are of the table: fewer mean that there are no more.
pub fn some_parsed<K: Decode>(
    read: &dyn Read,
    table: &Table<K>,
    (mut start, end): KeyRange,
    limit: usize,
) -> Result<Vec<K>, StoreError> {
    let mut found = Vec::new();
    while start < end && found.len() < limit {
        let wanted = limit - found.len();
        let keys = read.keys(&start..&end, wanted, false)?;
        let is_last = keys.len() < wanted;
        if let Some(last) = keys.last() {
            start = super::key::after(last.clone());
        }
        found.extend(parsed(table, keys));
        if is_last {
            break;
        }
    }
    Ok(found)
}

/// `MESSAGE 6AM5g100000000`, or the bytes of a key without a queue ID at its front.
pub fn describe(table: &str, key: &[u8]) -> String {
    match key.get(1..9).map(|mut id| QueueId::take(&mut id)) {
        Some(Some(id)) if (INCOMING.prefix..READY.prefix).contains(&key[0]) => {
            format!("{table} {id}")
        }
        _ => format!("{table} {key:02x?}"),
    }
}

impl<'a> Edit<'a> {
    /// An empty one on the state `read`.
    pub fn on(read: &'a dyn Read) -> Edit<'a> {
        Edit {
            read,
            checks: Vec::new(),
            changes: BTreeMap::new(),
            adds: BTreeMap::new(),
            touched: BTreeSet::new(),
        }
    }

    /// The state it is made on: without its own changes.
    pub fn read(&self) -> &'a dyn Read {
        self.read
    }

    /// A condition of the whole batch.
    pub fn check(&mut self, check: Check) {
        self.checks.push(check);
    }

    /// Puts a record.
    pub fn put<K, R: Record, E: Encode<Of = K>>(&mut self, table: &Table<K>, key: E, record: &R) {
        self.changes.insert(table.key(key), Some(record.encode()));
    }

    /// Puts bytes that are no record.
    pub fn put_bytes<K, E: Encode<Of = K>>(&mut self, table: &Table<K>, key: E, bytes: &[u8]) {
        self.changes.insert(table.key(key), Some(bytes.to_vec()));
    }

    /// Puts a row of an index.
    pub fn mark<K, E: Encode<Of = K>>(&mut self, table: &Table<K>, key: E) {
        self.changes.insert(table.key(key), Some(Value::new()));
    }

    /// Deletes a row, if it is there.
    pub fn delete<K, E: Encode<Of = K>>(&mut self, table: &Table<K>, key: E) {
        self.changes.insert(table.key(key), None);
    }

    /// Deletes a row by its key.
    pub fn delete_key(&mut self, key: Key) {
        self.changes.insert(key, None);
    }

    /// Adds to a number of COUNT.
    pub fn count(&mut self, name: &str, delta: i64) {
        *self.adds.entry(COUNT.key(name)).or_default() += delta;
    }

    /// Adds to numbers of STAT.
    pub fn count_all(&mut self, additions: impl Iterator<Item = (Key, i64)>) {
        for (key, delta) in additions {
            *self.adds.entry(key).or_default() += delta;
        }
    }

    /// The job is to be attempted at its due time, and judged by its message's term.
    pub fn ready(&mut self, id: JobId, term: Term, job: &EntryJob) {
        self.mark(&READY, (&job.destination, job.due, id));
        self.judged(id, term, job);
        self.touched.insert(job.destination.clone());
    }

    /// The job is not to be attempted.
    pub fn unready(&mut self, id: JobId, term: Term, job: &EntryJob) {
        for last in [false, true] {
            self.delete(&DEADLINE, (&job.destination, term.class, last, term.arrival, id));
        }
        if let Some((time, _)) = term.by {
            self.delete(&BY, (&job.destination, time, id));
        }
        self.unready_at(&job.destination, job.due, id);
    }

    /// The one row in DEADLINE of a job that is ready, and the one in BY of a job with a time of its own.
    pub fn judged(&mut self, id: JobId, term: Term, job: &EntryJob) {
        let last = term.is_last(job);
        self.mark(&DEADLINE, (&job.destination, term.class, last, term.arrival, id));
        self.delete(&DEADLINE, (&job.destination, term.class, !last, term.arrival, id));
        match (term.judged_by(job), term.by) {
            (Some(time), _) => self.mark(&BY, (&job.destination, time, id)),
            (None, Some((time, _))) => self.delete(&BY, (&job.destination, time, id)),
            (None, None) => {}
        }
    }

    /// Takes a row of READY away by its key, and leaves DEADLINE and BY to the caller.
    pub fn unready_at(&mut self, destination: &Destination, due: Timestamp, id: JobId) {
        self.delete(&READY, (destination, due, id));
        self.touched.insert(destination.clone());
    }

    /// Takes rows of READY and DEADLINE away by their keys.
    pub fn delete_elsewhere(&mut self, keys: &[Key]) {
        for key in keys {
            match READY.parse(key) {
                Ok((destination, due, job)) => self.unready_at(&destination, due, job),
                Err(_) => self.delete_key(key.clone()),
            }
        }
    }

    /// Puts a message of INCOMING with its body.
    pub fn put_incoming(&mut self, id: QueueId, message: &Incoming, body: &[u8]) {
        self.put(&INCOMING, id, message);
        let mut rest = body;
        for (n, length) in incoming_pieces(body.len() as u64) {
            let (piece, behind) = rest.split_at(length);
            self.put_bytes(&INCOMING_BODY, (id, n), piece);
            rest = behind;
        }
        self.count_incoming(&message.envelope, message.held.is_some(), 1);
    }

    /// Deletes a message of INCOMING with its body.
    pub fn delete_incoming(&mut self, id: QueueId, envelope: &Envelope, held: bool) {
        self.delete(&INCOMING, id);
        for (n, _) in incoming_pieces(envelope.size) {
            self.delete(&INCOMING_BODY, (id, n));
        }
        self.count_incoming(envelope, held, -1);
    }

    fn count_incoming(&mut self, envelope: &Envelope, held: bool, sign: i64) {
        self.count(COUNT_INCOMING, sign);
        self.count(COUNT_INCOMING_OCTETS, sign * octets(envelope));
        if held {
            self.count(COUNT_INCOMING_HELD, sign);
        }
    }

    /// A new row of MESSAGE with everything that belongs to it but READY, DEADLINE and BY (and, of a long list, RECIPIENTS).
    pub fn enter(&mut self, id: QueueId, message: &Message) {
        self.put(&MESSAGE, id, message);
        self.count_message(message, 1);
        self.count_body(message, 1);
        self.enter_held(id, message);
        if let Shape::List(list) = &message.shape
            && list.is_under_work()
        {
            self.mark(&LISTS, id);
        }
    }

    /// Takes a row of MESSAGE away with what [`Edit::enter`] put.
    pub fn leave(&mut self, id: QueueId, message: &Message) {
        self.delete(&MESSAGE, id);
        if !message.is_removed() {
            self.count_message(message, -1);
            self.leave_held(id, message);
        }
        self.count_body(message, -1);
        match &message.shape {
            Shape::Inline(jobs) => {
                for job in jobs.iter().filter(|job| unreported_since(job).is_some()) {
                    self.delete(&UNREPORTED, JobId { queue_id: id, number: job.number });
                }
            }
            Shape::List(_) => {
                self.delete(&LISTS, id);
                self.delete(&PROGRESS, id);
            }
        }
    }

    /// The body of a message is elsewhere from now on.
    pub fn move_body(&mut self, id: QueueId, message: &mut Message, to: Body) {
        self.count_body(message, -1);
        message.body = to;
        self.count_body(message, 1);
        self.put(&MESSAGE, id, message);
    }

    /// HELD, if the message is (I5).
    pub fn enter_held(&mut self, id: QueueId, message: &Message) {
        if message.held.is_some() {
            self.mark(&HELD, id);
            self.count(COUNT_HELD, 1);
        }
    }

    /// Takes back [`Edit::enter_held`]; before `held` changes.
    pub fn leave_held(&mut self, id: QueueId, message: &Message) {
        if message.held.is_some() {
            self.delete(&HELD, id);
            self.count(COUNT_HELD, -1);
        }
    }

    /// The row in UNREPORTED of a job, as it was before and is now (I6).
    pub fn owes(&mut self, id: JobId, before: &EntryJob, now: &EntryJob) {
        match (unreported_since(before).is_some(), unreported_since(now).is_some()) {
            (false, true) => self.mark(&UNREPORTED, id),
            (true, false) => self.delete(&UNREPORTED, id),
            (false, false) | (true, true) => {}
        }
    }

    /// Counts the message, or no more.
    pub fn count_message(&mut self, message: &Message, sign: i64) {
        self.count(COUNT_MESSAGE, sign);
        self.count(COUNT_MESSAGE_OCTETS, sign * octets(&message.envelope));
    }

    fn count_body(&mut self, message: &Message, sign: i64) {
        self.count_bodies(message.body.generation, sign, sign * octets(&message.envelope));
    }

    /// A message whose record cannot be read has its body in this generation no more.
    pub fn count_out_body(&mut self, generation: u32, octets: u64) {
        self.count_bodies(generation, -1, -i64::try_from(octets).unwrap_or(i64::MAX));
    }

    fn count_bodies(&mut self, generation: u32, messages: i64, octets: i64) {
        *self.adds.entry(BODYGEN.key((generation, BODY_MESSAGES))).or_default() += messages;
        *self.adds.entry(BODYGEN.key((generation, BODY_OCTETS))).or_default() += octets;
    }

    /// Whether this batch takes the last message out of a generation.
    pub fn empties(&self, generation: u32) -> Result<bool, StoreError> {
        let key = BODYGEN.key((generation, BODY_MESSAGES));
        let Some(delta) = self.adds.get(&key) else { return Ok(false) };
        Ok(*delta < 0 && counter(self.read, &key)? + delta == 0)
    }

    /// Whether a row of the range will be left.
    pub fn any_left(&self, range: &super::key::KeyRange) -> Result<bool, StoreError> {
        let changes = self.changes.range(range.0.clone()..range.1.clone());
        let mut deleted = 0;
        for (_, value) in changes {
            match value {
                Some(_) => return Ok(true),
                None => deleted += 1,
            }
        }
        let left = self.read.keys(&range.0..&range.1, deleted + 1, false)?;
        Ok(left.iter().any(|key| self.changes.get(key) != Some(&None)))
    }

    /// What is to be committed, with DEST and AGENDA of every destination touched.
    ///
    /// # Errors
    /// Of reading the state.
    pub fn finish(mut self) -> Result<Batch, StoreError> {
        for destination in std::mem::take(&mut self.touched) {
            self.follow(&destination)?;
        }
        let mut batch = Batch { checks: self.checks, ..Batch::default() };
        for (key, value) in self.changes {
            match value {
                Some(value) => batch.puts.push((key, value)),
                None => batch.deletes.push(key),
            }
        }
        batch.adds = self.adds.into_iter().filter(|(_, delta)| *delta != 0).collect();
        Ok(batch)
    }

    /// Keeps I4 for a destination whose READY rows change: its row and its AGENDA key come with the first and go with
    /// the last, and the key moves when a job is due before it. It does not move when jobs go: early is allowed.
    fn follow(&mut self, destination: &Destination) -> Result<(), StoreError> {
        let range = READY.under(destination);
        let row = self.destination(destination)?;
        let added = self.changes.range(range.0.clone()..range.1.clone());
        let mut added = added.filter(|(_, value)| value.is_some()).map(|(key, _)| key);
        let Some(first) = added.next() else {
            match (self.any_left(&range)?, row) {
                (false, Some(row)) => {
                    self.delete(&DEST, destination);
                    if let Some(time) = row.agenda {
                        self.delete(&AGENDA, (time, destination));
                    }
                }
                // It could not be read: it is written anew, with a key that costs one look.
                (true, Some(mut row)) if row.agenda.is_none() => {
                    self.move_agenda(destination, &mut row, Some(Timestamp::ZERO));
                    self.put(&DEST, destination, &row);
                }
                (true, _) | (false, None) => {}
            }
            return Ok(());
        };
        let due = parse(&READY, first)?.1;
        let mut row = row.unwrap_or_else(DestinationRow::fresh);
        let wanted = due.max(row.state.not_before);
        if row.agenda.is_none_or(|time| time > wanted) {
            self.move_agenda(destination, &mut row, Some(wanted));
            self.put(&DEST, destination, &row);
        }
        Ok(())
    }

    /// The row of a destination; none when there is none. One that cannot be read is a fresh one: a host too many is asked, and
    /// nobody waits for the damage. What the record no longer tells is where its AGENDA key is: all that name it go.
    pub fn destination(
        &mut self,
        destination: &Destination,
    ) -> Result<Option<DestinationRow>, StoreError> {
        match load(self.read, &DEST, destination) {
            Ok(row) => return Ok(row.map(|(row, _)| row)),
            Err(StoreError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
        let (mut start, end) = AGENDA.all();
        loop {
            let keys = self.read.keys(&start..&end, AGENDA_SLICE, false)?;
            let Some(last) = keys.last() else { return Ok(Some(DestinationRow::fresh())) };
            start = super::key::after(last.clone());
            for key in keys {
                if AGENDA.parse(&key).is_ok_and(|(_, other)| other == *destination) {
                    self.delete_key(key);
                }
            }
        }
    }

    /// Moves the destination's one AGENDA key; the caller puts the row.
    pub fn move_agenda(
        &mut self,
        destination: &Destination,
        row: &mut DestinationRow,
        to: Option<Timestamp>,
    ) {
        if let Some(time) = row.agenda {
            self.delete(&AGENDA, (time, destination));
        }
        if let Some(time) = to {
            self.mark(&AGENDA, (time, destination));
        }
        row.agenda = to;
    }
}

/// Lengths of pieces that fill two, four, eight, sixteen pages of the engine with its overhead, since a value that spills over takes the
/// next power of two (measured); or a quarter of one page, which they share with their neighbours. A piece that fills one page
/// alone would leave the rest behind it a page of its own.
const PIECES: [usize; 5] = [65_472, 32_704, 16_320, 8_128, 999];

/// The numbers and lengths of the pieces of an INCOMING body of `size` octets.
pub fn incoming_pieces(size: u64) -> impl Iterator<Item = (u32, usize)> {
    let mut rest = usize::try_from(size).unwrap_or(usize::MAX);
    let lengths = std::iter::from_fn(move || {
        let length = PIECES.into_iter().find(|piece| *piece <= rest).unwrap_or(rest);
        rest -= length;
        (length > 0).then_some(length)
    });
    (0u32..).zip(lengths)
}

fn octets(envelope: &Envelope) -> i64 {
    i64::try_from(envelope.size).unwrap_or(i64::MAX)
}

/// A number of COUNT or BODYGEN; 0 when it is not there.
pub fn counter(read: &dyn Read, key: &[u8]) -> Result<i64, StoreError> {
    let Some(value) = read.get(key)? else { return Ok(0) };
    let bytes = value.as_slice().try_into().map_err(|_| StoreError::Damaged {
        what: format!("number {key:02x?}"),
        detail: format!("{} octets", value.len()),
    })?;
    Ok(i64::from_be_bytes(bytes))
}
