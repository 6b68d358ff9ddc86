//! What -v shows a person of a delivery: sendmail's words, one function per line, without line ends.
//!
//! The same facts as the log, so the same care: no control characters from outside.

use super::line::escape;
use crate::mail::address::Address;
use crate::mail::job::Mailer;
use crate::mail::outcome::{Outcome, Report};
use crate::mail::queue_id::QueueId;
use crate::mail::status::Reply;

/// Octets of addresses named in one line.
const ADDRESSES_MAX: usize = 400;

/// `a@x,b@x... Sent (Ok)`
pub fn outcome<'a>(recipients: impl Iterator<Item = &'a Address>, outcome: &Outcome) -> String {
    clean(&format!("{}... {}", join(recipients), outcome.stat()))
}

/// `a@x,b@x... Deferred: Connection refused by x.`: no host could be spoken to.
pub fn unreachable<'a>(recipients: impl Iterator<Item = &'a Address>, report: &Report) -> String {
    clean(&format!("{}... {}", join(recipients), report.deferral()))
}

/// `a@x... Connecting to x. port 25 via esmtp...`; a mailer of this machine has no port.
pub fn connecting<'a>(
    recipients: impl Iterator<Item = &'a Address>,
    host: &str,
    port: Option<u16>,
    mailer: Mailer,
) -> String {
    let via = match port {
        Some(port) => format!("{}. port {port} via {}", host.trim_end_matches('.'), mailer.name()),
        None => mailer.name().to_owned(),
    };
    clean(&format!("{}... Connecting to {via}...", join(recipients)))
}

/// `Closing connection to x.`
pub fn closing(host: &str, mailer: Mailer) -> String {
    match mailer {
        Mailer::Local => "Closing connection to local".to_owned(),
        Mailer::Esmtp | Mailer::Relay | Mailer::Lmtp => {
            clean(&format!("Closing connection to {}.", host.trim_end_matches('.')))
        }
    }
}

/// `Running /var/spool/kvmta/6AM6KPaP020579 (sequence 1 of 4)`
pub fn running(directory: &std::path::Path, id: QueueId, number: u64, total: u64) -> String {
    let path = directory.join(id.to_string());
    clean(&format!("Running {} (sequence {number} of {total})", path.display()))
}

/// `>>> MAIL From:<a@b>`: what we said.
pub fn said(command: &str) -> String {
    clean(&format!(">>> {command}"))
}

/// `250-first`, `250 last`: what a host answered, line by line.
pub fn heard(reply: &Reply) -> Vec<String> {
    let status = reply.enhanced.map(|status| format!("{status} ")).unwrap_or_default();
    let last = reply.lines.len();
    let lines = (1..).zip(&reply.lines);
    lines
        .map(|(i, text)| {
            let mark = if i == last { ' ' } else { '-' };
            clean(&format!("{}{mark}{status}{text}", reply.code))
        })
        .collect()
}

fn join<'a>(recipients: impl Iterator<Item = &'a Address>) -> String {
    let mut out = String::new();
    for address in recipients {
        if !out.is_empty() {
            out.push(',');
        }
        if out.len() + address.as_str().len() > ADDRESSES_MAX && !out.is_empty() {
            out.push_str("...");
            break;
        }
        out.push_str(address.as_str());
    }
    out
}

fn clean(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.push_str(&escape(c)) } else { out.push(c) }
    }
    out
}
