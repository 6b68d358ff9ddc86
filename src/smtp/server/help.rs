//! The answers to HELP.

use crate::mail::status::EnhancedStatus;
use crate::smtp::reply;

/// Topic, and what is said to it.
const TOPICS: [(&str, &[&str]); 14] = [
    ("HELO", &["HELO <host>", "\tTells your name, and asks for plain SMTP."]),
    ("EHLO", &["EHLO <host>", "\tTells your name, and asks what extensions there are."]),
    (
        "MAIL",
        &[
            "MAIL FROM:<sender> [ <parameters> ]",
            "\tBegins a message. Parameters: SIZE, BODY, SMTPUTF8, RET, ENVID.",
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
        say(false, concat!("This is kvmta version ", env!("CARGO_PKG_VERSION")));
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
        let topic: String = argument
            .chars()
            .take(40)
            .map(|c| if c.is_ascii_graphic() || c == ' ' { c.to_ascii_lowercase() } else { '?' })
            .collect();
        let status = Some(EnhancedStatus::new(5, 3, 0));
        let text = format_args!("HELP topic \"{topic}\" unknown");
        return reply::write_line(out, 504, status, true, text);
    }
    say(true, "End of HELP info");
}
