//! Giving up at an operator's word: every open recipient of a message fails now, and its sender hears of it as of any failure.
//!
//! It goes the ordinary way, an outcome for each recipient, a verdict, one settle for each job, so a crash leaves some jobs settled and
//! the others as they were, and a report is neither lost nor made twice. Held messages are given up too. SoftBounce does
//! not turn an operator's word into a deferral. What somebody has in hand at the moment is left alone.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::House;
use super::attempt::priority_of;
use super::judge::{Judged, Occasion, judge};
use super::run::RunRequest;
use crate::config::Config;
use crate::mail::job::{Entry, EntryJob, Job, JobId};
use crate::mail::outcome::{Attempt, Outcome, Report};
use crate::mail::queue_id::QueueId;
use crate::mail::status::EnhancedStatus;
use crate::mail::time::Timestamp;
use crate::settle::RunSettings;
use crate::store::{Accepted, StoreError};

/// Other or undefined status (RFC 3463 3.1): no code says that a person decided.
const STATUS: EnhancedStatus = EnhancedStatus::new(5, 0, 0);

/// What giving up a message did.
#[derive(Default)]
pub struct Bounced {
    /// Jobs that were given up.
    pub jobs: u64,
    /// Jobs that somebody has in hand: left alone.
    pub in_hand: u64,
    /// Reports, to be attempted.
    reports: Vec<Accepted>,
    /// What was given up while another job is in hand is unreported; to be reported then at the latest.
    report_due: Option<Timestamp>,
}

impl Bounced {
    /// Hands to the runner what is left to do for the message: reports to be attempted, or to be made in time.
    pub async fn hand_over(
        self,
        id: QueueId,
        wake: &mpsc::Sender<Accepted>,
        runs: &mpsc::Sender<RunRequest>,
    ) {
        for report in self.reports {
            // A full channel is no loss: they are in the store.
            let _ = wake.try_send(report);
        }
        if let Some(due) = self.report_due {
            // Without a runner its next start finds it.
            let _ = runs.send(RunRequest::Report { id, due }).await;
        }
    }
}

/// Gives up every open recipient of a message, with these words for its sender. A message that is gone is no error.
///
/// # Errors
/// Of the store: the jobs before are settled.
pub async fn bounce(house: &House, id: QueueId, words: &str) -> Result<Bounced, StoreError> {
    let config = Arc::new(Config { soft_bounce: false, ..(*house.config).clone() });
    let house = House { config, ..house.clone() };
    let mut bounced = Bounced::default();
    let mut after = None;
    loop {
        // The message anew for each job: the settle of the last one takes it away.
        let Some(entry) = house.store.entry(id)? else { return Ok(bounced) };
        let Some(job) = house.store.jobs(id, after, 1)?.pop() else { return Ok(bounced) };
        let before = after.replace(job.number);
        if !is_open(&job) {
            continue;
        }
        let job_id = JobId { queue_id: id, number: job.number };
        let Some(claim) = house.store.claim(job_id) else {
            bounced.in_hand += 1;
            continue;
        };
        // What it is now that nobody else has it.
        let job = house.store.jobs(id, before, 1)?.pop().filter(|job| Some(job.number) == after);
        let Some(job) = job.filter(is_open) else { continue };
        let judged = give_up(&house, &entry, &job, words).await?;
        bounced.reports.extend(judged.settled.accepted);
        // What the last settle leaves to be reported is all there is.
        bounced.report_due = judged.report_due;
        bounced.jobs += 1;
        drop(claim);
    }
}

fn is_open(job: &EntryJob) -> bool {
    job.recipients.iter().any(|recipient| recipient.state.is_open())
}

async fn give_up(
    house: &House,
    entry: &Entry,
    job: &EntryJob,
    words: &str,
) -> Result<Judged, StoreError> {
    let open = (0..).zip(&job.recipients).filter(|(_, recipient)| recipient.state.is_open());
    let job = Job {
        id: JobId { queue_id: entry.id, number: job.number },
        destination: job.destination.clone(),
        envelope: Arc::new(entry.envelope.clone()),
        recipients: open.map(|(n, recipient)| (n, recipient.clone())).collect(),
        attempts: job.attempts,
        last_attempt: job.last_attempt,
        body: entry.body.clone(),
    };
    let at = house.world.clock.now();
    let report = Report {
        status: STATUS,
        text: words.to_owned(),
        reply: None,
        command: None,
        remote: None,
        at,
    };
    let failed = |(n, _): &(u32, _)| (*n, Outcome::Failed(report.clone()));
    let attempt = Attempt::Tried(job.recipients.iter().map(failed).collect());
    let priority = priority_of(house, &job);
    house.maillog.attempted(&job, priority, &attempt, at, at);
    let occasion = Occasion::Attempted(attempt);
    judge(house, &job, occasion, RunSettings::default(), None).await
}
