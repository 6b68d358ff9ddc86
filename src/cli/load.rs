//! Other spools, read: sendmail's queue files, Postfix's, and what postcat prints of them.
//!
//! Each format is read twice: `scan` reads the control data to its end and says what the message is, so that a torn or foreign
//! file is refused before anything of it goes anywhere; `send` then hands recipients and octets on, a few at a time. Neither
//! opens, locks or removes a file. Everything is taken for hostile: lines, records and pointers have bounds, texts
//! are checked before they become nouns, and what cannot be understood refuses the whole message with its place and reason.
//! What is understood and has no place here is named ([`unkept`]); nothing is left out silently.
//!
//! Content is kept as any other mail of ours: LF, CRLF and bare CR become CRLF, NUL goes (RFC 5321 2.3.8).

mod content;
pub mod files;
pub mod one;
pub mod postfix;
pub mod records;
pub mod sendmail;
pub mod unkept;

use std::fmt;
use std::io;

use crate::mail::address::{Address, AddressError, ReversePath};
use crate::mail::envelope::{BodyType, Recipient, RecipientState, Ret};
use crate::mail::loading::{Attempts, Loading, ORIGIN_MAX};
use crate::mail::outcome::Report;
use crate::mail::status::{EnhancedStatus, StatusClass};
use crate::mail::time::Timestamp;
use crate::smtp::extension::{ENVID_MAX, ORCPT_MAX, is_xtext};
use unkept::Extras;

/// Longest text kept of a status, a reason or a relay, in octets.
const TEXT_MAX: usize = 512;

/// Why a message cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreadable {
    /// `line 7`, `octet 123`; empty when it is about the whole file.
    pub place: String,
    /// What is wrong there.
    pub reason: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.is_empty() {
            true => write!(f, "{}", self.reason),
            false => write!(f, "{}: {}", self.place, self.reason),
        }
    }
}

impl Unreadable {
    /// About the file as a whole.
    pub fn whole(reason: impl Into<String>) -> Unreadable {
        Unreadable { place: String::new(), reason: reason.into() }
    }
}

/// Why sending a message on ended.
#[derive(Debug)]
pub enum Fault {
    /// Its files: nothing of it was loaded, others can be.
    Unreadable(Unreadable),
    /// Whoever takes it is gone.
    Lost(io::Error),
}

impl From<Unreadable> for Fault {
    fn from(unreadable: Unreadable) -> Fault {
        Fault::Unreadable(unreadable)
    }
}

/// Whoever takes the parts of a message.
pub trait Parts {
    /// One more recipient.
    ///
    /// # Errors
    /// Nobody takes it.
    fn recipient(&mut self, recipient: Recipient) -> io::Result<()>;

    /// The next octets, CRLF line ends; the header first.
    ///
    /// # Errors
    /// Nobody takes them.
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// What is loaded of a message: one of it, or with VERP one for each recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copy {
    /// Of this one.
    pub head: Head,
    /// Which of the recipients it is for, counted from 0; none for all.
    only: Option<usize>,
}

/// A message that was sent on to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent {
    /// Everything but its recipients and octets.
    pub loading: Loading,
    /// What there is no place for here, by name.
    pub unkept: Vec<String>,
}

/// What is known of a message before its recipients and octets are read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// Its name in its own spool.
    pub id: String,
    /// The name under which it is remembered.
    pub origin: String,
    /// Recipients still to be tried.
    pub recipients: u32,
    /// Why it is to be held here.
    pub held: Option<String>,
    /// The sender was warned.
    pub warned: bool,
    /// Where reports go.
    pub reverse_path: ReversePath,
    /// When it came in first.
    pub arrival: Timestamp,
    /// What was tried.
    pub attempts: Attempts,
    /// The priority it had; none to compute it anew.
    pub priority: Option<i64>,
    /// Said to be 8BITMIME.
    pub eight_bit: bool,
    /// SMTPUTF8 was asked for.
    pub smtputf8: bool,
    /// RET of MAIL.
    pub ret: Option<Ret>,
    /// ENVID of MAIL, as xtext.
    pub envid: Option<String>,
    /// Who gave it to that spool.
    pub relay: String,
    /// By what protocol.
    pub protocol: String,
    /// It is a delivery report of that spool's own.
    pub is_report: bool,
    /// What not every envelope has.
    pub extras: Extras,
}

impl Head {
    /// Of a message about which nothing is known yet.
    fn new(id: &str) -> Head {
        Head {
            id: id.to_owned(),
            origin: String::new(),
            recipients: 0,
            held: None,
            warned: false,
            reverse_path: ReversePath::Null,
            arrival: Timestamp::ZERO,
            attempts: Attempts::default(),
            priority: None,
            eight_bit: false,
            smtputf8: false,
            ret: None,
            envid: None,
            relay: String::new(),
            protocol: String::new(),
            is_report: false,
            extras: Extras::default(),
        }
    }

    /// Names its origin: queue ID, arrival and reverse-path. The first two are unique on one host for years; with the third, two hosts
    /// whose spools come together would have to give one sender's mail the same ID in the same second.
    /// A copy for one recipient of several has him in its name, too.
    fn named(mut self, spool: &str, only: Option<&str>) -> Head {
        let Head { id, arrival, reverse_path, .. } = &self;
        let only = only.map_or_else(String::new, |only| format!(" for {only}"));
        let mut origin = format!("{spool} {id} {}{only} {reverse_path}", arrival.as_millis());
        let mut end = origin.len().min(ORIGIN_MAX);
        while !origin.is_char_boundary(end) {
            end -= 1;
        }
        origin.truncate(end);
        self.origin = origin;
        self
    }

    fn body_type(&self, has_8bit: bool) -> BodyType {
        match (self.eight_bit, has_8bit) {
            (true, _) => BodyType::EightBitMime,
            (false, true) => BodyType::EightBit,
            (false, false) => BodyType::SevenBit,
        }
    }
}

/// A queue ID of another spool: it stands in file names and in our log.
fn check_id(id: &str) -> Result<(), Unreadable> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'.';
    match id.len() {
        1..=64 if id.bytes().all(good) => Ok(()),
        _ => Err(Unreadable::whole("its name is no queue ID")),
    }
}

/// A time of another clock: one that lies ahead of ours would never expire.
fn time_of(secs: u64, now: Timestamp) -> Timestamp {
    Timestamp::from_secs(secs).min(now)
}

/// Text for people, in one line and within bounds.
fn text_of(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_MAX)]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

/// ENVID as RFC 3461 4.4 has it.
fn envid_of(text: &str) -> Result<String, String> {
    match text.len() <= ENVID_MAX && is_xtext(text, false) {
        true => Ok(text.to_owned()),
        false => Err("ENVID is not xtext (RFC 3461)".into()),
    }
}

/// ORCPT as RFC 3461 4.2 has it.
fn orcpt_of(text: &str) -> Result<String, String> {
    let good = text.split_once(';').is_some_and(|(kind, rest)| {
        !kind.is_empty()
            && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !rest.is_empty()
            && rest.chars().all(|c| c > ' ' && c != '\u{7f}')
    });
    match good && text.len() <= ORCPT_MAX {
        true => Ok(text.to_owned()),
        false => Err("ORCPT is not type;xtext (RFC 3461)".into()),
    }
}

/// Text as xtext (RFC 3461 4); what is beyond ASCII stays (RFC 6533).
fn to_xtext(text: &str) -> String {
    let mut xtext = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '+' | '=' | ..=' ' | '\u{7f}' => xtext.push_str(&format!("+{:02X}", u32::from(c))),
            _ => xtext.push(c),
        }
    }
    xtext
}

/// The state of a recipient with the last words about it: it is tried again in any case.
fn state_of(words: Option<&str>, at: Timestamp) -> RecipientState {
    let Some(words) = words.filter(|words| !words.is_empty() && *words != "Deferred") else {
        return RecipientState::Open(None);
    };
    let text = words.strip_prefix("Deferred: ").unwrap_or(words);
    let after_code = text
        .split_once(' ')
        .filter(|(code, _)| code.len() == 3 && code.bytes().all(|b| b.is_ascii_digit()))
        .map_or(text, |(_, rest)| rest);
    let status = EnhancedStatus::split_from(after_code).0;
    let status = status.unwrap_or(EnhancedStatus::new(4, 0, 0)).with_class(StatusClass::Transient);
    RecipientState::Open(Some(Box::new(Report {
        status,
        text: text.to_owned(),
        reply: None,
        command: None,
        remote: None,
        at,
    })))
}

/// An address as an envelope in files of Postfix has it: without the quotes of RFC 5321.
fn from_internal(text: &str) -> Result<Address, AddressError> {
    let (local, domain) = match text.rsplit_once('@') {
        Some((local, domain)) => (local, Some(domain)),
        None => (text, None),
    };
    let with = |local: &str| match domain {
        Some(domain) => format!("{local}@{domain}").parse::<Address>(),
        None => local.parse(),
    };
    // A route or a second @ would be understood as something else than one local part.
    if !local.contains('@')
        && let Ok(address) = with(local)
    {
        return Ok(address);
    }
    with(&format!("\"{}\"", local.replace('\\', "\\\\").replace('"', "\\\"")))
}

#[cfg(test)]
mod tests;
