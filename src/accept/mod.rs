//! STATION accept: mail comes in over SMTP, is judged by policy, and is made durable before it is answered for.
//!
//! [`listener`] takes connections inside the limits, [`session`] lets [`crate::smtp::server`] speak with one client
//! and does what it asks: policy from [`crate::route`], the message into [`crate::store`]. A 250 for a message is
//! sent only after the store said that it is durable; a crash before that leaves nothing of it, a crash after it all
//! of it. What the operator is to hear goes out as an [`Event`]; new mail goes to the queue as [`Accepted`] and may
//! be dropped on the way when the queue is busy: the store has it, and the queue finds it there.

mod eight_bit;
mod header_edit;
pub mod listener;
pub mod local_header;
pub mod received;
pub mod session;
pub mod submit;

use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::sync::{mpsc, watch};

use crate::config::{Config, PortTls};
use crate::mail::envelope::Envelope;
use crate::mail::queue_id::QueueId;
use crate::mail::selection::Selection;
use crate::mail::status::Reply;
use crate::mail::time::Timestamp;
use crate::smtp::server::{Parting, Settings};
use crate::store::{Accepted, Store, StoreError};
use crate::world::{Stream, TlsFacts, World};

/// What every session needs: made once per configuration, shared by its sessions.
pub struct Acceptor {
    config: Arc<Config>,
    settings: Arc<Settings>,
    world: World,
    store: Store,
    wake: mpsc::Sender<Accepted>,
    etrn: mpsc::Sender<Selection>,
    events: Events,
    zone: TimeZone,
    interval: Option<Duration>,
}

/// Hears what happens. It must not block for long: it is called in the middle of sessions.
pub type Events = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// Where [`Acceptor::new`] sends what must go up to the queue and to the operator.
#[derive(Clone)]
pub struct Outlets {
    /// New mail.
    pub wake: mpsc::Sender<Accepted>,
    /// Queue runs that ETRN asked for.
    pub etrn: mpsc::Sender<Selection>,
    /// The operator's log.
    pub events: Events,
}

/// A message's priority at submission: octets, class and recipients, lower goes first (sendmail's `P`).
pub(crate) fn priority(config: &Config, size: u64, precedence: i32, recipients: u32) -> i64 {
    let factors = &config.priority;
    i64::try_from(size)
        .unwrap_or(i64::MAX)
        .saturating_sub(i64::from(precedence).saturating_mul(factors.class))
        .saturating_add(i64::from(recipients).saturating_mul(factors.recipient))
}

/// Who is at the other end of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its address; none for a program of this machine (-bs).
    pub address: Option<IpAddr>,
    /// The name to show for a caller without address: `root@localhost`.
    pub local_name: String,
    /// Name= of the daemon it came to, for the log.
    pub daemon: String,
    /// When TLS begins on the port it came to.
    pub tls: PortTls,
}

/// What the operator is to hear of a session. `relay` is `mx.example [192.0.2.1]`.
#[derive(Debug)]
#[allow(missing_docs)] // the fields are those of the log line
pub enum Event<'a> {
    /// A session began (LogLevel 12).
    Connected { relay: &'a str, daemon: &'a str },
    /// A connection was turned away with 421.
    TurnedAway { address: Option<IpAddr>, daemon: &'a str, why: &'a str },
    /// Connections are taken again after a time of turning all away.
    TakingAgain { daemon: &'a str },
    /// Policy refused MAIL or RCPT: `ruleset=check_mail, arg1=..., relay=..., reject=...`.
    Refused {
        id: Option<QueueId>,
        ruleset: &'static str,
        argument: &'a str,
        relay: &'a str,
        reply: &'a Reply,
    },
    /// A message was taken and is durable: `from=..., size=..., class=..., nrcpts=..., ...`.
    Accepted { id: QueueId, envelope: &'a Envelope, recipients: u32, daemon: &'a str },
    /// A message came in and was not taken.
    Rejected { id: QueueId, from: &'a str, relay: &'a str, reply: &'a Reply },
    /// The store could not take something; the client was told to try again later.
    StoreTrouble { id: Option<QueueId>, error: &'a StoreError },
    /// The client went away inside a transaction.
    Lost { id: Option<QueueId>, relay: &'a str },
    /// A session ended without a mail transaction.
    NoMail { relay: &'a str, daemon: &'a str, parting: Parting },
    /// `STARTTLS=server, relay=..., version=..., verify=..., cipher=..., bits=...`
    TlsStarted { relay: &'a str, facts: &'a TlsFacts },
    /// A handshake failed.
    TlsFailed { relay: &'a str, error: &'a std::io::Error },
    /// HelpFile cannot be used; HELP answers from the built-in text.
    NoHelp { path: &'a Path, error: &'a io::Error },
    /// A queue run was asked for.
    Etrn { relay: &'a str, selection: &'a Selection },
}

/// Octets of a HelpFile: some hundred lines. Each session's machine shares them.
const HELP_MAX: u64 = 32 << 10;

/// The text of HelpFile, when there is one that can be read.
fn help(config: &Config, events: &Events) -> Option<Arc<str>> {
    let path = config.help_file.as_deref()?;
    let read = || -> io::Result<Arc<str>> {
        let mut text = String::new();
        let mut file = std::fs::File::open(path)?.take(HELP_MAX + 1);
        file.read_to_string(&mut text)?;
        match text.len() as u64 > HELP_MAX {
            true => Err(io::Error::other(format!("more than {HELP_MAX} octets"))),
            false => Ok(text.into()),
        }
    };
    let text = read();
    text.inspect_err(|error| events(Event::NoHelp { path, error })).ok()
}

impl Acceptor {
    /// For sessions under `config`. With `world.tls`, STARTTLS is offered.
    pub fn new(config: Arc<Config>, world: World, store: Store, outlets: Outlets) -> Acceptor {
        Acceptor {
            settings: Arc::new(session::settings(&config, help(&config, &outlets.events))),
            zone: config.time_zone.clone(),
            config,
            world,
            store,
            wake: outlets.wake,
            etrn: outlets.etrn,
            events: outlets.events,
            interval: None,
        }
    }

    /// The same, of a daemon that runs its queue this often (`-q15m`): what is only queued waits as long.
    pub fn running_every(self, interval: Option<Duration>) -> Acceptor {
        Acceptor { interval, ..self }
    }

    /// How often the queue is run; none: by explicit runs alone.
    pub fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// The next run of the queue at the latest, for mail that comes now and is only queued; none when whatever is new waits for it
    /// anyway, as DeliveryMode says.
    pub fn next_queue_run(&self) -> Option<Timestamp> {
        let now = self.world.clock.now();
        let next = self.interval.map_or(Timestamp::MAX, |interval| now.after(interval));
        self.config.delivery_mode.is_immediate().then_some(next)
    }

    /// Speaks SMTP with `caller` over `stream` until one of them ends it, or `stop` turns true: then the session
    /// ends at its next command, after a message under way.
    pub async fn session(
        &self,
        stream: Box<dyn Stream>,
        caller: Caller,
        stop: watch::Receiver<bool>,
    ) {
        session::Session::new(self, stream, caller, stop).run().await;
    }

    fn tell(&self, event: Event<'_>) {
        (self.events)(event);
    }

    /// Whether `address` lies in a relay network: such clients are ours, and trusted to behave.
    fn is_relay_client(&self, address: IpAddr) -> bool {
        self.config.relay_networks.iter().any(|network| network.contains(address))
    }
}
