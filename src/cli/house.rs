//! Puts the house together: store, doors, stations, control socket; and takes it down in order.
//!
//! Used by the daemon, which listens, and by a *holder*: a command that found no daemon, may open the store itself, and
//! serves the socket while it does.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::accept::listener::{self, Listener, Sessions};
use crate::accept::{Acceptor, Event, Outlets};
use crate::config::Config;
use crate::control::server::{self, Desk};
use crate::deliver::Mailers;
use crate::mail::selection::Selection;
use crate::maillog::{Maillog, Rejection, Side};
use crate::queue::House;
use crate::queue::run::{Run, RunRequest};
use crate::queue::runner::{Initiative, Runner, Sources};
use crate::smtp::server::Parting;
use crate::store::{Accepted, Store, StoreError, StoreOptions};
use crate::world::dns::DnsOptions;
use crate::world::tls::ServerTls;
use crate::world::{Clock, TlsAccept, World};

/// Accepted messages on their way to the runner; beyond it they are read from the store.
const ACCEPTED_MAX: usize = 2_000;
/// Explicit runs waiting for the runner.
const RUNS_MAX: usize = 100;
/// How long attempts under way may take after the signal to stop. Longer ones stay queued.
pub const GRACE: Duration = Duration::from_secs(30);

/// Who puts the house together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The daemon: stays, and does not give way.
    Daemon,
    /// A command that holds the store for a moment and yields to a starting daemon.
    Holder,
}

/// A house in which the lights are on.
pub struct Running {
    /// What it consists of.
    pub house: House,
    runs: mpsc::Sender<RunRequest>,
    stop: watch::Sender<bool>,
    yielded: watch::Receiver<bool>,
    runner: JoinHandle<()>,
    control: JoinHandle<()>,
    listeners: Vec<JoinHandle<()>>,
    sessions: Arc<Sessions>,
    /// Dismisses connections that were idle for too long.
    fresh: JoinHandle<()>,
}

/// How to open the store that this configuration means.
pub fn store_options(config: &Config, clock: Arc<dyn Clock>) -> StoreOptions {
    StoreOptions {
        directory: config.queue_directory.clone(),
        cache_size: config.db_cache_size,
        body_generation_size: config.body_generation_size,
        incoming_size: config.incoming_size,
        max_unsettled: config.max_unsettled,
        min_free: config.min_free_octets,
        clock: Arc::new(move || clock.now()),
    }
}

/// Whom this configuration asks for names.
pub fn dns_options(config: &Config) -> DnsOptions {
    DnsOptions {
        name_servers: config.name_servers.clone(),
        timeout: config.resolver_retrans,
        attempts: config.resolver_retry,
    }
}

/// Why the house did not stand.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The socket.
    #[error("cannot make the control socket in {directory}: {source}")]
    Control {
        /// Where.
        directory: String,
        /// Why.
        source: io::Error,
    },
    /// ServerCertFile, ServerKeyFile.
    #[error("{0}")]
    Tls(String),
    /// A listening socket.
    #[error("cannot watch a listening socket: {0}")]
    Socket(#[source] io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Starts everything on the present runtime. `interval` is `-q15m`.
pub async fn start(
    config: Arc<Config>,
    world: World,
    store: Store,
    sockets: Vec<(String, TcpListener)>,
    interval: Option<Duration>,
    maillog: Maillog,
    kind: Kind,
) -> Result<Running, StartError> {
    let control = server::bind(&config.queue_directory).map_err(|source| StartError::Control {
        directory: config.queue_directory.display().to_string(),
        source,
    })?;
    let mailers = Arc::new(Mailers::new(config.clone(), world.clone(), store.clone()));
    let house = House {
        config: config.clone(),
        store: store.clone(),
        world: world.clone(),
        mailers,
        maillog: maillog.clone(),
    };
    let tls = server_tls(&config)?;
    let (stop, stopped) = watch::channel(false);
    let (yield_to, yielded) = watch::channel(false);
    let (wake, accepted) = mpsc::channel::<Accepted>(ACCEPTED_MAX);
    let (ask, runs) = mpsc::channel::<RunRequest>(RUNS_MAX);
    let events = maillog.clone();
    let outlets = Outlets {
        wake: wake.clone(),
        etrn: etrn(ask.clone()),
        events: Arc::new(move |event| log_session(&events, &event)),
    };
    let acceptor = Arc::new(Acceptor::new(config.clone(), world, store, tls, outlets));
    let sessions = Arc::new(Sessions::new(config.limits.sessions));
    let sources = Sources { accepted, runs, stop: stopped.clone() };
    let initiative = match kind {
        Kind::Daemon => Initiative::Due,
        Kind::Holder => Initiative::Asked,
    };
    let runner = tokio::spawn(Runner::new(house.clone(), interval, initiative).run(sources, GRACE));
    let desk = Arc::new(Desk {
        house: house.clone(),
        acceptor: acceptor.clone(),
        wake,
        runs: ask.clone(),
        stop: stopped.clone(),
        trusted: trusted_uids(&config),
        yield_to: (kind == Kind::Holder).then_some(yield_to),
    });
    let control = tokio::spawn(server::serve(control, desk, stopped.clone()));
    let (_, current) = watch::channel(acceptor);
    let mut listeners = Vec::new();
    for (name, socket) in sockets {
        let listener = Listener::inherited(socket, name).map_err(StartError::Socket)?;
        let serving = listener::serve(listener, current.clone(), sessions.clone(), stopped.clone());
        listeners.push(tokio::spawn(serving));
    }
    let fresh = mailers_fresh(&house);
    Ok(Running { house, runs: ask, stop, yielded, runner, control, listeners, sessions, fresh })
}

impl Running {
    /// Starts one run of the whole queue.
    pub async fn run_queue(&self) {
        // The runner takes requests for as long as the house stands.
        let _ = self.runs.send(RunRequest::Queue { run: Run::default(), progress: None }).await;
    }

    /// Resolves when a starting daemon asks for the store.
    pub async fn asked_to_yield(&mut self) {
        if self.yielded.wait_for(|yielded| *yielded).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Stops taking and starting, lets attempts under way end, and closes the store cleanly.
    pub async fn stop(self) -> Result<(), StoreError> {
        self.stop.send_replace(true);
        for listener in self.listeners {
            let _ = listener.await;
        }
        let _ = self.runner.await;
        let _ = self.control.await;
        self.sessions.finish().await;
        self.fresh.abort();
        self.house.mailers.dismiss_idle();
        let socket = self.house.config.queue_directory.join(crate::control::client::SOCKET);
        // Gone already, or nobody's after this: the next holder removes it all the same.
        let _ = std::fs::remove_file(socket);
        self.house.store.close().await
    }
}

fn mailers_fresh(house: &House) -> JoinHandle<()> {
    let mailers = house.mailers.clone();
    tokio::spawn(async move {
        mailers.keep_pool_fresh().await;
    })
}

/// What a session tells, as lines of the log.
fn log_session(maillog: &Maillog, event: &Event<'_>) {
    match *event {
        Event::Connected { relay, .. } => maillog.connected(relay),
        Event::TurnedAway { address, daemon, why } => {
            let client = address.map_or_else(String::new, |address| format!(" ({address})"));
            maillog.rejecting_connections(daemon, &format!("{why}{client}"));
        }
        Event::TakingAgain { daemon } => maillog.accepting_connections(daemon),
        Event::Refused { id, ruleset, argument, relay, reply } => {
            maillog.rejected(id, &Rejection { ruleset, argument, relay, reply });
        }
        Event::Accepted { id, envelope, recipients, daemon } => {
            maillog.accepted(id, envelope, recipients, Some(daemon));
        }
        Event::Rejected { id, from, relay, reply } => {
            let rejection = Rejection { ruleset: "check_data", argument: from, relay, reply };
            maillog.rejected(Some(id), &rejection);
        }
        Event::StoreTrouble { id, error } => {
            maillog.warning(id, &format!("{error}; the client was told to try again later"));
        }
        Event::Lost { id, relay } => maillog.lost_input(id, relay, "MTA", "MAIL"),
        Event::NoMail { relay, daemon, parting } => log_parting(maillog, relay, daemon, parting),
        Event::TlsStarted { relay, facts } => maillog.tls_started(Side::Server, relay, facts),
        Event::TlsFailed { relay, error } => {
            maillog.tls_failed(Side::Server, relay, &error.to_string());
        }
        Event::Etrn { relay, selection } => {
            maillog.queue_run(relay, &format!("ETRN {:?}", selection.terms));
        }
    }
}

fn log_parting(maillog: &Maillog, relay: &str, daemon: &str, parting: Parting) {
    let _ = parting;
    maillog.did_nothing(relay, daemon);
}

fn server_tls(config: &Config) -> Result<Option<Arc<dyn TlsAccept>>, StartError> {
    match &config.server_certificate {
        None => Ok(None),
        Some((certificate, key)) => match ServerTls::load(certificate, key) {
            Ok(tls) => Ok(Some(Arc::new(tls))),
            Err(error) => Err(StartError::Tls(error.to_string())),
        },
    }
}

/// ETRN's wishes become runs like any other.
fn etrn(runs: mpsc::Sender<RunRequest>) -> mpsc::Sender<Selection> {
    let (ask, mut asked) = mpsc::channel::<Selection>(RUNS_MAX);
    tokio::spawn(async move {
        while let Some(selection) = asked.recv().await {
            let run = Run { selection, ..Run::default() };
            if runs.send(RunRequest::Queue { run, progress: None }).await.is_err() {
                return;
            }
        }
    });
    ask
}

/// The daemon's own uid and TrustedUser's.
fn trusted_uids(config: &Config) -> Vec<u32> {
    let own = nix::unistd::geteuid().as_raw();
    let trusted = config
        .trusted_user
        .as_deref()
        .and_then(|name| nix::unistd::User::from_name(name).ok().flatten())
        .map(|user| user.uid.as_raw());
    [Some(own), trusted].into_iter().flatten().collect()
}
