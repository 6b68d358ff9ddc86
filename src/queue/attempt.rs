//! The life of one job: load, route, attempt, decide, settle. Every step is a call into one folder.
//!
//! A refusal by the other side is an [`Outcome`] and ends in the verdict; the only errors in here are the store's, and
//! they leave the job where it is: queued. The log line is written before the settle is durable, on purpose: the log
//! tells what happened on the wire, and a crash may repeat a line but never hide one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::House;
use super::audience::Audience;
use super::deadline;
pub(super) use super::judge::{Occasion, judge};
use super::schedule::{News, Waiting};
use crate::config::{GivingUp, QueueTimeouts};
use crate::deliver::{self, Manner};
use crate::mail::address::Address;
use crate::mail::envelope::TimeoutClass;
use crate::mail::job::{Destination, Job, JobId};
use crate::mail::outcome::{Attempt, HostOutcome, Outcome, RemoteHost, Report};
use crate::mail::queue_id::QueueId;
use crate::mail::status::{EnhancedStatus, StatusClass};
use crate::mail::time::Timestamp;
use crate::maillog::{Side, verbose};
use crate::route;
use crate::settle::{self, RunSettings};
use crate::store::{Accepted, Claim, DestinationState, Far, StoreError};

/// A host that stays up, or down, is noted this often at most.
const HOST_STATUS_GRAIN: Duration = Duration::from_secs(60);

/// One attempt to make.
pub(super) struct Order {
    pub(super) id: JobId,
    pub(super) destination: Arc<Destination>,
    pub(super) job: Option<Box<Job>>,
    pub(super) bytes: Option<Arc<[u8]>>,
    pub(super) claim: Claim,
    pub(super) interval: Option<Duration>,
    pub(super) settings: RunSettings,
    /// It belongs to a run of selected messages, which tries hosts whatever their remembered status.
    pub(super) is_selected: bool,
    /// The destination failed the last time, so a success is worth noting in the store.
    pub(super) troubled: bool,
    /// Who wants to see the dialogue.
    pub(super) audience: Audience,
    /// What they see first.
    pub(super) heading: Option<String>,
}

/// What an attempt leaves for the runner.
pub(super) struct Ended {
    pub(super) news: News,
    /// Reports that are messages of their own now.
    pub(super) accepted: Vec<Accepted>,
    /// Whether the job, or what became of it, has to be found in the store again.
    pub(super) again: Again,
    /// What the first recipient that failed for good is for a shell.
    pub(super) failed: Option<u8>,
    /// Why the destination could not be reached.
    pub(super) unreachable: Option<Report>,
    /// Failures of the message stay unreported until then at the latest.
    pub(super) report_due: Option<Timestamp>,
}

/// Where an ended attempt leaves its job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Again {
    /// Gone.
    No,
    /// In the store, due now or later.
    Soon,
    /// In the store as it was, because of trouble of our own: not to be tried at once.
    Later,
}

impl Ended {
    pub(super) fn nothing() -> Ended {
        Ended {
            news: News::Nothing,
            accepted: Vec::new(),
            again: Again::No,
            failed: None,
            unreachable: None,
            report_due: None,
        }
    }
}

/// A short task of the runner that is no attempt.
pub(super) enum Errand {
    /// Reports were accepted while judging.
    Accepted(Vec<Accepted>),
    /// Jobs of a destination that failed were judged.
    Judged { destination: Arc<Destination>, accepted: Vec<Accepted>, next: deadline::Next },
    /// Failures of a message were reported, or are to be at `next`.
    Reported { id: QueueId, accepted: Vec<Accepted>, next: Option<Timestamp> },
    /// AGENDA keys were moved.
    AgendaMoved,
    /// A key is early still: a job that is due by READY has just ended, and its settle is not durable yet, or somebody else has it.
    AgendaEarly,
    /// There was nothing to do.
    Done,
    /// The store refused.
    Failed(StoreError),
}

/// Carries one job from the queue to its next state.
pub(super) async fn run_job(house: House, order: Order) -> Ended {
    let id = order.id.queue_id;
    let ended = match walk(&house, order).await {
        Err(error @ StoreError::Damaged { .. }) => {
            set_aside(&house, id, &error).await.map(|()| Ended::nothing())
        }
        ended => ended,
    };
    match ended {
        Ok(ended) => ended,
        Err(error) => {
            let text = format!("queue: {error}; the job stays queued");
            house.maillog.warning(Some(id), &text);
            Ended { again: Again::Later, ..Ended::nothing() }
        }
    }
}

/// A message of which something is damaged is held with the reason: trying again mends nothing, and it must not be lost.
///
/// # Errors
/// Of the store: then it is as before.
pub(super) async fn set_aside(
    house: &House,
    id: QueueId,
    error: &StoreError,
) -> Result<(), StoreError> {
    let reason = error.to_string();
    if house.store.set_aside(id, reason.clone()).await? {
        house.maillog.quarantined(id, &reason);
    } else {
        // Its own record shows as a held message; or another job of it was here first.
        house.maillog.warning(Some(id), &format!("queue: {reason}; it is not attempted"));
    }
    Ok(())
}

async fn walk(house: &House, mut order: Order) -> Result<Ended, StoreError> {
    let job = match order.job.take() {
        Some(job) => *job,
        // Settled, removed or held since it was listed.
        None => match house.store.job(order.id)? {
            Some(job) => job,
            None => return Ok(Ended::nothing()),
        },
    };
    let destination = where_to(house, &job);
    if let Some(to) = destination.filter(|to| *to != job.destination) {
        house.store.reroute(order.id, to).await?;
        return Ok(Ended { again: Again::Soon, ..Ended::nothing() });
    }
    let audience = std::mem::take(&mut order.audience);
    if let Some(heading) = &order.heading {
        audience.say(heading);
    }
    if is_given_up_unasked(house, &job, &order.settings) {
        let settings = order.settings.clone();
        let judged = judge(house, &job, Occasion::Deadline, settings, order.interval).await?;
        let (accepted, report_due) = (judged.settled.accepted, judged.report_due);
        return Ok(Ended { accepted, report_due, ..Ended::nothing() });
    }
    let transcript = |line: &str| audience.say(line);
    let sink: Option<&(dyn Fn(&str) + Send + Sync)> =
        if audience.is_empty() { None } else { Some(&transcript) };
    let Met { attempt, farewell, started, damaged } = attempt(house, &job, &order, sink).await?;
    match attempt {
        Attempt::Unreachable(report) => {
            unreachable(house, job, order, report, started, &audience).await
        }
        Attempt::Tried(outcomes) => {
            for (recipient, outcome) in with_addresses(&job, &outcomes).filter(|_| sink.is_some()) {
                audience.say(&verbose::outcome(std::iter::once(recipient), outcome));
            }
            for line in &farewell {
                audience.say(line);
            }
            let ended = settle_outcomes(house, &job, &order, outcomes, started).await?;
            if let Some(error) = damaged {
                set_aside(house, order.id.queue_id, &error).await?;
            }
            if order.troubled {
                answers_again(house, &order).await?;
            }
            Ok(ended)
        }
    }
}

/// Timeout.queuereturn=now: what comes out of the queue goes back without another attempt, but for reports. New mail has its first one.
fn is_given_up_unasked(house: &House, job: &Job, settings: &RunSettings) -> bool {
    let class = job.envelope.timeouts;
    let of_class = |all: &[Option<GivingUp>; 4]| {
        let mut classes = TimeoutClass::ALL.into_iter().zip(*all);
        classes.find(|(of, _)| *of == class).and_then(|(_, giving_up)| giving_up)
    };
    let configured = house.config.queue_timeouts.map(|timeouts| Some(timeouts.giving_up));
    let giving_up = match of_class(&settings.queue_return) {
        None if job.attempts > 0 => of_class(&configured),
        of_run => of_run,
    };
    giving_up == Some(GivingUp::Now) && !job.envelope.is_report() && class != TimeoutClass::Dsn
}

/// The destination that failed before answers: what waits for it flows. An operator who selected messages asked for
/// those alone: then the others keep their time.
async fn answers_again(house: &House, order: &Order) -> Result<(), StoreError> {
    let state = match house.store.destination(&order.destination)? {
        Some(state) if order.is_selected => DestinationState { failures: 0, ..state },
        Some(_) => DestinationState { not_before: Timestamp::ZERO, failures: 0, last: None },
        None => return Ok(()),
    };
    house.store.set_destination(&order.destination, state).await
}

/// Routing is asked again at each attempt; a relay that an operator chose for the message wins.
fn where_to(house: &House, job: &Job) -> Option<Destination> {
    let (_, recipient) = job.recipients.first()?;
    if let Some(relay) = &job.envelope.relay_override {
        return route::relay(relay).ok();
    }
    route::destination(&house.config, &recipient.address).ok()
}

/// What an attempt met.
struct Met {
    attempt: Attempt,
    /// The end of the dialogue, which is shown after the outcomes.
    farewell: Vec<String>,
    started: Timestamp,
    /// Something of the message is damaged, and it was found out in the middle.
    damaged: Option<StoreError>,
}

async fn attempt(
    house: &House,
    job: &Job,
    order: &Order,
    sink: Option<&(dyn Fn(&str) + Send + Sync)>,
) -> Result<Met, StoreError> {
    let started = house.world.clock.now();
    let unasked = |attempt| Met { attempt, farewell: Vec::new(), started, damaged: None };
    let all_failed = |report: Report| {
        let failed = |(n, _): &(u32, _)| (*n, Outcome::Failed(report.clone()));
        unasked(Attempt::Tried(job.recipients.iter().map(failed).collect()))
    };
    // RFC 2852 4.1.3: its time is over, so nobody is asked any more.
    if let Some(report) = settle::too_late(&job.envelope, started) {
        return Ok(all_failed(report));
    }
    // Held until the attempt is over: what stopped us before is tried alone.
    let _begun = house.store.begin(job).await?;
    let hops = match route::hops(&house.world, &house.config, &job.destination).await {
        Ok(hops) => hops,
        Err(report) if report.status.class() == StatusClass::Permanent => {
            return Ok(all_failed(report));
        }
        Err(report) => return Ok(unasked(Attempt::Unreachable(report))),
    };
    let respect_status = house.config.host_status && !order.is_selected;
    let fresh = house.config.timeouts.hoststatus;
    let skip = |host: &str| {
        // A store that cannot be read is no reason not to try: the status is only advice.
        respect_status
            && matches!(house.store.host(host), Ok(Some(known))
                if !known.up && known.at.after(fresh) > started)
    };
    let manner = Manner { skip: &skip, transcript: sink };
    let attempted = house.mailers.attempt(job, hops, order.bytes.clone(), manner).await?;
    for host in attempted.hosts {
        note_host(house, host);
    }
    for notice in attempted.notices {
        match notice {
            deliver::Notice::Tls { host, facts } => {
                house.maillog.tls_started(Side::Client, &relay(&host), &facts);
            }
            deliver::Notice::TlsFailed { host, reason } => {
                house.maillog.tls_failed(Side::Client, &relay(&host), &reason);
            }
            deliver::Notice::Cut(text) => {
                house.maillog.mime_cut(job.id.queue_id, &text);
            }
        }
    }
    if let Some(error) = &attempted.own_trouble {
        // The outcomes that were learnt are settled; what was not tried counts as deferred.
        let text = format!("{error} in the middle of an attempt");
        house.maillog.warning(Some(job.id.queue_id), &text);
    }
    let is_damage = |error: &StoreError| matches!(error, StoreError::Damaged { .. });
    let damaged = attempted.own_trouble.filter(is_damage);
    Ok(Met { attempt: attempted.attempt, farewell: attempted.farewell, started, damaged })
}

async fn settle_outcomes(
    house: &House,
    job: &Job,
    order: &Order,
    outcomes: Vec<(u32, Outcome)>,
    started: Timestamp,
) -> Result<Ended, StoreError> {
    let deferred = outcomes.iter().any(|(_, o)| matches!(o, Outcome::Deferred(_)));
    let failed = outcomes.iter().find_map(|(_, outcome)| match outcome {
        Outcome::Failed(report) => Some(report.exit()),
        _ => None,
    });
    // A host that defers everything with a lost connection is not one to open more connections to.
    let lost = outcomes.iter().all(|(_, outcome)| match outcome {
        Outcome::Deferred(report) => report.status.parts() == (4, 4, 2),
        _ => false,
    });
    let attempt = Attempt::Tried(outcomes);
    let priority = priority_of(house, job);
    house.maillog.attempted(job, priority, &attempt, started, house.world.clock.now());
    let occasion = Occasion::Attempted(attempt);
    let judged = judge(house, job, occasion, order.settings.clone(), order.interval).await?;
    Ok(Ended {
        news: if lost { News::Lost } else { News::Answered },
        accepted: judged.settled.accepted,
        report_due: judged.report_due,
        again: if deferred { Again::Soon } else { Again::No },
        failed,
        ..Ended::nothing()
    })
}

/// Its priority in this attempt (`pri=`): RetryFactor counts from the moment it is taken out of the queue to be tried.
pub(super) fn priority_of(house: &House, job: &Job) -> i64 {
    job.envelope.priority_after(job.attempts.saturating_add(1), house.config.priority.retry)
}

/// The destination as such could not be reached: one key of it moves, and the job, if it is still in INCOMING, goes to
/// the scheduled form. Its deadline, and that of all others for the destination, is judged by the deadline errand.
async fn unreachable(
    house: &House,
    job: Job,
    order: Order,
    report: Report,
    started: Timestamp,
    audience: &Audience,
) -> Result<Ended, StoreError> {
    let attempt = Attempt::Unreachable(report.clone());
    let priority = priority_of(house, &job);
    house.maillog.attempted(&job, priority, &attempt, started, house.world.clock.now());
    if !audience.is_empty() {
        let recipients = job.recipients.iter().map(|(_, recipient)| &recipient.address);
        audience.say(&verbose::unreachable(recipients, &report));
    }
    let mut accepted = Vec::new();
    let mut parking = None;
    if !judges_each(house, &order.settings, order.interval) {
        // First the job: a destination without a READY job has no row to note its failure in. Both are durable together.
        parking = Some(house.store.begin_park(vec![order.id]).await?);
    } else {
        let occasion = Occasion::Attempted(attempt);
        let judged = judge(house, &job, occasion, order.settings.clone(), order.interval).await?;
        accepted = judged.settled.accepted;
    }
    let until =
        destination_failed(house, &order.destination, &report, started, order.interval).await?;
    if let Some(parking) = parking {
        parking.durable().await?;
    }
    drop(order.claim);
    Ok(Ended {
        news: News::Unreachable(until),
        accepted,
        again: Again::Soon,
        unreachable: Some(report),
        ..Ended::nothing()
    })
}

/// Whether a destination that cannot be reached is a failed attempt of each of its jobs by itself: in a run with timeouts of its
/// own; without an interval, when nothing but an explicit run tries again; and when mail is given up at its first failure.
pub(super) fn judges_each(
    house: &House,
    settings: &RunSettings,
    interval: Option<Duration>,
) -> bool {
    let at_once = |timeouts: &QueueTimeouts| match timeouts.giving_up {
        GivingUp::After(length) => length.is_zero(),
        GivingUp::Now => true,
    };
    interval.is_none() || !settings.is_empty() || house.config.queue_timeouts.iter().any(at_once)
}

/// Notes the failure of a destination; several attempts that fail together count once. Returns when to try again: without an
/// interval at once, as then each new message is tried.
async fn destination_failed(
    house: &House,
    destination: &Destination,
    report: &Report,
    started: Timestamp,
    interval: Option<Duration>,
) -> Result<Timestamp, StoreError> {
    let now = house.world.clock.now();
    let Some(interval) = interval else { return Ok(now) };
    let base = interval.max(house.config.min_queue_age);
    let (longest, jitter) = (house.config.max_queue_age, 1.0 + fastrand::f64() / 10.0);
    let report = report.clone();
    let next = move |before: Option<&DestinationState>| {
        let noted_meanwhile = |state: &&DestinationState| {
            state.not_before > now && state.last.as_ref().is_some_and(|last| last.at >= started)
        };
        if before.filter(noted_meanwhile).is_some() {
            return None;
        }
        let failures = before.map_or(0, |state| state.failures).saturating_add(1);
        let doubled = base.saturating_mul(1 << (failures - 1).min(16));
        let wait = longest.map_or(base, |max| base.max(doubled.min(max)));
        let not_before = now.after(wait.mul_f64(jitter));
        Some(DestinationState { not_before, failures, last: Some(report.clone()) })
    };
    let state = house.store.destination_failed(destination, next).await?;
    Ok(state.map_or(now, |state| state.not_before))
}

/// These jobs go to the scheduled form without an attempt of their own; their claims last until that is durable.
pub(super) async fn park(house: House, waiting: Vec<Waiting<Claim>>) -> Errand {
    let ids = waiting.iter().map(|waiting| waiting.id).collect();
    match house.store.park(ids).await {
        Ok(()) => Errand::AgendaMoved,
        Err(error) => Errand::Failed(error),
    }
}

/// Jobs of a destination that failed, whose time is over by now.
pub(super) async fn judge_overdue(
    house: House,
    destination: Arc<Destination>,
    place: deadline::Place,
    interval: Option<Duration>,
) -> Errand {
    let judged = deadline::judge_some(&house, &destination, place, interval).await;
    let (accepted, next) = judged.unwrap_or_else(|error| {
        house.maillog.warning(None, &format!("queue: {error}; deadlines are judged later"));
        (Vec::new(), deadline::Next::Again)
    });
    Errand::Judged { destination, accepted, next }
}

/// These jobs waited for a destination that proved unreachable, and that is an attempt of each ([`judges_each`]).
pub(super) async fn judge_unreachable(
    house: House,
    waiting: Vec<(RunSettings, Waiting<Claim>)>,
    report: Report,
    interval: Option<Duration>,
) -> Errand {
    let mut accepted = Vec::new();
    for (settings, waiting) in waiting {
        let judged = async {
            let Some(job) = house.store.job(waiting.id)? else { return Ok(Vec::new()) };
            let occasion = Occasion::Attempted(Attempt::Unreachable(report.clone()));
            Ok(judge(&house, &job, occasion, settings, interval).await?.settled.accepted)
        };
        let judged = match judged.await {
            Err(error @ StoreError::Damaged { .. }) => {
                set_aside(&house, waiting.id.queue_id, &error).await.map(|()| Vec::new())
            }
            judged => judged,
        };
        match judged {
            Ok(reports) => accepted.extend(reports),
            // Their claims go, and they are found in the store again.
            Err(error) => return Errand::Failed(error),
        }
    }
    Errand::Accepted(accepted)
}

/// The attempt at this job panicked: a defect of ours, and the job waits for its next time as after any deferral.
pub(super) async fn defer(house: House, id: JobId, interval: Option<Duration>) -> Errand {
    let deferred = async {
        let Some(claim) = house.store.claim(id) else { return Ok(Errand::Done) };
        let Some(job) = house.store.job(id)? else { return Ok(Errand::Done) };
        let at = house.world.clock.now();
        let status = EnhancedStatus::new(4, 3, 0);
        let text = "Internal error".to_owned();
        let report = Report { status, text, reply: None, command: None, remote: None, at };
        let outcome = |(n, _): &(u32, _)| (*n, Outcome::Deferred(report.clone()));
        let attempt = Attempt::Tried(job.recipients.iter().map(outcome).collect());
        let occasion = Occasion::Attempted(attempt);
        let judged = judge(&house, &job, occasion, RunSettings::default(), interval).await?;
        drop(claim);
        let (accepted, next) = (judged.settled.accepted, judged.report_due);
        Ok(Errand::Reported { id: id.queue_id, accepted, next })
    };
    match deferred.await {
        Ok(errand) => errand,
        Err(error @ StoreError::Damaged { .. }) => {
            match set_aside(&house, id.queue_id, &error).await {
                Ok(()) => Errand::Done,
                Err(error) => Errand::Failed(error),
            }
        }
        Err(error) => Errand::Failed(error),
    }
}

/// The AGENDA keys of these destinations go to the times of their earliest READY jobs.
pub(super) async fn advance_agenda(house: House, idle: BTreeSet<Arc<Destination>>) -> Errand {
    let mut done = Errand::Done;
    let (now, mut is_early) = (house.world.clock.now(), false);
    for destination in idle {
        match house.store.advance_agenda(&destination).await {
            Ok(true) => done = Errand::AgendaMoved,
            Ok(false) => match house.store.ready(&destination, now, Far::Never, None, 1) {
                Ok((due, _)) if due.is_empty() => {}
                Ok(_) => is_early = true,
                Err(error) => return Errand::Failed(error),
            },
            Err(error) => return Errand::Failed(error),
        }
    }
    if is_early { Errand::AgendaEarly } else { done }
}

/// Host status is advice: what says nothing new is not written, and what cannot be written is forgotten. The outcomes
/// of the attempt must not hang on it.
fn note_host(house: &House, host: HostOutcome) {
    let known = house.store.host(&host.host);
    let is_news = match known {
        Ok(Some(known)) => known.up != host.up || known.at.after(HOST_STATUS_GRAIN) <= host.at,
        _ => true,
    };
    if is_news && let Err(error) = house.store.set_host(host) {
        tracing::debug!(%error, "host status not written");
    }
}

/// As in `relay=` of sendmail's lines about TLS: a name with its final dot, a literal as it is.
fn relay(host: &RemoteHost) -> String {
    match host.name.starts_with(['[', '/']) {
        true => host.name.clone(),
        false => format!("{}.", host.name),
    }
}

fn with_addresses<'a>(
    job: &'a Job,
    outcomes: &'a [(u32, Outcome)],
) -> impl Iterator<Item = (&'a Address, &'a Outcome)> {
    // Both are in the job's order.
    job.recipients.iter().zip(outcomes).map(|((_, recipient), (_, o))| (&recipient.address, o))
}
