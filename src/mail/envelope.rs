//! The envelope: reverse-path, recipients, and what RFC 3461 and friends let a sender ask for. Not the header.

use std::time::Duration;

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
    /// BY of MAIL (RFC 2852 4).
    pub deliver_by: Option<DeliverBy>,
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

    /// The time it is to be delivered by (RFC 2852); none without one, and when it was over before the message came: then
    /// somebody else has told its sender (RFC 2852 4.1.4.1).
    pub fn deliver_by_time(&self) -> Option<Timestamp> {
        let by = self.deliver_by.filter(|by| by.seconds > 0)?;
        Some(self.arrival.after(Duration::from_secs(by.seconds.unsigned_abs().into())))
    }

    /// Whether it is to go back, because it was not delivered in time (RFC 2852 4.1.3: by-mode R).
    pub fn is_too_late(&self, now: Timestamp) -> bool {
        let returns = self.deliver_by.is_some_and(|by| by.mode == ByMode::Return);
        returns && self.deliver_by_time().is_some_and(|time| now >= time)
    }

    /// Seconds that are left of the time it is to be delivered by, below 0 when that is over: what a next hop is told.
    pub fn deliver_by_left(&self, now: Timestamp) -> Option<i64> {
        let spent = now.since(self.arrival).as_secs();
        let left = i64::from(self.deliver_by?.seconds)
            .saturating_sub(i64::try_from(spent).unwrap_or(i64::MAX));
        Some(left.max(-i64::from(DeliverBy::SECONDS_MAX)))
    }

    /// Whether the sender is owed word that a next hop took it for this recipient: because he asked for it and the hop will
    /// not tell him (RFC 3461 5.2.2), or by DELIVERBY (RFC 2852 4.1.4: with the trace modifier, and with by-mode N at a hop without
    /// the extension).
    pub fn owes_relayed(&self, recipient: &Recipient, dsn_aware: bool, by_aware: bool) -> bool {
        let by =
            self.deliver_by.is_some_and(|by| by.trace || by.mode == ByMode::Notify && !by_aware);
        let asked = recipient.notify.success() && !dsn_aware;
        asked || by && recipient.notify != Notify::Never
    }

    /// Its priority after so many attempts, lower goes first (sendmail's `P`): that of its submission, and `retry_factor` (RetryFactor)
    /// for each attempt after the first. What orders the queue, `pri=` of the log and mailq all show this one.
    pub fn priority_after(&self, attempts: u32, retry_factor: i64) -> i64 {
        let retries = i64::from(attempts.saturating_sub(1));
        self.priority.saturating_add(retries.saturating_mul(retry_factor))
    }

    /// Whether it is a report of ours: never answered, and its timeouts are those of class dsn.
    pub fn is_report(&self) -> bool {
        self.reverse_path.is_null() && self.relay.is_empty()
    }
}

/// BY of MAIL (RFC 2852 4): when it is to be delivered, and what is to become of it after that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct DeliverBy {
    /// Seconds from its arrival, at most [`DeliverBy::SECONDS_MAX`] either way; above 0 with [`ByMode::Return`].
    pub seconds: i32,
    /// After that.
    pub mode: ByMode,
    /// Its sender is told of each host that takes it over.
    pub trace: bool,
}

impl DeliverBy {
    /// Nine digits (RFC 2852 4).
    pub const SECONDS_MAX: i32 = 999_999_999;
}

/// by-mode (RFC 2852 4.1.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum ByMode {
    /// N: its sender is told of the delay.
    Notify,
    /// R: it goes back.
    Return,
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
    /// The same, and where nothing was said a report of success beside the others (sendmail RrtImpliesDsn).
    pub fn or_receipt(self) -> Notify {
        match self {
            Notify::Unspecified => Notify::On { success: true, failure: true, delay: true },
            said => said,
        }
    }

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
    /// Octets above 127, and it says that it is MIME: by BODY=8BITMIME, or by MIME-Version.
    EightBitMime,
    /// Octets above 127, and it says nothing of them.
    EightBit,
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
