//! The writer: one OS thread that owns the engine and turns what many ask for into few commits.
//!
//! *Group commit*: it takes what waits (bounded in units and octets), commits it once, and answers all. It never waits for more:
//! what arrives during a commit is the next group. Units are of two [`Class`]es. Somebody waits for an acknowledged one; a
//! lazy one rides along with the next group, and goes out by itself when it has waited for `lazy_max` or half of
//! `max_unsettled` lazy ones wait. Order of arrival is kept over both.
//!
//! *Back-pressure*: what is queued and not yet answered is bounded, in octets and in lazy units; [`Writer::submit`] waits
//! for room, [`Writer::try_submit`] says [`StoreError::Busy`].
//!
//! *Failure*: an error of a commit leaves the group's outcome unknown. The writer opens the files again, and the engine finds
//! out whether the group is durable; if not, it is committed once more on the new handle (a failed fsync is never
//! repeated on the same one). A full disk makes it give up the reserve first. If the files cannot be opened within [`REOPEN_MAX`],
//! or the second commit fails for another reason than space, the writer is *poisoned*: every unit, now and later, is
//! answered [`StoreError::Unavailable`], and [`Writer::poisoned`] tells the daemon to exit. So an `Ok` is always durable;
//! after an `Err` nothing of the unit is there, except when the writer was poisoned: then only the next start will tell.
//!
//! *Upkeep*: between groups, and when there are none, it gives disk space back by steps of the engine (`engine/compact.rs`). Whether that
//! is worth it is asked once in [`UPKEEP_EVERY`] at most, and not at all while nothing is committed; an idle store sleeps.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot, watch};

use super::StoreError;
use super::engine::{
    Answer, Applied, Batch, Compaction, Engine, EngineError, Late, Read, Snapshots, Work,
};
use super::reserve::Reserve;

/// Units in one commit: enough to share the cost of an fsync, few enough that nobody waits long behind it.
const GROUP_UNITS: usize = 512;
/// Octets in one commit; one unit may exceed it alone.
const GROUP_BYTES: usize = 8 << 20;
/// KiB queued or being committed for acknowledged units: the memory the writer may hold for others.
const QUEUE_KIB: u32 = 64 << 10;
/// What the smallest unit counts for, in KiB; so at most 4 096 are queued.
const UNIT_KIB: u32 = 16;
/// How long opening the files again and finding out what is true may take.
pub const REOPEN_MAX: Duration = Duration::from_secs(5);

/// How often it is asked whether the file is mostly free.
pub const UPKEEP_EVERY: Duration = Duration::from_secs(2 * 60);
/// How much longer after a copy that was given up (the disk may be full, and each try takes from what is left), and after a file was
/// counted that is in use.
const UPKEEP_AFTER_FAILURE: u32 = 30;

/// Whether somebody waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Committed at once.
    Acknowledged,
    /// Committed with the next group, or after `lazy_max`.
    Lazy,
}

/// One unit with the octets it holds in memory.
pub struct Unit {
    work: Work,
    bytes: usize,
}

impl Unit {
    /// A late-bound unit that holds about `bytes` octets.
    pub fn late(bytes: usize, late: Late) -> Unit {
        Unit { work: Work::Late(late), bytes }
    }
}

impl From<Batch> for Unit {
    fn from(batch: Batch) -> Unit {
        let puts: usize = batch.puts.iter().map(|(key, value)| key.len() + value.len()).sum();
        Unit { bytes: puts, work: Work::Batch(batch) }
    }
}

/// A late-bound [`Work`] is taken to hold little: else [`Unit::late`].
impl From<Work> for Unit {
    fn from(work: Work) -> Unit {
        match work {
            Work::Batch(batch) => batch.into(),
            work @ Work::Late(_) => Unit { work, bytes: 0 },
        }
    }
}

/// What the writer is to keep to.
pub struct WriterLimits {
    /// Lazy units that may be queued and not yet durable.
    pub max_unsettled: usize,
    /// How long a lazy unit may wait for company.
    pub lazy_max: Duration,
    /// Given up when the disk is full.
    pub reserve: Option<Reserve>,
    /// How it gives disk space back.
    pub upkeep: Upkeep,
}

/// When to ask the engine for disk space back, and what to tell it.
#[derive(Clone, Copy)]
pub struct Upkeep {
    /// Not more often than this.
    pub every: Duration,
    /// About how many octets of keys and values there are; cheap.
    pub live: fn(&dyn Read) -> Result<u64, StoreError>,
}

/// What upkeep came to, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upkept {
    /// queue.redb was mostly free and is a smaller file now.
    Shrunk {
        /// Octets it had.
        before: u64,
        /// Octets it has.
        after: u64,
    },
    /// It is mostly free and could not be copied, for this reason. It is tried again in an hour.
    NotShrunk(String),
}

/// The way to the writer. Clones share it; when the last one goes, it commits what waits and ends.
#[derive(Clone)]
pub struct Writer {
    handle: Arc<Handle>,
}

/// The answer that is to come: ready when the unit is durable or cannot be. May be dropped.
pub struct Pending(oneshot::Receiver<Result<Applied, StoreError>>);

struct Handle {
    shared: Arc<Shared>,
    snapshots: Arc<dyn Snapshots>,
    room: Arc<Semaphore>,
    lazy_room: Arc<Semaphore>,
}

struct Shared {
    state: Mutex<State>,
    /// Something for the thread to look at.
    wake: Condvar,
    ending: watch::Sender<Ending>,
    upkept: watch::Sender<Option<Upkept>>,
    full: AtomicBool,
    lazy_max: Duration,
    lazy_flush: usize,
}

struct State {
    queue: VecDeque<Queued>,
    /// Acknowledged ones among them.
    urgent: usize,
    /// Of the group being committed, in its order.
    in_flight: Vec<Reply>,
    phase: Phase,
    /// The thread waits for [`Shared::wake`]; else waking it would be a wasted system call.
    parked: bool,
}

enum Phase {
    Running,
    Closing,
    Poisoned(String),
}

#[derive(Clone)]
enum Ending {
    Running,
    Closed(Option<String>),
    Poisoned(String),
}

struct Queued {
    work: Work,
    bytes: usize,
    class: Class,
    since: Instant,
    reply: Reply,
}

struct Reply {
    sender: oneshot::Sender<Result<Applied, StoreError>>,
    /// Room for others once this is answered.
    _room: OwnedSemaphorePermit,
}

impl Reply {
    fn send(self, answer: Result<Applied, StoreError>) {
        // Nobody has to wait for it.
        drop(self.sender.send(answer));
    }
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// `Unavailable` when the system gives no thread.
    pub fn start(engine: Box<dyn Engine>, limits: WriterLimits) -> Result<Writer, StoreError> {
        Writer::start_patiently(engine, limits, REOPEN_MAX)
    }

    fn start_patiently(
        engine: Box<dyn Engine>,
        limits: WriterLimits,
        reopen_max: Duration,
    ) -> Result<Writer, StoreError> {
        let max_unsettled = limits.max_unsettled.clamp(1, Semaphore::MAX_PERMITS);
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                urgent: 0,
                in_flight: Vec::new(),
                phase: Phase::Running,
                parked: false,
            }),
            wake: Condvar::new(),
            ending: watch::Sender::new(Ending::Running),
            upkept: watch::Sender::new(None),
            full: AtomicBool::new(limits.reserve.as_ref().is_some_and(|r| !r.is_held())),
            lazy_max: limits.lazy_max,
            // Half, so that the other half can queue while these are committed.
            lazy_flush: max_unsettled.div_ceil(2),
        });
        let handle = Handle {
            shared: Arc::clone(&shared),
            snapshots: engine.snapshots(),
            room: Arc::new(Semaphore::new(QUEUE_KIB as usize)),
            lazy_room: Arc::new(Semaphore::new(max_unsettled)),
        };
        let thread = Thread {
            shared,
            engine,
            reserve: limits.reserve,
            reopen_max,
            upkeep: limits.upkeep,
            look: Look::Due,
            not_before: Instant::now() + limits.upkeep.every,
        };
        thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || thread.run())
            .map_err(|error| StoreError::Unavailable(format!("no thread: {error}")))?;
        Ok(Writer { handle: Arc::new(handle) })
    }

    /// Queues the unit, waiting for room, and resolves when it is durable or refused.
    ///
    /// # Errors
    /// `Full`, `Unavailable`, `Damaged`, `Closing`.
    pub async fn submit(&self, class: Class, unit: impl Into<Unit>) -> Result<Applied, StoreError> {
        self.begin(class, unit).await?.await
    }

    /// Queues the unit, waiting for room; the answer is to be waited for.
    ///
    /// # Errors
    /// `Unavailable`, `Closing`.
    pub async fn begin(&self, class: Class, unit: impl Into<Unit>) -> Result<Pending, StoreError> {
        let unit = unit.into();
        let (room, weight) = self.room_for(class, &unit);
        let permit = Arc::clone(room).acquire_many_owned(weight).await;
        self.push(class, unit, permit.map_err(|_| self.handle.shared.refusal())?)
    }

    /// Queues the unit if there is room.
    ///
    /// # Errors
    /// `Busy`, `Unavailable`, `Closing`.
    pub fn try_submit(&self, class: Class, unit: impl Into<Unit>) -> Result<Pending, StoreError> {
        let unit = unit.into();
        let (room, weight) = self.room_for(class, &unit);
        match Arc::clone(room).try_acquire_many_owned(weight) {
            Ok(permit) => self.push(class, unit, permit),
            Err(TryAcquireError::NoPermits) => Err(StoreError::Busy),
            Err(TryAcquireError::Closed) => Err(self.handle.shared.refusal()),
        }
    }

    /// The last committed state. Does not pass through the thread. Hold it for seconds at most.
    ///
    /// # Errors
    /// `Unavailable` while the files are being opened again, `Closing`.
    pub fn snapshot(&self) -> Result<Box<dyn Read + Send>, StoreError> {
        self.handle.snapshots.snapshot().map_err(|error| match self.handle.shared.state().phase {
            Phase::Running => error.into(),
            Phase::Closing | Phase::Poisoned(_) => self.handle.shared.refusal(),
        })
    }

    /// Whether a commit met a full disk and the reserve is not yet back: no mail should be taken.
    pub fn is_full(&self) -> bool {
        self.handle.shared.full.load(Ordering::Relaxed)
    }

    /// Whether it has given up: nothing will be written any more.
    pub fn has_given_up(&self) -> bool {
        matches!(self.handle.shared.state().phase, Phase::Poisoned(_))
    }

    /// What upkeep comes to from now on; the last of it, if nobody looks in between. Ends with the writer.
    pub fn upkept(&self) -> watch::Receiver<Option<Upkept>> {
        self.handle.shared.upkept.subscribe()
    }

    /// Resolves with the reason when the writer has given up; never if it does not.
    pub async fn poisoned(&self) -> String {
        let mut ending = self.handle.shared.ending.subscribe();
        let reason = match ending.wait_for(|e| matches!(e, Ending::Poisoned(_))).await {
            Ok(ending) => match &*ending {
                Ending::Poisoned(reason) => Some(reason.clone()),
                Ending::Running | Ending::Closed(_) => None,
            },
            Err(_) => None,
        };
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// Commits what is queued, lazy units too, and closes the files cleanly.
    ///
    /// # Errors
    /// `Unavailable` when the files could not be closed cleanly or the writer is poisoned. Nothing acknowledged is lost.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.handle.begin_close();
        let mut ending = self.handle.shared.ending.subscribe();
        match ending.wait_for(|e| !matches!(e, Ending::Running)).await.as_deref() {
            Ok(Ending::Closed(None)) => Ok(()),
            Ok(Ending::Closed(Some(reason)) | Ending::Poisoned(reason)) => {
                Err(StoreError::Unavailable(reason.clone()))
            }
            Ok(Ending::Running) | Err(_) => Err(StoreError::Closing),
        }
    }

    fn room_for(&self, class: Class, unit: &Unit) -> (&Arc<Semaphore>, u32) {
        match class {
            Class::Lazy => (&self.handle.lazy_room, 1),
            Class::Acknowledged => {
                let kib = u32::try_from(unit.bytes / 1024).unwrap_or(u32::MAX);
                (&self.handle.room, kib.clamp(UNIT_KIB, QUEUE_KIB))
            }
        }
    }

    fn push(
        &self,
        class: Class,
        unit: Unit,
        room: OwnedSemaphorePermit,
    ) -> Result<Pending, StoreError> {
        let (sender, receiver) = oneshot::channel();
        let queued = Queued {
            work: unit.work,
            bytes: unit.bytes,
            class,
            since: Instant::now(),
            reply: Reply { sender, _room: room },
        };
        let shared = &self.handle.shared;
        let mut state = shared.state();
        if !matches!(state.phase, Phase::Running) {
            drop(state);
            return Err(shared.refusal());
        }
        state.urgent += usize::from(class == Class::Acknowledged);
        state.queue.push_back(queued);
        // A lazy one matters to a sleeping thread when it is the first, which sets the deadline, or fills the bound.
        let matters = state.urgent > 0 || [1, shared.lazy_flush].contains(&state.queue.len());
        let wake = matters && std::mem::take(&mut state.parked);
        drop(state);
        if wake {
            shared.wake.notify_one();
        }
        Ok(Pending(receiver))
    }
}

impl Future for Pending {
    type Output = Result<Applied, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| {
            answer.unwrap_or_else(|_| Err(StoreError::Unavailable("the writer has ended".into())))
        })
    }
}

impl Handle {
    fn begin_close(&self) {
        let mut state = self.shared.state();
        if matches!(state.phase, Phase::Running) {
            state.phase = Phase::Closing;
        }
        state.parked = false;
        drop(state);
        self.room.close();
        self.lazy_room.close();
        self.shared.wake.notify_one();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.begin_close();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing of ours panics with it locked; if it did, the state is consistent between its assignments.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing is taken.
    fn refusal(&self) -> StoreError {
        match &self.state().phase {
            Phase::Poisoned(reason) => StoreError::Unavailable(reason.clone()),
            Phase::Running | Phase::Closing => StoreError::Closing,
        }
    }

    /// Waits for the next group, until `idle_at` if that is a time; its replies are in `in_flight`.
    fn next(&self, idle_at: Option<Instant>) -> Turn {
        let mut state = self.state();
        loop {
            let waited = match state.phase {
                Phase::Poisoned(_) => return Turn::End,
                Phase::Closing if state.queue.is_empty() => return Turn::End,
                Phase::Closing => break,
                Phase::Running if state.urgent > 0 => break,
                Phase::Running => state.queue.front().map(|first| first.since.elapsed()),
            };
            if waited.is_some_and(|waited| waited >= self.lazy_max)
                || state.queue.len() >= self.lazy_flush
            {
                break;
            }
            let idle = idle_at.map(|at| at.saturating_duration_since(Instant::now()));
            if idle == Some(Duration::ZERO) {
                return Turn::Idle;
            }
            let lazy = waited.map(|waited| self.lazy_max - waited);
            state.parked = true;
            state = match lazy.into_iter().chain(idle).min() {
                Some(rest) => {
                    self.wake.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            state.parked = false;
        }
        state.parked = false;
        let mut works = Vec::new();
        let mut bytes = 0;
        while let Some(next) = state.queue.front() {
            bytes += next.bytes;
            if works.len() == GROUP_UNITS || (bytes > GROUP_BYTES && !works.is_empty()) {
                break;
            }
            let Some(next) = state.queue.pop_front() else { break };
            state.urgent -= usize::from(next.class == Class::Acknowledged);
            state.in_flight.push(next.reply);
            works.push(next.work);
        }
        Turn::Group(works)
    }

    fn answer(&self, answers: Vec<Answer>) {
        let replies = std::mem::take(&mut self.state().in_flight);
        for (reply, answer) in replies.into_iter().zip(answers) {
            reply.send(answer.map_err(StoreError::from));
        }
    }

    fn fail(&self, error: &EngineError) {
        let replies = std::mem::take(&mut self.state().in_flight);
        for reply in replies {
            reply.send(Err(StoreError::from(error)));
        }
    }

    /// Gives up for good.
    fn poison(&self, reason: String) {
        tracing::error!(%reason, "the store's writer gives up");
        let mut state = self.state();
        state.phase = Phase::Poisoned(reason.clone());
        state.urgent = 0;
        let waiting = std::mem::take(&mut state.queue).into_iter().map(|queued| queued.reply);
        let replies: Vec<Reply> =
            std::mem::take(&mut state.in_flight).into_iter().chain(waiting).collect();
        drop(state);
        for reply in replies {
            reply.send(Err(StoreError::Unavailable(reason.clone())));
        }
        self.ending.send_replace(Ending::Poisoned(reason));
    }
}

struct Thread {
    shared: Arc<Shared>,
    engine: Box<dyn Engine>,
    reserve: Option<Reserve>,
    reopen_max: Duration,
    upkeep: Upkeep,
    look: Look,
    /// The next look is not before this.
    not_before: Instant,
}

/// What the thread is to do.
enum Turn {
    Group(Vec<Work>),
    /// Nothing came.
    Idle,
    End,
}

/// How upkeep stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Nothing was committed since the last look, and that found nothing to do.
    Needless,
    /// It is to be looked.
    Due,
    /// A copy is under way.
    Copying,
}

impl Thread {
    fn run(mut self) {
        loop {
            let idle_at = match self.look {
                Look::Needless => None,
                Look::Due => Some(self.not_before),
                Look::Copying => Some(Instant::now()),
            };
            let group = match self.shared.next(idle_at) {
                Turn::Group(group) => Some(group),
                Turn::Idle => None,
                Turn::End => break,
            };
            let turned = catch_unwind(AssertUnwindSafe(|| {
                if let Some(group) = group {
                    self.commit(group);
                }
                self.keep_up();
            }));
            if turned.is_err() {
                // A defect below; its state is not to be trusted. The next start opens the files anew.
                self.shared.poison("defect in the store's engine".into());
                return;
            }
        }
        if matches!(self.shared.state().phase, Phase::Poisoned(_)) {
            return;
        }
        let error = self.engine.close().err().map(|error| error.to_string());
        self.shared.ending.send_replace(Ending::Closed(error));
    }

    /// One step of giving space back, or a look whether that is worth it, when it is time.
    fn keep_up(&mut self) {
        let is_due = match self.look {
            Look::Needless => false,
            Look::Due => self.not_before <= Instant::now(),
            Look::Copying => true,
        };
        if !is_due || matches!(self.shared.state().phase, Phase::Poisoned(_)) {
            return;
        }
        let every = self.upkeep.every;
        let (look, wait) = match self.give_back() {
            Ok(Compaction::Going) => {
                self.look = Look::Copying;
                return;
            }
            Ok(Compaction::Unneeded) => (Look::Needless, every),
            Ok(Compaction::InUse) => (Look::Needless, every * UPKEEP_AFTER_FAILURE),
            Ok(Compaction::Done { before, after }) => {
                self.shared.upkept.send_replace(Some(Upkept::Shrunk { before, after }));
                (Look::Needless, every)
            }
            Ok(Compaction::GivenUp(error)) => {
                self.shared.upkept.send_replace(Some(Upkept::NotShrunk(error.to_string())));
                (Look::Due, every * UPKEEP_AFTER_FAILURE)
            }
            Err(error) => return self.shared.poison(error.to_string()),
        };
        self.look = look;
        self.not_before = Instant::now() + wait;
    }

    fn give_back(&mut self) -> Result<Compaction, EngineError> {
        if self.look == Look::Copying {
            return self.engine.compact(0);
        }
        if self.reserve.as_ref().is_some_and(|reserve| !reserve.is_held()) {
            return Ok(Compaction::Unneeded);
        }
        let state = self.engine.snapshots().snapshot()?;
        match (self.upkeep.live)(&*state) {
            Ok(live) => self.engine.compact(live),
            Err(error) => {
                tracing::warn!(%error, "cannot tell how much of queue.redb is in use");
                Ok(Compaction::Unneeded)
            }
        }
    }

    fn commit(&mut self, group: Vec<Work>) {
        if self.look == Look::Needless {
            self.look = Look::Due;
        }
        match self.engine.commit(group) {
            Ok(answers) => self.shared.answer(answers),
            Err(error) => {
                tracing::warn!(%error, "commit failed; opening the files again");
                let watchdog = Watchdog::start(&self.shared, self.reopen_max);
                self.recover(error);
                drop(watchdog);
            }
        }
        if let Some(reserve) = &mut self.reserve {
            reserve.retake(Instant::now());
            self.shared.full.store(!reserve.is_held(), Ordering::Relaxed);
        }
    }

    /// Finds out what became of the group in flight, and tries it once more when it is not there.
    fn recover(&mut self, error: EngineError) {
        if self.look == Look::Copying {
            // The engine has dropped the copy; a full disk may have been its doing.
            self.look = Look::Due;
            self.not_before = Instant::now() + self.upkeep.every * UPKEEP_AFTER_FAILURE;
        }
        self.make_room(&error);
        match self.engine.reopen() {
            Ok(Some(answers)) => return self.shared.answer(answers),
            Ok(None) => {}
            Err(error) => return self.shared.poison(error.to_string()),
        }
        match self.engine.repeat() {
            Ok(Some(answers)) => self.shared.answer(answers),
            Ok(None) => self.shared.fail(&error),
            Err(again) => self.give_up(again),
        }
    }

    /// The second commit failed too. A full disk is lived with, a broken one is not.
    fn give_up(&mut self, error: EngineError) {
        self.make_room(&error);
        match (self.engine.reopen(), error) {
            (Ok(Some(answers)), _) => self.shared.answer(answers),
            (Ok(None), error @ EngineError::Full { .. }) => self.shared.fail(&error),
            (Ok(None), error) | (Err(error), _) => self.shared.poison(error.to_string()),
        }
    }

    fn make_room(&mut self, error: &EngineError) {
        if let (EngineError::Full { .. }, Some(reserve)) = (error, &mut self.reserve) {
            self.shared.full.store(true, Ordering::Relaxed);
            reserve.release();
        }
    }
}

/// Poisons the writer when recovery takes too long: a disk that hangs gives no error.
struct Watchdog {
    done: std::sync::mpsc::Sender<()>,
}

impl Watchdog {
    /// None when the system gives no thread: then only the watching is missing.
    fn start(shared: &Arc<Shared>, patience: Duration) -> Option<Watchdog> {
        let (done, over) = std::sync::mpsc::channel::<()>();
        let shared = Arc::clone(shared);
        let spawned = thread::Builder::new().name("store-watchdog".into()).spawn(move || {
            if over.recv_timeout(patience) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                shared.poison(format!("the disk did not answer within {patience:?}"));
            }
        });
        spawned.ok().map(|_| Watchdog { done })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // The watching thread may have ended.
        let _ = self.done.send(());
    }
}

impl From<&EngineError> for StoreError {
    fn from(error: &EngineError) -> StoreError {
        match error {
            EngineError::Full { .. } => StoreError::Full,
            EngineError::Io { .. } => StoreError::Unavailable(error.to_string()),
            EngineError::Locked { what } => StoreError::Locked(what.into()),
            EngineError::Corrupt { what, detail } => {
                StoreError::Damaged { what: what.clone(), detail: detail.clone() }
            }
            EngineError::Refused(reason) => StoreError::Unavailable(reason.clone()),
        }
    }
}

impl From<EngineError> for StoreError {
    fn from(error: EngineError) -> StoreError {
        StoreError::from(&error)
    }
}

#[cfg(test)]
mod tests;
