//! Failures that wait to be reported together with others of their message: five minutes at most, whatever its open recipients do.
//!
//! Which messages have some stands in the store; when each is due is kept in memory, and read from the store at the start, when
//! there were too many to remember, and every five minutes in case nobody noted one. So a crash makes no report late.
//!
//! Most often the failures are those of a message with an open job, which is judged. One whose jobs are all closed has them
//! unreported because it could not be read when the last one was settled: then a closed job is judged, once it can be read.

use std::collections::BTreeSet;
use std::time::Duration;

use super::House;
use super::attempt::{self, Errand, Occasion, judge};
use crate::mail::job::{Entry, EntryJob, JobId};
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;
use crate::settle::{REPORT_DELAY_MAX, RunSettings};
use crate::store::{Store, StoreError};

/// Messages remembered.
const REMEMBERED_MAX: usize = 20_000;
/// Messages read at once.
const PAGE: usize = 500;
/// Jobs of a long list read at once: up to a thousand recipients each.
const LIST_JOBS: usize = 16;
/// How soon a message is looked at again whose failures could not be reported, because its job was being attempted.
const PAUSE: Duration = Duration::from_secs(10);

/// Messages with failures to report, by the time at which that must happen.
#[derive(Default)]
pub(super) struct Reports {
    due: BTreeSet<(Timestamp, QueueId)>,
    walk: Walk,
}

/// How far the store was read.
#[derive(Default)]
enum Walk {
    #[default]
    Start,
    After(QueueId),
    /// All of it, at this time.
    Done(Timestamp),
}

impl Reports {
    /// The failures of this message are to be reported then.
    pub(super) fn note(&mut self, due: Timestamp, id: QueueId) {
        if self.due.len() < REMEMBERED_MAX {
            self.due.insert((due, id));
        } else {
            self.walk = Walk::Start;
        }
    }

    /// Reads on in the store when there is room for as much.
    pub(super) fn read_on(&mut self, store: &Store, now: Timestamp) -> Result<(), StoreError> {
        let after = match self.walk {
            Walk::Done(at) if now.since(at) < REPORT_DELAY_MAX && at <= now => return Ok(()),
            Walk::Start | Walk::Done(_) => None,
            Walk::After(id) => Some(id),
        };
        if self.due.len() + PAGE > REMEMBERED_MAX {
            return Ok(());
        }
        let (found, last) = store.unreported(after, PAGE)?;
        self.walk = last.map_or(Walk::Done(now), Walk::After);
        for (id, since) in found {
            self.note(since.after(REPORT_DELAY_MAX), id);
        }
        Ok(())
    }

    /// A message whose time has come.
    pub(super) fn next(&mut self, now: Timestamp) -> Option<QueueId> {
        let (due, id) = self.due.first().copied().filter(|(due, _)| *due <= now)?;
        self.due.remove(&(due, id));
        Some(id)
    }

    /// How long there is nothing to do, for one who reads on in the store (`reads`) or does not; none when nothing is left.
    pub(super) fn rest(&self, now: Timestamp, reads: bool) -> Option<Duration> {
        let is_full = self.due.len() + PAGE > REMEMBERED_MAX;
        let is_read = !reads || matches!(self.walk, Walk::Done(_)) || is_full;
        let next = self.due.first().map(|(due, _)| due.since(now));
        if is_read { next } else { Some(Duration::ZERO) }
    }
}

/// Failures of this message have waited long enough: they are reported now, whatever its open recipients do.
pub(super) async fn report(house: House, id: QueueId, interval: Option<Duration>) -> Errand {
    match reported(&house, id, interval).await {
        Ok(errand) => errand,
        Err(error @ StoreError::Damaged { .. }) => {
            match attempt::set_aside(&house, id, &error).await {
                Ok(()) => Errand::Done,
                Err(error) => Errand::Failed(error),
            }
        }
        // What the store refused now is not forgotten.
        Err(error) => {
            let text = format!("queue: {error}; its failures are reported later");
            house.maillog.warning(Some(id), &text);
            later(&house, id)
        }
    }
}

async fn reported(
    house: &House,
    id: QueueId,
    interval: Option<Duration>,
) -> Result<Errand, StoreError> {
    let Some(entry) = house.store.entry(id)? else { return Ok(Errand::Done) };
    let Some(job_id) = first_open(house, &entry)? else { return Ok(Errand::Done) };
    // Claimed: its own settle finds the failures, but it may end without one, when its destination is down.
    let Some(claim) = house.store.claim(job_id) else { return Ok(later(house, id)) };
    let Some(job) = house.store.job_or_owed(job_id)? else { return Ok(Errand::Done) };
    if house.store.is_body_in_check(&job.body) {
        return Ok(later(house, id));
    }
    let settings = RunSettings::default();
    let judged = judge(house, &job, Occasion::Deadline, settings, interval).await?;
    drop(claim);
    Ok(Errand::Reported { id, accepted: judged.settled.accepted, next: judged.report_due })
}

/// The first job with an open recipient; of a long list, those before it may all be waiting to be reported. When none is open, the
/// first one that can be read.
fn first_open(house: &House, entry: &Entry) -> Result<Option<JobId>, StoreError> {
    let is_open = |job: &EntryJob| job.recipients.iter().any(|r| r.state.is_open());
    let id = |job: &EntryJob| JobId { queue_id: entry.id, number: job.number };
    if !entry.jobs.is_empty() {
        return Ok(entry.jobs.iter().find(|job| is_open(job)).or(entry.jobs.first()).map(id));
    }
    let (mut after, mut first) = (None, None);
    loop {
        let page = house.store.jobs(entry.id, after, LIST_JOBS)?;
        first = first.or(page.iter().find(|job| !job.recipients.is_empty()).map(id));
        if let Some(job) = page.iter().find(|job| is_open(job)) {
            return Ok(Some(id(job)));
        }
        match page.last() {
            Some(last) => after = Some(last.number),
            None => return Ok(first),
        }
    }
}

fn later(house: &House, id: QueueId) -> Errand {
    let next = Some(house.world.clock.now().after(PAUSE));
    Errand::Reported { id, accepted: Vec::new(), next }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_remembered_is_read_again() {
        let now = Timestamp::from_secs(1_000_000);
        let mut reports = Reports { walk: Walk::Done(now), ..Reports::default() };
        assert_eq!(reports.rest(now, true), None);
        for n in 0..REMEMBERED_MAX as u64 {
            reports.note(now, QueueId::from_u64(n));
        }
        assert!(matches!(reports.walk, Walk::Done(_)));
        reports.note(now, QueueId::from_u64(u64::MAX));
        assert!(matches!(reports.walk, Walk::Start));
        // Not before there is room: until then only what is remembered counts.
        assert_eq!(reports.rest(now.before(PAUSE), true), Some(PAUSE));
        while reports.due.len() + PAGE > REMEMBERED_MAX {
            assert!(reports.next(now).is_some());
        }
        assert_eq!(reports.rest(now.before(PAUSE), true), Some(Duration::ZERO));
    }
}
