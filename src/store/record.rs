//! Records: what stands under a key, as bytes that never change their meaning.
//!
//! A record is a format octet and then the bincode of a struct of this file. These structs are frozen: they are copies of the
//! nouns' shape at the time, so a noun may grow without touching what is on disk. A changed layout is a new struct with the
//! next format octet, and reading keeps knowing the old ones. The golden bytes in the tests hold every layout still.
//!
//! Reading checks everything: the format is known, the bytes are used up, addresses parse, codes are known. What fails is
//! [`StoreError::Damaged`] for this one record; nobody stops for it. Texts of strangers in reports are cut to
//! bounds here, so a record has a largest size whatever a peer says.
//!
//! This is the only file of the store that names bincode. Keys have a codec of their own (`key.rs`).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::key::{class_code, class_of, mailer_code, mailer_of};
use super::message::{Body, Change, DestinationRow, Incoming, List, Message, Shape, Sweep};
use super::{DestinationState, StoreError};
use crate::mail::address::{Address, ReversePath};
use crate::mail::envelope::{
    BodyType, ByMode, DeliverBy, Envelope, Notify, Recipient, RecipientState, Ret,
};
use crate::mail::history::Event;
use crate::mail::job::{Destination, EntryJob};
use crate::mail::loading::Attempts;
use crate::mail::outcome::{HostOutcome, RemoteHost, Report};
use crate::mail::queue_id::QueueId;
use crate::mail::status::{EnhancedStatus, Reply};
use crate::mail::time::Timestamp;

/// The format octet of what has its first layout.
const FORMAT: u8 = 1;
/// The format octet of messages whose lines are counted.
const FORMAT_2: u8 = 2;
/// The format octet of messages with DELIVERBY, which few have.
const FORMAT_3: u8 = 3;
/// No record is larger, encoded or in memory: a list job of 1 000 recipients with the longest addresses and reports has
/// some 2 MiB. Bounds what a damaged length can make us allocate.
const RECORD_MAX: usize = 4 << 20;
/// Octets kept of each text of a stranger in a report, and of all lines of a reply together: a reply line of RFC 5321
/// 4.5.3.1.5 fits. Keeps the report of one recipient under some 2 KiB.
const TEXT_MAX: usize = 512;

/// Why a record could not be read; [`damaged`] adds which one.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// No bytes at all.
    #[error("empty")]
    Empty,
    /// Written by a later version, or not by us.
    #[error("format {0} is unknown")]
    Format(u8),
    /// Not the layout of its format.
    #[error("{0}")]
    Layout(String),
}

/// The error for a record that could not be read.
pub fn damaged(what: impl std::fmt::Display, error: RecordError) -> StoreError {
    StoreError::Damaged { what: what.to_string(), detail: error.to_string() }
}

fn layout(what: &str) -> RecordError {
    RecordError::Layout(what.to_owned())
}

/// A thing that is stored as one record.
pub trait Record: Sized {
    /// Its bytes.
    fn encode(&self) -> Vec<u8>;

    /// The thing of these bytes.
    ///
    /// # Errors
    /// [`RecordError`]: not readable, wholly or in part.
    fn decode(bytes: &[u8]) -> Result<Self, RecordError>;
}

fn write<T: Serialize>(value: &T) -> Vec<u8> {
    write_as(FORMAT, value)
}

fn write_as<T: Serialize>(format: u8, value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    bytes.push(format);
    let config = bincode::config::standard().with_limit::<RECORD_MAX>();
    bincode::serde::encode_into_std_write(value, &mut bytes, config)
        .expect("plain structs into a Vec cannot fail");
    bytes
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, RecordError> {
    let (format, rest) = bytes.split_first().ok_or(RecordError::Empty)?;
    if *format != FORMAT {
        return Err(RecordError::Format(*format));
    }
    read_rest(rest)
}

/// A layout of messages, with what later formats have behind it: nothing was counted in format 1.
fn read_message<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, Later), RecordError> {
    match bytes.split_first() {
        Some((&FORMAT_3, rest)) => {
            let (v1, body_lines, by): (T, u64, DeliverByV3) = read_rest(rest)?;
            Ok((v1, Later { body_lines, deliver_by: Some(by.try_into()?) }))
        }
        Some((&FORMAT_2, rest)) => {
            let (v1, body_lines) = read_rest(rest)?;
            Ok((v1, Later { body_lines, deliver_by: None }))
        }
        _ => Ok((read(bytes)?, Later { body_lines: 0, deliver_by: None })),
    }
}

/// What an envelope has beyond its first layout.
struct Later {
    body_lines: u64,
    deliver_by: Option<DeliverBy>,
}

impl Later {
    fn complete(self, v1: EnvelopeV1<'_>) -> Result<Envelope, RecordError> {
        let Later { body_lines, deliver_by } = self;
        Ok(Envelope { body_lines, deliver_by, ..v1.try_into()? })
    }
}

/// A layout of messages in the lowest format that has all of the envelope.
fn write_message<T: Serialize>(v1: T, envelope: &Envelope) -> Vec<u8> {
    match envelope.deliver_by {
        None => write_as(FORMAT_2, &(v1, envelope.body_lines)),
        Some(by) => write_as(FORMAT_3, &(v1, envelope.body_lines, deliver_by_v3(by))),
    }
}

fn read_rest<'a, T: Deserialize<'a>>(rest: &'a [u8]) -> Result<T, RecordError> {
    let config = bincode::config::standard().with_limit::<RECORD_MAX>();
    let (value, used) = bincode::serde::borrow_decode_from_slice(rest, config)
        .map_err(|error| RecordError::Layout(error.to_string()))?;
    if used == rest.len() { Ok(value) } else { Err(layout("octets left over")) }
}

// ---- the frozen layouts, format 1; messages of format 2 are the same with the number of body lines behind them, those of
// format 3 with DELIVERBY behind that ----

type Text<'a> = Cow<'a, str>;

#[derive(Serialize, Deserialize)]
struct EnvelopeV1<'a> {
    /// Empty for the null path.
    #[serde(borrow)]
    reverse_path: Text<'a>,
    arrival: u64,
    #[serde(borrow)]
    relay: Text<'a>,
    #[serde(borrow)]
    protocol: Text<'a>,
    /// 1: 8BITMIME, 2: SMTPUTF8, 4: RET=HDRS, 8: RET=FULL, 16: 8 bits that are not said to be MIME.
    flags: u8,
    #[serde(borrow)]
    envid: Option<Text<'a>>,
    class: u8,
    precedence: i32,
    priority: i64,
    #[serde(borrow)]
    message_id: Text<'a>,
    header_len: u64,
    size: u64,
    #[serde(borrow)]
    relay_override: Option<Text<'a>>,
}

#[derive(Serialize, Deserialize)]
struct DeliverByV3 {
    seconds: i32,
    /// 1: N, 2: R; 16: trace. As in sendmail's control file.
    flags: u8,
}

#[derive(Serialize, Deserialize)]
struct RecipientV1<'a> {
    #[serde(borrow)]
    address: Text<'a>,
    #[serde(borrow)]
    orcpt: Option<Text<'a>>,
    /// 0: not said, 1: NEVER, else 8 + 1 SUCCESS + 2 FAILURE + 4 DELAY.
    notify: u8,
    #[serde(borrow)]
    state: StateV1<'a>,
}

#[derive(Serialize, Deserialize)]
enum StateV1<'a> {
    Fresh,
    Open(#[serde(borrow)] ReportV1<'a>),
    Done(#[serde(borrow)] ReportV1<'a>, bool, bool),
    Failed(#[serde(borrow)] ReportV1<'a>, bool),
}

#[derive(Serialize, Deserialize)]
struct ReportV1<'a> {
    status: (u8, u16, u16),
    #[serde(borrow)]
    text: Text<'a>,
    #[serde(borrow)]
    reply: Option<ReplyV1<'a>>,
    #[serde(borrow)]
    command: Option<Text<'a>>,
    #[serde(borrow)]
    remote: Option<(Text<'a>, Text<'a>)>,
    at: u64,
}

#[derive(Serialize, Deserialize)]
struct ReplyV1<'a> {
    code: u16,
    enhanced: Option<(u8, u16, u16)>,
    #[serde(borrow)]
    lines: Vec<Text<'a>>,
}

#[derive(Serialize, Deserialize)]
struct DestinationV1<'a> {
    mailer: u8,
    #[serde(borrow)]
    next_hop: Text<'a>,
}

#[derive(Serialize, Deserialize)]
struct JobV1<'a> {
    number: u32,
    #[serde(borrow)]
    destination: DestinationV1<'a>,
    due: u64,
    attempts: u32,
    last_attempt: Option<u64>,
    #[serde(borrow)]
    status: Option<Text<'a>>,
    #[serde(borrow)]
    recipients: Vec<RecipientV1<'a>>,
}

#[derive(Serialize, Deserialize)]
struct IncomingV1<'a> {
    #[serde(borrow)]
    envelope: EnvelopeV1<'a>,
    #[serde(borrow)]
    destination: DestinationV1<'a>,
    #[serde(borrow)]
    held: Option<Text<'a>>,
    #[serde(borrow)]
    recipients: Vec<RecipientV1<'a>>,
}

#[derive(Serialize, Deserialize)]
struct MessageV1<'a> {
    #[serde(borrow)]
    envelope: EnvelopeV1<'a>,
    /// Body generation, and the key in it when it is not the queue ID.
    body: (u32, Option<u64>),
    warned: bool,
    #[serde(borrow)]
    held: Option<Text<'a>>,
    #[serde(borrow)]
    shape: ShapeV1<'a>,
}

#[derive(Serialize, Deserialize)]
enum ShapeV1<'a> {
    Inline(#[serde(borrow)] Vec<JobV1<'a>>),
    List(ListV1),
}

#[derive(Serialize, Deserialize)]
struct ListV1 {
    recipients: u32,
    jobs: u32,
    open_jobs: u32,
    unfolding: bool,
    since: Option<u64>,
    sweep: Option<(ChangeV1, u32)>,
}

#[derive(Serialize, Deserialize)]
enum ChangeV1 {
    Rest,
    Due(u64),
    Remove,
}

#[derive(Serialize, Deserialize)]
struct AttemptsV1<'a> {
    count: u32,
    last: Option<u64>,
    #[serde(borrow)]
    status: Option<Text<'a>>,
}

#[derive(Serialize, Deserialize)]
struct DestV1<'a> {
    not_before: u64,
    failures: u32,
    #[serde(borrow)]
    last: Option<ReportV1<'a>>,
    agenda: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct HostV1<'a> {
    #[serde(borrow)]
    host: Text<'a>,
    up: bool,
    #[serde(borrow)]
    text: Text<'a>,
    status: (u8, u16, u16),
    at: u64,
}

// ---- nouns → layouts ----

/// At most `max` octets of `text`, cut between characters.
fn cut(text: &str, max: usize) -> Text<'_> {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Cow::Borrowed(&text[..end])
}

/// The first lines, [`TEXT_MAX`] octets in all; each counts one for itself.
fn cut_lines(lines: &[String]) -> Vec<Text<'_>> {
    let mut room = TEXT_MAX;
    let mut kept = Vec::new();
    for line in lines {
        if room == 0 {
            break;
        }
        let line = cut(line, room - 1);
        room -= line.len() + 1;
        kept.push(line);
    }
    kept
}

fn envelope_v1(envelope: &Envelope) -> EnvelopeV1<'_> {
    let eight_bit = match envelope.body_type {
        BodyType::SevenBit => 0,
        BodyType::EightBitMime => 1,
        BodyType::EightBit => 16,
    };
    let utf8 = if envelope.smtputf8 { 2 } else { 0 };
    let ret = match envelope.ret {
        None => 0,
        Some(Ret::Headers) => 4,
        Some(Ret::Full) => 8,
    };
    EnvelopeV1 {
        reverse_path: envelope.reverse_path.mailbox().map_or("", Address::as_str).into(),
        arrival: envelope.arrival.as_millis(),
        relay: Cow::Borrowed(&envelope.relay),
        protocol: Cow::Borrowed(&envelope.protocol),
        flags: eight_bit | utf8 | ret,
        envid: envelope.envid.as_deref().map(Cow::Borrowed),
        class: class_code(envelope.timeouts),
        precedence: envelope.precedence,
        priority: envelope.priority,
        message_id: Cow::Borrowed(&envelope.message_id),
        header_len: envelope.header_len,
        size: envelope.size,
        relay_override: envelope.relay_override.as_deref().map(Cow::Borrowed),
    }
}

fn deliver_by_v3(by: DeliverBy) -> DeliverByV3 {
    let mode = match by.mode {
        ByMode::Notify => 1,
        ByMode::Return => 2,
    };
    DeliverByV3 { seconds: by.seconds, flags: mode | if by.trace { 16 } else { 0 } }
}

fn recipient_v1(recipient: &Recipient) -> RecipientV1<'_> {
    let notify = match recipient.notify {
        Notify::Unspecified => 0,
        Notify::Never => 1,
        Notify::On { success, failure, delay } => {
            8 | u8::from(success) | u8::from(failure) << 1 | u8::from(delay) << 2
        }
    };
    let state = match &recipient.state {
        RecipientState::Open(None) => StateV1::Fresh,
        RecipientState::Open(Some(report)) => StateV1::Open(report_v1(report)),
        RecipientState::Done { report, relayed, reported } => {
            StateV1::Done(report_v1(report), *relayed, *reported)
        }
        RecipientState::Failed { report, reported } => {
            StateV1::Failed(report_v1(report), *reported)
        }
    };
    RecipientV1 {
        address: Cow::Borrowed(recipient.address.as_str()),
        orcpt: recipient.orcpt.as_deref().map(Cow::Borrowed),
        notify,
        state,
    }
}

fn report_v1(report: &Report) -> ReportV1<'_> {
    ReportV1 {
        status: report.status.parts(),
        text: cut(&report.text, TEXT_MAX),
        reply: report.reply.as_ref().map(|reply| ReplyV1 {
            code: reply.code,
            enhanced: reply.enhanced.map(EnhancedStatus::parts),
            lines: cut_lines(&reply.lines),
        }),
        command: report.command.as_deref().map(|command| cut(command, TEXT_MAX)),
        remote: report
            .remote
            .as_ref()
            .map(|host| (cut(&host.name, TEXT_MAX), cut(&host.address, TEXT_MAX))),
        at: report.at.as_millis(),
    }
}

fn destination_v1(destination: &Destination) -> DestinationV1<'_> {
    DestinationV1 {
        mailer: mailer_code(destination.mailer),
        next_hop: Cow::Borrowed(&destination.next_hop),
    }
}

fn job_v1(job: &EntryJob) -> JobV1<'_> {
    JobV1 {
        number: job.number,
        destination: destination_v1(&job.destination),
        due: job.due.as_millis(),
        attempts: job.attempts,
        last_attempt: job.last_attempt.map(Timestamp::as_millis),
        status: job.status.as_deref().map(|status| cut(status, TEXT_MAX)),
        recipients: job.recipients.iter().map(recipient_v1).collect(),
    }
}

fn list_v1(list: &List) -> ListV1 {
    let change = |change| match change {
        Change::Rest => ChangeV1::Rest,
        Change::Due(due) => ChangeV1::Due(due.as_millis()),
        Change::Remove => ChangeV1::Remove,
    };
    ListV1 {
        recipients: list.recipients,
        jobs: list.jobs,
        open_jobs: list.open_jobs,
        unfolding: list.unfolding,
        since: list.unreported_since.map(Timestamp::as_millis),
        sweep: list.sweep.map(|sweep| (change(sweep.change), sweep.next)),
    }
}

// ---- layouts → nouns ----

fn status_of(parts: (u8, u16, u16)) -> Result<EnhancedStatus, RecordError> {
    match parts {
        (class @ (2 | 4 | 5), subject @ ..1000, detail @ ..1000) => {
            Ok(EnhancedStatus::new(class, subject, detail))
        }
        _ => Err(layout("no enhanced status code")),
    }
}

fn address_of(text: &str) -> Result<Address, RecordError> {
    text.parse().map_err(|error| RecordError::Layout(format!("address: {error}")))
}

fn owned(text: Option<Text<'_>>) -> Option<String> {
    text.map(Cow::into_owned)
}

fn time_of(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

impl TryFrom<EnvelopeV1<'_>> for Envelope {
    type Error = RecordError;
    fn try_from(v1: EnvelopeV1<'_>) -> Result<Envelope, RecordError> {
        if v1.flags >= 32 {
            return Err(layout("envelope flags"));
        }
        Ok(Envelope {
            reverse_path: match &*v1.reverse_path {
                "" => ReversePath::Null,
                text => ReversePath::Mailbox(address_of(text)?),
            },
            arrival: time_of(v1.arrival),
            relay: v1.relay.into_owned(),
            protocol: v1.protocol.into_owned(),
            body_type: match v1.flags & 17 {
                0 => BodyType::SevenBit,
                1 => BodyType::EightBitMime,
                16 => BodyType::EightBit,
                _ => return Err(layout("envelope flags")),
            },
            smtputf8: v1.flags & 2 != 0,
            ret: match v1.flags & 12 {
                0 => None,
                4 => Some(Ret::Headers),
                8 => Some(Ret::Full),
                _ => return Err(layout("envelope flags")),
            },
            envid: owned(v1.envid),
            timeouts: class_of(v1.class).ok_or_else(|| layout("timeout class"))?,
            precedence: v1.precedence,
            priority: v1.priority,
            message_id: v1.message_id.into_owned(),
            header_len: v1.header_len,
            size: v1.size,
            body_lines: 0,
            relay_override: owned(v1.relay_override),
            deliver_by: None,
        })
    }
}

impl TryFrom<DeliverByV3> for DeliverBy {
    type Error = RecordError;
    fn try_from(v3: DeliverByV3) -> Result<DeliverBy, RecordError> {
        let max = DeliverBy::SECONDS_MAX;
        let mode = match (v3.flags & !16, v3.seconds) {
            (1, seconds) if (-max..=max).contains(&seconds) => ByMode::Notify,
            (2, seconds) if (1..=max).contains(&seconds) => ByMode::Return,
            _ => return Err(layout("DELIVERBY")),
        };
        Ok(DeliverBy { seconds: v3.seconds, mode, trace: v3.flags & 16 != 0 })
    }
}

impl TryFrom<RecipientV1<'_>> for Recipient {
    type Error = RecordError;
    fn try_from(v1: RecipientV1<'_>) -> Result<Recipient, RecordError> {
        Ok(Recipient {
            address: address_of(&v1.address)?,
            orcpt: owned(v1.orcpt),
            notify: match v1.notify {
                0 => Notify::Unspecified,
                1 => Notify::Never,
                bits @ 8..=15 => Notify::On {
                    success: bits & 1 != 0,
                    failure: bits & 2 != 0,
                    delay: bits & 4 != 0,
                },
                _ => return Err(layout("NOTIFY")),
            },
            state: match v1.state {
                StateV1::Fresh => RecipientState::Open(None),
                StateV1::Open(report) => RecipientState::Open(Some(Box::new(report.try_into()?))),
                StateV1::Done(report, relayed, reported) => {
                    RecipientState::Done { report: Box::new(report.try_into()?), relayed, reported }
                }
                StateV1::Failed(report, reported) => {
                    RecipientState::Failed { report: Box::new(report.try_into()?), reported }
                }
            },
        })
    }
}

impl TryFrom<ReportV1<'_>> for Report {
    type Error = RecordError;
    fn try_from(v1: ReportV1<'_>) -> Result<Report, RecordError> {
        let reply = |v1: ReplyV1<'_>| -> Result<Reply, RecordError> {
            Ok(Reply {
                code: v1.code,
                enhanced: v1.enhanced.map(status_of).transpose()?,
                lines: v1.lines.into_iter().map(Cow::into_owned).collect(),
            })
        };
        Ok(Report {
            status: status_of(v1.status)?,
            text: v1.text.into_owned(),
            reply: v1.reply.map(reply).transpose()?,
            command: owned(v1.command),
            remote: v1.remote.map(|(name, address)| RemoteHost {
                name: name.into_owned(),
                address: address.into_owned(),
            }),
            at: time_of(v1.at),
        })
    }
}

impl TryFrom<DestinationV1<'_>> for Destination {
    type Error = RecordError;
    fn try_from(v1: DestinationV1<'_>) -> Result<Destination, RecordError> {
        Ok(Destination {
            mailer: mailer_of(v1.mailer).ok_or_else(|| layout("mailer"))?,
            next_hop: v1.next_hop.into_owned(),
        })
    }
}

impl TryFrom<JobV1<'_>> for EntryJob {
    type Error = RecordError;
    fn try_from(v1: JobV1<'_>) -> Result<EntryJob, RecordError> {
        Ok(EntryJob {
            number: v1.number,
            destination: v1.destination.try_into()?,
            due: time_of(v1.due),
            attempts: v1.attempts,
            last_attempt: v1.last_attempt.map(time_of),
            status: owned(v1.status),
            recipients: recipients_of(v1.recipients)?,
        })
    }
}

impl From<ListV1> for List {
    fn from(v1: ListV1) -> List {
        let change = |change| match change {
            ChangeV1::Rest => Change::Rest,
            ChangeV1::Due(due) => Change::Due(time_of(due)),
            ChangeV1::Remove => Change::Remove,
        };
        List {
            recipients: v1.recipients,
            jobs: v1.jobs,
            open_jobs: v1.open_jobs,
            unfolding: v1.unfolding,
            unreported_since: v1.since.map(time_of),
            sweep: v1.sweep.map(|(kind, next)| Sweep { change: change(kind), next }),
        }
    }
}

fn recipients_of(v1: Vec<RecipientV1<'_>>) -> Result<Vec<Recipient>, RecordError> {
    v1.into_iter().map(Recipient::try_from).collect()
}

// ---- the records ----

impl Record for Incoming {
    fn encode(&self) -> Vec<u8> {
        let v1 = IncomingV1 {
            envelope: envelope_v1(&self.envelope),
            destination: destination_v1(&self.destination),
            held: self.held.as_deref().map(|reason| cut(reason, TEXT_MAX)),
            recipients: self.recipients.iter().map(recipient_v1).collect(),
        };
        write_message(v1, &self.envelope)
    }

    fn decode(bytes: &[u8]) -> Result<Incoming, RecordError> {
        let (v1, later): (IncomingV1<'_>, Later) = read_message(bytes)?;
        Ok(Incoming {
            envelope: later.complete(v1.envelope)?,
            destination: v1.destination.try_into()?,
            held: owned(v1.held),
            recipients: recipients_of(v1.recipients)?,
        })
    }
}

impl Record for Message {
    fn encode(&self) -> Vec<u8> {
        let v1 = MessageV1 {
            envelope: envelope_v1(&self.envelope),
            body: (self.body.generation, self.body.key.map(QueueId::as_u64)),
            warned: self.warned,
            held: self.held.as_deref().map(|reason| cut(reason, TEXT_MAX)),
            shape: match &self.shape {
                Shape::Inline(jobs) => ShapeV1::Inline(jobs.iter().map(job_v1).collect()),
                Shape::List(list) => ShapeV1::List(list_v1(list)),
            },
        };
        write_message(v1, &self.envelope)
    }

    fn decode(bytes: &[u8]) -> Result<Message, RecordError> {
        let (v1, later): (MessageV1<'_>, Later) = read_message(bytes)?;
        Ok(Message {
            envelope: later.complete(v1.envelope)?,
            body: Body { generation: v1.body.0, key: v1.body.1.map(QueueId::from_u64) },
            warned: v1.warned,
            held: owned(v1.held),
            shape: match v1.shape {
                ShapeV1::Inline(jobs) => {
                    let jobs: Result<_, _> = jobs.into_iter().map(EntryJob::try_from).collect();
                    Shape::Inline(jobs?)
                }
                ShapeV1::List(list) => Shape::List(list.into()),
            },
        })
    }
}

/// A job of a long list (RECIPIENTS).
impl Record for EntryJob {
    fn encode(&self) -> Vec<u8> {
        write(&job_v1(self))
    }

    fn decode(bytes: &[u8]) -> Result<EntryJob, RecordError> {
        read::<JobV1<'_>>(bytes)?.try_into()
    }
}

/// Recipients of one destination of a list that is not unfolded yet (STAGED).
impl Record for Vec<Recipient> {
    fn encode(&self) -> Vec<u8> {
        write(&self.iter().map(recipient_v1).collect::<Vec<_>>())
    }

    fn decode(bytes: &[u8]) -> Result<Vec<Recipient>, RecordError> {
        recipients_of(read(bytes)?)
    }
}

/// Attempts at a loaded long list (PROGRESS).
impl Record for Attempts {
    fn encode(&self) -> Vec<u8> {
        write(&AttemptsV1 {
            count: self.count,
            last: self.last.map(Timestamp::as_millis),
            status: self.status.as_deref().map(|status| cut(status, TEXT_MAX)),
        })
    }

    fn decode(bytes: &[u8]) -> Result<Attempts, RecordError> {
        let v1: AttemptsV1<'_> = read(bytes)?;
        Ok(Attempts { count: v1.count, last: v1.last.map(time_of), status: owned(v1.status) })
    }
}

impl Record for DestinationRow {
    fn encode(&self) -> Vec<u8> {
        write(&DestV1 {
            not_before: self.state.not_before.as_millis(),
            failures: self.state.failures,
            last: self.state.last.as_ref().map(report_v1),
            agenda: self.agenda.map(Timestamp::as_millis),
        })
    }

    fn decode(bytes: &[u8]) -> Result<DestinationRow, RecordError> {
        let v1: DestV1<'_> = read(bytes)?;
        Ok(DestinationRow {
            state: DestinationState {
                not_before: time_of(v1.not_before),
                failures: v1.failures,
                last: v1.last.map(Report::try_from).transpose()?,
            },
            agenda: v1.agenda.map(time_of),
        })
    }
}

impl Record for HostOutcome {
    fn encode(&self) -> Vec<u8> {
        write(&HostV1 {
            host: Cow::Borrowed(&self.host),
            up: self.up,
            text: cut(&self.text, TEXT_MAX),
            status: self.status.parts(),
            at: self.at.as_millis(),
        })
    }

    fn decode(bytes: &[u8]) -> Result<HostOutcome, RecordError> {
        let v1: HostV1<'_> = read(bytes)?;
        Ok(HostOutcome {
            host: v1.host.into_owned(),
            up: v1.up,
            text: v1.text.into_owned(),
            status: status_of(v1.status)?,
            at: time_of(v1.at),
        })
    }
}

/// A row of the history (`history.rs`): the noun itself, whose layout the history's own format tells, for it is forgotten by age.
impl Record for Vec<Event> {
    fn encode(&self) -> Vec<u8> {
        write(self)
    }

    fn decode(bytes: &[u8]) -> Result<Vec<Event>, RecordError> {
        read(bytes)
    }
}

/// A number (META).
impl Record for u64 {
    fn encode(&self) -> Vec<u8> {
        write(self)
    }

    fn decode(bytes: &[u8]) -> Result<u64, RecordError> {
        read(bytes)
    }
}

#[cfg(test)]
mod tests;
