//! How things end for the client: each recipient's [`Fate`], and the [`Fault`] that ended a connection.
//!
//! Facts only. What a fate or a fault means for the message, the host and the report is decided in `deliver`.

use std::fmt;

use crate::mail::status::Reply;

/// What became of one recipient in one transaction. Each recipient of a letter gets exactly one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// The server took the message for it: 2yz after the body.
    Taken {
        /// Its last word.
        reply: Reply,
        /// It offered DSN and was given this recipient's NOTIFY (RFC 3461 5.2.1).
        dsn_aware: bool,
        /// It offered DELIVERBY and was given BY, if the message has one (RFC 2852).
        by_aware: bool,
    },
    /// The server said 4yz or 5yz to something that concerns this recipient.
    Refused {
        /// Its reply.
        reply: Reply,
        /// What it answered: `RCPT To:<a@b>`; `DATA` also for a reply after the final dot.
        command: String,
    },
    /// Not sent, because the server cannot take it.
    Unfit(Unfit),
    /// One recipient too many for this transaction, which has others (RFC 5321 4.5.3.1.10): fits the next one.
    Later(Reply),
    /// The connection ended before this recipient's verdict and before the end of the body: surely not delivered.
    Untold,
    /// The connection ended between the end of the body and the reply: delivered or not, nobody can tell (RFC 1047).
    Unknown,
}

/// Why a message cannot be given to this server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// Larger than its SIZE.
    TooLarge {
        /// Octets it takes.
        limit: u64,
    },
    /// Needs SMTPUTF8, which it does not offer (RFC 6531 3.2).
    NeedsUtf8,
    /// Is to go back when it is late, and the server does not offer DELIVERBY (RFC 2852 4.1.4.2).
    NoDeliverBy,
    /// Is to go back when it is late, and the server takes longer (RFC 2852 4.1.4.1).
    TooLate {
        /// Seconds left.
        left: i64,
        /// Seconds it wants at least.
        minimum: i64,
    },
}

/// Why a connection is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// We said QUIT.
    Dismissed,
    /// The peer closed its side.
    Closed(Step),
    /// The connection broke; the system's words.
    Broken(Step, String),
    /// A step's deadline passed.
    TimedOut(Step),
    /// 421: it is going away (RFC 5321 3.8).
    Leaving(Step, Reply),
    /// Greeting, EHLO and HELO, or RSET were refused.
    Refused(Step, Reply),
    /// A reply before the end of what it answers, which leaves nobody sure of the rest.
    Early(Reply),
    /// Bytes that no command of ours asked for: they could pass for the reply to the next command.
    Unsolicited(Step),
    /// Not SMTP: what is wrong with it.
    Garbled(Step, String),
    /// Clear text after the go-ahead for TLS: somebody injects replies (CVE-2011-0411 and its kin).
    Injected,
    /// The TLS handshake failed; the library's words.
    Tls(String),
    /// Our own side could not supply the body; nothing was ended by a dot.
    NoBody,
}

/// What the client was waiting for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// 220.
    Greeting,
    /// EHLO, HELO or LHLO.
    Hello,
    /// STARTTLS or the handshake.
    StartTls,
    /// Nothing: between transactions.
    Idle,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// Sending the body.
    Body,
    /// The reply to the body.
    Final,
    /// RSET.
    Reset,
    /// QUIT.
    Quit,
}

/// For people: `greeting`, `EHLO`, `end of message`.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Greeting => "greeting",
            Step::Hello => "EHLO",
            Step::StartTls => "STARTTLS",
            Step::Idle => "idle time",
            Step::Mail => "MAIL",
            Step::Rcpt => "RCPT",
            Step::Data => "DATA",
            Step::Body => "message body",
            Step::Final => "end of message",
            Step::Reset => "RSET",
            Step::Quit => "QUIT",
        })
    }
}
