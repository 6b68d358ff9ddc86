//! Values of MIME header fields: what they mean (RFC 2045 5, 6), and how they are cut to size (sendmail's
//! MaxMimeHeaderLength). A value is all behind the colon, blanks included, with LF line ends.
//!
//! Readers of mail have been broken by endless names of files, so long values are cut, and values whose quotes or
//! parentheses do not close are closed, within the length that they have.

use super::{BOUNDARY_MAX, Limits};

/// A field that is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MimeField {
    Version,
    Type,
    Encoding,
    Disposition,
    Id,
    Description,
}

impl MimeField {
    /// By its name, upper or lower case.
    pub(super) fn named(name: &[u8]) -> Option<MimeField> {
        let fields: [(&[u8], MimeField); 6] = [
            (b"MIME-Version", MimeField::Version),
            (b"Content-Type", MimeField::Type),
            (b"Content-Transfer-Encoding", MimeField::Encoding),
            (b"Content-Disposition", MimeField::Disposition),
            (b"Content-Id", MimeField::Id),
            (b"Content-Description", MimeField::Description),
        ];
        let found = fields.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        Some(found.1)
    }

    /// Whether a value of it can be cut at all.
    pub(super) fn is_limited(self, limits: Limits) -> bool {
        limits.field > 0 || limits.parameter > 0 && self.has_parameters()
    }

    fn has_parameters(self) -> bool {
        matches!(self, MimeField::Type | MimeField::Disposition)
    }

    /// Cuts `value`, of which `lost` more octets are gone already. What the log is to say, in sendmail's words; empty
    /// when nothing changed.
    pub(super) fn cut(
        self,
        name: &str,
        value: &mut Vec<u8>,
        lost: u64,
        limits: Limits,
    ) -> Vec<String> {
        let mut notes = Vec::new();
        if limits.parameter > 0 && self.has_parameters() {
            let (longest, fixed) = cut_parameters(value, limits.parameter);
            if fixed {
                notes.push(format!("Fixed MIME {name} header field (possible attack)"));
            }
            if longest > 0 {
                notes.push(format!(
                    "Truncated MIME {name} header due to field size (length = {longest}) (possible attack)"
                ));
            }
        }
        let len = value.len() as u64 + lost;
        let limit = limits.field as u64;
        let changed = match self {
            _ if limit == 0 => false,
            // Free text: nothing to balance.
            MimeField::Description if len > limit => {
                value.truncate(limits.field - 1);
                true
            }
            MimeField::Description => false,
            _ => balance(value, limits.field),
        };
        if changed || lost > 0 {
            notes.push(match len >= limit || lost > 0 {
                true => {
                    format!("Truncated long MIME {name} header (length = {len}) (possible attack)")
                }
                false => format!("Fixed MIME {name} header (possible attack)"),
            });
        }
        if !notes.is_empty() {
            // A cut in the middle of folding must not leave a line of blanks.
            value.truncate(value.trim_ascii_end().len());
        }
        notes
    }
}

/// What is open at some place of a structured value (RFC 5322 3.2).
#[derive(Clone, Copy, Default)]
struct Open {
    comments: usize,
    quote: bool,
    escape: bool,
}

impl Open {
    fn after(self, byte: u8) -> Open {
        if self.escape {
            return Open { escape: false, ..self };
        }
        match byte {
            b'\\' => Open { escape: true, ..self },
            b'(' if !self.quote => Open { comments: self.comments + 1, ..self },
            b')' => Open { comments: self.comments.saturating_sub(1), ..self },
            b'"' if self.comments == 0 => Open { quote: !self.quote, ..self },
            _ => self,
        }
    }

    /// Octets that must follow.
    fn owed(self) -> usize {
        self.comments + usize::from(self.quote) + usize::from(self.escape)
    }

    fn is_plain(self) -> bool {
        self.owed() == 0
    }
}

/// Shortens `value` to `max` octets, what closes its quotes and comments included; also within its own length, when they do
/// not close. Whether it changed.
fn balance(value: &mut Vec<u8>, max: usize) -> bool {
    let max = max.min(value.len());
    let (mut open, mut kept) = (Open::default(), 0);
    for &byte in value.iter() {
        let next = open.after(byte);
        if kept + 1 + next.owed() > max {
            break;
        }
        (open, kept) = (next, kept + 1);
    }
    if kept == value.len() && open.is_plain() {
        return false;
    }
    value.truncate(kept);
    value.resize(kept + open.comments, b')');
    if open.quote {
        value.push(b'"');
    }
    true
}

/// Cuts each parameter to `max` octets: how long the last one was that was too long, 0 for none; and whether one was only
/// closed.
fn cut_parameters(value: &mut Vec<u8>, max: usize) -> (usize, bool) {
    let (mut longest, mut fixed) = (0, false);
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value.as_slice();
    loop {
        let (parameter, more) = next_parameter(rest);
        let mut kept = parameter.to_vec();
        if balance(&mut kept, max) {
            match parameter.len() >= max {
                true => longest = parameter.len(),
                false => fixed = true,
            }
        }
        out.extend_from_slice(&kept);
        let Some(more) = more else { break };
        out.push(b';');
        rest = more;
    }
    *value = out;
    (longest, fixed)
}

/// Up to the next semicolon that is in no quotes and no comment, and what follows it.
fn next_parameter(value: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut open = Open::default();
    for (at, &byte) in value.iter().enumerate() {
        if byte == b';' && open.is_plain() {
            return (&value[..at], Some(&value[at + 1..]));
        }
        open = open.after(byte);
    }
    (value, None)
}

/// Content-Type: as far as a conversion asks. Types are in lower case; a missing one is empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ContentType {
    pub(super) kind: String,
    pub(super) subtype: String,
    /// None without one, and when it is longer than [`BOUNDARY_MAX`] or empty.
    pub(super) boundary: Option<Vec<u8>>,
    /// No `type/subtype` but a word of RFC 1049, from before MIME.
    pub(super) is_old: bool,
}

impl ContentType {
    pub(super) fn new(kind: &str, subtype: &str) -> ContentType {
        ContentType { kind: kind.into(), subtype: subtype.into(), boundary: None, is_old: false }
    }

    pub(super) fn parse(value: &[u8]) -> ContentType {
        let is_old = value.iter().find(|&&byte| byte == b';' || byte == b'/') != Some(&b'/');
        let (first, mut rest) = next_parameter(value);
        let mut words = Words(first);
        let kind = words.lower();
        let subtype = if words.take(b'/') { words.lower() } else { String::new() };
        let mut boundary = None;
        while let Some(more) = rest {
            let (parameter, after) = next_parameter(more);
            rest = after;
            let mut words = Words(parameter);
            if words.lower() == "boundary" && words.take(b'=') {
                boundary = Some(words.value());
                break;
            }
        }
        let usable = |boundary: &Vec<u8>| !boundary.is_empty() && boundary.len() <= BOUNDARY_MAX;
        ContentType { kind, subtype, boundary: boundary.filter(usable), is_old }
    }

    pub(super) fn is(&self, kind: &str, subtype: &str) -> bool {
        self.kind == kind && self.subtype == subtype
    }
}

/// Whether content labelled so is what it looks like, and may be encoded.
pub(super) fn is_identity(encoding: &[u8]) -> bool {
    matches!(Words(encoding).lower().as_str(), "7bit" | "8bit" | "binary")
}

/// The words of a structured value; comments and blanks between them are nothing.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn skip(&mut self) {
        let (mut open, mut end) = (Open::default(), 0);
        for &byte in self.0 {
            if open.comments == 0 && byte != b'(' && !byte.is_ascii_whitespace() {
                break;
            }
            (open, end) = (open.after(byte), end + 1);
        }
        self.0 = &self.0[end..];
    }

    /// The octets up to one that `ends` them.
    fn until(&mut self, ends: impl Fn(u8) -> bool) -> Vec<u8> {
        let end = self.0.iter().position(|&byte| ends(byte)).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        word.to_vec()
    }

    /// A token (RFC 2045 5.1) in lower case; empty when something else is there.
    fn lower(&mut self) -> String {
        self.skip();
        let special = |byte| byte <= b' ' || br#"()<>@,;:\"/[]?="#.contains(&byte);
        String::from_utf8_lossy(&self.until(special)).to_ascii_lowercase()
    }

    fn take(&mut self, byte: u8) -> bool {
        self.skip();
        match self.0.split_first() {
            Some((&first, rest)) if first == byte => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    /// A parameter's value. Outside quotes more is taken than RFC 2045 allows: boundaries are often left unquoted.
    fn value(&mut self) -> Vec<u8> {
        if !self.take(b'"') {
            return self.until(|byte| byte <= b' ' || byte == b'(');
        }
        let (mut value, mut escape) = (Vec::new(), false);
        for &byte in self.0 {
            match byte {
                _ if std::mem::take(&mut escape) => value.push(byte),
                b'\\' => escape = true,
                b'"' => break,
                b'\n' => {}
                _ => value.push(byte),
            }
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let parse = |text: &str| {
            let found = ContentType::parse(text.as_bytes());
            let boundary = found.boundary.map(|b| String::from_utf8(b).unwrap());
            format!("{}/{} {boundary:?} {}", found.kind, found.subtype, found.is_old)
        };
        for (text, expected) in [
            ("text/plain", "text/plain None false"),
            ("(a (b) \\) c) TEXT / (;) Plain; charset=x", "text/plain None false"),
            ("multipart/mixed; boundary=a=_b; x=y", "multipart/mixed Some(\"a=_b\") false"),
            (
                "multipart/mixed;\n\tBoundary = \"a \\\"b; \"(c)",
                "multipart/mixed Some(\"a \\\"b; \") false",
            ),
            (
                "multipart/mixed; x=\"; boundary=no\"; boundary=yes;boundary=z",
                "multipart/mixed Some(\"yes\") false",
            ),
            ("multipart/mixed; boundary=", "multipart/mixed None false"),
            ("multipart/mixed; boundary", "multipart/mixed None false"),
            ("postscript", "postscript/ None true"),
            ("postscript; a/b", "postscript/ None true"),
            ("text/", "text/ None false"),
            ("", "/ None true"),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        let long =
            |n| ContentType::parse(format!("multipart/x; boundary={}", "b".repeat(n)).as_bytes());
        assert_eq!((long(127).boundary.map(|b| b.len()), long(128).boundary), (Some(127), None));
        assert!(is_identity(b"8BIT (really)") && is_identity(b" binary "));
        assert!(!is_identity(b"base64") && !is_identity(b"x-own") && !is_identity(b"\xff"));
    }

    /// What sendmail's way of shortening gives.
    #[test]
    fn cuts() {
        for (text, max, expected) in [
            ("abcdef", 3, "abc"),
            ("abc", 3, "abc"),
            ("\"abcdef\"", 5, "\"abc\""),
            ("(a(b)c)", 5, "(a())"),
            ("((((", 4, "(())"),
            ("\"abc", 40, "\"ab\""),
            ("ab\\", 40, "ab"),
            ("ab\\cd", 3, "ab"),
            ("a)b", 40, "a)b"),
            ("\"", 40, ""),
            ("", 1, ""),
        ] {
            let mut value = text.as_bytes().to_vec();
            let changed = balance(&mut value, max);
            assert_eq!(String::from_utf8(value).unwrap(), expected, "{text}");
            assert_eq!(changed, text != expected, "{text}");
        }
    }

    #[test]
    fn fields() {
        let limits = Limits { field: 30, parameter: 12 };
        for (field, text, expected, notes) in [
            (
                "Content-Type",
                "text/plain; name=\"abcdefghijk\"; x=y",
                "text/plain; name=\"abcd\"; x=y",
                &[
                    "Truncated MIME Content-Type header due to field size (length = 19) (possible attack)",
                ][..],
            ),
            (
                "content-id",
                "<12345678901234567890123456789@x>",
                "<12345678901234567890123456789",
                &["Truncated long MIME content-id header (length = 33) (possible attack)"],
            ),
            (
                "MIME-Version",
                "1.0 (a",
                "1.0 ()",
                &["Fixed MIME MIME-Version header (possible attack)"],
            ),
            (
                "Content-Disposition",
                "x; \"a",
                "x; \"\"",
                &["Fixed MIME Content-Disposition header field (possible attack)"],
            ),
            (
                "Content-Description",
                "(2345678901234567890123456789 1",
                "(2345678901234567890123456789",
                &["Truncated long MIME Content-Description header (length = 31) (possible attack)"],
            ),
            ("Content-Description", "(", "(", &[]),
        ] {
            let mut value = text.as_bytes().to_vec();
            let kind = MimeField::named(field.as_bytes()).unwrap();
            let said = kind.cut(field, &mut value, 0, limits);
            assert_eq!(
                (String::from_utf8(value).unwrap().as_str(), &said[..]),
                (expected, &notes.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
                "{text}"
            );
        }
    }
}
