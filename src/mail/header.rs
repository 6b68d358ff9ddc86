//! The header of a message (RFC 5322 2.2): read while it streams by, in pieces of any size.
//!
//! [`HeaderScan`] finds where the header ends and gathers what the stations ask of it. It keeps at most [`VALUE_MAX`]
//! octets of one field, however long the header is, and changes nothing: a message whose header does not end in a
//! blank line is reported as such ([`Ending::NoBlank`]), and the caller sets one.

use std::collections::BTreeMap;

use memchr::memchr;

use super::envelope::TimeoutClass;

/// Longest field name told from body text. RFC 5322 has no limit below its line length; names in use stay under 80.
pub const NAME_MAX: usize = 128;
/// Octets kept of a field's value while it is looked at: a Message-Id or Content-Type of more is cut.
pub const VALUE_MAX: usize = 1024;

/// What was found in a header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeaderFacts {
    /// Octets, the blank line included when there is one.
    pub len: u64,
    /// `Received:` fields: the hops it made.
    pub received: u32,
    /// The value of Message-Id:, printable; empty without one.
    pub message_id: String,
    /// There is a Message-Id: field.
    pub has_message_id: bool,
    /// There is a Date: field.
    pub has_date: bool,
    /// There is a From: field.
    pub has_from: bool,
    /// The word of Precedence:, in lower case.
    pub precedence: Option<String>,
    /// What Priority: asks for, if it is a word of it.
    pub priority: Option<TimeoutClass>,
    /// By its Content-Type: it is a delivery report.
    pub is_report: bool,
    /// There is a MIME-Version: field.
    pub is_mime: bool,
    /// An octet above 127.
    pub has_8bit: bool,
}

impl HeaderFacts {
    /// The number of the Precedence: word among `precedences` (sendmail P lines), 0 for none or another word; and which
    /// queue timeouts: by Priority:, a delivery report's Content-Type:, Precedence:, in that order.
    pub fn class(&self, precedences: &BTreeMap<String, i32>) -> (i32, TimeoutClass) {
        let word = self.precedence.as_ref();
        let precedence = word.and_then(|word| precedences.get(word)).copied().unwrap_or(0);
        let by_precedence = match precedence {
            1.. => TimeoutClass::Urgent,
            0 => TimeoutClass::Normal,
            _ => TimeoutClass::NonUrgent,
        };
        let by_content = if self.is_report { TimeoutClass::Dsn } else { by_precedence };
        (precedence, self.priority.unwrap_or(by_content))
    }
}

/// How a header ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// With a blank line, which was taken.
    Blank,
    /// A line that is no field begins after the octets taken, or the message is over: a blank line is missing there.
    NoBlank,
}

/// What [`HeaderScan::scan`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scanned {
    /// Octets that belong to the header. The rest, less than [`NAME_MAX`] octets while there is no end, is to be given
    /// again with more behind it.
    pub taken: usize,
    /// The header ended after them.
    pub end: Option<Ending>,
}

/// A header on its way. Lines end in CRLF.
#[derive(Debug)]
pub struct HeaderScan {
    len: u64,
    received: u32,
    has_message_id: bool,
    has_date: bool,
    has_from: bool,
    is_mime: bool,
    has_8bit: bool,
    message_id: Option<String>,
    precedence: Option<String>,
    priority: Option<TimeoutClass>,
    is_report: bool,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// Before the first line.
    Start,
    /// At the start of a later line; this field was the last.
    LineStart(Field),
    /// Inside a line of this field.
    Line(Field),
    /// After the end.
    Body,
}

/// A field while its lines go by, and the start of its value when that is of interest.
#[derive(Debug)]
enum Field {
    MessageId(Vec<u8>),
    Precedence(Vec<u8>),
    Priority(Vec<u8>),
    ContentType(Vec<u8>),
    Other,
}

impl Field {
    fn keep(&mut self, bytes: &[u8]) {
        let (Field::MessageId(value)
        | Field::Precedence(value)
        | Field::Priority(value)
        | Field::ContentType(value)) = self
        else {
            return;
        };
        let room = VALUE_MAX.saturating_sub(value.len());
        value.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

impl Default for HeaderScan {
    fn default() -> HeaderScan {
        HeaderScan::new()
    }
}

impl HeaderScan {
    /// Before the first octet.
    pub fn new() -> HeaderScan {
        HeaderScan {
            len: 0,
            received: 0,
            has_message_id: false,
            has_date: false,
            has_from: false,
            is_mime: false,
            has_8bit: false,
            message_id: None,
            precedence: None,
            priority: None,
            is_report: false,
            place: Place::Start,
        }
    }

    /// Octets taken so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was taken yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the end was found.
    pub fn is_over(&self) -> bool {
        matches!(self.place, Place::Body)
    }

    /// Takes header from the front of `bytes`. After the end it takes nothing.
    pub fn scan(&mut self, bytes: &[u8]) -> Scanned {
        let mut at = 0;
        let end = loop {
            let rest = bytes.get(at..).unwrap_or_default();
            if rest.is_empty() {
                break None;
            }
            match std::mem::replace(&mut self.place, Place::Body) {
                Place::Body => break Some(Ending::Blank),
                Place::Line(field) => at += self.line(field, rest),
                Place::Start => match first_line(rest, false) {
                    Line::Field(name) => self.begin(name),
                    Line::Undecided => {
                        self.place = Place::Start;
                        break None;
                    }
                    Line::Blank => {
                        at += 2;
                        break Some(Ending::Blank);
                    }
                    Line::Continued | Line::NoField => break Some(Ending::NoBlank),
                },
                Place::LineStart(field) => match first_line(rest, true) {
                    Line::Continued => self.place = Place::Line(field),
                    Line::Undecided => {
                        self.place = Place::LineStart(field);
                        break None;
                    }
                    line => {
                        self.conclude(field);
                        match line {
                            Line::Field(name) => self.begin(name),
                            Line::Blank => {
                                at += 2;
                                break Some(Ending::Blank);
                            }
                            _ => break Some(Ending::NoBlank),
                        }
                    }
                },
            }
        };
        let taken = bytes.get(..at).unwrap_or_default();
        self.len += taken.len() as u64;
        self.has_8bit |= !taken.is_ascii();
        Scanned { taken: at, end }
    }

    /// The message is over while the header was not: what the last scan left is no field, and a blank line is missing.
    pub fn finish(&mut self) {
        if let Place::Line(field) | Place::LineStart(field) =
            std::mem::replace(&mut self.place, Place::Body)
        {
            self.conclude(field);
        }
    }

    /// What was found. Complete once the header is over.
    pub fn into_facts(self) -> HeaderFacts {
        HeaderFacts {
            len: self.len,
            received: self.received,
            message_id: self.message_id.unwrap_or_default(),
            has_message_id: self.has_message_id,
            has_date: self.has_date,
            has_from: self.has_from,
            precedence: self.precedence,
            priority: self.priority,
            is_report: self.is_report,
            is_mime: self.is_mime,
            has_8bit: self.has_8bit,
        }
    }

    /// A line of `field` from the start of `rest`: how many octets are there of it.
    fn line(&mut self, mut field: Field, rest: &[u8]) -> usize {
        match memchr(b'\n', rest) {
            Some(end) => {
                field.keep(&rest[..end]);
                self.place = Place::LineStart(field);
                end + 1
            }
            None => {
                field.keep(rest);
                self.place = Place::Line(field);
                rest.len()
            }
        }
    }

    fn begin(&mut self, name: &[u8]) {
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        let field = match name.len() {
            4 if is("date") => {
                self.has_date = true;
                Field::Other
            }
            4 if is("from") => {
                self.has_from = true;
                Field::Other
            }
            8 if is("received") => {
                self.received = self.received.saturating_add(1);
                Field::Other
            }
            8 if is("priority") => Field::Priority(Vec::new()),
            10 if is("message-id") => {
                self.has_message_id = true;
                Field::MessageId(Vec::new())
            }
            10 if is("precedence") => Field::Precedence(Vec::new()),
            12 if is("mime-version") => {
                self.is_mime = true;
                Field::Other
            }
            12 if is("content-type") => Field::ContentType(Vec::new()),
            _ => Field::Other,
        };
        self.place = Place::Line(field);
    }

    /// All lines of `field` went by. Of several fields of a name the first counts.
    fn conclude(&mut self, field: Field) {
        match field {
            Field::Other => {}
            Field::MessageId(value) => {
                self.message_id.get_or_insert_with(|| value_of(&value));
            }
            Field::Precedence(value) => {
                self.precedence.get_or_insert_with(|| value_of(&value).to_lowercase());
            }
            Field::Priority(value) => {
                let class = match value_of(&value).to_ascii_lowercase().as_str() {
                    "urgent" => TimeoutClass::Urgent,
                    "normal" => TimeoutClass::Normal,
                    "non-urgent" => TimeoutClass::NonUrgent,
                    _ => return,
                };
                self.priority.get_or_insert(class);
            }
            Field::ContentType(value) => {
                let value = value_of(&value).to_ascii_lowercase();
                self.is_report |= value.starts_with("multipart/report")
                    && value.replace(['"', ' '], "").contains("report-type=delivery-status");
            }
        }
    }
}

/// What a line is, from its first octets.
enum Line<'a> {
    /// CRLF.
    Blank,
    /// A blank or tab comes first.
    Continued,
    /// `Name:`
    Field(&'a [u8]),
    /// Anything else.
    NoField,
    /// Too few octets to say.
    Undecided,
}

fn first_line(rest: &[u8], continuable: bool) -> Line<'_> {
    match rest {
        [b'\r', b'\n', ..] => return Line::Blank,
        [b'\r'] => return Line::Undecided,
        [b' ' | b'\t', ..] if continuable => return Line::Continued,
        _ => {}
    }
    let start = &rest[..rest.len().min(NAME_MAX)];
    // RFC 5322 2.2: a name is visible ASCII; 4.5 lets old messages have blanks before the colon.
    let name_len = start.iter().position(|b| !(b'!'..=b'~').contains(b) || *b == b':');
    let Some(name_len) = name_len else {
        return if start.len() < NAME_MAX { Line::Undecided } else { Line::NoField };
    };
    let (name, after) = start.split_at(name_len);
    match after.iter().find(|b| !matches!(b, b' ' | b'\t')) {
        Some(b':') if !name.is_empty() => Line::Field(name),
        None if start.len() < NAME_MAX && !name.is_empty() => Line::Undecided,
        _ => Line::NoField,
    }
}

/// The value in the raw lines of a field: after the colon, unfolded, without control characters.
fn value_of(raw: &[u8]) -> String {
    let value = memchr(b':', raw).and_then(|colon| raw.get(colon + 1..)).unwrap_or_default();
    let text: String = String::from_utf8_lossy(value)
        .chars()
        .filter(|c| *c != '\r' && *c != '\n')
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn class(facts: &HeaderFacts) -> (i32, TimeoutClass) {
        let words = [("special-delivery", 100), ("list", -30), ("bulk", -60), ("junk", -100)];
        facts.class(&words.map(|(word, number)| (word.to_owned(), number)).into())
    }

    /// The facts, the header, and how it ended, of a message that comes in pieces of `size`.
    fn scan(message: &[u8], size: usize) -> (HeaderFacts, Vec<u8>, Option<Ending>) {
        let (mut scan, mut header, mut held, mut end) =
            (HeaderScan::new(), Vec::new(), Vec::new(), None);
        for piece in message.chunks(size) {
            held.extend_from_slice(piece);
            let scanned = scan.scan(&held);
            header.extend(held.drain(..scanned.taken));
            if scanned.end.is_some() {
                end = scanned.end;
                break;
            }
            assert!(held.len() < NAME_MAX, "what waits is bounded");
        }
        scan.finish();
        (scan.into_facts(), header, end)
    }

    fn all(message: &str) -> (HeaderFacts, usize, Option<Ending>) {
        let whole = scan(message.as_bytes(), message.len().max(1));
        for size in 1..message.len() {
            assert_eq!(scan(message.as_bytes(), size), whole, "{message:?} in pieces of {size}");
        }
        assert!(message.as_bytes().starts_with(&whole.1));
        (whole.0, whole.1.len(), whole.2)
    }

    #[test]
    fn gathers_what_is_asked() {
        let (facts, len, end) = all(
            "Received: a\r\n\tb\r\nRECEIVED: c\r\nMessage-ID:\r\n <a@b>\r\nDate: x\r\nFrom : y\r\n\
             Precedence: Bulk\r\n\r\nReceived: body\r\n",
        );
        assert_eq!((facts.received, facts.message_id.as_str()), (2, "<a@b>"));
        assert!(facts.has_date && facts.has_from && facts.has_message_id && !facts.has_8bit);
        assert_eq!(class(&facts), (-60, TimeoutClass::NonUrgent));
        assert_eq!(facts.class(&BTreeMap::new()), (0, TimeoutClass::Normal));
        assert_eq!(facts.class(&[("bulk".to_owned(), 5)].into()), (5, TimeoutClass::Urgent));
        assert_eq!((facts.len, end), (len as u64, Some(Ending::Blank)));
    }

    #[test]
    fn finds_the_end() {
        for (message, len, end) in [
            ("", 0, None),
            ("\r\nbody", 2, Some(Ending::Blank)),
            ("A: b\r\n", 6, None),
            ("A: b\r\nhello world\r\n", 6, Some(Ending::NoBlank)),
            ("hello: x\r\nhé\r\n", 10, Some(Ending::NoBlank)),
            (" A: b\r\n\r\n", 0, Some(Ending::NoBlank)),
            (": b\r\n", 0, Some(Ending::NoBlank)),
            ("A: b\r\n:\r\n", 6, Some(Ending::NoBlank)),
            ("From x Mon 1 12:00\r\n", 0, Some(Ending::NoBlank)),
        ] {
            let (_, taken, ended) = all(message);
            assert_eq!((taken, ended), (len, end), "{message:?}");
        }
        let long = "x".repeat(1000);
        assert_eq!(all(&long).2, Some(Ending::NoBlank));
    }

    #[test]
    fn classes_as_sendmail_does() {
        use TimeoutClass::*;
        for (header, timeouts, precedence) in [
            ("", Normal, 0),
            ("Precedence: special-delivery\r\n", Urgent, 100),
            ("Precedence: junk\r\nPrecedence: list\r\n", NonUrgent, -100),
            ("Precedence: whatever\r\n", Normal, 0),
            ("Priority: URGENT\r\nPrecedence: bulk\r\n", Urgent, -60),
            ("Priority: soon\r\nPrecedence: list\r\n", NonUrgent, -30),
            ("Content-Type: multipart/report;\r\n\treport-type=\"delivery-status\"\r\n", Dsn, 0),
            ("Content-Type: multipart/report; report-type=x\r\n", Normal, 0),
        ] {
            let (facts, ..) = all(&format!("{header}\r\n"));
            assert_eq!(class(&facts), (precedence, timeouts), "{header:?}");
        }
    }

    #[test]
    fn stays_small_whatever_comes() {
        let message = format!("Message-Id: {}\r\n", "y".repeat(1 << 20)).into_bytes();
        let (facts, header, _) = scan(&message, 4096);
        assert_eq!(header.len(), message.len());
        assert!(facts.message_id.len() <= VALUE_MAX);
    }

    proptest! {
        #[test]
        fn never_panics(text in "([A-Za-z:]{0,4}|\r\n|[ \t\r\n\\PC]){0,40}", size in 1usize..30) {
            let whole = scan(text.as_bytes(), text.len().max(1));
            prop_assert_eq!(scan(text.as_bytes(), size), whole);
        }
    }
}
