//! `-bh` (hoststat) and `-bH` (purgestat): what the store remembers of other hosts.
//!
//! The columns are sendmail's: host, how long ago it was spoken to, what it said last. purgestat forgets those that are
//! older than Timeout.hoststatus and prints nothing.

use std::io::{self, Write};
use std::sync::Arc;

use super::ask::{self, Log};
use super::exit::Exit;
use crate::config::Config;
use crate::control::proto::{Answer, Request};
use crate::mail::outcome::HostOutcome;
use crate::mail::time::{Timestamp, delay};

/// Columns of a result; with -v the wider one.
const RESULT: usize = 25;
const RESULT_VERBOSE: usize = 78;
const HEADING: &str =
    " -------------- Hostname --------------- How long ago ---------Results---------";

/// Prints the status of every host; nothing at all when there is none.
pub fn print(config: &Arc<Config>, now: Timestamp, log: Log<'_>) -> Exit {
    let width = if config.verbose { RESULT_VERBOSE } else { RESULT };
    let mut headed = false;
    let result = ask::connect(config, log).and_then(|connected| {
        ask::exchange(connected, &Request::Hosts, &mut |answer| {
            let Answer::Hosts(hosts) = answer else { return Ok(()) };
            let mut out = io::stdout().lock();
            if !std::mem::replace(&mut headed, true) {
                writeln!(out, "{HEADING}")?;
            }
            hosts.iter().try_for_each(|host| writeln!(out, "{}", row(host, now, width)))
        })
    });
    ask::finish(result)
}

/// Forgets expired status.
pub fn purge(config: &Arc<Config>, log: Log<'_>) -> Exit {
    let result = ask::connect(config, log)
        .and_then(|connected| ask::exchange(connected, &Request::PurgeHosts, &mut |_| Ok(())));
    ask::finish(result)
}

/// ` ok.example.net                              00:00:01 250 2.0.0 Ok`
fn row(host: &HostOutcome, now: Timestamp, width: usize) -> String {
    let age = delay(now.since(host.at));
    let text = match (host.up, host.text.as_str()) {
        (true, "") => "OK".to_owned(),
        (true, text) => text.to_owned(),
        (false, text) => format!("Deferred: {}", without_host(text, &host.host)),
    };
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text: String = text.chars().take(width).collect();
    format!(" {:<39} {age:>12} {text}", host.host)
}

/// The trouble without the host, which stands in the row already: `Connection refused by mx.example.` is `Connection refused`.
fn without_host<'a>(text: &'a str, host: &str) -> &'a str {
    let before = text.trim_end_matches('.').strip_suffix(host.trim_end_matches('.'));
    let before =
        before.and_then(|text| [" by ", " with "].iter().find_map(|word| text.strip_suffix(word)));
    before.unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::status::EnhancedStatus;

    const GOLDEN: &str = include_str!("../../tests/golden/hoststat.txt");

    #[test]
    fn rows_are_sendmails() {
        let now = Timestamp::from_secs(1_795_328_426);
        let host = |name: &str, up, text: &str| HostOutcome {
            host: name.into(),
            up,
            text: text.into(),
            status: EnhancedStatus::new(2, 0, 0),
            at: Timestamp::from_secs(1_795_328_425),
        };
        let hosts = [
            host("ok.example.net", true, "250 2.0.0 Ok"),
            host("down.example.net", false, "Connection refused by down.example.net."),
            host("soft.example.net", true, ""),
        ];
        for (command, width) in
            [("hoststat", RESULT), ("sendmail -bh", RESULT), ("sendmail -bh -v", RESULT_VERBOSE)]
        {
            let rows = hosts.iter().map(|host| row(host, now, width));
            let text: Vec<String> = std::iter::once(HEADING.to_owned()).chain(rows).collect();
            assert_eq!(text.join("\n") + "\n", crate::cli::golden::printed(GOLDEN, command));
        }
    }
}
