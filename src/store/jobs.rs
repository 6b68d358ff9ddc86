//! The jobs of a message as a settle changes them: one job put where it stands, those beside it that have something unreported, new ones
//! for an alias. Keeps UNREPORTED and the sums of a long list (I6).

use std::collections::BTreeMap;
use std::time::Duration;

use super::StoreError;
use super::edit::{Edit, load, parse};
use super::engine::Read;
use super::list::stage_more;
use super::message::{
    INLINE_RECIPIENTS_MAX, List, Message, Shape, is_open, unreported, unreported_since,
};
use super::schema::*;
use crate::mail::envelope::{Recipient, RecipientState};
use crate::mail::job::{Destination, EntryJob, JobId};
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;

/// Recipients outside the job that one report covers.
const UNREPORTED_MAX: usize = 1000;
/// Age of the first unreported failure from which a settle of a long list looks for the others. A report is due
/// after five minutes; looking at every settle would read a thousand records each time.
const REPORT_NEAR: Duration = Duration::from_secs(4 * 60);

/// The recipients outside a job, as far as a verdict on it needs them.
pub(super) struct Others {
    pub open: bool,
    /// At most [`UNREPORTED_MAX`].
    pub unreported: Vec<(u32, u32, Recipient)>,
    /// There are more of them.
    pub more: bool,
    pub since: Option<Timestamp>,
}

pub(super) fn others(
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

/// Those of the jobs of a list but one, a few more than [`UNREPORTED_MAX`] at most if there are more. A job that cannot be read keeps no
/// other from being settled: it stays unreported, and its message stays.
fn owed_in_list(
    read: &dyn Read,
    id: QueueId,
    except: u32,
) -> Result<Vec<(u32, u32, Recipient)>, StoreError> {
    let (start, end) = UNREPORTED.under(id);
    let mut found = Vec::new();
    for key in read.keys(&start..&end, UNREPORTED_MAX + 2, false)? {
        let job_id = match parse(&UNREPORTED, &key) {
            Ok(job_id) if job_id.number != except => job_id,
            Ok(_) | Err(_) => continue,
        };
        match load::<_, EntryJob, _>(read, &RECIPIENTS, job_id) {
            Ok(Some((job, _))) => found.extend(owed(&job)),
            Ok(None) => {}
            Err(error @ StoreError::Damaged { .. }) => {
                tracing::error!(%error, "what its sender is owed is not known");
            }
            Err(error) => return Err(error),
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
                edit.owes(JobId { queue_id: id, number: job.number }, place, &job);
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
pub(super) fn report(
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
                let Some(places) = by_job.remove(&job.number) else { continue };
                let before = job.clone();
                places.into_iter().for_each(|place| mark_reported(job, place));
                edit.owes(JobId { queue_id: id, number: job.number }, &before, job);
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
pub(super) fn replace(
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
    let (is_held, term) = (message.held.is_some(), message.term());
    match &mut message.shape {
        Shape::Inline(jobs) if total <= INLINE_RECIPIENTS_MAX => {
            for mut job in super::intake::into_jobs(replacements, now) {
                job.number = jobs.len() as u32;
                if !is_held {
                    edit.ready(JobId { queue_id: id, number: job.number }, term, &job);
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
pub(super) fn is_finished(message: &Message) -> bool {
    match &message.shape {
        Shape::Inline(jobs) => {
            !jobs.iter().any(|job| is_open(job) || unreported_since(job).is_some())
        }
        Shape::List(list) => {
            list.open_jobs == 0 && !list.unfolding && list.unreported_since.is_none()
        }
    }
}
