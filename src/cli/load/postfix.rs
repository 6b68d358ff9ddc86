//! A message of Postfix: envelope records, content, records extracted from its header; by [`super::records`].
//!
//! The law is what Postfix 2.3 to 3.10 write. Recipients that are done or taken back are left out. Addresses lose their quotes in
//! these files and get them back here; ENVID and ORCPT are decoded there and become xtext again. What cannot be kept is
//! never dropped in silence: VERP refuses the message; a content filter that it has not gone through yet holds it, with the
//! reason, for an operator to decide. Postfix counts no attempts: a message of `deferred` counts as tried once.

use super::content::Content;
use super::records::*;
use super::{
    Fault, Head, Parts, Unreadable, check_id, envid_of, from_internal, orcpt_of, state_of, text_of,
    time_of, to_xtext,
};
use crate::mail::address::ReversePath;
use crate::mail::envelope::{Notify, Recipient, Ret};
use crate::mail::loading::Loading;
use crate::mail::time::Timestamp;

/// What the place of a queue file says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// It lies in `hold`.
    pub held: bool,
    /// It was deferred: when that was last, and why, if that is known.
    pub deferred: Option<(Timestamp, Option<String>)>,
}

/// What [`scan`] found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scanned {
    /// Of the message.
    pub head: Head,
    /// Everything goes here instead.
    redirect: Option<String>,
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
    let mut scanned = Scanned { head: Head::new(id), redirect: None };
    let (mut sender, mut arrival, mut filter, mut has_verp) = (None, None, None, false);
    let (mut name, mut address) = (String::new(), String::new());
    let mut walk = Walk::new(records);
    while let Some(item) = walk.next()? {
        let head = &mut scanned.head;
        match item {
            Item::Line(_) | Item::Piece(_) => {}
            Item::Recipient(text, ..) => {
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
                    VERP => has_verp = true,
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
            ReversePath::Mailbox(
                address.map_err(|error| Unreadable::whole(format!("sender {text}... {error}")))?,
            )
        }
    };
    if head.recipients == 0 {
        return Err(Unreadable::whole("no recipients: Postfix is through with it"));
    }
    if has_verp {
        return Err(Unreadable::whole("it asks for VERP, a sender for each recipient"));
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
        (true, None) => Some("on hold in Postfix".into()),
        (false, None) => None,
    };
    if let Some((last, why)) = &place.deferred {
        head.attempts.count = 1;
        head.attempts.last = Some((*last).min(now));
        head.attempts.status = why.as_ref().map(|why| format!("Deferred: {why}"));
    }
    scanned.head = scanned.head.named("postfix");
    Ok(scanned)
}

/// Hands recipients and content on. `records` are those that [`scan`] read, from the start.
///
/// # Errors
/// [`Fault`]; nothing is to be loaded then.
pub fn send(
    scanned: &Scanned,
    records: &mut dyn Records,
    parts: &mut dyn Parts,
) -> Result<Loading, Fault> {
    let head = &scanned.head;
    let mut content = Content::new(parts);
    let mut walk = Walk::new(records);
    let mut redirect = scanned.redirect.as_deref();
    while let Some(item) = walk.next()? {
        match item {
            Item::Piece(bytes) => content.push(&bytes)?,
            Item::Line(mut bytes) => {
                bytes.push(b'\n');
                content.push(&bytes)?;
            }
            Item::Recipient(text, notify, orcpt) => {
                let to = match (&scanned.redirect, redirect.take()) {
                    (None, _) => &text,
                    (Some(_), Some(to)) => to,
                    (Some(_), None) => continue,
                };
                let address =
                    from_internal(to).map_err(|error| walk.wrong(format!("{to}... {error}")))?;
                let orcpt = orcpt.map(|orcpt| match orcpt.split_once(';') {
                    Some((kind, rest)) => format!("{kind};{}", to_xtext(rest)),
                    None => orcpt,
                });
                // One that Postfix let in and RFC 3461 does not is only a name in reports.
                let orcpt = orcpt.and_then(|orcpt| orcpt_of(&orcpt).ok());
                let state = state_of(None, head.arrival);
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
    /// A recipient to be tried, with NOTIFY and decoded ORCPT.
    Recipient(String, Notify, Option<String>),
    /// Any other of the envelope.
    Record(Record),
}

/// The records in their parts, with those about a recipient gathered.
struct Walk<'a> {
    records: &'a mut dyn Records,
    part: Part,
    notify: u64,
    orcpt: Option<String>,
    ended: bool,
}

impl<'a> Walk<'a> {
    fn new(records: &'a mut dyn Records) -> Walk<'a> {
        Walk { records, part: Part::Envelope, notify: 0, orcpt: None, ended: false }
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
                (_, NOTIFY) => self.notify = self.number(&text_of(&record.data))?,
                (_, ORCPT) => self.orcpt = Some(text_of(&record.data)),
                (_, DONE | CANCELLED | KILLED) => (self.notify, self.orcpt) = (0, None),
                (_, RECIPIENT) => {
                    let notify = notify_of(std::mem::take(&mut self.notify));
                    let orcpt = self.orcpt.take().filter(|orcpt| !orcpt.is_empty());
                    let text = self.address(&record.data)?;
                    return Ok(Some(Item::Recipient(text, notify, orcpt)));
                }
                (_, ATTRIBUTE) if record.data.starts_with(b"notify_flags=") => {
                    self.notify = self.number(&text_of(&record.data[13..]))?;
                }
                (_, ATTRIBUTE) if record.data.starts_with(b"dsn_orig_rcpt=") => {
                    self.orcpt = Some(text_of(&record.data[14..]));
                }
                _ => return Ok(Some(Item::Record(record))),
            }
        }
    }
}
