//! Kills and full disks, at every commit of a life: what was answered is so, and nothing is half there.

use super::*;

#[tokio::test]
async fn what_was_staged_before_a_crash_is_swept() {
    let site = Site::new();
    let store = site.open();
    let mut intake = store.intake().unwrap();
    for n in 0..3000 {
        let (destination, recipient) = to(&format!("r{n}@d{n}.example"));
        intake.recipient(destination, recipient).await.unwrap();
    }
    flush(&store).await;
    let kept = accept(&site, &store, ["a@b.example".into(), "a@c.example".into()], 9, None).await;
    crash(&site, store.clone(), false).await;
    drop((intake, store));
    assert!(site.disk.synced().len() > 2000);
    let store = site.open();
    while site.disk.synced().keys().any(|key| key[0] == schema::STAGED.prefix) {
        flush(&store).await;
    }
    assert_sound(&store);
    assert_eq!(store.list(None, 10).unwrap()[0].id, kept.unwrap().id);
}

/// A life of one message of each kind; gives up at the first error.
async fn life(site: &Site, store: &Store, story: &mut Story) -> Result<(), StoreError> {
    let small = accept(site, store, ["a@b.example".into()], 500, None).await?;
    story.accepted.push(small.id);
    let two = ["a@c.example".into(), "a@d.example".into()];
    let two = accept(site, store, two, 500, None).await?;
    story.accepted.push(two.id);
    let long = (0..450).map(|n| format!("r{n}@l{}.example", n % 3));
    let long = accept(site, store, long, 500, None).await?;
    story.accepted.push(long.id);
    let due = site.now();
    story.settling = Some(small.id);
    store.settle(&small.jobs[0], deferred(due)).await?;
    flush_or(store).await?;
    story.settling = None;
    for job in &two.jobs {
        story.settling = Some(two.id);
        let settled = store.settle(job, all_failed(due)).await?;
        story.reports.extend(settled.accepted.iter().map(|report| report.id));
        if settled.finished {
            flush_or(store).await?;
            story.accepted.retain(|id| *id != two.id);
        }
    }
    story.settling = None;
    store.hold(vec![long.id], "wait".into()).await?;
    store.release(vec![long.id]).await?;
    if let Some(job) = store.job(small.jobs[0].id)? {
        story.settling = Some(small.id);
        store.checkpoint(job.id, vec![(0, delivered(due))]).await?;
        store.settle(&job, all_delivered(due)).await?;
        flush_or(store).await?;
        story.accepted.retain(|id| *id != small.id);
        story.settling = None;
    }
    Ok(())
}

async fn flush_or(store: &Store) -> Result<(), StoreError> {
    let nothing = super::engine::Batch::default();
    store.core().writer.submit(super::writer::Class::Acknowledged, nothing).await.map(drop)
}

/// What the outside was told.
#[derive(Default)]
struct Story {
    /// Accepted and not known to be finished.
    accepted: Vec<QueueId>,
    reports: Vec<QueueId>,
    /// A settle of it was asked for and not known to be durable.
    settling: Option<QueueId>,
}

/// Everything that was accepted and is not finished is there, or was being settled; nothing is there twice.
fn assert_told(site: &Site, story: &Story, what: &str) {
    let store = site.open();
    assert_eq!(store.check().unwrap(), [], "{what}");
    let there: Vec<QueueId> =
        store.list(None, 100).unwrap().into_iter().map(|entry| entry.id).collect();
    for id in story.accepted.iter().chain(&story.reports) {
        assert!(there.contains(id) || story.settling == Some(*id), "{what}: {id} is lost");
    }
}

#[tokio::test]
async fn a_kill_at_any_commit_loses_nothing_that_was_answered() {
    kill_at_any_commit(Site::new).await;
}

/// The same while the file is copied, from the first group on, and exchanged.
#[tokio::test]
async fn nor_while_the_file_is_compacted() {
    let site = || {
        let site = Site::compacting();
        site.disk.bloat(1 << 20);
        site
    };
    kill_at_any_commit(site).await;
}

async fn kill_at_any_commit(site: impl Fn() -> Site) {
    for applied in [false, true] {
        let mut nth = 1;
        loop {
            let site = site();
            let mut story = Story::default();
            let store = site.open();
            flush(&store).await;
            let commit = site.disk.commits() + nth;
            site.disk.fail_commit(commit, Fault::Io { applied });
            site.disk.fail_reopen(true);
            let lived = life(&site, &store, &mut story).await;
            if lived.is_ok() {
                assert!(nth > 8, "the life has some commits");
                let compacts = site.upkeep_every.is_zero();
                assert!(!compacts || site.disk.exchanges() > 0, "it was exchanged");
                break;
            }
            store.inner.keeper.stop().await;
            store.core().bodies.close().await.unwrap();
            drop(store);
            site.disk.fail_reopen(false);
            site.disk.cut_power();
            assert_told(&site, &story, &format!("commit {nth}, applied {applied}"));
            nth += 1;
        }
    }
}

#[tokio::test]
async fn an_error_at_any_commit_is_survived() {
    for fault in
        [Fault::Io { applied: false }, Fault::Io { applied: true }, Fault::Full { applied: true }]
    {
        let mut nth = 1;
        loop {
            let site = Site::new();
            let mut story = Story::default();
            let store = site.open();
            flush(&store).await;
            let commit = site.disk.commits() + nth;
            site.disk.fail_commit(commit, fault);
            let lived = life(&site, &store, &mut story).await;
            assert!(lived.is_ok(), "commit {commit}, {fault:?}: {:?}", lived.err());
            assert_sound(&store);
            let over = site.disk.commits() < commit;
            store.close().await.unwrap();
            if over {
                break;
            }
            nth += 1;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_waits_for_room_for_its_body() {
    let site = Site::new();
    // No file for bodies can be made.
    let in_the_way = site.directory.path().join("body-1.redb.new");
    std::fs::create_dir(&in_the_way).unwrap();
    let store = site.open();
    let one = accept(&site, &store, ["a@b.example".into(), "c@b.example".into()], 500, None);
    let one = one.await.unwrap();
    let job = one.jobs[0].clone();
    let (now, due) = (site.now(), site.now().after(Duration::from_secs(900)));
    let settle = tokio::spawn({
        let (store, job) = (store.clone(), job.clone());
        async move {
            let decide: Decide = Box::new(move |_| {
                let recipients = vec![(0, delivered(now))];
                Ok(Verdict { recipients, retry_at: Some(due), ..verdict() })
            });
            store.settle(&job, decide).await
        }
    });
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(!settle.is_finished() && store.claim(job.id).is_none(), "nobody else attempts it");
    std::fs::remove_dir(&in_the_way).unwrap();
    settle.await.unwrap().unwrap();
    flush(&store).await;
    assert_sound(&store);
    let left = store.job(job.id).unwrap().unwrap().recipients;
    assert_eq!(left.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1], "one was delivered");
}

/// A life on redb, and the power goes at any operation of its disk: of commits, of the copy of the file, of the exchange.
#[tokio::test]
async fn a_power_cut_at_any_operation_loses_nothing_that_was_answered() {
    let whole = Site::simulated(1);
    let store = whole.open();
    flush(&store).await;
    let operations = || whole.simulated.as_ref().unwrap().lock().unwrap().file().operations();
    let first = operations();
    life(&whole, &store, &mut Story::default()).await.unwrap();
    store.close().await.unwrap();
    let last = operations() - first;
    assert!(last > 100, "{last} operations");
    // What runs beside it differs from life to life, so any step finds other places.
    for nth in (1..last).step_by(1 + last as usize / 60) {
        let site = Site::simulated(nth);
        let mut story = Story::default();
        let store = site.open();
        flush(&store).await;
        let file = site.simulated.as_ref().unwrap().lock().unwrap().file();
        let at = file.operations() + nth;
        file.plan(Some(Plan { at, fault: DiskFault::Power, lasting: true }));
        let lived = life(&site, &store, &mut story).await;
        store.inner.keeper.stop().await;
        store.core().bodies.close().await.unwrap();
        drop((store, lived));
        let mut place = site.simulated.as_ref().unwrap().lock().unwrap();
        let left = place.cut(nth);
        *place = left;
        drop(place);
        assert_told(&site, &story, &format!("operation {nth}"));
    }
}
