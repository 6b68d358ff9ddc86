//! One header on its way through: of the message, of a part, of a message in it. Fields go by as they come; only those of
//! [`MimeField`] are held until they are whole, to be understood and cut to size.

use super::field::{ContentType, MimeField, is_identity};
use super::{HELD_MAX, Limits};

/// The longest field name told from other text, blanks before its colon included.
const NAME_MAX: usize = 128;

/// Whose header it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Whose {
    /// The message's.
    Message,
    /// A part's of multipart/digest, or another multipart.
    Part { digest: bool },
    /// A message's in message/rfc822.
    Inner,
}

/// How fields are treated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Treatment {
    pub(super) limits: Limits,
    /// Content-Transfer-Encoding goes to [`Header::encoding_field`], not out.
    pub(super) withhold: bool,
}

/// One header under way.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) whose: Whose,
    treatment: Treatment,
    field: Field,
    /// MIME-Version is there.
    pub(super) has_version: bool,
    /// Content-Type, the first one.
    pub(super) content_type: Option<ContentType>,
    /// The first Content-Transfer-Encoding is none or says that nothing is encoded.
    pub(super) is_identity: bool,
    /// The first Content-Transfer-Encoding as it was written, when it is withheld.
    pub(super) encoding_field: Vec<u8>,
    has_encoding: bool,
    is_first_line: bool,
    /// What the log is to say of cut fields.
    pub(super) notes: Vec<String>,
    /// A field was changed.
    pub(super) is_changed: bool,
}

/// Where in a header.
#[derive(Debug)]
enum Field {
    /// Before the first field.
    Start,
    /// In what may be the name of a field.
    Name(Vec<u8>),
    /// In a field that goes by.
    Passing,
    /// In a MIME field. `lost` octets of it were too many to hold.
    Held { kind: MimeField, name_len: usize, raw: Vec<u8>, lost: u64 },
}

/// What the end of a line was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Of a line in the header.
    Line,
    /// The blank line after it.
    Blank,
    /// Of a line that is no field, so that the content began with it.
    NotAField(Vec<u8>),
}

impl Header {
    pub(super) fn new(whose: Whose, treatment: Treatment) -> Header {
        Header {
            whose,
            treatment,
            field: Field::Start,
            has_version: false,
            content_type: None,
            is_identity: true,
            encoding_field: Vec::new(),
            has_encoding: false,
            is_first_line: true,
            notes: Vec::new(),
            is_changed: false,
        }
    }

    /// A piece of a line, not empty; `fresh` at its beginning. Gives back what is no header any more: the line is no field.
    pub(super) fn text(&mut self, bytes: &[u8], fresh: bool, out: &mut Vec<u8>) -> Option<Vec<u8>> {
        if fresh {
            let is_folded = bytes.first().is_some_and(|byte| is_blank(*byte));
            match (&self.field, is_folded) {
                (Field::Start, true) => return Some(bytes.to_vec()),
                (_, true) => {}
                (_, false) => {
                    self.end_field(out);
                    self.field = Field::Name(Vec::new());
                }
            }
        }
        let Field::Name(name) = &mut self.field else {
            self.append(bytes, out);
            return None;
        };
        for (at, &byte) in bytes.iter().enumerate() {
            let after_blank = name.last().is_some_and(|last| is_blank(*last));
            let fits = match byte {
                b':' => !name.is_empty(),
                b' ' | b'\t' => !name.is_empty(),
                0x21..0x7f => !after_blank,
                _ => false,
            };
            if !fits || name.len() == NAME_MAX {
                let mut start = std::mem::take(name);
                start.extend_from_slice(&bytes[at..]);
                self.field = Field::Passing;
                if self.is_first_line && is_envelope_line(&start) {
                    out.extend_from_slice(&start);
                    return None;
                }
                return Some(start);
            }
            name.push(byte);
            if byte == b':' {
                self.named(out);
                self.append(&bytes[at + 1..], out);
                return None;
            }
        }
        None
    }

    /// The name is whole, its colon included.
    fn named(&mut self, out: &mut Vec<u8>) {
        let Field::Name(raw) = &mut self.field else { return };
        let raw = std::mem::take(raw);
        let name = raw.strip_suffix(b":").unwrap_or(&raw).trim_ascii_end();
        self.field = match MimeField::named(name) {
            Some(kind) => Field::Held { kind, name_len: name.len(), raw, lost: 0 },
            None => {
                out.extend_from_slice(&raw);
                Field::Passing
            }
        };
    }

    /// More octets of a field whose name is known.
    fn append(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        match &mut self.field {
            Field::Held { kind, raw, lost, .. } => {
                let room = HELD_MAX.saturating_sub(raw.len()).min(bytes.len());
                raw.extend_from_slice(&bytes[..room]);
                let rest = &bytes[room..];
                if rest.is_empty() {
                } else if kind.is_limited(self.treatment.limits) {
                    *lost += rest.len() as u64;
                } else {
                    self.let_go(out);
                    out.extend_from_slice(rest);
                }
            }
            Field::Start | Field::Name(_) | Field::Passing => out.extend_from_slice(bytes),
        }
    }

    /// A field that is too long to be held and may be so: what was read of it counts, but no encoding of such a length is one.
    fn let_go(&mut self, out: &mut Vec<u8>) {
        if let Field::Held { kind, name_len, raw, .. } =
            std::mem::replace(&mut self.field, Field::Passing)
        {
            let value = value_of(&raw, name_len);
            match kind {
                MimeField::Encoding => {
                    self.is_identity = false;
                    self.has_encoding = true;
                }
                _ => self.learn(kind, &value),
            }
            out.extend_from_slice(&raw);
        }
    }

    /// The end of a line, after an empty one when `fresh`.
    pub(super) fn line_end(&mut self, end: &[u8], fresh: bool, out: &mut Vec<u8>) -> End {
        self.is_first_line = false;
        if fresh {
            self.end_field(out);
            return End::Blank;
        }
        if let Field::Name(name) = &mut self.field {
            let name = std::mem::take(name);
            self.field = Field::Passing;
            return End::NotAField(name);
        }
        self.append(end, out);
        End::Line
    }

    /// Ends the field under way: what is held of it goes out, or is withheld.
    pub(super) fn end_field(&mut self, out: &mut Vec<u8>) {
        match std::mem::replace(&mut self.field, Field::Passing) {
            Field::Start => self.field = Field::Start,
            Field::Passing => {}
            Field::Name(name) => out.extend_from_slice(&name),
            Field::Held { kind, name_len, mut raw, lost } => {
                let mut value = value_of(&raw, name_len);
                let name = String::from_utf8_lossy(&raw[..name_len]).into_owned();
                let notes = kind.cut(&name, &mut value, lost, self.treatment.limits);
                self.learn(kind, &value);
                if !notes.is_empty() {
                    raw = folded(&name, &value);
                    self.is_changed = true;
                    self.notes.extend(notes);
                }
                if kind != MimeField::Encoding || !self.treatment.withhold {
                    out.extend_from_slice(&raw);
                } else if self.encoding_field.is_empty() {
                    self.encoding_field = raw;
                }
            }
        }
    }

    fn learn(&mut self, kind: MimeField, value: &[u8]) {
        match kind {
            MimeField::Version => self.has_version = true,
            MimeField::Type if self.content_type.is_none() => {
                self.content_type = Some(ContentType::parse(value));
            }
            MimeField::Encoding if !self.has_encoding => {
                self.has_encoding = true;
                self.is_identity = is_identity(value);
            }
            _ => {}
        }
    }
}

/// The line that mailbox files put before a header.
fn is_envelope_line(line: &[u8]) -> bool {
    line.starts_with(b"From ") || line.starts_with(b">From ")
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// All behind the colon, with LF line ends, but for the last one.
fn value_of(raw: &[u8], name_len: usize) -> Vec<u8> {
    let after_name = raw.get(name_len..).unwrap_or_default().trim_ascii_start();
    let value = after_name.strip_prefix(b":").unwrap_or(after_name);
    let value = value.strip_suffix(b"\n").unwrap_or(value);
    let value = value.strip_suffix(b"\r").unwrap_or(value);
    let mut text = Vec::with_capacity(value.len());
    for (at, &byte) in value.iter().enumerate() {
        if byte != b'\r' || value.get(at + 1) != Some(&b'\n') {
            text.push(byte);
        }
    }
    text
}

fn folded(name: &str, value: &[u8]) -> Vec<u8> {
    let mut field = format!("{name}:").into_bytes();
    for &byte in value {
        match byte {
            b'\n' => field.extend_from_slice(b"\r\n"),
            _ => field.push(byte),
        }
    }
    field.extend_from_slice(b"\r\n");
    field
}
