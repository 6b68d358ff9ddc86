//! The reports of a verdict: whether they are due, to whom they go, and with how much of the original.

use std::time::Duration;

use super::draft::Draft;
use super::dsn::{self, Ending, Item, Kind, Letter, Original};
use super::expiry::{self, Warning};
use super::{Notice, REPORT_DELAY_MAX};
use crate::mail::address::Address;
use crate::mail::envelope::{Envelope, Recipient, RecipientState, Ret, TimeoutClass};
use crate::mail::outcome::Report;
use crate::mail::status::StatusClass;
use crate::mail::verdict::OriginalError;

/// Recipients in one report at most: as many as one job has.
pub const REPORT_RECIPIENTS_MAX: usize = 1000;
/// Octets that the recipients of one report may come to, so that it fits the batch that makes it.
const REPORT_OCTETS_MAX: usize = 512 * 1024;
/// Octets one recipient takes in a report beside its address, which stands there up to five times.
const ITEM_OCTETS: usize = 900;
/// A report about a report shows it whole: it is an original within BounceSizeLimit and what we wrote around it.
const REPORT_WRAPPING_MAX: usize = 64 * 1024;
/// How soon a report is tried again for which the message could not be read.
const POSTPONED_FOR: Duration = Duration::from_secs(10);
/// Octets of header looked at for our own mark: it stands within the first lines.
const MARK_WITHIN: usize = 4096;

/// Where a recipient that is owed a report stands.
#[derive(Clone, Copy)]
enum Place {
    /// In the job at hand.
    Here(usize),
    /// In another job: its number, the place there.
    Elsewhere(u32, u32),
}

/// A recipient that is owed a report, with its state as this verdict leaves it.
struct Owed {
    place: Place,
    recipient: Recipient,
}

impl Owed {
    fn item(&self, envelope: &Envelope) -> Option<Item<'_>> {
        let ending = match &self.recipient.state {
            RecipientState::Open(_) => return None,
            RecipientState::Failed { report, .. } => Ending::Failed(report),
            RecipientState::Done { report, relayed: true, .. } => match envelope.deliver_by {
                Some(by) if by.trace || !self.recipient.notify.success() => {
                    Ending::RelayedBy(report, by)
                }
                Some(_) | None => Ending::Relayed(report),
            },
            RecipientState::Done { report, relayed: false, .. } => Ending::Delivered(report),
        };
        Some(Item {
            address: &self.recipient.address,
            orcpt: self.recipient.orcpt.as_deref(),
            ending,
        })
    }

    fn is_failed(&self) -> bool {
        matches!(self.recipient.state, RecipientState::Failed { .. })
    }
}

impl Draft<'_> {
    pub(super) fn report(&mut self, attempted: bool) -> Result<(), OriginalError> {
        let owed = self.owed();
        let owed = if self.is_due(&owed) { owed } else { Vec::new() };
        let warning = if attempted { self.warning() } else { None };
        // One message tells it all: receipts go along with a failure or a warning, and alone only when there is neither.
        match (owed.iter().any(Owed::is_failed), warning) {
            (true, None) => self.tell_failures(owed),
            (true, Some(warning)) => {
                self.tell_failures(owed)?;
                self.warn(warning, Vec::new())
            }
            (false, Some(warning)) => self.warn(warning, owed),
            (false, None) if owed.is_empty() => Ok(()),
            (false, None) => self.tell_sender(Kind::Receipt, owed),
        }
    }

    /// The message cannot be read now: what is owed stays so, and a warning waits for the next attempt.
    pub(super) fn postpone(&mut self, error: &OriginalError) {
        if !self.owed().is_empty() {
            self.report_due = Some(self.now.after(POSTPONED_FOR));
        }
        self.notices.push(Notice::Postponed { text: error.to_string() });
    }

    /// Whoever the sender is still to be told about, in this job and others.
    fn owed(&self) -> Vec<Owed> {
        let here = self.recipients().filter_map(|(number, recipient, state)| match state {
            RecipientState::Done { reported: false, .. }
            | RecipientState::Failed { reported: false, .. } => Some(Owed {
                place: Place::Here(number),
                recipient: Recipient { state: state.clone(), ..recipient.clone() },
            }),
            _ => None,
        });
        let elsewhere = self.state.unreported.iter().map(|(job, place, recipient)| Owed {
            place: Place::Elsewhere(*job, *place),
            recipient: recipient.clone(),
        });
        here.chain(elsewhere.filter(|owed| !owed.recipient.state.is_open())).collect()
    }

    /// Whether reports go out now; else notes when they must.
    fn is_due(&mut self, owed: &[Owed]) -> bool {
        if owed.is_empty() {
            return false;
        }
        let others_open = self.state.others_open || !self.verdict.replacements.is_empty();
        let first = owed.iter().filter_map(|owed| match &owed.recipient.state {
            RecipientState::Failed { report, .. } | RecipientState::Done { report, .. } => {
                Some(report.at)
            }
            RecipientState::Open(_) => None,
        });
        let since = first.chain(self.state.unreported_since).min().unwrap_or(self.now);
        let limit = since.min(self.now).after(REPORT_DELAY_MAX);
        let nothing_to_come = match self.verdict.retry_at {
            None => !others_open,
            // Only this job can add to the report, and not before it would be overdue.
            Some(retry_at) => !others_open && retry_at >= limit,
        };
        if nothing_to_come || limit <= self.now {
            // A full page of others may have a next one.
            let full = self.state.unreported.len() >= REPORT_RECIPIENTS_MAX;
            self.report_due = full.then_some(self.now);
            return true;
        }
        self.report_due = Some(limit);
        false
    }

    /// What to warn of, if a warning is due and somebody open wants one.
    fn warning(&self) -> Option<Warning> {
        let timeouts = self.plan.timeouts(self.state.envelope.timeouts);
        let due = expiry::warns(timeouts, self.state.envelope, self.now);
        let wanted = || {
            self.recipients()
                .any(|(_, recipient, state)| state.is_open() && recipient.notify.delay())
        };
        due.filter(|_| !self.state.warned && wanted())
    }

    fn warn(&mut self, warning: Warning, receipts: Vec<Owed>) -> Result<(), OriginalError> {
        let delayed: Vec<(&Address, Option<&str>, Report)> = self
            .recipients()
            .filter(|(_, recipient, state)| state.is_open() && recipient.notify.delay())
            .map(|(_, recipient, state)| {
                (&recipient.address, recipient.orcpt.as_deref(), self.last_word(state))
            })
            .collect();
        let items: Vec<Item<'_>> = delayed
            .iter()
            .map(|(address, orcpt, report)| Item {
                address,
                orcpt: *orcpt,
                ending: Ending::Delayed(report),
            })
            .chain(receipts.iter().filter_map(|owed| owed.item(self.state.envelope)))
            .collect();
        let Some(sender) = self.state.envelope.reverse_path.mailbox() else { return Ok(()) };
        let kind = Kind::Delay(warning);
        let whole = self.state.envelope.ret != Some(Ret::Headers);
        let original = self.original(whole, 0)?;
        self.send(kind, sender, &items, &original);
        let text = warning.subject();
        self.notice("sender notify", text.clone());
        self.verdict.warned = true;
        self.verdict.status = Some(text);
        self.mark_reported(&receipts);
        Ok(())
    }

    /// Failures go to the sender; those of the null path to the postmaster; those of what went to the postmaster nowhere.
    fn tell_failures(&mut self, owed: Vec<Owed>) -> Result<(), OriginalError> {
        if !self.state.envelope.reverse_path.is_null() {
            return self.tell_sender(Kind::Failure, owed);
        }
        let text = self.failure_text(&owed);
        let is_postmasters = self.is_postmasters()?;
        let to = match &self.plan.double_bounce_address {
            Some(address) if !is_postmasters => self.at_home(address),
            _ => {
                self.notices.push(Notice::Dropped { text, to_dead_letter: is_postmasters });
                self.mark_reported(&owed);
                return Ok(());
            }
        };
        let body = !self.plan.privacy.nobodyreturn;
        let original = self.original(body, REPORT_WRAPPING_MAX)?;
        for chunk in chunks(&owed) {
            let items: Vec<Item<'_>> = items(chunk, self.state.envelope);
            self.send(Kind::DoubleBounce, &to, &items, &original);
            self.notice("return to sender", text.clone());
        }
        self.mark_reported(&owed);
        Ok(())
    }

    fn tell_sender(&mut self, kind: Kind, owed: Vec<Owed>) -> Result<(), OriginalError> {
        let envelope = self.state.envelope;
        let Some(sender) = envelope.reverse_path.mailbox() else { return Ok(()) };
        let is_failure = matches!(kind, Kind::Failure);
        let whole = is_failure && envelope.ret != Some(Ret::Headers) && envelope.precedence >= 0;
        let original = self.original(whole, 0)?;
        let (label, text) = match is_failure {
            true => self.failure_notice(&owed),
            false => ("DSN", "Return receipt".to_owned()),
        };
        let copy = self
            .plan
            .postmaster_copy
            .as_ref()
            .filter(|_| is_failure && envelope.precedence >= 0 && !self.is_of_class_dsn());
        let header = copy.map(|address| Ok((self.at_home(address), self.original(false, 0)?)));
        let header = header.transpose()?;
        for chunk in chunks(&owed) {
            let items: Vec<Item<'_>> = items(chunk, self.state.envelope);
            self.send(kind, sender, &items, &original);
            self.notice(label, text.clone());
            if let Some((address, header)) = &header {
                self.send(Kind::PostmasterCopy, address, &items, header);
                self.notice("postmaster notify", text.clone());
            }
        }
        self.mark_reported(&owed);
        Ok(())
    }

    fn is_of_class_dsn(&self) -> bool {
        self.state.envelope.timeouts == TimeoutClass::Dsn
    }

    fn failure_notice(&self, owed: &[Owed]) -> (&'static str, String) {
        let text = self.failure_text(owed);
        // Sendmail logs the end of a long trial by the same word as the warning before it.
        let expired = text.starts_with("Cannot send message for");
        (if expired { "sender notify" } else { "DSN" }, text)
    }

    /// `User unknown`, `Cannot send message for 5 days`: the first failure in words.
    fn failure_text(&self, owed: &[Owed]) -> String {
        let first = owed.iter().find_map(|owed| match &owed.recipient.state {
            RecipientState::Failed { report, .. } => Some(report),
            _ => None,
        });
        match first {
            Some(report) if report.status.class() == StatusClass::Transient => {
                format!("Cannot send message for {}", self.tried_for())
            }
            Some(report) => report.failure(),
            None => String::new(),
        }
    }

    fn tried_for(&self) -> String {
        let timeouts = self.plan.timeouts(self.state.envelope.timeouts);
        expiry::tried_for(timeouts, self.state.envelope, self.now)
    }

    /// Whether the message is itself one that went to the postmaster about a failed report: then nothing more is sent.
    /// A stranger cannot claim it: only reports made here lack the name of who gave them.
    fn is_postmasters(&self) -> Result<bool, OriginalError> {
        if !self.state.envelope.is_report() {
            return Ok(false);
        }
        let header = (self.state.original)(MARK_WITHIN)?;
        Ok(dsn::is_postmaster_notification(&header))
    }

    /// The original for a report: whole if asked for and not above BounceSizeLimit and `extra`, else its header.
    fn original(&self, whole: bool, extra: usize) -> Result<Original, OriginalError> {
        let limit = self.plan.bounce_size_limit.saturating_add(extra);
        let fits = |octets: u64| usize::try_from(octets).is_ok_and(|octets| octets <= limit);
        let envelope = self.state.envelope;
        if whole && !self.plan.privacy.nobodyreturn && fits(envelope.size) {
            return Ok(Original::Whole((self.state.original)(limit)?));
        }
        let header_len = usize::try_from(envelope.header_len).unwrap_or(usize::MAX);
        Ok(Original::Header((self.state.original)(header_len.min(limit))?))
    }

    /// An administrator's address with our name, so that it means the same everywhere.
    fn at_home(&self, address: &Address) -> Address {
        // Our own name is a checked domain; were it not, the local name still reaches the administrator here.
        address.clone().qualified(&self.plan.host_name).unwrap_or_else(|_| address.clone())
    }

    fn send(&mut self, kind: Kind, to: &Address, items: &[Item<'_>], original: &Original) {
        let letter = Letter {
            kind,
            to,
            id: self.state.id,
            envelope: self.state.envelope,
            items,
            original,
            tried_for: self.tried_for(),
            now: self.now,
        };
        let report = dsn::compose(self.plan, &letter);
        let destination = (self.route)(&report.to);
        self.verdict.reports.push((report, destination));
    }

    /// Says what the report made last is about.
    fn notice(&mut self, label: &'static str, text: String) {
        let report = self.verdict.reports.len().saturating_sub(1);
        self.notices.push(Notice::Reported { report, label, text });
    }

    fn mark_reported(&mut self, owed: &[Owed]) {
        for owed in owed {
            match owed.place {
                Place::Elsewhere(job, place) => self.verdict.reported.push((job, place)),
                Place::Here(number) => {
                    let mut state = owed.recipient.state.clone();
                    match &mut state {
                        RecipientState::Done { reported, .. }
                        | RecipientState::Failed { reported, .. } => *reported = true,
                        RecipientState::Open(_) => {}
                    }
                    self.set(number, state);
                }
            }
        }
    }
}

fn items<'a>(owed: &'a [Owed], envelope: &Envelope) -> Vec<Item<'a>> {
    owed.iter().filter_map(|owed| owed.item(envelope)).collect()
}

/// Cuts a long list into reports that each fit a batch.
fn chunks(owed: &[Owed]) -> Vec<&[Owed]> {
    let mut chunks = Vec::new();
    let (mut start, mut octets) = (0, 0);
    for (i, one) in owed.iter().enumerate() {
        let size = ITEM_OCTETS + 5 * one.recipient.address.as_str().len();
        if i > start && (i - start == REPORT_RECIPIENTS_MAX || octets + size > REPORT_OCTETS_MAX) {
            chunks.push(&owed[start..i]);
            (start, octets) = (i, 0);
        }
        octets += size;
    }
    chunks.push(&owed[start..]);
    chunks
}
