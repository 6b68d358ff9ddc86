//! Listening sockets: connections are taken inside the limits, and each becomes a session.
//!
//! Over a limit a connection is answered with 421 and closed; over the rate it waits in the kernel's queue
//! (ConnectionRateThrottle: clients wait, none is refused). On a busy machine connections are refused (RefuseLA) or
//! taken one a second (DelayLA). At the end the sockets are closed first, then sessions
//! have [`STOP_WAIT`] to finish what they are at.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Acceptor, Caller, Event};
use crate::config::{Daemon, PortTls};

/// Sessions at once when MaxDaemonChildren says none: some 10 KiB each, and a descriptor.
pub const SESSIONS_MAX: usize = 10_000;
/// Connections that may wait in the kernel to be taken, at least: bursts are normal, and waiting is better than a
/// lost SYN.
const BACKLOG_MIN: u32 = 1024;
/// How long sessions may take to finish when the daemon stops.
pub const STOP_WAIT: Duration = Duration::from_secs(30);
/// How long to wait when the machine has no descriptor or memory for a connection.
const SHORTAGE_WAIT: Duration = Duration::from_millis(100);
/// How long a connection is waited for after each one while the load is over DelayLA.
const DELAY: Duration = Duration::from_secs(1);
/// Clients whose connections are counted within ConnectionRateWindowSize; more are not limited by it.
const COUNTED_CLIENTS_MAX: usize = 100_000;

/// One listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    daemon: String,
    tls: PortTls,
}

impl Listener {
    /// Listens as DaemonPortOptions says: a socket for [`Listener::inherited`], made while there still is the right to.
    ///
    /// # Errors
    /// What the system says: address in use, permission denied.
    pub fn bind(daemon: &Daemon) -> io::Result<std::net::TcpListener> {
        let socket =
            Socket::new(Domain::for_address(daemon.address), Type::STREAM, Some(Protocol::TCP))?;
        // A restart must not wait for connections of the old daemon to time out.
        socket.set_reuse_address(true)?;
        if daemon.address.is_ipv6() {
            // `[::]` and `0.0.0.0` are two sockets, whatever the system's default is.
            socket.set_only_v6(true)?;
        }
        socket.bind(&daemon.address.into())?;
        let backlog = i32::try_from(daemon.backlog.max(BACKLOG_MIN)).unwrap_or(i32::MAX);
        socket.listen(backlog)?;
        Ok(socket.into())
    }

    /// Takes a socket that listens already: from a supervisor, or bound before rights were dropped. Inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch it.
    pub fn inherited(
        socket: std::net::TcpListener,
        daemon: String,
        tls: PortTls,
    ) -> io::Result<Listener> {
        socket.set_nonblocking(true)?;
        Ok(Listener { socket: TcpListener::from_std(socket)?, daemon, tls })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// The sessions of all listeners, counted. What is too many the configuration in force says, so it may change between two clients.
pub struct Sessions {
    shared: Arc<Shared>,
    rate: tokio::sync::Mutex<Rate>,
    recent: Mutex<Recent>,
}

/// Connections of each client in the present window of ConnectionRateWindowSize.
struct Recent {
    began: Instant,
    counts: HashMap<IpAddr, u32>,
}

/// What the sessions give back to.
#[derive(Default)]
struct Shared {
    counts: Mutex<Counts>,
    /// A session has ended.
    ended: Notify,
}

#[derive(Default)]
struct Counts {
    total: usize,
    /// Of those that are limited by client; only clients that have one.
    per_client: HashMap<IpAddr, usize>,
}

/// Connections taken in the present second.
struct Rate {
    second: Instant,
    taken: u32,
}

/// A session's place among the others; gives it back when dropped.
struct Place {
    shared: Arc<Shared>,
    client: Option<IpAddr>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.shared.lock();
        counts.total -= 1;
        if let Some(address) = &self.client
            && let Some(count) = counts.per_client.get_mut(address)
        {
            *count -= 1;
            if *count == 0 {
                counts.per_client.remove(address);
            }
        }
        drop(counts);
        self.shared.ended.notify_waiters();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Sessions {
    /// None yet.
    fn default() -> Sessions {
        let rate = Rate { second: Instant::now(), taken: 0 };
        Sessions {
            shared: Arc::default(),
            rate: tokio::sync::Mutex::new(rate),
            recent: Mutex::new(Recent { began: Instant::now(), counts: HashMap::new() }),
        }
    }
}

impl Sessions {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.shared.lock().total
    }

    /// A place for a client, or why there is none.
    fn enter(&self, acceptor: &Acceptor, address: IpAddr) -> Result<Place, &'static str> {
        let limits = &acceptor.config.limits;
        if !acceptor.is_relay_client(address) && self.comes_too_often(acceptor, address) {
            return Err("Connection rate limit exceeded.");
        }
        let max = if limits.sessions == 0 { SESSIONS_MAX } else { limits.sessions };
        let mut counts = self.shared.lock();
        if counts.total >= max {
            return Err("Too many connections; try again later");
        }
        let limit = limits.sessions_per_client;
        let client = (limit != 0 && !acceptor.is_relay_client(address)).then_some(address);
        if let Some(address) = client {
            let count = counts.per_client.entry(address).or_default();
            if *count >= limit {
                return Err("Too many open connections.");
            }
            *count += 1;
        }
        counts.total += 1;
        Ok(Place { shared: Arc::clone(&self.shared), client })
    }

    /// Counts a connection; whether the client has made more than it may in this window.
    fn comes_too_often(&self, acceptor: &Acceptor, address: IpAddr) -> bool {
        let limits = &acceptor.config.limits;
        if limits.client_rate == 0 {
            return false;
        }
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.began.elapsed() >= limits.client_rate_window {
            *recent = Recent { began: Instant::now(), counts: HashMap::new() };
        }
        let is_full = recent.counts.len() >= COUNTED_CLIENTS_MAX;
        if is_full && !recent.counts.contains_key(&address) {
            return false;
        }
        let count = recent.counts.entry(address).or_default();
        *count = count.saturating_add(1);
        *count > limits.client_rate
    }

    /// Waits until another connection may be taken under ConnectionRateThrottle.
    async fn throttle(&self, per_second: u32) {
        if per_second == 0 {
            return;
        }
        let mut rate = self.rate.lock().await;
        if rate.taken >= per_second {
            let next = rate.second + Duration::from_secs(1);
            sleep_until(next).await;
        }
        let now = Instant::now();
        if now >= rate.second + Duration::from_secs(1) {
            *rate = Rate { second: now, taken: 0 };
        }
        rate.taken += 1;
    }

    /// Waits until every session has ended, at most [`STOP_WAIT`]: how many have not.
    pub async fn finish(&self) -> usize {
        let all = async {
            loop {
                // Before the look, or the last one might end between the two.
                let ended = self.shared.ended.notified();
                if self.count() == 0 {
                    return;
                }
                ended.await;
            }
        };
        // Whether in time or not, the count says it.
        let _ = timeout(STOP_WAIT, all).await;
        self.count()
    }
}

/// Takes connections of `listener` until `stop` turns true or its sender is gone. Each connection is a session under
/// the acceptor that `acceptor` holds at that moment, so a reload acts on new sessions. Sessions outlive this call:
/// [`Sessions::finish`] waits for them.
pub async fn serve(
    listener: Listener,
    acceptor: watch::Receiver<Arc<Acceptor>>,
    sessions: Arc<Sessions>,
    mut stop: watch::Receiver<bool>,
) {
    let session_stop = stop.clone();
    let mut refusing = Refusing::default();
    loop {
        let taken = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            taken = listener.socket.accept() => taken,
        };
        let acceptor = Arc::clone(&acceptor.borrow());
        match taken {
            Ok((stream, address)) => {
                let stop = session_stop.clone();
                let load = acceptor.world.load.average();
                let limits = acceptor.config.load_at(&listener.daemon);
                if limits.refuses(load) {
                    refusing.refuse(stream, load, &listener.daemon, &acceptor);
                    continue;
                }
                refusing.ends(&listener.daemon, &acceptor);
                take(stream, address, &listener, &acceptor, &sessions, stop);
                if limits.delays(load) {
                    tokio::select! {
                        () = stop_of(&session_stop) => return,
                        () = sleep(DELAY) => {}
                    }
                }
                let rate = acceptor.config.limits.connections_per_second;
                tokio::select! {
                    () = stop_of(&session_stop) => return,
                    () = sessions.throttle(rate) => {}
                }
            }
            // The client gave up before it was its turn.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                let (daemon, why) = (listener.daemon.as_str(), error.to_string());
                acceptor.tell(Event::TurnedAway { address: None, daemon, why: &why });
                sleep(SHORTAGE_WAIT).await;
            }
        }
    }
}

/// A time of refusing connections for the load. Its begin and end are logged, and that it lasts each RejectLogInterval.
#[derive(Default)]
struct Refusing {
    logged: Option<Instant>,
}

impl Refusing {
    /// Answers with 421. sendmail closes its sockets instead; a daemon that has dropped root could not open them again.
    fn refuse(&mut self, stream: TcpStream, load: u32, daemon: &str, acceptor: &Acceptor) {
        let config = &acceptor.config;
        if self.logged.is_none_or(|at| at.elapsed() >= config.limits.reject_log_interval) {
            self.logged = Some(Instant::now());
            let why = format!("load average: {load}");
            acceptor.tell(Event::TurnedAway { address: None, daemon, why: &why });
        }
        let text = format!("421 4.3.2 {} Load too high; try again later\r\n", config.host_name);
        // A fresh connection has room for one line; whoever cannot take it is turned away all the same.
        let _ = stream.try_write(text.as_bytes());
    }

    fn ends(&mut self, daemon: &str, acceptor: &Acceptor) {
        if self.logged.take().is_some() {
            acceptor.tell(Event::TakingAgain { daemon });
        }
    }
}

async fn stop_of(stop: &watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stop.clone().wait_for(|stop| *stop).await;
}

/// Makes a session of a connection, or turns it away.
fn take(
    stream: TcpStream,
    address: SocketAddr,
    listener: &Listener,
    acceptor: &Arc<Acceptor>,
    sessions: &Sessions,
    stop: watch::Receiver<bool>,
) {
    let (address, daemon) = (address.ip().to_canonical(), listener.daemon.as_str());
    let place = match sessions.enter(acceptor, address) {
        Ok(place) => place,
        Err(why) => {
            acceptor.tell(Event::TurnedAway { address: Some(address), daemon, why });
            let text = format!("421 4.3.2 {} {why}\r\n", acceptor.config.host_name);
            // A fresh connection has room for one line; whoever cannot take it is turned away all the same.
            let _ = stream.try_write(text.as_bytes());
            return;
        }
    };
    // Replies are written whole; waiting for more to send would only delay them. An error shows at the first write.
    let _ = stream.set_nodelay(true);
    let caller = Caller {
        address: Some(address),
        local_name: String::new(),
        daemon: daemon.to_owned(),
        tls: listener.tls,
    };
    let acceptor = Arc::clone(acceptor);
    tokio::spawn(async move {
        let _place = place;
        acceptor.session(Box::new(stream), caller, stop).await;
    });
}
