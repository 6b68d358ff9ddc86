//! Messages as sendmail's spool files: a control file (`qf`) and a body file (`df`) each, format version 8.
//!
//! This is the way back: what it writes, sendmail 8.12 to 8.18 lists and delivers. Pure: an entry of the queue and its
//! bytes go in, octets come out; nothing is opened or locked here. The law is the order and grammar of sendmail's
//! control file. A recipient becomes an `R` line while it is open, and also when it has failed and the sender
//! does not know yet: sendmail meets the failure again and reports it, so a dump loses no report. Recipients that are
//! done have no line. Not kept: destinations (sendmail routes anew), a success report still owed, AUTH= of MAIL.

pub mod mbox;

use std::io::{self, Write};

use crate::mail::envelope::{BodyType, ByMode, Envelope, Notify, Recipient, RecipientState, Ret};
use crate::mail::job::{Entry, EntryJob};
use crate::mail::outcome::Report;
use crate::mail::time::Timestamp;

/// Octet 0x81 marks a macro in a control file; `g` is the sender as the mailer sees it.
const RETURN_PATH: &[u8] = b"H?P?Return-Path: <\x81g>\n";

/// What the head of a control file says of all jobs of a message together. Gathered in one pass over them, because
/// the jobs of a long list are read page by page and their recipients only then written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    attempts: u32,
    last_attempt: Option<Timestamp>,
    /// Of the job attempted last among those that have one, with that time.
    status: Option<(Option<Timestamp>, String)>,
}

impl Progress {
    /// Takes in one more job.
    pub fn add(&mut self, job: &EntryJob) {
        self.attempts = self.attempts.max(job.attempts);
        self.last_attempt = self.last_attempt.max(job.last_attempt);
        if let Some(status) = &job.status
            && self.status.as_ref().is_none_or(|(at, _)| job.last_attempt >= *at)
        {
            self.status = Some((job.last_attempt, status.clone()));
        }
    }
}

/// Name of the control file: `qfID`, or `hfID` for a held message, which sendmail leaves alone until it is released.
pub fn control_name(entry: &Entry) -> String {
    format!("{}f{}", if entry.held.is_some() { 'h' } else { 'q' }, entry.id)
}

/// Name of the body file: `dfID`.
pub fn body_name(entry: &Entry) -> String {
    format!("df{}", entry.id)
}

/// Writes the first part of a control file: everything before the recipients.
///
/// # Errors
/// Those of `out`.
pub fn write_envelope(out: &mut impl Write, entry: &Entry, progress: &Progress) -> io::Result<()> {
    let envelope = &entry.envelope;
    writeln!(out, "V8")?;
    writeln!(out, "T{}", envelope.arrival.as_secs())?;
    writeln!(out, "K{}", progress.last_attempt.map_or(0, Timestamp::as_secs))?;
    writeln!(out, "N{}", progress.attempts)?;
    writeln!(out, "P{}", envelope.priority)?;
    if envelope.body_type == BodyType::EightBitMime {
        writeln!(out, "B8BITMIME")?;
    }
    if let Some(reason) = &entry.held {
        writeln!(out, "q{}", one_line(reason))?;
    }
    if let Some((_, status)) = &progress.status {
        writeln!(out, "M{}", one_line(status))?;
    }
    writeln!(out, "F{}", flags(entry))?;
    if !envelope.protocol.is_empty() {
        writeln!(out, "$r{}", one_line(&envelope.protocol))?;
    }
    if !envelope.relay.is_empty() {
        writeln!(out, "$_{}", one_line(&envelope.relay))?;
    }
    if is_local(envelope) {
        writeln!(out, "${{daemon_flags}}c u")?;
    }
    let sender = envelope.reverse_path.to_string();
    writeln!(out, "S{}", if sender.is_empty() { "<>".into() } else { path(envelope, &sender) })?;
    if let Some(envid) = &envelope.envid {
        writeln!(out, "Z{}", one_line(envid))?;
    }
    if let Some(by) = envelope.deliver_by {
        let mode = match by.mode {
            ByMode::Notify => 0x01,
            ByMode::Return => 0x02,
        };
        // The flags are one octet, as it is.
        out.write_all(&[b'!', mode | if by.trace { 0x10 } else { 0 }])?;
        writeln!(out, " {}", by.seconds)?;
    }
    Ok(())
}

/// Writes the recipients of one job that sendmail is to see to. Returns how many those were.
///
/// # Errors
/// Those of `out`.
pub fn write_recipients(
    out: &mut impl Write,
    envelope: &Envelope,
    job: &EntryJob,
) -> io::Result<usize> {
    let mut written = 0;
    for recipient in &job.recipients {
        match &recipient.state {
            RecipientState::Open(report) => {
                write_recipient(out, envelope, recipient, "Deferred: ", report.as_deref())?;
            }
            RecipientState::Failed { report, reported: false } => {
                write_recipient(out, envelope, recipient, "", Some(report))?;
            }
            RecipientState::Failed { reported: true, .. } | RecipientState::Done { .. } => continue,
        }
        written += 1;
    }
    Ok(written)
}

fn write_recipient(
    out: &mut impl Write,
    envelope: &Envelope,
    recipient: &Recipient,
    prefix: &str,
    report: Option<&Report>,
) -> io::Result<()> {
    let address = recipient.address.as_str();
    if let Some(report) = report {
        writeln!(out, "M{prefix}{}", one_line(&report.text))?;
    }
    if let Some(orcpt) = &recipient.orcpt {
        writeln!(out, "Q{}", one_line(orcpt))?;
    }
    writeln!(out, "rRFC822; {address}")?;
    writeln!(out, "R{}:{}", recipient_flags(recipient.notify), path(envelope, address))
}

/// Writes the last part of a control file: the header, given as stored (CRLF line ends, with or without the blank line
/// after it), and the final dot.
///
/// # Errors
/// Those of `out`.
pub fn write_header(out: &mut impl Write, header: &[u8]) -> io::Result<()> {
    let lines = header
        .split_inclusive(|&octet| octet == b'\n')
        .map(|line| line.strip_suffix(b"\n").unwrap_or(line))
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .take_while(|line| !line.is_empty());
    let is_return_path =
        |line: &[u8]| line.get(..12).is_some_and(|name| name.eq_ignore_ascii_case(b"return-path:"));
    if !lines.clone().any(is_return_path) {
        out.write_all(RETURN_PATH)?;
    }
    for line in lines {
        if !line.starts_with(b" ") && !line.starts_with(b"\t") {
            out.write_all(b"H??")?;
        }
        out.write_all(line)?;
        out.write_all(b"\n")?;
    }
    out.write_all(b".\n")
}

/// Turns the CRLF line ends of a body that comes in pieces of any size into LF, as a body file has them. A CR that no LF
/// follows stays.
#[derive(Debug, Default)]
pub struct BodyLines {
    /// The last piece ended in CR, which is not written yet.
    held_cr: bool,
}

impl BodyLines {
    /// Writes the next piece.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&mut self, out: &mut impl Write, piece: &[u8]) -> io::Result<()> {
        let Some((&first, _)) = piece.split_first() else {
            return Ok(());
        };
        if self.held_cr && first != b'\n' {
            out.write_all(b"\r")?;
        }
        let (mut rest, held_cr) = match piece.split_last() {
            Some((b'\r', rest)) => (rest, true),
            _ => (piece, false),
        };
        self.held_cr = held_cr;
        while let Some(at) = memchr::memmem::find(rest, b"\r\n") {
            out.write_all(&rest[..at])?;
            rest = &rest[at + 1..];
        }
        out.write_all(rest)
    }

    /// Writes what is still held after the last piece.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn end(self, out: &mut impl Write) -> io::Result<()> {
        if self.held_cr { out.write_all(b"\r") } else { Ok(()) }
    }
}

/// Envelope flags, in sendmail's order; `s` because nothing of it is to be split over queue groups.
fn flags(entry: &Entry) -> String {
    let envelope = &entry.envelope;
    [
        ('w', entry.warned),
        ('r', envelope.is_report()),
        ('8', envelope.body_type != BodyType::SevenBit),
        ('d', envelope.ret.is_some()),
        ('n', envelope.ret == Some(Ret::Headers)),
        ('s', true),
        ('e', envelope.smtputf8),
    ]
    .into_iter()
    .filter_map(|(flag, holds)| holds.then_some(flag))
    .collect()
}

/// P: named by the sender and not by an alias; N and the rest: NOTIFY.
fn recipient_flags(notify: Notify) -> String {
    let named = !matches!(notify, Notify::Unspecified);
    [
        ('P', true),
        ('N', named),
        ('S', notify.success()),
        ('F', notify.failure()),
        ('D', notify.delay()),
    ]
    .into_iter()
    .filter_map(|(flag, holds)| holds.then_some(flag))
    .collect()
}

/// Whether a program of this machine handed it in, rather than an SMTP client or a report of ours.
fn is_local(envelope: &Envelope) -> bool {
    envelope.protocol.is_empty() && !envelope.relay.is_empty()
}

/// An address as sendmail keeps it: as typed on the command line, or in the brackets of MAIL and RCPT.
fn path(envelope: &Envelope, address: &str) -> String {
    if envelope.protocol.is_empty() { address.to_owned() } else { format!("<{address}>") }
}

/// A line of a control file ends at a line end, and nothing in a value may end it early.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
