//! Listings compared with those of sendmail 8.17 in `tests/golden/`, octet by octet.

use super::*;
use crate::cli::golden::printed;
use crate::mail::envelope::{Envelope, Notify, TimeoutClass};
use crate::mail::job::{BodyRef, Destination, EntryJob, Mailer};
use crate::mail::outcome::Report;
use crate::mail::status::EnhancedStatus;

const DEFERRED: &str = include_str!("../../../tests/golden/mailq-deferred.txt");
const EMPTY: &str = include_str!("../../../tests/golden/mailq-empty.txt");
const QUARANTINE: &str = include_str!("../../../tests/golden/quarantine.txt");

const REFUSED: &str = "Deferred: Connection refused by down.example.net.";
const SOFT: &str = "450 4.3.0 Error: command failed";

/// A message of 31 octets from root, `recipients` by blanks; `own` is what each of them met itself.
fn entry(
    id: &str,
    priority: i64,
    recipients: &str,
    status: Option<&str>,
    own: Option<&str>,
) -> Entry {
    let at = Timestamp::from_secs(1_795_328_425);
    let report = |text: &str| Report {
        status: EnhancedStatus::new(4, 3, 0),
        text: text.to_owned(),
        reply: None,
        command: None,
        remote: None,
        at,
    };
    let recipients = recipients.split(' ').map(|address| Recipient {
        address: address.parse().unwrap(),
        orcpt: None,
        notify: Notify::Unspecified,
        state: RecipientState::Open(own.map(|text| Box::new(report(text)))),
    });
    let job = EntryJob {
        number: 0,
        destination: Destination { mailer: Mailer::Esmtp, next_hop: "x".into() },
        due: at,
        attempts: 1,
        last_attempt: Some(at),
        status: status.map(str::to_owned),
        recipients: recipients.collect(),
    };
    let id = id.parse().unwrap();
    Entry {
        id,
        envelope: Envelope {
            reverse_path: ReversePath::Mailbox("root@lab.example.com".parse().unwrap()),
            arrival: at,
            relay: "root@localhost".into(),
            protocol: String::new(),
            body_type: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            timeouts: TimeoutClass::Normal,
            precedence: 0,
            priority,
            message_id: String::new(),
            header_len: 100,
            size: 133,
            body_lines: 2,
            relay_override: None,
            deliver_by: None,
        },
        held: None,
        warned: false,
        body: BodyRef::Incoming(id),
        recipients_total: job.recipients.len() as u32,
        jobs: vec![job],
        lost: false,
        in_flight: false,
    }
}

fn queue() -> Vec<Entry> {
    let soft = format!("Deferred: {SOFT}");
    vec![
        entry("6AM6KPaP020579", 30_074, "c@down.example.net", Some(REFUSED), None),
        entry("6AM6KPvT020582", 30_074, "q@ok.example.net", None, None),
        entry(
            "6AM6KP5F020574",
            60_074,
            "a@down.example.net b@down.example.net",
            Some(REFUSED),
            None,
        ),
        entry(
            "6AM6KPiB020585",
            90_074,
            "soft1@soft.example.net soft2@soft.example.net",
            Some(&soft),
            Some(SOFT),
        ),
    ]
}

/// A row that stands out and can be parsed as any other: sendmail's columns, nothing but the queue ID known.
#[test]
fn a_lost_message_has_a_question_mark() {
    let mut lost = entry("6AM6KPaP020579", 0, "c@down.example.net", None, None);
    lost.held = Some("damaged record: unexpected end".into());
    (lost.lost, lost.jobs, lost.recipients_total) = (true, Vec::new(), 0);
    (lost.envelope.size, lost.envelope.header_len) = (0, 0);
    let text = list(&[lost.clone()], false, None);
    let row = "6AM6KPaP020579?       0 Sun Nov 22 06:20 \n";
    let why = "                 (damaged record: unexpected end)\n";
    assert!(text.contains(&format!("{row}{why}")), "{text}");
    assert!(
        list(&[lost], true, None).contains("6AM6KPaP020579?       0          0 Nov 22 06:20 \n")
    );
}

fn list(entries: &[Entry], verbose: bool, printed: Option<u64>) -> String {
    let mut out = Vec::new();
    let directory = Path::new("/var/spool/mqueue");
    let heading = Heading { directory, requests: entries.len() as u64, printed };
    let now = Timestamp::from_secs(1_795_328_425 + 60);
    let min_queue_age = Some(Duration::ZERO);
    let zone = TimeZone::UTC;
    let (retry_factor, priority_max) = (90_000, None);
    let view = View { verbose, zone, now, min_queue_age, retry_factor, priority_max };
    let mut listing = Listing::begin(&mut out, view, &heading).unwrap();
    for entry in entries.iter().take(printed.unwrap_or(u64::MAX) as usize) {
        listing.entry(entry).unwrap();
    }
    listing.end().unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn listings_are_sendmails() {
    assert_eq!(list(&queue(), false, None), printed(DEFERRED, "mailq"));
    assert_eq!(list(&queue(), true, None), printed(DEFERRED, "sendmail -bp -v"));
    assert_eq!(list(&queue()[2..3], false, None), printed(DEFERRED, "mailq -qRa@down"));
    assert_eq!(list(&[], false, None), printed(EMPTY, "sendmail -bp"));
}

#[test]
fn held_messages_say_why() {
    let mut entries = queue();
    entries.remove(1);
    for entry in &mut entries {
        entry.held = Some("testing".into());
        entry.jobs[0].recipients.reverse();
    }
    // sendmail had sorted these recipients anew when it wrote the files again.
    assert_eq!(list(&entries, false, None), printed(QUARANTINE, "mailq -qQ"));
}

#[test]
fn the_rest_of_the_columns() {
    let mut one = entry("6AM6KPaP020579", -5, &format!("{}@x.example", "é".repeat(60)), None, None);
    one.envelope.body_type = BodyType::EightBitMime;
    one.envelope.reverse_path = ReversePath::Null;
    (one.in_flight, one.warned) = (true, true);
    let mut long = entry("6AM6KPaP020580", 1, "a@x", None, None);
    (long.jobs, long.recipients_total) = (Vec::new(), 100_000);
    let entries = [one, long];
    assert_eq!(
        list(&entries, false, Some(1)),
        format!(
            "\t\t/var/spool/mqueue (2 requests, only 1 printed)\n\
             -----Q-ID----- --Size-- -----Q-Time----- ------------Sender/Recipient-----------\n\
             6AM6KPaP020579*      31 Sun Nov 22 06:20 MAILER-DAEMON\n      8BITMIME\n\t\t\t\t\t {}\n\
             \t\tTotal requests: 2\n",
            "é".repeat(38)
        )
    );
    let text = list(&entries, true, None);
    assert!(
        text.contains("6AM6KPaP020579*      31         -5+Nov 22 06:20 MAILER-DAEMON\n"),
        "{text}"
    );
    assert!(text.contains("\n\t\t\t\t\t (100000 recipients)\n"), "{text}");
}

#[test]
fn the_character_behind_the_id() {
    let now = Timestamp::from_secs(1_795_328_425 + 60);
    let mut entries = queue();
    entries[0].in_flight = true;
    entries[1].jobs[0].attempts = 0;
    entries[2].jobs[0].last_attempt = Some(Timestamp::from_secs(1_795_328_425 - 300));
    entries[3].jobs[0].attempts = 3;
    let marks = |min_queue_age, priority_max| {
        let mut out = Vec::new();
        let directory = Path::new("/q");
        let heading = Heading { directory, requests: 4, printed: None };
        let zone = TimeZone::UTC;
        let (verbose, retry_factor) = (true, 90_000);
        let view = View { verbose, zone, now, min_queue_age, retry_factor, priority_max };
        let mut listing = Listing::begin(&mut out, view, &heading).unwrap();
        entries.iter().for_each(|entry| listing.entry(entry).unwrap());
        listing.end().unwrap();
        let text = String::from_utf8(out).unwrap();
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("6AM")).collect();
        let marks: String = rows.iter().map(|row| row.chars().nth(14).unwrap()).collect();
        (marks, (*rows.last().unwrap()).to_owned())
    };
    assert_eq!(marks(None, None).0, "*   ");
    assert_eq!(marks(Some(Duration::ZERO), Some(60_074)).0, "*  X");
    let (young, last) = marks(Some(Duration::from_secs(300)), Some(40_000));
    assert_eq!(young, "* X-");
    // Two attempts after the first: 90074 and twice RetryFactor.
    assert_eq!(last, "6AM6KPiB020585-      31     270074 Nov 22 06:20 root@lab.example.com");
}
