//! Who may run a daemon, rebuild aliases, forget host status and hold mail: sendmail's trusted users.
//!
//! Root and TrustedUser may; and so may whoever owns the QueueDirectory, because it is his: an ordinary user runs a queue of his
//! own, and the system's is not for him. `-bi` is for class t (T lines), too. A directory that is not there yet belongs to whoever
//! makes it. This says early and in sendmail's words (exit status 64, a line in the log) what the files' permissions and the
//! control socket would say later; the daemon asks nobody but itself.

use std::os::unix::fs::MetadataExt;

use super::argv::Mode;
use crate::config::Config;

/// What only trusted users do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    /// -bd, -bD, -bl
    RunDaemon,
    /// -q15m
    RunQueue,
    /// -bH
    PurgeHostStatus,
    /// -Q
    Quarantine,
    /// -bi
    RebuildAliases,
}

impl Deed {
    /// What this mode does, if it is one of those.
    pub fn of(mode: &Mode) -> Option<Deed> {
        match mode {
            Mode::Daemon { .. } => Some(Deed::RunDaemon),
            Mode::QueueDaemon(_) => Some(Deed::RunQueue),
            Mode::PurgeHostStatus => Some(Deed::PurgeHostStatus),
            Mode::Quarantine { .. } => Some(Deed::Quarantine),
            Mode::Aliases => Some(Deed::RebuildAliases),
            _ => None,
        }
    }

    /// In the log, behind `user 1000 attempted to`.
    fn name(self) -> &'static str {
        match self {
            Deed::RunDaemon => "run daemon",
            Deed::RunQueue => "start a queue runner daemon",
            Deed::PurgeHostStatus => "purge host status",
            Deed::Quarantine => "quarantine jobs",
            Deed::RebuildAliases => "rebuild the alias map",
        }
    }
}

/// Who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The real user.
    pub uid: u32,
    /// His login name, if he has one.
    pub name: Option<String>,
}

impl Caller {
    /// Whoever runs this.
    pub fn of_this_process() -> Caller {
        let uid = nix::unistd::getuid();
        // Without an entry he is in no class of names.
        let entry = nix::unistd::User::from_uid(uid).ok().flatten();
        Caller { uid: uid.as_raw(), name: entry.map(|user| user.name) }
    }

    /// Whether he may: `owner` is that of the queue directory, `trusted` TrustedUser.
    fn may(&self, deed: Deed, owner: Option<u32>, trusted: Option<u32>, config: &Config) -> bool {
        let is_trusted = self.uid == 0 || Some(self.uid) == trusted;
        let in_class =
            || self.name.as_ref().is_some_and(|name| config.trusted_users.contains(name));
        is_trusted
            || owner.is_none_or(|owner| owner == self.uid)
            || (deed == Deed::RebuildAliases && in_class())
    }
}

/// What the log says of a caller who may not do what he asks for; none when he may.
pub fn refusal(deed: Deed, caller: &Caller, config: &Config) -> Option<String> {
    // That nobody can look at it says the next step better.
    let owner = std::fs::metadata(&config.queue_directory).ok().map(|found| found.uid());
    let trusted = config.trusted_user.as_deref();
    let trusted = trusted.and_then(|name| nix::unistd::User::from_name(name).ok().flatten());
    let trusted = trusted.map(|user| user.uid.as_raw());
    let may = caller.may(deed, owner, trusted, config);
    (!may).then(|| format!("user {} attempted to {}", caller.uid, deed.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_its_owners_roots_and_trusted_users() {
        let caller = |uid, name: Option<&str>| Caller { uid, name: name.map(str::to_owned) };
        let mut config = Config::default();
        config.trusted_users.insert("ann".into());
        let (ann, joe) = (caller(1000, Some("ann")), caller(1001, Some("joe")));
        for (deed, who, owner, trusted, may) in [
            (Deed::RunDaemon, &caller(0, None), Some(8), None, true),
            (Deed::RunDaemon, &joe, Some(8), None, false),
            (Deed::RunDaemon, &joe, Some(1001), None, true),
            (Deed::RunDaemon, &joe, None, None, true),
            (Deed::RunDaemon, &joe, Some(8), Some(1001), true),
            (Deed::RunDaemon, &ann, Some(8), None, false),
            (Deed::RunQueue, &joe, Some(8), Some(1000), false),
            (Deed::PurgeHostStatus, &joe, Some(8), None, false),
            (Deed::Quarantine, &joe, Some(8), None, false),
            (Deed::RebuildAliases, &joe, Some(8), None, false),
            (Deed::RebuildAliases, &ann, Some(8), None, true),
            (Deed::RebuildAliases, &caller(1002, None), Some(8), None, false),
        ] {
            assert_eq!(who.may(deed, owner, trusted, &config), may, "{deed:?} {who:?} {owner:?}");
        }
        config.queue_directory = "/".into();
        let said = refusal(Deed::RunQueue, &joe, &config);
        assert_eq!(said.as_deref(), Some("user 1001 attempted to start a queue runner daemon"));
        config.queue_directory = "/nonexistent/queue".into();
        assert_eq!(refusal(Deed::RunQueue, &joe, &config), None);
    }
}
