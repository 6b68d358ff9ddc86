//! The program as the machine sees it: signals, sockets of a supervisor, PidFile, several commands at once. The real binary, in
//! a queue directory of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kvmta::control::client::WAIT_MAX;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than anything here takes; only a failure waits for it.
const ENOUGH: Duration = Duration::from_secs(60);
const MESSAGE: &[u8] = b"Subject: x\n\nhi\n";

/// A queue directory with a configuration.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new(config: &str) -> Place {
        let place = Place { directory: tempfile::tempdir().unwrap() };
        place.configure(config);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn configure(&self, config: &str) {
        std::fs::write(self.path("kvmta.cf"), config).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvmta"));
        self.prepare(&mut command);
        command.arg(format!("-oQ{}", self.directory.path().display())).args(arguments);
        command
    }

    /// Nothing of the user who runs the tests, and nothing of the supervisor he has.
    fn prepare(&self, command: &mut Command) {
        command.env("HOME", self.directory.path());
        for name in ["JOURNAL_STREAM", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC"]
        {
            command.env_remove(name);
        }
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> Output {
        self.spawn(arguments, input).wait_with_output().unwrap()
    }

    fn spawn(&self, arguments: &[&str], input: &[u8]) -> Child {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // What fits a pipe needs no thread.
        child.stdin.take().unwrap().write_all(input).unwrap();
        child
    }

    fn daemon(&self, arguments: &[&str]) -> Daemon {
        let mut all = vec!["-bD", "-q15m", "-OLogLevel=10"];
        all.extend(arguments);
        Daemon::start(self.command(&all))
    }

    fn count(&self) -> String {
        let counted = self.run(&["-bP"], b"");
        let text = String::from_utf8(counted.stdout).unwrap();
        let entries = text.lines().find_map(|line| line.split_once(": entries="));
        entries.map_or("0", |(_, entries)| entries).to_owned()
    }
}

/// A daemon in the foreground; its standard error is the log.
struct Daemon {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: String,
}

impl Daemon {
    fn start(mut command: Command) -> Daemon {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines() {
                let Ok(()) = send.send(line.unwrap()) else { return };
            }
        });
        Daemon { child, lines, seen: String::new() }
    }

    /// The next line of the log with this in it.
    fn until(&mut self, text: &str) -> String {
        loop {
            let Ok(line) = self.lines.recv_timeout(ENOUGH) else {
                panic!("no {text:?} in:\n{}", self.seen);
            };
            self.seen += &line;
            self.seen.push('\n');
            if line.contains(text) {
                return line;
            }
        }
    }

    fn listening(&mut self) -> SocketAddr {
        let line = self.until(": listening on ");
        let line =
            if line.contains("daemon ") { line } else { self.until("daemon MTA: listening") };
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    fn stop(mut self) -> String {
        self.signal(Signal::SIGTERM);
        let status = self.child.wait().unwrap();
        self.seen.extend(self.lines.iter().map(|line| line + "\n"));
        assert!(status.success(), "{status}:\n{}", self.seen);
        std::mem::take(&mut self.seen)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Gone already when the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One SMTP client.
struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn new(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(ENOUGH)).unwrap();
        Client { stream: BufReader::new(stream) }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line
    }

    fn say(&mut self, line: &str) -> String {
        self.stream.get_mut().write_all(line.as_bytes()).unwrap();
        self.line()
    }
}

/// Serves one client, who gets this answer to RCPT, until he leaves or has sent a message: its text.
fn serve_one(listener: &TcpListener, rcpt: &str) -> String {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(ENOUGH)).unwrap();
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(b"220 sink\r\n").unwrap();
    let mut text = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).unwrap() == 0 {
            return text;
        }
        let reply = match line.split([' ', '\r']).next() {
            Some("RCPT") => rcpt,
            Some("EHLO" | "MAIL" | "RSET" | "QUIT") => "250 ok\r\n",
            Some("DATA") => "354 go\r\n",
            Some(".") => "250 taken\r\n",
            _ => {
                text += &line;
                continue;
            }
        };
        // A client that has said QUIT may be gone.
        let written = stream.get_mut().write_all(reply.as_bytes());
        if written.is_err() || line == ".\r\n" {
            return text;
        }
    }
}

#[test]
fn sighup_reads_the_configuration_again() {
    const PORT: &str = "O DaemonPortOptions=Name=MTA,Port=0,Addr=127.0.0.1\n";
    let place = Place::new(&format!("Djone.example\n{PORT}"));
    let mut daemon = place.daemon(&[]);
    let address = daemon.listening();
    let mut before = Client::new(address);
    assert!(before.line().starts_with("220 one.example "));

    // Taken: the port stays, who is here goes on as he began, who comes sees the other.
    place.configure(&format!(
        "Djtwo.example\n{PORT}O DaemonPortOptions=Name=Second,Port=0,Addr=127.0.0.2\n"
    ));
    daemon.signal(Signal::SIGHUP);
    daemon.until("daemon Second: listening on 127.0.0.2:");
    daemon.until("restarting configuration due to signal SIGHUP");
    assert!(before.say("HELO x\r\n").starts_with("250 one.example "));
    assert!(Client::new(address).line().starts_with("220 two.example "));

    // Refused: a fault in the file, a port that is taken.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (config, fault) in [
        (
            format!("Djthree.example\n{PORT}O NoSuch=1\n"),
            "kvmta.cf: line 3: readcf: unknown option name NoSuch".to_owned(),
        ),
        (
            format!("Djthree.example\nO DaemonPortOptions=Name=X,Port={port},Addr=127.0.0.1\n"),
            format!("daemon X: cannot listen on 127.0.0.1:{port}: "),
        ),
        (
            format!(
                "Djthree.example\n{PORT}O ServerCertFile=/nonexistent\nO ServerKeyFile=/nonexistent\n"
            ),
            "kvmta.cf: line 3: option ServerCertFile: cannot read /nonexistent: No such file or directory".to_owned(),
        ),
        (
            format!("Djthree.example\n{PORT}O CACertPath=/nonexistent\n"),
            "kvmta.cf: line 3: option CACertPath: cannot read /nonexistent: No such file or directory".to_owned(),
        ),
    ] {
        place.configure(&config);
        daemon.signal(Signal::SIGHUP);
        daemon.until(&fault);
        daemon.until("is not taken; the one before stays");
        assert!(Client::new(address).line().starts_with("220 two.example "));
    }

    daemon.signal(Signal::SIGUSR1);
    daemon.until("SMTP sessions; 0 messages queued");
    let log = daemon.stop();
    assert!(log.contains("stopping daemon, reason=signal SIGTERM"), "{log}");
    assert!(before.line().starts_with("421 "));
}

#[test]
fn what_waits_for_the_old_way_takes_the_new_one() {
    let sink = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = |address: SocketAddr| {
        format!(
            "O DaemonPortOptions=Port=0,Addr=127.0.0.1\nO SmartHost=[127.0.0.1]:{}\nO MinQueueAge=1h\n",
            address.port()
        )
    };
    let place = Place::new(&config(busy.local_addr().unwrap()));
    let mut daemon = place.daemon(&[]);
    daemon.listening();
    let refusing = std::thread::spawn(move || serve_one(&busy, "450 4.2.1 busy\r\n"));
    let sent = place.run(&["-i", "-odi", "b@x.example"], MESSAGE);
    assert!(sent.status.success(), "{sent:?}");
    daemon.until("stat=Deferred");
    // What is in hand as the reload comes ends as it began: here that is over once the list has no mark at it.
    while String::from_utf8_lossy(&place.run(&["-bp"], b"").stdout).contains('*') {}
    place.configure(&config(sink.local_addr().unwrap()));
    daemon.signal(Signal::SIGHUP);
    // Although it was tried a moment ago, and MinQueueAge says an hour.
    assert!(serve_one(&sink, "250 ok\r\n").contains("Subject: x"));
    daemon.until("stat=Sent");
    daemon.stop();
    assert_eq!(refusing.join().unwrap(), "");
}

/// The daemon behind `sh`, with `listener` as descriptor 3.
fn activated(place: &Place, listener: &TcpListener, arguments: &[&str], notify: &Path) -> Command {
    let script = r#"exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@""#;
    let mut command = Command::new("sh");
    place.prepare(&mut command);
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_kvmta")])
        .arg(format!("-oQ{}", place.directory.path().display()))
        .args(arguments)
        .stdin(OwnedFd::from(listener.try_clone().unwrap()))
        .env("NOTIFY_SOCKET", notify);
    command
}

#[test]
fn a_supervisor_gives_the_socket_and_hears_how_we_are() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let place = Place::new(&format!("O DaemonPortOptions=Name=MTA,Port={}\n", address.port()));
    let notify = place.path("notify");
    let supervisor = UnixDatagram::bind(&notify).unwrap();
    supervisor.set_read_timeout(Some(ENOUGH)).unwrap();
    let hear = |wanted: &str| loop {
        let mut text = [0; 1024];
        let length = supervisor.recv(&mut text).unwrap();
        let text = String::from_utf8_lossy(&text[..length]).into_owned();
        if text.starts_with(wanted) {
            return text;
        }
    };
    // A connection that was there first waits and is served.
    let mut early = Client::new(address);
    let mut command = activated(&place, &listener, &["-bD", "-q15m", "-OLogLevel=10"], &notify);
    let mut daemon = Daemon::start({
        command.env("WATCHDOG_USEC", "50000");
        command
    });
    assert_eq!(daemon.listening(), address);
    hear("READY=1");
    assert!(early.line().starts_with("220 "));
    hear("WATCHDOG=1");
    daemon.signal(Signal::SIGHUP);
    assert!(hear("RELOADING=1").contains("\nMONOTONIC_USEC="));
    hear("READY=1");
    assert!(Client::new(address).line().starts_with("220 "));
    daemon.signal(Signal::SIGTERM);
    hear("STOPPING=1");
    daemon.stop();

    // `-bd` hands it on to the process that stays.
    let pid = format!("-OPidFile={}", place.path("pid").display());
    let status = activated(&place, &listener, &["-bd", &pid], &notify).status().unwrap();
    assert!(status.success());
    let mut client = Client::new(address);
    assert!(client.line().starts_with("220 "));
    let written = std::fs::read_to_string(place.path("pid")).unwrap();
    let (number, command) = written.trim_end().split_once('\n').unwrap();
    assert!(command.ends_with(&format!("-bd {pid}")), "{written}");
    kill(Pid::from_raw(number.parse().unwrap()), Signal::SIGTERM).unwrap();
    assert!(client.line().starts_with("421 "));
}

#[test]
fn a_socket_that_no_option_names_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place::new("O DaemonPortOptions=Port=0,Addr=127.0.0.1\n");
    let output = activated(&place, &listener, &["-bD"], Path::new(""))
        .env_remove("NOTIFY_SOCKET")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("is not in DaemonPortOptions"), "{said}");
}

#[test]
fn one_queue_has_one_daemon_and_errors_are_said_once() {
    let place = Place::new("O DaemonPortOptions=Port=0,Addr=127.0.0.1\n");
    let pid = format!("-OPidFile={}", place.path("pid").display());
    let mut daemon = place.daemon(&[&pid]);
    daemon.until("starting daemon");
    let written = std::fs::read_to_string(place.path("pid")).unwrap();
    for mode in ["-bD", "-bd"] {
        let began = Instant::now();
        let other = place.run(&[mode, &pid], b"");
        assert!(began.elapsed() < WAIT_MAX, "it waited for a daemon that stays");
        assert_eq!(other.status.code(), Some(69), "{other:?}");
        let said = String::from_utf8(other.stderr).unwrap();
        assert_eq!(said.matches("is in use by another process").count(), 1, "{said}");
        assert_eq!(std::fs::read_to_string(place.path("pid")).unwrap(), written);
    }
    assert!(written.starts_with(&format!("{}\n", daemon.child.id())), "{written}");
    daemon.stop();
    assert!(!place.path("pid").exists());
}

#[test]
fn commands_without_a_daemon_share_the_queue_and_are_silent() {
    let place = Place::new(
        "O DaemonPortOptions=Port=0,Addr=127.0.0.1\nO MaxHopCount=25\nO DHParameters=x\n",
    );
    place.daemon(&[]).stop_after_start();
    let children: Vec<Child> =
        (0..8).map(|n| place.spawn(&["-i", "-odq", &format!("b{n}@x.example")], MESSAGE)).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    }
    assert_eq!(place.count(), "8");
    assert!(!place.path("dead.letter").exists());
}

#[test]
fn a_daemon_that_comes_gets_the_queue_and_nothing_is_lost() {
    let place = Place::new("O DaemonPortOptions=Port=0,Addr=127.0.0.1\n");
    place.daemon(&[]).stop_after_start();
    // Messages all the while that daemons come and go.
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            let commands: Vec<Command> = (0..10)
                .map(|n| place.command(&["-i", "-odq", &format!("s{sender}n{n}@x.example")]))
                .collect();
            std::thread::spawn(move || {
                for mut command in commands {
                    let mut child = command
                        .stdin(Stdio::piped())
                        .stdout(Stdio::piped())
                        .stderr(Stdio::piped())
                        .spawn()
                        .unwrap();
                    child.stdin.take().unwrap().write_all(MESSAGE).unwrap();
                    let output = child.wait_with_output().unwrap();
                    assert!(output.status.success(), "{output:?}");
                }
            })
        })
        .collect();
    while senders.iter().any(|sender| !sender.is_finished()) {
        place.daemon(&["-O", "DeliveryMode=q"]).stop_after_start();
    }
    for sender in senders {
        sender.join().unwrap();
    }
    assert_eq!(place.count(), "40");
}

impl Daemon {
    fn stop_after_start(mut self) {
        self.until("starting daemon");
        self.stop();
    }
}

#[test]
fn mail_is_handed_in_while_the_daemon_stops() {
    let slow = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = slow.local_addr().unwrap().port();
    let place = Place::new(&format!(
        "O DaemonPortOptions=Port=0,Addr=127.0.0.1\nO SmartHost=[127.0.0.1]:{port}\n"
    ));
    let mut daemon = place.daemon(&[]);
    daemon.until("starting daemon");
    assert!(place.run(&["-i", "first@x.example"], MESSAGE).status.success());
    // A delivery that the daemon waits for.
    let (delivery, _) = slow.accept().unwrap();
    daemon.signal(Signal::SIGTERM);
    daemon.until("stopping daemon");
    let second = place.run(&["-i", "-odi", "second@x.example"], MESSAGE);
    assert!(second.status.success() && second.stderr.is_empty(), "{second:?}");
    drop(delivery);
    daemon.stop();
    assert_eq!(place.count(), "2");
}

#[test]
fn nobody_there_is_dead_letter_and_75() {
    let place = Place::new("");
    let output = place.run(&["-i", "b@x.example"], MESSAGE);
    assert_eq!(output.status.code(), Some(75));
    let path = place.path("dead.letter");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("Saved message in {}", path.display())), "{said}");
    let mut saved = String::new();
    std::fs::File::open(path).unwrap().read_to_string(&mut saved).unwrap();
    assert!(saved.starts_with("From ") && saved.ends_with("\nSubject: x\n\nhi\n\n"), "{saved}");
}
