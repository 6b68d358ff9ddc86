//! kvmta-dump: the way back to sendmail, a copy of a queue, and a second opinion on it.
//!
//! `kvmta-dump [-oQQUEUE] DIR` writes every message of a queue into DIR as sendmail's spool files (see
//! [`kvmta::cli::spool`]). Each pair is on the platter before the next is begun, body first, and the control file
//! appears under its name only when it is whole: whatever a crash leaves in DIR, sendmail delivers no half message.
//! An existing file is never replaced. The queue itself is only read. `--format mbox` and `--format eml` write messages for other
//! programs.
//!
//! `kvmta-dump --backup DIR` makes DIR a copy of the store as it is at one instant, beside a running daemon
//! ([`kvmta::store::backup`]); `kvmta-load --restore` makes a queue of it.
//!
//! All ask whoever holds the queue: the daemon, or this program itself when none runs. A dump of a busy queue may miss
//! what came meanwhile and hold what has gone; a backup is of one instant. A message that cannot be read is named, and the
//! others are written.
//!
//! `kvmta-dump --check [-oQQUEUE]` verifies the store's invariants, and of a queue without a daemon also reads everything
//! from outside, as a mailq and a delivery would; it prints what does not fit together, one line each. Exit 0:
//! nothing found; 65: something was; else see sysexits(3).

mod dump {
    pub mod backup;
    pub mod check;
    pub mod files;
    pub mod progress;
    pub mod queue;
    pub mod single;
}

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use dump::check::checked;
use dump::files::{Target, Written, create, dump_message, finish, write_error};
use dump::progress::Progress;
use dump::queue::{DumpError, Holder, Queue, for_each, for_each_job, is_there};
use dump::{backup, single};
use kvmta::cli::ask::{self, Connected, Unanswered};
use kvmta::config::Config;
use kvmta::config::locate::{Facts, locate};
use kvmta::config::raw::Setting;
use kvmta::control::client;
use kvmta::control::proto::Request;
use kvmta::mail::job::Entry;
use kvmta::mail::selection::{Field, Selection, Term};
use kvmta::maillog::Maillog;
use kvmta::store::StoreError;

const EXAMPLES: &str = "\
Examples:
  mkdir -m 700 /var/spool/mqueue.kvmta && kvmta-dump /var/spool/mqueue.kvmta
  kvmta-dump --format mbox -qRexample.com /tmp/held-up.mbox
  kvmta-dump --format eml /tmp/messages
  kvmta-dump --backup /backup/monday
  kvmta-dump --check
";

/// Write a kvmta queue as sendmail's spool files, mbox or eml; copy it; or check it.
#[derive(Parser)]
#[command(name = "kvmta-dump", version, after_help = EXAMPLES)]
struct Args {
    /// Look for what does not fit together instead of writing files.
    #[arg(long, conflicts_with_all = ["target", "backup", "selection"])]
    check: bool,
    /// Copy the store as it is at this instant into an empty or new directory.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["target", "selection"])]
    backup: Option<PathBuf>,
    /// The queue directory behind a Q, as for sendmail: -oQ/var/spool/kvmta [default: as kvmta's].
    #[arg(short = 'o', value_name = "QDIR", value_parser = queue_option)]
    queue: Option<PathBuf>,
    /// What to write.
    #[arg(long, value_enum, default_value = "spool")]
    format: Format,
    /// `[!]Isub`, `[!]Rsub`, `[!]Ssub`, `[!]Qsub`: only messages whose queue ID, recipient, sender or reason contains it, as mailq has them.
    #[arg(short = 'q', value_name = "[!]Xsub", value_parser = term)]
    selection: Vec<Term>,
    /// Where to write: a directory, for spool files one that sendmail will be shown with its own -oQ; for mbox a new file.
    #[arg(value_name = "DIR|FILE", required_unless_present_any = ["check", "backup"])]
    target: Option<PathBuf>,
}

/// What becomes of a message.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// sendmail's control and body files, version 8
    Spool,
    /// one file, quoted as mboxrd
    Mbox,
    /// ID.eml for each
    Eml,
}

/// The value of `-oQ/dir`, as on sendmail's command line.
fn queue_option(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix('Q') {
        Some(dir) if !dir.is_empty() => Ok(dir.into()),
        _ => Err("only -oQ with a directory is known here".into()),
    }
}

/// The value of `-qIsub` and the like, as on sendmail's command line.
fn term(text: &str) -> Result<Term, String> {
    let (negated, rest) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
    let field = match rest.chars().next() {
        Some('I') => Field::QueueId,
        Some('R') => Field::Recipient,
        Some('S') => Field::Sender,
        Some('Q') => Field::Quarantine,
        _ => return Err("a selection is I, R, S or Q and what it contains".into()),
    };
    Ok(Term { field, negated, substring: rest[1..].to_owned() })
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
        .map_err(|Unanswered { text, exit }| DumpError::Unanswered { text, exit: exit.code() })?;
    let asked = client::ask(stream, &Request::Count).map_err(DumpError::Start)?;
    let mut queue = Holder { asked };
    queue.rest()?;
    let selection = Selection { terms: args.selection, lost: false };
    let result = match (&args.backup, &args.target) {
        (Some(directory), _) => backup::backup(&mut queue, directory).map(|copied| {
            let backup::Copied { rows, bodies, octets, unreadable } = copied;
            let directory = directory.display();
            eprintln!(
                "kvmta-dump: {rows} rows and {bodies} bodies of {octets} octets in {directory}"
            );
            for row in &unreadable {
                eprintln!("kvmta-dump: {row}: damaged record; it is in the copy without its body");
            }
            complete(unreadable.is_empty())
        }),
        (None, Some(target)) => dump(&mut queue, target, args.format, &selection).map(|dumped| {
            for line in dumped.lines(target) {
                eprintln!("kvmta-dump: {line}");
            }
            complete(dumped.unreadable == 0)
        }),
        (None, None) => checked(&mut queue, held.is_some()),
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

/// 65 when something could not be read, as for any damage.
fn complete(complete: bool) -> ExitCode {
    if complete { ExitCode::SUCCESS } else { ExitCode::from(65) }
}

/// What became of the messages that were asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Dumped {
    written: u64,
    /// They were delivered, given up or removed meanwhile, or only a report of success is owed.
    gone: u64,
    unreadable: u64,
}

impl Dumped {
    fn lines(&self, target: &Path) -> Vec<String> {
        let Dumped { written, gone, unreadable } = self;
        let mut lines = vec![format!("{written} messages written to {}", target.display())];
        if *gone > 0 {
            lines.push(format!("{gone} more have nobody left to be delivered to"));
        }
        if *unreadable > 0 {
            lines.push(format!(
                "{unreadable} cannot be read and are not among them; kvmta-dump --check says what is broken"
            ));
        }
        lines
    }

    fn add(
        &mut self,
        queue: &mut dyn Queue,
        entry: &Entry,
        written: Written,
    ) -> Result<(), DumpError> {
        match written {
            Written::Whole => self.written += 1,
            Written::Nobody => self.gone += 1,
            Written::Unreadable(why) if is_there(queue, entry.id)? => {
                self.unreadable += 1;
                eprintln!("kvmta-dump: {}: not written: {why}", entry.id);
            }
            Written::Unreadable(_) => self.gone += 1,
        }
        Ok(())
    }
}

/// Writes what is selected of the queue and returns how many messages that were.
fn dump(
    queue: &mut impl Queue,
    path: &Path,
    format: Format,
    selection: &Selection,
) -> Result<Dumped, DumpError> {
    let mut dumped = Dumped::default();
    let mut progress = Progress::of(queue.counts()?.0);
    let mut each = |queue: &mut dyn Queue, entry: &Entry, write: &mut Write<'_>| {
        if entry.lost {
            // Whether it is selected cannot be told.
            let why = entry.held.clone().unwrap_or_default();
            dumped.add(queue, entry, Written::Unreadable(why))?;
        } else if is_selected(queue, entry, selection)? {
            let written = write(queue, entry)?;
            dumped.add(queue, entry, written)?;
        }
        progress.one_more();
        Ok::<(), DumpError>(())
    };
    match format {
        Format::Spool => {
            let target = Target::of(path)?;
            let mut write =
                |queue: &mut dyn Queue, entry: &Entry| dump_message(queue, entry, &target);
            for_each(queue, |queue, entry| each(queue, entry, &mut write))?;
            target.finish()?;
        }
        Format::Eml => {
            let directory = File::open(path).map_err(write_error(path))?;
            let mut write = |queue: &mut dyn Queue, entry: &Entry| single::eml(queue, entry, path);
            for_each(queue, |queue, entry| each(queue, entry, &mut write))?;
            directory.sync_all().map_err(write_error(path))?;
        }
        Format::Mbox => {
            let mut out = create(path)?;
            let mut write =
                |queue: &mut dyn Queue, entry: &Entry| single::append(queue, entry, &mut out, path);
            for_each(queue, |queue, entry| each(queue, entry, &mut write))?;
            finish(out).map_err(write_error(path))?;
        }
    }
    Ok(dumped)
}

/// Writes one message.
type Write<'a> = dyn FnMut(&mut dyn Queue, &Entry) -> Result<Written, DumpError> + 'a;

/// Whether a message is asked for; recipients of a long list are looked at page by page.
fn is_selected(
    queue: &mut dyn Queue,
    entry: &Entry,
    selection: &Selection,
) -> Result<bool, DumpError> {
    if selection.terms.is_empty() {
        return Ok(true);
    }
    let by_recipient = selection.terms.iter().any(|term| term.field == Field::Recipient);
    if !entry.jobs.is_empty() || !by_recipient {
        return Ok(selection.matches(entry));
    }
    let mut found = false;
    for_each_job::<DumpError>(queue, entry, |job| {
        found = found || selection.matches(&Entry { jobs: vec![job.clone()], ..entry.clone() });
        Ok(())
    })?;
    Ok(found)
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

    use super::dump::check::check;
    use super::*;
    use kvmta::cli::spool;
    use kvmta::mail::job::EntryJob;
    use kvmta::mail::queue_id::QueueId;

    const HEADER: &[u8] = b"Subject: x\r\n\r\n";
    const BODY: &[u8] = b"one\r\n.\r\nthree\r\n";

    /// A queue in memory whose bytes come in pieces that cut header, body and CRLF.
    struct Memory {
        entries: Vec<Entry>,
        jobs: Vec<EntryJob>,
        bytes: Vec<u8>,
        counted: (u64, u64, u64),
        /// Bodies cannot be read.
        broken: bool,
    }

    impl Queue for Memory {
        fn list(&mut self, after: Option<QueueId>, _: usize) -> Result<Vec<Entry>, StoreError> {
            // Of one that is not there, those behind it.
            let of = |id| self.entries.iter().rposition(|entry| entry.id == id);
            let behind = |id| self.entries.iter().position(|entry| entry.id > id);
            let place = after.map_or(Some(0), |id| of(id).map(|at| at + 1).or_else(|| behind(id)));
            Ok(place.and_then(|at| self.entries.get(at)).cloned().into_iter().collect())
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
            if self.broken {
                return Err(StoreError::Damaged { what: "its body".into(), detail: "torn".into() });
            }
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
            deliver_by: None,
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
            lost: false,
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
            broken: false,
        }
    }

    fn findings(queue: &mut Memory) -> Vec<String> {
        let mut lines = Vec::new();
        let found = check(queue, &mut |line| lines.push(line)).unwrap();
        assert_eq!(found, lines.len() as u64);
        lines
    }

    fn all(queue: &mut Memory, directory: &Path) -> Result<u64, DumpError> {
        dump(queue, directory, Format::Spool, &Selection::default()).map(|dumped| dumped.written)
    }

    #[test]
    fn goes_where_sendmail_looks_for_it() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["q1/qf", "q1/df", "q2"] {
            std::fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        let mut queue = queue();
        assert_eq!(all(&mut queue, directory.path()).unwrap(), 2);
        for entry in &queue.entries {
            let [with, without] = [["q1/qf", "q1/df"], ["q2", "q2"]].map(|[qf, df]| {
                let at = |place: &str, name| directory.path().join(place).join(name).is_file();
                at(qf, spool::control_name(entry)) && at(df, spool::body_name(entry))
            });
            assert!(with != without, "{} stands in one group", entry.id);
        }
    }

    #[test]
    fn writes_what_is_asked_for_in_other_forms() {
        let directory = tempfile::tempdir().unwrap();
        let selection = Selection { terms: vec![term("Rr2").unwrap()], lost: false };
        let mut queue = queue();
        let eml = dump(&mut queue, directory.path(), Format::Eml, &selection).unwrap();
        let path = directory.path().join("all.mbox");
        let mbox = dump(&mut queue, &path, Format::Mbox, &Selection::default()).unwrap();
        assert_eq!((eml.written, mbox.written), (1, 2));
        let message = "X-Envelope-From: <a@b.example>\n".to_owned()
            + &(0..3).map(|n| format!("X-Envelope-To: <r{n}@x.example>\n")).collect::<String>()
            + "Subject: x\n\none\n.\nthree\n";
        let name = format!("{}.eml", queue.entries[1].id);
        assert_eq!(std::fs::read_to_string(directory.path().join(name)).unwrap(), message);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("From a@b.example Sun Nov 22 06:20:25 2026\nX-Envelope-From:"));
        assert!(
            text.ends_with(&format!("\n\nFrom a@b.example Sun Nov 22 06:20:26 2026\n{message}\n"))
        );
        let again = dump(&mut queue, &path, Format::Mbox, &Selection::default());
        assert_eq!(again.unwrap_err().exit_code(), 73);
    }

    #[test]
    fn leaves_out_what_cannot_be_read_and_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let mut queue = queue();
        let unreadable = Entry {
            held: Some("damaged record: format 77 is unknown".into()),
            lost: true,
            ..entry(1_795_328_424, Vec::new(), 0)
        };
        queue.entries.insert(0, unreadable);
        let path = directory.path().join("all.mbox");
        let dumped = dump(&mut queue, &path, Format::Mbox, &Selection::default()).unwrap();
        assert_eq!((dumped.written, dumped.unreadable), (2, 1), "those behind it, too");
        (queue.counted.0, queue.counted.1) = (3, 1);
        queue.counted.2 += (HEADER.len() + BODY.len()) as u64;
        let found = findings(&mut queue);
        assert!(found.len() == 1 && found[0].contains("format 77"), "{found:?}");
    }

    #[test]
    fn writes_pairs_that_only_the_owner_reads() {
        let directory = tempfile::tempdir().unwrap();
        let mut queue = queue();
        assert_eq!(all(&mut queue, directory.path()).unwrap(), 2);
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
    fn what_cannot_be_read_or_is_gone_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let files = || std::fs::read_dir(directory.path()).unwrap().count();
        type Damage = fn(&mut Memory);
        let damages: [(Damage, Dumped); 4] = [
            (|q| q.broken = true, Dumped { unreadable: 2, ..Dumped::default() }),
            (|q| q.bytes.truncate(20), Dumped { unreadable: 2, ..Dumped::default() }),
            // Delivered while it was read.
            (|q| q.jobs.clear(), Dumped { written: 1, gone: 1, unreadable: 0 }),
            (
                |q| q.entries[0].envelope.size = 5,
                Dumped { written: 1, unreadable: 1, ..Dumped::default() },
            ),
        ];
        for (damage, expected) in damages {
            let mut queue = queue();
            damage(&mut queue);
            for format in [Format::Spool, Format::Eml] {
                let dumped = dump(&mut queue, directory.path(), format, &Selection::default());
                let dumped = dumped.unwrap();
                if format == Format::Spool {
                    assert_eq!(dumped, expected);
                    assert_eq!(files() as u64, 2 * expected.written);
                } else {
                    assert_eq!(files() as u64, dumped.written);
                }
                for file in std::fs::read_dir(directory.path()).unwrap() {
                    std::fs::remove_file(file.unwrap().path()).unwrap();
                }
            }
        }
    }

    #[test]
    fn replaces_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(spool::control_name(&queue().entries[0]));
        std::fs::write(&path, "precious").unwrap();
        let error = all(&mut queue(), directory.path()).unwrap_err();
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
            ("recipients are there", |q| q.jobs.push(job(3))),
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
