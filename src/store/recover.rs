//! Opening, closing, and what is finished after a crash.
//!
//! Opening reads some pages, whatever the size of the queue: the engine opens at once, counts are kept by every batch, and
//! what was under way stands in short tables of its own. Then the keeper goes on with it, beside everything else:
//!
//! - long lists with work to do (LISTS);
//! - staged recipients of messages that never came (STAGED without MESSAGE);
//! - body files that nobody names (no BODYGEN).
//!
//! Due times that a wrong clock wrote need no repair: readers do not believe them (`read::FARTHEST`).

use std::collections::{HashMap, HashSet};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use super::body::{Bodies, BodyOptions};
use super::claims::Claims;
use super::edit::{counter, load, parsed, some_parsed};
use super::engine::redb::RedbEngine;
use super::engine::{Batch, Engine, EngineError, Read};
use super::ids::Ids;
use super::inflight::{InterruptedState, unmark_later};
use super::keeper::{Errand, Keeper};
use super::key;
use super::record::Record;
use super::reserve::Reserve;
use super::schema::*;
use super::space;
use super::statistics::Tallies;
use super::writer::{Class, UPKEEP_EVERY, Upkeep, Writer, WriterLimits};
use super::{Core, Inner, Store, StoreError, StoreOptions};
use crate::mail::queue_id::QueueId;

/// Lists resumed, and messages with staged rows looked at, at a time.
const SLICE: usize = 1000;
/// Mode of QueueDirectory: others reach the control socket in it, and see nothing.
const DIRECTORY_MODE: u32 = 0o711;

impl Store {
    /// Opens the store in `options.directory`; makes it when `create`.
    ///
    /// # Errors
    /// `Missing`, `Locked`, `OtherFormat`, `Unavailable`.
    pub fn open(options: StoreOptions, create: bool) -> Result<Store, StoreError> {
        let directory = &options.directory;
        if create {
            make_directory(directory)?;
        }
        let path = directory.join("queue.redb");
        // Half for the queue, half for the bodies.
        let engine = RedbEngine::open(&path, options.cache_size / 2, create);
        let engine = engine.map_err(|error| open_error(directory, error))?;
        let reserve = Reserve::take(directory, options.min_free).map_err(|error| {
            StoreError::Unavailable(format!("reserve in {}: {error}", directory.display()))
        })?;
        Store::with_engine(options, Box::new(engine), Some(reserve))
    }

    /// Opens the store on any engine, empty or not; bodies stand in `options.directory`.
    ///
    /// # Errors
    /// `OtherFormat`, `Damaged`, `Unavailable`.
    pub fn with_engine(
        options: StoreOptions,
        engine: Box<dyn Engine>,
        reserve: Option<Reserve>,
    ) -> Result<Store, StoreError> {
        let upkeep = Upkeep { every: UPKEEP_EVERY, live: space::live };
        Store::with_upkeep(options, engine, reserve, upkeep)
    }

    /// As [`Store::with_engine`]; `upkeep` says when it is looked whether disk space can be given back.
    pub(super) fn with_upkeep(
        options: StoreOptions,
        engine: Box<dyn Engine>,
        reserve: Option<Reserve>,
        upkeep: Upkeep,
    ) -> Result<Store, StoreError> {
        let snapshot = engine.snapshots().snapshot()?;
        let start = Start::read(&*snapshot)?;
        drop(snapshot);
        let bodies = BodyOptions {
            cache_size: options.cache_size / 2,
            generation_size: options.body_generation_size,
            first_generation: start.first_generation,
        };
        let (bodies, found) = Bodies::open(&options.directory, bodies)?;
        let limits = WriterLimits {
            max_unsettled: options.max_unsettled,
            lazy_max: Store::LAZY_MAX,
            reserve,
            upkeep,
        };
        let writer = Writer::start(engine, limits)?;
        let mut batch = Batch::default();
        batch.puts.push((META.key(META_OPEN), 1u64.encode()));
        if start.is_new {
            batch.puts.push((META.key(META_FORMAT), u64::from(FORMAT).encode()));
        }
        if !start.is_counting {
            let now = (options.clock)();
            batch.puts.push((META.key(META_COUNTING), now.as_millis().encode()));
        }
        // Queued before everything else: a store without them has nothing in it, and nothing was attempted.
        drop(writer.try_submit(Class::Acknowledged, batch)?);
        let (errands, receiver) = tokio::sync::mpsc::unbounded_channel();
        let core = Arc::new(Core {
            writer,
            bodies,
            ids: Ids::new(start.ids),
            claims: Arc::new(Claims::new(unmark_later(&errands))),
            interrupted: start.interrupted.into(),
            incoming_octets: AtomicU64::new(start.incoming_octets),
            tallies: Tallies::default(),
            down: Mutex::new(HashMap::new()),
            quarantine: Mutex::new(HashSet::new()),
            readied: tokio::sync::Notify::new(),
            errands,
            options,
        });
        core.resume(found.iter().map(|found| found.generation))?;
        let keeper = Keeper::start(Arc::clone(&core), receiver)?;
        Ok(Store { inner: Arc::new(Inner { core, keeper }) })
    }

    /// Commits what waits and closes the files cleanly. Every other clone fails with `Closing` from now on. Unfinished lists
    /// are gone on with at the next start.
    ///
    /// # Errors
    /// `Unavailable` when a file could not be closed cleanly. Nothing that was answered is lost.
    pub async fn close(&self) -> Result<(), StoreError> {
        let core = self.core();
        self.inner.keeper.stop().await;
        let mut last_word = core.ids.last_word();
        core.close_cleanly(&mut last_word);
        core.tallies.last_word(&mut last_word);
        match core.writer.submit(Class::Acknowledged, last_word).await {
            Ok(_) | Err(StoreError::Closing) => {}
            // IDs then go on a little further ahead, and the next start takes this stop for an unclean one.
            Err(error) => tracing::warn!(%error, "closing without a last word"),
        }
        let queue = core.writer.close().await;
        core.bodies.close().await?;
        queue
    }

    /// Resolves with the reason when the store has given up after an I/O error: the daemon is to exit. Never if it does not.
    pub async fn poisoned(&self) -> String {
        self.core().writer.poisoned().await
    }
}

impl Core {
    /// Leaves to the keeper what was under way.
    fn resume(&self, generations: impl Iterator<Item = u32>) -> Result<(), StoreError> {
        let snapshot = self.writer.snapshot()?;
        let (mut start, end) = LISTS.all();
        loop {
            let keys = snapshot.keys(&start..&end, SLICE, false)?;
            let Some(last) = keys.last() else { break };
            start = key::after(last.clone());
            parsed(&LISTS, keys).for_each(|id| self.leave(Errand::List(id)));
        }
        let (mut start, end) = STAGED.all();
        while let Some(first) = snapshot.keys(&start..&end, 1, false)?.first() {
            let Some((id, _, _)) = parsed(&STAGED, [first.clone()]).next() else {
                start = key::after(first.clone());
                continue;
            };
            if snapshot.get(&MESSAGE.key(id))?.is_none() {
                self.leave(Errand::Staged(id));
            }
            start = STAGED.under(id).1;
        }
        // Those that are named are found to be so by the keeper.
        generations.for_each(|generation| self.leave(Errand::Generation(generation)));
        Ok(())
    }
}

/// What an open store begins with.
struct Start {
    is_new: bool,
    /// Since when STAT counts is written down.
    is_counting: bool,
    ids: QueueId,
    incoming_octets: u64,
    first_generation: u32,
    interrupted: InterruptedState,
}

impl Start {
    fn read(read: &dyn Read) -> Result<Start, StoreError> {
        let number = |name: &str| -> Result<Option<u64>, StoreError> {
            Ok(load(read, &META, name)?.map(|(number, _)| number))
        };
        let format = number(META_FORMAT)?;
        match format {
            Some(found) if found != u64::from(FORMAT) => {
                let found = u32::try_from(found).unwrap_or(u32::MAX);
                return Err(StoreError::OtherFormat { found, known: FORMAT });
            }
            Some(_) | None => {}
        }
        let octets = counter(read, &COUNT.key(COUNT_INCOMING_OCTETS))?;
        // Two rows for each file: few.
        let last = some_parsed(read, &BODYGEN, BODYGEN.all(), usize::MAX)?.pop();
        let was_open = number(META_OPEN)?.is_some();
        let ids = QueueId::from_u64(number(META_IDS)?.unwrap_or(0));
        Ok(Start {
            interrupted: InterruptedState::read(read, was_open.then_some(ids))?,
            is_new: format.is_none(),
            is_counting: number(META_COUNTING)?.is_some(),
            ids,
            incoming_octets: u64::try_from(octets).unwrap_or(0),
            first_generation: last.map_or(1, |(generation, _)| generation.saturating_add(1)),
        })
    }
}

fn make_directory(directory: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory).map_err(|error| {
        StoreError::Unavailable(format!("cannot make {}: {error}", directory.display()))
    })
}

fn open_error(directory: &Path, error: EngineError) -> StoreError {
    match error {
        EngineError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            StoreError::Missing(directory.to_owned())
        }
        EngineError::Locked { .. } => StoreError::Locked(directory.to_owned()),
        error => error.into(),
    }
}
