//! Plays `tests/walk/*.txt`: the whole house (sessions, store, queue, deliveries, reports) in a world made of text, where time
//! passes because the text says so.
//!
//! A file holds scenarios, each begun by `== title`. Lines of a scenario:
//!
//! ```text
//! set Name value             before the house stands, or while it is stopped: interval, queuereturn, or any option by its name
//! dns NAME TYPE VALUE        a record; may change later
//! host NAME [VERB: REPLY, then REPLY]  a host at its A record listens, and answers lines that begin with VERB so; the last reply
//!                            stays. VERB may be CONNECT or `.`; REPLY may be `drop`, `hang`, `after 2s 250 ok`; `|` parts its lines
//! down NAME | up NAME        connections are refused, open ones are lost | it listens again
//! submit <from> PARAM to <to> PARAM <to>... | Field: value   one SMTP transaction; `to 2500 at b.example <u@c.example>` is a list;
//!                            `\r\n` parts fields
//! submit 500 times <from> to <u#@b.example>   as many, with their numbers for `#`, one right after the other
//! load N                     the machine's load average
//! run [-qRtext -q!Stext -qIlast] [queuereturn=now] [order=time] [size=3]   an explicit run; `-qIlast` names the last message submitted
//! hold TEXT | release | remove | bounce TEXT | reroute [RELAY]:PORT | reroute route  what an operator does to every message
//! reload                     the house goes on with what was set since it stands
//! damage bodies                               all that is stored of bodies is gone; while the house is stopped
//! wait jobs N                until the list submitted last is unfolded into so many jobs
//! wait finished              until nothing is left of the message submitted last
//! pass 15m                   time passes
//! stop [grace] | crash | start                the house stops in order | is lost with what was not durable | stands again
//! A delivered text begins with the BY of its MAIL, if there was one.
//! expect delivered <to> by HOST | delivered N at DOMAIN | text WORDS | no text WORDS | nothing
//! expect deferred <to> WORDS | untried <to> | attempts <to> N | retry <to> in 15m | held WORDS | queue N | queue empty
//! expect file NAME WORDS      a file that an option named as $here/NAME
//! expect order <to> <to>...   all that was delivered since the last such line, in this order
//! expect connections HOST N (since the last time) | log WORDS | agenda N | deadlines read N (since the last time)
//! ```
//!
//! A delivery that no line expects is an error at the end of its scenario, and so is a run that did not end or a broken invariant
//! of the store. Nothing sleeps: after each line the house works until no thread of it has anything to do.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc as blocking};
use std::time::Duration;

use jiff::tz::TimeZone;
use kvmta::accept::{Acceptor, Caller, Outlets};
use kvmta::config::options::{self, Draft, Turn};
use kvmta::config::{Config, GivingUp, PortTls, SortOrder};
use kvmta::deliver::Mailers;
use kvmta::mail::envelope::RecipientState;
use kvmta::mail::job::{Destination, Entry, JobId, Mailer};
use kvmta::mail::queue_id::QueueId;
use kvmta::mail::selection::{Field, Term};
use kvmta::mail::time::Timestamp;
use kvmta::maillog::{Maillog, Options, Sink};
use kvmta::queue::House;
use kvmta::queue::bounce::bounce;
use kvmta::queue::reroute::reroute;
use kvmta::queue::run::{Progress, Run, RunRequest};
use kvmta::queue::runner::{Initiative, Runner, Sources};
use kvmta::settle::RunSettings;
use kvmta::store::engine::mem::MemDisk;
use kvmta::store::engine::{Batch, Engine, Work};
use kvmta::store::{Accepted, Store, StoreError, StoreOptions};
use kvmta::world::Clock;
use kvmta::world::fake::{FakeWorld, Kind, Record, Said, Zone};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

/// 2026-11-22 06:21:19 UTC.
const BEGIN: Timestamp = Timestamp::from_secs(1_795_328_479);
/// Rounds without any event after which the house counts as quiet: more than a blocking call of it takes on a busy machine.
const QUIET_ROUNDS: u32 = 8;
/// Turns given to every task in one round: more than any chain of tasks that wake each other is long.
const TURNS: u32 = 100;
/// Rounds after which something is taken to run in circles.
const ROUNDS_MAX: u32 = 200_000;
/// Times of quiet after which a run that has not ended will not.
const RUN_ROUNDS_MAX: u32 = 100;
/// Times of quiet after which a file that is not as expected will not be.
const FILE_ROUNDS_MAX: u32 = 10_000;

/// What hosts saw.
#[derive(Default)]
struct Seen {
    /// Recipient, host, message; in order.
    delivered: Vec<(String, String, Arc<str>)>,
    connections: BTreeMap<String, usize>,
    events: usize,
}

#[derive(Clone, Default)]
struct Eyes {
    seen: Arc<Mutex<Seen>>,
    /// Sessions that a script keeps waiting.
    hanging: Arc<AtomicUsize>,
}

struct Hanging(Arc<AtomicUsize>);

impl Hanging {
    fn new(eyes: &Eyes) -> Hanging {
        eyes.hanging.fetch_add(1, Ordering::Relaxed);
        Hanging(eyes.hanging.clone())
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type Script = Arc<Mutex<Vec<(String, VecDeque<String>)>>>;

struct Host {
    address: SocketAddr,
    script: Script,
    listening: Option<JoinHandle<()>>,
}

/// One host's end of one connection.
struct Session {
    name: String,
    script: Script,
    eyes: Eyes,
    stream: BufReader<DuplexStream>,
}

impl Session {
    async fn serve(mut self) {
        let _ = self.converse().await;
    }

    async fn converse(&mut self) -> Option<()> {
        let greeting = format!("220 {} ESMTP", self.name);
        self.answer("CONNECT", &greeting).await?;
        let mut recipients = Vec::new();
        let mut by: Option<String> = None;
        loop {
            let line = self.line().await?;
            let verb = line.get(..4).unwrap_or(&line).to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => {
                    let offer = format!("250-{}|250-PIPELINING|250 8BITMIME", self.name);
                    self.answer(&line, &offer).await?;
                }
                "RCPT" => {
                    if self.answer(&line, "250 2.1.5 ok").await?.starts_with('2') {
                        let path = &line[line.find('<')?..=line.find('>')?];
                        recipients.push(path.to_owned());
                    }
                }
                "MAIL" => {
                    by = line.split_once(" BY=").map(|(_, by)| by.to_owned());
                    self.answer(&line, "250 2.1.0 ok").await?;
                }
                "DATA" if recipients.is_empty() => {
                    self.answer("NONE", "503 5.5.1 no recipients").await?;
                }
                "DATA" => {
                    if self.answer(&line, "354 go on").await?.starts_with('3') {
                        let mut text = by.take().map_or(String::new(), |by| format!("BY={by}\n"));
                        loop {
                            let line = self.line().await?;
                            if line == "." {
                                break;
                            }
                            text.push_str(&line);
                            text.push('\n');
                        }
                        if self.answer(".", "250 2.0.0 ok").await?.starts_with('2') {
                            self.took(std::mem::take(&mut recipients), &text);
                        }
                    }
                    recipients.clear();
                }
                "QUIT" => {
                    self.answer(&line, "221 2.0.0 bye").await?;
                    return None;
                }
                "RSET" => {
                    recipients.clear();
                    self.answer(&line, "250 2.0.0 ok").await?;
                }
                _ => {
                    self.answer(&line, "250 2.0.0 ok").await?;
                }
            }
        }
    }

    fn took(&self, recipients: Vec<String>, text: &str) {
        let mut seen = self.eyes.seen.lock().unwrap();
        let text: Arc<str> = text.into();
        seen.events += 1;
        for recipient in recipients {
            seen.delivered.push((recipient, self.name.clone(), text.clone()));
        }
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        self.eyes.seen.lock().unwrap().events += 1;
        Some(line.trim_end().to_owned())
    }

    /// Says what the script says to `line`, or else `usual`; gives it.
    async fn answer(&mut self, line: &str, usual: &str) -> Option<String> {
        let reply = {
            let mut script = self.script.lock().unwrap();
            let rule = script.iter_mut().find(|(pattern, _)| match pattern.as_str() {
                "." => line == ".",
                pattern => line.contains(pattern),
            });
            match rule {
                Some((_, replies)) if replies.len() > 1 => replies.pop_front()?,
                Some((_, replies)) => replies.front()?.clone(),
                None => usual.to_owned(),
            }
        };
        let reply = match reply.strip_prefix("after ").and_then(|rest| rest.split_once(' ')) {
            Some((length, reply)) => {
                let _hanging = Hanging::new(&self.eyes);
                tokio::time::sleep(duration(length)).await;
                reply.to_owned()
            }
            None => reply,
        };
        match reply.as_str() {
            "drop" => return None,
            "hang" => {
                let _hanging = Hanging::new(&self.eyes);
                while self.line().await.is_some() {}
                return None;
            }
            _ => {}
        }
        let lines = format!("{}\r\n", reply.replace('|', "\r\n"));
        self.stream.get_mut().write_all(lines.as_bytes()).await.ok()?;
        Some(reply)
    }
}

fn duration(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.len() - 1);
    let number: u64 = number.parse().expect("a length of time: 30s, 15m, 4h, 5d");
    Duration::from_secs(match unit {
        "s" => number,
        "m" => number * 60,
        "h" => number * 3600,
        "d" => number * 86_400,
        _ => panic!("{text}: a length of time ends in s, m, h or d"),
    })
}

/// Takes the lines of the log.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A house that stands.
struct Standing {
    store: Store,
    house: House,
    wake: mpsc::Sender<Accepted>,
    acceptor: Arc<Acceptor>,
    runs: mpsc::Sender<RunRequest>,
    houses: watch::Sender<House>,
    stop: watch::Sender<bool>,
    runner: JoinHandle<()>,
}

/// A scenario under way.
struct Play {
    world: FakeWorld,
    zone: Zone,
    hosts: BTreeMap<String, Host>,
    eyes: Eyes,
    config: Config,
    interval: Option<Duration>,
    disk: MemDisk,
    directory: tempfile::TempDir,
    maillog: Maillog,
    log: Lines,
    standing: Option<Standing>,
    runs: Vec<mpsc::Receiver<Progress>>,
    last_id: Option<QueueId>,
    last_text: Arc<str>,
    deadlines_read: u64,
}

impl Play {
    fn new() -> Play {
        let world = FakeWorld::default();
        world.clock.set(BEGIN);
        let log = Lines::default();
        let clock = world.clock.clone();
        let maillog = Maillog::open(Options {
            sink: Sink::Stream(Box::new(log.clone())),
            tag: "kvmta".into(),
            level: 15,
            clock: Arc::new(move || clock.now()),
            zone: TimeZone::UTC,
        });
        Play {
            world,
            zone: Zone::default(),
            hosts: BTreeMap::new(),
            eyes: Eyes::default(),
            config: Config { host_name: "us.example".into(), ..Config::default() },
            interval: Some(duration("15m")),
            disk: MemDisk::new(),
            directory: tempfile::tempdir().unwrap(),
            maillog: maillog.unwrap(),
            log,
            standing: None,
            runs: Vec::new(),
            last_id: None,
            last_text: "".into(),
            deadlines_read: 0,
        }
    }

    fn stand(&mut self) {
        if self.standing.is_some() {
            return;
        }
        let clock = self.world.clock.clone();
        let options = StoreOptions {
            directory: self.directory.path().to_owned(),
            cache_size: 4 << 20,
            body_generation_size: 1 << 30,
            incoming_size: self.config.incoming_size,
            max_unsettled: 200,
            min_free: 0,
            clock: Arc::new(move || clock.now()),
        };
        let store = Store::with_engine(options, Box::new(self.disk.engine()), None).unwrap();
        let config = Arc::new(self.config.clone());
        let world = self.world.world();
        let mailers = Arc::new(Mailers::new(config.clone(), world.clone(), store.clone()));
        let (wake, accepted) = mpsc::channel(2_000);
        let (runs, asked) = mpsc::channel(10);
        let (stop, stopped) = watch::channel(false);
        let maillog = self.maillog.clone();
        let house = House { config, store: store.clone(), world, mailers, maillog };
        let acceptor = self.acceptor(&house, &wake);
        let (house_sender, houses) = watch::channel(house.clone());
        let sources = Sources { accepted, runs: asked, houses, stop: stopped };
        let runner = Runner::new(house.clone(), self.interval, Initiative::Due);
        let runner = tokio::spawn(runner.run(sources, duration("30s")));
        let houses = house_sender;
        self.standing = Some(Standing { store, house, wake, acceptor, runs, houses, stop, runner });
    }

    fn acceptor(&self, house: &House, wake: &mpsc::Sender<Accepted>) -> Arc<Acceptor> {
        let (etrn, _) = mpsc::channel(1);
        let outlets = Outlets { wake: wake.clone(), etrn, events: Arc::new(|_| {}) };
        let House { config, world, store, .. } = house.clone();
        Arc::new(Acceptor::new(config, world, store, outlets).running_every(self.interval))
    }

    /// As SIGHUP does it.
    fn reload(&mut self) -> Result<(), String> {
        let mut standing = self.standing.take().ok_or("the house is down")?;
        let config = Arc::new(self.config.clone());
        let House { world, store, .. } = standing.house.clone();
        let mailers = Arc::new(Mailers::new(config.clone(), world, store));
        standing.house = House { config, mailers, ..standing.house };
        standing.acceptor = self.acceptor(&standing.house, &standing.wake);
        standing.houses.send_replace(standing.house.clone());
        self.standing = Some(standing);
        Ok(())
    }

    fn store(&self) -> &Store {
        &self.standing.as_ref().expect("the house stands").store
    }

    fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        loop {
            let after = entries.last().map(|entry: &Entry| entry.id);
            let page = self.store().list(after, 1000).unwrap();
            if page.is_empty() {
                return entries;
            }
            entries.extend(page);
        }
    }

    /// Waits for the check of body files that a crash left open: it takes as long as the disk does, and the clock here would run on.
    async fn bodies_checked(&mut self) {
        let store = self.store().clone();
        for entry in self.entries() {
            while let Err(StoreError::Unavailable(_)) = store.read_body(&entry.body, 0).await {
                self.quiet().await;
            }
        }
    }

    /// Lets everything run until no thread of the house has anything to do.
    async fn quiet(&mut self) {
        let Some(standing) = &self.standing else { return };
        let store = standing.store.clone();
        let nobody = JobId { queue_id: QueueId::from_u64(1), number: 0 };
        let nowhere = Destination { mailer: Mailer::Esmtp, next_hop: "nowhere".into() };
        let (mut still, mut before) = (0, (0, 0));
        for _ in 0..ROUNDS_MAX {
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
            // Behind what waits for a thread.
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            let commits = self.disk.units().len();
            // Through the writer's queue: what was in it before is committed now.
            store.reroute(nobody, nowhere.clone()).await.unwrap();
            let units: usize = self.disk.units()[commits..].iter().sum();
            // Lines gather for a while: what was said is a sign of life at once.
            self.maillog.flush(Duration::from_secs(10));
            let after = (self.eyes.seen.lock().unwrap().events, self.log.0.lock().unwrap().len());
            let flying = self.eyes.hanging.load(Ordering::Relaxed) == 0
                && self.entries().iter().any(|entry| entry.in_flight);
            let moved = units > 1 || self.disk.units().len() > commits + 1 || after != before;
            still = if moved || flying { 0 } else { still + 1 };
            before = after;
            if still == QUIET_ROUNDS {
                return;
            }
        }
        panic!("never quiet\n{}", self.log_text());
    }

    async fn pass(&mut self, length: Duration) {
        let second = Duration::from_secs(1);
        let step = if length <= 120 * second { second } else { 10 * second }.max(length / 200);
        let mut rest = length;
        while !rest.is_zero() {
            let step = step.min(rest);
            rest -= step;
            self.world.clock.advance(step);
            tokio::time::advance(step).await;
            self.quiet().await;
        }
    }

    fn log_text(&self) -> String {
        self.maillog.flush(Duration::from_secs(10));
        String::from_utf8_lossy(&self.log.0.lock().unwrap()).into_owned()
    }

    fn listen(&mut self, name: &str) {
        let Said::Records(records) = self.zone.ask(name, Kind::A) else {
            panic!("{name} has no address")
        };
        let Some((_, Record::A(address))) = records.into_iter().next_back() else {
            panic!("{name} has no address")
        };
        let address = SocketAddr::new(IpAddr::V4(address), 25);
        let host = self.hosts.entry(name.to_owned()).or_insert_with(|| Host {
            address,
            script: Script::default(),
            listening: None,
        });
        if host.listening.is_some() {
            return;
        }
        let mut listener = self.world.net.listen(host.address);
        let (name, script, eyes) = (name.to_owned(), host.script.clone(), self.eyes.clone());
        host.listening = Some(tokio::spawn(async move {
            // With this task go its sessions.
            let mut sessions = JoinSet::new();
            while let Some(stream) = listener.recv().await {
                *eyes.seen.lock().unwrap().connections.entry(name.clone()).or_default() += 1;
                let session = Session {
                    name: name.clone(),
                    script: script.clone(),
                    eyes: eyes.clone(),
                    stream: BufReader::new(stream),
                };
                sessions.spawn(session.serve());
            }
        }));
    }

    async fn step(&mut self, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim();
        match word {
            "set" => return self.set(rest),
            "dns" => {
                self.zone.add(rest)?;
                self.world.dns.set(self.zone.clone());
                return Ok(());
            }
            "host" => {
                let (name, rule) = rest.split_once(' ').unwrap_or((rest, ""));
                self.listen(name);
                if let Some((pattern, replies)) = rule.rsplit_once(": ") {
                    let replies = replies.split(", then ").map(str::to_owned).collect();
                    let mut script = self.hosts[name].script.lock().unwrap();
                    script.retain(|(old, _)| old != pattern);
                    script.push((pattern.to_owned(), replies));
                }
                return Ok(());
            }
            "up" => {
                self.listen(rest);
                return Ok(());
            }
            "down" => {
                let host = self.hosts.get_mut(rest).ok_or("no such host")?;
                if let Some(task) = host.listening.take() {
                    task.abort();
                    let _ = task.await;
                }
            }
            _ => {}
        }
        if word == "damage" {
            return self.damage_bodies();
        }
        if word != "stop" && word != "crash" {
            self.stand();
        }
        match word {
            "down" => {}
            "start" => self.bodies_checked().await,
            "submit" => match rest.split_once(" times ") {
                None => self.submit(rest).await?,
                Some((count, rest)) => {
                    let count: u32 = count.parse().map_err(|_| "submit N times")?;
                    for number in 0..count {
                        self.submit(&rest.replace('#', &number.to_string())).await?;
                    }
                }
            },
            "run" => self.run(rest).await?,
            "pass" => self.pass(duration(rest)).await,
            "load" => self.world.load.set(rest.parse().map_err(|_| "a number")?),
            "hold" | "release" | "remove" => {
                let ids: Vec<QueueId> = self.entries().iter().map(|entry| entry.id).collect();
                let store = self.store();
                let done = match word {
                    "hold" => store.hold(ids, rest.to_owned()).await,
                    "release" => store.release(ids).await,
                    _ => store.remove(ids).await,
                };
                done.map_err(|error| error.to_string())?;
            }
            "bounce" => {
                let ids: Vec<QueueId> = self.entries().iter().map(|entry| entry.id).collect();
                let standing = self.standing.as_ref().ok_or("the house is down")?;
                for id in ids {
                    let bounced = bounce(&standing.house, id, rest).await;
                    let bounced = bounced.map_err(|error| error.to_string())?;
                    bounced.hand_over(id, &standing.wake, &standing.runs).await;
                }
            }
            "reroute" => {
                let relay = (rest != "route").then(|| rest.to_owned());
                let entries = self.entries();
                let house = self.standing.as_ref().ok_or("the house is down")?.house.clone();
                let done = reroute(&house, &entries, relay, Duration::ZERO).await;
                done.map_err(|error| error.to_string())?;
            }
            "reload" => self.reload()?,
            "wait" if rest == "finished" => {
                let id = self.last_id.ok_or("nothing was submitted")?;
                while self.store().entry(id).unwrap().is_some() {
                    self.quiet().await;
                }
            }
            "wait" => {
                let wanted: usize = rest.trim_start_matches("jobs ").parse().expect("wait jobs N");
                let id = self.last_id.ok_or("nothing was submitted")?;
                while self.store().jobs(id, None, 10_000).unwrap().len() < wanted {
                    self.quiet().await;
                }
            }
            "stop" => self.stop().await?,
            "crash" => self.crash()?,
            "expect" => {
                self.quiet().await;
                // A file is written by a thread of its own, which no queue and no event tells of, and logged after that.
                for _ in 0..FILE_ROUNDS_MAX {
                    let waits = rest.starts_with("file ") || rest.starts_with("log ");
                    if !waits || self.expect(rest).is_ok() {
                        break;
                    }
                    self.quiet().await;
                }
                return self.expect(rest);
            }
            _ => return Err("not a step".into()),
        }
        self.quiet().await;
        if self.standing.is_some() && word != "pass" {
            // What the runner puts off for a moment.
            self.pass(Duration::from_secs(1)).await;
        }
        Ok(())
    }

    fn set(&mut self, line: &str) -> Result<(), String> {
        let (name, value) = line.split_once(' ').ok_or("set Name value")?;
        let config = &mut self.config;
        match name {
            "interval" => self.interval = (value != "none").then(|| duration(value)),
            "MinQueueAge" => config.min_queue_age = duration(value),
            "MaxQueueAge" => config.max_queue_age = Some(duration(value)),
            "SmartHost" => config.smart_host = Some(value.to_owned()),
            "HostStatus" => config.host_status = value == "yes",
            "IncomingSize" => config.incoming_size = value.parse().map_err(|_| "octets")?,
            "DoubleBounceAddress" => config.double_bounce_address = value.parse().ok(),
            "queuereturn" => {
                for timeouts in &mut config.queue_timeouts {
                    timeouts.giving_up = GivingUp::After(duration(value));
                }
            }
            "queuewarn" => config.queue_timeouts[0].warn = Some(duration(value)),
            "ActiveJobs" => config.active_jobs_max = value.parse().map_err(|_| "a number")?,
            _ => {
                let (option, _) = options::find(name).map_err(|error| error.to_string())?;
                let here = self.directory.path().display().to_string();
                let value = &value.replace("$here", &here);
                let mut draft = Draft::new(config.clone());
                let turn = Turn { first: true, command_line: false };
                option.set(&mut draft, value, turn).map_err(|error| error.to_string())?;
                *config = draft.config;
            }
        }
        Ok(())
    }

    async fn submit(&mut self, line: &str) -> Result<(), String> {
        let (line, field) = line.split_once(" | ").unwrap_or((line, "Comments: none"));
        let (from, to) = line.split_once(" to ").ok_or("submit <from> to <to>")?;
        let caller = Caller {
            address: None,
            local_name: "root@localhost".into(),
            daemon: "MTA".into(),
            tls: PortTls::Offered,
        };
        let standing = self.standing.as_ref().ok_or("the house is down")?;
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (acceptor, stop) = (standing.acceptor.clone(), standing.stop.subscribe());
        let session = async move { acceptor.session(Box::new(theirs), caller, stop).await };
        let session = tokio::spawn(session);
        let mut client = BufReader::new(ours);
        let mut commands = vec!["EHLO client.example".to_owned(), format!("MAIL FROM:{from}")];
        let words: Vec<&str> = to.split_whitespace().collect();
        match words[..] {
            [count, "at", domain, ref others @ ..] => {
                let count: u32 = count.parse().map_err(|_| "to N at DOMAIN")?;
                commands.extend((0..count).map(|n| format!("RCPT TO:<r{n}@{domain}>")));
                commands.extend(others.iter().map(|other| format!("RCPT TO:{other}")));
            }
            _ => {
                for word in words {
                    match commands.last_mut() {
                        Some(last) if !word.starts_with('<') => *last = format!("{last} {word}"),
                        _ => commands.push(format!("RCPT TO:{word}")),
                    }
                }
            }
        }
        commands.push("DATA".into());
        let field = field.replace("\\r\\n", "\r\n").replace("\\t", "\t");
        let header = format!("Subject: walk\r\nMessage-Id: <1@a.example>\r\n{field}");
        commands.push(format!("{header}\r\n\r\nthe body\r\n."));
        commands.push("QUIT".into());
        reply(&mut client).await?;
        for command in commands {
            client.get_mut().write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
            let said = reply(&mut client).await?;
            if !said.starts_with(['2', '3']) {
                return Err(format!("{command} got {said}"));
            }
            if let Some((_, rest)) = said.split_once("2.0.0 ")
                && let Some(id) = rest.split_whitespace().find_map(|word| word.parse().ok())
            {
                self.last_id = Some(id);
            }
        }
        session.await.map_err(|error| error.to_string())
    }

    async fn run(&mut self, line: &str) -> Result<(), String> {
        let mut run = Run { wait: true, ..Run::default() };
        let mut settings = RunSettings::default();
        for word in line.split_whitespace() {
            if let Some(spec) = word.strip_prefix("-q") {
                let (negated, spec) =
                    spec.strip_prefix('!').map_or((false, spec), |rest| (true, rest));
                let (field, substring) = spec.split_at(1);
                let field = match field {
                    "I" => Field::QueueId,
                    "R" => Field::Recipient,
                    "S" => Field::Sender,
                    _ => Field::Quarantine,
                };
                let substring = match (substring, self.last_id) {
                    ("last", Some(id)) => id.to_string(),
                    _ => substring.to_owned(),
                };
                run.selection.terms.push(Term { field, negated, substring });
            } else if let Some(value) = word.strip_prefix("queuereturn=") {
                let giving_up = match value {
                    "now" => GivingUp::Now,
                    value => GivingUp::After(duration(value)),
                };
                settings.queue_return = [Some(giving_up); 4];
            } else if let Some(word) = word.strip_prefix("order=") {
                run.order = Some(match word {
                    "time" => SortOrder::Time,
                    "filename" => SortOrder::FileName,
                    "host" => SortOrder::Host,
                    _ => SortOrder::Priority,
                });
            } else if let Some(number) = word.strip_prefix("size=") {
                run.size_max = Some(number.parse().map_err(|_| "a number")?);
            } else {
                return Err(format!("{word}: not part of a run"));
            }
        }
        run.settings = settings;
        let (progress, heard) = mpsc::channel(16);
        self.runs.push(heard);
        let request = RunRequest::Queue { run, progress: Some(progress) };
        let standing = self.standing.as_ref().ok_or("the house is down")?;
        standing.runs.send(request).await.map_err(|_| "the runner is gone".to_owned())
    }

    /// In order, as the daemon does at SIGTERM. Time passes for the attempts under way.
    async fn stop(&mut self) -> Result<(), String> {
        let standing = self.standing.take().ok_or("the house is down")?;
        let Standing { store, house, wake, acceptor, runs, houses, stop, mut runner } = standing;
        drop((house, wake, acceptor, runs, houses));
        stop.send_replace(true);
        loop {
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
            if runner.is_finished() || self.eyes.hanging.load(Ordering::Relaxed) == 0 {
                break;
            }
            self.world.clock.advance(Duration::from_secs(1));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        (&mut runner).await.map_err(|error| error.to_string())?;
        self.runs.clear();
        store.close().await.map_err(|error| error.to_string())
    }

    /// The process dies: what is durable is copied, and the rest goes on without consequence.
    fn crash(&mut self) -> Result<(), String> {
        let Some(standing) = self.standing.take() else { return Err("the house is down".into()) };
        let disk = MemDisk::new();
        let puts = self.disk.synced().into_iter().collect();
        let all = Work::Batch(Batch { puts, ..Batch::default() });
        disk.engine().commit(vec![all]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(self.directory.path()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), directory.path().join(file.file_name())).unwrap();
        }
        standing.runner.abort();
        drop(standing);
        self.runs.clear();
        self.disk = disk;
        self.directory = directory;
        Ok(())
    }

    fn damage_bodies(&mut self) -> Result<(), String> {
        if self.standing.is_some() {
            return Err("the house stands".into());
        }
        let bodies = Batch {
            delete_ranges: vec![kvmta::store::schema::INCOMING_BODY.all()],
            ..Batch::default()
        };
        self.disk.engine().commit(vec![Work::Batch(bodies)]).map_err(|e| e.to_string())?;
        for file in std::fs::read_dir(self.directory.path()).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
        Ok(())
    }

    fn expect(&mut self, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<&str> = rest.split_whitespace().collect();
        match (word, &words[..]) {
            ("delivered", [to, "by", host]) => {
                let mut seen = self.eyes.seen.lock().unwrap();
                let found = seen.delivered.iter().position(|(r, h, _)| r == to && h == host);
                let Some(at) = found else {
                    return Err(format!("not delivered; so far {}", show(&seen.delivered)));
                };
                self.last_text = seen.delivered.remove(at).2;
            }
            ("order", wanted) => {
                let mut seen = self.eyes.seen.lock().unwrap();
                let came: Vec<String> = seen.delivered.drain(..).map(|(to, ..)| to).collect();
                if came != *wanted {
                    return Err(format!("the order is {came:?}"));
                }
            }
            ("delivered", [count, "at", domain]) => {
                let mut seen = self.eyes.seen.lock().unwrap();
                let end = format!("@{domain}>");
                let mut got: Vec<String> = Vec::new();
                seen.delivered.retain(|(to, ..)| {
                    let ours = to.ends_with(&end);
                    if ours {
                        got.push(to.clone());
                    }
                    !ours
                });
                let all = got.len();
                got.sort();
                got.dedup();
                if count.parse() != Ok(all) || got.len() != all {
                    return Err(format!("{all} were delivered, {} different ones", got.len()));
                }
            }
            ("text", _) if !self.last_text.contains(rest) => {
                return Err(format!("the message says\n{}", self.last_text));
            }
            ("no", ["text", ..]) if self.last_text.contains(&rest[5..]) => {
                return Err(format!("the message says\n{}", self.last_text));
            }
            ("text", _) | ("no", ["text", ..]) => {}
            ("nothing", []) => {
                let seen = self.eyes.seen.lock().unwrap();
                if !seen.delivered.is_empty() {
                    return Err(format!("delivered {}", show(&seen.delivered)));
                }
            }
            ("deferred" | "untried" | "attempts" | "retry", [to, ..]) => {
                return self.expect_open(word, to, rest[to.len()..].trim());
            }
            ("held", _) => {
                let held: Vec<_> = self.entries().into_iter().filter_map(|e| e.held).collect();
                if !held.iter().any(|reason| reason.contains(rest)) {
                    return Err(format!("held: {held:?}"));
                }
            }
            ("queue", [count]) => {
                let wanted = if *count == "empty" { 0 } else { count.parse().expect("queue N") };
                let entries = self.entries();
                if entries.len() != wanted {
                    return Err(format!("{} there: {entries:#?}", entries.len()));
                }
            }
            ("agenda", [count]) => {
                let destinations = self.agenda();
                if count.parse() != Ok(destinations) {
                    return Err(format!("{destinations} keys"));
                }
            }
            ("file", [name, ..]) => {
                let path = self.directory.path().join(name);
                let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
                if !text.contains(rest[name.len()..].trim()) {
                    return Err(format!("the file says\n{text}"));
                }
            }
            ("deadlines", ["read", count]) => {
                let read = self.disk.rows_read(kvmta::store::schema::DEADLINE.prefix);
                let new = read - std::mem::replace(&mut self.deadlines_read, read);
                if count.parse() != Ok(new) {
                    return Err(format!("{new} rows were read"));
                }
            }
            ("connections", [host, count]) => {
                let mut seen = self.eyes.seen.lock().unwrap();
                let met = seen.connections.remove(*host).unwrap_or(0);
                if count.parse() != Ok(met) {
                    return Err(format!("{met} connections"));
                }
            }
            ("log", _) => {
                let log = self.log_text();
                if !log.contains(rest) {
                    return Err(format!("the log says\n{log}"));
                }
            }
            _ => return Err("nothing one can expect".into()),
        }
        Ok(())
    }

    /// Keys of AGENDA.
    fn agenda(&self) -> usize {
        let table = &kvmta::store::schema::AGENDA;
        self.disk.synced().keys().filter(|key| key.first() == Some(&table.prefix)).count()
    }

    fn expect_open(&self, word: &str, to: &str, rest: &str) -> Result<(), String> {
        let entries = self.entries();
        let found = entries.iter().find_map(|entry| {
            let is_it = |r: &kvmta::mail::envelope::Recipient| {
                format!("<{}>", r.address) == to && r.state.is_open()
            };
            let job = entry.jobs.iter().find(|job| job.recipients.iter().any(is_it))?;
            Some((job, job.recipients.iter().find(|r| is_it(r))?))
        });
        let Some((job, recipient)) = found else { return Err(format!("not open: {entries:#?}")) };
        let status = match &recipient.state {
            RecipientState::Open(Some(report)) => format!("{} {}", report.status, report.text),
            _ => job.status.clone().unwrap_or_default(),
        };
        let wait = job.due.since(self.world.clock.now());
        let fits = match word {
            "deferred" => status.contains(rest),
            "attempts" => rest.parse() == Ok(job.attempts),
            "untried" => job.attempts == 0 && matches!(recipient.state, RecipientState::Open(None)),
            _ => {
                let wanted = duration(rest.trim_start_matches("in "));
                // Time spent meanwhile, and jitter.
                wait + Duration::from_secs(20) >= wanted && wait <= wanted.mul_f64(1.1)
            }
        };
        if fits { Ok(()) } else { Err(format!("{status:?}, due in {wait:?}: {job:#?}")) }
    }

    /// What must be so at every end.
    async fn finish(&mut self) -> Result<(), String> {
        self.stand();
        self.quiet().await;
        self.expect("nothing")?;
        let broken = self.store().check().unwrap();
        if !broken.is_empty() {
            return Err(format!("{broken:#?}"));
        }
        // The last word of a run comes when what it tried is durable.
        let mut runs = std::mem::take(&mut self.runs);
        for _ in 0..RUN_ROUNDS_MAX {
            runs.retain_mut(|run| {
                let mut said = std::iter::from_fn(|| run.try_recv().ok());
                !said.any(|said| matches!(said, Progress::Done { .. }))
            });
            if runs.is_empty() {
                return Ok(());
            }
            self.quiet().await;
        }
        Err("a run did not end".into())
    }
}

fn show(delivered: &[(String, String, Arc<str>)]) -> String {
    let shown: Vec<String> = delivered
        .iter()
        .take(10)
        .map(|(to, host, text)| format!("{to} by {host}\n{text}"))
        .collect();
    shown.join("\n")
}

async fn reply(client: &mut BufReader<DuplexStream>) -> Result<String, String> {
    let mut all = String::new();
    loop {
        let mut line = String::new();
        if client.read_line(&mut line).await.map_err(|error| error.to_string())? == 0 {
            return Err(format!("the session ended after {all:?}"));
        }
        all.push_str(&line);
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(all);
        }
    }
}

fn play(title: &str, lines: &[(usize, &str)]) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let (done, wait) = blocking::channel::<()>();
    let result = runtime.block_on(async {
        // While a blocking task runs, time passes only when it is told to.
        tokio::task::spawn_blocking(move || wait.recv());
        let mut play = Play::new();
        for (number, line) in lines {
            let stepped = play.step(line).await;
            stepped.map_err(|error| {
                format!("{title}, line {number}: {line}\n    {error}\n{}", play.log_text())
            })?;
        }
        let finished = play.finish().await;
        finished.map_err(|error| format!("{title}, at its end: {error}\n{}", play.log_text()))
    });
    drop(done);
    runtime.shutdown_background();
    result
}

/// Plays the scenarios of one file; `KVMTA_WALK=title` plays those whose title contains it.
fn file(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/walk").join(name);
    let text = std::fs::read_to_string(&path).expect("a file of scenarios");
    let wanted = std::env::var("KVMTA_WALK").unwrap_or_default();
    let lines: Vec<_> = text
        .lines()
        .enumerate()
        .map(|(number, line)| (number + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let starts: Vec<usize> = (0..lines.len()).filter(|&n| lines[n].1.starts_with("== ")).collect();
    let mut failures = Vec::new();
    for (n, &start) in starts.iter().enumerate() {
        let end = starts.get(n + 1).copied().unwrap_or(lines.len());
        let title = &lines[start].1[3..];
        if title.contains(&wanted)
            && let Err(failure) = play(title, &lines[start + 1..end])
        {
            failures.push(failure);
        }
    }
    assert!(!starts.is_empty(), "{name} has no scenario");
    assert!(failures.is_empty(), "{} failed\n\n{}", failures.len(), failures.join("\n\n"));
}

#[test]
fn attempts() {
    file("attempts.txt");
}

#[test]
fn deadlines() {
    file("deadlines.txt");
}

#[test]
fn deliver_by() {
    file("deliver-by.txt");
}

#[test]
fn header_edits() {
    file("header-edits.txt");
}

#[test]
fn reports() {
    file("reports.txt");
}

#[test]
fn lists() {
    file("lists.txt");
}

#[test]
fn runs() {
    file("runs.txt");
}

#[test]
fn orders() {
    file("orders.txt");
}

#[test]
fn expensive() {
    file("expensive.txt");
}

#[test]
fn fairness() {
    file("fairness.txt");
}

#[test]
fn reloads() {
    file("reloads.txt");
}

#[test]
fn load() {
    file("load.txt");
}

#[test]
fn operations() {
    file("operations.txt");
}

#[test]
fn restarts() {
    file("restarts.txt");
}

/// A step that hopes for the wrong thing must fail, or the files prove nothing.
#[test]
fn a_wrong_hope_fails() {
    let lines = [
        (1, "dns b.example MX 10 mx.b.example"),
        (2, "dns mx.b.example A 192.0.2.1"),
        (3, "host mx.b.example"),
        (4, "submit <a@a.example> to <u@b.example>"),
        (5, "expect delivered <u@b.example> by mx.c.example"),
    ];
    let failure = play("wrong", &lines).expect_err("it was delivered elsewhere");
    assert!(failure.contains("line 5") && failure.contains("by mx.b.example"), "{failure}");
    assert!(play("unexpected", &lines[..4]).is_err_and(|failure| failure.contains("at its end")));
}
