//! A copy is equal to its file whatever happens meanwhile, and no power cut or fault at any step of it costs anything.

use proptest::prelude::*;

use crate::store::engine::conformance::{Step, all, check, groups, states};
use crate::store::engine::mem::{Fault, MemDisk};
use crate::store::engine::redb::RedbEngine;
use crate::store::engine::sim_disk::{DiskFault, Plan, SimDirectory, SimDisk};
use crate::store::engine::{Batch, Compaction, CompactionLimits, Engine, EngineError, Work};

/// Everything is worth it, and a slice is one read.
const ALWAYS: CompactionLimits = CompactionLimits { file_min: 0, slice: 1 };

fn on(directory: &SimDirectory) -> Result<RedbEngine, EngineError> {
    let place = Box::new(directory.clone());
    Ok(RedbEngine::at("simulated".into(), place, 1 << 20)?.with_limits(ALWAYS))
}

/// A complete file with `rows` rows, so that a copy takes some slices.
fn made(seed: u64, rows: u16) -> SimDirectory {
    let directory = SimDirectory::new(SimDisk::new(seed));
    let mut engine = on(&directory).unwrap();
    // Mostly free, with something live behind what is.
    let free = [b"x1", b"x2"].map(|key| (key.to_vec(), vec![0; 120_000])).to_vec();
    let puts = Batch { puts: free.clone(), ..Batch::default() };
    engine.commit(vec![Work::Batch(puts)]).unwrap();
    engine.commit(vec![Work::Batch(filled(rows))]).unwrap();
    let deletes = free.into_iter().map(|(key, _)| key).collect();
    engine.commit(vec![Work::Batch(Batch { deletes, ..Batch::default() })]).unwrap();
    Box::new(engine).close().unwrap();
    directory
}

fn filled(rows: u16) -> Batch {
    let row = |n: u16| {
        // Before, between and behind the keys that the steps change.
        let prefix = [b'a', b'k', b'z'][usize::from(n % 3)];
        ([&[prefix][..], &n.to_be_bytes(), b"filler"].concat(), vec![7; 10])
    };
    Batch { puts: (0..rows).map(row).collect(), ..Batch::default() }
}

/// What became of a play.
struct Played {
    /// Groups that are acknowledged.
    done: usize,
    exchanged: bool,
    /// Nothing failed.
    whole: bool,
}

/// Commits the groups with a step of copying after each, then copies to the end; until something fails.
fn play(engine: &mut dyn Engine, groups: &[Vec<Step>]) -> Played {
    let mut played = Played { done: 0, exchanged: false, whole: false };
    let mut rest = groups.iter();
    loop {
        if !played.exchanged {
            match engine.compact(0) {
                Ok(Compaction::Done { .. }) => played.exchanged = true,
                Ok(Compaction::Going | Compaction::Unneeded | Compaction::InUse) => {}
                Ok(Compaction::GivenUp(_)) | Err(_) => return played,
            }
        }
        match rest.next() {
            Some(group) => {
                if engine.commit(group.iter().map(Step::work).collect()).is_err() {
                    return played;
                }
                played.done += 1;
            }
            None if played.exchanged => break,
            None => {}
        }
    }
    Played { whole: true, ..played }
}

/// The states of the groups over the filler.
fn filled_states(
    groups: &[Vec<Step>],
    rows: u16,
) -> Vec<std::collections::BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut states = states(groups);
    // What deletes ranges of the steps does not reach: their keys have two octets, the end of a range sorts before the filler of it.
    let directory = made(1, rows);
    let mut engine = on(&directory).unwrap();
    states[0] = all(&engine);
    for (state, group) in states[1..].iter_mut().zip(groups) {
        engine.commit(group.iter().map(Step::work).collect()).unwrap();
        *state = all(&engine);
    }
    states
}

#[test]
fn is_wanted_when_a_large_file_is_mostly_free() {
    let limits = CompactionLimits { file_min: 1000, slice: 1 };
    for (length, live, wanted) in
        [(1000, 0, false), (1001, 0, true), (2000, 500, false), (2000, 499, true)]
    {
        assert_eq!(limits.wants(length, live), wanted, "{live} of {length}");
    }
}

/// However little of it the caller knows: it is counted, and nothing is written for a file that is well used.
#[test]
fn is_not_begun_when_much_is_live_after_all() {
    let directory = SimDirectory::new(SimDisk::new(3));
    let mut engine = on(&directory).unwrap();
    let full = (0..40u8).map(|n| put_work(&[b'y', n], vec![n; 60_000])).collect();
    engine.commit(full).unwrap();
    let last = loop {
        match engine.compact(0).unwrap() {
            Compaction::Going => assert!(!directory.has_draft(), "nothing is written"),
            other => break other,
        }
    };
    assert!(matches!(last, Compaction::InUse), "{last:?}");
    let disk = MemDisk::new();
    disk.compact_with(ALWAYS);
    let mut engine = disk.engine();
    engine.commit((0..40u8).map(|n| put_work(&[b'y', n], vec![n; 60_000])).collect()).unwrap();
    assert!(matches!(engine.compact(0).unwrap(), Compaction::InUse));
}

/// What comes while it is copied may be much: then it is given up.
#[test]
fn is_given_up_when_much_has_become_live() {
    let directory = made(3, 300);
    let mut engine = on(&directory).unwrap();
    while !directory.has_draft() {
        assert!(matches!(engine.compact(0).unwrap(), Compaction::Going));
    }
    engine.commit((0..40u8).map(|n| put_work(&[b'y', n], vec![n; 60_000])).collect()).unwrap();
    let last = loop {
        match engine.compact(0).unwrap() {
            Compaction::Going => {}
            other => break other,
        }
    };
    assert!(matches!(last, Compaction::GivenUp(EngineError::Refused(_))), "{last:?}");
    assert!(!directory.has_draft());
}

/// Makes the file in memory mostly free.
fn grow(engine: &mut dyn Engine) {
    engine.commit(vec![put_work(b"x", vec![0; 1 << 20])]).unwrap();
    engine
        .commit(vec![Work::Batch(Batch { deletes: vec![b"x".to_vec()], ..Batch::default() })])
        .unwrap();
}

fn put_work(key: &[u8], value: Vec<u8>) -> Work {
    Work::Batch(Batch { puts: vec![(key.to_vec(), value)], ..Batch::default() })
}

#[test]
fn a_snapshot_outlives_the_exchange() {
    let directory = made(5, 300);
    let mut engine = on(&directory).unwrap();
    let snapshots = engine.snapshots();
    let old = snapshots.snapshot().unwrap();
    let before = all(&engine);
    while !matches!(engine.compact(0).unwrap(), Compaction::Done { .. }) {}
    engine.commit(vec![put_work(b"a", vec![1])]).unwrap();
    let read = old.range(&[][..]..&[0xff][..], usize::MAX, false).unwrap();
    assert_eq!(read.into_iter().collect::<std::collections::BTreeMap<_, _>>(), before);
    assert_eq!(snapshots.snapshot().unwrap().get(b"a").unwrap(), Some(vec![1]));
    assert_eq!(old.get(b"a").unwrap(), None);
}

#[test]
fn a_real_file_gets_smaller_and_private_and_nothing_is_left_beside_it() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.redb");
    let limits = CompactionLimits { file_min: 1 << 20, slice: 16 << 10 };
    let mut engine = RedbEngine::open(&path, 1 << 20, true).unwrap().with_limits(limits);
    let large: Vec<Work> = (0..200u8).map(|n| put_work(&[n], vec![n; 30_000])).collect();
    engine.commit(large).unwrap();
    // Some of the last pages stay: redb cuts off free ones at the end by itself.
    let deletes = (0..200u8).filter(|n| n % 40 != 39).map(|n| vec![n]).collect();
    engine.commit(vec![Work::Batch(Batch { deletes, ..Batch::default() })]).unwrap();
    let left = all(&engine);
    let length = |path: &std::path::Path| std::fs::metadata(path).unwrap().len();
    let before = length(&path);
    assert!(matches!(engine.compact(before).unwrap(), Compaction::Unneeded));
    loop {
        match engine.compact(200_000).unwrap() {
            Compaction::Going => {}
            Compaction::Done { before: told, after } => {
                assert_eq!((told, after), (before, length(&path)));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(length(&path) < before / 4, "{before} became {}", length(&path));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    assert!(matches!(RedbEngine::open(&path, 1 << 20, false), Err(EngineError::Locked { .. })));
    engine.commit(vec![put_work(b"new", vec![1])]).unwrap();
    // As a kill leaves it, with a copy under way.
    assert_eq!(all(&engine).len(), left.len() + 1);
    Box::new(engine).close().unwrap();
    std::fs::write(directory.path().join("queue.redb.new"), [1; 10_000]).unwrap();
    let engine = RedbEngine::open(&path, 1 << 20, false).unwrap();
    assert_eq!(all(&engine).len(), left.len() + 1);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_fault_in_memory_costs_the_copy_and_no_more() {
    let filler = filled(200);
    for fault in
        [Fault::Full { applied: false }, Fault::Io { applied: false }, Fault::Io { applied: true }]
    {
        let disk = MemDisk::new();
        disk.compact_with(ALWAYS);
        let mut engine = disk.engine();
        engine.commit(vec![Work::Batch(filler.clone())]).unwrap();
        grow(&mut engine);
        let before = disk.synced();
        (1..10).for_each(|step| disk.fail_step(step, fault));
        let ended = loop {
            match engine.compact(0) {
                Ok(Compaction::Going) => {}
                ended => break ended,
            }
        };
        match fault {
            Fault::Full { .. } => assert!(matches!(ended, Ok(Compaction::GivenUp(_)))),
            _ => assert!(ended.is_err()),
        }
        disk.cut_power();
        assert_eq!(disk.synced(), before, "{fault:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Groups go on between the slices; the engine in memory asserts that the copy is equal at the exchange.
    #[test]
    fn what_is_committed_during_a_copy_is_in_it(groups in groups(), rows in 0..600u16) {
        let disk = MemDisk::new();
        disk.compact_with(ALWAYS);
        let mut engine = disk.engine();
        engine.commit(vec![Work::Batch(filled(rows))]).unwrap();
        grow(&mut engine);
        let played = play(&mut engine, &groups);
        prop_assert!(played.whole && disk.exchanges() > 0);
    }

    /// Power goes at any operation, of the copy, of its completion, of the exchange of names: the file under the name has everything that
    /// was acknowledged, and at the next start no draft is left.
    #[test]
    fn a_power_cut_at_any_step_loses_nothing(groups in groups(), rows in 100..400u16, seed: u64) {
        let states = filled_states(&groups, rows);
        let whole = made(seed, rows);
        let first = whole.file().operations() + 1;
        let disk = whole.file();
        prop_assert!(play(&mut on(&whole).unwrap(), &groups).whole);
        for at in (first..=disk.operations()).step_by(1 + usize::from(rows % 3)) {
            let directory = made(seed, rows);
            directory.file().plan(Some(Plan { at, fault: DiskFault::Power, lasting: true }));
            let done = match on(&directory) {
                Ok(mut engine) => play(&mut engine, &groups).done,
                Err(_) => 0,
            };
            let after = directory.cut(seed ^ at);
            let engine = on(&after).unwrap();
            prop_assert!(!engine.was_repaired());
            prop_assert!(!after.has_draft());
            check(&engine, &states, done);
        }
    }

    /// Any single fault of the disk: the copy is given up, or the commit says so and can be repeated; never is anything lost.
    #[test]
    fn a_fault_at_any_step_is_survived(groups in groups(), rows in 100..300u16, seed: u64, full: bool) {
        let states = filled_states(&groups, rows);
        let fault = if full { DiskFault::NoSpace } else { DiskFault::Broken };
        let whole = made(seed, rows);
        let first = whole.file().operations() + 1;
        let disk = whole.file();
        prop_assert!(play(&mut on(&whole).unwrap(), &groups).whole);
        for at in (first..=disk.operations()).step_by(2) {
            let directory = made(seed, rows);
            directory.file().plan(Some(Plan { at, fault, lasting: false }));
            let Ok(mut engine) = on(&directory) else { continue };
            let played = play(&mut engine, &groups);
            let mut done = played.done;
            if !played.whole && done < groups.len() && engine.reopen().unwrap().is_some() {
                done += 1;
            }
            let found = all(&engine);
            prop_assert!(found == states[done], "fault at {}", at);
            let survivor = on(&directory.cut(seed)).unwrap();
            prop_assert_eq!(all(&survivor), found, "cut after fault at {}", at);
        }
    }
}
