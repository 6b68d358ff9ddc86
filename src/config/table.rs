//! The option table: every option of sendmail 8.18 and our own, with default, help and deed.
//!
//! The one place where an option is described: reader, command line, `--help=options` and the manual page use it.
//! Those that do nothing here stand in [`super::idle`] with the reason.

use std::path::PathBuf;
use std::time::Duration;

use super::idle::{IDLE, LATER};
use super::options::{Action, Draft, OptionSpec, Probe, Turn};
use super::value::{self, Unit, ValueError};
use super::{DeliveryMode, ErrorMode, NoRecipientAction, Privacy, SortOrder, ports, raw, tls};
use crate::mail::mime::{self, EightBitMode};
use Action::{Flag, GiveUp, Limit, List, Number, Size, Text, Time, Wait, Warn};

/// All options by subject.
pub static SECTIONS: &[(&str, &[OptionSpec])] = &[
    ("The queue", QUEUE),
    ("Reports", REPORTS),
    ("The server", SERVER),
    ("The client", CLIENT),
    ("TLS", TLS),
    ("Timeouts", TIMEOUTS),
    ("Names and routing", ROUTING),
    ("The command line", COMMAND),
    ("The process", PROCESS),
    ("Accepted, for a later version", LATER),
    ("Accepted, without a meaning here", IDLE),
];

/// The largest number that counts things of one machine.
const MANY: u64 = 1_000_000;
/// The largest weight of a priority.
const WEIGHT_MAX: u64 = 1 << 40;

const fn opt(
    name: &'static str,
    letter: Option<char>,
    default: &'static str,
    action: Action,
    help: &'static str,
) -> OptionSpec {
    OptionSpec { name, letter, default, help, safe: false, own: false, action, check: None }
}

/// One that an ordinary user may set.
const fn user(
    name: &'static str,
    letter: Option<char>,
    default: &'static str,
    action: Action,
    help: &'static str,
) -> OptionSpec {
    OptionSpec { name, letter, default, help, safe: true, own: false, action, check: None }
}

/// One of ours.
const fn own(
    name: &'static str,
    default: &'static str,
    action: Action,
    help: &'static str,
) -> OptionSpec {
    OptionSpec { name, letter: None, default, help, safe: false, own: true, action, check: None }
}

#[rustfmt::skip] // one option per paragraph, its help last
static QUEUE: &[OptionSpec] = &[
    opt("QueueDirectory", Some('Q'), "", Text("directory", queue_directory),
        "Where the queue is: the files of the store and the control socket. Each directory is a queue of its own with its own daemon. Default /var/spool/kvmta for root or where it exists, else kvmta in the user's state directory."),
    user("DeliveryMode", Some('d'), "background", Text("i, b, q or d", delivery_mode),
        "When a message from the command line is tried: i(nteractive) before the command returns, b(ackground) at once, q(ueue) at the next queue run, d(eferred) like q."),
    user("MinQueueAge", None, "0", Time(Unit::Minutes, |d| &mut d.config.min_queue_age),
        "A message is not tried again sooner than this after its last attempt. New messages and runs with -qI -qR -qS -qQ do not wait."),
    opt("MaxQueueAge", None, "0", Limit(|d| &mut d.config.max_queue_age),
        "When set, the wait after an attempt is the time the message had already been waiting, but at most this: retries thin out as the message ages."),
    user("QueueSortOrder", None, "priority", Text("word", queue_sort_order),
        "The order of messages due at once for one destination: priority, host, time, filename, modification, random, none, shuffle. The first letter is enough. Destinations take turns, and of a long backlog the part that is in memory is ordered."),
    user("MaxQueueRunSize", None, "0", Number(0, u64::MAX, |d, n| d.config.queue_run_size_max = (n > 0).then_some(n)),
        "Messages in one explicit queue run (-q, ETRN), the first ones of QueueSortOrder, and rows in one listing; 0 for all."),
    opt("MaxQueueChildren", None, "0", Number(0, 10_000, |d, n| if n > 0 { d.config.concurrency_max = n as usize }),
        "As DeliveryConcurrency, under sendmail's name; 0 leaves that alone."),
    own("DeliveryConcurrency", "200", Number(1, 10_000, |d, n| d.config.concurrency_max = n as usize),
        "Deliveries under way at once, over all destinations."),
    own("DestinationConcurrency", "20", Number(1, 10_000, |d, n| d.config.destination_concurrency_max = n as usize),
        "Deliveries under way at once to one destination; the real number grows with success and shrinks with failure."),
    opt("MaxRunnersPerQueue", None, "", Number(0, 10_000, |d, n| if n > 0 { d.config.destination_concurrency_max = n as usize }),
        "As DestinationConcurrency, under sendmail's name: its runners are what works on one host at a time. 0 leaves that alone."),
    opt("SingleThreadDelivery", None, "false", Flag(|d| &mut d.single_thread),
        "One delivery at a time to each destination."),
    own("MaxActiveJobs", "20000", Number(100, MANY, |d, n| d.config.active_jobs_max = n as usize),
        "Jobs held in memory at most; all others wait in the store."),
    user("CheckpointInterval", Some('C'), "10", Number(0, MANY, |d, n| d.config.checkpoint_interval = if n == 0 { usize::MAX } else { n as usize }),
        "After this many delivered recipients of one message the progress is made durable; 0 only after each transaction."),
    own("MaxUnsettled", "200", Number(1, 10_000, |d, n| d.config.max_unsettled = n as usize),
        "Deliveries that may be done and not yet recorded: as many recipients at most can get a message twice after a power cut."),
    opt("MinFreeBlocks", Some('b'), "100", Text("blocks[/max message size]", min_free_blocks),
        "Free blocks of 4096 octets below which the server takes no mail (452)."),
    opt("HostStatusDirectory", None, "", Text("any text", host_status),
        "When set, plain queue runs do not try hosts that failed within Timeout.hoststatus. The status lives in the store; the directory itself is not used."),
    opt("PersistentHostStatus", None, "", Text("any text", |d, v| { d.remarks.push("the name is HostStatusDirectory".into()); host_status(d, v) }),
        "A name for HostStatusDirectory found in some texts."),
    opt("ClassFactor", Some('z'), "1800", Number(0, WEIGHT_MAX, |d, n| d.config.priority.class = n as i64),
        "How much Precedence: counts in a message's priority."),
    opt("RecipientFactor", Some('y'), "30000", Number(0, WEIGHT_MAX, |d, n| d.config.priority.recipient = n as i64),
        "How much each recipient lowers a message's priority."),
    opt("RetryFactor", Some('Z'), "90000", Number(0, WEIGHT_MAX, |d, n| d.config.priority.retry = n as i64),
        "How much each attempt lowers a message's priority."),
    opt("QueueFactor", Some('q'), "600000", Number(0, WEIGHT_MAX, |d, n| d.config.priority.queue = n as i64),
        "Above QueueLA a message waits when its priority is over QueueFactor / (load - QueueLA + 1)."),
    opt("QueueLA", Some('x'), "", Number(0, 100_000, |d, n| d.config.load.queue = Some(n as u32)),
        "Load average from which mail is queued and not tried. Default eight per processor."),
    opt("HoldExpensive", Some('c'), "false", Flag(|d| &mut d.config.hold_expensive),
        "Mail for expensive mailers (F=e of an M line, ExpensiveMailers) is tried in queue runs alone: those of -q15m, each its time after the other, and explicit ones."),
    own("ExpensiveMailers", "", List("mailers", expensive_mailers),
        "Which of esmtp, relay and lmtp are expensive, beside those whose M line says so."),
    own("IncomingSize", "256M", Size(|d, n| d.config.incoming_size = n),
        "Octets of mail not yet tried that may take the short way through the store."),
    own("BodyGenerationSize", "1G", Size(|d, n| d.config.body_generation_size = n.max(1 << 20)),
        "Octets after which a body file is full and a new one begins."),
    own("HistoryTime", "7d", Time(Unit::Days, |d| &mut d.config.history_time),
        "How long what happened to messages is kept, to be asked for with kvmta-queue; 0 keeps nothing."),
    own("HistorySize", "256M", Size(|d, n| d.config.history_size = n.max(1 << 20)),
        "Octets of that kept at most: the oldest goes first."),
    own("DbCacheSize", "64M", Size(|d, n| d.config.db_cache_size = usize::try_from(n).unwrap_or(usize::MAX).max(1 << 20)),
        "Octets of page cache over all files of the store."),
];

#[rustfmt::skip]
static REPORTS: &[OptionSpec] = &[
    opt("Timeout.queuereturn", None, "5d", GiveUp(|d| &mut d.config.queue_timeouts),
        "How long a message is tried before its sender is told that it failed. 0 is one last attempt, now is none."),
    opt("Timeout.queuereturn.normal", None, "5d", GiveUp(|d| &mut d.config.queue_timeouts[..1]),
        "The same for ordinary messages alone."),
    opt("Timeout.queuereturn.urgent", None, "5d", GiveUp(|d| &mut d.config.queue_timeouts[1..2]),
        "For urgent ones: Priority: urgent, or Precedence: above 0."),
    opt("Timeout.queuereturn.non-urgent", None, "5d", GiveUp(|d| &mut d.config.queue_timeouts[2..3]),
        "For non-urgent ones: Priority: non-urgent, or Precedence: below 0."),
    opt("Timeout.queuereturn.dsn", None, "5d", GiveUp(|d| &mut d.config.queue_timeouts[3..]),
        "For reports."),
    opt("Timeout.queuewarn", None, "", Warn(|d| &mut d.config.queue_timeouts),
        "How long until the sender is warned that a message is still waiting; 0 never. Default 4h, never for reports."),
    opt("Timeout.queuewarn.normal", None, "4h", Warn(|d| &mut d.config.queue_timeouts[..1]),
        "The same for ordinary messages alone."),
    opt("Timeout.queuewarn.urgent", None, "4h", Warn(|d| &mut d.config.queue_timeouts[1..2]),
        "For urgent ones."),
    opt("Timeout.queuewarn.non-urgent", None, "4h", Warn(|d| &mut d.config.queue_timeouts[2..3]),
        "For non-urgent ones."),
    opt("Timeout.queuewarn.dsn", None, "0", Warn(|d| &mut d.config.queue_timeouts[3..]),
        "For reports, which are never warned about."),
    opt("QueueTimeout", Some('T'), "", Text("days[/hours]", queue_timeout),
        "Old form of Timeout.queuereturn and Timeout.queuewarn: 5d/4h."),
    opt("DoubleBounceAddress", None, "postmaster", Text("address", |d, v| { d.config.double_bounce_address = address(v)?; Ok(()) }),
        "Who gets a report that could not be delivered; empty drops it."),
    opt("PostmasterCopy", Some('P'), "", Text("address", |d, v| { d.config.postmaster_copy = address(v)?; Ok(()) }),
        "Who gets a copy, header only, of every failure report."),
    own("BounceSizeLimit", "50000", Size(|d, n| d.config.bounce_size_limit = n.min(1 << 20) as usize),
        "Octets up to which a report carries the whole message; of a larger one it carries the header. At most 1M."),
    opt("ErrorHeader", Some('E'), "", Text("text", |d, v| { d.config.error_header = text(v); Ok(()) }),
        "Text at the top of every failure report, or the file (/path) it is in."),
    user("SendMimeErrors", Some('j'), "true", Flag(|d| &mut d.config.send_mime_errors),
        "Reports are MIME (RFC 3464); else plain text, and DSN is not offered."),
    opt("DeadLetterDrop", None, "", Text("path", |d, v| { d.config.dead_letter_drop = path(v)?; Ok(()) }),
        "The file to which a report is added that not even DoubleBounceAddress could get, in mailbox form; empty drops it with a line in the log."),
    opt("SoftBounce", None, "false", Flag(|d| &mut d.config.soft_bounce),
        "Permanent refusals are treated as temporary, both ways: for trying out a configuration without losing mail."),
];

#[rustfmt::skip]
static SERVER: &[OptionSpec] = &[
    opt("DaemonPortOptions", Some('O'), "", List("Key=value, ...", daemon_ports),
        "A port to listen on: Port=25, Addr=127.0.0.1, Family=inet6, Name=MTA, Listen=511, Modify=O (may fail) E (no ETRN) S (no STARTTLS) s (TLS before the greeting, for port 465), and refuseLA=, delayLA=, queueLA= (below QueueLA), DeliveryMode= in place of the options of these names. May be repeated. Default port 25 of all addresses for the system's queue, and 127.0.0.1 port 2525 for any other QueueDirectory."),
    opt("MaxMessageSize", None, "0", Size(|d, n| d.config.limits.message_size = n),
        "Largest message taken, offered as SIZE; 0 for no limit."),
    user("MaxRecipientsPerMessage", None, "0", Number(0, MANY, |d, n| d.config.limits.recipients = n as u32),
        "Recipients of one message after which RCPT is answered 452; 0 for no limit."),
    opt("MaxHeadersLength", None, "2M", Size(|d, n| d.config.limits.headers_length = n),
        "Octets of header above which a message is refused."),
    opt("MaxHopCount", Some('h'), "100", Number(1, 10_000, |d, n| d.config.limits.hops = n as u32),
        "Received: lines above which a message is refused as looping."),
    opt("MaxDaemonChildren", None, "0", Number(0, MANY, |d, n| d.config.limits.sessions = n as usize),
        "Sessions at once from all clients; 0 for the built-in bound."),
    own("MaxSessionsPerClient", "0", Number(0, MANY, |d, n| d.config.limits.sessions_per_client = n as usize),
        "Sessions at once from one address, loopback excepted; 0 for no limit."),
    opt("ConnectionRateThrottle", None, "0", Number(0, MANY, |d, n| d.config.limits.connections_per_second = n as u32),
        "Connections taken in a second, the rest wait; 0 for no limit."),
    user("BadRcptThrottle", None, "0", Number(0, MANY, |d, n| d.config.limits.bad_recipients = n as u32),
        "Refused recipients of one message after which each further RCPT waits for BadRcptThrottleDelay; 0 never."),
    opt("BadRcptThrottleDelay", None, "1", Number(0, 3600, |d, n| d.config.limits.bad_recipients_pause = Duration::from_secs(n)),
        "How many seconds it waits."),
    user("BadRcptShutdown", None, "0", Number(0, MANY, |d, n| d.config.limits.bad_recipients_max = n as u32),
        "Refused recipients of one message from which the next RCPT ends the session with 421; 0 never."),
    user("BadRcptShutdownGood", None, "100", Number(0, 100, |d, n| d.config.limits.good_recipients_percent = n as u32),
        "BadRcptShutdown ends a session only when fewer than so many in a hundred of its recipients were good."),
    own("ClientConnectionRate", "0", Number(0, MANY, |d, n| d.config.limits.client_rate = n as u32),
        "Connections from one address within ConnectionRateWindowSize, RelayNetworks excepted; more are answered 421. 0 for no limit."),
    opt("ConnectionRateWindowSize", None, "60s", Time(Unit::Seconds, |d| &mut d.config.limits.client_rate_window),
        "The window in which ClientConnectionRate counts."),
    opt("RejectLogInterval", None, "3h", Time(Unit::Hours, |d| &mut d.config.limits.reject_log_interval),
        "How often it is logged that connections are still refused (RefuseLA)."),
    opt("SmtpGreetingMessage", None, "", Text("text", |d, v| { d.config.smtp_greeting = text(v); Ok(()) }),
        "The greeting: begins with $j, and ESMTP is put behind that. $b is the date, $v the version. Default: host name, ESMTP kvmta, version, date."),
    user("SevenBitInput", Some('7'), "false", Flag(|d| &mut d.config.seven_bit_input),
        "Every octet of a message loses its high bit as it comes in; what would become a control character becomes a question mark."),
    user("EightBitMode", Some('8'), "pass", Text("pass, mime or strict", eight_bit_mode),
        "What becomes of 8-bit content at a next hop without 8BITMIME. pass: what is MIME (by BODY=8BITMIME or MIME-Version) is made 7-bit, all else goes as it is; mime: all of it is made 7-bit; strict: as mime, but what does not say that it is MIME is refused when it comes (554 5.6.1), and what cannot be made 7-bit is returned (5.6.3). Mailers whose M line has F=8 (without M lines: relay, which is SmartHost and LocalRelay by SMTP) send all as it is. The first letter is enough."),
    user("DefaultCharSet", None, "unknown-8bit", Text("word", default_charset),
        "The charset that 8-bit text without a Content-Type gets when it is made 7-bit."),
    opt("MaxMimeHeaderLength", None, "2048/1024", Text("N[/M]", mime_limits),
        "Octets of a MIME header field, and of one parameter in it (default N/2), that go out; what is longer is cut, and logged. 0 for no limit."),
    opt("DeliverByMin", None, "0", Text("time in seconds", deliver_by_min),
        "The shortest time for which DELIVERBY (RFC 2852) is offered; 0 for any, below 0 it is not offered."),
    opt("HelpFile", Some('H'), "", Text("path", |d, v| { d.config.help_file = path(v)?; Ok(()) }),
        "What HELP of the server answers from: lines of a topic, a tab and text. Without it, or when it cannot be read, the text is built in."),
    opt("MaxNOOPCommands", None, "20", Number(0, MANY, |d, n| d.config.limits.noop_commands = n as u32),
        "Commands that do nothing (NOOP, VRFY...) after which each further one waits."),
    own("MaxBadCommands", "25", Number(1, MANY, |d, n| d.config.limits.bad_commands = n as u32),
        "Commands not understood after which the session is closed with 421."),
    own("MaxCommandLine", "2048", Number(512, 65_536, |d, n| d.config.limits.command_line = n as usize),
        "Octets of a command line, the end included."),
    own("SessionTime", "24h", Wait(|d| &mut d.config.limits.session_time),
        "How long a session may last in all."),
    user("AllowBogusHELO", None, "false", Flag(|d| &mut d.config.allow_bogus_helo),
        "EHLO with a name that is none is taken."),
    user("PrivacyOptions", Some('p'), "authwarnings", List("words", privacy),
        "What is kept from clients and users: public needmailhelo needexpnhelo needvrfyhelo noexpn novrfy noverb noetrn restrictmailq restrictqrun restrictexpand noreceipts nobodyreturn authwarnings noactualrecipient goaway. EXPN is never done and VRFY never tells, as if noexpn and novrfy were always there; VERB is answered but shows nothing. Words add up, those of file and command line together."),
    opt("RefuseLA", Some('X'), "", Number(0, 100_000, |d, n| d.config.load.refuse = Some(n as u32)),
        "Load average from which connections are refused; 0 never. Default twelve per processor."),
    opt("DelayLA", None, "0", Number(0, 100_000, |d, n| d.config.load.delay = n as u32),
        "Load average from which each command waits a second; 0 never."),
];

#[rustfmt::skip]
static CLIENT: &[OptionSpec] = &[
    opt("ConnectionCacheSize", Some('k'), "100", Number(0, 10_000, |d, n| d.config.connection_cache_size = n as usize),
        "Idle connections to other hosts kept for the next message, over all hosts."),
    opt("ConnectionCacheTimeout", Some('K'), "5m", Time(Unit::Minutes, |d| &mut d.config.connection_cache_timeout),
        "How long an idle connection is kept."),
    opt("HeloName", None, "", Text("name", |d, v| { d.config.helo_name = text(v); Ok(()) }),
        "What our client calls itself. Default the host name."),
    opt("ClientPortOptions", None, "", List("Key=value, ...", |d, v, turn| ports::client(d, v, turn.first)),
        "Addr=address our connections come from; once for each Family."),
    opt("ConnectOnlyTo", None, "", Text("[port@]address", connect_only_to),
        "Every outgoing connection goes there, whatever routing says: for tests."),
    own("SmtpPort", "25", Number(1, 65_535, |d, n| d.config.smtp_port = n as u16),
        "The port of other hosts."),
    own("NameServers", "", List("[address]:port ...", name_servers),
        "DNS servers to ask. Default those of the system."),
    opt("NameServer", None, "", List("[address]:port ...", name_servers),
        "As NameServers, under sendmail's name."),
    opt("NameSearchList", None, "", List("domains", name_search_list),
        "Domains that complete a host name without a dot, in this order, before it is looked up as it is; six at most. Default none: the search list of the system is not used."),
    opt("ResolverOptions", Some('I'), "", Text("+flag -flag ...", resolver_options),
        "HasWildcardMX: MX records are not asked for by names completed from NameSearchList. WorkAroundBrokenAAAA: a name server's trouble with AAAA is taken as no such record. The other flags of resolver(3) are accepted without effect."),
    opt("HostsFile", None, "/etc/hosts", Text("path", hosts_file),
        "Where hosts are looked up beside DNS; it is read at the start and by a reload."),
    opt("ServiceSwitchFile", None, "", Text("path", |d, v| { d.switch_file = path(v)?; Ok(()) }),
        "The file whose line `hosts files dns` says in which order the HostsFile and DNS are asked; without dns there are no MX records. Default /etc/mail/service.switch if it exists, else files, then dns."),
    user("DialDelay", None, "0", Time(Unit::Seconds, |d| &mut d.config.dial_delay),
        "When the first connection of an attempt fails, it is made once more after this time, five minutes at most; 0 not. For every mailer, as if all had F=Z. The attempt keeps its place among DeliveryConcurrency meanwhile; others go on."),
];

#[rustfmt::skip]
static TLS: &[OptionSpec] = &[
    opt("ServerCertFile", None, "", Text("path", |d, v| { d.server_certificate.chain = named(d, "ServerCertFile", v)?; Ok(()) }),
        "Certificate chain in PEM; with ServerKeyFile it makes the server offer STARTTLS."),
    opt("ServerKeyFile", None, "", Text("path", |d, v| { d.server_certificate.key = named(d, "ServerKeyFile", v)?; Ok(()) }),
        "Its private key in PEM."),
    opt("ClientCertFile", None, "", Text("path", |d, v| { d.client_certificate.chain = named(d, "ClientCertFile", v)?; Ok(()) }),
        "Certificate chain in PEM; with ClientKeyFile it is what our client shows to a server that asks."),
    opt("ClientKeyFile", None, "", Text("path", |d, v| { d.client_certificate.key = named(d, "ClientKeyFile", v)?; Ok(()) }),
        "Its private key in PEM."),
    opt("CACertFile", None, "", Text("path", |d, v| { d.config.tls.authorities.file = named(d, "CACertFile", v)?; Ok(()) }),
        "Certificates in PEM of the authorities that other hosts' certificates are checked against. The result is told (verify= in log and Received), and nobody is refused for it. Our client checks against the system's authorities when neither this nor CACertPath is set; clients are asked for a certificate only when one is."),
    opt("CACertPath", None, "", Text("directory", |d, v| { d.config.tls.authorities.directory = named(d, "CACertPath", v)?; Ok(()) }),
        "A directory of files with such certificates, by hashed names or any. Read at start and SIGHUP."),
    opt("ClientCACertFile", None, "", Text("path", |d, v| { d.config.tls.client_authorities.file = named(d, "ClientCACertFile", v)?; Ok(()) }),
        "In place of CACertFile when we are the client."),
    opt("ClientCACertPath", None, "", Text("directory", |d, v| { d.config.tls.client_authorities.directory = named(d, "ClientCACertPath", v)?; Ok(()) }),
        "In place of CACertPath when we are the client."),
    opt("CRLFile", None, "", Text("path", |d, v| { d.config.tls.revoked.file = named(d, "CRLFile", v)?; Ok(()) }),
        "Revocation lists in PEM. With this or CRLPath a certificate passes only when a list that is still good covers each of its chain."),
    opt("CRLPath", None, "", Text("directory", |d, v| { d.config.tls.revoked.directory = named(d, "CRLPath", v)?; Ok(()) }),
        "A directory of files with such lists. Read at start and SIGHUP."),
    opt("TLSSrvOptions", None, "", Text("letters", tls::server_options),
        "V: clients are not asked for a certificate."),
    opt("TLSFallbacktoClear", None, "false", Flag(|d| &mut d.config.tls.falls_back_to_clear),
        "After a failed handshake the same host is tried again at once, without TLS. Else the message waits for its next attempt."),
    opt("CipherList", None, "", Text("ciphers", tls::cipher_list),
        "Suites of TLS 1.2 in OpenSSL's words (HIGH:!aNULL:@STRENGTH), of which ECDHE with AES-GCM or CHACHA20 are here. Default all."),
    opt("CipherSuites", None, "", Text("ciphers", tls::cipher_suites),
        "Suites of TLS 1.3 by name, with colons. Default TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256."),
    opt("ServerSSLOptions", None, "", Text("words", tls::server_ssl),
        "OpenSSL's options for the server: SSL_OP_NO_TLSv1_2, SSL_OP_NO_TLSv1_3 and SSL_OP_CIPHER_SERVER_PREFERENCE act, a - before one takes it back. What is older than TLS 1.2 is never spoken."),
    opt("ClientSSLOptions", None, "", Text("words", tls::client_ssl),
        "The same for the client."),
];

#[rustfmt::skip]
static TIMEOUTS: &[OptionSpec] = &[
    opt("Timeout", Some('r'), "", Text("[name:]time, ...", old_timeouts),
        "Old form: a time alone sets mail, rcpt, datainit, datablock, datafinal and command; name:time sets one."),
    opt("Timeout.initial", None, "5m", Wait(|d| &mut d.config.timeouts.initial), "Client: the greeting."),
    opt("Timeout.connect", None, "2m", Wait(|d| &mut d.config.timeouts.connect), "Client: the connection."),
    opt("Timeout.iconnect", None, "30s", Wait(|d| &mut d.config.timeouts.iconnect), "Client: the connection at a message's first attempt."),
    opt("Timeout.aconnect", None, "0", Limit(|d| &mut d.config.timeouts.aconnect), "Client: all hosts of a destination together; 0 for no limit."),
    opt("Timeout.helo", None, "5m", Wait(|d| &mut d.config.timeouts.helo), "Client: the reply to EHLO."),
    opt("Timeout.mail", None, "10m", Wait(|d| &mut d.config.timeouts.mail), "Client: the reply to MAIL."),
    opt("Timeout.rcpt", None, "1h", Wait(|d| &mut d.config.timeouts.rcpt), "Client: the reply to RCPT."),
    opt("Timeout.datainit", None, "5m", Wait(|d| &mut d.config.timeouts.datainit), "Client: the reply to DATA."),
    opt("Timeout.datablock", None, "1h", Wait(|d| &mut d.config.timeouts.datablock), "Both: the next block of a message."),
    opt("Timeout.datafinal", None, "1h", Wait(|d| &mut d.config.timeouts.datafinal), "Client: the reply to the final dot. A short time makes duplicates."),
    opt("Timeout.rset", None, "5m", Wait(|d| &mut d.config.timeouts.rset), "Client: the reply to RSET."),
    opt("Timeout.quit", None, "2m", Wait(|d| &mut d.config.timeouts.quit), "Client: the reply to QUIT."),
    opt("Timeout.control", None, "2m", Wait(|d| &mut d.config.timeouts.control), "The control socket: the next request of a connection."),
    opt("Timeout.lhlo", None, "2m", Wait(|d| &mut d.config.timeouts.lhlo), "Client: the reply to LHLO."),
    opt("Timeout.starttls", None, "1h", Wait(|d| &mut d.config.timeouts.starttls), "Both: the TLS handshake."),
    opt("Timeout.command", None, "5m", Wait(|d| &mut d.config.timeouts.command), "Server: the next command."),
    opt("Timeout.resolver.retrans", None, "5", Text("time in seconds", resolver_retrans),
        "DNS: the answer of one server."),
    opt("Timeout.resolver.retrans.normal", None, "5", Text("time in seconds", resolver_retrans),
        "The same."),
    opt("Timeout.resolver.retry", None, "2", Number(0, 100, |d, n| d.config.resolver_retry = n as usize),
        "DNS: how often a server is asked again."),
    opt("Timeout.resolver.retry.normal", None, "2", Number(0, 100, |d, n| d.config.resolver_retry = n as usize),
        "The same."),
    opt("Timeout.hoststatus", None, "30m", Time(Unit::Minutes, |d| &mut d.config.timeouts.hoststatus), "How long a host's trouble is remembered."),
];

#[rustfmt::skip]
static ROUTING: &[OptionSpec] = &[
    own("SmartHost", "", Text("[host]:port or domain", |d, v| { d.config.smart_host = hop(v)?; Ok(()) }),
        "Where all mail that is not local goes. In brackets the host itself, without them its MX. A DS line does the same."),
    own("LocalRelay", "", Text("host, or lmtp:host, or lmtp:/path", local_relay),
        "Where mail for local names goes: by SMTP, or by LMTP over TCP or a Unix socket."),
    own("RelayNetworks", "127.0.0.0/8 ::1", List("networks", relay_networks),
        "Clients that may send to any domain. Replaces the default, so name loopback too. Domains we relay for stand in class R."),
    opt("FallbackMXhost", Some('V'), "", Text("host", |d, v| { d.config.fallback_mx_host = hop(v)?; Ok(()) }),
        "Tried after the last MX host of every domain."),
    opt("FallbackSmartHost", None, "", Text("host", |d, v| { d.config.fallback_smart_host = hop(v)?; Ok(()) }),
        "Where mail goes whose domain is not found."),
    opt("DontProbeInterfaces", None, "false", Text("true, false or loopback", dont_probe),
        "The addresses of this machine in brackets are not local names; loopback leaves out those alone."),
    opt("TryNullMXList", Some('w'), "false", Flag(|d| &mut d.config.try_null_mx_list),
        "When the best MX of a domain is this host, its address is tried."),
];

#[rustfmt::skip]
static COMMAND: &[OptionSpec] = &[
    user("ErrorMode", Some('e'), "print", Text("p, q, m, w or e", error_mode),
        "How a failed submission is told: p(rint) on standard error, q(uiet) by exit status alone, m(ail), w(rite) to the terminal, e mail and exit status 0."),
    user("IgnoreDots", Some('i'), "false", Flag(|d| &mut d.config.ignore_dots),
        "A line with a dot alone does not end the message on standard input (-i)."),
    user("SaveFromLine", Some('f'), "false", Flag(|d| &mut d.config.save_from_line),
        "A `From ` line before the header is kept (-s)."),
    user("OldStyleHeaders", Some('o'), "true", Flag(|d| &mut d.config.address_style.blanks_separate),
        "In -t headers and operands that have none of , ; < ( blanks separate addresses. false: only commas do, and a blank within an address is replaced by BlankSub."),
    opt("BlankSub", Some('B'), ".", Text("a character", blank_sub),
        "What replaces unquoted blanks within an address from the command line or a -t header. Set to nothing or a blank, the address keeps it, in quotes."),
    user("ColonOkInAddr", None, "false", Flag(|d| &mut d.config.address_style.colons_belong),
        "A colon in an address of the command line or a -t header is part of it (it is put in quotes) and does not begin a group of RFC 5322. true in files of a version (V line) below 6."),
    opt("AliasFile", Some('A'), "", List("[class:]file, ...", alias_file),
        "The alias files that newaliases (-bi) checks and counts. LocalRelay, which takes local mail, expands aliases. Default /etc/mail/aliases or /etc/aliases."),
    opt("CheckAliases", Some('n'), "false", Flag(|d| &mut d.config.check_aliases),
        "newaliases looks at the right sides of aliases, too."),
    opt("UseMSP", None, "false", Flag(|d| &mut d.config.use_msp),
        "This configuration is for submitting mail: -bd, -bD and -bl are refused."),
    user("SingleLineFromHeader", None, "false", Flag(|d| &mut d.config.single_line_from_header),
        "From:, Sender:, Reply-To: and the like are brought onto one line."),
    opt("MustQuoteChars", None, ".'", Text("characters", |d, v| { d.config.must_quote_chars = v.to_owned(); Ok(()) }),
        "Characters that make the user's full name in From: be quoted, beside those of RFC 5322."),
    opt("RrtImpliesDsn", None, "false", Flag(|d| &mut d.config.rrt_implies_dsn),
        "Return-Receipt-To: in a message asks for a report of success for all its recipients that did not say otherwise; the field is taken out."),
    user("NoRecipientAction", None, "none", Text("word", no_recipient_action),
        "What a message without a recipient in its header gets: none, add-to, add-apparently-to, add-bcc, add-to-undisclosed."),
    user("Verbose", Some('v'), "false", Flag(|d| &mut d.config.verbose),
        "The SMTP dialogue on standard output, and DeliveryMode=i (-v)."),
];

#[rustfmt::skip]
static PROCESS: &[OptionSpec] = &[
    opt("ControlSocketName", None, "", Text("path", |d, v| { d.config.control_socket = text(v).map(PathBuf::from); Ok(()) }),
        "Where the daemon listens for the commands of smcontrol.pl (help, status, mstat, restart, shutdown), from its own user and root alone; a relative path begins at QueueDirectory. The socket of our own commands is always in the QueueDirectory."),
    user("LogLevel", Some('L'), "9", Number(0, 99, |d, n| d.config.log_level = n as u8),
        "How much is logged: 0 trouble alone, 9 every delivery and deferral, above 10 for debugging."),
    opt("Macro", Some('M'), "", Text("Xvalue", |d, v| { let (name, value) = raw::name(v); d.macros.insert(name, value.to_owned()); Ok(()) }),
        "Defines the macro X, as a D line does."),
    opt("TimeZoneSpec", Some('t'), "", Text("time zone", time_zone),
        "The zone of Date:, Received:, mailq and the log, such as Europe/Berlin or EST5EDT. Set to nothing, the variable TZ says it. Default the system's, whatever TZ is."),
    opt("PidFile", None, "", Text("path", |d, v| { d.config.pid_file = path(v)?; Ok(()) }),
        "Where the daemon writes its process number and command line."),
    opt("RunAsUser", None, "", Text("user[:group]", |d, v| { d.config.run_as_user = text(v); Ok(()) }),
        "Who the daemon becomes after it has bound its ports as root."),
    opt("StatusFile", Some('S'), "", Text("path", |d, v| { d.config.status_file = path(v)?; Ok(()) }),
        "A file that exists and the daemon's user may write: each minute it gets a copy of the statistics in sendmail's binary form, for programs that read it. Emptying it begins to count anew. mailstats needs no file."),
    opt("TrustedUser", None, "", Text("user", |d, v| { d.config.trusted_user = text(v); Ok(()) }),
        "Who besides root and the daemon's user may run the daemon and change the queue."),
];

/// A file that is opened later: with where it was asked for.
fn named(
    draft: &Draft,
    option: &'static str,
    value: &str,
) -> Result<Option<tls::NamedFile>, ValueError> {
    let origin = draft.origin.clone();
    Ok(path(value)?.map(|path| tls::NamedFile { option, origin, path }))
}

/// None for nothing.
fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

/// None for nothing; a relative path would depend on where the command was given.
fn path(value: &str) -> Result<Option<PathBuf>, ValueError> {
    match value {
        "" => Ok(None),
        value if value.starts_with('/') => Ok(Some(value.into())),
        value => Err(ValueError::Other(format!("{:?} does not begin with /", value::shown(value)))),
    }
}

fn hop(value: &str) -> Result<Option<String>, ValueError> {
    if value.is_empty() { Ok(None) } else { value::next_hop(value).map(Some) }
}

fn address(value: &str) -> Result<Option<crate::mail::address::Address>, ValueError> {
    if value.is_empty() {
        return Ok(None);
    }
    value.parse().map(Some).map_err(|error| {
        ValueError::Other(format!("{:?} is no address: {error}", value::shown(value)))
    })
}

fn word(value: &str, allowed: &'static str) -> ValueError {
    ValueError::Word { word: value::shown(value), allowed }
}

fn first_letter(value: &str) -> Option<char> {
    value.chars().next().map(|c| c.to_ascii_lowercase())
}

fn queue_directory(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    let directory = match value.rsplit_once('/') {
        Some((parent, last)) if last.contains('*') => {
            draft.remarks.push(format!("one store serves for {value}: it is in {parent}"));
            parent
        }
        _ => value,
    };
    match path(directory)? {
        Some(path) => draft.config.queue_directory = path,
        None => return Err(ValueError::Other("a directory is needed".into())),
    }
    Ok(())
}

fn delivery_mode(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    draft.config.delivery_mode = match first_letter(value) {
        None | Some('i') => DeliveryMode::Interactive,
        Some('b') => DeliveryMode::Background,
        Some('q') => DeliveryMode::Queue,
        Some('d') => DeliveryMode::Deferred,
        Some(_) => return Err(word(value, "i b q d")),
    };
    Ok(())
}

fn error_mode(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    draft.config.error_mode = match first_letter(value) {
        Some('p') => ErrorMode::Print,
        Some('q') => ErrorMode::Quiet,
        Some('m') => ErrorMode::Mail,
        Some('w') => ErrorMode::Write,
        Some('e') => ErrorMode::Berknet,
        _ => return Err(word(value, "p q m w e")),
    };
    Ok(())
}

fn queue_sort_order(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    draft.config.queue_sort_order = match first_letter(value) {
        Some('p') => SortOrder::Priority,
        Some('h') => SortOrder::Host,
        Some('t') => SortOrder::Time,
        Some('f') => SortOrder::FileName,
        Some('m') => SortOrder::Modification,
        Some('r') => SortOrder::Random,
        Some('n') => SortOrder::None,
        Some('s') => SortOrder::Shuffle,
        _ => {
            return Err(word(
                value,
                "priority host time filename modification random none shuffle",
            ));
        }
    };
    Ok(())
}

fn expensive_mailers(draft: &mut Draft, value: &str, _: Turn) -> Result<(), ValueError> {
    for name in words(value) {
        let mailers = super::check::mailers_called(&name.to_lowercase());
        if mailers.is_empty() {
            return Err(word(name, "esmtp relay lmtp"));
        }
        draft.config.expensive_mailers.extend(mailers);
    }
    Ok(())
}

fn dont_probe(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    draft.probe = match value.eq_ignore_ascii_case("loopback") {
        true => Probe::NotLoopback,
        false if value::boolean(value)? => Probe::Nothing,
        false => Probe::All,
    };
    Ok(())
}

fn deliver_by_min(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    draft.config.deliver_by_min = match value.trim().strip_prefix('-') {
        Some(rest) => value::time(rest, Unit::Seconds).map(|_| None)?,
        None => {
            let seconds = value::time(value, Unit::Seconds)?.as_secs();
            Some(value::number(&seconds.to_string(), 0, 999_999_999)? as u32)
        }
    };
    Ok(())
}

fn eight_bit_mode(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    draft.config.eight_bit_mode = match first_letter(value) {
        Some('p') => EightBitMode::Pass,
        Some('m') => EightBitMode::Mime,
        Some('s') => EightBitMode::Strict,
        _ => return Err(word(value, "pass mime strict")),
    };
    Ok(())
}

/// A token of RFC 2045 5.1: it becomes part of a header field.
fn default_charset(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    let special = |c: char| !c.is_ascii_graphic() || "()<>@,;:\\\"/[]?=".contains(c);
    if value.contains(special) || value.len() > 64 {
        return Err(ValueError::Other(format!("{:?} is no charset", value::shown(value))));
    }
    let charset = if value.is_empty() { "unknown-8bit" } else { value };
    draft.config.default_charset = charset.to_owned();
    Ok(())
}

fn mime_limits(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    let number = |text: &str| match text.trim().parse::<usize>() {
        Ok(number) if number < mime::HELD_MAX => Ok(number),
        _ => Err(ValueError::Other(format!(
            "{:?} is not N or N/M, each below {}",
            value::shown(value),
            mime::HELD_MAX
        ))),
    };
    let (field, parameter) = value.split_once('/').unwrap_or((value, ""));
    let field = number(field)?;
    let parameter = if parameter.is_empty() { field / 2 } else { number(parameter)? };
    draft.config.mime_limits = mime::Limits::typed(field, parameter);
    Ok(())
}

fn no_recipient_action(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    draft.config.no_recipient_action = match value.to_ascii_lowercase().as_str() {
        "none" => NoRecipientAction::None,
        "add-to" => NoRecipientAction::AddTo,
        "add-apparently-to" => NoRecipientAction::AddApparentlyTo,
        "add-bcc" => NoRecipientAction::AddBcc,
        "add-to-undisclosed" => NoRecipientAction::AddToUndisclosed,
        _ => {
            return Err(word(value, "none add-to add-apparently-to add-bcc add-to-undisclosed"));
        }
    };
    Ok(())
}

fn resolver_retrans(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    let wait = value::time(value, Unit::Seconds)?;
    if wait.is_zero() {
        return Err(ValueError::Other("0 would not wait for any answer".into()));
    }
    draft.config.resolver_retrans = wait;
    Ok(())
}

fn host_status(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    draft.config.host_status = !value.is_empty();
    Ok(())
}

fn min_free_blocks(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    /// A block of any file system of today.
    const BLOCK: u64 = 4096;
    let (blocks, size) = value.split_once('/').map_or((value, None), |(b, s)| (b, Some(s)));
    let blocks = value::number(blocks, 0, u64::MAX / BLOCK)?;
    if let Some(size) = size {
        draft.config.limits.message_size = value::size(size)?;
    }
    draft.config.min_free_octets = blocks * BLOCK;
    Ok(())
}

fn queue_timeout(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    let (give_up, warn) = value.split_once('/').map_or((value, None), |(g, w)| (g, Some(w)));
    let turn = Turn { first: true, command_line: false };
    let give_up_option = GiveUp(|d| &mut d.config.queue_timeouts);
    opt("", None, "", give_up_option, "").set(draft, give_up, turn)?;
    match warn {
        Some(warn) => {
            opt("", None, "", Warn(|d| &mut d.config.queue_timeouts), "").set(draft, warn, turn)
        }
        None => Ok(()),
    }
}

fn old_timeouts(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    let turn = Turn { first: true, command_line: false };
    for part in value.split([',', ' ']).filter(|part| !part.is_empty()) {
        let (names, time): (&[&str], &str) = match part.split_once([':', '=']) {
            Some((name, time)) => (&[name], time),
            None => (&["mail", "rcpt", "datainit", "datablock", "datafinal", "command"], part),
        };
        for name in names {
            let (option, _) = super::options::find(&format!("Timeout.{name}"))
                .map_err(|error| ValueError::Other(error.to_string()))?;
            option.set(draft, time, turn)?;
        }
    }
    Ok(())
}

fn privacy(draft: &mut Draft, value: &str, turn: Turn) -> Result<(), ValueError> {
    // The words of the command line come on top of those of the file: nobody takes a refusal back.
    if turn.first && !turn.command_line {
        draft.config.privacy = Privacy::default();
    }
    let p = &mut draft.config.privacy;
    let mut unknown = Vec::new();
    for word in value.split([',', ' ', '\t']).filter(|word| !word.is_empty()) {
        match word.to_ascii_lowercase().as_str() {
            "public" => {}
            "needmailhelo" => p.needmailhelo = true,
            "needvrfyhelo" => p.needvrfyhelo = true,
            "needexpnhelo" => p.needexpnhelo = true,
            "noexpn" => (p.noexpn, p.noverb) = (true, true),
            "novrfy" => p.novrfy = true,
            "noverb" => p.noverb = true,
            "noetrn" => p.noetrn = true,
            "restrictmailq" => p.restrictmailq = true,
            "restrictqrun" => p.restrictqrun = true,
            "restrictexpand" => p.restrictexpand = true,
            "noreceipts" => p.noreceipts = true,
            "nobodyreturn" => p.nobodyreturn = true,
            "authwarnings" => p.authwarnings = true,
            "noactualrecipient" => p.noactualrecipient = true,
            "goaway" => {
                (p.needmailhelo, p.needexpnhelo, p.needvrfyhelo) = (true, true, true);
                (p.noexpn, p.novrfy, p.noverb) = (true, true, true);
                (p.authwarnings, p.noactualrecipient) = (true, true);
            }
            _ => unknown.push(value::shown(word)),
        }
    }
    if unknown.is_empty() {
        return Ok(());
    }
    Err(word(&unknown.join(" "), "the words of PrivacyOptions; the other words hold"))
}

fn daemon_ports(draft: &mut Draft, value: &str, turn: Turn) -> Result<(), ValueError> {
    /// Ports one daemon listens on: sendmail's bound, and more than anybody has.
    const DAEMONS_MAX: usize = 10;
    draft.ports_named = true;
    if turn.first {
        draft.config.daemons.clear();
    }
    let daemon = ports::daemon(value, &mut draft.remarks)?;
    let daemons = &mut draft.config.daemons;
    if daemons.len() == DAEMONS_MAX {
        return Err(ValueError::Other(format!("more than {DAEMONS_MAX} ports")));
    }
    daemons.push(daemon);
    Ok(())
}

fn connect_only_to(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    let (port, address) = value.split_once('@').unwrap_or(("25", value));
    let port = value::number(port, 1, 65_535)? as u16;
    draft.config.connect_only_to = match value {
        "" => None,
        _ => Some(value::socket(address, port)?),
    };
    Ok(())
}

fn name_servers(draft: &mut Draft, value: &str, turn: Turn) -> Result<(), ValueError> {
    /// More are never asked.
    const SERVERS_MAX: usize = 8;
    let known = &mut draft.config.name_servers;
    if turn.first {
        known.clear();
    }
    for word in words(value) {
        known.push(value::socket(word, 53)?);
    }
    known.truncate(SERVERS_MAX);
    Ok(())
}

fn name_search_list(draft: &mut Draft, value: &str, turn: Turn) -> Result<(), ValueError> {
    /// As many as resolv.conf(5) takes.
    const DOMAINS_MAX: usize = 6;
    if turn.first {
        draft.config.name_search_list.clear();
    }
    for word in words(value) {
        let domain = word.trim_end_matches('.').to_lowercase();
        crate::mail::address::check_domain(&domain)
            .map_err(|error| ValueError::Other(format!("{:?}: {error}", value::shown(word))))?;
        draft.config.name_search_list.push(domain);
    }
    draft.config.name_search_list.truncate(DOMAINS_MAX);
    Ok(())
}

fn resolver_options(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    /// Flags of resolver(3) that sendmail knows and that mean nothing here.
    const OTHERS: [&str; 11] = [
        "debug",
        "aaonly",
        "usevc",
        "primary",
        "igntc",
        "recurse",
        "defnames",
        "stayopen",
        "dnsrch",
        "use_inet6",
        "use_edns0",
    ];
    for flag in value.split_whitespace() {
        let (on, name) = match flag.strip_prefix('-') {
            Some(name) => (false, name),
            None => (true, flag.strip_prefix('+').unwrap_or(flag)),
        };
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            "haswildcardmx" => draft.config.has_wildcard_mx = on,
            "workaroundbrokenaaaa" => draft.config.work_around_broken_aaaa = on,
            name if OTHERS.contains(&name) => {}
            _ => {
                let flag = value::shown(flag);
                let text = format!("readcf: I option value {flag} unrecognized");
                return Err(ValueError::Other(text));
            }
        }
    }
    Ok(())
}

fn hosts_file(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    draft.config.hosts_file = path(value)?.unwrap_or_else(|| "/etc/hosts".into());
    Ok(())
}

fn blank_sub(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    // Of more characters sendmail takes the first one, too.
    draft.config.address_style.blank_sub = match value.chars().next() {
        Some(c) if c.is_control() => return Err(word(value, "characters that can be printed")),
        Some(c) => c,
        None => ' ',
    };
    Ok(())
}

fn alias_file(draft: &mut Draft, value: &str, turn: Turn) -> Result<(), ValueError> {
    /// sendmail takes twelve.
    const FILES_MAX: usize = 12;
    let text = "newaliases reads it; mail for local users is LocalRelay's, with its aliases";
    draft.remarks.push(text.to_owned());
    let files = &mut draft.config.alias_files;
    if turn.first {
        files.clear();
    }
    let parts = value.split(',').map(str::trim).filter(|part| !part.is_empty());
    files.extend(parts.map(str::to_owned));
    if files.len() > FILES_MAX {
        files.truncate(FILES_MAX);
        return Err(ValueError::Other(format!("more than {FILES_MAX} files; the first ones hold")));
    }
    Ok(())
}

fn time_zone(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    let environment = std::env::var("TZ").ok();
    draft.config.time_zone = super::zone::of(value, environment.as_deref())?;
    Ok(())
}

fn relay_networks(draft: &mut Draft, value: &str, turn: Turn) -> Result<(), ValueError> {
    let known = &mut draft.config.relay_networks;
    if turn.first {
        known.clear();
    }
    for word in words(value) {
        known.push(value::network(word)?);
    }
    Ok(())
}

fn words(value: &str) -> impl Iterator<Item = &str> {
    value.split([',', ' ', '\t']).filter(|word| !word.is_empty())
}

fn local_relay(draft: &mut Draft, value: &str) -> Result<(), ValueError> {
    draft.config.local_relay = match value.strip_prefix("lmtp:") {
        _ if value.is_empty() => None,
        Some(socket) if socket.starts_with('/') => Some(value.to_owned()),
        Some(host) => Some(format!("lmtp:{}", value::next_hop(host)?)),
        None => Some(value::next_hop(value)?),
    };
    Ok(())
}
