//! Loading by the control socket: spool files, the asking end, the socket, the answering end and the store, in one process. Only
//! the outside world is not there.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvmta::cli::house::{self, Kind, Running, store_options};
use kvmta::cli::load::files::{Found, walk};
use kvmta::cli::load::one::{self, Manner, Outcome};
use kvmta::config::Config;
use kvmta::control::client::{self, Asked};
use kvmta::control::proto::{Answer, Deed, LoadPart, Request, Show};
use kvmta::mail::address::ReversePath;
use kvmta::mail::envelope::{BodyType, Envelope, Notify, Recipient, RecipientState, TimeoutClass};
use kvmta::mail::filter::Filter;
use kvmta::mail::job::{Entry, EntryJob};
use kvmta::mail::loading::{Attempts, Loading};
use kvmta::mail::queue_id::QueueId;
use kvmta::mail::time::Timestamp;
use kvmta::maillog::Maillog;
use kvmta::store::Store;
use kvmta::world::fake::FakeWorld;

const NOW: Timestamp = Timestamp::from_secs(1_795_400_000);
const HEADER: &[u8] = b"Subject: x\r\n\r\n";
const BODY: &[u8] = b"one\r\n.\r\n";

/// A house whose queue nobody runs, and a spool beside it.
struct Site {
    world: FakeWorld,
    directory: tempfile::TempDir,
}

impl Site {
    fn new() -> Site {
        let world = FakeWorld::default();
        world.clock.set(NOW);
        let directory = tempfile::tempdir().unwrap();
        for name in ["queue", "spool/qf", "spool/df"] {
            std::fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        Site { world, directory }
    }

    fn queue(&self) -> PathBuf {
        self.directory.path().join("queue")
    }

    fn spool(&self) -> PathBuf {
        self.directory.path().join("spool")
    }

    fn config(&self) -> Arc<Config> {
        Arc::new(Config {
            queue_directory: self.queue(),
            host_name: "mx.example".into(),
            min_free_octets: 0,
            ..Config::default()
        })
    }

    fn open(&self) -> Store {
        Store::open(store_options(&self.config(), self.world.clock.clone()), true).unwrap()
    }

    async fn start(&self) -> Running {
        let (config, world, log) = (self.config(), self.world.world(), Maillog::discard().unwrap());
        house::start(config, world, self.open(), Vec::new(), None, log, Kind::Holder).await.unwrap()
    }

    /// A control file of this text, and a body.
    fn put(&self, name: &str, control: &str) {
        let place = |kind: &str| self.spool().join(kind).join(format!("{kind}{name}"));
        std::fs::write(place("qf"), control).unwrap();
        std::fs::write(place("df"), "one\n.\n").unwrap();
        for kind in ["qf", "df"] {
            std::fs::set_permissions(place(kind), PermissionsExt::from_mode(0o600)).unwrap();
        }
    }
}

/// Does something that blocks, as the asking end does.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn asked(queue: &Path) -> Asked {
    let mut asked = client::ask(client::connect(queue).unwrap(), &Request::Count).unwrap();
    while !asked.answer().unwrap().is_last() {}
    asked
}

fn count(asked: &mut Asked) -> u64 {
    asked.ask(&Request::Count).unwrap();
    let Answer::Counts(counts) = asked.answer().unwrap() else { panic!("no counts") };
    assert!(asked.answer().unwrap().is_last());
    counts.messages
}

/// What becomes of each file of a spool.
fn load(spool: &Path, asked: &mut Asked, remove: bool) -> Vec<Outcome> {
    let manner = Manner { now: NOW, remove, host: "mx.example".into() };
    let mut outcomes = Vec::new();
    walk(spool, &mut |found| {
        if let Found::Message(message) = found {
            let mut tell = |outcome| outcomes.push(outcome);
            one::load(&message, Some(asked), &manner, &mut tell).unwrap();
        }
        true
    });
    outcomes
}

/// How many different recipients a listing with all of them names of each message.
fn listed(asked: &mut Asked) -> Vec<usize> {
    let (filter, deed, show) = (Filter::default(), Deed::Look, Show::Recipients);
    asked.ask(&Request::Operate { filter, deed, rehearse: true, show }).unwrap();
    let mut messages: Vec<BTreeSet<String>> = Vec::new();
    let named = |message: &mut BTreeSet<String>, job: &EntryJob| {
        for recipient in &job.recipients {
            assert!(message.insert(recipient.address.to_string()), "{} twice", recipient.address);
        }
    };
    loop {
        match asked.answer().unwrap() {
            Answer::Entries(entries) => {
                for entry in entries {
                    let mut message = BTreeSet::new();
                    entry.jobs.iter().for_each(|job| named(&mut message, job));
                    messages.push(message);
                }
            }
            Answer::Jobs(jobs) => {
                let message = messages.last_mut().unwrap();
                jobs.iter().for_each(|job| named(message, job));
            }
            answer if answer.is_last() => break,
            _ => {}
        }
    }
    let mut counts: Vec<usize> = messages.iter().map(BTreeSet::len).collect();
    counts.sort();
    counts
}

async fn finish(running: Running, site: &Site) -> Vec<Entry> {
    running.stop().await.unwrap();
    let store = site.open();
    assert_eq!(store.check().unwrap(), []);
    let entries = store.list(None, 100).unwrap();
    store.close().await.unwrap();
    entries
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_becomes_ours_with_its_state_and_once() {
    let site = Site::new();
    let list: String = (0..2500).map(|n| format!("RPFD:<r{n}@d{}.example>\n", n % 3)).collect();
    site.put(
        "6AMtest00001",
        "V8\nT1795328425\nK1795328430\nN4\nP120000\nMDeferred: refused\nFw\nS<a@b.example>\nMDeferred: 451 4.7.1 later\nRPFD:<x@d.example>\nRPFD:local\nH??Subject: x\n.\n",
    );
    site.put(
        "6AMtest00002",
        &format!("V8\nT1795328426\nK0\nN0\nP1\nqspam\nS<a@b.example>\n{list}H??Subject: list\n.\n"),
    );
    site.put("6AMtest00003", "V8\nT1795328427\nK0\nN0\nP1\nS<a@b.example>\nRPFD:<x@d.example>\n");
    let running = site.start().await;
    let (queue, spool) = (site.queue(), site.spool());
    let ids = aside(move || {
        let mut link = asked(&queue);
        let mut ids: Vec<QueueId> = Vec::new();
        for outcome in load(&spool, &mut link, false) {
            match outcome {
                Outcome::Loaded(id, unkept) if unkept.is_empty() => ids.push(id),
                Outcome::Unreadable(why) => assert!(why.to_string().contains("final dot"), "{why}"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((ids.len(), count(&mut link)), (2, 2), "the torn one is not there");
        // Again by this connection, by a new one, and with the files removed.
        for (mut link, remove) in [(link, false), (asked(&queue), false), (asked(&queue), true)] {
            let before = load(&spool, &mut link, remove);
            let known =
                |outcome: &&Outcome| matches!(outcome, Outcome::Before(id) if ids.contains(id));
            assert_eq!(before.iter().filter(known).count(), 2, "{before:?}");
            assert_eq!(count(&mut link), 2);
        }
        assert_eq!(listed(&mut asked(&queue)), [2, 2500], "a listing names everybody");
        let left = |kind: &str| std::fs::read_dir(spool.join(kind)).unwrap().count();
        assert_eq!((left("qf"), left("df")), (1, 1), "the torn one stays");
        ids
    })
    .await;
    let entries = finish(running, &site).await;
    let of = |name: &str| {
        let size = if name == "list" { 2500 } else { 2 };
        entries.iter().find(|entry| entry.recipients_total == size).unwrap()
    };
    let (few, list) = (of("few"), of("list"));
    assert!(ids.contains(&few.id) && ids.contains(&list.id));
    assert_eq!((few.envelope.arrival, few.warned), (Timestamp::from_secs(1_795_328_425), true));
    assert_eq!(few.envelope.size, few.envelope.header_len + BODY.len() as u64);
    assert_eq!(few.jobs.iter().map(|job| job.attempts).collect::<Vec<_>>(), [4, 4]);
    let states: Vec<_> =
        few.open_recipients().map(|r| (r.address.to_string(), r.state.clone())).collect();
    assert!(states.iter().any(|(to, _)| to == "local@mx.example"), "{states:?}");
    let met = |state: &RecipientState| matches!(state, RecipientState::Open(Some(report)) if report.text.contains("4.7.1"));
    assert!(states.iter().any(|(to, state)| to == "x@d.example" && met(state)), "{states:?}");
    assert_eq!(list.held.as_deref(), Some("spam"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_dumped_from_here_is_not_delivered_twice() {
    let site = Site::new();
    let control =
        |to: &str| format!("V8\nT1795328425\nK0\nN0\nP1\nS<a@b.example>\nRPFD:<{to}>\n.\n");
    site.put("6AMtest00001", &control("x@d.example"));
    let running = site.start().await;
    let (queue, spool) = (site.queue(), site.spool());
    let id = aside({
        let (queue, spool) = (queue.clone(), spool.clone());
        move || match &load(&spool, &mut asked(&queue), true)[..] {
            [Outcome::Loaded(id, _)] => *id,
            other => panic!("{other:?}"),
        }
    })
    .await;
    // As a dump names it; and a message of another sender by chance of the same name.
    site.put(&id.to_string(), &control("x@d.example"));
    let again = aside({
        let (queue, spool) = (queue.clone(), spool.clone());
        move || load(&spool, &mut asked(&queue), true)
    })
    .await;
    let [Outcome::Refused(text, 65)] = &again[..] else { panic!("{again:?}") };
    assert!(text.contains(&format!("is in it still, as {id}")), "{text}");
    site.put(&id.to_string(), &control("x@d.example").replace("a@b", "c@b"));
    let other = aside(move || load(&spool, &mut asked(&queue), true)).await;
    assert!(matches!(other[..], [Outcome::Loaded(..)]), "{other:?}");
    assert_eq!(finish(running, &site).await.len(), 2);
}

fn recipients(count: usize) -> LoadPart {
    let recipient = |n| Recipient {
        address: format!("r{n}@d.example").parse().unwrap(),
        orcpt: None,
        notify: Notify::Unspecified,
        state: RecipientState::Open(None),
    };
    LoadPart::Recipients((0..count).map(recipient).collect())
}

fn end(size: usize) -> LoadPart {
    let envelope = Envelope {
        reverse_path: ReversePath::Mailbox("a@b.example".parse().unwrap()),
        arrival: Timestamp::from_secs(1_795_328_425),
        relay: "localhost".into(),
        protocol: String::new(),
        body_type: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        timeouts: TimeoutClass::Normal,
        precedence: 0,
        priority: 30_000,
        message_id: String::new(),
        header_len: HEADER.len() as u64,
        size: size as u64,
        body_lines: 2,
        relay_override: None,
        deliver_by: None,
    };
    LoadPart::End(Box::new(Loading {
        envelope,
        attempts: Attempts::default(),
        warned: false,
        held: None,
    }))
}

/// Every part of a message but its end: few recipients or a long list, and so many octets of body.
fn parts(rounds: usize) -> Vec<LoadPart> {
    let mut parts: Vec<LoadPart> = (0..rounds).map(|_| recipients(250)).collect();
    parts.push(LoadPart::Bytes(HEADER.to_vec()));
    parts.push(LoadPart::Bytes(BODY.to_vec()));
    parts
}

/// A connection that was told to send the parts of a message of this origin.
fn ready(queue: &Path, origin: &str) -> Asked {
    let mut asked = asked(queue);
    asked.ask(&Request::Load { origin: origin.into() }).unwrap();
    assert_eq!(asked.answer().unwrap(), Answer::Ready);
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_leaves_nothing() {
    let site = Site::new();
    let running = site.start().await;
    let queue = site.queue();
    aside(move || {
        for rounds in [1, 9] {
            let whole = parts(rounds);
            for kept in 0..=whole.len() {
                let mut broken = ready(&queue, "origin");
                whole[..kept].iter().for_each(|part| broken.send_part(part).unwrap());
                let mut other = asked(&queue);
                assert_eq!(count(&mut other), 0, "nothing is there before its end");
                // In the middle of the next part.
                let stream: UnixStream = broken.into_stream();
                std::io::Write::write_all(&mut &stream, &[0, 0]).unwrap();
                drop(stream);
                assert_eq!(count(&mut other), 0);
            }
        }
        // What cannot be read to its end is forgotten, and what is not what was announced; the connection goes on.
        let mut link = ready(&queue, "origin");
        link.send_part(&recipients(3)).unwrap();
        link.send_part(&LoadPart::Abandon).unwrap();
        assert!(matches!(link.answer().unwrap(), Answer::Failed { exit: 65, .. }));
        for (parts, size) in [(parts(1), 5), (vec![LoadPart::Bytes(HEADER.to_vec())], HEADER.len())]
        {
            link.ask(&Request::Load { origin: "origin".into() }).unwrap();
            assert_eq!(link.answer().unwrap(), Answer::Ready);
            parts.iter().for_each(|part| link.send_part(part).unwrap());
            link.send_part(&end(size)).unwrap();
            assert!(matches!(link.answer().unwrap(), Answer::Failed { .. }));
            assert_eq!(count(&mut link), 0);
        }
        // Its origin was never taken for loaded.
        link.ask(&Request::Load { origin: "origin".into() }).unwrap();
        assert_eq!(link.answer().unwrap(), Answer::Ready);
        parts(9).iter().for_each(|part| link.send_part(part).unwrap());
        link.send_part(&end(HEADER.len() + BODY.len())).unwrap();
        assert!(matches!(link.answer().unwrap(), Answer::Loaded { before: false, .. }));
        assert!(link.answer().unwrap().is_last());
        assert_eq!(count(&mut link), 1);
        // Two at once: the second is told who was first.
        let (mut first, mut second) = (ready(&queue, "twice"), ready(&queue, "twice"));
        let mut told = Vec::new();
        for link in [&mut first, &mut second] {
            parts(1).iter().for_each(|part| link.send_part(part).unwrap());
            link.send_part(&end(HEADER.len() + BODY.len())).unwrap();
            let Answer::Loaded { id, before } = link.answer().unwrap() else { panic!() };
            told.push((id, before));
        }
        assert_eq!(told[1], (told[0].0, true));
        assert_eq!(count(&mut link), 2);
    })
    .await;
    let entries = finish(running, &site).await;
    assert_eq!(entries.iter().map(|entry| entry.recipients_total).collect::<Vec<_>>(), [2250, 250]);
}
