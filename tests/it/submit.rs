//! Submissions by a local program: what becomes of its header, and what is marked.

use std::sync::Arc;

use jiff::tz::TimeZone;
use kvmta::accept::submit::{LocalUser, Submitting};
use kvmta::config::{Config, NoRecipientAction};
use kvmta::mail::envelope::{BodyType, Notify};
use kvmta::mail::job::Entry;
use kvmta::mail::mime::EightBitMode;
use kvmta::mail::submission::{Submission, SubmissionRefused};
use kvmta::mail::time::Timestamp;
use kvmta::store::{Store, StoreOptions};

const NOW: Timestamp = Timestamp::from_secs(1_795_328_479);

/// What is in the queue after the user `joe` has submitted `text`.
fn submitted(
    change: impl FnOnce(&mut Config),
    submission: Submission,
    trusted: bool,
    text: &[u8],
) -> Result<(Entry, String), SubmissionRefused> {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        directory: directory.path().to_owned(),
        cache_size: 16 << 20,
        body_generation_size: 1 << 30,
        incoming_size: 64 << 20,
        max_unsettled: 200,
        min_free: 0,
        clock: Arc::new(|| NOW),
    };
    let mut config = Config { host_name: "lab.example.com".into(), ..Config::default() };
    config.local_names.insert("lab.example.com".into());
    change(&mut config);
    let user = LocalUser { name: "joe".into(), full_name: "Joe O'Neil".into(), trusted };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(options, true).unwrap();
        let mut submitting =
            Submitting::new(config.into(), &store, submission, user, NOW, TimeZone::UTC)?;
        for piece in text.chunks(7) {
            submitting.feed(piece).await?;
        }
        let id = submitting.finish().await?.accepted.id;
        let entry = store.entry(id).unwrap().expect("it is in the store");
        let bytes = store.read_body(&entry.body, 0).await.unwrap();
        Ok((entry, String::from_utf8_lossy(&bytes).replace("\r\n", "\n")))
    })
}

fn to(recipients: &[&str]) -> Submission {
    Submission {
        recipients: recipients.iter().map(|&to| to.to_owned()).collect(),
        ..Submission::default()
    }
}

/// The lines of the message that begin so.
fn lines(text: &str, start: &str) -> Vec<String> {
    text.lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect()
}

#[test]
fn an_untrusted_user_is_marked_and_no_other() {
    const MARK: &str = "X-Authentication-Warning: ";
    let marks = |sender: Option<&str>, trusted: bool| {
        let submission = Submission { sender: sender.map(str::to_owned), ..to(&["a@b.example"]) };
        let (_, text) = submitted(|_| {}, submission, trusted, b"Subject: x\n\nhi\n").unwrap();
        lines(&text, MARK)
    };
    let set = |who: &str| vec![format!("{MARK}lab.example.com: joe set sender to {who} using -f")];
    assert_eq!(marks(None, false), [""; 0]);
    assert_eq!(marks(Some("joe"), false), [""; 0]);
    assert_eq!(marks(Some("joe@lab.example.com"), false), [""; 0]);
    assert_eq!(marks(Some("joe@elsewhere.example"), false), set("joe@elsewhere.example"));
    assert_eq!(marks(Some("ann"), false), set("ann@lab.example.com"));
    assert_eq!(marks(Some(""), false), set("<>"));
    assert_eq!(marks(Some("ann"), true), [""; 0]);

    let submission = Submission {
        config_file: Some("/tmp/my.cf\nX: y".into()),
        queue_directory: Some("/tmp/q".into()),
        ..to(&["a@b.example"])
    };
    let (_, text) = submitted(|_| {}, submission.clone(), false, b"\nhi\n").unwrap();
    let expected = [
        format!("{MARK}lab.example.com: Processed by joe with -C /tmp/my.cf?X: y"),
        format!("{MARK}lab.example.com: Processed from queue /tmp/q"),
    ];
    assert_eq!(lines(&text, MARK), expected);
    let public = |config: &mut Config| config.privacy.authwarnings = false;
    let (_, text) = submitted(public, submission, false, b"\nhi\n").unwrap();
    assert_eq!(lines(&text, MARK), [""; 0]);
}

#[test]
fn a_header_without_recipients_gets_what_is_chosen() {
    let header = |action, text: &[u8]| {
        let change = |config: &mut Config| config.no_recipient_action = action;
        let (_, text) = submitted(change, to(&["a@b.example", "c@d.example"]), true, text).unwrap();
        let (header, _) = text.split_once("\n\n").unwrap();
        let (_, rest) = header.split_once("Subject: x\n").unwrap();
        rest.split_once("\nMessage-Id:")
            .map_or("", |(_, rest)| rest.split_once('\n').map_or("", |(_, rest)| rest))
            .to_owned()
    };
    let bare = b"Subject: x\n\nhi\n";
    assert_eq!(header(NoRecipientAction::None, bare), "");
    assert_eq!(header(NoRecipientAction::AddTo, bare), "To: a@b.example,\n\tc@d.example");
    assert_eq!(
        header(NoRecipientAction::AddApparentlyTo, bare),
        "Apparently-To: a@b.example,\n\tc@d.example"
    );
    assert_eq!(header(NoRecipientAction::AddBcc, bare), "Bcc: ");
    assert_eq!(header(NoRecipientAction::AddToUndisclosed, bare), "To: undisclosed-recipients:;");
    for named in ["To: z@b.example", "cc: z@b.example", "Bcc: z@b.example"] {
        let text = format!("{named}\nSubject: x\n\nhi\n");
        assert_eq!(header(NoRecipientAction::AddTo, text.as_bytes()), "", "{named}");
    }
}

#[test]
fn a_mailbox_line_goes_or_stays() {
    let text = b"From joe Sun Nov 22 05:36:42 2026\nSubject: x\n\nhi\n";
    let (_, dropped) = submitted(|_| {}, to(&["a@b.example"]), true, text).unwrap();
    assert!(!dropped.contains("From joe Sun") && dropped.ends_with("\n\nhi\n"), "{dropped}");
    let keep = |config: &mut Config| config.save_from_line = true;
    let (_, kept) = submitted(keep, to(&["a@b.example"]), true, text).unwrap();
    let (header, body) = kept.split_once("\n\n").unwrap();
    assert!(header.contains("Message-Id: ") && !header.contains("Subject"), "{kept}");
    assert_eq!(body.as_bytes(), text);
}

#[test]
fn names_receipts_and_folded_fields() {
    let text = b"From: Ann\n <ann@b.example>\nReturn-Receipt-To: joe\n\nhi\n";
    let (entry, said) = submitted(|_| {}, to(&["a@b.example"]), true, text).unwrap();
    assert!(said.contains("From: Ann\n <ann@b.example>\n"), "{said}");
    assert_eq!(entry.jobs[0].recipients[0].notify, Notify::Unspecified);
    let change = |config: &mut Config| {
        config.rrt_implies_dsn = true;
        config.single_line_from_header = true;
    };
    let (entry, said) = submitted(change, to(&["a@b.example"]), true, text).unwrap();
    assert!(said.contains("From: Ann  <ann@b.example>\n"), "{said}");
    assert!(!said.contains("Return-Receipt-To"), "{said}");
    assert!(entry.jobs[0].recipients[0].notify.success());

    let (_, quoted) = submitted(|_| {}, to(&["a@b.example"]), true, b"\nhi\n").unwrap();
    assert_eq!(lines(&quoted, "From:"), ["From: \"Joe O'Neil\" <joe@lab.example.com>"]);
    let none = |config: &mut Config| config.must_quote_chars.clear();
    let (_, plain) = submitted(none, to(&["a@b.example"]), true, b"\nhi\n").unwrap();
    assert_eq!(lines(&plain, "From:"), ["From: Joe O'Neil <joe@lab.example.com>"]);
}

#[test]
fn eight_bits_by_command() {
    let text = "Subject: x\n\ncaf\u{e9}\n".as_bytes();
    let strict = |config: &mut Config| config.eight_bit_mode = EightBitMode::Strict;
    let refused = submitted(strict, to(&["a@b.example"]), true, text).unwrap_err();
    assert_eq!((refused.exit, refused.text.as_str()), (65, "Eight bit data not allowed"));
    let mime = [b"MIME-Version: 1.0\n", text].concat();
    let (entry, _) = submitted(strict, to(&["a@b.example"]), true, &mime).unwrap();
    assert_eq!(entry.envelope.body_type, BodyType::EightBitMime);
    let (entry, _) = submitted(|_| {}, to(&["a@b.example"]), true, text).unwrap();
    assert_eq!(entry.envelope.body_type, BodyType::EightBit);
    let strip = |config: &mut Config| config.seven_bit_input = true;
    let (entry, said) = submitted(strip, to(&["a@b.example"]), true, text).unwrap();
    assert!(said.ends_with("cafC)\n"), "{said}");
    assert_eq!(entry.envelope.body_type, BodyType::SevenBit);
}

/// The words of Precedence are those of the P lines, and the priority goes by them.
#[test]
fn precedence_by_the_p_lines() {
    let text = b"Precedence: Slow\n\nhi\n";
    let words = |config: &mut Config| {
        config.precedences.insert("slow".into(), -7);
    };
    let (entry, _) = submitted(words, to(&["a@b.example"]), true, text).unwrap();
    assert_eq!(entry.envelope.precedence, -7);
    // The size as it came, with LF line ends.
    assert_eq!(entry.envelope.priority, text.len() as i64 + 7 * 1800 + 30_000);
}
