//! `-bi` (newaliases): reads and checks the alias files, and counts what is in them.
//!
//! There is no database to build: LocalRelay takes local mail and expands aliases. So this says of the files what sendmail
//! says when it rebuilds its own (`/etc/aliases: 6 aliases, longest 34 bytes, 106 bytes total`), with faults by file and
//! line, and changes nothing. The format is that of aliases(5).

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::exit::Exit;
use crate::config::Config;
use crate::mail::address::{Address, AddressError};
use crate::mail::address_list::{self, Style};

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
    /// The aliases, equal names included: sendmail counts them as well.
    pub entries: Vec<Entry>,
    /// What is wrong.
    pub faults: Vec<Fault>,
}

/// One alias.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The last line of it, from 1.
    pub line: usize,
    /// As written, without quotes around it and without our own domain.
    pub name: String,
    /// What stands behind the colon.
    pub value: String,
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
        let longest = self.entries.iter().map(|entry| entry.value.len()).max().unwrap_or(0);
        let total: usize =
            self.entries.iter().map(|entry| entry.name.len() + entry.value.len()).sum();
        write!(f, "{count} aliases, longest {longest} bytes, {total} bytes total")
    }
}

/// Understands the text of an alias file of a host with these names. What is wrong is skipped, the rest is read.
pub fn parse(text: &str, local_names: &BTreeSet<String>) -> Aliases {
    let mut found = Aliases::default();
    let mut names = HashSet::new();
    let mut lines = (1..).zip(text.lines()).peekable();
    while let Some((number, line)) = lines.next() {
        let (mut number, mut logical) = (number, line.to_owned());
        while logical.ends_with('\\')
            && let Some((_, more)) = lines.next()
        {
            logical.pop();
            logical.push_str(more);
        }
        let is_empty = logical.is_empty();
        // sendmail counts a line where its last part is; an empty one has no other parts, a comment has.
        while let Some((last, more)) =
            lines.next_if(|(_, line)| !is_empty && line.starts_with([' ', '\t']))
        {
            number = last;
            logical.push_str(more);
        }
        let mut fault = |text: String, is_warning: bool| {
            found.faults.push(Fault { line: number, text, is_warning });
        };
        match logical.chars().next() {
            None | Some('#') => continue,
            Some(' ' | '\t') => {
                fault("Non-continuation line starts with space".to_owned(), false);
                continue;
            }
            Some(_) => {}
        }
        match entry(&logical, local_names) {
            Ok((name, text)) => {
                let folded = name.to_lowercase();
                if names.contains(&folded) {
                    fault(format!("{name}... Warning: duplicate alias name {folded}"), true);
                }
                names.insert(folded);
                found.entries.push(Entry { line: number, name, value: text });
            }
            Err(text) => fault(text, false),
        }
    }
    found
}

/// `name: value`; the error is what sendmail says of the line.
fn entry(line: &str, local_names: &BTreeSet<String>) -> Result<(String, String), String> {
    let shown: String = line.chars().take(SHOWN).collect();
    let shown = crate::config::value::shown(&shown);
    let colon = colon(line).ok_or("missing colon")?;
    let (name, value) = (line[..colon].trim(), line[colon + 1..].trim());
    if name.starts_with(['|', '/']) {
        let name = crate::config::value::shown(name);
        return Err(format!("{name}... cannot alias non-local names"));
    }
    let name = match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(inner) if !inner.contains(['"', '\\', ' ', ':', ',']) => inner,
        _ => name,
    };
    // Blanks within a name are as good as any other character of it (BlankSub).
    let plain = if name.contains('"') { name.to_owned() } else { name.replace([' ', '\t'], ".") };
    let address: Address = plain.parse().map_err(|error| match error {
        AddressError::Unbalanced => {
            format!("{shown}... Unbalanced '{}'", if name.contains('<') { '<' } else { '>' })
        }
        _ => format!("{shown}... illegal alias name"),
    })?;
    if address.domain_key().is_some_and(|domain| !local_names.contains(&domain)) {
        return Err(format!("{address}... cannot alias non-local names"));
    }
    if value.is_empty() {
        return Err(format!("{shown}... missing value for alias"));
    }
    let name = match address.domain() {
        Some(_) => address.local_part(),
        None => name,
    };
    Ok((name.to_owned(), value.to_owned()))
}

/// CheckAliases: what is wrong with the right side of an alias. Programs, files and :include: are not addresses.
fn right_side(entry: &Entry, style: Style) -> Vec<Fault> {
    let parts = entry.value.split(',').map(str::trim);
    let plain = parts.filter(|part| !part.trim_start_matches('"').starts_with(['|', '/', ':']));
    let mut faults = Vec::new();
    for part in plain {
        let unbalanced = part.matches('<').count() != part.matches('>').count();
        let text = match address_list::addresses(part, style).into_iter().find_map(Result::err) {
            _ if unbalanced && !part.contains('"') => {
                let bracket = if part.contains('<') { '<' } else { '>' };
                format!("{part}... Unbalanced '{bracket}'")
            }
            Some((text, error)) => format!("{text}... {error}"),
            None => continue,
        };
        let text = crate::config::value::shown(&text);
        faults.push(Fault { line: entry.line, text, is_warning: false });
    }
    faults
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
fn sources(parts: &[String], exists: &dyn Fn(&Path) -> bool) -> Vec<Source> {
    if parts.is_empty() {
        let usual = USUAL.iter().map(Path::new);
        let found = usual.clone().find(|path| exists(path)).or_else(|| usual.clone().next());
        return found.map(|path| Source::File(path.into())).into_iter().collect();
    }
    parts
        .iter()
        .map(|part| {
            let (class, rest) = match part.split_once(':') {
                Some((class, rest)) if !class.contains('/') => (class.trim(), rest),
                _ => ("", part.as_str()),
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

/// What to print and how it ended; `read` opens files. A file that is not there is said and, as in sendmail, no error.
pub fn rebuild(
    config: &Config,
    exists: &dyn Fn(&Path) -> bool,
    read: &dyn Fn(&Path) -> io::Result<String>,
) -> (String, Exit) {
    let (mut out, mut exit) = (String::new(), Exit::Ok);
    for source in sources(&config.alias_files, exists) {
        let path = match source {
            Source::Other(text) => {
                let text = crate::config::value::shown(&text);
                out.push_str(&format!("{text}: not a file, so it is left to LocalRelay\n"));
                continue;
            }
            Source::File(path) => path,
        };
        match read(&path) {
            Ok(text) => {
                let (mut aliases, path) = (parse(&text, &config.local_names), path.display());
                if config.check_aliases {
                    let style = config.address_style;
                    let faults = aliases.entries.iter().flat_map(|entry| right_side(entry, style));
                    let faults: Vec<Fault> = faults.collect();
                    // sendmail: EX_USAGE, of the first address that is none.
                    exit = if faults.is_empty() { exit } else { exit.and(Exit::Usage) };
                    aliases.faults.extend(faults);
                    aliases.faults.sort_by_key(|fault| fault.line);
                }
                for Fault { line, text, is_warning } in &aliases.faults {
                    out.push_str(&format!("{path}: line {line}: {text}\n"));
                    exit = if *is_warning { exit } else { exit.and(Exit::Software) };
                }
                out.push_str(&format!("{path}: {aliases}\n"));
            }
            Err(error) => {
                let reason = crate::config::check::reason(&error);
                let path = path.display();
                out.push_str(&format!("newaliases: cannot open {path}: {reason}\n"));
                exit = match error.kind() {
                    io::ErrorKind::NotFound => exit,
                    _ => exit.and(Exit::OsFile),
                };
            }
        }
    }
    (out, exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("../../tests/golden/newaliases.txt");
    const FILE: &str = "/etc/mail/aliases";

    fn config(files: &[&str]) -> Config {
        let mut config = Config::default();
        config.local_names.insert("neighbour.example".into());
        config.alias_files = files.iter().map(|&file| file.to_owned()).collect();
        config
    }

    /// Every file of the golden text: what is behind |, then what sendmail printed and its status.
    #[test]
    fn says_of_each_file_what_sendmail_says() {
        let mut played = 0;
        let (mut file, mut expected) = (String::new(), None::<String>);
        let mut checks = false;
        for line in GOLDEN.lines().skip(1) {
            match (&mut expected, line) {
                (None, line) if line.starts_with('|') => {
                    file.push_str(&line[1..]);
                    file.push('\n');
                }
                (None, line) if line.starts_with("$ ") => {
                    checks = line.ends_with("-onTrue");
                    expected = Some(String::new());
                }
                (Some(text), line) if line.starts_with("[exit ") => {
                    let config = Config { check_aliases: checks, ..config(&[FILE]) };
                    let read = |_: &Path| match file.as_str() {
                        "" => Err(io::Error::from_raw_os_error(2)),
                        text => Ok(text.to_owned()),
                    };
                    let (said, exit) = rebuild(&config, &|_| true, &read);
                    assert_eq!(said, *text, "{file}");
                    assert_eq!(format!("[exit {}]", exit.code()), line, "{file}");
                    played += 1;
                    (file, expected) = (String::new(), None);
                }
                (Some(text), line) => {
                    text.push_str(line);
                    text.push('\n');
                }
                (None, _) => {}
            }
        }
        assert_eq!(played, 9, "the file has its cases");
    }

    #[test]
    fn files_are_found_in_every_form_of_the_option() {
        let read = |_: &Path| Ok("a: b\n".to_owned());
        let exists = |path: &Path| path == Path::new(FILE);
        let said = (format!("{FILE}: 1 aliases, longest 1 bytes, 2 bytes total\n"), Exit::Ok);
        let forms: [&[&str]; 5] = [
            &[],
            &[FILE],
            &["hash:/etc/mail/aliases"],
            &["hash: -o /etc/mail/aliases"],
            &["-o /etc/mail/aliases"],
        ];
        for form in forms {
            assert_eq!(rebuild(&config(form), &exists, &read), said, "{form:?}");
        }
    }

    /// What sendmail takes for something else, and we for a fault.
    #[test]
    fn names_that_nobody_can_mean() {
        let names = BTreeSet::from(["localhost".to_owned()]);
        let said = |text: &str| {
            let faults = parse(text, &names).faults.into_iter();
            faults.map(|fault| format!("{}: {}", fault.line, fault.text)).collect::<Vec<_>>()
        };
        assert_eq!(said("bad<: x\n"), ["1: bad<: x... Unbalanced '<'"]);
        assert_eq!(said("a,b: x\n"), ["1: a,b: x... illegal alias name"]);
        assert_eq!(said("\"a:b\": c\nx\\\n"), ["2: missing colon"]);
    }

    #[test]
    fn other_maps_and_unreadable_files_are_named() {
        let denied = |_: &Path| Err(io::Error::from_raw_os_error(13));
        let parts = ["nis:mail.aliases@x", "/etc/a"];
        let (text, exit) = rebuild(&config(&parts), &|_| false, &denied);
        assert_eq!(exit, Exit::OsFile);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "nis:mail.aliases@x: not a file, so it is left to LocalRelay");
        assert_eq!(lines[1], "newaliases: cannot open /etc/a: Permission denied");
    }
}
