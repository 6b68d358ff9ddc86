//! What was typed: the lines of a sendmail.cf, each with its file and line number, nothing interpreted.
//!
//! A line that begins with a blank continues the one before. `#` begins a comment, at the start of a line or
//! after text, unless it follows `\` (then it is itself) or `$` (rules). Every line of the file becomes one
//! [`Line`] or is blank or comment: nothing is dropped here, not even letters nobody knows.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest file read, in octets: a stock sendmail.cf has 70 000, a large class file a few million.
pub const FILE_MAX: u64 = 16 << 20;

/// Where something was typed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// `-O`, `-o` or `-M`.
    CommandLine,
    /// A line of a file; 0 when the file as such is meant.
    File {
        /// Which.
        path: Arc<Path>,
        /// From 1.
        line: u32,
    },
}

/// `/etc/mail/kvmta.cf: line 12`
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::CommandLine => f.write_str("command line"),
            Origin::File { path, line } => write!(f, "{}: line {line}", path.display()),
        }
    }
}

/// A name and a value: `O Name=value`, `-O Name=value`, `-oXvalue` (the name is then one letter).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    /// A long name, abbreviated perhaps, or sendmail's one letter.
    pub name: String,
    /// As typed, without blanks at both ends.
    pub value: String,
}

impl Setting {
    /// From `Name=value`, `Name = value` or `Name` alone (a boolean meant as true).
    pub fn long(text: &str) -> Setting {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        Setting { name: name.trim().to_owned(), value: value.trim().to_owned() }
    }

    /// From `Xvalue`.
    pub fn letter(text: &str) -> Setting {
        let mut rest = text.chars();
        let name = rest.next().map(String::from).unwrap_or_default();
        Setting { name, value: rest.as_str().trim().to_owned() }
    }
}

/// One line, by its letter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Directive {
    /// O
    Option(Setting),
    /// D: a macro.
    Macro {
        /// One letter or the name in braces.
        name: String,
        /// Its text.
        value: String,
    },
    /// C, and T (class t): words of a class.
    Class {
        /// One letter or the name in braces.
        name: String,
        /// Its words.
        words: Vec<String>,
    },
    /// F: a class from a file.
    ClassFile {
        /// One letter or the name in braces.
        name: String,
        /// `-o`: the file need not exist.
        optional: bool,
        /// The rest: a path, `|program`, `@ldap...`, perhaps followed by a scanf format.
        source: String,
    },
    /// P: a word of Precedence:.
    Precedence {
        /// The word.
        word: String,
        /// Its number as typed.
        number: String,
    },
    /// V: level of the syntax, and vendor.
    Version(String),
    /// `Mname, F=flags, ...`: a mailer, of which only the flags are looked at.
    Mailer {
        /// `esmtp`
        name: String,
        /// `mDFMuXe`
        flags: String,
    },
    /// K, M, H, S, R, Q, X, E: read, and judged by letter.
    Other {
        /// The letter.
        letter: char,
    },
    /// A letter that no sendmail knows, with the whole line.
    Unknown(String),
}

/// One line with where it was typed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// File and number of its first line.
    pub origin: Origin,
    /// What it says.
    pub directive: Directive,
}

/// The lines of `text`, which is the content of `path`.
pub fn parse(path: &Path, text: &str) -> Vec<Line> {
    let path: Arc<Path> = PathBuf::from(path).into();
    let mut lines: Vec<(u32, String)> = Vec::new();
    for (number, physical) in (1u32..).zip(text.lines()) {
        let content = without_comment(physical);
        match lines.last_mut() {
            Some((_, logical)) if physical.starts_with([' ', '\t']) => {
                logical.push(' ');
                logical.push_str(content.trim());
            }
            // A comment keeps its `#`, so that what continues it is comment as well.
            _ if physical.starts_with('#') => lines.push((number, "#".to_owned())),
            _ => lines.push((number, content.trim_end().to_owned())),
        }
    }
    lines
        .into_iter()
        .filter_map(|(line, text)| {
            let origin = Origin::File { path: Arc::clone(&path), line };
            directive(text.trim_end()).map(|directive| Line { origin, directive })
        })
        .collect()
}

/// The words of a class file: comments off, blanks between words.
pub fn class_words(text: &str) -> Vec<String> {
    text.lines()
        .flat_map(|line| line.split('#').next().unwrap_or_default().split_whitespace())
        .map(str::to_owned)
        .collect()
}

fn without_comment(line: &str) -> String {
    let mut kept = String::with_capacity(line.len());
    let mut before = None;
    for c in line.chars() {
        match (before, c) {
            (Some('\\'), '#') => {
                kept.pop();
            }
            (Some('$'), '#') => {}
            (_, '#') => break,
            _ => {}
        }
        kept.push(c);
        before = Some(c);
    }
    kept
}

fn directive(line: &str) -> Option<Directive> {
    let mut rest = line.chars();
    let letter = rest.next()?;
    let rest = rest.as_str();
    Some(match letter {
        '#' => return None,
        'O' if rest.starts_with([' ', '\t']) => Directive::Option(Setting::long(rest)),
        'O' => Directive::Option(Setting::letter(rest)),
        'D' => {
            let (name, value) = name(rest);
            Directive::Macro { name, value: value.trim_start().to_owned() }
        }
        'C' => {
            let (name, words) = name(rest);
            Directive::Class { name, words: words.split_whitespace().map(str::to_owned).collect() }
        }
        'T' => Directive::Class {
            name: "t".to_owned(),
            words: rest.split_whitespace().map(str::to_owned).collect(),
        },
        'F' => {
            let (name, source) = name(rest);
            let source = source.trim_start();
            let (optional, source) =
                source.strip_prefix("-o").map_or((false, source), |path| (true, path.trim_start()));
            Directive::ClassFile { name, optional, source: source.to_owned() }
        }
        'P' => {
            let (word, number) = rest.split_once('=').unwrap_or((rest, ""));
            Directive::Precedence { word: word.trim().to_owned(), number: number.trim().to_owned() }
        }
        'V' => Directive::Version(rest.trim().to_owned()),
        'M' => mailer(rest),
        'K' | 'H' | 'S' | 'R' | 'Q' | 'X' | 'E' => Directive::Other { letter },
        _ => Directive::Unknown(line.to_owned()),
    })
}

/// `name, P=path, F=flags, ...`
fn mailer(text: &str) -> Directive {
    let mut fields = text.split(',').map(str::trim);
    let name = fields.next().unwrap_or_default().to_owned();
    let flags = fields.find_map(|field| {
        let (key, value) = field.split_once('=')?;
        (key.trim() == "F").then(|| value.trim().to_owned())
    });
    Directive::Mailer { name, flags: flags.unwrap_or_default() }
}

/// A macro or class name, one character or `{name}`, and what follows it.
pub(super) fn name(text: &str) -> (String, &str) {
    if let Some((name, rest)) = text.strip_prefix('{').and_then(|text| text.split_once('}')) {
        return (name.to_owned(), rest);
    }
    let mut rest = text.chars();
    let name = rest.next().map(String::from).unwrap_or_default();
    (name, rest.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn directives(text: &str) -> Vec<(u32, Directive)> {
        parse(Path::new("x.cf"), text)
            .into_iter()
            .map(|line| match line.origin {
                Origin::File { line: number, .. } => (number, line.directive),
                Origin::CommandLine => unreachable!("read from a file"),
            })
            .collect()
    }

    fn option(name: &str, value: &str) -> Directive {
        Directive::Option(Setting { name: name.into(), value: value.into() })
    }

    #[test]
    fn reads_options_and_their_lines() {
        let text = "# comment\n\tand more\nV10/Berkeley\n\nO Timeout.mail = 5m # why\nOQ/var/spool/q\nO DaemonPortOptions=Port=25,\n\t Name=MTA\nO SoftBounce\n";
        assert_eq!(
            directives(text),
            [
                (3, Directive::Version("10/Berkeley".into())),
                (5, option("Timeout.mail", "5m")),
                (6, option("Q", "/var/spool/q")),
                (7, option("DaemonPortOptions", "Port=25, Name=MTA")),
                (9, option("SoftBounce", "")),
            ]
        );
    }

    #[test]
    fn reads_macros_classes_and_the_rest() {
        let class = |name: &str, words: &[&str]| Directive::Class {
            name: name.into(),
            words: words.iter().map(|w| (*w).into()).collect(),
        };
        let file = |optional, source: &str| Directive::ClassFile {
            name: "w".into(),
            optional,
            source: source.into(),
        };
        let text = "DSsmart.example\nD{Host}a b\nCwx y\nTroot daemon\nFw-o /etc/mail/names %[^\\#]\nFw/x\nPbulk=-60\nR$* \t $#error\nZwhat\nDa\\#b\n";
        let found: Vec<_> = directives(text).into_iter().map(|(_, d)| d).collect();
        assert_eq!(
            found,
            [
                Directive::Macro { name: "S".into(), value: "smart.example".into() },
                Directive::Macro { name: "Host".into(), value: "a b".into() },
                class("w", &["x", "y"]),
                class("t", &["root", "daemon"]),
                file(true, "/etc/mail/names %[^#]"),
                file(false, "/x"),
                Directive::Precedence { word: "bulk".into(), number: "-60".into() },
                Directive::Other { letter: 'R' },
                Directive::Unknown("Zwhat".into()),
                Directive::Macro { name: "a".into(), value: "#b".into() },
            ]
        );
        assert_eq!(class_words("a.example # x\n#b\n c d\n"), ["a.example", "c", "d"]);
    }

    proptest! {
        /// A hostile file gives lines, never a panic, and no more lines than it has.
        #[test]
        fn never_panics(text in "(?s).{0,200}") {
            prop_assert!(parse(Path::new("x"), &text).len() <= text.lines().count());
        }
    }
}
