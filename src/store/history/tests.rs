//! The history with a real file: what is kept, what goes, what a reader sees.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::mail::history::Fate;

const START: u64 = 1_795_328_479;

struct Bench {
    directory: tempfile::TempDir,
    now: Arc<AtomicU64>,
    told: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    fn new() -> Bench {
        Bench {
            directory: tempfile::tempdir().unwrap(),
            now: Arc::new(AtomicU64::new(START)),
            told: Arc::default(),
        }
    }

    fn open(&self, keep: u64, size_max: u64) -> History {
        let (now, told) = (Arc::clone(&self.now), Arc::clone(&self.told));
        History::open(HistoryOptions {
            directory: self.directory.path().to_owned(),
            keep: Duration::from_secs(keep),
            size_max,
            min_free: 0,
            clock: Arc::new(move || Timestamp::from_secs(now.load(Ordering::Relaxed))),
            tell: Box::new(move |line| told.lock().unwrap().push(line.to_owned())),
        })
        .unwrap()
    }

    fn id(&self) -> QueueId {
        QueueId::at(Timestamp::from_secs(self.now.load(Ordering::Relaxed)))
    }

    fn pass(&self, seconds: u64) {
        self.now.fetch_add(seconds, Ordering::Relaxed);
    }
}

fn accepted(sender: &str) -> What {
    What::Accepted {
        sender: sender.into(),
        relay: "root@localhost".into(),
        protocol: String::new(),
        message_id: "<1@x>".into(),
        size: 31,
        recipients: 1,
    }
}

fn sent() -> What {
    What::Attempted {
        recipients: vec!["x@sink.example".into()],
        destination: "sink.example".into(),
        relay: "sink.example [192.0.2.1]".into(),
        fate: Fate::Sent,
        status: "2.0.0".into(),
        text: "Sent (Ok)".into(),
        took: 12,
    }
}

fn all(history: &History) -> Vec<(QueueId, usize)> {
    history.flush();
    let rows = history.rows(None, None, 1_000_000).unwrap();
    rows.into_iter().map(|row| (row.id, row.events.len())).collect()
}

#[test]
fn what_happened_is_there_at_once_and_after_a_restart() {
    let bench = Bench::new();
    let history = bench.open(100, 1 << 20);
    let (one, two) = (bench.id(), bench.id().next());
    history.record(one, accepted("a@b"));
    history.record(two, accepted(""));
    history.record(one, sent());
    // The events of one batch are one row.
    assert_eq!(all(&history), [(one, 2), (two, 1)]);
    history.record(one, What::Done { attempts: 1 });
    history.close();
    let history = bench.open(100, 1 << 20);
    history.flush();
    let rows = history.rows(Some(one), None, 10).unwrap();
    let events: Vec<_> = rows.iter().flat_map(|row| &row.events).map(|e| &e.what).collect();
    assert_eq!(events, [&accepted("a@b"), &sent(), &What::Done { attempts: 1 }]);
    let behind = history.rows(None, Some((one, rows[0].place)), 10).unwrap();
    assert_eq!(behind.iter().map(|row| row.id).collect::<Vec<_>>(), [one, two]);
    history.close();
    assert_eq!(*bench.told.lock().unwrap(), [""; 0]);
}

#[test]
fn old_rows_go_and_young_ones_of_old_messages_stay() {
    let bench = Bench::new();
    let history = bench.open(100, 1 << 20);
    let old = bench.id();
    history.record(old, accepted("a@b"));
    assert_eq!(all(&history).len(), 1);
    bench.pass(90);
    history.record(old, sent());
    let young = bench.id();
    history.record(young, accepted("c@d"));
    assert_eq!(all(&history), [(old, 1), (old, 1), (young, 1)]);
    bench.pass(20);
    // Each reading is a turn of the thread, and each turn sweeps.
    assert_eq!(all(&history), [(old, 1), (young, 1)]);
    bench.pass(100);
    assert_eq!(all(&history), []);
    history.close();
    let history = bench.open(100, 1 << 20);
    history.flush();
    let left = history.shared.lock().snapshots.clone().unwrap().snapshot().unwrap();
    assert_eq!(counter(&*left, &NUMBERS.key(OCTETS)).unwrap(), 0);
    history.close();
}

#[test]
fn it_does_not_grow_beyond_its_size() {
    let bench = Bench::new();
    let history = bench.open(1_000_000, 20_000);
    for _ in 0..20 {
        for n in 0..100 {
            history.record(bench.id().plus(n), accepted("somebody@somewhere.example"));
        }
        bench.pass(1);
        assert!(all(&history).len() < 400);
    }
    let rows = all(&history);
    // What is left are the youngest, and most of the room is used.
    assert!(rows.len() > 150, "{}", rows.len());
    assert_eq!(rows.last().unwrap().0, QueueId::at(Timestamp::from_secs(START + 19)).plus(99));
    history.close();
}

#[test]
fn the_file_gets_smaller_when_what_was_in_it_has_gone() {
    let bench = Bench::new();
    let path = bench.directory.path().join(FILE);
    let length = || fs::metadata(&path).unwrap().len();
    let history = bench.open(100, 1 << 30);
    let much = || What::Held { reason: "x".repeat(4000) };
    for n in 0..6000 {
        history.record(bench.id().plus(n), much());
        if n % 1000 == 999 {
            history.flush();
        }
    }
    let full = length();
    assert!(full > 2 * FILE_MIN, "{full}");
    bench.pass(90);
    let young = bench.id();
    for n in 0..50 {
        history.record(young.plus(n), much());
    }
    history.flush();
    bench.pass(50);
    // Each turn sweeps, or copies a slice; what comes meanwhile is kept.
    let mut n = 50;
    while length() > FILE_MIN && n < 300 {
        history.record(young.plus(n), accepted("a@b"));
        n += 1;
        history.flush();
    }
    assert!(length() < full / 4, "{full} became {} after {n}", length());
    assert!(all(&history).iter().map(|(id, _)| *id).eq((0..n).map(|n| young.plus(n))));
    history.close();
    assert!(!path.with_file_name(format!("{FILE}.new")).exists());
    let history = bench.open(100, 1 << 30);
    assert_eq!(all(&history).len(), n as usize);
    history.close();
    assert_eq!(*bench.told.lock().unwrap(), [""; 0]);
}

#[test]
fn a_flood_is_dropped_and_told_once() {
    let bench = Bench::new();
    let history = bench.open(100, 1 << 30);
    let much = || What::Held { reason: "x".repeat(PENDING_MAX / 8) };
    for n in 0..1000 {
        history.record(bench.id().plus(n), much());
    }
    history.close();
    let told = bench.told.lock().unwrap();
    assert!(told.iter().any(|line| line.contains("events dropped")), "{told:?}");
    assert!(told.len() < 100, "{}", told.len());
}

#[test]
fn a_damaged_file_is_set_aside() {
    let bench = Bench::new();
    let path = bench.directory.path().join(FILE);
    fs::write(&path, vec![7; 100_000]).unwrap();
    let history = bench.open(100, 1 << 20);
    history.record(bench.id(), sent());
    assert_eq!(all(&history).len(), 1);
    history.close();
    assert!(bench.directory.path().join("history.damaged").exists());
    assert_eq!(bench.told.lock().unwrap().len(), 1);
}

/// Count, then for each event its time, the number of its kind, and its fields.
const GOLDEN: &str = "01\
    06fbe80300036140620e726f6f74406c6f63616c686f737400053c3140783e1f01fbe80301010e784073696e6b2e6578616d706c65\
    0c73696e6b2e6578616d706c651873696e6b2e6578616d706c65205b3139322e302e322e315d0005322e302e300953656e7420284f6b290c\
    fbe80302fd00000000010000000344534e0174fbe803030172fbe803040772656d6f76656404726f6f74fbe8030503";

#[test]
fn the_layout_of_a_row_has_not_changed() {
    // Another layout needs another FORMAT.
    let id = QueueId::from_u64(1 << 32);
    let at = Timestamp::from_secs(1);
    let events: Vec<Event> = [
        accepted("a@b"),
        sent(),
        What::Reported { report: id, label: "DSN".into(), text: "t".into() },
        What::Held { reason: "r".into() },
        What::Operated { deed: "removed".into(), operator: "root".into() },
        What::Done { attempts: 3 },
    ]
    .into_iter()
    .map(|what| Event { at, what })
    .collect();
    let hex: String = events.encode().iter().map(|octet| format!("{octet:02x}")).collect();
    assert_eq!(hex, GOLDEN);
    assert_eq!(Vec::<Event>::decode(&events.encode()).unwrap(), events);
}

#[test]
fn texts_of_strangers_are_cut() {
    assert_eq!(cut("a\r\nb"), "a  b");
    assert_eq!(cut(&"ü".repeat(1000)).len(), TEXT_MAX);
}
