//! The store: every message, its envelope, its schedule, host status and counts, in one place that survives anything.
//!
//! [`schema`] is the page to read first: tables, states, invariants, and what a crash leaves. The operations stand by subject:
//!
//! | file | operations |
//! |---|---|
//! | `intake` | [`Store::intake`], [`Intake::write`], [`Intake::recipient`], [`Intake::accept`] |
//! | `load` | [`Store::loaded`], [`Intake::load`]: a message of another spool with its state, once |
//! | `list` | unfolding of long lists into jobs, and operators' changes to them |
//! | `delivery` | [`Store::claim`], [`Store::job`], [`Store::job_or_owed`], [`Store::read_body`], [`Store::checkpoint`] |
//! | `inflight` | [`Store::begin`], [`Store::interrupted`], [`Store::forget_interrupted`]: what an unclean stop interrupts |
//! | `settle` | [`Store::settle`]; what it changes in `jobs`, its reports in `report` |
//! | `park` | [`Store::park`], [`Store::begin_park`]: from INCOMING to the schedule |
//! | `destination` | [`Store::set_destination`], [`Store::destination_failed`], [`Store::reroute`], [`Store::set_host`] |
//! | `operate` | [`Store::operate`]: hold, release, remove, reschedule, reroute; [`Store::set_aside`] |
//! | `read` | what is due, listings, counts |
//! | `statistics` | [`Store::statistics`], [`Store::reset_statistics`], [`Store::tally`] |
//! | `history` | [`history::History`]: what happened to messages, in a file of its own |
//! | `recover` | [`Store::open`], [`Store::close`], what is finished after a crash |
//! | `backup` | [`Store::backup`], [`backup::Copy`], [`backup::restore`]: a copy of a running store, and back |
//! | `evacuate` | body files with little left in them are emptied, in the background |
//! | `check` | [`Store::check`]: the invariants, verified on a live store |
//!
//! Below them: `edit` makes batches that keep the tables in step, `writer` commits them in groups, `engine` holds the
//! pages, `body` the bodies of scheduled mail. No operation waits inside a transaction, and no error is folded into an answer:
//! what an operation returns is what is so on the disk.

pub mod backup;
pub mod body;
pub mod check;
mod claims;
mod delivery;
mod destination;
mod edit;
pub mod engine;
mod evacuate;
pub mod history;
mod ids;
mod inflight;
mod intake;
mod jobs;
mod keeper;
mod key;
mod list;
mod load;
mod message;
mod operate;
mod park;
mod read;
mod record;
mod recover;
mod report;
mod reserve;
pub mod schema;
mod settle;
mod slot;
mod space;
mod statistics;
pub mod writer;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::body::Bodies;
pub use self::claims::Claim;
use self::claims::Claims;
pub use self::delivery::Found;
use self::ids::Ids;
use self::inflight::InterruptedState;
pub use self::inflight::{Begun, Interrupted};
pub use self::intake::Intake;
use self::keeper::{Errand, Keeper};
pub use self::operate::{Command, Reroute};
pub use self::park::Parking;
pub use self::read::{Due, FARTHEST, Far, Unreported};
pub use self::statistics::Tally;
pub use self::writer::Upkept;
use self::writer::Writer;
use crate::mail::job::{Destination, Job, JobId};
use crate::mail::outcome::Report;
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;
use crate::mail::verdict::{MessageState, OriginalError, Verdict};

/// How to open a store.
#[derive(Clone)]
pub struct StoreOptions {
    /// QueueDirectory.
    pub directory: PathBuf,
    /// Page cache over all files, octets.
    pub cache_size: usize,
    /// Octets after which a body generation is full.
    pub body_generation_size: u64,
    /// Octets of mail kept in INCOMING.
    pub incoming_size: u64,
    /// Deliveries that may be acknowledged by a peer and not yet durable.
    pub max_unsettled: usize,
    /// Free octets of the file system below which no mail is taken.
    pub min_free: u64,
    /// Calendar time.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

/// What can go wrong. Nothing here is an outcome of a delivery.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No store there; only -bd and -bD make one.
    #[error("no queue in {0}: start the daemon once (kvmta -bd), it makes one")]
    Missing(PathBuf),
    /// Another process holds it.
    #[error("queue in {0} is in use by another process")]
    Locked(PathBuf),
    /// Made by another version of kvmta; nothing was touched.
    #[error(
        "queue has format {found}, this kvmta knows {known}: nothing was changed; empty it with the version that made it"
    )]
    OtherFormat {
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// No room: free space below MinFreeBlocks, or the disk refused. Nothing was taken.
    #[error("insufficient disk space")]
    Full,
    /// More is waiting to be written than the bound allows; try again later.
    #[error("queue is busy")]
    Busy,
    /// The files gave an error and are being opened again; try again later.
    #[error("queue is unavailable: {0}")]
    Unavailable(String),
    /// A record that cannot be read; the message is set aside, not lost.
    #[error("damaged record of {what}: {detail}")]
    Damaged {
        /// Which message or table.
        what: String,
        /// How.
        detail: String,
    },
    /// The store is closing.
    #[error("queue is closing")]
    Closing,
}

impl From<OriginalError> for StoreError {
    fn from(error: OriginalError) -> StoreError {
        match error.into_cause().downcast::<StoreError>() {
            Ok(error) => *error,
            Err(other) => StoreError::Unavailable(other.to_string()),
        }
    }
}

/// An open store. Clones share it. When the last one goes without [`Store::close`], what waits is committed still.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    core: Arc<Core>,
    keeper: Keeper,
}

/// What operations and the keeper share.
struct Core {
    writer: Writer,
    bodies: Bodies,
    ids: Ids,
    claims: Arc<Claims>,
    interrupted: Mutex<InterruptedState>,
    /// Octets of INCOMING bodies, those on their way in included.
    incoming_octets: AtomicU64,
    tallies: statistics::Tallies,
    down: Mutex<HashMap<Destination, Timestamp>>,
    /// Jobs whose records turned out to be damaged: not offered again.
    quarantine: Mutex<HashSet<JobId>>,
    /// Told when jobs have become ready that nobody was given: of a long list, or by an operator.
    readied: tokio::sync::Notify,
    errands: tokio::sync::mpsc::UnboundedSender<Errand>,
    options: StoreOptions,
}

/// Destinations remembered as down: the picture only saves a useless attempt, so what does not fit is not remembered.
const DOWN_MAX: usize = 10_000;

/// Damaged jobs remembered; those beyond are offered, and found damaged, again and again.
const QUARANTINE_MAX: usize = 10_000;

impl Core {
    fn now(&self) -> Timestamp {
        (self.options.clock)()
    }

    /// Whether the destination is known not to answer at `now`.
    fn is_down(&self, destination: &Destination, now: Timestamp) -> bool {
        self.down().get(destination).is_some_and(|not_before| *not_before > now)
    }

    /// Remembers until when the destination is down; a time that is past forgets it.
    fn remember(&self, destination: &Destination, not_before: Timestamp, now: Timestamp) {
        let mut down = self.down();
        if not_before <= now {
            down.remove(destination);
            return;
        }
        if down.len() >= DOWN_MAX {
            down.retain(|_, not_before| *not_before > now);
        }
        if down.len() < DOWN_MAX {
            down.insert(destination.clone(), not_before);
        }
    }

    fn down(&self) -> MutexGuard<'_, HashMap<Destination, Timestamp>> {
        // Each change leaves it consistent.
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does not offer the job again: its record is damaged.
    fn quarantine(&self, id: JobId) {
        let mut jobs = self.quarantine.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.len() < QUARANTINE_MAX {
            jobs.insert(id);
        }
    }

    /// Takes room in INCOMING for a body; false when there is none.
    fn take_incoming(&self, octets: u64) -> bool {
        let bound = self.options.incoming_size;
        self.incoming_octets
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(octets).filter(|sum| *sum <= bound)
            })
            .is_ok()
    }

    /// Gives room in INCOMING back.
    fn give_incoming(&self, octets: u64) {
        let less = |used: u64| Some(used.saturating_sub(octets));
        // Always `Ok`: the function never declines.
        let _ = self.incoming_octets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Takes room in INCOMING, whether there is any or not.
    fn force_incoming(&self, octets: u64) {
        self.incoming_octets.fetch_add(octets, Ordering::Relaxed);
    }

    /// Leaves something for the keeper; after it ended there is nothing left to keep.
    fn leave(&self, errand: Errand) {
        let _ = self.errands.send(errand);
    }
}

/// A message that is durable, and what can be attempted at once from memory.
pub struct Accepted {
    /// Its name.
    pub id: QueueId,
    /// Its jobs, unless it is held or its list is being unfolded. Each was claimed before the message could be seen, so
    /// that nobody who reads the store attempts it as well.
    pub jobs: Vec<(Job, Claim)>,
    /// Its bytes, when they were few enough to stay in memory.
    pub bytes: Option<Arc<[u8]>>,
}

/// Asked for the verdict, maybe more than once, on the caller's thread and on the writer's; pure. A job without recipients asks for a
/// report on others alone ([`Store::settle`]); only `reported` and `reports` of that verdict count.
pub type Decide = Box<dyn FnMut(&MessageState<'_>) -> Result<Verdict, StoreError> + Send>;

/// What a settle left.
pub struct Settled {
    /// Reports that are now messages of their own, ready to be attempted.
    pub accepted: Vec<Accepted>,
    /// The message is gone: nothing of it is left.
    pub finished: bool,
}

/// What the store keeps of a destination (DEST).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationState {
    /// When it may be tried next as a whole.
    pub not_before: Timestamp,
    /// Failures in a row of the destination as such.
    pub failures: u32,
    /// The last trouble of the destination as such, shown for jobs that have none of their own.
    pub last: Option<Report>,
}

/// Exact totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Messages in all, held and incoming included: what -bP prints.
    pub messages: u64,
    /// Of those, in INCOMING.
    pub incoming: u64,
    /// Of those, held.
    pub held: u64,
    /// Octets of all messages.
    pub octets: u64,
}

impl Store {
    /// Resolves when jobs of a long list, of a loaded message, or of what an operator changed have become ready since the last call, so
    /// that AGENDA is worth a look. For one listener.
    pub async fn readied(&self) {
        self.core().readied.notified().await;
    }

    /// What the upkeep of queue.redb comes to from now on, for the log. Ends when the store does.
    pub fn upkept(&self) -> tokio::sync::watch::Receiver<Option<Upkept>> {
        self.core().writer.upkept()
    }

    /// How long the oldest unacknowledged lazy batch may wait.
    pub const LAZY_MAX: Duration = Duration::from_millis(100);

    fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }
}
