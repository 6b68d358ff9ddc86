//! `-q...`, `-bp`, `-bP`, `-bh`: runs and listings, asked of whoever holds the queue.

use std::io::{self, Stdout, Write};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::ask::{self, Connected, Held, Log, Unanswered};
use super::exit::Exit;
use super::mailq::{Heading, Listing};
use crate::config::Config;
use crate::control::client::{self, Asked};
use crate::control::proto::{Answer, Request};
use crate::mail::job::Entry;
use crate::mail::selection::Selection;
use crate::mail::time::delay;
use crate::queue::run::Run;

/// Runs the queue once.
pub fn run(config: &Arc<Config>, mut run: Run, log: Log<'_>) -> Exit {
    let result = ask::connect(config, log).and_then(|connected| {
        // Without a daemon the run is over when this process is, so it waits.
        run.wait |= connected.held.is_some();
        exchange(connected, &Request::Run(run), &mut |answer| {
            if let Answer::Line(line) = answer {
                println!("{line}");
            }
            Ok(())
        })
    });
    finish(result)
}

/// `-bP`: the number of messages.
pub fn count(config: &Arc<Config>, log: Log<'_>) -> Exit {
    let result = ask::connect(config, log).and_then(|connected| {
        exchange(connected, &Request::Count, &mut |answer| {
            if let Answer::Counts(counts) = answer {
                let name = config.queue_directory.display();
                writeln!(io::stdout(), "{name}: entries={}", counts.messages)?;
            }
            Ok(())
        })
    });
    finish(result)
}

/// `-bh`: what is remembered of hosts.
pub fn hosts(config: &Arc<Config>, log: Log<'_>) -> Exit {
    let now = super::now();
    let width = if config.verbose { 78 } else { 25 };
    let mut printed = false;
    let result = ask::connect(config, log).and_then(|connected| {
        exchange(connected, &Request::Hosts, &mut |answer| {
            let Answer::Hosts(hosts) = answer else { return Ok(()) };
            let mut out = io::stdout().lock();
            if !printed {
                printed = true;
                writeln!(
                    out,
                    " -------------- Hostname --------------- How long ago ---------Results---------"
                )?;
            }
            for host in hosts {
                let age = delay(now.since(host.at));
                let text = if host.up { host.text } else { format!("Deferred: {}", host.text) };
                let text: String = text.chars().take(width).collect();
                writeln!(out, " {:<39} {age:>12} {text}", host.host)?;
            }
            Ok(())
        })
    });
    finish(result)
}

/// `-bp`: the queue, in sendmail's columns.
pub fn list(config: &Arc<Config>, selection: Selection, log: Log<'_>) -> Exit {
    let result =
        ask::connect(config, log).and_then(|connected| print_list(config, selection, connected));
    finish(result)
}

fn print_list(
    config: &Config,
    selection: Selection,
    connected: Connected,
) -> Result<Exit, Unanswered> {
    let selected = selection.is_limited();
    let mut listing = Rows::new(config, selected, count_all(config)?)?;
    let exit = exchange(connected, &Request::List(selection), &mut |answer| listing.take(answer))?;
    listing.end().map_err(broken_pipe)?;
    Ok(exit)
}

/// Rows on their way out. The heading says how many there are, so the rows of a selection are counted first.
struct Rows {
    listing: Option<Listing<Stdout>>,
    heading: (PathBuf, bool),
    /// MaxQueueRunSize: rows printed at most.
    limit: Option<u64>,
    /// Rows so far, printed or not.
    rows: u64,
    selected: Option<Vec<Entry>>,
    /// The jobs of a long list follow their entry, which waits for them.
    long: Option<Entry>,
}

impl Rows {
    fn new(config: &Config, selected: bool, total: u64) -> Result<Rows, Unanswered> {
        let heading = (config.queue_directory.clone(), config.verbose);
        let limit = config.queue_run_size_max;
        let mut rows = Rows { listing: None, heading, limit, rows: 0, selected: None, long: None };
        match selected {
            true => rows.selected = Some(Vec::new()),
            false => rows.begin(total).map_err(broken_pipe)?,
        }
        Ok(rows)
    }

    fn begin(&mut self, requests: u64) -> io::Result<()> {
        let (directory, verbose) = &self.heading;
        let heading = Heading { directory, requests, printed: self.limit };
        let zone = TimeZone::system();
        self.listing = Some(Listing::begin(io::stdout(), *verbose, zone, &heading)?);
        Ok(())
    }

    fn take(&mut self, answer: Answer) -> io::Result<()> {
        match answer {
            Answer::Entries(entries) => {
                for entry in entries {
                    if let Some(long) = self.long.take() {
                        self.put(long)?;
                    }
                    match entry.jobs.is_empty() && entry.recipients_total > 0 {
                        true => self.long = Some(entry),
                        false => self.put(entry)?,
                    }
                }
            }
            Answer::Jobs(jobs) => {
                if let Some(entry) = &mut self.long {
                    entry.jobs.extend(jobs);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn put(&mut self, entry: Entry) -> io::Result<()> {
        self.rows += 1;
        if self.limit.is_some_and(|limit| self.rows > limit) {
            return Ok(());
        }
        match (&mut self.selected, &mut self.listing) {
            (Some(selected), _) => selected.push(entry),
            (None, Some(listing)) => listing.entry(&entry)?,
            (None, None) => {}
        }
        Ok(())
    }

    fn end(mut self) -> io::Result<()> {
        if let Some(long) = self.long.take() {
            self.put(long)?;
        }
        if let Some(selected) = self.selected.take() {
            self.begin(self.rows)?;
            self.rows = 0;
            for entry in selected {
                self.put(entry)?;
            }
        }
        match self.listing {
            Some(listing) => listing.end(),
            None => Ok(()),
        }
    }
}

/// How many messages there are, from whoever holds the store by now.
fn count_all(config: &Config) -> Result<u64, Unanswered> {
    let stream = client::connect(&config.queue_directory).map_err(lost)?;
    let mut total = 0;
    exchange(Connected { stream, held: None }, &Request::Count, &mut |answer| {
        if let Answer::Counts(counts) = answer {
            total = counts.messages;
        }
        Ok(())
    })?;
    Ok(total)
}

/// Sends the request, gives every answer but the last to `each`, and ends the holder if it is us.
fn exchange(
    connected: Connected,
    request: &Request,
    each: &mut dyn FnMut(Answer) -> io::Result<()>,
) -> Result<Exit, Unanswered> {
    let Connected { stream, held } = connected;
    let result = client::ask(stream, request).map_err(lost).and_then(|asked| answers(asked, each));
    if let Some(Err(error)) = held.map(Held::end) {
        eprintln!("kvmta: closing the queue: {error}");
    }
    result
}

fn answers(
    mut asked: Asked,
    each: &mut dyn FnMut(Answer) -> io::Result<()>,
) -> Result<Exit, Unanswered> {
    loop {
        match asked.answer().map_err(lost)? {
            Answer::Done { exit } => return Ok(Exit::from_code(i32::from(exit))),
            Answer::Failed { text, exit } => {
                return Err(Unanswered { text, exit: Exit::from_code(i32::from(exit)) });
            }
            answer => each(answer).map_err(broken_pipe)?,
        }
    }
}

fn lost(error: io::Error) -> Unanswered {
    Unanswered {
        text: format!("the queue went away in mid-answer: {error}; ask again"),
        exit: Exit::TempFail,
    }
}

/// `kvmta -bp | head` is no error.
fn broken_pipe(error: io::Error) -> Unanswered {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Unanswered { text: String::new(), exit: Exit::Ok },
        _ => Unanswered { text: format!("cannot write: {error}"), exit: Exit::IoErr },
    }
}

fn finish(result: Result<Exit, Unanswered>) -> Exit {
    match result {
        Ok(exit) => exit,
        Err(Unanswered { text, exit }) => {
            if !text.is_empty() {
                eprintln!("kvmta: {text}");
            }
            exit
        }
    }
}
