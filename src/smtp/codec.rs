//! Line ends and dots of message content (RFC 5321 2.3.8, 4.1.1.4, 4.5.2), both ways, in pieces of any size.
//!
//! Inbound, only CR LF ends a line and only CR LF `.` CR LF ends the message. A bare CR, a bare LF or a NUL is a
//! [`LineFault`]: the message is refused after its end, and never ends, nor is split, anywhere else. Outbound,
//! whatever the bytes are, what leaves has no bare CR, bare LF or NUL, every leading dot is doubled, and it ends
//! exactly once.

use memchr::memchr3;

/// What content must not have (RFC 5321 2.3.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LineFault {
    /// CR without LF.
    BareCr,
    /// LF without CR.
    BareLf,
    /// An octet 0.
    Nul,
}

/// Makes message bytes (CRLF line ends) ready to follow DATA.
#[derive(Debug)]
pub struct DataEncoder {
    place: Place,
}

/// Where in a line the last byte left us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A line begins.
    LineStart,
    /// Anywhere else.
    Middle,
    /// After a CR, which may be half of a line end.
    Cr,
    /// After a dot that began the line (inbound).
    Dot,
    /// After a dot that began the line, and a CR (inbound).
    DotCr,
}

impl Default for DataEncoder {
    fn default() -> DataEncoder {
        DataEncoder::new()
    }
}

impl DataEncoder {
    /// At the beginning of a message.
    pub fn new() -> DataEncoder {
        DataEncoder { place: Place::LineStart }
    }

    /// Appends `input` to `out`: leading dots doubled, a bare LF made CRLF, a bare CR or NUL made a blank.
    pub fn encode(&mut self, input: &[u8], out: &mut Vec<u8>) {
        out.reserve(input.len() + input.len() / 32);
        let mut rest = input;
        while let Some(&first) = rest.first() {
            if self.place == Place::Cr {
                if first == b'\n' {
                    out.extend_from_slice(b"\r\n");
                    self.place = Place::LineStart;
                    rest = &rest[1..];
                    continue;
                }
                out.push(b' ');
                self.place = Place::Middle;
            }
            if self.place == Place::LineStart && first == b'.' {
                out.push(b'.');
            }
            let plain = memchr3(b'\r', b'\n', 0, rest).unwrap_or(rest.len());
            out.extend_from_slice(&rest[..plain]);
            if plain > 0 {
                self.place = Place::Middle;
            }
            let Some(&odd) = rest.get(plain) else { return };
            rest = &rest[plain + 1..];
            self.place = match odd {
                b'\r' => Place::Cr,
                b'\n' => {
                    out.extend_from_slice(b"\r\n");
                    Place::LineStart
                }
                _ => {
                    out.push(b' ');
                    Place::Middle
                }
            };
        }
    }

    /// Ends the last line if it has no end, and the message.
    pub fn finish(self, out: &mut Vec<u8>) {
        match self.place {
            Place::LineStart => out.extend_from_slice(b".\r\n"),
            _ => out.extend_from_slice(b"\r\n.\r\n"),
        }
    }
}

/// Takes what a client sends after 354: removes doubled dots, finds the end, and notices line faults.
#[derive(Debug)]
pub struct DataDecoder {
    place: Place,
    fault: Option<LineFault>,
}

/// What [`DataDecoder::decode`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// Octets of the input that belong to the message, its final dot included.
    pub taken: usize,
    /// The final dot was among them.
    pub end: bool,
}

impl Default for DataDecoder {
    fn default() -> DataDecoder {
        DataDecoder::new()
    }
}

impl DataDecoder {
    /// After 354. The CRLF of the DATA command counts as the line end before the first line.
    pub fn new() -> DataDecoder {
        DataDecoder { place: Place::LineStart, fault: None }
    }

    /// The first line fault so far. The bytes handed on are then of no use.
    pub fn fault(&self) -> Option<LineFault> {
        self.fault
    }

    /// Appends the content in `input` to `out`, up to the end of the message.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Decoded {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match (self.place, byte) {
                (Place::LineStart, b'.') => {
                    self.place = Place::Dot;
                    at += 1;
                }
                (Place::Dot, b'\r') => {
                    self.place = Place::DotCr;
                    at += 1;
                }
                (Place::DotCr, b'\n') => return Decoded { taken: at + 1, end: true },
                (Place::Cr, b'\n') => {
                    out.extend_from_slice(b"\r\n");
                    self.place = Place::LineStart;
                    at += 1;
                }
                (Place::Cr | Place::DotCr, _) => {
                    self.fault.get_or_insert(LineFault::BareCr);
                    self.place = Place::Middle;
                }
                (Place::LineStart | Place::Dot | Place::Middle, _) => {
                    at += self.lines(&input[at..], out);
                }
            }
        }
        Decoded { taken: input.len(), end: false }
    }

    /// Hands on whole lines in one piece, until one begins with a dot or the input ends: how many octets.
    fn lines(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        let mut at = 0;
        let end = loop {
            let Some(odd) = memchr3(b'\r', b'\n', 0, &input[at..]).map(|n| at + n) else {
                self.place = Place::Middle;
                break input.len();
            };
            at = odd + 1;
            match (input[odd], input.get(at)) {
                (b'\r', Some(b'\n')) => {
                    at += 1;
                    if matches!(input.get(at), None | Some(b'.')) {
                        self.place = Place::LineStart;
                        break at;
                    }
                }
                (b'\r', None) => {
                    out.extend_from_slice(&input[..odd]);
                    self.place = Place::Cr;
                    return at;
                }
                (byte, _) => {
                    self.fault.get_or_insert(fault_of(byte));
                }
            }
        };
        out.extend_from_slice(&input[..end]);
        end
    }
}

/// Which fault a CR, LF or NUL that stands alone is.
fn fault_of(byte: u8) -> LineFault {
    match byte {
        b'\r' => LineFault::BareCr,
        b'\n' => LineFault::BareLf,
        _ => LineFault::Nul,
    }
}

/// Watches content that comes by length (BDAT) for line faults. RFC 3030 has no dots and no end to find.
#[derive(Debug)]
pub struct LineChecker {
    place: Place,
    fault: Option<LineFault>,
}

impl Default for LineChecker {
    fn default() -> LineChecker {
        LineChecker::new()
    }
}

impl LineChecker {
    /// At the beginning of a message.
    pub fn new() -> LineChecker {
        LineChecker { place: Place::LineStart, fault: None }
    }

    /// The first line fault so far.
    pub fn fault(&self) -> Option<LineFault> {
        self.fault
    }

    /// Looks at the next bytes.
    pub fn check(&mut self, input: &[u8]) {
        let mut at = 0;
        if self.place == Place::Cr && !input.is_empty() {
            if input.first() == Some(&b'\n') {
                at = 1;
                self.place = Place::LineStart;
            } else {
                self.fault.get_or_insert(LineFault::BareCr);
            }
        }
        while let Some(rest) = input.get(at..).filter(|rest| !rest.is_empty()) {
            self.place = Place::Middle;
            let Some(odd) = memchr3(b'\r', b'\n', 0, rest) else { return };
            at += odd + 1;
            match (rest[odd], rest.get(odd + 1)) {
                (b'\r', Some(b'\n')) => {
                    at += 1;
                    self.place = Place::LineStart;
                }
                (b'\r', None) => self.place = Place::Cr,
                (byte, _) => {
                    self.fault.get_or_insert(fault_of(byte));
                }
            }
        }
    }

    /// At the end of the message: whether its last line has no end and is to be given one.
    pub fn finish(&mut self) -> bool {
        if self.place == Place::Cr {
            self.fault.get_or_insert(LineFault::BareCr);
        }
        self.place != Place::LineStart
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What DATA makes of `input` when it comes in pieces of `size`: content, octets taken when it ended, fault.
    fn decode(input: &[u8], size: usize) -> (Vec<u8>, Option<usize>, Option<LineFault>) {
        let (mut decoder, mut out, mut taken) = (DataDecoder::new(), Vec::new(), 0);
        for piece in input.chunks(size) {
            let decoded = decoder.decode(piece, &mut out);
            taken += decoded.taken;
            if decoded.end {
                return (out, Some(taken), decoder.fault());
            }
        }
        (out, None, decoder.fault())
    }

    fn encode(input: &[u8], size: usize) -> Vec<u8> {
        let (mut encoder, mut out) = (DataEncoder::new(), Vec::new());
        input.chunks(size).for_each(|piece| encoder.encode(piece, &mut out));
        encoder.finish(&mut out);
        out
    }

    /// RFC 5321 4.5.2 in the plainest words: the end is the first CRLF.CRLF, the DATA line's CRLF included.
    fn end_by_the_book(input: &[u8]) -> Option<usize> {
        let stream = [b"\r\n", input].concat();
        stream.windows(5).position(|w| w == b"\r\n.\r\n").map(|at| at + 5 - 2)
    }

    fn has_fault(content: &[u8]) -> bool {
        let text: Vec<u8> = content.to_vec();
        let without = String::from_utf8_lossy(&text).replace("\r\n", "");
        without.bytes().any(|b| matches!(b, b'\r' | b'\n' | 0))
    }

    /// Every string up to seven octets over the alphabet that matters, at every split into equal pieces.
    #[test]
    fn ends_where_the_book_says_and_nowhere_else() {
        const ALPHABET: &[u8] = b"\r\n.a\0";
        for length in 0..=7u32 {
            for number in 0..ALPHABET.len().pow(length) {
                let mut n = number;
                let mut input = Vec::with_capacity(16);
                for _ in 0..length {
                    input.push(ALPHABET[n % ALPHABET.len()]);
                    n /= ALPHABET.len();
                }
                input.extend_from_slice(b"\r\n.\r\n");
                let whole = decode(&input, input.len());
                let end = end_by_the_book(&input);
                assert_eq!(whole.1, end, "{input:?}");
                let content = &input[..end.unwrap()];
                assert_eq!(whole.2.is_some(), has_fault(content), "{input:?}");
                for size in 1..input.len() {
                    let split = decode(&input, size);
                    assert_eq!((split.1, split.2), (whole.1, whole.2), "{input:?} in {size}");
                    assert!(split.2.is_some() || split.0 == whole.0, "{input:?} in {size}");
                }
            }
        }
    }

    #[test]
    fn doubles_and_removes_dots() {
        assert_eq!(encode(b".\r\n..a\r\nb.", 99), b"..\r\n...a\r\nb.\r\n.\r\n");
        assert_eq!(encode(b"", 1), b".\r\n");
        assert_eq!(encode(b"a\n.\rb\0\r", 99), b"a\r\n.. b \r\n.\r\n");
        assert_eq!(decode(b"..\r\n.a\r\n.\r\nQUIT", 3), (b".\r\na\r\n".to_vec(), Some(11), None));
    }

    #[test]
    fn checks_chunks() {
        for (text, fault, open) in [
            (b"a\r\nb\r\n".as_slice(), None, false),
            (b"", None, false),
            (b"a", None, true),
            (b"a\r", Some(LineFault::BareCr), true),
            (b"\r\r\n", Some(LineFault::BareCr), false),
            (b"a\n", Some(LineFault::BareLf), true),
            (b"a\0\r\n", Some(LineFault::Nul), false),
        ] {
            for size in 1..=text.len().max(1) {
                let mut checker = LineChecker::new();
                text.chunks(size).for_each(|piece| checker.check(piece));
                assert_eq!((checker.finish(), checker.fault()), (open, fault), "{text:?} {size}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_leaves_is_clean_and_comes_back(
            input in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), any::<u8>()], 0..300),
            size in 1usize..40,
            other in 1usize..40,
        ) {
            let sent = encode(&input, size);
            prop_assert_eq!(&sent, &encode(&input, other));
            let (content, end, fault) = decode(&sent, other);
            prop_assert_eq!((end, fault), (Some(sent.len()), None));
            prop_assert!(content.is_empty() || content.ends_with(b"\r\n"));
            if !has_fault(&input) && (input.is_empty() || input.ends_with(b"\r\n")) {
                prop_assert_eq!(content, input);
            }
        }
    }
}
