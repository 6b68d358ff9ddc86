//! Messages for other programs: one file in mbox form, or a file each.
//!
//! These keep the message and name its envelope in header fields of their own (`X-Envelope-From:`, `X-Envelope-To:` for those who
//! are still to get it). Times, attempts and DSN parameters are in the spool files alone.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use kvmta::cli::spool::BodyLines;
use kvmta::cli::spool::mbox::MboxLines;
use kvmta::mail::job::Entry;
use kvmta::mail::time::Timestamp;

use super::files::{Written, create, finish, remove, write_error};
use super::queue::{DumpError, Queue, for_each_job};
use kvmta::store::StoreError;

/// Appends a message to an mbox (mboxrd: `From ` at the start of a line gets one `>` more, however many it has).
///
/// # Errors
/// `Store`, `Write`.
pub fn append(
    queue: &mut dyn Queue,
    entry: &Entry,
    out: &mut BufWriter<File>,
    path: &Path,
) -> Result<Written, DumpError> {
    if let Some(why) = unreadable(queue, entry)? {
        return Ok(Written::Unreadable(why));
    }
    let fail = write_error(path);
    let sender = entry.envelope.reverse_path.to_string();
    let sender = if sender.is_empty() { "MAILER-DAEMON".into() } else { sender.replace(' ', "_") };
    let arrival: Timestamp = entry.envelope.arrival;
    let date = arrival.ctime(&jiff::tz::TimeZone::UTC);
    writeln!(out, "From {sender} {date}").map_err(&fail)?;
    let mut lines = MboxLines::new(out);
    content(queue, entry, &mut lines, path)?;
    lines.end().map_err(&fail)?;
    Ok(Written::Whole)
}

/// Why nothing of a message can be read; none when it can, or its beginning.
fn unreadable(queue: &mut dyn Queue, entry: &Entry) -> Result<Option<String>, DumpError> {
    match queue.bytes(entry, 0) {
        Ok(piece) if piece.is_empty() => Ok(Some("nothing of it is there".into())),
        Ok(_) => Ok(None),
        Err(error @ StoreError::Damaged { .. }) => Ok(Some(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// Writes a message to `DIR/ID.eml`, LF line ends.
///
/// # Errors
/// `Store`, `Write`.
pub fn eml(queue: &mut dyn Queue, entry: &Entry, directory: &Path) -> Result<Written, DumpError> {
    let path = directory.join(format!("{}.eml", entry.id));
    let mut out = create(&path)?;
    match content(queue, entry, &mut out, &path) {
        Ok(()) => {}
        Err(DumpError::Store(error @ StoreError::Damaged { .. })) => {
            drop(out);
            remove(&path)?;
            return Ok(Written::Unreadable(error.to_string()));
        }
        Err(error) => return Err(error),
    }
    finish(out).map_err(write_error(&path))?;
    Ok(Written::Whole)
}

fn content(
    queue: &mut dyn Queue,
    entry: &Entry,
    out: &mut dyn Write,
    path: &Path,
) -> Result<(), DumpError> {
    let fail = write_error(path);
    writeln!(out, "X-Envelope-From: <{}>", entry.envelope.reverse_path).map_err(&fail)?;
    for_each_job::<DumpError>(queue, entry, |job| {
        for recipient in job.recipients.iter().filter(|recipient| recipient.state.is_open()) {
            writeln!(out, "X-Envelope-To: <{}>", recipient.address).map_err(&fail)?;
        }
        Ok(())
    })?;
    let (mut lines, mut offset) = (BodyLines::default(), 0);
    loop {
        let piece = queue.bytes(entry, offset)?;
        if piece.is_empty() && offset != entry.envelope.size {
            let detail = format!("{offset} octets of it are there, not {}", entry.envelope.size);
            return Err(StoreError::Damaged { what: "its body".into(), detail }.into());
        }
        if piece.is_empty() {
            return lines.end(&mut Out(out)).map_err(&fail);
        }
        lines.write(&mut Out(out), &piece).map_err(&fail)?;
        offset += piece.len() as u64;
    }
}

/// A sized writer over any.
struct Out<'a>(&'a mut dyn Write);

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
