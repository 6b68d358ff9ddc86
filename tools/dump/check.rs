//! A second opinion on a queue: the store's own check, and everything read from outside.

use std::io;
use std::process::ExitCode;

use kvmta::control::proto::{Answer, Request};
use kvmta::mail::job::{Entry, JOB_RECIPIENTS_MAX};
use kvmta::store::StoreError;

use super::queue::{DumpError, Holder, Queue, for_each, for_each_job, unexpected};

/// The store's own check of its invariants; of a queue at rest also what a reader sees from outside.
pub fn checked(queue: &mut Holder, at_rest: bool) -> Result<ExitCode, DumpError> {
    let lost = |error: io::Error| StoreError::Unavailable(error.to_string());
    let mut found = 0;
    queue.asked.ask(&Request::Check).map_err(lost)?;
    loop {
        match queue.asked.answer().map_err(lost)? {
            Answer::Broken(text) => {
                found += 1;
                println!("{text}");
            }
            Answer::Done { .. } => break,
            Answer::Failed { text, .. } => return Err(StoreError::Unavailable(text).into()),
            other => return Ok(unexpected(&other)?),
        }
    }
    if at_rest {
        found += check(queue, &mut |line| println!("{line}"))?;
    }
    Ok(ExitCode::from(if found == 0 { 0 } else { 65 }))
}

/// Reads every message to its last octet and says what does not fit together. Returns how many lines that were.
pub fn check(queue: &mut impl Queue, say: &mut dyn FnMut(String)) -> Result<u64, DumpError> {
    let (mut found, mut last, mut held, mut octets) = (0, None, 0, 0);
    let messages = for_each(queue, |queue, entry| {
        let mut wrong = |text: String| {
            found += 1;
            say(format!("{}: {text}", entry.id));
        };
        if last >= Some(entry.id) {
            wrong("listed after a later message, or twice".into());
        }
        last = Some(entry.id);
        held += u64::from(entry.held.is_some());
        octets += entry.envelope.size;
        check_message(queue, entry, &mut wrong)
    })?;
    let counted = queue.counts()?;
    if counted != (messages, held, octets) {
        found += 1;
        say(format!(
            "counts: {messages} messages, {held} held, {octets} octets are there; {}, {} and {} are counted",
            counted.0, counted.1, counted.2
        ));
    }
    Ok(found)
}

pub fn check_message(
    queue: &mut dyn Queue,
    entry: &Entry,
    wrong: &mut dyn FnMut(String),
) -> Result<(), DumpError> {
    let envelope = &entry.envelope;
    // Every message has recipients; this one stands for a record that cannot be read.
    if let (0, Some(reason)) = (entry.recipients_total, &entry.held) {
        wrong(reason.clone());
        return Ok(());
    }
    if envelope.header_len > envelope.size {
        wrong(format!("header of {} octets in {}", envelope.header_len, envelope.size));
    }
    let mut offset = 0;
    loop {
        match queue.bytes(entry, offset) {
            Ok(piece) if piece.is_empty() => break,
            Ok(piece) => offset += piece.len() as u64,
            // If nobody answers any more, the next page says so.
            Err(error @ (StoreError::Damaged { .. } | StoreError::Unavailable(_))) => {
                wrong(error.to_string());
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    if offset != envelope.size {
        wrong(format!("{offset} octets are stored, the envelope says {}", envelope.size));
    }
    let (mut recipients, mut owed, mut number) = (0u64, 0u64, None);
    for_each_job::<DumpError>(queue, entry, |job| {
        if number >= Some(job.number) {
            wrong(format!("job {} is listed after a later one, or twice", job.number));
        }
        number = Some(job.number);
        if job.recipients.is_empty() || job.recipients.len() > JOB_RECIPIENTS_MAX {
            wrong(format!("job {} has {} recipients", job.number, job.recipients.len()));
        }
        recipients += job.recipients.len() as u64;
        owed += job.recipients.iter().filter(|r| is_owed(r)).count() as u64;
        Ok(())
    })?;
    // Of a long list what is closed and reported is gone.
    let total = u64::from(entry.recipients_total);
    let right = if entry.jobs.is_empty() { recipients <= total } else { recipients == total };
    if !right {
        wrong(format!("{recipients} recipients are there, {} are counted", entry.recipients_total));
    }
    if owed == 0 {
        wrong("kept, though no recipient is open and no report is owed".into());
    }
    Ok(())
}

/// Whether something is still to be done for this recipient: a delivery or a report.
pub fn is_owed(recipient: &kvmta::mail::envelope::Recipient) -> bool {
    use kvmta::mail::envelope::RecipientState::{Done, Failed, Open};
    match recipient.state {
        Open(_) => true,
        Done { reported, .. } | Failed { reported, .. } => !reported,
    }
}
