//! A session as the client: the sending half of SMTP (RFC 5321, 2920, 1870, 6152, 6531, 3461, 3030, 3207) and LMTP (RFC 2033).
//!
//! [`Client`] is one connection with any number of transactions after each other. It knows no socket and no clock: what
//! happened comes in by [`Client::handle`], deeds leave by [`Client::poll`], the bytes to write are [`Client::outgoing`]
//! (a road of their own, so that a small message is written from one buffer in one call), and [`Client::deadline`] says
//! when to come back with [`Input::Tick`]. Deadlines are for a whole step: a peer that drips cannot stretch one.
//!
//! It promises:
//! - Each recipient of a [`Letter`] gets exactly one [`Fate`], whatever the peer does, and then [`Output::Settled`] follows.
//! - What leaves has no bare CR, bare LF or NUL, and exactly one end of message; none at all when our own side fails
//!   to supply the body ([`Input::NoBody`]).
//! - No reply is taken for the answer to another command: bytes that nothing of ours asked for end the connection, also
//!   between transactions, and before TLS (RFC 3207 6).
//! - Memory is bounded: replies by [`crate::smtp::reply`], the body by [`PIECE_MAX`].
//!
//! Groups (RFC 2920): with PIPELINING, MAIL, all RCPT and DATA are one write. BDAT carries a message that is in memory
//! and needs no change; it waits for the RCPT replies, so that no body ever goes to a server that agreed to nobody.
//! LMTP always uses DATA, because servers differ in what they reply to a chunk. What the letter
//! has goes out as it is; making 7 bits of it for a server without 8BITMIME is `deliver`'s.
//!
//! What the facts mean for message, host and report is not decided here but in `deliver`.

mod ending;
mod offer;
mod sending;
mod transaction;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::mail::status::Reply;
use crate::smtp::codec::DataEncoder;
use crate::smtp::reply::ReplyParser;

pub use ending::{Fate, Fault, Step, Unfit};
pub use offer::{Offer, SizeOffer};
use transaction::Transaction;
pub use transaction::{Body, Letter};

/// Octets of body laid out for one write: large enough for full segments, small enough for hundreds of connections.
pub const PIECE_MAX: usize = 64 * 1024;
/// What the outgoing buffer keeps of its capacity between transactions; idle connections are many.
const IDLE_CAPACITY: usize = 8 * 1024;

/// SMTP or LMTP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// EHLO, one reply to the body.
    Smtp,
    /// LHLO, one reply to the body for each recipient taken (RFC 2033 4.2).
    Lmtp,
}

/// What one connection is to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our name, for EHLO.
    pub helo: String,
    /// SMTP or LMTP.
    pub dialect: Dialect,
    /// Use STARTTLS when it is offered.
    pub tls: bool,
    /// The longest each step may take.
    pub timeouts: StepTimeouts,
}

/// The longest each step may take, from the command to the end of its reply.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // named as the step, or as sendmail's Timeout.*
pub struct StepTimeouts {
    pub greeting: Duration,
    pub hello: Duration,
    pub starttls: Duration,
    pub mail: Duration,
    /// One RCPT, or all of a group, which were sent at once.
    pub rcpt: Duration,
    pub data_init: Duration,
    /// Writing [`PIECE_MAX`] octets.
    pub data_block: Duration,
    pub data_final: Duration,
    pub reset: Duration,
    pub quit: Duration,
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The peer sent these bytes.
    Received(&'a [u8]),
    /// This many of [`Client::outgoing`] were written.
    Sent(usize),
    /// The peer closed its side.
    Closed,
    /// The connection broke; the system's words.
    Broken(String),
    /// The deadline may have passed.
    Tick,
    /// The handshake asked for by [`Output::StartTls`] is done.
    TlsUp,
    /// It failed; the library's words.
    TlsFailed(String),
    /// The message to send, after [`Output::Ready`].
    Letter(Letter<'a>),
    /// The piece asked for by [`Output::NeedBody`]; `last` when nothing follows.
    Piece {
        /// At most about [`PIECE_MAX`] octets.
        bytes: &'a [u8],
        /// Nothing follows.
        last: bool,
    },
    /// That piece cannot be had: the connection ends without ending the message.
    NoBody,
    /// Ask the peer for a sign of life (RSET) before the next letter.
    Probe,
    /// No more letters: say QUIT.
    Quit,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// The next letter may be given.
    Ready,
    /// Do the TLS handshake on the connection.
    StartTls,
    /// Give the next piece of the body.
    NeedBody,
    /// What became of the recipient at this place of the letter.
    Fate {
        /// Its place in [`Letter::recipients`].
        place: usize,
        /// What became of it.
        fate: Fate,
    },
    /// Every recipient of the letter has its fate.
    Settled,
    /// A line for the transcript of `-v`: `>>> DATA`, `250 2.1.0 Ok`. Only when [`Client::show`] asked for it.
    Line(String),
    /// The connection is over: drop it. Nothing follows.
    Over(Fault),
}

/// Which reply of a transaction's commands comes next.
#[derive(Clone, Copy, Debug)]
enum Awaiting {
    Mail,
    /// RCPT of the recipient at this place.
    Rcpt(usize),
    Data,
}

#[derive(Debug)]
enum State {
    Greeting,
    /// EHLO or LHLO was sent; or HELO, which has no second chance.
    Hello {
        extended: bool,
    },
    /// STARTTLS was sent.
    StartTls,
    /// The driver does the handshake.
    Handshake,
    Idle,
    Envelope(Transaction, Awaiting),
    /// `done` octets of a whole body are laid out.
    Body {
        transaction: Transaction,
        encoder: DataEncoder,
        done: usize,
    },
    /// The body's end is laid out. The text names the command for reports.
    Final(Transaction, String),
    /// A message for nobody was ended after an unwanted 354.
    LoneDot,
    Reset,
    Quit,
    Dead,
}

/// Where a reply leads.
enum Next {
    /// To this state.
    In(State),
    /// To the end of the connection, out of this state.
    Over(State, Fault),
}

/// One connection as the client.
#[derive(Debug)]
pub struct Client {
    settings: Settings,
    state: State,
    offer: Offer,
    secure: bool,
    parser: ReplyParser,
    /// Laid out to be written; the first `sent` octets are.
    out: Vec<u8>,
    sent: usize,
    deeds: VecDeque<Output>,
    deadline: Option<Instant>,
    transcript: bool,
}

impl Client {
    /// A connection that stands and has said nothing yet.
    pub fn new(mut settings: Settings, now: Instant) -> Client {
        // Whatever was configured, a name is one word of one line.
        settings.helo.retain(|c| c.is_ascii_graphic());
        let deadline = Some(now + settings.timeouts.greeting);
        Client {
            settings,
            state: State::Greeting,
            offer: Offer::default(),
            secure: false,
            parser: ReplyParser::new(),
            out: Vec::new(),
            sent: 0,
            deeds: VecDeque::new(),
            deadline,
            transcript: false,
        }
    }

    /// Whether to give [`Output::Line`] from now on.
    pub fn show(&mut self, transcript: bool) {
        self.transcript = transcript;
    }

    /// What is to be done next; none when there is nothing but waiting and writing.
    pub fn poll(&mut self) -> Option<Output> {
        self.deeds.pop_front()
    }

    /// Whether [`Client::poll`] has something.
    pub fn has_output(&self) -> bool {
        !self.deeds.is_empty()
    }

    /// The bytes to write. Report what was written with [`Input::Sent`] before anything read after it.
    pub fn outgoing(&self) -> &[u8] {
        self.out.get(self.sent..).unwrap_or_default()
    }

    /// When to give [`Input::Tick`]; none when nothing is awaited.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// What is being waited for; none when the connection is over.
    pub fn step(&self) -> Option<Step> {
        step_of(&self.state)
    }

    /// What the server offered in its last greeting.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// Whether the connection is encrypted.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Whether a letter can be given now.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Whether it is worth keeping: between transactions, or getting there.
    pub fn is_reusable(&self) -> bool {
        matches!(self.state, State::Idle | State::Reset | State::LoneDot)
    }

    /// Takes what happened at `now`.
    pub fn handle(&mut self, input: Input<'_>, now: Instant) {
        match input {
            Input::Received(bytes) => self.received(bytes, now),
            Input::Sent(count) => self.wrote(count, now),
            Input::Closed => self.end_here(Fault::Closed),
            Input::Broken(words) => self.end_here(|step| Fault::Broken(step, words)),
            Input::Tick => {
                if self.deadline.is_some_and(|deadline| deadline <= now) {
                    self.end_here(Fault::TimedOut);
                }
            }
            Input::TlsUp => {
                if let State::Handshake = self.state {
                    // RFC 3207 4.2: what was learnt in clear is forgotten.
                    self.secure = true;
                    self.offer = Offer::default();
                    self.say_hello(true, now);
                }
            }
            Input::TlsFailed(words) => self.end(Fault::Tls(words)),
            Input::Letter(letter) => self.begin(letter, now),
            Input::Piece { bytes, last } => self.piece(bytes, last, now),
            Input::NoBody => self.end(Fault::NoBody),
            Input::Probe => {
                if let State::Idle = self.state {
                    self.state = self.reset(now);
                }
            }
            Input::Quit => self.quit(now),
        }
    }

    fn received(&mut self, mut bytes: &[u8], now: Instant) {
        while !bytes.is_empty() && !matches!(self.state, State::Dead) {
            let reply = match self.parser.feed(bytes) {
                Ok((taken, reply)) => {
                    bytes = bytes.get(taken..).unwrap_or_default();
                    reply
                }
                Err(error) => return self.end_here(|step| Fault::Garbled(step, error.to_string())),
            };
            let Some(reply) = reply else { break };
            self.show_reply(&reply);
            let laid_out = self.out.len();
            let state = std::mem::replace(&mut self.state, State::Dead);
            self.state = match self.answered(state, reply, now) {
                Next::In(state) => state,
                Next::Over(state, fault) => {
                    self.state = state;
                    return self.end(fault);
                }
            };
            // Bytes already here cannot answer what is only now laid out, nor belong where no reply is due.
            let unread = !bytes.is_empty() || !self.parser.is_idle();
            let unasked = self.out.len() > laid_out || expects_nothing(&self.state);
            if unread && unasked && !matches!(self.state, State::Dead) {
                return match self.state {
                    State::Handshake => self.end(Fault::Injected),
                    State::Idle => self.stray(bytes),
                    _ => self.end_here(Fault::Unsolicited),
                };
            }
            self.announce();
        }
        if matches!(self.state, State::Idle) && !self.parser.is_idle() {
            self.end(Fault::Unsolicited(Step::Idle));
        }
    }

    /// Bytes after the last reply of a transaction: the end of the connection, at best with its reason in words.
    fn stray(&mut self, bytes: &[u8]) {
        let fault = match self.parser.feed(bytes) {
            Ok((_, Some(reply))) if reply.code == 421 => {
                self.show_reply(&reply);
                Fault::Leaving(Step::Idle, reply)
            }
            _ => Fault::Unsolicited(Step::Idle),
        };
        self.end(fault);
    }

    /// Says so when a letter may come, or when the driver is to encrypt.
    fn announce(&mut self) {
        match self.state {
            State::Idle => {
                self.deadline = None;
                self.out.shrink_to(IDLE_CAPACITY);
                self.deeds.push_back(Output::Ready);
            }
            State::Handshake => self.deeds.push_back(Output::StartTls),
            _ => {}
        }
    }

    /// One reply, in its state: the next state, or why the connection is over.
    fn answered(&mut self, state: State, reply: Reply, now: Instant) -> Next {
        match state {
            State::Greeting => match reply.code {
                200..300 => Next::In(self.hello(true, now)),
                300..400 => Next::Over(state, unexpected(Step::Greeting, &reply)),
                _ => Next::Over(state, refused(Step::Greeting, reply)),
            },
            State::Hello { extended } => match reply.code {
                200..300 => Next::In(self.greeted(extended, &reply, now)),
                500..600 if extended && self.settings.dialect == Dialect::Smtp => {
                    Next::In(self.hello(false, now))
                }
                300..400 => Next::Over(state, unexpected(Step::Hello, &reply)),
                _ => Next::Over(state, refused(Step::Hello, reply)),
            },
            State::StartTls => match reply.code {
                200..300 => Next::In(State::Handshake),
                421 => Next::Over(state, Fault::Leaving(Step::StartTls, reply)),
                300..400 => Next::Over(state, unexpected(Step::StartTls, &reply)),
                // Opportunistic: a server that offers and refuses gets the mail in clear, as one that never offered.
                _ => Next::In(State::Idle),
            },
            State::Idle if reply.code == 421 => {
                Next::Over(state, Fault::Leaving(Step::Idle, reply))
            }
            State::Idle => Next::Over(state, Fault::Unsolicited(Step::Idle)),
            // No reply of SMTP can come before the end of the handshake.
            State::Handshake => Next::Over(state, Fault::Injected),
            State::Envelope(transaction, awaiting) => {
                self.envelope_answered(transaction, awaiting, reply, now)
            }
            State::Body { mut transaction, encoder, done } => {
                let fault = self.answered_early(&mut transaction, "DATA", reply);
                Next::Over(State::Body { transaction, encoder, done }, fault)
            }
            State::Final(transaction, command) => {
                self.final_answered(transaction, command, reply, now)
            }
            State::LoneDot if reply.code == 421 => {
                Next::Over(state, Fault::Leaving(Step::Reset, reply))
            }
            State::LoneDot => Next::In(State::Idle),
            State::Reset => match reply.code {
                200..300 => Next::In(State::Idle),
                _ => Next::Over(state, refused(Step::Reset, reply)),
            },
            State::Quit => Next::Over(state, Fault::Dismissed),
            State::Dead => Next::In(State::Dead),
        }
    }

    fn greeted(&mut self, extended: bool, reply: &Reply, now: Instant) -> State {
        self.offer = if extended { Offer::parse(reply) } else { Offer::default() };
        if self.offer.starttls && self.settings.tls && !self.secure {
            self.command("STARTTLS");
            self.deadline = Some(now + self.settings.timeouts.starttls);
            return State::StartTls;
        }
        State::Idle
    }

    fn say_hello(&mut self, extended: bool, now: Instant) {
        self.state = self.hello(extended, now);
    }

    fn hello(&mut self, extended: bool, now: Instant) -> State {
        let verb = match (self.settings.dialect, extended) {
            (Dialect::Lmtp, _) => "LHLO ",
            (Dialect::Smtp, true) => "EHLO ",
            (Dialect::Smtp, false) => "HELO ",
        };
        let line = format!("{verb}{}", self.settings.helo);
        self.command(&line);
        self.deadline = Some(now + self.settings.timeouts.hello);
        State::Hello { extended }
    }

    fn reset(&mut self, now: Instant) -> State {
        self.command("RSET");
        self.deadline = Some(now + self.settings.timeouts.reset);
        State::Reset
    }

    fn quit(&mut self, now: Instant) {
        if self.is_reusable() {
            self.command("QUIT");
            self.deadline = Some(now + self.settings.timeouts.quit);
            self.state = State::Quit;
        } else {
            self.end(Fault::Dismissed);
        }
    }

    /// Ends the connection with a fault that names the present step.
    fn end_here(&mut self, fault: impl FnOnce(Step) -> Fault) {
        if let Some(step) = step_of(&self.state) {
            self.end(fault(step));
        }
    }

    /// Ends the connection; whoever has no fate gets one.
    fn end(&mut self, fault: Fault) {
        let unwritten = !self.outgoing().is_empty();
        match std::mem::replace(&mut self.state, State::Dead) {
            State::Dead => return,
            State::Envelope(mut transaction, _) | State::Body { mut transaction, .. } => {
                transaction.settle_all(&Fate::Untold, &mut self.deeds);
                self.deeds.push_back(Output::Settled);
            }
            State::Final(mut transaction, _) => {
                // The end of the message is the last thing laid out: while anything is unwritten, so is the end.
                let fate = if unwritten { Fate::Untold } else { Fate::Unknown };
                transaction.settle_all(&fate, &mut self.deeds);
                self.deeds.push_back(Output::Settled);
            }
            State::Greeting
            | State::Hello { .. }
            | State::StartTls
            | State::Handshake
            | State::Idle
            | State::LoneDot
            | State::Reset
            | State::Quit => {}
        }
        self.out = Vec::new();
        self.sent = 0;
        self.deadline = None;
        self.deeds.push_back(Output::Over(fault));
    }

    fn command(&mut self, line: &str) {
        self.out.extend_from_slice(line.as_bytes());
        self.out.extend_from_slice(b"\r\n");
        self.show_command(line);
    }

    fn show_command(&mut self, line: &str) {
        if self.transcript {
            self.deeds.push_back(Output::Line(format!(">>> {line}")));
        }
    }

    fn show_reply(&mut self, reply: &Reply) {
        if !self.transcript {
            return;
        }
        let last = reply.lines.len().saturating_sub(1);
        let status = reply.enhanced.map_or(String::new(), |status| format!("{status} "));
        for (number, line) in reply.lines.iter().enumerate() {
            let mark = if number == last { ' ' } else { '-' };
            self.deeds.push_back(Output::Line(format!("{}{mark}{status}{line}", reply.code)));
        }
    }
}

/// States in which no reply is due, so that any byte is one too many.
fn expects_nothing(state: &State) -> bool {
    matches!(state, State::Idle | State::Handshake | State::Body { .. })
}

fn step_of(state: &State) -> Option<Step> {
    Some(match state {
        State::Greeting => Step::Greeting,
        State::Hello { .. } => Step::Hello,
        State::StartTls | State::Handshake => Step::StartTls,
        State::Idle => Step::Idle,
        State::Envelope(_, Awaiting::Mail) => Step::Mail,
        State::Envelope(_, Awaiting::Rcpt(_)) => Step::Rcpt,
        State::Envelope(_, Awaiting::Data) => Step::Data,
        State::Body { .. } => Step::Body,
        State::Final(..) => Step::Final,
        State::Reset | State::LoneDot => Step::Reset,
        State::Quit => Step::Quit,
        State::Dead => return None,
    })
}

fn refused(step: Step, reply: Reply) -> Fault {
    if reply.code == 421 { Fault::Leaving(step, reply) } else { Fault::Refused(step, reply) }
}

/// A reply whose code no server may give there.
fn unexpected(step: Step, reply: &Reply) -> Fault {
    Fault::Garbled(step, format!("unexpected reply {reply}"))
}
