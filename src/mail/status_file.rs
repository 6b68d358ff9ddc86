//! sendmail's StatusFile: [`Statistics`] as the C structure that its mailstats and scripts around it read.
//!
//! Version 4 on a 64-bit system, in the byte order of this machine: magic, version, the time counting began, the size,
//! three connection counters, and seven columns of 25 mailers. Mailers have no names in it: they are counted under the numbers
//! that sendmail's own configurations give them, and a mailstats that reads such a file calls them right.

use super::job::Mailer;
use super::statistics::{Figures, Statistics};

/// Octets of the file.
pub const SIZE: usize = HEAD + COLUMNS * MAILERS * LONG;
/// What the file begins with: its magic number.
const MAGIC: i32 = 0x1B1DE;
const VERSION: i32 = 4;
/// `MAXMAILERS`
const MAILERS: usize = 25;
/// nf bf nt bt nr nd nq
const COLUMNS: usize = 7;
const LONG: usize = 8;
/// Magic, version, time, size with its padding, and three counters.
const HEAD: usize = 6 * LONG;

/// sendmail's number of a mailer, by the order of M lines in its own files; ours for LMTP comes behind those.
pub fn number(mailer: Mailer) -> u8 {
    match mailer {
        Mailer::Local => 3,
        Mailer::Esmtp => 5,
        Mailer::Relay => 8,
        Mailer::Lmtp => 9,
    }
}

/// The file's octets.
pub fn encode(statistics: &Statistics) -> [u8; SIZE] {
    let mut file = [0; SIZE];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    let long = |number: u64| i64::try_from(number).unwrap_or(i64::MAX).to_ne_bytes();
    let connections = &statistics.connections;
    put(0, &MAGIC.to_ne_bytes());
    put(4, &VERSION.to_ne_bytes());
    put(8, &long(statistics.since.as_secs()));
    // A short, and its padding.
    put(16, &(SIZE as i16).to_ne_bytes());
    put(24, &long(connections.from));
    put(32, &long(connections.to));
    put(40, &long(connections.rejected));
    for (mailer, figures) in &statistics.mailers {
        let Figures { messages_from, kib_from, messages_to, kib_to, .. } = *figures;
        let Figures { rejected, discarded, quarantined, .. } = *figures;
        let row = usize::from(number(*mailer));
        let columns =
            [messages_from, kib_from, messages_to, kib_to, rejected, discarded, quarantined];
        for (column, figure) in columns.into_iter().enumerate() {
            put(HEAD + (column * MAILERS + row) * LONG, &long(figure));
        }
    }
    file
}

/// Whether a file with this beginning holds statistics, so that it may be written over.
pub fn is_one(beginning: &[u8]) -> bool {
    beginning.starts_with(&MAGIC.to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::statistics::Connections;
    use crate::mail::time::Timestamp;

    /// As `xxd` shows it, without rows of zeros. Of sendmail 8.17 on a 64-bit little-endian machine.
    fn file_of(dump: &str) -> Vec<u8> {
        let mut file = vec![0; SIZE];
        for line in dump.lines().filter(|line| !line.starts_with('#')) {
            let (offset, octets) = line.split_once(": ").unwrap();
            let at = usize::from_str_radix(offset, 16).unwrap();
            let digits: String = octets.split_whitespace().collect();
            for (n, pair) in digits.as_bytes().chunks(2).enumerate() {
                let pair = std::str::from_utf8(pair).unwrap();
                file[at + n] = u8::from_str_radix(pair, 16).unwrap();
            }
        }
        file
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_file_is_sendmails() {
        let statistics = Statistics {
            since: Timestamp::from_secs(1_795_356_231),
            mailers: vec![(
                Mailer::Relay,
                Figures {
                    messages_from: 4,
                    kib_from: 18,
                    messages_to: 4,
                    kib_to: 18,
                    ..Figures::default()
                },
            )],
            connections: Connections { from: 5, to: 4, rejected: 0 },
        };
        let golden = file_of(include_str!("../../tests/golden/status-file.txt"));
        assert_eq!(encode(&statistics).to_vec(), golden);
        assert!(is_one(&golden) && !is_one(b"") && !is_one(b"\x7fELF"));
    }

    #[test]
    fn every_figure_has_its_place() {
        let figures = Figures {
            messages_from: 1,
            kib_from: 2,
            messages_to: 3,
            kib_to: 4,
            rejected: 5,
            discarded: 6,
            quarantined: u64::MAX,
        };
        let mailers = vec![(Mailer::Local, figures), (Mailer::Lmtp, figures)];
        let file = encode(&Statistics { mailers, ..Statistics::default() });
        let long = |at: usize| i64::from_ne_bytes(file[at..at + 8].try_into().unwrap());
        for row in [3, 9] {
            let column = |n: usize| long(48 + n * 200 + row * 8);
            assert_eq!([0, 1, 2, 3, 4, 5, 6].map(column), [1, 2, 3, 4, 5, 6, i64::MAX]);
        }
        let others: i64 = (6..181).map(|n| long(n * 8)).filter(|n| *n != i64::MAX).sum();
        assert_eq!(others, 2 * 21, "nothing else is set");
    }
}
