//! Settle: what an attempt met becomes the state of the store, all of it in one batch.
//!
//! The verdict is asked for by `decide`, with the whole message before its eyes. It is asked in the writer's thread, on the state at
//! the place of the batch in its group, so nothing can come in between and what a peer said is never dropped. Before that it is asked
//! once on the caller's thread, on the last committed state, to learn whether somebody has to wait:
//!
//! - *no report*: the batch is lazy; the caller has his answer at once, the keeper waits for the disk, and the job stays
//!   claimed until then. The writer bounds how many there are (`max_unsettled`).
//! - *a report*, or another settle of the same message not yet durable (together they may close it, and the second one owes the
//!   report): the batch is acknowledged.
//!
//! What a peer said is recorded although the message cannot be read for a report on it: `decide` then leaves the recipients unreported,
//! and somebody settles one of the closed jobs later ([`Store::job_or_owed`]), which makes the report.
//!
//! The cheapest case is the most frequent one: a message of INCOMING that is done at its first attempt. Its batch deletes two rows.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::body::Staging;
use super::claims::Settling;
use super::delivery::{job_of, set_states};
use super::edit::{Edit, counter, load};
use super::engine::{Batch, Read};
use super::jobs::{Others, is_finished, others, put_job, replace, report};
use super::keeper::{Errand, Unsettled};
use super::message::{Body, Incoming, Message, Shape, is_open, unreported_since};
use super::park::{self, Opened};
use super::report::NewReport;
use super::schema::*;
use super::slot::Slot;
use super::statistics;
use super::writer::{Class, Unit};
use super::{Core, Decide, Settled, Store, StoreError};
use crate::mail::job::{EntryJob, Job, JobId};
use crate::mail::queue_id::QueueId;
use crate::mail::verdict::{MessageState, OriginalError, Verdict};

/// How long a settle waits before it tries a full disk again.
const PAUSE: Duration = Duration::from_secs(1);

/// What a settle did.
struct Done {
    finished: bool,
    /// Reports that are messages now.
    reports: Vec<NewReport>,
    /// Octets of INCOMING bodies it freed.
    freed: u64,
    /// The generation whose last message it took.
    emptied: Option<u32>,
    /// It is a long list with work to do.
    unfolds: Option<QueueId>,
    /// It reported for others only; the job itself is still to be settled.
    more: bool,
}

impl Done {
    fn nothing() -> Done {
        Done {
            finished: false,
            reports: Vec::new(),
            freed: 0,
            emptied: None,
            unfolds: None,
            more: false,
        }
    }
}

/// What the writer's thread runs, maybe more than once.
type Work = dyn FnMut(&dyn Read) -> Result<(Batch, Done), StoreError> + Send;

impl Store {
    /// Applies the verdict on a job in one batch, reports included. Durable on return when the verdict carries a report;
    /// else it returns at once and is durable within 100 ms, and the job is claimed until then. The outcome is not lost to a full
    /// disk: it waits and tries again. When the job is the last one open and more recipients of others are unreported than one
    /// report covers, `decide` is first asked with a job without recipients, for reports on those, in batches of their own.
    ///
    /// # Errors
    /// Of `decide`; `Damaged`, `Unavailable`, `Closing`.
    pub async fn settle(&self, job: &Job, mut decide: Decide) -> Result<Settled, StoreError> {
        let core = self.core();
        let settling = core.claims.settle(job.id);
        let forecast = core.forecast(job, &mut decide)?;
        let staging = match forecast {
            Forecast { leaves_incoming: true, .. } => core.stage_at_last(job.id.queue_id).await?,
            _ => None,
        };
        let body = staging.as_ref().map(park::body_of);
        let work = core.settle_work(job.clone(), body, forecast.fast, decide);
        if forecast.reports || settling.beside_another {
            return core.settle_acknowledged(job.id, work).await;
        }
        core.settle_lazily(settling, work, staging).await?;
        Ok(Settled { accepted: Vec::new(), finished: forecast.finished })
    }
}

/// What the verdict will be, if nothing comes in between.
struct Forecast {
    reports: bool,
    finished: bool,
    /// A message of INCOMING that stays: its body has to go to a generation first.
    leaves_incoming: bool,
    /// A message of INCOMING that is finished: this is its verdict.
    fast: Option<Arc<Mutex<Verdict>>>,
}

impl Core {
    fn forecast(&self, job: &Job, decide: &mut Decide) -> Result<Forecast, StoreError> {
        let snapshot = self.writer.snapshot()?;
        // A checkpoint or an operator may have moved it since the job was read.
        if snapshot.get(&INCOMING.key(job.id.queue_id))?.is_some() {
            return self.forecast_incoming(&*snapshot, job, decide);
        }
        let mut edit = Edit::on(&*snapshot);
        let Some(opened) = park::open(&mut edit, job.id.queue_id, None)? else {
            return Ok(Forecast {
                reports: false,
                finished: true,
                leaves_incoming: false,
                fast: None,
            });
        };
        let Some(entry_job) = job_of(&*snapshot, job.id, &opened.message)? else {
            return Ok(Forecast {
                reports: false,
                finished: false,
                leaves_incoming: false,
                fast: None,
            });
        };
        let id = job.id.queue_id;
        let others = others(&*snapshot, id, &opened.message, &entry_job, self.now())?;
        let mut verdict = self.ask(&*snapshot, id, &opened, &entry_job, &others, decide)?;
        let reports = !verdict.reports.is_empty();
        // Their queue IDs are not given out for a forecast.
        verdict.reports.clear();
        let done = self.carry_out(edit, id, opened, entry_job, verdict)?.1;
        Ok(Forecast { reports, finished: done.finished, leaves_incoming: false, fast: None })
    }

    /// A message of INCOMING is its job: its row need not be decoded.
    fn forecast_incoming(
        &self,
        read: &dyn Read,
        job: &Job,
        decide: &mut Decide,
    ) -> Result<Forecast, StoreError> {
        let recipients = job.recipients.iter().map(|(_, recipient)| recipient.clone()).collect();
        let entry_job = EntryJob {
            number: 0,
            destination: job.destination.clone(),
            due: job.envelope.arrival,
            attempts: job.attempts,
            last_attempt: job.last_attempt,
            status: None,
            recipients,
        };
        let id = job.id.queue_id;
        let original = |limit: usize| match park::incoming_body(read, id, limit) {
            Ok(body) => Ok(body.unwrap_or_default()),
            Err(error) => Err(OriginalError::new(error)),
        };
        let verdict = decide(&MessageState {
            id,
            envelope: &job.envelope,
            job: &entry_job,
            others_open: false,
            unreported: Vec::new(),
            unreported_since: None,
            warned: false,
            original: &original,
        })?;
        let mut after = entry_job;
        set_states(&mut after, &verdict.recipients);
        let finished = verdict.replacements.is_empty()
            && !is_open(&after)
            && unreported_since(&after).is_none();
        let reports = !verdict.reports.is_empty();
        let fast = finished.then(|| Arc::new(Mutex::new(verdict)));
        Ok(Forecast { reports, finished, leaves_incoming: !finished, fast })
    }

    /// As [`Core::stage_one`], however long the disk is full: what a peer said of some recipients cannot be kept in INCOMING, and is
    /// not dropped. Whoever waits holds one job, so there are as many as attempts.
    async fn stage_at_last(&self, id: QueueId) -> Result<Option<Staging>, StoreError> {
        loop {
            match self.stage_one(id).await {
                Err(StoreError::Full | StoreError::Busy) => tokio::time::sleep(PAUSE).await,
                Err(StoreError::Unavailable(_)) if !self.writer.has_given_up() => {
                    tokio::time::sleep(PAUSE).await;
                }
                staged => return staged,
            }
        }
    }

    fn settle_work(
        self: &Arc<Self>,
        job: Job,
        body: Option<Body>,
        fast: Option<Arc<Mutex<Verdict>>>,
        mut decide: Decide,
    ) -> Arc<Mutex<Work>> {
        let core = Arc::clone(self);
        Arc::new(Mutex::new(move |read: &dyn Read| {
            let (mut batch, done) = match &fast {
                Some(verdict) if read.get(&INCOMING.key(job.id.queue_id))?.is_some() => {
                    let verdict = verdict.lock().unwrap_or_else(PoisonError::into_inner);
                    core.finish_incoming(read, &job, &verdict)?
                }
                Some(_) | None => core.settle_in(read, job.id, body, &mut decide)?,
            };
            if core.claims.is_marked(job.id) {
                batch.deletes.push(INFLIGHT.key(job.id));
            }
            Ok((batch, done))
        }))
    }

    async fn settle_acknowledged(
        &self,
        id: JobId,
        work: Arc<Mutex<Work>>,
    ) -> Result<Settled, StoreError> {
        let mut settled = Settled { accepted: Vec::new(), finished: false };
        loop {
            let slot = Slot::new();
            let unit = unit(&slot, &work);
            let done = match slot.take(self.writer.submit(Class::Acknowledged, unit).await) {
                Err(StoreError::Full | StoreError::Busy) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                done => done?,
            };
            self.attempt_ended(id);
            for errand in self.book(&done) {
                self.leave(errand);
            }
            settled.finished = done.finished;
            settled.accepted.extend(done.reports.into_iter().map(NewReport::accepted));
            if !done.more {
                return Ok(settled);
            }
        }
    }

    async fn settle_lazily(
        self: &Arc<Self>,
        settling: Settling,
        work: Arc<Mutex<Work>>,
        staging: Option<Staging>,
    ) -> Result<(), StoreError> {
        let slot = Slot::new();
        let pending = self.writer.begin(Class::Lazy, unit(&slot, &work)).await?;
        let again = {
            let slot = slot.clone();
            Box::new(move || unit(&slot, &work))
        };
        let core = Arc::clone(self);
        let id = settling.id();
        let after = Box::new(move || {
            let Ok(done) = slot.take(Ok(super::engine::Applied::Committed)) else {
                return (Vec::new(), false);
            };
            core.attempt_ended(id);
            let mut errands = core.book(&done);
            let reports: Vec<QueueId> = done.reports.iter().map(|report| report.id).collect();
            if !reports.is_empty() {
                // Nobody waits for them, so they go where the scheduler looks.
                errands.push(Errand::Reports(reports));
            }
            (errands, done.more)
        });
        self.leave(Errand::Settle(Box::new(Unsettled {
            settling,
            _staging: staging,
            pending,
            again,
            after,
        })));
        Ok(())
    }

    /// Keeps the room in INCOMING in step with what a settle did, and says what is left to do.
    fn book(&self, done: &Done) -> Vec<Errand> {
        self.give_incoming(done.freed);
        for report in &done.reports {
            // Reports may pass the bound: they are few, and refusing one would be losing it.
            self.force_incoming(report.bytes.len() as u64);
        }
        let emptied = done.emptied.map(Errand::Generation);
        emptied.into_iter().chain(done.unfolds.map(Errand::List)).collect()
    }

    /// The fast path: two rows, and counts.
    fn finish_incoming(
        &self,
        read: &dyn Read,
        job: &Job,
        verdict: &Verdict,
    ) -> Result<(Batch, Done), StoreError> {
        let mut edit = Edit::on(read);
        let id = job.id.queue_id;
        // An operator may have held it meanwhile; only if there is any such row this one has to be read.
        let some_held = counter(read, &COUNT.key(COUNT_INCOMING_HELD))? != 0;
        let row = if some_held { load::<_, Incoming, _>(read, &INCOMING, id)? } else { None };
        let is_held = row.is_some_and(|(incoming, _)| incoming.held.is_some());
        edit.delete_incoming(id, &job.envelope, is_held);
        edit.count_all(statistics::delivered(
            &job.envelope,
            job.destination.mailer,
            &verdict.recipients,
        ));
        let reports = self.put_reports(&mut edit, &verdict.reports)?;
        let freed = job.envelope.size;
        let done =
            Done { finished: true, reports, freed, emptied: None, unfolds: None, more: false };
        Ok((edit.finish()?, done))
    }

    fn settle_in(
        &self,
        read: &dyn Read,
        id: JobId,
        body: Option<Body>,
        decide: &mut Decide,
    ) -> Result<(Batch, Done), StoreError> {
        let mut edit = Edit::on(read);
        let Some(opened) = park::open(&mut edit, id.queue_id, body)? else {
            return Ok((Batch::default(), Done { finished: true, ..Done::nothing() }));
        };
        let Some(job) = job_of(read, id, &opened.message)? else {
            return Ok((Batch::default(), Done::nothing()));
        };
        let others = others(read, id.queue_id, &opened.message, &job, self.now())?;
        if !others.open && others.more {
            let none = job_without_recipients(&job);
            let verdict = self.ask(read, id.queue_id, &opened, &none, &others, decide)?;
            if !verdict.reported.is_empty() {
                let (edit, mut done) = self.carry_out(edit, id.queue_id, opened, none, verdict)?;
                done.more = true;
                return Ok((edit.finish()?, done));
            }
        }
        let verdict = self.ask(read, id.queue_id, &opened, &job, &others, decide)?;
        let (edit, done) = self.carry_out(edit, id.queue_id, opened, job, verdict)?;
        Ok((edit.finish()?, done))
    }

    /// Asks for the verdict on a job, with the message as it is in `read`.
    fn ask(
        &self,
        read: &dyn Read,
        id: QueueId,
        opened: &Opened,
        job: &EntryJob,
        others: &Others,
        decide: &mut Decide,
    ) -> Result<Verdict, StoreError> {
        let Opened { message, moved } = opened;
        let read_original = |limit: usize| -> Result<Vec<u8>, StoreError> {
            if *moved {
                return Ok(park::incoming_body(read, id, limit)?.unwrap_or_default());
            }
            let Body { generation, key } = message.body;
            self.original(generation, key.unwrap_or(id), limit)
        };
        let original = |limit: usize| read_original(limit).map_err(OriginalError::new);
        decide(&MessageState {
            id,
            envelope: &message.envelope,
            job,
            others_open: others.open,
            unreported_since: others.since,
            unreported: others.unreported.clone(),
            warned: message.warned,
            original: &original,
        })
    }

    /// Applies a verdict to the tables.
    fn carry_out<'a>(
        &self,
        mut edit: Edit<'a>,
        id: QueueId,
        opened: Opened,
        mut job: EntryJob,
        verdict: Verdict,
    ) -> Result<(Edit<'a>, Done), StoreError> {
        let Opened { mut message, moved } = opened;
        if job.recipients.is_empty() {
            report(&mut edit, id, &mut message, verdict.reported.into_iter())?;
            park::put(&mut edit, id, &message, false);
            let reports = self.put_reports(&mut edit, &verdict.reports)?;
            return Ok((edit, Done { reports, ..Done::nothing() }));
        }
        let job_id = JobId { queue_id: id, number: job.number };
        let is_held = message.held.is_some();
        let now = self.now();
        if !moved && is_open(&job) {
            // Also when it is held: a list may not have been swept yet.
            edit.unready(job_id, message.term(), &job);
        }
        if verdict.warned && !message.warned {
            warned(&mut edit, id, &mut message, job.number);
        }
        set_states(&mut job, &verdict.recipients);
        edit.count_all(statistics::delivered(
            &message.envelope,
            job.destination.mailer,
            &verdict.recipients,
        ));
        if verdict.counted {
            job.attempts = job.attempts.saturating_add(1);
            job.last_attempt = Some(now);
            job.status = verdict.status;
        } else if verdict.status.is_some() {
            job.status = verdict.status;
        }
        if is_open(&job) {
            job.due = verdict.retry_at.unwrap_or(job.due);
            if !is_held {
                edit.ready(job_id, message.term(), &job);
            }
        }
        let own = job.number;
        put_job(&mut edit, id, &mut message, job)?;
        let others = verdict.reported.into_iter().filter(|(number, _)| *number != own);
        report(&mut edit, id, &mut message, others)?;
        replace(&mut edit, id, &mut message, verdict.replacements, now)?;
        let finished = is_finished(&message);
        match (finished, moved) {
            (true, true) => {}
            (true, false) => edit.leave(id, &message),
            (false, moved) => park::put(&mut edit, id, &message, moved),
        }
        let reports = self.put_reports(&mut edit, &verdict.reports)?;
        let generation = message.body.generation;
        let done = Done {
            finished,
            more: false,
            reports,
            freed: if moved { message.envelope.size } else { 0 },
            emptied: edit.empties(generation)?.then_some(generation),
            unfolds: matches!(&message.shape, Shape::List(list) if list.unfolding).then_some(id),
        };
        Ok((edit, done))
    }
}

/// The sender is warned, so nothing but giving up is left to judge of its jobs: of a long list, those others find that out one
/// by one (I5).
fn warned(edit: &mut Edit<'_>, id: QueueId, message: &mut Message, but: u32) {
    message.warned = true;
    let term = message.term();
    if let (Shape::Inline(jobs), None) = (&message.shape, &message.held) {
        for job in jobs.iter().filter(|job| job.number != but && is_open(job)) {
            edit.judged(JobId { queue_id: id, number: job.number }, term, job);
        }
    }
}

/// The job, to be judged as if it had no recipient: for a report that covers others only.
fn job_without_recipients(job: &EntryJob) -> EntryJob {
    EntryJob { recipients: Vec::new(), ..job.clone() }
}

fn unit(slot: &Slot<Done>, work: &Arc<Mutex<Work>>) -> Unit {
    let work = Arc::clone(work);
    slot.unit(0, move |read| (work.lock().unwrap_or_else(PoisonError::into_inner))(read))
}

impl Core {
    /// Up to `limit` octets of a body in a generation, or where it was moved to since.
    fn original(
        &self,
        mut generation: u32,
        key: QueueId,
        limit: usize,
    ) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        while bytes.len() < limit {
            match self.bodies.read_blocking(generation, key, bytes.len() as u64) {
                Ok(more) if more.is_empty() => break,
                Ok(more) => bytes.extend_from_slice(&more),
                Err(error @ StoreError::Damaged { .. }) => {
                    generation = self.moved_body(generation, key)?.ok_or(error)?;
                }
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(limit);
        Ok(bytes)
    }
}
