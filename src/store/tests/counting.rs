//! Statistics count what was accepted and delivered, once, whatever happens in between.

use super::*;
use crate::mail::statistics::{Connections, Figures, Statistics};

fn figures(statistics: &Statistics, mailer: Mailer) -> Figures {
    let found = statistics.mailers.iter().find(|(of, _)| *of == mailer);
    found.map_or_else(Figures::default, |(_, figures)| *figures)
}

#[tokio::test]
async fn mail_is_counted_when_it_comes_and_when_it_goes() {
    let site = Site::new();
    let store = site.open();
    let since = site.now();
    let small = accept(&site, &store, ["a@b.example".into()], 1025, None).await.unwrap();
    let two = ["a@c.example".into(), "a@d.example".into()];
    let two = accept(&site, &store, two, 1024, None).await.unwrap();
    accept(&site, &store, ["a@b.example".into()], 10, Some("spam")).await.unwrap();
    let mut expected =
        Figures { messages_from: 3, kib_from: 4, quarantined: 1, ..Figures::default() };
    assert_eq!(figures(&store.statistics().unwrap(), Mailer::Esmtp), expected);

    store.settle(&small.jobs[0], all_delivered(site.now())).await.unwrap();
    store.settle(&two.jobs[0], deferred(site.now())).await.unwrap();
    flush(&store).await;
    (expected.messages_to, expected.kib_to) = (1, 2);
    assert_eq!(figures(&store.statistics().unwrap(), Mailer::Esmtp), expected);
    store.settle(&two.jobs[0], all_delivered(site.now())).await.unwrap();
    store.settle(&two.jobs[1], all_failed(site.now())).await.unwrap();
    flush(&store).await;
    (expected.messages_to, expected.kib_to) = (2, 3);
    let told = store.statistics().unwrap();
    assert_eq!(figures(&told, Mailer::Esmtp), expected);
    let report = Figures { messages_from: 1, kib_from: 1, ..Figures::default() };
    assert_eq!(figures(&told, Mailer::Local), report, "the report is from us");
    assert_eq!((told.since, told.mailers.len()), (since, 2));
    assert_sound(&store);
    store.close().await.unwrap();
    site.pass(Duration::from_secs(60));
    assert_eq!(site.open().statistics().unwrap(), told, "of all processes");
}

#[tokio::test]
async fn what_has_no_batch_is_seen_at_once_and_written_later() {
    let site = Site::new();
    let store = site.open();
    store.tally(Tally::ConnectionFrom);
    store.tally(Tally::ConnectionFrom);
    store.tally(Tally::ConnectionTo);
    store.tally(Tally::ConnectionRejected);
    let connections = Connections { from: 2, to: 1, rejected: 1 };
    assert_eq!(store.statistics().unwrap().connections, connections);
    store.write_statistics().await.unwrap();
    assert_eq!(store.statistics().unwrap().connections, connections, "not twice");
    store.tally(Tally::Rejected(Mailer::Esmtp));
    store.tally(Tally::Discarded(Mailer::Esmtp));
    let told = store.statistics().unwrap();
    assert_eq!(told.connections.rejected, 3, "as sendmail counts");
    let expected = Figures { rejected: 1, discarded: 1, ..Figures::default() };
    assert_eq!(figures(&told, Mailer::Esmtp), expected);
    crash(&site, store.clone(), false).await;
    drop(store);
    let store = site.open();
    let kept = store.statistics().unwrap();
    assert_eq!((kept.connections, kept.mailers.len()), (connections, 0), "a minute is lost");
    store.tally(Tally::ConnectionTo);
    store.close().await.unwrap();
    assert_eq!(site.open().statistics().unwrap().connections.to, 2, "a clean close loses none");
}

#[tokio::test]
async fn a_reset_gives_what_was_and_begins_anew() {
    let site = Site::new();
    let store = site.open();
    accept(&site, &store, ["a@b.example".into()], 10, None).await.unwrap();
    store.tally(Tally::ConnectionFrom);
    let before = store.statistics().unwrap();
    site.pass(Duration::from_secs(60));
    assert_eq!(store.reset_statistics().await.unwrap(), before);
    let empty = Statistics { since: site.now(), ..Statistics::default() };
    assert_eq!(store.statistics().unwrap(), empty);
    // A reset that fails takes nothing away.
    store.tally(Tally::ConnectionFrom);
    flush(&store).await;
    site.pass(Duration::from_secs(60));
    site.disk.fail_commit(site.disk.commits() + 1, Fault::Full { applied: false });
    site.disk.fail_commit(site.disk.commits() + 2, Fault::Full { applied: false });
    let failed = store.reset_statistics().await;
    assert!(matches!(failed, Err(StoreError::Full)), "{failed:?}");
    assert_eq!(store.statistics().unwrap().connections.from, 1);
    assert_sound(&store);
}
