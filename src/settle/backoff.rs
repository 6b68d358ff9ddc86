//! When the open rest of a job is tried again: the -q interval, MinQueueAge and MaxQueueAge.
//!
//! Pure arithmetic; the jitter, which keeps jobs deferred together from coming back together, is an argument.

use std::time::Duration;

use crate::mail::time::Timestamp;

/// Jitter adds at most this part of the wait.
const JITTER_PERCENT: u32 = 10;

/// The waits in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    /// The -q interval; none when the daemon runs without one and only explicit runs try again.
    pub interval: Option<Duration>,
    /// MinQueueAge: the shortest wait between two attempts.
    pub min_queue_age: Duration,
    /// MaxQueueAge: waits grow with the age of the message up to this; none, they do not grow.
    pub max_queue_age: Option<Duration>,
}

impl Backoff {
    /// When to try again after an attempt that ended at `last_attempt`; `jitter` lies between 0 and 1.
    /// [`Timestamp::MAX`] without a -q interval: never by itself.
    pub fn retry_at(&self, arrival: Timestamp, last_attempt: Timestamp, jitter: f64) -> Timestamp {
        let Some(interval) = self.interval else { return Timestamp::MAX };
        let age = last_attempt.since(arrival);
        let grown = self.max_queue_age.map_or(Duration::ZERO, |cap| age.min(cap));
        let wait = interval.max(self.min_queue_age).max(grown);
        let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.0 };
        // The wait comes from the configuration, the jitter is below 1: no overflow short of 500 years.
        let extra = (wait / 100 * JITTER_PERCENT).mul_f64(jitter);
        last_attempt.after(wait.saturating_add(extra))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60;

    fn wait(interval: Option<u64>, min: u64, max: Option<u64>, age: u64, jitter: f64) -> u64 {
        let minutes = |n: u64| Duration::from_secs(n * MINUTE);
        let backoff = Backoff {
            interval: interval.map(minutes),
            min_queue_age: minutes(min),
            max_queue_age: max.map(minutes),
        };
        let arrival = Timestamp::from_secs(1_000_000);
        let now = arrival.after(minutes(age));
        backoff.retry_at(arrival, now, jitter).since(now).as_secs()
    }

    #[test]
    fn waits_as_the_three_settings_say() {
        for (interval, min, max, age, expected) in [
            (15, 0, None, 0, 15),
            (15, 30, None, 600, 30),
            (15, 0, Some(60), 0, 15),
            (15, 0, Some(60), 40, 40),
            (15, 0, Some(60), 600, 60),
            (15, 90, Some(60), 600, 90),
        ] {
            assert_eq!(wait(Some(interval), min, max, age, 0.0), expected * MINUTE);
        }
    }

    #[test]
    fn adds_a_tenth_at_most() {
        assert_eq!(wait(Some(10), 0, None, 0, 1.0), 11 * MINUTE);
        assert_eq!(wait(Some(10), 0, None, 0, 0.5), 630);
        assert_eq!(wait(Some(10), 0, None, 0, f64::NAN), 10 * MINUTE);
        assert_eq!(wait(Some(10), 0, None, 0, 7.0), 11 * MINUTE);
    }

    #[test]
    fn never_by_itself_without_an_interval() {
        let backoff =
            Backoff { interval: None, min_queue_age: Duration::ZERO, max_queue_age: None };
        assert_eq!(backoff.retry_at(Timestamp::ZERO, Timestamp::ZERO, 0.0), Timestamp::MAX);
    }
}
