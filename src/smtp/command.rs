//! Command lines (RFC 5321 4.1): the verb, and the arguments of MAIL, RCPT, BDAT, HELO and ETRN.
//!
//! Parsing is a function of the line alone; what may come when is [`super::server`]'s. Errors are the replies to
//! send, in sendmail's words. A line is text without its CRLF; it holds no CR, LF or NUL.

use crate::mail::address::{Address, AddressError, DOMAIN_MAX, ReversePath, check_domain};
use crate::mail::selection::{Field, Selection, Term};
use crate::mail::status::{EnhancedStatus, Reply};

/// What a command line begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // named as the verb
pub enum Verb {
    Helo,
    Ehlo,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Noop,
    Quit,
    Vrfy,
    Expn,
    Help,
    Etrn,
    StartTls,
    Auth,
    Verb,
    /// SEND, SAML, SOML, TURN: of old RFCs, done by nobody.
    Unimplemented,
    /// GET, POST, CONNECT, USER: a browser or proxy user that took us for something else.
    Foreign,
    /// Anything else.
    Unknown,
}

/// The verb of `line`, and what stands behind it.
pub fn split(line: &str) -> (Verb, &str) {
    let line = line.trim_matches([' ', '\t']);
    let (word, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let verb = VERBS.iter().find(|(name, _)| word.eq_ignore_ascii_case(name));
    (verb.map_or(Verb::Unknown, |(_, verb)| *verb), argument.trim_start_matches([' ', '\t']))
}

/// The most frequent first.
const VERBS: [(&str, Verb); 24] = [
    ("RCPT", Verb::Rcpt),
    ("MAIL", Verb::Mail),
    ("DATA", Verb::Data),
    ("BDAT", Verb::Bdat),
    ("EHLO", Verb::Ehlo),
    ("QUIT", Verb::Quit),
    ("RSET", Verb::Rset),
    ("HELO", Verb::Helo),
    ("STARTTLS", Verb::StartTls),
    ("NOOP", Verb::Noop),
    ("VRFY", Verb::Vrfy),
    ("EXPN", Verb::Expn),
    ("HELP", Verb::Help),
    ("ETRN", Verb::Etrn),
    ("AUTH", Verb::Auth),
    ("VERB", Verb::Verb),
    ("SEND", Verb::Unimplemented),
    ("SAML", Verb::Unimplemented),
    ("SOML", Verb::Unimplemented),
    ("TURN", Verb::Unimplemented),
    ("GET", Verb::Foreign),
    ("POST", Verb::Foreign),
    ("CONNECT", Verb::Foreign),
    ("USER", Verb::Foreign),
];

/// A reply with its status: `refusal(501, (5, 5, 2), ...)`.
pub(super) fn refusal(code: u16, status: (u8, u16, u16), text: impl Into<String>) -> Reply {
    Reply::new(code, Some(EnhancedStatus::new(status.0, status.1, status.2)), text)
}

/// `FROM:<path> parameters` taken apart: the path as typed, with its brackets, and the parameters.
///
/// # Errors
/// 501 when `keyword` and colon are missing, 553 when brackets or quotes do not close.
pub fn path<'a>(argument: &'a str, keyword: &str) -> Result<(&'a str, &'a str), Reply> {
    let word_len = argument.find([':', ' ', '\t', '<']).unwrap_or(argument.len());
    let (word, rest) = argument.split_at(word_len);
    let scanning = |text: &str| {
        refusal(501, (5, 5, 2), format!("Syntax error in parameters scanning \"{text}\""))
    };
    if !word.eq_ignore_ascii_case(keyword) {
        return Err(scanning(word));
    }
    let rest =
        rest.trim_start_matches([' ', '\t']).strip_prefix(':').ok_or_else(|| scanning(word))?;
    let rest = rest.trim_start_matches([' ', '\t']);
    if rest.is_empty() {
        return Err(scanning(word));
    }
    let end = path_end(rest).map_err(|error| path_refusal(rest, error))?;
    let (path, parameters) = rest.split_at(end);
    if !parameters.is_empty() && !parameters.starts_with([' ', '\t']) {
        return Err(scanning(parameters));
    }
    Ok((path, parameters))
}

/// Where the path at the front of `text` ends: at its `>`, or, without brackets, at a blank; quotes hide both.
fn path_end(text: &str) -> Result<usize, AddressError> {
    let bracketed = text.starts_with('<');
    let mut quoted = false;
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => {
                bytes.next();
            }
            b'>' if bracketed && !quoted => return Ok(at + 1),
            b' ' | b'\t' if !bracketed && !quoted => return Ok(at),
            _ => {}
        }
    }
    match (bracketed, quoted) {
        (_, true) => Err(AddressError::Quote),
        (true, false) => Err(AddressError::Unbalanced),
        (false, false) => Ok(text.len()),
    }
}

/// 553 for a path that is no path: `<a@@b>... Invalid route address`.
fn path_refusal(shown: &str, error: AddressError) -> Reply {
    let status = match error {
        AddressError::Empty | AddressError::Unbalanced | AddressError::Quote => (5, 0, 0),
        _ => (5, 1, 3),
    };
    // Without SMTPUTF8 a reply is ASCII (RFC 6531 3.7.4.2), and whether it was asked for is not known yet.
    let shown: String = shown.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
    refusal(553, status, format!("{shown}... {error}"))
}

fn inner(shown: &str) -> &str {
    let inner = shown.strip_prefix('<').and_then(|path| path.strip_suffix('>')).unwrap_or(shown);
    inner.trim_matches([' ', '\t'])
}

/// The reverse-path in `shown`, as [`path`] gave it.
///
/// # Errors
/// 553.
pub fn reverse_path(shown: &str) -> Result<ReversePath, Reply> {
    match inner(shown) {
        "" => Ok(ReversePath::Null),
        text => text.parse().map(ReversePath::Mailbox).map_err(|error| path_refusal(shown, error)),
    }
}

/// The forward-path in `shown`, as [`path`] gave it.
///
/// # Errors
/// 553.
pub fn forward_path(shown: &str) -> Result<Address, Reply> {
    inner(shown).parse().map_err(|error| path_refusal(shown, error))
}

/// The client's name for itself in HELO or EHLO: `name` is the verb, for the reply.
///
/// # Errors
/// 501 without one, or when it is neither a domain nor an address in brackets.
pub fn hello<'a>(argument: &'a str, name: &str) -> Result<&'a str, Reply> {
    let word = argument.split([' ', '\t']).next().unwrap_or_default();
    if word.is_empty() {
        return Err(refusal(501, (5, 0, 0), format!("{name} requires domain address")));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if word.len() > DOMAIN_MAX || !word.bytes().all(allowed) {
        return Err(refusal(501, (5, 0, 0), "Invalid domain name"));
    }
    Ok(word)
}

/// The name for itself of a client whose name is none ([`hello`] refused it), as far as it can stand in a trace field; `?` for
/// nothing (sendmail AllowBogusHELO).
pub fn bogus_hello(argument: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() || "-._:[]".contains(c) { c } else { '?' };
    let name: String = argument.trim_end().chars().map(fit).take(DOMAIN_MAX).collect();
    if name.is_empty() { "?".to_owned() } else { name }
}

/// `BDAT size [LAST]` (RFC 3030 2): octets that follow at once, and whether they are the last.
///
/// # Errors
/// 501; how much follows is then unknown, so the connection cannot go on.
pub fn bdat(argument: &str) -> Result<(u64, bool), Reply> {
    let syntax = || refusal(501, (5, 5, 4), "Syntax error in BDAT: size and LAST expected");
    let mut words = argument.split_ascii_whitespace();
    let size = words.next().and_then(number).ok_or_else(syntax)?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return Err(syntax()),
    };
    if words.next().is_some() { Err(syntax()) } else { Ok((size, last)) }
}

/// A number of 1 to 20 digits that fits 64 bits.
pub(super) fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// The queue run that `ETRN node` asks for (RFC 1985 5.3): a host, or `@domain` for all its hosts.
///
/// # Errors
/// 500 without a node, 459 for `#group` (there are no queue groups), 501 for what is no domain.
pub fn etrn(argument: &str) -> Result<Selection, Reply> {
    let node = argument.trim_end_matches([' ', '\t']);
    if node.is_empty() {
        return Err(refusal(500, (5, 5, 2), "Parameter required"));
    }
    if let Some(group) = node.strip_prefix('#') {
        return Err(refusal(459, (4, 5, 4), format!("Queue {group} unknown")));
    }
    let (domain, substring) = match node.strip_prefix('@') {
        Some(domain) => (domain, domain.to_owned()),
        None => (node, format!("@{node}")),
    };
    check_domain(domain).map_err(|error| refusal(501, (5, 5, 4), format!("{node}... {error}")))?;
    let term = Term { field: Field::Recipient, negated: false, substring };
    Ok(Selection { terms: vec![term], lost: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tells_verbs() {
        for (line, verb, argument) in [
            ("MAIL FROM:<a>", Verb::Mail, "FROM:<a>"),
            ("  quit  now ", Verb::Quit, "now"),
            ("StartTLS", Verb::StartTls, ""),
            ("", Verb::Unknown, ""),
            ("MAILFROM:<a>", Verb::Unknown, ""),
            ("GET / HTTP/1.0", Verb::Foreign, "/ HTTP/1.0"),
        ] {
            assert_eq!(split(line), (verb, argument), "{line:?}");
        }
    }

    #[test]
    fn takes_paths_apart() {
        for (argument, expected) in [
            ("FROM:<a@b>", Ok(("<a@b>", ""))),
            ("from: <a@b> SIZE=1", Ok(("<a@b>", " SIZE=1"))),
            ("FROM:a@b SIZE=1", Ok(("a@b", " SIZE=1"))),
            ("FROM:<\"a> b\"@c> X", Ok(("<\"a> b\"@c>", " X"))),
            ("FROM:<\"a\\\"> b\"@c>", Ok(("<\"a\\\"> b\"@c>", ""))),
            ("FROM : <>", Ok(("<>", ""))),
            ("", Err("501 5.5.2 Syntax error in parameters scanning \"\"")),
            ("FROM", Err("501 5.5.2 Syntax error in parameters scanning \"FROM\"")),
            ("FROM:", Err("501 5.5.2 Syntax error in parameters scanning \"FROM\"")),
            ("TO:<a>", Err("501 5.5.2 Syntax error in parameters scanning \"TO\"")),
            ("FROM:<a@b>x", Err("501 5.5.2 Syntax error in parameters scanning \"x\"")),
            ("FROM:<a@b", Err("553 5.0.0 <a@b... Unbalanced '<'")),
            ("FROM:<\"a@b>", Err("553 5.0.0 <\"a@b>... Unbalanced '\"'")),
        ] {
            let found = path(argument, "FROM").map_err(|reply| reply.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{argument:?}");
        }
        assert_eq!(reverse_path("<>"), Ok(ReversePath::Null));
        let refused = |shown| forward_path(shown).unwrap_err().to_string();
        assert_eq!(refused("<>"), "553 5.0.0 <>... User address required");
        assert_eq!(refused("<a@@b>"), "553 5.1.3 <a@@b>... Invalid route address");
        assert_eq!(forward_path("<@x:a@b>").unwrap().as_str(), "a@b");
    }

    #[test]
    fn reads_the_rest() {
        assert_eq!(bdat("5 last"), Ok((5, true)));
        assert_eq!(bdat("18446744073709551615"), Ok((u64::MAX, false)));
        for bad in ["", "-1", "+1", "x", "1 LAST x", "1 FIRST", "18446744073709551616", "1 "] {
            assert_eq!(bdat(bad).is_err(), bad != "1 ", "{bad:?}");
        }
        for (name, good) in [
            ("a.example", true),
            ("[192.0.2.1]", true),
            ("[IPv6:::1]", true),
            ("a_b", true),
            ("a!b", false),
            ("é", false),
        ] {
            assert_eq!(hello(name, "EHLO").is_ok(), good, "{name}");
        }
        assert_eq!(etrn("a.example").unwrap().terms[0].substring, "@a.example");
        assert_eq!(etrn("@a.example").unwrap().terms[0].substring, "a.example");
        assert_eq!(etrn("").unwrap_err().to_string(), "500 5.5.2 Parameter required");
        assert!(etrn("#q").unwrap_err().is_transient() && etrn("a b").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(line in "(FROM:|<|>|\"|\\\\|@| |\\PC){0,30}") {
            let _ = split(&line);
            let _ = etrn(&line);
            if let Ok((shown, parameters)) = path(&line, "FROM") {
                prop_assert!(line.ends_with(&[shown, parameters].concat()));
                let _ = (reverse_path(shown), forward_path(shown));
            }
        }
    }
}
