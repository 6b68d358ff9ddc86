//! Service extensions: what EHLO offers, and the parameters of MAIL and RCPT that they bring.
//!
//! SIZE (RFC 1870), 8BITMIME (6152), SMTPUTF8 (6531), DSN (3461), CHUNKING (3030, without BINARYMIME), PIPELINING
//! (2920), ENHANCEDSTATUSCODES (2034), ETRN (1985), STARTTLS (3207), DELIVERBY (2852), and VERB of sendmail. Parameters
//! are parsed strictly: unknown, repeated or wrong ones refuse the command in sendmail's words. Values are kept as
//! xtext; none that would decode to a control character is taken, so no report or log can be broken by one.

use super::command::{number, refusal};
use crate::mail::envelope::{BodyType, ByMode, DeliverBy, Notify, Ret};
use crate::mail::status::Reply;

/// Longest ENVID (RFC 3461 4.4 says 100 before encoding).
pub const ENVID_MAX: usize = 300;
/// Longest ORCPT (RFC 3461 4.2).
pub const ORCPT_MAX: usize = 500;

/// What is offered in answer to EHLO; the rest always is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// SIZE's number; 0 for none.
    pub size: u64,
    /// DSN (not with PrivacyOptions=noreceipts).
    pub dsn: bool,
    /// ETRN (not with noetrn).
    pub etrn: bool,
    /// STARTTLS: a certificate is there and TLS is not active yet.
    pub starttls: bool,
    /// VERB (not with noexpn or noverb).
    pub verb: bool,
    /// DELIVERBY with the fewest seconds it takes, 0 for any; none when it is not offered (DeliverByMin).
    pub deliver_by: Option<u32>,
}

impl Offer {
    /// The keyword lines, in sendmail's order.
    pub fn lines(self) -> impl Iterator<Item = String> {
        let size = match self.size {
            0 => "SIZE".to_owned(),
            octets => format!("SIZE {octets}"),
        };
        let deliver_by = match self.deliver_by {
            None | Some(0) => "DELIVERBY".to_owned(),
            Some(seconds) => format!("DELIVERBY {seconds}"),
        };
        [
            (true, "ENHANCEDSTATUSCODES".to_owned()),
            (true, "PIPELINING".to_owned()),
            (true, "CHUNKING".to_owned()),
            (self.verb, "VERB".to_owned()),
            (true, "8BITMIME".to_owned()),
            (true, size),
            (self.dsn, "DSN".to_owned()),
            (true, "SMTPUTF8".to_owned()),
            (self.etrn, "ETRN".to_owned()),
            (self.starttls, "STARTTLS".to_owned()),
            (self.deliver_by.is_some(), deliver_by),
            (true, "HELP".to_owned()),
        ]
        .into_iter()
        .filter_map(|(offered, line)| offered.then_some(line))
    }
}

/// The parameters of MAIL.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MailParameters {
    /// SIZE, octets.
    pub size: Option<u64>,
    /// BODY
    pub body: Option<BodyType>,
    /// SMTPUTF8
    pub smtputf8: bool,
    /// RET
    pub ret: Option<Ret>,
    /// ENVID, xtext.
    pub envid: Option<String>,
    /// BY
    pub by: Option<DeliverBy>,
}

/// The parameters of RCPT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RcptParameters {
    /// NOTIFY
    pub notify: Notify,
    /// ORCPT, `type;xtext`.
    pub orcpt: Option<String>,
}

/// Parses what stands behind the path of MAIL. `dsn`: RET and ENVID are offered; `deliver_by`: BY is, with as many seconds at least.
///
/// # Errors
/// 555 for an unknown parameter and for a time that is too short, 501 for a wrong or repeated one, 504 for one of DSN that is not
/// offered.
pub fn mail(text: &str, dsn: bool, deliver_by: Option<u32>) -> Result<MailParameters, Reply> {
    let mut found = MailParameters::default();
    let mut auth = None;
    for (name, value) in parameters(text) {
        match name.to_ascii_uppercase().as_str() {
            "SIZE" => {
                let value = required("SIZE", value)?;
                // More than 64 bits can say is more than any limit.
                let digits = value.bytes().all(|b| b.is_ascii_digit());
                let size = number(value).or(digits.then_some(u64::MAX));
                once("SIZE", &mut found.size, size.ok_or_else(|| syntax("SIZE"))?)?;
            }
            "BODY" => {
                let body = match required("BODY", value)? {
                    word if word.eq_ignore_ascii_case("7BIT") => BodyType::SevenBit,
                    word if word.eq_ignore_ascii_case("8BITMIME") => BodyType::EightBitMime,
                    word => {
                        return Err(refusal(501, (5, 5, 4), format!("Unknown BODY type {word}")));
                    }
                };
                once("BODY", &mut found.body, body)?;
            }
            "SMTPUTF8" if value.is_none() && !found.smtputf8 => found.smtputf8 = true,
            "SMTPUTF8" => return Err(syntax("SMTPUTF8")),
            "RET" | "ENVID" if !dsn => return Err(no_dsn(name)),
            "RET" => {
                let ret = match required("RET", value)? {
                    word if word.eq_ignore_ascii_case("FULL") => Ret::Full,
                    word if word.eq_ignore_ascii_case("HDRS") => Ret::Headers,
                    word => {
                        let text = format!("Bad argument \"{word}\" to RET");
                        return Err(refusal(501, (5, 5, 2), text));
                    }
                };
                once("RET", &mut found.ret, ret)?;
            }
            "ENVID" => {
                let value = required("ENVID", value)?;
                if !is_xtext(value, false) || value.len() > ENVID_MAX {
                    return Err(syntax("ENVID"));
                }
                once("ENVID", &mut found.envid, value.to_owned())?;
            }
            // RFC 4954 5: a name said by a client we do not trust counts as none.
            "AUTH" => {
                let value = required("AUTH", value)?;
                if value != "<>" && !is_xtext(value, false) {
                    return Err(syntax("AUTH"));
                }
                once("AUTH", &mut auth, ())?;
            }
            "BY" if deliver_by.is_some() => {
                let by = parse_by(required("BY=", value)?, deliver_by.unwrap_or(0))?;
                once("BY", &mut found.by, by)?;
            }
            _ => return Err(unknown(name)),
        }
    }
    Ok(found)
}

/// RFC 2852 4: `by-time;by-mode` and maybe the trace modifier.
fn parse_by(value: &str, least: u32) -> Result<DeliverBy, Reply> {
    let wrong = |status, text: String| refusal(501, status, text);
    let missing = || wrong((5, 5, 2), "BY= missing ';'".to_owned());
    let (time, mode) = value.split_once(';').ok_or_else(missing)?;
    let (sign, digits) = match time.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, time.strip_prefix('+').unwrap_or(time)),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(missing());
    }
    let seconds = digits.parse().ok().filter(|seconds: &i32| *seconds <= DeliverBy::SECONDS_MAX);
    let Some(seconds) = seconds.map(|seconds| sign * seconds) else {
        let shown: String = value.chars().filter(char::is_ascii_graphic).collect();
        return Err(wrong((5, 5, 2), format!("BY={shown} out of range")));
    };
    let shown = |letter: Option<char>| letter.filter(char::is_ascii_graphic).unwrap_or('?');
    let mut letters = mode.chars();
    let mode = match letters.next() {
        Some('N' | 'n') => ByMode::Notify,
        Some('R' | 'r') => ByMode::Return,
        other => return Err(wrong((5, 5, 2), format!("illegal by-mode '{}'", shown(other)))),
    };
    if mode == ByMode::Return && seconds <= 0 {
        return Err(wrong((5, 5, 4), "mode R requires BY time > 0".to_owned()));
    }
    if mode == ByMode::Return && seconds.unsigned_abs() < least {
        return Err(refusal(555, (5, 5, 2), format!("time {seconds} less than {least}")));
    }
    let trace = match letters.next() {
        None => false,
        Some('T' | 't') => true,
        other => return Err(wrong((5, 5, 2), format!("illegal by-trace '{}'", shown(other)))),
    };
    match letters.next() {
        None => Ok(DeliverBy { seconds, mode, trace }),
        other => Err(wrong((5, 5, 2), format!("illegal by-trace '{}'", shown(other)))),
    }
}

/// Parses what stands behind the path of RCPT. `dsn` as with [`mail`]; `utf8`: MAIL asked for SMTPUTF8.
///
/// # Errors
/// As [`mail`].
pub fn rcpt(text: &str, dsn: bool, utf8: bool) -> Result<RcptParameters, Reply> {
    let mut notify = None;
    let mut orcpt = None;
    for (name, value) in parameters(text) {
        match name.to_ascii_uppercase().as_str() {
            "NOTIFY" | "ORCPT" if !dsn => return Err(no_dsn(name)),
            "NOTIFY" => once("NOTIFY", &mut notify, parse_notify(required("NOTIFY", value)?)?)?,
            "ORCPT" => {
                let value = required("ORCPT", value)?;
                if !is_orcpt(value, utf8) {
                    return Err(syntax("ORCPT"));
                }
                once("ORCPT", &mut orcpt, value.to_owned())?;
            }
            _ => return Err(unknown(name)),
        }
    }
    Ok(RcptParameters { notify: notify.unwrap_or(Notify::Unspecified), orcpt })
}

/// `NAME` and `NAME=value`, one by one.
fn parameters(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.split([' ', '\t'])
        .filter(|word| !word.is_empty())
        .map(|word| word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value))))
}

fn parse_notify(value: &str) -> Result<Notify, Reply> {
    if value.eq_ignore_ascii_case("NEVER") {
        return Ok(Notify::Never);
    }
    let (mut success, mut failure, mut delay) = (false, false, false);
    for word in value.split(',') {
        match word.to_ascii_uppercase().as_str() {
            "SUCCESS" => success = true,
            "FAILURE" => failure = true,
            "DELAY" => delay = true,
            // The two blanks are sendmail's.
            _ => {
                let text = format!("Bad argument \"{word}\"  to NOTIFY");
                return Err(refusal(501, (5, 5, 4), text));
            }
        }
    }
    Ok(Notify::On { success, failure, delay })
}

/// RFC 3461 4.2: `type;xtext`.
fn is_orcpt(value: &str, utf8: bool) -> bool {
    let Some((kind, address)) = value.split_once(';') else { return false };
    let atom = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    value.len() <= ORCPT_MAX
        && !kind.is_empty()
        && kind.bytes().all(atom)
        && !address.is_empty()
        && is_xtext(address, utf8)
}

/// RFC 3461 4: visible ASCII without `+` and `=`, which `+` and two capital hexadecimal digits stand for; here, nothing
/// that stands for a control character. With `utf8` (RFC 6533 3) octets above 127 too.
pub fn is_xtext(text: &str, utf8: bool) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => {
                let digit = |byte: Option<u8>| match byte {
                    Some(b @ b'0'..=b'9') => Some(b - b'0'),
                    Some(b @ b'A'..=b'F') => Some(b - b'A' + 10),
                    _ => None,
                };
                match (digit(bytes.next()), digit(bytes.next())) {
                    (Some(high), Some(low)) if (b' '..0x7f).contains(&(high << 4 | low)) => {}
                    _ => return false,
                }
            }
            b'=' => return false,
            b'!'..=b'~' => {}
            0x80.. if utf8 => {}
            _ => return false,
        }
    }
    true
}

fn once<T>(name: &str, place: &mut Option<T>, value: T) -> Result<(), Reply> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(refusal(501, (5, 5, 0), format!("Duplicate {name} parameter"))),
    }
}

fn required<'a>(name: &str, value: Option<&'a str>) -> Result<&'a str, Reply> {
    value
        .filter(|value| !value.is_empty())
        .ok_or_else(|| refusal(501, (5, 5, 2), format!("{name} requires a value")))
}

fn syntax(name: &str) -> Reply {
    refusal(501, (5, 5, 4), format!("Syntax error in {name} parameter value"))
}

fn unknown(name: &str) -> Reply {
    refusal(555, (5, 5, 4), format!("{name} parameter unrecognized"))
}

fn no_dsn(name: &str) -> Reply {
    refusal(504, (5, 7, 0), format!("Sorry, {name} not supported, we do not allow DSN"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn takes_mail_parameters() {
        let found = mail(
            " BODY=8bitmime SIZE=100 RET=HDRS ENVID=x+3D1  SMTPUTF8 AUTH=<> by=+9;rt",
            true,
            Some(9),
        )
        .unwrap();
        assert_eq!((found.size, found.body), (Some(100), Some(BodyType::EightBitMime)));
        assert_eq!((found.ret, found.envid.as_deref()), (Some(Ret::Headers), Some("x+3D1")));
        assert!(found.smtputf8);
        let by = DeliverBy { seconds: 9, mode: ByMode::Return, trace: true };
        assert_eq!(found.by, Some(by));
        let by = DeliverBy { seconds: -999_999_999, mode: ByMode::Notify, trace: false };
        assert_eq!(mail("BY=-999999999;N", true, Some(60)).unwrap().by, Some(by));
        assert_eq!(mail("SIZE=99999999999999999999", true, None).unwrap().size, Some(u64::MAX));
    }

    #[test]
    fn refuses_wrong_parameters() {
        for (text, reply) in [
            ("FOO=BAR", "555 5.5.4 FOO parameter unrecognized"),
            ("SIZE", "501 5.5.2 SIZE requires a value"),
            ("SIZE=abc", "501 5.5.4 Syntax error in SIZE parameter value"),
            ("SIZE=-1", "501 5.5.4 Syntax error in SIZE parameter value"),
            ("SIZE=1 SIZE=1", "501 5.5.0 Duplicate SIZE parameter"),
            ("BODY=9BIT", "501 5.5.4 Unknown BODY type 9BIT"),
            ("BODY=BINARYMIME", "501 5.5.4 Unknown BODY type BINARYMIME"),
            ("RET=FOO", "501 5.5.2 Bad argument \"FOO\" to RET"),
            ("ENVID=a+0Ab", "501 5.5.4 Syntax error in ENVID parameter value"),
            ("ENVID=a+3", "501 5.5.4 Syntax error in ENVID parameter value"),
            ("SMTPUTF8=1", "501 5.5.4 Syntax error in SMTPUTF8 parameter value"),
            ("BY", "501 5.5.2 BY= requires a value"),
            ("BY=60", "501 5.5.2 BY= missing ';'"),
            ("BY=x;R", "501 5.5.2 BY= missing ';'"),
            ("BY=1000000000;R", "501 5.5.2 BY=1000000000;R out of range"),
            ("BY=99999999999;N", "501 5.5.2 BY=99999999999;N out of range"),
            ("BY=0;R", "501 5.5.4 mode R requires BY time > 0"),
            ("BY=-5;R", "501 5.5.4 mode R requires BY time > 0"),
            ("BY=59;R", "555 5.5.2 time 59 less than 60"),
            ("BY=60;", "501 5.5.2 illegal by-mode '?'"),
            ("BY=60;X", "501 5.5.2 illegal by-mode 'X'"),
            ("BY=60;NX", "501 5.5.2 illegal by-trace 'X'"),
            ("BY=60;NTT", "501 5.5.2 illegal by-trace 'T'"),
            ("BY=60;N BY=60;N", "501 5.5.0 Duplicate BY parameter"),
        ] {
            assert_eq!(mail(text, true, Some(60)).unwrap_err().to_string(), reply, "{text}");
        }
        assert_eq!(
            mail("BY=5;N", true, None).unwrap_err().to_string(),
            "555 5.5.4 BY parameter unrecognized"
        );
        for (text, reply) in [
            ("FOO=1", "555 5.5.4 FOO parameter unrecognized"),
            ("NOTIFY=BOGUS", "501 5.5.4 Bad argument \"BOGUS\"  to NOTIFY"),
            ("NOTIFY=NEVER,FAILURE", "501 5.5.4 Bad argument \"NEVER\"  to NOTIFY"),
            ("NOTIFY=", "501 5.5.2 NOTIFY requires a value"),
            ("ORCPT=bogus", "501 5.5.4 Syntax error in ORCPT parameter value"),
            ("ORCPT=rfc822;a+0D+0Ab", "501 5.5.4 Syntax error in ORCPT parameter value"),
            ("ORCPT=utf-8;é", "501 5.5.4 Syntax error in ORCPT parameter value"),
        ] {
            assert_eq!(rcpt(text, true, false).unwrap_err().to_string(), reply, "{text}");
        }
        assert!(rcpt("ORCPT=utf-8;é NOTIFY=success,DELAY", true, true).unwrap().notify.success());
        assert_eq!(mail("RET=FULL", false, None).unwrap_err().code, 504);
    }

    proptest! {
        #[test]
        fn never_panics(text in "(SIZE|BY|=|NOTIFY|ORCPT|;|\\+[0-9A-G]{0,2}|,| |\\PC){0,20}") {
            let _ = (mail(&text, true, Some(0)), rcpt(&text, true, false));
        }
    }
}
