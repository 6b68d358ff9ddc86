//! Reports of ours as messages: put into INCOMING by the batch that makes them due, whatever room there is.

use super::edit::Edit;
use super::message::Incoming;
use super::schema::*;
use super::statistics;
use super::{Accepted, Claim, Core, StoreError};
use crate::mail::address::ReversePath;
use crate::mail::envelope::{BodyType, Envelope, Notify, Recipient, RecipientState, TimeoutClass};
use crate::mail::job::{Destination, Job, Mailer};
use crate::mail::outcome::ReportMessage;
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;

/// A report that is a message now.
pub(super) struct NewReport {
    pub id: QueueId,
    /// None when it is held.
    jobs: Vec<(Job, Claim)>,
    pub bytes: Vec<u8>,
}

impl NewReport {
    pub fn accepted(self) -> Accepted {
        Accepted { id: self.id, jobs: self.jobs, bytes: Some(self.bytes.into()) }
    }
}

impl Core {
    /// Puts reports as messages of INCOMING: in the batch of the settle, whatever room there is.
    pub(super) fn put_reports(
        &self,
        edit: &mut Edit<'_>,
        reports: &[(ReportMessage, Result<Destination, String>)],
    ) -> Result<Vec<NewReport>, StoreError> {
        let mut new = Vec::new();
        for (report, destination) in reports {
            let now = self.now();
            let id = self.ids.next_in(edit, now)?;
            let bytes = report.named(id);
            let incoming = report_message(report, &bytes, destination, now);
            edit.check(super::engine::Check::Absent(INCOMING.key(id)));
            edit.put_incoming(id, &incoming, &bytes);
            // A report is from us; when it is held, that is for want of a way.
            edit.count_all(statistics::accepted(&incoming.envelope, false));
            let jobs = match incoming.held {
                Some(_) => Vec::new(),
                None => self.claims.claim_new(vec![incoming.job(id)]),
            };
            new.push(NewReport { id, jobs, bytes });
        }
        Ok(new)
    }
}

/// A report as a message: from nobody, to one, with the timeouts of reports. `bytes` have its name.
fn report_message(
    report: &ReportMessage,
    bytes: &[u8],
    destination: &Result<Destination, String>,
    now: Timestamp,
) -> Incoming {
    let size = bytes.len() as u64;
    let header_len = usize::try_from(report.header_len).unwrap_or(usize::MAX);
    let (header, body) = bytes.split_at(header_len.min(bytes.len()));
    let body_type = if bytes.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime };
    let envelope = Envelope {
        reverse_path: ReversePath::Null,
        arrival: now,
        relay: String::new(),
        protocol: String::new(),
        body_type,
        smtputf8: report.to.is_utf8() || !header.is_ascii(),
        ret: None,
        envid: None,
        timeouts: TimeoutClass::Dsn,
        precedence: 0,
        priority: i64::try_from(size).unwrap_or(i64::MAX),
        message_id: message_id(header),
        header_len: report.header_len,
        size,
        body_lines: memchr::memchr_iter(b'\n', body).count() as u64,
        relay_override: None,
        deliver_by: None,
    };
    let recipient = Recipient {
        address: report.to.clone(),
        orcpt: None,
        notify: Notify::Unspecified,
        state: RecipientState::Open(None),
    };
    // Where a held one goes is found out when it is released: its destination here is only a hint.
    let hint = || Destination {
        mailer: Mailer::Esmtp,
        next_hop: report.to.domain_key().unwrap_or_default(),
    };
    Incoming {
        envelope,
        destination: destination.clone().unwrap_or_else(|_| hint()),
        held: destination.as_ref().err().cloned(),
        recipients: vec![recipient],
    }
}

/// The value of Message-Id: in a header that we wrote.
fn message_id(header: &[u8]) -> String {
    let lines = header.split(|byte| *byte == b'\n');
    let value = lines.filter_map(|line| {
        let (name, value) = line.split_at_checked(11)?;
        name.eq_ignore_ascii_case(b"message-id:").then(|| value.trim_ascii())
    });
    value.map(String::from_utf8_lossy).next().unwrap_or_default().into_owned()
}
