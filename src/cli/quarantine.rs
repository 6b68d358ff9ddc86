//! `-Q`: holds the messages that -q selects, or lets them go.
//!
//! With a reason and without a Q limit it is about messages that are not held; with -qQ it gives the held ones another
//! reason. Without a reason it is about the held ones alone. What is done is said only with -v, in sendmail's words.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use super::ask::{self, Log};
use super::exit::Exit;
use crate::config::Config;
use crate::control::proto::{Answer, Request};
use crate::mail::queue_id::QueueId;
use crate::mail::selection::Selection;

/// Holds for `reason`, or lets go without one.
pub fn quarantine(
    config: &Arc<Config>,
    selection: Selection,
    reason: Option<String>,
    log: Log<'_>,
) -> Exit {
    let request = Request::Quarantine { selection, reason: reason.clone() };
    let mut told = Told { found: false, changes: 0 };
    let mut out = io::stdout();
    let mut say = |text: String| match config.verbose {
        true => out.write_all(text.as_bytes()),
        false => Ok(()),
    };
    let result = ask::connect(config, log).and_then(|connected| {
        // Nothing is said before there is an answer: whoever may not do this does not see it.
        let exit = ask::exchange(connected, &request, &mut |answer| match answer {
            Answer::Quarantined(page) => {
                say(told.page(&config.queue_directory, &page, reason.as_deref()))
            }
            _ => Ok(()),
        })?;
        say(told.end(&config.queue_directory)).map_err(ask::broken_pipe)?;
        Ok(exit)
    });
    ask::finish(result)
}

/// What was told so far.
struct Told {
    found: bool,
    changes: u64,
}

impl Told {
    /// Some messages, each with what it was held for before.
    fn page(
        &mut self,
        directory: &Path,
        page: &[(QueueId, Option<String>)],
        reason: Option<&str>,
    ) -> String {
        let mut text = match std::mem::replace(&mut self.found, true) {
            false => format!("Processing {}:\n", directory.display()),
            true => String::new(),
        };
        for (id, was) in page {
            self.changes += u64::from(was.as_deref() != reason);
            text.push_str(&line(*id, was.as_deref(), reason));
            text.push('\n');
        }
        text
    }

    fn end(&self, directory: &Path) -> String {
        let heading = match self.found {
            true => String::new(),
            false => format!("{}: no matches\n", directory.display()),
        };
        format!("{heading}{}\n", sum(self.changes))
    }
}

fn line(id: QueueId, was: Option<&str>, reason: Option<&str>) -> String {
    match (was, reason) {
        (None, Some(reason)) => format!("{id}: Quarantined with \"{reason}\""),
        (Some(was), Some(reason)) if was == reason => {
            format!("{id}: Already quarantined with \"{reason}\"")
        }
        (Some(was), Some(reason)) => {
            format!("{id}: Quarantine changed from \"{was}\" to \"{reason}\"")
        }
        (Some(was), None) => format!("{id}: Removed quarantine of \"{was}\""),
        (None, None) => format!("{id}: Not quarantined"),
    }
}

fn sum(changes: u64) -> String {
    match changes {
        0 => "No changes".to_owned(),
        1 => "1 change".to_owned(),
        changes => format!("{changes} changes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("../../tests/golden/quarantine.txt");
    const ALL: &str = include_str!("../../tests/golden/queue-commands.txt");

    fn told(found: &[(&str, Option<&str>)], reason: Option<&str>) -> String {
        let page: Vec<_> =
            found.iter().map(|(id, was)| (id.parse().unwrap(), was.map(str::to_owned))).collect();
        let directory = Path::new("/var/spool/mqueue");
        let mut told = Told { found: false, changes: 0 };
        let text =
            if page.is_empty() { String::new() } else { told.page(directory, &page, reason) };
        text + &told.end(directory)
    }

    #[test]
    fn says_what_sendmail_says() {
        let ids = ["6AM6KPaP020579", "6AM6KP5F020574", "6AM6KPiB020585"];
        let found = ids.map(|id| (id, None));
        let expected = crate::cli::golden::printed(GOLDEN, "sendmail -Qtesting -qSroot -v");
        assert_eq!(told(&found, Some("testing")), expected);

        let golden = |command: &str, number: usize| {
            let part = ALL.match_indices(&format!("$ {command}\n")).nth(number).expect("there").0;
            let text = crate::cli::golden::printed(&ALL[part..], command);
            text.replace("ONE", ids[0]).replace("TWO", ids[1]).replace("THREE", ids[2])
        };
        let all = |was| [(ids[2], was), (ids[1], was), (ids[0], was)];
        let one = |was| [(ids[0], was)];
        for (command, number, found, reason) in [
            ("sendmail -Qtesting -qRx1 -v", 0, &one(None)[..], Some("testing")),
            ("sendmail -Qtesting -qRx1 -v", 1, &[], Some("testing")),
            ("sendmail -Qtesting -qRx1 -qQ -v", 0, &one(Some("testing")), Some("testing")),
            ("sendmail -Qother -qRx1 -qQ -v", 0, &one(Some("testing")), Some("other")),
            ("sendmail -Q -qRx1 -qQ -v", 0, &one(Some("other")), None),
            ("sendmail -Q -qQ -v", 0, &[], None),
            ("sendmail -Qall -v", 0, &all(None), Some("all")),
            ("sendmail -Qall -qQ -v", 0, &all(Some("all")), Some("all")),
            ("sendmail -Q -qQ -v", 1, &all(Some("all")), None),
            ("sendmail -Qr -qRnosuch -v", 0, &[], Some("r")),
        ] {
            assert_eq!(told(found, reason), golden(command, number), "{command} ({number})");
        }
    }
}
