//! The server against clients that send anything: it never panics, and holds little whatever they do.

use std::sync::Arc;
use std::time::Duration;

use kvmta::mail::status::{EnhancedStatus, Reply};
use kvmta::smtp::server::{INPUT_MAX, Input, Output, Peer, REPLIES_MAX, Server, Settings};
use proptest::prelude::*;
use tokio::time::Instant;

/// What a client may do next.
#[derive(Debug, Clone)]
enum Deed {
    Send(Vec<u8>),
    Wait(u64),
    Shutdown,
    Eof,
}

fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&'static [u8]> = vec![
        b"EHLO x\r\n",
        b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n",
        b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nA: b\r\n",
        b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 2500 LAST\r\n",
        b"HELO y\r\n",
        b"MAIL FROM:<a@b>",
        b" SIZE=5 BODY=8BITMIME SMTPUTF8",
        b"RCPT TO:<c@d>",
        b" NOTIFY=DELAY ORCPT=rfc822;x",
        b"DATA\r\n",
        b"BDAT 7\r\n",
        b"BDAT 3 LAST\r\n",
        b"BDAT 0 LAST\r\n",
        b"BDAT 99999999999999999\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"HELP\r\n",
        b"ETRN x\r\n",
        b"STARTTLS\r\n",
        b"QUIT\r\n",
        b"GET / HTTP/1.0\r\n",
        b"Subject: x\r\n",
        b"\r\n",
        b"\r\n.\r\n",
        b".\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"<",
    ];
    prop_oneof![
        8 => prop::sample::select(words).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..60),
        1 => (any::<u8>(), 0..5000usize).prop_map(|(byte, times)| vec![byte; times]),
    ]
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        40 => prop::collection::vec(fragment(), 1..12).prop_map(|parts| Deed::Send(parts.concat())),
        4 => (0..400u64).prop_map(Deed::Wait),
        1 => Just(Deed::Shutdown),
        1 => Just(Deed::Eof),
    ]
}

fn settings() -> Settings {
    Settings {
        host_name: "h".into(),
        message_size: 2000,
        recipients: 3,
        headers_length: 500,
        hops: 5,
        command_line: 512,
        bad_commands: 50,
        bad_recipients: 2,
        bad_recipients_pause: Duration::from_secs(1),
        bad_recipients_max: 6,
        good_recipients_percent: 100,
        noop_commands: 30,
        session_time: Duration::from_secs(3600),
        command_time: Duration::from_secs(300),
        block_time: Duration::from_secs(600),
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
        bogus_hello: true,
    }
}

/// Policy and store that say yes and no by the bits of `dice`.
struct Caller {
    server: Server,
    dice: u64,
    open: bool,
    begun: bool,
    staged: usize,
    closed: bool,
}

impl Caller {
    fn coin(&mut self) -> Result<(), Reply> {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        match self.dice >> 62 {
            0 => Err(Reply::new(451, Some(EnhancedStatus::new(4, 3, 0)), "no")),
            _ => Ok(()),
        }
    }

    fn drain(&mut self, now: Instant) {
        while let Some(output) = self.server.poll() {
            assert!(!self.closed, "nothing comes after Close: {output:?}");
            match output {
                Output::Send(bytes) => {
                    assert!(bytes.len() <= REPLIES_MAX + 8192 && bytes.ends_with(b"\r\n"));
                    for line in bytes.split_inclusive(|b| *b == b'\n') {
                        assert!(line.len() <= 512 && line.ends_with(b"\r\n"));
                        assert!(line[..3].iter().all(u8::is_ascii_digit));
                    }
                }
                Output::AskMail(_) => {
                    assert!(!self.open);
                    let answer = self.coin();
                    (self.open, self.begun, self.staged) = (answer.is_ok(), false, 0);
                    self.server.handle(Input::Answer(answer), now);
                }
                Output::AskRcpt(_) => {
                    assert!(self.open && !self.begun);
                    let answer = self.coin();
                    self.server.handle(Input::Answer(answer), now);
                }
                Output::Begin => {
                    assert!(self.open && !self.begun);
                    self.begun = true;
                }
                Output::Stage(bytes) => {
                    assert!(self.begun && !bytes.is_empty());
                    self.staged += bytes.len();
                    assert!(self.staged <= 2002, "no more is staged than a message may have");
                    if let Err(reply) = self.coin() {
                        self.open = false;
                        self.begun = false;
                        self.server.handle(Input::StageFailed(reply), now);
                        self.drain_rest_of_failed(now);
                    }
                }
                Output::Accept(arrived) => {
                    assert!(self.begun && arrived.size == self.staged as u64);
                    self.open = false;
                    let id = "6AM6LRrH021770".parse().unwrap();
                    let answer = self.coin().map(|()| id);
                    self.server.handle(Input::Accepted(answer), now);
                }
                Output::Abandon(_) => self.open = false,
                Output::StartTls => {
                    assert!(!self.open);
                    self.server.handle(Input::TlsActive, now);
                }
                Output::Etrn(_) => {}
                Output::Close(_) => {
                    assert!(!self.open, "a transaction is ended before the session");
                    self.closed = true;
                }
            }
        }
    }

    /// What was under way when staging failed may still come; then the message must be answered with the failure.
    fn drain_rest_of_failed(&mut self, now: Instant) {
        while let Some(output) = self.server.poll() {
            match output {
                Output::Stage(_) | Output::Send(_) => {}
                Output::Accept(_) => {
                    let reply = Reply::new(451, None, "no");
                    return self.server.handle(Input::Accepted(Err(reply)), now);
                }
                Output::Abandon(_) => return,
                Output::Close(_) => return self.closed = true,
                Output::AskMail(_) => {
                    self.staged = 0;
                    let answer = Err(Reply::new(451, None, "no"));
                    return self.server.handle(Input::Answer(answer), now);
                }
                other => panic!("after a failure: {other:?}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn takes_anything(
        deeds in prop::collection::vec(deed(), 1..30),
        pieces in prop::collection::vec(1..300usize, 1..5),
        dice in any::<u64>(),
        trusted in any::<bool>(),
    ) {
        let mut now = Instant::now();
        let peer = Peer { shown: "x [192.0.2.1]".into(), trusted, offers_tls: true };
        let server = Server::new(Arc::new(settings()), peer, now);
        let mut caller = Caller { server, dice, open: false, begun: false, staged: 0, closed: false };
        caller.server.handle(Input::Greet("h ESMTP"), now);
        caller.drain(now);
        let mut pieces = pieces.iter().cycle();
        for deed in deeds {
            match deed {
                Deed::Send(bytes) => {
                    let mut rest = bytes.as_slice();
                    while !rest.is_empty() && caller.server.wants_input() {
                        let size = *pieces.next().unwrap();
                        let (piece, after) = rest.split_at(size.min(rest.len()).min(caller.server.room()));
                        caller.server.handle(Input::Bytes(piece), now);
                        caller.drain(now);
                        rest = after;
                    }
                }
                Deed::Wait(seconds) => {
                    now += Duration::from_secs(seconds);
                    caller.server.handle(Input::Time, now);
                    caller.drain(now);
                }
                Deed::Shutdown => {
                    caller.server.handle(Input::Shutdown, now);
                    caller.drain(now);
                }
                Deed::Eof => {
                    caller.server.handle(Input::Eof, now);
                    caller.drain(now);
                    prop_assert!(caller.closed);
                }
            }
            prop_assert!(caller.server.room() <= INPUT_MAX);
            prop_assert!(caller.closed || caller.server.deadline() > now, "time always goes on");
        }
    }
}
