//! What real spools and hostile ones become: golden files, and octets of any kind.
//!
//! The control files `queued`, `down` and `soft` and everything under `postfix/` were written by the real programs; the others by the
//! grammar of the reference.

use std::io::{BufReader, Cursor};
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::files::{Found, Message, walk};
use super::one::{self, Outcome};
use super::postfix::Place;
use super::records::{Postcat, QueueFile};
use super::sendmail::Kind;
use super::*;
use crate::mail::loading::Loading;

const BODY: &[u8] = b"one\n.\nthree\n";

fn now() -> Timestamp {
    Timestamp::from_secs(1_795_400_000)
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/spool")
}

/// Keeps what it is given.
#[derive(Default)]
struct Taken {
    recipients: Vec<Recipient>,
    bytes: Vec<u8>,
}

impl Parts for Taken {
    fn recipient(&mut self, recipient: Recipient) -> io::Result<()> {
        self.recipients.push(recipient);
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

fn told(fault: Fault) -> String {
    match fault {
        Fault::Unreadable(unreadable) => unreadable.to_string(),
        Fault::Lost(error) => panic!("{error}"),
    }
}

fn control(file: &[u8]) -> Result<(Loading, Taken, Head), String> {
    let scanned = sendmail::scan(&mut &*file, "6AM6KPvT020582", Kind::Queued, now());
    let scanned = scanned.map_err(|unreadable| unreadable.to_string())?;
    let mut taken = Taken::default();
    let loading = sendmail::send(&scanned, &mut &*file, &mut &*BODY, &mut taken).map_err(told)?;
    Ok((loading, taken, scanned.head))
}

fn queue_file(file: &[u8], place: &Place) -> Result<(Loading, Taken, Head), String> {
    let records = || QueueFile::new(BufReader::new(Cursor::new(file)), file.len() as u64);
    let scanned = postfix::scan(&mut records(), "DE4EA9D80D8", place, now());
    let scanned = scanned.map_err(|unreadable| unreadable.to_string())?;
    let mut taken = Taken::default();
    let loading = postfix::send(&scanned, &mut records(), &mut taken).map_err(told)?;
    Ok((loading, taken, scanned.head))
}

fn printed(file: &[u8]) -> Result<(Loading, Taken, Head), String> {
    let (mut first, mut second) = (file, file);
    let mut records = Postcat::new(&mut first, TimeZone::UTC, 0);
    let scanned = postfix::scan(&mut records, "DE4EA9D80D8", &Place::default(), now());
    let scanned = scanned.map_err(|unreadable| unreadable.to_string())?;
    let mut taken = Taken::default();
    let mut records = Postcat::new(&mut second, TimeZone::UTC, 0);
    let loading = postfix::send(&scanned, &mut records, &mut taken).map_err(told)?;
    Ok((loading, taken, scanned.head))
}

/// A message as lines of text; its octets with their line ends shown, long lines by their length.
fn shown(read: Result<(Loading, Taken, Head), String>) -> String {
    let (loading, taken, head) = match read {
        Err(reason) => return format!("refused: {reason}\n"),
        Ok(read) => read,
    };
    let Loading { envelope, attempts, warned, held } = loading;
    assert_eq!(envelope.size, taken.bytes.len() as u64);
    assert_eq!(head.recipients as usize, taken.recipients.len());
    let mut text = format!("origin: {}\n", head.origin);
    text += &format!(
        "from {:?} by {:?} {:?}, {:?} ret {:?} envid {:?} utf8 {} {:?} precedence {} priority {} msgid {:?}\n",
        envelope.reverse_path.to_string(),
        envelope.relay,
        envelope.protocol,
        envelope.body_type,
        envelope.ret,
        envelope.envid,
        envelope.smtputf8,
        envelope.timeouts,
        envelope.precedence,
        envelope.priority,
        envelope.message_id
    );
    text += &format!(
        "arrival {} attempts {} last {:?} status {:?} warned {warned} held {held:?} report {}\n",
        envelope.arrival.as_secs(),
        attempts.count,
        attempts.last.map(Timestamp::as_secs),
        attempts.status,
        envelope.is_report()
    );
    for recipient in &taken.recipients {
        let state = match &recipient.state {
            RecipientState::Open(Some(report)) => format!("{} {:?}", report.status, report.text),
            state => format!("{state:?}"),
        };
        let Recipient { address, orcpt, notify, .. } = recipient;
        text += &format!(
            "to {address:?} orcpt {orcpt:?} notify {notify:?} {state}\n",
            address = address.as_str()
        );
    }
    let (header, body) = taken.bytes.split_at(usize::try_from(envelope.header_len).unwrap());
    for (name, part) in [("header", header), ("body", body)] {
        for line in part.split_inclusive(|b| *b == b'\n') {
            let shown = match line.len() {
                ..=200 => line.escape_ascii().to_string(),
                length => format!("{} ... {length} octets", line[..40].escape_ascii()),
            };
            text += &format!("{name} {shown}\n");
        }
    }
    text
}

#[track_caller]
fn compare(path: &Path, text: &str) {
    if std::env::var_os("KVMTA_BLESS").is_some() {
        std::fs::write(path, text).unwrap();
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(text, expected, "{}", path.display());
}

#[test]
fn control_files_become_messages_or_are_refused_with_line_and_reason() {
    let mut text = String::new();
    for directory in ["", "load"] {
        let mut files: Vec<PathBuf> = std::fs::read_dir(golden().join(directory))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "qf"))
            .collect();
        files.sort();
        for path in files {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let read = control(&std::fs::read(&path).unwrap());
            assert_eq!(read.is_err(), name.starts_with("bad-"), "{name}: {:?}", read.err());
            text += &format!("== {name}\n{}", shown(control(&std::fs::read(&path).unwrap())));
        }
    }
    compare(&golden().join("load/control.txt"), &text);
}

#[test]
fn queue_files_of_postfix_become_messages() {
    let read = |name: &str| std::fs::read(golden().join("postfix").join(name)).unwrap();
    let mut text = String::new();
    let deferred = Place { held: false, deferred: Some((now(), Some("refused".into()))) };
    let hold = Place { held: true, deferred: None };
    for (name, place) in [
        ("DE4EA9D80D8", &deferred),
        ("44DE69D8104", &deferred),
        ("DF2599D80D9", &hold),
        ("65B409D810D", &Place::default()),
    ] {
        text += &format!("== {name}\n{}", shown(queue_file(&read(name), place)));
    }
    compare(&golden().join("postfix/messages.txt"), &text);

    // What postcat prints of it is the same message, under the same origin.
    let (loading, taken, head) = printed(&read("DE4EA9D80D8.postcat")).unwrap();
    let (there, file, named) = queue_file(&read("DE4EA9D80D8"), &Place::default()).unwrap();
    assert_eq!((loading, taken.recipients, head), (there, file.recipients, named));
    assert_eq!(taken.bytes, file.bytes);
}

fn record(kind: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    let mut length = data.len();
    while length > 0x7f {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(data);
    bytes
}

fn message(envelope: &[(u8, &str)]) -> Vec<u8> {
    let mut bytes = record(b'T', b"1795328425 5");
    for (kind, data) in envelope {
        bytes.extend(record(*kind, data.as_bytes()));
    }
    for (kind, data) in
        [(b'M', ""), (b'N', "Subject: x"), (b'N', ""), (b'N', "y"), (b'X', ""), (b'E', "")]
    {
        bytes.extend(record(kind, data.as_bytes()));
    }
    bytes
}

#[test]
fn what_postfix_knows_and_we_do_not_is_never_dropped() {
    let place = Place::default();
    let read = |envelope: &[(u8, &str)]| queue_file(&message(envelope), &place);
    let to = |envelope: &[(u8, &str)]| -> Vec<String> {
        let taken = read(envelope).unwrap().1;
        taken.recipients.iter().map(|r| format!("{} {:?}", r.address, r.notify)).collect()
    };
    // NOTIFY is the next recipient's alone, also when that is done or was taken back.
    let envelope =
        [(b'S', "a@b"), (b'n', "1"), (b'D', "x@b"), (b'R', "y@b"), (b'n', "8"), (b'R', "z@b")];
    let delay = "z@b On { success: false, failure: false, delay: true }";
    assert_eq!(to(&envelope), ["y@b Unspecified", delay]);
    assert_eq!(to(&[(b'S', ""), (b'R', "x@b"), (b'R', "y@b"), (b'>', "z@c")]), ["z@c Unspecified"]);
    assert_eq!(to(&[(b'S', "a@b"), (b'R', "a b\"c@d")]), ["\"a b\\\"c\"@d Unspecified"]);
    let filtered = read(&[(b'S', "a@b"), (b'L', "smtp:[::1]:10024"), (b'R', "x@b")]).unwrap().0;
    assert!(filtered.held.unwrap().contains("content filter smtp:[::1]:10024"));
    for (envelope, reason) in [
        (&[(b'S', "a@b"), (b'V', "+="), (b'R', "x@b")][..], "VERP"),
        (&[(b'S', "a@b"), (b'D', "x@b")], "no recipients"),
        (&[(b'R', "x@b")], "no sender"),
        (&[(b'S', "a@b"), (b'R', "x@b..c")], "Invalid route"),
        (&[(b'S', "a@b"), (b'E', ""), (b'R', "x@b")], "not in their order"),
        (&[(b'S', "a@b"), (b'p', "99999"), (b'R', "x@b")], "lead nowhere"),
        (&[(b'S', "a@b"), (b'p', "14"), (b'R', "x@b")], "in a circle"),
    ] {
        let error = read(envelope).err().unwrap_or_default();
        assert!(error.contains(reason), "{reason}: {error:?}");
    }
    let whole = message(&[(b'S', "a@b"), (b'R', "x@b")]);
    for length in 0..whole.len() {
        assert!(queue_file(&whole[..length], &place).is_err(), "{length} octets of it");
    }
}

#[test]
fn line_ends_become_those_of_mail() {
    let file = b"V8\nT1795328425\nK0\nN0\nP1\nS<a@b>\nRPFD:<x@b>\nH??A: 1\n 2\n.\n";
    let scanned = sendmail::scan(&mut &file[..], "6AM", Kind::Queued, now()).unwrap();
    for (body, expected) in
        [(&b""[..], &b""[..]), (b"a\nb", b"a\r\nb"), (b"a\r\nb\rc\0\n", b"a\r\nb\r\nc\r\n")]
    {
        let mut taken = Taken::default();
        sendmail::send(&scanned, &mut &file[..], &mut &*body, &mut taken).unwrap();
        assert_eq!(taken.bytes, [b"A: 1\r\n 2\r\n\r\n", expected].concat());
    }
}

/// Counts, and keeps nothing.
#[derive(Default)]
struct Counted(usize, usize);

impl Parts for Counted {
    fn recipient(&mut self, _: Recipient) -> io::Result<()> {
        self.0 += 1;
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.1 += bytes.len();
        Ok(())
    }
}

#[test]
fn large_lists_and_headers_go_by() {
    let mut file = b"V8\nT1795328425\nK0\nN0\nP1\nS<a@b>\n".to_vec();
    (0..100_000)
        .for_each(|n| file.extend_from_slice(format!("RPFD:<r{n}@d.example>\n").as_bytes()));
    file.extend_from_slice(b"H??X-Long: ");
    (0..16_000).for_each(|_| file.extend_from_slice(&[&[b'x'; 60][..], b"\n\t"].concat()));
    file.extend_from_slice(b"end\n.\n");
    let scanned = sendmail::scan(&mut &file[..], "6AM", Kind::Queued, now()).unwrap();
    let mut counted = Counted::default();
    sendmail::send(&scanned, &mut &file[..], &mut &*BODY, &mut counted).unwrap();
    assert_eq!(counted.0, 100_000);
    assert!(counted.1 > 16_000 * 62);

    file = b"V8\nT1\nS<a@b>\nRPFD:<x@b>\nH??X: ".to_vec();
    file.resize(3 << 20, b'x');
    assert!(sendmail::scan(&mut &file[..], "6AM", Kind::Queued, now()).is_err());
}

// --- files -----------------------------------------------------------------------------------------------------------

fn spool(files: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let control = std::fs::read(golden().join("queued.qf")).unwrap();
    for name in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let is_control = Kind::of(path.file_name().unwrap().to_str().unwrap()).is_some();
        std::fs::write(&path, if is_control { &control[..] } else { BODY }).unwrap();
    }
    directory
}

/// What a walk finds and what reading it gives, by path.
fn all(directory: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let name = |path: &Path| path.strip_prefix(directory).unwrap().display().to_string();
    walk(directory, &mut |found| {
        lines.push(match found {
            Found::Message(message) => {
                let outcome = match one::load(&message, None, now(), true).unwrap() {
                    Outcome::Readable => "readable".to_owned(),
                    Outcome::Locked(why) => format!("locked: {why}"),
                    Outcome::Unreadable(why) => format!("unreadable: {why}")
                        .replace(&directory.display().to_string(), "DIR"),
                    other => format!("{other:?}"),
                };
                format!("{} {outcome}", name(message.path()))
            }
            Found::Ignored(path, what) => format!("{} {what}", name(&path)),
            Found::Foreign(path, why) | Found::Busy(path, why) => format!("{}: {why}", name(&path)),
        });
        true
    });
    lines.sort();
    lines
}

#[test]
fn a_queue_directory_is_read_as_sendmail_lays_it_out() {
    let directory = spool(&[
        "qf1A",
        "df1A",
        "hf2A",
        "df2A",
        "Qf3A",
        "df3A",
        "qf4A",
        "df9A",
        "xf1A",
        "tf5A",
        "README",
        "q1/qf/qfB1",
        "q1/df/dfB1",
        "q1/xf/xfB1",
        "q1/qfB9",
        "q2/qfC1",
        "q2/dfC1",
    ]);
    assert_eq!(
        all(directory.path()),
        [
            "Qf3A readable",
            "README no queue file",
            "df9A body without control file",
            "hf2A readable",
            "q1/qf/qfB1 readable",
            "q1/qfB9: a control file outside of qf/, where sendmail would not see it",
            "q1/xf/xfB1 transcript",
            "q2/qfC1 readable",
            "qf1A readable",
            "qf4A unreadable: its body DIR/df4A: No such file or directory (os error 2)",
            "tf5A unfinished control file",
            "xf1A transcript",
        ]
    );
}

#[test]
fn what_somebody_has_in_hand_is_left_alone() {
    let directory = spool(&["qf1A", "df1A", "qf2A", "df2A"]);
    let file = std::fs::File::open(directory.path().join("qf1A")).unwrap();
    file.lock().unwrap();
    assert_eq!(all(directory.path())[0], "qf1A locked: another process has it in hand");
    drop(file);
    assert_eq!(all(directory.path()), ["qf1A readable", "qf2A readable"]);
    assert!(directory.path().join("df1A").exists(), "what is only read is not removed");
}

#[test]
fn links_and_special_files_lead_nowhere() {
    let directory = spool(&["qf1A", "df1A", "q1/df2A"]);
    std::os::unix::fs::symlink(directory.path().join("qf1A"), directory.path().join("qf2A"))
        .unwrap();
    std::os::unix::fs::symlink(directory.path().join("df1A"), directory.path().join("q1/df3A"))
        .unwrap();
    std::fs::copy(directory.path().join("qf1A"), directory.path().join("q1/qf3A")).unwrap();
    let lines = all(directory.path());
    let of = |name: &str| lines.iter().find(|line| line.starts_with(name)).unwrap().clone();
    assert!(of("qf2A").contains("unreadable: ") && of("q1/qf3A").contains("its body"), "{lines:?}");
}

#[test]
fn a_postfix_queue_is_hashed_and_its_logs_say_why() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    for (name, mode) in [("deferred/D/DE4EA9D80D8", 0o700), ("incoming/DF2599D80D9", 0o600)] {
        let from = golden().join("postfix").join(name.rsplit('/').next().unwrap());
        std::fs::copy(from, place(name)).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(place(name), mode).unwrap();
    }
    std::fs::write(place("defer/D/DE4EA9D80D8"), "reason=old\n\nreason=no route\n").unwrap();
    let mut logs = Vec::new();
    walk(directory.path(), &mut |found| {
        if let Found::Message(Message::Postfix { logs: found, .. }) = found {
            logs.extend(found);
        }
        true
    });
    assert_eq!(logs, [place("defer/D/DE4EA9D80D8")]);
    assert_eq!(
        all(directory.path()),
        [
            "deferred/D/DE4EA9D80D8 readable",
            "incoming/DF2599D80D9 locked: it is being written, or was never finished",
        ]
    );
    let master = std::fs::File::create(place("pid/master.pid")).unwrap();
    master.lock().unwrap();
    assert!(all(directory.path())[0].contains("Postfix is running"));
}

proptest! {
    #[test]
    fn hostile_control_files_never_panic(lines in proptest::collection::vec("[VTKNPBqMF$SZQRH.!dC]\\PC{0,20}", 0..20)) {
        let _ = control((lines.join("\n") + "\n.\n").as_bytes());
    }

    #[test]
    fn hostile_octets_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = control(&bytes);
        let _ = queue_file(&bytes, &Place::default());
        let _ = printed(&[b"*** ENVELOPE RECORDS x ***\n", &bytes[..]].concat());
    }

    #[test]
    fn flipped_octets_of_a_queue_file_never_panic(at in 0usize..970, with: u8) {
        let mut file = std::fs::read(golden().join("postfix/DF2599D80D9")).unwrap();
        let place = at % file.len();
        file[place] = with;
        let _ = queue_file(&file, &Place::default());
    }

    #[test]
    fn xtext_is_xtext(text in "[ -~]{0,40}") {
        let xtext = to_xtext(&text);
        prop_assert!(is_xtext(&xtext, false) || xtext.is_empty());
    }
}
