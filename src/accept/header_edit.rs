//! What options change in a header while it streams by: SingleLineFromHeader, RrtImpliesDsn, NoRecipientAction.
//!
//! sendmail does these in collecting a message, to all mail, whoever brings it. [`HeaderEdit`] takes the octets of a message in
//! pieces of any size and gives them back changed; it keeps at most the start of one line, and the body passes as it is. In the
//! header, too, nothing changes but: line ends inside originator fields become blanks; receipt fields go (the request stands in
//! the envelope then); a field for recipients comes behind the last one when there is none.
//!
//! The header must end in a blank line, which the server sets where it is missing.

use crate::config::{Config, NoRecipientAction};
use crate::mail::address::Address;
use crate::mail::header::NAME_MAX;

/// Recipients that a field of ours names at most: as many as every server takes (RFC 5321 4.5.3.1.8). A message for more gets
/// [`UNDISCLOSED`]: a list of all would be of no use to any.
pub(super) const NAMED_MAX: usize = 100;
/// The group without members of NoRecipientAction=add-to-undisclosed.
pub(super) const UNDISCLOSED: &str = "undisclosed-recipients:;";
/// Fields that name recipients: a header with one of them gets none of ours.
pub(super) const RECIPIENT_FIELDS: [&str; 4] = ["To", "Cc", "Bcc", "Apparently-To"];
/// The originator fields of sendmail, which SingleLineFromHeader is about.
const ORIGINATOR_FIELDS: [&str; 7] = [
    "From",
    "Sender",
    "Reply-To",
    "Resent-From",
    "Resent-Sender",
    "Errors-To",
    "Disposition-Notification-To",
];
const RECEIPT: &str = "Return-Receipt-To";
/// Fields that ask for a receipt, which RrtImpliesDsn takes out.
const RECEIPT_FIELDS: [&str; 2] = [RECEIPT, "Delivery-Receipt-To"];

/// A header on its way through.
#[derive(Debug)]
pub(super) struct HeaderEdit {
    one_line: bool,
    receipts: bool,
    /// The field to add, unless one of its kind goes by.
    missing: Option<Vec<u8>>,
    asks_for_receipts: bool,
    /// Octets that cannot be judged yet: the start of a line.
    held: Vec<u8>,
    place: Place,
    added: u64,
    taken: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// Before the first line.
    Start,
    /// In a line of such a field.
    Line(Kind),
    /// Behind a line of it, whose line end is withheld.
    LineEnd(Kind),
    /// After the blank line.
    Body,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Passes as it is.
    Plain,
    /// Goes on one line.
    OneLine,
    /// Goes.
    Dropped,
}

impl HeaderEdit {
    /// For a message that comes for `recipients`; none when no option asks for a change. Of more than [`NAMED_MAX`] recipients it is
    /// enough to name one more.
    pub(super) fn new(config: &Config, recipients: Vec<Address>) -> Option<HeaderEdit> {
        let named = || match recipients.len() {
            1..=NAMED_MAX => {
                recipients.iter().map(Address::as_str).collect::<Vec<_>>().join(",\r\n\t")
            }
            _ => UNDISCLOSED.to_owned(),
        };
        let missing = match config.no_recipient_action {
            NoRecipientAction::None => None,
            NoRecipientAction::AddTo => Some(format!("To: {}\r\n", named())),
            NoRecipientAction::AddApparentlyTo => match recipients.len() {
                1..=NAMED_MAX => Some(format!("Apparently-To: {}\r\n", named())),
                _ => Some(format!("To: {UNDISCLOSED}\r\n")),
            },
            NoRecipientAction::AddBcc => Some("Bcc: \r\n".to_owned()),
            NoRecipientAction::AddToUndisclosed => Some(format!("To: {UNDISCLOSED}\r\n")),
        };
        HeaderEdit::with(config, missing.map(String::into_bytes))
    }

    /// For fields alone: what to add is somebody else's care.
    pub(super) fn of_fields(config: &Config) -> Option<HeaderEdit> {
        HeaderEdit::with(config, None)
    }

    fn with(config: &Config, missing: Option<Vec<u8>>) -> Option<HeaderEdit> {
        let (one_line, receipts) = (config.single_line_from_header, config.rrt_implies_dsn);
        (one_line || receipts || missing.is_some()).then_some(HeaderEdit {
            one_line,
            receipts,
            missing,
            asks_for_receipts: false,
            held: Vec::new(),
            place: Place::Start,
            added: 0,
            taken: 0,
        })
    }

    /// Octets that came to the header by now.
    pub(super) fn added(&self) -> u64 {
        self.added
    }

    /// Octets that went from it.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether Return-Receipt-To: went by, and RrtImpliesDsn is set.
    pub(super) fn asks_for_receipts(&self) -> bool {
        self.asks_for_receipts
    }

    /// The next octets: what to pass on of them by now, maybe nothing.
    pub(super) fn feed(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        if self.place == Place::Body {
            return bytes;
        }
        let bytes = match self.held.is_empty() {
            true => bytes,
            false => [std::mem::take(&mut self.held), bytes].concat(),
        };
        let mut out = Vec::with_capacity(bytes.len() + 64);
        let mut rest = bytes.as_slice();
        while let Some(used) = self.step(rest, &mut out) {
            rest = rest.get(used..).unwrap_or_default();
        }
        match self.place {
            Place::Body => out.extend_from_slice(rest),
            Place::Start | Place::Line(_) | Place::LineEnd(_) => self.held = rest.to_vec(),
        }
        out
    }

    /// Takes something from the front of `rest`; none when more is needed, or the header is over.
    fn step(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        match self.place {
            Place::Body => None,
            Place::Line(kind) => self.line(kind, rest, out),
            Place::Start => self.line_start(None, rest, out),
            Place::LineEnd(kind) => self.line_start(Some(kind), rest, out),
        }
    }

    fn line(&mut self, kind: Kind, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let (text, used) = match memchr::memmem::find(rest, b"\r\n") {
            Some(end) => {
                self.place = Place::LineEnd(kind);
                (rest.get(..end)?, end + 2)
            }
            // A CR may be the first half of a line end.
            None => {
                let text = rest.strip_suffix(b"\r").unwrap_or(rest);
                (text, text.len())
            }
        };
        match kind {
            Kind::Plain | Kind::OneLine => out.extend_from_slice(text),
            Kind::Dropped => self.taken += text.len() as u64,
        }
        (used > 0).then_some(used)
    }

    /// At the start of a line behind one of `before`.
    fn line_start(
        &mut self,
        before: Option<Kind>,
        rest: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        let first = rest.first()?;
        if let (Some(kind), b' ' | b'\t') = (before, first) {
            match kind {
                Kind::Plain => out.extend_from_slice(b"\r\n"),
                Kind::OneLine => {
                    out.push(b' ');
                    self.taken += 1;
                }
                Kind::Dropped => self.taken += 2,
            }
            self.place = Place::Line(kind);
            return Some(0);
        }
        let is_blank = match rest {
            [b'\r', b'\n', ..] => true,
            [b'\r'] => return None,
            _ => false,
        };
        let start = rest.get(..rest.len().min(NAME_MAX)).unwrap_or(rest);
        let end = start.iter().position(|b| matches!(b, b':' | b'\r' | b'\n'));
        if end.is_none() && start.len() < NAME_MAX {
            return None;
        }
        match before {
            Some(Kind::Plain | Kind::OneLine) => out.extend_from_slice(b"\r\n"),
            Some(Kind::Dropped) => self.taken += 2,
            None => {}
        }
        if is_blank {
            if let Some(field) = self.missing.take() {
                self.added += field.len() as u64;
                out.extend_from_slice(&field);
            }
            out.extend_from_slice(b"\r\n");
            self.place = Place::Body;
            return Some(2);
        }
        let name = end.and_then(|end| start.get(..end)).unwrap_or_default().trim_ascii_end();
        let kind = self.begin(name);
        self.place = Place::Line(kind);
        self.line(kind, rest, out)
    }

    /// A field of this name begins.
    fn begin(&mut self, name: &[u8]) -> Kind {
        let is_one_of =
            |names: &[&str]| names.iter().any(|n| name.eq_ignore_ascii_case(n.as_bytes()));
        if is_one_of(&RECIPIENT_FIELDS) {
            self.missing = None;
        }
        self.asks_for_receipts |= self.receipts && is_one_of(&[RECEIPT]);
        if self.receipts && is_one_of(&RECEIPT_FIELDS) {
            Kind::Dropped
        } else if self.one_line && is_one_of(&ORIGINATOR_FIELDS) {
            Kind::OneLine
        } else {
            Kind::Plain
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(one_line: bool, receipts: bool, action: NoRecipientAction) -> Config {
        Config {
            single_line_from_header: one_line,
            rrt_implies_dsn: receipts,
            no_recipient_action: action,
            ..Config::default()
        }
    }

    fn to(count: usize) -> Vec<Address> {
        (0..count).map(|n| format!("u{n}@b.example").parse().unwrap()).collect()
    }

    /// What comes out of a message that comes in pieces of `size`.
    fn edit(config: &Config, count: usize, message: &[u8], size: usize) -> (Vec<u8>, bool) {
        let Some(mut edit) = HeaderEdit::new(config, to(count)) else {
            return (message.to_vec(), false);
        };
        let mut out = Vec::new();
        for piece in message.chunks(size) {
            out.extend(edit.feed(piece.to_vec()));
            assert!(edit.held.len() <= NAME_MAX + 2, "what is held is bounded");
        }
        assert_eq!(out.len() as u64, message.len() as u64 + edit.added() - edit.taken());
        (out, edit.asks_for_receipts())
    }

    fn edited(config: &Config, count: usize, message: &str) -> String {
        let whole = edit(config, count, message.as_bytes(), message.len());
        for size in 1..message.len() {
            let pieces = edit(config, count, message.as_bytes(), size);
            assert_eq!(pieces, whole, "{message:?} in pieces of {size}");
        }
        String::from_utf8(whole.0).unwrap()
    }

    #[test]
    fn originator_fields_come_on_one_line() {
        let config = config(true, false, NoRecipientAction::None);
        assert_eq!(
            edited(
                &config,
                1,
                "To: a,\r\n b\r\nFROM : Ann\r\n\tBee\r\n  <a@x>\r\nReply-To:\r\n b@x\r\n\r\nFrom: a\r\n b\r\n"
            ),
            "To: a,\r\n b\r\nFROM : Ann \tBee   <a@x>\r\nReply-To:  b@x\r\n\r\nFrom: a\r\n b\r\n"
        );
    }

    #[test]
    fn receipt_fields_go_and_are_told() {
        let config = config(false, true, NoRecipientAction::None);
        let message =
            "A: b\r\nReturn-Receipt-To: a@x,\r\n b@x\r\nDelivery-Receipt-To: c\r\nB: c\r\n\r\nbody";
        assert_eq!(edited(&config, 1, message), "A: b\r\nB: c\r\n\r\nbody");
        assert!(edit(&config, 1, message.as_bytes(), 7).1);
        assert!(!edit(&config, 1, b"A: b\r\n\r\nReturn-Receipt-To: a\r\n", 3).1);
        let last = "Return-Receipt-To: a\r\n\r\n";
        assert_eq!(edited(&config, 1, last), "\r\n");
    }

    #[test]
    fn a_header_without_recipients_gets_some() {
        use NoRecipientAction::*;
        for (action, count, field) in [
            (AddTo, 1, "To: u0@b.example\r\n"),
            (AddTo, 2, "To: u0@b.example,\r\n\tu1@b.example\r\n"),
            (AddTo, NAMED_MAX + 1, "To: undisclosed-recipients:;\r\n"),
            (AddApparentlyTo, 1, "Apparently-To: u0@b.example\r\n"),
            (AddApparentlyTo, NAMED_MAX + 1, "To: undisclosed-recipients:;\r\n"),
            (AddBcc, 1, "Bcc: \r\n"),
            (AddToUndisclosed, 1, "To: undisclosed-recipients:;\r\n"),
            (None, 1, ""),
        ] {
            let config = config(false, false, action);
            let header = "Subject: x\r\n y\r\nResent-To: a\r\n";
            assert_eq!(
                edited(&config, count, &format!("{header}\r\nTo: body\r\n")),
                format!("{header}{field}\r\nTo: body\r\n"),
            );
            assert_eq!(edited(&config, count, "\r\nbody"), format!("{field}\r\nbody"));
            for name in ["to", "CC", "Bcc ", "Apparently-To"] {
                let message = format!("{name}: a\r\n\r\n");
                assert_eq!(edited(&config, count, &message), message);
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_else_changes(text in "([A-Za-z:]{0,4}|\r\n|From:|Cc:|[ \t\\PC]){0,40}", size in 1usize..30) {
            let message = format!("{text}\r\n\r\nbody\r\n");
            let all = config(true, true, NoRecipientAction::AddBcc);
            let whole = edit(&all, 1, message.as_bytes(), message.len());
            prop_assert_eq!(edit(&all, 1, message.as_bytes(), size), whole);
            let none = config(false, false, NoRecipientAction::AddBcc);
            let (out, _) = edit(&none, 1, message.as_bytes(), size);
            let mut out = String::from_utf8(out).unwrap();
            if out.len() > message.len() {
                out = out.replacen("Bcc: \r\n", "", 1);
            }
            prop_assert_eq!(out, message);
        }
    }
}
