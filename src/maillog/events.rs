//! One function per event, with the LogLevel from which it is logged (reference: sendmail op guide, syslog).
//!
//! The names and the order of fields are sendmail's, because the programs that read mail logs know them. `relay` arguments
//! are as in Received: `mx.example [192.0.2.1]`, `root@localhost`.

use std::fmt::{self, Write as _};
use std::time::Duration;

use super::line::{Atom, LINE_MAX, Short};
use super::{Maillog, Severity, remember};
use crate::mail::address::Address;
use crate::mail::envelope::{BodyType, Envelope};
use crate::mail::history::What;
use crate::mail::job::Job;
use crate::mail::outcome::{Attempt, Outcome, RemoteHost, Report};
use crate::mail::queue_id::QueueId;
use crate::mail::status::{EnhancedStatus, Reply};
use crate::mail::time::{Timestamp, delay, in_words};
use crate::world::TlsFacts;

/// Characters of a peer's reply or of our reason in one field, so that the fields after it have room.
const REPLY_MAX: usize = 240;
/// Characters of a Message-Id.
const MESSAGE_ID_MAX: usize = 200;
/// Octets left for addresses at least, however long the other fields of the line are.
const ADDRESSES_MIN: usize = 64;

/// Which end of TLS we are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// A client came to us.
    Server,
    /// We went to a host.
    Client,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::Server => "server",
            Side::Client => "client",
        }
    }
}

/// A command that policy refused.
#[derive(Clone, Copy, Debug)]
pub struct Rejection<'a> {
    /// `check_relay`, `check_mail`, `check_rcpt`, `check_data`: the decision by the ruleset that makes it in sendmail.
    pub ruleset: &'a str,
    /// What it was about: an address as given, with its angle brackets.
    pub argument: &'a str,
    /// The client.
    pub relay: &'a str,
    /// What it was told.
    pub reply: &'a Reply,
}

/// Messages: taken, tried, done.
impl Maillog {
    /// `from=<a>, size=...`: a message is ours. Level 5.
    pub fn accepted(
        &self,
        id: QueueId,
        envelope: &Envelope,
        recipients: u32,
        daemon: Option<&str>,
    ) {
        self.remember(id, || remember::accepted(envelope, recipients));
        self.write(
            5,
            Severity::Info,
            Some(id),
            format_args!(
                "from={}, size={}, class={}, nrcpts={recipients}{}{}{}{}, relay={}",
                Bracketed(&envelope.reverse_path),
                envelope.size,
                envelope.precedence,
                Field("msgid", Short(&envelope.message_id, MESSAGE_ID_MAX)),
                Field("bodytype", Short(body_type(envelope.body_type), 10)),
                Field("proto", Short(&envelope.protocol, 10)),
                Field("daemon", Short(daemon.unwrap_or_default(), 40)),
                Relay(if envelope.relay.is_empty() { "[RESPONSE]" } else { &envelope.relay }),
            ),
        );
    }

    /// `to=<a>,<b>, delay=..., stat=...`: what an attempt that began at `began` and ended at `now` met, a line for each
    /// group of recipients that met the same. Level 8 sent, 7 failed, 9 deferred, 10 replaced by an alias. `priority` is that of
    /// the job with all its attempts ([`Job::priority`]).
    pub fn attempted(
        &self,
        job: &Job,
        priority: i64,
        attempt: &Attempt,
        began: Timestamp,
        now: Timestamp,
    ) {
        self.remember_attempt(job, attempt, now.since(began));
        let mut groups: Vec<(Met, Vec<&Address>)> = Vec::new();
        match attempt {
            Attempt::Unreachable(report) => {
                let all = job.recipients.iter().map(|(_, recipient)| &recipient.address);
                groups.push((Met::of_destination(report), all.collect()));
            }
            Attempt::Tried(outcomes) => {
                for (number, outcome) in outcomes {
                    let recipient = job.recipients.iter().find(|(n, _)| n == number);
                    let Some((_, recipient)) = recipient else { continue };
                    let Some(met) = Met::of(outcome) else {
                        self.expanded(job.id.queue_id, &recipient.address, outcome);
                        continue;
                    };
                    match groups.last_mut() {
                        Some((last, addresses)) if *last == met => {
                            addresses.push(&recipient.address);
                        }
                        _ => groups.push((met, vec![&recipient.address])),
                    }
                }
            }
        }
        for (met, addresses) in &groups {
            self.met(job, priority, met, addresses, (began, now));
        }
    }

    fn met(
        &self,
        job: &Job,
        priority: i64,
        met: &Met,
        addresses: &[&Address],
        (began, now): (Timestamp, Timestamp),
    ) {
        if !self.logs(met.level) {
            return;
        }
        let mut rest = String::new();
        // Writing to a String cannot fail.
        let _ = write!(
            rest,
            ", delay={}, xdelay={}, mailer={}, pri={}",
            delay(now.since(job.envelope.arrival)),
            delay(now.since(began)),
            job.destination.mailer.name(),
            priority.max(0),
        );
        if let Some(remote) = met.remote {
            let _ = write!(rest, ", relay={}", Host(remote));
        }
        let _ = write!(rest, ", dsn={}", met.status);
        if let Some(reply) = &met.reply {
            let _ = write!(rest, ", reply={}", Short(reply, REPLY_MAX));
        }
        let _ = write!(rest, ", stat={}", Short(&met.stat, REPLY_MAX));

        let id = job.id.queue_id;
        let room = (LINE_MAX - 40).saturating_sub(rest.len()).max(ADDRESSES_MIN);
        let mut to = String::new();
        for address in addresses {
            let piece = format!("<{}>", Atom(address.as_str()));
            if !to.is_empty() && to.len() + piece.len() > room {
                let line = format_args!("to={to}, [more]{rest}");
                self.write(met.level, Severity::Info, Some(id), line);
                to.clear();
            }
            if !to.is_empty() {
                to.push(',');
            }
            to.push_str(&piece);
        }
        self.write(met.level, Severity::Info, Some(id), format_args!("to={to}{rest}"));
    }

    fn expanded(&self, id: QueueId, address: &Address, outcome: &Outcome) {
        let Outcome::Replaced(others) = outcome else { return };
        let others: Vec<&str> = others.iter().map(|other| other.address.as_str()).collect();
        let others = others.join(",");
        let text = format_args!("alias {} => {}", Atom(address.as_str()), Atom(&others));
        self.write(10, Severity::Info, Some(id), text);
    }

    /// `done; delay=..., ntries=N`: nothing of the message is left. Level 10.
    pub fn done(&self, id: QueueId, age: Duration, attempts: u32) {
        self.remember(id, || What::Done { attempts });
        let text = format_args!("done; delay={}, ntries={attempts}", delay(age));
        self.write(10, Severity::Info, Some(id), text);
    }

    /// `NEWID: DSN: User unknown`: a report was made; `label` is `DSN`, `sender notify`, `return to sender` or
    /// `postmaster notify`. Level 6.
    pub fn report_made(&self, original: QueueId, report: QueueId, label: &str, text: &str) {
        self.remember(original, || remember::reported(report, label, text));
        let text = format_args!("{report}: {label}: {}", Short(text, REPLY_MAX));
        self.write(6, Severity::Info, Some(original), text);
    }

    /// Recipients of a report failed, and by RFC 5321 6.1 nobody is told. Level 6.
    pub fn report_dropped(&self, id: QueueId, text: &str) {
        let text = format_args!("undeliverable report dropped: {}", Short(text, REPLY_MAX));
        self.write(6, Severity::Notice, Some(id), text);
    }

    /// `runqueue: Skipping queue run -- load average too high`: nothing is tried for now. Level 8.
    pub fn queue_rests(&self, text: &str) {
        self.write(8, Severity::Info, None, format_args!("{text}"));
    }

    /// `shrank queue.redb from 671088640 to 1048576 bytes`: disk space was given back. Level 8, in the words of `grew WorkList`.
    pub fn shrank(&self, file: &str, before: u64, after: u64) {
        let text = format_args!("shrank {file} from {before} to {after} bytes");
        self.write(8, Severity::Info, None, text);
    }

    /// `saved to DeadLetterDrop /path`: a report that nobody could get. Level 6.
    pub fn saved_dead_letter(&self, id: QueueId, path: &str) {
        let text = format_args!("undeliverable report saved in {}", Short(path, REPLY_MAX));
        self.write(6, Severity::Notice, Some(id), text);
    }

    /// A message is held with a reason. Level 5.
    pub fn quarantined(&self, id: QueueId, reason: &str) {
        self.remember(id, || remember::held(reason));
        self.write(
            5,
            Severity::Info,
            Some(id),
            format_args!("quarantine={}", Short(reason, REPLY_MAX)),
        );
    }

    /// What an operator did to a message: `released by root`, `removed by root`. Level 5.
    pub fn operated(&self, id: QueueId, deed: &str, operator: &str) {
        self.remember(id, || remember::operated(deed, operator));
        self.write(5, Severity::Info, Some(id), format_args!("{deed} by {}", Atom(operator)));
    }

    /// The daemon stopped in the middle of these deliveries: the recipients may get the message twice. Level 1.
    pub fn duplicates_possible<'a>(
        &self,
        id: QueueId,
        recipients: impl Iterator<Item = &'a Address>,
    ) {
        for address in recipients {
            let address = Atom(address.as_str());
            let text =
                format_args!("to=<{address}>, stat=unsettled at stop: may be delivered twice");
            self.write(1, Severity::Notice, Some(id), text);
        }
    }

    /// A record cannot be read; the message is kept aside for the operator. Level 0.
    pub fn set_aside(&self, id: QueueId, reason: &str) {
        let reason = Short(reason, REPLY_MAX);
        self.write(0, Severity::Critical, Some(id), format_args!("Losing {id}: {reason}"));
    }
}

/// Clients: who came, what was refused, how it ended.
impl Maillog {
    /// `connect from host [addr]`. Level 10.
    pub fn connected(&self, relay: &str) {
        self.write(
            10,
            Severity::Info,
            None,
            format_args!("NOQUEUE: connect from {}", Relay(relay)),
        );
    }

    /// `ruleset=check_rcpt, arg1=<a>, relay=..., reject=550 5.7.1 ...`. Level 3.
    pub fn rejected(&self, id: Option<QueueId>, rejection: &Rejection<'_>) {
        let Rejection { ruleset, argument, relay, reply } = rejection;
        let reply = reply.to_string();
        let text = format_args!(
            "ruleset={ruleset}, arg1={}, relay={}, reject={}",
            Atom(argument),
            Relay(relay),
            Short(&reply, 2 * REPLY_MAX),
        );
        self.about(3, Severity::Notice, id, text);
    }

    /// `lost input channel from host [addr] to MTA after rcpt`: the client went without QUIT. Level 2.
    pub fn lost_input(&self, id: Option<QueueId>, relay: &str, daemon: &str, after: &str) {
        let relay = Relay(relay);
        let text = format_args!("lost input channel from {relay} to {daemon} after {after}");
        self.about(2, Severity::Notice, id, text);
    }

    /// `timeout waiting for input from host [addr] during server cmd read`. Level 2.
    pub fn timed_out(&self, id: Option<QueueId>, relay: &str, during: &str) {
        let text = format_args!("timeout waiting for input from {} during {during}", Relay(relay));
        self.about(2, Severity::Notice, id, text);
    }

    /// The client left in the middle of its message; nothing was taken. Level 2.
    pub fn premature_end(&self, id: QueueId, relay: &str) {
        let relay = Relay(relay);
        let text = format_args!("collect: unexpected close on connection from {relay}");
        self.write(2, Severity::Notice, Some(id), text);
    }

    /// A client that came for nothing, as scanners do. Level 6.
    pub fn did_nothing(&self, relay: &str, daemon: &str) {
        let relay = Relay(relay);
        let text =
            format_args!("{relay} did not issue MAIL/EXPN/VRFY/ETRN during connection to {daemon}");
        self.about(6, Severity::Info, None, text);
    }

    /// Too many commands that do nothing. Level 6.
    pub fn possible_attack(&self, id: Option<QueueId>, relay: &str, command: &str, count: u32) {
        let text = format_args!(
            "{}: possible SMTP attack: command={}, count={count}",
            Relay(relay),
            Atom(command),
        );
        self.about(6, Severity::Info, id, text);
    }

    /// Too many refused recipients. Level 6.
    pub fn recipient_flood(&self, id: Option<QueueId>, relay: &str) {
        let relay = Relay(relay);
        let text = format_args!("{relay}: Possible SMTP RCPT flood, throttling.");
        self.about(6, Severity::Info, id, text);
    }

    /// VRFY, EXPN or ETRN, and whether it was refused. Level 6.
    pub fn asked(&self, relay: &str, command: &str, refused: bool) {
        let end = if refused { " [rejected]" } else { "" };
        let text = format_args!("{}: {}{end}", Relay(relay), Short(command, REPLY_MAX));
        self.about(6, Severity::Info, None, text);
    }

    /// `STARTTLS=server, relay=..., version=..., verify=..., cipher=..., bits=...`. Level 9.
    pub fn tls_started(&self, side: Side, relay: &str, facts: &TlsFacts) {
        let TlsFacts { version, cipher, bits, verify } = facts;
        let (side, relay) = (side.name(), Relay(relay));
        let text = format_args!(
            "STARTTLS={side}, relay={relay}, version={version}, verify={verify}, cipher={cipher}, \
             bits={bits}/{bits}"
        );
        self.write(9, Severity::Info, None, text);
    }

    /// A handshake that failed. Level 8. When we are the client it is refused as by sendmail's ruleset tls_server, whose
    /// argument is `${verify}`. Level 3.
    pub fn tls_failed(&self, side: Side, relay: &str, reason: &str) {
        let (name, relay, reason) = (side.name(), Relay(relay), Short(reason, REPLY_MAX));
        let text = format_args!("STARTTLS={name}, relay={relay}, error: {reason}");
        self.write(8, Severity::Warning, None, text);
        if side == Side::Client {
            let text = format_args!(
                "ruleset=tls_server, arg1=SOFTWARE, relay={relay}, reject=454 4.7.0 TLS handshake failed."
            );
            self.write(3, Severity::Notice, None, text);
        }
    }

    /// `Truncated long MIME Content-Type header (length = 3000) (possible attack)`: a field was too long for
    /// MaxMimeHeaderLength. Level 0, as sendmail's alerts are.
    pub fn mime_cut(&self, id: QueueId, text: &str) {
        self.write(0, Severity::Alert, Some(id), format_args!("{}", Short(text, REPLY_MAX)));
    }

    /// `Authentication-Warning: ...`: a user claimed to be somebody. Level 4.
    pub fn authentication_warning(&self, id: Option<QueueId>, text: &str) {
        let text = format_args!("Authentication-Warning: {}", Short(text, 2 * REPLY_MAX));
        self.write(4, Severity::Info, id, text);
    }

    fn about(&self, level: u8, severity: Severity, id: Option<QueueId>, text: fmt::Arguments<'_>) {
        match id {
            Some(_) => self.write(level, severity, id, text),
            None => self.write(level, severity, None, format_args!("NOQUEUE: {text}")),
        }
    }
}

/// The daemon itself.
impl Maillog {
    /// `starting daemon (0.1.0): SMTP+queueing@00:15:00`. Level 1.
    pub fn daemon_started(&self, version: &str, smtp: bool, queue_interval: Option<Duration>) {
        let smtp = if smtp { "SMTP" } else { "" };
        let plus = if smtp.is_empty() || queue_interval.is_none() { "" } else { "+" };
        let queueing = queue_interval.map(|i| format!("queueing@{}", delay(i))).unwrap_or_default();
        let text = format_args!("starting daemon ({version}): {smtp}{plus}{queueing}");
        self.write(1, Severity::Info, None, text);
    }

    /// What newaliases found in an alias file, and that it builds nothing. Level 8.
    pub fn aliases(&self, text: &str, local_relay: Option<&str>) {
        let expander = match local_relay {
            Some(relay) => format!("LocalRelay {} expands aliases", Atom(relay)),
            None => "aliases are not expanded without LocalRelay".to_owned(),
        };
        let text = format_args!("{}; {expander}", Short(text, REPLY_MAX));
        self.write(8, Severity::Info, None, text);
    }

    /// `daemon MTA: listening on 192.0.2.1:25`. Level 10: log analysers that know sendmail do not know it.
    pub fn listening(&self, daemon: &str, address: std::net::SocketAddr) {
        let text = format_args!("daemon {daemon}: listening on {address}");
        self.write(10, Severity::Info, None, text);
    }

    /// `stopping daemon, reason=signal`. Level 1.
    pub fn daemon_stopping(&self, reason: &str) {
        let text = format_args!("stopping daemon, reason={}", Short(reason, REPLY_MAX));
        self.write(1, Severity::Info, None, text);
    }

    /// What SIGUSR1 asks for: `state: 3 SMTP sessions; ...`. Level 1.
    pub fn state(&self, text: &str) {
        self.write(1, Severity::Notice, None, format_args!("state: {}", Short(text, REPLY_MAX)));
    }

    /// The configuration was read again. Level 1.
    pub fn reloaded(&self, reason: &str) {
        let text = format_args!("restarting configuration due to {}", Short(reason, REPLY_MAX));
        self.write(1, Severity::Info, None, text);
    }

    /// `rejecting connections on daemon MTA: reason`. Level 8.
    pub fn rejecting_connections(&self, daemon: &str, reason: &str) {
        let reason = Short(reason, REPLY_MAX);
        let text = format_args!("rejecting connections on daemon {daemon}: {reason}");
        self.write(8, Severity::Notice, None, text);
    }

    /// `accepting connections again for daemon MTA`. Level 8.
    pub fn accepting_connections(&self, daemon: &str) {
        let text = format_args!("accepting connections again for daemon {daemon}");
        self.write(8, Severity::Notice, None, text);
    }

    /// An explicit queue run began. Level 9.
    pub fn queue_run(&self, who: &str, selection: &str) {
        let (who, selection) = (Atom(who), Short(selection, REPLY_MAX));
        self.write(9, Severity::Info, None, format_args!("queue run {selection} by {who}"));
    }

    /// `alias database /etc/mail/aliases rebuilt by root`. Level 8.
    pub fn aliases_rebuilt(&self, file: &str, who: &str) {
        let text = format_args!("alias database {} rebuilt by {}", Atom(file), Atom(who));
        self.write(8, Severity::Notice, None, text);
    }

    /// The clock went forward by more than a timer explains. Level 1.
    pub fn clock_jumped(&self, by: Duration) {
        let text = format_args!("clock went forward by {}", in_words(by));
        self.write(1, Severity::Notice, None, text);
    }

    /// An option that has no meaning here, once at start: `file` names file and line. Level 9.
    pub fn option_ignored(&self, file: &str, option: &str, why: &str) {
        let text = format_args!("{}: option {}: {why}", Atom(file), Atom(option));
        self.write(9, Severity::Info, None, text);
    }

    /// Something the operator may act on: what failed, on what, what happens next. Level 2.
    pub fn warning(&self, id: Option<QueueId>, text: &str) {
        self.write(2, Severity::Warning, id, format_args!("{text}"));
    }

    /// Something of the operator's is wrong and mail waits for it. Level 0.
    pub fn error(&self, id: Option<QueueId>, text: &str) {
        self.write(0, Severity::Error, id, format_args!("{text}"));
    }

    /// `SYSERR(user): ...`: the system failed and mail is at risk. Level 0.
    pub fn system_error(&self, id: Option<QueueId>, user: &str, text: &str) {
        self.about(0, Severity::Critical, id, format_args!("SYSERR({}): {text}", Atom(user)));
    }
}

/// What a group of recipients met, as far as the line shows it.
#[derive(PartialEq, Eq)]
struct Met<'a> {
    level: u8,
    status: EnhancedStatus,
    remote: Option<&'a RemoteHost>,
    reply: Option<String>,
    stat: String,
}

impl<'a> Met<'a> {
    /// None for a replaced recipient, whose lines are those of its replacements.
    fn of(outcome: &'a Outcome) -> Option<Met<'a>> {
        let report = outcome.report()?;
        let (level, refused) = match outcome {
            Outcome::Delivered(_) | Outcome::Relayed { .. } => (8, false),
            Outcome::Failed(_) => (7, true),
            Outcome::Deferred(_) => (9, false),
            Outcome::Replaced(_) => (10, false),
        };
        let reply = report.reply.as_ref().filter(|_| refused && report.command.is_some());
        let remote = report.remote.as_ref();
        let reply = reply.map(Reply::to_string);
        Some(Met { level, status: report.status, remote, reply, stat: outcome.stat() })
    }

    fn of_destination(report: &'a Report) -> Met<'a> {
        let remote = report.remote.as_ref();
        Met { level: 9, status: report.status, remote, reply: None, stat: report.deferral() }
    }
}

/// `, name=value`, or nothing without a value.
struct Field<'a>(&'static str, Short<'a>);

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Field(name, Short(value, limit)) = self;
        if value.is_empty() {
            return Ok(());
        }
        let end = value.char_indices().nth(*limit).map_or(value.len(), |(at, _)| at);
        write!(f, ", {name}={}", Atom(value.get(..end).unwrap_or_default()))
    }
}

/// `<a@b>`, `<>`.
struct Bracketed<'a>(&'a crate::mail::address::ReversePath);

impl fmt::Display for Bracketed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", Atom(self.0.mailbox().map_or("", Address::as_str)))
    }
}

/// A client as Received has it. It keeps its blanks, so it must not have the comma that ends a field.
struct Relay<'a>(&'a str);

impl fmt::Display for Relay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some((part, more)) = rest.split_once(',') {
            write!(f, "{part}\\054")?;
            rest = more;
        }
        f.write_str(rest)
    }
}

/// `mx.example.net. [192.0.2.1]`: a host we spoke to.
struct Host<'a>(&'a RemoteHost);

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RemoteHost { name, address } = self.0;
        let in_dns = name.contains('.') && !name.starts_with('[') && !name.contains('/');
        write!(f, "{}{}", Atom(name), if in_dns { "." } else { "" })?;
        if address.is_empty() { Ok(()) } else { write!(f, " [{}]", Atom(address)) }
    }
}

fn body_type(body: BodyType) -> &'static str {
    match body {
        BodyType::SevenBit => "",
        BodyType::EightBitMime | BodyType::EightBit => "8BITMIME",
    }
}
