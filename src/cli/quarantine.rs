//! `-Q`: holds the messages that -q selects, or lets them go.
//!
//! With a reason and without a Q limit it is about messages that are not held; with -qQ it gives the held ones another
//! reason. Without a reason it is about the held ones alone. What is done is said only with -v, in sendmail's words.

use std::io::{self, Write};
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
    let mut changes = 0u64;
    let mut out = io::stdout();
    let mut heading = Some(format!("Processing {}:", config.queue_directory.display()));
    let mut say = |text: &str| match config.verbose {
        // The heading comes with the first line: whoever may not do this does not see it.
        true => {
            let heading = heading.take().map(|heading| heading + "\n").unwrap_or_default();
            writeln!(out, "{heading}{text}")
        }
        false => Ok(()),
    };
    let result = ask::connect(config, log).and_then(|connected| {
        let exit = ask::exchange(connected, &request, &mut |answer| {
            let Answer::Quarantined(page) = answer else { return Ok(()) };
            page.iter().try_for_each(|(id, was)| {
                changes += u64::from(*was != reason);
                say(&line(*id, was.as_deref(), reason.as_deref()))
            })
        })?;
        say(&sum(changes)).map_err(ask::broken_pipe)?;
        Ok(exit)
    });
    ask::finish(result)
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

    #[test]
    fn says_what_sendmail_says() {
        let ids = ["6AM6KPaP020579", "6AM6KP5F020574", "6AM6KPiB020585"];
        let mut text = String::from("Processing /var/spool/mqueue:\n");
        for id in ids {
            text.push_str(&line(id.parse().unwrap(), None, Some("testing")));
            text.push('\n');
        }
        text.push_str(&sum(3));
        let expected = crate::cli::golden::printed(GOLDEN, "sendmail -Qtesting -qSroot -v");
        assert_eq!(text + "\n", expected);
        assert_eq!((sum(0).as_str(), sum(1).as_str()), ("No changes", "1 change"));
    }
}
