//! Mail addresses: paths of MAIL and RCPT, and what people type on a command line.
//!
//! An [`Address`] is kept as it was given (case, quotes) without angle brackets and source route; it is parsed
//! once and printed back byte for byte. The law is RFC 5321 4.1.2 and 4.1.3 with RFC 6531 for UTF-8; an address
//! without a domain is a local name, as sendmail has it. Nothing here decides what is local or where mail goes.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// Longest local part taken, in octets. RFC 5321 asks for 64 at least; VERP and SRS use more.
pub const LOCAL_PART_MAX: usize = 256;
/// Longest domain taken, in octets (RFC 5321 4.5.3.1.2).
pub const DOMAIN_MAX: usize = 255;

/// A mailbox: `local@domain`, or a bare local name. No angle brackets, no source route, no control characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Address {
    text: Box<str>,
    /// Length of the local part; equals the length of `text` when there is no domain.
    local_len: u32,
}

/// Where reports go: nobody, or a mailbox (RFC 5321 4.5.5).
#[derive(Clone, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum ReversePath {
    /// `<>`: a report, which is never answered.
    Null,
    /// The sender.
    Mailbox(Address),
}

/// Why a text is not an address. The texts are sendmail's, without the address before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing at all.
    #[error("User address required")]
    Empty,
    /// `<a@b` or `a@b>`.
    #[error("Unbalanced '<'")]
    Unbalanced,
    /// A quote that does not end, or stands in the middle.
    #[error("Unbalanced '\"'")]
    Quote,
    /// Two `@`, an empty label, `@` at an end.
    #[error("Invalid route address")]
    Route,
    /// A character that no unquoted local part or domain has.
    #[error("Illegal character in address")]
    Character,
    /// CR, LF, NUL or another control character, quoted or not.
    #[error("Control character in address")]
    Control,
    /// Longer than [`LOCAL_PART_MAX`] or [`DOMAIN_MAX`].
    #[error("Address too long")]
    TooLong,
    /// `[...]` that is no IP address (RFC 5321 4.1.3).
    #[error("Invalid address literal")]
    Literal,
}

impl Address {
    /// The address as given: what to print in logs, MAIL, RCPT and reports.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part before the `@`, quotes included.
    pub fn local_part(&self) -> &str {
        &self.text[..self.local_len as usize]
    }

    /// The part after the `@` as given; none for a local name.
    pub fn domain(&self) -> Option<&str> {
        self.text.get(self.local_len as usize + 1..)
    }

    /// The domain in lower case without a final dot, for comparing and for keys.
    pub fn domain_key(&self) -> Option<String> {
        self.domain().map(|domain| domain.trim_end_matches('.').to_lowercase())
    }

    /// This local name at `domain`; an address that has a domain stays as it is.
    ///
    /// # Errors
    /// [`AddressError`] when `domain` is not a domain.
    pub fn qualified(self, domain: &str) -> Result<Address, AddressError> {
        match self.domain() {
            Some(_) => Ok(self),
            None => format!("{}@{domain}", self.text).parse(),
        }
    }

    /// Whether it needs SMTPUTF8 (RFC 6531): any octet above 127.
    pub fn is_utf8(&self) -> bool {
        !self.text.is_ascii()
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Parses `local@domain`, a bare local name, or either behind a source route; angle brackets are the caller's.
    fn from_str(text: &str) -> Result<Address, AddressError> {
        if text.bytes().any(|b| b < b' ' || b == 0x7f) {
            return Err(AddressError::Control);
        }
        let text = strip_route(text)?;
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        let local_len = local_part_len(text)?;
        if local_len > LOCAL_PART_MAX {
            return Err(AddressError::TooLong);
        }
        match text.as_bytes().get(local_len) {
            None => {}
            Some(b'@') => check_domain(&text[local_len + 1..])?,
            Some(_) => return Err(AddressError::Character),
        }
        if local_len == 0 {
            return Err(AddressError::Route);
        }
        Ok(Address { text: text.into(), local_len: local_len as u32 })
    }
}

/// RFC 5321 4.1.1.3: a source route `@a,@b:` is accepted and ignored.
fn strip_route(text: &str) -> Result<&str, AddressError> {
    if !text.starts_with('@') {
        return Ok(text);
    }
    let (route, rest) = text.split_once(':').ok_or(AddressError::Route)?;
    for hop in route.split(',') {
        check_domain(hop.strip_prefix('@').ok_or(AddressError::Route)?)?;
    }
    if rest.starts_with('@') { Err(AddressError::Route) } else { Ok(rest) }
}

/// Length of the local part: a dot-string or a quoted string. Lenient with dots (`a..b@c`), as sendmail is.
fn local_part_len(text: &str) -> Result<usize, AddressError> {
    let bytes = text.as_bytes();
    if bytes[0] == b'"' {
        let mut i = 1;
        loop {
            match bytes.get(i) {
                None => return Err(AddressError::Quote),
                Some(b'"') => return Ok(i + 1),
                Some(b'\\') => i += 2,
                Some(_) => i += 1,
            }
        }
    }
    for (i, b) in bytes.iter().enumerate() {
        match b {
            b'@' => return Ok(i),
            b'"' => return Err(AddressError::Quote),
            b'<' | b'>' => return Err(AddressError::Unbalanced),
            b' ' | b'(' | b')' | b',' | b';' | b':' | b'\\' | b'[' | b']' => {
                return Err(AddressError::Character);
            }
            _ => {}
        }
    }
    Ok(bytes.len())
}

/// RFC 5321 4.1.2 `Domain` or `address-literal`; underscores and a final dot are let through, as DNS has them.
pub fn check_domain(domain: &str) -> Result<(), AddressError> {
    if domain.len() > DOMAIN_MAX {
        return Err(AddressError::TooLong);
    }
    if domain.starts_with('[') {
        return literal(domain).map(|_| ()).ok_or(AddressError::Literal);
    }
    let labels = domain.strip_suffix('.').unwrap_or(domain);
    for label in labels.split('.') {
        if label.is_empty() {
            return Err(AddressError::Route);
        }
        if label.len() > 63 && label.is_ascii() {
            return Err(AddressError::TooLong);
        }
        for b in label.bytes() {
            match b {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | 0x80.. => {}
                b'@' => return Err(AddressError::Route),
                b'<' | b'>' => return Err(AddressError::Unbalanced),
                _ => return Err(AddressError::Character),
            }
        }
    }
    Ok(())
}

/// The IP address of `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 4.1.3); none for anything else.
pub fn literal(domain: &str) -> Option<IpAddr> {
    let inner = domain.strip_prefix('[')?.strip_suffix(']')?;
    match inner.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => {
            inner[5..].parse::<Ipv6Addr>().ok().map(IpAddr::V6)
        }
        _ => inner.parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

impl ReversePath {
    /// The mailbox, unless the path is null.
    pub fn mailbox(&self) -> Option<&Address> {
        match self {
            ReversePath::Null => None,
            ReversePath::Mailbox(address) => Some(address),
        }
    }

    /// Whether it is `<>`.
    pub fn is_null(&self) -> bool {
        matches!(self, ReversePath::Null)
    }
}

/// Without angle brackets; the null path prints as nothing.
impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.mailbox().map_or(Ok(()), |address| address.fmt(f))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn takes_what_mail_has() {
        for (text, local, domain) in [
            ("a@example.com", "a", Some("example.com")),
            ("root", "root", None),
            ("\"a b\\\"@c\"@Example.COM", "\"a b\\\"@c\"", Some("Example.COM")),
            ("a@[192.0.2.1]", "a", Some("[192.0.2.1]")),
            ("a@[IPv6:2001:db8::1]", "a", Some("[IPv6:2001:db8::1]")),
            ("@x.example,@y.example:a@z.example", "a", Some("z.example")),
            ("grå@exämple.org", "grå", Some("exämple.org")),
            ("a+b/c=d!e%f@x_y.example.", "a+b/c=d!e%f", Some("x_y.example.")),
        ] {
            let address: Address = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((address.local_part(), address.domain()), (local, domain));
        }
    }

    #[test]
    fn refuses_the_rest() {
        use AddressError::*;
        for (text, error) in [
            ("", Empty),
            ("a@@b", Route),
            ("a@", Route),
            ("@b", Route),
            ("a@b..c", Route),
            ("\"a@b", Quote),
            ("a\"b@c", Quote),
            ("\"a\"b@c", Character),
            ("a b@c", Character),
            ("<a@c", Unbalanced),
            ("a@c>", Unbalanced),
            ("a@[1.2.3]", Literal),
            ("a@c\r\nRCPT", Control),
            ("a@b@c", Route),
            ("a@b c", Character),
        ] {
            assert_eq!(text.parse::<Address>(), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn prints_what_it_parsed_and_never_panics(text in "\\PC{0,40}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.as_str().parse::<Address>().unwrap(), address.clone());
                prop_assert!(!address.local_part().is_empty());
            }
        }
    }
}
