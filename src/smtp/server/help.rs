//! The answers to HELP: built in, or from a file (sendmail HelpFile).
//!
//! Such a file has lines of a topic, a tab or blank, and text; `smtp` is what HELP alone says. With a first line `#vers 2` the text
//! may say `$v` for our version, `$j` for our name and `$$` for a dollar.

use crate::mail::status::EnhancedStatus;
use crate::smtp::reply;

/// Octets of one answer from a file, about: what is more is left out.
const ANSWER_MAX: usize = 7 * 1024;
/// Octets of a line of it beside its text: `214-2.0.0 ` and CRLF.
const LINE_OVERHEAD: usize = 12;
/// Characters of an unknown topic that are said back.
const TOPIC_MAX: usize = 10;

/// Topic, and what is said to it.
const TOPICS: [(&str, &[&str]); 15] = [
    ("HELO", &["HELO <host>", "\tTells your name, and asks for plain SMTP."]),
    ("EHLO", &["EHLO <host>", "\tTells your name, and asks what extensions there are."]),
    (
        "MAIL",
        &[
            "MAIL FROM:<sender> [ <parameters> ]",
            "\tBegins a message. Parameters: SIZE, BODY, SMTPUTF8, RET, ENVID, BY.",
        ],
    ),
    (
        "RCPT",
        &[
            "RCPT TO:<recipient> [ <parameters> ]",
            "\tNames a recipient, as often as there are recipients. Parameters: NOTIFY, ORCPT.",
        ],
    ),
    ("DATA", &["DATA", "\tThe message follows, up to a line that is a single dot."]),
    (
        "BDAT",
        &["BDAT <size> [ LAST ]", "\tSo many octets of the message follow at once (RFC 3030)."],
    ),
    ("RSET", &["RSET", "\tForgets the message that was begun."]),
    ("NOOP", &["NOOP", "\tDoes nothing."]),
    ("QUIT", &["QUIT", "\tEnds the session."]),
    ("VRFY", &["VRFY <address>", "\tNever says whether an address exists; RCPT does."]),
    ("ETRN", &["ETRN <host> | @<domain>", "\tTries queued mail for it now (RFC 1985)."]),
    ("VERB", &["VERB", "\tIs answered, and changes nothing: deliveries are not shown here."]),
    ("STARTTLS", &["STARTTLS", "\tThe session goes on encrypted (RFC 3207)."]),
    (
        "DSN",
        &[
            "MAIL FROM:<sender> [ RET={ FULL | HDRS } ] [ ENVID=<text> ]",
            "RCPT TO:<recipient> [ NOTIFY={ NEVER | SUCCESS,FAILURE,DELAY } ] [ ORCPT=<type>;<text> ]",
            "\tSays what reports are wanted (RFC 3461).",
        ],
    ),
    ("HELP", &["HELP [ <topic> ]", "\tYou have found it."]),
];

/// Writes the answer to `HELP argument`.
pub(super) fn write(out: &mut Vec<u8>, argument: &str) {
    let status = Some(EnhancedStatus::new(2, 0, 0));
    let mut say = |last: bool, text: &str| {
        reply::write_line(out, 214, status, last, format_args!("{text}"));
    };
    if argument.is_empty() {
        say(false, VERSION);
        say(false, "Topics:");
        for row in TOPICS.chunks(5) {
            let names: Vec<&str> = row.iter().map(|(name, _)| *name).collect();
            say(false, &format!("\t{}", names.join("\t")));
        }
        say(false, "For more info use \"HELP <topic>\".");
    } else if let Some((_, lines)) =
        TOPICS.iter().find(|(name, _)| argument.trim_end().eq_ignore_ascii_case(name))
    {
        lines.iter().for_each(|line| say(false, line));
    } else {
        return unknown(out, argument);
    }
    say(true, "End of HELP info");
}

/// Writes the answer to `HELP argument` from the text of a HelpFile: all lines whose topic begins with it.
pub(super) fn write_from(out: &mut Vec<u8>, argument: &str, file: &str, host: &str) {
    let status = Some(EnhancedStatus::new(2, 0, 0));
    let mut say = |last: bool, text: &str| {
        reply::write_line(out, 214, status, last, format_args!("{text}"));
    };
    let topic = match argument.trim_end().to_ascii_lowercase() {
        topic if topic.is_empty() => "smtp".to_owned(),
        topic => topic,
    };
    let version = file.lines().find_map(|line| line.strip_prefix("#vers"));
    let expands = version.and_then(|n| n.trim().parse().ok()).is_some_and(|n: u32| n >= 2);
    let lines = file.lines().filter(|line| !line.starts_with('#') && line.starts_with(&topic));
    let mut room = ANSWER_MAX;
    let mut found = false;
    for line in lines {
        if !found && argument.is_empty() && !expands {
            say(false, VERSION);
        }
        found = true;
        let text = line.split_once(['\t', ' ']).map_or("", |(_, text)| text);
        let text = if expands { expanded(text, host) } else { text.to_owned() };
        let Some(left) = room.checked_sub(text.len() + LINE_OVERHEAD) else { break };
        room = left;
        say(false, &text);
    }
    match found {
        true => say(true, "End of HELP info"),
        false => unknown(out, &topic),
    }
}

const VERSION: &str = concat!("This is kvmta version ", env!("CARGO_PKG_VERSION"));

fn expanded(text: &str, host: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '$' {
            out.push(letter);
            continue;
        }
        match letters.next() {
            Some('v') => out.push_str(env!("CARGO_PKG_VERSION")),
            Some('j') => out.push_str(host),
            Some('$') | None => out.push('$'),
            Some(other) => out.extend(['$', other]),
        }
    }
    out
}

fn unknown(out: &mut Vec<u8>, topic: &str) {
    let fit = |c: char| c.is_ascii_graphic() || c == ' ';
    let shown = |c: char| if fit(c) { c.to_ascii_lowercase() } else { '?' };
    let topic: String = topic.chars().take(TOPIC_MAX).map(shown).collect();
    let status = Some(EnhancedStatus::new(5, 3, 0));
    reply::write_line(out, 504, status, true, format_args!("HELP topic \"{topic}\" unknown"));
}
