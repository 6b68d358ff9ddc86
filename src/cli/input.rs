//! Standard input, kept until the message is somebody's: in memory while it is small, else in an unlinked file.
//!
//! The command may have to send it twice (a daemon that restarts), or to save it in dead.letter, so it is read to its end
//! first. Without `-i` a line with a single dot ends it, and is not part of it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Octets kept in memory.
const MEMORY_MAX: usize = 4 << 20;
/// Octets read at once.
const PIECE: usize = 64 << 10;

/// The whole of standard input.
pub struct Input {
    memory: Vec<u8>,
    /// What did not fit, and everything before it.
    file: Option<File>,
    read: usize,
}

impl Input {
    /// Reads `input` to its end, or to a line with a single dot when `dot_ends`.
    pub fn read_from(input: &mut dyn Read, dot_ends: bool) -> io::Result<Input> {
        let mut whole = Input { memory: Vec::new(), file: None, read: 0 };
        let mut dots = DotFinder::default();
        let mut piece = vec![0; PIECE];
        loop {
            let length = match input.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            let bytes = &piece[..length];
            if length == 0 {
                whole.keep(dots.rest())?;
                break;
            }
            if !dot_ends {
                whole.keep(bytes)?;
                continue;
            }
            let mut kept = Vec::with_capacity(length + 2);
            let ended = dots.feed(bytes, &mut kept);
            whole.keep(&kept)?;
            if ended {
                break;
            }
        }
        whole.rewind()?;
        Ok(whole)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.file.is_none()
    }

    /// Back to the first octet.
    pub fn rewind(&mut self) -> io::Result<()> {
        self.read = 0;
        match &mut self.file {
            Some(file) => file.seek(SeekFrom::Start(0)).map(|_| ()),
            None => Ok(()),
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() && self.memory.len() + bytes.len() > MEMORY_MAX {
            let mut file = unlinked_file(&std::env::temp_dir())?;
            file.write_all(&std::mem::take(&mut self.memory))?;
            self.file = Some(file);
        }
        match &mut self.file {
            Some(file) => file.write_all(bytes),
            None => {
                self.memory.extend_from_slice(bytes);
                Ok(())
            }
        }
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(file) => file.read(buffer),
            None => {
                let length = (&self.memory[self.read..]).read(buffer)?;
                self.read += length;
                Ok(length)
            }
        }
    }
}

/// A file without a name: it goes with the process, whatever happens.
fn unlinked_file(directory: &Path) -> io::Result<File> {
    for _ in 0..100 {
        let path = directory.join(format!("kvmta-{:016x}", fastrand::u64(..)));
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!("no free name for a file in {}", directory.display())))
}

/// Holds back what may be the line that ends the message.
#[derive(Default)]
struct DotFinder {
    held: Vec<u8>,
    in_line: bool,
}

impl DotFinder {
    /// Appends what is message to `kept`; true when the ending line was found.
    fn feed(&mut self, bytes: &[u8], kept: &mut Vec<u8>) -> bool {
        for &byte in bytes {
            if self.in_line {
                kept.push(byte);
                self.in_line = byte != b'\n';
                continue;
            }
            self.held.push(byte);
            match self.held.as_slice() {
                b".\n" | b".\r\n" => {
                    self.held.clear();
                    return true;
                }
                b"." | b".\r" => {}
                _ => {
                    self.in_line = byte != b'\n';
                    kept.append(&mut self.held);
                }
            }
        }
        false
    }

    /// At the end of input a lone dot without a line end ends the message as well.
    fn rest(&self) -> &[u8] {
        match self.held.as_slice() {
            b"." | b".\r" => &[],
            held => held,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spooled(input: &str, dot_ends: bool) -> String {
        // One octet at a time: no border may matter.
        struct Drip<'a>(&'a [u8]);
        impl Read for Drip<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                (&mut self.0).take(1).read(buffer)
            }
        }
        let mut whole = Input::read_from(&mut Drip(input.as_bytes()), dot_ends).unwrap();
        let mut text = String::new();
        whole.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_lone_dot_ends_only_without_i() {
        for (input, expected) in [
            ("a\n.\nb\n", "a\n"),
            ("a\r\n.\r\nb", "a\r\n"),
            ("a\n..\n.b\n", "a\n..\n.b\n"),
            (".\n", ""),
            ("a\n.", "a\n"),
            ("a\n.\rb\n", "a\n.\rb\n"),
            ("a", "a"),
        ] {
            assert_eq!(spooled(input, true), expected, "{input:?}");
            assert_eq!(spooled(input, false), input);
        }
    }

    #[test]
    fn a_large_message_goes_to_a_file_and_comes_back() {
        let large = "0123456789abcde\n".repeat(MEMORY_MAX / 16 + 1);
        let mut whole = Input::read_from(&mut large.as_bytes(), false).unwrap();
        assert!(whole.file.is_some());
        for _ in 0..2 {
            let mut text = String::new();
            whole.rewind().unwrap();
            whole.read_to_string(&mut text).unwrap();
            assert_eq!(text, large);
        }
    }
}
