//! Which job next: the active window, destination by destination. Pure: no I/O, no clock.
//!
//! A *lane* is what is in memory of one destination: jobs that wait, how many run, how many may. Lanes take turns,
//! so a busy destination never keeps another one waiting. Inside a lane new mail and backlog alternate, the backlog
//! rotates between messages, one message holds at most half of the slots while others wait, and a quarter of the
//! slots is kept for new mail: with a smart host everything is one lane, and a new message still leaves at once
//! while a list of 100 000 recipients goes out. Backlog that was read together starts in the order of its ranks
//! ([`super::order`]); messages of equal rank rotate.
//!
//! The number of slots of a lane grows with each success and is halved by each lost connection; a destination that
//! cannot be reached at all closes its lane until a given time.
//!
//! Everything is bounded: jobs in memory ([`Limits::jobs`]), their bytes ([`Limits::octets`]), idle lanes kept
//! ([`IDLE_LANES_MAX`]). What does not fit stays in the store, where the runner finds it again. A lane has at most as many
//! jobs waiting as there are free places, so a destination with a million of them takes half of the window, two such a third each, and
//! there is always room for others. No step here goes through the lanes or the jobs, but those that are rare: letting go of all
//! ([`Schedule::let_go`]), and forgetting idle lanes once their number has doubled.

mod lane;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use self::lane::{Backlog, Lane, SLOTS_INITIAL};
use super::order::Rank;
use crate::mail::job::{Destination, Job, JobId};
use crate::mail::time::Timestamp;

/// Lanes without a job that are remembered for their number of slots; beyond it idle ones are forgotten.
const IDLE_LANES_MAX: usize = 10_000;
/// Backlog jobs of one lane read ahead of need: a refill costs one short range read.
pub const BACKLOG_LOW: usize = 64;
/// So many jobs may wait in a lane however full the window is: what is read ahead, and a page of READY.
const LANE_MIN: usize = 3 * BACKLOG_LOW;

/// Bounds of the window.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Jobs in memory, waiting or running.
    pub jobs: usize,
    /// Octets of messages kept in memory beside their jobs.
    pub octets: usize,
    /// Attempts at once.
    pub running: usize,
    /// Attempts at once to one destination.
    pub running_per_destination: usize,
}

/// How far READY of a destination was read: the time and job of the last row; none before the first.
pub type ReadyKey = Option<(Timestamp, JobId)>;

/// Names one explicit run of the queue.
pub type RunId = u64;

/// A job in the window. `hold` is whatever must live as long as the job is known (the store's claim).
#[derive(Debug)]
pub struct Waiting<H> {
    /// Its name.
    pub id: JobId,
    /// The job itself when it is at hand; else it is loaded when its turn comes.
    pub job: Option<Box<Job>>,
    /// The message's bytes, when they are few and at hand.
    pub bytes: Option<Arc<[u8]>>,
    /// The explicit run that asked for it.
    pub run: Option<RunId>,
    /// Its message's place among the backlog it was read with.
    pub rank: Rank,
    /// Dropped when the job leaves the window.
    pub hold: H,
}

/// What a lane says to a job that is offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offer {
    /// It will be attempted.
    Taken,
    /// No room in the window; it stays in the store.
    Full,
    /// No room for more of this destination; it stays in the store ([`Schedule::takes_incoming`]).
    Crowded,
    /// The destination is closed until then.
    Closed(Timestamp),
}

/// Why a job was not taken, and the job.
pub type Declined<H> = (Offer, Waiting<H>);

/// What an attempt taught about its destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// It answered.
    Answered,
    /// The connection was lost or shut on us in mid-way.
    Lost,
    /// It could not be reached; not before this time again.
    Unreachable(Timestamp),
    /// Nothing: the job was gone, or could not be loaded.
    Nothing,
}

/// A job to start now.
#[derive(Debug)]
pub struct Start<H> {
    /// Where it goes.
    pub destination: Arc<Destination>,
    /// The job.
    pub waiting: Waiting<H>,
}

/// The active window.
pub struct Schedule<H> {
    limits: Limits,
    lanes: HashMap<Arc<Destination>, Lane<H>>,
    /// Lanes that have something to start and a slot for it, in turn.
    turns: VecDeque<Arc<Destination>>,
    /// Lanes that want more of their backlog, and the one that was asked for last.
    hungry: BTreeSet<Arc<Destination>>,
    fed_last: Option<Arc<Destination>>,
    known: HashSet<JobId>,
    octets: usize,
    running: usize,
    /// From so many lanes on idle ones are looked for.
    lanes_max: usize,
    /// A lane that was too crowded for jobs of INCOMING takes them again.
    takes_incoming: bool,
}

/// Where a job that is offered comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Just accepted.
    Fresh,
    /// Read from the store.
    Backlog,
    /// Read from the store by an explicit run, which knocks at closed doors.
    Asked,
}

impl<H> Schedule<H> {
    /// An empty window.
    pub fn new(limits: Limits) -> Schedule<H> {
        Schedule {
            limits,
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            hungry: BTreeSet::new(),
            fed_last: None,
            known: HashSet::new(),
            octets: 0,
            running: 0,
            lanes_max: IDLE_LANES_MAX,
            takes_incoming: false,
        }
    }

    /// Other limits from now on. What is in the window or running beyond them stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Whether the job is in the window, waiting or running.
    pub fn knows(&self, id: JobId) -> bool {
        self.known.contains(&id)
    }

    /// Jobs in the window.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether nothing is in the window.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Attempts under way.
    pub fn running(&self) -> usize {
        self.running
    }

    /// How many jobs more there is room for.
    pub fn room(&self) -> usize {
        self.limits.jobs.saturating_sub(self.known.len())
    }

    /// Whether another job would be taken.
    pub fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// Whether an explicit run may go on whose last job this lane was too crowded for: not for each place that gets free.
    pub fn has_room_for(&self, destination: &Destination) -> bool {
        let waiting = self.lanes.get(destination).map_or(0, |lane| lane.backlog_len);
        self.has_room() && (waiting < LANE_MIN || waiting <= self.room() / 2)
    }

    /// Whether a lane that declined jobs of INCOMING because it was crowded takes them again: says so once.
    pub fn takes_incoming(&mut self) -> bool {
        std::mem::take(&mut self.takes_incoming)
    }

    /// Lets go of all that waits, but of what explicit runs asked for: it is to be read from the store again. What runs, runs on.
    pub fn let_go(&mut self) {
        let names: Vec<_> = self.lanes.keys().cloned().collect();
        for name in names {
            let Some(lane) = self.lanes.get_mut(&name) else { continue };
            let gone = lane.let_go();
            for waiting in &gone {
                self.known.remove(&waiting.id);
                if let Some(bytes) = &waiting.bytes {
                    self.octets -= bytes.len();
                }
            }
            self.note_hunger(&name);
        }
    }

    /// Whether there is a lane for it: then what the store knows of the destination was told already.
    pub fn has_lane(&self, destination: &Destination) -> bool {
        self.lanes.contains_key(destination)
    }

    /// Makes a lane, closed until `closed_until` and last unreachable at `failed_at` when the store says so.
    pub fn open_lane(
        &mut self,
        destination: Destination,
        closed_until: Option<Timestamp>,
        failed_at: Option<Timestamp>,
    ) {
        self.forget_idle_lanes();
        let lane = self.lanes.entry(Arc::new(destination)).or_insert_with(Lane::new);
        lane.closed_until = closed_until;
        lane.failed_at = failed_at;
    }

    /// When the destination was last found unreachable, as far as the window remembers.
    pub fn failed_at(&self, destination: &Destination) -> Option<Timestamp> {
        self.lanes.get(destination).and_then(|lane| lane.failed_at)
    }

    /// New mail. Its lane must have been opened. The job is not yet known.
    pub fn offer_fresh(
        &mut self,
        destination: &Destination,
        waiting: Waiting<H>,
        now: Timestamp,
    ) -> Result<(), Declined<H>> {
        let (name, waiting) = self.admit(destination, waiting, Kind::Fresh, now)?;
        let lane = self.lanes.entry(name.clone()).or_insert_with(Lane::new);
        lane.fresh.push_back(waiting);
        self.enter_turns(name);
        Ok(())
    }

    /// A job of the backlog; for an explicit run it goes through a closed lane's door (`waiting.run` is set).
    pub fn offer_backlog(
        &mut self,
        destination: &Destination,
        waiting: Waiting<H>,
        now: Timestamp,
    ) -> Result<(), Declined<H>> {
        let knocks = waiting.run.is_some();
        let kind = if knocks { Kind::Asked } else { Kind::Backlog };
        let (name, waiting) = self.admit(destination, waiting, kind, now)?;
        let lane = self.lanes.entry(name.clone()).or_insert_with(Lane::new);
        if knocks {
            // One job may knock; if the door stays shut, `finished` sends the others home.
            lane.closed_until = None;
        }
        lane.push_backlog(waiting);
        self.note_hunger(&name);
        self.enter_turns(name);
        Ok(())
    }

    /// Lets a job into the window: there is a lane for it, open or to be knocked at, and room. It is known from now on.
    fn admit(
        &mut self,
        destination: &Destination,
        mut waiting: Waiting<H>,
        kind: Kind,
        now: Timestamp,
    ) -> Result<(Arc<Destination>, Waiting<H>), Declined<H>> {
        let room = self.room();
        let Some((name, _)) = self.lanes.get_key_value(destination) else {
            return Err((Offer::Full, waiting));
        };
        let name = name.clone();
        let Some(lane) = self.lanes.get_mut(&name) else { return Err((Offer::Full, waiting)) };
        let knocks = kind == Kind::Asked;
        if let Some(until) = lane.closed_until.filter(|until| *until > now && !knocks) {
            return Err((Offer::Closed(until), waiting));
        }
        if room == 0 {
            return Err((Offer::Full, waiting));
        }
        let beside = if kind == Kind::Fresh { lane.fresh.len() } else { lane.backlog_len };
        if beside >= LANE_MIN && beside > room {
            // A run asks again by itself.
            lane.declined |= !knocks;
            return Err((Offer::Crowded, waiting));
        }
        self.keep_bytes(&mut waiting);
        self.known.insert(waiting.id);
        Ok((name, waiting))
    }

    /// READY of this destination may hold jobs that are due: read them from the start. False when its lane is closed
    /// still: then its AGENDA key is early.
    pub fn expect_backlog(&mut self, destination: &Destination, now: Timestamp) -> bool {
        let Some(lane) = self.lanes.get_mut(destination) else { return false };
        if lane.closed_until.is_some_and(|until| until > now) {
            return false;
        }
        lane.closed_until = None;
        if lane.backlog == Backlog::Read {
            lane.backlog = Backlog::More(None);
        }
        if let Some((name, _)) = self.lanes.get_key_value(destination) {
            let name = name.clone();
            self.note_hunger(&name);
        }
        true
    }

    /// Whether the backlog of this destination is being worked on: its AGENDA key need not be looked at again.
    pub fn works_on(&self, destination: &Destination) -> bool {
        self.lanes.get(destination).is_some_and(|lane| {
            lane.backlog != Backlog::Read || lane.backlog_len + lane.running_backlog_total > 0
        })
    }

    /// Whether a lane wants more of its backlog.
    pub fn is_hungry(&self) -> bool {
        !self.hungry.is_empty()
    }

    /// Lanes that want more of their backlog, in turn, with the READY key to go on from.
    pub fn hungry(&mut self, limit: usize) -> Vec<(Arc<Destination>, ReadyKey)> {
        let last = self.fed_last.take();
        let after = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.hungry.range::<Destination, _>((after, Bound::Unbounded));
        let before = last.iter().flat_map(|last| self.hungry.range::<Destination, _>(..=&**last));
        let names = behind.chain(before).take(limit).cloned();
        let names: Vec<Arc<Destination>> = names.collect();
        self.fed_last = names.last().cloned();
        let place = |name: Arc<Destination>| match self.lanes.get(&name)?.backlog {
            Backlog::More(after) => Some((name, after)),
            Backlog::Read => None,
        };
        names.into_iter().filter_map(place).collect()
    }

    /// The backlog of this lane was read up to `after`; `more` says whether READY may hold more that is due.
    pub fn fed(&mut self, destination: &Arc<Destination>, after: ReadyKey, more: bool) {
        if let Some(lane) = self.lanes.get_mut(destination) {
            lane.backlog = if more { Backlog::More(after) } else { Backlog::Read };
            lane.page += 1;
        }
        self.note_hunger(destination);
    }

    /// The next job to start, if there is one and a slot for it.
    pub fn start_next(&mut self) -> Option<Start<H>> {
        while self.running < self.limits.running {
            let name = self.turns.pop_front()?;
            let Some(lane) = self.lanes.get_mut(&name) else { continue };
            lane.in_turns = false;
            let Some(waiting) = lane.take(self.limits.running_per_destination) else { continue };
            let low = BACKLOG_LOW.max(self.limits.running_per_destination);
            self.takes_incoming |= lane.forgives(low);
            self.note_hunger(&name);
            self.running += 1;
            if let Some(bytes) = &waiting.bytes {
                self.octets -= bytes.len();
            }
            self.enter_turns(name.clone());
            return Some(Start { destination: name, waiting });
        }
        None
    }

    /// An attempt ended. Returns jobs that are sent home: they wait for a destination that is now closed.
    pub fn finished(
        &mut self,
        destination: &Destination,
        id: JobId,
        news: News,
        now: Timestamp,
    ) -> Vec<Waiting<H>> {
        self.known.remove(&id);
        self.running -= 1;
        let Some((name, _)) = self.lanes.get_key_value(destination) else { return Vec::new() };
        let name = name.clone();
        let mut home = Vec::new();
        if let Some(lane) = self.lanes.get_mut(&name) {
            lane.left(id);
            match news {
                News::Answered => {
                    lane.slots += 1.0 / lane.slots;
                    lane.closed_until = None;
                    lane.failed_at = None;
                }
                News::Lost => lane.slots = (lane.slots / 2.0).max(1.0),
                News::Unreachable(until) => {
                    lane.slots = SLOTS_INITIAL;
                    lane.closed_until = Some(until);
                    lane.failed_at = Some(now);
                    lane.backlog = Backlog::Read;
                    home = lane.empty();
                    // What it declined waits for a closed destination now, and goes where that is known.
                    self.takes_incoming |= lane.forgives(1);
                }
                News::Nothing => {}
            }
            lane.slots = lane.slots.min(self.limits.running_per_destination as f64);
        }
        for waiting in &home {
            self.known.remove(&waiting.id);
            if let Some(bytes) = &waiting.bytes {
                self.octets -= bytes.len();
            }
        }
        self.note_hunger(&name);
        self.enter_turns(name);
        home
    }

    /// Keeps the names of the lanes that want more of their backlog.
    fn note_hunger(&mut self, name: &Arc<Destination>) {
        let wants = |lane: &Lane<H>| {
            matches!(lane.backlog, Backlog::More(_)) && lane.backlog_len < BACKLOG_LOW
        };
        if self.lanes.get(name).is_some_and(wants) {
            if !self.hungry.contains(name) {
                self.hungry.insert(name.clone());
            }
        } else {
            self.hungry.remove(name);
        }
    }

    /// Bytes stay in memory while there is room for them; else the job reads them from the store.
    fn keep_bytes(&mut self, waiting: &mut Waiting<H>) {
        if let Some(bytes) = &waiting.bytes {
            if self.octets + bytes.len() > self.limits.octets {
                waiting.bytes = None;
            } else {
                self.octets += bytes.len();
            }
        }
    }

    fn enter_turns(&mut self, name: Arc<Destination>) {
        if let Some(lane) = self.lanes.get_mut(&name)
            && !lane.in_turns
            && lane.can_start(self.limits.running_per_destination)
        {
            lane.in_turns = true;
            self.turns.push_back(name);
        }
    }

    fn forget_idle_lanes(&mut self) {
        if self.lanes.len() >= self.lanes_max {
            self.lanes.retain(|_, lane| lane.in_turns || !lane.is_idle());
            // Those that stay are not looked at again for each new one.
            self.lanes_max = IDLE_LANES_MAX.max(2 * self.lanes.len());
        }
    }
}

#[cfg(test)]
mod tests;
