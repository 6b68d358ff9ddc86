//! TimeZoneSpec: the zone of Date:, Received:, mailq, reports and the log.
//!
//! As in sendmail: without the option the system's zone counts and TZ in the environment does not, so that two users'
//! messages carry one zone; set to nothing, TZ counts; else the value is what TZ would be: `PST8PDT`, `Europe/Berlin`,
//! `:Europe/Berlin`, `/path/of/a/zone/file`.

use std::path::Path;

use jiff::tz::TimeZone;

use super::value::{self, ValueError};

/// The system's zone, as tzset(3) finds it.
const LOCALTIME: &str = "/etc/localtime";
/// Octets of a zone file: the largest of the database has a few thousand.
const ZONE_FILE_MAX: u64 = 1 << 20;

/// The zone of a value of TimeZoneSpec; `environment` is TZ, for the empty one.
///
/// # Errors
/// A zone that nobody knows. sendmail takes it for UTC and says nothing.
pub fn of(spec: &str, environment: Option<&str>) -> Result<TimeZone, ValueError> {
    match (spec, environment) {
        ("", None) => Ok(system()),
        // Of the user's environment: a slip there is not the administrator's, and UTC is what any program makes of it.
        ("", Some(tz)) => Ok(named(tz).unwrap_or(TimeZone::UTC)),
        (spec, _) => named(spec).ok_or_else(|| {
            let spec = value::shown(spec);
            ValueError::Other(format!("{spec:?} is no time zone such as Europe/Berlin or EST5EDT"))
        }),
    }
}

/// The system's zone, whatever TZ says; UTC where it has none.
pub fn system() -> TimeZone {
    file(Path::new(LOCALTIME)).unwrap_or(TimeZone::UTC)
}

fn named(text: &str) -> Option<TimeZone> {
    let name = text.strip_prefix(':').unwrap_or(text);
    match name {
        "" => Some(TimeZone::UTC),
        path if path.starts_with('/') => file(Path::new(path)),
        // POSIX leaves the days of a change to the system when they are not given; these are what C libraries take.
        name => TimeZone::get(name)
            .or_else(|_| TimeZone::posix(name))
            .or_else(|_| TimeZone::posix(&format!("{name},M3.2.0,M11.1.0")))
            .ok(),
    }
}

fn file(path: &Path) -> Option<TimeZone> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(ZONE_FILE_MAX).read_to_end(&mut bytes).ok()?;
    TimeZone::tzif("local", &bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::time::Timestamp;

    /// What sendmail 8.17 wrote into Date:, but for the word without a zone.
    #[test]
    fn a_zone_is_what_tz_would_be() {
        let date = |spec: &str, tz: Option<&str>| {
            let then = Timestamp::from_secs(1_795_355_936);
            // Our dates have the zone's name behind them.
            of(spec, tz).map(|zone| then.rfc5322(&zone).split(" (").next().unwrap().to_owned())
        };
        assert_eq!(date("", Some("CET-1")).as_deref(), Ok("Sun, 22 Nov 2026 14:58:56 +0100"));
        assert_eq!(date("EST5EDT", None).as_deref(), Ok("Sun, 22 Nov 2026 08:58:56 -0500"));
        assert_eq!(date("JST-9", Some("CET-1")).as_deref(), Ok("Sun, 22 Nov 2026 22:58:56 +0900"));
        assert_eq!(date("", Some("nonsense")).as_deref(), Ok("Sun, 22 Nov 2026 13:58:56 GMT"));
        assert!(date("foo", None).unwrap_err().to_string().contains("\"foo\" is no time zone"));
        assert!(date("/etc/hosts", None).is_err());
        assert_eq!(of("", None), Ok(system()));
    }
}
