//! Bodies that are left alone in a large file move to the current one: whatever is cut or changed meanwhile, each stays whole.

use std::collections::BTreeSet;

use super::super::evacuate::Pace;
use super::*;

/// A slice is one or two bodies, and nobody waits.
const STEPS: Pace = Pace { rows: 7, messages: 2, octets: 20_000, pause: Duration::ZERO };
/// Octets of each body.
const SIZE: usize = 8_000;

/// A store whose first generation is full, with messages in it of which few are left: two of one job, and a long list.
async fn sparse(site: &Site) -> (Store, Vec<QueueId>) {
    let store = site.open();
    let mut left = Vec::new();
    let list = (0..450).map(|n| format!("r{n}@l{}.example", n % 3));
    left.push(accept(site, &store, list, SIZE, None).await.unwrap().id);
    let mut n = 0;
    while store.core().bodies.usage().len() == 1 {
        let two = ["a@b.example".into(), "a@c.example".into()];
        let told = accept(site, &store, two, SIZE, None).await.unwrap();
        n += 1;
        for job in &told.jobs[usize::from(n % 20 == 7)..] {
            store.settle(job, all_delivered(site.now())).await.unwrap();
        }
        if n % 20 == 7 {
            left.push(told.id);
        }
    }
    flush(&store).await;
    while site.disk.synced().keys().any(|key| key[0] == schema::LISTS.prefix) {
        flush(&store).await;
    }
    assert!(left.len() > 2 && n > 40, "{n} messages filled it");
    (store, left)
}

fn generation_of(store: &Store, id: QueueId) -> u32 {
    let snapshot = store.core().writer.snapshot().unwrap();
    let message: Option<(message::Message, _)> =
        edit::load(&*snapshot, &schema::MESSAGE, id).unwrap();
    message.expect("is there").0.body.generation
}

async fn assert_whole(store: &Store, left: &[QueueId]) {
    assert_sound(store);
    for id in left {
        let body = BodyRef::Generation { generation: generation_of(store, *id), key: *id };
        assert_eq!(body_of(store, &body).await, bytes(id.as_u64(), SIZE), "{id}");
    }
}

/// Waits until the keeper has removed the file.
async fn gone(site: &Site, store: &Store, generation: u32) {
    let path = site.directory.path().join(format!("body-{generation}.redb"));
    while path.exists() {
        flush(store).await;
    }
}

#[tokio::test]
async fn a_sparse_generation_gives_its_last_bodies_away_and_goes() {
    let site = Site::new();
    let (store, left) = sparse(&site).await;
    let stale: Vec<BodyRef> =
        left.iter().map(|id| BodyRef::Generation { generation: 1, key: *id }).collect();
    assert_eq!(generation_of(&store, left[1]), 1);
    let mut tried = BTreeSet::new();
    store.core().evacuate(&mut tried, STEPS).await.unwrap();
    assert!(tried.is_empty());
    gone(&site, &store, 1).await;
    assert_whole(&store, &left).await;
    for (body, id) in stale.iter().zip(&left) {
        assert_eq!(body_of(&store, body).await, bytes(id.as_u64(), SIZE), "read by the old place");
    }
    // A failure of one needs its original for the report.
    let job = store.job(JobId { queue_id: left[1], number: 0 }).unwrap().expect("is open");
    store.settle(&job, all_failed(site.now())).await.unwrap();
    flush(&store).await;
    assert_sound(&store);
    store.core().evacuate(&mut tried, STEPS).await.unwrap();
    store.close().await.unwrap();
    let store = site.open();
    assert_whole(&store, &left[2..]).await;
}

#[tokio::test]
async fn a_generation_that_is_well_used_stays() {
    let site = Site::new();
    let store = site.open();
    while store.core().bodies.usage().len() == 1 {
        let two = ["a@b.example".into(), "a@c.example".into()];
        accept(&site, &store, two, SIZE, None).await.unwrap();
    }
    store.core().evacuate(&mut BTreeSet::new(), STEPS).await.unwrap();
    assert_eq!(store.core().bodies.usage().len(), 2);
    assert_sound(&store);
}

#[tokio::test]
async fn a_body_that_cannot_be_read_stays_where_it_is() {
    let site = Site::new();
    let (store, left) = sparse(&site).await;
    // The message names a body that is not there.
    let lost = left[1];
    let snapshot = store.core().writer.snapshot().unwrap();
    let (mut message, _): (message::Message, _) =
        edit::load(&*snapshot, &schema::MESSAGE, lost).unwrap().unwrap();
    message.body.key = Some(QueueId::from_u64(7));
    let mut edit = edit::Edit::on(&*snapshot);
    edit.put(&schema::MESSAGE, lost, &message);
    let batch = edit.finish().unwrap();
    store.core().writer.submit(writer::Class::Acknowledged, batch).await.unwrap();
    let mut tried = BTreeSet::new();
    store.core().evacuate(&mut tried, STEPS).await.unwrap();
    assert_eq!((generation_of(&store, lost), tried.len()), (1, 1));
    store.core().evacuate(&mut tried, STEPS).await.unwrap();
    let others: Vec<QueueId> = left.into_iter().filter(|id| *id != lost).collect();
    assert_whole(&store, &others).await;
    assert!(others.iter().all(|id| generation_of(&store, *id) > 1));
    assert!(site.directory.path().join("body-1.redb").exists());
}

#[tokio::test]
async fn a_kill_at_any_commit_of_it_loses_no_body() {
    for applied in [false, true] {
        let mut nth = 1;
        loop {
            let site = Site::new();
            let (store, left) = sparse(&site).await;
            let commit = site.disk.commits() + nth;
            site.disk.fail_commit(commit, Fault::Io { applied });
            site.disk.fail_reopen(true);
            let done = store.core().evacuate(&mut BTreeSet::new(), STEPS).await;
            let over = done.is_ok();
            assert!(!over || nth > 2, "some slices");
            store.inner.keeper.stop().await;
            store.core().bodies.close().await.unwrap();
            drop(store);
            site.disk.fail_reopen(false);
            site.disk.cut_power();
            let store = site.open();
            assert_whole(&store, &left).await;
            // What was interrupted is done by the next process.
            store.core().evacuate(&mut BTreeSet::new(), STEPS).await.unwrap();
            gone(&site, &store, 1).await;
            assert_whole(&store, &left).await;
            if over {
                break;
            }
            nth += 1;
        }
    }
}

#[tokio::test]
async fn it_can_be_dropped_anywhere() {
    for polls in 1..40 {
        let site = Site::new();
        let (store, left) = sparse(&site).await;
        {
            let mut tried = BTreeSet::new();
            let core = Arc::clone(store.core());
            let mut pass = Box::pin(core.evacuate(&mut tried, STEPS));
            for _ in 0..polls {
                let done = std::future::poll_fn(|context| {
                    std::task::Poll::Ready(pass.as_mut().poll(context).is_ready())
                });
                if done.await {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        assert_whole(&store, &left).await;
        store.close().await.unwrap();
        let store = site.open();
        assert_whole(&store, &left).await;
    }
}
