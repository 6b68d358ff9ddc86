//! `mailstats`: what was counted by mailer, in sendmail's columns.
//!
//! A command of its own in sendmail, with its own flags: `-p` for programs and begin anew, `-P` for programs, `-o` without
//! the names of mailers, `-C FILE`, and `-c`, `-f FILE` of which the first means nothing here (there is one queue) and the
//! second is refused: figures are part of the queue, not of a file. `-O Name=value` and `-oQDIRECTORY` choose a queue.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::argv::{Invocation, Mode, UsageError};
use super::ask::{self, Log};
use super::exit::Exit;
use crate::config::Config;
use crate::config::raw::Setting;
use crate::control::proto::{Answer, Request};
use crate::mail::statistics::{Figures, Statistics};
use crate::mail::status_file::number;
use crate::mail::time::Timestamp;

const RULE: &str = "=====================================================================";

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Form {
    /// `-p`, `-P`: for programs.
    pub machine: bool,
    /// `-p`: begin anew afterwards.
    pub reset: bool,
    /// `-o`: without the names of mailers.
    pub nameless: bool,
}

/// Understands the words behind the program's name.
///
/// # Errors
/// [`UsageError`]
pub fn parse(program: String, words: Vec<String>) -> Result<Invocation, UsageError> {
    let wrong = |text: String| Err(UsageError::Wrong(text));
    let usage = || format!("usage: {program} [-C cffile] [-O option=value] [-c] [-o] [-p] [-P]");
    let (mut form, mut config_file, mut options) = (Form::default(), None, Vec::new());
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            return wrong(usage());
        };
        if letters.starts_with("oQ") {
            options.push(Setting::letter(&letters[1..]));
            continue;
        }
        let mut rest = letters.chars();
        while let Some(letter) = rest.next() {
            match letter {
                'p' => form = Form { machine: true, reset: true, ..form },
                'P' => form.machine = true,
                'o' => form.nameless = true,
                'c' => {}
                'C' | 'f' | 'O' => {
                    let attached = std::mem::replace(&mut rest, "".chars());
                    let value = match attached.as_str() {
                        "" => words.next(),
                        value => Some(value.to_owned()),
                    };
                    let Some(value) = value else {
                        return wrong(format!(
                            "{program}: option requires an argument -- {letter}\n{}",
                            usage()
                        ));
                    };
                    match letter {
                        'C' => config_file = Some(PathBuf::from(value)),
                        'O' => options.push(Setting::long(&value)),
                        _ => {
                            return wrong(format!(
                                "{program}: -f {value}: figures are kept in the queue, not in a file; \
                                 choose a queue with -O QueueDirectory=DIRECTORY"
                            ));
                        }
                    }
                }
                other => {
                    return wrong(format!("{program}: illegal option -- {other}\n{}", usage()));
                }
            }
        }
    }
    Ok(Invocation::plain(program, Mode::Statistics(form), config_file, options))
}

/// Prints what was counted.
pub fn print(config: &Arc<Config>, form: Form, now: Timestamp, log: Log<'_>) -> Exit {
    let request = Request::Statistics { reset: form.reset };
    let result = ask::connect(config, log).and_then(|connected| {
        ask::exchange(connected, &request, &mut |answer| match answer {
            Answer::Statistics(statistics) => {
                let text = table(&statistics, form, now, &config.time_zone);
                io::stdout().write_all(text.as_bytes())
            }
            _ => Ok(()),
        })
    });
    ask::finish(result)
}

/// The table; `zone` is for its date.
pub fn table(statistics: &Statistics, form: Form, now: Timestamp, zone: &TimeZone) -> String {
    let mut out = String::new();
    let Form { machine, nameless, .. } = form;
    // Writing to a String cannot fail.
    let _ = match machine {
        true => writeln!(out, "{} {}", statistics.since.as_secs(), now.as_secs()),
        false => writeln!(
            out,
            "Statistics from {}\n M   msgsfr  bytes_from   msgsto    bytes_to  msgsrej msgsdis msgsqur{}",
            statistics.since.ctime(zone),
            if nameless { "" } else { "  Mailer" },
        ),
    };
    let mut mailers: Vec<_> = statistics
        .mailers
        .iter()
        .filter(|(_, figures)| *figures != Figures::default())
        .map(|(mailer, figures)| (number(*mailer), mailer.name(), figures))
        .collect();
    mailers.sort_unstable_by_key(|(number, _, _)| *number);
    let mut total = Figures::default();
    for (number, name, figures) in mailers {
        total = total.plus(*figures);
        let name = if nameless { String::new() } else { format!("  {name}") };
        let _ = writeln!(out, "{number:2}{}{name}", columns(figures, machine));
    }
    if !machine {
        let _ = writeln!(out, "{RULE}");
    }
    let connections = &statistics.connections;
    let _ = writeln!(out, " T{}", columns(&total, machine));
    let _ = match machine {
        true => writeln!(
            out,
            " C {:8} {:8} {:6}",
            connections.from, connections.to, connections.rejected
        ),
        false => writeln!(
            out,
            " C {:8} {:10}  {:8} {:10}    {:6}",
            connections.from, "", connections.to, "", connections.rejected
        ),
    };
    out
}

fn columns(figures: &Figures, machine: bool) -> String {
    let unit = if machine { "" } else { "K" };
    let Figures { messages_from, kib_from, messages_to, kib_to, .. } = figures;
    let Figures { rejected, discarded, quarantined, .. } = figures;
    format!(
        " {messages_from:8} {kib_from:10}{unit} {messages_to:8} {kib_to:10}{unit}   \
         {rejected:6}  {discarded:6}  {quarantined:6}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::golden::printed;
    use crate::mail::job::Mailer;
    use crate::mail::statistics::Connections;

    const GOLDEN: &str = include_str!("../../tests/golden/mailstats.txt");
    const EMPTY: &str = include_str!("../../tests/golden/mailstats-empty.txt");

    fn figures(from: (u64, u64), to: (u64, u64), rejected: u64) -> Figures {
        Figures {
            messages_from: from.0,
            kib_from: from.1,
            messages_to: to.0,
            kib_to: to.1,
            rejected,
            ..Figures::default()
        }
    }

    fn printed_as(statistics: &Statistics, machine: bool, now: u64) -> String {
        let form = Form { machine, ..Form::default() };
        table(statistics, form, Timestamp::from_secs(now), &TimeZone::UTC)
    }

    #[test]
    fn tables_are_sendmails() {
        let since = Timestamp::from_secs(1_795_328_425);
        let mut statistics = Statistics { since, ..Statistics::default() };
        assert_eq!(printed_as(&statistics, false, 0), printed(EMPTY, "mailstats"));
        statistics.mailers = vec![
            (Mailer::Esmtp, figures((0, 0), (1, 1), 0)),
            (Mailer::Local, figures((4, 4), (0, 0), 0)),
            (Mailer::Relay, Figures::default()),
        ];
        statistics.connections = Connections { from: 0, to: 2, rejected: 0 };
        assert_eq!(printed_as(&statistics, false, 0), printed(GOLDEN, "mailstats"));
        assert_eq!(printed_as(&statistics, true, 1_795_328_427), printed(GOLDEN, "mailstats -p"));
    }

    #[test]
    fn machine_rows_and_reset_counters() {
        let statistics =
            Statistics { since: Timestamp::from_secs(1_795_328_428), ..Statistics::default() };
        assert_eq!(printed_as(&statistics, true, 1_795_328_428), printed(GOLDEN, "mailstats -P"));
        let mut statistics = statistics;
        statistics.mailers = vec![
            (Mailer::Local, figures((39, 54), (18, 30), 2)),
            (Mailer::Esmtp, figures((6, 70), (11, 11), 6)),
        ];
        statistics.connections = Connections { from: 51, to: 18, rejected: 8 };
        let rest = GOLDEN.split_once("$ mailstats -P\n").unwrap().1;
        assert_eq!(printed_as(&statistics, false, 0), printed(rest, "mailstats"));
        assert_eq!(printed_as(&statistics, true, 1_795_328_534), printed(rest, "mailstats -p"));
    }

    #[test]
    fn flags_are_sendmails() {
        let form = |line: &str| {
            let words = line.split_whitespace().map(str::to_owned).collect();
            parse("mailstats".into(), words).map(|invocation| match invocation.mode {
                Mode::Statistics(form) => (form, invocation.config_file, invocation.options.len()),
                other => panic!("{other:?}"),
            })
        };
        let plain = Form::default();
        assert_eq!(form(""), Ok((plain, None, 0)));
        let reset = Form { machine: true, reset: true, nameless: true };
        assert_eq!(form("-cpo"), Ok((reset, None, 0)));
        let machine = Form { machine: true, ..plain };
        assert_eq!(form("-P -C /x.cf -oQ/tmp/q"), Ok((machine, Some("/x.cf".into()), 1)));
        for wrong in ["-x", "operand", "-C", "-f /var/lib/sendmail.st", "-"] {
            assert!(form(wrong).is_err(), "{wrong}");
        }
    }
}
