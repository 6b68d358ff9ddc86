//! SIGHUP, and `restart` on ControlSocketName: the configuration is read and checked again, and taken if it is sound.
//!
//! sendmail executes itself anew; here the parts with a configuration are exchanged in the process that goes on
//! ([`Running::reload`]), so that no session, no delivery and no waiting program ends for it, and the queue stays open.
//! Command line and working directory are those of the start.
//!
//! A configuration with a fault is refused as a whole: each fault is logged with its file and line, and everything stays as it was;
//! so it is when a port cannot be opened or a certificate not be read. Some settings are read at the start alone; when one of those
//! has changed, the log says so; and so it does when the program file is not the one any more that runs ([`Program`]). Once taken,
//! every destination is tried again, because it may be another one now.

use std::sync::Arc;
use std::time::Duration;

use super::daemon::Daemon;
use super::exit::Exit;
use super::house::{self, Running};
use super::ports::{self, Port};
use super::program::Program;
use crate::config::Config;
use crate::config::check::{Diagnostic, Severity};
use crate::queue::run::Run;
use crate::settle::RunSettings;
use crate::world::World;

/// Reads the configuration that the command line means.
pub type Load<'a> = &'a dyn Fn() -> Result<(Config, Vec<Diagnostic>), Unreadable>;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Unreadable {
    /// What, where.
    pub text: String,
    /// For the shell.
    pub exit: Exit,
}

/// Takes another configuration, or says in the log why not. `reason` is what asked for it: `signal SIGHUP`.
pub async fn reload(
    running: &mut Running,
    daemon: &Daemon,
    load: Load<'_>,
    program: Option<&Program>,
    reason: &str,
) {
    let maillog = running.house.maillog.clone();
    let news = program.and_then(Program::news).map_or_else(String::new, |news| format!("; {news}"));
    match exchange(running, daemon, load) {
        Ok(()) => maillog.reloaded(&format!("{reason}{news}")),
        Err(faults) => {
            for fault in faults {
                maillog.error(None, &fault);
            }
            let text = "the configuration has faults and is not taken; the one before stays";
            return maillog.error(None, &format!("{reason}: {text}{news}"));
        }
    }
    if daemon.interval.is_some() {
        let settings = RunSettings {
            min_queue_age: Some(Duration::ZERO),
            max_queue_age: Some(None),
            ..RunSettings::default()
        };
        running.run_queue(Run { settings, ..Run::default() }).await;
    }
}

fn exchange(running: &mut Running, daemon: &Daemon, load: Load<'_>) -> Result<(), Vec<String>> {
    let one = |error: &dyn std::fmt::Display| vec![error.to_string()];
    let (mut config, diagnostics) = load().map_err(|error| one(&error))?;
    let (faults, remarks): (Vec<_>, Vec<_>) =
        diagnostics.iter().partition(|found| found.severity == Severity::Error);
    if !faults.is_empty() {
        return Err(faults.into_iter().map(Diagnostic::to_string).collect());
    }
    let waiting = keep_fixed(&running.house.config, &mut config);
    let ports = match daemon.listens {
        true => ports::ports(&config.daemons, running.ports()).map_err(|error| one(&error))?,
        false => Vec::new(),
    };
    let (world, faults) = World::real(&house::dns_options(&config), &config.tls)
        .map_err(|error| vec![format!("cannot set up the resolver: {error}")])?;
    if !faults.is_empty() {
        return Err(faults.iter().map(ToString::to_string).collect());
    }
    let addresses: Vec<_> = running.ports().iter().map(Port::local).collect();
    running.reload(Arc::new(config), world, ports).map_err(|error| one(&error))?;
    let maillog = &running.house.maillog;
    for remark in remarks {
        maillog.warning(None, &remark.to_string());
    }
    for name in waiting {
        let text = format!("option {name} has changed: it is read at the start of the daemon");
        maillog.warning(None, &text);
    }
    for port in running.ports().iter().filter(|port| !addresses.contains(&port.local())) {
        maillog.listening(&port.name, port.local());
    }
    Ok(())
}

/// Settings that the open queue and this process stand on stay as they are: the names of those that were to change.
fn keep_fixed(before: &Config, config: &mut Config) -> Vec<&'static str> {
    let mut names = Vec::new();
    macro_rules! keep {
        ($($field:ident $name:literal,)*) => {$(
            if config.$field != before.$field {
                config.$field.clone_from(&before.$field);
                names.push($name);
            }
        )*};
    }
    keep! {
        queue_directory "QueueDirectory",
        run_as_user "RunAsUser",
        pid_file "PidFile",
        control_socket "ControlSocketName",
        db_cache_size "DbCacheSize",
        body_generation_size "BodyGenerationSize",
        incoming_size "IncomingSize",
        max_unsettled "MaxUnsettled",
        min_free_octets "MinFreeBlocks",
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_queue_stands_on_stays() {
        let before = Config::default();
        let mut config = Config { log_level: 14, ..Config::default() };
        assert_eq!(keep_fixed(&before, &mut config), Vec::<&str>::new());
        config.queue_directory = "/elsewhere".into();
        config.max_unsettled += 1;
        assert_eq!(keep_fixed(&before, &mut config), ["QueueDirectory", "MaxUnsettled"]);
        assert_eq!(config.queue_directory, before.queue_directory);
        assert_eq!(config.max_unsettled, before.max_unsettled);
        assert_eq!(config.log_level, 14);
    }
}
