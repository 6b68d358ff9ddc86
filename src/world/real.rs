//! The real form of the doors: the system's clock, the hickory resolver, TCP, Unix sockets and rustls.
//!
//! Promises nothing about time: every wait is bounded by the caller. Knows no mail.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::{TcpSocket, UnixStream};
use tokio::time::Instant;

use super::dns::{DnsOptions, DnsSetupError, Resolver};
use super::tls::{self, ClientTls, SetUp, TlsFault};
use super::{Answer, Clock, Load, Net, Stream, TlsAccept, TlsFacts, World};
use crate::config::tls::Tls;
use crate::mail::time::Timestamp;

/// The list of our addresses is read again after this long: it is asked for at every attempt and changes rarely.
const OWN_ADDRESSES_AGE_MAX: Duration = Duration::from_secs(10);

impl World {
    /// The real world, with the files of `tls` read; those that could not be used come back and it stands without them.
    /// Asks nobody anything yet.
    ///
    /// # Errors
    /// No name server is given and resolv.conf(5) names none.
    pub fn real(dns: &DnsOptions, tls: &Tls) -> Result<(World, Vec<TlsFault>), DnsSetupError> {
        let SetUp { client, server, faults } = tls::set_up(tls);
        let world = World {
            clock: Arc::new(RealClock),
            dns: Arc::new(Resolver::new(dns)?),
            net: Arc::new(RealNet::new(client)),
            load: Arc::new(RealLoad::default()),
            tls: server.map(|server| Arc::new(server) as Arc<dyn TlsAccept>),
        };
        Ok((world, faults))
    }
}

/// The system's clock.
pub struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> Timestamp {
        // A clock before 1970 is one that was never set; mail then carries that date rather than stopping.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// How long a load average is believed: it is asked for at every command, and is an average over a minute anyway.
const LOAD_AGE_MAX: Duration = Duration::from_secs(3);

/// The load average of proc(5).
#[derive(Default)]
pub struct RealLoad(Mutex<Option<(Instant, u32)>>);

impl Load for RealLoad {
    fn average(&self) -> u32 {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *known {
            Some((read, load)) if read.elapsed() < LOAD_AGE_MAX => load,
            _ => {
                // A system without it is never too busy, as sendmail has it.
                let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
                let first = text.split(' ').next().and_then(|word| word.parse::<f64>().ok());
                let load = first.unwrap_or(0.0).round() as u32;
                *known = Some((Instant::now(), load));
                load
            }
        }
    }
}

/// TCP, Unix sockets, and TLS over either.
pub struct RealNet {
    tls: ClientTls,
    own: Mutex<Option<(Instant, Vec<IpAddr>)>>,
}

impl RealNet {
    /// Connections whose TLS is checked, though never refused, as `tls` says.
    pub fn new(tls: ClientTls) -> RealNet {
        RealNet { tls, own: Mutex::new(None) }
    }
}

impl Net for RealNet {
    fn connect(
        &self,
        address: SocketAddr,
        source: Option<IpAddr>,
    ) -> Answer<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            if let Some(source) = source {
                socket.bind(SocketAddr::new(source, 0))?;
            }
            let stream = socket.connect(address).await?;
            // Commands are small and answered one by one: with Nagle's delay each would wait for the peer's ACK.
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn connect_path<'a>(&'a self, path: &'a Path) -> Answer<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move { Ok(Box::new(UnixStream::connect(path).await?) as Box<dyn Stream>) })
    }

    fn start_tls<'a>(
        &'a self,
        stream: Box<dyn Stream>,
        server_name: &'a str,
    ) -> Answer<'a, io::Result<(Box<dyn Stream>, TlsFacts)>> {
        Box::pin(self.tls.connect(stream, server_name))
    }

    fn own_addresses(&self) -> Vec<IpAddr> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, addresses)) = &*own
            && read.elapsed() < OWN_ADDRESSES_AGE_MAX
        {
            return addresses.clone();
        }
        let addresses = match interface_addresses() {
            Ok(addresses) => addresses,
            Err(error) => {
                // Loop detection is then as good as the last list; Received lines still end a loop.
                let known = own.take().map(|(_, addresses)| addresses);
                tracing::warn!(%error, "cannot list the addresses of this machine; keeping the old list");
                known
                    .unwrap_or_else(|| vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
            }
        };
        *own = Some((Instant::now(), addresses.clone()));
        addresses
    }
}

/// The addresses of all interfaces, loopback included, in no order.
fn interface_addresses() -> Result<Vec<IpAddr>, nix::errno::Errno> {
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let storage = interface.address?;
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    Ok(nix::ifaddrs::getifaddrs()?.filter_map(address).collect())
}
