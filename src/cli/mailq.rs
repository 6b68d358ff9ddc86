//! `mailq`: the listing of the queue, in sendmail's columns.
//!
//! Monitoring parses this text, so every column is where sendmail 8.17 has it. The listing streams: a heading with
//! the count, one block of lines for each message, a last line. Addresses stand without angle brackets; the null
//! reverse-path stands as MAILER-DAEMON. A lost message (`?`) is one whose record cannot be read: its row has what its queue ID
//! tells, no sender, and why. sendmail shows its own (Qf files) with -qL alone; here they stand in a plain listing as well,
//! as somebody has to know of them. The one line that sendmail does not have says how many recipients a list
//! has that is too long to be read with its message.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use jiff::tz::TimeZone;

use crate::mail::address::ReversePath;
use crate::mail::envelope::{BodyType, Recipient, RecipientState};
use crate::mail::job::Entry;
use crate::mail::time::Timestamp;

/// Octets collected before they are written: large enough that the system call costs nothing beside the text.
const BUFFER: usize = 64 * 1024;

/// What stands above the rows.
pub struct Heading<'a> {
    /// The QueueDirectory.
    pub directory: &'a Path,
    /// How many messages there are.
    pub requests: u64,
    /// How many of them are printed, when MaxQueueRunSize cuts.
    pub printed: Option<u64>,
}

/// How the rows are seen.
#[derive(Clone, Debug)]
pub struct View {
    /// -v: rows have the priority and each recipient its own status.
    pub verbose: bool,
    /// The zone of the times.
    pub zone: TimeZone,
    /// For [`View::min_queue_age`].
    pub now: Timestamp,
    /// MinQueueAge: messages tried less than this ago are marked `-`, as a run now would pass them over. None marks none.
    pub min_queue_age: Option<Duration>,
    /// RetryFactor
    pub retry_factor: i64,
    /// Messages with a higher priority wait for the load to fall, and are marked `X`.
    pub priority_max: Option<i64>,
}

/// A listing being written.
pub struct Listing<W: Write> {
    out: BufWriter<W>,
    view: View,
    requests: u64,
    /// The minute that `date` is the ctime of: rows of one minute format it once.
    minute: Option<u64>,
    date: String,
    line: Vec<u8>,
}

/// Columns that are cut, in characters: plain and with -v.
struct Cut {
    sender: usize,
    recipient: usize,
    text: usize,
}

const PLAIN: Cut = Cut { sender: 39, recipient: 38, text: 60 };
const VERBOSE: Cut = Cut { sender: 78, recipient: 71, text: 100 };

impl<W: Write> Listing<W> {
    /// Writes the heading to `out`.
    ///
    /// # Errors
    /// What `out` says.
    pub fn begin(out: W, view: View, heading: &Heading<'_>) -> io::Result<Listing<W>> {
        let mut out = BufWriter::with_capacity(BUFFER, out);
        let Heading { directory, requests, printed } = heading;
        if *requests == 0 {
            writeln!(out, "{} is empty", directory.display())?;
        } else {
            let plural = if *requests == 1 { "" } else { "s" };
            write!(out, "\t\t{} ({requests} request{plural}", directory.display())?;
            if let Some(printed) = printed.filter(|printed| printed < requests) {
                write!(out, ", only {printed} printed")?;
            }
            let columns = if view.verbose {
                "-----Q-ID----- --Size-- -Priority- ---Q-Time--- --------Sender/Recipient--------"
            } else {
                "-----Q-ID----- --Size-- -----Q-Time----- ------------Sender/Recipient-----------"
            };
            writeln!(out, ")\n{columns}")?;
        }
        let (minute, date, line) = (None, String::new(), Vec::new());
        Ok(Listing { out, view, requests: *requests, minute, date, line })
    }

    /// Writes one message: its row, why it is held, its status, its open recipients.
    ///
    /// # Errors
    /// What the output says.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        let cut = if self.view.verbose { VERBOSE } else { PLAIN };
        self.line.clear();
        self.row(entry, &cut)?;
        self.trouble(entry, &cut);
        if entry.jobs.is_empty() && entry.recipients_total > 0 {
            writeln!(self.line, "\t\t\t\t\t ({} recipients)", entry.recipients_total)?;
        }
        for recipient in entry.open_recipients() {
            self.recipient(recipient, &cut);
        }
        self.out.write_all(&self.line)
    }

    /// Writes the last line and everything collected.
    ///
    /// # Errors
    /// What the output says.
    pub fn end(mut self) -> io::Result<()> {
        writeln!(self.out, "\t\tTotal requests: {}", self.requests)?;
        self.out.flush()
    }

    /// `6AM6KPaP020579*      31 Sun Nov 22 06:20 root@lab.example.com`
    fn row(&mut self, entry: &Entry, cut: &Cut) -> io::Result<()> {
        let envelope = &entry.envelope;
        self.set_date(envelope.arrival);
        let priority = entry.priority(self.view.retry_factor);
        let line = &mut self.line;
        write!(line, "{}", entry.id)?;
        line.push(match () {
            () if entry.lost => b'?',
            () if entry.in_flight => b'*',
            () if is_young(&self.view, entry) => b'-',
            () if self.view.priority_max.is_some_and(|max| priority > max) => b'X',
            () => b' ',
        });
        push_number(line, i128::from(envelope.body_file_len()), 8);
        line.push(b' ');
        if self.view.verbose {
            push_number(line, i128::from(priority), 10);
            line.push(if entry.warned { b'+' } else { b' ' });
            line.extend_from_slice(self.date.get(4..16).unwrap_or_default().as_bytes());
        } else {
            line.extend_from_slice(self.date.get(..16).unwrap_or_default().as_bytes());
        }
        line.push(b' ');
        let sender = match &envelope.reverse_path {
            // It is not known.
            _ if entry.lost => "",
            ReversePath::Null => "MAILER-DAEMON",
            ReversePath::Mailbox(address) => address.as_str(),
        };
        line.extend_from_slice(shortened(sender, cut.sender).as_bytes());
        line.push(b'\n');
        Ok(())
    }

    /// Why it is held, body type and status: lines that stand only when there is something to say.
    fn trouble(&mut self, entry: &Entry, cut: &Cut) {
        let line = &mut self.line;
        let lost = entry.held.as_deref().filter(|_| entry.lost);
        if let Some(reason) = entry.held.as_deref().filter(|_| !entry.lost) {
            line.extend_from_slice(b"     QUARANTINE: ");
            line.extend_from_slice(shortened(reason, cut.text).as_bytes());
            line.push(b'\n');
        }
        let body_type: &[u8] = match entry.envelope.body_type {
            BodyType::SevenBit => b"          ",
            BodyType::EightBitMime | BodyType::EightBit => b"  8BITMIME",
        };
        let status = lost.or_else(|| entry.status());
        if status.is_some() || entry.envelope.body_type != BodyType::SevenBit {
            line.extend_from_slice(b"    ");
            line.extend_from_slice(body_type);
            if let Some(status) = status {
                line.extend_from_slice(b"   (");
                line.extend_from_slice(shortened(status, cut.text).as_bytes());
                line.push(b')');
            }
            line.push(b'\n');
        }
    }

    fn recipient(&mut self, recipient: &Recipient, cut: &Cut) {
        let line = &mut self.line;
        line.extend_from_slice(if self.view.verbose { b"\t\t\t\t\t\t" } else { b"\t\t\t\t\t " });
        line.extend_from_slice(shortened(recipient.address.as_str(), cut.recipient).as_bytes());
        line.push(b'\n');
        if let (true, RecipientState::Open(Some(report))) = (self.view.verbose, &recipient.state) {
            line.extend_from_slice(b"\t\t (Deferred: ");
            let room = cut.text.saturating_sub("Deferred: ".len());
            line.extend_from_slice(shortened(&report.text, room).as_bytes());
            line.extend_from_slice(b")\n");
        }
    }

    /// Zones differ from UTC by whole minutes in all times that mail has, so a minute has one text.
    fn set_date(&mut self, time: Timestamp) {
        let minute = time.as_secs() / 60;
        if self.minute != Some(minute) {
            self.date = time.ctime(&self.view.zone);
            self.minute = Some(minute);
        }
    }
}

/// Whether every open job of it was tried less than MinQueueAge ago.
fn is_young(view: &View, entry: &Entry) -> bool {
    let Some(age) = view.min_queue_age.filter(|age| !age.is_zero()) else { return false };
    let mut open =
        entry.jobs.iter().filter(|job| job.recipients.iter().any(|r| r.state.is_open())).peekable();
    open.peek().is_some()
        && open.all(|job| {
            job.attempts > 0 && job.last_attempt.is_some_and(|at| view.now < at.after(age))
        })
}

/// The first `width` characters.
fn shortened(text: &str, width: usize) -> &str {
    if text.len() <= width {
        return text;
    }
    text.char_indices().nth(width).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

/// `number` at the right end of `width` columns: the formatting machinery costs more than the rest of the row.
fn push_number(line: &mut Vec<u8>, number: i128, width: usize) {
    let mut digits = [b' '; 40];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    while let Some(place) = at.checked_sub(1).and_then(|before| digits.get_mut(before)) {
        *place = b'0' + (rest % 10) as u8;
        rest /= 10;
        at -= 1;
        if rest == 0 {
            break;
        }
    }
    let sign = usize::from(number < 0);
    let pad = width.saturating_sub(digits.len() - at + sign);
    line.extend(std::iter::repeat_n(b' ', pad));
    line.extend_from_slice(if number < 0 { b"-" } else { b"" });
    line.extend_from_slice(digits.get(at..).unwrap_or_default());
}

#[cfg(test)]
mod tests;
