//! Every invariant, broken by hand in each way it can be: a check says so by its number, and so where it is. What cannot be read is named,
//! and keeps nothing else from being checked.

use std::collections::{BTreeMap, BTreeSet};

use super::super::engine::{Batch, Key, Value};
use super::super::message::{Body, DestinationRow, Incoming, Message, Shape};
use super::super::record::Record;
use super::super::schema::*;
use super::*;
use crate::mail::loading::{Attempts, Loading};

/// One message of each kind, in a store that is sound.
struct Scene {
    site: Site,
    store: Store,
    rows: BTreeMap<Key, Value>,
    /// In INCOMING.
    fresh: QueueId,
    /// Two jobs, the first of them failed and unreported.
    message: QueueId,
    held: QueueId,
    /// Three jobs.
    list: QueueId,
}

/// Not garbage of any record.
const GARBAGE: &[u8] = &[77, 1, 2, 3];

async fn scene() -> Scene {
    let site = Site::new();
    let store = site.open();
    let fresh = accept(&site, &store, ["a@f.example".into()], 1500, None).await.unwrap().id;
    let two = ["a@b.example".into(), "a@c.example".into()];
    let message = accept(&site, &store, two.clone(), 500, None).await.unwrap();
    store.settle(&message.jobs[0], all_failed(site.now())).await.unwrap();
    let held = accept(&site, &store, two, 500, Some("wait")).await.unwrap().id;
    let many = (0..450).map(|n| format!("r{n}@l{}.example", n % 3));
    let list = accept(&site, &store, many, 500, None).await.unwrap().id;
    let mut intake = store.intake().unwrap();
    intake.write(&bytes(7, 500)).await.unwrap();
    let (destination, recipient) = to("a@o.example");
    intake.recipient(destination, recipient).await.unwrap();
    let envelope = envelope("joe@a.example", 500, site.now());
    let attempts = Attempts::default();
    let loading = Loading { envelope, attempts, warned: false, held: None };
    intake.load(loading, "elsewhere/1").await.unwrap();
    let under_work = || {
        let snapshot = store.core().writer.snapshot().unwrap();
        let (start, end) = LISTS.all();
        !snapshot.keys(&start..&end, 1, false).unwrap().is_empty()
    };
    while under_work() {
        flush(&store).await;
    }
    assert_sound(&store);
    let rows = site.disk.synced();
    Scene { site, store, rows, fresh, message: message.id, held, list }
}

impl Scene {
    fn job(&self, id: QueueId, number: u32) -> JobId {
        JobId { queue_id: id, number }
    }

    fn read<R: Record>(&self, key: &Key) -> R {
        R::decode(&self.rows[key]).expect("is a record")
    }

    fn incoming(&self) -> Incoming {
        self.read(&INCOMING.key(self.fresh))
    }

    fn message(&self, id: QueueId) -> Message {
        self.read(&MESSAGE.key(id))
    }

    /// The rows of a table under these parts of its keys.
    fn under(&self, (start, end): key::KeyRange) -> Vec<Key> {
        self.rows.range(start..end).map(|(key, _)| key.clone()).collect()
    }

    /// The one row of READY or DEADLINE of a job of `message` to c.example.
    fn ready(&self) -> Key {
        self.under(READY.under(&to("a@c.example").0))[0].clone()
    }

    fn deadline(&self) -> Key {
        self.under(DEADLINE.under(&to("a@c.example").0))[0].clone()
    }

    fn destination(&self) -> DestinationRow {
        self.read(&DEST.key(&to("a@c.example").0))
    }

    async fn commit(&self, batch: Batch) {
        self.store.core().writer.submit(writer::Class::Acknowledged, batch).await.unwrap();
    }

    /// Breaks it, checks it, and mends it.
    async fn broken_by(&self, batch: Batch) -> Vec<String> {
        self.commit(batch).await;
        let found = self.store.check().expect("a check goes on");
        let found = found.iter().map(|broken| broken.to_string()).collect();
        let now = self.site.disk.synced();
        let deletes = now.keys().filter(|key| !self.rows.contains_key(*key)).cloned().collect();
        let puts = self.rows.iter().filter(|(key, value)| now.get(*key) != Some(value));
        let puts = puts.map(|(key, value)| (key.clone(), value.clone())).collect();
        self.commit(Batch { deletes, puts, ..Batch::default() }).await;
        assert_sound(&self.store);
        found
    }
}

fn put(key: Key, value: impl Into<Value>) -> Batch {
    Batch { puts: vec![(key, value.into())], ..Batch::default() }
}

fn delete(key: Key) -> Batch {
    Batch { deletes: vec![key], ..Batch::default() }
}

fn add(key: Key) -> Batch {
    Batch { adds: vec![(key, 1)], ..Batch::default() }
}

/// How an invariant is broken, and what is said then.
type Case = (&'static str, &'static str, fn(&Scene) -> Batch);

const CASES: &[Case] = &[
    ("I1", "stands in MESSAGE too", |s| put(INCOMING.key(s.message), s.incoming().encode())),
    ("I1", "not below META ids", |_| put(META.key(META_IDS), 1u64.encode())),
    ("I1", "not below META ids", |_| delete(META.key(META_IDS))),
    ("I2", "piece 0 of its body", |s| delete(INCOMING_BODY.key((s.fresh, 0u32)))),
    ("I2", "piece 1 of its body", |s| put(INCOMING_BODY.key((s.fresh, 1u32)), b"short".as_slice())),
    ("I2", "no message has it", |s| put(INCOMING_BODY.key((s.fresh, 9u32)), b"more".as_slice())),
    ("I2", "no message has it", |s| put(INCOMING_BODY.key((s.message, 0u32)), b"x".as_slice())),
    ("I2", "has no recipient", |s| {
        put(INCOMING.key(s.fresh), Incoming { recipients: Vec::new(), ..s.incoming() }.encode())
    }),
    ("I2", "not fresh", |s| {
        let mut incoming = s.incoming();
        incoming.recipients[0].state = delivered(s.site.now());
        put(INCOMING.key(s.fresh), incoming.encode())
    }),
    ("I3", "job 1 in READY: false", |s| delete(s.ready())),
    ("I3", "there is no such open job", |s| {
        let other = s.site.now().after(Duration::from_secs(77));
        put(READY.key((&to("a@c.example").0, other, s.job(s.message, 1))), b"".as_slice())
    }),
    ("I3", "there is no such open job", |s| {
        let id = s.job(QueueId::from_u64(7), 0);
        put(READY.key((&to("a@c.example").0, s.site.now(), id)), b"".as_slice())
    }),
    ("I3", "job 0 in READY: true", |s| {
        let Shape::Inline(jobs) = s.message(s.held).shape else { panic!("is inline") };
        put(READY.key((&jobs[0].destination, jobs[0].due, s.job(s.held, 0))), b"".as_slice())
    }),
    ("I3", "in READY: false", |s| delete(s.under(READY.under(&to("r@l1.example").0))[0].clone())),
    ("I4", "has no row in DEST", |_| delete(DEST.key(&to("a@c.example").0))),
    ("I4", "has no job in READY", |s| {
        put(DEST.key(&to("a@nowhere.example").0), s.destination().encode())
    }),
    ("I4", "AGENDA does not have its time", |s| {
        let time = s.destination().agenda.expect("a time");
        delete(AGENDA.key((time, &to("a@c.example").0)))
    }),
    ("I4", "DEST does not name it", |_| {
        put(AGENDA.key((Timestamp::from_secs(5), &to("a@c.example").0)), b"".as_slice())
    }),
    ("I4", "does not stand in AGENDA", |s| {
        let row = DestinationRow { agenda: None, ..s.destination() };
        put(DEST.key(&to("a@c.example").0), row.encode())
    }),
    ("I4", "its first job is due at", |s| {
        let late = s.site.now().after(Duration::from_secs(7200));
        let row = DestinationRow { agenda: Some(late), ..s.destination() };
        let mut batch = put(DEST.key(&to("a@c.example").0), row.encode());
        batch.puts.push((AGENDA.key((late, &to("a@c.example").0)), Vec::new()));
        let time = s.destination().agenda.expect("a time");
        batch.deletes.push(AGENDA.key((time, &to("a@c.example").0)));
        batch
    }),
    ("I5", "in DEADLINE: false, false", |s| delete(s.deadline())),
    ("I5", "in DEADLINE: true, true", |s| {
        let (destination, class, last, arrival, id) = DEADLINE.parse(&s.deadline()).unwrap();
        put(DEADLINE.key((&destination, class, !last, arrival, id)), b"".as_slice())
    }),
    ("I5", "in DEADLINE: false, true", |s| {
        let (destination, class, last, arrival, id) = DEADLINE.parse(&s.deadline()).unwrap();
        assert!(!last, "its sender may still be warned");
        let mut batch = put(DEADLINE.key((&destination, class, true, arrival, id)), Vec::new());
        batch.deletes.push(s.deadline());
        batch
    }),
    ("I5", "there is no such open job", |s| {
        let (destination, class, last, arrival, id) = DEADLINE.parse(&s.deadline()).unwrap();
        let later = arrival.after(Duration::from_secs(1));
        put(DEADLINE.key((&destination, class, last, later, id)), b"".as_slice())
    }),
    ("I5", "held true, in HELD false", |s| delete(HELD.key(s.held))),
    ("I5", "held false, in HELD true", |s| put(HELD.key(s.message), b"".as_slice())),
    ("I5", "there is no such message", |_| put(HELD.key(QueueId::from_u64(7)), b"".as_slice())),
    ("I6", "is not one of its jobs", |s| {
        let value = s.rows[&RECIPIENTS.key(s.job(s.list, 0))].clone();
        put(RECIPIENTS.key(s.job(s.list, 99)), value)
    }),
    ("I6", "2 open jobs, not 3", |s| delete(RECIPIENTS.key(s.job(s.list, 1)))),
    ("I6", "unreported_since does not say", |s| {
        let mut message = s.message(s.list);
        let Shape::List(list) = &mut message.shape else { panic!("is a list") };
        list.unreported_since = Some(s.site.now());
        put(MESSAGE.key(s.list), message.encode())
    }),
    ("I6", "job 0 in UNREPORTED: false", |s| delete(UNREPORTED.key(s.job(s.message, 0)))),
    ("I6", "job 1 in UNREPORTED: true", |s| {
        put(UNREPORTED.key(s.job(s.message, 1)), b"".as_slice())
    }),
    ("I6", "job 1 in UNREPORTED: true", |s| put(UNREPORTED.key(s.job(s.list, 1)), Vec::new())),
    ("I6", "there is no such job", |s| put(UNREPORTED.key(s.job(s.list, 99)), Vec::new())),
    ("I6", "its list is unfolded", |s| {
        let row: Vec<Recipient> = vec![to("a@b.example").1];
        put(STAGED.key((s.list, &to("a@b.example").0, 0u32)), row.encode())
    }),
    ("I6", "belongs to no long list", |s| {
        let row: Vec<Recipient> = vec![to("a@b.example").1];
        put(STAGED.key((s.message, &to("a@b.example").0, 0u32)), row.encode())
    }),
    ("I6", "belongs to no long list", |s| {
        let value = s.rows[&RECIPIENTS.key(s.job(s.list, 0))].clone();
        put(RECIPIENTS.key(s.job(s.message, 0)), value)
    }),
    ("I6", "belongs to no long list", |s| put(LISTS.key(s.message), Vec::new())),
    ("I6", "LISTS does not say", |s| put(LISTS.key(s.list), Vec::new())),
    ("I6", "LISTS does not say", |s| {
        let mut message = s.message(s.list);
        let Shape::List(list) = &mut message.shape else { panic!("is a list") };
        list.unfolding = true;
        put(MESSAGE.key(s.list), message.encode())
    }),
    ("I7", "is finished", |s| {
        let mut message = s.message(s.message);
        let Shape::Inline(jobs) = &mut message.shape else { panic!("is inline") };
        jobs.iter_mut().for_each(|job| job.recipients[0].state = delivered(s.site.now()));
        put(MESSAGE.key(s.message), message.encode())
    }),
    ("I7", "is finished", |s| {
        let mut message = s.message(s.list);
        let Shape::List(list) = &mut message.shape else { panic!("is a list") };
        list.open_jobs = 0;
        let mut batch = put(MESSAGE.key(s.list), message.encode());
        batch.delete_ranges.push(RECIPIENTS.under(s.list));
        batch
    }),
    ("I8", "COUNT incoming:", |_| add(COUNT.key(COUNT_INCOMING))),
    ("I8", "COUNT incoming octets", |_| add(COUNT.key(COUNT_INCOMING_OCTETS))),
    ("I8", "COUNT incoming held", |_| add(COUNT.key(COUNT_INCOMING_HELD))),
    ("I8", "COUNT message:", |_| add(COUNT.key(COUNT_MESSAGE))),
    ("I8", "COUNT message octets", |_| add(COUNT.key(COUNT_MESSAGE_OCTETS))),
    ("I8", "COUNT held", |_| add(COUNT.key(COUNT_HELD))),
    ("I9", "BODYGEN 1 0", |_| add(BODYGEN.key((1u32, BODY_MESSAGES)))),
    ("I9", "BODYGEN 1 1", |_| delete(BODYGEN.key((1u32, BODY_OCTETS)))),
    ("I9", "BODYGEN 9 0", |_| add(BODYGEN.key((9u32, BODY_MESSAGES)))),
    ("I9", "its file is not there", |_| add(BODYGEN.key((9u32, BODY_MESSAGES)))),
    ("I9", "BODYGEN 1 0", |s| {
        let mut message = s.message(s.message);
        message.body = Body { generation: 77, key: None };
        put(MESSAGE.key(s.message), message.encode())
    }),
    ("I10", "INCOMING", |s| put(INCOMING.key(s.fresh), GARBAGE)),
    ("I10", "MESSAGE", |s| put(MESSAGE.key(s.message), GARBAGE)),
    ("I10", "MESSAGE", |s| put(MESSAGE.key(s.list), GARBAGE)),
    ("I10", "RECIPIENTS", |s| put(RECIPIENTS.key(s.job(s.list, 1)), GARBAGE)),
    ("I10", "STAGED", |s| put(STAGED.key((s.list, &to("a@b.example").0, 0u32)), GARBAGE)),
    ("I10", "PROGRESS", |s| put(PROGRESS.key(s.list), GARBAGE)),
    ("I10", "DEST", |_| put(DEST.key(&to("a@c.example").0), GARBAGE)),
    ("I10", "INFLIGHT", |s| put(INFLIGHT.key(s.job(s.message, 1)), GARBAGE)),
    ("I10", "HOST", |_| put(HOST.key("mx.example"), GARBAGE)),
    ("I10", "LOADED", |_| put(LOADED.key("elsewhere/1"), GARBAGE)),
    ("I10", "META", |_| put(META.key(META_IDS), GARBAGE)),
    ("I10", "the number", |_| put(COUNT.key(COUNT_MESSAGE), GARBAGE)),
    ("I10", "the number", |_| put(STAT.key((1u8, STAT_FROM)), GARBAGE)),
    ("I10", "the number", |_| put(BODYGEN.key((1u32, BODY_OCTETS)), GARBAGE)),
    ("I10", "is a key of no table", |_| put(vec![0x02, 7], GARBAGE)),
    ("I10", "is a key of no table", |_| put(vec![0xf0], GARBAGE)),
    ("I11", "nobody has the job in hand", |s| {
        put(INFLIGHT.key(s.job(s.message, 1)), 1u64.encode())
    }),
    ("I11", "META open is not there", |s| {
        let mut batch = put(INFLIGHT.key(s.job(s.message, 1)), 1u64.encode());
        batch.deletes.push(META.key(META_OPEN));
        batch
    }),
    ("I12", "LOADED does not have it", |_| delete(LOADED.key("elsewhere/1"))),
    ("I12", "1 origins, and LOADED_AT has 0", |_| Batch {
        delete_ranges: vec![LOADED_AT.all()],
        ..Batch::default()
    }),
    ("I12", "or others", |s| {
        let mut batch = put(LOADED.key("elsewhere/2"), 1u64.encode());
        let other = LOADED_AT.key((s.site.now().after(Duration::from_secs(1)), "elsewhere/1"));
        batch.puts.push((other, Vec::new()));
        batch
    }),
    ("I12", "belongs to no list", |s| put(PROGRESS.key(s.list), Attempts::default().encode())),
    ("I12", "belongs to no list", |s| put(PROGRESS.key(s.message), Attempts::default().encode())),
];

#[tokio::test]
async fn every_invariant_is_verified() {
    let scene = scene().await;
    let mut failed = Vec::new();
    for (place, (invariant, text, breaks)) in CASES.iter().enumerate() {
        let found = scene.broken_by(breaks(&scene)).await;
        let is_it =
            |said: &&String| said.starts_with(&format!("{invariant}: ")) && said.contains(text);
        if !found.iter().any(|said| is_it(&said)) {
            failed.push(format!("{place}: {invariant}, {text}: {found:?}"));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    let numbers: BTreeSet<&str> = CASES.iter().map(|(invariant, _, _)| *invariant).collect();
    assert_eq!(numbers.len(), 12, "each has a case");
}

#[tokio::test]
async fn a_key_that_is_none_is_named_in_every_table() {
    let scene = scene().await;
    for (start, _) in [
        META.all(),
        INCOMING.all(),
        INCOMING_BODY.all(),
        MESSAGE.all(),
        RECIPIENTS.all(),
        STAGED.all(),
        UNREPORTED.all(),
        LISTS.all(),
        PROGRESS.all(),
        READY.all(),
        DEST.all(),
        AGENDA.all(),
        DEADLINE.all(),
        HELD.all(),
        INFLIGHT.all(),
        HOST.all(),
        LOADED.all(),
        LOADED_AT.all(),
        COUNT.all(),
        STAT.all(),
        BODYGEN.all(),
    ] {
        let found = scene.broken_by(put([&start[..], &[1, 2]].concat(), GARBAGE)).await;
        assert!(found.iter().any(|said| said.starts_with("I10: ")), "{start:?}: {found:?}");
        assert!(found.iter().all(|said| !said.starts_with("I3: ")), "{start:?}: {found:?}");
    }
}

/// What cannot be read is said once, and nothing that follows from it.
#[tokio::test]
async fn a_record_that_cannot_be_read_is_said_once() {
    let scene = scene().await;
    for key in [
        INCOMING.key(scene.fresh),
        MESSAGE.key(scene.message),
        MESSAGE.key(scene.list),
        RECIPIENTS.key(scene.job(scene.list, 1)),
        DEST.key(&to("a@c.example").0),
    ] {
        let found = scene.broken_by(put(key.clone(), GARBAGE)).await;
        assert_eq!(found.len(), 1, "{key:?}: {found:?}");
    }
}

/// Beside a writer that changes everything: a check takes no change under way for a fault.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_beside_writes_finds_nothing() {
    let site = Site::new();
    let store = site.open();
    for n in 0..40 {
        accept(&site, &store, [format!("a@d{n}.example"), "a@b.example".into()], 300, None)
            .await
            .unwrap();
    }
    let checks = tokio::task::spawn_blocking({
        let store = store.clone();
        move || (0..40).flat_map(|_| store.check().unwrap()).collect::<Vec<_>>()
    });
    while !checks.is_finished() {
        let list = (0..250).map(|n| format!("r{n}@l{}.example", n % 90));
        let list = accept(&site, &store, list, 300, None).await.unwrap();
        let two = ["a@b.example".into(), "a@c.example".into()];
        let two = accept(&site, &store, two, 300, None).await.unwrap();
        for job in &two.jobs {
            let _claim = store.claim(job.id).expect("is free");
            let _begun = store.begin(job).await.unwrap();
            store.settle(job, all_failed(site.now())).await.unwrap();
        }
        let small = accept(&site, &store, ["a@b.example".into()], 300, None).await.unwrap();
        store.settle(&small.jobs[0], deferred(site.now())).await.unwrap();
        store.hold(vec![list.id, small.id], "wait".into()).await.unwrap();
        store.remove(vec![list.id, small.id]).await.unwrap();
    }
    assert_eq!(checks.await.unwrap(), []);
}
