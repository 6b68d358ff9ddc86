//! The reserve: disk space kept back so that a full disk can be drained.
//!
//! Deleting from a copy-on-write store needs free pages. So one file of [`RESERVE_SIZE`] octets lies allocated beside it;
//! when a commit meets a full disk it is given up, mail is refused, and what is delivered can still be deleted. It is
//! made again when there is space for twice its size above the limit below which no mail is taken. A crash leaves it
//! there or not; both are right.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Room for some hundred commits that delete.
pub const RESERVE_SIZE: u64 = 32 << 20;
/// How long after a failed attempt the reserve is tried again: each one asks the file system.
const RETRY: Duration = Duration::from_secs(10);

/// The file `reserve` in QueueDirectory.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    min_free: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Held,
    Released { tried: Instant },
}

impl Reserve {
    /// The reserve of the store in `directory`, made when it is not there and there is space above `min_free` octets.
    ///
    /// # Errors
    /// Of the file system, when it is neither there nor can be made for another reason than a full disk.
    pub fn take(directory: &Path, min_free: u64) -> io::Result<Reserve> {
        let path = directory.join("reserve");
        let held =
            fs::symlink_metadata(&path).is_ok_and(|m| m.is_file() && m.len() == RESERVE_SIZE);
        let state = if held { State::Held } else { State::Released { tried: Instant::now() } };
        let mut reserve = Reserve { path, min_free, state };
        match if held { Ok(()) } else { reserve.make() } {
            Err(error) if error.kind() != io::ErrorKind::StorageFull => Err(error),
            _ => Ok(reserve),
        }
    }

    /// Whether the space is kept back.
    pub fn is_held(&self) -> bool {
        matches!(self.state, State::Held)
    }

    /// Gives the space to whoever writes next. False when it was given up before, or the file cannot be removed.
    pub fn release(&mut self) -> bool {
        if !self.is_held() {
            return false;
        }
        self.state = State::Released { tried: Instant::now() };
        match fs::remove_file(&self.path) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "cannot give up the reserve");
                false
            }
        }
    }

    /// Makes it again if it was given up and there is space; asks at most every ten seconds.
    pub fn retake(&mut self, now: Instant) {
        match self.state {
            State::Released { tried } if now.saturating_duration_since(tried) >= RETRY => {
                self.state = State::Released { tried: now };
                if let Err(error) = self.make() {
                    tracing::debug!(path = %self.path.display(), %error, "no reserve yet");
                }
            }
            State::Released { .. } | State::Held => {}
        }
    }

    fn make(&mut self) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let space = statvfs(directory)?;
        if space.f_bavail.saturating_mul(space.f_frsize) < self.min_free + 2 * RESERVE_SIZE {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file =
            options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32).open(&self.path)?;
        let filled = fill(file);
        match &filled {
            Ok(()) => self.state = State::Held,
            // Half a reserve only takes space from the mail.
            Err(_) => drop(fs::remove_file(&self.path)),
        }
        filled
    }
}

fn fill(mut file: File) -> io::Result<()> {
    match fallocate(&file, FallocateFlags::empty(), 0, RESERVE_SIZE) {
        Ok(()) => {}
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let block = vec![0; 1 << 20];
            for _ in 0..RESERVE_SIZE >> 20 {
                file.write_all(&block)?;
            }
        }
        Err(error) => return Err(error.into()),
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_made_given_up_and_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("reserve");
        let mut reserve = Reserve::take(directory.path(), 0).unwrap();
        assert!(reserve.is_held());
        assert_eq!(fs::metadata(&path).unwrap().len(), RESERVE_SIZE);
        assert!(reserve.release() && !reserve.is_held() && !path.exists());
        assert!(!reserve.release(), "given up twice");
        reserve.retake(Instant::now());
        assert!(!reserve.is_held(), "asked again at once");
        reserve.retake(Instant::now() + RETRY);
        assert!(reserve.is_held() && path.exists());
        assert!(Reserve::take(directory.path(), 0).unwrap().is_held());
    }

    #[test]
    fn is_not_made_when_it_would_leave_too_little() {
        let directory = tempfile::tempdir().unwrap();
        let reserve = Reserve::take(directory.path(), u64::MAX / 2).unwrap();
        assert!(!reserve.is_held() && !directory.path().join("reserve").exists());
    }
}
