//! sendmail's queue files: the control file `qf` (held `hf`, lost `Qf`) and the body file `df`, versions 0 to 8.
//!
//! The law is the grammar of the control file as sendmail 8.18 reads it; version 8 is what 8.12 and later write, 6 and 7 are
//! those of 8.10 and 8.11, which lack some of its letters and have none of their own. A file without its final dot, with an unknown
//! letter or with something behind the dot is refused, as sendmail refuses it.
//!
//! What becomes of each line: `V T K N P B q M F S Z Q R H .` as [`Head`], recipients and header; `$r` and `$_` name protocol
//! and relay; other macros only decide about `H?${x}?` lines; `d` names the place of the body. `A` (AUTH=), `!` (DELIVERBY) and
//! `C` (controlling user) become [`Extras`](super::unkept::Extras). `r`, `I`, `D`, `E`, `L` are read and dropped, as sendmail
//! does with all but the first, which it makes anew. A recipient that is a program, a file or an :include: refuses the message. Of
//! `H?flags?` lines those are kept that sendmail's SMTP mailers would send.

use std::io::{self, BufRead, Read};

use super::content::Content;
use super::unkept::{GivenBy, auth_of, deliver_by_of};
use super::{
    Fault, Head, Parts, Sent, Unreadable, check_id, envid_of, orcpt_of, state_of, text_of, time_of,
};
use crate::mail::address::{Address, ReversePath};
use crate::mail::address_list::{self, Style};
use crate::mail::envelope::{Notify, Recipient, Ret};
use crate::mail::time::Timestamp;

/// Longest line with its continuations: a header field of a megabyte is one.
const LINE_MAX: usize = 2 << 20;
/// Longest line that is no header field: an address or a reason with everything around it.
const FIELD_MAX: usize = 16 << 10;
/// The newest version sendmail has.
const VERSION_MAX: u32 = 8;
/// Macros with a value that are remembered: `H?${x}?` asks for them. sendmail keeps a handful.
const MACROS_MAX: usize = 64;
/// Flags of sendmail's SMTP mailers (`F=mDFMuXa8`): header fields with one of these go out.
const MAILER_FLAGS: &[u8] = b"mDFMuXa8";

/// What the name of a control file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `qf`
    Queued,
    /// `hf`: quarantined.
    Held,
    /// `Qf`: set aside by sendmail as lost.
    Lost,
}

impl Kind {
    /// Kind and queue ID of a control file's name; none for any other file.
    pub fn of(name: &str) -> Option<(Kind, &str)> {
        match name.split_at_checked(2)? {
            ("qf", id) => Some((Kind::Queued, id)),
            ("hf", id) => Some((Kind::Held, id)),
            ("Qf", id) => Some((Kind::Lost, id)),
            _ => None,
        }
    }
}

/// What a control file says, but for recipients and header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Control {
    /// Of the message.
    pub head: Head,
    /// The queue directory of the body, when it is another one (`d`).
    pub body_directory: Option<String>,
    version: u32,
    /// Bcc: is not to be sent.
    delete_bcc: bool,
    macros: Vec<String>,
}

/// One line of a control file.
enum Line<'a> {
    Version(u32),
    Arrival(u64),
    Last(u64),
    Count(u32),
    Priority(i64),
    Directory(&'a str),
    EightBit(bool),
    Quarantine(&'a [u8]),
    Status(&'a [u8]),
    Flags(&'a str),
    Macro(&'a str, &'a [u8]),
    Sender(&'a str),
    Envid(&'a str),
    Auth(String),
    GivenBy(GivenBy),
    Controlling,
    Orcpt(&'a str),
    Recipient(&'a str),
    Header(&'a [u8]),
    End,
    /// Known, and nothing to us.
    Dropped,
}

/// Reads a control file to its end.
///
/// # Errors
/// The line that cannot be read, and why.
pub fn scan(
    input: &mut dyn BufRead,
    id: &str,
    kind: Kind,
    now: Timestamp,
) -> Result<Control, Unreadable> {
    check_id(id)?;
    let mut control = Control {
        head: Head::new(id),
        body_directory: None,
        version: 0,
        delete_bcc: false,
        macros: Vec::new(),
    };
    let (mut has_sender, mut arrival, mut is_report, mut sender) = (false, None, false, None);
    let mut lines = Lines::new(input);
    while let Some(line) = lines.next()? {
        let head = &mut control.head;
        match line.parsed {
            Line::Version(version) if version > VERSION_MAX => {
                return Err(line.wrong(format!("unsupported queue file version {version}")));
            }
            Line::Version(version) => control.version = version,
            Line::Arrival(secs) => arrival = Some(time_of(secs, now)),
            Line::Last(0) => {}
            Line::Last(secs) => head.attempts.last = Some(time_of(secs, now)),
            Line::Count(count) => head.attempts.count = count,
            Line::Priority(priority) => head.priority = Some(priority),
            Line::Directory(directory) => control.body_directory = Some(directory.to_owned()),
            Line::EightBit(eight_bit) => head.eight_bit |= eight_bit,
            Line::Quarantine(reason) => head.held = Some(text_of(reason)),
            Line::Status(text) if !has_sender => {
                head.attempts.status = Some(text_of(text)).filter(|text| !text.is_empty());
            }
            Line::Status(_) | Line::Orcpt(_) | Line::Dropped => {}
            Line::Flags(flags) => {
                head.warned = flags.contains('w');
                is_report = flags.contains('r');
                head.smtputf8 = flags.contains('e');
                control.delete_bcc = flags.contains('b');
                head.ret = match (flags.contains('d'), flags.contains('n')) {
                    (true, true) => Some(Ret::Headers),
                    (true, false) => Some(Ret::Full),
                    (false, _) => None,
                };
            }
            Line::Macro("r", value) => head.protocol = text_of(value),
            Line::Macro("_", value) => head.relay = text_of(value),
            Line::Macro(name, value) => {
                if !value.is_empty() && control.macros.len() < MACROS_MAX {
                    control.macros.push(name.to_owned());
                }
            }
            Line::Sender(text) => {
                has_sender = true;
                sender = Some((text.to_owned(), line.number));
            }
            Line::Envid(text) => {
                head.envid = Some(envid_of(text).map_err(|reason| line.wrong(reason))?);
            }
            Line::Recipient(text) => {
                recipient_of(text, control.version).map_err(|reason| line.wrong(reason))?;
                head.recipients = head.recipients.saturating_add(1);
            }
            Line::Auth(auth) => head.extras.auth = Some(auth),
            Line::GivenBy(by) => head.extras.deliver_by = Some(by),
            Line::Controlling => head.extras.has_controlling_users = true,
            Line::Header(_) => {}
            Line::End => {}
        }
    }
    let head = &mut control.head;
    head.arrival = arrival.ok_or_else(|| Unreadable::whole("no time of submission (T line)"))?;
    head.is_report = is_report;
    let (sender, number) = sender.ok_or_else(|| Unreadable::whole("no sender (S line)"))?;
    head.reverse_path = sender_of(&sender).map_err(|reason| at_line(number, reason))?;
    if head.recipients == 0 {
        return Err(Unreadable::whole("no recipients (R lines): sendmail is through with it"));
    }
    head.held = match (kind, head.held.take()) {
        (Kind::Queued, reason) => reason,
        (Kind::Held, reason) => Some(reason.unwrap_or_else(|| "quarantined by sendmail".into())),
        (Kind::Lost, reason) => {
            let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
            Some(format!("set aside as lost by sendmail{reason}"))
        }
    };
    control.head = control.head.named("sendmail", None);
    Ok(control)
}

/// Hands recipients, header and body on. `input` is what [`scan`] read, from its start.
///
/// # Errors
/// [`Fault`]; nothing is to be loaded then.
pub fn send(
    control: &Control,
    input: &mut dyn BufRead,
    body: &mut dyn Read,
    parts: &mut dyn Parts,
) -> Result<Sent, Fault> {
    let head = &control.head;
    let at = head.attempts.last.unwrap_or(head.arrival);
    let mut content = Content::new(parts);
    let (mut has_sender, mut status, mut orcpt) = (false, None, None);
    let mut lines = Lines::new(input);
    while let Some(line) = lines.next()? {
        match line.parsed {
            Line::Sender(_) => has_sender = true,
            Line::Status(text) if has_sender => status = Some(text_of(text)),
            Line::Orcpt(text) => {
                orcpt = Some(orcpt_of(text).map_err(|reason| line.wrong(reason))?);
            }
            Line::Recipient(text) => {
                let (address, notify) =
                    recipient_of(text, control.version).map_err(|reason| line.wrong(reason))?;
                let state = state_of(status.take().as_deref(), at);
                let recipient = Recipient { address, orcpt: orcpt.take(), notify, state };
                content.parts().recipient(recipient).map_err(Fault::Lost)?;
            }
            Line::Header(field) => {
                let field = header_of(control, field).map_err(|reason| line.wrong(reason))?;
                if let Some(field) = field {
                    content.push(field)?;
                    content.push(b"\n")?;
                    if content.is_without_blank() {
                        return Err(line.wrong("a header line that is no field").into());
                    }
                }
            }
            _ => {}
        }
    }
    content.push(b"\n")?;
    let mut block = vec![0; 64 << 10];
    loop {
        match body.read(&mut block) {
            Ok(0) => break,
            Ok(length) => content.push(&block[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Unreadable::whole(format!("its body: {error}")).into()),
        }
    }
    content.finish(head)
}

/// The field of an `H` line, or none when sendmail's SMTP mailers would not send it.
fn header_of<'a>(control: &Control, text: &'a [u8]) -> Result<Option<&'a [u8]>, &'static str> {
    let Some(rest) = text.strip_prefix(b"?") else { return Ok(Some(text)) };
    let end = memchr::memchr(b'?', rest).ok_or("flags of a header line that do not end")?;
    let (flags, field) = (&rest[..end], &rest[end + 1..]);
    let condition = flags.strip_prefix(b"${").and_then(|name| name.strip_suffix(b"}"));
    let goes = match condition {
        Some(name) => control.macros.iter().any(|known| known.as_bytes() == name),
        None => flags.is_empty() || flags.iter().any(|flag| MAILER_FLAGS.contains(flag)),
    };
    let is_bcc = field.get(..4).is_some_and(|name| name.eq_ignore_ascii_case(b"bcc:"));
    Ok((goes && !(is_bcc && control.delete_bcc)).then_some(field))
}

/// The reverse-path of an `S` line.
fn sender_of(text: &str) -> Result<ReversePath, String> {
    // A report of sendmail's own has the empty path; some versions wrote its other name.
    if ["", "<>"].contains(&text.trim()) || text.trim_matches(['<', '>']) == "MAILER-DAEMON" {
        return Ok(ReversePath::Null);
    }
    address_of(text).map(ReversePath::Mailbox)
}

/// Address and NOTIFY of an `R` line: `PFD:<user@host>`; before version 1 the address alone.
fn recipient_of(text: &str, version: u32) -> Result<(Address, Notify), String> {
    let (flags, address) = match version {
        0 => ("", text),
        _ => text.split_once(':').ok_or("a recipient without flags")?,
    };
    if !flags.bytes().all(|flag| flag.is_ascii_alphabetic()) {
        return Err("flags of a recipient that are no letters".into());
    }
    let has = |flag| flags.contains(flag);
    let notify = match (has('N'), has('S') || has('F') || has('D')) {
        (false, _) => Notify::Unspecified,
        (true, false) => Notify::Never,
        (true, true) => Notify::On { success: has('S'), failure: has('F'), delay: has('D') },
    };
    Ok((address_of(address)?, notify))
}

/// One address, in any of the forms that sendmail keeps: with brackets, bare, with a name and comments.
fn address_of(text: &str) -> Result<Address, String> {
    let inner = text.trim().trim_start_matches(['"', '<']);
    let no_mailbox = inner.starts_with('|')
        || inner.starts_with(":include:")
        || (inner.starts_with('/') && !inner.contains('@'));
    if no_mailbox {
        return Err(format!(
            "{} is a program, a file or a list, which kvmta does not deliver to",
            text_of(text.as_bytes())
        ));
    }
    let plain = inner.strip_suffix('>').unwrap_or(inner);
    if let Ok(address) = text.trim().parse::<Address>() {
        return Ok(address);
    }
    if text.trim().starts_with('<')
        && let Ok(address) = plain.parse::<Address>()
    {
        return Ok(address);
    }
    let mut found = address_list::addresses(text, Style::default()).into_iter();
    match (found.next(), found.next()) {
        (Some(Ok(address)), None) => Ok(address),
        (Some(Err((text, error))), _) => Err(format!("{}... {error}", text_of(text.as_bytes()))),
        _ => Err(format!("{}... is not one address", text_of(text.as_bytes()))),
    }
}

// --- lines -----------------------------------------------------------------------------------------------------------

/// Lines with their continuations, numbered, up to the final dot.
struct Lines<'a> {
    input: &'a mut dyn BufRead,
    buffer: Vec<u8>,
    number: u64,
    ended: bool,
}

struct Numbered<'a> {
    number: u64,
    parsed: Line<'a>,
}

impl Numbered<'_> {
    fn wrong(&self, reason: impl Into<String>) -> Unreadable {
        at_line(self.number, reason)
    }
}

fn at_line(number: u64, reason: impl Into<String>) -> Unreadable {
    Unreadable { place: format!("line {number}"), reason: reason.into() }
}

impl<'a> Lines<'a> {
    fn new(input: &'a mut dyn BufRead) -> Lines<'a> {
        Lines { input, buffer: Vec::new(), number: 0, ended: false }
    }

    /// The next one; none after the final dot, if nothing follows.
    fn next(&mut self) -> Result<Option<Numbered<'_>>, Unreadable> {
        self.buffer.clear();
        let number = self.number + 1;
        let wrong = |reason: String| at_line(number, reason);
        if !self.physical(&wrong)? {
            return match self.ended {
                true => Ok(None),
                false => Err(wrong("the file ends without its final dot: it is not whole".into())),
            };
        }
        if self.ended {
            return Err(wrong("extra data behind the final dot".into()));
        }
        while matches!(self.peek(&wrong)?, Some(b' ' | b'\t')) {
            self.buffer.push(b'\n');
            self.physical(&wrong)?;
        }
        let parsed = parse(&self.buffer).map_err(|reason| at_line(number, reason))?;
        self.ended = matches!(parsed, Line::End);
        Ok(Some(Numbered { number, parsed }))
    }

    fn peek(&mut self, wrong: &dyn Fn(String) -> Unreadable) -> Result<Option<u8>, Unreadable> {
        let ahead = self.input.fill_buf().map_err(|error| wrong(error.to_string()))?;
        Ok(ahead.first().copied())
    }

    /// Appends one line without its LF; false at the end of the file.
    fn physical(&mut self, wrong: &dyn Fn(String) -> Unreadable) -> Result<bool, Unreadable> {
        let room = (LINE_MAX + 1).saturating_sub(self.buffer.len());
        let before = self.buffer.len();
        let mut limited = (&mut *self.input).take(room as u64);
        let read = limited.read_until(b'\n', &mut self.buffer);
        read.map_err(|error| wrong(error.to_string()))?;
        self.number += 1;
        if self.buffer.last() == Some(&b'\n') && self.buffer.len() > before {
            self.buffer.pop();
            return Ok(true);
        }
        if self.buffer.len() > LINE_MAX {
            return Err(wrong(format!("a line of more than {LINE_MAX} octets")));
        }
        // A last line without LF is half of one, unless it is the dot.
        Ok(self.buffer.len() > before)
    }
}

fn parse(line: &[u8]) -> Result<Line<'_>, String> {
    let Some((&letter, value)) = line.split_first() else { return Err("an empty line".into()) };
    if letter == b'H' {
        return Ok(Line::Header(value));
    }
    if line == b"." {
        return Ok(Line::End);
    }
    if line.len() > FIELD_MAX {
        return Err(format!("a line of more than {FIELD_MAX} octets that is no header field"));
    }
    if b"rIDEL".contains(&letter) {
        return Ok(Line::Dropped);
    }
    if letter == b'!' {
        return Ok(Line::GivenBy(deliver_by_of(value)?));
    }
    if value.contains(&0) {
        return Err("a zero octet".into());
    }
    let text =
        || std::str::from_utf8(value).map_err(|_| "octets that are no text in UTF-8".to_owned());
    Ok(match letter {
        b'V' => Line::Version(number(text()?)?),
        b'T' => Line::Arrival(number(text()?)?),
        b'K' => Line::Last(number(text()?)?),
        b'N' => Line::Count(number(text()?)?),
        b'P' => Line::Priority(number(text()?)?),
        b'd' => Line::Directory(text()?),
        b'B' => match text()? {
            "8BITMIME" => Line::EightBit(true),
            "7BIT" => Line::EightBit(false),
            _ => return Err("a body type that is neither 7BIT nor 8BITMIME".into()),
        },
        b'q' => Line::Quarantine(value),
        b'M' => Line::Status(value),
        b'F' if value.starts_with(b"rom ") => return Err("a line of a mailbox".into()),
        b'F' => Line::Flags(text()?),
        b'$' => macro_of(value)?,
        b'S' => Line::Sender(text()?),
        b'Z' => Line::Envid(text()?),
        b'A' => Line::Auth(auth_of(text()?)?),
        // Bare, or without a user and an alias, it ends those before.
        b'C' if value.iter().all(|b| b.is_ascii_digit() || *b == b':') => Line::Dropped,
        b'C' => Line::Controlling,
        b'Q' => Line::Orcpt(text()?),
        b'R' => Line::Recipient(text()?),
        _ => return Err(format!("unrecognized line {:?}", text_of(&line[..line.len().min(40)]))),
    })
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|_| format!("{:?} is no number here", text_of(text.as_bytes())))
}

/// `rESMTP`, `{daemon_flags}c u`.
fn macro_of(value: &[u8]) -> Result<Line<'_>, String> {
    let nameless = || "a macro without a name".to_owned();
    let (name, value) = match value.strip_prefix(b"{") {
        Some(rest) => {
            let end = memchr::memchr(b'}', rest).ok_or_else(nameless)?;
            (&rest[..end], &rest[end + 1..])
        }
        None => value.split_at_checked(1).ok_or_else(nameless)?,
    };
    match std::str::from_utf8(name) {
        Ok(name) => Ok(Line::Macro(name, value)),
        // One octet above 127 is the internal name of a long one: of no use here.
        Err(_) => Ok(Line::Dropped),
    }
}
