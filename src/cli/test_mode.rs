//! `-bt`: test mode. Lines on standard input, answers on standard output, in sendmail's words where it has the same command.
//!
//! Routing is built in, so what runs rulesets or looks into maps is refused and says what to ask instead. `/parse`, `/try`,
//! `/mx`, `/canon`, `$m`, `$=c`, `=M`, `.D`, `.C` answer from the configuration in force and from DNS; `.D` and `.C` change
//! what later lines print and nothing else. Nothing is sent or stored. The status is 70 after a line that sendmail calls a
//! fault of the configuration, else 0.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, BufRead, Read, Write};
use std::net::IpAddr;

use super::exit::Exit;
use super::verify::{self, Unresolved};
use super::{ask, house};
use crate::config::Config;
use crate::config::tls::Tls;
use crate::mail::address_list;
use crate::world::{DnsError, World};

const BANNER: &str = "ADDRESS TEST MODE (ruleset 3 NOT automatically invoked)\n\
                      Enter <ruleset> <address>\n";
const HELP: &str = "\
Help for test mode:
?\t\t :this help message.
.Dmvalue\t :define macro `m' to `value'.
.Ccvalue\t :add `value' to class `c'.
=M\t\t :display the known mailers.
$m\t\t :print the value of macro $m.
$=c\t\t :print the contents of class $=c.
/mx host\t :returns the MX records for `host'.
/gethostbyname host :returns the addresses of `host'.
/parse address\t :parse address, returning where its mail goes.
/try mailer addr :the address as it will be when presented to the
\t\t  indicated mailer.
/tryflags flags\t :set flags used by /parse and /try.  The flags can be `H'
\t\t  for Header or `E' for Envelope, and `S' for Sender or `R'
\t\t  for Recipient.  These can be combined.
/canon hostname\t :try to canonify hostname.
/quit\t\t :quit address test mode.
Rulesets are not interpreted and maps are not looked up: routing is built in.
End of HELP info
";
/// Octets of one line that are looked at.
const LINE_MAX: u64 = 64 << 10;
/// What a line that defines nothing hears.
const NAME_REQUIRED: &str = "Name required for macro/class\n";

/// DNS, one question at a time.
trait Names {
    fn mx(&self, domain: &str) -> Result<Vec<(u16, String)>, DnsError>;
    fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError>;
}

struct Real {
    runtime: tokio::runtime::Runtime,
    world: World,
}

impl Names for Real {
    fn mx(&self, domain: &str) -> Result<Vec<(u16, String)>, DnsError> {
        self.runtime.block_on(self.world.dns.mx(domain))
    }

    fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        self.runtime.block_on(self.world.dns.addresses(host))
    }
}

/// Answers the lines of standard input until `/quit` or its end.
pub fn test(config: &Config) -> Exit {
    let real = ask::runtime().map_err(|error| error.to_string()).and_then(|runtime| {
        let entered = runtime.enter();
        // Names are asked for here, nobody is spoken to: no certificate is needed.
        let world = World::real(&house::dns_options(config), &Tls::default())
            .map(|(world, _)| world)
            .map_err(|error| error.to_string());
        drop(entered);
        Ok(Real { world: world?, runtime })
    });
    match real {
        Ok(names) => {
            let mut bench = Bench::new(config, &names);
            match talk(&mut bench, &mut io::stdin().lock(), &mut io::stdout().lock()) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Exit::IoErr,
                _ if bench.failed => Exit::Software,
                _ => Exit::Ok,
            }
        }
        Err(error) => {
            eprintln!("kvmta: cannot set up the resolver: {error}");
            Exit::OsErr
        }
    }
}

fn talk(bench: &mut Bench<'_>, input: &mut dyn BufRead, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(BANNER.as_bytes())?;
    loop {
        out.write_all(b"> ")?;
        out.flush()?;
        let mut line = Vec::new();
        if (&mut *input).take(LINE_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        match bench.line(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r'])) {
            Some(text) => out.write_all(text.as_bytes())?,
            None => return Ok(()),
        }
    }
}

/// What lines are answered from.
struct Bench<'a> {
    config: &'a Config,
    names: &'a dyn Names,
    macros: BTreeMap<String, String>,
    classes: BTreeMap<String, BTreeSet<String>>,
    /// `/tryflags`
    header: bool,
    sender: bool,
    failed: bool,
}

impl<'a> Bench<'a> {
    fn new(config: &'a Config, names: &'a dyn Names) -> Bench<'a> {
        let classes = [
            ("w", &config.local_names),
            ("R", &config.relay_domains),
            ("t", &config.trusted_users),
        ];
        let classes = classes.map(|(name, words)| (name.to_owned(), words.clone()));
        let macros = config.macros.clone();
        let (header, sender, failed) = (false, false, false);
        Bench { config, names, macros, classes: classes.into(), header, sender, failed }
    }

    /// The answer; none to `/quit`.
    fn line(&mut self, line: &str) -> Option<String> {
        let mut rest = line.chars();
        Some(match rest.next() {
            None | Some('#') => String::new(),
            Some('?') => HELP.to_owned(),
            Some('.') => self.define(rest.as_str()),
            Some('$') => self.show(rest.as_str()),
            Some('=') => self.list(rest.as_str()),
            Some('-') if rest.as_str().starts_with('d') => String::new(),
            Some('-') => format!("Unknown \"-\" command {line}\n"),
            Some('/') => return self.command(rest.as_str()),
            Some(_) => rules(line),
        })
    }

    /// `.Dmvalue`, `.Ccvalue`
    fn define(&mut self, text: &str) -> String {
        let mut rest = text.chars();
        let kind = rest.next();
        let (name, value) = name(rest.as_str());
        match kind {
            Some('D' | 'C') if name.is_empty() => {
                self.failed = true;
                NAME_REQUIRED.to_owned()
            }
            Some('D') => {
                self.macros.insert(name, value.to_owned());
                String::new()
            }
            Some('C') => {
                let words = value.split_whitespace().map(str::to_owned);
                self.classes.entry(name).or_default().extend(words);
                String::new()
            }
            None => "Usage: .[DC]macro value(s)\n".to_owned(),
            Some(_) => format!("Unknown \".\" command .{text}\n"),
        }
    }

    /// `$m`, `$=c`
    fn show(&mut self, text: &str) -> String {
        let (is_class, text) = text.strip_prefix('=').map_or((false, text), |class| (true, class));
        let (name, _) = name(text.trim());
        if name.is_empty() {
            self.failed = true;
            return NAME_REQUIRED.to_owned();
        }
        if is_class {
            let words = self.classes.get(&name).into_iter().flatten();
            return words.map(|word| format!("{word}\n")).collect();
        }
        format!("{}\n", self.macros.get(&name).map_or("Undefined", String::as_str))
    }

    /// `=M`, `=S`
    fn list(&self, text: &str) -> String {
        match text.chars().next() {
            Some('M') => self.mailers(),
            Some('S') => "rulesets are not interpreted: there are none to show\n".to_owned(),
            None => "Usage: =Sruleset or =M\n".to_owned(),
            Some(_) => format!("Unknown \"=\" command ={text}\n"),
        }
    }

    fn mailers(&self) -> String {
        let port = self.config.smtp_port;
        format!(
            "mailer 5 (esmtp): P=[IPC] M=0 E=\\r\\n T=DNS/RFC822/SMTP A=TCP $h {port}\n\
             mailer 8 (relay): P=[IPC] M=0 E=\\r\\n T=DNS/RFC822/SMTP A=TCP $h {port}\n\
             mailer 9 (lmtp): P=[LPC] M=0 E=\\r\\n T=DNS/RFC822/SMTP A=FILE $h\n"
        )
    }

    fn command(&mut self, text: &str) -> Option<String> {
        let (word, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
        let argument = rest.trim();
        let usage = |form: &str| Some(format!("Usage: {form}\n"));
        Some(match word.to_ascii_lowercase().as_str() {
            "quit" => return None,
            "mx" if argument.is_empty() => return usage("/mx address"),
            "mx" => self.mx(argument),
            "canon" if argument.is_empty() => return usage("/canon address"),
            "canon" => self.canon(argument),
            "gethostbyname" if argument.is_empty() => return usage("/gethostbyname host"),
            "gethostbyname" => self.addresses(argument),
            "parse" if argument.is_empty() => return usage("/parse address"),
            "parse" => self.parse(argument),
            "try" => match argument.split_once([' ', '\t']) {
                Some((mailer, address)) => self.attempt(mailer, address.trim()),
                None => return usage("/try mailer address"),
            },
            "tryflags" if argument.is_empty() => return usage("/tryflags [Hh|Ee][Ss|Rr]"),
            "tryflags" => {
                self.set_flags(argument);
                String::new()
            }
            "map" => match argument.split_once([' ', '\t']) {
                Some((map, _)) => {
                    format!("Map named \"{map}\" not found\nmaps are not looked up yet\n")
                }
                None if argument.is_empty() => return usage("/map mapname key"),
                None => "No key specified\n".to_owned(),
            },
            "sender" | "expand" | "header" | "hostsig" | "dnslookup" => {
                format!("/{word}: not here; ? lists what there is\n")
            }
            "" => return usage("/[canon|map|mx|parse|try|tryflags]"),
            _ => format!("Unknown \"/\" command /{word}\n"),
        })
    }

    fn mx(&self, host: &str) -> String {
        let mut records = match self.names.mx(host) {
            Ok(records) => records,
            Err(DnsError::NoSuchDomain | DnsError::NoData) => Vec::new(),
            Err(error @ DnsError::Temporary(_)) => return format!("getmxrr({host}): {error}\n"),
        };
        records.sort();
        let mut out = format!("getmxrr({host}) returns {} value(s):\n", records.len());
        for (_, name) in records {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "\t{name}.");
        }
        out
    }

    fn canon(&self, host: &str) -> String {
        let name = host.trim_end_matches('.').to_lowercase();
        match self.names.addresses(&name).or_else(|_| self.names.mx(&name).map(|_| Vec::new())) {
            Ok(_) => format!("getcanonname({host}) returns {name}\n"),
            Err(error) => format!("getcanonname({host}) failed: {error}\n"),
        }
    }

    fn addresses(&self, host: &str) -> String {
        match self.names.addresses(host) {
            Ok(addresses) => {
                let mut out =
                    format!("gethostbyname({host}) returns {} value(s):\n", addresses.len());
                addresses.iter().for_each(|address| {
                    let _ = writeln!(out, "\t{address}");
                });
                out
            }
            Err(error) => format!("gethostbyname({host}) failed: {error}\n"),
        }
    }

    fn kind(&self) -> String {
        let place = if self.header { "header" } else { "envelope" };
        let role = if self.sender { "sender" } else { "recipient" };
        format!("{place} {role}")
    }

    /// `/parse`: by configuration alone, so a local name is not looked up.
    fn parse(&self, text: &str) -> String {
        let cracked = match (text.find('<'), text.rfind('>')) {
            (Some(start), Some(end)) if start < end => {
                format!("{}<$g>{}", &text[..start], &text[end + 1..])
            }
            _ => "$g".to_owned(),
        };
        let mut out = format!("Cracked address = {cracked}\nParsing {} address\n", self.kind());
        let items = match verify::no_address(text) {
            Some(Unresolved { reasons, .. }) => {
                out.push_str(&format!(
                    "{text}... {}\n",
                    reasons.first().map_or("", String::as_str)
                ));
                Vec::new()
            }
            None => address_list::addresses(text, self.config.address_style),
        };
        for item in items {
            let line = match item {
                Err((text, error)) => format!("{text}... {error}\n"),
                Ok(address) => match verify::resolve(self.config, &address, &|_| true) {
                    Ok(triple) => format!("{triple}\n"),
                    Err(Unresolved { reasons, .. }) => {
                        format!("{address}... {}\n", reasons.join("; "))
                    }
                },
            };
            out.push_str(&line);
        }
        out
    }

    /// `/try`: addresses are passed on as they are.
    fn attempt(&self, mailer: &str, address: &str) -> String {
        if !["esmtp", "relay", "lmtp", "local"].contains(&mailer) {
            return format!("Unknown mailer {mailer}\n");
        }
        let mut out = format!("Trying {} address {address} for mailer {mailer}\n", self.kind());
        match address_list::addresses(address, self.config.address_style).into_iter().next() {
            Some(Ok(parsed)) => {
                let _ = writeln!(out, "Rcode = 0, addr = {parsed}");
            }
            Some(Err((_, error))) => {
                let _ = writeln!(out, "Rcode = 64, addr = {address}: {error}");
            }
            None => {}
        }
        out
    }

    /// Other letters are nothing, as in sendmail.
    fn set_flags(&mut self, flags: &str) {
        for flag in flags.chars() {
            match flag.to_ascii_uppercase() {
                'H' => self.header = true,
                'E' => self.header = false,
                'S' => self.sender = true,
                'R' => self.sender = false,
                _ => {}
            }
        }
    }
}

/// `3,0 user@host`
fn rules(line: &str) -> String {
    match line.split_once([' ', '\t']).map(|(sets, address)| (sets, address.trim())) {
        Some((sets, address)) if !address.is_empty() => format!(
            "ruleset {sets}: rulesets are not interpreted, routing is built in; try /parse {address}\n"
        ),
        _ => "No address!\n".to_owned(),
    }
}

/// `m` or `{name}`, and what follows.
fn name(text: &str) -> (String, &str) {
    if let Some((name, rest)) = text.strip_prefix('{').and_then(|text| text.split_once('}')) {
        return (name.to_owned(), rest);
    }
    let mut rest = text.chars();
    (rest.next().map(String::from).unwrap_or_default(), rest.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::golden;

    const GOLDEN: &str = include_str!("../../tests/golden/bt.txt");

    /// One domain with two MX records, one host; the rest of the world does not exist.
    struct Few;

    impl Names for Few {
        fn mx(&self, domain: &str) -> Result<Vec<(u16, String)>, DnsError> {
            match domain {
                "mx.example" => Ok(vec![(20, "b.mx.example".into()), (10, "a.mx.example".into())]),
                "slow.example" => Err(DnsError::Temporary("timed out".into())),
                "ok.example.net" => Err(DnsError::NoData),
                _ => Err(DnsError::NoSuchDomain),
            }
        }

        fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
            match host {
                "ok.example.net" => Ok(vec![IpAddr::from([127, 0, 0, 3])]),
                _ => Err(DnsError::NoSuchDomain),
            }
        }
    }

    fn lab() -> Config {
        let mut config = Config { host_name: "lab.example.com".into(), ..Config::default() };
        config.local_names.extend(["lab".to_owned(), "lab.example.com".to_owned()]);
        for (name, text) in [("m", "example.com"), ("j", "lab.example.com")] {
            config.macros.insert(name.into(), text.into());
        }
        config
    }

    fn session(input: &str) -> (String, bool) {
        let config = lab();
        let mut bench = Bench::new(&config, &Few);
        let mut out = Vec::new();
        talk(&mut bench, &mut input.as_bytes(), &mut out).unwrap();
        (String::from_utf8(out).unwrap(), bench.failed)
    }

    /// sendmail's answers to the lines of the golden session that are answered here, without what rulesets traced.
    #[test]
    fn answers_as_sendmail_does() {
        let whole = GOLDEN.split("> ").collect::<Vec<_>>();
        let expected = |start: &str| {
            let answer = whole.iter().find(|answer| answer.starts_with(start)).unwrap();
            let traced = |line: &&str| line.contains(" input: ") || line.contains(" returns: ");
            answer.lines().filter(|line| !traced(line)).map(|line| format!("{line}\n")).collect()
        };
        let one = |line: &str| {
            let config = lab();
            Bench::new(&config, &Few).line(line).unwrap()
        };
        for (line, start) in [
            ("/mx ok.example.net", "getmxrr"),
            ("$m", "example.com"),
            ("$j", "lab.example.com"),
            ("$X", "Undefined"),
            ("/try esmtp user@ok.example.net", "Trying"),
            ("/parse root", "Cracked"),
            ("/canon ok.example.net", "getcanonname"),
            ("bogus", "No address!"),
            (".D", "Name required"),
        ] {
            let expected: String = expected(start);
            assert_eq!(one(line), expected, "{line}");
        }
        let parsed = one("/parse user@ok.example.net");
        assert!(
            parsed.ends_with("\nmailer esmtp, host ok.example.net., user user@ok.example.net\n")
        );
        assert!(GOLDEN.contains(parsed.lines().last().unwrap()));
        assert_eq!(one("$=w"), "lab\nlab.example.com\nlocalhost\n");
    }

    #[test]
    fn wrong_lines_are_answered_as_sendmail_does() {
        let golden = include_str!("../../tests/golden/bt-faults.txt");
        let config = lab();
        for case in golden.split("\n> ").skip(1) {
            let (line, expected) = case.split_once('\n').unwrap_or((case, ""));
            let said = Bench::new(&config, &Few).line(line).unwrap();
            assert_eq!(said.trim_end(), expected.trim_end(), "{line}");
        }
    }

    #[test]
    fn a_session_is_sendmails() {
        let (text, failed) = session("bogus\n.D\n");
        assert_eq!(text, format!("{BANNER}> No address!\n> {NAME_REQUIRED}> "));
        assert!(golden::printed(GOLDEN, "printf \"?\\n\" | sendmail -bt").starts_with(BANNER));
        assert!(failed, "sendmail's status is 70");
        let (text, failed) =
            session("/tryflags HS\n.Dxa b\n${x}\n/parse Ann <ann@lab>\n/quit\n$m\n");
        assert_eq!(
            text,
            format!(
                "{BANNER}> > > a b\n> Cracked address = Ann <$g>\nParsing header sender address\n\
                 mailer local, user ann\n> "
            )
        );
        assert!(!failed);
    }

    #[test]
    fn what_is_not_here_says_so() {
        let (text, _) = session(
            "3,0 a@b.example\n=S3\n/map aliases list\n/expand $j\n/nonsense\n/try prog a@b\n/mx mx.example\n\
             /mx slow.example\n/canon no.example\n/mx\n",
        );
        for part in [
            "rulesets are not interpreted, routing is built in; try /parse a@b.example\n",
            "there are none to show\n",
            "Map named \"aliases\" not found",
            "/expand: not here; ? lists what there is\n",
            "Unknown \"/\" command /nonsense\n",
            "Unknown mailer prog\n",
            "getmxrr(mx.example) returns 2 value(s):\n\ta.mx.example.\n\tb.mx.example.\n",
            "getmxrr(slow.example): timed out\n",
            "getcanonname(no.example) failed: host not found\n",
            "Usage: /mx address\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
