//! What an unclean stop interrupted is known at the next start, and nothing else is.

use super::*;

/// Too large for INCOMING.
const LARGE: usize = 100_000;

async fn accepted(site: &Site, store: &Store, size: usize) -> (Job, Claim) {
    let one = ["ann@b.example".to_owned()];
    let accepted = accept(site, store, one, size, None).await.expect("accepted");
    let job = accepted.jobs.into_iter().next().expect("a job");
    let claim = store.claim(job.id).expect("let go of");
    (job, claim)
}

/// The job again, in hand.
fn again(store: &Store, id: JobId) -> (Job, Claim) {
    (store.job(id).unwrap().expect("there"), store.claim(id).expect("free"))
}

/// Ends the process of `store` without its last word, and opens it again. The files of bodies are let go.
async fn stopped(site: &Site, store: Store) -> Store {
    store.inner.keeper.stop().await;
    store.core().bodies.close().await.expect("closed");
    drop(store);
    site.open()
}

fn stops(store: &Store) -> Vec<(JobId, u64)> {
    store.interrupted().expect("an unclean stop").jobs
}

#[tokio::test]
async fn a_clean_close_leaves_no_mark() {
    let site = Site::new();
    let store = site.open();
    assert_eq!(store.interrupted(), None);
    store.forget_interrupted().await.unwrap();
    let (job, claim) = accepted(&site, &store, LARGE).await;
    store.begin(&job).await.unwrap();
    drop(claim);
    store.close().await.unwrap();
    drop(store);
    let store = site.open();
    assert_eq!(store.interrupted(), None);
    assert_sound(&store);
}

#[tokio::test]
async fn an_attempt_under_way_at_an_unclean_stop_is_known_and_a_settled_one_is_not() {
    let site = Site::new();
    let store = site.open();
    store.forget_interrupted().await.unwrap();
    let (waiting, _claim) = accepted(&site, &store, LARGE).await;
    let (begun, _claim) = accepted(&site, &store, LARGE).await;
    let (settled, _claim) = accepted(&site, &store, LARGE).await;
    for job in [&begun, &settled] {
        store.begin(job).await.unwrap();
    }
    let until = site.now().after(Duration::from_secs(900));
    store.settle(&settled, deferred(until)).await.unwrap();
    flush(&store).await;
    assert_sound(&store);
    let store = stopped(&site, store).await;
    let interrupted = store.interrupted().expect("an unclean stop");
    assert_eq!(interrupted.jobs, [(begun.id, 1)]);
    assert!(waiting.id.queue_id < interrupted.before && !interrupted.is_named);
    assert_sound(&store);
    store.forget_interrupted().await.unwrap();
    assert_sound(&store);
    // What was named and not tried since is not named again.
    assert_eq!(stops(&stopped(&site, store).await), []);
}

#[tokio::test]
async fn what_the_log_does_not_name_yet_outlives_a_clean_close() {
    let site = Site::new();
    let store = site.open();
    store.forget_interrupted().await.unwrap();
    let (job, _claim) = accepted(&site, &store, LARGE).await;
    store.begin(&job).await.unwrap();
    let store = stopped(&site, store).await;
    store.close().await.unwrap();
    drop(store);
    assert_eq!(stops(&site.open()), [(job.id, 1)]);
}

#[tokio::test]
async fn a_job_let_go_without_a_settle_is_free_once_its_mark_is_gone() {
    let site = Site::new();
    let store = site.open();
    store.forget_interrupted().await.unwrap();
    let (job, claim) = accepted(&site, &store, LARGE).await;
    store.begin(&job).await.unwrap();
    drop(claim);
    store.core().claims.landed(job.id.queue_id).await;
    let (job, claim) = again(&store, job.id);
    flush(&store).await;
    assert_sound(&store);
    drop(claim);
    assert_eq!(stops(&stopped(&site, store).await), []);
    let _ = job;
}

#[tokio::test]
async fn stops_are_counted_from_incoming_on() {
    let site = Site::new();
    let mut store = site.open();
    store.forget_interrupted().await.unwrap();
    let (job, _claim) = accepted(&site, &store, 4000).await;
    store.begin(&job).await.unwrap();
    store = stopped(&site, store).await;
    // Being in INCOMING is the mark.
    assert_eq!(stops(&store), []);
    for count in 2..5 {
        store.forget_interrupted().await.unwrap();
        let (job, _claim) = again(&store, job.id);
        store.begin(&job).await.unwrap();
        store = stopped(&site, store).await;
        assert_eq!(stops(&store), [(job.id, count)]);
    }
    store.forget_interrupted().await.unwrap();
    let (job, _claim) = again(&store, job.id);
    store.begin(&job).await.unwrap();
    store.settle(&job, deferred(site.now())).await.unwrap();
    flush(&store).await;
    assert_eq!(stops(&stopped(&site, store).await), []);
}

#[tokio::test]
async fn a_message_that_leaves_incoming_in_mid_attempt_takes_its_mark_along() {
    let site = Site::new();
    let store = site.open();
    store.forget_interrupted().await.unwrap();
    let two = ["ann@b.example", "bob@b.example"].map(str::to_owned);
    let accepted = accept(&site, &store, two, 4000, None).await.expect("accepted");
    let job = &accepted.jobs[0];
    let _claim = store.claim(job.id).expect("let go of");
    store.begin(job).await.unwrap();
    store.checkpoint(job.id, vec![(0, delivered(site.now()))]).await.unwrap();
    assert_sound(&store);
    let id = job.id;
    drop(accepted.bytes);
    let store = stopped(&site, store).await;
    assert_eq!(stops(&store), [(id, 1)]);
}

#[tokio::test]
async fn suspects_are_attempted_one_at_a_time() {
    let site = Site::new();
    let mut store = site.open();
    let (a, _claim) = accepted(&site, &store, LARGE).await;
    let (b, _claim) = accepted(&site, &store, LARGE).await;
    for _ in 0..2 {
        store.forget_interrupted().await.unwrap();
        let _begun = (store.begin(&a).await.unwrap(), store.begin(&b).await.unwrap());
        store = stopped(&site, store).await;
    }
    store.forget_interrupted().await.unwrap();
    let (a, _claim) = again(&store, a.id);
    let (b, _claim) = again(&store, b.id);
    let begun = store.begin(&a).await.unwrap();
    let mut second = Box::pin(store.begin(&b));
    let waits = std::future::poll_fn(|context| {
        std::task::Poll::Ready(second.as_mut().poll(context).is_pending())
    });
    assert!(waits.await);
    assert!(!store.core().claims.is_marked(b.id));
    drop(begun);
    second.await.unwrap();
}
