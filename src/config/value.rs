//! How option values are written: times, sizes, booleans, numbers, addresses, next hops.
//!
//! Pure parsing, shared by the configuration file and the command line (`-q15m`). Every refusal says what was
//! found and what would do; nothing is guessed, nothing panics.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::Network;
use crate::mail::address::check_domain;

/// Longest time believed: beyond it somebody slipped, and sums with it must not overflow.
const TIME_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// What a bare number of a time option counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// s
    Seconds,
    /// m
    Minutes,
    /// h
    Hours,
    /// d
    Days,
}

impl Unit {
    fn seconds(self) -> u64 {
        match self {
            Unit::Seconds => 1,
            Unit::Minutes => 60,
            Unit::Hours => 3600,
            Unit::Days => 86_400,
        }
    }

    /// `minutes`, as the manual writes it.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Seconds => "seconds",
            Unit::Minutes => "minutes",
            Unit::Hours => "hours",
            Unit::Days => "days",
        }
    }
}

/// Why a value was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// A letter after a number that is none of s m h d w. The text is sendmail's.
    #[error("Invalid time unit `{0}'")]
    TimeUnit(char),
    /// A time without a number, or longer than a century.
    #[error("{0:?} is not a time such as 30s, 15m, 1h30m, 5d, 2w")]
    Time(String),
    /// Not true or false.
    #[error("{0:?} is neither true nor false")]
    Boolean(String),
    /// Not a number, or outside of what makes sense.
    #[error("{text:?} is not a number from {least} to {most}")]
    Number {
        /// What was found.
        text: String,
        /// Smallest allowed.
        least: u64,
        /// Largest allowed.
        most: u64,
    },
    /// Not a size.
    #[error("{0:?} is not a size such as 50000, 64K, 25M, 1G")]
    Size(String),
    /// Not a word of the option.
    #[error("{word:?} is none of {allowed}")]
    Word {
        /// What was found.
        word: String,
        /// What would do.
        allowed: &'static str,
    },
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

/// `30s`, `1h30m`, `5` (in `unit`), `0`.
///
/// # Errors
/// [`ValueError::TimeUnit`] for a strange letter, [`ValueError::Time`] for no number or over a century.
pub fn time(text: &str, unit: Unit) -> Result<Duration, ValueError> {
    let wrong = || ValueError::Time(shown(text));
    let mut rest = text.trim();
    let mut seconds = 0u64;
    if rest.is_empty() {
        return Err(wrong());
    }
    while let Some(first) = rest.chars().next() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits == 0 {
            return Err(ValueError::TimeUnit(first));
        }
        let (number, tail) = rest.split_at(digits);
        let mut letters = tail.chars();
        let scale = match letters.next() {
            None => unit.seconds(),
            Some('s' | 'S') => 1,
            Some('m' | 'M') => 60,
            Some('h' | 'H') => 3600,
            Some('d' | 'D') => 86_400,
            Some('w' | 'W') => 604_800,
            Some(other) => return Err(ValueError::TimeUnit(other)),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        seconds = seconds.saturating_add(number.saturating_mul(scale));
        rest = letters.as_str();
    }
    let length = Duration::from_secs(seconds);
    if length > TIME_MAX { Err(wrong()) } else { Ok(length) }
}

/// `true`, `t`, `yes`, nothing; `false`, `f`, `no`, `0`.
///
/// # Errors
/// [`ValueError::Boolean`] for anything else: sendmail reads it as false, which hides a slip such as `1`.
pub fn boolean(text: &str) -> Result<bool, ValueError> {
    match text.trim().bytes().next() {
        None | Some(b't' | b'T' | b'y' | b'Y') => Ok(true),
        Some(b'f' | b'F' | b'n' | b'N' | b'0') => Ok(false),
        Some(_) => Err(ValueError::Boolean(shown(text))),
    }
}

/// A whole number from `least` to `most`.
///
/// # Errors
/// [`ValueError::Number`].
pub fn number(text: &str, least: u64, most: u64) -> Result<u64, ValueError> {
    match text.trim().parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(ValueError::Number { text: shown(text), least, most }),
    }
}

/// Octets: a number, or one with K, M or G (powers of 1024).
///
/// # Errors
/// [`ValueError::Size`].
pub fn size(text: &str) -> Result<u64, ValueError> {
    let wrong = || ValueError::Size(shown(text));
    let text = text.trim();
    let (number, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// `192.0.2.0/24`, `2001:db8::/32`, `[::1]`, or an address alone.
///
/// # Errors
/// [`ValueError::Other`] that names the text.
pub fn network(text: &str) -> Result<Network, ValueError> {
    let wrong =
        || ValueError::Other(format!("{:?} is not a network such as 192.0.2.0/24", shown(text)));
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address = ip(address).ok_or_else(wrong)?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => width,
        Some(bits) => bits.parse().ok().filter(|bits| *bits <= width).ok_or_else(wrong)?,
    };
    Ok(Network { address, prefix })
}

/// An IP address, with or without brackets or the tag `IPv6:`.
pub fn ip(text: &str) -> Option<IpAddr> {
    let text = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let text = match text.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => &text[5..],
        _ => text,
    };
    text.parse().ok()
}

/// `[192.0.2.1]:5353`, `192.0.2.1:5353`, `[2001:db8::1]`, `192.0.2.1`; `port` when it names none.
///
/// # Errors
/// [`ValueError::Other`] that names the text.
pub fn socket(text: &str, port: u16) -> Result<SocketAddr, ValueError> {
    if let Some(address) = ip(text) {
        return Ok(SocketAddr::new(address, port));
    }
    text.rsplit_once(':')
        .and_then(|(address, port)| Some(SocketAddr::new(ip(address)?, port.parse().ok()?)))
        .ok_or_else(|| {
            ValueError::Other(format!("{:?} is not an address such as [192.0.2.1]:53", shown(text)))
        })
}

/// A next hop: `domain` (its MX), `[host]` (no MX), either with `:port`; in lower case.
///
/// # Errors
/// [`ValueError::Other`] that names the text.
pub fn next_hop(text: &str) -> Result<String, ValueError> {
    let wrong = || {
        let text = shown(text);
        ValueError::Other(format!("{text:?} is not a host such as relay.example or [192.0.2.1]:25"))
    };
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.starts_with('[') || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return Err(wrong());
    }
    let name = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match name {
        Some(name) if ip(name).is_some() => {}
        name => check_domain(name.unwrap_or(host)).map_err(|_| wrong())?,
    }
    Ok(text.to_lowercase())
}

/// `text` short enough for a message, without control characters.
pub fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_have_units() {
        let secs = |text, unit| time(text, unit).map(|t| t.as_secs());
        assert_eq!(secs("1h30m", Unit::Days), Ok(5400));
        assert_eq!(secs("5", Unit::Days), Ok(432_000));
        assert_eq!(secs("5", Unit::Hours), Ok(18_000));
        assert_eq!(secs("1d2", Unit::Minutes), Ok(86_520));
        assert_eq!(secs("2w", Unit::Minutes), Ok(1_209_600));
        assert_eq!(secs("0", Unit::Minutes), Ok(0));
        assert_eq!(time("1x", Unit::Minutes).unwrap_err().to_string(), "Invalid time unit `x'");
        assert_eq!(secs("foo", Unit::Minutes), Err(ValueError::TimeUnit('f')));
        assert_eq!(secs("-1", Unit::Minutes), Err(ValueError::TimeUnit('-')));
        for text in ["", " ", "99999999999999999999", "5300w"] {
            assert!(matches!(secs(text, Unit::Minutes), Err(ValueError::Time(_))), "{text}");
        }
    }

    #[test]
    fn booleans_are_not_guessed() {
        for (text, value) in
            [("", true), ("True", true), ("yes", true), ("no", false), ("0", false)]
        {
            assert_eq!(boolean(text), Ok(value), "{text}");
        }
        assert!(boolean("1").is_err() && boolean("on").is_err());
    }

    #[test]
    fn sizes_have_powers_of_1024() {
        assert_eq!(size("50000"), Ok(50_000));
        assert_eq!(size("64k"), Ok(65_536));
        assert_eq!(size("2G"), Ok(2 << 30));
        for text in ["", "K", "1T", "-1", "99999999999G", "1.5M"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_and_networks() {
        assert_eq!(next_hop("[Relay.Example]:2525").as_deref(), Ok("[relay.example]:2525"));
        assert_eq!(next_hop("[IPv6:2001:db8::1]").as_deref(), Ok("[ipv6:2001:db8::1]"));
        assert_eq!(next_hop("relay.example").as_deref(), Ok("relay.example"));
        for text in ["", "[a", "a b", "a:0", "a:x", "[]:25", "a@b"] {
            assert!(next_hop(text).is_err(), "{text}");
        }
        assert_eq!(network("10.0.0.0/8").unwrap().prefix, 8);
        assert_eq!(network("::1").unwrap().prefix, 128);
        assert!(network("10.0.0.0/33").is_err() && network("10.0.0/8").is_err());
        assert_eq!(socket("127.0.0.1:5353", 53).unwrap().to_string(), "127.0.0.1:5353");
        assert_eq!(socket("[::1]", 53).unwrap().to_string(), "[::1]:53");
        assert!(socket("localhost", 53).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,30}") {
            let _ = (time(&text, Unit::Days), size(&text), boolean(&text), network(&text));
            let _ = (socket(&text, 1), next_hop(&text), number(&text, 0, 9));
        }
    }
}
