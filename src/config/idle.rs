//! The options that are accepted and do nothing: those without a meaning here, each with the reason, and those
//! for a later version, each with what happens until then.

use super::options::{Action, Check, OptionSpec};
use super::value::{self, Unit, ValueError};

const fn spec(name: &'static str, letter: Option<char>, action: Action) -> OptionSpec {
    OptionSpec { name, letter, default: "", help: "", safe: true, own: false, action, check: None }
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

/// The same with a look at its values, where sendmail has one.
const fn checked(option: OptionSpec, check: Check) -> OptionSpec {
    OptionSpec { check: Some(check), ..option }
}

const NO_SPOOL: &str = "the queue is a database, not a directory of spool files";
const NO_FORK: &str = "deliveries are tasks of one process, not processes";
const NO_OPENSSL: &str = "the TLS library is rustls, whose protocols and ciphers are all safe ones";
const NO_AUTH: &str = "AUTH is not offered and not used yet";
const NO_ALIASES: &str = "LocalRelay takes local mail, and aliases and .forward with it";
const NO_MILTER: &str = "mail filters are not called yet";
const NO_MEMORY: &str = "memory is bounded by design, so it is not measured";

/// Known, not acting yet.
#[rustfmt::skip]
pub static LATER: &[OptionSpec] = &[
    later("AuthMechanisms", NO_AUTH),
    checked(later("AuthOptions", NO_AUTH), auth_options),
    later("AuthRealm", NO_AUTH),
    later("DANE", "TLSA records are not asked for; TLS is opportunistic"),
    later("DefaultAuthInfo", NO_AUTH),
    later_letter("DefaultUser", 'u', "local delivery by program does not exist yet"),
    later("DirectSubmissionModifiers", "${daemon_flags} is read by rulesets alone, which are not interpreted yet"),
    checked(later("DontBlameSendmail", "no file is read or written on behalf of users yet"), dont_blame),
    checked(later("DontExpandCnames", "CNAMEs stay (true): names are canonified by rulesets, which are not interpreted yet"), boolean),
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
    checked(later("Timeout.auth", NO_AUTH), minutes),
    later("UseCompressedIPv6Addresses", "there are no maps with addresses as keys yet"),
    later("UnixFromLine", "mail is not delivered to mailbox files by this program"),
];

/// Without a meaning here.
#[rustfmt::skip]
pub static IDLE: &[OptionSpec] = &[
    idle("AddBcc", "NoRecipientAction=add-bcc does it"),
    idle("AddrTypeModes", "there are no address type macros"),
    checked(idle_letter("AliasWait", 'a', "a rebuild of aliases is one transaction, so nobody waits for it"), minutes),
    idle("AuthMaxBits", "there is no SASL security layer"),
    idle("BounceQueue", "there is one queue, without groups"),
    idle("CertFingerprintAlgorithm", "there are no rulesets to ask for a certificate's fingerprint"),
    idle("CheckQueueRunners", NO_FORK),
    idle("DataFileBufferSize", NO_SPOOL),
    idle_letter("DefaultGroup", 'g', "the group is part of DefaultUser"),
    idle("DHParameters", NO_OPENSSL),
    idle("DontInitGroups", "no program runs as a user here"),
    idle("DontLockFilesForRead", NO_SPOOL),
    idle_letter("DontPruneRoutes", 'R', "source routes are always dropped (RFC 5321 4.1.1.3)"),
    idle("EightBitAddrOK", "addresses above ASCII need SMTPUTF8 (RFC 6531)"),
    idle("FastSplit", "DeliveryConcurrency bounds the deliveries of a submission as well"),
    idle("FIPSMode", NO_OPENSSL),
    idle_letter("ForkEachJob", 'Y', NO_FORK),
    idle("Hacks", "there are none"),
    idle("InetQoS", "traffic classes are set by the system's firewall"),
    idle("KeepBcc", "Bcc: is always taken out of submitted mail, but for -G"),
    checked(idle("MailboxDatabase", "users are those of the password file"), password_file),
    idle_letter("MatchGECOS", 'G', "full names are no addresses"),
    idle("MemoryResource", NO_MEMORY),
    idle("MessageAccept", "the reply names the queue ID"),
    idle_letter("MeToo", 'm', "the sender always stays in a list (true, as by default)"),
    idle("NiceQueueRun", NO_FORK),
    idle("ProcessTitlePrefix", "the process title stays the command line"),
    checked(idle("QueueFileMode", "the files of the store are 0600, whatever it is: every command asks the daemon"), file_mode),
    idle("QueueLowMem", NO_MEMORY),
    idle("RandFile", "randomness comes from the kernel"),
    idle("RefuseLowMem", NO_MEMORY),
    checked(idle("RejectNUL", "NUL is refused in every message (RFC 5321 2.3.8)"), boolean),
    idle("RemoteMode", "the queue is never on another host's file system"),
    idle("RequiresDirfsync", "every commit is durable, directory entries included"),
    idle("SetCertAltnames", "there are no rulesets to ask for certificate names"),
    idle("SharedMemoryKey", "counters are part of the store and always exact"),
    idle("SharedMemoryKeyFile", "counters are part of the store and always exact"),
    checked(idle("SmtpUTF8", "SMTPUTF8 (RFC 6531) is always on"), boolean),
    idle("SSLEngine", NO_OPENSSL),
    idle("SSLEnginePath", NO_OPENSSL),
    checked(idle_letter("SuperSafe", 's', "a message is durable before it is acknowledged, whether true, PostMilter, interactive or false"), super_safe),
    checked(idle_letter("TempFileMode", 'F', "there are no temporary files"), file_mode),
    checked(idle("Timeout.misc", "our client sends neither NOOP nor VERB"), minutes),
    checked(idle("Timeout.fileopen", "no file of a user is opened"), minutes),
    checked(idle("Timeout.ident", "IDENT (RFC 1413) is never asked"), minutes),
    checked(idle("Timeout.resolver.retrans.first", "Timeout.resolver.retrans holds for every attempt"), seconds),
    idle("Timeout.resolver.retry.first", "Timeout.resolver.retry holds for every attempt"),
    idle("UnsafeGroupWrites", "no file of a user is read"),
    idle_letter("UseErrorsTo", 'l', "reports go to the reverse-path and nowhere else (RFC 5321)"),
    spec("UserDatabaseSpec", Some('U'), Action::Refused("there is no user database; use aliases")),
    idle("XscriptFileBufferSize", "transcripts are kept in memory"),
];

fn boolean(value: &str) -> Result<(), ValueError> {
    value::boolean(value).map(|_| ())
}

fn minutes(value: &str) -> Result<(), ValueError> {
    // AliasWait and others may be set to nothing.
    if value.is_empty() { Ok(()) } else { value::time(value, Unit::Minutes).map(|_| ()) }
}

fn seconds(value: &str) -> Result<(), ValueError> {
    value::time(value, Unit::Seconds).map(|_| ())
}

fn super_safe(value: &str) -> Result<(), ValueError> {
    match value.bytes().next().map(|byte| byte.to_ascii_lowercase()) {
        Some(b'i' | b'p') => Ok(()),
        _ => value::boolean(value).map(|_| ()).map_err(|_| ValueError::Word {
            word: value::shown(value),
            allowed: "true PostMilter interactive false",
        }),
    }
}

/// Permissions, as chmod(1) has them in octal.
fn file_mode(value: &str) -> Result<(), ValueError> {
    let is_mode = u32::from_str_radix(value.trim(), 8).is_ok_and(|mode| mode <= 0o7777);
    if is_mode && !value.starts_with('+') {
        return Ok(());
    }
    Err(ValueError::Other(format!("{:?} is not a mode such as 0600", value::shown(value))))
}

fn password_file(value: &str) -> Result<(), ValueError> {
    let word = || ValueError::Word { word: value::shown(value), allowed: "pw" };
    if value == "pw" { Ok(()) } else { Err(word()) }
}

fn auth_options(value: &str) -> Result<(), ValueError> {
    let words = value.split([',', ' ', '\t']).filter_map(|word| word.chars().next());
    match words.into_iter().find(|letter| !"AacdfmpyT".contains(*letter)) {
        Some(letter) => Err(ValueError::Other(format!("unknown parameter '{letter}'"))),
        None => Ok(()),
    }
}

fn dont_blame(value: &str) -> Result<(), ValueError> {
    let unknown = value
        .split([',', ' ', '\t'])
        .filter(|word| !word.is_empty())
        .find(|word| !DONT_BLAME.iter().any(|known| known.eq_ignore_ascii_case(word)));
    match unknown {
        Some(word) => Err(ValueError::Other(format!("{} unrecognized", value::shown(word)))),
        None => Ok(()),
    }
}

#[rustfmt::skip]
const DONT_BLAME: &[&str] = &[
    "Safe", "AssumeSafeChown", "CertOwner", "ClassFileInUnsafeDirPath", "DontWarnForwardFileInUnsafeDirPath",
    "ErrorHeaderInUnsafeDirPath", "FileDeliveryToHardLink", "FileDeliveryToSymLink", "ForwardFileInGroupWritableDirPath",
    "ForwardFileInUnsafeDirPath", "ForwardFileInUnsafeDirPathSafe", "GroupReadableDefaultAuthInfoFile",
    "GroupReadableKeyFile", "GroupReadableSASLDBFile", "GroupWritableAliasFile", "GroupWritableDirPathSafe",
    "GroupWritableForwardFile", "GroupWritableForwardFileSafe", "GroupWritableIncludeFile", "GroupWritableIncludeFileSafe",
    "GroupWritableSASLDBFile", "HelpFileInUnsafeDirPath", "IncludeFileInGroupWritableDirPath", "IncludeFileInUnsafeDirPath",
    "IncludeFileInUnsafeDirPathSafe", "InsufficientEntropy", "LinkedAliasFileInWritableDir", "LinkedClassFileInWritableDir",
    "LinkedForwardFileInWritableDir", "LinkedIncludeFileInWritableDir", "LinkedMapInWritableDir",
    "LinkedServiceSwitchFileInWritableDir", "MapInUnsafeDirPath", "NonRootSafeAddr", "RunProgramInUnsafeDirPath",
    "RunWritableProgram", "TrustStickyBit", "WorldWritableAliasFile", "WorldWritableForwardFile", "WorldWritableIncludeFile",
    "WriteMapToHardLink", "WriteMapToSymLink", "WriteStatsToHardLink", "WriteStatsToSymLink",
];

#[cfg(test)]
mod tests {
    use crate::config::options::{Draft, Turn, find};

    /// Values of options that do nothing: a slip is found as sendmail finds it, and sometimes where it does not.
    #[test]
    fn idle_options_have_their_values_checked() {
        let set = |name: &str, value: &str| {
            let mut draft = Draft::new(crate::config::Config::default());
            let (option, _) = find(name).unwrap();
            let turn = Turn { first: true, command_line: false };
            option.set(&mut draft, value, turn).map_err(|fault| fault.to_string())
        };
        for (name, good, bad, fault) in [
            (
                "SuperSafe",
                "true False PostMilter interactive i",
                "maybe",
                "is none of true PostMilter interactive false",
            ),
            ("QueueFileMode", "0600 644 0", "689", "is not a mode such as 0600"),
            ("TempFileMode", "0600", "rw", "is not a mode"),
            ("RejectNUL", "true no", "1", "neither true nor false"),
            ("DontExpandCnames", "True", "x", "neither true nor false"),
            ("AliasWait", "10 5m", "1x", "Invalid time unit `x'"),
            ("Timeout.ident", "0 5s", "5q", "Invalid time unit `q'"),
            ("AuthOptions", "A A,p,y", "A,q", "unknown parameter 'q'"),
            (
                "DontBlameSendmail",
                "safe GroupWritableDirPathSafe,TrustStickyBit",
                "safe,Foo",
                "Foo unrecognized",
            ),
            ("MailboxDatabase", "pw", "ldap", "is none of pw"),
        ] {
            for value in good.split(' ') {
                assert_eq!(set(name, value), Ok(()), "{name}={value}");
            }
            let said = set(name, bad).unwrap_err();
            assert!(said.contains(fault), "{name}={bad}: {said}");
        }
    }
}
