//! `-q`, `-qf`, `-qI -qR -qS -qQ`: one run of the queue, asked of whoever holds it.

use std::sync::Arc;

use super::ask::{self, Log};
use super::exit::Exit;
use crate::config::Config;
use crate::control::proto::{Answer, Request};
use crate::queue::run::Run;

/// Runs the queue once.
pub fn run(config: &Arc<Config>, mut run: Run, log: Log<'_>) -> Exit {
    let result = ask::connect(config, log).and_then(|connected| {
        // Without a daemon the run is over when this process is, so it waits.
        run.wait |= connected.held.is_some();
        ask::exchange(connected, &Request::Run(run), &mut |answer| {
            if let Answer::Line(line) = answer {
                println!("{line}");
            }
            Ok(())
        })
    });
    ask::finish(result)
}
