//! sendmail's spool files: each pair durable before the next is begun, the control file under its name only when it is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use kvmta::cli::spool::{self, BodyLines, Progress};
use kvmta::mail::job::Entry;
use kvmta::store::StoreError;

use super::queue::{DumpError, Queue, for_each_job};

/// A queue directory of sendmail: where its control and its body files go.
pub struct Group {
    controls: PathBuf,
    bodies: PathBuf,
}

/// Where the files go: into `qf/` and `df/` of each queue group (subdirectories `q*`), as far as the directory has such.
pub struct Target {
    groups: Vec<Group>,
}

impl Target {
    /// What there is in `directory`.
    ///
    /// # Errors
    /// `Write`: it cannot be read.
    pub fn of(directory: &Path) -> Result<Target, DumpError> {
        let fail = write_error(directory);
        let mut groups = Vec::new();
        for entry in fs::read_dir(directory).map_err(&fail)? {
            let entry = entry.map_err(&fail)?;
            let name = entry.file_name();
            let is_group = name.to_string_lossy().starts_with('q') && name != "qf";
            if is_group && entry.file_type().map_err(&fail)?.is_dir() {
                groups.push(entry.path());
            }
        }
        groups.sort();
        if groups.is_empty() {
            groups.push(directory.to_owned());
        }
        let place = |group: &Path, name: &str| {
            let place = group.join(name);
            if place.is_dir() { place } else { group.to_owned() }
        };
        let group =
            |group: PathBuf| Group { controls: place(&group, "qf"), bodies: place(&group, "df") };
        Ok(Target { groups: groups.into_iter().map(group).collect() })
    }

    /// The group of a message: they are spread evenly, and each has the same one every time.
    fn group(&self, entry: &Entry) -> &Group {
        let id = entry.id.as_u64();
        let place = ((id >> 32) ^ id) % self.groups.len().max(1) as u64;
        &self.groups[usize::try_from(place).unwrap_or(0)]
    }

    /// Makes the names durable.
    ///
    /// # Errors
    /// `Write`.
    pub fn finish(&self) -> Result<(), DumpError> {
        for group in &self.groups {
            for place in [&group.bodies, &group.controls] {
                File::open(place).and_then(|place| place.sync_all()).map_err(write_error(place))?;
            }
        }
        Ok(())
    }
}

/// What became of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Written {
    /// It is there.
    Whole,
    /// Nothing of it is there: nobody is left to get it.
    Nobody,
    /// Nothing of it is there: why it cannot be read.
    Unreadable(String),
}

/// Body, then control file under the name sendmail gives an unfinished one, then its real name. What is not written whole leaves no
/// file.
pub fn dump_message(
    queue: &mut dyn Queue,
    entry: &Entry,
    target: &Target,
) -> Result<Written, DumpError> {
    let Group { controls, bodies } = target.group(entry);
    let body_path = bodies.join(spool::body_name(entry));
    let body = create(&body_path)?;
    let header = match copy_body(queue, entry, body, &body_path)? {
        Ok(header) => header,
        Err(why) => {
            remove(&body_path)?;
            return Ok(Written::Unreadable(why));
        }
    };

    let mut progress = Progress::default();
    for_each_job::<DumpError>(queue, entry, |job| {
        progress.add(job);
        Ok(())
    })?;
    let path = controls.join(spool::control_name(entry));
    if path.exists() {
        return Err(write_error(&path)(io::ErrorKind::AlreadyExists.into()));
    }
    let unfinished = controls.join(format!("tf{}", entry.id));
    let fail = write_error(&unfinished);
    let mut out = create(&unfinished)?;
    spool::write_envelope(&mut out, entry, &progress).map_err(&fail)?;
    let mut recipients = 0;
    for_each_job(queue, entry, |job| {
        let written = spool::write_recipients(&mut out, &entry.envelope, job);
        written.map(|written| recipients += written).map_err(&fail)
    })?;
    if recipients == 0 {
        // sendmail would take it for one it is through with.
        drop(out);
        remove(&unfinished)?;
        remove(&body_path)?;
        return Ok(Written::Nobody);
    }
    spool::write_header(&mut out, &header).map_err(&fail)?;
    finish(out).map_err(&fail)?;
    std::fs::rename(&unfinished, &path).map_err(write_error(&path))?;
    Ok(Written::Whole)
}

/// A file of a message that is not written after all.
pub fn remove(path: &Path) -> Result<(), DumpError> {
    fs::remove_file(path).map_err(write_error(path))
}

/// Copies the message's body to `out` and returns its header, which comes before it; or why it cannot be read to its end.
pub fn copy_body(
    queue: &mut dyn Queue,
    entry: &Entry,
    mut out: BufWriter<File>,
    path: &Path,
) -> Result<Result<Vec<u8>, String>, DumpError> {
    let fail = write_error(path);
    let (mut header, mut lines, mut offset) = (Vec::new(), BodyLines::default(), 0);
    loop {
        let piece = match queue.bytes(entry, offset) {
            Ok(piece) => piece,
            Err(error @ StoreError::Damaged { .. }) => return Ok(Err(error.to_string())),
            Err(error) => return Err(error.into()),
        };
        if piece.is_empty() {
            break;
        }
        let of_header =
            usize::try_from(entry.envelope.header_len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let (first, rest) = piece.split_at(of_header.min(piece.len()));
        header.extend_from_slice(first);
        lines.write(&mut out, rest).map_err(&fail)?;
        offset += piece.len() as u64;
    }
    if offset != entry.envelope.size || offset == 0 {
        return Ok(Err(format!("{offset} octets of it are there, not {}", entry.envelope.size)));
    }
    lines.end(&mut out).map_err(&fail)?;
    finish(out).map_err(&fail)?;
    Ok(Ok(header))
}

/// A new file that only its owner reads; sendmail refuses others.
pub fn create(path: &Path) -> Result<BufWriter<File>, DumpError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    Ok(BufWriter::new(file.map_err(write_error(path))?))
}

pub fn finish(out: BufWriter<File>) -> io::Result<()> {
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

pub fn write_error(path: &Path) -> impl Fn(io::Error) -> DumpError {
    let path = path.to_owned();
    move |source| DumpError::Write { path: path.clone(), source }
}
