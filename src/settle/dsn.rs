//! Delivery reports: RFC 3464 in sendmail's words and layout; RFC 6533 for addresses beyond ASCII; RFC 2852 5.
//!
//! [`compose`] makes a complete message: header, text for people, `message/delivery-status` for programs, and the
//! original or its header. Its own queue ID, which Received: and Message-Id: have, is put in when it is stored.
//!
//! Promises: the boundary occurs nowhere in the content; nothing that a peer or a sender wrote can begin a line, a field or
//! a part, because control characters are replaced and lengths capped; outside the original, octets above 127 stand only in
//! a report to an address that has them itself, else they are written `\x{E9}`.

use std::fmt::Write as _;

use super::expiry::{self, Warning};
use super::plan::Plan;
use crate::mail::address::Address;
use crate::mail::envelope::{DeliverBy, Envelope};
use crate::mail::outcome::{Report, ReportMessage};
use crate::mail::queue_id::QueueId;
use crate::mail::status::{EnhancedStatus, Reply, StatusClass};
use crate::mail::time::Timestamp;

/// A peer's text on one line of a report, in octets. A line of mail has 998 (RFC 5322 2.1.1), and the longest of ours holds
/// an address, a text and some twenty octets more.
const TEXT_MAX: usize = 400;
/// An address or command on one line, in octets; the longest address has 512.
const ADDRESS_MAX: usize = 560;
/// An address alone in its field, in octets: one beyond ASCII takes up to four times its length.
const TYPED_MAX: usize = 900;
/// Lines shown of one reply.
const REPLY_LINES_MAX: usize = 20;
/// Addresses joined in one line of the transcript, in octets.
const JOINED_MAX: usize = 400;
/// Octets of transcript after which only the status part tells the rest.
const TRANSCRIPT_MAX: usize = 48 * 1024;
/// Of our name in a boundary, which has 70 characters at most (RFC 2046 5.1.1).
const BOUNDARY_HOST_MAX: usize = 30;

/// The mark of mail to the postmaster about reports: by it, a report about such a report is not made.
const POSTMASTER_MARK: &str = "Auto-Submitted: auto-generated (postmaster-notification)";

/// Which report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// To the sender: given up.
    Failure,
    /// To the sender: not delivered for so long, still trying.
    Delay(Warning),
    /// To the sender: delivered or relayed, as asked.
    Receipt,
    /// To the postmaster: a report could not be delivered.
    DoubleBounce,
    /// To the postmaster: what the sender was told.
    PostmasterCopy,
}

/// What became of a recipient, with the last word on it.
#[derive(Clone, Copy, Debug)]
pub enum Ending<'a> {
    /// Given up; for its age when the status is of class 4.
    Failed(&'a Report),
    /// Still open.
    Delayed(&'a Report),
    /// In the mailbox.
    Delivered(&'a Report),
    /// Given to a host that will not report.
    Relayed(&'a Report),
    /// Given to a host, of which DELIVERBY asks for word (RFC 2852 4.1.4).
    RelayedBy(&'a Report, DeliverBy),
}

impl<'a> Ending<'a> {
    fn report(self) -> &'a Report {
        match self {
            Ending::Failed(r)
            | Ending::Delayed(r)
            | Ending::Delivered(r)
            | Ending::Relayed(r)
            | Ending::RelayedBy(r, _) => r,
        }
    }

    fn is_expired(self) -> bool {
        matches!(self, Ending::Failed(r) if r.status.class() == StatusClass::Transient)
    }
}

/// One recipient in a report.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// Forward-path.
    pub address: &'a Address,
    /// ORCPT as given, xtext.
    pub orcpt: Option<&'a str>,
    /// What became of it.
    pub ending: Ending<'a>,
}

/// How much of the original a report carries, cut by the caller to what it may carry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Original {
    /// Header and body.
    Whole(Vec<u8>),
    /// The header, perhaps only its beginning.
    Header(Vec<u8>),
}

/// Everything a report says.
pub struct Letter<'a> {
    /// Which.
    pub kind: Kind,
    /// Its recipient.
    pub to: &'a Address,
    /// Queue ID of the original.
    pub id: QueueId,
    /// Of the original.
    pub envelope: &'a Envelope,
    /// At least one.
    pub items: &'a [Item<'a>],
    /// Of the original's bytes.
    pub original: &'a Original,
    /// `5 days`: how long delivery was tried, for recipients given up for age.
    pub tried_for: String,
    /// Date of the report.
    pub now: Timestamp,
}

/// Whether `header`, the beginning of a report of ours, is that of one to the postmaster.
pub fn is_postmaster_notification(header: &[u8]) -> bool {
    for line in header.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return false;
        }
        if line == POSTMASTER_MARK.as_bytes() {
            return true;
        }
    }
    false
}

/// The report as a message, CRLF line ends throughout what we wrote.
pub fn compose(plan: &Plan, letter: &Letter<'_>) -> ReportMessage {
    let charset = if letter.to.is_utf8() { Charset::Utf8 } else { Charset::Ascii };
    let page = Page { plan, letter, charset };
    let text = page.text();
    let status = page.status();
    let (original, whole) = match letter.original {
        Original::Whole(bytes) => (bytes.as_slice(), true),
        Original::Header(bytes) => (header_lines(bytes), false),
    };
    if !plan.mime {
        return page.plain(&text, original, whole);
    }
    let boundary = page.boundary(&[text.as_bytes(), status.as_bytes(), original]);
    let eight_bit = !original.is_ascii();
    let (header, names) = page.header(&boundary, eight_bit || charset == Charset::Utf8);

    let mut bytes =
        Vec::with_capacity(header.len() + text.len() + status.len() + original.len() + 1024);
    bytes.extend_from_slice(header.as_bytes());
    let mut part = |heading: &str, content: &[u8]| {
        bytes.extend_from_slice(format!("--{boundary}\r\n{heading}\r\n").as_bytes());
        bytes.extend_from_slice(content);
        if !content.ends_with(b"\n") {
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
    };
    part(page.text_heading(), text.as_bytes());
    part(page.status_heading(), status.as_bytes());
    part(&page.original_heading(whole, eight_bit), original);
    bytes.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    ReportMessage { to: letter.to.clone(), bytes, header_len: header_octets(&header), names }
}

/// The octets of the report's own header: `header` goes on with the preamble.
fn header_octets(header: &str) -> u64 {
    header.find("\r\n\r\n").map_or(header.len(), |at| at + 4) as u64
}

/// The header's lines without the blank one, and without a last line that was cut in its middle.
fn header_lines(bytes: &[u8]) -> &[u8] {
    let bytes = match memchr::memmem::find(bytes, b"\r\n\r\n") {
        Some(at) => bytes.get(..at + 2),
        None => memchr::memrchr(b'\n', bytes).and_then(|at| bytes.get(..=at)),
    };
    bytes.unwrap_or_default()
}

/// Whether the report may say things beyond ASCII.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Charset {
    Ascii,
    Utf8,
}

struct Page<'a> {
    plan: &'a Plan,
    letter: &'a Letter<'a>,
    charset: Charset,
}

impl Page<'_> {
    /// SendMimeErrors=false: one text, the original behind it.
    fn plain(&self, text: &str, original: &[u8], whole: bool) -> ReportMessage {
        let mut header = String::new();
        let names = self.origin(&mut header);
        self.about(&mut header);
        header.push_str("\r\n");
        let mut bytes = format!("{header}{text}").into_bytes();
        let what = if whole { "Original message" } else { "Message header" };
        bytes.extend_from_slice(format!("\r\n   ----- {what} follows -----\r\n").as_bytes());
        bytes.extend_from_slice(original);
        if !original.ends_with(b"\n") {
            bytes.extend_from_slice(b"\r\n");
        }
        let to = self.letter.to.clone();
        ReportMessage { to, bytes, header_len: header.len() as u64, names }
    }

    /// With the beginning of the text, and the places in it for the report's queue ID.
    fn header(&self, boundary: &str, eight_bit: bool) -> (String, Vec<usize>) {
        let mut out = String::new();
        let names = self.origin(&mut out);
        line(&mut out, format_args!("MIME-Version: 1.0"));
        line(
            &mut out,
            format_args!("Content-Type: multipart/report; report-type=delivery-status;"),
        );
        line(&mut out, format_args!("\tboundary=\"{boundary}\""));
        if eight_bit {
            line(&mut out, format_args!("Content-Transfer-Encoding: 8bit"));
        }
        self.about(&mut out);
        out.push_str("\r\nThis is a MIME-encapsulated message\r\n\r\n");
        (out, names)
    }

    /// The fields that say where it comes from; the places for its queue ID.
    fn origin(&self, out: &mut String) -> Vec<usize> {
        let host = self.words(&self.plan.host_name, TEXT_MAX);
        let letter = self.letter;
        let minute = letter.now.strftime("%Y%m%d%H%M", &jiff::tz::TimeZone::UTC);
        let (nameless, version) = (ReportMessage::NAMELESS, env!("CARGO_PKG_VERSION"));
        let date = self.date(letter.now);
        let mut names = Vec::new();
        out.push_str("Received: from localhost (localhost)\r\n");
        let _ = write!(out, "\tby {host} (kvmta/{version}) id ");
        names.push(out.len());
        line(out, format_args!("{nameless};\r\n\t{date}"));
        line(out, format_args!("Date: {date}"));
        line(out, format_args!("From: Mail Delivery Subsystem <MAILER-DAEMON@{host}>"));
        let _ = write!(out, "Message-Id: <{minute}.");
        names.push(out.len());
        line(out, format_args!("{nameless}@{host}>"));
        line(out, format_args!("To: {}", self.words(letter.to.as_str(), ADDRESS_MAX)));
        names
    }

    /// The fields that say what it is about.
    fn about(&self, out: &mut String) {
        line(out, format_args!("Subject: {}", self.subject()));
        match self.letter.kind {
            Kind::DoubleBounce | Kind::PostmasterCopy => {
                line(out, format_args!("{POSTMASTER_MARK}"));
            }
            Kind::Failure => line(out, format_args!("Auto-Submitted: auto-generated (failure)")),
            Kind::Delay(_) => {
                line(out, format_args!("Auto-Submitted: auto-generated (warning-timeout)"));
            }
            Kind::Receipt => {
                line(out, format_args!("Auto-Submitted: auto-generated (return-receipt)"));
            }
        }
    }

    fn subject(&self) -> String {
        match self.letter.kind {
            Kind::Failure => "Returned mail: see transcript for details".to_owned(),
            Kind::Delay(warning) => warning.subject(),
            Kind::Receipt => "Return receipt".to_owned(),
            Kind::DoubleBounce | Kind::PostmasterCopy => {
                "Postmaster notify: see transcript for details".to_owned()
            }
        }
    }

    fn text_heading(&self) -> &'static str {
        match self.charset {
            Charset::Ascii => "",
            Charset::Utf8 => {
                "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
            }
        }
    }

    fn status_heading(&self) -> &'static str {
        match self.charset {
            Charset::Ascii => "Content-Type: message/delivery-status\r\n",
            Charset::Utf8 => {
                "Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit\r\n"
            }
        }
    }

    /// RFC 6533 3: an original of SMTPUTF8 with octets above 127 has types of its own.
    fn original_heading(&self, whole: bool, eight_bit: bool) -> String {
        let kind = match (self.letter.envelope.smtputf8 && eight_bit, whole) {
            (false, true) => "message/rfc822",
            (false, false) => "text/rfc822-headers",
            (true, true) => "message/global",
            (true, false) => "message/global-headers",
        };
        let encoding = if eight_bit { "Content-Transfer-Encoding: 8bit\r\n" } else { "" };
        format!("Content-Type: {kind}\r\n{encoding}")
    }

    /// The part for people.
    fn text(&self) -> String {
        let letter = self.letter;
        let mut out = String::new();
        if let (Some(text), false) = (&self.plan.error_header, letter.kind == Kind::Receipt) {
            for text in text.lines() {
                line(&mut out, format_args!("{}", self.words(text, TEXT_MAX)));
            }
            out.push_str("\r\n");
        }
        if let Kind::Delay(_) = letter.kind {
            out.push_str(WARNING_ONLY);
        }
        line(
            &mut out,
            format_args!(
                "The original message was received at {}",
                self.date(letter.envelope.arrival)
            ),
        );
        let relay = match letter.envelope.relay.as_str() {
            "" => "localhost",
            relay => relay,
        };
        line(&mut out, format_args!("from {}", self.words(relay, TEXT_MAX)));
        self.list_failures(&mut out);
        self.list_receipts(&mut out);
        heading(&mut out, "Transcript of session follows");
        self.transcript(&mut out);
        if letter.items.iter().any(|item| item.ending.is_expired()) {
            line(&mut out, format_args!("Message could not be delivered for {}", letter.tried_for));
            line(&mut out, format_args!("Message will be deleted from queue"));
        }
        if let Kind::Delay(warning) = letter.kind {
            line(&mut out, format_args!("{}", warning.sentence()));
            if self.retry_until().is_some() {
                line(
                    &mut out,
                    format_args!("Will keep trying until message is {} old", letter.tried_for),
                );
            }
        }
        out
    }

    fn list_failures(&self, out: &mut String) {
        let mut failed = self.letter.items.iter().filter_map(|item| match item.ending {
            Ending::Failed(report) => Some((item.address, report)),
            _ => None,
        });
        let Some(first) = failed.next() else { return };
        heading(out, "The following addresses had permanent fatal errors");
        for (address, report) in std::iter::once(first).chain(failed) {
            line(out, format_args!("{}", self.words(address.as_str(), ADDRESS_MAX)));
            if let Some(reply) = &report.reply {
                line(out, format_args!("    (reason: {})", self.reply(reply)));
            }
        }
    }

    fn list_receipts(&self, out: &mut String) {
        let mut done = self.letter.items.iter().filter_map(|item| match item.ending {
            Ending::Delivered(_) => Some((item.address, "successfully delivered to mailbox")),
            Ending::Relayed(_) => Some((item.address, "relayed to non-DSN-aware mailer")),
            Ending::RelayedBy(_, DeliverBy { trace: true, .. }) => {
                Some((item.address, "Deliver-By trace: relayed"))
            }
            Ending::RelayedBy(..) => Some((item.address, "Deliver-By notify: relayed")),
            Ending::Failed(_) | Ending::Delayed(_) => None,
        });
        let Some(first) = done.next() else { return };
        heading(out, "The following addresses had successful delivery notifications");
        for (address, what) in std::iter::once(first).chain(done) {
            line(out, format_args!("{}  ({what})", self.words(address.as_str(), ADDRESS_MAX)));
        }
    }

    /// What was said, told once for recipients that heard the same.
    fn transcript(&self, out: &mut String) {
        let limit = out.len() + TRANSCRIPT_MAX;
        let mut talking_to = None;
        for group in self.letter.items.chunk_by(|a, b| heard_the_same(a.ending, b.ending)) {
            let Some(first) = group.first() else { continue };
            if out.len() > limit {
                line(out, format_args!("... and so on: the rest is in the delivery status below"));
                return;
            }
            let report = first.ending.report();
            if let (Some(reply), Some(command), Some(remote)) =
                (&report.reply, &report.command, &report.remote)
                && matches!(first.ending, Ending::Failed(_) | Ending::Delayed(_))
            {
                if talking_to != Some(&remote.name) {
                    let name = self.words(&remote.name, TEXT_MAX);
                    line(out, format_args!("... while talking to {}:", dotted(&name)));
                    talking_to = Some(&remote.name);
                }
                line(out, format_args!(">>> {}", self.words(command, ADDRESS_MAX)));
                self.reply_lines(out, reply);
            }
            self.closing_words(out, group, first.ending);
        }
    }

    fn reply_lines(&self, out: &mut String, reply: &Reply) {
        let last = reply.lines.len().min(REPLY_LINES_MAX);
        for (i, text) in (1..).zip(reply.lines.iter().take(REPLY_LINES_MAX)) {
            let mark = if i == last { ' ' } else { '-' };
            let status = reply.enhanced.map(|status| format!("{status} ")).unwrap_or_default();
            let text = format!("{}{mark}{status}{text}", reply.code);
            line(out, format_args!("<<< {}", self.words(&text, TEXT_MAX).trim_end()));
        }
    }

    /// What we make of it: `550 5.1.1 a@b... User unknown`.
    fn closing_words(&self, out: &mut String, group: &[Item<'_>], ending: Ending<'_>) {
        let words = match ending {
            Ending::Failed(report) if ending.is_expired() => report.deferral(),
            Ending::Failed(report) if is_dialogue(report) && !report.refuses_recipient() => {
                return line(out, format_args!("554 5.0.0 {}", report.failure()));
            }
            Ending::Failed(report) => report.failure(),
            Ending::Delayed(report) => report.deferral(),
            Ending::Delivered(_) => "Successfully delivered".to_owned(),
            Ending::Relayed(_) => "relayed; expect no further notifications".to_owned(),
            Ending::RelayedBy(_, DeliverBy { trace: true, .. }) => {
                "Deliver-By trace: relayed".to_owned()
            }
            Ending::RelayedBy(..) => "Deliver-by notify: relayed".to_owned(),
        };
        let words = self.words(&words, TEXT_MAX);
        let code = match ending {
            Ending::Failed(report) if !ending.is_expired() => {
                format!("{} {} ", code_of(report), report.status)
            }
            _ => String::new(),
        };
        for addresses in self.joined(group) {
            line(out, format_args!("{code}{addresses}... {words}"));
        }
    }

    /// The addresses of a group, several to a line.
    fn joined(&self, group: &[Item<'_>]) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for item in group {
            let address = self.words(item.address.as_str(), ADDRESS_MAX);
            match lines.last_mut() {
                Some(last) if last.len() + address.len() < JOINED_MAX => {
                    last.push(',');
                    last.push_str(&address);
                }
                _ => lines.push(address),
            }
        }
        lines
    }

    /// The part for programs: RFC 3464 2.2 and 2.3.
    fn status(&self) -> String {
        let envelope = self.letter.envelope;
        let mut out = String::new();
        if let Some(envid) = &envelope.envid {
            let envid = self.words(&from_xtext(envid), TEXT_MAX);
            line(&mut out, format_args!("Original-Envelope-Id: {envid}"));
        }
        let host = self.words(&self.plan.host_name, TEXT_MAX);
        line(&mut out, format_args!("Reporting-MTA: dns; {host}"));
        if let Some(name) = received_from(&envelope.relay) {
            let name = self.words(name, TEXT_MAX);
            line(&mut out, format_args!("Received-From-MTA: DNS; {name}"));
        }
        line(&mut out, format_args!("Arrival-Date: {}", self.date(envelope.arrival)));
        // RFC 2852 5
        if let Some(time) = envelope.deliver_by_time() {
            line(&mut out, format_args!("Deliver-By-Date: {}", self.date(time)));
        }
        for item in self.letter.items {
            out.push_str("\r\n");
            self.status_of(&mut out, item);
        }
        out
    }

    fn status_of(&self, out: &mut String, item: &Item<'_>) {
        if let Some((kind, address)) = item.orcpt.and_then(|orcpt| orcpt.split_once(';')) {
            let address = if kind.eq_ignore_ascii_case("utf-8") {
                self.words(address, ADDRESS_MAX)
            } else {
                self.words(&from_xtext(address), ADDRESS_MAX)
            };
            line(out, format_args!("Original-Recipient: {};{address}", self.words(kind, 40)));
        }
        let address = self.typed(item.address, "RFC822");
        line(out, format_args!("Final-Recipient: {address}"));
        if !self.plan.privacy.noactualrecipient {
            let address = self.typed(item.address, "rfc822");
            line(out, format_args!("X-Actual-Recipient: {address}"));
        }
        let report = item.ending.report();
        let action = match item.ending {
            Ending::Failed(_) => "failed",
            Ending::Delayed(_) => "delayed",
            Ending::Delivered(_) => "delivered (to mailbox)",
            Ending::Relayed(_) => "relayed (to non-DSN-aware mailer)",
            Ending::RelayedBy(_, DeliverBy { trace: true, .. }) => {
                "relayed (Deliver-By trace mode)"
            }
            Ending::RelayedBy(..) => "relayed (Deliver-By notify mode)",
        };
        line(out, format_args!("Action: {action}"));
        line(out, format_args!("Status: {}", self.status_code(item.ending)));
        if let Some(remote) = &report.remote {
            let name = self.words(&remote.name, TEXT_MAX);
            line(out, format_args!("Remote-MTA: DNS; {name}"));
        }
        if let Some(reply) = &report.reply {
            line(out, format_args!("Diagnostic-Code: SMTP; {}", self.reply(reply)));
        }
        line(out, format_args!("Last-Attempt-Date: {}", self.date(report.at)));
        if let (Ending::Delayed(_), Some(until)) = (item.ending, self.retry_until()) {
            line(out, format_args!("Will-Retry-Until: {}", self.date(until)));
        }
    }

    /// The status as the action wants it: a soft refusal counts as delayed, not as failed.
    fn status_code(&self, ending: Ending<'_>) -> EnhancedStatus {
        let status = ending.report().status;
        match ending {
            Ending::Failed(_) => status,
            Ending::Delayed(_) => status.with_class(StatusClass::Transient),
            Ending::Delivered(_) | Ending::Relayed(_) | Ending::RelayedBy(..) => {
                status.with_class(StatusClass::Success)
            }
        }
    }

    fn retry_until(&self) -> Option<Timestamp> {
        let envelope = self.letter.envelope;
        expiry::retry_until(self.plan.timeouts(envelope.timeouts), envelope)
    }

    fn date(&self, at: Timestamp) -> String {
        at.rfc5322(&self.plan.zone)
    }

    fn reply(&self, reply: &Reply) -> String {
        self.words(&reply.to_string(), TEXT_MAX)
    }

    /// An address with its type: RFC 3464 2.1.2, RFC 6533 3.
    fn typed(&self, address: &Address, kind: &str) -> String {
        if !address.is_utf8() {
            return format!("{kind}; {}", self.words(address.as_str(), ADDRESS_MAX));
        }
        match self.charset {
            Charset::Utf8 => format!("utf-8; {}", self.words(address.as_str(), TYPED_MAX)),
            Charset::Ascii => {
                format!("utf-8; {}", self.words(&to_utf8_xtext(address.as_str()), TYPED_MAX))
            }
        }
    }

    /// Somebody else's text made harmless: no control characters, about `limit` octets at most, the report's charset.
    fn words(&self, text: &str, limit: usize) -> String {
        let mut out = String::with_capacity(text.len().min(limit));
        for c in text.chars() {
            if out.len() >= limit {
                out.push_str("...");
                break;
            }
            match c {
                c if c.is_control() => out.push(' '),
                c if c.is_ascii() || self.charset == Charset::Utf8 => out.push(c),
                c => {
                    // Writing to a String cannot fail.
                    let _ = write!(out, "\\x{{{:X}}}", u32::from(c));
                }
            }
        }
        out
    }

    /// A boundary that stands nowhere in `parts`: sendmail's, and a number when the original has it.
    fn boundary(&self, parts: &[&[u8]]) -> String {
        let host: String = self
            .plan
            .host_name
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
            .take(BOUNDARY_HOST_MAX)
            .collect();
        let stem = format!("{}.{}", self.letter.id, self.letter.now.as_secs());
        let occurs = |boundary: &str| {
            parts.iter().any(|part| memchr::memmem::find(part, boundary.as_bytes()).is_some())
        };
        let mut boundary = format!("{stem}/{host}");
        let mut number = 0_u32;
        // The content is finite, and no number's boundary contains another's: this ends.
        while occurs(&boundary) {
            number += 1;
            boundary = format!("{stem}.{number}/{host}");
        }
        boundary
    }
}

const WARNING_ONLY: &str = "    **********************************************\r
    **      THIS IS A WARNING MESSAGE ONLY      **\r
    **  YOU DO NOT NEED TO RESEND YOUR MESSAGE  **\r
    **********************************************\r
\r
";

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(text);
    out.push_str("\r\n");
}

fn heading(out: &mut String, text: &str) {
    line(out, format_args!("\r\n   ----- {text} -----"));
}

/// A name as DNS has it: with a final dot, unless it is an address or no name of DNS.
fn dotted(name: &str) -> String {
    if name.starts_with('[') || !name.contains('.') || name.contains('/') {
        return name.to_owned();
    }
    format!("{name}.")
}

/// Whether a host's answer to a command of ours decided.
fn is_dialogue(report: &Report) -> bool {
    report.reply.is_some() && report.command.is_some()
}

fn heard_the_same(a: Ending<'_>, b: Ending<'_>) -> bool {
    let (x, y) = (a.report(), b.report());
    std::mem::discriminant(&a) == std::mem::discriminant(&b)
        && (x.status, &x.text, &x.reply, &x.command, &x.remote)
            == (y.status, &y.text, &y.reply, &y.command, &y.remote)
}

/// The reply code that says the same as a status, where no reply said it.
fn code_of(report: &Report) -> u16 {
    match (&report.reply, report.status.parts()) {
        (Some(reply), _) if reply.is_permanent() => reply.code,
        (_, (_, 1, _)) => 550,
        (_, (_, 2, 2 | 3)) => 552,
        _ => 554,
    }
}

/// The client's name, when it was a host.
fn received_from(relay: &str) -> Option<&str> {
    let name = relay.split(' ').next()?;
    (!name.is_empty() && !name.contains('@')).then_some(name)
}

/// xtext decoded (RFC 3461 4): as it stands where it is not xtext or hides what a field must not have.
fn from_xtext(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((plain, hex)) = rest.split_once('+') {
        out.push_str(plain);
        let code = hex.get(..2).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = code.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code {
            Some(byte @ b' '..=b'~') => out.push(char::from(byte)),
            _ => return text.to_owned(),
        }
        rest = hex.get(2..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// An address in ASCII: utf-8-addr-xtext of RFC 6533 3.
fn to_utf8_xtext(address: &str) -> String {
    let mut out = String::new();
    for c in address.chars() {
        if c.is_ascii_graphic() && !matches!(c, '+' | '=' | '\\') {
            out.push(c);
        } else {
            let _ = write!(out, "\\x{{{:02X}}}", u32::from(c));
        }
    }
    out
}
