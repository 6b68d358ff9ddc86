//! What happened to a message, as an operator asks for it later: also when the message is gone.

use super::queue_id::QueueId;
use super::time::Timestamp;

/// One thing that happened to one message.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: What,
}

/// Kinds of events. Texts are one line without control characters.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum What {
    /// It is ours.
    Accepted {
        /// The reverse-path; empty for the null one.
        sender: String,
        /// Who gave it: `mx.example [192.0.2.1]`, `root@localhost`, empty for our own reports.
        relay: String,
        /// `ESMTP`; empty for the command line and reports.
        protocol: String,
        /// Message-Id:.
        message_id: String,
        /// Octets in all.
        size: u64,
        /// How many.
        recipients: u32,
    },
    /// An attempt ended for these recipients in the same way.
    Attempted {
        /// Addresses, at most [`RECIPIENTS_MAX`]; more are an event of their own.
        recipients: Vec<String>,
        /// Next hop.
        destination: String,
        /// Host spoken to, `mx.example [192.0.2.1]`; empty when there was none.
        relay: String,
        /// What became of them.
        fate: Fate,
        /// `2.0.0`
        status: String,
        /// As `stat=` of the log.
        text: String,
        /// Milliseconds it took.
        took: u64,
    },
    /// A report about it was made.
    Reported {
        /// Its own queue ID.
        report: QueueId,
        /// `DSN`, `sender notify`, `return to sender`, `postmaster notify`.
        label: String,
        /// `User unknown`
        text: String,
    },
    /// It was set aside.
    Held {
        /// Why.
        reason: String,
    },
    /// An operator changed it.
    Operated {
        /// `removed`, `held`, `rerouted to [relay.example]`...
        deed: String,
        /// Who: a user's name.
        operator: String,
    },
    /// Nothing of it is left in the queue.
    Done {
        /// Of its last job.
        attempts: u32,
    },
}

/// Recipients of one event at most.
pub const RECIPIENTS_MAX: usize = 100;

/// What an attempt made of a recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum Fate {
    /// In the mailbox, or taken by the next hop.
    Sent,
    /// Never.
    Failed,
    /// Not now.
    Deferred,
    /// An alias stands for others.
    Expanded,
}

impl Fate {
    /// `sent`, `failed`, `deferred`, `expanded`
    pub fn name(self) -> &'static str {
        match self {
            Fate::Sent => "sent",
            Fate::Failed => "failed",
            Fate::Deferred => "deferred",
            Fate::Expanded => "expanded",
        }
    }
}
