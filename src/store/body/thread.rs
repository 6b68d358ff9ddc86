//! The threads behind the bodies: one that writes, one that verifies what was not closed.
//!
//! The writing one takes what waits (bounded in octets), commits it once per generation, and answers; then it looks
//! whether the current generation is full, has failed, or a full one can be closed. The verifying one reads one
//! file at a time, which takes seconds to minutes, and tries again what the disk refused.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::generation::{Generation, Writing, chunk_key};
use super::{Current, Found, Inner, QUEUE_SLICES, Reason};
use crate::mail::queue_id::QueueId;
use crate::store::StoreError;
use crate::store::engine::EngineError;
use crate::store::engine::redb::TABLE;

/// Octets in one commit: a large message has at most this much before a small one.
const GROUP_BYTES: usize = 4 << 20;
/// Requests in one commit.
const GROUP_REQUESTS: usize = 512;
/// Until a verification that the disk refused is tried again.
const VERIFY_AGAIN: Duration = Duration::from_secs(2);

pub(super) enum Request {
    Write(Slice),
    /// Deletes what an unfinished intake wrote.
    Abandon {
        generation: Arc<Generation>,
        key: QueueId,
    },
    /// See whether there is something to open or close.
    Look,
    Close(oneshot::Sender<Result<(), StoreError>>),
}

/// Neighbouring chunks of one body.
pub(super) struct Slice {
    pub generation: Arc<Generation>,
    pub key: QueueId,
    /// Of the first one.
    pub offset: u64,
    pub chunks: Vec<Vec<u8>>,
    pub reply: oneshot::Sender<Result<(), StoreError>>,
}

impl Slice {
    fn bytes(&self) -> usize {
        self.chunks.iter().map(Vec::len).sum()
    }
}

/// Opens a generation to write to and starts both threads.
pub(super) fn start(
    inner: Arc<Inner>,
    found: &[Found],
) -> Result<mpsc::Sender<Request>, StoreError> {
    let (verify, to_verify) = std_mpsc::channel();
    for generation in found.iter().filter(|found| !found.clean) {
        // The receiver is in our hands.
        let _ = verify.send(inner.find(generation.generation)?);
    }
    let mut thread = Thread { inner: Arc::clone(&inner), leaving: Vec::new(), verify };
    thread.open_first(found)?;
    let (sender, requests) = mpsc::channel(QUEUE_SLICES);
    let failed = |error| StoreError::Unavailable(format!("no thread: {error}"));
    thread::Builder::new()
        .name("body-writer".into())
        .spawn(move || thread.run(requests))
        .map_err(failed)?;
    thread::Builder::new()
        .name("body-verifier".into())
        .spawn(move || verify_all(&inner, &to_verify))
        .map_err(failed)?;
    Ok(sender)
}

struct Thread {
    inner: Arc<Inner>,
    /// Once current, and not yet closed.
    leaving: Vec<Arc<Generation>>,
    verify: std_mpsc::Sender<Arc<Generation>>,
}

impl Thread {
    fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut closing = None;
        while closing.is_none()
            && let Some(first) = requests.blocking_recv()
        {
            let mut group = Group::default();
            let mut next = Some(first);
            while let Some(request) = next {
                match request {
                    Request::Close(reply) => closing = Some(reply),
                    request => group.add(request),
                }
                let more = group.requests < GROUP_REQUESTS && group.bytes < GROUP_BYTES;
                next = if more && closing.is_none() { requests.try_recv().ok() } else { None };
            }
            for (_, changes) in group.generations {
                self.commit(changes);
            }
            self.look();
        }
        let closed = self.close();
        if let Some(reply) = closing {
            // Whoever asked need not wait for it.
            let _ = reply.send(closed.map_err(StoreError::from));
        }
    }

    fn commit(&mut self, changes: Changes) {
        let Changes { generation, mut slices, abandoned } = changes;
        // In key order, so that neighbours meet in the same leaf.
        slices.sort_by_key(|slice| (slice.key, slice.offset));
        let committed = match generation.writing() {
            // A panic of redb is taken for a failed commit: the file is verified before it is used again.
            Some(writing) => {
                catch_unwind(AssertUnwindSafe(|| write(&writing, &slices, &abandoned)))
                    .unwrap_or_else(|_| Err(EngineError::Refused("defect in redb".into())))
            }
            None => Err(EngineError::Refused("its file is closed".into())),
        };
        match committed {
            Ok(()) => {
                for slice in slices {
                    let _ = slice.reply.send(Ok(()));
                }
                if let Err(error) = generation.measure(&*self.inner.files) {
                    tracing::warn!(generation = generation.number, %error, "cannot be measured");
                }
            }
            Err(error) => {
                tracing::warn!(generation = generation.number, %error, "bodies cannot be written");
                generation.fail();
                for slice in slices {
                    let _ = slice.reply.send(Err(StoreError::from(&error)));
                }
                self.replace(match error {
                    EngineError::Full { .. } => Reason::Full,
                    _ => Reason::Broken,
                });
            }
        }
    }

    /// Gives up the current generation if it cannot be written to.
    fn replace(&mut self, reason: Reason) {
        let mut table = self.inner.table();
        match &table.current {
            Current::Open(current) if current.writing().is_none() => {
                current.leave();
                self.leaving.push(Arc::clone(current));
                table.current = Current::Missing(reason);
            }
            Current::Open(_) | Current::Missing(_) | Current::Closed => {}
        }
    }

    /// Makes the next generation when it is wanted, and closes what can be closed.
    fn look(&mut self) {
        let wanted = match &self.inner.table().current {
            Current::Open(current) => current.is_full(self.inner.options.generation_size),
            Current::Missing(_) => true,
            Current::Closed => false,
        };
        if wanted && let Err(error) = self.open_next() {
            tracing::warn!(%error, "no new file for bodies");
        }
        let verify = &self.verify;
        self.leaving.retain(|generation| match generation.tidy(false) {
            Ok(Tidied::Later) => true,
            Ok(Tidied::Closed) => false,
            Ok(Tidied::Interrupted) => {
                // Gone only when the process ends.
                let _ = verify.send(Arc::clone(generation));
                false
            }
            Err(error) => {
                tracing::warn!(generation = generation.number, %error, "could not be closed");
                let _ = verify.send(Arc::clone(generation));
                false
            }
        });
    }

    /// Goes on with the last generation if it was closed cleanly and has room, else with a new one.
    fn open_first(&mut self, found: &[Found]) -> Result<(), StoreError> {
        if let Some(Found { generation, clean: true }) = found.last() {
            let generation = self.inner.find(*generation)?;
            let full = self.inner.options.generation_size;
            let files = &*self.inner.files;
            if !generation.is_full(full)
                && generation.open_writing(files, self.inner.options.cache_size / 2).is_ok()
            {
                self.inner.table().current = Current::Open(generation);
                return Ok(());
            }
        }
        self.inner.table().current = Current::Missing(Reason::Broken);
        match self.open_next() {
            Err(error @ EngineError::Locked { .. }) => Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "no file for bodies");
                if let EngineError::Full { .. } = error {
                    self.inner.table().current = Current::Missing(Reason::Full);
                }
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Makes a new generation and makes it the current one.
    fn open_next(&mut self) -> Result<(), EngineError> {
        let number = self.inner.table().next;
        let files = &*self.inner.files;
        files.create(number)?;
        let generation = Arc::new(Generation::found(number, 0, true));
        // From here on the number is taken, whatever happens.
        let mut table = self.inner.table();
        table.next = number.saturating_add(1);
        table.generations.insert(number, Arc::clone(&generation));
        drop(table);
        generation.open_writing(files, self.inner.options.cache_size / 2)?;
        let mut table = self.inner.table();
        if let Current::Open(before) =
            std::mem::replace(&mut table.current, Current::Open(generation))
        {
            before.leave();
            self.leaving.push(before);
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), EngineError> {
        let current = std::mem::replace(&mut self.inner.table().current, Current::Closed);
        if let Current::Open(current) = current {
            self.leaving.push(current);
        }
        let closed = self.leaving.drain(..).map(|generation| generation.tidy(true).map(drop));
        // Every one is closed, whatever happens to the others.
        closed.fold(Ok(()), Result::and)
    }
}

#[derive(Default)]
struct Group {
    generations: BTreeMap<u32, Changes>,
    requests: usize,
    bytes: usize,
}

struct Changes {
    generation: Arc<Generation>,
    slices: Vec<Slice>,
    /// What these wrote in earlier groups goes before anything is written: a slice of the same body in this group came behind, from another
    /// staging of it.
    abandoned: Vec<QueueId>,
}

impl Group {
    fn add(&mut self, request: Request) {
        self.requests += 1;
        match request {
            Request::Write(slice) => {
                self.bytes += slice.bytes();
                self.changes(&slice.generation).slices.push(slice);
            }
            Request::Abandon { generation, key } => {
                let changes = self.changes(&generation);
                // Whoever sent them is gone.
                changes.slices.retain(|slice| slice.key != key);
                changes.abandoned.push(key);
            }
            Request::Look | Request::Close(_) => {}
        }
    }

    fn changes(&mut self, generation: &Arc<Generation>) -> &mut Changes {
        self.generations.entry(generation.number).or_insert_with(|| Changes {
            generation: Arc::clone(generation),
            slices: Vec::new(),
            abandoned: Vec::new(),
        })
    }
}

fn write(writing: &Writing, slices: &[Slice], abandoned: &[QueueId]) -> Result<(), EngineError> {
    let written = || -> Result<(), redb::Error> {
        let mut transaction = writing.database.begin_write()?;
        transaction.set_two_phase_commit(true);
        let mut table = transaction.open_table(TABLE)?;
        for key in abandoned {
            let (from, to) = (chunk_key(*key, 0), chunk_key(*key, u64::MAX));
            let all = (Bound::Included(&from[..]), Bound::Included(&to[..]));
            table.retain_in::<&[u8], _>(all, |_, _| false)?;
        }
        for slice in slices {
            let mut offset = slice.offset;
            for chunk in &slice.chunks {
                table.insert(&chunk_key(slice.key, offset)[..], chunk.as_slice())?;
                offset += chunk.len() as u64;
            }
        }
        drop(table);
        Ok(transaction.commit()?)
    };
    written().map_err(|error| writing.trouble.explain("bodies", error))
}

/// What became of a generation that is no longer current.
pub(super) enum Tidied {
    /// Somebody needs it.
    Later,
    /// It is closed cleanly.
    Closed,
    /// It is to be verified.
    Interrupted,
}

/// Verifies what comes until the writing thread is gone.
fn verify_all(inner: &Inner, to_verify: &std_mpsc::Receiver<Arc<Generation>>) {
    let mut again: Vec<Arc<Generation>> = Vec::new();
    loop {
        let next = match to_verify.recv_timeout(VERIFY_AGAIN) {
            Ok(next) => vec![next],
            Err(std_mpsc::RecvTimeoutError::Timeout) => std::mem::take(&mut again),
            Err(std_mpsc::RecvTimeoutError::Disconnected) => return,
        };
        for generation in next {
            let cache_size = inner.options.cache_size / 4;
            if let Err(error) = generation.verify(&*inner.files, cache_size) {
                tracing::warn!(generation = generation.number, %error, "cannot be checked yet");
                again.push(generation);
            }
        }
    }
}
