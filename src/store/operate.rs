//! Operators' commands: hold, release, remove, reschedule, reroute, for any number of messages.
//!
//! Slices of at most [`SLICE`] messages are one batch each; what they return counts exactly what they did. A long list counts at once, is
//! in its new state for everybody at once, and is carried through its jobs by the keeper (`list.rs`).
//!
//! A message in flight is waited for, at most [`PATIENCE`] in all: the command takes effect after its settle. If it
//! takes longer, the command takes effect now: the settle to come then finds the message held, and keeps it so, or gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::edit::{Edit, counter, load};
use super::engine::{Batch, Check, Key, Read};
use super::keeper::Errand;
use super::key;
use super::message::{Change, Incoming, Message, Shape, Sweep, is_open};
use super::record::Record;
use super::schema::*;
use super::writer::Class;
use super::{Core, Store, StoreError};
use crate::mail::address::Address;
use crate::mail::job::{Destination, EntryJob, JobId};
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;

/// Messages changed by one batch: some milliseconds of the writer's time.
const SLICE: usize = 100;
/// Keys read at a time in the search for those of a damaged message.
const SCAN_SLICE: usize = 1000;
/// How long a command waits for messages in flight.
const PATIENCE: Duration = Duration::from_secs(10);

/// A command, as it is done to one message.
#[derive(Clone)]
pub enum Command {
    /// Sets it aside with this reason.
    Hold(String),
    /// Puts it back, due at once, if it is held.
    Release,
    /// Forgets it.
    Remove,
    /// Makes all its jobs due then, also if it is held.
    Reschedule(Timestamp),
    /// Sends it another way, due at once unless it is held.
    Reroute(Reroute),
}

/// Another way for a message.
#[derive(Clone)]
pub struct Reroute {
    /// A relay that wins over routing from now on; none lets routing decide again.
    pub relay: Option<String>,
    /// Where the job with this recipient goes now; none leaves it where it is until its next attempt routes it. Pure. Jobs of long
    /// lists stay where they are: [`Store::reroute`] moves each.
    pub to: Way,
}

/// The destination of an address by another way.
pub type Way = Arc<dyn Fn(&Address) -> Option<Destination> + Send + Sync>;

impl Store {
    /// Sets messages aside: not tried, not warned about, not given up. Durable. Gives how many there were.
    ///
    /// # Errors
    /// `Full`, `Damaged`, `Unavailable`, `Closing`: some slices may be done.
    pub async fn hold(&self, ids: Vec<QueueId>, reason: String) -> Result<u64, StoreError> {
        Ok(self.operate(ids, Command::Hold(reason), PATIENCE).await?.len() as u64)
    }

    /// Sets a message aside that cannot be attempted because something of it is damaged: as [`Store::hold`], but without waiting
    /// for whoever has it in hand, and without moving its body. Durable. False when it is held already, gone, or its own record
    /// cannot be read (then it shows as held, and is not offered again).
    ///
    /// # Errors
    /// `Full`, `Unavailable`, `Closing`.
    pub async fn set_aside(&self, id: QueueId, reason: String) -> Result<bool, StoreError> {
        let core = self.core();
        let now = core.now();
        let aside = move |read: &dyn Read| set_aside(read, id, &reason, now);
        let sum = core.writer.apply(Class::Acknowledged, 0, aside).await?;
        sum.lists.into_iter().for_each(|id| core.leave(Errand::List(id)));
        Ok(!sum.messages.is_empty())
    }

    /// Puts held messages back, due at once. Durable. Gives how many were held.
    ///
    /// # Errors
    /// As [`Store::hold`].
    pub async fn release(&self, ids: Vec<QueueId>) -> Result<u64, StoreError> {
        Ok(self.operate(ids, Command::Release, PATIENCE).await?.len() as u64)
    }

    /// Forgets messages without a report, damaged ones too. Durable. Gives how many there were.
    ///
    /// # Errors
    /// As [`Store::hold`].
    pub async fn remove(&self, ids: Vec<QueueId>) -> Result<u64, StoreError> {
        Ok(self.operate(ids, Command::Remove, PATIENCE).await?.len() as u64)
    }

    /// Makes all jobs of messages due at `due`, held ones too. Durable. Gives how many messages there were.
    ///
    /// # Errors
    /// As [`Store::hold`].
    pub async fn reschedule(&self, ids: Vec<QueueId>, due: Timestamp) -> Result<u64, StoreError> {
        Ok(self.operate(ids, Command::Reschedule(due), PATIENCE).await?.len() as u64)
    }

    /// Does a command to messages, to those in flight when they have landed or `patience` is over. Durable. Gives those it was done to:
    /// the others are gone, or it does not apply to them.
    ///
    /// # Errors
    /// As [`Store::hold`].
    pub async fn operate(
        &self,
        ids: Vec<QueueId>,
        command: Command,
        patience: Duration,
    ) -> Result<Vec<QueueId>, StoreError> {
        self.core().command(ids, command, patience).await
    }

    /// Waits until no job of the message is in flight, `patience` at most.
    pub async fn landed(&self, id: QueueId, patience: Duration) {
        // Whoever cannot wait longer finds the job claimed.
        let _ = tokio::time::timeout(patience, self.core().claims.landed(id)).await;
    }

    /// How long a command waits for messages in flight, if nobody says otherwise.
    pub const PATIENCE: Duration = PATIENCE;
}

/// What one slice did.
#[derive(Default)]
struct Sum {
    /// Those it was done to.
    messages: Vec<QueueId>,
    /// Octets of INCOMING bodies it freed.
    freed: u64,
    /// Generations whose last message it took.
    emptied: Vec<u32>,
    /// Lists to be carried through.
    lists: Vec<QueueId>,
    /// Messages whose records cannot be read: they can only be removed.
    damaged: Vec<QueueId>,
}

impl Core {
    /// Does the command to all of them, to those in flight when they have landed or `patience` is over.
    pub(super) async fn command(
        self: &Arc<Self>,
        ids: Vec<QueueId>,
        command: Command,
        patience: Duration,
    ) -> Result<Vec<QueueId>, StoreError> {
        let (flying, landed): (Vec<_>, Vec<_>) =
            ids.into_iter().partition(|id| self.claims.in_flight(*id));
        let mut done = self.command_now(&landed, &command).await?;
        let all_landed = async {
            for id in &flying {
                self.claims.landed(*id).await;
            }
        };
        // After that time it is done all the same: see the head of this file.
        let _ = tokio::time::timeout(patience, all_landed).await;
        done.extend(self.command_now(&flying, &command).await?);
        Ok(done)
    }

    async fn command_now(
        self: &Arc<Self>,
        ids: &[QueueId],
        command: &Command,
    ) -> Result<Vec<QueueId>, StoreError> {
        let mut messages = Vec::new();
        for ids in ids.chunks(SLICE) {
            // Only scheduled messages can rest. They are on their way when the slice comes, which waits for nobody.
            let parking = match command {
                Command::Remove => None,
                _ => Some(self.begin_parking(ids).await?),
            };
            let (ids, now) = (ids.to_vec(), self.now());
            let its = command.clone();
            let work = move |read: &dyn Read| slice(read, &ids, &its, now);
            let sum = self.writer.apply(Class::Acknowledged, 0, work).await?;
            messages.extend(sum.messages);
            self.give_incoming(sum.freed);
            sum.emptied.into_iter().for_each(|g| self.leave(Errand::Generation(g)));
            sum.lists.into_iter().for_each(|id| self.leave(Errand::List(id)));
            if !matches!(command, Command::Hold(_) | Command::Remove) {
                // Jobs may be due earlier than whoever looks at AGENDA expects.
                self.readied.notify_one();
            }
            if let Command::Remove = command {
                for id in sum.damaged {
                    if self.remove_damaged(id).await? > 0 {
                        messages.push(id);
                    }
                }
            }
            if let Some(parking) = parking {
                parking.durable().await?;
            }
        }
        Ok(messages)
    }

    async fn remove_damaged(&self, id: QueueId) -> Result<u64, StoreError> {
        let elsewhere = keys_elsewhere(&*self.writer.snapshot()?, |job| job.queue_id == id)?;
        let body = self.body_of_damaged(id).await?;
        let forget = move |read: &dyn Read| forget_damaged(read, id, &elsewhere, body);
        let Forgotten { messages, freed, emptied } =
            self.writer.apply(Class::Acknowledged, 0, forget).await?;
        self.give_incoming(freed);
        if let Some(generation) = emptied {
            self.leave(Errand::Generation(generation));
        }
        Ok(messages)
    }

    /// Where the body of a message is whose record cannot be read, and its octets: whichever generation has such chunks. None when that is
    /// not to be found out: no generation has any, or several have (one of them a copy that nobody names yet, or no more), or one
    /// cannot be read.
    async fn body_of_damaged(&self, id: QueueId) -> Result<Option<(u32, u64)>, StoreError> {
        let mut found = None;
        for usage in self.bodies.usage() {
            let mut octets = 0;
            loop {
                match self.bodies.read(usage.generation, id, octets).await {
                    Ok(bytes) if bytes.is_empty() => break,
                    Ok(bytes) => octets += bytes.len() as u64,
                    Err(StoreError::Closing) => return Err(StoreError::Closing),
                    Err(error) => {
                        tracing::warn!(%error, %id, "what it counts for is not known");
                        return Ok(None);
                    }
                }
            }
            if octets > 0 && found.replace((usage.generation, octets)).is_some() {
                return Ok(None);
            }
        }
        Ok(found)
    }
}

fn slice(
    read: &dyn Read,
    ids: &[QueueId],
    command: &Command,
    now: Timestamp,
) -> Result<(Batch, Sum), StoreError> {
    let mut edit = Edit::on(read);
    let mut sum = Sum::default();
    let mut generations = BTreeSet::new();
    // Each once: a second change would start from a state that is no more.
    for id in ids.iter().copied().collect::<BTreeSet<_>>() {
        match load::<_, Message, _>(read, &MESSAGE, id) {
            Ok(Some((message, before))) => {
                if message.is_removed() {
                    continue;
                }
                generations.insert(message.body.generation);
                if change(&mut edit, id, message, before, command, now, &mut sum) {
                    sum.messages.push(id);
                }
            }
            Ok(None) => remove_incoming(&mut edit, id, command, &mut sum)?,
            Err(StoreError::Damaged { .. }) => sum.damaged.push(id),
            Err(error) => return Err(error),
        }
    }
    for generation in generations {
        if edit.empties(generation)? {
            sum.emptied.push(generation);
        }
    }
    Ok((edit.finish()?, sum))
}

/// Does the command to one scheduled message; false when it does not apply.
fn change(
    edit: &mut Edit<'_>,
    id: QueueId,
    mut message: Message,
    before: Vec<u8>,
    command: &Command,
    now: Timestamp,
    sum: &mut Sum,
) -> bool {
    if matches!(command, Command::Release) && message.held.is_none() {
        return false;
    }
    edit.check(Check::Equals(MESSAGE.key(id), before));
    edit.leave_held(id, &message);
    let term = message.term();
    match command {
        Command::Hold(reason) => message.held = Some(reason.clone()),
        Command::Release => message.held = None,
        Command::Reroute(way) => message.envelope.relay_override.clone_from(&way.relay),
        Command::Remove | Command::Reschedule(_) => {}
    }
    let to_due = match command {
        Command::Hold(_) | Command::Remove => None,
        Command::Release | Command::Reroute(_) => Some(now),
        Command::Reschedule(due) => Some(*due),
    };
    let is_held = message.held.is_some();
    if let Shape::Inline(jobs) = &mut message.shape {
        for job in jobs.iter_mut().filter(|job| is_open(job)) {
            let job_id = JobId { queue_id: id, number: job.number };
            edit.unready(job_id, term, job);
            if let Command::Reroute(way) = command {
                reroute(job, way);
            }
            job.due = to_due.unwrap_or(job.due);
            if to_due.is_some() && !is_held {
                edit.ready(job_id, term, job);
            }
        }
        if let Command::Remove = command {
            // What it stood in is taken away by the one that knows all of it.
            edit.enter_held(id, &message);
            edit.leave(id, &message);
            return true;
        }
    }
    if let Shape::List(list) = &mut message.shape {
        let change = match (command, to_due) {
            (Command::Remove, _) => Change::Remove,
            (_, Some(due)) if !is_held => Change::Due(due),
            // A held list stays out of READY; released, it is due at once whatever its times were.
            (_, _) => Change::Rest,
        };
        list.sweep = Some(Sweep { change, next: 0 });
        edit.mark(&LISTS, id);
        sum.lists.push(id);
    }
    match command {
        Command::Remove => edit.count_message(&message, -1),
        Command::Hold(_) | Command::Release | Command::Reschedule(_) | Command::Reroute(_) => {
            edit.enter_held(id, &message);
        }
    }
    edit.put(&MESSAGE, id, &message);
    true
}

/// The open recipients of a job share a destination, so the first one speaks for all.
fn reroute(job: &mut EntryJob, way: &Reroute) {
    let first = job.recipients.iter().find(|recipient| recipient.state.is_open());
    if let Some(to) = first.and_then(|recipient| (way.to)(&recipient.address)) {
        job.destination = to;
    }
}

/// A message of INCOMING: removed at once; due already; held ones have been moved before.
fn remove_incoming(
    edit: &mut Edit<'_>,
    id: QueueId,
    command: &Command,
    sum: &mut Sum,
) -> Result<(), StoreError> {
    let Command::Remove = command else { return Ok(()) };
    match load::<_, Incoming, _>(edit.read(), &INCOMING, id) {
        Ok(Some((incoming, before))) => {
            edit.check(Check::Equals(INCOMING.key(id), before));
            edit.delete_incoming(id, &incoming.envelope, incoming.held.is_some());
            sum.freed += incoming.envelope.size;
            sum.messages.push(id);
        }
        Ok(None) => {}
        Err(StoreError::Damaged { .. }) => sum.damaged.push(id),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The keys of jobs in tables where they do not stand under their queue IDs: what a record says that cannot be read. Reads these tables
/// as a whole.
pub(super) fn keys_elsewhere(
    read: &dyn Read,
    is_wanted: impl Fn(&JobId) -> bool,
) -> Result<Vec<Key>, StoreError> {
    let mut found = Vec::new();
    for (start, end) in [READY.all(), DEADLINE.all(), BY.all()] {
        let mut start = start;
        loop {
            let keys = read.keys(&start..&end, SCAN_SLICE, false)?;
            let Some(last) = keys.last() else { break };
            start = key::after(last.clone());
            let of_it = |key: &Key| match key.first() {
                Some(prefix) if *prefix == READY.prefix => {
                    READY.parse(key).is_ok_and(|(_, _, job)| is_wanted(&job))
                }
                Some(prefix) if *prefix == BY.prefix => {
                    BY.parse(key).is_ok_and(|(_, _, job)| is_wanted(&job))
                }
                _ => DEADLINE.parse(key).is_ok_and(|(_, _, _, _, job)| is_wanted(&job)),
            };
            found.extend(keys.into_iter().filter(of_it));
        }
    }
    Ok(found)
}

/// What taking away a message whose record cannot be read did.
struct Forgotten {
    messages: u64,
    /// Octets in INCOMING.
    freed: u64,
    /// The generation whose last message it was.
    emptied: Option<u32>,
}

/// Takes away every row of a message whose record cannot be read, and what it counted for: its octets are those of its body. When it
/// is not known where that is (`body`), they stay counted (I8, I9 are off by it): its body file is kept rather than one message too
/// few.
fn forget_damaged(
    read: &dyn Read,
    id: QueueId,
    elsewhere: &[Key],
    body: Option<(u32, u64)>,
) -> Result<(Batch, Forgotten), StoreError> {
    let mut edit = Edit::on(read);
    let in_message = read.get(&MESSAGE.key(id))?.is_some();
    let in_incoming = read.get(&INCOMING.key(id))?.is_some();
    edit.count(COUNT_MESSAGE, -i64::from(in_message));
    edit.count(COUNT_INCOMING, -i64::from(in_incoming));
    if read.get(&HELD.key(id))?.is_some() {
        edit.count(COUNT_HELD, -1);
    }
    let mut freed = 0;
    if in_incoming {
        let (start, end) = INCOMING_BODY.under(id);
        let pieces = read.range(&start..&end, usize::MAX, false)?;
        freed = pieces.iter().map(|(_, piece)| piece.len() as u64).sum();
        edit.count(COUNT_INCOMING_OCTETS, -(freed as i64));
        if counter(read, &COUNT.key(COUNT_INCOMING_HELD))? > held_in_incoming(read)? {
            edit.count(COUNT_INCOMING_HELD, -1);
        }
    }
    let mut emptied = None;
    if let Some((generation, octets)) = body.filter(|_| in_message) {
        edit.count(COUNT_MESSAGE_OCTETS, -(octets as i64));
        edit.count_out_body(generation, octets);
        emptied = edit.empties(generation)?.then_some(generation);
    }
    edit.delete_elsewhere(elsewhere);
    edit.delete(&HELD, id);
    edit.delete(&LISTS, id);
    edit.delete(&PROGRESS, id);
    let mut batch = edit.finish()?;
    batch.delete_ranges.extend([
        INCOMING.under(id),
        INCOMING_BODY.under(id),
        MESSAGE.under(id),
        RECIPIENTS.under(id),
        STAGED.under(id),
        UNREPORTED.under(id),
    ]);
    Ok((batch, Forgotten { messages: u64::from(in_message || in_incoming), freed, emptied }))
}

/// Held messages of INCOMING, counted: INCOMING is bounded, and this is for a record that does not tell any more.
fn held_in_incoming(read: &dyn Read) -> Result<i64, StoreError> {
    let (mut start, end) = INCOMING.all();
    let mut held = 0;
    loop {
        let rows = read.range(&start..&end, SCAN_SLICE, false)?;
        let Some((last, _)) = rows.last() else { return Ok(held) };
        start = key::after(last.clone());
        let is_held = |value: &[u8]| Incoming::decode(value).is_ok_and(|row| row.held.is_some());
        held += rows.iter().filter(|(_, value)| is_held(value)).count() as i64;
    }
}

/// Sets one message aside, wherever it stands: a message of INCOMING stays there, as its body may be what cannot be read.
fn set_aside(
    read: &dyn Read,
    id: QueueId,
    reason: &str,
    now: Timestamp,
) -> Result<(Batch, Sum), StoreError> {
    let incoming = match load::<_, Incoming, _>(read, &INCOMING, id) {
        Ok(incoming) => incoming,
        Err(StoreError::Damaged { .. }) => None,
        Err(error) => return Err(error),
    };
    let Some((mut incoming, before)) = incoming else {
        return slice(read, &[id], &Command::Hold(reason.to_owned()), now);
    };
    let mut edit = Edit::on(read);
    let mut sum = Sum::default();
    if incoming.held.is_none() {
        incoming.held = Some(reason.to_owned());
        edit.check(Check::Equals(INCOMING.key(id), before));
        edit.put(&INCOMING, id, &incoming);
        edit.count(COUNT_INCOMING_HELD, 1);
        sum.messages.push(id);
    }
    Ok((edit.finish()?, sum))
}
