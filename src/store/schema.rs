//! The schema: every table, what states a message can be in, what always holds, and what a crash leaves.
//!
//! This page is the design of the store. All tables stand in `queue.redb`, each behind a prefix octet; bodies of
//! scheduled mail stand in `body-<generation>.redb` (`body.rs`). Both give disk space back by themselves (`engine/compact.rs`,
//! `evacuate.rs`). Keys are ordered tuples (`key.rs`), values are frozen
//! records (`record.rs`), and everything that belongs together changes in one batch (`engine/`).
//!
//! # States
//!
//! ```text
//!                      accept: one job, at most 96 KiB, room in INCOMING, destination not down
//!   arriving ────────────────────────────────────────────► INCOMING ──── settle: all done ───► gone
//!   (memory,       │                                           │
//!    STAGED,       │ accept: everything else                   │ settle: deferred; checkpoint; park; hold
//!    body file)    ▼                                           ▼
//!            MESSAGE, long list ── unfold, in batches ──► MESSAGE ── settle: last one out ──► gone
//!                  └──────────────────────────────────────► ▲  │
//!                                                   release │  │ hold
//!                                                           │  ▼
//!                                                        MESSAGE, held ── remove ──► gone
//! ```
//!
//! A *job* of a scheduled message is **ready** (a row in READY: some recipient is open and the message is not held) or
//! **closed** (every recipient `Done` or `Failed`). Who has it in hand is not stored: claims live in memory (`claims.rs`), the
//! files are locked by one process. That its attempt has begun is: for a scheduled job by a row in INFLIGHT, for a message of
//! INCOMING by being there (`inflight.rs`). A closed recipient is **unreported** while its sender is owed a word; a
//! message ends in the batch in which its last recipient is closed and nothing is unreported.
//!
//! # Why these tables
//!
//! *Two forms.* Most mail leaves at its first attempt. INCOMING costs it two puts and two deletes at the edge of the key
//! space, and no index. Only what is deferred pays for a schedule. Listings and operators see both through one iterator, in queue-ID
//! order (`read.rs`).
//!
//! What is only to be queued (DeliveryMode q of one message, or of the port it came through) goes to the schedule at once, due at the
//! next queue run.
//!
//! *Two levels of schedule.* AGENDA orders destinations, READY orders the jobs of one destination. A host that is down moves
//! one AGENDA key, not every message behind it; what is due next is two short range reads at any size of the queue. An
//! AGENDA key **may be early, never late**: early costs one look, late would be mail asleep. So what only makes the
//! next job later (a settle, a removal) leaves AGENDA alone, and what makes it earlier (accept, release) moves it.
//!
//! *Deadlines by destination.* A job that met something of its own is judged by its settle. What a destination that is down keeps
//! waiting meets nothing: those jobs are judged when the destination fails. So DEADLINE stands beside READY, by destination, and a
//! dead destination costs a short range read for each failure of it, whatever waits behind it. BY is the same for the few messages
//! that brought a time of their own.
//!
//! *No revision numbers.* A read-modify-write batch checks that the record it read is still exactly what it read
//! (`Check::Equals`). On the embedded engine the batch is made inside the write transaction and the check always holds.
//!
//! # Operations, and what a crash leaves
//!
//! A batch is there wholly or not at all, so a crash *during* a commit leaves what a crash before or after it leaves.
//!
//! | operation | batch | crash before the commit | crash after it | what the other side may see |
//! |---|---|---|---|---|
//! | `intake`, `write` | body chunks in a generation; STAGED rows of a long list | nothing of it; chunks and STAGED rows without a MESSAGE are swept at start | | the connection broke before the final reply: the client tries again |
//! | `accept`, small | put INCOMING + INCOMING_BODY, add COUNT | no message; the client had no 250 | the message, once; if the 250 was lost the client sends it again: a second message | never a 250 for mail that is not there |
//! | `accept`, scheduled | (body sealed first) put MESSAGE, READY, DEST, AGENDA, DEADLINE or HELD, add COUNT and BODYGEN | no message; the body is an orphan of its generation and goes with it | as above | as above |
//! | `load` | (body sealed, list staged first) as `accept`, scheduled, with the state it had elsewhere; put LOADED, LOADED_AT, and PROGRESS of a long list | not loaded: loading the same again loads it | loaded, and known: loading the same again does nothing | nothing: its source is removed after the commit |
//! | `unfold` | delete some STAGED; put RECIPIENTS, READY, DEST, AGENDA; change MESSAGE | goes on from the same place at start | goes on behind it | nothing |
//! | `claim` | none | forgotten: the job is due | | nothing |
//! | `begin` | put INFLIGHT of a scheduled job, before its attempt | nothing was sent | it is named at the next start, and tried again | nothing |
//! | `checkpoint` | change the recipients in MESSAGE or RECIPIENTS (INCOMING moves to MESSAGE first, with its INFLIGHT row) | **the recipients of the last transaction are sent again**: their host's last 250 came and our record of it did not | not sent again | one copy more, the only kind of duplicate there is |
//! | `settle`, done, INCOMING | delete INCOMING + INCOMING_BODY, add COUNT | the message is sent again (same row as above; at most `max_unsettled` jobs are in this state) | gone | as above |
//! | `settle`, deferred, INCOMING | (body sealed first) delete INCOMING rows, put the scheduled form | it is INCOMING still, and is attempted at start | scheduled | nothing |
//! | `settle`, scheduled | change MESSAGE or RECIPIENTS, move READY, delete INFLIGHT, and *reports as INCOMING messages*; the last one out deletes everything and lowers BODYGEN | job and reports as before: it is attempted again, the report is made then | all of it | a report is never lost and never made twice for one failure (if the last job finds more unreported than one report covers, reports on others are batches before its own, so it is open until the last) |
//! | `settle`, its report postponed | as settle, scheduled, with its recipients unreported and no report: the message cannot be read for one now | as settle, scheduled | nobody is tried again; the message stands in UNREPORTED, and the report is made when it can be read | nothing |
//! | `park` | as settle, deferred | INCOMING still | scheduled | nothing |
//! | `reroute` | move READY, change MESSAGE, RECIPIENTS or INCOMING | the old destination: routed again at its attempt | the new one | nothing |
//! | `set_destination`, `destination_failed`, `set_host` | DEST, AGENDA; HOST | the older state: a host known to be down is asked once more | | one connection more |
//! | `set_aside` | as `hold`, of one message; in INCOMING the row alone | it is found damaged once more | held | nothing |
//! | `hold` `release` `remove` `reschedule`, and `operate` with a relay | slices of at most 100 messages: MESSAGE, READY, DEST, AGENDA, DEADLINE, HELD... | the slices before it are done, the rest is not; the operator got no answer | as answered | a removed message in flight may still arrive |
//! | `evacuate` | (copies sealed first) change the body in MESSAGE, and BODYGEN; in slices | the copies are orphans of their generation | the old bodies are | nothing |
//! | compaction | none: what is live is counted, then `queue.redb.new` is filled beside the work, then renamed, before the next commit | the old file; the draft is removed at the start | the new file, with the same rows | nothing |
//! | `tally`, `reset_statistics` | add STAT, once in a minute; delete STAT, put META | that minute is not in the statistics | it is | nothing |
//! | `close` | delete META `open` and all of INFLIGHT | an unclean stop: the next start names what was in flight | a clean one | nothing |
//! | `backup` | none; the body files stay until it is done | nothing: a copy has its name only when it is whole | | nothing |
//! | a generation goes | its BODYGEN counters went to 0 with the last message; then the file is unlinked | a file without counters: unlinked at start | | nothing |
//!
//! # Invariants
//!
//! What holds in every committed state; `check.rs` verifies each of them on a live store. What cannot be read (I10) counts as whatever
//! makes the others hold: a job of a list that cannot be read may be open, and is not in READY once a change was carried past it.
//!
//! - **I1** A queue ID stands in at most one of INCOMING and MESSAGE, and is below `META ids`.
//! - **I2** A row of INCOMING has at least one recipient, all fresh, and its body in INCOMING_BODY, `size` octets in pieces
//!   0, 1, 2...; INCOMING_BODY has nothing else.
//! - **I3** READY has exactly one row for each job that has an open recipient and whose message is not held, under the
//!   job's destination and due time, and nothing else. (While an operator's change is carried through a long list, the jobs it has
//!   not come to may still be as they were.)
//! - **I4** A destination has a DEST row exactly when it has a READY row; its `agenda` is at most max(`not_before`, its earliest
//!   READY time); AGENDA has exactly the rows that DEST rows name.
//! - **I5** DEADLINE has exactly one row for each row of READY, under the job's destination and its message's class and arrival,
//!   and nothing else. The row of a job whose sender may still be warned says so; that of another may say so until the job is
//!   judged once more: it **may be early, never late**. HELD has exactly the held messages of MESSAGE.
//! - **I6** The jobs of a long list stand in RECIPIENTS under numbers below `jobs`, `open_jobs` of them have an open recipient;
//!   `unreported_since` is set exactly when one of them has something unreported. UNREPORTED has exactly the jobs of MESSAGE and
//!   RECIPIENTS with something unreported (of a list being removed, maybe fewer). STAGED
//!   holds recipients of lists that are unfolding, or of messages still arriving. LISTS has those that are unfolding or have a
//!   sweep. RECIPIENTS and LISTS have nothing else.
//! - **I7** A message in MESSAGE has an open recipient, something unreported, or is unfolding: what is finished is gone.
//! - **I8** COUNT holds the exact sums over INCOMING and MESSAGE (without long lists being removed).
//! - **I9** BODYGEN holds for each generation the exact number of messages whose body it has and their octets; the file is there.
//! - **I10** Every key and record can be read.
//! - **I11** INFLIGHT has a row only for a job that somebody has in hand, or that the process before had: then until the log has
//!   named it ([`Store::forget_interrupted`](super::Store::forget_interrupted)). META `open` is there while a process has the store.
//! - **I12** LOADED and LOADED_AT name the same origins. PROGRESS has only lists that are unfolding.
//! - **I13** BY has at most one row for each row of READY, under the job's destination and the time its message is to be delivered
//!   by, and nothing else. A job that is still to be judged by that time has its row; one whose sender needs no warning any more
//!   may keep it until it is judged once more: it **may be early, never late**.

use super::key::Table;
use crate::mail::envelope::TimeoutClass;
use crate::mail::job::{Destination, JobId};
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;

/// The format of tables and keys together. A store with another one is not touched. 2: DEADLINE goes by destination.
pub const FORMAT: u32 = 2;

/// Name → number: `format`; `ids`, above every queue ID given out so far; `open`, while a process has the store; `counting`.
pub const META: Table<String> = Table::new("META", 0x01);
/// Queue ID → envelope, destination, recipients of a message not yet attempted.
pub const INCOMING: Table<QueueId> = Table::new("INCOMING", 0x10);
/// (Queue ID, piece) → octets of the body of an INCOMING message. A table of its own, so that listing envelopes reads no bodies.
pub const INCOMING_BODY: Table<(QueueId, u32)> = Table::new("INCOMING_BODY", 0x11);
/// Queue ID → envelope, place of the body, and up to 100 recipients in their jobs; or the sums of a long list.
pub const MESSAGE: Table<QueueId> = Table::new("MESSAGE", 0x20);
/// Job → a job of a long list with its recipients, at most 1 000. Gone once the job is closed and all of it reported.
pub const RECIPIENTS: Table<JobId> = Table::new("RECIPIENTS", 0x21);
/// (Queue ID, destination, block) → recipients that are not in jobs yet. The order of the keys brings those of one destination together,
/// so no list is ever sorted in memory, and what is unfolded is what is left: deleting rows is the progress mark.
pub const STAGED: Table<(QueueId, Destination, u32)> = Table::new("STAGED", 0x22);
/// Job → nothing: the jobs with something unreported, so that a report finds them without reading the list, and a start finds the
/// messages whose report is due without reading any other.
pub const UNREPORTED: Table<JobId> = Table::new("UNREPORTED", 0x23);
/// Queue ID → nothing: the long lists that are being unfolded, or that an operator's change is being carried through. What
/// start-up goes on with.
pub const LISTS: Table<QueueId> = Table::new("LISTS", 0x24);
/// Queue ID → attempts made elsewhere at a loaded long list, for the jobs that are yet to be made of it.
pub const PROGRESS: Table<QueueId> = Table::new("PROGRESS", 0x25);
/// (Destination, due, job) → nothing: the jobs of one destination by the time of their next attempt.
pub const READY: Table<(Destination, Timestamp, JobId)> = Table::new("READY", 0x30);
/// Destination → when it may be tried, failures in a row, last trouble, and its time in AGENDA.
pub const DEST: Table<Destination> = Table::new("DEST", 0x31);
/// (Time, destination) → nothing: destinations by the time of their next attempt. What the scheduler looks at.
pub const AGENDA: Table<(Timestamp, Destination)> = Table::new("AGENDA", 0x32);
/// (Destination, class, no more warning, arrival, job) → nothing: the jobs of one destination by the age of their messages. When the
/// destination fails, those whose time is over are a short range, whatever the timeouts are by then and whatever waits beside them.
pub const DEADLINE: Table<(Destination, TimeoutClass, bool, Timestamp, JobId)> =
    Table::new("DEADLINE", 0x33);
/// (Destination, time, job) → nothing: the jobs of one destination whose message has a time of its own to be delivered by (DELIVERBY),
/// beside their rows in DEADLINE: when the destination fails, those whose time is over are a short range.
pub const BY: Table<(Destination, Timestamp, JobId)> = Table::new("BY", 0x36);
/// Queue ID → nothing: the held messages of MESSAGE. The reason stands in MESSAGE.
pub const HELD: Table<QueueId> = Table::new("HELD", 0x34);
/// Job → unclean stops it was in flight at before this attempt. A row is durable before the attempt can send anything, so that what may
/// arrive twice can be named after a crash, and what crashes us again and again can be told from its neighbours.
pub const INFLIGHT: Table<JobId> = Table::new("INFLIGHT", 0x35);
/// Name connected to → what the host said last. What hoststat prints.
pub const HOST: Table<String> = Table::new("HOST", 0x40);
/// Origin of a message that was loaded from another spool → its queue ID here: the same is not loaded twice.
pub const LOADED: Table<String> = Table::new("LOADED", 0x48);
/// (When it was loaded, origin) → nothing: what of LOADED is old enough to be forgotten.
pub const LOADED_AT: Table<(Timestamp, String)> = Table::new("LOADED_AT", 0x49);
/// Name → number, added to in the batch of what it counts.
pub const COUNT: Table<String> = Table::new("COUNT", 0x50);
/// (Code of a mailer or [`STAT_CONNECTIONS`], [`STAT_FROM`] or another figure) → number, likewise: what mailstats prints.
pub const STAT: Table<(u8, u8)> = Table::new("STAT", 0x51);
/// (Generation, [`BODY_MESSAGES`] or [`BODY_OCTETS`]) → number, likewise. Without numbers nobody names the file.
pub const BODYGEN: Table<(u32, u8)> = Table::new("BODYGEN", 0x60);

/// META: the version of the store.
pub const META_FORMAT: &str = "format";
/// META: above every queue ID given out.
pub const META_IDS: &str = "ids";
/// META: 1 from the first batch of a process to its clean close. Found at the start: the stop was unclean.
pub const META_OPEN: &str = "open";
/// META: since when STAT counts, milliseconds since 1970.
pub const META_COUNTING: &str = "counting";

/// COUNT: rows of INCOMING.
pub const COUNT_INCOMING: &str = "incoming";
/// COUNT: octets of the bodies in INCOMING_BODY.
pub const COUNT_INCOMING_OCTETS: &str = "incoming octets";
/// COUNT: rows of INCOMING that are held.
pub const COUNT_INCOMING_HELD: &str = "incoming held";
/// COUNT: rows of MESSAGE.
pub const COUNT_MESSAGE: &str = "message";
/// COUNT: octets of the messages in MESSAGE.
pub const COUNT_MESSAGE_OCTETS: &str = "message octets";
/// COUNT: rows of HELD.
pub const COUNT_HELD: &str = "held";

/// STAT: in place of a mailer: TCP connections.
pub const STAT_CONNECTIONS: u8 = 0;
/// STAT: messages of its senders; connections of clients.
pub const STAT_FROM: u8 = 1;
/// STAT: their KiB, each rounded up.
pub const STAT_FROM_KIB: u8 = 2;
/// STAT: deliveries; connections to hosts.
pub const STAT_TO: u8 = 3;
/// STAT: their KiB, each rounded up.
pub const STAT_TO_KIB: u8 = 4;
/// STAT: messages, or connections, refused.
pub const STAT_REJECTED: u8 = 5;
/// STAT: messages thrown away.
pub const STAT_DISCARDED: u8 = 6;
/// STAT: messages held when they were accepted.
pub const STAT_QUARANTINED: u8 = 7;

/// BODYGEN: messages whose body is in the generation.
pub const BODY_MESSAGES: u8 = 0;
/// BODYGEN: octets of those bodies.
pub const BODY_OCTETS: u8 = 1;
