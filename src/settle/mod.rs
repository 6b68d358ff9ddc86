//! STATION: from what an attempt met to what becomes of the message.
//!
//! [`decide`] takes the state of a message, what the attempt met and the time, and returns a verdict: new states of
//! recipients, when to try again, and the reports to send, complete, as messages. It is pure: no clock, no randomness, no
//! store; asked twice with the same state it says the same. The store applies the verdict in one batch, so a crash leaves
//! either all of it (recipient failed *and* report accepted) or nothing (the attempt is repeated).
//!
//! Promises: every recipient with an outcome gets exactly one state; an open recipient has a next attempt; a failure is
//! reported in the batch that closes the message's last open recipient or [`REPORT_DELAY_MAX`] after the first one, one
//! report for up to [`REPORT_RECIPIENTS_MAX`] recipients; the null path is never answered: what fails of it goes to
//! DoubleBounceAddress, and what fails of that is dropped and said so.
//!
//! What a peer said is never lost for want of the original: when a report on it cannot be made now, the states are given without
//! it, owed, and the report follows ([`Notice::Postponed`]).
//!
//! Laws: RFC 3461 (NOTIFY, RET, ENVID, ORCPT), RFC 2852 (BY), RFC 3464 (reports, in [`dsn`]), RFC 5321 4.5.4.1 and 6.1, sendmail's order
//! of giving up and warning. Limit: a warning names the open recipients of the job at hand, not those of other jobs.

pub mod backoff;
mod draft;
pub mod dsn;
pub mod expiry;
mod plan;
mod reports;
#[cfg(test)]
mod tests;

pub use expiry::{REPORT_DELAY_MAX, too_late};
pub use plan::{Plan, RunSettings};
pub use reports::REPORT_RECIPIENTS_MAX;

use crate::mail::address::Address;
use crate::mail::envelope::{Envelope, Recipient, RecipientState};
use crate::mail::job::Destination;
use crate::mail::outcome::{Attempt, Outcome, Report};
use crate::mail::status::{EnhancedStatus, StatusClass};
use crate::mail::time::Timestamp;
use crate::mail::verdict::{MessageState, OriginalError, Verdict};
use draft::Draft;

/// Where an address goes; the error says why nowhere.
pub type Route<'a> = &'a dyn Fn(&Address) -> Result<Destination, String>;

/// Why a job is judged.
#[derive(Clone, Copy, Debug)]
pub enum Occasion<'a> {
    /// An attempt has ended like this.
    Attempted(&'a Attempt),
    /// No attempt: Timeout.queuereturn=now, or failures that have waited long enough to be reported.
    Deadline,
}

/// The verdict, and what the operator is to be told of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// For the store.
    pub verdict: Verdict,
    /// For the log.
    pub notices: Vec<Notice>,
    /// Failures stay unreported for now: judge an open job of the message by [`Occasion::Deadline`]
    /// at this time, unless an attempt of one comes first.
    pub report_due: Option<Timestamp>,
}

/// One event of a verdict for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// `verdict.reports[report]` was made.
    Reported {
        /// Its place among the reports, which is that of its message among those accepted.
        report: usize,
        /// The word before the text: `DSN`, `sender notify`, `return to sender`, `postmaster notify`.
        label: &'static str,
        /// `User unknown`
        text: String,
    },
    /// The message could not be read for a report on this attempt: it is still owed, and `report_due` soon.
    Postponed {
        /// Why.
        text: String,
    },
    /// Recipients of a report failed and nobody is left to be told.
    Dropped {
        /// What failed.
        text: String,
        /// It is what went to the postmaster: DeadLetterDrop is the last resort.
        to_dead_letter: bool,
    },
}

/// Judges one job of a message at `now`, the end of the attempt. `jitter` lies between 0 and 1.
///
/// # Errors
/// [`OriginalError`] when a report is due and the message cannot be read for it, unless a peer was asked: then its word counts,
/// and the report is postponed.
pub fn decide(
    plan: &Plan,
    state: &MessageState<'_>,
    occasion: Occasion<'_>,
    now: Timestamp,
    jitter: f64,
    route: Route<'_>,
) -> Result<Decision, OriginalError> {
    let attempted = matches!(occasion, Occasion::Attempted(_));
    let without_reports = || {
        let mut draft = Draft::new(plan, state, now, route);
        if let Occasion::Attempted(attempt) = occasion {
            draft.take(attempt);
        }
        draft.give_up(attempted);
        draft.schedule(attempted, jitter);
        draft
    };
    let mut draft = without_reports();
    match (draft.report(attempted), occasion) {
        (Ok(()), _) => {}
        (Err(error), Occasion::Attempted(Attempt::Tried(_))) => {
            draft = without_reports();
            draft.postpone(&error);
        }
        (Err(error), Occasion::Attempted(Attempt::Unreachable(_)) | Occasion::Deadline) => {
            return Err(error);
        }
    }
    Ok(draft.finish())
}

/// What the outcome of one recipient makes of it: also for checkpoints in mid-job. `Replaced` counts as done, with
/// nothing owed: its replacements carry on what the sender asked.
pub fn recipient_state(
    plan: &Plan,
    envelope: &Envelope,
    recipient: &Recipient,
    outcome: &Outcome,
    now: Timestamp,
) -> RecipientState {
    let receipts = !envelope.reverse_path.is_null() && !plan.privacy.noreceipts;
    let receipt = receipts && recipient.notify.success();
    let done = |report: &Report, relayed: bool, reported: bool| RecipientState::Done {
        report: Box::new(report.clone()),
        relayed,
        reported,
    };
    match outcome {
        Outcome::Delivered(report) => done(report, false, !receipt),
        Outcome::Relayed { report, dsn_aware, by_aware } => {
            let owed = receipts && envelope.owes_relayed(recipient, *dsn_aware, *by_aware);
            done(report, true, !owed)
        }
        Outcome::Deferred(report) => RecipientState::Open(Some(Box::new(report.clone()))),
        Outcome::Failed(report) if plan.soft_bounce => {
            let status = report.status.with_class(StatusClass::Transient);
            RecipientState::Open(Some(Box::new(Report { status, ..report.clone() })))
        }
        Outcome::Failed(report) => {
            let status = report.status.with_class(StatusClass::Permanent);
            failed(envelope, recipient, Report { status, ..report.clone() })
        }
        Outcome::Replaced(_) => {
            done(&plain(EnhancedStatus::new(2, 1, 5), "Expanded", now), false, true)
        }
    }
}

/// Failed, and owed to the sender unless he wants no word. NOTIFY does not bind a report of ours, whose failure is
/// the postmaster's to know.
fn failed(envelope: &Envelope, recipient: &Recipient, report: Report) -> RecipientState {
    let wanted = envelope.is_report() || recipient.notify.failure();
    RecipientState::Failed { report: Box::new(report), reported: !wanted }
}

fn plain(status: EnhancedStatus, text: &str, at: Timestamp) -> Report {
    Report { status, text: text.to_owned(), reply: None, command: None, remote: None, at }
}
