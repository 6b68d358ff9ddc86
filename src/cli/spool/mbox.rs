//! The text of one message in an mbox (mboxrd): a line that is `From ` behind any number of `>` gets one `>` more.
//!
//! Text comes in pieces of any size; of a line only the number of its `>` and the start of `From ` wait for more.

use std::io::{self, Write};

const FROM: &[u8] = b"From ";

/// Quotes what is written to it.
pub struct MboxLines<'a> {
    out: &'a mut dyn Write,
    place: Place,
}

enum Place {
    /// At the start of a line, behind so many `>` and so many octets of `From `.
    Start(u64, usize),
    /// Further on.
    Inside,
}

impl<'a> MboxLines<'a> {
    /// Behind the `From ` line of a message.
    pub fn new(out: &'a mut dyn Write) -> MboxLines<'a> {
        MboxLines { out, place: Place::Start(0, 0) }
    }

    /// Ends the message: its last line, and the blank line between messages.
    ///
    /// # Errors
    /// Those of the writer behind it.
    pub fn end(mut self) -> io::Result<()> {
        match self.place {
            Place::Start(0, 0) => {}
            Place::Start(marks, from) => {
                self.release(marks, from)?;
                self.out.write_all(b"\n")?;
            }
            Place::Inside => self.out.write_all(b"\n")?,
        }
        self.out.write_all(b"\n")
    }

    /// Writes what waited.
    fn release(&mut self, marks: u64, from: usize) -> io::Result<()> {
        io::copy(&mut io::Read::take(io::repeat(b'>'), marks), &mut self.out)?;
        self.out.write_all(&FROM[..from])
    }
}

impl Write for MboxLines<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while let Some((&first, behind)) = rest.split_first() {
            match self.place {
                Place::Inside => {
                    let end = memchr::memchr(b'\n', rest).map(|at| at + 1);
                    let (line, after) = rest.split_at(end.unwrap_or(rest.len()));
                    self.out.write_all(line)?;
                    rest = after;
                    if end.is_some() {
                        self.place = Place::Start(0, 0);
                    }
                }
                Place::Start(marks, 0) if first == b'>' => {
                    self.place = Place::Start(marks + 1, 0);
                    rest = behind;
                }
                Place::Start(marks, from) if first == FROM[from] => {
                    rest = behind;
                    self.place = Place::Start(marks, from + 1);
                    if from + 1 == FROM.len() {
                        self.release(marks + 1, FROM.len())?;
                        self.place = Place::Inside;
                    }
                }
                Place::Start(marks, from) => {
                    self.release(marks, from)?;
                    self.place = Place::Inside;
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_whatever_the_pieces() {
        let text = b"From a\n>From b\n>>From c\n>Fro\nFrom\n From d\nx From e\n\n>\nFrom f";
        let quoted =
            b">From a\n>>From b\n>>>From c\n>Fro\nFrom\n From d\nx From e\n\n>\n>From f\n\n";
        for size in 1..text.len() {
            let mut out = Vec::new();
            let mut lines = MboxLines::new(&mut out);
            text.chunks(size).for_each(|piece| lines.write_all(piece).unwrap());
            lines.end().unwrap();
            assert_eq!(out, quoted, "in pieces of {size}");
        }
    }

    #[test]
    fn ends_a_message_in_one_blank_line() {
        for (text, expected) in [("a\n", "a\n\n"), ("a", "a\n\n"), ("a\nFr", "a\nFr\n\n")] {
            let mut out = Vec::new();
            let mut lines = MboxLines::new(&mut out);
            lines.write_all(text.as_bytes()).unwrap();
            lines.end().unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
