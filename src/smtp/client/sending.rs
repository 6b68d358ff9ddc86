//! The way of one letter through a connection: envelope, body, the reply to the body.

use tokio::time::Instant;

use super::ending::{Fate, Fault, Step};
use super::transaction::{Carriage, Letter, Transaction};
use super::{Awaiting, Client, Dialect, Next, Output, PIECE_MAX, State, unexpected};
use crate::mail::status::Reply;
use crate::smtp::codec::DataEncoder;

impl Client {
    /// A letter: its MAIL, or the whole group.
    pub(super) fn begin(&mut self, letter: Letter<'_>, now: Instant) {
        let count = letter.recipients.len();
        if !matches!(self.state, State::Idle) {
            for place in 0..count {
                self.deeds.push_back(Output::Fate { place, fate: Fate::Untold });
            }
            self.deeds.push_back(Output::Settled);
            return;
        }
        let transaction =
            Transaction::new(letter, &self.offer, self.settings.dialect, &mut self.deeds);
        let Some(first) = transaction.listed_from(0) else {
            self.deeds.push_back(Output::Settled);
            return self.announce();
        };
        self.command(transaction.mail());
        if self.offer.pipelining {
            let mut next = Some(first);
            while let Some(place) = next {
                self.command(transaction.rcpt(place));
                next = transaction.listed_from(place + 1);
            }
            if !matches!(transaction.carriage, Carriage::Chunk(_)) {
                self.command("DATA");
            }
        }
        self.deadline = Some(now + self.settings.timeouts.mail);
        self.state = State::Envelope(transaction, Awaiting::Mail);
    }

    pub(super) fn envelope_answered(
        &mut self,
        mut transaction: Transaction,
        awaiting: Awaiting,
        reply: Reply,
        now: Instant,
    ) -> Next {
        let step = match awaiting {
            Awaiting::Mail => Step::Mail,
            Awaiting::Rcpt(_) => Step::Rcpt,
            Awaiting::Data => Step::Data,
        };
        if reply.code == 421 {
            return Next::Over(State::Envelope(transaction, awaiting), Fault::Leaving(step, reply));
        }
        let go_ahead = matches!(awaiting, Awaiting::Data);
        if !matches!((reply.code, go_ahead), (354, true) | (200..300, false) | (400..600, _)) {
            let fault = unexpected(step, &reply);
            return Next::Over(State::Envelope(transaction, awaiting), fault);
        }
        match awaiting {
            Awaiting::Mail => {
                if !reply.is_positive() {
                    // Everybody's fate; of a group, the replies to its rest must be read but mean nothing.
                    let command = transaction.mail().to_owned();
                    transaction.settle_all(&Fate::Refused { reply, command }, &mut self.deeds);
                    if !self.offer.pipelining {
                        return Next::In(self.settled(now));
                    }
                }
                Next::In(self.after_recipient(transaction, 0, now))
            }
            Awaiting::Rcpt(place) => {
                self.recipient_answered(&mut transaction, place, reply);
                Next::In(self.after_recipient(transaction, place + 1, now))
            }
            Awaiting::Data => self.data_answered(transaction, reply, now),
        }
    }

    fn recipient_answered(&mut self, transaction: &mut Transaction, place: usize, reply: Reply) {
        if reply.is_positive() {
            transaction.accept(place);
        } else if is_too_many(&reply) && transaction.next_accepted().is_some() {
            transaction.settle(place, Fate::Later(reply), &mut self.deeds);
        } else {
            let command = transaction.rcpt(place).to_owned();
            transaction.settle(place, Fate::Refused { reply, command }, &mut self.deeds);
        }
    }

    /// The step after the replies up to the recipient before `from`.
    fn after_recipient(&mut self, transaction: Transaction, from: usize, now: Instant) -> State {
        let grouped = self.offer.pipelining;
        if let Some(place) = transaction.listed_from(from) {
            if !grouped {
                self.command(transaction.rcpt(place));
            }
            if !grouped || from == 0 {
                self.deadline = Some(now + self.settings.timeouts.rcpt);
            }
            return State::Envelope(transaction, Awaiting::Rcpt(place));
        }
        match &transaction.carriage {
            Carriage::Whole(_) | Carriage::Pieces if grouped => {}
            _ if transaction.next_accepted().is_none() => return self.settled(now),
            Carriage::Chunk(bytes) => {
                let bytes = bytes.clone();
                return self.chunk(transaction, &bytes, now);
            }
            Carriage::Whole(_) | Carriage::Pieces => self.command("DATA"),
        }
        self.deadline = Some(now + self.settings.timeouts.data_init);
        State::Envelope(transaction, Awaiting::Data)
    }

    fn data_answered(&mut self, mut transaction: Transaction, reply: Reply, now: Instant) -> Next {
        match (reply.code, transaction.next_accepted()) {
            (354, Some(_)) => {
                self.deadline = Some(now + self.settings.timeouts.data_block);
                let encoder = DataEncoder::new();
                let state = State::Body { transaction, encoder, done: 0 };
                Next::In(self.more_body(state, now))
            }
            // RFC 2920 3.1: the group's DATA was taken though nobody was; an end without a message answers it.
            (354, None) if self.settings.dialect == Dialect::Smtp => {
                self.command(".");
                self.deadline = Some(now + self.settings.timeouts.data_final);
                self.deeds.push_back(Output::Settled);
                Next::In(State::LoneDot)
            }
            // RFC 2033 4.2: forbidden, and no reply would follow.
            (354, None) => {
                let fault = unexpected(Step::Data, &reply);
                Next::Over(State::Envelope(transaction, Awaiting::Data), fault)
            }
            _ => {
                let command = "DATA".to_owned();
                transaction.settle_all(&Fate::Refused { reply, command }, &mut self.deeds);
                Next::In(self.settled(now))
            }
        }
    }

    /// The whole message as one chunk (RFC 3030 2.2).
    fn chunk(&mut self, transaction: Transaction, bytes: &[u8], now: Instant) -> State {
        let command = format!("BDAT {} LAST", bytes.len());
        self.out.reserve(command.len() + 2 + bytes.len());
        self.command(&command);
        self.out.extend_from_slice(bytes);
        self.deadline = Some(now + self.settings.timeouts.data_block);
        State::Final(transaction, command)
    }

    /// Lays out the next piece of a whole body, or asks for one; nothing while the last one is unwritten.
    fn more_body(&mut self, state: State, now: Instant) -> State {
        let State::Body { transaction, mut encoder, done } = state else { return state };
        let bytes = match &transaction.carriage {
            Carriage::Whole(bytes) | Carriage::Chunk(bytes) => bytes,
            Carriage::Pieces => {
                if self.outgoing().is_empty() {
                    self.deeds.push_back(Output::NeedBody);
                }
                return State::Body { transaction, encoder, done };
            }
        };
        self.deadline = Some(now + self.settings.timeouts.data_block);
        let rest = bytes.get(done..).unwrap_or_default();
        if rest.len() > PIECE_MAX {
            encoder.encode(&rest[..PIECE_MAX], &mut self.out);
            return State::Body { transaction, encoder, done: done + PIECE_MAX };
        }
        encoder.encode(rest, &mut self.out);
        self.end_of_body(encoder);
        State::Final(transaction, "DATA".to_owned())
    }

    fn end_of_body(&mut self, encoder: DataEncoder) {
        encoder.finish(&mut self.out);
        self.show_command(".");
    }

    pub(super) fn piece(&mut self, bytes: &[u8], last: bool, now: Instant) {
        self.state = match std::mem::replace(&mut self.state, State::Dead) {
            State::Body { transaction, mut encoder, done } => {
                self.deadline = Some(now + self.settings.timeouts.data_block);
                encoder.encode(bytes, &mut self.out);
                if last {
                    self.end_of_body(encoder);
                    State::Final(transaction, "DATA".to_owned())
                } else {
                    self.more_body(State::Body { transaction, encoder, done }, now)
                }
            }
            state => state,
        };
    }

    pub(super) fn wrote(&mut self, count: usize, now: Instant) {
        self.sent = self.sent.saturating_add(count);
        if self.sent < self.out.len() || self.out.is_empty() {
            return;
        }
        self.out.clear();
        self.sent = 0;
        self.state = match std::mem::replace(&mut self.state, State::Dead) {
            state @ State::Body { .. } => self.more_body(state, now),
            state @ State::Final(..) => {
                self.deadline = Some(now + self.settings.timeouts.data_final);
                state
            }
            state => state,
        };
    }

    /// The reply to the body: for everybody, or in LMTP for the next one.
    pub(super) fn final_answered(
        &mut self,
        mut transaction: Transaction,
        command: String,
        reply: Reply,
        now: Instant,
    ) -> Next {
        if !self.outgoing().is_empty() {
            let fault = self.answered_early(&mut transaction, &command, reply);
            return Next::Over(State::Final(transaction, command), fault);
        }
        let (lmtp, leaving) = (self.settings.dialect == Dialect::Lmtp, reply.code == 421);
        if (300..400).contains(&reply.code) {
            let fault = unexpected(Step::Final, &reply);
            return Next::Over(State::Final(transaction, command), fault);
        }
        match (reply.is_positive(), lmtp, transaction.next_accepted()) {
            (true, false, _) => transaction.take_all(&reply, &mut self.deeds),
            (true, true, Some(place)) => transaction.take(place, &reply, &mut self.deeds),
            (false, true, Some(place)) => {
                let fate = Fate::Refused { reply: reply.clone(), command: command.clone() };
                transaction.settle(place, fate, &mut self.deeds);
            }
            (false, false, _) | (_, true, None) => {
                let fate = Fate::Refused { reply: reply.clone(), command: command.clone() };
                transaction.settle_all(&fate, &mut self.deeds);
            }
        }
        if leaving {
            return Next::Over(
                State::Final(transaction, command),
                Fault::Leaving(Step::Final, reply),
            );
        }
        if transaction.next_accepted().is_some() {
            self.deadline = Some(now + self.settings.timeouts.data_final);
            return Next::In(State::Final(transaction, command));
        }
        self.deeds.push_back(Output::Settled);
        Next::In(State::Idle)
    }

    /// A reply while the body is being sent: a refusal is certain, because nothing was ended; but the rest of the body
    /// would be taken for commands, so the connection is over in any case.
    pub(super) fn answered_early(
        &mut self,
        transaction: &mut Transaction,
        command: &str,
        reply: Reply,
    ) -> Fault {
        if reply.is_positive() {
            return Fault::Unsolicited(Step::Body);
        }
        let fate = Fate::Refused { reply: reply.clone(), command: command.to_owned() };
        transaction.settle_all(&fate, &mut self.deeds);
        if reply.code == 421 { Fault::Leaving(Step::Body, reply) } else { Fault::Early(reply) }
    }

    /// The transaction is over without a message; what the server still holds of it is undone.
    fn settled(&mut self, now: Instant) -> State {
        self.deeds.push_back(Output::Settled);
        self.reset(now)
    }
}

/// RFC 5321 4.5.3.1.10: 452, and 552 of old servers, say so of the number of recipients unless their status says otherwise.
fn is_too_many(reply: &Reply) -> bool {
    let said = reply.enhanced.is_none_or(|status| {
        let (_, subject, detail) = status.parts();
        (subject, detail) == (5, 3)
    });
    matches!(reply.code, 452 | 552) && said
}
