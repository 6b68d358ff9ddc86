//! PERSONALITIES: parse, call one function, print. What a person types ends here.

pub mod aliases;
pub mod argv;
pub mod arpanet;
pub mod ask;
pub mod control_socket;
pub mod daemon;
pub mod dead_letter;
pub mod exit;
#[cfg(test)]
mod golden;
pub mod help;
pub mod hoststat;
pub mod house;
pub mod identity;
pub mod input;
pub mod list;
pub mod load;
pub mod mailq;
pub mod mailstats;
pub mod operator;
pub mod ports;
pub mod program;
pub mod quarantine;
pub mod queue;
pub mod reload;
pub mod send;
pub mod spool;
pub mod status_file;
pub mod supervisor;
pub mod test_mode;
pub mod trust;
pub mod verify;

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config::check::{self, Diagnostic, Severity, Sources};
use crate::config::given;
use crate::config::host::HostNames;
use crate::config::locate::{self, Facts, Location};
use crate::config::raw::{Origin, Setting};
use crate::config::{Config, DeliveryMode, options};
use crate::control::server::NOT_TRUSTED;
use crate::mail::time::Timestamp;
use crate::maillog::{Maillog, Options, SYSLOG_SOCKET, Sink};
use crate::queue::run::Run;
use crate::settle::RunSettings;
use argv::{Invocation, Mode, Pace, UsageError};
use ask::Whose;
use exit::Exit;
use reload::Unreadable;

/// How long the last lines of the log may take.
const LOG_WAIT: Duration = Duration::from_secs(2);

/// The whole program: `arguments` with argv[0] first.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    spans();
    match argv::parse(arguments.iter().cloned()) {
        Ok(invocation) => run(invocation, arguments).into(),
        Err(error) => {
            if let UsageError::NoRecipients { .. } = error {
                // As sendmail: a program that pipes a message in is not to die of a broken pipe.
                let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            }
            match error {
                UsageError::NoRecipients { arpanet: true } => {
                    print(&arpanet::usage(&error.to_string()));
                }
                _ => eprintln!("{error}"),
            }
            Exit::from(&error).into()
        }
    }
}

/// Spans and events for us, on standard error, when KVMTA_TRACE asks for them (`KVMTA_TRACE=kvmta=debug`).
fn spans() {
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env("KVMTA_TRACE") {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    }
}

fn run(mut invocation: Invocation, arguments: Vec<OsString>) -> Exit {
    for notice in &invocation.notices {
        eprintln!("{notice}");
    }
    if let Mode::Help(topic) = &invocation.mode {
        return print(&help::text(*topic));
    }
    if invocation.mode == Mode::Version {
        return print(&format!("{}\n", help::version()));
    }
    let mode = std::mem::replace(&mut invocation.mode, Mode::Version);
    let facts = Facts::of_this_process();
    let Loaded { config, diagnostics, location } = match load(&invocation, &facts) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return error.exit;
        }
    };
    if mode == Mode::CheckConfig {
        return checked(&diagnostics);
    }
    // A daemon has a log for them.
    if !matches!(mode, Mode::Daemon { .. } | Mode::QueueDaemon(_)) {
        // Nor is newaliases told who else reads AliasFile.
        let of_mode =
            |found: &&Diagnostic| mode != Mode::Aliases || found.severity == Severity::Error;
        let concerning = diagnostics.iter().filter(|found| concerns_the_caller(found));
        for diagnostic in concerning.filter(of_mode) {
            eprintln!("{diagnostic}");
        }
    }
    if let Some(debug) = &invocation.debug {
        print(&identity::text(debug, &config));
    }
    let tag = invocation.log_tag.as_deref();
    let log = |whose: Whose| open_log(&config, tag, whose);
    if let Some(refused) = not_permitted(&mode, &config, &log) {
        return refused;
    }
    let is_local = matches!(mode, Mode::Daemon { local: true, .. });
    let of_mode = |mut config: Config| {
        if is_local {
            config.daemons = ports::on_loopback(config.daemons);
        }
        config
    };
    let load_again =
        || load(&invocation, &facts).map(|loaded| (of_mode(loaded.config), loaded.diagnostics));
    let start = |daemon: daemon::Daemon| {
        let (diagnostics, arguments) = (&diagnostics[..], &arguments[..]);
        let config = of_mode(config.clone());
        daemon::start(
            &daemon,
            daemon::Start { config, diagnostics, load: &load_again, arguments, log: &log },
        )
    };
    match mode {
        Mode::Daemon { foreground, pace, run_now, local: _ } => {
            let interval = pace.map(every);
            start(daemon::Daemon { foreground, listens: true, interval, run_now })
        }
        Mode::QueueDaemon(pace) => {
            let interval = Some(every(pace));
            start(daemon::Daemon { foreground: false, listens: false, interval, run_now: true })
        }
        Mode::Submit(submission) | Mode::Arpanet(submission) => send::send(
            &Arc::new(config.clone()),
            sending(&config, submission, &invocation),
            now(),
            &log,
        ),
        Mode::Smtp => send::smtp(&Arc::new(config.clone()), &log),
        Mode::RunQueue { selection, foreground } => {
            let run = Run {
                selection,
                settings: run_settings(&config, &invocation.options),
                order: typed(&invocation.options, "QueueSortOrder")
                    .then_some(config.queue_sort_order),
                size_max: typed(&invocation.options, "MaxQueueRunSize")
                    .then(|| config.queue_run_size_max.unwrap_or(0)),
                wait: foreground || config.verbose,
                verbose: config.verbose,
            };
            queue::run(&Arc::new(config.clone()), run, &log)
        }
        Mode::ListQueue { selection } => {
            list::list(&Arc::new(config.clone()), selection, now(), &log)
        }
        Mode::CountQueue => list::count(&Arc::new(config.clone()), &log),
        Mode::HostStatus => hoststat::print(&Arc::new(config.clone()), now(), &log),
        Mode::PurgeHostStatus => hoststat::purge(&Arc::new(config.clone()), &log),
        Mode::Quarantine { selection, reason } => {
            quarantine::quarantine(&Arc::new(config.clone()), selection, reason, &log)
        }
        Mode::Verify { from_header, recipients } => {
            verify::verify(&config, from_header, &recipients, &mut io::stdin().lock())
        }
        Mode::Aliases => new_aliases(&config, &log),
        Mode::ListOptions => print(&given::listing(&settings(&location, &invocation.options))),
        Mode::TestRules => test_mode::test(&config),
        Mode::Statistics(form) => mailstats::print(&Arc::new(config.clone()), form, now(), &log),
        Mode::Help(_) | Mode::Version | Mode::CheckConfig => Exit::Ok,
    }
}

/// What this mode is refused for: UseMSP, or the caller is no trusted user. It is said, and logged as sendmail does.
fn not_permitted(mode: &Mode, config: &Config, log: ask::Log<'_>) -> Option<Exit> {
    let deed = trust::Deed::of(mode)?;
    if let Some(attempt) = trust::refusal(deed, &trust::Caller::of_this_process(), config) {
        eprintln!("{NOT_TRUSTED}");
        if Path::new(SYSLOG_SOCKET).exists()
            && let Ok(maillog) = log(Whose::Command)
        {
            maillog.error(None, &attempt);
            maillog.flush(LOG_WAIT);
        }
        return Some(Exit::Usage);
    }
    if config.use_msp && deed == trust::Deed::RunDaemon {
        eprintln!("Mail submission program cannot be used as daemon");
        return Some(Exit::Usage);
    }
    None
}

/// `-bi`. That aliases are LocalRelay's is for the log: the text on standard output is sendmail's.
fn new_aliases(config: &Config, log: ask::Log<'_>) -> Exit {
    let (text, exit) = aliases::rebuild(config, &|path| path.exists(), &check::read_file);
    let logged = std::path::Path::new(SYSLOG_SOCKET).exists();
    if let Some(maillog) = logged.then(|| log(Whose::Command)).and_then(Result::ok) {
        for line in text.lines() {
            maillog.aliases(line, config.local_relay.as_deref());
        }
        maillog.flush(LOG_WAIT);
    }
    exit.and(print(&text))
}

fn print(text: &str) -> Exit {
    use io::Write;
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Exit::IoErr,
        _ => Exit::Ok,
    }
}

fn now() -> Timestamp {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn every(pace: Pace) -> Duration {
    match pace {
        Pace::Every(interval) | Pace::Continuous(interval) => interval,
    }
}

/// The configuration in force, what is to be said about it, and where it came from.
struct Loaded {
    config: Config,
    diagnostics: Vec<Diagnostic>,
    location: Location,
}

/// Finds queue and file, and reads the configuration. The facts are those of the start, also when it is read again.
fn load(invocation: &Invocation, facts: &Facts<'_>) -> Result<Loaded, Unreadable> {
    read(invocation.config_file.as_deref(), &invocation.options, &invocation.macros, facts)
}

/// The configuration that these words of a command line mean, for the tools beside the program. What is wrong with it has been
/// printed.
///
/// # Errors
/// The exit status.
pub fn configured(
    file: Option<&Path>,
    options: &[Setting],
    macros: &[(String, String)],
) -> Result<(Config, Vec<Diagnostic>), Exit> {
    match read(file, options, macros, &Facts::of_this_process()) {
        Ok(loaded) => Ok((loaded.config, loaded.diagnostics)),
        Err(error) => {
            eprintln!("{error}");
            Err(error.exit)
        }
    }
}

fn read(
    file: Option<&Path>,
    options: &[Setting],
    macros: &[(String, String)],
    facts: &Facts<'_>,
) -> Result<Loaded, Unreadable> {
    let location = locate::locate(file, options, facts).map_err(|error| Unreadable {
        text: format!("kvmta: {error}"),
        exit: Exit::from(&error),
    })?;
    let sources = Sources {
        location: &location,
        host: &HostNames::of_this_machine(),
        options,
        macros,
        read: &check::read_file,
    };
    let (config, diagnostics) = Config::load(&sources)
        .map_err(|error| Unreadable { text: error.to_string(), exit: Exit::from(&error) })?;
    Ok(Loaded { config, diagnostics, location })
}

/// What was set where, by the name of the option.
type Settings = std::collections::BTreeMap<&'static str, Vec<given::Given>>;

fn settings(location: &Location, options: &[Setting]) -> Settings {
    // It was read a moment ago; should it be gone, only the places of its settings are not told.
    let file = location.config_file.as_deref();
    let text = file.and_then(|path| check::read_file(path).ok()).unwrap_or_default();
    given::given(file.map(|path| (path, text.as_str())), options)
}

/// Whoever sends a message hears of faults of the file, as from sendmail, and of what he typed himself; what else the file asks for in
/// vain is said in the daemon's log and by -bC.
fn concerns_the_caller(diagnostic: &Diagnostic) -> bool {
    match diagnostic.severity {
        Severity::Notice => false,
        Severity::Warning => diagnostic.origin == Origin::CommandLine,
        Severity::Error => true,
    }
}

/// `-bC`
fn checked(diagnostics: &[Diagnostic]) -> Exit {
    for diagnostic in diagnostics {
        println!("{diagnostic}");
    }
    let worst = diagnostics.iter().map(|diagnostic| diagnostic.severity).max();
    if worst == Some(Severity::Error) { Exit::Config } else { Exit::Ok }
}

/// The operator's log. It is syslog, as sendmail's; standard error belongs to whoever typed the command, so it is the log of a daemon
/// in the foreground alone, and not under systemd, whose journal has a syslog.
pub fn open_log(config: &Config, tag: Option<&str>, whose: Whose) -> io::Result<Maillog> {
    let has_syslog = std::path::Path::new(SYSLOG_SOCKET).exists();
    let in_journal = std::env::var_os("JOURNAL_STREAM").is_some() && has_syslog;
    let sink = match whose {
        Whose::Foreground if !in_journal => Sink::Stream(Box::new(io::stderr())),
        // A syslog that is not there yet is waited for.
        Whose::Foreground | Whose::Background => Sink::Syslog(SYSLOG_SOCKET.into()),
        Whose::Command if has_syslog => Sink::Syslog(SYSLOG_SOCKET.into()),
        Whose::Command => Sink::Stream(Box::new(io::sink())),
    };
    Maillog::open(Options {
        sink,
        tag: tag.unwrap_or("kvmta").to_owned(),
        level: config.log_level,
        clock: Arc::new(now),
        zone: config.time_zone.clone(),
    })
}

fn sending(
    config: &Config,
    mut submission: crate::mail::submission::Submission,
    invocation: &Invocation,
) -> send::Sending {
    let mode = config.delivery_mode;
    submission.queue_only = !mode.is_immediate();
    submission.config_file = invocation.config_file.as_ref().map(|path| path.display().to_string());
    submission.queue_directory = typed(&invocation.options, "QueueDirectory")
        .then(|| config.queue_directory.display().to_string());
    let mut settings = Vec::new();
    if let Some(file) = &invocation.config_file {
        settings.push("-C".into());
        settings.push(file.clone().into_os_string());
    }
    for Setting { name, value } in &invocation.options {
        settings.push("-O".into());
        settings.push(format!("{}={value}", long_name(name)).into());
    }
    send::Sending {
        submission,
        dot_ends: !config.ignore_dots,
        wait: config.verbose || mode == DeliveryMode::Interactive,
        verbose: config.verbose,
        error_mode: config.error_mode,
        settings,
    }
}

/// The full name of an option given by letter or abbreviation; as typed when it has none.
fn long_name(name: &str) -> &str {
    options::find(name).map_or(name, |(option, _)| option.name)
}

/// Whether the command line sets this option.
fn typed(options: &[Setting], name: &str) -> bool {
    options.iter().any(|setting| long_name(&setting.name) == name)
}

/// The options of the command line that act on this run alone (sendmail: `-q -OTimeout.queuereturn=0`).
fn run_settings(config: &Config, options: &[Setting]) -> RunSettings {
    let mut settings = RunSettings::default();
    for setting in options {
        let name = long_name(&setting.name);
        let classes = match name.rsplit('.').next() {
            Some("normal") => 0..1,
            Some("urgent") => 1..2,
            Some("non-urgent") => 2..3,
            Some("dsn") => 3..4,
            _ => 0..4,
        };
        for class in classes {
            let timeouts = config.queue_timeouts[class];
            if name.starts_with("Timeout.queuereturn") || name == "QueueTimeout" {
                settings.queue_return[class] = Some(timeouts.giving_up);
            }
            if name.starts_with("Timeout.queuewarn") {
                settings.queue_warn[class] = Some(timeouts.warn);
            }
        }
        match name {
            "MinQueueAge" => settings.min_queue_age = Some(config.min_queue_age),
            "MaxQueueAge" => settings.max_queue_age = Some(config.max_queue_age),
            _ => {}
        }
    }
    settings
}
