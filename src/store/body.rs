//! Bodies: header and body of messages, cut in chunks, in files of their own.
//!
//! A *generation* is one file `body-<generation>.redb`. New bodies go to the current one; when it has its size, the next
//! one takes over, and the full one is closed and opened for reading when wanted. Nothing is deleted from a file but what an
//! unfinished intake left: a file goes as a whole, when the last message in it is gone ([`Bodies::unlink`]).
//!
//! What counts for the size is what the file takes on the disk, not the octets of the bodies alone; and since redb doubles a file that
//! has no free page left, a generation is full a little before that, if it would pass its size then. (Past a half-full file the
//! other half is a hole: it has a length and no blocks.)
//!
//! A body is staged slice by slice while it arrives: at most [`STAGED_MAX`] octets of it are in memory, and each commit
//! takes slices of many messages, so a large one neither costs memory nor holds up small ones. [`Staging::seal`] returns
//! when all of it is durable. The [`Staging`] *pins* its generation: while it lives, the file stays. So it is kept until the
//! envelope that names the body is durable; one that is dropped unsealed deletes its chunks.
//!
//! Commits are durable and in two phases but do not carry the allocator's state, which would cost more with each gigabyte. So a
//! file that was not closed cleanly must be read as a whole before it can be used again: that is done in the background,
//! while another generation takes mail and only the messages in that file wait. The same happens to a generation whose
//! commit fails: everything that is being staged in it fails, what is sealed in it is safe.
//!
//! A crash leaves chunks nobody names, which go with their file; never a sealed body that is incomplete.

mod copy;
mod files;
mod generation;
mod thread;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

pub use self::copy::CopiedBodies;
use self::files::{Directory, Files};
use self::generation::{Generation, Pin, Source};
use self::thread::{Request, Slice};
use super::StoreError;
use crate::mail::job::BodyRef;
use crate::mail::queue_id::QueueId;

/// What a chunk may hold: a little under 16, 8, 4 and 2 pages of 4 KiB, and a quarter of one. A chunk that spills over would take twice
/// the space.
const CHUNK_SIZES: [usize; 5] = [65_472, 32_704, 16_320, 8_128, 999];
/// The largest chunk.
pub const CHUNK_MAX: usize = CHUNK_SIZES[0];
/// Chunks that go to the thread together: enough octets to be worth two fsyncs.
const SLICE_CHUNKS: usize = 4;
/// Slices of one message on their way to the disk, beside the one being filled.
const SLICES_IN_FLIGHT: usize = 3;
/// The most octets of one message that are in memory.
pub const STAGED_MAX: usize = (SLICES_IN_FLIGHT + 1) * SLICE_CHUNKS * CHUNK_MAX;
/// The most octets one read returns.
pub const READ_MAX: usize = 64 << 10;
/// Slices that wait for the thread: 64 MiB.
const QUEUE_SLICES: usize = 256;

/// How to keep bodies.
#[derive(Clone, Copy, Debug)]
pub struct BodyOptions {
    /// Octets of page cache over all generations.
    pub cache_size: usize,
    /// Octets on the disk at which a generation is full, about: at most a sixteenth more.
    pub generation_size: u64,
    /// No new generation gets a number below this: one above all that were ever named.
    pub first_generation: u32,
}

/// A generation that was there at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its number.
    pub generation: u32,
    /// It was closed cleanly; else it is being verified, and its messages wait.
    pub clean: bool,
}

/// One generation, for the choice of what to evacuate and for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Its number.
    pub generation: u32,
    /// Octets of the file, about.
    pub bytes: u64,
    /// It takes new bodies.
    pub current: bool,
    /// Bodies being staged, or sealed and not yet named.
    pub pins: usize,
    /// It can be read at once: neither waiting to be verified nor damaged.
    pub readable: bool,
}

/// All bodies. Clones share them; when the last one and every [`Staging`] is gone, the files are closed.
#[derive(Clone)]
pub struct Bodies {
    inner: Arc<Inner>,
    thread: mpsc::Sender<Request>,
}

struct Inner {
    files: Arc<dyn Files>,
    options: BodyOptions,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    generations: BTreeMap<u32, Arc<Generation>>,
    current: Current,
    /// No number below this was ever given.
    next: u32,
    /// Open for reading, the least recently used first.
    open: VecDeque<u32>,
}

#[derive(Default)]
enum Current {
    #[default]
    Closed,
    Open(Arc<Generation>),
    /// The last one failed and no next one could be made yet.
    Missing(Reason),
}

#[derive(Clone, Copy)]
enum Reason {
    Full,
    Broken,
}

/// Keeps every generation that was there in its file while it lives.
pub struct Kept {
    _pins: Vec<Pin>,
}

/// A body that is arriving, or sealed and about to be named.
pub struct Staging {
    key: QueueId,
    pin: Pin,
    thread: mpsc::Sender<Request>,
    /// Octets before `tail`.
    offset: u64,
    chunks: Vec<Vec<u8>>,
    tail: Vec<u8>,
    in_flight: VecDeque<oneshot::Receiver<Result<(), StoreError>>>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing has gone to the thread.
    Fresh,
    Writing,
    Sealed,
}

/// Cuts a body so that each chunk fills its pages: greedily in [`CHUNK_MAX`], 32 704, 16 320, 8 128 and 999 octets. Four of 999 fill
/// a page with their keys, and share it with chunks of the neighbours. (One chunk of 4 032 would not: it leaves no room beside it,
/// and the rest of each body, between two such chunks, would have a page to itself.) With the offset of each.
pub fn chunks(mut bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let size = CHUNK_SIZES.into_iter().find(|size| *size <= bytes.len());
        let (chunk, rest) = bytes.split_at(size.unwrap_or(bytes.len()));
        let start = offset;
        offset += chunk.len() as u64;
        bytes = rest;
        Some((start, chunk))
    })
}

impl Bodies {
    /// Opens the generations in `directory` and starts the thread that writes. Says which were there.
    ///
    /// # Errors
    /// `Locked`, `Unavailable`. A full disk is not one: then nothing can be staged yet.
    pub fn open(
        directory: &Path,
        options: BodyOptions,
    ) -> Result<(Bodies, Vec<Found>), StoreError> {
        Bodies::open_files(Arc::new(Directory::new(directory)), options)
    }

    fn open_files(
        files: Arc<dyn Files>,
        options: BodyOptions,
    ) -> Result<(Bodies, Vec<Found>), StoreError> {
        let mut table = Table { next: options.first_generation, ..Table::default() };
        let mut found = Vec::new();
        for (number, bytes) in files.list()? {
            let clean = generation::is_clean(&*files, number)?;
            found.push(Found { generation: number, clean });
            table.next = table.next.max(number.saturating_add(1));
            let generation = Arc::new(Generation::found(number, bytes, clean));
            table.generations.insert(number, generation);
        }
        let inner = Arc::new(Inner { files, options, table: Mutex::new(table) });
        let thread = thread::start(Arc::clone(&inner), &found)?;
        Ok((Bodies { inner, thread }, found))
    }

    /// Starts a body that will be named by `key`. Pins the current generation.
    ///
    /// # Errors
    /// `Full` or `Unavailable` while no generation can be written, `Closing`.
    pub fn begin(&self, key: QueueId) -> Result<Staging, StoreError> {
        let table = self.inner.table();
        let pin = match &table.current {
            Current::Open(generation) => Pin::new(generation, &self.thread),
            Current::Closed => return Err(StoreError::Closing),
            Current::Missing(reason) => {
                let reason = *reason;
                drop(table);
                // Perhaps it can be made now, for the next one to ask.
                let _ = self.thread.try_send(Request::Look);
                return Err(reason.into());
            }
        };
        Ok(Staging {
            key,
            pin,
            thread: self.thread.clone(),
            offset: 0,
            chunks: Vec::new(),
            tail: Vec::new(),
            in_flight: VecDeque::new(),
            state: State::Fresh,
        })
    }

    /// The octets of a body from `offset` on, at most [`READ_MAX`]; none at its end. Waits while its generation is being verified.
    ///
    /// # Errors
    /// `Damaged` when there is no such file, or it or the body is damaged; `Unavailable`, `Closing`. A body that was never sealed may
    /// look empty.
    pub async fn read(
        &self,
        generation: u32,
        key: QueueId,
        offset: u64,
    ) -> Result<Vec<u8>, StoreError> {
        self.inner.find_open(generation)?.verified().await;
        let bodies = self.clone();
        // Short when the pages are cached, as long as the disk takes when not: not for the runtime's own threads.
        tokio::task::spawn_blocking(move || bodies.read_blocking(generation, key, offset))
            .await
            .map_err(|error| StoreError::Unavailable(format!("reading a body: {error}")))?
    }

    /// As [`Bodies::read`], on this thread, and without waiting for a generation that is being verified: that is `Unavailable`.
    ///
    /// # Errors
    /// As [`Bodies::read`].
    pub fn read_blocking(
        &self,
        generation: u32,
        key: QueueId,
        offset: u64,
    ) -> Result<Vec<u8>, StoreError> {
        let generation = self.inner.find_open(generation)?;
        let bytes = self.inner.read(&generation, key, offset);
        if generation.is_leaving() {
            // It may be us whom its closing waits for.
            let _ = self.thread.try_send(Request::Look);
        }
        bytes
    }

    /// Whether the generation is being verified, or waits for that: what is read of it now is `Unavailable`.
    pub fn is_in_check(&self, generation: u32) -> bool {
        self.inner.find(generation).is_ok_and(|generation| !generation.is_verified())
    }

    /// See [`Generation::hold_check`].
    #[cfg(test)]
    pub fn hold_check(&self, generation: u32, held: bool) {
        self.inner.find(generation).expect("is there").hold_check(held);
    }

    /// Copies a body of `size` octets into the current generation, under the same key, for evacuation. Keep the [`Staging`] until the
    /// message names the copy.
    ///
    /// # Errors
    /// Of reading and staging; `Damaged` when it has another size. The current generation is not evacuated: `Busy`.
    pub async fn copy(
        &self,
        generation: u32,
        key: QueueId,
        size: u64,
    ) -> Result<Staging, StoreError> {
        let mut staging = self.begin(key)?;
        if staging.generation() == generation {
            return Err(StoreError::Busy);
        }
        let mut offset = 0;
        loop {
            let bytes = self.read(generation, key, offset).await?;
            if bytes.is_empty() && offset == size {
                staging.seal().await?;
                return Ok(staging);
            }
            if bytes.is_empty() || offset + bytes.len() as u64 > size {
                return Err(StoreError::Damaged {
                    what: format!("{} of {key}", files::name(generation)),
                    detail: format!("it does not have {size} octets"),
                });
            }
            offset += bytes.len() as u64;
            staging.write(&bytes).await?;
        }
    }

    /// Keeps all generations from being removed. One that is being removed at this moment is named by no message, now or later.
    pub fn keep_all(&self) -> Kept {
        let table = self.inner.table();
        let pin = |generation: &Arc<Generation>| Pin::new(generation, &self.thread);
        Kept { _pins: table.generations.values().map(pin).collect() }
    }

    /// Removes the file of a generation whose bodies nobody names any more. False when it is current, pinned, being read or
    /// verified: try again later.
    ///
    /// # Errors
    /// `Unavailable` when the file cannot be removed; it is no longer used all the same, and found at the next start.
    pub async fn unlink(&self, generation: u32) -> Result<bool, StoreError> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || inner.unlink(generation))
            .await
            .map_err(|error| StoreError::Unavailable(format!("removing bodies: {error}")))?
    }

    /// If this is the current generation, new bodies go to a new one from the next group on, so that its file can go.
    pub fn turn_over(&self, generation: u32) {
        if let Current::Open(current) = &self.inner.table().current
            && current.number == generation
        {
            current.wants_end.store(true, Ordering::Relaxed);
            // Without room there is a group to come, and the thread looks after each.
            let _ = self.thread.try_send(Request::Look);
        }
    }

    /// Every generation, by number.
    pub fn usage(&self) -> Vec<Usage> {
        let table = self.inner.table();
        let current = match &table.current {
            Current::Open(generation) => Some(generation.number),
            Current::Closed | Current::Missing(_) => None,
        };
        let generations: Vec<Arc<Generation>> = table.generations.values().cloned().collect();
        // A generation may be busy opening its file: nobody else is to wait for that.
        drop(table);
        let usage = |generation: Arc<Generation>| Usage {
            generation: generation.number,
            bytes: generation.bytes.load(Ordering::Relaxed),
            current: current == Some(generation.number),
            pins: generation.pins.load(Ordering::SeqCst),
            readable: generation.is_readable(),
        };
        generations.into_iter().map(usage).collect()
    }

    /// Commits what waits and closes the files cleanly. Whatever is being staged fails.
    ///
    /// # Errors
    /// `Unavailable` when a file could not be closed cleanly: it will be verified at the next start.
    pub async fn close(&self) -> Result<(), StoreError> {
        let (reply, closed) = oneshot::channel();
        if self.thread.send(Request::Close(reply)).await.is_err() {
            return Ok(());
        }
        closed.await.unwrap_or(Ok(()))
    }
}

impl Staging {
    /// Where it goes.
    pub fn generation(&self) -> u32 {
        self.pin.generation().number
    }

    /// The next octets. Waits while [`STAGED_MAX`] of this body are on their way to the disk.
    ///
    /// # Errors
    /// `Full`, `Unavailable`, `Closing`: this body cannot be completed.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            let room = CHUNK_MAX - self.tail.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.tail.extend_from_slice(now);
            bytes = later;
            if self.tail.len() == CHUNK_MAX {
                self.chunks.push(std::mem::take(&mut self.tail));
            }
            if self.chunks.len() == SLICE_CHUNKS {
                self.send().await?;
            }
        }
        Ok(())
    }

    /// Returns when all of it is durable. Keep the staging until the envelope that names the body is.
    ///
    /// # Errors
    /// As [`Staging::write`].
    pub async fn seal(&mut self) -> Result<BodyRef, StoreError> {
        self.send_rest().await?;
        while !self.in_flight.is_empty() {
            self.settle_one().await?;
        }
        self.state = State::Sealed;
        Ok(BodyRef::Generation { generation: self.generation(), key: self.key })
    }

    /// Sends what is left; the body is complete.
    async fn send_rest(&mut self) -> Result<(), StoreError> {
        let tail = std::mem::take(&mut self.tail);
        self.chunks.extend(chunks(&tail).map(|(_, chunk)| chunk.to_vec()));
        if self.chunks.is_empty() { Ok(()) } else { self.send().await }
    }

    /// Sends the chunks that are complete.
    async fn send(&mut self) -> Result<(), StoreError> {
        while self.in_flight.len() >= SLICES_IN_FLIGHT {
            self.settle_one().await?;
        }
        let chunks = std::mem::take(&mut self.chunks);
        let length: usize = chunks.iter().map(Vec::len).sum();
        let (reply, durable) = oneshot::channel();
        let generation = Arc::clone(self.pin.generation());
        let slice = Slice { generation, key: self.key, offset: self.offset, chunks, reply };
        self.state = State::Writing;
        self.offset += length as u64;
        self.in_flight.push_back(durable);
        self.thread.send(Request::Write(slice)).await.map_err(|_| StoreError::Closing)
    }

    async fn settle_one(&mut self) -> Result<(), StoreError> {
        match self.in_flight.front_mut() {
            Some(durable) => {
                let result = durable.await.unwrap_or(Err(StoreError::Closing));
                self.in_flight.pop_front();
                result
            }
            None => Ok(()),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.state == State::Writing {
            let generation = Arc::clone(self.pin.generation());
            // When the thread has no room for it, the chunks stay until their file goes.
            let _ = self.thread.try_send(Request::Abandon { generation, key: self.key });
        }
    }
}

impl From<Reason> for StoreError {
    fn from(reason: Reason) -> StoreError {
        match reason {
            Reason::Full => StoreError::Full,
            Reason::Broken => StoreError::Unavailable("no file for bodies can be written".into()),
        }
    }
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing of ours panics between two changes of it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, number: u32) -> Result<Arc<Generation>, StoreError> {
        let found = self.table().generations.get(&number).map(Arc::clone);
        found.ok_or_else(|| StoreError::Damaged {
            what: files::name(number),
            detail: "it is not there".into(),
        })
    }

    /// As [`Inner::find`], as long as the files are open.
    fn find_open(&self, number: u32) -> Result<Arc<Generation>, StoreError> {
        let closed = matches!(self.table().current, Current::Closed);
        if closed { Err(StoreError::Closing) } else { self.find(number) }
    }

    fn read(
        &self,
        generation: &Generation,
        key: QueueId,
        offset: u64,
    ) -> Result<Vec<u8>, StoreError> {
        let cache = self.options.cache_size / 2 / generation::OPEN_MAX;
        let source = generation.source(&*self.files, cache)?;
        if matches!(source, Source::Reading(_)) {
            self.used(generation.number);
        }
        source.read(generation.number, key, offset)
    }

    /// Notes the use of a file open for reading; closes the one that was used longest ago when too many are.
    fn used(&self, number: u32) {
        let mut table = self.table();
        table.open.retain(|other| *other != number);
        table.open.push_back(number);
        let closed = if table.open.len() > generation::OPEN_MAX {
            let oldest = table.open.pop_front();
            oldest.and_then(|oldest| table.generations.get(&oldest).map(Arc::clone))
        } else {
            None
        };
        drop(table);
        if let Some(generation) = closed {
            generation.stop_reading();
        }
    }

    fn unlink(&self, number: u32) -> Result<bool, StoreError> {
        let table = self.table();
        let Some(generation) = table.generations.get(&number).map(Arc::clone) else {
            return Ok(true);
        };
        let current = matches!(&table.current, Current::Open(current) if current.number == number);
        drop(table);
        // Only the current generation gets pins that matter, and one that was current never is again: none can appear. (A copy keeps
        // all, but needs only those that its snapshot names, and this is none of them: `keep_all`.)
        if current || generation.pins.load(Ordering::SeqCst) > 0 || !generation.retire() {
            return Ok(false);
        }
        let mut table = self.table();
        table.generations.remove(&number);
        table.open.retain(|other| *other != number);
        drop(table);
        Ok(self.files.remove(number).map(|()| true)?)
    }
}

#[cfg(test)]
mod tests;
