//! One generation: what its file is open for, who needs it, and how a body is read from it.

use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{Builder, Database, ReadOnlyDatabase, ReadableDatabase};
use tokio::sync::{mpsc, watch};

use super::READ_MAX;
use super::files::{Access, Files, name};
use super::thread::{Request, Tidied};
use crate::mail::queue_id::QueueId;
use crate::store::StoreError;
use crate::store::engine::EngineError;
use crate::store::engine::redb::{Length, TABLE, Trouble, Watched, from_io, from_redb};

/// Generations open for reading at a time: each has a file descriptor and a share of the cache.
pub(super) const OPEN_MAX: usize = 16;
/// The part of its size that a generation may be larger: redb's files are a little longer than a power of two.
const SIZE_SLACK: u64 = 16;
/// The last part of a file's length whose use is taken for the end of it: more than one commit writes.
const GROWTH_NEAR: u64 = 32;
/// Octets of cache for a look at whether a file was closed cleanly.
const LOOK_CACHE: usize = 64 << 10;

pub(super) struct Generation {
    pub number: u32,
    /// Octets on the disk.
    pub bytes: AtomicU64,
    /// No more bodies are to go to it, whatever its size.
    pub wants_end: AtomicBool,
    /// How many [`Pin`]s there are.
    pub pins: AtomicUsize,
    /// It was current and is no more.
    leaving: AtomicBool,
    slot: Mutex<Slot>,
    /// Nobody has to wait for it any more.
    verified: watch::Sender<bool>,
}

/// What the file is open for. References to a database are taken under the lock of the slot only, so one that is counted
/// once there is nobody else's.
enum Slot {
    /// Current, or full and still pinned.
    Writing(Arc<Writing>),
    /// A commit failed; somebody may still be reading.
    Failed(Arc<Writing>),
    /// Not closed cleanly, to be verified.
    Interrupted,
    /// Complete, and not open.
    Closed,
    Reading(Arc<ReadOnlyDatabase>),
    Damaged(String),
    /// About to be removed.
    Retired,
}

pub(super) struct Writing {
    pub database: Database,
    pub trouble: Trouble,
    pub length: Length,
}

/// Something to read from.
pub(super) enum Source {
    Writing(Arc<Writing>),
    Reading(Arc<ReadOnlyDatabase>),
}

/// Keeps a generation from being closed and removed.
pub(super) struct Pin {
    generation: Arc<Generation>,
    thread: mpsc::Sender<Request>,
}

impl Pin {
    pub fn new(generation: &Arc<Generation>, thread: &mpsc::Sender<Request>) -> Pin {
        generation.pins.fetch_add(1, Ordering::SeqCst);
        Pin { generation: Arc::clone(generation), thread: thread.clone() }
    }

    pub fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if self.generation.pins.fetch_sub(1, Ordering::SeqCst) == 1 && self.generation.is_leaving()
        {
            // The thread looks after each group anyway: without room there is a group to come.
            let _ = self.thread.try_send(Request::Look);
        }
    }
}

/// Whether the file can be used without being read as a whole.
pub(super) fn is_clean(files: &dyn Files, number: u32) -> Result<bool, StoreError> {
    match open_reading(files, number, LOOK_CACHE) {
        Ok(_) => Ok(true),
        Err(error @ (EngineError::Locked { .. } | EngineError::Full { .. })) => Err(error.into()),
        // Whatever else is wrong with it, the verification will name.
        Err(_) => Ok(false),
    }
}

fn open_reading(
    files: &dyn Files,
    number: u32,
    cache_size: usize,
) -> Result<ReadOnlyDatabase, EngineError> {
    Builder::new()
        .set_cache_size(cache_size)
        .open_read_only_with_backend(watched(files, number, Access::Read)?)
        .map_err(|error| from_redb(&name(number), error.into()))
}

pub(super) fn open_writing(
    files: &dyn Files,
    number: u32,
    access: Access,
    cache_size: usize,
) -> Result<Writing, EngineError> {
    let backend = watched(files, number, access)?;
    let (trouble, length) = (backend.trouble.clone(), backend.length.clone());
    let database = Builder::new()
        .set_cache_size(cache_size)
        .create_with_backend(backend)
        .map_err(|error| trouble.explain(&name(number), error.into()))?;
    Ok(Writing { database, trouble, length })
}

fn watched(files: &dyn Files, number: u32, access: Access) -> Result<Watched, EngineError> {
    let file = files.open(number, access)?;
    Watched::new(Ok(file)).map_err(|error| from_io(&name(number), error))
}

impl Generation {
    /// One that was there at the start.
    pub fn found(number: u32, bytes: u64, clean: bool) -> Generation {
        Generation {
            number,
            bytes: AtomicU64::new(bytes),
            wants_end: AtomicBool::new(false),
            pins: AtomicUsize::new(0),
            leaving: AtomicBool::new(false),
            slot: Mutex::new(if clean { Slot::Closed } else { Slot::Interrupted }),
            verified: watch::Sender::new(clean),
        }
    }

    /// Opens a complete one for writing.
    pub fn open_writing(&self, files: &dyn Files, cache_size: usize) -> Result<(), EngineError> {
        let mut slot = self.slot();
        let writing = open_writing(files, self.number, Access::Write, cache_size)?;
        *slot = Slot::Writing(Arc::new(writing));
        Ok(())
    }

    /// The database to write to; none when it failed or was closed.
    pub fn writing(&self) -> Option<Arc<Writing>> {
        match &*self.slot() {
            Slot::Writing(writing) => Some(Arc::clone(writing)),
            _ => None,
        }
    }

    /// Notes what the file takes on the disk after a commit.
    pub fn measure(&self, files: &dyn Files) -> Result<(), EngineError> {
        self.bytes.store(files.allocated(self.number)?, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the next one is to take over, when `size` is what a generation may take on the disk. redb doubles a file that has no free
    /// page left, so it is looked ahead.
    pub fn is_full(&self, size: u64) -> bool {
        let length = match &*self.slot() {
            Slot::Writing(writing) => writing.length.octets(),
            _ => 0,
        };
        let bytes = self.bytes.load(Ordering::Relaxed);
        let most = size.saturating_add(size / SIZE_SLACK);
        // A file has some length before there is anything in it.
        let ends = bytes >= size / 2
            && (length > most
                || (length.saturating_mul(2) > most && bytes >= length - length / GROWTH_NEAR));
        bytes >= most || ends || self.wants_end.load(Ordering::Relaxed)
    }

    /// A commit failed: nothing more is written, readers wait for the verification.
    pub fn fail(&self) {
        let mut slot = self.slot();
        if let Slot::Writing(writing) = &*slot {
            let writing = Arc::clone(writing);
            self.verified.send_replace(false);
            *slot = Slot::Failed(writing);
        }
    }

    /// Closes one that is full and no longer pinned (or, with `now`, pinned or not); lets go of one that failed. An
    /// error of closing leaves it to be verified.
    pub fn tidy(&self, now: bool) -> Result<Tidied, EngineError> {
        let mut slot = self.slot();
        let pinned = self.pins.load(Ordering::SeqCst) > 0 && !now;
        match std::mem::replace(&mut *slot, Slot::Interrupted) {
            Slot::Writing(writing) if pinned || (Arc::strong_count(&writing) > 1 && !now) => {
                *slot = Slot::Writing(writing);
                Ok(Tidied::Later)
            }
            Slot::Writing(writing) => {
                self.verified.send_replace(false);
                if let Some(Writing { database, trouble, .. }) = Arc::into_inner(writing) {
                    let what = name(self.number);
                    database.close().map_err(|error| trouble.explain(&what, error.into()))?;
                    *slot = Slot::Closed;
                    self.verified.send_replace(true);
                }
                // Else a reader closes it when it is done, at the end of everything.
                Ok(Tidied::Closed)
            }
            Slot::Failed(writing) => match Arc::try_unwrap(writing) {
                Ok(_) => Ok(Tidied::Interrupted),
                Err(writing) => {
                    *slot = Slot::Failed(writing);
                    Ok(Tidied::Later)
                }
            },
            other => {
                *slot = other;
                Ok(Tidied::Closed)
            }
        }
    }

    /// It is no longer current: [`Generation::tidy`] is to be called until it has nothing more to do.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    /// See [`Generation::leave`].
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    /// Reads the whole file, repairs what a crash left half-written, and closes it cleanly. Everything that was answered is there
    /// after it. An error is to be tried again; damage is not one: it is kept for those who want to read.
    pub fn verify(&self, files: &dyn Files, cache_size: usize) -> Result<(), EngineError> {
        if !matches!(&*self.slot(), Slot::Interrupted) {
            return Ok(());
        }
        // redb may panic on a file that something else has written to.
        let verified = catch_unwind(AssertUnwindSafe(|| {
            let writing = open_writing(files, self.number, Access::Afresh, cache_size)?;
            let Writing { database, trouble, .. } = writing;
            database.close().map_err(|error| trouble.explain(&name(self.number), error.into()))
        }));
        let slot = match verified {
            Ok(Ok(())) => Slot::Closed,
            Ok(Err(EngineError::Corrupt { detail, .. })) => Slot::Damaged(detail),
            Ok(Err(error)) => return Err(error),
            Err(_) => Slot::Damaged("the check of the file failed".into()),
        };
        *self.slot() = slot;
        self.verified.send_replace(true);
        Ok(())
    }

    /// Waits until it is verified.
    pub async fn verified(&self) {
        // The sender is ours: it cannot be gone.
        let _ = self.verified.subscribe().wait_for(|verified| *verified).await;
    }

    /// As if a check of it were under way, or at its end; for the current one.
    #[cfg(test)]
    pub fn hold_check(&self, held: bool) {
        let mut slot = self.slot();
        *slot = match std::mem::replace(&mut *slot, Slot::Interrupted) {
            Slot::Writing(writing) if held => Slot::Failed(writing),
            Slot::Failed(writing) if !held => Slot::Writing(writing),
            other => other,
        };
        self.verified.send_replace(!held);
    }

    pub fn is_verified(&self) -> bool {
        *self.verified.borrow()
    }

    pub fn is_readable(&self) -> bool {
        match &*self.slot() {
            Slot::Writing(_) | Slot::Closed | Slot::Reading(_) => true,
            Slot::Failed(_) | Slot::Interrupted | Slot::Damaged(_) | Slot::Retired => false,
        }
    }

    /// Something to read from; opens the file if it must.
    pub fn source(&self, files: &dyn Files, cache_size: usize) -> Result<Source, StoreError> {
        let mut slot = self.slot();
        match &*slot {
            Slot::Writing(writing) => Ok(Source::Writing(Arc::clone(writing))),
            Slot::Reading(database) => Ok(Source::Reading(Arc::clone(database))),
            Slot::Closed => {
                let database = Arc::new(open_reading(files, self.number, cache_size)?);
                *slot = Slot::Reading(Arc::clone(&database));
                Ok(Source::Reading(database))
            }
            Slot::Failed(_) | Slot::Interrupted => Err(StoreError::Unavailable(format!(
                "{} was not closed and is being checked",
                name(self.number)
            ))),
            Slot::Damaged(detail) => {
                Err(StoreError::Damaged { what: name(self.number), detail: detail.clone() })
            }
            Slot::Retired => Err(StoreError::Damaged {
                what: name(self.number),
                detail: "it was removed, since nothing was said to be in it".into(),
            }),
        }
    }

    /// Closes the file if it is open for reading; who is reading goes on.
    pub fn stop_reading(&self) {
        let mut slot = self.slot();
        if matches!(&*slot, Slot::Reading(_)) {
            *slot = Slot::Closed;
        }
    }

    /// Closes it for good if nobody uses it.
    pub fn retire(&self) -> bool {
        let mut slot = self.slot();
        let unused = match &*slot {
            Slot::Closed | Slot::Damaged(_) | Slot::Retired => true,
            Slot::Reading(database) => Arc::strong_count(database) == 1,
            Slot::Writing(_) | Slot::Failed(_) | Slot::Interrupted => false,
        };
        if unused {
            *slot = Slot::Retired;
        }
        unused
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        // redb may panic on a damaged file; the slot is then as it was, or `Interrupted`.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key of a chunk: all chunks of a body are neighbours, in order.
pub(super) fn chunk_key(key: QueueId, offset: u64) -> [u8; 16] {
    (u128::from(key.as_u64()) << 64 | u128::from(offset)).to_be_bytes()
}

impl Source {
    /// From `offset` to the end of a chunk, as many chunks as [`READ_MAX`] has room for.
    pub fn read(&self, number: u32, key: QueueId, offset: u64) -> Result<Vec<u8>, StoreError> {
        let explain = |error: redb::Error| match self {
            Source::Writing(writing) => writing.trouble.explain(&name(number), error),
            Source::Reading(_) => from_redb(&name(number), error),
        };
        let damaged = |detail: String| StoreError::Damaged {
            what: format!("{} of {key}", name(number)),
            detail,
        };
        let transaction = match self {
            Source::Writing(writing) => writing.database.begin_read(),
            Source::Reading(database) => database.begin_read(),
        };
        let transaction = transaction.map_err(|error| explain(error.into()))?;
        let table = transaction.open_table(TABLE).map_err(|error| explain(error.into()))?;
        let range = |from: u64, to: u64| {
            let (from, to) = (chunk_key(key, from), chunk_key(key, to));
            table.range::<&[u8]>((Bound::Included(&from[..]), Bound::Included(&to[..])))
        };
        let mut before = range(0, offset).map_err(|error| explain(error.into()))?;
        let Some(first) = before.next_back() else {
            return Ok(Vec::new());
        };
        let (found, value) = first.map_err(|error| explain(error.into()))?;
        let start = offset_of(found.value()).ok_or_else(|| damaged("a key".into()))?;
        let skip = usize::try_from(offset - start).unwrap_or(usize::MAX);
        let Some(rest) = value.value().get(skip..) else {
            return Err(damaged(format!("nothing at {offset}")));
        };
        let mut bytes = rest.to_vec();
        if bytes.is_empty() || bytes.len() + super::CHUNK_SIZES[4] > READ_MAX {
            return Ok(bytes);
        }
        let next = offset + bytes.len() as u64;
        for chunk in range(next, u64::MAX).map_err(|error| explain(error.into()))? {
            let (found, value) = chunk.map_err(|error| explain(error.into()))?;
            let at = offset_of(found.value()).ok_or_else(|| damaged("a key".into()))?;
            if at != offset + bytes.len() as u64 {
                return Err(damaged(format!("nothing between {} and {at}", bytes.len())));
            }
            if bytes.len() + value.value().len() > READ_MAX {
                break;
            }
            bytes.extend_from_slice(value.value());
        }
        Ok(bytes)
    }
}

fn offset_of(key: &[u8]) -> Option<u64> {
    key.get(8..)?.try_into().ok().map(u64::from_be_bytes)
}
