//! A job is judged: the verdict on what it met is decided and applied in one batch, and told to the log.
//!
//! What a peer said is never lost here. When the message cannot be read for a report on it (its body file is being checked after a
//! crash), the outcome is recorded and the report follows (`report.rs`); when it is about to be dropped for good, a copy is saved first
//! (`dead_letter.rs`). A crash before the batch leaves the job as it was.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::House;
use super::dead_letter;
use crate::config::Config;
use crate::mail::job::Job;
use crate::mail::outcome::Attempt;
use crate::mail::time::Timestamp;
use crate::mail::verdict::MessageState;
use crate::route;
use crate::settle::{self, Notice, Plan, RunSettings};
use crate::store::{Decide, Settled, StoreError};

/// A settled job: what the store did, and when what is still unreported must be judged again.
pub(super) struct Judged {
    pub(super) settled: Settled,
    pub(super) report_due: Option<Timestamp>,
}

/// Why a job is judged, owned: the store may ask for the verdict on a thread of its own.
pub(super) enum Occasion {
    Attempted(Attempt),
    Deadline,
}

/// What a job is judged by.
struct Judging {
    config: Arc<Config>,
    settings: RunSettings,
    interval: Option<Duration>,
    now: Timestamp,
    jitter: f64,
    occasion: Occasion,
}

/// What the last call of the closure decided: the store calls it once, or again after a conflict.
#[derive(Default)]
struct Noted {
    notices: Vec<Notice>,
    report_due: Option<Timestamp>,
    /// It did not decide, because the message is about to be dropped and is to be saved first.
    wants_letter: bool,
}

/// The copy of a message in DeadLetterDrop.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Letter {
    /// It is no report of ours, or there is no such file.
    Unwanted,
    /// Without it the message must not be dropped.
    Unsaved,
    Saved,
}

/// Asks for the verdict, on whatever thread.
fn decider(judging: &Arc<Judging>, noted: &Arc<Mutex<Noted>>, letter: Letter) -> Decide {
    let (judging, noted) = (judging.clone(), noted.clone());
    Box::new(move |state: &MessageState<'_>| {
        let Judging { config, settings, interval, now, jitter, occasion } = &*judging;
        let plan = Plan::new(config, *interval, config.time_zone.clone()).for_run(settings);
        let to =
            |address: &_| route::destination(config, address).map_err(|reply| reply.to_string());
        let occasion = match occasion {
            Occasion::Attempted(attempt) => settle::Occasion::Attempted(attempt),
            Occasion::Deadline => settle::Occasion::Deadline,
        };
        let decision = settle::decide(&plan, state, occasion, *now, *jitter, &to)?;
        let is_last_resort = |n: &Notice| matches!(n, Notice::Dropped { to_dead_letter: true, .. });
        let wants_letter = letter == Letter::Unsaved && decision.notices.iter().any(is_last_resort);
        let (notices, report_due) = (decision.notices, decision.report_due);
        *noted.lock().unwrap_or_else(PoisonError::into_inner) =
            Noted { notices, report_due, wants_letter };
        if wants_letter {
            return Err(StoreError::Unavailable(
                "it is to be saved in DeadLetterDrop first".into(),
            ));
        }
        Ok(decision.verdict)
    })
}

/// Decides on a job and applies the verdict in one batch. A report that can be neither delivered nor saved is held instead.
pub(super) async fn judge(
    house: &House,
    job: &Job,
    occasion: Occasion,
    settings: RunSettings,
    interval: Option<Duration>,
) -> Result<Judged, StoreError> {
    let judging = Judging {
        config: house.config.clone(),
        settings,
        interval,
        now: house.world.clock.now(),
        jitter: fastrand::f64(),
        occasion,
    };
    let judging = Arc::new(judging);
    let mut letter =
        if dead_letter::is_wanted(house, job) { Letter::Unsaved } else { Letter::Unwanted };
    let (settled, noted) = loop {
        let noted = Arc::new(Mutex::new(Noted::default()));
        let settled = house.store.settle(job, decider(&judging, &noted, letter)).await;
        let noted = std::mem::take(&mut *noted.lock().unwrap_or_else(PoisonError::into_inner));
        if !noted.wants_letter {
            break (settled?, noted);
        }
        // Nothing was settled: first what is about to be dropped is saved (`dead_letter.rs`).
        if !dead_letter::save(house, job).await? {
            let settled = Settled { accepted: Vec::new(), finished: false };
            return Ok(Judged { settled, report_due: None });
        }
        letter = Letter::Saved;
    };
    let Noted { notices, report_due, .. } = noted;
    let id = job.id.queue_id;
    for notice in notices {
        match notice {
            Notice::Reported { report, label, text } => {
                if let Some(accepted) = settled.accepted.get(report) {
                    house.maillog.report_made(id, accepted.id, label, &text);
                }
            }
            Notice::Postponed { text } => {
                house.maillog.warning(Some(id), &format!("{text}; what it says is reported later"));
            }
            // Its own line says where it is.
            Notice::Dropped { to_dead_letter: true, .. } if letter == Letter::Saved => {}
            Notice::Dropped { text, .. } => house.maillog.report_dropped(id, &text),
        }
    }
    if settled.finished {
        house.maillog.done(id, judging.now.since(job.envelope.arrival), job.attempts + 1);
    }
    Ok(Judged { settled, report_due })
}

#[cfg(test)]
mod tests;
