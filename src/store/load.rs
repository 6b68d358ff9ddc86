//! Loading: a message of another spool becomes ours with the state it had there, once.
//!
//! It is always scheduled (INCOMING has only mail that was never tried): body sealed and long list staged first, then one batch with
//! everything, as `accept` does it, and with the message's *origin* in LOADED. An origin that is there already makes the
//! batch empty: whoever loads a spool twice, after a crash or by mistake, gets each message once, delivered in between or
//! not. Origins are forgotten [`REMEMBERED`] after they were loaded, some with each new one, so the ledger is bounded by what
//! was loaded in that time; what a spool still has then is far beyond every queue timeout.

use std::time::Duration;

use super::edit::{Edit, load};
use super::engine::{Batch, Check, Read};
use super::intake::{Intake, Recipients, into_jobs};
use super::keeper::Errand;
use super::message::{Body, List, Message, Shape, is_open};
use super::schema::*;
use super::writer::Class;
use super::{Store, StoreError};
use crate::mail::job::JobId;
use crate::mail::loading::{Attempts, Loaded, Loading};
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;

/// How long an origin is remembered.
pub const REMEMBERED: Duration = Duration::from_secs(90 * 86_400);
/// Old origins forgotten in the batch of a new one: more than one, so that the ledger shrinks.
const FORGOTTEN: usize = 4;

impl Store {
    /// Under which name the message of this origin was loaded; none when it was not.
    ///
    /// # Errors
    /// `Damaged`, `Unavailable`, `Closing`.
    pub fn loaded(&self, origin: &str) -> Result<Option<QueueId>, StoreError> {
        let snapshot = self.core().writer.snapshot()?;
        find(&*snapshot, origin)
    }
}

impl Intake {
    /// Makes it durable with the state it had elsewhere, due now unless it is held. `envelope.size` and `header_len` are those of
    /// the octets written. After an `Err` it is not there. A list of an origin that was loaded meanwhile is forgotten.
    ///
    /// # Errors
    /// `Full`, `Unavailable`, `Closing`.
    ///
    /// # Panics
    /// As [`Intake::accept`].
    pub async fn load(self, loading: Loading, origin: &str) -> Result<Loaded<QueueId>, StoreError> {
        let Intake { core, id, content, recipients, due: _ } = self;
        let Loading { envelope, attempts, warned, held } = loading;
        assert_eq!(envelope.size, content.written(), "the envelope says how much was written");
        assert!(envelope.size > 0, "a message has a header");
        let now = core.now();
        let (shape, list) = match recipients {
            Recipients::Few(few) => {
                assert!(!few.is_empty(), "a message has recipients");
                let mut jobs = into_jobs(few, now);
                for job in &mut jobs {
                    job.attempts = attempts.count;
                    job.last_attempt = attempts.last;
                    job.status = attempts.status.clone();
                }
                (Shape::Inline(jobs), None)
            }
            Recipients::Many(mut staging) => {
                let recipients = staging.finish().await?;
                let list = List {
                    recipients,
                    jobs: 0,
                    open_jobs: 0,
                    unfolding: true,
                    unreported_since: None,
                    sweep: None,
                };
                (Shape::List(list), Some(staging))
            }
        };
        let (body, _) = content.seal(&core, id).await?;
        let generation = body.generation();
        let body_of = Body { generation, key: None };
        let message = Message { envelope, body: body_of, warned, held, shape };
        let origin = origin.to_owned();
        let put = move |read: &dyn Read| match find(read, &origin)? {
            Some(before) => Ok((Batch::default(), Loaded::Before(before))),
            None => Ok((batch(read, id, &message, &attempts, &origin, now)?, Loaded::Now(id))),
        };
        let loaded = core.writer.apply(Class::Acknowledged, 0, put).await?;
        // Until now it kept the file of the body from being removed.
        drop(body);
        if let Loaded::Now(_) = loaded {
            match list {
                Some(staging) => {
                    staging.keep();
                    core.leave(Errand::List(id));
                }
                None => core.readied.notify_one(),
            }
        }
        Ok(loaded)
    }
}

fn find(read: &dyn Read, origin: &str) -> Result<Option<QueueId>, StoreError> {
    let found = load::<_, u64, _>(read, &LOADED, origin)?;
    Ok(found.map(|(id, _)| QueueId::from_u64(id)))
}

fn batch(
    read: &dyn Read,
    id: QueueId,
    message: &Message,
    attempts: &Attempts,
    origin: &str,
    now: Timestamp,
) -> Result<Batch, StoreError> {
    let mut edit = Edit::on(read);
    edit.check(Check::Absent(MESSAGE.key(id)));
    edit.check(Check::Absent(LOADED.key(origin)));
    edit.enter(id, message);
    match &message.shape {
        Shape::Inline(jobs) => {
            for job in jobs.iter().filter(|job| message.held.is_none() && is_open(job)) {
                edit.ready(JobId { queue_id: id, number: job.number }, message.term(), job);
            }
        }
        Shape::List(_) if *attempts != Attempts::default() => edit.put(&PROGRESS, id, attempts),
        Shape::List(_) => {}
    }
    let (start, _) = LOADED_AT.all();
    let (end, _) = LOADED_AT.under(now.before(REMEMBERED));
    if start < end {
        for key in read.keys(&start..&end, FORGOTTEN, false)? {
            // One that is no key of ours goes with its neighbours.
            if let Ok((_, old)) = LOADED_AT.parse(&key) {
                edit.delete(&LOADED, &old);
            }
            edit.delete_key(key);
        }
    }
    edit.put(&LOADED, origin, &id.as_u64());
    edit.mark(&LOADED_AT, (now, origin));
    edit.finish()
}
