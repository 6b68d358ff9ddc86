//! Command lines and what they mean: `tests/golden/argv.txt`, played.
//!
//! A case is a line `$ command line`, then what the invocation looks like (what is absent, false or empty is left
//! out) or `64:` and the error. With KVMTA_BLESS set the file is written anew, to be read in the diff.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStringExt;

use proptest::prelude::*;

use super::*;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/argv.txt");

/// A shell's quoting, as far as the file needs it.
fn split(line: &str) -> Vec<OsString> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(open), c) if c == open => quote = None,
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words.into_iter().map(OsString::from).collect()
}

fn outcome(line: &str) -> String {
    match parse(split(line)) {
        Err(error) => format!("64: {error}\n"),
        Ok(invocation) => compact(&format!("{invocation:#?}")),
    }
}

/// One line for each field of the invocation that says anything.
fn compact(pretty: &str) -> String {
    let mut text = String::new();
    for line in pretty.lines().filter_map(|line| line.strip_prefix("    ")) {
        let empty = [": None,", ": false,", ": [],"].iter().any(|end| line.ends_with(end));
        if empty || line.starts_with("program:") {
            continue;
        }
        let field = line.trim_start();
        if field.starts_with([')', ']', '}']) {
            text.truncate(text.trim_end_matches([',', ' ']).len());
            text.push_str(if field.starts_with('}') { " " } else { "" });
        } else if text.ends_with([',', '{']) {
            text.push(' ');
        }
        text.push_str(field);
        if !line.starts_with(' ') && line.ends_with(',') {
            text.truncate(text.len() - 1);
            text.push('\n');
        }
    }
    text
}

#[test]
fn command_lines_mean_what_sendmails_do() {
    let golden = std::fs::read_to_string(GOLDEN).unwrap();
    let mut played = String::new();
    for line in golden.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            let _ = write!(played, "$ {command}\n{}\n", outcome(command));
        } else if line.starts_with('#') {
            let _ = writeln!(played, "{line}");
        }
    }
    if std::env::var_os("KVMTA_BLESS").is_some() {
        std::fs::write(GOLDEN, &played).unwrap();
    }
    assert!(played.matches("\n$ ").count() > 50, "the file has its cases");
    for (number, (played, golden)) in played.lines().zip(golden.lines()).enumerate() {
        assert_eq!(played, golden, "line {}", number + 1);
    }
    assert_eq!(played.lines().count(), golden.lines().count());
}

#[test]
fn other_encodings_are_taken_in_a_name_only() {
    let line = |words: &[&[u8]]| parse(words.iter().map(|w| OsString::from_vec(w.to_vec())));
    let named = line(&[b"sendmail", b"-FJos\xe9", b"ann"]).unwrap();
    let Mode::Submit(submission) = named.mode else { panic!("a submission") };
    assert_eq!(submission.full_name.as_deref(), Some("Jos\u{fffd}"));
    for bad in [&[b"sendmail".as_slice(), b"jos\xe9"], &[b"sendmail".as_slice(), b"-fjos\xe9"]] {
        assert!(line(bad).unwrap_err().to_string().contains("not UTF-8"));
    }
}

proptest! {
    #[test]
    fn never_panics(words in proptest::collection::vec("[-a-zA-Z0-9=!.@+]{0,6}", 0..6)) {
        let _ = parse(std::iter::once("sendmail".to_owned()).chain(words).map(OsString::from));
    }

    /// What stands behind the first operand or `--` is a recipient, whatever it looks like.
    #[test]
    fn operands_stay_operands(words in proptest::collection::vec("\\PC{0,8}", 1..5)) {
        let line = ["sendmail", "-i", "--"].map(str::to_owned).into_iter().chain(words.clone());
        match parse(line.map(OsString::from)).unwrap().mode {
            Mode::Submit(submission) => prop_assert_eq!(submission.recipients, words),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
