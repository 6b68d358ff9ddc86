//! Records of Postfix: from its queue files, or from what postcat prints of them.
//!
//! A queue file is a sequence of records: a type octet, a length in groups of seven bits (the lowest first, the high bit says
//! that more follow), the data. A pointer record sends the reader to another place of the file; a hostile one could send it
//! round for ever, so both the pointers and the octets read are bounded. What postcat prints is turned into the same
//! records, by the names it prints; pointers are followed and times are in words there.

use std::io::{BufRead, Read, Seek, SeekFrom};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::Unreadable;

/// Longest record: Postfix cuts text lines at line_length_limit, 2 048 octets unless it is told otherwise.
const RECORD_MAX: usize = 1 << 20;
/// Most pointers followed in one file: one for each recipient added and header changed by filters.
const POINTERS_MAX: u32 = 100_000;
/// The whole file may be read so often, by pointers that lead back.
const READINGS_MAX: u64 = 3;

/// `C`: sizes.
pub const SIZE: u8 = b'C';
/// `T`: seconds and microseconds of the arrival.
pub const TIME: u8 = b'T';
/// `S`: the sender.
pub const SENDER: u8 = b'S';
/// `R`: a recipient to be tried.
pub const RECIPIENT: u8 = b'R';
/// `O`: the next recipient as it was before aliases.
pub const ORIGINAL: u8 = b'O';
/// `F`: the full name of the sender, of mail from a program.
pub const FULL_NAME: u8 = b'F';
/// `D`: a recipient that is done.
pub const DONE: u8 = b'D';
/// `/`: a recipient that was taken back.
pub const CANCELLED: u8 = b'/';
/// `K`: a record that was taken back.
pub const KILLED: u8 = b'K';
/// `W`: when to warn of the delay; 0 when that was done.
pub const WARN: u8 = b'W';
/// `A`: `name=value`.
pub const ATTRIBUTE: u8 = b'A';
/// `>`: deliver here instead.
pub const REDIRECT: u8 = b'>';
/// `L` in the envelope: a content filter it is to go through.
pub const FILTER: u8 = b'L';
/// `I`: likewise, of old versions.
pub const INSPECT: u8 = b'I';
/// `V`: VERP delimiters.
pub const VERP: u8 = b'V';
/// `n`: NOTIFY of the next recipient.
pub const NOTIFY: u8 = b'n';
/// `o`: ORCPT of the next recipient.
pub const ORCPT: u8 = b'o';
/// `i`: ENVID.
pub const ENVID: u8 = b'i';
/// `<`: RET.
pub const RET: u8 = b'<';
/// `M`: the content begins.
pub const MESSAGE: u8 = b'M';
/// `N` in the content: a line.
pub const LINE: u8 = b'N';
/// `L` in the content: a piece of a line.
pub const PIECE: u8 = b'L';
/// `X`: the content is over.
pub const EXTRACTED: u8 = b'X';
/// `E`: the end.
pub const END: u8 = b'E';
const POINTER: u8 = b'p';
const DELETED: u8 = b'w';

/// One record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// One of the types above, or another.
    pub kind: u8,
    /// Its data.
    pub data: Vec<u8>,
}

/// Records one after the other.
pub trait Records {
    /// The next one; none at the end of the file.
    ///
    /// # Errors
    /// The place that cannot be read, and why.
    fn next(&mut self) -> Result<Option<Record>, Unreadable>;

    /// The place of the record given last, for people.
    fn place(&self) -> String;
}

/// Records of a queue file.
pub struct QueueFile<R> {
    input: R,
    length: u64,
    at: u64,
    start: u64,
    pointers: u32,
    octets: u64,
}

impl<R: BufRead + Seek> QueueFile<R> {
    /// From its first octet; `length` is that of the file.
    pub fn new(input: R, length: u64) -> QueueFile<R> {
        QueueFile { input, length, at: 0, start: 0, pointers: 0, octets: 0 }
    }

    fn wrong(&self, reason: impl Into<String>) -> Unreadable {
        Unreadable { place: self.place(), reason: reason.into() }
    }

    fn octet(&mut self) -> Result<Option<u8>, Unreadable> {
        let mut octet = [0];
        match self.input.read(&mut octet) {
            Ok(0) => Ok(None),
            Ok(_) => {
                self.at += 1;
                Ok(Some(octet[0]))
            }
            Err(error) => Err(self.wrong(error.to_string())),
        }
    }

    fn length(&mut self) -> Result<usize, Unreadable> {
        let mut length = 0usize;
        for shift in [0, 7, 14, 21] {
            let octet = self.octet()?.ok_or_else(|| self.wrong("the file ends in a record"))?;
            length |= usize::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return match length {
                    ..=RECORD_MAX => Ok(length),
                    _ => Err(self.wrong(format!("a record of {length} octets"))),
                };
            }
        }
        Err(self.wrong("the length of a record has no end: this is no Postfix queue file"))
    }

    fn follow(&mut self, data: &[u8]) -> Result<(), Unreadable> {
        let text = std::str::from_utf8(data).unwrap_or_default();
        let target: u64 =
            text.trim().parse().map_err(|_| self.wrong("a pointer that is no number"))?;
        if target == 0 {
            return Ok(());
        }
        self.pointers += 1;
        if target >= self.length || self.pointers > POINTERS_MAX {
            return Err(self.wrong("pointers that lead nowhere"));
        }
        self.input.seek(SeekFrom::Start(target)).map_err(|error| self.wrong(error.to_string()))?;
        self.at = target;
        Ok(())
    }
}

impl<R: BufRead + Seek> Records for QueueFile<R> {
    fn next(&mut self) -> Result<Option<Record>, Unreadable> {
        loop {
            self.start = self.at;
            let Some(kind) = self.octet()? else { return Ok(None) };
            let length = self.length()?;
            self.octets += length as u64 + 2;
            if self.octets > self.length.saturating_mul(READINGS_MAX) {
                return Err(self.wrong("pointers that lead in a circle"));
            }
            if length as u64 > self.length.saturating_sub(self.at) {
                return Err(self.wrong("the file ends in a record: it is not whole"));
            }
            let mut data = vec![0; length];
            self.input.read_exact(&mut data).map_err(|error| self.wrong(error.to_string()))?;
            self.at += length as u64;
            match kind {
                POINTER => self.follow(&data)?,
                DELETED => {}
                kind => return Ok(Some(Record { kind, data })),
            }
        }
    }

    fn place(&self) -> String {
        format!("octet {}", self.start)
    }
}

/// Records of one message as postcat prints it.
pub struct Postcat<'a> {
    input: &'a mut dyn BufRead,
    number: u64,
    zone: TimeZone,
    state: Printed,
}

#[derive(Clone, PartialEq, Eq)]
enum Printed {
    Start,
    /// With the file named in the first line.
    Envelope(Vec<u8>),
    Content(Vec<u8>),
    Ended,
}

impl<'a> Postcat<'a> {
    /// From the line `*** ENVELOPE RECORDS file ***`, with so many lines before it; times were printed in `zone`.
    pub fn new(input: &'a mut dyn BufRead, zone: TimeZone, before: u64) -> Postcat<'a> {
        Postcat { input, number: before, zone, state: Printed::Start }
    }

    /// The name of the queue file in the line that begins a message; none for any other line.
    pub fn begins(line: &[u8]) -> Option<&[u8]> {
        line.strip_prefix(b"*** ENVELOPE RECORDS ")?.strip_suffix(b" ***")
    }

    fn wrong(&self, reason: impl Into<String>) -> Unreadable {
        Unreadable { place: self.place(), reason: reason.into() }
    }

    fn line(&mut self) -> Result<Option<Vec<u8>>, Unreadable> {
        let mut line = Vec::new();
        self.number += 1;
        let mut limited = (&mut *self.input).take(RECORD_MAX as u64);
        let read = limited.read_until(b'\n', &mut line);
        read.map_err(|error| self.wrong(error.to_string()))?;
        match line.pop() {
            None => Ok(None),
            Some(b'\n') => Ok(Some(line)),
            Some(_) if line.len() + 1 == RECORD_MAX => Err(self.wrong("a line that is too long")),
            Some(_) => Err(self.wrong("the text ends in a line: it is not whole")),
        }
    }

    fn envelope(&mut self, line: &[u8]) -> Result<Option<Record>, Unreadable> {
        let at = memchr::memmem::find(line, b": ").map(|at| (at, at + 2));
        let at = at.or_else(|| line.strip_suffix(b":").map(|name| (name.len(), line.len())));
        let (end, start) = at.ok_or_else(|| self.wrong("a line that is no record"))?;
        let (name, value) = (&line[..end], &line[start..]);
        let kind = match name {
            b"message_size" => SIZE,
            b"message_arrival_time" => TIME,
            b"sender" => SENDER,
            b"recipient" => RECIPIENT,
            b"original_recipient" => ORIGINAL,
            b"sender_fullname" => FULL_NAME,
            b"done_recipient" => DONE,
            b"canceled_recipient" => CANCELLED,
            b"killed_record" => KILLED,
            b"warning_message_time" => WARN,
            b"named_attribute" => ATTRIBUTE,
            b"redirect_to" => REDIRECT,
            b"content_filter" => FILTER,
            b"content_inspector" => INSPECT,
            b"verp_delimiters" => VERP,
            b"dsn_notify_flags" => NOTIFY,
            b"dsn_original_recipient" => ORCPT,
            b"dsn_envelope_id" => ENVID,
            b"dsn_return_flags" => RET,
            // create_time, content_length...: nothing to us.
            _ => return Ok(None),
        };
        let data = match kind {
            TIME | WARN => self.seconds(value)?.to_string().into_bytes(),
            _ => value.to_vec(),
        };
        Ok(Some(Record { kind, data }))
    }

    /// `Sun Nov 22 06:20:25 2026`, in the zone of whoever ran postcat.
    fn seconds(&self, text: &[u8]) -> Result<i64, Unreadable> {
        let text = std::str::from_utf8(text).unwrap_or_default();
        let time = DateTime::strptime("%a %b %e %H:%M:%S %Y", text.trim());
        let zoned = time.and_then(|time| time.to_zoned(self.zone.clone()));
        zoned.map(|zoned| zoned.timestamp().as_second()).map_err(|_| self.wrong("no time of day"))
    }
}

impl Records for Postcat<'_> {
    fn next(&mut self) -> Result<Option<Record>, Unreadable> {
        let of = |kind| Ok(Some(Record { kind, data: Vec::new() }));
        loop {
            if self.state == Printed::Ended {
                return Ok(None);
            }
            let Some(line) = self.line()? else { return Ok(None) };
            match std::mem::replace(&mut self.state, Printed::Ended) {
                Printed::Start => match Postcat::begins(&line) {
                    Some(file) => self.state = Printed::Envelope(file.to_vec()),
                    None => return Err(self.wrong("no text of postcat: it has no envelope")),
                },
                Printed::Envelope(file) if marks(&line, b"MESSAGE CONTENTS", &file) => {
                    self.state = Printed::Content(file);
                    return of(MESSAGE);
                }
                Printed::Envelope(file) if marks(&line, b"MESSAGE FILE END", &file) => {
                    return of(END);
                }
                Printed::Envelope(file) => {
                    self.state = Printed::Envelope(file);
                    if let Some(record) = self.envelope(&line)? {
                        return Ok(Some(record));
                    }
                }
                Printed::Content(file) if marks(&line, b"HEADER EXTRACTED", &file) => {
                    self.state = Printed::Envelope(file);
                    return of(EXTRACTED);
                }
                Printed::Content(file) => {
                    self.state = Printed::Content(file);
                    return Ok(Some(Record { kind: LINE, data: line }));
                }
                Printed::Ended => return Ok(None),
            }
        }
    }

    fn place(&self) -> String {
        format!("line {}", self.number)
    }
}

/// Whether a line is `*** WORDS file ***`: with the name of the file, so that a message that contains words of postcat ends nowhere
/// but at its end.
fn marks(line: &[u8], words: &[u8], file: &[u8]) -> bool {
    let inner = line.strip_prefix(b"*** ").and_then(|line| line.strip_suffix(b" ***"));
    inner.and_then(|inner| inner.strip_prefix(words)).and_then(|rest| rest.strip_prefix(b" "))
        == Some(file)
}
