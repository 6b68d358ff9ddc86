//! The embedded engine: one redb file, one table of octet keys and octet values.
//!
//! Every commit is durable (`Immediate`), in two phases, and carries the allocator's state (quick-repair), so that the
//! file opens in milliseconds after a kill or a power cut, whatever its size, with exactly the commits that were
//! answered and at most the one that was not. One process has the file; others are told [`EngineError::Locked`].
//!
//! redb refuses every write after the first error of the disk, until the file is opened again. After a failed fsync the
//! kernel may hold pages that look written and are not (they are "clean" in its cache and not on the disk), so a
//! [`Place`] that opens a real file again first writes out what is still dirty and then drops what is cached: what is read
//! after that is what the disk has. The order of writes of a two-phase commit would forgive it if we did not (the tests
//! pass without); we do not rely on that.
//!
//! A file that is mostly free is exchanged for a copy of what is live (`compact.rs`): `queue.redb.new` is written, closed, opened
//! as at a start, and gets the name by a rename that is made durable before the next commit. What a crash leaves under the name
//! is one or the other, complete; a draft is removed at the next start.

use std::io;
use std::ops::{Bound, Range};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use redb::{
    BackendError, Builder, Database, ReadOnlyTable, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, StorageBackend, StorageError, TableDefinition, WriteTransaction,
};

use super::ahead::{self, Ahead};
use super::compact::{Copying, Counting, Draft};
use super::group::{self, Changes, Outcome};
use super::place::{FilePlace, Place};
use super::{
    Answer, Compaction, CompactionLimits, Engine, EngineError, Key, Read, Snapshots, Value, Work,
};

/// The only table: each further one would cost pages in every commit.
pub(in crate::store) const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("kv");
/// Octets of cache for making an empty file.
const CREATE_CACHE: usize = 1 << 20;

/// A store in one redb file.
pub struct RedbEngine {
    /// For messages to people.
    what: String,
    cache_size: usize,
    place: Box<dyn Place>,
    shared: Arc<Shared>,
    /// The group of the last commit, when that gave an error.
    doubt: Option<Outcome>,
    limits: CompactionLimits,
    counting: Option<Counting>,
    copying: Option<Copying<Open>>,
}

struct Shared {
    what: String,
    /// None while it is being opened again, when that failed, and after the close. Changed in an instant, so that nobody waits for it.
    open: RwLock<Option<Arc<Open>>>,
}

/// An open file. Snapshots share it, so one that was exchanged is closed by the last of them.
struct Open {
    /// None once it is closed.
    database: RwLock<Option<Database>>,
    trouble: Trouble,
    length: Length,
    repaired: bool,
}

impl RedbEngine {
    /// Opens `path`; makes it (mode 0600, its directory fsynced) when it is not there and `create`. `cache_size` is in octets.
    ///
    /// # Errors
    /// `Io` with kind `NotFound` when it is not there and not to be made, `Locked`, `Corrupt`, `Full`.
    pub fn open(path: &Path, cache_size: usize, create: bool) -> Result<RedbEngine, EngineError> {
        if create && matches!(path.try_exists(), Ok(false)) {
            self::create(path)?;
        }
        let what = path.display().to_string();
        let mut place = FilePlace::new(path);
        let open = Open::new(&what, place.open(), cache_size)?;
        // Who had the file may have exchanged it between our opening and our locking of it.
        if !place.is_named().map_err(|error| from_io(&what, error))? {
            return Err(EngineError::Locked { what });
        }
        // Ours alone now. What is left of a copy may hold much of the disk.
        place.drop_draft().map_err(|error| from_io(&what, error))?;
        Ok(RedbEngine::of(what, Box::new(place), open, cache_size))
    }

    /// Opens whatever `place` leads to: a file of ours, or an empty one. `what` names it to people.
    ///
    /// # Errors
    /// As [`RedbEngine::open`].
    pub fn at(
        what: String,
        mut place: Box<dyn Place>,
        cache_size: usize,
    ) -> Result<RedbEngine, EngineError> {
        let open = Open::new(&what, place.open(), cache_size)?;
        place.drop_draft().map_err(|error| from_io(&what, error))?;
        Ok(RedbEngine::of(what, place, open, cache_size))
    }

    fn of(what: String, place: Box<dyn Place>, open: Open, cache_size: usize) -> RedbEngine {
        let shared =
            Arc::new(Shared { what: what.clone(), open: RwLock::new(Some(Arc::new(open))) });
        RedbEngine {
            what,
            cache_size,
            place,
            shared,
            doubt: None,
            limits: CompactionLimits::default(),
            counting: None,
            copying: None,
        }
    }

    /// Gives space back from other sizes on.
    pub fn with_limits(self, limits: CompactionLimits) -> RedbEngine {
        RedbEngine { limits, ..self }
    }

    /// Whether opening it last had to read the whole file. Never after a crash of this engine; only a file that something
    /// else has written to needs it.
    pub fn was_repaired(&self) -> bool {
        let open = self.shared.open.read().unwrap_or_else(PoisonError::into_inner);
        open.as_ref().is_some_and(|open| open.repaired)
    }

    fn file(&self) -> Result<Arc<Open>, EngineError> {
        self.shared.file()
    }

    /// Commits `outcome`; keeps it for [`Engine::reopen`] when that fails.
    fn write(
        &mut self,
        run: impl FnOnce(&dyn Read) -> Result<Outcome, EngineError>,
    ) -> Result<Vec<Answer>, EngineError> {
        let file = self.file()?;
        let written = file.write(&self.what, run, |transaction| {
            transaction.set_quick_repair(true);
        });
        match written {
            Ok(outcome) => {
                if let Some(copying) = &mut self.copying {
                    copying.note(&outcome.changes);
                }
                Ok(outcome.answers)
            }
            Err((outcome, error)) => {
                self.doubt = outcome;
                // Its outcome will be known, but the space is worth more now, and so is a simple way out.
                self.drop_copy();
                Err(error)
            }
        }
    }

    /// Begins a copy when it is worth it, by what is said first and then by what is counted.
    fn begin_copy(&mut self, live: u64) -> Result<Compaction, EngineError> {
        let file = self.file()?;
        let before = file.length.octets();
        let mut counting = match self.counting.take() {
            Some(counting) => counting,
            None if self.limits.wants(before, live) => Counting::new(before, self.limits),
            None => return Ok(Compaction::Unneeded),
        };
        match file.snapshot(&self.what).and_then(|state| counting.step(&state)) {
            Ok(None) => {
                self.counting = Some(counting);
                return Ok(Compaction::Going);
            }
            Ok(Some(true)) => {}
            Ok(Some(false)) => return Ok(Compaction::InUse),
            Err(error) => return Ok(Compaction::GivenUp(error)),
        }
        match Open::draft(&self.what, self.place.draft()) {
            Ok(draft) => {
                self.copying = Some(Copying::new(draft, before, self.limits));
                Ok(Compaction::Going)
            }
            Err(error) => Ok(self.give_up(error)),
        }
    }

    fn give_up(&mut self, error: EngineError) -> Compaction {
        self.drop_copy();
        Compaction::GivenUp(error)
    }

    fn drop_copy(&mut self) {
        drop(self.copying.take());
        if let Err(error) = self.place.drop_draft() {
            tracing::warn!(file = self.what, %error, "what was copied cannot be removed before the next start");
        }
    }

    /// The draft is equal to the file: makes it durable and puts it in its place.
    fn exchange(&mut self) -> Result<Compaction, EngineError> {
        let Some(Copying { draft, before, .. }) = self.copying.take() else {
            return Ok(Compaction::Unneeded);
        };
        let file = self.file()?;
        let fresh = match self.complete(&file, draft) {
            Ok(fresh) => Arc::new(fresh),
            Err(error) => return Ok(self.give_up(error)),
        };
        if let Err(error) = self.place.name_draft() {
            drop(fresh);
            let error = from_io(&self.what, error);
            return Ok(self.give_up(error));
        }
        // From here on there is no way back: a power cut may leave the one or the other under the name.
        self.place.sync_names().map_err(|error| from_io(&self.what, error))?;
        let after = fresh.length.octets();
        *self.shared.open.write().map_err(|_| closed(&self.what))? = Some(fresh);
        Ok(Compaction::Done { before, after })
    }

    /// The draft closed cleanly, and opened as a start would.
    fn complete(&mut self, file: &Arc<Open>, draft: Open) -> Result<Open, EngineError> {
        let (rows, copied) = (file.rows(&self.what)?, draft.rows(&self.what)?);
        if rows != copied {
            let detail = format!("{copied} rows were copied of {rows}");
            return Err(EngineError::Corrupt { what: self.what.clone(), detail });
        }
        draft.close(&self.what)?;
        drop(draft);
        let fresh = Open::new(&self.what, self.place.open_draft(), self.cache_size)?;
        if fresh.repaired || fresh.rows(&self.what)? != rows {
            let detail = "the copy is not as it was written".to_owned();
            return Err(EngineError::Corrupt { what: self.what.clone(), detail });
        }
        Ok(fresh)
    }
}

impl Draft for Open {
    fn apply(&mut self, changes: &Changes) -> Result<(), EngineError> {
        // Synced, so that the exchange has little left to sync; one phase, since nobody will ever recover it.
        let run = |_: &dyn Read| Ok(Outcome { changes: changes.clone(), answers: Vec::new() });
        self.write("the copy", run, |_| {}).map(drop).map_err(|(_, error)| error)
    }
}

/// In key order, so that neighbours meet in the same leaf.
fn insert(table: &mut redb::Table<'_, &[u8], &[u8]>, changes: &Changes) -> Result<(), redb::Error> {
    for (key, value) in changes {
        match value {
            Some(value) => drop(table.insert(key.as_slice(), value.as_slice())?),
            None => drop(table.remove(key.as_slice())?),
        }
    }
    Ok(())
}

impl Engine for RedbEngine {
    fn snapshots(&self) -> Arc<dyn Snapshots> {
        Arc::clone(&self.shared) as Arc<dyn Snapshots>
    }

    fn commit(&mut self, units: Vec<Work>) -> Result<Vec<Answer>, EngineError> {
        self.doubt = None;
        self.write(|state| group::run(state, units))
    }

    fn reopen(&mut self) -> Result<Option<Vec<Answer>>, EngineError> {
        self.drop_copy();
        let old = self.shared.open.write().map_err(|_| closed(&self.what))?.take();
        if let Some(old) = old {
            // Its error is the one we are here for; what matters is that the lock on the file is gone.
            drop(old.close(&self.what));
        }
        let open = Open::new(&self.what, self.place.open(), self.cache_size)?;
        let open = Arc::new(open);
        let state = open.snapshot(&self.what)?;
        *self.shared.open.write().map_err(|_| closed(&self.what))? = Some(open);
        match &self.doubt {
            Some(outcome) if outcome.holds_in(&state)? => {
                Ok(self.doubt.take().map(|outcome| outcome.answers))
            }
            _ => Ok(None),
        }
    }

    fn repeat(&mut self) -> Result<Option<Vec<Answer>>, EngineError> {
        match self.doubt.take() {
            Some(outcome) => self.write(|_| Ok(outcome)).map(Some),
            None => Ok(None),
        }
    }

    fn compact(&mut self, live: u64) -> Result<Compaction, EngineError> {
        if self.copying.is_none() {
            return self.begin_copy(live);
        }
        let state = self.file()?.snapshot(&self.what);
        let Some(copying) = &mut self.copying else { return Ok(Compaction::Unneeded) };
        match state.and_then(|state| copying.step(&state)) {
            Ok(false) => Ok(Compaction::Going),
            Ok(true) => self.exchange(),
            Err(error) => Ok(self.give_up(error)),
        }
    }

    fn close(mut self: Box<Self>) -> Result<(), EngineError> {
        if self.copying.is_some() {
            self.drop_copy();
        }
        let open = self.shared.open.write().map_err(|_| closed(&self.what))?.take();
        open.map_or(Ok(()), |open| open.close(&self.what))
    }
}

impl Shared {
    fn file(&self) -> Result<Arc<Open>, EngineError> {
        let open = self.open.read().map_err(|_| closed(&self.what))?;
        open.as_ref().map(Arc::clone).ok_or_else(|| closed(&self.what))
    }
}

impl Snapshots for Shared {
    fn snapshot(&self) -> Result<Box<dyn Read + Send>, EngineError> {
        Ok(Box::new(self.file()?.snapshot(&self.what)?))
    }
}

impl Open {
    fn new(
        what: &str,
        file: io::Result<Box<dyn StorageBackend>>,
        cache_size: usize,
    ) -> Result<Open, EngineError> {
        let watched = Watched::new(file).map_err(|error| from_io(what, error))?;
        Open::over(what, watched.filled_ahead(), cache_size)
    }

    /// One that becomes something when it is complete, and is written in large pieces if at all.
    fn draft(what: &str, file: io::Result<Box<dyn StorageBackend>>) -> Result<Open, EngineError> {
        let watched = Watched::new(file).map_err(|error| from_io(what, error))?;
        Open::over(what, watched, CREATE_CACHE)
    }

    fn over(what: &str, watched: Watched, cache_size: usize) -> Result<Open, EngineError> {
        let (trouble, length) = (watched.trouble.clone(), watched.length.clone());
        let failed = |error: redb::Error| trouble.explain(what, error);
        let repaired = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&repaired);
        let database = Builder::new()
            .set_cache_size(cache_size)
            .set_repair_callback(move |_| noted.store(true, Ordering::Relaxed))
            .create_with_backend(watched)
            .map_err(|e| failed(e.into()))?;
        let repaired = repaired.load(Ordering::Relaxed);
        if repaired {
            tracing::warn!(
                file = what,
                "was not left as we leave it; all of it was read and checked"
            );
        }
        let transaction = database.begin_read().map_err(|e| failed(e.into()))?;
        match transaction.open_table(TABLE) {
            Ok(_) => {}
            Err(redb::TableError::TableDoesNotExist(_)) => {
                let mut first = database.begin_write().map_err(|e| failed(e.into()))?;
                first.set_quick_repair(true);
                first.open_table(TABLE).map_err(|e| failed(e.into()))?;
                first.commit().map_err(|e| failed(e.into()))?;
            }
            Err(error) => return Err(failed(error.into())),
        }
        drop(transaction);
        Ok(Open { database: RwLock::new(Some(database)), trouble, length, repaired })
    }

    /// Commits what `run` says, in a transaction that `prepare` has set up. An error comes with the outcome, once there was one.
    fn write(
        &self,
        what: &str,
        run: impl FnOnce(&dyn Read) -> Result<Outcome, EngineError>,
        prepare: impl FnOnce(&mut WriteTransaction),
    ) -> Result<Outcome, (Option<Outcome>, EngineError)> {
        let failed = |error: redb::Error| (None, self.trouble.explain(what, error));
        let database = self.database.read().map_err(|_| (None, closed(what)))?;
        let database = database.as_ref().ok_or_else(|| (None, closed(what)))?;
        let mut transaction = database.begin_write().map_err(|e| failed(e.into()))?;
        prepare(&mut transaction);
        let mut table = transaction.open_table(TABLE).map_err(|e| failed(e.into()))?;
        let outcome = run(&Reading { what, table: &table }).map_err(|error| (None, error))?;
        let applied = insert(&mut table, &outcome.changes);
        drop(table);
        let applied = applied.and_then(|()| match outcome.changes.is_empty() {
            true => Ok(transaction.abort()?),
            false => Ok(transaction.commit()?),
        });
        match applied {
            Ok(()) => Ok(outcome),
            Err(error) => Err((Some(outcome), failed(error).1)),
        }
    }

    fn snapshot(self: &Arc<Self>, what: &str) -> Result<Snapshot, EngineError> {
        let table = self.table(what)?;
        Ok(Snapshot { what: what.to_owned(), table, _file: Arc::clone(self) })
    }

    fn table(&self, what: &str) -> Result<PlainTable, EngineError> {
        let failed = |error: redb::Error| self.trouble.explain(what, error);
        let database = self.database.read().map_err(|_| closed(what))?;
        let database = database.as_ref().ok_or_else(|| closed(what))?;
        let transaction = database.begin_read().map_err(|e| failed(e.into()))?;
        transaction.open_table(TABLE).map_err(|e| failed(e.into()))
    }

    /// How many rows it has; reads one page.
    fn rows(&self, what: &str) -> Result<u64, EngineError> {
        self.table(what)?.len().map_err(|error| from_redb(what, error.into()))
    }

    /// Closes the file cleanly; reads of its snapshots fail from now on.
    fn close(&self, what: &str) -> Result<(), EngineError> {
        let database = self.database.write().map_err(|_| closed(what))?.take();
        let Some(database) = database else { return Ok(()) };
        database.close().map_err(|error| self.trouble.explain(what, error.into()))
    }
}

type PlainTable = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// A table of a write transaction or of a snapshot.
struct Reading<'a, T> {
    what: &'a str,
    table: &'a T,
}

struct Snapshot {
    what: String,
    table: PlainTable,
    /// After the table: whoever is last closes the file.
    _file: Arc<Open>,
}

impl<T: ReadableTable<&'static [u8], &'static [u8]>> Reading<'_, T> {
    fn collect<I>(
        &self,
        range: Range<&[u8]>,
        limit: usize,
        reverse: bool,
        item: impl Fn(&[u8], &[u8]) -> I,
    ) -> Result<Vec<I>, EngineError> {
        if range.start >= range.end {
            return Ok(Vec::new());
        }
        let failed = |error: StorageError| from_redb(self.what, error.into());
        let mut pairs = self
            .table
            .range::<&[u8]>((Bound::Included(range.start), Bound::Excluded(range.end)))
            .map_err(failed)?;
        let mut items = Vec::new();
        while items.len() < limit {
            let next = if reverse { pairs.next_back() } else { pairs.next() };
            let Some(pair) = next else { break };
            let (key, value) = pair.map_err(failed)?;
            items.push(item(key.value(), value.value()));
        }
        Ok(items)
    }
}

impl<T: ReadableTable<&'static [u8], &'static [u8]>> Read for Reading<'_, T> {
    fn get(&self, key: &[u8]) -> Result<Option<Value>, EngineError> {
        let value = self.table.get(key).map_err(|error| from_redb(self.what, error.into()))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    fn range(
        &self,
        range: Range<&[u8]>,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<(Key, Value)>, EngineError> {
        self.collect(range, limit, reverse, |key, value| (key.to_vec(), value.to_vec()))
    }

    fn keys(
        &self,
        range: Range<&[u8]>,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<Key>, EngineError> {
        self.collect(range, limit, reverse, |key, _| key.to_vec())
    }
}

impl Snapshot {
    fn reading(&self) -> Reading<'_, PlainTable> {
        Reading { what: &self.what, table: &self.table }
    }
}

impl Read for Snapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Value>, EngineError> {
        self.reading().get(key)
    }

    fn range(
        &self,
        range: Range<&[u8]>,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<(Key, Value)>, EngineError> {
        self.reading().range(range, limit, reverse)
    }

    fn keys(
        &self,
        range: Range<&[u8]>,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<Key>, EngineError> {
        self.reading().keys(range, limit, reverse)
    }
}

/// Makes an empty store at `path`, where there must be none. It gets its name when it is complete, since redb does not open what a power
/// cut leaves of one half-made; what an earlier attempt left is overwritten.
pub(in crate::store) fn create(path: &Path) -> Result<(), EngineError> {
    let what = path.display().to_string();
    let mut place = FilePlace::new(path);
    let open = Open::draft(&what, place.draft())?;
    open.close(&what)?;
    // redb syncs the file, nobody but us its name.
    place.name_draft().and_then(|()| place.sync_names()).map_err(|error| from_io(&what, error))
}

/// The first error of the disk since the file was opened. redb may answer with a mere "previous I/O error" where the cause
/// (is the disk full?) decides what is to be done.
#[derive(Clone, Default, Debug)]
pub(in crate::store) struct Trouble(Arc<Mutex<Option<Cause>>>);

/// An error of the disk with its number, where the system gave one.
type Cause = (io::ErrorKind, Option<i32>);

impl Trouble {
    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && let Ok(mut first) = self.0.lock()
        {
            first.get_or_insert((error.kind(), error.raw_os_error()));
        }
        result
    }

    /// The error of ours that redb's means, with the cause in place of its echo.
    pub fn explain(&self, what: &str, error: redb::Error) -> EngineError {
        let first = self.0.lock().ok().and_then(|first| *first);
        match (first, error) {
            (Some((kind, code)), redb::Error::PreviousIo | redb::Error::Corrupted(_)) => {
                from_io(what, code.map_or_else(|| kind.into(), io::Error::from_raw_os_error))
            }
            (_, error) => from_redb(what, error),
        }
    }
}

/// How long the file is.
#[derive(Clone, Default, Debug)]
pub(in crate::store) struct Length(Arc<AtomicU64>);

impl Length {
    /// In octets.
    pub fn octets(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What [`Ahead`] asks for.
static ZEROS: [u8; ahead::STEP] = [0; ahead::STEP];

/// A backend whose errors and length are noted, and that can fill a growing file ahead of need.
#[derive(Debug)]
pub(in crate::store) struct Watched {
    inner: Box<dyn StorageBackend>,
    pub trouble: Trouble,
    pub length: Length,
    /// None for a file whose commits are not small.
    ahead: Option<Mutex<Ahead>>,
}

impl Watched {
    /// Over a file that was opened.
    pub fn new(inner: io::Result<Box<dyn StorageBackend>>) -> io::Result<Watched> {
        let inner = inner?;
        let length = Length(Arc::new(AtomicU64::new(inner.len()?)));
        Ok(Watched { inner, trouble: Trouble::default(), length, ahead: None })
    }

    /// The same, filled ahead of need.
    fn filled_ahead(mut self) -> Watched {
        self.ahead = Some(Mutex::new(Ahead::new(self.length.octets())));
        self
    }

    fn ahead(&self) -> Option<MutexGuard<'_, Ahead>> {
        self.ahead.as_ref().map(|ahead| ahead.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.trouble.note(self.inner.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.trouble.note(self.inner.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        // Locked until it is so: nobody may be told to fill what is being cut off.
        let ahead = self.ahead();
        self.trouble.note(self.inner.set_len(len))?;
        if let Some(mut ahead) = ahead {
            ahead.resized(len);
        }
        self.length.0.store(len, Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        if let Some(mut ahead) = self.ahead() {
            ahead.synced();
        }
        self.trouble.note(self.inner.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if let Some(mut ahead) = self.ahead()
            && let Some(fill) = ahead.writing(offset..offset + data.len() as u64)
        {
            // Still locked: who writes there next must come after the zeros. Only for speed: if there is no room, the write
            // itself will say so.
            let _ = self.inner.write(fill.start, &ZEROS[..(fill.end - fill.start) as usize]);
        }
        self.trouble.note(self.inner.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}

fn closed(what: &str) -> EngineError {
    EngineError::Io { what: what.to_owned(), source: io::Error::other("not open") }
}

/// Sorts an error of the disk.
pub(in crate::store) fn from_io(what: &str, source: io::Error) -> EngineError {
    let what = what.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => EngineError::Full { what },
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            EngineError::Corrupt { what, detail: source.to_string() }
        }
        _ => EngineError::Io { what, source },
    }
}

/// Sorts an error of redb.
pub(in crate::store) fn from_redb(what: &str, error: redb::Error) -> EngineError {
    match error {
        redb::Error::Io(source) => from_io(what, source),
        redb::Error::DatabaseAlreadyOpen => EngineError::Locked { what: what.to_owned() },
        redb::Error::Corrupted(detail) => EngineError::Corrupt { what: what.to_owned(), detail },
        redb::Error::UpgradeRequired(version) => EngineError::Corrupt {
            what: what.to_owned(),
            detail: format!("file format {version} of redb"),
        },
        error => EngineError::Io { what: what.to_owned(), source: io::Error::other(error) },
    }
}
