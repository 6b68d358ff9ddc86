//! A session as the server (RFC 5321), without socket, clock or policy.
//!
//! The caller drives it: bytes and answers go in by [`Server::handle`] with the time, [`Server::poll`] is then called
//! until it gives nothing more, each [`Output`] being done before the next is asked for, and at [`Server::deadline`]
//! a [`Input::Time`] is due. A pipelined group (RFC 2920) is worked off in one go and answered by one
//! [`Output::Send`]; what the machine asks may be answered later, input waits meanwhile. It holds at most
//! [`INPUT_MAX`] octets of input and some [`REPLIES_MAX`] of replies, whatever the peer does, and only counts
//! recipients: a message may have any number.
//!
//! It promises: content goes on to [`Output::Accept`] only as a whole, without line faults, inside every limit; a 250
//! for it is sent only after [`Input::Accepted`]; nothing that came before a STARTTLS handshake has any effect after
//! it.

mod content;
mod help;
mod transfer;
mod verbs;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use memchr::memchr;
use tokio::time::Instant;

use self::transfer::{Chunk, Incoming};
use super::extension::{MailParameters, Offer, RcptParameters};
use super::reply;
use crate::mail::address::{Address, ReversePath};
use crate::mail::header::HeaderFacts;
use crate::mail::queue_id::QueueId;
use crate::mail::selection::Selection;
use crate::mail::status::{EnhancedStatus, Reply};

/// Most octets of input that wait to be looked at: what one read takes, and room for pipelined commands while an
/// answer is awaited.
pub const INPUT_MAX: usize = 64 * 1024;
/// Octets of replies after which no command is looked at until they are sent: a peer that does not read costs no more.
pub const REPLIES_MAX: usize = 16 * 1024;
/// Octets of the input buffer kept by a session that waits for a command: most sessions wait, most of the time.
const INPUT_KEPT: usize = 4096;
/// The longest pause for a client that sends commands without sending mail.
const SLOW_MAX: Duration = Duration::from_secs(240);

/// What each command costs on a machine that is too busy (sendmail DelayLA).
const COMMAND_PAUSE: Duration = Duration::from_secs(1);

/// What an administrator chose for all sessions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Our name.
    pub host_name: String,
    /// Octets of content; 0 for no limit.
    pub message_size: u64,
    /// Accepted recipients of one message; 0 for no limit.
    pub recipients: u32,
    /// Octets of a header; 0 for no limit.
    pub headers_length: u64,
    /// `Received:` fields of a message that comes in.
    pub hops: u32,
    /// Octets of a command line with its CRLF.
    pub command_line: usize,
    /// Commands not understood before 421.
    pub bad_commands: u32,
    /// Refused recipients of one message after which each further RCPT waits; 0 for no limit.
    pub bad_recipients: u32,
    /// How long it waits.
    pub bad_recipients_pause: Duration,
    /// Refused recipients of one message from which RCPT ends the session; 0 for no limit.
    pub bad_recipients_max: u32,
    /// Only when fewer than so many in a hundred recipients were good.
    pub good_recipients_percent: u32,
    /// Commands without mail between them (NOOP, HELP, VRFY, EHLO...) before pauses begin; 0 for no limit.
    pub noop_commands: u32,
    /// A whole session.
    pub session_time: Duration,
    /// Waiting for a command (Timeout.command).
    pub command_time: Duration,
    /// Waiting for content (Timeout.datablock).
    pub block_time: Duration,
    /// DSN is offered.
    pub dsn: bool,
    /// ETRN is offered.
    pub etrn: bool,
    /// VERB is offered, and answered; no delivery is ever shown to a client.
    pub verb: bool,
    /// DELIVERBY is offered, for as many seconds at least, 0 for any.
    pub deliver_by: Option<u32>,
    /// VRFY is refused whatever it says (PrivacyOptions novrfy); without it, too, it tells nothing.
    pub novrfy: bool,
    /// EXPN is refused before anything else is looked at (noexpn); without it, too, it is never done.
    pub noexpn: bool,
    /// The text that HELP answers from (HelpFile); none for the built-in one.
    pub help: Option<Arc<str>>,
    /// MAIL wants EHLO or HELO before it.
    pub mail_needs_hello: bool,
    /// VRFY wants it.
    pub vrfy_needs_hello: bool,
    /// EXPN wants it.
    pub expn_needs_hello: bool,
    /// EHLO and HELO may have a name that is none.
    pub bogus_hello: bool,
}

/// Who the client is, before it says a word.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// `mx.example [192.0.2.1]`, as replies name it.
    pub shown: String,
    /// It may send several groups of commands without waiting for our replies, and speak before the greeting.
    pub trusted: bool,
    /// STARTTLS can be done.
    pub offers_tls: bool,
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The client may be greeted, with this text (`host ESMTP ...`). Bytes before it are an early talker's.
    Greet(&'a str),
    /// The client's name became known: `mx.example [192.0.2.1]`.
    Named(String),
    /// The client sent this, at most [`Server::room`] octets.
    Bytes(&'a [u8]),
    /// It will send no more.
    Eof,
    /// Nothing but that time passed.
    Time,
    /// To [`Output::AskMail`] or [`Output::AskRcpt`]: yes, or the reply that refuses.
    Answer(Result<(), Reply>),
    /// [`Output::Stage`] could not be done: the reply to give when the content has come in full.
    StageFailed(Reply),
    /// To [`Output::Accept`]: the message is durable, or the reply that says why not.
    Accepted(Result<QueueId, Reply>),
    /// To [`Output::StartTls`], or before the greeting: TLS is active.
    TlsActive,
    /// How busy the machine is from now on: whether each command waits a second, and whether queue runs are possible.
    Strain {
        /// DelayLA.
        slow: bool,
        /// QueueLA.
        resting: bool,
    },
    /// The daemon stops: a session ends at its next command, after a message under way.
    Shutdown,
}

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Output {
    /// Write it, all of it.
    Send(Vec<u8>),
    /// May this mail begin? With a yes, a transaction begins that ends with `Accept` or `Abandon`.
    AskMail(Box<Mail>),
    /// May it go to this recipient? A yes makes it a recipient of the transaction.
    AskRcpt(Box<Rcpt>),
    /// The content begins; all recipients are known.
    Begin,
    /// The next octets of content: CRLF line ends, no doubled dots, header and body as they came.
    Stage(Vec<u8>),
    /// The content is complete and fit. Last moment to change header, body or recipients; then make it durable.
    Accept(Box<Arrived>),
    /// The transaction ends without a message: for the reason in the reply, if it was refused for what it is.
    Abandon(Option<Reply>),
    /// Take the TLS handshake on the same connection, nothing of which was read yet.
    StartTls,
    /// A queue run was asked for (RFC 1985).
    Etrn(Selection),
    /// Hang up.
    Close(Parting),
}

/// Why a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parting {
    /// QUIT.
    Quit,
    /// The client went without it.
    Lost,
    /// It took too long.
    Timeout,
    /// It broke the rules too often or too badly.
    Abuse,
    /// We stop.
    Shutdown,
}

/// MAIL, parsed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mail {
    /// The path as typed, brackets included.
    pub shown: String,
    /// The reverse-path.
    pub path: ReversePath,
    /// Its parameters.
    pub parameters: MailParameters,
}

/// RCPT, parsed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rcpt {
    /// The path as typed, brackets included.
    pub shown: String,
    /// The forward-path.
    pub address: Address,
    /// Its parameters.
    pub parameters: RcptParameters,
}

/// Content that came in full.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arrived {
    /// Octets staged.
    pub size: u64,
    /// Line ends in it.
    pub lines: u64,
    /// Of those, in the body.
    pub body_lines: u64,
    /// What its header says; `len` counts a blank line that we set.
    pub header: HeaderFacts,
    /// There is an octet above 127 anywhere.
    pub has_8bit: bool,
}

/// How the client introduced itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Its name for itself.
    pub name: String,
    /// By EHLO.
    pub extended: bool,
}

/// A mail transaction before its content.
#[derive(Debug)]
struct Transaction {
    smtputf8: bool,
    accepted: u32,
    refused: u32,
}

#[derive(Debug)]
enum State {
    /// Not greeted yet.
    Greeting,
    /// Between transactions.
    Idle,
    /// MAIL was taken, the answer is awaited: the path as typed, and SMTPUTF8.
    AskingMail { shown: String, smtputf8: bool },
    /// MAIL was accepted.
    Open(Transaction),
    /// RCPT was taken, the answer is awaited: the path as typed.
    AskingRcpt { transaction: Transaction, shown: String },
    /// After 354.
    Data(Box<Incoming>),
    /// Inside a BDAT chunk.
    Chunk(Box<Chunk>),
    /// After a BDAT chunk that was not the last.
    Chunks(Box<Chunk>),
    /// Inside a BDAT chunk that comes out of order: its octets are thrown away, then all is as before.
    Swallow { remaining: u64, back: Box<State>, reply: Reply },
    /// The message is being made durable.
    Committing,
    /// The handshake is under way.
    StartingTls,
    /// It spoke out of turn: no command but QUIT is done.
    Refused,
    /// Over.
    Closed,
}

/// One session.
#[derive(Debug)]
pub struct Server {
    settings: Arc<Settings>,
    peer: Peer,
    state: State,
    hello: Option<Hello>,
    tls: bool,
    /// No command was seen yet, on this connection or since its handshake.
    first_command: bool,
    stopping: bool,
    /// Each command waits.
    slow: bool,
    /// No queue run is possible.
    resting: bool,
    bad_commands: u32,
    /// Commands since the last message that served none.
    idle_commands: u32,
    input: Vec<u8>,
    /// Octets of `input` already worked off.
    worked: usize,
    replies: Vec<u8>,
    outputs: VecDeque<Output>,
    now: Instant,
    /// The last step forward: waiting is measured from here.
    since: Instant,
    /// No command is looked at before this.
    not_before: Instant,
    session_end: Instant,
}

impl Server {
    /// A session that begins now. The first input is [`Input::Greet`], or bytes of a client that did not wait for it.
    pub fn new(settings: Arc<Settings>, peer: Peer, now: Instant) -> Server {
        let session_end = now + settings.session_time;
        Server {
            settings,
            peer,
            state: State::Greeting,
            hello: None,
            tls: false,
            first_command: true,
            stopping: false,
            slow: false,
            resting: false,
            bad_commands: 0,
            idle_commands: 0,
            input: Vec::new(),
            worked: 0,
            replies: Vec::new(),
            outputs: VecDeque::new(),
            now,
            since: now,
            not_before: now,
            session_end,
        }
    }

    /// What the client called itself last; none before EHLO or HELO.
    pub fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    /// The protocol as Received fields name it (RFC 3848, RFC 6531 4.3): `SMTP`, `ESMTP`, `ESMTPS`, `UTF8SMTP`,
    /// `UTF8SMTPS`.
    pub fn protocol(&self, smtputf8: bool) -> &'static str {
        let extended = self.hello.as_ref().is_some_and(|hello| hello.extended);
        match (smtputf8, extended, self.tls) {
            (true, _, true) => "UTF8SMTPS",
            (true, _, false) => "UTF8SMTP",
            (false, true, true) => "ESMTPS",
            (false, true, false) => "ESMTP",
            (false, false, _) => "SMTP",
        }
    }

    /// Whether input is of use now: no question is open, and there is room.
    pub fn wants_input(&self) -> bool {
        self.is_reading() && self.room() > 0
    }

    /// How many octets [`Input::Bytes`] may have.
    pub fn room(&self) -> usize {
        INPUT_MAX - (self.input.len() - self.worked)
    }

    /// When [`Input::Time`] is due, if nothing else happens before.
    pub fn deadline(&self) -> Instant {
        let paused = self.not_before > self.now && !self.pending().is_empty();
        let wake = if paused { self.not_before } else { self.patience_ends() };
        wake.min(self.session_end)
    }

    /// How long the client may let us wait.
    fn patience_ends(&self) -> Instant {
        match self.state {
            State::Data(_) | State::Chunk(_) | State::Swallow { .. } => {
                self.since + self.settings.block_time
            }
            State::Greeting | State::Idle | State::Open(_) | State::Chunks(_) | State::Refused => {
                self.since.max(self.not_before) + self.settings.command_time
            }
            State::AskingMail { .. }
            | State::AskingRcpt { .. }
            | State::Committing
            | State::StartingTls
            | State::Closed => self.session_end,
        }
    }

    /// Takes in what happened.
    ///
    /// # Panics
    /// When the caller breaks the rules of [`Input`]: an answer that nobody asked for, more bytes than there is room.
    pub fn handle(&mut self, input: Input<'_>, now: Instant) {
        self.now = now;
        match input {
            Input::Greet(text) => {
                if let State::Greeting = self.state {
                    self.state = State::Idle;
                    reply::write_line(&mut self.replies, 220, None, true, format_args!("{text}"));
                }
            }
            Input::Named(shown) => self.peer.shown = shown,
            Input::Bytes(bytes) => self.take_bytes(bytes),
            Input::Eof => self.close(Parting::Lost),
            Input::Time => self.time_passed(),
            Input::Answer(answer) => self.answered(answer),
            Input::StageFailed(reply) => match &mut self.state {
                State::Data(incoming) => incoming.content.refuse(reply),
                State::Chunk(chunk) | State::Chunks(chunk) => chunk.content.refuse(reply),
                _ => {}
            },
            Input::Accepted(result) => self.accepted(result),
            Input::TlsActive => {
                let asked = matches!(self.state, State::StartingTls);
                assert!(
                    asked || matches!(self.state, State::Greeting),
                    "TLS was started when asked, or at the start"
                );
                self.tls = true;
                self.first_command = true;
                if asked {
                    self.state = State::Idle;
                }
                self.since = now;
            }
            Input::Strain { slow, resting } => (self.slow, self.resting) = (slow, resting),
            Input::Shutdown => self.stopping = true,
        }
    }

    /// What is to be done next; none when only input, an answer or time can change anything.
    pub fn poll(&mut self) -> Option<Output> {
        loop {
            // Replies go before what ends plain text or the connection.
            match self.outputs.front() {
                Some(Output::StartTls | Output::Close(_)) if !self.replies.is_empty() => break,
                Some(_) => return self.outputs.pop_front(),
                None => {}
            }
            if (self.replies.len() >= REPLIES_MAX || !self.step()) && self.outputs.is_empty() {
                break;
            }
        }
        self.tidy();
        if self.replies.is_empty() {
            return None;
        }
        Some(Output::Send(std::mem::take(&mut self.replies)))
    }

    /// What was said and not sent yet: for a greeting that goes out before anything that came early is looked at.
    pub fn take_replies(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.replies)
    }

    /// Works off one command or one piece of content; false when there is none or it must wait.
    fn step(&mut self) -> bool {
        match self.state {
            State::Data(_) => self.data_step(),
            State::Chunk(_) => self.chunk_step(),
            State::Swallow { .. } => self.swallow_step(),
            State::Idle | State::Open(_) | State::Chunks(_) | State::Refused => self.command_step(),
            State::Greeting
            | State::AskingMail { .. }
            | State::AskingRcpt { .. }
            | State::Committing
            | State::StartingTls
            | State::Closed => false,
        }
    }

    fn is_reading(&self) -> bool {
        match self.state {
            State::Greeting
            | State::Idle
            | State::Open(_)
            | State::Data(_)
            | State::Chunk(_)
            | State::Chunks(_)
            | State::Swallow { .. }
            | State::Refused => true,
            State::AskingMail { .. }
            | State::AskingRcpt { .. }
            | State::Committing
            | State::StartingTls
            | State::Closed => false,
        }
    }

    fn pending(&self) -> &[u8] {
        self.input.get(self.worked..).unwrap_or_default()
    }

    fn take_bytes(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room(), "the caller reads no more than there is room for");
        match self.state {
            State::Greeting if !self.peer.trusted => {
                self.state = State::Refused;
                self.say_host(554, None, format_args!("ESMTP not accepting messages"));
            }
            State::Data(_) | State::Chunk(_) | State::Swallow { .. } => self.since = self.now,
            State::Closed => return,
            _ => {}
        }
        if self.worked > 0 {
            self.input.drain(..self.worked);
            self.worked = 0;
        }
        self.input.extend_from_slice(bytes);
    }

    /// Gives back what a waiting session does not need.
    fn tidy(&mut self) {
        if self.worked == self.input.len() {
            self.input.clear();
            self.worked = 0;
            if self.input.capacity() > INPUT_KEPT {
                self.input = Vec::new();
            }
        }
    }

    /// Looks at the next command line; false when there is none, or it is not its time.
    fn command_step(&mut self) -> bool {
        if self.stopping {
            self.hang_up(421, (4, 3, 2), "closing transmission channel", Parting::Shutdown);
            return false;
        }
        if self.now < self.not_before {
            return false;
        }
        let limit = self.settings.command_line.min(INPUT_MAX);
        let pending = self.pending();
        let window = &pending[..pending.len().min(limit)];
        let Some(end) = memchr(b'\n', window) else {
            if pending.len() >= limit {
                let shown = format!("Command too long, possible attack {}", self.peer.shown);
                self.hang_up(421, (4, 7, 0), &shown, Parting::Abuse);
            }
            return false;
        };
        let raw = &window[..end];
        let line = match raw.strip_suffix(b"\r") {
            Some(line) if !line.iter().any(|b| matches!(b, b'\r' | 0)) => str::from_utf8(line).ok(),
            _ => None,
        };
        // The line leaves the buffer's borrow here: commands change the session.
        let line = line.map(str::to_owned);
        self.worked += end + 1;
        self.since = self.now;
        if self.slow {
            self.not_before = self.now + COMMAND_PAUSE;
        }
        match line {
            Some(line) => self.command(&line),
            None => {
                self.bad(500, (5, 5, 2), format_args!("Command is not one line of text in CRLF"));
            }
        }
        true
    }

    fn answered(&mut self, answer: Result<(), Reply>) {
        self.since = self.now;
        match std::mem::replace(&mut self.state, State::Closed) {
            State::AskingMail { shown, smtputf8 } => match answer {
                Ok(()) => {
                    self.say(250, (2, 1, 0), format_args!("{shown}... Sender ok"));
                    self.state = State::Open(Transaction { smtputf8, accepted: 0, refused: 0 });
                }
                Err(reply) => {
                    self.refuse(&reply);
                    self.state = State::Idle;
                }
            },
            State::AskingRcpt { mut transaction, shown } => {
                match answer {
                    Ok(()) => {
                        transaction.accepted += 1;
                        self.say(250, (2, 1, 5), format_args!("{shown}... Recipient ok"));
                    }
                    Err(reply) => self.refused_rcpt(&mut transaction, &reply),
                }
                self.state = State::Open(transaction);
            }
            State::Closed => {}
            other => panic!("an answer came that was not asked for, in {other:?}"),
        }
    }

    fn accepted(&mut self, result: Result<QueueId, Reply>) {
        assert!(matches!(self.state, State::Committing | State::Closed), "a message was to accept");
        if let State::Closed = self.state {
            return;
        }
        self.since = self.now;
        self.state = State::Idle;
        self.idle_commands = 0;
        match result {
            Ok(id) => {
                self.say(250, (2, 0, 0), format_args!("{id} Message accepted for delivery"));
            }
            Err(reply) => self.refuse(&reply),
        }
    }

    fn time_passed(&mut self) {
        if !self.is_reading() {
            return;
        }
        if self.now >= self.session_end {
            self.hang_up(421, (4, 4, 2), "Session lasts too long", Parting::Timeout);
        } else if self.now >= self.patience_ends() {
            let text = format!("Lost input channel from {}", self.peer.shown);
            self.hang_up(421, (4, 4, 1), &text, Parting::Timeout);
        }
    }

    /// Whether a transaction is open that the caller must be told the end of.
    fn in_transaction(&self) -> bool {
        match &self.state {
            State::Open(_)
            | State::AskingRcpt { .. }
            | State::Data(_)
            | State::Chunk(_)
            | State::Chunks(_) => true,
            State::Swallow { back, .. } => matches!(**back, State::Open(_) | State::Chunks(_)),
            State::Greeting
            | State::Idle
            | State::AskingMail { .. }
            | State::Committing
            | State::StartingTls
            | State::Refused
            | State::Closed => false,
        }
    }

    /// Ends the transaction, if there is one, without a message.
    fn abandon(&mut self) {
        if self.in_transaction() {
            self.outputs.push_back(Output::Abandon(None));
        }
        self.state = State::Idle;
    }

    fn close(&mut self, why: Parting) {
        if let State::Closed = self.state {
            return;
        }
        self.abandon();
        self.state = State::Closed;
        self.input = Vec::new();
        self.worked = 0;
        self.outputs.push_back(Output::Close(why));
    }

    /// `code status host text`, and the end.
    fn hang_up(&mut self, code: u16, status: (u8, u16, u16), text: &str, why: Parting) {
        self.say_host(code, Some(status), format_args!("{text}"));
        self.close(why);
    }

    fn say(
        &mut self,
        code: u16,
        (class, subject, detail): (u8, u16, u16),
        text: fmt::Arguments<'_>,
    ) {
        let status = EnhancedStatus::new(class, subject, detail);
        reply::write_line(&mut self.replies, code, Some(status), true, text);
    }

    /// A reply whose text begins with our name.
    fn say_host(&mut self, code: u16, status: Option<(u8, u16, u16)>, text: fmt::Arguments<'_>) {
        let status =
            status.map(|(class, subject, detail)| EnhancedStatus::new(class, subject, detail));
        let text = format_args!("{} {text}", self.settings.host_name);
        reply::write_line(&mut self.replies, code, status, true, text);
    }

    fn refuse(&mut self, reply: &Reply) {
        reply::write(reply, &mut self.replies);
    }

    /// A command that was not understood: so many, and the session ends.
    fn bad(&mut self, code: u16, status: (u8, u16, u16), text: fmt::Arguments<'_>) {
        self.bad_commands += 1;
        if self.bad_commands > self.settings.bad_commands {
            let text = "Too many bad commands; closing connection";
            self.hang_up(421, (4, 7, 0), text, Parting::Abuse);
        } else {
            self.say(code, status, text);
        }
    }

    /// A command that serves no mail: more and more slowly, then no more.
    fn idle_command(&mut self) {
        let limit = self.settings.noop_commands;
        self.idle_commands = self.idle_commands.saturating_add(1);
        if limit == 0 || self.idle_commands <= limit {
            return;
        }
        let over = self.idle_commands - limit;
        let pause = Duration::from_secs(1).saturating_mul(1 << (over - 1).min(8)).min(SLOW_MAX);
        self.not_before = self.not_before.max(self.now + pause);
    }
}
