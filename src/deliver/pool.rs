//! Idle connections worth keeping, by destination and host.
//!
//! At most ConnectionCacheSize in all and each for at most ConnectionCacheTimeout; the longest idle one makes room. A
//! connection is looked at before it is given out: one on which anything came, or that was closed, is dropped. Nobody
//! waits here, for a peer or for a lock that is held over a wait.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;
use crate::mail::job::Destination;

/// A connection idle for longer than this is asked for a sign of life before it gets a letter: routers and servers
/// forget connections without a word, and a letter that runs into that costs a timeout.
const PROBE_AFTER: Duration = Duration::from_secs(10);

/// Idle connections.
#[derive(Default)]
pub(super) struct Pool {
    shelf: Mutex<HashMap<Destination, Vec<Idle>>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    /// A live connection to `host` for `destination`, the last one put back first.
    pub(super) fn take(
        &self,
        destination: &Destination,
        host: &str,
        timeout: Duration,
    ) -> Option<Connection> {
        let now = Instant::now();
        loop {
            let mut idle = self.pick(destination, host)?;
            let age = now.duration_since(idle.since);
            if age >= timeout {
                idle.connection.dismiss();
            } else if idle.connection.is_alive() {
                if age >= PROBE_AFTER {
                    idle.connection.probe();
                }
                return Some(idle.connection);
            }
        }
    }

    fn pick(&self, destination: &Destination, host: &str) -> Option<Idle> {
        let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        let row = shelf.get_mut(destination)?;
        let at = row.iter().rposition(|idle| idle.connection.host().name == host)?;
        let idle = row.remove(at);
        if row.is_empty() {
            shelf.remove(destination);
        }
        Some(idle)
    }

    /// Keeps a connection, if it is worth it; at most `limit` are kept in all.
    pub(super) fn put(&self, destination: &Destination, connection: Connection, limit: usize) {
        if limit == 0 || !connection.is_reusable() {
            return connection.dismiss();
        }
        let since = Instant::now();
        let surplus = {
            let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
            match shelf.get_mut(destination) {
                Some(row) => row.push(Idle { connection, since }),
                None => {
                    shelf.insert(destination.clone(), vec![Idle { connection, since }]);
                }
            }
            let mut surplus = Vec::new();
            while shelf.values().map(Vec::len).sum::<usize>() > limit {
                match oldest(&mut shelf) {
                    Some(idle) => surplus.push(idle),
                    None => break,
                }
            }
            surplus
        };
        surplus.into_iter().for_each(|idle| idle.connection.dismiss());
    }

    /// Dismisses what is idle for `timeout` or longer.
    pub(super) fn sweep(&self, timeout: Duration) {
        let now = Instant::now();
        let mut expired = Vec::new();
        {
            let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
            for row in shelf.values_mut() {
                // Rows are in order of their instants: what is put back goes to the end.
                let count = row.partition_point(|idle| now.duration_since(idle.since) >= timeout);
                expired.extend(row.drain(..count));
            }
            shelf.retain(|_, row| !row.is_empty());
        }
        expired.into_iter().for_each(|idle| idle.connection.dismiss());
    }

    /// How many are idle.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        shelf.values().map(Vec::len).sum()
    }
}

/// Takes the one that is idle for the longest time. Rows are in order, so it heads one.
fn oldest(shelf: &mut HashMap<Destination, Vec<Idle>>) -> Option<Idle> {
    let destination = shelf
        .iter()
        .filter_map(|(destination, row)| Some((row.first()?.since, destination)))
        .min_by_key(|(since, _)| *since)?
        .1
        .clone();
    let row = shelf.get_mut(&destination)?;
    let idle = if row.is_empty() { None } else { Some(row.remove(0)) };
    if row.is_empty() {
        shelf.remove(&destination);
    }
    idle
}
