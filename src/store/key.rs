//! Keys: tuples of numbers, texts and nouns as bytes whose order is the order of the tuples.
//!
//! Numbers are big-endian. Texts end in a zero octet, so a shorter text stands before every longer one that begins with it; the
//! octets 0 and 1 inside a text become two (`01 01`, `01 02`), so the end is never mistaken. Nouns are
//! written by explicit numbers that never change: the codes below are part of the format of the files.
//!
//! Reading a key that we did not write gives a [`KeyError`], never a panic.

use std::marker::PhantomData;

use super::engine::Key;
use crate::mail::envelope::TimeoutClass;
use crate::mail::job::{Destination, JobId, Mailer};
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;

/// The bytes are not a key of that table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a key of {0}")]
pub struct KeyError(pub &'static str);

/// A table: a prefix octet before all its keys, and the type of the tuple behind it.
pub struct Table<K> {
    /// As it stands in the schema and in dumps.
    pub name: &'static str,
    /// The first octet of its keys.
    pub prefix: u8,
    key: PhantomData<fn(K)>,
}

/// First key in, first key out: `start..end`.
pub type KeyRange = (Key, Key);

impl<K> Table<K> {
    /// A table of the schema.
    pub const fn new(name: &'static str, prefix: u8) -> Table<K> {
        Table { name, prefix, key: PhantomData }
    }

    /// The bytes of a key.
    pub fn key<E: Encode<Of = K>>(&self, key: E) -> Key {
        let mut bytes = Vec::with_capacity(32);
        bytes.push(self.prefix);
        key.put(&mut bytes);
        bytes
    }

    /// All keys of the table.
    pub fn all(&self) -> KeyRange {
        (vec![self.prefix], vec![self.prefix + 1])
    }

    /// All keys that begin with these parts of the tuple.
    pub fn under<E: Encode>(&self, parts: E) -> KeyRange {
        let mut start = vec![self.prefix];
        parts.put(&mut start);
        let end = successor(&start);
        (start, end)
    }

    /// The keys from `first` (these parts of the tuple, inclusive) to the end of `range`.
    pub fn starting_at<E: Encode>(&self, first: E, range: KeyRange) -> KeyRange {
        let mut start = vec![self.prefix];
        first.put(&mut start);
        (start.max(range.0), range.1)
    }
}

impl<K: Decode> Table<K> {
    /// The tuple of a key.
    ///
    /// # Errors
    /// [`KeyError`] when the bytes are no key of this table, wholly read.
    pub fn parse(&self, key: &[u8]) -> Result<K, KeyError> {
        let (prefix, mut rest) = key.split_first().ok_or(KeyError(self.name))?;
        let tuple = K::take(&mut rest).filter(|_| *prefix == self.prefix && rest.is_empty());
        tuple.ok_or(KeyError(self.name))
    }
}

/// The first key behind all keys that begin with `prefix`.
fn successor(prefix: &[u8]) -> Key {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// The key directly behind `key`.
pub fn after(mut key: Key) -> Key {
    key.push(0);
    key
}

/// Something that can stand in a key.
pub trait Encode {
    /// What reading it back gives.
    type Of;
    /// Appends its bytes.
    fn put(&self, out: &mut Vec<u8>);
}

/// Something that can be read back from a key.
pub trait Decode: Sized {
    /// Takes it from the front of `bytes`; none when it is not there.
    fn take(bytes: &mut &[u8]) -> Option<Self>;
}

impl<E: Encode + ?Sized> Encode for &E {
    type Of = E::Of;
    fn put(&self, out: &mut Vec<u8>) {
        (**self).put(out);
    }
}

macro_rules! number {
    ($type:ty) => {
        impl Encode for $type {
            type Of = $type;
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }
        }
        impl Decode for $type {
            fn take(bytes: &mut &[u8]) -> Option<$type> {
                let (number, rest) = bytes.split_first_chunk()?;
                *bytes = rest;
                Some(<$type>::from_be_bytes(*number))
            }
        }
    };
}

number!(u8);
number!(u32);
number!(u64);

impl Encode for bool {
    type Of = bool;
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

impl Decode for bool {
    fn take(bytes: &mut &[u8]) -> Option<bool> {
        match u8::take(bytes)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl Encode for str {
    type Of = String;
    fn put(&self, out: &mut Vec<u8>) {
        for byte in self.bytes() {
            if byte <= 1 {
                out.push(1);
                out.push(byte + 1);
            } else {
                out.push(byte);
            }
        }
        out.push(0);
    }
}

impl Encode for String {
    type Of = String;
    fn put(&self, out: &mut Vec<u8>) {
        self.as_str().put(out);
    }
}

impl Decode for String {
    fn take(bytes: &mut &[u8]) -> Option<String> {
        let mut text = Vec::new();
        loop {
            match u8::take(bytes)? {
                0 => return String::from_utf8(text).ok(),
                1 => match u8::take(bytes)? {
                    escaped @ 1..=2 => text.push(escaped - 1),
                    _ => return None,
                },
                byte => text.push(byte),
            }
        }
    }
}

impl Encode for QueueId {
    type Of = QueueId;
    fn put(&self, out: &mut Vec<u8>) {
        self.as_u64().put(out);
    }
}

impl Decode for QueueId {
    fn take(bytes: &mut &[u8]) -> Option<QueueId> {
        let number = u64::take(bytes)?;
        Some(QueueId::from_u64(number)).filter(|id| id.as_u64() == number)
    }
}

impl Encode for Timestamp {
    type Of = Timestamp;
    fn put(&self, out: &mut Vec<u8>) {
        self.as_millis().put(out);
    }
}

impl Decode for Timestamp {
    fn take(bytes: &mut &[u8]) -> Option<Timestamp> {
        let millis = u64::take(bytes)?;
        Some(Timestamp::from_millis(millis)).filter(|time| time.as_millis() == millis)
    }
}

impl Encode for JobId {
    type Of = JobId;
    fn put(&self, out: &mut Vec<u8>) {
        self.queue_id.put(out);
        self.number.put(out);
    }
}

impl Decode for JobId {
    fn take(bytes: &mut &[u8]) -> Option<JobId> {
        Some(JobId { queue_id: QueueId::take(bytes)?, number: u32::take(bytes)? })
    }
}

/// The code of a mailer, in keys and records.
pub fn mailer_code(mailer: Mailer) -> u8 {
    match mailer {
        Mailer::Esmtp => 1,
        Mailer::Relay => 2,
        Mailer::Lmtp => 3,
        Mailer::Local => 4,
    }
}

/// The mailer of a code.
pub fn mailer_of(code: u8) -> Option<Mailer> {
    [Mailer::Esmtp, Mailer::Relay, Mailer::Lmtp, Mailer::Local]
        .into_iter()
        .find(|mailer| mailer_code(*mailer) == code)
}

/// The code of a timeout class, in keys and records.
pub fn class_code(class: TimeoutClass) -> u8 {
    match class {
        TimeoutClass::Normal => 1,
        TimeoutClass::Urgent => 2,
        TimeoutClass::NonUrgent => 3,
        TimeoutClass::Dsn => 4,
    }
}

/// The timeout class of a code.
pub fn class_of(code: u8) -> Option<TimeoutClass> {
    TimeoutClass::ALL.into_iter().find(|class| class_code(*class) == code)
}

impl Encode for Destination {
    type Of = Destination;
    fn put(&self, out: &mut Vec<u8>) {
        out.push(mailer_code(self.mailer));
        self.next_hop.put(out);
    }
}

impl Decode for Destination {
    fn take(bytes: &mut &[u8]) -> Option<Destination> {
        let mailer = mailer_of(u8::take(bytes)?)?;
        Some(Destination { mailer, next_hop: String::take(bytes)? })
    }
}

impl Encode for TimeoutClass {
    type Of = TimeoutClass;
    fn put(&self, out: &mut Vec<u8>) {
        out.push(class_code(*self));
    }
}

impl Decode for TimeoutClass {
    fn take(bytes: &mut &[u8]) -> Option<TimeoutClass> {
        class_of(u8::take(bytes)?)
    }
}

macro_rules! tuple {
    ($($part:ident $name:ident),+) => {
        impl<$($part: Encode),+> Encode for ($($part,)+) {
            type Of = ($($part::Of,)+);
            fn put(&self, out: &mut Vec<u8>) {
                let ($($name,)+) = self;
                $($name.put(out);)+
            }
        }
        impl<$($part: Decode),+> Decode for ($($part,)+) {
            fn take(bytes: &mut &[u8]) -> Option<($($part,)+)> {
                Some(($($part::take(bytes)?,)+))
            }
        }
    };
}

tuple!(A a, B b);
tuple!(A a, B b, C c);
tuple!(A a, B b, C c, D d);
tuple!(A a, B b, C c, D d, E e);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Tuple = (Destination, Timestamp, JobId);
    const TABLE: Table<Tuple> = Table::new("TEST", 7);

    fn tuples() -> impl Strategy<Value = Tuple> {
        // Few letters, among them the escaped ones and the ends of the range, so that prefixes and ties are common.
        let text = "[\u{0}\u{1}\u{2}a\u{10ffff}]{0,4}";
        (1u8..5, text, any::<bool>(), 0u64..3, 0u64..3, any::<u32>()).prop_map(
            |(mailer, next_hop, late, due, id, number)| {
                let due = if late { Timestamp::MAX } else { Timestamp::from_millis(due) };
                let destination = Destination { mailer: mailer_of(mailer).unwrap(), next_hop };
                (destination, due, JobId { queue_id: QueueId::from_u64(id << 32), number })
            },
        )
    }

    proptest! {
        #[test]
        fn order_of_keys_is_order_of_tuples(a in tuples(), b in tuples()) {
            let by_code = |t: &Tuple| (mailer_code(t.0.mailer), t.0.next_hop.clone(), t.1, t.2);
            prop_assert_eq!(TABLE.key(a.clone()).cmp(&TABLE.key(b.clone())), by_code(&a).cmp(&by_code(&b)));
            prop_assert_eq!(TABLE.parse(&TABLE.key(a.clone())).unwrap(), a);
        }

        #[test]
        fn under_holds_the_keys_that_begin_so(a in tuples(), b in tuples()) {
            let (start, end) = TABLE.under(&a.0);
            let key = TABLE.key(b.clone());
            prop_assert_eq!(start <= key && key < end, a.0 == b.0);
        }

        #[test]
        fn foreign_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(tuple) = TABLE.parse(&bytes) {
                prop_assert_eq!(TABLE.key(tuple), bytes);
            }
        }
    }

    #[test]
    fn successor_passes_over_full_octets() {
        assert_eq!(successor(&[3, 0xff, 0xff]), [4]);
        assert_eq!(TABLE.all(), (vec![7], vec![8]));
    }
}
