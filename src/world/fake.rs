//! A world for tests: a clock that is set, names from a zone text, and a network inside the process.
//!
//! Stands behind the same doors as [`super::real`] and obeys the same contracts, so what runs against it runs against
//! the world. Nothing here waits, except a host that was told to be silent.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use super::{Answer, Clock, Dns, DnsError, Load, Net, Stream, TlsFacts, World, tls};
use crate::config::tls::Tls;
use crate::mail::time::Timestamp;

/// Octets on the way in one direction of a connection: about what a socket buffers.
const PIPE_OCTETS: usize = 64 * 1024;
/// Connections waiting to be accepted by one listener.
const BACKLOG: usize = 256;

/// The doors with their handles for the test.
#[derive(Clone, Default)]
pub struct FakeWorld {
    /// Starts at [`Timestamp::ZERO`].
    pub clock: Arc<FakeClock>,
    /// Starts empty: every name is NXDOMAIN.
    pub dns: Arc<FakeDns>,
    /// Starts with nobody listening: every connection is refused.
    pub net: Arc<FakeNet>,
    /// Starts idle.
    pub load: Arc<FakeLoad>,
}

impl FakeWorld {
    /// A world whose names are those of `zone`.
    pub fn with_zone(zone: Zone) -> FakeWorld {
        let world = FakeWorld::default();
        world.dns.set(zone);
        world
    }

    /// The doors as the stations see them.
    pub fn world(&self) -> World {
        World {
            clock: self.clock.clone(),
            dns: self.dns.clone(),
            net: self.net.clone(),
            load: self.load.clone(),
            tls: None,
        }
    }
}

/// A clock that stands until it is set.
#[derive(Default)]
pub struct FakeClock(Mutex<Timestamp>);

impl FakeClock {
    /// It is now `now`, be it earlier or later.
    pub fn set(&self, now: Timestamp) {
        *lock(&self.0) = now;
    }

    /// It is `length` later.
    pub fn advance(&self, length: Duration) {
        let mut now = lock(&self.0);
        *now = now.after(length);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        *lock(&self.0)
    }
}

/// A load average that is set.
#[derive(Default)]
pub struct FakeLoad(AtomicU32);

impl FakeLoad {
    /// It is `load` from now on.
    pub fn set(&self, load: u32) {
        self.0.store(load, Ordering::Relaxed);
    }
}

impl Load for FakeLoad {
    fn average(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What can be asked of a zone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs)] // named as the types
pub enum Kind {
    A,
    Aaaa,
    Cname,
    Mx,
    Ptr,
}

/// One record.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // named as the types
pub enum Record {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(String),
    Mx(u16, String),
    Ptr(String),
}

/// How a server misbehaves when asked for a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// RCODE 2.
    ServFail,
    /// RCODE 5.
    Refused,
    /// No answer.
    Timeout,
    /// Over UDP only a truncated answer without records; over TCP the whole one.
    Truncated,
    /// Octets that are no DNS message.
    Garbage,
}

/// What a zone says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// Records with their owners: the aliases followed, then those asked for.
    Records(Vec<(String, Record)>),
    /// Aliases followed, then nothing: NXDOMAIN.
    NoSuchDomain(Vec<(String, Record)>),
    /// Aliases followed, then no record of the type.
    NoData(Vec<(String, Record)>),
    /// The server fails.
    Trouble(Trouble),
}

/// Names and what is known of them. One record a line: `b.example MX 10 mx.b.example`, `mx.b.example A 192.0.2.1`,
/// `c.example NODATA`, `d.example SERVFAIL`, `e.example AAAA TIMEOUT`, `192.0.2.1 PTR mx.b.example`. A name ends in
/// no dot; `.` is the root.
#[derive(Clone, Default, Debug)]
pub struct Zone {
    names: BTreeMap<String, Vec<Record>>,
    troubles: BTreeMap<(String, Option<Kind>), Trouble>,
}

impl Zone {
    /// Adds what one line says.
    ///
    /// # Errors
    /// The line again, when it is not a line of a zone.
    pub fn add(&mut self, line: &str) -> Result<(), String> {
        self.try_add(line).ok_or_else(|| format!("not a record: {line}"))
    }

    fn try_add(&mut self, line: &str) -> Option<()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = match words.first()?.parse() {
            Ok(address) => arpa(address),
            Err(_) => words.first()?.to_ascii_lowercase(),
        };
        let words = words.get(1..)?;
        let host = |text: &str| text.trim_end_matches('.').to_ascii_lowercase();
        let record = match words {
            ["NODATA"] => {
                self.names.entry(name).or_default();
                return Some(());
            }
            [trouble] => {
                self.troubles.insert((name, None), trouble_of(trouble)?);
                return Some(());
            }
            [kind, trouble] if trouble_of(trouble).is_some() => {
                self.troubles.insert((name, Some(kind_of(kind)?)), trouble_of(trouble)?);
                return Some(());
            }
            ["A", address] => Record::A(address.parse().ok()?),
            ["AAAA", address] => Record::Aaaa(address.parse().ok()?),
            ["CNAME", target] => Record::Cname(host(target)),
            ["PTR", target] => Record::Ptr(host(target)),
            ["MX", preference, exchange] => Record::Mx(preference.parse().ok()?, host(exchange)),
            _ => return None,
        };
        self.names.entry(name).or_default().push(record);
        Some(())
    }

    /// The same zone as TCP shows it.
    pub fn without_truncation(&self) -> Zone {
        let mut zone = self.clone();
        zone.troubles.retain(|_, trouble| *trouble != Trouble::Truncated);
        zone
    }

    /// The answer to one question. Follows aliases as a recursive server does, and a loop of them ends in SERVFAIL.
    pub fn ask(&self, name: &str, kind: Kind) -> Said {
        let mut said = Vec::new();
        let mut owner = name.to_ascii_lowercase();
        for _ in 0..8 {
            let trouble = |kind| self.troubles.get(&(owner.clone(), kind));
            if let Some(trouble) = trouble(Some(kind)).or_else(|| trouble(None)) {
                return Said::Trouble(*trouble);
            }
            let Some(records) = self.names.get(&owner) else {
                return Said::NoSuchDomain(said);
            };
            let found: Vec<_> = records.iter().filter(|record| record.kind() == kind).collect();
            if !found.is_empty() {
                said.extend(found.into_iter().map(|record| (owner.clone(), record.clone())));
                return Said::Records(said);
            }
            let target = records.iter().find_map(|record| match record {
                Record::Cname(target) => Some(target.clone()),
                _ => None,
            });
            let Some(target) = target else {
                return Said::NoData(said);
            };
            said.push((owner, Record::Cname(target.clone())));
            owner = target;
        }
        Said::Trouble(Trouble::ServFail)
    }
}

impl FromStr for Zone {
    type Err = String;

    /// Lines of records; empty lines and those behind `#` are skipped.
    fn from_str(text: &str) -> Result<Zone, String> {
        let mut zone = Zone::default();
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            zone.add(line)?;
        }
        Ok(zone)
    }
}

impl Record {
    /// Its type.
    pub fn kind(&self) -> Kind {
        match self {
            Record::A(_) => Kind::A,
            Record::Aaaa(_) => Kind::Aaaa,
            Record::Cname(_) => Kind::Cname,
            Record::Mx(..) => Kind::Mx,
            Record::Ptr(_) => Kind::Ptr,
        }
    }
}

/// The name that an address is looked up by: RFC 1035 3.5, RFC 3596 2.5.
fn arpa(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let digits = format!("{:032x}", v6.to_bits());
            let labels: String = digits.chars().rev().flat_map(|digit| [digit, '.']).collect();
            format!("{labels}ip6.arpa")
        }
    }
}

fn kind_of(word: &str) -> Option<Kind> {
    Some(match word {
        "A" => Kind::A,
        "AAAA" => Kind::Aaaa,
        "CNAME" => Kind::Cname,
        "MX" => Kind::Mx,
        "PTR" => Kind::Ptr,
        _ => return None,
    })
}

fn trouble_of(word: &str) -> Option<Trouble> {
    Some(match word {
        "SERVFAIL" => Trouble::ServFail,
        "REFUSED" => Trouble::Refused,
        "TIMEOUT" => Trouble::Timeout,
        "TRUNCATED" => Trouble::Truncated,
        "GARBAGE" => Trouble::Garbage,
        _ => return None,
    })
}

/// Names from a [`Zone`], at once and without a cache.
#[derive(Default)]
pub struct FakeDns(Mutex<Zone>);

impl FakeDns {
    /// From now on the names are those of `zone`.
    pub fn set(&self, zone: Zone) {
        *lock(&self.0) = zone;
    }

    fn ask(&self, name: &str, kind: Kind) -> Result<Vec<Record>, DnsError> {
        match lock(&self.0).without_truncation().ask(name, kind) {
            Said::Records(records) => Ok(records
                .into_iter()
                .map(|(_, record)| record)
                .filter(|record| record.kind() == kind)
                .collect()),
            Said::NoSuchDomain(_) => Err(DnsError::NoSuchDomain),
            Said::NoData(_) => Err(DnsError::NoData),
            Said::Trouble(Trouble::Timeout) => Err(DnsError::Temporary("request timed out".into())),
            Said::Trouble(trouble) => Err(DnsError::Temporary(format!("{trouble:?}"))),
        }
    }
}

impl Dns for FakeDns {
    fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, Result<Vec<(u16, String)>, DnsError>> {
        let hosts = self.ask(domain, Kind::Mx).map(|records| {
            let host = |record| match record {
                Record::Mx(preference, host) => Some((preference, host)),
                _ => None,
            };
            records.into_iter().filter_map(host).collect()
        });
        Box::pin(async move { hosts })
    }

    fn addresses<'a>(&'a self, host: &'a str) -> Answer<'a, Result<Vec<IpAddr>, DnsError>> {
        let families = [self.ask(host, Kind::Aaaa), self.ask(host, Kind::A)];
        let addresses: Vec<IpAddr> = families
            .iter()
            .flatten()
            .flatten()
            .filter_map(|record| match record {
                Record::A(address) => Some(IpAddr::V4(*address)),
                Record::Aaaa(address) => Some(IpAddr::V6(*address)),
                _ => None,
            })
            .collect();
        let said = match families {
            _ if !addresses.is_empty() => Ok(addresses),
            [Err(trouble @ DnsError::Temporary(_)), _]
            | [_, Err(trouble @ DnsError::Temporary(_))] => Err(trouble),
            [Err(error), _] => Err(error),
            [Ok(_), _] => Err(DnsError::NoData),
        };
        Box::pin(async move { said })
    }

    fn name_of(&self, address: IpAddr) -> Answer<'_, Result<String, DnsError>> {
        let names = self.ask(&arpa(address), Kind::Ptr);
        Box::pin(async move {
            for name in names? {
                if let Record::Ptr(name) = name
                    && self.addresses(&name).await.is_ok_and(|known| known.contains(&address))
                {
                    return Ok(name);
                }
            }
            Err(DnsError::NoData)
        })
    }
}

/// What is at an address.
enum Place {
    Listener(mpsc::Sender<DuplexStream>),
    /// Packets are dropped: a connection neither stands nor fails.
    Silent,
}

/// The other ends of connections to one address, in the order they were made.
pub type Listener = mpsc::Receiver<DuplexStream>;

/// Connections that never leave the process.
#[derive(Default)]
pub struct FakeNet {
    places: Mutex<HashMap<SocketAddr, Place>>,
    paths: Mutex<HashMap<PathBuf, mpsc::Sender<DuplexStream>>>,
    own: Mutex<Vec<IpAddr>>,
}

impl FakeNet {
    /// Takes connections to `address` until the listener is dropped; after that they are refused.
    pub fn listen(&self, address: SocketAddr) -> Listener {
        let (sender, listener) = mpsc::channel(BACKLOG);
        lock(&self.places).insert(address, Place::Listener(sender));
        listener
    }

    /// Takes connections to a Unix socket.
    pub fn listen_path(&self, path: impl Into<PathBuf>) -> Listener {
        let (sender, listener) = mpsc::channel(BACKLOG);
        lock(&self.paths).insert(path.into(), sender);
        listener
    }

    /// Connections to `address` hang for ever.
    pub fn silence(&self, address: SocketAddr) {
        lock(&self.places).insert(address, Place::Silent);
    }

    /// The addresses of this machine.
    pub fn set_own_addresses(&self, own: Vec<IpAddr>) {
        *lock(&self.own) = own;
    }
}

async fn hand_over(listener: mpsc::Sender<DuplexStream>) -> io::Result<Box<dyn Stream>> {
    let (ours, theirs) = tokio::io::duplex(PIPE_OCTETS);
    match listener.try_send(theirs) {
        Ok(()) => Ok(Box::new(ours)),
        Err(_) => Err(io::ErrorKind::ConnectionRefused.into()),
    }
}

impl Net for FakeNet {
    fn connect(
        &self,
        address: SocketAddr,
        _source: Option<IpAddr>,
    ) -> Answer<'_, io::Result<Box<dyn Stream>>> {
        let listener = match lock(&self.places).get(&address) {
            Some(Place::Listener(sender)) => sender.clone(),
            Some(Place::Silent) => return Box::pin(std::future::pending()),
            None => return Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) }),
        };
        Box::pin(hand_over(listener))
    }

    fn connect_path<'a>(&'a self, path: &'a Path) -> Answer<'a, io::Result<Box<dyn Stream>>> {
        match lock(&self.paths).get(path).cloned() {
            Some(listener) => Box::pin(hand_over(listener)),
            None => Box::pin(async { Err(io::ErrorKind::NotFound.into()) }),
        }
    }

    fn start_tls<'a>(
        &'a self,
        stream: Box<dyn Stream>,
        server_name: &'a str,
    ) -> Answer<'a, io::Result<(Box<dyn Stream>, TlsFacts)>> {
        // Believes nobody, so every certificate is taken and none is good.
        let tls = tls::set_up_beside(&Tls::default(), Vec::new()).client;
        Box::pin(async move { tls.connect(stream, server_name).await })
    }

    fn own_addresses(&self) -> Vec<IpAddr> {
        lock(&self.own).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn a_place_listens_refuses_or_is_silent() {
        let net = FakeNet::default();
        let address: SocketAddr = "192.0.2.1:25".parse().unwrap();
        let kind = |answer: io::Result<Box<dyn Stream>>| answer.err().map(|error| error.kind());
        let refused = Some(io::ErrorKind::ConnectionRefused);
        assert_eq!(kind(net.connect(address, None).await), refused);
        let mut listener = net.listen(address);
        let mut client = net.connect(address, None).await.unwrap();
        let mut server = listener.recv().await.unwrap();
        client.write_all(b"QUIT").await.unwrap();
        drop(client);
        let mut got = String::new();
        server.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "QUIT");
        drop(listener);
        assert_eq!(kind(net.connect(address, None).await), refused);
        net.silence(address);
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, net.connect(address, None)).await.is_err());
    }
}
