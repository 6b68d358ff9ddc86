//! From what was typed to a [`Config`]: the file line by line, then the command line on top of it.
//!
//! Because the command line comes last its values win, as sendmail's sticky options do; PrivacyOptions add up. What
//! could not be used is never dropped: every such line gives a [`Diagnostic`] that says what happens instead. A
//! fault in a file leaves the rest of the file in force; a fault on the command line ends the command.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::host::HostNames;
use super::locate::{Location, SYSTEM_QUEUE};
use super::options::{self, Action, Draft, FindError, Probe, Turn};
use super::raw::{self, Directive, Line, Origin, Setting};
use super::tls::Halves;
use super::value;
use super::{Config, Daemon, Network, PortTls, switch};
use crate::mail::address::check_domain;
use crate::mail::job::Mailer;

/// Port of a queue that is not the system's.
const PRIVATE_PORT: u16 = 2525;

/// Octets of a file that ErrorHeader names: it goes into every failure report.
const ERROR_HEADER_MAX: usize = 4096;

/// Everything a configuration is made from.
pub struct Sources<'a> {
    /// Queue and file.
    pub location: &'a Location,
    /// What this host is called, unless a Dj line says otherwise.
    pub host: &'a HostNames,
    /// -O and -o in the order given.
    pub options: &'a [Setting],
    /// -M: names and texts of macros.
    pub macros: &'a [(String, String)],
    /// Reads a file: [`read_file`], or a test's.
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
}

/// One thing to tell the operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// File and line.
    pub origin: Origin,
    /// What, and what happens instead.
    pub text: String,
}

/// How bad a [`Diagnostic`] is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Accepted, and without effect for a good reason: for the log, once.
    Notice,
    /// Will not act as the line asks.
    Warning,
    /// A fault: the line does nothing. -bC exits 78 for it.
    Error,
}

/// `/etc/mail/kvmta.cf: line 12: readcf: unknown option name NoSuchOption; line ignored`
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.text)
    }
}

/// Why there is no configuration to run by.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read: exit 72 (EX_OSFILE). The text is sendmail's.
    #[error("{}: line 0: cannot open: {}", path.display(), reason(source))]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// -O with a name that no option has, or several: exit 70 (EX_SOFTWARE). The text is sendmail's.
    #[error("{0}")]
    UnknownOption(FindError),
    /// -O with a value that cannot be: exit 64 (EX_USAGE).
    #[error("option {name}: {fault}")]
    Value {
        /// The option's full name.
        name: &'static str,
        /// What is wrong.
        fault: value::ValueError,
    },
}

/// `No such file or directory`, without the number that std appends.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Reads a configuration file of at most [`raw::FILE_MAX`] octets; what is not UTF-8 is replaced.
///
/// # Errors
/// What the system says, or that the file is too large.
pub fn read_file(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(raw::FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > raw::FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "file too large"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Config {
    /// Makes the configuration, with what is to be said about it in the order of its lines.
    ///
    /// # Errors
    /// [`ConfigError`]: the file cannot be opened, or the command line names an option or value that cannot be.
    pub fn load(sources: &Sources<'_>) -> Result<(Config, Vec<Diagnostic>), ConfigError> {
        let mut config = Config::default();
        config.queue_directory.clone_from(&sources.location.queue_directory);
        config.host_name.clone_from(&sources.host.full);
        config.time_zone = super::zone::system();
        let mut reader = Reader {
            draft: Draft::new(config),
            sources,
            diagnostics: Vec::new(),
            seen: BTreeSet::new(),
            unused: BTreeMap::new(),
        };
        reader.identity(&sources.host.full, &sources.host.short);
        for (name, text) in sources.macros {
            reader.draft.macros.insert(name.clone(), text.clone());
        }
        if let Some(path) = &sources.location.config_file {
            let text = (sources.read)(path)
                .map_err(|source| ConfigError::Open { path: path.clone(), source })?;
            for line in raw::parse(path, &text) {
                reader.line(line);
            }
            reader.report_unused();
        }
        for setting in sources.options {
            reader.command_line(setting)?;
        }
        Ok(reader.finish())
    }
}

impl Draft {
    /// A draft that starts from `config`.
    pub fn new(config: Config) -> Draft {
        Draft {
            config,
            origin: Origin::CommandLine,
            server_certificate: Halves::default(),
            client_certificate: Halves::default(),
            ports_named: false,
            macros: BTreeMap::new(),
            single_thread: false,
            switch_file: None,
            probe: Probe::All,
            class_networks: Vec::new(),
            remarks: Vec::new(),
        }
    }
}

struct Reader<'a> {
    draft: Draft,
    sources: &'a Sources<'a>,
    diagnostics: Vec<Diagnostic>,
    /// Lists that have had their first value, from the file or (true) the command line.
    seen: BTreeSet<(&'static str, bool)>,
    /// Lines of letters that are read and not used: the first of each, and how many.
    unused: BTreeMap<char, (Origin, usize)>,
}

impl Reader<'_> {
    fn say(&mut self, severity: Severity, origin: &Origin, text: String) {
        self.diagnostics.push(Diagnostic { severity, origin: origin.clone(), text });
    }

    /// $w, $j, $m, $k.
    fn identity(&mut self, full: &str, short: &str) {
        let domain = full.split_once('.').map_or("", |(_, domain)| domain);
        for (name, text) in [("w", short), ("j", full), ("m", domain), ("k", full)] {
            self.draft.macros.insert(name.to_owned(), text.to_owned());
        }
        let names = &mut self.draft.config.local_names;
        names.insert(full.to_lowercase());
        names.insert(short.to_lowercase());
    }

    fn line(&mut self, line: Line) {
        let Line { origin, directive } = line;
        match directive {
            Directive::Option(setting) => self.file_option(&origin, &setting),
            Directive::Macro { name, value } => self.define(&origin, &name, &value),
            Directive::Class { name, words } => self.class(&origin, &name, words),
            Directive::ClassFile { name, optional, source } => {
                self.class_file(&origin, &name, optional, &source);
            }
            Directive::Precedence { word, number } => match number.parse() {
                Ok(number) if !word.is_empty() => {
                    self.draft.config.precedences.insert(word.to_lowercase(), number);
                }
                _ => {
                    let text = format!("precedence {word:?} needs a number; line ignored");
                    self.say(Severity::Error, &origin, text);
                }
            },
            Directive::Version(text) => {
                let level = text.split('/').next().unwrap_or_default();
                // sendmail: files older than this rely on it.
                if level.parse::<u8>().is_ok_and(|level| level < 6) {
                    self.draft.config.address_style.colons_belong = true;
                }
                if !level.parse::<u8>().is_ok_and(|level| level <= 10) {
                    let text = format!("syntax version {level:?} is not known; read as version 10");
                    self.say(Severity::Warning, &origin, text);
                }
            }
            Directive::Mailer { name, flags } => {
                if flags.contains('e') {
                    self.draft.config.expensive_mailers.extend(mailers_called(&name));
                }
                // All three are our esmtp, and only that one says what becomes of 8 bits.
                if !matches!(name.as_str(), "smtp" | "smtp8" | "dsmtp") {
                    let just_send_8 = &mut self.draft.config.eight_bit_mailers;
                    just_send_8.retain(|mailer| !mailers_called(&name).contains(mailer));
                    if flags.contains('8') {
                        just_send_8.extend(mailers_called(&name));
                    }
                }
                self.unused.entry('M').or_insert((origin, 0)).1 += 1;
            }
            Directive::Other { letter } => {
                // Rulesets and their rules are one subject.
                let letter = if letter == 'S' { 'R' } else { letter };
                self.unused.entry(letter).or_insert((origin, 0)).1 += 1;
            }
            Directive::Unknown(line) => {
                let line = value::shown(&line);
                let text = format!("unknown configuration line \"{line}\"; line ignored");
                self.say(Severity::Error, &origin, text);
            }
        }
    }

    fn file_option(&mut self, origin: &Origin, setting: &Setting) {
        match options::find(&setting.name) {
            Ok((option, short)) => {
                if short {
                    let text = format!("option {} read as {}", setting.name, option.name);
                    self.say(Severity::Notice, origin, text);
                }
                if let Err(fault) = self.set(origin, option, &setting.value) {
                    let text = format!("option {}: {fault}; it stays as it was", option.name);
                    self.say(Severity::Error, origin, text);
                }
            }
            Err(error) => self.say(Severity::Error, origin, format!("{error}; line ignored")),
        }
    }

    fn command_line(&mut self, setting: &Setting) -> Result<(), ConfigError> {
        let origin = Origin::CommandLine;
        match options::find(&setting.name) {
            Ok((option, short)) => {
                if short {
                    let text = format!("option {} read as {}", setting.name, option.name);
                    self.say(Severity::Notice, &origin, text);
                }
                // What locate made absolute is not set again as it was typed.
                if option.name == "QueueDirectory" {
                    let directory = &self.sources.location.queue_directory;
                    self.draft.config.queue_directory.clone_from(directory);
                    return Ok(());
                }
                self.set(&origin, option, &setting.value)
                    .map_err(|fault| ConfigError::Value { name: option.name, fault })
            }
            // Letters of other systems stand in old scripts: their mail must not be lost over one.
            Err(error @ FindError::Letter(_)) => {
                self.say(Severity::Notice, &origin, format!("{error}; ignored"));
                Ok(())
            }
            Err(error) => Err(ConfigError::UnknownOption(error)),
        }
    }

    fn set(
        &mut self,
        origin: &Origin,
        option: &'static options::OptionSpec,
        value: &str,
    ) -> Result<(), value::ValueError> {
        let command_line = *origin == Origin::CommandLine;
        let turn = Turn { first: self.seen.insert((option.name, command_line)), command_line };
        let value = self.expand(value);
        self.draft.origin = origin.clone();
        let result = option.set(&mut self.draft, &value, turn);
        match option.action {
            Action::Idle(reason) => {
                let text = format!("option {} has no effect: {reason}", option.name);
                self.say(Severity::Notice, origin, text);
            }
            Action::Later(until) => {
                let text = format!("option {} has no effect yet: {until}", option.name);
                self.say(Severity::Warning, origin, text);
            }
            _ => {}
        }
        for remark in std::mem::take(&mut self.draft.remarks) {
            self.say(Severity::Warning, origin, format!("option {}: {remark}", option.name));
        }
        result
    }

    /// `text` with `$x` and `${name}` replaced where the macro is known; anything else stays as it is.
    fn expand(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            let (name, tail) = raw::name(after);
            match self.draft.macros.get(&name) {
                Some(value) => {
                    out.push_str(value);
                    rest = tail;
                }
                None => {
                    out.push('$');
                    rest = after;
                }
            }
        }
        out.push_str(rest);
        out
    }

    fn define(&mut self, origin: &Origin, name: &str, value: &str) {
        let value = self.expand(value);
        match name {
            "j" if check_domain(&value).is_ok() => {
                let short = self.draft.macros.get("w").cloned().unwrap_or_default();
                self.identity(&value, &short);
                self.draft.config.host_name = value;
            }
            "j" => {
                let text = format!("Dj: {:?} is no host name; line ignored", value::shown(&value));
                self.say(Severity::Error, origin, text);
            }
            "S" => self.smart_host(origin, &value),
            _ => {
                self.draft.macros.insert(name.to_owned(), value);
            }
        }
    }

    /// DS, which may name a mailer before its host (`esmtp:[relay.example]`).
    fn smart_host(&mut self, origin: &Origin, value: &str) {
        let host = ["smtp:", "esmtp:", "smtp8:", "dsmtp:", "relay:"]
            .iter()
            .find_map(|mailer| value.strip_prefix(mailer))
            .unwrap_or(value);
        let host = match host {
            "" => Ok(None),
            host => value::next_hop(host).map(Some),
        };
        match host {
            Ok(host) => self.draft.config.smart_host = host,
            Err(fault) => {
                self.say(Severity::Error, origin, format!("DS: {fault}; line ignored"));
            }
        }
    }

    fn class(&mut self, origin: &Origin, name: &str, words: Vec<String>) {
        for word in words {
            let word = self.expand(&word);
            match name {
                "w" => {
                    let name = word.trim_end_matches('.').to_lowercase();
                    self.draft.config.local_names.insert(name);
                }
                "R" => match relay_network(&word) {
                    Some(network) => self.draft.class_networks.push(network),
                    None if check_domain(&word).is_ok() => {
                        let name = word.trim_end_matches('.').to_lowercase();
                        self.draft.config.relay_domains.insert(name);
                    }
                    None => {
                        let word = value::shown(&word);
                        let text =
                            format!("class R: {word:?} is neither domain nor network; ignored");
                        self.say(Severity::Error, origin, text);
                    }
                },
                "t" => {
                    self.draft.config.trusted_users.insert(word);
                }
                // Other classes serve rulesets, whose absence is reported with them.
                _ => {}
            }
        }
    }

    fn class_file(&mut self, origin: &Origin, name: &str, optional: bool, source: &str) {
        let path = source.split_whitespace().next().unwrap_or_default();
        if !path.starts_with('/') {
            let text = format!(
                "F{name}: {:?} is not the path of a file; line ignored",
                value::shown(source)
            );
            self.say(Severity::Error, origin, text);
            return;
        }
        match (self.sources.read)(Path::new(path)) {
            Ok(text) => {
                let origin = Origin::File { path: PathBuf::from(path).into(), line: 0 };
                self.class(&origin, name, raw::class_words(&text));
            }
            Err(error) if optional && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let text =
                    format!("fileclass: cannot open '{path}': {}; line ignored", reason(&error));
                self.say(Severity::Error, origin, text);
            }
        }
    }

    /// One line for each letter that is read and does nothing, not one for each of its lines.
    fn report_unused(&mut self) {
        for (letter, (origin, count)) in std::mem::take(&mut self.unused) {
            let (severity, what) = match letter {
                'R' => (
                    Severity::Warning,
                    "rulesets are not interpreted: the built-in routing and policy decide",
                ),
                'X' => (Severity::Warning, "mail filters are not called yet"),
                'Q' => (Severity::Warning, "there is one queue, without groups"),
                'K' => (Severity::Warning, "maps are not looked up yet"),
                'M' => {
                    (Severity::Notice, "the built-in mailers esmtp, relay, lmtp and local are used")
                }
                'H' => (
                    Severity::Notice,
                    "the header fields of RFC 5322 are added where they are missing",
                ),
                _ => (Severity::Notice, "no program is run"),
            };
            let lines = if count == 1 { "line" } else { "lines" };
            let letters = if letter == 'R' { "R and S".to_owned() } else { letter.to_string() };
            self.say(
                severity,
                &origin,
                format!("{count} {letters} {lines} without effect: {what}"),
            );
        }
    }

    /// What only the whole can tell.
    fn finish(mut self) -> (Config, Vec<Diagnostic>) {
        let whole = match &self.sources.location.config_file {
            Some(path) => Origin::File { path: path.as_path().into(), line: 0 },
            None => Origin::CommandLine,
        };
        self.certificates();
        self.ports_without_certificate(&whole);
        self.error_header(&whole);
        self.host_sources(&whole);
        if self.draft.config.host_status && self.draft.config.connection_cache_size == 0 {
            self.draft.config.host_status = false;
            let text = "HostStatusDirectory disabled with ConnectionCacheSize = 0";
            self.say(Severity::Warning, &whole, text.into());
        }
        let draft = &mut self.draft;
        let config = &mut draft.config;
        config.relay_networks.append(&mut draft.class_networks);
        config.load = config.load.of_this_machine();
        for address in draft.probe.of(&self.sources.host.addresses) {
            config.local_names.insert(match address {
                IpAddr::V4(v4) => format!("[{v4}]"),
                IpAddr::V6(v6) => format!("[ipv6:{v6}]"),
            });
        }
        config.per_user = config.queue_directory != Path::new(SYSTEM_QUEUE);
        if !draft.ports_named {
            config.daemons = default_daemons(config.per_user);
        }
        if config.verbose {
            config.hold_expensive = false;
            config.delivery_mode = super::DeliveryMode::Interactive;
        }
        if draft.single_thread {
            config.destination_concurrency_max = 1;
        }
        config.destination_concurrency_max =
            config.destination_concurrency_max.min(config.concurrency_max);
        config.macros = std::mem::take(&mut draft.macros);
        (self.draft.config, self.diagnostics)
    }

    /// HostsFile, and ServiceSwitchFile: the usual ones need not be there.
    fn host_sources(&mut self, whole: &Origin) {
        let hosts = self.draft.config.hosts_file.clone();
        if hosts != Path::new("/etc/hosts")
            && let Err(error) = (self.sources.read)(&hosts)
        {
            let text = format!(
                "HostsFile: cannot open {}: {}; hosts are looked up without it",
                hosts.display(),
                reason(&error)
            );
            self.say(Severity::Warning, whole, text);
        }
        let named = self.draft.switch_file.take();
        let path = named.clone().unwrap_or_else(|| switch::USUAL.into());
        match (self.sources.read)(&path) {
            Ok(text) => {
                let (order, unknown) = switch::hosts(&text);
                self.draft.config.host_sources = order;
                for word in unknown {
                    let path = path.display();
                    let text =
                        format!("{path}: hosts are not looked up in {word}, but in files and dns");
                    self.say(Severity::Warning, whole, text);
                }
            }
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let text = format!(
                    "ServiceSwitchFile: cannot open {}: {}; hosts are looked up in files, then dns",
                    path.display(),
                    reason(&error)
                );
                self.say(Severity::Warning, whole, text);
            }
        }
    }

    /// ServerCertFile with its key, ClientCertFile with its key; and what cannot be done without.
    fn certificates(&mut self) {
        match std::mem::take(&mut self.draft.server_certificate).whole() {
            Ok(certificate) => self.draft.config.tls.server_certificate = certificate,
            Err(half) => {
                let text =
                    "ServerCertFile and ServerKeyFile need each other; STARTTLS is not offered";
                self.say(Severity::Error, &half.origin, text.into());
            }
        }
        match std::mem::take(&mut self.draft.client_certificate).whole() {
            Ok(certificate) => self.draft.config.tls.client_certificate = certificate,
            Err(half) => {
                let text = "ClientCertFile and ClientKeyFile need each other; our client shows no certificate";
                self.say(Severity::Error, &half.origin, text.into());
            }
        }
    }

    /// DaemonPortOptions Modify=s without a certificate: nobody could speak to that port.
    fn ports_without_certificate(&mut self, whole: &Origin) {
        let config = &mut self.draft.config;
        if config.tls.server_certificate.is_some() {
            return;
        }
        let (closed, open): (Vec<_>, Vec<_>) =
            config.daemons.drain(..).partition(|daemon| daemon.tls == PortTls::FromTheStart);
        config.daemons = open;
        for Daemon { name, address, .. } in closed {
            let text = format!(
                "DaemonPortOptions Name={name}, Modify=s: TLS needs ServerCertFile and ServerKeyFile; port {} stays closed",
                address.port()
            );
            self.say(Severity::Error, whole, text);
        }
    }

    /// ErrorHeader=/path is the text in that file, macros replaced, up to [`ERROR_HEADER_MAX`].
    fn error_header(&mut self, whole: &Origin) {
        let Some(path) =
            self.draft.config.error_header.clone().filter(|text| text.starts_with('/'))
        else {
            return;
        };
        self.draft.config.error_header = match (self.sources.read)(Path::new(&path)) {
            Ok(text) => {
                let mut text = self.expand(&text);
                if text.len() > ERROR_HEADER_MAX {
                    let end = (0..=ERROR_HEADER_MAX).rev().find(|end| text.is_char_boundary(*end));
                    text.truncate(end.unwrap_or(0));
                    let said = format!("ErrorHeader: {path} is cut to {ERROR_HEADER_MAX} octets");
                    self.say(Severity::Warning, whole, said);
                }
                Some(text)
            }
            Err(error) => {
                let text = format!(
                    "ErrorHeader: cannot open {path}: {}; reports go without",
                    reason(&error)
                );
                self.say(Severity::Error, whole, text);
                None
            }
        };
    }
}

/// The built-in mailers that do the work of a mailer of this name in stock configurations.
pub(super) fn mailers_called(name: &str) -> &'static [Mailer] {
    match name {
        "smtp" | "esmtp" | "smtp8" | "dsmtp" => &[Mailer::Esmtp],
        "relay" => &[Mailer::Relay],
        "local" => &[Mailer::Lmtp, Mailer::Local],
        "lmtp" => &[Mailer::Lmtp],
        _ => &[],
    }
}

/// Class R has networks as `192.0.2` (leading parts), `192.0.2.1`, `IPv6:2001:db8::1`; none for a name.
fn relay_network(word: &str) -> Option<Network> {
    if word.contains(':') || word.contains('/') {
        return value::network(word).ok();
    }
    let mut octets = [0u8; 4];
    let mut count = 0u8;
    for part in word.split('.') {
        *octets.get_mut(usize::from(count))? = part.parse().ok()?;
        count += 1;
    }
    Some(Network { address: octets.into(), prefix: count * 8 })
}

/// Port 25 of all addresses for the system's queue; for any other one a port that needs no right and no courage.
fn default_daemons(private: bool) -> Vec<Daemon> {
    if private {
        return vec![Daemon::at("MTA", SocketAddr::from((Ipv4Addr::LOCALHOST, PRIVATE_PORT)))];
    }
    vec![
        Daemon::at("MTA", SocketAddr::from((Ipv4Addr::UNSPECIFIED, 25))),
        // A machine without IPv6 has no such address, which is no fault of its configuration.
        Daemon {
            optional: true,
            ..Daemon::at("MTA-v6", SocketAddr::from((Ipv6Addr::UNSPECIFIED, 25)))
        },
    ]
}

#[cfg(test)]
mod tests;
