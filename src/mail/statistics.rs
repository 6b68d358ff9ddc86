//! Statistics of mail by mailer: what `mailstats` prints (sendmail's StatusFile).
//!
//! Figures are counted as sendmail counts them: a message once *from* the mailer of its sender, once *to* the mailer of each job
//! that was delivered, sizes in units of 1 024 octets with each message rounded up.

use super::job::Mailer;
use super::time::Timestamp;

/// Everything counted since `since`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Statistics {
    /// When counting began: the first start of the store, or the last reset.
    pub since: Timestamp,
    /// The mailers with a figure that is not 0, in the order of [`Mailer`].
    pub mailers: Vec<(Mailer, Figures)>,
    /// TCP connections.
    pub connections: Connections,
}

/// What was counted for one mailer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Figures {
    /// Messages accepted from its senders (`msgsfr`).
    pub messages_from: u64,
    /// Their sizes in KiB, each rounded up (`bytes_from`).
    pub kib_from: u64,
    /// Deliveries through it (`msgsto`).
    pub messages_to: u64,
    /// Their sizes in KiB, each rounded up (`bytes_to`).
    pub kib_to: u64,
    /// Messages refused to its senders (`msgsrej`).
    pub rejected: u64,
    /// Messages of its senders that were thrown away as a policy said (`msgsdis`).
    pub discarded: u64,
    /// Messages of its senders that are or were quarantined (`msgsqur`).
    pub quarantined: u64,
}

/// TCP connections: the line `C` of `mailstats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Connections {
    /// Taken from clients.
    pub from: u64,
    /// Made to other hosts.
    pub to: u64,
    /// Refused to clients; as in sendmail every message refused or discarded counts too, so it may exceed `from`.
    pub rejected: u64,
}

impl Figures {
    /// The sums of both, for the line `T`.
    pub fn plus(self, other: Figures) -> Figures {
        Figures {
            messages_from: self.messages_from.saturating_add(other.messages_from),
            kib_from: self.kib_from.saturating_add(other.kib_from),
            messages_to: self.messages_to.saturating_add(other.messages_to),
            kib_to: self.kib_to.saturating_add(other.kib_to),
            rejected: self.rejected.saturating_add(other.rejected),
            discarded: self.discarded.saturating_add(other.discarded),
            quarantined: self.quarantined.saturating_add(other.quarantined),
        }
    }
}
