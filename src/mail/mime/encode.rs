//! Quoted-printable and base64 (RFC 2045 6.7, 6.8) of content that comes in lines, and which of them a part gets.

/// Octets of a quoted-printable line after which a soft line break comes: three more and its `=` make 76.
const COLUMN_MAX: usize = 72;
/// Octets of a base64 line, as sendmail writes it.
const BASE64_COLUMNS: usize = 72;
/// Octets after which a part can be known to be base64 without reading all of it, and then of which share.
const SAMPLE: u64 = 4096;

/// How a part is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Encoding {
    AsIs,
    QuotedPrintable,
    Base64,
}

impl Encoding {
    /// As in Content-Transfer-Encoding; none when nothing is encoded.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Encoding::AsIs => None,
            Encoding::QuotedPrintable => Some("quoted-printable"),
            Encoding::Base64 => Some("base64"),
        }
    }
}

/// Quoted-printable under way. A blank or a lone dot is held back until it is known whether the line ends behind it.
#[derive(Debug, Default)]
pub(super) struct QuotedPrintable {
    column: usize,
    held: Option<u8>,
}

impl QuotedPrintable {
    pub(super) fn text(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for &byte in bytes {
            self.release(out);
            if self.column > COLUMN_MAX {
                out.extend_from_slice(b"=\r\n");
                self.column = 0;
            }
            match byte {
                b' ' | b'\t' => self.held = Some(byte),
                b'.' if self.column == 0 => self.held = Some(byte),
                b'=' | 0..0x20 | 0x7f.. => self.quote(byte, out),
                _ => {
                    out.push(byte);
                    self.column += 1;
                }
            }
        }
    }

    pub(super) fn line_end(&mut self, out: &mut Vec<u8>) {
        self.finish(out);
        out.extend_from_slice(b"\r\n");
        self.column = 0;
    }

    /// Ends the content; whether its last line is unended.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> bool {
        if let Some(byte) = self.held.take() {
            self.quote(byte, out);
        }
        self.column > 0
    }

    fn release(&mut self, out: &mut Vec<u8>) {
        if let Some(byte) = self.held.take() {
            out.push(byte);
            self.column += 1;
        }
    }

    fn quote(&mut self, byte: u8, out: &mut Vec<u8>) {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        let digit = |four: u8| DIGITS[usize::from(four & 15)];
        out.extend_from_slice(&[b'=', digit(byte >> 4), digit(byte)]);
        self.column += 3;
    }
}

/// Base64 under way.
#[derive(Debug, Default)]
pub(super) struct Base64 {
    group: [u8; 3],
    filled: usize,
    column: usize,
}

impl Base64 {
    pub(super) fn text(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for &byte in bytes {
            if let Some(place) = self.group.get_mut(self.filled) {
                *place = byte;
            }
            self.filled += 1;
            if self.filled == self.group.len() {
                self.write(out);
            }
        }
    }

    /// Ends the content; whether its last line is unended.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> bool {
        if self.filled > 0 {
            self.write(out);
        }
        self.column > 0
    }

    /// The four octets of the group, which may be incomplete.
    fn write(&mut self, out: &mut Vec<u8>) {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        if self.column == BASE64_COLUMNS {
            out.extend_from_slice(b"\r\n");
            self.column = 0;
        }
        let group = std::mem::take(&mut self.group);
        let bits = group.iter().fold(0, |bits, &byte| bits << 8 | usize::from(byte));
        for place in 0..4 {
            out.push(match place <= self.filled {
                true => DIGITS[bits >> (18 - 6 * place) & 63],
                false => b'=',
            });
        }
        self.filled = 0;
        self.column += 4;
    }
}

/// A part being weighed: which encoding suits it, and how long it becomes in each.
#[derive(Debug, Default)]
pub(super) struct Weigher {
    /// As sendmail counts: a line end is one.
    octets: u64,
    high: u64,
    settled: bool,
    as_is: u64,
    /// With CRLF line ends.
    canonical: u64,
    quoted: QuotedPrintable,
    quoted_len: u64,
    scratch: Vec<u8>,
}

impl Weigher {
    pub(super) fn text(&mut self, bytes: &[u8]) {
        let len = bytes.len() as u64;
        self.octets += len;
        self.as_is += len;
        self.canonical += len;
        if !bytes.is_ascii() {
            self.high += bytes.iter().filter(|byte| !byte.is_ascii()).count() as u64;
        }
        self.quoted.text(bytes, &mut self.scratch);
        self.count();
    }

    pub(super) fn line_end(&mut self, end: &[u8]) {
        self.octets += 1;
        self.as_is += end.len() as u64;
        self.canonical += 2;
        self.quoted.line_end(&mut self.scratch);
        self.count();
        self.weigh();
    }

    /// The line end before the boundary: sendmail counts it, though it is not of the part.
    pub(super) fn boundary_end(&mut self) {
        self.octets += 1;
        self.weigh();
    }

    fn weigh(&mut self) {
        self.settled |= self.octets >= SAMPLE && self.high > self.octets / 4;
    }

    fn count(&mut self) {
        self.quoted_len += self.scratch.len() as u64;
        self.scratch.clear();
    }

    /// The encoding, how many octets it makes, and whether the last line of that is unended.
    pub(super) fn finish(mut self, only_quoted: bool) -> (Encoding, u64, bool) {
        let is_unended = self.quoted.finish(&mut self.scratch);
        self.count();
        if only_quoted {
            return (Encoding::QuotedPrintable, self.quoted_len, is_unended);
        }
        if self.high == 0 {
            return (Encoding::AsIs, self.as_is, false);
        }
        if self.settled || self.octets / 8 < self.high {
            let octets = self.canonical.div_ceil(3) * 4;
            let breaks = octets.div_ceil(BASE64_COLUMNS as u64).saturating_sub(1);
            return (Encoding::Base64, octets + 2 * breaks, true);
        }
        (Encoding::QuotedPrintable, self.quoted_len, is_unended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(lines: &[&str]) -> String {
        let (mut machine, mut out) = (QuotedPrintable::default(), Vec::new());
        for (n, line) in lines.iter().enumerate() {
            if n > 0 {
                machine.line_end(&mut out);
            }
            machine.text(line.as_bytes(), &mut out);
        }
        machine.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn quoted_printable() {
        assert_eq!(
            quoted(&["a=b ", "\t", ".", "..", ". x", "", "e\r\0"]),
            "a=3Db=20\r\n=09\r\n=2E\r\n..\r\n. x\r\n\r\ne=0D=00"
        );
        assert_eq!(quoted(&[&"x".repeat(73)]), "x".repeat(73));
        assert_eq!(quoted(&[&"x".repeat(74)]), format!("{}=\r\nx", "x".repeat(73)));
        let widest = format!("{}=", "x".repeat(72));
        assert_eq!(
            quoted(&[&widest, &format!("{widest}y")]),
            format!("{0}=3D\r\n{0}=3D=\r\ny", "x".repeat(72))
        );
    }

    #[test]
    fn base64() {
        let encoded = |text: &[u8]| {
            let (mut machine, mut out) = (Base64::default(), Vec::new());
            machine.text(text, &mut out);
            machine.finish(&mut out);
            String::from_utf8(out).unwrap()
        };
        // RFC 4648 10.
        for (text, expected) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(encoded(text.as_bytes()), expected);
        }
        assert_eq!(encoded(&[0xff; 54]), "/".repeat(72));
        assert_eq!(encoded(&[0xff; 55]), format!("{}\r\n/w==", "/".repeat(72)));
    }
}
