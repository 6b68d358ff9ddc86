//! What operators ask of the queue: messages found by any selection and changed, and what happened to them.
//!
//! It runs here, beside the store, page by page: of a million messages [`PAGE`] are in memory at a time, and nothing but counts and
//! what was asked for goes over the socket. Each page is changed in batches of their own (`store/operate.rs`), so what was done
//! before the asking end went away, or a crash, stays done. Messages that arrive after the request are not touched.
//! A message in flight is waited for, for [`Store::PATIENCE`](crate::store::Store::PATIENCE) over the whole operation.
//!
//! Only root, the daemon's user and TrustedUser may change anything or see the mail of others; a user may find and count what he
//! submitted himself. Every change stands in the log with the name of whoever made it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::proto::{Answer, Deed, Show, Tally};
use super::server::{Ending, NOT_YOURS, Visit, blocking, is_long};
use crate::mail::filter::{CONDITIONS_MAX, Condition, Filter, IDS_MAX, Look, Test};
use crate::mail::history::Event;
use crate::mail::job::{Destination, Entry};
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;
use crate::queue::bounce::{self, Bounced};
use crate::queue::reroute;
use crate::route;
use crate::store::history::{History, Place, octets_of};
use crate::store::{Command, DestinationState, FARTHEST, Store, StoreError};

/// Messages looked at from one snapshot.
const PAGE: usize = 200;
/// Recipients in one answer at most, by which it stays far below a frame.
const ANSWER_RECIPIENTS: usize = 1_000;
/// Messages given up at once: they share commits.
const BOUNCES_MAX: usize = 64;
/// Rows of the history read at once.
const ROWS: usize = 100;
/// Octets of events gathered for one look or one answer, about.
const EVENTS_OCTETS: usize = 1 << 20;

/// How an operation is made.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    /// Change nothing.
    pub rehearse: bool,
    /// What to send of them.
    pub show: Show,
}

/// Messages found in one page.
struct Page {
    entries: Vec<Entry>,
    looked: u64,
    /// Queue IDs that are not there.
    missing: Vec<QueueId>,
    /// Where to go on; none at the end.
    next: Option<Cursor>,
}

/// Where the search goes on.
#[derive(Clone, Copy)]
enum Cursor {
    /// Behind this message, or at the front.
    Queue(Option<QueueId>),
    /// At this place of the IDs given.
    Ids(usize),
}

/// What is looked for: the same for all pages.
struct Search {
    store: Store,
    filter: Filter,
    deed: Deed,
    now: Timestamp,
    /// Nothing behind it is looked at.
    newest: Option<QueueId>,
}

impl Visit {
    /// Finds messages and does something to them.
    pub(super) async fn operate(
        &mut self,
        mut filter: Filter,
        deed: Deed,
        manner: Manner,
    ) -> Result<(), Ending> {
        if let Err((text, exit)) = self.check_request(&mut filter, &deed) {
            return self.fail(&text, exit).await;
        }
        let house = self.desk.house.clone();
        let mut cursor = match filter.ids.is_empty() {
            true => Cursor::Queue(None),
            false => Cursor::Ids(0),
        };
        let search = Arc::new(Search {
            newest: house.store.newest()?,
            now: house.world.clock.now(),
            store: house.store.clone(),
            filter,
            deed: deed.clone(),
        });
        let mut tally = Tally::default();
        let patience_ends = Instant::now() + Store::PATIENCE;
        loop {
            let its = search.clone();
            let page = blocking(move || its.page(cursor)).await?;
            tally.looked += page.looked;
            tally.selected += page.entries.len() as u64;
            if !page.missing.is_empty() {
                self.say(&Answer::Missing(page.missing)).await?;
            }
            if !manner.rehearse && !page.entries.is_empty() {
                let patience = patience_ends.saturating_duration_since(Instant::now());
                self.change(&page.entries, &deed, patience, &mut tally).await?;
            }
            if manner.show != Show::Nothing {
                self.show(page.entries, manner.show).await?;
            }
            self.say(&Answer::Tally(tally)).await?;
            match page.next {
                Some(next) => cursor = next,
                None => return self.done(0).await,
            }
        }
    }

    /// Whether it may and can be done; limits what an ordinary user sees. The error has an exit status.
    fn check_request(&self, filter: &mut Filter, deed: &Deed) -> Result<(), (String, u8)> {
        if filter.ids.len() > IDS_MAX || filter.conditions.len() > CONDITIONS_MAX {
            let text = format!("more than {IDS_MAX} queue IDs or {CONDITIONS_MAX} selections");
            return Err((text, 64));
        }
        if !self.is_trusted() {
            if *deed != Deed::Look {
                let text = "only root and the daemon's user may change the queue; nothing was done";
                return Err((text.into(), 77));
            }
            let test = Test::Submitter(self.user().name);
            filter.conditions.push(Condition { negated: false, test });
        }
        match deed {
            Deed::Reroute { relay: Some(relay) } => route::relay(relay)
                .map(drop)
                .map_err(|error| (format!("cannot send there: {error}; nothing was done"), 64)),
            Deed::Reschedule { due }
                if *due > self.desk.house.world.clock.now().after(FARTHEST) =>
            {
                let text = "no time more than eight days ahead is kept; hold the messages instead; \
                            nothing was done";
                Err((text.into(), 64))
            }
            _ => Ok(()),
        }
    }

    async fn change(
        &self,
        entries: &[Entry],
        deed: &Deed,
        patience: Duration,
        tally: &mut Tally,
    ) -> Result<(), Ending> {
        let store = &self.desk.house.store;
        let ids: Vec<QueueId> = entries.iter().map(|entry| entry.id).collect();
        let command = match deed {
            Deed::Look => return Ok(()),
            Deed::Bounce { words } => return self.bounce(ids, words, patience, tally).await,
            Deed::Hold { reason } => Command::Hold(reason.clone()),
            Deed::Release => Command::Release,
            Deed::Remove => Command::Remove,
            Deed::Requeue => {
                self.knock(entries).await?;
                Command::Reschedule(self.desk.house.world.clock.now())
            }
            Deed::Reschedule { due } => Command::Reschedule(*due),
            Deed::Reroute { relay } => {
                let house = &self.desk.house;
                let done = reroute::reroute(house, entries, relay.clone(), patience).await?;
                self.book(&done, deed, tally);
                return Ok(());
            }
        };
        let done = store.operate(ids, command, patience).await?;
        self.book(&done, deed, tally);
        Ok(())
    }

    fn book(&self, done: &[QueueId], deed: &Deed, tally: &mut Tally) {
        tally.done += done.len() as u64;
        for id in done {
            self.note(*id, deed);
        }
    }

    /// For the log and the history.
    fn note(&self, id: QueueId, deed: &Deed) {
        self.desk.house.maillog.operated(id, &past(deed), &self.user().name);
    }

    /// The destinations of these messages are tried at once, whatever is known of them.
    async fn knock(&self, entries: &[Entry]) -> Result<(), StoreError> {
        let store = &self.desk.house.store;
        let now = self.desk.house.world.clock.now();
        let mut seen: HashSet<Destination> = HashSet::new();
        for entry in entries {
            let mut after = None;
            loop {
                let jobs = match is_long(entry) {
                    true => store.jobs(entry.id, after, 1)?,
                    false => entry.jobs.clone(),
                };
                after = jobs.last().map(|job| job.number);
                let fresh = |job: &crate::mail::job::EntryJob| seen.insert(job.destination.clone());
                let (new, _): (Vec<_>, Vec<_>) = jobs.into_iter().partition(fresh);
                for job in new {
                    let state = store.destination(&job.destination)?;
                    if let Some(state) = state.filter(|state| state.not_before > now) {
                        let open = DestinationState { not_before: Timestamp::ZERO, ..state };
                        store.set_destination(&job.destination, open).await?;
                    }
                }
                if !is_long(entry) || after.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn bounce(
        &self,
        ids: Vec<QueueId>,
        words: &str,
        patience: Duration,
        tally: &mut Tally,
    ) -> Result<(), Ending> {
        let mut left = ids.into_iter();
        let mut under_way: JoinSet<(QueueId, Result<Bounced, StoreError>)> = JoinSet::new();
        let ends = Instant::now() + patience;
        loop {
            while under_way.len() < BOUNCES_MAX
                && let Some(id) = left.next()
            {
                let (house, words) = (self.desk.house.clone(), words.to_owned());
                under_way.spawn(async move {
                    let patience = ends.saturating_duration_since(Instant::now());
                    house.store.landed(id, patience).await;
                    (id, bounce::bounce(&house, id, &words).await)
                });
            }
            let Some(ended) = under_way.join_next().await else { return Ok(()) };
            let panicked = |error| StoreError::Unavailable(format!("giving up ended: {error}"));
            let (id, bounced) = ended.map_err(panicked)?;
            let bounced = bounced?;
            tally.in_hand += u64::from(bounced.in_hand > 0);
            if bounced.jobs > 0 {
                tally.done += 1;
                self.note(id, &Deed::Bounce { words: words.to_owned() });
            }
            // Without a daemon the reports wait for one, as all mail does.
            if self.desk.yield_to.is_none() {
                bounced.hand_over(id, &self.desk.wake, &self.desk.runs).await;
            }
        }
    }

    /// Sends entries, and behind that of a long list its jobs, if they are asked for.
    async fn show(&mut self, entries: Vec<Entry>, show: Show) -> Result<(), Ending> {
        let (mut part, mut recipients) = (Vec::new(), 0);
        for entry in entries {
            recipients += entry.jobs.iter().map(|job| job.recipients.len()).sum::<usize>();
            let list = (show == Show::Recipients && is_long(&entry)).then_some(entry.id);
            part.push(entry);
            if recipients >= ANSWER_RECIPIENTS || list.is_some() {
                self.say(&Answer::Entries(std::mem::take(&mut part))).await?;
                recipients = 0;
            }
            if let Some(id) = list {
                self.all_jobs(id).await?;
            }
        }
        match part.is_empty() {
            true => Ok(()),
            false => self.say(&Answer::Entries(part)).await,
        }
    }

    /// What happened to messages.
    pub(super) async fn history(&mut self, mut filter: Filter) -> Result<(), Ending> {
        if !self.is_trusted() {
            return self.fail(NOT_YOURS, 77).await;
        }
        if let Err((text, exit)) = self.check_request(&mut filter, &Deed::Look) {
            return self.fail(&text, exit).await;
        }
        let Some(history) = self.desk.history.clone() else {
            return self.fail("no history is kept: HistoryTime is 0", 69).await;
        };
        let its = history.clone();
        blocking(move || {
            its.flush();
            Ok(())
        })
        .await?;
        let now = self.desk.house.world.clock.now();
        match filter.ids.is_empty() {
            true => self.tell(&history, &filter, None, now).await?,
            false => {
                for id in &filter.ids {
                    self.tell(&history, &filter, Some(*id), now).await?;
                }
            }
        }
        self.done(0).await
    }

    /// Sends the history of one message or of all that the filter selects.
    async fn tell(
        &mut self,
        history: &History,
        filter: &Filter,
        of: Option<QueueId>,
        now: Timestamp,
    ) -> Result<(), Ending> {
        let mut after: Option<(QueueId, Place)> = None;
        // The message whose rows are being read, with what was gathered of it so far.
        let mut group: Option<(QueueId, Vec<Event>, usize)> = None;
        loop {
            let its = history.clone();
            let rows = blocking(move || its.rows(of, after, ROWS)).await?;
            let at_end = rows.len() < ROWS;
            for row in rows {
                after = Some((row.id, row.place));
                let octets: usize = row.events.iter().map(octets_of).sum();
                match &mut group {
                    Some((id, events, gathered))
                        if *id == row.id && *gathered + octets <= EVENTS_OCTETS =>
                    {
                        events.extend(row.events);
                        *gathered += octets;
                    }
                    _ => {
                        let before = group.replace((row.id, row.events, octets));
                        self.tell_group(before, filter, now).await?;
                    }
                }
            }
            if at_end {
                return self.tell_group(group, filter, now).await;
            }
        }
    }

    async fn tell_group(
        &mut self,
        group: Option<(QueueId, Vec<Event>, usize)>,
        filter: &Filter,
        now: Timestamp,
    ) -> Result<(), Ending> {
        match group.filter(|(id, events, _)| filter.matches_history(*id, events, now)) {
            Some((id, events, _)) => self.say(&Answer::History(vec![(id, events)])).await,
            None => Ok(()),
        }
    }
}

impl Search {
    /// The messages of one page that are meant.
    fn page(&self, cursor: Cursor) -> Result<Page, StoreError> {
        let mut page = Page { entries: Vec::new(), looked: 0, missing: Vec::new(), next: None };
        let found = match cursor {
            Cursor::Queue(after) => {
                let mut found = self.store.list(after, PAGE)?;
                let full = found.len() == PAGE;
                found.retain(|entry| Some(entry.id) <= self.newest);
                if full && found.len() == PAGE {
                    page.next = found.last().map(|last| Cursor::Queue(Some(last.id)));
                }
                found
            }
            Cursor::Ids(start) => {
                let ids = &self.filter.ids[start.min(self.filter.ids.len())..];
                let mut found = Vec::new();
                for id in &ids[..ids.len().min(PAGE)] {
                    match self.store.entry(*id)? {
                        Some(entry) => found.push(entry),
                        None => page.missing.push(*id),
                    }
                }
                page.next = (ids.len() > PAGE).then_some(Cursor::Ids(start + PAGE));
                found
            }
        };
        page.looked = found.len() as u64;
        for entry in found {
            if applies(&self.deed, &entry) && self.is_meant(&entry)? {
                page.entries.push(entry);
            }
        }
        Ok(page)
    }

    fn is_meant(&self, entry: &Entry) -> Result<bool, StoreError> {
        let mut look: Look<'_> = self.filter.look(entry, self.now);
        if is_long(entry) && look.needs_jobs() {
            let mut after = None;
            while let Some(job) = self.store.all_jobs(entry.id, after, 1)?.pop() {
                after = Some(job.number);
                look.job(&job);
            }
        }
        Ok(look.matches())
    }
}

/// Whether there is anything to do to this message.
fn applies(deed: &Deed, entry: &Entry) -> bool {
    match deed {
        Deed::Look | Deed::Remove | Deed::Bounce { .. } | Deed::Reroute { .. } => true,
        Deed::Release => entry.held.is_some(),
        Deed::Hold { .. } | Deed::Requeue | Deed::Reschedule { .. } => entry.held.is_none(),
    }
}

/// What was done, for the log: `held (spam)`, `removed`.
fn past(deed: &Deed) -> String {
    match deed {
        Deed::Look => "looked at".into(),
        Deed::Hold { reason } => format!("held ({reason})"),
        Deed::Release => "released".into(),
        Deed::Remove => "removed".into(),
        Deed::Bounce { words } => format!("bounced ({words})"),
        Deed::Requeue => "requeued".into(),
        Deed::Reschedule { due } => format!("rescheduled to {due:?}"),
        Deed::Reroute { relay: Some(relay) } => format!("rerouted to {relay}"),
        Deed::Reroute { relay: None } => "rerouted by configuration".into(),
    }
}
