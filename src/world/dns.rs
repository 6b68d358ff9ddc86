//! Names, by the hickory resolver: MX, A, AAAA and PTR with timeouts, a cache, and the hosts file beside it.
//!
//! Promises to tell *the name does not exist*, *it has no such record* and *nobody could say* apart, because the
//! first two end a recipient and the third must never: anything unclear (SERVFAIL, REFUSED, a lame referral, an
//! answer that does not parse, silence) is [`DnsError::Temporary`]. Every query is for the name as given, but for one
//! without a dot where there are domains to complete it (NameSearchList). The law is RFC 1035, RFC 2308 for negative
//! answers, RFC 6761 for localhost.
//!
//! Known limit: the servers and the hosts file are read when the resolver is made; a change needs a new one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as AnswerError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData};

use super::hosts::Hosts;
use super::{Answer, Dns, DnsError};

/// Answers kept at most; one is a few hundred octets, so this is a few MiB and covers a busy relay's hour.
const CACHE_ANSWERS_MAX: u64 = 16_384;
/// A positive answer is believed this long at most, so that a mistake in a zone with a TTL of weeks heals by itself.
const POSITIVE_TTL_MAX: Duration = Duration::from_secs(3600);
/// A negative answer is believed this long at most: it ends recipients, so a new domain must not wait for hours.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(300);
/// Queries under way on one TCP connection to a server. Over the library's 32 it says *busy*, which would look like
/// DNS trouble; all attempts at once with A, AAAA and MX stay below this.
const QUERIES_MAX: usize = 2048;
/// Names of one address that are checked forward; more than a few are never honest.
const NAMES_OF_ADDRESS_MAX: usize = 8;
/// An address in the global unicast range that is never sent to: asks the kernel whether there is a route.
const IPV6_PROBE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The name server of a machine that names none.
const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);
/// The domain port, for the probe above.
const DOMAIN_PORT: u16 = 53;

/// Where a host may be known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostSource {
    /// The hosts file.
    Files,
    /// The name servers.
    Dns,
}

/// How to ask.
#[derive(Clone, Debug)]
pub struct DnsOptions {
    /// Whom; empty means what resolv.conf(5) names.
    pub name_servers: Vec<SocketAddr>,
    /// How long to wait for one answer of one server.
    pub timeout: Duration,
    /// How often to ask again after that.
    pub attempts: usize,
    /// Domains that complete a name without a dot, before it is asked for as it is.
    pub search: Vec<String>,
    /// MX records are asked for by names as they are alone.
    pub has_wildcard_mx: bool,
    /// Trouble with AAAA is as no such record.
    pub work_around_broken_aaaa: bool,
    /// Where hosts are known, in this order.
    pub sources: Vec<HostSource>,
    /// The text of the hosts file.
    pub hosts: String,
}

impl Default for DnsOptions {
    /// The system's servers, 5 s, twice: the defaults of resolver(3).
    fn default() -> DnsOptions {
        DnsOptions {
            name_servers: Vec::new(),
            timeout: Duration::from_secs(5),
            attempts: 2,
            search: Vec::new(),
            has_wildcard_mx: false,
            work_around_broken_aaaa: false,
            sources: vec![HostSource::Files, HostSource::Dns],
            hosts: String::new(),
        }
    }
}

/// The resolver cannot be made; nothing was asked yet.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up DNS from {from}: {source}")]
pub struct DnsSetupError {
    from: &'static str,
    #[source]
    source: NetError,
}

/// The real form of [`Dns`].
pub struct Resolver {
    inner: TokioResolver,
    hosts: Hosts,
    sources: Vec<HostSource>,
    search: Vec<String>,
    has_wildcard_mx: bool,
    work_around_broken_aaaa: bool,
}

impl Resolver {
    /// A resolver with an empty cache. Asks nobody yet.
    ///
    /// # Errors
    /// The settings make no resolver.
    pub fn new(options: &DnsOptions) -> Result<Resolver, DnsSetupError> {
        let failed = |from| move |source| DnsSetupError { from, source };
        let provider = TokioRuntimeProvider::default();
        let asking = |servers: &[SocketAddr]| {
            let servers = servers.iter().map(name_server).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            TokioResolver::builder_with_config(config, provider.clone())
        };
        let mut builder = match options.name_servers.as_slice() {
            // resolv.conf(5): without the file, or a server in it, the one on this machine is asked.
            [] => TokioResolver::builder(provider.clone()).unwrap_or_else(|_| asking(&[LOCAL])),
            servers => asking(servers),
        };
        set_options(builder.options_mut(), options);
        Ok(Resolver {
            inner: builder.build().map_err(failed("these settings"))?,
            hosts: Hosts::parse(&options.hosts),
            sources: options.sources.clone(),
            search: options.search.clone(),
            has_wildcard_mx: options.has_wildcard_mx,
            work_around_broken_aaaa: options.work_around_broken_aaaa,
        })
    }

    /// The names that `name` may stand for, in the order to ask.
    fn completed(&self, name: &str) -> Vec<String> {
        let is_complete = name.contains('.') || name.eq_ignore_ascii_case("localhost");
        let ends = if is_complete { &[] } else { self.search.as_slice() };
        let completed = ends.iter().map(|end| format!("{name}.{end}"));
        completed.chain(std::iter::once(name.to_owned())).collect()
    }

    fn asks_dns(&self) -> bool {
        self.sources.contains(&HostSource::Dns)
    }

    fn in_file(&self, name: &str) -> Option<&[IpAddr]> {
        self.hosts.addresses(name).filter(|_| self.sources.contains(&HostSource::Files))
    }

    async fn mx_of(&self, name: &str) -> Result<Vec<(u16, String)>, DnsError> {
        let lookup = self.inner.mx_lookup(query_name(name)?).await.map_err(dns_error)?;
        let hosts: Vec<(u16, String)> = lookup
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::MX(mx) => Some((mx.preference, text_of(&mx.exchange))),
                _ => None,
            })
            .collect();
        if hosts.is_empty() { Err(DnsError::NoData) } else { Ok(hosts) }
    }

    /// The addresses of a complete name, by the first source that has it.
    async fn addresses_of(&self, name: &str) -> Result<Vec<IpAddr>, DnsError> {
        let mut missing = DnsError::NoSuchDomain;
        for source in &self.sources {
            match source {
                HostSource::Files => {
                    if let Some(found) = self.hosts.addresses(name) {
                        return Ok(found.to_vec());
                    }
                }
                HostSource::Dns => match self.both_families(name).await {
                    Err(none @ (DnsError::NoSuchDomain | DnsError::NoData)) => missing = none,
                    other => return other,
                },
            }
        }
        Err(missing)
    }

    async fn both_families(&self, name: &str) -> Result<Vec<IpAddr>, DnsError> {
        let name = query_name(name)?;
        let (v6, v4) = tokio::join!(self.family(&name, true), self.family(&name, false));
        let v6 = match (&v6, &v4) {
            (Err(DnsError::Temporary(_)), Err(none)) if self.work_around_broken_aaaa => {
                Err(none.clone())
            }
            _ => v6,
        };
        either_family(v6, v4, has_ipv6_route)
    }

    /// The addresses of one family; the name was checked.
    async fn family(&self, name: &Name, ipv6: bool) -> Result<Vec<IpAddr>, DnsError> {
        let lookup = if ipv6 {
            self.inner.ipv6_lookup(name.clone()).await
        } else {
            self.inner.ipv4_lookup(name.clone()).await
        };
        let addresses: Vec<IpAddr> = lookup
            .map_err(dns_error)?
            .answers()
            .iter()
            .filter_map(|record| match record.data {
                RData::A(a) => Some(IpAddr::V4(a.0)),
                RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
                _ => None,
            })
            .collect();
        if addresses.is_empty() { Err(DnsError::NoData) } else { Ok(addresses) }
    }
}

impl Dns for Resolver {
    fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, Result<Vec<(u16, String)>, DnsError>> {
        Box::pin(async move {
            if !self.asks_dns() {
                return Err(DnsError::NoData);
            }
            let names = self.completed(domain);
            let mut exists = self.in_file(domain).is_some();
            let asked = match self.has_wildcard_mx {
                true => &names[names.len() - 1..],
                false => &names[..],
            };
            // The addresses of the names that are not asked about are still to be looked for.
            exists |= asked.len() < names.len();
            for name in asked {
                match self.mx_of(name).await {
                    Err(DnsError::NoSuchDomain) => {}
                    Err(DnsError::NoData) => exists = true,
                    other => return other,
                }
            }
            Err(if exists { DnsError::NoData } else { DnsError::NoSuchDomain })
        })
    }

    fn addresses<'a>(&'a self, host: &'a str) -> Answer<'a, Result<Vec<IpAddr>, DnsError>> {
        Box::pin(async move {
            let mut missing = DnsError::NoSuchDomain;
            for name in self.completed(host) {
                match self.addresses_of(&name).await {
                    Err(DnsError::NoSuchDomain) => {}
                    Err(DnsError::NoData) => missing = DnsError::NoData,
                    other => return other,
                }
            }
            Err(missing)
        })
    }

    fn name_of(&self, address: IpAddr) -> Answer<'_, Result<String, DnsError>> {
        Box::pin(async move {
            let address = address.to_canonical();
            // What the file says of a name, it says of its address.
            let first = self.sources.first();
            let in_file = self.hosts.name(address).filter(|_| first == Some(&HostSource::Files));
            if let Some(name) = in_file {
                return Ok(name.to_owned());
            }
            if !self.asks_dns() {
                return Err(DnsError::NoData);
            }
            let lookup = self.inner.reverse_lookup(address).await.map_err(dns_error)?;
            let names = lookup.answers().iter().filter_map(|record| match &record.data {
                RData::PTR(ptr) => Some(text_of(&ptr.0)),
                _ => None,
            });
            let mut unclear = None;
            for name in names.take(NAMES_OF_ADDRESS_MAX) {
                match self.addresses(&name).await {
                    Ok(addresses) if addresses.contains(&address) => return Ok(name),
                    Ok(_) | Err(DnsError::NoSuchDomain | DnsError::NoData) => {}
                    Err(trouble @ DnsError::Temporary(_)) => unclear = Some(trouble),
                }
            }
            Err(unclear.unwrap_or(DnsError::NoData))
        })
    }
}

/// UDP, and TCP for what does not fit, at a port of the administrator's choice.
fn name_server(address: &SocketAddr) -> NameServerConfig {
    let at_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![at_port(ConnectionConfig::udp()), at_port(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}

fn set_options(opts: &mut ResolverOpts, options: &DnsOptions) {
    opts.timeout = options.timeout;
    opts.attempts = options.attempts;
    opts.cache_size = CACHE_ANSWERS_MAX;
    opts.positive_max_ttl = Some(POSITIVE_TTL_MAX);
    opts.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
    // The file is ours to read: HostsFile names it, and ServiceSwitchFile its turn.
    opts.use_hosts_file = ResolveHosts::Never;
    opts.max_active_requests = QUERIES_MAX;
}

/// The name to ask for, ended by a dot so that no search list is applied.
///
/// A text that no name can have (a label of 64 octets) is a name that does not exist.
fn query_name(text: &str) -> Result<Name, DnsError> {
    let mut name = Name::from_ascii(text).map_err(|_| DnsError::NoSuchDomain)?;
    name.set_fqdn(true);
    Ok(name)
}

/// Lower case, no final dot, empty for the root. Octets that no host name has stay escaped (`\032`).
fn text_of(name: &Name) -> String {
    let mut text = name.to_ascii().to_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

/// Both families in the order to try. One family without an answer is no trouble while the other has addresses:
/// there are servers that fail on AAAA for ever. Without any address, trouble wins, because it is not final.
fn either_family(
    v6: Result<Vec<IpAddr>, DnsError>,
    v4: Result<Vec<IpAddr>, DnsError>,
    has_ipv6_route: impl Fn() -> bool,
) -> Result<Vec<IpAddr>, DnsError> {
    use DnsError::{NoSuchDomain, Temporary};
    match (v6, v4) {
        (Ok(v6), Ok(v4)) if has_ipv6_route() => Ok([v6, v4].concat()),
        (Ok(v6), Ok(v4)) => Ok([v4, v6].concat()),
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
        (Err(Temporary(text)), Err(_)) | (Err(_), Err(Temporary(text))) => Err(Temporary(text)),
        (Err(NoSuchDomain), Err(NoSuchDomain)) => Err(NoSuchDomain),
        (Err(_), Err(_)) => Err(DnsError::NoData),
    }
}

/// Whether the kernel would send an IPv6 packet to the world; nothing is sent.
fn has_ipv6_route() -> bool {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
        .and_then(|socket| socket.connect((IPV6_PROBE, DOMAIN_PORT)))
        .is_ok()
}

/// Only an answer that says so is final. A referral without SOA is a server that does not know (RFC 2308 2.2).
fn dns_error(error: NetError) -> DnsError {
    match error {
        NetError::Dns(AnswerError::NoRecordsFound(no)) => match no.response_code {
            ResponseCode::NXDomain => DnsError::NoSuchDomain,
            ResponseCode::NoError if no.soa.is_some() || no.ns.is_none() => DnsError::NoData,
            ResponseCode::NoError => DnsError::Temporary("lame referral".into()),
            code => DnsError::Temporary(code.to_string()),
        },
        other => DnsError::Temporary(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_family_is_enough_and_trouble_is_never_final() {
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        let v4: IpAddr = "192.0.2.1".parse().unwrap();
        let trouble = || DnsError::Temporary("SERVFAIL".into());
        let both = |route: bool| either_family(Ok(vec![v6]), Ok(vec![v4]), || route);
        assert_eq!(both(true), Ok(vec![v6, v4]));
        assert_eq!(both(false), Ok(vec![v4, v6]));
        let one = |v6, v4| either_family(v6, v4, || true);
        assert_eq!(one(Err(trouble()), Ok(vec![v4])), Ok(vec![v4]));
        assert_eq!(one(Ok(vec![v6]), Err(DnsError::NoData)), Ok(vec![v6]));
        assert_eq!(one(Err(DnsError::NoSuchDomain), Err(trouble())), Err(trouble()));
        assert_eq!(one(Err(trouble()), Err(DnsError::NoData)), Err(trouble()));
        let gone = || Err(DnsError::NoSuchDomain);
        assert_eq!(one(gone(), gone()), Err(DnsError::NoSuchDomain));
        assert_eq!(one(Err(DnsError::NoData), gone()), Err(DnsError::NoData));
    }

    #[test]
    fn names_that_cannot_be_do_not_exist() {
        assert_eq!(query_name(&"a".repeat(64)), Err(DnsError::NoSuchDomain));
        assert_eq!(query_name("a..b"), Err(DnsError::NoSuchDomain));
        assert_eq!(
            query_name("x_y.example").map(|name| name.to_ascii()),
            Ok("x_y.example.".into())
        );
    }
}
