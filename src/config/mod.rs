//! Configuration: what was typed (sendmail.cf lines, -O, -o), then a checked, typed [`Config`] that is handed down.
//!
//! The way: [`locate`] decides which store and which file, [`raw`] reads lines, [`options`] knows every option by
//! name, [`check`] makes the [`Config`] and says what it could not use. The command line wins over the file, and no
//! file is needed. No globals, no look-ups by name after start. Every default stands in [`Config::default`].

pub mod check;
pub mod given;
pub mod host;
mod idle;
pub mod load;
pub mod locate;
pub mod options;
mod ports;
pub mod raw;
pub mod switch;
mod table;
pub mod tls;
pub mod value;
pub mod zone;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;

use crate::mail::address::Address;
use crate::mail::address_list::Style;
use crate::mail::job::Mailer;
use crate::mail::mime::{self, EightBitMode};
pub use load::{LoadLimits, PortLoad};
use switch::HostSource;
use tls::Tls;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Everything an administrator may choose, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our name: `$j`, in greetings, Received and reports.
    pub host_name: String,
    /// Class w: domains whose mail is local; the host name and localhost are in it.
    pub local_names: BTreeSet<String>,
    /// Class R: domains we relay for, subdomains included.
    pub relay_domains: BTreeSet<String>,
    /// RelayNetworks: clients that may send anywhere. Default loopback.
    pub relay_networks: Vec<Network>,
    /// SmartHost: where all mail that is not local goes, in next-hop form (`[host]:port`, `domain`).
    pub smart_host: Option<String>,
    /// LocalRelay: where mail for local names goes: SMTP next hop, or `lmtp:[host]:port`, `lmtp:/path`.
    pub local_relay: Option<String>,
    /// NameServers; empty means the system's.
    pub name_servers: Vec<SocketAddr>,
    /// NameSearchList: domains that complete a name without a dot, in this order, before it is asked for as it is.
    pub name_search_list: Vec<String>,
    /// ResolverOptions HasWildcardMX: MX records are not asked for by completed names.
    pub has_wildcard_mx: bool,
    /// ResolverOptions WorkAroundBrokenAAAA: a server's trouble with AAAA is as no such record.
    pub work_around_broken_aaaa: bool,
    /// HostsFile.
    pub hosts_file: PathBuf,
    /// ServiceSwitchFile: where hosts are looked up.
    pub host_sources: Vec<HostSource>,
    /// SmtpPort of remote hosts.
    pub smtp_port: u16,
    /// DaemonPortOptions.
    pub daemons: Vec<Daemon>,
    /// QueueDirectory.
    pub queue_directory: PathBuf,
    /// DeliveryMode.
    pub delivery_mode: DeliveryMode,
    /// ErrorMode.
    pub error_mode: ErrorMode,
    /// LogLevel, 0 to 99.
    pub log_level: u8,
    /// Limits of the server.
    pub limits: Limits,
    /// Timeout.\* of both sides.
    pub timeouts: Timeouts,
    /// Timeout.queuereturn and queuewarn of the classes normal, urgent, non-urgent, dsn, in that order.
    pub queue_timeouts: [QueueTimeouts; 4],
    /// MinQueueAge.
    pub min_queue_age: Duration,
    /// MaxQueueAge.
    pub max_queue_age: Option<Duration>,
    /// HostStatusDirectory is set: remembered host trouble is respected by plain runs.
    pub host_status: bool,
    /// ConnectionCacheSize: idle connections kept, in all.
    pub connection_cache_size: usize,
    /// ConnectionCacheTimeout.
    pub connection_cache_timeout: Duration,
    /// CheckpointInterval: recipients delivered before progress must be durable.
    pub checkpoint_interval: usize,
    /// Attempts under way at once, over all destinations.
    pub concurrency_max: usize,
    /// Attempts under way at once to one destination.
    pub destination_concurrency_max: usize,
    /// Jobs in memory at most.
    pub active_jobs_max: usize,
    /// Octets of new messages kept in memory for their first attempt.
    pub active_octets_max: usize,
    /// Certificates, authorities, protocols and ciphers of both sides.
    pub tls: Tls,
    /// PrivacyOptions as far as they act.
    pub privacy: Privacy,
    /// DoubleBounceAddress: none drops.
    pub double_bounce_address: Option<Address>,
    /// PostmasterCopy.
    pub postmaster_copy: Option<Address>,
    /// BounceSizeLimit: octets of the original in a report.
    pub bounce_size_limit: usize,
    /// SoftBounce.
    pub soft_bounce: bool,
    /// MaxUnsettled: deliveries acknowledged by a peer and not yet durable.
    pub max_unsettled: usize,
    /// DbCacheSize: octets of page cache over all files.
    pub db_cache_size: usize,
    /// BodyGenerationSize: octets after which a body file is full.
    pub body_generation_size: u64,
    /// IncomingSize: octets of mail not yet attempted kept in INCOMING.
    pub incoming_size: u64,
    /// HistoryTime: how long what happened to messages is kept; zero keeps none.
    pub history_time: Duration,
    /// HistorySize: octets of it kept at most.
    pub history_size: u64,
    /// MinFreeBlocks, in octets.
    pub min_free_octets: u64,
    /// QueueSortOrder.
    pub queue_sort_order: SortOrder,
    /// MaxQueueRunSize: messages of one explicit run, rows of one listing; none without limit.
    pub queue_run_size_max: Option<u64>,
    /// ClassFactor, RecipientFactor, RetryFactor, QueueFactor.
    pub priority: PriorityFactors,
    /// QueueLA, RefuseLA, DelayLA.
    pub load: LoadLimits,
    /// DialDelay: how long after its first connection failed an attempt makes it once more; zero never.
    pub dial_delay: Duration,
    /// HeloName: what our client calls itself; none takes the host name.
    pub helo_name: Option<String>,
    /// ClientPortOptions Addr=: the address our client comes from, at most one of each family.
    pub client_addresses: Vec<IpAddr>,
    /// Our client uses STARTTLS where it is offered; ClientPortOptions Modify=S takes it away.
    pub client_starttls: bool,
    /// ConnectOnlyTo: every outgoing connection goes there, whatever routing says.
    pub connect_only_to: Option<SocketAddr>,
    /// FallbackMXhost: tried after the last MX of a domain, in next-hop form.
    pub fallback_mx_host: Option<String>,
    /// FallbackSmartHost: where mail goes whose domain does not exist, in next-hop form.
    pub fallback_smart_host: Option<String>,
    /// TryNullMXList: when the best MX is this host, its address is tried.
    pub try_null_mx_list: bool,
    /// AllowBogusHELO.
    pub allow_bogus_helo: bool,
    /// SmtpGreetingMessage, `$b` and `$v` not yet replaced; none takes the built-in one.
    pub smtp_greeting: Option<String>,
    /// DeliverByMin: the fewest seconds that DELIVERBY is offered for, 0 for any; none does not offer it.
    pub deliver_by_min: Option<u32>,
    /// HelpFile: what HELP answers from; none for the built-in text.
    pub help_file: Option<PathBuf>,
    /// SevenBitInput: octets lose their high bit.
    pub seven_bit_input: bool,
    /// EightBitMode.
    pub eight_bit_mode: EightBitMode,
    /// F=8 of the M lines: mailers that just send 8 bits. Without such lines relay, as in sendmail's stock configuration.
    pub eight_bit_mailers: BTreeSet<Mailer>,
    /// DefaultCharSet: of 8-bit text that does not say its own.
    pub default_charset: String,
    /// MaxMimeHeaderLength.
    pub mime_limits: mime::Limits,
    /// ErrorHeader: text at the top of a report.
    pub error_header: Option<String>,
    /// P lines: what the words of Precedence: count, in lower case.
    pub precedences: BTreeMap<String, i32>,
    /// Class t: users who may give any sender without a warning.
    pub trusted_users: BTreeSet<String>,
    /// IgnoreDots (-i): a dot alone does not end a message on standard input.
    pub ignore_dots: bool,
    /// SaveFromLine (-s): a leading `From ` line is kept.
    pub save_from_line: bool,
    /// HoldExpensive: mail for expensive mailers waits for a queue run.
    pub hold_expensive: bool,
    /// The mailers that are: F=e of M lines, and ExpensiveMailers.
    pub expensive_mailers: BTreeSet<Mailer>,
    /// SingleLineFromHeader.
    pub single_line_from_header: bool,
    /// MustQuoteChars: characters that make a name in From: be quoted, beside those of RFC 5322.
    pub must_quote_chars: String,
    /// RrtImpliesDsn.
    pub rrt_implies_dsn: bool,
    /// SendMimeErrors: reports are MIME (RFC 3464), and DSN is offered.
    pub send_mime_errors: bool,
    /// DeadLetterDrop: the file to which what nobody can be told of is added.
    pub dead_letter_drop: Option<PathBuf>,
    /// Timeout.resolver.retrans.
    pub resolver_retrans: Duration,
    /// Timeout.resolver.retry.
    pub resolver_retry: usize,
    /// OldStyleHeaders, BlankSub, ColonOkInAddr: how addresses may be written by programs and users.
    pub address_style: Style,
    /// TimeZoneSpec.
    pub time_zone: TimeZone,
    /// UseMSP: this is a program that submits mail, and no daemon.
    pub use_msp: bool,
    /// AliasFile: what newaliases reads, part by part as given.
    pub alias_files: Vec<String>,
    /// CheckAliases: newaliases looks at the right sides, too.
    pub check_aliases: bool,
    /// NoRecipientAction.
    pub no_recipient_action: NoRecipientAction,
    /// Verbose (-v): the dialogue on standard output. Makes DeliveryMode interactive.
    pub verbose: bool,
    /// Macros by name: $w $j $m $k, D lines, -M and -p.
    pub macros: BTreeMap<String, String>,
    /// RunAsUser.
    pub run_as_user: Option<String>,
    /// TrustedUser.
    pub trusted_user: Option<String>,
    /// PidFile.
    pub pid_file: Option<PathBuf>,
    /// ControlSocketName; relative to QueueDirectory.
    pub control_socket: Option<PathBuf>,
    /// StatusFile.
    pub status_file: Option<PathBuf>,
    /// The QueueDirectory was made for one user, not the system.
    pub per_user: bool,
}

/// An IP network: `127.0.0.0/8`, `::1/128`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    /// Any address in it.
    pub address: IpAddr,
    /// Leading bits that count.
    pub prefix: u8,
}

impl Network {
    /// Whether `address` lies in it. An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = |ip: IpAddr| match ip.to_canonical() {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
            IpAddr::V6(v6) => (v6.to_bits(), 128),
        };
        let ((net, width), (ip, ip_width)) = (bits(self.address), bits(address));
        let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix.min(width))).unwrap_or(0);
        width == ip_width && net & mask == ip & mask
    }
}

/// One listening socket (DaemonPortOptions).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Daemon {
    /// Name=, in log and Received.
    pub name: String,
    /// Addr= and Port=.
    pub address: SocketAddr,
    /// Listen=: backlog.
    pub backlog: u32,
    /// Modifier O: when it cannot be bound, the others serve without it.
    pub optional: bool,
    /// ETRN is offered; modifier E takes it away.
    pub etrn: bool,
    /// When TLS begins.
    pub tls: PortTls,
    /// queueLA=, refuseLA=, delayLA=.
    pub load: PortLoad,
    /// DeliveryMode= of what comes this way; none: as the option says.
    pub delivery_mode: Option<DeliveryMode>,
}

/// When TLS begins on a port of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortTls {
    /// After STARTTLS, which is offered when there is a certificate.
    Offered,
    /// Modifier S: never.
    Never,
    /// Modifier s: before the greeting (RFC 8314 3.3, port 465).
    FromTheStart,
}

impl Daemon {
    /// A listener at `address` with everything else as by default.
    pub fn at(name: &str, address: SocketAddr) -> Daemon {
        Daemon {
            name: name.into(),
            address,
            backlog: 511,
            optional: false,
            etrn: true,
            tls: PortTls::Offered,
            load: PortLoad::default(),
            delivery_mode: None,
        }
    }
}

/// QueueSortOrder: the order of what is due at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs)] // named as the words
pub enum SortOrder {
    Priority,
    Host,
    Time,
    FileName,
    Modification,
    Random,
    None,
    Shuffle,
}

/// The weights of a message's priority (lower goes first): size - class * `class` + recipients * `recipient`,
/// plus `retry` for each attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PriorityFactors {
    /// ClassFactor
    pub class: i64,
    /// RecipientFactor
    pub recipient: i64,
    /// RetryFactor
    pub retry: i64,
    /// QueueFactor: above QueueLA a message waits when its priority is over this / (load - QueueLA + 1).
    pub queue: i64,
}

/// NoRecipientAction: what to add to a message that names no recipient in its header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoRecipientAction {
    /// none: nothing.
    None,
    /// add-to: To: with the recipients.
    AddTo,
    /// add-apparently-to.
    AddApparentlyTo,
    /// add-bcc: an empty Bcc:.
    AddBcc,
    /// add-to-undisclosed: `To: undisclosed-recipients:;`
    AddToUndisclosed,
}

/// DeliveryMode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum DeliveryMode {
    /// i: before the command returns.
    Interactive,
    /// b: at once, behind the command's back.
    Background,
    /// q: at the next queue run.
    Queue,
    /// d: as q, and no map look-ups.
    Deferred,
}

impl DeliveryMode {
    /// Whether mail is tried as soon as it is taken, not at the next queue run.
    pub fn is_immediate(self) -> bool {
        matches!(self, DeliveryMode::Interactive | DeliveryMode::Background)
    }
}

/// ErrorMode: how the command line tells its caller of failures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum ErrorMode {
    /// p: on standard error.
    Print,
    /// q: only by exit status.
    Quiet,
    /// m: by mail.
    Mail,
    /// w: on the user's terminal, else by mail.
    Write,
    /// e: by mail, exit status 0.
    Berknet,
}

/// What a client of our server may use. Zero means no limit where sendmail has it so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// MaxMessageSize, octets; 0 none.
    pub message_size: u64,
    /// MaxRecipientsPerMessage; 0 none.
    pub recipients: u32,
    /// MaxHeadersLength, octets.
    pub headers_length: u64,
    /// MaxHopCount: Received lines.
    pub hops: u32,
    /// MaxDaemonChildren: sessions at once over all clients; 0 takes the built-in bound.
    pub sessions: usize,
    /// Sessions at once of one client address (loopback excepted); 0 none.
    pub sessions_per_client: usize,
    /// ConnectionRateThrottle: connections taken per second; 0 none.
    pub connections_per_second: u32,
    /// Octets of a command line with CRLF (RFC 5321 4.5.3.1.4 asks for 512; parameters need more).
    pub command_line: usize,
    /// Commands not understood before 421.
    pub bad_commands: u32,
    /// BadRcptThrottle: refused recipients after which each further RCPT waits; 0 none.
    pub bad_recipients: u32,
    /// BadRcptThrottleDelay: how long it waits.
    pub bad_recipients_pause: Duration,
    /// BadRcptShutdown: refused recipients of one message from which the session is ended; 0 never.
    pub bad_recipients_max: u32,
    /// BadRcptShutdownGood: that happens only with fewer good recipients in a hundred.
    pub good_recipients_percent: u32,
    /// Connections of one client within the window (loopback and RelayNetworks excepted); 0 none.
    pub client_rate: u32,
    /// ConnectionRateWindowSize.
    pub client_rate_window: Duration,
    /// RejectLogInterval: how often it is logged that connections are still refused.
    pub reject_log_interval: Duration,
    /// MaxNOOPCommands.
    pub noop_commands: u32,
    /// A whole session lasts at most this long.
    pub session_time: Duration,
}

/// Timeout.\*
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // named as the option
pub struct Timeouts {
    pub initial: Duration,
    pub connect: Duration,
    pub iconnect: Duration,
    pub aconnect: Option<Duration>,
    pub helo: Duration,
    pub mail: Duration,
    pub rcpt: Duration,
    pub datainit: Duration,
    pub datablock: Duration,
    pub datafinal: Duration,
    pub rset: Duration,
    pub quit: Duration,
    pub control: Duration,
    pub lhlo: Duration,
    pub starttls: Duration,
    pub command: Duration,
    pub hoststatus: Duration,
}

/// Timeout.queuereturn.CLASS and Timeout.queuewarn.CLASS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueTimeouts {
    /// When to give up.
    pub giving_up: GivingUp,
    /// When to warn; none never.
    pub warn: Option<Duration>,
}

/// Timeout.queuereturn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum GivingUp {
    /// After an attempt that ended at least this long after arrival.
    After(Duration),
    /// `now`: at once, without an attempt.
    Now,
}

impl NoRecipientAction {
    /// Whether it names the recipients of the envelope.
    pub fn names(self) -> bool {
        matches!(self, NoRecipientAction::AddTo | NoRecipientAction::AddApparentlyTo)
    }
}

/// PrivacyOptions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)] // named as the words
pub struct Privacy {
    pub needmailhelo: bool,
    pub needvrfyhelo: bool,
    pub needexpnhelo: bool,
    pub noexpn: bool,
    pub novrfy: bool,
    pub noverb: bool,
    pub noetrn: bool,
    pub restrictmailq: bool,
    pub restrictqrun: bool,
    pub restrictexpand: bool,
    pub noreceipts: bool,
    pub nobodyreturn: bool,
    pub authwarnings: bool,
    pub noactualrecipient: bool,
}

impl Config {
    /// The port of this name; none for local programs. Of several the first.
    fn port(&self, name: &str) -> Option<&Daemon> {
        self.daemons.iter().find(|daemon| daemon.name == name)
    }

    /// DeliveryMode of what comes through the port of this name.
    pub fn delivery_mode_at(&self, port: &str) -> DeliveryMode {
        self.port(port).and_then(|port| port.delivery_mode).unwrap_or(self.delivery_mode)
    }

    /// Whether mail for this mailer is tried in queue runs alone (HoldExpensive).
    pub fn is_held_for_runs(&self, mailer: Mailer) -> bool {
        self.hold_expensive && self.expensive_mailers.contains(&mailer)
    }
}

impl Default for Config {
    fn default() -> Config {
        let queue = QueueTimeouts { giving_up: GivingUp::After(5 * DAY), warn: Some(4 * HOUR) };
        Config {
            host_name: "localhost".into(),
            local_names: BTreeSet::from(["localhost".into()]),
            relay_domains: BTreeSet::new(),
            relay_networks: vec![
                Network { address: IpAddr::from([127, 0, 0, 0]), prefix: 8 },
                Network { address: IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]), prefix: 128 },
            ],
            smart_host: None,
            local_relay: None,
            name_servers: Vec::new(),
            name_search_list: Vec::new(),
            has_wildcard_mx: false,
            work_around_broken_aaaa: false,
            hosts_file: "/etc/hosts".into(),
            host_sources: switch::USUAL_ORDER.into(),
            smtp_port: 25,
            daemons: Vec::new(),
            queue_directory: "/var/spool/kvmta".into(),
            delivery_mode: DeliveryMode::Background,
            error_mode: ErrorMode::Print,
            log_level: 9,
            limits: Limits {
                message_size: 0,
                recipients: 0,
                headers_length: 2 * 1024 * 1024,
                hops: 100,
                sessions: 0,
                sessions_per_client: 0,
                connections_per_second: 0,
                command_line: 2048,
                bad_commands: 25,
                bad_recipients: 0,
                bad_recipients_pause: SECOND,
                bad_recipients_max: 0,
                good_recipients_percent: 100,
                client_rate: 0,
                client_rate_window: MINUTE,
                reject_log_interval: 3 * HOUR,
                noop_commands: 20,
                session_time: 24 * HOUR,
            },
            timeouts: Timeouts {
                initial: 5 * MINUTE,
                connect: 2 * MINUTE,
                iconnect: 30 * SECOND,
                aconnect: None,
                helo: 5 * MINUTE,
                mail: 10 * MINUTE,
                rcpt: HOUR,
                datainit: 5 * MINUTE,
                datablock: HOUR,
                datafinal: HOUR,
                rset: 5 * MINUTE,
                quit: 2 * MINUTE,
                control: 2 * MINUTE,
                lhlo: 2 * MINUTE,
                starttls: HOUR,
                command: 5 * MINUTE,
                hoststatus: 30 * MINUTE,
            },
            queue_timeouts: [queue, queue, queue, QueueTimeouts { warn: None, ..queue }],
            min_queue_age: Duration::ZERO,
            max_queue_age: None,
            host_status: false,
            connection_cache_size: 100,
            connection_cache_timeout: 5 * MINUTE,
            checkpoint_interval: 10,
            concurrency_max: 200,
            destination_concurrency_max: 20,
            active_jobs_max: 20_000,
            active_octets_max: 64 << 20,
            tls: Tls::default(),
            privacy: Privacy { authwarnings: true, ..Privacy::default() },
            double_bounce_address: "postmaster".parse().ok(),
            postmaster_copy: None,
            bounce_size_limit: 50_000,
            soft_bounce: false,
            max_unsettled: 200,
            db_cache_size: 64 << 20,
            body_generation_size: 1 << 30,
            incoming_size: 256 << 20,
            history_time: 7 * DAY,
            history_size: 256 << 20,
            min_free_octets: 100 * 4096,
            queue_sort_order: SortOrder::Priority,
            queue_run_size_max: None,
            priority: PriorityFactors {
                class: 1800,
                recipient: 30_000,
                retry: 90_000,
                queue: 600_000,
            },
            load: LoadLimits::default(),
            dial_delay: Duration::ZERO,
            helo_name: None,
            client_addresses: Vec::new(),
            client_starttls: true,
            connect_only_to: None,
            fallback_mx_host: None,
            fallback_smart_host: None,
            try_null_mx_list: false,
            allow_bogus_helo: false,
            smtp_greeting: None,
            deliver_by_min: Some(0),
            help_file: None,
            seven_bit_input: false,
            eight_bit_mode: EightBitMode::Pass,
            eight_bit_mailers: [Mailer::Relay].into(),
            default_charset: "unknown-8bit".into(),
            mime_limits: mime::Limits::typed(2048, 1024),
            error_header: None,
            precedences: usual_precedences(),
            trusted_users: ["root", "daemon"].map(str::to_owned).into(),
            ignore_dots: false,
            save_from_line: false,
            hold_expensive: false,
            expensive_mailers: BTreeSet::new(),
            single_line_from_header: false,
            must_quote_chars: ".'".into(),
            rrt_implies_dsn: false,
            send_mime_errors: true,
            dead_letter_drop: None,
            resolver_retrans: 5 * SECOND,
            resolver_retry: 2,
            address_style: Style::default(),
            time_zone: TimeZone::UTC,
            use_msp: false,
            alias_files: Vec::new(),
            check_aliases: false,
            no_recipient_action: NoRecipientAction::None,
            verbose: false,
            macros: BTreeMap::new(),
            run_as_user: None,
            trusted_user: None,
            pid_file: None,
            control_socket: None,
            status_file: None,
            per_user: false,
        }
    }
}

/// The P lines of sendmail's own configuration.
pub fn usual_precedences() -> BTreeMap<String, i32> {
    let words = [
        ("special-delivery", 100),
        ("first-class", 0),
        ("list", -30),
        ("bulk", -60),
        ("junk", -100),
    ];
    words.map(|(word, number)| (word.to_owned(), number)).into()
}
