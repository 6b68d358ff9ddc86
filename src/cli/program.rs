//! Whether the program file is still the one that this process runs.
//!
//! sendmail executes itself anew on SIGHUP and so takes a new program; ours exchanges the configuration in the process that goes
//! on ([`super::reload`]), so an administrator who has installed a new one has to be told that a reload does not run it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The file this process was started from.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    identity: Identity,
}

/// A file is another one when one of these differs: an installation renames a new one into place, a build writes over it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Identity {
    fn of(path: &Path) -> io::Result<Identity> {
        let found = std::fs::metadata(path)?;
        Ok(Identity {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
        })
    }
}

impl Program {
    /// That of this process: to be asked for when it starts.
    ///
    /// # Errors
    /// The system does not say where it is, or it is gone already.
    pub fn of_this_process() -> io::Result<Program> {
        Program::at(std::env::current_exe()?)
    }

    fn at(path: PathBuf) -> io::Result<Program> {
        Ok(Program { identity: Identity::of(&path)?, path })
    }

    /// What to tell when the file is not the one that runs any more; none when it is.
    pub fn news(&self) -> Option<String> {
        let path = self.path.display();
        let what = match Identity::of(&self.path) {
            Ok(identity) if identity == self.identity => return None,
            Ok(_) => "is another program than the one that runs, which goes on; \
                      restart the daemon to run the new one"
                .to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                "is gone; the program that runs goes on, and cannot be started again".to_owned()
            }
            Err(error) => format!("cannot be looked at ({error}); the program that runs goes on"),
        };
        Some(format!("{path} {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_replaced_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kvmta");
        assert!(Program::at(path.clone()).is_err());
        std::fs::write(&path, "the first").unwrap();
        let program = Program::at(path.clone()).unwrap();
        assert_eq!(program.news(), None);
        // As tools/install does it: another file of the same size under the name.
        let new = directory.path().join("kvmta.new");
        std::fs::write(&new, "the other").unwrap();
        std::fs::rename(&new, &path).unwrap();
        let news = program.news().unwrap();
        assert!(news.starts_with(path.to_str().unwrap()), "{news}");
        assert!(news.contains("another program") && news.contains("restart the daemon"), "{news}");
        // Written over in place.
        let program = Program::at(path.clone()).unwrap();
        std::fs::write(&path, "a longer one").unwrap();
        assert!(program.news().is_some());
        std::fs::remove_file(&path).unwrap();
        assert!(program.news().unwrap().contains("is gone"));
        assert_eq!(Program::of_this_process().unwrap().news(), None);
    }
}
