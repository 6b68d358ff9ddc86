//! The store as its callers see it, on the engine in memory; after every step the invariants are verified.

mod basics;
mod breaking;
mod counting;
mod crashes;
mod damage;
mod evacuation;
mod inflight;
mod lists;
mod load;
mod model;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::engine::CompactionLimits;
use super::engine::mem::{Fault, MemDisk};
use super::engine::redb::RedbEngine;
use super::engine::sim_disk::{DiskFault, Plan, SimDirectory, SimDisk};
use super::writer::Upkeep;
use super::*;
use crate::mail::address::{Address, ReversePath};
use crate::mail::envelope::{BodyType, Envelope, Notify, Recipient, RecipientState, TimeoutClass};
use crate::mail::job::{BodyRef, EntryJob, Mailer};
use crate::mail::outcome::ReportMessage;
use crate::mail::status::EnhancedStatus;

/// 2026-11-22, some time.
const START: u64 = 1_795_326_121_000;

/// A disk, a directory for bodies and a clock that outlive the stores opened on them.
struct Site {
    disk: MemDisk,
    /// The file of redb that stands in its place, for tests of both. What is left of it after a power cut is another one.
    simulated: Option<Mutex<SimDirectory>>,
    /// How often it is looked whether space can be given back.
    upkeep_every: Duration,
    directory: tempfile::TempDir,
    clock: Arc<AtomicU64>,
    incoming_size: u64,
}

impl Site {
    fn new() -> Site {
        Site {
            disk: MemDisk::new(),
            simulated: None,
            upkeep_every: writer::UPKEEP_EVERY,
            directory: tempfile::tempdir().expect("a directory"),
            clock: Arc::new(AtomicU64::new(START)),
            incoming_size: 1 << 20,
        }
    }

    /// One whose file is copied all the time, a few rows after each group: everything in it looks free.
    fn compacting() -> Site {
        let site = Site { upkeep_every: Duration::ZERO, ..Site::new() };
        site.disk.compact_with(ALWAYS);
        site
    }

    /// The same on redb, with a file on a simulated disk.
    fn simulated(seed: u64) -> Site {
        let simulated = Some(Mutex::new(SimDirectory::new(SimDisk::new(seed))));
        Site { simulated, ..Site::compacting() }
    }

    fn open(&self) -> Store {
        self.try_open().expect("opens")
    }

    fn try_open(&self) -> Result<Store, StoreError> {
        let clock = Arc::clone(&self.clock);
        let options = StoreOptions {
            directory: self.directory.path().to_owned(),
            cache_size: 8 << 20,
            body_generation_size: 1 << 20,
            incoming_size: self.incoming_size,
            max_unsettled: 200,
            min_free: 0,
            clock: Arc::new(move || Timestamp::from_millis(clock.load(Ordering::Relaxed))),
        };
        let upkeep = Upkeep { every: self.upkeep_every, live: |_| Ok(0) };
        let engine: Box<dyn engine::Engine> = match &self.simulated {
            Some(place) => {
                let place = Box::new(place.lock().unwrap().clone());
                let engine = RedbEngine::at("simulated".into(), place, 1 << 20);
                Box::new(engine.expect("opens").with_limits(ALWAYS))
            }
            None => Box::new(self.disk.engine()),
        };
        Store::with_upkeep(options, engine, None, upkeep)
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.load(Ordering::Relaxed))
    }

    fn pass(&self, length: Duration) {
        self.clock.fetch_add(length.as_millis() as u64, Ordering::Relaxed);
    }
}

/// Every file is large enough to be copied, and a slice is one read.
const ALWAYS: CompactionLimits = CompactionLimits { file_min: 0, slice: 1 };

/// What `accept` is given, for a body of this size.
fn envelope(from: &str, size: u64, now: Timestamp) -> Envelope {
    Envelope {
        reverse_path: match from {
            "" => ReversePath::Null,
            from => ReversePath::Mailbox(address(from)),
        },
        arrival: now,
        relay: "mx.example [192.0.2.1]".into(),
        protocol: "ESMTP".into(),
        body_type: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        timeouts: TimeoutClass::Normal,
        precedence: 0,
        priority: 30_000,
        message_id: "<20261122054201.1234@mx.example>".into(),
        header_len: size.min(60),
        size,
        body_lines: 0,
        relay_override: None,
        deliver_by: None,
    }
}

fn address(text: &str) -> Address {
    text.parse().expect("an address")
}

fn to(text: &str) -> (Destination, Recipient) {
    let address = address(text);
    let next_hop = address.domain_key().unwrap_or_default();
    let recipient = Recipient {
        address,
        orcpt: None,
        notify: Notify::Unspecified,
        state: RecipientState::Open(None),
    };
    (Destination { mailer: Mailer::Esmtp, next_hop }, recipient)
}

/// How much a store keeps; that mail was there is counted for ever.
fn rows_but_statistics(site: &Site) -> usize {
    site.disk.synced().into_keys().filter(|key| key[0] != schema::STAT.prefix).count()
}

/// Octets that differ by message and place.
fn bytes(seed: u64, size: usize) -> Vec<u8> {
    (0..size as u64).map(|n| (n.wrapping_mul(31).wrapping_add(seed) % 251) as u8).collect()
}

/// What `accept` gave, with its jobs let go of.
struct Told {
    id: QueueId,
    jobs: Vec<Job>,
    bytes: Option<Arc<[u8]>>,
}

impl From<Accepted> for Told {
    fn from(accepted: Accepted) -> Told {
        let jobs = accepted.jobs.into_iter().map(|(job, _)| job).collect();
        Told { id: accepted.id, jobs, bytes: accepted.bytes }
    }
}

async fn accept(
    site: &Site,
    store: &Store,
    recipients: impl IntoIterator<Item = String>,
    size: usize,
    held: Option<&str>,
) -> Result<Told, StoreError> {
    let mut intake = store.intake()?;
    for piece in bytes(intake.queue_id().as_u64(), size).chunks(10_000) {
        intake.write(piece).await?;
    }
    for recipient in recipients {
        let (destination, recipient) = to(&recipient);
        intake.recipient(destination, recipient).await?;
    }
    let envelope = envelope("joe@a.example", size as u64, site.now());
    let accepted = intake.accept(envelope, held.map(str::to_owned)).await?;
    let claims = Arc::clone(&store.core().claims);
    assert!(accepted.jobs.iter().all(|(job, _)| claims.claim(job.id).is_none()), "claimed for us");
    Ok(accepted.into())
}

fn said(at: Timestamp, status: (u8, u16, u16)) -> Box<Report> {
    Box::new(Report {
        status: EnhancedStatus::new(status.0, status.1, status.2),
        text: "said so".into(),
        reply: None,
        command: None,
        remote: None,
        at,
    })
}

fn delivered(at: Timestamp) -> RecipientState {
    RecipientState::Done { report: said(at, (2, 0, 0)), relayed: true, reported: true }
}

fn failed(at: Timestamp, reported: bool) -> RecipientState {
    RecipientState::Failed { report: said(at, (5, 1, 1)), reported }
}

fn verdict() -> Verdict {
    Verdict {
        recipients: Vec::new(),
        replacements: Vec::new(),
        retry_at: None,
        status: None,
        counted: true,
        reported: Vec::new(),
        warned: false,
        reports: Vec::new(),
    }
}

/// Everything open is delivered.
fn all_delivered(at: Timestamp) -> Decide {
    Box::new(move |state| Ok(Verdict { recipients: open(state, delivered(at)), ..verdict() }))
}

fn open(state: &MessageState<'_>, to: RecipientState) -> Vec<(u32, RecipientState)> {
    let open = (0..).zip(&state.job.recipients).filter(|(_, r)| r.state.is_open());
    open.map(|(n, _)| (n, to.clone())).collect()
}

fn deferred(until: Timestamp) -> Decide {
    Box::new(move |_| {
        let status = Some("Deferred: later".to_owned());
        Ok(Verdict { retry_at: Some(until), status, ..verdict() })
    })
}

/// All open ones fail; the sender is told once nothing else is open.
fn all_failed(at: Timestamp) -> Decide {
    Box::new(move |state| {
        let mut verdict = verdict();
        let tells = !state.others_open;
        verdict.recipients = open(state, failed(at, tells));
        if tells {
            verdict.reported =
                state.unreported.iter().map(|(job, place, _)| (*job, *place)).collect();
            let owed = verdict.recipients.len() + verdict.reported.len();
            if owed > 0 {
                verdict.reports.push((report(owed), Ok(to("joe@a.example").0)));
            }
        }
        Ok(verdict)
    })
}

fn report(covers: usize) -> ReportMessage {
    let header = "Message-Id: <1@here.example>\r\n\r\n";
    let bytes = format!("{header}{covers} failed\r\n").into_bytes();
    ReportMessage {
        to: address("joe@a.example"),
        bytes,
        header_len: header.len() as u64,
        names: Vec::new(),
    }
}

async fn body_of(store: &Store, body: &BodyRef) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let more = store.read_body(body, bytes.len() as u64).await.expect("a body");
        if more.is_empty() {
            return bytes;
        }
        bytes.extend(more);
    }
}

/// Waits for what is lazy, by something that is not: the writer keeps the order.
async fn flush(store: &Store) {
    let nothing = super::engine::Batch::default();
    store.core().writer.submit(super::writer::Class::Acknowledged, nothing).await.expect("commits");
}

#[track_caller]
fn assert_sound(store: &Store) {
    assert_eq!(store.check().expect("can be read"), []);
}

/// Kills the store: what is not durable is gone; of a commit under way all (`applied`) or nothing is there. On a simulated disk the power
/// is cut a few operations from now, in the middle of whatever there is then, and leaves what it may.
async fn crash(site: &Site, store: Store, applied: bool) {
    match &site.simulated {
        Some(place) => {
            let file = place.lock().unwrap().file();
            let at = file.operations() + 1 + file.operations() % 7;
            file.plan(Some(Plan { at, fault: DiskFault::Power, lasting: true }));
        }
        None => {
            let last = site.disk.commits() + 1;
            site.disk.fail_commit(last, Fault::Io { applied });
            site.disk.fail_reopen(true);
        }
    }
    loop {
        // It changes something: redb commits nothing for nothing.
        let mut some = super::engine::Batch::default();
        some.adds.push((schema::STAT.key((9u8, 9u8)), 1));
        match store.core().writer.submit(super::writer::Class::Acknowledged, some).await {
            Ok(_) => assert!(site.simulated.is_some(), "the next commit fails"),
            Err(StoreError::Unavailable(_)) => break,
            Err(error) => panic!("{error:?}"),
        }
    }
    store.inner.keeper.stop().await;
    store.core().bodies.close().await.expect("closes");
    match &site.simulated {
        Some(place) => {
            let mut place = place.lock().unwrap();
            // Its seed and its age decide what is left.
            let left = place.cut(place.file().operations());
            *place = left;
        }
        None => {
            site.disk.fail_reopen(false);
            site.disk.cut_power();
        }
    }
}
