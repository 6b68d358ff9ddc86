//! The rules of the house that a compiler does not keep: which folder may name which, and what stands nowhere.
//!
//! Each rule reads the files under `src/` as text, without comments and strings, and says file, line and what to do
//! instead. It also prints the ten longest files, as a nudge: `cargo test --test it tidy -- --nocapture`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The order of the folders: each may name those in the rows above its own, and itself.
const ROWS: [&[&str]; 11] = [
    &["mail"],
    &["smtp", "store", "config"],
    &["world"],
    &["route"],
    &["maillog"],
    &["accept", "deliver", "settle"],
    &["queue"],
    &["control"],
    &["cli"],
    &["main"],
    &["lib"],
];

/// Which crate is named where alone, and by what to reach it from elsewhere.
const CONFINED: [(&str, &[&str], &str); 6] = [
    ("redb", &["store/"], "call kvmta::store, or the engine trait inside it"),
    ("bincode", &["store/record.rs", "control/"], "store records by store/record.rs"),
    ("hickory_resolver", &["world/"], "ask world.dns"),
    ("rustls", &["world/"], "use world.net.start_tls or TlsAccept"),
    ("tokio_rustls", &["world/"], "use world.net.start_tls or TlsAccept"),
    ("rcgen", &[], "certificates are made in tests only"),
];

/// Columns of the longest line.
const COLUMNS_MAX: usize = 140;

/// Types that make a `static` a variable of the whole program.
const SHARED_CELLS: [&str; 8] =
    ["Atomic", "Mutex", "RwLock", "OnceLock", "LazyLock", "Cell<", "OnceCell", "Condvar"];

/// One file of `src/`.
struct Source {
    /// From `src/` on: `route/mx.rs`.
    name: String,
    text: String,
    /// Without comments and the insides of strings; lines as in `text`.
    code: String,
    /// As `code`, without tests.
    product: String,
}

impl Source {
    fn new(name: &str, text: &str) -> Source {
        let code = code_of(text);
        let is_test = ["tests.rs", "conformance.rs"].iter().any(|end| name.ends_with(end))
            || name.contains("/tests/");
        let product = if is_test { String::new() } else { without_tests(&code) };
        Source { name: name.into(), text: text.into(), code, product }
    }

    /// The folder, or for a file beside `lib.rs` its own name.
    fn station(&self) -> &str {
        self.name.split_once('/').map_or(self.name.trim_end_matches(".rs"), |(folder, _)| folder)
    }

    fn complaint(&self, line: usize, text: &str) -> String {
        format!("src/{}:{}: {text}", self.name, line + 1)
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let source = |file: PathBuf| {
        let name = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        Source::new(&name, &std::fs::read_to_string(&file).unwrap())
    };
    files.into_iter().map(source).collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Blanks comments and the insides of strings and characters; every line stays where it was.
fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let len = token_len(&chars[at..], code.chars().next_back());
        let token = &chars[at..at + len];
        if len > 1 {
            code.extend(token.iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        } else {
            code.push(token[0]);
        }
        at += len;
    }
    code
}

/// The length of the comment, string or character that starts here; 1 for anything else.
fn token_len(rest: &[char], before: Option<char>) -> usize {
    let until = |start: usize, end: &[char]| {
        let found = rest[start..].windows(end.len()).position(|window| window == end);
        found.map_or(rest.len(), |at| start + at + end.len())
    };
    match rest {
        ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => until(2, &['*', '/']),
        ['"', ..] => quoted_len(rest, '"'),
        ['r', '"' | '#', ..] if !before.is_some_and(|c| c.is_alphanumeric() || c == '_') => {
            let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
            if rest.get(1 + hashes) != Some(&'"') {
                return 1;
            }
            let end: Vec<char> = std::iter::once('"').chain(vec!['#'; hashes]).collect();
            until(2 + hashes, &end)
        }
        ['\'', '\\', ..] | ['\'', _, '\'', ..] => quoted_len(rest, '\''),
        _ => 1,
    }
}

fn quoted_len(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Blanks every item behind `#[cfg(test)]`: up to its closing brace, or the semicolon of `mod tests;`.
fn without_tests(code: &str) -> String {
    let mut product = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        product.push_str(&rest[..at]);
        let item = &rest[at..];
        let len = item_len(item);
        product.extend(item[..len].chars().filter(|c| *c == '\n'));
        rest = &item[len..];
    }
    product.push_str(rest);
    product
}

fn item_len(item: &str) -> usize {
    let mut depth = 0;
    for (at, c) in item.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}

/// The first names behind `crate::` or `kvmta::`, with their lines: `use crate::{mail::x, world}` gives two.
fn named_stations(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for prefix in ["crate::", "kvmta::"] {
        for (at, _) in code.match_indices(prefix) {
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let line = code[..at].matches('\n').count();
            let rest = &code[at + prefix.len()..];
            for name in first_names(rest) {
                found.push((line, name));
            }
        }
    }
    found
}

fn first_names(rest: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = rest.strip_prefix('{') else {
        return vec![word(rest)];
    };
    let (mut depth, mut names, mut start) = (0, Vec::new(), 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(word(&group[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn row_of(station: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&station))
}

fn arrows(source: &Source) -> Vec<String> {
    let from = source.station();
    let Some(own_row) = row_of(from) else {
        return vec![
            source.complaint(0, "a folder without a row: give it one in tests/it/tidy.rs"),
        ];
    };
    let mut complaints = Vec::new();
    for (line, to) in named_stations(&source.code) {
        match row_of(&to) {
            Some(row) if to != from && row >= own_row => complaints.push(source.complaint(
                line,
                &format!(
                    "{from}/ names {to}/, which does not stand below it. Hand what is needed up as a noun of mail/, \
                     or take it as an argument from a caller that may name both"
                ),
            )),
            // A macro of the crate, or a name re-exported by lib.rs: no folder.
            Some(_) | None => {}
        }
    }
    complaints
}

fn confined(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for (krate, homes, instead) in CONFINED {
        if homes.iter().any(|home| source.name.starts_with(home)) {
            continue;
        }
        let mut lines = source.code.lines().enumerate();
        if let Some((line, _)) = lines.find(|(_, text)| has_word(text, krate)) {
            let text = format!("{krate} is named outside {}: {instead}", homes.join(" and "));
            complaints.push(source.complaint(line, &text));
        }
    }
    complaints
}

fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part))
}

fn lines(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut complain = |line: usize, text: &str| complaints.push(source.complaint(line, text));
    for ((number, line), code) in source.text.lines().enumerate().zip(source.code.lines()) {
        let is_comment = line.trim_start().starts_with("//");
        // A row of a table cannot be broken, nor can a string that is data.
        let columns = match is_comment {
            true if line.contains('|') => 0,
            true => line.chars().count(),
            false => code.chars().filter(|c| *c != ' ').count(),
        };
        if columns > COLUMNS_MAX {
            complain(number, "longer than 140 columns: break it");
        }
        if ["FIXME", "XXX"].iter().any(|mark| has_word(line, mark)) {
            complain(number, "a mark for later: do it now, or write why it stays as it is");
        }
    }
    for (number, line) in source.code.lines().enumerate() {
        if ["dbg!", "todo!", "unimplemented!"].iter().any(|mark| line.contains(mark)) {
            complain(number, "dbg!, todo! and unimplemented! do not go in");
        }
    }
    for (number, line) in source.product.lines().enumerate() {
        if line.contains(".unwrap()") {
            complain(number, "unwrap() outside tests: return the error, or expect() why it holds");
        }
        if is_variable(line) {
            complain(number, "a variable of the whole program: hand it down from whoever makes it");
        }
    }
    complaints
}

fn is_variable(line: &str) -> bool {
    let item = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
    let kind = item.split('=').next().unwrap_or(item);
    line.contains("thread_local!")
        || item.starts_with("static mut ")
        || (item.starts_with("static ") && SHARED_CELLS.iter().any(|cell| kind.contains(cell)))
}

/// Time comes in by the clock's door; timers are tokio's, which a test can pause.
fn clocks(source: &Source) -> Vec<String> {
    if source.station() == "world" {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for (number, line) in source.product.lines().enumerate() {
        let wall = ["SystemTime::now", "Timestamp::now", "Zoned::now"];
        if wall.iter().any(|now| line.contains(now)) {
            complaints.push(source.complaint(number, "asks the system's clock: ask world.clock"));
        }
        // The writer's thread stands outside the runtime: no test can pause its time.
        let std_time = line.contains("std::time::")
            && has_word(line, "Instant")
            && !source.name.starts_with("store/");
        if std_time {
            let text = "std's Instant cannot be paused by a test: use tokio::time::Instant";
            complaints.push(source.complaint(number, text));
        }
    }
    complaints
}

/// Files that no `mod` line leads to: the compiler never sees them.
fn orphans(sources: &[Source]) -> Vec<String> {
    let mut reached = BTreeSet::from(["lib.rs".to_owned(), "main.rs".to_owned()]);
    for source in sources {
        let base = match source.name.rsplit_once('/') {
            Some((folder, "mod.rs")) => format!("{folder}/"),
            Some(_) => format!("{}/", source.name.trim_end_matches(".rs")),
            None if ["lib.rs", "main.rs"].contains(&source.name.as_str()) => String::new(),
            None => format!("{}/", source.name.trim_end_matches(".rs")),
        };
        for line in source.code.lines() {
            let line = line.trim().trim_end_matches(';');
            if let Some((_, name)) = line.split_once("mod ")
                && name.chars().all(|c| c.is_alphanumeric() || c == '_')
            {
                reached.insert(format!("{base}{name}.rs"));
                reached.insert(format!("{base}{name}/mod.rs"));
            }
        }
    }
    let lost = sources.iter().filter(|source| !reached.contains(&source.name));
    lost.map(|source| source.complaint(0, "no mod line leads here: add one, or remove the file"))
        .collect()
}

fn all_rules(sources: &[Source]) -> Vec<String> {
    let each = |source| {
        let rules = [arrows, confined, lines, clocks];
        rules.into_iter().flat_map(move |rule| rule(source))
    };
    sources.iter().flat_map(each).chain(orphans(sources)).collect()
}

#[test]
fn the_house_is_tidy() {
    let sources = sources();
    assert!(sources.len() > 10, "src/ was not found");
    let mut longest: Vec<_> =
        sources.iter().map(|source| (source.text.lines().count(), &source.name)).collect();
    longest.sort_unstable();
    println!("the ten longest files; past some 800 lines, ask what second thing lives in one:");
    for (lines, name) in longest.iter().rev().take(10) {
        println!("{lines:6} src/{name}");
    }
    let complaints = all_rules(&sources);
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Each rule catches what it is for, and lets its neighbour pass.
#[test]
fn the_rules_bite() {
    for (name, text, expected) in [
        ("mail/a.rs", "use crate::world::Clock;", Some("mail/ names world/")),
        ("smtp/a.rs", "use crate::{mail::x::{y, z}, store};", Some("smtp/ names store/")),
        ("smtp/a.rs", "fn f() { kvmta::config::x() }", Some("smtp/ names config/")),
        (
            "accept/a.rs",
            "use crate::{\n    maillog, route, smtp,\n    deliver,\n};",
            Some("names deliver/"),
        ),
        ("accept/a.rs", "use crate::{maillog, route::x, smtp, accept::y}; // crate::queue", None),
        (
            "mail/a.rs",
            "/// [`crate::world`]\nfn f() -> &'static str { \"crate::cli \\\" crate::cli\" }",
            None,
        ),
        (
            "mail/a.rs",
            "fn f() { let _ = ('\"', r#\"crate::cli\"#, '\\'', crate::cli::x); }",
            Some("names cli/"),
        ),
        ("new/a.rs", "", Some("without a row")),
        ("queue/a.rs", "use redb::Database;", Some("redb is named outside")),
        ("store/engine/redb.rs", "use redb::Database; fn predb() {}", None),
        ("store/schema.rs", "bincode::encode()", Some("bincode is named outside")),
        ("deliver/a.rs", "use tokio_rustls::X;", Some("tokio_rustls is named outside")),
        ("mail/a.rs", "let x = y.unwrap();", Some("a.rs:1: unwrap()")),
        (
            "mail/a.rs",
            "#[cfg(test)]\nmod tests {\n { }\n y.unwrap() }\nfn f() { x.unwrap(); }",
            Some("a.rs:5: unwrap()"),
        ),
        ("mail/a.rs", "#[cfg(test)]\nmod tests;\nfn f() { x.unwrap_or(1); }", None),
        ("mail/tests.rs", "x.unwrap()", None),
        ("mail/a.rs", "// FIXME later", Some("a mark for later")),
        ("mail/a.rs", "dbg!(x)", Some("dbg!")),
        ("mail/a.rs", "    pub static X: AtomicU8 = AtomicU8::new(0);", Some("a variable")),
        ("mail/a.rs", "static TABLE: [u8; 2] = [0, 1]; fn f(x: &'static Mutex<u8>) {}", None),
        ("queue/a.rs", "use std::time::{Duration, Instant};", Some("cannot be paused")),
        (
            "queue/a.rs",
            "use std::time::Duration; use tokio::time::Instant;",
            Some("cannot be paused"),
        ),
        ("queue/a.rs", "use std::time::Duration;\nuse tokio::time::Instant;", None),
        ("queue/a.rs", "let x = std::time::SystemTime::now();", Some("the system's clock")),
        ("world/a.rs", "let x = SystemTime::now();", None),
    ] {
        let source = Source::new(name, text);
        let complaints: Vec<String> =
            [arrows, confined, lines, clocks].into_iter().flat_map(|rule| rule(&source)).collect();
        match expected {
            None => assert!(complaints.is_empty(), "{text}\n{complaints:?}"),
            Some(part) => {
                assert!(
                    complaints.iter().any(|said| said.contains(part)),
                    "{text}\n{complaints:?}"
                );
            }
        }
    }
    let long = Source::new("mail/a.rs", &format!("// {}", "ü".repeat(138)));
    assert_eq!(lines(&long).len(), 1);
    let house = ["lib.rs", "mail/mod.rs", "mail/a.rs", "mail/b.rs", "mail/a/tests.rs", "log.rs"];
    let text = |name: &str| match name {
        "lib.rs" => "pub mod mail;\nmod log;",
        "mail/mod.rs" => "pub(crate) mod a; // mod b;",
        "mail/a.rs" => "#[cfg(test)]\nmod tests;",
        _ => "",
    };
    let house: Vec<Source> = house.into_iter().map(|name| Source::new(name, text(name))).collect();
    assert_eq!(orphans(&house).len(), 1);
    assert!(orphans(&house)[0].starts_with("src/mail/b.rs:1:"));
}
