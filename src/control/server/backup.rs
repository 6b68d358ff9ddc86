//! Every row of one snapshot goes out by the control socket, for a copy of the store beside a running daemon.
//!
//! The snapshot is held for as long as its rows are read, which is their size (envelopes and indices, no bodies of scheduled mail)
//! at the speed of the reader; a reader that takes nothing for Timeout.control loses both it and the connection. The body
//! files stay until the connection ends.

use super::{Ending, NOT_YOURS, Visit, blocking};
use crate::control::proto::{self, Answer};
use crate::store::backup::Rows;

/// Octets of rows in one answer, and a row more.
const ANSWER_OCTETS: usize = 1 << 20;

impl Visit {
    pub(super) async fn backup(&mut self) -> Result<(), Ending> {
        if !self.is_trusted() {
            return self.fail(NOT_YOURS, 77).await;
        }
        let store = self.desk.house.store.clone();
        let (mut rows, kept) = blocking(move || store.backup()).await?;
        self.kept = Some(kept);
        loop {
            let (left, slice) = blocking(move || {
                let slice = rows.next()?;
                Ok::<(Rows, _), crate::store::StoreError>((rows, slice))
            })
            .await?;
            rows = left;
            if slice.is_empty() {
                return self.done(0).await;
            }
            let (mut answer, mut octets) = (Vec::new(), 0);
            for (key, value) in slice {
                octets += key.len() + value.len();
                answer.push((key, value));
                if octets >= ANSWER_OCTETS {
                    self.rows(std::mem::take(&mut answer)).await?;
                    octets = 0;
                }
            }
            if !answer.is_empty() {
                self.rows(answer).await?;
            }
        }
    }

    async fn rows(&mut self, rows: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), Ending> {
        let rows = Answer::Rows(rows);
        let wait = self.desk.house.config.timeouts.control;
        match tokio::time::timeout(wait, proto::send(&mut self.stream, &rows)).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(Ending::Connection),
        }
    }
}
