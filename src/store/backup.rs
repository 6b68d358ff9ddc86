//! A copy of a running store, and a store from a copy.
//!
//! *Copying.* [`Store::backup`] keeps every body file in its place and then takes a snapshot; its [`Rows`] are all of `queue.redb`
//! at that instant, and the bodies they name are complete, for a body is sealed before the envelope that names it. Whoever copies
//! gives both to a [`Copy`], which writes them with our own engine. What is of the running process alone is left out: META
//! `open` and INFLIGHT. So the copy is what the store would be after a clean stop at that instant.
//!
//! *A copy is there wholly or not at all*: it is `queue.unfinished` until the last body is durable, and only then `queue.redb`.
//! The same holds for [`restore`], which copies the files of a store that nobody has open.
//!
//! What neither can know: mail that was delivered after the instant of the copy is in it all the same, and goes out again
//! when the copy is put to work.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::body::{CopiedBodies, Kept};
use super::edit::describe;
use super::engine::redb::RedbEngine;
use super::engine::{Applied, Batch, Engine, Key, Read, Value, Work};
use super::key;
use super::message::Message;
use super::record::Record;
use super::schema::*;
use super::{Store, StoreError};
use crate::mail::job::BodyRef;
use crate::mail::queue_id::QueueId;

/// Rows read at a time, at least and at most: most are small, bodies of INCOMING have 64 KiB.
const SLICE_MIN: usize = 16;
const SLICE_MAX: usize = 256;
/// Octets of a slice beyond which the next one is shorter.
const SLICE_OCTETS: usize = 1 << 20;
/// Octets of rows in one commit of a copy.
const COMMIT_OCTETS: usize = 4 << 20;
/// Page cache of the files of a copy: it is written once, in order.
const CACHE: usize = 16 << 20;
/// Unreadable messages that are named: enough to see what kind of trouble it is.
const UNREADABLE_MAX: usize = 1000;
/// Octets copied at a time by a restore.
const BLOCK: usize = 1 << 20;
/// Name of what is to be `queue.redb`, until it is complete.
const UNFINISHED: &str = "queue.unfinished";
/// As the daemon makes QueueDirectory.
const QUEUE_MODE: u32 = 0o711;
/// Of a copy: nobody but its owner is to see anything of it.
const COPY_MODE: u32 = 0o700;

/// All rows of one snapshot, in slices.
pub struct Rows {
    snapshot: Box<dyn Read + Send>,
    next: Key,
    limit: usize,
}

/// Keeps the bodies of a snapshot in their files while it lives.
pub struct KeptBodies {
    _kept: Kept,
}

/// A body that a copied row names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Where it is in both stores.
    pub body: BodyRef,
    /// Octets of it.
    pub size: u64,
    /// The message that names it.
    pub id: QueueId,
}

/// A copy of a store in the making.
pub struct Copy {
    directory: PathBuf,
    engine: RedbEngine,
    bodies: CopiedBodies,
    waiting: Batch,
    octets: usize,
    /// See [`Copy::unreadable`].
    unreadable: Vec<String>,
}

impl Store {
    /// The rows of this instant, and what keeps the bodies they name.
    ///
    /// # Errors
    /// `Unavailable`, `Closing`.
    pub fn backup(&self) -> Result<(Rows, KeptBodies), StoreError> {
        // In this order: a file that the snapshot names has not gone before, and cannot after.
        let kept = self.core().bodies.keep_all();
        let snapshot = self.core().writer.snapshot()?;
        let rows = Rows { snapshot, next: Key::new(), limit: SLICE_MIN };
        Ok((rows, KeptBodies { _kept: kept }))
    }
}

impl Rows {
    /// The next ones in order of their keys; none at the end.
    ///
    /// # Errors
    /// `Unavailable`, when the files had to be opened again meanwhile: begin anew.
    #[allow(clippy::should_implement_trait)] // it fails, and its end is an empty slice
    pub fn next(&mut self) -> Result<Vec<(Key, Value)>, StoreError> {
        loop {
            let mut rows = self.snapshot.range(&self.next..&[0xff], self.limit, false)?;
            let Some((last, _)) = rows.last() else { return Ok(Vec::new()) };
            self.next = key::after(last.clone());
            let octets: usize = rows.iter().map(|(key, value)| key.len() + value.len()).sum();
            self.limit = match octets {
                SLICE_OCTETS.. => (self.limit / 2).max(SLICE_MIN),
                _ if octets < SLICE_OCTETS / 4 => (self.limit * 2).min(SLICE_MAX),
                _ => self.limit,
            };
            rows.retain(|(key, _)| !is_of_a_process(key));
            if !rows.is_empty() {
                return Ok(rows);
            }
        }
    }
}

/// Whether a row says something of the running process, which its copy is not.
fn is_of_a_process(key: &[u8]) -> bool {
    key.first() == Some(&INFLIGHT.prefix) || key == META.key(META_OPEN)
}

impl Copy {
    /// Begins one in an empty directory, which is made when it is not there.
    ///
    /// # Errors
    /// `Unavailable` when the directory has something in it or cannot be written, `Full`.
    pub fn create(directory: &Path) -> Result<Copy, StoreError> {
        make_empty(directory, COPY_MODE)?;
        let engine = RedbEngine::open(&directory.join(UNFINISHED), CACHE, true)?;
        Ok(Copy {
            directory: directory.to_owned(),
            engine,
            bodies: CopiedBodies::new(directory, CACHE),
            waiting: Batch::default(),
            octets: 0,
            unreadable: Vec::new(),
        })
    }

    /// Takes the next rows.
    ///
    /// # Errors
    /// `Full`, `Unavailable`.
    pub fn rows(&mut self, rows: Vec<(Key, Value)>) -> Result<(), StoreError> {
        self.octets += rows.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        self.waiting.puts.extend(rows);
        if self.octets >= COMMIT_OCTETS { self.commit() } else { Ok(()) }
    }

    /// Bodies that are named by rows after `after`, in order of queue IDs, up to `limit`; none at the end. To be asked for when all rows
    /// are here. A row that cannot be read is in the copy as it is, and does not say where its body is ([`Copy::unreadable`]).
    ///
    /// # Errors
    /// `Full`, `Unavailable`.
    pub fn named(
        &mut self,
        after: Option<QueueId>,
        limit: usize,
    ) -> Result<Vec<Named>, StoreError> {
        self.commit()?;
        let (mut start, end) = MESSAGE.all();
        if let Some(after) = after {
            start = key::after(MESSAGE.key(after));
        }
        let snapshot = self.engine.snapshots().snapshot()?;
        loop {
            let rows = snapshot.range(&start..&end, limit, false)?;
            let Some((last, _)) = rows.last() else { return Ok(Vec::new()) };
            start = key::after(last.clone());
            let mut named = Vec::new();
            for (key, value) in rows {
                let id = MESSAGE.parse(&key).ok();
                match id.zip(Message::decode(&value).ok()) {
                    Some((id, message)) => {
                        let (body, size) = (message.body.reference(id), message.envelope.size);
                        named.push(Named { body, size, id });
                    }
                    None if self.unreadable.len() < UNREADABLE_MAX => {
                        self.unreadable.push(describe(MESSAGE.name, &key));
                    }
                    None => {}
                }
            }
            if !named.is_empty() {
                return Ok(named);
            }
        }
    }

    /// Messages whose rows were copied and whose bodies could not be found, since the rows cannot be read: the first thousand, when all
    /// that is named was asked for.
    pub fn unreadable(&self) -> &[String] {
        &self.unreadable
    }

    /// Takes the octets of a body from `offset` on.
    ///
    /// # Errors
    /// `Full`, `Unavailable`.
    pub fn body(&mut self, body: &BodyRef, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        match body {
            BodyRef::Generation { generation, key } => {
                self.bodies.write(*generation, *key, offset, bytes)
            }
            // It stands among the rows.
            BodyRef::Incoming(_) => Ok(()),
        }
    }

    /// All is here: makes it durable, and a store.
    ///
    /// # Errors
    /// `Full`, `Unavailable`: then there is no store in the directory.
    pub fn finish(mut self) -> Result<(), StoreError> {
        self.commit()?;
        self.bodies.finish()?;
        Box::new(self.engine).close()?;
        name_it(&self.directory)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        if self.waiting.puts.is_empty() {
            return Ok(());
        }
        self.octets = 0;
        let batch = std::mem::take(&mut self.waiting);
        for answer in self.engine.commit(vec![Work::Batch(batch)])? {
            match answer? {
                Applied::Committed => {}
                Applied::Conflict(_) => {
                    return Err(StoreError::Unavailable("a copy without checks conflicts".into()));
                }
            }
        }
        Ok(())
    }
}

/// Copies the store in `from`, which nobody has open, into the empty directory `to`. `tell` hears of each file. Returns octets
/// copied.
///
/// # Errors
/// `Missing` when there is no complete store in `from`, `Locked` when it is in use, `Unavailable`, `Full`: then there is no store in
/// `to`.
pub fn restore(from: &Path, to: &Path, tell: &mut dyn FnMut(&str)) -> Result<u64, StoreError> {
    if !from.join("queue.redb").exists() {
        return Err(StoreError::Missing(from.to_owned()));
    }
    let mut names = vec!["queue.redb".to_owned()];
    for entry in fs::read_dir(from).map_err(|error| trouble(from, &error))? {
        let name = entry.map_err(|error| trouble(from, &error))?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("body-") && name.ends_with(".redb") {
            names.push(name.into_owned());
        }
    }
    let mut sources = Vec::new();
    for name in names {
        let path = from.join(&name);
        let file = File::open(&path).map_err(|error| trouble(&path, &error))?;
        // The engine locks the files it has open for writing.
        if file.try_lock_shared().is_err() {
            return Err(StoreError::Locked(from.to_owned()));
        }
        sources.push((name, file));
    }
    make_empty(to, QUEUE_MODE)?;
    let owner = fs::metadata(to).map_err(|error| trouble(to, &error))?;
    let mut octets = 0;
    for (name, mut file) in sources {
        tell(&name);
        let target = to.join(if name == "queue.redb" { UNFINISHED } else { &name });
        octets += copy_file(&mut file, &target, (owner.uid(), owner.gid()))?;
    }
    name_it(to)?;
    Ok(octets)
}

fn copy_file(from: &mut File, path: &Path, owner: (u32, u32)) -> Result<u64, StoreError> {
    let failed = |error: io::Error| trouble(path, &error);
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let mut block = vec![0; BLOCK];
    let mut octets = 0;
    loop {
        let length = match io::Read::read(from, &mut block) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other.map_err(failed)?,
        };
        if length == 0 {
            break;
        }
        io::Write::write_all(&mut file, &block[..length]).map_err(failed)?;
        octets += length as u64;
    }
    let mine = file.metadata().map_err(failed)?;
    if (mine.uid(), mine.gid()) != owner {
        // The daemon may run as the owner of its directory.
        std::os::unix::fs::fchown(&file, Some(owner.0), Some(owner.1)).map_err(failed)?;
    }
    file.sync_all().map_err(failed)?;
    Ok(octets)
}

/// Gives a complete copy its name.
fn name_it(directory: &Path) -> Result<(), StoreError> {
    let name = directory.join("queue.redb");
    // The names of the bodies first: what is named is there.
    let sync = || File::open(directory)?.sync_all();
    let named =
        sync().and_then(|()| fs::rename(directory.join(UNFINISHED), &name)).and_then(|()| sync());
    named.map_err(|error| trouble(&name, &error))
}

fn make_empty(directory: &Path, mode: u32) -> Result<(), StoreError> {
    let failed = |error: io::Error| trouble(directory, &error);
    DirBuilder::new().recursive(true).mode(mode).create(directory).map_err(failed)?;
    match fs::read_dir(directory).map_err(failed)?.next() {
        None => Ok(()),
        Some(_) => Err(StoreError::Unavailable(format!(
            "{} is not empty: nothing was written; name an empty directory or a new one",
            directory.display()
        ))),
    }
}

fn trouble(path: &Path, error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
        _ => StoreError::Unavailable(format!("{}: {error}", path.display())),
    }
}
