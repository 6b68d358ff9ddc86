//! Explicit runs under way.
//!
//! A run is a cursor over the messages, in slices, feeding the window as there is room. It is not stored: a crash ends it.
//! Equal runs merge: whoever asks for the same again while the cursor stands at the start joins it.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;

use super::order::{Best, Facts, Rank, Ranking};
use super::run::{Progress, Run};
use super::schedule::RunId;
use crate::config::Config;
use crate::mail::envelope::Envelope;
use crate::mail::job::{Destination, Entry, EntryJob};
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;
use crate::store::Store;

/// Messages remembered of those a run tried last: more than are settled at once.
const ENDED_MAX: usize = 200;
/// How long the answer to a run waits for the settles of its last messages.
const LANDING_MAX: Duration = Duration::from_secs(2);

/// The runs under way, by name.
#[derive(Default)]
pub(super) struct Runs {
    active: HashMap<RunId, ActiveRun>,
    last: RunId,
    done: Vec<ActiveRun>,
}

impl Runs {
    /// A run of the queue; joins an equal one that has not gone anywhere yet. `total` is the number of messages it will look at, as far
    /// as it is known, and is asked for only if somebody sees it.
    pub(super) fn begin(
        &mut self,
        run: Run,
        progress: Option<mpsc::Sender<Progress>>,
        started: Timestamp,
        config: &Config,
        total: impl FnOnce() -> Option<u64>,
    ) {
        let same =
            |other: &&mut ActiveRun| other.run == run && other.cursor.is_none() && !other.exhausted;
        if let Some(other) = self.active.values_mut().find(same) {
            other.listeners.extend(progress);
            return;
        }
        let limited = run.selection.is_limited();
        let verbose = run.verbose;
        let mut active = ActiveRun::new(run, started, config);
        if verbose {
            // A total that cannot be read is only left out.
            active.numbering = Some(Numbering::of(if limited { None } else { total() }));
            if let (Choice::All, true) = (&active.choice, limited) {
                active.choice = Choice::Counting(0);
            }
        }
        active.listeners.extend(progress);
        self.add(active);
    }

    /// The run of one message, which its sender waits for.
    pub(super) fn begin_with_message(
        &mut self,
        verbose: bool,
        progress: mpsc::Sender<Progress>,
        started: Timestamp,
        config: &Config,
    ) -> RunId {
        let run = Run { verbose, wait: true, ..Run::default() };
        let mut active = ActiveRun::new(run, started, config);
        active.exhausted = true;
        active.is_submission = true;
        active.listeners.push(progress);
        self.add(active)
    }

    fn add(&mut self, run: ActiveRun) -> RunId {
        self.last += 1;
        self.active.insert(self.last, run);
        self.last
    }

    /// Whether one whose cursor has not passed the last message can go on: not if it waits for room for a destination that has none.
    pub(super) fn goes_on(&self, has_room: impl Fn(&Destination) -> bool) -> bool {
        let can = |run: &ActiveRun| run.waits_for.as_ref().is_none_or(&has_room);
        self.active.values().any(|run| !run.exhausted && can(run))
    }

    /// Those whose cursor has not passed the last message.
    pub(super) fn unfinished(&self) -> Vec<RunId> {
        self.active.iter().filter(|(_, run)| !run.exhausted).map(|(id, _)| *id).collect()
    }

    pub(super) fn get_mut(&mut self, id: RunId) -> Option<&mut ActiveRun> {
        self.active.get_mut(&id)
    }

    /// The run out of the list, to go on with it.
    pub(super) fn take(&mut self, id: RunId) -> Option<ActiveRun> {
        self.active.remove(&id)
    }

    /// The run back into the list, unless it is done.
    pub(super) fn put_back(&mut self, id: RunId, run: ActiveRun) {
        self.active.insert(id, run);
        self.close_if_done(id);
    }

    /// A job of it has left the window.
    pub(super) fn job_ended(&mut self, id: RunId, message: QueueId, failed: Option<u8>) {
        if let Some(run) = self.active.get_mut(&id) {
            run.outstanding -= 1;
            // The first failure decides the exit status, as sendmail has it.
            if run.exit == 0 {
                run.exit = failed.unwrap_or(0);
            }
            if run.ended.len() == ENDED_MAX {
                run.ended.pop_front();
            }
            run.ended.push_back(message);
        }
        self.close_if_done(id);
    }

    /// Tells whoever waits when all of it was tried.
    pub(super) fn close_if_done(&mut self, id: RunId) {
        if self.active.get(&id).is_some_and(|run| run.exhausted && run.outstanding == 0)
            && let Some(run) = self.active.remove(&id)
        {
            self.done.push(run);
        }
    }

    /// Those that ended since the last call, and whose listeners wait to be told.
    pub(super) fn take_done(&mut self) -> Vec<ActiveRun> {
        std::mem::take(&mut self.done)
    }
}

/// A run that is under way.
pub(super) struct ActiveRun {
    pub(super) run: Run,
    pub(super) started: Timestamp,
    /// Where the cursor stands; `None` before the first message.
    pub(super) cursor: Option<QueueId>,
    /// The last job looked at of the next message, which is a long list.
    pub(super) in_list: Option<(QueueId, u32)>,
    /// The destination whose lane is too crowded for the next job.
    pub(super) waits_for: Option<Destination>,
    /// The message last taken into account for a choice.
    pub(super) considered: Option<QueueId>,
    /// The cursor has passed the last message, and all that were chosen were offered.
    pub(super) exhausted: bool,
    /// It is one message that was just accepted.
    is_submission: bool,
    /// What goes first.
    ranking: Ranking,
    /// MaxQueueRunSize: the messages to try are chosen before any is.
    pub(super) choice: Choice,
    /// Jobs of it in the window.
    pub(super) outstanding: usize,
    exit: u8,
    /// The messages whose jobs ended last: their settles may not be durable yet, and until then nobody gets them.
    ended: VecDeque<QueueId>,
    pub(super) listeners: Vec<mpsc::Sender<Progress>>,
    /// Messages are announced with their number in the run; a submission that waits has but one.
    pub(super) numbering: Option<Numbering>,
}

/// Which of the selected messages a run tries.
pub(super) enum Choice {
    /// All, as the cursor comes to them.
    All,
    /// The same, once they are counted: whoever watches a selection is told how many it has.
    Counting(u64),
    /// The best, while the cursor looks for them.
    Looking(Best),
    /// These, in this order.
    Found(VecDeque<QueueId>),
}

impl Choice {
    /// What MaxQueueRunSize means; so many that choosing them would cost much are tried as they come, and all of them.
    fn of(size_max: Option<u64>) -> Choice {
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
    /// Of a selection known when it was counted.
    total: Option<u64>,
    last: Option<QueueId>,
}

impl Numbering {
    fn of(total: Option<u64>) -> Numbering {
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
    fn new(run: Run, started: Timestamp, config: &Config) -> ActiveRun {
        ActiveRun {
            ranking: Ranking::new(run.order.unwrap_or(config.queue_sort_order)),
            choice: Choice::of(run.size_max.or(config.queue_run_size_max)),
            numbering: None,
            run,
            started,
            cursor: None,
            in_list: None,
            waits_for: None,
            considered: None,
            exhausted: false,
            is_submission: false,
            outstanding: 0,
            exit: 0,
            ended: VecDeque::new(),
            listeners: Vec::new(),
        }
    }

    /// Whether the message is one of those asked for.
    pub(super) fn selects(&self, entry: &Entry) -> bool {
        entry.held.is_none() && self.run.selection.matches(entry)
    }

    /// The cursor has passed the last message: nothing is left, or what was chosen is to be offered.
    pub(super) fn read_to_end(&mut self) {
        self.considered = None;
        match std::mem::replace(&mut self.choice, Choice::All) {
            Choice::Looking(best) => {
                let found: VecDeque<QueueId> = best.in_order().collect();
                self.expect(found.len() as u64);
                self.choice = Choice::Found(found);
            }
            Choice::Counting(count) => {
                self.expect(count);
                self.cursor = None;
            }
            Choice::All | Choice::Found(_) => self.exhausted = true,
        }
    }

    /// So many messages are to be tried.
    fn expect(&mut self, total: u64) {
        if let Some(numbering) = &mut self.numbering {
            numbering.total = Some(total);
        }
    }

    /// Whether this job of a long list is one of those asked for: its recipients decide, not those of the whole list.
    pub(super) fn selects_job(&self, entry: &Entry, job: &EntryJob) -> bool {
        self.run.selection.terms.is_empty()
            || self.selects(&Entry { jobs: vec![job.clone()], ..entry.clone() })
    }

    /// Those of these jobs of a message that this run is to try, with their ranks, at this load. `failed_at` tells when a destination
    /// failed.
    pub(super) fn ready_jobs(
        &self,
        config: &Config,
        load: u32,
        entry: &Entry,
        jobs: &[EntryJob],
        failed_at: impl Fn(&Destination) -> Option<Timestamp>,
    ) -> Vec<(Rank, EntryJob)> {
        let mut ready = Vec::new();
        for job in jobs {
            let Some(open) = job.recipients.iter().find(|r| r.state.is_open()) else { continue };
            let priority = entry.envelope.priority_after(job.attempts, config.priority.retry);
            if config.waits_for_load(priority, load)
                || self.has_met(job, failed_at(&job.destination))
                || !self.is_old_enough(config, &entry.envelope, job)
            {
                continue;
            }
            let rank = self.ranking.rank(&Facts {
                id: entry.id,
                envelope: &entry.envelope,
                priority,
                last_attempt: job.last_attempt,
                recipient: Some(&open.address),
            });
            ready.push((rank, job.clone()));
        }
        ready
    }

    /// Tells whoever waits that all of it was tried. Of a run of the queue not before what it tried last may be tried again: the next
    /// command would find it in hand.
    pub(super) async fn tell_done(self, store: Store) {
        if !self.is_submission {
            let landed = async {
                for id in &self.ended {
                    store.landed(*id, LANDING_MAX).await;
                }
            };
            // Then it is told all the same: all was tried.
            let _ = tokio::time::timeout(LANDING_MAX, landed).await;
        }
        for listener in self.listeners {
            // A place is kept free for this last word (`Audience`).
            let _ = listener.try_send(Progress::Done { exit: self.exit });
        }
    }

    /// Whether this run has met the job already, by itself or (`failed_at`) by the failure of its destination.
    fn has_met(&self, job: &EntryJob, failed_at: Option<Timestamp>) -> bool {
        job.last_attempt >= Some(self.started) || failed_at >= Some(self.started)
    }

    /// Whether it is time to try this job again in a plain run: MinQueueAge and MaxQueueAge (sendmail 3.2).
    /// Selections ignore both, and what was never tried is always tried.
    fn is_old_enough(&self, config: &Config, envelope: &Envelope, job: &EntryJob) -> bool {
        let Some(last) = job.last_attempt.filter(|_| job.attempts > 0) else { return true };
        if self.run.selection.is_limited() {
            return true;
        }
        let settings = &self.run.settings;
        let min_age = settings.min_queue_age.unwrap_or(config.min_queue_age);
        let max_age = settings.max_queue_age.unwrap_or(config.max_queue_age);
        let wait =
            max_age.map_or(min_age, |max| min_age.max(last.since(envelope.arrival).min(max)));
        self.started >= last.after(wait)
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
