//! The structure of a message, line by line: headers, boundaries, parts; and what becomes of each.

use memchr::memchr;

use super::encode::{Base64, Encoding, QuotedPrintable, Weigher};
use super::field::ContentType;
use super::header::{End, Header, Treatment, Whose};
use super::{BOUNDARY_MAX, Limits, NESTING_MAX, NOTES_MAX, PLAN_MAX, Stamp};

const CRLF: &[u8] = b"\r\n";
/// Octets of a line that may be a boundary: its dashes, and as many blanks after it as anybody will write.
const PROBE_MAX: usize = BOUNDARY_MAX + 4 + 128;

/// Content on its way from octets to octets.
#[derive(Debug)]
pub struct Rewriter {
    purpose: Purpose,
    limits: Limits,
    state: State,
    /// The multiparts that are open, outermost first; at most [`NESTING_MAX`].
    frames: Vec<Frame>,
    /// How deep in multiparts and messages.
    level: usize,
    line: Line,
    /// Of a line that may be a boundary; at most [`PROBE_MAX`].
    probe: Vec<u8>,
    /// A CR, which may be half of a line end.
    cr: bool,
    /// The line end that belongs to the boundary, if one follows.
    end: Option<&'static [u8]>,
    leaves: usize,
    pub(super) found: Found,
}

/// What was met.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) plan: Vec<Encoding>,
    /// Octets of leaves that were weighed, and so not written.
    pub(super) weighed: u64,
    pub(super) header_8bit: bool,
    pub(super) is_mime: bool,
    pub(super) is_old: bool,
    pub(super) residue: bool,
    pub(super) is_changed: bool,
    pub(super) notes: Vec<String>,
}

#[derive(Debug)]
pub(super) enum Purpose {
    /// Cut fields only.
    Limit,
    /// Find out what a conversion has to do; what is written is what it will write, but for leaves.
    Survey(Stamp),
    /// Convert, leaves as planned.
    Convert(Stamp, Vec<Encoding>),
}

#[derive(Debug)]
enum State {
    Header(Box<Header>),
    Body(Leaf),
}

/// What becomes of content without structure.
#[derive(Debug)]
enum Leaf {
    Copy,
    /// Loses its high bits: it is in no part.
    Strip,
    Quoted(QuotedPrintable),
    Base64(Base64),
    /// With the Content-Transfer-Encoding field that it has.
    Weigh(Box<Weigher>, Vec<u8>),
}

/// A multipart that is open.
#[derive(Debug)]
struct Frame {
    boundary: Vec<u8>,
    digest: bool,
    level: usize,
}

/// How much is known of the present line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Line {
    Start,
    Probing,
    Known,
}

/// What a header says of the content behind it.
enum Content {
    Multipart {
        boundary: Vec<u8>,
        digest: bool,
    },
    Message,
    /// May be encoded.
    Leaf,
    /// May not.
    Fixed,
}

impl Rewriter {
    /// Cuts MIME fields, changes nothing else.
    pub fn limiting(limits: Limits) -> Rewriter {
        Rewriter::new(limits, Purpose::Limit)
    }

    pub(super) fn new(limits: Limits, purpose: Purpose) -> Rewriter {
        let treatment = Treatment { limits, withhold: !matches!(purpose, Purpose::Limit) };
        Rewriter {
            purpose,
            limits,
            state: State::Header(Box::new(Header::new(Whose::Message, treatment))),
            frames: Vec::new(),
            level: 0,
            line: Line::Start,
            probe: Vec::new(),
            cr: false,
            end: None,
            leaves: 0,
            found: Found::default(),
        }
    }

    /// Nothing that still comes will be changed.
    pub fn is_transparent(&self) -> bool {
        self.frames.is_empty()
            && !self.cr
            && matches!(self.state, State::Body(Leaf::Copy))
            && !matches!(self.purpose, Purpose::Survey(_))
    }

    /// A field was cut.
    pub fn is_changed(&self) -> bool {
        self.found.is_changed
    }

    /// What the log is to say of cut fields, in sendmail's words: the first [`NOTES_MAX`] of them.
    pub fn notes(&self) -> &[String] {
        &self.found.notes
    }

    /// Takes the next octets and appends to `out` what they become: at most a little more than three times as many, beside
    /// what was held back before.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.is_transparent() {
            return out.extend_from_slice(bytes);
        }
        let mut rest = bytes;
        if self.cr && !rest.is_empty() {
            self.cr = false;
            match rest.strip_prefix(b"\n") {
                Some(after) => {
                    rest = after;
                    self.line_end(CRLF, out);
                }
                None => self.text(b"\r", out),
            }
        }
        while let Some(at) = memchr(b'\n', rest) {
            let (line, end) = match rest[..at].strip_suffix(b"\r") {
                Some(line) => (line, CRLF),
                None => (&rest[..at], &b"\n"[..]),
            };
            self.text(line, out);
            self.line_end(end, out);
            rest = &rest[at + 1..];
        }
        if let Some(before) = rest.strip_suffix(b"\r") {
            self.cr = true;
            rest = before;
        }
        self.text(rest, out);
    }

    /// The message ends here.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.cr) {
            self.text(b"\r", out);
        }
        if std::mem::replace(&mut self.line, Line::Start) == Line::Probing {
            let line = std::mem::take(&mut self.probe);
            match self.boundary(&line) {
                Some((frame, last)) => {
                    self.at_boundary(frame, last, out);
                    out.extend_from_slice(&line);
                }
                None => self.content(&line, true, out),
            }
        }
        if self.leave(true, out) {
            out.extend_from_slice(CRLF);
        }
    }

    /// A piece of a line.
    fn text(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let Some(first) = bytes.first() else { return };
        let fresh = self.line == Line::Start;
        if fresh && *first == b'-' && !self.frames.is_empty() {
            self.line = Line::Probing;
        }
        if self.line != Line::Probing {
            self.line = Line::Known;
            return self.content(bytes, fresh, out);
        }
        let room = (PROBE_MAX - self.probe.len()).min(bytes.len());
        let (probed, rest) = bytes.split_at(room);
        self.probe.extend_from_slice(probed);
        let is_other = self.probe.get(1).is_some_and(|second| *second != b'-');
        if is_other || self.probe.len() == PROBE_MAX {
            let probe = std::mem::take(&mut self.probe);
            self.line = Line::Known;
            self.content(&probe, true, out);
            self.text(rest, out);
        }
    }

    fn line_end(&mut self, end: &'static [u8], out: &mut Vec<u8>) {
        match std::mem::replace(&mut self.line, Line::Start) {
            Line::Start => self.content_end(end, true, out),
            Line::Known => self.content_end(end, false, out),
            Line::Probing => {
                let line = std::mem::take(&mut self.probe);
                match self.boundary(&line) {
                    Some((frame, last)) => {
                        self.at_boundary(frame, last, out);
                        out.extend_from_slice(&line);
                        out.extend_from_slice(end);
                    }
                    None => {
                        self.content(&line, true, out);
                        self.content_end(end, false, out);
                    }
                }
            }
        }
    }

    /// Whose boundary a line is, innermost first, and whether it is the last one (RFC 2046 5.1.1).
    fn boundary(&self, line: &[u8]) -> Option<(usize, bool)> {
        let line = line.trim_ascii_end().strip_prefix(b"--")?;
        let is = |frame: &Frame| match line.strip_prefix(frame.boundary.as_slice())? {
            b"" => Some(false),
            b"--" => Some(true),
            _ => None,
        };
        let found = self.frames.iter().enumerate().rev();
        found.filter_map(|(at, frame)| Some((at, is(frame)?))).next()
    }

    fn at_boundary(&mut self, frame: usize, last: bool, out: &mut Vec<u8>) {
        self.leave(false, out);
        self.frames.truncate(frame + 1);
        let Some(Frame { digest, level, .. }) = self.frames.last() else { return };
        let (digest, level) = (*digest, *level);
        if last {
            self.frames.truncate(frame);
            self.level = level;
            self.state = State::Body(self.outside());
        } else {
            self.level = level + 1;
            self.begin_header(Whose::Part { digest });
        }
    }

    /// Ends whatever is under way, before a boundary or at the end of the message; whether its last line is unended then.
    fn leave(&mut self, at_end: bool, out: &mut Vec<u8>) -> bool {
        let end = self.end.take();
        match std::mem::replace(&mut self.state, State::Body(Leaf::Copy)) {
            State::Header(mut header) => {
                header.end_field(out);
                out.extend_from_slice(&header.encoding_field);
                self.learn(&header);
                false
            }
            State::Body(mut leaf) => {
                match (&mut leaf, end) {
                    (leaf, Some(end)) if at_end => leaf.line_end(end, out),
                    (Leaf::Weigh(weigher, _), Some(_)) => weigher.boundary_end(),
                    _ => {}
                }
                let is_unended = self.end_leaf(leaf, out);
                if !at_end && let Some(end) = end {
                    out.extend_from_slice(end);
                }
                is_unended
            }
        }
    }

    fn end_leaf(&mut self, leaf: Leaf, out: &mut Vec<u8>) -> bool {
        match leaf {
            Leaf::Copy | Leaf::Strip => false,
            Leaf::Quoted(mut quoted) => quoted.finish(out),
            Leaf::Base64(mut base64) => base64.finish(out),
            Leaf::Weigh(weigher, field) => {
                let is_planned = self.found.plan.len() < PLAN_MAX;
                let (encoding, len, is_unended) = weigher.finish(!is_planned);
                if is_planned {
                    self.found.plan.push(encoding);
                }
                self.found.weighed += len;
                self.encoding_fields(encoding, &field, out);
                is_unended
            }
        }
    }

    /// Octets of a line that is no boundary.
    fn content(&mut self, bytes: &[u8], fresh: bool, out: &mut Vec<u8>) {
        match &mut self.state {
            State::Header(header) => {
                if header.whose == Whose::Message {
                    self.found.header_8bit |= !bytes.is_ascii();
                }
                if let Some(start) = header.text(bytes, fresh, out) {
                    self.end_header(None, out);
                    self.content(&start, true, out);
                }
            }
            State::Body(leaf) => {
                if let Some(end) = self.end.take() {
                    leaf.line_end(end, out);
                }
                if let Leaf::Copy = leaf {
                    self.found.residue |= !bytes.is_ascii();
                }
                leaf.text(bytes, out);
            }
        }
    }

    fn content_end(&mut self, end: &'static [u8], fresh: bool, out: &mut Vec<u8>) {
        match &mut self.state {
            State::Header(header) => match header.line_end(end, fresh, out) {
                End::Line => {}
                End::Blank => self.end_header(Some(end), out),
                End::NotAField(start) => {
                    self.end_header(None, out);
                    self.content(&start, true, out);
                    self.content_end(end, false, out);
                }
            },
            State::Body(leaf) => {
                if let Some(before) = self.end.take() {
                    leaf.line_end(before, out);
                }
                match self.frames.is_empty() {
                    true => leaf.line_end(end, out),
                    false => self.end = Some(end),
                }
            }
        }
    }

    fn begin_header(&mut self, whose: Whose) {
        let withhold = !matches!(self.purpose, Purpose::Limit);
        let treatment = Treatment { limits: self.limits, withhold };
        self.state = State::Header(Box::new(Header::new(whose, treatment)));
    }

    /// The header is whole; `blank` is the line end of the blank line after it, if there is one.
    fn end_header(&mut self, blank: Option<&'static [u8]>, out: &mut Vec<u8>) {
        let State::Header(mut header) = std::mem::replace(&mut self.state, State::Body(Leaf::Copy))
        else {
            return;
        };
        header.end_field(out);
        self.learn(&header);
        self.stamp(&header, out);
        let field = std::mem::take(&mut header.encoding_field);
        let content = self.what_follows(header);
        let leaf = match (&content, &self.purpose) {
            (Content::Leaf, Purpose::Convert(_, plan)) => {
                let planned = plan.get(self.leaves).copied();
                self.leaves += 1;
                let encoding = planned.unwrap_or(Encoding::QuotedPrintable);
                self.encoding_fields(encoding, &field, out);
                match encoding {
                    Encoding::AsIs => Leaf::Copy,
                    Encoding::QuotedPrintable => Leaf::Quoted(QuotedPrintable::default()),
                    Encoding::Base64 => Leaf::Base64(Base64::default()),
                }
            }
            (Content::Leaf, Purpose::Survey(_)) => Leaf::Weigh(Box::default(), field),
            (Content::Leaf | Content::Fixed, _) => {
                out.extend_from_slice(&field);
                Leaf::Copy
            }
            (Content::Multipart { .. } | Content::Message, _) => self.outside(),
        };
        match (blank, &self.purpose) {
            (Some(blank), _) => out.extend_from_slice(blank),
            (None, Purpose::Limit) => {}
            (None, Purpose::Survey(_) | Purpose::Convert(..)) => out.extend_from_slice(CRLF),
        }
        self.state = State::Body(leaf);
        match content {
            Content::Multipart { boundary, digest } => {
                self.frames.push(Frame { boundary, digest, level: self.level });
            }
            Content::Message => {
                self.level += 1;
                self.begin_header(Whose::Inner);
            }
            Content::Leaf | Content::Fixed => {}
        }
    }

    /// The fields that make MIME of a message; before its other fields are learnt of.
    fn stamp(&self, header: &Header, out: &mut Vec<u8>) {
        let (Purpose::Survey(stamp) | Purpose::Convert(stamp, _)) = &self.purpose else { return };
        if !header.has_version && !matches!(header.whose, Whose::Part { .. }) {
            out.extend_from_slice(b"MIME-Version: 1.0\r\n");
        }
        if header.content_type.is_none() && header.whose == Whose::Message {
            let line = format!("Content-Type: text/plain; charset={}\r\n", stamp.charset);
            out.extend_from_slice(line.as_bytes());
        }
    }

    fn encoding_fields(&self, encoding: Encoding, field: &[u8], out: &mut Vec<u8>) {
        match (encoding.name(), &self.purpose) {
            (Some(name), Purpose::Survey(stamp) | Purpose::Convert(stamp, _)) => {
                let lines = format!(
                    "Content-Transfer-Encoding: {name}\r\n\
                     X-MIME-Autoconverted: from 8bit to {name} by {}\r\n",
                    stamp.by
                );
                out.extend_from_slice(lines.as_bytes());
            }
            (None, _) | (_, Purpose::Limit) => out.extend_from_slice(field),
        }
    }

    fn learn(&mut self, header: &Header) {
        self.found.is_changed |= header.is_changed;
        let room = NOTES_MAX - self.found.notes.len().min(NOTES_MAX);
        self.found.notes.extend(header.notes.iter().take(room).cloned());
        if header.whose == Whose::Message {
            self.found.is_mime = header.has_version;
            self.found.is_old = header.content_type.as_ref().is_some_and(|found| found.is_old);
        }
    }

    fn what_follows(&self, header: Box<Header>) -> Content {
        let default = match header.whose {
            Whose::Part { digest: true } => ContentType::new("message", "rfc822"),
            _ => ContentType::new("text", "plain"),
        };
        let limiting = matches!(self.purpose, Purpose::Limit);
        let is_identity = header.is_identity;
        let content_type = header.content_type.unwrap_or(default);
        // An encoded composite is forbidden (RFC 2045 6.4), so what claims to be one is none.
        let enters = is_identity && self.level < NESTING_MAX && self.frames.len() < NESTING_MAX;
        match content_type.kind.as_str() {
            "multipart" if enters && (limiting || content_type.subtype != "signed") => {
                let digest = content_type.subtype == "digest";
                match content_type.boundary {
                    Some(boundary) => Content::Multipart { boundary, digest },
                    None => Content::Fixed,
                }
            }
            "message" if enters && content_type.is("message", "rfc822") => Content::Message,
            "multipart" | "message" => Content::Fixed,
            _ if is_identity => Content::Leaf,
            _ => Content::Fixed,
        }
    }

    /// What becomes of content before the first part and after the last one.
    fn outside(&self) -> Leaf {
        match self.purpose {
            Purpose::Limit => Leaf::Copy,
            Purpose::Survey(_) | Purpose::Convert(..) => Leaf::Strip,
        }
    }
}

impl Leaf {
    fn text(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        match self {
            Leaf::Copy => out.extend_from_slice(bytes),
            Leaf::Strip => out.extend(bytes.iter().map(|&byte| low(byte))),
            Leaf::Quoted(quoted) => quoted.text(bytes, out),
            Leaf::Base64(base64) => base64.text(bytes, out),
            Leaf::Weigh(weigher, _) => weigher.text(bytes),
        }
    }

    fn line_end(&mut self, end: &[u8], out: &mut Vec<u8>) {
        match self {
            Leaf::Copy | Leaf::Strip => out.extend_from_slice(end),
            Leaf::Quoted(quoted) => quoted.line_end(out),
            Leaf::Base64(base64) => base64.text(CRLF, out),
            Leaf::Weigh(weigher, _) => weigher.line_end(end),
        }
    }
}

/// Without its high bit; one that would become a control character then is a question mark.
fn low(byte: u8) -> u8 {
    match byte & 0x7f {
        low if !byte.is_ascii() && low.is_ascii_control() => b'?',
        low => low,
    }
}
