//! What an operator reads: the lines of each event (tests/golden/maillog/lines.txt), and what the log does when nobody
//! reads it.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::mail::address::{Address, ReversePath};
use crate::mail::envelope::{BodyType, Envelope, Notify, Recipient, RecipientState, TimeoutClass};
use crate::mail::job::{BodyRef, Destination, Job, JobId, Mailer};
use crate::mail::outcome::{Attempt, Outcome, RemoteHost, Report};
use crate::mail::status::{EnhancedStatus, Reply};
use crate::world::{TlsFacts, Verify};

const NOW: Timestamp = Timestamp::from_secs(1_795_328_479);
const ENOUGH: Duration = Duration::from_secs(20);

/// A stream that can be read afterwards.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn open(sink: Sink, level: u8) -> Maillog {
    let clock = Arc::new(|| NOW);
    Maillog::open(Options { sink, tag: "sm-mta".into(), level, clock, zone: TimeZone::UTC })
        .unwrap()
}

/// The lines that `events` makes, without what stands before them on a stream.
fn lines(level: u8, events: impl FnOnce(&Maillog)) -> String {
    let paper = Paper::default();
    let log = open(Sink::Stream(Box::new(paper.clone())), level);
    events(&log);
    assert!(log.flush(ENOUGH));
    let head = format!("Nov 22 06:21:19 sm-mta[{}]: ", std::process::id());
    let text = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
    let strip = |line: &str| line.strip_prefix(head.as_str()).expect("head of a line").to_owned();
    text.lines().map(strip).collect::<Vec<_>>().join("\n") + "\n"
}

fn id() -> QueueId {
    "6AM6LJX7021711".parse().unwrap()
}

fn envelope() -> Envelope {
    Envelope {
        reverse_path: ReversePath::Mailbox("root@lab.example.com".parse().unwrap()),
        arrival: NOW.before(Duration::from_secs(93_784)),
        relay: "mx.client.example [192.0.2.7]".into(),
        protocol: "ESMTPS".into(),
        body_type: BodyType::EightBitMime,
        smtputf8: false,
        ret: None,
        envid: None,
        timeouts: TimeoutClass::Normal,
        precedence: -30,
        priority: 30_074,
        message_id: "<1@client.example>".into(),
        header_len: 100,
        size: 131,
        body_lines: 0,
        relay_override: None,
        deliver_by: None,
    }
}

fn job(addresses: &[&str]) -> Job {
    let recipient = |address: &&str| Recipient {
        address: address.parse().unwrap(),
        orcpt: None,
        notify: Notify::Unspecified,
        state: RecipientState::Open(None),
    };
    Job {
        id: JobId { queue_id: id(), number: 0 },
        destination: Destination { mailer: Mailer::Esmtp, next_hop: "example.net".into() },
        envelope: Arc::new(envelope()),
        recipients: (0..).zip(addresses.iter().map(recipient)).collect(),
        attempts: 2,
        last_attempt: None,
        body: BodyRef::Incoming(id()),
    }
}

fn report(status: &str, reply: Option<(u16, &str)>, command: Option<&str>, text: &str) -> Report {
    let status: EnhancedStatus = status.parse().unwrap();
    Report {
        status,
        text: text.to_owned(),
        reply: reply.map(|(code, text)| Reply::new(code, Some(status), text)),
        command: command.map(str::to_owned),
        remote: Some(RemoteHost { name: "mx.example.net".into(), address: "192.0.2.9".into() }),
        at: NOW,
    }
}

fn attempts(log: &Maillog) {
    let began = NOW.before(Duration::from_secs(2));
    let ok = report("2.0.0", Some((250, "Ok")), None, "");
    let sent = Outcome::Relayed { report: ok.clone(), dsn_aware: true, by_aware: false };
    let unknown = report("5.1.1", Some((550, "<c@x>: no")), Some("RCPT To:<c@x.example>"), "");
    let too_big = report("5.3.4", Some((552, "too big")), Some("DATA"), "");
    let busy = report("4.2.1", Some((450, "busy")), None, "450 4.2.1 busy");
    let alias = job(&["d@x.example", "e@x.example"]).recipients;
    let tried = Attempt::Tried(vec![
        (0, sent.clone()),
        (1, sent),
        (2, Outcome::Failed(unknown)),
        (3, Outcome::Failed(too_big)),
        (4, Outcome::Deferred(busy)),
        (5, Outcome::Replaced(alias.into_iter().map(|(_, recipient)| recipient).collect())),
        (6, Outcome::Delivered(ok)),
    ]);
    let names =
        ["a@x.example", "b@x.example", "c@x.example", "f@x.example", "g@x.example", "list", "root"];
    let tried_before = job(&names).envelope.priority_after(3, 90_000);
    log.attempted(&job(&names), tried_before, &tried, began, NOW);
    let mut down = report("4.4.1", None, None, "Connection refused by mx.example.net.");
    down.remote = Some(RemoteHost { name: "mx.example.net".into(), address: String::new() });
    log.attempted(&job(&["a@x.example"]), tried_before, &Attempt::Unreachable(down), began, NOW);
}

fn everything(log: &Maillog) {
    let relay = "mx.client.example [192.0.2.7]";
    log.accepted(id(), &envelope(), 7, Some("MTA"));
    let mut own = envelope();
    (own.reverse_path, own.body_type) = (ReversePath::Null, BodyType::SevenBit);
    own.relay.clear();
    own.protocol.clear();
    log.accepted(id(), &own, 1, None);
    attempts(log);
    log.done(id(), Duration::from_secs(62), 3);
    log.report_made(id(), id().next(), "DSN", "User unknown");
    log.report_dropped(id(), "User unknown");
    log.quarantined(id(), "looks odd");
    log.operated(id(), "released", "root");
    let address: Address = "a@x.example".parse().unwrap();
    log.duplicates_possible(id(), [&address].into_iter());
    log.set_aside(id(), "damaged record");
    log.shrank("queue.redb", 671_088_640, 1_048_576);
    log.connected(relay);
    let reply = Reply::new(550, "5.7.1".parse().ok(), "<a@b.example>... Relaying denied");
    let rejection =
        Rejection { ruleset: "check_rcpt", argument: "<a@b.example>", relay, reply: &reply };
    log.rejected(Some(id()), &rejection);
    log.rejected(None, &rejection);
    log.lost_input(Some(id()), relay, "MTA", "rcpt");
    log.timed_out(None, relay, "server cmd read");
    log.premature_end(id(), relay);
    log.did_nothing(relay, "MTA");
    log.possible_attack(None, relay, "HELO/EHLO", 4);
    log.recipient_flood(Some(id()), relay);
    log.asked(relay, "VRFY root", true);
    let facts = TlsFacts {
        version: "TLSv1.3".into(),
        cipher: "TLS_AES_256_GCM_SHA384".into(),
        bits: 256,
        verify: Verify::No,
    };
    log.tls_started(Side::Server, relay, &facts);
    let facts = TlsFacts { verify: Verify::Fail, ..facts };
    log.tls_started(Side::Client, "mx.example.net.", &facts);
    log.tls_failed(Side::Client, "mx.example.net.", "handshake timed out");
    log.authentication_warning(Some(id()), "lab.example.com: joe set sender to x using -f");
    log.daemon_started("0.1.0", true, Some(Duration::from_secs(900)));
    log.daemon_started("0.1.0", true, None);
    log.listening("MTA", "192.0.2.1:25".parse().unwrap());
    log.daemon_stopping("signal");
    log.state("3 SMTP sessions; 1 messages queued, 0 of them held");
    log.reloaded("signal");
    log.rejecting_connections("MTA", "load average: 14");
    log.accepting_connections("MTA");
    log.queue_run("root", "-qRann");
    log.aliases_rebuilt("/etc/mail/aliases", "root");
    log.clock_jumped(Duration::from_secs(7200));
    log.option_ignored("kvmta.cf:12", "HelpFile", "the help text is built in");
    log.warning(
        None,
        "cannot read aliases /etc/aliases line 12: missing colon; keeping the old table",
    );
    log.error(None, "queue is unavailable");
    log.system_error(Some(id()), "root", "fsync failed");
}

#[test]
fn golden_lines() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/maillog/lines.txt");
    let found = lines(10, everything);
    if std::env::var_os("KVMTA_BLESS").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(expected == found, "expected:\n{expected}\nfound:\n{found}");
}

#[test]
fn log_level_decides() {
    let stats = |level| {
        let text = lines(level, attempts);
        text.lines().map(|line| line.split("stat=").nth(1).unwrap_or("").to_owned()).collect()
    };
    let at_7: Vec<String> = stats(7);
    assert_eq!(at_7, ["User unknown", "Service unavailable"]);
    let at_8: Vec<String> = stats(8);
    assert_eq!(at_8, ["Sent (Ok)", "User unknown", "Service unavailable", "Sent"]);
    assert_eq!(lines(0, everything).lines().count(), 3);
    let changed = lines(0, |log| {
        log.set_level(5);
        log.accepted(id(), &envelope(), 1, None);
    });
    assert!(changed.contains("from="));
}

#[test]
fn a_long_list_is_split() {
    let names: Vec<String> = (0..200).map(|n| format!("recipient{n}@example.net")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let report = report("2.0.0", Some((250, "Ok")), None, "");
    let sent = |number| {
        (number, Outcome::Relayed { report: report.clone(), dsn_aware: true, by_aware: false })
    };
    let attempt = Attempt::Tried((0..200).map(sent).collect());
    let text = lines(9, |log| log.attempted(&job(&names), 0, &attempt, NOW, NOW));
    let mut found = Vec::new();
    let count = text.lines().count();
    for (number, line) in (1..).zip(text.lines()) {
        assert!(line.len() <= LINE_MAX && line.ends_with("stat=Sent (Ok)"), "{line}");
        let to = line.split("to=").nth(1).unwrap();
        assert_eq!(to.contains(">, [more], delay="), number < count, "{line}");
        let addresses = to.split(", ").next().unwrap().split(',');
        found.extend(addresses.map(|a| a.trim_matches(['<', '>']).to_owned()));
    }
    assert_eq!(found, names);
}

proptest! {
    #[test]
    fn one_event_is_one_clean_line(
        text in "[\\x00-\\u{2fff}]{0,300}",
        quoted in "[ -~]{0,100}",
        repeat in 1_usize..10,
    ) {
        let text = text.repeat(repeat);
        let quoted = quoted.replace(['"', '\\'], "");
        let address: Address = format!("\"{quoted}\"@x.example").parse().unwrap();
        let relay = format!("{text} [192.0.2.7]");
        let mut envelope = envelope();
        envelope.reverse_path = ReversePath::Mailbox(address);
        envelope.message_id = text.clone();
        envelope.relay = relay.clone();
        let reply = Reply::new(550, None, text.clone());
        let argument = format!("<\"{quoted}\"@x.example>");
        let found = lines(99, |log| {
            log.accepted(id(), &envelope, 1, None);
            let rejection =
                Rejection { ruleset: "check_rcpt", argument: &argument, relay: &relay, reply: &reply };
            log.rejected(None, &rejection);
            log.warning(None, &text);
            log.system_error(None, &text, &text);
        });
        prop_assert_eq!(found.matches('\n').count(), 4);
        for line in found.lines() {
            prop_assert!(line.len() <= LINE_MAX, "{} octets", line.len());
            prop_assert!(!line.contains(char::is_control), "{line:?}");
        }
        // Nobody outside can write a field that a filter would believe.
        let fields = found.lines().nth(1).unwrap_or_default().split(", relay=").count();
        prop_assert!(fields <= 2, "{found}");
    }
}

#[test]
fn a_forged_relay_stays_part_of_the_address() {
    let argument = "<\"x>, relay=victim [203.0.113.1], reject=550\"@x.example>";
    let reply = Reply::new(550, None, "no");
    let relay = "[192.0.2.7]";
    let rejection = Rejection { ruleset: "check_rcpt", argument, relay, reply: &reply };
    let line = lines(9, |log| log.rejected(None, &rejection));
    assert!(line.starts_with(
        "NOQUEUE: ruleset=check_rcpt, arg1=<\"x>,\\040relay=victim\\040[203.0.113.1],\\040reject=550\"@x.example>, \
         relay=[192.0.2.7], reject=550 no"
    ));
}

fn receive(socket: &UnixDatagram) -> String {
    let mut packet = [0; 2048];
    let octets = socket.recv(&mut packet).unwrap();
    assert!(octets <= 1024);
    String::from_utf8(packet[..octets].to_vec()).unwrap()
}

#[test]
fn syslog_gets_packets_and_may_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let log = open(Sink::Syslog(path.clone()), 9);
    log.warning(None, "before it is there");
    let syslog = UnixDatagram::bind(&path).unwrap();
    syslog.set_read_timeout(Some(ENOUGH)).unwrap();
    let head = format!("Nov 22 06:21:19 sm-mta[{}]: ", std::process::id());
    assert_eq!(receive(&syslog), format!("<20>{head}before it is there"));
    log.connected("x");
    log.daemon_stopping("signal");
    assert_eq!(receive(&syslog), format!("<22>{head}stopping daemon, reason=signal"));
    drop(syslog);
    std::fs::remove_file(&path).unwrap();
    log.error(None, "while it is away");
    let syslog = UnixDatagram::bind(&path).unwrap();
    syslog.set_read_timeout(Some(ENOUGH)).unwrap();
    assert_eq!(receive(&syslog), format!("<19>{head}while it is away"));
    assert!(log.flush(ENOUGH));
}

/// A stream that takes nothing until it is let.
struct Stuck {
    gate: Arc<Mutex<()>>,
    paper: Paper,
}

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _open = self.gate.lock().unwrap();
        self.paper.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_finds_no_room_is_counted() {
    let (gate, paper) = (Arc::new(Mutex::new(())), Paper::default());
    let stuck = Stuck { gate: Arc::clone(&gate), paper: paper.clone() };
    let log = open(Sink::Stream(Box::new(stuck)), 9);
    let closed = gate.lock().unwrap();
    let text = "x".repeat(900);
    let sent = 3 * PENDING_MAX / text.len();
    for _ in 0..sent {
        log.warning(None, &text);
    }
    assert!(!log.flush(Duration::ZERO));
    drop(closed);
    assert!(log.flush(ENOUGH));
    let text = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
    let (notes, kept): (Vec<&str>, Vec<&str>) = text.lines().partition(|l| l.contains("log: "));
    let dropped = notes.iter().map(|note| {
        let words = note.split("log: ").nth(1).unwrap();
        words.strip_suffix(" lines dropped: nobody took them").unwrap().parse::<usize>().unwrap()
    });
    assert_eq!(dropped.sum::<usize>() + kept.len(), sent);
    assert!(kept.len() < sent && kept.len() >= PENDING_MAX / 1000);
}

#[test]
fn the_last_handle_writes_what_is_pending() {
    let (gate, paper) = (Arc::new(Mutex::new(())), Paper::default());
    let stuck = Stuck { gate: Arc::clone(&gate), paper: paper.clone() };
    let log = open(Sink::Stream(Box::new(stuck)), 9);
    let clone = log.clone();
    let closed = gate.lock().unwrap();
    clone.warning(None, "one");
    clone.warning(None, "two");
    let shared = Arc::clone(&log.owner.shared);
    drop((log, clone));
    drop(closed);
    let busy = |pending: &mut Pending| pending.writing || !pending.lines.is_empty();
    let waited = shared.emptied.wait_timeout_while(shared.lock(), ENOUGH, busy).unwrap();
    assert!(!waited.1.timed_out());
    drop(waited);
    assert_eq!(paper.0.lock().unwrap().iter().filter(|b| **b == b'\n').count(), 2);
}

#[test]
fn tags_are_fit_for_a_line() {
    assert_eq!(tag("sm mta\n%s"), "sm*mta**s");
    assert_eq!(tag(&"x".repeat(50)).len(), TAG_MAX);
}

#[test]
fn verbose_is_sendmails() {
    let addresses: Vec<Address> =
        ["a@x.example", "b@x.example"].iter().map(|a| a.parse().unwrap()).collect();
    let ok = report("2.0.0", Some((250, "Ok")), None, "");
    let sent = Outcome::Relayed { report: ok.clone(), dsn_aware: true, by_aware: false };
    let down = report("4.4.1", None, None, "Connection refused by x.example.");
    assert_eq!(verbose::outcome(addresses.iter().take(1), &sent), "a@x.example... Sent (Ok)");
    assert_eq!(
        verbose::outcome(addresses.iter().take(1), &Outcome::Delivered(ok)),
        "a@x.example... Sent"
    );
    assert_eq!(
        verbose::unreachable(addresses.iter(), &down),
        "a@x.example,b@x.example... Deferred: Connection refused by x.example."
    );
    assert_eq!(
        verbose::connecting(addresses.iter().take(1), "x.example", Some(2601), Mailer::Esmtp),
        "a@x.example... Connecting to x.example. port 2601 via esmtp..."
    );
    assert_eq!(
        verbose::connecting(addresses.iter().take(1), "", None, Mailer::Local),
        "a@x.example... Connecting to local..."
    );
    assert_eq!(verbose::closing("x.example", Mailer::Esmtp), "Closing connection to x.example.");
    assert_eq!(
        verbose::running(Path::new("/var/spool/kvmta"), id(), 1, 4),
        "Running /var/spool/kvmta/6AM6LJX7021711 (sequence 1 of 4)"
    );
    assert_eq!(verbose::said("RCPT To:<a@b>\r\nDATA"), ">>> RCPT To:<a@b>\\015\\012DATA");
    let mut reply = Reply::new(250, None, "first");
    reply.lines.push(String::new());
    assert_eq!(verbose::heard(&reply), ["250-first", "250 "]);
    let loopback: IpAddr = [127, 0, 0, 1].into();
    let text = report("5.0.0", None, None, &format!("evil\u{1b}[2J {loopback}"));
    assert!(!verbose::outcome(addresses.iter(), &Outcome::Failed(text)).contains('\u{1b}'));
}
