//! Explicit runs of the queue: `-q`, `-qI -qR -qS -qQ`, ETRN, and a submission that waits for its attempt.
//!
//! A run is a cursor over the messages, in slices, feeding the window as there is room. It is not stored: a crash ends it.
//! Equal runs merge: whoever asks for the same again while the cursor stands at the start joins it.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;

use super::order::{Best, Ranking};
use crate::config::{Config, SortOrder};
use crate::mail::envelope::Envelope;
use crate::mail::job::EntryJob;
use crate::mail::queue_id::QueueId;
use crate::mail::selection::Selection;
use crate::mail::status::EnhancedStatus;
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
}

/// What a waiting caller hears.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Progress {
    /// A line for people.
    Line(String),
    /// Every job was tried. The status of the first failure in sysexits, 0 without one.
    Done {
        /// 0, 67, 68, 69
        exit: u8,
    },
}

/// A run that is under way.
pub(super) struct ActiveRun {
    pub(super) run: Run,
    pub(super) started: Timestamp,
    /// Where the cursor stands; `None` before the first message.
    pub(super) cursor: Option<QueueId>,
    /// The cursor has passed the last message, and all that were chosen were offered.
    pub(super) exhausted: bool,
    /// What goes first.
    pub(super) ranking: Ranking,
    /// MaxQueueRunSize: the messages to try are chosen before any is.
    pub(super) choice: Choice,
    /// Jobs of it in the window.
    pub(super) outstanding: usize,
    pub(super) exit: u8,
    pub(super) listeners: Vec<mpsc::Sender<Progress>>,
    /// Messages are announced with their number in the run; a submission that waits has but one.
    pub(super) numbering: Option<Numbering>,
}

/// Which of the selected messages a run tries.
pub(super) enum Choice {
    /// All, as the cursor comes to them.
    All,
    /// The best, while the cursor looks for them.
    Looking(Best),
    /// These, in this order.
    Found(VecDeque<QueueId>),
}

impl Choice {
    /// What MaxQueueRunSize means; so many that choosing them would cost much are tried as they come, and all of them.
    pub(super) fn of(size_max: Option<u64>) -> Choice {
        match size_max.map(usize::try_from) {
            Some(Ok(wanted)) if (1..=Best::MAX).contains(&wanted) => {
                Choice::Looking(Best::of(wanted))
            }
            _ => Choice::All,
        }
    }
}

/// How a verbose run counts its messages.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Numbering {
    announced: u64,
    /// Unknown for a selection: it would have to be read twice.
    total: Option<u64>,
    last: Option<QueueId>,
}

impl Numbering {
    pub(super) fn of(total: Option<u64>) -> Numbering {
        Numbering { total, ..Numbering::default() }
    }

    /// `Running /var/spool/kvmta/6AM6KPaP020579 (sequence 1 of 4)` behind an empty line; none for another job of the message
    /// announced last.
    pub(super) fn announce(&mut self, directory: &Path, id: QueueId) -> Option<String> {
        if self.last == Some(id) {
            return None;
        }
        self.last = Some(id);
        self.announced += 1;
        let of = match self.total {
            // Mail that came in meanwhile runs along.
            Some(total) => format!(" of {}", total.max(self.announced)),
            None => String::new(),
        };
        Some(format!("\nRunning {}/{id} (sequence {}{of})", directory.display(), self.announced))
    }
}

impl ActiveRun {
    pub(super) fn new(run: Run, started: Timestamp, config: &Config) -> ActiveRun {
        ActiveRun {
            ranking: Ranking::new(run.order.unwrap_or(config.queue_sort_order)),
            choice: Choice::of(run.size_max.or(config.queue_run_size_max)),
            numbering: None,
            run,
            started,
            cursor: None,
            exhausted: false,
            outstanding: 0,
            exit: 0,
            listeners: Vec::new(),
        }
    }

    /// Whether it is time to try this job again in a plain run: MinQueueAge and MaxQueueAge (sendmail 3.2).
    /// Selections ignore both, and what was never tried is always tried.
    pub(super) fn is_old_enough(
        &self,
        envelope: &Envelope,
        job: &EntryJob,
        min_age: Duration,
        max_age: Option<Duration>,
    ) -> bool {
        let Some(last) = job.last_attempt.filter(|_| job.attempts > 0) else { return true };
        if self.run.selection.is_limited() {
            return true;
        }
        let min_age = self.run.settings.min_queue_age.unwrap_or(min_age);
        let max_age = self.run.settings.max_queue_age.unwrap_or(max_age);
        let wait =
            max_age.map_or(min_age, |max| min_age.max(last.since(envelope.arrival).min(max)));
        self.started >= last.after(wait)
    }

    /// Notes a failure: the first one decides the exit status, as sendmail has it.
    pub(super) fn failed(&mut self, status: EnhancedStatus) {
        if self.exit == 0 {
            self.exit = match status.parts() {
                (_, 1, 1) => 67,
                (_, 1, 2) => 68,
                _ => 69,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_announced_once_with_its_number() {
        let id = |n: u64| QueueId::from_u64(n);
        let directory = Path::new("/var/spool/kvmta");
        let mut numbering = Numbering::of(Some(2));
        let first = numbering.announce(directory, id(1)).expect("announced");
        assert!(first.starts_with("\nRunning /var/spool/kvmta/"), "{first}");
        assert!(first.ends_with(" (sequence 1 of 2)"), "{first}");
        assert_eq!(numbering.announce(directory, id(1)), None);
        assert!(numbering.announce(directory, id(2)).expect("announced").ends_with("2 of 2)"));
        assert!(numbering.announce(directory, id(3)).expect("announced").ends_with("3 of 3)"));
        let mut selected = Numbering::of(None);
        assert!(selected.announce(directory, id(1)).expect("announced").ends_with("(sequence 1)"));
    }
}
