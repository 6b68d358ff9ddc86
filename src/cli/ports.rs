//! The listening sockets of a daemon: DaemonPortOptions, matched with what is open already.
//!
//! Open already is what a supervisor bound for us (systemd's `LISTEN_FDS`), and at a reload what was bound before. A socket that
//! stays is never closed in between, so connections wait in the kernel and none is refused. A supervisor's socket may be
//! narrower or wider than the address asked for (`[::]:25` for `0.0.0.0:25`): what is open was its choice. One that no
//! DaemonPortOptions asks for is an error, because clients would wait there for a greeting that never comes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use listenfd::ListenFd;

use super::exit::Exit;
use crate::accept::listener::Listener;
use crate::config::{Daemon, PortTls};

/// Sockets that a supervisor may hand over at most: an end to a senseless `LISTEN_FDS`.
const GIVEN_MAX: usize = 64;

/// A listening socket with its name.
#[derive(Debug)]
pub struct Port {
    /// Name= of DaemonPortOptions.
    pub name: String,
    /// When TLS begins on it.
    pub tls: PortTls,
    /// Where it was asked to listen: port 0 stands for any.
    pub address: SocketAddr,
    /// The socket.
    pub socket: TcpListener,
    /// A supervisor made it.
    pub given: bool,
}

impl Port {
    /// Where it listens.
    pub fn local(&self) -> SocketAddr {
        self.socket.local_addr().unwrap_or(self.address)
    }
}

/// Why the ports are not open.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The system did not let us.
    #[error("daemon {name}: cannot listen on {address}: {source}")]
    Bind {
        /// Which.
        name: String,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A socket of the supervisor that is none for SMTP.
    #[error("socket {number} of the supervisor (LISTEN_FDS) is no TCP listener: {source}")]
    NotTcp {
        /// From 0.
        number: usize,
        /// What it is instead.
        source: io::Error,
    },
    /// A socket of the supervisor without a place in the configuration.
    #[error(
        "the supervisor's socket {0} is not in DaemonPortOptions: name it there, or take it out of the supervisor's configuration"
    )]
    NotNamed(SocketAddr),
    /// Nothing to listen on.
    #[error("no address to listen on: see DaemonPortOptions")]
    None,
}

impl PortError {
    /// For the shell.
    pub fn exit(&self) -> Exit {
        match self {
            PortError::Bind { .. } => Exit::OsErr,
            PortError::NotTcp { .. } | PortError::NotNamed(_) | PortError::None => Exit::Config,
        }
    }
}

/// `-bl`: the same on loopback alone; what comes to the same place is there once.
pub fn on_loopback(daemons: Vec<Daemon>) -> Vec<Daemon> {
    let mut local: Vec<Daemon> = Vec::new();
    for mut daemon in daemons {
        if !daemon.address.ip().is_loopback() {
            daemon.address.set_ip(match daemon.address.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        if local.iter().all(|known| known.address != daemon.address) {
            local.push(daemon);
        }
    }
    local
}

/// The sockets that a supervisor handed over, if it did. Takes their variables out of the environment: to be asked once, before
/// there are threads.
///
/// # Errors
/// `NotTcp`.
pub fn given() -> Result<Vec<Port>, PortError> {
    let mut sockets = ListenFd::from_env();
    let mut ports = Vec::new();
    for number in 0..sockets.len().min(GIVEN_MAX) {
        let wrong = |source| PortError::NotTcp { number, source };
        let Some(socket) = sockets.take_tcp_listener(number).map_err(wrong)? else { continue };
        let address = socket.local_addr().map_err(wrong)?;
        let (name, tls) = (String::new(), PortTls::Offered);
        ports.push(Port { name, tls, address, socket, given: true });
    }
    Ok(ports)
}

/// The ports that `daemons` ask for: those of `open` that fit, the others bound now. What of `open` is not wanted any more
/// is not among them.
///
/// # Errors
/// `Bind`, unless the daemon is optional; `NotNamed`; `None`.
pub fn ports(daemons: &[Daemon], open: &[Port]) -> Result<Vec<Port>, PortError> {
    let addresses: Vec<(SocketAddr, bool)> =
        open.iter().map(|port| (port.address, port.given)).collect();
    let plan = plan(daemons, &addresses)?;
    let mut ports = Vec::new();
    for (daemon, index) in plan.kept {
        let Port { address, given, socket, .. } = &open[index];
        let (name, tls, address, given) = (daemon.name.clone(), daemon.tls, *address, *given);
        let failed = |source| PortError::Bind { name: name.clone(), address, source };
        let socket = socket.try_clone().map_err(failed)?;
        ports.push(Port { name, tls, address, socket, given });
    }
    for daemon in plan.bound {
        let (name, tls, address) = (daemon.name.clone(), daemon.tls, daemon.address);
        match Listener::bind(daemon) {
            Ok(socket) => ports.push(Port { name, tls, address, socket, given: false }),
            // IPv6 on a machine that has none.
            Err(_) if daemon.optional => {}
            Err(source) => return Err(PortError::Bind { name, address, source }),
        }
    }
    if ports.is_empty() { Err(PortError::None) } else { Ok(ports) }
}

/// What to do for each daemon.
#[derive(Debug, PartialEq, Eq)]
struct Plan<'a> {
    /// Daemons, and which of the open sockets they have.
    kept: Vec<(&'a Daemon, usize)>,
    /// To be bound.
    bound: Vec<&'a Daemon>,
}

/// `open`: addresses, and whether a supervisor made them.
fn plan<'a>(daemons: &'a [Daemon], open: &[(SocketAddr, bool)]) -> Result<Plan<'a>, PortError> {
    let mut takers: Vec<Option<&Daemon>> = vec![None; open.len()];
    for wide in [false, true] {
        for daemon in daemons {
            for (taker, (address, given)) in takers.iter_mut().zip(open) {
                let fits = *address == daemon.address || wide && *given && covers(*address, daemon);
                if fits && taker.is_none() {
                    *taker = Some(daemon);
                }
            }
        }
    }
    let is_left =
        |(taker, (_, given)): (&Option<&Daemon>, &(SocketAddr, bool))| taker.is_none() && *given;
    if let Some(at) = takers.iter().zip(open).position(is_left) {
        return Err(PortError::NotNamed(open[at].0));
    }
    let is_open = |daemon: &&Daemon| {
        let fits = |(address, given): &(SocketAddr, bool)| {
            *address == daemon.address || *given && covers(*address, daemon)
        };
        open.iter().any(fits)
    };
    let kept =
        takers.iter().enumerate().filter_map(|(index, taker)| taker.map(|daemon| (daemon, index)));
    Ok(Plan {
        kept: kept.collect(),
        bound: daemons.iter().filter(|daemon| !is_open(daemon)).collect(),
    })
}

/// Whether a supervisor's socket does for this daemon: the same port, and one of the two addresses is all of its kind.
fn covers(socket: SocketAddr, daemon: &Daemon) -> bool {
    let (given, asked) = (socket.ip(), daemon.address.ip());
    let one_kind = given.is_ipv4() == asked.is_ipv4();
    socket.port() == daemon.address.port()
        && (given == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            || one_kind && (given.is_unspecified() || asked.is_unspecified()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DaemonPortOptions, sockets there (`*` made by a supervisor), names of those kept, addresses bound.
    type Case = (
        &'static [&'static str],
        &'static [&'static str],
        &'static [&'static str],
        &'static [&'static str],
    );

    fn daemons(texts: &[&str]) -> Vec<Daemon> {
        let daemon = |text: &&str| {
            let (name, address) = text.split_once('=').unwrap();
            Daemon::at(name, address.parse().unwrap())
        };
        texts.iter().map(daemon).collect()
    }

    fn sockets(texts: &[&str]) -> Vec<(SocketAddr, bool)> {
        let socket = |text: &&str| match text.strip_prefix('*') {
            Some(address) => (address.parse().unwrap(), true),
            None => (text.parse().unwrap(), false),
        };
        texts.iter().map(socket).collect()
    }

    #[test]
    fn a_local_daemon_listens_on_loopback_alone() {
        let at = |text: &str| Daemon::at("MTA", text.parse().unwrap());
        let given = ["0.0.0.0:25", "192.0.2.1:25", "[::]:25", "127.0.0.2:25", "192.0.2.1:587"];
        let local = on_loopback(given.map(at).into());
        let found: Vec<String> = local.iter().map(|daemon| daemon.address.to_string()).collect();
        assert_eq!(found, ["127.0.0.1:25", "[::1]:25", "127.0.0.2:25", "127.0.0.1:587"]);
    }

    #[test]
    fn what_is_open_is_matched_with_what_is_asked_for() {
        const BOTH: &[&str] = &["MTA=0.0.0.0:25", "MTA-v6=[::]:25"];
        let cases: &[Case] = &[
            (BOTH, &[], &[], &["0.0.0.0:25", "[::]:25"]),
            (BOTH, &["*0.0.0.0:25", "*[::]:25"], &["MTA", "MTA-v6"], &[]),
            (BOTH, &["*[::]:25", "*0.0.0.0:25"], &["MTA-v6", "MTA"], &[]),
            // One socket for both kinds, as `ListenStream=25` makes it.
            (BOTH, &["*[::]:25"], &["MTA-v6"], &[]),
            (BOTH, &["*127.0.0.1:25"], &["MTA"], &["[::]:25"]),
            (
                BOTH,
                &["*192.0.2.1:25", "*192.0.2.2:25", "*[2001:db8::1]:25"],
                &["MTA", "MTA", "MTA-v6"],
                &[],
            ),
            // A reload: what was bound by us has to fit exactly.
            (BOTH, &["0.0.0.0:25", "[::]:25"], &["MTA", "MTA-v6"], &[]),
            (&["MTA=127.0.0.1:25"], &["0.0.0.0:25"], &[], &["127.0.0.1:25"]),
            (&["A=127.0.0.1:25", "B=127.0.0.1:587"], &["127.0.0.1:25"], &["A"], &["127.0.0.1:587"]),
            (&["New=127.0.0.1:25"], &["127.0.0.1:587", "127.0.0.1:25"], &["New"], &[]),
        ];
        for (asked, open, kept, bound) in cases {
            let asked = daemons(asked);
            let plan = plan(&asked, &sockets(open)).unwrap();
            let names: Vec<_> = plan.kept.iter().map(|(daemon, _)| daemon.name.as_str()).collect();
            let addresses: Vec<_> =
                plan.bound.iter().map(|daemon| daemon.address.to_string()).collect();
            assert_eq!(
                (names.as_slice(), addresses),
                (*kept, bound.iter().map(|b| b.to_string()).collect()),
                "{open:?}"
            );
        }
    }

    #[test]
    fn a_socket_that_nobody_asked_for_is_an_error() {
        for (asked, open) in [
            ("MTA=0.0.0.0:25", "*0.0.0.0:587"),
            ("MTA=127.0.0.1:25", "*127.0.0.2:25"),
            ("MTA=0.0.0.0:25", "*[::1]:25"),
        ] {
            let result = plan(&daemons(&[asked]), &sockets(&[open])).map(|_| ());
            assert!(matches!(result, Err(PortError::NotNamed(_))), "{open}");
        }
    }
}
