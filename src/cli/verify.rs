//! `-bv`: where the mail of an address would go, one line for each, in sendmail's words; and [`resolve`], which test mode
//! uses too.
//!
//! Nothing is sent, stored or looked up in DNS. A local name is looked up in the password file; with LocalRelay, which
//! knows the users, it is not. Addresses are told in the order given, each place once.

use std::io;

use super::exit::Exit;
use crate::accept::local_header::{HeaderEnd, LocalHeader, Normaliser, header_end};
use crate::config::Config;
use crate::mail::address::{Address, AddressError};
use crate::mail::address_list::{self, Item};
use crate::mail::job::{Destination, Mailer};
use crate::route;

/// sendmail's way of writing where mail goes: mailer, host, user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Triple {
    /// How.
    pub mailer: Mailer,
    /// The next hop; none for a mailbox of this machine.
    pub host: Option<String>,
    /// For whom, as that host will hear it.
    pub user: String,
}

/// `mailer esmtp, host ok.example.net., user user@ok.example.net`
impl std::fmt::Display for Triple {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "mailer {}", self.mailer.name())?;
        if let Some(host) = &self.host {
            write!(f, ", host {host}")?;
        }
        write!(f, ", user {}", self.user)
    }
}

/// Why an address goes nowhere: what to say of it, a line each, and the status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unresolved {
    /// Without the address before them.
    pub reasons: Vec<String>,
    /// 64 or 65 when it is no address, 67 for an unknown user; 0 when that is to be found out later.
    pub exit: Exit,
}

impl Unresolved {
    fn new(exit: Exit, reason: impl Into<String>) -> Unresolved {
        Unresolved { reasons: vec![reason.into()], exit }
    }
}

/// Whether there is such a user.
pub type Users<'a> = &'a dyn Fn(&str) -> bool;

/// The password file, by name as typed or in lower case.
pub fn in_password_file(name: &str) -> bool {
    let known = |name: &str| matches!(nix::unistd::User::from_name(name), Ok(Some(_)));
    known(name) || known(&name.to_lowercase())
}

/// Verifies the operands, and with `from_header` the addresses in the header on `input`.
pub fn verify(
    config: &Config,
    from_header: bool,
    recipients: &[String],
    input: &mut dyn io::Read,
) -> Exit {
    let mut report = Report { config, users: &in_password_file, lines: Vec::new(), exit: Exit::Ok };
    recipients.iter().for_each(|typed| report.typed(typed));
    if from_header {
        match header_of(config, input) {
            Ok(header) => {
                let found = header.recipients(config.address_style);
                if found.is_empty() && recipients.is_empty() {
                    report.lines.push("No recipient addresses found in header\n".to_owned());
                }
                found.into_iter().for_each(|item| report.item(item));
            }
            Err(error) => {
                eprintln!("kvmta: cannot read the message: {error}");
                report.exit = report.exit.and(Exit::IoErr);
            }
        }
    }
    let written = super::print(&report.lines.concat());
    report.exit.and(written)
}

struct Report<'a> {
    config: &'a Config,
    users: Users<'a>,
    lines: Vec<String>,
    exit: Exit,
}

impl Report<'_> {
    fn typed(&mut self, typed: &str) {
        let shown = typed.trim();
        match no_address(shown) {
            Some(unresolved) => self.say(shown, Err(unresolved)),
            None => address_list::addresses(shown, self.config.address_style)
                .into_iter()
                .for_each(|item| self.item(item)),
        }
    }

    fn item(&mut self, item: Item) {
        match item {
            Ok(address) => {
                let resolved = resolve(self.config, &address, self.users);
                self.say(address.as_str(), resolved);
            }
            Err((text, error)) => self.say(&text, Err(not_parsed(error))),
        }
    }

    fn say(&mut self, shown: &str, resolved: Result<Triple, Unresolved>) {
        let shown = crate::config::value::shown(shown);
        let lines: Vec<String> = match resolved {
            Ok(triple) => vec![format!("{shown}... deliverable: {triple}\n")],
            Err(Unresolved { reasons, exit }) => {
                self.exit = self.exit.and(exit);
                reasons.iter().map(|reason| format!("{shown}... {reason}\n")).collect()
            }
        };
        for line in lines {
            if !self.lines.contains(&line) {
                self.lines.push(line);
            }
        }
    }
}

/// The header of a message, up to MaxHeadersLength; the rest of the input is not read.
fn header_of(config: &Config, input: &mut dyn io::Read) -> io::Result<LocalHeader> {
    let (mut header, mut normaliser) = (Vec::new(), Normaliser::default());
    let mut piece = vec![0; 64 << 10];
    loop {
        let length = match input.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        normaliser.feed(&piece[..length], &mut header);
        if let HeaderEnd::At(end) = header_end(&header, length == 0) {
            header.truncate(end);
            return Ok(LocalHeader::parse(&header));
        }
        if length == 0 || header.len() as u64 > config.limits.headers_length {
            return Ok(LocalHeader::parse(&header));
        }
    }
}

/// What is no address at all, whoever it were for: sendmail's words for programs, files and unfinished ones.
pub fn no_address(text: &str) -> Option<Unresolved> {
    let usage = |reason: &str| Some(Unresolved::new(Exit::Usage, reason));
    let count = |bracket: char| text.chars().filter(|c| *c == bracket).count();
    if text.starts_with('|') {
        return usage("Cannot mail directly to programs");
    }
    if text.starts_with('/') {
        return usage("Cannot mail directly to files");
    }
    if text.get(..9).is_some_and(|start| start.eq_ignore_ascii_case(":include:")) {
        return usage("Cannot mail directly to :include:s");
    }
    if text.contains('"') {
        return None;
    }
    if count('<') != count('>') {
        let bracket = if count('<') > count('>') { '<' } else { '>' };
        let reasons = vec![format!("Unbalanced '{bracket}'"), "User unknown".to_owned()];
        return Some(Unresolved { reasons, exit: Exit::NoUser });
    }
    if text.ends_with('@') {
        return usage("Hostname required");
    }
    if text.starts_with('@') && !text.contains([':', '<']) {
        return usage("User address required");
    }
    None
}

fn not_parsed(error: AddressError) -> Unresolved {
    Unresolved::new(Exit::Usage, error.to_string())
}

/// Where the mail of `address` would go.
///
/// # Errors
/// [`Unresolved`]: 67 when this machine has no such user, 65 when the domain is none, 0 when the configuration does not
/// say where it goes: its mail would wait.
pub fn resolve(config: &Config, address: &Address, users: Users<'_>) -> Result<Triple, Unresolved> {
    if config.local_relay.is_none() && route::is_local(config, address) {
        let user = address.local_part().to_owned();
        let name = user.split('+').next().unwrap_or_default();
        return match users(&user) || (!name.is_empty() && users(name)) {
            true => Ok(Triple { mailer: Mailer::Local, host: None, user }),
            false => Err(Unresolved::new(Exit::NoUser, "User unknown")),
        };
    }
    let Destination { mailer, next_hop } =
        route::destination(config, address).map_err(|reply| {
            let text = reply.text();
            let text = text.split_once("... ").map_or(text.as_str(), |(_, reason)| reason);
            let exit = if reply.is_permanent() { Exit::DataErr } else { Exit::Ok };
            Unresolved::new(exit, text)
        })?;
    // A domain's mail goes to a name of DNS, which ends with a dot; a host that was named stands as it was.
    let dot = mailer == Mailer::Esmtp && !next_hop.starts_with('[');
    let host = if dot { format!("{next_hop}.") } else { next_hop };
    let user = match address.domain() {
        Some(_) => address.as_str().to_owned(),
        None => format!("{address}@{}", config.host_name),
    };
    Ok(Triple { mailer, host: Some(host), user })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::golden;

    const GOLDEN: &str = include_str!("../../tests/golden/bv.txt");

    fn lab() -> Config {
        let mut config = Config { host_name: "lab.example.com".into(), ..Config::default() };
        config.local_names.extend(["lab".to_owned(), "lab.example.com".to_owned()]);
        config
    }

    fn told(config: &Config, typed: &[&str]) -> (String, Exit) {
        let users = |name: &str| name == "root";
        let mut report = Report { config, users: &users, lines: Vec::new(), exit: Exit::Ok };
        typed.iter().for_each(|typed| report.typed(typed));
        (report.lines.concat(), report.exit)
    }

    #[test]
    fn says_what_sendmail_says() {
        let config = lab();
        for typed in [
            "root",
            "nosuch",
            "user@ok.example.net",
            "user@nosuchhost.example.org",
            "bad <addr",
            "a@",
            "@b",
            "user@[127.0.0.3]",
            "|/bin/true",
            "/tmp/file",
        ] {
            let quoted =
                if typed.contains([' ', '|']) { format!("\"{typed}\"") } else { typed.into() };
            let command = format!("sendmail -bv {quoted}");
            let (text, exit) = told(&config, &[typed]);
            assert_eq!(text, golden::printed(GOLDEN, &command));
            assert_eq!(exit.code(), golden::exit(GOLDEN, &command), "{typed}");
        }
        // From sendmail's exit-codes.
        let route = told(&config, &["a@@b"]);
        assert_eq!(route, ("a@@b... Invalid route address\n".into(), Exit::Usage));
    }

    #[test]
    fn names_every_place_once_and_keeps_the_first_error() {
        let mut config = lab();
        let (text, exit) =
            told(&config, &["nosuch, Root@LAB.example.com", "a@", "nosuch", "root+x"]);
        assert_eq!(
            text,
            "nosuch... User unknown\nRoot@LAB.example.com... User unknown\na@... Hostname required\n\
             root+x... deliverable: mailer local, user root+x\n"
        );
        assert_eq!(exit, Exit::NoUser);
        config.local_relay = Some("lmtp:/run/lmtp".into());
        config.smart_host = Some("[relay.example]:587".into());
        let (text, exit) = told(&config, &["anybody", "a@far.example"]);
        assert_eq!(
            text,
            "anybody... deliverable: mailer lmtp, host /run/lmtp, user anybody@lab.example.com\n\
             a@far.example... deliverable: mailer relay, host [relay.example]:587, user a@far.example\n"
        );
        assert_eq!(exit, Exit::Ok);
    }

    #[test]
    fn reads_a_header() {
        let mut input: &[u8] =
            b"To: a@x.example,\n b@y.example\nBcc: c@z.example\n\nTo: not@me.example\n";
        let header = header_of(&lab(), &mut input).unwrap();
        let found: Vec<String> = header
            .recipients(Default::default())
            .into_iter()
            .map(|item| item.unwrap().to_string())
            .collect();
        assert_eq!(found, ["a@x.example", "b@y.example", "c@z.example"]);
    }
}
