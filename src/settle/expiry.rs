//! Deadlines: when a message is given up, when its sender is warned, how long a failure may stay untold.
//!
//! Judged after an attempt and never by age alone, so days of downtime bounce nothing untried; the one exception is
//! Timeout.queuereturn=now, which gives up without an attempt (but never a report).

use std::time::Duration;

use crate::config::{GivingUp, QueueTimeouts};
use crate::mail::envelope::{Envelope, TimeoutClass};
use crate::mail::outcome::Report;
use crate::mail::status::EnhancedStatus;
use crate::mail::time::{Timestamp, in_words};

/// A failure is reported at most this long after it happened, even while other recipients are still open: long
/// enough for a list to be gone through once, so that its dead domains share one report.
pub const REPORT_DELAY_MAX: Duration = Duration::from_secs(300);

/// Delivery time expired (RFC 3463 3.5): the status of a recipient given up for its age. As a failure always has class 5
/// otherwise, class 4 in a failed recipient's status means exactly this.
pub const EXPIRED: EnhancedStatus = EnhancedStatus::new(4, 4, 7);

/// Whether open recipients are given up at `now`; `attempted`, an attempt has just ended.
pub fn gives_up(
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
    match timeouts.giving_up {
        GivingUp::After(limit) if !limit.is_zero() => Some(envelope.arrival.after(limit)),
        GivingUp::After(_) | GivingUp::Now => None,
    }
}

/// The age to warn of, when a warning is due at `now` for a message not yet warned about.
pub fn warns(timeouts: QueueTimeouts, envelope: &Envelope, now: Timestamp) -> Option<Duration> {
    let limit = timeouts.warn.filter(|limit| !limit.is_zero())?;
    (envelope.may_warn() && now >= envelope.arrival.after(limit)).then_some(limit)
}

/// The first moment after `now` from which an attempt warns or gives up; none when there is none to come. The next attempt
/// is due then at the latest.
pub fn next_deadline(
    timeouts: QueueTimeouts,
    envelope: &Envelope,
    warned: bool,
    now: Timestamp,
) -> Option<Timestamp> {
    let warns = timeouts.warn.filter(|limit| !limit.is_zero() && !warned && envelope.may_warn());
    let warns = warns.map(|limit| envelope.arrival.after(limit));
    let gives_up = retry_until(timeouts, envelope);
    [warns, gives_up].into_iter().flatten().filter(|deadline| *deadline > now).min()
}

/// The last word on a recipient turned into the failure it becomes when given up.
pub fn expired(last: Report) -> Report {
    Report { status: EXPIRED, ..last }
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
