//! Plays `tests/mime/*.txt`: what becomes of messages on their way to a host without 8BITMIME, and of MIME fields that are too
//! long; and what holds for all messages, hostile ones too.
//!
//! A file holds cases, each begun by `== title`. Lines of a case:
//!
//! ```text
//! set mode=pass|mime|strict [labelled] [charset=C] [limits=N[/M]]
//! > line                  of the message
//! < line                  of what goes out
//! ! words                 what the log says of a field that was cut (only where a case has such lines)
//! refused D.S.N words     it does not go out
//! ```
//!
//! Lines end with CRLF; `\xHH` is an octet, `\\` a backslash, `{{x*N}}` is x N times. What is in sendmail.txt goes out of the real
//! sendmail like that (`ask_sendmail.py`).

use std::path::Path;

use kvmta::mail::envelope::BodyType;
use kvmta::mail::mime::{EightBitMode, Fate, Limits, Rewriter, Stamp, Survey, Surveyor};
use proptest::prelude::*;

/// Those that sendmail has built in count the blank that typed ones do not.
const DEFAULT: Limits = Limits { field: 2048, parameter: 1024 };

fn octets(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some((repeated, after)) = rest.strip_prefix("{{").and_then(|r| r.split_once("}}")) {
            let (what, count) = repeated.rsplit_once('*').expect("{{x*N}}");
            out.extend(octets(what).repeat(count.parse().expect("a number")));
            rest = after;
        } else if let Some(escaped) = rest.strip_prefix("\\x") {
            out.push(u8::from_str_radix(&escaped[..2], 16).expect("two digits"));
            rest = &escaped[2..];
        } else {
            out.push(u8::try_from(first).expect("ASCII"));
            rest = rest.strip_prefix("\\\\").unwrap_or(&rest[1..]);
        }
    }
    out
}

fn survey(message: &[u8], limits: Limits, charset: &str, piece: usize) -> Survey {
    let by = "neighbour.example id 6AM6LJX7021711".to_owned();
    let mut surveyor = Surveyor::new(limits, Stamp { charset: charset.into(), by });
    message.chunks(piece).for_each(|piece| surveyor.feed(piece));
    surveyor.finish()
}

fn rewritten(mut rewriter: Rewriter, message: &[u8], piece: usize) -> (Vec<u8>, Vec<String>) {
    let mut out = Vec::new();
    message.chunks(piece).for_each(|piece| rewriter.feed(piece, &mut out));
    rewriter.finish(&mut out);
    (out, rewriter.notes().to_vec())
}

/// What goes out, and what the log says; or why nothing does.
fn outcome(lines: &[&str], piece: usize) -> Result<(Vec<u8>, Vec<String>), String> {
    let set = lines.iter().filter_map(|line| line.strip_prefix("set "));
    let words: Vec<&str> = set.flat_map(str::split_whitespace).collect();
    let value =
        |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let labelled = words.contains(&"labelled");
    let mode = match value("mode") {
        Some("pass") | None => EightBitMode::Pass,
        Some("mime") => EightBitMode::Mime,
        Some("strict") => EightBitMode::Strict,
        Some(other) => panic!("mode {other}"),
    };
    let limits = value("limits").map_or(DEFAULT, |text| {
        let number = |text: &str| text.parse().expect("limits=N/M");
        let (field, parameter) = text.split_once('/').unwrap_or((text, ""));
        let field: usize = number(field);
        let parameter = if parameter.is_empty() { field / 2 } else { number(parameter) };
        Limits::typed(field, parameter)
    });
    let message = gathered(lines, ">");
    let survey = survey(&message, limits, value("charset").unwrap_or("unknown-8bit"), piece);
    if mode == EightBitMode::Strict && survey.has_8bit && !labelled && !survey.is_mime {
        return Err("refused 5.6.1 Eight bit data not allowed".into());
    }
    let body_type = if labelled { BodyType::EightBitMime } else { BodyType::EightBit };
    match survey.fate(mode, body_type, false) {
        Fate::AsIs => Ok(rewritten(Rewriter::limiting(limits), &message, piece)),
        Fate::Converted => {
            let (out, notes) = rewritten(survey.rewriter(), &message, piece);
            assert_eq!(out.len() as u64, survey.size, "SIZE\n{}", String::from_utf8_lossy(&out));
            assert_eq!(notes, survey.notes);
            Ok((out, notes))
        }
        Fate::Refused => Err("refused 5.6.3 HOST does not support 8BITMIME".into()),
    }
}

fn gathered(lines: &[&str], mark: &str) -> Vec<u8> {
    let lines = lines.iter().filter_map(|line| line.strip_prefix(mark));
    lines
        .flat_map(|line| {
            [octets(line.strip_prefix(' ').unwrap_or(line)), b"\r\n".to_vec()].concat()
        })
        .collect()
}

#[test]
fn cases() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mime");
    let (mut count, mut failures) = (0, Vec::new());
    for entry in std::fs::read_dir(folder).expect("tests/mime") {
        let path = entry.expect("entry").path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a case file");
        for case in text.split("\n== ").skip(1) {
            count += 1;
            let lines: Vec<&str> = case.lines().collect();
            let refused = lines.iter().find(|line| line.starts_with("refused ")).copied();
            let expected = gathered(&lines, "<");
            let notes: Vec<&str> =
                lines.iter().filter_map(|line| line.strip_prefix("! ")).collect();
            for piece in [usize::MAX, 1, 2, 3, 7, 64] {
                let wrong = match (outcome(&lines, piece), refused) {
                    (Err(said), Some(refused)) => (said != refused).then_some(said),
                    (Ok((out, said)), None) if out == expected => {
                        (!notes.is_empty() && said != notes).then(|| said.join("\n"))
                    }
                    (Ok((out, _)), _) => Some(out.escape_ascii().to_string().replace("\\n", "\n")),
                    (Err(said), None) => Some(said),
                };
                if let Some(wrong) = wrong {
                    failures.push(format!(
                        "{}: {}, in pieces of {piece}:\n{wrong}",
                        path.display(),
                        lines[0]
                    ));
                    break;
                }
            }
        }
    }
    assert!(count > 0 && failures.is_empty(), "{}", failures.join("\n"));
}

/// A message from bits that matter.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let bits = prop::sample::select(vec![
        &b"Content-Type: multipart/mixed; boundary=b\r\n"[..],
        b"Content-Type: multipart/digest;\r\n\tboundary=\"c c\"\r\n",
        b"Content-Type: multipart/signed; boundary=s\r\n",
        b"Content-Type: message/rfc822\r\n",
        b"Content-Type: text/html; charset=\"\xe4\r\n",
        b"content-transfer-encoding: 8bit\r\n",
        b"Content-Transfer-Encoding: base64\r\n",
        b"MIME-Version: 1.0 (\r\n",
        b"Subject: \xe4\r\n",
        b" folded\r\n",
        b"\r\n",
        b"\r\n",
        b"\n",
        b"--b\r\n",
        b"--b\r\n",
        b"--b--\r\n",
        b"--c c \r\n",
        b"--c c--\r\n",
        b"--s\r\n",
        b"--",
        b"-",
        b"\r",
        b".",
        b"..\r\n",
        b"\0",
        b"blank \t",
        b"\xe4\xe4\xe4\xe4",
        b"ordinary text = text and more of it, so that lines grow long\r\n",
        b"no end \xff",
    ]);
    prop::collection::vec(bits, 0..40).prop_map(|bits| bits.concat())
}

fn quoted_printable(text: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text);
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match (first, after) {
            (b'=', [b'\r', b'\n', after @ ..]) => rest = after,
            (b'=', [a, b, after @ ..]) => {
                let digits = [*a, *b];
                out.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                rest = after;
            }
            _ => out.push(first),
        }
    }
    out
}

fn base64(text: &[u8]) -> Vec<u8> {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut out, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for byte in text.iter().filter(|byte| !b"\r\n=".contains(byte)) {
        let value = digits.iter().position(|digit| digit == byte).expect("base64");
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

/// The parts of a flat multipart, header and body, or the whole message as one.
fn part_bodies(message: &[u8]) -> Vec<(String, Vec<u8>)> {
    let split = |text: &[u8]| {
        let at = text.windows(4).position(|w| w == b"\r\n\r\n").expect("a header and a body");
        (String::from_utf8_lossy(&text[..at + 2]).into_owned(), text[at + 4..].to_vec())
    };
    let (header, body) = split(message);
    if !header.contains("multipart") {
        return vec![(header, body)];
    }
    let body = [b"\r\n", body.as_slice()].concat();
    let mut parts = Vec::new();
    let mut starts: Vec<usize> =
        (0..body.len()).filter(|&at| body[at..].starts_with(b"\r\n--b")).collect();
    let end = starts.pop().expect("a last boundary");
    starts.push(end);
    for pair in starts.windows(2) {
        parts.push(split(&body[pair[0] + 7..pair[1]]));
    }
    parts
}

proptest! {
    /// However it is cut into pieces, and whatever it is: the same octets, of the size announced, in bounded time.
    #[test]
    fn any_pieces_give_the_same(message in messages(), sizes in prop::collection::vec(1usize..50, 1..9), small in any::<bool>()) {
        let limits = if small { Limits { field: 20, parameter: 9 } } else { DEFAULT };
        let whole = survey(&message, limits, "x", usize::MAX);
        let (expected, notes) = rewritten(whole.rewriter(), &message, usize::MAX);
        prop_assert_eq!(expected.len() as u64, whole.size);
        prop_assert_eq!(&notes, &whole.notes);
        let cut = rewritten(Rewriter::limiting(limits), &message, usize::MAX).0;
        for piece in sizes {
            let other = survey(&message, limits, "x", piece);
            prop_assert_eq!(other.size, whole.size);
            prop_assert_eq!(other.residue, whole.residue);
            prop_assert_eq!(&rewritten(other.rewriter(), &message, piece).0, &expected);
            prop_assert_eq!(&rewritten(Rewriter::limiting(limits), &message, piece).0, &cut);
        }
        if !notes.is_empty() && !small {
            prop_assert!(cut.len() <= message.len());
        }
    }

    /// Without limits nothing changes that is not converted.
    #[test]
    fn no_limits_change_nothing(message in messages()) {
        prop_assert_eq!(rewritten(Rewriter::limiting(Limits::NONE), &message, 5).0, message);
    }

    /// What is encoded can be decoded; it is 7-bit, and its lines are short.
    #[test]
    fn decoding_gives_it_back(
        bodies in prop::collection::vec(prop::collection::vec(prop_oneof![
            4 => 32u8..127, 1 => Just(b'='), 1 => Just(b' '), 1 => Just(b'.'), 1 => Just(b'\t'), 3 => Just(b'\n'), 1 => Just(b'\r'), 2 => any::<u8>(),
        ], 0..400), 1..5),
        single in any::<bool>(),
    ) {
        let canonical = |body: &Vec<u8>| {
            let mut text = Vec::new();
            for &byte in body {
                if byte == b'\n' { text.push(b'\r'); }
                text.push(byte);
            }
            // Its own boundary must not be in it, nor a part of a line end at its end.
            text.push(b'.');
            text
        };
        let bodies: Vec<Vec<u8>> = bodies.iter().map(canonical).take(if single { 1 } else { 4 }).collect();
        let mut message = b"MIME-Version: 1.0\r\n".to_vec();
        if single {
            message.extend([b"\r\n", bodies[0].as_slice(), b"\r\n"].concat());
        } else {
            message.extend(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n");
            for body in &bodies {
                message.extend([b"--b\r\nContent-Transfer-Encoding: 8bit\r\n\r\n", body.as_slice(), b"\r\n"].concat());
            }
            message.extend(b"--b--\r\n");
        }
        let survey = survey(&message, DEFAULT, "x", 10);
        let (out, _) = rewritten(survey.rewriter(), &message, 13);
        prop_assert!(out.is_ascii());
        prop_assert_eq!(survey.size, out.len() as u64);
        for (part, body) in part_bodies(&out).iter().zip(&bodies) {
            let (header, text) = part;
            let encoded = header.contains("Autoconverted");
            let mut decoded = match header {
                header if header.contains("Content-Transfer-Encoding: base64") => base64(text),
                header if header.contains("Content-Transfer-Encoding: quoted") => quoted_printable(text),
                _ => text.clone(),
            };
            if single && decoded.ends_with(b"\r\n") {
                decoded.truncate(decoded.len() - 2);
            }
            prop_assert_eq!(&decoded, body, "{}", header);
            let lines = text.split(|&byte| byte == b'\n');
            prop_assert!(!encoded || lines.into_iter().all(|line| line.len() <= 77));
            prop_assert!(!encoded || text.iter().all(|b| b"\t\r\n".contains(b) || (32..127).contains(b)));
        }
    }
}

/// Hostile structure: depth, boundaries and fields beyond the limits, each of them long.
#[test]
fn limits_hold() {
    let mut deep = Vec::new();
    for level in 0..40 {
        deep.extend(
            format!("Content-Type: multipart/mixed; boundary=b{level}\r\n\r\n--b{level}\r\n")
                .into_bytes(),
        );
    }
    deep.extend(b"\r\n\xe4\r\n");
    let found = survey(&deep, DEFAULT, "x", 100);
    assert!(found.residue && found.has_8bit);
    let (out, _) = rewritten(found.rewriter(), &deep, 100);
    assert_eq!(out.len() as u64, found.size);

    let inner = b"Content-Type: message/rfc822\r\n\r\n".repeat(100_000);
    let found = survey(&[&inner[..], b"\xe4"].concat(), DEFAULT, "x", 100_000);
    assert!(found.residue);

    let field = [b"Content-Type: text/plain; x=", &[b'x'; 1 << 20][..], b"\r\n\r\nx"].concat();
    let (out, notes) = rewritten(Rewriter::limiting(DEFAULT), &field, 1000);
    assert_eq!((out.len(), notes.len()), (13 + 12 + 1024 + 5, 2), "{notes:?}");
    assert_eq!(rewritten(Rewriter::limiting(Limits::NONE), &field, 1000).0, field);

    let many = b"Content-Id: <long>\r\n".repeat(1000);
    let (_, notes) = rewritten(Rewriter::limiting(Limits { field: 3, parameter: 0 }), &many, 1000);
    assert_eq!(notes.len(), 10);
}
