//! Which queue and which configuration file a command is about.
//!
//! | said | queue | file |
//! |---|---|---|
//! | `-C FILE` | the one it names, else as below | FILE |
//! | `-O QueueDirectory=DIR`, `-oQDIR` | DIR | DIR/kvmta.cf if it exists (with -C: FILE) |
//! | nothing, and root asks or the system's queue exists | /var/spool/kvmta | /etc/mail/kvmta.cf if it exists |
//! | nothing else | `kvmta` in the user's state directory | kvmta.cf in it if it exists |
//!
//! So a command that names a queue of its own touches nothing of the system's mail, as root too: not its store,
//! not its configuration, and not its port (a queue that is not the system's listens on 127.0.0.1 port 2525
//! unless told otherwise). To run another queue by the system's configuration, say `-C /etc/mail/kvmta.cf` too.
//!
//! A pure function of the command line and [`Facts`].

use std::path::{Path, PathBuf};

use super::options;
use super::raw::Setting;

/// The system's queue.
pub const SYSTEM_QUEUE: &str = "/var/spool/kvmta";
/// The system's configuration.
pub const SYSTEM_FILE: &str = "/etc/mail/kvmta.cf";
/// The configuration in any other QueueDirectory.
const FILE_NAME: &str = "kvmta.cf";

/// What is known of the world.
pub struct Facts<'a> {
    /// The effective user is root.
    pub root: bool,
    /// XDG_STATE_HOME.
    pub state_home: Option<PathBuf>,
    /// HOME, or the password file's.
    pub home: Option<PathBuf>,
    /// Where the command was given.
    pub working_directory: PathBuf,
    /// Whether a path exists.
    pub exists: &'a dyn Fn(&Path) -> bool,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Location {
    /// The queue, unless the file names another and the command line does not.
    pub queue_directory: PathBuf,
    /// The file to read; none when there is none and none was asked for.
    pub config_file: Option<PathBuf>,
}

/// Nothing says where the queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no queue: there is no home directory to keep one in; name one with -O QueueDirectory=DIRECTORY"
)]
pub struct NoQueue;

/// Finds queue and file for `-C` and the options of a command line.
///
/// # Errors
/// [`NoQueue`] when an ordinary user without home asks and there is no system queue.
pub fn locate(
    file: Option<&Path>,
    options: &[Setting],
    facts: &Facts<'_>,
) -> Result<Location, NoQueue> {
    let absolute = |path: &Path| facts.working_directory.join(path);
    let if_there = |path: PathBuf| (facts.exists)(&path).then_some(path);
    let named = options.iter().rev().find(|setting| is_queue_directory(setting));
    let (queue_directory, own_file) = match named {
        Some(setting) if Path::new(&setting.value) == Path::new(SYSTEM_QUEUE) => {
            (PathBuf::from(SYSTEM_QUEUE), PathBuf::from(SYSTEM_FILE))
        }
        Some(setting) => {
            let directory = absolute(Path::new(&setting.value));
            let file = directory.join(FILE_NAME);
            (directory, file)
        }
        None if facts.root || (facts.exists)(Path::new(SYSTEM_QUEUE)) => {
            (PathBuf::from(SYSTEM_QUEUE), PathBuf::from(SYSTEM_FILE))
        }
        None => {
            let directory = state_directory(facts).ok_or(NoQueue)?.join("kvmta");
            let file = directory.join(FILE_NAME);
            (directory, file)
        }
    };
    let config_file = match file {
        Some(file) => Some(absolute(file)),
        None => if_there(own_file),
    };
    Ok(Location { queue_directory, config_file })
}

fn is_queue_directory(setting: &Setting) -> bool {
    options::find(&setting.name).is_ok_and(|(option, _)| option.name == "QueueDirectory")
        && !setting.value.is_empty()
}

/// $XDG_STATE_HOME when it is absolute (the specification says to ignore it otherwise), else ~/.local/state.
fn state_directory(facts: &Facts<'_>) -> Option<PathBuf> {
    let given = facts.state_home.as_ref().filter(|path| path.is_absolute()).cloned();
    let home = facts.home.as_ref().filter(|path| path.is_absolute());
    given.or_else(|| home.map(|home| home.join(".local/state")))
}

impl Facts<'static> {
    /// The facts as they are.
    pub fn of_this_process() -> Facts<'static> {
        let path =
            |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let uid = nix::unistd::geteuid();
        let home = path("HOME").or_else(|| {
            // Unset by cron or env -i; a failing look-up only means that nobody knows a home.
            nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.dir)
        });
        Facts {
            root: uid.is_root(),
            state_home: path("XDG_STATE_HOME"),
            home,
            // Deleted or unreadable: relative paths then fail where they are used, by name.
            working_directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            exists: &|path| path.exists(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// root?, paths that exist, -C, -O, queue found, file found
    type Case = (
        bool,
        &'static [&'static str],
        Option<&'static str>,
        &'static [&'static str],
        &'static str,
        Option<&'static str>,
    );

    #[test]
    fn finds_queue_and_file() {
        let (user, root) = (false, true);
        const MINE: &str = "/home/ann/.local/state/kvmta";
        const MINE_FILE: &str = "/home/ann/.local/state/kvmta/kvmta.cf";
        #[rustfmt::skip]
        let cases: &[Case] = &[
            (user, &[], None, &[], MINE, None),
            (user, &[MINE_FILE], None, &[], MINE, Some(MINE_FILE)),
            (user, &[SYSTEM_FILE], None, &[], MINE, None),
            (user, &[SYSTEM_QUEUE, SYSTEM_FILE], None, &[], SYSTEM_QUEUE, Some(SYSTEM_FILE)),
            (root, &[], None, &[], SYSTEM_QUEUE, None),
            (root, &[SYSTEM_FILE], None, &[], SYSTEM_QUEUE, Some(SYSTEM_FILE)),
            (root, &[SYSTEM_QUEUE, SYSTEM_FILE], None, &["Q=/tmp/q"], "/tmp/q", None),
            (root, &["/tmp/q/kvmta.cf"], None, &["queuedirectory=/tmp/q"], "/tmp/q", Some("/tmp/q/kvmta.cf")),
            (root, &[SYSTEM_FILE], None, &["QueueDir=/var/spool/kvmta/"], SYSTEM_QUEUE, Some(SYSTEM_FILE)),
            (user, &[], None, &["Q=a", "d=q", "Q=b"], "/cwd/b", None),
            (user, &[], Some("x.cf"), &[], MINE, Some("/cwd/x.cf")),
            (user, &["/q/kvmta.cf"], Some("/x.cf"), &["Q=/q"], "/q", Some("/x.cf")),
        ];
        for (root, there, file, options, queue, found) in cases {
            let exists = |path: &Path| there.iter().any(|there| Path::new(there) == path);
            let facts = Facts {
                root: *root,
                state_home: Some("relative".into()),
                home: Some("/home/ann".into()),
                working_directory: "/cwd".into(),
                exists: &exists,
            };
            let options: Vec<_> = options.iter().map(|option| Setting::long(option)).collect();
            let location = locate(file.map(Path::new), &options, &facts).unwrap();
            assert_eq!(location.queue_directory, Path::new(queue), "{options:?}");
            assert_eq!(location.config_file.as_deref(), found.map(Path::new), "{options:?}");
        }
    }

    #[test]
    fn says_so_when_there_is_no_home() {
        let facts = Facts {
            root: false,
            state_home: None,
            home: None,
            working_directory: "/".into(),
            exists: &|_| false,
        };
        assert_eq!(locate(None, &[], &facts), Err(NoQueue));
    }
}
