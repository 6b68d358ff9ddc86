//! Compaction: a file that is mostly free is copied to a new one, beside the work, and exchanged for it.
//!
//! A page store uses freed pages again and cuts off what is free at its end, but one live page near the end keeps the whole file. So
//! what is live is copied in key order, one bounded slice at a time, by the thread that commits, between its groups. Everything
//! up to the *cursor* is in the draft; what a group changes there meanwhile goes to the draft with the next slice, what it
//! changes behind the cursor will be copied. The slice that reaches the end makes both equal, and before any other group the
//! engine makes the draft durable and gives it the file's name.
//!
//! What the caller knows of how much is live may be much too little, so before anything is written it is counted: key by key, in slices
//! like those of the copy, until all of it or too much is found. In a file with much in it that ends after a quarter of its length.
//!
//! Until that moment the draft is worth nothing: an error of it, a commit of unknown outcome, the end of the process or a power
//! cut drop it, and the file is as it was. After it the old file is only for those who read a snapshot of it. At the moment itself
//! both hold the same, so whichever a power cut leaves under the name is right.

use super::group::Changes;
use super::{EngineError, Key, Read};

/// A file up to this size is left as it is: it would be as large again soon.
const FILE_MIN: u64 = 64 << 20;
/// It is worth it when less than this part of the file is live.
const LIVE_PART: u64 = 4;
/// It is given up when more than this part turns out to be: how much is live was an estimate.
const LIVE_PART_MAX: u64 = 2;
/// Octets of a slice: some milliseconds of the writer's time, its sync included.
const SLICE_OCTETS: usize = 1 << 20;
/// Pairs read at a time; with the largest values some 6 MiB.
const SLICE_PAIRS: usize = 64;
/// Above every key: no table has the prefix 0xff, and no row of an engine is missed for beginning so.
const END: &[u8] = &[0xff; 64];

/// What became of a call of [`Engine::compact`](super::Engine::compact).
#[derive(Debug)]
pub enum Compaction {
    /// It is not worth it.
    Unneeded,
    /// More of the file is in use than was said: nothing was written. Not to be asked again soon, as it was read for that.
    InUse,
    /// Under way: more calls are wanted, one after each group at least.
    Going,
    /// The new file has taken the place of the old one.
    Done {
        /// Octets of the old file.
        before: u64,
        /// Octets of the new one.
        after: u64,
    },
    /// It failed, and all is as it was.
    GivenUp(EngineError),
}

/// When it is worth it, and how much one call does. Tests have smaller ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionLimits {
    /// A file up to this size is left as it is, octets.
    pub file_min: u64,
    /// Octets copied by one call.
    pub slice: usize,
}

impl Default for CompactionLimits {
    fn default() -> CompactionLimits {
        CompactionLimits { file_min: FILE_MIN, slice: SLICE_OCTETS }
    }
}

impl CompactionLimits {
    /// Whether a file of `length` octets should be copied when about `live` of them are.
    pub(super) fn wants(self, length: u64, live: u64) -> bool {
        length > self.file_min && live < length / LIVE_PART
    }
}

/// A count of what is live, under way.
pub(super) struct Counting {
    limits: CompactionLimits,
    /// Octets of the file.
    length: u64,
    cursor: Option<Key>,
    /// Octets of keys and values up to it.
    live: u64,
}

impl Counting {
    /// Nothing is counted yet.
    pub fn new(length: u64, limits: CompactionLimits) -> Counting {
        Counting { limits, length, cursor: None, live: 0 }
    }

    /// Counts one slice; when it is known, whether the file should be copied. What groups change meanwhile does not matter: the copy
    /// looks once more.
    ///
    /// # Errors
    /// Of reading the file.
    pub fn step(&mut self, file: &dyn Read) -> Result<Option<bool>, EngineError> {
        let mut octets = 0;
        while octets < self.limits.slice {
            let pairs = file.range(&start_behind(&self.cursor)..END, SLICE_PAIRS, false)?;
            let is_last = pairs.len() < SLICE_PAIRS;
            for (key, value) in pairs {
                octets += key.len() + value.len();
                self.live += (key.len() + value.len()) as u64;
                self.cursor = Some(key);
            }
            if !self.limits.wants(self.length, self.live) {
                return Ok(Some(false));
            }
            if is_last {
                return Ok(Some(true));
            }
        }
        Ok(None)
    }
}

fn start_behind(cursor: &Option<Key>) -> Key {
    let mut start = cursor.clone().unwrap_or_default();
    if cursor.is_some() {
        start.push(0);
    }
    start
}

/// What is being filled.
pub(super) trait Draft {
    /// Applies the changes. What was applied need not survive anything yet.
    fn apply(&mut self, changes: &Changes) -> Result<(), EngineError>;
}

/// A copy under way.
pub(super) struct Copying<D> {
    pub draft: D,
    /// Octets of the file that is copied.
    pub before: u64,
    slice: usize,
    /// The last key that was copied.
    cursor: Option<Key>,
    /// What groups changed up to the cursor since the last slice.
    pending: Changes,
    /// Octets of keys and values copied.
    copied: u64,
}

impl<D: Draft> Copying<D> {
    /// Nothing is copied yet.
    pub fn new(draft: D, before: u64, limits: CompactionLimits) -> Copying<D> {
        Copying {
            draft,
            before,
            slice: limits.slice,
            cursor: None,
            pending: Changes::new(),
            copied: 0,
        }
    }

    /// Takes note of a group that is durable in the file.
    pub fn note(&mut self, changes: &Changes) {
        let Some(cursor) = &self.cursor else { return };
        let copied = changes.range::<Key, _>(..=cursor);
        self.pending.extend(copied.map(|(key, value)| (key.clone(), value.clone())));
    }

    /// Copies one slice of `file`, which is the state after the last group; true when the draft is equal to it.
    ///
    /// # Errors
    /// Of reading the file or writing the draft; `Refused` when too much of the file is live.
    pub fn step(&mut self, file: &dyn Read) -> Result<bool, EngineError> {
        let mut changes = std::mem::take(&mut self.pending);
        let mut octets = 0;
        let mut complete = false;
        while !complete && octets < self.slice {
            let pairs = file.range(&start_behind(&self.cursor)..END, SLICE_PAIRS, false)?;
            complete = pairs.len() < SLICE_PAIRS;
            for (key, value) in pairs {
                octets += key.len() + value.len();
                self.cursor = Some(key.clone());
                changes.insert(key, Some(value));
            }
        }
        self.copied += octets as u64;
        if self.copied > self.before / LIVE_PART_MAX {
            return Err(EngineError::Refused("too much of the file is in use".into()));
        }
        self.draft.apply(&changes)?;
        Ok(complete)
    }
}

#[cfg(test)]
mod tests;
