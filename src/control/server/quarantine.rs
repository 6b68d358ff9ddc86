//! What a selection is about, and `-Q`: holding its messages and letting them go.
//!
//! The queue is gone through page by page, so a change of everything holds no snapshot and no large list. Each page is
//! durable before it is answered: who is cut off in the middle finds the pages that were answered for done, and asks again.

use super::{Ending, NOT_TRUSTED, PAGE, Visit, blocking, is_long};
use crate::mail::job::Entry;
use crate::mail::queue_id::QueueId;
use crate::mail::selection::{Field, Selection, Term};
use crate::store::{Store, StoreError};

impl Visit {
    /// Holds the selected messages for `reason`, or lets them go; answers each with what it was held for before.
    pub(super) async fn quarantine(
        &mut self,
        selection: Selection,
        reason: Option<String>,
    ) -> Result<(), Ending> {
        if !self.is_trusted() {
            return self.fail(NOT_TRUSTED, 64).await;
        }
        let selection = if reason.is_none() { of_held(selection) } else { selection };
        let mut after = None;
        loop {
            let (store, selection) = (self.desk.house.store.clone(), selection.clone());
            let page = move || -> Result<_, StoreError> {
                let entries = store.list(after, PAGE)?;
                let last = entries.last().map(|entry| entry.id).filter(|_| entries.len() == PAGE);
                let found = selected(&store, &selection, entries)?;
                let found = found.into_iter().filter(|entry| !entry.lost);
                Ok((found.map(|entry| (entry.id, entry.held)).collect(), last))
            };
            let (found, last): (Vec<(QueueId, Option<String>)>, _) = blocking(page).await?;
            self.set_aside(&found, reason.as_deref()).await?;
            if !found.is_empty() {
                self.say(&super::Answer::Quarantined(found)).await?;
            }
            if last.is_none() {
                return self.done(0).await;
            }
            after = last;
        }
    }

    async fn set_aside(
        &self,
        found: &[(QueueId, Option<String>)],
        reason: Option<&str>,
    ) -> Result<(), StoreError> {
        let house = &self.desk.house;
        let other = found.iter().filter(|(_, was)| was.as_deref() != reason);
        let ids: Vec<QueueId> = other.map(|(id, _)| *id).collect();
        match reason {
            Some(reason) => {
                house.store.hold(ids.clone(), reason.to_owned()).await?;
                ids.iter().for_each(|id| house.maillog.quarantined(*id, reason));
            }
            None => {
                house.store.release(ids.clone()).await?;
                let operator = self.user().name;
                ids.iter().for_each(|id| house.maillog.operated(*id, "unquarantine", &operator));
            }
        }
        Ok(())
    }
}

/// The selection, of held messages alone.
fn of_held(mut selection: Selection) -> Selection {
    if !selection.terms.iter().any(|term| term.field == Field::Quarantine) {
        let any = Term { field: Field::Quarantine, negated: false, substring: String::new() };
        selection.terms.push(any);
    }
    selection
}

/// Those of `entries` that the selection is about. Held ones are, only when it asks for them: as in sendmail, a plain
/// mailq does not show them and a plain run does not try them.
///
/// # Errors
/// Of the store, which is asked for the recipients of long lists.
pub(super) fn selected(
    store: &Store,
    selection: &Selection,
    entries: Vec<Entry>,
) -> Result<Vec<Entry>, StoreError> {
    let by_recipient = selection.terms.iter().any(|term| term.field == Field::Recipient);
    let mut found = Vec::with_capacity(entries.len());
    for entry in entries {
        let is = match by_recipient && is_long(&entry) {
            true => some_job_matches(store, selection, &entry)?,
            false => selection.matches(&entry),
        };
        if is {
            found.push(entry);
        }
    }
    Ok(found)
}

/// A recipient term holds when it holds of some recipient, so a long list is selected when one of its jobs is.
fn some_job_matches(
    store: &Store,
    selection: &Selection,
    entry: &Entry,
) -> Result<bool, StoreError> {
    let mut after = None;
    loop {
        let jobs = store.all_jobs(entry.id, after, 1)?;
        let Some(last) = jobs.last() else { return Ok(false) };
        after = Some(last.number);
        if selection.matches(&Entry { jobs, ..entry.clone() }) {
            return Ok(true);
        }
    }
}
