//! The command as programs and users meet it: the real binary on a queue of its own, its output, exit status and what is then
//! queued. What needs a second user is played by root alone.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A user and a group that own nothing.
const NOBODY: u32 = 65_534;
/// The group of a queue directory.
const GROUP: u32 = 54_321;
const NOT_TRUSTED: &str = "Permission denied (real uid not trusted)\n";
const MESSAGE: &str = "Subject: x\n\nhi\n";

/// A queue directory with its configuration, a home beside it, and perhaps a daemon on it.
struct Queue {
    root: tempfile::TempDir,
}

impl Queue {
    /// With these lines in its kvmta.cf, and a daemon on it that tries nothing by itself. Nothing is listening where its mail
    /// would go.
    fn new(lines: &str) -> Queue {
        let queue = Queue::without_daemon(lines);
        let said = queue.run("-q1h", "");
        assert_eq!((said.err.as_str(), said.exit), ("", 0));
        queue
    }

    fn without_daemon(lines: &str) -> Queue {
        let root = tempfile::tempdir().unwrap();
        let queue = Queue { root };
        for (directory, mode) in [("", 0o711), ("queue", 0o711), ("home", 0o777)] {
            let path = queue.root.path().join(directory);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        }
        let pid = queue.pid_file();
        let text = format!(
            "Djlab.example.com\nO ConnectOnlyTo=9@127.0.0.1\nO PidFile={}\n{lines}",
            pid.display()
        );
        std::fs::write(queue.directory().join("kvmta.cf"), text).unwrap();
        queue
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join("queue")
    }

    fn kill_daemon(&self) {
        let Ok(text) = std::fs::read_to_string(self.pid_file()) else { return };
        if let Some(pid) = text.lines().next().and_then(|pid| pid.parse().ok()) {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }

    fn pid_file(&self) -> PathBuf {
        self.root.path().join("pid")
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvmta"));
        command
            .arg(format!("-oQ{}", self.directory().display()))
            .args(words.split_whitespace().map(|word| if word == "''" { "" } else { word }))
            .env("HOME", self.root.path().join("home"))
            .env_remove("TZ")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    fn run(&self, words: &str, input: &str) -> Said {
        said(self.command(words), input)
    }

    /// As nobody, in this group.
    fn run_as_nobody(&self, group: u32, words: &str) -> Said {
        let mut command = self.command(words);
        command.uid(NOBODY).gid(group);
        said(command, MESSAGE)
    }

    /// The text of dead.letter, which is taken away.
    fn dead_letter(&self) -> Option<String> {
        let path = self.root.path().join("home/dead.letter");
        let text = std::fs::read_to_string(&path).ok()?;
        std::fs::remove_file(path).unwrap();
        Some(text)
    }

    /// What mailq shows; nothing for an empty queue.
    fn listed(&self) -> String {
        let listed = self.run("-bp", "").out;
        let empty = format!("{} is empty\n\t\tTotal requests: 0\n", self.directory().display());
        if listed == empty { String::new() } else { listed }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.kill_daemon();
    }
}

/// What a command printed, and its status.
#[derive(Debug)]
struct Said {
    out: String,
    err: String,
    exit: i32,
}

fn said(mut command: Command, input: &str) -> Said {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    // One that does not want its input may be gone.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let Output { stdout, stderr, status } = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { out: text(stdout), err: text(stderr), exit: status.code().unwrap_or(-1) }
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: only root can be somebody else");
    }
    root
}

/// ErrorMode, as sendmail 8.17 has it: what is printed, the status, who gets it by mail, what is in dead.letter.
#[test]
fn failures_are_told_as_the_error_mode_says() {
    const TEXT: &str = "nosuch... User unknown\n";
    for (words, printed, exit, mailed, dead) in [
        ("-oem -f joe@x.example nosuch", "", 67, true, false),
        ("-oew -f joe@x.example nosuch", "", 67, true, false),
        ("-oeq -f joe@x.example nosuch", "", 67, false, false),
        ("-oep -f joe@x.example nosuch", TEXT, 67, true, false),
        ("-oee -f joe@x.example nosuch", "", 0, true, false),
        ("-oep -f joe nosuch", TEXT, 67, false, true),
        ("-oep -f '' nosuch", TEXT, 67, false, true),
        ("-oem -f '' nosuch", TEXT, 67, false, true),
        ("-oee -f '' nosuch", TEXT, 0, false, true),
        ("-f joe nosuch", TEXT, 67, false, true),
    ] {
        let queue = Queue::new("");
        let Said { out, err, exit: found, .. } = queue.run(&format!("-odq {words}"), MESSAGE);
        let err: String = err.lines().filter(|line| !line.contains("Saved message in")).collect();
        let err = if err.is_empty() { err } else { err + "\n" };
        assert_eq!((out.as_str(), err.as_str(), found), ("", printed, exit), "{words}");
        let listed = queue.listed();
        let is_mailed = listed.contains("joe@x.example") && listed.contains("Total requests: 1\n");
        assert_eq!(is_mailed, mailed, "{words}: {listed}");
        assert_eq!(listed.is_empty(), !mailed, "{words}: {listed}");
        let kept = queue.dead_letter().unwrap_or_default();
        assert_eq!(kept.contains(MESSAGE), dead, "{words}: {kept}");
    }
}

#[test]
fn arpanet_mode_answers_in_replies() {
    let queue = Queue::new("");
    let from = "From: Joe <joe@x.example>\r\nSubject: x\r\n\r\nhi\r\n.\r\nafter\r\n";
    let Said { out, err, exit } = queue.run("-ba -odq -f root ok@y.example", from);
    assert_eq!((out.as_str(), err.as_str(), exit), ("", "", 0));
    let listed = queue.listed();
    assert!(listed.contains(" joe@x.example\n") && listed.contains(" ok@y.example\n"), "{listed}");
    for (words, replies, status) in [
        ("-ba -odq nosuch", "550 5.1.1 nosuch... User unknown\r\n", 67),
        ("-ba -odq a@@b", "553 5.1.3 a@@b... Invalid route address\r\n", 64),
        ("-ba", "550 Recipient names must be specified\r\n", 64),
        ("-ba -odq -t", "550 No recipient addresses found in header\r\n", 0),
    ] {
        let Said { out, exit, .. } = queue.run(words, MESSAGE);
        assert_eq!((out.as_str(), exit), (replies, status), "{words}");
    }
    let watched = queue.run("-ba -v ok@y.example", MESSAGE).out;
    assert!(
        watched.ends_with("\r\n") && watched.lines().all(|line| line.starts_with("050 ")),
        "{watched}"
    );
    assert_eq!(watched.matches('\n').count(), watched.matches("\r\n").count(), "{watched}");
}

/// `Running ... (sequence N of M)`, also of a selection.
#[test]
fn a_verbose_run_says_how_many_there_are() {
    let queue = Queue::new("O DeliveryMode=q\n");
    for domain in ["a", "b", "c"] {
        assert_eq!(queue.run(&format!("-odq x@{domain}.example"), MESSAGE).exit, 0);
    }
    let headings = |words: &str| {
        let said = queue.run(words, "");
        let text = said.out.replace(&queue.directory().display().to_string(), "DIR");
        let lines = text.lines().filter(|line| line.starts_with("Running DIR/"));
        let number =
            |line: &str| line.split_once(' ').unwrap().1.split_once(' ').unwrap().1.to_owned();
        let mut found: Vec<String> = lines.map(number).collect();
        // Attempts go on side by side, and each is shown when it ends.
        found.sort();
        found
    };
    let of = |n: usize| (1..=n).map(|k| format!("(sequence {k} of {n})")).collect::<Vec<_>>();
    // The first run tries all: from then on nothing is new, and nothing is tried between the runs.
    assert_eq!(headings("-v -q"), of(3));
    assert_eq!(headings("-v -qRx@a"), of(1));
    assert_eq!(headings("-v -q!Rx@a"), of(2));
    assert_eq!(headings("-v -qRexample"), of(3));
    assert_eq!(headings("-v -OMaxQueueRunSize=2 -qRexample"), of(2));
    assert_eq!(headings("-v -qInosuch"), of(0));
}

#[test]
fn a_time_zone_is_in_date_and_mailq() {
    for (spec, tz, zone) in
        [("O TimeZoneSpec=JST-9\n", "CET-1", "+0900"), ("O TimeZoneSpec=\n", "CET-1", "+0100")]
    {
        let queue = Queue::without_daemon(spec);
        let mut daemon = queue.command("-q1h");
        daemon.env("TZ", tz);
        assert_eq!(said(daemon, "").exit, 0);
        assert_eq!(queue.run("-odq -oi -t", "To: a@x.example\n\nhi\n").exit, 0);
        let listed = queue.run("-bp", "").out;
        let id = listed.lines().nth(2).unwrap().split(' ').next().unwrap().to_owned();
        let dump = Command::new(env!("CARGO_BIN_EXE_kvmta-queue"))
            .arg(format!("-oQ{}", queue.directory().display()))
            .args(["show", "--header", &id])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&dump.stdout).into_owned();
        assert_eq!(text.matches(zone).count(), 2, "Received: and Date: {text} {dump:?}");
    }
}

#[test]
fn a_submission_program_is_no_daemon() {
    let queue = Queue::without_daemon("O UseMSP\n");
    for mode in ["-bd", "-bD", "-bl"] {
        let Said { out, err, exit } = queue.run(mode, "");
        let text = "Mail submission program cannot be used as daemon\n";
        assert_eq!((out.as_str(), err.as_str(), exit), ("", text, 64), "{mode}");
    }
}

#[test]
fn what_only_trusted_users_may_do() {
    if !is_root() {
        return;
    }
    let queue = Queue::without_daemon("");
    for words in ["-bd", "-bD", "-bl", "-bd -q15m", "-q15m", "-qp", "-bH", "-bi", "-Qwhy -qIx"] {
        let Said { out, err, exit } = queue.run_as_nobody(NOBODY, words);
        assert_eq!((out.as_str(), err.as_str(), exit), ("", NOT_TRUSTED, 64), "{words}");
    }
    let trusted = Queue::without_daemon("Tnobody\n");
    let refused = trusted.run_as_nobody(NOBODY, "-bH");
    assert_eq!((refused.err.as_str(), refused.exit), (NOT_TRUSTED, 64), "class t is for -bi");
    assert_eq!(trusted.run_as_nobody(NOBODY, "-bi").err, "");
    let trusted = Queue::without_daemon("O TrustedUser=nobody\n");
    assert_eq!(trusted.run_as_nobody(NOBODY, "-bi").err, "");
    // His own queue is his.
    chown(queue.directory(), Some(NOBODY), Some(NOBODY)).unwrap();
    std::fs::set_permissions(queue.root.path(), PermissionsExt::from_mode(0o777)).unwrap();
    for words in ["-q1h", "-bH", "-Qwhy -qIx", "-bi"] {
        let Said { err, exit, .. } = queue.run_as_nobody(NOBODY, words);
        assert_eq!((err.as_str(), exit), ("", 0), "{words}");
    }
}

/// PrivacyOptions restrictmailq: root, and the group of the queue directory.
#[test]
fn the_queue_is_shown_to_its_group() {
    if !is_root() {
        return;
    }
    let queue = Queue::new("O PrivacyOptions=restrictmailq\n");
    chown(queue.directory(), None, Some(GROUP)).unwrap();
    assert_eq!(queue.run("-odq x@a.example", MESSAGE).exit, 0);
    let stranger = queue.run_as_nobody(NOBODY, "-bp");
    assert_eq!(stranger.out + &stranger.err, "510 You are not permitted to see the queue\n");
    assert_eq!(stranger.exit, 0);
    for seen in [queue.run_as_nobody(GROUP, "-bp"), queue.run("-bp", "")] {
        assert!(seen.out.contains(" x@a.example\n"), "{seen:?}");
    }
}

/// PrivacyOptions restrictexpand: the dialogue is not for an ordinary user.
#[test]
fn an_ordinary_user_is_shown_no_dialogue() {
    if !is_root() {
        return;
    }
    for (lines, shown) in [("O PrivacyOptions=restrictexpand\n", false), ("", true)] {
        let queue = Queue::new(lines);
        let sent = queue.run_as_nobody(NOBODY, "-v x@a.example");
        assert_eq!(sent.exit, 0, "{sent:?}");
        assert_eq!(sent.out.contains("Connecting to"), shown, "{sent:?}");
        let run = queue.run_as_nobody(NOBODY, "-v -qRx@a");
        assert_eq!(run.out.contains("Running "), shown, "{run:?}");
        assert!(queue.run("-v -qRx@a", "").out.contains("Running "));
    }
}

/// Without a daemon the command opens the queue itself, lists it and closes it, and nobody waits for anybody.
#[test]
fn the_queue_is_listed_at_once_without_a_daemon() {
    let queue = Queue::new("");
    assert_eq!(queue.run("-odq someone@x.example", MESSAGE).exit, 0);
    queue.kill_daemon();
    let begun = std::time::Instant::now();
    let listed = queue.run("-bp", "");
    assert!(listed.out.contains("someone@x.example"), "{}{}", listed.out, listed.err);
    // What a stop waits for at most are 10 s.
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
}
