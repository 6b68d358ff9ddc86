//! Room on the disk, ahead of need: which octets to fill with zeros before a file grows into them.
//!
//! A file of redb grows by setting its length, so its new part is a hole. The first write to each page of a hole makes the
//! file system allocate a block, and the fsync after it has to write that down too: with a journal it then takes twice
//! as long as one that only writes over what is there. One message at a time waits for nothing but these fsyncs. So when
//! a small commit is the first to write to a [`STEP`] of the file, that is filled with zeros in one go. Large commits are not
//! helped: for them the octets cost more than the bookkeeping.
//!
//! Pure: it says what to fill, [`Watched`](super::redb::Watched) does it. Never names an octet that may have been written: those before
//! the length that the file was opened with count as written. A crash leaves zeros where there were zeros.

use std::ops::Range;

/// Octets filled at once: about a millisecond of a disk, for some hundred small commits. The unit in which is known what was
/// written: a bit for each, 4 KiB for a file of 32 GiB.
pub const STEP: usize = 1 << 20;
/// Octets written since the last fsync, above which a commit is not small.
const SMALL: u64 = 256 << 10;

/// What is known of one file.
#[derive(Debug)]
pub struct Ahead {
    /// For each step whether something in it may have been written.
    written: Vec<bool>,
    length: u64,
    /// Octets since the last fsync.
    unsynced: u64,
}

impl Ahead {
    /// Of a file with this length, of which any octet may be written.
    pub fn new(length: u64) -> Ahead {
        Ahead { written: vec![true; steps(length)], length, unsynced: 0 }
    }

    /// The file has another length.
    pub fn resized(&mut self, length: u64) {
        // What is cut off and added again is empty; a step that is cut in its middle is not.
        self.written.truncate(steps(length));
        self.written.resize(steps(length), false);
        self.length = length;
    }

    /// An fsync.
    pub fn synced(&mut self) {
        self.unsynced = 0;
    }

    /// A write that is about to happen; what is to be filled before it, at most a [`STEP`].
    pub fn writing(&mut self, octets: Range<u64>) -> Option<Range<u64>> {
        self.unsynced += octets.end - octets.start;
        let (first, last) = (step_of(octets.start), steps(octets.end));
        let touched = self.written.get_mut(first..last)?;
        let is_first = touched.iter().any(|written| !*written);
        let one = touched.len() == 1;
        touched.fill(true);
        let start = first as u64 * STEP as u64;
        (is_first && one && self.unsynced <= SMALL)
            .then(|| start..(start + STEP as u64).min(self.length))
    }
}

fn step_of(octet: u64) -> usize {
    usize::try_from(octet / STEP as u64).unwrap_or(usize::MAX)
}

/// Steps that so many octets are in.
fn steps(octets: u64) -> usize {
    step_of(octets.saturating_add(STEP as u64 - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = STEP as u64;

    #[test]
    fn a_small_write_fills_the_step_it_is_the_first_in() {
        let mut ahead = Ahead::new(MIB);
        assert_eq!(ahead.writing(0..4096), None, "may hold something");
        ahead.resized(4 * MIB - 4096);
        assert_eq!(ahead.writing(2 * MIB + 4096..2 * MIB + 8192), Some(2 * MIB..3 * MIB));
        assert_eq!(ahead.writing(2 * MIB..2 * MIB + 4096), None, "is filled");
        assert_eq!(ahead.writing(MIB..MIB + 8), Some(MIB..2 * MIB), "one before it");
        assert_eq!(ahead.writing(3 * MIB..3 * MIB + 8), Some(3 * MIB..4 * MIB - 4096));
    }

    #[test]
    fn never_fills_what_was_written() {
        let mut ahead = Ahead::new(0);
        ahead.resized(8 * MIB);
        assert_eq!(ahead.writing(MIB - 10..MIB + 10), None, "two steps at once");
        assert_eq!(ahead.writing(0..10), None);
        assert_eq!(ahead.writing(MIB..MIB + 10), None);
        assert_eq!(ahead.writing(5 * MIB..5 * MIB + 10), Some(5 * MIB..6 * MIB));
        ahead.resized(5 * MIB + 20);
        ahead.resized(8 * MIB);
        assert_eq!(ahead.writing(5 * MIB + 30..5 * MIB + 40), None, "was cut in its middle");
        ahead.resized(5 * MIB);
        ahead.resized(8 * MIB);
        assert_eq!(ahead.writing(5 * MIB..5 * MIB + 1), Some(5 * MIB..6 * MIB), "was cut off");
    }

    #[test]
    fn leaves_large_commits_alone() {
        let mut ahead = Ahead::new(0);
        ahead.resized(8 * MIB);
        assert_eq!(ahead.writing(0..SMALL), Some(0..MIB));
        assert_eq!(ahead.writing(MIB..MIB + 1), None);
        ahead.synced();
        assert_eq!(ahead.writing(2 * MIB..2 * MIB + 1), Some(2 * MIB..3 * MIB));
    }
}
