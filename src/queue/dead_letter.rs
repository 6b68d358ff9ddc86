//! DeadLetterDrop: where a report ends that went to the postmaster and could not be delivered either.
//!
//! The report is read before it is settled, because the settle removes it, and added to the file afterwards, because only then it is
//! known that nobody was told. A crash between the two leaves the log line of the failed attempt and no copy in the file.
//! The file is never created through a symbolic link, and belongs to the daemon alone.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::House;
use crate::mail::job::Job;
use crate::mail::queue_id::QueueId;
use crate::store::StoreError;

/// Octets of one report at most: ours are an original of at most 1 MiB (BounceSizeLimit), and what is written around it.
const LETTER_MAX: usize = 2 << 20;

/// A report that may have to be saved.
pub(super) struct DeadLetter {
    id: QueueId,
    path: PathBuf,
    bytes: Vec<u8>,
}

/// The message of `job`, if it is a report of ours and there is a place for dead letters.
///
/// # Errors
/// As `Store::read_body`.
pub(super) async fn of(house: &House, job: &Job) -> Result<Option<DeadLetter>, StoreError> {
    let Some(path) = house.config.dead_letter_drop.clone().filter(|_| job.envelope.is_report())
    else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    while bytes.len() < LETTER_MAX {
        let piece = house.store.read_body(&job.body, bytes.len() as u64).await?;
        if piece.is_empty() {
            break;
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Some(DeadLetter { id: job.id.queue_id, path, bytes }))
}

impl DeadLetter {
    /// Adds it to the file. What hinders that is logged: then the report is lost.
    pub(super) async fn save(&self, house: &House) {
        let date = house.world.clock.now().ctime(&house.config.time_zone);
        let (path, text) = (self.path.clone(), mailbox_form(&self.bytes, &date));
        let saved = tokio::task::spawn_blocking(move || append(&path, &text)).await;
        let shown = self.path.display();
        match saved.map_err(io::Error::other).and_then(|saved| saved) {
            Ok(()) => house.maillog.saved_dead_letter(self.id, &shown.to_string()),
            Err(error) => {
                let text = format!("cannot save rejected email anywhere: {shown}: {error}");
                house.maillog.error(Some(self.id), &text);
            }
        }
    }
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
    options.append(true).create(true).mode(0o600).custom_flags(no_follow);
    let mut file = options.open(path)?;
    file.write_all(text)?;
    file.sync_all()
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
    fn a_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("drop"), directory.path().join("link"));
        append(&file, b"one\n").unwrap();
        append(&file, b"two\n").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"one\ntwo\n");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(append(&link, b"three\n").is_err());
    }
}
