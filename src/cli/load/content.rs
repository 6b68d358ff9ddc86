//! Header and body on their way into the store: line ends made CRLF, the end of the header found, octets counted.

use super::{Fault, Head, Parts};
use crate::accept::local_header::Normaliser;
use crate::config::usual_precedences;
use crate::mail::envelope::{Envelope, TimeoutClass};
use crate::mail::header::{Ending, HeaderScan};
use crate::mail::loading::Loading;

/// Octets handed on at a time.
const PIECE: usize = 64 << 10;

/// Content of one message, while it goes by.
pub struct Content<'a> {
    parts: &'a mut dyn Parts,
    normaliser: Normaliser,
    scan: HeaderScan,
    /// Of the header, not yet told from body text; then what waits to be handed on.
    held: Vec<u8>,
    normal: Vec<u8>,
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
            over: false,
            without_blank: false,
            size: 0,
            header_len: 0,
            body_lines: 0,
            has_8bit: false,
        }
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
        self.emit(header)?;
        match scanned.end {
            None => self.held = rest.to_vec(),
            Some(end) => {
                self.over = true;
                if end == Ending::NoBlank {
                    self.without_blank = true;
                    self.emit(b"\r\n")?;
                }
                self.header_len = self.size;
                self.emit_body(rest)?;
            }
        }
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
    pub fn finish(mut self, head: &Head) -> Result<Loading, Fault> {
        if !self.over {
            self.scan.finish();
            self.emit(b"\r\n")?;
            self.header_len = self.size;
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
        Ok(Loading {
            envelope: Envelope {
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
            },
            attempts: head.attempts.clone(),
            warned: head.warned,
            held: head.held.clone(),
        })
    }
}

/// What sendmail's default factors make of a message that has no priority yet.
fn priority(size: u64, recipients: u32) -> i64 {
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    size.saturating_add(i64::from(recipients).saturating_mul(30_000))
}
