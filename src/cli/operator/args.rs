//! The command line of kvmta-queue: a subcommand, queue IDs, and selections that make a [`Filter`].
//!
//! `--not` belongs to the selection behind it. So that clap need not know of order, `--not --held` is read as an
//! option `--not-held` of its own, which stands in no help text.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::config::raw::Setting;
use crate::config::value::{self, Unit};
use crate::control::proto::Deed;
use crate::mail::filter::{Condition, DomainPattern, Filter, Pattern, State, Test};
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;
use crate::route;

/// What was typed, checked.
#[derive(Debug, PartialEq)]
pub struct Invocation {
    /// -C: the configuration file.
    pub config_file: Option<PathBuf>,
    /// -o and -O.
    pub options: Vec<Setting>,
    /// Queue IDs given as operands; maybe more than one request takes.
    pub ids: Vec<QueueId>,
    /// More IDs come from standard input.
    pub ids_from_input: bool,
    /// The selections.
    pub conditions: Vec<Condition>,
    /// `--all`
    pub all: bool,
    /// What to do.
    pub task: Task,
    /// JSON lines instead of text.
    pub json: bool,
    /// More, or those changed.
    pub verbose: bool,
}

/// What a subcommand does.
#[derive(Debug, PartialEq)]
pub enum Task {
    /// Lists messages.
    List,
    /// Counts them.
    Count,
    /// Shows messages wholly.
    Show(Parts),
    /// What happened to them.
    History,
    /// Changes them.
    Change {
        /// How.
        deed: Deed,
        /// Only says how many.
        dry_run: bool,
    },
}

/// What of a message is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // named as the options
pub struct Parts {
    pub envelope: bool,
    pub history: bool,
    pub header: bool,
    pub body: bool,
}

/// A selection with a value: its name, what its value is called, its help, and how it is read.
struct Selection {
    name: &'static str,
    /// Its name behind `--not`.
    negated: &'static str,
    value: &'static str,
    help: &'static str,
    read: fn(&str) -> Result<Test, String>,
}

#[rustfmt::skip]
const SELECTIONS: [Selection; 10] = [
    Selection { name: "sender", negated: "not-sender", value: "ADDRESS", help: "The envelope sender; <> is the null one", read: |t| pattern(Pattern::address(t)).map(Test::Sender) },
    Selection { name: "recipient", negated: "not-recipient", value: "ADDRESS", help: "Some recipient still to be tried", read: |t| pattern(Pattern::address(t)).map(Test::Recipient) },
    Selection { name: "domain", negated: "not-domain", value: "DOMAIN", help: "The domain of such a recipient; .DOMAIN: any domain below it", read: |t| pattern(DomainPattern::new(t)).map(Test::Domain) },
    Selection { name: "older-than", negated: "not-older-than", value: "TIME", help: "Accepted longer ago than this: 90s, 15m, 2h, 1d12h", read: |t| length(t).map(Test::Older) },
    Selection { name: "younger-than", negated: "not-younger-than", value: "TIME", help: "Accepted less long ago", read: |t| length(t).map(Test::Younger) },
    Selection { name: "larger-than", negated: "not-larger-than", value: "SIZE", help: "Of more octets than this: 500, 64K, 10M", read: |t| size(t).map(Test::Larger) },
    Selection { name: "smaller-than", negated: "not-smaller-than", value: "SIZE", help: "Of fewer octets", read: |t| size(t).map(Test::Smaller) },
    Selection { name: "status", negated: "not-status", value: "TEXT", help: "What the last attempt met: 'Connection refused'", read: |t| pattern(Pattern::text(t)).map(Test::Status) },
    Selection { name: "reason", negated: "not-reason", value: "TEXT", help: "Why it is held", read: |t| pattern(Pattern::text(t)).map(Test::Reason) },
    Selection { name: "destination", negated: "not-destination", value: "HOST", help: "Where it goes next, as list -v shows it: x.example, '[192.0.2.1]:25'", read: |t| pattern(Pattern::name(t)).map(Test::Destination) },
];

/// Selections without a value: name, name behind `--not`, what is meant, help.
const STATES: [(&str, &str, State, &str); 3] = [
    ("held", "not-held", State::Held, "Set aside by an operator or a policy"),
    (
        "deferred",
        "not-deferred",
        State::Deferred,
        "Tried before, or its destination does not answer",
    ),
    ("incoming", "not-incoming", State::Incoming, "Not tried yet"),
];

/// Those a history can tell of.
const IN_HISTORY: [&str; 9] = [
    "sender",
    "recipient",
    "domain",
    "older-than",
    "younger-than",
    "larger-than",
    "smaller-than",
    "status",
    "destination",
];

const SELECTING: &str = "\
Selections combine with AND, and --not negates the one behind it. ADDRESS: joe@x.example is exactly that, joe@ and @x.example what begins \
or ends so, * and ? stand for any text and any character, and anything else may stand anywhere in the address. Case does not matter.";

const EXAMPLES: &str = "\
Examples:
  kvmta-queue list --deferred --domain x.example
  kvmta-queue count --older-than 1d --not --held
  kvmta-queue show 6AM5g100000000
  kvmta-queue hold --sender spam@ --reason 'spam run' --dry-run -v
  kvmta-queue release --held --reason 'spam run'
  kvmta-queue bounce --status 'Name server' --text 'There is no such domain'
  kvmta-queue reroute --to '[relay.example]:2525' --destination x.example
  kvmta-queue reroute --to route --all
  kvmta-queue reschedule --at +2h --domain slow.example
  kvmta-queue list --json --held | jq -r .id | kvmta-queue remove -
  kvmta-queue history --recipient joe@x.example --younger-than 2d

Without a daemon it opens the queue itself. Exit: 0 done, 64 wrong usage, 66 a message named is not there, 75 try again later,
77 not permitted. See kvmta-queue(8).";

fn pattern<T, E: std::fmt::Display>(read: Result<T, E>) -> Result<T, String> {
    read.map_err(|error| error.to_string())
}

fn length(text: &str) -> Result<Duration, String> {
    value::time(text, Unit::Seconds).map_err(|error| error.to_string())
}

fn size(text: &str) -> Result<u64, String> {
    value::size(text).map_err(|error| error.to_string())
}

/// `-oQ/dir`
fn letter_option(text: &str) -> Result<Setting, String> {
    let mut rest = text.chars();
    match rest.next() {
        Some(letter) => Ok(Setting { name: letter.into(), value: rest.as_str().into() }),
        None => {
            Err("an option letter and its value are needed, such as -oQ/var/spool/kvmta".into())
        }
    }
}

/// `-O Name=value`
fn long_option(text: &str) -> Result<Setting, String> {
    let (name, value) = text.split_once('=').ok_or("Name=value is needed")?;
    Ok(Setting { name: name.trim().into(), value: value.trim().into() })
}

fn one_line(text: &str) -> Result<String, String> {
    match text.chars().any(char::is_control) || text.is_empty() || text.len() > 400 {
        true => Err("one line of at most 400 octets is needed".into()),
        false => Ok(text.to_owned()),
    }
}

fn relay(text: &str) -> Result<String, String> {
    if text == "route" {
        return Ok(text.into());
    }
    route::relay(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

/// An instant: `+2h` from now on, `2026-11-22 18:00` or `18:00` of the system's zone, or with a zone of its own.
fn instant(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Some(text) = text.strip_prefix('+') {
        return Ok(now.after(length(text)?));
    }
    let wrong = || {
        format!(
            "{:?} is no time: +2h, 18:00, 2026-11-22 18:00, 2026-11-22T18:00:00Z",
            value::shown(text)
        )
    };
    let zone = jiff::tz::TimeZone::system();
    let own = jiff::Timestamp::from_millisecond(now.as_millis() as i64).map_err(|_| wrong())?;
    let parsed = match text.parse::<jiff::Timestamp>() {
        Ok(instant) => instant,
        Err(_) => {
            let own = own.to_zoned(zone.clone());
            let civil = text.replacen(' ', "T", 1).parse::<jiff::civil::DateTime>();
            let civil = civil.or_else(|_| text.parse().map(|time| own.date().to_datetime(time)));
            let found = civil.map_err(|_| wrong())?.to_zoned(zone).map_err(|_| wrong())?;
            found.timestamp()
        }
    };
    let millis = u64::try_from(parsed.as_millisecond()).map_err(|_| wrong())?;
    let instant = Timestamp::from_millis(millis);
    match instant < now {
        true => Err(format!("{text} is past; requeue makes messages due now")),
        false => Ok(instant),
    }
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// The arguments of a subcommand that picks messages.
fn with_selections(command: Command, names: impl Fn(&str) -> bool) -> Command {
    let mut command = command.after_help(SELECTING).next_help_heading("Selections").arg(
        Arg::new("not")
            .long("not")
            .action(ArgAction::SetTrue)
            .help("Negates the selection behind it"),
    );
    for selection in SELECTIONS.iter().filter(|selection| names(selection.name)) {
        let parser = || ValueParser::new(selection.read);
        let plain = Arg::new(selection.name).long(selection.name).value_name(selection.value);
        let negated = Arg::new(selection.negated).long(selection.negated).hide(true);
        command = command
            .arg(plain.action(ArgAction::Append).value_parser(parser()).help(selection.help))
            .arg(negated.action(ArgAction::Append).value_parser(parser()));
    }
    for (name, negated, _, help) in STATES.into_iter().filter(|(name, ..)| names(name)) {
        command = command.arg(switch(name, help)).arg(switch(negated, "").hide(true));
    }
    command.next_help_heading(None::<&str>)
}

fn ids(help: &'static str) -> Arg {
    Arg::new("ids").value_name("ID").action(ArgAction::Append).help(help)
}

fn changing(name: &'static str, about: &'static str) -> Command {
    let command = Command::new(name)
        .about(about)
        .arg(ids("Queue IDs; - reads them from standard input, the first word of each line"))
        .arg(switch("all", "Every message, when there is no ID and no selection"))
        .arg(switch("dry-run", "Change nothing, say how many it would be").short('n'))
        .arg(switch("verbose", "List the messages too").short('v'));
    // What is held keeps its reason, so for `hold` that is no selection but what it gives.
    with_selections(command, |selection| (name, selection) != ("hold", "reason"))
}

fn looking(name: &'static str, about: &'static str) -> Command {
    Command::new(name).about(about).arg(switch("json", "JSON lines, for programs"))
}

fn command() -> Command {
    let listing = with_selections(
        looking("list", "List messages, one line each")
            .arg(ids("Queue IDs; - reads them from standard input"))
            .arg(
                switch("verbose", "With reason, status, destination and time of the next attempt")
                    .short('v'),
            ),
        |_| true,
    );
    let counting = with_selections(
        looking("count", "Count messages").arg(ids("Queue IDs; - reads them from standard input")),
        |_| true,
    );
    let history = with_selections(
        looking("history", "Show what happened to messages, also to those that are gone")
            .arg(ids("Queue IDs; - reads them from standard input")),
        |name| IN_HISTORY.contains(&name),
    );
    let show = looking("show", "Show messages: envelope, recipients, history, header and body")
        .arg(ids("Queue IDs").required(true))
        .arg(switch("envelope", "Only envelope and recipients, and what else is named"))
        .arg(switch("history", "Only the history, and what else is named"))
        .arg(switch("header", "Only the header, and what else is named"))
        .arg(switch("body", "Only the body, and what else is named"));
    let text = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("TEXT")
            .value_parser(ValueParser::new(one_line))
            .help(help)
    };
    Command::new("kvmta-queue")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Find, show and change the messages of a kvmta queue")
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(
            Arg::new("config")
                .short('C')
                .value_name("FILE")
                .global(true)
                .value_parser(value_parser!(PathBuf))
                .help("Configuration file"),
        )
        .arg(
            Arg::new("letter")
                .short('o')
                .value_name("Xvalue")
                .global(true)
                .action(ArgAction::Append)
                .value_parser(ValueParser::new(letter_option))
                .help("An option by its letter: -oQ/dir names the queue"),
        )
        .arg(
            Arg::new("option")
                .short('O')
                .value_name("Name=value")
                .global(true)
                .action(ArgAction::Append)
                .value_parser(ValueParser::new(long_option))
                .help("An option by its name"),
        )
        .subcommand(listing)
        .subcommand(counting)
        .subcommand(show)
        .subcommand(history)
        .subcommand(
            changing("hold", "Set messages aside: not tried, not given up")
                .arg(text("reason", "Why, as listings show it").default_value("held by operator")),
        )
        .subcommand(changing("release", "Put held messages back, due at once"))
        .subcommand(changing("remove", "Forget messages; nobody is told").visible_alias("delete"))
        .subcommand(
            changing("bounce", "Give messages up now; their senders are told").arg(
                text("text", "Words for the report").default_value("Returned by the postmaster"),
            ),
        )
        .subcommand(changing(
            "requeue",
            "Try messages now, whatever is known of their destinations",
        ))
        .subcommand(
            changing("reschedule", "Change the time of the next attempt").arg(
                Arg::new("at")
                    .long("at")
                    .value_name("TIME")
                    .required(true)
                    .help("+2h from now, 18:00, or 2026-11-22 18:00; eight days ahead at most"),
            ),
        )
        .subcommand(
            changing("reroute", "Send messages to another relay, due now").arg(
                Arg::new("to")
                    .long("to")
                    .value_name("HOST")
                    .required(true)
                    .value_parser(ValueParser::new(relay))
                    .help("[host]:port or [host]; domain for its MX; route: as configured again"),
            ),
        )
}

/// Reads `--not --held` as `--not-held`.
fn join_negations(arguments: Vec<OsString>) -> Result<Vec<OsString>, String> {
    let known = |name: &str| {
        SELECTIONS.iter().any(|selection| selection.name == name)
            || STATES.iter().any(|(state, ..)| *state == name)
    };
    let mut joined = Vec::with_capacity(arguments.len());
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            joined.push(argument);
            break;
        }
        if argument != "--not" {
            joined.push(argument);
            continue;
        }
        let next = arguments.next();
        let negated = next.as_ref().and_then(|next| next.to_str()).and_then(|next| {
            let name = next.strip_prefix("--")?;
            let bare = name.split_once('=').map_or(name, |(bare, _)| bare);
            known(bare).then(|| format!("--not-{name}"))
        });
        joined.push(
            negated.ok_or("--not belongs in front of a selection, such as --not --held")?.into(),
        );
    }
    joined.extend(arguments);
    Ok(joined)
}

/// What was typed wrongly; or asked for, as help is.
#[derive(Debug)]
pub enum ArgsError {
    /// clap's, with its own text and colour.
    Clap(clap::Error),
    /// Ours: one line.
    Usage(String),
}

/// Reads the command line, the program's name first.
///
/// # Errors
/// [`ArgsError`]; nothing is to be done then.
pub fn parse(arguments: Vec<OsString>, now: Timestamp) -> Result<Invocation, ArgsError> {
    let arguments = join_negations(arguments).map_err(ArgsError::Usage)?;
    let matches = command().try_get_matches_from(arguments).map_err(ArgsError::Clap)?;
    let Some((name, matches)) = matches.subcommand() else {
        return Err(ArgsError::Usage("a subcommand is needed; see --help".into()));
    };
    read(name, matches, now).map_err(ArgsError::Usage)
}

fn read(name: &str, matches: &ArgMatches, now: Timestamp) -> Result<Invocation, String> {
    let text = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
    let deed = match name {
        "hold" => Some(Deed::Hold { reason: text("reason") }),
        "release" => Some(Deed::Release),
        "remove" => Some(Deed::Remove),
        "bounce" => Some(Deed::Bounce { words: text("text") }),
        "requeue" => Some(Deed::Requeue),
        "reschedule" => Some(Deed::Reschedule { due: instant(&text("at"), now)? }),
        "reroute" => Some(Deed::Reroute { relay: Some(text("to")).filter(|to| to != "route") }),
        _ => None,
    };
    let task = match (deed, name) {
        (Some(deed), _) => Task::Change { deed, dry_run: flag(matches, "dry-run") },
        (None, "count") => Task::Count,
        (None, "show") => Task::Show(parts(matches)),
        (None, "history") => Task::History,
        (None, _) => Task::List,
    };
    let (mut ids, mut ids_from_input) = (Vec::new(), false);
    for id in matches.get_many::<String>("ids").into_iter().flatten() {
        match id.as_str() {
            "-" => ids_from_input = true,
            id => ids.push(id.parse().map_err(|error| format!("{error}"))?),
        }
    }
    let conditions = if name == "show" { Vec::new() } else { conditions(matches) };
    let many = |name: &str| matches.get_many::<Setting>(name).into_iter().flatten().cloned();
    let invocation = Invocation {
        config_file: matches.get_one::<PathBuf>("config").cloned(),
        options: many("letter").chain(many("option")).collect(),
        ids,
        ids_from_input,
        conditions,
        all: flag(matches, "all"),
        task,
        json: flag(matches, "json"),
        verbose: flag(matches, "verbose"),
    };
    check_scope(&invocation)?;
    Ok(invocation)
}

/// What has no selection changes nothing, unless it says that it means everything.
fn check_scope(invocation: &Invocation) -> Result<(), String> {
    let is_selected = !invocation.ids.is_empty()
        || invocation.ids_from_input
        || !invocation.conditions.is_empty();
    match (&invocation.task, is_selected, invocation.all) {
        (Task::Change { .. }, false, false) => {
            Err("no queue ID and no selection: nothing was done; --all means every message".into())
        }
        (_, true, true) => {
            Err("--all means every message; leave it out, or the queue IDs and selections".into())
        }
        _ => Ok(()),
    }
}

/// A switch; false where the subcommand has none of that name.
fn flag(matches: &ArgMatches, name: &str) -> bool {
    matches.try_get_one::<bool>(name).ok().flatten().copied().unwrap_or(false)
}

fn parts(matches: &ArgMatches) -> Parts {
    let [envelope, history, header, body] =
        ["envelope", "history", "header", "body"].map(|name| flag(matches, name));
    match envelope || history || header || body {
        true => Parts { envelope, history, header, body },
        false => Parts { envelope: true, history: true, header: true, body: true },
    }
}

fn conditions(matches: &ArgMatches) -> Vec<Condition> {
    let mut conditions = Vec::new();
    for selection in &SELECTIONS {
        for (negated, name) in [(false, selection.name), (true, selection.negated)] {
            // A subcommand that has no such selection has no such argument either.
            let tests = matches.try_get_many::<Test>(name).ok().flatten();
            let tests = tests.into_iter().flatten().cloned();
            conditions.extend(tests.map(|test| Condition { negated, test }));
        }
    }
    for (name, not_name, state, _) in STATES {
        for (negated, name) in [(false, name), (true, not_name)] {
            if flag(matches, name) {
                conditions.push(Condition { negated, test: Test::State(state) });
            }
        }
    }
    conditions
}

impl Invocation {
    /// The filter for these of its IDs.
    pub fn filter(&self, ids: &[QueueId]) -> Filter {
        Filter { ids: ids.to_vec(), conditions: self.conditions.clone() }
    }
}

#[cfg(test)]
mod tests;
