//! How long the loop rests when there is nothing to do.

use super::*;
use crate::config::Config;
use crate::deliver::Mailers;
use crate::maillog::Maillog;
use crate::queue::run::Run;
use crate::store::engine::mem::MemDisk;
use crate::store::{Store, StoreOptions};
use crate::world::Clock;
use crate::world::fake::FakeWorld;

fn house(directory: &tempfile::TempDir) -> House {
    let world = FakeWorld::default();
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
    let store = Store::with_engine(options, Box::new(MemDisk::new().engine()), None).unwrap();
    let (config, world) = (Arc::new(Config::default()), world.world());
    let mailers = Arc::new(Mailers::new(config.clone(), world.clone(), store.clone()));
    House { config, store, world, mailers, maillog: Maillog::discard().unwrap() }
}

#[tokio::test(start_paused = true)]
async fn whoever_has_nothing_to_do_rests() {
    let directory = tempfile::tempdir().unwrap();
    let house = house(&directory);
    let interval = Some(Duration::from_secs(900));
    for (initiative, interval) in
        [(Initiative::Asked, None), (Initiative::Due, None), (Initiative::Due, interval)]
    {
        let mut runner = Runner::new(house.clone(), interval, initiative);
        // What may be in the store at the start is read in a few turns.
        let turns = (0..10).find(|_| runner.feed().unwrap() == REST_MAX);
        assert!(turns.is_some(), "{initiative:?} {interval:?}");
        tokio::time::advance(REST_MAX).await;
        assert!((0..3).any(|_| runner.feed().unwrap() == REST_MAX), "{initiative:?} {interval:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_runs_are_under_way_than_are_allowed() {
    use crate::mail::selection::{Field, Selection, Term};
    let directory = tempfile::tempdir().unwrap();
    let mut runner = Runner::new(house(&directory), None, Initiative::Asked);
    let mut ask = |number: usize| {
        let substring = number.to_string();
        let terms = vec![Term { field: Field::Sender, negated: false, substring }];
        let run = Run { selection: Selection { terms, lost: false }, ..Run::default() };
        let (progress, heard) = mpsc::channel(10);
        runner.requested(RunRequest::Queue { run, progress: Some(progress) });
        heard
    };
    let mut taken: Vec<_> = (0..RUNS_MAX).map(&mut ask).collect();
    assert!(taken.iter_mut().all(|heard| heard.try_recv().is_err()));
    let mut refused = ask(RUNS_MAX);
    assert!(matches!(refused.try_recv(), Ok(Progress::Line(line)) if line.contains("Too many")));
    assert_eq!(refused.try_recv(), Ok(Progress::Done { exit: 75 }));
}
