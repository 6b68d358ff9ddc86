//! `-bd`, `-bD`, `-q15m`: the daemon, from binding its sockets to closing the store.
//!
//! `-bd` runs this program again as `-bD` in a new session, with standard output as a readiness pipe: the parent leaves
//! with 0 once the child listens, else with the child's error and status. Privileges are dropped before the runtime
//! starts threads. SIGTERM and SIGINT stop in order.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::ask::Log;
use super::exit::Exit;
use super::house::{self, Kind, Running};
use crate::accept::listener::Listener;
use crate::config::Config;
use crate::config::check::Diagnostic;
use crate::control::client::{self, WAIT_MAX};
use crate::control::proto::Request;
use crate::maillog::Maillog;
use crate::store::{Store, StoreError};
use crate::world::World;

/// Set in the environment of the child that detaches: it makes a session of its own and reports on standard output.
const DETACHED: &str = "KVMTA_DETACHED";
/// How long the last lines of the log may take.
const FLUSH_MAX: Duration = Duration::from_secs(2);
/// What the child writes when it listens.
const READY: &str = "ready";

/// How the daemon was asked for.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// `-bD`: stay in the foreground.
    pub foreground: bool,
    /// `-bd`, `-bD`: take mail by SMTP. `-q15m` alone only runs the queue.
    pub listens: bool,
    /// `-q15m`
    pub interval: Option<Duration>,
    /// Run the queue once at the start.
    pub run_now: bool,
}

/// Runs the daemon until a signal stops it; `arguments` are the whole command line.
pub fn start(
    config: Config,
    daemon: &Daemon,
    diagnostics: &[Diagnostic],
    arguments: &[OsString],
    log: Log<'_>,
) -> Exit {
    let detached = std::env::var_os(DETACHED).is_some();
    if !daemon.foreground && !detached {
        return detach(arguments);
    }
    let maillog = match log(!detached) {
        Ok(maillog) => maillog,
        Err(error) => {
            eprintln!("kvmta: cannot start the log: {error}");
            return Exit::OsErr;
        }
    };
    for Diagnostic { origin, text, .. } in diagnostics {
        maillog.warning(None, &format!("{origin}: {text}"));
    }
    if detached {
        // Not a process group leader: it was spawned for this. Fails only if it is one, and then nothing is lost.
        let _ = rustix::process::setsid();
    }
    let exit = match prepared(config, daemon, &maillog, detached) {
        Ok(()) => Exit::Ok,
        Err((text, exit)) => {
            if detached {
                eprintln!("kvmta: {text}");
            }
            maillog.error(None, &text);
            exit
        }
    };
    maillog.flush(FLUSH_MAX);
    exit
}

type Failure = (String, Exit);

fn prepared(
    config: Config,
    daemon: &Daemon,
    maillog: &Maillog,
    detached: bool,
) -> Result<(), Failure> {
    make_directory(&config).map_err(|error| {
        let directory = config.queue_directory.display();
        (format!("cannot make the queue directory {directory}: {error}"), Exit::CantCreate)
    })?;
    let mut sockets = Vec::new();
    for options in config.daemons.iter().filter(|_| daemon.listens) {
        match Listener::bind(options) {
            Ok(socket) => sockets.push((options.name.clone(), socket)),
            // IPv6 on a machine that has none.
            Err(_) if options.optional => {}
            Err(error) => {
                let (name, address) = (&options.name, options.address);
                let text = format!("daemon {name}: cannot listen on {address}: {error}");
                return Err((text, Exit::OsErr));
            }
        }
    }
    if daemon.listens && sockets.is_empty() {
        return Err(("no address to listen on: see DaemonPortOptions".into(), Exit::Config));
    }
    drop_root(&config)?;
    let runtime = super::ask::runtime()
        .map_err(|error| (format!("cannot start threads: {error}"), Exit::OsErr))?;
    let config = Arc::new(config);
    runtime.block_on(serve(config, daemon, sockets, maillog, detached))
}

async fn serve(
    config: Arc<Config>,
    daemon: &Daemon,
    sockets: Vec<(String, TcpListener)>,
    maillog: &Maillog,
    detached: bool,
) -> Result<(), Failure> {
    let world = World::real(&house::dns_options(&config))
        .map_err(|error| (format!("cannot set up the resolver: {error}"), Exit::OsErr))?;
    let store =
        open(&config, &world).await.map_err(|error| (error.to_string(), exit_of(&error)))?;
    let mut signals = Signals::new()
        .map_err(|error| (format!("cannot watch for signals: {error}"), Exit::OsErr))?;
    let pid = PidFile::write(&config)
        .map_err(|error| (format!("cannot write PidFile: {error}"), Exit::CantCreate))?;
    let interval = daemon.interval;
    let listening: Vec<String> = sockets
        .iter()
        .filter_map(|(_, socket)| socket.local_addr().ok())
        .map(|address| address.to_string())
        .collect();
    let running = house::start(
        config.clone(),
        world,
        store,
        sockets,
        interval,
        maillog.clone(),
        Kind::Daemon,
    )
    .await
    .map_err(|error| (error.to_string(), Exit::OsErr))?;
    maillog.daemon_started(env!("CARGO_PKG_VERSION"), daemon.listens, interval);
    if detached {
        report_ready().map_err(|error| (format!("cannot detach: {error}"), Exit::OsErr))?;
    } else {
        eprintln!(
            "kvmta {}: {}, queue in {}",
            env!("CARGO_PKG_VERSION"),
            match listening.is_empty() {
                true => "running the queue".to_owned(),
                false => format!("listening on {}", listening.join(", ")),
            },
            config.queue_directory.display()
        );
    }
    if daemon.run_now {
        running.run_queue().await;
    }
    let reason = wait(&running, &mut signals).await;
    maillog.daemon_stopping(&reason.to_string());
    let stopped = running.stop().await;
    drop(pid);
    match (reason, stopped) {
        (Reason::Poisoned, _) => {
            Err(("the queue's files gave errors; stopped".into(), Exit::IoErr))
        }
        (_, Err(error)) => Err((format!("closing the queue: {error}"), Exit::IoErr)),
        (_, Ok(())) => Ok(()),
    }
}

/// Opens the store; asks a command that holds it for the moment to give way, and waits for it.
async fn open(config: &Arc<Config>, world: &World) -> Result<Store, StoreError> {
    let end = Instant::now() + WAIT_MAX;
    loop {
        let options = house::store_options(config, world.clock.clone());
        match Store::open(options, true) {
            Err(StoreError::Locked(_)) if Instant::now() < end => {
                if let Ok(stream) = client::connect(&config.queue_directory) {
                    // A daemon does not give way, and then the lock stays and says so.
                    let _ =
                        client::ask(stream, &Request::Yield).and_then(|mut asked| asked.answer());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            other => return other,
        }
    }
}

fn exit_of(error: &StoreError) -> Exit {
    match error {
        StoreError::Locked(_) => Exit::Unavailable,
        StoreError::Newer { .. } => Exit::Config,
        StoreError::Full => Exit::TempFail,
        _ => Exit::OsErr,
    }
}

/// Why the daemon stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reason {
    Signal(&'static str),
    /// The store's files gave an error and could not be opened again.
    Poisoned,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reason::Signal(name) => write!(f, "signal {name}"),
            Reason::Poisoned => f.write_str("the queue cannot be written"),
        }
    }
}

struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }
}

async fn wait(running: &Running, signals: &mut Signals) -> Reason {
    tokio::select! {
        _ = signals.term.recv() => Reason::Signal("SIGTERM"),
        _ = signals.int.recv() => Reason::Signal("SIGINT"),
        _ = running.house.store.poisoned() => Reason::Poisoned,
    }
}

/// QueueDirectory: 0711, so that others reach the socket and read nothing.
fn make_directory(config: &Config) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, chown};
    let directory = &config.queue_directory;
    let made = !directory.exists();
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(directory)?;
    match run_as(config) {
        Ok(Some(user)) if made => {
            chown(directory, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
        }
        _ => Ok(()),
    }
}

fn run_as(config: &Config) -> Result<Option<nix::unistd::User>, Failure> {
    let Some(name) = config.run_as_user.as_deref() else { return Ok(None) };
    let name = name.split(':').next().unwrap_or(name);
    match nix::unistd::User::from_name(name) {
        Ok(Some(user)) => Ok(Some(user)),
        Ok(None) => Err((format!("RunAsUser {name}: no such user"), Exit::Config)),
        Err(error) => Err((format!("RunAsUser {name}: {error}"), Exit::OsErr)),
    }
}

/// RunAsUser: for good, groups first, and verified. Only root has something to drop.
fn drop_root(config: &Config) -> Result<(), Failure> {
    let Some(user) = run_as(config)?.filter(|_| nix::unistd::geteuid().is_root()) else {
        return Ok(());
    };
    let fail = |what: &str, error: nix::Error| {
        (format!("RunAsUser {}: {what}: {error}", user.name), Exit::OsErr)
    };
    let name = std::ffi::CString::new(user.name.clone())
        .map_err(|_| (format!("RunAsUser {}: not a name", user.name), Exit::Config))?;
    nix::unistd::initgroups(&name, user.gid).map_err(|e| fail("initgroups", e))?;
    nix::unistd::setgid(user.gid).map_err(|e| fail("setgid", e))?;
    nix::unistd::setuid(user.uid).map_err(|e| fail("setuid", e))?;
    if !user.uid.is_root() && nix::unistd::setuid(nix::unistd::Uid::from_raw(0)).is_ok() {
        return Err((format!("RunAsUser {}: root could be had back", user.name), Exit::Software));
    }
    Ok(())
}

/// The parent of `-bd`: starts the child and leaves when it is ready, or with its status.
fn detach(arguments: &[OsString]) -> Exit {
    match spawn_detached(arguments) {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("kvmta: cannot start the daemon: {error}");
            Exit::OsErr
        }
    }
}

fn spawn_detached(arguments: &[OsString]) -> io::Result<Exit> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(arguments.iter().skip(1))
        .env(DETACHED, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    if line.trim_end() == READY {
        return Ok(Exit::Ok);
    }
    let status = child.wait()?;
    Ok(Exit::from_code(status.code().unwrap_or(Exit::OsErr as i32)))
}

/// Tells the parent, and lets go of its terminal.
fn report_ready() -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{READY}")?;
    out.flush()?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    std::env::set_current_dir("/")
}

/// PidFile: the number, then the command line; removed when the daemon ends.
struct PidFile<'a>(Option<&'a Path>);

impl PidFile<'_> {
    fn write(config: &Config) -> io::Result<PidFile<'_>> {
        let Some(path) = config.pid_file.as_deref() else { return Ok(PidFile(None)) };
        let command: Vec<_> =
            std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
        std::fs::write(path, format!("{}\n{}\n", std::process::id(), command.join(" ")))?;
        Ok(PidFile(Some(path)))
    }
}

impl Drop for PidFile<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}
