//! Shows that control files are those sendmail 8.17 wrote for the same mail, and that body line ends survive any cut.

use proptest::prelude::*;

use super::*;
use crate::mail::address::ReversePath;
use crate::mail::envelope::{DeliverBy, TimeoutClass};
use crate::mail::job::{BodyRef, Destination, Mailer};
use crate::mail::queue_id::QueueId;
use crate::mail::status::EnhancedStatus;

const ARRIVAL: Timestamp = Timestamp::ZERO;

fn envelope(arrival: u64, priority: i64) -> Envelope {
    Envelope {
        reverse_path: ReversePath::Mailbox("root@lab.example.com".parse().unwrap()),
        arrival: Timestamp::from_secs(arrival),
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
        header_len: 0,
        size: 0,
        body_lines: 0,
        relay_override: None,
        deliver_by: None,
    }
}

fn recipient(address: &str, status: Option<&str>) -> Recipient {
    Recipient {
        address: address.parse().unwrap(),
        orcpt: None,
        notify: Notify::Unspecified,
        state: RecipientState::Open(status.map(|text| Box::new(report(text)))),
    }
}

fn report(text: &str) -> Report {
    Report {
        status: EnhancedStatus::new(4, 3, 0),
        text: text.into(),
        reply: None,
        command: None,
        remote: None,
        at: ARRIVAL,
    }
}

fn job(last_attempt: Option<u64>, status: Option<&str>, recipients: Vec<Recipient>) -> EntryJob {
    EntryJob {
        number: 0,
        destination: Destination { mailer: Mailer::Esmtp, next_hop: "x.example".into() },
        due: ARRIVAL,
        attempts: u32::from(last_attempt.is_some()),
        last_attempt: last_attempt.map(Timestamp::from_secs),
        status: status.map(str::to_owned),
        recipients,
    }
}

fn entry(envelope: Envelope, jobs: Vec<EntryJob>) -> Entry {
    Entry {
        id: QueueId::at(envelope.arrival),
        body: BodyRef::Incoming(QueueId::at(envelope.arrival)),
        envelope,
        held: None,
        warned: false,
        recipients_total: 1,
        jobs,
        lost: false,
        in_flight: false,
    }
}

fn control_file(entry: &Entry, header: &[u8]) -> Vec<u8> {
    let mut progress = Progress::default();
    entry.jobs.iter().for_each(|job| progress.add(job));
    let mut out = Vec::new();
    write_envelope(&mut out, entry, &progress).unwrap();
    for job in &entry.jobs {
        write_recipients(&mut out, &entry.envelope, job).unwrap();
    }
    write_header(&mut out, header).unwrap();
    out
}

/// A control file of sendmail without what kvmta does not keep: the AUTH= value and the conditions of header lines.
fn golden(file: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut control = Vec::new();
    let mut header = Vec::new();
    for line in file.split_inclusive(|&b| b == b'\n').filter(|line| !line.starts_with(b"A")) {
        let field = line.strip_prefix(b"H?").and_then(|rest| {
            let end = rest.iter().position(|&b| b == b'?')?;
            (&rest[..end] != b"P").then(|| &rest[end + 1..])
        });
        let continued = line.starts_with(b"\t").then_some(line);
        control.extend_from_slice(if field.is_some() { b"H??" } else { b"" });
        control.extend_from_slice(field.unwrap_or(line));
        if let Some(text) = field.or(continued) {
            header.extend_from_slice(text.strip_suffix(b"\n").unwrap());
            header.extend_from_slice(b"\r\n");
        }
    }
    header.extend_from_slice(b"\r\n");
    (control, header)
}

#[track_caller]
fn same(ours: &[u8], theirs: &[u8]) {
    assert_eq!(String::from_utf8_lossy(ours), String::from_utf8_lossy(theirs));
    assert_eq!(ours, theirs);
}

#[test]
fn writes_what_sendmail_wrote() {
    let refused = "Deferred: Connection refused by down.example.net.";
    let soft = "450 4.3.0 Error: command failed";
    let deferred = format!("Deferred: {soft}");
    let cases: [(&[u8], i64, EntryJob); 3] = [
        (
            include_bytes!("../../../tests/golden/spool/down.qf"),
            60074,
            job(
                Some(1_795_328_425),
                Some(refused),
                vec![recipient("a@down.example.net", None), recipient("b@down.example.net", None)],
            ),
        ),
        (
            include_bytes!("../../../tests/golden/spool/soft.qf"),
            90074,
            job(
                Some(1_795_328_425),
                Some(&deferred),
                vec![
                    recipient("soft1@soft.example.net", Some(soft)),
                    recipient("soft2@soft.example.net", Some(soft)),
                ],
            ),
        ),
        (
            include_bytes!("../../../tests/golden/spool/queued.qf"),
            30074,
            job(None, None, vec![recipient("q@ok.example.net", None)]),
        ),
    ];
    for (file, priority, job) in cases {
        let (theirs, header) = golden(file);
        let ours = control_file(&entry(envelope(1_795_328_425, priority), vec![job]), &header);
        same(&ours, &theirs);
    }
}

#[test]
fn writes_every_line_there_is() {
    let mut e = envelope(1_795_328_425, 30_000);
    e.protocol = "ESMTP".into();
    e.relay = "mx.example [192.0.2.1]".into();
    e.body_type = BodyType::EightBitMime;
    e.smtputf8 = true;
    e.ret = Some(Ret::Headers);
    e.envid = Some("QQ314159".into());
    e.deliver_by = Some(DeliverBy { seconds: 120, mode: ByMode::Return, trace: true });
    let mut asked = recipient("grå@x.example", None);
    asked.orcpt = Some("rfc822;gra@x.example".into());
    asked.notify = Notify::On { success: true, failure: false, delay: true };
    let mut never = recipient("never@x.example", None);
    never.notify = Notify::Never;
    let mut failed = recipient("untold@x.example", None);
    failed.state =
        RecipientState::Failed { report: Box::new(report("550 5.1.1 no\nbody")), reported: false };
    let mut told = recipient("told@x.example", None);
    told.state = RecipientState::Failed { report: Box::new(report("550 no")), reported: true };
    let mut done = recipient("done@x.example", None);
    done.state =
        RecipientState::Done { report: Box::new(report("ok")), relayed: true, reported: false };
    let older = job(Some(1_795_328_000), Some("Deferred: older"), vec![asked, done]);
    let newer = job(Some(1_795_329_000), Some("Deferred: newer"), vec![never, failed, told]);
    let mut entry = entry(e, vec![older, newer]);
    entry.held = Some("spam\r\nRPFD:<evil@x.example>".into());
    entry.warned = true;
    assert!(control_name(&entry).starts_with("hf") && body_name(&entry).starts_with("df"));
    same(
        &control_file(&entry, b"Return-Path: <a@b>\r\nSubject: x\r\n y\r\nEmpty:\r\n\r\n"),
        include_bytes!("../../../tests/golden/spool/all.qf"),
    );
}

#[test]
fn a_report_has_the_null_sender_and_its_flag() {
    let mut e = envelope(1_795_328_425, 30_000);
    e.reverse_path = ReversePath::Null;
    e.relay = String::new();
    let file = control_file(
        &entry(e, vec![job(None, None, vec![recipient("a@b.example", None)])]),
        b"\r\n",
    );
    same(&file, b"V8\nT1795328425\nK0\nN0\nP30000\nFrs\nS<>\nrRFC822; a@b.example\nRPFD:a@b.example\nH?P?Return-Path: <\x81g>\n.\n");
}

proptest! {
    #[test]
    fn line_ends_survive_any_cut(
        body in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'a')], 0..40),
        cuts in proptest::collection::vec(1usize..6, 0..40),
    ) {
        let mut out = Vec::new();
        let mut lines = BodyLines::default();
        let mut rest = body.as_slice();
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            lines.write(&mut out, piece).unwrap();
            rest = after;
        }
        lines.write(&mut out, rest).unwrap();
        lines.end(&mut out).unwrap();
        let text = String::from_utf8(body).unwrap();
        prop_assert_eq!(String::from_utf8(out).unwrap(), text.replace("\r\n", "\n"));
    }
}
