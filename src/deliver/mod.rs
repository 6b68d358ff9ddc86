//! STATION: deliver. One attempt at one job: host after host, until every recipient has an outcome or no host is left.
//!
//! Promises: each recipient of the job has exactly one outcome in [`Attempt::Tried`]; [`Attempt::Unreachable`] only when
//! nothing of this message's own was learnt; what a peer took is durable (by `checkpoint`) before the same job's next
//! transaction begins; a body that cannot be read is never ended, so nothing truncated is delivered. A crash in an
//! attempt leaves the recipients of the transaction under way open: those may get the message twice, none loses it.
//!
//! Never: decides when to try again, writes reports, or logs; facts go to the caller as [`Attempted`].
//!
//! | file | holds |
//! |---|---|
//! | [`relay`] | the walk over hosts and transactions |
//! | [`content`] | what goes over the wire: as it is, cut to size, or converted to 7 bits |
//! | [`connection`] | a client machine and the stream under it |
//! | [`pool`] | idle connections |
//! | [`trouble`] | whose trouble it is: the policy for everything that goes wrong |

mod connection;
mod content;
mod pool;
mod relay;
mod trouble;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::mail::envelope::RecipientState;
use crate::mail::job::{BodyRef, Job, JobId};
use crate::mail::outcome::{Attempt, HostOutcome, RemoteHost};
use crate::route::Hop;
use crate::store::{Store, StoreError, Tally};
use crate::world::{Answer, TlsFacts, World};
use pool::Pool;
use relay::Relay;

/// The ways of delivering, as configured. Clones share the idle connections.
#[derive(Clone)]
pub struct Mailers {
    config: Arc<Config>,
    world: World,
    backing: Arc<dyn Backing>,
    pool: Arc<Pool>,
}

/// What an attempt needs of the store; a test stands in its place.
pub trait Backing: Send + Sync {
    /// As [`Store::read_body`].
    fn read_body<'a>(
        &'a self,
        body: &'a BodyRef,
        offset: u64,
    ) -> Answer<'a, Result<Vec<u8>, StoreError>>;

    /// As [`Store::checkpoint`].
    fn checkpoint(
        &self,
        id: JobId,
        states: Vec<(u32, RecipientState)>,
    ) -> Answer<'_, Result<(), StoreError>>;

    /// A TCP connection stands, for the statistics.
    fn connected(&self) {}
}

impl Backing for Store {
    fn read_body<'a>(
        &'a self,
        body: &'a BodyRef,
        offset: u64,
    ) -> Answer<'a, Result<Vec<u8>, StoreError>> {
        Box::pin(Store::read_body(self, body, offset))
    }

    fn checkpoint(
        &self,
        id: JobId,
        states: Vec<(u32, RecipientState)>,
    ) -> Answer<'_, Result<(), StoreError>> {
        Box::pin(Store::checkpoint(self, id, states))
    }

    fn connected(&self) {
        self.tally(Tally::ConnectionTo);
    }
}

/// Takes the lines of a dialogue for `-v`: `>>> DATA`, `250 2.0.0 Ok`.
pub type Sink<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// How an attempt is to be made.
#[derive(Clone, Copy)]
pub struct Manner<'a> {
    /// Hosts, by the name connected to, that are known to be down and not to be asked.
    pub skip: &'a (dyn Fn(&str) -> bool + Send + Sync),
    /// Who watches. A watched attempt opens its own connections and says QUIT.
    pub transcript: Option<Sink<'a>>,
}

/// What an attempt came to.
#[derive(Debug)]
pub struct Attempted {
    /// The outcomes.
    pub attempt: Attempt,
    /// What became of the hosts asked, for host status.
    pub hosts: Vec<HostOutcome>,
    /// For the log.
    pub notices: Vec<Notice>,
    /// The lines of the transcript that end the dialogue: to be shown after the outcomes, which were known before them.
    pub farewell: Vec<String>,
    /// Our store failed after some outcomes were learnt, and the attempt ended early: settle those, then treat this.
    pub own_trouble: Option<StoreError>,
}

/// An event that is no outcome.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// A handshake succeeded (log `STARTTLS=client, relay=...`).
    Tls {
        /// With whom.
        host: RemoteHost,
        /// On what.
        facts: TlsFacts,
    },
    /// A handshake failed; with TLSFallbacktoClear the host is tried again in clear.
    TlsFailed {
        /// With whom.
        host: RemoteHost,
        /// In words: the library's, or what became of the connection.
        reason: String,
    },
    /// A MIME field was cut to size on its way out (MaxMimeHeaderLength); sendmail's words.
    Cut(String),
}

impl Mailers {
    /// With no connections yet.
    pub fn new(config: Arc<Config>, world: World, store: impl Backing + 'static) -> Mailers {
        Mailers { config, world, backing: Arc::new(store), pool: Arc::default() }
    }

    /// The same with another configuration (reload); attempts under way keep theirs.
    pub fn with_config(&self, config: Arc<Config>) -> Mailers {
        Mailers { config, ..self.clone() }
    }

    /// One attempt at `job` over `hops` (from [`crate::route::hops`]) in their order. `bytes` is the whole message when
    /// it is still in memory; without it the body is read from the store, a piece at a time.
    ///
    /// # Errors
    /// [`StoreError`] when our own side failed before anything was learnt; later failures are in
    /// [`Attempted::own_trouble`].
    pub async fn attempt(
        &self,
        job: &Job,
        hops: Vec<Hop>,
        bytes: Option<Arc<[u8]>>,
        manner: Manner<'_>,
    ) -> Result<Attempted, StoreError> {
        let relay = Relay {
            config: &self.config,
            world: &self.world,
            backing: &*self.backing,
            pool: &self.pool,
        };
        relay.attempt(job, hops, bytes, manner).await
    }

    /// Dismisses connections that are idle for ConnectionCacheTimeout, for as long as it is polled: run it beside the queue.
    pub async fn keep_pool_fresh(&self) -> Infallible {
        // Sooner than any sensible timeout, so that a connection never overstays by more than a tenth of it.
        let pause = (self.config.connection_cache_timeout / 10).max(Duration::from_secs(1));
        loop {
            tokio::time::sleep(pause).await;
            self.pool.sweep(self.config.connection_cache_timeout);
        }
    }

    /// Says QUIT on every idle connection: at the daemon's end.
    pub fn dismiss_idle(&self) {
        self.pool.sweep(Duration::ZERO);
    }
}
