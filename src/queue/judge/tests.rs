//! What becomes of an outcome when the report on it cannot be made now, or is the last one there is.

use std::fs;

use super::super::report;
use super::*;
use crate::deliver::Mailers;
use crate::mail::address::ReversePath;
use crate::mail::envelope::{BodyType, Envelope, Notify, Recipient, RecipientState, TimeoutClass};
use crate::mail::job::{Destination, Mailer};
use crate::mail::outcome::{Outcome, Report};
use crate::mail::status::EnhancedStatus;
use crate::maillog::Maillog;
use crate::queue::attempt::Errand;
use crate::store::engine::mem::{Fault, MemDisk};
use crate::store::{Accepted, Store, StoreOptions};
use crate::world::Clock;
use crate::world::fake::FakeWorld;

const INTERVAL: Option<Duration> = Some(Duration::from_secs(900));

struct Bench {
    directory: tempfile::TempDir,
    disk: MemDisk,
    house: House,
}

fn bench(change: impl FnOnce(&mut Config, &std::path::Path)) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let (disk, world) = (MemDisk::new(), FakeWorld::default());
    let clock = world.clock.clone();
    let options = StoreOptions {
        directory: directory.path().to_owned(),
        cache_size: 4 << 20,
        body_generation_size: 1 << 30,
        incoming_size: 1 << 20,
        max_unsettled: 10,
        min_free: 0,
        clock: Arc::new(move || clock.now()),
    };
    let store = Store::with_engine(options, Box::new(disk.engine()), None).unwrap();
    let mut config = Config::default();
    change(&mut config, directory.path());
    let (config, world) = (Arc::new(config), world.world());
    let mailers = Arc::new(Mailers::new(config.clone(), world.clone(), store.clone()));
    let house = House { config, store, world, mailers, maillog: Maillog::discard().unwrap() };
    Bench { directory, disk, house }
}

/// A message in the queue; one from nobody is a report of ours.
async fn accept(house: &House, from: &str, to: &[&str], text: &str) -> Accepted {
    let mut intake = house.store.intake().unwrap();
    intake.write(text.as_bytes()).await.unwrap();
    for to in to {
        let address: crate::mail::address::Address = to.parse().unwrap();
        let next_hop = address.domain_key().unwrap();
        let state = RecipientState::Open(None);
        let recipient = Recipient { address, orcpt: None, notify: Notify::Unspecified, state };
        let destination = Destination { mailer: Mailer::Esmtp, next_hop };
        intake.recipient(destination, recipient).await.unwrap();
    }
    let envelope = Envelope {
        reverse_path: match from {
            "" => ReversePath::Null,
            from => ReversePath::Mailbox(from.parse().unwrap()),
        },
        arrival: house.world.clock.now(),
        relay: String::new(),
        protocol: String::new(),
        body_type: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        timeouts: if from.is_empty() { TimeoutClass::Dsn } else { TimeoutClass::Normal },
        precedence: 0,
        priority: 0,
        message_id: String::new(),
        header_len: text.len() as u64,
        size: text.len() as u64,
        body_lines: 0,
        relay_override: None,
        deliver_by: None,
    };
    intake.accept(envelope, None).await.unwrap()
}

async fn fail(house: &House, job: &Job) -> Result<Judged, StoreError> {
    let report = Report {
        status: EnhancedStatus::new(5, 1, 1),
        text: "User unknown".into(),
        reply: None,
        command: None,
        remote: None,
        at: house.world.clock.now(),
    };
    let outcome = |(n, _): &(u32, _)| (*n, Outcome::Failed(report.clone()));
    let outcomes = job.recipients.iter().map(outcome).collect();
    let occasion = Occasion::Attempted(Attempt::Tried(outcomes));
    judge(house, job, occasion, RunSettings::default(), INTERVAL).await
}

#[tokio::test]
async fn an_outcome_counts_while_the_message_cannot_be_read() {
    let bench = bench(|_, _| {});
    let house = &bench.house;
    let accepted = accept(house, "a@here.example", &["b@b.example", "c@c.example"], "X: y\r\n\r\n");
    let Accepted { id, jobs, .. } = accepted.await;
    house.store.hold_body_check(&jobs[0].0.body, true);
    let mut due = None;
    for (job, claim) in jobs {
        let judged = fail(house, &job).await.expect("the outcome is recorded");
        assert!(judged.settled.accepted.is_empty() && !judged.settled.finished);
        due = judged.report_due;
        drop(claim);
    }
    house.store.landed(id, Duration::from_secs(60)).await;
    let now = house.world.clock.now();
    assert!(due.is_some_and(|due| due <= now.after(Duration::from_secs(10))), "{due:?}");
    // As the runner does then; it waits for the check, and longer if it must.
    let errand = report::report(house.clone(), id, INTERVAL).await;
    assert!(
        matches!(&errand, Errand::Reported { accepted, next: Some(_), .. } if accepted.is_empty())
    );
    for entry in house.store.list(None, 9).unwrap() {
        let states: Vec<_> = entry.jobs.iter().flat_map(|job| &job.recipients).collect();
        assert!(states.iter().all(|r| !r.state.is_open()), "nobody is tried again: {states:?}");
        house.store.hold_body_check(&entry.body, false);
    }
    match report::report(house.clone(), id, INTERVAL).await {
        Errand::Reported { accepted, next: None, .. } => assert_eq!(accepted.len(), 1),
        _ => panic!("the report is made"),
    }
    let left = house.store.list(None, 9).unwrap();
    assert!(left.len() == 1 && left[0].id != id, "the report alone");
    assert_eq!(house.store.check().unwrap(), []);
}

const MARKED: &str = "Auto-Submitted: auto-generated (postmaster-notification)\r\n\r\nthe body\r\n";

#[tokio::test]
async fn the_last_copy_of_a_report_is_never_only_in_memory() {
    let bench = bench(|config, directory| config.dead_letter_drop = Some(directory.join("drop")));
    let (house, file) = (&bench.house, bench.directory.path().join("drop"));
    let accepted = accept(house, "", &["postmaster@p.example"], MARKED).await;
    // The process ends at the commit of the settle.
    bench.disk.fail_commit(bench.disk.commits() + 1, Fault::Io { applied: false });
    bench.disk.fail_reopen(true);
    let judged = fail(house, &accepted.jobs[0].0).await.map(|judged| judged.settled.finished);
    house.store.close().await.unwrap_err();
    assert!(matches!(judged, Ok(true) | Err(_)), "{judged:?}");
    let kept = fs::read_to_string(&file).expect("was saved before");
    assert!(kept.contains("the body"), "{kept}");
    let incoming = crate::store::schema::INCOMING.prefix;
    assert!(bench.disk.synced().keys().any(|key| key[0] == incoming), "it is queued still");
}

#[tokio::test]
async fn a_report_that_cannot_be_saved_is_held() {
    let bench =
        bench(|config, directory| config.dead_letter_drop = Some(directory.join("no/drop")));
    let house = &bench.house;
    let accepted = accept(house, "", &["postmaster@p.example"], MARKED).await;
    let judged = fail(house, &accepted.jobs[0].0).await.unwrap();
    assert!(!judged.settled.finished);
    let list = house.store.list(None, 9).unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].held.as_deref(), Some("savemail panic"));
    assert_eq!(house.store.check().unwrap(), []);
}
