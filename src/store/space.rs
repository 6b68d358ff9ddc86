//! How much of queue.redb is in use, at least: what the writer asks before it has the file counted, and copied (`engine/compact.rs`).
//!
//! COUNT knows the messages, in three reads; what it does not know (jobs of long lists, hosts) makes the answer too small, so it only
//! saves a count that would find much. The count itself reads a quarter of the file at most.

use super::StoreError;
use super::edit::counter;
use super::engine::Read;
use super::schema::*;

/// Octets of a scheduled message with its rows in the indexes, about: 776 were measured for one recipient.
const MESSAGE_OCTETS: u64 = 800;
/// Octets of a row of INCOMING beside the body.
const INCOMING_OCTETS: u64 = 500;

/// How many octets of keys and values there are at least, about. Reads three numbers.
///
/// # Errors
/// `Unavailable`, `Damaged`.
pub(super) fn live(read: &dyn Read) -> Result<u64, StoreError> {
    let count = |name: &str| -> Result<u64, StoreError> {
        Ok(u64::try_from(counter(read, &COUNT.key(name))?).unwrap_or(0))
    };
    let scheduled = count(COUNT_MESSAGE)?.saturating_mul(MESSAGE_OCTETS);
    let incoming = count(COUNT_INCOMING)?.saturating_mul(INCOMING_OCTETS);
    Ok(scheduled.saturating_add(incoming).saturating_add(count(COUNT_INCOMING_OCTETS)?))
}
