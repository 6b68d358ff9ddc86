//! How far a long dump is: one line on a terminal, written over; elsewhere nothing.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two times it is shown.
const EVERY: Duration = Duration::from_millis(200);

/// Counts messages.
pub struct Progress {
    is_terminal: bool,
    shown: Option<Instant>,
    begun: Instant,
    count: u64,
    total: u64,
}

impl Progress {
    /// Of so many messages.
    pub fn of(total: u64) -> Progress {
        let is_terminal = io::stderr().is_terminal();
        Progress { is_terminal, shown: None, begun: Instant::now(), count: 0, total }
    }

    /// One more is done.
    pub fn one_more(&mut self) {
        self.count += 1;
        if self.is_terminal && self.shown.unwrap_or(self.begun).elapsed() >= EVERY {
            self.shown = Some(Instant::now());
            eprint!("\r{} of {} messages ", self.count, self.total.max(self.count));
            // Should standard error be gone, nobody sees the line either.
            let _ = io::stderr().flush();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            eprint!("\r{:50}\r", "");
        }
    }
}
