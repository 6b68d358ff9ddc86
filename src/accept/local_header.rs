//! The header of a message from a local program: read, completed, put in order.
//!
//! Programs give what they like: LF, CRLF or bare CR as line ends, a mailbox's `From ` line, no Date, recipients in Bcc.
//! What leaves here is a header of RFC 5322 with CRLF line ends: Received and X-Authentication-Warning in front, fields as
//! given and in their order, Bcc and Return-Path gone, Date, From and Message-Id added where missing (RFC 6409 8).
//! Pure: bytes in, bytes out.

use super::header_edit::HeaderEdit;
use crate::config::Config;
use crate::mail::address::Address;
use crate::mail::address_list::{self, Item, Style};

/// Turns any line ends into CRLF, piece by piece, and leaves NUL out: what SMTP may carry (RFC 5321 2.3.8).
#[derive(Default)]
pub struct Normaliser {
    /// The last octet was a CR that has been written as CRLF already.
    after_cr: bool,
}

impl Normaliser {
    /// Appends `input`, normalised, to `output`.
    pub fn feed(&mut self, mut input: &[u8], output: &mut Vec<u8>) {
        if self.after_cr && !input.is_empty() {
            self.after_cr = false;
            input = input.strip_prefix(b"\n").unwrap_or(input);
        }
        while let Some(at) = memchr::memchr3(b'\r', b'\n', 0, input) {
            let (line, rest) = input.split_at(at);
            output.extend_from_slice(line);
            input = &rest[1..];
            match rest[0] {
                b'\n' => output.extend_from_slice(b"\r\n"),
                b'\r' => {
                    output.extend_from_slice(b"\r\n");
                    match input.first() {
                        Some(b'\n') => input = &input[1..],
                        Some(_) => {}
                        None => self.after_cr = true,
                    }
                }
                _ => {}
            }
        }
        output.extend_from_slice(input);
    }
}

/// One field as given, with its CRLF and continuation lines.
struct Field {
    /// Length of the name before the colon.
    name: usize,
    bytes: Vec<u8>,
}

impl Field {
    fn name(&self) -> &str {
        // Names are checked to be ASCII when the field is read.
        std::str::from_utf8(&self.bytes[..self.name]).unwrap_or_default().trim_end()
    }

    fn is(&self, name: &str) -> bool {
        self.name().eq_ignore_ascii_case(name)
    }

    fn value(&self) -> String {
        String::from_utf8_lossy(&self.bytes[self.name + 1..]).into_owned()
    }
}

/// The header of a submitted message.
#[derive(Default)]
pub struct LocalHeader {
    fields: Vec<Field>,
}

/// What a piece of input says about where the header ends.
pub enum HeaderEnd {
    /// Not yet: more input is needed.
    Unknown,
    /// Here: the body starts at this octet of the input.
    At(usize),
}

/// Finds the end of the header in normalised `input`: after the blank line, or before the first line that is no field.
/// `complete` says that no more input comes.
pub fn header_end(input: &[u8], complete: bool) -> HeaderEnd {
    let mut at = 0;
    loop {
        let rest = &input[at..];
        let Some(length) = memchr::memmem::find(rest, b"\r\n") else {
            let unfinished_field = field_name_len(rest).is_some() || rest.is_empty();
            return match complete {
                true if unfinished_field => HeaderEnd::At(input.len()),
                true => HeaderEnd::At(at),
                false => HeaderEnd::Unknown,
            };
        };
        let line = &rest[..length];
        if line.is_empty() {
            return HeaderEnd::At(at + 2);
        }
        let continues = at > 0 && matches!(line[0], b' ' | b'\t');
        let from_line = at == 0 && line.starts_with(b"From ");
        if !continues && !from_line && field_name_len(line).is_none() {
            return HeaderEnd::At(at);
        }
        at += length + 2;
    }
}

/// RFC 5322 2.2: printable ASCII but colon, then a colon (blanks before it are obsolete and let through).
fn field_name_len(line: &[u8]) -> Option<usize> {
    let colon = memchr::memchr(b':', line)?;
    let name = line[..colon].trim_ascii_end();
    (!name.is_empty() && name.iter().all(u8::is_ascii_graphic)).then_some(colon)
}

impl LocalHeader {
    /// Reads the header part that [`header_end`] found.
    pub fn parse(header: &[u8]) -> LocalHeader {
        let mut fields: Vec<Field> = Vec::new();
        let mut rest = header;
        while !rest.is_empty() {
            let length = memchr::memmem::find(rest, b"\r\n").map_or(rest.len(), |at| at + 2);
            let (line, after) = rest.split_at(length);
            rest = after;
            let text = line.strip_suffix(b"\r\n").unwrap_or(line);
            match (text.first(), fields.last_mut()) {
                (Some(b' ' | b'\t'), Some(field)) => push_line(&mut field.bytes, text),
                _ => {
                    if let Some(name) = field_name_len(text) {
                        let mut bytes = Vec::with_capacity(text.len() + 2);
                        push_line(&mut bytes, text);
                        fields.push(Field { name, bytes });
                    }
                    // A mailbox's `From ` line and the blank line are no fields.
                }
            }
        }
        LocalHeader { fields }
    }

    /// The addresses that `-t` means: of To, Cc and Bcc, or of their Resent- forms when there are any.
    pub fn recipients(&self, style: Style) -> Vec<Item> {
        let resent = self.fields.iter().any(|field| {
            ["Resent-To", "Resent-Cc", "Resent-Bcc"].iter().any(|name| field.is(name))
        });
        let names = match resent {
            true => ["Resent-To", "Resent-Cc", "Resent-Bcc"],
            false => ["To", "Cc", "Bcc"],
        };
        self.fields
            .iter()
            .filter(|field| names.iter().any(|name| field.is(name)))
            .flat_map(|field| address_list::addresses(&field.value(), style))
            .collect()
    }

    /// The same, changed as SingleLineFromHeader and RrtImpliesDsn have it.
    pub fn edited(self, config: &Config) -> LocalHeader {
        let Some(mut edit) = HeaderEdit::of_fields(config) else { return self };
        let fields = self.fields.into_iter().flat_map(|field| field.bytes);
        let edited = edit.feed(fields.chain(*b"\r\n").collect());
        LocalHeader::parse(&edited)
    }

    /// Whom the message says it is from, for `-ba`: the first address of Resent-Sender and Resent-From where it is resent, of
    /// Sender, of From.
    pub fn originator(&self, style: Style) -> Option<Item> {
        let names = ["Resent-Sender", "Resent-From", "Sender", "From"];
        let field =
            names.iter().find_map(|name| self.fields.iter().find(|field| field.is(name)))?;
        address_list::addresses(&field.value(), style).into_iter().next()
    }

    /// Whether the field is there.
    pub fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.is(name))
    }

    /// How many Received fields there are.
    pub fn hops(&self) -> u32 {
        self.fields.iter().filter(|field| field.is("Received")).count() as u32
    }

    /// The header to keep, blank line included: `front` (whole fields), then the fields, then what is missing of `added`
    /// (name and value). A gateway's header stays as it is, but for `front`.
    pub fn finish(&self, front: &str, added: &[(&str, String)], gateway: bool) -> Vec<u8> {
        let mut out = front.as_bytes().to_vec();
        for field in &self.fields {
            let dropped = ["Bcc", "Resent-Bcc", "Return-Path"].iter().any(|name| field.is(name));
            if gateway || !dropped {
                out.extend_from_slice(&field.bytes);
            }
        }
        if !gateway {
            for (name, value) in added.iter().filter(|(name, _)| !self.has(name)) {
                out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            }
        }
        out.extend_from_slice(b"\r\n");
        out
    }
}

fn push_line(bytes: &mut Vec<u8>, line: &[u8]) {
    bytes.extend_from_slice(line);
    bytes.extend_from_slice(b"\r\n");
}

/// `Full Name <address>` for From, the name quoted where RFC 5322 or MustQuoteChars (`must_quote`) ask for it, without line ends and
/// controls.
pub fn from_value(full_name: &str, address: &Address, must_quote: &str) -> String {
    let name: String = full_name.chars().filter(|c| !c.is_control()).collect();
    let name = name.trim();
    if name.is_empty() {
        return address.to_string();
    }
    let plain = |c: char| {
        (c.is_alphanumeric() || " !#$%&'*+-/=?^_`{|}~".contains(c)) && !must_quote.contains(c)
    };
    if name.chars().all(plain) {
        format!("{name} <{address}>")
    } else {
        format!("\"{}\" <{address}>", name.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(pieces: &[&[u8]]) -> Vec<u8> {
        let mut normaliser = Normaliser::default();
        let mut out = Vec::new();
        for piece in pieces {
            normaliser.feed(piece, &mut out);
        }
        out
    }

    fn end(input: &str, complete: bool) -> Option<usize> {
        match header_end(input.as_bytes(), complete) {
            HeaderEnd::At(at) => Some(at),
            HeaderEnd::Unknown => None,
        }
    }

    #[test]
    fn every_line_end_becomes_crlf_and_nul_goes() {
        assert_eq!(normal(&[b"a\nb\r\nc\rd\0e\r"]), b"a\r\nb\r\nc\r\nde\r\n");
        assert_eq!(normal(&[b"a\r", b"\nb\r", b"c"]), b"a\r\nb\r\nc");
    }

    #[test]
    fn finds_where_the_body_starts() {
        for (input, complete, expected) in [
            ("Subject: x\r\n\r\nbody", false, Some(14)),
            ("Subject: x\r\n", false, None),
            ("Subject: x\r\n", true, Some(12)),
            ("Subject: x\r\n folded\r\nHello there\r\n", false, Some(21)),
            ("From me Mon\r\nTo: a\r\n\r\n", false, Some(22)),
            ("no header\r\n", false, Some(0)),
            ("\r\nbody", false, Some(2)),
            ("hel", false, None),
            ("hel", true, Some(0)),
            ("", true, Some(0)),
        ] {
            assert_eq!(end(input, complete), expected, "{input:?}");
        }
    }

    #[test]
    fn completes_the_header_and_hides_bcc() {
        let header = LocalHeader::parse(
            b"From x\r\nSubject: s\r\nBcc: hidden@x.example,\r\n more@x.example\r\nTo: Ann <ann@x.example>\r\n\r\n",
        );
        let found: Vec<_> = header
            .recipients(Style::default())
            .into_iter()
            .map(|a| a.unwrap().to_string())
            .collect();
        assert_eq!(found, ["hidden@x.example", "more@x.example", "ann@x.example"]);
        let added = [("Date", "now".to_owned()), ("Subject", "not this".to_owned())];
        assert_eq!(
            header.finish("Received: r\r\n", &added, false),
            b"Received: r\r\nSubject: s\r\nTo: Ann <ann@x.example>\r\nDate: now\r\n\r\n"
        );
    }

    #[test]
    fn a_field_on_one_line() {
        let header =
            LocalHeader::parse(b"From: Ann\r\n\tBee \r\n <a@x>\r\nTo: b@x,\r\n c@x\r\n\r\n");
        let config = Config { single_line_from_header: true, ..Config::default() };
        assert_eq!(
            header.edited(&config).finish("", &[], true),
            b"From: Ann \tBee   <a@x>\r\nTo: b@x,\r\n c@x\r\n\r\n"
        );
    }

    #[test]
    fn a_resent_message_goes_to_whom_it_is_resent() {
        let header = LocalHeader::parse(b"To: a@x\r\nResent-To: b@x\r\n\r\n");
        assert_eq!(header.recipients(Style::default()), [Ok("b@x".parse().unwrap())]);
    }

    #[test]
    fn names_are_quoted_and_cannot_add_a_header() {
        let address: Address = "a@x.example".parse().unwrap();
        assert_eq!(from_value("Ann Bee", &address, ".\'"), "Ann Bee <a@x.example>");
        assert_eq!(from_value("B., \"Ann\"", &address, ".\'"), "\"B., \\\"Ann\\\"\" <a@x.example>");
        assert_eq!(from_value("x\r\nBcc: y", &address, ".\'"), "\"xBcc: y\" <a@x.example>");
        assert_eq!(from_value("", &address, ".\'"), "a@x.example");
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(input in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(0), any::<u8>()], 0..40), cut in 0usize..40) {
            let cut = cut.min(input.len());
            let whole = normal(&[&input]);
            prop_assert_eq!(&normal(&[&input[..cut], &input[cut..]]), &whole);
            prop_assert_eq!(normal(&[&whole]), whole.clone());
            if let HeaderEnd::At(at) = header_end(&whole, true) {
                LocalHeader::parse(&whole[..at]);
            }
        }
    }
}
