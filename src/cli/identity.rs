//! `-d0.1`: version and names of this host, in the block that scripts know from sendmail; `-d0.4` adds every local name.
//!
//! Other debugging categories of sendmail are accepted and print nothing.

use std::fmt::Write as _;

use crate::config::Config;

/// What of sendmail's compile-time words is true here.
const COMPILED_WITH: &[&str] = &[
    "IPV6_FULL",
    "LOG",
    "NAMED_BIND",
    "NETINET",
    "NETINET6",
    "NETUNIX",
    "PIPELINING",
    "STARTTLS",
    "USE_EAI",
];
/// Columns after which the list of words goes on in the next line.
const WIDTH: usize = 63;

/// The text for a -d value; empty when it does not ask for category 0.
pub fn text(debug: &str, config: &Config) -> String {
    let level = level(debug, 0);
    if level == 0 {
        return String::new();
    }
    let of = |name: &str| config.macros.get(name).map_or("", String::as_str);
    let mut out = format!("Version kvmta/{}\n{}\n", env!("CARGO_PKG_VERSION"), compiled());
    // Writing to a String cannot fail.
    if level >= 4 {
        let _ = writeln!(out, "Canonical name: {}\n UUCP nodename: {}", of("j"), of("k"));
        for name in &config.local_names {
            let _ = writeln!(out, "\ta.k.a.: {name}");
        }
    }
    let _ = write!(
        out,
        "\n============ SYSTEM IDENTITY (after readcf) ============\n\
         \x20     (short domain name) $w = {}\n\
         \x20 (canonical domain name) $j = {}\n\
         \x20        (subdomain name) $m = {}\n\
         \x20             (node name) $k = {}\n\
         ========================================================\n\n",
        of("w"),
        of("j"),
        of("m"),
        of("k")
    );
    out
}

fn compiled() -> String {
    let mut out = String::from(" Compiled with:");
    let mut column = out.len();
    for word in COMPILED_WITH {
        if column + 1 + word.len() > WIDTH {
            out.push_str("\n\t\t");
            column = 0;
        } else {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += word.len();
    }
    out
}

/// The level that `cat[-cat][.level],...` gives to a category: 1 without a number, 0 when it is not named.
fn level(debug: &str, category: u32) -> u32 {
    let mut found = 0;
    for part in debug.split(',') {
        let (range, level) = part.split_once('.').unwrap_or((part, "1"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (first.trim().parse::<u32>(), last.trim().parse::<u32>())
        else {
            continue;
        };
        if (first..=last).contains(&category) {
            found = level.trim().parse().unwrap_or(1);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::golden;

    const BV: &str = include_str!("../../tests/golden/bv.txt");

    #[test]
    fn the_block_is_sendmails() {
        let mut config = Config::default();
        for (name, text) in
            [("w", "lab"), ("j", "lab.example.com"), ("m", "example.com"), ("k", "lab.example.com")]
        {
            config.macros.insert(name.into(), text.into());
        }
        let text = text("0.1", &config);
        let expected = golden::printed(BV, "sendmail -d0.1 -bv root");
        let block = |text: &str| text[text.find("\n====").unwrap()..].to_owned();
        assert_eq!(
            format!("{}root... deliverable: mailer local, user root\n", block(&text)),
            block(&expected)
        );
        assert!(
            text.starts_with("Version kvmta/") && text.contains("\n Compiled with: IPV6_FULL LOG ")
        );
        assert!(text.lines().all(|line| line.len() <= 64), "{text}");
    }

    #[test]
    fn levels_are_read_as_sendmail_reads_them() {
        for (debug, expected) in [
            ("0.1", 1),
            ("0", 1),
            ("0-99.1", 1),
            ("0.4,8.7", 4),
            ("8.7,0-3.12", 12),
            ("21.12", 0),
            ("x", 0),
            ("", 0),
        ] {
            assert_eq!(level(debug, 0), expected, "{debug}");
        }
    }
}
