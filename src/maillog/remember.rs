//! Events as the history keeps them: the same facts as the line of the log, in fields.

use std::time::Duration;

use super::Maillog;
use crate::mail::address::Address;
use crate::mail::envelope::Envelope;
use crate::mail::history::{Fate, RECIPIENTS_MAX, What};
use crate::mail::job::Job;
use crate::mail::outcome::{Attempt, Outcome, Report};
use crate::mail::queue_id::QueueId;
use crate::store::history::cut;

pub(super) fn accepted(envelope: &Envelope, recipients: u32) -> What {
    What::Accepted {
        sender: envelope.reverse_path.mailbox().map_or("", Address::as_str).to_owned(),
        relay: envelope.relay.clone(),
        protocol: envelope.protocol.clone(),
        message_id: cut(&envelope.message_id),
        size: envelope.size,
        recipients,
    }
}

pub(super) fn reported(report: QueueId, label: &str, text: &str) -> What {
    What::Reported { report, label: label.to_owned(), text: cut(text) }
}

pub(super) fn held(reason: &str) -> What {
    What::Held { reason: cut(reason) }
}

pub(super) fn operated(deed: &str, operator: &str) -> What {
    What::Operated { deed: cut(deed), operator: operator.to_owned() }
}

/// What neighbouring recipients of an attempt met in common.
struct Group<'a> {
    fate: Fate,
    /// None for a replaced recipient.
    report: Option<&'a Report>,
    text: String,
    recipients: Vec<String>,
}

impl Maillog {
    /// An event for each group of recipients that met the same, at most [`RECIPIENTS_MAX`] of them.
    pub(super) fn remember_attempt(&self, job: &Job, attempt: &Attempt, took: Duration) {
        if self.owner.history.get().is_none() {
            return;
        }
        let mut last: Option<Group<'_>> = None;
        let all = job.recipients.iter().map(|(_, recipient)| &recipient.address);
        match attempt {
            Attempt::Unreachable(report) => {
                let (fate, text) = (Fate::Deferred, cut(&report.deferral()));
                for address in all {
                    let group = (fate, Some(report), text.as_str());
                    self.add(&mut last, group, address, job, took);
                }
            }
            // Both are in the job's order.
            Attempt::Tried(outcomes) => {
                for ((_, outcome), address) in outcomes.iter().zip(all) {
                    let group = (fate(outcome), outcome.report(), &*cut(&outcome.stat()));
                    self.add(&mut last, group, address, job, took);
                }
            }
        }
        if let Some(group) = last {
            self.remember_group(group, job, took);
        }
    }

    /// Adds a recipient to the group, or tells of the group and begins the next.
    fn add<'a>(
        &self,
        last: &mut Option<Group<'a>>,
        (fate, report, text): (Fate, Option<&'a Report>, &str),
        address: &Address,
        job: &Job,
        took: Duration,
    ) {
        let address = address.as_str().to_owned();
        let is_same = |group: &Group<'_>| {
            group.fate == fate
                && group.text == text
                && group.report.map(|report| (report.status, &report.remote))
                    == report.map(|report| (report.status, &report.remote))
                && group.recipients.len() < RECIPIENTS_MAX
        };
        match last {
            Some(group) if is_same(group) => group.recipients.push(address),
            _ => {
                let next = Group { fate, report, text: text.to_owned(), recipients: vec![address] };
                if let Some(group) = last.replace(next) {
                    self.remember_group(group, job, took);
                }
            }
        }
    }

    fn remember_group(&self, group: Group<'_>, job: &Job, took: Duration) {
        let remote = group.report.and_then(|report| report.remote.as_ref());
        let relay = remote.map_or_else(String::new, |host| match host.address.is_empty() {
            true => host.name.clone(),
            false => format!("{} [{}]", host.name, host.address),
        });
        let status = group.report.map_or_else(String::new, |report| report.status.to_string());
        self.remember(job.id.queue_id, || What::Attempted {
            recipients: group.recipients,
            destination: job.destination.next_hop.clone(),
            relay,
            fate: group.fate,
            status,
            text: group.text,
            took: took.as_millis() as u64,
        });
    }
}

fn fate(outcome: &Outcome) -> Fate {
    match outcome {
        Outcome::Delivered(_) | Outcome::Relayed { .. } => Fate::Sent,
        Outcome::Failed(_) => Fate::Failed,
        Outcome::Deferred(_) => Fate::Deferred,
        Outcome::Replaced(_) => Fate::Expanded,
    }
}
