//! A simulated disk under redb, for tests of crashes and faults.
//!
//! Bytes as programs see them and bytes as a power cut would leave them are kept apart, with the unsynced writes
//! between them in order. A [`SimDisk::cut`] keeps any subset of those, any of them torn between sectors of 512 octets or
//! pages of 4 KiB, and extends the file or not. A planned fault strikes at the n-th operation that changes or syncs the file; a
//! failed sync behaves as Linux does: what was not written looks written until the caches are dropped.
//!
//! A [`SimDirectory`] has such a file under a name, and a draft beside it; their operations, and those on the names, are counted
//! together. A name that was changed and not synced may be the old or the new one after a cut.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use super::Place;

/// What a disk writes in one go.
const SECTOR: usize = 512;
/// What the kernel writes in one go.
const PAGE: usize = 4096;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// No space left: a write is cut short.
    NoSpace,
    /// An error of the device: a write is cut short, a sync leaves out what it likes.
    Broken,
    /// Power is gone: this operation and every later one fails until [`SimDisk::cut`].
    Power,
}

/// When.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// At the operation with this number (write, change of length, sync), counted from 1 over the disk's life.
    pub at: u64,
    /// What.
    pub fault: DiskFault,
    /// At every later one too.
    pub lasting: bool,
}

/// A file on a simulated disk. Clones are the same file.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    faults: Arc<Mutex<Faults>>,
}

/// What is counted, and goes wrong, over all files of a disk.
#[derive(Debug, Default)]
struct Faults {
    operations: u64,
    plan: Option<Plan>,
}

#[derive(Debug, Default)]
struct State {
    live: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    syncs: u64,
    seed: u64,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl SimDisk {
    /// An empty file; `seed` decides what faults leave.
    pub fn new(seed: u64) -> SimDisk {
        let state = State { seed, ..State::default() };
        SimDisk { state: Arc::new(Mutex::new(state)), faults: Arc::default() }
    }

    /// Another empty file of the same disk.
    fn beside(&self) -> SimDisk {
        let seed = self.state().seed.wrapping_add(1);
        SimDisk { faults: Arc::clone(&self.faults), ..SimDisk::new(seed) }
    }

    /// Plans a fault, in place of any other.
    pub fn plan(&self, plan: Option<Plan>) {
        self.faults().plan = plan;
    }

    /// Operations that changed or synced the file so far.
    pub fn operations(&self) -> u64 {
        self.faults().operations
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation; says what is to go wrong with it.
    fn operation(&self) -> Option<DiskFault> {
        self.faults().operation()
    }

    /// Syncs so far.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// What a power cut at this moment may leave: another file, without faults planned.
    pub fn cut(&self, seed: u64) -> SimDisk {
        let state = self.state();
        let durable =
            survivors(&state.durable, &state.unsynced, &mut fastrand::Rng::with_seed(seed));
        let state = State { live: durable.clone(), durable, seed, ..State::default() };
        SimDisk { state: Arc::new(Mutex::new(state)), faults: Arc::default() }
    }

    /// Opens the file as after an error: writes out what is still known to be dirty, then forgets everything that is cached.
    ///
    /// # Errors
    /// When a fault is planned for this sync.
    pub fn open_again(&self) -> io::Result<SimDisk> {
        self.sync_data()?;
        let mut state = self.state();
        state.live = state.durable.clone();
        drop(state);
        Ok(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The simulation has no step that panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Faults {
    fn operation(&mut self) -> Option<DiskFault> {
        self.operations += 1;
        let plan = self.plan?;
        let lasting = plan.lasting || plan.fault == DiskFault::Power;
        let strikes = self.operations == plan.at || (lasting && self.operations > plan.at);
        strikes.then_some(plan.fault)
    }
}

impl State {
    fn change(&mut self, change: Change) {
        apply(&mut self.live, &change);
        self.unsynced.push(change);
    }

    fn random(&mut self) -> fastrand::Rng {
        self.seed = self.seed.wrapping_add(1);
        fastrand::Rng::with_seed(self.seed)
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => bytes.resize(*length, 0),
        Change::Write(offset, data) => {
            if bytes.len() < offset + data.len() {
                bytes.resize(offset + data.len(), 0);
            }
            bytes[*offset..offset + data.len()].copy_from_slice(data);
        }
    }
}

/// `durable` with any subset of the changes, in order, some torn.
fn survivors(durable: &[u8], changes: &[Change], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = durable.to_vec();
    // From nothing through half to all of it: each extreme is a case of its own.
    let share = random.u8(0..=4);
    for change in changes {
        match change {
            _ if random.u8(0..4) >= share => {}
            Change::Write(offset, data) if random.u8(0..4) == 0 => {
                let grain = if random.bool() { SECTOR } else { PAGE };
                for (number, piece) in data.chunks(grain).enumerate() {
                    if random.bool() {
                        apply(&mut bytes, &Change::Write(offset + number * grain, piece.to_vec()));
                    }
                }
            }
            change => apply(&mut bytes, change),
        }
    }
    bytes
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}

fn no_space() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error())
}

impl StorageBackend for SimDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = state.live.get(start..start.saturating_add(out.len()));
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        let length = usize::try_from(len).map_err(io::Error::other)?;
        match self.operation() {
            Some(DiskFault::NoSpace) => Err(no_space()),
            Some(DiskFault::Broken | DiskFault::Power) => Err(broken()),
            None => {
                state.change(Change::Length(length));
                Ok(())
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        let fault = self.operation();
        if fault == Some(DiskFault::Power) {
            return Err(broken());
        }
        let changes = std::mem::take(&mut state.unsynced);
        match fault {
            None => {
                state.syncs += 1;
                changes.iter().for_each(|change| apply(&mut state.durable, change));
                Ok(())
            }
            Some(fault) => {
                // The kernel takes all for written now, and what it could not write is not.
                let mut random = state.random();
                state.durable = survivors(&state.durable, &changes, &mut random);
                Err(if fault == DiskFault::NoSpace { no_space() } else { broken() })
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        match self.operation() {
            None => {
                state.change(Change::Write(offset, data.to_vec()));
                Ok(())
            }
            Some(fault) => {
                let written = state.random().usize(0..=data.len());
                if fault != DiskFault::Power && written > 0 {
                    state.change(Change::Write(offset, data[..written].to_vec()));
                }
                Err(if fault == DiskFault::NoSpace { no_space() } else { broken() })
            }
        }
    }
}

/// A file under its name and a draft beside it. Clones are the same directory.
#[derive(Clone, Debug)]
pub struct SimDirectory {
    names: Arc<Mutex<Names>>,
}

#[derive(Debug)]
struct Names {
    file: SimDisk,
    /// What a power cut may leave under the name instead.
    unsynced: Option<SimDisk>,
    draft: Option<SimDisk>,
    opened: bool,
}

impl SimDirectory {
    /// With this file under the name.
    pub fn new(file: SimDisk) -> SimDirectory {
        let names = Names { file, unsynced: None, draft: None, opened: false };
        SimDirectory { names: Arc::new(Mutex::new(names)) }
    }

    /// The file that has the name.
    pub fn file(&self) -> SimDisk {
        self.names().file.clone()
    }

    /// Whether there is a draft.
    pub fn has_draft(&self) -> bool {
        self.names().draft.is_some()
    }

    /// What a power cut at this moment may leave: another directory, without faults planned.
    pub fn cut(&self, seed: u64) -> SimDirectory {
        let names = self.names();
        let mut random = fastrand::Rng::with_seed(seed);
        let old = names.unsynced.as_ref().filter(|_| random.bool());
        let kept = SimDirectory::new(old.unwrap_or(&names.file).cut(random.u64(..)));
        if let Some(draft) = names.draft.as_ref().filter(|_| random.bool()) {
            kept.names().draft = Some(draft.cut(random.u64(..)));
        }
        kept
    }

    /// A change of the names: counted, and done unless a fault strikes.
    fn change(&self, change: impl FnOnce(&mut Names)) -> io::Result<()> {
        let mut names = self.names();
        match names.file.operation() {
            None => {
                change(&mut names);
                Ok(())
            }
            Some(DiskFault::NoSpace) => Err(no_space()),
            Some(DiskFault::Broken | DiskFault::Power) => Err(broken()),
        }
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place for SimDirectory {
    fn open(&mut self) -> io::Result<Box<dyn StorageBackend>> {
        let mut names = self.names();
        let again = std::mem::replace(&mut names.opened, true);
        let file = if again { names.file.open_again()? } else { names.file.clone() };
        Ok(Box::new(file))
    }

    fn draft(&mut self) -> io::Result<Box<dyn StorageBackend>> {
        self.change(|names| names.draft = Some(names.file.beside()))?;
        self.open_draft()
    }

    fn open_draft(&mut self) -> io::Result<Box<dyn StorageBackend>> {
        match &self.names().draft {
            Some(draft) => Ok(Box::new(draft.clone())),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn name_draft(&mut self) -> io::Result<()> {
        self.change(|names| {
            if let Some(draft) = names.draft.take() {
                names.unsynced = Some(std::mem::replace(&mut names.file, draft));
            }
        })
    }

    fn sync_names(&mut self) -> io::Result<()> {
        self.change(|names| names.unsynced = None)
    }

    fn drop_draft(&mut self) -> io::Result<()> {
        if self.has_draft() { self.change(|names| names.draft = None) } else { Ok(()) }
    }
}
