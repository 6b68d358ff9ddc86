//! A command and whoever holds the store: the running daemon, or, when none answers and we may, this process for a moment.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::exit::Exit;
use super::house::{self, Kind, Running};
use crate::config::Config;
use crate::control::client::{self, Asked, WAIT_MAX};
use crate::control::proto::{Answer, Request};
use crate::maillog::Maillog;
use crate::store::{Store, StoreError};
use crate::world::World;

/// Between two looks whether the lock or the socket is free.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Opens the operator's log, on standard error if true: only who holds the store needs it.
pub type Log<'a> = &'a dyn Fn(bool) -> io::Result<Maillog>;

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
        if let Some(Err(error)) = self.held.map(Held::end) {
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
        self.runtime.block_on(self.running.stop())
    }
}

/// Connects to the daemon, or opens the store. Waits up to 10 s while somebody else is opening or closing it.
///
/// # Errors
/// 75 when there is no queue, or nobody to ask and no right to open it.
pub fn connect(config: &Arc<Config>, log: Log<'_>) -> Result<Connected, Unanswered> {
    let directory = &config.queue_directory;
    let end = Instant::now() + WAIT_MAX;
    loop {
        match client::connect(directory) {
            Ok(stream) => return Ok(Connected { stream, held: None }),
            Err(error) if client::is_absence(&error) => {}
            Err(error) => {
                return Err(later(format!(
                    "cannot ask the daemon of {}: {error}",
                    directory.display()
                )));
            }
        }
        match hold(config, log) {
            Ok(connected) => return Ok(connected),
            Err(HoldError::Busy) if Instant::now() < end => std::thread::sleep(LOOK_AGAIN),
            Err(HoldError::Busy) => {
                return Err(later(format!(
                    "the queue in {} is held by a process that does not answer",
                    directory.display()
                )));
            }
            Err(HoldError::No(text)) => return Err(later(text)),
        }
    }
}

enum HoldError {
    /// Somebody else has it this moment.
    Busy,
    No(String),
}

fn hold(config: &Arc<Config>, log: Log<'_>) -> Result<Connected, HoldError> {
    let no = |error: &dyn std::fmt::Display| HoldError::No(error.to_string());
    let runtime = runtime().map_err(|error| no(&error))?;
    let started = runtime.block_on(async {
        let world = World::real(&house::dns_options(config)).map_err(|error| no(&error))?;
        let options = house::store_options(config, world.clock.clone());
        let store = match Store::open(options, false) {
            Ok(store) => store,
            Err(StoreError::Locked(_)) => return Err(HoldError::Busy),
            Err(error) => return Err(no(&error)),
        };
        let maillog = log(false).map_err(|error| no(&error))?;
        let config = config.clone();
        house::start(config, world, store, Vec::new(), None, maillog, Kind::Holder)
            .await
            .map_err(|error| no(&error))
    });
    let running = started?;
    let stream = client::connect(&config.queue_directory).map_err(|error| no(&error))?;
    Ok(Connected { stream, held: Some(Held { runtime, running }) })
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
