//! Explicit runs of the queue, as they are asked for: `-q`, `-qI -qR -qS -qQ`, ETRN, and a submission that waits for its attempt.

use tokio::sync::mpsc;

use crate::config::SortOrder;
use crate::mail::queue_id::QueueId;
use crate::mail::selection::Selection;
use crate::mail::time::Timestamp;
use crate::settle::RunSettings;
use crate::store::Accepted;

/// Lines of progress that may wait for a slow reader; a run never waits for one that reads slower, it skips lines.
pub const PROGRESS_MAX: usize = 10_000;

/// What a run of the queue is asked for.
#[derive(Clone, PartialEq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Run {
    /// Which messages.
    pub selection: Selection,
    /// What the command line sets for this run alone: from root, the daemon's user or TrustedUser only.
    pub settings: RunSettings,
    /// QueueSortOrder of this run; none takes the daemon's.
    pub order: Option<SortOrder>,
    /// MaxQueueRunSize: so many messages at most, the first ones of the order; none takes the daemon's, 0 all.
    pub size_max: Option<u64>,
    /// Answer when every selected job was tried: `-qf`, `-v`.
    pub wait: bool,
    /// With the dialogue.
    pub verbose: bool,
}

/// A run on its way to the runner.
pub enum RunRequest {
    /// Of the queue.
    Queue {
        /// Which and how.
        run: Run,
        /// Who wants to hear of it.
        progress: Option<mpsc::Sender<Progress>>,
    },
    /// Of one message that was just accepted and whose sender waits (`-odi`, `-v`).
    Message {
        /// It.
        accepted: Accepted,
        /// With the dialogue.
        verbose: bool,
        /// Who waits.
        progress: mpsc::Sender<Progress>,
    },
    /// Of none: failures of this message are unreported, and are to be reported then at the latest.
    Report {
        /// Which.
        id: QueueId,
        /// When.
        due: Timestamp,
    },
}

/// What a waiting caller hears.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Progress {
    /// A line for people.
    Line(String),
    /// Every job was tried. The status of the first failure in sysexits, 0 without one.
    Done {
        /// 0, 67, 68, 69; 75 when there was no run
        exit: u8,
    },
}
