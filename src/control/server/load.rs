//! A message of another spool comes in by the control socket: routed here, kept with its state, once.
//!
//! It is routed by the configuration of whoever holds the store; a recipient this configuration has no way for
//! refuses the whole message, which stays where it was: nothing is lost, and nothing is half loaded. Recipients and
//! octets stream into the store, so neither a long list nor a large body is in memory. Parts are read to the end
//! also when the message is refused, so the connection goes on with the next one.
//!
//! What was dumped from this queue and comes back is still in it: it is refused, or it would be delivered twice.

use std::io;

use super::{Ending, MESSAGE_WAIT, Visit};
use crate::config::Config;
use crate::control::proto::{self, Answer, LoadPart, PAGE_MAX};
use crate::mail::address::ReversePath;
use crate::mail::envelope::{Envelope, Recipient};
use crate::mail::job::{Destination, Entry};
use crate::mail::loading::{Loaded, Loading, ORIGIN_MAX};
use crate::mail::queue_id::QueueId;
use crate::route;
use crate::store::{Intake, StoreError};

/// Why a message is not loaded: what to say, and the exit status.
type Refusal = (String, u8);

impl Visit {
    pub(super) async fn load(&mut self, origin: String) -> Result<(), Ending> {
        if !self.is_trusted() {
            let text = "only root and the daemon's user may load messages; nothing was loaded";
            return self.fail(text, 77).await;
        }
        if origin.is_empty() || origin.len() > ORIGIN_MAX {
            return self.fail("its origin is too long to be remembered", 65).await;
        }
        if let Some(id) = self.dumped_from_here(&origin)? {
            let text = format!(
                "it was dumped from this queue and is in it still, as {id}: loading it would deliver it twice; \
                 to go on with these files, remove it here first (kvmta-queue remove {id})"
            );
            return self.fail(&text, 65).await;
        }
        if let Some(id) = self.desk.house.store.loaded(&origin)? {
            self.say(&Answer::Loaded { id, before: true }).await?;
            return self.done(0).await;
        }
        self.say(&Answer::Ready).await?;
        match self.parts(&origin).await? {
            Ok((id, before)) => {
                self.say(&Answer::Loaded { id, before }).await?;
                self.done(0).await
            }
            Err((text, exit)) => self.fail(&text, exit).await,
        }
    }

    /// The message in this queue that a spool file is of: same queue ID, second of arrival and sender.
    fn dumped_from_here(&self, origin: &str) -> Result<Option<QueueId>, StoreError> {
        let mut words = origin.splitn(4, ' ');
        let (Some("sendmail"), Some(id), Some(arrival)) =
            (words.next(), words.next(), words.next())
        else {
            return Ok(None);
        };
        let (Ok(id), Ok(arrival)) = (id.parse::<QueueId>(), arrival.parse::<u64>()) else {
            return Ok(None);
        };
        let entry = self.desk.house.store.entry(id)?;
        let sender = words.next().unwrap_or_default();
        let is_it = |entry: &Entry| {
            let Envelope { arrival: ours, reverse_path, .. } = &entry.envelope;
            ours.as_secs() == arrival / 1000 && reverse_path.to_string() == sender
        };
        Ok(entry.filter(is_it).map(|entry| entry.id))
    }

    async fn parts(&mut self, origin: &str) -> Result<Result<(QueueId, bool), Refusal>, Ending> {
        let house = self.desk.house.clone();
        let mut taking = house.store.intake().map(Taking::new).map_err(try_later);
        let loading = loop {
            let part = proto::receive::<LoadPart>(&mut self.stream);
            let part = tokio::time::timeout(MESSAGE_WAIT, part).await;
            let part = part.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            let part = part.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            let taken = match (&mut taking, part) {
                (_, LoadPart::End(loading)) => break loading,
                (_, LoadPart::Abandon) => return Ok(Err(("nothing was loaded".into(), 65))),
                (Ok(taking), LoadPart::Bytes(bytes)) => taking.bytes(&house.config, &bytes).await,
                (Ok(taking), LoadPart::Recipients(recipients)) => {
                    taking.recipients(&house.config, recipients).await
                }
                (Err(_), _) => Ok(()),
            };
            if let Err(refusal) = taken {
                taking = Err(refusal);
            }
        };
        let taking = match taking {
            Ok(taking) => taking,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let (envelope, recipients) = (loading.envelope.clone(), taking.count);
        let loaded = match taking.finish(*loading, origin, &house.config.host_name).await {
            Ok(loaded) => loaded,
            Err(refusal) => return Ok(Err(refusal)),
        };
        Ok(Ok(match loaded {
            Loaded::Before(id) => (id, true),
            Loaded::Now(id) => {
                house.maillog.accepted(id, &envelope, recipients, None);
                // The spool and its name for the message: the rest is in the line of its acceptance.
                let from: Vec<&str> = origin.split(' ').take(2).collect();
                let from = from.join(" ").replace(|c: char| c.is_control(), "?");
                house.maillog.operated(id, &format!("loaded ({from})"), &self.user().name);
                (id, false)
            }
        }))
    }
}

/// A message on its way in.
struct Taking {
    intake: Intake,
    size: u64,
    count: u32,
}

impl Taking {
    fn new(intake: Intake) -> Taking {
        Taking { intake, size: 0, count: 0 }
    }

    async fn bytes(&mut self, config: &Config, bytes: &[u8]) -> Result<(), Refusal> {
        self.size += bytes.len() as u64;
        let max = config.limits.message_size;
        if max > 0 && self.size > max {
            return Err((format!("Message exceeds maximum fixed size ({max})"), 65));
        }
        self.intake.write(bytes).await.map_err(try_later)
    }

    async fn recipients(
        &mut self,
        config: &Config,
        recipients: Vec<Recipient>,
    ) -> Result<(), Refusal> {
        if recipients.len() > PAGE_MAX as usize {
            return Err(("too many recipients in one part".into(), 76));
        }
        for recipient in recipients {
            let (destination, recipient) = routed(config, recipient)?;
            self.intake.recipient(destination, recipient).await.map_err(try_later)?;
            self.count = self.count.saturating_add(1);
        }
        Ok(())
    }

    async fn finish(
        self,
        mut loading: Loading,
        origin: &str,
        host_name: &str,
    ) -> Result<Loaded<QueueId>, Refusal> {
        if self.count == 0 {
            return Err(("no recipient is left to be delivered to".into(), 65));
        }
        let envelope = &mut loading.envelope;
        if let ReversePath::Mailbox(address) = &envelope.reverse_path {
            let qualified = address.clone().qualified(host_name);
            let wrong = |error| (format!("sender {address}... {error}"), 65);
            envelope.reverse_path = ReversePath::Mailbox(qualified.map_err(wrong)?);
        }
        if self.size == 0 || envelope.size != self.size || envelope.header_len > self.size {
            let text = format!("{} octets came, {} were announced", self.size, envelope.size);
            return Err((text, 76));
        }
        self.intake.load(loading, origin).await.map_err(try_later)
    }
}

/// A local name gets our own, as for mail that is submitted here.
fn routed(config: &Config, recipient: Recipient) -> Result<(Destination, Recipient), Refusal> {
    let shown = recipient.address.clone();
    let address = recipient.address.qualified(&config.host_name);
    let address = address.map_err(|error| (format!("{shown}... {error}"), 65))?;
    match route::destination(config, &address) {
        Ok(destination) => Ok((destination, Recipient { address, ..recipient })),
        Err(reply) => {
            let exit = if reply.code < 500 { 75 } else { 67 };
            let text = format!(
                "no way to recipient {shown}: {}; let the other program deliver it, or give this configuration a way for it",
                reply.text()
            );
            Err((text, exit))
        }
    }
}

fn try_later(error: StoreError) -> Refusal {
    (format!("{error}; it was not loaded"), 75)
}
