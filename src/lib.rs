//! kvmta: a mail transfer agent for people who know sendmail, with its whole state in a crash-safe transactional
//! key-value store.
//!
//! # The way of a message
//!
//! The folders are its stations, so the way can be read off the folder list:
//!
//! ```text
//! a client ──► accept ──► store ──► queue ──► route ──► deliver ──► settle ──► gone, or back to the queue
//!              (SMTP,     (redb)    (which    (MX,       (SMTP,      (what an
//!              command)             job next) smart host) LMTP)      attempt makes of it)
//! ```
//!
//! | folder | what it is | may name |
//! |---|---|---|
//! | [`mail`] | the nouns: address, envelope, header, job, outcome, queue ID, status, time | nothing |
//! | [`smtp`] | the protocol, both halves, as machines without sockets and clocks | mail |
//! | [`store`] | the centre: every table, operation and invariant; the only folder that names redb | mail |
//! | [`config`] | sendmail.cf lines and -O options, then a checked [`config::Config`] | mail |
//! | [`world`] | the doors to outside: clock, DNS, network, TLS | mail, config |
//! | [`route`] | where mail goes, and whether we take it | mail, config, world |
//! | [`accept`] | station: sessions and submissions become durable messages | the above |
//! | [`deliver`] | station: an attempt becomes one outcome for each recipient | the above, not accept |
//! | [`settle`] | station, pure: outcomes become a verdict, reports included | mail, config |
//! | [`queue`] | station: which job next, and the life of one job ([`queue::runner`]) | all of the above |
//! | [`control`] | the Unix socket between the commands and whoever holds the store | the above |
//! | [`cli`] | the personalities: sendmail, mailq, the daemon | all |
//!
//! Arrows run one way; equals do not name each other; what has to go up goes as a noun over a bounded channel. A test
//! keeps this (`tests/it/tidy.rs`).
//!
//! # What is promised
//!
//! After a 250 (SMTP) or exit 0 (command line), message and envelope survive process kill, crash of the system and power cut
//! at any instant, on a disk that honours fsync. Every recipient ends in exactly one of delivered, bounced, still queued. A
//! duplicate is possible only for a recipient whose host's last word was not yet durable here. Any shortage gives 4xx before
//! acceptance. How the store keeps this is written in [`store::schema`]: tables, states, invariants, and what a crash leaves.
//!
//! # Read first
//!
//! [`store::schema`], [`queue::runner`] with `queue/attempt.rs`, [`smtp::server`], [`settle`].
//!
//! # Three rules of the house
//!
//! - An outcome is data, an error is not an outcome: a 550 from a peer is a fact to record, a failed fsync a reason to stop.
//! - Decide in a pure function, apply in one transaction: [`settle::decide`] and [`store::Store::settle`].
//! - Every queue, cache, buffer and loop has a limit with a name and a reason.

pub mod accept;
pub mod cli;
pub mod config;
pub mod control;
pub mod deliver;
pub mod mail;
pub mod maillog;
pub mod queue;
pub mod route;
pub mod settle;
pub mod smtp;
pub mod store;
pub mod world;
