//! A copy of the store, beside whoever holds it: rows of one snapshot, then the bodies they name.

use std::io;
use std::path::Path;

use kvmta::control::proto::{Answer, Request};
use kvmta::store::StoreError;
use kvmta::store::backup::{Copy, Named};

use super::queue::{DumpError, Holder};

/// Bodies asked for between two looks at which come next.
const NAMED: usize = 500;

/// What was copied.
pub struct Copied {
    /// Rows of the queue.
    pub rows: u64,
    /// Bodies beside it.
    pub bodies: u64,
    /// Octets of those.
    pub octets: u64,
    /// Messages whose rows cannot be read: copied, without their bodies.
    pub unreadable: Vec<String>,
}

/// Copies the store into an empty directory. Until it is complete there is no queue in it.
///
/// # Errors
/// `Store`.
pub fn backup(queue: &mut Holder, directory: &Path) -> Result<Copied, DumpError> {
    let lost = |error: io::Error| StoreError::Unavailable(error.to_string());
    let mut copy = Copy::create(directory)?;
    let mut copied = Copied { rows: 0, bodies: 0, octets: 0, unreadable: Vec::new() };
    queue.asked.ask(&Request::Backup).map_err(lost)?;
    loop {
        match queue.asked.answer().map_err(lost)? {
            Answer::Rows(rows) => {
                copied.rows += rows.len() as u64;
                copy.rows(rows)?;
            }
            Answer::Done { .. } => break,
            Answer::Failed { text, .. } => return Err(StoreError::Unavailable(text).into()),
            other => return super::queue::unexpected(&other).map_err(DumpError::Store),
        }
    }
    let mut after = None;
    loop {
        let named = copy.named(after, NAMED)?;
        let Some(last) = named.last() else { break };
        after = Some(last.id);
        for named in &named {
            body(queue, &mut copy, named)?;
            copied.bodies += 1;
            copied.octets += named.size;
        }
    }
    copied.unreadable = copy.unreadable().to_vec();
    copy.finish()?;
    Ok(copied)
}

fn body(queue: &mut Holder, copy: &mut Copy, named: &Named) -> Result<(), DumpError> {
    let mut offset = 0;
    while offset < named.size {
        let bytes = queue.octets(&named.body, offset)?;
        if bytes.is_empty() {
            let what = format!("body of {}", named.id);
            let detail = format!("{offset} octets are there, not {}", named.size);
            return Err(StoreError::Damaged { what, detail }.into());
        }
        copy.body(&named.body, offset, &bytes)?;
        offset += bytes.len() as u64;
    }
    Ok(())
}
