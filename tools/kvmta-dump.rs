//! kvmta-dump: the way back to sendmail, and a second opinion on a queue.
//!
//! `kvmta-dump [-oQQUEUE] DIR` writes every message of a queue into DIR as sendmail's spool files (see
//! [`kvmta::cli::spool`]). Each pair is on the platter before the next is begun, body first, and the control file
//! appears under its name only when it is whole: whatever a crash leaves in DIR, sendmail delivers no half message.
//! An existing file is never replaced. The queue itself is only read.
//!
//! Both ask whoever holds the queue: the daemon, or this program itself when none runs. So a dump of a busy queue may miss
//! what came meanwhile and hold what has gone.
//!
//! `kvmta-dump --check [-oQQUEUE]` verifies the store's invariants, and of a queue without a daemon also reads everything
//! from outside, as a mailq and a delivery would; it prints what does not fit together, one line each. Exit 0:
//! nothing found; 65: something was; else see sysexits(3).

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use kvmta::cli::ask::{self, Connected};
use kvmta::cli::spool::{self, BodyLines, Progress};
use kvmta::config::Config;
use kvmta::config::locate::{Facts, locate};
use kvmta::config::raw::Setting;
use kvmta::control::client::{self, Asked};
use kvmta::control::proto::{Answer, Request};
use kvmta::mail::job::{Entry, EntryJob, JOB_RECIPIENTS_MAX};
use kvmta::mail::queue_id::QueueId;
use kvmta::maillog::Maillog;
use kvmta::store::StoreError;

/// Messages listed at a time: a snapshot is held no longer than it takes to copy them.
const PAGE: usize = 500;
/// Jobs of a long list read at a time, each of up to a thousand recipients.
const JOBS_PAGE: usize = 8;

/// Write a kvmta queue as sendmail's spool files, or check it.
#[derive(Parser)]
#[command(name = "kvmta-dump", version)]
struct Args {
    /// Look for what does not fit together instead of writing files.
    #[arg(long, conflicts_with = "directory")]
    check: bool,
    /// `QDIR`: the queue directory [default: as kvmta's].
    #[arg(short = 'o', value_name = "QDIR", value_parser = queue_option)]
    queue: Option<PathBuf>,
    /// Where to write qf and df files: a directory that sendmail will be shown with its own -oQ.
    #[arg(required_unless_present = "check")]
    directory: Option<PathBuf>,
}

/// The value of `-oQ/dir`, as on sendmail's command line.
fn queue_option(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix('Q') {
        Some(dir) if !dir.is_empty() => Ok(dir.into()),
        _ => Err("only -oQ with a directory is known here".into()),
    }
}

/// Why a dump or a check came to no end. Each is a line for the operator.
#[derive(Debug, thiserror::Error)]
enum DumpError {
    /// The queue could not be read.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A file could not be written.
    #[error("cannot write {path}: {source}; what was written before it is complete")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No runtime or thread.
    #[error("cannot start: {0}")]
    Start(io::Error),
}

impl DumpError {
    /// Of sysexits(3).
    fn exit_code(&self) -> u8 {
        match self {
            DumpError::Store(StoreError::Missing(_)) => 66,
            DumpError::Store(StoreError::Newer { .. } | StoreError::Damaged { .. }) => 65,
            DumpError::Store(_) => 75,
            DumpError::Write { .. } => 73,
            DumpError::Start(_) => 71,
        }
    }
}

/// A queue that can be read from end to end: a store nobody has open, or a running daemon's.
trait Queue {
    /// Up to `limit` messages in order after `after`.
    fn list(&mut self, after: Option<QueueId>, limit: usize) -> Result<Vec<Entry>, StoreError>;
    /// Jobs of a message with a long list, up to `limit` after `after`.
    fn jobs(
        &mut self,
        id: QueueId,
        after: Option<u32>,
        limit: usize,
    ) -> Result<Vec<EntryJob>, StoreError>;
    /// The next octets of a message from `offset`; empty at its end.
    fn bytes(&mut self, entry: &Entry, offset: u64) -> Result<Vec<u8>, StoreError>;
    /// Messages, messages held and octets, as counted by the store itself.
    fn counts(&mut self) -> Result<(u64, u64, u64), StoreError>;
}

/// Whoever holds the queue: the daemon, or this program for as long as it reads.
struct Holder {
    asked: Asked,
}

impl Holder {
    /// Reads the rest of the answers to a request.
    fn rest(&mut self) -> Result<(), StoreError> {
        loop {
            match self.asked.answer() {
                Ok(Answer::Failed { text, .. }) => return Err(StoreError::Unavailable(text)),
                Ok(answer) if answer.is_last() => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(StoreError::Unavailable(error.to_string())),
            }
        }
    }

    /// One request with one answer.
    fn ask(&mut self, request: &Request) -> Result<Answer, StoreError> {
        let lost = |error: io::Error| StoreError::Unavailable(error.to_string());
        self.asked.ask(request).map_err(lost)?;
        let mut given = None;
        loop {
            match self.asked.answer().map_err(lost)? {
                Answer::Done { .. } => {
                    let nothing = || StoreError::Unavailable("no answer".into());
                    return given.ok_or_else(nothing);
                }
                Answer::Failed { text, .. } => return Err(StoreError::Unavailable(text)),
                answer => given = Some(answer),
            }
        }
    }
}

fn unexpected<T>(answer: &Answer) -> Result<T, StoreError> {
    Err(StoreError::Unavailable(format!("unexpected answer {answer:?}")))
}

impl Queue for Holder {
    fn list(&mut self, after: Option<QueueId>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        match self.ask(&Request::Page { after, limit: limit as u32 })? {
            Answer::Entries(entries) => Ok(entries),
            other => unexpected(&other),
        }
    }

    fn jobs(
        &mut self,
        id: QueueId,
        after: Option<u32>,
        limit: usize,
    ) -> Result<Vec<EntryJob>, StoreError> {
        match self.ask(&Request::Jobs { id, after, limit: limit as u32 })? {
            Answer::Jobs(jobs) => Ok(jobs),
            other => unexpected(&other),
        }
    }

    fn bytes(&mut self, entry: &Entry, offset: u64) -> Result<Vec<u8>, StoreError> {
        match self.ask(&Request::Bytes { body: entry.body.clone(), offset })? {
            Answer::Bytes(bytes) => Ok(bytes),
            other => unexpected(&other),
        }
    }

    fn counts(&mut self) -> Result<(u64, u64, u64), StoreError> {
        match self.ask(&Request::Count)? {
            Answer::Counts(counts) => Ok((counts.messages, counts.held, counts.octets)),
            other => unexpected(&other),
        }
    }
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version come this way too; if even printing fails there is nobody left to tell.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    match run(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kvmta-dump: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(args: Args) -> Result<ExitCode, DumpError> {
    let config = Arc::new(config(args.queue)?);
    let log = |_| Maillog::discard();
    let Connected { stream, held } = ask::connect(&config, &log)
        .map_err(|unanswered| StoreError::Unavailable(unanswered.text))?;
    let asked = client::ask(stream, &Request::Count).map_err(DumpError::Start)?;
    let mut queue = Holder { asked };
    queue.rest()?;
    let result = match &args.directory {
        Some(directory) => dump(&mut queue, directory).map(|count| {
            eprintln!("kvmta-dump: {count} messages written to {}", directory.display());
            ExitCode::SUCCESS
        }),
        None => checked(&mut queue, held.is_some()),
    };
    drop(queue);
    if let Some(held) = held {
        held.end()?;
    }
    result
}

/// The configuration of the queue: where it is, and nothing else of it matters here.
fn config(queue: Option<PathBuf>) -> Result<Config, DumpError> {
    let options: Vec<Setting> = queue
        .map(|directory| Setting { name: "Q".into(), value: directory.to_string_lossy().into() })
        .into_iter()
        .collect();
    let location = locate(None, &options, &Facts::of_this_process())
        .map_err(|error| StoreError::Unavailable(error.to_string()))?;
    Ok(Config { queue_directory: location.queue_directory, ..Config::default() })
}

/// The store's own check of its invariants; of a queue at rest also what a reader sees from outside.
fn checked(queue: &mut Holder, at_rest: bool) -> Result<ExitCode, DumpError> {
    let lost = |error: io::Error| StoreError::Unavailable(error.to_string());
    let mut found = 0;
    queue.asked.ask(&Request::Check).map_err(lost)?;
    loop {
        match queue.asked.answer().map_err(lost)? {
            Answer::Broken(text) => {
                found += 1;
                println!("{text}");
            }
            Answer::Done { .. } => break,
            Answer::Failed { text, .. } => return Err(StoreError::Unavailable(text).into()),
            other => return Ok(unexpected(&other)?),
        }
    }
    if at_rest {
        found += check(queue, &mut |line| println!("{line}"))?;
    }
    Ok(ExitCode::from(if found == 0 { 0 } else { 65 }))
}

/// Calls `visit` with every message in order.
fn for_each<E: From<StoreError>>(
    queue: &mut impl Queue,
    mut visit: impl FnMut(&mut dyn Queue, &Entry) -> Result<(), E>,
) -> Result<u64, E> {
    let (mut after, mut count) = (None, 0);
    loop {
        let page = queue.list(after, PAGE)?;
        let Some(last) = page.last() else {
            return Ok(count);
        };
        after = Some(last.id);
        for entry in &page {
            visit(queue, entry)?;
            count += 1;
        }
    }
}

/// Calls `visit` with every job of a message, those of a long list page by page.
fn for_each_job<E: From<StoreError>>(
    queue: &mut dyn Queue,
    entry: &Entry,
    mut visit: impl FnMut(&EntryJob) -> Result<(), E>,
) -> Result<(), E> {
    if !entry.jobs.is_empty() {
        return entry.jobs.iter().try_for_each(visit);
    }
    let mut after = None;
    loop {
        let page = queue.jobs(entry.id, after, JOBS_PAGE)?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(last.number);
        page.iter().try_for_each(&mut visit)?;
    }
}

// --- dump ------------------------------------------------------------------------------------------------------------

/// Writes the whole queue into `directory` and returns how many messages that were.
fn dump(queue: &mut impl Queue, directory: &Path) -> Result<u64, DumpError> {
    let handle = File::open(directory).map_err(write_error(directory))?;
    let count = for_each(queue, |queue, entry| dump_message(queue, entry, directory))?;
    handle.sync_all().map_err(write_error(directory))?;
    Ok(count)
}

/// Body, then control file under the name sendmail gives an unfinished one, then its real name.
fn dump_message(queue: &mut dyn Queue, entry: &Entry, directory: &Path) -> Result<(), DumpError> {
    let body_path = directory.join(spool::body_name(entry));
    let body = create(&body_path)?;
    let header = copy_body(queue, entry, body, &body_path)?;

    let mut progress = Progress::default();
    for_each_job::<DumpError>(queue, entry, |job| {
        progress.add(job);
        Ok(())
    })?;
    let path = directory.join(spool::control_name(entry));
    if path.exists() {
        return Err(write_error(&path)(io::ErrorKind::AlreadyExists.into()));
    }
    let unfinished = directory.join(format!("tf{}", entry.id));
    let fail = write_error(&unfinished);
    let mut out = create(&unfinished)?;
    spool::write_envelope(&mut out, entry, &progress).map_err(&fail)?;
    for_each_job(queue, entry, |job| {
        spool::write_recipients(&mut out, &entry.envelope, job).map(|_| ()).map_err(&fail)
    })?;
    spool::write_header(&mut out, &header).map_err(&fail)?;
    finish(out).map_err(&fail)?;
    std::fs::rename(&unfinished, &path).map_err(write_error(&path))
}

/// Copies the message's body to `out` and returns its header, which comes before it.
fn copy_body(
    queue: &mut dyn Queue,
    entry: &Entry,
    mut out: BufWriter<File>,
    path: &Path,
) -> Result<Vec<u8>, DumpError> {
    let fail = write_error(path);
    let (mut header, mut lines, mut offset) = (Vec::new(), BodyLines::default(), 0);
    loop {
        let piece = queue.bytes(entry, offset)?;
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
    lines.end(&mut out).map_err(&fail)?;
    finish(out).map_err(&fail)?;
    Ok(header)
}

/// A new file that only its owner reads; sendmail refuses others.
fn create(path: &Path) -> Result<BufWriter<File>, DumpError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    Ok(BufWriter::new(file.map_err(write_error(path))?))
}

fn finish(out: BufWriter<File>) -> io::Result<()> {
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

fn write_error(path: &Path) -> impl Fn(io::Error) -> DumpError {
    let path = path.to_owned();
    move |source| DumpError::Write { path: path.clone(), source }
}

// --- check -----------------------------------------------------------------------------------------------------------

/// Reads every message to its last octet and says what does not fit together. Returns how many lines that were.
fn check(queue: &mut impl Queue, say: &mut dyn FnMut(String)) -> Result<u64, DumpError> {
    let (mut found, mut last, mut held, mut octets) = (0, None, 0, 0);
    let messages = for_each(queue, |queue, entry| {
        let mut wrong = |text: String| {
            found += 1;
            say(format!("{}: {text}", entry.id));
        };
        if last >= Some(entry.id) {
            wrong("listed after a later message, or twice".into());
        }
        last = Some(entry.id);
        held += u64::from(entry.held.is_some());
        octets += entry.envelope.size;
        check_message(queue, entry, &mut wrong)
    })?;
    let counted = queue.counts()?;
    if counted != (messages, held, octets) {
        found += 1;
        say(format!(
            "counts: {messages} messages, {held} held, {octets} octets are there; {}, {} and {} are counted",
            counted.0, counted.1, counted.2
        ));
    }
    Ok(found)
}

fn check_message(
    queue: &mut dyn Queue,
    entry: &Entry,
    wrong: &mut dyn FnMut(String),
) -> Result<(), DumpError> {
    let envelope = &entry.envelope;
    if envelope.header_len > envelope.size {
        wrong(format!("header of {} octets in {}", envelope.header_len, envelope.size));
    }
    let mut offset = 0;
    loop {
        match queue.bytes(entry, offset) {
            Ok(piece) if piece.is_empty() => break,
            Ok(piece) => offset += piece.len() as u64,
            Err(StoreError::Damaged { what, detail }) => {
                wrong(format!("{what}: {detail}"));
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    if offset != envelope.size {
        wrong(format!("{offset} octets are stored, the envelope says {}", envelope.size));
    }
    let (mut recipients, mut owed, mut number) = (0u64, 0u64, None);
    for_each_job::<DumpError>(queue, entry, |job| {
        if number >= Some(job.number) {
            wrong(format!("job {} is listed after a later one, or twice", job.number));
        }
        number = Some(job.number);
        if job.recipients.is_empty() || job.recipients.len() > JOB_RECIPIENTS_MAX {
            wrong(format!("job {} has {} recipients", job.number, job.recipients.len()));
        }
        recipients += job.recipients.len() as u64;
        owed += job.recipients.iter().filter(|r| is_owed(r)).count() as u64;
        Ok(())
    })?;
    if recipients != u64::from(entry.recipients_total) {
        wrong(format!("{recipients} recipients are there, {} are counted", entry.recipients_total));
    }
    if owed == 0 {
        wrong("kept, though no recipient is open and no report is owed".into());
    }
    Ok(())
}

/// Whether something is still to be done for this recipient: a delivery or a report.
fn is_owed(recipient: &kvmta::mail::envelope::Recipient) -> bool {
    use kvmta::mail::envelope::RecipientState::{Done, Failed, Open};
    match recipient.state {
        Open(_) => true,
        Done { reported, .. } | Failed { reported, .. } => !reported,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use kvmta::mail::address::ReversePath;
    use kvmta::mail::envelope::{
        BodyType, Envelope, Notify, Recipient, RecipientState, TimeoutClass,
    };
    use kvmta::mail::job::{BodyRef, Destination, Mailer};
    use kvmta::mail::time::Timestamp;

    use super::*;

    const HEADER: &[u8] = b"Subject: x\r\n\r\n";
    const BODY: &[u8] = b"one\r\n.\r\nthree\r\n";

    /// A queue in memory whose bytes come in pieces that cut header, body and CRLF.
    struct Memory {
        entries: Vec<Entry>,
        jobs: Vec<EntryJob>,
        bytes: Vec<u8>,
        counted: (u64, u64, u64),
    }

    impl Queue for Memory {
        fn list(&mut self, after: Option<QueueId>, _: usize) -> Result<Vec<Entry>, StoreError> {
            let place = after
                .map_or(0, |id| 1 + self.entries.iter().rposition(|entry| entry.id == id).unwrap());
            Ok(self.entries.get(place).cloned().into_iter().collect())
        }

        fn jobs(
            &mut self,
            _: QueueId,
            after: Option<u32>,
            _: usize,
        ) -> Result<Vec<EntryJob>, StoreError> {
            Ok(self.jobs.iter().find(|job| Some(job.number) > after).cloned().into_iter().collect())
        }

        fn bytes(&mut self, _: &Entry, offset: u64) -> Result<Vec<u8>, StoreError> {
            let rest = &self.bytes[(offset as usize).min(self.bytes.len())..];
            Ok(rest[..rest.len().min(9)].to_vec())
        }

        fn counts(&mut self) -> Result<(u64, u64, u64), StoreError> {
            Ok(self.counted)
        }
    }

    fn job(number: u32) -> EntryJob {
        EntryJob {
            number,
            destination: Destination { mailer: Mailer::Esmtp, next_hop: "x.example".into() },
            due: Timestamp::ZERO,
            attempts: 1,
            last_attempt: Some(Timestamp::from_secs(1_795_328_430 + u64::from(number))),
            status: None,
            recipients: vec![Recipient {
                address: format!("r{number}@x.example").parse().unwrap(),
                orcpt: None,
                notify: Notify::Unspecified,
                state: RecipientState::Open(None),
            }],
        }
    }

    fn entry(at: u64, jobs: Vec<EntryJob>, recipients_total: u32) -> Entry {
        let id = QueueId::at(Timestamp::from_secs(at));
        let envelope = Envelope {
            reverse_path: ReversePath::Mailbox("a@b.example".parse().unwrap()),
            arrival: Timestamp::from_secs(at),
            relay: String::new(),
            protocol: "ESMTP".into(),
            body_type: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            timeouts: TimeoutClass::Normal,
            precedence: 0,
            priority: 30_000,
            message_id: String::new(),
            header_len: HEADER.len() as u64,
            size: (HEADER.len() + BODY.len()) as u64,
            body_lines: 0,
            relay_override: None,
        };
        let body = BodyRef::Incoming(id);
        Entry {
            id,
            envelope,
            held: None,
            warned: false,
            body,
            jobs,
            recipients_total,
            in_flight: false,
        }
    }

    /// A short message and one with a long list.
    fn queue() -> Memory {
        let entries =
            vec![entry(1_795_328_425, vec![job(0)], 1), entry(1_795_328_426, Vec::new(), 3)];
        let octets = 2 * (HEADER.len() + BODY.len()) as u64;
        Memory {
            entries,
            jobs: vec![job(0), job(1), job(2)],
            bytes: [HEADER, BODY].concat(),
            counted: (2, 0, octets),
        }
    }

    fn findings(queue: &mut Memory) -> Vec<String> {
        let mut lines = Vec::new();
        let found = check(queue, &mut |line| lines.push(line)).unwrap();
        assert_eq!(found, lines.len() as u64);
        lines
    }

    #[test]
    fn writes_pairs_that_only_the_owner_reads() {
        let directory = tempfile::tempdir().unwrap();
        let mut queue = queue();
        assert_eq!(dump(&mut queue, directory.path()).unwrap(), 2);
        let mut names: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|file| file.unwrap())
            .inspect(|f| assert_eq!(f.metadata().unwrap().permissions().mode() & 0o777, 0o600))
            .map(|file| file.file_name().into_string().unwrap())
            .collect();
        names.sort();
        let ids: Vec<_> = queue.entries.iter().map(|entry| entry.id.to_string()).collect();
        let expected =
            ["df", "qf"].iter().flat_map(|kind| ids.iter().map(move |id| format!("{kind}{id}")));
        assert_eq!(names, expected.collect::<Vec<_>>());
        let read = |name: String| std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!(read(format!("df{}", ids[1])), "one\n.\nthree\n");
        let control = std::fs::read(directory.path().join(format!("qf{}", ids[1]))).unwrap();
        let control = String::from_utf8_lossy(&control);
        assert!(control.contains("\nK1795328432\nN1\n") && control.ends_with("H??Subject: x\n.\n"));
        assert_eq!(control.matches("\nRPFD:<r").count(), 3);
    }

    #[test]
    fn replaces_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(spool::control_name(&queue().entries[0]));
        std::fs::write(&path, "precious").unwrap();
        let error = dump(&mut queue(), directory.path()).unwrap_err();
        assert!(matches!(error, DumpError::Write { .. }) && error.exit_code() == 73);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn finds_what_is_broken_and_nothing_else() {
        assert_eq!(findings(&mut queue()), [""; 0]);
        type Damage = fn(&mut Memory);
        let breaks: [(&str, Damage); 7] = [
            ("octets are stored", |q| q.bytes.truncate(9)),
            ("header of", |q| q.entries[0].envelope.header_len = 1000),
            ("are counted", |q| q.counted.0 = 3),
            ("recipients are there", |q| q.jobs.truncate(2)),
            ("has 0 recipients", |q| q.entries[0].jobs[0].recipients.clear()),
            ("listed after a later message", |q| q.entries.swap(0, 1)),
            ("no report is owed", |q| {
                let report = kvmta::mail::outcome::Report {
                    status: kvmta::mail::status::EnhancedStatus::new(5, 1, 1),
                    text: String::new(),
                    reply: None,
                    command: None,
                    remote: None,
                    at: Timestamp::ZERO,
                };
                q.entries[0].jobs[0].recipients[0].state =
                    RecipientState::Failed { report: Box::new(report), reported: true };
            }),
        ];
        for (expected, damage) in breaks {
            let mut queue = queue();
            damage(&mut queue);
            let lines = findings(&mut queue);
            assert!(lines.iter().any(|line| line.contains(expected)), "{expected}: {lines:?}");
        }
    }
}
