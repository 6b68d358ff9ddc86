//! The writer groups, keeps its bounds, tells the truth after a failure, and gives up loudly.

use std::sync::Mutex;

use super::*;
use crate::store::engine::mem::{Fault, MemDisk};
use crate::store::engine::{Check, CompactionLimits};

/// Longer than any test: nothing goes out by its deadline.
const NEVER: Duration = Duration::from_secs(3600);

/// Nothing is given back.
const NONE: Upkeep = Upkeep { every: NEVER, live: |_| Ok(u64::MAX) };

fn start(disk: &MemDisk, max_unsettled: usize, lazy_max: Duration) -> Writer {
    let limits = WriterLimits { max_unsettled, lazy_max, reserve: None, upkeep: NONE };
    Writer::start(Box::new(disk.engine()), limits).unwrap()
}

fn put(key: &str) -> Batch {
    Batch { puts: vec![(key.into(), b"x".to_vec())], ..Batch::default() }
}

fn keys(disk: &MemDisk) -> String {
    let keys = disk.synced().into_keys().map(|key| String::from_utf8(key).unwrap());
    keys.collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn what_arrives_during_a_commit_is_the_next_group() {
    let disk = MemDisk::new();
    let writer = start(&disk, 8, NEVER);
    disk.hold();
    let first = writer.try_submit(Class::Acknowledged, put("a")).unwrap();
    disk.wait_for_commit();
    let lazy = writer.try_submit(Class::Lazy, put("b")).unwrap();
    let more = ["c", "d"].map(|key| writer.try_submit(Class::Acknowledged, put(key)).unwrap());
    assert_eq!(keys(&disk), "", "nothing is durable yet");
    disk.let_go();
    assert_eq!(first.await.unwrap(), Applied::Committed);
    assert_eq!(lazy.await.unwrap(), Applied::Committed);
    for pending in more {
        assert_eq!(pending.await.unwrap(), Applied::Committed);
    }
    assert_eq!(disk.units(), [1, 3]);
    assert_eq!(keys(&disk), "a b c d");
}

#[tokio::test]
async fn units_are_applied_in_order_and_answered_each() {
    let disk = MemDisk::new();
    let writer = start(&disk, 8, NEVER);
    let absent = || Batch { checks: vec![Check::Absent("a".into())], ..put("a") };
    assert_eq!(writer.submit(Class::Acknowledged, absent()).await.unwrap(), Applied::Committed);
    assert_eq!(writer.submit(Class::Acknowledged, absent()).await.unwrap(), Applied::Conflict(0));
    let refused = Unit::late(0, Box::new(|_| Err(EngineError::Refused("no".into()))));
    let refused = writer.submit(Class::Acknowledged, refused).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(why)) if why == "no"));
    let defect = Unit::late(0, Box::new(|_| panic!("a defect")));
    assert!(writer.submit(Class::Acknowledged, defect).await.is_err());
    assert_eq!(writer.submit(Class::Acknowledged, put("b")).await.unwrap(), Applied::Committed);
    assert!(writer.snapshot().unwrap().get(b"b").unwrap().is_some());
}

#[tokio::test]
async fn a_lazy_unit_goes_out_by_itself() {
    let disk = MemDisk::new();
    let writer = start(&disk, 8, Duration::from_millis(1));
    let pending = writer.begin(Class::Lazy, put("a")).await.unwrap();
    assert_eq!(pending.await.unwrap(), Applied::Committed);
    assert_eq!(keys(&disk), "a");
}

#[tokio::test]
async fn lazy_units_wait_for_company_and_no_longer_than_the_bound() {
    let disk = MemDisk::new();
    let writer = start(&disk, 4, NEVER);
    let alone = writer.begin(Class::Lazy, put("a")).await.unwrap();
    writer.submit(Class::Acknowledged, put("b")).await.unwrap();
    assert_eq!(alone.await.unwrap(), Applied::Committed, "rode along");
    let one = writer.begin(Class::Lazy, put("c")).await.unwrap();
    let two = writer.begin(Class::Lazy, put("d")).await.unwrap();
    assert_eq!(one.await.unwrap(), Applied::Committed, "half of the bound waited");
    assert_eq!(two.await.unwrap(), Applied::Committed);
    assert_eq!(keys(&disk), "a b c d");
}

#[tokio::test]
async fn no_more_than_the_bound_is_unsettled() {
    let disk = MemDisk::new();
    let writer = start(&disk, 2, NEVER);
    disk.hold();
    let _first = writer.try_submit(Class::Lazy, put("a")).unwrap();
    let _second = writer.try_submit(Class::Lazy, put("b")).unwrap();
    disk.wait_for_commit();
    assert!(matches!(writer.try_submit(Class::Lazy, put("c")), Err(StoreError::Busy)));
    disk.let_go();
    writer.begin(Class::Lazy, put("c")).await.unwrap();
}

#[tokio::test]
async fn a_full_queue_is_busy() {
    let disk = MemDisk::new();
    let writer = start(&disk, 8, NEVER);
    disk.hold();
    let large = || Batch { puts: vec![(vec![1], vec![0; 1 << 20])], ..Batch::default() };
    let mut queued = Vec::new();
    let busy = loop {
        match writer.try_submit(Class::Acknowledged, large()) {
            Ok(pending) => queued.push(pending),
            Err(error) => break error,
        }
    };
    assert!(matches!(busy, StoreError::Busy));
    assert!((QUEUE_KIB as usize >> 10) - queued.len() <= 1, "{} MiB queued", queued.len());
    disk.let_go();
    for pending in queued {
        pending.await.unwrap();
    }
    let units = disk.units();
    assert!(units.iter().all(|units| *units <= GROUP_BYTES >> 20), "{units:?}");
}

#[tokio::test]
async fn an_ok_after_a_failure_is_durable() {
    for applied in [false, true] {
        for fault in [Fault::Io { applied }, Fault::Full { applied }] {
            let disk = MemDisk::new();
            let writer = start(&disk, 8, NEVER);
            disk.fail_commit(1, fault);
            let count = Batch { adds: vec![(b"n".to_vec(), 1)], ..put("a") };
            assert_eq!(
                writer.submit(Class::Acknowledged, count).await.unwrap(),
                Applied::Committed
            );
            disk.cut_power();
            assert_eq!(disk.synced()[&b"n"[..]], 1i64.to_be_bytes(), "{fault:?}: once");
            writer.submit(Class::Acknowledged, put("b")).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_disk_that_stays_full_refuses_and_lives() {
    let directory = tempfile::tempdir().unwrap();
    let disk = MemDisk::new();
    let reserve = Reserve::take(directory.path(), 0).unwrap();
    let limits =
        WriterLimits { max_unsettled: 8, lazy_max: NEVER, reserve: Some(reserve), upkeep: NONE };
    let writer = Writer::start(Box::new(disk.engine()), limits).unwrap();
    assert!(!writer.is_full());
    disk.fail_commit(1, Fault::Full { applied: false });
    disk.fail_commit(2, Fault::Full { applied: false });
    let refused = writer.submit(Class::Acknowledged, put("a")).await;
    assert!(matches!(refused, Err(StoreError::Full)));
    assert!(writer.is_full() && !directory.path().join("reserve").exists());
    assert_eq!(keys(&disk), "");
    let delete = Batch { deletes: vec![b"a".to_vec()], ..Batch::default() };
    assert_eq!(writer.submit(Class::Acknowledged, delete).await.unwrap(), Applied::Committed);
}

#[tokio::test]
async fn a_broken_disk_poisons() {
    type Breakage = fn(&MemDisk);
    let breakages: [(&str, Breakage); 3] = [
        ("twice", |disk| {
            disk.fail_commit(1, Fault::Io { applied: false });
            disk.fail_commit(2, Fault::Io { applied: false });
        }),
        ("not to be opened", |disk| {
            disk.fail_commit(1, Fault::Io { applied: true });
            disk.fail_reopen(true);
        }),
        ("panic", |disk| disk.fail_commit(1, Fault::Panic)),
    ];
    for (name, breakage) in breakages {
        let disk = MemDisk::new();
        let writer = start(&disk, 8, NEVER);
        breakage(&disk);
        let waiting = writer.try_submit(Class::Lazy, put("b")).unwrap();
        let failed = writer.submit(Class::Acknowledged, put("a")).await;
        assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{name}: {failed:?}");
        assert!(waiting.await.is_err(), "{name}");
        assert!(!writer.poisoned().await.is_empty(), "{name}");
        let refused = writer.try_submit(Class::Acknowledged, put("c"));
        assert!(matches!(refused.err(), Some(StoreError::Unavailable(_))), "{name}");
        assert!(writer.close().await.is_err(), "{name}");
    }
}

#[tokio::test]
async fn a_disk_that_hangs_poisons() {
    let disk = MemDisk::new();
    disk.fail_commit(1, Fault::Io { applied: false });
    disk.fail_commit(2, Fault::Hang);
    let limits = WriterLimits { max_unsettled: 8, lazy_max: NEVER, reserve: None, upkeep: NONE };
    let writer =
        Writer::start_patiently(Box::new(disk.engine()), limits, Duration::from_millis(1)).unwrap();
    let failed = writer.submit(Class::Acknowledged, put("a")).await;
    assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{failed:?}");
    assert!(writer.poisoned().await.contains("did not answer"));
    disk.let_go();
}

#[tokio::test]
async fn closing_commits_what_waits() {
    let disk = MemDisk::new();
    let writer = start(&disk, 8, NEVER);
    let lazy = writer.begin(Class::Lazy, put("a")).await.unwrap();
    writer.close().await.unwrap();
    assert_eq!(lazy.await.unwrap(), Applied::Committed);
    assert_eq!(keys(&disk), "a");
    assert!(matches!(writer.submit(Class::Acknowledged, put("b")).await, Err(StoreError::Closing)));
    writer.close().await.unwrap();
}

#[tokio::test]
async fn the_last_clone_commits_what_waits() {
    let disk = MemDisk::new();
    let writer = start(&disk, 8, NEVER);
    let lazy = writer.begin(Class::Lazy, put("a")).await.unwrap();
    drop(writer);
    assert_eq!(lazy.await.unwrap(), Applied::Committed);
    assert_eq!(keys(&disk), "a");
}

/// Many tasks, faults at random commits: each answer is what the disk says, and counters agree with the answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_and_many_faults_agree_on_what_happened() {
    let disk = MemDisk::new();
    let writer = start(&disk, 64, Duration::from_millis(1));
    for commit in (3..400).step_by(7) {
        let applied = commit % 2 == 0;
        disk.fail_commit(commit, Fault::Io { applied });
    }
    let done = Arc::new(Mutex::new(0i64));
    let tasks = (0..16u8).map(|task| {
        let (writer, done) = (writer.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            for number in 0..50u8 {
                let unit = Batch {
                    adds: vec![(b"n".to_vec(), 1)],
                    puts: vec![(vec![b'k', task, number], vec![number])],
                    ..Batch::default()
                };
                let class = if number % 3 == 0 { Class::Lazy } else { Class::Acknowledged };
                assert_eq!(writer.submit(class, unit).await.unwrap(), Applied::Committed);
                *done.lock().unwrap() += 1;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let synced = disk.synced();
    assert_eq!(synced[&b"n"[..]], done.lock().unwrap().to_be_bytes());
    assert_eq!(synced.len(), 1 + 16 * 50);
}

/// A writer that looks after each group, on a file of a mebioctet that is mostly free.
async fn start_on_a_free_file(disk: &MemDisk) -> Writer {
    disk.compact_with(CompactionLimits { file_min: 0, slice: 1 });
    let upkeep = Upkeep { every: Duration::ZERO, live: |_| Ok(0) };
    let limits = WriterLimits { max_unsettled: 8, lazy_max: NEVER, reserve: None, upkeep };
    let mut engine = disk.engine();
    let rows = (0..500u16).map(|n| (n.to_be_bytes().to_vec(), vec![7; 10]));
    let large = (b"large".to_vec(), vec![0; 1 << 20]);
    let puts = rows.chain([large]).collect();
    engine.commit(vec![Work::Batch(Batch { puts, ..Batch::default() })]).unwrap();
    let large = Batch { deletes: vec![b"large".to_vec()], ..Batch::default() };
    engine.commit(vec![Work::Batch(large)]).unwrap();
    Writer::start(Box::new(engine), limits).unwrap()
}

#[tokio::test]
async fn space_is_given_back_while_nothing_comes() {
    let disk = MemDisk::new();
    let writer = start_on_a_free_file(&disk).await;
    let mut upkept = writer.upkept();
    while disk.exchanges() == 0 {
        tokio::task::yield_now().await;
    }
    let told = upkept.wait_for(Option::is_some).await.unwrap().clone();
    assert!(
        matches!(told, Some(Upkept::Shrunk { before, after }) if before > 1 << 20 && after < 10_000),
        "{told:?}"
    );
    assert!(disk.steps() > 5, "in slices");
    assert_eq!(writer.submit(Class::Acknowledged, put("a")).await.unwrap(), Applied::Committed);
    writer.close().await.unwrap();
    assert_eq!(disk.synced().len(), 501);
}

#[tokio::test]
async fn groups_go_between_the_slices() {
    let disk = MemDisk::new();
    let writer = start_on_a_free_file(&disk).await;
    let mut number = 0u32;
    while disk.exchanges() == 0 {
        number += 1;
        let key = number.wrapping_mul(0x9e37_79b9).to_be_bytes();
        let unit = Batch { puts: vec![(key.to_vec(), vec![1])], ..Batch::default() };
        writer.submit(Class::Acknowledged, unit).await.unwrap();
    }
    writer.close().await.unwrap();
    assert_eq!(disk.synced().len(), 500 + number as usize);
}

#[tokio::test]
async fn a_copy_that_fails_is_dropped_and_an_exchange_that_fails_poisons() {
    let disk = MemDisk::new();
    disk.fail_step(3, Fault::Full { applied: false });
    let writer = start_on_a_free_file(&disk).await;
    for n in 0..20 {
        writer.submit(Class::Acknowledged, put(&n.to_string())).await.unwrap();
    }
    writer.close().await.unwrap();
    assert_eq!(disk.synced().len(), 520);
    for applied in [false, true] {
        let disk = MemDisk::new();
        (1..100).for_each(|step| disk.fail_step(step, Fault::Io { applied }));
        let writer = start_on_a_free_file(&disk).await;
        assert!(writer.poisoned().await.contains("planned"));
        assert!(writer.submit(Class::Acknowledged, put("a")).await.is_err());
        disk.cut_power();
        assert_eq!(disk.synced().len(), 500);
    }
}

#[tokio::test]
async fn a_copy_that_fails_is_told() {
    let disk = MemDisk::new();
    (1..10_000).for_each(|step| disk.fail_step(step, Fault::Full { applied: false }));
    let writer = start_on_a_free_file(&disk).await;
    let mut upkept = writer.upkept();
    let failed = |told: &Option<Upkept>| matches!(told, Some(Upkept::NotShrunk(_)));
    let told = tokio::time::timeout(Duration::from_secs(60), upkept.wait_for(failed)).await;
    assert!(told.is_ok_and(|told| told.is_ok()));
}

#[tokio::test]
async fn a_commit_that_fails_drops_the_copy() {
    let disk = MemDisk::new();
    let writer = start_on_a_free_file(&disk).await;
    disk.fail_commit(5, Fault::Full { applied: false });
    for n in 0..20 {
        writer.submit(Class::Acknowledged, put(&n.to_string())).await.unwrap();
    }
    writer.close().await.unwrap();
    assert_eq!(disk.synced().len(), 520);
}

/// What the machine gives: run with `cargo test --release -- --ignored --nocapture measure`, on the disk in question (TMPDIR).
#[test]
#[ignore = "a measurement"]
fn measure_messages_per_second() {
    for submitters in [1usize, 50] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.redb");
        let engine = crate::store::engine::redb::RedbEngine::open(&path, 32 << 20, true).unwrap();
        let limits = WriterLimits {
            max_unsettled: 200,
            lazy_max: Duration::from_millis(100),
            reserve: None,
            upkeep: NONE,
        };
        let writer = Writer::start(Box::new(engine), limits).unwrap();
        let each = 400usize;
        let start = Instant::now();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
        runtime.unwrap().block_on(async {
            let tasks = (0..submitters).map(|task| {
                let writer = writer.clone();
                tokio::spawn(async move {
                    for number in 0..each {
                        let key = [task.to_be_bytes(), number.to_be_bytes()].concat();
                        let message = Batch {
                            puts: vec![(key.clone(), vec![7; 4000])],
                            adds: vec![(b"messages".to_vec(), 1)],
                            ..Batch::default()
                        };
                        let done = Batch {
                            deletes: vec![key],
                            adds: vec![(b"messages".to_vec(), -1)],
                            ..Batch::default()
                        };
                        writer.submit(Class::Acknowledged, message).await.unwrap();
                        writer.begin(Class::Lazy, done).await.unwrap();
                    }
                })
            });
            for task in tasks.collect::<Vec<_>>() {
                task.await.unwrap();
            }
            writer.close().await.unwrap();
        });
        let rate = (each * submitters) as f64 / start.elapsed().as_secs_f64();
        println!("{submitters} submitters: {rate:.0} messages of 4 KiB in and out per second");
    }
}
