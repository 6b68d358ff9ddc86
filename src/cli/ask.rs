//! A command and whoever holds the store: the running daemon, or, when none answers and we may, this process for a moment.
//!
//! A daemon that restarts is waited for ([`WAIT_MAX`]), by those who may not open the queue too. Root opens the queue of another
//! user as that user, so that no file of root is in the daemon's way afterwards.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Access;
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use tokio::time::Instant;

use super::exit::Exit;
use super::house::{self, Kind, Running};
use crate::config::Config;
use crate::control::client::{self, Asked, WAIT_MAX};
use crate::control::proto::{Answer, Request};
use crate::maillog::Maillog;
use crate::store::{Store, StoreError};
use crate::world::World;
use crate::world::real::RealClock;

/// Between two looks whether the lock or the socket is free.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long the last lines of the log may take.
pub(super) const FLUSH_MAX: Duration = Duration::from_millis(500);

/// Who writes into the operator's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    /// A daemon that somebody watches.
    Foreground,
    /// A daemon without a terminal.
    Background,
    /// A command that holds the store for a moment.
    Command,
}

/// Opens the operator's log: only who holds the store needs it.
pub type Log<'a> = &'a dyn Fn(Whose) -> io::Result<Maillog>;

/// Why nobody could be asked.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Unanswered {
    /// What failed, on what, and what happens next.
    pub text: String,
    /// For the shell.
    pub exit: Exit,
}

/// A connection to the holder of the store; the holder itself when it is us.
pub struct Connected {
    /// Where to send the request.
    pub stream: UnixStream,
    /// We hold the store: to be ended with [`Held::end`].
    pub held: Option<Held>,
}

impl Connected {
    /// Asks nothing more; closes the store if it is we who hold it.
    pub fn end(self) {
        let Connected { stream, held } = self;
        // First: the holder waits for whoever is connected.
        drop(stream);
        if let Some(Err(error)) = held.map(Held::end) {
            eprintln!("kvmta: closing the queue: {error}");
        }
    }
}

/// The store, opened by this command, and the runtime it lives on.
pub struct Held {
    runtime: tokio::runtime::Runtime,
    running: Running,
}

impl Held {
    /// Closes the store.
    pub fn end(self) -> Result<(), StoreError> {
        let maillog = self.running.house.maillog.clone();
        let closed = self.runtime.block_on(self.running.stop());
        maillog.flush(FLUSH_MAX);
        closed
    }
}

/// Connects to the daemon, or opens the store. Waits up to 10 s for somebody who may, or who is opening or closing it, and says so
/// with `-v`.
///
/// # Errors
/// 75 when there is no queue, or nobody to ask and no right to open it.
pub fn connect(config: &Arc<Config>, log: Log<'_>) -> Result<Connected, Unanswered> {
    let directory = &config.queue_directory;
    let shown = directory.display();
    let end = Instant::now() + WAIT_MAX;
    let mut told = !config.verbose;
    loop {
        match client::connect(directory) {
            Ok(stream) => return Ok(Connected { stream, held: None }),
            Err(error) if client::is_absence(&error) => {}
            Err(error) => {
                return Err(later(format!("cannot ask the daemon of {shown}: {error}")));
            }
        }
        let why = match hold(config, log) {
            Ok(connected) => return Ok(connected),
            Err(HoldError::Busy) => "it is held by a process that does not answer",
            Err(HoldError::NotOurs) => "no daemon answers, and only its owner and root may open it",
            Err(HoldError::No(text)) => return Err(later(text)),
        };
        if Instant::now() >= end {
            return Err(later(format!("the queue in {shown} cannot be reached: {why}")));
        }
        if !std::mem::replace(&mut told, true) {
            let seconds = WAIT_MAX.as_secs();
            println!("Waiting up to {seconds} seconds for the queue in {shown}: {why}");
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

enum HoldError {
    /// Somebody else has it this moment.
    Busy,
    /// We have no right to it.
    NotOurs,
    No(String),
}

impl HoldError {
    fn no(error: impl std::fmt::Display) -> HoldError {
        HoldError::No(error.to_string())
    }
}

fn hold(config: &Arc<Config>, log: Log<'_>) -> Result<Connected, HoldError> {
    let directory = &config.queue_directory;
    let rights = Access::READ_OK | Access::WRITE_OK;
    let access = rustix::fs::access(directory.join("queue.redb"), rights);
    // What else there is to say the store says itself.
    if let Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) = access {
        return Err(HoldError::NotOurs);
    }
    let maillog = log(Whose::Command).map_err(HoldError::no)?;
    let owner = owner_to_become(directory).map_err(HoldError::no)?;
    // Threads have their parent's user, so all of the house is its owner's, and this one stays who it is.
    let started = std::thread::scope(|scope| {
        let housekeeper = scope.spawn(|| {
            owner.map_or(Ok(()), become_owner).map_err(HoldError::no)?;
            open(config, maillog, owner)
        });
        housekeeper.join()
    });
    let (runtime, running) =
        started.unwrap_or_else(|_| Err(HoldError::no("the queue's thread failed")))?;
    let stream = client::connect(&config.queue_directory).map_err(HoldError::no)?;
    Ok(Connected { stream, held: Some(Held { runtime, running }) })
}

type Owner = (Uid, Gid);

/// Whose queue it is, when we are root and he is not.
fn owner_to_become(directory: &Path) -> io::Result<Option<Owner>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let found = match std::fs::metadata(directory) {
        Ok(found) => found,
        // The store has the words for it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let owner = (Uid::from_raw(found.uid()), Gid::from_raw(found.gid()));
    Ok((!owner.0.is_root()).then_some(owner))
}

/// Makes this thread, and those it will start, the owner's.
fn become_owner((uid, gid): Owner) -> io::Result<()> {
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_gid(gid)?;
    rustix::thread::set_thread_uid(uid)?;
    Ok(())
}

fn open(
    config: &Arc<Config>,
    maillog: Maillog,
    owner: Option<Owner>,
) -> Result<(tokio::runtime::Runtime, Running), HoldError> {
    let options = house::store_options(config, Arc::new(RealClock));
    let store = match Store::open(options, false) {
        Ok(store) => store,
        Err(StoreError::Locked(_)) => return Err(HoldError::Busy),
        Err(error) => return Err(HoldError::no(error)),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_start(move || {
            // Some threads are started later, by this or that one. One that cannot change fails at the queue's files.
            let _ = owner.map(become_owner);
        })
        .build()
        .map_err(HoldError::no)?;
    let running = runtime.block_on(async {
        let (world, faults) =
            World::real(&house::dns_options(config), &config.tls).map_err(HoldError::no)?;
        house::tell_faults(&maillog, &faults);
        let config = config.clone();
        house::start(config, world, store, Vec::new(), None, maillog, Kind::Holder)
            .await
            .map_err(HoldError::no)
    })?;
    Ok((runtime, running))
}

/// Sends the request, gives every answer but the last to `each`, and ends the holder if it is us.
pub fn exchange(
    connected: Connected,
    request: &Request,
    each: &mut dyn FnMut(Answer) -> io::Result<()>,
) -> Result<Exit, Unanswered> {
    let Connected { stream, held } = connected;
    let result = client::ask(stream, request).map_err(lost).and_then(|asked| answers(asked, each));
    if let Some(Err(error)) = held.map(Held::end) {
        eprintln!("kvmta: closing the queue: {error}");
    }
    result
}

fn answers(
    mut asked: Asked,
    each: &mut dyn FnMut(Answer) -> io::Result<()>,
) -> Result<Exit, Unanswered> {
    loop {
        match asked.answer().map_err(lost)? {
            Answer::Done { exit } => return Ok(Exit::from_code(i32::from(exit))),
            Answer::Failed { text, exit } => {
                return Err(Unanswered { text, exit: Exit::from_code(i32::from(exit)) });
            }
            answer => each(answer).map_err(broken_pipe)?,
        }
    }
}

/// The other side closed the connection before its last answer.
pub fn lost(error: io::Error) -> Unanswered {
    Unanswered {
        text: format!("the queue went away in mid-answer: {error}; ask again"),
        exit: Exit::TempFail,
    }
}

/// What became of standard output: `kvmta -bp | head` is no error.
pub fn broken_pipe(error: io::Error) -> Unanswered {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Unanswered { text: String::new(), exit: Exit::Ok },
        _ => Unanswered { text: format!("cannot write: {error}"), exit: Exit::IoErr },
    }
}

/// The status of a command, with what went wrong on standard error.
pub fn finish(result: Result<Exit, Unanswered>) -> Exit {
    match result {
        Ok(exit) => exit,
        Err(Unanswered { text, exit }) => {
            // As the other side has it: some texts are sendmail's.
            if !text.is_empty() {
                eprintln!("{text}");
            }
            exit
        }
    }
}

fn later(text: String) -> Unanswered {
    Unanswered { text, exit: Exit::TempFail }
}

/// The runtime of a daemon or holder.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}
