//! What every engine must do, run on each: in memory, redb in a directory, redb on a simulated disk; and what redb must
//! survive: a power cut at any operation, and any single fault of the disk.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use proptest::prelude::*;

use super::mem::{Fault, MemDisk};
use super::redb::RedbEngine;
use super::sim_disk::{DiskFault, Plan, SimDirectory, SimDisk};
use super::*;

const CACHE: usize = 1 << 20;

pub(super) fn on_sim(disk: &SimDisk) -> Result<RedbEngine, EngineError> {
    let place = Box::new(SimDirectory::new(disk.clone()));
    RedbEngine::at("simulated".into(), place, CACHE)
}

/// Runs `test` on a fresh engine of each kind.
fn on_each(test: impl Fn(&str, &mut dyn Engine)) {
    test("mem", &mut MemDisk::new().engine());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.redb");
    test("redb", &mut RedbEngine::open(&path, CACHE, true).unwrap());
    test("redb, simulated", &mut on_sim(&SimDisk::new(0)).unwrap());
}

fn put(key: &str, value: &str) -> Batch {
    Batch { puts: vec![(key.into(), value.into())], ..Batch::default() }
}

fn add(key: &str, delta: i64) -> Batch {
    Batch { adds: vec![(key.into(), delta)], ..Batch::default() }
}

fn late(f: impl FnMut(&dyn Read) -> Result<Batch, EngineError> + Send + 'static) -> Work {
    Work::Late(Box::new(f))
}

/// Commits units of which none is refused.
fn commit(engine: &mut dyn Engine, units: Vec<Work>) -> Vec<Applied> {
    engine.commit(units).unwrap().into_iter().map(Result::unwrap).collect()
}

pub(super) fn all(engine: &dyn Engine) -> BTreeMap<Key, Value> {
    let snapshot = engine.snapshots().snapshot().unwrap();
    snapshot.range(&[][..]..&[0xff; 8][..], usize::MAX, false).unwrap().into_iter().collect()
}

fn text(engine: &dyn Engine) -> String {
    let pairs = all(engine).into_iter().map(|(key, value)| {
        format!("{}={}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value))
    });
    pairs.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_batch_is_applied_whole_or_not_at_all() {
    on_each(|name, engine| {
        let batch = Batch {
            checks: vec![Check::Absent("a".into()), Check::Present("b".into())],
            ..put("a", "1")
        };
        let answers = commit(engine, vec![Work::Batch(batch.clone())]);
        assert_eq!(answers, [Applied::Conflict(1)], "{name}");
        assert_eq!(text(engine), "", "{name}");
        let answers = commit(engine, vec![Work::Batch(put("b", "2")), Work::Batch(batch)]);
        assert_eq!(answers, [Applied::Committed, Applied::Committed], "{name}");
        assert_eq!(text(engine), "a=1 b=2", "{name}");
        let equals = |value: &str| Batch {
            checks: vec![Check::Equals("b".into(), value.into())],
            deletes: vec!["b".into()],
            ..Batch::default()
        };
        let answers = commit(engine, vec![Work::Batch(equals("3")), Work::Batch(equals("2"))]);
        assert_eq!(answers, [Applied::Conflict(0), Applied::Committed], "{name}");
        assert_eq!(text(engine), "a=1", "{name}");
    });
}

#[test]
fn later_units_see_earlier_ones() {
    on_each(|name, engine| {
        commit(engine, vec![Work::Batch(put("b", "old")), Work::Batch(put("d", "4"))]);
        let look = late(|state| {
            let seen = state.range(&b"a"[..]..&b"e"[..], 3, false)?;
            let back = state.keys(&b"a"[..]..&b"e"[..], 2, true)?;
            assert_eq!(back, [b"d".to_vec(), b"c".to_vec()]);
            let seen: Vec<_> = seen.into_iter().map(|(key, _)| key).collect();
            Ok(Batch { puts: vec![("seen".into(), seen.concat())], ..Batch::default() })
        });
        let batch = Batch {
            delete_ranges: vec![("a".into(), "c".into())],
            puts: vec![("a".into(), "1".into()), ("c".into(), "3".into())],
            ..Batch::default()
        };
        commit(engine, vec![Work::Batch(batch), look]);
        assert_eq!(text(engine), "a=1 c=3 d=4 seen=acd", "{name}");
    });
}

#[test]
fn counters_add_up_within_and_over_groups() {
    on_each(|name, engine| {
        let check = late(|state| {
            assert_eq!(state.get(b"n")?, Some(5i64.to_be_bytes().to_vec()));
            Ok(add("n", 0))
        });
        commit(engine, vec![Work::Batch(add("n", 7)), Work::Batch(add("n", -2)), check]);
        assert_eq!(all(engine)[&b"n"[..]], 5i64.to_be_bytes(), "{name}");
        commit(engine, vec![Work::Batch(add("n", -5))]);
        assert_eq!(text(engine), "", "{name}: a counter at zero goes");
    });
}

#[test]
fn a_refused_unit_fails_alone() {
    on_each(|name, engine| {
        commit(engine, vec![Work::Batch(put("odd", "not a counter"))]);
        let units = vec![
            Work::Batch(put("a", "1")),
            late(|_| Err(EngineError::Refused("gone".into()))),
            late(|_| panic!("a defect")),
            Work::Batch(Batch { adds: vec![("odd".into(), 1)], ..put("b", "2") }),
            Work::Batch(put("c", "3")),
        ];
        let answers = engine.commit(units).unwrap();
        assert!(matches!(&answers[1], Err(EngineError::Refused(why)) if why == "gone"), "{name}");
        assert!(matches!(&answers[2], Err(EngineError::Refused(why)) if why.contains("a defect")));
        assert!(matches!(&answers[3], Err(EngineError::Corrupt { .. })), "{name}");
        assert_eq!(text(engine), "a=1 c=3 odd=not a counter", "{name}");
    });
}

#[test]
fn ranges_have_limits_and_two_directions() {
    on_each(|name, engine| {
        let units = ["a", "b", "c", "d"].map(|key| Work::Batch(put(key, key)));
        commit(engine, units.into());
        let snapshot = engine.snapshots().snapshot().unwrap();
        let keys = |range: Range<&str>, limit, reverse| {
            let range = range.start.as_bytes()..range.end.as_bytes();
            let keys = snapshot.keys(range.clone(), limit, reverse).unwrap();
            let pairs = snapshot.range(range, limit, reverse).unwrap();
            assert!(pairs.iter().map(|(key, _)| key).eq(keys.iter()));
            String::from_utf8(keys.concat()).unwrap()
        };
        assert_eq!(keys("b".."d", 9, false), "bc", "{name}");
        assert_eq!(keys("a".."z", 2, true), "dc", "{name}");
        assert_eq!(keys("a".."z", 0, true), "", "{name}");
        assert_eq!(keys("c".."b", 9, false), "", "{name}: an empty range");
    });
}

#[test]
fn a_snapshot_stays_as_it_was() {
    on_each(|name, engine| {
        commit(engine, vec![Work::Batch(put("a", "1"))]);
        let snapshot = engine.snapshots().snapshot().unwrap();
        commit(engine, vec![Work::Batch(put("a", "2"))]);
        assert_eq!(snapshot.get(b"a").unwrap(), Some(b"1".to_vec()), "{name}");
        assert_eq!(text(engine), "a=2", "{name}");
    });
}

#[test]
fn a_file_is_private_locked_and_there_again() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.redb");
    let missing = RedbEngine::open(&path, CACHE, false).err().unwrap();
    assert!(
        matches!(missing, EngineError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    );
    let mut engine = RedbEngine::open(&path, CACHE, true).unwrap();
    commit(&mut engine, vec![Work::Batch(put("a", "1"))]);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(RedbEngine::open(&path, CACHE, true), Err(EngineError::Locked { .. })));
    Box::new(engine).close().unwrap();
    let engine = RedbEngine::open(&path, CACHE, false).unwrap();
    assert_eq!(text(&engine), "a=1");
    std::fs::write(directory.path().join("foreign"), b"From somebody Sun Nov 22\n".repeat(500))
        .unwrap();
    let foreign = RedbEngine::open(Path::new(&directory.path().join("foreign")), CACHE, false);
    assert!(foreign.is_err());
}

#[test]
fn what_an_interrupted_creation_left_is_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.redb");
    std::fs::write(directory.path().join("queue.redb.new"), [1; 10_000]).unwrap();
    let engine = RedbEngine::open(&path, CACHE, true).unwrap();
    assert_eq!(text(&engine), "");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

/// What the units of one random group do, as data, so that a model can do the same.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Put(u8, u16),
    Delete(u8),
    DeleteRange(u8, u8),
    Add(u8, i8),
    PutIfAbsent(u8, u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..20u8, 0..6000u16).prop_map(|(key, size)| Step::Put(key, size)),
        (0..20u8).prop_map(Step::Delete),
        (0..20u8, 0..20u8).prop_map(|(start, end)| Step::DeleteRange(start, end)),
        (0..3u8, -3..4i8).prop_map(|(key, delta)| Step::Add(key, delta)),
        (0..20u8, 0..100u16).prop_map(|(key, size)| Step::PutIfAbsent(key, size)),
    ]
}

pub(super) fn groups() -> impl Strategy<Value = Vec<Vec<Step>>> {
    prop::collection::vec(prop::collection::vec(step(), 1..8), 1..10)
}

impl Step {
    pub fn work(&self) -> Work {
        let batch = match *self {
            Step::Put(key, size) => {
                Batch { puts: vec![(vec![b'k', key], vec![key; size.into()])], ..Batch::default() }
            }
            Step::Delete(key) => Batch { deletes: vec![vec![b'k', key]], ..Batch::default() },
            Step::DeleteRange(start, end) => Batch {
                delete_ranges: vec![(vec![b'k', start], vec![b'k', end])],
                ..Batch::default()
            },
            Step::Add(key, delta) => {
                Batch { adds: vec![(vec![b'n', key], delta.into())], ..Batch::default() }
            }
            Step::PutIfAbsent(key, size) => {
                return late(move |state| {
                    if state.get(&[b'k', key])?.is_some() {
                        return Ok(Batch::default());
                    }
                    let puts = vec![(vec![b'k', key], vec![key; size.into()])];
                    Ok(Batch { puts, ..Batch::default() })
                });
            }
        };
        Work::Batch(batch)
    }

    fn model(&self, model: &mut BTreeMap<Key, Value>) {
        match *self {
            Step::Put(key, size) => drop(model.insert(vec![b'k', key], vec![key; size.into()])),
            Step::Delete(key) => drop(model.remove(&vec![b'k', key])),
            Step::DeleteRange(start, end) => {
                model.retain(|key, _| key[0] != b'k' || !(start..end).contains(&key[1]));
            }
            Step::Add(key, delta) => {
                let key = vec![b'n', key];
                let before =
                    model.get(&key).map_or(0, |v| i64::from_be_bytes(v[..].try_into().unwrap()));
                match before + i64::from(delta) {
                    0 => drop(model.remove(&key)),
                    sum => drop(model.insert(key, sum.to_be_bytes().into())),
                }
            }
            Step::PutIfAbsent(key, size) => {
                model.entry(vec![b'k', key]).or_insert_with(|| vec![key; size.into()]);
            }
        }
    }
}

/// The states after 0, 1, 2... groups.
pub(super) fn states(groups: &[Vec<Step>]) -> Vec<BTreeMap<Key, Value>> {
    let mut model = BTreeMap::new();
    let mut states = vec![model.clone()];
    for group in groups {
        group.iter().for_each(|step| step.model(&mut model));
        states.push(model.clone());
    }
    states
}

/// Commits groups from the `done`-th on until one fails; says how many are acknowledged.
pub(super) fn play(engine: &mut dyn Engine, groups: &[Vec<Step>], mut done: usize) -> usize {
    for group in &groups[done..] {
        if engine.commit(group.iter().map(Step::work).collect()).is_err() {
            break;
        }
        done += 1;
    }
    done
}

/// A file that is complete: one gets its name only then.
fn made(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    Box::new(on_sim(&disk).unwrap()).close().unwrap();
    disk
}

/// Opens it and plays all groups; says how many are acknowledged.
fn play_on(disk: &SimDisk, groups: &[Vec<Step>]) -> usize {
    match on_sim(disk) {
        Ok(mut engine) => play(&mut engine, groups, 0),
        Err(_) => 0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_engine_does_what_the_model_does(groups in groups()) {
        let states = states(&groups);
        on_each(|name, engine| {
            for (group, state) in groups.iter().zip(&states[1..]) {
                commit(engine, group.iter().map(Step::work).collect());
                assert_eq!(&all(engine), state, "{name}");
            }
        });
    }

    /// Cut at every operation, then again while it recovers, then again: whatever was acknowledged is there, and at most
    /// the group in flight beside it, whole.
    #[test]
    fn power_cuts_lose_nothing_and_tear_nothing(groups in groups(), seed: u64) {
        let states = states(&groups);
        let whole = made(seed);
        let first = whole.operations() + 1;
        prop_assert_eq!(play_on(&whole, &groups), groups.len());
        for at in first..=whole.operations() {
            let mut disk = made(seed);
            disk.plan(Some(Plan { at, fault: DiskFault::Power, lasting: true }));
            let mut done = play_on(&disk, &groups);
            for depth in 0..2 {
                disk = disk.cut(seed ^ at ^ depth);
                let at = 1 + (seed ^ at) % 9;
                disk.plan(Some(Plan { at, fault: DiskFault::Power, lasting: true }));
                if let Ok(engine) = on_sim(&disk) {
                    done = check(&engine, &states, done);
                }
            }
            let disk = disk.cut(seed.rotate_left(7) ^ at);
            let mut engine = on_sim(&disk).unwrap();
            prop_assert!(!engine.was_repaired());
            done = check(&engine, &states, done);
            prop_assert_eq!(play(&mut engine, &groups, done), groups.len());
            prop_assert_eq!(&all(&engine), &states[groups.len()]);
        }
    }

    /// Any single fault at any operation: the engine says so or nothing of it was lost, it can be opened again, knows
    /// what became of the group in doubt, can repeat it, and a power cut after that agrees.
    #[test]
    fn any_fault_of_the_disk_is_survived(groups in groups(), seed: u64, full: bool) {
        let states = states(&groups);
        let fault = if full { DiskFault::NoSpace } else { DiskFault::Broken };
        let whole = made(seed);
        let first = whole.operations() + 1;
        prop_assert_eq!(play_on(&whole, &groups), groups.len());
        for at in first..=whole.operations() {
            let disk = made(seed ^ at);
            disk.plan(Some(Plan { at, fault, lasting: false }));
            let Ok(mut engine) = on_sim(&disk) else { continue };
            let mut done = play(&mut engine, &groups, 0);
            if done < groups.len() {
                let answers = match engine.reopen().unwrap() {
                    Some(answers) => Some(answers),
                    None => {
                        prop_assert_eq!(&all(&engine), &states[done], "fault at {}", at);
                        engine.repeat().unwrap()
                    }
                };
                if let Some(answers) = answers {
                    prop_assert_eq!(answers.len(), groups[done].len());
                    done += 1;
                }
                prop_assert_eq!(&all(&engine), &states[done], "fault at {}", at);
                let survivor = on_sim(&disk.cut(seed)).unwrap();
                prop_assert_eq!(&all(&survivor), &states[done], "cut after fault at {}", at);
            }
            prop_assert_eq!(play(&mut engine, &groups, done), groups.len());
            let survivor = on_sim(&disk.cut(seed)).unwrap();
            prop_assert_eq!(&all(&survivor), &states[groups.len()]);
        }
    }
}

/// The groups that are there: the acknowledged ones, or one more.
pub(super) fn check(engine: &dyn Engine, states: &[BTreeMap<Key, Value>], done: usize) -> usize {
    let found = all(engine);
    let more = states.get(done + 1).is_some_and(|next| *next == found);
    assert!(more || found == states[done], "{done} groups were acknowledged");
    if found == states[done] { done } else { done + 1 }
}

#[test]
fn a_commit_in_doubt_is_told_apart() {
    for (applied, expected) in [(true, Some(1)), (false, None)] {
        for fault in [Fault::Io { applied }, Fault::Full { applied }] {
            let disk = MemDisk::new();
            let mut engine = disk.engine();
            disk.fail_commit(1, fault);
            assert!(engine.commit(vec![Work::Batch(put("a", "1"))]).is_err());
            assert!(engine.commit(vec![Work::Batch(put("b", "1"))]).is_err(), "not before reopen");
            let answers = engine.reopen().unwrap();
            assert_eq!(answers.map(|answers| answers.len()), expected, "{fault:?}");
        }
    }
}
