//! The settings that settling goes by: taken from the configuration once, and changed for one queue run.

use std::time::Duration;

use jiff::tz::TimeZone;

use super::backoff::Backoff;
use crate::config::{Config, GivingUp, Privacy, QueueTimeouts};
use crate::mail::address::Address;
use crate::mail::envelope::TimeoutClass;

/// Everything of the configuration that a verdict depends on.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Our name in reports.
    pub host_name: String,
    /// Zone of the dates in reports.
    pub zone: TimeZone,
    /// Timeout.queuereturn and queuewarn by class.
    pub queue_timeouts: [QueueTimeouts; 4],
    /// The -q interval, MinQueueAge, MaxQueueAge.
    pub backoff: Backoff,
    /// BounceSizeLimit: octets of the original in a report.
    pub bounce_size_limit: usize,
    /// DoubleBounceAddress: none drops.
    pub double_bounce_address: Option<Address>,
    /// PostmasterCopy.
    pub postmaster_copy: Option<Address>,
    /// ErrorHeader: lines at the top of a report of failure or delay.
    pub error_header: Option<String>,
    /// SendMimeErrors: reports are MIME.
    pub mime: bool,
    /// SoftBounce: what is refused for good is tried again.
    pub soft_bounce: bool,
    /// PrivacyOptions, of which noreceipts, nobodyreturn and noactualrecipient act here.
    pub privacy: Privacy,
}

/// What travels with one queue run instead of the daemon's own settings; none keeps those.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RunSettings {
    /// Timeout.queuereturn by class (in the order of [`TimeoutClass::ALL`]).
    pub queue_return: [Option<GivingUp>; 4],
    /// Timeout.queuewarn by class; the inner none never warns.
    pub queue_warn: [Option<Option<Duration>>; 4],
    /// MinQueueAge.
    pub min_queue_age: Option<Duration>,
    /// MaxQueueAge; the inner none lets waits not grow.
    pub max_queue_age: Option<Option<Duration>>,
}

impl RunSettings {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == RunSettings::default()
    }
}

impl Plan {
    /// The plan of `config` for a daemon with this -q interval.
    pub fn new(config: &Config, queue_interval: Option<Duration>, zone: TimeZone) -> Plan {
        Plan {
            host_name: config.host_name.clone(),
            zone,
            queue_timeouts: config.queue_timeouts,
            backoff: Backoff {
                interval: queue_interval,
                min_queue_age: config.min_queue_age,
                max_queue_age: config.max_queue_age,
            },
            bounce_size_limit: config.bounce_size_limit,
            double_bounce_address: config.double_bounce_address.clone(),
            postmaster_copy: config.postmaster_copy.clone(),
            error_header: config.error_header.clone(),
            mime: config.send_mime_errors,
            soft_bounce: config.soft_bounce,
            privacy: config.privacy,
        }
    }

    /// The same plan with what one run brought along.
    pub fn for_run(&self, run: &RunSettings) -> Plan {
        let mut plan = self.clone();
        for (timeouts, giving_up) in plan.queue_timeouts.iter_mut().zip(run.queue_return) {
            timeouts.giving_up = giving_up.unwrap_or(timeouts.giving_up);
        }
        for (timeouts, warn) in plan.queue_timeouts.iter_mut().zip(run.queue_warn) {
            timeouts.warn = warn.unwrap_or(timeouts.warn);
        }
        plan.backoff.min_queue_age = run.min_queue_age.unwrap_or(plan.backoff.min_queue_age);
        plan.backoff.max_queue_age = run.max_queue_age.unwrap_or(plan.backoff.max_queue_age);
        plan
    }

    /// The timeouts of a class.
    pub fn timeouts(&self, class: TimeoutClass) -> QueueTimeouts {
        let [normal, urgent, non_urgent, dsn] = self.queue_timeouts;
        match class {
            TimeoutClass::Normal => normal,
            TimeoutClass::Urgent => urgent,
            TimeoutClass::NonUrgent => non_urgent,
            TimeoutClass::Dsn => dsn,
        }
    }
}
