//! One connection to a host: a [`Client`] machine and the stream under it, driven in the task that needs it.
//!
//! Writes and reads at the same time, so that neither side can block the other; wakes at the machine's deadline. Holds
//! no more than the machine does. Dropping it closes the connection in mid-sentence, which ends no message.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::content::Source;
use super::{Notice, Sink};
use crate::mail::outcome::RemoteHost;
use crate::smtp::client::{Client, Fate, Fault, Input, Letter, Offer, Output, Settings};
use crate::store::StoreError;
use crate::world::{Net, Stream};

/// Octets read at once: a group's replies to a hundred recipients.
const READ_MAX: usize = 8 * 1024;
/// How long we wait for the reply to QUIT when somebody watches the dialogue.
const QUIT_WATCHED: Duration = Duration::from_secs(5);
/// Far enough ahead to mean never, near enough to add to any instant.
const NEVER: Duration = Duration::from_secs(365 * 86_400);

/// A connection that stands.
pub(super) struct Connection {
    client: Client,
    /// None while the handshake has it, and after a failed one.
    stream: Option<Box<dyn Stream>>,
    host: RemoteHost,
    timer: Pin<Box<Sleep>>,
    /// Something was written since the last flush: TLS keeps bytes until then.
    unflushed: bool,
    /// Transactions brought to their end.
    transactions: u32,
}

/// What one transaction came to.
pub(super) struct Transacted {
    /// One fate for each place of the letter.
    pub(super) fates: Vec<(usize, Fate)>,
    /// The connection ended with it.
    pub(super) fault: Option<Fault>,
    /// Our own side could not read the body.
    pub(super) own: Option<StoreError>,
}

impl Connection {
    /// A connection that nothing was said on.
    pub(super) fn new(stream: Box<dyn Stream>, host: RemoteHost, settings: Settings) -> Connection {
        let client = Client::new(settings, Instant::now());
        let timer = Box::pin(tokio::time::sleep(NEVER));
        Connection { client, stream: Some(stream), host, timer, unflushed: false, transactions: 0 }
    }

    /// Whom it leads to.
    pub(super) fn host(&self) -> &RemoteHost {
        &self.host
    }

    /// What it offers; complete when it is ready.
    pub(super) fn offer(&self) -> &Offer {
        self.client.offer()
    }

    /// Whether a transaction was brought to its end on it.
    pub(super) fn was_used(&self) -> bool {
        self.transactions > 0
    }

    /// Whether it is worth keeping.
    pub(super) fn is_reusable(&self) -> bool {
        self.client.is_reusable()
    }

    /// Brings it to where a letter can be given: greeting, EHLO, TLS; or the end of RSET.
    ///
    /// # Errors
    /// Why it is over.
    pub(super) async fn ready(
        &mut self,
        net: &dyn Net,
        sink: Option<Sink<'_>>,
        notices: &mut Vec<Notice>,
    ) -> Result<(), Fault> {
        self.client.show(sink.is_some());
        loop {
            while let Some(deed) = self.client.poll() {
                match deed {
                    Output::Ready => return Ok(()),
                    Output::StartTls => self.start_tls(net, notices).await,
                    Output::Line(line) => show(sink, &line),
                    Output::Over(fault) => return Err(fault),
                    // Leftovers of no letter: there is none.
                    Output::NeedBody | Output::Settled | Output::Fate { .. } => {}
                }
            }
            if self.client.is_ready() {
                return Ok(());
            }
            self.turn().await;
        }
    }

    async fn start_tls(&mut self, net: &dyn Net, notices: &mut Vec<Notice>) {
        let Some(stream) = self.stream.take() else { return };
        let name = self.host.name.trim_start_matches('[').trim_end_matches(']');
        let deadline = self.client.deadline().unwrap_or_else(|| Instant::now() + NEVER);
        match tokio::time::timeout_at(deadline, net.start_tls(stream, name)).await {
            Ok(Ok((stream, facts))) => {
                self.stream = Some(stream);
                notices.push(Notice::Tls { host: self.host.clone(), facts });
                self.client.handle(Input::TlsUp, Instant::now());
            }
            Ok(Err(error)) => {
                self.client.handle(Input::TlsFailed(error.to_string()), Instant::now())
            }
            Err(_) => self.client.handle(Input::Tick, Instant::now()),
        }
    }

    /// One transaction; the connection must be ready. `source` has the body, when the letter has none.
    pub(super) async fn transact(
        &mut self,
        letter: Letter<'_>,
        source: &mut Source<'_>,
        sink: Option<Sink<'_>>,
    ) -> Transacted {
        let mut done = Transacted {
            fates: Vec::with_capacity(letter.recipients.len()),
            fault: None,
            own: None,
        };
        let mut settled = false;
        self.client.show(sink.is_some());
        self.client.handle(Input::Letter(letter), Instant::now());
        loop {
            while let Some(deed) = self.client.poll() {
                match deed {
                    Output::Fate { place, fate } => done.fates.push((place, fate)),
                    Output::Settled => settled = true,
                    Output::Line(line) => show(sink, &line),
                    Output::Over(fault) => done.fault = Some(fault),
                    Output::NeedBody => match source.piece().await {
                        Ok((bytes, last)) => {
                            self.client.handle(Input::Piece { bytes, last }, Instant::now());
                        }
                        Err(error) => {
                            done.own = Some(error);
                            self.client.handle(Input::NoBody, Instant::now());
                        }
                    },
                    Output::Ready | Output::StartTls => {}
                }
            }
            if settled {
                if done.fault.is_none() {
                    self.transactions += 1;
                    self.push_out();
                }
                return done;
            }
            self.turn().await;
        }
    }

    /// Whether it can still be used, without waiting: takes what has come, which ends it unless it was asked for.
    pub(super) fn is_alive(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        while self.client.is_reusable() {
            if self.poll_read(&mut context).is_pending() {
                return self.client.is_reusable();
            }
        }
        false
    }

    /// Asks the peer for a sign of life; [`Connection::ready`] waits for it.
    pub(super) fn probe(&mut self) {
        self.client.handle(Input::Probe, Instant::now());
    }

    /// Says QUIT if that takes no waiting, and closes.
    pub(super) fn dismiss(mut self) {
        self.client.handle(Input::Quit, Instant::now());
        self.push_out();
        if let Some(stream) = &mut self.stream {
            let mut context = Context::from_waker(Waker::noop());
            // Whether the peer hears it changes nothing for anybody.
            let _ = Pin::new(stream).poll_shutdown(&mut context);
        }
    }

    /// Says QUIT and waits a little for the reply, for somebody who watches.
    pub(super) async fn quit(mut self, sink: Sink<'_>) {
        self.client.show(true);
        self.client.handle(Input::Quit, Instant::now());
        let talk = async {
            loop {
                while let Some(deed) = self.client.poll() {
                    match deed {
                        Output::Line(line) => sink(&line),
                        Output::Over(_) => return,
                        _ => {}
                    }
                }
                self.turn().await;
            }
        };
        let _ = tokio::time::timeout(QUIT_WATCHED, talk).await;
    }

    /// Writes what can be written now.
    fn push_out(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        // A broken connection shows at the next read.
        let _ = self.poll_write(&mut context);
    }

    /// Waits until something happened to the machine.
    async fn turn(&mut self) {
        poll_fn(|context| self.poll_turn(context)).await;
    }

    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let written = self.poll_write(context);
        if self.client.has_output() {
            return Poll::Ready(());
        }
        // After a failed write too: the peer may have said why before it closed.
        if self.poll_read(context).is_ready() {
            return Poll::Ready(());
        }
        if let Err(error) = written {
            self.client.handle(Input::Broken(error.to_string()), Instant::now());
            return Poll::Ready(());
        }
        self.poll_deadline(context)
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while !self.client.outgoing().is_empty() {
            match Pin::new(&mut *stream).poll_write(context, self.client.outgoing()) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => {
                    self.unflushed = true;
                    self.client.handle(Input::Sent(count), Instant::now());
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(stream).poll_flush(context)
        {
            self.unflushed = false;
            return flushed;
        }
        Ok(())
    }

    /// Ready when something came, or nothing can come any more.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(stream) = &mut self.stream else {
            self.client.handle(Input::Broken("no connection".into()), Instant::now());
            return Poll::Ready(());
        };
        let mut space = [MaybeUninit::uninit(); READ_MAX];
        let mut buffer = ReadBuf::uninit(&mut space);
        match Pin::new(stream).poll_read(context, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                self.client.handle(Input::Closed, Instant::now());
            }
            Poll::Ready(Ok(())) => {
                self.client.handle(Input::Received(buffer.filled()), Instant::now())
            }
            Poll::Ready(Err(error)) => {
                self.client.handle(Input::Broken(error.to_string()), Instant::now())
            }
        }
        Poll::Ready(())
    }

    /// The timer is set anew only when it is due or too late: deadlines mostly move away, several times a message.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.client.deadline() else {
            return Poll::Pending;
        };
        if self.timer.deadline() > deadline {
            self.timer.as_mut().reset(deadline);
        }
        while self.timer.as_mut().poll(context).is_ready() {
            if deadline <= Instant::now() {
                self.client.handle(Input::Tick, Instant::now());
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

fn show(sink: Option<Sink<'_>>, line: &str) {
    if let Some(sink) = sink {
        sink(line);
    }
}
