//! STATION queue: which job is tried when, and the life of one job.
//!
//! [`schedule`] is the active window, [`order`] what goes first in it, both pure;
//! [`run`] are explicit runs, [`runs`] those under way; [`deadline`] judges jobs whose time is over; [`judge`] makes a verdict of what
//! a job met; [`report`] has failures reported in time; [`bounce`] and [`reroute`] do what operators ask;
//! [`interrupted`] names what an unclean stop interrupted;
//! [`runner`] holds the loop and the life of one job, `runner/feed.rs` what fills the window. Everything else is in the store:
//! what does not fit into the window is found there again, and a crash loses nothing but the order of the next few seconds.

mod attempt;
mod audience;
pub mod bounce;
mod dead_letter;
mod deadline;
mod interrupted;
mod judge;
pub mod order;
mod report;
pub mod reroute;
pub mod run;
pub mod runner;
mod runs;
pub mod schedule;

use std::sync::Arc;

use crate::config::Config;
use crate::deliver::Mailers;
use crate::maillog::Maillog;
use crate::store::Store;
use crate::world::World;

/// What a job needs on its way, handed down; there are no globals.
#[derive(Clone)]
pub struct House {
    /// Settings.
    pub config: Arc<Config>,
    /// The queue.
    pub store: Store,
    /// The doors.
    pub world: World,
    /// The ways of delivering.
    pub mailers: Arc<Mailers>,
    /// The operator's log.
    pub maillog: Maillog,
}
