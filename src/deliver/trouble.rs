//! Whose trouble it is: the policy for everything that goes wrong between us and a host, in one place. Pure functions.
//!
//! | what happened | status | whose | what follows |
//! |---|---|---|---|
//! | connect refused, timed out, no route | 4.4.1 | host | next address, next host |
//! | greeting, EHLO: closed, broken, timed out | 4.4.2 | host | next host |
//! | greeting, EHLO: not SMTP, unasked replies | 4.5.0 | host | next host |
//! | greeting or EHLO refused with 4yz or 5yz, 421 up to MAIL | the reply's in class 4, else 4.3.2 | host | next host |
//! | greeting 521 (RFC 7504) | the reply's, else 5.3.2 | host, for good | next host; failed when all say so |
//! | TLS handshake failed | 4.7.0 | host | next host; with TLSFallbacktoClear the same host in clear, on a new connection |
//! | clear text in front of the handshake | 4.7.0 | host | next host, never in clear |
//! | an idle connection ends, RSET refused | | connection | a new connection to the same host |
//! | in a transaction, before its end: closed, broken, timed out | 4.4.2 | message | next host, else deferred |
//! | in a transaction, before its end: not SMTP | 4.5.0 | message | next host, else deferred |
//! | 421 at RCPT or DATA | the reply's, else 4.3.2 | message | next host, else deferred |
//! | the same after the end of the message, without a reply | 4.4.2, 4.5.0 | message | deferred: it may have arrived |
//! | 4yz, 5yz to MAIL, RCPT, DATA or the body | the reply's | recipient | deferred, failed |
//! | 452 or 552: too many recipients | | transaction | the next one on the same connection |
//! | larger than SIZE | 5.3.4 | message | failed |
//! | needs SMTPUTF8 | 5.6.7 | recipient | failed |
//! | by-mode R, and DELIVERBY is not offered or takes longer (RFC 2852 4.1.4) | 5.4.7 | message | failed |
//! | needs 8BITMIME, and EightBitMode or its own form forbids a conversion | 5.6.3 | message | failed |
//!
//! *Host* means: nothing of this message's own was learnt, and any other message would have met the same. Trouble within
//! a transaction is never the host's, so that one message that a server cannot bear does not stop all others. A 5yz
//! greeting is not final (but for 521): it says more often that the host is ill, or takes us for somebody else, than
//! that the domain has no mail, and waiting loses nothing.

use std::io;

use crate::mail::job::Mailer;
use crate::mail::outcome::{Outcome, RemoteHost, Report};
use crate::mail::status::{EnhancedStatus, Reply, StatusClass};
use crate::mail::time::Timestamp;
use crate::smtp::client::{Fate, Fault, Step, Unfit};

const NO_ANSWER: EnhancedStatus = EnhancedStatus::new(4, 4, 1);
const BAD_CONNECTION: EnhancedStatus = EnhancedStatus::new(4, 4, 2);
const NOT_ACCEPTING: EnhancedStatus = EnhancedStatus::new(4, 3, 2);
const PROTOCOL: EnhancedStatus = EnhancedStatus::new(4, 5, 0);
const OWN_SYSTEM: EnhancedStatus = EnhancedStatus::new(4, 3, 0);
const NOT_IN_TIME: EnhancedStatus = EnhancedStatus::new(5, 4, 7);

/// A host and an instant: the part of a report that does not depend on what happened.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) host: &'a RemoteHost,
    pub(super) at: Timestamp,
}

/// Whose trouble a lost connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Whose {
    /// This connection's alone.
    Connection,
    /// The host's.
    Host,
    /// The host's, and it will never take mail (RFC 7504).
    HostForGood,
    /// Maybe this message's.
    Message,
}

/// What a fate means.
#[derive(Debug)]
pub(super) enum Course {
    /// This is the outcome.
    Settled(Outcome),
    /// To be asked again in the next transaction.
    NextTransaction,
    /// Not delivered, and no verdict.
    NextHost,
    /// Delivered or not: deferred with the fault of the connection.
    InDoubt,
}

/// What a recipient's fate means for it.
pub(super) fn course(fate: Fate, mailer: Mailer, scene: Scene<'_>) -> Course {
    match fate {
        Fate::Taken { reply, dsn_aware, by_aware } => {
            let report = scene.report(reply.status(), joined(&reply), Some(reply), None);
            Course::Settled(match mailer {
                Mailer::Lmtp | Mailer::Local => Outcome::Delivered(report),
                Mailer::Esmtp | Mailer::Relay => Outcome::Relayed { report, dsn_aware, by_aware },
            })
        }
        Fate::Refused { reply, command } => {
            let permanent = reply.is_permanent();
            let status = refusal_status(&reply, &command);
            let report = scene.report(status, reply.to_string(), Some(reply), Some(command));
            Course::Settled(if permanent {
                Outcome::Failed(report)
            } else {
                Outcome::Deferred(report)
            })
        }
        Fate::Unfit(unfit) => {
            let (status, text) = match unfit {
                Unfit::TooLarge { limit } => (
                    EnhancedStatus::new(5, 3, 4),
                    format!("Message is too large; {limit} bytes max at {}", name(scene.host)),
                ),
                Unfit::NeedsUtf8 => (
                    EnhancedStatus::new(5, 6, 7),
                    format!("SMTPUTF8 is required and {} does not offer it", name(scene.host)),
                ),
                Unfit::NoDeliverBy => (NOT_IN_TIME, "Server does not support Deliver By".into()),
                Unfit::TooLate { left, minimum } => {
                    (NOT_IN_TIME, format!("Message can't be delivered in time; {left} < {minimum}"))
                }
            };
            Course::Settled(Outcome::Failed(scene.report(status, text, None, None)))
        }
        Fate::Later(_) => Course::NextTransaction,
        Fate::Untold => Course::NextHost,
        Fate::Unknown => Course::InDoubt,
    }
}

/// Whose trouble it is that the connection is over.
pub(super) fn whose(fault: &Fault) -> Whose {
    match fault {
        Fault::Dismissed => Whose::Connection,
        Fault::Injected | Fault::Tls(_) => Whose::Host,
        Fault::Early(_) | Fault::NoBody => Whose::Message,
        Fault::Refused(Step::Greeting, reply) if reply.code == 521 => Whose::HostForGood,
        Fault::Leaving(Step::Mail, _) => Whose::Host,
        Fault::Closed(step)
        | Fault::Broken(step, _)
        | Fault::TimedOut(step)
        | Fault::Leaving(step, _)
        | Fault::Refused(step, _)
        | Fault::Unsolicited(step)
        | Fault::Garbled(step, _) => match step {
            Step::Idle | Step::Reset | Step::Quit => Whose::Connection,
            Step::Greeting | Step::Hello | Step::StartTls => Whose::Host,
            Step::Mail | Step::Rcpt | Step::Data | Step::Body | Step::Final => Whose::Message,
        },
    }
}

/// Whether TLSFallbacktoClear allows the host in clear: encrypting failed, and nobody was caught injecting.
pub(super) fn is_tls_trouble(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::Tls(_)
            | Fault::TimedOut(Step::StartTls)
            | Fault::Closed(Step::StartTls)
            | Fault::Broken(Step::StartTls, _)
    )
}

/// Whether the fault came before the peer said anything to the transaction: a connection that was used before may
/// simply have been too old.
pub(super) fn is_before_any_reply(fault: &Fault) -> bool {
    match fault {
        Fault::Closed(step)
        | Fault::Broken(step, _)
        | Fault::TimedOut(step)
        | Fault::Leaving(step, _)
        | Fault::Refused(step, _)
        | Fault::Unsolicited(step)
        | Fault::Garbled(step, _) => {
            matches!(step, Step::Idle | Step::Reset | Step::Mail | Step::Quit)
        }
        Fault::Dismissed => true,
        Fault::Early(_) | Fault::Injected | Fault::Tls(_) | Fault::NoBody => false,
    }
}

impl Scene<'_> {
    fn report(
        self,
        status: EnhancedStatus,
        text: String,
        reply: Option<Reply>,
        command: Option<String>,
    ) -> Report {
        Report { status, text, reply, command, remote: Some(self.host.clone()), at: self.at }
    }

    /// The report of a message that a host without 8BITMIME cannot have (EightBitMode).
    pub(super) fn lacks_8bit(self) -> Report {
        let text = format!("{} does not support 8BITMIME", name(self.host));
        self.report(EnhancedStatus::new(5, 6, 3), text, None, None)
    }

    /// The report of a connection that could not be made.
    pub(super) fn no_connection(self, error: &io::Error) -> Report {
        let name = name(self.host);
        let text = match error.kind() {
            io::ErrorKind::ConnectionRefused => format!("Connection refused by {name}"),
            io::ErrorKind::TimedOut => format!("Connection timed out with {name}"),
            io::ErrorKind::ConnectionReset => format!("Connection reset by {name}"),
            io::ErrorKind::NetworkUnreachable => format!("Network is unreachable: {name}"),
            io::ErrorKind::HostUnreachable => format!("No route to host {name}"),
            _ => printable(&format!("Cannot connect to {name}: {error}")),
        };
        self.report(NO_ANSWER, text, None, None)
    }

    /// The report of a connection that ended: in class 4, but for a host that never takes mail.
    pub(super) fn lost(self, fault: &Fault) -> Report {
        let name = name(self.host);
        let by_reply = |reply: &Reply| {
            let status = reply.enhanced.unwrap_or(NOT_ACCEPTING);
            let status = status.with_class(StatusClass::Transient);
            self.report(status, reply.to_string(), Some(reply.clone()), None)
        };
        let by_us = |status, text: String| self.report(status, printable(&text), None, None);
        match fault {
            Fault::Refused(Step::Greeting, reply) if reply.code == 521 => {
                let status = reply.enhanced.unwrap_or(EnhancedStatus::new(5, 3, 2));
                self.report(status, reply.to_string(), Some(reply.clone()), None)
            }
            Fault::Leaving(_, reply) | Fault::Refused(_, reply) | Fault::Early(reply) => {
                by_reply(reply)
            }
            Fault::Closed(step) => {
                by_us(BAD_CONNECTION, format!("Connection closed by {name} during {step}"))
            }
            Fault::Broken(step, words) => {
                by_us(BAD_CONNECTION, format!("Connection with {name} lost during {step}: {words}"))
            }
            Fault::TimedOut(step) => {
                by_us(BAD_CONNECTION, format!("Connection timed out with {name} during {step}"))
            }
            Fault::Unsolicited(step) => {
                by_us(PROTOCOL, format!("Protocol error of {name} during {step}: unasked reply"))
            }
            Fault::Garbled(step, words) => {
                by_us(PROTOCOL, format!("Protocol error of {name} during {step}: {words}"))
            }
            Fault::Injected => by_us(
                EnhancedStatus::new(4, 7, 0),
                format!("Clear text before the TLS handshake with {name}"),
            ),
            // As sendmail's ruleset tls_server says it; the library's words are for the log.
            Fault::Tls(_) => {
                by_us(EnhancedStatus::new(4, 7, 0), "454 4.7.0 TLS handshake failed.".into())
            }
            Fault::Dismissed => by_us(BAD_CONNECTION, format!("Connection with {name} was closed")),
            Fault::NoBody => by_us(OWN_SYSTEM, "Message could not be read from the queue".into()),
        }
    }
}

/// The report of trouble on our own side, when no host is to blame.
pub(super) fn own(text: &str, at: Timestamp) -> Report {
    let text = printable(text);
    Report { status: OWN_SYSTEM, text, reply: None, command: None, remote: None, at }
}

/// The report when no host may be tried, because all failed a short time ago.
pub(super) fn all_skipped(next_hop: &str, at: Timestamp) -> Report {
    let text = format!("All hosts of {} failed recently", printable(next_hop));
    Report { status: NO_ANSWER, text, reply: None, command: None, remote: None, at }
}

/// RFC 3463 for a reply without a status of its own: what the code says, at RCPT of the address (RFC 5321 4.2.3).
fn refusal_status(reply: &Reply, command: &str) -> EnhancedStatus {
    let at_rcpt = command.starts_with("RCPT");
    match (reply.enhanced, reply.code) {
        (Some(status), _) => status,
        (None, 450) if at_rcpt => EnhancedStatus::new(4, 2, 0),
        (None, 550) if at_rcpt => EnhancedStatus::new(5, 1, 1),
        (None, 551) if at_rcpt => EnhancedStatus::new(5, 1, 6),
        (None, 552) if at_rcpt => EnhancedStatus::new(5, 2, 2),
        (None, 553) if at_rcpt => EnhancedStatus::new(5, 1, 3),
        (None, 452) => EnhancedStatus::new(4, 3, 1),
        (None, _) => reply.status(),
    }
}

/// The reply's text alone: what stands in `Sent (...)`.
fn joined(reply: &Reply) -> String {
    reply.lines.join(" ").trim().to_owned()
}

/// As sendmail writes hosts: names with the final dot of DNS, literals and paths as they are.
pub(super) fn name(host: &RemoteHost) -> String {
    match host.name.chars().next() {
        Some('[' | '/') | None => host.name.clone(),
        Some(_) => format!("{}.", host.name),
    }
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> RemoteHost {
        RemoteHost { name: "mx.example".into(), address: "192.0.2.1".into() }
    }

    fn lost(fault: &Fault) -> String {
        let report = Scene { host: &host(), at: Timestamp::ZERO }.lost(fault);
        format!("{} {}", report.status, report.text)
    }

    fn reply(text: &str) -> Reply {
        let (code, text) = text.split_once(' ').unwrap();
        let (status, rest) = EnhancedStatus::split_from(text);
        Reply::new(code.parse().unwrap(), status, rest)
    }

    /// Every row of the table about connections.
    #[test]
    fn connections() {
        for (fault, whose_it_is, words) in [
            (
                Fault::Closed(Step::Greeting),
                Whose::Host,
                "4.4.2 Connection closed by mx.example. during greeting",
            ),
            (
                Fault::TimedOut(Step::Hello),
                Whose::Host,
                "4.4.2 Connection timed out with mx.example. during EHLO",
            ),
            (
                Fault::Garbled(Step::Greeting, "x\n".into()),
                Whose::Host,
                "4.5.0 Protocol error of mx.example. during greeting: x?",
            ),
            (
                Fault::Refused(Step::Greeting, reply("554 5.7.1 no")),
                Whose::Host,
                "4.7.1 554 5.7.1 no",
            ),
            (Fault::Refused(Step::Hello, reply("550 no")), Whose::Host, "4.3.2 550 no"),
            (Fault::Refused(Step::Greeting, reply("521 no")), Whose::HostForGood, "5.3.2 521 no"),
            (
                Fault::Leaving(Step::Mail, reply("421 4.7.0 slow")),
                Whose::Host,
                "4.7.0 421 4.7.0 slow",
            ),
            (Fault::Leaving(Step::Rcpt, reply("421 bye")), Whose::Message, "4.3.2 421 bye"),
            (
                Fault::Injected,
                Whose::Host,
                "4.7.0 Clear text before the TLS handshake with mx.example.",
            ),
            (Fault::Tls("alert".into()), Whose::Host, "4.7.0 454 4.7.0 TLS handshake failed."),
            (
                Fault::Closed(Step::Idle),
                Whose::Connection,
                "4.4.2 Connection closed by mx.example. during idle time",
            ),
            (
                Fault::Broken(Step::Final, "reset".into()),
                Whose::Message,
                "4.4.2 Connection with mx.example. lost during end of message: reset",
            ),
        ] {
            assert_eq!((whose(&fault), lost(&fault).as_str()), (whose_it_is, words));
        }
    }

    #[test]
    fn connects() {
        let scene = |error: io::ErrorKind| {
            let report = Scene { host: &host(), at: Timestamp::ZERO }.no_connection(&error.into());
            assert_eq!(report.status, NO_ANSWER);
            report.text
        };
        assert_eq!(scene(io::ErrorKind::ConnectionRefused), "Connection refused by mx.example.");
        assert_eq!(scene(io::ErrorKind::TimedOut), "Connection timed out with mx.example.");
    }

    #[test]
    fn recipients() {
        let course =
            |fate| course(fate, Mailer::Esmtp, Scene { host: &host(), at: Timestamp::ZERO });
        let refused = |text: &str, command: &str| match course(Fate::Refused {
            reply: reply(text),
            command: command.into(),
        }) {
            Course::Settled(Outcome::Failed(r)) => format!("failed {} {}", r.status, r.text),
            Course::Settled(Outcome::Deferred(r)) => format!("deferred {} {}", r.status, r.text),
            other => panic!("{other:?}"),
        };
        assert_eq!(refused("550 no", "RCPT To:<a@b>"), "failed 5.1.1 550 no");
        assert_eq!(refused("550 no", "DATA"), "failed 5.0.0 550 no");
        assert_eq!(refused("450 4.3.0 no", "RCPT To:<a@b>"), "deferred 4.3.0 450 4.3.0 no");
        let Course::Settled(Outcome::Relayed { report, dsn_aware: true, by_aware: false }) =
            course(Fate::Taken { reply: reply("250 2.0.0 Ok"), dsn_aware: true, by_aware: false })
        else {
            panic!("taken is relayed")
        };
        assert_eq!((report.text.as_str(), report.status.to_string().as_str()), ("Ok", "2.0.0"));
        assert!(matches!(course(Fate::Unknown), Course::InDoubt));
        assert!(matches!(course(Fate::Later(reply("452 many"))), Course::NextTransaction));
    }
}
