//! The keeper: one thread that finishes what operations leave for later.
//!
//! It waits for settles to become durable and does them again when they did not; it unfolds long lists and carries operators'
//! changes through them, one slice at a time; it drops what was staged for messages that never came, and body files that are empty.
//! Beside that it empties those that are nearly so (`evacuate.rs`), and writes down what was counted, until the store closes.
//! Everything here can be found again at the next start (`recover.rs`), so a crash loses nothing.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, error::TryRecvError};

use super::body::Staging;
use super::claims::Settling;
use super::edit::counter;
use super::schema::{BODY_MESSAGES, BODYGEN};
use super::writer::{Class, Pending, Unit};
use super::{Core, StoreError};
use crate::mail::job::JobId;
use crate::mail::queue_id::QueueId;

/// How long it waits after a full or busy disk, and before it asks again for a file in use.
const PAUSE: Duration = Duration::from_secs(1);

/// Octets of the current generation from which an empty one is exchanged for a new one.
const KEPT_EMPTY: u64 = 16 << 20;

/// Something to be done later. What waits is bounded by what it is about: unsettled jobs, lists, body files.
pub(super) enum Errand {
    /// A settle that is not yet durable.
    Settle(Box<Unsettled>),
    /// A long list with work to do.
    List(QueueId),
    /// What was staged for a message that may not have come.
    Staged(QueueId),
    /// A generation that may be empty.
    Generation(u32),
    /// A job that was let go without a settle: its mark is to be deleted.
    Unmark(JobId),
    /// Reports that nobody waits for: to be put where the scheduler finds them.
    Reports(Vec<QueueId>),
    /// The store closes.
    Stop,
}

/// A settle that is not yet durable.
pub(super) struct Unsettled {
    /// Keeps the job from being attempted.
    pub settling: Settling,
    /// Keeps the file of the body until the message that names it is there.
    pub _staging: Option<Staging>,
    /// Its answer.
    pub pending: Pending,
    /// The same once more: the outcome a peer gave is not dropped because a disk was full.
    pub again: Box<dyn Fn() -> Unit + Send>,
    /// What is left to do once it is durable; and whether the same is to be done once more.
    pub after: Box<dyn FnMut() -> (Vec<Errand>, bool) + Send>,
}

/// The thread. Dropping it lets it finish what is in hand and end.
pub(super) struct Keeper {
    core: Arc<Core>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Keeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// `Unavailable` when the system gives no thread.
    pub fn start(
        core: Arc<Core>,
        errands: UnboundedReceiver<Errand>,
    ) -> Result<Keeper, StoreError> {
        let no_thread = |error| StoreError::Unavailable(format!("no thread: {error}"));
        // A runtime of its own: the store may be opened and used outside of any.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(no_thread)?;
        let hands = Hands {
            core: Arc::clone(&core),
            errands,
            unsettled: VecDeque::new(),
            lists: VecDeque::new(),
            generations: BTreeSet::new(),
            lost: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("store-keeper".into())
            .spawn(move || {
                let core = Arc::clone(&hands.core);
                runtime.block_on(async {
                    // It is the first that ends.
                    tokio::select! {
                        () = hands.run() => {}
                        () = core.keep_evacuating() => {}
                        () = core.keep_counting() => {}
                    }
                });
            })
            .map_err(no_thread)?;
        Ok(Keeper { core, thread: Mutex::new(Some(thread)) })
    }

    /// Waits until every settle is durable or cannot be, and ends. Lists are left where they are.
    pub async fn stop(&self) {
        self.core.leave(Errand::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic in it has been printed; the files are closed all the same.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.core.leave(Errand::Stop);
    }
}

struct Hands {
    core: Arc<Core>,
    errands: UnboundedReceiver<Errand>,
    /// In the order of the writer's queue, so the first is durable first.
    unsettled: VecDeque<Unsettled>,
    lists: VecDeque<List>,
    /// Empty ones whose files could not be removed yet.
    generations: BTreeSet<u32>,
    /// Of settles of which only the next start will tell: their jobs are not attempted again by this process.
    lost: Vec<Settling>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    Work(QueueId),
    Forget(QueueId),
}

impl Hands {
    async fn run(mut self) {
        while let Some(errand) = self.next().await {
            match errand {
                Errand::Settle(unsettled) => self.unsettled.push_back(*unsettled),
                Errand::List(id) => self.work_on(List::Work(id)),
                Errand::Staged(id) => self.work_on(List::Forget(id)),
                Errand::Generation(generation) => {
                    self.generations.insert(generation);
                    self.drop_generations().await;
                }
                Errand::Unmark(id) => self.core.unmark(id).await,
                Errand::Reports(ids) => {
                    if let Err(error) = self.core.park_all(&ids).await {
                        tracing::warn!(%error, "reports wait for the next start");
                    }
                }
                Errand::Stop => break,
            }
        }
        while let Some(unsettled) = self.unsettled.pop_front() {
            self.settled(unsettled).await;
        }
    }

    /// The next errand, doing what is in hand while there is none.
    async fn next(&mut self) -> Option<Errand> {
        loop {
            match self.errands.try_recv() {
                Ok(errand) => return Some(errand),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {}
            }
            if let Some(list) = self.lists.pop_front() {
                self.slice(list).await;
                self.reap().await;
            } else if let Some(unsettled) = self.unsettled.pop_front() {
                self.settled(unsettled).await;
            } else if self.generations.is_empty() {
                return self.errands.recv().await;
            } else {
                match tokio::time::timeout(PAUSE, self.errands.recv()).await {
                    Ok(errand) => return errand,
                    Err(_) => self.drop_generations().await,
                }
            }
        }
    }

    /// Takes note of the settles that are durable, without waiting.
    async fn reap(&mut self) {
        while let Some(mut unsettled) = self.unsettled.pop_front() {
            let ready = std::future::poll_fn(|context| {
                std::task::Poll::Ready(std::pin::Pin::new(&mut unsettled.pending).poll(context))
            });
            match ready.await {
                std::task::Poll::Ready(answer) => self.answered(unsettled, answer.err()).await,
                std::task::Poll::Pending => return self.unsettled.push_front(unsettled),
            }
        }
    }

    async fn settled(&mut self, mut unsettled: Unsettled) {
        let answer = (&mut unsettled.pending).await;
        self.answered(unsettled, answer.err()).await;
    }

    async fn answered(&mut self, mut unsettled: Unsettled, error: Option<StoreError>) {
        match error {
            None => {
                let (errands, again) = (unsettled.after)();
                errands.into_iter().for_each(|errand| self.core.leave(errand));
                if !again {
                    return;
                }
            }
            Some(StoreError::Full | StoreError::Busy) => tokio::time::sleep(PAUSE).await,
            Some(error) => return self.lose(unsettled.settling, &error),
        }
        match self.core.writer.begin(Class::Lazy, (unsettled.again)()).await {
            Ok(pending) => {
                unsettled.pending = pending;
                self.unsettled.push_back(unsettled);
            }
            Err(error) => self.lose(unsettled.settling, &error),
        }
    }

    fn lose(&mut self, settling: Settling, error: &StoreError) {
        tracing::error!(%error, job = ?settling.id(), "a delivery may not be recorded");
        self.lost.push(settling);
    }

    fn work_on(&mut self, list: List) {
        if !self.lists.contains(&list) {
            self.lists.push_back(list);
        }
    }

    async fn slice(&mut self, list: List) {
        let (done, id) = match list {
            List::Work(id) => {
                let done = self.core.work_on_list(id).await;
                self.core.readied.notify_one();
                (done, id)
            }
            List::Forget(id) => (self.core.forget_staged(id).await, id),
        };
        match done {
            Ok(true) => self.lists.push_back(list),
            Ok(false) => {}
            Err(StoreError::Full | StoreError::Busy) => {
                tokio::time::sleep(PAUSE).await;
                self.lists.push_back(list);
            }
            Err(StoreError::Closing) => {}
            Err(error) => tracing::error!(%error, %id, "a long list waits for the next start"),
        }
    }

    async fn drop_generations(&mut self) {
        for generation in std::mem::take(&mut self.generations) {
            match self.core.drop_generation(generation).await {
                Ok(true) => {}
                Ok(false) => {
                    self.generations.insert(generation);
                }
                Err(error) => tracing::warn!(%error, generation, "cannot remove a body file"),
            }
        }
    }
}

impl Core {
    /// Removes the file of a generation that nobody names. False when it is in use: ask again later.
    async fn drop_generation(&self, generation: u32) -> Result<bool, StoreError> {
        let usage = self.bodies.usage();
        let Some(usage) = usage.iter().find(|usage| usage.generation == generation) else {
            return Ok(true);
        };
        // In this order: once it is neither current nor pinned, no batch to come can name it (a pin lasts until the batch that
        // names the body is answered), so a count that is 0 after that stays 0.
        if usage.pins > 0 {
            return Ok(false);
        }
        let count = BODYGEN.key((generation, BODY_MESSAGES));
        if counter(&*self.writer.snapshot()?, &count)? != 0 {
            return Ok(true);
        }
        if usage.current {
            // A queue that has drained gives its room back; a little is kept for the next message.
            let large = usage.bytes >= KEPT_EMPTY;
            if large {
                self.bodies.turn_over(generation);
            }
            return Ok(!large);
        }
        self.bodies.unlink(generation).await
    }
}
