//! What another spool knows of a message and our envelope has no place for: named, once for each message, never dropped in silence.
//!
//! Here is the one place where what a spool has becomes a part of the envelope or is named as not kept ([`Extras::keep`]).

use crate::mail::address::ReversePath;
use crate::mail::envelope::{ByMode, DeliverBy, Envelope};
use crate::smtp::extension::is_xtext;

/// Longest AUTH= value: that of a MAIL command (RFC 4954 5 adds 500 octets to it).
const AUTH_MAX: usize = 500;

/// BY of MAIL (RFC 2852 4) as another spool has it, its time perhaps out of our range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GivenBy {
    /// Seconds after the arrival; negative when the time was over at once.
    pub seconds: i64,
    /// What happens then.
    pub mode: ByMode,
    /// Tell the sender of each host it is handed on to.
    pub trace: bool,
}

impl GivenBy {
    /// What an envelope can hold of it: by-mode R needs a time to come (RFC 2852 4.1.2).
    fn kept(self) -> Option<DeliverBy> {
        let GivenBy { seconds, mode, trace } = self;
        let seconds = i32::try_from(seconds).ok()?;
        let fits = seconds.unsigned_abs() <= DeliverBy::SECONDS_MAX.unsigned_abs()
            && (seconds > 0 || mode == ByMode::Notify);
        fits.then_some(DeliverBy { seconds, mode, trace })
    }
}

/// What the other spool has beside what every envelope has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extras {
    /// AUTH of MAIL (RFC 4954 5), as xtext.
    pub auth: Option<String>,
    /// BY of MAIL.
    pub deliver_by: Option<GivenBy>,
    /// Recipients that came from an alias, a .forward or a list, to be delivered to as that one's owner (sendmail's C lines).
    pub has_controlling_users: bool,
    /// It was not through Postfix's cleanup: no address was rewritten or exchanged (canonical, virtual, always_bcc).
    pub was_not_rewritten: bool,
    /// Recipients failed and the sender does not know.
    pub owes_report: bool,
}

impl Extras {
    /// Puts what there is a place for into the envelope; gives the names of the rest.
    pub fn keep(&self, envelope: &mut Envelope) -> Vec<String> {
        let mut unkept = Vec::new();
        envelope.deliver_by = self.deliver_by.and_then(GivenBy::kept);
        if let (Some(GivenBy { seconds, mode, trace }), None) =
            (self.deliver_by, envelope.deliver_by)
        {
            let mode = match mode {
                ByMode::Return => 'R',
                ByMode::Notify => 'N',
            };
            let trace = if trace { "T" } else { "" };
            unkept.push(format!("DELIVERBY (BY={seconds};{mode}{trace})"));
        }
        if let Some(auth) =
            self.auth.as_ref().filter(|auth| says_more(auth, &envelope.reverse_path))
        {
            unkept.push(format!("AUTH={auth}"));
        }
        if self.has_controlling_users {
            unkept.push("controlling users (C lines)".into());
        }
        if self.was_not_rewritten {
            unkept.push("what Postfix's cleanup would have rewritten".into());
        }
        if self.owes_report {
            unkept.push("the report on recipients that failed (the bounce log stays)".into());
        }
        unkept
    }
}

/// Whether AUTH= names somebody else than the sender: sendmail gives the sender to what comes from local programs, and `<>`, nobody, to
/// what it does not believe.
fn says_more(auth: &str, sender: &ReversePath) -> bool {
    auth != "<>" && auth != super::to_xtext(&sender.to_string())
}

/// AUTH= as RFC 4954 5 has it.
///
/// # Errors
/// What is wrong with it.
pub fn auth_of(text: &str) -> Result<String, &'static str> {
    match text.len() <= AUTH_MAX && is_xtext(text, false) {
        true => Ok(text.to_owned()),
        false => Err("AUTH= is not xtext (RFC 4954)"),
    }
}

/// What stands behind the `!` of a line of sendmail's: an octet of flags (1 notify, 2 return, 16 trace), a blank, seconds.
///
/// # Errors
/// What is wrong with it.
pub fn deliver_by_of(value: &[u8]) -> Result<GivenBy, &'static str> {
    const NOTIFY: u8 = 1;
    const RETURN: u8 = 2;
    const TRACE: u8 = 16;
    let [flags, b' ', seconds @ ..] = value else {
        return Err("DELIVERBY without flags and time");
    };
    let mode = flags & !TRACE;
    if mode != NOTIFY && mode != RETURN {
        return Err("DELIVERBY that neither returns nor notifies");
    }
    let seconds = std::str::from_utf8(seconds).ok().and_then(|text| text.parse().ok());
    let seconds = seconds.ok_or("DELIVERBY without a time")?;
    let mode = if mode == RETURN { ByMode::Return } else { ByMode::Notify };
    Ok(GivenBy { seconds, mode, trace: flags & TRACE != 0 })
}
