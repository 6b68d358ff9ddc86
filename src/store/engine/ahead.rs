//! Room on the disk, ahead of need: which octets to fill with zeros before a file grows into them.
//!
//! A file of redb grows by setting its length, so its new part is a hole. The first write to each page of a hole makes the
//! file system allocate a block, and the fsync after it has to write that down too: with a journal it then takes twice
//! as long as one that only writes over what is there. One message at a time waits for nothing but these fsyncs. So when
//! small commits reach the end of what was ever written, the next [`STEP`] is filled with zeros in one go. Large commits are not
//! helped: for them the octets cost more than the bookkeeping.
//!
//! Pure: it says what to fill, [`Watched`](super::redb::Watched) does it. Never names an octet that may have been written: those before
//! the length that the file was opened with count as written. A crash leaves zeros where there were zeros.

use std::ops::Range;

/// Octets filled at once: about a millisecond of a disk, for some hundred small commits.
pub const STEP: usize = 1 << 20;
/// Octets written since the last fsync, above which a commit is not small.
const SMALL: u64 = 256 << 10;

/// What is known of one file.
#[derive(Debug)]
pub struct Ahead {
    /// From here on nothing was ever written.
    end: u64,
    length: u64,
    /// Octets since the last fsync.
    unsynced: u64,
}

impl Ahead {
    /// Of a file with this length, of which any octet may be written.
    pub fn new(length: u64) -> Ahead {
        Ahead { end: length, length, unsynced: 0 }
    }

    /// The file has another length.
    pub fn resized(&mut self, length: u64) {
        self.length = length;
        self.end = self.end.min(length);
    }

    /// An fsync.
    pub fn synced(&mut self) {
        self.unsynced = 0;
    }

    /// A write that is about to happen; what is to be filled before it, at most [`STEP`] octets or those of the write.
    pub fn writing(&mut self, octets: Range<u64>) -> Option<Range<u64>> {
        self.unsynced += octets.end - octets.start;
        if octets.end <= self.end {
            return None;
        }
        let step = self.end + STEP as u64;
        let fill = self.end..step.min(self.length);
        if self.unsynced > SMALL || octets.end > fill.end {
            self.end = octets.end;
            return None;
        }
        self.end = fill.end;
        Some(fill)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = STEP as u64;

    #[test]
    fn fills_the_next_step_when_a_small_write_reaches_the_end() {
        let mut ahead = Ahead::new(MIB);
        assert_eq!(ahead.writing(0..4096), None, "may hold something");
        ahead.resized(4 * MIB);
        assert_eq!(ahead.writing(MIB..MIB + 4096), Some(MIB..2 * MIB));
        assert_eq!(ahead.writing(MIB + 4096..MIB + 8192), None, "is filled");
        assert_eq!(ahead.writing(2 * MIB - 4096..2 * MIB + 4096), Some(2 * MIB..3 * MIB));
        assert_eq!(ahead.writing(3 * MIB..3 * MIB + 8), Some(3 * MIB..4 * MIB), "up to the length");
    }

    #[test]
    fn never_fills_what_was_written() {
        let mut ahead = Ahead::new(0);
        ahead.resized(8 * MIB);
        assert_eq!(ahead.writing(3 * MIB..3 * MIB + 10), None, "too far: the hole stays");
        assert_eq!(ahead.writing(MIB..MIB + 10), None, "behind it, nobody knows what is written");
        assert_eq!(
            ahead.writing(3 * MIB + 10..3 * MIB + 20),
            Some(3 * MIB + 10..4 * MIB + 10),
            "goes on behind it"
        );
        ahead.resized(2 * MIB);
        ahead.resized(8 * MIB);
        assert_eq!(ahead.writing(2 * MIB..2 * MIB + 1), Some(2 * MIB..3 * MIB), "was cut off");
    }

    #[test]
    fn leaves_large_commits_alone() {
        let mut ahead = Ahead::new(0);
        ahead.resized(8 * MIB);
        assert_eq!(ahead.writing(0..SMALL), Some(0..MIB));
        assert_eq!(ahead.writing(MIB..MIB + 1), None);
        ahead.synced();
        assert_eq!(ahead.writing(MIB + 1..MIB + 2), Some(MIB + 1..2 * MIB + 1));
    }
}
