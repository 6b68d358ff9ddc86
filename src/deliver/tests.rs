//! Attempts over in-process peers: each peer is a script of what a server expects and answers, and time is paused.
//!
//! A script has one line per exchange: `> reply` speaks at once, `WORD > reply` takes one command line that begins so,
//! `. > reply` takes the body up to its final dot, `drop` closes, `hang` says nothing for ever. `|` stands for a line
//! end inside replies, and an empty reply says nothing. When a script ends, the peer closes after what comes.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use super::*;
use crate::mail::address::ReversePath;
use crate::mail::envelope::{BodyType, Envelope, Notify, Recipient, TimeoutClass};
use crate::mail::job::{Destination, JOB_RECIPIENTS_MAX, Mailer};
use crate::mail::outcome::Outcome;
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;
use crate::world::{Clock, Dns, DnsError, Net, Stream, Verify};

mod eight_bit;

const MESSAGE: &[u8] = b"Subject: x\r\n\r\n.hello\r\n";
const OPEN: &str = "> 220 hi\nEHLO > 250-hi|250 PIPELINING\n";

/// What happened in the world, in order.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    fn push(&self, event: impl Into<String>) {
        self.0.lock().unwrap().push(event.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn count(&self, start: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|event| event.starts_with(start)).count()
    }
}

/// The world: scripts by address, one for each connection; no script left refuses.
struct Fake {
    scripts: Mutex<BTreeMap<String, VecDeque<String>>>,
    events: Events,
    /// What a handshake comes to.
    tls: bool,
    /// Octets a stream takes before its reader does.
    window: usize,
}

impl Fake {
    fn open(&self, to: String) -> io::Result<Box<dyn Stream>> {
        self.events.push(format!("connect {to}"));
        let script = self.scripts.lock().unwrap().get_mut(&to).and_then(VecDeque::pop_front);
        let script = script.filter(|script| script != "refuse");
        let Some(script) = script else { return Err(io::ErrorKind::ConnectionRefused.into()) };
        let (ours, theirs) = tokio::io::duplex(self.window);
        tokio::spawn(play(script, theirs, self.events.clone()));
        Ok(Box::new(ours))
    }
}

async fn play(script: String, stream: impl Stream, events: Events) {
    let mut stream = BufReader::new(stream);
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line {
            "drop" => return,
            "hang" => std::future::pending().await,
            _ => {}
        }
        let (expected, reply) = line.split_once('>').expect("expected > reply");
        match expected.trim() {
            "" => {}
            "." => {
                let mut body = String::new();
                while !body.ends_with("\r\n.\r\n") && body != ".\r\n" {
                    if stream.read_line(&mut body).await.unwrap_or(0) == 0 {
                        return events.push("body cut");
                    }
                }
                events.push(format!("body {} octets", body.len()));
                if body.len() < 100 {
                    events.push(format!("body {body:?}"));
                }
            }
            word => {
                let mut command = String::new();
                if stream.read_line(&mut command).await.unwrap_or(0) == 0 {
                    return events.push(format!("end before {word}"));
                }
                events.push(command.trim_end());
                if !command.starts_with(word) {
                    return events.push(format!("MISMATCH: {word} expected"));
                }
            }
        }
        let reply = reply.trim();
        if !reply.is_empty() {
            let reply = format!("{}\r\n", reply.replace('|', "\r\n"));
            if stream.write_all(reply.as_bytes()).await.is_err() {
                return events.push("reply not taken");
            }
        }
    }
    let mut rest = String::new();
    if stream.read_to_string(&mut rest).await.is_ok() && !rest.is_empty() {
        events.push(format!("rest {rest:?}"));
    }
}

impl Net for Fake {
    fn connect(
        &self,
        address: SocketAddr,
        source: Option<IpAddr>,
    ) -> Answer<'_, io::Result<Box<dyn Stream>>> {
        if let Some(source) = source {
            self.events.push(format!("from {source}"));
        }
        Box::pin(async move { self.open(address.ip().to_string()) })
    }

    fn connect_path<'a>(&'a self, path: &'a Path) -> Answer<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move { self.open(path.display().to_string()) })
    }

    fn start_tls<'a>(
        &'a self,
        stream: Box<dyn Stream>,
        name: &'a str,
    ) -> Answer<'a, io::Result<(Box<dyn Stream>, TlsFacts)>> {
        Box::pin(async move {
            self.events.push(format!("handshake {name}"));
            let facts = TlsFacts {
                version: "TLSv1.3".into(),
                cipher: "X".into(),
                bits: 256,
                verify: Verify::Fail,
            };
            if self.tls { Ok((stream, facts)) } else { Err(io::Error::other("bad record")) }
        })
    }

    fn own_addresses(&self) -> Vec<IpAddr> {
        Vec::new()
    }
}

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(1_000_000)
    }
}

impl Dns for Still {
    fn mx<'a>(&'a self, _: &'a str) -> Answer<'a, Result<Vec<(u16, String)>, DnsError>> {
        Box::pin(async { Err(DnsError::NoData) })
    }

    fn addresses<'a>(&'a self, _: &'a str) -> Answer<'a, Result<Vec<IpAddr>, DnsError>> {
        Box::pin(async { Err(DnsError::NoData) })
    }

    fn name_of(&self, _: IpAddr) -> Answer<'_, Result<String, DnsError>> {
        Box::pin(async { Err(DnsError::NoData) })
    }
}

/// The store's part: a body, of which reading may fail from some octet on, and the checkpoints.
struct Shelf {
    body: Vec<u8>,
    readable: usize,
    events: Events,
}

impl Backing for Shelf {
    fn read_body<'a>(
        &'a self,
        _: &'a BodyRef,
        offset: u64,
    ) -> Answer<'a, Result<Vec<u8>, StoreError>> {
        Box::pin(async move {
            let start = offset as usize;
            if start >= self.readable {
                return Err(StoreError::Busy);
            }
            Ok(self.body[start..self.body.len().min(start + 65_536)].to_vec())
        })
    }

    fn checkpoint(
        &self,
        _: JobId,
        states: Vec<(u32, RecipientState)>,
    ) -> Answer<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.events.push(format!("checkpoint {}", states.len()));
            Ok(())
        })
    }
}

/// A house with one job in it.
struct House {
    mailers: Mailers,
    events: Events,
    job: Job,
    hops: Vec<Hop>,
    bytes: Option<Arc<[u8]>>,
}

/// Hosts are `host address`, best first; scripts are `(address, script)` in the order of the connections.
fn house(mailer: Mailer, hosts: &[&str], scripts: &[(&str, &str)]) -> House {
    house_with(mailer, hosts, scripts, |_, _, _| {})
}

fn house_with(
    mailer: Mailer,
    hosts: &[&str],
    scripts: &[(&str, &str)],
    change: impl FnOnce(&mut Config, &mut Fake, &mut Shelf),
) -> House {
    let events = Events::default();
    let mut by_address: BTreeMap<String, VecDeque<String>> = BTreeMap::new();
    for (address, script) in scripts {
        by_address.entry((*address).into()).or_default().push_back((*script).into());
    }
    let mut fake = Fake {
        scripts: Mutex::new(by_address),
        events: events.clone(),
        tls: true,
        window: 64 * 1024,
    };
    let body = MESSAGE.to_vec();
    let mut shelf = Shelf { readable: usize::MAX, body, events: events.clone() };
    let mut config = Config { host_name: "us.example".into(), ..Config::default() };
    change(&mut config, &mut fake, &mut shelf);
    let hops = hosts
        .iter()
        .map(|host| match host.split_once(' ') {
            Some((name, addresses)) => Hop::Host {
                name: name.into(),
                addresses: addresses
                    .split(' ')
                    .map(|address| SocketAddr::new(address.parse().unwrap(), 2525))
                    .collect(),
            },
            None => Hop::Path(PathBuf::from(host)),
        })
        .collect();
    let load = Arc::new(crate::world::fake::FakeLoad::default());
    let (clock, dns) = (Arc::new(Still), Arc::new(Still));
    let world = World { clock, dns, net: Arc::new(fake), load, tls: None };
    let envelope = Envelope {
        reverse_path: ReversePath::Mailbox("s@x".parse().unwrap()),
        arrival: Timestamp::ZERO,
        relay: String::new(),
        protocol: String::new(),
        body_type: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        timeouts: TimeoutClass::Normal,
        precedence: 0,
        priority: 0,
        message_id: String::new(),
        header_len: 14,
        size: shelf.body.len() as u64,
        body_lines: 0,
        relay_override: None,
        deliver_by: None,
    };
    let id = QueueId::at(Timestamp::from_secs(1));
    let job = Job {
        id: JobId { queue_id: id, number: 0 },
        destination: Destination { mailer, next_hop: "y".into() },
        envelope: Arc::new(envelope),
        recipients: Vec::new(),
        attempts: 0,
        last_attempt: None,
        body: BodyRef::Incoming(id),
    };
    let bytes = Some(Arc::from(shelf.body.as_slice()));
    let mailers = Mailers::new(Arc::new(config), world, shelf);
    House { mailers, events, job, hops, bytes }
}

impl House {
    /// One attempt for recipients `0@y`, `1@y`...
    async fn attempt(&mut self, recipients: usize) -> Result<Attempted, StoreError> {
        self.attempt_in(recipients, Manner { skip: &|_| false, transcript: None }).await
    }

    async fn attempt_in(
        &mut self,
        recipients: usize,
        manner: Manner<'_>,
    ) -> Result<Attempted, StoreError> {
        assert!(recipients <= JOB_RECIPIENTS_MAX);
        self.job.recipients = (0..recipients)
            .map(|n| {
                let recipient = Recipient {
                    address: format!("{n}@y").parse().unwrap(),
                    orcpt: None,
                    notify: Notify::Unspecified,
                    state: RecipientState::Open(None),
                };
                (10 + n as u32, recipient)
            })
            .collect();
        self.mailers.attempt(&self.job, self.hops.clone(), self.bytes.clone(), manner).await
    }
}

/// `10 relayed 2.0.0 Ok; 11 failed ...`, or `unreachable ...`.
fn show(attempted: &Attempted) -> String {
    let one = |outcome: &Outcome| {
        let kind = match outcome {
            Outcome::Delivered(_) => "delivered",
            Outcome::Relayed { .. } => "relayed",
            Outcome::Failed(_) => "failed",
            Outcome::Deferred(_) => "deferred",
            Outcome::Replaced(_) => "replaced",
        };
        let report = outcome.report().unwrap();
        format!("{kind} {} {}", report.status, report.text)
    };
    match &attempted.attempt {
        Attempt::Unreachable(report) => format!("unreachable {} {}", report.status, report.text),
        Attempt::Tried(outcomes) => outcomes
            .iter()
            .map(|(number, outcome)| format!("{number} {}", one(outcome)))
            .collect::<Vec<_>>()
            .join("; "),
    }
}

fn hosts(attempted: &Attempted) -> String {
    let one = |host: &HostOutcome| format!("{} {}", host.host, if host.up { "up" } else { "down" });
    attempted.hosts.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Greeting and one good transaction for `recipients`.
fn good(recipients: usize) -> String {
    format!("{OPEN}{}", transaction(recipients))
}

fn transaction(recipients: usize) -> String {
    let rcpts = "RCPT > 250 ok\n".repeat(recipients);
    format!("MAIL > 250 ok\n{rcpts}DATA > 354 go\n. > 250 2.0.0 Ok\n")
}

#[tokio::test(start_paused = true)]
async fn relays_and_keeps_the_connection() {
    let script = good(1) + &transaction(1);
    let mut house = house(Mailer::Esmtp, &["mx.y 192.0.2.1"], &[("192.0.2.1", &script)]);
    for connects in [1, 0] {
        let attempted = house.attempt(1).await.unwrap();
        assert_eq!(show(&attempted), "10 relayed 2.0.0 Ok");
        assert_eq!(hosts(&attempted), "mx.y up");
        let events = house.events.take();
        assert_eq!(events.iter().filter(|e| e.starts_with("connect")).count(), connects);
        assert!(events.contains(&format!("body {:?}", "Subject: x\r\n\r\n..hello\r\n.\r\n")));
    }
    house.mailers.dismiss_idle();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(house.events.take(), ["rest \"QUIT\\r\\n\""]);
}

#[tokio::test(start_paused = true)]
async fn falls_through_hosts_and_addresses() {
    let script = good(1);
    let mut house = house(
        Mailer::Esmtp,
        &["mx1.y 192.0.2.1 192.0.2.2", "mx2.y 192.0.2.3 192.0.2.4"],
        &[("192.0.2.2", "> 421 4.3.2 busy"), ("192.0.2.4", &script)],
    );
    let attempted = house.attempt(1).await.unwrap();
    assert_eq!(show(&attempted), "10 relayed 2.0.0 Ok");
    assert_eq!(hosts(&attempted), "mx1.y down, mx2.y up");
}

/// What every host says, and what it comes to.
#[tokio::test(start_paused = true)]
async fn nothing_learnt_is_unreachable() {
    for (script, expected) in [
        (None, "unreachable 4.4.1 Connection refused by mx.y."),
        (Some("drop"), "unreachable 4.4.2 Connection closed by mx.y. during greeting"),
        (Some("hang"), "unreachable 4.4.2 Connection timed out with mx.y. during greeting"),
        (Some("> 421 4.3.2 busy"), "unreachable 4.3.2 421 4.3.2 busy"),
        (Some("> 554 5.7.1 blocked"), "unreachable 4.7.1 554 5.7.1 blocked"),
        (Some("> 220 a\nEHLO > 421 no"), "unreachable 4.3.2 421 no"),
        (Some("> 220 a\nEHLO > 500 a\nHELO > 550 b"), "unreachable 4.3.2 550 b"),
        (
            Some("> 220 a\nEHLO > 250 a\nMAIL > 421 4.7.0 slow down"),
            "unreachable 4.7.0 421 4.7.0 slow down",
        ),
        (
            Some("> 521 5.3.2 never"),
            "10 failed 5.3.2 521 5.3.2 never; 11 failed 5.3.2 521 5.3.2 never",
        ),
    ] {
        let scripts: Vec<_> = script.iter().map(|script| ("192.0.2.1", *script)).collect();
        let mut house = house(Mailer::Esmtp, &["mx.y 192.0.2.1"], &scripts);
        let attempted = house.attempt(2).await.unwrap();
        assert_eq!(show(&attempted), expected);
        assert_eq!(hosts(&attempted), "mx.y down");
    }
}

/// DialDelay: the first connection of an attempt is made once more after its time, and no other is.
#[tokio::test(start_paused = true)]
async fn a_line_that_is_dialled_gets_its_time() {
    let script = good(1);
    let (first, second) = (("192.0.2.1", "refuse"), ("192.0.2.1", script.as_str()));
    let dialled = async |delay: u64, hosts: &[&str], scripts: &[(&str, &str)]| {
        let delay = Duration::from_secs(delay);
        let mut house =
            house_with(Mailer::Esmtp, hosts, scripts, |config, _, _| config.dial_delay = delay);
        let started = tokio::time::Instant::now();
        let attempted = house.attempt(1).await.unwrap();
        let connects = house.events.count("connect");
        (show(&attempted), connects, started.elapsed().as_secs())
    };
    let one = ["mx.y 192.0.2.1"];
    let refused = || "unreachable 4.4.1 Connection refused by mx.y.".to_owned();
    let relayed = || "10 relayed 2.0.0 Ok".to_owned();
    assert_eq!(dialled(0, &one, &[first, second]).await, (refused(), 1, 0));
    assert_eq!(dialled(5, &one, &[first, second]).await, (relayed(), 2, 5));
    assert_eq!(dialled(5, &one, &[first, first, second]).await, (refused(), 2, 5));
    assert_eq!(dialled(5, &["mx.y 192.0.2.1 192.0.2.2"], &[]).await, (refused(), 3, 5));
    assert_eq!(dialled(100_000, &one, &[]).await, (refused(), 2, 300));
}

#[tokio::test(start_paused = true)]
async fn skipped_hosts_are_not_asked() {
    let mut house = house(Mailer::Esmtp, &["mx.y 192.0.2.1"], &[]);
    let manner = Manner { skip: &|host| host == "mx.y", transcript: None };
    let attempted = house.attempt_in(1, manner).await.unwrap();
    assert_eq!(show(&attempted), "unreachable 4.4.1 All hosts of y failed recently");
    assert_eq!(house.events.take(), [""; 0]);
}

/// A loss in a transaction is never the destination's: the next host, else this message waits.
#[tokio::test(start_paused = true)]
async fn lost_in_a_transaction() {
    let cut = format!("{OPEN}MAIL > 250 ok\ndrop");
    let mut one = house(Mailer::Esmtp, &["mx.y 192.0.2.1"], &[("192.0.2.1", &cut)]);
    let attempted = one.attempt(1).await.unwrap();
    assert_eq!(show(&attempted), "10 deferred 4.4.2 Connection closed by mx.y. during RCPT");
    assert_eq!(hosts(&attempted), "");

    let script = good(1);
    let mut two = house(
        Mailer::Esmtp,
        &["mx1.y 192.0.2.1", "mx2.y 192.0.2.2"],
        &[("192.0.2.1", &cut), ("192.0.2.2", &script)],
    );
    assert_eq!(show(&two.attempt(1).await.unwrap()), "10 relayed 2.0.0 Ok");
}

/// After the dot the message may have arrived: no other host gets it now.
#[tokio::test(start_paused = true)]
async fn lost_after_the_dot() {
    let cut = format!("{OPEN}MAIL > 250 ok\nRCPT > 250 ok\nDATA > 354 go\n. >\ndrop");
    let script = good(1);
    let mut house = house(
        Mailer::Esmtp,
        &["mx1.y 192.0.2.1", "mx2.y 192.0.2.2"],
        &[("192.0.2.1", &cut), ("192.0.2.2", &script)],
    );
    let attempted = house.attempt(1).await.unwrap();
    assert_eq!(
        show(&attempted),
        "10 deferred 4.4.2 Connection closed by mx1.y. during end of message"
    );
    assert_eq!(house.events.count("connect"), 1);
}

#[tokio::test(start_paused = true)]
async fn verdicts_are_kept_when_the_rest_moves_on() {
    let cut = format!("{OPEN}MAIL > 250 ok\nRCPT > 550 5.1.1 no\nRCPT > 421 bye");
    let script = good(1);
    let mut house = house(
        Mailer::Esmtp,
        &["mx1.y 192.0.2.1", "mx2.y 192.0.2.2"],
        &[("192.0.2.1", &cut), ("192.0.2.2", &script)],
    );
    let attempted = house.attempt(2).await.unwrap();
    assert_eq!(show(&attempted), "10 failed 5.1.1 550 5.1.1 no; 11 relayed 2.0.0 Ok");
}

/// Idle connections that died are replaced without a trace, whenever that shows.
#[tokio::test(start_paused = true)]
async fn dead_idle_connections_cost_nothing() {
    for end in ["drop", "> 421 4.4.2 timeout", "MAIL > 421 4.7.0 enough", "MAIL >\ndrop"] {
        let (first, second) = (good(1) + end, good(1));
        let scripts = [("192.0.2.1", first.as_str()), ("192.0.2.1", &second)];
        let mut house = house(Mailer::Esmtp, &["mx.y 192.0.2.1"], &scripts);
        for _ in 0..2 {
            let attempted = house.attempt(1).await.unwrap();
            assert_eq!(show(&attempted), "10 relayed 2.0.0 Ok", "{end}");
            assert_eq!(hosts(&attempted), "mx.y up", "{end}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(house.events.count("connect"), 2, "{end}");
    }
}

#[tokio::test(start_paused = true)]
async fn long_idle_connections_are_asked_first() {
    let script = good(1) + "RSET > 250 ok\n" + &transaction(1);
    let mut house = house(Mailer::Esmtp, &["mx.y 192.0.2.1"], &[("192.0.2.1", &script)]);
    house.attempt(1).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(show(&house.attempt(1).await.unwrap()), "10 relayed 2.0.0 Ok");
    assert_eq!((house.events.count("connect"), house.events.count("RSET")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_few_and_short_lived() {
    let script = good(1);
    let scripts = [("192.0.2.1", script.as_str()), ("192.0.2.2", &script), ("192.0.2.3", &script)];
    let mut house = house_with(Mailer::Esmtp, &[], &scripts, |config, _, _| {
        config.connection_cache_size = 2;
    });
    for n in 1..=3u8 {
        let address = SocketAddr::from(([192, 0, 2, n], 25));
        house.hops = vec![Hop::Host { name: format!("mx{n}.y"), addresses: vec![address] }];
        house.attempt(1).await.unwrap();
    }
    assert_eq!(house.mailers.pool.len(), 2);
    let fresh = house.mailers.keep_pool_fresh();
    let _ = tokio::time::timeout(Duration::from_secs(299), fresh).await;
    assert_eq!(house.mailers.pool.len(), 2);
    let _ = tokio::time::timeout(Duration::from_secs(60), house.mailers.keep_pool_fresh()).await;
    assert_eq!(house.mailers.pool.len(), 0);
    assert_eq!(house.events.count("rest \"QUIT"), 3);
}

/// What was taken is durable before the same job's next MAIL.
#[tokio::test(start_paused = true)]
async fn long_lists_go_in_transactions_with_checkpoints_between() {
    let script = good(100) + &transaction(100) + &transaction(50);
    let mut house = house(Mailer::Esmtp, &["mx.y 192.0.2.1"], &[("192.0.2.1", &script)]);
    let attempted = house.attempt(250).await.unwrap();
    let Attempt::Tried(outcomes) = &attempted.attempt else { panic!("tried") };
    assert!(outcomes.iter().all(|(_, outcome)| matches!(outcome, Outcome::Relayed { .. })));
    assert!(outcomes.iter().map(|(number, _)| *number).eq(10..260));
    let events = house.events.take();
    let order: Vec<_> = events
        .iter()
        .filter(|event| event.starts_with("MAIL") || event.starts_with("checkpoint"))
        .map(|event| event.split(" From").next().unwrap())
        .collect();
    assert_eq!(order, ["MAIL", "checkpoint 100", "MAIL", "checkpoint 100", "MAIL"]);
}

#[tokio::test(start_paused = true)]
async fn too_many_recipients_go_next_on_the_same_connection() {
    let script = format!(
        "{OPEN}MAIL > 250 ok\nRCPT > 250 ok\nRCPT > 250 ok\n{}DATA > 354 go\n. > 250 2.0.0 Ok\n{}{}",
        "RCPT > 452 4.5.3 too many\n".repeat(3),
        transaction(2),
        transaction(1)
    );
    let mut house = house(Mailer::Esmtp, &["mx.y 192.0.2.1"], &[("192.0.2.1", &script)]);
    let attempted = house.attempt(5).await.unwrap();
    assert_eq!(show(&attempted).matches("relayed").count(), 5);
    assert_eq!((house.events.count("connect"), house.events.count("MISMATCH")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_server_of_one_message_per_connection() {
    let first = good(100) + "MAIL > 421 one only";
    let second = good(20);
    let scripts = [("192.0.2.1", first.as_str()), ("192.0.2.1", &second)];
    let mut house = house(Mailer::Esmtp, &["mx.y 192.0.2.1"], &scripts);
    let attempted = house.attempt(120).await.unwrap();
    assert_eq!(show(&attempted).matches("relayed").count(), 120);
}

/// A body that cannot be read is never ended: nothing truncated is delivered.
#[tokio::test(start_paused = true)]
async fn our_own_trouble_is_an_error_and_no_outcome() {
    let script = format!("{OPEN}MAIL > 250 ok\nRCPT > 250 ok\nDATA > 354 go\n. > 250 ok\n");
    let mut house =
        house_with(Mailer::Esmtp, &["mx.y 192.0.2.1"], &[("192.0.2.1", &script)], |_, _, shelf| {
            shelf.body = b"x\r\n".repeat(100_000);
            shelf.readable = 100_000;
        });
    house.bytes = None;
    assert!(matches!(house.attempt(1).await, Err(StoreError::Busy)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(house.events.count("body cut"), 1);

    // With a verdict already learnt, that verdict comes first.
    let script = format!("{OPEN}MAIL > 250 ok\nRCPT > 550 no\nRCPT > 250 ok\nDATA > 354 go\n. >\n");
    let mut house =
        house_with(Mailer::Esmtp, &["mx.y 192.0.2.1"], &[("192.0.2.1", &script)], |_, _, shelf| {
            shelf.readable = 0;
        });
    house.bytes = None;
    let attempted = house.attempt(2).await.unwrap();
    assert_eq!(show(&attempted), "10 failed 5.1.1 550 no; 11 deferred 4.3.0 queue is busy");
    assert!(matches!(attempted.own_trouble, Some(StoreError::Busy)));
}

/// Also through a window smaller than a piece, with a slow reader.
#[tokio::test(start_paused = true)]
async fn large_bodies_are_streamed() {
    let script = good(1);
    for window in [1000, 1 << 20] {
        let body = b"0123456789\r\n.\r\n".repeat(30_000);
        let stuffed = body.len() + 30_000 + 3;
        let mut house = house_with(
            Mailer::Esmtp,
            &["mx.y 192.0.2.1"],
            &[("192.0.2.1", &script)],
            |_, fake, shelf| {
                (fake.window, shelf.body) = (window, body);
            },
        );
        house.bytes = None;
        assert_eq!(show(&house.attempt(1).await.unwrap()), "10 relayed 2.0.0 Ok");
        assert_eq!(house.events.count(&format!("body {stuffed} octets")), 1);
    }
}

/// A server that refuses in mid-body and closes is heard.
#[tokio::test(start_paused = true)]
async fn early_refusals_are_verdicts() {
    let script =
        format!("{OPEN}MAIL > 250 ok\nRCPT > 250 ok\nDATA > 354 go\n01 > 552 5.3.4 big\ndrop");
    let mut house = house_with(
        Mailer::Esmtp,
        &["mx.y 192.0.2.1"],
        &[("192.0.2.1", &script)],
        |_, fake, shelf| {
            (fake.window, shelf.body) = (1000, b"0123456789\r\n".repeat(30_000));
        },
    );
    house.bytes = None;
    assert_eq!(show(&house.attempt(1).await.unwrap()), "10 failed 5.3.4 552 5.3.4 big");
}

#[tokio::test(start_paused = true)]
async fn tls_when_offered_and_clear_only_when_told() {
    let private = "> 220 hi\nEHLO > 250-hi|250 STARTTLS\nSTARTTLS > 220 go\n".to_owned()
        + "EHLO > 250-hi|250 PIPELINING\n"
        + &transaction(1);
    let mut one = house(Mailer::Esmtp, &["mx.y 192.0.2.1"], &[("192.0.2.1", &private)]);
    let attempted = one.attempt(1).await.unwrap();
    assert_eq!(show(&attempted), "10 relayed 2.0.0 Ok");
    assert!(matches!(attempted.notices.as_slice(), [Notice::Tls { .. }]));

    let clear =
        "> 220 hi\nEHLO > 250-hi|250-STARTTLS|250 PIPELINING\n".to_owned() + &transaction(1);
    let scripts = [("192.0.2.1", private.as_str()), ("192.0.2.1", &clear)];
    let mut two = house_with(Mailer::Esmtp, &["mx.y 192.0.2.1"], &scripts, |config, fake, _| {
        config.tls.falls_back_to_clear = true;
        fake.tls = false;
    });
    let attempted = two.attempt(1).await.unwrap();
    assert_eq!(show(&attempted), "10 relayed 2.0.0 Ok");
    assert!(matches!(attempted.notices.as_slice(), [Notice::TlsFailed { .. }]));
    assert_eq!((two.events.count("connect"), two.events.count("handshake mx.y")), (2, 1));

    let mut three = house_with(Mailer::Esmtp, &["mx.y 192.0.2.1"], &scripts, |_, fake, _| {
        fake.tls = false;
    });
    let attempted = three.attempt(1).await.unwrap();
    assert_eq!(show(&attempted), "unreachable 4.7.0 454 4.7.0 TLS handshake failed.");
    assert!(matches!(attempted.notices.as_slice(), [Notice::TlsFailed { .. }]));
    assert_eq!((three.events.count("connect"), three.events.count("handshake mx.y")), (1, 1));

    let mut four = house_with(Mailer::Esmtp, &["mx.y 192.0.2.1"], &scripts[1..], |config, _, _| {
        config.client_starttls = false;
    });
    assert_eq!(show(&four.attempt(1).await.unwrap()), "10 relayed 2.0.0 Ok");
    assert_eq!(four.events.count("handshake"), 0);
}

#[tokio::test(start_paused = true)]
async fn injected_replies_end_the_host() {
    let script = "> 220 hi\nEHLO > 250-hi|250 STARTTLS\nSTARTTLS > 220 go|250 evil\nhang";
    let mut house = house(Mailer::Esmtp, &["mx.y 192.0.2.1"], &[("192.0.2.1", script)]);
    let attempted = house.attempt(1).await.unwrap();
    assert_eq!(
        show(&attempted),
        "unreachable 4.7.0 Clear text before the TLS handshake with mx.y."
    );
    assert_eq!((house.events.count("connect"), house.events.count("handshake")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn lmtp_over_a_socket() {
    let script = "> 220 box\nLHLO > 250-box|250 PIPELINING\n".to_owned()
        + "MAIL > 250 ok\nRCPT > 250 ok\nRCPT > 250 ok\nRCPT > 550 5.1.1 no\nDATA > 354 go\n"
        + ". > 250 2.1.5 in box|452 4.2.2 full\n"
        + "MAIL > 250 ok\nRCPT > 250 ok\nDATA > 354 go\n. > 250 2.1.5 in box\n";
    let mut house =
        house_with(Mailer::Lmtp, &["/run/lmtp"], &[("/run/lmtp", &script)], |config, _, _| {
            config.checkpoint_interval = 3;
        });
    let attempted = house.attempt(4).await.unwrap();
    assert_eq!(
        show(&attempted),
        "10 delivered 2.1.5 in box; 11 deferred 4.2.2 452 4.2.2 full; 12 failed 5.1.1 550 5.1.1 no; \
         13 delivered 2.1.5 in box"
    );
    assert_eq!(house.events.count("checkpoint 1"), 1);
}

/// HeloName and ClientPortOptions: the name we give, and the address we come from, of the host's family.
#[tokio::test(start_paused = true)]
async fn our_name_and_address_are_chosen() {
    let hosts = ["mx.y 2001:db8::1 192.0.2.1"];
    let change = |config: &mut Config, _: &mut Fake, _: &mut Shelf| {
        config.helo_name = Some("out.example".into());
        config.client_addresses = vec!["192.0.2.99".parse().unwrap()];
    };
    let script = good(1);
    let mut house = house_with(Mailer::Esmtp, &hosts, &[("192.0.2.1", &script)], change);
    house.attempt(1).await.unwrap();
    let events = house.events.take();
    let start = ["connect 2001:db8::1", "from 192.0.2.99", "connect 192.0.2.1", "EHLO out.example"];
    assert_eq!(events[..4], start);
}

/// In the order and words of sendmail -v.
#[tokio::test(start_paused = true)]
async fn watched_attempts_show_the_dialogue() {
    let script = good(2) + "QUIT > 221 Bye";
    let mut house = house(Mailer::Esmtp, &["mx.y 192.0.2.1"], &[("192.0.2.1", &script)]);
    let lines = Events::default();
    let sink = |line: &str| lines.push(line);
    let manner = Manner { skip: &|_| false, transcript: Some(&sink) };
    let attempted = house.attempt_in(2, manner).await.unwrap();
    // What comes behind the outcomes is handed over, so that the caller can say those first.
    let said: Vec<String> = lines.take().into_iter().chain(attempted.farewell).collect();
    assert_eq!(
        said,
        [
            "0@y,1@y... Connecting to mx.y. port 2525 via esmtp...",
            "220 hi",
            ">>> EHLO us.example",
            "250-hi",
            "250 PIPELINING",
            ">>> MAIL From:<s@x>",
            ">>> RCPT To:<0@y>",
            ">>> RCPT To:<1@y>",
            ">>> DATA",
            "250 ok",
            "250 ok",
            "250 ok",
            "354 go",
            ">>> .",
            "250 2.0.0 Ok",
            "Closing connection to mx.y.",
            ">>> QUIT",
            "221 Bye",
        ]
    );
}

/// The same over a real socket: small messages take one write for the group and one for the body.
#[tokio::test]
async fn over_loopback() {
    struct Loopback(Still);
    impl Net for Loopback {
        fn connect(
            &self,
            address: SocketAddr,
            _: Option<IpAddr>,
        ) -> Answer<'_, io::Result<Box<dyn Stream>>> {
            Box::pin(async move {
                let stream = tokio::net::TcpStream::connect(address).await?;
                Ok(Box::new(stream) as Box<dyn Stream>)
            })
        }
        fn connect_path<'a>(&'a self, _: &'a Path) -> Answer<'a, io::Result<Box<dyn Stream>>> {
            Box::pin(async { Err(io::ErrorKind::NotFound.into()) })
        }
        fn start_tls<'a>(
            &'a self,
            _: Box<dyn Stream>,
            _: &'a str,
        ) -> Answer<'a, io::Result<(Box<dyn Stream>, TlsFacts)>> {
            Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
        }
        fn own_addresses(&self) -> Vec<IpAddr> {
            Vec::new()
        }
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut house = house(Mailer::Esmtp, &[], &[]);
    let events = house.events.clone();
    let peer = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        play(good(3) + &transaction(3), stream, events).await;
    });
    house.mailers.world.net = Arc::new(Loopback(Still));
    house.hops = vec![Hop::Host { name: "[127.0.0.1]".into(), addresses: vec![address] }];
    for _ in 0..2 {
        let attempted = house.attempt(3).await.unwrap();
        assert_eq!(show(&attempted).matches("relayed").count(), 3);
    }
    house.mailers.dismiss_idle();
    peer.await.unwrap();
    assert_eq!((house.events.count("rest \"QUIT"), house.events.count("MISMATCH")), (1, 0));
}

/// A domain of dead addresses does not hold its slot for all of them.
#[tokio::test(start_paused = true)]
async fn failures_are_bounded() {
    let addresses: String = (1..=50).map(|n| format!(" 192.0.2.{n}")).collect();
    let mut house = house(Mailer::Esmtp, &[&format!("mx.y{addresses}")], &[]);
    house.attempt(1).await.unwrap();
    assert_eq!(house.events.count("connect"), 10);
}

/// Silence costs the timeout of its step, no more.
#[tokio::test(start_paused = true)]
async fn silence_costs_its_timeout() {
    let mail = format!("{OPEN}MAIL >\nhang");
    let body = format!("{OPEN}MAIL > 250 ok\nRCPT > 250 ok\nDATA > 354 go\n. >\nhang");
    for (script, minutes) in [("hang", 5), (mail.as_str(), 10), (&body, 60)] {
        let mut house = house(Mailer::Esmtp, &["mx.y 192.0.2.1"], &[("192.0.2.1", script)]);
        let start = tokio::time::Instant::now();
        house.attempt(1).await.unwrap();
        assert_eq!(start.elapsed().as_secs().div_ceil(60), minutes);
    }
}
