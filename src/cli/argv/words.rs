//! The values of flags about a message, checked: -M -L -N -R -h -V. The texts of errors are sendmail's.

use super::{UsageError, wrong};
use crate::config::raw::Setting;
use crate::config::value;
use crate::mail::envelope::{Notify, Ret};

/// Longest -L tag, in characters, as in sendmail.
const TAG_MAX: usize = 32;
/// Longest ENVID (RFC 3461 4.4).
const ENVID_MAX: usize = 100;

/// `Xvalue` or `{name}value`
pub fn macro_of(text: &str) -> (String, String) {
    if let Some((name, value)) = text.strip_prefix('{').and_then(|text| text.split_once('}')) {
        return (name.to_owned(), value.to_owned());
    }
    let Setting { name, value } = Setting::letter(text);
    (name, value)
}

/// Without line ends and other control characters: it goes into a header.
pub fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// -L: what of it goes into the log.
pub fn log_tag(text: &str) -> String {
    let clean = |c: char| if c == '%' || !(' '..='~').contains(&c) { '*' } else { c };
    text.chars().take(TAG_MAX).map(clean).collect()
}

/// -N
///
/// # Errors
/// A word that is none.
pub fn notify(text: &str) -> Result<Notify, UsageError> {
    if text.eq_ignore_ascii_case("never") {
        return Ok(Notify::Never);
    }
    let (mut success, mut failure, mut delay) = (false, false, false);
    for word in text.split(',') {
        match word.trim().to_ascii_lowercase().as_str() {
            "success" => success = true,
            "failure" => failure = true,
            "delay" => delay = true,
            _ => return wrong("Invalid -N argument"),
        }
    }
    Ok(Notify::On { success, failure, delay })
}

/// -R
pub fn ret(text: &str) -> Result<Ret, UsageError> {
    match text.to_ascii_lowercase().as_str() {
        "full" => Ok(Ret::Full),
        "hdrs" => Ok(Ret::Headers),
        _ => wrong("Invalid -R value"),
    }
}

/// -h
pub fn hops(text: &str) -> Result<u32, UsageError> {
    let shown = value::shown(text);
    text.parse().map_err(|_| UsageError::Wrong(format!("Bad hop count ({shown})")))
}

/// xtext: printable ASCII without `=`, `+` only before two upper-case hexadecimal digits (RFC 3461 4).
pub fn envid(text: String) -> Result<String, UsageError> {
    let hex = |digit: Option<u8>| digit.is_some_and(|d| matches!(d, b'0'..=b'9' | b'A'..=b'F'));
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let good = match byte {
            b'+' => hex(bytes.next()) && hex(bytes.next()),
            b'!'..=b'~' => byte != b'=',
            _ => false,
        };
        if !good {
            return wrong("Invalid syntax in -V flag");
        }
    }
    if text.len() > ENVID_MAX { wrong("Invalid syntax in -V flag") } else { Ok(text) }
}
