//! Deadlines: when a message is given up, when its sender is warned, how long a failure may stay untold.
//!
//! Judged after an attempt and never by age alone, so days of downtime bounce nothing untried; the exceptions are
//! Timeout.queuereturn=now, which gives up without an attempt (but never a report), and a time that the message itself is to be
//! delivered by (RFC 2852): once it is over, by-mode R lets nobody take it any more.

use std::time::Duration;

use crate::config::{GivingUp, QueueTimeouts};
use crate::mail::envelope::{ByMode, Envelope, TimeoutClass};
use crate::mail::outcome::Report;
use crate::mail::status::EnhancedStatus;
use crate::mail::time::{Timestamp, in_words};

/// A failure is reported at most this long after it happened, even while other recipients are still open: long
/// enough for a list to be gone through once, so that its dead domains share one report.
pub const REPORT_DELAY_MAX: Duration = Duration::from_secs(300);

/// Delivery time expired (RFC 3463 3.5): the status of a recipient given up for its age. As a failure always has class 5
/// otherwise, class 4 in a failed recipient's status means exactly this.
pub const EXPIRED: EnhancedStatus = EnhancedStatus::new(4, 4, 7);

/// Delivery time expired: the status of a recipient given up because the time of its message's own was over (RFC 2852 4.1.3).
pub const NOT_BY: EnhancedStatus = EnhancedStatus::new(5, 4, 7);

/// Whether open recipients are given up at `now`; `attempted`, an attempt has just ended.
pub fn gives_up(
    timeouts: QueueTimeouts,
    envelope: &Envelope,
    attempted: bool,
    now: Timestamp,
) -> bool {
    envelope.is_too_late(now) || is_too_old(timeouts, envelope, attempted, now)
}

fn is_too_old(
    timeouts: QueueTimeouts,
    envelope: &Envelope,
    attempted: bool,
    now: Timestamp,
) -> bool {
    match timeouts.giving_up {
        GivingUp::After(limit) => attempted && now >= envelope.arrival.after(limit),
        GivingUp::Now => {
            attempted || !(envelope.is_report() || envelope.timeouts == TimeoutClass::Dsn)
        }
    }
}

/// The moment from which an attempt is the last one; none when that is any attempt at all.
pub fn retry_until(timeouts: QueueTimeouts, envelope: &Envelope) -> Option<Timestamp> {
    let returned = returned_at(envelope);
    match timeouts.giving_up {
        GivingUp::After(limit) if !limit.is_zero() => {
            Some(envelope.arrival.after(limit)).into_iter().chain(returned).min()
        }
        GivingUp::After(_) | GivingUp::Now => None,
    }
}

fn returned_at(envelope: &Envelope) -> Option<Timestamp> {
    envelope.deliver_by_time().filter(|time| envelope.is_too_late(*time))
}

/// What a sender is warned of: one warning for each message, whatever comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Warning {
    /// It is this old (Timeout.queuewarn).
    Age(Duration),
    /// These seconds it was to be delivered in are over (RFC 2852 by-mode N).
    By(i32),
}

impl Warning {
    /// `Warning: could not send message for past 4 hours`: the subject of the report, and the log's words.
    pub fn subject(self) -> String {
        match self {
            Warning::Age(age) => {
                format!("Warning: could not send message for past {}", in_words(age))
            }
            Warning::By(seconds) => format!("Warning: Delivery time ({seconds}s) exceeded"),
        }
    }

    /// `Warning: message still undelivered after 4 hours`: in the report.
    pub fn sentence(self) -> String {
        match self {
            Warning::Age(age) => {
                format!("Warning: message still undelivered after {}", in_words(age))
            }
            Warning::By(_) => self.subject(),
        }
    }
}

/// What to warn of, when a warning is due at `now` for a message not yet warned about.
pub fn warns(timeouts: QueueTimeouts, envelope: &Envelope, now: Timestamp) -> Option<Warning> {
    if !envelope.may_warn() {
        return None;
    }
    let limit = timeouts.warn.filter(|limit| !limit.is_zero());
    let age = limit.filter(|limit| now >= envelope.arrival.after(*limit)).map(Warning::Age);
    let by = envelope.deliver_by.filter(|_| warned_at(envelope).is_some_and(|time| now >= time));
    age.or(by.map(|by| Warning::By(by.seconds)))
}

fn warned_at(envelope: &Envelope) -> Option<Timestamp> {
    let notifies = envelope.deliver_by.is_some_and(|by| by.mode == ByMode::Notify);
    envelope.deliver_by_time().filter(|_| notifies)
}

/// The first moment after `now` from which an attempt warns or gives up; none when there is none to come. The next attempt
/// is due then at the latest.
pub fn next_deadline(
    timeouts: QueueTimeouts,
    envelope: &Envelope,
    warned: bool,
    now: Timestamp,
) -> Option<Timestamp> {
    let may_warn = !warned && envelope.may_warn();
    let warns = timeouts.warn.filter(|limit| !limit.is_zero() && may_warn);
    let warns = warns.map(|limit| envelope.arrival.after(limit));
    let by = warned_at(envelope).filter(|_| may_warn);
    let gives_up = [retry_until(timeouts, envelope), returned_at(envelope)];
    [warns, by].into_iter().chain(gives_up).flatten().filter(|deadline| *deadline > now).min()
}

/// The last word on a recipient turned into the failure it becomes when given up.
pub fn expired(last: Report, envelope: &Envelope, now: Timestamp) -> Report {
    match envelope.deliver_by {
        Some(by) if envelope.is_too_late(now) => {
            let text = format!("delivery time expired {}s", by.seconds);
            Report { status: NOT_BY, text, command: None, ..last }
        }
        _ => Report { status: EXPIRED, ..last },
    }
}

/// What becomes of every recipient of a message that came to its attempt too late (RFC 2852 4.1.3: by-mode R); none when it did not.
pub fn too_late(envelope: &Envelope, now: Timestamp) -> Option<Report> {
    let none = Report {
        status: NOT_BY,
        text: String::new(),
        reply: None,
        command: None,
        remote: None,
        at: now,
    };
    envelope.is_too_late(now).then(|| expired(none, envelope, now))
}

/// `5 days`: how long it was tried for, in reports and log. A limit of nothing says the message's age.
pub fn tried_for(timeouts: QueueTimeouts, envelope: &Envelope, now: Timestamp) -> String {
    match timeouts.giving_up {
        GivingUp::After(limit) if !limit.is_zero() => in_words(limit),
        GivingUp::After(_) | GivingUp::Now => {
            let age = now.since(envelope.arrival).as_secs();
            let step = if age < 60 { 1 } else { 60 };
            in_words(Duration::from_secs(age / step * step))
        }
    }
}
