//! Another way at an operator's word: messages go to a relay he names, or where the configuration says again, due at once.
//!
//! Messages of few recipients change in the batches of the command. The jobs of a long list follow one by one, those still to be made
//! of it as they are made; a crash in between leaves some behind the old destination, and each of those goes the new way when its turn
//! comes there, as routing is asked at every attempt.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::House;
use crate::mail::address::Address;
use crate::mail::job::{Entry, JobId};
use crate::mail::queue_id::QueueId;
use crate::route;
use crate::store::{Command, Reroute, StoreError};

/// Between two looks at a list of which jobs are still being made.
const UNFOLDING_PAUSE: Duration = Duration::from_millis(100);

/// Sends these messages to `relay`, which has been checked ([`route::relay`]), or by routing again. Those in flight, and what is still
/// being made of a list, are waited for, `patience` at most. Gives those it was done to.
///
/// # Errors
/// Of the store: some may be done.
pub async fn reroute(
    house: &House,
    entries: &[Entry],
    relay: Option<String>,
    patience: Duration,
) -> Result<Vec<QueueId>, StoreError> {
    let ends = Instant::now() + patience;
    let way = way(house, relay);
    let ids = entries.iter().map(|entry| entry.id).collect();
    let done = house.store.operate(ids, Command::Reroute(way.clone()), patience).await?;
    let moved: HashSet<QueueId> = done.iter().copied().collect();
    let is_list = |entry: &&Entry| entry.jobs.is_empty() && entry.recipients_total > 0;
    for entry in entries.iter().filter(is_list).filter(|entry| moved.contains(&entry.id)) {
        move_jobs(house, entry.id, &way, ends).await?;
    }
    Ok(done)
}

/// Where jobs go now.
fn way(house: &House, relay: Option<String>) -> Reroute {
    let config = house.config.clone();
    let named = relay.as_deref().and_then(|relay| route::relay(relay).ok());
    let to = move |address: &Address| match &named {
        Some(relay) => Some(relay.clone()),
        None => route::destination(&config, address).ok(),
    };
    Reroute { relay, to: Arc::new(to) }
}

/// The jobs of a long list, one by one: up to a thousand recipients in memory.
async fn move_jobs(
    house: &House,
    id: QueueId,
    way: &Reroute,
    ends: Instant,
) -> Result<(), StoreError> {
    let store = &house.store;
    let mut after = None;
    loop {
        // Asked first: what is made until then is found below.
        let unfolds = store.unfolds(id)?;
        while let Some(job) = store.jobs(id, after, 1)?.pop() {
            after = Some(job.number);
            let first = job.recipients.iter().find(|recipient| recipient.state.is_open());
            let to = first.and_then(|recipient| (way.to)(&recipient.address));
            if let Some(to) = to.filter(|to| *to != job.destination) {
                store.reroute(JobId { queue_id: id, number: job.number }, to).await?;
            }
        }
        if !unfolds || Instant::now() >= ends {
            return Ok(());
        }
        tokio::time::sleep(UNFOLDING_PAUSE).await;
    }
}
