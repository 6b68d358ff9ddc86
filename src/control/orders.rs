//! ControlSocketName: sendmail's control socket, for smcontrol.pl and other programs that know it.
//!
//! One command line for each connection, answered in lines that end with CRLF, then the connection is closed. `help`, `status`,
//! `mstat` (the same for programs), `restart`, `shutdown`, `memdump`; upper and lower case alike; what stands behind the word is
//! passed over. The formats are sendmail's, but the process is one, so every line has its number: what children do stands in
//! sums. `restart` reads the configuration again, as SIGHUP does.
//!
//! The file is 0600, so that only its owner and root can ask, and a connection has no other rights than these. What was left by a
//! process that is gone is replaced; a socket that somebody answers at, and anything else under that name, is left alone. At most
//! [`CLIENTS_MAX`] are served at once, with a line of at most [`LINE_MAX`] octets, within Timeout.control.
//!
//! This is not the socket of our own commands (`control` in QueueDirectory, [`super::server`]): that one is always there.

use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener as Listener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Mode;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::accept::listener::Sessions;
use crate::queue::House;

/// Connections at once; as many more wait in the kernel.
pub const CLIENTS_MAX: usize = 8;
/// Octets of a command line; what comes behind is not read.
pub const LINE_MAX: usize = 2048;
/// Orders that may wait for the daemon.
pub const ORDERS_MAX: usize = 8;
/// How long to wait when the machine has no descriptor or memory for a connection.
const SHORTAGE_WAIT: Duration = Duration::from_millis(100);

/// What a client may have the daemon do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Read the configuration again.
    Restart,
    /// Stop.
    Shutdown,
}

/// Makes the socket: 0600, and `owner`'s if one is given.
///
/// # Errors
/// `AddrInUse` when a process answers there, `AlreadyExists` when something else than a socket is there, and what the system says.
pub fn bind(path: &Path, owner: Option<u32>) -> io::Result<Listener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            let text = "it is there and no socket; left alone";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers there"));
        }
        Ok(_) => std::fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The mode that the file is made with (unix(7)): it is never open to others, and no name is looked up a second time.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    if let Some(owner) = owner {
        std::os::unix::fs::lchown(path, Some(owner), None)?;
    }
    socket.listen(CLIENTS_MAX as i32)?;
    socket.set_nonblocking(true)?;
    Ok(Listener::from(std::os::fd::OwnedFd::from(socket)))
}

/// Who answers.
#[derive(Clone)]
pub struct Office {
    /// The house in force.
    pub houses: watch::Receiver<House>,
    /// SMTP sessions.
    pub sessions: Arc<Sessions>,
    /// Mail is taken by SMTP: `-bd`.
    pub listens: bool,
    /// Where orders go.
    pub orders: mpsc::Sender<Order>,
}

/// Answers for ever; to be dropped when the daemon stops.
///
/// # Errors
/// When the runtime cannot watch the socket.
pub async fn serve(listener: Listener, office: Office) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let mut clients = JoinSet::new();
    loop {
        let has_place = clients.len() < CLIENTS_MAX;
        let accepted = tokio::select! {
            Some(_) = clients.join_next() => continue,
            accepted = listener.accept(), if has_place => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let office = office.clone();
                let wait = office.houses.borrow().config.timeouts.control;
                // One that says nothing, or does not listen, is closed.
                clients.spawn(async move {
                    let _ = tokio::time::timeout(wait, visit(stream, &office)).await;
                });
            }
            Err(error) => {
                let maillog = office.houses.borrow().maillog.clone();
                maillog.warning(None, &format!("ControlSocketName: accept: {error}"));
                tokio::time::sleep(SHORTAGE_WAIT).await;
            }
        }
    }
}

async fn visit(mut stream: UnixStream, office: &Office) -> io::Result<()> {
    let Some(line) = line(&mut stream).await? else { return Ok(()) };
    let (text, order) = answer(&line, || office.facts());
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    if let Some(order) = order {
        // The daemon takes them for as long as it runs.
        let _ = office.orders.send(order).await;
    }
    Ok(())
}

/// What comes before the first line feed, the end of the input or [`LINE_MAX`]; none when nothing came.
async fn line(stream: &mut UnixStream) -> io::Result<Option<String>> {
    let mut taken = [0; LINE_MAX];
    let mut len = 0;
    while len < LINE_MAX {
        let n = stream.read(&mut taken[len..]).await?;
        let before = len;
        len += n;
        if n == 0 {
            break;
        }
        if let Some(end) = memchr::memchr(b'\n', &taken[before..len]) {
            len = before + end;
            return Ok(Some(String::from_utf8_lossy(&taken[..len]).into_owned()));
        }
    }
    Ok((len > 0).then(|| String::from_utf8_lossy(&taken[..len]).into_owned()))
}

/// What `status` and `mstat` are made from.
#[derive(Clone, Debug)]
struct Facts {
    pid: u32,
    listens: bool,
    sessions: usize,
    /// MaxDaemonChildren, 0 without.
    sessions_max: usize,
    load: u32,
    queue: String,
    /// None when the store does not say.
    messages: Option<u64>,
    /// None when the system does not say.
    free_kib: Option<u64>,
}

impl Office {
    fn facts(&self) -> Facts {
        let house = self.houses.borrow().clone();
        let directory = &house.config.queue_directory;
        // Both are said to be unknown then: nobody is kept from the rest.
        let space = rustix::fs::statvfs(directory).ok();
        let counts = house.store.counts().ok();
        Facts {
            pid: std::process::id(),
            listens: self.listens,
            sessions: self.sessions.count(),
            sessions_max: house.config.limits.sessions,
            load: house.world.load.average(),
            queue: directory.display().to_string(),
            messages: counts.map(|counts| counts.messages),
            free_kib: space.map(|space| space.f_bavail.saturating_mul(space.f_frsize) / 1024),
        }
    }
}

/// The answer to a command line, and what it orders.
fn answer(line: &str, facts: impl FnOnce() -> Facts) -> (String, Option<Order>) {
    let word = line.split_ascii_whitespace().next().unwrap_or_default();
    match word.to_ascii_lowercase().as_str() {
        "help" => (help(), None),
        "status" => (status(&facts()), None),
        "mstat" => (mstat(&facts()), None),
        "restart" => ("OK\r\n".into(), Some(Order::Restart)),
        "shutdown" => ("OK\r\n".into(), Some(Order::Shutdown)),
        "memdump" => {
            let text = "Memory dump unavailable.\r\nTo fix, rebuild with -DSM_HEAP_CHECK\r\n";
            (text.into(), None)
        }
        _ => (format!("Bad command ({word})\r\n"), None),
    }
}

/// sendmail has it from its help file.
fn help() -> String {
    let lines = [
        "Help for smcontrol:",
        "help\t\tThis message.",
        "restart\t\tRead the configuration again.",
        "shutdown\tShutdown kvmta.",
        "status\t\tShow kvmta's status.",
        "mstat\t\tShow kvmta's status (machine readable format).",
        "memdump\t\tNothing: there is no list of allocated memory.",
    ];
    let mut out: String = lines.iter().map(|line| format!("214-2.0.0 {line}\r\n")).collect();
    out.push_str("214 2.0.0 End of HELP info\r\n");
    out
}

/// Unknown numbers are -1, as sendmail prints them.
fn known(number: Option<u64>) -> String {
    number.map_or("-1".into(), |number| number.to_string())
}

fn status(facts: &Facts) -> String {
    let Facts { sessions, sessions_max, load, free_kib, .. } = facts;
    format!("{sessions}/{sessions_max}/{}/{load}\r\n{}", known(*free_kib), tasks(facts, ""))
}

fn mstat(facts: &Facts) -> String {
    let Facts { sessions, sessions_max, load, queue, messages, free_kib, .. } = facts;
    format!(
        "C:{sessions}\r\nM:{sessions_max}\r\nL:{load}\r\nQ:{queue}:{}\r\nD:0/{queue}/{}\r\n{}",
        known(*messages),
        known(*free_kib),
        tasks(facts, "P:")
    )
}

/// `26032 accepting connections`: smcontrol.pl takes the first line for the daemon's.
fn tasks(facts: &Facts, prefix: &str) -> String {
    let Facts { pid, sessions, queue, .. } = facts;
    let mut out = match facts.listens {
        true => format!("{prefix}{pid} accepting connections\r\n"),
        false => format!("{prefix}{pid} running queue: {queue}\r\n"),
    };
    if *sessions > 0 {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{prefix}{pid} SMTP sessions: {sessions}\r");
    }
    out
}

#[cfg(test)]
mod tests;
