//! Where the files of the generations are: a directory, or what a test puts in its place.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use redb::StorageBackend;
use redb::backends::FileBackend;

use crate::store::engine::redb::{create, from_io, from_redb};
use crate::store::engine::{EngineError, open_again, open_file, sync_directory_of};

/// What stat counts in, octets.
const BLOCK: u64 = 512;

/// The name of a generation's file.
pub(super) fn name(number: u32) -> String {
    format!("body-{number}.redb")
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Reading, beside other readers.
    Read,
    /// Reading and writing, alone.
    Write,
    /// As `Write`, after an error of the disk or a crash: nothing cached is to be believed.
    Afresh,
}

/// The files of the generations.
pub(super) trait Files: Send + Sync + 'static {
    /// Numbers of all that are complete, with the octets they take on the disk, by number.
    fn list(&self) -> Result<Vec<(u32, u64)>, EngineError>;

    /// Makes an empty one, durably by name.
    fn create(&self, number: u32) -> Result<(), EngineError>;

    /// Opens one.
    fn open(&self, number: u32, access: Access) -> Result<Box<dyn StorageBackend>, EngineError>;

    /// Octets it takes on the disk: without what it only has by length.
    fn allocated(&self, number: u32) -> Result<u64, EngineError>;

    /// Removes one, durably.
    fn remove(&self, number: u32) -> Result<(), EngineError>;
}

/// QueueDirectory.
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    pub fn new(path: &Path) -> Directory {
        Directory { path: path.to_owned() }
    }

    fn path(&self, number: u32) -> PathBuf {
        self.path.join(name(number))
    }
}

impl Files for Directory {
    fn list(&self) -> Result<Vec<(u32, u64)>, EngineError> {
        let what = self.path.display().to_string();
        let listed = || -> io::Result<Vec<(u32, u64)>> {
            let mut found = Vec::new();
            for entry in fs::read_dir(&self.path)? {
                let entry = entry?;
                let file_name = entry.file_name();
                let number = file_name.to_str().and_then(|name| {
                    name.strip_prefix("body-")?.strip_suffix(".redb")?.parse::<u32>().ok()
                });
                if let Some(number) = number
                    && file_name.to_str() == Some(&name(number))
                {
                    found.push((number, entry.metadata()?.blocks().saturating_mul(BLOCK)));
                }
            }
            found.sort_unstable();
            Ok(found)
        };
        listed().map_err(|error| from_io(&what, error))
    }

    fn create(&self, number: u32) -> Result<(), EngineError> {
        create(&self.path(number))
    }

    fn open(&self, number: u32, access: Access) -> Result<Box<dyn StorageBackend>, EngineError> {
        let path = self.path(number);
        let what = path.display().to_string();
        let file = match access {
            Access::Read => open_read(&path),
            Access::Write => open_file(&path),
            Access::Afresh => open_again(&path),
        };
        let file = file.map_err(|error| from_io(&what, error))?;
        Ok(Box::new(FileBackend::new(file).map_err(|error| from_redb(&what, error.into()))?))
    }

    fn allocated(&self, number: u32) -> Result<u64, EngineError> {
        let path = self.path(number);
        let found = fs::symlink_metadata(&path);
        let found = found.map_err(|error| from_io(&path.display().to_string(), error))?;
        Ok(found.blocks().saturating_mul(BLOCK))
    }

    fn remove(&self, number: u32) -> Result<(), EngineError> {
        let path = self.path(number);
        fs::remove_file(&path)
            .and_then(|()| sync_directory_of(&path))
            .map_err(|error| from_io(&path.display().to_string(), error))
    }
}

fn open_read(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32).open(path)
}
