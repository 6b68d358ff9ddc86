//! Messages whose time is over: warned about or given up, after an attempt that ended past the deadline.
//!
//! Settle judges the deadlines of a job that met something of its own. What is left are jobs whose destination as
//! such is down: nothing of theirs changes when it fails, so their deadlines are read here, from DEADLINE, oldest
//! first. Days of downtime bounce nothing untried: a message is given up only if its destination failed *after*
//! the deadline, and one whose next attempt is far off is made due.

use std::time::Duration;

use super::House;
use super::attempt::{Errand, Occasion, judge};
use crate::config::GivingUp;
use crate::mail::envelope::TimeoutClass;
use crate::mail::job::{Entry, EntryJob, JobId};
use crate::mail::outcome::Attempt;
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;
use crate::settle::RunSettings;
use crate::store::{Accepted, StoreError};

/// Messages read at once.
const PAGE: usize = 500;

/// Judges every message whose deadline has passed.
pub(super) async fn judge_all(house: House, interval: Option<Duration>) -> Errand {
    match judge_classes(&house, interval).await {
        Ok(accepted) => Errand::Accepted(accepted),
        Err(error) => Errand::Failed(error),
    }
}

async fn judge_classes(
    house: &House,
    interval: Option<Duration>,
) -> Result<Vec<Accepted>, StoreError> {
    let now = house.world.clock.now();
    let mut accepted = Vec::new();
    for (class, timeouts) in TimeoutClass::ALL.into_iter().zip(house.config.queue_timeouts) {
        let giving_up = match timeouts.giving_up {
            GivingUp::After(length) => length,
            GivingUp::Now => Duration::ZERO,
        };
        for (warned, length) in
            [(false, Some(giving_up)), (true, Some(giving_up)), (false, timeouts.warn)]
        {
            let Some(length) = length else { continue };
            let passed = now.before(length);
            let mut after = None;
            loop {
                let page = house.store.deadlines(class, warned, passed, after, PAGE)?;
                for id in &page {
                    accepted.extend(judge_message(house, *id, length, interval).await?);
                }
                match page.last() {
                    Some(last) if page.len() == PAGE => after = Some(*last),
                    _ => break,
                }
            }
        }
    }
    Ok(accepted)
}

async fn judge_message(
    house: &House,
    id: QueueId,
    length: Duration,
    interval: Option<Duration>,
) -> Result<Vec<Accepted>, StoreError> {
    let Some(entry) = house.store.entry(id)? else { return Ok(Vec::new()) };
    if entry.held.is_some() {
        return Ok(Vec::new());
    }
    let deadline = entry.envelope.arrival.after(length);
    let mut accepted = Vec::new();
    let mut after = None;
    loop {
        let jobs = match entry.jobs.is_empty() {
            true => house.store.jobs(id, after, PAGE)?,
            false => entry.jobs.clone(),
        };
        for job in &jobs {
            accepted.extend(judge_job(house, &entry, job, deadline, interval).await?);
        }
        match jobs.last() {
            Some(last) if entry.jobs.is_empty() => after = Some(last.number),
            _ => return Ok(accepted),
        }
    }
}

async fn judge_job(
    house: &House,
    entry: &Entry,
    job: &EntryJob,
    deadline: Timestamp,
    interval: Option<Duration>,
) -> Result<Vec<Accepted>, StoreError> {
    if !job.recipients.iter().any(|recipient| recipient.state.is_open()) {
        return Ok(Vec::new());
    }
    let id = JobId { queue_id: entry.id, number: job.number };
    let trouble = house.store.destination(&job.destination)?.and_then(|state| state.last);
    match trouble.filter(|report| report.at >= deadline) {
        Some(report) => {
            // Claimed: an attempt is under way, and its settle judges the deadline.
            let Some(claim) = house.store.claim(id) else { return Ok(Vec::new()) };
            let Some(job) = house.store.job(id)? else { return Ok(Vec::new()) };
            let occasion = Occasion::Attempted(Attempt::Unreachable(report));
            let judged = judge(house, &job, occasion, RunSettings::default(), interval).await?;
            drop(claim);
            Ok(judged.settled.accepted)
        }
        None if job.last_attempt < Some(deadline) && job.due > house.world.clock.now() => {
            house.store.reschedule(vec![entry.id], house.world.clock.now()).await?;
            Ok(Vec::new())
        }
        None => Ok(Vec::new()),
    }
}

/// Failures of this message have waited long enough: they are reported now, whatever its open recipients do.
pub(super) async fn report(house: House, id: QueueId, interval: Option<Duration>) -> Errand {
    let reported = async {
        let nothing = || Ok(Errand::Done);
        let Some(entry) = house.store.entry(id)? else { return nothing() };
        let first = match entry.jobs.is_empty() {
            true => house.store.jobs(id, None, 1)?.pop(),
            false => entry
                .jobs
                .into_iter()
                .find(|job| job.recipients.iter().any(|recipient| recipient.state.is_open())),
        };
        let Some(job) = first else { return nothing() };
        let id = JobId { queue_id: id, number: job.number };
        // Claimed: its own settle finds the failures, but it may end without one, when its destination is down.
        let Some(claim) = house.store.claim(id) else {
            return Ok(Errand::ReportLater(id.queue_id));
        };
        let Some(job) = house.store.job(id)? else { return nothing() };
        let settings = RunSettings::default();
        let judged = judge(&house, &job, Occasion::Deadline, settings, interval).await?;
        drop(claim);
        Ok(Errand::Accepted(judged.settled.accepted))
    };
    match reported.await {
        Ok(errand) => errand,
        Err(error) => Errand::Failed(error),
    }
}
