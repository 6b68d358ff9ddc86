//! The command line as data: `tests/operator/selections.txt`.

use super::*;
use crate::mail::address::ReversePath;
use crate::mail::envelope::{BodyType, Envelope, Notify, Recipient, RecipientState, TimeoutClass};
use crate::mail::job::{BodyRef, Destination, Entry, EntryJob, Mailer};
use crate::mail::outcome::Report;
use crate::mail::status::EnhancedStatus;

const NOW: Timestamp = Timestamp::from_secs(1_795_328_479);
const CASES: &str = include_str!("../../../../tests/operator/selections.txt");

/// Words by blanks; `'...'` anywhere in a word may hold blanks.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut some) = (Vec::new(), String::new(), false, false);
    for c in line.chars() {
        match c {
            '\'' => (quoted, some) = (!quoted, true),
            ' ' if !quoted => {
                if some {
                    words.push(std::mem::take(&mut word));
                }
                some = false;
            }
            c => {
                word.push(c);
                some = true;
            }
        }
    }
    if some {
        words.push(word);
    }
    words
}

fn report(text: &str) -> Box<Report> {
    let status = EnhancedStatus::new(4, 0, 0);
    let text = text.to_owned();
    Box::new(Report { status, text, reply: None, command: None, remote: None, at: NOW })
}

fn recipient(text: &str, own: Option<&str>) -> Recipient {
    let (address, state) = text.split_once(':').unwrap_or((text, "open"));
    let state = match state {
        "open" => RecipientState::Open(own.map(report)),
        "sent" => RecipientState::Done { report: report("Ok"), relayed: true, reported: true },
        _ => RecipientState::Failed { report: report("User unknown"), reported: true },
    };
    Recipient { address: address.parse().unwrap(), orcpt: None, notify: Notify::Unspecified, state }
}

fn entry(line: &str) -> (String, Entry) {
    let words = words(line);
    let get = |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let arrival = NOW.before(length(get("age").unwrap()).unwrap());
    let (relay, protocol) = get("by").unwrap().split_once('/').unwrap();
    let id = QueueId::at(arrival);
    let envelope = Envelope {
        reverse_path: match get("sender").unwrap() {
            "<>" => ReversePath::Null,
            sender => ReversePath::Mailbox(sender.parse().unwrap()),
        },
        arrival,
        relay: relay.into(),
        protocol: protocol.into(),
        body_type: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        timeouts: TimeoutClass::Normal,
        precedence: 0,
        priority: 0,
        message_id: String::new(),
        header_len: 10,
        size: get("size").unwrap().parse().unwrap(),
        body_lines: 0,
        relay_override: None,
        deliver_by: None,
    };
    let to = get("to").unwrap().split(',');
    let job = EntryJob {
        number: 0,
        destination: Destination { mailer: Mailer::Esmtp, next_hop: get("hop").unwrap().into() },
        due: NOW,
        attempts: get("tried").map_or(0, |tried| tried.parse().unwrap()),
        last_attempt: None,
        status: get("status").map(str::to_owned),
        recipients: to.map(|to| recipient(to, get("own"))).collect(),
    };
    let entry = Entry {
        id,
        envelope,
        held: get("held").map(str::to_owned),
        warned: false,
        body: BodyRef::Incoming(id),
        recipients_total: job.recipients.len() as u32,
        jobs: vec![job],
        lost: false,
        in_flight: false,
    };
    (words[1].clone(), entry)
}

fn parsed(line: &str) -> Result<Invocation, String> {
    let words = words(line).into_iter().map(OsString::from);
    let arguments = std::iter::once(OsString::from("kvmta-queue")).chain(words).collect();
    parse(arguments, NOW).map_err(|error| match error {
        ArgsError::Clap(error) => error.to_string(),
        ArgsError::Usage(text) => text,
    })
}

#[test]
fn selections_mean_what_the_table_says() {
    let mut messages = Vec::new();
    let mut wrong = Vec::new();
    let lines = CASES.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines {
        if line.starts_with("message ") {
            messages.push(entry(line));
            continue;
        }
        let (arguments, expected) = line.split_once(" =>").expect("a case has an arrow");
        let expected = expected.trim();
        let found = match parsed(arguments) {
            Err(text) => match expected.strip_prefix("error") {
                Some(words) if text.contains(words.trim()) => continue,
                _ => format!("error {text}"),
            },
            Ok(invocation) => {
                let filter = invocation.filter(&invocation.ids);
                let meant = |entry: &Entry| filter.look(entry, NOW).matches();
                let names = messages.iter().filter(|(_, entry)| meant(entry));
                names.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ")
            }
        };
        if found != expected {
            wrong.push(format!("{arguments}\n  expected {expected}\n  found    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The jobs of a long list come one by one, and say the same as if they stood in the entry.
#[test]
fn a_long_list_is_judged_job_by_job() {
    let (_, mut long) = entry(
        "message x sender=a@b.example to=y@c.example age=1h size=1 hop=c.example tried=1 status=busy by=/",
    );
    let jobs = std::mem::take(&mut long.jobs);
    for (arguments, expected) in [
        ("list --domain c.example", true),
        ("list --not --domain c.example", false),
        ("list --deferred --status busy", true),
        ("list --incoming", false),
        ("list --destination c.example --sender a@", true),
    ] {
        let filter = parsed(arguments).unwrap().filter(&[]);
        let mut look = filter.look(&long, NOW);
        assert!(look.needs_jobs(), "{arguments}");
        jobs.iter().for_each(|job| look.job(job));
        assert_eq!(look.matches(), expected, "{arguments}");
    }
    let filter = parsed("list --sender a@ --held").unwrap().filter(&[]);
    assert!(!filter.look(&long, NOW).needs_jobs());
}

#[test]
fn ids_and_options_are_read() {
    let id = QueueId::at(NOW);
    let read = parsed(&format!("-oQ/q remove {id} - -n -O HistoryTime=1d")).unwrap();
    assert_eq!((&read.ids[..], read.ids_from_input), (&[id][..], true));
    assert_eq!(read.task, Task::Change { deed: Deed::Remove, dry_run: true });
    let option = |name: &str, value: &str| Setting { name: name.into(), value: value.into() };
    assert_eq!(read.options, [option("Q", "/q"), option("HistoryTime", "1d")]);
    let read = parsed("reschedule --all --at +90m").unwrap();
    let deed = Deed::Reschedule { due: NOW.after(Duration::from_secs(5400)) };
    assert_eq!(read.task, Task::Change { deed, dry_run: false });
    let read = parsed("reschedule --all --at 2026-11-23T01:02:03Z").unwrap();
    let deed = Deed::Reschedule { due: Timestamp::from_secs(1_795_395_723) };
    assert_eq!(read.task, Task::Change { deed, dry_run: false });
    command().debug_assert();
}
