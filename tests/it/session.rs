//! Sessions over streams with the real store behind them: what a client sees, and what is then in the queue.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvmta::accept::listener::{Listener, Sessions, serve};
use kvmta::accept::{Acceptor, Caller, Event, Outlets};
use kvmta::config::{Config, Daemon, DeliveryMode, PortTls};
use kvmta::mail::envelope::{ByMode, DeliverBy};
use kvmta::mail::mime::EightBitMode;
use kvmta::mail::selection::Selection;
use kvmta::mail::time::Timestamp;
use kvmta::store::{Accepted, Store, StoreOptions};
use kvmta::world::fake::FakeLoad;
use kvmta::world::{Answer, Clock, Dns, DnsError, Net, Stream, TlsAccept, TlsFacts, Verify, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, watch};

/// A world where it is always 2026-11-22 06:21:19 UTC and nobody answers.
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(1_795_328_479)
    }
}

impl Dns for Still {
    fn mx<'a>(&'a self, _: &'a str) -> Answer<'a, Result<Vec<(u16, String)>, DnsError>> {
        Box::pin(std::future::pending())
    }

    fn addresses<'a>(&'a self, _: &'a str) -> Answer<'a, Result<Vec<IpAddr>, DnsError>> {
        Box::pin(std::future::pending())
    }

    fn name_of(&self, _: IpAddr) -> Answer<'_, Result<String, DnsError>> {
        Box::pin(std::future::pending())
    }
}

impl Net for Still {
    fn connect(&self, _: SocketAddr, _: Option<IpAddr>) -> Answer<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(std::future::pending())
    }

    fn connect_path<'a>(&'a self, _: &'a Path) -> Answer<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(std::future::pending())
    }

    fn start_tls<'a>(
        &'a self,
        _: Box<dyn Stream>,
        _: &'a str,
    ) -> Answer<'a, io::Result<(Box<dyn Stream>, TlsFacts)>> {
        Box::pin(std::future::pending())
    }

    fn own_addresses(&self) -> Vec<IpAddr> {
        Vec::new()
    }
}

/// A handshake that says nothing and succeeds.
struct Silent;

impl TlsAccept for Silent {
    fn accept(
        &self,
        stream: Box<dyn Stream>,
    ) -> Answer<'_, io::Result<(Box<dyn Stream>, TlsFacts)>> {
        let facts = TlsFacts {
            version: "TLSv1.3".into(),
            cipher: "TLS_AES_256_GCM_SHA384".into(),
            bits: 256,
            verify: Verify::No,
        };
        Box::pin(async move { Ok((stream, facts)) })
    }
}

struct House {
    acceptor: Arc<Acceptor>,
    store: Store,
    wake: mpsc::Receiver<Accepted>,
    etrn: mpsc::Receiver<Selection>,
    events: Arc<Mutex<Vec<String>>>,
    stop: watch::Sender<bool>,
    load: Arc<FakeLoad>,
    _directory: tempfile::TempDir,
}

fn house(change: impl FnOnce(&mut Config)) -> House {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        directory: directory.path().to_owned(),
        cache_size: 16 << 20,
        body_generation_size: 1 << 30,
        incoming_size: 64 << 20,
        max_unsettled: 200,
        min_free: 0,
        clock: Arc::new(|| Still.now()),
    };
    let store = Store::open(options, true).unwrap();
    let mut config = Config { host_name: "lab.example.com".into(), ..Config::default() };
    change(&mut config);
    let load = Arc::new(FakeLoad::default());
    let world = World {
        clock: Arc::new(Still),
        dns: Arc::new(Still),
        net: Arc::new(Still),
        load: load.clone(),
        tls: Some(Arc::new(Silent)),
    };
    let (wake_in, wake) = mpsc::channel(8);
    let (etrn_in, etrn) = mpsc::channel(8);
    let events = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&events);
    let outlets = Outlets {
        wake: wake_in,
        etrn: etrn_in,
        events: Arc::new(move |event: Event<'_>| heard.lock().unwrap().push(name_of(&event))),
    };
    let acceptor = Acceptor::new(Arc::new(config), world, store.clone(), outlets);
    House {
        acceptor: Arc::new(acceptor),
        store,
        wake,
        etrn,
        events,
        stop: watch::channel(false).0,
        load,
        _directory: directory,
    }
}

fn name_of(event: &Event<'_>) -> String {
    let text = format!("{event:?}");
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned()
}

impl House {
    /// A session with a client at `address`, which is greeted.
    async fn call(&self, address: &str) -> Client {
        self.call_at(address, PortTls::Offered).await
    }

    /// The same on a port where TLS begins so.
    async fn call_at(&self, address: &str, tls: PortTls) -> Client {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let caller = Caller {
            address: (!address.is_empty()).then(|| address.parse().unwrap()),
            local_name: "root@localhost".into(),
            daemon: "MTA".into(),
            tls,
        };
        let (acceptor, stop) = (Arc::clone(&self.acceptor), self.stop.subscribe());
        let task = async move { acceptor.session(Box::new(theirs), caller, stop).await };
        tokio::spawn(task);
        let mut client = Client { stream: ours };
        let greeting = client.reply().await;
        assert!(greeting.starts_with("220 lab.example.com ESMTP kvmta "), "{greeting}");
        assert!(greeting.contains("; Sun, 22 Nov 2026 "), "{greeting}");
        client
    }
}

struct Client {
    stream: DuplexStream,
}

impl Client {
    /// One reply, all its lines.
    async fn reply(&mut self) -> String {
        let mut text = Vec::new();
        loop {
            let byte = self.stream.read_u8().await.expect("a reply comes");
            text.push(byte);
            let line = text.rsplit(|b| *b == b'\n').nth(1).unwrap_or_default();
            if byte == b'\n' && line.get(3) == Some(&b' ') {
                return String::from_utf8(text).unwrap();
            }
        }
    }

    async fn say(&mut self, text: &str) -> String {
        self.stream.write_all(text.as_bytes()).await.unwrap();
        self.reply().await
    }

    async fn is_closed(&mut self) -> bool {
        self.stream.read_u8().await.is_err()
    }
}

const GROUP: &str = "MAIL FROM:<a@example.com> ENVID=e1 RET=HDRS\r\nRCPT TO:<b@ok.example.net>\r\n\
    RCPT TO:<b@OK.example.net>\r\nDATA\r\n";

#[tokio::test]
async fn a_message_is_in_the_store_when_it_is_answered_for() {
    let mut house = house(|_| {});
    let mut client = house.call("127.0.0.1").await;
    let hello = client.say("EHLO client.example.org\r\n").await;
    assert!(
        hello.starts_with("250-lab.example.com Hello localhost [127.0.0.1], pleased"),
        "{hello}"
    );
    assert_eq!(client.say(GROUP).await, "250 2.1.0 <a@example.com>... Sender ok\r\n");
    assert_eq!(client.reply().await, "250 2.1.5 <b@ok.example.net>... Recipient ok\r\n");
    assert_eq!(client.reply().await, "250 2.1.5 <b@OK.example.net>... Recipient ok\r\n");
    assert!(client.reply().await.starts_with("354 "));
    let content = "Message-Id: <m@x>\r\nPrecedence: list\r\n\r\nb\u{e9}\r\n..dot\r\n.\r\n";
    let taken = client.say(content).await;
    let id = taken.strip_prefix("250 2.0.0 ").unwrap();
    let id = id.strip_suffix(" Message accepted for delivery\r\n").unwrap().parse().unwrap();

    let entry = house.store.entry(id).unwrap().expect("it is in the store");
    let received = format!(
        "Received: from client.example.org (localhost [127.0.0.1])\r\n\
         \tby lab.example.com (kvmta/{}) with ESMTP id {id}\r\n\tfor <b@ok.example.net>; ",
        env!("CARGO_PKG_VERSION")
    );
    let bytes = house.store.read_body(&entry.body, 0).await.unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.starts_with(&received), "{text}");
    assert!(text.ends_with("list\r\n\r\nb\u{e9}\r\n.dot\r\n"), "{text}");
    let envelope = &entry.envelope;
    assert_eq!((envelope.size, envelope.precedence), (text.len() as u64, -30));
    let header = &text[..envelope.header_len as usize];
    assert!(header.ends_with("list\r\n\r\n"));
    assert_eq!((envelope.message_id.as_str(), envelope.protocol.as_str()), ("<m@x>", "ESMTP"));
    assert_eq!(envelope.envid.as_deref(), Some("e1"));
    // Sizes as sendmail counts them: with LF line ends, and a priority from what the client sent.
    assert_eq!(
        (envelope.body_lines, envelope.body_file_len()),
        (2, "b\u{e9}\n.dot\n".len() as u64)
    );
    let sent = "Message-Id: <m@x>\nPrecedence: list\n\nb\u{e9}\n.dot\n";
    assert_eq!(envelope.priority, sent.len() as i64 + 30 * 1800 + 30_000);
    assert_eq!(entry.recipients_total, 1, "a repeated recipient is one");
    assert_eq!(house.wake.recv().await.unwrap().id, id);
    assert_eq!(client.say("QUIT\r\n").await, "221 2.0.0 lab.example.com closing connection\r\n");
    assert!(client.is_closed().await);
    assert_eq!(*house.events.lock().unwrap(), ["Connected", "Accepted"]);
}

#[tokio::test]
async fn mail_that_is_only_to_be_queued_wakes_nobody() {
    for (mode, woken) in [(DeliveryMode::Background, true), (DeliveryMode::Queue, false)] {
        let mut house = house(|config| config.delivery_mode = mode);
        let mut client = house.call("127.0.0.1").await;
        client.say("EHLO client.example.org\r\n").await;
        client.say(GROUP).await;
        for _ in 0..3 {
            client.reply().await;
        }
        let taken = client.say("\r\nbody\r\n.\r\n").await;
        assert!(taken.starts_with("250 "), "{taken}");
        client.say("QUIT\r\n").await;
        assert!(client.is_closed().await);
        assert_eq!(house.store.counts().unwrap().messages, 1);
        assert_eq!(house.wake.try_recv().is_ok(), woken, "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outsider_is_judged_also_when_dns_is_dead() {
    let house = house(|_| {});
    let mut client = house.call("192.0.2.1").await;
    let hello = client.say("HELO mx.example.org\r\n").await;
    assert_eq!(hello, "250 lab.example.com Hello [192.0.2.1], pleased to meet you\r\n");
    client.say("MAIL FROM:<a@example.com>\r\n").await;
    let denied = client.say("RCPT TO:<b@ok.example.net>\r\n").await;
    assert_eq!(denied, "550 5.7.1 <b@ok.example.net>... Relaying denied\r\n");
    assert_eq!(client.say("DATA\r\n").await, "503 5.0.0 Need RCPT (recipient)\r\n");
    drop(client);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(*house.events.lock().unwrap(), ["Connected", "Refused", "Lost"]);
    assert_eq!(house.store.counts().unwrap().messages, 0);
}

#[tokio::test]
async fn tls_starts_over_and_shows_in_the_trace() {
    let house = house(|_| {});
    let mut client = house.call("127.0.0.1").await;
    assert!(client.say("EHLO a\r\n").await.contains("250-STARTTLS\r\n"));
    assert_eq!(client.say("STARTTLS\r\n").await, "220 2.0.0 Ready to start TLS\r\n");
    assert!(!client.say("EHLO a\r\n").await.contains("STARTTLS"));
    client.say("MAIL FROM:<a@example.com>\r\n").await;
    client.say("RCPT TO:<b@ok.example.net>\r\n").await;
    let taken = client.say("BDAT 8 LAST\r\nA: b\r\n\r\n").await;
    let id = taken.split(' ').nth(2).unwrap().parse().unwrap();
    let entry = house.store.entry(id).unwrap().unwrap();
    let text = String::from_utf8(house.store.read_body(&entry.body, 0).await.unwrap()).unwrap();
    assert!(text.contains("with ESMTPS id"), "{text}");
    assert!(
        text.contains("\r\n\t(version=TLSv1.3 cipher=TLS_AES_256_GCM_SHA384 bits=256 verify=NO)")
    );
}

#[tokio::test]
async fn a_local_program_speaks_as_its_user_and_etrn_goes_up() {
    let mut house = house(|_| {});
    let mut client = house.call("").await;
    let hello = client.say("HELO x\r\n").await;
    assert_eq!(hello, "250 lab.example.com Hello root@localhost, pleased to meet you\r\n");
    client.say("ETRN ok.example.net\r\n").await;
    assert_eq!(house.etrn.recv().await.unwrap().terms[0].substring, "@ok.example.net");
}

/// Modifiers of DaemonPortOptions: none, S, s.
#[tokio::test]
async fn tls_begins_when_the_port_says() {
    let house = house(|_| {});
    for (port, offered, protocol) in [
        (PortTls::Offered, true, "ESMTP"),
        (PortTls::Never, false, "ESMTP"),
        (PortTls::FromTheStart, false, "ESMTPS"),
    ] {
        let mut client = house.call_at("127.0.0.1", port).await;
        assert_eq!(
            client.say("EHLO c.example\r\n").await.contains("STARTTLS"),
            offered,
            "{port:?}"
        );
        client.say("MAIL From:<s@c.example>\r\n").await;
        client.say("RCPT To:<b@ok.example.net>\r\n").await;
        client.say("DATA\r\n").await;
        let taken = client.say("Subject: x\r\n\r\nx\r\n.\r\n").await;
        let id = taken.split(' ').nth(2).unwrap().parse().unwrap();
        let entry = house.store.entry(id).unwrap().unwrap();
        assert_eq!(entry.envelope.protocol, protocol, "{port:?}");
    }
    let events = house.events.lock().unwrap();
    assert_eq!(events.iter().filter(|event| *event == "TlsStarted").count(), 1);
}

/// A listener of `house` on a port of loopback.
struct Served {
    address: SocketAddr,
    sessions: Arc<Sessions>,
    task: tokio::task::JoinHandle<()>,
    _acceptors: watch::Sender<Arc<Acceptor>>,
}

fn serve_on_loopback(house: &House) -> Served {
    let daemon = Daemon::at("MTA", "127.0.0.1:0".parse().unwrap());
    let socket = Listener::bind(&daemon).unwrap();
    let listener = Listener::inherited(socket, daemon.name.clone(), daemon.tls).unwrap();
    let address = listener.address().unwrap();
    let sessions = Arc::new(Sessions::default());
    let (_acceptors, acceptor) = watch::channel(Arc::clone(&house.acceptor));
    let task =
        tokio::spawn(serve(listener, acceptor, Arc::clone(&sessions), house.stop.subscribe()));
    Served { address, sessions, task, _acceptors }
}

async fn read_line(stream: &mut tokio::net::TcpStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(line).unwrap()
}

#[tokio::test]
async fn a_busy_machine_refuses_connections_and_says_so_once() {
    let house = house(|config| config.load.refuse = Some(12));
    let served = serve_on_loopback(&house);
    let first_line = async || {
        read_line(&mut tokio::net::TcpStream::connect(served.address).await.unwrap()).await
    };
    house.load.set(12);
    for _ in 0..3 {
        assert_eq!(
            first_line().await,
            "421 4.3.2 lab.example.com Load too high; try again later\r\n"
        );
    }
    house.load.set(11);
    assert!(first_line().await.starts_with("220 "));
    let events = house.events.lock().unwrap().clone();
    assert_eq!(events[..2], ["TurnedAway", "TakingAgain"]);
    assert!(!events[2..].contains(&"TurnedAway".to_owned()));
}

#[tokio::test]
async fn a_client_that_comes_too_often_is_turned_away() {
    let house = house(|config| {
        config.limits.client_rate = 2;
        config.relay_networks.clear();
    });
    let served = serve_on_loopback(&house);
    for expected in ["220 ", "220 ", "421 4.3.2 lab.example.com Connection rate limit exceeded."] {
        let mut stream = tokio::net::TcpStream::connect(served.address).await.unwrap();
        assert!(read_line(&mut stream).await.starts_with(expected), "{expected}");
    }
}

#[tokio::test]
async fn the_greeting_is_chosen_and_stays_one_line() {
    for (text, expected) in [
        (
            "lab.example.com Sendmail 8 ready at $b",
            "220 lab.example.com ESMTP Sendmail 8 ready at Sun, 22 Nov 2026 ",
        ),
        ("lab.example.com", "220 lab.example.com ESMTP\r\n"),
        ("a\r\n250 b", "220 a ESMTP "),
    ] {
        let house = house(|config| config.smtp_greeting = Some(text.into()));
        let (ours, theirs) = tokio::io::duplex(4096);
        let caller = Caller {
            address: None,
            local_name: "root@localhost".into(),
            daemon: "MTA".into(),
            tls: PortTls::Offered,
        };
        let (acceptor, stop) = (Arc::clone(&house.acceptor), house.stop.subscribe());
        tokio::spawn(async move { acceptor.session(Box::new(theirs), caller, stop).await });
        let greeting = Client { stream: ours }.reply().await;
        assert!(greeting.starts_with(expected), "{greeting}");
        assert_eq!(greeting.matches("\r\n").count(), 1, "{greeting:?}");
    }
}

/// HelpFile answers HELP when it can be read; when not, the operator is told and the text is ours.
#[tokio::test]
async fn help_comes_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (good, large) = (folder.path().join("good"), folder.path().join("large"));
    std::fs::write(&good, "#vers\t2\nsmtp\tHere is $j\n").unwrap();
    std::fs::write(&large, "smtp\tx\n".repeat(10_000)).unwrap();
    for (file, expected, told) in [
        (good, "214-2.0.0 Here is lab.example.com\r\n214 2.0.0 End of HELP info\r\n", 0),
        (large, "214-2.0.0 This is kvmta version ", 1),
        (folder.path().join("none"), "214-2.0.0 This is kvmta version ", 1),
        (folder.path().to_owned(), "214-2.0.0 This is kvmta version ", 1),
    ] {
        let house = house(|config| config.help_file = Some(file));
        let said = house.call("127.0.0.1").await.say("HELP\r\n").await;
        assert!(said.starts_with(expected), "{said}");
        let events = house.events.lock().unwrap();
        assert_eq!(events.iter().filter(|event| *event == "NoHelp").count(), told);
    }
}

/// DeliverByMin and PrivacyOptions reach the machine, BY reaches the store.
#[tokio::test]
async fn a_time_to_deliver_by_is_stored() {
    let house = house(|config| {
        config.deliver_by_min = Some(60);
        config.privacy.noexpn = true;
    });
    let mut client = house.call("127.0.0.1").await;
    let offer = client.say("EHLO a\r\n").await;
    assert!(offer.contains("250-DELIVERBY 60\r\n") && !offer.contains("-VERB"), "{offer}");
    client.say("MAIL FROM:<a@example.com> BY=90;RT\r\n").await;
    client.say("RCPT TO:<b@ok.example.net>\r\n").await;
    client.say("DATA\r\n").await;
    client.say("Subject: x\r\n\r\nhi\r\n.\r\n").await;
    let message = house.store.list(None, 1).unwrap().remove(0);
    let by = DeliverBy { seconds: 90, mode: ByMode::Return, trace: true };
    assert_eq!(message.envelope.deliver_by, Some(by));
}

/// EightBitMode=strict refuses what is not declared, by BODY or MIME-Version; SevenBitInput leaves nothing to refuse.
#[tokio::test]
async fn eight_bits_are_refused_or_stripped() {
    for (strict, strip, body, first, expected) in [
        (true, false, "", "", "554 5.6.1 Eight bit data not allowed"),
        (true, false, " BODY=8BITMIME", "", "250 "),
        (true, false, "", "MIME-Version: 1.0\r\n", "250 "),
        (true, true, "", "", "250 "),
        (false, false, "", "", "250 "),
    ] {
        let house = house(|config| {
            if strict {
                config.eight_bit_mode = EightBitMode::Strict;
            }
            config.seven_bit_input = strip;
        });
        let mut client = house.call("127.0.0.1").await;
        client.say("EHLO a\r\n").await;
        client.say(&format!("MAIL FROM:<a@example.com>{body}\r\n")).await;
        client.say("RCPT TO:<b@ok.example.net>\r\n").await;
        client.say("DATA\r\n").await;
        let said = client.say(&format!("{first}Subject: x\r\n\r\n\u{e9}\r\n.\r\n")).await;
        assert!(said.starts_with(expected), "{said}");
        let messages = house.store.list(None, 10).unwrap();
        assert_eq!(messages.len(), usize::from(said.starts_with('2')));
        for message in messages {
            let bytes = house.store.read_body(&message.body, 0).await.unwrap();
            assert_eq!(bytes.is_ascii(), strip);
        }
    }
}

#[tokio::test]
async fn the_listener_keeps_its_limits_and_stops() {
    let house = house(|config| config.limits.sessions = 1);
    let Served { address, sessions, task: served, _acceptors } = serve_on_loopback(&house);
    let mut first = tokio::net::TcpStream::connect(address).await.unwrap();
    assert!(read_line(&mut first).await.starts_with("220 "));
    assert_eq!(sessions.count(), 1);
    let mut second = tokio::net::TcpStream::connect(address).await.unwrap();
    assert!(read_line(&mut second).await.starts_with("421 4.3.2 lab.example.com Too many"));

    house.stop.send(true).unwrap();
    let goodbye = read_line(&mut first).await;
    assert_eq!(goodbye, "421 4.3.2 lab.example.com closing transmission channel\r\n");
    served.await.unwrap();
    assert_eq!(sessions.finish().await, 0);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_local_program_is_greeted_and_its_names_get_our_domain() {
    let house = house(|_| {});
    let mut client = house.call("").await;
    client.say("EHLO x\r\n").await;
    assert_eq!(client.say("MAIL FROM:<root>\r\n").await, "250 2.1.0 <root>... Sender ok\r\n");
    client.say("RCPT TO:<b@ok.example.net>\r\n").await;
    client.say("DATA\r\n").await;
    let taken = client.say("Subject: x\r\n\r\nhi\r\n.\r\n").await;
    let id = taken.split(' ').nth(2).unwrap().parse().unwrap();
    let entry = house.store.entry(id).unwrap().expect("it is in the store");
    assert_eq!(entry.envelope.reverse_path.to_string(), "root@lab.example.com");

    // All it has to say may be there, its end included, before we say anything.
    let (ours, theirs) = tokio::io::duplex(1024);
    let mut client = Client { stream: ours };
    client.stream.shutdown().await.unwrap();
    let caller = Caller {
        address: None,
        local_name: "root@localhost".into(),
        daemon: "stdin".into(),
        tls: PortTls::Offered,
    };
    house.acceptor.session(Box::new(theirs), caller, house.stop.subscribe()).await;
    assert!(client.reply().await.starts_with("220 lab.example.com ESMTP kvmta "));
    assert!(client.is_closed().await);
}
