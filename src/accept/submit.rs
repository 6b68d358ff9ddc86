//! A message from a local program: the sendmail command, by way of the control socket.
//!
//! The command's words (`-f`, `-t`, recipients...) and its bytes become an envelope and a message of RFC 5322, and then
//! there is one way in: `Intake::accept`. Nothing is taken before it is durable. Who submits is known from the peer
//! credentials; what the message claims about its sender is not refused, but marked (sendmail: authwarnings).
//!
//! Memory: the header is held whole, up to MaxHeadersLength; the body streams through.

use std::sync::Arc;

use jiff::tz::TimeZone;

use super::header_edit::{RECIPIENT_FIELDS, UNDISCLOSED};
use super::local_header::{HeaderEnd, LocalHeader, Normaliser, from_value, header_end};
use super::{eight_bit, priority};
use crate::config::{Config, NoRecipientAction};
use crate::mail::address::{Address, ReversePath};
use crate::mail::envelope::{BodyType, Envelope, Notify, Recipient, RecipientState};
use crate::mail::header::HeaderScan;
use crate::mail::job::Destination;
use crate::mail::mime::EightBitMode;
use crate::mail::submission::{Submission, SubmissionRefused};
use crate::mail::time::Timestamp;
use crate::route;
use crate::store::{Accepted, Intake, Store, StoreError};

/// The program's user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalUser {
    /// Login name, or `uid1234` for a number without one.
    pub name: String,
    /// From the password file.
    pub full_name: String,
    /// root, the daemon's user, TrustedUser, or of class t: may name any sender without a mark.
    pub trusted: bool,
}

/// What became of a submission.
pub struct Submitted {
    /// The message.
    pub accepted: Accepted,
    /// Its envelope, for the log.
    pub envelope: Envelope,
    /// Its recipients, for the log.
    pub recipients: u32,
    /// Recipients that were not taken; the message went to the others.
    pub refused: Option<SubmissionRefused>,
}

/// A message being submitted: made with the command's words, fed with bytes, then finished.
pub struct Submitting {
    config: Arc<Config>,
    submission: Submission,
    user: LocalUser,
    arrival: Timestamp,
    zone: TimeZone,
    intake: Intake,
    normaliser: Normaliser,
    place: Place,
    size: u64,
    /// Octets of what the program wrote, with LF line ends.
    came: u64,
    body_lines: u64,
    has_8bit: bool,
}

enum Place {
    /// Normalised octets of the header so far.
    Header(Vec<u8>),
    /// The header is written; what it said.
    Body(Box<Opened>),
}

/// What to print of a recipient that is not taken, and the exit status it asks for.
type Refusal = (String, u8);

struct Opened {
    header_len: u64,
    recipients: Vec<(Destination, Recipient)>,
    reverse_path: ReversePath,
    refused: Vec<Refusal>,
    message_id: String,
    precedence: i32,
    timeouts: crate::mail::envelope::TimeoutClass,
    utf8: bool,
    is_mime: bool,
}

impl Submitting {
    /// Starts. The message has its queue ID from now on.
    ///
    /// # Errors
    /// 75 when the store cannot take mail now.
    pub fn new(
        config: Arc<Config>,
        store: &Store,
        submission: Submission,
        user: LocalUser,
        arrival: Timestamp,
        zone: TimeZone,
    ) -> Result<Submitting, SubmissionRefused> {
        Ok(Submitting {
            intake: store.intake().map_err(try_later)?,
            config,
            submission,
            user,
            arrival,
            zone,
            normaliser: Normaliser::default(),
            place: Place::Header(Vec::new()),
            size: 0,
            came: 0,
            body_lines: 0,
            has_8bit: false,
        })
    }

    /// It is only queued (DeliveryMode q): nobody tries it before `due`, but for explicit runs.
    pub fn postpone(&mut self, due: Timestamp) {
        self.intake.postpone(due);
    }

    /// The next octets, as the program wrote them.
    ///
    /// # Errors
    /// 65 when the header or the message is too large, 75 when the store cannot take it now.
    pub async fn feed(&mut self, bytes: &[u8]) -> Result<(), SubmissionRefused> {
        let mut normal = Vec::with_capacity(bytes.len() + bytes.len() / 16);
        self.normaliser.feed(bytes, &mut normal);
        if self.config.seven_bit_input {
            eight_bit::strip(&mut normal);
        }
        self.came += normal.len() as u64 - line_ends(&normal);
        match &mut self.place {
            Place::Header(header) => {
                header.extend_from_slice(&normal);
                match end_of_header(&self.config, header, false) {
                    HeaderEnd::At(end) => self.open(end).await,
                    HeaderEnd::Unknown
                        if header.len() as u64 > self.config.limits.headers_length =>
                    {
                        let max = self.config.limits.headers_length;
                        Err(refuse(65, format!("Headers too large ({max} max)")))
                    }
                    HeaderEnd::Unknown => Ok(()),
                }
            }
            Place::Body(opened) => {
                let is_mime = opened.is_mime;
                self.write(&normal, is_mime).await
            }
        }
    }

    /// The message is whole: makes it durable.
    ///
    /// # Errors
    /// 64, 65, 67 when no recipient is good, 69 after too many hops, 75 when the store cannot take it now.
    pub async fn finish(mut self) -> Result<Submitted, SubmissionRefused> {
        if let Place::Header(header) = &self.place {
            let HeaderEnd::At(end) = end_of_header(&self.config, header, true) else {
                return Err(refuse(65, "unreadable header"));
            };
            self.open(end).await?;
        }
        let Place::Body(opened) = self.place else {
            return Err(refuse(65, "unreadable header"));
        };
        let refused = refusals(&opened.refused);
        if opened.recipients.is_empty() {
            return match refused {
                Some(refused) => Err(refused),
                None => Err(refuse(0, "No recipient addresses found in header")),
            };
        }
        let envelope = Envelope {
            reverse_path: opened.reverse_path,
            arrival: self.arrival,
            relay: format!("{}@localhost", self.user.name),
            protocol: String::new(),
            body_type: match self.submission.body_type {
                Some(BodyType::EightBitMime) => BodyType::EightBitMime,
                _ if self.has_8bit && opened.is_mime => BodyType::EightBitMime,
                _ if self.has_8bit => BodyType::EightBit,
                _ => BodyType::SevenBit,
            },
            smtputf8: self.submission.smtputf8 || opened.utf8,
            ret: self.submission.ret,
            envid: self.submission.envid,
            timeouts: opened.timeouts,
            precedence: opened.precedence,
            priority: priority(
                &self.config,
                self.came,
                opened.precedence,
                opened.recipients.len() as u32,
            ),
            message_id: opened.message_id,
            header_len: opened.header_len,
            size: self.size,
            body_lines: self.body_lines,
            relay_override: None,
            deliver_by: None,
        };
        let recipients = opened.recipients.len() as u32;
        for (destination, recipient) in opened.recipients {
            self.intake.recipient(destination, recipient).await.map_err(try_later)?;
        }
        let accepted = self.intake.accept(envelope.clone(), None).await.map_err(try_later)?;
        Ok(Submitted { accepted, envelope, recipients, refused })
    }

    /// Writes the completed header and what of the body came with it.
    async fn open(&mut self, end: usize) -> Result<(), SubmissionRefused> {
        let Place::Header(input) = &mut self.place else { return Ok(()) };
        let body = input.split_off(end);
        let header = LocalHeader::parse(input);
        let hops = self.submission.hops.unwrap_or_else(|| header.hops());
        if hops > self.config.limits.hops {
            let max = self.config.limits.hops;
            return Err(refuse(69, format!("Too many hops {hops} ({max} max)")));
        }
        let (recipients, refused) = self.recipients(&header);
        let reverse_path = self.reverse_path(&header)?;
        let front = self.front(&recipients, &reverse_path);
        let mut added = self.added(&reverse_path);
        added.extend(self.for_recipients(&header, &recipients));
        let header = header.edited(&self.config);
        let written = header.finish(&front, &added, self.submission.gateway);
        let mut scan = HeaderScan::new();
        scan.scan(&written);
        scan.finish();
        let facts = scan.into_facts();
        let (precedence, timeouts) = facts.class(&self.config.precedences);
        let utf8 = facts.has_8bit
            || reverse_path.mailbox().is_some_and(Address::is_utf8)
            || recipients.iter().any(|(_, r)| r.address.is_utf8());
        let opened = Opened {
            header_len: written.len() as u64,
            recipients,
            reverse_path,
            refused,
            message_id: facts.message_id,
            precedence,
            timeouts,
            utf8: utf8 && std::str::from_utf8(&written).is_ok(),
            is_mime: facts.is_mime,
        };
        self.write(&written, facts.is_mime).await?;
        self.place = Place::Body(Box::new(opened));
        self.write(&body, facts.is_mime).await
    }

    async fn write(&mut self, bytes: &[u8], is_mime: bool) -> Result<(), SubmissionRefused> {
        let max = self.config.limits.message_size;
        self.size += bytes.len() as u64;
        if max > 0 && self.size > max {
            return Err(refuse(65, format!("Message exceeds maximum fixed size ({max})")));
        }
        if let Place::Body(_) = self.place {
            self.body_lines += line_ends(bytes);
        }
        self.has_8bit = self.has_8bit || !bytes.is_ascii();
        let labelled = self.submission.body_type == Some(BodyType::EightBitMime);
        let declared = labelled || is_mime;
        if self.config.eight_bit_mode == EightBitMode::Strict && self.has_8bit && !declared {
            return Err(refuse(65, eight_bit::REFUSAL));
        }
        self.intake.write(bytes).await.map_err(try_later)
    }

    /// NoRecipientAction: what a header gets that names no recipient.
    fn for_recipients(
        &self,
        header: &LocalHeader,
        recipients: &[(Destination, Recipient)],
    ) -> Option<(&'static str, String)> {
        if RECIPIENT_FIELDS.iter().any(|name| header.has(name)) {
            return None;
        }
        let all = || {
            let addresses = recipients.iter().map(|(_, recipient)| recipient.address.as_str());
            addresses.collect::<Vec<_>>().join(",\r\n\t")
        };
        match self.config.no_recipient_action {
            NoRecipientAction::None => None,
            NoRecipientAction::AddTo => Some(("To", all())),
            NoRecipientAction::AddApparentlyTo => Some(("Apparently-To", all())),
            NoRecipientAction::AddBcc => Some(("Bcc", String::new())),
            NoRecipientAction::AddToUndisclosed => Some(("To", UNDISCLOSED.to_owned())),
        }
    }

    /// NOTIFY of the recipients: that of the command line; without one, a receipt is asked for by Return-Receipt-To when
    /// RrtImpliesDsn says so.
    fn notify(&self, header: &LocalHeader) -> Notify {
        let implied = self.config.rrt_implies_dsn && header.has("Return-Receipt-To");
        match self.submission.notify {
            Some(notify) => notify,
            None if implied => Notify::Unspecified.or_receipt(),
            None => Notify::Unspecified,
        }
    }

    /// Good recipients with where they go, and the refusals of the others with their exit statuses.
    fn recipients(&self, header: &LocalHeader) -> (Vec<(Destination, Recipient)>, Vec<Refusal>) {
        let mut refused = Vec::new();
        let mut good: Vec<(Destination, Recipient)> = Vec::new();
        let notify = self.notify(header);
        let style = self.config.address_style;
        let typed = self
            .submission
            .recipients
            .iter()
            .flat_map(|text| crate::mail::address_list::addresses(text, style));
        let listed = match self.submission.from_header {
            true => header.recipients(style),
            false => Vec::new(),
        };
        for item in typed.chain(listed) {
            let address = match item {
                Ok(address) => address,
                Err((text, error)) => {
                    refused.push((format!("{text}... {error}"), 64));
                    continue;
                }
            };
            let shown = address.clone();
            // Local names are sendmail's `user`: with our name they can be spoken of to others.
            let Ok(address) = address.qualified(&self.config.host_name) else { continue };
            match route::destination(&self.config, &address) {
                Ok(_) if good.iter().any(|(_, known)| known.address == address) => {}
                Ok(destination) => good.push((
                    destination,
                    Recipient { address, orcpt: None, notify, state: RecipientState::Open(None) },
                )),
                Err(_) => refused.push((format!("{shown}... User unknown"), 67)),
            }
        }
        (good, refused)
    }

    fn reverse_path(&self, header: &LocalHeader) -> Result<ReversePath, SubmissionRefused> {
        let style = self.config.address_style;
        if self.submission.arpanet
            && let Some(item) = header.originator(style)
        {
            let qualified = match item {
                Ok(address) => address.qualified(&self.config.host_name),
                Err((_, error)) => Err(error),
            };
            return qualified
                .map(ReversePath::Mailbox)
                .map_err(|error| refuse(65, error.to_string()));
        }
        let text = match &self.submission.sender {
            None => self.user.name.clone(),
            Some(text) => text.trim().to_owned(),
        };
        let text = text.strip_prefix('<').and_then(|t| t.strip_suffix('>')).unwrap_or(&text);
        if text.is_empty() {
            return Ok(ReversePath::Null);
        }
        let address = match crate::mail::address_list::addresses(text, style).into_iter().next() {
            Some(Ok(address)) => address,
            Some(Err((text, error))) => return Err(refuse(65, format!("{text}... {error}"))),
            None => return Ok(ReversePath::Null),
        };
        address
            .qualified(&self.config.host_name)
            .map(ReversePath::Mailbox)
            .map_err(|error| refuse(65, format!("{text}... {error}")))
    }

    /// Received (RFC 5321 4.4) and the mark of a sender that is not the user.
    fn front(&self, recipients: &[(Destination, Recipient)], reverse_path: &ReversePath) -> String {
        let host_name = &self.config.host_name;
        let id = self.intake.queue_id();
        let user = &self.user.name;
        let whom = match recipients {
            [(_, only)] => format!("\r\n\tfor {}", only.address),
            _ => String::new(),
        };
        let date = self.arrival.rfc5322(&self.zone);
        let version = env!("CARGO_PKG_VERSION");
        let mut front = format!(
            "Received: (from {user}@localhost)\r\n\tby {host_name} (kvmta/{version}) id {id}{whom};\r\n\t{date}\r\n"
        );
        for warning in self.warnings(reverse_path) {
            front.push_str(&format!("X-Authentication-Warning: {host_name}: {warning}\r\n"));
        }
        front
    }

    /// What an untrusted user's message is marked with (PrivacyOptions authwarnings): the command may say what it likes.
    fn warnings(&self, reverse_path: &ReversePath) -> Vec<String> {
        let user = &self.user.name;
        let Submission { sender, config_file, queue_directory, .. } = &self.submission;
        if self.user.trusted || !self.config.privacy.authwarnings {
            return Vec::new();
        }
        let is_own = reverse_path.mailbox().is_some_and(|address| {
            let domain = address.domain().unwrap_or_default().to_lowercase();
            address.local_part() == user && self.config.local_names.contains(&domain)
        });
        let clean = |text: &str| text.replace(|c: char| c.is_control(), "?");
        let shown = reverse_path.mailbox().map_or_else(|| "<>".to_owned(), ToString::to_string);
        let named = sender.as_ref().filter(|_| !is_own);
        let of_sender = named.map(|_| format!("{user} set sender to {shown} using -f"));
        let of_file = config_file.as_ref();
        let of_file = of_file.map(|file| format!("Processed by {user} with -C {}", clean(file)));
        let of_queue = queue_directory.as_ref();
        let of_queue = of_queue.map(|queue| format!("Processed from queue {}", clean(queue)));
        [of_file, of_queue, of_sender].into_iter().flatten().collect()
    }

    /// What every message has, for one that came without.
    fn added(&self, reverse_path: &ReversePath) -> Vec<(&'static str, String)> {
        let host = &self.config.host_name;
        let id = self.intake.queue_id();
        let minute = self.arrival.strftime("%Y%m%d%H%M", &TimeZone::UTC);
        let full_name = match (&self.submission.full_name, &self.submission.sender) {
            (Some(name), _) => name.as_str(),
            (None, None) => self.user.full_name.as_str(),
            // The user's full name is not that of the sender he names.
            (None, Some(_)) => "",
        };
        let from = match reverse_path.mailbox() {
            Some(address) => from_value(full_name, address, &self.config.must_quote_chars),
            None => format!("MAILER-DAEMON@{host}"),
        };
        vec![
            ("Date", self.arrival.rfc5322(&self.zone)),
            ("From", from),
            ("Message-Id", format!("<{minute}.{id}@{host}>")),
        ]
    }
}

/// With SaveFromLine a mailbox's `From ` line is no part of the header but the first line of the body, as sendmail has it: it is kept,
/// and so is all that follows, as text.
fn end_of_header(config: &Config, header: &[u8], complete: bool) -> HeaderEnd {
    if config.save_from_line && header.starts_with(b"From ") {
        return HeaderEnd::At(0);
    }
    header_end(header, complete)
}

fn line_ends(normal: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', normal).count() as u64
}

fn refusals(refused: &[Refusal]) -> Option<SubmissionRefused> {
    let (_, exit) = refused.first()?;
    let lines: Vec<&str> = refused.iter().map(|(text, _)| text.as_str()).collect();
    Some(refuse(*exit, lines.join("\n")))
}

fn refuse(exit: u8, text: impl Into<String>) -> SubmissionRefused {
    SubmissionRefused { text: text.into(), exit }
}

/// Nothing was taken; the program may try again.
fn try_later(error: StoreError) -> SubmissionRefused {
    refuse(75, format!("{error}; the message was not taken, try again later"))
}
