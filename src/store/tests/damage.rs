//! Rows that cannot be read: they are named and stay, everything else goes on.

use super::super::engine::Batch;
use super::super::schema::*;
use super::*;

const GARBAGE: &[u8] = &[77, 1, 2, 3];

async fn write(store: &Store, key: Vec<u8>) {
    let batch = Batch { puts: vec![(key, GARBAGE.to_vec())], ..Batch::default() };
    store.core().writer.submit(writer::Class::Acknowledged, batch).await.unwrap();
}

fn is_under_work(store: &Store) -> bool {
    let snapshot = store.core().writer.snapshot().unwrap();
    let (start, end) = LISTS.all();
    !snapshot.keys(&start..&end, 1, false).unwrap().is_empty()
}

async fn worked_off(store: &Store) {
    for _ in 0..10_000 {
        if !is_under_work(store) {
            return;
        }
        flush(store).await;
    }
    panic!("the list stands still");
}

/// What a check says, but for records that cannot be read.
fn other_trouble(store: &Store) -> Vec<String> {
    let broken = store.check().unwrap();
    broken.iter().filter(|b| b.invariant != "I10").map(|b| b.to_string()).collect()
}

fn ready(store: &Store, now: Timestamp) -> usize {
    store.agenda(now, Far::Due, 9999).unwrap().0.len()
}

async fn list(site: &Site, store: &Store, jobs: usize) -> QueueId {
    let many = (0..jobs * 2).map(|n| format!("r{n}@d{}.example", n % jobs));
    let id = accept(site, store, many, 500, None).await.unwrap().id;
    worked_off(store).await;
    id
}

#[tokio::test]
async fn a_job_that_cannot_be_read_stops_no_change_to_its_list() {
    let site = Site::new();
    let store = site.open();
    let id = list(&site, &store, 700).await;
    let damaged = [3, 250, 699].map(|number| JobId { queue_id: id, number });
    for job in damaged {
        write(&store, RECIPIENTS.key(job)).await;
    }
    assert_eq!(ready(&store, site.now()), 700);
    store.hold(vec![id], "wait".into()).await.unwrap();
    worked_off(&store).await;
    assert_eq!(ready(&store, site.now()), 0);
    assert_eq!(other_trouble(&store), [""; 0]);
    store.release(vec![id]).await.unwrap();
    worked_off(&store).await;
    assert_eq!(ready(&store, site.now()), 697, "what cannot be read is not offered");
    // They are named, and shown, and nothing behind them is hidden.
    let broken = store.check().unwrap();
    assert_eq!(broken.len(), 3, "{broken:?}");
    assert!(broken.iter().all(|b| b.what.starts_with(&format!("RECIPIENTS {id}"))), "{broken:?}");
    let (mut shown, mut after) = (0, None);
    while let Some(job) = store.jobs(id, after, 1).unwrap().pop() {
        after = Some(job.number);
        shown += 1;
        let is_damaged = damaged.iter().any(|id| id.number == job.number);
        let status = job.status.unwrap_or_default();
        assert_eq!(status.starts_with("damaged record"), is_damaged, "{}: {status}", job.number);
        assert_eq!(job.recipients.is_empty(), is_damaged);
    }
    assert_eq!(shown, 700);
    // All others are settled, and the message stays for those.
    for number in (0..700).filter(|number| damaged.iter().all(|id| id.number != *number)) {
        let job = store.job(JobId { queue_id: id, number }).unwrap().expect("is open");
        let settled = store.settle(&job, all_failed(site.now())).await.unwrap();
        assert!(!settled.finished);
    }
    flush(&store).await;
    assert_eq!(other_trouble(&store), [""; 0]);
    assert!(store.entry(id).unwrap().is_some(), "nothing is lost");
    // Only its removal takes them away, with all they had.
    assert_eq!(store.remove(vec![id]).await.unwrap(), 1);
    worked_off(&store).await;
    assert_sound(&store);
    assert_eq!(store.counts().unwrap(), Counts::default());
    store.close().await.unwrap();
    assert_eq!(rows_but_statistics(&site), 3, "META alone is left");
}

#[tokio::test]
async fn a_list_with_a_job_that_cannot_be_read_is_removed_at_once() {
    let site = Site::new();
    let store = site.open();
    let id = list(&site, &store, 300).await;
    write(&store, RECIPIENTS.key(JobId { queue_id: id, number: 100 })).await;
    assert_eq!(store.remove(vec![id]).await.unwrap(), 1);
    worked_off(&store).await;
    assert_sound(&store);
    store.close().await.unwrap();
    assert_eq!(rows_but_statistics(&site), 3, "META alone is left");
}

/// The rows of STAGED of a list are written before it is accepted, so they can be damaged before it unfolds.
#[tokio::test]
async fn staged_recipients_that_cannot_be_read_stay_and_the_others_go() {
    let site = Site::new();
    let store = site.open();
    let mut intake = store.intake().unwrap();
    let id = intake.queue_id();
    intake.write(&bytes(1, 500)).await.unwrap();
    for n in 0..2100 {
        let (destination, recipient) = to(&format!("r{n}@d{}.example", n % 300));
        intake.recipient(destination, recipient).await.unwrap();
    }
    flush(&store).await;
    let (start, end) = STAGED.under(id);
    let keys = store.core().writer.snapshot().unwrap().keys(&start..&end, 9999, false).unwrap();
    for key in [&keys[0], &keys[40], &keys[keys.len() - 1]] {
        write(&store, key.clone()).await;
    }
    intake.accept(envelope("joe@a.example", 500, site.now()), None).await.unwrap();
    let staged =
        || store.core().writer.snapshot().unwrap().keys(&start..&end, 9999, false).unwrap();
    while staged().len() > 3 {
        flush(&store).await;
    }
    assert_eq!(other_trouble(&store), [""; 0]);
    assert_eq!(ready(&store, site.now()), 300, "all that can be read");
    for number in 0..300 {
        let Some(job) = store.job(JobId { queue_id: id, number }).unwrap() else { continue };
        assert!(!store.settle(&job, all_delivered(site.now())).await.unwrap().finished);
    }
    flush(&store).await;
    assert_eq!(staged().len(), 3);
    // The same after a start, which tries them once more.
    store.close().await.unwrap();
    let store = site.open();
    flush(&store).await;
    assert_eq!(other_trouble(&store), [""; 0]);
    assert_eq!(store.list(None, 9).unwrap().len(), 1);
    store.remove(vec![id]).await.unwrap();
    worked_off(&store).await;
    assert_sound(&store);
}

#[tokio::test]
async fn attempts_elsewhere_that_cannot_be_read_count_for_nothing() {
    let site = Site::new();
    let store = site.open();
    // Its row is there before the list unfolds.
    let next = store.intake().unwrap().queue_id();
    for n in 1..200 {
        write(&store, PROGRESS.key(next.plus(n))).await;
    }
    let many = (0..400).map(|n| format!("r{n}@d{}.example", n % 30));
    let id = accept(&site, &store, many, 500, None).await.unwrap().id;
    worked_off(&store).await;
    let key = PROGRESS.key(id);
    assert!(store.core().writer.snapshot().unwrap().get(&key).unwrap().is_none());
    assert_eq!(store.jobs(id, None, 99).unwrap().len(), 30);
}

/// Of every table that readers walk: a key that is none is passed over, wherever it stands, and the store opens.
#[tokio::test]
async fn keys_that_are_none_hide_nothing() {
    let site = Site::new();
    let store = site.open();
    let mut ids = Vec::new();
    for n in 0..6 {
        let held = (n % 2 == 0).then_some("wait");
        let two = [format!("a@d{n}.example"), "a@b.example".into()];
        ids.push(accept(&site, &store, two, 500, held).await.unwrap().id);
        ids.push(accept(&site, &store, [format!("b@i{n}.example")], 50, None).await.unwrap().id);
    }
    ids.sort();
    let (destination, now) = (to("a@b.example").0, site.now());
    let look = |store: &Store| {
        let mut listed = Vec::new();
        while let Some(last) = store.list(listed.last().copied(), 2).unwrap().last() {
            listed.push(last.id);
        }
        let held = store.held(None, 1).unwrap();
        let behind = store.held(held.last().copied(), 99).unwrap();
        (
            listed.len(),
            held.len() + behind.len(),
            store.agenda(now, Far::Due, 99).unwrap().0.len(),
            store.ready(&destination, now, Far::Due, None, 2).unwrap().0.len(),
            store.overdue(&destination, TimeoutClass::Normal, false, now, None, 2).unwrap().len(),
            store.newest().unwrap(),
            store.incoming(None, 1).unwrap().len(),
        )
    };
    let before = look(&store);
    assert_eq!(before, (6, 3, 4, 2, 2, ids.last().copied(), 1));
    let stray = |(start, _): (Vec<u8>, Vec<u8>), end: &[u8]| [&start[..], end].concat();
    for end in [&[0u8][..], &[0xff, 0xff]] {
        for range in [
            INCOMING.all(),
            MESSAGE.all(),
            HELD.all(),
            AGENDA.all(),
            UNREPORTED.all(),
            LISTS.all(),
            STAGED.all(),
            INFLIGHT.all(),
            DEST.all(),
            BODYGEN.all(),
            READY.under(&destination),
            DEADLINE.under((&destination, TimeoutClass::Normal, false)),
        ] {
            write(&store, stray(range, end)).await;
        }
    }
    assert_eq!(look(&store), before);
    assert!(store.unreported(None, 9).unwrap().0.is_empty());
    store.close().await.unwrap();
    let store = site.open();
    assert_eq!(look(&store), before);
    let broken = store.check().unwrap();
    assert!(broken.len() >= 20 && broken.iter().all(|b| b.invariant == "I10"), "{broken:?}");
}

/// The last job of a message is settled although its body cannot be read now: what a peer said is durable, the report follows.
#[tokio::test]
async fn an_outcome_does_not_wait_for_the_report_on_it() {
    let site = Site::new();
    let store = site.open();
    let two = ["a@b.example".into(), "a@c.example".into()];
    let told = accept(&site, &store, two, 500, None).await.unwrap();
    let now = site.now();
    let owed = || -> Decide {
        Box::new(move |state| {
            Ok(Verdict { recipients: open(state, failed(now, false)), ..verdict() })
        })
    };
    for job in &told.jobs {
        assert!(!store.settle(job, owed()).await.unwrap().finished);
    }
    flush(&store).await;
    assert_sound(&store);
    crash(&site, store, false).await;
    let store = site.open();
    assert_sound(&store);
    assert_eq!(store.agenda(Timestamp::MAX, Far::Due, 9).unwrap().0, [], "nobody is tried again");
    assert_eq!(store.unreported(None, 9).unwrap().0, [(told.id, now)]);
    let first = told.jobs[0].id;
    assert!(store.job(first).unwrap().is_none());
    let job = store.job_or_owed(first).unwrap().expect("is there");
    let report_all: Decide = Box::new(move |state| {
        assert!(!state.others_open);
        let own = (0..state.job.recipients.len() as u32).map(|n| (n, failed(now, true)));
        let reported = state.unreported.iter().map(|(job, place, _)| (*job, *place)).collect();
        let reports = vec![(report(2), Ok(to("joe@a.example").0))];
        Ok(Verdict { recipients: own.collect(), reported, reports, counted: false, ..verdict() })
    });
    let settled = store.settle(&job, report_all).await.unwrap();
    assert!(settled.finished && settled.accepted.len() == 1);
    flush(&store).await;
    assert_sound(&store);
    assert_eq!(store.list(None, 9).unwrap().len(), 1, "the report");
}

/// A job that waits for company is not waited for by whoever commits something himself.
#[tokio::test]
async fn an_operator_waits_for_no_lazy_commit() {
    let site = Site::new();
    let store = site.open();
    let mut ids = Vec::new();
    for n in 0..8 {
        ids.push(accept(&site, &store, [format!("a@d{n}.example")], 50, None).await.unwrap().id);
    }
    let (begun, before) = (std::time::Instant::now(), site.disk.commits());
    for id in &ids {
        assert_eq!(store.hold(vec![*id], "wait".into()).await.unwrap(), 1);
    }
    assert_eq!(site.disk.commits() - before, 8, "one for each, with what it builds on");
    assert!(begun.elapsed() < 8 * Store::LAZY_MAX, "{:?}", begun.elapsed());
    assert_eq!(store.held(None, 99).unwrap(), ids);
    assert_sound(&store);
}
