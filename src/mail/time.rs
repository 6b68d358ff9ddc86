//! Instants of the calendar and lengths of time as sendmail writes them.
//!
//! A [`Timestamp`] is what is stored and printed; timers inside the daemon use the monotonic clock of
//! [`crate::world`]. Printing takes the zone as an argument: nothing here looks at the environment.

use std::fmt;
use std::time::Duration;

use jiff::tz::TimeZone;

/// Milliseconds since 1970-01-01 00:00 UTC.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Before everything.
    pub const ZERO: Timestamp = Timestamp(0);
    /// After everything that can be printed (year 9999).
    pub const MAX: Timestamp = Timestamp(253_370_764_800_000);

    /// The instant `millis` milliseconds after 1970, at most [`Timestamp::MAX`].
    pub const fn from_millis(millis: u64) -> Timestamp {
        if millis < Timestamp::MAX.0 { Timestamp(millis) } else { Timestamp::MAX }
    }

    /// The instant `secs` seconds after 1970.
    pub const fn from_secs(secs: u64) -> Timestamp {
        Timestamp::from_millis(secs.saturating_mul(1000))
    }

    /// Milliseconds since 1970.
    pub fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since 1970.
    pub fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// Later by `length`.
    pub fn after(self, length: Duration) -> Timestamp {
        Timestamp::from_millis(
            self.0.saturating_add(u64::try_from(length.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// Earlier by `length`, not before 1970.
    pub fn before(self, length: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(u64::try_from(length.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero when it is not.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// `Sun, 22 Nov 2026 06:21:19 GMT` where the zone is level with UTC, else `Sun, 22 Nov 2026 07:21:19 +0100 (CET)`: the
    /// date of RFC 5322 3.3 (GMT is of its 4.3) as sendmail writes it in header fields.
    pub fn rfc5322(self, zone: &TimeZone) -> String {
        let zoned = self.zoned(zone);
        let date = zoned.strftime("%a, %-d %b %Y %H:%M:%S");
        if zoned.offset().seconds() == 0 {
            return format!("{date} GMT");
        }
        match zoned.strftime("%Z").to_string() {
            name if name.is_empty() => format!("{date} {}", zoned.strftime("%z")),
            name => format!("{date} {} ({name})", zoned.strftime("%z")),
        }
    }

    /// `Sun Nov 22 06:21:19 2026`: ctime(3), as sendmail prints it in listings.
    pub fn ctime(self, zone: &TimeZone) -> String {
        self.zoned(zone).strftime("%a %b %e %H:%M:%S %Y").to_string()
    }

    /// In any form of strftime(3).
    pub fn strftime(self, format: &str, zone: &TimeZone) -> String {
        self.zoned(zone).strftime(format).to_string()
    }

    fn zoned(self, zone: &TimeZone) -> jiff::Zoned {
        jiff::Timestamp::from_millisecond(self.0 as i64)
            .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
            .to_zoned(zone.clone())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.strftime("%Y-%m-%dT%H:%M:%S%.3fZ", &TimeZone::UTC))
    }
}

/// `00:00:01`, or `1+02:03:04` from a day on: sendmail's `delay=`.
pub fn delay(length: Duration) -> String {
    let secs = length.as_secs();
    let clock = format!("{:02}:{:02}:{:02}", secs / 3600 % 24, secs / 60 % 60, secs % 60);
    match secs / 86_400 {
        0 => clock,
        days => format!("{days}+{clock}"),
    }
}

/// `5 days`, `4 hours`, `1 second`: the largest unit that divides the length, for people.
pub fn in_words(length: Duration) -> String {
    let secs = length.as_secs();
    let units = [(604_800, "week"), (86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")];
    let (size, name) = units
        .into_iter()
        .find(|(size, _)| secs >= *size && secs.is_multiple_of(*size))
        .unwrap_or((1, "second"));
    let count = secs / size;
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_sendmail_does() {
        let t = Timestamp::from_secs(1_795_328_479);
        assert_eq!(t.rfc5322(&TimeZone::UTC), "Sun, 22 Nov 2026 06:21:19 GMT");
        for (zone, expected) in [
            ("CET-1", "Sun, 22 Nov 2026 07:21:19 +0100 (CET)"),
            ("EST5", "Sun, 22 Nov 2026 01:21:19 -0500 (EST)"),
            ("<+0545>-5:45", "Sun, 22 Nov 2026 12:06:19 +0545 (+0545)"),
            ("WET0", "Sun, 22 Nov 2026 06:21:19 GMT"),
        ] {
            assert_eq!(t.rfc5322(&TimeZone::posix(zone).unwrap()), expected);
        }
        assert_eq!(t.ctime(&TimeZone::UTC), "Sun Nov 22 06:21:19 2026");
        assert_eq!(delay(Duration::from_secs(93_784)), "1+02:03:04");
        assert_eq!(in_words(Duration::from_secs(5 * 86_400)), "5 days");
        assert_eq!(in_words(Duration::from_secs(1)), "1 second");
        assert_eq!(in_words(Duration::from_secs(90)), "90 seconds");
    }
}
