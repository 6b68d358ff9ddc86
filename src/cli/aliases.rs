//! `-bi` (newaliases): reads and checks the alias files, and counts what is in them.
//!
//! There is no database to build: LocalRelay takes local mail and expands aliases. So this says of the files what sendmail
//! says when it rebuilds its own (`/etc/aliases: 6 aliases, longest 34 bytes, 106 bytes total`), with faults by file and
//! line, and changes nothing. The format is that of aliases(5).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::exit::Exit;
use crate::mail::address::Address;

/// Where alias files are when AliasFile is not set.
const USUAL: [&str; 2] = ["/etc/mail/aliases", "/etc/aliases"];
/// Classes of maps that are made from a text file of the name given.
const TEXT_CLASSES: [&str; 8] =
    ["implicit", "hash", "btree", "dbm", "cdb", "lmdb", "text", "files"];
/// Characters of a line shown in an error.
const SHOWN: usize = 40;

/// What a file says: one entry for each alias, and what is wrong with it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Aliases {
    /// Names as written, with the text behind the colon; the first of equal names.
    pub entries: Vec<(String, String)>,
    /// What is wrong.
    pub faults: Vec<Fault>,
}

/// Something wrong in a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Its line, from 1.
    pub line: usize,
    /// What, in sendmail's words.
    pub text: String,
    /// The alias is not what it seems, but there is one.
    pub is_warning: bool,
}

/// `6 aliases, longest 34 bytes, 106 bytes total`
impl fmt::Display for Aliases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.entries.len();
        let longest = self.entries.iter().map(|(_, text)| text.len()).max().unwrap_or(0);
        let total: usize = self.entries.iter().map(|(name, text)| name.len() + text.len()).sum();
        write!(f, "{count} aliases, longest {longest} bytes, {total} bytes total")
    }
}

/// Understands the text of an alias file. What is wrong is skipped, the rest is read.
pub fn parse(text: &str) -> Aliases {
    let mut found = Aliases::default();
    let mut names = std::collections::HashSet::new();
    let mut skipping = false;
    let mut lines = (1..).zip(text.lines()).peekable();
    while let Some((number, line)) = lines.next() {
        let mut logical = line.to_owned();
        while logical.ends_with('\\') {
            logical.pop();
            let Some((_, more)) = lines.next() else { break };
            logical.push_str(more);
        }
        let mut fault = |text: String| {
            let is_warning = text.starts_with("Warning");
            found.faults.push(Fault { line: number, text, is_warning });
        };
        match logical.chars().next() {
            None | Some('#') => {
                skipping = false;
                continue;
            }
            Some(' ' | '\t') => {
                if !skipping {
                    fault("Non-continuation line starts with space".to_owned());
                }
                skipping = true;
                continue;
            }
            Some(_) => skipping = false,
        }
        while let Some((_, more)) = lines.next_if(|(_, line)| line.starts_with([' ', '\t'])) {
            logical.push_str(more);
        }
        match entry(&logical) {
            Ok((name, text)) => match names.insert(name.to_lowercase()) {
                true => found.entries.push((name, text)),
                false => fault(format!("Warning: duplicate alias name {}", name.to_lowercase())),
            },
            Err(text) => fault(text),
        }
    }
    found
}

/// `name: value`; the error is what sendmail says of the line.
fn entry(line: &str) -> Result<(String, String), String> {
    let shown: String = line.chars().take(SHOWN).collect();
    let shown = crate::config::value::shown(&shown);
    let colon = colon(line).ok_or("missing colon")?;
    let (name, value) = (line[..colon].trim(), line[colon + 1..].trim());
    let address: Address = name
        .trim_matches('"')
        .parse()
        .or_else(|_| name.parse())
        .map_err(|_| format!("{shown}... illegal alias name"))?;
    if address.domain().is_some() {
        return Err(format!("{address}... cannot alias non-local names"));
    }
    if value.is_empty() {
        return Err(format!("{shown}... missing value for alias"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// The colon behind the name, which may be a quoted string with one in it.
fn colon(line: &str) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ':' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// A part of AliasFile.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Source {
    File(PathBuf),
    /// A class of maps that is none of files.
    Other(String),
}

/// `hash:/etc/aliases, nis:mail.aliases`, with -flags before names.
fn sources(value: &str, exists: &dyn Fn(&Path) -> bool) -> Vec<Source> {
    if value.trim().is_empty() {
        let usual = USUAL.iter().map(Path::new);
        let found = usual.clone().find(|path| exists(path)).or_else(|| usual.clone().next());
        return found.map(|path| Source::File(path.into())).into_iter().collect();
    }
    let parts = value.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (class, rest) = match part.split_once(':') {
                Some((class, rest)) if !class.contains('/') => (class.trim(), rest),
                _ => ("", part),
            };
            // `hash -o /etc/aliases` and `hash:-o /etc/aliases`
            let mut words = rest.split_whitespace().skip_while(|word| !word.starts_with('/'));
            match words.next() {
                Some(path) if class.is_empty() || TEXT_CLASSES.contains(&class) => {
                    Source::File(path.into())
                }
                _ => Source::Other(part.to_owned()),
            }
        })
        .collect()
}

/// What to print and how it ended; `read` opens files.
pub fn rebuild(
    alias_file: &str,
    exists: &dyn Fn(&Path) -> bool,
    read: &dyn Fn(&Path) -> io::Result<String>,
) -> (String, Exit) {
    let (mut out, mut exit) = (String::new(), Exit::Ok);
    for source in sources(alias_file, exists) {
        match source {
            Source::Other(text) => {
                let text = crate::config::value::shown(&text);
                out.push_str(&format!("{text}: not a file, so it is left to LocalRelay\n"));
            }
            Source::File(path) => match read(&path) {
                Ok(text) => {
                    let (aliases, path) = (parse(&text), path.display());
                    for Fault { line, text, is_warning } in &aliases.faults {
                        out.push_str(&format!("{path}: line {line}: {text}\n"));
                        exit = if *is_warning { exit } else { exit.and(Exit::Software) };
                    }
                    out.push_str(&format!("{path}: {aliases}\n"));
                }
                Err(error) => {
                    let reason = crate::config::check::reason(&error);
                    out.push_str(&format!("cannot open {}: {reason}\n", path.display()));
                    exit = exit.and(Exit::OsFile);
                }
            },
        }
    }
    (out, exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the lab had in its file when sendmail counted it.
    const LAB: &str = "postmaster: root\nMAILER-DAEMON: postmaster\nlist: a@ok.example.net, b@ok.example.net\n\
        big: list, root\nloop: loop2\nloop2: loop\n";

    #[test]
    fn counts_as_sendmail_does() {
        let read = |_: &Path| Ok(LAB.to_owned());
        let exists = |path: &Path| path == Path::new("/etc/mail/aliases");
        let golden = "/etc/mail/aliases: 6 aliases, longest 34 bytes, 106 bytes total\n";
        for alias_file in
            ["", "/etc/mail/aliases", "hash:/etc/mail/aliases", "hash: -o /etc/mail/aliases"]
        {
            assert_eq!(
                rebuild(alias_file, &exists, &read),
                (golden.to_owned(), Exit::Ok),
                "{alias_file}"
            );
        }
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        let text = " odd\n odd too\n# comment\nok: a,\n\tb\nno colon here\nbad<: x\nfar@x.example: y\nempty:\n\
            \"a:b\": c\nOK: again\nlong: x\\\ny\n";
        let found = parse(text);
        let entries: Vec<_> = found.entries.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
        assert_eq!(entries, [("ok", "a,\tb"), ("\"a:b\"", "c"), ("long", "xy")]);
        let faults: Vec<_> =
            found.faults.iter().map(|fault| format!("{}: {}", fault.line, fault.text)).collect();
        assert_eq!(
            faults,
            [
                "1: Non-continuation line starts with space",
                "6: missing colon",
                "7: bad<: x... illegal alias name",
                "8: far@x.example... cannot alias non-local names",
                "9: empty:... missing value for alias",
                "11: Warning: duplicate alias name ok",
            ]
        );
    }

    #[test]
    fn other_maps_and_missing_files_are_named() {
        let missing = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
        let (text, exit) = rebuild("nis:mail.aliases@x, /etc/a", &|_| false, &missing);
        assert_eq!(exit, Exit::OsFile);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "nis:mail.aliases@x: not a file, so it is left to LocalRelay");
        assert!(lines[1].starts_with("cannot open /etc/a: "), "{text}");
    }
}
