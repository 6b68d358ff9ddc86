//! One transaction: its command lines, made once, and how each recipient stands (RFC 5321 3.3, RFC 3461 4, RFC 2852 4).

use std::fmt::Write as _;
use std::sync::Arc;

use super::ending::{Fate, Unfit};
use super::offer::{Offer, SizeOffer};
use super::{Dialect, Output};
use crate::mail::envelope::{BodyType, ByMode, Envelope, Notify, Recipient, Ret};
use crate::mail::status::Reply;
use crate::smtp::codec::LineChecker;

/// The largest message sent as one BDAT chunk: what fits a chunk is sent in one write without looking for dots; what is
/// larger is streamed as DATA, whose pieces need no reply each.
const CHUNK_MAX: usize = 96 * 1024;

/// One message for some of its recipients, to be given while the client is ready.
#[derive(Clone, Debug)]
pub struct Letter<'a> {
    /// Its envelope.
    pub envelope: &'a Envelope,
    /// Seconds left of the time it is to be delivered by (RFC 2852), if it has one.
    pub deliver_by_left: Option<i64>,
    /// For whom, at least one. Fates name them by their place here.
    pub recipients: Vec<&'a Recipient>,
    /// Header, blank line and body.
    pub body: Body,
}

/// Where the client gets header, blank line and body from.
#[derive(Clone, Debug)]
pub enum Body {
    /// Here, whole.
    Whole(Arc<[u8]>),
    /// Piece by piece, when asked with [`Output::NeedBody`].
    Pieces,
}

/// How the body goes over.
#[derive(Debug)]
pub(super) enum Carriage {
    /// By BDAT, as it is.
    Chunk(Arc<[u8]>),
    /// By DATA, from memory.
    Whole(Arc<[u8]>),
    /// By DATA, from pieces that are asked for.
    Pieces,
}

/// How one recipient stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// RCPT is not answered.
    Asked { dsn_aware: bool },
    /// RCPT was taken.
    Accepted { dsn_aware: bool },
    /// It has its fate.
    Settled,
    /// It has its fate because this server cannot serve it; its RCPT is never sent.
    Unfit,
}

/// A transaction under way.
#[derive(Debug)]
pub(super) struct Transaction {
    /// MAIL and every RCPT, each with its CRLF.
    lines: String,
    /// Where each line ends in `lines`.
    ends: Vec<usize>,
    standing: Vec<Standing>,
    pub(super) carriage: Carriage,
    by_aware: bool,
}

impl Transaction {
    /// Lays out the commands for a server with this offer; recipients it cannot serve get their fate at once.
    pub(super) fn new(
        letter: Letter<'_>,
        offer: &Offer,
        dialect: Dialect,
        out: &mut impl Extend<Output>,
    ) -> Transaction {
        let utf8 = needs_utf8(&letter);
        let too_large = match offer.size {
            SizeOffer::AtMost(limit) if letter.envelope.size > limit => {
                Some(Unfit::TooLarge { limit })
            }
            _ => None,
        };
        let sender_utf8 = utf8 && !offer.smtputf8;
        let late = match dialect {
            Dialect::Smtp => comes_late(&letter, offer),
            // Nobody comes after it: it is delivered there and then.
            Dialect::Lmtp => None,
        };
        let mut lines = String::with_capacity(64 * (1 + letter.recipients.len()));
        let mut ends = Vec::with_capacity(1 + letter.recipients.len());
        mail_line(&mut lines, &letter, offer, utf8);
        ends.push(lines.len());
        let mut standing = Vec::with_capacity(letter.recipients.len());
        for (place, recipient) in letter.recipients.iter().enumerate() {
            let lacks_utf8 = sender_utf8 || recipient.address.is_utf8() && !offer.smtputf8;
            let unfit = late.or(too_large).or(lacks_utf8.then_some(Unfit::NeedsUtf8));
            rcpt_line(&mut lines, recipient, offer);
            ends.push(lines.len());
            standing.push(match unfit {
                Some(unfit) => {
                    out.extend([Output::Fate { place, fate: Fate::Unfit(unfit) }]);
                    Standing::Unfit
                }
                None => Standing::Asked {
                    dsn_aware: offer.dsn && recipient.notify != Notify::Unspecified,
                },
            });
        }
        let chunks = offer.chunking && dialect == Dialect::Smtp;
        let carriage = match letter.body {
            Body::Pieces => Carriage::Pieces,
            Body::Whole(bytes) if chunks && bytes.len() <= CHUNK_MAX && is_clean(&bytes) => {
                Carriage::Chunk(bytes)
            }
            Body::Whole(bytes) => Carriage::Whole(bytes),
        };
        let by_aware = offer.deliver_by.is_some();
        Transaction { lines, ends, standing, carriage, by_aware }
    }

    /// The MAIL line without its CRLF.
    pub(super) fn mail(&self) -> &str {
        self.line(0)
    }

    /// The RCPT line of the recipient at `place`, without its CRLF.
    pub(super) fn rcpt(&self, place: usize) -> &str {
        self.line(place + 1)
    }

    fn line(&self, number: usize) -> &str {
        let start =
            number.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(number).copied().unwrap_or(start);
        self.lines.get(start..end).unwrap_or("").trim_end_matches("\r\n")
    }

    /// The first recipient from `place` on whose RCPT belongs to the transaction, answered or not.
    pub(super) fn listed_from(&self, place: usize) -> Option<usize> {
        let rest = self.standing.get(place..)?;
        rest.iter().position(|standing| *standing != Standing::Unfit).map(|at| place + at)
    }

    /// The first recipient that the server agreed to and that has no fate yet.
    pub(super) fn next_accepted(&self) -> Option<usize> {
        self.standing.iter().position(|standing| matches!(standing, Standing::Accepted { .. }))
    }

    /// The server agreed to the recipient at `place`.
    pub(super) fn accept(&mut self, place: usize) {
        if let Some(standing) = self.standing.get_mut(place)
            && let Standing::Asked { dsn_aware } = *standing
        {
            *standing = Standing::Accepted { dsn_aware };
        }
    }

    /// Gives the recipient at `place` its fate, unless it has one.
    pub(super) fn settle(&mut self, place: usize, fate: Fate, out: &mut impl Extend<Output>) {
        if let Some(standing) = self.standing.get_mut(place)
            && !matches!(*standing, Standing::Settled | Standing::Unfit)
        {
            *standing = Standing::Settled;
            out.extend([Output::Fate { place, fate }]);
        }
    }

    /// Gives everybody who has no fate this one.
    pub(super) fn settle_all(&mut self, fate: &Fate, out: &mut impl Extend<Output>) {
        for place in 0..self.standing.len() {
            self.settle(place, fate.clone(), out);
        }
    }

    /// The server took the message for the recipient at `place`.
    pub(super) fn take(&mut self, place: usize, reply: &Reply, out: &mut impl Extend<Output>) {
        if let Some(&Standing::Accepted { dsn_aware }) = self.standing.get(place) {
            let by_aware = self.by_aware;
            self.settle(place, Fate::Taken { reply: reply.clone(), dsn_aware, by_aware }, out);
        }
    }

    /// The server took the message for everybody it had agreed to.
    pub(super) fn take_all(&mut self, reply: &Reply, out: &mut impl Extend<Output>) {
        while let Some(place) = self.next_accepted() {
            self.take(place, reply, out);
        }
    }
}

/// Whether the bytes may go out as they are: no bare CR, bare LF or NUL, and a line end at the end.
fn is_clean(bytes: &[u8]) -> bool {
    let mut checker = LineChecker::new();
    checker.check(bytes);
    !checker.finish() && checker.fault().is_none()
}

/// RFC 6531 3.4: the paths or the header need it. A message that only asked for it and is plain ASCII in both does not.
fn needs_utf8(letter: &Letter<'_>) -> bool {
    let envelope = letter.envelope;
    let path = envelope.reverse_path.mailbox().is_some_and(|address| address.is_utf8());
    let header = match &letter.body {
        Body::Whole(bytes) => {
            let len = usize::try_from(envelope.header_len).unwrap_or(usize::MAX).min(bytes.len());
            !bytes[..len].is_ascii()
        }
        Body::Pieces => true,
    };
    path || envelope.smtputf8 && header
}

/// RFC 2852 4.1.4: by-mode R goes to no server that could forget the time, or that takes longer than there is left.
fn comes_late(letter: &Letter<'_>, offer: &Offer) -> Option<Unfit> {
    let returns = letter.envelope.deliver_by.is_some_and(|by| by.mode == ByMode::Return);
    let left = letter.deliver_by_left.filter(|_| returns)?;
    let Some(minimum) = offer.deliver_by else { return Some(Unfit::NoDeliverBy) };
    // The time with R is above 0.
    let minimum = i64::from(minimum).max(1);
    (left < minimum).then_some(Unfit::TooLate { left, minimum })
}

fn mail_line(line: &mut String, letter: &Letter<'_>, offer: &Offer, utf8: bool) {
    let envelope = letter.envelope;
    line.push_str("MAIL From:<");
    if let Some(address) = envelope.reverse_path.mailbox() {
        line.push_str(address.as_str());
    }
    line.push('>');
    if offer.size != SizeOffer::Unknown {
        // Writing to a String cannot fail.
        let _ = write!(line, " SIZE={}", envelope.size);
    }
    if offer.eight_bit_mime && envelope.body_type != BodyType::SevenBit {
        line.push_str(" BODY=8BITMIME");
    }
    let any_utf8 = utf8 && offer.smtputf8;
    if any_utf8 {
        line.push_str(" SMTPUTF8");
    }
    if offer.dsn {
        match envelope.ret {
            Some(Ret::Full) => line.push_str(" RET=FULL"),
            Some(Ret::Headers) => line.push_str(" RET=HDRS"),
            None => {}
        }
        parameter(line, " ENVID=", envelope.envid.as_deref());
    }
    if let (Some(_), Some(by), Some(left)) =
        (offer.deliver_by, envelope.deliver_by, letter.deliver_by_left)
    {
        let mode = match by.mode {
            ByMode::Notify => 'N',
            ByMode::Return => 'R',
        };
        let trace = if by.trace { "T" } else { "" };
        let _ = write!(line, " BY={left};{mode}{trace}");
    }
    line.push_str("\r\n");
}

fn rcpt_line(line: &mut String, recipient: &Recipient, offer: &Offer) {
    line.push_str("RCPT To:<");
    line.push_str(recipient.address.as_str());
    line.push('>');
    if offer.dsn {
        match recipient.notify {
            Notify::Unspecified => {}
            Notify::Never => line.push_str(" NOTIFY=NEVER"),
            Notify::On { success, failure, delay } => {
                let words = [(success, "SUCCESS"), (failure, "FAILURE"), (delay, "DELAY")];
                let mut lead = " NOTIFY=";
                for (_, word) in words.into_iter().filter(|(wanted, _)| *wanted) {
                    line.push_str(lead);
                    line.push_str(word);
                    lead = ",";
                }
            }
        }
        parameter(line, " ORCPT=", recipient.orcpt.as_deref());
    }
    line.push_str("\r\n");
}

/// A parameter's value is xtext (RFC 3461 4): anything but printable ASCII would end the command line or change it, so
/// such a value, however it got into the store, is left out.
fn parameter(line: &mut String, name: &str, value: Option<&str>) {
    if let Some(value) = value.filter(|v| !v.is_empty() && v.bytes().all(|b| b.is_ascii_graphic()))
    {
        line.push_str(name);
        line.push_str(value);
    }
}
