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
//! The cheapest case is the most frequent one: a message of INCOMING that is done at its first attempt. Its batch deletes two rows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::claims::Settling;
use super::delivery::{job_of, set_states};
use super::edit::{Edit, counter, load, parse};
use super::engine::{Batch, Read};
use super::keeper::{Errand, Unsettled};
use super::list::stage_more;
use super::message::{
    Body, INLINE_RECIPIENTS_MAX, Incoming, List, Message, Shape, is_open, unreported,
    unreported_since,
};
use super::park::{self, Opened};
use super::schema::*;
use super::slot::Slot;
use super::statistics;
use super::writer::{Class, Unit};
use super::{Accepted, Claim, Core, Decide, Settled, Store, StoreError};
use crate::mail::address::ReversePath;
use crate::mail::envelope::{BodyType, Envelope, Notify, Recipient, RecipientState, TimeoutClass};
use crate::mail::job::{Destination, EntryJob, Job, JobId, Mailer};
use crate::mail::outcome::ReportMessage;
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;
use crate::mail::verdict::{MessageState, OriginalError, Verdict};

/// Recipients outside the job that one report covers.
const UNREPORTED_MAX: usize = 1000;
/// Age of the first unreported failure from which a settle of a long list looks for the others. A report is due
/// after five minutes; looking at every settle would read a thousand records each time.
const REPORT_NEAR: Duration = Duration::from_secs(4 * 60);
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

struct NewReport {
    id: QueueId,
    /// None when it is held.
    jobs: Vec<(Job, Claim)>,
    bytes: Vec<u8>,
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
            Forecast { leaves_incoming: true, .. } => core.stage_one(job.id.queue_id).await?,
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
        staging: Option<super::body::Staging>,
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
            edit.unready(job_id, &job);
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
                edit.ready(job_id, &job);
            }
        }
        let own = job.number;
        put_job(&mut edit, id, &mut message, job)?;
        let others = verdict.reported.into_iter().filter(|(number, _)| *number != own);
        report(&mut edit, id, &mut message, others)?;
        replace(&mut edit, id, &mut message, verdict.replacements, now)?;
        if verdict.warned && !message.warned {
            if !moved {
                edit.leave_schedule(id, &message);
            }
            message.warned = true;
            if !moved {
                edit.enter_schedule(id, &message);
            }
        }
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

    /// Puts reports as messages of INCOMING: in the batch of the settle, whatever room there is.
    fn put_reports(
        &self,
        edit: &mut Edit<'_>,
        reports: &[(ReportMessage, Result<Destination, String>)],
    ) -> Result<Vec<NewReport>, StoreError> {
        let mut new = Vec::new();
        for (report, destination) in reports {
            let now = self.now();
            let id = self.ids.next_in(edit, now)?;
            let bytes = report.named(id);
            let incoming = report_message(report, &bytes, destination, now);
            edit.check(super::engine::Check::Absent(INCOMING.key(id)));
            edit.put_incoming(id, &incoming, &bytes);
            // A report is from us; when it is held, that is for want of a way.
            edit.count_all(statistics::accepted(&incoming.envelope, false));
            let jobs = match incoming.held {
                Some(_) => Vec::new(),
                None => self.claims.claim_new(vec![incoming.job(id)]),
            };
            new.push(NewReport { id, jobs, bytes });
        }
        Ok(new)
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

impl NewReport {
    fn accepted(self) -> Accepted {
        Accepted { id: self.id, jobs: self.jobs, bytes: Some(self.bytes.into()) }
    }
}

/// A report as a message: from nobody, to one, with the timeouts of reports. `bytes` have its name.
fn report_message(
    report: &ReportMessage,
    bytes: &[u8],
    destination: &Result<Destination, String>,
    now: Timestamp,
) -> Incoming {
    let size = bytes.len() as u64;
    let header_len = usize::try_from(report.header_len).unwrap_or(usize::MAX);
    let (header, body) = bytes.split_at(header_len.min(bytes.len()));
    let body_type = if bytes.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime };
    let envelope = Envelope {
        reverse_path: ReversePath::Null,
        arrival: now,
        relay: String::new(),
        protocol: String::new(),
        body_type,
        smtputf8: report.to.is_utf8() || !header.is_ascii(),
        ret: None,
        envid: None,
        timeouts: TimeoutClass::Dsn,
        precedence: 0,
        priority: i64::try_from(size).unwrap_or(i64::MAX),
        message_id: message_id(header),
        header_len: report.header_len,
        size,
        body_lines: memchr::memchr_iter(b'\n', body).count() as u64,
        relay_override: None,
    };
    let recipient = Recipient {
        address: report.to.clone(),
        orcpt: None,
        notify: Notify::Unspecified,
        state: RecipientState::Open(None),
    };
    // Where a held one goes is found out when it is released: its destination here is only a hint.
    let hint = || Destination {
        mailer: Mailer::Esmtp,
        next_hop: report.to.domain_key().unwrap_or_default(),
    };
    Incoming {
        envelope,
        destination: destination.clone().unwrap_or_else(|_| hint()),
        held: destination.as_ref().err().cloned(),
        recipients: vec![recipient],
    }
}

/// The value of Message-Id: in a header that we wrote.
fn message_id(header: &[u8]) -> String {
    let lines = header.split(|byte| *byte == b'\n');
    let value = lines.filter_map(|line| {
        let (name, value) = line.split_at_checked(11)?;
        name.eq_ignore_ascii_case(b"message-id:").then(|| value.trim_ascii())
    });
    value.map(String::from_utf8_lossy).next().unwrap_or_default().into_owned()
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

/// The recipients outside a job, as far as a verdict on it needs them.
struct Others {
    open: bool,
    /// At most [`UNREPORTED_MAX`].
    unreported: Vec<(u32, u32, Recipient)>,
    /// There are more of them.
    more: bool,
    since: Option<Timestamp>,
}

fn others(
    read: &dyn Read,
    id: QueueId,
    message: &Message,
    job: &EntryJob,
    now: Timestamp,
) -> Result<Others, StoreError> {
    match &message.shape {
        Shape::Inline(jobs) => {
            let others = || jobs.iter().filter(|other| other.number != job.number);
            Ok(Others {
                open: others().any(is_open),
                unreported: others().flat_map(owed).collect(),
                more: false,
                since: others().filter_map(unreported_since).min(),
            })
        }
        Shape::List(list) => {
            let open = list.unfolding || list.open_jobs > u32::from(is_open(job));
            let since = list.unreported_since;
            let near = since.is_some_and(|since| now.since(since) >= REPORT_NEAR);
            let wanted = !open || near;
            let mut unreported =
                if wanted { owed_in_list(read, id, job.number)? } else { Vec::new() };
            let more = unreported.len() > UNREPORTED_MAX;
            unreported.truncate(UNREPORTED_MAX);
            Ok(Others { open, unreported, more, since })
        }
    }
}

/// The recipients of a job for whom something is owed: job number, place, recipient.
fn owed(job: &EntryJob) -> impl Iterator<Item = (u32, u32, Recipient)> {
    let number = job.number;
    (0..)
        .zip(&job.recipients)
        .filter(|(_, recipient)| unreported(&recipient.state).is_some())
        .map(move |(place, recipient)| (number, place, recipient.clone()))
}

/// Those of the jobs of a list but one, a few more than [`UNREPORTED_MAX`] at most if there are more.
fn owed_in_list(
    read: &dyn Read,
    id: QueueId,
    except: u32,
) -> Result<Vec<(u32, u32, Recipient)>, StoreError> {
    let (start, end) = UNREPORTED.under(id);
    let mut found = Vec::new();
    for key in read.keys(&start..&end, UNREPORTED_MAX + 2, false)? {
        let job_id = parse(&UNREPORTED, &key)?;
        if job_id.number == except {
            continue;
        }
        if let Some((job, _)) = load::<_, EntryJob, _>(read, &RECIPIENTS, job_id)? {
            found.extend(owed(&job));
        }
        if found.len() > UNREPORTED_MAX {
            break;
        }
    }
    Ok(found)
}

/// Puts a changed job where it stands; of a long list, keeps its sums (I6). The caller keeps READY and puts the message.
pub(super) fn put_job(
    edit: &mut Edit<'_>,
    id: QueueId,
    message: &mut Message,
    job: EntryJob,
) -> Result<(), StoreError> {
    let list = match &mut message.shape {
        Shape::Inline(jobs) => {
            if let Some(place) = jobs.iter_mut().find(|other| other.number == job.number) {
                *place = job;
            }
            return Ok(());
        }
        Shape::List(list) => list,
    };
    let job_id = JobId { queue_id: id, number: job.number };
    let was_open = load::<_, EntryJob, _>(edit.read(), &RECIPIENTS, job_id)?
        .is_some_and(|(before, _)| is_open(&before));
    put_list_job(edit, job_id, list, &job);
    list.open_jobs = list.open_jobs.saturating_sub(u32::from(was_open && !is_open(&job)));
    Ok(())
}

/// RECIPIENTS and UNREPORTED for a job of a list; gone when nothing is left to do or to say.
fn put_list_job(edit: &mut Edit<'_>, id: JobId, list: &mut List, job: &EntryJob) {
    let since = unreported_since(job);
    match since {
        Some(since) => {
            edit.mark(&UNREPORTED, id);
            let first = list.unreported_since.map_or(since, |first| first.min(since));
            list.unreported_since = Some(first);
        }
        None => edit.delete(&UNREPORTED, id),
    }
    if is_open(job) || since.is_some() {
        edit.put(&RECIPIENTS, id, job);
    } else {
        edit.delete(&RECIPIENTS, id);
    }
}

/// Marks recipients of other jobs as reported: job number and place of each.
fn report(
    edit: &mut Edit<'_>,
    id: QueueId,
    message: &mut Message,
    reported: impl Iterator<Item = (u32, u32)>,
) -> Result<(), StoreError> {
    let mut by_job: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (number, place) in reported {
        by_job.entry(number).or_default().push(place);
    }
    match &mut message.shape {
        Shape::Inline(jobs) => {
            for job in jobs {
                let places = by_job.remove(&job.number).unwrap_or_default();
                places.into_iter().for_each(|place| mark_reported(job, place));
            }
        }
        Shape::List(list) => {
            for (number, places) in by_job {
                let job_id = JobId { queue_id: id, number };
                let Some((mut job, _)) = load::<_, EntryJob, _>(edit.read(), &RECIPIENTS, job_id)?
                else {
                    continue;
                };
                places.into_iter().for_each(|place| mark_reported(&mut job, place));
                put_list_job(edit, job_id, list, &job);
            }
            if list.unreported_since.is_some() && !edit.any_left(&UNREPORTED.under(id))? {
                list.unreported_since = None;
            }
        }
    }
    Ok(())
}

fn mark_reported(job: &mut EntryJob, place: u32) {
    let Some(recipient) = job.recipients.get_mut(place as usize) else { return };
    match &mut recipient.state {
        RecipientState::Done { reported, .. } | RecipientState::Failed { reported, .. } => {
            *reported = true;
        }
        RecipientState::Open(_) => {}
    }
}

/// Adds recipients that stand in for others, as new jobs that are due at once. When they are too many for MESSAGE,
/// the message becomes a long list, and they are unfolded like one.
fn replace(
    edit: &mut Edit<'_>,
    id: QueueId,
    message: &mut Message,
    replacements: Vec<(Destination, Recipient)>,
    now: Timestamp,
) -> Result<(), StoreError> {
    if replacements.is_empty() {
        return Ok(());
    }
    let total = message.recipients_total() as usize + replacements.len();
    let is_held = message.held.is_some();
    match &mut message.shape {
        Shape::Inline(jobs) if total <= INLINE_RECIPIENTS_MAX => {
            for mut job in super::intake::into_jobs(replacements, now) {
                job.number = jobs.len() as u32;
                if !is_held {
                    edit.ready(JobId { queue_id: id, number: job.number }, &job);
                }
                jobs.push(job);
            }
        }
        Shape::Inline(jobs) => {
            let mut list = List {
                recipients: total as u32,
                jobs: jobs.len() as u32,
                open_jobs: jobs.iter().filter(|job| is_open(job)).count() as u32,
                unfolding: true,
                unreported_since: None,
                sweep: None,
            };
            for job in std::mem::take(jobs) {
                put_list_job(edit, JobId { queue_id: id, number: job.number }, &mut list, &job);
            }
            stage_more(edit, id, replacements)?;
            message.shape = Shape::List(list);
        }
        Shape::List(list) => {
            list.recipients = list.recipients.saturating_add(replacements.len() as u32);
            list.unfolding = true;
            stage_more(edit, id, replacements)?;
        }
    }
    Ok(())
}

/// Whether nothing of the message is left to do or to say (I7).
fn is_finished(message: &Message) -> bool {
    match &message.shape {
        Shape::Inline(jobs) => {
            !jobs.iter().any(|job| is_open(job) || unreported_since(job).is_some())
        }
        Shape::List(list) => {
            list.open_jobs == 0 && !list.unfolding && list.unreported_since.is_none()
        }
    }
}
