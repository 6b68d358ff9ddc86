//! One SMTP session: the machine of [`crate::smtp::server`] over a stream, with policy and store behind it.
//!
//! The session waits for input, time or the daemon's end, hands it to the machine, and does what the machine asks,
//! one thing after the other. While it waits it holds no read buffer, so ten thousand idle sessions cost little.
//! Dropping it at any point leaves nothing behind: an [`Intake`] that is not accepted is forgotten by the store.

use std::collections::HashSet;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::header_edit::{HeaderEdit, NAMED_MAX};
use super::received::Received;
use super::{Acceptor, Caller, Event, eight_bit};
use crate::config::{Config, PortTls};
use crate::mail::address::{Address, ReversePath};
use crate::mail::envelope::{BodyType, Envelope, Recipient, RecipientState};
use crate::mail::mime::EightBitMode;
use crate::mail::queue_id::QueueId;
use crate::mail::status::{EnhancedStatus, Reply};
use crate::route;
use crate::smtp::server::{Arrived, Input, Mail, Output, Parting, Peer, Rcpt, Server, Settings};
use crate::store::{Intake, StoreError};
use crate::world::{Stream, TlsFacts};

/// How long a session waits for the name of its client: DNS that is down must not keep mail out.
const NAME_WAIT: Duration = Duration::from_secs(5);
/// Octets asked for at once: a whole ordinary message. On the stack, and only while reading.
const READ_MAX: usize = 32 * 1024;
/// Recipients of one message that are compared with each new one: a repeated RCPT is answered and delivered once, as
/// sendmail has it. Longer lists come from programs, which do not repeat themselves.
const COMPARED_MAX: usize = 1000;

/// Characters of a greeting: a reply line has 512 octets (RFC 5321 4.5.3.1.5).
const GREETING_MAX: usize = 400;

/// The machine's settings under `config`, with the text that HELP answers from.
pub(super) fn settings(config: &Config, help: Option<Arc<str>>) -> Settings {
    let (limits, privacy) = (&config.limits, &config.privacy);
    Settings {
        host_name: config.host_name.clone(),
        message_size: limits.message_size,
        recipients: limits.recipients,
        headers_length: limits.headers_length,
        hops: limits.hops,
        command_line: limits.command_line,
        bad_commands: limits.bad_commands,
        bad_recipients: limits.bad_recipients,
        bad_recipients_pause: limits.bad_recipients_pause,
        bad_recipients_max: limits.bad_recipients_max,
        good_recipients_percent: limits.good_recipients_percent,
        noop_commands: limits.noop_commands,
        session_time: limits.session_time,
        command_time: config.timeouts.command,
        block_time: config.timeouts.datablock,
        dsn: !privacy.noreceipts && config.send_mime_errors,
        etrn: !privacy.noetrn,
        verb: !privacy.noverb && !privacy.noexpn,
        deliver_by: config.deliver_by_min,
        novrfy: privacy.novrfy,
        noexpn: privacy.noexpn,
        help,
        mail_needs_hello: privacy.needmailhelo,
        vrfy_needs_hello: privacy.needvrfyhelo,
        expn_needs_hello: privacy.needexpnhelo,
        bogus_hello: config.allow_bogus_helo,
    }
}

/// One client, from greeting to goodbye.
pub(super) struct Session<'a> {
    acceptor: &'a Acceptor,
    server: Server,
    stream: Option<Box<dyn Stream>>,
    caller: Caller,
    client: route::Client,
    /// `mx.example [192.0.2.1]`
    relay: String,
    transaction: Option<Transaction>,
    tls: Option<TlsFacts>,
    /// MAIL was accepted or ETRN done at least once.
    served: bool,
    timer: Pin<Box<Sleep>>,
    stop: watch::Receiver<bool>,
    /// The machine was told that the daemon stops.
    stopping: bool,
    /// What the machine was told of the load: slow, resting.
    strain: (bool, bool),
}

/// A mail transaction that the machine has begun.
struct Transaction {
    mail: Mail,
    id: QueueId,
    target: Target,
    recipients: u32,
    /// The recipient, while there is only one.
    only: Option<Address>,
    /// What a new recipient is compared with, from the second on.
    compared: HashSet<String>,
    /// Its recipients, as far as NoRecipientAction would name them.
    named: Vec<Address>,
    /// What is changed in its header as it comes, when an option asks for that.
    edit: Option<HeaderEdit>,
    /// Our trace field: waits for the first octets of content to be written with them.
    received: Vec<u8>,
    received_len: u64,
}

/// Where the content goes.
enum Target {
    /// The store takes it.
    Intake(Box<Intake>),
    /// The store gave it up, for this reason.
    Failed(Reply),
}

/// The session is over: nothing more can be said.
struct Over;

impl<'a> Session<'a> {
    pub(super) fn new(
        acceptor: &'a Acceptor,
        stream: Box<dyn Stream>,
        caller: Caller,
        stop: watch::Receiver<bool>,
    ) -> Session<'a> {
        let address = caller.address.map(|address| address.to_canonical());
        // The name of this machine needs no DNS.
        let name = address.filter(IpAddr::is_loopback).map(|_| "localhost".to_owned());
        let relay = shown(address, name.as_deref(), &caller.local_name);
        let peer = Peer {
            shown: relay.clone(),
            trusted: address.is_none_or(|address| acceptor.is_relay_client(address)),
            offers_tls: acceptor.world.tls.is_some()
                && address.is_some()
                && caller.tls != PortTls::Never,
        };
        let now = Instant::now();
        let server = Server::new(Arc::clone(&acceptor.settings), peer, now);
        Session {
            acceptor,
            server,
            stream: Some(stream),
            client: route::Client { address, name, helo: String::new() },
            caller: Caller { address, ..caller },
            relay,
            transaction: None,
            tls: None,
            served: false,
            timer: Box::pin(sleep_until(now)),
            stop,
            stopping: false,
            strain: (false, false),
        }
    }

    pub(super) async fn run(mut self) {
        if self.caller.tls == PortTls::FromTheStart {
            if self.start_tls().await.is_err() {
                return;
            }
            self.tell_server(Input::TlsActive);
        }
        if self.greet().await.is_err() {
            return;
        }
        loop {
            self.note_load();
            if self.do_all().await.is_err() {
                return;
            }
            self.wait().await;
        }
    }

    /// Greets the client, and learns its name while it reads the greeting.
    async fn greet(&mut self) -> Result<(), Over> {
        // Whoever sends before the greeting does not listen (a relay client of ours may). The input of a local program may
        // all be there, its end included: it is greeted first.
        if self.caller.address.is_some() {
            poll_fn(|cx| {
                let _ = self.poll_read(cx);
                Poll::Ready(())
            })
            .await;
        }
        let date = self.acceptor.world.clock.now().rfc5322(&self.acceptor.zone);
        let text = greeting(&self.acceptor.config, &date);
        self.tell_server(Input::Greet(&text));
        if let Some(address) = self.caller.address
            && self.client.name.is_none()
        {
            // Commands that came early wait for the name; the greeting does not.
            let greeting = self.server.take_replies();
            self.send(&greeting).await?;
            let answer = timeout(NAME_WAIT, self.acceptor.world.dns.name_of(address)).await;
            // Without a name a client is judged by its address alone, whatever the reason.
            self.client.name = answer.ok().and_then(Result::ok);
            self.relay = shown(Some(address), self.client.name.as_deref(), "");
            let relay = self.relay.clone();
            self.tell_server(Input::Named(relay));
        }
        let (relay, daemon) = (&self.relay, &self.caller.daemon);
        self.acceptor.tell(Event::Connected { relay, daemon });
        Ok(())
    }

    fn tell_server(&mut self, input: Input<'_>) {
        self.server.handle(input, Instant::now());
    }

    /// Tells the machine when the load crosses a limit (DelayLA, QueueLA).
    fn note_load(&mut self) {
        let config = &self.acceptor.config;
        let load = self.acceptor.world.load.average();
        let limits = config.load_at(&self.caller.daemon);
        let (slow, resting) = (limits.delays(load), config.rests_for_load(load));
        if (slow, resting) != self.strain {
            self.strain = (slow, resting);
            self.tell_server(Input::Strain { slow, resting });
        }
    }

    /// Waits for the next thing to happen, and tells the machine.
    async fn wait(&mut self) {
        let wanted = self.server.deadline();
        // The timer is moved only when it would come too late or has run out: that is once in a session that goes well.
        if wanted < self.timer.deadline() || self.timer.is_elapsed() {
            self.timer.as_mut().reset(wanted);
        }
        tokio::select! {
            biased;
            () = poll_fn(|cx| Self::poll_input(&mut self.server, &mut self.stream, cx)) => {}
            () = &mut self.timer => self.server.handle(Input::Time, Instant::now()),
            // When the sender is gone the daemon stops as well.
            _ = self.stop.wait_for(|stop| *stop), if !self.stopping => {
                self.stopping = true;
                self.server.handle(Input::Shutdown, Instant::now());
            }
        }
    }

    /// Reads when the machine wants input and there is some.
    fn poll_input(
        server: &mut Server,
        stream: &mut Option<Box<dyn Stream>>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let Some(stream) = stream.as_mut().filter(|_| server.wants_input()) else {
            return Poll::Pending;
        };
        let mut space = [MaybeUninit::uninit(); READ_MAX];
        let room = server.room().min(READ_MAX);
        let mut buffer = ReadBuf::uninit(&mut space[..room]);
        let result = std::task::ready!(Pin::new(stream).poll_read(cx, &mut buffer));
        let input = match (result, buffer.filled()) {
            // A broken connection and a closed one end a session alike.
            (Err(_), _) | (Ok(()), []) => Input::Eof,
            (Ok(()), bytes) => Input::Bytes(bytes),
        };
        server.handle(input, Instant::now());
        Poll::Ready(())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Self::poll_input(&mut self.server, &mut self.stream, cx)
    }

    /// Does all that the machine asks now.
    async fn do_all(&mut self) -> Result<(), Over> {
        while let Some(output) = self.server.poll() {
            match output {
                Output::Send(bytes) => self.send(&bytes).await?,
                Output::AskMail(mail) => {
                    let answer = self.mail(*mail);
                    self.tell_server(Input::Answer(answer));
                }
                Output::AskRcpt(rcpt) => {
                    let answer = self.rcpt(*rcpt).await;
                    self.tell_server(Input::Answer(answer));
                }
                Output::Begin => self.begin(),
                Output::Stage(bytes) => self.stage(bytes).await,
                Output::Accept(arrived) => {
                    let result = self.accept(*arrived).await;
                    self.tell_server(Input::Accepted(result));
                }
                Output::Abandon(reply) => self.abandon(reply),
                Output::StartTls => {
                    self.start_tls().await?;
                    self.tell_server(Input::TlsActive);
                }
                Output::Etrn(selection) => {
                    self.served = true;
                    let relay = &self.relay;
                    self.acceptor.tell(Event::Etrn { relay, selection: &selection });
                    // The queue is gone only when the daemon stops; then nothing is run.
                    let _ = self.acceptor.etrn.send(selection).await;
                }
                Output::Close(parting) => return self.close(parting).await,
            }
        }
        Ok(())
    }

    /// Writes in one go; a client that does not read is given as long as one that does not write.
    async fn send(&mut self, bytes: &[u8]) -> Result<(), Over> {
        let stream = self.stream.as_mut().ok_or(Over)?;
        let write = async {
            stream.write_all(bytes).await?;
            stream.flush().await
        };
        match timeout(self.acceptor.config.timeouts.command, write).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                self.lost();
                Err(Over)
            }
        }
    }

    /// check_mail, and a place in the store.
    fn mail(&mut self, mail: Mail) -> Result<(), Reply> {
        if let Some(hello) = self.server.hello() {
            self.client.helo.clone_from(&hello.name);
        }
        route::check_mail(&self.acceptor.config, &self.client, &mail.path).inspect_err(
            |reply| {
                self.acceptor.tell(Event::Refused {
                    id: None,
                    ruleset: "check_mail",
                    argument: &mail.shown,
                    relay: &self.relay,
                    reply,
                });
            },
        )?;
        let intake = self.acceptor.store.intake().map_err(|error| self.trouble(None, &error))?;
        self.served = true;
        self.transaction = Some(Transaction {
            mail: Mail { path: qualified_path(&self.acceptor.config, mail.path), ..mail },
            id: intake.queue_id(),
            target: Target::Intake(Box::new(intake)),
            recipients: 0,
            only: None,
            compared: HashSet::new(),
            named: Vec::new(),
            edit: None,
            received: Vec::new(),
            received_len: 0,
        });
        Ok(())
    }

    /// check_rcpt and routing; the recipient goes to the store, not into memory.
    async fn rcpt(&mut self, rcpt: Rcpt) -> Result<(), Reply> {
        let transaction =
            self.transaction.as_mut().expect("RCPT comes only after MAIL was accepted");
        let config = &self.acceptor.config;
        let id = transaction.id;
        let destination = route::check_rcpt(config, &self.client, &rcpt.address)
            .and_then(|()| route::destination(config, &rcpt.address))
            .inspect_err(|reply| {
                self.acceptor.tell(Event::Refused {
                    id: Some(id),
                    ruleset: "check_rcpt",
                    argument: &rcpt.shown,
                    relay: &self.relay,
                    reply,
                });
            })?;
        let address = qualified(config, rcpt.address);
        if transaction.is_repeated(&address) {
            return Ok(());
        }
        let Target::Intake(intake) = &mut transaction.target else {
            return Err(reply_of(&StoreError::Busy));
        };
        let recipient = Recipient {
            address: address.clone(),
            orcpt: rcpt.parameters.orcpt,
            notify: rcpt.parameters.notify,
            state: RecipientState::Open(None),
        };
        match intake.recipient(destination, recipient).await {
            Ok(()) => {
                if config.no_recipient_action.names() && transaction.named.len() <= NAMED_MAX {
                    transaction.named.push(address.clone());
                }
                transaction.recipients += 1;
                transaction.only = (transaction.recipients == 1).then_some(address);
                Ok(())
            }
            Err(error) => Err(self.trouble(Some(id), &error)),
        }
    }

    /// The content comes: makes our trace field for it.
    fn begin(&mut self) {
        let transaction = self.transaction.as_mut().expect("content comes only after MAIL");
        let received = Received {
            helo: self.server.hello().map(|hello| hello.name.as_str()),
            relay: &self.relay,
            host: &self.acceptor.config.host_name,
            protocol: self.server.protocol(transaction.mail.parameters.smtputf8),
            id: transaction.id,
            tls: self.tls.as_ref(),
            only_recipient: transaction.only.as_ref(),
            at: self.acceptor.world.clock.now(),
        };
        transaction.edit =
            HeaderEdit::new(&self.acceptor.config, std::mem::take(&mut transaction.named));
        transaction.received = received.field(&self.acceptor.zone);
        transaction.received_len = transaction.received.len() as u64;
    }

    /// Hands content to the store; after a failure the rest of it is thrown away.
    async fn stage(&mut self, mut bytes: Vec<u8>) {
        if self.acceptor.config.seven_bit_input {
            eight_bit::strip(&mut bytes);
        }
        let transaction = self.transaction.as_mut().expect("content comes only after MAIL");
        if let Some(edit) = &mut transaction.edit {
            bytes = edit.feed(bytes);
        }
        let Target::Intake(intake) = &mut transaction.target else { return };
        let result = if transaction.received.is_empty() {
            intake.write(&bytes).await
        } else {
            let mut first = std::mem::take(&mut transaction.received);
            first.extend_from_slice(&bytes);
            intake.write(&first).await
        };
        if let Err(error) = result {
            let id = transaction.id;
            let reply = self.trouble(Some(id), &error);
            if let Some(transaction) = &mut self.transaction {
                transaction.target = Target::Failed(reply.clone());
            }
            self.tell_server(Input::StageFailed(reply));
        }
    }

    /// Makes the message durable. Between the end of its content and this, its header, body or recipients may change.
    async fn accept(&mut self, arrived: Arrived) -> Result<QueueId, Reply> {
        let mut transaction = self.transaction.take().expect("content comes only after MAIL");
        let mut arrived = arrived;
        arrived.has_8bit &= !self.acceptor.config.seven_bit_input;
        let labelled = transaction.mail.parameters.body == Some(BodyType::EightBitMime);
        let declared = labelled || arrived.header.is_mime;
        let strict = self.acceptor.config.eight_bit_mode == EightBitMode::Strict;
        if strict && arrived.has_8bit && !declared {
            let reply = Reply::new(554, Some(EnhancedStatus::new(5, 6, 1)), eight_bit::REFUSAL);
            self.transaction = Some(transaction);
            self.abandon(Some(reply.clone()));
            return Err(reply);
        }
        if self.acceptor.config.seven_bit_input {
            transaction.mail.parameters.body = Some(BodyType::SevenBit);
        }
        let envelope = self.envelope(&transaction, arrived);
        let (id, recipients) = (transaction.id, transaction.recipients);
        let mut intake = match transaction.target {
            Target::Intake(intake) => intake,
            Target::Failed(reply) => return Err(reply),
        };
        if transaction.edit.is_some_and(|edit| edit.asks_for_receipts()) {
            let asked = intake.ask_for_receipts().await;
            asked.map_err(|error| self.trouble(Some(id), &error))?;
        }
        let is_tried = self.is_tried_at_once(&envelope);
        if let (false, Some(due)) = (is_tried, self.acceptor.next_queue_run()) {
            intake.postpone(due);
        }
        let shown = envelope.clone();
        match intake.accept(envelope, None).await {
            Ok(accepted) => {
                let daemon = &self.caller.daemon;
                self.acceptor.tell(Event::Accepted { id, envelope: &shown, recipients, daemon });
                if is_tried {
                    // A queue that is busy or gone finds the message in the store.
                    let _ = self.acceptor.wake.try_send(accepted);
                }
                Ok(id)
            }
            Err(error) => Err(self.trouble(Some(id), &error)),
        }
    }

    /// Whether it is tried as soon as it is taken: DeliveryMode and queueLA= of the port. QueueLA is the queue's to heed.
    fn is_tried_at_once(&self, envelope: &Envelope) -> bool {
        let (config, port) = (&self.acceptor.config, &self.caller.daemon);
        let load = self.acceptor.world.load.average();
        config.delivery_mode_at(port).is_immediate()
            && !config.waits_for_load_at(port, envelope.priority, load)
    }

    fn envelope(&self, transaction: &Transaction, arrived: Arrived) -> Envelope {
        let parameters = &transaction.mail.parameters;
        let edit = transaction.edit.as_ref();
        let received_len = transaction.received_len + edit.map_or(0, HeaderEdit::added);
        let taken = edit.map_or(0, HeaderEdit::taken);
        let size = received_len + arrived.size - taken;
        let (precedence, timeouts) = arrived.header.class(&self.acceptor.config.precedences);
        let body_type = match (parameters.body, arrived.has_8bit) {
            (Some(BodyType::EightBitMime), _) => BodyType::EightBitMime,
            (_, true) if arrived.header.is_mime => BodyType::EightBitMime,
            (_, true) => BodyType::EightBit,
            (_, false) => BodyType::SevenBit,
        };
        let config = &self.acceptor.config;
        // As it came, with LF line ends: what sendmail calls the size of the message.
        let came = arrived.size.saturating_sub(arrived.lines);
        let priority = super::priority(config, came, precedence, transaction.recipients);
        Envelope {
            reverse_path: transaction.mail.path.clone(),
            arrival: self.acceptor.world.clock.now(),
            relay: self.relay.clone(),
            protocol: self.server.protocol(parameters.smtputf8).to_owned(),
            body_type,
            smtputf8: parameters.smtputf8,
            ret: parameters.ret,
            envid: parameters.envid.clone(),
            timeouts,
            precedence,
            priority,
            message_id: arrived.header.message_id,
            header_len: received_len + arrived.header.len - taken,
            size,
            body_lines: arrived.body_lines,
            relay_override: None,
            deliver_by: parameters.by,
        }
    }

    /// The transaction ends without a message. Dropping the intake makes the store forget it.
    fn abandon(&mut self, reply: Option<Reply>) {
        if let (Some(transaction), Some(reply)) = (self.transaction.take(), reply) {
            self.acceptor.tell(Event::Rejected {
                id: transaction.id,
                from: &transaction.mail.shown,
                relay: &self.relay,
                reply: &reply,
            });
        }
    }

    /// Tells the operator of the store's trouble; gives the reply to the client.
    fn trouble(&self, id: Option<QueueId>, error: &StoreError) -> Reply {
        self.acceptor.tell(Event::StoreTrouble { id, error });
        reply_of(error)
    }

    async fn start_tls(&mut self) -> Result<(), Over> {
        let stream = self.stream.take().ok_or(Over)?;
        let tls = self.acceptor.world.tls.as_ref().ok_or(Over)?;
        let limit = self.acceptor.config.timeouts.starttls;
        let result = timeout(limit, tls.accept(stream)).await;
        let error = match result {
            Ok(Ok((stream, facts))) => {
                self.acceptor.tell(Event::TlsStarted { relay: &self.relay, facts: &facts });
                self.stream = Some(stream);
                self.tls = Some(facts);
                return Ok(());
            }
            Ok(Err(error)) => error,
            Err(elapsed) => io::Error::new(io::ErrorKind::TimedOut, elapsed),
        };
        self.acceptor.tell(Event::TlsFailed { relay: &self.relay, error: &error });
        Err(Over)
    }

    async fn close(&mut self, parting: Parting) -> Result<(), Over> {
        if parting == Parting::Lost {
            self.lost();
        } else if !self.served {
            let (relay, daemon) = (&self.relay, &self.caller.daemon);
            self.acceptor.tell(Event::NoMail { relay, daemon, parting });
        }
        if let Some(stream) = &mut self.stream {
            // Closes TLS in order (close_notify); a client that is gone does not care.
            let _ = timeout(self.acceptor.config.timeouts.quit, stream.shutdown()).await;
        }
        Err(Over)
    }

    /// The client is gone without QUIT.
    fn lost(&mut self) {
        let id = self.transaction.take().map(|transaction| transaction.id);
        self.acceptor.tell(Event::Lost { id, relay: &self.relay });
    }
}

impl Transaction {
    /// Whether this recipient was named before.
    fn is_repeated(&mut self, address: &Address) -> bool {
        let key = |address: &Address| match address.domain_key() {
            Some(domain) => format!("{}@{domain}", address.local_part()),
            None => address.as_str().to_owned(),
        };
        if let Some(only) = &self.only {
            self.compared.insert(key(only));
        }
        if self.recipients == 0 || self.compared.len() >= COMPARED_MAX {
            return false;
        }
        !self.compared.insert(key(address))
    }
}

/// The text of the 220: SmtpGreetingMessage with `ESMTP` behind its first word, which is our name (RFC 5321 4.2); `$b` is the
/// date, `$v` our version.
fn greeting(config: &Config, date: &str) -> String {
    let (host, version) = (&config.host_name, env!("CARGO_PKG_VERSION"));
    let Some(text) = &config.smtp_greeting else {
        return format!("{host} ESMTP kvmta {version}; {date}");
    };
    let text = text.replace("$b", date).replace("$v", version);
    let fit = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { ' ' };
    let text: String = text.chars().map(fit).take(GREETING_MAX).collect();
    let (first, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    format!("{} ESMTP {rest}", if first.is_empty() { host } else { first }).trim_end().to_owned()
}

/// A local name at our name, so that it can be spoken of to others: `root` becomes `root@here.example`.
fn qualified(config: &Config, address: Address) -> Address {
    // Our own name is a domain, but the local part may leave it no room: then it stays a local name.
    address.clone().qualified(&config.host_name).unwrap_or(address)
}

fn qualified_path(config: &Config, path: ReversePath) -> ReversePath {
    match path {
        ReversePath::Mailbox(address) => ReversePath::Mailbox(qualified(config, address)),
        ReversePath::Null => ReversePath::Null,
    }
}

/// `mx.example [192.0.2.1]`, `[192.0.2.1]`, or the name of a local program's user.
fn shown(address: Option<IpAddr>, name: Option<&str>, local_name: &str) -> String {
    let literal = match address {
        None => return local_name.to_owned(),
        Some(IpAddr::V4(address)) => format!("[{address}]"),
        Some(IpAddr::V6(address)) => format!("[IPv6:{address}]"),
    };
    match name {
        Some(name) => format!("{name} {literal}"),
        None => literal,
    }
}

/// What a client is told when the store takes nothing: always to try again.
fn reply_of(error: &StoreError) -> Reply {
    let status = |subject, detail| Some(EnhancedStatus::new(4, subject, detail));
    match error {
        StoreError::Full => {
            Reply::new(452, status(4, 5), "Insufficient disk space; try again later")
        }
        StoreError::Busy => Reply::new(451, status(3, 0), "Queue is busy; try again later"),
        StoreError::Missing(_)
        | StoreError::Locked(_)
        | StoreError::OtherFormat { .. }
        | StoreError::Unavailable(_)
        | StoreError::Damaged { .. }
        | StoreError::Closing => {
            Reply::new(451, status(3, 0), "Queue is unavailable; try again later")
        }
    }
}
