//! Replies (RFC 5321 4.2, RFC 2034): written by our server, and read from servers that are not trusted.
//!
//! Writing never lets a control character through and never passes 512 octets a line, whatever the text is made of.
//! Reading takes bytes as they come, in pieces of any size, holds at most [`REPLY_MAX`] octets, and gives text that
//! can go to a log or a report as it is: no control characters, valid UTF-8.

use std::fmt::{self, Write as _};

use memchr::memchr;

use crate::mail::status::{EnhancedStatus, Reply};

/// Longest line of a reply we write, CRLF included (RFC 5321 4.5.3.1.5).
pub const REPLY_LINE_MAX: usize = 512;
/// Longest line of a reply we read. RFC 5321 says 512; servers that explain themselves with a URL use more.
pub const REPLY_LINE_READ_MAX: usize = 4096;
/// Most lines of one reply we read: EHLO of the richest server has some thirty.
pub const REPLY_LINES_MAX: usize = 128;
/// Most octets of text kept of one reply. What comes after is checked and dropped.
pub const REPLY_MAX: usize = 16 * 1024;

/// Writes `reply` to `out`, its enhanced status on every line.
pub fn write(reply: &Reply, out: &mut Vec<u8>) {
    let last = reply.lines.len().saturating_sub(1);
    if reply.lines.is_empty() {
        write_line(out, reply.code, reply.enhanced, true, format_args!(""));
    }
    for (n, line) in reply.lines.iter().enumerate() {
        write_line(out, reply.code, reply.enhanced, n == last, format_args!("{line}"));
    }
}

/// Writes one line of a reply: `250-2.1.0 text` or, when it is the `last`, `250 2.1.0 text`.
pub fn write_line(
    out: &mut Vec<u8>,
    code: u16,
    enhanced: Option<EnhancedStatus>,
    last: bool,
    text: fmt::Arguments<'_>,
) {
    let mut line = Clean { limit: out.len() + REPLY_LINE_MAX - 2, out };
    let mark = if last { ' ' } else { '-' };
    // Clean never fails: what does not fit is left out.
    let _ = write!(line, "{code}{mark}");
    if let Some(status) = enhanced {
        let _ = write!(line, "{status} ");
    }
    let _ = line.write_fmt(text);
    out.extend_from_slice(b"\r\n");
}

/// Takes text up to a limit and makes `?` of control characters other than tab.
struct Clean<'a> {
    out: &'a mut Vec<u8>,
    limit: usize,
}

impl fmt::Write for Clean<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.limit.saturating_sub(self.out.len());
        let text = &text[..text.floor_char_boundary(room.min(text.len()))];
        let start = self.out.len();
        self.out.extend_from_slice(text.as_bytes());
        for byte in self.out.iter_mut().skip(start) {
            if (*byte < b' ' && *byte != b'\t') || *byte == 0x7f {
                *byte = b'?';
            }
        }
        Ok(())
    }
}

/// The bytes are not an SMTP reply: nothing more on this connection can be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// No three digits from 2yz to 5yz, or no blank or hyphen after them.
    #[error("not an SMTP reply: {0:?}")]
    Malformed(String),
    /// The lines of one reply have different codes.
    #[error("lines of one reply with codes {0} and {1}")]
    MixedCodes(u16, u16),
    /// Over [`REPLY_LINE_READ_MAX`].
    #[error("reply line of more than {REPLY_LINE_READ_MAX} octets")]
    LineTooLong,
    /// Over [`REPLY_LINES_MAX`].
    #[error("reply of more than {REPLY_LINES_MAX} lines")]
    TooManyLines,
}

/// Reads replies from bytes that come in pieces.
#[derive(Debug, Default)]
pub struct ReplyParser {
    /// A line that has no end yet.
    partial: Vec<u8>,
    /// The lines of a reply whose last line has not come.
    reply: Option<Reply>,
    /// Octets of text in `reply`.
    kept: usize,
}

impl ReplyParser {
    /// At the beginning of a reply.
    pub fn new() -> ReplyParser {
        ReplyParser::default()
    }

    /// Whether no reply is begun: bytes of a peer that come now were not asked for.
    pub fn is_idle(&self) -> bool {
        self.partial.is_empty() && self.reply.is_none()
    }

    /// Takes bytes up to the end of the first complete reply: how many were taken, and that reply. With no reply, all
    /// were taken and more are needed.
    ///
    /// # Errors
    /// [`ReplyError`]; the connection is to be dropped.
    pub fn feed(&mut self, input: &[u8]) -> Result<(usize, Option<Reply>), ReplyError> {
        let mut taken = 0;
        while let Some(end) = memchr(b'\n', &input[taken..]) {
            let part = &input[taken..taken + end];
            taken += end + 1;
            if self.partial.len() + part.len() > REPLY_LINE_READ_MAX {
                return Err(ReplyError::LineTooLong);
            }
            let last = if self.partial.is_empty() {
                self.line(part)?
            } else {
                self.partial.extend_from_slice(part);
                let line = std::mem::take(&mut self.partial);
                self.line(&line)?
            };
            if last {
                self.kept = 0;
                return Ok((taken, self.reply.take()));
            }
        }
        let rest = &input[taken..];
        if self.partial.len() + rest.len() > REPLY_LINE_READ_MAX {
            return Err(ReplyError::LineTooLong);
        }
        self.partial.extend_from_slice(rest);
        Ok((input.len(), None))
    }

    /// One line without its LF; true when it was the last of its reply.
    fn line(&mut self, line: &[u8]) -> Result<bool, ReplyError> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let malformed = || ReplyError::Malformed(printable(&line[..line.len().min(60)]));
        let (digits, rest) = line.split_at_checked(3).ok_or_else(malformed)?;
        let code = match digits {
            [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9'] => {
                digits.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0'))
            }
            _ => return Err(malformed()),
        };
        let last = match rest.first() {
            None | Some(b' ') => true,
            Some(b'-') => false,
            Some(_) => return Err(malformed()),
        };
        let text = printable(rest.get(1..).unwrap_or_default());
        let (status, text) = match EnhancedStatus::split_from(&text) {
            // RFC 2034 4: a status of another class than the code's means nothing.
            (Some(status), rest) if u16::from(status.parts().0) == code / 100 => {
                (Some(status), rest.to_owned())
            }
            _ => (None, text),
        };
        self.keep(code, status, text)?;
        Ok(last)
    }

    fn keep(
        &mut self,
        code: u16,
        status: Option<EnhancedStatus>,
        text: String,
    ) -> Result<(), ReplyError> {
        self.kept += text.len();
        match &mut self.reply {
            None => self.reply = Some(Reply::new(code, status, text)),
            Some(reply) if reply.code != code => {
                return Err(ReplyError::MixedCodes(reply.code, code));
            }
            Some(reply) if reply.lines.len() == REPLY_LINES_MAX => {
                return Err(ReplyError::TooManyLines);
            }
            Some(reply) => {
                reply.lines.push(if self.kept > REPLY_MAX { String::new() } else { text });
            }
        }
        Ok(())
    }
}

/// As text for people: what is not UTF-8 or a control character becomes `?`.
pub fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() || c == char::REPLACEMENT_CHARACTER => '?',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(reply: &Reply) -> String {
        let mut out = Vec::new();
        write(reply, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// The replies in `input`, given whole and one byte at a time.
    fn read(input: &[u8]) -> Result<Vec<String>, ReplyError> {
        let mut answers = [1, input.len().max(1)].map(|size| {
            let (mut parser, mut replies) = (ReplyParser::new(), Vec::new());
            for chunk in input.chunks(size) {
                let mut rest = chunk;
                while !rest.is_empty() {
                    let (taken, reply) = parser.feed(rest)?;
                    rest = &rest[taken..];
                    replies.extend(reply.map(|reply| reply.to_string()));
                }
            }
            Ok(replies)
        });
        assert_eq!(answers[0], answers[1], "split and whole input must agree");
        std::mem::replace(&mut answers[0], Ok(Vec::new()))
    }

    #[test]
    fn writes_every_line_with_its_status() {
        let status = Some(EnhancedStatus::new(2, 0, 0));
        let mut reply = Reply::new(214, status, "a");
        reply.lines.push("b\r\nX".into());
        assert_eq!(written(&reply), "214-2.0.0 a\r\n214 2.0.0 b??X\r\n");
        reply.lines = vec!["é".repeat(600)];
        assert!(written(&reply).len() <= REPLY_LINE_MAX && written(&reply).ends_with("é\r\n"));
        reply.lines.clear();
        assert_eq!(written(&reply), "214 2.0.0 \r\n");
    }

    #[test]
    fn reads_what_servers_send() {
        assert_eq!(read(b"220 hi\r\n250-a\r\n250 b\r\n").unwrap(), ["220 hi", "250 a b"]);
        assert_eq!(read(b"550-5.1.1 <x>... No\n550\n").unwrap(), ["550 5.1.1 <x>... No"]);
        assert_eq!(read(b"250 5.1.1 ok\r\n").unwrap(), ["250 5.1.1 ok"]);
        assert_eq!(read(b"250 a\x00\xff\x1b[m\r\n").unwrap(), ["250 a???[m"]);
    }

    #[test]
    fn refuses_what_is_no_reply() {
        for bad in
            ["\r\n", "25\r\n", "2x0 a\r\n", "850 a\r\n", "100 a\r\n", "250_a\r\n", "HTTP/1.1\n"]
        {
            assert!(matches!(read(bad.as_bytes()), Err(ReplyError::Malformed(_))), "{bad:?}");
        }
        assert_eq!(read(b"250-a\r\n550 b\r\n"), Err(ReplyError::MixedCodes(250, 550)));
        assert_eq!(read(&b"250-a\r\n".repeat(200)), Err(ReplyError::TooManyLines));
        assert_eq!(read(&[b'2'; 10_000]), Err(ReplyError::LineTooLong));
        let long = [b"250-".as_slice(), &[b'x'; 4000], b"\r\n"].concat().repeat(100);
        let mut parser = ReplyParser::new();
        assert_eq!(parser.feed(&long), Ok((long.len(), None)));
        let kept: usize = parser.reply.iter().flat_map(|r| &r.lines).map(String::len).sum();
        assert!(kept <= REPLY_MAX);
    }

    proptest! {
        #[test]
        fn reads_back_what_it_wrote(
            code in prop_oneof![200u16..300, 400u16..600],
            lines in proptest::collection::vec("[a-zA-Z<>@ ]{0,40}", 1..5),
        ) {
            let reply = Reply { code, enhanced: Some(EnhancedStatus::new((code / 100) as u8, 1, 0)), lines };
            let (_, read) = ReplyParser::new().feed(written(&reply).as_bytes()).unwrap();
            let read = read.unwrap();
            prop_assert_eq!(&read.lines, &reply.lines);
            prop_assert_eq!(read.code, code);
        }

        #[test]
        fn never_panics(
            bytes in proptest::collection::vec(
                prop_oneof![proptest::sample::select(b"25- \r\n".to_vec()), any::<u8>()],
                0..200,
            ),
        ) {
            let _ = read(&bytes);
        }
    }
}
