//! Puts the house together: store, doors, stations, control socket; and takes it down in order.
//!
//! Used by the daemon, which listens, and by a *holder*: a command that found no daemon, may open the store itself, and
//! serves the socket while it does.
//!
//! A reload ([`Running::reload`]) makes every part that has a configuration anew, on the same store, and exchanges it for
//! what comes next: sessions, requests and attempts under way end as they began.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::ports::Port;
use super::status_file::{self, Keeping};
use crate::accept::listener::{self, Listener, Sessions};
use crate::accept::{Acceptor, Event, Outlets};
use crate::config::{Config, switch};
use crate::control::server::{self, Desk};
use crate::deliver::Mailers;
use crate::mail::job::Mailer;
use crate::mail::selection::Selection;
use crate::maillog::{Maillog, Rejection, Side};
use crate::queue::House;
use crate::queue::run::{Run, RunRequest};
use crate::queue::runner::{Initiative, Runner, Sources};
use crate::smtp::server::Parting;
use crate::store::history::{History, HistoryOptions};
use crate::store::{Accepted, Store, StoreError, StoreOptions, Tally, Upkept};
use crate::world::dns::{DnsOptions, HostSource};
use crate::world::tls::TlsFault;
use crate::world::{Clock, World};

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
    outlets: Outlets,
    stop: watch::Sender<bool>,
    /// For the control socket, which is open for as long as the store can take a message.
    close: watch::Sender<bool>,
    /// For the runner, the sessions and the control socket: what they work by from now on.
    houses: watch::Sender<House>,
    acceptors: watch::Sender<Arc<Acceptor>>,
    desks: watch::Sender<Arc<Desk>>,
    runner: JoinHandle<()>,
    control: JoinHandle<()>,
    ports: Vec<Port>,
    /// One for each port.
    listeners: Vec<JoinHandle<()>>,
    sessions: Arc<Sessions>,
    /// Dismisses connections that were idle for too long.
    fresh: JoinHandle<()>,
    /// Tells of the upkeep of the store.
    upkeep: JoinHandle<()>,
    history: Option<History>,
    /// StatusFile, which is the daemon's.
    status_file: Option<Keeping>,
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
        search: config.name_search_list.clone(),
        has_wildcard_mx: config.has_wildcard_mx,
        work_around_broken_aaaa: config.work_around_broken_aaaa,
        sources: config
            .host_sources
            .iter()
            .map(|source| match source {
                switch::HostSource::Files => HostSource::Files,
                switch::HostSource::Dns => HostSource::Dns,
            })
            .collect(),
        // A machine without one, or whose file nobody may read, has DNS; that of HostsFile was looked at with the configuration.
        hosts: crate::config::check::read_file(&config.hosts_file).unwrap_or_default(),
    }
}

/// Says in the log which files of TLS could not be used, and what happens without them.
pub fn tell_faults(maillog: &Maillog, faults: &[TlsFault]) {
    for fault in faults {
        maillog.error(None, &format!("{fault}; {}", fault.without_it()));
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
    /// A listening socket.
    #[error("cannot watch a listening socket: {0}")]
    Socket(#[source] io::Error),
}

/// Starts everything on the present runtime. `interval` is `-q15m`.
pub async fn start(
    config: Arc<Config>,
    world: World,
    store: Store,
    ports: Vec<Port>,
    interval: Option<Duration>,
    maillog: Maillog,
    kind: Kind,
) -> Result<Running, StartError> {
    let control = server::bind(&config.queue_directory).map_err(|source| StartError::Control {
        directory: config.queue_directory.display().to_string(),
        source,
    })?;
    let house = furnish(config, world, store, maillog.clone());
    // Behind what may fail: its thread and the log hold each other until the house stops.
    let history = history(&house.config, &house, kind);
    let (stop, stopped) = watch::channel(false);
    let (close, closed) = watch::channel(false);
    let (wake, accepted) = mpsc::channel::<Accepted>(ACCEPTED_MAX);
    let (ask, runs) = mpsc::channel::<RunRequest>(RUNS_MAX);
    let (events, counted) = (maillog.clone(), house.store.clone());
    let outlets = Outlets {
        wake,
        etrn: etrn(ask.clone()),
        events: Arc::new(move |event| {
            count_session(&counted, &event);
            log_session(&events, &event);
        }),
    };
    let (houses, furnished) = watch::channel(house.clone());
    let (acceptors, _) = watch::channel(acceptor(&house, &outlets, interval));
    let sources = Sources { accepted, runs, houses: furnished, stop: stopped.clone() };
    let initiative = match kind {
        Kind::Daemon => Initiative::Due,
        Kind::Holder => Initiative::Asked,
    };
    let runner = tokio::spawn(Runner::new(house.clone(), interval, initiative).run(sources, GRACE));
    let desk = Desk {
        house: house.clone(),
        acceptor: acceptors.borrow().clone(),
        wake: outlets.wake.clone(),
        runs: ask.clone(),
        stop: stopped.clone(),
        trusted: trusted_uids(&house.config),
        // A starting daemon gets the store as soon as this command has put down what it is at.
        yield_to: (kind == Kind::Holder).then(|| stop.clone()),
        history: history.clone(),
    };
    let (desks, current) = watch::channel(Arc::new(desk));
    let control = tokio::spawn(server::serve(control, current, closed));
    let fresh = mailers_fresh(&house);
    let status_file = (kind == Kind::Daemon).then(|| status_file::keep(houses.subscribe()));
    let upkeep = upkeep_told(&house);
    let mut running = Running {
        house,
        runs: ask,
        outlets,
        stop,
        close,
        houses,
        acceptors,
        desks,
        runner,
        control,
        ports: Vec::new(),
        listeners: Vec::new(),
        sessions: Arc::default(),
        fresh,
        upkeep,
        history,
        status_file,
    };
    running.listeners = running.listen(&ports)?;
    running.ports = ports;
    Ok(running)
}

/// The history this configuration keeps. It is a help for people: the house stands without it, and says so.
fn history(config: &Config, house: &House, kind: Kind) -> Option<History> {
    let directory = &config.queue_directory;
    if config.history_time.is_zero() {
        if let (Kind::Daemon, Err(error)) = (kind, History::forget(directory)) {
            house.maillog.warning(None, &format!("history: cannot remove the old one: {error}"));
        }
        return None;
    }
    let (clock, maillog) = (house.world.clock.clone(), house.maillog.clone());
    let opened = History::open(HistoryOptions {
        directory: directory.clone(),
        keep: config.history_time,
        size_max: config.history_size,
        min_free: config.min_free_octets,
        clock: Arc::new(move || clock.now()),
        tell: Box::new(move |line| maillog.warning(None, line)),
    });
    match opened {
        Ok(history) => {
            house.maillog.keep_history(history.clone());
            Some(history)
        }
        Err(error) => {
            house.maillog.warning(None, &format!("history: {error}; none is kept"));
            None
        }
    }
}

impl Running {
    /// Goes on under another configuration, on `ports`. What is under way ends as it began; on an error nothing has changed.
    ///
    /// # Errors
    /// `Socket`.
    pub fn reload(
        &mut self,
        config: Arc<Config>,
        world: World,
        ports: Vec<Port>,
    ) -> Result<(), StartError> {
        let House { store, maillog, .. } = self.house.clone();
        let house = furnish(config, world, store, maillog);
        let interval = self.acceptors.borrow().interval();
        let acceptor = acceptor(&house, &self.outlets, interval);
        let listeners = self.listen(&ports)?;
        let before = self.desks.borrow().clone();
        self.desks.send_replace(Arc::new(Desk {
            house: house.clone(),
            acceptor: acceptor.clone(),
            wake: before.wake.clone(),
            runs: before.runs.clone(),
            stop: before.stop.clone(),
            trusted: trusted_uids(&house.config),
            yield_to: before.yield_to.clone(),
            history: before.history.clone(),
        }));
        self.acceptors.send_replace(acceptor);
        self.houses.send_replace(house.clone());
        // Who waits in the kernel to be taken waits for the new ones: it is one socket for both.
        for listener in std::mem::replace(&mut self.listeners, listeners) {
            listener.abort();
        }
        self.ports = ports;
        self.fresh.abort();
        self.fresh = mailers_fresh(&house);
        self.house.mailers.dismiss_idle();
        self.house.maillog.set_level(house.config.log_level);
        self.house = house;
        Ok(())
    }

    /// The ports in use.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// The SMTP sessions under way.
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// The house in force, reload by reload.
    pub fn houses(&self) -> watch::Receiver<House> {
        self.houses.subscribe()
    }

    /// Starts taking connections of each port.
    fn listen(&self, ports: &[Port]) -> Result<Vec<JoinHandle<()>>, StartError> {
        let mut listeners = Vec::new();
        for port in ports {
            let socket = port.socket.try_clone().map_err(StartError::Socket)?;
            listeners.push(
                Listener::inherited(socket, port.name.clone(), port.tls)
                    .map_err(StartError::Socket)?,
            );
        }
        let serve = |listener| {
            let acceptors = self.acceptors.subscribe();
            let stop = self.stop.subscribe();
            tokio::spawn(listener::serve(listener, acceptors, self.sessions.clone(), stop))
        };
        Ok(listeners.into_iter().map(serve).collect())
    }

    /// Starts one run of the queue.
    pub async fn run_queue(&self, run: Run) {
        // The runner takes requests for as long as the house stands.
        let _ = self.runs.send(RunRequest::Queue { run, progress: None }).await;
    }

    /// Stops taking and starting, lets attempts under way end, and closes the store cleanly. Programs hand mail in until shortly
    /// before that: what they bring waits for the next start.
    pub async fn stop(self) -> Result<(), StoreError> {
        self.stop.send_replace(true);
        for listener in self.listeners {
            let _ = listener.await;
        }
        let _ = self.runner.await;
        self.sessions.finish().await;
        self.close.send_replace(true);
        let _ = self.control.await;
        self.fresh.abort();
        self.upkeep.abort();
        self.house.mailers.dismiss_idle();
        let socket = self.house.config.queue_directory.join(crate::control::client::SOCKET);
        // Gone already, or nobody's after this: the next holder removes it all the same.
        let _ = std::fs::remove_file(socket);
        if let Some(status_file) = self.status_file {
            status_file.finish().await;
        }
        if let Some(history) = self.history {
            // It waits for a thread that writes.
            let _ = tokio::task::spawn_blocking(move || history.close()).await;
        }
        self.house.store.close().await
    }
}

/// A house on this store, with mailers of its own.
fn furnish(config: Arc<Config>, world: World, store: Store, maillog: Maillog) -> House {
    let mailers = Arc::new(Mailers::new(config.clone(), world.clone(), store.clone()));
    House { config, store, world, mailers, maillog }
}

fn acceptor(house: &House, outlets: &Outlets, interval: Option<Duration>) -> Arc<Acceptor> {
    let House { config, world, store, .. } = house.clone();
    let acceptor = Acceptor::new(config, world, store, outlets.clone());
    Arc::new(acceptor.running_every(interval))
}

/// Tells what becomes of queue.redb, until the store ends.
fn upkeep_told(house: &House) -> JoinHandle<()> {
    let (mut upkept, maillog) = (house.store.upkept(), house.maillog.clone());
    tokio::spawn(async move {
        while upkept.changed().await.is_ok() {
            match &*upkept.borrow_and_update() {
                Some(Upkept::Shrunk { before, after }) => {
                    maillog.shrank("queue.redb", *before, *after);
                }
                Some(Upkept::NotShrunk(reason)) => {
                    let text =
                        format!("queue.redb: cannot shrink it: {reason}; an hour of waiting");
                    maillog.warning(None, &text);
                }
                None => {}
            }
        }
    })
}

fn mailers_fresh(house: &House) -> JoinHandle<()> {
    let mailers = house.mailers.clone();
    tokio::spawn(async move {
        mailers.keep_pool_fresh().await;
    })
}

/// What a session tells, as statistics; what it accepts, the store counts.
fn count_session(store: &Store, event: &Event<'_>) {
    match event {
        Event::Connected { .. } => store.tally(Tally::ConnectionFrom),
        Event::TurnedAway { .. } => store.tally(Tally::ConnectionRejected),
        Event::Refused { .. } | Event::Rejected { .. } => {
            store.tally(Tally::Rejected(Mailer::Esmtp));
        }
        Event::TakingAgain { .. }
        | Event::Accepted { .. }
        | Event::StoreTrouble { .. }
        | Event::Lost { .. }
        | Event::NoMail { .. }
        | Event::TlsStarted { .. }
        | Event::TlsFailed { .. }
        | Event::NoHelp { .. }
        | Event::Etrn { .. } => {}
    }
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
        Event::NoHelp { path, error } => {
            let path = path.display();
            let text = format!("HelpFile {path}: {error}; HELP answers from the built-in text");
            maillog.warning(None, &text);
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
