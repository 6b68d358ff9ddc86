//! A message that comes from another spool, with the state it had there.
//!
//! What SMTP cannot say: how often it was tried, what it met, when it came in first, that somebody holds it. Nothing here
//! knows the form of any spool.

use super::envelope::Envelope;
use super::time::Timestamp;

/// Longest name of an origin, in octets: it stands in a key. A queue ID, a time and a reverse-path fit.
pub const ORIGIN_MAX: usize = 640;

/// Everything about a loaded message but its recipients and its bytes.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Loading {
    /// Its envelope; arrival and priority are those of the other spool.
    pub envelope: Envelope,
    /// What its recipients share of attempts made there.
    pub attempts: Attempts,
    /// Its sender was warned of the delay.
    pub warned: bool,
    /// Why it was not being tried, when it was held.
    pub held: Option<String>,
}

/// Attempts that were made at a message before it was loaded.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Attempts {
    /// How many (sendmail `N`).
    pub count: u32,
    /// The end of the last one (sendmail `K`).
    pub last: Option<Timestamp>,
    /// What it met: `Deferred: Connection refused by mx.example.`
    pub status: Option<String>,
}

/// What became of a message that was to be loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loaded<Id> {
    /// It is durable under this name.
    Now(Id),
    /// It was loaded before, under this name: nothing was done.
    Before(Id),
}
