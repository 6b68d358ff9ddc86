//! The envelope: reverse-path, recipients, and what RFC 3461 and friends let a sender ask for. Not the header.

use super::address::{Address, ReversePath};
use super::outcome::Report;
use super::time::Timestamp;

/// Everything about a message but its recipients and its bytes. Fixed once the message is accepted.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Envelope {
    /// Where reports go.
    pub reverse_path: ReversePath,
    /// When it was accepted.
    pub arrival: Timestamp,
    /// Who gave it, as logs and Received show it: `root@localhost`, `mx.example [192.0.2.1]`; empty for our own
    /// reports.
    pub relay: String,
    /// How: `ESMTP`, `ESMTPS`, `SMTP`, empty for the command line and reports (log field `proto=`).
    pub protocol: String,
    /// BODY of MAIL, or what the bytes turned out to be (RFC 6152).
    pub body_type: BodyType,
    /// Asked for SMTPUTF8 (RFC 6531), or an address or header needs it.
    pub smtputf8: bool,
    /// RET of MAIL (RFC 3461 4.3).
    pub ret: Option<Ret>,
    /// ENVID of MAIL as xtext (RFC 3461 4.4).
    pub envid: Option<String>,
    /// Which of Timeout.queuereturn.\* and queuewarn.\* apply.
    pub timeouts: TimeoutClass,
    /// The number of the Precedence: header (sendmail P lines); 0 without one.
    pub precedence: i32,
    /// Priority at submission: lower goes first (sendmail `P`).
    pub priority: i64,
    /// The value of Message-Id:, for logs.
    pub message_id: String,
    /// Octets of header, including the blank line after it.
    pub header_len: u64,
    /// Octets in all: header, blank line, body.
    pub size: u64,
    /// Line ends of the body, of which a file with LF line ends has one octet less each. 0 for a message of a store made
    /// before they were counted.
    pub body_lines: u64,
    /// A relay an operator chose for it: wins over routing.
    pub relay_override: Option<String>,
}

impl Envelope {
    /// Octets of the body alone.
    pub fn body_len(&self) -> u64 {
        self.size - self.header_len.min(self.size)
    }

    /// Octets of the body with LF line ends: the size of sendmail's df file, which mailq prints.
    pub fn body_file_len(&self) -> u64 {
        self.body_len().saturating_sub(self.body_lines)
    }

    /// Whether its sender may be warned of a delay: not of reports, bulk mail, the null path, and not the owners and request
    /// addresses of lists, which are machines (sendmail's dowarn).
    pub fn may_warn(&self) -> bool {
        let Some(sender) = self.reverse_path.mailbox() else { return false };
        let sender = sender.local_part().to_ascii_lowercase();
        let person = !sender.starts_with("owner-") && !sender.ends_with("-request");
        person && self.timeouts != TimeoutClass::Dsn && self.precedence >= 0
    }

    /// Whether it is a report of ours: never answered, and its timeouts are those of class dsn.
    pub fn is_report(&self) -> bool {
        self.reverse_path.is_null() && self.relay.is_empty()
    }
}

/// One recipient with what the sender asked about it, and what became of it.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Recipient {
    /// The forward-path.
    pub address: Address,
    /// ORCPT of RCPT, `type;xtext` (RFC 3461 4.2).
    pub orcpt: Option<String>,
    /// NOTIFY of RCPT (RFC 3461 4.1).
    pub notify: Notify,
    /// What became of it.
    pub state: RecipientState,
}

/// What became of a recipient. Every recipient ends in `Done` or `Failed`, exactly once.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum RecipientState {
    /// To be tried; with what it met itself the last time, if not its destination's own trouble.
    Open(Option<Box<Report>>),
    /// Delivered or relayed. Kept only while a success report is owed or the message lives.
    Done {
        /// The last word of whoever took it.
        report: Box<Report>,
        /// Handed on to a host that reports itself, so only `relayed` may be said of it (RFC 3461 5.2.2).
        relayed: bool,
        /// Nothing more is owed to the sender.
        reported: bool,
    },
    /// Given up.
    Failed {
        /// Why.
        report: Box<Report>,
        /// The sender was told, or is not to be.
        reported: bool,
    },
}

impl RecipientState {
    /// Whether it still has to be tried.
    pub fn is_open(&self) -> bool {
        matches!(self, RecipientState::Open(_))
    }
}

/// NOTIFY (RFC 3461 4.1): which reports the sender wants of one recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum Notify {
    /// Not said: failure and delay.
    Unspecified,
    /// NEVER.
    Never,
    /// Any of these, at least one.
    On {
        /// SUCCESS
        success: bool,
        /// FAILURE
        failure: bool,
        /// DELAY
        delay: bool,
    },
}

impl Notify {
    /// A report when it is delivered?
    pub fn success(self) -> bool {
        matches!(self, Notify::On { success: true, .. })
    }

    /// A report when it is given up?
    pub fn failure(self) -> bool {
        matches!(self, Notify::Unspecified | Notify::On { failure: true, .. })
    }

    /// A warning when it takes long?
    pub fn delay(self) -> bool {
        matches!(self, Notify::Unspecified | Notify::On { delay: true, .. })
    }
}

/// BODY (RFC 6152).
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum BodyType {
    /// Nothing above 127.
    SevenBit,
    /// Octets above 127.
    EightBitMime,
}

/// RET (RFC 3461 4.3): how much of the message a failure report carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum Ret {
    /// All of it (up to BounceSizeLimit).
    Full,
    /// The header.
    Headers,
}

/// Which of sendmail's four sets of queue timeouts a message has.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize,
)]
pub enum TimeoutClass {
    /// Everything else.
    Normal,
    /// `Priority: urgent`, or Precedence above 0.
    Urgent,
    /// `Priority: non-urgent`, or Precedence below 0.
    NonUrgent,
    /// A delivery report.
    Dsn,
}

impl TimeoutClass {
    /// All four, in key order.
    pub const ALL: [TimeoutClass; 4] =
        [TimeoutClass::Normal, TimeoutClass::Urgent, TimeoutClass::NonUrgent, TimeoutClass::Dsn];
}
