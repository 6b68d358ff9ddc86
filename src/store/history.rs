//! History: what happened to messages, for as long as HistoryTime says, also when they are gone. In `history.redb`.
//!
//! It is a help for people, not part of the promise: nobody waits for it and nothing depends on it. [`History::record`] puts an event
//! into a bounded buffer; one thread writes what has gathered in a second as one commit, the events of a message that lie in it as one
//! row. When the thread cannot keep up, or the disk is nearly full, events are dropped and counted, and the count is told once a
//! minute.
//!
//! A row goes when it is older than HistoryTime, and the rows of the oldest messages go when all of them together have more octets
//! than HistorySize. What goes makes room in the file, and when the file is mostly free it is copied to a smaller one
//! (`engine/compact.rs`), a bounded slice in each turn of the thread. A crash meanwhile leaves the old file.
//!
//! A crash loses the events since the last commit, a second of them. A file that cannot be read is set aside as `history.damaged` and a
//! new one begun. The layout of rows is that of [`Event`]; a file of another [`FORMAT`] is begun anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fs, io};

use super::StoreError;
use super::edit::{counter, parse};
use super::engine::redb::RedbEngine;
use super::engine::{
    Batch, Compaction, CompactionLimits, Engine, EngineError, Read, Snapshots, Work,
};
use super::key::{self, Table};
use super::record::{Record, damaged};
use super::reserve::RESERVE_SIZE;
use crate::mail::history::{Event, What};
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;

/// Changes when the layout of [`Event`] does.
const FORMAT: u8 = 1;
/// The file in QueueDirectory.
const FILE: &str = "history.redb";
/// (Queue ID, time of the last event, row of this process, octets of the value) → events of one message that were written together.
/// The octets stand in the key so that what is too much can be told without reading it.
const EVENTS: Table<(QueueId, Timestamp, u32, u32)> = Table::new("EVENTS", 0x01);
/// Name → number.
const NUMBERS: Table<String> = Table::new("NUMBERS", 0x02);
/// NUMBERS: octets of the keys and values in EVENTS.
const OCTETS: &str = "octets";
/// NUMBERS, as one octet: [`FORMAT`].
const FORMAT_NAME: &str = "format";
/// Page cache: rows are written near each other and read seldom.
const CACHE_SIZE: usize = 4 << 20;
/// Octets of events not yet written: more than a second of a very busy relay.
const PENDING_MAX: usize = 8 << 20;
/// How long events gather for one commit, unless half of [`PENDING_MAX`] is full before.
const GATHER: Duration = Duration::from_secs(1);
/// Between two looks for rows that are too old, while nothing happens.
const IDLE_SWEEP: Duration = Duration::from_secs(60);
/// Rows looked at by one sweep at least; twice the rows just written if those are more, so that it keeps up.
const SWEEP_ROWS: usize = 1_000;
/// Between two lines of the log on dropped events.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Octets of events in one row, about; then another is begun.
const ROW_OCTETS: usize = 64 << 10;
/// Octets kept of each text of a stranger.
const TEXT_MAX: usize = 512;
/// A file up to this size, in octets, is left as it is: a day of a small site.
const FILE_MIN: u64 = 8 << 20;
/// Octets of rows that go between two looks whether the file is mostly free.
const GONE_MIN: u64 = 4 << 20;
/// Between two slices of a copy while nothing happens: it takes little of the disk from the mail.
const COPY_PAUSE: Duration = Duration::from_millis(20);
/// How long a reader waits for what is still in the buffer.
const FLUSH_WAIT: Duration = Duration::from_secs(5);

/// How to open a history.
pub struct HistoryOptions {
    /// QueueDirectory.
    pub directory: PathBuf,
    /// HistoryTime.
    pub keep: Duration,
    /// HistorySize: octets of all rows.
    pub size_max: u64,
    /// Free octets of the file system below which nothing is written.
    pub min_free: u64,
    /// Calendar time.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Takes what an operator should know, one line each.
    pub tell: Box<dyn Fn(&str) + Send>,
}

/// The open history. Clones share it.
#[derive(Clone)]
pub struct History {
    shared: Arc<Shared>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

struct Shared {
    pending: Mutex<Pending>,
    /// Something is to be done.
    filled: Condvar,
    /// A batch was written.
    emptied: Condvar,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

#[derive(Default)]
struct Pending {
    events: Vec<(QueueId, Event)>,
    octets: usize,
    dropped: u64,
    /// Readers that asked for what was here, so far; and those whose question was answered by a batch taken after it.
    asked: u64,
    answered: u64,
    closing: bool,
    /// Where to read; none before the file is open, and when it cannot be.
    snapshots: Option<Arc<dyn Snapshots>>,
}

/// One row: some events of a message, in order.
pub struct Row {
    /// The message.
    pub id: QueueId,
    /// Where to go on reading.
    pub place: Place,
    /// At least one.
    pub events: Vec<Event>,
}

/// The place of a row among those of its message.
pub type Place = (Timestamp, u32, u32);

impl History {
    /// Starts its thread; the file is opened, or made, when it is first needed.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn open(options: HistoryOptions) -> io::Result<History> {
        let shared = Arc::new(Shared {
            pending: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            clock: Arc::clone(&options.clock),
        });
        let theirs = Arc::clone(&shared);
        let keeper = Keeper {
            options,
            file: File::Closed,
            cursor: None,
            // What an earlier process left may be free.
            gone: GONE_MIN,
            is_copying: false,
            rows: 0,
            dropped: 0,
            told: None,
            is_troubled: false,
        };
        let thread = std::thread::Builder::new().name("history".into());
        let thread = thread.spawn(move || keeper.run(&theirs))?;
        Ok(History { shared, thread: Arc::new(Mutex::new(Some(thread))) })
    }

    /// Forgets a history that is not kept any more.
    ///
    /// # Errors
    /// Of the file system.
    pub fn forget(directory: &Path) -> io::Result<()> {
        // What a copy that was interrupted left, too.
        for file in [FILE.to_owned(), format!("{FILE}.new")] {
            match fs::remove_file(directory.join(file)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Something happened to a message. Never waits; what finds no room is counted.
    pub fn record(&self, id: QueueId, what: What) {
        let event = Event { at: (self.shared.clock)(), what };
        let octets = octets_of(&event);
        let mut pending = self.shared.lock();
        if pending.octets + octets > PENDING_MAX {
            pending.dropped += 1;
            return;
        }
        let first = pending.events.is_empty();
        let half = PENDING_MAX / 2;
        let filled = pending.octets < half && pending.octets + octets >= half;
        pending.octets += octets;
        pending.events.push((id, event));
        drop(pending);
        if first || filled {
            self.shared.filled.notify_one();
        }
    }

    /// Rows of one message, or of all in queue-ID order, behind a row; up to `limit`, of some 64 KiB at most each. What was recorded
    /// before the last [`History::flush`] is in them.
    ///
    /// # Errors
    /// `Damaged`, `Unavailable`.
    pub fn rows(
        &self,
        of: Option<QueueId>,
        after: Option<(QueueId, Place)>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let unavailable = || StoreError::Unavailable("the history cannot be read now".into());
        let snapshots = self.shared.lock().snapshots.clone();
        let snapshot = snapshots.ok_or_else(unavailable)?.snapshot()?;
        let (mut start, end) = match of {
            Some(id) => EVENTS.under(id),
            None => EVENTS.all(),
        };
        if let Some((id, place)) = after {
            start = key::after(key_of(id, place)).max(start);
        }
        if start >= end {
            return Ok(Vec::new());
        }
        let row = |(key, value): (Vec<u8>, Vec<u8>)| {
            let (id, place) = place_of(parse(&EVENTS, &key)?);
            let events = Vec::<Event>::decode(&value)
                .map_err(|error| damaged(format!("history of {id}"), error))?;
            Ok(Row { id, place, events })
        };
        snapshot.range(&start..&end, limit, false)?.into_iter().map(row).collect()
    }

    /// Waits until everything so far is written, some seconds at most. Blocks.
    pub fn flush(&self) {
        let mut pending = self.shared.lock();
        pending.asked += 1;
        let own = pending.asked;
        self.shared.filled.notify_one();
        let waits = |pending: &mut Pending| pending.answered < own && !pending.closing;
        // Whoever cannot wait longer reads what is there.
        drop(self.shared.emptied.wait_timeout_while(pending, FLUSH_WAIT, waits));
    }

    /// Writes what is left and closes the file.
    pub fn close(&self) {
        self.shared.lock().closing = true;
        self.shared.filled.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread of the history panicked");
        }
    }
}

fn key_of(id: QueueId, (at, n, octets): Place) -> Vec<u8> {
    EVENTS.key((id, at, n, octets))
}

fn place_of((id, at, n, octets): (QueueId, Timestamp, u32, u32)) -> (QueueId, Place) {
    (id, (at, n, octets))
}

/// Octets of an event in memory, about.
pub fn octets_of(event: &Event) -> usize {
    let texts = match &event.what {
        What::Accepted { sender, relay, message_id, .. } => {
            sender.len() + relay.len() + message_id.len()
        }
        What::Attempted { recipients, text, relay, .. } => {
            let recipients: usize = recipients.iter().map(|r| r.len() + size_of::<String>()).sum();
            recipients + text.len() + relay.len()
        }
        What::Reported { text, .. } => text.len(),
        What::Held { reason } => reason.len(),
        What::Operated { deed, .. } => deed.len(),
        What::Done { .. } => 0,
    };
    texts + size_of::<(QueueId, Event)>()
}

/// A text of a stranger, cut to its bound and without control characters.
pub fn cut(text: &str) -> String {
    if text.len() <= TEXT_MAX && text.bytes().all(|octet| (b' '..0x7f).contains(&octet)) {
        return text.to_owned();
    }
    let mut end = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl Shared {
    /// Each change leaves it consistent.
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's own.
struct Keeper {
    options: HistoryOptions,
    file: File,
    /// Where the sweep goes on; none at the front.
    cursor: Option<(QueueId, Place)>,
    /// Octets of rows that went since it was last looked whether the file is mostly free.
    gone: u64,
    /// It is being copied to a smaller one.
    is_copying: bool,
    /// Rows of this process so far.
    rows: u32,
    /// Events dropped and not yet told of.
    dropped: u64,
    /// When their number was last told.
    told: Option<Instant>,
    /// The last batch could not be written, and why was told.
    is_troubled: bool,
}

enum File {
    Closed,
    Open(Box<RedbEngine>),
    /// It could not be opened: nothing is kept until the next start.
    Broken,
}

impl Keeper {
    fn run(mut self, shared: &Shared) {
        loop {
            let taken = wait(shared, if self.is_copying { COPY_PAUSE } else { IDLE_SWEEP });
            let (asked, closing) = (taken.asked, taken.closing);
            self.turn(taken, shared);
            let mut pending = shared.lock();
            pending.answered = asked;
            shared.emptied.notify_all();
            if closing && pending.events.is_empty() {
                pending.snapshots = None;
                break;
            }
        }
        if let File::Open(engine) = self.file
            && let Err(error) = engine.close()
        {
            tracing::warn!(%error, "the history was not closed cleanly");
        }
    }

    /// Writes a batch, and sweeps.
    fn turn(&mut self, taken: Taken, shared: &Shared) {
        let Taken { events, dropped, is_wanted, closing, .. } = taken;
        let is_needed = is_wanted || !events.is_empty();
        let count = events.len() as u64;
        self.dropped += dropped;
        let done = match is_needed || matches!(self.file, File::Open(_)) {
            true => self.write(events, shared),
            false => Ok(()),
        };
        match done {
            Ok(()) => {
                self.is_troubled = false;
                self.give_back(shared);
            }
            Err(error) => {
                // The engine has dropped the copy.
                self.is_copying = false;
                self.dropped += count;
                if !std::mem::replace(&mut self.is_troubled, true) {
                    (self.options.tell)(&format!("history: {error}"));
                }
            }
        }
        let is_time = self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY);
        if self.dropped > 0 && (is_time || closing) {
            (self.options.tell)(&format!("history: {} events dropped", self.dropped));
            self.dropped = 0;
            self.told = Some(Instant::now());
        }
    }

    fn write(&mut self, events: Vec<(QueueId, Event)>, shared: &Shared) -> Result<(), EngineError> {
        if let File::Broken = self.file {
            return Ok(());
        }
        if let File::Closed = self.file {
            match open(&self.options) {
                Ok(engine) => {
                    shared.lock().snapshots = Some(engine.snapshots());
                    self.file = File::Open(Box::new(engine));
                }
                Err(error) => {
                    self.file = File::Broken;
                    return Err(error);
                }
            }
        }
        let File::Open(engine) = &mut self.file else { return Ok(()) };
        if !has_room(&self.options) {
            let what = FILE.to_owned();
            return if events.is_empty() { Ok(()) } else { Err(EngineError::Full { what }) };
        }
        let mut batch = Batch::default();
        let added = put_events(&mut batch, events, &mut self.rows);
        let snapshot = engine.snapshots().snapshot()?;
        let swept = sweep(&*snapshot, &self.options, &mut self.cursor, &mut batch, added)?;
        drop(snapshot);
        self.gone = self.gone.saturating_add(swept);
        let change = added as i64 - swept as i64;
        if change != 0 {
            batch.adds.push((NUMBERS.key(OCTETS), change));
        }
        if batch == Batch::default() {
            return Ok(());
        }
        let committed = engine.commit(vec![Work::Batch(batch)]);
        if let Err(error) = committed {
            // Whether it was written does not matter; that there is a file to go on with does.
            if let Err(worse) = engine.reopen() {
                shared.lock().snapshots = None;
                self.file = File::Broken;
                return Err(worse);
            }
            return Err(error);
        }
        Ok(())
    }

    /// One step of giving disk space back, or a look whether that is worth it when enough has gone.
    fn give_back(&mut self, shared: &Shared) {
        let File::Open(engine) = &mut self.file else { return };
        if !self.is_copying && self.gone < GONE_MIN {
            return;
        }
        self.gone = 0;
        let live = engine.snapshots().snapshot().map_err(StoreError::from).and_then(|snapshot| {
            let octets = counter(&*snapshot, &NUMBERS.key(OCTETS))?;
            Ok(u64::try_from(octets).unwrap_or(0))
        });
        let step = match live {
            // Without room for it beside the mail's a copy is not begun.
            Ok(live) if self.is_copying || has_room_for(&self.options, live) => {
                engine.compact(live)
            }
            Ok(_) => return,
            Err(error) => return tracing::warn!(%error, "cannot tell how much history there is"),
        };
        self.is_copying = matches!(step, Ok(Compaction::Going));
        match step {
            Ok(Compaction::Going | Compaction::Unneeded | Compaction::InUse) => {}
            Ok(Compaction::Done { before, after }) => {
                tracing::info!(before, after, "history.redb was mostly free and is smaller now");
            }
            Ok(Compaction::GivenUp(error)) => {
                tracing::warn!(%error, "history.redb is mostly free and could not be copied");
            }
            Err(error) => {
                // Which file has the name is found out when it is opened again.
                (self.options.tell)(&format!("history: {error}"));
                shared.lock().snapshots = None;
                self.file = File::Closed;
            }
        }
    }
}

/// What one turn of the thread is about.
struct Taken {
    events: Vec<(QueueId, Event)>,
    /// Events that found no room.
    dropped: u64,
    /// Readers that asked so far.
    asked: u64,
    /// One of them waits.
    is_wanted: bool,
    /// It is to end.
    closing: bool,
}

/// Waits for events, `rest` at most, lets them gather, and takes them.
fn wait(shared: &Shared, rest: Duration) -> Taken {
    let hurries = |p: &Pending| p.asked > p.answered || p.closing;
    let idle = |p: &mut Pending| p.events.is_empty() && p.dropped == 0 && !hurries(p);
    let gathers = |p: &mut Pending| p.octets < PENDING_MAX / 2 && !hurries(p);
    let waited = shared.filled.wait_timeout_while(shared.lock(), rest, idle);
    let mut pending = waited.unwrap_or_else(PoisonError::into_inner).0;
    if !pending.events.is_empty() {
        let waited = shared.filled.wait_timeout_while(pending, GATHER, gathers);
        pending = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
    pending.octets = 0;
    Taken {
        events: std::mem::take(&mut pending.events),
        dropped: std::mem::take(&mut pending.dropped),
        asked: pending.asked,
        is_wanted: pending.asked > pending.answered,
        closing: pending.closing,
    }
}

/// A row for each message, or more if one grows too long; gives the octets added.
fn put_events(batch: &mut Batch, events: Vec<(QueueId, Event)>, rows: &mut u32) -> u64 {
    let mut by_message: BTreeMap<QueueId, Vec<Event>> = BTreeMap::new();
    for (id, event) in events {
        by_message.entry(id).or_default().push(event);
    }
    let mut octets = 0;
    for (id, events) in by_message {
        let (mut row, mut size) = (Vec::new(), 0);
        for event in events {
            size += octets_of(&event);
            row.push(event);
            if size > ROW_OCTETS {
                octets += put_row(batch, id, std::mem::take(&mut row), rows);
                size = 0;
            }
        }
        octets += put_row(batch, id, row, rows);
    }
    octets
}

fn put_row(batch: &mut Batch, id: QueueId, events: Vec<Event>, rows: &mut u32) -> u64 {
    let Some(last) = events.last() else { return 0 };
    *rows = rows.wrapping_add(1);
    let value = events.encode();
    let key = key_of(id, (last.at, *rows, value.len() as u32));
    let octets = key.len() + value.len();
    batch.puts.push((key, value));
    octets as u64
}

/// Deletes rows that are too old behind the cursor, and from the front while there are too many octets; gives the octets that go.
fn sweep(
    read: &dyn Read,
    options: &HistoryOptions,
    cursor: &mut Option<(QueueId, Place)>,
    batch: &mut Batch,
    added: u64,
) -> Result<u64, EngineError> {
    let limit = SWEEP_ROWS.max(2 * batch.puts.len());
    let oldest = (options.clock)().before(options.keep);
    let kept = counter(read, &NUMBERS.key(OCTETS)).unwrap_or(0);
    let mut surplus =
        u64::try_from(kept).unwrap_or(0).saturating_add(added).saturating_sub(options.size_max);
    let (mut start, end) = EVENTS.all();
    if let Some((id, place)) = cursor.filter(|_| surplus == 0) {
        start = key::after(key_of(id, place));
    }
    let mut swept = 0;
    // Most often there is nothing: a look at the first row says so.
    let mut wanted = 1;
    loop {
        let keys = read.keys(&start..&end, wanted, false)?;
        let full = keys.len() == wanted;
        *cursor = None;
        for key in keys {
            let place = EVENTS.parse(&key).ok().map(place_of);
            let octets = key.len() as u64 + place.map_or(0, |(_, (_, _, value))| u64::from(value));
            // A row that is none of ours goes with the oldest.
            let too_old = place.is_none_or(|(_, (at, _, _))| at < oldest);
            let too_young = place.is_some_and(|(id, _)| id.time() >= oldest);
            if surplus == 0 && too_young {
                *cursor = None;
                return Ok(swept);
            }
            if surplus > 0 || too_old {
                surplus = surplus.saturating_sub(octets);
                swept += octets;
                batch.deletes.push(key.clone());
            }
            *cursor = place;
            start = key::after(key);
        }
        if !full {
            *cursor = None;
            return Ok(swept);
        }
        if wanted > 1 {
            return Ok(swept);
        }
        wanted = limit;
    }
}

fn has_room(options: &HistoryOptions) -> bool {
    has_room_for(options, 0)
}

/// Whether this many octets more leave the mail what it needs. Twice as many are asked for: a file is larger than its rows.
fn has_room_for(options: &HistoryOptions, octets: u64) -> bool {
    match rustix::fs::statvfs(&options.directory) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let kept = options.min_free.saturating_add(2 * RESERVE_SIZE);
            free >= kept.saturating_add(octets.saturating_mul(2))
        }
        // Not known: the commit will tell.
        Err(_) => true,
    }
}

/// Opens the file, or begins a new one.
fn open(options: &HistoryOptions) -> Result<RedbEngine, EngineError> {
    let path = options.directory.join(FILE);
    match open_file(&path) {
        Ok(engine) => Ok(engine),
        Err(EngineError::Corrupt { what, detail }) => {
            let aside = path.with_file_name("history.damaged");
            (options.tell)(&format!(
                "history: {what}: {detail}; set aside as {}, a new one is begun",
                aside.display()
            ));
            let renamed = fs::rename(&path, &aside);
            renamed.map_err(|source| EngineError::Io { what: FILE.into(), source })?;
            open_file(&path)
        }
        Err(error) => Err(error),
    }
}

fn open_file(path: &Path) -> Result<RedbEngine, EngineError> {
    let limits = CompactionLimits { file_min: FILE_MIN, ..CompactionLimits::default() };
    let mut engine = RedbEngine::open(path, CACHE_SIZE, true)?.with_limits(limits);
    let format = engine.snapshots().snapshot()?.get(&NUMBERS.key(FORMAT_NAME))?;
    if format.as_deref() != Some(&[FORMAT]) {
        let mut batch = Batch::default();
        batch.delete_ranges.extend([EVENTS.all(), NUMBERS.all()]);
        batch.puts.push((NUMBERS.key(FORMAT_NAME), vec![FORMAT]));
        engine.commit(vec![Work::Batch(batch)])?;
    }
    Ok(engine)
}

#[cfg(test)]
mod tests;
