//! Statistics: what `mailstats` prints (sendmail's StatusFile), as numbers that are only added to.
//!
//! A message accepted and a job delivered are counted in the batch that makes it so. What has no batch (connections, refusals)
//! is kept in memory and written with a lazy one after a minute at most: a crash forgets that minute.
//!
//! *From* is counted as sendmail counts it, by the mailer of the sender, as far as the store can tell: what came over SMTP is from
//! [`Mailer::Esmtp`], what was submitted by command, and reports of ours, from [`Mailer::Local`].

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::edit::{counter, load};
use super::engine::{Batch, Key, Read};
use super::key::{mailer_code, mailer_of};
use super::record::Record;
use super::schema::*;
use super::writer::Class;
use super::{Core, Store, StoreError};
use crate::mail::envelope::{Envelope, RecipientState};
use crate::mail::job::Mailer;
use crate::mail::statistics::{Connections, Figures, Statistics};
use crate::mail::status::EnhancedStatus;
use crate::mail::time::Timestamp;

/// How long what has no batch of its own may stay in memory.
const WRITE_EVERY: Duration = Duration::from_secs(60);
/// What sendmail counts sizes in.
const KIB: u64 = 1024;

/// Something to count that no batch of the store tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// A client connected.
    ConnectionFrom,
    /// We connected to a host.
    ConnectionTo,
    /// A client was turned away.
    ConnectionRejected,
    /// A message of a sender of this mailer was refused.
    Rejected(Mailer),
    /// A message of a sender of this mailer was thrown away, as a policy said.
    Discarded(Mailer),
}

/// What is not yet in a batch: at most a number for each key of STAT.
#[derive(Default)]
pub(super) struct Tallies(Mutex<Sums>);

type Sums = BTreeMap<(u8, u8), i64>;

impl Tallies {
    fn sums(&self) -> MutexGuard<'_, Sums> {
        // Each addition leaves it consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, tally: Tally) {
        let mut sums = self.sums();
        let mut one = |key| *sums.entry(key).or_default() += 1;
        match tally {
            Tally::ConnectionFrom => one((STAT_CONNECTIONS, STAT_FROM)),
            Tally::ConnectionTo => one((STAT_CONNECTIONS, STAT_TO)),
            Tally::ConnectionRejected => one((STAT_CONNECTIONS, STAT_REJECTED)),
            // sendmail counts them as refused connections as well.
            Tally::Rejected(mailer) => {
                one((mailer_code(mailer), STAT_REJECTED));
                one((STAT_CONNECTIONS, STAT_REJECTED));
            }
            Tally::Discarded(mailer) => {
                one((mailer_code(mailer), STAT_DISCARDED));
                one((STAT_CONNECTIONS, STAT_REJECTED));
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.sums().is_empty()
    }

    fn take(&self) -> Sums {
        std::mem::take(&mut *self.sums())
    }

    /// Their batch failed.
    fn put_back(&self, taken: Sums) {
        let mut sums = self.sums();
        taken.into_iter().for_each(|(key, sum)| *sums.entry(key).or_default() += sum);
    }

    /// For the last batch of a store that closes.
    pub(super) fn last_word(&self, batch: &mut Batch) {
        batch.adds.extend(additions(self.take()));
    }
}

fn additions(sums: Sums) -> impl Iterator<Item = (Key, i64)> {
    sums.into_iter().map(|(key, sum)| (STAT.key(key), sum))
}

impl Store {
    /// Everything counted so far. Reads a few numbers.
    ///
    /// # Errors
    /// `Unavailable`, `Damaged`, `Closing`.
    pub fn statistics(&self) -> Result<Statistics, StoreError> {
        let core = self.core();
        let mut statistics = read_statistics(&*core.writer.snapshot()?)?;
        add(&mut statistics, &core.tallies.sums());
        Ok(statistics)
    }

    /// Begins anew; gives what was counted until then. Durable: nothing is counted twice or lost in between.
    ///
    /// # Errors
    /// `Full`, `Unavailable`, `Damaged`, `Closing`: counting goes on as before.
    pub async fn reset_statistics(&self) -> Result<Statistics, StoreError> {
        let core = self.core();
        let now = core.now();
        let taken = core.tallies.take();
        let reset = move |read: &dyn Read| {
            let before = read_statistics(read)?;
            let since = (META.key(META_COUNTING), now.as_millis().encode());
            let batch =
                Batch { delete_ranges: vec![STAT.all()], puts: vec![since], ..Batch::default() };
            Ok((batch, before))
        };
        match core.writer.apply(Class::Acknowledged, 0, reset).await {
            Ok(mut before) => {
                add(&mut before, &taken);
                Ok(before)
            }
            Err(error) => {
                core.tallies.put_back(taken);
                Err(error)
            }
        }
    }

    /// Returns when all that was counted before is durable, deliveries whose batch is still on its way included.
    ///
    /// # Errors
    /// `Full`, `Unavailable`, `Closing`: what only memory has stays there.
    pub async fn write_statistics(&self) -> Result<(), StoreError> {
        // Batches are written in the order in which they come.
        self.core().write_tallies(Class::Acknowledged).await
    }

    /// Counts it. Never waits; durable within a minute.
    pub fn tally(&self, tally: Tally) {
        self.core().tallies.add(tally);
    }
}

impl Core {
    /// Writes what is only in memory, from time to time, for ever; to be dropped when the store closes.
    pub(super) async fn keep_counting(&self) {
        loop {
            tokio::time::sleep(WRITE_EVERY).await;
            if self.tallies.is_empty() {
                continue;
            }
            if let Err(error) = self.write_tallies(Class::Lazy).await {
                tracing::debug!(%error, "statistics are written later");
            }
        }
    }

    pub(super) async fn write_tallies(&self, class: Class) -> Result<(), StoreError> {
        let taken = self.tallies.take();
        let batch = Batch { adds: additions(taken.clone()).collect(), ..Batch::default() };
        let written = self.writer.submit(class, batch).await;
        written.map(|_| ()).inspect_err(|_| self.tallies.put_back(taken))
    }
}

fn read_statistics(read: &dyn Read) -> Result<Statistics, StoreError> {
    let since = load::<_, u64, _>(read, &META, META_COUNTING)?.map_or(0, |(since, _)| since);
    let (start, end) = STAT.all();
    let mut sums = Sums::new();
    // As many rows as there are mailers times figures.
    for key in read.keys(&start..&end, usize::MAX, false)? {
        let Ok(figure) = STAT.parse(&key) else { continue };
        sums.insert(figure, counter(read, &key)?);
    }
    let since = Timestamp::from_millis(since);
    let mut statistics = Statistics { since, ..Statistics::default() };
    add(&mut statistics, &sums);
    Ok(statistics)
}

/// Adds the sums to what they are of. A number of a mailer that a later version knows is left alone.
fn add(statistics: &mut Statistics, sums: &Sums) {
    let mut mailers: BTreeMap<Mailer, Figures> = statistics.mailers.drain(..).collect();
    for ((code, figure), sum) in sums {
        let sum = u64::try_from(*sum).unwrap_or(0);
        if *code == STAT_CONNECTIONS {
            let Connections { from, to, rejected } = &mut statistics.connections;
            match *figure {
                STAT_FROM => *from += sum,
                STAT_TO => *to += sum,
                STAT_REJECTED => *rejected += sum,
                _ => {}
            }
            continue;
        }
        let Some(mailer) = mailer_of(*code) else { continue };
        let figures = mailers.entry(mailer).or_default();
        match *figure {
            STAT_FROM => figures.messages_from += sum,
            STAT_FROM_KIB => figures.kib_from += sum,
            STAT_TO => figures.messages_to += sum,
            STAT_TO_KIB => figures.kib_to += sum,
            STAT_REJECTED => figures.rejected += sum,
            STAT_DISCARDED => figures.discarded += sum,
            STAT_QUARANTINED => figures.quarantined += sum,
            _ => {}
        }
    }
    statistics.mailers.extend(mailers.into_iter().filter(|(_, f)| *f != Figures::default()));
}

/// What a message adds that is accepted.
pub(super) fn accepted(envelope: &Envelope, held: bool) -> impl Iterator<Item = (Key, i64)> {
    let code = mailer_code(sender(envelope));
    let held = held.then(|| (STAT.key((code, STAT_QUARANTINED)), 1));
    let from = [(STAT.key((code, STAT_FROM)), 1), (STAT.key((code, STAT_FROM_KIB)), kib(envelope))];
    from.into_iter().chain(held)
}

/// What a job adds that is settled, when a recipient of it was delivered.
pub(super) fn delivered(
    envelope: &Envelope,
    mailer: Mailer,
    states: &[(u32, RecipientState)],
) -> impl Iterator<Item = (Key, i64)> {
    let code = mailer_code(mailer);
    let to = states
        .iter()
        .any(|(_, state)| is_delivered(state))
        .then(|| [(STAT.key((code, STAT_TO)), 1), (STAT.key((code, STAT_TO_KIB)), kib(envelope))]);
    to.into_iter().flatten()
}

/// Not so when it is only that others stand for it.
fn is_delivered(state: &RecipientState) -> bool {
    match state {
        RecipientState::Done { report, .. } => {
            report.status != EnhancedStatus::new(2, 1, 5)
                || report.reply.is_some()
                || report.remote.is_some()
        }
        RecipientState::Open(_) | RecipientState::Failed { .. } => false,
    }
}

fn sender(envelope: &Envelope) -> Mailer {
    if envelope.protocol.is_empty() { Mailer::Local } else { Mailer::Esmtp }
}

fn kib(envelope: &Envelope) -> i64 {
    i64::try_from(envelope.size.div_ceil(KIB)).unwrap_or(i64::MAX)
}
