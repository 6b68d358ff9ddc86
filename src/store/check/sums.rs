//! The invariants that are sums over a table (I8, I9), or compare one table with another (I12): each on one snapshot, as a sum of
//! different moments says nothing. The pass decodes and adds, and looks nothing up for a message, so that it is short.

use std::collections::BTreeMap;

use super::super::StoreError;
use super::super::edit::counter;
use super::super::engine::Key;
use super::super::key::{self, Decode, Table};
use super::super::message::{Incoming, Message};
use super::super::record::Record;
use super::super::schema::*;
use super::{BROKEN_MAX, Check, RECORDS, SLICE};

/// Over INCOMING or MESSAGE.
#[derive(Default)]
struct Sums {
    messages: i64,
    octets: i64,
    held: i64,
    /// Records that could not be read: of them only the number counts.
    unreadable: i64,
}

impl Check<'_> {
    /// I12: as many origins on both sides, of the same sum of hashes.
    pub(super) fn ledger(&mut self) -> Result<(), StoreError> {
        let (mut loaded, mut by_time) = ((0i64, 0u64), (0i64, 0u64));
        self.range(&LOADED, LOADED.all(), SLICE, |check, origin: String, value| {
            loaded = (loaded.0 + 1, loaded.1.wrapping_add(hash(&origin)));
            check.record::<u64>(&format!("LOADED {origin}"), &value);
            Ok(())
        })?;
        self.range(&LOADED_AT, LOADED_AT.all(), SLICE, |check, (_, origin): (_, String), _| {
            by_time = (by_time.0 + 1, by_time.1.wrapping_add(hash(&origin)));
            if !check.is_there(&LOADED, &origin)? {
                check.say("I12", format!("LOADED_AT {origin}"), "LOADED does not have it");
            }
            Ok(())
        })?;
        if loaded != by_time {
            let detail =
                format!("{} origins, and LOADED_AT has {}, or others", loaded.0, by_time.0);
            self.say("I12", "LOADED", detail);
        }
        for key in self.strays(&LOADED)?.into_iter().chain(self.strays(&LOADED_AT)?) {
            self.say("I10", format!("{key:02x?}"), "is no key");
        }
        Ok(())
    }

    /// Keys in the range of the table that are none of its keys.
    fn strays<K: Decode>(&self, table: &Table<K>) -> Result<Vec<Key>, StoreError> {
        let (mut start, end) = table.all();
        let mut found = Vec::new();
        loop {
            let keys = self.read.keys(&start..&end, SLICE, false)?;
            let Some(last) = keys.last() else { return Ok(found) };
            start = key::after(last.clone());
            found.extend(keys.into_iter().filter(|key| table.parse(key).is_err()));
            found.truncate(BROKEN_MAX);
        }
    }

    /// I8, I9, on one snapshot.
    pub(super) fn totals(&mut self) -> Result<(), StoreError> {
        let mut incoming = Sums::default();
        self.range(&INCOMING, INCOMING.all(), RECORDS, |_, _, value| {
            incoming.messages += 1;
            match Incoming::decode(&value) {
                Ok(Incoming { envelope, held, .. }) => {
                    incoming.octets += envelope.size as i64;
                    incoming.held += i64::from(held.is_some());
                }
                Err(_) => incoming.unreadable += 1,
            }
            Ok(())
        })?;
        let mut scheduled = Sums::default();
        let mut bodies: BTreeMap<u32, (i64, i64)> = BTreeMap::new();
        self.range(&MESSAGE, MESSAGE.all(), RECORDS, |_, _, value| {
            let Ok(message) = Message::decode(&value) else {
                scheduled.messages += 1;
                scheduled.unreadable += 1;
                return Ok(());
            };
            let octets = message.envelope.size as i64;
            let body = bodies.entry(message.body.generation).or_default();
            *body = (body.0 + 1, body.1 + octets);
            if !message.is_removed() {
                scheduled.messages += 1;
                scheduled.octets += octets;
                scheduled.held += i64::from(message.held.is_some());
            }
            Ok(())
        })?;
        let (unread, unscheduled) = (incoming.unreadable, scheduled.unreadable);
        for (name, sum, unreadable) in [
            (COUNT_INCOMING, incoming.messages, 0),
            (COUNT_INCOMING_OCTETS, incoming.octets, unread),
            (COUNT_INCOMING_HELD, incoming.held, unread),
            (COUNT_MESSAGE, scheduled.messages, 0),
            (COUNT_MESSAGE_OCTETS, scheduled.octets, unscheduled),
            (COUNT_HELD, scheduled.held, unscheduled),
        ] {
            self.total("I8", format!("COUNT {name}"), &COUNT.key(name), sum, unreadable)?;
        }
        self.range(&BODYGEN, BODYGEN.all(), SLICE, |_, (generation, _), _| {
            bodies.entry(generation).or_default();
            Ok(())
        })?;
        for (generation, (messages, octets)) in bodies {
            for (which, sum) in [(BODY_MESSAGES, messages), (BODY_OCTETS, octets)] {
                let what = format!("BODYGEN {generation} {which}");
                self.total("I9", what, &BODYGEN.key((generation, which)), sum, unscheduled)?;
            }
            self.file(generation)?;
        }
        Ok(())
    }

    /// A number is the sum; or more, when there are records that may count for the rest.
    fn total(
        &mut self,
        invariant: &'static str,
        what: String,
        key: &[u8],
        sum: i64,
        unreadable: i64,
    ) -> Result<(), StoreError> {
        let kept = match counter(&*self.read, key) {
            Ok(kept) => kept,
            // Said where the table is walked.
            Err(StoreError::Damaged { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        if kept < sum || (kept > sum && unreadable == 0) {
            self.say(invariant, what, format!("{kept}, and there are {sum}"));
        }
        Ok(())
    }

    /// The file of a generation that messages name is there. It may have gone with the last of them since the snapshot.
    fn file(&mut self, generation: u32) -> Result<(), StoreError> {
        let core = self.store.core();
        if core.bodies.usage().iter().any(|usage| usage.generation == generation) {
            return Ok(());
        }
        if core.writer.snapshot()?.get(&BODYGEN.key((generation, BODY_MESSAGES)))?.is_some() {
            let what = format!("generation {generation}");
            self.say("I9", what, "messages name it and its file is not there");
        }
        Ok(())
    }
}

fn hash(origin: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    origin.hash(&mut hasher);
    hasher.finish()
}
