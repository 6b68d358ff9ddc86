//! A lane: what is in memory of one destination. Jobs that wait, how many run, how many may; which of its own goes next.
//!
//! Pure. Its places among the lanes, and the bounds over all of them, are the [`Schedule`](super::Schedule)'s.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{ReadyKey, Waiting};
use crate::mail::job::JobId;
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;
use crate::queue::order::Rank;

/// Slots of a lane nothing is known of (Postfix starts with as many).
pub(super) const SLOTS_INITIAL: f64 = 5.0;

/// Whether READY holds due jobs of this lane that are not in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Backlog {
    /// All that is due is known.
    Read,
    /// There may be more after this key.
    More(ReadyKey),
}

/// Where a message of the backlog stands: what was read earlier goes first, then by rank; of equals who had its turn goes last.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Turn {
    pub(super) page: u64,
    pub(super) rank: Rank,
    pub(super) turn: u64,
}

pub(super) struct Lane<H> {
    pub(super) fresh: VecDeque<Waiting<H>>,
    /// Waiting backlog by message; none empty.
    pub(super) messages: BTreeMap<Turn, (QueueId, VecDeque<Waiting<H>>)>,
    /// Where each of these messages stands.
    pub(super) places: HashMap<QueueId, Turn>,
    /// Pages of READY read so far, and turns given.
    pub(super) page: u64,
    pub(super) turn: u64,
    pub(super) backlog_len: usize,
    pub(super) running_fresh: usize,
    pub(super) running_backlog: HashMap<QueueId, usize>,
    pub(super) running_backlog_total: usize,
    pub(super) slots: f64,
    pub(super) closed_until: Option<Timestamp>,
    /// When it was last found unreachable.
    pub(super) failed_at: Option<Timestamp>,
    pub(super) backlog: Backlog,
    pub(super) fresh_next: bool,
    pub(super) in_turns: bool,
    /// Jobs were declined because it was crowded.
    pub(super) declined: bool,
}

impl<H> Lane<H> {
    pub(super) fn new() -> Lane<H> {
        Lane {
            fresh: VecDeque::new(),
            messages: BTreeMap::new(),
            places: HashMap::new(),
            page: 0,
            turn: 0,
            backlog_len: 0,
            running_fresh: 0,
            running_backlog: HashMap::new(),
            running_backlog_total: 0,
            slots: SLOTS_INITIAL,
            closed_until: None,
            failed_at: None,
            backlog: Backlog::Read,
            fresh_next: true,
            in_turns: false,
            declined: false,
        }
    }

    /// Whether it declined jobs and, with fewer than `low` waiting, takes them now: says so once.
    pub(super) fn forgives(&mut self, low: usize) -> bool {
        let does = self.declined && self.fresh.len() + self.backlog_len < low;
        self.declined &= !does;
        does
    }

    /// Takes out what waits and was not asked for by a run; READY is to be read again.
    pub(super) fn let_go(&mut self) -> Vec<Waiting<H>> {
        let mut gone: Vec<_> = self.fresh.drain(..).collect();
        for (place, (message, jobs)) in std::mem::take(&mut self.messages) {
            let (asked, others): (VecDeque<_>, VecDeque<_>) =
                jobs.into_iter().partition(|waiting| waiting.run.is_some());
            gone.extend(others);
            match asked.is_empty() {
                true => drop(self.places.remove(&message)),
                false => drop(self.messages.insert(place, (message, asked))),
            }
        }
        self.backlog_len = self.messages.values().map(|(_, jobs)| jobs.len()).sum();
        self.declined = false;
        if !gone.is_empty() || self.backlog != Backlog::Read {
            self.backlog = Backlog::More(None);
        }
        gone
    }

    pub(super) fn is_idle(&self) -> bool {
        self.fresh.is_empty()
            && self.messages.is_empty()
            && self.running_fresh + self.running_backlog_total == 0
            && self.backlog == Backlog::Read
    }

    pub(super) fn slots(&self, max: usize) -> usize {
        (self.slots as usize).clamp(1, max.max(1))
    }

    /// A quarter of the slots, one at least, is never given to the backlog, unless there is only one.
    fn backlog_slots(&self, max: usize) -> usize {
        let slots = self.slots(max);
        (slots - slots.div_ceil(4)).max(1)
    }

    fn fresh_may_start(&self, max: usize) -> bool {
        !self.fresh.is_empty() && self.running_fresh + self.running_backlog_total < self.slots(max)
    }

    fn backlog_may_start(&self, max: usize) -> bool {
        !self.messages.is_empty()
            && self.running_backlog_total < self.backlog_slots(max)
            && self.running_fresh + self.running_backlog_total < self.slots(max)
    }

    pub(super) fn can_start(&self, max: usize) -> bool {
        self.fresh_may_start(max) || self.backlog_may_start(max)
    }

    pub(super) fn take(&mut self, max: usize) -> Option<Waiting<H>> {
        let fresh = self.fresh_may_start(max);
        let backlog = self.backlog_may_start(max);
        if fresh && (self.fresh_next || !backlog) {
            self.fresh_next = false;
            let waiting = self.fresh.pop_front()?;
            self.running_fresh += 1;
            return Some(waiting);
        }
        self.fresh_next = true;
        if backlog { self.take_backlog(max) } else { None }
    }

    /// The first message that does not hold half of the slots already; the very first when all do.
    fn take_backlog(&mut self, max: usize) -> Option<Waiting<H>> {
        let half = (self.slots(max) / 2).max(1);
        let others = self.messages.len() > 1 || !self.fresh.is_empty();
        let may = |id: &QueueId| !others || self.running_backlog.get(id).is_none_or(|n| *n < half);
        // As many messages at most hold half of the slots as there are slots.
        let chosen = self.messages.iter().take(max + 1).find(|(_, (id, _))| may(id));
        let place = chosen.or_else(|| self.messages.first_key_value())?.0.clone();
        let (message, mut jobs) = self.messages.remove(&place)?;
        let waiting = jobs.pop_front()?;
        self.places.remove(&message);
        if !jobs.is_empty() {
            self.turn += 1;
            self.stand(Turn { turn: self.turn, ..place }, message, jobs);
        }
        self.backlog_len -= 1;
        *self.running_backlog.entry(message).or_default() += 1;
        self.running_backlog_total += 1;
        Some(waiting)
    }

    pub(super) fn push_backlog(&mut self, waiting: Waiting<H>) {
        self.backlog_len += 1;
        let message = waiting.id.queue_id;
        let standing = self.places.get(&message).and_then(|place| self.messages.get_mut(place));
        if let Some((_, jobs)) = standing {
            return jobs.push_back(waiting);
        }
        self.turn += 1;
        let place = Turn { page: self.page, rank: waiting.rank.clone(), turn: self.turn };
        self.stand(place, message, VecDeque::from([waiting]));
    }

    fn stand(&mut self, place: Turn, message: QueueId, jobs: VecDeque<Waiting<H>>) {
        self.places.insert(message, place.clone());
        self.messages.insert(place, (message, jobs));
    }

    /// One of ours stopped running. Backlog is counted by message; whatever is not there was new mail.
    pub(super) fn left(&mut self, id: JobId) {
        match self.running_backlog.get_mut(&id.queue_id) {
            Some(running) => {
                *running -= 1;
                if *running == 0 {
                    self.running_backlog.remove(&id.queue_id);
                }
                self.running_backlog_total -= 1;
            }
            None => self.running_fresh -= 1,
        }
    }

    pub(super) fn empty(&mut self) -> Vec<Waiting<H>> {
        self.backlog_len = 0;
        self.places.clear();
        let backlog = std::mem::take(&mut self.messages).into_values().flat_map(|(_, jobs)| jobs);
        std::mem::take(&mut self.fresh).into_iter().chain(backlog).collect()
    }
}
