//! What an attempt met: one outcome for each recipient, as data. An error of ours is never one of these.

use super::address::Address;
use super::envelope::Recipient;
use super::queue_id::QueueId;
use super::status::{EnhancedStatus, Reply};
use super::time::Timestamp;

/// What one recipient met in one attempt.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum Outcome {
    /// In the mailbox.
    Delivered(Report),
    /// Taken by the next hop, which now answers for it.
    Relayed {
        /// Its last word.
        report: Report,
        /// It speaks DSN and was given NOTIFY, so it reports success itself (RFC 3461 5.2.1).
        dsn_aware: bool,
        /// It was given the time the message is to be delivered by, so that is its care now (RFC 2852 4.1.4.1).
        by_aware: bool,
    },
    /// Never.
    Failed(Report),
    /// Not now.
    Deferred(Report),
    /// An alias or .forward stands for other recipients: these, as new jobs of the same message.
    Replaced(Vec<Recipient>),
}

/// The facts behind an outcome: source of log line, mailq status and report alike.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Report {
    /// For the report and `dsn=`.
    pub status: EnhancedStatus,
    /// For people, one line: `Connection refused by mx.example.net.`, `450 4.2.1 <x>... busy`. No control characters.
    pub text: String,
    /// The server's reply, when it was one that decided.
    pub reply: Option<Reply>,
    /// The command it answered, as sent (`RCPT To:<a@b>`), for the transcript.
    pub command: Option<String>,
    /// The host spoken to, when there was one.
    pub remote: Option<RemoteHost>,
    /// When.
    pub at: Timestamp,
}

/// A host by the name connected to and its address: `mx.example.net. [192.0.2.1]` in `relay=`.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct RemoteHost {
    /// Lower case, no final dot; an address literal in brackets.
    pub name: String,
    /// `192.0.2.1`, a socket path, or empty when no connection stood.
    pub address: String,
}

impl Outcome {
    /// The facts; none for `Replaced`.
    pub fn report(&self) -> Option<&Report> {
        match self {
            Outcome::Delivered(report)
            | Outcome::Relayed { report, .. }
            | Outcome::Failed(report)
            | Outcome::Deferred(report) => Some(report),
            Outcome::Replaced(_) => None,
        }
    }
}

/// How a recipient is written of in the log, in mailq and in verbose output (sendmail's `stat=`).
impl Outcome {
    /// `Sent`, `Sent (Ok)`, `Deferred: Connection refused by x.`, `User unknown`.
    pub fn stat(&self) -> String {
        match self {
            Outcome::Delivered(_) => "Sent".to_owned(),
            Outcome::Relayed { report, .. } => match &report.reply {
                Some(reply) if !reply.text().is_empty() => format!("Sent ({})", reply.text()),
                _ => "Sent".to_owned(),
            },
            Outcome::Failed(report) => report.failure(),
            Outcome::Deferred(report) => report.deferral(),
            Outcome::Replaced(_) => "Expanded".to_owned(),
        }
    }
}

impl Report {
    /// `Deferred: ` and the words; `Deferred` without words.
    pub fn deferral(&self) -> String {
        if self.text.is_empty() {
            return "Deferred".to_owned();
        }
        format!("Deferred: {}", self.text)
    }

    /// Why it failed, in sendmail's words: a refusal in a dialogue is one of two, trouble of our own has its text.
    pub fn failure(&self) -> String {
        match (&self.reply, &self.command) {
            (Some(_), Some(_)) if self.refuses_recipient() => "User unknown".to_owned(),
            (Some(_), Some(_)) => "Service unavailable".to_owned(),
            (Some(reply), None) if reply.to_string() == self.text => reply.text(),
            _ if self.text.is_empty() => "Service unavailable".to_owned(),
            _ => self.text.clone(),
        }
    }

    /// What the failure is for a shell (sysexits): 67 no such user, 68 no such host, 69 the rest.
    pub fn exit(&self) -> u8 {
        match self.status.parts() {
            _ if self.refuses_recipient() => 67,
            (_, 1, 1) => 67,
            (_, 1, 2) => 68,
            _ => 69,
        }
    }

    /// Whether a host refused this one recipient (550, 551, 553 to RCPT), not the mail as such.
    pub fn refuses_recipient(&self) -> bool {
        let rcpt = self.command.as_deref().and_then(|command| command.get(..4));
        let code = self.reply.as_ref().map(|reply| reply.code);
        rcpt.is_some_and(|verb| verb.eq_ignore_ascii_case("RCPT"))
            && matches!(code, Some(550 | 551 | 553))
    }
}

/// What a whole attempt met: the destination as such, and the recipients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Attempt {
    /// Some host was spoken to: every recipient of the job has its own outcome, in the job's order.
    Tried(Vec<(u32, Outcome)>),
    /// No host of the destination could be spoken to (refused, timed out, 421, DNS down): nothing of this
    /// message's own was learnt, and every other job for the destination would meet the same.
    Unreachable(Report),
}

/// What became of one host in an attempt, for host status: by the name connected to.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct HostOutcome {
    /// Lower-case name or literal.
    pub host: String,
    /// Up (it took a transaction or said so) or down, with the words for hoststat.
    pub up: bool,
    /// The reply or trouble.
    pub text: String,
    /// Status of the last word.
    pub status: EnhancedStatus,
    /// When.
    pub at: Timestamp,
}

/// Where a report goes and what it says: a message of ours, ready to be accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReportMessage {
    /// Its one recipient: the sender of the original, or the postmaster.
    pub to: Address,
    /// Header, blank line and body with CRLF line ends.
    pub bytes: Vec<u8>,
    /// Octets of header, including the blank line.
    pub header_len: u64,
    /// Where in `bytes` its own queue ID belongs, which nobody knows before it is stored: each place has room for one.
    pub names: Vec<usize>,
}

impl ReportMessage {
    /// What stands in each of `names` until then.
    pub const NAMELESS: &str = "00000000000000";

    /// Its bytes under the name `id`.
    pub fn named(&self, id: QueueId) -> Vec<u8> {
        let id = id.to_string();
        let mut bytes = self.bytes.clone();
        for start in &self.names {
            if let Some(place) = bytes.get_mut(*start..*start + id.len()) {
                place.copy_from_slice(id.as_bytes());
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As sendmail's exit status and its `stat=` have it: 550, 551 and 553 to RCPT are unknown users, whatever their status says.
    #[test]
    fn failures_have_an_exit_status() {
        let failure = |status: &str, code: Option<u16>, command: Option<&str>| Report {
            status: status.parse().unwrap(),
            text: String::new(),
            reply: code.map(|code| Reply::new(code, None, "no")),
            command: command.map(str::to_owned),
            remote: None,
            at: Timestamp::ZERO,
        };
        for (status, code, command, exit) in [
            ("5.1.1", Some(550), Some("RCPT To:<a@b>"), 67),
            ("5.7.1", Some(550), Some("RCPT To:<a@b>"), 67),
            ("5.7.1", Some(551), Some("rcpt to:<a@b>"), 67),
            ("5.2.2", Some(552), Some("RCPT To:<a@b>"), 69),
            ("5.7.1", Some(550), Some("DATA"), 69),
            ("5.1.1", None, None, 67),
            ("5.1.2", None, None, 68),
            ("5.4.7", None, None, 69),
        ] {
            assert_eq!(failure(status, code, command).exit(), exit, "{status} {code:?}");
        }
    }
}
