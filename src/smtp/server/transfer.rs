//! DATA (RFC 5321 4.1.1.4) and BDAT (RFC 3030): content in, piece by piece, to its end.

use super::content::Content;
use super::{Output, Parting, Server, State, Transaction};
use crate::mail::status::Reply;
use crate::smtp::codec::{DataDecoder, LineChecker};
use crate::smtp::command::{self, refusal};

/// Content after DATA.
#[derive(Debug)]
pub(super) struct Incoming {
    decoder: DataDecoder,
    pub(super) content: Content,
}

/// Content that comes by BDAT.
#[derive(Debug)]
pub(super) struct Chunk {
    checker: LineChecker,
    pub(super) content: Content,
    /// Octets of this chunk.
    size: u64,
    /// Of those, still to come.
    remaining: u64,
    last: bool,
}

impl Server {
    /// `DATA`.
    pub(super) fn data(&mut self, state: State, argument: &str) {
        match state {
            State::Idle => {
                self.say(503, (5, 0, 0), format_args!("Need MAIL command"));
                self.state = State::Idle;
            }
            State::Open(transaction) if transaction.accepted == 0 => {
                self.say(503, (5, 0, 0), format_args!("Need RCPT (recipient)"));
                self.state = State::Open(transaction);
            }
            State::Open(transaction) if !argument.is_empty() => {
                self.state = State::Open(transaction);
                self.bad(501, (5, 5, 4), format_args!("DATA has no parameters"));
            }
            State::Open(_) if self.is_stuffed() => {
                self.outputs.push_back(Output::Abandon(None));
                self.protocol_error();
            }
            State::Open(_) => {
                let text = "354 End data with <CR><LF>.<CR><LF>\r\n";
                self.replies.extend_from_slice(text.as_bytes());
                self.outputs.push_back(Output::Begin);
                let incoming = Incoming { decoder: DataDecoder::new(), content: Content::new() };
                self.state = State::Data(Box::new(incoming));
            }
            other => {
                self.say(503, (5, 5, 1), format_args!("DATA and BDAT cannot be mixed"));
                self.state = other;
            }
        }
    }

    /// Decodes what is there of the content after DATA.
    pub(super) fn data_step(&mut self) -> bool {
        let State::Data(incoming) = &mut self.state else { return false };
        let pending = self.input.get(self.worked..).unwrap_or_default();
        if pending.is_empty() {
            return false;
        }
        let mut bytes = Vec::with_capacity(pending.len());
        let decoded = incoming.decoder.decode(pending, &mut bytes);
        self.worked += decoded.taken;
        let was_fit = incoming.content.refusal().is_none();
        incoming.content.note_fault(incoming.decoder.fault());
        let staged = incoming.content.take(bytes, &self.settings);
        self.stage(staged, was_fit);
        if decoded.end
            && let State::Data(incoming) = std::mem::replace(&mut self.state, State::Idle)
        {
            self.complete(incoming.content);
        }
        true
    }

    /// Hands content on; when it has just become unfit, says so once, so that nothing more is kept of it.
    fn stage(&mut self, bytes: Vec<u8>, was_fit: bool) {
        let refusal = match &self.state {
            State::Data(incoming) => incoming.content.refusal(),
            State::Chunk(chunk) => chunk.content.refusal(),
            _ => None,
        };
        match refusal {
            Some(reply) if was_fit => self.outputs.push_back(Output::Abandon(Some(reply.clone()))),
            Some(_) => {}
            None if bytes.is_empty() => {}
            None => self.outputs.push_back(Output::Stage(bytes)),
        }
    }

    /// All content is there: asks for it to be accepted, or refuses it.
    fn complete(&mut self, content: Content) {
        let was_fit = content.refusal().is_none();
        match content.finish(&self.settings) {
            Ok((rest, arrived)) => {
                if !rest.is_empty() {
                    self.outputs.push_back(Output::Stage(rest));
                }
                self.outputs.push_back(Output::Accept(Box::new(arrived)));
                self.state = State::Committing;
            }
            Err(reply) => {
                self.refuse(&reply);
                if was_fit {
                    self.outputs.push_back(Output::Abandon(Some(reply)));
                }
                self.state = State::Idle;
            }
        }
    }

    /// `BDAT`. Its octets follow whatever we think of it, so they are taken in any case (RFC 3030 2).
    pub(super) fn bdat(&mut self, state: State, argument: &str) {
        let (size, last) = match command::bdat(argument) {
            Ok(parsed) => parsed,
            Err(reply) => {
                // Where the next command begins is unknown.
                self.state = state;
                self.refuse(&reply);
                self.close(Parting::Abuse);
                return;
            }
        };
        let wrong = |text| refusal(503, (5, 5, 1), text);
        let mut chunk = match state {
            State::Chunks(chunk) => chunk,
            State::Open(Transaction { accepted: 1.., .. }) => {
                self.outputs.push_back(Output::Begin);
                let (checker, content) = (LineChecker::new(), Content::new());
                Box::new(Chunk { checker, content, size, remaining: size, last })
            }
            State::Open(transaction) => {
                let back = State::Open(transaction);
                return self.swallow(size, back, wrong("Need RCPT (recipient)"));
            }
            other => return self.swallow(size, other, wrong("Need MAIL command")),
        };
        (chunk.size, chunk.remaining, chunk.last) = (size, size, last);
        self.state = State::Chunk(chunk);
        if size == 0 {
            self.chunk_step();
        }
    }

    fn swallow(&mut self, remaining: u64, back: State, reply: Reply) {
        self.state = State::Swallow { remaining, back: Box::new(back), reply };
        if remaining == 0 {
            self.swallow_step();
        }
    }

    pub(super) fn swallow_step(&mut self) -> bool {
        let pending = self.pending().len();
        let State::Swallow { remaining, .. } = &mut self.state else { return false };
        let here = usize::try_from(*remaining).map_or(pending, |remaining| remaining.min(pending));
        *remaining -= here as u64;
        self.worked += here;
        let done = *remaining == 0;
        if done
            && let State::Swallow { back, reply, .. } =
                std::mem::replace(&mut self.state, State::Closed)
        {
            self.refuse(&reply);
            self.state = *back;
        }
        here > 0 || done
    }

    /// Takes what is there of a chunk.
    pub(super) fn chunk_step(&mut self) -> bool {
        let State::Chunk(chunk) = &mut self.state else { return false };
        let pending = self.input.get(self.worked..).unwrap_or_default();
        let here =
            usize::try_from(chunk.remaining).map_or(pending.len(), |left| left.min(pending.len()));
        if here == 0 && chunk.remaining > 0 {
            return false;
        }
        let bytes = pending.get(..here).unwrap_or_default();
        self.worked += here;
        chunk.remaining -= here as u64;
        let was_fit = chunk.content.refusal().is_none();
        chunk.checker.check(bytes);
        let mut bytes = if was_fit { bytes.to_vec() } else { Vec::new() };
        if chunk.remaining == 0 && chunk.last && chunk.checker.finish() {
            bytes.extend_from_slice(b"\r\n");
        }
        chunk.content.note_fault(chunk.checker.fault());
        let staged = chunk.content.take(bytes, &self.settings);
        self.stage(staged, was_fit);
        self.end_of_chunk();
        true
    }

    fn end_of_chunk(&mut self) {
        let chunk = match std::mem::replace(&mut self.state, State::Idle) {
            State::Chunk(chunk) if chunk.remaining == 0 => chunk,
            other => {
                self.state = other;
                return;
            }
        };
        if chunk.last {
            return self.complete(chunk.content);
        }
        match chunk.content.refusal() {
            Some(reply) => {
                let reply = reply.clone();
                self.refuse(&reply);
            }
            None => {
                let size = chunk.size;
                self.say(250, (2, 0, 0), format_args!("{size} octets received"));
            }
        }
        self.state = State::Chunks(chunk);
    }
}
