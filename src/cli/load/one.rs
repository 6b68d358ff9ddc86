//! One message of another spool: locked, read, handed to whoever holds the store, and removed if that is wanted.
//!
//! It is locked as its own program locks it (flock and fcntl for sendmail, flock for Postfix), so that nobody delivers it meanwhile,
//! and let go only when the store has said that it is durable. Files are removed after that and never before; a crash in between leaves
//! files whose origin the store remembers: loading them again only removes them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use rustix::fs::{FlockOperation, OFlags, fcntl_lock, flock};

use super::files::{self, Message};
use super::postfix::Deferral;
use super::records::{Postcat, QueueFile};
use super::{Copy, Fault, Parts, Sent, Unreadable, postfix, sendmail};
use crate::control::client::Asked;
use crate::control::proto::{Answer, LoadPart, Request};
use crate::mail::envelope::Recipient;
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;

/// Recipients in one part.
const RECIPIENTS: usize = 250;
/// Octets of a log of Postfix that are looked at for the last reason.
const LOG_MAX: u64 = 64 << 10;

/// How messages are loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manner {
    /// The time.
    pub now: Timestamp,
    /// Remove the files of what is durable.
    pub remove: bool,
    /// The name of this host, for mail that nobody has seen to yet.
    pub host: String,
}

/// What became of one message, or of one copy of it (VERP).
#[derive(Debug)]
pub enum Outcome {
    /// It is ours, but for what is named as not kept.
    Loaded(QueueId, Vec<String>),
    /// It was ours before.
    Before(QueueId),
    /// It could be loaded, but for what is named as not kept.
    Readable(Vec<String>),
    /// Somebody has it in hand, or it changed: later.
    Locked(String),
    /// It cannot be read.
    Unreadable(Unreadable),
    /// The holder of the store does not take it: why, and the exit status.
    Refused(String, u8),
}

/// Loads a message by way of `link`; without one it is only read. Gives what became of it to `tell`, of each copy if it is several.
///
/// # Errors
/// The holder of the store is gone: whether this message was loaded is not known.
pub fn load(
    message: &Message,
    mut link: Option<&mut Asked>,
    manner: &Manner,
    tell: &mut dyn FnMut(Outcome),
) -> io::Result<()> {
    let (opened, scanned, copies) = match read(message, manner) {
        Ok(read) => read,
        Err(outcome) => {
            tell(outcome);
            return Ok(());
        }
    };
    let mut durable = true;
    for copy in &copies {
        let outcome = match &mut link {
            Some(link) => transfer(link, &scanned, copy, &opened)?,
            None => match scanned.send(copy, &opened, &mut Nobody) {
                Ok(sent) => Outcome::Readable(sent.unkept),
                Err(Fault::Unreadable(unreadable)) => Outcome::Unreadable(unreadable),
                Err(Fault::Lost(error)) => return Err(error),
            },
        };
        durable &= matches!(outcome, Outcome::Loaded(..) | Outcome::Before(_));
        tell(outcome);
    }
    if manner.remove && durable {
        for path in sources(message, &scanned) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let text = format!(
                        "it is loaded, and {} cannot be removed ({error}): remove it, so that it is not delivered twice",
                        path.display()
                    );
                    tell(Outcome::Refused(text, 75));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Locks a message and reads what is to be loaded of it.
fn read(message: &Message, manner: &Manner) -> Result<(Files, Scanned, Vec<Copy>), Outcome> {
    let opened = match open(message).map_err(Outcome::Unreadable)? {
        Opened::Ready(opened) => opened,
        Opened::Locked(why) => return Err(Outcome::Locked(why)),
    };
    let scanned = scan(message, &opened, manner).map_err(Outcome::Unreadable)?;
    let copies = scanned.copies(&opened).map_err(Outcome::Unreadable)?;
    Ok((opened, scanned, copies))
}

/// Everything that goes with a message, the file that names the others first: what is left then is nobody's.
fn sources(message: &Message, scanned: &Scanned) -> Vec<PathBuf> {
    match (message, scanned) {
        (Message::Sendmail { control, id, transcripts, .. }, Scanned::Sendmail(_, _, body)) => {
            vec![control.clone(), body.clone(), transcripts.join(format!("xf{id}"))]
        }
        (Message::Postfix { file, logs, .. }, _) => {
            // Of recipients that failed, nobody but this log knows.
            let logs = logs.iter().filter(|log| !is_in("bounce", log));
            std::iter::once(file).chain(logs).cloned().collect()
        }
        // What postcat printed is no spool.
        (Message::Sendmail { .. } | Message::Postcat { .. }, _) => Vec::new(),
    }
}

/// Whether a log is of this kind.
fn is_in(kind: &str, log: &Path) -> bool {
    log.iter().any(|part| part == kind)
}

// --- opening ---------------------------------------------------------------------------------------------------------

/// The files of a message; dropping it lets go of the lock.
struct Files {
    main: File,
    length: u64,
}

enum Opened {
    Ready(Files),
    Locked(String),
}

fn open(message: &Message) -> Result<Opened, Unreadable> {
    let path = message.path();
    let whole = |error: io::Error| Unreadable::whole(error.to_string());
    let options = |write: bool| {
        let mut options = OpenOptions::new();
        // A pipe or a link in a spool is not to hold us up or lead us elsewhere.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.read(true).write(write).custom_flags(flags.bits() as i32);
        options
    };
    // fcntl locks for writing only what is open for writing; a spool that is read-only has nobody at work.
    let (main, writable) = match options(true).open(path) {
        Ok(file) => (file, true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Opened::Locked("it has gone meanwhile".into()));
        }
        Err(_) => (options(false).open(path).map_err(whole)?, false),
    };
    let metadata = main.metadata().map_err(whole)?;
    if !metadata.is_file() {
        return Err(Unreadable::whole("it is no regular file"));
    }
    if metadata.mode() & 0o002 != 0 && !matches!(message, Message::Postcat { .. }) {
        return Err(Unreadable::whole("everybody may write it: whose words it has is not known"));
    }
    let in_use = || Ok(Opened::Locked("another process has it in hand".into()));
    match message {
        Message::Sendmail { .. } => {
            if metadata.len() == 0 {
                return Err(Unreadable::whole("it is empty: it was never finished"));
            }
            let lock = match writable {
                true => FlockOperation::NonBlockingLockExclusive,
                false => FlockOperation::NonBlockingLockShared,
            };
            if flock(&main, lock).is_err() || fcntl_lock(&main, lock).is_err() {
                return in_use();
            }
            // As sendmail: whoever had the lock may have rewritten or removed it.
            match fs::symlink_metadata(path) {
                Ok(named) if named.ino() == metadata.ino() && named.dev() == metadata.dev() => {}
                _ => return Ok(Opened::Locked("it changed meanwhile".into())),
            }
        }
        Message::Postfix { .. } => {
            if metadata.mode() & 0o100 == 0 {
                return Ok(Opened::Locked("it is being written, or was never finished".into()));
            }
            if flock(&main, FlockOperation::NonBlockingLockExclusive).is_err() {
                return in_use();
            }
        }
        Message::Postcat { .. } => {}
    }
    let length = main.metadata().map_err(whole)?.len();
    Ok(Opened::Ready(Files { main, length }))
}

/// The body file: a regular one, not by way of a link.
fn open_body(path: &Path) -> Result<File, Unreadable> {
    let mut options = OpenOptions::new();
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options.read(true).custom_flags(flags.bits() as i32).open(path);
    let missing = |error| Unreadable::whole(format!("its body {}: {error}", path.display()));
    let file = file.map_err(missing)?;
    match file.metadata().map_err(missing)?.is_file() {
        true => Ok(file),
        false => Err(Unreadable::whole(format!("its body {} is no file", path.display()))),
    }
}

// --- reading ---------------------------------------------------------------------------------------------------------

enum Scanned {
    /// With its body and where that is.
    Sendmail(Box<sendmail::Control>, File, PathBuf),
    Postfix(Box<postfix::Scanned>),
    Postcat(Box<postfix::Scanned>, u64, u64),
}

fn scan(message: &Message, files: &Files, manner: &Manner) -> Result<Scanned, Unreadable> {
    let now = manner.now;
    match message {
        Message::Sendmail { kind, id, bodies, groups, .. } => {
            let control = sendmail::scan(&mut BufReader::new(&files.main), id, *kind, now)?;
            let path = match &control.body_directory {
                None => bodies.join(format!("df{id}")),
                Some(directory) => elsewhere(directory, groups, &format!("df{id}"))?,
            };
            let body = open_body(&path)?;
            Ok(Scanned::Sendmail(Box::new(control), body, path))
        }
        Message::Postfix { id, queue, logs, .. } => {
            let deferred =
                logs.iter().find(|log| is_in("defer", log)).and_then(|log| deferral(log));
            let deferred = match *queue {
                "deferred" => deferred.or_else(|| Some(Deferral::unknown(now))),
                _ => deferred,
            };
            let held = match *queue {
                "hold" => Some("on hold in Postfix"),
                "corrupt" => Some("set aside as corrupt by Postfix"),
                _ => None,
            };
            let dropped = (*queue == "maildrop").then(|| dropped(files, manner));
            let owes_report = logs.iter().any(|log| is_in("bounce", log));
            let place = postfix::Place { held, deferred, dropped, owes_report };
            let mut records = QueueFile::new(BufReader::new(&files.main), files.length);
            Ok(Scanned::Postfix(Box::new(postfix::scan(&mut records, id, &place, now)?)))
        }
        Message::Postcat { id, offset, line, .. } => {
            let place = postfix::Place::default();
            let mut input = at(files, *offset)?;
            let mut records = Postcat::new(&mut input, TimeZone::system(), *line);
            let scanned = postfix::scan(&mut records, id, &place, now)?;
            Ok(Scanned::Postcat(Box::new(scanned), *offset, *line))
        }
    }
}

fn at(files: &Files, offset: u64) -> Result<BufReader<&File>, Unreadable> {
    let mut file = &files.main;
    file.seek(SeekFrom::Start(offset)).map_err(|error| Unreadable::whole(error.to_string()))?;
    Ok(BufReader::new(file))
}

/// Who put a message into maildrop: it is his file.
fn dropped(files: &Files, manner: &Manner) -> postfix::Dropped {
    let uid = files.main.metadata().map_or(0, |metadata| metadata.uid());
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten();
    let user = user.map_or_else(|| format!("uid{uid}"), |user| user.name);
    postfix::Dropped { user, host: manner.host.clone() }
}

/// The body in the queue directory that a `d` line names.
fn elsewhere(
    directory: &str,
    groups: &[(PathBuf, PathBuf)],
    name: &str,
) -> Result<PathBuf, Unreadable> {
    let named = Path::new(directory);
    let same = |queue: &Path, other: &Path| match (queue.canonicalize(), other.canonicalize()) {
        (Ok(queue), Ok(other)) => queue == other,
        _ => false,
    };
    let root = groups.first().map_or(Path::new(""), |(root, _)| root);
    let above = root.parent().unwrap_or(root);
    // The name of a queue group is relative to the QueueDirectory: what was named to us, or what is above it.
    let relative = [root, above].map(|base| base.join(named));
    let of_groups = groups.iter().filter(|(queue, _)| {
        let is_named = named.is_absolute() && same(queue, named);
        // A spool that was copied elsewhere still names its old place.
        let is_alike = named.file_name().is_some() && queue.file_name() == named.file_name();
        is_named || is_alike || (named.is_relative() && same(queue, &relative[0]))
    });
    let beside = match named.is_relative() {
        true => Some(relative[1].clone()),
        false => named.file_name().map(|last| above.join(last)),
    };
    let is_beside = |place: &PathBuf| {
        same(place, above) || place.parent().is_some_and(|parent| same(parent, above))
    };
    let beside = beside.filter(is_beside);
    let places = of_groups.map(|(_, bodies)| bodies.clone());
    let mut places = places.chain(beside.map(|queue| files::place(&queue, "df")));
    places.find_map(|place| Some(place.join(name)).filter(|body| body.is_file())).ok_or_else(|| {
        let directory = directory.escape_debug();
        Unreadable::whole(format!(
            "its body {name} is in the queue directory {directory}, which is not among what was named: name the directory above both"
        ))
    })
}

/// When and why a message was deferred last, by the log Postfix keeps of it; none when that cannot be read.
fn deferral(log: &Path) -> Option<Deferral> {
    let mut file = File::open(log).ok()?;
    let metadata = file.metadata().ok()?;
    let at = Timestamp::from_secs(u64::try_from(metadata.mtime()).unwrap_or(0));
    file.seek(SeekFrom::Start(metadata.len().saturating_sub(LOG_MAX))).ok()?;
    let mut text = Vec::new();
    file.take(LOG_MAX).read_to_end(&mut text).ok()?;
    Some(Deferral::read(&text, at))
}

impl Scanned {
    fn copies(&self, files: &Files) -> Result<Vec<Copy>, Unreadable> {
        match self {
            Scanned::Sendmail(control, ..) => {
                Ok(vec![Copy { head: control.head.clone(), only: None }])
            }
            Scanned::Postfix(scanned) => {
                postfix::copies(scanned, &mut QueueFile::new(at(files, 0)?, files.length))
            }
            Scanned::Postcat(scanned, offset, line) => {
                let mut input = at(files, *offset)?;
                postfix::copies(scanned, &mut Postcat::new(&mut input, TimeZone::system(), *line))
            }
        }
    }

    fn send(&self, copy: &Copy, files: &Files, parts: &mut dyn Parts) -> Result<Sent, Fault> {
        match self {
            Scanned::Sendmail(control, body, _) => {
                let mut body = body;
                body.rewind().map_err(|error| Unreadable::whole(error.to_string()))?;
                sendmail::send(control, &mut at(files, 0)?, &mut body, parts)
            }
            Scanned::Postfix(scanned) => {
                let mut records = QueueFile::new(at(files, 0)?, files.length);
                postfix::send(scanned, copy, &mut records, parts)
            }
            Scanned::Postcat(scanned, offset, line) => {
                let mut input = at(files, *offset)?;
                let mut records = Postcat::new(&mut input, TimeZone::system(), *line);
                postfix::send(scanned, copy, &mut records, parts)
            }
        }
    }
}

// --- handing over ----------------------------------------------------------------------------------------------------

/// Takes parts for nobody: a message that is only read.
struct Nobody;

impl Parts for Nobody {
    fn recipient(&mut self, _: Recipient) -> io::Result<()> {
        Ok(())
    }

    fn bytes(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Takes parts for the holder of the store.
struct Sending<'a> {
    link: &'a mut Asked,
    recipients: Vec<Recipient>,
}

impl Sending<'_> {
    fn flush(&mut self) -> io::Result<()> {
        match self.recipients.is_empty() {
            true => Ok(()),
            false => {
                let recipients = std::mem::take(&mut self.recipients);
                self.link.send_part(&LoadPart::Recipients(recipients))
            }
        }
    }
}

impl Parts for Sending<'_> {
    fn recipient(&mut self, recipient: Recipient) -> io::Result<()> {
        self.recipients.push(recipient);
        if self.recipients.len() >= RECIPIENTS { self.flush() } else { Ok(()) }
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.link.send_part(&LoadPart::Bytes(bytes.to_vec()))
    }
}

fn transfer(
    link: &mut Asked,
    scanned: &Scanned,
    copy: &Copy,
    files: &Files,
) -> io::Result<Outcome> {
    link.ask(&Request::Load { origin: copy.head.origin.clone() })?;
    match link.answer()? {
        Answer::Ready => {}
        answer => return outcome(link, answer, Vec::new()),
    }
    let mut sending = Sending { link, recipients: Vec::new() };
    match scanned.send(copy, files, &mut sending) {
        Ok(Sent { loading, unkept }) => {
            sending.flush()?;
            link.send_part(&LoadPart::End(Box::new(loading)))?;
            let answer = link.answer()?;
            outcome(link, answer, unkept)
        }
        Err(Fault::Lost(error)) => Err(error),
        Err(Fault::Unreadable(unreadable)) => {
            link.send_part(&LoadPart::Abandon)?;
            // It says that nothing was loaded.
            link.answer()?;
            Ok(Outcome::Unreadable(unreadable))
        }
    }
}

/// The answer, and what follows it up to the last.
fn outcome(link: &mut Asked, answer: Answer, unkept: Vec<String>) -> io::Result<Outcome> {
    let outcome = match &answer {
        Answer::Loaded { id, before: true } => Outcome::Before(*id),
        Answer::Loaded { id, before: false } => Outcome::Loaded(*id, unkept),
        Answer::Failed { text, exit } => Outcome::Refused(text.clone(), *exit),
        other => return Err(io::Error::other(format!("unexpected answer {other:?}"))),
    };
    let mut last = answer;
    while !last.is_last() {
        last = link.answer()?;
    }
    Ok(outcome)
}
