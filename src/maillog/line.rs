//! One line of the log in the making: no control characters, no more than its length.

use std::fmt::{self, Write};

/// Octets of one line without what syslog puts before it. RFC 3164 gives a packet 1 024.
pub const LINE_MAX: usize = 960;
/// Stands at the end of a line that was cut.
const CUT: &[u8] = b"...";

/// Appends to a buffer and stops when the line is full.
pub(super) struct Line<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    cut: bool,
}

impl<'a> Line<'a> {
    /// A line that begins at the end of `out`.
    pub(super) fn new(out: &'a mut Vec<u8>) -> Line<'a> {
        let start = out.len();
        Line { out, start, cut: false }
    }

    /// Appends as much as fits.
    pub(super) fn put(&mut self, text: fmt::Arguments<'_>) {
        // An error says only that the line is full.
        let _ = self.write_fmt(text);
    }

    /// Ends the line.
    pub(super) fn end(self) {
        if self.cut {
            self.out.extend_from_slice(CUT);
        }
        self.out.push(b'\n');
    }

    fn room(&self) -> usize {
        (LINE_MAX - CUT.len()).saturating_sub(self.out.len() - self.start)
    }

    fn push_char(&mut self, c: char) -> fmt::Result {
        let mut text = [0; 4];
        let text: &str = c.encode_utf8(&mut text);
        let escaped;
        let text = if c.is_control() {
            escaped = escape(c);
            escaped.as_str()
        } else {
            text
        };
        if text.len() > self.room() {
            self.cut = true;
            return Err(fmt::Error);
        }
        self.out.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl Write for Line<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.cut {
            return Err(fmt::Error);
        }
        let plain = text.bytes().all(|b| (b' '..=b'~').contains(&b));
        if plain && text.len() <= self.room() {
            self.out.extend_from_slice(text.as_bytes());
            return Ok(());
        }
        text.chars().try_for_each(|c| self.push_char(c))
    }
}

/// `\015` for CR: three octal digits as sendmail has them, more for the C1 controls.
pub(super) fn escape(c: char) -> String {
    format!("\\{:03o}", u32::from(c))
}

/// A text between fields: blanks are escaped too, so that it ends where it seems to end. A quoted local part may say
/// `, relay=`; the filters that read this log must not believe it.
pub(super) struct Atom<'a>(pub(super) &'a str);

impl fmt::Display for Atom<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some((word, more)) = rest.split_once(' ') {
            f.write_str(word)?;
            f.write_str("\\040")?;
            rest = more;
        }
        f.write_str(rest)
    }
}

/// At most `.1` characters of a text.
pub(super) struct Short<'a>(pub(super) &'a str, pub(super) usize);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(self.1) {
            None => f.write_str(self.0),
            Some((at, _)) => {
                f.write_str(self.0.get(..at).unwrap_or_default())?;
                f.write_str("...")
            }
        }
    }
}
