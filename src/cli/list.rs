//! `-bp` (mailq) and `-bP`: asks for the queue and prints it, in sendmail's order as long as that fits in memory.
//!
//! The heading says how many messages there are, so the rows of a selection are counted first. Up to [`KEPT_MAX`] of them
//! are kept meanwhile and sorted as QueueSortOrder says; of more, none is kept: they come in the order of arrival.

use std::io::{self, Stdout, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ask::{self, Connected, Log, Unanswered};
use super::exit::Exit;
use super::mailq::{Heading, Listing, View};
use crate::config::{Config, SortOrder};
use crate::control::client;
use crate::control::proto::{Answer, Request};
use crate::mail::job::Entry;
use crate::mail::selection::Selection;
use crate::mail::time::Timestamp;
use crate::world::Load;
use crate::world::real::RealLoad;

/// Messages kept for sorting; with their recipients some ten MiB.
const KEPT_MAX: usize = 10_000;
/// Recipients of theirs.
const KEPT_RECIPIENTS_MAX: usize = 50_000;

/// `-bP`: the number of messages.
pub fn count(config: &Arc<Config>, log: Log<'_>) -> Exit {
    let result = ask::connect(config, log).and_then(|connected| {
        ask::exchange(connected, &Request::Count, &mut |answer| {
            if let Answer::Counts(counts) = answer {
                let text = counted(&config.queue_directory, counts.messages);
                io::stdout().write_all(text.as_bytes())?;
            }
            Ok(())
        })
    });
    ask::finish(result)
}

fn counted(directory: &Path, messages: u64) -> String {
    let directory = directory.display();
    match messages {
        0 => format!("{directory} is empty\n"),
        _ => format!("{directory}: entries={messages}\n\t\tTotal requests: {messages}\n"),
    }
}

/// `-bp`: the queue.
pub fn list(config: &Arc<Config>, selection: Selection, now: Timestamp, log: Log<'_>) -> Exit {
    let view = View {
        verbose: config.verbose,
        zone: config.time_zone.clone(),
        now,
        // A selection asks about the messages as they are, as a run of it would try them.
        min_queue_age: (!selection.is_limited()).then_some(config.min_queue_age),
        retry_factor: config.priority.retry,
        priority_max: config.priority_max(RealLoad::default().average()),
    };
    let result =
        ask::connect(config, log).and_then(|connected| print(config, selection, view, connected));
    ask::finish(result)
}

fn print(
    config: &Config,
    selection: Selection,
    view: View,
    connected: Connected,
) -> Result<Exit, Unanswered> {
    let mut total = match selection.is_limited() {
        true => None,
        false => Some(count_all(config)?),
    };
    let request = Request::List(selection);
    let limit = config.queue_run_size_max;
    let out = Output { directory: config.queue_directory.clone(), view, limit };
    if total.is_none_or(|total| total <= KEPT_MAX as u64) {
        let (mut kept, exit) = keep(config, &request)?;
        if !kept.overflowed {
            sort(&mut kept.entries, config.queue_sort_order, config.priority.retry);
            connected.end();
            out.print(&kept.entries).map_err(ask::broken_pipe)?;
            return Ok(exit);
        }
        total = Some(kept.counted);
    }
    // Nothing is printed before there is an answer: the queue may not be for us to see.
    let (mut out, mut rows, mut long) = (Some(out), None, None);
    let mut begun = |rows: &mut Option<Rows>| match out.take() {
        Some(out) => out.begin(total.unwrap_or(0)).map(|begun| *rows = Some(begun)),
        None => Ok(()),
    };
    let exit = ask::exchange(connected, &request, &mut |answer| {
        join(answer, &mut long, &mut |entry| {
            begun(&mut rows)?;
            rows.as_mut().map_or(Ok(()), |rows| rows.put(&entry))
        })
    })?;
    let mut finish = || {
        begun(&mut rows)?;
        let Some(mut rows) = rows.take() else { return Ok(()) };
        long.take().map_or(Ok(()), |long| rows.put(&long))?;
        rows.end()
    };
    finish().map_err(ask::broken_pipe)?;
    Ok(exit)
}

/// Asks whoever holds the store by now, which may be ourselves.
fn ask_again(
    config: &Config,
    request: &Request,
    each: &mut dyn FnMut(Answer) -> io::Result<()>,
) -> Result<Exit, Unanswered> {
    let stream = client::connect(&config.queue_directory).map_err(ask::lost)?;
    ask::exchange(Connected { stream, held: None }, request, each)
}

fn keep(config: &Config, request: &Request) -> Result<(Kept, Exit), Unanswered> {
    let mut kept = Kept::default();
    let mut long = None;
    let exit = ask_again(config, request, &mut |answer| {
        join(answer, &mut long, &mut |entry| {
            kept.add(entry);
            Ok(())
        })
    })?;
    long.into_iter().for_each(|long| kept.add(long));
    Ok((kept, exit))
}

/// What is kept for sorting, and how many there were in all.
#[derive(Default)]
struct Kept {
    entries: Vec<Entry>,
    recipients: usize,
    counted: u64,
    overflowed: bool,
}

impl Kept {
    fn add(&mut self, entry: Entry) {
        self.counted += 1;
        self.recipients += entry.jobs.iter().map(|job| job.recipients.len()).sum::<usize>();
        if self.entries.len() >= KEPT_MAX || self.recipients > KEPT_RECIPIENTS_MAX {
            self.overflowed = true;
            self.entries = Vec::new();
        }
        if !self.overflowed {
            self.entries.push(entry);
        }
    }
}

/// Gives whole entries to `each`: the jobs of a long list follow their entry, which waits for them in `long`.
fn join(
    answer: Answer,
    long: &mut Option<Entry>,
    each: &mut dyn FnMut(Entry) -> io::Result<()>,
) -> io::Result<()> {
    match answer {
        Answer::Entries(entries) => {
            for entry in entries {
                if let Some(long) = long.take() {
                    each(long)?;
                }
                match entry.jobs.is_empty() && entry.recipients_total > 0 {
                    true => *long = Some(entry),
                    false => each(entry)?,
                }
            }
        }
        Answer::Jobs(jobs) => {
            if let Some(entry) = long {
                entry.jobs.extend(jobs);
            }
        }
        _ => {}
    }
    Ok(())
}

/// In the order in which a run would take them; they come in that of arrival, which stays among equals.
fn sort(entries: &mut [Entry], order: SortOrder, retry_factor: i64) {
    let first_hop = |entry: &Entry| entry.jobs.first().map(|job| job.destination.next_hop.clone());
    match order {
        SortOrder::Priority => entries.sort_by_key(|entry| entry.priority(retry_factor)),
        SortOrder::Host => {
            entries.sort_by_cached_key(|entry| (first_hop(entry), entry.priority(retry_factor)))
        }
        SortOrder::Modification => {
            entries.sort_by_key(|entry| entry.jobs.iter().filter_map(|job| job.last_attempt).max());
        }
        SortOrder::Time
        | SortOrder::FileName
        | SortOrder::Random
        | SortOrder::None
        | SortOrder::Shuffle => {}
    }
}

/// How many messages there are that are not held.
fn count_all(config: &Config) -> Result<u64, Unanswered> {
    let mut total = 0;
    ask_again(config, &Request::Count, &mut |answer| {
        if let Answer::Counts(counts) = answer {
            total = counts.messages.saturating_sub(counts.held);
        }
        Ok(())
    })?;
    Ok(total)
}

/// Where the rows go.
struct Output {
    directory: PathBuf,
    view: View,
    limit: Option<u64>,
}

/// Rows on their way out, up to MaxQueueRunSize.
struct Rows {
    listing: Listing<Stdout>,
    left: u64,
}

impl Output {
    fn begin(self, requests: u64) -> io::Result<Rows> {
        let heading = Heading { directory: &self.directory, requests, printed: self.limit };
        let listing = Listing::begin(io::stdout(), self.view, &heading)?;
        Ok(Rows { listing, left: self.limit.unwrap_or(u64::MAX) })
    }

    fn print(self, entries: &[Entry]) -> io::Result<()> {
        let mut rows = self.begin(entries.len() as u64)?;
        entries.iter().try_for_each(|entry| rows.put(entry))?;
        rows.end()
    }
}

impl Rows {
    fn put(&mut self, entry: &Entry) -> io::Result<()> {
        if self.left == 0 {
            return Ok(());
        }
        self.left -= 1;
        self.listing.entry(entry)
    }

    fn end(self) -> io::Result<()> {
        self.listing.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::golden;

    const GOLDEN: &str = include_str!("../../tests/golden/queue-commands.txt");

    #[test]
    fn counts_as_sendmail_does() {
        let directory = Path::new("/var/spool/mqueue");
        assert_eq!(counted(directory, 3), golden::printed(GOLDEN, "sendmail -bP"));
        assert_eq!(counted(directory, 0), golden::printed(GOLDEN, "sendmail -bP (empty)"));
    }
}
