//! Where the window is filled from: INCOMING in order of arrival, READY by the AGENDA, and explicit runs. Each has a cursor that
//! every turn moves on; what finds no room is found again in the store.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{HeldBack, Incoming, Initiative, LOAD_PAUSE, NEVER, REST_MAX, Runner};
use crate::mail::job::{Destination, Entry, EntryJob, JobId};
use crate::mail::time::Timestamp;
use crate::queue::order::Rank;
use crate::queue::run::Progress;
use crate::queue::runs::{ActiveRun, Choice};
use crate::queue::schedule::{Offer, RunId, Waiting};
use crate::store::{Claim, FARTHEST, Found, StoreError};

/// AGENDA rows read at once: destinations, not messages.
const AGENDA_PAGE: usize = 10_000;
/// READY rows read at once for one destination.
const READY_PAGE: usize = 128;
/// Lanes fed in one turn of the loop.
const LANES_FED: usize = 64;
/// Messages looked at in one slice of a run or of INCOMING: a few milliseconds of reading. Fewer when there is room for fewer, so that no
/// slice is read for each place that gets free.
const SLICE: usize = 500;
const SLICE_MIN: usize = 16;
/// Jobs of a long list that a run looks at in one turn: up to a thousand recipients each.
const LIST_JOBS: usize = 8;

/// What became of a stored job that was offered to the window.
enum Offered {
    /// It is in the window now.
    Taken,
    /// It is in the window already, or somebody else has claimed it.
    Busy,
    /// The window does not want it now.
    Refused(Offer, Box<Waiting<Claim>>),
}

impl Runner {
    /// Brings into the window what is due and has room. Returns how long there is nothing to do.
    pub(super) fn feed(&mut self) -> Result<Duration, StoreError> {
        let now = self.now();
        let rests = self.rests();
        if self.schedule.takes_incoming() {
            self.read_incoming_again();
        }
        if self.initiative == Initiative::Due && !rests {
            self.begin_queue_run();
            self.read_incoming()?;
            self.read_agenda(now)?;
            self.read_ready(now)?;
        }
        for id in self.runs.unfinished() {
            self.advance_run(id)?;
        }
        let judging = self.judge(now)?;
        if rests {
            return Ok(LOAD_PAUSE.min(judging));
        }
        // Each of these has a cursor that every turn moves on, so a loop without rest ends.
        let more = matches!(self.incoming, Incoming::Reading { .. })
            || self.schedule.is_hungry()
            || self.runs.goes_on(|destination| self.schedule.has_room_for(destination));
        if more && self.schedule.has_room() {
            return Ok(Duration::ZERO);
        }
        if self.initiative == Initiative::Asked {
            // Nothing is read by itself: the times below never come.
            return Ok(judging);
        }
        let mut next = self.agenda_at;
        if let Incoming::From(instant) = self.incoming
            && self.schedule.has_room()
        {
            next = next.min(instant);
        }
        Ok(next.saturating_duration_since(Instant::now()).min(judging))
    }

    /// DeliveryMode q and d: at its time the whole store is looked at, new mail and what is due.
    fn begin_queue_run(&mut self) {
        let now = Instant::now();
        if self.queue_run_at.is_some_and(|at| at <= now) {
            self.incoming = Incoming::From(now);
            self.agenda_at = now;
            // Without an interval nothing but explicit runs follows.
            self.queue_run_at = Some(now + self.interval.unwrap_or(NEVER));
        }
        if self.held_back.run_at.is_some_and(|at| at <= now) {
            self.incoming = Incoming::From(now);
            self.agenda_at = now;
            let run_at = Some(now + self.interval.unwrap_or(NEVER));
            self.held_back = HeldBack { run_at, incoming: true, agenda: true };
        }
    }

    fn read_incoming(&mut self) -> Result<(), StoreError> {
        let (after, again) = match self.incoming {
            Incoming::From(instant) if instant <= Instant::now() => (None, false),
            Incoming::Reading { after, again } => (Some(after), again),
            Incoming::Read | Incoming::From(_) => return Ok(()),
        };
        if !self.schedule.has_room() {
            return Ok(());
        }
        let jobs = self.house.store.incoming(after, self.slice())?;
        if jobs.is_empty() {
            self.held_back.incoming = false;
            let kept = std::mem::take(&mut self.load_keeps);
            self.incoming = match (again, kept) {
                (true, _) => Incoming::From(Instant::now()),
                (false, true) => Incoming::From(Instant::now() + LOAD_PAUSE),
                (false, false) => Incoming::Read,
            };
        }
        let load = self.load();
        for job in &jobs {
            if !self.held_back.incoming
                && self.house.config.is_held_for_runs(job.destination.mailer)
            {
                self.incoming = Incoming::Reading { after: job.id.queue_id, again };
                continue;
            }
            if self.house.config.waits_for_load(job.envelope.priority, load) {
                self.load_keeps = true;
                self.incoming = Incoming::Reading { after: job.id.queue_id, again };
                continue;
            }
            let rank = self.ranking.of_job(job, self.house.config.priority.retry);
            match self.offer_stored(&job.destination, job.id, Found::Incoming, None, rank)? {
                Offered::Refused(Offer::Full, _) => return Ok(()),
                // Others stand behind it; it is read again when its lane takes more.
                Offered::Refused(Offer::Crowded, _) => {}
                Offered::Refused(_, waiting) => self.closed.push(*waiting),
                Offered::Taken | Offered::Busy => {}
            }
            self.incoming = Incoming::Reading { after: job.id.queue_id, again };
        }
        Ok(())
    }

    /// Opens the lanes of destinations whose time has come.
    fn read_agenda(&mut self, now: Timestamp) -> Result<(), StoreError> {
        if self.agenda_at > Instant::now() {
            return Ok(());
        }
        let (due, next) = self.house.store.agenda(now, self.far(), AGENDA_PAGE)?;
        let takes_all = std::mem::take(&mut self.held_back.agenda);
        for (_, destination) in due {
            // What is held back is read once in a run, also when new mail for the same destination is under way.
            let is_read = match self.house.config.is_held_for_runs(destination.mailer) {
                true => !takes_all,
                false => self.schedule.works_on(&destination),
            };
            if is_read {
                // Its page of READY is in hand; what came behind that is looked for when it is done.
                if self.schedule.works_on(&destination) {
                    self.passed_over.insert(Arc::new(destination));
                }
                continue;
            }
            self.open_lane(&destination)?;
            if self.schedule.expect_backlog(&destination, now) {
                continue;
            }
            match self.remembered(&destination, now)? {
                // Closed by the store's word too: the key is early.
                (Some(_), _) => drop(self.idle.insert(Arc::new(destination))),
                // The store's word has the last say, or the two would wait for each other: the row may be a new one.
                (None, failed_at) => {
                    self.schedule.open_lane(destination.clone(), None, failed_at);
                    self.schedule.expect_backlog(&destination, now);
                }
            }
        }
        let wait = next.map_or(REST_MAX, |next| next.since(now).min(REST_MAX));
        self.agenda_at = self.queue_run_at.unwrap_or_else(|| Instant::now() + wait);
        Ok(())
    }

    /// Reads on in READY for the lanes that are running out of backlog.
    fn read_ready(&mut self, now: Timestamp) -> Result<(), StoreError> {
        if !self.schedule.has_room() {
            return Ok(());
        }
        for (destination, after) in self.schedule.hungry(LANES_FED) {
            let (rows, _) =
                self.house.store.ready(&destination, now, self.far(), after, READY_PAGE)?;
            let mut read = after;
            let mut more = rows.len() == READY_PAGE;
            for row in rows {
                let rank = self.rank_of(row.1);
                let found = Found::Ready(&destination, row.0);
                let offered = self.offer_stored(&destination, row.1, found, None, rank)?;
                if let Offered::Refused(Offer::Full | Offer::Crowded, _) = offered {
                    more = true;
                    break;
                }
                read = Some(row);
            }
            self.schedule.fed(&destination, read, more);
            self.advance_agenda_if_idle(&destination);
        }
        Ok(())
    }

    /// Nothing of this destination's backlog is in memory: its AGENDA key moves to its next due job.
    pub(super) fn advance_agenda_if_idle(&mut self, destination: &Arc<Destination>) {
        if !self.schedule.works_on(destination) {
            self.idle.insert(destination.clone());
            if self.passed_over.remove(destination) {
                self.agenda_after(Duration::ZERO);
            }
        }
    }

    fn slice(&self) -> usize {
        self.schedule.room().clamp(SLICE_MIN, SLICE)
    }

    /// The next slice of an explicit run.
    fn advance_run(&mut self, id: RunId) -> Result<(), StoreError> {
        if !self.schedule.has_room() {
            return Ok(());
        }
        let Some(mut run) = self.runs.take(id) else { return Ok(()) };
        let result = match &run.waits_for {
            Some(destination) if !self.schedule.has_room_for(destination) => Ok(()),
            _ => self.advance(&mut run, id),
        };
        self.runs.put_back(id, run);
        result
    }

    fn advance(&mut self, run: &mut ActiveRun, id: RunId) -> Result<(), StoreError> {
        run.waits_for = None;
        if self.resting {
            for listener in &run.listeners {
                let text = "Skipping queue run -- load average too high".to_owned();
                // Whoever is slow to read misses a line.
                let _ = listener.try_send(Progress::Line(text));
            }
            run.exhausted = true;
            return Ok(());
        }
        if let Choice::Found(_) = run.choice {
            return self.offer_found(run, id);
        }
        // In the middle of a list it alone is gone on with.
        let slice = if run.in_list.is_some() { 1 } else { self.slice() };
        let entries = self.house.store.list(run.cursor, slice)?;
        let at_end = entries.len() < slice;
        for entry in entries {
            if entry.held.is_none() && !self.offer_message(run, id, &entry)? {
                // The cursor stays before this message; its jobs that were taken are busy or tried by then.
                return Ok(());
            }
            run.cursor = Some(entry.id);
            run.in_list = None;
        }
        if at_end {
            run.read_to_end();
        }
        Ok(())
    }

    /// Offers a slice of the messages that were chosen.
    fn offer_found(&mut self, run: &mut ActiveRun, id: RunId) -> Result<(), StoreError> {
        for _ in 0..self.slice() {
            let Choice::Found(found) = &run.choice else { return Ok(()) };
            let Some(first) = found.front().copied() else {
                run.exhausted = true;
                return Ok(());
            };
            // Gone or held meanwhile: then there is nothing to try.
            if let Some(entry) = self.house.store.entry(first)?.filter(|e| e.held.is_none())
                && !self.offer_message(run, id, &entry)?
            {
                return Ok(());
            }
            run.in_list = None;
            if let Choice::Found(found) = &mut run.choice {
                found.pop_front();
            }
        }
        Ok(())
    }

    /// Offers the jobs of one message that the run is about, or takes it into account for the choice. False when it is to be gone on
    /// with: the window has no room, or the list is long.
    fn offer_message(
        &mut self,
        run: &mut ActiveRun,
        id: RunId,
        entry: &Entry,
    ) -> Result<bool, StoreError> {
        if !entry.jobs.is_empty() || entry.recipients_total == 0 {
            return match run.selects(entry) {
                true => self.offer_jobs(run, id, entry, &entry.jobs),
                false => Ok(true),
            };
        }
        let after = run.in_list.filter(|(of, _)| *of == entry.id).map(|(_, number)| number);
        let page = self.house.store.jobs(entry.id, after, LIST_JOBS)?;
        let Some(last) = page.last().map(|job| job.number) else { return Ok(true) };
        let selected: Vec<EntryJob> =
            page.into_iter().filter(|job| run.selects_job(entry, job)).collect();
        if self.offer_jobs(run, id, entry, &selected)? {
            run.in_list = Some((entry.id, last));
            // One job of it is enough to choose it.
            return Ok(run.considered == Some(entry.id));
        }
        Ok(false)
    }

    /// Offers those of these jobs of one message that are ready; false when there is no room for one of them.
    fn offer_jobs(
        &mut self,
        run: &mut ActiveRun,
        id: RunId,
        entry: &Entry,
        jobs: &[EntryJob],
    ) -> Result<bool, StoreError> {
        let failed_at = |destination: &Destination| self.schedule.failed_at(destination);
        let ready = run.ready_jobs(&self.house.config, self.load(), entry, jobs, failed_at);
        match (&mut run.choice, ready.first()) {
            (Choice::Looking(best), Some((rank, _))) => {
                best.consider(rank.clone(), entry.id);
                run.considered = Some(entry.id);
                return Ok(true);
            }
            (Choice::Counting(count), Some(_)) => {
                *count += 1;
                run.considered = Some(entry.id);
                return Ok(true);
            }
            (_, None) => return Ok(true),
            (Choice::All | Choice::Found(_), Some(_)) => {}
        }
        for (rank, job) in ready {
            let job_id = JobId { queue_id: entry.id, number: job.number };
            match self.offer_stored(&job.destination, job_id, Found::Anywhere, Some(id), rank)? {
                Offered::Refused(Offer::Full, _) => return Ok(false),
                Offered::Refused(Offer::Crowded, _) => {
                    run.waits_for = Some(job.destination.clone());
                    return Ok(false);
                }
                Offered::Refused(..) | Offered::Busy => {}
                Offered::Taken => run.outstanding += 1,
            }
        }
        Ok(true)
    }

    /// The rank of a stored job. What cannot be read is ranked as equal to its like, and its attempt says so.
    fn rank_of(&self, id: JobId) -> Rank {
        if self.ranking.reads()
            && let Ok(Some(job)) = self.house.store.job(id)
        {
            return self.ranking.of_job(&job, self.house.config.priority.retry);
        }
        self.ranking.unread(id.queue_id)
    }

    /// Claims a stored job and offers it.
    fn offer_stored(
        &mut self,
        destination: &Destination,
        id: JobId,
        found: Found<'_>,
        run: Option<RunId>,
        rank: Rank,
    ) -> Result<Offered, StoreError> {
        if self.schedule.knows(id) {
            return Ok(Offered::Busy);
        }
        let Some(claim) = self.house.store.claim_found(id, found)? else {
            return Ok(Offered::Busy);
        };
        self.open_lane(destination)?;
        let waiting = Waiting { id, job: None, bytes: None, run, rank, hold: claim };
        Ok(match self.schedule.offer_backlog(destination, waiting, self.now()) {
            Ok(()) => Offered::Taken,
            Err((offer, waiting)) => Offered::Refused(offer, Box::new(waiting)),
        })
    }

    /// A lane for the destination, closed if the store remembers trouble.
    pub(super) fn open_lane(&mut self, destination: &Destination) -> Result<(), StoreError> {
        if self.schedule.has_lane(destination) {
            return Ok(());
        }
        let (closed_until, failed_at) = self.remembered(destination, self.now())?;
        self.schedule.open_lane(destination.clone(), closed_until, failed_at);
        Ok(())
    }

    /// Until when the store says that the destination is down, and when it was last found so. A time absurdly far ahead is
    /// not believed.
    fn remembered(
        &self,
        destination: &Destination,
        now: Timestamp,
    ) -> Result<(Option<Timestamp>, Option<Timestamp>), StoreError> {
        let Some(state) = self.house.store.destination(destination)? else {
            return Ok((None, None));
        };
        let believed = now..now.after(FARTHEST);
        let closed = Some(state.not_before).filter(|time| *time > now && believed.contains(time));
        Ok((closed, state.last.map(|report| report.at)))
    }
}
