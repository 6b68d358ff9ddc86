//! Plays `tests/smtp/client/*.txt` against the client machine: what a server says and does, step by step, and what the
//! client must write, ask for and conclude. No socket, no clock, so a step's timeout takes no time.
//!
//! A file holds cases, each begun by `== title`. Lines of a case:
//!
//! ```text
//! set lmtp | notls | show          before anything else: LMTP; no STARTTLS; transcript lines
//! letter <from> <to>... [key=value|word]   a letter: text=, size=, envid=, notify=, orcpt=, ret=, by=, age=, pieces, 8bit, utf8,
//!                                  converted (made 7-bit as deliver does for a server without 8BITMIME)
//! open EXTENSION...                short for greeting and EHLO (or LHLO) up to `= ready`
//! S: line                          the server sends a line
//! s: raw                           the server sends this, with \r \n \0 escapes, no line end
//! C: line                          the client has this line to write; it is taken as written
//! C nothing                        the client has nothing to write
//! flood raw                        the server sends it a thousand times
//! skip n                           n octets of what the client has to write are taken as written
//! drop | broken words | tls up | tls fails | quit | probe | nobody | piece text | last text | @ 5m
//! = deed                           the next deed of the client
//! ```
//!
//! Every deed must be expected before the next thing happens, and every recipient gets one fate and no second.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use kvmta::mail::address::ReversePath;
use kvmta::mail::envelope::{
    BodyType, ByMode, DeliverBy, Envelope, Notify, Recipient, RecipientState, Ret, TimeoutClass,
};
use kvmta::mail::mime::{Limits, Stamp, Surveyor};
use kvmta::mail::time::Timestamp;
use kvmta::smtp::client::{
    Body, Client, Dialect, Fate, Input, Letter, Output, Settings, StepTimeouts, Unfit,
};
use proptest::prelude::*;

/// Every timeout different, so that a file can tell them apart.
pub fn timeouts() -> StepTimeouts {
    let minutes = |n: u64| Duration::from_secs(60 * n);
    StepTimeouts {
        greeting: minutes(5),
        hello: minutes(6),
        starttls: minutes(7),
        mail: minutes(10),
        rcpt: minutes(20),
        data_init: minutes(8),
        data_block: minutes(30),
        data_final: minutes(60),
        reset: minutes(4),
        quit: minutes(2),
    }
}

/// A letter's parts, from its line.
struct Draft {
    envelope: Envelope,
    recipients: Vec<Recipient>,
    body: Body,
    now: Timestamp,
}

fn draft(line: &str) -> Draft {
    let mut words = line.split_whitespace();
    let path = |word: &str| word.trim_start_matches('<').trim_end_matches('>').to_owned();
    let from = path(words.next().expect("letter <from> <to>"));
    let reverse_path = match from.as_str() {
        "" => ReversePath::Null,
        text => ReversePath::Mailbox(text.parse().expect("reverse-path")),
    };
    let mut envelope = Envelope {
        reverse_path,
        arrival: Timestamp::ZERO,
        relay: String::new(),
        protocol: String::new(),
        body_type: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        timeouts: TimeoutClass::Normal,
        precedence: 0,
        priority: 0,
        message_id: String::new(),
        header_len: 0,
        size: 0,
        body_lines: 0,
        relay_override: None,
        deliver_by: None,
    };
    let mut text = "Subject: x\r\n\r\nhello\r\n".to_owned();
    let (mut pieces, mut converted, mut size) = (false, false, None);
    let mut now = Timestamp::ZERO;
    let mut recipients: Vec<Recipient> = Vec::new();
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("text", value) => text = unescape(value),
            ("fill", value) => text = "line of text\r\n".repeat(value.parse().expect("fill=N")),
            ("size", value) => size = Some(value.parse().expect("size")),
            ("envid", value) => envelope.envid = Some(unescape(value)),
            ("ret", value) => {
                envelope.ret = Some(if value == "full" { Ret::Full } else { Ret::Headers });
            }
            ("notify", value) => {
                let has = |word| value.contains(word);
                recipients.last_mut().expect("a recipient before").notify = match value {
                    "never" => Notify::Never,
                    _ => Notify::On {
                        success: has("success"),
                        failure: has("failure"),
                        delay: has("delay"),
                    },
                };
            }
            ("orcpt", value) => {
                recipients.last_mut().expect("a recipient before").orcpt = Some(unescape(value));
            }
            ("by", value) => {
                let (seconds, mode) = value.split_once(';').expect("by=SECONDS;MODE");
                envelope.deliver_by = Some(DeliverBy {
                    seconds: seconds.parse().expect("seconds"),
                    mode: if mode.starts_with('R') { ByMode::Return } else { ByMode::Notify },
                    trace: mode.ends_with('T'),
                });
            }
            ("age", value) => now = Timestamp::from_secs(value.parse().expect("seconds")),
            ("pieces", _) => pieces = true,
            ("converted", _) => converted = true,
            ("8bit", _) => envelope.body_type = BodyType::EightBitMime,
            ("utf8", _) => envelope.smtputf8 = true,
            (address, _) => recipients.push(Recipient {
                address: path(address).parse().expect("forward-path"),
                orcpt: None,
                notify: Notify::Unspecified,
                state: RecipientState::Open(None),
            }),
        }
    }
    if converted {
        let stamp =
            Stamp { charset: "unknown-8bit".into(), by: "us.example id 6AM6LJX7021711".into() };
        let mut surveyor = Surveyor::new(Limits::NONE, stamp);
        surveyor.feed(text.as_bytes());
        let survey = surveyor.finish();
        let (mut rewriter, mut out) = (survey.rewriter(), Vec::new());
        rewriter.feed(text.as_bytes(), &mut out);
        rewriter.finish(&mut out);
        text = String::from_utf8(out).expect("7 bits");
        size = Some(survey.size);
        envelope.body_type = BodyType::SevenBit;
    }
    envelope.header_len = text.find("\r\n\r\n").map_or(0, |at| at as u64 + 4);
    envelope.size = size.unwrap_or(text.len() as u64);
    let body = if pieces { Body::Pieces } else { Body::Whole(Arc::from(text.into_bytes())) };
    Draft { envelope, recipients, body, now }
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('r') => out.push('\r'),
                Some('n') => out.push('\n'),
                Some('0') => out.push('\0'),
                Some('s') => out.push(' '),
                other => out.extend(other),
            },
            (c, false) => out.push(c),
        }
    }
    out
}

/// As the files write it.
fn show(deed: &Output) -> String {
    match deed {
        Output::Ready => "ready".into(),
        Output::StartTls => "start tls".into(),
        Output::NeedBody => "need body".into(),
        Output::Settled => "settled".into(),
        Output::Line(line) => format!("line {line}"),
        Output::Over(fault) => format!("over {fault:?}").split('{').next().expect("one").into(),
        Output::Fate { place, fate } => {
            let mut text = format!("{place} ");
            match fate {
                Fate::Taken { reply, dsn_aware, by_aware } => {
                    let _ = write!(text, "taken {reply}{}", if *dsn_aware { " (dsn)" } else { "" });
                    text.push_str(if *by_aware { " (by)" } else { "" });
                }
                Fate::Refused { reply, command } => {
                    let _ = write!(text, "refused {reply} to {command}");
                }
                Fate::Unfit(Unfit::TooLarge { limit }) => {
                    let _ = write!(text, "unfit over {limit}");
                }
                Fate::Unfit(Unfit::NeedsUtf8) => text.push_str("unfit utf8"),
                Fate::Unfit(Unfit::NoDeliverBy) => text.push_str("unfit by"),
                Fate::Unfit(Unfit::TooLate { left, minimum }) => {
                    let _ = write!(text, "unfit {left} < {minimum}");
                }
                Fate::Later(reply) => {
                    let _ = write!(text, "later {reply}");
                }
                Fate::Untold => text.push_str("untold"),
                Fate::Unknown => text.push_str("unknown"),
            }
            text
        }
    }
}

/// One case under way.
struct Play {
    client: Client,
    now: Instant,
    /// Fates of the current letter, by place.
    fates: Vec<u32>,
}

impl Play {
    fn deed(&mut self) -> Option<String> {
        let deed = self.client.poll()?;
        if let Output::Fate { place, .. } = &deed {
            self.fates[*place] += 1;
        }
        if let Output::Settled = deed {
            assert!(self.fates.iter().all(|&n| n == 1), "one fate each: {:?}", self.fates);
        }
        Some(show(&deed))
    }

    fn step(&mut self, line: &str) -> Result<(), String> {
        if let Some(expected) = line.strip_prefix("= ") {
            return match self.deed() {
                Some(deed) if deed.trim() == expected.trim() => Ok(()),
                deed => Err(format!("expected deed {expected:?}, got {deed:?}")),
            };
        }
        if let Some(expected) = line.strip_prefix("C: ") {
            return self.written(expected);
        }
        if let Some(deed) = self.deed() {
            return Err(format!("unexpected deed {deed:?}"));
        }
        let now = self.now;
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match (word, rest) {
            ("C", "nothing") => {
                let out = String::from_utf8_lossy(self.client.outgoing()).into_owned();
                return if out.is_empty() { Ok(()) } else { Err(format!("it writes {out:?}")) };
            }
            ("S:", text) => {
                self.client.handle(Input::Received(format!("{text}\r\n").as_bytes()), now);
            }
            ("s:", text) => {
                self.client.handle(Input::Received(unescape(text).as_bytes()), now);
            }
            ("flood", text) => {
                let flood = unescape(text).repeat(1000);
                self.client.handle(Input::Received(flood.as_bytes()), now);
            }
            ("drop", _) => self.client.handle(Input::Closed, now),
            ("broken", words) => self.client.handle(Input::Broken(words.into()), now),
            ("tls", "up") => self.client.handle(Input::TlsUp, now),
            ("tls", words) => self.client.handle(Input::TlsFailed(words.into()), now),
            ("quit", _) => self.client.handle(Input::Quit, now),
            ("probe", _) => self.client.handle(Input::Probe, now),
            ("nobody", _) => self.client.handle(Input::NoBody, now),
            ("piece", text) => {
                let bytes = unescape(text);
                self.client.handle(Input::Piece { bytes: bytes.as_bytes(), last: false }, now);
            }
            ("last", text) => {
                let bytes = unescape(text);
                self.client.handle(Input::Piece { bytes: bytes.as_bytes(), last: true }, now);
            }
            ("@", time) => {
                let (number, unit) = time.split_at(time.len() - 1);
                let number: u64 = number.parse().map_err(|_| format!("time {time:?}"))?;
                self.now += Duration::from_secs(if unit == "m" { 60 * number } else { number });
                self.client.handle(Input::Tick, self.now);
            }
            ("letter", rest) => {
                let draft = draft(rest);
                self.fates = vec![0; draft.recipients.len()];
                let letter = Letter {
                    envelope: &draft.envelope,
                    deliver_by_left: draft.envelope.deliver_by_left(draft.now),
                    recipients: draft.recipients.iter().collect(),
                    body: draft.body,
                };
                self.client.handle(Input::Letter(letter), now);
            }
            ("open", extensions) => {
                self.step("S: 220 peer.example")?;
                let hello = String::from_utf8_lossy(self.client.outgoing()).into_owned();
                self.client.handle(Input::Sent(hello.len()), now);
                let mut lines = vec!["peer.example"];
                lines.extend(extensions.split_whitespace());
                let last = lines.len() - 1;
                let reply: String = lines
                    .iter()
                    .enumerate()
                    .map(|(n, line)| {
                        let mark = if n == last { ' ' } else { '-' };
                        format!("250{mark}{}\r\n", line.replace('=', " "))
                    })
                    .collect();
                self.client.handle(Input::Received(reply.as_bytes()), now);
                self.step("= ready")?;
            }
            ("skip", count) => {
                let count = count.parse().map_err(|_| format!("skip {count:?}"))?;
                self.client.handle(Input::Sent(count), now);
            }
            _ => return Err("not a step".into()),
        }
        Ok(())
    }

    fn written(&mut self, expected: &str) -> Result<(), String> {
        let out = self.client.outgoing();
        let end = out.windows(2).position(|w| w == b"\r\n").ok_or("it has no line to write")?;
        let line = String::from_utf8_lossy(&out[..end]).into_owned();
        self.client.handle(Input::Sent(end + 2), self.now);
        if line == expected { Ok(()) } else { Err(format!("it writes {line:?}")) }
    }
}

fn play(title: &str, lines: &[(usize, &str)]) -> Result<(), String> {
    let (set, rest): (Vec<_>, Vec<_>) =
        lines.iter().partition(|(_, line)| line.starts_with("set "));
    let has = |word: &str| set.iter().any(|(_, line)| line[4..].split(' ').any(|w| w == word));
    let settings = Settings {
        helo: "us.example".into(),
        dialect: if has("lmtp") { Dialect::Lmtp } else { Dialect::Smtp },
        tls: !has("notls"),
        timeouts: timeouts(),
    };
    let now = Instant::now();
    let mut play = Play { client: Client::new(settings, now), now, fates: Vec::new() };
    play.client.show(has("show"));
    for (number, line) in rest {
        play.step(line).map_err(|error| format!("{title}, line {number}: {line}\n    {error}"))?;
    }
    match play.deed() {
        Some(deed) => Err(format!("{title}, at its end: unexpected deed {deed:?}")),
        None => Ok(()),
    }
}

#[test]
fn dialogues() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/smtp/client");
    let mut failures = Vec::new();
    let mut cases = 0;
    for entry in std::fs::read_dir(&folder).expect("tests/smtp/client") {
        let path = entry.expect("entry").path();
        let text = std::fs::read_to_string(&path).expect("a dialogue file");
        let lines: Vec<_> = text
            .lines()
            .enumerate()
            .map(|(number, line)| (number + 1, line.trim_start()))
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .collect();
        for case in lines.split(|(_, line)| line.starts_with("== ")).filter(|c| !c.is_empty()) {
            cases += 1;
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            failures.extend(play(&name, case).err());
        }
    }
    assert!(cases > 0 && failures.is_empty(), "{}", failures.join("\n"));
}

/// A body larger than any piece leaves whole, in bounded pieces, with its dots doubled and one end.
#[test]
fn large_bodies_leave_in_pieces() {
    use kvmta::smtp::client::PIECE_MAX;
    let text = ".a line\r\n".repeat(40_000);
    let draft = draft("<a@x> <b@y> text=x");
    let now = Instant::now();
    let body = Body::Whole(Arc::from(text.as_bytes()));
    let recipients = draft.recipients.iter().collect();
    let letter = Letter { envelope: &draft.envelope, deliver_by_left: None, recipients, body };
    let mut client = Client::new(client_settings(), now);
    for reply in ["220 a\r\n", "250-a\r\n250-CHUNKING\r\n250 PIPELINING\r\n"] {
        client.handle(Input::Received(reply.as_bytes()), now);
        client.handle(Input::Sent(client.outgoing().len()), now);
    }
    client.handle(Input::Letter(letter), now);
    client.handle(Input::Sent(client.outgoing().len()), now);
    client.handle(Input::Received(b"250 a\r\n250 b\r\n354 c\r\n"), now);
    let mut sent = Vec::new();
    while !client.outgoing().is_empty() {
        assert!(client.outgoing().len() < PIECE_MAX + PIECE_MAX / 4);
        let count = client.outgoing().len().min(10_000);
        sent.extend_from_slice(&client.outgoing()[..count]);
        client.handle(Input::Sent(count), now);
    }
    assert_eq!(String::from_utf8(sent).unwrap(), text.replace(".a", "..a") + ".\r\n");
}

fn client_settings() -> Settings {
    Settings { helo: "us.example".into(), dialect: Dialect::Smtp, tls: true, timeouts: timeouts() }
}

/// What may happen to a client, in any order.
#[derive(Debug, Clone)]
enum Event {
    Bytes(Vec<u8>),
    Written(usize),
    Minutes(u64),
    TlsUp,
    Probe,
}

fn events() -> impl Strategy<Value = Event> {
    let replies = prop::sample::select(vec![
        "220 a\r\n",
        "250-a\r\n250 PIPELINING\r\n",
        "250-a\r\n250-CHUNKING\r\n250 STARTTLS\r\n",
        "250 ok\r\n",
        "250 ok\r\n",
        "250 ok\r\n",
        "354 go\r\n",
        "354 go\r\n",
        "452 4.5.3 many\r\n",
        "550 no\r\n",
        "421 bye\r\n",
        "250-ok\r\n",
    ]);
    prop_oneof![
        10 => replies.prop_map(|reply| Event::Bytes(reply.as_bytes().to_vec())),
        1 => prop::collection::vec(any::<u8>(), 0..20).prop_map(Event::Bytes),
        10 => (0usize..1000).prop_map(Event::Written),
        1 => (0u64..30).prop_map(Event::Minutes),
        2 => Just(Event::TlsUp),
        1 => Just(Event::Probe),
    ]
}

proptest! {
    /// Whatever the peer does: no panic, one fate for each recipient, and nothing unclean leaves.
    #[test]
    fn every_recipient_has_one_fate(
        lmtp in any::<bool>(),
        pieces in any::<bool>(),
        events in prop::collection::vec(events(), 0..120),
    ) {
        let dialect = if lmtp { Dialect::Lmtp } else { Dialect::Smtp };
        let mut now = Instant::now();
        let mut client = Client::new(Settings { dialect, ..client_settings() }, now);
        let body = if pieces { " pieces" } else { "" };
        let draft = draft(&format!("<a@x> <b@y> <c@y> <d@y> text=a\\n.b\\rc\\0{body}"));
        let (mut fates, mut open, mut letters, mut settled) = ([0; 3], false, 0, 0);
        let mut sent = Vec::new();
        let mut events = events.into_iter().chain([Event::Minutes(600)]);
        loop {
            match client.poll() {
                Some(Output::Ready) => {
                    prop_assert!(!open);
                    (fates, open, letters) = ([0; 3], true, letters + 1);
                    let recipients = draft.recipients.iter().collect();
                    let envelope = &draft.envelope;
                    let letter = Letter { envelope, deliver_by_left: None, recipients, body: draft.body.clone() };
                    client.handle(Input::Letter(letter), now);
                }
                Some(Output::NeedBody) => client.handle(Input::Piece { bytes: b"a\n.b", last: letters % 2 == 0 }, now),
                Some(Output::Fate { place, .. }) => fates[place] += 1,
                Some(Output::Settled) => {
                    prop_assert_eq!(fates, [1; 3]);
                    (open, settled) = (false, settled + 1);
                }
                Some(Output::StartTls | Output::Line(_)) => {}
                Some(Output::Over(_)) => {
                    prop_assert_eq!(client.poll(), None);
                    prop_assert!(client.outgoing().is_empty() && client.deadline().is_none());
                }
                None => match events.next() {
                    Some(Event::Bytes(bytes)) => client.handle(Input::Received(&bytes), now),
                    Some(Event::Written(count)) => {
                        let count = count.min(client.outgoing().len());
                        sent.extend_from_slice(&client.outgoing()[..count]);
                        client.handle(Input::Sent(count), now);
                    }
                    Some(Event::Minutes(count)) => {
                        now += Duration::from_secs(60 * count);
                        client.handle(Input::Tick, now);
                    }
                    Some(Event::TlsUp) => client.handle(Input::TlsUp, now),
                    Some(Event::Probe) => client.handle(Input::Probe, now),
                    None => break,
                },
            }
        }
        client.handle(Input::Closed, now);
        while let Some(deed) = client.poll() {
            match deed {
                Output::Fate { place, .. } => fates[place] += 1,
                Output::Settled => settled += 1,
                _ => {}
            }
        }
        prop_assert!(letters == 0 || fates == [1; 3]);
        prop_assert_eq!(letters, settled);
        let whole_lines = String::from_utf8(sent).unwrap().replace("\r\n", "");
        prop_assert!(!whole_lines.trim_end_matches('\r').contains(['\r', '\n', '\0']));
    }
}
