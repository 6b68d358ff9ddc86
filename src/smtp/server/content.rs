//! The content of one message as it comes in: measured, its header read, limits kept.
//!
//! Content that breaks a rule is remembered as refused and dropped from there on; the refusal is said when all of it
//! has come, because a client sends all of it whatever we think (RFC 5321 4.1.1.4).

use super::{Arrived, Settings};
use crate::mail::header::{Ending, HeaderScan};
use crate::mail::status::Reply;
use crate::smtp::codec::LineFault;
use crate::smtp::command::refusal;

/// One message's content so far.
#[derive(Debug)]
pub(super) struct Content {
    scan: HeaderScan,
    /// Octets of the header that cannot be judged yet; less than a field name.
    held: Vec<u8>,
    /// Octets of the blank line that we set.
    added: u64,
    size: u64,
    /// Line ends, and those of the body.
    lines: u64,
    body_lines: u64,
    has_8bit: bool,
    refusal: Option<Reply>,
}

impl Content {
    pub(super) fn new() -> Content {
        Content {
            scan: HeaderScan::new(),
            held: Vec::new(),
            added: 0,
            size: 0,
            lines: 0,
            body_lines: 0,
            has_8bit: false,
            refusal: None,
        }
    }

    pub(super) fn refusal(&self) -> Option<&Reply> {
        self.refusal.as_ref()
    }

    /// Why the message will not be taken: the first reason stands.
    pub(super) fn refuse(&mut self, reply: Reply) {
        self.refusal.get_or_insert(reply);
        self.held = Vec::new();
    }

    /// A line fault refuses, and outweighs nothing said before.
    pub(super) fn note_fault(&mut self, fault: Option<LineFault>) {
        if let Some(fault) = fault {
            let text = match fault {
                LineFault::BareCr => "Bare carriage return (CR) not allowed",
                LineFault::BareLf => "Bare linefeed (LF) not allowed",
                LineFault::Nul => "NUL character not allowed",
            };
            self.refuse(refusal(550, (5, 6, 11), text));
        }
    }

    /// Takes decoded content; gives what to stage of it, maybe nothing.
    pub(super) fn take(&mut self, bytes: Vec<u8>, settings: &Settings) -> Vec<u8> {
        self.size += bytes.len() as u64;
        if settings.message_size != 0 && self.size > settings.message_size {
            let max = settings.message_size;
            let text = format!("Message exceeds maximum fixed size ({max})");
            self.refuse(refusal(552, (5, 2, 3), text));
        }
        if self.refusal.is_some() {
            return Vec::new();
        }
        self.has_8bit |= !bytes.is_ascii();
        let lines = line_ends(&bytes);
        self.lines += lines;
        if self.scan.is_over() {
            self.body_lines += lines;
            return bytes;
        }
        let mut bytes = match self.held.is_empty() {
            true => bytes,
            false => [std::mem::take(&mut self.held), bytes].concat(),
        };
        let scanned = self.scan.scan(&bytes);
        if settings.headers_length != 0 && self.scan.len() > settings.headers_length {
            let max = settings.headers_length;
            self.refuse(refusal(552, (5, 3, 4), format!("Headers too large ({max} max)")));
            return Vec::new();
        }
        if scanned.end.is_some() {
            self.body_lines += line_ends(bytes.get(scanned.taken..).unwrap_or_default());
        }
        match scanned.end {
            None => self.held = bytes.split_off(scanned.taken),
            Some(Ending::Blank) => {}
            Some(Ending::NoBlank) => {
                self.added = 2;
                bytes.splice(scanned.taken..scanned.taken, *b"\r\n");
            }
        }
        bytes
    }

    /// The content is complete: what is left to stage, and what it is; or why it is refused.
    pub(super) fn finish(mut self, settings: &Settings) -> Result<(Vec<u8>, Arrived), Reply> {
        let mut rest = Vec::new();
        if !self.scan.is_over() {
            self.scan.finish();
            self.added = 2;
            rest.extend_from_slice(b"\r\n");
            self.body_lines += line_ends(&self.held);
            rest.append(&mut self.held);
        }
        let mut header = self.scan.into_facts();
        header.len += self.added;
        if header.received > settings.hops && self.refusal.is_none() {
            let text = format!("Too many hops {} ({} max)", header.received, settings.hops);
            return Err(refusal(554, (5, 4, 6), text));
        }
        match self.refusal {
            Some(reply) => Err(reply),
            None => {
                let (size, lines) = (self.size + self.added, self.lines + self.added / 2);
                let (body_lines, has_8bit) = (self.body_lines, self.has_8bit);
                Ok((rest, Arrived { size, lines, body_lines, header, has_8bit }))
            }
        }
    }
}

fn line_ends(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}
