//! DeadLetterDrop: where a report ends that went to the postmaster and could not be delivered either.
//!
//! The copy comes first: it is written, and durable with its name, before the settle that drops the report (`attempt.rs`). So a crash
//! at any point leaves the report in the queue, in the file, or in both: between the write and the settle's commit it is in
//! both, is tried once more at the next start, and is added to the file again when it fails again. It is never in neither. When the
//! file takes nothing the report is held, as sendmail keeps what it calls lost, and an operator decides.
//!
//! A write that fails is taken back. What a crash leaves of one (the last message of the file, cut short) is closed by an empty
//! line before the next, so that no message runs into another.
//!
//! The file is never created through a symbolic link, and belongs to the daemon alone.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::House;
use crate::mail::job::Job;
use crate::store::StoreError;

/// Octets of one report at most: ours are an original of at most 1 MiB (BounceSizeLimit), and what is written around it.
const LETTER_MAX: usize = 2 << 20;
/// Why a report is held that can be neither delivered nor saved.
const PANIC: &str = "savemail panic";

/// Whether a report of ours that nobody can be told of is saved.
pub(super) fn is_wanted(house: &House, job: &Job) -> bool {
    house.config.dead_letter_drop.is_some() && job.envelope.is_report()
}

/// Adds the message of `job` to the file. True when that is durable; else what hinders it is logged, and the message is held.
///
/// # Errors
/// As `Store::read_body` and `Store::set_aside`: then nothing was done.
pub(super) async fn save(house: &House, job: &Job) -> Result<bool, StoreError> {
    let id = job.id.queue_id;
    let Some(path) = house.config.dead_letter_drop.clone() else { return Ok(true) };
    let date = house.world.clock.now().ctime(&house.config.time_zone);
    let text = mailbox_form(&bytes_of(house, job).await?, &date);
    let shown = path.display().to_string();
    let saved = tokio::task::spawn_blocking(move || append(&path, &text)).await;
    match saved.map_err(io::Error::other).and_then(|saved| saved) {
        Ok(()) => {
            house.maillog.saved_dead_letter(id, &shown);
            Ok(true)
        }
        Err(error) => {
            let text = format!("cannot save rejected email anywhere: {shown}: {error}");
            house.maillog.error(Some(id), &text);
            house.maillog.set_aside(id, PANIC);
            house.store.set_aside(id, PANIC.to_owned()).await?;
            Ok(false)
        }
    }
}

async fn bytes_of(house: &House, job: &Job) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    while bytes.len() < LETTER_MAX {
        let piece = house.store.read_body(&job.body, bytes.len() as u64).await?;
        if piece.is_empty() {
            break;
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// A message of a mailbox file: `From ` line, LF line ends, lines that begin so quoted, an empty line behind.
fn mailbox_form(bytes: &[u8], date: &str) -> Vec<u8> {
    let mut text = format!("From MAILER-DAEMON {date}\n").into_bytes();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.starts_with(b"From ") {
            text.push(b'>');
        }
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text.push(b'\n');
    text
}

fn append(path: &Path, text: &[u8]) -> io::Result<()> {
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600).custom_flags(no_follow);
    let mut file = options.open(path)?;
    let before = file.metadata()?.len();
    let written = gap(&file, before)
        .and_then(|gap| file.write_all(gap))
        .and_then(|()| file.write_all(text))
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_name(path));
    if written.is_err() {
        // Half a message would pass for a whole one; if this fails too, the next one is kept apart from it.
        let _ = file.set_len(before);
    }
    written
}

/// What keeps the next message apart from a last one that was cut short.
fn gap(file: &File, length: u64) -> io::Result<&'static [u8]> {
    let mut end = [b'\n'; 2];
    if length >= 2 {
        file.read_exact_at(&mut end, length - 2)?;
    }
    Ok(if end == *b"\n\n" { b"" } else { b"\n\n" })
}

/// A new file is there after a power cut only when its directory is synced.
fn sync_name(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_keeps_its_messages_apart() {
        let text = mailbox_form(b"Subject: x\r\n\r\nFrom here\r\nend", "Sun Nov 22 05:36:42 2026");
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "From MAILER-DAEMON Sun Nov 22 05:36:42 2026\nSubject: x\n\n>From here\nend\n\n"
        );
    }

    #[test]
    fn a_message_that_was_cut_short_stays_apart() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("drop");
        append(&file, b"From a\n\nbody\n\n").unwrap();
        append(&file, b"From b\n\nhal").unwrap();
        append(&file, b"From c\n\nbody\n\n").unwrap();
        let kept = std::fs::read_to_string(&file).unwrap();
        assert_eq!(kept, "From a\n\nbody\n\nFrom b\n\nhal\n\nFrom c\n\nbody\n\n");
    }

    #[test]
    fn a_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("drop"), directory.path().join("link"));
        append(&file, b"one\n\n").unwrap();
        append(&file, b"two\n\n").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"one\n\ntwo\n\n");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(append(&link, b"three\n").is_err());
    }
}
