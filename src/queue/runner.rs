//! The loop that keeps the window full, and the life of one job.
//!
//! One task owns the [`Schedule`]; each attempt is a task of its own. New mail comes over a bounded channel with its
//! claim; what finds no room is dropped from memory and read from the store again, first INCOMING in order of
//! arrival, then READY by the AGENDA. A job is claimed before it is loaded and stays claimed until its settle is durable, so
//! no job is ever attempted twice at a time, nor again from a stale reading.
//!
//! No job sleeps for ever. A job in INCOMING is in the window, in the channel, or in the hands of an errand; whoever lets go
//! of one without settling it makes INCOMING be read once more. A READY job stands behind an AGENDA key that is never late; keys
//! are looked at every [`REST_MAX`] at least, and one that is early is moved, or its destination's jobs are offered to the window.
//! No job is tried in a loop: after an attempt it waits for its time, or for that of its destination, and after trouble of our
//! own for [`STORE_PAUSE`].
//!
//! A crash loses the window and the explicit runs under way, nothing else. A panic in an attempt defers its job.

mod feed;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

use super::House;
use super::attempt::{self, Again, Ended, Errand, Order};
use super::audience::Audience;
use super::deadline::Deadlines;
use super::interrupted;
use super::order::{Rank, Ranking};
use super::report::{self, Reports};
use super::run::{Progress, RunRequest};
use super::runs::Runs;
use super::schedule::{Limits, Offer, RunId, Schedule, Start, Waiting};
use crate::config::Config;
use crate::mail::job::{Destination, JobId};
use crate::mail::outcome::Report;
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;
use crate::settle::RunSettings;
use crate::store::{Accepted, Claim, Far, StoreError};

/// Accepted messages taken from the channel before the window is looked at again.
const FRESH_AT_ONCE: usize = 256;
/// How soon the AGENDA is looked at again after a settle may have moved it.
const AGENDA_SOON: Duration = Duration::from_millis(200);
/// How soon it is when a job that has ended still stands there: its settle is durable by then.
const SETTLE_SOON: Duration = Duration::from_millis(500);
/// How long the loop rests at most: a clock set forward is noticed by then.
const REST_MAX: Duration = Duration::from_secs(30);
/// An interval that no daemon lives to see.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// How soon new mail that waits for the load to fall is looked at again, and how soon the load is when nothing is tried.
const LOAD_PAUSE: Duration = Duration::from_secs(15);
/// How long the loop waits after the store refused something.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// Runs of the queue under way that are still reading it; beyond it new ones are refused.
const RUNS_MAX: usize = 100;
/// Errands at once. Beyond it nothing new is taken and no end of an attempt looked at, so whoever sends waits: each of
/// them ends within some commits.
const ERRANDS_MAX: usize = 256;

/// Where mail and wishes come from.
pub struct Sources {
    /// New mail, durable, claimed.
    pub accepted: mpsc::Receiver<Accepted>,
    /// Explicit runs.
    pub runs: mpsc::Receiver<RunRequest>,
    /// The house as the last reload left it.
    pub houses: watch::Receiver<House>,
    /// True when it is time to stop starting attempts.
    pub stop: watch::Receiver<bool>,
}

/// How far INCOMING is read. Jobs that are in somebody's hands are passed over, so whoever lets go of one without settling
/// it asks for another reading; one that is asked for in the middle of a reading comes after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Incoming {
    /// What is not in the window is in somebody's hands.
    Read,
    /// Not before this instant, from the start.
    From(Instant),
    /// Up to and with this ID; `again` from the start after that.
    Reading { after: QueueId, again: bool },
}

/// HoldExpensive: when mail that waits for a queue run has its time, and what of the present run is still to be read.
#[derive(Default)]
struct HeldBack {
    /// The next queue run; none when nothing is held back.
    run_at: Option<Instant>,
    /// This reading of INCOMING takes it.
    incoming: bool,
    /// This look at the AGENDA takes it.
    agenda: bool,
}

/// What the loop does by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Initiative {
    /// A daemon's: tries new mail, and what is deferred when it is due.
    Due,
    /// That of a command which holds the store for a moment: only what it is asked for.
    Asked,
}

/// The loop's state.
pub struct Runner {
    house: House,
    initiative: Initiative,
    /// `-q15m`; none leaves deferred mail to explicit runs.
    interval: Option<Duration>,
    schedule: Schedule<Claim>,
    ranking: Ranking,
    /// Nothing is tried because of the load, and the log says so.
    resting: bool,
    /// HoldExpensive.
    held_back: HeldBack,
    /// The present reading of INCOMING has passed over mail for the load.
    load_keeps: bool,
    attempts: JoinSet<Ended>,
    /// What each attempt's task is about, should it panic.
    about: HashMap<Id, (Arc<Destination>, JobId, Option<RunId>)>,
    errands: JoinSet<Errand>,
    /// Judges jobs of a destination that failed; empty when that is not being done.
    judges: JoinSet<Errand>,
    /// Jobs that wait for a closed destination: parked together at the end of the turn.
    closed: Vec<Waiting<Claim>>,
    /// Destinations whose AGENDA keys may stand too early: moved together at the end of the turn.
    idle: BTreeSet<Arc<Destination>>,
    runs: Runs,
    agenda_at: Instant,
    /// Destinations that were due when AGENDA was read and had jobs in memory: at most as many as there are lanes.
    passed_over: HashSet<Arc<Destination>>,
    deadlines: Deadlines,
    reports: Reports,
    incoming: Incoming,
    /// What an unclean stop interrupted stands in the log.
    is_named: bool,
    /// DeliveryMode q and d: the store is looked at from this moment on, then again an interval later.
    queue_run_at: Option<Instant>,
}

impl Runner {
    /// A runner with an empty window. It reads INCOMING and the AGENDA as soon as it runs.
    pub fn new(house: House, interval: Option<Duration>, initiative: Initiative) -> Runner {
        let config = &house.config;
        Runner {
            initiative,
            interval,
            schedule: Schedule::new(limits(config)),
            ranking: Ranking::new(config.queue_sort_order),
            resting: false,
            held_back: HeldBack {
                run_at: config.hold_expensive.then(|| Instant::now() + interval.unwrap_or(NEVER)),
                ..HeldBack::default()
            },
            load_keeps: false,
            attempts: JoinSet::new(),
            about: HashMap::new(),
            errands: JoinSet::new(),
            judges: JoinSet::new(),
            closed: Vec::new(),
            idle: BTreeSet::new(),
            runs: Runs::default(),
            agenda_at: Instant::now(),
            passed_over: HashSet::new(),
            deadlines: Deadlines::default(),
            reports: Reports::default(),
            incoming: Incoming::From(Instant::now()),
            is_named: false,
            queue_run_at: (!config.delivery_mode.is_immediate()).then(Instant::now),
            house,
        }
    }

    /// Runs until told to stop, then until `grace` is over or every attempt under way has ended and is settled.
    pub async fn run(mut self, mut sources: Sources, grace: Duration) {
        let mut stop = sources.stop.clone();
        if self.initiative == Initiative::Due && !self.name_interrupted(&mut stop).await {
            return;
        }
        let store = self.house.store.clone();
        loop {
            let rest = match self.feed() {
                Ok(rest) => rest,
                Err(error) => {
                    self.house.maillog.warning(None, &format!("queue: {error}; trying again"));
                    STORE_PAUSE
                }
            };
            self.start_attempts();
            self.start_errands();
            let takes = self.errands.len() < ERRANDS_MAX;
            tokio::select! {
                biased;
                () = time_to_stop(&mut sources.stop) => break,
                Ok(()) = sources.houses.changed() => {
                    let house = sources.houses.borrow_and_update().clone();
                    self.refurnish(house);
                }
                Some(done) = self.errands.join_next() => self.errand_done(done),
                Some(done) = self.judges.join_next() => self.errand_done(done),
                Some(ended) = self.attempts.join_next_with_id(), if takes => {
                    self.ended(ended);
                    while let Some(ended) = self.attempts.try_join_next_with_id() {
                        self.ended(ended);
                    }
                }
                Some(accepted) = sources.accepted.recv(), if takes => {
                    // Whoever found the channel full has dropped his message. Nobody but us empties it, so it was full
                    // at some time only if it is so now, but for the one just taken.
                    if sources.accepted.len() + 1 >= sources.accepted.max_capacity() {
                        self.incoming_again();
                    }
                    self.fresh(accepted, None);
                    for _ in 1..FRESH_AT_ONCE {
                        let Ok(accepted) = sources.accepted.try_recv() else { break };
                        self.fresh(accepted, None);
                    }
                }
                Some(request) = sources.runs.recv(), if takes => {
                    let of_queue = matches!(request, RunRequest::Queue { .. });
                    if of_queue && !self.name_interrupted(&mut stop).await {
                        break;
                    }
                    self.requested(request);
                }
                () = store.readied() => self.agenda_after(Duration::ZERO),
                () = tokio::time::sleep(rest) => {}
            }
        }
        drop((sources, store));
        let finish = async {
            while let Some(ended) = self.attempts.join_next_with_id().await {
                self.ended(ended);
            }
            self.start_errands();
            while self.errands.join_next().await.is_some() {}
        };
        if tokio::time::timeout(grace, finish).await.is_err() {
            // These are aborted: their recipients stay queued, and one whose final dot was sent may get it twice.
            for (_, id, _) in self.about.values() {
                if let Err(error) = interrupted::name(&self.house, *id) {
                    self.house.maillog.warning(Some(id.queue_id), &format!("queue: {error}"));
                }
            }
        }
    }

    /// Names what an unclean stop interrupted, once: before anything that was in the store is attempted. False when it is time to stop.
    async fn name_interrupted(&mut self, stop: &mut watch::Receiver<bool>) -> bool {
        while !self.is_named {
            match interrupted::name_all(&self.house).await {
                Ok(()) => self.is_named = true,
                Err(error) => {
                    self.house.maillog.warning(None, &format!("queue: {error}; trying again"));
                    tokio::select! {
                        () = time_to_stop(stop) => return false,
                        () = tokio::time::sleep(STORE_PAUSE) => {}
                    }
                }
            }
        }
        true
    }

    /// Goes on in a house with another configuration; attempts under way keep theirs. What waits under another order, or may have to
    /// wait for the load or a queue run now, is let go and read from the store again, in pages as ever: the window is all that is ever
    /// ranked, however much is queued.
    fn refurnish(&mut self, house: House) {
        self.schedule.set_limits(limits(&house.config));
        let (before, after) = (self.house.config.clone(), house.config.clone());
        if before.queue_sort_order != after.queue_sort_order {
            self.ranking = Ranking::new(after.queue_sort_order);
        }
        let is_other = before.queue_sort_order != after.queue_sort_order
            || before.priority != after.priority
            || before.load != after.load
            || before.hold_expensive != after.hold_expensive
            || before.expensive_mailers != after.expensive_mailers;
        match (self.held_back.run_at, after.hold_expensive) {
            (None, true) => {
                self.held_back.run_at = Some(Instant::now() + self.interval.unwrap_or(NEVER));
            }
            (Some(_), false) => self.held_back = HeldBack::default(),
            _ => {}
        }
        if is_other && self.initiative == Initiative::Due {
            self.schedule.let_go();
            self.read_incoming_again();
            self.agenda_after(Duration::ZERO);
        }
        match (self.queue_run_at, house.config.delivery_mode.is_immediate()) {
            (Some(_), true) => {
                self.queue_run_at = None;
                self.incoming_again();
                self.agenda_at = Instant::now();
            }
            (None, false) => {
                self.queue_run_at = Some(Instant::now() + self.interval.unwrap_or(NEVER));
            }
            _ => {}
        }
        self.house = house;
    }

    fn now(&self) -> Timestamp {
        self.house.world.clock.now()
    }

    fn load(&self) -> u32 {
        self.house.world.load.average()
    }

    /// Whether the machine is too busy for any attempt (QueueLA); begin and end are logged.
    fn rests(&mut self) -> bool {
        let load = self.load();
        let rests = self.house.config.rests_for_load(load);
        if rests && !self.resting {
            let text = format!("runqueue: Skipping queue run -- load average too high ({load})");
            self.house.maillog.queue_rests(&text);
        }
        self.resting = rests;
        rests
    }

    /// New mail, or the mail that a waiting submission is about.
    fn fresh(&mut self, accepted: Accepted, run: Option<RunId>) {
        let now = self.now();
        // -v forces HoldExpensive off.
        let watched = run.and_then(|run| self.runs.get_mut(run)).is_some_and(|run| run.run.verbose);
        for (job, claim) in accepted.jobs {
            let destination = job.destination.clone();
            let id = job.id;
            // It is found again by the next queue run.
            if !watched && self.house.config.is_held_for_runs(destination.mailer) {
                continue;
            }
            if self.open_lane(&destination).is_err() {
                self.incoming_again();
                continue;
            }
            if self.house.config.waits_for_load(job.envelope.priority, self.load()) {
                self.incoming_after(LOAD_PAUSE);
                continue;
            }
            let (job, bytes, rank) = (Some(Box::new(job)), accepted.bytes.clone(), Rank::default());
            let waiting = Waiting { id, job, bytes, run, rank, hold: claim };
            match self.schedule.offer_fresh(&destination, waiting, now) {
                Ok(()) => {
                    if let Some(run) = run.and_then(|run| self.runs.get_mut(run)) {
                        run.outstanding += 1;
                    }
                }
                Err((Offer::Closed(_), waiting)) => self.closed.push(waiting),
                // It is found in the store when there is room for more of its destination.
                Err((Offer::Crowded, _)) => {}
                Err((Offer::Full | Offer::Taken, _)) => self.incoming_again(),
            }
        }
    }

    /// What the turn has gathered goes to the store, an errand for each kind.
    fn start_errands(&mut self) {
        if !self.closed.is_empty() {
            let closed = std::mem::take(&mut self.closed);
            self.errands.spawn(attempt::park(self.house.clone(), closed));
        }
        if !self.idle.is_empty() {
            let idle = std::mem::take(&mut self.idle);
            self.errands.spawn(attempt::advance_agenda(self.house.clone(), idle));
        }
        for run in self.runs.take_done().into_iter().filter(|run| !run.listeners.is_empty()) {
            let told = run.tell_done(self.house.store.clone());
            self.errands.spawn(async move {
                told.await;
                Errand::Done
            });
        }
    }

    /// INCOMING may hold a job that is in nobody's hands.
    fn incoming_again(&mut self) {
        self.incoming_after(Duration::ZERO);
    }

    /// INCOMING is read from the start, at once or once more.
    fn read_incoming_again(&mut self) {
        self.incoming = match self.incoming {
            Incoming::Reading { after, .. } => Incoming::Reading { after, again: true },
            Incoming::Read | Incoming::From(_) => Incoming::From(Instant::now()),
        };
    }

    /// As [`Runner::incoming_again`], but not at once: the store refused, or the job was just tried. Between the queue runs of
    /// DeliveryMode q it is not read, as all new mail is there.
    fn incoming_after(&mut self, pause: Duration) {
        match &mut self.incoming {
            Incoming::Read if self.queue_run_at.is_some() => {}
            Incoming::Read => self.incoming = Incoming::From(Instant::now() + pause),
            Incoming::Reading { again, .. } => *again = true,
            Incoming::From(_) => {}
        }
    }

    /// The AGENDA may have moved: looks at it before long. Between the queue runs of DeliveryMode q it is not looked at.
    fn agenda_after(&mut self, pause: Duration) {
        if self.queue_run_at.is_none() {
            self.agenda_at = self.agenda_at.min(Instant::now() + pause);
        }
    }

    /// Without an interval only what is new is tried, and never again by itself.
    fn far(&self) -> Far {
        if self.interval.is_some() { Far::Due } else { Far::Never }
    }

    fn requested(&mut self, request: RunRequest) {
        let started = self.now();
        match request {
            RunRequest::Queue { progress, .. } if self.runs.unfinished().len() >= RUNS_MAX => {
                let text = format!("Too many queue runs under way ({RUNS_MAX}); nothing was run");
                self.house.maillog.warning(None, &text);
                if let Some(progress) = progress {
                    // A caller that does not listen hears it from the log alone.
                    let _ = progress.try_send(Progress::Line(text));
                    let _ = progress.try_send(Progress::Done { exit: 75 });
                }
            }
            RunRequest::Queue { run, progress } => {
                let total = || {
                    let counts = self.house.store.counts().ok()?;
                    Some(counts.messages.saturating_sub(counts.held))
                };
                self.runs.begin(run, progress, started, &self.house.config, total);
            }
            RunRequest::Message { accepted, verbose, progress } => {
                let config = &self.house.config;
                let id = self.runs.begin_with_message(verbose, progress, started, config);
                self.fresh(accepted, Some(id));
                self.runs.close_if_done(id);
            }
            RunRequest::Report { id, due } => self.reports.note(due, id),
        }
    }

    /// Has those judged whose time is over: reports that are due, and jobs of destinations that failed. Returns how long there is
    /// nothing to do, [`REST_MAX`] at most.
    fn judge(&mut self, now: Timestamp) -> Result<Duration, StoreError> {
        let mut rest = REST_MAX;
        let is_due = self.initiative == Initiative::Due;
        if is_due {
            self.reports.read_on(&self.house.store, now)?;
        }
        while self.errands.len() < ERRANDS_MAX
            && let Some(id) = self.reports.next(now)
        {
            self.errands.spawn(report::report(self.house.clone(), id, self.interval));
        }
        // Whatever ends while there are too many errands makes another turn.
        if self.errands.len() < ERRANDS_MAX {
            rest = rest.min(self.reports.rest(now, is_due).unwrap_or(REST_MAX));
        }
        // Without an interval nothing is tried by itself, so nothing is warned about or given up either. One at a time, in parts.
        if is_due && self.interval.is_some() && self.judges.is_empty() {
            if let Some((destination, place)) = self.deadlines.next(&self.house.store)? {
                let house = self.house.clone();
                let errand = attempt::judge_overdue(house, destination, place, self.interval);
                self.judges.spawn(errand);
            } else {
                rest = rest.min(self.deadlines.rest().unwrap_or(REST_MAX));
            }
        }
        Ok(rest)
    }

    fn start_attempts(&mut self) {
        while !self.resting
            && let Some(Start { destination, waiting }) = self.schedule.start_next()
        {
            let Waiting { id, job, bytes, run, rank: _, hold } = waiting;
            let mut active = run.and_then(|run| self.runs.get_mut(run));
            let directory = &self.house.config.queue_directory;
            let heading = active
                .as_mut()
                .and_then(|run| run.numbering.as_mut())
                .and_then(|numbering| numbering.announce(directory, id.queue_id));
            let active = active.as_deref();
            let order = Order {
                id,
                destination: destination.clone(),
                job,
                bytes,
                claim: hold,
                interval: self.interval,
                settings: active.map(|run| run.run.settings.clone()).unwrap_or_default(),
                heading,
                is_selected: active.is_some_and(|run| run.run.selection.is_limited()),
                troubled: self.schedule.failed_at(&destination).is_some(),
                audience: match active {
                    Some(run) if run.run.verbose => {
                        let together = run.numbering.is_some() || run.outstanding > 1;
                        Audience::new(run.listeners.clone(), together)
                    }
                    _ => Audience::default(),
                },
            };
            let task = self.attempts.spawn(attempt::run_job(self.house.clone(), order));
            self.about.insert(task.id(), (destination, id, run));
        }
    }

    fn ended(&mut self, ended: Result<(Id, Ended), tokio::task::JoinError>) {
        let (task, ended) = match ended {
            Ok((task, ended)) => (task, Some(ended)),
            Err(error) => {
                self.house.maillog.warning(None, &format!("attempt ended unexpectedly: {error}"));
                (error.id(), None)
            }
        };
        let Some((destination, id, run)) = self.about.remove(&task) else { return };
        let ended = ended.unwrap_or_else(|| {
            // What panicked once would do so again at once.
            self.errands.spawn(attempt::defer(self.house.clone(), id, self.interval));
            Ended::nothing()
        });
        let now = self.now();
        let home = self.schedule.finished(&destination, id, ended.news, now);
        match ended.again {
            Again::No => {}
            Again::Soon => {
                self.incoming_again();
                self.agenda_after(AGENDA_SOON);
            }
            Again::Later => {
                self.incoming_after(STORE_PAUSE);
                self.agenda_after(STORE_PAUSE);
            }
        }
        if let Some(due) = ended.report_due {
            self.reports.note(due, id.queue_id);
        }
        if ended.unreachable.is_some() {
            self.deadlines.failed(&destination);
        }
        for accepted in ended.accepted {
            self.fresh(accepted, None);
        }
        self.send_home(home, ended.unreachable);
        self.advance_agenda_if_idle(&destination);
        if let Some(run) = run {
            self.runs.job_ended(run, id.queue_id, ended.failed);
        }
    }

    /// Jobs that waited for a destination that just proved unreachable: it was their attempt too.
    fn send_home(&mut self, home: Vec<Waiting<Claim>>, unreachable: Option<Report>) {
        let mut judged: Vec<(RunSettings, Waiting<Claim>)> = Vec::new();
        let mut of_runs = Vec::new();
        for waiting in home {
            of_runs.extend(waiting.run.map(|run| (run, waiting.id.queue_id)));
            let run = waiting.run.and_then(|run| self.runs.get_mut(run));
            let settings = run.map(|run| run.run.settings.clone()).unwrap_or_default();
            if attempt::judges_each(&self.house, &settings, self.interval) {
                judged.push((settings, waiting));
            } else {
                self.closed.push(waiting);
            }
        }
        if let Some(report) = unreachable.filter(|_| !judged.is_empty()) {
            let (house, interval) = (self.house.clone(), self.interval);
            self.errands.spawn(attempt::judge_unreachable(house, judged, report, interval));
        }
        // Only now, as the last one ends its run.
        for (run, message) in of_runs {
            self.runs.job_ended(run, message, None);
        }
    }

    /// Reports of ours; what was judged for them may be due at another time.
    fn accepted(&mut self, reports: Vec<Accepted>) {
        for report in reports {
            self.fresh(report, None);
        }
        self.agenda_after(AGENDA_SOON);
    }

    fn errand_done(&mut self, done: Result<Errand, tokio::task::JoinError>) {
        match done {
            Ok(Errand::Accepted(accepted)) => self.accepted(accepted),
            Ok(Errand::AgendaMoved) => self.agenda_after(AGENDA_SOON),
            Ok(Errand::AgendaEarly) => self.agenda_after(SETTLE_SOON),
            Ok(Errand::Done) => {}
            Ok(Errand::Judged { destination, accepted, next }) => {
                self.deadlines.looked_at(destination, next);
                self.accepted(accepted);
            }
            Ok(Errand::Reported { id, accepted, next }) => {
                if let Some(due) = next {
                    self.reports.note(due, id);
                }
                self.accepted(accepted);
            }
            Ok(Errand::Failed(error)) => {
                self.house.maillog.warning(None, &format!("queue: {error}; trying again"));
                self.incoming_after(STORE_PAUSE);
                self.agenda_after(STORE_PAUSE);
            }
            Err(error) => {
                self.house
                    .maillog
                    .warning(None, &format!("queue errand ended unexpectedly: {error}"));
                self.incoming_after(STORE_PAUSE);
            }
        }
    }
}

/// How large the window may be under this configuration.
fn limits(config: &Config) -> Limits {
    Limits {
        jobs: config.active_jobs_max,
        octets: config.active_octets_max,
        running: config.concurrency_max,
        running_per_destination: config.destination_concurrency_max,
    }
}

/// Resolves when it is time to stop, or nobody is left to say so.
async fn time_to_stop(stop: &mut watch::Receiver<bool>) {
    // Its value is known: true.
    drop(stop.wait_for(|stop| *stop).await);
}

#[cfg(test)]
mod tests;
