//! A message of Postfix: envelope records, content, records extracted from its header; by [`super::records`].
//!
//! The law is what Postfix 2.3 to 3.10 write. Recipients that are done or taken back are left out. Addresses lose their quotes in
//! these files and get them back here; ENVID and ORCPT are decoded there and become xtext again. A recipient that an alias gave has
//! the original one as its ORCPT, when the sender gave none, as Postfix tells the next host. Postfix counts no attempts: a
//! message of `deferred` counts as tried once.
//!
//! VERP asks for a sender for each recipient, which Postfix makes when it delivers: such a message becomes one for each
//! recipient here ([`copies`]). A content filter that it has not gone through yet holds it, with the reason, for an operator
//! to decide, and so does lying in `corrupt`. What lies in `maildrop` comes straight from a program: it gets the fields that a header
//! must have, and loses Bcc and Return-Path, as cleanup would see to; but no address is rewritten.

use std::collections::HashMap;

use jiff::tz::TimeZone;

use super::content::{Completion, Content};
use super::records::*;
use super::{
    Copy, Fault, Head, Parts, Sent, Unreadable, check_id, envid_of, from_internal, orcpt_of,
    state_of, text_of, time_of, to_xtext,
};
use crate::accept::local_header;
use crate::mail::address::{Address, ReversePath};
use crate::mail::envelope::{Notify, Recipient, RecipientState, Ret};
use crate::mail::time::Timestamp;

/// Recipients of one message that asks for VERP, at most: it is read once for each.
pub const VERP_MAX: usize = 10_000;

/// What the place of a queue file says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// Why it is not being tried there, when it lies in `hold` or `corrupt`.
    pub held: Option<&'static str>,
    /// It was deferred.
    pub deferred: Option<Deferral>,
    /// It lies in `maildrop`: who put it there, and the name of this host.
    pub dropped: Option<Dropped>,
    /// There is a log of recipients that failed: their sender has not heard of it.
    pub owes_report: bool,
}

/// A message that a program of this machine gave to Postfix and nobody has seen to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// The user.
    pub user: String,
    /// This host.
    pub host: String,
}

/// When and why a message was deferred last, by the log that Postfix keeps of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deferral {
    /// When.
    pub at: Timestamp,
    /// The last reason.
    pub reason: Option<String>,
    /// Status and reason by recipient.
    pub recipients: HashMap<String, (String, String)>,
}

impl Deferral {
    /// Of one about which no log says anything.
    pub fn unknown(at: Timestamp) -> Deferral {
        Deferral { at, reason: None, recipients: HashMap::new() }
    }

    /// Of a log, or the last part of one: groups of `name=value` lines with a blank line behind each.
    pub fn read(log: &[u8], at: Timestamp) -> Deferral {
        let mut deferral = Deferral::unknown(at);
        let (mut recipient, mut status, mut reason) = (None, String::new(), None);
        for line in log.split(|b| *b == b'\n').chain([&b""[..]]) {
            let value = |name: &[u8]| line.strip_prefix(name).map(text_of);
            if let Some(text) = value(b"recipient=") {
                recipient = Some(text);
            } else if let Some(text) = value(b"status=") {
                status = text;
            } else if let Some(text) = value(b"reason=") {
                deferral.reason = Some(text.clone());
                reason = Some(text);
            } else if line.is_empty() {
                let status = std::mem::take(&mut status);
                if let (Some(recipient), Some(reason)) = (recipient.take(), reason.take()) {
                    deferral.recipients.insert(recipient, (status, reason));
                }
            }
        }
        deferral
    }

    /// What a recipient met.
    fn state(&self, recipient: &str) -> RecipientState {
        let Some((status, reason)) = self.recipients.get(recipient) else {
            return RecipientState::Open(None);
        };
        let mut state = state_of(Some(&format!("{status} {reason}")), self.at);
        if let RecipientState::Open(Some(report)) = &mut state {
            report.text.clone_from(reason);
        }
        state
    }
}

/// What [`scan`] found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scanned {
    /// Of the message.
    pub head: Head,
    /// Everything goes here instead.
    redirect: Option<String>,
    /// Senders are made of this one for each recipient, with what VERP puts around it.
    verp: Option<(String, (char, char))>,
    deferred: Option<Deferral>,
    completion: Option<Completion>,
}

/// Part of the file that is being read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Envelope,
    Content,
    Extracted,
}

/// Reads a message to its end.
///
/// # Errors
/// The place that cannot be read, and why.
pub fn scan(
    records: &mut dyn Records,
    id: &str,
    place: &Place,
    now: Timestamp,
) -> Result<Scanned, Unreadable> {
    check_id(id)?;
    let mut scanned = Scanned {
        head: Head::new(id),
        redirect: None,
        verp: None,
        deferred: place.deferred.clone(),
        completion: None,
    };
    let (mut sender, mut arrival, mut filter, mut full_name) = (None, None, None, String::new());
    let mut delimiters = None;
    let (mut name, mut address) = (String::new(), String::new());
    let mut walk = Walk::new(records);
    while let Some(item) = walk.next()? {
        let head = &mut scanned.head;
        match item {
            Item::Line(_) | Item::Piece(_) => {}
            Item::Recipient(Addressed { address: text, .. }) => {
                from_internal(&text).map_err(|error| walk.wrong(format!("{text}... {error}")))?;
                head.recipients = head.recipients.saturating_add(1);
            }
            Item::Record(Record { kind, data }) => {
                let text = text_of(&data);
                match kind {
                    TIME => {
                        arrival = Some(walk.number(text.split(' ').next().unwrap_or_default())?)
                    }
                    SENDER => sender = Some(walk.address(&data)?),
                    WARN => head.warned = walk.number(&text)? == 0,
                    REDIRECT => scanned.redirect = Some(walk.address(&data)?),
                    FILTER | INSPECT => filter = Some(text).filter(|text| !text.is_empty()),
                    VERP => delimiters = Some(walk.delimiters(&text)?),
                    FULL_NAME => full_name = text,
                    ENVID => head.envid = envid_of(&to_xtext(&text)).ok(),
                    RET => head.ret = ret_of(walk.number(&text)?),
                    ATTRIBUTE => {
                        let (key, value) = text.split_once('=').unwrap_or((&text, ""));
                        match key {
                            "encoding" => head.eight_bit = value == "8bit",
                            "client_name" | "log_client_name" => name = value.to_owned(),
                            "client_address" | "log_client_address" => address = value.to_owned(),
                            "protocol_name" | "log_protocol_name" => {
                                head.protocol = value.to_owned()
                            }
                            "smtputf8" => head.smtputf8 = walk.number(value)? != 0,
                            "envelope_id" => head.envid = envid_of(&to_xtext(value)).ok(),
                            "ret_flags" => head.ret = ret_of(walk.number(value)?),
                            _ => {}
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    if !walk.ended {
        return Err(walk.wrong("the file ends without its end record: it is not whole"));
    }
    let head = &mut scanned.head;
    let arrival = arrival.ok_or_else(|| Unreadable::whole("no time of arrival"))?;
    head.arrival = time_of(arrival, now);
    head.reverse_path = match sender.ok_or_else(|| Unreadable::whole("no sender"))? {
        text if text.is_empty() => ReversePath::Null,
        text => {
            let address = from_internal(&text);
            // Without a sender, as in a report, Postfix makes no others of it either.
            scanned.verp = delimiters.map(|delimiters| (text.clone(), delimiters));
            ReversePath::Mailbox(
                address.map_err(|error| Unreadable::whole(format!("sender {text}... {error}")))?,
            )
        }
    };
    if head.recipients == 0 {
        return Err(Unreadable::whole("no recipients: Postfix is through with it"));
    }
    if let Some(to) = &scanned.redirect {
        from_internal(to).map_err(|error| Unreadable::whole(format!("{to}... {error}")))?;
    }
    if ["unknown", "unavailable"].contains(&head.protocol.as_str()) {
        head.protocol.clear();
    }
    let known = |text: &str| !["", "unknown", "unavailable"].contains(&text);
    head.relay = match (known(&name), known(&address)) {
        (true, false) => name,
        (false, false) => String::new(),
        (true, true) => format!("{name} [{address}]"),
        (false, true) => format!("[{address}]"),
    };
    head.held = match (place.held, filter) {
        (_, Some(filter)) => Some(format!("it was to go through the content filter {filter}")),
        (held, None) => held.map(str::to_owned),
    };
    if let Some(Deferral { at, reason, .. }) = &place.deferred {
        head.attempts.count = 1;
        head.attempts.last = Some((*at).min(now));
        head.attempts.status = reason.as_ref().map(|reason| format!("Deferred: {reason}"));
    }
    head.extras.owes_report = place.owes_report;
    if let Some(dropped) = &place.dropped {
        head.extras.was_not_rewritten = true;
        head.relay = format!("{}@localhost", dropped.user);
        scanned.completion = Some(completion(head, dropped, &full_name));
    }
    scanned.head = scanned.head.named("postfix", None);
    Ok(scanned)
}

/// What is to be loaded of a message. `records` are those that [`scan`] read, from the start.
///
/// # Errors
/// The place that cannot be read, and why.
pub fn copies(scanned: &Scanned, records: &mut dyn Records) -> Result<Vec<Copy>, Unreadable> {
    let Some((sender, delimiters)) = &scanned.verp else {
        return Ok(vec![Copy { head: scanned.head.clone(), only: None }]);
    };
    let mut copies = Vec::new();
    let mut walk = Walk::new(records);
    while let Some(item) = walk.next()? {
        match item {
            Item::Recipient(_) if copies.len() == VERP_MAX => {
                let text =
                    format!("VERP for more than {VERP_MAX} recipients: let Postfix deliver it");
                return Err(walk.wrong(text));
            }
            Item::Recipient(addressed) => {
                let mut head = scanned.head.clone();
                head.recipients = 1;
                head.reverse_path = ReversePath::Mailbox(
                    verp(sender, addressed.original(), *delimiters)
                        .map_err(|error| walk.wrong(error))?,
                );
                let head = head.named("postfix", Some(&addressed.address));
                copies.push(Copy { head, only: Some(copies.len()) });
            }
            Item::Line(_) | Item::Piece(_) | Item::Record(_) => {}
        }
    }
    copies.truncate(if scanned.redirect.is_some() { 1 } else { VERP_MAX });
    Ok(copies)
}

/// `list@a.example` and `joe@b.example` make `list+joe=b.example@a.example`, by the delimiters `+=` (Postfix: the original recipient).
fn verp(sender: &str, recipient: &str, (first, second): (char, char)) -> Result<Address, String> {
    let (local, domain) = sender.rsplit_once('@').map_or((sender, None), |(l, d)| (l, Some(d)));
    let of = match recipient.rsplit_once('@') {
        Some((user, host)) => format!("{user}{second}{host}"),
        None => recipient.to_owned(),
    };
    let domain = domain.map_or_else(String::new, |domain| format!("@{domain}"));
    let sender = format!("{local}{first}{of}{domain}");
    from_internal(&sender).map_err(|error| format!("VERP sender {sender}... {error}"))
}

/// As pickup and cleanup see to mail of local programs.
fn completion(head: &Head, dropped: &Dropped, full_name: &str) -> Completion {
    let Dropped { user, host } = dropped;
    let date = head.arrival.rfc5322(&TimeZone::system());
    let second = head.arrival.strftime("%Y%m%d%H%M%S", &TimeZone::UTC);
    let id = &head.id;
    let from = match &head.reverse_path {
        ReversePath::Mailbox(address) => {
            let address = address.clone();
            let qualified = address.clone().qualified(host).unwrap_or(address);
            local_header::from_value(full_name, &qualified, "")
        }
        ReversePath::Null => format!("MAILER-DAEMON@{host}"),
    };
    Completion {
        front: format!(
            "Received: (from {user}@localhost)\r\n\tby {host} (Postfix maildrop) id {id};\r\n\t{date}\r\n"
        ),
        added: vec![
            ("Date", date),
            ("From", from),
            ("Message-Id", format!("<{second}.{id}@{host}>")),
        ],
    }
}

/// Hands recipients and content of a copy on. `records` are those that [`scan`] read, from the start.
///
/// # Errors
/// [`Fault`]; nothing is to be loaded then.
pub fn send(
    scanned: &Scanned,
    copy: &Copy,
    records: &mut dyn Records,
    parts: &mut dyn Parts,
) -> Result<Sent, Fault> {
    let head = &copy.head;
    let mut content = match &scanned.completion {
        None => Content::new(parts),
        Some(completion) => Content::completed(parts, completion.clone()),
    };
    let mut walk = Walk::new(records);
    let mut redirect = scanned.redirect.as_deref();
    let mut count = 0;
    while let Some(item) = walk.next()? {
        match item {
            Item::Piece(bytes) => content.push(&bytes)?,
            Item::Line(mut bytes) => {
                bytes.push(b'\n');
                content.push(&bytes)?;
            }
            Item::Recipient(addressed) => {
                let is_ours = copy.only.is_none_or(|only| only == count);
                count += 1;
                let to = match (&scanned.redirect, redirect.take()) {
                    _ if !is_ours => continue,
                    (None, _) => &addressed.address,
                    (Some(_), Some(to)) => to,
                    (Some(_), None) => continue,
                };
                let address =
                    from_internal(to).map_err(|error| walk.wrong(format!("{to}... {error}")))?;
                let deferred = scanned.deferred.as_ref();
                let state = deferred.map_or(RecipientState::Open(None), |deferred| {
                    deferred.state(address.as_str())
                });
                let (notify, orcpt) = (notify_of(addressed.notify), addressed.orcpt());
                let recipient = Recipient { address, orcpt, notify, state };
                content.parts().recipient(recipient).map_err(Fault::Lost)?;
            }
            Item::Record(_) => {}
        }
    }
    if !walk.ended {
        return Err(walk.wrong("the file ends without its end record: it is not whole").into());
    }
    content.finish(head)
}

fn ret_of(flags: u64) -> Option<Ret> {
    match flags {
        1 => Some(Ret::Full),
        2 => Some(Ret::Headers),
        _ => None,
    }
}

fn notify_of(flags: u64) -> Notify {
    match flags {
        0 => Notify::Unspecified,
        _ if flags & 1 != 0 => Notify::Never,
        _ => Notify::On { success: flags & 2 != 0, failure: flags & 4 != 0, delay: flags & 8 != 0 },
    }
}

/// What a walk over the records comes by.
enum Item {
    /// A line of the content, without its end.
    Line(Vec<u8>),
    /// A piece of a line.
    Piece(Vec<u8>),
    /// A recipient to be tried.
    Recipient(Addressed),
    /// Any other of the envelope.
    Record(Record),
}

/// A recipient with what its records say of it.
#[derive(Default)]
struct Addressed {
    address: String,
    /// Before aliases; empty when that is not known.
    original: String,
    notify: u64,
    /// ORCPT, decoded.
    orcpt: Option<String>,
}

impl Addressed {
    fn original(&self) -> &str {
        if self.original.is_empty() { &self.address } else { &self.original }
    }

    /// What the sender called it, or what it was before aliases.
    fn orcpt(&self) -> Option<String> {
        let given = self.orcpt.as_ref().filter(|orcpt| !orcpt.is_empty());
        let orcpt = match given {
            Some(orcpt) => match orcpt.split_once(';') {
                Some((kind, rest)) => format!("{kind};{}", to_xtext(rest)),
                None => orcpt.clone(),
            },
            None if self.original() != self.address => {
                format!("rfc822;{}", to_xtext(self.original()))
            }
            None => return None,
        };
        // One that Postfix let in and RFC 3461 does not is only a name in reports.
        orcpt_of(&orcpt).ok()
    }
}

/// The records in their parts, with those about a recipient gathered.
struct Walk<'a> {
    records: &'a mut dyn Records,
    part: Part,
    /// Of the next recipient.
    about: Addressed,
    ended: bool,
}

impl<'a> Walk<'a> {
    fn new(records: &'a mut dyn Records) -> Walk<'a> {
        Walk { records, part: Part::Envelope, about: Addressed::default(), ended: false }
    }

    fn wrong(&self, reason: impl Into<String>) -> Unreadable {
        Unreadable { place: self.records.place(), reason: reason.into() }
    }

    fn number(&self, text: &str) -> Result<u64, Unreadable> {
        text.trim().parse().map_err(|_| self.wrong(format!("{text:?} is no number here")))
    }

    fn address(&self, data: &[u8]) -> Result<String, Unreadable> {
        let text = std::str::from_utf8(data);
        text.map(str::to_owned).map_err(|_| self.wrong("an address that is no text in UTF-8"))
    }

    fn delimiters(&self, text: &str) -> Result<(char, char), Unreadable> {
        let mut chars = text.chars();
        match (chars.next(), chars.next(), chars.next()) {
            (Some(first), Some(second), None) => Ok((first, second)),
            _ => Err(self.wrong(format!("{text:?} are no two VERP delimiters"))),
        }
    }

    /// The next thing; none at the end record, or at the end of the file without one.
    fn next(&mut self) -> Result<Option<Item>, Unreadable> {
        loop {
            if self.ended {
                return Ok(None);
            }
            let Some(record) = self.records.next()? else { return Ok(None) };
            match (self.part, record.kind) {
                (Part::Envelope, MESSAGE) => self.part = Part::Content,
                (Part::Content, EXTRACTED) => self.part = Part::Extracted,
                (Part::Extracted, END) => self.ended = true,
                (Part::Content, LINE) => return Ok(Some(Item::Line(record.data))),
                (Part::Content, PIECE) => return Ok(Some(Item::Piece(record.data))),
                (Part::Content, kind) => {
                    return Err(self.wrong(format!("a record of type {kind} in the content")));
                }
                (_, MESSAGE | EXTRACTED | END) => {
                    return Err(self.wrong("its parts are not in their order"));
                }
                (_, NOTIFY) => self.about.notify = self.number(&text_of(&record.data))?,
                (_, ORCPT) => self.about.orcpt = Some(text_of(&record.data)),
                (_, ORIGINAL) => self.about.original = self.address(&record.data)?,
                (_, DONE | CANCELLED | KILLED) => self.about = Addressed::default(),
                (_, RECIPIENT) => {
                    let address = self.address(&record.data)?;
                    let about = std::mem::take(&mut self.about);
                    return Ok(Some(Item::Recipient(Addressed { address, ..about })));
                }
                (_, ATTRIBUTE) if record.data.starts_with(b"notify_flags=") => {
                    self.about.notify = self.number(&text_of(&record.data[13..]))?;
                }
                (_, ATTRIBUTE) if record.data.starts_with(b"dsn_orig_rcpt=") => {
                    self.about.orcpt = Some(text_of(&record.data[14..]));
                }
                _ => return Ok(Some(Item::Record(record))),
            }
        }
    }
}
