//! The options that are accepted and do nothing: those without a meaning here, each with the reason, and those
//! for a later version, each with what happens until then.

use super::options::{Action, OptionSpec};

const fn spec(name: &'static str, letter: Option<char>, action: Action) -> OptionSpec {
    OptionSpec { name, letter, default: "", help: "", safe: true, own: false, action }
}

const fn idle(name: &'static str, reason: &'static str) -> OptionSpec {
    spec(name, None, Action::Idle(reason))
}

const fn idle_letter(name: &'static str, letter: char, reason: &'static str) -> OptionSpec {
    spec(name, Some(letter), Action::Idle(reason))
}

const fn later(name: &'static str, until: &'static str) -> OptionSpec {
    spec(name, None, Action::Later(until))
}

const fn later_letter(name: &'static str, letter: char, until: &'static str) -> OptionSpec {
    spec(name, Some(letter), Action::Later(until))
}

const NO_SPOOL: &str = "the queue is a database, not a directory of spool files";
const NO_FORK: &str = "deliveries are tasks of one process, not processes";
const NO_OPENSSL: &str = "the TLS library is rustls, whose protocols and ciphers are all safe ones";
const NO_AUTH: &str = "AUTH is not offered and not used yet";
const NO_ALIASES: &str = "LocalRelay takes local mail, and aliases and .forward with it";
const NO_MILTER: &str = "mail filters are not called yet";
const NO_CERT_CHECK: &str =
    "certificates of other hosts are taken as they come (opportunistic TLS) and said so in the log";
const NO_CLIENT_CERT: &str = "our client shows no certificate";
const NO_MEMORY: &str = "memory is bounded by design, so it is not measured";

/// Known, not acting yet.
#[rustfmt::skip]
pub static LATER: &[OptionSpec] = &[
    later_letter("AliasFile", 'A', NO_ALIASES),
    later("AuthMechanisms", NO_AUTH),
    later("AuthOptions", NO_AUTH),
    later("AuthRealm", NO_AUTH),
    later("CACertFile", NO_CERT_CHECK),
    later("CACertPath", NO_CERT_CHECK),
    later("CertFingerprintAlgorithm", NO_CERT_CHECK),
    later_letter("CheckAliases", 'n', NO_ALIASES),
    later("ClientCACertFile", NO_CERT_CHECK),
    later("ClientCACertPath", NO_CERT_CHECK),
    later("ClientCertFile", NO_CLIENT_CERT),
    later("ClientKeyFile", NO_CLIENT_CERT),
    later("CRLFile", NO_CERT_CHECK),
    later("CRLPath", NO_CERT_CHECK),
    later("DANE", "TLSA records are not asked for; TLS is opportunistic"),
    later("DefaultAuthInfo", NO_AUTH),
    later("DefaultCharSet", "unlabelled 8-bit text stays unlabelled"),
    later_letter("DefaultUser", 'u', "local delivery by program does not exist yet"),
    later("DontBlameSendmail", "no file is read or written on behalf of users yet"),
    later_letter("ForwardPath", 'J', NO_ALIASES),
    later("InputMailFilters", NO_MILTER),
    later("LDAPDefaultSpec", "maps are not looked up yet"),
    later("MaxAliasRecursion", NO_ALIASES),
    later("MaxForwardEntries", NO_ALIASES),
    later("Milter.LogLevel", NO_MILTER),
    later("Milter.macros.connect", NO_MILTER),
    later("Milter.macros.helo", NO_MILTER),
    later("Milter.macros.envfrom", NO_MILTER),
    later("Milter.macros.envrcpt", NO_MILTER),
    later("Milter.macros.data", NO_MILTER),
    later("Milter.macros.eoh", NO_MILTER),
    later("Milter.macros.eom", NO_MILTER),
    later("OperatorChars", "there are no rulesets yet to use them"),
    later("SafeFileEnvironment", "mail is not delivered to files yet"),
    later("StrictTransportSecurity", "MTA-STS is not asked for; TLS is opportunistic"),
    later_letter("TimeZoneSpec", 't', "the zone is the system's, or TZ"),
    later("Timeout.auth", NO_AUTH),
    later("TLSFallbacktoClear", "after a failed handshake the message waits for its next attempt"),
    later("UnixFromLine", "mail is not delivered to mailbox files by this program"),
];

/// Without a meaning here.
#[rustfmt::skip]
pub static IDLE: &[OptionSpec] = &[
    idle("AddBcc", "NoRecipientAction=add-bcc does it"),
    idle("AddrTypeModes", "there are no address type macros"),
    idle_letter("AliasWait", 'a', "a rebuild of aliases is one transaction, so nobody waits for it"),
    idle("AuthMaxBits", "there is no SASL security layer"),
    idle_letter("BlankSub", 'B', "blanks in addresses are refused, not replaced"),
    idle("BounceQueue", "there is one queue, without groups"),
    idle("CheckQueueRunners", NO_FORK),
    idle("CipherList", NO_OPENSSL),
    idle("CipherSuites", NO_OPENSSL),
    idle("ClientSSLOptions", NO_OPENSSL),
    idle("ColonOkInAddr", "colons stand in addresses as RFC 5321 has them"),
    idle("DataFileBufferSize", NO_SPOOL),
    idle_letter("DefaultGroup", 'g', "the group is part of DefaultUser"),
    idle("DHParameters", NO_OPENSSL),
    idle("DialDelay", "no line has to be dialled; the next attempt is soon enough"),
    idle("DirectSubmissionModifiers", "there are no rulesets to ask for daemon_flags"),
    idle("DontExpandCnames", "addresses are not canonified, so CNAMEs stay"),
    idle("DontInitGroups", "no program runs as a user here"),
    idle("DontLockFilesForRead", NO_SPOOL),
    idle_letter("DontPruneRoutes", 'R', "source routes are always dropped (RFC 5321 4.1.1.3)"),
    idle("EightBitAddrOK", "addresses above ASCII need SMTPUTF8 (RFC 6531)"),
    idle("FastSplit", "DeliveryConcurrency bounds the deliveries of a submission as well"),
    idle("FIPSMode", NO_OPENSSL),
    idle_letter("ForkEachJob", 'Y', NO_FORK),
    idle("Hacks", "there are none"),
    idle("HostsFile", "hosts are looked up as the system does"),
    idle("InetQoS", "traffic classes are set by the system's firewall"),
    idle("KeepBcc", "Bcc: is always taken out of submitted mail, but for -G"),
    idle("MailboxDatabase", "users are those of the password file"),
    idle_letter("MatchGECOS", 'G', "full names are no addresses"),
    idle("MaxMimeHeaderLength", "headers are passed on whole; MaxHeadersLength bounds them"),
    idle("MaxRunnersPerQueue", "there is one scheduler; DeliveryConcurrency bounds its work"),
    idle("MemoryResource", NO_MEMORY),
    idle("MessageAccept", "the reply names the queue ID"),
    idle_letter("MeToo", 'm', "the sender always stays in a list (true, as by default)"),
    idle("NameSearchList", "domains of the envelope are complete; use NameServers for other servers"),
    idle("NameServer", "use NameServers=[address]:port"),
    idle("NiceQueueRun", NO_FORK),
    idle_letter("OldStyleHeaders", 'o', "blanks always separate addresses where no comma does (true, as in stock configurations)"),
    idle("ProcessTitlePrefix", "the process title stays the command line"),
    idle("QueueFileMode", "the files of the store are 0600: every command asks the daemon"),
    idle("QueueLowMem", NO_MEMORY),
    idle("RandFile", "randomness comes from the kernel"),
    idle("RefuseLowMem", NO_MEMORY),
    idle_letter("ResolverOptions", 'I', "a name without AAAA that can be asked is reached by its A record, and names are not canonified"),
    idle("RejectNUL", "NUL is refused in every message (RFC 5321 2.3.8)"),
    idle("RemoteMode", "the queue is never on another host's file system"),
    idle("RequiresDirfsync", "every commit is durable, directory entries included"),
    idle("ServerSSLOptions", NO_OPENSSL),
    idle("ServiceSwitchFile", "hosts are looked up as the system does"),
    idle("SetCertAltnames", "there are no rulesets to ask for certificate names"),
    idle("SharedMemoryKey", "counters are part of the store and always exact"),
    idle("SharedMemoryKeyFile", "counters are part of the store and always exact"),
    idle("SmtpUTF8", "SMTPUTF8 (RFC 6531) is always on"),
    idle("SSLEngine", NO_OPENSSL),
    idle("SSLEnginePath", NO_OPENSSL),
    idle_letter("SuperSafe", 's', "a message is durable before it is acknowledged, always"),
    idle_letter("TempFileMode", 'F', "there are no temporary files"),
    idle("Timeout.misc", "our client sends neither NOOP nor VERB"),
    idle("Timeout.fileopen", "no file of a user is opened"),
    idle("Timeout.ident", "IDENT (RFC 1413) is never asked"),
    idle("TLSSrvOptions", "clients are not asked for a certificate"),
    idle("Timeout.resolver.retrans.first", "Timeout.resolver.retrans holds for every attempt"),
    idle("Timeout.resolver.retry.first", "Timeout.resolver.retry holds for every attempt"),
    idle("UnsafeGroupWrites", "no file of a user is read"),
    idle("UseCompressedIPv6Addresses", "there are no maps with addresses as keys"),
    idle_letter("UseErrorsTo", 'l', "reports go to the reverse-path and nowhere else (RFC 5321)"),
    idle("UseMSP", "submission needs no queue of its own"),
    spec("UserDatabaseSpec", Some('U'), Action::Refused("there is no user database; use aliases")),
    idle("XscriptFileBufferSize", "transcripts are kept in memory"),
];
