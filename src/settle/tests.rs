//! Scenarios (tests/golden/settle/*.txt) say what a message is, what it met and what must become of it; golden reports
//! (tests/golden/dsn/*.eml) say every line of a report. Set KVMTA_BLESS to write what is instead of comparing, then read it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::*;
use crate::config::{Config, GivingUp};
use crate::mail::address::ReversePath;
use crate::mail::envelope::{BodyType, ByMode, DeliverBy, Notify, Ret, TimeoutClass};
use crate::mail::job::{EntryJob, Mailer};
use crate::mail::outcome::RemoteHost;
use crate::mail::queue_id::QueueId;
use crate::mail::status::Reply;
use crate::mail::time::in_words;

/// 2026-11-22 06:21:19 UTC: when every message of the tests arrives.
const ARRIVAL: Timestamp = Timestamp::from_secs(1_795_328_479);
const HEADER: &str = "Received: (from root@localhost)\r\n\tby lab.example.com (kvmta) id 6AM6LJX7021711;\r\n\t\
    Sun, 22 Nov 2026 06:21:19 GMT\r\nSubject: hello\r\nFrom: root@lab.example.com\r\n\r\n";
const BODY: &str = "This is the body.\r\nSecond line.\r\n";

/// A message, what it met, and when: built line by line from a scenario.
struct Case {
    plan: Plan,
    envelope: Envelope,
    job: EntryJob,
    others_open: bool,
    warned: bool,
    unreported: Vec<(u32, u32, Recipient)>,
    original: Vec<u8>,
    unreadable: bool,
    outcomes: Vec<(u32, Outcome)>,
    unreachable: Option<Report>,
    deadline: bool,
    now: Timestamp,
}

impl Case {
    fn new() -> Case {
        let config = Config { host_name: "lab.example.com".into(), ..Config::default() };
        Case {
            plan: Plan::new(&config, Some(Duration::from_secs(900)), TimeZone::UTC),
            envelope: Envelope {
                reverse_path: ReversePath::Mailbox("root@lab.example.com".parse().unwrap()),
                arrival: ARRIVAL,
                relay: "root@localhost".into(),
                protocol: String::new(),
                body_type: BodyType::SevenBit,
                smtputf8: false,
                ret: None,
                envid: None,
                timeouts: TimeoutClass::Normal,
                precedence: 0,
                priority: 0,
                message_id: String::new(),
                header_len: HEADER.len() as u64,
                size: (HEADER.len() + BODY.len()) as u64,
                body_lines: 0,
                relay_override: None,
                deliver_by: None,
            },
            job: EntryJob {
                number: 0,
                destination: Destination { mailer: Mailer::Esmtp, next_hop: "example.net".into() },
                due: ARRIVAL,
                attempts: 0,
                last_attempt: None,
                status: None,
                recipients: Vec::new(),
            },
            others_open: false,
            warned: false,
            unreported: Vec::new(),
            original: format!("{HEADER}{BODY}").into_bytes(),
            unreadable: false,
            outcomes: Vec::new(),
            unreachable: None,
            deadline: false,
            now: ARRIVAL,
        }
    }

    fn set_original(&mut self, header: &str, body: &str) {
        self.original = format!("{header}{body}").into_bytes();
        self.envelope.header_len = header.len() as u64;
        self.envelope.size = self.original.len() as u64;
    }

    fn decide(&self) -> Decision {
        let original = |limit: usize| match self.unreadable {
            true => Err(OriginalError::new("not now")),
            false => Ok(self.original.iter().copied().take(limit).collect()),
        };
        let state = MessageState {
            id: "6AM6LJX7021711".parse().unwrap(),
            envelope: &self.envelope,
            job: &self.job,
            others_open: self.others_open,
            unreported: self.unreported.clone(),
            unreported_since: None,
            warned: self.warned,
            original: &original,
        };
        let attempt = match &self.unreachable {
            Some(report) => Attempt::Unreachable(report.clone()),
            None => Attempt::Tried(self.outcomes.clone()),
        };
        let occasion =
            if self.deadline { Occasion::Deadline } else { Occasion::Attempted(&attempt) };
        decide(&self.plan, &state, occasion, self.now, 0.0, &route).unwrap()
    }

    /// One line of a scenario.
    fn line(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let class = self.envelope.timeouts as usize;
        match word {
            "sender" if rest == "<>" => self.envelope.reverse_path = ReversePath::Null,
            "sender" => self.envelope.reverse_path = ReversePath::Mailbox(rest.parse().unwrap()),
            "ours" => {
                self.envelope.reverse_path = ReversePath::Null;
                self.envelope.relay.clear();
                self.envelope.timeouts = TimeoutClass::Dsn;
            }
            "relay" => self.envelope.relay = rest.to_owned(),
            "header" => self.set_original(&format!("{rest}\r\n\r\n"), BODY),
            "class" => self.envelope.timeouts = class_of(rest),
            "precedence" => self.envelope.precedence = rest.parse().unwrap(),
            "unreadable" => self.unreadable = true,
            "ret" if rest == "hdrs" => self.envelope.ret = Some(Ret::Headers),
            "envid" => self.envelope.envid = Some(rest.to_owned()),
            "smtputf8" => self.envelope.smtputf8 = true,
            "by" => self.envelope.deliver_by = Some(deliver_by(rest)),
            "body" => self.set_original(HEADER, &format!("{rest}\r\n")),
            "age" => self.now = ARRIVAL.after(length(rest)),
            "warned" => self.warned = true,
            "others-open" => self.others_open = true,
            "deadline" => self.deadline = true,
            "status" => self.job.status = Some(rest.to_owned()),
            "rcpt" => self.job.recipients.push(recipient(rest)),
            "elsewhere" => self.unreported.push((7, self.unreported.len() as u32, recipient(rest))),
            "unreachable" => self.unreachable = Some(report(rest, self.now)),
            "queuereturn" if rest == "now" => {
                self.plan.queue_timeouts[class].giving_up = GivingUp::Now
            }
            "queuereturn" => {
                self.plan.queue_timeouts[class].giving_up = GivingUp::After(length(rest));
            }
            "queuewarn" => self.plan.queue_timeouts[class].warn = Some(length(rest)),
            "no-interval" => self.plan.backoff.interval = None,
            "softbounce" => self.plan.soft_bounce = true,
            "noreceipts" => self.plan.privacy.noreceipts = true,
            "nobodyreturn" => self.plan.privacy.nobodyreturn = true,
            "noactualrecipient" => self.plan.privacy.noactualrecipient = true,
            "bouncesize" => self.plan.bounce_size_limit = rest.parse().unwrap(),
            "double-bounce" => self.plan.double_bounce_address = rest.parse().ok(),
            "postmaster-copy" => self.plan.postmaster_copy = rest.parse().ok(),
            number => self.outcomes.push((number.parse().unwrap(), outcome(rest, self.now))),
        }
    }
}

fn route(address: &Address) -> Result<Destination, String> {
    match address.domain() {
        Some("nowhere.example") => Err("User unknown".to_owned()),
        domain => Ok(Destination {
            mailer: Mailer::Esmtp,
            next_hop: domain.unwrap_or_default().to_owned(),
        }),
    }
}

fn class_of(word: &str) -> TimeoutClass {
    match word {
        "urgent" => TimeoutClass::Urgent,
        "non-urgent" => TimeoutClass::NonUrgent,
        "dsn" => TimeoutClass::Dsn,
        _ => TimeoutClass::Normal,
    }
}

/// `3600 R`, `-5 N trace`
fn deliver_by(text: &str) -> DeliverBy {
    let (seconds, mode) = text.split_once(' ').unwrap();
    let kind = if mode.starts_with('R') { ByMode::Return } else { ByMode::Notify };
    DeliverBy { seconds: seconds.parse().unwrap(), mode: kind, trace: mode.contains("trace") }
}

fn length(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.len() - 1);
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        other => panic!("unit {other}"),
    };
    Duration::from_secs(number.parse::<u64>().unwrap() * unit)
}

/// `a@b [notify=success,failure] [orcpt=...] [failed|done|relayed|told]`
fn recipient(text: &str) -> Recipient {
    let mut words = text.split(' ');
    let mut recipient = Recipient {
        address: words.next().unwrap().parse().unwrap(),
        orcpt: None,
        notify: Notify::Unspecified,
        state: RecipientState::Open(None),
    };
    let word_of = |class| Box::new(report(&format!("{class}.1.1 text Word"), ARRIVAL));
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("notify", "never") => recipient.notify = Notify::Never,
            ("notify", list) => {
                recipient.notify = Notify::On {
                    success: list.contains("success"),
                    failure: list.contains("failure"),
                    delay: list.contains("delay"),
                }
            }
            ("orcpt", orcpt) => recipient.orcpt = Some(orcpt.to_owned()),
            ("failed", _) => {
                recipient.state = RecipientState::Failed { report: word_of(5), reported: false };
            }
            ("told", _) => {
                recipient.state = RecipientState::Failed { report: word_of(5), reported: true };
            }
            ("done", _) => {
                recipient.state =
                    RecipientState::Done { report: word_of(2), relayed: false, reported: false };
            }
            ("busy", _) => recipient.state = RecipientState::Open(Some(word_of(4))),
            (other, _) => panic!("recipient word {other}"),
        }
    }
    recipient
}

/// `delivered|relayed|relayed-dsn|failed|deferred REPORT` or `replaced a@b,c@d`.
fn outcome(text: &str, now: Timestamp) -> Outcome {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let facts = || report(rest, now);
    match word {
        "delivered" => Outcome::Delivered(facts()),
        "relayed" => Outcome::Relayed { report: facts(), dsn_aware: false, by_aware: false },
        "relayed-by" => Outcome::Relayed { report: facts(), dsn_aware: false, by_aware: true },
        "relayed-dsn" => Outcome::Relayed { report: facts(), dsn_aware: true, by_aware: false },
        "failed" => Outcome::Failed(facts()),
        "deferred" => Outcome::Deferred(facts()),
        "replaced" => {
            let addresses = rest.split(',').filter(|address| !address.is_empty());
            Outcome::Replaced(addresses.map(recipient).collect())
        }
        other => panic!("outcome {other}"),
    }
}

/// `5.1.1 host mx.example cmd RCPT To:<a@b> reply 550 5.1.1 no text Words`: each part but the status may be absent.
fn report(text: &str, at: Timestamp) -> Report {
    let (status, mut rest) = text.split_once(' ').unwrap_or((text, ""));
    let status: EnhancedStatus = status.parse().unwrap();
    let mut parts = BTreeMap::new();
    for key in ["text ", "reply ", "cmd ", "host "] {
        if let Some(at) = rest.find(key) {
            parts.insert(key, rest[at + key.len()..].trim_end().to_owned());
            rest = &rest[..at];
        }
    }
    let reply = parts.get("reply ").map(|reply| {
        let (code, words) = reply.split_once(' ').unwrap_or((reply, ""));
        let (enhanced, words) = EnhancedStatus::split_from(words);
        let lines = words.split('|').map(str::to_owned).collect();
        Reply { code: code.parse().unwrap(), enhanced, lines }
    });
    let words = parts.remove("text ").or_else(|| reply.as_ref().map(Reply::to_string));
    Report {
        status,
        text: words.unwrap_or_default(),
        reply,
        command: parts.remove("cmd "),
        remote: parts.remove("host ").map(|name| RemoteHost { name, address: String::new() }),
        at,
    }
}

fn state_words(state: &RecipientState) -> String {
    let told = |reported: bool| if reported { "told" } else { "owed" };
    match state {
        RecipientState::Open(Some(report)) => {
            format!("open {} {}", report.status, report.deferral())
        }
        RecipientState::Open(None) => "open".to_owned(),
        RecipientState::Done { report, relayed, reported } => {
            let word = if *relayed { "relayed" } else { "done" };
            format!("{word} {} {}", report.status, told(*reported))
        }
        RecipientState::Failed { report, reported } => {
            format!("failed {} {}", report.status, told(*reported))
        }
    }
}

/// The verdict in the words of the scenarios.
fn verdict_words(case: &Case, decision: &Decision) -> String {
    let verdict = &decision.verdict;
    let mut out = Vec::new();
    for (number, state) in &verdict.recipients {
        out.push(format!("{number} {}", state_words(state)));
    }
    for (destination, recipient) in &verdict.replacements {
        out.push(format!("new {} via {destination}", recipient.address));
    }
    let after = |at: Timestamp| match at {
        Timestamp::MAX => "never".to_owned(),
        at => format!("in {}", in_words(at.since(case.now))),
    };
    out.extend(verdict.retry_at.map(|at| format!("retry {}", after(at))));
    out.extend(verdict.status.as_ref().map(|status| format!("status {status}")));
    if !verdict.counted {
        out.push("not counted".to_owned());
    }
    for (job, place) in &verdict.reported {
        out.push(format!("told elsewhere {job}/{place}"));
    }
    if verdict.warned {
        out.push("warned".to_owned());
    }
    for (report, destination) in &verdict.reports {
        let text = String::from_utf8_lossy(&report.bytes).into_owned();
        let field = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
            lines.next().unwrap_or_default().to_owned()
        };
        let via = match destination {
            Ok(destination) => format!("via {destination}"),
            Err(reason) => format!("held: {reason}"),
        };
        let actions = text.lines().filter_map(|line| line.strip_prefix("Action: "));
        let actions: Vec<&str> = actions.map(|a| a.split(' ').next().unwrap_or_default()).collect();
        let mut parts = text.lines().filter_map(|line| line.strip_prefix("Content-Type: "));
        out.push(format!(
            "report to {} {via}: {} / {} / {}",
            report.to,
            field("Subject: "),
            actions.join(" "),
            parts.next_back().unwrap_or_default(),
        ));
    }
    for notice in &decision.notices {
        out.push(match notice {
            Notice::Reported { report, label, text } => format!("log {report} {label}: {text}"),
            Notice::Postponed { text } => format!("log postponed: {text}"),
            Notice::Dropped { text, .. } => format!("log dropped: {text}"),
        });
    }
    out.extend(decision.report_due.map(|at| format!("judge again {}", after(at))));
    out.join("\n") + "\n"
}

fn data(folder: &str) -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    assert!(!files.is_empty(), "no data in {}", folder.display());
    files.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

fn compare(path: &Path, name: &str, expected: &str, found: &str) {
    assert!(expected == found, "{} {name}\nexpected:\n{expected}\nfound:\n{found}", path.display());
}

/// A file is cases; a case is `== title`, lines of [`Case::line`], `=>`, the verdict in words.
#[test]
fn scenarios() {
    for (path, text) in data("settle") {
        let (comment, cases) = text.split_once("== ").unwrap();
        let mut blessed = comment.to_owned();
        for case in cases.split("\n== ") {
            let (given, expected) = case.split_once("\n=>\n").unwrap();
            let (title, lines) = given.split_once('\n').unwrap();
            let mut built = Case::new();
            lines.lines().for_each(|line| built.line(line));
            let found = verdict_words(&built, &built.decide());
            if std::env::var_os("KVMTA_BLESS").is_none() {
                compare(&path, title, expected.trim_end(), found.trim_end());
            }
            blessed.push_str(&format!("== {given}\n=>\n{found}\n"));
        }
        if std::env::var_os("KVMTA_BLESS").is_some() {
            std::fs::write(path, blessed.trim_end().to_owned() + "\n").unwrap();
        }
    }
}

/// `name.txt` holds the case, `name.eml` its reports, LF line ends, one after the other.
#[test]
fn golden_reports() {
    for (path, text) in data("dsn") {
        let mut built = Case::new();
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.for_each(|line| built.line(line));
        let reports = built.decide().verdict.reports;
        let mut found = String::new();
        for (report, _) in &reports {
            check_mime(report).unwrap();
            // The name of the first report in sendmail's dsn-mailbox.
            let report =
                String::from_utf8(report.named("6AM6LJX8021711".parse().unwrap())).unwrap();
            let report = report.replace(concat!("kvmta/", env!("CARGO_PKG_VERSION")), "kvmta");
            assert_eq!(report.replace("\r\n", "").find(['\r', '\n']), None, "bare CR or LF");
            found.push_str(&report.replace("\r\n", "\n"));
        }
        let golden = path.with_extension("eml");
        if std::env::var_os("KVMTA_BLESS").is_some() {
            std::fs::write(&golden, &found).unwrap();
        }
        compare(&golden, "", &std::fs::read_to_string(&golden).unwrap(), &found);
    }
}

/// What a program that reads reports needs: header, boundary, three parts, fields with names and one status per recipient.
fn check_mime(report: &crate::mail::outcome::ReportMessage) -> Result<usize, String> {
    let text = String::from_utf8_lossy(&report.bytes).into_owned();
    let (header, body) = text.split_once("\r\n\r\n").ok_or("no header")?;
    if header.len() + 4 != report.header_len as usize {
        return Err(format!("header_len {} is not {}", report.header_len, header.len() + 4));
    }
    let unfolded = header.replace("\r\n\t", " ");
    for field in unfolded.split("\r\n") {
        let name = field.split_once(": ").ok_or(format!("no field: {field}"))?.0;
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(format!("field name {name}"));
        }
    }
    let boundary = unfolded.split("boundary=\"").nth(1).and_then(|rest| rest.split('"').next());
    let boundary = boundary.ok_or("no boundary")?;
    if boundary.len() > 70 {
        return Err("long boundary".to_owned());
    }
    let (body, end) = body.split_once(&format!("\r\n--{boundary}--\r\n")).ok_or("no end")?;
    let parts: Vec<&str> = body.split(&format!("\r\n--{boundary}\r\n")).collect();
    if parts.len() != 4 || !end.is_empty() {
        return Err(format!("{} parts", parts.len()));
    }
    let (heading, status) = parts[2].split_once("\r\n\r\n").ok_or("no status part")?;
    if !heading.contains("delivery-status") {
        return Err(format!("not a status: {heading}"));
    }
    let groups: Vec<&str> = status.trim_end().split("\r\n\r\n").collect();
    for group in &groups[1..] {
        for field in ["Final-Recipient: ", "Action: ", "Status: "] {
            let count = group.split("\r\n").filter(|line| line.starts_with(field)).count();
            if count != 1 {
                return Err(format!("{count} of {field} in {group}"));
            }
        }
    }
    // What we wrote has no control character but its line ends; the original is as it is.
    let ours =
        [unfolded.as_str(), parts[0], parts[1], parts[2]].map(|part| part.replace("\r\n", ""));
    if let Some(part) = ours.iter().find(|part| part.contains(char::is_control)) {
        return Err(format!("control character in {part:?}"));
    }
    match text.lines().find(|line| line.len() > 998) {
        Some(line) => Err(format!("line of {}: {line}", line.len())),
        None => Ok(groups.len() - 1),
    }
}

fn any_report() -> impl Strategy<Value = Report> {
    let words = "[\\x00-\\u{2fff}]{0,60}";
    (words, words, words, 2_u8..6, any::<bool>(), any::<bool>()).prop_map(
        |(text, line, command, class, with_reply, with_remote)| Report {
            status: EnhancedStatus::new(if class == 3 { 5 } else { class }, 1, 1),
            text,
            reply: with_reply.then(|| Reply::new(u16::from(class) * 100 + 50, None, line.clone())),
            command: Some(command),
            remote: with_remote.then(|| RemoteHost { name: line, address: String::new() }),
            at: ARRIVAL,
        },
    )
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        any_report().prop_map(Outcome::Delivered),
        any_report().prop_map(|report| Outcome::Relayed {
            report,
            dsn_aware: false,
            by_aware: false
        }),
        any_report().prop_map(Outcome::Failed),
        any_report().prop_map(Outcome::Deferred),
        Just(Outcome::Replaced(vec![recipient("x@y.example")])),
        Just(Outcome::Replaced(Vec::new())),
    ]
}

proptest! {
    #[test]
    fn every_outcome_becomes_one_state(
        outcomes in proptest::collection::vec((any_outcome(), any::<bool>(), any::<bool>()), 1..12),
        age in 0_u64..600_000,
        null in any::<bool>(),
        others_open in any::<bool>(),
        body in "[\\x00-\\u{2ff}]{0,200}",
    ) {
        let mut case = Case::new();
        case.others_open = others_open;
        case.now = ARRIVAL.after(Duration::from_secs(age));
        case.set_original(HEADER, &body);
        if null {
            case.envelope.reverse_path = ReversePath::Null;
        }
        for (number, (outcome, success, open)) in (0_u32..).zip(outcomes) {
            let mut one = recipient(if open { "a@b.example" } else { "a@b.example failed" });
            one.notify = Notify::On { success, failure: true, delay: true };
            case.job.recipients.push(one);
            case.outcomes.push((number, outcome));
        }
        let decision = case.decide();
        let verdict = &decision.verdict;
        for (number, recipient) in (0_u32..).zip(&case.job.recipients) {
            let new = verdict.recipients.iter().filter(|(n, _)| *n == number).count();
            prop_assert!(new <= 1 && (new == 1 || !recipient.state.is_open()));
        }
        let still_open = verdict.recipients.iter().any(|(_, state)| state.is_open());
        prop_assert_eq!(verdict.retry_at.is_some(), still_open);
        let owed = verdict.recipients.iter().any(|(_, state)| matches!(
            state,
            RecipientState::Failed { reported: false, .. } | RecipientState::Done { reported: false, .. }
        ));
        prop_assert!(!owed || decision.report_due.is_some(), "owed and nobody will ask again");
        prop_assert!(!owed || still_open || others_open || !verdict.replacements.is_empty());
        for (report, _) in &verdict.reports {
            let counted = check_mime(report).map_err(TestCaseError::fail)?;
            prop_assert!(counted >= 1);
            prop_assert!(!null || report.to.as_str() == "postmaster@lab.example.com");
        }
        prop_assert_eq!(&case.decide(), &decision, "not pure");
    }
}

#[test]
fn a_long_list_is_reported_in_pieces() {
    let mut case = Case::new();
    for number in 0..700 {
        case.job.recipients.push(recipient(&format!("a{number}@b.example")));
        case.unreported.push((1, number, recipient(&format!("c{number}@d.example failed"))));
        case.outcomes.push((number, outcome("failed 5.1.1 text User unknown", ARRIVAL)));
    }
    let verdict = case.decide().verdict;
    let counts: Vec<usize> =
        verdict.reports.iter().map(|(report, _)| check_mime(report).unwrap()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 1400);
    assert!(counts.len() < 5 && counts.iter().all(|count| *count <= REPORT_RECIPIENTS_MAX));
    assert!(verdict.reports.iter().all(|(report, _)| report.bytes.len() < 700_000));
    assert_eq!(verdict.reported.len(), 700);
}

#[test]
fn the_boundary_avoids_the_content() {
    let mut case = Case::new();
    case.line("rcpt a@b.example");
    case.line("0 failed 5.1.1 text No");
    let id: QueueId = "6AM6LJX7021711".parse().unwrap();
    let secs = ARRIVAL.as_secs();
    let body = format!("--{id}.{secs}/lab.example.com\r\n--{id}.{secs}.1/lab.example.com--\r\n");
    case.set_original(HEADER, &body);
    let report = case.decide().verdict.reports.remove(0).0;
    assert_eq!(check_mime(&report), Ok(1));
    assert!(String::from_utf8(report.bytes).unwrap().contains(&format!("\"{id}.{secs}.2/lab")));
}

#[test]
fn long_texts_stay_within_a_line() {
    let long = "\u{1F600}".repeat(5000);
    for sender in ["root@lab.example.com", "jürgen@exämple.org"] {
        let mut case = Case::new();
        case.line(&format!("sender {sender}"));
        case.line(&format!("relay {long} [192.0.2.7]"));
        case.line(&format!("envid {long}"));
        let address = format!("{}@{}.example", "\u{1F600}".repeat(60), "é".repeat(100));
        case.line(&format!("rcpt {address} orcpt=rfc822;{long}"));
        let reply = format!("550 5.1.1 {}", [long.as_str(); 50].join("|"));
        case.line(&format!("0 failed 5.1.1 host {long} cmd RCPT To:<{long}> reply {reply}"));
        let report = case.decide().verdict.reports.remove(0).0;
        assert_eq!(check_mime(&report), Ok(1));
        assert!(report.bytes.len() < 40_000, "{} octets", report.bytes.len());
        let beyond_ascii = sender != "root@lab.example.com";
        assert_eq!(!report.bytes.is_ascii(), beyond_ascii);
    }
}

#[test]
fn an_unreadable_original_is_an_error_when_no_peer_was_asked() {
    let mut case = Case::new();
    case.line("rcpt a@b.example");
    let original = |_: usize| Err(OriginalError::new("disk"));
    let state = MessageState {
        id: QueueId::at(ARRIVAL),
        envelope: &case.envelope,
        job: &case.job,
        others_open: false,
        unreported: Vec::new(),
        unreported_since: None,
        warned: false,
        original: &original,
    };
    let attempt = Attempt::Unreachable(report("5.1.2 text No", ARRIVAL));
    let decided = decide(&case.plan, &state, Occasion::Attempted(&attempt), ARRIVAL, 0.0, &route);
    assert_eq!(decided.unwrap_err().to_string(), "original message: disk");
    case.plan.queue_timeouts[0].giving_up = GivingUp::Now;
    let state = MessageState { job: &case.job, ..state };
    let decided = decide(&case.plan, &state, Occasion::Deadline, ARRIVAL, 0.0, &route);
    assert_eq!(decided.unwrap_err().to_string(), "original message: disk");
}

/// ErrorHeader is the first thing a reader of a failure sees, line by line and never a field of ours.
#[test]
fn error_header_comes_first() {
    let mut case = Case::new();
    case.plan.error_header = Some("Call 555-0100\nor write to help@x\r\n\x07.".into());
    for line in ["rcpt a@example.net", "0 failed 5.1.1 User unknown"] {
        case.line(line);
    }
    let decision = case.decide();
    let text = String::from_utf8(decision.verdict.reports[0].0.bytes.clone()).unwrap();
    let (_, part) = text.split_once("\r\n\r\n--").unwrap();
    let (_, part) = part.split_once("\r\n\r\n").unwrap();
    let start =
        "Call 555-0100\r\nor write to help@x\r\n .\r\n\r\nThe original message was received at";
    assert!(part.starts_with(start), "{part}");
}
