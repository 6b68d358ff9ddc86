//! kvmta-queue: operations on the messages of a queue, asked of whoever holds it.
//!
//! The work is done where the store is (`control/operate.rs`); here the command line becomes requests, and answers become text or
//! JSON lines. Without a daemon this process holds the store for the moment. Nothing is kept in memory but what one answer brings.
//!
//! What is said: results on standard output, progress and complaints on standard error, progress only on a terminal.

pub mod args;
mod print;

use std::ffi::OsString;
use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::ask::{self, Connected, Held, Unanswered};
use super::exit::Exit;
use crate::config::Config;
use crate::config::check::{self, Severity, Sources};
use crate::config::host::HostNames;
use crate::config::locate::{self, Facts};
use crate::control::client::{self, Asked};
use crate::control::proto::{Answer, Deed, PAGE_MAX, Request, Show, Tally};
use crate::mail::filter::{Filter, IDS_MAX};
use crate::mail::job::Entry;
use crate::mail::queue_id::QueueId;
use args::{ArgsError, Invocation, Parts, Task};
use print::Printer;

/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Octets of a line of queue IDs on standard input, of which the first word counts.
const LINE_MAX: u64 = 4096;

/// The whole program: `arguments` with argv[0] first.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let invocation = match args::parse(arguments, super::now()) {
        Ok(invocation) => invocation,
        Err(ArgsError::Clap(error)) => {
            // Help and version come this way too; if even printing fails there is nobody left to tell.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
        Err(ArgsError::Usage(text)) => {
            eprintln!("kvmta-queue: {text}");
            return Exit::Usage.into();
        }
    };
    match run(&invocation) {
        Ok(exit) => exit.into(),
        Err(Unanswered { text, exit }) => {
            if !text.is_empty() {
                eprintln!("kvmta-queue: {text}");
            }
            exit.into()
        }
    }
}

fn run(invocation: &Invocation) -> Result<Exit, Unanswered> {
    let config = Arc::new(config(invocation)?);
    let log = |whose| super::open_log(&config, None, whose);
    let Connected { stream, held } = ask::connect(&config, &log)?;
    let asked = client::ask(stream, &Request::Count).map_err(lost)?;
    let mut desk =
        Desk { asked, printer: Printer::new(invocation), missing: false, tally: Tally::default() };
    let first = desk.answers(&mut |_, _| Ok(()));
    let result = first.and_then(|()| desk.task(invocation));
    let printed = desk.printer.end().map_err(broken_pipe);
    let missing = desk.missing;
    drop(desk);
    if let Some(Err(error)) = held.map(Held::end) {
        eprintln!("kvmta-queue: closing the queue: {error}");
    }
    let exit = result?;
    printed?;
    Ok(if missing { exit.and(Exit::NoInput) } else { exit })
}

/// The configuration of the queue: a bounce goes by it, should we hold the store ourselves.
fn config(invocation: &Invocation) -> Result<Config, Unanswered> {
    let facts = Facts::of_this_process();
    let location = locate::locate(invocation.config_file.as_deref(), &invocation.options, &facts);
    let location = location
        .map_err(|error| Unanswered { text: error.to_string(), exit: Exit::from(&error) })?;
    let sources = Sources {
        location: &location,
        host: &HostNames::of_this_machine(),
        options: &invocation.options,
        macros: &[],
        read: &check::read_file,
    };
    let (config, diagnostics) = Config::load(&sources)
        .map_err(|error| Unanswered { text: error.to_string(), exit: Exit::from(&error) })?;
    for diagnostic in diagnostics.iter().filter(|found| found.severity > Severity::Notice) {
        eprintln!("{diagnostic}");
    }
    Ok(config)
}

/// The connection, and what was said on it.
struct Desk {
    asked: Asked,
    printer: Printer,
    /// A message that was named is not there.
    missing: bool,
    /// Of all requests so far.
    tally: Tally,
}

/// What to do with an answer.
type Take<'a> = &'a mut dyn FnMut(&mut Desk, Answer) -> Result<(), Unanswered>;

impl Desk {
    /// Gives every answer but the last to `take`.
    fn answers(&mut self, take: Take<'_>) -> Result<(), Unanswered> {
        loop {
            match self.asked.answer().map_err(lost)? {
                Answer::Done { .. } => return Ok(()),
                Answer::Failed { text, exit } => {
                    return Err(Unanswered { text, exit: Exit::from_code(i32::from(exit)) });
                }
                answer => take(self, answer)?,
            }
        }
    }

    fn ask(&mut self, request: &Request, take: Take<'_>) -> Result<(), Unanswered> {
        self.asked.ask(request).map_err(lost)?;
        self.answers(take)
    }

    fn task(&mut self, invocation: &Invocation) -> Result<Exit, Unanswered> {
        match &invocation.task {
            Task::List => {
                self.operate(invocation, &Deed::Look, true, shown(invocation, Show::Entries))?;
                Ok(Exit::Ok)
            }
            Task::Count => self.count(invocation),
            Task::Show(parts) => self.show(invocation, *parts),
            Task::History => {
                self.in_chunks(invocation, &mut |desk, filter| desk.history(filter).map(drop))?;
                Ok(Exit::Ok)
            }
            Task::Change { deed, dry_run } => {
                self.operate(invocation, deed, *dry_run, shown(invocation, Show::Nothing))?;
                self.summary(deed, *dry_run)
            }
        }
    }

    /// One request for each handful of queue IDs, or a single one without.
    fn in_chunks(
        &mut self,
        invocation: &Invocation,
        each: &mut dyn FnMut(&mut Desk, Filter) -> Result<(), Unanswered>,
    ) -> Result<(), Unanswered> {
        if invocation.ids.is_empty() && !invocation.ids_from_input {
            return each(self, invocation.filter(&[]));
        }
        for ids in invocation.ids.chunks(IDS_MAX) {
            each(self, invocation.filter(ids))?;
        }
        if !invocation.ids_from_input {
            return Ok(());
        }
        let mut input = io::stdin().lock();
        let mut ids = Vec::new();
        while let Some(id) = next_id(&mut input)? {
            ids.push(id);
            if ids.len() == IDS_MAX {
                each(self, invocation.filter(&std::mem::take(&mut ids)))?;
            }
        }
        if ids.is_empty() { Ok(()) } else { each(self, invocation.filter(&ids)) }
    }

    fn operate(
        &mut self,
        invocation: &Invocation,
        deed: &Deed,
        rehearse: bool,
        show: Show,
    ) -> Result<(), Unanswered> {
        let mut progress = Progress::new();
        let mut last: Option<Entry> = None;
        let result = self.in_chunks(invocation, &mut |desk, filter| {
            let before = desk.tally;
            let request = Request::Operate { filter, deed: deed.clone(), rehearse, show };
            desk.ask(&request, &mut |desk, answer| {
                match answer {
                    Answer::Tally(tally) => {
                        desk.tally = sum(before, tally);
                        progress.show(desk.tally);
                    }
                    Answer::Entries(entries) => {
                        progress.clear();
                        for entry in &entries {
                            desk.printer.entry(entry).map_err(broken_pipe)?;
                        }
                        last = entries.into_iter().next_back();
                    }
                    Answer::Jobs(jobs) => {
                        for (entry, job) in
                            last.iter().flat_map(|entry| jobs.iter().map(move |job| (entry, job)))
                        {
                            desk.printer.listed_job(entry, job).map_err(broken_pipe)?;
                        }
                    }
                    Answer::Missing(ids) => {
                        progress.clear();
                        desk.missed(&ids);
                    }
                    _ => {}
                }
                Ok(())
            })
        });
        progress.clear();
        if result.is_err() && self.tally.done > 0 {
            eprintln!(
                "kvmta-queue: {} messages were {} before it failed",
                self.tally.done,
                past(deed)
            );
        }
        result
    }

    fn missed(&mut self, ids: &[QueueId]) {
        self.missing = true;
        for id in ids {
            eprintln!("kvmta-queue: {id}: not in the queue");
        }
    }

    fn summary(&mut self, deed: &Deed, dry_run: bool) -> Result<Exit, Unanswered> {
        let Tally { selected, done, in_hand, .. } = self.tally;
        let line = match dry_run {
            true => format!("{} would be {}", messages(selected), past(deed)),
            false => format!("{} {}", messages(done), past(deed)),
        };
        self.printer.line(&line).map_err(broken_pipe)?;
        if in_hand > 0 {
            eprintln!("kvmta-queue: {} being attempted right now; try again", messages(in_hand));
            return Ok(Exit::TempFail);
        }
        Ok(Exit::Ok)
    }

    fn count(&mut self, invocation: &Invocation) -> Result<Exit, Unanswered> {
        let everything = invocation.filter(&invocation.ids).is_everything();
        if everything && !invocation.ids_from_input {
            // Kept, not counted.
            self.ask(&Request::Count, &mut |desk, answer| match answer {
                Answer::Counts(counts) => desk.printer.counts(counts).map_err(broken_pipe),
                _ => Ok(()),
            })?;
            return Ok(Exit::Ok);
        }
        self.operate(invocation, &Deed::Look, true, Show::Nothing)?;
        self.printer.count(self.tally.selected).map_err(broken_pipe)?;
        Ok(Exit::Ok)
    }

    fn show(&mut self, invocation: &Invocation, parts: Parts) -> Result<Exit, Unanswered> {
        let mut exit = Exit::Ok;
        for id in &invocation.ids {
            exit = exit.and(self.show_one(*id, parts)?);
        }
        Ok(exit)
    }

    fn show_one(&mut self, id: QueueId, parts: Parts) -> Result<Exit, Unanswered> {
        let filter = Filter { ids: vec![id], conditions: Vec::new() };
        let request = Request::Operate {
            filter: filter.clone(),
            deed: Deed::Look,
            rehearse: true,
            show: Show::Entries,
        };
        let mut found: Option<Entry> = None;
        self.ask(&request, &mut |_, answer| {
            if let Answer::Entries(entries) = answer {
                found = entries.into_iter().next();
            }
            Ok(())
        })?;
        if let Some(entry) = found.as_ref().filter(|_| parts.envelope) {
            self.printer.envelope(entry).map_err(broken_pipe)?;
            self.jobs(entry)?;
        }
        let mut is_known = found.is_some();
        if parts.history || found.is_none() {
            match self.history(filter) {
                Ok(events) => is_known |= events > 0,
                // None is kept.
                Err(error) if error.exit == Exit::Unavailable => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(entry) = &found {
            self.bytes(entry, parts)?;
        }
        match (is_known, found) {
            (false, _) => {
                eprintln!("kvmta-queue: {id}: neither in the queue nor in its history");
                Ok(Exit::NoInput)
            }
            (true, None) => {
                eprintln!("kvmta-queue: {id}: gone from the queue");
                Ok(Exit::Ok)
            }
            (true, Some(_)) => Ok(Exit::Ok),
        }
    }

    /// Recipients, those of a long list page by page.
    fn jobs(&mut self, entry: &Entry) -> Result<(), Unanswered> {
        for job in &entry.jobs {
            self.printer.job(entry, job).map_err(broken_pipe)?;
        }
        let mut after = None;
        while entry.jobs.is_empty() && entry.recipients_total > 0 {
            let before = after;
            let limit = 1.min(PAGE_MAX);
            let request = Request::Jobs { id: entry.id, after, limit };
            self.ask(&request, &mut |desk, answer| {
                if let Answer::Jobs(jobs) = answer {
                    for job in &jobs {
                        after = Some(job.number);
                        desk.printer.job(entry, job).map_err(broken_pipe)?;
                    }
                }
                Ok(())
            })?;
            if after == before {
                break;
            }
        }
        Ok(())
    }

    /// Header and body, piece by piece.
    fn bytes(&mut self, entry: &Entry, parts: Parts) -> Result<(), Unanswered> {
        let (start, end) = match (parts.header, parts.body) {
            (true, true) => (0, u64::MAX),
            (true, false) => (0, entry.envelope.header_len),
            (false, true) => (entry.envelope.header_len, u64::MAX),
            (false, false) => return Ok(()),
        };
        let mut offset = start;
        while offset < end {
            let mut piece = Vec::new();
            let request = Request::Bytes { body: entry.body.clone(), offset };
            self.ask(&request, &mut |_, answer| {
                if let Answer::Bytes(bytes) = answer {
                    piece = bytes;
                }
                Ok(())
            })?;
            if piece.is_empty() {
                break;
            }
            offset += piece.len() as u64;
            let surplus = usize::try_from(offset.saturating_sub(end)).unwrap_or(usize::MAX);
            piece.truncate(piece.len().saturating_sub(surplus));
            self.printer.bytes(entry, &piece).map_err(broken_pipe)?;
        }
        self.printer.end_bytes(entry).map_err(broken_pipe)
    }

    /// How many events there were.
    fn history(&mut self, filter: Filter) -> Result<u64, Unanswered> {
        let mut count = 0;
        self.ask(&Request::History(filter), &mut |desk, answer| {
            if let Answer::History(groups) = answer {
                for (id, events) in &groups {
                    count += events.len() as u64;
                    desk.printer.events(*id, events).map_err(broken_pipe)?;
                }
            }
            Ok(())
        })?;
        Ok(count)
    }
}

/// With -v every recipient is named; otherwise as much as `usually`.
fn shown(invocation: &Invocation, usually: Show) -> Show {
    if invocation.verbose { Show::Recipients } else { usually }
}

fn sum(a: Tally, b: Tally) -> Tally {
    Tally {
        looked: a.looked + b.looked,
        selected: a.selected + b.selected,
        done: a.done + b.done,
        in_hand: a.in_hand + b.in_hand,
    }
}

/// The first word of the next line that has one, without the `*` of a listing.
fn next_id(input: &mut dyn BufRead) -> Result<Option<QueueId>, Unanswered> {
    let wrong = |text: String| Unanswered { text, exit: Exit::DataErr };
    loop {
        let mut line = Vec::new();
        let read = io::Read::take(&mut *input, LINE_MAX).read_until(b'\n', &mut line);
        if read.map_err(|error| wrong(format!("standard input: {error}")))? == 0 {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&line);
        let Some(word) = line.split_whitespace().next() else { continue };
        let id = word.trim_end_matches('*').parse();
        return id.map(Some).map_err(|error| wrong(format!("standard input: {error}")));
    }
}

fn messages(count: u64) -> String {
    format!("{count} message{}", if count == 1 { "" } else { "s" })
}

fn past(deed: &Deed) -> &'static str {
    match deed {
        Deed::Look => "found",
        Deed::Hold { .. } => "held",
        Deed::Release => "released",
        Deed::Remove => "removed",
        Deed::Bounce { .. } => "bounced",
        Deed::Requeue => "requeued",
        Deed::Reschedule { .. } => "rescheduled",
        Deed::Reroute { .. } => "rerouted",
    }
}

/// A line on standard error that is written over, when that is a terminal.
struct Progress {
    is_terminal: bool,
    shown: bool,
    next: Instant,
}

impl Progress {
    fn new() -> Progress {
        let is_terminal = io::stderr().is_terminal();
        Progress { is_terminal, shown: false, next: Instant::now() + PROGRESS_EVERY }
    }

    fn show(&mut self, tally: Tally) {
        if !self.is_terminal || Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + PROGRESS_EVERY;
        self.shown = true;
        let Tally { looked, selected, done, .. } = tally;
        eprint!("\r{looked} looked at, {selected} selected, {done} done ");
    }

    fn clear(&mut self) {
        if self.shown {
            self.shown = false;
            eprint!("\r{:70}\r", "");
            // Should standard error be gone, nobody sees the line either.
            let _ = io::stderr().flush();
        }
    }
}

fn lost(error: io::Error) -> Unanswered {
    Unanswered {
        text: format!("the queue went away in mid-answer: {error}; what was done stays done"),
        exit: Exit::TempFail,
    }
}

/// `kvmta-queue list | head` is no error.
fn broken_pipe(error: io::Error) -> Unanswered {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Unanswered { text: String::new(), exit: Exit::Ok },
        _ => Unanswered { text: format!("cannot write: {error}"), exit: Exit::IoErr },
    }
}
