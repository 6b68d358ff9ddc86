//! A group of units on their way to one commit.
//!
//! The units run in order against the state they start from, and what they change is collected in memory, key by
//! key: a later unit sees what earlier ones did, a counter that a hundred units add to is read once and written once, a
//! key put and deleted in one group is written once at most, and the engine gets the changes in key order. A unit is applied wholly
//! or not at all; one that panics is refused, so a defect in an operation costs that operation and not the writer.
//!
//! The changes are absolute (this key has this value, that key is gone), so they also tell, after a commit with
//! unknown outcome, whether it took place: commits are atomic, so all of them hold or the commit did not happen, and
//! if it did not they can be committed again.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Answer, Applied, Batch, Check, EngineError, Key, Late, Read, Value, Work};

/// How many keys of a deleted range are read at a time: bounds the memory, not the range.
const DELETE_SLICE: usize = 1024;

/// What the keys are to be: a value, or gone.
pub(super) type Changes = BTreeMap<Key, Option<Value>>;

/// What is to be committed, and what the units are told once it is.
pub(super) struct Outcome {
    pub changes: Changes,
    pub answers: Vec<Answer>,
}

impl Outcome {
    /// Whether this is the state of `read`: see the head of this file.
    pub fn holds_in(&self, read: &dyn Read) -> Result<bool, EngineError> {
        for (key, value) in &self.changes {
            if read.get(key)? != *value {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Runs the units on `base`. An error is one of reading `base`, and the group's.
pub(super) fn run(base: &dyn Read, units: Vec<Work>) -> Result<Outcome, EngineError> {
    let mut group = Group { base, changes: Changes::new() };
    let mut answers = Vec::with_capacity(units.len());
    for unit in units {
        let batch = match unit {
            Work::Batch(batch) => Ok(batch),
            Work::Late(late) => call(late, &group),
        };
        match batch.and_then(|batch| group.apply(batch)) {
            Ok(applied) => answers.push(Ok(applied)),
            Err(error @ (EngineError::Refused(_) | EngineError::Corrupt { .. })) => {
                answers.push(Err(error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Outcome { changes: group.changes, answers })
}

/// Calls a late-bound unit; its panic is its refusal. It cannot leave anything of ours half-changed: it only reads.
fn call(mut late: Late, state: &dyn Read) -> Result<Batch, EngineError> {
    catch_unwind(AssertUnwindSafe(|| late(state))).unwrap_or_else(|panic| {
        let what = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        Err(EngineError::Refused(format!("defect in the operation: {what}")))
    })
}

struct Group<'a> {
    base: &'a dyn Read,
    changes: Changes,
}

impl Group<'_> {
    /// Applies the batch, or nothing of it. Everything that can fail for the unit alone comes first.
    fn apply(&mut self, batch: Batch) -> Result<Applied, EngineError> {
        for (place, check) in batch.checks.iter().enumerate() {
            if !self.holds(check)? {
                return Ok(Applied::Conflict(place));
            }
        }
        let sums = self.sums(batch.adds)?;
        for (start, end) in &batch.delete_ranges {
            self.delete_range(start, end)?;
        }
        self.changes.extend(batch.deletes.into_iter().map(|key| (key, None)));
        self.changes.extend(batch.puts.into_iter().map(|(key, value)| (key, Some(value))));
        self.changes.extend(sums.into_iter().map(|(key, sum)| {
            (key, if sum == 0 { None } else { Some(sum.to_be_bytes().to_vec()) })
        }));
        Ok(Applied::Committed)
    }

    fn holds(&self, check: &Check) -> Result<bool, EngineError> {
        Ok(match check {
            Check::Absent(key) => self.get(key)?.is_none(),
            Check::Present(key) => self.get(key)?.is_some(),
            Check::Equals(key, value) => self.get(key)?.as_ref() == Some(value),
        })
    }

    fn sums(&self, adds: Vec<(Key, i64)>) -> Result<BTreeMap<Key, i64>, EngineError> {
        let mut sums: BTreeMap<Key, i64> = BTreeMap::new();
        for (key, delta) in adds {
            let before = match sums.get(&key) {
                Some(sum) => *sum,
                None => counter(&key, self.get(&key)?.as_deref())?,
            };
            let sum = before.checked_add(delta).ok_or_else(|| EngineError::Corrupt {
                what: format!("counter {key:02x?}"),
                detail: format!("{before} + {delta} overflows"),
            })?;
            sums.insert(key, sum);
        }
        Ok(sums)
    }

    fn delete_range(&mut self, start: &[u8], end: &[u8]) -> Result<(), EngineError> {
        if start >= end {
            return Ok(());
        }
        let written: Vec<Key> = self.written(start..end).map(|(key, _)| key.clone()).collect();
        for key in &written {
            self.changes.remove(key);
        }
        let mut from = start.to_vec();
        loop {
            let keys = self.base.keys(&from..end, DELETE_SLICE, false)?;
            let full = keys.len() == DELETE_SLICE;
            if let Some(last) = keys.last() {
                from.clone_from(last);
                from.push(0);
            }
            self.changes.extend(keys.into_iter().map(|key| (key, None)));
            if !full {
                return Ok(());
            }
        }
    }

    /// What this group has changed in a range.
    fn written(
        &self,
        range: Range<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (&Key, &Option<Value>)> {
        // BTreeMap panics on a range that ends before it starts; a caller's empty range is no defect.
        let end = range.end.max(range.start);
        self.changes.range::<[u8], _>((Bound::Included(range.start), Bound::Excluded(end)))
    }

    /// The first `limit` of base and changes together. `fetch` reads the base, `keep` makes the item of a change.
    fn merge<T>(
        &self,
        range: Range<&[u8]>,
        limit: usize,
        reverse: bool,
        fetch: impl FnOnce(usize) -> Result<Vec<(Key, T)>, EngineError>,
        keep: impl Fn(&Value) -> T,
    ) -> Result<Vec<(Key, T)>, EngineError> {
        // Each change can hide one pair of the base, so this many more are enough to fill the limit.
        let fetched = fetch(limit.saturating_add(self.written(range.clone()).count()))?;
        let mut merged: BTreeMap<Key, T> = fetched.into_iter().collect();
        for (key, value) in self.written(range) {
            match value {
                Some(value) => drop(merged.insert(key.clone(), keep(value))),
                None => drop(merged.remove(key)),
            }
        }
        Ok(if reverse {
            merged.into_iter().rev().take(limit).collect()
        } else {
            merged.into_iter().take(limit).collect()
        })
    }
}

impl Read for Group<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Value>, EngineError> {
        match self.changes.get(key) {
            Some(change) => Ok(change.clone()),
            None => self.base.get(key),
        }
    }

    fn range(
        &self,
        range: Range<&[u8]>,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<(Key, Value)>, EngineError> {
        let fetch = |limit| self.base.range(range.clone(), limit, reverse);
        self.merge(range.clone(), limit, reverse, fetch, Value::clone)
    }

    fn keys(
        &self,
        range: Range<&[u8]>,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<Key>, EngineError> {
        let fetch = |limit| {
            let keys = self.base.keys(range.clone(), limit, reverse)?;
            Ok(keys.into_iter().map(|key| (key, ())).collect())
        };
        let merged = self.merge(range.clone(), limit, reverse, fetch, |_| ())?;
        Ok(merged.into_iter().map(|(key, ())| key).collect())
    }
}

fn counter(key: &[u8], value: Option<&[u8]>) -> Result<i64, EngineError> {
    let Some(value) = value else { return Ok(0) };
    let bytes = value.try_into().map_err(|_| EngineError::Corrupt {
        what: format!("counter {key:02x?}"),
        detail: format!("{} octets", value.len()),
    })?;
    Ok(i64::from_be_bytes(bytes))
}
