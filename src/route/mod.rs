//! Where mail goes and whether we take it: the decisions that a sendmail.cf makes in rulesets, built in.
//!
//! [`destination`], [`check_mail`] and [`check_rcpt`] are pure: configuration and an address in, an answer or the
//! refusal out. [`hops`] alone asks DNS, at each attempt anew. Nothing here connects, stores or logs. An interpreter
//! of rulesets would stand behind the same five functions.
//!
//! What it never does: relay for strangers because of how an address is spelt (`user%far@here`, `"user@far"@here`,
//! `far!user`), or call a recipient unknown because a name server was silent.

mod mx;
mod policy;
mod table;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::mail::outcome::Report;

pub use mx::hops;
pub use policy::{check_mail, check_rcpt};
pub use table::{NextHopError, destination, is_local, local_relay, relay};

/// The client of a session, as policy sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address; none for a local program.
    pub address: Option<IpAddr>,
    /// Its name from DNS, checked forward; none when there is none.
    pub name: Option<String>,
    /// What it called itself in EHLO.
    pub helo: String,
}

/// One way to the destination, to be tried in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hop {
    /// A host by name, with its addresses in the order to try.
    Host {
        /// Lower case, no final dot; `[192.0.2.1]` when it was given by address.
        name: String,
        /// Not empty.
        addresses: Vec<SocketAddr>,
    },
    /// A Unix socket.
    Path(PathBuf),
}

/// Why there is no hop. A report with a class-5 status is final for every recipient; class 4 is the destination's
/// trouble (DNS down).
pub type NoHop = Report;
