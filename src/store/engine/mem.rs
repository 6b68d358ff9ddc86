//! An engine in memory, for tests: it keeps what is synced apart from what is not, fails when told to, and can lose power.
//!
//! A [`MemDisk`] outlives the engines opened on it. Commits are numbered from 1 over the disk's life; a fault is planned for a
//! number. A commit without a fault is synced when it is answered.
//!
//! Its "file" grows with every put and shrinks only by [`Engine::compact`], whose steps are numbered likewise; that the copy is
//! equal to the file is asserted at each exchange.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::{Bound, Range};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::compact::{Copying, Counting, Draft};
use super::group::{self, Changes, Outcome};
use super::{
    Answer, Compaction, CompactionLimits, Engine, EngineError, Key, Read, Snapshots, Value, Work,
};

type Map = BTreeMap<Key, Value>;

/// How a planned commit fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// As on a full disk.
    Full {
        /// Whether the commit took place all the same.
        applied: bool,
    },
    /// As on a broken one.
    Io {
        /// Whether the commit took place all the same.
        applied: bool,
    },
    /// The engine panics in the commit.
    Panic,
    /// It takes until [`MemDisk::let_go`].
    Hang,
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemDisk {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    synced: Map,
    /// What readers see: synced and unsynced.
    live: Arc<Map>,
    unsynced: VecDeque<Changes>,
    commits: u64,
    units: Vec<usize>,
    faults: BTreeMap<u64, Fault>,
    reopen_fails: bool,
    held: bool,
    waiting: bool,
    limits: CompactionLimits,
    /// Octets put since the last exchange.
    length: u64,
    steps: u64,
    step_faults: BTreeMap<u64, Fault>,
    exchanges: u64,
    /// Rows given to readers, by the first octet of their keys.
    read: BTreeMap<u8, u64>,
}

impl MemDisk {
    /// An empty disk.
    pub fn new() -> MemDisk {
        MemDisk::default()
    }

    /// An engine on this disk. At most one at a time.
    pub fn engine(&self) -> MemEngine {
        MemEngine { disk: self.clone(), broken: false, doubt: None, counting: None, copying: None }
    }

    /// The `number`-th commit (from 1) fails so.
    pub fn fail_commit(&self, number: u64, fault: Fault) {
        self.state().faults.insert(number, fault);
    }

    /// Whether opening again fails from now on.
    pub fn fail_reopen(&self, fails: bool) {
        self.state().reopen_fails = fails;
    }

    /// Compacts from other sizes on.
    pub fn compact_with(&self, limits: CompactionLimits) {
        self.state().limits = limits;
    }

    /// The file is this much longer, of nothing, until the next exchange.
    pub fn bloat(&self, octets: u64) {
        self.state().length += octets;
    }

    /// The `number`-th step of copying (from 1) fails so: `Full` and `Panic` in the draft, `Io` in the exchange, if that is the
    /// step, where `applied` says which file has the name after it.
    pub fn fail_step(&self, number: u64, fault: Fault) {
        self.state().step_faults.insert(number, fault);
    }

    /// Steps of copying so far.
    pub fn steps(&self) -> u64 {
        self.state().steps
    }

    /// Exchanges so far.
    pub fn exchanges(&self) -> u64 {
        self.state().exchanges
    }

    /// Commits wait from now on, as on a disk that hangs, until [`MemDisk::let_go`].
    pub fn hold(&self) {
        self.state().held = true;
    }

    /// Commits go on.
    pub fn let_go(&self) {
        self.state().held = false;
        self.shared.moved.notify_all();
    }

    /// Waits until a commit is waiting for [`MemDisk::let_go`].
    pub fn wait_for_commit(&self) {
        let mut state = self.state();
        while !state.waiting {
            state = self.shared.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Everything that is not synced is gone. Engines opened before must not be used again.
    pub fn cut_power(&self) {
        let mut state = self.state();
        state.unsynced.clear();
        state.live = Arc::new(state.synced.clone());
    }

    /// Commits so far, failed ones included.
    pub fn commits(&self) -> u64 {
        self.state().commits
    }

    /// How many units each commit had.
    pub fn units(&self) -> Vec<usize> {
        self.state().units.clone()
    }

    /// Every pair that would survive a power cut.
    pub fn synced(&self) -> BTreeMap<Key, Value> {
        self.state().synced.clone()
    }

    /// How many rows of a table (by the prefix of its keys) readers were given.
    pub fn rows_read(&self, prefix: u8) -> u64 {
        self.state().read.get(&prefix).copied().unwrap_or(0)
    }

    fn snapshot_now(&self) -> Snapshot {
        Snapshot { map: Arc::clone(&self.state().live), disk: self.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A planned panic strikes while nothing is half-changed.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What a sync does.
    fn sync(&mut self) {
        while let Some(changes) = self.unsynced.pop_front() {
            apply(&mut self.synced, changes);
        }
    }
}

fn apply(map: &mut Map, changes: Changes) {
    for (key, value) in changes {
        match value {
            Some(value) => drop(map.insert(key, value)),
            None => drop(map.remove(&key)),
        }
    }
}

/// An engine on a [`MemDisk`].
pub struct MemEngine {
    disk: MemDisk,
    broken: bool,
    doubt: Option<Outcome>,
    counting: Option<Counting>,
    copying: Option<Copying<Map>>,
}

impl Draft for Map {
    fn apply(&mut self, changes: &Changes) -> Result<(), EngineError> {
        apply(self, changes.clone());
        Ok(())
    }
}

fn octets(map: &Map) -> u64 {
    map.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
}

impl MemEngine {
    fn write(&mut self, outcome: Outcome) -> Result<Vec<Answer>, EngineError> {
        let mut state = self.disk.state();
        let commit = state.commits + 1;
        let fault = state.faults.remove(&commit);
        state.held |= fault == Some(Fault::Hang);
        while state.held {
            state.waiting = true;
            self.disk.shared.moved.notify_all();
            state = self.disk.shared.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting = false;
        }
        state.commits = commit;
        state.units.push(outcome.answers.len());
        let (error, applied) = match fault {
            Some(Fault::Panic) => {
                drop(state);
                panic!("planned panic in commit {commit}");
            }
            Some(Fault::Full { applied }) => {
                (Some(EngineError::Full { what: "memory".into() }), applied)
            }
            Some(Fault::Io { applied }) => (Some(planned()), applied),
            Some(Fault::Hang) | None => (None, true),
        };
        if applied {
            let puts = outcome.changes.iter().filter_map(|(k, v)| Some((k, v.as_ref()?)));
            state.length += puts.map(|(key, value)| (key.len() + value.len()) as u64).sum::<u64>();
            apply(Arc::make_mut(&mut state.live), outcome.changes.clone());
            state.unsynced.push_back(outcome.changes.clone());
            state.sync();
        }
        drop(state);
        match error {
            None => {
                if let Some(copying) = &mut self.copying {
                    copying.note(&outcome.changes);
                }
                Ok(outcome.answers)
            }
            Some(error) => {
                self.broken = true;
                self.copying = None;
                self.doubt = Some(outcome);
                Err(error)
            }
        }
    }
}

fn planned() -> EngineError {
    EngineError::Io { what: "memory".into(), source: io::Error::other("planned fault") }
}

impl Engine for MemEngine {
    fn snapshots(&self) -> Arc<dyn Snapshots> {
        Arc::new(self.disk.clone())
    }

    fn commit(&mut self, units: Vec<Work>) -> Result<Vec<Answer>, EngineError> {
        if self.broken {
            return Err(planned());
        }
        self.doubt = None;
        let base = self.disk.snapshot_now();
        let outcome = group::run(&base, units)?;
        drop(base);
        self.write(outcome)
    }

    fn reopen(&mut self) -> Result<Option<Vec<Answer>>, EngineError> {
        let state = self.disk.state();
        if state.reopen_fails {
            return Err(planned());
        }
        drop(state);
        let base = self.disk.snapshot_now();
        self.broken = false;
        match &self.doubt {
            Some(outcome) if outcome.holds_in(&base)? => {
                Ok(self.doubt.take().map(|outcome| outcome.answers))
            }
            _ => Ok(None),
        }
    }

    fn repeat(&mut self) -> Result<Option<Vec<Answer>>, EngineError> {
        match self.doubt.take() {
            Some(outcome) => self.write(outcome).map(Some),
            None => Ok(None),
        }
    }

    fn compact(&mut self, live: u64) -> Result<Compaction, EngineError> {
        let mut state = self.disk.state();
        let Some(mut copying) = self.copying.take() else {
            let (length, limits) = (state.length, state.limits);
            drop(state);
            let mut counting = match self.counting.take() {
                Some(counting) => counting,
                None if limits.wants(length, live) => Counting::new(length, limits),
                None => return Ok(Compaction::Unneeded),
            };
            match counting.step(&self.disk.snapshot_now())? {
                None => self.counting = Some(counting),
                Some(true) => self.copying = Some(Copying::new(Map::new(), length, limits)),
                Some(false) => return Ok(Compaction::InUse),
            }
            return Ok(Compaction::Going);
        };
        state.steps += 1;
        let step = state.steps;
        let fault = state.step_faults.remove(&step);
        match fault {
            Some(Fault::Full { .. }) => {
                return Ok(Compaction::GivenUp(EngineError::Full { what: "the copy".into() }));
            }
            Some(Fault::Panic) => {
                drop(state);
                panic!("planned panic in step {step}");
            }
            Some(Fault::Io { .. } | Fault::Hang) | None => {}
        }
        // Reading takes the lock; nobody else changes the rows meanwhile.
        drop(state);
        match copying.step(&self.disk.snapshot_now()) {
            Ok(false) => self.copying = Some(copying),
            Ok(true) => return exchange(&mut self.disk.state(), copying, fault),
            Err(error) => return Ok(Compaction::GivenUp(error)),
        }
        Ok(Compaction::Going)
    }

    fn close(self: Box<Self>) -> Result<(), EngineError> {
        Ok(())
    }
}

fn exchange(
    state: &mut State,
    copying: Copying<Map>,
    fault: Option<Fault>,
) -> Result<Compaction, EngineError> {
    let Copying { draft, before, .. } = copying;
    assert!(draft == *state.live, "the copy differs from the file");
    if let Some(Fault::Io { applied: false }) = fault {
        return Err(planned());
    }
    let after = octets(&draft);
    state.length = after;
    state.synced = draft.clone();
    state.live = Arc::new(draft);
    state.exchanges += 1;
    match fault {
        Some(Fault::Io { .. }) => Err(planned()),
        _ => Ok(Compaction::Done { before, after }),
    }
}

impl Snapshots for MemDisk {
    fn snapshot(&self) -> Result<Box<dyn Read + Send>, EngineError> {
        Ok(Box::new(self.snapshot_now()))
    }
}

struct Snapshot {
    map: Arc<Map>,
    disk: MemDisk,
}

impl Snapshot {
    fn count(&self, key: &[u8], rows: usize) {
        let prefix = key.first().copied().unwrap_or_default();
        *self.disk.state().read.entry(prefix).or_default() += rows as u64;
    }
}

impl Read for Snapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Value>, EngineError> {
        let value = self.map.get(key).cloned();
        self.count(key, usize::from(value.is_some()));
        Ok(value)
    }

    fn range(
        &self,
        range: Range<&[u8]>,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<(Key, Value)>, EngineError> {
        if range.start >= range.end {
            return Ok(Vec::new());
        }
        let pairs = self
            .map
            .range::<[u8], _>((Bound::Included(range.start), Bound::Excluded(range.end)))
            .map(|(key, value)| (key.clone(), value.clone()));
        let found: Vec<_> =
            if reverse { pairs.rev().take(limit).collect() } else { pairs.take(limit).collect() };
        self.count(range.start, found.len());
        Ok(found)
    }
}
