//! What kvmta-queue prints: lines for people, or JSON lines for programs.
//!
//! JSON: one object in each line, with its kind under `type`, times as RFC 3339 in UTC, sizes in octets. Fields may be added, none
//! changes its meaning. Text is for eyes and may change. On a terminal the bytes of a message lose what could control it.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::args::Invocation;
use crate::mail::envelope::{ByMode, Recipient, RecipientState};
use crate::mail::filter::{Filter, State};
use crate::mail::history::{Event, What};
use crate::mail::job::{Destination, Entry, EntryJob};
use crate::mail::queue_id::QueueId;
use crate::mail::time::{Timestamp, delay};
use crate::store::Counts;

/// Standard output.
pub struct Printer {
    out: BufWriter<Stdout>,
    json: bool,
    verbose: bool,
    is_terminal: bool,
    zone: TimeZone,
    now: Timestamp,
    /// The heading stands above the rows.
    has_heading: bool,
    /// Octets of a JSON text that end in the middle of a character.
    rest: Vec<u8>,
    /// The last octet written of a message.
    last: Option<u8>,
}

/// Line of a listing: the columns of [`row`].
const HEADING: &str =
    "QUEUE ID        STATE          AGE     SIZE  SENDER                          RECIPIENTS";

impl Printer {
    pub fn new(invocation: &Invocation) -> Printer {
        Printer {
            out: BufWriter::new(io::stdout()),
            json: invocation.json,
            verbose: invocation.verbose,
            is_terminal: io::stdout().is_terminal(),
            zone: TimeZone::system(),
            now: super::super::now(),
            has_heading: false,
            rest: Vec::new(),
            last: None,
        }
    }

    /// Everything is out.
    pub fn end(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    pub fn line(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.out, "{line}")
    }

    fn object(&mut self, value: &Value) -> io::Result<()> {
        writeln!(self.out, "{value}")
    }

    /// A row of a listing.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        if self.json {
            let mut value = message(entry);
            value["recipients"] = entry.jobs.iter().flat_map(recipients).collect();
            let is_long = entry.jobs.is_empty();
            value["more"] = if is_long { entry.recipients_total } else { 0 }.into();
            return self.object(&value);
        }
        if !std::mem::replace(&mut self.has_heading, true) {
            self.line(HEADING)?;
        }
        self.line(&row(entry, self.now))?;
        if !self.verbose {
            return Ok(());
        }
        if let Some(reason) = &entry.held {
            writeln!(self.out, "    held: {reason}")?;
        }
        entry.jobs.iter().try_for_each(|job| self.open_job(entry, job))
    }

    /// A job of a long list, behind its row.
    pub fn listed_job(&mut self, entry: &Entry, job: &EntryJob) -> io::Result<()> {
        match self.json {
            true => self.recipient_lines(entry, job),
            false => self.open_job(entry, job),
        }
    }

    /// The recipients of a job that are still to be tried.
    fn open_job(&mut self, entry: &Entry, job: &EntryJob) -> io::Result<()> {
        if open(job).next().is_none() {
            return Ok(());
        }
        let due = self.date(job.due);
        let Destination { mailer, next_hop } = &job.destination;
        write!(self.out, "    to {next_hop} ({})", mailer.name())?;
        match entry.held {
            Some(_) => writeln!(self.out)?,
            None => writeln!(self.out, ", next attempt {due}")?,
        }
        if let Some(status) = &job.status {
            writeln!(self.out, "      {status}")?;
        }
        for recipient in open(job) {
            writeln!(self.out, "      <{}>", recipient.address)?;
        }
        Ok(())
    }

    /// A JSON line for each recipient.
    fn recipient_lines(&mut self, entry: &Entry, job: &EntryJob) -> io::Result<()> {
        for mut value in recipients(job) {
            value["type"] = "recipient".into();
            value["id"] = entry.id.to_string().into();
            self.object(&value)?;
        }
        Ok(())
    }

    pub fn counts(&mut self, counts: Counts) -> io::Result<()> {
        let Counts { messages, incoming, held, octets } = counts;
        if self.json {
            let value = json!({ "type": "count", "messages": messages, "incoming": incoming, "held": held, "octets": octets });
            return self.object(&value);
        }
        writeln!(self.out, "{messages}")
    }

    pub fn count(&mut self, messages: u64) -> io::Result<()> {
        match self.json {
            true => self.object(&json!({ "type": "count", "messages": messages })),
            false => writeln!(self.out, "{messages}"),
        }
    }

    /// The first part of a message that is shown wholly.
    pub fn envelope(&mut self, entry: &Entry) -> io::Result<()> {
        if self.json {
            return self.object(&message(entry));
        }
        let envelope = &entry.envelope;
        let arrival = self.date(envelope.arrival);
        let age = delay(self.now.since(envelope.arrival));
        let mut rows = vec![
            ("Queue ID", entry.id.to_string()),
            (
                "State",
                format!(
                    "{}{}",
                    state(entry).unwrap_or("list"),
                    if entry.in_flight { ", being attempted" } else { "" }
                ),
            ),
            ("Sender", format!("<{}>", sender(entry))),
            (
                "Accepted",
                format!(
                    "{arrival} ({age} ago) from {}",
                    given_by(&envelope.relay, &envelope.protocol)
                ),
            ),
            ("Size", format!("{} octets, {} of them header", envelope.size, envelope.header_len)),
            ("Message-Id", envelope.message_id.clone()),
            ("Recipients", entry.recipients_total.to_string()),
        ];
        if let Some(reason) = &entry.held {
            rows.insert(2, ("Held", reason.clone()));
        }
        if let (Some(by), Some(time)) = (envelope.deliver_by, envelope.deliver_by_time()) {
            let then = match by.mode {
                ByMode::Notify => "its sender is told of the delay then",
                ByMode::Return => "it goes back then",
            };
            rows.push(("Deliver by", format!("{}; {then}", self.date(time))));
        }
        if let Some(relay) = &envelope.relay_override {
            rows.push(("Relay", format!("{relay}, chosen by an operator")));
        }
        for (name, value) in rows {
            writeln!(self.out, "{name:<12}{value}")?;
        }
        Ok(())
    }

    /// The recipients of one job.
    pub fn job(&mut self, entry: &Entry, job: &EntryJob) -> io::Result<()> {
        if self.json {
            return self.recipient_lines(entry, job);
        }
        let due = self.date(job.due);
        let Destination { mailer, next_hop } = &job.destination;
        write!(self.out, "\nTo {next_hop} ({}): {} attempts", mailer.name(), job.attempts)?;
        match (open(job).next(), &entry.held) {
            (Some(_), None) => writeln!(self.out, ", next {due}")?,
            _ => writeln!(self.out)?,
        }
        if let Some(status) = &job.status {
            writeln!(self.out, "  {status}")?;
        }
        for recipient in &job.recipients {
            let (state, text) = recipient_state(recipient);
            write!(self.out, "  <{}> {state}", recipient.address)?;
            match text {
                Some(text) => writeln!(self.out, ": {text}")?,
                None => writeln!(self.out)?,
            }
        }
        Ok(())
    }

    pub fn events(&mut self, id: QueueId, events: &[Event]) -> io::Result<()> {
        for event in events {
            if self.json {
                self.object(&event_value(id, event))?;
                continue;
            }
            let date = event.at.strftime("%Y-%m-%d %H:%M:%S", &self.zone);
            writeln!(self.out, "{id}  {date}  {}", event_text(event))?;
        }
        Ok(())
    }

    /// Bytes of a message, in order.
    pub fn bytes(&mut self, entry: &Entry, piece: &[u8]) -> io::Result<()> {
        if self.json {
            self.rest.extend_from_slice(piece);
            // A character of UTF-8 has at most four octets: one that is not whole yet waits for the next piece.
            let whole = match std::str::from_utf8(&self.rest) {
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                _ => self.rest.len(),
            };
            let rest = self.rest.split_off(whole);
            let text = std::mem::replace(&mut self.rest, rest);
            return self.text(entry, &text);
        }
        if self.last.is_none() {
            writeln!(self.out)?;
        }
        for &octet in piece {
            // Line ends are CRLF in the store.
            if self.last == Some(b'\r') && octet != b'\n' {
                self.octet(b'\r')?;
            }
            if octet != b'\r' {
                self.octet(octet)?;
            }
            self.last = Some(octet);
        }
        Ok(())
    }

    fn octet(&mut self, octet: u8) -> io::Result<()> {
        let controls = octet < b' ' && octet != b'\n' && octet != b'\t' || octet == 0x7f;
        // C1 controls are octets of characters in UTF-8, and control only terminals that do not know it.
        let octet = if controls && self.is_terminal { b'?' } else { octet };
        self.out.write_all(&[octet])
    }

    fn text(&mut self, entry: &Entry, text: &[u8]) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(text);
        self.object(&json!({ "type": "text", "id": entry.id.to_string(), "text": text }))
    }

    /// There are no more of them.
    pub fn end_bytes(&mut self, entry: &Entry) -> io::Result<()> {
        let rest = std::mem::take(&mut self.rest);
        self.text(entry, &rest)?;
        self.last = None;
        Ok(())
    }

    fn date(&self, time: Timestamp) -> String {
        time.strftime("%Y-%m-%d %H:%M:%S", &self.zone)
    }
}

/// `6AM5g100000000* deferred 1+02:03:04    12345  joe@a.example    ann@b.example (+2)`
fn row(entry: &Entry, now: Timestamp) -> String {
    let flag = if entry.in_flight { '*' } else { ' ' };
    let age = delay(now.since(entry.envelope.arrival));
    let mut open = entry.open_recipients();
    let first = open.next().map(|recipient| recipient.address.to_string());
    let recipients = match (first, open.count()) {
        (Some(first), 0) => first,
        (Some(first), more) => format!("{first} (+{more})"),
        (None, _) => format!("({} recipients)", entry.recipients_total),
    };
    let sender = sender(entry);
    let sender = if sender.is_empty() { "<>" } else { sender };
    format!(
        "{}{flag} {:<8} {age:>11} {:>8}  {sender:<30}  {recipients}",
        entry.id,
        state(entry).unwrap_or("list"),
        entry.envelope.size
    )
}

fn sender(entry: &Entry) -> &str {
    entry.envelope.reverse_path.mailbox().map_or("", |address| address.as_str())
}

fn open(job: &EntryJob) -> impl Iterator<Item = &Recipient> {
    job.recipients.iter().filter(|recipient| recipient.state.is_open())
}

/// None for a long list that is not held: its jobs are not in the entry, so it cannot be told whether it was tried.
fn state(entry: &Entry) -> Option<&'static str> {
    let state = Filter::default().look(entry, Timestamp::ZERO).state();
    let is_known = state == State::Held || !entry.jobs.is_empty() || entry.recipients_total == 0;
    is_known.then(|| state.name())
}

fn given_by(relay: &str, protocol: &str) -> String {
    match (relay, protocol) {
        ("", _) => "this host (a report)".into(),
        (relay, "") => format!("{relay} by the command line"),
        (relay, protocol) => format!("{relay} by {protocol}"),
    }
}

fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ", &TimeZone::UTC)
}

/// Everything but its recipients.
fn message(entry: &Entry) -> Value {
    let envelope = &entry.envelope;
    json!({
        "type": "message",
        "id": entry.id.to_string(),
        "state": state(entry),
        "in_flight": entry.in_flight,
        "held": entry.held,
        "sender": sender(entry),
        "arrival": rfc3339(envelope.arrival),
        "size": envelope.size,
        "header_size": envelope.header_len,
        "relay": envelope.relay,
        "protocol": envelope.protocol,
        "message_id": envelope.message_id,
        "relay_override": envelope.relay_override,
        "deliver_by": envelope.deliver_by_time().map(rfc3339),
        "warned": entry.warned,
        "recipients_total": entry.recipients_total,
    })
}

fn recipients(job: &EntryJob) -> impl Iterator<Item = Value> {
    job.recipients.iter().map(|recipient| {
        let (state, text) = recipient_state(recipient);
        json!({
            "address": recipient.address.as_str(),
            "state": state,
            "status": text.or(job.status.as_deref()),
            "destination": job.destination.next_hop,
            "mailer": job.destination.mailer.name(),
            "attempts": job.attempts,
            "last_attempt": job.last_attempt.map(rfc3339),
            "next_attempt": rfc3339(job.due),
        })
    })
}

fn recipient_state(recipient: &Recipient) -> (&'static str, Option<&str>) {
    match &recipient.state {
        RecipientState::Open(report) => {
            ("open", report.as_ref().map(|report| report.text.as_str()))
        }
        RecipientState::Done { report, .. } => ("sent", Some(report.text.as_str())),
        RecipientState::Failed { report, .. } => ("failed", Some(report.text.as_str())),
    }
}

fn event_text(event: &Event) -> String {
    match &event.what {
        What::Accepted { sender, relay, protocol, message_id, size, recipients } => format!(
            "accepted from=<{sender}>, size={size}, nrcpts={recipients}, msgid={message_id}, by {}",
            given_by(relay, protocol)
        ),
        What::Attempted { recipients, destination, relay, fate, status, text, took } => {
            let to = recipients.iter().map(|to| format!("<{to}>")).collect::<Vec<_>>().join(",");
            let relay = if relay.is_empty() { String::new() } else { format!(", relay={relay}") };
            format!(
                "{} to={to}, hop={destination}{relay}, dsn={status}, took={}.{:03}s, stat={text}",
                fate.name(),
                took / 1000,
                took % 1000
            )
        }
        What::Reported { report, label, text } => format!("reported in {report}, {label}: {text}"),
        What::Held { reason } => format!("held: {reason}"),
        What::Operated { deed, operator } => format!("{deed} by {operator}"),
        What::Done { attempts } => format!("done, attempts={attempts}"),
    }
}

fn event_value(id: QueueId, event: &Event) -> Value {
    let mut value = match &event.what {
        What::Accepted { sender, relay, protocol, message_id, size, recipients } => json!({
            "event": "accepted", "sender": sender, "relay": relay, "protocol": protocol,
            "message_id": message_id, "size": size, "recipients_total": recipients,
        }),
        What::Attempted { recipients, destination, relay, fate, status, text, took } => json!({
            "event": fate.name(), "recipients": recipients, "destination": destination, "relay": relay,
            "dsn": status, "status": text, "milliseconds": took,
        }),
        What::Reported { report, label, text } => json!({
            "event": "reported", "report": report.to_string(), "label": label, "status": text,
        }),
        What::Held { reason } => json!({ "event": "held", "reason": reason }),
        What::Operated { deed, operator } => {
            json!({ "event": "operated", "deed": deed, "operator": operator })
        }
        What::Done { attempts } => json!({ "event": "done", "attempts": attempts }),
    };
    value["type"] = "event".into();
    value["id"] = id.to_string().into();
    value["at"] = rfc3339(event.at).into();
    value
}
