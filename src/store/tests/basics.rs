//! One message at a time, through each operation.

use std::collections::BTreeMap;

use super::*;
use crate::mail::outcome::HostOutcome;

fn strings(recipients: &[&str]) -> Vec<String> {
    recipients.iter().map(|r| (*r).to_owned()).collect()
}

#[tokio::test]
async fn small_mail_goes_through_incoming_and_leaves_nothing() {
    let site = Site::new();
    let store = site.open();
    let accepted =
        accept(&site, &store, strings(&["ann@b.example"]), 4000, None).await.expect("accepted");
    let id = accepted.id;
    let job = &accepted.jobs[0];
    assert_eq!(job.body, BodyRef::Incoming(id));
    assert_eq!(body_of(&store, &job.body).await, bytes(id.as_u64(), 4000));
    assert_eq!(store.counts().unwrap(), Counts { messages: 1, incoming: 1, held: 0, octets: 4000 });
    assert_eq!(store.incoming(None, 10).unwrap().len(), 1);
    assert_sound(&store);

    let again = store.job(job.id).unwrap().expect("there");
    assert_eq!((again.recipients, again.attempts), (job.recipients.clone(), 0));
    let settled = store.settle(job, all_delivered(site.now())).await.unwrap();
    assert!(settled.finished && settled.accepted.is_empty());
    flush(&store).await;
    assert_eq!(store.counts().unwrap(), Counts::default());
    assert!(store.list(None, 10).unwrap().is_empty() && store.job(job.id).unwrap().is_none());
    assert_sound(&store);
    store.close().await.unwrap();
    let left = site.disk.synced().into_keys().filter(|key| key[0] != schema::STAT.prefix);
    let meta = ["counting", "format", "ids"].map(|name| schema::META.key(name));
    assert_eq!(left.collect::<Vec<_>>(), meta);
}

#[tokio::test]
async fn the_first_deferral_moves_it_to_the_schedule() {
    let site = Site::new();
    let store = site.open();
    let accepted = accept(&site, &store, strings(&["ann@b.example"]), 20_000, None).await.unwrap();
    let (id, job) = (accepted.id, &accepted.jobs[0]);
    site.pass(Duration::from_secs(2));
    let due = site.now().after(Duration::from_secs(900));
    let is_found = |found| store.claim_found(job.id, found).unwrap().is_some();
    assert!(is_found(Found::Incoming));
    assert!(!store.settle(job, deferred(due)).await.unwrap().finished);
    flush(&store).await;
    store.core().claims.landed(id).await;
    // Who read it before that does not try it again now.
    assert!(!is_found(Found::Incoming) && is_found(Found::Ready(&job.destination, due)));
    assert!(!is_found(Found::Ready(&job.destination, site.now())));
    assert_sound(&store);
    assert_eq!(
        store.counts().unwrap(),
        Counts { messages: 1, incoming: 0, held: 0, octets: 20_000 }
    );
    // The reference that the delivery holds still leads to the body.
    assert_eq!(body_of(&store, &job.body).await, bytes(id.as_u64(), 20_000));

    let later = store.job(job.id).unwrap().unwrap();
    assert_eq!((later.attempts, later.last_attempt), (1, Some(site.now())));
    assert_eq!(body_of(&store, &later.body).await, bytes(id.as_u64(), 20_000));
    let destination = &job.destination;
    assert_eq!(store.agenda(site.now(), Far::Due, 10).unwrap(), (vec![], Some(due)));
    assert_eq!(
        store.ready(destination, site.now(), Far::Due, None, 10).unwrap(),
        (vec![], Some(due))
    );
    site.pass(Duration::from_secs(900));
    assert_eq!(store.agenda(due, Far::Due, 10).unwrap(), (vec![(due, destination.clone())], None));
    assert_eq!(
        store.ready(destination, due, Far::Due, None, 10).unwrap(),
        (vec![(due, job.id)], None)
    );
    assert_eq!(
        store.ready(destination, due, Far::Due, Some((due, job.id)), 10).unwrap(),
        (vec![], None)
    );
    let entry = store.entry(id).unwrap().unwrap();
    assert_eq!(entry.status(), Some("Deferred: later"));
    let arrival = entry.envelope.arrival;
    let class = TimeoutClass::Normal;
    let overdue = |warned, before, after| {
        store.overdue(destination, class, warned, before, after, 10).unwrap()
    };
    assert_eq!(overdue(false, arrival, None), [(arrival, job.id)]);
    assert!(overdue(false, arrival, Some((arrival, job.id))).is_empty());
    assert!(overdue(true, arrival, None).is_empty());
    assert!(overdue(false, arrival.before(Duration::from_millis(1)), None).is_empty());

    let store = {
        store.close().await.unwrap();
        site.open()
    };
    let settled = store.settle(&later, all_delivered(due)).await.unwrap();
    assert!(settled.finished);
    flush(&store).await;
    assert_sound(&store);
    store.close().await.unwrap();
    assert_eq!(rows_but_statistics(&site), 3, "META alone is left");
}

#[tokio::test]
async fn the_last_one_out_reports_for_all() {
    let site = Site::new();
    let store = site.open();
    let recipients = strings(&["a@b.example", "c@d.example", "e@b.example"]);
    let accepted = accept(&site, &store, recipients, 500, None).await.unwrap();
    assert_eq!(accepted.jobs.len(), 2);
    assert_eq!(accepted.jobs[0].recipients.len(), 2, "one job for each destination");
    assert_sound(&store);
    let settled = store.settle(&accepted.jobs[0], all_failed(site.now())).await.unwrap();
    assert!(settled.accepted.is_empty() && !settled.finished);
    flush(&store).await;
    assert_sound(&store);
    assert!(store.job(accepted.jobs[0].id).unwrap().is_none(), "closed, not finished");

    let settled = store.settle(&accepted.jobs[1], all_failed(site.now())).await.unwrap();
    assert!(settled.finished);
    let report = &settled.accepted[0];
    assert!(report.bytes.as_deref().unwrap().ends_with(b"3 failed\r\n"));
    assert_sound(&store);
    assert!(store.entry(accepted.id).unwrap().is_none());
    let entry = store.entry(report.id).unwrap().unwrap();
    assert!(entry.envelope.is_report() && entry.envelope.timeouts == TimeoutClass::Dsn);
    assert_eq!(entry.envelope.message_id, "<1@here.example>");
    assert_eq!(store.incoming(None, 10).unwrap()[0].id, report.jobs[0].0.id);
}

#[tokio::test]
async fn two_settles_at_once_owe_one_report_between_them() {
    let site = Site::new();
    let store = site.open();
    let recipients = strings(&["a@b.example", "c@d.example"]);
    let accepted = accept(&site, &store, recipients, 500, None).await.unwrap();
    site.disk.hold();
    let first = store.settle(&accepted.jobs[0], all_failed(site.now())).await.unwrap();
    assert!(first.accepted.is_empty(), "it is lazy");
    let second = tokio::spawn({
        let (store, job, now) = (store.clone(), accepted.jobs[1].clone(), site.now());
        async move { store.settle(&job, all_failed(now)).await }
    });
    site.disk.let_go();
    let second = second.await.unwrap().unwrap();
    assert_eq!((second.accepted.len(), second.finished), (1, true));
    assert_sound(&store);
}

#[tokio::test]
async fn operators_hold_release_reschedule_and_remove() {
    let site = Site::new();
    let store = site.open();
    let one = accept(&site, &store, strings(&["a@b.example"]), 500, None).await.unwrap();
    let two = accept(&site, &store, strings(&["a@b.example"]), 500, Some("spam")).await.unwrap();
    assert!(two.jobs.is_empty());
    assert_sound(&store);
    let ids = vec![one.id, two.id, one.id.next().plus(1_000_000)];
    assert_eq!(store.hold(ids.clone(), "later".into()).await.unwrap(), 2);
    assert_sound(&store);
    assert_eq!(store.counts().unwrap(), Counts { messages: 2, incoming: 0, held: 2, octets: 1000 });
    assert_eq!(store.held(None, 10).unwrap(), [one.id, two.id]);
    assert!(store.job(one.jobs[0].id).unwrap().is_none());
    assert!(store.agenda(Timestamp::MAX, Far::Due, 10).unwrap().0.is_empty());

    site.pass(Duration::from_secs(60));
    assert_eq!(store.release(vec![two.id, two.id]).await.unwrap(), 1);
    assert_sound(&store);
    let destination = &one.jobs[0].destination;
    let (ready, _) = store.ready(destination, site.now(), Far::Due, None, 10).unwrap();
    assert_eq!(ready.iter().map(|(_, job)| job.queue_id).collect::<Vec<_>>(), [two.id]);
    let due = site.now().after(Duration::from_secs(77));
    assert_eq!(store.reschedule(ids.clone(), due).await.unwrap(), 2);
    assert_sound(&store);
    assert_eq!(
        store.ready(destination, site.now(), Far::Due, None, 10).unwrap(),
        (vec![], Some(due))
    );
    assert_eq!(store.remove(ids).await.unwrap(), 2);
    assert_sound(&store);
    assert_eq!(store.counts().unwrap(), Counts::default());
}

#[tokio::test]
async fn an_operator_waits_for_what_is_in_flight() {
    let site = Site::new();
    let store = site.open();
    let one = accept(&site, &store, strings(&["a@b.example"]), 500, None).await.unwrap();
    let claim = store.claim(one.jobs[0].id).expect("free");
    assert!(store.entry(one.id).unwrap().unwrap().in_flight);
    let remove = tokio::spawn({
        let (store, id) = (store.clone(), one.id);
        async move { store.remove(vec![id]).await }
    });
    tokio::task::yield_now().await;
    assert!(store.entry(one.id).unwrap().is_some());
    store.settle(&one.jobs[0], all_delivered(site.now())).await.unwrap();
    drop(claim);
    assert_eq!(remove.await.unwrap().unwrap(), 0, "it was delivered first");

    let two = accept(&site, &store, strings(&["a@b.example"]), 500, None).await.unwrap();
    let _claim = store.claim(two.jobs[0].id).expect("free");
    // Nobody lets go: after its patience it removes all the same, and the settle to come finds nothing.
    let remove = operate::Command::Remove;
    let patience = Duration::ZERO;
    assert_eq!(store.core().command(vec![two.id], remove, patience).await.unwrap(), [two.id]);
    assert!(store.settle(&two.jobs[0], deferred(site.now())).await.unwrap().finished);
    flush(&store).await;
    assert_sound(&store);
}

#[tokio::test]
async fn a_checkpoint_is_kept_and_leaves_one_open() {
    let site = Site::new();
    let store = site.open();
    let recipients = strings(&["a@b.example", "c@b.example", "d@b.example"]);
    let accepted = accept(&site, &store, recipients, 500, None).await.unwrap();
    let job = &accepted.jobs[0];
    let now = site.now();
    store.checkpoint(job.id, vec![(0, delivered(now))]).await.unwrap();
    assert_sound(&store);
    let left = store.job(job.id).unwrap().unwrap().recipients;
    assert_eq!(left.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 2]);
    store.checkpoint(job.id, vec![(1, failed(now, false)), (2, delivered(now))]).await.unwrap();
    assert_sound(&store);
    let left = store.job(job.id).unwrap().unwrap().recipients;
    assert_eq!(
        left.iter().map(|(n, _)| *n).collect::<Vec<_>>(),
        [1],
        "the failed one is asked again"
    );
    let settled = store.settle(job, all_failed(now)).await.unwrap();
    assert_eq!((settled.accepted.len(), settled.finished), (1, true));
    assert_sound(&store);
}

#[tokio::test]
async fn large_mail_and_mail_beyond_the_bound_are_scheduled() {
    let site = Site { incoming_size: 1000, ..Site::new() };
    let store = site.open();
    let large = accept(&site, &store, strings(&["a@b.example"]), 300_000, None).await.unwrap();
    assert!(large.bytes.is_none());
    assert_eq!(body_of(&store, &large.jobs[0].body).await, bytes(large.id.as_u64(), 300_000));
    let first = accept(&site, &store, strings(&["a@b.example"]), 600, None).await.unwrap();
    let second = accept(&site, &store, strings(&["a@b.example"]), 600, None).await.unwrap();
    assert_eq!(store.counts().unwrap().incoming, 1);
    assert_eq!(body_of(&store, &second.jobs[0].body).await, bytes(second.id.as_u64(), 600));
    store.settle(&first.jobs[0], all_delivered(site.now())).await.unwrap();
    flush(&store).await;
    let list = store.list(None, 10).unwrap();
    assert_eq!(list.iter().map(|entry| entry.id).collect::<Vec<_>>(), [large.id, second.id]);
    assert_sound(&store);
}

#[tokio::test]
async fn a_destination_that_is_down_moves_one_key() {
    let site = Site::new();
    let store = site.open();
    let first = accept(&site, &store, strings(&["a@b.example"]), 600, None).await.unwrap();
    let destination = first.jobs[0].destination.clone();
    let not_before = site.now().after(Duration::from_secs(300));
    store.settle(&first.jobs[0], deferred(site.now())).await.unwrap();
    let last = Some(*said(site.now(), (4, 4, 1)));
    let down = DestinationState { not_before, failures: 1, last };
    store.set_destination(&destination, down.clone()).await.unwrap();
    let second = accept(&site, &store, strings(&["a@b.example"]), 600, None).await.unwrap();
    assert_eq!(store.counts().unwrap().incoming, 0, "not attempted, so not in INCOMING");
    assert_eq!(store.destination(&destination).unwrap(), Some(down));
    assert_eq!(store.agenda(site.now(), Far::Due, 10).unwrap(), (vec![], Some(not_before)));
    assert_eq!(store.entry(second.id).unwrap().unwrap().status(), Some("Deferred: said so"));
    assert_sound(&store);
    let up = DestinationState { not_before: site.now(), failures: 0, last: None };
    store.set_destination(&destination, up.clone()).await.unwrap();
    flush(&store).await;
    assert_eq!(
        store.agenda(site.now(), Far::Due, 10).unwrap().0,
        [(site.now(), destination.clone())]
    );
    store.remove(vec![first.id, second.id]).await.unwrap();
    assert_eq!(store.destination(&destination).unwrap(), None);
    store.set_destination(&destination, up).await.unwrap();
    flush(&store).await;
    assert_eq!(store.destination(&destination).unwrap(), None, "no row without a job");
    assert_sound(&store);
}

/// Every row of the store.
fn rows(store: &Store) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let snapshot = store.core().writer.snapshot().expect("reads");
    snapshot.range(&[]..&[0xff], usize::MAX, false).expect("reads").into_iter().collect()
}

#[tokio::test]
async fn an_outage_costs_one_key_however_many_wait_behind_it() {
    let site = Site::new();
    let store = site.open();
    let mut destination = None;
    for _ in 0..150 {
        let told = accept(&site, &store, strings(&["a@b.example"]), 600, None).await.unwrap();
        store.settle(&told.jobs[0], deferred(site.now())).await.unwrap();
        destination = Some(told.jobs[0].destination.clone());
    }
    flush(&store).await;
    let destination = destination.expect("one of them");
    let before = rows(&store);
    let not_before = site.now().after(Duration::from_secs(3600));
    let last = Some(*said(site.now(), (4, 4, 1)));
    store
        .set_destination(&destination, DestinationState { not_before, failures: 1, last })
        .await
        .unwrap();
    flush(&store).await;
    let after = rows(&store);
    let gone: Vec<_> = before.keys().filter(|key| !after.contains_key(*key)).collect();
    let come: Vec<_> = after.keys().filter(|key| !before.contains_key(*key)).collect();
    let changed: Vec<_> = after
        .iter()
        .filter(|(key, value)| before.get(*key).is_some_and(|old| old != *value))
        .collect();
    let (agenda, _) = schema::AGENDA.all();
    assert!(gone.len() == 1 && gone[0].starts_with(&agenda), "{gone:?}");
    assert!(come.len() == 1 && come[0].starts_with(&agenda), "{come:?}");
    assert!(changed.len() == 1 && *changed[0].0 == schema::DEST.key(&destination), "{changed:?}");
    assert_sound(&store);
}

/// Whether AGENDA is worth a look since the last call.
async fn is_readied(store: &Store) -> bool {
    tokio::select! {
        biased;
        () = store.readied() => true,
        () = std::future::ready(()) => false,
    }
}

#[tokio::test]
async fn parked_and_rerouted_jobs_are_found_by_the_scheduler() {
    let site = Site::new();
    let store = site.open();
    let mut jobs = Vec::new();
    for n in 0..100 {
        let to = format!("a@b{}.example", n % 2);
        jobs.push(accept(&site, &store, [to], 6000, None).await.unwrap().jobs[0].clone());
    }
    store.park(jobs.iter().map(|job| job.id).collect()).await.unwrap();
    assert_sound(&store);
    let destination = &jobs[0].destination;
    assert_eq!(store.counts().unwrap().incoming, 0);
    assert_eq!(store.ready(destination, site.now(), Far::Due, None, 1000).unwrap().0.len(), 50);
    is_readied(&store).await;
    store.reroute(jobs[1].id, destination.clone()).await.unwrap();
    assert!(is_readied(&store).await, "it is due where nobody expects it");
    let nobody = JobId { queue_id: jobs[1].id.queue_id, number: 7 };
    store.reroute(nobody, destination.clone()).await.unwrap();
    assert!(!is_readied(&store).await);
    assert_sound(&store);
    assert_eq!(store.ready(destination, site.now(), Far::Due, None, 1000).unwrap().0.len(), 51);
    let new = accept(&site, &store, strings(&["a@c.example"]), 600, None).await.unwrap();
    store.reroute(new.jobs[0].id, destination.clone()).await.unwrap();
    assert_eq!(store.job(new.jobs[0].id).unwrap().unwrap().destination, *destination);
    for job in &jobs {
        assert_eq!(body_of(&store, &job.body).await, bytes(job.id.queue_id.as_u64(), 6000));
    }
}

#[tokio::test]
async fn a_list_is_in_order_of_queue_ids_whatever_the_slices() {
    let site = Site::new();
    let store = site.open();
    let mut ids = Vec::new();
    for n in 0..40 {
        let to = if n % 3 == 0 {
            strings(&["a@b.example", "a@c.example"])
        } else {
            strings(&["a@b.example"])
        };
        ids.push(accept(&site, &store, to, 100, None).await.unwrap().id);
    }
    for limit in [1, 3, 7, 40, 100] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let slice = store.list(after, limit).unwrap();
            assert!(slice.len() <= limit);
            let Some(last) = slice.last() else { break };
            after = Some(last.id);
            seen.extend(slice.into_iter().map(|entry| entry.id));
        }
        assert_eq!(seen, ids, "in slices of {limit}");
    }
    let (mut seen, mut after) = (0, None);
    while let Some(last) = store.incoming(after, 3).unwrap().last() {
        after = Some(last.id.queue_id);
        seen += 1;
    }
    assert_eq!(seen, 26usize.div_ceil(3));
}

#[tokio::test]
async fn a_damaged_record_is_set_aside_and_can_be_removed() {
    let site = Site::new();
    let store = site.open();
    let bad =
        accept(&site, &store, strings(&["a@b.example", "a@c.example"]), 100, None).await.unwrap();
    let good =
        accept(&site, &store, strings(&["a@b.example", "a@c.example"]), 100, None).await.unwrap();
    let mut batch = super::engine::Batch::default();
    batch.puts.push((schema::MESSAGE.key(bad.id), vec![77, 1, 2, 3]));
    store.core().writer.submit(super::writer::Class::Acknowledged, batch).await.unwrap();
    assert!(matches!(store.job(bad.jobs[0].id), Err(StoreError::Damaged { .. })));
    let destination = &bad.jobs[0].destination;
    let ready = store.ready(destination, site.now(), Far::Due, None, 10).unwrap().0;
    assert_eq!(ready.iter().map(|(_, job)| job.queue_id).collect::<Vec<_>>(), [good.id]);
    let list = store.list(None, 10).unwrap();
    assert_eq!(list[0].held.as_deref(), Some("damaged record: format 77 is unknown"));
    assert!(list[0].lost);
    assert!(store.check().unwrap().iter().any(|broken| broken.invariant == "I10"));
    assert_eq!(store.remove(vec![bad.id, good.id]).await.unwrap(), 2);
    assert!(store.list(None, 10).unwrap().is_empty());
    assert!(store.agenda(Timestamp::MAX, Far::Due, 10).unwrap().0.is_empty());
    assert_sound(&store);
    assert_eq!(store.counts().unwrap(), Counts::default());
}

#[tokio::test]
async fn a_damaged_record_of_incoming_counts_no_more_once_removed() {
    let site = Site::new();
    let store = site.open();
    let bad = accept(&site, &store, strings(&["a@b.example"]), 9000, None).await.unwrap();
    let held = accept(&site, &store, strings(&["a@b.example"]), 700, None).await.unwrap();
    for id in [bad.id, held.id] {
        assert!(store.set_aside(id, "damaged".into()).await.unwrap());
        assert!(!store.set_aside(id, "damaged".into()).await.unwrap());
    }
    assert_sound(&store);
    assert!(
        store.job(held.jobs[0].id).unwrap().is_none()
            && store.incoming(None, 9).unwrap().is_empty()
    );
    let mut batch = super::engine::Batch::default();
    batch.puts.push((schema::INCOMING.key(bad.id), vec![77, 1, 2, 3]));
    store.core().writer.submit(super::writer::Class::Acknowledged, batch).await.unwrap();
    assert_eq!(store.remove(vec![bad.id]).await.unwrap(), 1);
    assert_sound(&store);
    assert_eq!(store.counts().unwrap(), Counts { messages: 1, incoming: 1, held: 1, octets: 700 });
    assert_eq!(store.core().incoming_octets.load(Ordering::Relaxed), 700);
}

#[tokio::test]
async fn what_is_set_aside_hides_nothing_behind_it() {
    let site = Site::new();
    let store = site.open();
    let mut ids = Vec::new();
    for n in 0..30 {
        let one = accept(&site, &store, vec![format!("u{n}@b.example")], 10, None).await.unwrap();
        ids.push(one.jobs[0].id);
        store.park(vec![one.jobs[0].id]).await.unwrap();
        site.pass(Duration::from_millis(1));
    }
    ids[..25].iter().for_each(|id| store.core().quarantine(*id));
    let destination = to("x@b.example").0;
    let ready = |limit| {
        let (due, _) = store.ready(&destination, site.now(), Far::Due, None, limit).unwrap();
        due.into_iter().map(|(_, job)| job).collect::<Vec<_>>()
    };
    assert_eq!(ready(3), ids[25..28]);
    assert_eq!(ready(100), ids[25..]);
}

#[tokio::test]
async fn failures_that_come_together_are_each_counted() {
    let site = Site::new();
    let store = site.open();
    let one = accept(&site, &store, strings(&["a@b.example"]), 10, None).await.unwrap();
    store.park(vec![one.jobs[0].id]).await.unwrap();
    let destination = &one.jobs[0].destination;
    let next = |before: Option<&DestinationState>| {
        let failures = before.map_or(0, |state| state.failures) + 1;
        let last = Some(*said(Timestamp::from_millis(START), (4, 4, 1)));
        Some(DestinationState { not_before: Timestamp::from_millis(START + 1000), failures, last })
    };
    // All of them are asked for before the first is committed.
    site.disk.hold();
    let all: Vec<_> = (0..5)
        .map(|_| {
            let (store, destination) = (store.clone(), destination.clone());
            tokio::spawn(async move { store.destination_failed(&destination, next).await })
        })
        .collect();
    tokio::task::yield_now().await;
    site.disk.let_go();
    for failed in all {
        failed.await.unwrap().unwrap();
    }
    assert_eq!(store.destination(destination).unwrap().unwrap().failures, 5);
    assert_eq!(
        store.in_trouble(None, 9).unwrap(),
        (vec![destination.clone()], Some(destination.clone()))
    );
    assert_sound(&store);
}

#[tokio::test]
async fn a_damaged_destination_is_asked_once_more() {
    let site = Site::new();
    let store = site.open();
    let two = strings(&["a@b.example", "a@c.example"]);
    let accepted = accept(&site, &store, two, 10, None).await.unwrap();
    let damage = async || {
        let mut batch = super::engine::Batch::default();
        batch.puts.push((schema::DEST.key(&accepted.jobs[0].destination), vec![77, 1, 2, 3]));
        store.core().writer.submit(super::writer::Class::Acknowledged, batch).await.unwrap();
    };
    damage().await;
    assert_eq!(store.destination(&accepted.jobs[0].destination).unwrap(), None);
    assert!(store.advance_agenda(&accepted.jobs[0].destination).await.unwrap());
    flush(&store).await;
    assert_sound(&store);
    // Nor does it keep a settle from being recorded.
    damage().await;
    let due = site.now().after(Duration::from_secs(900));
    store.settle(&accepted.jobs[0], deferred(due)).await.unwrap();
    flush(&store).await;
    assert_sound(&store);
}

#[tokio::test]
async fn queue_ids_rise_whatever_the_clock_does() {
    let site = Site::new();
    let store = site.open();
    let mut last = store.intake().unwrap().queue_id();
    for seconds in [0i64, 0, 5, 60, -3600, 0, 1] {
        let millis = seconds * 1000;
        site.clock.fetch_add(millis as u64, Ordering::Relaxed);
        let accepted = accept(&site, &store, strings(&["a@b.example"]), 10, None).await.unwrap();
        assert!(accepted.id > last);
        last = accepted.id;
    }
    assert_sound(&store);
    crash(&site, store, true).await;
    // The clock is still an hour behind what was given out.
    let store = site.open();
    let next = store.intake().unwrap().queue_id();
    assert!(next > last && next.time().since(last.time()) <= Duration::from_secs(11));
}

#[tokio::test]
async fn moving_an_agenda_key_does_not_overtake_a_state_on_its_way() {
    let site = Site::new();
    let store = site.open();
    let accepted =
        accept(&site, &store, strings(&["ann@b.example"]), 400, None).await.expect("accepted");
    let job = &accepted.jobs[0];
    store.park(vec![job.id]).await.expect("parked");
    let until = site.now().after(Duration::from_secs(900));
    let refused = Report { status: EnhancedStatus::new(4, 4, 1), ..*said(site.now(), (4, 4, 1)) };
    let state = DestinationState { not_before: until, failures: 1, last: Some(refused) };
    // Both are lazy: the second is asked for while the first is not yet committed.
    store.set_destination(&job.destination, state.clone()).await.expect("queued");
    store.advance_agenda(&job.destination).await.expect("queued");
    flush(&store).await;
    assert_eq!(store.destination(&job.destination).expect("read"), Some(state));
    let (_, next) = store.agenda(site.now(), Far::Due, 10).expect("read");
    assert_eq!(next, Some(until));
    let entry = store.entry(job.id.queue_id).expect("read").expect("there");
    assert_eq!(entry.status(), Some("Deferred: said so"));
    assert_sound(&store);
}

#[tokio::test]
async fn expired_host_status_is_forgotten() {
    let site = Site::new();
    let store = site.open();
    let hear = |n: u32| HostOutcome {
        host: format!("mx{n:04}.example"),
        up: n.is_multiple_of(2),
        text: "250 2.0.0 Ok".into(),
        status: EnhancedStatus::new(2, 0, 0),
        at: site.now(),
    };
    // More than one slice of old ones, some of them heard of again.
    for n in 0..700 {
        store.set_host(hear(n)).unwrap();
        if n % 100 == 99 {
            flush(&store).await;
        }
    }
    site.pass(Duration::from_secs(3600));
    (0..700).step_by(100).for_each(|n| store.set_host(hear(n)).unwrap());
    flush(&store).await;
    let before = site.now().before(Duration::from_secs(1800));
    assert_eq!(store.purge_hosts(before).await.unwrap(), 693);
    let left: Vec<String> =
        store.hosts(None, 1000).unwrap().into_iter().map(|host| host.host).collect();
    assert_eq!(left.len(), 7);
    assert_eq!(left[1], "mx0100.example");
    assert_eq!(store.purge_hosts(before).await.unwrap(), 0);
    assert_sound(&store);
}

#[tokio::test]
async fn a_queue_of_another_version_is_not_touched() {
    for format in [schema::FORMAT - 1, schema::FORMAT + 1] {
        let site = Site::new();
        let store = site.open();
        let mut batch = super::super::engine::Batch::default();
        let key = schema::META.key(schema::META_FORMAT);
        batch.puts.push((key, record::Record::encode(&u64::from(format))));
        store.core().writer.submit(writer::Class::Acknowledged, batch).await.unwrap();
        store.close().await.unwrap();
        let commits = site.disk.commits();
        let refused = site.try_open().map(drop);
        assert!(
            matches!(refused, Err(StoreError::OtherFormat { found, .. }) if found == format),
            "{refused:?}"
        );
        assert_eq!(site.disk.commits(), commits);
    }
}
