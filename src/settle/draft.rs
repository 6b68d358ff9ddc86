//! A verdict in the making: outcomes become states, deadlines close what is left, the rest gets its next attempt.

use super::{Decision, Notice, Plan, Route, expiry, failed, plain, recipient_state};
use crate::mail::envelope::{Recipient, RecipientState};
use crate::mail::outcome::{Attempt, Outcome, Report};
use crate::mail::status::{EnhancedStatus, StatusClass};
use crate::mail::time::Timestamp;
use crate::mail::verdict::{MessageState, Verdict};

/// A verdict in the making.
pub(super) struct Draft<'a> {
    pub(super) plan: &'a Plan,
    pub(super) state: &'a MessageState<'a>,
    pub(super) now: Timestamp,
    pub(super) route: Route<'a>,
    /// New states by number in the job; none where nothing changed.
    changed: Vec<Option<RecipientState>>,
    /// What the destination as such met in this attempt.
    unreachable: Option<&'a Report>,
    pub(super) verdict: Verdict,
    pub(super) notices: Vec<Notice>,
    pub(super) report_due: Option<Timestamp>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(
        plan: &'a Plan,
        state: &'a MessageState<'a>,
        now: Timestamp,
        route: Route<'a>,
    ) -> Self {
        Draft {
            plan,
            state,
            now,
            route,
            changed: vec![None; state.job.recipients.len()],
            unreachable: None,
            verdict: Verdict::default(),
            notices: Vec::new(),
            report_due: None,
        }
    }

    /// Recipients of the job with their states as they are by now.
    pub(super) fn recipients(
        &self,
    ) -> impl Iterator<Item = (usize, &'a Recipient, &RecipientState)> {
        self.state.job.recipients.iter().zip(&self.changed).enumerate().map(
            |(number, (recipient, changed))| {
                (number, recipient, changed.as_ref().unwrap_or(&recipient.state))
            },
        )
    }

    pub(super) fn set(&mut self, number: usize, state: RecipientState) {
        if let Some(slot) = self.changed.get_mut(number) {
            *slot = Some(state);
        }
    }

    fn open(&self) -> Vec<usize> {
        let open = self.recipients().filter(|(_, _, state)| state.is_open());
        open.map(|(number, _, _)| number).collect()
    }

    /// Gives every open recipient the state its outcome makes of it. An outcome for one that is not open (any more) was
    /// counted before: at a checkpoint, or in a settle whose answer was lost.
    pub(super) fn take(&mut self, attempt: &'a Attempt) {
        match attempt {
            Attempt::Unreachable(report) if report.status.class() == StatusClass::Permanent => {
                let outcome = Outcome::Failed(report.clone());
                for number in self.open() {
                    self.take_one(number, &outcome);
                }
            }
            Attempt::Unreachable(report) => {
                self.unreachable = Some(report);
                self.verdict.status = Some(report.deferral());
            }
            Attempt::Tried(outcomes) => {
                for (number, outcome) in outcomes {
                    self.take_one(*number as usize, outcome);
                }
            }
        }
    }

    fn take_one(&mut self, number: usize, outcome: &Outcome) {
        let Some(recipient) = self.state.job.recipients.get(number) else { return };
        let counted = matches!(self.changed.get(number), Some(Some(_)));
        if counted || !recipient.state.is_open() {
            return;
        }
        let state = match outcome {
            Outcome::Replaced(others) => self.replace(recipient, others, outcome),
            _ => recipient_state(self.plan, self.state.envelope, recipient, outcome, self.now),
        };
        if let RecipientState::Open(Some(report)) = &state {
            self.verdict.status = Some(report.deferral());
        }
        self.set(number, state);
    }

    /// An alias stands for others: they become jobs. One that goes nowhere, or an alias for nobody, fails the alias,
    /// because mail must not vanish in a list with a mistake in it.
    fn replace(
        &mut self,
        recipient: &Recipient,
        others: &[Recipient],
        outcome: &Outcome,
    ) -> RecipientState {
        let mut trouble = others.is_empty().then(|| "Alias for nobody".to_owned());
        for other in others {
            match (self.route)(&other.address) {
                Ok(destination) => self.verdict.replacements.push((destination, other.clone())),
                Err(reason) => trouble = Some(format!("{}: {reason}", other.address)),
            }
        }
        match trouble {
            None => recipient_state(self.plan, self.state.envelope, recipient, outcome, self.now),
            Some(reason) => failed(
                self.state.envelope,
                recipient,
                plain(EnhancedStatus::new(5, 1, 1), &reason, self.now),
            ),
        }
    }

    /// The last word on an open recipient: what this attempt met, else what it met itself before, else what the job shows.
    pub(super) fn last_word(&self, state: &RecipientState) -> Report {
        match (self.unreachable, state) {
            (Some(report), _) => report.clone(),
            (None, RecipientState::Open(Some(report))) => (**report).clone(),
            (None, _) => {
                let job = self.state.job;
                let text = job.status.as_deref().unwrap_or_default();
                let text = text.strip_prefix("Deferred: ").unwrap_or(text);
                plain(expiry::EXPIRED, text, job.last_attempt.unwrap_or(self.now))
            }
        }
    }

    /// Past the deadline every recipient still open has failed.
    pub(super) fn give_up(&mut self, attempted: bool) {
        let timeouts = self.plan.timeouts(self.state.envelope.timeouts);
        if !expiry::gives_up(timeouts, self.state.envelope, attempted, self.now) {
            return;
        }
        let envelope = self.state.envelope;
        let given_up: Vec<(usize, RecipientState)> = self
            .recipients()
            .filter(|(_, _, state)| state.is_open())
            .map(|(number, recipient, state)| {
                let report = expiry::expired(self.last_word(state), envelope, self.now);
                (number, failed(envelope, recipient, report))
            })
            .collect();
        for (number, state) in given_up {
            self.set(number, state);
        }
    }

    /// When the open rest is due, and what mailq shows for it.
    pub(super) fn schedule(&mut self, attempted: bool, jitter: f64) {
        self.verdict.counted = attempted;
        let job = self.state.job;
        if self.open().is_empty() {
            self.verdict.status = None;
            return;
        }
        let envelope = self.state.envelope;
        let mut next = self.plan.backoff.retry_at(envelope.arrival, self.now, jitter);
        if self.plan.backoff.interval.is_some() {
            // Deadlines are judged after an attempt: one more is made when the time is over, not an interval later.
            let timeouts = self.plan.timeouts(envelope.timeouts);
            let deadline = expiry::next_deadline(timeouts, envelope, self.state.warned, self.now);
            next = deadline.map_or(next, |deadline| next.min(deadline));
        }
        self.verdict.retry_at = Some(if attempted { next } else { job.due });
        self.verdict.status = self.verdict.status.take().or_else(|| job.status.clone());
    }

    pub(super) fn finish(mut self) -> Decision {
        let changed = std::mem::take(&mut self.changed).into_iter().zip(0..);
        self.verdict.recipients =
            changed.filter_map(|(state, number)| Some((number, state?))).collect();
        Decision { verdict: self.verdict, notices: self.notices, report_due: self.report_due }
    }
}
