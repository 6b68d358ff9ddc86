//! Queue ID: our name for one accepted message, in every log line and every key.
//!
//! A `QueueId` is 64 bits: seconds since 1970 in the upper half, 1/3600 microseconds (below 3.6 · 10⁹) in the
//! lower. Its text has the shape sendmail's has (reference: sendmail `queueid`): year, month, day, hour,
//! minute, second as one character each of `0-9A-Za-z`, two characters of sequence, six digits. Both orders agree: a
//! later ID is larger as a number, as key bytes and as text. The first character repeats after 60 years, in 2080.

use std::fmt;
use std::str::FromStr;

use super::time::Timestamp;

/// Name of one accepted message. Unique within a store for ever; ordered by arrival.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct QueueId(u64);

/// The text is not a queue ID of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a queue ID: 14 characters of 0-9A-Za-z, the last six digits")]
pub struct QueueIdError(String);

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// IDs in one second: 60 · 60 sequence characters' worth times a million, so that the text stays 14 long.
const PER_SECOND: u64 = 3_600_000_000;
const DIGITS: u64 = 1_000_000;
/// 2020-01-01: year character `0`.
const EPOCH_YEAR: i64 = 2020;

impl QueueId {
    /// The first ID that belongs to this instant.
    pub fn at(now: Timestamp) -> QueueId {
        let millis = now.as_millis();
        QueueId(((millis / 1000) << 32) | ((millis % 1000) * (PER_SECOND / 1000)))
    }

    /// The ID after this one.
    pub fn next(self) -> QueueId {
        self.plus(1)
    }

    /// The `n`-th ID after this one, `n` below 3.6 · 10⁹.
    pub fn plus(self, n: u64) -> QueueId {
        let low = (self.0 & 0xffff_ffff) + n;
        QueueId((((self.0 >> 32) + low / PER_SECOND) << 32) | (low % PER_SECOND))
    }

    /// The number, whose order is the order of arrival. For keys.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// The ID with this number; any number whose lower half no ID has is brought to the nearest one below.
    pub fn from_u64(n: u64) -> QueueId {
        QueueId(n >> 32 << 32 | (n & 0xffff_ffff).min(PER_SECOND - 1))
    }

    /// When this ID was given out, to the second.
    pub fn time(self) -> Timestamp {
        Timestamp::from_secs(self.0 >> 32)
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = (self.0 >> 32) as i64;
        let low = self.0 & 0xffff_ffff;
        let (year, month, day) = civil_from_days(secs.div_euclid(86_400));
        let clock = secs.rem_euclid(86_400);
        let sequence = low / DIGITS;
        let text = [
            (year - EPOCH_YEAR).rem_euclid(60),
            month - 1,
            day,
            clock / 3600,
            clock / 60 % 60,
            clock % 60,
            (sequence / 60) as i64,
            (sequence % 60) as i64,
        ]
        .map(|n| ALPHABET[n as usize] as char);
        for c in text {
            fmt::Write::write_char(f, c)?;
        }
        write!(f, "{:06}", low % DIGITS)
    }
}

impl fmt::Debug for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for QueueId {
    type Err = QueueIdError;

    fn from_str(text: &str) -> Result<QueueId, QueueIdError> {
        let wrong = || QueueIdError(text.chars().take(40).collect());
        let bytes = text.as_bytes();
        if bytes.len() != 14 || !bytes[8..].iter().all(u8::is_ascii_digit) {
            return Err(wrong());
        }
        let mut n = [0i64; 8];
        for (n, byte) in n.iter_mut().zip(bytes) {
            *n = ALPHABET.iter().position(|a| a == byte).ok_or_else(wrong)? as i64;
        }
        let [year, month, day, hour, minute, second, high, low] = n;
        let digits: u64 = text[8..].parse().map_err(|_| wrong())?;
        if year >= 60 || month > 11 || !(1..=31).contains(&day) || hour > 23 || minute > 59 {
            return Err(wrong());
        }
        if second > 59 || high > 59 || low > 59 {
            return Err(wrong());
        }
        let days = days_from_civil(EPOCH_YEAR + year, month + 1, day);
        let secs = days * 86_400 + hour * 3600 + minute * 60 + second;
        Ok(QueueId((secs as u64) << 32 | ((high * 60 + low) as u64 * DIGITS + digits)))
    }
}

/// Days since 1970-01-01 → (year, month 1–12, day 1–31), Gregorian.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    // Years are counted from March, so that the leap day is the last of its year.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

/// The inverse of [`civil_from_days`].
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn looks_like_sendmails() {
        // 2026-11-22 05:42:01 UTC; sendmail wrote 6AM5g1... at that second.
        let id = QueueId::at(Timestamp::from_secs(1_795_326_121));
        assert_eq!(id.to_string(), "6AM5g100000000");
        assert_eq!(id.next().to_string(), "6AM5g100000001");
    }

    #[test]
    fn refuses_what_it_never_prints() {
        for text in ["", "6AM5g10000000", "6AM5g1000000x0", "6AM5g1é000000", "zAM5g100000000"] {
            assert!(text.parse::<QueueId>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips_and_keeps_order(
            a in 1_600_000_000u64..3_400_000_000, x in 0..PER_SECOND,
            b in 1_600_000_000u64..3_400_000_000, y in 0..PER_SECOND,
        ) {
            let (p, q) = (QueueId(a << 32 | x), QueueId(b << 32 | y));
            prop_assert_eq!(p.to_string().parse::<QueueId>().unwrap(), p);
            prop_assert_eq!(p.to_string().cmp(&q.to_string()), p.cmp(&q));
            prop_assert!(p.next() > p && QueueId::from_u64(p.as_u64()) == p);
        }
    }
}
