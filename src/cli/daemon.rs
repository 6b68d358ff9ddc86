//! `-bd`, `-bD`, `-q15m`: the daemon, from binding its sockets to closing the store.
//!
//! `-bd` runs this program again as `-bD` in a new session, with standard output as a readiness pipe: the parent leaves
//! with 0 once the child listens, else with the child's error and status. Privileges are dropped before the runtime
//! starts threads.
//!
//! Signals: SIGTERM and SIGINT stop in order; SIGHUP reads the configuration again ([`super::reload`]); SIGUSR1 writes what is going
//! on into the log. `shutdown` and `restart` on ControlSocketName stop and reload it too ([`super::control_socket`]). SIGPIPE is
//! ignored, as std does it: a broken connection is an error of its write.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval};

use super::ask::{FLUSH_MAX, Log, Whose};
use super::control_socket::ControlSocket;
use super::exit::Exit;
use super::house::{self, Kind, Running};
use super::ports::{self, Port, PortError};
use super::program::Program;
use super::reload::{self, Load};
use super::supervisor::{self, State};
use crate::config::Config;
use crate::config::check::{Diagnostic, Severity};
use crate::control::client;
use crate::control::orders::{ORDERS_MAX, Order};
use crate::control::proto::{Answer, Request};
use crate::maillog::Maillog;
use crate::queue::run::Run;
use crate::store::{Store, StoreError};
use crate::world::World;
use crate::world::tls::FileFault;

/// Set in the environment of the child that detaches: it makes a session of its own and reports on standard output.
const DETACHED: &str = "KVMTA_DETACHED";
/// How long a daemon on its way out is waited for: its deliveries and its sessions have half a minute each.
const OPEN_WAIT: Duration = Duration::from_secs(75);
/// Between two looks whether the lock of the queue is free.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
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

/// What the daemon is started with.
pub struct Start<'a> {
    /// The configuration.
    pub config: Config,
    /// What there was to say about it.
    pub diagnostics: &'a [Diagnostic],
    /// Reads it again.
    pub load: Load<'a>,
    /// The whole command line.
    pub arguments: &'a [OsString],
    /// Opens the log.
    pub log: Log<'a>,
}

/// Runs the daemon until a signal stops it.
pub fn start(daemon: &Daemon, start: Start<'_>) -> Exit {
    let Start { config, diagnostics, load, arguments, log } = start;
    let detached = std::env::var_os(DETACHED).is_some();
    if !daemon.foreground && !detached {
        return detach(arguments);
    }
    // Before the log, which is a thread.
    let given = ports::given();
    let maillog = match log(if detached { Whose::Background } else { Whose::Foreground }) {
        Ok(maillog) => maillog,
        Err(error) => {
            eprintln!("kvmta: cannot start the log: {error}");
            return Exit::OsErr;
        }
    };
    for diagnostic in diagnostics {
        maillog.warning(None, &diagnostic.to_string());
        if detached && diagnostic.severity > Severity::Notice {
            eprintln!("{diagnostic}");
        }
    }
    if detached {
        // Not a process group leader: it was spawned for this. Fails only if it is one, and then nothing is lost.
        let _ = rustix::process::setsid();
    }
    let prepared = given
        .map_err(no_ports)
        .and_then(|given| prepared(config, daemon, &given, load, &maillog, detached));
    let exit = match prepared {
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

fn no_ports(error: PortError) -> Failure {
    (error.to_string(), error.exit())
}

fn prepared(
    config: Config,
    daemon: &Daemon,
    given: &[Port],
    load: Load<'_>,
    maillog: &Maillog,
    detached: bool,
) -> Result<(), Failure> {
    make_directory(&config).map_err(|error| {
        let directory = config.queue_directory.display();
        (format!("cannot make the queue directory {directory}: {error}"), Exit::CantCreate)
    })?;
    let ports = match daemon.listens {
        true => ports::ports(&config.daemons, given).map_err(no_ports)?,
        false => Vec::new(),
    };
    let pid = PidFile::open(&config).map_err(|error| {
        let path = config.pid_file.as_deref().unwrap_or(Path::new("")).display();
        (format!("cannot write PidFile {path}: {error}"), Exit::CantCreate)
    })?;
    let becomes = run_as(&config)?;
    let control = ControlSocket::open(&config, becomes.as_ref(), maillog);
    drop_root(&config)?;
    let runtime = super::ask::runtime()
        .map_err(|error| (format!("cannot start threads: {error}"), Exit::OsErr))?;
    let config = Arc::new(config);
    let opened = Opened { ports, pid, control };
    runtime.block_on(serve(config, daemon, opened, load, maillog, detached))
}

/// What is opened while there is the right to.
struct Opened {
    ports: Vec<Port>,
    pid: PidFile,
    control: Option<ControlSocket>,
}

async fn serve(
    config: Arc<Config>,
    daemon: &Daemon,
    opened: Opened,
    load: Load<'_>,
    maillog: &Maillog,
    detached: bool,
) -> Result<(), Failure> {
    let Opened { ports, mut pid, control } = opened;
    // Before anything takes time, in which a new one might be installed.
    let program = Program::of_this_process()
        .inspect_err(|error| {
            maillog.warning(None, &format!("cannot look at our program file: {error}"))
        })
        .ok();
    // First of all: a SIGHUP in the next moments is not to end us.
    let mut signals = Signals::new()
        .map_err(|error| (format!("cannot watch for signals: {error}"), Exit::OsErr))?;
    let (world, faults) = World::real(&house::dns_options(&config), &config.tls)
        .map_err(|error| (format!("cannot set up the resolver: {error}"), Exit::OsErr))?;
    // Whoever set a certificate up does not want a server without: clients that insist on TLS would turn away.
    let of_server = faults.iter().find(|fault| fault.is_of_server_certificate());
    if let Some(fault) = of_server.filter(|_| daemon.listens) {
        // A file that is not there yet may come; a supervisor tries again then.
        let exit = match fault.fault {
            FileFault::Read(..) => Exit::OsFile,
            FileFault::Empty { .. } | FileFault::TooMuch(_) | FileFault::Unfit { .. } => {
                Exit::Config
            }
        };
        return Err((format!("{fault}; the daemon does not start"), exit));
    }
    house::tell_faults(maillog, &faults);
    let store =
        open(&config, &world).await.map_err(|error| (error.to_string(), exit_of(&error)))?;
    pid.write().map_err(|error| (format!("cannot write PidFile: {error}"), Exit::CantCreate))?;
    let interval = daemon.interval;
    let listening: Vec<String> = ports.iter().map(|port| port.local().to_string()).collect();
    for port in &ports {
        maillog.listening(&port.name, port.local());
    }
    let kind = Kind::Daemon;
    let mut running =
        house::start(config.clone(), world, store, ports, interval, maillog.clone(), kind)
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
    let (order, orders) = mpsc::channel(ORDERS_MAX);
    signals.orders = Some(orders);
    let control = control.map(|socket| socket.serve(&running, daemon, order));
    tell(maillog, State::Ready);
    if daemon.run_now {
        running.run_queue(Run::default()).await;
    }
    let reason = loop {
        match signals.next(&running).await {
            Wish::Stop(reason) => break reason,
            Wish::Reload(reason) => {
                tell(maillog, State::Reloading);
                let program = program.as_ref();
                reload::reload(&mut running, daemon, load, program, &reason.to_string()).await;
                tell(maillog, State::Ready);
            }
            Wish::Tell => tell_state(&running),
            Wish::SayAlive => tell(maillog, State::Alive),
        }
    };
    tell(maillog, State::Stopping);
    maillog.daemon_stopping(&reason.to_string());
    // Whoever starts the next one finds the name free.
    drop(control);
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

fn tell(maillog: &Maillog, state: State) {
    if let Err(error) = supervisor::tell(state) {
        maillog.warning(None, &format!("cannot tell the supervisor (NOTIFY_SOCKET): {error}"));
    }
}

/// SIGUSR1: what is going on, into the log.
fn tell_state(running: &Running) {
    let maillog = &running.house.maillog;
    for port in running.ports() {
        maillog.listening(&port.name, port.local());
    }
    let queue = match running.house.store.counts() {
        Ok(counts) => format!("{} messages queued, {} of them held", counts.messages, counts.held),
        Err(error) => error.to_string(),
    };
    maillog.state(&format!("{} SMTP sessions; {queue}", running.sessions().count()));
}

/// Opens the store; asks a command that holds it for the moment to give way, and waits for it.
async fn open(config: &Arc<Config>, world: &World) -> Result<Store, StoreError> {
    let end = Instant::now() + OPEN_WAIT;
    loop {
        let options = house::store_options(config, world.clock.clone());
        match Store::open(options, true) {
            Err(StoreError::Locked(_)) if Instant::now() < end => {
                let asked = client::connect(&config.queue_directory)
                    .and_then(|stream| client::ask(stream, &Request::Yield))
                    .and_then(|mut asked| asked.answer());
                if let Ok(Answer::Failed { .. }) = asked {
                    return Err(StoreError::Locked(config.queue_directory.clone()));
                }
                // It gives way, or is on its way out or in.
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            other => return other,
        }
    }
}

fn exit_of(error: &StoreError) -> Exit {
    match error {
        StoreError::Locked(_) => Exit::Unavailable,
        StoreError::OtherFormat { .. } => Exit::Config,
        StoreError::Full => Exit::TempFail,
        _ => Exit::OsErr,
    }
}

/// Why the daemon stops, or reads its configuration again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reason {
    Signal(&'static str),
    /// A command on ControlSocketName.
    Order,
    /// The store's files gave an error and could not be opened again.
    Poisoned,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reason::Signal(name) => write!(f, "signal {name}"),
            Reason::Order => f.write_str("control socket"),
            Reason::Poisoned => f.write_str("the queue cannot be written"),
        }
    }
}

/// What a daemon is asked to do.
enum Wish {
    Stop(Reason),
    Reload(Reason),
    Tell,
    SayAlive,
}

struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    usr1: Signal,
    watchdog: Option<Interval>,
    /// From ControlSocketName, once the daemon is ready.
    orders: Option<mpsc::Receiver<Order>>,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
            watchdog: supervisor::watchdog().map(tokio::time::interval),
            orders: None,
        })
    }

    async fn next(&mut self, running: &Running) -> Wish {
        let watchdog = async {
            match &mut self.watchdog {
                Some(interval) => interval.tick().await,
                None => std::future::pending().await,
            }
        };
        let ordered = async {
            match &mut self.orders {
                Some(orders) => orders.recv().await,
                None => None,
            }
        };
        tokio::select! {
            _ = self.term.recv() => Wish::Stop(Reason::Signal("SIGTERM")),
            _ = self.int.recv() => Wish::Stop(Reason::Signal("SIGINT")),
            _ = running.house.store.poisoned() => Wish::Stop(Reason::Poisoned),
            Some(order) = ordered => match order {
                Order::Restart => Wish::Reload(Reason::Order),
                Order::Shutdown => Wish::Stop(Reason::Order),
            },
            _ = self.hup.recv() => Wish::Reload(Reason::Signal("SIGHUP")),
            _ = self.usr1.recv() => Wish::Tell,
            _ = watchdog => Wish::SayAlive,
        }
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

/// Whom a daemon that root starts becomes: RunAsUser, else the owner of the queue directory, as root's files there would be in his
/// way.
fn run_as(config: &Config) -> Result<Option<nix::unistd::User>, Failure> {
    let Some(name) = config.run_as_user.as_deref() else { return owner(config) };
    let name = name.split(':').next().unwrap_or(name);
    match nix::unistd::User::from_name(name) {
        Ok(Some(user)) => Ok(Some(user)),
        Ok(None) => Err((format!("RunAsUser {name}: no such user"), Exit::Config)),
        Err(error) => Err((format!("RunAsUser {name}: {error}"), Exit::OsErr)),
    }
}

fn owner(config: &Config) -> Result<Option<nix::unistd::User>, Failure> {
    let directory = &config.queue_directory;
    let uid = match std::fs::metadata(directory) {
        Ok(found) if nix::unistd::geteuid().is_root() && found.uid() != 0 => found.uid(),
        // Not there, or not to be looked at: what is next says so better.
        _ => return Ok(None),
    };
    match nix::unistd::User::from_uid(uid.into()) {
        Ok(Some(user)) => Ok(Some(user)),
        Ok(None) | Err(_) => {
            let directory = directory.display();
            let text = format!("{directory} belongs to uid {uid}, who is no user: set RunAsUser");
            Err((text, Exit::Config))
        }
    }
}

/// For good, groups first, and verified. Only root has something to drop.
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
    let mut command = Command::new(std::env::current_exe()?);
    if std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string()) {
        // The supervisor's sockets are for whoever serves, and that is the child, whose number nobody knows yet.
        command.env_remove("LISTEN_PID");
    }
    let mut child = command
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

/// PidFile: the number, then the command line. Opened while there is the right to, written once the queue is ours, so that a
/// second daemon leaves that of the first alone; removed when the daemon ends, or emptied when the directory is not ours any more.
struct PidFile(Option<(PathBuf, File, bool)>);

impl PidFile {
    fn open(config: &Config) -> io::Result<PidFile> {
        let Some(path) = &config.pid_file else { return Ok(PidFile(None)) };
        let file = File::options().write(true).create(true).truncate(false).open(path)?;
        Ok(PidFile(Some((path.clone(), file, false))))
    }

    fn write(&mut self) -> io::Result<()> {
        let Some((_, file, written)) = &mut self.0 else { return Ok(()) };
        let command: Vec<_> =
            std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
        file.set_len(0)?;
        file.write_all(format!("{}\n{}\n", std::process::id(), command.join(" ")).as_bytes())?;
        *written = true;
        Ok(())
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Some((path, file, true)) = &self.0
            && std::fs::remove_file(path).is_err()
        {
            // Nobody reads the number of a process that is gone.
            let _ = file.set_len(0);
        }
    }
}
