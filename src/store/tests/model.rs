//! Random operations against a model of a few lines, with closes and crashes in between; after every step the invariants hold
//! and the listing says what the model says.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    /// Domains of the recipients, octets, held.
    Accept(Vec<u8>, usize, bool),
    Deliver(usize),
    Defer(usize),
    /// Deferred, and the sender is warned.
    Warn(usize),
    Fail(usize),
    Replace(usize, Vec<u8>),
    Checkpoint(usize),
    Reroute(usize, u8),
    Park(usize),
    Hold(usize),
    Release(usize),
    Remove(usize),
    Reschedule(usize),
    /// Domain, and whether it is down.
    Destination(u8, bool),
    Pass(u16),
    Reopen,
    Crash(bool),
}

fn ops() -> impl Strategy<Value = Op> {
    let domains = || proptest::collection::vec(0u8..4, 1..5);
    let which = || 0usize..64;
    prop_oneof![
        6 => (domains(), prop_oneof![1usize..9000, 90_000usize..110_000], proptest::bool::weighted(0.1))
            .prop_map(|(domains, size, held)| Op::Accept(domains, size, held)),
        3 => which().prop_map(Op::Deliver),
        4 => which().prop_map(Op::Defer),
        2 => which().prop_map(Op::Warn),
        3 => which().prop_map(Op::Fail),
        1 => (which(), proptest::collection::vec(0u8..4, 1..120)).prop_map(|(n, to)| Op::Replace(n, to)),
        2 => which().prop_map(Op::Checkpoint),
        1 => (which(), 0u8..4).prop_map(|(n, to)| Op::Reroute(n, to)),
        1 => which().prop_map(Op::Park),
        2 => which().prop_map(Op::Hold),
        2 => which().prop_map(Op::Release),
        1 => which().prop_map(Op::Remove),
        1 => which().prop_map(Op::Reschedule),
        2 => (0u8..4, any::<bool>()).prop_map(|(to, down)| Op::Destination(to, down)),
        1 => any::<u16>().prop_map(Op::Pass),
        1 => Just(Op::Reopen),
        1 => any::<bool>().prop_map(Op::Crash),
    ]
}

/// A message: octets, held, and its recipients by address with what became of them.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    size: u64,
    held: bool,
    recipients: BTreeMap<String, State>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Open,
    Done,
    Failed,
}

struct World {
    site: Site,
    store: Store,
    model: BTreeMap<QueueId, Model>,
    names: u32,
}

impl World {
    fn name(&mut self, domain: u8) -> String {
        self.names += 1;
        format!("u{}@d{domain}.example", self.names)
    }

    /// The n-th open job that may be attempted, of all messages.
    fn job(&self, n: usize) -> Option<Job> {
        let mut jobs = Vec::new();
        for id in self.model.keys() {
            for job in self.store.jobs(*id, None, 1000).unwrap() {
                jobs.extend(self.store.job(JobId { queue_id: *id, number: job.number }).unwrap());
            }
        }
        let n = n % jobs.len().max(1);
        jobs.into_iter().nth(n)
    }

    fn message(&self, n: usize) -> Option<QueueId> {
        self.model.keys().nth(n % self.model.len().max(1)).copied()
    }

    async fn settle(&mut self, n: usize, end: State, more: Vec<String>) {
        let Some(job) = self.job(n) else { return };
        let now = self.site.now();
        let due = now.after(Duration::from_secs(900));
        let replacements = more.clone();
        let decide: Decide = match end {
            State::Open => deferred(due),
            State::Failed => all_failed(now),
            State::Done => Box::new(move |state| {
                let recipients = open(state, delivered(now));
                let replacements: Vec<_> = replacements.iter().map(|r| to(r)).collect();
                // What failed earlier is told by whoever is last.
                let is_last = !state.others_open && replacements.is_empty();
                let reported: Vec<_> =
                    state.unreported.iter().filter(|_| is_last).map(|(j, p, _)| (*j, *p)).collect();
                let own =
                    state.job.recipients.iter().any(|r| message::unreported(&r.state).is_some());
                let mut verdict = Verdict { recipients, replacements, reported, ..verdict() };
                if is_last {
                    let all = (0..).zip(&state.job.recipients);
                    let owed = all.filter(|(_, r)| message::unreported(&r.state).is_some());
                    verdict.recipients.extend(owed.map(|(n, _)| (n, failed(now, true))));
                }
                if is_last && (own || !verdict.reported.is_empty()) {
                    verdict.reports.push((report(1), Ok(to("joe@a.example").0)));
                }
                Ok(verdict)
            }),
        };
        let settled = self.store.settle(&job, decide).await.unwrap();
        let id = job.id.queue_id;
        let model = self.model.get_mut(&id).unwrap();
        for (_, recipient) in &job.recipients {
            model.recipients.insert(recipient.address.as_str().to_owned(), end);
        }
        model.recipients.extend(more.into_iter().map(|name| (name, State::Open)));
        if model.recipients.values().all(|state| *state != State::Open) {
            let failed = model.recipients.values().any(|state| *state == State::Failed);
            assert_eq!((settled.finished, settled.accepted.len()), (true, usize::from(failed)));
            self.model.remove(&id);
        }
        for report in settled.accepted {
            let size = report.bytes.unwrap().len() as u64;
            let recipients = BTreeMap::from([("joe@a.example".to_owned(), State::Open)]);
            self.model.insert(report.id, Model { size, held: false, recipients });
        }
    }

    async fn warn(&mut self, n: usize) {
        let Some(job) = self.job(n) else { return };
        let due = self.site.now().after(Duration::from_secs(900));
        let decide: Decide = Box::new(move |_| {
            let reports = vec![(report(1), Ok(to("joe@a.example").0))];
            Ok(Verdict { retry_at: Some(due), warned: true, reports, ..verdict() })
        });
        let settled = self.store.settle(&job, decide).await.unwrap();
        let warning = settled.accepted.into_iter().next().expect("a warning");
        let size = warning.bytes.unwrap().len() as u64;
        let recipients = BTreeMap::from([("joe@a.example".to_owned(), State::Open)]);
        self.model.insert(warning.id, Model { size, held: false, recipients });
    }

    async fn step(&mut self, op: Op) {
        match op {
            Op::Accept(domains, size, held) => {
                let names: Vec<String> = domains.into_iter().map(|d| self.name(d)).collect();
                let reason = held.then_some("because");
                let accepted =
                    accept(&self.site, &self.store, names.clone(), size, reason).await.unwrap();
                let recipients = names.into_iter().map(|name| (name, State::Open)).collect();
                self.model.insert(accepted.id, Model { size: size as u64, held, recipients });
            }
            Op::Deliver(n) => self.settle(n, State::Done, Vec::new()).await,
            Op::Defer(n) => self.settle(n, State::Open, Vec::new()).await,
            Op::Warn(n) => self.warn(n).await,
            Op::Fail(n) => self.settle(n, State::Failed, Vec::new()).await,
            Op::Replace(n, domains) => {
                if self.job(n).is_some() {
                    let names = domains.into_iter().map(|d| self.name(d)).collect();
                    self.settle(n, State::Done, names).await;
                }
            }
            Op::Checkpoint(n) => {
                let Some(job) = self.job(n) else { return };
                let (place, recipient) = &job.recipients[0];
                let state = delivered(self.site.now());
                self.store.checkpoint(job.id, vec![(*place, state)]).await.unwrap();
                if job.recipients.len() > 1 {
                    let model = self.model.get_mut(&job.id.queue_id).unwrap();
                    model.recipients.insert(recipient.address.as_str().to_owned(), State::Done);
                }
            }
            Op::Reroute(n, domain) => {
                let Some(job) = self.job(n) else { return };
                self.store.reroute(job.id, to(&format!("x@d{domain}.example")).0).await.unwrap();
            }
            Op::Park(n) => {
                let Some(job) = self.job(n) else { return };
                self.store.park(vec![job.id]).await.unwrap();
            }
            Op::Destination(domain, down) => {
                let now = self.site.now();
                let not_before = if down { now.after(Duration::from_secs(300)) } else { now };
                let state = DestinationState { not_before, failures: 1, last: None };
                let destination = to(&format!("x@d{domain}.example")).0;
                self.store.set_destination(&destination, state).await.unwrap();
            }
            Op::Pass(seconds) => self.site.pass(Duration::from_secs(seconds.into())),
            Op::Reopen => {
                self.store.close().await.unwrap();
                self.store = self.site.open();
            }
            Op::Crash(applied) => {
                crash(&self.site, self.store.clone(), applied).await;
                self.store = self.site.open();
            }
            op => self.operate(op).await,
        }
    }

    async fn operate(&mut self, op: Op) {
        let (Op::Hold(n) | Op::Release(n) | Op::Remove(n) | Op::Reschedule(n)) = op else {
            unreachable!("the others are done")
        };
        let Some(id) = self.message(n) else { return };
        let model = self.model.get_mut(&id).unwrap();
        let due = self.site.now().after(Duration::from_secs(60));
        let (done, expected) = match op {
            Op::Hold(_) => {
                model.held = true;
                (self.store.hold(vec![id], "because".into()).await, 1)
            }
            Op::Release(_) => {
                let was_held = std::mem::take(&mut model.held);
                (self.store.release(vec![id]).await, u64::from(was_held))
            }
            Op::Remove(_) => {
                self.model.remove(&id);
                (self.store.remove(vec![id]).await, 1)
            }
            _ => (self.store.reschedule(vec![id], due).await, 1),
        };
        assert_eq!(done.unwrap(), expected);
    }

    /// The store says what the model says.
    fn compare(&self) {
        let mut seen = BTreeMap::new();
        for entry in self.store.list(None, 1000).unwrap() {
            let mut recipients = BTreeMap::new();
            for job in self.store.jobs(entry.id, None, 1000).unwrap() {
                for recipient in job.recipients {
                    let state = match recipient.state {
                        RecipientState::Open(_) => State::Open,
                        RecipientState::Done { .. } => State::Done,
                        RecipientState::Failed { .. } => State::Failed,
                    };
                    recipients.insert(recipient.address.as_str().to_owned(), state);
                }
            }
            let (size, held) = (entry.envelope.size, entry.held.is_some());
            seen.insert(entry.id, Model { size, held, recipients });
        }
        // Of a long list only those are shown that something is left to do or to say about.
        let mut model = self.model.clone();
        for (id, message) in &mut model {
            let entry = self.store.entry(*id).unwrap().unwrap();
            assert_eq!(entry.recipients_total as usize, message.recipients.len());
            if entry.jobs.is_empty() {
                let shown = &seen[id].recipients;
                message
                    .recipients
                    .retain(|name, state| *state != State::Done || shown.contains_key(name));
            }
        }
        assert_eq!(seen, model);
        let counts = self.store.counts().unwrap();
        assert_eq!(counts.messages as usize, model.len());
        assert_eq!(counts.octets, model.values().map(|message| message.size).sum::<u64>());
        assert_eq!(counts.held as usize, model.values().filter(|message| message.held).count());
    }

    async fn quiet(&self) {
        loop {
            flush(&self.store).await;
            let snapshot = self.store.core().writer.snapshot().unwrap();
            let (start, end) = schema::LISTS.all();
            if snapshot.keys(&start..&end, 1, false).unwrap().is_empty() {
                return;
            }
        }
    }
}

/// Plays the operations on a store, with its file being copied and exchanged all the while.
fn play(site: Site, ops: Vec<Op>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let store = site.open();
        let mut world = World { site, store, model: BTreeMap::new(), names: 0 };
        for op in ops {
            world.step(op).await;
            flush(&world.store).await;
            assert_sound(&world.store);
            world.quiet().await;
            assert_sound(&world.store);
            world.compare();
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(ops in proptest::collection::vec(ops(), 1..40)) {
        play(Site { incoming_size: 20_000, ..Site::new() }, ops);
    }

    #[test]
    fn the_store_does_what_the_model_does_while_it_is_compacted(
        ops in proptest::collection::vec(ops(), 1..40),
        bloat in 0usize..400_000,
    ) {
        let site = Site { incoming_size: 20_000, ..Site::compacting() };
        site.disk.bloat(bloat as u64);
        play(site, ops);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 50, ..ProptestConfig::default() })]

    /// On redb, with real power cuts: at any operation of a commit, of a copy, or of an exchange.
    #[test]
    fn redb_does_what_the_model_does_while_it_is_compacted(
        ops in proptest::collection::vec(ops(), 1..30),
        seed: u64,
    ) {
        play(Site { incoming_size: 20_000, ..Site::simulated(seed) }, ops);
    }
}
