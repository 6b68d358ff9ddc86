//! Content above 127, and MIME fields that are too long, on their way to hosts that offer this or that.

use super::*;
use crate::mail::mime::{EightBitMode, Limits};

const OFFERS: &str = "> 220 hi\nEHLO > 250-hi|250-SIZE 5000000|250 PIPELINING\n";
const AGREES: &str = "> 220 hi\nEHLO > 250-hi|250-8BITMIME|250 PIPELINING\n";
const TAKES: &str = "MAIL > 250 ok\nRCPT > 250 ok\nDATA > 354 go\n. > 250 2.0.0 Ok\n";
const MIME: &str = "MIME-Version: 1.0\r\n\r\nordinary words and one \u{e9}\r\n";
const PLAIN: &str = "X: y\r\n\r\n\u{e9} and words\r\n";

/// What an attempt at `text` came to, the commands and bodies that went out, and what the log is told.
async fn attempted(
    text: &[u8],
    mailer: Mailer,
    script: &str,
    stored: bool,
    change: impl FnOnce(&mut Config, &mut Envelope),
) -> (String, Vec<String>, Vec<Notice>) {
    let script = format!("{script}{TAKES}QUIT > 221 bye");
    let mut envelope = None;
    let mut house =
        house_with(mailer, &["mx.y 192.0.2.1"], &[("192.0.2.1", &script)], |config, _, shelf| {
            shelf.body = text.to_vec();
            let mut draft = blank_envelope(text.len() as u64);
            change(config, &mut draft);
            envelope = Some(draft);
        });
    house.job.envelope = Arc::new(envelope.unwrap());
    if stored {
        house.bytes = None;
    }
    let attempted = house.attempt(1).await.unwrap();
    let is_said = |event: &String| event.starts_with("MAIL") || event.ends_with("octets");
    let said = house.events.take().into_iter().filter(is_said);
    (show(&attempted), said.collect(), attempted.notices)
}

fn blank_envelope(size: u64) -> Envelope {
    Envelope {
        reverse_path: ReversePath::Mailbox("s@x".parse().unwrap()),
        arrival: Timestamp::ZERO,
        relay: String::new(),
        protocol: String::new(),
        body_type: BodyType::EightBit,
        smtputf8: false,
        ret: None,
        envid: None,
        timeouts: TimeoutClass::Normal,
        precedence: 0,
        priority: 0,
        message_id: String::new(),
        header_len: 8,
        size,
        body_lines: 0,
        relay_override: None,
        deliver_by: None,
    }
}

/// The table of modes and messages at a host without 8BITMIME, from memory and from the store.
#[tokio::test(start_paused = true)]
async fn modes() {
    use BodyType::{EightBit, EightBitMime};
    use EightBitMode::{Mime, Pass, Strict};
    let old = "Content-Type: postscript\r\n\r\n\u{e9}\r\n";
    let signed = "Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\n\u{e9}\r\n--b--\r\n";
    for (mode, body_type, text, expected) in [
        (Pass, EightBit, PLAIN, "as it is"),
        (Pass, EightBitMime, PLAIN, "converted"),
        (Pass, EightBit, MIME, "converted"),
        (Mime, EightBit, PLAIN, "converted"),
        (Strict, EightBitMime, PLAIN, "converted"),
        (Pass, EightBit, old, "as it is"),
        (Mime, EightBit, old, "refused"),
        (Mime, EightBitMime, old, "converted"),
        // The message gets MIME-Version, the part stays.
        (Mime, EightBitMime, signed, "as it is"),
        (Strict, EightBitMime, signed, "refused"),
        (Mime, EightBitMime, "X: y\r\n\r\nplain\r\n", "as it is"),
    ] {
        for stored in [false, true] {
            let (outcome, said, _) =
                attempted(text.as_bytes(), Mailer::Esmtp, OFFERS, stored, |config, envelope| {
                    config.eight_bit_mode = mode;
                    envelope.body_type = body_type;
                })
                .await;
            let size = |line: &str| line.rsplit_once("SIZE=").unwrap().1.parse::<usize>().unwrap();
            let found = match said.as_slice() {
                [mail, body] => {
                    assert_eq!(outcome, "10 relayed 2.0.0 Ok");
                    // The final dot is three octets more.
                    assert_eq!(body, &format!("body {} octets", size(mail) + 3), "{mail}");
                    let added = size(mail) - text.len();
                    if added > 60 { "converted" } else { "as it is" }
                }
                [] => {
                    assert_eq!(outcome, "10 failed 5.6.3 mx.y. does not support 8BITMIME");
                    "refused"
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(found, expected, "{mode:?} {body_type:?} {text:?}");
        }
    }
}

/// Who agrees to 8 bits gets them, and so does a relay (F=8), and a header above 127 asks for SMTPUTF8 (RFC 6531 3.1).
#[tokio::test(start_paused = true)]
async fn never_converted() {
    let mime = |config: &mut Config, envelope: &mut Envelope| {
        config.eight_bit_mode = EightBitMode::Mime;
        envelope.body_type = BodyType::EightBitMime;
    };
    let (_, said, _) = attempted(PLAIN.as_bytes(), Mailer::Esmtp, AGREES, false, mime).await;
    assert_eq!(said, ["MAIL From:<s@x> BODY=8BITMIME", "body 25 octets"]);
    let (_, said, _) = attempted(PLAIN.as_bytes(), Mailer::Relay, OPEN, true, mime).await;
    assert_eq!(said, ["MAIL From:<s@x>", "body 25 octets"]);
    let text = "X: \u{e9}\r\n\r\n\u{e9}\r\n".as_bytes();
    let utf8 = |config: &mut Config, envelope: &mut Envelope| {
        mime(config, envelope);
        envelope.smtputf8 = true;
    };
    let (outcome, said, _) = attempted(text, Mailer::Esmtp, OPEN, false, utf8).await;
    assert_eq!(
        outcome,
        "10 failed 5.6.7 SMTPUTF8 is required and mx.y does not offer it".replace("mx.y", "mx.y.")
    );
    assert!(said.is_empty(), "{said:?}");
    // Asked for and not needed: content is content.
    let (outcome, said, _) = attempted(PLAIN.as_bytes(), Mailer::Esmtp, OPEN, true, utf8).await;
    assert_eq!((outcome.as_str(), said[0].as_str()), ("10 relayed 2.0.0 Ok", "MAIL From:<s@x>"));
}

/// A message of many reads, converted piece by piece: SIZE is what goes out.
#[tokio::test(start_paused = true)]
async fn a_large_one() {
    let mut text = b"MIME-Version: 1.0\r\n\r\n".to_vec();
    text.extend("words, words, words, and one \u{e9}.\r\n".repeat(20_000).into_bytes());
    let (outcome, said, _) = attempted(&text, Mailer::Esmtp, OFFERS, true, |_, _| {}).await;
    assert_eq!(outcome, "10 relayed 2.0.0 Ok");
    let size = said[0].rsplit_once("SIZE=").unwrap().1.parse::<usize>().unwrap();
    assert!(size > text.len() + 20_000 * 4, "{said:?}");
    assert_eq!(said[1], format!("body {} octets", size + 3));
}

/// MaxMimeHeaderLength: cut on the way out, in what is stored nothing changes, and the log is told once.
#[tokio::test(start_paused = true)]
async fn long_fields() {
    let text = format!("Content-Id: <{}>\r\n\r\nx\r\n", "i".repeat(200));
    for (stored, offered) in [(false, ""), (true, " SIZE=221")] {
        let script = if stored { OFFERS } else { OPEN };
        let (_, said, notices) =
            attempted(text.as_bytes(), Mailer::Esmtp, script, stored, |config, _| {
                config.mime_limits = Limits { field: 21, parameter: 0 };
            })
            .await;
        assert_eq!(said[0], format!("MAIL From:<s@x>{offered}"));
        assert_eq!(said[1], format!("body {} octets", "Content-Id:".len() + 21 + 2 + 2 + 3 + 3));
        let words = "Truncated long MIME Content-Id header (length = 203) (possible attack)";
        assert_eq!(notices, [Notice::Cut(words.into())]);
    }
}
