//! Where the file of an engine is, and the draft that may take its place: a real directory, or what a test puts there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use redb::StorageBackend;
use redb::backends::FileBackend;
use rustix::fs::{Advice, fadvise};

/// A file by its name, and a draft beside it.
pub trait Place: Send {
    /// The file. Called at the start and for each [`Engine::reopen`](super::Engine::reopen); must not be answered from a cache that may
    /// differ from the disk.
    fn open(&mut self) -> io::Result<Box<dyn StorageBackend>>;

    /// A new, empty draft, in place of any there is.
    fn draft(&mut self) -> io::Result<Box<dyn StorageBackend>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The draft as it is.
    fn open_draft(&mut self) -> io::Result<Box<dyn StorageBackend>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Gives the draft the file's name. An error leaves the names as they were.
    fn name_draft(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes durable which file has the name. After an error nobody knows.
    fn sync_names(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Removes the draft, if there is one.
    fn drop_draft(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One file somewhere, without drafts.
impl<F: FnMut() -> io::Result<Box<dyn StorageBackend>> + Send> Place for F {
    fn open(&mut self) -> io::Result<Box<dyn StorageBackend>> {
        self()
    }
}

/// A file in a directory; the draft has its name and `.new`.
pub(in crate::store) struct FilePlace {
    path: PathBuf,
    draft: PathBuf,
    /// Device and inode of the file that was opened.
    opened: Option<(u64, u64)>,
}

impl FilePlace {
    pub fn new(path: &Path) -> FilePlace {
        let mut draft = path.to_owned().into_os_string();
        draft.push(".new");
        FilePlace { path: path.to_owned(), draft: draft.into(), opened: None }
    }

    /// Whether the file that was opened still has the name.
    pub fn is_named(&self) -> io::Result<bool> {
        let named = fs::symlink_metadata(&self.path)?;
        Ok(self.opened == Some((named.dev(), named.ino())))
    }
}

impl Place for FilePlace {
    fn open(&mut self) -> io::Result<Box<dyn StorageBackend>> {
        let again = self.opened.is_some();
        let file = if again { open_again(&self.path)? } else { open_file(&self.path)? };
        let opened = file.metadata()?;
        self.opened = Some((opened.dev(), opened.ino()));
        backend(file)
    }

    fn draft(&mut self) -> io::Result<Box<dyn StorageBackend>> {
        backend(options().create(true).truncate(true).open(&self.draft)?)
    }

    fn open_draft(&mut self) -> io::Result<Box<dyn StorageBackend>> {
        backend(open_file(&self.draft)?)
    }

    fn name_draft(&mut self) -> io::Result<()> {
        fs::rename(&self.draft, &self.path)
    }

    fn sync_names(&mut self) -> io::Result<()> {
        sync_directory_of(&self.path)
    }

    fn drop_draft(&mut self) -> io::Result<()> {
        match fs::remove_file(&self.draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn backend(file: File) -> io::Result<Box<dyn StorageBackend>> {
    Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
}

/// Opens a file of the store for reading and writing.
pub(in crate::store) fn open_file(path: &Path) -> io::Result<File> {
    options().open(path)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
    options
}

/// Makes creations and removals in the directory of `path` durable.
pub(in crate::store) fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

/// Opens a file after an error of the disk, so that what is read is what the disk has: see the head of `redb.rs`.
pub(in crate::store) fn open_again(path: &Path) -> io::Result<File> {
    let file = open_file(path)?;
    file.sync_all()?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    Ok(file)
}
