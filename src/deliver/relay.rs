//! The walk over hosts and transactions: SMTP and LMTP.
//!
//! Hosts in the order of the hops, addresses in theirs, an idle connection to a host before a new one. On a connection
//! one transaction after the other, at most [`RECIPIENTS_MAX`] recipients each, with what was taken made durable between
//! them. What a lost connection means is read off [`super::trouble`].

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::{Connection, Transacted};
use super::content::{Content, Version};
use super::pool::Pool;
use super::trouble::{self, Course, Scene, Whose};
use super::{Attempted, Backing, Manner, Notice};
use crate::config::Config;
use crate::mail::envelope::{Envelope, Recipient, RecipientState};
use crate::mail::job::{Job, Mailer};
use crate::mail::outcome::{Attempt, HostOutcome, Outcome, RemoteHost, Report};
use crate::mail::status::EnhancedStatus;
use crate::mail::time::Timestamp;
use crate::route::Hop;
use crate::smtp::client::{Dialect, Fault, Letter, Settings, StepTimeouts};
use crate::store::StoreError;
use crate::world::World;

/// Recipients of one transaction: what every server must take (RFC 5321 4.5.3.1.8), and sendmail's usual r=100.
const RECIPIENTS_MAX: usize = 100;
/// Connections that may fail one attempt: a domain with a hundred dead addresses must not hold a slot for a hundred
/// timeouts.
const FAILURES_MAX: u32 = 10;
/// Longest DialDelay: an attempt that waits keeps its place.
const DIAL_DELAY_MAX: Duration = Duration::from_secs(300);
/// A connect without a limit of ours: longer than any system waits.
const CONNECT_UNLIMITED: Duration = Duration::from_secs(3600);

/// What an attempt works with.
pub(super) struct Relay<'a> {
    pub(super) config: &'a Config,
    pub(super) world: &'a World,
    pub(super) backing: &'a dyn Backing,
    pub(super) pool: &'a Pool,
}

/// How far an attempt is.
struct Progress<'a> {
    job: &'a Job,
    content: Content<'a>,
    manner: Manner<'a>,
    /// By place in the job.
    outcomes: Vec<Option<Outcome>>,
    /// Places without an outcome, in order.
    waiting: Vec<usize>,
    /// Recipients of the next transaction at most; hosts that take fewer lower it.
    batch_max: usize,
    /// Taken by a peer and not durable.
    unsaved: Vec<(u32, RecipientState)>,
    /// The trouble met, while not everybody has an outcome.
    trouble: Trouble,
    /// Connections that could not be made, greeted, or kept.
    failures: u32,
    connect_by: Option<Instant>,
    /// DialDelay, until the first connection was made or not.
    dial_delay: Duration,
    hosts: Vec<HostOutcome>,
    notices: Vec<Notice>,
    farewell: Vec<String>,
}

/// The worst that all hosts so far agree on; the report is the last host's.
enum Trouble {
    /// No host was asked.
    None,
    /// Every host said that it never takes mail.
    ForGood(Report),
    /// Hosts could not be spoken to.
    Hosts(Report),
    /// A host was spoken to about this message.
    Message(Report),
}

/// Where one socket leads.
enum Door {
    Tcp(SocketAddr),
    Path(PathBuf),
}

/// How a conversation ended.
enum Talk {
    /// Nobody is left to ask for.
    Done,
    /// The connection is over and it was only its own trouble: the same host again, on a new one.
    Again,
    /// The connection is over: on to the next address or host.
    Lost,
}

impl Relay<'_> {
    pub(super) async fn attempt(
        &self,
        job: &Job,
        hops: Vec<Hop>,
        bytes: Option<Arc<[u8]>>,
        manner: Manner<'_>,
    ) -> Result<Attempted, StoreError> {
        let mut progress = Progress {
            job,
            content: Content::new(self.config, job, self.backing, bytes),
            manner,
            outcomes: job.recipients.iter().map(|_| None).collect(),
            waiting: (0..job.recipients.len()).collect(),
            batch_max: self.batch_max(job),
            unsaved: Vec::new(),
            trouble: Trouble::None,
            failures: 0,
            connect_by: self.config.timeouts.aconnect.map(|limit| Instant::now() + limit),
            dial_delay: self.config.dial_delay.min(DIAL_DELAY_MAX),
            hosts: Vec::new(),
            notices: Vec::new(),
            farewell: Vec::new(),
        };
        let mut own_trouble = None;
        for hop in hops {
            let (name, doors) = doors(hop);
            if progress.waiting.is_empty() || progress.failures >= FAILURES_MAX {
                break;
            }
            if (manner.skip)(&name) {
                continue;
            }
            if let Err(error) = self.host(&name, &doors, &mut progress).await {
                own_trouble = Some(error);
                break;
            }
        }
        self.conclude(progress, own_trouble)
    }

    /// LMTP says yes recipient by recipient, so there a transaction is no larger than what may be repeated after a crash.
    fn batch_max(&self, job: &Job) -> usize {
        match job.destination.mailer {
            Mailer::Lmtp | Mailer::Local => {
                self.config.checkpoint_interval.clamp(1, RECIPIENTS_MAX)
            }
            Mailer::Esmtp | Mailer::Relay => RECIPIENTS_MAX,
        }
    }

    /// Everything that can be done with one host.
    async fn host(
        &self,
        name: &str,
        doors: &[Door],
        progress: &mut Progress<'_>,
    ) -> Result<(), StoreError> {
        let destination = &progress.job.destination;
        let mut idle = match progress.manner.transcript {
            None => self.pool.take(destination, name, self.config.connection_cache_timeout),
            Some(_) => None,
        };
        let mut next = 0;
        loop {
            let connection = match idle.take() {
                Some(connection) => connection,
                None => match self.open_any(name, doors, &mut next, progress).await {
                    Some(connection) => connection,
                    None => return Ok(()),
                },
            };
            match self.converse(connection, progress).await? {
                Talk::Done => return Ok(()),
                Talk::Again => {}
                Talk::Lost => next += 1,
            }
        }
    }

    /// A connection, greeted and encrypted as far as possible, to the first address from `next` on that gives one. None
    /// when there is no such address; what went wrong is in `progress`.
    async fn open_any(
        &self,
        name: &str,
        doors: &[Door],
        next: &mut usize,
        progress: &mut Progress<'_>,
    ) -> Option<Connection> {
        let mut met = None;
        while let Some(door) = doors.get(*next) {
            if progress.failures >= FAILURES_MAX {
                break;
            }
            match self.open(name, door, progress).await {
                Ok(connection) => return Some(connection),
                Err(trouble) => met = Some(trouble),
            }
            *next += 1;
        }
        if let Some((report, whose)) = met {
            progress.hosts.push(host_outcome(name, false, &report));
            progress.note(report, whose);
        }
        None
    }

    async fn open(
        &self,
        name: &str,
        door: &Door,
        progress: &mut Progress<'_>,
    ) -> Result<Connection, (Report, Whose)> {
        let host = RemoteHost { name: name.to_owned(), address: door.address() };
        let sink = progress.manner.transcript;
        let mut tls = self.config.client_starttls;
        loop {
            if let Some(sink) = sink {
                sink(&progress.connecting(&host, door));
            }
            let stream = match self.connect_or_dial(door, progress).await {
                Ok(stream) => stream,
                Err(error) => {
                    progress.failures += 1;
                    let report = self.scene(&host).no_connection(&error);
                    return Err((report, Whose::Host));
                }
            };
            let mut connection =
                Connection::new(stream, host.clone(), self.settings(progress, tls));
            let ready = connection.ready(&*self.world.net, sink, &mut progress.notices).await;
            let Err(fault) = ready else { return Ok(connection) };
            progress.failures += 1;
            if tls && trouble::is_tls_trouble(&fault) {
                let reason = match &fault {
                    Fault::Tls(words) => words.clone(),
                    fault => self.scene(&host).lost(fault).text,
                };
                progress.notices.push(Notice::TlsFailed { host: host.clone(), reason });
                if self.config.tls.falls_back_to_clear {
                    tls = false;
                    continue;
                }
            }
            return Err((self.scene(&host).lost(&fault), trouble::whose(&fault)));
        }
    }

    /// A connection; the first of an attempt is made once more after DialDelay, when the line may stand.
    async fn connect_or_dial(
        &self,
        door: &Door,
        progress: &mut Progress<'_>,
    ) -> io::Result<Box<dyn crate::world::Stream>> {
        let delay = std::mem::take(&mut progress.dial_delay);
        let connected = self.connect(door, progress).await;
        let again = Instant::now() + delay;
        let in_time = progress.connect_by.is_none_or(|by| again < by);
        match (connected, door) {
            (Err(_), Door::Tcp(_)) if !delay.is_zero() && in_time => {
                tokio::time::sleep_until(again).await;
                self.connect(door, progress).await
            }
            (connected, _) => connected,
        }
    }

    async fn connect(
        &self,
        door: &Door,
        progress: &Progress<'_>,
    ) -> io::Result<Box<dyn crate::world::Stream>> {
        let timeouts = &self.config.timeouts;
        let first = if progress.job.attempts == 0 { timeouts.iconnect } else { Duration::ZERO };
        // sendmail: iconnect 0 is as connect, connect 0 leaves it to the system.
        let limit = [first, timeouts.connect].into_iter().find(|limit| !limit.is_zero());
        let by = Instant::now() + limit.unwrap_or(CONNECT_UNLIMITED);
        let by = progress.connect_by.map_or(by, |total| total.min(by));
        let stream = match door {
            Door::Tcp(address) => {
                let of_its_family = |from: &&IpAddr| from.is_ipv4() == address.is_ipv4();
                let from = self.config.client_addresses.iter().find(of_its_family);
                self.world.net.connect(*address, from.copied())
            }
            Door::Path(path) => self.world.net.connect_path(path),
        };
        let connected = tokio::time::timeout_at(by, stream).await;
        let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if let (Ok(_), Door::Tcp(_)) = (&connected, door) {
            self.backing.connected();
        }
        connected
    }

    fn settings(&self, progress: &Progress<'_>, tls: bool) -> Settings {
        let timeouts = &self.config.timeouts;
        let dialect = match progress.job.destination.mailer {
            Mailer::Lmtp | Mailer::Local => Dialect::Lmtp,
            Mailer::Esmtp | Mailer::Relay => Dialect::Smtp,
        };
        Settings {
            helo: self.config.helo_name.as_ref().unwrap_or(&self.config.host_name).clone(),
            dialect,
            tls,
            timeouts: StepTimeouts {
                greeting: timeouts.initial,
                hello: match dialect {
                    Dialect::Smtp => timeouts.helo,
                    Dialect::Lmtp => timeouts.lhlo,
                },
                starttls: timeouts.starttls,
                mail: timeouts.mail,
                rcpt: timeouts.rcpt,
                data_init: timeouts.datainit,
                data_block: timeouts.datablock,
                data_final: timeouts.datafinal,
                reset: timeouts.rset,
                quit: timeouts.quit,
            },
        }
    }

    /// Transactions on one connection until nobody waits or it is over.
    async fn converse(
        &self,
        mut connection: Connection,
        progress: &mut Progress<'_>,
    ) -> Result<Talk, StoreError> {
        let sink = progress.manner.transcript;
        loop {
            let used = connection.was_used();
            let ready = connection.ready(&*self.world.net, sink, &mut progress.notices).await;
            if let Err(fault) = ready {
                return Ok(self.lost(&connection, &fault, used, progress));
            }
            let Some(version) = progress.content.for_offer(connection.offer()).await? else {
                let report = self.scene(connection.host()).lacks_8bit();
                progress.fail(&report);
                progress.took(&connection);
                self.keep(connection, progress).await;
                return Ok(Talk::Done);
            };
            let batch = progress.batch();
            let letter = progress.letter(&version, &batch, self.world.clock.now());
            let mut source = version.source(progress.job, self.backing);
            let done = connection.transact(letter, &mut source, sink).await;
            progress.remark(source.notices());
            let fault = self.apply(&connection, &batch, done, progress)?;
            if let Some(fault) = fault {
                return Ok(self.lost(&connection, &fault, used, progress));
            }
            if progress.waiting.is_empty() {
                progress.took(&connection);
                self.keep(connection, progress).await;
                return Ok(Talk::Done);
            }
            self.checkpoint(progress).await?;
        }
    }

    /// Enters the fates of a transaction; the fault that ended the connection, if one did.
    fn apply(
        &self,
        connection: &Connection,
        batch: &[usize],
        done: Transacted,
        progress: &mut Progress<'_>,
    ) -> Result<Option<Fault>, StoreError> {
        let scene = self.scene(connection.host());
        let mut later = 0;
        for (place, fate) in done.fates {
            let Some(&place) = batch.get(place) else { continue };
            match trouble::course(fate, progress.job.destination.mailer, scene) {
                Course::Settled(outcome) => progress.settle(place, outcome),
                Course::NextTransaction => later += 1,
                Course::NextHost => {}
                Course::InDoubt => {
                    let report = match &done.fault {
                        Some(fault) => scene.lost(fault),
                        None => trouble::own("connection ended without a reason", scene.at),
                    };
                    progress.settle(place, Outcome::Deferred(report));
                }
            }
        }
        let outcomes = &progress.outcomes;
        let before = progress.waiting.len();
        progress.waiting.retain(|&place| outcomes[place].is_none());
        if later > 0 {
            progress.batch_max = (batch.len() - later).max(1);
        }
        match done.own {
            Some(error) => Err(error),
            // A transaction that settles nobody and ends well cannot be (Fate::Later needs company): never ask for ever.
            None if done.fault.is_none() && progress.waiting.len() == before => {
                Ok(Some(Fault::Dismissed))
            }
            None => Ok(done.fault),
        }
    }

    /// What the end of a connection means for the walk.
    fn lost(
        &self,
        connection: &Connection,
        fault: &Fault,
        used: bool,
        progress: &mut Progress<'_>,
    ) -> Talk {
        let whose = trouble::whose(fault);
        if progress.waiting.is_empty() {
            if whose == Whose::Connection {
                progress.took(connection);
            }
            return Talk::Done;
        }
        if used && trouble::is_before_any_reply(fault) {
            return Talk::Again;
        }
        let report = self.scene(connection.host()).lost(fault);
        if whose == Whose::Host {
            progress.hosts.push(host_outcome(&connection.host().name, false, &report));
        }
        progress.note(report, whose);
        progress.failures += 1;
        Talk::Lost
    }

    /// Makes durable what was taken so far, before more is asked for.
    async fn checkpoint(&self, progress: &mut Progress<'_>) -> Result<(), StoreError> {
        if progress.unsaved.is_empty() {
            return Ok(());
        }
        self.backing.checkpoint(progress.job.id, std::mem::take(&mut progress.unsaved)).await
    }

    async fn keep(&self, connection: Connection, progress: &mut Progress<'_>) {
        match progress.manner.transcript {
            None => self.pool.put(
                &progress.job.destination,
                connection,
                self.config.connection_cache_size,
            ),
            Some(_) => {
                let closing = format!("Closing connection to {}", trouble::name(connection.host()));
                let said = Mutex::new(vec![closing]);
                let note = |line: &str| {
                    said.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_owned());
                };
                connection.quit(&note).await;
                let said = said.into_inner().unwrap_or_else(PoisonError::into_inner);
                progress.farewell.extend(said);
            }
        }
    }

    /// One outcome for everybody, or none at all.
    fn conclude(
        &self,
        progress: Progress<'_>,
        own_trouble: Option<StoreError>,
    ) -> Result<Attempted, StoreError> {
        let at = self.world.clock.now();
        let Progress { job, outcomes, waiting, trouble, hosts, notices, farewell, .. } = progress;
        let known = waiting.len() < outcomes.len();
        let own_trouble = match own_trouble {
            Some(error) if !known => return Err(error),
            own_trouble => own_trouble,
        };
        let skipped = || trouble::all_skipped(&job.destination.next_hop, at);
        let tried = |rest: &dyn Fn() -> Outcome| {
            let outcomes = outcomes.into_iter().map(|own| own.unwrap_or_else(rest));
            let numbers = job.recipients.iter().map(|(number, _)| *number);
            Attempt::Tried(numbers.zip(outcomes).collect())
        };
        let attempt = match (&own_trouble, trouble) {
            (Some(error), _) => tried(&|| Outcome::Deferred(trouble::own(&error.to_string(), at))),
            (None, Trouble::ForGood(report)) if !known => {
                tried(&|| Outcome::Failed(report.clone()))
            }
            (None, Trouble::Hosts(report)) if !known => Attempt::Unreachable(report),
            (None, Trouble::None) if !known => Attempt::Unreachable(skipped()),
            (
                None,
                Trouble::Message(report) | Trouble::Hosts(report) | Trouble::ForGood(report),
            ) => tried(&|| Outcome::Deferred(report.clone())),
            (None, Trouble::None) => tried(&|| Outcome::Deferred(skipped())),
        };
        Ok(Attempted { attempt, hosts, notices, farewell, own_trouble })
    }

    fn scene<'h>(&self, host: &'h RemoteHost) -> Scene<'h> {
        Scene { host, at: self.world.clock.now() }
    }
}

impl Progress<'_> {
    /// Places for the next transaction.
    fn batch(&self) -> Vec<usize> {
        self.waiting.iter().copied().take(self.batch_max).collect()
    }

    fn letter<'v>(&'v self, version: &'v Version, batch: &[usize], now: Timestamp) -> Letter<'v> {
        let recipients = batch
            .iter()
            .filter_map(|&place| self.job.recipients.get(place))
            .map(|(_, recipient)| recipient)
            .collect();
        let envelope = &version.envelope;
        let deliver_by_left = envelope.deliver_by_left(now);
        Letter { envelope, deliver_by_left, recipients, body: version.body.clone() }
    }

    /// Nobody who waits gets it.
    fn fail(&mut self, report: &Report) {
        for place in std::mem::take(&mut self.waiting) {
            self.settle(place, Outcome::Failed(report.clone()));
        }
    }

    /// Each notice once, however many transactions and hosts an attempt has.
    fn remark(&mut self, notices: impl Iterator<Item = Notice>) {
        for notice in notices {
            if !self.notices.contains(&notice) {
                self.notices.push(notice);
            }
        }
    }

    fn settle(&mut self, place: usize, outcome: Outcome) {
        let Some((number, recipient)) = self.job.recipients.get(place) else { return };
        if let Some(state) = taken_state(&outcome, &self.job.envelope, recipient) {
            self.unsaved.push((*number, state));
        }
        if let Some(slot) = self.outcomes.get_mut(place) {
            *slot = Some(outcome);
        }
    }

    fn note(&mut self, report: Report, whose: Whose) {
        let before = std::mem::replace(&mut self.trouble, Trouble::None);
        self.trouble = match (before, whose) {
            (Trouble::Message(_), _) | (_, Whose::Message | Whose::Connection) => {
                Trouble::Message(report)
            }
            (Trouble::None | Trouble::ForGood(_), Whose::HostForGood) => Trouble::ForGood(report),
            (_, Whose::Host | Whose::HostForGood) => Trouble::Hosts(report),
        };
    }

    /// The host served us to the end: it is up, with its last word.
    fn took(&mut self, connection: &Connection) {
        let last = self.outcomes.iter().rev().flatten().find_map(Outcome::report);
        if let Some(report) = last {
            self.hosts.push(host_outcome(&connection.host().name, true, report));
        }
    }

    /// `a@x,b@x... Connecting to mx.example. port 2525 via esmtp...`
    fn connecting(&self, host: &RemoteHost, door: &Door) -> String {
        let mut text = String::new();
        for (_, recipient) in self.waiting.iter().filter_map(|&i| self.job.recipients.get(i)) {
            text.push_str(if text.is_empty() { "" } else { "," });
            text.push_str(recipient.address.as_str());
        }
        let port = match door {
            Door::Tcp(address) if address.port() != 25 => format!(" port {}", address.port()),
            Door::Tcp(_) | Door::Path(_) => String::new(),
        };
        let mailer = self.job.destination.mailer.name();
        format!("{text}... Connecting to {}{port} via {mailer}...", trouble::name(host))
    }
}

impl Door {
    /// As reports and logs show it.
    fn address(&self) -> String {
        match self {
            Door::Tcp(address) => address.ip().to_string(),
            Door::Path(path) => path.display().to_string(),
        }
    }
}

fn doors(hop: Hop) -> (String, Vec<Door>) {
    match hop {
        Hop::Host { name, addresses } => (name, addresses.into_iter().map(Door::Tcp).collect()),
        Hop::Path(path) => (path.display().to_string(), vec![Door::Path(path)]),
    }
}

/// What a checkpoint keeps of an outcome: only what a peer took. The rest is decided when the job is settled.
fn taken_state(
    outcome: &Outcome,
    envelope: &Envelope,
    recipient: &Recipient,
) -> Option<RecipientState> {
    let (report, relayed, owed) = match outcome {
        Outcome::Delivered(report) => (report, false, recipient.notify.success()),
        Outcome::Relayed { report, dsn_aware, by_aware } => {
            (report, true, envelope.owes_relayed(recipient, *dsn_aware, *by_aware))
        }
        Outcome::Failed(_) | Outcome::Deferred(_) | Outcome::Replaced(_) => return None,
    };
    Some(RecipientState::Done { report: Box::new(report.clone()), relayed, reported: !owed })
}

fn host_outcome(name: &str, up: bool, report: &Report) -> HostOutcome {
    let status = if up { EnhancedStatus::new(2, 0, 0) } else { report.status };
    let text = report.reply.as_ref().map_or_else(|| report.text.clone(), ToString::to_string);
    HostOutcome { host: name.to_owned(), up, text, status, at: report.at }
}
