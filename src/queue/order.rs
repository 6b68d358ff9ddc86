//! QueueSortOrder: what goes first of the messages that are due at once. Pure.
//!
//! A queue of a million messages is never sorted. What holds: jobs of one destination that are read from the store together, a page
//! of READY or the messages of one explicit run that are in the window, start in this order. What does not: destinations take turns
//! whatever their jobs' ranks, so that no one waits for another; a page read earlier goes before a later one, so that nothing
//! is overtaken for ever; new mail goes first come, first served. MaxQueueRunSize is exact: [`Best`] sees every message.
//!
//! `host` and `shuffle` order by the domain of the first recipient, which matters where many domains share a destination (SmartHost);
//! elsewhere a destination is a domain, and its jobs are together anyway.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};

use crate::config::SortOrder;
use crate::mail::address::Address;
use crate::mail::envelope::Envelope;
use crate::mail::job::Job;
use crate::mail::queue_id::QueueId;
use crate::mail::time::Timestamp;

/// A place in the order: smaller goes first, equals in the order they came.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Rank {
    host: Box<str>,
    number: i64,
}

/// What an order looks at.
pub struct Facts<'a> {
    /// The message.
    pub id: QueueId,
    /// Its envelope.
    pub envelope: &'a Envelope,
    /// Its priority with all attempts.
    pub priority: i64,
    /// The end of the last attempt.
    pub last_attempt: Option<Timestamp>,
    /// The first open recipient.
    pub recipient: Option<&'a Address>,
}

/// An order, ready to rank.
#[derive(Clone, Debug)]
pub struct Ranking {
    by: SortOrder,
    /// What makes `shuffle` differ from one run to the next.
    seed: RandomState,
}

impl Ranking {
    /// By these words of QueueSortOrder.
    pub fn new(by: SortOrder) -> Ranking {
        Ranking { by, seed: RandomState::new() }
    }

    /// Whether [`Ranking::rank`] looks at the message: else the store need not be asked for it.
    pub fn reads(&self) -> bool {
        match self.by {
            SortOrder::Priority
            | SortOrder::Host
            | SortOrder::Time
            | SortOrder::Modification
            | SortOrder::Shuffle => true,
            SortOrder::FileName | SortOrder::Random | SortOrder::None => false,
        }
    }

    /// The rank of one whose message was not read: for the orders that need none.
    pub fn unread(&self, id: QueueId) -> Rank {
        match self.by {
            SortOrder::FileName => by_number(id.as_u64()),
            SortOrder::Random => Rank { number: fastrand::i64(..), ..Rank::default() },
            _ => Rank::default(),
        }
    }

    /// The rank of a message.
    pub fn rank(&self, of: &Facts<'_>) -> Rank {
        match self.by {
            SortOrder::Priority => Rank { number: of.priority, ..Rank::default() },
            SortOrder::Host => Rank { host: reversed(of.recipient).into(), number: of.priority },
            SortOrder::Time => by_number(of.envelope.arrival.as_millis()),
            // A control file is written at arrival and after each attempt.
            SortOrder::Modification => {
                by_number(of.last_attempt.unwrap_or(of.envelope.arrival).as_millis())
            }
            SortOrder::Shuffle => {
                let number = self.seed.hash_one(reversed(of.recipient)).cast_signed();
                Rank { number, ..Rank::default() }
            }
            SortOrder::FileName | SortOrder::Random | SortOrder::None => self.unread(of.id),
        }
    }

    /// The rank of a job.
    pub fn of_job(&self, job: &Job, retry_factor: i64) -> Rank {
        self.rank(&Facts {
            id: job.id.queue_id,
            envelope: &job.envelope,
            priority: job.envelope.priority_after(job.attempts, retry_factor),
            last_attempt: job.last_attempt,
            recipient: job.recipients.first().map(|(_, recipient)| &recipient.address),
        })
    }
}

fn by_number(number: u64) -> Rank {
    Rank { number: i64::try_from(number).unwrap_or(i64::MAX), ..Rank::default() }
}

/// `example.mx`: the domain's labels from the last to the first, in lower case; one organisation's hosts are neighbours.
fn reversed(address: Option<&Address>) -> String {
    let domain = address.and_then(Address::domain).unwrap_or_default().to_lowercase();
    domain.trim_end_matches('.').rsplit('.').collect::<Vec<_>>().join(".")
}

/// The first so many messages of an order, of as many as come.
#[derive(Debug)]
pub struct Best {
    wanted: usize,
    found: BTreeSet<(Rank, QueueId)>,
}

impl Best {
    /// Messages that [`Best`] chooses at most: some megabytes.
    pub const MAX: usize = 100_000;

    /// None found yet; at most [`Best::MAX`] are wanted.
    pub fn of(wanted: usize) -> Best {
        Best { wanted: wanted.min(Best::MAX), found: BTreeSet::new() }
    }

    /// Takes one into account.
    pub fn consider(&mut self, rank: Rank, id: QueueId) {
        self.found.insert((rank, id));
        if self.found.len() > self.wanted {
            self.found.pop_last();
        }
    }

    /// The best, first things first.
    pub fn in_order(self) -> impl Iterator<Item = QueueId> {
        self.found.into_iter().map(|(_, id)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address::ReversePath;
    use crate::mail::envelope::{BodyType, TimeoutClass};

    fn envelope(arrival: u64) -> Envelope {
        Envelope {
            reverse_path: ReversePath::Null,
            arrival: Timestamp::from_secs(arrival),
            relay: String::new(),
            protocol: String::new(),
            body_type: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            timeouts: TimeoutClass::Normal,
            precedence: 0,
            priority: 0,
            message_id: String::new(),
            header_len: 0,
            size: 0,
            body_lines: 0,
            relay_override: None,
            deliver_by: None,
        }
    }

    /// Four messages, their names in this order: (priority, arrival, last attempt, recipient).
    fn sorted(by: SortOrder) -> String {
        let order = Ranking::new(by);
        let messages = [
            ('a', 30, 100, None, "x@b.example"),
            ('b', 10, 300, Some(900), "x@a.test"),
            ('c', 40, 200, Some(500), "x@MX.b.example."),
            ('d', 20, 400, None, "x@a.example"),
        ];
        let mut ranked: Vec<(Rank, char)> = messages
            .into_iter()
            .map(|(name, priority, arrival, last, to)| {
                let facts = Facts {
                    id: QueueId::from_u64(u64::from(u32::from('z') - u32::from(name))),
                    envelope: &envelope(arrival),
                    priority,
                    last_attempt: last.map(Timestamp::from_secs),
                    recipient: Some(&to.parse().unwrap()),
                };
                if !order.reads() && by != SortOrder::Random {
                    assert_eq!(order.rank(&facts), order.unread(facts.id));
                }
                (order.rank(&facts), name)
            })
            .collect();
        ranked.sort_by(|a, b| a.0.cmp(&b.0));
        ranked.into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn every_word_orders() {
        for (by, expected) in [
            (SortOrder::Priority, "bdac"),
            (SortOrder::Host, "dacb"),
            (SortOrder::Time, "acbd"),
            (SortOrder::Modification, "adcb"),
            (SortOrder::FileName, "dcba"),
            (SortOrder::None, "abcd"),
        ] {
            assert_eq!(sorted(by), expected, "{by:?}");
        }
        for by in [SortOrder::Random, SortOrder::Shuffle] {
            let runs: BTreeSet<String> = (0..200).map(|_| sorted(by)).collect();
            assert!(runs.len() > 1, "{by:?} is always the same");
        }
    }

    #[test]
    fn shuffle_keeps_hosts_together() {
        let order = Ranking::new(SortOrder::Shuffle);
        let rank = |to: &str| {
            let (envelope, recipient) = (envelope(0), to.parse().unwrap());
            let id = QueueId::from_u64(1);
            order.rank(&Facts {
                id,
                envelope: &envelope,
                priority: 0,
                last_attempt: None,
                recipient: Some(&recipient),
            })
        };
        assert_eq!(rank("a@b.example"), rank("c@B.example"));
        assert_ne!(rank("a@b.example"), rank("a@c.example"));
    }

    #[test]
    fn chooses_the_best() {
        let mut best = Best::of(2);
        for (number, id) in [(5, 1), (3, 2), (9, 3), (3, 4), (4, 5)] {
            best.consider(Rank { number, ..Rank::default() }, QueueId::from_u64(id));
        }
        assert!(best.in_order().map(QueueId::as_u64).eq([2, 4]));
    }
}
