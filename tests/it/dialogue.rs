//! SMTP dialogues of the server as text files: `tests/smtp/server/*.txt`.
//!
//! A file holds dialogues, each begun by `### name`. Then, line by line:
//!
//! ```text
//! @set NAME VALUE      a limit or option, before anything is said
//! @refuse ADDRESS R    policy: MAIL or RCPT with this address gets reply R
//! @store R             the store answers Accept with reply R
//! @once                not played in pieces (for what depends on how input is cut)
//! C: text              the client sends text and CRLF; several of these are one group
//! c: text              the same without CRLF; \r \n \0 \t \\ \xNN stand for octets
//! c*N: text            the same, N times
//! @ 5m                 that time passes (s, m, h)
//! @eof @shutdown       the client is gone; the daemon stops
//! @strain slow resting the machine is busy: commands wait, queue runs are impossible
//! S: text              the server answers this line
//! > event              the machine asks for this: begin, accept "content", abandon, close...
//! ```
//!
//! Each dialogue is played with its input whole, octet by octet, and cut in two at every place: what the server says
//! and does must be the same. On a difference the dialogue as it was played is printed, in the form of the file.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kvmta::mail::status::{EnhancedStatus, Reply};
use kvmta::smtp::server::{Input, Output, Parting, Peer, Server, Settings};
use tokio::time::Instant;

/// One step of a dialogue with the lines that must follow it.
#[derive(Debug, Default, Clone)]
struct Step {
    cause: Vec<String>,
    act: Act,
    says: Vec<String>,
    does: Vec<String>,
}

#[derive(Debug, Default, Clone)]
enum Act {
    #[default]
    Greet,
    Send(Vec<u8>),
    Pass(Duration),
    Eof,
    Strain {
        slow: bool,
        resting: bool,
    },
    Shutdown,
}

#[derive(Debug)]
struct Dialogue {
    name: String,
    settings: Settings,
    peer: Peer,
    refusals: HashMap<String, Reply>,
    store: Option<Reply>,
    once: bool,
    steps: Vec<Step>,
}

impl Dialogue {
    fn new(name: &str) -> Dialogue {
        Dialogue {
            name: name.into(),
            settings: Settings {
                host_name: "lab.example.com".into(),
                message_size: 0,
                recipients: 0,
                headers_length: 0,
                hops: 100,
                command_line: 2048,
                bad_commands: 25,
                bad_recipients: 0,
                bad_recipients_pause: Duration::from_secs(1),
                bad_recipients_max: 0,
                good_recipients_percent: 100,
                noop_commands: 20,
                session_time: Duration::from_secs(86_400),
                command_time: Duration::from_secs(300),
                block_time: Duration::from_secs(3600),
                dsn: true,
                etrn: true,
                verb: true,
                deliver_by: Some(0),
                novrfy: false,
                noexpn: false,
                help: None,
                mail_needs_hello: false,
                vrfy_needs_hello: false,
                expn_needs_hello: false,
                bogus_hello: false,
            },
            peer: Peer { shown: "localhost [127.0.0.1]".into(), trusted: true, offers_tls: false },
            refusals: HashMap::new(),
            store: None,
            once: false,
            steps: vec![Step::default()],
        }
    }

    fn directive(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let act = match words.as_slice() {
            ["set", name, value @ ..] if !value.is_empty() => {
                return self.set(name, &value.join(" "));
            }
            ["refuse", address, reply @ ..] => {
                self.refusals.insert((*address).into(), parse_reply(&reply.join(" ")));
                return;
            }
            ["store", reply @ ..] => return self.store = Some(parse_reply(&reply.join(" "))),
            ["once"] => return self.once = true,
            ["eof"] => Act::Eof,
            ["shutdown"] => Act::Shutdown,
            ["strain", words @ ..] => {
                Act::Strain { slow: words.contains(&"slow"), resting: words.contains(&"resting") }
            }
            ["", time] => Act::Pass(duration(time)),
            _ => panic!("{}: @{line}", self.name),
        };
        self.steps.push(Step { cause: vec![format!("@{line}")], act, ..Step::default() });
    }

    fn set(&mut self, name: &str, value: &str) {
        let number = || value.parse::<u64>().unwrap();
        let settings = &mut self.settings;
        match name {
            "message_size" => settings.message_size = number(),
            "recipients" => settings.recipients = number() as u32,
            "headers_length" => settings.headers_length = number(),
            "hops" => settings.hops = number() as u32,
            "command_line" => settings.command_line = number() as usize,
            "bad_commands" => settings.bad_commands = number() as u32,
            "bad_recipients" => settings.bad_recipients = number() as u32,
            "bad_recipients_pause" => settings.bad_recipients_pause = duration(value),
            "bad_recipients_max" => settings.bad_recipients_max = number() as u32,
            "good_recipients_percent" => settings.good_recipients_percent = number() as u32,
            "expn_needs_hello" => settings.expn_needs_hello = value == "yes",
            "bogus_hello" => settings.bogus_hello = value == "yes",
            "noop_commands" => settings.noop_commands = number() as u32,
            "session_time" => settings.session_time = duration(value),
            "dsn" => settings.dsn = value == "yes",
            "etrn" => settings.etrn = value == "yes",
            "verb" => settings.verb = value == "yes",
            "deliver_by" => settings.deliver_by = value.parse().ok(),
            "novrfy" => settings.novrfy = value == "yes",
            "noexpn" => settings.noexpn = value == "yes",
            "help" => settings.help = Some(String::from_utf8(unescape(value)).unwrap().into()),
            "mail_needs_hello" => settings.mail_needs_hello = value == "yes",
            "vrfy_needs_hello" => settings.vrfy_needs_hello = value == "yes",
            "trusted" => self.peer.trusted = value == "yes",
            "tls" => self.peer.offers_tls = value == "yes",
            _ => panic!("no setting {name}"),
        }
    }

    /// One line of the file.
    fn line(&mut self, line: &str) {
        if let Some(said) = line.strip_prefix("S: ") {
            self.steps.last_mut().unwrap().says.push(said.into());
        } else if let Some(done) = line.strip_prefix("> ") {
            self.steps.last_mut().unwrap().does.push(done.into());
        } else if let Some(text) = line.strip_prefix("C: ").or((line == "C:").then_some("")) {
            self.send(line, format!("{text}\r\n").into_bytes());
        } else if let Some(text) = line.strip_prefix("c: ") {
            self.send(line, unescape(text));
        } else if let Some(text) = line.strip_prefix("c*") {
            let (times, text) = text.split_once(": ").unwrap();
            self.send(line, unescape(text).repeat(times.parse().unwrap()));
        } else if let Some(directive) = line.strip_prefix('@') {
            self.directive(directive);
        } else {
            assert!(line.is_empty() || line.starts_with('#'), "{}: {line}", self.name);
        }
    }

    fn send(&mut self, line: &str, bytes: Vec<u8>) {
        let last = self.steps.last_mut().unwrap();
        match &mut last.act {
            Act::Send(group) if last.says.is_empty() && last.does.is_empty() => {
                group.extend(bytes);
                last.cause.push(line.into());
            }
            _ => self.steps.push(Step {
                cause: vec![line.into()],
                act: Act::Send(bytes),
                ..Step::default()
            }),
        }
    }

    /// Octets of the longest group.
    fn longest(&self) -> usize {
        let len = |step: &Step| if let Act::Send(bytes) = &step.act { bytes.len() } else { 0 };
        self.steps.iter().map(len).max().unwrap_or(0)
    }

    /// Plays it, each group in the pieces that `cut` makes of it.
    fn play(&self, cut: &dyn Fn(&[u8]) -> Vec<Vec<u8>>) -> Vec<Step> {
        let mut now = Instant::now();
        let server = Server::new(Arc::new(self.settings.clone()), self.peer.clone(), now);
        let mut caller = Caller { dialogue: self, server, staged: Vec::new(), open: false };
        let mut played = Vec::new();
        for (n, step) in self.steps.iter().enumerate() {
            let mut seen = Step { says: Vec::new(), does: Vec::new(), ..step.clone() };
            let (mut said, done) = (Vec::new(), &mut seen.does);
            match &step.act {
                // A client that does not wait for the greeting speaks before it.
                Act::Greet if step.says.is_empty() && step.does.is_empty() && n == 0 => {}
                Act::Greet => {
                    let text = "lab.example.com ESMTP kvmta";
                    caller.feed(Input::Greet(text), now, &mut said, done);
                }
                Act::Send(bytes) => {
                    for piece in cut(bytes) {
                        caller.feed(Input::Bytes(&piece), now, &mut said, done);
                    }
                }
                Act::Pass(time) => {
                    let end = now + *time;
                    loop {
                        let next = caller.server.deadline().max(now);
                        now = next.min(end);
                        caller.feed(Input::Time, now, &mut said, done);
                        if next >= end || caller.server.deadline() <= now {
                            break;
                        }
                    }
                    now = end;
                }
                Act::Eof => caller.feed(Input::Eof, now, &mut said, done),
                Act::Strain { slow, resting } => {
                    let (slow, resting) = (*slow, *resting);
                    caller.feed(Input::Strain { slow, resting }, now, &mut said, done);
                }
                Act::Shutdown => caller.feed(Input::Shutdown, now, &mut said, done),
            }
            let said = String::from_utf8(said).expect("replies are UTF-8");
            assert!(said.is_empty() || said.ends_with("\r\n"), "replies end in CRLF: {said:?}");
            seen.says = said.split_terminator("\r\n").map(str::to_owned).collect();
            played.push(seen);
        }
        played
    }

    fn check(&self) {
        let whole = self.play(&|bytes| bytes.chunks(16_384).map(<[u8]>::to_vec).collect());
        self.compare(&whole, "whole");
        if self.once || self.longest() > 3000 {
            return;
        }
        let single = self.play(&|bytes| bytes.iter().map(|b| vec![*b]).collect());
        self.compare(&single, "octet by octet");
        for at in 1..self.longest() {
            let halves = |bytes: &[u8]| match bytes.split_at_checked(at) {
                Some((first, second)) => vec![first.to_vec(), second.to_vec()],
                None => vec![bytes.to_vec()],
            };
            self.compare(&self.play(&halves), &format!("cut at {at}"));
        }
    }

    fn compare(&self, played: &[Step], how: &str) {
        let text = |steps: &[Step]| -> String { steps.iter().map(print).collect() };
        let (expected, found) = (text(&self.steps), text(played));
        assert!(
            expected == found,
            "{} ({how}): expected\n{expected}\nbut it went\n{found}",
            self.name
        );
    }
}

/// Does what the machine asks, by the script.
struct Caller<'a> {
    dialogue: &'a Dialogue,
    server: Server,
    staged: Vec<u8>,
    open: bool,
}

impl Caller<'_> {
    fn feed(&mut self, input: Input<'_>, now: Instant, said: &mut Vec<u8>, done: &mut Vec<String>) {
        self.server.handle(input, now);
        self.drain(said, done, now);
    }

    fn drain(&mut self, said: &mut Vec<u8>, done: &mut Vec<String>, now: Instant) {
        while let Some(output) = self.server.poll() {
            let policy = |address: &str| match self.dialogue.refusals.get(address) {
                Some(reply) => Err(reply.clone()),
                None => Ok(()),
            };
            match output {
                Output::Send(bytes) => said.extend(bytes),
                Output::AskMail(mail) => {
                    assert!(!self.open, "one transaction at a time");
                    let answer = policy(&mail.path.to_string());
                    self.open = answer.is_ok();
                    self.server.handle(Input::Answer(answer), now);
                }
                Output::AskRcpt(rcpt) => {
                    assert!(self.open, "RCPT belongs to a transaction");
                    self.server.handle(Input::Answer(policy(rcpt.address.as_str())), now);
                }
                Output::Begin => {
                    assert!(self.open && self.staged.is_empty());
                    done.push("begin".into());
                }
                Output::Stage(bytes) => {
                    assert!(self.open && !bytes.is_empty());
                    self.staged.extend(bytes);
                }
                Output::Accept(arrived) => {
                    let content = std::mem::take(&mut self.staged);
                    assert!(std::mem::take(&mut self.open));
                    assert_eq!(arrived.size, content.len() as u64);
                    assert_eq!(arrived.has_8bit, !content.is_ascii());
                    let header = arrived.header.len as usize;
                    assert!(content[..header].ends_with(b"\r\n"));
                    done.push(format!("accept {}", show(&content)));
                    let id = "6AM6LRrH021770".parse().unwrap();
                    let answer = self.dialogue.store.clone().map_or(Ok(id), Err);
                    self.server.handle(Input::Accepted(answer), now);
                }
                Output::Abandon(reply) => {
                    self.staged.clear();
                    self.open = false;
                    done.push(match reply {
                        Some(reply) => format!("abandon {reply}"),
                        None => "abandon".into(),
                    });
                }
                Output::StartTls => {
                    done.push("starttls".into());
                    self.server.handle(Input::TlsActive, now);
                }
                Output::Etrn(selection) => {
                    done.push(format!("etrn {}", selection.terms[0].substring));
                }
                Output::Close(parting) => done.push(format!("close {}", name_of(parting))),
            }
        }
    }
}

fn name_of(parting: Parting) -> &'static str {
    match parting {
        Parting::Quit => "quit",
        Parting::Lost => "lost",
        Parting::Timeout => "timeout",
        Parting::Abuse => "abuse",
        Parting::Shutdown => "shutdown",
    }
}

/// A step in the form of the file.
fn print(step: &Step) -> String {
    let says = step.says.iter().map(|line| format!("S: {line}"));
    let does = step.does.iter().map(|event| format!("> {event}"));
    step.cause.iter().cloned().chain(says).chain(does).map(|line| line + "\n").collect()
}

/// Content in quotes; long content by its length.
fn show(content: &[u8]) -> String {
    match content.len() {
        ..=300 => format!("\"{}\"", content.escape_ascii()),
        len => format!("{len} octets"),
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next().expect("something follows a backslash") {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'0' => 0,
                b'x' => {
                    let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                    u8::from_str_radix(str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                other => other,
            },
            other => other,
        });
    }
    out
}

fn duration(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.len() - 1);
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => panic!("no time: {text}"),
    };
    Duration::from_secs(number.parse::<u64>().unwrap() * unit)
}

fn parse_reply(text: &str) -> Reply {
    let (code, rest) = text.split_once(' ').unwrap();
    let (status, rest): (Option<EnhancedStatus>, _) = EnhancedStatus::split_from(rest);
    Reply::new(code.parse().unwrap(), status, rest)
}

fn dialogues(path: &Path) -> Vec<Dialogue> {
    let mut found: Vec<Dialogue> = Vec::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        match (line.strip_prefix("### "), found.last_mut()) {
            (Some(name), _) => {
                let file = path.file_stem().unwrap().to_string_lossy();
                found.push(Dialogue::new(&format!("{file}: {name}")));
            }
            (None, Some(dialogue)) => dialogue.line(line),
            (None, None) => assert!(line.is_empty() || line.starts_with('#'), "{line}"),
        }
    }
    found
}

#[test]
fn server_dialogues() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/smtp/server");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut wrong = Vec::new();
    for dialogue in files.iter().flat_map(|path| dialogues(path)) {
        if let Err(panic) = std::panic::catch_unwind(|| dialogue.check()) {
            let text = panic.downcast_ref::<String>().cloned();
            wrong.push(text.unwrap_or_else(|| format!("{}: panicked", dialogue.name)));
        }
    }
    assert!(wrong.is_empty(), "{} dialogues differ\n\n{}", wrong.len(), wrong.join("\n"));
}
