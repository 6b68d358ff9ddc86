//! The embedded engine: one redb file, one table of octet keys and octet values.
//!
//! Every commit is durable (`Immediate`), in two phases, and carries the allocator's state (quick-repair), so that the
//! file opens in milliseconds after a kill or a power cut, whatever its size, with exactly the commits that were
//! answered and at most the one that was not. One process has the file; others are told [`EngineError::Locked`].
//!
//! redb refuses every write after the first error of the disk, until the file is opened again. After a failed fsync the
//! kernel may hold pages that look written and are not (they are "clean" in its cache and not on the disk), so a
//! [`Door`] that opens a real file again first writes out what is still dirty and then drops what is cached: what is read
//! after that is what the disk has. The order of writes of a two-phase commit would forgive it if we did not (the tests
//! pass without); we do not rely on that.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::{Bound, Range};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};

use redb::backends::FileBackend;
use redb::{
    BackendError, Builder, Database, ReadOnlyTable, ReadableDatabase, ReadableTable,
    StorageBackend, StorageError, TableDefinition,
};
use rustix::fs::{Advice, fadvise};

use super::ahead::{self, Ahead};
use super::group::{self, Changes, Outcome};
use super::{Answer, Engine, EngineError, Key, Read, Snapshots, Value, Work};

/// The only table: each further one would cost pages in every commit.
pub(in crate::store) const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("kv");
/// Octets of cache for making an empty file.
const CREATE_CACHE: usize = 1 << 20;

/// Where the bytes of the file are. Called once at the start and once for each [`Engine::reopen`]; must not be
/// answered from a cache that may differ from the disk.
pub type Door = Box<dyn FnMut() -> io::Result<Box<dyn StorageBackend>> + Send>;

/// A store in one redb file.
pub struct RedbEngine {
    /// For messages to people.
    what: String,
    cache_size: usize,
    door: Door,
    shared: Arc<Shared>,
    /// The group of the last commit, when that gave an error.
    doubt: Option<Outcome>,
}

struct Shared {
    what: String,
    /// None while it is being opened again, when that failed, and after the close.
    open: RwLock<Option<Open>>,
}

struct Open {
    database: Database,
    trouble: Trouble,
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
        RedbEngine::with_door(path.display().to_string(), file_door(path), cache_size)
    }

    /// Opens whatever `door` leads to: a file of ours, or an empty one. `what` names it to people.
    ///
    /// # Errors
    /// As [`RedbEngine::open`].
    pub fn with_door(
        what: String,
        mut door: Door,
        cache_size: usize,
    ) -> Result<RedbEngine, EngineError> {
        let open = Open::new(&what, &mut door, cache_size)?;
        let shared = Arc::new(Shared { what: what.clone(), open: RwLock::new(Some(open)) });
        Ok(RedbEngine { what, cache_size, door, shared, doubt: None })
    }

    /// Whether opening it last had to read the whole file. Never after a crash of this engine; only a file that something
    /// else has written to needs it.
    pub fn was_repaired(&self) -> bool {
        let open = self.shared.open.read().unwrap_or_else(PoisonError::into_inner);
        open.as_ref().is_some_and(|open| open.repaired)
    }

    /// Commits `outcome`; keeps it for [`Engine::reopen`] when that fails.
    fn write(
        &mut self,
        run: impl FnOnce(&dyn Read) -> Result<Outcome, EngineError>,
    ) -> Result<Vec<Answer>, EngineError> {
        let shared = Arc::clone(&self.shared);
        let guard = shared.open.read().map_err(|_| closed(&self.what))?;
        let open = guard.as_ref().ok_or_else(|| closed(&self.what))?;
        let failed = |error: redb::Error| open.trouble.explain(&self.what, error);
        let mut transaction = open.database.begin_write().map_err(|e| failed(e.into()))?;
        transaction.set_quick_repair(true);
        let mut table = transaction.open_table(TABLE).map_err(|e| failed(e.into()))?;
        let outcome = run(&Reading { what: &self.what, table: &table })?;
        let applied = insert(&mut table, &outcome.changes);
        drop(table);
        let applied = applied.and_then(|()| match outcome.changes.is_empty() {
            true => Ok(transaction.abort()?),
            false => Ok(transaction.commit()?),
        });
        match applied {
            Ok(()) => Ok(outcome.answers),
            Err(error) => {
                self.doubt = Some(outcome);
                Err(failed(error))
            }
        }
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
        let old = self.shared.open.write().map_err(|_| closed(&self.what))?.take();
        // Its error is the one we are here for; what matters is that the lock on the file is gone.
        drop(old);
        let open = Open::new(&self.what, &mut self.door, self.cache_size)?;
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

    fn close(self: Box<Self>) -> Result<(), EngineError> {
        let open = self.shared.open.write().map_err(|_| closed(&self.what))?.take();
        let Some(Open { database, trouble, .. }) = open else { return Ok(()) };
        database.close().map_err(|error| trouble.explain(&self.what, error.into()))
    }
}

impl Snapshots for Shared {
    fn snapshot(&self) -> Result<Box<dyn Read + Send>, EngineError> {
        // The only writer of this lock is one who opens the file again: not to be waited for.
        match self.open.try_read() {
            Ok(open) => match &*open {
                Some(open) => Ok(Box::new(open.snapshot(&self.what)?)),
                None => Err(closed(&self.what)),
            },
            Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => Err(closed(&self.what)),
        }
    }
}

impl Open {
    fn new(what: &str, door: &mut Door, cache_size: usize) -> Result<Open, EngineError> {
        let trouble = Trouble::default();
        let inner = door().map_err(|error| from_io(what, error))?;
        let failed = |error: redb::Error| trouble.explain(what, error);
        let watched =
            Watched::growing(inner, trouble.clone()).map_err(|error| from_io(what, error))?;
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
        Ok(Open { database, trouble, repaired })
    }

    fn snapshot(&self, what: &str) -> Result<Snapshot, EngineError> {
        let failed = |error: redb::Error| self.trouble.explain(what, error);
        let transaction = self.database.begin_read().map_err(|e| failed(e.into()))?;
        let table = transaction.open_table(TABLE).map_err(|e| failed(e.into()))?;
        Ok(Snapshot { what: what.to_owned(), table })
    }
}

/// A table of a write transaction or of a snapshot.
struct Reading<'a, T> {
    what: &'a str,
    table: &'a T,
}

struct Snapshot {
    what: String,
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
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
    fn reading(&self) -> Reading<'_, ReadOnlyTable<&'static [u8], &'static [u8]>> {
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

/// The door to a real file.
fn file_door(path: &Path) -> Door {
    let path: PathBuf = path.to_owned();
    let mut opened_before = false;
    Box::new(move || {
        let file = if opened_before { open_again(&path)? } else { open_file(&path)? };
        opened_before = true;
        Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
    })
}

/// Opens a file of the store for reading and writing.
pub(in crate::store) fn open_file(path: &Path) -> io::Result<File> {
    options().open(path)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
    options
}

/// Makes an empty store at `path`, where there must be none. It gets its name when it is complete, since redb does not open what a power
/// cut leaves of one half-made; what an earlier attempt left is overwritten.
pub(in crate::store) fn create(path: &Path) -> Result<(), EngineError> {
    let what = path.display().to_string();
    let mut draft = path.to_owned().into_os_string();
    draft.push(".new");
    let file = options().create(true).truncate(true).open(&draft);
    let backend = file
        .map_err(|error| from_io(&what, error))
        .and_then(|file| FileBackend::new(file).map_err(|error| from_redb(&what, error.into())))?;
    let mut door: Option<Box<dyn StorageBackend>> = Some(Box::new(backend));
    let mut door: Door = Box::new(move || door.take().ok_or(io::ErrorKind::NotFound.into()));
    let Open { database, trouble, .. } = Open::new(&what, &mut door, CREATE_CACHE)?;
    database.close().map_err(|error| trouble.explain(&what, error.into()))?;
    // redb syncs the file, nobody but us its name.
    std::fs::rename(&draft, path)
        .and_then(|()| sync_directory_of(path))
        .map_err(|error| from_io(&what, error))
}

/// Makes creations and removals in the directory of `path` durable.
pub(in crate::store) fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

/// Opens a file after an error of the disk, so that what is read is what the disk has: see the head of this file.
pub(in crate::store) fn open_again(path: &Path) -> io::Result<File> {
    let file = open_file(path)?;
    file.sync_all()?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    Ok(file)
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

/// What [`Ahead`] asks for.
static ZEROS: [u8; ahead::STEP] = [0; ahead::STEP];

/// A backend whose errors are noted, and that fills a growing file ahead of need.
#[derive(Debug)]
pub(in crate::store) struct Watched {
    inner: Box<dyn StorageBackend>,
    trouble: Trouble,
    /// None when it is only read.
    ahead: Option<Mutex<Ahead>>,
}

impl Watched {
    /// For a file that is only read.
    pub fn still(inner: Box<dyn StorageBackend>, trouble: Trouble) -> Watched {
        Watched { inner, trouble, ahead: None }
    }

    /// For a file that is written.
    ///
    /// # Errors
    /// What the backend says to a question for its length.
    pub fn growing(inner: Box<dyn StorageBackend>, trouble: Trouble) -> io::Result<Watched> {
        let ahead = Some(Mutex::new(Ahead::new(inner.len()?)));
        Ok(Watched { inner, trouble, ahead })
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
            // Only for speed. If there is no room, the write itself will say so. Still locked: who writes there next
            // must come after the zeros.
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
