//! Requests and answers on the control socket, and their frames.
//!
//! A frame is a length (4 octets, big-endian, at most [`FRAME_MAX`]) and that many octets of bincode. A connection
//! carries requests one after another, each followed by its answers until one that [`Answer::is_last`]. Both ends are of
//! one version: the first octet of either direction is [`VERSION`], that of the answering end first. Nothing here is stored.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::mail::envelope::Recipient;
use crate::mail::filter::Filter;
use crate::mail::history::Event;
use crate::mail::job::{BodyRef, Entry, EntryJob};
use crate::mail::loading::Loading;
use crate::mail::outcome::HostOutcome;
use crate::mail::queue_id::QueueId;
use crate::mail::selection::Selection;
use crate::mail::statistics::Statistics;
use crate::mail::submission::{Submission, SubmissionRefused};
use crate::mail::time::Timestamp;
use crate::queue::run::Run;
use crate::store::Counts;

/// Changes when a request or an answer does.
pub const VERSION: u8 = 3;
/// Longest frame. A page of listed entries and a chunk of a message stay far below it.
pub const FRAME_MAX: usize = 4 << 20;
/// Entries or jobs in one answer at most.
pub const PAGE_MAX: u32 = 500;
/// Octets of a message in one [`Chunk`].
pub const CHUNK: usize = 64 << 10;

/// What a personality asks for.
#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
pub enum Request {
    /// Take this message; its bytes follow as [`Chunk`]s, LF or CRLF line ends, until an empty one.
    Submit {
        /// The command line's part.
        submission: Submission,
        /// Answer only when it was tried: `-odi`, `-v`.
        wait: bool,
        /// With the dialogue: `-v`.
        verbose: bool,
    },
    /// Speak SMTP on this connection from now on (`-bs`). The address is that of the client on standard input, if it is one.
    Smtp {
        /// `192.0.2.1` of an inherited internet socket.
        client: Option<std::net::IpAddr>,
    },
    /// Entries in order of queue ID.
    List(Selection),
    /// Exact totals.
    Count,
    /// Run the queue once.
    Run(Run),
    /// Host status.
    Hosts,
    /// Up to so many entries after this one, those of long lists without their jobs. For root and the daemon's user.
    Page {
        /// None for the first page.
        after: Option<QueueId>,
        /// At most [`PAGE_MAX`] are given.
        limit: u32,
    },
    /// Up to so many jobs of a message with a long list.
    Jobs {
        /// Of which message.
        id: QueueId,
        /// None for the first page.
        after: Option<u32>,
        /// At most [`PAGE_MAX`] are given.
        limit: u32,
    },
    /// The octets of a message from here on, as many as fit one answer.
    Bytes {
        /// Where they are.
        body: BodyRef,
        /// From which octet.
        offset: u64,
    },
    /// Verify the invariants.
    Check,
    /// Take this message of another spool with its state, unless its origin was loaded before. After [`Answer::Ready`] its parts
    /// follow as [`LoadPart`]s. For root and the daemon's user.
    Load {
        /// What tells it from all others: at most [`ORIGIN_MAX`](crate::mail::loading::ORIGIN_MAX) octets.
        origin: String,
    },
    /// Every row of one snapshot, for a copy of the store. The bodies they name can be read by [`Request::Bytes`] for as long as the
    /// connection stands. For root and the daemon's user.
    Backup,
    /// Hold the selected messages for a reason, or let them go without one. For root and the daemon's user.
    Quarantine {
        /// Which. Those that are held only if it asks for them, as all do that are to be let go.
        selection: Selection,
        /// Why.
        reason: Option<String>,
    },
    /// Forget hosts not heard of for Timeout.hoststatus. For root and the daemon's user.
    PurgeHosts,
    /// What was counted for mailstats; with `reset`, for root and the daemon's user, counting begins anew.
    Statistics {
        /// `mailstats -p`
        reset: bool,
    },
    /// Somebody who wants to hold the store himself asks for it. Only a holder that is no daemon gives way.
    Yield,
    /// Finds messages and does something to them, page by page: an [`Answer::Tally`] after each page, the last one says it all.
    Operate {
        /// Which.
        filter: Filter,
        /// What.
        deed: Deed,
        /// Change nothing, only count.
        rehearse: bool,
        /// What to say of those it is about.
        show: Show,
    },
    /// What happened to messages, also to those that are gone. For root and the daemon's user.
    History(Filter),
}

/// What is said of the messages an operation is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum Show {
    /// Nothing but how many they are.
    Nothing,
    /// Their entries, those of long lists without their jobs.
    Entries,
    /// Their entries; that of a long list is the last of its answer, and its jobs follow.
    Recipients,
}

/// What an operator does to messages. It is done to those it applies to.
#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
pub enum Deed {
    /// Nothing.
    Look,
    /// Sets those aside that are not.
    Hold {
        /// Why.
        reason: String,
    },
    /// Puts held ones back, due at once.
    Release,
    /// Forgets them without a report.
    Remove,
    /// Gives them up now; their senders hear of it.
    Bounce {
        /// For the report, one line.
        words: String,
    },
    /// Makes those due now that are not held, and their destinations too.
    Requeue,
    /// Makes those due then that are not held.
    Reschedule {
        /// When.
        due: Timestamp,
    },
    /// Sends them to a relay, whatever routing says; none lets routing decide again. Due now, unless held.
    Reroute {
        /// In next-hop form: `[host]:port`, `domain`.
        relay: Option<String>,
    },
}

/// How far an operation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    /// Messages looked at.
    pub looked: u64,
    /// Messages selected that it applies to.
    pub selected: u64,
    /// Messages it was done to. The rest of those selected were gone by then.
    pub done: u64,
    /// Messages it could not be done to, as they are being attempted.
    pub in_hand: u64,
}

/// Part of a message on its way in; an empty one is its end.
#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Chunk(pub Vec<u8>);

/// Part of a message that is being loaded.
#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
pub enum LoadPart {
    /// Recipients, at most [`PAGE_MAX`], with the state they had.
    Recipients(Vec<Recipient>),
    /// The next octets, CRLF line ends, at most [`CHUNK`].
    Bytes(Vec<u8>),
    /// That was all of it.
    End(Box<Loading>),
    /// It cannot be read to its end: forget it.
    Abandon,
}

/// What the daemon answers.
#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
pub enum Answer {
    /// It is ours: durable. More may follow when the request waits.
    Accepted(QueueId),
    /// It is not taken.
    Refused(SubmissionRefused),
    /// The request cannot be done; the queue is as it was. With an exit status.
    Failed {
        /// What, on what, and what happens next.
        text: String,
        /// sysexits
        exit: u8,
    },
    /// A line for the caller's eyes: dialogue, progress.
    Line(String),
    /// A page of a listing.
    Entries(Vec<Entry>),
    /// More jobs of the last entry of the last page, whose list is long; those to come while it is still being unfolded among them.
    Jobs(Vec<EntryJob>),
    /// Totals.
    Counts(Counts),
    /// Host status.
    Hosts(Vec<HostOutcome>),
    /// Messages of a [`Request::Quarantine`] with the reason each was held for before.
    Quarantined(Vec<(QueueId, Option<String>)>),
    /// What was counted.
    Statistics(Statistics),
    /// Octets of a message; none at its end.
    Bytes(Vec<u8>),
    /// Send the parts of the message.
    Ready,
    /// The message to be loaded is ours and durable.
    Loaded {
        /// Its name.
        id: QueueId,
        /// It was so before this request, which changed nothing.
        before: bool,
    },
    /// Rows of the store: keys and values.
    Rows(Vec<(Vec<u8>, Vec<u8>)>),
    /// A broken invariant.
    Broken(String),
    /// How far an operation is.
    Tally(Tally),
    /// Named messages that are not in the queue.
    Missing(Vec<QueueId>),
    /// What happened, message by message; a message may come in parts.
    History(Vec<(QueueId, Vec<Event>)>),
    /// That was all; with the exit status of a request that waited.
    Done {
        /// sysexits
        exit: u8,
    },
}

impl Answer {
    /// Whether nothing follows.
    pub fn is_last(&self) -> bool {
        matches!(self, Answer::Refused(_) | Answer::Failed { .. } | Answer::Done { .. })
    }
}

/// One frame holding `message`, its length in front.
pub fn frame<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    bincode::serde::encode_into_std_write(message, &mut bytes, bincode::config::standard())
        .map_err(io::Error::other)?;
    let length = bytes.len() - 4;
    if length > FRAME_MAX {
        return Err(io::Error::other(format!("control frame of {length} octets is too long")));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(bytes)
}

/// Writes one frame.
pub async fn send<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> io::Result<()> {
    stream.write_all(&frame(message)?).await
}

/// Reads one frame; none at a clean end of the stream.
///
/// # Errors
/// `InvalidData` for what is no frame of ours, `UnexpectedEof` in the middle of one.
pub async fn receive<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let length = u32::from_be_bytes(length) as usize;
    if length > FRAME_MAX {
        return Err(invalid("a frame longer than any of ours"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    decode(&bytes).map(Some)
}

/// Decodes the octets of one frame.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    let config = bincode::config::standard().with_limit::<FRAME_MAX>();
    let (message, used) = bincode::serde::decode_from_slice(bytes, config)
        .map_err(|_| invalid("a frame that is not of this version"))?;
    if used == bytes.len() { Ok(message) } else { Err(invalid("a frame with something behind it")) }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("control socket: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[tokio::test]
    async fn frames_round_trip_and_garbage_is_an_error() {
        let request = Request::Run(Run { wait: true, ..Run::default() });
        let bytes = frame(&request).unwrap();
        let mut stream = &bytes[..];
        assert_eq!(receive::<Request>(&mut stream).await.unwrap(), Some(request));
        assert_eq!(receive::<Request>(&mut stream).await.unwrap(), None);
        for garbage in [&b"GET / HTTP/1.0\r\n\r\n"[..], &[0, 0, 0, 2, 200, 200], &[0, 0, 0, 9, 1]] {
            assert!(receive::<Request>(&mut &garbage[..]).await.is_err());
        }
    }

    proptest! {
        #[test]
        fn hostile_frames_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Answer>(&bytes);
        }
    }
}
