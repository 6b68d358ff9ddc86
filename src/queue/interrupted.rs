//! What an unclean stop interrupted: named in the log before anything is attempted, so that whoever gets a message twice finds
//! out why; and set aside when it was in flight at too many such stops.

use std::time::Duration;

use super::House;
use crate::mail::envelope::Recipient;
use crate::mail::job::JobId;
use crate::store::StoreError;

/// Unclean stops at which a job was in flight, after which its message is held: it may be what stops us.
const STOPS_MAX: u64 = 3;
/// Messages read at once.
const PAGE: usize = 500;
/// How long the lines may take to reach the log before the marks are deleted.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// Names what the process before had in flight. To be called before the first attempt.
///
/// # Errors
/// Of the store: then it is named at the next start, and nothing must be attempted.
pub(super) async fn name_all(house: &House) -> Result<(), StoreError> {
    let Some(interrupted) = house.store.interrupted() else {
        return house.store.forget_interrupted().await;
    };
    let mut after = None;
    'incoming: loop {
        let page = house.store.incoming(after, PAGE)?;
        for job in &page {
            if job.id.queue_id >= interrupted.before {
                break 'incoming;
            }
            let recipients = job.recipients.iter().map(|(_, recipient)| &recipient.address);
            house.maillog.duplicates_possible(job.id.queue_id, recipients);
        }
        match page.last() {
            Some(last) => after = Some(last.id.queue_id),
            None => break,
        }
    }
    for (id, stops) in interrupted.jobs {
        name(house, id)?;
        if stops >= STOPS_MAX {
            let reason = format!("was being delivered at {stops} unclean stops");
            house.maillog.quarantined(id.queue_id, &reason);
            house.store.hold(vec![id.queue_id], reason).await?;
        }
    }
    let maillog = house.maillog.clone();
    // If it fails, or is too slow, the log has lost the lines: nothing else can be done about it here.
    let _ = tokio::task::spawn_blocking(move || maillog.flush(FLUSH_MAX)).await;
    house.store.forget_interrupted().await
}

/// Names the recipients of one job that may get their message twice; none when it is gone.
pub(super) fn name(house: &House, id: JobId) -> Result<(), StoreError> {
    let Some(entry) = house.store.entry(id.queue_id)? else { return Ok(()) };
    let jobs = match entry.jobs.is_empty() {
        true => house.store.jobs(id.queue_id, id.number.checked_sub(1), 1)?,
        false => entry.jobs,
    };
    let its = jobs.iter().filter(|job| job.number == id.number);
    let open = |recipient: &&Recipient| recipient.state.is_open();
    let recipients = its.flat_map(|job| &job.recipients).filter(open);
    house.maillog.duplicates_possible(id.queue_id, recipients.map(|recipient| &recipient.address));
    Ok(())
}
