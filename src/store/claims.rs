//! Claims: which jobs are in somebody's hands. In memory only: the files are locked by one process, so a crash
//! forgets them all, as it should.
//!
//! A job is in flight while its [`Claim`] is held or a settle of it is not yet durable. The snapshot a reader looks at
//! may still show such a job as due; asking for the claim is what keeps it from being attempted twice. Whoever has it
//! reads the job again (`Store::job`) before he starts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::mail::job::{Job, JobId};
use crate::mail::queue_id::QueueId;

/// All claims of an open store.
pub(super) struct Claims {
    jobs: Mutex<BTreeMap<JobId, Hands>>,
    released: Notify,
    /// Has the mark of a job deleted that was let go without a settle, then calls [`Claims::unmarked`].
    unmark: Box<dyn Fn(JobId) + Send + Sync>,
}

/// Who has a job.
#[derive(Default)]
struct Hands {
    claimed: bool,
    settling: u32,
    /// It has a row in INFLIGHT, or is about to. Nobody gets the job before that row is gone.
    marked: bool,
}

/// A job in one's hands. Dropping it lets go.
pub struct Claim {
    claims: Arc<Claims>,
    id: JobId,
}

/// A settle that is not yet durable. Dropping it ends that.
pub(super) struct Settling {
    claims: Arc<Claims>,
    id: JobId,
    /// Another settle of the same message was under way when this one began.
    pub beside_another: bool,
}

impl Claims {
    /// None yet.
    pub fn new(unmark: Box<dyn Fn(JobId) + Send + Sync>) -> Claims {
        Claims { jobs: Mutex::default(), released: Notify::new(), unmark }
    }

    /// The job, unless it is in flight.
    pub fn claim(self: &Arc<Self>, id: JobId) -> Option<Claim> {
        let mut jobs = self.jobs();
        if jobs.contains_key(&id) {
            return None;
        }
        jobs.insert(id, Hands { claimed: true, ..Hands::default() });
        Some(Claim { claims: Arc::clone(self), id })
    }

    /// The jobs of a message that nobody can know of yet.
    pub fn claim_new(self: &Arc<Self>, jobs: Vec<Job>) -> Vec<(Job, Claim)> {
        let mut hands = self.jobs();
        jobs.into_iter()
            .map(|job| {
                hands.entry(job.id).or_default().claimed = true;
                let claim = Claim { claims: Arc::clone(self), id: job.id };
                (job, claim)
            })
            .collect()
    }

    /// A settle of the job begins.
    pub fn settle(self: &Arc<Self>, id: JobId) -> Settling {
        let mut jobs = self.jobs();
        let beside_another = jobs.range(of(id.queue_id)).any(|(_, hands)| hands.settling > 0);
        jobs.entry(id).or_default().settling += 1;
        Settling { claims: Arc::clone(self), id, beside_another }
    }

    /// The job, which somebody has in hand, has a row in INFLIGHT from now on. False when nobody has it.
    pub fn mark(&self, id: JobId) -> bool {
        self.jobs().get_mut(&id).map(|hands| hands.marked = true).is_some()
    }

    /// Whether the job has a row in INFLIGHT.
    pub fn is_marked(&self, id: JobId) -> bool {
        self.jobs().get(&id).is_some_and(|hands| hands.marked)
    }

    /// The job's row in INFLIGHT is gone.
    pub fn unmarked(&self, id: JobId) {
        self.change(id, |hands| hands.marked = false);
    }

    /// Whether somebody has the job in hand.
    pub fn has(&self, id: JobId) -> bool {
        self.jobs().contains_key(&id)
    }

    /// Whether any job of the message is in flight.
    pub fn in_flight(&self, id: QueueId) -> bool {
        self.jobs().range(of(id)).next().is_some()
    }

    /// Whether any job at all is in flight.
    pub fn any(&self) -> bool {
        !self.jobs().is_empty()
    }

    /// Resolves when no job of the message is in flight.
    pub async fn landed(&self, id: QueueId) {
        loop {
            // Registered before looking, so a release in between is not missed.
            let released = self.released.notified();
            if !self.in_flight(id) {
                return;
            }
            released.await;
        }
    }

    fn change(&self, id: JobId, change: impl FnOnce(&mut Hands)) {
        let mut jobs = self.jobs();
        let Some(hands) = jobs.get_mut(&id) else { return };
        change(hands);
        if hands.claimed || hands.settling > 0 {
            return;
        }
        if hands.marked {
            drop(jobs);
            return (self.unmark)(id);
        }
        jobs.remove(&id);
        drop(jobs);
        self.released.notify_waiters();
    }

    fn jobs(&self) -> MutexGuard<'_, BTreeMap<JobId, Hands>> {
        // Nothing panics with it locked.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn of(id: QueueId) -> std::ops::RangeInclusive<JobId> {
    JobId { queue_id: id, number: 0 }..=JobId { queue_id: id, number: u32::MAX }
}

impl Claim {
    /// Which job.
    pub fn id(&self) -> JobId {
        self.id
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.change(self.id, |hands| hands.claimed = false);
    }
}

impl Settling {
    /// Of which job.
    pub fn id(&self) -> JobId {
        self.id
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        self.claims.change(self.id, |hands| hands.settling -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_in_flight_until_settled_and_let_go() {
        let claims = Arc::new(Claims::new(Box::new(|_| unreachable!("nothing is marked"))));
        let id = JobId { queue_id: QueueId::from_u64(7 << 32), number: 3 };
        let claim = claims.claim(id).expect("free");
        assert!(claims.claim(id).is_none());
        let settling = claims.settle(id);
        assert!(!settling.beside_another && claims.settle(id).beside_another);
        drop(claim);
        assert!(claims.claim(id).is_none() && claims.in_flight(id.queue_id));
        drop(settling);
        assert!(!claims.any() && claims.claim(id).is_some());
    }

    #[test]
    fn a_marked_job_is_in_flight_until_its_mark_is_gone() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let note = Arc::clone(&asked);
        let claims = Arc::new(Claims::new(Box::new(move |id| note.lock().unwrap().push(id))));
        let id = JobId { queue_id: QueueId::from_u64(7 << 32), number: 3 };
        assert!(!claims.mark(id));
        let claim = claims.claim(id).expect("free");
        assert!(claims.mark(id) && asked.lock().unwrap().is_empty());
        drop(claim);
        assert_eq!(*asked.lock().unwrap(), [id]);
        assert!(claims.claim(id).is_none());
        claims.unmarked(id);
        assert!(claims.claim(id).is_some());
    }
}
