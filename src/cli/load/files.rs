//! Where the messages of other spools lie: directories are walked, nothing of them is kept in memory.
//!
//! A directory with `deferred`, `incoming`, `active`, `hold`, `maildrop` or `corrupt` in it is a Postfix queue; any other is a
//! queue directory of sendmail, with `qf`, `df` and `xf` subdirectories or without, and its subdirectories are its queue
//! groups. A single file is a control file of sendmail by its name, else text of postcat or a queue file of Postfix by its
//! first octets.

use std::fs::{self, DirEntry, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::records::Postcat;
use super::sendmail::Kind;

/// Queues of Postfix that hold messages.
const POSTFIX_QUEUES: [&str; 6] = ["incoming", "active", "deferred", "hold", "maildrop", "corrupt"];
/// Deepest hashing of a Postfix queue (hash_queue_depth).
const HASH_DEPTH_MAX: usize = 4;
/// Queue groups in one directory.
const GROUPS_MAX: usize = 1_000;

/// A message to be loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// A control file of sendmail.
    Sendmail {
        /// The file.
        control: PathBuf,
        /// What its name says.
        kind: Kind,
        /// Its queue ID.
        id: String,
        /// Where the `df` is, unless the control file says something else.
        bodies: PathBuf,
        /// Where its `xf` is, if there is one.
        transcripts: PathBuf,
        /// Where else it may be: the queue directories that were found, with their places of `df`.
        groups: std::sync::Arc<Vec<(PathBuf, PathBuf)>>,
    },
    /// A queue file of Postfix.
    Postfix {
        /// The file.
        file: PathBuf,
        /// Its queue ID.
        id: String,
        /// `deferred`, `hold`...; empty for a single file.
        queue: &'static str,
        /// Logs about it, in defer, bounce and trace: the first says why it was deferred.
        logs: Vec<PathBuf>,
    },
    /// One message in what postcat printed.
    Postcat {
        /// The file.
        file: PathBuf,
        /// Its queue ID.
        id: String,
        /// Where it begins.
        offset: u64,
        /// The line number of its first line, counted from 0.
        line: u64,
    },
}

impl Message {
    /// The file to name when something is to be said of it.
    pub fn path(&self) -> &Path {
        match self {
            Message::Sendmail { control, .. } => control,
            Message::Postfix { file, .. } | Message::Postcat { file, .. } => file,
        }
    }
}

/// What a walk comes by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// A message.
    Message(Message),
    /// A file that belongs to a spool and is no message: what it is.
    Ignored(PathBuf, &'static str),
    /// A file or directory that cannot be read or is nothing known: why.
    Foreign(PathBuf, String),
    /// A spool that somebody is working on: why.
    Busy(PathBuf, String),
}

/// Walks everything below `path` and shows it to `visit`, until that returns false. Returns whether it never did.
pub fn walk(path: &Path, visit: &mut dyn FnMut(Found) -> bool) -> bool {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return visit(Found::Foreign(path.to_owned(), error.to_string())),
    };
    if !metadata.is_dir() {
        return single(path, visit);
    }
    if POSTFIX_QUEUES.iter().any(|queue| path.join(queue).is_dir()) {
        postfix(path, visit)
    } else {
        sendmail(path, visit)
    }
}

/// Shows each entry of a directory; a directory that cannot be read is foreign.
fn entries(path: &Path, visit: &mut dyn FnMut(Found) -> bool, look: &mut Look<'_>) -> bool {
    let foreign = |error: io::Error| Found::Foreign(path.to_owned(), error.to_string());
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => return visit(foreign(error)),
    };
    for entry in entries {
        let going = match entry {
            Ok(entry) => match entry.file_name().to_str() {
                Some(name) => look(&entry, name, visit),
                None => visit(Found::Foreign(entry.path(), "its name is no text".into())),
            },
            Err(error) => visit(foreign(error)),
        };
        if !going {
            return false;
        }
    }
    true
}

type Look<'a> = dyn FnMut(&DirEntry, &str, &mut dyn FnMut(Found) -> bool) -> bool + 'a;

// --- sendmail --------------------------------------------------------------------------------------------------------

fn sendmail(path: &Path, visit: &mut dyn FnMut(Found) -> bool) -> bool {
    let mut groups = vec![(path.to_owned(), place(path, "df"))];
    let going = entries(path, visit, &mut |entry, name, visit| {
        let is_group = entry.file_type().is_ok_and(|kind| kind.is_dir())
            && !["qf", "df", "xf", "lost+found"].contains(&name);
        if is_group && groups.len() > GROUPS_MAX {
            let text = format!("more than {GROUPS_MAX} queue groups: name them one by one");
            return visit(Found::Foreign(path.to_owned(), text));
        }
        if is_group {
            groups.push((entry.path(), place(&entry.path(), "df")));
        }
        true
    });
    let groups = std::sync::Arc::new(groups);
    going && groups.iter().all(|(queue, bodies)| group(queue, bodies, &groups, visit))
}

/// The subdirectory, when the queue directory has it.
pub(super) fn place(queue: &Path, name: &str) -> PathBuf {
    let place = queue.join(name);
    if place.is_dir() { place } else { queue.to_owned() }
}

fn group(
    queue: &Path,
    bodies: &Path,
    groups: &std::sync::Arc<Vec<(PathBuf, PathBuf)>>,
    visit: &mut dyn FnMut(Found) -> bool,
) -> bool {
    let controls = place(queue, "qf");
    let mut places = vec![controls.as_path(), bodies];
    let transcripts = place(queue, "xf");
    places.extend([transcripts.as_path(), queue]);
    let mut seen: Vec<&Path> = Vec::new();
    for place in places {
        if seen.contains(&place) {
            continue;
        }
        seen.push(place);
        let going = entries(place, visit, &mut |entry, name, visit| {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                return true;
            }
            if let Some((kind, id)) = Kind::of(name) {
                if place != controls {
                    let text = "a control file outside of qf/, where sendmail would not see it";
                    return visit(Found::Foreign(entry.path(), text.into()));
                }
                return visit(Found::Message(Message::Sendmail {
                    control: entry.path(),
                    kind,
                    id: id.to_owned(),
                    bodies: bodies.to_owned(),
                    transcripts: transcripts.clone(),
                    groups: groups.clone(),
                }));
            }
            match name.get(..2) {
                Some("df") => {
                    let controlled = ["qf", "hf", "Qf"].iter().any(|kind| {
                        let name = format!("{kind}{}", &name[2..]);
                        // A body may lie in another group than its control file.
                        controls.join(&name).exists()
                            || groups
                                .iter()
                                .any(|(queue, _)| self::place(queue, "qf").join(&name).exists())
                    });
                    controlled || visit(Found::Ignored(entry.path(), "body without control file"))
                }
                Some("tf") => visit(Found::Ignored(entry.path(), "unfinished control file")),
                Some("Tf") => visit(Found::Ignored(entry.path(), "unfinished control file, saved")),
                Some("xf") => visit(Found::Ignored(entry.path(), "transcript")),
                _ => visit(Found::Ignored(entry.path(), "no queue file")),
            }
        });
        if !going {
            return false;
        }
    }
    true
}

// --- Postfix ---------------------------------------------------------------------------------------------------------

fn postfix(root: &Path, visit: &mut dyn FnMut(Found) -> bool) -> bool {
    let master = root.join("pid/master.pid");
    if File::open(&master).is_ok_and(|file| file.try_lock_shared().is_err()) {
        let text =
            "Postfix is running: stop it first (postfix stop), so that nothing is sent twice";
        return visit(Found::Busy(root.to_owned(), text.into()));
    }
    POSTFIX_QUEUES.iter().all(|queue| {
        let directory = root.join(queue);
        !directory.is_dir() || hashed(root, queue, &directory, HASH_DEPTH_MAX, visit)
    })
}

fn hashed(
    root: &Path,
    queue: &'static str,
    directory: &Path,
    depth: usize,
    visit: &mut dyn FnMut(Found) -> bool,
) -> bool {
    entries(directory, visit, &mut |entry, name, visit| {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 0 => {
                return hashed(root, queue, &entry.path(), depth - 1, visit);
            }
            Ok(kind) if kind.is_file() => {}
            _ => return visit(Found::Ignored(entry.path(), "no queue file")),
        }
        let logs =
            ["defer", "bounce", "trace"].into_iter().filter_map(|kind| log_of(root, kind, name));
        visit(Found::Message(Message::Postfix {
            file: entry.path(),
            id: name.to_owned(),
            queue,
            logs: logs.collect(),
        }))
    })
}

/// The log of a message, hashed by the first characters of its queue ID or not.
fn log_of(root: &Path, kind: &str, id: &str) -> Option<PathBuf> {
    let mut directory = root.join(kind);
    let mut characters = id.chars();
    for _ in 0..=HASH_DEPTH_MAX {
        let log = directory.join(id);
        if log.is_file() {
            return Some(log);
        }
        directory.push(characters.next()?.to_string());
    }
    None
}

// --- single files ----------------------------------------------------------------------------------------------------

fn single(path: &Path, visit: &mut dyn FnMut(Found) -> bool) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if let Some((kind, id)) = Kind::of(name) {
        let controls = path.parent().unwrap_or(Path::new(""));
        let queue = match controls.file_name().is_some_and(|name| name == "qf") {
            true => controls.parent().unwrap_or(Path::new("")),
            false => controls,
        };
        let bodies = place(queue, "df");
        return visit(Found::Message(Message::Sendmail {
            control: path.to_owned(),
            kind,
            id: id.to_owned(),
            groups: std::sync::Arc::new(vec![(queue.to_owned(), bodies.clone())]),
            transcripts: place(queue, "xf"),
            bodies,
        }));
    }
    match begins(path) {
        Err(error) => visit(Found::Foreign(path.to_owned(), error.to_string())),
        Ok(first) if first.starts_with(b"*** ENVELOPE RECORDS ") => printed(path, visit),
        Ok(first) if matches!(first.first(), Some(b'C' | b'T')) => {
            visit(Found::Message(Message::Postfix {
                file: path.to_owned(),
                id: name.to_owned(),
                queue: "",
                logs: Vec::new(),
            }))
        }
        Ok(_) => {
            let text = "neither a control file of sendmail, nor a queue file of Postfix, nor text of postcat";
            visit(Found::Foreign(path.to_owned(), text.into()))
        }
    }
}

fn begins(path: &Path) -> io::Result<Vec<u8>> {
    let mut first = Vec::new();
    File::open(path)?.take(32).read_to_end(&mut first)?;
    Ok(first)
}

/// Shows each message in what postcat printed.
fn printed(path: &Path, visit: &mut dyn FnMut(Found) -> bool) -> bool {
    let mut visit_line = |line: &[u8], offset: u64, number: u64| -> bool {
        let Some(name) = Postcat::begins(line) else { return true };
        let name = String::from_utf8_lossy(name);
        let id = name.rsplit('/').next().unwrap_or_default().to_owned();
        visit(Found::Message(Message::Postcat { file: path.to_owned(), id, offset, line: number }))
    };
    match lines(path, &mut visit_line) {
        Ok(going) => going,
        Err(error) => visit(Found::Foreign(path.to_owned(), error.to_string())),
    }
}

fn lines(path: &Path, look: &mut dyn FnMut(&[u8], u64, u64) -> bool) -> io::Result<bool> {
    /// Of a line, as much as the first line of a message can have.
    const SHOWN_MAX: u64 = 8 << 10;
    let mut input = BufReader::new(File::open(path)?);
    let (mut offset, mut number, mut line) = (0, 0, Vec::new());
    // A message has words of postcat in its text, perhaps: only between messages is the next one looked for.
    let mut end: Option<Vec<u8>> = None;
    loop {
        line.clear();
        let length = (&mut input).take(SHOWN_MAX).read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(true);
        }
        let mut whole = length as u64;
        if line.last() != Some(&b'\n') {
            whole += input.skip_until(b'\n')? as u64;
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        match &end {
            Some(mark) if text == mark => end = None,
            Some(_) => {}
            None => {
                if let Some(name) = Postcat::begins(text) {
                    end = Some([b"*** MESSAGE FILE END ", name, b" ***"].concat());
                }
                if !look(text, offset, number) {
                    return Ok(false);
                }
            }
        }
        offset += whole;
        number += 1;
    }
}
