//! Long lists: staged, accepted in one small batch, unfolded, changed by operators, settled, reported.

use super::*;

/// Waits until the keeper has nothing to do for any list.
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

fn many(recipients: usize, destinations: usize) -> impl Iterator<Item = String> {
    (0..recipients).map(move |n| format!("r{n}@d{}.example", n % destinations))
}

fn all_jobs(store: &Store, id: QueueId) -> Vec<EntryJob> {
    let (mut jobs, mut after): (Vec<EntryJob>, _) = (Vec::new(), None);
    loop {
        let page = store.jobs(id, after, 100).unwrap();
        let Some(last) = page.last() else { return jobs };
        after = Some(last.number);
        jobs.extend(page);
    }
}

#[tokio::test]
async fn a_client_waits_for_no_lazy_commit() {
    let site = Site::new();
    let store = site.open();
    let begun = std::time::Instant::now();
    for recipients in [101, 500, 999, 1000, 1001] {
        accept(&site, &store, many(recipients, 1), 500, None).await.unwrap();
    }
    assert!(begun.elapsed() < 5 * Store::LAZY_MAX, "{:?}", begun.elapsed());
    unfolded(&store).await;
    assert_sound(&store);
}

#[tokio::test]
async fn one_destination_gives_full_jobs() {
    let site = Site::new();
    let store = site.open();
    let accepted = accept(&site, &store, many(2600, 1), 500, None).await.unwrap();
    assert!(accepted.jobs.is_empty(), "they come later");
    assert_eq!(store.entry(accepted.id).unwrap().unwrap().recipients_total, 2600);
    unfolded(&store).await;
    assert_sound(&store);
    let sizes: Vec<_> =
        all_jobs(&store, accepted.id).iter().map(|job| job.recipients.len()).collect();
    assert_eq!(sizes, [1000, 1000, 600]);
}

#[tokio::test]
async fn many_destinations_give_a_job_each_and_end_in_few_reports() {
    let site = Site::new();
    let store = site.open();
    let accepted = accept(&site, &store, many(6000, 2000), 500, None).await.unwrap();
    unfolded(&store).await;
    let jobs = all_jobs(&store, accepted.id);
    assert_eq!(jobs.len(), 2000);
    let mut seen: Vec<String> = jobs
        .iter()
        .flat_map(|job| job.recipients.iter().map(|r| r.address.as_str().to_owned()))
        .collect();
    let mut all: Vec<String> = many(6000, 2000).collect();
    seen.sort();
    all.sort();
    assert_eq!(seen, all);

    let mut reports = Vec::new();
    let mut finished = 0;
    for entry_job in &jobs {
        let id = JobId { queue_id: accepted.id, number: entry_job.number };
        let job = store.job(id).unwrap().expect("open");
        assert_eq!(job.recipients.len(), 3);
        let settled = store.settle(&job, all_failed(site.now())).await.unwrap();
        finished += usize::from(settled.finished);
        reports.extend(settled.accepted);
    }
    flush(&store).await;
    assert_sound(&store);
    assert_eq!(finished, 1);
    let covered = |report: &Accepted| -> usize {
        let text = String::from_utf8(report.bytes.as_deref().unwrap().to_vec()).unwrap();
        let body = text.rsplit("\r\n\r\n").next().unwrap();
        body.split(' ').next().unwrap().parse().unwrap()
    };
    // Those that one report does not cover come first; the last job closes with the rest, so a crash in between leaves it open.
    let covered: Vec<_> = reports.iter().map(covered).collect();
    assert_eq!(covered, [1000, 1000, 1000, 1000, 1000, 1000]);
    assert_eq!(store.counts().unwrap().messages, 6, "the reports");
}

#[tokio::test]
async fn operators_change_lists_at_any_time() {
    let site = Site::new();
    let store = site.open();
    let list = accept(&site, &store, many(3000, 1500), 500, Some("wait")).await.unwrap();
    assert_eq!(store.release(vec![list.id]).await.unwrap(), 1);
    assert_sound(&store);
    unfolded(&store).await;
    assert_sound(&store);
    let ready =
        || store.agenda(site.now().after(Duration::from_secs(1)), Far::Due, 9999).unwrap().0.len();
    assert_eq!(ready(), 1500);
    // Each takes the place of the one before, wherever that has come to.
    assert_eq!(store.hold(vec![list.id], "again".into()).await.unwrap(), 1);
    assert!(store.job(JobId { queue_id: list.id, number: 0 }).unwrap().is_none());
    assert_sound(&store);
    let due = site.now().after(Duration::from_secs(1));
    assert_eq!(store.reschedule(vec![list.id], due).await.unwrap(), 1);
    assert_eq!(store.release(vec![list.id]).await.unwrap(), 1);
    assert_eq!(store.reschedule(vec![list.id], due).await.unwrap(), 1);
    unfolded(&store).await;
    assert_sound(&store);
    assert!(all_jobs(&store, list.id).iter().all(|job| job.due == due));
    assert_eq!(ready(), 1500);
    assert_eq!(store.hold(vec![list.id], "again".into()).await.unwrap(), 1);
    unfolded(&store).await;
    assert_eq!(ready(), 0);
    assert_eq!(store.remove(vec![list.id]).await.unwrap(), 1);
    assert!(store.entry(list.id).unwrap().is_none());
    assert_eq!(store.counts().unwrap(), Counts::default());
    assert_sound(&store);
    unfolded(&store).await;
    assert_sound(&store);
    store.close().await.unwrap();
    assert_eq!(rows_but_statistics(&site), 3, "META alone is left");
}

/// Every recipient that a reader sees, page by page, with `between` done after each page.
async fn read(store: &Store, id: QueueId, limit: usize, between: impl AsyncFn()) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = store.all_jobs(id, after, limit).unwrap();
        let Some(last) = page.last() else { return names };
        assert!(page.is_sorted_by_key(|job| job.number) && Some(page[0].number) > after);
        after = Some(last.number);
        let recipients = page.iter().flat_map(|job| &job.recipients);
        names.extend(recipients.map(|recipient| recipient.address.to_string()));
        between().await;
    }
}

#[tokio::test]
async fn whoever_reads_sees_each_recipient_once_at_every_step_of_unfolding() {
    let site = Site::new();
    let store = site.open();
    // Nobody unfolds but this test.
    store.inner.keeper.stop().await;
    let list = || many(6000, 40).chain((0..2600).map(|n| format!("b{n}@big.example")));
    let expected = {
        let mut names: Vec<String> = list().collect();
        names.sort();
        names
    };
    let once = |mut names: Vec<String>| {
        names.sort();
        assert!(names == expected, "{} recipients, not {}", names.len(), expected.len());
    };
    let accepted = accept(&site, &store, list(), 500, None).await.unwrap();
    let mut steps = 0;
    let mut numbers: Option<Vec<(u32, usize)>> = None;
    loop {
        for limit in [1, 7, 100] {
            once(read(&store, accepted.id, limit, async || {}).await);
        }
        let jobs = store.all_jobs(accepted.id, None, 1000).unwrap();
        let seen = jobs.iter().map(|job| (job.number, job.recipients.len())).collect();
        assert_eq!(
            *numbers.get_or_insert_with(|| Vec::clone(&seen)),
            seen,
            "jobs come as announced"
        );
        if !store.core().work_on_list(accepted.id).await.unwrap() {
            break;
        }
        steps += 1;
    }
    assert!(steps >= 2, "{steps}");
    once(read(&store, accepted.id, 7, async || {}).await);
    assert_eq!(store.jobs(accepted.id, None, 1000).unwrap().len(), numbers.unwrap().len());

    // It unfolds while it is read.
    let accepted = accept(&site, &store, list(), 500, None).await.unwrap();
    let step = async || {
        let _more = store.core().work_on_list(accepted.id).await.unwrap();
    };
    once(read(&store, accepted.id, 3, step).await);
    assert_sound(&store);
}

#[tokio::test]
async fn a_list_that_is_given_up_leaves_nothing() {
    let site = Site::new();
    let store = site.open();
    let mut intake = store.intake().unwrap();
    for recipient in many(5000, 700) {
        let (destination, recipient) = to(&recipient);
        intake.recipient(destination, recipient).await.unwrap();
    }
    flush(&store).await;
    assert!(site.disk.synced().len() > 700, "staged");
    assert_sound(&store);
    drop(intake);
    // META is left.
    while rows_but_statistics(&site) > 4 {
        flush(&store).await;
    }
}

#[tokio::test]
async fn an_alias_of_many_makes_a_list() {
    let site = Site::new();
    let store = site.open();
    let accepted =
        accept(&site, &store, ["a@b.example".into(), "b@c.example".into()], 500, None).await;
    let accepted = accepted.unwrap();
    let now = site.now();
    let replaced = |count: usize| -> Decide {
        Box::new(move |state| {
            let recipients = open(state, delivered(now));
            let replacements = many(count, 30).map(|r| to(&r)).collect();
            Ok(Verdict { recipients, replacements, ..verdict() })
        })
    };
    assert!(!store.settle(&accepted.jobs[0], replaced(20)).await.unwrap().finished);
    flush(&store).await;
    assert_sound(&store);
    let entry = store.entry(accepted.id).unwrap().unwrap();
    assert_eq!((entry.jobs.len(), entry.recipients_total), (22, 22));
    assert!(!store.settle(&accepted.jobs[1], replaced(500)).await.unwrap().finished);
    flush(&store).await;
    unfolded(&store).await;
    assert_sound(&store);
    let jobs = all_jobs(&store, accepted.id);
    assert_eq!(jobs.len(), 20 + 30);
    assert_eq!(jobs.iter().map(|job| job.recipients.len()).sum::<usize>(), 520);
    for job in jobs {
        let id = JobId { queue_id: accepted.id, number: job.number };
        let job = store.job(id).unwrap().unwrap();
        store.settle(&job, all_delivered(now)).await.unwrap();
    }
    flush(&store).await;
    assert_eq!(store.counts().unwrap(), Counts::default());
    assert_sound(&store);
}
