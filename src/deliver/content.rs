//! What goes over the wire: the message as it is, with its MIME fields cut to size (MaxMimeHeaderLength), or converted for
//! a host without 8BITMIME (EightBitMode). The rules are [`crate::mail::mime`]'s; here they meet a host's offer and the store.
//!
//! As in sendmail both happen on the way out, for each transaction anew: what is stored stays as it came. A conversion
//! reads the message twice, and at most one piece of it is in memory, tripled at worst. What is in memory whole stays
//! so; it is small.
//!
//! Never converted: mail of a mailer with F=8, which just sends 8 bits; in sendmail's stock configuration that is relay.

use std::sync::Arc;

use super::{Backing, Notice};
use crate::config::Config;
use crate::mail::envelope::{BodyType, Envelope};
use crate::mail::header::HeaderScan;
use crate::mail::job::Job;
use crate::mail::mime::{Fate, Limits, Rewriter, Stamp, Survey, Surveyor};
use crate::smtp::client::{Body, Offer, PIECE_MAX};
use crate::store::StoreError;

/// Octets looked at between two questions whether anything can still change.
const STEP: usize = 4096;

/// The content of one job, for all hosts of an attempt.
pub(super) struct Content<'a> {
    config: &'a Config,
    job: &'a Job,
    backing: &'a dyn Backing,
    bytes: Option<Arc<[u8]>>,
    plain: Option<Version>,
    survey: Option<Arc<Survey>>,
    converted: Option<Version>,
}

/// One way it goes out.
#[derive(Clone)]
pub(super) struct Version {
    /// As the host is told: of the size that goes out.
    pub(super) envelope: Arc<Envelope>,
    /// Whole, or to be asked for from [`Version::source`].
    pub(super) body: Body,
    rewriting: Rewriting,
    notes: Vec<String>,
}

/// What happens to pieces of it. A whole body is rewritten already.
#[derive(Clone)]
enum Rewriting {
    Nothing,
    Limit(Limits),
    Convert(Arc<Survey>),
}

/// A stored body on its way through a rewriting, for one transaction.
pub(super) struct Source<'a> {
    job: &'a Job,
    backing: &'a dyn Backing,
    offset: u64,
    ended: bool,
    rewriter: Option<Rewriter>,
    /// At most what [`Rewriter::feed`] makes of one read.
    ready: Vec<u8>,
    given: usize,
    notes: Vec<String>,
}

impl<'a> Content<'a> {
    pub(super) fn new(
        config: &'a Config,
        job: &'a Job,
        backing: &'a dyn Backing,
        bytes: Option<Arc<[u8]>>,
    ) -> Content<'a> {
        Content { config, job, backing, bytes, plain: None, survey: None, converted: None }
    }

    /// What goes to a host with this offer; none when it must not go there (5.6.3).
    ///
    /// # Errors
    /// The store's, when the message has to be read to know.
    pub(super) async fn for_offer(&mut self, offer: &Offer) -> Result<Option<Version>, StoreError> {
        match self.fate(offer).await? {
            Fate::AsIs => Ok(Some(self.plain())),
            Fate::Converted => Ok(Some(self.converted().await?)),
            Fate::Refused => Ok(None),
        }
    }

    async fn fate(&mut self, offer: &Offer) -> Result<Fate, StoreError> {
        let envelope = &self.job.envelope;
        let just_send_8 = self.config.eight_bit_mailers.contains(&self.job.destination.mailer);
        if offer.eight_bit_mime || just_send_8 || envelope.body_type == BodyType::SevenBit {
            return Ok(Fate::AsIs);
        }
        let survey = self.survey().await?;
        Ok(survey.fate(self.config.eight_bit_mode, envelope.body_type, envelope.smtputf8))
    }

    fn plain(&mut self) -> Version {
        if let Some(plain) = &self.plain {
            return plain.clone();
        }
        let limits = self.config.mime_limits;
        let mut version = Version {
            envelope: Arc::clone(&self.job.envelope),
            body: Body::Pieces,
            rewriting: Rewriting::Limit(limits),
            notes: Vec::new(),
        };
        if let Some(bytes) = &self.bytes {
            version.rewriting = Rewriting::Nothing;
            version.body = Body::Whole(Arc::clone(bytes));
            if exceeds(bytes, limits) {
                let mut rewriter = Rewriter::limiting(limits);
                let rewritten = whole(&mut rewriter, bytes);
                version.notes = rewriter.notes().to_vec();
                let mut envelope = Envelope::clone(&self.job.envelope);
                let mut header = HeaderScan::new();
                header.scan(&rewritten);
                envelope.header_len = header.len();
                envelope.size = rewritten.len() as u64;
                version.envelope = Arc::new(envelope);
                version.body = Body::Whole(rewritten.into());
            }
        }
        if limits == Limits::NONE {
            version.rewriting = Rewriting::Nothing;
        }
        self.plain.insert(version).clone()
    }

    async fn converted(&mut self) -> Result<Version, StoreError> {
        if let Some(converted) = &self.converted {
            return Ok(converted.clone());
        }
        let survey = self.survey().await?;
        let envelope = Envelope {
            size: survey.size,
            body_type: BodyType::SevenBit,
            // What is converted has a plain header; a reverse-path that is not asks for itself.
            smtputf8: false,
            ..Envelope::clone(&self.job.envelope)
        };
        let (body, rewriting) = match &self.bytes {
            Some(bytes) => {
                (Body::Whole(whole(&mut survey.rewriter(), bytes).into()), Rewriting::Nothing)
            }
            None => (Body::Pieces, Rewriting::Convert(Arc::clone(&survey))),
        };
        let notes = survey.notes.clone();
        let version = Version { envelope: Arc::new(envelope), body, rewriting, notes };
        Ok(self.converted.insert(version).clone())
    }

    async fn survey(&mut self) -> Result<Arc<Survey>, StoreError> {
        if let Some(survey) = &self.survey {
            return Ok(Arc::clone(survey));
        }
        let stamp = Stamp {
            charset: self.config.default_charset.clone(),
            by: format!("{} id {}", self.config.host_name, self.job.id.queue_id),
        };
        let mut surveyor = Surveyor::new(self.config.mime_limits, stamp);
        match &self.bytes {
            Some(bytes) => surveyor.feed(bytes),
            None => {
                let (mut offset, mut last) = (0, false);
                while !last {
                    let bytes;
                    (bytes, last) = read(self.job, self.backing, offset).await?;
                    offset += bytes.len() as u64;
                    surveyor.feed(&bytes);
                }
            }
        }
        Ok(Arc::clone(self.survey.insert(Arc::new(surveyor.finish()))))
    }
}

impl Version {
    /// Its octets, for one transaction.
    pub(super) fn source<'a>(&self, job: &'a Job, backing: &'a dyn Backing) -> Source<'a> {
        let rewriter = match &self.rewriting {
            Rewriting::Nothing => None,
            Rewriting::Limit(limits) => Some(Rewriter::limiting(*limits)),
            Rewriting::Convert(survey) => Some(survey.rewriter()),
        };
        let notes = self.notes.clone();
        Source {
            job,
            backing,
            offset: 0,
            ended: false,
            rewriter,
            ready: Vec::new(),
            given: 0,
            notes,
        }
    }
}

impl Source<'_> {
    /// The next octets, at most [`PIECE_MAX`], and whether nothing follows.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn piece(&mut self) -> Result<(&[u8], bool), StoreError> {
        while self.given == self.ready.len() && !self.ended {
            let (bytes, last) = read(self.job, self.backing, self.offset).await?;
            self.offset += bytes.len() as u64;
            (self.given, self.ended) = (0, last);
            match &mut self.rewriter {
                None => self.ready = bytes,
                Some(rewriter) => {
                    self.ready.clear();
                    rewriter.feed(&bytes, &mut self.ready);
                    if last {
                        rewriter.finish(&mut self.ready);
                    }
                }
            }
        }
        let from = self.given;
        self.given = self.ready.len().min(from + PIECE_MAX);
        let last = self.ended && self.given == self.ready.len();
        Ok((self.ready.get(from..self.given).unwrap_or_default(), last))
    }

    /// What the log is to say of fields that were cut.
    pub(super) fn notices(&self) -> impl Iterator<Item = Notice> {
        let of_pieces = self.rewriter.iter().filter(|_| self.notes.is_empty());
        let notes = of_pieces.flat_map(Rewriter::notes).chain(&self.notes);
        notes.map(|text| Notice::Cut(text.clone()))
    }
}

/// The octets of the body from `offset` on, and whether they are the last ones.
async fn read(
    job: &Job,
    backing: &dyn Backing,
    offset: u64,
) -> Result<(Vec<u8>, bool), StoreError> {
    let bytes = backing.read_body(&job.body, offset).await?;
    let (size, next) = (job.envelope.size, offset + bytes.len() as u64);
    // A message is never ended before its end, nor lengthened: both would be taken for the message.
    if next > size || (bytes.is_empty() && next < size) {
        return Err(StoreError::Damaged {
            what: format!("body of {}", job.id.queue_id),
            detail: format!("{size} octets expected, {next} read"),
        });
    }
    Ok((bytes, next == size))
}

/// Whether some field of it has to be cut. Mostly the header is enough to see that none has.
fn exceeds(bytes: &[u8], limits: Limits) -> bool {
    let (mut rewriter, mut unused) = (Rewriter::limiting(limits), Vec::with_capacity(STEP));
    for piece in bytes.chunks(STEP) {
        if limits == Limits::NONE || rewriter.is_transparent() {
            break;
        }
        rewriter.feed(piece, &mut unused);
        unused.clear();
    }
    rewriter.finish(&mut unused);
    rewriter.is_changed()
}

fn whole(rewriter: &mut Rewriter, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    rewriter.feed(bytes, &mut out);
    rewriter.finish(&mut out);
    out
}
