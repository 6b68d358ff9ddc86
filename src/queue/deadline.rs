//! Jobs whose time is over while their destination is down: their senders are warned, or they are given up.
//!
//! Settle judges the deadlines of a job that met something of its own, and makes it due at its next deadline at the latest. What is left
//! are jobs whose destination as such is down: nothing of theirs changes when it fails, so whenever it does, those whose deadline had
//! passed by then are read from DEADLINE and judged. Days of downtime bounce nothing untried, and a destination that is dead costs a
//! few short reads for each failure of it, however much waits behind it.
//!
//! Which destinations failed is kept in memory; at the start, and when there were too many to remember, all of them are gone through.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::House;
use super::attempt::{self, Occasion, judge};
use crate::config::{Config, GivingUp};
use crate::mail::envelope::TimeoutClass;
use crate::mail::job::{Destination, JobId};
use crate::mail::outcome::{Attempt, Report};
use crate::mail::time::Timestamp;
use crate::settle::RunSettings;
use crate::store::{Accepted, Store, StoreError};

/// Jobs that one errand judges at most.
const JOBS_AT_ONCE: usize = 500;
/// Octets of reports from which an errand ends: they are in memory until they are offered to the window.
const OCTETS_AT_ONCE: usize = 8 << 20;
/// Destinations remembered; beyond it all are gone through once more.
const REMEMBERED_MAX: usize = 10_000;
/// Rows of DEST read at once.
const PAGE: usize = 500;
/// How long after a failure its jobs are looked at: those that waited for the same attempt have been let go by then.
const LANDING: Duration = Duration::from_millis(500);
/// How soon a destination is looked at again of which a job was in somebody's hands, or the store refused.
const PAUSE: Duration = Duration::from_secs(10);

/// Destinations that failed and whose jobs are still to be judged.
#[derive(Default)]
pub(super) struct Deadlines {
    /// To be gone on with now.
    under_way: Option<(Arc<Destination>, Place)>,
    /// To be looked at from these times on. The pause is always the same in each, so they are in order of time.
    failed: VecDeque<(Instant, Arc<Destination>)>,
    again: VecDeque<(Instant, Arc<Destination>)>,
    /// Those in `failed` and `again`.
    known: HashSet<Arc<Destination>>,
    walk: Walk,
}

/// How far all destinations were gone through.
#[derive(Default)]
enum Walk {
    /// Behind this one is what is left.
    #[default]
    Start,
    After(Destination),
    Done,
}

/// How far the jobs of a destination were looked at.
#[derive(Clone, Copy, Default)]
pub(super) struct Place {
    /// Which of [`stages`].
    stage: usize,
    after: Option<(Timestamp, JobId)>,
    /// A job before it was in somebody's hands.
    busy: bool,
}

/// What is left to do for a destination.
pub(super) enum Next {
    Nothing,
    /// There are more jobs.
    At(Place),
    /// A job was in somebody's hands: from the start, after a pause.
    Again,
}

impl Deadlines {
    /// The destination failed just now.
    pub(super) fn failed(&mut self, destination: &Arc<Destination>) {
        if self.known.len() >= REMEMBERED_MAX {
            self.walk = Walk::Start;
        } else if self.known.insert(destination.clone()) {
            self.failed.push_back((Instant::now() + LANDING, destination.clone()));
        }
    }

    /// What an errand left to do.
    pub(super) fn looked_at(&mut self, destination: Arc<Destination>, next: Next) {
        match next {
            Next::Nothing => {}
            Next::At(place) => self.under_way = Some((destination, place)),
            Next::Again if self.known.insert(destination.clone()) => {
                self.again.push_back((Instant::now() + PAUSE, destination));
            }
            Next::Again => {}
        }
    }

    /// The next destination to look at. Reads on in DEST when there is none.
    pub(super) fn next(
        &mut self,
        store: &Store,
    ) -> Result<Option<(Arc<Destination>, Place)>, StoreError> {
        if let Some(next) = self.under_way.take() {
            return Ok(Some(next));
        }
        if self.known.is_empty() {
            self.read_on(store)?;
        }
        let now = Instant::now();
        let due = |queue: &mut VecDeque<(Instant, _)>| {
            queue.pop_front_if(|(at, _)| *at <= now).map(|(_, destination)| destination)
        };
        let Some(next) = due(&mut self.failed).or_else(|| due(&mut self.again)) else {
            return Ok(None);
        };
        self.known.remove(&next);
        Ok(Some((next, Place::default())))
    }

    fn read_on(&mut self, store: &Store) -> Result<(), StoreError> {
        let after = match &self.walk {
            Walk::Done => return Ok(()),
            Walk::Start => None,
            Walk::After(destination) => Some(destination),
        };
        let (found, last) = store.in_trouble(after, PAGE)?;
        self.walk = last.map_or(Walk::Done, Walk::After);
        for destination in found {
            self.failed(&Arc::new(destination));
        }
        Ok(())
    }

    /// How long there is nothing to do; none when nothing is left.
    pub(super) fn rest(&self) -> Option<Duration> {
        let reads_on = self.known.is_empty() && !matches!(self.walk, Walk::Done);
        if self.under_way.is_some() || reads_on {
            return Some(Duration::ZERO);
        }
        let next = [self.failed.front(), self.again.front()].into_iter().flatten();
        next.map(|(at, _)| at.saturating_duration_since(Instant::now())).min()
    }
}

/// What may be judged of jobs.
#[derive(Clone, Copy)]
enum Stage {
    /// Those of this class, of which nothing but giving up is left or not, from this age on.
    Age(TimeoutClass, bool, Duration),
    /// Those with a time of their own (DELIVERBY).
    By,
}

fn stages(config: &Config) -> impl Iterator<Item = Stage> {
    let ages = TimeoutClass::ALL.into_iter().zip(config.queue_timeouts);
    let ages = ages.flat_map(|(class, timeouts)| {
        let giving_up = match timeouts.giving_up {
            GivingUp::After(length) => length,
            GivingUp::Now => Duration::ZERO,
        };
        let warning = timeouts.warn.filter(|length| !length.is_zero());
        [Some((class, false, giving_up)), Some((class, true, giving_up))]
            .into_iter()
            .chain([warning.map(|length| (class, false, length))])
            .flatten()
    });
    // First, as what goes back then is not to be warned of.
    [Stage::By].into_iter().chain(ages.map(|(class, last, age)| Stage::Age(class, last, age)))
}

/// Judges those jobs of a destination whose deadline had passed when it failed, a part of them at a time.
pub(super) async fn judge_some(
    house: &House,
    destination: &Destination,
    mut place: Place,
    interval: Option<Duration>,
) -> Result<(Vec<Accepted>, Next), StoreError> {
    let mut accepted = Vec::new();
    let (mut left, mut octets) = (JOBS_AT_ONCE, 0usize);
    let state = house.store.destination(destination)?;
    // It answers again.
    let Some(report) = state.and_then(|state| state.last) else {
        return Ok((accepted, Next::Nothing));
    };
    for stage in stages(&house.config).skip(place.stage) {
        loop {
            let after = place.after;
            let page = match stage {
                Stage::By => house.store.overdue_by(destination, report.at, after, left)?,
                Stage::Age(class, last, age) => {
                    let before = report.at.before(age);
                    house.store.overdue(destination, class, last, before, after, left)?
                }
            };
            let is_last = page.len() < left;
            for (time, id) in page {
                match judge_job(house, id, destination, &report, interval).await? {
                    Some(reports) => {
                        octets += reports.iter().map(octets_of).sum::<usize>();
                        accepted.extend(reports);
                    }
                    None => place.busy = true,
                }
                place.after = Some((time, id));
                left -= 1;
                if left == 0 || octets >= OCTETS_AT_ONCE {
                    return Ok((accepted, Next::At(place)));
                }
            }
            if is_last {
                break;
            }
        }
        place = Place { stage: place.stage + 1, after: None, ..place };
    }
    Ok((accepted, if place.busy { Next::Again } else { Next::Nothing }))
}

fn octets_of(report: &Accepted) -> usize {
    report.bytes.as_ref().map_or(0, |bytes| bytes.len())
}

/// The reports made; none when the job is in somebody's hands: its settle judges the deadline, but it may end without one.
async fn judge_job(
    house: &House,
    id: JobId,
    destination: &Destination,
    report: &Report,
    interval: Option<Duration>,
) -> Result<Option<Vec<Accepted>>, StoreError> {
    let Some(claim) = house.store.claim(id) else { return Ok(None) };
    let judged = async {
        let Some(job) = house.store.job(id)? else { return Ok(Vec::new()) };
        if job.destination != *destination {
            return Ok(Vec::new());
        }
        let occasion = Occasion::Attempted(Attempt::Unreachable(report.clone()));
        let judged = judge(house, &job, occasion, RunSettings::default(), interval).await?;
        Ok(judged.settled.accepted)
    };
    let judged = match judged.await {
        Err(error @ StoreError::Damaged { .. }) => {
            attempt::set_aside(house, id.queue_id, &error).await?;
            Ok(Vec::new())
        }
        judged => judged,
    };
    drop(claim);
    judged.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::job::Mailer;

    fn to(n: usize) -> Arc<Destination> {
        Arc::new(Destination { mailer: Mailer::Esmtp, next_hop: format!("d{n}.example") })
    }

    #[tokio::test(start_paused = true)]
    async fn a_destination_waits_once_and_too_many_are_gone_through_again() {
        let mut deadlines = Deadlines { walk: Walk::Done, ..Deadlines::default() };
        assert_eq!(deadlines.rest(), None);
        deadlines.failed(&to(1));
        deadlines.failed(&to(1));
        assert_eq!((deadlines.failed.len(), deadlines.rest()), (1, Some(LANDING)));
        deadlines.failed.clear();
        deadlines.known.clear();
        deadlines.looked_at(to(1), Next::Again);
        deadlines.looked_at(to(1), Next::Again);
        assert_eq!((deadlines.again.len(), deadlines.rest()), (1, Some(PAUSE)));
        deadlines.looked_at(to(2), Next::At(Place::default()));
        assert_eq!(deadlines.rest(), Some(Duration::ZERO));
        for n in 0..=REMEMBERED_MAX {
            deadlines.failed(&to(n));
        }
        assert_eq!(deadlines.known.len(), REMEMBERED_MAX);
        assert!(matches!(deadlines.walk, Walk::Start));
    }
}
