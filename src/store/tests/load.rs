//! Messages of other spools: with their state, once, through crashes; and copies of a store.

use super::*;
use crate::mail::loading::{Attempts, Loaded, Loading};
use crate::store::backup::{Copy, restore};

async fn unfolded(store: &Store) {
    loop {
        let snapshot = store.core().writer.snapshot().unwrap();
        let (start, end) = schema::LISTS.all();
        if snapshot.keys(&start..&end, 1, false).unwrap().is_empty() {
            return;
        }
        drop(snapshot);
        flush(store).await;
    }
}

async fn load(
    site: &Site,
    store: &Store,
    origin: &str,
    recipients: impl IntoIterator<Item = String>,
    size: usize,
    held: Option<&str>,
) -> Result<Loaded<QueueId>, StoreError> {
    let mut intake = store.intake()?;
    for piece in bytes(intake.queue_id().as_u64(), size).chunks(10_000) {
        intake.write(piece).await?;
    }
    for text in recipients {
        let (destination, mut recipient) = to(&text);
        recipient.state = RecipientState::Open(Some(said(site.now(), (4, 2, 0))));
        intake.recipient(destination, recipient).await?;
    }
    let day = Duration::from_secs(86_400);
    let attempts = Attempts {
        count: 7,
        last: Some(site.now().before(Duration::from_secs(600))),
        status: Some("Deferred: later".into()),
    };
    let envelope = envelope("joe@a.example", size as u64, site.now().before(day));
    let loading = Loading { envelope, attempts, warned: true, held: held.map(str::to_owned) };
    intake.load(loading, origin).await
}

fn one(to: &str) -> [String; 1] {
    [to.to_owned()]
}

fn id_of(loaded: Loaded<QueueId>) -> QueueId {
    match loaded {
        Loaded::Now(id) => id,
        Loaded::Before(id) => panic!("{id} was loaded before"),
    }
}

#[tokio::test]
async fn a_message_keeps_its_state_and_is_loaded_once() {
    let site = Site::new();
    let store = site.open();
    let two = ["x@b.example".to_owned(), "y@c.example".to_owned()];
    let id = id_of(load(&site, &store, "spool 1", two.clone(), 500, None).await.unwrap());
    assert_sound(&store);
    let entry = store.entry(id).unwrap().unwrap();
    assert!(entry.warned && entry.envelope.arrival < site.now());
    for job in &entry.jobs {
        assert_eq!((job.attempts, job.status.as_deref()), (7, Some("Deferred: later")));
        assert!(job.last_attempt.is_some() && job.due == site.now());
        assert!(matches!(&job.recipients[0].state, RecipientState::Open(Some(_))));
    }
    let again = load(&site, &store, "spool 1", two.clone(), 500, None).await.unwrap();
    assert_eq!(again, Loaded::Before(id));
    assert_eq!((store.counts().unwrap().messages, store.loaded("spool 1").unwrap()), (1, Some(id)));

    // Delivered or not, and over a crash: it is known.
    for job in &entry.jobs {
        let job_id = JobId { queue_id: id, number: job.number };
        let _claim = store.claim(job_id).unwrap();
        let job = store.job(job_id).unwrap().unwrap();
        store.settle(&job, all_delivered(site.now())).await.unwrap();
    }
    flush(&store).await;
    assert_eq!(store.counts().unwrap().messages, 0);
    crash(&site, store, true).await;
    let store = site.open();
    assert_eq!(load(&site, &store, "spool 1", two, 500, None).await.unwrap(), Loaded::Before(id));
    let other = load(&site, &store, "spool 2", one("x@b.example"), 500, Some("spam")).await;
    let held = store.entry(id_of(other.unwrap())).unwrap().unwrap();
    assert_eq!(held.held.as_deref(), Some("spam"));
    assert_sound(&store);
}

#[tokio::test]
async fn what_its_destination_met_before_is_not_counted() {
    let site = Site::new();
    let store = site.open();
    let first = id_of(load(&site, &store, "1", one("x@b.example"), 500, None).await.unwrap());
    let destination = store.entry(first).unwrap().unwrap().jobs[0].destination.clone();
    let failed = |failures| {
        let not_before = site.now().after(Duration::from_secs(900));
        let last = Some(*said(site.now(), (4, 4, 1)));
        DestinationState { not_before, failures, last }
    };
    store.set_destination(&destination, failed(1)).await.unwrap();
    site.pass(Duration::from_secs(300));
    let second = id_of(load(&site, &store, "2", one("y@b.example"), 500, None).await.unwrap());
    let attempts = |id| store.entry(id).unwrap().unwrap().jobs[0].attempts;
    // What it met elsewhere is 600 s old, older than that failure.
    assert_eq!((attempts(first), attempts(second)), (8, 7));
    site.pass(Duration::from_secs(600));
    store.set_destination(&destination, failed(2)).await.unwrap();
    flush(&store).await;
    assert_eq!((attempts(first), attempts(second)), (9, 8));
}

#[tokio::test]
async fn a_commit_that_fails_loads_nothing_and_is_not_remembered() {
    for applied in [false, true] {
        let site = Site::new();
        let store = site.open();
        flush(&store).await;
        site.disk.fail_commit(site.disk.commits() + 1, Fault::Io { applied });
        site.disk.fail_reopen(true);
        let lost = load(&site, &store, "spool 1", one("x@b.example"), 500, None).await;
        assert!(lost.is_err(), "nobody knows");
        store.inner.keeper.stop().await;
        store.core().bodies.close().await.unwrap();
        site.disk.fail_reopen(false);
        site.disk.cut_power();
        let store = site.open();
        let again = load(&site, &store, "spool 1", one("x@b.example"), 500, None).await.unwrap();
        assert_eq!(matches!(again, Loaded::Before(_)), applied, "a commit may have come through");
        assert_eq!(store.counts().unwrap().messages, 1, "once, whatever was applied");
        assert_sound(&store);
    }
}

#[tokio::test]
async fn a_long_list_gives_its_attempts_to_every_job() {
    let site = Site::new();
    let store = site.open();
    let many = (0..3_000).map(|n| format!("r{n}@d{}.example", n % 700));
    let id = id_of(load(&site, &store, "list", many, 200_000, None).await.unwrap());
    unfolded(&store).await;
    assert_sound(&store);
    let (mut after, mut recipients) = (None, 0);
    loop {
        let page = store.jobs(id, after, 100).unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.number);
        for job in &page {
            assert_eq!((job.attempts, job.status.as_deref()), (7, Some("Deferred: later")));
            recipients += job.recipients.len();
        }
    }
    assert_eq!(recipients, 3_000);
    let snapshot = store.core().writer.snapshot().unwrap();
    let (start, end) = schema::PROGRESS.all();
    assert!(snapshot.keys(&start..&end, 1, false).unwrap().is_empty());
}

#[tokio::test]
async fn origins_are_forgotten_in_the_end() {
    let site = Site::new();
    let store = site.open();
    for n in 0..20 {
        load(&site, &store, &format!("old {n}"), one("x@b.example"), 200, None).await.unwrap();
    }
    site.pass(super::super::load::REMEMBERED + Duration::from_secs(1));
    for n in 0..5 {
        load(&site, &store, &format!("new {n}"), one("x@b.example"), 200, None).await.unwrap();
    }
    let known = |name: String| store.loaded(&name).unwrap().is_some();
    assert_eq!((0..20).filter(|n| known(format!("old {n}"))).count(), 0);
    assert_eq!((0..5).filter(|n| known(format!("new {n}"))).count(), 5);
    assert_sound(&store);
}

/// Copies as kvmta-dump does, with `meanwhile` between the snapshot and the bodies.
async fn copy(store: &Store, directory: &std::path::Path, meanwhile: impl AsyncFnOnce()) {
    let (mut rows, kept) = store.backup().unwrap();
    meanwhile().await;
    let mut copy = Copy::create(directory).unwrap();
    loop {
        let slice = rows.next().unwrap();
        if slice.is_empty() {
            break;
        }
        copy.rows(slice).unwrap();
    }
    let mut after = None;
    loop {
        let named = copy.named(after, 3).unwrap();
        let Some(last) = named.last() else { break };
        after = Some(last.id);
        for named in named {
            let mut offset = 0;
            while offset < named.size {
                let bytes = store.read_body(&named.body, offset).await.unwrap();
                copy.body(&named.body, offset, &bytes).unwrap();
                offset += bytes.len() as u64;
            }
        }
    }
    copy.finish().unwrap();
    drop(kept);
}

#[tokio::test]
async fn a_copy_is_the_store_of_its_instant_whatever_happens_meanwhile() {
    let site = Site::new();
    let store = site.open();
    let mut sent = Vec::new();
    for n in 0..40 {
        let size = [300, 9_000, 120_000][n % 3];
        let to = (0..=n % 2).map(|d| format!("x@d{d}.example"));
        sent.push((accept(&site, &store, to, size, None).await.unwrap().id, size));
    }
    let many = (0..500).map(|n| format!("r{n}@d{}.example", n % 9));
    sent.push((accept(&site, &store, many, 5_000, Some("wait")).await.unwrap().id, 5_000));
    unfolded(&store).await;

    let place = tempfile::tempdir().unwrap();
    let backup = place.path().join("backup");
    copy(&store, &backup, async || {
        // Everything leaves the store, and new mail comes.
        for (id, _) in &sent {
            store.remove(vec![*id]).await.unwrap();
        }
        for _ in 0..20 {
            accept(&site, &store, one("new@b.example"), 90_000, None).await.unwrap();
        }
        flush(&store).await;
    })
    .await;
    assert!(Copy::create(&backup).is_err(), "never over another one");

    let target = place.path().join("queue");
    let octets = restore(&backup, &target, &mut |_| {}).unwrap();
    assert!(octets > 40 * 120_000 / 3);
    assert!(restore(&backup, &target, &mut |_| {}).is_err(), "only into an empty directory");
    let options = StoreOptions { directory: target, ..store.core().options.clone() };
    let restored = Store::open(options, false).unwrap();
    assert_sound(&restored);
    assert!(restored.interrupted().is_none(), "it stopped cleanly");
    let listed: Vec<_> = restored.list(None, 100).unwrap();
    assert_eq!(listed.len(), sent.len());
    for (entry, (id, size)) in listed.iter().zip(&sent) {
        assert_eq!(entry.id, *id);
        assert_eq!(body_of(&restored, &entry.body).await, bytes(id.as_u64(), *size));
    }
    let new = accept(&site, &restored, one("x@b.example"), 300, None).await.unwrap();
    assert!(new.id > sent.last().unwrap().0, "its names go on");
    restored.close().await.unwrap();
}

#[tokio::test]
async fn a_copy_that_was_not_finished_is_no_store() {
    let site = Site::new();
    let store = site.open();
    accept(&site, &store, one("x@b.example"), 300, None).await.unwrap();
    let place = tempfile::tempdir().unwrap();
    let backup = place.path().join("backup");
    let mut copy = Copy::create(&backup).unwrap();
    let (mut rows, _kept) = store.backup().unwrap();
    copy.rows(rows.next().unwrap()).unwrap();
    assert_eq!(copy.named(None, 10).unwrap(), []);
    drop(copy);
    let restored = restore(&backup, &place.path().join("queue"), &mut |_| {});
    assert!(matches!(restored, Err(StoreError::Missing(_))));
    assert!(!place.path().join("queue").exists());
}
