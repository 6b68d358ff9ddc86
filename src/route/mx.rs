//! The hosts to try for a destination, in order: RFC 5321 5.1 with null MX (RFC 7505).
//!
//! DNS is hostile: the number of hosts and addresses is bounded, names that are no host names are passed over, and a
//! domain cannot point us at ourselves, at our loopback or at a multicast group. Not knowing is never *no*: as long as
//! a server's silence could hide a way, the answer is 4.4.3.
//!
//! Options of sendmail that act here: FallbackMXhost, FallbackSmartHost, TryNullMXList, ConnectOnlyTo.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::task::Poll;

use super::table::{Place, PlaceHost, bracketed, canonical_domain, place};
use super::{Hop, NoHop};
use crate::config::Config;
use crate::mail::job::{Destination, Mailer};
use crate::mail::outcome::Report;
use crate::mail::status::EnhancedStatus;
use crate::world::{Answer, DnsError, World};

/// MX hosts that are looked at, best first. The largest honest sets have about a dozen; a zone with thousands is an
/// attack on the resolver.
const MX_HOSTS_MAX: usize = 32;
/// Addresses of one host that are tried.
const HOST_ADDRESSES_MAX: usize = 8;
/// Addresses of one destination that are tried: each may cost a connect timeout.
const ADDRESSES_MAX: usize = 32;
/// The port of LMTP when LocalRelay names none (RFC 2033 2 forbids 25).
const LMTP_PORT: u16 = 24;
/// The port where a mail server of this machine is ours, whatever DaemonPortOptions say.
const SMTP_PORT: u16 = 25;

/// The hops of a destination, in the order to try; at least one.
///
/// # Errors
/// A report of class 5 when there is no way and never will be; of class 4 when DNS could not say.
pub async fn hops(
    world: &World,
    config: &Config,
    destination: &Destination,
) -> Result<Vec<Hop>, NoHop> {
    let own = world.net.own_addresses();
    let search = Search { world, config, port: config.smtp_port, own };
    search.hops(destination).await.map_err(|trouble| trouble.report(world))
}

/// Why there is no hop.
enum Trouble {
    /// NXDOMAIN, or neither MX nor address.
    Unknown(String),
    /// Nobody could say.
    Unclear(String),
    /// RFC 7505.
    NullMx(String),
    /// The best host left is this one.
    Loop,
    /// The host's only addresses are of no use to anybody but itself.
    Unusable(String, IpAddr),
    /// The destination is none: a stored one of an older configuration, say.
    NotAPlace(String),
}

impl Trouble {
    fn report(self, world: &World) -> Report {
        let (status, text) = match self {
            Trouble::Unknown(host) => {
                ((5, 1, 2), format!("Host unknown (Name server: {host}: host not found)"))
            }
            Trouble::Unclear(host) => {
                ((4, 4, 3), format!("Name server: {host}: host name lookup failure"))
            }
            Trouble::NullMx(host) => {
                ((5, 1, 10), format!("Domain {host} does not accept mail (null MX)"))
            }
            Trouble::Loop => {
                ((5, 3, 5), "config error: mail loops back to me (MX problem?)".to_owned())
            }
            Trouble::Unusable(host, address) => {
                ((5, 4, 4), format!("Host {host} has no usable address ({address})"))
            }
            Trouble::NotAPlace(text) => {
                ((4, 3, 5), format!("Local configuration error: {text}: not a next hop"))
            }
        };
        let (class, subject, detail) = status;
        Report {
            status: EnhancedStatus::new(class, subject, detail),
            text,
            reply: None,
            command: None,
            remote: None,
            at: world.clock.now(),
        }
    }
}

/// A host of an MX list and what DNS said of it.
struct Candidate {
    preference: u16,
    name: String,
    addresses: Result<Vec<IpAddr>, DnsError>,
}

struct Search<'a> {
    world: &'a World,
    config: &'a Config,
    port: u16,
    /// The addresses of this machine.
    own: Vec<IpAddr>,
}

impl Search<'_> {
    async fn hops(mut self, destination: &Destination) -> Result<Vec<Hop>, Trouble> {
        let next_hop = destination.next_hop.as_str();
        if destination.mailer == Mailer::Lmtp && next_hop.starts_with('/') {
            return Ok(vec![Hop::Path(next_hop.into())]);
        }
        let Place { host, port } =
            place(next_hop).ok_or_else(|| Trouble::NotAPlace(next_hop.to_owned()))?;
        if let Some(only) = self.config.connect_only_to {
            // DNS is not asked: the network of a test may have none.
            let name = match host {
                PlaceHost::Address(address) => bracketed(address),
                PlaceHost::Host(name) | PlaceHost::Domain(name) => name.to_owned(),
            };
            return Ok(vec![Hop::Host { name, addresses: vec![only] }]);
        }
        self.port = match destination.mailer {
            Mailer::Lmtp => port.unwrap_or(LMTP_PORT),
            Mailer::Esmtp | Mailer::Relay | Mailer::Local => port.unwrap_or(self.config.smtp_port),
        };
        match host {
            PlaceHost::Address(address) => {
                // A stranger's literal must not make us talk to ourselves; an administrator's relay may.
                if destination.mailer == Mailer::Esmtp && self.is_us(address) {
                    return Err(Trouble::Loop);
                }
                Ok(vec![self.hop(bracketed(address), vec![address])])
            }
            PlaceHost::Host(name) => self.host(name).await,
            PlaceHost::Domain("") => Err(Trouble::NotAPlace(next_hop.to_owned())),
            PlaceHost::Domain(name) => {
                let found = self.domain(name).await;
                self.with_fallbacks(found).await
            }
        }
    }

    /// What FallbackMXhost adds behind the hosts of a domain, or puts in their place while DNS is silent, and where
    /// FallbackSmartHost leads when the domain is not there. What DNS cannot say of a fallback never ends a recipient.
    async fn with_fallbacks(
        &mut self,
        found: Result<Vec<Hop>, Trouble>,
    ) -> Result<Vec<Hop>, Trouble> {
        match (found, &self.config.fallback_mx_host, &self.config.fallback_smart_host) {
            (Ok(mut hops), Some(fallback), _) => {
                let more = self.fallback(fallback).await.unwrap_or_default();
                let known = |hop: &Hop| hops.iter().any(|other| name_of(other) == name_of(hop));
                let more: Vec<Hop> = more.into_iter().filter(|hop| !known(hop)).collect();
                hops.extend(more);
                Ok(hops)
            }
            (Err(trouble @ Trouble::Unclear(_)), Some(fallback), _) => {
                match self.fallback(fallback).await {
                    Ok(hops) if !hops.is_empty() => Ok(hops),
                    _ => Err(trouble),
                }
            }
            (Err(Trouble::Unknown(_)), _, Some(fallback)) => match self.fallback(fallback).await {
                Ok(hops) if !hops.is_empty() => Ok(hops),
                _ => Err(Trouble::Unclear(fallback.clone())),
            },
            (found, ..) => found,
        }
    }

    /// The hosts of a fallback, by MX for a domain and directly for `[host]`, without those that are this host.
    async fn fallback(&mut self, text: &str) -> Result<Vec<Hop>, Trouble> {
        let Place { host, port } =
            place(text).ok_or_else(|| Trouble::NotAPlace(text.to_owned()))?;
        let usual = std::mem::replace(&mut self.port, port.unwrap_or(self.config.smtp_port));
        let hops = match host {
            PlaceHost::Address(address) => Ok(vec![self.hop(bracketed(address), vec![address])]),
            PlaceHost::Host(name) => self.host(name).await,
            PlaceHost::Domain(name) => self.domain(name).await,
        };
        let hops = hops.map(|mut hops| {
            hops.retain(|hop| match hop {
                Hop::Host { addresses, .. } => !addresses.iter().any(|at| self.is_us(at.ip())),
                Hop::Path(_) => true,
            });
            hops
        });
        self.port = usual;
        hops
    }

    /// A host that an administrator named: its addresses, whatever they are.
    async fn host(&self, name: &str) -> Result<Vec<Hop>, Trouble> {
        match self.world.dns.addresses(name).await {
            Ok(addresses) => Ok(vec![self.hop(name.to_owned(), addresses)]),
            Err(error) => Err(trouble(name, &error)),
        }
    }

    /// RFC 5321 5.1: the MX records; without any, the domain itself.
    async fn domain(&self, domain: &str) -> Result<Vec<Hop>, Trouble> {
        let records = match self.world.dns.mx(domain).await {
            Ok(records) => records,
            Err(DnsError::NoData) => vec![(0, domain.to_owned())],
            Err(error) => return Err(trouble(domain, &error)),
        };
        if records.iter().all(|(_, host)| host.is_empty()) {
            return Err(Trouble::NullMx(domain.to_owned()));
        }
        let mut candidates = self.candidates(in_order(records)).await;
        if let Some(ours) = candidates.iter().position(|host| self.is_ours(host)) {
            let preference = candidates[ours].preference;
            candidates.retain(|host| host.preference < preference);
            if candidates.is_empty() && self.config.try_null_mx_list {
                candidates = self.candidates(vec![(0, domain.to_owned())]).await;
                candidates.retain(|host| !self.is_ours(host));
            }
            if candidates.is_empty() {
                return Err(Trouble::Loop);
            }
        }
        self.usable(domain, candidates)
    }

    /// Asks for the addresses of all hosts at once.
    async fn candidates(&self, records: Vec<(u16, String)>) -> Vec<Candidate> {
        let dns = &self.world.dns;
        let asked = records.iter().map(|(_, name)| dns.addresses(name)).collect();
        let answers = together(asked).await;
        let candidate = |((preference, name), addresses)| Candidate { preference, name, addresses };
        records.into_iter().zip(answers).map(candidate).collect()
    }

    /// The candidates as hops, without those that lead nowhere.
    fn usable(&self, domain: &str, candidates: Vec<Candidate>) -> Result<Vec<Hop>, Trouble> {
        let mut hops = Vec::new();
        let mut room = ADDRESSES_MAX;
        let mut worst = None;
        for Candidate { name, addresses, .. } in candidates {
            let addresses = match addresses {
                Ok(addresses) => addresses,
                Err(error) => {
                    note(&mut worst, trouble(&name, &error));
                    continue;
                }
            };
            let unusable = addresses.iter().copied().find(|address| !self.may_be_mx(*address));
            let mut addresses = addresses;
            addresses.retain(|address| self.may_be_mx(*address));
            addresses.truncate(HOST_ADDRESSES_MAX.min(room));
            room -= addresses.len();
            if !addresses.is_empty() {
                hops.push(self.hop(name, addresses));
            } else if let Some(address) = unusable {
                note(&mut worst, Trouble::Unusable(name, address));
            }
        }
        if hops.is_empty() {
            return Err(worst.unwrap_or_else(|| Trouble::Unknown(domain.to_owned())));
        }
        Ok(hops)
    }

    fn hop(&self, name: String, addresses: Vec<IpAddr>) -> Hop {
        let at_port = |address| SocketAddr::new(address, self.port);
        let addresses = addresses.into_iter().take(ADDRESSES_MAX).map(at_port).collect();
        Hop::Host { name, addresses }
    }

    /// RFC 5321 5.1: the client's own name or address in the list.
    fn is_ours(&self, host: &Candidate) -> bool {
        let by_name = self.config.local_names.contains(&host.name)
            || self.config.host_name.eq_ignore_ascii_case(&host.name);
        let by_address = || {
            let addresses = host.addresses.as_deref().unwrap_or_default();
            addresses.iter().any(|address| self.is_us(*address))
        };
        by_name || by_address()
    }

    /// Whether a connection to this address would end at this daemon: another port is another server.
    fn is_us(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let ours = self.port == SMTP_PORT
            || self.config.daemons.iter().any(|daemon| {
                let ip = daemon.address.ip();
                daemon.address.port() == self.port && (ip.is_unspecified() || ip == address)
            });
        ours && self.own.contains(&address)
    }

    /// Whether DNS may send us there. Another SmtpPort than 25 is a test bed on one machine: loopback is fine.
    fn may_be_mx(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
        let nowhere = address.is_unspecified() || address.is_multicast() || broadcast;
        !nowhere && (!address.is_loopback() || self.config.smtp_port != SMTP_PORT)
    }
}

fn name_of(hop: &Hop) -> String {
    match hop {
        Hop::Host { name, .. } => name.clone(),
        Hop::Path(path) => path.display().to_string(),
    }
}

/// Best first, equals in random order (RFC 5321 5.1), no host twice, only names that hosts can have.
fn in_order(mut records: Vec<(u16, String)>) -> Vec<(u16, String)> {
    fastrand::shuffle(&mut records);
    records.sort_by_key(|(preference, _)| *preference);
    let mut seen = std::collections::HashSet::new();
    records.retain(|(_, host)| {
        canonical_domain(host).is_ok_and(|name| name == *host) && seen.insert(host.clone())
    });
    records.truncate(MX_HOSTS_MAX);
    records
}

fn trouble(host: &str, error: &DnsError) -> Trouble {
    match error {
        DnsError::NoSuchDomain | DnsError::NoData => Trouble::Unknown(host.to_owned()),
        DnsError::Temporary(_) => Trouble::Unclear(host.to_owned()),
    }
}

/// Keeps the first trouble, but one that may pass above all that will not.
fn note(worst: &mut Option<Trouble>, trouble: Trouble) {
    match (&worst, &trouble) {
        (None, _) => *worst = Some(trouble),
        (Some(Trouble::Unclear(_)), _) => {}
        (Some(_), Trouble::Unclear(_)) => *worst = Some(trouble),
        (Some(_), _) => {}
    }
}

/// Waits for all answers at once; they come back in the order asked.
async fn together<T>(mut asked: Vec<Answer<'_, T>>) -> Vec<T> {
    let mut answers: Vec<Option<T>> = asked.iter().map(|_| None).collect();
    poll_fn(move |cx| {
        let mut all = true;
        for (answer, question) in answers.iter_mut().zip(&mut asked) {
            if answer.is_none() {
                match question.as_mut().poll(cx) {
                    Poll::Ready(said) => *answer = Some(said),
                    Poll::Pending => all = false,
                }
            }
        }
        if all { Poll::Ready(answers.drain(..).flatten().collect()) } else { Poll::Pending }
    })
    .await
}
