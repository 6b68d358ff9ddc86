//! Bodies come back as they were, over chunk borders, generations, clean closes, power cuts and faults of the disk.

use std::collections::BTreeMap;

use proptest::prelude::*;
use redb::StorageBackend;

use super::files::Access;
use super::*;
use crate::store::engine::redb::RedbEngine;
use crate::store::engine::sim_disk::{DiskFault, Plan, SimDisk};
use crate::store::engine::{Engine, EngineError};

/// Files on simulated disks. A file gets its name when it is complete, as in a directory.
#[derive(Default)]
struct SimFiles {
    disks: Mutex<BTreeMap<u32, SimDisk>>,
    seed: u64,
}

impl SimFiles {
    fn new(seed: u64) -> Arc<SimFiles> {
        Arc::new(SimFiles { seed, ..SimFiles::default() })
    }

    fn disk(&self, number: u32) -> SimDisk {
        self.disks.lock().unwrap()[&number].clone()
    }

    /// What a power cut leaves.
    fn cut(&self, seed: u64) -> Arc<SimFiles> {
        let disks = self.disks.lock().unwrap();
        let disks = disks.iter().map(|(number, disk)| (*number, disk.cut(seed))).collect();
        Arc::new(SimFiles { disks: Mutex::new(disks), seed })
    }
}

impl Files for SimFiles {
    fn list(&self) -> Result<Vec<(u32, u64)>, EngineError> {
        Ok(self.disks.lock().unwrap().keys().map(|number| (*number, 0)).collect())
    }

    fn create(&self, number: u32) -> Result<(), EngineError> {
        let disk = SimDisk::new(self.seed.wrapping_add(number.into()));
        let file = disk.clone();
        let place = Box::new(move || Ok(Box::new(file.clone()) as Box<dyn redb::StorageBackend>));
        Box::new(RedbEngine::at(files::name(number), place, 1 << 20)?).close()?;
        self.disks.lock().unwrap().insert(number, disk);
        Ok(())
    }

    fn open(
        &self,
        number: u32,
        access: Access,
    ) -> Result<Box<dyn redb::StorageBackend>, EngineError> {
        let disk = self.disk(number);
        Ok(match access {
            Access::Read | Access::Write => Box::new(disk),
            Access::Afresh => Box::new(
                disk.open_again()
                    .map_err(|source| EngineError::Io { what: files::name(number), source })?,
            ),
        })
    }

    fn allocated(&self, number: u32) -> Result<u64, EngineError> {
        self.disk(number)
            .len()
            .map_err(|source| EngineError::Io { what: files::name(number), source })
    }

    fn remove(&self, number: u32) -> Result<(), EngineError> {
        self.disks.lock().unwrap().remove(&number);
        Ok(())
    }
}

const OPTIONS: BodyOptions =
    BodyOptions { cache_size: 4 << 20, generation_size: 1 << 30, first_generation: 1 };

fn key(number: u64) -> QueueId {
    QueueId::from_u64(number)
}

/// Octets of which no two stretches are alike.
fn body(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(length as u64);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

async fn stage(bodies: &Bodies, number: u64, bytes: &[u8]) -> Result<BodyRef, StoreError> {
    let mut staging = bodies.begin(key(number))?;
    staging.write(bytes).await?;
    staging.seal().await
}

async fn read_all(bodies: &Bodies, body: &BodyRef) -> Result<Vec<u8>, StoreError> {
    let BodyRef::Generation { generation, key } = body else { panic!("{body:?}") };
    let mut all = Vec::new();
    loop {
        let bytes = bodies.read(*generation, *key, all.len() as u64).await?;
        if bytes.is_empty() {
            return Ok(all);
        }
        assert!(bytes.len() <= READ_MAX);
        all.extend(bytes);
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(future)
}

/// Lengths at and around the borders of chunks, reads and slices.
fn lengths() -> impl Strategy<Value = usize> {
    let slice = SLICE_CHUNKS * CHUNK_MAX;
    let borders: Vec<usize> = CHUNK_SIZES.into_iter().chain([0, READ_MAX, slice]).collect();
    prop_oneof![
        (prop::sample::select(borders), 0..3usize, 0..5000usize)
            .prop_map(|(a, times, more)| { a * times + more }),
        0..200_000usize,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn chunks_are_the_body_cut_to_fit(length in lengths()) {
        let bytes = body(length);
        let mut at = 0;
        for (offset, chunk) in chunks(&bytes) {
            prop_assert_eq!(offset, at as u64);
            prop_assert_eq!(chunk, &bytes[at..at + chunk.len()]);
            at += chunk.len();
            let last = at == length;
            prop_assert!(CHUNK_SIZES.contains(&chunk.len()) || (last && chunk.len() < CHUNK_SIZES[4]));
        }
        prop_assert_eq!(at, length);
    }

    #[test]
    fn a_body_comes_back_from_any_offset(length in lengths(), step in 1..90_000usize, from: prop::sample::Index) {
        block_on(async {
            let (bodies, _) = Bodies::open_files(SimFiles::new(0), OPTIONS).unwrap();
            let bytes = body(length);
            let mut staging = bodies.begin(key(7)).unwrap();
            for piece in bytes.chunks(step) {
                staging.write(piece).await.unwrap();
            }
            let sealed = staging.seal().await.unwrap();
            let other = stage(&bodies, 8, b"another message").await.unwrap();
            assert_eq!(read_all(&bodies, &sealed).await.unwrap(), bytes);
            assert_eq!(read_all(&bodies, &other).await.unwrap(), b"another message");
            let offset = from.index(length + 1);
            let part = bodies.read(staging.generation(), key(7), offset as u64).await.unwrap();
            assert!(bytes[offset..].starts_with(&part));
            assert_eq!(part.is_empty(), offset == length);
        });
    }

    /// Power goes at any operation; every sealed body is whole at the next start, after it has been verified.
    #[test]
    fn a_power_cut_leaves_every_sealed_body(lengths in prop::collection::vec(lengths(), 1..5), at in 1..60u64, seed: u64) {
        block_on(async {
            let files = SimFiles::new(seed);
            let (bodies, _) = Bodies::open_files(Arc::clone(&files) as _, OPTIONS).unwrap();
            let disk = files.disk(1);
            let at = disk.operations() + at;
            disk.plan(Some(Plan { at, fault: DiskFault::Power, lasting: true }));
            let mut sealed = Vec::new();
            for (number, length) in lengths.iter().enumerate() {
                if let Ok(named) = stage(&bodies, number as u64, &body(*length)).await {
                    sealed.push((named, *length));
                }
            }
            let (bodies, found) = Bodies::open_files(files.cut(seed), OPTIONS).unwrap();
            assert!(found.iter().any(|found| !found.clean));
            assert!(bodies.begin(key(99)).unwrap().generation() > 1, "mail is taken at once");
            for (named, length) in sealed {
                assert_eq!(read_all(&bodies, &named).await.unwrap(), body(length));
            }
        });
    }

    /// One fault at any operation: what was sealed is there, what failed says so, and the next body has a file.
    #[test]
    fn a_fault_costs_what_is_staged_and_no_more(lengths in prop::collection::vec(lengths(), 1..5), at in 1..60u64, seed: u64, full: bool) {
        block_on(async {
            let files = SimFiles::new(seed);
            let (bodies, _) = Bodies::open_files(Arc::clone(&files) as _, OPTIONS).unwrap();
            let disk = files.disk(1);
            let at = disk.operations() + at;
            let fault = if full { DiskFault::NoSpace } else { DiskFault::Broken };
            disk.plan(Some(Plan { at, fault, lasting: false }));
            let mut sealed = Vec::new();
            for (number, length) in lengths.iter().enumerate() {
                match stage(&bodies, number as u64, &body(*length)).await {
                    Ok(named) => sealed.push((named, *length)),
                    Err(StoreError::Full) => assert!(full),
                    Err(StoreError::Unavailable(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            // The fault strikes here at the latest, and the next file may take a moment.
            disk.plan(None);
            let last = loop {
                match stage(&bodies, 100, &body(5000)).await {
                    Ok(named) => break named,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            sealed.push((last, 5000));
            for (named, length) in sealed {
                assert_eq!(read_all(&bodies, &named).await.unwrap(), body(length));
            }
        });
    }
}

#[tokio::test]
async fn a_full_generation_makes_room_for_the_next() {
    let options = BodyOptions { generation_size: 100_000, ..OPTIONS };
    let files = SimFiles::new(1);
    let (bodies, _) = Bodies::open_files(Arc::clone(&files) as _, options).unwrap();
    let mut early = bodies.begin(key(1)).unwrap();
    early.write(&body(300_000)).await.unwrap();
    let mut sealed = Vec::new();
    for number in 2..60 {
        sealed.push(stage(&bodies, number, &body(60_000)).await.unwrap());
    }
    assert_eq!(early.generation(), 1);
    assert!(!bodies.unlink(1).await.unwrap(), "pinned");
    let sealed_early = early.seal().await.unwrap();
    assert!(!bodies.unlink(1).await.unwrap(), "still pinned");
    drop(early);
    assert_eq!(read_all(&bodies, &sealed_early).await.unwrap(), body(300_000));
    for body_ref in &sealed {
        assert_eq!(read_all(&bodies, body_ref).await.unwrap(), body(60_000));
    }
    let usage = bodies.usage();
    assert!(usage.len() > generation::OPEN_MAX + 2, "{usage:?}");
    assert!(bodies.inner.table().open.len() <= generation::OPEN_MAX);
    let current = usage.iter().find(|usage| usage.current).unwrap().generation;
    assert!(!bodies.unlink(current).await.unwrap(), "current");
    bodies.thread.send(Request::Look).await.unwrap();
    while !bodies.unlink(2).await.unwrap() {
        tokio::task::yield_now().await;
    }
    assert!(!files.disks.lock().unwrap().contains_key(&2));
    assert!(matches!(bodies.read(2, key(2), 0).await, Err(StoreError::Damaged { .. })));
    assert!(matches!(bodies.copy(1, key(1), 300_001).await, Err(StoreError::Damaged { .. })));
    assert!(matches!(bodies.copy(1, key(99), 300_000).await, Err(StoreError::Damaged { .. })));
    let copy = bodies.copy(1, key(1), 300_000).await.unwrap();
    let copied = BodyRef::Generation { generation: copy.generation(), key: key(1) };
    assert_ne!(copied, sealed_early);
    assert_eq!(read_all(&bodies, &copied).await.unwrap(), body(300_000));
}

#[tokio::test]
async fn a_current_generation_that_is_turned_over_can_go() {
    let files = SimFiles::new(1);
    let (bodies, _) = Bodies::open_files(Arc::clone(&files) as _, OPTIONS).unwrap();
    stage(&bodies, 1, &body(5000)).await.unwrap();
    assert!(!bodies.unlink(1).await.unwrap(), "current");
    bodies.turn_over(1);
    while !bodies.unlink(1).await.unwrap() {
        tokio::task::yield_now().await;
    }
    assert!(!files.disks.lock().unwrap().contains_key(&1));
    let next = stage(&bodies, 2, &body(5000)).await.unwrap();
    assert_eq!(read_all(&bodies, &next).await.unwrap(), body(5000));
}

#[tokio::test]
async fn an_unfinished_body_is_deleted() {
    let (bodies, _) = Bodies::open_files(SimFiles::new(1), OPTIONS).unwrap();
    let mut staging = bodies.begin(key(1)).unwrap();
    staging.write(&body(STAGED_MAX)).await.unwrap();
    let generation = staging.generation();
    drop(staging);
    let other = stage(&bodies, 2, b"x").await.unwrap();
    assert_eq!(read_all(&bodies, &other).await.unwrap(), b"x");
    assert_eq!(bodies.read(generation, key(1), 0).await.unwrap(), b"");
}

/// The word that a body is abandoned meets the next try at the same body in one group.
#[tokio::test]
async fn an_unfinished_body_takes_nothing_from_the_next_try() {
    let (bodies, _) = Bodies::open_files(SimFiles::new(1), OPTIONS).unwrap();
    for number in 1..40 {
        let mut given_up = bodies.begin(key(number)).unwrap();
        given_up.write(&body(STAGED_MAX)).await.unwrap();
        drop(given_up);
        let sealed = stage(&bodies, number, &body(60_000)).await.unwrap();
        assert!(read_all(&bodies, &sealed).await.unwrap() == body(60_000), "body {number}");
    }
}

#[tokio::test]
async fn a_directory_is_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let crashed = tempfile::tempdir().unwrap();
    let (bodies, found) = Bodies::open(directory.path(), OPTIONS).unwrap();
    assert_eq!(found, []);
    let sealed = stage(&bodies, 1, &body(100_000)).await.unwrap();
    // As a kill leaves it.
    let name = files::name(1);
    std::fs::copy(directory.path().join(&name), crashed.path().join(&name)).unwrap();
    bodies.close().await.unwrap();
    assert!(matches!(bodies.begin(key(2)), Err(StoreError::Closing)));
    assert!(matches!(bodies.read(1, key(1), 0).await, Err(StoreError::Closing)));

    let (bodies, found) = Bodies::open(directory.path(), OPTIONS).unwrap();
    assert_eq!(found, [Found { generation: 1, clean: true }]);
    assert_eq!(bodies.begin(key(2)).unwrap().generation(), 1, "goes on where it was");
    assert_eq!(read_all(&bodies, &sealed).await.unwrap(), body(100_000));

    let (bodies, found) = Bodies::open(crashed.path(), OPTIONS).unwrap();
    assert_eq!(found, [Found { generation: 1, clean: false }]);
    assert_eq!(bodies.begin(key(2)).unwrap().generation(), 2);
    assert_eq!(read_all(&bodies, &sealed).await.unwrap(), body(100_000));
}

#[tokio::test]
async fn a_damaged_file_hurts_its_own_messages_only() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(files::name(3)), [7; 40_000]).unwrap();
    let (bodies, found) = Bodies::open(directory.path(), OPTIONS).unwrap();
    assert_eq!(found, [Found { generation: 3, clean: false }]);
    assert!(matches!(bodies.read(3, key(1), 0).await, Err(StoreError::Damaged { .. })));
    let sealed = stage(&bodies, 1, b"mail").await.unwrap();
    assert_eq!(read_all(&bodies, &sealed).await.unwrap(), b"mail");
    assert!(bodies.unlink(3).await.unwrap());
}

/// redb doubles a file that is full: a generation ends before that, with its size in octets on the disk, whatever the bodies are.
#[tokio::test]
async fn a_generation_has_its_size_on_the_disk_and_not_twice() {
    const SIZE: u64 = 16 << 20;
    for length in [700, 4390, 30_000, 300_000] {
        let directory = tempfile::tempdir().unwrap();
        let options = BodyOptions { generation_size: SIZE, ..OPTIONS };
        let (bodies, _) = Bodies::open(directory.path(), options).unwrap();
        let bytes = body(length);
        let mut number = 0u64;
        while bodies.usage().len() == 1 {
            let group = (0..(1u64 << 18).div_ceil(length as u64)).map(|n| key(number + n));
            let mut group: Vec<Staging> = group.map(|key| bodies.begin(key).unwrap()).collect();
            number += group.len() as u64;
            for staging in &mut group {
                staging.write(&bytes).await.unwrap();
                staging.send_rest().await.unwrap();
            }
            for staging in &mut group {
                staging.seal().await.unwrap();
            }
        }
        bodies.close().await.unwrap();
        let file = std::fs::metadata(directory.path().join(files::name(1))).unwrap();
        let octets = number * length as u64;
        assert!(file.len() < SIZE + SIZE / 8, "{} for bodies of {length}", file.len());
        assert!(octets > SIZE / 2, "{octets} in bodies of {length}");
    }
}
