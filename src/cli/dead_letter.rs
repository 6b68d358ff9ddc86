//! dead.letter: where a message goes that nobody could take.
//!
//! It is appended in mailbox form to `dead.letter` in the caller's home (HOME, then the password file's), else to
//! `/var/tmp/dead.letter-USER`. What could not be written whole is taken out again. A symbolic link, or a file of somebody else,
//! is passed over: in /var/tmp anybody may have made it.
//!
//! It is written when the queue refused the message, or ended without saying that it has it, and before the exit status says so: who
//! sees that status finds the message in the file, after a power cut too. When the daemon was killed between its commit and its
//! answer, the message is in the queue and in the file: a second copy if the caller sends it again, as when a 250 is lost. A kill of
//! this program leaves the caller without a status, and maybe the beginning of the message at the end of the file; the next one is
//! kept apart from it by an empty line.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::input::Input;

/// For callers without a home to write to.
const LAST_RESORT: &str = "/var/tmp";

/// Who sent the message.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Login name, for the `From ` line.
    pub name: String,
    /// Where a home may be, best first.
    pub homes: Vec<PathBuf>,
}

impl Caller {
    /// Whoever runs this.
    pub fn of_this_process() -> Caller {
        let uid = nix::unistd::getuid();
        // Without an entry there is one place less to save it in.
        let user = nix::unistd::User::from_uid(uid).ok().flatten();
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let entry = user.as_ref().map(|user| user.dir.clone());
        let mut homes: Vec<PathBuf> =
            [home, entry].into_iter().flatten().filter(|home| home.is_absolute()).collect();
        homes.dedup();
        Caller { name: user.map_or_else(|| format!("uid{uid}"), |user| user.name), homes }
    }
}

/// Appends the message to the caller's dead.letter: the path, once it is on disk.
///
/// # Errors
/// Every place that was tried, and why it did not take the message.
pub fn save_dead_letter(
    message: &mut Input,
    caller: &Caller,
    date: &str,
) -> Result<PathBuf, Vec<(PathBuf, io::Error)>> {
    let mut places: Vec<PathBuf> =
        caller.homes.iter().map(|home| home.join("dead.letter")).collect();
    places.push(Path::new(LAST_RESORT).join(format!("dead.letter-{}", caller.name)));
    let mut faults = Vec::new();
    for path in places {
        match message.rewind().and_then(|()| append(&path, message, &caller.name, date)) {
            Ok(()) => return Ok(path),
            Err(error) => faults.push((path, error)),
        }
    }
    Err(faults)
}

fn append(path: &Path, message: &mut dyn Read, user: &str, date: &str) -> io::Result<()> {
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(no_follow)
        .open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.uid() != nix::unistd::geteuid().as_raw() {
        let text = "it is no file of the caller";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let written = gap(&file, found.len())
        .and_then(|gap| file.write_all(gap))
        .and_then(|()| write(&mut file, message, user, date))
        .and_then(|()| sync_name(path));
    if written.is_err() {
        // Half a message would pass for a whole one. An empty file that was made for it stays.
        let _ = file.set_len(found.len());
    }
    written
}

/// What keeps the next message apart from a last one that was cut short.
fn gap(file: &File, length: u64) -> io::Result<&'static [u8]> {
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    Ok(if last == *b"\n" { b"" } else { b"\n\n" })
}

/// A new file is there after a power cut only when its directory is synced. One that may not be read cannot be: the copy is in
/// the file all the same.
fn sync_name(path: &Path) -> io::Result<()> {
    match File::open(path.parent().unwrap_or(Path::new("/"))) {
        Ok(directory) => directory.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    }
}

fn write(file: &mut File, message: &mut dyn Read, user: &str, date: &str) -> io::Result<()> {
    writeln!(file, "From {user} {date}")?;
    io::copy(message, file)?;
    file.write_all(b"\n")?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Input {
        Input::read_from(&mut &b"Subject: x\n\nhi\n"[..], false).unwrap()
    }

    fn saved(homes: &[&Path]) -> Result<PathBuf, Vec<(PathBuf, io::Error)>> {
        let homes = homes.iter().map(|home| home.to_path_buf()).collect();
        // A name that makes the last resort a directory that is not there: nothing is left in /var/tmp.
        let caller = Caller { name: "nobody/here".into(), homes };
        save_dead_letter(&mut message(), &caller, "Sun Nov 22 06:21:19 2026")
    }

    #[test]
    fn it_is_appended_in_the_first_home_that_takes_it() {
        let home = tempfile::tempdir().unwrap();
        let missing = Path::new("/nonexistent");
        for count in 1..=2 {
            let path = saved(&[missing, home.path()]).unwrap();
            assert_eq!(path, home.path().join("dead.letter"));
            let one = "From nobody/here Sun Nov 22 06:21:19 2026\nSubject: x\n\nhi\n\n";
            assert_eq!(std::fs::read_to_string(path).unwrap(), one.repeat(count));
        }
    }

    #[test]
    fn links_are_not_followed_and_every_fault_is_named() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("target");
        std::os::unix::fs::symlink(&target, home.path().join("dead.letter")).unwrap();
        let faults = saved(&[home.path()]).unwrap_err();
        assert_eq!(faults.len(), 2);
        assert!(!target.exists());
    }

    #[test]
    fn a_message_that_was_cut_short_stays_apart() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("dead.letter");
        std::fs::write(&path, "From ann now\nSubject: x\n\nhal").unwrap();
        saved(&[home.path()]).unwrap();
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(kept.contains("\nhal\n\nFrom nobody/here "), "{kept}");
    }

    #[test]
    fn half_a_message_is_taken_out_again() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("gone"))
            }
        }
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("dead.letter");
        std::fs::write(&path, "before\n").unwrap();
        append(&path, &mut Broken, "ann", "now").unwrap_err();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before\n");
    }
}
