//! The engine: ordered byte keys, snapshots, and batches that commit together.
//!
//! The operations of the store are written once against this trait. Implementations: [`redb`] (the embedded
//! default), [`mem`] (tests: keeps unsynced writes apart and can cut the power), later one that speaks the
//! PostgreSQL wire protocol. So: no transaction stays open between calls, values stay under 1 MiB, and every
//! record carries a revision that a batch can check.
//!
//! A batch is either written out, or *late-bound*: a function of the state at its place in the group. An embedded
//! engine runs it inside its write transaction, so it never conflicts; a remote one runs it on a snapshot
//! and relies on the checks the function puts into its batch, and calls it again after a conflict.

mod ahead;
mod compact;
mod group;
pub mod mem;
mod place;
pub mod redb;
pub mod sim_disk;

#[cfg(test)]
mod conformance;

use std::ops::Range;
use std::sync::Arc;

pub use self::compact::{Compaction, CompactionLimits};
pub use self::place::Place;
pub(in crate::store) use self::place::{open_again, open_file, sync_directory_of};

/// An ordered byte key: a table's prefix byte, then an order-preserving tuple (`schema.rs`).
pub type Key = Vec<u8>;
/// A value: a format byte, then a record (`record.rs`).
pub type Value = Vec<u8>;

/// Reads of one consistent state.
pub trait Read {
    /// The value under `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Value>, EngineError>;

    /// Up to `limit` pairs with keys in `range`, in order (from the end when `reverse`).
    fn range(
        &self,
        range: Range<&[u8]>,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<(Key, Value)>, EngineError>;

    /// As [`Read::range`], the keys only: cheaper where values are large or not wanted.
    fn keys(
        &self,
        range: Range<&[u8]>,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<Key>, EngineError> {
        Ok(self.range(range, limit, reverse)?.into_iter().map(|(key, _)| key).collect())
    }
}

/// What must hold for a batch to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// No such key.
    Absent(Key),
    /// The key is there.
    Present(Key),
    /// The key's value is exactly this one.
    Equals(Key, Value),
}

/// Changes that are applied together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// All must hold before anything is applied.
    pub checks: Vec<Check>,
    /// Applied in the order: delete ranges, deletes, puts, adds. A range is start..end, end not included.
    pub delete_ranges: Vec<(Key, Key)>,
    /// Keys to delete; absent ones are no error.
    pub deletes: Vec<Key>,
    /// Pairs to put.
    pub puts: Vec<(Key, Value)>,
    /// Signed deltas to little counters: value is an `i64`, big-endian; an absent one is 0, one that becomes 0 goes.
    /// A key that is added to is not also put or deleted by the same batch.
    pub adds: Vec<(Key, i64)>,
}

/// A function of the state that yields the batch. It may be called more than once; it must have no other effect
/// than what its last call left behind.
pub type Late = Box<dyn FnMut(&dyn Read) -> Result<Batch, EngineError> + Send>;

/// One unit of a group.
pub enum Work {
    /// Known beforehand.
    Batch(Batch),
    /// Known from the state at its place in the group.
    Late(Late),
}

/// What became of one unit of a group whose commit succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is durable.
    Committed,
    /// This check (by its place in the batch) did not hold; nothing of the batch was applied.
    Conflict(usize),
}

/// What one unit of a group is told. Its own `Err` is [`EngineError::Refused`] or [`EngineError::Corrupt`]: nothing of the
/// unit was applied, the rest of the group was.
pub type Answer = Result<Applied, EngineError>;

/// What went wrong below. An error of [`Engine::commit`] leaves the outcome of the **whole group** unknown:
/// [`Engine::reopen`] finds it out.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No space left (ENOSPC, EDQUOT).
    #[error("no space left for {what}")]
    Full {
        /// Which file.
        what: String,
    },
    /// Any other I/O error; the handle refuses writes from now on.
    #[error("{what}: {source}")]
    Io {
        /// Which file, doing what.
        what: String,
        /// The cause.
        source: std::io::Error,
    },
    /// What is stored is not what we wrote.
    #[error("{what} is damaged: {detail}")]
    Corrupt {
        /// Which file or key.
        what: String,
        /// How.
        detail: String,
    },
    /// Another process has it.
    #[error("{what} is in use by another process")]
    Locked {
        /// Which file.
        what: String,
    },
    /// The operation's own refusal, carried out of a late-bound batch; nothing of it was applied.
    #[error("refused: {0}")]
    Refused(String),
}

/// Hands out snapshots, to any thread, beside the writer.
pub trait Snapshots: Send + Sync {
    /// A snapshot of the last commit. Cheap; hold it for seconds at most. It dies with the next [`Engine::reopen`]: its
    /// reads fail then. It outlives an exchange of the files by [`Engine::compact`], and keeps the old one's space until it goes.
    fn snapshot(&self) -> Result<Box<dyn Read + Send>, EngineError>;
}

/// An ordered key-value store with one writer.
pub trait Engine: Send {
    /// Where snapshots come from. Stays valid over [`Engine::reopen`].
    fn snapshots(&self) -> Arc<dyn Snapshots>;

    /// Applies the group in order and commits once, durably. One answer for each unit, in their order. A late-bound
    /// unit that is refused, finds a damaged record or panics fails alone; any other error fails the whole group,
    /// whose outcome is then unknown: nothing but [`Engine::reopen`] may follow.
    fn commit(&mut self, group: Vec<Work>) -> Result<Vec<Answer>, EngineError>;

    /// Opens the files again after an error of [`Engine::commit`], and finds out about the group in doubt: its answers
    /// when all of it is durable, `None` when nothing of it is there. Instant, whatever the size of the files.
    fn reopen(&mut self) -> Result<Option<Vec<Answer>>, EngineError>;

    /// Commits the group that [`Engine::reopen`] has just found missing once more, on the new handle, with the effects and
    /// answers it had. Only directly after that. `None` when the group failed before its effects were known.
    fn repeat(&mut self) -> Result<Option<Vec<Answer>>, EngineError>;

    /// Gives disk space back by a bounded step (`compact.rs`): begins when `live`, how many octets of keys and values there are at
    /// least, is little beside what the files take, and goes on when it has begun; `live` does not matter then. Never changes what is
    /// read.
    /// While it is under way, call it after each group. An error leaves it unknown which file has the name, both of the same content:
    /// nothing may be committed any more.
    fn compact(&mut self, live: u64) -> Result<Compaction, EngineError>;

    /// Closes the files cleanly. Without it the next open has a little more to do, and loses nothing.
    fn close(self: Box<Self>) -> Result<(), EngineError>;
}
