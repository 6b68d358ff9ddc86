//! Evacuation: a body file of which little is still wanted gives its last bodies to the current one, and goes.
//!
//! A generation goes as a whole, when its last message is gone, so one message that stays for days would keep a file of a gigabyte.
//! When less than a quarter of a closed one is referenced, MESSAGE is walked once, in slices; the bodies found in it are
//! copied to the current generation and sealed there, and then one batch changes the references, each only if the message
//! still names the old place. What is left without references goes as any empty generation does (`keeper.rs`).
//!
//! It is slow on purpose: a slice is bounded, and pauses follow in proportion to it. It may end at any point: a copy that nobody names
//! is an orphan of its generation, as after a crash. Who read the old place before, and finds it gone, asks for the new one
//! ([`Core::moved_body`]).

use std::collections::BTreeSet;
use std::time::Duration;

use super::body::Staging;
use super::edit::{Edit, counter, load, parse};
use super::engine::{Batch, Check, Read};
use super::keeper::Errand;
use super::key::{self, KeyRange};
use super::message::{Body, Message};
use super::park::{body_of, join};
use super::record::{Record, damaged};
use super::schema::*;
use super::writer::Class;
use super::{Core, StoreError};
use crate::mail::queue_id::QueueId;

/// How often it is looked whether a generation is sparse.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// A generation is sparse when less than this part of its file is referenced.
const LIVE_PART: u64 = 4;

/// How much is done at a time.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    /// Rows of MESSAGE in one slice.
    pub rows: usize,
    /// Bodies in one slice.
    pub messages: usize,
    /// Octets of bodies in one slice; a larger body is one alone.
    pub octets: u64,
    /// After each slice, and once more for each time that many octets were copied.
    pub pause: Duration,
}

/// At most 4 000 rows and 20 MiB in a second.
const PACE: Pace =
    Pace { rows: 200, messages: 64, octets: 1 << 20, pause: Duration::from_millis(50) };

/// A body that is to move.
#[derive(Clone, Copy)]
struct Move {
    id: QueueId,
    from: Body,
    octets: u64,
}

impl Core {
    /// Evacuates what is sparse, from time to time, for ever; to be dropped when the store closes.
    pub(super) async fn keep_evacuating(&self) {
        let mut tried = BTreeSet::new();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match self.evacuate(&mut tried, PACE).await {
                Ok(()) | Err(StoreError::Closing) => {}
                Err(error) => tracing::warn!(%error, "sparse body files cannot be emptied now"),
            }
        }
    }

    /// One pass over MESSAGE for all generations that are sparse now. Those it cannot empty are added to `tried`, and not tried again.
    ///
    /// # Errors
    /// `Full`, `Busy`, `Unavailable`, `Closing`: what was moved is moved.
    pub(super) async fn evacuate(
        &self,
        tried: &mut BTreeSet<u32>,
        pace: Pace,
    ) -> Result<(), StoreError> {
        let sparse = self.sparse()?.difference(tried).copied().collect::<BTreeSet<u32>>();
        if sparse.is_empty() {
            return Ok(());
        }
        tracing::info!(?sparse, "body files with little left in them are being emptied");
        let mut range = MESSAGE.all();
        while let Some(found) = self.find(&sparse, &mut range, pace)? {
            let octets: u64 = found.iter().map(|found| found.octets).sum();
            if !found.is_empty() {
                self.move_bodies(found).await?;
                if self.referenced(&sparse)?.is_empty() {
                    break;
                }
            }
            let times = 1 + octets / pace.octets.max(1);
            tokio::time::sleep(pace.pause * u32::try_from(times).unwrap_or(u32::MAX)).await;
        }
        // A damaged record or body keeps its file.
        let left = self.referenced(&sparse)?;
        tried.extend(&left);
        if !left.is_empty() {
            tracing::warn!(?left, "body files could not be emptied");
        }
        sparse.into_iter().for_each(|generation| self.leave(Errand::Generation(generation)));
        Ok(())
    }

    /// Generations that are worth it: complete, with something in them that is wanted, and not much.
    fn sparse(&self) -> Result<BTreeSet<u32>, StoreError> {
        let usage = self.bodies.usage();
        let snapshot = self.writer.snapshot()?;
        let mut sparse = BTreeSet::new();
        for usage in usage.iter().filter(|u| !u.current && u.pins == 0 && u.readable) {
            let octets = counter(&*snapshot, &BODYGEN.key((usage.generation, BODY_OCTETS)))?;
            let octets = u64::try_from(octets).unwrap_or(0);
            if octets > 0 && octets < usage.bytes / LIVE_PART {
                sparse.insert(usage.generation);
            }
        }
        Ok(sparse)
    }

    /// Those of the generations that a message names.
    fn referenced(&self, generations: &BTreeSet<u32>) -> Result<BTreeSet<u32>, StoreError> {
        let snapshot = self.writer.snapshot()?;
        let mut referenced = BTreeSet::new();
        for generation in generations {
            if counter(&*snapshot, &BODYGEN.key((*generation, BODY_MESSAGES)))? != 0 {
                referenced.insert(*generation);
            }
        }
        Ok(referenced)
    }

    /// What is to move among the next rows; `range` goes on behind them. None at the end.
    fn find(
        &self,
        sparse: &BTreeSet<u32>,
        range: &mut KeyRange,
        pace: Pace,
    ) -> Result<Option<Vec<Move>>, StoreError> {
        let rows = self.writer.snapshot()?.range(&range.0..&range.1, pace.rows, false)?;
        if rows.is_empty() {
            return Ok(None);
        }
        let mut found: Vec<Move> = Vec::new();
        let mut octets = 0;
        for (key, value) in rows {
            let id = parse(&MESSAGE, &key);
            let message = Message::decode(&value)
                .map_err(|error| damaged(super::edit::describe(MESSAGE.name, &key), error));
            let (id, message) = match (id, message) {
                (Ok(id), Ok(message)) => (id, message),
                (Err(error), _) | (_, Err(error)) => {
                    tracing::warn!(%error, "left where it is");
                    range.0 = key::after(key);
                    continue;
                }
            };
            if sparse.contains(&message.body.generation) {
                let size = message.envelope.size;
                let fits = found.len() < pace.messages && octets + size <= pace.octets;
                if !fits && !found.is_empty() {
                    break;
                }
                octets += size;
                found.push(Move { id, from: message.body, octets: size });
            }
            range.0 = key::after(key);
        }
        Ok(Some(found))
    }

    /// Copies the bodies, then has the messages name the copies.
    async fn move_bodies(&self, found: Vec<Move>) -> Result<(), StoreError> {
        let copied = join(found.into_iter().map(|found| self.copy_body(found))).await;
        let copied: Vec<Option<(Move, Staging)>> = copied.into_iter().collect::<Result<_, _>>()?;
        let copied: Vec<(Move, Staging)> = copied.into_iter().flatten().collect();
        let moves: Vec<(Move, u32)> =
            copied.iter().map(|(one, staging)| (*one, body_of(staging).generation)).collect();
        let change = move |read: &dyn Read| Ok((change_references(read, &moves)?, ()));
        self.writer.apply(Class::Lazy, 0, change).await?;
        // Until now they kept the file of the copies.
        drop(copied);
        Ok(())
    }

    /// A durable copy in the current generation; none when the body cannot be read.
    async fn copy_body(&self, found: Move) -> Result<Option<(Move, Staging)>, StoreError> {
        let Move { id, from, octets } = found;
        match self.bodies.copy(from.generation, from.key.unwrap_or(id), octets).await {
            Ok(staging) => Ok(Some((found, staging))),
            Err(error @ StoreError::Damaged { .. }) => {
                tracing::error!(%error, %id, "the body of a message cannot be read");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Where a body is now that was read, or about to be, from `generation`; none when its message does not name another.
    ///
    /// # Errors
    /// `Damaged`, `Unavailable`, `Closing`.
    pub(super) fn moved_body(
        &self,
        generation: u32,
        key: QueueId,
    ) -> Result<Option<u32>, StoreError> {
        let snapshot = self.writer.snapshot()?;
        let message = load::<_, Message, _>(&*snapshot, &MESSAGE, key)?;
        Ok(message.and_then(|(Message { body, .. }, _)| {
            (body.generation != generation && body.key.is_none_or(|own| own == key))
                .then_some(body.generation)
        }))
    }
}

/// Has each message name its copy that still names the old place.
fn change_references(read: &dyn Read, moves: &[(Move, u32)]) -> Result<Batch, StoreError> {
    let mut edit = Edit::on(read);
    for (Move { id, from, .. }, generation) in moves {
        let Some((mut message, before)) = load::<_, Message, _>(read, &MESSAGE, *id)? else {
            continue;
        };
        if message.body == *from {
            edit.check(Check::Equals(MESSAGE.key(*id), before));
            edit.move_body(*id, &mut message, Body { generation: *generation, ..*from });
        }
    }
    edit.finish()
}
