//! The window, lane by lane.

use super::*;
use crate::mail::job::Mailer;
use crate::mail::queue_id::QueueId;

const LIMITS: Limits =
    Limits { jobs: 1000, octets: 100, running: 100, running_per_destination: 20 };
const NOW: Timestamp = Timestamp::ZERO;

fn to(host: &str) -> Destination {
    Destination { mailer: Mailer::Esmtp, next_hop: host.into() }
}

fn job(message: u64, number: u32) -> Waiting<()> {
    let id = JobId { queue_id: QueueId::from_u64(message), number };
    Waiting { id, job: None, bytes: None, run: None, rank: Rank::default(), hold: () }
}

fn window(hosts: &[&str]) -> Schedule<()> {
    let mut schedule = Schedule::new(LIMITS);
    for host in hosts {
        schedule.open_lane(to(host), None, None);
    }
    schedule
}

fn starts(schedule: &mut Schedule<()>) -> Vec<(String, u64, u32)> {
    std::iter::from_fn(|| schedule.start_next())
        .map(|s| {
            let id = s.waiting.id;
            (s.destination.next_hop.clone(), id.queue_id.as_u64(), id.number)
        })
        .collect()
}

#[test]
fn destinations_take_turns() {
    let mut schedule = window(&["a", "b"]);
    for n in 0..3 {
        schedule.offer_fresh(&to("a"), job(n, 0), NOW).unwrap();
    }
    schedule.offer_fresh(&to("b"), job(9, 0), NOW).unwrap();
    let order: Vec<_> = starts(&mut schedule).into_iter().map(|(host, ..)| host).collect();
    assert_eq!(order, ["a", "b", "a", "a"]);
}

#[test]
fn a_long_list_leaves_slots_for_new_mail() {
    let mut schedule = window(&["a"]);
    for number in 0..100 {
        schedule.offer_backlog(&to("a"), job(1, number), NOW).unwrap();
    }
    // 5 slots, a quarter of which (2) is not for the backlog.
    assert_eq!(starts(&mut schedule).len(), 3);
    schedule.offer_fresh(&to("a"), job(2, 0), NOW).unwrap();
    assert_eq!(starts(&mut schedule), [("a".into(), 2, 0)]);
}

#[test]
fn one_message_holds_half_while_others_wait() {
    let mut schedule = window(&["a"]);
    for number in 0..10 {
        schedule.offer_backlog(&to("a"), job(1, number), NOW).unwrap();
    }
    for number in 0..10 {
        schedule.offer_backlog(&to("a"), job(2, number), NOW).unwrap();
    }
    let messages: Vec<_> = starts(&mut schedule).into_iter().map(|(_, m, _)| m).collect();
    assert_eq!(messages, [1, 2, 1]);
}

/// Ranks decide among what was read together; what was read before goes first, and two messages share the slots.
#[test]
fn backlog_starts_by_rank() {
    use crate::config::SortOrder;
    use crate::queue::order::Ranking;
    let ranking = Ranking::new(SortOrder::FileName);
    let mut schedule = window(&["a"]);
    let ranked = |message: u64, number| Waiting {
        rank: ranking.unread(QueueId::from_u64(message)),
        ..job(message, number)
    };
    for message in [7, 5, 6] {
        schedule.offer_backlog(&to("a"), ranked(message, 0), NOW).unwrap();
    }
    schedule.fed(&Arc::new(to("a")), None, false);
    for message in [2, 1] {
        schedule.offer_backlog(&to("a"), ranked(message, 0), NOW).unwrap();
        schedule.offer_backlog(&to("a"), ranked(message, 1), NOW).unwrap();
    }
    let mut order = Vec::new();
    while let Some(start) = schedule.start_next() {
        let id = start.waiting.id;
        order.push((id.queue_id.as_u64(), id.number));
        schedule.finished(&to("a"), id, News::Nothing, NOW);
    }
    assert_eq!(order, [(5, 0), (6, 0), (7, 0), (1, 0), (1, 1), (2, 0), (2, 1)]);
}

#[test]
fn an_unreachable_destination_sends_its_jobs_home_and_closes() {
    let mut schedule = window(&["a"]);
    for n in 0..8 {
        schedule.offer_fresh(&to("a"), job(n, 0), NOW).unwrap();
    }
    assert_eq!(starts(&mut schedule).len(), 5);
    let until = Timestamp::from_secs(900);
    let id = job(0, 0).id;
    let home = schedule.finished(&to("a"), id, News::Unreachable(until), NOW);
    assert_eq!(home.len(), 3);
    assert_eq!(schedule.len(), 4);
    let (offer, _) = schedule.offer_fresh(&to("a"), job(20, 0), NOW).unwrap_err();
    assert_eq!(offer, Offer::Closed(until));
    assert!(schedule.offer_fresh(&to("a"), job(20, 0), until).is_ok());
    // An explicit run knocks whatever the time.
    schedule.open_lane(to("a"), Some(until), None);
    let knock = Waiting { run: Some(1), ..job(21, 0) };
    assert!(schedule.offer_backlog(&to("a"), knock, NOW).is_ok());
}

#[test]
fn slots_grow_with_success_and_halve_with_loss() {
    let mut schedule = window(&["a"]);
    let lane_slots = |s: &Schedule<()>| s.lanes[&to("a")].slots(20);
    for n in 0..300 {
        schedule.offer_fresh(&to("a"), job(n, 0), NOW).unwrap();
        let start = schedule.start_next().unwrap();
        schedule.finished(&to("a"), start.waiting.id, News::Answered, NOW);
    }
    assert_eq!(lane_slots(&schedule), 20);
    schedule.offer_fresh(&to("a"), job(999, 0), NOW).unwrap();
    let start = schedule.start_next().unwrap();
    schedule.finished(&to("a"), start.waiting.id, News::Lost, NOW);
    assert_eq!(lane_slots(&schedule), 10);
    assert!(schedule.is_empty() && schedule.running() == 0);
}

/// A destination with more than the window holds leaves room for others, and says when it takes more.
#[test]
fn a_crowd_leaves_room() {
    let mut schedule = window(&["crowd", "b"]);
    let mut taken = 0;
    let declined = loop {
        match schedule.offer_fresh(&to("crowd"), job(taken, 0), NOW) {
            Ok(()) => taken += 1,
            Err((offer, _)) => break offer,
        }
    };
    assert_eq!((declined, taken), (Offer::Crowded, 501));
    for message in 0..100 {
        schedule.offer_fresh(&to("b"), job(10_000 + message, 0), NOW).unwrap();
    }
    let mut ended = 0;
    while !schedule.takes_incoming() {
        let start = schedule.start_next().expect("something waits");
        schedule.finished(&start.destination, start.waiting.id, News::Answered, NOW);
        ended += 1;
    }
    assert!(ended > 501 - BACKLOG_LOW && !schedule.takes_incoming(), "{ended}");
    // A run that was declined asks when there is room for many.
    let asked = |message| Waiting { run: Some(1), ..job(message, 1) };
    let mut offered = 0;
    while schedule.offer_backlog(&to("b"), asked(20_000 + offered), NOW).is_ok() {
        offered += 1;
    }
    assert!(!schedule.has_room_for(&to("b")) && schedule.has_room());
    assert!(schedule.has_room_for(&to("crowd")));
}

/// What a closed destination had declined is to be found again, or nobody would.
#[test]
fn a_crowd_that_goes_home_takes_with_it_what_was_declined() {
    let mut schedule = window(&["a"]);
    while schedule.offer_fresh(&to("a"), job(schedule.len() as u64, 0), NOW).is_ok() {}
    let start = schedule.start_next().unwrap();
    assert!(!schedule.takes_incoming());
    let news = News::Unreachable(Timestamp::from_secs(900));
    schedule.finished(&to("a"), start.waiting.id, news, NOW);
    assert!(schedule.takes_incoming());
}

#[test]
fn hungry_lanes_take_turns() {
    let mut schedule = window(&["a", "b", "c"]);
    for host in ["a", "b", "c"] {
        schedule.expect_backlog(&to(host), NOW);
    }
    let mut asked = |n| -> Vec<_> {
        schedule.hungry(n).into_iter().map(|(name, _)| name.next_hop.clone()).collect()
    };
    assert_eq!(
        (asked(2), asked(2), asked(5)),
        (
            vec!["a".into(), "b".into()],
            vec!["c".into(), "a".into()],
            vec!["b".into(), "c".into(), "a".into()]
        )
    );
    let b = Arc::new(to("b"));
    schedule.fed(&b, None, false);
    for n in 0..BACKLOG_LOW as u64 {
        schedule.offer_backlog(&to("c"), job(n, 0), NOW).unwrap();
    }
    let names: Vec<_> = schedule.hungry(9).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [Arc::new(to("a"))]);
    while schedule.start_next().is_some() {}
    assert_eq!(schedule.hungry(9).len(), 2);
}

#[test]
fn what_waits_is_let_go_but_for_what_a_run_asked_for() {
    let mut schedule = window(&["a"]);
    schedule.offer_backlog(&to("a"), job(1, 0), NOW).unwrap();
    schedule.offer_backlog(&to("a"), Waiting { run: Some(1), ..job(1, 1) }, NOW).unwrap();
    schedule.offer_backlog(&to("a"), job(2, 0), NOW).unwrap();
    let bytes = Some(Arc::from([0u8; 80]));
    schedule.offer_fresh(&to("a"), Waiting { bytes, ..job(3, 0) }, NOW).unwrap();
    schedule.let_go();
    assert_eq!((schedule.len(), schedule.hungry(1).len(), schedule.octets), (1, 1, 0));
    assert_eq!(starts(&mut schedule), [("a".into(), 1, 1)]);
    schedule.finished(&to("a"), job(1, 1).id, News::Answered, NOW);
    assert!(schedule.is_empty() && schedule.running() == 0);
}

#[test]
fn the_window_is_bounded_in_jobs_and_octets() {
    let mut schedule: Schedule<()> = Schedule::new(Limits { jobs: 2, ..LIMITS });
    schedule.open_lane(to("a"), None, None);
    let big = Waiting { bytes: Some(Arc::from([0u8; 80])), ..job(1, 0) };
    schedule.offer_fresh(&to("a"), big, NOW).unwrap();
    let more = Waiting { bytes: Some(Arc::from([0u8; 80])), ..job(2, 0) };
    schedule.offer_fresh(&to("a"), more, NOW).unwrap();
    assert_eq!(schedule.offer_fresh(&to("a"), job(3, 0), NOW).unwrap_err().0, Offer::Full);
    assert!(schedule.start_next().unwrap().waiting.bytes.is_some());
    assert!(schedule.start_next().unwrap().waiting.bytes.is_none());
}
