//! `-bm`: a message from standard input to the queue. And `-bs`: SMTP on standard input and output.
//!
//! Exit 0 means the message is durable. When nobody can take it, it is saved to the caller's dead.letter, that is said on
//! standard error, and the exit status is 75: nothing lost, nothing half done.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::ask::{self, Connected, Log, Unanswered};
use super::exit::Exit;
use super::input::{Input, save_dead_letter};
use crate::config::{Config, ErrorMode};
use crate::control::client;
use crate::control::proto::{Answer, Request};
use crate::mail::queue_id::QueueId;
use crate::mail::submission::{Submission, SubmissionRefused};
use crate::mail::time::Timestamp;

/// What the command line says beside the message's part.
#[derive(Clone, Debug)]
pub struct Sending {
    /// For whoever takes it.
    pub submission: Submission,
    /// Without `-i`: a line with a single dot ends the message.
    pub dot_ends: bool,
    /// `-odi`, `-v`: come back when it was tried.
    pub wait: bool,
    /// `-v`
    pub verbose: bool,
    /// `-e`
    pub error_mode: ErrorMode,
    /// `-C -O -o` as given, for a child that tries the message when no daemon is there.
    pub settings: Vec<OsString>,
}

/// Takes the message from standard input and hands it on.
pub fn send(config: &Arc<Config>, sending: Sending, now: Timestamp, log: Log<'_>) -> Exit {
    let mut input = match Input::read_from(&mut io::stdin().lock(), sending.dot_ends) {
        Ok(input) => input,
        Err(error) => {
            eprintln!("kvmta: cannot read the message: {error}; nothing was sent");
            return Exit::IoErr;
        }
    };
    match deliver(config, &sending, &mut input, log) {
        Ok(Sent::Taken(exit)) => match sending.error_mode {
            ErrorMode::Berknet => Exit::Ok,
            _ => exit,
        },
        Ok(Sent::Refused(refused)) => {
            let exit = Exit::from_code(i32::from(refused.exit));
            if sending.error_mode == ErrorMode::Quiet {
                return exit;
            }
            eprintln!("{}", refused.text);
            // Exit 0 says that nothing is lost: where errors are to be mailed back it needs a saved copy.
            let kept = exit == Exit::Ok || keep(&mut input, now);
            if kept && sending.error_mode == ErrorMode::Berknet { Exit::Ok } else { exit }
        }
        Err(Unanswered { text, exit }) => {
            eprintln!("kvmta: {text}");
            keep(&mut input, now);
            exit
        }
    }
}

/// What became of a message that was handed over.
enum Sent {
    /// It is durable; the status of its attempt.
    Taken(Exit),
    /// It, or some of its recipients, were not taken.
    Refused(SubmissionRefused),
}

fn deliver(
    config: &Arc<Config>,
    sending: &Sending,
    input: &mut Input,
    log: Log<'_>,
) -> Result<Sent, Unanswered> {
    let Connected { stream, held } = ask::connect(config, log)?;
    let mut submission = sending.submission.clone();
    // Without a daemon a child makes the attempt, so that the caller need not wait for it.
    let by_child = held.is_some() && !sending.wait && !submission.queue_only;
    submission.queue_only |= by_child;
    let talk = talk(stream, sending, submission, input);
    let closed = held.map(ask::Held::end);
    let (sent, accepted) = talk.map_err(|error| Unanswered {
        text: format!("the queue went away before it took the message: {error}"),
        exit: Exit::TempFail,
    })?;
    if let Some(Err(error)) = closed {
        eprintln!("kvmta: closing the queue: {error}");
    }
    if let Some(id) = accepted.filter(|_| by_child) {
        try_in_background(id, &sending.settings);
    }
    Ok(sent)
}

/// One exchange: the request, the message, the answers.
fn talk(
    stream: UnixStream,
    sending: &Sending,
    submission: Submission,
    input: &mut Input,
) -> io::Result<(Sent, Option<QueueId>)> {
    let request = Request::Submit { submission, wait: sending.wait, verbose: sending.verbose };
    let mut asked = client::ask(stream, &request)?;
    asked.send_message(input)?;
    let mut accepted = None;
    loop {
        let answer = match asked.answer() {
            // Durable is durable, whatever happens to the daemon while it is tried.
            Err(_) if accepted.is_some() => return Ok((Sent::Taken(Exit::Ok), accepted)),
            other => other?,
        };
        match answer {
            Answer::Accepted(id) => accepted = Some(id),
            Answer::Line(line) => println!("{line}"),
            Answer::Refused(refused) => return Ok((Sent::Refused(refused), accepted)),
            Answer::Failed { text, .. } => return Err(io::Error::other(text)),
            Answer::Done { exit } => {
                return Ok((Sent::Taken(Exit::from_code(i32::from(exit))), accepted));
            }
            other => {
                return Err(io::Error::other(format!("unexpected answer {other:?}")));
            }
        }
    }
}

/// dead.letter, and a word about it. True when the message is there.
fn keep(input: &mut Input, now: Timestamp) -> bool {
    if input.is_empty() {
        return true;
    }
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
    let user = user.map_or_else(|| "unknown".to_owned(), |user| user.name);
    match save_dead_letter(input, &user, &now.ctime(&TimeZone::system())) {
        Ok(path) => {
            let path = path.display();
            eprintln!("{path}... Saved message in {path}");
            true
        }
        Err(error) => {
            eprintln!("kvmta: cannot save the message in dead.letter: {error}");
            false
        }
    }
}

/// The one attempt of a message submitted without a daemon. That it cannot be started is no loss: it is queued.
fn try_in_background(id: QueueId, settings: &[OsString]) {
    let started = std::env::current_exe().and_then(|program| {
        Command::new(program)
            .args(settings)
            .arg(format!("-qI{id}"))
            .arg("-qf")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    });
    if let Err(error) = started {
        eprintln!("kvmta: {id} is queued; no attempt could be started: {error}");
    }
}

/// `-bs`: copies between standard input and output and an SMTP session of the daemon.
pub fn smtp(config: &Arc<Config>, log: Log<'_>) -> Exit {
    let result = ask::connect(config, log).and_then(|Connected { stream, held }| {
        let copied = copy(stream).map_err(|error| Unanswered {
            text: format!("SMTP session ended early: {error}"),
            exit: Exit::IoErr,
        });
        if let Some(Err(error)) = held.map(ask::Held::end) {
            eprintln!("kvmta: closing the queue: {error}");
        }
        copied
    });
    match result {
        Ok(()) => Exit::Ok,
        Err(Unanswered { text, exit }) => {
            println!("421 4.3.0 {text}");
            exit
        }
    }
}

fn copy(stream: UnixStream) -> io::Result<()> {
    let client = peer_of_stdin();
    let asked = client::ask(stream, &Request::Smtp { client })?;
    let mut from_daemon = asked.into_stream();
    let mut to_daemon = from_daemon.try_clone()?;
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut to_daemon);
        let _ = to_daemon.shutdown(std::net::Shutdown::Write);
    });
    let mut piece = vec![0; 64 << 10];
    let mut out = io::stdout().lock();
    loop {
        let length = from_daemon.read(&mut piece)?;
        if length == 0 {
            return Ok(());
        }
        out.write_all(&piece[..length])?;
        out.flush()?;
    }
}

/// inetd hands the client's connection over as standard input: then that client is who is judged.
fn peer_of_stdin() -> Option<std::net::IpAddr> {
    let address = rustix::net::getpeername(rustix::stdio::stdin()).ok()??;
    let address: std::net::SocketAddr = address.try_into().ok()?;
    Some(address.ip())
}
