//! Golden octets of every layout, and round trips.

use proptest::prelude::*;

use super::*;
use crate::mail::envelope::TimeoutClass;
use crate::mail::job::Mailer;

fn report() -> Report {
    Report {
        status: EnhancedStatus::new(5, 1, 1),
        text: "User unknown".into(),
        reply: Some(Reply::new(550, Some(EnhancedStatus::new(5, 1, 1)), "no")),
        command: Some("RCPT To:<x@b.example>".into()),
        remote: Some(RemoteHost { name: "mx.b.example".into(), address: "192.0.2.1".into() }),
        at: Timestamp::from_secs(1_795_326_121),
    }
}

fn recipient(state: RecipientState) -> Recipient {
    Recipient {
        address: "x@b.example".parse().unwrap(),
        orcpt: Some("rfc822;x@b.example".into()),
        notify: Notify::On { success: true, failure: false, delay: true },
        state,
    }
}

fn envelope() -> Envelope {
    Envelope {
        reverse_path: ReversePath::Mailbox("joe@a.example".parse().unwrap()),
        arrival: Timestamp::from_secs(1_795_326_121),
        relay: "mx.a.example [192.0.2.7]".into(),
        protocol: "ESMTP".into(),
        body_type: BodyType::EightBitMime,
        smtputf8: true,
        ret: Some(Ret::Headers),
        envid: Some("e1".into()),
        timeouts: TimeoutClass::Urgent,
        precedence: -30,
        priority: 31_000,
        message_id: "<1@a.example>".into(),
        header_len: 500,
        size: 70_000,
        body_lines: 900,
        relay_override: Some("[192.0.2.9]".into()),
        deliver_by: None,
    }
}

fn destination() -> Destination {
    Destination { mailer: Mailer::Relay, next_hop: "b.example".into() }
}

fn job() -> EntryJob {
    EntryJob {
        number: 3,
        destination: destination(),
        due: Timestamp::from_secs(1_795_326_200),
        attempts: 2,
        last_attempt: Some(Timestamp::from_secs(1_795_326_190)),
        status: Some("Deferred: later".into()),
        recipients: vec![
            recipient(RecipientState::Open(None)),
            recipient(RecipientState::Open(Some(Box::new(report())))),
            recipient(RecipientState::Done {
                report: Box::new(report()),
                relayed: true,
                reported: false,
            }),
            recipient(RecipientState::Failed { report: Box::new(report()), reported: true }),
        ],
    }
}

fn list() -> List {
    List {
        recipients: 100_000,
        jobs: 70,
        open_jobs: 60,
        unfolding: true,
        unreported_since: Some(Timestamp::from_secs(1_795_326_121)),
        sweep: Some(Sweep { change: Change::Due(Timestamp::from_secs(1_795_326_121)), next: 7 }),
    }
}

fn message(shape: Shape) -> Message {
    let key = Some(QueueId::from_u64(7 << 32));
    Message {
        envelope: envelope(),
        body: Body { generation: 12, key },
        warned: true,
        held: Some("spam".into()),
        shape,
    }
}

fn incoming() -> Incoming {
    Incoming {
        envelope: envelope(),
        destination: destination(),
        held: None,
        recipients: vec![recipient(RecipientState::Open(None))],
    }
}

fn row() -> DestinationRow {
    DestinationRow {
        state: DestinationState {
            not_before: Timestamp::from_secs(1_795_326_121),
            failures: 4,
            last: Some(report()),
        },
        agenda: Some(Timestamp::from_secs(1_795_326_121)),
    }
}

fn host() -> HostOutcome {
    HostOutcome {
        host: "mx.b.example".into(),
        up: false,
        text: "Connection refused".into(),
        status: EnhancedStatus::new(4, 4, 1),
        at: Timestamp::from_secs(1_795_326_121),
    }
}

/// Name, octets in hexadecimal, on a line each: what is on disks out there. A line is never changed, only added.
const GOLDEN: &str = include_str!("golden.txt");

#[track_caller]
fn golden<R: Record + PartialEq + std::fmt::Debug>(name: &str, record: &R) {
    let bytes = record.encode();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let line = GOLDEN.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    assert_eq!(Some(hex.as_str()), line, "{name} {hex}");
    assert_eq!(R::decode(&bytes).expect("what was written"), *record);
}

#[test]
fn layouts_are_frozen() {
    golden("incoming-2", &incoming());
    golden("message-2-inline", &message(Shape::Inline(vec![job()])));
    golden("message-2-list", &message(Shape::List(list())));
    golden("recipients-1", &job());
    golden("staged-1", &job().recipients);
    golden("dest-1", &row());
    golden("host-1", &host());
    golden("number-1", &1_795_326_121_000u64);
    let attempts = Attempts {
        count: 7,
        last: Some(Timestamp::from_secs(1_795_326_121)),
        status: Some("Deferred: later".into()),
    };
    golden("attempts-1", &attempts);
}

/// Only a message with DELIVERBY has format 3: all others are as before.
#[test]
fn deliver_by_is_kept() {
    for (name, seconds, mode, trace) in
        [("return", 3600, ByMode::Return, true), ("notify", -5, ByMode::Notify, false)]
    {
        let by = DeliverBy { seconds, mode, trace };
        let envelope = Envelope { deliver_by: Some(by), ..envelope() };
        let message = Message { envelope: envelope.clone(), ..message(Shape::List(list())) };
        golden(&format!("message-3-{name}"), &message);
        golden(&format!("incoming-3-{name}"), &Incoming { envelope, ..incoming() });
    }
    let mut bytes = incoming().encode();
    bytes[0] = 3;
    bytes.extend([0, 3]);
    assert!(matches!(Incoming::decode(&bytes), Err(RecordError::Layout(_))));
}

/// Messages of format 1 have all but the number of their lines.
#[test]
fn messages_of_format_1_are_read() {
    let bytes = |name: &str| -> Vec<u8> {
        let line = GOLDEN.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let hex = line.expect("the file has it").as_bytes().chunks(2);
        hex.map(|hex| u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap()).collect()
    };
    let mut old = incoming();
    old.envelope.body_lines = 0;
    assert_eq!(Incoming::decode(&bytes("incoming-1")).expect("readable"), old);
    for (name, shape) in
        [("message-1-inline", Shape::Inline(vec![job()])), ("message-1-list", Shape::List(list()))]
    {
        let mut old = message(shape);
        old.envelope.body_lines = 0;
        assert_eq!(Message::decode(&bytes(name)).expect("readable"), old);
    }
}

#[test]
fn ordinary_mail_is_small() {
    let mut incoming = incoming();
    incoming.recipients[0].orcpt = None;
    let size = incoming.encode().len();
    assert!(size < 200, "{size} octets");
}

#[test]
fn unknown_formats_and_left_over_octets_are_damage() {
    let mut bytes = host().encode();
    bytes.push(0);
    assert!(matches!(HostOutcome::decode(&bytes), Err(RecordError::Layout(_))));
    bytes[0] = 2;
    assert!(matches!(HostOutcome::decode(&bytes), Err(RecordError::Format(2))));
    assert!(matches!(HostOutcome::decode(&[]), Err(RecordError::Empty)));
}

#[test]
fn texts_of_strangers_are_bounded() {
    let long = "é".repeat(1000);
    let reply = Reply { code: 550, enhanced: None, lines: vec![long.clone(); 8] };
    let report = Report { text: long.clone(), reply: Some(reply), ..report() };
    let mut job = job();
    job.status = Some(long);
    let open = || recipient(RecipientState::Open(Some(Box::new(report.clone()))));
    job.recipients = (0..1000).map(|_| open()).collect();
    let bytes = job.encode();
    assert!(bytes.len() < RECORD_MAX, "{} octets", bytes.len());
    assert_eq!(EntryJob::decode(&bytes).expect("readable").recipients.len(), 1000);
}

proptest! {
    #[test]
    fn hostile_octets_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Some(format) = bytes.first_mut() {
            *format = *format % 3 + 1;
        }
        drop((Message::decode(&bytes), Incoming::decode(&bytes), EntryJob::decode(&bytes)));
        drop((DestinationRow::decode(&bytes), Vec::<Recipient>::decode(&bytes)));
    }

    #[test]
    fn one_flipped_bit_never_panics(bit in 0usize..8 * 600) {
        let mut bytes = message(Shape::Inline(vec![job()])).encode();
        if let Some(byte) = bytes.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
        drop(Message::decode(&bytes));
    }

    #[test]
    fn addresses_and_numbers_round_trip(local in "[a-z+.=]{1,30}", domain in "[a-z]{1,20}\\.[a-z]{2,5}", size: u64, priority: i64) {
        let mut incoming = incoming();
        incoming.recipients[0].address = format!("x{local}@{domain}").parse().unwrap();
        incoming.envelope.size = size;
        incoming.envelope.priority = priority;
        prop_assert_eq!(Incoming::decode(&incoming.encode()).unwrap(), incoming);
    }
}
