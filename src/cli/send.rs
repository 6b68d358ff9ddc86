//! `-bm`: a message from standard input to the queue. And `-bs`: SMTP on standard input and output.
//!
//! Exit 0 means the message is durable. When nobody can take it, it is saved to the caller's dead.letter, that is said on
//! standard error, and the exit status is 75: nothing lost, nothing half done. Only when whoever took it was killed between
//! taking and saying so, it is both in the queue and in dead.letter.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::arpanet;
use super::ask::{self, Connected, Log, Unanswered};
use super::dead_letter::{Caller, save_dead_letter};
use super::exit::Exit;
use super::input::Input;
use crate::config::{Config, ErrorMode};
use crate::control::client;
use crate::control::proto::{Answer, Request};
use crate::mail::address::Address;
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
            tell_failure(config, &sending, &refused.text, exit, &mut input, now, log)
        }
        Err(Unanswered { text, exit }) => {
            match sending.submission.arpanet {
                true => drop(super::print(&arpanet::refusal(&text, exit))),
                false => eprintln!("kvmta: {text}"),
            }
            keep(&mut input, config, now);
            exit
        }
    }
}

/// ErrorMode: how the caller hears of what was not taken. Where it is to be mailed back and cannot be, it is printed and saved as
/// with `p`, so that exit 0 never means that something is lost. With `p` a sender who is not of this machine, and so does not see
/// what is printed, gets it by mail as well.
fn tell_failure(
    config: &Arc<Config>,
    sending: &Sending,
    text: &str,
    exit: Exit,
    input: &mut Input,
    now: Timestamp,
    log: Log<'_>,
) -> Exit {
    let prints = match sending.error_mode {
        ErrorMode::Quiet => return exit,
        ErrorMode::Print => true,
        ErrorMode::Write => io::stderr().is_terminal(),
        ErrorMode::Mail | ErrorMode::Berknet => false,
    };
    let say = || match sending.submission.arpanet {
        true => drop(super::print(&arpanet::refusal(text, exit))),
        false => eprintln!("{text}"),
    };
    if prints {
        say();
    }
    let mails = exit != Exit::Ok && (!prints || is_elsewhere(config, sending));
    let mailed = mails && mail_back(config, sending, text, input, log);
    let safe = mailed || {
        if !prints {
            say();
        }
        exit == Exit::Ok || keep(input, config, now)
    };
    if safe && sending.error_mode == ErrorMode::Berknet { Exit::Ok } else { exit }
}

/// Whether the sender that was named is at another host.
fn is_elsewhere(config: &Config, sending: &Sending) -> bool {
    let sender = sending.submission.sender.as_deref().unwrap_or_default();
    let address = sender.trim_matches(['<', '>', ' ']).parse::<Address>();
    let domain = address.ok().and_then(|address| address.domain_key());
    domain.is_some_and(|domain| !config.local_names.contains(&domain))
}

/// Sends the message back to whom it was from, with the reason. True when that is durable.
fn mail_back(
    config: &Arc<Config>,
    sending: &Sending,
    text: &str,
    input: &mut Input,
    log: Log<'_>,
) -> bool {
    let to = match &sending.submission.sender {
        Some(sender) if sender.trim_matches(['<', '>', ' ']).is_empty() => return false,
        Some(sender) => sender.clone(),
        None => user_name(),
    };
    let submission = Submission {
        recipients: vec![to.clone()],
        sender: Some(String::new()),
        ..Submission::default()
    };
    let returned = Returned { to: &to, host: &config.host_name, reason: text };
    let sent = returned.with(input).and_then(|mut input| {
        let sending = Sending { submission, wait: false, verbose: false, ..sending.clone() };
        deliver(config, &sending, &mut input, log).map_err(io::Error::other)
    });
    matches!(sent, Ok(Sent::Taken(_)))
}

/// A message on its way back.
struct Returned<'a> {
    to: &'a str,
    host: &'a str,
    reason: &'a str,
}

impl Returned<'_> {
    /// What goes back: the reason, and the message as it was given.
    fn with(&self, original: &mut Input) -> io::Result<Input> {
        let one_line = |text: &str| text.replace(|c: char| c.is_control(), " ");
        let front = format!(
            "From: Mail Delivery Subsystem <MAILER-DAEMON@{}>\n\
             To: {}\n\
             Subject: Returned mail: see transcript for details\n\
             Auto-Submitted: auto-generated (failure)\n\n\
             \x20  ----- Transcript of session follows -----\n{}\n\n\
             \x20  ----- Original message follows -----\n",
            self.host,
            one_line(self.to),
            self.reason,
        );
        original.rewind()?;
        Input::read_from(&mut io::Read::chain(front.as_bytes(), original), false)
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
        text: format!("the queue did not say that it has the message: {error}"),
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
            Answer::Line(line) => match sending.submission.arpanet {
                true => drop(super::print(&arpanet::progress(&line))),
                false => println!("{line}"),
            },
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

/// The caller's login name.
fn user_name() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
    user.map_or_else(|| "unknown".to_owned(), |user| user.name)
}

/// dead.letter, and a word about it. True when the message is there.
fn keep(input: &mut Input, config: &Config, now: Timestamp) -> bool {
    if input.is_empty() {
        return true;
    }
    match save_dead_letter(input, &Caller::of_this_process(), &now.ctime(&config.time_zone)) {
        Ok(path) => {
            let path = path.display();
            eprintln!("{path}... Saved message in {path}");
            true
        }
        Err(faults) => {
            for (path, error) in faults {
                eprintln!("kvmta: cannot save the message in {}: {error}", path.display());
            }
            eprintln!("kvmta: the message is not saved");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_back_has_the_reason_and_the_message() {
        let mut original = Input::read_from(&mut &b"Subject: x\n\nhi\n"[..], false).unwrap();
        let returned = Returned {
            to: "joe\nBcc: x",
            host: "lab.example.com",
            reason: "nosuch... User unknown",
        };
        let mut text = String::new();
        returned.with(&mut original).unwrap().read_to_string(&mut text).unwrap();
        assert!(text.contains("\nTo: joe Bcc: x\nSubject: Returned mail"), "{text}");
        assert!(text.contains("follows -----\nnosuch... User unknown\n"), "{text}");
        assert!(text.ends_with("Original message follows -----\nSubject: x\n\nhi\n"), "{text}");
    }
}
