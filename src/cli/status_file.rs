//! StatusFile: what was counted, in sendmail's binary form, for an old mailstats and the scripts around it.
//!
//! The store has the figures ([`Store::statistics`](crate::store::Store::statistics)); the file is a copy that the daemon brings up
//! to date each minute in which they changed, and last before it closes the queue. As in sendmail it is never made: who wants it
//! makes an empty one that the daemon's user may write. It is written in place, in one write of less than a page, because that takes
//! no right to the directory; what else lies under that name (a link, another file) is left alone. Emptying a file that is kept
//! (`cp /dev/null`, mailstats -p) begins to count anew, in the store as well; what was counted since the last copy, a minute at most,
//! is then in neither. A crash leaves the figures of the minute before.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::mail::status_file::{self, SIZE};
use crate::queue::House;

/// Between two copies.
const EVERY: Duration = Duration::from_secs(60);
/// How long the last copy may take: on a disk that does not answer it is not worth more.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// The file is kept until [`Keeping::finish`].
pub struct Keeping {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Keeps the file that the configuration in force names.
pub fn keep(houses: watch::Receiver<House>) -> Keeping {
    let (stop, mut stopped) = oneshot::channel();
    let task = tokio::spawn(async move {
        let mut copy = Copy::default();
        loop {
            let house = houses.borrow().clone();
            copy.update(&house).await;
            drop(house);
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                _ = &mut stopped => break,
            }
        }
        let house = houses.borrow().clone();
        if copy.path.is_some()
            && let Err(error) = house.store.write_statistics().await
        {
            house
                .maillog
                .warning(None, &format!("StatusFile: {error}; it may lack the last figures"));
        }
        copy.update(&house).await;
    });
    Keeping { stop, task }
}

impl Keeping {
    /// Writes the last figures.
    pub async fn finish(mut self) {
        let _ = self.stop.send(());
        if tokio::time::timeout(LAST_WAIT, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

/// What is known of the file.
#[derive(Default)]
struct Copy {
    path: Option<PathBuf>,
    /// It had our figures: when it is empty now, somebody begins anew.
    kept: bool,
    /// What was said about it last: once is enough.
    complaint: Option<String>,
}

/// What was found under the name, and is there now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    /// The figures are in it now.
    Figures,
    /// Nothing, where there were figures. It is still so.
    Emptied,
}

impl Copy {
    async fn update(&mut self, house: &House) {
        let wanted = house.config.status_file.as_ref();
        if wanted != self.path.as_ref() {
            *self = Copy { path: wanted.cloned(), ..Copy::default() };
        }
        let Some(path) = self.path.clone() else { return };
        match self.bring_up_to_date(house, &path).await {
            Ok(()) => {
                self.kept = true;
                self.complaint = None;
            }
            Err(text) if self.complaint.as_ref() == Some(&text) => {}
            Err(text) => {
                let line = format!("StatusFile {}: {text}", path.display());
                house.maillog.warning(None, &line);
                self.complaint = Some(text);
            }
        }
    }

    async fn bring_up_to_date(&self, house: &House, path: &Path) -> Result<(), String> {
        if copied(house, path, self.kept).await? == Found::Emptied {
            house.store.reset_statistics().await.map_err(|error| error.to_string())?;
            copied(house, path, false).await?;
        }
        Ok(())
    }
}

async fn copied(house: &House, path: &Path, kept: bool) -> Result<Found, String> {
    let statistics = house.store.statistics().map_err(|error| error.to_string())?;
    let (figures, path) = (status_file::encode(&statistics), path.to_owned());
    let written = tokio::task::spawn_blocking(move || put(&path, &figures, kept)).await;
    match written.map_err(io::Error::other).and_then(|written| written) {
        Ok(found) => Ok(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err("is not there, and is not made: make an empty one to have statistics in it".into())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Writes the figures where others, or none, are.
fn put(path: &Path, figures: &[u8; SIZE], kept: bool) -> io::Result<Found> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).custom_flags(flags.bits() as i32).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a plain file; left alone"));
    }
    let mut there = Vec::new();
    Read::by_ref(&mut file).take(SIZE as u64 + 1).read_to_end(&mut there)?;
    match there.as_slice() {
        [] if kept => return Ok(Found::Emptied),
        [] => {}
        same if same == figures => return Ok(Found::Figures),
        others if status_file::is_one(others) => {}
        _ => return Err(io::Error::other("holds something else than statistics; left alone")),
    }
    file.write_all_at(figures, 0)?;
    if there.len() > SIZE {
        file.set_len(SIZE as u64)?;
    }
    Ok(Found::Figures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::statistics::{Connections, Statistics};

    fn figures(from: u64) -> [u8; SIZE] {
        let connections = Connections { from, ..Connections::default() };
        status_file::encode(&Statistics { connections, ..Statistics::default() })
    }

    #[test]
    fn only_a_file_for_statistics_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("statistics");
        assert_eq!(put(&path, &figures(1), false).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::write(&path, "").unwrap();
        assert_eq!(put(&path, &figures(1), false).unwrap(), Found::Figures);
        assert_eq!(std::fs::read(&path).unwrap(), figures(1));
        // Over others, also longer ones.
        let longer = [&figures(7)[..], b"more"].concat();
        std::fs::write(&path, longer).unwrap();
        assert_eq!(put(&path, &figures(2), true).unwrap(), Found::Figures);
        assert_eq!(std::fs::read(&path).unwrap(), figures(2));
        // Emptied by somebody: not filled behind his back.
        std::fs::write(&path, "").unwrap();
        assert_eq!(put(&path, &figures(3), true).unwrap(), Found::Emptied);
        assert_eq!(std::fs::read(&path).unwrap(), b"");
        // What is none of ours.
        std::fs::write(&path, "root:x:0:0::/root:/bin/sh\n").unwrap();
        let error = put(&path, &figures(3), true).unwrap_err();
        assert_eq!(error.to_string(), "holds something else than statistics; left alone");
        let link = directory.path().join("link");
        std::fs::write(&path, "").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(put(&link, &figures(3), false).is_err());
        assert!(put(directory.path(), &figures(3), false).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }
}
