//! Header and body on their way into the store: line ends made CRLF, the end of the header found, octets counted.

use super::{Fault, Head, Parts, Sent, Unreadable};
use crate::accept::local_header::{LocalHeader, Normaliser};
use crate::config::usual_precedences;
use crate::mail::envelope::{Envelope, TimeoutClass};
use crate::mail::header::{Ending, HeaderScan};
use crate::mail::loading::Loading;

/// Octets handed on at a time.
const PIECE: usize = 64 << 10;
/// Octets of a header that is to be completed, which is in memory as a whole.
const COMPLETED_MAX: usize = 2 << 20;

/// What a header from a program of this machine gets that nobody has seen to yet (RFC 6409 8). Bcc and Return-Path go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Completion {
    /// Whole fields in front.
    pub front: String,
    /// Fields with their values that it gets when it has none of the name.
    pub added: Vec<(&'static str, String)>,
}

/// Content of one message, while it goes by.
pub struct Content<'a> {
    parts: &'a mut dyn Parts,
    normaliser: Normaliser,
    scan: HeaderScan,
    /// Of the header, not yet told from body text; then what waits to be handed on.
    held: Vec<u8>,
    normal: Vec<u8>,
    /// To be done with the header, and what was read of it.
    completion: Option<(Completion, Vec<u8>)>,
    over: bool,
    /// The header ended at a line that is no field.
    without_blank: bool,
    size: u64,
    header_len: u64,
    /// Line ends of the body.
    body_lines: u64,
    has_8bit: bool,
}

impl<'a> Content<'a> {
    /// Before the first octet.
    pub fn new(parts: &'a mut dyn Parts) -> Content<'a> {
        Content {
            parts,
            normaliser: Normaliser::default(),
            scan: HeaderScan::new(),
            held: Vec::new(),
            normal: Vec::new(),
            completion: None,
            over: false,
            without_blank: false,
            size: 0,
            header_len: 0,
            body_lines: 0,
            has_8bit: false,
        }
    }

    /// The same, with its header completed.
    pub fn completed(parts: &'a mut dyn Parts, completion: Completion) -> Content<'a> {
        Content { completion: Some((completion, Vec::new())), ..Content::new(parts) }
    }

    /// Whoever takes the parts.
    pub fn parts(&mut self) -> &mut dyn Parts {
        self.parts
    }

    /// Whether the header ended at a line that is no field, so that a blank line was set there.
    pub fn is_without_blank(&self) -> bool {
        self.without_blank
    }

    /// The next octets as the spool has them.
    ///
    /// # Errors
    /// Whoever takes them is gone.
    pub fn push(&mut self, raw: &[u8]) -> Result<(), Fault> {
        for piece in raw.chunks(PIECE) {
            let mut normal = std::mem::take(&mut self.normal);
            normal.clear();
            self.normaliser.feed(piece, &mut normal);
            if self.over {
                self.emit_body(&normal)?;
            } else {
                self.held.extend_from_slice(&normal);
                self.header()?;
            }
            self.normal = normal;
        }
        Ok(())
    }

    fn header(&mut self) -> Result<(), Fault> {
        let scanned = self.scan.scan(&self.held);
        let held = std::mem::take(&mut self.held);
        let (header, rest) = held.split_at(scanned.taken);
        match &mut self.completion {
            None => self.emit(header)?,
            Some((_, read)) if read.len() + header.len() <= COMPLETED_MAX => {
                read.extend_from_slice(header);
            }
            Some(_) => {
                let text = format!("a header of more than {COMPLETED_MAX} octets");
                return Err(Unreadable::whole(text).into());
            }
        }
        match scanned.end {
            None => self.held = rest.to_vec(),
            Some(end) => {
                self.without_blank = end == Ending::NoBlank;
                self.header_over(end == Ending::Blank)?;
                self.emit_body(rest)?;
            }
        }
        Ok(())
    }

    /// The header is read, with its blank line or not.
    fn header_over(&mut self, has_blank: bool) -> Result<(), Fault> {
        self.over = true;
        match self.completion.take() {
            None if has_blank => {}
            None => self.emit(b"\r\n")?,
            Some((Completion { front, added }, read)) => {
                let header = LocalHeader::parse(&read).finish(&front, &added, false);
                self.scan = HeaderScan::new();
                self.scan.scan(&header);
                self.emit(&header)?;
            }
        }
        self.header_len = self.size;
        Ok(())
    }

    /// Octets behind the header.
    fn emit_body(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.body_lines += memchr::memchr_iter(b'\n', bytes).count() as u64;
        self.emit(bytes)
    }

    fn emit(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.size += bytes.len() as u64;
        self.has_8bit |= !bytes.is_ascii();
        for piece in bytes.chunks(PIECE) {
            self.parts.bytes(piece).map_err(Fault::Lost)?;
        }
        Ok(())
    }

    /// That was all: what is known of the message now.
    ///
    /// # Errors
    /// Whoever takes the last octets is gone.
    pub fn finish(mut self, head: &Head) -> Result<Sent, Fault> {
        if !self.over {
            self.scan.finish();
            self.header_over(false)?;
            let held = std::mem::take(&mut self.held);
            self.emit_body(&held)?;
        }
        let facts = self.scan.into_facts();
        // The spool of another program: its own P lines are not known.
        let (precedence, timeouts) = facts.class(&usual_precedences());
        let timeouts = match timeouts {
            // As sendmail: a Priority: field wins over what the message is.
            TimeoutClass::Normal | TimeoutClass::NonUrgent if head.is_report => TimeoutClass::Dsn,
            timeouts => timeouts,
        };
        let is_report = head.is_report && head.reverse_path.is_null();
        let utf8 = std::iter::once(&head.reverse_path)
            .filter_map(|path| path.mailbox())
            .any(|address| address.is_utf8());
        let mut envelope = Envelope {
            reverse_path: head.reverse_path.clone(),
            arrival: head.arrival,
            // No relay and no sender is the mark of a report of ours.
            relay: match head.relay.is_empty() && !is_report {
                true => "localhost".into(),
                false if is_report => String::new(),
                false => head.relay.clone(),
            },
            protocol: head.protocol.clone(),
            body_type: head.body_type(self.has_8bit),
            smtputf8: head.smtputf8 || utf8,
            ret: head.ret,
            envid: head.envid.clone(),
            timeouts,
            precedence,
            priority: head.priority.unwrap_or_else(|| priority(self.size, head.recipients)),
            message_id: facts.message_id,
            header_len: self.header_len,
            size: self.size,
            body_lines: self.body_lines,
            relay_override: None,
            deliver_by: None,
        };
        let unkept = head.extras.keep(&mut envelope);
        let loading = Loading {
            envelope,
            attempts: head.attempts.clone(),
            warned: head.warned,
            held: head.held.clone(),
        };
        Ok(Sent { loading, unkept })
    }
}

/// What sendmail's default factors make of a message that has no priority yet.
fn priority(size: u64, recipients: u32) -> i64 {
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    size.saturating_add(i64::from(recipients).saturating_mul(30_000))
}
