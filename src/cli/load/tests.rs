//! What real spools and hostile ones become: golden files, and octets of any kind.
//!
//! The control files `queued`, `down` and `soft` and everything under `postfix/` were written by the real programs; the others by the
//! grammar of the reference.

use std::io::{BufReader, Cursor};
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::files::{Found, Message, walk};
use super::one::{self, Manner, Outcome};
use super::postfix::{Deferral, Dropped, Place};
use super::records::{Postcat, QueueFile, Records};
use super::sendmail::Kind;
use super::*;

const BODY: &[u8] = b"one\n.\nthree\n";

fn now() -> Timestamp {
    Timestamp::from_secs(1_795_400_000)
}

fn manner() -> Manner {
    Manner { now: now(), remove: true, host: "mx.example".into() }
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

/// What is read of a message: the first copy of it.
type Told = Result<(Sent, Taken, Head), String>;

fn told(fault: Fault) -> String {
    match fault {
        Fault::Unreadable(unreadable) => unreadable.to_string(),
        Fault::Lost(error) => panic!("{error}"),
    }
}

fn control(file: &[u8]) -> Told {
    let scanned = sendmail::scan(&mut &*file, "6AM6KPvT020582", Kind::Queued, now());
    let scanned = scanned.map_err(|unreadable| unreadable.to_string())?;
    let mut taken = Taken::default();
    let sent = sendmail::send(&scanned, &mut &*file, &mut &*BODY, &mut taken).map_err(told)?;
    Ok((sent, taken, scanned.head))
}

/// Shows records from the first on to whoever reads them.
type Show<'a> = dyn Fn(&mut dyn FnMut(&mut dyn Records)) + 'a;

/// Each copy of a message.
fn copies(place: &Place, records: &Show<'_>) -> Result<Vec<(Sent, Taken, Head)>, String> {
    let mut scanned = None;
    records(&mut |records| scanned = Some(postfix::scan(records, "DE4EA9D80D8", place, now())));
    let scanned = scanned.unwrap().map_err(|unreadable| unreadable.to_string())?;
    let mut copies = None;
    records(&mut |records| copies = Some(postfix::copies(&scanned, records)));
    let mut all = Vec::new();
    for copy in copies.unwrap().map_err(|unreadable| unreadable.to_string())? {
        let (mut taken, mut sent) = (Taken::default(), None);
        records(&mut |records| sent = Some(postfix::send(&scanned, &copy, records, &mut taken)));
        all.push((sent.unwrap().map_err(told)?, taken, copy.head));
    }
    Ok(all)
}

fn queue_file_copies(file: &[u8], place: &Place) -> Result<Vec<(Sent, Taken, Head)>, String> {
    copies(place, &|read| {
        read(&mut QueueFile::new(BufReader::new(Cursor::new(file)), file.len() as u64));
    })
}

fn queue_file(file: &[u8], place: &Place) -> Told {
    Ok(queue_file_copies(file, place)?.remove(0))
}

fn printed(file: &[u8]) -> Told {
    let all = copies(&Place::default(), &|read| {
        let mut file = file;
        read(&mut Postcat::new(&mut file, TimeZone::UTC, 0));
    });
    Ok(all?.remove(0))
}

/// A message as lines of text; its octets with their line ends shown, long lines by their length.
fn shown(read: Told) -> String {
    let (Sent { loading, unkept }, taken, head) = match read {
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
    if let Some(by) = envelope.deliver_by {
        text += &format!("{by:?}\n");
    }
    if !unkept.is_empty() {
        text += &format!("not kept: {}\n", unkept.join(", "));
    }
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
    let mut deferral = Deferral::unknown(now());
    deferral.reason = Some("refused".into());
    let deferred = Place { deferred: Some(deferral), ..Place::default() };
    let hold = Place { held: Some("on hold in Postfix"), ..Place::default() };
    for (name, place) in [
        ("DE4EA9D80D8", &deferred),
        ("44DE69D8104", &deferred),
        ("DF2599D80D9", &hold),
        ("65B409D810D", &Place::default()),
    ] {
        text += &format!("== {name}\n{}", shown(queue_file(&read(name), place)));
    }
    // Deferred; of a list, one for each recipient; from a program, and seen by nobody yet.
    let deferral = Deferral::read(&read("alias.defer"), now());
    assert_eq!(deferral.recipients.len(), 2);
    let alias = Place { deferred: Some(deferral), ..Place::default() };
    let verp = Deferral::read(&read("verp.defer"), now());
    let verp = Place { deferred: Some(verp), owes_report: true, ..Place::default() };
    let dropped = Dropped { user: "joe".into(), host: "mx.example".into() };
    let maildrop = Place { dropped: Some(dropped), ..Place::default() };
    for (name, place) in
        [("alias", &alias), ("verp", &verp), ("maildrop", &maildrop), ("maildrop-root", &maildrop)]
    {
        text += &format!("== {name}\n");
        for copy in queue_file_copies(&read(name), place).unwrap() {
            text += &shown(Ok(copy));
        }
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
    let filtered = read(&[(b'S', "a@b"), (b'L', "smtp:[::1]:10024"), (b'R', "x@b")]).unwrap();
    let filtered = filtered.0.loading;
    assert!(filtered.held.unwrap().contains("content filter smtp:[::1]:10024"));
    for (envelope, reason) in [
        (&[(b'S', "a@b"), (b'V', "+"), (b'R', "x@b")][..], "no two VERP delimiters"),
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
fn verp_makes_a_message_for_each_recipient() {
    let read = |envelope: &[(u8, &str)]| queue_file_copies(&message(envelope), &Place::default());
    let list = |recipients: &[(u8, &str)]| {
        let copies = read(&[&[(b'S', "l@b"), (b'V', "+=")], recipients].concat()).unwrap();
        let shown = |(Sent { loading, .. }, taken, _): &(Sent, Taken, Head)| {
            let [to] = &taken.recipients[..] else { panic!("{:?}", taken.recipients) };
            format!("{} {}", loading.envelope.reverse_path, to.address)
        };
        let origins: std::collections::BTreeSet<_> =
            copies.iter().map(|copy| &copy.2.origin).collect();
        assert_eq!(origins.len(), copies.len(), "each has a name of its own");
        copies.iter().map(shown).collect::<Vec<_>>()
    };
    // The original recipient is what the sender knows; those of one alias share it.
    assert_eq!(
        list(&[
            (b'R', "x@c"),
            (b'D', "y@c"),
            (b'O', "all@c"),
            (b'R', "z@d"),
            (b'O', "all@c"),
            (b'R', "z@e")
        ]),
        ["l+x=c@b x@c", "l+all=c@b z@d", "l+all=c@b z@e"]
    );
    assert_eq!(list(&[(b'R', "a b@c")]), ["\"l+a b=c\"@b \"a b\"@c"]);
    assert_eq!(list(&[(b'R', "x@c"), (b'R', "y@c"), (b'>', "z@c")]), ["l+x=c@b z@c"]);
    // A report has no sender to make others of.
    let report = read(&[(b'S', ""), (b'V', "+="), (b'R', "x@c"), (b'R', "y@c")]).unwrap();
    assert_eq!((report.len(), report[0].1.recipients.len()), (1, 2));
    let many = vec![(b'R', "x@c"); postfix::VERP_MAX + 1];
    let error = read(&[&[(b'S', "l@b"), (b'V', "+=")], &many[..]].concat()).err().unwrap();
    assert!(error.contains("let Postfix deliver it"), "{error}");
}

#[test]
fn every_letter_of_a_control_file_is_read_by_a_test() {
    let mut letters = std::collections::BTreeSet::new();
    for directory in ["", "load"] {
        for entry in std::fs::read_dir(golden().join(directory)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.ends_with(".qf") && !name.starts_with("bad-") {
                let file = std::fs::read(&path).unwrap();
                letters
                    .extend(file.split(|b| *b == b'\n').filter_map(|line| line.first().copied()));
            }
        }
    }
    let missing: String =
        "VTKNPdIBqMF$SZA!CQrRH.DEL".chars().filter(|c| !letters.contains(&(*c as u8))).collect();
    assert_eq!(missing, "", "no golden file has these");
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
struct Counted(usize, usize, usize);

impl Parts for Counted {
    fn recipient(&mut self, _: Recipient) -> io::Result<()> {
        self.0 += 1;
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.1 += bytes.len();
        self.2 = self.2.max(bytes.len());
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
    // One line of it, without an end.
    let mut body = io::Read::take(io::repeat(b'x'), 8 << 20);
    sendmail::send(&scanned, &mut &file[..], &mut body, &mut counted).unwrap();
    assert_eq!(counted.0, 100_000);
    assert!(counted.1 > (8 << 20) + 16_000 * 62);
    assert!(counted.2 <= 64 << 10, "in pieces of {} octets", counted.2);

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
                let mut outcomes = Vec::new();
                one::load(&message, None, &manner(), &mut |outcome| {
                    outcomes.push(match outcome {
                        Outcome::Readable(unkept) if unkept.is_empty() => "readable".to_owned(),
                        Outcome::Readable(unkept) => format!("readable without {unkept:?}"),
                        Outcome::Locked(why) => format!("locked: {why}"),
                        Outcome::Unreadable(why) => format!("unreadable: {why}")
                            .replace(&directory.display().to_string(), "DIR"),
                        other => format!("{other:?}"),
                    });
                })
                .unwrap();
                format!("{} {}", name(message.path()), outcomes.join(", "))
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
fn a_body_may_lie_in_another_queue_directory() {
    let directory = spool(&["q1/qf/qfA1", "q2/df/dfA1", "q1/df/dfA2", "q2/qf/qfA3", "q1/xf/xfA1"]);
    let place = |name: &str| directory.path().join(name);
    let name_in = |control: &str, body: &str| {
        let file = format!("V8\nT1795328425\nK0\nN0\nP1\nd{body}\nS<a@b>\nRPFD:<x@b>\n.\n");
        std::fs::write(place(control), file).unwrap();
    };
    let readable = |path: &Path| all(path).contains(&"qf/qfA1 readable".to_owned());
    let missing = "its body dfA3 is in the queue directory /etc, which is not among what was named";
    // By its name in the QueueDirectory, by its whole name, by that of the place the spool was copied from.
    let whole = place("q2").display().to_string();
    name_in("q2/qf/qfA3", "/etc");
    for body in ["q2", whole.as_str(), "/var/spool/mqueue/q2"] {
        name_in("q1/qf/qfA1", body);
        let lines = all(directory.path());
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert_eq!(lines[0], "q1/df/dfA2 body without control file");
        assert_eq!(lines[1], "q1/qf/qfA1 readable", "{body}");
        assert!(lines[3].contains(missing), "{lines:?}");
        // Beside the queue directory, when only that is named.
        assert!(readable(&place("q1")), "{body}");
    }
    // The QueueDirectory itself.
    std::fs::rename(place("q2/df/dfA1"), place("dfA1")).unwrap();
    name_in("q1/qf/qfA1", ".");
    assert_eq!(all(directory.path())[1], "q1/qf/qfA1 readable");
    assert!(readable(&place("q1")));
    name_in("q1/qf/qfA1", "../../etc");
    assert!(all(directory.path())[1].contains("not among what was named"));
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
    let corrupt = place("corrupt/DF2599D80D9");
    std::fs::rename(place("incoming/DF2599D80D9"), &corrupt).unwrap();
    std::fs::set_permissions(&corrupt, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .unwrap();
    std::fs::write(place("bounce/D/DF2599D80D9"), "recipient=x\n\n").unwrap();
    let lines = all(directory.path());
    assert!(
        lines[0].starts_with("corrupt/DF2599D80D9 readable without [\"the report on"),
        "{lines:?}"
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
